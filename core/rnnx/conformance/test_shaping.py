"""Operations that move numbers move every bit of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rnnx.conformance import judging
from rnnx.conformance.marks import dtypes
from rnnx.conformance.networks import Array, numpy_dtype
from rnnx.conformance.subject import Subject
from rnnx.conformance.unrolled import bits


def counted(dtype: str, *shape: int, start: float = 0.0) -> Array:
    """Return the numbers from `start` on, so that each place is told from the others."""
    numbers: Array = (np.arange(np.prod(shape, dtype=int)).reshape(shape) + start).astype(numpy_dtype(dtype))
    return numbers


def check(subject: Subject, found: Sequence[Any], expected: Sequence[Array], what: str) -> None:
    """Judge several results, exactly."""
    __tracebackhide__ = True
    assert len(found) == len(expected), f"{what} gives {len(found)} arrays, expected {len(expected)}"
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        judging.assert_exact(subject, one, np.asarray(other, order="C"), f"part {place} of {what}")


@dtypes
@pytest.mark.parametrize(
    ("parts", "axis"),
    [(2, 0), (3, -1), (4, 0), (1, 0), ((1, 5), -1), ((3, 1, 2), -1), ((1, 2, 1), 0), ([2, 2], 0), (2, 1), ((6,), 1)],
    ids=str,
)
def test_split(subject: Subject, dtype: str, parts: int | Sequence[int], axis: int) -> None:
    """Into so many equal parts, or parts of sizes, along the first axis or the last."""
    array = counted(dtype, 4, 6)
    cuts: Any = parts if isinstance(parts, int) else np.cumsum(parts)[:-1]
    found = subject.backend.split(subject.array(array), parts, axis)
    check(subject, found, np.split(array, cuts, axis), f"split into {parts} along {axis}")


@dtypes
def test_split_of_three_axes(subject: Subject, dtype: str) -> None:
    """The last axis is the default, of gates as a kernel has them."""
    array = counted(dtype, 2, 3, 8)
    check(subject, subject.backend.split(subject.array(array), 4), np.split(array, 4, -1), "split")
    sizes = subject.backend.split(subject.array(array), (1, 5, 2))
    check(subject, sizes, np.split(array, [1, 6], -1), "split into sizes")


@dtypes
def test_split_of_a_vector(subject: Subject, dtype: str) -> None:
    """As a fused cell's vector is cut up, also into parts of no size."""
    array = counted(dtype, 11)
    found = subject.backend.split(subject.array(array), [5, 0, 4, 2], 0)
    check(subject, found, np.split(array, [5, 5, 9]), "split of a vector")


@dtypes
@pytest.mark.parametrize("axis", [0, -1, 1])
def test_concat(subject: Subject, dtype: str, axis: int) -> None:
    """Arrays of different sizes along the axis, in order."""
    arrays = [counted(dtype, *((size, 3) if axis == 0 else (4, size)), start=40 * size) for size in (2, 1, 5)]
    found = subject.backend.concat([subject.array(array) for array in arrays], axis)
    check(subject, [found], [np.concatenate(arrays, axis)], f"concat along {axis}")


@dtypes
def test_concat_of_three_axes(subject: Subject, dtype: str) -> None:
    """The last axis is the default, as two directions are put side by side."""
    arrays = [counted(dtype, 2, 3, size, start=10 * size) for size in (4, 1)]
    found = subject.backend.concat([subject.array(array) for array in arrays])
    check(subject, [found], [np.concatenate(arrays, -1)], "concat")


@dtypes
@pytest.mark.parametrize("parts", [1, 2])
def test_concat_makes_a_new_array(subject: Subject, dtype: str, parts: int) -> None:
    """Even of one array: what is written to it does not reach what it was made of."""
    array = counted(dtype, 4, 3)
    given = subject.array(array)
    found = subject.backend.concat([given, *[subject.array(array[:0])] * (parts - 1)], 0)
    assert found is not given, "concat of one array returns that very array"
    values = subject.backend.to_numpy(found)
    if values.flags.writeable and np.shares_memory(values, subject.backend.to_numpy(given)):
        raise AssertionError("concat returns an array in the memory of the one it was given")


@dtypes
@pytest.mark.parametrize("shape", [(4, 3), (3,), (2, 3, 4), ()], ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_stack(subject: Subject, dtype: str, shape: tuple[int, ...], count: int) -> None:
    """Along a new first axis."""
    arrays = [counted(dtype, *shape, start=30 * index) for index in range(count)]
    found = subject.backend.stack([subject.array(array) for array in arrays])
    check(subject, [found], [np.stack(arrays)], f"stack of {shape}")


@dtypes
@pytest.mark.parametrize("shape", [(5, 4, 3), (1, 4), (3, 1, 2, 2)], ids=str)
def test_unstack(subject: Subject, dtype: str, shape: tuple[int, ...]) -> None:
    """The entries along the first axis."""
    array = counted(dtype, *shape)
    check(subject, subject.backend.unstack(subject.array(array)), list(array), f"unstack of {shape}")


@dtypes
@pytest.mark.parametrize("shape", [(12,), (-1,), (3, 4), (2, -1), (-1, 1, 6), (4, 3, 1), (1, 12)], ids=str)
def test_reshape(subject: Subject, dtype: str, shape: tuple[int, ...]) -> None:
    """Row-major, one size open."""
    array = counted(dtype, 4, 3)
    found = subject.backend.reshape(subject.array(array), shape)
    check(subject, [found], [array.reshape(shape)], f"reshape to {shape}")


@dtypes
def test_reshape_to_one_number(subject: Subject, dtype: str) -> None:
    """From one axis to none, and back."""
    backend, array = subject.backend, counted(dtype, 1, start=5)
    number = backend.reshape(subject.array(array), ())
    check(subject, [number, backend.reshape(number, (1, 1))], [array.reshape(()), array.reshape(1, 1)], "reshape")


@dtypes
def test_reshape_of_turned_arrays(subject: Subject, dtype: str) -> None:
    """Row-major in the order that the axes have, not in that of the memory."""
    backend, array = subject.backend, counted(dtype, 4, 3)
    turned = backend.swapaxes(subject.array(array), 0, 1)
    check(subject, [backend.reshape(turned, (2, 6))], [array.T.reshape(2, 6)], "reshape of a turned array")


@dtypes
@pytest.mark.parametrize("axes", [(0, 1), (1, 0), (0, 2), (1, 2), (-1, -2), (0, -1), (1, 1)], ids=str)
def test_swapaxes(subject: Subject, dtype: str, axes: tuple[int, int]) -> None:
    """Any two axes; the third stays."""
    array = counted(dtype, 2, 3, 4)
    found = subject.backend.swapaxes(subject.array(array), *axes)
    check(subject, [found], [np.swapaxes(array, *axes)], f"swapaxes {axes}")


def turned(array: Array, lengths: Sequence[int]) -> Array:
    """Return (T, N, ...) with each row's first steps reversed, and the others as they are."""
    result: Array = array.copy()
    for row, length in enumerate(lengths):
        result[:length, row] = array[:length, row][::-1]
    return result


@dtypes
@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3), (5, 4, 3, 2), (1, 4, 3), (5, 1, 3)], ids=str)
def test_reverse(subject: Subject, dtype: str, shape: tuple[int, ...]) -> None:
    """All of it."""
    array = counted(dtype, *shape)
    check(subject, [subject.backend.reverse(subject.array(array), None)], [array[::-1]], f"reverse of {shape}")


@dtypes
@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3), (5, 4, 3, 2)], ids=str)
@pytest.mark.parametrize("lengths", [(3, 0, 5, 1), (5, 5, 5, 5), (0, 0, 0, 0), (2, 4, 4, 3)], ids=str)
def test_reverse_within_lengths(subject: Subject, dtype: str, shape: tuple[int, ...], lengths: tuple[int, ...]) -> None:
    """Each row within its own length; what lies past it stays."""
    array = counted(dtype, *shape)
    found = subject.backend.reverse(subject.array(array), subject.array(np.array(lengths)))
    check(subject, [found], [turned(array, lengths)], f"reverse of {shape} within {lengths}")


@dtypes
@pytest.mark.parametrize("lengths", [None, (3, 0, 5, 1)], ids=str)
def test_reverse_undoes_itself(subject: Subject, dtype: str, lengths: tuple[int, ...] | None) -> None:
    """Twice is not at all."""
    backend, array = subject.backend, counted(dtype, 5, 4, 3)
    within = None if lengths is None else subject.array(np.array(lengths))
    twice = backend.reverse(backend.reverse(subject.array(array), within), within)
    check(subject, [twice], [array], "reverse, twice,")


@dtypes
def test_indexing(subject: Subject, dtype: str) -> None:
    """A step of a sequence, a new last axis, a range of rows: what cells and plans write."""
    array = counted(dtype, 5, 4, 3)
    given = subject.array(array)
    found = [given[0], given[4], given[-1], given[..., None], given[1:3], given[..., :1]]
    check(subject, found, [array[0], array[4], array[-1], array[..., None], array[1:3], array[..., :1]], "indexing")


def test_a_mask_is_indexed(subject: Subject) -> None:
    """Booleans, too: a step's, and a new last axis."""
    backend, lengths = subject.backend, np.array([3, 0, 5, 1])
    mask, expected = backend.steps_before(subject.array(lengths), 5), np.arange(5)[:, None] < lengths
    for found, values in ((mask[2], expected[2]), (mask[..., None], expected[..., None])):
        np.testing.assert_array_equal(np.asarray(backend.to_numpy(found)), values)
    rows = backend.reshape(mask[2], (-1, 1))
    np.testing.assert_array_equal(np.asarray(backend.to_numpy(rows)), expected[2][:, None])


@dtypes
def test_bits_that_are_not_numbers_are_moved(subject: Subject, dtype: str) -> None:
    """Zeros keep their signs; NaN and infinity stay where they are put."""
    backend = subject.backend
    array = np.array([[0.0, -0.0, np.nan], [np.inf, -np.inf, 1e-7]]).astype(numpy_dtype(dtype))
    given = subject.array(array)
    found = [backend.concat([given, given], 0), backend.swapaxes(given, 0, 1), backend.stack([given])]
    found += [backend.reshape(given, (3, 2)), backend.split(given, 3, -1)[1], backend.reverse(given, None)]
    expected = [np.concatenate([array, array]), array.T, array[None], array.reshape(3, 2), array[:, 1:2], array[::-1]]
    check(subject, found, expected, "moving")


@dtypes
def test_arguments_are_left_alone(subject: Subject, dtype: str) -> None:
    """Nothing is moved in place."""
    backend, array = subject.backend, counted(dtype, 4, 4, 3)
    given, lengths = subject.array(array), subject.array(np.array([3, 0, 4, 1]))
    before = bits(subject, [given, lengths])
    backend.reverse(given, lengths)
    backend.reverse(given, None)
    backend.swapaxes(given, 0, 1)
    backend.concat([given, given], 0)
    backend.split(given, 3)
    backend.reshape(given, (-1,))
    backend.stack([given, given])
    backend.unstack(given)
    judging.assert_unchanged(bits(subject, [given, lengths]), before, "arguments after they were used")

"""`scan` steps in order, hands on what is carried, and numbers the steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rnnx.conformance import judging
from rnnx.conformance.dtypes import usual
from rnnx.conformance.marks import dtypes
from rnnx.conformance.networks import Array, numpy_dtype
from rnnx.conformance.subject import Subject


def counted(subject: Subject, steps: int, dtype: str, width: int = 2) -> tuple[Any, Array]:
    """Return inputs (T, N, C) in which each place has a number of its own, and the same in NumPy."""
    numbers = (np.arange(steps * 3 * width).reshape(steps, 3, width) % 97 / 8).astype(numpy_dtype(dtype))
    return subject.array(numbers), numbers


@dtypes
@pytest.mark.parametrize("steps", [1, 2, 5, 8])
def test_steps_come_in_order(subject: Subject, dtype: str, steps: int) -> None:
    """Each step reads its own inputs, and outputs are stacked in the order of the steps."""
    inputs, numbers = counted(subject, steps, dtype)
    start = subject.array(np.zeros((3, 2), numpy_dtype(dtype)))
    outputs, carry = subject.backend.scan(lambda time, x, c: (x + x, c), inputs, [start])
    judging.assert_exact(subject, outputs, numbers + numbers, "outputs")
    judging.assert_exact(subject, carry[0], np.zeros((3, 2), numpy_dtype(dtype)), "what was carried")


@dtypes
def test_what_is_carried_is_handed_on(subject: Subject, dtype: str) -> None:
    """A sum of all so far, which halves at each step: the order shows."""
    inputs, numbers = counted(subject, 5, dtype)

    def step(time: Any, current: Any, carry: list[Any]) -> tuple[Any, list[Any]]:
        total = carry[0] * 0.5 + current
        return total, [total]

    start = np.full((3, 2), 4).astype(numpy_dtype(dtype))
    outputs, carry = subject.backend.scan(step, inputs, [subject.array(start)])
    expected, total = [], start.astype(np.float64)
    for current in numbers.astype(np.float64):
        total = total * 0.5 + current
        expected.append(total)
    judging.assert_close(subject, outputs, np.stack(expected), dtype, "outputs")
    judging.assert_close(subject, carry[0], total, dtype, "what is carried at the end")


@dtypes
def test_carried_arrays_keep_their_places(subject: Subject, dtype: str) -> None:
    """Several, of different shapes; outputs of yet another shape."""
    backend = subject.backend
    inputs, numbers = counted(subject, 4, dtype)
    kind = numpy_dtype(dtype)
    starts = [np.zeros((3, 2), kind), np.full((3, 1), 2).astype(kind), np.full((4,), 3).astype(kind)]

    def step(time: Any, current: Any, carry: list[Any]) -> tuple[Any, list[Any]]:
        one, two, three = carry
        return backend.concat([current, two, one]), [one + current, two + 1.0, three * 2.0]

    outputs, carry = backend.scan(step, inputs, [subject.array(start) for start in starts])
    wide = numbers.astype(np.float64)
    before = np.concatenate([np.zeros((1, 3, 2)), np.cumsum(wide, 0)[:-1]])
    twos = np.broadcast_to(2.0 + np.arange(4)[:, None, None], (4, 3, 1))
    judging.assert_close(subject, outputs, np.concatenate([wide, twos, before], -1), dtype, "outputs")
    for found, expected in zip(carry, [wide.sum(0), np.full((3, 1), 6.0), np.full(4, 48.0)], strict=True):
        judging.assert_close(subject, found, expected, dtype, "what is carried at the end")


def test_nothing_may_be_carried(subject: Subject, dtype_here: str) -> None:
    """An empty list comes back as one."""
    inputs, numbers = counted(subject, 3, dtype_here)
    outputs, carry = subject.backend.scan(lambda time, x, c: (-x, c), inputs, [])
    judging.assert_exact(subject, outputs, -numbers, "outputs")
    assert list(carry) == []


def test_steps_know_their_number(subject: Subject, dtype_here: str) -> None:
    """The number of a step picks its row of a mask, as masked cells do it."""
    backend = subject.backend
    inputs, numbers = counted(subject, 5, dtype_here)
    lengths = np.array([3, 0, 5])
    mask = backend.steps_before(subject.array(lengths), 5)

    def step(time: Any, current: Any, carry: list[Any]) -> tuple[Any, list[Any]]:
        rows = backend.reshape(mask[time], (-1, 1))
        return backend.where(rows, current, backend.zeros((), current)), carry

    outputs, _ = backend.scan(step, inputs, [])
    holds = (np.arange(5)[:, None] < lengths)[..., None]
    judging.assert_exact(subject, outputs, np.where(holds, numbers, numbers.dtype.type(0)), "outputs")


@pytest.mark.parametrize("steps", [1, 5])
def test_steps_fold_their_own_seeds(subject: Subject, dtype_here: str, steps: int) -> None:
    """What a step draws is what its number and seed draw outside of the loop."""
    backend = subject.backend
    inputs, numbers = counted(subject, steps, dtype_here, width=200)

    def step(time: Any, current: Any, carry: list[Any]) -> tuple[Any, list[Any]]:
        keep = backend.bernoulli(backend.fold(29, time), 0.5, (3, 200), current)
        return backend.where(keep, current + 1.0, backend.zeros((), current)), carry

    outputs, _ = backend.scan(step, inputs, [])
    kept = subject.numpy(outputs) != 0
    like = subject.array(numbers[:1])
    for time in range(steps):
        alone = backend.to_numpy(backend.bernoulli(backend.fold(29, time), 0.5, (3, 200), like))
        np.testing.assert_array_equal(kept[time], np.asarray(alone), f"draw of step {time}")
    shares = kept.mean((1, 2))
    assert (np.abs(shares - 0.5) < 6 * 0.5 / 600**0.5).all(), f"shares of the steps are {shares}"


def test_inputs_are_left_alone(subject: Subject, dtype_here: str) -> None:
    """Neither the inputs nor what is carried at first is written to."""
    inputs, numbers = counted(subject, 4, dtype_here)
    start = numbers[0].copy()
    given = subject.array(start)
    subject.backend.scan(lambda time, x, c: (x + c[0], [c[0] + x]), inputs, [given])
    judging.assert_exact(subject, inputs, numbers, "inputs after a scan")
    judging.assert_exact(subject, given, start, "what was carried at first, after a scan")


def test_long_loops(subject: Subject, dtype_here: str) -> None:
    """Three hundred steps."""
    inputs, numbers = counted(subject, 300, dtype_here)
    start = subject.array(np.zeros((3, 2), numbers.dtype))
    outputs, carry = subject.backend.scan(lambda time, x, c: (c[0], [x]), inputs, [start])
    expected = np.concatenate([np.zeros((1, 3, 2), numbers.dtype), numbers[:-1]])
    judging.assert_exact(subject, outputs, expected, "outputs")
    judging.assert_exact(subject, carry[0], numbers[-1], "what is carried at the end")


@pytest.fixture
def dtype_here(subject: Subject) -> str:
    """Return a dtype that the backend declares."""
    return usual(subject)

"""Arrays come in and go out bit for bit, and say what they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rnnx.conformance import judging, networks
from rnnx.conformance.dtypes import usual
from rnnx.conformance.marks import dtypes
from rnnx.conformance.networks import Array, numpy_dtype
from rnnx.conformance.subject import Subject


def numbers(dtype: str, shape: tuple[int, ...] = (3, 4), seed: int = 1) -> Array:
    """Return random numbers of a dtype."""
    drawn: Array = np.random.default_rng(seed).normal(size=shape).astype(numpy_dtype(dtype))
    return drawn


def finfo(dtype: str) -> Any:
    """Return the limits of a dtype."""
    if dtype != "bfloat16":
        return np.finfo(dtype)
    import ml_dtypes  # NumPy's own finfo does not know bfloat16

    return ml_dtypes.finfo(numpy_dtype(dtype))  # type: ignore[no-untyped-call]


def special(dtype: str) -> Array:
    """Return the numbers of a dtype that are easily lost: zeros of both signs, what is not finite, the extremes."""
    limits: Any = finfo(dtype)
    tiny = float(limits.smallest_subnormal)
    found = [0.0, -0.0, np.inf, -np.inf, np.nan, float(limits.max), float(limits.min), tiny, -tiny, float(limits.tiny)]
    return np.array([*found, 1.0, 1.0 + float(limits.eps)]).astype(numpy_dtype(dtype))


def held(dtype: str, how: str) -> Array:
    """Return an array as NumPy may hold one in memory."""
    return HELD[how](numbers(dtype, (4, 3, 6)))


def _read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


def _unaligned(array: Array) -> Array:
    shifted: Array = np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:].view(array.dtype)
    return shifted.reshape(array.shape)


HELD: dict[str, Callable[[Array], Array]] = {
    "fortran": np.asfortranarray,
    "reversed": lambda array: array[::-1, :, ::-1],
    "strided": lambda array: array[:, 1:, ::2],
    "turned": lambda array: array.transpose(2, 0, 1),
    "broadcast": lambda array: np.broadcast_to(array[:, :1], (4, 5, 6)),
    "read_only": _read_only,
    "unaligned": _unaligned,
    "scalar": lambda array: array[0, 0, 0, ...],
    "single": lambda array: array[:1, :1, :1],
    "no_rows": lambda array: array[:0, 0],
    "nothing": lambda array: array[:2, :0],
}


@dtypes
@pytest.mark.parametrize("how", HELD)
def test_a_round_trip_keeps_every_bit(subject: Subject, dtype: str, how: str) -> None:
    """However NumPy holds the array in memory."""
    array = held(dtype, how)
    judging.assert_exact(subject, subject.array(array), array, f"a {how} array")


@dtypes
def test_a_round_trip_keeps_special_numbers(subject: Subject, dtype: str) -> None:
    """Zeros of both signs, denormals, infinities, NaN and the extremes."""
    array = special(dtype)
    judging.assert_exact(subject, subject.array(array), array, "what is special")


@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_lengths_go_in_and_out(subject: Subject, kind: str) -> None:
    """Whole numbers stay whole numbers, and the same ones."""
    array = np.array([3, 0, 5, 1, 70000], kind)
    found = subject.array(array)
    assert subject.backend.owns(found)
    assert subject.backend.dtype(found).startswith("int"), f"lengths of {kind} became {subject.backend.dtype(found)}"
    back = np.asarray(subject.backend.to_numpy(found))
    assert back.dtype.kind == "i", f"to_numpy makes {back.dtype} of lengths"
    np.testing.assert_array_equal(back, array)


def test_booleans_go_in_and_out(subject: Subject) -> None:
    """A mask stays a mask."""
    array = np.array([[True, False, True], [False, False, True]])
    back = np.asarray(subject.backend.to_numpy(subject.array(array)))
    assert back.dtype == np.bool_, f"to_numpy makes {back.dtype} of booleans"
    np.testing.assert_array_equal(back, array)


@dtypes
def test_from_numpy_copies(subject: Subject, dtype: str) -> None:
    """What is done to NumPy's array later does not reach the backend's."""
    array = numbers(dtype)
    before = array.copy()
    found = subject.array(array)
    array[...] = 7
    judging.assert_exact(subject, found, before, "an array whose source was changed after from_numpy")


@dtypes
def test_from_numpy_copies_views(subject: Subject, dtype: str) -> None:
    """Nor where it was a view of another array."""
    base = numbers(dtype, (4, 6))
    array = base[1:3, :4]
    before = array.copy()
    found = subject.array(array)
    base[...] = 7
    judging.assert_exact(subject, found, before, "an array whose source was changed after from_numpy")


@dtypes
def test_two_arrays_of_one_source_are_apart(subject: Subject, dtype: str) -> None:
    """Two arrays made of one have nothing to do with each other, nor has what to_numpy gives with either."""
    array = numbers(dtype)
    one, other = subject.array(array), subject.array(array)
    taken = subject.backend.to_numpy(one)
    if taken.flags.writeable:
        taken[...] = 7
    judging.assert_exact(subject, other, array, "an array made of what another was made of")


@dtypes
def test_from_numpy_leaves_its_source(subject: Subject, dtype: str) -> None:
    """The array that is read stays as it was."""
    array = held(dtype, "strided")
    before = array.tobytes()
    subject.array(array)
    assert array.tobytes() == before


@dtypes
def test_dtypes_are_named_as_numpy_names_them(subject: Subject, dtype: str) -> None:
    """`dtype` and what to_numpy gives say the same."""
    found = subject.array(numbers(dtype))
    assert subject.backend.dtype(found) == dtype
    assert str(subject.backend.to_numpy(found).dtype) == dtype


@dtypes
@pytest.mark.parametrize("shape", [(), (3,), (1, 2), (4, 3, 2), (0, 2)])
def test_shapes(subject: Subject, dtype: str, shape: tuple[int, ...]) -> None:
    """`shape` is a tuple of Python's integers, as is what the array itself says."""
    found = subject.array(numbers(dtype, shape))
    sizes = subject.backend.shape(found)
    assert sizes == shape
    assert isinstance(sizes, tuple)
    assert all(type(size) is int for size in sizes), f"sizes are {[type(size).__name__ for size in sizes]}"
    assert tuple(found.shape) == shape


def test_it_owns_its_arrays(subject: Subject, dtype_here: str) -> None:
    """Of every shape and kind."""
    arrays = [numbers(dtype_here, shape) for shape in ((), (3,), (2, 2), (0,))] + [np.array([1, 2]), np.array([True])]
    for array in arrays:
        assert subject.backend.owns(subject.array(array)), f"its own array {array!r} is not owned"


@pytest.mark.parametrize("other", [None, 1, 1.5, True, "text", b"bytes", [1.0], (1.0,), {"a": 1}, object(), np.ndarray])
def test_it_owns_nothing_else(subject: Subject, other: object) -> None:
    """Neither Python's objects nor classes of arrays."""
    assert subject.backend.owns(other) is False


def test_it_does_not_own_numpy_arrays(subject: Subject) -> None:
    """NumPy's arrays and scalars are NumPy's; nothing is converted silently."""
    if subject.info.framework == "numpy":
        pytest.skip(f"{subject.name} is made of NumPy's arrays")
    for other in (np.zeros(3), np.float32(1), np.zeros((), np.float64)):
        assert subject.backend.owns(other) is False, f"it says that it owns a {type(other).__name__} of NumPy"


def test_results_are_owned(subject: Subject, dtype_here: str) -> None:
    """What its operations return is its own, too."""
    backend = subject.backend
    array, condition = subject.array(numbers(dtype_here)), subject.array(np.array([True, False, True, True]))
    results = [backend.tanh(array), backend.zeros((2,), array), backend.where(condition, array, array), array * 2.0]
    results += [*backend.split(array, 2, -1), *backend.unstack(array), array[0], backend.bernoulli(1, 0.5, (2,), array)]
    for result in results:
        assert backend.owns(result), f"a {type(result).__name__} that it returned is not owned"


def test_devices(subject: Subject) -> None:
    """Devices are names, and the one under test is among them."""
    names = subject.backend.devices()
    assert isinstance(names, tuple)
    assert names
    assert all(isinstance(name, str) and name for name in names)
    assert len(set(names)) == len(names)
    assert subject.device in names


def test_arrays_are_on_the_device(subject: Subject, dtype_here: str) -> None:
    """Where they were put, or on the first there is; and so is what comes of them."""
    backend, array = subject.backend, numbers(dtype_here)
    here, first = backend.from_numpy(array, subject.device), backend.from_numpy(array)
    found = [backend.device(here), backend.device(backend.tanh(here)), backend.device(backend.zeros((2, 3), here))]
    found += [backend.device(backend.bernoulli(1, 0.5, (2,), here)), backend.device(here * 2.0)]
    assert set(found) <= {subject.device, None}, f"arrays of {subject.device} are on {found}"
    assert backend.device(first) in (backend.devices()[0], None)


def test_a_device_that_there_is_not(subject: Subject, dtype_here: str) -> None:
    """Is refused, and not taken for another."""
    with pytest.raises(Exception, match=r".+"):  # the framework's own error is as good as rnnx's
        subject.backend.from_numpy(numbers(dtype_here), "no_such_device:7")


@dtypes
def test_values_are_known(subject: Subject, dtype: str) -> None:
    """An array that has values says so."""
    assert subject.backend.known(subject.array(networks.rounded([1.0, 2.0], dtype).astype(numpy_dtype(dtype)))) is True


@pytest.fixture
def dtype_here(subject: Subject) -> str:
    """Return a dtype that the backend declares."""
    return usual(subject)

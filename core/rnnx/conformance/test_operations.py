"""Every operation of numbers, alone, against NumPy in float64."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rnnx.conformance import equations, judging
from rnnx.conformance.marks import dtypes, wide_dtypes
from rnnx.conformance.networks import Array, numpy_dtype, rounded
from rnnx.conformance.subject import Subject

#: What each function is, in float64.
FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": equations.sigmoid,
    "tanh": np.tanh,
    "relu": lambda x: np.where(np.isnan(x), x, np.where(x > 0, x, 0.0)),
    "softplus": lambda x: np.where(np.isnan(x), x, np.logaddexp(np.nan_to_num(x, posinf=np.inf, neginf=-np.inf), 0.0)),
}

functions = pytest.mark.parametrize("name", FUNCTIONS)


def drawn(dtype: str, shape: tuple[int, ...], seed: int = 1, scale: float = 1.0) -> Array:
    """Return random numbers in float64 that the dtype holds exactly."""
    return rounded(np.random.default_rng(seed).normal(size=shape) * scale, dtype)


def its(subject: Subject, array: Array, dtype: str) -> Any:
    """Return the numbers as an array of the backend."""
    return subject.array(array.astype(numpy_dtype(dtype)))


# -- affine -----------------------------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("shape", [(4, 3), (5, 4, 3), (1, 3), (1, 1, 3), (2, 5, 4, 3), (0, 3), (3,)], ids=str)
def test_affine(subject: Subject, dtype: str, bias: bool, shape: tuple[int, ...]) -> None:
    """``inputs @ weight.T + bias`` over the last axis, whatever is before it."""
    inputs, weight, offset = drawn(dtype, shape), drawn(dtype, (7, 3), 2), drawn(dtype, (7,), 3)
    expected = inputs @ weight.T + (offset if bias else 0.0)
    arrays = [its(subject, array, dtype) for array in (inputs, weight, offset)]
    found = subject.backend.affine(arrays[0], arrays[1], arrays[2] if bias else None)
    judging.assert_close(subject, found, expected, dtype, f"affine of inputs {shape}")


@dtypes
def test_affine_of_a_square_weight(subject: Subject, dtype: str) -> None:
    """A weight that could be turned unseen is not."""
    inputs, weight = drawn(dtype, (3, 3)), drawn(dtype, (3, 3), 2)
    found = subject.backend.affine(its(subject, inputs, dtype), its(subject, weight, dtype), None)
    judging.assert_close(subject, found, inputs @ weight.T, dtype, "affine of a square weight")


@dtypes
@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 5, 1), (3, 1, 5), (2, 257, 3), (33, 64, 65)], ids=str)
def test_affine_of_any_size(subject: Subject, dtype: str, sizes: tuple[int, int, int]) -> None:
    """Rows, inputs and outputs of one, and of many."""
    rows, width, units = sizes
    inputs, weight, bias = drawn(dtype, (rows, width)), drawn(dtype, (units, width), 2), drawn(dtype, (units,), 3)
    arrays = [its(subject, array, dtype) for array in (inputs, weight, bias)]
    found = subject.backend.affine(*arrays)
    judging.assert_close(subject, found, inputs @ weight.T + bias, dtype, f"affine of sizes {sizes}")


@dtypes
def test_affine_of_arrays_held_otherwise(subject: Subject, dtype: str) -> None:
    """Inputs and weight that are turned views, where the framework has them."""
    backend, inputs, weight = subject.backend, drawn(dtype, (3, 4)), drawn(dtype, (3, 7), 2)
    one, other = (backend.swapaxes(its(subject, array, dtype), 0, 1) for array in (inputs, weight))
    judging.assert_close(subject, backend.affine(one, other, None), inputs.T @ weight, dtype, "affine of turned arrays")


@dtypes
def test_affine_keeps_nan_in_its_row(subject: Subject, dtype: str) -> None:
    """One row's NaN and infinity are no other's."""
    inputs, weight, bias = drawn(dtype, (4, 3)), drawn(dtype, (7, 3), 2), drawn(dtype, (7,), 3)
    inputs[1, 0] = np.nan
    with np.errstate(invalid="ignore"):
        expected = inputs @ weight.T + bias
    arrays = [its(subject, array, dtype) for array in (inputs, weight, bias)]
    found = subject.backend.affine(*arrays)
    judging.assert_close(subject, found, expected, dtype, "affine of a row with NaN")


# -- functions --------------------------------------------------------------------------------------------------------


@dtypes
@functions
@pytest.mark.parametrize("shape", [(9,), (1, 1), (4, 3), (2, 3, 4), (0, 3)], ids=str)
def test_functions(subject: Subject, dtype: str, name: str, shape: tuple[int, ...]) -> None:
    """Numbers of an ordinary size, of both signs."""
    array = drawn(dtype, shape, scale=3.0)
    found = getattr(subject.backend, name)(its(subject, array, dtype))
    judging.assert_close(subject, found, FUNCTIONS[name](array), dtype, name)


@dtypes
@functions
def test_functions_at_their_extremes(subject: Subject, dtype: str, name: str) -> None:
    """No overflow far out, the limits at infinity, and NaN kept."""
    out = [0.0, 20.0, -20.0, 60.0, -60.0, 88.0, -88.0, 710.0, -710.0, 1e4, -1e4, np.inf, -np.inf, np.nan, 1e-3, -1e-3]
    array = rounded(out, dtype)
    found = getattr(subject.backend, name)(its(subject, array, dtype))
    judging.assert_close(subject, found, FUNCTIONS[name](array), dtype, f"{name} of {array.tolist()}")


@wide_dtypes
@functions
def test_functions_are_smooth(subject: Subject, dtype: str, name: str) -> None:
    """A fine grid, so that no table, clipping or threshold is taken for the function."""
    array = rounded(np.linspace(-40, 40, 4001), dtype)
    found = getattr(subject.backend, name)(its(subject, array, dtype))
    judging.assert_close(subject, found, FUNCTIONS[name](array), dtype, name)
    values, expected = subject.numpy(found), FUNCTIONS[name](array)
    small = np.abs(expected) < 1e-3
    judging.assert_numbers(
        values[small] * 1e3, expected[small] * 1e3, 10 * subject.tolerance(dtype), f"{name}, near 0,"
    )


@dtypes
@functions
def test_functions_leave_their_argument(subject: Subject, dtype: str, name: str) -> None:
    """Nothing is computed in place."""
    array = drawn(dtype, (4, 3), scale=3.0).astype(numpy_dtype(dtype))
    given = subject.array(array)
    getattr(subject.backend, name)(given)
    judging.assert_exact(subject, given, array, f"the argument of {name}")


# -- operators --------------------------------------------------------------------------------------------------------

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}

operators = pytest.mark.parametrize("sign", OPERATORS)


@dtypes
@operators
@pytest.mark.parametrize(
    ("one", "other"),
    [((4, 3), (4, 3)), ((4, 3), (3,)), ((3,), (4, 3)), ((4, 1), (4, 3)), ((5, 4, 3), (4, 1)), ((4, 3), ()), ((), (2,))],
    ids=str,
)
def test_operators(subject: Subject, dtype: str, sign: str, one: tuple[int, ...], other: tuple[int, ...]) -> None:
    """Two arrays, of one shape or broadcast."""
    first, second = drawn(dtype, one), drawn(dtype, other, 2)
    second = np.asarray(np.where(np.abs(second) < 0.1, 1.0, second))
    found = OPERATORS[sign](its(subject, first, dtype), its(subject, second, dtype))
    judging.assert_close(subject, found, OPERATORS[sign](first, second), dtype, f"{one} {sign} {other}")


@dtypes
@operators
@pytest.mark.parametrize("number", [2, 1.0, -0.5, 0.3])
def test_operators_take_python_numbers(subject: Subject, dtype: str, sign: str, number: float) -> None:
    """On either side; the dtype stays the array's."""
    array = drawn(dtype, (4, 3))
    array = np.where(np.abs(array) < 0.1, 1.0, array)
    given, exact = its(subject, array, dtype), OPERATORS[sign]
    judging.assert_close(subject, exact(given, number), exact(array, number), dtype, f"array {sign} {number}")
    judging.assert_close(subject, exact(number, given), exact(number, array), dtype, f"{number} {sign} array")


@dtypes
def test_minus(subject: Subject, dtype: str) -> None:
    """The sign of every number changes, and nothing else."""
    array = drawn(dtype, (4, 3)).astype(numpy_dtype(dtype))
    judging.assert_exact(subject, -subject.array(array), -array, "-array")


@dtypes
@operators
def test_operators_leave_their_arguments(subject: Subject, dtype: str, sign: str) -> None:
    """Nothing is computed in place."""
    array = (drawn(dtype, (4, 3)) + 5).astype(numpy_dtype(dtype))
    one, other = subject.array(array), subject.array(array)
    OPERATORS[sign](one, other)
    judging.assert_exact(subject, one, array, f"what is left of {sign}")
    judging.assert_exact(subject, other, array, f"what is right of {sign}")


# -- where, zeros, masks ----------------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize(
    ("condition", "one", "other"),
    [
        ((4, 3), (4, 3), (4, 3)),
        ((4, 1), (4, 3), (4, 3)),
        ((5, 4, 1), (5, 4, 3), ()),
        ((3,), (3,), ()),
        ((4, 1), (), (4, 3)),
    ],
    ids=str,
)
def test_where(
    subject: Subject, dtype: str, condition: tuple[int, ...], one: tuple[int, ...], other: tuple[int, ...]
) -> None:
    """One where the condition holds, the other elsewhere, with broadcasting."""
    holds = np.random.default_rng(5).random(condition) < 0.5
    first, second = (drawn(dtype, shape, seed).astype(numpy_dtype(dtype)) for shape, seed in ((one, 1), (other, 2)))
    found = subject.backend.where(*map(subject.array, (holds, first, second)))
    judging.assert_exact(subject, found, np.where(holds, first, second), f"where of {condition}, {one}, {other}")


@dtypes
def test_where_hides_what_is_not_taken(subject: Subject, dtype: str) -> None:
    """NaN and infinity do not come through from where the condition says no."""
    holds = np.array([True, False, True, False])
    one, other = (np.array(values, numpy_dtype(dtype)) for values in ([1, np.nan, 2, np.inf], [np.nan, 3, np.inf, 4]))
    found = subject.backend.where(*map(subject.array, (holds, one, other)))
    judging.assert_exact(subject, found, np.array([1, 3, 2, 4], numpy_dtype(dtype)), "where")


@dtypes
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (4, 1, 2), (0, 3)], ids=str)
def test_zeros(subject: Subject, dtype: str, shape: tuple[int, ...]) -> None:
    """In the dtype of an array whose shape does not matter."""
    like = subject.array(np.full((5, 2), 3).astype(numpy_dtype(dtype)))
    judging.assert_exact(subject, subject.backend.zeros(shape, like), np.zeros(shape, numpy_dtype(dtype)), "zeros")


@pytest.mark.parametrize("kind", ["int64", "int32"])
@pytest.mark.parametrize(
    ("lengths", "steps"), [((3, 0, 5, 1), 5), ((0,), 3), ((7, 7), 7), ((2, 1), 6), ((1, 0, 1), 1), ((), 2)], ids=str
)
def test_steps_before(subject: Subject, kind: str, lengths: tuple[int, ...], steps: int) -> None:
    """True at step t of row n where ``t < valid_length[n]``."""
    array = np.array(lengths, kind)
    found = subject.backend.steps_before(subject.array(array), steps)
    assert subject.backend.owns(found)
    values = np.asarray(subject.backend.to_numpy(found))
    assert values.dtype == np.bool_
    np.testing.assert_array_equal(values, np.arange(steps)[:, None] < array)


# -- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_no_operation_widens(subject: Subject, dtype: str) -> None:
    """A chain of all of them with Python's numbers stays in its dtype."""
    backend, array = subject.backend, its(subject, drawn(dtype, (4, 3)), dtype)
    chain = 1.0 - backend.sigmoid(array) * 0.5 + backend.softplus(-array) / 3
    chain = backend.relu(backend.tanh(chain)) + backend.zeros((), array)
    chain = backend.concat([chain, backend.reshape(array, (4, 3))], 0)
    assert backend.dtype(chain) == dtype

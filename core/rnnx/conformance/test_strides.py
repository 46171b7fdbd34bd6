"""Views, and arrays that lie otherwise in memory, are read as what they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from rnnx.conformance import judging, networks, slopes, unrolled
from rnnx.conformance.dtypes import most_exact
from rnnx.conformance.marks import singles, ways, wide_dtypes
from rnnx.conformance.networks import RAGGED, TREES, Array, numpy_dtype
from rnnx.conformance.subject import Subject
from rnnx.conformance.unrolled import Found, leaves

NAMES = ("lstm-2-both", "gru-2-both", "rnn_tanh-1-one", "rnn_relu-2-both", "lstm", "gru_reset_before", "both_lstm")

names = pytest.mark.parametrize("name", NAMES)

#: How an array may lie in NumPy's memory.
IN_NUMPY: dict[str, Callable[[Array], Array]] = {
    "fortran": np.asfortranarray,
    "reversed": lambda array: array[..., ::-1].copy()[..., ::-1],
    "gaps": lambda array: np.repeat(array, 2, -1)[..., ::2],
    "part": lambda array: np.pad(array, [(1, 2)] * array.ndim)[tuple(slice(1, -2) for _ in range(array.ndim))],
}


def _turned(subject: Subject, array: Array) -> Any:
    return subject.backend.swapaxes(subject.array(np.ascontiguousarray(np.swapaxes(array, 0, 1))), 0, 1)


def _part(subject: Subject, array: Array) -> Any:
    return subject.array(np.pad(array, [(1, 2)] * array.ndim))[tuple(slice(1, -2) for _ in range(array.ndim))]


def _split(subject: Subject, array: Array) -> Any:
    return subject.backend.split(subject.array(np.concatenate([array + 1, array, array - 1], -1)), 3)[1]


def _reversed(subject: Subject, array: Array) -> Any:
    return subject.backend.reverse(subject.array(np.ascontiguousarray(array[::-1])), None)


#: How the backend itself may come to an array.
IN_BACKEND: dict[str, Callable[[Subject, Array], Any]] = {
    "turned": _turned,
    "part": _part,
    "split": _split,
    "reversed": _reversed,
}


@names
@ways
@wide_dtypes
@pytest.mark.parametrize("how", IN_NUMPY)
def test_weights_from_numpy(subject: Subject, name: str, dtype: str, how: str, fuse: bool) -> None:
    """Weights, inputs and begin states that NumPy holds in another order."""
    trial = networks.trial(name, dtype, lengths=RAGGED)
    laid = IN_NUMPY[how]
    cell = TREES[name].build()
    cell.load_params({key: laid(array.astype(dtype)) for key, array in trial.weights.items()})
    cell.to(subject.name, subject.device)
    inputs, *begin = (subject.array(laid(array.astype(dtype))) for array in (trial.inputs, *(trial.begin or ())))
    outputs, states = cell.unroll(None, inputs, begin, merge_outputs=True, valid_length=RAGGED, fuse=fuse)
    judging.assert_right(subject, trial, Found(outputs, list(leaves(states)), (how,)))


@names
@ways
@singles
@pytest.mark.parametrize("how", IN_BACKEND)
def test_views(subject: Subject, name: str, dtype: str, how: str, fuse: bool) -> None:
    """Inputs and begin states that are turned, cut out of others, or reversed by the backend."""
    trial = networks.trial(name, dtype, lengths=RAGGED)
    laid, cell = IN_BACKEND[how], unrolled.placed(subject, trial)
    inputs, *begin = (laid(subject, array.astype(dtype)) for array in (trial.inputs, *(trial.begin or ())))
    outputs, states = cell.unroll(None, inputs, begin, merge_outputs=True, valid_length=RAGGED, fuse=fuse)
    judging.assert_right(subject, trial, Found(outputs, list(leaves(states)), (how,)))


@names
@ways
@wide_dtypes
def test_weights_that_are_views(subject: Subject, name: str, dtype: str, fuse: bool) -> None:
    """Weights that were cut out of other arrays of the backend."""
    trial = networks.trial(name, dtype)
    cell = TREES[name].build()
    cell.load_params({key: _part(subject, array.astype(dtype)) for key, array in trial.weights.items()})
    judging.assert_right(subject, trial, unrolled.run(subject, trial, fuse=fuse, cell=cell))


@pytest.mark.needs("gradients")
@names
@ways
@pytest.mark.parametrize("how", IN_BACKEND)
def test_gradients(subject: Subject, name: str, how: str, fuse: bool) -> None:
    """Of inputs that are views, with cotangents that are."""
    dtype = most_exact(subject)
    expected = slopes.expected(TREES[name], dtype, RAGGED)
    trial, laid = expected.trial, IN_BACKEND[how]

    def its(arrays: Sequence[Array]) -> list[Any]:
        return [laid(subject, array.astype(numpy_dtype(dtype))) for array in arrays]

    inputs, *begin = its([trial.inputs, *(trial.begin or ())])
    _, _, pullback = unrolled.placed(subject, trial).vjp(
        None, inputs, begin, merge_outputs=True, valid_length=RAGGED, fuse=fuse
    )
    found = pullback(its([np.asarray(expected.outputs)])[0], its(expected.states or ()))
    states = {f"state {place}": state for place, state in enumerate(found.begin_state)}
    judging.assert_gradients(subject, expected, {"inputs": found.inputs, **states, **found.weights}, [how])


@pytest.mark.needs("gradients")
@names
@ways
def test_one_cotangent_for_all(subject: Subject, name: str, fuse: bool) -> None:
    """A cotangent of ones that is broadcast rather than written out, as the gradient of a sum is."""
    dtype = most_exact(subject)
    trial = networks.trial(name, dtype, lengths=RAGGED)
    ones = [np.ones_like(array) for array in (trial.expected()[0], *trial.expected()[1])]
    given = tuple(slopes.slopes_along(trial, slopes.wholes(trial), ones[0], ones[1:]))
    expected = slopes.Expected(trial, ones[0], ones[1:], given)
    derived = unrolled.differentiate(subject, trial, fuse=fuse)
    broadcast = [np.broadcast_to(np.ones(()), one.shape) for one in ones]
    gradients = derived.pull(broadcast[0], broadcast[1:])
    judging.assert_gradients(subject, expected, gradients, derived.found.kernels)

"""Cells move between NumPy and the backend; two frameworks never meet."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import rnnx
from rnnx.conformance import judging, networks, unrolled
from rnnx.conformance.dtypes import most_exact
from rnnx.conformance.networks import RAGGED, numpy_dtype, plain_cell
from rnnx.conformance.subject import DTYPES, Subject
from rnnx.conformance.unrolled import Found, leaves

names = pytest.mark.parametrize(
    "name", ["lstm", "gru-2-both", "rnn_relu-1-one", "both_unlike", "stack_lstm", "own_peephole"]
)


@pytest.fixture
def dtype(subject: Subject) -> str:
    """Return a dtype that NumPy computes in, too."""
    return most_exact(subject)


@pytest.fixture
def foreign(subject: Subject) -> Subject:
    """Return the backend, if its arrays are not NumPy's."""
    if subject.backend.owns(np.zeros(1)):
        pytest.skip(f"arrays of {subject.name} are NumPy's own")
    return subject


@names
def test_there_and_back(subject: Subject, name: str, dtype: str) -> None:
    """On NumPy a cell computes, to the bit, what it did before it was moved away and run."""
    trial = networks.trial(name, dtype, lengths=RAGGED)
    cell = trial.cell().to("numpy", dtype=dtype)
    inputs, *begin = (array.astype(dtype) for array in (trial.inputs, *(trial.begin or ())))

    def on_numpy() -> list[bytes]:
        outputs, states = cell.unroll(None, inputs, begin, merge_outputs=True, valid_length=RAGGED)
        return [array.tobytes() for array in (outputs, *leaves(states))]

    before = on_numpy()
    cell.to(subject.name, subject.device)
    judging.assert_right(subject, trial, unrolled.run(subject, trial, cell=cell))
    cell.to("numpy")
    assert on_numpy() == before


def test_one_tree_on_one_backend(foreign: Subject, dtype: str) -> None:
    """A tree half of which is elsewhere is refused, and names both."""
    lower, upper = plain_cell("lstm", 4, "a_"), plain_cell("lstm", 4, "b_")
    lower.initialize(3, foreign.name, dtype, foreign.device)
    upper.initialize(4, "numpy", dtype)
    inputs = foreign.array(np.zeros((2, 5, 3), dtype))
    with pytest.raises(rnnx.BackendMismatchError, match="numpy"):
        networks.sequential(lower, upper).unroll(None, inputs)


@names
def test_inputs_of_another_framework(foreign: Subject, name: str, dtype: str) -> None:
    """NumPy's inputs and weights of the backend, or the other way round."""
    trial = networks.trial(name, dtype)
    with pytest.raises(rnnx.BackendMismatchError, match=foreign.name):
        unrolled.placed(foreign, trial).unroll(None, trial.inputs.astype(dtype))
    with pytest.raises(rnnx.BackendMismatchError, match=foreign.name):
        trial.cell().to("numpy", dtype=dtype).unroll(None, foreign.array(trial.inputs.astype(dtype)))


@names
def test_states_of_another_framework(foreign: Subject, name: str, dtype: str) -> None:
    """NumPy's begin states with inputs of the backend."""
    trial = networks.trial(name, dtype)
    begin = [state.astype(dtype) for state in trial.begin or ()]
    with pytest.raises(rnnx.BackendMismatchError, match="numpy"):
        unrolled.placed(foreign, trial).unroll(None, foreign.array(trial.inputs.astype(dtype)), begin)


@names
@pytest.mark.parametrize("made", [list, lambda array: 1.0, lambda array: "text"], ids=["lists", "number", "text"])
def test_inputs_that_are_no_arrays(subject: Subject, name: str, dtype: str, made: Any) -> None:
    """Lists of numbers, a number, text."""
    trial = networks.trial(name, dtype)
    with pytest.raises(rnnx.RNNXError):
        unrolled.placed(subject, trial).unroll(None, made(trial.inputs[0].tolist()))


@pytest.mark.parametrize(
    ("one", "other"),
    [pytest.param(*pair, marks=pytest.mark.needs(*pair)) for pair in itertools.permutations(DTYPES, 2)],
)
def test_dtypes_do_not_meet(subject: Subject, one: str, other: str) -> None:
    """Weights and begin states of another dtype than the inputs' are refused; nothing is converted silently."""
    trial = networks.trial("lstm", one)
    inputs, wrong = (trial.inputs.astype(numpy_dtype(dtype)) for dtype in (one, other))
    states = unrolled.cast(subject, trial.begin or (), other)
    cell = unrolled.placed(subject, trial)
    with pytest.raises(rnnx.BackendMismatchError, match=other):
        cell.unroll(None, subject.array(wrong))
    with pytest.raises(rnnx.BackendMismatchError, match=other):
        cell.unroll(None, subject.array(inputs), states)


@names
def test_wrong_shapes(subject: Subject, name: str, dtype: str) -> None:
    """Are refused with the shapes in the message, before anything runs."""
    trial = networks.trial(name, dtype)
    cell = unrolled.placed(subject, trial)
    inputs, *begin = unrolled.cast(subject, [trial.inputs, *(trial.begin or ())], dtype)
    wide = subject.array(np.zeros((4, 5, networks.WIDTH + 1), dtype))
    calls: list[tuple[Any, dict[str, Any]]] = [
        (wide, {}),
        (inputs[0], {}),
        (inputs, {"begin_state": begin[:-1]}),
        (inputs, {"begin_state": [*begin[:-1], begin[-1][..., :1]]}),
        (inputs, {"valid_length": [1, 2]}),
        (inputs, {"valid_length": [6, 0, 1, 1]}),
        (inputs, {"valid_length": [-1, 0, 1, 1]}),
    ]
    for given, named in calls:
        with pytest.raises((rnnx.ShapeError, rnnx.WeightFormatError)):
            cell.unroll(None, given, **named)
    outputs, states = cell.unroll(None, inputs, begin, merge_outputs=True)
    judging.assert_right(subject, trial, Found(outputs, list(leaves(states)), ()))

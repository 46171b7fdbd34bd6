"""Every form of sequences, states and lengths gives the same numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rnnx
from rnnx.conformance import dtypes, judging, networks, unrolled
from rnnx.conformance.marks import masks, trees
from rnnx.conformance.networks import BATCH, NESTED, PLAIN, RAGGED, STEPS, TREES, Array, Tree, Trial
from rnnx.conformance.subject import Subject
from rnnx.conformance.unrolled import Found, leaves

#: A plain cell, a fused one, and one of each kind of tree.
FORMED = ("lstm", "gru-2-both", "rnn_relu", "both_unlike", "stack_lstm", "residual_both", "own_peephole")

names = pytest.mark.parametrize("name", FORMED)


@pytest.fixture
def dtype(subject: Subject) -> str:
    """Return the dtype to run in."""
    return dtypes.usual(subject)


def judge(subject: Subject, trial: Trial, outputs: Any, states: Any, what: str) -> None:
    """Judge outputs in one array (N, T, H) and states however nested."""
    __tracebackhide__ = True
    judging.assert_right(subject, trial, Found(outputs, list(leaves(states)), (what,)))


def its(subject: Subject, array: Array, dtype: str) -> Any:
    """Return the numbers as an array of the backend."""
    return unrolled.cast(subject, [array], dtype)[0]


def begins(subject: Subject, trial: Trial) -> list[Any]:
    """Return the trial's begin states as arrays of the backend."""
    return unrolled.cast(subject, trial.begin or (), trial.dtype)


@names
@masks
@pytest.mark.parametrize("layout", ["NTC", "TNC"])
@pytest.mark.parametrize("merge", [True, False, None])
@pytest.mark.parametrize("listed", [False, True], ids=["array", "list"])
def test_layouts(
    subject: Subject,
    name: str,
    dtype: str,
    lengths: tuple[int, ...] | None,
    layout: str,
    merge: bool | None,
    listed: bool,
) -> None:
    """Inputs and outputs in one array or in a list of steps, rows first or steps first."""
    trial = networks.trial(name, dtype, lengths=lengths)
    cell = unrolled.placed(subject, trial)
    sequence = trial.inputs if layout == "NTC" else trial.inputs.swapaxes(0, 1)
    steps = [trial.inputs[:, time] for time in range(STEPS)]
    inputs = unrolled.cast(subject, steps, dtype) if listed else its(subject, sequence, dtype)
    outputs, states = cell.unroll(
        STEPS, inputs, begins(subject, trial), layout=layout, merge_outputs=merge, valid_length=lengths
    )
    if merge is None:
        assert isinstance(outputs, list) == (not TREES[name].build().merges(not listed))
    elif merge is False:
        assert isinstance(outputs, list)
    judge(subject, trial, rows_first(subject, outputs, layout), states, f"unroll in layout {layout}")


def rows_first(subject: Subject, outputs: Any, layout: str) -> Any:
    """Return outputs in whatever form as one array (N, T, H)."""
    if isinstance(outputs, list):
        return subject.backend.swapaxes(subject.backend.stack(outputs), 0, 1)
    return outputs if layout == "NTC" else subject.backend.swapaxes(outputs, 0, 1)


@names
@pytest.mark.parametrize("form", ["list", "tuple", "numpy32", "numpy64", "backend32", "backend64", "floats"])
def test_lengths(subject: Subject, name: str, dtype: str, form: str) -> None:
    """`valid_length` as a list, as an array of NumPy's or of the backend's, of either size of integer."""
    trial = networks.trial(name, dtype, lengths=RAGGED)
    made: dict[str, Callable[[], Any]] = {
        "list": lambda: list(RAGGED),
        "tuple": lambda: RAGGED,
        "numpy32": lambda: np.array(RAGGED, np.int32),
        "numpy64": lambda: np.array(RAGGED, np.int64),
        "backend32": lambda: subject.array(np.array(RAGGED, np.int32)),
        "backend64": lambda: subject.array(np.array(RAGGED, np.int64)),
        "floats": lambda: np.array(RAGGED, np.float32),
    }
    outputs, states = unrolled.placed(subject, trial).unroll(
        None,
        its(subject, trial.inputs, dtype),
        begins(subject, trial),
        merge_outputs=True,
        valid_length=made[form](),
    )
    judge(subject, trial, outputs, states, f"unroll with lengths as {form}")


@pytest.mark.parametrize("name", [*networks.MODES, "gru-2-one", "lstm-3-one", "stack_lstm", "zoneout", "own_peephole"])
def test_states_go_round(subject: Subject, name: str, dtype: str) -> None:
    """Final states are begin states: two parts of a sequence are the whole."""
    trial = networks.trial(name, dtype)
    cell, inputs = unrolled.placed(subject, trial), its(subject, trial.inputs, dtype)
    first, states = cell.unroll(None, inputs[:, :2], begins(subject, trial), merge_outputs=True)
    second, states = cell.unroll(None, inputs[:, 2:], states, merge_outputs=True)
    whole = subject.backend.concat([first, second], 1)
    judge(subject, trial, whole, states, "two calls of unroll")


@pytest.mark.parametrize("name", ["both_unlike", "gru-2-both", "residual_both"])
def test_nested_states_are_taken(subject: Subject, name: str, dtype: str) -> None:
    """Begin states nested as the final ones are."""
    trial = networks.trial(name, dtype, begin=False)
    cell, inputs = unrolled.placed(subject, trial), its(subject, trial.inputs, dtype)
    _, states = cell.unroll(None, inputs, merge_outputs=True)
    outputs, after = cell.unroll(None, inputs, states, merge_outputs=True)
    begin = tuple(map(subject.numpy, leaves(states)))
    again = dataclasses.replace(trial, begin=begin)
    judge(subject, again, outputs, after, "unroll from nested states")


STEPPABLE = tuple(tree for tree in (*PLAIN, *NESTED) if "both" not in tree.name and "fused" not in tree.name)


@trees(*STEPPABLE)
def test_step_by_step(subject: Subject, tree: Tree, dtype: str) -> None:
    """Calling a cell once for every step gives what unrolling gives."""
    trial = networks.trial(tree, dtype)
    cell, states = unrolled.placed(subject, trial), begins(subject, trial)
    outputs = []
    for time in range(STEPS):
        output, states = cell(its(subject, trial.inputs[:, time], dtype), states)
        outputs.append(output)
    whole = subject.backend.swapaxes(subject.backend.stack(outputs), 0, 1)
    judge(subject, trial, whole, states, "steps")


@trees(*networks.FUSED_FEW, "lstm-3-one", "gru-1-both")
def test_unfused_and_fused_again(subject: Subject, tree: Tree, dtype: str) -> None:
    """A fused cell, its cells, and what they fuse to, compute the same."""
    trial = networks.trial(tree, dtype, lengths=RAGGED, begin=False)
    fused = unrolled.placed(subject, trial)
    inputs = its(subject, trial.inputs, dtype)
    for cell, what in ((fused.unfuse(), "unfuse()"), (fused.unfuse().fuse(), "fuse()")):  # type: ignore[attr-defined]
        outputs, states = cell.unroll(None, inputs, merge_outputs=True, valid_length=RAGGED)
        kinds = trial.expected()[1]
        if what == "unfuse()":
            each = list(leaves(states))
            states = [subject.backend.stack(each[place :: len(kinds)]) for place in range(len(kinds))]
        judge(subject, trial, outputs, states, what)


@pytest.mark.parametrize("mode", networks.MODES)
def test_a_fused_cell_keeps_its_states_to_itself(subject: Subject, mode: str, dtype: str) -> None:
    """Without ``get_next_state`` it gives none."""
    trial = networks.trial(networks.fused_tree(mode), dtype)
    cell = rnnx.FusedRNNCell(networks.HIDDEN, 1, mode)
    cell.load_params(dict(trial.weights))
    outputs, states = subject.placed(cell, dtype).unroll(
        None, its(subject, trial.inputs, dtype), begins(subject, trial), merge_outputs=True
    )
    assert states == []
    judging.assert_close(subject, outputs, trial.expected()[0], dtype, "outputs")


@pytest.mark.parametrize("name", ["lstm", "gru-2-both", "stack_lstm_gru"])
def test_states_of_no_batch_are_zeros(subject: Subject, name: str, dtype: str) -> None:
    """What `begin_state()` gives without a batch size fits any batch."""
    trial = networks.trial(name, dtype, begin=False)
    cell = unrolled.placed(subject, trial)
    begin = cell.begin_state(backend=subject.name, dtype=dtype, device=subject.device)
    outputs, states = cell.unroll(None, its(subject, trial.inputs, dtype), begin, merge_outputs=True)
    judge(subject, trial, outputs, states, "unroll from begin_state()")


@pytest.mark.parametrize("name", ["lstm", "gru-2-both", "stack_lstm_gru"])
def test_states_of_a_batch_are_zeros(subject: Subject, name: str, dtype: str) -> None:
    """With one, they are zeros in the backend's own arrays."""
    trial = networks.trial(name, dtype, begin=False)
    cell = unrolled.placed(subject, trial)
    begin = cell.begin_state(batch_size=BATCH, backend=subject.name, dtype=dtype, device=subject.device)
    for state, expected in zip(begin, trial.expected()[1], strict=True):
        judging.assert_close(subject, state, np.zeros_like(expected), dtype, "a begin state")
    outputs, states = cell.unroll(None, its(subject, trial.inputs, dtype), begin, merge_outputs=True)
    judge(subject, trial, outputs, states, "unroll from begin_state(batch_size=4)")


@pytest.mark.parametrize("name", ["lstm", "gru-2-both"])
def test_weights_are_made_at_the_first_call(subject: Subject, name: str, dtype: str) -> None:
    """On the inputs' backend and device, in their dtype."""
    trial = networks.trial(name, dtype, begin=False)
    cell = trial.tree.build()
    outputs, states = cell.unroll(None, its(subject, trial.inputs, dtype), merge_outputs=True)
    weights = {key: array.astype(np.float64) for key, array in cell.get_params().items()}
    judge(subject, dataclasses.replace(trial, weights=weights), outputs, states, "unroll of new weights")


@pytest.mark.parametrize("name", ["lstm", "gru-2-both"])
def test_initialize(subject: Subject, name: str, dtype: str) -> None:
    """Weights made beforehand are those that NumPy gets from the same seed, to the bit."""
    made, theirs = TREES[name].build(), TREES[name].build()
    made.initialize(networks.WIDTH, subject.name, dtype, subject.device, seed=5)
    theirs.initialize(networks.WIDTH, "numpy", "float64", seed=5)
    for key, array in theirs.get_params().items():
        found = made.get_params()[key]
        np.testing.assert_array_equal(found, array.astype(networks.numpy_dtype(dtype)), key)

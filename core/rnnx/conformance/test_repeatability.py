"""A call depends on its arguments alone, changes none, and keeps nothing."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest

from rnnx.cells import BaseRNNCell
from rnnx.conformance import dtypes, judging, networks, unrolled
from rnnx.conformance.marks import masks, ways
from rnnx.conformance.networks import LENGTHS, MODES, Trial, fused_tree
from rnnx.conformance.subject import Subject
from rnnx.conformance.unrolled import bits

#: A fused cell of each mode, plain cells, and trees that step or are wrapped.
SOME = (
    *("lstm-2-both", "gru-2-both", "rnn_tanh-1-one", "rnn_relu-2-one", "lstm", "gru", "stack_lstm", "both_lstm"),
    *("both_unlike", "residual_stack", "own_peephole", "own_wide"),
)

trees = pytest.mark.parametrize("name", SOME)


@pytest.fixture
def dtype(subject: Subject) -> str:
    """Return the dtype to run in."""
    return dtypes.usual(subject)


@trees
@masks
@ways
def test_twice_is_the_same(
    subject: Subject, name: str, dtype: str, lengths: tuple[int, ...] | None, fuse: bool
) -> None:
    """Bit for bit, also by another cell with the same weights."""
    trial = networks.trial(name, dtype, lengths=lengths)
    cell = unrolled.placed(subject, trial)
    first = unrolled.run(subject, trial, fuse=fuse, cell=cell)
    before = bits(subject, first.arrays())
    for again, what in ((cell, "a second call"), (unrolled.placed(subject, trial), "another cell")):
        found = unrolled.run(subject, trial, fuse=fuse, cell=again)
        judging.assert_unchanged(bits(subject, found.arrays()), before, f"outputs and states of {what}")


@trees
@masks
@ways
def test_arguments_are_left_alone(
    subject: Subject, name: str, dtype: str, lengths: tuple[int, ...] | None, fuse: bool
) -> None:
    """Inputs, begin states, lengths and weights have the bits that they had, after training and inference."""
    trial = networks.trial(name, dtype, lengths=lengths)
    cell = unrolled.placed(subject, trial)
    inputs, *begin = unrolled.cast(subject, [trial.inputs, *(trial.begin or ())], dtype)
    within = None if lengths is None else subject.array(np.array(lengths))
    given = [inputs, *begin, *([] if within is None else [within])]
    before, weights = bits(subject, given), weights_of(cell)
    for training in (False, True):
        cell.unroll(None, inputs, begin, valid_length=within, training=training, seed=1, fuse=fuse)
        judging.assert_unchanged(bits(subject, given), before, "inputs, begin states and lengths")
        assert weights_of(cell) == weights, "the weights have changed"


def weights_of(cell: BaseRNNCell) -> dict[str, bytes]:
    """Return the bytes of every weight."""
    return {name: array.tobytes() for name, array in cell.get_params().items()}


@trees
@masks
@ways
def test_results_stay_as_they_are(
    subject: Subject, name: str, dtype: str, lengths: tuple[int, ...] | None, fuse: bool
) -> None:
    """Later calls, of this cell or another, do not write to what earlier ones returned."""
    trial = networks.trial(name, dtype, lengths=lengths)
    other = networks.trial(name, dtype, lengths=lengths, seed=2)
    cell = unrolled.placed(subject, trial)
    first = unrolled.run(subject, trial, fuse=fuse, cell=cell)
    before = bits(subject, first.arrays())
    unrolled.run(subject, other, fuse=fuse, cell=cell)
    unrolled.run(subject, other, fuse=fuse)
    unrolled.run(subject, trial, fuse=fuse, training=True, seed=1, cell=cell)
    judging.assert_unchanged(bits(subject, first.arrays()), before, "results of an earlier call")
    judging.assert_right(subject, trial, first)


@trees
@ways
@masks
def test_results_are_memory_of_their_own(
    subject: Subject, name: str, dtype: str, lengths: tuple[int, ...] | None, fuse: bool
) -> None:
    """What a caller writes to results, where the framework lets it, reaches no argument and no weight."""
    trial = networks.trial(name, dtype, lengths=lengths)
    cell = unrolled.placed(subject, trial)
    inputs, *begin = unrolled.cast(subject, [trial.inputs, *(trial.begin or ())], dtype)
    before, weights = bits(subject, [inputs, *begin]), weights_of(cell)
    outputs, states = cell.unroll(None, inputs, begin, merge_outputs=True, valid_length=lengths, fuse=fuse)
    for array in (outputs, *unrolled.leaves(states)):
        values = subject.backend.to_numpy(array)
        if values.flags.writeable:
            values[...] = 77
    judging.assert_unchanged(bits(subject, [inputs, *begin]), before, "arguments, once results were written to,")
    assert weights_of(cell) == weights, "weights have changed with the results"
    found = unrolled.run(subject, trial, fuse=fuse, cell=cell)
    judging.assert_right(subject, trial, found)


@ways
@pytest.mark.parametrize("mode", MODES)
def test_calls_of_other_sizes_between(subject: Subject, mode: str, dtype: str, fuse: bool) -> None:
    """Rows and steps grow and shrink from call to call, with and without lengths, begin states and training."""
    tree = fused_tree(mode, 2, True)
    cell = unrolled.placed(subject, networks.trial(tree, dtype))
    for turn, (batch, steps) in enumerate([(4, 5), (9, 5), (4, 11), (1, 1), (9, 2), (4, 5), (2, 20), (4, 5)]):
        rng = np.random.default_rng(turn)
        within = tuple(rng.integers(0, steps + 1, batch).tolist()) if turn % 2 else None
        made = networks.trial(tree, dtype, batch=batch, steps=steps, lengths=within, begin=turn % 3 > 0, seed=turn)
        trial = dataclasses.replace(made, weights=networks.trial(tree, dtype).weights)
        found = unrolled.run(subject, trial, fuse=fuse, training=turn % 4 == 3, seed=1, cell=cell)
        judging.assert_right(subject, trial, found)


@ways
@pytest.mark.parametrize("mode", MODES)
def test_two_cells_by_turns(subject: Subject, mode: str, dtype: str, fuse: bool) -> None:
    """Cells of the same sizes and of others, called one after the other, do not get into each other's way."""
    kinds = [
        fused_tree(mode),
        fused_tree(mode),
        fused_tree(mode, hidden=3),
        fused_tree(mode, 2),
        fused_tree(mode, 1, True),
    ]
    trials = [networks.trial(tree, dtype, seed=number) for number, tree in enumerate(kinds)]
    cells = [unrolled.placed(subject, trial) for trial in trials]
    found = []
    for _ in range(3):
        for trial, cell in zip(trials, cells, strict=True):
            found.append((trial, unrolled.run(subject, trial, fuse=fuse, cell=cell)))
    for trial, results in found:
        judging.assert_right(subject, trial, results)


# -- weights that change ----------------------------------------------------------------------------------------------


def reloaded(subject: Subject, trial: Trial, cell: BaseRNNCell, seed: int) -> Trial:
    """Give the cell other weights, and return the trial that has them."""
    other = dataclasses.replace(trial, weights=networks.trial(trial.tree, trial.dtype, seed=seed).weights)
    kind = networks.numpy_dtype(trial.dtype)
    cell.load_params({name: subject.array(array.astype(kind)) for name, array in other.weights.items()})
    return other


@trees
@ways
def test_loaded_weights_count_at_once(subject: Subject, name: str, dtype: str, fuse: bool) -> None:
    """After `load_params`, again and again, and back to the first ones."""
    trial = networks.trial(name, dtype)
    cell = unrolled.placed(subject, trial)
    judging.assert_right(subject, trial, unrolled.run(subject, trial, fuse=fuse, cell=cell))
    for seed in (2, 3, 1, 4, 1):
        other = reloaded(subject, trial, cell, seed)
        judging.assert_right(subject, other, unrolled.run(subject, other, fuse=fuse, cell=cell))


@ways
@pytest.mark.parametrize("name", ["lstm-2-both", "gru", "rnn_tanh-1-one", "rnn_relu-2-one", "stack_lstm"])
def test_new_cells_are_not_taken_for_old_ones(subject: Subject, name: str, dtype: str, fuse: bool) -> None:
    """Cells that are made and thrown away, so that memory and ids are used again."""
    for seed in range(12):
        trial = networks.trial(name, dtype, seed=seed)
        judging.assert_right(subject, trial, unrolled.run(subject, trial, fuse=fuse))


@ways
@pytest.mark.parametrize("name", ["lstm-2-both", "gru", "rnn_relu-2-one"])
def test_weights_drawn_anew_count_at_once(subject: Subject, name: str, dtype: str, fuse: bool) -> None:
    """After `initialize`."""
    trial = networks.trial(name, dtype)
    cell = unrolled.placed(subject, trial)
    unrolled.run(subject, trial, fuse=fuse, cell=cell)
    for seed in (1, 2):
        cell.initialize(networks.WIDTH, subject.name, dtype, subject.device, seed=seed)
        weights = {key: array.astype(np.float64) for key, array in cell.get_params().items()}
        other = dataclasses.replace(trial, weights=weights)
        judging.assert_right(subject, other, unrolled.run(subject, other, fuse=fuse, cell=cell))


@ways
@pytest.mark.parametrize("name", ["lstm-2-both", "gru", "rnn_relu-2-one", "stack_lstm"])
def test_moved_weights_count_at_once(subject: Subject, name: str, dtype: str, fuse: bool) -> None:
    """After `to`, to NumPy and back with other weights in between."""
    trial = networks.trial(name, dtype)
    cell = unrolled.placed(subject, trial)
    unrolled.run(subject, trial, fuse=fuse, cell=cell)
    cell.to("numpy")
    other = networks.trial(name, dtype, seed=2)
    cell.load_params({key: array.astype(dtype) for key, array in other.weights.items()})
    cell.to(subject.name, subject.device)
    judging.assert_right(subject, other, unrolled.run(subject, other, fuse=fuse, cell=cell))


@ways
@pytest.mark.parametrize("name", ["lstm-2-both", "gru", "stack_lstm"])
def test_copies_are_apart(subject: Subject, name: str, dtype: str, fuse: bool) -> None:
    """A deep copy of a cell keeps its weights when the original gets others."""
    trial = networks.trial(name, dtype)
    cell = unrolled.placed(subject, trial)
    twin = copy.deepcopy(cell)
    other = reloaded(subject, trial, cell, 2)
    for each, runs in ((trial, twin), (other, cell)):
        judging.assert_right(subject, each, unrolled.run(subject, each, fuse=fuse, cell=runs))


@ways
def test_masks_change_from_call_to_call(subject: Subject, dtype: str, fuse: bool) -> None:
    """Lengths, none, other lengths: nothing of a mask stays."""
    for name in ("lstm-2-both", "gru-2-both", "rnn_relu-2-one"):
        cell: Any = unrolled.placed(subject, networks.trial(name, dtype))
        for within in ("ragged", "none", "short", "empty", "full", "ragged"):
            trial = networks.trial(name, dtype, lengths=LENGTHS[within])
            judging.assert_right(subject, trial, unrolled.run(subject, trial, fuse=fuse, cell=cell))

"""Zoneout keeps numbers of outputs and states, by masks of their own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rnnx.cells import BaseRNNCell, ZoneoutCell
from rnnx.conformance import dropping, dtypes, judging, networks, reference, slopes, unrolled
from rnnx.conformance.marks import masks
from rnnx.conformance.networks import RAGGED, STEPS, Tree, plain_cell
from rnnx.conformance.subject import Subject

MODES = ("lstm", "gru", "rnn_tanh", "gru_reset_before")

modes = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
def dtype(subject: Subject) -> str:
    """Return the most exact dtype that the backend declares."""
    return dtypes.most_exact(subject)


def zoneout(mode: str, outputs: float, states: float, hidden: int = networks.HIDDEN) -> Tree:
    """Return a plain cell with zoneout."""

    def build() -> BaseRNNCell:
        return ZoneoutCell(plain_cell(mode, hidden), outputs, states)

    return Tree(f"zoneout_{mode}", build)


@modes
@masks
def test_none_in_inference(subject: Subject, mode: str, dtype: str, lengths: tuple[int, ...] | None) -> None:
    """Nothing is kept, whatever the seed."""
    trial = networks.trial(zoneout(mode, 0.4, 0.6), dtype, lengths=lengths)
    judging.assert_right(subject, trial, unrolled.run(subject, trial, seed=3))


@modes
def test_rate_zero(subject: Subject, mode: str, dtype: str) -> None:
    """Training with fractions of 0 is inference."""
    trial = networks.trial(zoneout(mode, 0.0, 0.0), dtype, lengths=RAGGED)
    judging.assert_right(subject, trial, unrolled.run(subject, trial, training=True, seed=3))


@modes
@pytest.mark.parametrize("rates", [(0.4, 0.0), (0.0, 0.3), (0.5, 0.2)], ids=str)
def test_each_number_is_new_or_old(subject: Subject, mode: str, rates: tuple[float, float], dtype: str) -> None:
    """Outputs before the first step are zeros; shares are the fractions; no two masks are the same."""
    trial = networks.trial(zoneout(mode, *rates, hidden=31), dtype, batch=9)
    masks = dropping.zoned_out(subject, trial, seed=3)
    for mask, rate in zip(masks, (rates[0], rates[1], rates[1]), strict=False):
        sigma = (rate * (1 - rate) / mask.size) ** 0.5
        assert abs((~mask).mean() - rate) <= 5 * sigma, f"{(~mask).mean():.3f} are kept, expected {rate}"
        if rate:
            judging.assert_unrelated(mask[:, 1:], mask[:, :-1], (rate, rate), "masks of neighbouring steps")
            judging.assert_unrelated(mask[1:], mask[:-1], (rate, rate), "masks of neighbouring rows")
    if rates[0] and rates[1]:
        judging.assert_unrelated(masks[0], masks[1], rates, "masks of outputs and h")
    if rates[1] and len(masks) == 3:
        judging.assert_unrelated(masks[1], masks[2], (rates[1], rates[1]), "masks of h and c")


@modes
def test_the_whole_sequence(subject: Subject, mode: str, dtype: str) -> None:
    """The reference with the masks that were read step by step computes what the backend does in one call."""
    tree = zoneout(mode, 0.4, 0.3)
    masks = dropping.zoned_out(subject, networks.trial(tree, dtype), seed=3)
    trial = networks.trial(dropping.zoned(tree, masks), dtype)
    judging.assert_right(subject, trial, unrolled.run(subject, trial, training=True, seed=3))


@modes
def test_all_outputs_kept(subject: Subject, mode: str, dtype: str) -> None:
    """A fraction of 1 gives zeros; states are as without."""
    trial = networks.trial(zoneout(mode, 1.0, 0.0), dtype, lengths=RAGGED)
    outputs, states = trial.expected()
    found = unrolled.run(subject, trial, training=True, seed=3)
    judging.assert_right(subject, trial, found, (np.zeros_like(outputs), states))


@modes
def test_all_states_kept(subject: Subject, mode: str, dtype: str) -> None:
    """A fraction of 1 leaves the begin states; outputs are those of a first step, each from its own inputs."""
    trial = networks.trial(zoneout(mode, 0.0, 1.0), dtype)
    network = trial.network_of(trial.weights)
    outputs = [reference.run(network, trial.inputs[:, time : time + 1], trial.begin)[0] for time in range(STEPS)]
    found = unrolled.run(subject, trial, training=True, seed=3)
    judging.assert_right(subject, trial, found, (np.concatenate(outputs, 1), trial.begin or ()))


@modes
def test_masked_steps(subject: Subject, mode: str, dtype: str) -> None:
    """Zoneout changes nothing past a row's length, nor does the length what was before it."""
    trial = networks.trial(zoneout(mode, 0.4, 0.3), dtype)
    whole = unrolled.run(subject, trial, training=True, seed=3)
    cut = unrolled.run(subject, dataclasses.replace(trial, lengths=RAGGED), training=True, seed=3)
    outputs, found = subject.numpy(whole.outputs), subject.numpy(cut.outputs)
    for row, length in enumerate(RAGGED):
        judging.assert_numbers(found[row, :length], outputs[row, :length], subject.tolerance(dtype), f"row {row}")
        assert not found[row, length:].any(), f"outputs of row {row} are not zero past its length {length}"
    for place, state in enumerate(cut.states):
        begin = (trial.begin or ())[place]
        judging.assert_numbers(subject.numpy(state)[1], begin[1], 0.0, f"state {place} of the row without a step")
        full = subject.numpy(whole.states[place])[2]
        judging.assert_numbers(subject.numpy(state)[2], full, subject.tolerance(dtype), f"state {place} of a full row")


@modes
def test_seeds(subject: Subject, mode: str, dtype: str) -> None:
    """The same seed keeps the same, another one or none something else."""
    trial = networks.trial(zoneout(mode, 0.4, 0.3), dtype)
    runs = [unrolled.run(subject, trial, training=True, seed=seed) for seed in (3, 3, 4, None, None)]
    results = [unrolled.bits(subject, run.arrays()) for run in runs]
    judging.assert_unchanged(results[1], results[0], "two calls with one seed")
    for place in (2, 3, 4):
        assert all(results[place] != results[other] for other in range(place)), "other seeds keep the same numbers"


@pytest.mark.needs("gradients")
@modes
def test_gradients(subject: Subject, mode: str, dtype: str) -> None:
    """Exact, by the reference with the masks that were read."""
    tree = zoneout(mode, 0.4, 0.3)
    masks = dropping.zoned_out(subject, networks.trial(tree, dtype), seed=3)
    expected = slopes.expected(dropping.zoned(tree, masks), dtype, None)
    derived = unrolled.differentiate(subject, expected.trial, training=True, seed=3)
    judging.assert_right(subject, expected.trial, derived.found)
    gradients = derived.pull(expected.outputs, expected.states)
    judging.assert_gradients(subject, expected, gradients, derived.found.kernels)

"""Saturated gates, huge and tiny numbers, NaN and padding stay where they belong."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rnnx.conformance import judging, networks, slopes, unrolled
from rnnx.conformance.dtypes import most_exact
from rnnx.conformance.marks import masks, modes, ways, wide_dtypes
from rnnx.conformance.networks import FUSED, MODES, PLAIN, RAGGED, TREES, Array, Trial
from rnnx.conformance.subject import Subject
from rnnx.conformance.unrolled import Found, bits

#: Plain cells, a fused cell of each mode in both directions, and trees of several cells.
SOME = (
    *(tree.name for tree in PLAIN),
    *(f"{mode}-2-both" for mode in MODES),
    "both_unlike",
    "residual_stack",
    "own_wide",
)

trees = pytest.mark.parametrize("name", SOME)

#: Those whose outputs are bounded.
BOUNDED = tuple(name for name in SOME if "relu" not in name and name not in ("residual_stack", "own_wide"))


def judge(subject: Subject, trial: Trial, fuse: bool) -> Found:
    """Judge a trial, whatever the reference thinks of its numbers, and return what was found."""
    __tracebackhide__ = True
    found = unrolled.run(subject, trial, fuse=fuse)
    with np.errstate(all="ignore"):
        expected = trial.expected()
    judging.assert_right(subject, trial, found, expected)
    return found


def input_biases(trial: Trial, weights: dict[str, Array]) -> list[Array]:
    """Return the biases of the inputs' share among a trial's weights, as views."""
    if trial.tree not in FUSED:
        return [array for key, array in weights.items() if key.endswith("i2h_bias")]
    (vector,) = weights.values()
    return [each["i2h_bias"] for layer in networks.cut(trial.tree, vector) for each in layer]


@wide_dtypes
@ways
@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("size", [30.0, 1e4])
def test_saturated_gates(subject: Subject, name: str, dtype: str, size: float, fuse: bool) -> None:
    """Biases that close or open every gate for good."""
    trial = networks.trial(name, dtype, lengths=RAGGED)
    rng = np.random.default_rng(4)
    weights = {key: array.copy() for key, array in trial.weights.items()}
    for bias in input_biases(trial, weights):
        bias[...] = rng.choice([-size, size], bias.shape)
    judge(subject, dataclasses.replace(trial, weights=weights), fuse)


@wide_dtypes
@ways
@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_huge_inputs(subject: Subject, name: str, dtype: str, size: float, fuse: bool) -> None:
    """Gates saturate, and nothing overflows."""
    trial = networks.trial(name, dtype, lengths=RAGGED)
    judge(subject, dataclasses.replace(trial, inputs=networks.rounded(trial.inputs * size, dtype)), fuse)


@wide_dtypes
@ways
@pytest.mark.parametrize("name", ["lstm", "lstm-2-both", "gru-2-both", "rnn_tanh", "own_peephole"])
def test_huge_states(subject: Subject, name: str, dtype: str, fuse: bool) -> None:
    """A memory of a million is not lost."""
    trial = networks.trial(name, dtype, lengths=RAGGED)
    judge(subject, dataclasses.replace(trial, begin=tuple(state * 2.0**20 for state in trial.begin or ())), fuse)


@wide_dtypes
@ways
@trees
def test_tiny_numbers(subject: Subject, name: str, dtype: str, fuse: bool) -> None:
    """Denormal inputs and states, and weights of nothing but zeros."""
    trial = networks.trial(name, dtype, lengths=RAGGED)
    tiny = float(np.finfo(dtype).smallest_subnormal)
    inputs, *begin = (np.sign(array) * tiny for array in (trial.inputs, *(trial.begin or ())))
    judge(subject, dataclasses.replace(trial, inputs=inputs, begin=tuple(begin)), fuse)
    zeros = {key: np.zeros_like(array) for key, array in trial.weights.items()}
    judge(subject, dataclasses.replace(trial, weights=zeros), fuse)


@wide_dtypes
@ways
@masks
@trees
def test_nan_stays_in_its_row(
    subject: Subject, name: str, dtype: str, lengths: tuple[int, ...] | None, fuse: bool
) -> None:
    """Other rows have the very bits that they have without it, and it goes no way that the equations do not."""
    clean = networks.trial(name, dtype, lengths=lengths)
    inputs = clean.inputs.copy()
    inputs[2, 2, 0] = np.nan
    found = judge(subject, dataclasses.replace(clean, inputs=inputs), fuse)
    for array, other in zip(found.arrays(), unrolled.run(subject, clean, fuse=fuse).arrays(), strict=True):
        axis = 0 if array is found.outputs else -2
        one, two = (subject.numpy(each).take([0, 1, 3], axis) for each in (array, other))
        np.testing.assert_array_equal(one, two, "rows without NaN")


@wide_dtypes
@ways
@trees
@pytest.mark.parametrize("place", [0, 3])
def test_nan_in_a_state(subject: Subject, name: str, dtype: str, place: int, fuse: bool) -> None:
    """An initial state that is not a number is one row's affair."""
    trial = networks.trial(name, dtype, lengths=RAGGED)
    for which in {0, len(trial.begin or ()) - 1}:
        begin = [state.copy() for state in trial.begin or ()]
        begin[which][..., place, 0] = np.nan
        judge(subject, dataclasses.replace(trial, begin=tuple(begin)), fuse)


@wide_dtypes
@ways
@pytest.mark.parametrize("name", [name for name in BOUNDED if name not in ("rnn_softsign", "rnn_softrelu")])
def test_infinity(subject: Subject, name: str, dtype: str, fuse: bool) -> None:
    """An input that is infinite saturates gates; no NaN comes of it that the equations do not give."""
    trial = networks.trial(name, dtype)
    inputs = trial.inputs.copy()
    inputs[1, 2, 0], inputs[3, 0, 1] = np.inf, -np.inf
    judge(subject, dataclasses.replace(trial, inputs=inputs), fuse)


# -- padding ----------------------------------------------------------------------------------------------------------

GARBAGE = {"nan": np.nan, "inf": np.inf, "minus_inf": -np.inf, "huge": 1e38}

garbages = pytest.mark.parametrize("garbage", GARBAGE)


def spoiled(trial: Trial, garbage: str) -> Trial:
    """Return the trial with something in its padding."""
    inputs: Array = trial.inputs.copy()
    for row, length in enumerate(trial.lengths or ()):
        inputs[row, length:] = GARBAGE[garbage]
    return dataclasses.replace(trial, inputs=inputs)


@wide_dtypes
@ways
@garbages
@trees
def test_padding_is_not_looked_at(subject: Subject, name: str, dtype: str, garbage: str, fuse: bool) -> None:
    """Whatever is there, results are those of zeros bit for bit."""
    trial = networks.trial(name, dtype, lengths=RAGGED)
    clean = unrolled.run(subject, spoiled(trial, garbage), fuse=fuse)
    blank = unrolled.run(subject, dataclasses.replace(trial, inputs=spoiled(trial, "zero").inputs), fuse=fuse)
    judging.assert_same(subject, clean.arrays(), blank.arrays(), f"results with {garbage} in the padding")
    judging.assert_right(subject, trial, clean)


GARBAGE["zero"] = 0.0


@pytest.mark.needs("gradients")
@ways
@pytest.mark.parametrize("garbage", ["nan", "inf", "huge"])
@trees
def test_gradients_do_not_look_at_padding(subject: Subject, name: str, garbage: str, fuse: bool) -> None:
    """Nor does anything of it come through where gradients go back."""
    dtype = most_exact(subject)
    expected = slopes.expected(TREES[name], dtype, RAGGED)
    derived = unrolled.differentiate(subject, spoiled(expected.trial, garbage), fuse=fuse)
    judging.assert_right(subject, expected.trial, derived.found)
    gradients = derived.pull(expected.outputs, expected.states)
    judging.assert_gradients(subject, expected, gradients, derived.found.kernels)


@pytest.mark.needs("gradients")
@ways
@modes
def test_gradients_of_saturated_gates(subject: Subject, mode: str, fuse: bool) -> None:
    """Are zero or small, and numbers."""
    dtype = most_exact(subject)
    trial = networks.trial(mode, dtype)
    trial = dataclasses.replace(trial, inputs=trial.inputs * 2.0**14)
    derived = unrolled.differentiate(subject, trial, fuse=fuse)
    outputs, states = trial.expected()
    gradients = derived.pull(np.ones_like(outputs), [np.ones_like(state) for state in states])
    for name, gradient in gradients.items():
        assert np.isfinite(subject.numpy(gradient)).all(), f"the gradient of {name} is not finite"
    assert bits(subject, derived.found.arrays())

"""Gradients of weights, inputs and initial states are exact."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from rnnx.conformance import dtypes, judging, networks, slopes, unrolled
from rnnx.conformance.marks import masks, singles, trees, ways
from rnnx.conformance.networks import FUSED, FUSED_FEW, NESTED, PLAIN, RAGGED, Tree
from rnnx.conformance.slopes import Expected
from rnnx.conformance.subject import Subject

pytestmark = pytest.mark.needs("gradients")

Record = Callable[[str, object], None]


#: Fused cells of every mode, with one to three layers, in one direction and both.
DEEP = tuple(tree for tree in FUSED if tree.name.endswith(("1-one", "1-both", "2-both", "3-one")))


def check(subject: Subject, expected: Expected, fuse: bool, training: bool = False) -> unrolled.Derived:
    """Judge results and gradients of a trial, and return what `vjp` gave."""
    __tracebackhide__ = True
    trial = expected.trial
    derived = unrolled.differentiate(subject, trial, fuse=fuse, training=training, seed=4)
    judging.assert_right(subject, trial, derived.found)
    gradients = derived.pull(expected.outputs, expected.states)
    judging.assert_gradients(subject, expected, gradients, derived.found.kernels)
    inputs = subject.numpy(gradients["inputs"])
    for row, length in enumerate(trial.lengths or ()):
        assert not inputs[row, length:].any(), f"padding of row {row}, of length {length}, has a gradient"
    return derived


@masks
@trees(*PLAIN, *DEEP, *NESTED)
def test_all_arguments(subject: Subject, tree: Tree, lengths: tuple[int, ...] | None, record_property: Record) -> None:
    """Of the weights, the inputs and the initial states, by whatever the backend runs them with."""
    derived = check(subject, slopes.expected(tree, dtypes.most_exact(subject), lengths), True)
    for kernel in derived.found.kernels:
        record_property("kernel", kernel)


@masks
@trees(*PLAIN, *(tree for tree in FUSED if "-2-" in tree.name), *NESTED)
def test_all_arguments_stepped(subject: Subject, tree: Tree, lengths: tuple[int, ...] | None) -> None:
    """The same, stepped through time."""
    check(subject, slopes.expected(tree, dtypes.most_exact(subject), lengths), False)


@masks
@singles
@trees(*FUSED_FEW)
def test_in_float32(subject: Subject, tree: Tree, dtype: str, lengths: tuple[int, ...] | None) -> None:
    """The same in fewer digits."""
    check(subject, slopes.expected(tree, dtype, lengths), True)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@trees(*(tree for tree in FUSED if tree.name.endswith("1-one")))
def test_every_gate(subject: Subject, tree: Tree, dtype: str) -> None:
    """The gradient of each gate alone, in fewer digits."""
    expected = slopes.expected(tree, dtype, RAGGED)
    derived = check(subject, expected, True)
    gradients = derived.pull(expected.outputs, expected.states)
    each = dataclasses.replace(expected, slopes=tuple(expected.each()))
    judging.assert_gradients(subject, each, gradients, derived.found.kernels)


@masks
@trees(*FUSED_FEW)
def test_in_training(subject: Subject, tree: Tree, lengths: tuple[int, ...] | None) -> None:
    """Training changes nothing where nothing is dropped."""
    check(subject, slopes.expected(tree, dtypes.most_exact(subject), lengths), True, training=True)


@trees(*PLAIN, *FUSED_FEW)
def test_no_gate_is_left_out(subject: Subject, tree: Tree) -> None:
    """Every gate of every weight gets a gradient."""
    expected = slopes.expected(tree, dtypes.most_exact(subject), None)
    gradients = unrolled.differentiate(subject, expected.trial).pull(expected.outputs, expected.states)
    for name, gates in slopes.gates_of(expected.trial).items():
        gradient = subject.numpy(gradients[name]).ravel()
        for gate, places in gates.items():
            assert gradient[places].any(), f"the gradient of {gate} is zero"


#: A fused cell of each mode, a plain one, and trees in which several parts get gradients.
SOME = (
    *(networks.TREES[name] for name in ("lstm-2-both", "gru-2-both", "rnn_tanh-1-one", "rnn_relu-2-one", "lstm")),
    *(networks.TREES[name] for name in ("both_unlike", "residual_stack", "own_peephole")),
)


@ways
@masks
@pytest.mark.parametrize("of", ["outputs", "states", "last"])
@trees(*SOME)
def test_cotangents_of_some(subject: Subject, tree: Tree, lengths: tuple[int, ...] | None, of: str, fuse: bool) -> None:
    """Of the outputs alone, of the states alone, of one state alone."""
    check(subject, slopes.expected(tree, dtypes.most_exact(subject), lengths, of), fuse)


@ways
@masks
@trees(*SOME)
def test_pulling_back_twice(subject: Subject, tree: Tree, lengths: tuple[int, ...] | None, fuse: bool) -> None:
    """Gives the same again, also after other cotangents, and leaves earlier gradients as they were."""
    expected = slopes.expected(tree, dtypes.most_exact(subject), lengths)
    derived = unrolled.differentiate(subject, expected.trial, fuse=fuse)
    first = derived.pull(expected.outputs, expected.states)
    before = unrolled.bits(subject, first.values())
    derived.pull(-3.0 * np.asarray(expected.outputs), None)
    second = derived.pull(expected.outputs, expected.states)
    judging.assert_gradients(subject, expected, second, ["the pullback, called again"])
    judging.assert_unchanged(unrolled.bits(subject, first.values()), before, "gradients of an earlier call")
    judging.assert_unchanged(unrolled.bits(subject, second.values()), before, "gradients pulled back twice")


@ways
@masks
@trees(*SOME)
def test_no_cotangent_no_gradient(subject: Subject, tree: Tree, lengths: tuple[int, ...] | None, fuse: bool) -> None:
    """None and zeros give nothing but zeros."""
    expected = slopes.expected(tree, dtypes.most_exact(subject), lengths)
    derived = unrolled.differentiate(subject, expected.trial, fuse=fuse)
    zeros = [0.0 * np.asarray(state) for state in expected.states or ()]
    for outputs, states in ((None, None), (0.0 * np.asarray(expected.outputs), zeros)):
        for name, gradient in derived.pull(outputs, states).items():
            assert not subject.numpy(gradient).any(), f"the gradient of {name} for no cotangent is not zero"


@ways
@trees(*SOME)
def test_nothing_is_written_to(subject: Subject, tree: Tree, fuse: bool) -> None:
    """Results stay as they were when gradients are pulled back."""
    expected = slopes.expected(tree, dtypes.most_exact(subject), RAGGED)
    derived = unrolled.differentiate(subject, expected.trial, fuse=fuse)
    before = unrolled.bits(subject, derived.found.arrays())
    derived.pull(expected.outputs, expected.states)
    judging.assert_unchanged(unrolled.bits(subject, derived.found.arrays()), before, "results, once pulled back,")


@ways
@trees(*SOME)
def test_two_at_once(subject: Subject, tree: Tree, fuse: bool) -> None:
    """Two calls' pullbacks do not meet, whichever is called first."""
    both = [slopes.expected(tree, dtypes.most_exact(subject), lengths) for lengths in (None, RAGGED)]
    derived = [unrolled.differentiate(subject, expected.trial, fuse=fuse) for expected in both]
    for expected, each in zip(both, derived, strict=True):
        gradients = each.pull(expected.outputs, expected.states)
        judging.assert_gradients(subject, expected, gradients, each.found.kernels)


@ways
@pytest.mark.parametrize("layout", ["NTC", "TNC"])
@pytest.mark.parametrize("listed", [False, True], ids=["array", "list"])
def test_gradients_are_held_as_inputs_are(subject: Subject, layout: str, listed: bool, fuse: bool) -> None:
    """In one array or in a list of steps, rows first or steps first."""
    dtype = dtypes.most_exact(subject)
    expected = slopes.expected(networks.TREES["lstm-2-both"], dtype, RAGGED)
    trial = expected.trial
    sequence = trial.inputs if layout == "NTC" else trial.inputs.swapaxes(0, 1)
    steps = [trial.inputs[:, time] for time in range(networks.STEPS)]
    inputs = unrolled.cast(subject, steps, dtype) if listed else unrolled.cast(subject, [sequence], dtype)[0]
    begin = unrolled.cast(subject, trial.begin or (), dtype)
    _, _, pullback = unrolled.placed(subject, trial).vjp(
        None, inputs, begin, layout=layout, merge_outputs=True, valid_length=RAGGED, fuse=fuse
    )
    turned = np.asarray(expected.outputs)
    turned = turned if layout == "NTC" else turned.swapaxes(0, 1)
    given = unrolled.cast(subject, [turned, *(expected.states or ())], dtype)
    found = pullback(given[0], given[1:])
    assert isinstance(found.inputs, list) == listed
    gradient = found.inputs
    if listed:
        gradient = subject.backend.swapaxes(subject.backend.stack(gradient), 0, 1)
    elif layout == "TNC":
        gradient = subject.backend.swapaxes(gradient, 0, 1)
    states = {f"state {place}": state for place, state in enumerate(found.begin_state)}
    judging.assert_gradients(subject, expected, {"inputs": gradient, **states, **found.weights}, ["vjp"])


@ways
@pytest.mark.parametrize("name", ["lstm", "lstm-2-both"])
def test_one_array_for_two_states(subject: Subject, name: str, fuse: bool) -> None:
    """Each of two initial states gets its own gradient, though one array was given for both."""
    dtype = dtypes.most_exact(subject)
    made = slopes.expected(networks.TREES[name], dtype, RAGGED)
    shared = (made.trial.begin or ())[0]
    trial = dataclasses.replace(made.trial, begin=(shared, shared))
    given = tuple(slopes.slopes_along(trial, slopes.wholes(trial), made.outputs, made.states))
    expected = dataclasses.replace(made, trial=trial, slopes=given)
    inputs, state, of_outputs, *of_states = unrolled.cast(
        subject, [trial.inputs, shared, np.asarray(made.outputs), *(made.states or ())], dtype
    )
    cell = unrolled.placed(subject, trial)
    *_, pullback = cell.vjp(None, inputs, [state, state], merge_outputs=True, valid_length=RAGGED, fuse=fuse)
    found = pullback(of_outputs, of_states)
    states = {f"state {place}": gradient for place, gradient in enumerate(found.begin_state)}
    judging.assert_gradients(subject, expected, {"inputs": found.inputs, **states, **found.weights}, ["vjp"])


@ways
def test_arguments_that_do_not_matter(subject: Subject, fuse: bool) -> None:
    """Where no row has a step, weights and inputs get zeros, and begin states the cotangents of the final ones."""
    for name in ("lstm-2-both", "gru", "own_peephole"):
        expected = slopes.expected(networks.TREES[name], dtypes.most_exact(subject), (0, 0, 0, 0))
        gradients = unrolled.differentiate(subject, expected.trial, fuse=fuse).pull(expected.outputs, expected.states)
        for of, gradient in gradients.items():
            right = np.zeros(subject.numpy(gradient).shape)
            if of.startswith("state "):
                right = (expected.states or ())[int(of.removeprefix("state "))]
            judging.assert_close(
                subject, gradient, right, dtypes.most_exact(subject), f"the gradient of {of}", gradients=True
            )

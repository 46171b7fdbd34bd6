"""Dropout and zoneout in training.

MXNet's own draws can be read from its graph. Given these, rnnx must come to MXNet's very numbers, gradients included;
its own draws must be as frequent as MXNet's.
"""

from __future__ import annotations

import dataclasses
import itertools
import re

import numpy as np
import pytest

import rnnx

from .bridge import (
    Array,
    Build,
    Problem,
    Result,
    assert_agree,
    assert_gradients_agree,
    draw,
    executed,
    flat,
    loaded,
    mx,
    run_rnnx,
    stacked,
    unrolled,
)
from .trees import INFERENCE

DRAWING = {
    name: build for name, build in INFERENCE.items() if name not in ("fused with dropout", "dropout after fused")
} | {
    "zoneout of states": lambda rnn: rnn.ZoneoutCell(rnn.LSTMCell(4), zoneout_states=0.4),
    "dropout between layers of two directions": lambda rnn: stacked(
        rnn,
        rnn.BidirectionalCell(rnn.GRUCell(4, prefix="l0_"), rnn.GRUCell(4, prefix="r0_")),
        rnn.DropoutCell(0.3),
        rnn.BidirectionalCell(rnn.GRUCell(4, prefix="l1_"), rnn.GRUCell(4, prefix="r1_")),
    ),
    "dropout thrice": lambda rnn: stacked(
        rnn,
        *(cell for n in range(3) for cell in (rnn.LSTMCell(4, prefix=f"l{n}_"), rnn.DropoutCell(0.3))),
    ),
}


class Draws:
    """MXNet's draws, true where an element is kept, handed out in the order and the shapes that rnnx asks for."""

    def __init__(self, drawn: list[Array], layout: str) -> None:
        self.left = [np.moveaxis(each, layout.index("T"), 0) if each.ndim == 3 else each for each in drawn]

    def __call__(self, seed: int, probability: float, shape: tuple[int, ...], like: object) -> Array:
        if len(shape) == self.left[0].ndim:
            found = self.left.pop(0)
        else:
            found = np.stack([self.left.pop(0) for _ in range(shape[0])])
        assert found.shape == shape
        return found


def with_draws(results, problem: Problem) -> tuple[Result, Draws]:
    """Return what MXNet gives in training, and what it drew: its dropouts' outputs, zero where they dropped."""
    internals = mx.sym.Group(list(flat(results))).get_internals()
    names = {
        int(found[1]): name
        for name in internals.list_outputs()
        if (found := re.fullmatch(r"dropout(\d+)_output", name))
    }
    dropouts = [internals[names[number]] for number in sorted(names)]
    # States and outputs come first, for their gradients to be drawn as without the dropouts; theirs are nothing.
    silent = [mx.sym.BlockGrad(each) for each in dropouts]
    found = executed([results, silent], problem, training=True)
    outputs, states = found.outputs
    return (
        dataclasses.replace(found, outputs=outputs, states=states),
        Draws([each != 0 for each in found.states], problem.layout),
    )


def assert_mxnets_draws_give_mxnets_numbers(build: Build, problem: Problem, merge_outputs: bool | None, draws) -> None:
    expected, drawn = with_draws(unrolled(build(mx.rnn), problem, merge_outputs), problem)
    for fuse in (True, False):
        again = Draws(drawn.left, "TNC")
        draws(again)
        found = run_rnnx(build, problem, merge_outputs, fuse, training=True)
        assert not again.left
        assert_agree(found, expected)
        assert_gradients_agree(found, expected)


@pytest.mark.parametrize("name", DRAWING)
def test_mxnets_draws_give_mxnets_numbers(name, draws):
    forms = itertools.product(("NTC", "TNC"), (None, True, False), (False, True))
    for seed, (layout, merge_outputs, as_list) in enumerate(forms):
        problem = draw(DRAWING[name], seed, layout=layout, as_list=as_list)
        assert_mxnets_draws_give_mxnets_numbers(DRAWING[name], problem, merge_outputs, draws)


@pytest.mark.parametrize(
    ("name", "reset"),
    [
        ("zoneout", False),
        ("zoneout", True),
        ("zoneout of outputs", False),
        ("zoneout of outputs", True),
        ("zoneout in a stack", False),
        ("zoneout in a stack", True),
        ("residual of zoneout", False),
    ],
)
def test_steps_remember_the_output_before(name, reset, draws):
    build = DRAWING[name]
    problem = draw(build, seed=2, length=4, as_list=True)
    theirs, symbols = build(mx.rnn), iter(mx.sym.Variable(f"given_{number}") for number in range(100))
    inputs = [next(symbols) for _ in problem.inputs]
    states = [next(symbols) for _ in problem.begin_state]
    expected, drawn = with_draws(stepped(theirs, inputs, states, reset), problem)
    draws(drawn)
    ours = loaded(build, problem.weights)
    assert_agree(Result(*stepped(ours, problem.inputs, problem.begin_state, reset, training=True)), expected)


def stepped(cell, inputs, states, reset: bool, **mode):
    """Return the outputs of all steps and the last states; with `reset`, of two sequences one after the other."""
    outputs = []
    for number, each in enumerate(inputs):
        if reset and number == 2:
            cell.reset()
        output, states = cell(each, states, **mode)
        outputs.append(output)
    return [outputs, states]


# -- how often --------------------------------------------------------------------------------------------------------


def in_training_by_mxnet(build, problem: Problem) -> Result:
    return executed(list(unrolled(build(mx.rnn), problem, True)), problem, training=True)


def in_training_by_rnnx(build, problem: Problem, fuse: bool = True) -> Result:
    cell = loaded(build, problem.weights)
    return Result(
        *cell.unroll(None, problem.inputs, problem.begin_state, problem.layout, True, training=True, seed=11, fuse=fuse)
    )


def in_training(build, problem: Problem) -> list[Result]:
    mx.random.seed(11)
    return [
        in_training_by_mxnet(build, problem),
        in_training_by_rnnx(build, problem),
        in_training_by_rnnx(build, problem, fuse=False),
    ]


def assert_frequency(found: Array, rate: float) -> None:
    """Assert that as many are true as five standard deviations allow."""
    assert abs(found.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / found.size)


def assert_independent(dropped: Array) -> None:
    """Assert that neither neighbours in time, nor in the batch, nor among features go together."""
    centred = dropped - dropped.mean()
    for axis in (axis for axis, length in enumerate(dropped.shape) if length > 1):
        ordered = np.moveaxis(centred, axis, 0)
        products = ordered[:-1] * ordered[1:]
        assert abs(products.mean() / centred.var()) < 5 / np.sqrt(products.size)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_dropout_scales_what_it_keeps(rate):
    def build(rnn):
        return rnn.DropoutCell(rate)

    problem = draw(build, seed=1, length=20, batch=20, size=20)
    for found in in_training(build, problem):
        kept = found.outputs != 0
        np.testing.assert_allclose(found.outputs[kept], problem.inputs[kept] / (1 - rate), rtol=1e-6)
        assert_frequency(~kept, rate)
        assert_independent(~kept)


@pytest.fixture
def native_kernel(monkeypatch):
    """Let MXNet run its own RNN kernel: the one of oneDNN drops nothing."""
    monkeypatch.setenv("MXNET_USE_MKLDNN_RNN", "0")


def passing_through(layers: int, size: int, directions: int = 1) -> dict[str, Array]:
    """Return weights that make each layer of relu's add its bias, 1 in all, to positive inputs."""
    cell = rnnx.FusedRNNCell(size, layers, "rnn_relu", bidirectional=directions == 2)
    cell.initialize(size)
    weights = cell.unpack_weights(cell.get_params())
    for name, array in weights.items():
        width = array.shape[-1] // size
        array[:] = 0.5 if name.endswith("bias") else np.tile(np.eye(size), width) / width if "i2h" in name else 0
    return cell.pack_weights(weights)


@pytest.mark.parametrize("rate", [0.2, 0.5])
@pytest.mark.usefixtures("native_kernel")
def test_a_fused_cell_drops_between_its_layers_and_nowhere_else(rate):
    def build(rnn):
        return rnn.FusedRNNCell(30, 3, "rnn_relu", dropout=rate, get_next_state=True)

    problem = draw(build, seed=3, length=1, batch=40, size=30, given_states=False)
    problem = dataclasses.replace(problem, inputs=abs(problem.inputs), weights=passing_through(3, 30))
    for found in in_training(build, problem):
        first, second, third = found.states[0]
        np.testing.assert_allclose(first, problem.inputs[:, 0] + 1, rtol=1e-6)
        np.testing.assert_array_equal(found.outputs[:, 0], third)
        for below, above in ((first, second), (second, third)):
            kept = above != 1
            np.testing.assert_allclose(above[kept], below[kept] / (1 - rate) + 1, rtol=1e-5)
            assert_frequency(~kept, rate)
        assert_independent(second == 1)
        assert_frequency((second == 1) & (third == 1), rate * rate)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.usefixtures("native_kernel")
def test_a_fused_cell_draws_for_every_step_anew(directions):
    def build(rnn):
        return rnn.FusedRNNCell(20, 2, "rnn_relu", bidirectional=directions == 2, dropout=0.4)

    problem = draw(build, seed=4, length=15, batch=20, size=20, given_states=False)
    weights = passing_through(2, 20, directions)
    problem = dataclasses.replace(problem, inputs=abs(problem.inputs), weights=weights)
    for found in in_training(build, problem):
        scaled = (found.outputs[..., :20] - 1) * 0.6 / (problem.inputs + 1)
        kept = np.round(scaled * directions).astype(int)
        np.testing.assert_allclose(scaled * directions, kept, atol=1e-4)
        assert sorted(set(kept.ravel())) == list(range(directions + 1))
        for number in range(directions + 1):
            ways = [1, 1] if directions == 1 else [1, 2, 1]
            assert_frequency(kept == number, ways[number] * 0.6**number * 0.4 ** (directions - number))
        assert_independent(kept == 0)


@pytest.mark.parametrize("mode", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.usefixtures("native_kernel")
def test_a_fused_cell_of_one_layer_drops_nothing(mode, bidirectional):
    def build(rnn):
        return rnn.FusedRNNCell(4, 1, mode, bidirectional=bidirectional, dropout=0.5, get_next_state=True)

    problem = draw(build, seed=5)
    cell = loaded(build, problem.weights)
    still = Result(*cell.unroll(None, problem.inputs, problem.begin_state, merge_outputs=True))
    for found in in_training(build, problem):
        assert_agree(found, still)


@pytest.mark.parametrize(("outputs_rate", "states_rate"), [(0.2, 0.0), (0.0, 0.6), (0.3, 0.5)])
def test_zoneout_keeps_what_was_before_to_the_bit(outputs_rate, states_rate):
    def build(rnn):
        return rnn.ZoneoutCell(rnn.LSTMCell(60), outputs_rate, states_rate)

    problem = draw(build, seed=6, length=1, batch=40)
    for found, plain in zip(in_training(build, problem), in_inference(build, problem), strict=True):
        new_output, kept_output = plain.outputs, np.zeros_like(plain.outputs)
        assert_zoned_out(found.outputs, new_output, kept_output, outputs_rate)
        for state, new, old in zip(found.states, plain.states, problem.begin_state, strict=True):
            assert_zoned_out(state, new, old, states_rate)


def in_inference(build, problem: Problem) -> list[Result]:
    theirs = executed(list(unrolled(build(mx.rnn), problem, True)), problem, training=False)
    cell = loaded(build, problem.weights)
    ours = (
        Result(*cell.unroll(None, problem.inputs, problem.begin_state, problem.layout, True, fuse=False))
        for _ in range(2)
    )
    return [theirs, *ours]


def assert_zoned_out(found: Array, new: Array, old: Array, rate: float) -> None:
    assert np.all((found == new) | (found == old))
    if rate:
        assert_frequency(found == old, rate)
        assert_independent(found == old)
    else:
        np.testing.assert_array_equal(found, new)


def test_the_two_states_of_a_cell_are_zoned_out_apart():
    def build(rnn):
        return rnn.ZoneoutCell(rnn.LSTMCell(60), zoneout_states=0.5)

    problem = draw(build, seed=8, length=1, batch=40)
    for found in in_training(build, problem):
        hidden, cell = (state == old for state, old in zip(found.states, problem.begin_state, strict=True))
        assert_frequency(hidden & cell, 0.25)

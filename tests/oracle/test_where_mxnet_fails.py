"""Sane uses that bugs of MXNet 1.9.1 block: it fails, and rnnx gives what MXNet gives in a roundabout way."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import rnnx

from .bridge import (
    Build,
    Problem,
    Result,
    assert_agree,
    assert_gradients_agree,
    bound,
    cotangents,
    draw,
    executed,
    feeds,
    flat,
    loaded,
    mx,
    run_mxnet,
    run_rnnx,
    stacked,
    unrolled,
    unrolled_by_rnnx,
)
from .test_training_mode import with_draws


def bidirectional(rnn):
    return rnn.BidirectionalCell(rnn.LSTMCell(2), rnn.GRUCell(1))


# -- begin states of residuals within stacks --------------------------------------------------------------------------

RESIDUALS: dict[str, Build] = {
    "around bidirectional": lambda rnn: stacked(
        rnn, rnn.ResidualCell(bidirectional(rnn)), rnn.LSTMCell(4, prefix="b_")
    ),
    "around a stack": lambda rnn: stacked(
        rnn, rnn.RNNCell(4), rnn.ResidualCell(stacked(rnn, rnn.GRUCell(3), rnn.LSTMCell(4)))
    ),
    "as a side": lambda rnn: rnn.BidirectionalCell(rnn.ResidualCell(stacked(rnn, rnn.LSTMCell(3))), rnn.GRUCell(2)),
}


def from_zeros(build: Build, problem: Problem) -> Result:
    """Return what MXNet gives for begin states of zeros, which it can be given but not make."""
    shapes = [tuple(axis or 2 for axis in shape) for shape in build(mx.rnn).state_shape]
    given = dataclasses.replace(problem, begin_state=[np.zeros(shape, np.float32) for shape in shapes])
    return dataclasses.replace(run_mxnet(build, given), begin_state=None)


@pytest.mark.parametrize("name", RESIDUALS)
def test_the_begin_states_of_a_residual_in_a_stack(name):
    build = RESIDUALS[name]
    problem = dataclasses.replace(draw(build, seed=1), begin_state=None)
    with pytest.raises(TypeError, match="begin_state"):
        run_mxnet(build, problem)
    found = run_rnnx(build, problem)
    expected = from_zeros(build, problem)
    assert_agree(found, expected)
    assert_gradients_agree(found, expected)


@pytest.mark.parametrize("modifier", ["ResidualCell", "ZoneoutCell"])
def test_begin_states_made_by_a_function_for_a_modifier_in_a_stack(modifier):
    def build(rnn):
        return stacked(rnn, rnn.GRUCell(4), getattr(rnn, modifier)(rnn.LSTMCell(4)))

    with pytest.raises(TypeError, match="multiple values"):
        build(mx.rnn).begin_state(func=mx.sym.ones)
    problem = draw(build, seed=2)
    states = build(rnnx).begin_state(func=lambda shape: np.full(shape, 0.5, np.float32), batch_size=2)
    given = dataclasses.replace(problem, begin_state=states)
    assert [each.shape for each in states] == [(2, 4)] * 3
    assert_agree(run_rnnx(build, given), run_mxnet(build, given))


# -- zoneout of a stack -----------------------------------------------------------------------------------------------


def zoned_out_stack(rnn):
    return rnn.ZoneoutCell(stacked(rnn, rnn.LSTMCell(4), rnn.GRUCell(5)), 0.3, 0.6)


@pytest.mark.parametrize("fuse", [True, False])
def test_zoneout_of_a_stack(draws, monkeypatch, fuse):
    with pytest.raises(AttributeError, match="_bidirectional"):
        zoned_out_stack(mx.rnn)
    # MXNet asks a stack for an attribute that it never sets; once it is there, all else is as it should be.
    monkeypatch.setattr(mx.rnn.SequentialRNNCell, "_bidirectional", False, raising=False)
    problem = draw(zoned_out_stack, seed=3, length=4)
    still = run_mxnet(zoned_out_stack, problem, training=False)
    assert_agree(unrolled_by_rnnx(zoned_out_stack, problem, fuse=fuse), still)
    expected, drawn = with_draws(unrolled(zoned_out_stack(mx.rnn), problem, None), problem)
    draws(drawn)
    found = run_rnnx(zoned_out_stack, problem, fuse=fuse, training=True)
    assert_agree(found, expected)
    assert_gradients_agree(found, expected)


# -- params= ----------------------------------------------------------------------------------------------------------


def test_a_stack_takes_the_weights_of_another():
    def build(rnn, params=None):
        stack = rnn.SequentialRNNCell(params=params)
        stack.add(rnn.LSTMCell(4))
        stack.add(rnn.GRUCell(5))
        return stack

    with pytest.raises(AssertionError, match="not both"):
        build(mx.rnn, build(mx.rnn).params)
    problem = draw(build, seed=4)
    first = loaded(build, problem.weights)
    second = build(rnnx, first.params)
    found = Result(*second.unroll(None, problem.inputs, problem.begin_state))
    assert_agree(found, run_mxnet(build, problem))
    assert all(second.params[name] is first.params[name] for name in problem.weights)


def test_a_bidirectional_cell_takes_the_weights_of_another():
    def build(rnn, params=None):
        return rnn.BidirectionalCell(rnn.LSTMCell(4, prefix="l_"), rnn.LSTMCell(2, prefix="r_"), params=params)

    with pytest.raises(AssertionError, match="not both"):
        build(mx.rnn, build(mx.rnn).params)
    problem = draw(build, seed=5)
    first = loaded(build, problem.weights)
    second = build(rnnx, first.params)
    found = Result(*second.unroll(None, problem.inputs, problem.begin_state))
    assert_agree(found, run_mxnet(build, problem))
    assert all(second.params[name] is first.params[name] for name in problem.weights)


SHARING = {
    "another prefix": lambda rnn: rnn.LSTMCell(4, prefix="b_", params=rnn.LSTMCell(4, prefix="a_").params),
    "two cells of two prefixes": lambda rnn: two_of_one(rnn, "b_"),
    "two cells of one prefix": lambda rnn: two_of_one(rnn, "a_"),
    "two sides": lambda rnn: two_sides(rnn),
}


def two_of_one(rnn, prefix: str):
    first = rnn.LSTMCell(3, prefix="a_")
    return stacked(rnn, first, rnn.LSTMCell(3, prefix=prefix, params=first.params))


def two_sides(rnn):
    first = rnn.LSTMCell(4, prefix="a_")
    return rnn.BidirectionalCell(first, rnn.LSTMCell(4, prefix="r_", params=first.params))


@pytest.mark.parametrize("name", SHARING)
def test_shared_weights_are_unpacked_and_packed(name):
    build = SHARING[name]
    weights = draw(build, seed=6).weights
    assert sorted(weights) == ["a_h2h_bias", "a_h2h_weight", "a_i2h_bias", "a_i2h_weight"]
    arrays = {key: mx.nd.array(array) for key, array in weights.items()}
    with pytest.raises(KeyError, match="i2h_weight"):
        build(mx.rnn).unpack_weights(arrays)
    hidden = weights["a_h2h_weight"].shape[1]
    expected = mx.rnn.LSTMCell(hidden, prefix="a_").unpack_weights(arrays)
    unpacked = build(rnnx).unpack_weights(weights)
    assert unpacked.keys() == expected.keys()
    assert all(np.array_equal(unpacked[key], expected[key].asnumpy()) for key in expected)
    packed = build(rnnx).pack_weights(unpacked)
    assert packed.keys() == weights.keys()
    assert all(np.array_equal(packed[key], weights[key]) for key in weights)


# -- states from one call to the next ---------------------------------------------------------------------------------

NESTED: dict[str, Build] = {
    "bidirectional": lambda rnn: rnn.BidirectionalCell(rnn.LSTMCell(4, prefix="l_"), rnn.LSTMCell(4, prefix="r_")),
    "two kinds": lambda rnn: rnn.BidirectionalCell(rnn.LSTMCell(4), rnn.GRUCell(2)),
    "in a stack": lambda rnn: stacked(rnn, rnn.RNNCell(4), bidirectional(rnn), rnn.LSTMCell(2, prefix="top_")),
}


@pytest.mark.parametrize("name", NESTED)
def test_final_states_are_begin_states_of_what_follows(name):
    build = NESTED[name]
    problem = draw(build, seed=7, length=4)
    first, second = (dataclasses.replace(problem, inputs=part) for part in np.split(problem.inputs, 2, axis=1))
    _, states = build(mx.rnn).unroll(2, mx.sym.Variable("data"))
    assert any(isinstance(each, list) for each in states)
    with pytest.raises(AssertionError, match="must be Symbol instances"):
        build(mx.rnn).unroll(2, mx.sym.Variable("more"), begin_state=states)
    carried = run_mxnet(build, first).states
    expected = run_mxnet(build, dataclasses.replace(second, begin_state=list(flat(carried))))
    cell = loaded(build, problem.weights)
    _, ours = cell.unroll(None, first.inputs, first.begin_state)
    found = Result(*cell.unroll(None, second.inputs, ours))
    assert_agree(found, expected)


# -- dropout of fused cells -------------------------------------------------------------------------------------------


def test_fused_cells_drop_on_the_cpu():
    def build(rnn):
        return rnn.FusedRNNCell(4, 2, dropout=0.5, get_next_state=True)

    problem = draw(build, seed=8)
    results = list(unrolled(build(mx.rnn), problem, True))
    with_dropout = executed(results, problem, training=True)
    without = executed(results, problem, training=False)
    # oneDNN's kernel leaves it out. On some processors it rounds otherwise in training; dropout would change far more.
    np.testing.assert_allclose(with_dropout.outputs, without.outputs, atol=1e-6)
    cell = loaded(build, problem.weights)
    still, _ = cell.unroll(None, problem.inputs, problem.begin_state)
    dropping, _ = cell.unroll(None, problem.inputs, problem.begin_state, training=True, seed=1)
    assert np.abs(dropping - still).max() > 0.01


# -- gradients of a result that is returned twice ---------------------------------------------------------------------


def test_the_gradients_of_an_output_and_of_the_state_that_it_is_add_up():
    def build(rnn):
        return rnn.RNNCell(4)

    problem = draw(build, seed=9, length=1)
    both = run_mxnet(build, problem, merge_outputs=False)
    outputs, states = unrolled(build(mx.rnn), problem, merge_outputs=False)
    executor = bound(mx.sym.Group([*outputs, *states]), {**feeds(problem), **problem.weights}, training=True)
    executor.forward(is_train=True)
    given = [mx.nd.array(each) for each in cotangents(list(flat([both.outputs, both.states])), problem.seed)]
    executor.backward(given)
    lost = executor.grad_dict["rnn_h2h_bias"].asnumpy() - both.weights["rnn_h2h_bias"]
    assert np.abs(lost).max() > 0.01
    assert_gradients_agree(run_rnnx(build, problem, merge_outputs=False), both)

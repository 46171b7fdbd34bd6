"""Stacks, both directions, residuals, and weights that several cells share."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import networks
import rnnx
from networks import RAGGED, assert_all_close, batch_major, leaves, plain, sequential
from rnnx.conformance import reference

BATCH, STEPS, WIDTH, HIDDEN = 4, 5, 3, 6


def inputs_of(width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(BATCH, STEPS, width))


def fused(mode: str, layers: int, bidirectional: bool, prefix: str) -> rnnx.FusedRNNCell:
    return rnnx.FusedRNNCell(HIDDEN, layers, mode, bidirectional, get_next_state=True, prefix=prefix)


def judged(cell, input_size: int, judge, kernels, begin_of=lambda states: states) -> None:
    """Compare a tree with the reference `judge(cell)`: masked and not, from zeros and not, fused and stepped."""
    networks.randomized(cell, input_size, scale=0.7)
    inputs, rng = inputs_of(input_size), np.random.default_rng(3)
    given = [rng.uniform(-1, 1, [size or BATCH for size in shape]) for shape in cell.state_shape]
    for begin in (None, given):
        for lengths in (None, RAGGED):
            for fuse in (True, False):
                outputs, states = cell.unroll(None, inputs, begin, valid_length=lengths, fuse=fuse)
                expected, finals = reference.run(judge(cell), inputs, begin and begin_of(begin), lengths)
                assert_all_close([batch_major(outputs), *begin_of(leaves(states))], [expected, *finals], 1e-12)
    assert cell.explain(inputs).kernels == kernels
    assert set(cell.explain(inputs, fuse=False).kernels) == {"numpy.loop"}


# -- containers ------------------------------------------------------------------------------------------------------


def test_a_stack_of_different_cells():
    cell = sequential(plain("lstm", 6, "a_"), plain("gru", 5, "b_"), plain("rnn_relu", 4, "c_"))
    judged(
        cell,
        WIDTH,
        lambda cell: reference.sequential(
            networks.reference_of("lstm", cell, "a_"),
            networks.reference_of("gru", cell, "b_"),
            networks.reference_of("rnn_relu", cell, "c_"),
        ),
        ("numpy.lstm", "numpy.gru", "numpy.rnn_relu"),
    )


@pytest.mark.parametrize("mode", networks.FUSED_MODES)
def test_a_stack_of_equal_cells(mode):
    cell = sequential(*(plain(mode, HIDDEN, f"{place}_") for place in "abc"))
    judged(
        cell,
        WIDTH,
        lambda cell: reference.sequential(*(networks.reference_of(mode, cell, f"{place}_") for place in "abc")),
        (f"numpy.{mode}",),
    )


def test_stacks_within_stacks():
    inner = sequential(plain("gru", 4, "b_"), sequential(plain("gru", 4, "c_")), rnnx.SequentialRNNCell())
    cell = sequential(plain("rnn_softrelu", 5, "a_"), inner, rnnx.DropoutCell(0.5), plain("lstm", 3, "d_"))
    judged(
        cell,
        WIDTH,
        lambda cell: reference.sequential(
            *(
                networks.reference_of(mode, cell, prefix)
                for mode, prefix in (("rnn_softrelu", "a_"), ("gru", "b_"), ("gru", "c_"), ("lstm", "d_"))
            )
        ),
        ("numpy.loop", "numpy.gru", "numpy.lstm"),
    )


@pytest.mark.parametrize(
    ("left", "right", "kernels"),
    [
        ("lstm", "lstm", ("numpy.lstm",)),
        ("gru", "gru", ("numpy.gru",)),
        ("lstm", "gru", ("numpy.lstm", "numpy.gru")),
        ("rnn_relu", "gru_reset_before", ("numpy.rnn_relu", "numpy.loop")),
        ("peephole", "peephole", ("numpy.loop", "numpy.loop")),
    ],
)
def test_both_directions(left, right, kernels):
    cell = rnnx.BidirectionalCell(plain(left, HIDDEN, "l_"), plain(right, HIDDEN, "r_"))
    judged(
        cell,
        WIDTH,
        lambda cell: reference.bidirectional(
            networks.reference_of(left, cell, "l_"), networks.reference_of(right, cell, "r_")
        ),
        kernels,
    )


def test_directions_of_different_width():
    cell = rnnx.BidirectionalCell(plain("lstm", 4, "l_"), plain("lstm", 2, "r_"))
    judged(
        cell,
        WIDTH,
        lambda cell: reference.bidirectional(
            networks.reference_of("lstm", cell, "l_"), networks.reference_of("lstm", cell, "r_")
        ),
        ("numpy.lstm", "numpy.lstm"),
    )


def test_directions_that_are_stacks_themselves():
    forward = sequential(plain("gru", 4, "a_"), plain("lstm", 3, "b_"))
    backward = rnnx.BidirectionalCell(plain("lstm", 2, "c_"), plain("rnn_tanh", 2, "d_"))
    judged(
        rnnx.BidirectionalCell(forward, backward),
        WIDTH,
        lambda cell: reference.bidirectional(
            reference.sequential(networks.reference_of("gru", cell, "a_"), networks.reference_of("lstm", cell, "b_")),
            reference.bidirectional(
                networks.reference_of("lstm", cell, "c_"), networks.reference_of("rnn_tanh", cell, "d_")
            ),
        ),
        ("numpy.gru", "numpy.lstm", "numpy.lstm", "numpy.rnn_tanh"),
    )


@pytest.mark.parametrize("mode", ["lstm", "gru_reset_before"])
def test_a_residual_adds_its_inputs(mode):
    cell = rnnx.ResidualCell(plain(mode, HIDDEN))
    judged(
        cell,
        HIDDEN,
        lambda cell: reference.residual(networks.reference_of(mode, cell)),
        ("numpy.lstm",) if mode == "lstm" else ("numpy.loop",),
    )


def test_a_residual_of_a_residual_stack():
    cell = rnnx.ResidualCell(sequential(rnnx.ResidualCell(plain("gru", HIDDEN, "a_")), plain("lstm", HIDDEN, "b_")))
    judged(
        cell,
        HIDDEN,
        lambda cell: reference.residual(
            reference.sequential(
                reference.residual(networks.reference_of("gru", cell, "a_")), networks.reference_of("lstm", cell, "b_")
            )
        ),
        ("numpy.gru", "numpy.lstm"),
    )


def test_a_fused_cell_in_a_stack():
    cell = sequential(plain("rnn_tanh", 4, "a_"), fused("gru", 2, True, "f_"), plain("lstm", 5, "b_"))
    networks.randomized(cell, WIDTH)
    judge = reference.sequential(
        networks.reference_of("rnn_tanh", cell, "a_"),
        networks.reference_of_fused(cell, "gru", 4, HIDDEN, 2, 2, "f_"),
        networks.reference_of("lstm", cell, "b_"),
    )
    expected, finals = reference.run(judge, inputs_of(), None, RAGGED)
    for fuse in (True, False):
        outputs, states = cell.unroll(None, inputs_of(), valid_length=RAGGED, fuse=fuse)
        first, (hidden,), last = states[:1], states[1:2], states[2:]
        assert_all_close([batch_major(outputs), *first, *hidden, *last], [expected, *finals], 1e-12)
    assert cell.explain(inputs_of()).kernels == ("numpy.rnn_tanh", "numpy.gru", "numpy.lstm")


def test_fused_cells_in_both_directions():
    cell = rnnx.BidirectionalCell(fused("lstm", 2, False, "l_"), fused("gru", 1, False, "r_"))
    networks.randomized(cell, WIDTH)
    judge = reference.bidirectional(
        networks.reference_of_fused(cell, "lstm", WIDTH, HIDDEN, 2, 1, "l_"),
        networks.reference_of_fused(cell, "gru", WIDTH, HIDDEN, 1, 1, "r_"),
    )
    expected, finals = reference.run(judge, inputs_of(), None, RAGGED)
    for fuse in (True, False):
        outputs, (left, right) = cell.unroll(None, inputs_of(), valid_length=RAGGED, fuse=fuse)
        assert_all_close([outputs, *networks.interleaved(left), *right[0]], [expected, *finals], 1e-12)
    assert cell.explain(inputs_of()).kernels == ("numpy.lstm", "numpy.gru")


@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_fused_cell_in_a_residual(bidirectional):
    width = HIDDEN * (1 + bidirectional)
    cell = networks.randomized(rnnx.ResidualCell(fused("lstm", 2, bidirectional, "f_")), width)
    judge = networks.reference_of_fused(cell, "lstm", width, HIDDEN, 2, 1 + bidirectional, "f_")
    expected, _ = reference.run(reference.residual(judge), inputs_of(width), None, RAGGED)
    outputs, _ = cell.unroll(None, inputs_of(width), valid_length=RAGGED)
    np.testing.assert_allclose(outputs, expected, atol=1e-12)
    assert cell.explain(inputs_of(width)).kernels == ("numpy.lstm",)


def test_zoneout_and_dropout_change_nothing_outside_training():
    base = sequential(plain("lstm", HIDDEN, "a_"), rnnx.DropoutCell(0.9), plain("lstm", HIDDEN, "b_"))
    judged(
        rnnx.ZoneoutCell(base, 0.7, 0.7),
        WIDTH,
        lambda cell: reference.sequential(
            networks.reference_of("lstm", cell, "a_"), networks.reference_of("lstm", cell, "b_")
        ),
        ("numpy.lstm",),
    )


def test_a_base_cell_is_used_through_its_modifier():
    base = plain("lstm", HIDDEN)
    rnnx.ResidualCell(base)
    with pytest.raises(rnnx.ModifiedCellError, match=r"LSTMCell belongs to a modifier cell"):
        base.begin_state()
    with pytest.raises(rnnx.ModifiedCellError, match="call that instead"):
        base.unroll(None, inputs_of())


# -- sharing ---------------------------------------------------------------------------------------------------------


def test_cells_given_one_container_share_their_weights():
    one = networks.randomized(plain("lstm", HIDDEN, "shared_"), WIDTH)
    other = rnnx.LSTMCell(HIDDEN, "own_", params=one.params)
    np.testing.assert_array_equal(one.unroll(None, inputs_of())[0], other.unroll(None, inputs_of())[0])
    assert other.get_params().keys() == one.get_params().keys()
    assert all(name.startswith("shared_") for name in other.get_params())
    one.params["shared_i2h_bias"] = one.params["shared_i2h_bias"] + 0.5
    np.testing.assert_array_equal(one.unroll(None, inputs_of())[0], other.unroll(None, inputs_of())[0])
    np.testing.assert_array_equal(other.get_params()["shared_i2h_bias"], one.get_params()["shared_i2h_bias"])


def test_weights_shared_by_two_directions():
    forward = plain("gru", HIDDEN, "a_")
    cell = rnnx.BidirectionalCell(forward, rnnx.GRUCell(HIDDEN, "b_", params=forward.params))
    judged(
        cell,
        WIDTH,
        lambda cell: reference.bidirectional(*[networks.reference_of("gru", cell, "a_")] * 2),
        ("numpy.gru",),
    )
    assert sorted(cell.get_params()) == ["a_h2h_bias", "a_h2h_weight", "a_i2h_bias", "a_i2h_weight"]


def test_weights_shared_by_two_layers():
    first = plain("lstm", HIDDEN, "a_")
    cell = sequential(first, rnnx.LSTMCell(HIDDEN, "b_", params=first.params))
    judged(
        cell,
        HIDDEN,
        lambda cell: reference.sequential(*[networks.reference_of("lstm", cell, "a_")] * 2),
        ("numpy.lstm",),
    )


def test_a_stack_shares_by_name():
    names = ("a_", "b_")
    one = sequential(*(plain("lstm", HIDDEN, name) for name in names))
    networks.randomized(one, WIDTH)
    other = sequential(*(plain("lstm", HIDDEN, name) for name in names), params=one.params)
    np.testing.assert_array_equal(one.unroll(None, inputs_of())[0], other.unroll(None, inputs_of())[0])
    one.load_params({name: array * 0.5 for name, array in one.get_params().items()})
    np.testing.assert_array_equal(one.unroll(None, inputs_of())[0], other.unroll(None, inputs_of())[0])


def test_a_bidirectional_cell_shares_by_name():
    one = rnnx.BidirectionalCell(plain("gru", HIDDEN, "l_"), plain("gru", HIDDEN, "r_"))
    networks.randomized(one, WIDTH)
    other = rnnx.BidirectionalCell(plain("gru", HIDDEN, "l_"), plain("gru", HIDDEN, "r_"), params=one.params)
    np.testing.assert_array_equal(one.unroll(None, inputs_of())[0], other.unroll(None, inputs_of())[0])


def test_params_are_given_once():
    cell = rnnx.LSTMCell(3, params=rnnx.RNNParams("x_"))
    with pytest.raises(rnnx.RNNXError, match="give params= to the SequentialRNNCell or to the cells within it"):
        sequential(cell, params=rnnx.RNNParams())


def test_two_cells_of_one_name_must_share_on_purpose():
    cell = rnnx.BidirectionalCell(rnnx.LSTMCell(3), rnnx.LSTMCell(3))
    with pytest.raises(rnnx.RNNXError, match=r"two cells of the tree each have .* 'lstm_i2h_weight': give one"):
        cell.unroll(None, inputs_of())


@pytest.mark.parametrize("fuse", [True, False])
def test_a_fused_cell_with_another_cells_weights(fuse):
    one = networks.randomized(fused("lstm", 2, True, "one_"), WIDTH)
    other = rnnx.FusedRNNCell(HIDDEN, 2, "lstm", True, prefix="other_", params=one.params)
    outputs, _ = other.unroll(None, inputs_of(), fuse=fuse)
    np.testing.assert_allclose(outputs, one.unroll(None, inputs_of())[0], atol=1e-12)


def test_unfusing_a_fused_cell_with_another_cells_weights():
    one = networks.randomized(fused("lstm", 2, True, "one_"), WIDTH)
    other = rnnx.FusedRNNCell(HIDDEN, 2, "lstm", True, prefix="other_", params=one.params)
    outputs, _ = other.unfuse().unroll(None, inputs_of(), merge_outputs=True)
    np.testing.assert_allclose(outputs, one.unroll(None, inputs_of())[0], atol=1e-12)


@pytest.mark.parametrize("shared_with", [rnnx.GRUCell(HIDDEN, "x_"), rnnx.LSTMCell(HIDDEN + 1, "x_")])
def test_weights_of_another_shape_cannot_be_shared(shared_with):
    with pytest.raises(rnnx.RNNXError, match="x_i2h_weight"):
        rnnx.LSTMCell(HIDDEN, "y_", params=shared_with.params).unroll(None, inputs_of())


def test_one_container_may_hold_the_weights_of_different_cells():
    container = rnnx.RNNParams("net_")
    cell = sequential(
        rnnx.FusedRNNCell(HIDDEN, get_next_state=True, params=container), rnnx.GRUCell(HIDDEN, params=container)
    )
    networks.randomized(cell, WIDTH)
    judge = reference.sequential(
        networks.reference_of_fused(cell, "lstm", WIDTH, HIDDEN, 1, 1, "net_"),
        networks.reference_of("gru", cell, "net_"),
    )
    expected, _ = reference.run(judge, inputs_of())
    np.testing.assert_allclose(cell.unroll(None, inputs_of(), merge_outputs=True)[0], expected, atol=1e-12)


def test_the_weights_of_a_stack_are_those_of_cells_added_further_down_since():
    inner = rnnx.SequentialRNNCell()
    outer = sequential(inner)
    inner.add(plain("lstm", HIDDEN, "late_"))
    outer.initialize(WIDTH)
    assert sorted(outer.params) == sorted(outer.get_params())
    assert len(outer.params) == 4


@pytest.mark.parametrize("make", [lambda: plain("lstm", HIDDEN), lambda: fused("gru", 2, True, "f_")])
def test_a_cell_is_pickled_with_its_weights(make):
    cell = networks.randomized(sequential(make(), rnnx.ZoneoutCell(plain("gru", HIDDEN, "top_"), 0.1)), WIDTH)
    twin = pickle.loads(pickle.dumps(cell))
    np.testing.assert_array_equal(
        twin.unroll(None, inputs_of(), merge_outputs=True)[0], cell.unroll(None, inputs_of(), merge_outputs=True)[0]
    )

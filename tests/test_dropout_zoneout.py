"""Dropout and zoneout: what they do to which elements, how often, and that a seed fixes it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import networks
import rnnx
from networks import FUSED_MODES, RAGGED, assert_all_close, leaves, plain, sequential
from rnnx.seeds import seeds

BATCH, STEPS, WIDTH, HIDDEN = 4, 5, 3, 6


def inputs_of(width: int = WIDTH, batch: int = BATCH) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(batch, STEPS, width))


def see_through(layers: int, rate: float, width: int) -> rnnx.FusedRNNCell:
    """A fused cell whose layer k gives max(0, x + (k+1)/8): what is dropped between the layers shows."""
    cell = rnnx.FusedRNNCell(width, layers, "rnn_relu", dropout=rate, prefix="f_")
    unfused = cell.unfuse()
    for layer in range(layers):
        for name, value in (
            ("i2h_weight", np.eye(width)),
            ("h2h_weight", np.zeros((width, width))),
            ("i2h_bias", np.full(width, (layer + 1) / 8)),
            ("h2h_bias", np.zeros(width)),
        ):
            unfused.params[f"f_l{layer}_{name}"] = value
    cell.load_params(unfused.unpack_weights(unfused.get_params()))
    return cell


def assert_share(found: np.ndarray, expected: float) -> None:
    """The share of true elements is as expected, within five standard deviations."""
    assert abs(found.mean() - expected) <= 5 * np.sqrt(expected * (1 - expected) / found.size)


# -- dropout ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_zeroes_a_share_and_scales_the_rest(rate, dtype):
    inputs = np.random.default_rng(1).uniform(1, 2, (20, 30, 40)).astype(dtype)
    outputs, states = rnnx.DropoutCell(rate).unroll(None, inputs, training=True, seed=3)
    kept = outputs != 0
    assert states == []
    assert outputs.dtype == dtype
    assert_share(~kept, rate)
    np.testing.assert_allclose(outputs[kept], inputs[kept] / (1 - rate), rtol=1e-6 if dtype == "float32" else 1e-14)


def test_dropout_draws_anew_for_every_element():
    outputs, _ = rnnx.DropoutCell(0.5).unroll(None, np.ones((20, 20, 20)), training=True, seed=3)
    kept = outputs != 0
    for axis in range(3):
        slices = np.moveaxis(kept, axis, 0).reshape(20, -1)
        assert len({slice_.tobytes() for slice_ in slices}) == 20
        for one, other in itertools.pairwise(slices):
            assert_share(one == other, 0.5)


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_dropout_is_for_training_alone(rate):
    outputs, _ = rnnx.DropoutCell(rate).unroll(None, inputs_of(), seed=3)
    np.testing.assert_array_equal(outputs, inputs_of())
    cell = rnnx.DropoutCell(rate)
    np.testing.assert_array_equal(cell(inputs_of()[:, 0], [])[0], inputs_of()[:, 0])
    assert cell.explain(inputs_of()).kernels == ()


@pytest.mark.parametrize(("rate", "expected"), [(0.0, inputs_of()), (1.0, np.zeros((BATCH, STEPS, WIDTH)))])
def test_dropout_of_none_and_of_all(rate, expected):
    outputs, _ = rnnx.DropoutCell(rate).unroll(None, inputs_of(), training=True)
    np.testing.assert_array_equal(outputs, expected)
    step, _ = rnnx.DropoutCell(rate)(inputs_of()[:, 0], [], training=True)
    np.testing.assert_array_equal(step, expected[:, 0])


def test_dropout_of_one_step():
    output, states = rnnx.DropoutCell(0.3)(np.ones((200, 50)), [], training=True, seed=1)
    assert states == []
    assert_share(output == 0, 0.3)
    np.testing.assert_allclose(output[output != 0], 1 / 0.7)


@pytest.mark.parametrize("fuse", [True, False])
def test_what_is_dropped_is_zero_whatever_it_was(fuse):
    inputs = np.full((400, 1, 1), np.nan)
    outputs, _, pullback = see_through(2, 0.5, 1).vjp(None, inputs, training=True, seed=3, fuse=fuse)
    dropped = ~np.isnan(outputs)
    assert_share(dropped, 0.5)
    np.testing.assert_array_equal(outputs[dropped], 0.25)
    of_inputs = pullback(np.full_like(outputs, np.nan)).inputs
    np.testing.assert_array_equal(of_inputs[dropped], 0.0)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63 - 1, 2**64 + 1, -1])
def test_a_seed_may_be_any_integer(seed):
    cell = rnnx.DropoutCell(0.5)
    one, other = (cell.unroll(None, np.ones((9, 9, 9)), training=True, seed=seed)[0] for _ in range(2))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("seed", [np.int64(7), np.int32(7), np.uint64(7)])
def test_a_seed_may_be_numpys_integer(seed):
    one, other = (rnnx.DropoutCell(0.5).unroll(None, np.ones((9, 9, 9)), training=True, seed=s)[0] for s in (seed, 7))
    np.testing.assert_array_equal(one, other)


def test_seeds_are_those_of_splitmix64():
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    assert list(itertools.islice(seeds(0), 4)) == [value >> 1 for value in published]


def test_seeds():
    cell = networks.randomized(rnnx.FusedRNNCell(HIDDEN, 2, dropout=0.5), WIDTH)

    def run(seed):
        return cell.unroll(None, inputs_of(), training=True, seed=seed)[0]

    np.testing.assert_array_equal(run(1), run(1))
    assert len({run(seed).tobytes() for seed in range(20)}) == 20
    assert not np.array_equal(run(None), run(None))


# -- dropout between the layers of a fused cell ----------------------------------------------------------------------


@pytest.mark.parametrize("fuse", [True, False])
def test_dropout_acts_between_layers_and_not_after_the_last(fuse):
    rate, inputs = 0.4, np.random.default_rng(1).uniform(1, 2, (10, 20, 30))
    cell = see_through(2, rate, 30)
    outputs, _ = cell.unroll(None, inputs, training=True, seed=1, fuse=fuse)
    dropped = outputs == 0.25
    assert_share(dropped, rate)
    expected = (inputs + 0.125) / (1 - rate) + 0.25
    np.testing.assert_allclose(outputs[~dropped], expected[~dropped], rtol=1e-14)


@pytest.mark.parametrize("fuse", [True, False])
def test_every_boundary_has_its_own_dropout(fuse):
    rate, inputs = 0.5, np.random.default_rng(1).uniform(1, 2, (10, 20, 30))
    outputs, _ = see_through(3, rate, 30).unroll(None, inputs, training=True, seed=1, fuse=fuse)
    neither = ((inputs + 0.125) / (1 - rate) + 0.25) / (1 - rate) + 0.375
    first, second = np.isclose(outputs, 0.25 / (1 - rate) + 0.375), outputs == 0.375
    assert_share(second, rate)
    assert_share(first, rate * (1 - rate))
    np.testing.assert_allclose(outputs[~first & ~second], neither[~first & ~second], rtol=1e-14)


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("mode", FUSED_MODES)
def test_one_layer_has_no_dropout(mode, fuse):
    cell = networks.randomized(rnnx.FusedRNNCell(HIDDEN, 1, mode, True, dropout=0.9), WIDTH)
    one, other = (cell.unroll(None, inputs_of(), training=training, fuse=fuse)[0] for training in (True, False))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("mode", FUSED_MODES)
def test_a_fused_cell_drops_nothing_outside_training(mode):
    dropping, plain_one = (rnnx.FusedRNNCell(HIDDEN, 2, mode, True, dropout=rate) for rate in (0.9, 0.0))
    one, other = (networks.randomized(cell, WIDTH).unroll(None, inputs_of())[0] for cell in (dropping, plain_one))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("fuse", [True, False])
def test_all_dropped_between_layers(fuse):
    outputs, _ = see_through(2, 1.0, HIDDEN).unroll(None, np.ones((2, 3, HIDDEN)), training=True, fuse=fuse)
    np.testing.assert_array_equal(outputs, np.full((2, 3, HIDDEN), 0.25))


@pytest.mark.parametrize("lengths", [None, RAGGED])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("mode", FUSED_MODES)
def test_a_seed_means_the_same_fused_unfused_and_stepped(mode, bidirectional, lengths):
    cell = rnnx.FusedRNNCell(HIDDEN, 3, mode, bidirectional, dropout=0.4, get_next_state=True)
    networks.randomized(cell, WIDTH, scale=0.5)
    call = {"merge_outputs": True, "valid_length": lengths, "training": True, "seed": 9}
    outputs, states = cell.unroll(None, inputs_of(), **call)
    quiet, _ = cell.unroll(None, inputs_of(), merge_outputs=True, valid_length=lengths)
    assert np.abs(outputs - quiet).max() > 1e-3
    for other, fuse in ((cell, False), (cell.unfuse(), True), (cell.unfuse(), False), (cell.unfuse().fuse(), True)):
        found, finals = other.unroll(None, inputs_of(), fuse=fuse, **call)
        finals = networks.interleaved(finals) if isinstance(other, rnnx.FusedRNNCell) else leaves(finals)
        assert_all_close([found, *finals], [outputs, *networks.interleaved(states)], 1e-12)


def test_dropout_in_a_stack():
    cell = sequential(
        rnnx.DropoutCell(0.3), plain("lstm", HIDDEN, "a_"), rnnx.DropoutCell(0.5), plain("gru", 50, "b_"),
        rnnx.DropoutCell(0.6),
    )  # fmt: skip
    networks.randomized(cell, WIDTH)
    one, other = (
        cell.unroll(None, inputs_of(), merge_outputs=True, training=True, seed=2, fuse=fuse)[0]
        for fuse in (True, False)
    )
    np.testing.assert_allclose(one, other, atol=1e-12)
    assert_share(one == 0, 0.6)
    assert cell.explain(inputs_of(), training=True).kernels == (
        "numpy.dropout",
        "numpy.lstm",
        "numpy.dropout",
        "numpy.gru",
        "numpy.dropout",
    )


def test_the_same_dropout_at_every_position_of_a_masked_batch():
    cell = sequential(rnnx.DropoutCell(0.5), plain("rnn_tanh", HIDDEN))
    networks.randomized(cell, WIDTH)
    whole, _ = cell.unroll(None, inputs_of(), merge_outputs=True, training=True, seed=2)
    masked, _ = cell.unroll(None, inputs_of(), merge_outputs=True, training=True, seed=2, valid_length=RAGGED)
    for row, length in enumerate(RAGGED):
        np.testing.assert_array_equal(masked[row, :length], whole[row, :length])
        assert not masked[row, length:].any()


# -- zoneout ---------------------------------------------------------------------------------------------------------


def zoned(base, outputs: float, states: float, width: int = WIDTH) -> tuple[rnnx.ZoneoutCell, rnnx.BaseRNNCell]:
    """A zoneout cell, and a twin of its base with the same weights."""
    twin = rnnx.BaseRNNCell.from_spec(base.spec)
    cell = networks.randomized(rnnx.ZoneoutCell(base, outputs, states), width)
    twin.load_params(cell.get_params())
    return cell, twin


def assert_new_or_old(found: np.ndarray, new: np.ndarray, old: np.ndarray, rate: float) -> None:
    is_new, is_old = found == new, found == old
    assert (is_new | is_old).all()
    assert not (is_new & is_old).any()
    assert_share(is_old, rate)


@pytest.mark.parametrize("mode", ["lstm", "gru", "rnn_relu"])
@pytest.mark.parametrize(("of_outputs", "of_states"), [(0.3, 0.0), (0.0, 0.6), (0.5, 0.2)])
def test_zoneout_keeps_elements_or_takes_them_anew(mode, of_outputs, of_states):
    batch, hidden = 30, 40
    cell, twin = zoned(plain(mode, hidden), of_outputs, of_states)
    inputs = np.abs(inputs_of(batch=batch))
    states, last = [np.full((batch, hidden), 0.1 * (n + 1)) for n in range(len(cell.state_shape))], None
    for time in range(STEPS):
        new_output, new_states = twin(inputs[:, time], states)
        output, after = cell(inputs[:, time], states, training=True, seed=time)
        touched = new_output != (0 if last is None else last)
        old_output = np.zeros_like(output) if last is None else last
        assert_new_or_old(output[touched], new_output[touched], old_output[touched], of_outputs)
        for found, new, old in zip(after, new_states, states, strict=True):
            differ = new != old
            assert_new_or_old(found[differ], new[differ], old[differ], of_states)
        states, last = after, output


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("lengths", [None, (20, 0, 31, 7) * 5])
def test_zoneout_of_outputs_unrolled(lengths, fuse):
    batch, steps, hidden = 20, 31, 8
    cell, twin = zoned(plain("lstm", hidden), 0.4, 0.0)
    inputs = np.random.default_rng(4).normal(size=(batch, steps, WIDTH))
    call = {"merge_outputs": True, "valid_length": lengths}
    base, finals = twin.unroll(None, inputs, **call)
    outputs, states = cell.unroll(None, inputs, training=True, seed=6, fuse=fuse, **call)
    assert_all_close(states, finals, 1e-12)
    last, kept = np.zeros((batch, hidden)), []
    for time in range(steps):
        valid = np.arange(batch) if lengths is None else np.flatnonzero(np.array(lengths) > time)
        is_old = outputs[valid, time] == last[valid]
        is_new = np.isclose(outputs[valid, time], base[valid, time], rtol=0, atol=1e-12)
        assert (is_new | is_old).all()
        kept.append(is_old.ravel())
        last[valid] = outputs[valid, time]
    assert_share(np.concatenate(kept), 0.4)


def test_the_output_before_the_first_is_zero():
    cell, twin = zoned(plain("lstm", 50), 0.5, 0.0)
    begin = twin.begin_state(np.ones, BATCH)
    output, _ = cell(inputs_of()[:, 0], begin, training=True, seed=1)
    assert_share(output == 0, 0.5)
    unrolled, _ = cell.unroll(None, inputs_of(), begin, training=True, seed=1)
    assert_share(unrolled[0] == 0, 0.5)


def test_an_unrolled_sequence_starts_from_zero_again():
    cell, _ = zoned(plain("lstm", HIDDEN), 1.0, 0.0)
    cell(inputs_of()[:, 0], cell.begin_state())
    outputs, _ = cell.unroll(None, inputs_of(), training=True)
    assert not np.any(outputs)


@pytest.mark.parametrize("fuse", [True, False])
def test_zoneout_of_everything_keeps_everything(fuse):
    cell, twin = zoned(plain("lstm", HIDDEN), 0.0, 1.0)
    begin = [np.full((BATCH, HIDDEN), 0.3), np.full((BATCH, HIDDEN), -0.2)]
    outputs, states = cell.unroll(None, inputs_of(), begin, training=True, fuse=fuse)
    np.testing.assert_array_equal(states, begin)
    for time in range(STEPS):
        np.testing.assert_allclose(outputs[time], twin(inputs_of()[:, time], begin)[0], atol=1e-14)


@pytest.mark.parametrize("base", [plain("gru", HIDDEN), sequential(plain("lstm", 4, "a_"), plain("gru", 3, "b_"))])
def test_zoneout_is_for_training_alone(base):
    cell, twin = zoned(base, 0.9, 0.9)
    np.testing.assert_array_equal(cell.unroll(None, inputs_of())[0], twin.unroll(None, inputs_of())[0])
    step = inputs_of()[:, 0]
    np.testing.assert_array_equal(cell(step, cell.begin_state())[0], twin(step, twin.begin_state())[0])


def test_zoneout_of_nothing_is_the_base_cell_in_training_too():
    cell, twin = zoned(plain("gru", HIDDEN), 0.0, 0.0)
    one, other = (each.unroll(None, inputs_of(), training=True)[0] for each in (cell, twin))
    np.testing.assert_array_equal(one, other)
    assert cell.explain(inputs_of(), training=True).kernels == ("numpy.gru",)


def test_zoneout_of_a_stack_acts_on_all_its_states_and_its_last_output():
    cell, twin = zoned(sequential(plain("lstm", 40, "a_"), rnnx.DropoutCell(0.0), plain("gru", 30, "b_")), 0.3, 0.6)
    inputs = inputs_of(batch=30)
    states = [np.full((30, size), 0.2) for size in (40, 40, 30)]
    new_output, new_states = twin(inputs[:, 0], states)
    output, after = cell(inputs[:, 0], states, training=True, seed=3)
    assert_new_or_old(output, new_output, np.zeros_like(output), 0.3)
    for found, new, old in zip(after, new_states, states, strict=True):
        assert_new_or_old(found, new, old, 0.6)


def test_masked_zoneout_is_the_zoneout_of_each_row_alone():
    cell, _ = zoned(plain("lstm", HIDDEN), 0.4, 0.4)
    call = {"merge_outputs": True, "training": True, "seed": 8}
    masked, states = cell.unroll(None, inputs_of(), valid_length=RAGGED, **call)
    for row, length in enumerate(RAGGED):
        assert not masked[row, length:].any()
        if length:
            alone, finals = cell.unroll(None, inputs_of()[:, :length], **call)
            np.testing.assert_array_equal(masked[row, :length], alone[row])
            for found, expected in zip(states, finals, strict=True):
                np.testing.assert_array_equal(found[row], expected[row])


def test_zoneout_seeds():
    cell, _ = zoned(plain("lstm", HIDDEN), 0.4, 0.4)

    def run(seed, fuse=True):
        return cell.unroll(None, inputs_of(), merge_outputs=True, training=True, seed=seed, fuse=fuse)[0]

    np.testing.assert_array_equal(run(1), run(1))
    np.testing.assert_array_equal(run(1), run(1, fuse=False))
    assert not np.array_equal(run(1), run(2))
    assert not np.array_equal(run(None), run(None))


@pytest.mark.parametrize(
    "base",
    [
        rnnx.FusedRNNCell(3),
        rnnx.BidirectionalCell(rnnx.LSTMCell(3, "l_"), rnnx.LSTMCell(3, "r_")),
        sequential(rnnx.LSTMCell(3), rnnx.FusedRNNCell(3, prefix="f_")),
        rnnx.ResidualCell(rnnx.FusedRNNCell(3)),
    ],
)
def test_zoneout_needs_steps(base):
    with pytest.raises(rnnx.UnsupportedError, match=r"zoneout .*(unfuse\(\) it first|cells within)"):
        rnnx.ZoneoutCell(base, 0.1)


def test_modifiers_within_modifiers():
    inner = rnnx.ZoneoutCell(plain("lstm", HIDDEN), 0.5, 0.0)
    cell = networks.randomized(rnnx.ResidualCell(inner), HIDDEN)
    twin = networks.randomized(plain("lstm", HIDDEN), HIDDEN)
    inputs = inputs_of(HIDDEN)
    base, _ = twin.unroll(None, inputs)
    outputs, _ = cell.unroll(None, inputs, training=True, seed=3)
    last = np.zeros((BATCH, HIDDEN))
    for time in range(STEPS):
        found = outputs[time] - inputs[:, time]
        is_new = np.isclose(found, base[time], atol=1e-12)
        assert (is_new | np.isclose(found, last, atol=1e-12)).all()
        last = found
    assert cell.explain(inputs, training=True).kernels == ("numpy.loop",)

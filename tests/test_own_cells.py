"""Cells that a user writes: they run, unroll, train, nest and keep their weights like rnnx's own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import networks
import rnnx
from networks import RAGGED, Accumulator, PeepholeLSTM, assert_all_close, batch_major, sequential
from rnnx.conformance import reference

BATCH, STEPS, WIDTH, HIDDEN = 4, 5, 3, 6


def inputs_of(width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(BATCH, STEPS, width))


class LoggedLSTM(rnnx.LSTMCell):
    """Rnnx's cell with something of the user's own done at each step."""

    def step(self, ops, weights, inputs, states):
        output, states = super().step(ops, weights, inputs, states)
        return output * 2.0, states


@pytest.mark.parametrize("lengths", [None, RAGGED])
@pytest.mark.parametrize("fuse", [True, False])
def test_it_runs(lengths, fuse):
    cell = networks.randomized(PeepholeLSTM(HIDDEN), WIDTH)
    begin = [np.full((BATCH, HIDDEN), 0.3), np.full((BATCH, HIDDEN), -0.4)]
    outputs, states = cell.unroll(None, inputs_of(), begin, merge_outputs=True, valid_length=lengths, fuse=fuse)
    judge = networks.reference_of("peephole", cell, "peephole_")
    expected, finals = reference.run(judge, inputs_of(), begin, lengths)
    assert_all_close([outputs, *states], [expected, *finals], 1e-12)
    plan = cell.explain(inputs_of(), fuse=fuse)
    assert plan.kernels == ("numpy.loop",)
    assert plan.refused == ("PeepholeLSTM has only its equation",)


def test_its_outputs_may_be_wider_than_its_state():
    cell = sequential(Accumulator(2, "a_"), networks.plain("gru", HIDDEN))
    networks.randomized(cell, WIDTH)
    assert cell.get_params()["cell_i2h_weight"].shape == (3 * HIDDEN, 2 + WIDTH)
    weights, hidden = cell.get_params(), np.zeros((BATCH, 2))
    wide = np.zeros((BATCH, STEPS, 2 + WIDTH))
    for time in range(STEPS):
        hidden = hidden * weights["a_decay"] + inputs_of()[:, time] @ weights["a_weight"].T
        wide[:, time] = np.concatenate([hidden, inputs_of()[:, time]], 1)
    expected, (last,) = reference.run(networks.reference_of("gru", cell), wide)
    outputs, states = cell.unroll(None, inputs_of(), merge_outputs=True)
    assert_all_close([outputs, *states], [expected, hidden, last], 1e-12)
    assert cell.explain(inputs_of()).kernels == ("numpy.loop", "numpy.gru")


def test_it_may_have_no_weights_and_widen_what_others_read():
    class Doubled(rnnx.BaseRNNCell):
        """The inputs twice, side by side."""

        state_info = ()

        def output_size(self, input_size):
            return 2 * input_size

        def step(self, ops, weights, inputs, states):
            return ops.concat([inputs, inputs]), states

    cell = networks.randomized(sequential(Doubled(), networks.plain("gru", HIDDEN)), WIDTH)
    expected, _ = reference.run(networks.reference_of("gru", cell), np.concatenate([inputs_of()] * 2, 2))
    np.testing.assert_allclose(cell.unroll(None, inputs_of(), merge_outputs=True)[0], expected, atol=1e-12)


def test_it_nests_and_takes_modifiers():
    cell = sequential(
        networks.plain("lstm", HIDDEN, "a_"),
        rnnx.ResidualCell(PeepholeLSTM(HIDDEN, "b_")),
        rnnx.BidirectionalCell(PeepholeLSTM(2, "c_"), networks.plain("gru", 3, "d_")),
    )
    networks.randomized(cell, WIDTH)
    judge = reference.sequential(
        networks.reference_of("lstm", cell, "a_"),
        reference.residual(networks.reference_of("peephole", cell, "b_")),
        reference.bidirectional(
            networks.reference_of("peephole", cell, "c_"), networks.reference_of("gru", cell, "d_")
        ),
    )
    outputs, _ = cell.unroll(None, inputs_of(), valid_length=RAGGED)
    np.testing.assert_allclose(batch_major(outputs), reference.run(judge, inputs_of(), None, RAGGED)[0], atol=1e-12)
    assert cell.explain(inputs_of()).kernels == ("numpy.lstm", "numpy.loop", "numpy.loop", "numpy.gru")


def test_it_takes_zoneout():
    cell = networks.randomized(rnnx.ZoneoutCell(PeepholeLSTM(HIDDEN), 0.5, 0.0), WIDTH)
    base, _ = cell.unroll(None, inputs_of())
    outputs, _ = cell.unroll(None, inputs_of(), training=True, seed=4)
    last = np.zeros((BATCH, HIDDEN))
    for new, found in zip(base, outputs, strict=True):
        assert ((found == new) | (found == last)).all()
        last = found
    assert 0.2 < np.mean(np.stack(outputs) == np.stack(base)) < 0.8


def test_it_sees_training_and_may_draw():
    class Noisy(Accumulator):
        def step(self, ops, weights, inputs, states):
            hidden = states[0] + ops.dropout(ops.affine(inputs, weights["weight"], None), 0.5)
            return ops.concat([hidden, inputs]), [hidden * 2.0 if ops.training else hidden]

    cell = networks.randomized(Noisy(HIDDEN), WIDTH)
    quiet, _ = cell.unroll(None, inputs_of(), merge_outputs=True)
    one, two, other = (
        cell.unroll(None, inputs_of(), merge_outputs=True, training=True, seed=seed)[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, quiet)


def test_its_weights_are_its_own_names():
    cell = networks.randomized(PeepholeLSTM(HIDDEN, "p_"), WIDTH)
    weights = cell.get_params()
    assert list(weights) == ["p_i2h_weight", "p_h2h_weight", "p_i2h_bias", "p_h2h_bias", "p_peephole_weight"]
    twin = PeepholeLSTM(HIDDEN, "p_")
    twin.load_params(weights)
    np.testing.assert_array_equal(twin.unroll(None, inputs_of())[0], cell.unroll(None, inputs_of())[0])
    assert cell.unpack_weights(weights).keys() == weights.keys()
    assert cell.pack_weights(weights).keys() == weights.keys()


def test_its_weights_are_checked():
    cell = networks.randomized(PeepholeLSTM(HIDDEN, "p_"), WIDTH)
    weights = cell.get_params()
    with pytest.raises(rnnx.WeightFormatError, match="'p_peephole_weight' is missing"):
        cell.load_params({name: array for name, array in weights.items() if "peephole" not in name})
    with pytest.raises(rnnx.WeightFormatError, match=r"'p_peephole_weight' has shape \(4, 6\), expected \(3, 6\)"):
        cell.load_params({**weights, "p_peephole_weight": np.ones((4, HIDDEN))})


def test_weights_of_fixed_shape_are_checked():
    class Scale(rnnx.BaseRNNCell):
        """outputs = scale * inputs, for inputs of one width only."""

        state_info = ()

        def __init__(self):
            super().__init__("s_")
            self.params.get("scale", shape=(WIDTH,))

        def output_size(self, input_size):
            return input_size

        def step(self, ops, weights, inputs, states):
            return inputs * weights["scale"], states

    cell = networks.randomized(Scale(), WIDTH)
    with pytest.raises(rnnx.WeightFormatError, match=r"'s_scale' has shape \(5,\), expected \(3,\)"):
        cell.load_params({"s_scale": np.ones(5)})


def test_its_first_values_are_its_own():
    cell = Accumulator(HIDDEN)
    cell.initialize(WIDTH, dtype="float64", seed=1)
    assert (cell.get_params()["sum_decay"] == 0.5).all()
    assert 0 < np.abs(cell.get_params()["sum_weight"]).max() <= 0.01


def test_a_subclass_with_its_own_step_is_stepped():
    cell, plain = (networks.randomized(make(HIDDEN, "cell_"), WIDTH) for make in (LoggedLSTM, rnnx.LSTMCell))
    expected, _ = plain.unroll(None, inputs_of(), merge_outputs=True)
    outputs, _ = cell.unroll(None, inputs_of(), merge_outputs=True)
    np.testing.assert_allclose(outputs, 2 * expected, atol=1e-12)
    plan = cell.explain(inputs_of())
    assert plan.kernels == ("numpy.loop",)
    assert plan.refused == ("no fused kernel has this cell's equation",)


def test_a_subclass_without_its_own_step_is_fused():
    class Named(rnnx.GRUCell):
        pass

    cell = networks.randomized(Named(HIDDEN, "cell_"), WIDTH)
    expected, _ = reference.run(networks.reference_of("gru", cell), inputs_of())
    np.testing.assert_allclose(cell.unroll(None, inputs_of(), merge_outputs=True)[0], expected, atol=1e-12)
    assert cell.explain(inputs_of()).kernels == ("numpy.gru",)


def test_it_trains():
    cell = networks.randomized(PeepholeLSTM(4), WIDTH)
    teacher = networks.randomized(PeepholeLSTM(4), WIDTH, seed=7)
    inputs, (target, _) = inputs_of(), teacher.unroll(None, inputs_of(), merge_outputs=True)
    losses = []
    for _ in range(60):
        outputs, _, pullback = cell.vjp(None, inputs, merge_outputs=True)
        losses.append(float(np.square(outputs - target).mean()))
        for name, gradient in pullback(outputs - target).weights.items():
            cell.params[name] = cell.params[name] - 0.1 * gradient
    assert losses[-1] < 0.3 * losses[0]
    assert all(after < before for before, after in itertools.pairwise(losses))


@pytest.mark.parametrize(
    ("missing", "wanted"), [("state_info", "define state_info"), ("step", r"define step\(self, ops, weights")]
)
def test_what_it_does_not_say_is_asked_for(missing, wanted):
    members = {name: vars(PeepholeLSTM)[name] for name in ("__init__", "state_info", "step") if name != missing}
    members["__init__"] = lambda self: rnnx.BaseRNNCell.__init__(self, "mine_")
    members["num_hidden"] = HIDDEN
    cell = type("Mine", (rnnx.BaseRNNCell,), members)()
    with pytest.raises(rnnx.UnsupportedError, match=f"Mine .*{wanted}"):
        cell.unroll(None, inputs_of())


def test_a_weight_is_declared_with_a_shape():
    with pytest.raises(rnnx.ShapeError, match="weight 'x_scale' is declared without a shape: give shape="):
        rnnx.BaseRNNCell("x_").params.get("scale")


@pytest.mark.parametrize("call", [lambda cell, x: cell.unroll(None, x), lambda cell, x: cell(x[:, 0], None)])
def test_a_step_that_loses_a_state_is_told_so(call):
    class Forgetful(PeepholeLSTM):
        def step(self, ops, weights, inputs, states):
            output, (hidden, _) = super().step(ops, weights, inputs, states)
            return output, [hidden]

    with pytest.raises(rnnx.ShapeError, match="step of Forgetful returned 1 states, expected 2"):
        call(Forgetful(HIDDEN), inputs_of())

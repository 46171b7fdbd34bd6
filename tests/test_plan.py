"""What runs fused, what steps, and what the plan says about it."""

from __future__ import annotations

import json

import numpy as np
import pytest

import networks
import rnnx
import tier1
from networks import FUSED_MODES, RAGGED, STEPPED_MODES, PeepholeLSTM, leaves, plain, sequential

BATCH, STEPS, WIDTH, HIDDEN = 4, 5, 3, 6
INPUTS = np.random.default_rng(2).normal(size=(BATCH, STEPS, WIDTH))


def layers(mode: str, count: int, hidden: int = HIDDEN) -> list[rnnx.BaseRNNCell]:
    return [plain(mode, hidden, f"{mode}{number}_") for number in range(count)]


def both(mode: str, prefix: str, hidden: int = HIDDEN, other: int | None = None) -> rnnx.BidirectionalCell:
    return rnnx.BidirectionalCell(plain(mode, hidden, f"{prefix}l_"), plain(mode, other or hidden, f"{prefix}r_"))


def kernels_of(cell: rnnx.BaseRNNCell, inputs: np.ndarray = INPUTS, **call) -> tuple[str, ...]:
    return cell.explain(inputs, **call).kernels


# -- what fuses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", FUSED_MODES)
def test_plain_cells_have_kernels(mode, training):
    kernel = (f"numpy.{mode}",)
    assert kernels_of(plain(mode, HIDDEN), training=training) == kernel
    assert kernels_of(rnnx.FusedRNNCell(HIDDEN, 2, mode, True), training=training) == kernel
    assert kernels_of(rnnx.FusedRNNCell(HIDDEN, 2, mode), valid_length=RAGGED) == kernel


@pytest.mark.parametrize("mode", FUSED_MODES)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_equal_neighbours_are_one_kernel(mode, count):
    plan = sequential(*layers(mode, count)).explain(INPUTS)
    assert plan.kernels == (f"numpy.{mode}",)
    assert plan.refused == ()
    assert f"{mode}, {count} layers of {HIDDEN}" in str(plan)


def test_neighbours_of_other_kinds_and_widths_stay_apart():
    cell = sequential(plain("lstm", 6, "a_"), plain("lstm", 5, "b_"), plain("gru", 5, "c_"), plain("gru", 5, "d_"))
    assert kernels_of(cell) == ("numpy.lstm", "numpy.lstm", "numpy.gru")
    cell = sequential(plain("rnn_tanh", 6, "a_"), plain("rnn_relu", 6, "b_"))
    assert kernels_of(cell) == ("numpy.rnn_tanh", "numpy.rnn_relu")


def test_neighbours_in_nested_stacks_are_one_kernel():
    a, b, c, d = layers("gru", 4)
    assert kernels_of(sequential(a, sequential(b, sequential(c)), d)) == ("numpy.gru",)


def test_dropout_between_equal_layers_is_in_the_kernel():
    a, b, c = layers("lstm", 3)
    cell = sequential(a, rnnx.DropoutCell(0.3), b, rnnx.DropoutCell(0.3), c)
    assert kernels_of(cell, training=True) == ("numpy.lstm",)
    assert kernels_of(cell) == ("numpy.lstm",)


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ((0.3, 0.4), ("numpy.lstm", "numpy.dropout", "numpy.lstm")),
        ((0.3, 0.0), ("numpy.lstm", "numpy.lstm")),
        ((0.0, 0.3), ("numpy.lstm", "numpy.dropout", "numpy.lstm")),
        ((0.0, 0.0), ("numpy.lstm",)),
    ],
)
def test_a_kernel_has_one_rate_of_dropout(rates, expected):
    a, b, c = layers("lstm", 3)
    cell = sequential(a, rnnx.DropoutCell(rates[0]), b, rnnx.DropoutCell(rates[1]), c)
    assert kernels_of(cell, training=True) == expected
    assert kernels_of(cell) == ("numpy.lstm",)


def test_dropout_at_the_ends_stays_outside():
    cell = sequential(rnnx.DropoutCell(0.3), *layers("gru", 2), rnnx.DropoutCell(0.3))
    assert kernels_of(cell, training=True) == ("numpy.dropout", "numpy.gru", "numpy.dropout")
    assert kernels_of(cell) == ("numpy.gru",)


def test_two_dropouts_in_a_row_are_two_dropouts():
    a, b = layers("gru", 2)
    cell = sequential(a, rnnx.DropoutCell(0.3), rnnx.DropoutCell(0.3), b)
    assert kernels_of(cell, training=True) == ("numpy.gru", "numpy.dropout", "numpy.dropout", "numpy.gru")


@pytest.mark.parametrize("mode", FUSED_MODES)
def test_two_equal_directions_are_one_kernel(mode):
    plan = both(mode, "a_").explain(INPUTS)
    assert plan.kernels == (f"numpy.{mode}",)
    assert "bidirectional" in str(plan)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_stacks_of_two_directions_are_one_kernel(dropout):
    cell = sequential(both("lstm", "a_"), rnnx.DropoutCell(dropout), both("lstm", "b_"))
    for training in (True, False):
        assert kernels_of(cell, training=training) == ("numpy.lstm",)


def test_one_and_two_directions_do_not_mix():
    cell = sequential(both("gru", "a_", 3), plain("gru", 6, "b_"), both("gru", "c_", 6))
    assert kernels_of(cell) == ("numpy.gru",) * 3


def test_unequal_directions_run_side_by_side():
    plan = both("lstm", "a_", 6, 5).explain(INPUTS)
    assert plan.kernels == ("numpy.lstm", "numpy.lstm")
    assert plan.refused == ("the two directions are not equal plain cells",)
    stacks = rnnx.BidirectionalCell(sequential(*layers("gru", 2)), plain("gru", HIDDEN, "r_"))
    assert kernels_of(stacks) == ("numpy.gru", "numpy.gru")


def test_a_residual_wraps_a_kernel():
    wide = np.zeros((BATCH, STEPS, HIDDEN))
    assert kernels_of(rnnx.ResidualCell(sequential(*layers("lstm", 3))), wide) == ("numpy.lstm",)
    assert kernels_of(rnnx.ResidualCell(both("gru", "a_", 3)), wide) == ("numpy.gru",)
    first, second = layers("lstm", 2)
    assert kernels_of(sequential(first, rnnx.ResidualCell(second))) == ("numpy.lstm", "numpy.lstm")


def test_a_fused_cell_is_a_kernel_of_its_own():
    cell = sequential(plain("lstm", HIDDEN, "a_"), rnnx.FusedRNNCell(HIDDEN, prefix="f_"), plain("lstm", HIDDEN, "b_"))
    assert kernels_of(cell) == ("numpy.lstm",) * 3


# -- what steps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", STEPPED_MODES)
def test_other_equations_step_and_say_why(mode):
    plan = plain(mode, HIDDEN).explain(INPUTS)
    assert plan.kernels == ("numpy.loop",)
    assert plan.refused == ("no fused kernel has this cell's equation",)


def test_a_cell_of_ones_own_steps_alone():
    a, b, c = layers("lstm", 3)
    plan = sequential(a, PeepholeLSTM(HIDDEN), b, c).explain(INPUTS)
    assert plan.kernels == ("numpy.lstm", "numpy.loop", "numpy.lstm")
    assert plan.refused == ("PeepholeLSTM has only its equation",)


@pytest.mark.parametrize(("rates", "steps"), [((0.1, 0.0), True), ((0.0, 0.1), True), ((0.0, 0.0), False)])
def test_zoneout_steps_in_training_alone(rates, steps):
    cell = rnnx.ZoneoutCell(sequential(*layers("lstm", 2)), *rates)
    assert kernels_of(cell) == ("numpy.lstm",)
    plan = cell.explain(INPUTS, training=True)
    assert plan.kernels == (("numpy.loop",) if steps else ("numpy.lstm",))
    assert plan.refused == (("zoneout acts between the steps",) if steps else ())


def test_zoneout_keeps_nobody_else_from_fusing():
    a, b, c, d = layers("gru", 4)
    cell = sequential(a, b, rnnx.ZoneoutCell(c, 0.1), d)
    assert kernels_of(cell, training=True) == ("numpy.gru", "numpy.loop", "numpy.gru")
    assert kernels_of(cell) == ("numpy.gru",)


@pytest.mark.parametrize("make", [lambda: plain("lstm", HIDDEN), lambda: rnnx.FusedRNNCell(HIDDEN, 2, "gru", True)])
def test_stepping_may_be_asked_for(make):
    plan = make().explain(INPUTS, fuse=False)
    assert set(plan.kernels) == {"numpy.loop"}
    assert plan.refused.count("stepping was asked for with fuse=False") >= len(plan.kernels)


def test_float16_has_no_kernel():
    reason = "the NumPy kernels take float32 and float64, not float16"
    for cell, count in ((plain("lstm", HIDDEN), 1), (rnnx.FusedRNNCell(HIDDEN, 2, "gru", True), 4)):
        plan = cell.explain(INPUTS.astype("float16"))
        assert plan.kernels == ("numpy.loop",) * count
        assert plan.refused.count(reason) >= count
    assert both("lstm", "a_").explain(INPUTS.astype("float16")).kernels == ("numpy.loop",) * 2


# -- what the plan says ----------------------------------------------------------------------------------------------


def test_a_plan_as_text():
    cell = sequential(
        *layers("lstm", 2), rnnx.DropoutCell(0.25), both("gru", "a_"), rnnx.ZoneoutCell(PeepholeLSTM(HIDDEN), 0.1)
    )
    assert str(cell.explain(INPUTS, training=True)).splitlines() == [
        "numpy, float64, training",
        "  chain",
        "    lstm, 2 layers of 6: numpy.lstm",
        "    dropout 0.25: numpy.dropout",
        "    gru, 1 layer of 6, bidirectional: numpy.gru",
        "    zoneout: numpy.loop",
        "      not faster: zoneout acts between the steps",
    ]
    assert str(rnnx.DropoutCell(0.5).explain(INPUTS)).splitlines() == ["numpy, float64", "  chain"]


def test_a_plan_as_data():
    cell = rnnx.ResidualCell(sequential(PeepholeLSTM(WIDTH, "a_"), plain("lstm", WIDTH, "b_")))
    plan = cell.explain(INPUTS.astype("float32"), valid_length=RAGGED)
    found = plan.to_dict()
    assert json.loads(json.dumps(found)) == found
    assert {name: found[name] for name in found if name != "plan"} == {
        "backend": "numpy", "dtype": "float32", "device": None, "training": False, "masked": True,
    }  # fmt: skip
    (chain,) = found["plan"]["parts"]
    loop, kernel = chain["parts"]
    assert found["plan"]["label"] == "residual"
    assert loop == {
        "label": "PeepholeLSTM",
        "kernel": "numpy.loop",
        "refused": ["PeepholeLSTM has only its equation"],
        "parts": [],
    }
    assert kernel == {"label": "lstm, 1 layer of 3", "kernel": "numpy.lstm", "refused": [], "parts": []}


def test_a_plan_needs_no_weights_and_makes_none():
    cell = plain("lstm", HIDDEN)
    assert cell.explain(INPUTS).kernels == ("numpy.lstm",)
    assert cell.get_params() == {}


def test_a_plan_takes_inputs_as_unroll_does():
    cell = plain("lstm", HIDDEN)
    steps = [INPUTS[:, time] for time in range(STEPS)]
    assert kernels_of(cell, steps) == kernels_of(cell, INPUTS.swapaxes(0, 1), layout="TNC") == ("numpy.lstm",)


def test_asking_for_a_plan_between_steps_forgets_nothing():
    cell = networks.randomized(rnnx.ZoneoutCell(plain("lstm", HIDDEN), zoneout_outputs=1.0), WIDTH)
    kept, states = cell(INPUTS[:, 0], cell.begin_state())
    cell.explain(INPUTS)
    again, _ = cell(INPUTS[:, 1], states, training=True)
    np.testing.assert_array_equal(again, kept)


# -- a backend without kernels ---------------------------------------------------------------------------------------


TREES = {
    **{mode: (lambda mode=mode: plain(mode, HIDDEN), 1) for mode in (*FUSED_MODES, *STEPPED_MODES)},
    "peephole": (lambda: PeepholeLSTM(HIDDEN), 1),
    "fused": (lambda: rnnx.FusedRNNCell(HIDDEN, 2, "lstm", True, 0.0, True, prefix="f_"), 4),
    "fused_gru": (lambda: rnnx.FusedRNNCell(HIDDEN, 3, "gru", False, 0.0, True, prefix="f_"), 3),
    "both": (lambda: both("gru", "a_"), 2),
    "zoneout": (lambda: rnnx.ZoneoutCell(plain("lstm", HIDDEN), 0.5, 0.5), 1),
    "residual": (lambda: rnnx.ResidualCell(plain("gru", WIDTH)), 1),
    "stack": (
        lambda: sequential(*layers("lstm", 2), rnnx.FusedRNNCell(HIDDEN, 1, "gru", prefix="f_"), rnnx.DropoutCell(0.5)),
        3,
    ),
}


@pytest.mark.parametrize("lengths", [None, RAGGED], ids=["unmasked", "ragged"])
@pytest.mark.parametrize("name", TREES)
def test_a_backend_without_kernels_gives_the_same_numbers(other_backend, name, lengths):
    make, loops = TREES[name]
    cell, twin = networks.randomized(make(), WIDTH), make()
    twin.load_params({key: other_backend.from_numpy(array) for key, array in cell.get_params().items()})
    expected, finals = cell.unroll(None, INPUTS, merge_outputs=True, valid_length=lengths)
    inputs = other_backend.from_numpy(INPUTS)
    found, states = twin.unroll(None, inputs, merge_outputs=True, valid_length=lengths)
    for one, other in zip([found, *leaves(states)], [expected, *leaves(finals)], strict=True):
        assert other_backend.owns(one)
        np.testing.assert_allclose(one.value, other, atol=1e-12)
    plan = twin.explain(inputs)
    assert plan.kernels == ("tier1.loop",) * loops
    if name.startswith("fused"):
        assert plan.refused[0] == "backend 'tier1' has no fused kernels"


@pytest.mark.parametrize("fuse", [True, False])
def test_a_seed_means_the_same_on_a_backend_that_draws_alike(other_backend, fuse):
    cell = networks.randomized(rnnx.FusedRNNCell(HIDDEN, 3, "lstm", True, 0.4), WIDTH)
    expected, _ = cell.unroll(None, INPUTS, training=True, seed=3, fuse=fuse)
    found, _ = cell.to("tier1").unroll(None, other_backend.from_numpy(INPUTS), training=True, seed=3)
    np.testing.assert_allclose(found.value, expected, atol=1e-12)


def test_a_backend_without_gradients_says_so(other_backend):
    cell = plain("lstm", HIDDEN)
    cell.initialize(WIDTH, backend="tier1", dtype="float64")
    with pytest.raises(rnnx.UnsupportedError, match="backend 'tier1' does not give gradients"):
        cell.vjp(None, other_backend.from_numpy(INPUTS))


def test_a_backend_may_refuse_what_would_be_joined(fresh_registry):
    rnnx.register_backend(tier1.PICKY_INFO)
    cell = sequential(*layers("lstm", 2), both("gru", "a_"), rnnx.FusedRNNCell(HIDDEN, 2, "gru", prefix="f_"))
    networks.randomized(cell, WIDTH)
    expected, _ = cell.unroll(None, INPUTS, valid_length=RAGGED)
    inputs = tier1.Wrapped(INPUTS)
    plan = cell.to("picky").explain(inputs)
    assert plan.kernels == ("picky.lstm",) * 2 + ("picky.gru",) * 4
    assert plan.refused == ("one layer, one direction",) * 2
    found, _ = cell.unroll(None, inputs, valid_length=RAGGED)
    np.testing.assert_allclose(found.value, expected, atol=1e-12)


def test_a_backend_whose_arrays_are_a_subclass_of_numpys(fresh_registry):
    rnnx.register_backend(tier1.SUBCLASS_INFO)
    inputs = INPUTS.view(tier1.Subclass)
    cell = networks.randomized(plain("lstm", HIDDEN), WIDTH)
    expected, _ = cell.unroll(None, INPUTS, merge_outputs=True)
    plan = cell.to("subclass").explain(inputs)
    found, _ = cell.unroll(None, inputs, merge_outputs=True)
    assert plan.backend.name == "subclass"
    np.testing.assert_allclose(found, expected, atol=1e-12)

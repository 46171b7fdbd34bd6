"""`LSTMPCell`, the LSTM with a projected hidden state: its equation, its gradients, its weights, in trees and files."""

from __future__ import annotations

import numpy as np
import pytest

import networks
import rnnx
from networks import RAGGED, assert_all_close, plain, same_bits, sequential
from rnnx.building import plain_cell
from rnnx.conformance import reference
from rnnx.fusion import fused_spec
from slopes import Problem

BATCH, STEPS, WIDTH, HIDDEN, PROJECTED = 4, 5, 3, 6, 2


def inputs_of(width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(BATCH, STEPS, width))


def made(prefix: str = "p_", projected: int = PROJECTED) -> rnnx.LSTMPCell:
    return rnnx.LSTMPCell(HIDDEN, projected, prefix)


def judge_of(cell: rnnx.BaseRNNCell, prefix: str = "p_") -> reference.Network:
    return networks.reference_of("lstmp", cell, prefix)


def judged(cell: rnnx.BaseRNNCell, judge: reference.Network, width: int = WIDTH) -> None:
    rng = np.random.default_rng(3)
    begin = [rng.normal(size=[size or BATCH for size in shape]) for shape in cell.state_shape]
    for lengths in (None, RAGGED):
        outputs, states = cell.unroll(None, inputs_of(width), begin, merge_outputs=True, valid_length=lengths)
        expected, finals = reference.run(judge, inputs_of(width), begin, lengths)
        assert_all_close([outputs, *networks.leaves(states)], [expected, *finals], 1e-12)


@pytest.mark.parametrize("projected", [1, PROJECTED, HIDDEN, 9])
def test_its_equation(projected):
    cell = networks.randomized(made(projected=projected), WIDTH)
    assert cell.state_shape == [(0, projected), (0, HIDDEN)]
    judged(cell, judge_of(cell))


def test_it_is_stepped_and_says_why():
    plan = made().explain(inputs_of())
    assert plan.kernels == ("numpy.loop",)
    assert plan.refused == ("no fused kernel has this cell's equation",)


@pytest.mark.parametrize("lengths", [None, RAGGED], ids=["unmasked", "ragged"])
def test_gradients_are_slopes(lengths):
    problem = Problem(made(), valid_length=lengths, merge_outputs=True)
    gradients = problem.assert_gradients()
    for name in problem.cell.get_params():
        assert gradients[name].all()
        problem.assert_slope(gradients, {name: problem.rng.normal(size=gradients[name].shape)})


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_results_are_those_of_torch(layers, bidirectional):
    torch = pytest.importorskip("torch", reason="PyTorch is the judge")
    module = torch.nn.LSTM(
        WIDTH, HIDDEN, layers, batch_first=True, bidirectional=bidirectional, proj_size=PROJECTED, dtype=torch.float64
    )
    directions = ["", "_reverse"][: 1 + bidirectional]
    cell, weights = rnnx.SequentialRNNCell(), {}
    for layer in range(layers):
        cells = [made(f"l{layer}{direction}_") for direction in directions]
        cell.add(rnnx.BidirectionalCell(*cells) if bidirectional else cells[0])
        for direction in directions:
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
            for theirs, ours in zip(
                names, ("i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias", "h2r_weight"), strict=True
            ):
                array = getattr(module, f"{theirs}_l{layer}{direction}")
                weights[f"l{layer}{direction}_{ours}"] = array.detach().numpy()
    cell.load_params(weights)
    with torch.no_grad():
        expected, (h, c) = module(torch.from_numpy(inputs_of()))
    outputs, states = cell.unroll(None, inputs_of(), merge_outputs=True)
    flat = networks.leaves(states)
    assert_all_close([outputs, *flat[::2], *flat[1::2]], [expected.numpy(), *h.numpy(), *c.numpy()], 1e-12)


# -- in trees --------------------------------------------------------------------------------------------------------


def test_in_a_stack():
    cell = networks.randomized(sequential(made("a_"), plain("gru", HIDDEN), made("b_", 5)), WIDTH)
    assert cell.get_params()["cell_i2h_weight"].shape == (3 * HIDDEN, PROJECTED)
    middle = networks.reference_of("gru", cell)
    judged(cell, reference.sequential(judge_of(cell, "a_"), middle, judge_of(cell, "b_")))


def test_in_both_directions():
    cell = networks.randomized(rnnx.BidirectionalCell(made("l_"), made("r_", 3)), WIDTH)
    assert cell.output_size(WIDTH) == PROJECTED + 3
    judged(cell, reference.bidirectional(judge_of(cell, "l_"), judge_of(cell, "r_")))


def test_in_a_residual():
    cell = networks.randomized(rnnx.ResidualCell(made(projected=WIDTH)), WIDTH)
    judged(cell, reference.residual(judge_of(cell)))


def test_in_zoneout():
    cell = networks.randomized(rnnx.ZoneoutCell(made(), 0.3, 0.4), WIDTH)
    judged(cell, judge_of(cell))
    Problem(rnnx.ZoneoutCell(made(), 0.3, 0.4), training=True, seed=5).assert_gradients()


def test_it_shares_its_weights():
    first = made("a_", WIDTH)
    cell = networks.randomized(sequential(first, rnnx.LSTMPCell(HIDDEN, WIDTH, "b_", first.params)), WIDTH)
    judged(cell, reference.sequential(judge_of(cell, "a_"), judge_of(cell, "a_")))


def test_it_has_no_fused_form():
    with pytest.raises(rnnx.UnsupportedError, match=r"a LSTMPCell .*'prefix': 'p_'.* has no fused form"):
        fused_spec(sequential(rnnx.LSTMCell(HIDDEN, "l0_"), made()).spec)


# -- weights and files -----------------------------------------------------------------------------------------------


def test_its_weights_at_first():
    cell = rnnx.LSTMPCell(HIDDEN, PROJECTED, forget_bias=2)
    cell.initialize(WIDTH, backend="numpy", dtype="float64", seed=1)
    weights = cell.get_params()
    assert {name: array.shape for name, array in weights.items()} == {
        "lstmp_i2h_weight": (4 * HIDDEN, WIDTH),
        "lstmp_h2h_weight": (4 * HIDDEN, PROJECTED),
        "lstmp_i2h_bias": (4 * HIDDEN,),
        "lstmp_h2h_bias": (4 * HIDDEN,),
        "lstmp_h2r_weight": (PROJECTED, HIDDEN),
    }
    np.testing.assert_array_equal(weights["lstmp_i2h_bias"].reshape(4, HIDDEN)[:, 0], [0, 2, 0, 0])
    assert weights["lstmp_h2r_weight"].all()


def test_unpacking_cuts_gates_apart_and_leaves_the_projection_whole():
    cell = networks.randomized(made(), WIDTH)
    packed = cell.get_params()
    unpacked = cell.unpack_weights(packed)
    assert {name: array.shape for name, array in unpacked.items()} == cell.gate_shapes(WIDTH)
    assert cell.gate_weights()["p_h2r_weight"] == ("p_h2r_weight",)
    for place, gate in enumerate(("i", "f", "c", "o")):
        rows = slice(place * HIDDEN, (place + 1) * HIDDEN)
        np.testing.assert_array_equal(unpacked[f"p_h2h_{gate}_weight"], packed["p_h2h_weight"][rows])
    same_bits(cell.pack_weights(unpacked), packed)


@pytest.mark.parametrize("form", ["packed", "unpacked"])
def test_it_takes_weights_in_either_form(form):
    cell, other = networks.randomized(made(), WIDTH), made()
    weights = cell.get_params()
    other.load_params(weights if form == "packed" else cell.unpack_weights(weights))
    same_bits(other.get_params(), weights)


def test_weights_in_both_forms_are_refused():
    cell = networks.randomized(made(), WIDTH)
    packed = cell.get_params()
    with pytest.raises(rnnx.WeightFormatError, match="packed and one a gate"):
        cell.load_params(cell.unpack_weights(packed) | {"p_h2h_bias": packed["p_h2h_bias"]})


@pytest.mark.parametrize(("name", "shape"), [("h2r_weight", (HIDDEN, PROJECTED)), ("h2h_weight", (4 * HIDDEN, HIDDEN))])
def test_weights_of_another_shape_are_refused(name, shape):
    cell = networks.randomized(made(), WIDTH)
    with pytest.raises(rnnx.WeightFormatError, match=rf"'p_{name}' has shape"):
        cell.load_params(cell.get_params() | {f"p_{name}": np.ones(shape)})


def test_its_description():
    cell = rnnx.LSTMPCell(HIDDEN, PROJECTED, "a_", forget_bias=2)
    fields = {"kind": "LSTMPCell", "num_hidden": HIDDEN, "num_projection": PROJECTED, "forget_bias": 2.0}
    assert cell.spec.to_dict() == {**fields, "prefix": "a_"}
    assert rnnx.BaseRNNCell.from_spec(rnnx.CellSpec.from_json(cell.spec.to_json())).spec == cell.spec
    assert plain_cell("lstm", HIDDEN, "lstmp_", num_projection=PROJECTED) == rnnx.LSTMPCell(HIDDEN, PROJECTED).spec


@pytest.mark.parametrize("width", [0, -1, 2.5, "2"])
def test_a_width_that_is_no_positive_whole_number_is_refused(width):
    with pytest.raises(rnnx.RNNXError, match="num_projection"):
        rnnx.LSTMPCell(HIDDEN, width)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_it_is_saved_and_loaded(tmp_path, dtype):
    cell = networks.randomized(sequential(made("a_"), rnnx.BidirectionalCell(made("l_"), made("r_"))), WIDTH, dtype)
    rnnx.save(tmp_path / "p.rnnx", cell)
    found, extra = rnnx.load(tmp_path / "p.rnnx")
    assert (found.spec, extra) == (cell.spec, {})
    same_bits(found.get_params(), cell.get_params())

"""Weights by name: packed, per gate and flat, first values, loading and moving."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import networks
import rnnx
from networks import PeepholeLSTM, plain, same_bits, sequential
from rnnx.backend import Recurrence
from rnnx.conformance import reference
from rnnx.weights import layout

WIDTH, HIDDEN = 3, 4
GATES = {"lstm": ["_i", "_f", "_c", "_o"], "gru": ["_r", "_z", "_o"], "rnn_tanh": [""], "rnn_relu": [""]}
GROUPS = ["i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias"]
INPUTS = np.random.default_rng(2).normal(size=(2, 5, WIDTH))

modes = pytest.mark.parametrize("mode", GATES)


def gate_names(prefix: str, mode: str) -> list[str]:
    return [
        f"{prefix}{side}{gate}_{kind}" for kind in ("weight", "bias") for side in ("i2h", "h2h") for gate in GATES[mode]
    ]


def fused(mode: str = "lstm", layers: int = 2, bidirectional: bool = True, **more) -> rnnx.FusedRNNCell:
    return rnnx.FusedRNNCell(HIDDEN, layers, mode, bidirectional, prefix="f_", **more)


def prefixes(layers: int, bidirectional: bool) -> list[str]:
    return [f"f_{letter}{layer}_" for layer in range(layers) for letter in ("lr" if bidirectional else "l")]


def computes_the_same(one: rnnx.BaseRNNCell, other: rnnx.BaseRNNCell) -> None:
    np.testing.assert_allclose(
        one.unroll(None, INPUTS, merge_outputs=True)[0], other.unroll(None, INPUTS, merge_outputs=True)[0], atol=1e-12
    )


# -- packing ---------------------------------------------------------------------------------------------------------


@modes
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_unpacking_cuts_gates_apart(mode, dtype):
    cell = networks.randomized(plain(mode, HIDDEN), WIDTH, dtype)
    packed = cell.get_params()
    assert sorted(packed) == sorted(f"cell_{group}" for group in GROUPS)
    unpacked = cell.unpack_weights(packed)
    assert sorted(unpacked) == sorted(gate_names("cell_", mode))
    for place, gate in enumerate(GATES[mode]):
        rows = slice(place * HIDDEN, (place + 1) * HIDDEN)
        for group in GROUPS:
            side, kind = group.split("_")
            np.testing.assert_array_equal(unpacked[f"cell_{side}{gate}_{kind}"], packed[f"cell_{group}"][rows])
    same_bits(packed, cell.pack_weights(unpacked))
    same_bits(packed, cell.get_params())


@modes
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("layers", [1, 2, 11])
def test_unpacking_a_fused_cell_cuts_its_vector_up(mode, layers, bidirectional):
    cell = networks.randomized(fused(mode, layers, bidirectional), WIDTH, "float32")
    packed = cell.get_params()
    assert list(packed) == ["f_parameters"]
    unpacked = cell.unpack_weights(packed)
    assert sorted(unpacked) == sorted(name for p in prefixes(layers, bidirectional) for name in gate_names(p, mode))
    cut = reference.cut_flat(packed["f_parameters"], mode, WIDTH, HIDDEN, layers, 1 + bidirectional)
    flat_layers = [weights for layer in cut for weights in layer]
    for prefix, weights in zip(prefixes(layers, bidirectional), flat_layers, strict=True):
        for place, gate in enumerate(GATES[mode]):
            rows = slice(place * HIDDEN, (place + 1) * HIDDEN)
            for group in GROUPS:
                side, kind = group.split("_")
                np.testing.assert_array_equal(unpacked[f"{prefix}{side}{gate}_{kind}"], weights[group][rows])
    same_bits(packed, cell.pack_weights(unpacked))


def test_a_tree_unpacks_all_its_cells():
    cell = sequential(
        plain("lstm", HIDDEN, "a_"),
        rnnx.ResidualCell(plain("gru", HIDDEN, "b_")),
        rnnx.BidirectionalCell(plain("rnn_tanh", 2, "c_"), rnnx.ZoneoutCell(plain("gru_reset_before", 3, "d_"))),
        rnnx.DropoutCell(0.5),
        rnnx.FusedRNNCell(2, mode="gru", prefix="e_"),
        PeepholeLSTM(2, "p_"),
    )
    packed = networks.randomized(cell, WIDTH).get_params()
    unpacked = cell.unpack_weights({**packed, "embedding_weight": np.ones((9, 2))})
    own = [f"p_{name}" for name in (*GROUPS, "peephole_weight")]
    expected = [*gate_names("a_", "lstm"), *gate_names("b_", "gru"), *gate_names("c_", "rnn_tanh"), *own]
    expected += [*gate_names("d_", "gru"), *gate_names("e_l0_", "gru"), "embedding_weight"]
    assert sorted(unpacked) == sorted(expected)
    embedding = unpacked.pop("embedding_weight")
    assert embedding.shape == (9, 2)
    same_bits(packed, cell.pack_weights(unpacked))


def test_packing_changes_nothing_it_was_given():
    cell = networks.randomized(plain("lstm", HIDDEN), WIDTH)
    packed = cell.get_params()
    kept = dict(packed)
    unpacked = cell.unpack_weights(packed)
    assert packed.keys() == kept.keys()
    assert not any(np.shares_memory(array, packed[name]) for array in unpacked.values() for name in packed)
    names = set(unpacked)
    cell.pack_weights(unpacked)
    assert set(unpacked) == names


@pytest.mark.parametrize("make", [lambda: plain("lstm", HIDDEN, "f_l0_"), fused])
def test_packing_needs_every_weight(make):
    cell = networks.randomized(make(), WIDTH)
    unpacked = cell.unpack_weights(cell.get_params())
    for missing in ("f_l0_i2h_i_weight", "f_l0_h2h_o_bias"):
        part = {name: array for name, array in unpacked.items() if name != missing}
        with pytest.raises(rnnx.WeightFormatError, match=rf"weight '{missing}' is missing \(nearest: 'f_[lr]0_"):
            cell.pack_weights(part)
    with pytest.raises(rnnx.WeightFormatError, match="is missing"):
        cell.unpack_weights({})


def test_a_layer_of_another_shape_is_not_packed():
    cell = networks.randomized(fused(), WIDTH)
    unpacked = cell.unpack_weights(cell.get_params())
    for gate in GATES["lstm"]:
        unpacked[f"f_r1_h2h{gate}_weight"] = np.ones((HIDDEN, 5))
    with pytest.raises(rnnx.WeightFormatError, match=r"'f_r1_h2h_weight', all gates .* \(16, 5\), expected \(16, 4\)"):
        cell.pack_weights(unpacked)


@settings(deadline=None, max_examples=40)
@given(
    mode=st.sampled_from(sorted(GATES)),
    width=st.integers(1, 5),
    hidden=st.integers(1, 5),
    layers=st.integers(1, 4),
    bidirectional=st.booleans(),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_any_fused_cell_survives_every_form(mode, width, hidden, layers, bidirectional, dtype):
    cell = rnnx.FusedRNNCell(hidden, layers, mode, bidirectional, get_next_state=True)
    packed = networks.randomized(cell, width, dtype).get_params()
    same_bits(packed, cell.pack_weights(cell.unpack_weights(packed)))
    unfused = cell.unfuse()
    per_layer = unfused.get_params()
    same_bits(packed, unfused.fuse().get_params())
    for weights in (packed, per_layer, cell.unpack_weights(packed)):
        for twin in (rnnx.FusedRNNCell(hidden, layers, mode, bidirectional), rnnx.BaseRNNCell.from_spec(unfused.spec)):
            twin.load_params(weights)
            same_bits(packed if isinstance(twin, rnnx.FusedRNNCell) else per_layer, twin.get_params())


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=44, max_size=44))
def test_bits_are_moved_and_never_changed(values):
    vector = np.array(values, "float32")
    cell = rnnx.FusedRNNCell(1, mode="lstm", num_layers=2)
    cell.load_params({"lstm_parameters": np.resize(vector, layout.flat_size(Recurrence("lstm", 3, 1, 2)))})
    packed = cell.get_params()
    same_bits(packed, cell.pack_weights(cell.unpack_weights(packed)))


# -- fused and unfused -----------------------------------------------------------------------------------------------


@modes
@pytest.mark.parametrize("bidirectional", [True, False])
def test_unfusing_names_cells_as_mxnet_does(mode, bidirectional):
    stack = fused(mode, 2, bidirectional, dropout=0.3).unfuse()
    lower, dropout, upper = stack.spec.children
    assert dropout.kind == "DropoutCell"
    assert dropout.fields == {"dropout": 0.3, "prefix": "f__dropout0_"}
    for layer, cell in enumerate((lower, upper)):
        if bidirectional:
            assert cell.fields["output_prefix"] == f"f_bi_l{layer}_"
            assert [child.fields["prefix"] for child in cell.children] == [f"f_l{layer}_", f"f_r{layer}_"]
        else:
            assert cell.fields["prefix"] == f"f_l{layer}_"


@modes
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_unfused_and_fused_again(mode, layers, bidirectional):
    cell = networks.randomized(fused(mode, layers, bidirectional, dropout=0.25, get_next_state=True), WIDTH)
    unfused = cell.unfuse()
    computes_the_same(cell, unfused)
    again = unfused.fuse()
    same_bits(cell.get_params(), again.get_params())
    assert again.spec == cell.spec or layers == 1
    assert again.fuse().spec == again.spec
    computes_the_same(cell, again)


def test_unfusing_a_cell_without_weights():
    assert fused().unfuse().get_params() == {}
    assert fused().unfuse().fuse().get_params() == {}


def test_unfusing_copies():
    cell = networks.randomized(fused(), WIDTH)
    before = cell.get_params()
    unfused = cell.unfuse()
    unfused.load_params({name: array * 0 for name, array in unfused.get_params().items()})
    same_bits(before, cell.get_params())


@pytest.mark.parametrize(
    ("cell", "stands_in_the_way"),
    [
        (lambda: PeepholeLSTM(3, "l0_"), "PeepholeLSTM"),
        (lambda: rnnx.RNNCell(3, "sigmoid", "l0_"), "RNNCell.*sigmoid"),
        (lambda: rnnx.GRUCell(3, "l0_", reset_after=False), "GRUCell.*reset_after"),
        (lambda: rnnx.ResidualCell(rnnx.LSTMCell(3, "l0_")), "ResidualCell"),
        (lambda: rnnx.ZoneoutCell(rnnx.LSTMCell(3, "l0_")), "ZoneoutCell"),
        (lambda: rnnx.DropoutCell(0.1), "DropoutCell"),
        (lambda: sequential(plain("lstm", 3, "l0_"), rnnx.DropoutCell(0.1)), "DropoutCell"),
        (lambda: sequential(plain("lstm", 3, "l0_"), plain("gru", 3, "l1_")), "the kind of cell differs"),
        (lambda: sequential(plain("lstm", 3, "l0_"), plain("lstm", 4, "l1_")), r"num_hidden differs, \[3, 4\]"),
        (lambda: sequential(plain("lstm", 3, "l0_"), plain("lstm", 3, "l2_")), "'l2_' would have to be called 'l1_'"),
        (lambda: sequential(plain("lstm", 3, "a_l0_"), plain("lstm", 3, "b_l1_")), "'b_l1_' would .* 'a_l1_'"),
        (lambda: plain("lstm", 3, "lstm_"), "'lstm_' would have to be called 'l0_'"),
        (
            lambda: sequential(
                plain("lstm", 3, "l0_"), rnnx.DropoutCell(0.1), plain("lstm", 3, "l1_"), rnnx.DropoutCell(0.2),
                plain("lstm", 3, "l2_"),
            ),
            r"the dropout between layers differs, \[0.1, 0.2\]",
        ),
        (
            lambda: sequential(
                rnnx.BidirectionalCell(plain("lstm", 3, "l0_"), plain("lstm", 3, "r0_")), plain("lstm", 3, "l1_")
            ),
            r"the number of directions differs, \[1, 2\]",
        ),
        (
            lambda: sequential(rnnx.LSTMCell(3, "l0_", forget_bias=0.5), plain("lstm", 3, "l1_")),
            r"forget_bias differs, \[0.5, 1.0\]",
        ),
        (lambda: rnnx.SequentialRNNCell(), "no fused form"),
    ],
)  # fmt: skip
def test_what_has_no_fused_form_is_named(cell, stands_in_the_way):
    with pytest.raises(rnnx.UnsupportedError, match=stands_in_the_way):
        cell().fuse()


def test_a_stack_of_ones_own_fuses_if_its_names_allow():
    cell = sequential(plain("gru", HIDDEN, "my_l0_"), sequential(plain("gru", HIDDEN, "my_l1_")))
    networks.randomized(cell, WIDTH)
    fused_cell = cell.fuse()
    assert list(fused_cell.get_params()) == ["my_parameters"]
    computes_the_same(cell, fused_cell)


# -- layout ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    mode=st.sampled_from(sorted(GATES)),
    width=st.integers(1, 40),
    hidden=st.integers(1, 20),
    layers=st.integers(1, 5),
    bidirectional=st.booleans(),
)
def test_the_size_of_a_vector_and_back(mode, width, hidden, layers, bidirectional):
    recurrence = Recurrence(mode, width, hidden, layers, bidirectional)
    gates, directions = len(GATES[mode]), 1 + bidirectional
    size = gates * hidden * directions * (width + hidden + 2)
    size += (layers - 1) * gates * hidden * directions * (directions * hidden + hidden + 2)
    assert layout.flat_size(recurrence) == size
    assert layout.input_size_of_flat(size, Recurrence(mode, 1, hidden, layers, bidirectional)) == width
    if gates * hidden * directions > 1:
        with pytest.raises(rnnx.WeightFormatError, match=f"vector of {size + 1} elements is no {mode}"):
            layout.input_size_of_flat(size + 1, recurrence)


@settings(deadline=None, max_examples=30)
@given(
    mode=st.sampled_from(sorted(GATES)),
    width=st.integers(1, 4),
    hidden=st.integers(1, 4),
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
)
def test_a_vector_is_cut_up_as_cudnn_lays_it_out(mode, width, hidden, layers, bidirectional):
    numpy = rnnx.get_backend("numpy")
    recurrence = Recurrence(mode, width, hidden, layers, bidirectional)
    vector = np.arange(layout.flat_size(recurrence), dtype="float64")
    split = layout.split_flat(numpy, vector, recurrence)
    cut = reference.cut_flat(vector, mode, width, hidden, layers, 1 + bidirectional)
    expected = [[weights[group] for group in GROUPS] for layer in cut for weights in layer]
    for found, wanted in zip(split.layers, expected, strict=True):
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)
            assert np.shares_memory(one, vector)
    assert split.flat is vector
    np.testing.assert_array_equal(layout.join_flat(numpy, split.layers), vector)


def test_layers_are_named_with_the_direction_running_fastest():
    names = list(layout.layer_names("x_", Recurrence("lstm", 1, 1, 2, True)))
    assert names == [(0, "x_l0_"), (0, "x_r0_"), (1, "x_l1_"), (1, "x_r1_")]


@given(st.permutations(["_i", "_f", "_c", "_o"]), st.permutations(["_i", "_f", "_c", "_o"]))
def test_gates_are_reordered(stored, wanted):
    numpy = rnnx.get_backend("numpy")
    blocks = {gate: np.full((2, 3), float(place)) for place, gate in enumerate(["_i", "_f", "_c", "_o"])}
    found = layout.reorder_gates(numpy, np.concatenate([blocks[gate] for gate in stored]), stored, wanted)
    np.testing.assert_array_equal(found, np.concatenate([blocks[gate] for gate in wanted]))


def test_taking_a_weight_removes_it():
    args = {"a_bias": np.ones(2), "b_bias": np.zeros(2)}
    assert layout.take(args, "a_bias").all()
    assert list(args) == ["b_bias"]
    with pytest.raises(rnnx.WeightFormatError, match=r"weight 'a_bias' is missing \(nearest: 'b_bias'\)"):
        layout.take(args, "a_bias")

"""Cells told from names and shapes: those `mxnet.rnn` gives weights, packed and gate by gate."""

from __future__ import annotations

from typing import Any

import pytest

from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.formats.mxnet.names import parts_of_weights
from rnnx.found import Assumptions, Found
from rnnx.spec import GATES, CellSpec

Shapes = dict[str, tuple[int, ...]]

NOTHING = Assumptions()


def per_gate(prefix: str, mode: str, input_size: int, num_hidden: int) -> Shapes:
    shapes: Shapes = {}
    for gate in GATES[mode]:
        shapes[f"{prefix}i2h{gate}_weight"] = (num_hidden, input_size)
        shapes[f"{prefix}h2h{gate}_weight"] = (num_hidden, num_hidden)
        shapes[f"{prefix}i2h{gate}_bias"] = shapes[f"{prefix}h2h{gate}_bias"] = (num_hidden,)
    return shapes


def packed(prefix: str, mode: str, input_size: int, num_hidden: int) -> Shapes:
    rows = len(GATES[mode]) * num_hidden
    return {
        f"{prefix}i2h_weight": (rows, input_size),
        f"{prefix}h2h_weight": (rows, num_hidden),
        f"{prefix}i2h_bias": (rows,),
        f"{prefix}h2h_bias": (rows,),
    }


def layers(make: Any, prefix: str, mode: str, input_size: int, num_hidden: int, depth: int, directions: str) -> Shapes:
    """Return the weights of a fused cell, layer by layer."""
    shapes: Shapes = {}
    for layer in range(depth):
        for direction in directions:
            width = input_size if layer == 0 else num_hidden * len(directions)
            shapes |= make(f"{prefix}{direction}{layer}_", mode, width, num_hidden)
    return shapes


def lstm(prefix: str, num_hidden: int = 5) -> CellSpec:
    return CellSpec("LSTMCell", {"num_hidden": num_hidden, "forget_bias": 1.0, "prefix": prefix})


def gru(prefix: str, num_hidden: int = 5) -> CellSpec:
    return CellSpec("GRUCell", {"num_hidden": num_hidden, "reset_after": True, "prefix": prefix})


def plain(prefix: str, activation: str, num_hidden: int = 5) -> CellSpec:
    return CellSpec("RNNCell", {"num_hidden": num_hidden, "activation": activation, "prefix": prefix})


def fused(prefix: str, mode: str, num_layers: int = 1, bidirectional: bool = False, num_hidden: int = 5) -> CellSpec:
    fields = {
        "num_hidden": num_hidden,
        "num_layers": num_layers,
        "mode": mode,
        "bidirectional": bidirectional,
        "dropout": 0.0,
        "get_next_state": False,
        "forget_bias": 1.0,
        "prefix": prefix,
    }
    return CellSpec("FusedRNNCell", fields)


def stack(*cells: CellSpec) -> CellSpec:
    return CellSpec("SequentialRNNCell", {}, cells)


def found(shapes: Shapes, **assumed: Any) -> list[Found]:
    return parts_of_weights(shapes, Assumptions(**assumed))


def specs(shapes: Shapes, **assumed: Any) -> list[CellSpec]:
    return [part.spec for part in found(shapes, **assumed)]


# -- single cells -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [packed, per_gate])
def test_plain_cells(make: Any) -> None:
    assert specs(make("lstm_", "lstm", 3, 5)) == [lstm("lstm_")]
    assert specs(make("gru_", "gru", 3, 5)) == [gru("gru_")]
    assert specs(make("rnn_", "rnn_tanh", 3, 5), activation="softsign") == [plain("rnn_", "softsign")]


@pytest.mark.parametrize("prefix", ["", "x", "a.b.0.", "i2h_", "lstm_i2h_weight_", "neural_net_"])
def test_any_prefix(prefix: str) -> None:
    (part,) = found(per_gate(prefix, "lstm", 3, 5))
    assert (part.spec, part.name) == (lstm(prefix), prefix)


def test_other_arrays_are_passed_over() -> None:
    others = {"embed_weight": (20, 3), "pred_weight": (20, 5), "pred_bias": (20,), "h2h": (), "gamma_i2h": (4,)}
    assert specs(others) == []
    assert specs(others | packed("lstm_", "lstm", 3, 5)) == [lstm("lstm_")]


@pytest.mark.parametrize(("prefix", "activation"), [("rnn_tanh_", "tanh"), ("rnn_relu_", "relu")])
def test_default_prefixes_tell_the_activation(prefix: str, activation: str) -> None:
    assert specs(packed(prefix, "rnn_tanh", 3, 5)) == [plain(prefix, activation)]
    assert specs(layers(packed, prefix, "rnn_tanh", 3, 5, 2, "l")) == [fused(prefix, f"rnn_{activation}", 2)]


@pytest.mark.parametrize("shapes", [packed("my_", "rnn_tanh", 3, 5), layers(packed, "my_", "rnn_tanh", 3, 5, 2, "lr")])
def test_the_activation_must_be_given(shapes: Shapes) -> None:
    with pytest.raises(WeightFormatError, match=r"part 'my_' is of plain recurrent cells.*activation='tanh'"):
        specs(shapes)


# -- fused cells ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [packed, per_gate])
@pytest.mark.parametrize(("depth", "directions"), [(1, "l"), (1, "lr"), (2, "l"), (3, "lr"), (12, "l")])
@pytest.mark.parametrize("mode", ["lstm", "gru"])
def test_fused_cells(make: Any, mode: str, depth: int, directions: str) -> None:
    shapes = layers(make, "my_", mode, 3, 5, depth, directions)
    (part,) = found(dict(sorted(shapes.items())))
    assert part.spec == fused("my_", mode, depth, directions == "lr")
    assert part.name == "my_"


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_fused_plain_cells(activation: str) -> None:
    shapes = layers(packed, "rnn_", "rnn_tanh", 3, 5, 2, "lr")
    assert specs(shapes, activation=activation) == [fused("rnn_", f"rnn_{activation}", 2, True)]


def test_plain_cells_whose_activation_no_fused_cell_has() -> None:
    one = specs(layers(packed, "my_", "rnn_tanh", 3, 5, 2, "l"), activation="sigmoid")
    assert one == [stack(plain("my_l0_", "sigmoid"), plain("my_l1_", "sigmoid"))]
    (both,) = specs(layers(packed, "my_", "rnn_tanh", 3, 5, 1, "lr"), activation="sigmoid")
    cells = plain("my_l0_", "sigmoid"), plain("my_r0_", "sigmoid")
    assert both == CellSpec("BidirectionalCell", {"output_prefix": "my_bi_l0_"}, cells)


@pytest.mark.parametrize("prefix", ["", "lstm_0", "0._unfused."])
def test_fused_cells_of_any_prefix(prefix: str) -> None:
    assert specs(layers(per_gate, prefix, "lstm", 3, 5, 2, "l")) == [fused(prefix, "lstm", 2)]


def test_a_layers_prefix_is_not_the_end_of_a_word() -> None:
    assert specs(packed("decoder0_", "lstm", 3, 5)) == [lstm("decoder0_")]
    assert specs(packed("model1_", "gru", 3, 5)) == [gru("model1_")]


def test_a_flat_vector_is_asked_about() -> None:
    with pytest.raises(WeightFormatError, match=r"'lstm_parameters' .* its size 1234 does not tell .*prefix='lstm_'"):
        specs({"lstm_parameters": (1234,)})


def test_layers_of_different_widths_are_cells_of_their_own() -> None:
    shapes = packed("my_l0_", "lstm", 3, 5) | packed("my_l1_", "lstm", 5, 7)
    assert specs(shapes) == [stack(lstm("my_l0_"), lstm("my_l1_", 7))]
    mixed = packed("my_l0_", "lstm", 3, 5) | packed("my_l1_", "gru", 5, 5)
    assert specs(mixed) == [stack(lstm("my_l0_"), gru("my_l1_"))]


def test_layers_that_do_not_read_each_other_are_parts() -> None:
    """As in MXNet's old bidirectional example, where ``l1_`` runs backwards over what ``l0_`` reads."""
    assert specs(packed("l0_", "lstm", 3, 5) | packed("l1_", "lstm", 3, 5)) == [lstm("l0_"), lstm("l1_")]


def test_directions_that_do_not_read_the_same_are_parts() -> None:
    shapes = packed("a_l0_", "lstm", 3, 5) | packed("a_r0_", "lstm", 4, 5)
    assert specs(shapes) == [lstm("a_l0_"), lstm("a_r0_")]


# -- stacks -----------------------------------------------------------------------------------------------------------


def test_numbered_cells_are_a_stack() -> None:
    shapes: Shapes = {}
    for number in (2, 10, 3, 4, 5, 6, 7, 8, 9):
        shapes |= packed(f"cell{number}_", "gru", 5, 5)
    (part,) = found(shapes)
    assert part.spec == stack(*(gru(f"cell{number}_") for number in range(2, 11)))
    assert part.name == "cell"
    assert (
        "'cell9_', 'cell10_' are a stack: their names count up, and each is as wide as the next one reads"
        in "\n".join(part.evidence)
    )


def test_numbered_cells_with_a_gap_are_parts() -> None:
    assert specs(packed("cell0_", "gru", 5, 5) | packed("cell2_", "gru", 5, 5)) == [gru("cell0_"), gru("cell2_")]


def test_numbered_cells_that_do_not_fit_are_parts() -> None:
    assert specs(packed("cell0_", "gru", 3, 5) | packed("cell1_", "gru", 3, 5)) == [gru("cell0_"), gru("cell1_")]


def test_a_chain_of_widths_in_the_order_of_names_is_a_stack() -> None:
    shapes = packed("a_", "lstm", 3, 5) | per_gate("b_", "gru", 5, 7) | layers(packed, "c_", "lstm", 7, 6, 2, "lr")
    (part,) = found(shapes)
    assert part.spec == stack(lstm("a_"), gru("b_", 7), fused("c_", "lstm", 2, True, 6))
    assert part.name == "a_+b_+c_"
    assert "no other order fits" in "\n".join(part.evidence)


@pytest.mark.parametrize(
    "shapes",
    [
        pytest.param(packed("a_", "lstm", 5, 7) | packed("b_", "lstm", 3, 5), id="only in another order"),
        pytest.param(packed("a_", "lstm", 5, 5) | packed("b_", "lstm", 5, 5), id="in two orders"),
        pytest.param(
            packed("a_", "lstm", 3, 5) | packed("b_", "lstm", 5, 5) | packed("c_", "lstm", 5, 5), id="in any order"
        ),
        pytest.param(packed("l_", "lstm", 3, 5) | packed("r_", "lstm", 3, 5), id="side by side"),
        pytest.param(
            packed("a_", "lstm", 3, 5) | packed("b_", "lstm", 5, 7) | packed("c_", "lstm", 5, 9), id="two on one"
        ),
    ],
)
def test_cells_that_need_not_be_a_stack_are_parts(shapes: Shapes) -> None:
    assert all(part.spec.kind == "LSTMCell" for part in found(shapes))
    assert len(found(shapes)) == len(shapes) // 4


def test_several_parts() -> None:
    shapes = layers(per_gate, "encoder_", "lstm", 3, 5, 2, "lr") | packed("decoder_", "gru", 3, 5)
    parts = found(shapes | {"embed_weight": (20, 3)})
    assert [(part.name, part.spec) for part in parts] == [
        ("decoder_", gru("decoder_")),
        ("encoder_", fused("encoder_", "lstm", 2, True)),
    ]


# -- what is said of it -----------------------------------------------------------------------------------------------


def test_evidence_says_what_weights_do_not_tell() -> None:
    (part,) = found(packed("lstm_", "lstm", 3, 5))
    assert part.evidence[0] == "weights 'lstm_': LSTM (packed), 5 hidden, reading 3"
    assert "taken to stand i f c o" in part.evidence[1]
    assert "do not tell residual connections, dropout or zoneout" in part.evidence[-1]


def test_evidence_of_single_gates_needs_no_order() -> None:
    (part,) = found(layers(per_gate, "my_", "lstm", 3, 5, 2, "lr"))
    assert part.evidence[0].startswith("weights 'my_l0_' to 'my_r1_': num_layers 2, directions 2, LSTM (by the names")
    assert not any("i f c o" in sentence for sentence in part.evidence)


# -- weights that do not fit ------------------------------------------------------------------------------------------


def without(shapes: Shapes, *names: str) -> Shapes:
    assert set(names) <= set(shapes)
    return {name: shape for name, shape in shapes.items() if name not in names}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            without(per_gate("a_", "lstm", 3, 5), "a_h2h_c_weight"),
            "weight 'a_h2h_c_weight' is missing .nearest: 'a_i2h_c_weight'",
        ),
        (without(packed("a_", "gru", 3, 5), "a_i2h_bias"), "weight 'a_i2h_bias' is missing .nearest: 'a_h2h_bias'"),
        (
            without(layers(per_gate, "a_", "lstm", 3, 5, 3, "l"), *per_gate("a_l1_", "lstm", 5, 5)),
            "weight 'a_l1_i2h_i_weight' is missing .nearest: 'a_l.*weights of other layers",
        ),
        (
            without(layers(packed, "a_", "gru", 3, 5, 2, "lr"), *packed("a_r0_", "gru", 3, 5)),
            "weight 'a_r0_i2h_weight' is missing",
        ),
        (packed("a_r0_", "gru", 3, 5), "weight 'a_l0_i2h_weight' is missing"),
        (
            packed("a_", "lstm", 3, 5) | per_gate("a_", "lstm", 3, 5),
            "'a_' has packed weights and weights of single gates",
        ),
        ({"a_i2h_o_weight": (5, 3)}, "weights of the gates o; expected an LSTM's"),
        ({"a_i2h_i_weight": (5, 3), "a_i2h_z_weight": (5, 3)}, "weights of the gates i z; expected an LSTM's"),
        ({"a_i2h_q_weight": (5, 3)}, "weights of the gates q; expected an LSTM's"),
    ],
)
def test_weights_that_are_missing(shapes: Shapes, message: str) -> None:
    with pytest.raises(WeightFormatError, match=message):
        specs(shapes)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("a_h2h_weight", (20, 7), r"'a_h2h_weight' has shape \(20, 7\); expected 4 rows a column for an LSTM"),
        ("a_h2h_weight", (10, 5), r"'a_h2h_weight' has shape \(10, 5\); expected 4 rows a column"),
        ("a_h2h_weight", (20, 0), r"'a_h2h_weight' has shape \(20, 0\); expected 4 rows a column"),
        ("a_h2h_weight", (0, 5), r"'a_h2h_weight' has shape \(0, 5\); expected a matrix"),
        ("a_h2h_weight", (100,), r"'a_h2h_weight' has shape \(100,\); expected a matrix"),
        ("a_i2h_weight", (60,), r"'a_i2h_weight' has shape \(60,\); expected a matrix"),
        (
            "a_i2h_weight",
            (15, 3),
            r"'a_i2h_weight' has shape \(15, 3\), expected \(20, 3\): 'a_h2h_weight' has \(20, 5\)",
        ),
        ("a_h2h_bias", (5,), r"'a_h2h_bias' has shape \(5,\), expected \(20,\): 'a_h2h_weight' has \(20, 5\)"),
        ("a_h2h_bias", (20, 1), r"'a_h2h_bias' has shape \(20, 1\), expected \(20,\)"),
    ],
)
def test_packed_weights_that_do_not_fit(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(WeightFormatError, match=message):
        specs(packed("a_", "lstm", 3, 5) | {name: shape})


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "a_i2h_f_weight",
            (5, 4),
            r"'a_i2h_f_weight' has shape \(5, 4\), expected \(5, 3\): .*'a_i2h_i_weight' \(5, 3\)",
        ),
        (
            "a_h2h_o_weight",
            (5, 6),
            r"'a_h2h_o_weight' has shape \(5, 6\), expected \(5, 5\): 'a_h2h_i_weight' has \(5, 5\)",
        ),
        ("a_h2h_i_weight", (5, 6), r"'a_h2h_i_weight' has shape \(5, 6\), expected \(5, 5\)"),
        ("a_i2h_c_bias", (6,), r"'a_i2h_c_bias' has shape \(6,\), expected \(5,\)"),
    ],
)
def test_weights_of_gates_that_do_not_fit(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(WeightFormatError, match=message):
        specs(per_gate("a_", "lstm", 3, 5) | {name: shape})


def test_cells_that_rnnx_does_not_have() -> None:
    convolution = {
        name: (*shape, 3, 3) if name.endswith("weight") else shape for name, shape in packed("c_", "lstm", 3, 5).items()
    }
    with pytest.raises(UnsupportedError, match=r"'c_' has convolutions \('c_h2h_weight' has shape \(20, 5, 3, 3\)\)"):
        specs(convolution)
    (part,) = found(convolution | packed("a_", "gru", 3, 5))
    assert part.spec == gru("a_")
    assert part.evidence[-1].startswith("cell 'c_' has convolutions")


# -- a projected hidden state -----------------------------------------------------------------------------------------


def projected(make: Any, prefix: str, input_size: int, num_hidden: int, num_projection: int) -> Shapes:
    narrow = {
        name: (shape[0], num_projection) if f"{prefix}h2h" in name and name.endswith("weight") else shape
        for name, shape in make(prefix, "lstm", input_size, num_hidden).items()
    }
    return narrow | {f"{prefix}h2r_weight": (num_projection, num_hidden)}


def lstmp(prefix: str, num_hidden: int = 5, num_projection: int = 2) -> CellSpec:
    fields = {"num_hidden": num_hidden, "num_projection": num_projection, "forget_bias": 1.0, "prefix": prefix}
    return CellSpec("LSTMPCell", fields)


@pytest.mark.parametrize("make", [packed, per_gate])
@pytest.mark.parametrize("num_projection", [1, 2, 5, 7])
def test_a_projected_cell(make: Any, num_projection: int) -> None:
    (part,) = found(projected(make, "p_", 3, 5, num_projection))
    assert (part.name, part.spec) == ("p_", lstmp("p_", 5, num_projection))
    assert (part.input_size, part.output_size) == (3, num_projection)
    assert f"5 hidden projected to {num_projection}, reading 3" in part.evidence[0]


@pytest.mark.parametrize("make", [packed, per_gate])
def test_projected_layers(make: Any) -> None:
    shapes: Shapes = {}
    for layer, width in enumerate((3, 4, 4)):
        for side in "lr":
            shapes |= projected(make, f"p_{side}{layer}_", width, 5, 2)
    (part,) = found(shapes)
    pairs = [
        CellSpec(
            "BidirectionalCell", {"output_prefix": f"p_bi_l{layer}_"}, (lstmp(f"p_l{layer}_"), lstmp(f"p_r{layer}_"))
        )
        for layer in range(3)
    ]
    assert (part.name, part.spec) == ("p_", stack(*pairs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"p_h2r_weight": (2, 6)},
            r"'p_i2h_weight' has shape \(20, 3\), expected \(24, 3\): 'p_h2r_weight' has \(2, 6\)",
        ),
        (
            {"p_h2r_weight": (3, 5)},
            r"'p_h2h_weight' has shape \(20, 2\), expected \(20, 3\): 'p_h2r_weight' has \(3, 5\)",
        ),
        ({"p_h2r_weight": (2, 0)}, r"'p_h2r_weight' has shape \(2, 0\); expected an LSTM's projection"),
        ({"p_h2r_weight": (10,)}, r"'p_h2r_weight' has shape \(10,\); expected a matrix"),
    ],
)
def test_a_projection_that_does_not_fit(change: Shapes, message: str) -> None:
    with pytest.raises(WeightFormatError, match=message):
        specs(projected(packed, "p_", 3, 5, 2) | change)


def test_a_projection_of_a_gru_is_refused() -> None:
    with pytest.raises(WeightFormatError, match=r"'p_h2r_weight' .* expected an LSTM's projection"):
        specs(per_gate("p_", "gru", 3, 5) | {"p_h2r_weight": (2, 5)})


def test_numbers_of_any_length_do_no_harm() -> None:
    long = "9" * 5000
    shapes = packed(f"a{long}_", "gru", 3, 5) | packed(f"l{long}_", "gru", 3, 5) | packed("l007_", "gru", 3, 5)
    assert len(specs(shapes)) == 3

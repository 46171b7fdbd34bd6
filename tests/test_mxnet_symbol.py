"""Cells found in symbol files that MXNet 1.9.1 wrote (``tests/oracle/make_symbols.py``), and in files that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rnnx.building import plain_cell
from rnnx.errors import RNNXError, UnsupportedError, WeightFormatError
from rnnx.formats.mxnet.graph import MAX_BYTES
from rnnx.formats.mxnet.symbol import parts_of_symbol
from rnnx.found import Found
from rnnx.spec import CellSpec

SYMBOLS = Path(__file__).parent / "fixtures" / "symbols"

OLD_ORDER = ("_i", "_c", "_f", "_o")


def lstm(prefix: str = "lstm_", num_hidden: int = 4, forget_bias: float = 1.0, **more: Any) -> CellSpec:
    return CellSpec("LSTMCell", {"num_hidden": num_hidden, "forget_bias": forget_bias, "prefix": prefix, **more})


def gru(prefix: str = "gru_", num_hidden: int = 4) -> CellSpec:
    return CellSpec("GRUCell", {"num_hidden": num_hidden, "reset_after": True, "prefix": prefix})


def plain(prefix: str = "rnn_", num_hidden: int = 4, activation: str = "tanh") -> CellSpec:
    return CellSpec("RNNCell", {"num_hidden": num_hidden, "activation": activation, "prefix": prefix})


def fused(prefix: str, mode: str = "lstm", num_hidden: int = 4, **more: Any) -> CellSpec:
    fields = {
        "num_hidden": num_hidden,
        "num_layers": 1,
        "mode": mode,
        "bidirectional": False,
        "dropout": 0.0,
        "get_next_state": False,
        "forget_bias": 1.0,
        "prefix": prefix,
        **more,
    }
    return CellSpec("FusedRNNCell", fields)


def stack(*cells: CellSpec) -> CellSpec:
    return CellSpec("SequentialRNNCell", {}, cells)


def dropout(rate: float = 0.5) -> CellSpec:
    return CellSpec("DropoutCell", {"dropout": rate, "prefix": "dropout_"})


def residual(cell: CellSpec) -> CellSpec:
    return CellSpec("ResidualCell", {}, (cell,))


def zoneout(cell: CellSpec, outputs: float, states: float) -> CellSpec:
    return CellSpec("ZoneoutCell", {"zoneout_outputs": outputs, "zoneout_states": states}, (cell,))


def both(left: CellSpec, right: CellSpec, prefix: str = "bi_") -> CellSpec:
    return CellSpec("BidirectionalCell", {"output_prefix": prefix}, (left, right))


def bidirectional(prefix: str = "") -> CellSpec:
    return both(lstm(f"{prefix}l_"), gru(f"{prefix}r_"), f"{prefix}bi_")


DEEP = stack(
    fused("a_", "gru", 8),
    dropout(0.5),
    fused("b_", "rnn_relu", 8),
    residual(lstm("c_", 8)),
    dropout(0.25),
    bidirectional("d_"),
    residual(bidirectional("e_")),
    zoneout(plain("f_", 5), 0.1, 0.2),
)

UNFUSED = stack(
    both(plain("rnn_relu_l0_", 4, "relu"), plain("rnn_relu_r0_", 4, "relu"), "rnn_relu_bi_l0_"),
    dropout(0.25),
    both(plain("rnn_relu_l1_", 4, "relu"), plain("rnn_relu_r1_", 4, "relu"), "rnn_relu_bi_l1_"),
)

FUSED = fused("lstm_", num_layers=2, bidirectional=True, dropout=0.25, get_next_state=True, forget_bias=0.5)

#: Networks with one part, by the name of the file.
ONE_PART = {
    "lstm": lstm(forget_bias=2.5),
    "gru": gru(),
    "gru_0_8": gru(),
    "backward": gru(),
    "fused": FUSED,
    "fused_0_8": FUSED,
    "one_step": stack(lstm("a_"), dropout(), gru("b_")),
    "one_step_bidirectional": bidirectional(),
    "one_step_zoneout": zoneout(lstm(), 0.25, 0.0),
    "stepped": stack(lstm("a_"), dropout(), residual(gru("b_"))),
    "deep_time_first": DEEP,
    "language_model": stack(lstm("lstm_l0_"), dropout(), lstm("lstm_l1_")),
    "last_only": bidirectional(),
    "twice": stack(lstm("a_"), gru("b_")),
    "joined_by_hand": both(lstm("l0_"), lstm("l1_")),
    "old_lstm": stack(lstm("a_"), dropout(), lstm("b_")),
    "old_lstm_0_9": stack(lstm("a_"), dropout(), lstm("b_")),
    "before_cells": stack(lstm("l0_"), dropout(), lstm("l1_")),
    "before_cells_0_8": stack(lstm("l0_"), dropout(), lstm("l1_")),
    "gru_0_9": gru(),
    "bidirectional_in_steps": residual(bidirectional()),
    "bidirectional_in_merged_steps": residual(bidirectional()),
    "gluon_layer": fused("layer_", "gru", num_layers=2, bidirectional=True, dropout=0.5, get_next_state=True),
    "gluon_cells": stack(lstm("a_"), dropout(), residual(gru("b_"))),
    "gluon_projection": plain_cell("lstm", 4, "layer_l0_", num_projection=2),
}

#: Trees that were unrolled with outputs merged, listed, and by default.
UNROLLED = {
    "residual": residual(lstm()),
    "zoneout": zoneout(lstm(), 0.25, 0.125),
    "zoneout_same": zoneout(lstm(), 0.25, 0.25),
    "zoneout_outputs": zoneout(plain(), 0.25, 0.0),
    "zoneout_states": zoneout(gru(), 0.0, 0.125),
    "zoneout_of_residual": zoneout(residual(lstm()), 0.25, 0.125),
    "residual_of_zoneout": residual(zoneout(lstm(), 0.0, 0.125)),
    "bidirectional": bidirectional(),
    "residual_of_bidirectional": residual(bidirectional()),
    "residual_of_stack": residual(stack(lstm("a_"), dropout(), gru("b_"))),
    "bidirectional_of_fused": both(fused("l_"), fused("r_", "gru")),
    "bidirectional_mixed": both(lstm("l_"), fused("r_")),
    "bidirectional_of_stacks": both(stack(lstm("a_"), lstm("b_")), stack(gru("c_"), dropout(), gru("d_"))),
    "bidirectional_nested": both(bidirectional("x_"), bidirectional("y_")),
    "unfused": UNFUSED,
    "deep": DEEP,
}

SEVERAL_PARTS = {
    "activations": [plain(f"{name}_", 4, name) for name in ("relu", "tanh", "sigmoid", "softrelu", "softsign")],
    "fused_modes": [fused("gru_", "gru"), fused("rnn_tanh_", "rnn_tanh"), fused("rnn_relu_", "rnn_relu")],
    "fused_names": [
        fused("lstm_0", "gru"),
        fused("top_", "gru"),
        fused("odd_", "gru"),
        fused("two_", "gru", params="one_"),
    ],
    "shared": [lstm("one_"), lstm("two_", params="one_")],
    "encoder_decoder": [fused("encoder_", bidirectional=True, get_next_state=True), lstm("decoder_")],
    "forked": [gru("trunk_"), gru("left_"), gru("right_")],
    "handed_on": [gru("reader_"), gru("writer_")],
    "handed_on_and_added": [gru("reader_"), gru("writer_")],
    "states_handed_on": [lstm("reader_"), stack(lstm("writer_"), gru("top_"))],
    "side_by_side": [gru("a_"), gru("b_")],
    "side_by_side_in_steps": [gru("a_"), gru("b_")],
    "side_by_side_out_of_step": [gru("a_"), gru("b_")],
    "side_by_side_for_one_step": [gru("a_"), gru("b_")],
    "tried_twice": [stack(gru("a_"), gru("b_")), gru("a_")],
    "inconstant_dropout": [gru("a_"), gru("b_")],
    "leaky_beside_lstm": [lstm()],
    "no_cells": [],
}


def content(name: str) -> bytes:
    return (SYMBOLS / f"{name}.json").read_bytes()


def found(name: str) -> list[Found]:
    return parts_of_symbol(content(name))


def edited(name: str, *replacements: tuple[str, str]) -> bytes:
    text = content(name).decode()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return text.encode()


# -- what there is ----------------------------------------------------------------------------------------------------


def test_every_file_is_looked_at() -> None:
    unrolled = {f"{name}_{how}" for name in UNROLLED for how in ("merged", "list", "default")}
    refused = {"leaky", "convolutional"}
    assert {path.stem for path in SYMBOLS.glob("*.json")} == {*ONE_PART, *unrolled, *SEVERAL_PARTS, *refused}


@pytest.mark.parametrize("name", ONE_PART)
def test_one_part(name: str) -> None:
    (part,) = found(name)
    assert part.spec == ONE_PART[name]
    assert CellSpec.from_json(part.spec.to_json()) == part.spec


@pytest.mark.parametrize("how", ["merged", "list", "default"])
@pytest.mark.parametrize("name", UNROLLED)
def test_however_it_is_unrolled(name: str, how: str) -> None:
    (part,) = found(f"{name}_{how}")
    assert part.spec == UNROLLED[name]


@pytest.mark.parametrize("name", SEVERAL_PARTS)
def test_several_parts_in_the_order_in_which_they_run(name: str) -> None:
    assert [part.spec for part in found(name)] == SEVERAL_PARTS[name]


def test_old_lstms_have_their_gates_in_another_order() -> None:
    assert found("old_lstm")[0].gate_order == {"a_": OLD_ORDER}
    assert found("before_cells_0_8")[0].gate_order == {"l0_": OLD_ORDER, "l1_": OLD_ORDER}
    assert found("lstm")[0].gate_order == {}
    assert found("gru")[0].gate_order == {}


def test_an_order_of_gates_that_nobody_ever_used() -> None:
    """Swap two slices of a GRU on both sides: what is stored first is then the update gate."""
    symbol = json.loads(content("gru"))
    slices = [position for position, node in enumerate(symbol["nodes"]) if node["op"] == "SliceChannel"][1:]
    for node in symbol["nodes"]:
        for entry in node["inputs"]:
            if entry[0] in slices and entry[1] < 2:
                entry[1] = 1 - entry[1]
    (part,) = parts_of_symbol(json.dumps(symbol).encode())
    assert part.spec == gru()
    assert part.gate_order == {"gru_": ("_z", "_r", "_o")}


def test_parameters_called_otherwise() -> None:
    assert [dict(part.renames) for part in found("fused_names")] == [{}, {}, {"odd_weights": "odd_parameters"}, {}]


def test_names_to_select_by() -> None:
    assert [part.name for part in found("encoder_decoder")] == ["encoder_", "decoder_"]
    assert [part.name for part in found("unfused_merged")] == ["rnn_relu_"]
    assert [part.name for part in found("bidirectional_list")] == ["l_+r_"]


def test_two_parts_of_one_name() -> None:
    """The same weights in two cells of different modes."""
    twice = edited("fused_modes", ('"rnn_tanh_parameters"', '"gru_parameters"'), ('"rnn_tanh_rnn"', '"gru_rnn"'))
    assert [part.name for part in parts_of_symbol(twice)] == ["gru_", "gru_#2", "rnn_relu_"]


def test_evidence_names_what_was_seen() -> None:
    (part,) = found("deep_merged")
    told = "\n".join(part.evidence)
    assert "RNN node 'a_rnn': mode gru, 8 hidden, num_layers 1, one direction, dropout 0.0" in told
    assert "nodes 'c_t0_i2h' to 'c_t2_i2h': LSTMCell, 8 hidden, packed gates in the order i f c o" in told
    assert "dropout 0.25 between two cells" in told
    assert "'d_bi_t0' joins two cells that read the same in opposite directions" in told
    assert "adds to the outputs what the cell reads: residual" in told
    assert "'f_' keeps its states at the rate 0.2: zoneout" in told
    assert "keeps outputs at the rate 0.1: zoneout" in told
    assert len(part.evidence) == 16


def test_evidence_of_gluon_and_of_running_backwards() -> None:
    (told,) = found("gluon_layer")[0].evidence
    assert "as Gluon stores them" in told
    assert "reads its inputs from last to first" in found("backward")[0].evidence[-1]
    assert not any("from last to first" in sentence for sentence in found("gru")[0].evidence)


def test_evidence_of_cells_that_are_left_out() -> None:
    (part,) = found("leaky_beside_lstm")
    assert "'rnn_t0_h2h' reads 'rnn_h2h_weight' as a recurrent cell does" in part.evidence[-1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("leaky", "'rnn_h2h_weight' as a recurrent cell does.*pass it as cell="),
        ("convolutional", "Convolution node .* reads 'ConvLSTM_h2h_weight'"),
    ],
)
def test_cells_that_rnnx_does_not_have(name: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        found(name)


def test_weights_that_are_computed_in_the_graph() -> None:
    for old, new in (("layer_l0_i2h_weight", "other_l0_i2h_weight"), ("_rnn_param_concat", "elemwise_mul")):
        with pytest.raises(UnsupportedError, match="computes its weights in the graph"):
            parts_of_symbol(edited("gluon_layer", (f'"{old}"', f'"{new}"')))


# -- attributes -------------------------------------------------------------------------------------------------------


def test_what_an_operator_says_goes_before_its_initializer() -> None:
    (part,) = parts_of_symbol(edited("fused", ('"state_size":"4"', '"state_size":"6"')))
    assert part.spec.fields["num_hidden"] == 6


def test_an_initializer_says_what_an_operator_leaves_out() -> None:
    symbol = edited(
        "fused", ('"state_size":"4"', '"a":"4"'), ('"bidirectional":"True",', ""), ('"num_layers":"2",', "")
    )
    (part,) = parts_of_symbol(symbol)
    assert part.spec == FUSED


def test_initializers_of_a_users_own_are_passed_over() -> None:
    (part,) = parts_of_symbol(edited("lstm", ('[\\"lstmbias\\", {\\"forget_bias\\": 2.5}]', "my own")))
    assert part.spec == lstm(forget_bias=1.0)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (
            "fused",
            '"state_size":"4"',
            '"state_size":"four"',
            "RNN 'lstm_rnn': expected a whole number for 'state_size'",
        ),
        ("fused", '"state_size":"4"', '"state_size":"0"', "expected state_size of at least 1, found 0"),
        ("fused", '"num_layers":"2"', '"num_layers":"-2"', "expected num_layers of at least 1, found -2"),
        ("fused", '"p":"0.25"', '"p":"1.5"', "expected a number from 0 to 1 for 'p', found '1.5'"),
        ("fused", '"p":"0.25"', '"p":"nan"', "expected a number from 0 to 1 for 'p'"),
        ("fused", '"bidirectional":"True"', '"bidirectional":"perhaps"', "expected True or False for 'bidirectional'"),
        ("fused", '"mode":"lstm"', '"mode":"qrnn"', "expected a mode of .*lstm.*, found 'qrnn'"),
        ("fused", '\\"forget_bias\\": 0.5', '\\"forget_bias\\": \\"no\\"', "a forget_bias that is a finite number"),
        ("fused", '\\"forget_bias\\": 0.5', '\\"forget_bias\\": NaN', "a forget_bias that is a finite number"),
        ("lstm", '"num_hidden":"16"', '"num_hidden":"15"', "LSTMCell 'lstm_'.*expected the same multiple of 4"),
        ("gru", '"num_hidden":"12"', '"no_hidden":"12"', "expected a whole number for 'num_hidden', found nothing"),
    ],
)
def test_attributes_that_make_no_sense(name: str, old: str, new: str, message: str) -> None:
    with pytest.raises(WeightFormatError, match=message):
        parts_of_symbol(edited(name, (old, new)))


# -- graphs that are not quite those of cells -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("lstm", '"act_type":"tanh"', '"act_type":"relu"'),
        ("lstm", '"num_outputs":"4"', '"num_outputs":"5"'),
        ("gru", '"scalar":"1.0"', '"scalar":"2.0"'),
        ("gru", '"gru_h2h_bias"', '"bias"'),
    ],
)
def test_another_equation_is_not_taken_for_a_cell(name: str, old: str, new: str) -> None:
    with pytest.raises(UnsupportedError, match="is part of no cell that rnnx has"):
        parts_of_symbol(edited(name, (old, new)))


def test_another_equation_at_one_step_is_said() -> None:
    """Let in at the first step what the inputs say, not the update gate."""
    symbol = json.loads(content("gru"))
    complement = next(node for node in symbol["nodes"] if node["op"] == "_rminus_scalar")
    complement["inputs"] = [[0, 0, 0]]
    (part,) = parts_of_symbol(json.dumps(symbol).encode())
    assert part.evidence[0].startswith("nodes 'gru_t1__i2h' to 'gru_t2__i2h'")
    assert "'gru_t0__h2h' reads 'gru_h2h_weight'" in part.evidence[-1]


def test_gates_in_two_orders_are_not_a_gru() -> None:
    """Swap two slices of what comes from the hidden state only."""
    symbol = json.loads(content("gru"))
    slices = [position for position, node in enumerate(symbol["nodes"]) if node["name"].endswith("h2h_slice")]
    for node in symbol["nodes"]:
        for entry in node["inputs"]:
            if entry[0] in slices and entry[1] < 2:
                entry[1] = 1 - entry[1]
    with pytest.raises(UnsupportedError, match="is part of no cell that rnnx has"):
        parts_of_symbol(json.dumps(symbol).encode())


def test_a_cell_that_carries_on_something_else_is_not_a_gru() -> None:
    """Let the update gate keep the inputs, not the state before."""
    symbol = json.loads(content("gru"))
    positions = {node["name"]: position for position, node in enumerate(symbol["nodes"])}
    for step in range(3):
        total = symbol["nodes"][positions[f"gru_t{step}_out"]]
        symbol["nodes"][total["inputs"][1][0]]["inputs"][1] = [0, 0, 0]
    with pytest.raises(UnsupportedError, match="is part of no cell that rnnx has"):
        parts_of_symbol(json.dumps(symbol).encode())


def test_masked_outputs_are_not_those_of_a_zoneout_cell() -> None:
    """Where an output is dropped out, take zeros at every step instead of the output before."""
    symbol = json.loads(content("zoneout_outputs_list"))
    masked = [node for node in symbol["nodes"] if node["op"] == "where"]
    for node in masked[1:]:
        node["inputs"][2] = masked[0]["inputs"][2]
    for damaged in (json.dumps(symbol).encode(), edited("zoneout_outputs_list", ('"op":"Dropout"', '"op":"Flatten"'))):
        (part,) = parts_of_symbol(damaged)
        assert part.spec == plain()


def test_more_slices_than_a_sequence_has_steps() -> None:
    symbol = json.loads(content("forked"))
    trunk = next(position for position, node in enumerate(symbol["nodes"]) if node["op"] == "Concat")
    first = len(symbol["nodes"])
    attrs = {"num_outputs": "4", "axis": "1", "squeeze_axis": "1"}
    symbol["nodes"] += [
        {"op": "SliceChannel", "name": "four", "attrs": attrs, "inputs": [[trunk, 0, 0]]},
        {"op": "elemwise_add", "name": "sum", "inputs": [[first, 3, 0], [0, 0, 0]]},
    ]
    assert [part.spec for part in parts_of_symbol(json.dumps(symbol).encode())] == SEVERAL_PARTS["forked"]


def test_other_residual_connections_are_not_a_residual_cells() -> None:
    """The sum of a cell's outputs and something else than what it reads."""
    symbol = json.loads(content("residual_merged"))
    total = symbol["nodes"][-1]
    symbol["nodes"][-1:] = [{"op": "null", "name": "other", "inputs": []}, total]
    total["inputs"][1] = [len(symbol["nodes"]) - 2, 0, 0]
    unlike = edited(
        "residual_merged", ('"op":"expand_dims","name":"expand_dims0"', '"op":"negative","name":"negative0"')
    )
    for other in (json.dumps(symbol).encode(), unlike):
        (part,) = parts_of_symbol(other)
        assert part.spec == lstm()


def test_cells_in_one_direction_are_not_bidirectional() -> None:
    """Without the node that reverses one of them."""
    symbol = edited("bidirectional_merged", ('"op":"reverse"', '"op":"negative"'))
    assert [part.spec for part in parts_of_symbol(symbol)] == [lstm("l_"), gru("r_")]


def test_different_dropout_at_different_steps_is_no_dropout_cell() -> None:
    symbol = json.loads(content("before_cells"))
    dropouts = [node for node in symbol["nodes"] if node["op"] == "Dropout"]
    dropouts[1]["attrs"]["p"] = "0.125"
    parts = parts_of_symbol(json.dumps(symbol).encode())
    assert [part.spec for part in parts] == [lstm("l0_"), lstm("l1_")]


# -- files that are not to be trusted ---------------------------------------------------------------------------------


def graph(*nodes: dict[str, Any]) -> bytes:
    return json.dumps({"nodes": [{"op": "null", "name": "x", "inputs": [], **node} for node in nodes]}).encode()


@pytest.mark.parametrize(
    ("symbol", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe\x00\x00\x01", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"nodes":[' + b"9" * 100_000 + b"]}", "not JSON"),
        (b"[]", "an object with a list 'nodes'"),
        (b'{"nodes": {}}', "an object with a list 'nodes'"),
        (b'{"nodes": [[]]}', "node 0: expected an object with strings 'op' and 'name'"),
        (graph({"op": 1}), "node 0: expected an object with strings 'op' and 'name'"),
        (graph({"name": "n" * 5000}), "longer than 1024 characters"),
        (graph({"inputs": {}}), r"node 0 \('x'\): expected a list of inputs"),
        (graph({"inputs": [7]}), "two or three whole numbers"),
        (graph({"inputs": [[0]]}), "two or three whole numbers"),
        (graph({}, {"inputs": [[0, 0.0, 0]]}), "two or three whole numbers"),
        (graph({}, {"inputs": [[False, 0, 0]]}), "two or three whole numbers"),
        (graph({"inputs": [[0, 0, 0]]}), "its input is output 0 of node 0; only nodes 0 to -1 stand before it"),
        (graph({"inputs": [[1, 0, 0]]}, {"inputs": [[0, 0, 0]]}), "node 0 .*its input is output 0 of node 1"),
        (graph({}, {"inputs": [[-1, 0, 0]]}), "its input is output 0 of node -1"),
        (graph({}, {"inputs": [[0, -1, 0]]}), "its input is output -1 of node 0"),
        (graph({}, {"inputs": [[5, 0, 0]]}), "its input is output 0 of node 5"),
        (graph({"attrs": []}), "expected 'attrs' to be an object of strings"),
        (graph({"param": {"p": 1}}), "expected 'param' to be an object of strings"),
        (graph({"op": "RNN"}), "RNN node 'x' has 0 inputs"),
    ],
)
def test_files_that_are_no_symbols(symbol: bytes, message: str) -> None:
    with pytest.raises(WeightFormatError, match=message):
        parts_of_symbol(symbol)


def test_a_file_too_large_is_not_parsed() -> None:
    with pytest.raises(WeightFormatError, match="are more than the"):
        parts_of_symbol(b" " * (MAX_BYTES + 1))


def chain_of(op: str, length: int, inputs: int, **attrs: str) -> bytes:
    """Nodes that each read the one before them."""
    cell = json.loads(content("gru"))["nodes"]
    last = len(cell) - 1
    after = [
        {"op": op, "name": f"n{number}", "attrs": attrs, "inputs": [[last + number, 0, 0], [0, 0, 0]][:inputs]}
        for number in range(length)
    ]
    return json.dumps({"nodes": cell + after}).encode()


@pytest.mark.parametrize(
    ("op", "inputs", "attrs"),
    [
        ("Dropout", 1, {"p": "0.5"}),
        ("elemwise_add", 2, {}),
        ("reverse", 1, {"axis": "1"}),
        ("SliceChannel", 1, {"num_outputs": "3", "axis": "1", "squeeze_axis": "1"}),
        ("SliceChannel", 1, {"num_outputs": "99999999999999999999", "axis": "1", "squeeze_axis": "1"}),
        ("SwapAxis", 1, {"dim1": "0", "dim2": "1"}),
    ],
)
def test_long_chains_neither_recurse_nor_take_long(op: str, inputs: int, attrs: dict[str, str]) -> None:
    (part,) = parts_of_symbol(chain_of(op, 5_000, inputs, **attrs))
    assert part.name == "gru_"


def test_nesting_beyond_reason_is_left_alone() -> None:
    """Each sum adds the inputs once more: a residual cell around a residual cell, five thousand deep."""
    (part,) = parts_of_symbol(chain_of("elemwise_add", 5_000, 2))
    depth = sum(cell.kind == "ResidualCell" for cell in part.spec.walk())
    assert depth == 32
    assert CellSpec.from_json(part.spec.to_json()) == part.spec


SOME_VALUES = st.sampled_from(
    [None, True, -1, 0, 1, 2, 7, 10**9, 0.5, "", "null", "RNN", "tanh", "1", "(1,)", [], [0], {}]
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damaged_symbols_give_parts_or_errors_of_rnnx(data: st.DataObject) -> None:
    names = ["deep_list", "fused", "gluon_layer", "old_lstm_0_9", "zoneout_list", "bidirectional_merged"]
    symbol = json.loads(content(data.draw(st.sampled_from(names))))
    for _ in range(data.draw(st.integers(1, 4))):
        node = data.draw(st.sampled_from(symbol["nodes"]))
        where: Any = (
            node if data.draw(st.booleans()) or not node["inputs"] else data.draw(st.sampled_from(node["inputs"]))
        )
        if isinstance(node.get("attrs"), dict) and node["attrs"] and data.draw(st.booleans()):
            where = node["attrs"]
        if where:
            key = data.draw(st.sampled_from(sorted(where) if isinstance(where, dict) else range(len(where))))
            where[key] = data.draw(SOME_VALUES)
        if not isinstance(node.get("inputs"), list):
            break
    try:
        parts = parts_of_symbol(json.dumps(symbol).encode())
    except RNNXError:
        return
    for part in parts:
        assert CellSpec.from_json(part.spec.to_json()) == part.spec

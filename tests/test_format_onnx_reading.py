"""ONNX models read: ONNX Runtime, PyTorch and ONNX's own test cases judge what the cells compute."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import networks
import rnnx
from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.files import read_archive
from rnnx.formats.onnx import OnnxFormat
from rnnx.formats.onnx.layout import node_tensors

pytest.importorskip("onnx", reason="onnx is needed to make models")
pytest.importorskip("onnxruntime", reason="ONNX Runtime judges")

import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnx_models import (
    GATES,
    WIDTH,
    Arrays,
    H,
    N,
    T,
    assert_agrees,
    constant,
    evidence_in,
    external,
    merged,
    model,
    node,
    outputs_of,
    ran,
    random,
    saved,
    squeezed,
    value,
    weights,
)

# PyTorch says of its exporter by way of TorchScript that it is the older one, that it follows a trace, and that a trace
# fixes the batch size of initial states, which nothing here asks of it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Converting a tensor to a Python"),
    pytest.mark.filterwarnings("ignore:Exporting a model to ONNX with a batch_size other than 1:UserWarning"),
]

# -- one node ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("op", GATES)
def test_a_node_computes_what_onnx_runtime_computes(tmp_path, op, direction, bias):
    arrays = weights(op, 2 if direction == "bidirectional" else 1)
    made = model([node(op, ("X", "W", "R", "B")[: 3 + bias], direction=direction)], arrays)
    cell = assert_agrees(tmp_path, made)
    assert ("no B (all biases are zero)" in evidence_in(tmp_path / "model.onnx")) is not bias
    assert any(np.any(array) for name, array in cell.get_params().items() if "bias" in name) is bias


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("directions", [1, 2])
def test_the_reset_gate_acts_where_the_node_says(tmp_path, after, directions):
    direction = ("forward", "bidirectional")[directions - 1]
    made = model([node("GRU", linear_before_reset=after, direction=direction)], weights("GRU", directions))
    cell = assert_agrees(tmp_path, made)
    assert all(leaf.spec.fields["reset_after"] is bool(after) for leaf in cell.leaves())


@pytest.mark.parametrize("activation", ["Tanh", "Relu", "Sigmoid", "Softplus", "Softsign"])
def test_every_activation_of_a_plain_node(tmp_path, activation):
    assert_agrees(tmp_path, model([node("RNN", activations=[activation])], weights("RNN")))


def test_two_directions_may_have_two_activations(tmp_path):
    cell = assert_agrees(
        tmp_path,
        model([node("RNN", activations=["Relu", "Softsign"], direction="bidirectional")], weights("RNN", 2)),
    )
    assert [leaf.spec.fields["activation"] for leaf in cell.leaves()] == ["relu", "softsign"]


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("op", GATES)
def test_batch_first_only_moves_axes(tmp_path, op, directions):
    """ONNX Runtime has no kernel for it; ONNX's own evaluator judges."""
    made = model([node(op, layout=1, direction=("forward", "bidirectional")[directions - 1])], weights(op, directions))
    x = random(N, T, WIDTH)
    cell, _ = rnnx.load(saved(tmp_path, made))
    y = ReferenceEvaluator(made).run(None, {"X": x})[0]  # (N, T, D, H)
    np.testing.assert_allclose(outputs_of(cell, x, "NTC"), y.reshape(N, T, -1), atol=1e-5)
    assert "layout=1: its inputs and outputs stand batch first" in evidence_in(tmp_path / "model.onnx")


def test_hidden_size_is_told_by_R(tmp_path):
    arrays = weights("LSTM")
    made = model([helper.make_node("LSTM", ["X", "W", "R", "B"], ["Y"])], arrays)
    cell, _ = rnnx.load(saved(tmp_path, made))
    x = random(T, N, WIDTH)
    np.testing.assert_allclose(outputs_of(cell, x), merged(ran(model([node("LSTM")], arrays), X=x)[0]), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_weights_keep_their_dtype_and_bits(tmp_path, dtype):
    arrays = {name: array.astype(dtype) for name, array in weights("LSTM", 2).items()}
    archive = read_archive(saved(tmp_path, model([node("LSTM", direction="bidirectional")], arrays)))
    (part,) = archive.parts.values()
    forward = part.weights["lstm_l0_i2h_f_weight"]
    assert forward.dtype == dtype
    assert forward.tobytes() == arrays["W"][0, 2 * H : 3 * H].tobytes()
    backward = part.weights["lstm_r0_h2h_o_bias"]
    assert backward.tobytes() == arrays["B"][1, 5 * H : 6 * H].tobytes()
    assert not archive.extra


def test_states_and_lengths_are_told_and_computed(tmp_path):
    arrays = {**weights("LSTM"), "h0": random(1, N, H, seed=5)}
    made = model([node("LSTM", ("X", "W", "R", "B", "lens", "h0", "c0"))], arrays,
                 [value("lens", [N], TensorProto.INT32), value("c0", [1, N, H])])  # fmt: skip
    x, c0, lens = random(T, N, WIDTH), random(1, N, H, seed=6), np.array([3, 5], np.int32)
    cell, extra = rnnx.load(saved(tmp_path, made))
    found = outputs_of(cell, x, begin_state=[extra["h0"][0], c0[0]], valid_length=lens)
    np.testing.assert_allclose(found, merged(ran(made, X=x, lens=lens, c0=c0)[0]), atol=1e-5)
    told = evidence_in(tmp_path / "model.onnx")
    assert "sequence_lens is the input 'lens': pass it as valid_length=" in told
    assert "initial_h is the array 'h0' (1, 2, 4): pass it as begin_state=" in told
    assert "initial_c is the input 'c0': pass it as begin_state=" in told


def test_states_that_are_computed_zeros_are_not_worth_a_word(tmp_path):
    nodes = [constant("shape", 1, N, H), node("ConstantOfShape", ["shape"], ["zeros"]),
             node("Identity", ["zeros"], ["h0"]), node("GRU", ("X", "W", "R", "B", "", "h0"))]  # fmt: skip
    assert_agrees(tmp_path, model(nodes, weights("GRU")))
    assert "initial_h" not in evidence_in(tmp_path / "model.onnx")


def test_peepholes_of_zero_are_none(tmp_path):
    arrays = {**weights("LSTM"), "P": np.zeros((1, 3 * H), np.float32)}
    assert_agrees(tmp_path, model([node("LSTM", ("X", "W", "R", "B", "", "", "", "P"))], arrays))


# -- where weights are ------------------------------------------------------------------------------------------------


def test_weights_are_constants_and_identities_too(tmp_path):
    arrays = weights("GRU")
    nodes = [
        node("Constant", [], ["const"], value=numpy_helper.from_array(arrays.pop("W"), "inner")),
        node("Identity", ["const"], ["again"]), node("Identity", ["again"], ["W"]), node("GRU"),
    ]  # fmt: skip
    assert_agrees(tmp_path, model(nodes, arrays))
    assert "W 'const' (1, 12, 3)" in evidence_in(tmp_path / "model.onnx")


def test_weights_are_joined_from_those_of_pytorch(tmp_path):
    """As its newer exporter cuts and joins them in the graph where they are too large to be joined beforehand."""
    arrays = weights("GRU")
    z, r, h = np.split(arrays.pop("W")[0], 3)
    arrays.update(ih=np.concatenate([r, z, h]), other=np.ones(2, np.float32))
    nodes = [
        constant("0", 0), constant("1", H), constant("2", 2 * H), constant("3", 3 * H),
        node("Slice", ["ih", "0", "1", "0"], ["r"]), node("Slice", ["ih", "1", "2", "0"], ["z"]),
        node("Slice", ["ih", "2", "3", "0"], ["h"]), node("Concat", ["z", "r", "h"], ["zrh"], axis=0),
        node("Unsqueeze", ["zrh", "0"], ["W"]), node("GRU"),
    ]  # fmt: skip
    assert_agrees(tmp_path, model(nodes, arrays))
    assert list(read_archive(tmp_path / "model.onnx").extra) == ["other"]


def test_weights_are_moved_about(tmp_path):
    arrays = weights("RNN")
    arrays["kernel"] = arrays.pop("W")[0].T.reshape(WIDTH, 1, H).copy()
    nodes = [
        constant("one", 1), constant("zero", 0), constant("shape", 1, -1, WIDTH),
        node("Squeeze", ["kernel", "one"], ["2d"]),
        node("Transpose", ["2d"], ["turned"], perm=[1, 0]), node("Unsqueeze", ["turned", "zero"], ["3d"]),
        node("Reshape", ["3d", "shape"], ["W"]), node("RNN"),
    ]  # fmt: skip
    assert_agrees(tmp_path, model(nodes, arrays))


NONSENSE = {
    "a slice backwards": [
        constant("a", 15), constant("z", 0), constant("s", -1), node("Slice", ["W", "a", "z", "z", "s"], ["w"]),
    ],
    "a sum of axes": [node("Concat", ["W", "R"], ["w"], axis=0)],
    "two dtypes": [constant("i", 1), node("Concat", ["B", "i"], ["w"], axis=0)],
    "too many elements": [constant("t", 9, 9), node("Reshape", ["W", "t"], ["w"])],
    "an axis of 16": [constant("t", 1), node("Squeeze", ["W", "t"], ["w"])],
    "no axis": [node("Unsqueeze", ["W", "X"], ["w"])],
    "no shape": [node("Reshape", ["W"], ["w"])],
    "nothing": [node("Concat", [], ["w"], axis=0)],
    "a text": [node("Constant", [], ["w"], value_string="W")],
    "another domain": [helper.make_node("Identity", ["W"], ["w"], domain="other")],
}  # fmt: skip


@pytest.mark.parametrize("nodes", NONSENSE.values(), ids=NONSENSE)
def test_weights_that_cannot_be_moved_are_computed(tmp_path, nodes):
    path = saved(tmp_path, model([*nodes, node("LSTM", ("X", "w", "R", "B"))], weights("LSTM")))
    with pytest.raises(UnsupportedError, match="its W is 'w', computed by"):
        rnnx.infer(path)


def test_a_joined_initializer_that_something_else_reads_stays(tmp_path):
    arrays = weights("RNN")
    arrays["flat"] = arrays.pop("W")[0]
    nodes = [constant("0", 0), node("Unsqueeze", ["flat", "0"], ["W"]), node("RNN"), node("Relu", ["flat"], ["out"])]
    archive = read_archive(saved(tmp_path, model(nodes, arrays, outputs=("Y", "out"))))
    assert list(archive.extra) == ["flat"]


def test_other_initializers_are_extra_and_the_graph_is_not_kept(tmp_path):
    others = {"embed.weight": random(7, WIDTH), "ids": np.arange(3), "flags": np.array([True, False]),
              "empty": np.zeros((0, 2), np.int8), "double": np.array(1.5)}  # fmt: skip
    archive = read_archive(saved(tmp_path, model([node("LSTM")], {**weights("LSTM"), **others})))
    networks.same_bits(others, dict(archive.extra))
    assert not archive.files


def test_every_data_type_of_every_field_is_read(tmp_path):
    arrays = {
        name: np.array([0, 1, 1]).astype(name)
        for name in ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
                     "uint64", "bool", "complex64", "complex128")
    }  # fmt: skip
    made = model([node("LSTM")], weights("LSTM"))
    for name, array in arrays.items():
        code = helper.np_dtype_to_tensor_dtype(array.dtype)
        made.graph.initializer.append(helper.make_tensor(name, code, array.shape, array.tolist()))
    made.graph.initializer.append(helper.make_tensor("bfloat16", TensorProto.BFLOAT16, [2], [0.5, -3.0]))
    extra = dict(read_archive(saved(tmp_path, made)).extra)
    assert extra.pop("bfloat16").astype("float32").tolist() == [0.5, -3.0]
    networks.same_bits(arrays, extra)


def test_external_data_is_mapped(tmp_path):
    arrays = {**weights("LSTM", 2), "embed": random(50, WIDTH)}
    made = model([node("LSTM", direction="bidirectional")], arrays)
    path = tmp_path / "model.onnx"
    onnx.save_model(made, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    assert path.stat().st_size < 2000
    cell, extra = rnnx.load(path)
    x = random(T, N, WIDTH)
    made = model([node("LSTM", direction="bidirectional")], arrays)
    np.testing.assert_allclose(outputs_of(cell, x), merged(ran(made, X=x)[0]), atol=1e-5)
    networks.same_bits({"embed": arrays["embed"]}, extra)
    assert not extra["embed"].flags.writeable


@pytest.mark.skipif(sys.platform == "win32", reason="a file with a hole takes its whole size there")
def test_more_than_two_gigabytes_beside_the_model(tmp_path):
    arrays = weights("LSTM")
    path = saved(tmp_path, model([node("LSTM")], arrays))
    made = onnx.load(path)
    large = external("table", [3 << 28], offset=0, length=4 * (3 << 28))
    made.graph.initializer.append(large)
    with (tmp_path / "data").open("wb") as file:
        file.truncate(4 * (3 << 28))
    archive = read_archive(saved(tmp_path, made))
    assert archive.extra["table"].nbytes == 3 << 30
    assert archive.extra["table"][-1] == 0


# -- names, bodies and functions --------------------------------------------------------------------------------------


def test_parts_are_called_as_nodes_or_weights_or_outputs(tmp_path):
    arrays = {**weights("LSTM"), **weights("GRU", prefix="enc.gru."), **weights("RNN", prefix="odd")}
    nodes = [
        node("LSTM", outputs=("y0",), name="encoder.lstm"), node("LSTM", outputs=("y1",)),
        node("GRU", ("X", "enc.gru.W", "enc.gru.R", "enc.gru.B"), ("y2",)),
        node("RNN", ("X", "oddW", "oddR", "oddB"), ("tail_Y",)),
    ]  # fmt: skip
    parts = rnnx.infer(saved(tmp_path, model(nodes, arrays, outputs=("y0", "y1", "y2", "tail_Y"))))
    assert list(parts) == ["encoder.lstm", "lstm", "enc.gru", "tail"]
    assert [part.spec.fields["prefix"] for part in parts.values()] == ["encoder.lstm_", "lstm_", "enc.gru_", "tail_"]


def test_names_that_occur_twice_are_numbered(tmp_path):
    nodes = [node("LSTM", outputs=(f"y{index}",), name="same") for index in range(2)]
    arrays = {**weights("LSTM"), **weights("GRU", prefix="g_")}
    nodes += [node("GRU", ("X", "g_W", "g_R", "g_B"), ("z",), name="same")]
    path = saved(tmp_path, model(nodes, arrays, outputs=("y0", "y1", "z")))
    assert list(rnnx.infer(path)) == ["same", "same#2", "same#3"]


def test_nodes_with_the_same_tensors_share_their_weights(tmp_path):
    nodes = [node("LSTM", outputs=(f"y{index}",), name=name) for index, name in enumerate("ab")]
    path = saved(tmp_path, model(nodes, weights("LSTM"), outputs=("y0", "y1")))
    archive = read_archive(path)
    assert archive.parts["b"].spec.fields["params"] == "a_"
    rnnx.convert(path, tmp_path / "m.rnnx")
    x = random(T, N, WIDTH)
    for name in "ab":
        cell, _ = rnnx.load(tmp_path / "m.rnnx", select=name)
        np.testing.assert_allclose(outputs_of(cell, x), outputs_of(rnnx.load(path, select="a")[0], x))


def test_nodes_in_functions_are_found_at_every_call(tmp_path):
    body = helper.make_function(
        "local", "Layer", ["x", "w", "r", "b"], ["y"],
        [node("LSTM", ("x", "w", "r", "b"), ("Y4",), name="cell"), *squeezed("Y4", "y")],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    arrays = {**weights("LSTM", prefix="a_"), **weights("LSTM", width=H, prefix="b_", seed=4)}
    calls = [helper.make_node("Layer", ["X", "a_W", "a_R", "a_B"], ["mid"], "one", domain="local"),
             helper.make_node("Layer", ["mid", "b_W", "b_R", "b_B"], ["Y"], "two", domain="local")]  # fmt: skip
    made = model(calls, arrays, functions=[body])
    cell = assert_agrees(tmp_path, made)
    assert list(rnnx.infer(tmp_path / "model.onnx")) == ["one/cell"]
    assert len(list(cell.leaves())) == 2


def test_attributes_of_a_function_reach_its_nodes(tmp_path):
    inner = node("GRU", ("x", "W", "R", "B"), ("y",))
    inner.attribute.append(onnx.AttributeProto(name="linear_before_reset", type=2, ref_attr_name="after"))
    constants = [
        node("Constant", [], [name], value=numpy_helper.from_array(array)) for name, array in weights("GRU").items()
    ]
    body = helper.make_function(
        "local", "G", ["x"], ["y"], [*constants, inner], [helper.make_opsetid("", 17)], ["after"]
    )
    made = model([helper.make_node("G", ["X"], ["Y"], "g", domain="local", after=1)], {}, functions=[body])
    cell = assert_agrees(tmp_path, made)
    assert cell.spec.fields["reset_after"] is True
    assert list(rnnx.infer(tmp_path / "model.onnx")) == ["g"]


def test_nodes_in_bodies_are_found(tmp_path):
    arrays = weights("LSTM")
    inner = {f"in{name}": array for name, array in weights("LSTM", seed=8).items()}
    branches = {}
    for name, names in (("then_branch", ("X", "W", "R", "B")), ("else_branch", ("X", "inW", "inR", "inB"))):
        tensors = [numpy_helper.from_array(array, key) for key, array in inner.items() if name == "else_branch"]
        branches[name] = helper.make_graph(
            [node("LSTM", names, (f"{name}Y",), name="cell")], name, [], [value(f"{name}Y")], tensors
        )
    made = model([node("If", ["yes"], ["Y"], name="if", **branches)], arrays, [value("yes", [], TensorProto.BOOL)])
    x = random(T, N, WIDTH)
    parts = rnnx.load_all(saved(tmp_path, made))
    for name, yes in (("if/then_branch/cell", True), ("if/else_branch/cell", False)):
        cell = parts.pop(name)
        np.testing.assert_allclose(outputs_of(cell, x), merged(ran(made, X=x, yes=np.array(yes))[0]), atol=1e-5)
    assert not parts


# -- what PyTorch exports ---------------------------------------------------------------------------------------------


def exported(folder: Path, module: Any, inputs: tuple[Any, ...], **kwargs: Any) -> Path:
    torch = pytest.importorskip("torch", reason="PyTorch exports")
    path = folder / "torch.onnx"
    torch.onnx.export(module.eval(), inputs, path, dynamo=False, **kwargs)
    return path


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("mode", ["LSTM", "GRU", "RNN"])
def test_modules_of_pytorch(tmp_path, mode, bidirectional, batch_first):
    torch = pytest.importorskip("torch", reason="PyTorch judges")
    torch.manual_seed(3)
    module = getattr(torch.nn, mode)(WIDTH, H, 2, bidirectional=bidirectional, batch_first=batch_first, dropout=0.2)
    x = torch.randn(4, 3, WIDTH)
    path = exported(tmp_path, module, (x,), input_names=["x"], dynamic_axes={"x": {0: "a", 1: "b"}})
    cell, extra = rnnx.load(path)
    found = outputs_of(cell, x.numpy(), "NTC" if batch_first else "TNC")
    np.testing.assert_allclose(found, module(x)[0].detach().numpy(), atol=1e-5)
    assert len(list(cell.leaves())) == (4 if bidirectional else 2)
    assert not extra
    for name, array in module.state_dict().items():  # bit for bit, whatever the order of the gates
        layer = f"{'r' if 'reverse' in name else 'l'}{name.split('_l')[1][0]}_"
        side = {"ih": "i2h", "hh": "h2h"}[name.split("_")[1]]
        packed = cell.get_params()[f"/{mode}_{layer}{side}_{name.split('_')[0]}"]
        assert packed.tobytes() == array.numpy().tobytes(), name


def test_a_larger_network_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch judges")

    class Tagger(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(9, WIDTH)
            self.lower = torch.nn.GRU(WIDTH, H, 2, bidirectional=True)
            self.upper = torch.nn.LSTM(2 * H, 5, bidirectional=True)
            self.out = torch.nn.Linear(10, 2)

        def forward(self, ids, hidden):
            return self.out(self.upper(torch.tanh(self.lower(self.embed(ids), hidden)[0]))[0])

    torch.manual_seed(0)
    module, ids, hidden = Tagger(), torch.randint(0, 9, (6, 2)), torch.randn(4, 2, H)
    path = exported(tmp_path, module, (ids, hidden))
    parts, extra = rnnx.load_all(path), read_archive(path).extra
    assert list(parts) == ["/lower/GRU", "/upper/LSTM"]
    assert {"embed.weight", "out.bias"} <= extra.keys()
    assert "initial_h is '/lower/Slice_output_0', computed by Slice" in evidence_in(path)
    states = [state.numpy() for state in hidden]
    lower = outputs_of(
        parts["/lower/GRU"], extra["embed.weight"][ids.numpy()], begin_state=nested(parts["/lower/GRU"], states)
    )
    upper = outputs_of(parts["/upper/LSTM"], np.tanh(lower))
    matrix = next(array for array in extra.values() if array.shape == (10, 2))
    np.testing.assert_allclose(upper @ matrix + extra["out.bias"], module(ids, hidden).detach().numpy(), atol=1e-5)


def nested(cell: rnnx.BaseRNNCell, states: Sequence[np.ndarray]) -> Any:
    """States in the order of the cells, nested as `begin_state` nests them."""
    remaining = iter(states)

    def fill(shape: Any) -> Any:
        return [fill(each) for each in shape] if isinstance(shape, list) else next(remaining)

    return fill(cell.begin_state(batch_size=states[0].shape[0]))


def test_a_packed_sequence_of_pytorch_tells_its_lengths(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch judges")
    rnn = torch.nn.utils.rnn

    class Packed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = torch.nn.GRU(WIDTH, H, 2, bidirectional=True)

        def forward(self, x, lengths):
            return rnn.pad_packed_sequence(self.gru(rnn.pack_padded_sequence(x, lengths))[0])[0]

    module, x, lengths = Packed(), torch.randn(T, N, WIDTH), torch.tensor([5, 3])
    cell, _ = rnnx.load(exported(tmp_path, module, (x, lengths)))
    found = outputs_of(cell, x.numpy(), valid_length=lengths.numpy())
    np.testing.assert_allclose(found, module(x, lengths).detach().numpy(), atol=1e-5)
    assert "pass it as valid_length=" in evidence_in(tmp_path / "torch.onnx")


# -- ONNX's own test cases --------------------------------------------------------------------------------------------


def own_cases() -> dict[str, Any]:
    """Every case that the package has for recurrent operators."""
    cases = importlib.import_module("onnx.backend.test.case.node")
    before = len(cases._NodeTestCases)
    for name in ("lstm", "gru", "rnn"):
        importlib.import_module(f"onnx.backend.test.case.node.{name}")
    assert len(cases._NodeTestCases) > before
    return {
        case.name: case
        for case in cases._NodeTestCases
        if {each.op_type for each in case.model.graph.node} & GATES.keys()
    }


OWN = own_cases()

#: Those that rnnx refuses, and why.
REFUSED = {
    "test_lstm_with_peepholes": "has peepholes",
    "test_lstm_reverse": "runs backwards alone",
    "test_gru_reverse": "runs backwards alone",
    "test_simple_rnn_reverse": "runs backwards alone",
}


def bound(case: Any) -> tuple[Any, Arrays, Arrays]:
    """The case's model with all inputs but X as initializers; its inputs and outputs by name."""
    made, (inputs, outputs) = onnx.ModelProto.FromString(case.model.SerializeToString()), case.data_sets[0]
    given = dict(zip((each.name for each in made.graph.input), inputs, strict=True))
    expected = dict(zip((each.name for each in made.graph.output), outputs, strict=True))
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in given.items() if name != "X")
    return made, given, expected


def test_the_package_has_cases_of_every_operator():
    assert {each.op_type for case in OWN.values() for each in case.model.graph.node} == GATES.keys()
    assert REFUSED.keys() <= OWN.keys()


@pytest.mark.parametrize("name", OWN)
def test_onnx_own_case(tmp_path, name):
    made, given, expected = bound(OWN[name])
    path = saved(tmp_path, made)
    if name in REFUSED:
        with pytest.raises(UnsupportedError, match=REFUSED[name]):
            rnnx.infer(path)
        return
    ((_, cell),) = rnnx.load_all(path).items()
    batch_first = any(each.name == "layout" and each.i for each in made.graph.node[0].attribute)
    outputs, states = cell.unroll(None, given["X"], layout="NTC" if batch_first else "TNC", merge_outputs=True)
    if "Y" in expected:
        y = expected["Y"].reshape(*outputs.shape) if batch_first else merged(expected["Y"])
        np.testing.assert_allclose(outputs, y, atol=1e-5)
    y_h = expected["Y_h"].transpose(1, 0, 2) if batch_first else expected["Y_h"]
    hidden = networks.leaves(states)[:: 2 if made.graph.node[0].op_type == "LSTM" else 1]
    np.testing.assert_allclose(np.stack(hidden), y_h, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, why in REFUSED.items() if "backwards" in why])
def test_onnx_own_backward_case_as_the_refusal_advises(tmp_path, name):
    made, given, expected = bound(OWN[name])
    next(each for each in made.graph.node[0].attribute if each.name == "direction").s = b"forward"
    cell, _ = rnnx.load(saved(tmp_path, made))
    _, states = cell.unroll(None, given["X"][::-1], layout="TNC", merge_outputs=True)
    np.testing.assert_allclose(states[0], expected["Y_h"][0], atol=1e-5)


# -- refusals ---------------------------------------------------------------------------------------------------------

DEFAULT_INPUTS = ("X", "W", "R", "B")

NOT_RNNX = {
    "clip": (node("LSTM", clip=3.0), r"LSTM node that makes 'Y' bounds its gates \(clip=3\)"),
    "input_forget": (node("LSTM", input_forget=1), "couples its input and forget gates"),
    "peepholes": (node("LSTM", (*DEFAULT_INPUTS, "", "", "", "ones")), r"has peepholes \(P is 'ones'\)"),
    "lstm activation": (node("LSTM", activations=["Sigmoid", "Relu", "Tanh"]), "'Relu' where .* LSTM has Tanh"),
    "gru activation": (node("GRU", activations=["HardSigmoid", "Tanh"]), "'HardSigmoid' where .* GRU has Sigmoid"),
    "rnn activation": (node("RNN", activations=["Elu"]), "has activation 'Elu'; rnnx has Tanh, Relu"),
    "alpha": (node("RNN", activation_alpha=[0.5]), r"parameters \(activation_alpha\)"),
    "beta": (node("RNN", activation_beta=[0.5]), r"parameters \(activation_beta\)"),
    "given weights": (node("LSTM", ("X", "given", "R", "B")), "its W is the input 'given'; only constants"),
    "computed weights": (node("LSTM", ("X", "W", "made", "B")), "its R is 'made', computed by Relu ''"),
    "computed bias": (node("LSTM", ("X", "W", "R", "made")), "its B is 'made'"),
    "no weights": (node("LSTM", ("X",)), "its W is left out"),
    "attribute": (node("LSTM", future=1), "an attribute 'future', which rnnx does not know"),
    "domain": (helper.make_node("DynamicQuantizeLSTM", ["X", "W", "R", "B"], ["Y"], domain="com.microsoft"),
               "is an operator of 'com.microsoft'"),
}  # fmt: skip


@pytest.mark.parametrize(("strange", "message"), NOT_RNNX.values(), ids=NOT_RNNX)
def test_what_rnnx_has_no_cell_for_is_refused_alone(tmp_path, strange, message):
    op = strange.op_type if strange.op_type in GATES else "LSTM"
    arrays = {**weights(op), **weights("GRU", prefix="good_"), "ones": np.ones((1, 3 * H), np.float32)}
    inputs, relu = [value("given")], node("Relu", ["given"], ["made"])
    with pytest.raises(UnsupportedError, match=message):
        rnnx.infer(saved(tmp_path, model([relu, strange], arrays, inputs)))
    good = node("GRU", ("X", "good_W", "good_R", "good_B"), ("Z",))
    path = saved(tmp_path, model([relu, strange, good], arrays, inputs))
    (part,) = rnnx.infer(path).values()
    assert part.evidence[-1].startswith("left out: ")


DAMAGED = {
    "hidden_size": (node("LSTM", hidden_size=5), {}, r"has hidden_size 5, and its R \(1, 16, 4\) tells 4"),
    "direction": (node("LSTM", direction="sideways"), {}, "has direction 'sideways'"),
    "layout": (node("LSTM", layout=2), {}, "has layout 2, expected 0 or 1"),
    "activations": (node("LSTM", activations=["Tanh"]), {}, "has 1 activations, expected 3"),
    "type": (node("LSTM", layout="1"), {}, "'layout' is of type 3, expected 2"),
    "rows of W": (node("LSTM"), {"W": random(1, 12, WIDTH)}, r"W 'W' has shape \(1, 12, 3\), expected \(1, 16, 3\)"),
    "R": (node("LSTM"), {"R": random(16, H)}, r"R 'R' has shape \(16, 4\), expected \(1, 16, 4\)"),
    "B": (node("LSTM"), {"B": random(1, 16)}, r"B 'B' has shape \(1, 16\), expected \(1, 32\)"),
    "scalar": (node("LSTM"), {"R": np.float32(1)}, r"W 'W' has shape \(1, 16, 3\), expected \(1, 0, 3\)"),
    "directions": (node("LSTM", direction="bidirectional"), {}, r"expected \(2, 16, 3\)"),
    "no units": (node("LSTM"), {"W": random(1, 0, WIDTH), "R": random(1, 0, 0), "B": random(1, 0)},
                 r"has shape \(1, 0, 3\)"),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "arrays", "message"), DAMAGED.values(), ids=DAMAGED)
def test_nodes_that_contradict_themselves_are_refused(tmp_path, wrong, arrays, message):
    with pytest.raises(WeightFormatError, match=message):
        rnnx.infer(saved(tmp_path, model([wrong], {**weights("LSTM"), **arrays})))


def test_weights_of_whole_numbers_are_refused(tmp_path):
    arrays = {name: (array * 9).astype(np.int8) for name, array in weights("LSTM").items()}
    with pytest.raises(WeightFormatError, match="has dtype int8, expected one of float32"):
        rnnx.infer(saved(tmp_path, model([node("LSTM")], arrays)))


def test_a_model_without_recurrent_nodes(tmp_path):
    with pytest.raises(WeightFormatError, match="no recurrent weights were found"):
        rnnx.load(saved(tmp_path, model([node("Relu", ["X"], ["Y"])], {})))


# -- telling files apart ----------------------------------------------------------------------------------------------


def test_models_are_told_by_their_content(tmp_path):
    path = saved(tmp_path, model([node("LSTM")], weights("LSTM")), "model.bin")
    assert list(rnnx.infer(path)) == ["lstm"]
    for version in (3, 8, 13):
        made = model([node("LSTM")], weights("LSTM"))
        made.ir_version = version
        made.producer_name = "a producer with quite a long name, longer than what is looked at of any file at all"
        assert OnnxFormat().recognises(Path("x"), made.SerializeToString()[:64])


@pytest.mark.parametrize("head", [
    b"", b"\x08", b"\x08\x01",
    b"\x12\x01" + bytes(6),  # an NDArray list of MXNet
    b"\x08\x07\x12\x00\x00\x00\x00\x00{",  # a safetensors header of a length that looks like a version
    b"\x08\x01\x12\xd0\x8c\x01\x0a\x1f",  # TensorFlow's SavedModel
    b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\x80\x02}", b"\x93NUMPY",
])  # fmt: skip
def test_other_files_are_not_taken_for_models(head):
    assert not OnnxFormat().recognises(Path("weights.bin"), head)


# -- what rnnx wrote --------------------------------------------------------------------------------------------------


def written(made: Any, cell: rnnx.BaseRNNCell, layouts: Mapping[str, Any]) -> Any:
    described = {
        name: {"spec": cell.spec.to_dict(), "input_size": WIDTH, "stored": each} for name, each in layouts.items()
    }
    helper.set_model_props(made, {"rnnx.parts": json.dumps(described or {"mine": cell.spec.to_dict()})})
    return made


def as_written() -> tuple[Any, rnnx.BaseRNNCell, dict[str, Any]]:
    cell = networks.randomized(rnnx.GRUCell(H, prefix="own_"), WIDTH, "float32")
    shapes = cell.gate_shapes(WIDTH)
    stored = node_tensors([cell.spec], shapes, "W", "R", "B")
    plain = [[each.name, list(each.shape), [block.weight for block in each.blocks], 1, False] for each in stored]
    return model([node("GRU", linear_before_reset=1)], weights("GRU")), cell, {"mine": plain}


def test_metadata_tells_the_tree(tmp_path):
    made, cell, layouts = as_written()
    loaded = assert_agrees(tmp_path, written(made, cell, layouts))
    assert loaded.spec == cell.spec
    (part,) = rnnx.infer(tmp_path / "model.onnx").values()
    assert "the cell tree is written in the file ('rnnx.parts')" in part.evidence[0]


def changed_layouts(change: Any) -> dict[str, Any]:
    layouts = as_written()[2]
    change(layouts["mine"])
    return layouts


MISFITS = {
    "no layouts": {},
    "no list": {"mine": 3},
    "missing tensor": changed_layouts(lambda plain: plain[0].__setitem__(0, "gone")),
    "another shape": changed_layouts(lambda plain: plain[1].__setitem__(1, [1, 12, 5])),
    "absurd shape": changed_layouts(lambda plain: plain[0].__setitem__(1, [2**62] * 8)),
    "unknown weight": changed_layouts(lambda plain: plain[2][2].append("other_weight")),
    "no numbers": changed_layouts(lambda plain: plain[0].__setitem__(1, ["x"])),
}


@pytest.mark.parametrize("layouts", MISFITS.values(), ids=MISFITS)
def test_metadata_that_does_not_fit_is_passed_over_and_told(tmp_path, layouts):
    made, cell, _ = as_written()
    loaded = assert_agrees(tmp_path, written(made, cell, layouts))
    assert loaded.spec.fields["prefix"] == "gru_"
    assert "the graph was read, since the model's metadata does not fit it" in evidence_in(tmp_path / "model.onnx")


def test_a_tree_that_cannot_be_is_passed_over(tmp_path):
    made, cell, layouts = as_written()
    huge = json.loads(cell.spec.to_json()) | {"num_hidden": 2**70}
    described = {"spec": huge, "input_size": WIDTH, "stored": layouts["mine"]}
    helper.set_model_props(made, {"rnnx.parts": json.dumps({"mine": described})})
    assert_agrees(tmp_path, made)

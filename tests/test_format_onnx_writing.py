"""ONNX as it is written: what ONNX Runtime computes from the file is what rnnx computes, and nothing is lost in it."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import networks
import rnnx
from networks import FUSED_MODES, PLAIN_MODES, assert_all_close, leaves, plain, same_bits, sequential
from rnnx.archive import Accepted, Archive, Part
from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.files import read_archive
from rnnx.formats.onnx import graph as onnx_graph
from rnnx.formats.onnx.graph import write_model, written_layouts
from rnnx.spec import CellSpec
from rnnx.weights.stored import taken_apart

onnx = pytest.importorskip("onnx", reason="the package onnx writes the files")
ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime judges the files")

WIDTH = 3

#: Rows and steps of the batches that one model runs.
BATCHES = ((1, 1), (4, 6), (2, 9))

#: Every dtype that rnnx's own formats hold.
OTHERS = {
    "embed_weight": np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3),
    "pred_bias": np.array([np.nan, -0.0, np.inf], np.float64),
    "scalar": np.array(2.5, np.float16),
    "brain": np.arange(3).astype(ml_dtypes.bfloat16),
    "flags": np.array([True, False]),
    "none": np.zeros((0, 3), np.int8),
    **{f"whole {dtype}": np.arange(5, dtype=dtype)[::-1] for dtype in ("int16", "int32", "int64", "uint8", "uint16")},
    **{f"whole {dtype}": np.arange(5, dtype=dtype) for dtype in ("int8", "uint32", "uint64")},
}


def archive_of(
    cell: rnnx.BaseRNNCell, extra: Mapping[str, Any] | None = None, dtype: str = "float32", scale: float = 0.7
) -> Archive:
    """The cell as the only part of an archive, with distinct random weights."""
    return Archive({"part": Part.of(networks.randomized(cell, WIDTH, dtype, scale=scale))}, extra or {})


def written(path: Path, archive: Archive) -> Any:
    """The model written to a path, once the checker has passed it."""
    write_model(path, archive, Accepted())
    onnx.checker.check_model(str(path), full_check=True)
    return onnx.load(path)


def operators(model: Any) -> Counter:
    """How often each operator occurs among those that compute something."""
    rearranging = ("Shape", "Constant", "Concat", "Expand", "Squeeze", "Unsqueeze", "Split", "Transpose", "Reshape")
    return Counter(node.op_type for node in model.graph.node if node.op_type not in rearranging)


def dimensions(value: Any) -> list[Any]:
    return [each.dim_param or each.dim_value for each in value.type.tensor_type.shape.dim]


def random_states(cell: rnnx.BaseRNNCell, batch: int, dtype: Any, rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=[size or batch for size in shape]).astype(dtype) for shape in cell.state_shape]


def with_all_states(cell: rnnx.BaseRNNCell) -> rnnx.BaseRNNCell:
    """The tree, where every fused cell gives out its final states."""

    def asking(spec: CellSpec) -> CellSpec:
        asked = {"get_next_state": True} if spec.kind == "FusedRNNCell" else {}
        return CellSpec(spec.kind, {**spec.fields, **asked}, tuple(map(asking, spec.children)))

    return cell.converted(asking(cell.spec))


def assert_runs(path: Path, cell: rnnx.BaseRNNCell, scope: str = "", tolerance: float = 1e-5) -> None:
    """ONNX Runtime gives rnnx's outputs and final states for batches of several sizes, by one and the same model."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs() if each.name.startswith(scope)]
    wanted = [each.name for each in session.get_outputs() if each.name.startswith(scope)]
    others = {
        each.name: np.ones([size if isinstance(size, int) else 1 for size in each.shape], np.float32)
        for each in session.get_inputs()
        if each.name not in names
    }
    rng, dtype = np.random.default_rng(2), next(iter(cell.get_params().values())).dtype
    for batch, length in BATCHES:
        inputs = rng.normal(size=(batch, length, WIDTH)).astype(dtype)
        states = random_states(cell, batch, dtype, rng)
        found = session.run(wanted, {**others, **dict(zip(names, [inputs, *states], strict=True))})
        outputs, finals = with_all_states(cell).unroll(None, inputs, states, merge_outputs=True)
        assert_all_close(found, [outputs, *leaves(finals)], tolerance)


def assert_equal_in_onnx_runtime(path: Path, cell: rnnx.BaseRNNCell, **options: Any) -> Any:
    model = written(path / "model.onnx", archive_of(cell, **options))
    assert_runs(path / "model.onnx", cell)
    return model


# -- what runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", PLAIN_MODES)
def test_plain_cells(tmp_path, mode):
    model = assert_equal_in_onnx_runtime(tmp_path, plain(mode, 4))
    assert sum(operators(model).values()) == 1


@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both ways"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("mode", FUSED_MODES)
def test_fused_cells(tmp_path, mode, layers, bidirectional):
    cell = rnnx.FusedRNNCell(4, layers, mode, bidirectional, 0.5, prefix="net_")
    model = assert_equal_in_onnx_runtime(tmp_path, cell, scale=0.5)
    assert operators(model) == {mode.partition("_")[0].upper(): layers}


@pytest.mark.parametrize("mode", PLAIN_MODES)
def test_two_equal_cells_are_one_node(tmp_path, mode):
    cell = rnnx.BidirectionalCell(plain(mode, 4, "l_"), plain(mode, 4, "r_"))
    model = assert_equal_in_onnx_runtime(tmp_path, cell)
    (node,) = [node for node in model.graph.node if any(each.name == "hidden_size" for each in node.attribute)]
    assert onnx.helper.get_node_attr_value(node, "direction") == b"bidirectional"


def test_zoneout_does_not_hide_that_cells_are_equal(tmp_path):
    sides = (rnnx.ZoneoutCell(sequential(rnnx.DropoutCell(0.5), rnnx.LSTMCell(4, prefix)), 0.5) for prefix in "lr")
    model = assert_equal_in_onnx_runtime(tmp_path, rnnx.BidirectionalCell(*sides))
    assert operators(model) == {"LSTM": 1}


def mixed() -> rnnx.BaseRNNCell:
    return sequential(
        rnnx.LSTMCell(5, "a_"),
        rnnx.DropoutCell(0.5),
        rnnx.GRUCell(4, "b_"),
        rnnx.ZoneoutCell(rnnx.RNNCell(6, "softsign", "c_"), 0.5, 0.5),
        rnnx.GRUCell(2, "d_", reset_after=False),
    )


TREES = {
    "a stack of different cells": mixed,
    "a residual around both ways": lambda: sequential(
        rnnx.RNNCell(4, prefix="a_"),
        rnnx.ResidualCell(rnnx.BidirectionalCell(rnnx.LSTMCell(2, "l_"), rnnx.LSTMCell(2, "r_"))),
    ),
    "other sizes each way": lambda: rnnx.BidirectionalCell(rnnx.LSTMCell(2, "l_"), rnnx.LSTMCell(5, "r_")),
    "other activations each way": lambda: rnnx.BidirectionalCell(
        rnnx.RNNCell(4, "tanh", "l_"), rnnx.RNNCell(4, "relu", "r_")
    ),
    "other resets each way": lambda: rnnx.BidirectionalCell(
        rnnx.GRUCell(4, "l_"), rnnx.GRUCell(4, "r_", reset_after=False)
    ),
    "stacks each way": lambda: rnnx.BidirectionalCell(mixed(), sequential(rnnx.GRUCell(3, "e_"), rnnx.RNNCell(2))),
    "both ways, backward": lambda: rnnx.BidirectionalCell(
        rnnx.GRUCell(2, "a_"), rnnx.BidirectionalCell(rnnx.LSTMCell(3, "b_"), rnnx.LSTMCell(3, "c_"))
    ),
    "fused cells each way": lambda: rnnx.BidirectionalCell(
        rnnx.FusedRNNCell(3, 2, "gru", True, prefix="a_"), rnnx.FusedRNNCell(2, 2, "lstm", True, prefix="b_")
    ),
    "a fused cell among others": lambda: sequential(
        rnnx.LSTMCell(2, "a_"), rnnx.FusedRNNCell(3, 2, "lstm", True, prefix="b_"), rnnx.GRUCell(2, "c_")
    ),
    "residuals, backward": lambda: rnnx.BidirectionalCell(
        rnnx.RNNCell(2, prefix="a_"), rnnx.ResidualCell(rnnx.ZoneoutCell(rnnx.LSTMCell(WIDTH, "b_"), 0.5))
    ),
    "a projection": lambda: rnnx.LSTMPCell(6, 4, "p_"),
    "projections each way": lambda: sequential(
        rnnx.BidirectionalCell(rnnx.LSTMPCell(6, 4, "l_"), rnnx.LSTMPCell(6, 4, "r_")), rnnx.LSTMPCell(5, 2, "p_")
    ),
    "dropout around": lambda: sequential(rnnx.DropoutCell(0.5), rnnx.LSTMCell(4), rnnx.DropoutCell(0.5)),
    "one cell's weights three times": lambda: sequential(
        rnnx.RNNCell(4, prefix="a_"),
        (first := rnnx.LSTMCell(4, "b_")),
        rnnx.LSTMCell(4, "b_", first.params),
        rnnx.LSTMCell(4, "c_", first.params),
    ),
    "an empty stack within": lambda: sequential(rnnx.SequentialRNNCell(), rnnx.GRUCell(4), sequential(sequential())),
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_trees(tmp_path, name):
    assert_equal_in_onnx_runtime(tmp_path, TREES[name]())


class Growing:
    """Trees of random cells, sizes and nesting, whose prefixes are all different."""

    def __init__(self, seed: int) -> None:
        self._rng, self._count = np.random.default_rng(seed), 0

    def tree(self, width: int, depth: int) -> rnnx.BaseRNNCell:
        if depth == 0:
            return self._leaf(self._size())
        kind = self._rng.integers(6)
        if kind == 0:
            return rnnx.BidirectionalCell(self.tree(width, depth - 1), self.tree(width, depth - 1))
        if kind == 1:
            return rnnx.ResidualCell(sequential(self.tree(width, depth - 1), self._leaf(width)))
        if kind == 2:
            return rnnx.BidirectionalCell(self._leaf(2), self._leaf(2))
        if kind == 3:
            return rnnx.ZoneoutCell(self._leaf(self._size()), 0.5, 0.5)
        stack = rnnx.SequentialRNNCell()
        for _ in range(self._rng.integers(1, 4)):
            cell = self.tree(width, depth - 1)
            stack.add(cell)
            width = cell.output_size(width)
            if self._rng.integers(3) == 0:
                stack.add(rnnx.DropoutCell(0.5))
        return stack

    def _leaf(self, size: int) -> rnnx.BaseRNNCell:
        prefix, mode = self._prefix(), self._rng.choice([*PLAIN_MODES, "projected"])
        return rnnx.LSTMPCell(size + 1, size, prefix) if mode == "projected" else plain(str(mode), size, prefix)

    def _size(self) -> int:
        return int(self._rng.integers(1, 6))

    def _prefix(self) -> str:
        self._count += 1
        return f"l{self._count}_"


@pytest.mark.parametrize("seed", range(40))
def test_random_trees(tmp_path, seed):
    assert_equal_in_onnx_runtime(tmp_path, Growing(seed).tree(WIDTH, seed % 3 + 1), scale=0.5)


@pytest.mark.parametrize("build", [lambda: rnnx.FusedRNNCell(4, 2, "lstm", True), mixed, TREES["projections each way"]])
def test_half_precision(tmp_path, build):
    cell, path = build(), tmp_path / "model.onnx"
    written(path, archive_of(cell, dtype="float16", scale=0.5))
    assert_runs(path, cell, tolerance=5e-3)


# -- inputs and outputs -----------------------------------------------------------------------------------------------


def test_names_and_shapes(tmp_path):
    cell = sequential(rnnx.FusedRNNCell(4, 2, "lstm", True, prefix="net_"), rnnx.LSTMPCell(5, 2, "top_"))
    model = onnx.shape_inference.infer_shapes(written(tmp_path / "x.onnx", archive_of(cell)), strict_mode=True)
    inputs = {each.name: dimensions(each) for each in model.graph.input}
    assert inputs == {"inputs": ["N", "T", WIDTH], "net_h": [4, 0, 4], "net_c": [4, 0, 4], "top_h": [0, 2],
                      "top_c": [0, 5]}  # fmt: skip
    outputs = {each.name: dimensions(each) for each in model.graph.output}
    assert outputs == {"outputs": ["N", "T", 2], "net_next_h": [4, "N", 4], "net_next_c": [4, "N", 4],
                       "top_next_h": ["N", 2], "top_next_c": ["N", 5]}  # fmt: skip


def test_shapes_are_inferred(tmp_path):
    """The outputs' shapes follow from the inputs' and the weights', and are not only declared."""
    model = written(tmp_path / "x.onnx", archive_of(TREES["a residual around both ways"]()))
    for each in model.graph.output:
        each.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    assert dimensions(inferred.graph.output[0]) == ["N", "T", 4]


@pytest.mark.parametrize("build", [lambda: rnnx.FusedRNNCell(4, 2, "lstm", True), mixed])
def test_an_initial_state_of_one_row_is_that_of_every_row(tmp_path, build):
    cell, path = build(), tmp_path / "x.onnx"
    written(path, archive_of(cell))
    session = ort.InferenceSession(path)
    zeros = {
        each.name: np.zeros([size if isinstance(size, int) else 1 for size in each.shape], np.float32)
        for each in session.get_inputs()[1:]
    }
    inputs = np.random.default_rng(1).normal(size=(5, 4, WIDTH)).astype(np.float32)
    expected, _ = cell.unroll(None, inputs, merge_outputs=True)
    assert_all_close(session.run(["outputs"], {"inputs": inputs, **zeros}), [expected], 1e-5)


def test_cells_that_share_weights_have_states_of_their_own(tmp_path):
    model = written(tmp_path / "x.onnx", archive_of(TREES["one cell's weights three times"]()))
    names = ["inputs", "a_h", "b_h", "b_c", "b_h#2", "b_c#2", "c_h", "c_c"]
    assert [each.name for each in model.graph.input] == names
    assert [each.name for each in model.graph.initializer] == ["a_W", "a_R", "a_B", "b_W", "b_R", "b_B"]


def test_several_parts(tmp_path):
    parts = {
        "encoder.lstm": networks.randomized(rnnx.FusedRNNCell(4, 2, prefix="lstm_"), WIDTH, "float32", 1),
        "decoder.lstm": networks.randomized(rnnx.FusedRNNCell(4, 2, prefix="lstm_"), WIDTH, "float32", 2),
    }
    path = tmp_path / "x.onnx"
    model = written(path, Archive({name: Part.of(cell) for name, cell in parts.items()}, {}))
    names = ["inputs", "lstm_h", "lstm_c"]
    assert [each.name for each in model.graph.input] == [f"{part}/{name}" for part in parts for name in names]
    for name, cell in parts.items():
        assert_runs(path, cell, f"{name}/")


@pytest.mark.parametrize("cell", [rnnx.DropoutCell(0.5), rnnx.ResidualCell(rnnx.DropoutCell(0.5))])
def test_a_part_without_weights(tmp_path, cell):
    path = tmp_path / "x.onnx"
    written(path, Archive({"part": Part(cell.spec, {})}, {}))
    inputs = np.ones((2, 5, 3), np.float32)
    (outputs,) = ort.InferenceSession(path).run(None, {"inputs": inputs})
    np.testing.assert_array_equal(outputs, inputs * (1 if cell.spec.kind == "DropoutCell" else 2))


# -- what is kept -----------------------------------------------------------------------------------------------------


def told(model: Any) -> dict[str, Any]:
    return {each.key: json.loads(each.value) for each in model.metadata_props}


def initializers(model: Any) -> dict[str, np.ndarray]:
    return {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}


@pytest.mark.parametrize("name", TREES)
def test_the_tree_and_every_weight_can_be_read_back(tmp_path, name):
    archive = archive_of(TREES[name](), OTHERS)
    model = written(tmp_path / "x.onnx", archive)
    part, arrays = archive.parts["part"], initializers(model)
    described = told(model)["rnnx.parts"]["part"]
    assert CellSpec.from_dict(described["spec"]) == part.spec
    layout = written_layouts(archive)["part"]
    assert [each.name for each in layout] == [each[0] for each in described["stored"]]
    shapes = {weight: array.shape for weight, array in part.weights.items()}
    same_bits(dict(part.weights), taken_apart(layout, arrays, shapes))
    same_bits(OTHERS, {name: arrays[name] for name in OTHERS})
    again = read_archive(tmp_path / "x.onnx")
    assert again.parts["part"].spec == part.spec
    same_bits(dict(part.weights), dict(again.parts["part"].weights))
    same_bits(OTHERS, dict(again.extra))


def test_extra_arrays_are_no_cause_for_warnings(tmp_path, capfd):
    path = tmp_path / "x.onnx"
    written(path, archive_of(mixed(), OTHERS))
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        ort.InferenceSession(path, options)
    assert capfd.readouterr().err == ""


def test_names_that_are_taken(tmp_path):
    extra = {name: np.full(2, number, np.float32) for number, name in enumerate(["inputs", "lstm_h", "lstm_W", "N"])}
    cell, path = rnnx.LSTMCell(4), tmp_path / "x.onnx"
    model = written(path, archive_of(cell, extra))
    assert [each.name for each in model.graph.input] == ["inputs#2", "lstm_h#2", "lstm_c"]
    same_bits(extra, {name: initializers(model)[name] for name in extra})
    assert_runs(path, cell)


def test_pairs_and_cells_that_would_have_tensors_of_one_name(tmp_path):
    pair = rnnx.BidirectionalCell(rnnx.LSTMCell(2, "a_"), rnnx.LSTMCell(2, "b_"))
    model = assert_equal_in_onnx_runtime(tmp_path, sequential(pair, rnnx.LSTMCell(3, "a_b_")))
    assert [each.name for each in model.graph.initializer][::3] == ["a_b_W", "a_b_W#2"]


def test_numbers_of_the_other_byte_order(tmp_path):
    model = written(tmp_path / "x.onnx", archive_of(rnnx.LSTMCell(4), {"big": np.arange(3, dtype=">f4")}))
    np.testing.assert_array_equal(initializers(model)["big"], np.arange(3, dtype=np.float32))


def test_the_same_archive_gives_the_same_file(tmp_path):
    for name in ("one.onnx", "other.onnx"):
        written(tmp_path / name, archive_of(mixed(), OTHERS))
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "other.onnx").read_bytes()


# -- models that are large --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a stack of different cells", "projections each way"])
def test_weights_in_a_file_of_their_own(tmp_path, monkeypatch, name):
    cell, path = TREES[name](), tmp_path / "x.onnx"
    monkeypatch.setattr(onnx_graph, "EXTERNAL_FROM", 100)
    model = written(path, archive_of(cell, OTHERS))
    assert {each.name for each in tmp_path.iterdir()} == {"x.onnx", "x.onnx.data"}
    assert_runs(path, cell)
    same_bits(OTHERS, {name: initializers(model)[name] for name in OTHERS})
    headed = onnx.load(path, load_external_data=False)
    starts = [
        int(entry.value)
        for tensor in headed.graph.initializer
        for entry in tensor.external_data
        if entry.key == "offset"
    ]
    assert len(starts) > 10
    assert all(start % 4096 == 0 for start in starts)


@pytest.mark.parametrize("failing", ["x.onnx", "x.onnx.data"])
def test_both_files_are_replaced_or_neither_is(tmp_path, monkeypatch, failing):
    monkeypatch.setattr(onnx_graph, "EXTERNAL_FROM", 100)
    path = tmp_path / "x.onnx"
    written(path, archive_of(rnnx.GRUCell(4)))
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}

    def full(*arguments: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(onnx_graph, "_write_data" if failing == "x.onnx.data" else "_model", full)
    with pytest.raises(OSError, match="no space left"):
        write_model(path, archive_of(rnnx.LSTMCell(4)), Accepted())
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


# -- what is refused --------------------------------------------------------------------------------------------------


def refused(path: Path, archive: Archive, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        write_model(path / "x.onnx", archive, Accepted())
    assert not list(path.iterdir())


@pytest.mark.parametrize(
    "around",
    [
        lambda cell: cell,
        lambda cell: rnnx.BidirectionalCell(rnnx.LSTMCell(4), sequential(rnnx.ResidualCell(cell))),
    ],
)
def test_a_cell_of_the_users_own(tmp_path, around):
    cell = around(networks.PeepholeLSTM(WIDTH))
    message = r"networks:PeepholeLSTM \(prefix 'peephole_'\) .* ONNX has no node: write the portable file"
    refused(tmp_path, archive_of(cell), UnsupportedError, message)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_a_dtype_without_kernels(tmp_path, dtype):
    message = rf"weights of part 'part' are {dtype}, and ONNX Runtime runs .* float32 and float16: .*dtype='float32'"
    refused(tmp_path, archive_of(rnnx.LSTMCell(4), dtype=dtype), UnsupportedError, message)


def cut(archive: Archive, **changes: Any) -> Archive:
    return Archive(**{"parts": archive.parts, "extra": archive.extra, **changes})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"files": {"symbol.json": b"{}"}}, WeightFormatError, r"no place for the file 'symbol.json': drop_files=True"),
        ({"parts": {}}, UnsupportedError, "there is no recurrent part, so there is no graph: write"),
        (
            {"extra": {"z": np.zeros(2, np.complex64)}},
            WeightFormatError,
            "array 'z' has dtype complex64; an ONNX model",
        ),
        ({"extra": {"": np.zeros(2)}}, WeightFormatError, "an extra array has no name"),
        ({"extra": {"\ud800": np.zeros(2)}}, WeightFormatError, "a name cannot be stored as UTF-8"),
    ],
    ids=["a file", "no part", "a dtype", "no name", "half a letter"],
)
def test_what_has_no_place(tmp_path, changes, error, message):
    refused(tmp_path, cut(archive_of(rnnx.LSTMCell(4)), **changes), error, message)


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx.helper", None)
    refused(
        tmp_path, archive_of(rnnx.LSTMCell(4)), UnsupportedError, r"ONNX files need onnx .*pip install 'rnnx\[onnx\]'"
    )

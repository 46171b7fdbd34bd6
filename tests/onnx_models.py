"""ONNX models for the tests: made node by node, run by ONNX Runtime, and read as cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnx

onnx = pytest.importorskip("onnx", reason="onnx is needed to make models")
ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime judges")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

T, N, WIDTH, H = 5, 2, 3, 4
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
Arrays = dict[str, np.ndarray]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    """Numbers between -0.4 and 0.4, others for every shape and seed."""
    return np.random.default_rng([seed, *shape]).uniform(0.1, 0.9, shape).astype(np.float32) - np.float32(0.5)


def weights(op: str, directions: int = 1, width: int = WIDTH, prefix: str = "", seed: int = 0) -> Arrays:
    """W, R and B of a node."""
    rows = GATES[op] * H
    return {
        f"{prefix}W": random(directions, rows, width, seed=seed),
        f"{prefix}R": random(directions, rows, H, seed=seed + 1),
        f"{prefix}B": random(directions, 2 * rows, seed=seed + 2),
    }


def value(name: str, shape: Sequence[Any] | None = None, dtype: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def model(
    nodes: Sequence[Any],
    arrays: Mapping[str, np.ndarray],
    inputs: Sequence[Any] = (),
    outputs: Sequence[str] = ("Y",),
    functions: Sequence[Any] = (),
) -> Any:
    """A model that reads X (T, N, WIDTH), with arrays as initializers."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [value("X", ["T", "N", WIDTH]), *inputs],
        [value(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=list(functions))


def node(
    op: str, inputs: Sequence[str] = ("X", "W", "R", "B"), outputs: Sequence[str] = ("Y",), **attributes: Any
) -> Any:
    own = {"hidden_size": H} if op in GATES else {}
    return helper.make_node(op, list(inputs), list(outputs), **{**own, **attributes})


def constant(name: str, *numbers: int) -> Any:
    return node("Constant", [], [name], value_ints=list(numbers))


def saved(folder: Path, made: Any, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(made.SerializeToString())
    return path


def ran(made: Any, **inputs: np.ndarray) -> list[np.ndarray]:
    """What ONNX Runtime makes of a model."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def merged(y: np.ndarray) -> np.ndarray:
    """Y (T, D, N, H) as (T, N, D*H)."""
    return y.transpose(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], -1) if y.ndim == 4 else y


def outputs_of(cell: rnnx.BaseRNNCell, x: np.ndarray, layout: str = "TNC", **kwargs: Any) -> np.ndarray:
    return cell.unroll(None, x, layout=layout, merge_outputs=True, **kwargs)[0]


def assert_agrees(folder: Path, made: Any) -> rnnx.BaseRNNCell:
    """Let ONNX Runtime judge the one part of a model."""
    x = random(T, N, WIDTH, seed=9)
    cell, _ = rnnx.load(saved(folder, made))
    np.testing.assert_allclose(outputs_of(cell, x), merged(ran(made, X=x)[0]), atol=1e-5)
    return cell


def evidence_in(path: Path) -> str:
    return "\n".join(line for part in rnnx.infer(path).values() for line in part.evidence)


def squeezed(name: str, out: str, axis: int = 1) -> list[Any]:
    return [constant(f"{out}.axis", axis), node("Squeeze", [name, f"{out}.axis"], [out])]


def two_layers(between: Sequence[Any], directions: int = 1, op: str = "GRU", **attributes: Any) -> Any:
    """Two nodes, with nodes between that read Y0 and make X1."""
    arrays = {**weights(op, directions, WIDTH, "a_"), **weights(op, directions, directions * H, "b_", seed=5)}
    own = {"direction": ("forward", "bidirectional")[directions - 1], **attributes}
    return model(
        [node(op, ("X", "a_W", "a_R", "a_B"), ("Y0",), **own), *between,
         node(op, ("X1", "b_W", "b_R", "b_B"), ("Y",), **own)],
        arrays,
    )  # fmt: skip


TURNED = node("Transpose", ["Y0"], ["turned"], perm=[0, 2, 1, 3])


def reshaped(*target: int) -> list[Any]:
    return [TURNED, constant("target", *target), node("Reshape", ["turned", "target"], ["X1"])]


def external(name: str, shape: Sequence[int], **told: Any) -> Any:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, entry in {"location": "data", **told}.items():
        tensor.external_data.add(key=key, value=str(entry))
    return tensor

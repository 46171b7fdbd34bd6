"""Files that the frameworks themselves write; none where a framework is not installed."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from samples import Sample, scratch

__all__ = ["of_flax", "of_keras", "of_onnx", "of_tensorflow", "of_torch", "reproducible"]


def reproducible(content: bytes) -> bytes:
    """Return a zip file without what Keras makes anew at every run, dates and addresses; anything else as it is."""
    if not content.startswith(b"PK\x03\x04"):
        return content
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename == "metadata.json":
                data = json.dumps({**json.loads(data), "date_saved": "1980-01-01@00:00:00"}).encode()
            data = re.sub(rb'("shared_object_id": )[0-9]+', rb"\g<1>1", data)
            new.writestr(zipfile.ZipInfo(entry.filename, (1980, 1, 1, 0, 0, 0)), data, entry.compress_type)
    return made.getvalue()


def _installed(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) is not None for package in packages)


# -- PyTorch ----------------------------------------------------------------------------------------------------------


def of_torch() -> Iterator[Sample]:
    """Yield state dicts and a training checkpoint, in the file of today and in that of before 1.6."""
    if not _installed("torch"):
        return
    import torch

    torch.manual_seed(0)
    lstm = torch.nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2)
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(5, 3), "gru": torch.nn.GRU(3, 2, bias=False)})
    state = {
        "epoch": 3,
        "model_state_dict": model.state_dict(),
        "optimizer": torch.optim.Adam(model.parameters()).state_dict(),
        "args": {"lr": 0.1, "names": ["a", "b"], "best": None, "shape": (1, 2)},
    }
    odd = {
        "half": torch.ones(3, dtype=torch.bfloat16),
        "view": torch.arange(12.0).reshape(3, 4).T,
        "flag": torch.tensor(True),
        **torch.nn.RNNCell(3, 2).state_dict(prefix="cell."),
    }
    for content in (lstm.state_dict(), model.state_dict(), state, odd):
        for zipped in (True, False):
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=zipped)
            yield Sample("model.pt", {"model.pt": file.getvalue()})


# -- Keras ------------------------------------------------------------------------------------------------------------


def of_keras() -> Iterator[Sample]:
    """Yield models in the three kinds of file that Keras 3 writes."""
    backend = next((name for name in ("torch", "tensorflow", "jax") if _installed(name)), None)
    if backend is None or not _installed("keras", "h5py"):
        return
    os.environ.setdefault("KERAS_BACKEND", backend)
    import keras

    for build in (_keras_stack, _keras_cells, _keras_functional):
        keras.utils.clear_session()
        keras.utils.set_random_seed(0)
        model = build(keras)
        with scratch() as folder:
            for name in ("model.keras", "model.weights.h5", "model.h5"):
                path = folder / name
                model.save_weights(path) if name.endswith(".weights.h5") else model.save(path)
                yield Sample(name, {name: reproducible(path.read_bytes())})


def _keras_stack(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Embedding(4, 3),
            layers.LSTM(2, return_sequences=True),
            layers.Bidirectional(layers.GRU(2, return_sequences=True)),
            layers.GRU(2, reset_after=False, use_bias=False, return_sequences=True),
            layers.SimpleRNN(2, activation="relu"),
            layers.Dense(1),
        ]
    )


def _keras_cells(keras: Any) -> Any:
    layers = keras.layers
    cells = layers.StackedRNNCells([layers.LSTMCell(2), layers.GRUCell(3)])
    return keras.Sequential([keras.Input((None, 3)), layers.RNN(cells), layers.Dense(1)])


def _keras_functional(keras: Any) -> Any:
    layers = keras.layers
    inputs = keras.Input((None, 3))
    inner = keras.Sequential([layers.LSTM(2, return_sequences=True, name="inner")], name="block")
    both = layers.Bidirectional(layers.LSTM(2), merge_mode="sum", name="both")(inner(inputs))
    return keras.Model(inputs, layers.Dense(1)(both))


# -- ONNX -------------------------------------------------------------------------------------------------------------


def of_onnx() -> Iterator[Sample]:
    """Yield models of one operator each with all its inputs, and one whose weights stand in another file."""
    if not _installed("onnx"):
        return
    import onnx

    for kind, gates, attributes in (
        ("LSTM", 4, {"direction": "bidirectional"}),
        ("GRU", 3, {"linear_before_reset": 1, "direction": "reverse"}),
        ("GRU", 3, {}),
        ("RNN", 1, {"activations": ["Relu"]}),
        ("LSTM", 4, {"input_forget": 1, "clip": 3.0}),
    ):
        model = _onnx_model(onnx, kind, gates, attributes)
        yield Sample("model.onnx", {"model.onnx": model.SerializeToString(deterministic=True)})
        if attributes:
            yield _onnx_with_data(onnx, model)


def _onnx_model(onnx: Any, kind: str, gates: int, attributes: dict[str, Any]) -> Any:
    rng, directions = np.random.default_rng(0), 2 if attributes.get("direction") == "bidirectional" else 1
    shapes = {"W": (directions, gates * 2, 3), "R": (directions, gates * 2, 2), "B": (directions, gates * 4)}
    tensors = [onnx.numpy_helper.from_array(rng.normal(size=s).astype("f4"), name) for name, s in shapes.items()]
    tensors.append(onnx.numpy_helper.from_array(np.array([0, 0, -1]), "flat"))
    tensors[2].CopyFrom(onnx.helper.make_tensor("B", 1, shapes["B"], rng.normal(size=shapes["B"]).ravel()))
    nodes = [
        onnx.helper.make_node(kind, ["X", "W", "R", "B"], ["Y", "Y_h"], name="layer", hidden_size=2, **attributes),
        onnx.helper.make_node("Transpose", ["Y"], ["turned"], perm=[0, 2, 1, 3]),
        onnx.helper.make_node("Reshape", ["turned", "flat"], ["out"]),
    ]
    given = onnx.helper.make_tensor_value_info("X", 1, ["T", "N", 3])
    made = onnx.helper.make_tensor_value_info("out", 1, ["T", "N", 2 * directions])
    graph = onnx.helper.make_graph(nodes, "network", [given], [made], tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)


def _onnx_with_data(onnx: Any, model: Any) -> Sample:
    """Return the model with its tensors moved into a second file."""
    data = b""
    for tensor in model.graph.initializer:
        if tensor.HasField("raw_data"):
            entries = {"location": "weights.bin", "offset": str(len(data)), "length": str(len(tensor.raw_data))}
            data += tensor.raw_data
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=value)
    return Sample("model.onnx", {"model.onnx": model.SerializeToString(deterministic=True), "weights.bin": data})


# -- flax -------------------------------------------------------------------------------------------------------------


def of_flax() -> Iterator[Sample]:
    """Yield trees of linen's and nnx's cells as `flax.serialization.to_bytes` writes them."""
    if not _installed("flax", "jax"):
        return
    from flax.serialization import msgpack_serialize

    rng = np.random.default_rng(0)

    def dense(rows: int, columns: int, bias: bool = True) -> dict[str, Any]:
        kernel = rng.normal(size=(rows, columns)).astype("f4")
        return {"kernel": kernel, **({"bias": rng.normal(size=columns).astype("f4")} if bias else {})}

    lstm = {f"i{gate}": dense(3, 2, False) for gate in "ifgo"} | {f"h{gate}": dense(2, 2) for gate in "ifgo"}
    gru = {f"i{gate}": dense(3, 2) for gate in "rzn"} | {f"h{gate}": dense(2, 2, gate == "n") for gate in "rzn"}
    small = {"dense_i": dense(3, 6), "dense_h": dense(2, 6, False)}
    both = {"forward_rnn": {"cell": lstm}, "backward_rnn": {"cell": lstm}}
    fused = {"dense_i": dense(3, 8, False), "dense_h": dense(2, 8)}
    chunked = {"__msgpack_chunked_array__": True, "shape": {"0": 2, "1": 3}, "chunks": {"0": np.arange(6.0)}}
    for tree in (
        {"params": {"OptimizedLSTMCell_0": lstm, "head": dense(2, 1), "OptimizedLSTMCell_1": lstm}},
        {"params": {"encoder": both, "decoder": {"cell": gru}}, "batch_stats": {"mean": np.float32(1.5)}},
        {"rnn": {"cell": fused}, "step": 7, "name": "text", "none": None, "complex": 1j, "big": chunked},
        {"cell": {"i": dense(3, 2), "h": dense(2, 2, False)}, "0": small},
    ):
        yield Sample("model.msgpack", {"model.msgpack": msgpack_serialize(tree)})


# -- TensorFlow 1 -----------------------------------------------------------------------------------------------------

_CUDNN_CELL = "c/rnn/multi_rnn_cell/cell_0/cudnn_compatible_gru_cell"

#: Cells by the shapes of their variables, for inputs 3 wide.
_CELLS_OF_TENSORFLOW: tuple[dict[str, tuple[int, ...]], ...] = (
    {"rnn/basic_lstm_cell/kernel": (5, 8), "rnn/basic_lstm_cell/bias": (8,), "dense/kernel": (2, 1)},
    {
        "rnn/multi_rnn_cell/cell_0/lstm_cell/kernel": (5, 8),
        "rnn/multi_rnn_cell/cell_0/lstm_cell/bias": (8,),
        "rnn/multi_rnn_cell/cell_1/lstm_cell/kernel": (4, 8),
        "rnn/multi_rnn_cell/cell_1/lstm_cell/bias": (8,),
    },
    {
        f"bidirectional_rnn/{way}/gru_cell/{part}": shape
        for way in ("fw", "bw")
        for part, shape in (
            ("gates/kernel", (5, 4)),
            ("gates/bias", (4,)),
            ("candidate/kernel", (5, 2)),
            ("candidate/bias", (2,)),
        )
    },
    {"enc/rnn/basic_rnn_cell/weights": (5, 2), "enc/rnn/basic_rnn_cell/biases": (2,), "global_step": ()},
    {
        "rnn/lstm_cell/kernel": (5, 16),
        "rnn/lstm_cell/bias": (16,),
        "rnn/lstm_cell/projection/kernel": (4, 2),
        "rnn/lstm_cell/kernel/Adam": (5, 16),
    },
    {"rnn/lstm_cell/kernel": (5, 8), "rnn/lstm_cell/bias": (8,), "rnn/lstm_cell/w_f_diag": (2,)},
    {
        f"{_CUDNN_CELL}/gates/kernel": (5, 4),
        f"{_CUDNN_CELL}/gates/bias": (4,),
        f"{_CUDNN_CELL}/candidate/input_projection/kernel": (3, 2),
        f"{_CUDNN_CELL}/candidate/input_projection/bias": (2,),
        f"{_CUDNN_CELL}/candidate/hidden_projection/kernel": (2, 2),
        f"{_CUDNN_CELL}/candidate/hidden_projection/bias": (2,),
    },
)


def of_tensorflow() -> Iterator[Sample]:
    """Yield checkpoints of TensorFlow 1's cells, one of them with a variable in two slices."""
    if not _installed("tensorflow"):
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    rng = np.random.default_rng(0)
    for shapes in _CELLS_OF_TENSORFLOW:
        tensors = [tf.constant(rng.normal(size=shape), tf.float32) for shape in shapes.values()]
        yield _saved(tf, list(shapes), [""] * len(shapes), tensors)
    kernel = rng.normal(size=(5, 8)).astype("f4")
    names = ["rnn/basic_lstm_cell/kernel", "rnn/basic_lstm_cell/kernel", "rnn/basic_lstm_cell/bias", "label"]
    slices = ["5 8 0,5:0,4", "5 8 0,5:4,4", "", ""]
    yield _saved(tf, names, slices, [kernel[:, :4], kernel[:, 4:], np.ones(8, "f4"), np.array([b"text", b""])])


def _saved(tf: Any, names: list[str], slices: list[str], tensors: list[Any]) -> Sample:
    with scratch() as folder:
        prefix = folder / "model.ckpt"
        tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=names, shape_and_slices=slices, tensors=tensors)
        return Sample("model.ckpt", {path.name: path.read_bytes() for path in sorted(folder.iterdir())})

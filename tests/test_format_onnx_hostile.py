"""ONNX models that are damaged or made to do harm: refused by name, and nothing outside their directory is read."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import rnnx
from rnnx.errors import RNNXError, UnsupportedError, WeightFormatError
from rnnx.formats.onnx import OnnxFormat

pytest.importorskip("onnx", reason="onnx is needed to make models")
pytest.importorskip("onnxruntime", reason="ONNX Runtime judges")

from onnx import TensorProto, helper

from onnx_models import external, model, node, reshaped, saved, two_layers, weights

# -- data beside the model --------------------------------------------------------------------------------------------


OUTSIDE = {
    "absolute": ({"location": "/etc/passwd"}, "only files in the model's own directory"),
    "upwards": ({"location": "../secret"}, "only files in the model's own directory"),
    "upwards inside": ({"location": "a/../../secret"}, "only files in the model's own directory"),
    "drive": ({"location": "C:\\secret"}, "only files in the model's own directory"),
    "upwards on Windows": ({"location": "..\\secret"}, "only files in the model's own directory"),
    "nothing": ({"location": ""}, "only files in the model's own directory"),
    "nul": ({"location": "data\0"}, "only files in the model's own directory"),
    "link": ({"location": "link"}, "a link that leaves the model's own directory"),
    "linked directory": ({"location": "folder/secret"}, "a link that leaves the model's own directory"),
    "itself": ({"location": "."}, "which is no file"),
    "pipe": ({"location": "pipe"}, "which is no file"),
    "offset": ({"offset": 60}, "at the bytes 60 to 72 of 'data', which has 64"),
    "huge offset": ({"offset": "9" * 19}, "which has 64"),
    "long offset": ({"offset": "9" * 5000}, "the offset of its data is '9"),
    "negative": ({"offset": -4}, "the offset of its data is '-4', expected a whole number"),
    "no number": ({"offset": "\uff10"}, "expected a whole number"),
    "length": ({"length": 8}, "has 8 bytes outside, expected 12"),
    "empty": ({"location": "empty"}, "which has 0"),
}


@pytest.mark.skipif(sys.platform == "win32", reason="no links or pipes")
@pytest.mark.parametrize(("told", "message"), OUTSIDE.values(), ids=OUTSIDE)
def test_data_outside_is_not_read(tmp_path, told, message):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(64))
    (folder / "data").write_bytes(bytes(64))
    (folder / "empty").write_bytes(b"")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "folder").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    made = model([node("LSTM")], weights("LSTM"))
    made.graph.initializer.append(external("outside", [3], **told))
    with pytest.raises(WeightFormatError, match=message):
        rnnx.infer(saved(folder, made))


def test_data_that_is_not_there_is_an_error_of_the_system(tmp_path):
    made = model([node("LSTM")], weights("LSTM"))
    made.graph.initializer.append(external("outside", [3]))
    with pytest.raises(FileNotFoundError):
        rnnx.infer(saved(tmp_path, made))


def tensor(**fields: Any) -> Any:
    return TensorProto(name="t", data_type=TensorProto.FLOAT, **fields)


TENSORS = {
    "raw too short": (tensor(dims=[3], raw_data=bytes(8)), r"\(3,\) has 8 bytes of data, expected 12"),
    "raw too long": (tensor(dims=[3], raw_data=bytes(16)), "has 16 bytes of data, expected 12"),
    "no data": (tensor(dims=[3]), "has 0 elements in float_data"),
    "elements": (tensor(dims=[3], float_data=[1, 2]), "has 2 elements in float_data"),
    "other field": (tensor(dims=[1], int32_data=[1]), "has its data in int32_data"),
    "both": (tensor(dims=[1], float_data=[1], raw_data=bytes(4)), "should stand in raw_data or float_data alone"),
    "segment": (tensor(dims=[1], segment=TensorProto.Segment(begin=0, end=1)), "has its data in a segment"),
    "negative": (tensor(dims=[-1]), r"has shape \(-1,\), which no array can have"),
    "absurd": (tensor(dims=[2**62, 2**62, 0]), "which no array of NumPy can have"),
    "large": (tensor(dims=[2**40], raw_data=bytes(4)), "has 4 bytes of data, expected"),
    "many axes": (tensor(dims=[1] * 40, raw_data=bytes(4)), "which no array can have"),
    "text": (TensorProto(name="t", data_type=8, dims=[1], string_data=[b"x"]), "has data type 8; rnnx reads 1 FLOAT"),
    "unknown": (TensorProto(name="t", data_type=99, dims=[1], raw_data=b"x"), "has data type 99"),
}


@pytest.mark.parametrize(("broken", "message"), TENSORS.values(), ids=TENSORS)
def test_tensors_that_do_not_fit_their_data(tmp_path, broken, message):
    made = model([node("LSTM")], weights("LSTM"))
    made.graph.initializer.append(broken)
    with pytest.raises(WeightFormatError, match=f"'t'.*{message}" if "'t'" not in message else message):
        rnnx.infer(saved(tmp_path, made))


def test_names_that_stand_for_two_values(tmp_path):
    made = model([node("LSTM")], weights("LSTM"))
    made.graph.initializer.append(made.graph.initializer[0])
    with pytest.raises(
        WeightFormatError, match="'W' is the name of two values, or of an initializer that is there twice"
    ):
        rnnx.infer(saved(tmp_path, made))
    made = model([node("LSTM"), node("Relu", ["X"], ["Y"])], weights("LSTM"))
    with pytest.raises(WeightFormatError, match="'Y' is the name of two values"):
        rnnx.infer(saved(tmp_path, made))
    attribute = made.graph.node[0].attribute[0]
    made = model([node("LSTM")], weights("LSTM"))
    made.graph.node[0].attribute.append(attribute)
    with pytest.raises(WeightFormatError, match="has its attribute 'hidden_size' twice"):
        rnnx.infer(saved(tmp_path, made))


@pytest.mark.parametrize("text", [b"encoder", b"LSTM", b"weight_w", b"hidden_size", b"location", b"rnnx.key"])
def test_names_that_are_no_text(tmp_path, text):
    arrays = {name.replace("W", "weight_w"): array for name, array in weights("LSTM").items()}
    made = model([node("LSTM", ("X", "weight_w", "R", "B"), name="encoder")], arrays)
    made.graph.initializer.append(external("outside", [3]))
    (tmp_path / "data").write_bytes(bytes(64))
    helper.set_model_props(made, {"rnnx.key": "entry"})
    path = saved(tmp_path, made)
    path.write_bytes(path.read_bytes().replace(text, b"\xff" * len(text)))
    with pytest.raises(WeightFormatError, match=r"which is no UTF-8 text|the file is damaged"):
        rnnx.infer(path)


def test_a_cycle(tmp_path):
    nodes = [node("Relu", ["b"], ["a"]), node("Relu", ["a"], ["b"]), node("LSTM")]
    with pytest.raises(WeightFormatError, match="reads 'b', which nothing before it makes: the graph has a cycle"):
        rnnx.infer(saved(tmp_path, model(nodes, weights("LSTM"))))


def function(name: str, nodes: Sequence[Any]) -> Any:
    return helper.make_function("local", name, ["x"], ["y"], list(nodes), [helper.make_opsetid("local", 1)])


def call(name: str, source: str, target: str) -> Any:
    return helper.make_node(name, [source], [target], domain="local")


def test_functions_that_call_themselves(tmp_path):
    made = model(
        [call("A", "X", "Y")],
        {},
        functions=[function("A", [call("B", "x", "y")]), function("B", [call("A", "x", "y")])],
    )
    with pytest.raises(WeightFormatError, match="function 'A' calls itself"):
        rnnx.infer(saved(tmp_path, made))
    made = model([call("A", "X", "Y")], {}, functions=[function("A", [])] * 2)
    with pytest.raises(WeightFormatError, match="function 'A' of domain 'local' is there twice"):
        rnnx.infer(saved(tmp_path, made))


def test_functions_that_multiply(tmp_path):
    """Each calls the one below many times, as in the attack of a billion laughs; the lowest has nothing in it."""
    functions = [helper.make_function("local", "F0", ["x"], ["x"], [], [helper.make_opsetid("local", 1)])]
    for level in range(1, 25):
        calls = [call(f"F{level - 1}", "x", f"v{index}") for index in range(9)]
        functions.append(function(f"F{level}", [*calls, call(f"F{level - 1}", "x", "y")]))
    with pytest.raises(WeightFormatError, match="have more than 65536 nodes when they are put in"):
        rnnx.infer(saved(tmp_path, model([call("F24", "X", "Y")], {}, functions=functions)))


def test_functions_that_stand_deep_in_others(tmp_path):
    functions = [function("F0", [node("Relu", ["x"], ["y"])])]
    functions += [function(f"F{level}", [call(f"F{level - 1}", "x", "y")]) for level in range(1, 40)]
    with pytest.raises(WeightFormatError, match="calls itself, or stands too deep in others"):
        rnnx.infer(saved(tmp_path, model([call("F39", "X", "Y")], {}, functions=functions)))


def test_bodies_that_stand_deep_in_others(tmp_path):
    """Deeper than what makes models will make them: the bytes are put together by hand."""

    def field(number: int, data: bytes) -> bytes:
        size, length = len(data), b""
        while size > 127:
            size, length = size >> 7, length + bytes([size & 127 | 128])
        return bytes([number << 3 | 2]) + length + bytes([size]) + data

    body = b""
    for _ in range(2000):
        attribute = field(1, b"body") + field(6, body) + b"\xa0\x01\x05"
        body = field(1, field(4, b"If") + field(5, attribute))
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x07" + field(7, body))
    with pytest.raises(WeightFormatError, match="damaged or is no ONNX model"):
        rnnx.infer(path)


def test_constants_that_multiply_are_not_carried_out(tmp_path):
    nodes = [node("Concat", ["W", "W"], ["w0"], axis=0)]
    nodes += [node("Concat", [f"w{level}", f"w{level}"], [f"w{level + 1}"], axis=0) for level in range(28)]
    with pytest.raises(UnsupportedError, match="its W is 'w28', computed by Concat"):
        rnnx.infer(saved(tmp_path, model([*nodes, node("LSTM", ("X", "w28", "R", "B"))], weights("LSTM"))))


def test_sparse_initializers(tmp_path):
    made = model([node("LSTM")], weights("LSTM"))
    made.graph.sparse_initializer.add().dims.append(3)
    with pytest.raises(UnsupportedError, match="sparse initializers"):
        rnnx.infer(saved(tmp_path, made))


@pytest.mark.skipif(sys.platform == "win32", reason="a file with a hole takes its whole size there")
def test_a_message_of_more_than_two_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.write(b"\x08\x07")
        file.truncate(2**31)
    with pytest.raises(WeightFormatError, match="has 2147483648 bytes, and an ONNX model has at most 2147483647"):
        rnnx.infer(path)


@pytest.mark.parametrize("data", [b"\x08", b"x" * 100, b"\x08\x07"])
def test_files_that_are_no_models(tmp_path, data):
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(WeightFormatError, match="no ONNX model"):
        rnnx.infer(path)


def test_bytes_that_were_changed_raise_no_other_error(tmp_path):
    whole = two_layers(reshaped(0, 0, -1), 2)
    helper.set_model_props(whole, {"rnnx.parts": "{}"})
    data = whole.SerializeToString()
    rng = np.random.default_rng(0)
    path, read = tmp_path / "model.onnx", OnnxFormat()
    for _ in range(1500):
        changed = bytearray(data)
        for at in rng.integers(0, len(data), rng.integers(1, 6)):
            changed[at] = rng.integers(256)
        path.write_bytes(bytes(changed[: rng.integers(2, len(data))]) if rng.random() < 0.2 else bytes(changed))
        try:
            read.find(read.read(path), rnnx.found.Assumptions())
        except (RNNXError, OSError):
            continue

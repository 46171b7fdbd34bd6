"""ONNX files opened without trust: the model's protobuf message, and its tensors as arrays.

A tensor's data stands in the message itself, or at an offset of another file, from which it is mapped. Such a file is
read only where it really lies in the model's own directory or below: no absolute path, no ``..``, and no symbolic link
that leaves it.

Sources: ``onnx/onnx.proto`` (``TensorProto``) and ``docs/ExternalData.md`` of ONNX.
"""

from __future__ import annotations

import math
import mmap
import os
import stat
import sys
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from rnnx.archive import Array
from rnnx.errors import WeightFormatError
from rnnx.optional import required
from rnnx.weights.mapped import Mapped

__all__ = ["TensorFiles", "looks_like_model", "read_model", "text_of"]

#: Most bytes of a protobuf message.
_MAX_MESSAGE = 2**31 - 1

#: Most dimensions of an array in any NumPy.
_MAX_NDIM = 32

#: Longest number in the description of external data: 2**64 has 20 digits.
_MAX_DIGITS = 20

#: The newest version of the format that a file without the ending ``.onnx`` is taken to have, with room for years.
_MAX_IR_VERSION = 63

#: Longest name of a producer in the first bytes of a file without the ending ``.onnx``.
_MAX_PRODUCER = 255

#: Wire types of the fields of ``ModelProto``: 0 is a number, 2 is a length with bytes.
_MODEL_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
_GRAPH = 7

#: For each data type: its name, NumPy's for it, and the field that holds it where there are no raw bytes.
_TYPES = {
    1: ("FLOAT", "float32", "float_data"),
    2: ("UINT8", "uint8", "int32_data"),
    3: ("INT8", "int8", "int32_data"),
    4: ("UINT16", "uint16", "int32_data"),
    5: ("INT16", "int16", "int32_data"),
    6: ("INT32", "int32", "int32_data"),
    7: ("INT64", "int64", "int64_data"),
    9: ("BOOL", "bool", "int32_data"),
    10: ("FLOAT16", "float16", "int32_data"),
    11: ("DOUBLE", "float64", "double_data"),
    12: ("UINT32", "uint32", "uint64_data"),
    13: ("UINT64", "uint64", "uint64_data"),
    14: ("COMPLEX64", "complex64", "float_data"),
    15: ("COMPLEX128", "complex128", "double_data"),
    16: ("BFLOAT16", "bfloat16", "int32_data"),
}
_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")

_EXTERNAL = 1  # TensorProto.DataLocation.EXTERNAL


def looks_like_model(head: bytes) -> bool:
    """Tell from a file's first 64 bytes whether it is a model whose version comes first, as ONNX writes it."""
    if len(head) < 2 or head[0] != 0x08 or not 1 <= head[1] <= _MAX_IR_VERSION:
        return False
    at = 2
    while at < len(head):
        key, at = _varint(head, at)
        if _MODEL_FIELDS.get(key >> 3) != key & 7:
            return False
        value, at = _varint(head, at)
        if key >> 3 == _GRAPH:
            return True
        if key & 7 == 2:
            text = head[at : at + value]
            if value > _MAX_PRODUCER or (key >> 3 == 2 and not text.isascii()):
                return False
            at += value
    return at > 2


def read_model(path: Path) -> Any:
    """Return the message that a model's file holds.

    Raises
    ------
    WeightFormatError
        If the file is no ONNX model.
    UnsupportedError
        If the package onnx is missing.
    """
    onnx = required("onnx", "onnx", "ONNX files")
    broken = required("google.protobuf.message", "onnx", "ONNX files").DecodeError
    size = path.stat().st_size
    if size > _MAX_MESSAGE:
        raise WeightFormatError(f"the file has {size} bytes, and an ONNX model has at most {_MAX_MESSAGE} beside the "
                                "external data")  # fmt: skip
    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
    except (broken, UnicodeDecodeError, RecursionError) as error:
        raise WeightFormatError(f"the file is damaged or is no ONNX model: {error}") from error
    if not model.HasField("ir_version") or not model.HasField("graph"):
        raise WeightFormatError("the file is no ONNX model: it has no version of the format, or no graph")
    return model


def text_of(value: str | bytes) -> str:
    """Return a text of a message; protobuf gives one that is no UTF-8 as bytes.

    Raises
    ------
    WeightFormatError
        If it is none.
    """
    if isinstance(value, bytes):
        raise WeightFormatError(f"the model has a name {value[:60]!r}, which is no UTF-8 text")
    return value


class TensorFiles:
    """The tensors of a model as arrays; each file of external data is mapped once.

    Parameters
    ----------
    folder : Path
        The directory of the model.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mapped: dict[Path, Any] = {}

    def array(self, tensor: Any, name: str) -> Array:
        """Return a tensor as a read-only array; `name` is what an error calls it.

        Raises
        ------
        WeightFormatError
            If it does not fit its data, its data lie elsewhere, or NumPy has no such type.
        """
        shape, (_, dtype, field) = _shape(tensor, name), _type(tensor, name)
        stored = np.dtype("<u2") if dtype == "bfloat16" else np.dtype(dtype).newbyteorder("<")
        # NumPy leaves dimensions of size 0 out when it decides whether an array is too big, and so must we.
        if stored.itemsize * math.prod(size or 1 for size in shape) > sys.maxsize:
            raise WeightFormatError(f"tensor {name!r} has shape {shape}, which no array of NumPy can have")
        if tensor.data_location == _EXTERNAL:
            array = self._external(tensor, name, stored, shape)
        else:
            array = _inline(tensor, name, stored, field).reshape(shape)
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        native.flags.writeable = False
        return native.view(_bfloat16(name)) if dtype == "bfloat16" else native

    def _external(self, tensor: Any, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        told = {text_of(entry.key): text_of(entry.value) for entry in tensor.external_data}
        data = self._file(told.get("location", ""), name)
        size = dtype.itemsize * math.prod(shape)
        offset = _number(told.get("offset", "0"), "offset", name)
        length = _number(told.get("length", str(size)), "length", name)
        if length != size:
            raise WeightFormatError(f"tensor {name!r} of shape {shape} has {length} bytes outside, expected {size}")
        if offset + size > len(data):
            raise WeightFormatError(
                f"tensor {name!r} is said to stand at the bytes {offset} to {offset + size} of {told['location']!r}, "
                f"which has {len(data)}"
            )
        return np.ndarray(shape, dtype, data, offset) if size else np.zeros(shape, dtype)

    def _file(self, location: str, name: str) -> Any:
        """Return the content of a file in the model's directory."""
        foreign = PureWindowsPath(location)
        parts = {*PurePosixPath(location).parts, *foreign.parts}
        if not location or "\0" in location or PurePosixPath(location).is_absolute() or foreign.anchor or ".." in parts:
            raise WeightFormatError(
                f"tensor {name!r} has its data at {location!r}; only files in the model's own directory are read"
            )
        real, folder = Path(os.path.realpath(self._folder / location)), Path(os.path.realpath(self._folder))
        if not real.is_relative_to(folder):
            raise WeightFormatError(f"tensor {name!r} has its data at {location!r}, a link that leaves the model's own "
                                    "directory: put the file itself there")  # fmt: skip
        if real not in self._mapped:
            self._mapped[real] = _map(real, location, name)
        return self._mapped[real]


# -- one tensor -------------------------------------------------------------------------------------------------------


def _shape(tensor: Any, name: str) -> tuple[int, ...]:
    shape = tuple(tensor.dims)
    if len(shape) > _MAX_NDIM or any(size < 0 for size in shape):
        raise WeightFormatError(f"tensor {name!r} has shape {shape[: _MAX_NDIM + 1]}, which no array can have")
    return shape


def _type(tensor: Any, name: str) -> tuple[str, str, str]:
    if tensor.data_type not in _TYPES:
        known = ", ".join(f"{number} {kind}" for number, (kind, _, _) in _TYPES.items())
        raise WeightFormatError(f"tensor {name!r} has data type {tensor.data_type}; rnnx reads {known}")
    return _TYPES[tensor.data_type]


def _inline(tensor: Any, name: str, dtype: np.dtype[Any], field: str) -> Array:
    """Return the elements that stand in the message itself."""
    filled = [each for each in _FIELDS if len(getattr(tensor, each))]
    if tensor.HasField("segment") or set(filled) - {field} or (filled and tensor.HasField("raw_data")):
        raise WeightFormatError(f"tensor {name!r} has its data in {', '.join(filled) or 'a segment'}, where it should "
                                f"stand in raw_data or {field} alone")  # fmt: skip
    if tensor.HasField("raw_data"):
        raw, expected = tensor.raw_data, dtype.itemsize * math.prod(tensor.dims)
        if len(raw) != expected:
            raise WeightFormatError(f"tensor {name!r} of shape {tuple(tensor.dims)} has {len(raw)} bytes of data, "
                                    f"expected {expected}")  # fmt: skip
        return np.frombuffer(raw, dtype)
    values = getattr(tensor, field)
    if len(values) != math.prod(tensor.dims) * (2 if dtype.kind == "c" else 1):
        raise WeightFormatError(f"tensor {name!r} of shape {tuple(tensor.dims)} has {len(values)} elements in {field}")
    return _from_field(values, dtype, field)


def _from_field(values: Any, dtype: np.dtype[Any], field: str) -> Array:
    if field in ("float_data", "double_data"):
        real = np.array(values, np.float32 if field == "float_data" else np.float64)
        return real.view(dtype) if dtype.kind == "c" else real
    whole = np.array(values, np.uint64 if field == "uint64_data" else np.int64)
    if dtype.kind == "f":  # the bits of half a float
        return whole.astype(np.uint16).view(dtype)
    return whole.astype(dtype)


def _bfloat16(name: str) -> np.dtype[Any]:
    try:
        import ml_dtypes
    except ImportError as error:
        raise WeightFormatError(f"tensor {name!r} has dtype bfloat16, which needs pip install ml_dtypes") from error
    bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return bfloat16


# -- bytes ------------------------------------------------------------------------------------------------------------


def _map(path: Path, location: str, name: str) -> Any:
    # Opened without waiting, as for the other end of a pipe.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise WeightFormatError(f"tensor {name!r} has its data at {location!r}, which is no file")
        return Mapped(handle, 0, access=mmap.ACCESS_READ) if status.st_size else b""
    finally:
        os.close(handle)


def _number(text: str, what: str, name: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _MAX_DIGITS:
        raise WeightFormatError(f"tensor {name!r}: the {what} of its data is {text[:60]!r}, expected a whole number")
    return int(text)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of variable length, and where the next thing begins; what is cut off counts as zeros."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at] if at < len(data) else 0
        value, at = value | (byte & 0x7F) << shift, at + 1
        if byte < 0x80:
            break
    return value, at

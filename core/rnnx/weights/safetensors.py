"""Safetensors files: read by mapping them, written the same for the same content.

A file is a u64 length, a JSON header of that length, and the tensors' bytes. The header maps each tensor's name to its
``dtype``, ``shape`` and ``data_offsets`` within those bytes, and ``__metadata__`` to strings by name.

A file is mapped once and its header parsed once, so that what was checked is what is used. Nothing in it is trusted: as
the format demands, the tensors must fill the file without a gap or an overlap, and no name may stand there twice.

Source: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import dataclasses
import json
import math
import mmap
import os
import struct
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rnnx.atomic import replace_file
from rnnx.errors import WeightFormatError
from rnnx.weights.mapped import Mapped, release
from rnnx.weights.stored import Composed, pieces_of

__all__ = ["bits", "check_writable", "json_object", "read_metadata", "read_tensors", "write_tensors"]

Array = npt.NDArray[Any]

_METADATA = "__metadata__"

_LENGTH = struct.Struct("<Q")

#: Longest header, as in the format's own library.
_MAX_HEADER = 100_000_000

#: Longest number that is read: 2**64 has 20 digits.
_MAX_DIGITS = 20

#: Most dimensions of an array in any NumPy.
_MAX_NDIM = 32

#: What a header's length is a multiple of, so that tensors are aligned.
_ALIGNMENT = 8

#: How the format names dtypes; NumPy's bfloat16 comes from ml_dtypes.
_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """What the header says of a tensor; `start` and `stop` count from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_tensors(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Return a file's tensors, as read-only views of the mapped file, and its metadata.

    The file must not be changed in place as long as the tensors are in use; it may be replaced.

    Raises
    ------
    WeightFormatError
        If it is no safetensors file, is damaged, or has a tensor of a dtype that NumPy lacks.
    """
    try:
        data = _mapped(path)
        header, offset = _header(data)
        metadata = _metadata(header.pop(_METADATA, {}))
        tensors = [_tensor(name, entry) for name, entry in header.items()]
        _check_places(tensors, len(data) - offset)
        return {tensor.name: _view(data, offset, tensor) for tensor in tensors}, metadata
    except WeightFormatError as error:
        raise WeightFormatError(f"{path} cannot be read as a safetensors file: {error}") from error


def read_metadata(path: Path) -> dict[str, str] | None:
    """Return the metadata of a safetensors file without its tensors; None if it is none, or damaged."""
    with path.open("rb") as file:
        head = file.read(_LENGTH.size)
        length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
        if not 2 <= length <= min(_MAX_HEADER, os.fstat(file.fileno()).st_size):
            return None
        text = file.read(length)
    try:
        return _metadata(json_object(text.decode(), "the header").get(_METADATA, {}))
    except (UnicodeDecodeError, WeightFormatError):
        return None


def write_tensors(path: Path, arrays: Mapping[str, Array | Composed], metadata: Mapping[str, str]) -> None:
    """Write arrays and metadata, whole or not at all.

    Raises
    ------
    WeightFormatError
        If an array's dtype, number of dimensions or name has no place in the format.
    """
    check_writable(arrays)
    # Larger items first: then each array begins at a multiple of its item's size.
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header = _encoded(arrays, order, metadata)
    with replace_file(path) as file:
        file.write(_LENGTH.pack(len(header)) + header)
        for name in order:
            for piece in pieces_of(arrays[name]):
                file.write(bits(piece).data)
                release(piece)


def check_writable(arrays: Mapping[str, Array | Composed]) -> None:
    """Raise `WeightFormatError` for an array that a file cannot hold, and say why."""
    for name, array in arrays.items():
        if array.dtype.name not in _NAMES:
            raise WeightFormatError(
                f"{name!r} has dtype {array.dtype}, which a safetensors file cannot hold; it holds {', '.join(_NAMES)}"
            )
        if array.ndim > _MAX_NDIM:
            raise WeightFormatError(f"{name!r} has {array.ndim} dimensions; a safetensors file holds up to {_MAX_NDIM}")
        if name == _METADATA:
            raise WeightFormatError(f"no array can be called {name!r} in a safetensors file: rename it")


def json_object(text: str, what: str) -> dict[str, Any]:
    """Return a JSON object that need not be trusted; `what` it is, for the errors.

    Raises
    ------
    WeightFormatError
        If it is something else, has a name twice, text that is not Unicode, or a whole number of absurd length.
    """
    try:
        found = json.loads(text, object_pairs_hook=_once, parse_int=_short)
    except (ValueError, RecursionError) as error:
        raise WeightFormatError(f"{what} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise WeightFormatError(f"{what} should be a JSON object")
    return found


def bits(array: Array) -> Array:
    """Return the array as it is stored: row by row, little-endian, bfloat16 as the unsigned integers of its bits."""
    # ml_dtypes' bfloat16 has no buffer protocol; its bits do.
    stored = array.view(np.uint16) if array.dtype.name == "bfloat16" else array
    return np.ascontiguousarray(stored, _stored_dtype(array.dtype.name))


# -- reading ----------------------------------------------------------------------------------------------------------


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < _LENGTH.size:
            raise WeightFormatError(f"expected at least {_LENGTH.size} bytes, found {size}")
        return Mapped(file.fileno(), 0, access=mmap.ACCESS_READ)


def _header(data: mmap.mmap) -> tuple[dict[str, Any], int]:
    """Return the header, and where the tensors begin."""
    (length,) = _LENGTH.unpack_from(data)
    offset = _LENGTH.size + length
    if length > _MAX_HEADER or offset > len(data):
        raise WeightFormatError(f"the header is said to have {length} bytes, and {len(data) - _LENGTH.size} are left")
    try:
        text = data[_LENGTH.size : offset].decode()
    except UnicodeDecodeError as error:
        raise WeightFormatError(f"the header is not UTF-8: {error}") from error
    return json_object(text, "the header"), offset


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON in which no name stands twice, and all text can be stored again."""
    "".join(text for pair in pairs for text in pair if isinstance(text, str)).encode()
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{twice!r} stands there twice")
    return found


def _short(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _metadata(found: object) -> dict[str, str]:
    if not isinstance(found, dict) or any(type(value) is not str for value in found.values()):
        raise WeightFormatError(f"{_METADATA} should be an object of strings")
    return found


def _tensor(name: str, entry: object) -> _Tensor:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise WeightFormatError(f"tensor {name!r} should be an object of dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], _numbers(name, entry["shape"]), _numbers(name, entry["data_offsets"])
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise WeightFormatError(f"tensor {name!r} has dtype {dtype!r}; rnnx reads {', '.join(_DTYPES)}")
    item = _stored_dtype(_DTYPES[dtype]).itemsize
    # NumPy leaves dimensions of size 0 out when it decides whether an array is too big, and so must we.
    if len(shape) > _MAX_NDIM or item * math.prod(size or 1 for size in shape) > sys.maxsize:
        raise WeightFormatError(f"tensor {name!r} has shape {shape}, which no array of NumPy can have")
    if len(offsets) != 2 or offsets[1] - offsets[0] != item * math.prod(shape):
        raise WeightFormatError(f"tensor {name!r} of {dtype} and shape {shape} cannot stand at the bytes {offsets}")
    return _Tensor(name, _DTYPES[dtype], shape, *offsets)


def _numbers(name: str, found: object) -> tuple[int, ...]:
    if not isinstance(found, list) or any(type(number) is not int or number < 0 for number in found):
        raise WeightFormatError(f"tensor {name!r}: shape and data_offsets should be lists of whole numbers")
    return tuple(found)


def _check_places(tensors: Iterable[_Tensor], size: int) -> None:
    """Refuse tensors that leave a byte out, share one, or end before or behind the file."""
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.stop)):
        if tensor.start != end:
            raise WeightFormatError(f"tensor {tensor.name!r} begins at byte {tensor.start}, expected {end}")
        end = tensor.stop
    if end != size:
        raise WeightFormatError(f"the tensors have {end} bytes, and the file has {size} for them")


def _view(data: mmap.mmap, offset: int, tensor: _Tensor) -> Array:
    stored: Array = np.ndarray(tensor.shape, _stored_dtype(tensor.dtype), data, offset + tensor.start)
    native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    native.flags.writeable = False
    return native.view(_bfloat16(tensor.name)) if tensor.dtype == "bfloat16" else native


def _stored_dtype(name: str) -> np.dtype[Any]:
    return np.dtype("<u2") if name == "bfloat16" else np.dtype(name).newbyteorder("<")


def _bfloat16(name: str) -> np.dtype[Any]:
    try:
        import ml_dtypes
    except ImportError as error:
        raise WeightFormatError(f"tensor {name!r} has dtype bfloat16, which needs pip install ml_dtypes") from error
    bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return bfloat16


# -- writing ----------------------------------------------------------------------------------------------------------


def _encoded(arrays: Mapping[str, Array | Composed], order: Sequence[str], metadata: Mapping[str, str]) -> bytes:
    """Return the header of arrays that are to stand in that order, padded with spaces."""
    header: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))}
    end = 0
    for name in order:
        array, start = arrays[name], end
        end += array.nbytes
        header[name] = {"dtype": _NAMES[array.dtype.name], "shape": array.shape, "data_offsets": [start, end]}
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise WeightFormatError(f"a name or note cannot be stored as UTF-8: {error}") from error
    if len(text) + _ALIGNMENT > _MAX_HEADER:
        raise WeightFormatError(f"the names and metadata need {len(text)} bytes, more than the {_MAX_HEADER} allowed")
    return text + b" " * (-len(text) % _ALIGNMENT)

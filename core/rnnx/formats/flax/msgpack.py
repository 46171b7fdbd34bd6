"""Files of flax: a tree of arrays in msgpack, as ``flax.serialization.to_bytes`` and ``msgpack_serialize`` write it.

A file is one map. Its keys are text or whole numbers, and its values maps, lists and leaves. msgpack leaves types of
its own to those who use it, and flax has three:

====  =======================  ====================================================================
type  what                     content, msgpack again
====  =======================  ====================================================================
1     an array                 its shape, the name of its dtype, its elements row by row
2     Python's complex number  real and imaginary part
3     a scalar of NumPy        as an array of no dimensions
====  =======================  ====================================================================

An array of more than `MAX_CHUNK` bytes is a map of ``__msgpack_chunked_array__``, ``shape`` and ``chunks`` instead.

Only the package msgpack is needed, not flax. Nothing in a file is trusted: how many values it has is limited, no key
stands twice in a map, and an array has just as many bytes as its shape and dtype say.

Source: ``flax/serialization.py`` of flax 0.12.8; https://github.com/msgpack/msgpack/blob/master/spec.md.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rnnx.atomic import replace_file
from rnnx.errors import WeightFormatError
from rnnx.optional import required
from rnnx.weights.stored import Composed

__all__ = ["DTYPES", "KINDS", "Key", "Value", "looks_like_tree", "read_tree", "write_tree"]

Array = npt.NDArray[Any]
Key = str | int

#: What an array is written in pieces of, in bytes, if it has more: flax's own number.
MAX_CHUNK = 1 << 30

#: Most entries that a map or list, and most values that a file, may have: far more than any model's.
_MAX_ENTRIES, _MAX_VALUES = 1 << 16, 1 << 18

#: Most dimensions of an array in any NumPy.
_MAX_NDIM = 32

_CHUNKED = "__msgpack_chunked_array__"
_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3

#: Dtypes that flax's files name and NumPy has; bfloat16 comes from ml_dtypes.
DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
)

#: What a value can be: arrays, and of the numbers of Python the kinds of dtype of the arrays that they are read as.
KINDS = {"array": "", "scalar": "", "bool": "b", "int": "iu", "float": "f", "complex": "c"}
KINDS |= {"text": "", "bytes": "", "none": ""}


@dataclasses.dataclass(frozen=True)
class Value:
    """A value in a tree of maps and lists.

    Parameters
    ----------
    kind : str
        Which of `KINDS` it is.
    data : array or bytes
        Numbers of Python are arrays of no dimensions; text is bytes of UTF-8, and None is none.
    """

    kind: str
    data: Array | Composed | bytes


def looks_like_tree(head: bytes) -> bool:
    """Say whether a file begins as a map does whose first key is text or a number."""
    start = {0xDE: 3, 0xDF: 5}.get(head[0], 1) if head else 0
    if not start or (start == 1 and not 0x81 <= head[0] <= 0x8F) or len(head) < start + 2:
        return False
    key, text = head[start], start + 1
    if key < 0x80:
        return _nests(head[text])
    if key == 0xD9:
        size, text = head[text], text + 1
    else:
        size = key - 0xA0
    stop = text + size
    if (key != 0xD9 and not 0xA1 <= key <= 0xBF) or not head[text:stop].decode(errors="replace").isprintable():
        return False
    # Behind a number or a single letter only what nests tells enough: HDF5, PNG and safetensors can begin so too.
    return stop >= len(head) or _nests(head[stop]) or (start + size > 2 and head[stop] != 0xC1)


def read_tree(path: Path) -> dict[Key, Any]:
    """Return a file's map, of maps, lists and values. Arrays are read-only.

    Raises
    ------
    WeightFormatError
        If it is no such file, is damaged, or has a value or a dtype that flax does not write.
    UnsupportedError
        If the package msgpack is not installed.
    """
    msgpack = required("msgpack", "flax", "flax files")
    try:
        return _decoded(path, msgpack)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise WeightFormatError(f"{path} cannot be read as a msgpack file of flax: {error}") from error


def write_tree(path: Path, tree: Mapping[Key, Any]) -> None:
    """Write a map of maps, lists and values, whole or not at all; every array is made when its turn comes.

    Raises
    ------
    UnsupportedError
        If the package msgpack is not installed.
    WeightFormatError
        If what is to be text is not Unicode.
    """
    packer = required("msgpack", "flax", "flax files").Packer()
    with replace_file(path) as file:
        for data in _packed(tree, packer):
            file.write(data)


# -- reading ----------------------------------------------------------------------------------------------------------


def _nests(byte: int) -> bool:
    """Say whether a value begins with this byte that is a map, or of a type of flax's own."""
    return 0x80 <= byte <= 0x8F or byte in (0xDE, 0xDF, 0xC7, 0xC8, 0xC9)


def _decoded(path: Path, msgpack: Any) -> dict[Key, Any]:
    """Return the file's map, with arrays and numbers of flax's own types as `Value`."""
    decoder = _Decoder(msgpack)
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise WeightFormatError("it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = msgpack.unpackb(
                data,
                object_pairs_hook=decoder.map,
                list_hook=decoder.items,
                ext_hook=decoder.extension,
                strict_map_key=False,
                max_array_len=_MAX_ENTRIES,
                max_map_len=_MAX_ENTRIES,
            )
    if not isinstance(found, dict):
        raise WeightFormatError(f"expected a map of names, found {_described(found)}")
    return found


class _Decoder:
    """What msgpack is told to make of maps, lists and flax's own types."""

    def __init__(self, msgpack: Any) -> None:
        self._msgpack, self._values = msgpack, 0

    def map(self, pairs: Sequence[tuple[Any, Any]]) -> Any:
        """Return a map as a dict, or the array that it holds in chunks."""
        self._count(len(pairs))
        for key, _ in pairs:
            if type(key) is not str and type(key) is not int:
                raise WeightFormatError(f"a key is {_described(key)}, expected text or a whole number")
        found = dict(pairs)
        if len(found) < len(pairs):
            ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
            raise WeightFormatError(f"a map has key {_shown(twice)} twice")
        return _unchunked(found) if _CHUNKED in found else {key: _value(each) for key, each in found.items()}

    def items(self, found: Sequence[Any]) -> Any:
        """Return a list of nodes."""
        self._count(len(found))
        return [_value(each) for each in found]

    def extension(self, code: int, data: bytes) -> Value:
        """Return a value of one of flax's own types."""
        self._count(1)
        if code == _COMPLEX:
            parts = self._inner(data)
            if len(parts) != 2 or any(type(part) is not float for part in parts):
                raise WeightFormatError("a complex number is not of two floats")
            return Value("complex", _fixed(np.array(complex(*parts))))
        if code not in (_ARRAY, _SCALAR):
            raise WeightFormatError(f"extension type {code}; flax has {_ARRAY}, {_COMPLEX} and {_SCALAR}")
        array = _array(self._inner(data))
        if code == _SCALAR and array.ndim:
            raise WeightFormatError(f"a scalar has shape {array.shape}")
        return Value("array" if code == _ARRAY else "scalar", array)

    def _inner(self, data: bytes) -> list[Any]:
        found = self._msgpack.unpackb(data, raw=True, max_array_len=_MAX_NDIM, max_map_len=0, max_ext_len=0)
        if not isinstance(found, list):
            raise WeightFormatError(f"a value of flax's own types should be a list, found {_described(found)}")
        return found

    def _count(self, values: int) -> None:
        self._values += 1 + values
        if self._values > _MAX_VALUES:
            raise WeightFormatError(f"more than {_MAX_VALUES} values")


def _array(fields: Sequence[Any]) -> Array:
    """Return an array from its shape, the name of its dtype, and its bytes."""
    if len(fields) != 3 or not isinstance(fields[0], list) or any(type(field) is not bytes for field in fields[1:]):
        raise WeightFormatError("an array is not of a shape, a dtype's name and bytes")
    sizes, name, data = fields
    dtype = _dtype(name.decode(errors="replace"))
    shape = _shape(sizes, dtype)
    if len(data) != dtype.itemsize * math.prod(shape):
        raise WeightFormatError(f"an array of {dtype.name} and shape {shape} has {len(data)} bytes")
    bits = np.dtype(np.uint16) if dtype.name == "bfloat16" else dtype
    array: Array = np.ndarray(shape, bits.newbyteorder("<"), data).astype(bits, copy=False).view(dtype)
    return array


def _shape(sizes: Sequence[Any], dtype: np.dtype[Any]) -> tuple[int, ...]:
    if any(type(size) is not int or size < 0 for size in sizes):
        raise WeightFormatError("the shape of an array is not of whole numbers")
    # NumPy leaves dimensions of size 0 out when it decides whether an array is too big, and so must we.
    if dtype.itemsize * math.prod(size or 1 for size in sizes) > sys.maxsize:
        raise WeightFormatError(f"an array has shape {tuple(sizes)}, which no array of NumPy can have")
    return tuple(sizes)


def _dtype(name: str) -> np.dtype[Any]:
    if name not in DTYPES:
        raise WeightFormatError(f"an array has dtype {_shown(name)}; rnnx reads {', '.join(DTYPES)}")
    if name != "bfloat16":
        return np.dtype(name)
    bfloat16: np.dtype[Any] = np.dtype(required("ml_dtypes", "bfloat16", "arrays of bfloat16").bfloat16)
    return bfloat16


def _unchunked(found: Mapping[Key, Any]) -> Value:
    if found.keys() != {_CHUNKED, "shape", "chunks"}:
        raise WeightFormatError(f"an array in chunks has keys {_shown(list(found))}")
    arrays, sizes = (
        [each.data for each in _numbered(found[key], kind)] for key, kind in (("chunks", "array"), ("shape", "int"))
    )
    if not arrays or any(each.ndim != 1 or each.dtype != arrays[0].dtype for each in arrays):
        raise WeightFormatError("the chunks of an array are not vectors of one dtype")
    shape = _shape([each.item() for each in sizes], arrays[0].dtype)
    count = sum(each.size for each in arrays)
    if len(shape) > _MAX_NDIM or count != math.prod(shape):
        raise WeightFormatError(f"an array of shape {_shown(shape)} has chunks of {count} elements")
    return Value("array", _fixed(np.concatenate(arrays).reshape(shape)))


def _numbered(found: Any, kind: str) -> list[Any]:
    names = [str(number) for number in range(len(found))] if isinstance(found, dict) else None
    if names is None or found.keys() != set(names) or any(_kind(each) != kind for each in found.values()):
        raise WeightFormatError("shape and chunks of an array in chunks are not numbered from 0")
    return [found[name] for name in names]


def _kind(node: object) -> str | None:
    return node.kind if isinstance(node, Value) else None


def _value(found: Any) -> Any:
    """Return a node as it is, and what msgpack itself has as a value."""
    if isinstance(found, dict | list | Value):
        return found
    if found is None:
        return Value("none", b"")
    if isinstance(found, str | bytes):
        return Value("text", found.encode()) if isinstance(found, str) else Value("bytes", found)
    if not isinstance(found, bool | int | float):
        raise WeightFormatError(f"a value is {_described(found)}, which flax does not write")
    dtype = {bool: "bool", float: "float64"}.get(type(found), "int64" if found < 1 << 63 else "uint64")
    return Value(type(found).__name__, _fixed(np.array(found, dtype)))


def _fixed(array: Array) -> Array:
    array.flags.writeable = False
    return array


def _described(value: object) -> str:
    return "an array" if isinstance(value, Value) else f"of type {type(value).__name__}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# -- writing ----------------------------------------------------------------------------------------------------------


def _packed(node: Any, packer: Any) -> Iterator[bytes]:
    """Yield the bytes of a node and of everything below it."""
    if isinstance(node, Mapping):
        yield packer.pack_map_header(len(node))
        for key, each in node.items():
            yield packer.pack(key)
            yield from _packed(each, packer)
    elif isinstance(node, list):
        yield packer.pack_array_header(len(node))
        for each in node:
            yield from _packed(each, packer)
    elif node.kind == "none":
        yield packer.pack(None)
    elif isinstance(node.data, bytes):
        yield packer.pack(_text(node.data) if node.kind == "text" else node.data)
    else:
        yield from _packed_array(node.kind, np.asarray(node.data), packer)


def _packed_array(kind: str, array: Array, packer: Any) -> Iterator[bytes]:
    # What has become another kind of array than was read is written as the array that it is.
    if array.ndim or (KINDS[kind] and array.dtype.kind not in KINDS[kind]):
        kind = "array"
    if kind == "complex":
        value = array.item()
        yield packer.pack_ext_type(_COMPLEX, packer.pack((value.real, value.imag)))
    elif KINDS[kind]:
        yield packer.pack(array.item())
    elif array.nbytes > MAX_CHUNK:
        yield from _chunks(array, packer)
    else:
        yield _extension(_SCALAR if kind == "scalar" else _ARRAY, array, packer)


def _chunks(array: Array, packer: Any) -> Iterator[bytes]:
    """Yield an array in vectors of `MAX_CHUNK` bytes at most."""
    elements, size = array.reshape(-1), max(1, MAX_CHUNK // array.itemsize)
    starts = range(0, array.size, size)
    yield packer.pack_map_header(3) + packer.pack(_CHUNKED) + packer.pack(True)
    yield packer.pack("shape") + packer.pack({str(axis): length for axis, length in enumerate(array.shape)})
    yield packer.pack("chunks") + packer.pack_map_header(len(starts))
    for number, start in enumerate(starts):
        yield packer.pack(str(number)) + _extension(_ARRAY, elements[start : start + size], packer)


def _extension(code: int, array: Array, packer: Any) -> bytes:
    native = array.astype(array.dtype.newbyteorder("<"), copy=False) if array.dtype.byteorder == ">" else array
    data = packer.pack((array.shape, array.dtype.name, native.tobytes()))
    packed: bytes = packer.pack_ext_type(code, data)
    return packed


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise WeightFormatError(f"what is to be text is not UTF-8: {error}") from error

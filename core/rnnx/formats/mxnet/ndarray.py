"""NDArray list files of MXNet (``.params``, ``.nd``), read and written with NumPy alone.

Such a file is three parts, little-endian, without padding or checksum:

======  ================================================================================================
header  u64 magic number 0x112, u64 reserved, u64 number of arrays
arrays  one record each: version, shape, context (i32 device type, i32 device), i32 dtype code, data
names   u64 number of names, none or as many as arrays; then each as u64 length and UTF-8 text
======  ================================================================================================

A record begins with a u32 that tells its version. One file may mix them:

=======  ==========================  ============================================================
version  first u32                   then
=======  ==========================  ============================================================
pre-V1   the number of dimensions    u32 dimensions
V1       0xF993FAC8                  i32 number of dimensions, i64 dimensions
V2       0xF993FAC9                  i32 storage type; dense ones go on as V1
V3       0xF993FACA                  as V2, written inside NumPy-shape semantics, dense only
=======  ==========================  ============================================================

Source: ``src/ndarray/ndarray.cc`` of MXNet 1.9.1, ``NDArray::Save`` and ``NDArray::Load``.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
import os
import struct
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rnnx.atomic import replace_file
from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.weights.mapped import Mapped, release
from rnnx.weights.stored import Composed, pieces_of

__all__ = ["looks_like_ndarrays", "read_ndarrays", "write_ndarrays"]

_MAGIC = struct.pack("<Q", 0x112)
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_MAX_NDIM = 32
#: A pre-V1 record of one dimension of size 0: no record is smaller.
_SMALLEST_RECORD = 20

_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_U64 = struct.Struct("<Q")
_I64 = struct.Struct("<q")
_CONTEXT = struct.Struct("<ii")
_CPU = (1, 0)

_DENSE = 0
#: Name and number of index arrays of each sparse storage type.
_SPARSE = {1: ("row_sparse", 1), 2: ("csr", 2)}

_DTYPES = {
    0: "float32",
    1: "float64",
    2: "float16",
    3: "uint8",
    4: "int32",
    5: "int8",
    6: "int64",
    7: "bool",
    8: "int16",
    9: "uint16",
    10: "uint32",
    11: "uint64",
    12: "bfloat16",
}
#: Codes that MXNet defines but refuses to load.
_NOT_LOADED = frozenset({8, 9, 10, 11})
_WRITABLE = {name: code for code, name in _DTYPES.items() if code not in _NOT_LOADED}

_Shape = tuple[int, ...]
_Array = np.ndarray[Any, Any]


def looks_like_ndarrays(head: bytes) -> bool:
    """Tell from a file's first 8 bytes or more whether it is an NDArray list of MXNet."""
    return head.startswith(_MAGIC)


def read_ndarrays(path: str | os.PathLike[str]) -> tuple[list[str], list[_Array]]:
    """Read an NDArray list file of any MXNet version, 0-d V2 records included, which MXNet writes but cannot load.

    Nothing in the file is trusted or executed: a length, count or shape that does not fit the file is an error.
    Bytes after the last name are ignored, as in MXNet, and so is the device an array was saved from.

    Parameters
    ----------
    path : str or path-like
        The file, which must not be changed in place as long as its arrays are in use.

    Returns
    -------
    names : list of str
        As stored, empty for a list without names. A name may occur twice; MXNet then keeps the last array.
    arrays : list of numpy.ndarray
        In the file's order: read-only views of the mapped file, whose data need not be aligned. On a big-endian
        machine they are copies.

    Raises
    ------
    WeightFormatError
        If the file is not an NDArray list, is damaged, or holds bfloat16 and the package ml_dtypes is missing.
    UnsupportedError
        If an array is sparse.
    """
    cursor = _Cursor(os.fspath(path), _map(path))
    records = []
    for index in range(_read_header(cursor)):
        cursor.part = f"array {index}"
        records.append(_read_record(cursor))
    names = _read_names(cursor, len(records))
    labels = [f"{cursor.path}: {label}" for label in _labels(names, len(records))]
    return names, [_view(cursor.data, record, label) for record, label in zip(records, labels, strict=True)]


def write_ndarrays(path: str | os.PathLike[str], names: Collection[str], arrays: Collection[_Array | Composed]) -> None:
    """Write the file that ``mx.nd.save`` of MXNet 1.9.1 writes for the same arrays, byte for byte, whole or not at all.

    Parameters
    ----------
    path : str or path-like
        The file to create or replace.
    names : collection of str
        One for each array, in order; empty for a list without names.
    arrays : collection of numpy.ndarray or Composed
        Of one dimension or more, of any byte order and memory layout.

    Raises
    ------
    WeightFormatError
        If the names do not match the arrays, occur twice, or cannot be stored.
    UnsupportedError
        If MXNet 1.9.1 could not load an array back: one of no dimension, or of a dtype it has no code for.
    """
    texts = _encode(names, len(arrays))
    for label, array in zip(_labels(names, len(arrays)), arrays, strict=True):
        _check_writable(label, array)
    with replace_file(path) as file:
        file.write(_MAGIC + bytes(8) + _U64.pack(len(arrays)))
        for array in arrays:
            _write_record(file, array)
        file.write(_U64.pack(len(texts)))
        for text in texts:
            file.write(_U64.pack(len(text)) + text)


@dataclasses.dataclass(frozen=True)
class _Record:
    """What one array is, and where in the file its data begin."""

    storage: str
    dtype: str
    shape: _Shape
    offset: int


class _Cursor:
    """Walks through a mapped file and trusts none of the numbers found there."""

    def __init__(self, path: str, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.offset = 0
        #: The part of the file that is being read, for errors.
        self.part = "header"

    @property
    def left(self) -> int:
        return len(self.data) - self.offset

    def error(self, offset: int, what: str, expected: str, found: object) -> WeightFormatError:
        return WeightFormatError(
            f"{self.path}: {self.part}, byte {offset}: {what}: expected {expected}, found {found}; "
            "the file is damaged or is no NDArray list of MXNet"
        )

    def skip(self, size: int, what: str) -> int:
        """Step over `size` bytes, all of which the file must have, and return where they begin."""
        if size > self.left:
            raise self.error(self.offset, what, f"{size} bytes", f"{self.left} before the end of the file")
        start = self.offset
        self.offset += size
        return start

    def integer(self, kind: struct.Struct, what: str, allowed: range | None = None) -> int:
        start = self.skip(kind.size, what)
        value: int = kind.unpack_from(self.data, start)[0]
        if allowed is not None and value not in allowed:
            raise self.error(start, what, f"{allowed[0]} to {allowed[-1]}", value)
        return value

    def text(self) -> str:
        size = self.integer(_U64, "length")
        start = self.skip(size, "text")
        try:
            return self.data[start : self.offset].decode()
        except UnicodeDecodeError as error:
            raise self.error(start + error.start, "text", "UTF-8", f"byte {error.object[error.start]:#04x}") from error

    def shape(self, dimensions: range = range(_MAX_NDIM + 1)) -> _Shape:
        ndim = self.integer(_I32, "number of dimensions", dimensions)
        return self.dimensions(ndim, _I64)

    def dimensions(self, ndim: int, kind: struct.Struct) -> _Shape:
        return tuple(self.integer(kind, f"dimension {axis}", range(2**63)) for axis in range(ndim))

    def dtype(self) -> str:
        return _DTYPES[self.integer(_I32, "dtype code", range(len(_DTYPES)))]

    def values(self, dtype: str, shape: _Shape) -> int:
        """Step over the data of an array and return where they begin."""
        item = _stored_dtype(dtype).itemsize
        # NumPy leaves dimensions of size 0 out when it decides whether an array is too big, and so must we.
        extent = item * math.prod(size or 1 for size in shape)
        if extent > sys.maxsize:
            raise self.error(self.offset, "shape", f"at most {sys.maxsize} bytes", f"{shape} of {dtype}")
        return self.skip(item * math.prod(shape), f"data of shape {shape} and dtype {dtype}")


def _map(path: str | os.PathLike[str]) -> mmap.mmap:
    with Path(path).open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise WeightFormatError(f"{os.fspath(path)}: the file is empty; expected an NDArray list of MXNet")
        return Mapped(file.fileno(), 0, access=mmap.ACCESS_READ)


def _read_header(cursor: _Cursor) -> int:
    """Check the header and return the number of arrays."""
    head = cursor.data[: len(_MAGIC)]
    if head.startswith(b"PK"):
        raise WeightFormatError(
            f"{cursor.path}: the file is a zip archive, not an NDArray list; "
            "MXNet 2.0 writes NumPy's .npz under this name: read it with numpy.load"
        )
    if not looks_like_ndarrays(head):
        raise cursor.error(0, "magic number", _MAGIC.hex(" "), head.hex(" "))
    cursor.skip(len(_MAGIC), "magic number")
    cursor.skip(_U64.size, "reserved word")
    return cursor.integer(_U64, "number of arrays in the bytes left", range(cursor.left // _SMALLEST_RECORD + 1))


def _read_record(cursor: _Cursor) -> _Record:
    start = cursor.offset
    word = cursor.integer(_U32, "version")
    if word in (_V2, _V3):
        return _read_typed(cursor, sparse_too=word == _V2)
    # Before V2, an array of no dimensions is one without a value, and its record ends there.
    if word == _V1:
        return _read_dense(cursor, cursor.shape(range(1, _MAX_NDIM + 1)))
    if 1 <= word <= _MAX_NDIM:
        return _read_dense(cursor, cursor.dimensions(word, _U32))
    raise cursor.error(start, "version", f"{_V1:#x} to {_V3:#x}, or 1 to {_MAX_NDIM} dimensions", f"{word:#x}")


def _read_typed(cursor: _Cursor, sparse_too: bool) -> _Record:
    """Read what follows the version of a V2 or V3 record."""
    storage = cursor.integer(_I32, "storage type", range(len(_SPARSE) + 1 if sparse_too else 1))
    if storage == _DENSE:
        return _read_dense(cursor, cursor.shape())
    return _read_sparse(cursor, *_SPARSE[storage])


def _read_dense(cursor: _Cursor, shape: _Shape) -> _Record:
    cursor.skip(_CONTEXT.size, "context")
    dtype = cursor.dtype()
    return _Record("dense", dtype, shape, cursor.values(dtype, shape))


def _read_sparse(cursor: _Cursor, storage: str, indices: int) -> _Record:
    """Step over a sparse record, so that the error about it can give its name."""
    stored, shape = cursor.shape(), cursor.shape()
    cursor.skip(_CONTEXT.size, "context")
    dtype = cursor.dtype()
    index_arrays = [(cursor.dtype(), cursor.shape()) for _ in range(indices)]
    if not math.prod(stored):
        # MXNet may write an array's stored shape before it has computed it; the last index array tells, there as here.
        kept = index_arrays[-1][1]
        stored = kept if storage == "csr" else kept + shape[1:]
    offset = cursor.values(dtype, stored)
    for index_dtype, index_shape in index_arrays:
        cursor.values(index_dtype, index_shape)
    return _Record(storage, dtype, shape, offset)


def _read_names(cursor: _Cursor, arrays: int) -> list[str]:
    cursor.part = "names"
    start = cursor.offset
    count = cursor.integer(_U64, "number of names")
    if count not in (0, arrays):
        raise cursor.error(start, "number of names", f"0 or {arrays}", count)
    names = []
    for index in range(count):
        cursor.part = f"name {index}"
        names.append(cursor.text())
    return names


def _view(data: mmap.mmap, record: _Record, label: str) -> _Array:
    if record.storage != "dense":
        raise UnsupportedError(
            f"{label} is stored as {record.storage}, and only dense arrays are read; "
            "convert it in MXNet with arr.tostype('default') and save it again"
        )
    stored: _Array = np.ndarray(record.shape, _stored_dtype(record.dtype), buffer=data, offset=record.offset)
    array = _native(stored)
    return array.view(_bfloat16(label)) if record.dtype == "bfloat16" else array


def _stored_dtype(name: str) -> np.dtype[Any]:
    """Return the little-endian dtype in which NumPy can hold a file's data."""
    return np.dtype("<u2") if name == "bfloat16" else np.dtype(name).newbyteorder("<")


def _native(array: _Array) -> _Array:
    """Return the array, read-only, in the machine's byte order: itself where that is its own."""
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    native.flags.writeable = False
    return native


def _bfloat16(label: str) -> np.dtype[Any]:
    try:
        import ml_dtypes
    except ImportError as error:
        raise WeightFormatError(
            f"{label} has dtype bfloat16, which NumPy lacks; pip install ml_dtypes and read the file again"
        ) from error
    bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return bfloat16


def _labels(names: Collection[str], count: int) -> list[str]:
    """Say which array is meant, by index, and by name where it has one."""
    return [f"array {index} ({name!r})" for index, name in enumerate(names)] or [f"array {i}" for i in range(count)]


def _encode(names: Collection[str], arrays: int) -> list[bytes]:
    """Check the names against each other and the number of arrays, and return them as stored."""
    if names and len(names) != arrays:
        raise WeightFormatError(f"{len(names)} names for {arrays} arrays; give one each, or none at all")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise WeightFormatError(f"names occur more than once: {twice}; MXNet would keep only the last array of each")
    # MXNet hands names on as C strings, which end at the first NUL.
    ended = [name for name in names if "\0" in name]
    if ended:
        raise WeightFormatError(f"names contain NUL: {ended}; MXNet would cut them off there")
    try:
        return [name.encode() for name in names]
    except UnicodeEncodeError as error:
        raise WeightFormatError(f"name {error.object!r} cannot be stored as UTF-8: {error.reason}") from error


def _check_writable(label: str, array: _Array | Composed) -> None:
    if not 1 <= array.ndim <= _MAX_NDIM:
        raise UnsupportedError(
            f"{label} has {array.ndim} dimensions, and MXNet 1.9.1 loads 1 to {_MAX_NDIM}; reshape it, e.g. to (1,), "
            "or write a recurrent part alone with select= (--select)"
        )
    if array.dtype.name not in _WRITABLE:
        raise UnsupportedError(
            f"{label} has dtype {array.dtype.name}, which MXNet 1.9.1 cannot load; convert it to one of "
            + ", ".join(_WRITABLE)
        )


def _write_record(file: BinaryIO, array: _Array | Composed) -> None:
    name = array.dtype.name
    file.write(_U32.pack(_V2) + _I32.pack(_DENSE) + _I32.pack(array.ndim))
    file.write(struct.pack(f"<{array.ndim}q", *array.shape))
    file.write(_CONTEXT.pack(*_CPU) + _I32.pack(_WRITABLE[name]))
    for piece in pieces_of(array):
        # ml_dtypes' bfloat16 has no buffer protocol; its bits do.
        bits = piece.view(np.uint16) if name == "bfloat16" else piece
        file.write(np.ascontiguousarray(bits, dtype=_stored_dtype(name)).data)
        release(piece)

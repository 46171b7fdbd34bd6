"""The index of a TensorFlow checkpoint, parsed before TensorFlow sees it: it ends the process where one makes no sense.

``model.ckpt.index`` is a table of sorted records in blocks, ending in a footer of 48 bytes. Its first record, whose key
is empty, is a ``BundleHeaderProto``; every other one is a variable's name and a ``BundleEntryProto``: dtype, shape, and
where its bytes stand in which ``model.ckpt.data-00000-of-00001``. A variable that was partitioned has a record for each
slice too, whose key begins with a zero byte.

Sources: ``tensorflow/core/util/tensor_bundle/tensor_bundle.h``, ``tensorflow/core/protobuf/tensor_bundle.proto`` and
``tensorflow/core/lib/io/table_format.txt`` of TensorFlow; the checks that end the process are in ``BuildV2VarMaps`` of
``tensorflow/c/checkpoint_reader.cc``.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rnnx.errors import WeightFormatError
from rnnx.optional import required

__all__ = ["OBJECT_GRAPH", "Index", "looks_like_index", "read_index"]

#: The variable by which a checkpoint of TensorFlow 2's objects is told.
OBJECT_GRAPH = b"_CHECKPOINTABLE_OBJECT_GRAPH"

_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
_FOOTER = 48

#: What follows a block: a byte that says how it is compressed, and a checksum, which TensorFlow checks.
_TRAILER = 5

#: Bytes of names that are read: far more than any checkpoint has, though few bytes of a file can stand for more.
_MAX_NAMES = 1 << 26

#: Most dimensions of a tensor (``TensorShape::MaxDimensions``), and most elements that are taken for meant.
_MAX_RANK, _MAX_ELEMENTS = 254, 1 << 48

_SLICE = b"\0"


@dataclasses.dataclass(frozen=True)
class Index:
    """What an index lists.

    Parameters
    ----------
    num_shards : int
        How many files of data there are.
    variables : mapping of bytes to BundleEntryProto
        Every variable by name.
    slices : mapping of bytes to BundleEntryProto
        The slices of partitioned variables.
    """

    num_shards: int
    variables: Mapping[bytes, Any]
    slices: Mapping[bytes, Any]


def looks_like_index(path: Path) -> bool:
    """Say whether a file is there and ends as an index does."""
    if not path.is_file() or path.stat().st_size < _FOOTER:
        return False
    with path.open("rb") as file:
        file.seek(-len(_MAGIC), 2)
        return file.read() == _MAGIC


def read_index(path: Path) -> Index:
    """Read an index.

    Raises
    ------
    WeightFormatError
        If it is damaged, or describes what no tensor can be.
    """
    messages = required("tensorflow.core.protobuf.tensor_bundle_pb2", "tensorflow", "TensorFlow checkpoints")
    records = _records(path.read_bytes(), path.name)
    key, content = next(records, (b"", b""))
    header = _parsed(messages.BundleHeaderProto, content, f"{path.name}: the header")
    if key or not content or header.num_shards < 1 or header.endianness != messages.BundleHeaderProto.LITTLE:
        raise WeightFormatError(f"{path.name} does not begin with the header of a little-endian checkpoint")
    variables: dict[bytes, Any] = {}
    slices: dict[bytes, Any] = {}
    for key, content in records:
        entry = _parsed(messages.BundleEntryProto, content, f"{path.name}: the record of {_shown(key)}")
        _check_shape(key, entry)
        (slices if key.startswith(_SLICE) else variables)[key] = entry
    _check_slices(variables, slices, path.name)
    return Index(header.num_shards, variables, slices)


# -- records ----------------------------------------------------------------------------------------------------------


def _records(table: bytes, where: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the records of a table, whose keys go up."""
    if len(table) < _FOOTER or not table.endswith(_MAGIC):
        raise WeightFormatError(f"{where} is cut off or no index: it does not end with the footer of one")
    footer = table[-_FOOTER:]
    _, _, place = _handle(footer, 0, where)
    start, size, _ = _handle(footer, place, where)
    end, last, names = 0, None, 0
    for _, content in _block(table, start, size, where):
        start, size, _ = _handle(content, 0, where)
        if start < end:
            raise _damaged(where)
        end = start + size
        for key, value in _block(table, start, size, where):
            names += len(key)
            if names > _MAX_NAMES or (last is not None and key <= last):
                raise _damaged(where)
            last = key
            yield key, value


def _block(table: bytes, start: int, size: int, where: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the records of a block; a key is told by how many bytes it shares with the one before, and the others."""
    if start + size + _TRAILER > len(table) or size < 8:
        raise _damaged(where)
    if table[start + size] != 0:
        raise WeightFormatError(f"{where} is compressed, which TensorFlow does not do to an index")
    block = table[start : start + size]
    stop = _stop(block, where)
    key, place, fresh = b"", 0, {0}
    while place < stop:
        begin = place
        shared, place = _varint(block, place, where)
        own, place = _varint(block, place, where)
        width, place = _varint(block, place, where)
        if shared > len(key) or place + own + width > stop:
            raise _damaged(where)
        fresh |= {begin} if shared == 0 else set()
        key = key[:shared] + block[place : place + own]
        place += own + width
        yield key, block[place - width : place]
    if any(restart not in fresh for restart in _numbers(block[stop:-4])):
        raise _damaged(where)


def _stop(block: bytes, where: str) -> int:
    """Return where the records of a block end; behind them stand the places of whole keys, and how many those are."""
    (count,) = _numbers(block[-4:])
    stop = len(block) - 4 - 4 * count
    if count < 1 or stop < 0:
        raise _damaged(where)
    return stop


def _numbers(data: bytes) -> list[int]:
    return [int.from_bytes(data[place : place + 4], "little") for place in range(0, len(data), 4)]


def _handle(data: bytes, place: int, where: str) -> tuple[int, int, int]:
    """Return start and size of a block, and the place behind them."""
    start, place = _varint(data, place, where)
    size, place = _varint(data, place, where)
    return start, size, place


def _varint(data: bytes, place: int, where: str) -> tuple[int, int]:
    """Return a number of seven bits a byte, the lowest first, and the place behind it."""
    number = 0
    for shift, byte in enumerate(data[place : place + 10]):
        number |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return number, place + shift + 1
    raise _damaged(where)


def _damaged(where: str) -> WeightFormatError:
    return WeightFormatError(f"{where} is damaged: its table of records does not hold together")


# -- what a record says -----------------------------------------------------------------------------------------------


def _parsed(message: Any, content: bytes, what: str) -> Any:
    errors = required("google.protobuf.message", "tensorflow", "TensorFlow checkpoints")
    try:
        return message.FromString(content)
    except errors.DecodeError as error:
        raise WeightFormatError(f"{what} is no {message.DESCRIPTOR.name}: {error}") from error


def _check_shape(key: bytes, entry: Any) -> None:
    """Refuse a shape that no tensor has."""
    sizes = [dim.size for dim in entry.shape.dim]
    told = not entry.shape.unknown_rank and all(size >= 0 for size in sizes)
    if not told or len(sizes) > _MAX_RANK or math.prod(max(size, 1) for size in sizes) > _MAX_ELEMENTS:
        raise WeightFormatError(f"variable {_shown(key)} has the shape {str(sizes)[:60]}, which no tensor has")


def _check_slices(variables: Mapping[bytes, Any], slices: Mapping[bytes, Any], where: str) -> None:
    """Refuse partitioned variables whose slices are others than those listed, or do not make up their shapes."""
    expected: dict[bytes, tuple[int, list[int]]] = {}
    for key, entry in variables.items():
        sizes = [dim.size for dim in entry.shape.dim]
        held = [_lengths(each, sizes) for each in entry.slices]
        told = {_slice_key(key, each): (entry.dtype, own) for each, own in zip(entry.slices, held, strict=True)}
        if len(told) < len(held) or (held and sum(map(math.prod, held)) != math.prod(sizes)):
            raise WeightFormatError(f"the slices of variable {_shown(key)} do not make up its shape {sizes}")
        expected |= told
    found = {key: (entry.dtype, [dim.size for dim in entry.shape.dim]) for key, entry in slices.items()}
    if found != expected or any(entry.slices for entry in slices.values()):
        raise WeightFormatError(f"{where} lists other slices than its partitioned variables have")


def _lengths(part: Any, sizes: list[int]) -> list[int]:
    """Return the shape of a slice, or one without elements if it is no slice of the whole."""
    lengths = []
    for extent, size in itertools.zip_longest(part.extent, sizes):
        if extent is None or size is None:
            return [0]
        length = extent.length if extent.HasField("length") else size
        lengths.append(length if extent.start >= 0 and 1 <= length <= size - extent.start else 0)
    return lengths


def _slice_key(name: bytes, part: Any) -> bytes:
    """Return the key of a slice, whose name is text without zero bytes.

    See ``EncodeTensorNameSlice`` in ``tensorflow/core/util/saved_tensor_slice_util.cc``.
    """
    lengths = [extent.length if extent.HasField("length") else -1 for extent in part.extent]
    numbers = [each for extent, length in zip(part.extent, lengths, strict=True) for each in (extent.start, length)]
    rank = bytes([1, len(lengths)]) if lengths else b"\0"
    return _SLICE + name + b"\0\1" + rank + b"".join(map(_ordered, numbers))


def _ordered(number: int) -> bytes:
    """Return a number in bytes that sort as numbers do: ones, as many as bytes, a zero, and its bits.

    See ``WriteSignedNumIncreasing`` in ``tensorflow/core/lib/strings/ordered_code.cc``.
    """
    width = 1 + (number if number >= 0 else ~number).bit_length() // 7
    ones = ((1 << width) - 1) << (7 * width)
    return ((number & ((1 << 8 * width) - 1)) ^ ones).to_bytes(width, "big")


def _shown(key: bytes) -> str:
    return repr(key[:200].decode("utf-8", "replace"))

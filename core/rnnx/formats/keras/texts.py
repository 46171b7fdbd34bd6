"""Texts of variable length in the attributes of an HDF5 file, read from the file's own bytes.

The HDF5 library takes the lengths of such texts for true: a damaged one makes it ask for gigabytes, and a damaged heap
makes it run for ever. Here every length is checked against where the text stands.

An attribute is a message in its owner's object header. Of each text it has a length, the address of a heap, and the
number of an object in it; the object is the text.

Source: the HDF5 file format, https://docs.hdfgroup.org/hdf5/v1_14/_f_m_t3.html, sections III.E (global heap), IV.A.1
(object headers) and IV.A.2.m (attribute message).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from rnnx.errors import WeightFormatError

__all__ = ["texts_of"]

_ATTRIBUTE, _CONTINUATION, _SHARED = 0x0C, 0x10, 0x02

_FIRST, _MESSAGE = struct.Struct("<BxHII4x"), struct.Struct("<HHB3x")
_SECOND, _MESSAGE_2 = struct.Struct("<4sBB"), struct.Struct("<BHB")
_BLOCK, _SIZES, _TEXT = struct.Struct("<QQ"), struct.Struct("<BBHHH"), struct.Struct("<IQI")
_HEAP, _OBJECT = struct.Struct("<4sB3xQ"), struct.Struct("<HH4xQ")

#: Most blocks that an object header is spread over.
_MAX_BLOCKS = 4096


def texts_of(data: memoryview, header: int, name: str, count: int, most: int) -> list[str]:
    """Return the texts of an attribute.

    Parameters
    ----------
    data : memoryview
        The file.
    header : int
        Where the object header of the attribute's owner begins.
    name : str
        The attribute.
    count : int
        How many texts it has.
    most : int
        How many bytes they may have together: many can be one and the same in the file.

    Raises
    ------
    WeightFormatError
        If the file ends before something that it is said to hold, or stores the attribute as Keras never does.
    """
    encoded = name.encode("utf-8", "surrogateescape")
    try:
        for message in _attributes(data, header):
            raw = _value(message, encoded)
            if raw is not None:
                elements = [_TEXT.unpack_from(raw, number * _TEXT.size) for number in range(count)]
                total = sum(length for length, _, _ in elements)
                if total > most:
                    raise WeightFormatError(f"attribute {name!r} is said to have {total} bytes of text, too many")
                return [_text(data, *element) for element in elements]
    except (struct.error, IndexError) as error:
        raise WeightFormatError(f"the HDF5 file is damaged where attribute {name!r} stands: {error}") from error
    raise WeightFormatError(f"attribute {name!r} is not stored in its owner's header, as Keras's are")


def _attributes(data: memoryview, header: int) -> Iterator[memoryview]:
    """Yield the attribute messages of an object header."""
    second = bytes(data[header : header + 4]) == b"OHDR"
    ordered = False
    if second:
        _, _, flags = _SECOND.unpack_from(data, header)
        ordered, width = bool(flags & 0x04), 1 << (flags & 0x03)
        start = header + _SECOND.size + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        blocks = [(start + width, int.from_bytes(data[start : start + width], "little"))]
    else:
        version, _, _, length = _FIRST.unpack_from(data, header)
        blocks = [(header + _FIRST.size, length)] if version == 1 else []
    for number, (start, length) in enumerate(blocks):
        if number > _MAX_BLOCKS or start + length > len(data):
            raise WeightFormatError(f"the HDF5 file is damaged: an object header is said to end at {start + length}")
        for kind, flags, body in _messages(data[start : start + length], second, ordered):
            if kind == _CONTINUATION:
                where, size = _BLOCK.unpack_from(body)
                # Blocks of the second version have a signature before, and a checksum behind.
                blocks.append((where + 4, max(size - 8, 0)) if second else (where, size))
            elif kind == _ATTRIBUTE and not flags & _SHARED:
                yield body


def _messages(block: memoryview, second: bool, ordered: bool) -> Iterator[tuple[int, int, memoryview]]:
    layout = _MESSAGE_2 if second else _MESSAGE
    start, head = 0, layout.size + (2 if ordered else 0)
    while start + head <= len(block):
        kind, size, flags = layout.unpack_from(block, start)
        yield kind, flags, block[start + head : start + head + size]
        start += head + size


def _value(message: memoryview, name: bytes) -> memoryview | None:
    """Return the value of an attribute if it is called so."""
    version, _, *sizes = _SIZES.unpack_from(message)
    start = _SIZES.size + (1 if version == 3 else 0)
    if bytes(message[start : start + sizes[0]]).rstrip(b"\0") != name:
        return None
    for size in sizes:  # of the name, the type and the shape
        start += -(-size // 8) * 8 if version == 1 else size
    return message[start:]


def _text(data: memoryview, length: int, address: int, wanted: int) -> str:
    if length == 0:
        return ""
    signature, version, size = _HEAP.unpack_from(data, address)
    heap = data[address : address + size]
    if (signature, version) != (b"GCOL", 1) or len(heap) != size:
        raise WeightFormatError(f"the HDF5 file is damaged: there is no heap at byte {address}")
    start = _HEAP.size
    while start + _OBJECT.size <= size:
        number, _, held = _OBJECT.unpack_from(heap, start)
        if number == 0:
            break
        if number == wanted and length <= held and start + _OBJECT.size + held <= size:
            found = heap[start + _OBJECT.size : start + _OBJECT.size + length]
            return bytes(found).rstrip(b"\0").decode("utf-8", "surrogateescape")
        start += _OBJECT.size + -(-held // 8) * 8
    raise WeightFormatError(f"the HDF5 file is damaged: the heap at byte {address} has no text of {length} bytes there")

"""Index files of TensorFlow checkpoints, LevelDB tables of keys and messages, with entries changed.

The table is written anew with the checksums that fit it.

Source: ``tensorflow/core/lib/io/format.cc`` and ``tensorflow/core/protobuf/tensor_bundle.proto``.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

__all__ = ["changed_table", "is_table"]

Damage = Callable[[bytes, random.Random], bytes]
Entry = tuple[bytes, bytes]

_MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
_FOOTER = 48

_KEYS = (b"", b"a", b"\xff", b"lstm/kernel", b"rnn/basic_lstm_cell/kernel", b"rnn/basic_lstm_cell/bias", b"\x00" * 40)


def is_table(content: bytes) -> bool:
    """Say whether a file ends as a table does, and has entries."""
    return content.endswith(_MAGIC) and bool(_entries(content))


def changed_table(content: bytes, rng: random.Random, damage: Damage) -> bytes:
    """Return a table with an entry changed, removed, doubled or renamed."""
    entries = _entries(content)
    for _ in range(rng.choice((1, 1, 2))):
        place = rng.randrange(len(entries))
        key, value = entries[place]
        other = rng.choice(entries)
        kind = rng.random()
        if kind < 0.55:
            entries[place] = key, _other_message(value, rng, damage)
        elif kind < 0.65:
            entries[place : place + 1] = rng.choice(([], [(key, value), (key, value)], [(key, b"")]))
        elif kind < 0.8:
            entries[place] = rng.choice((*_KEYS, key[:-1], key + b"_1", damage(key, rng))), value
        else:
            entries[place] = key, other[1]
        if not entries:
            break
    return _table(sorted(entries) if rng.random() < 0.9 else entries)


def _other_message(value: bytes, rng: random.Random, damage: Damage) -> bytes:
    """Return a message with one of its numbers, a byte or the order of its fields changed."""
    fields = _fields(value)
    if not fields or rng.random() < 0.3:
        return damage(value, rng)
    place = rng.randrange(len(fields))
    tag, payload = fields[place]
    kind = rng.random()
    if kind < 0.15:
        rng.shuffle(fields)
    elif kind < 0.25:
        fields[place : place + 1] = rng.choice(([], [(tag, payload)] * 2))
    elif tag & 7 == 0:
        number = rng.choice((0, 1, 2, 3, 7, 14, 19, 23, 100, 2**31 - 1, 2**31, 2**32, 2**40, 2**63 - 1, 2**64 - 1))
        fields[place] = tag, _varint(number)
    elif tag & 7 == 2:
        inner = _other_message(payload, rng, damage)
        fields[place] = tag, inner
    else:
        fields[place] = tag, rng.randbytes(len(payload))
    return b"".join(
        _varint(tag) + (_varint(len(payload)) if tag & 7 == 2 else b"") + payload for tag, payload in fields
    )


def _fields(message: bytes) -> list[tuple[int, bytes]]:
    """Return the fields of a message as tags and payloads, or nothing if it is none."""
    found, place = [], 0
    try:
        while place < len(message):
            tag, place = _read_varint(message, place)
            start = place
            if tag & 7 == 0:
                _, place = _read_varint(message, place)
            elif tag & 7 == 2:
                length, start = _read_varint(message, place)
                place = start + length
            else:
                place += {1: 8, 5: 4}[tag & 7]
            if place > len(message):
                return []
            found.append((tag, message[start:place]))
    except (KeyError, IndexError):
        return []
    return found


# -- tables -----------------------------------------------------------------------------------------------------------


def _entries(content: bytes) -> list[Entry]:
    """Return the keys and values of a table that is whole."""
    footer = content[-_FOOTER:]
    try:
        _, place = _read_varint(footer, 0)
        _, place = _read_varint(footer, place)
        offset, place = _read_varint(footer, place)
        size, _ = _read_varint(footer, place)
        found = []
        for _, handle in _block_entries(content[offset : offset + size]):
            start, place = _read_varint(handle, 0)
            length, _ = _read_varint(handle, place)
            found += _block_entries(content[start : start + length])
    except (IndexError, struct.error):
        return []
    return found


def _block_entries(block: bytes) -> list[Entry]:
    (restarts,) = struct.unpack("<I", block[-4:])
    end, place, key = len(block) - 4 - 4 * restarts, 0, b""
    found = []
    while place < end:
        shared, place = _read_varint(block, place)
        fresh, place = _read_varint(block, place)
        length, place = _read_varint(block, place)
        key = key[:shared] + block[place : place + fresh]
        place += fresh
        found.append((key, block[place : place + length]))
        place += length
    return found


def _table(entries: Sequence[Entry]) -> bytes:
    data = _sealed(_block(entries))
    meta = _sealed(_block(()))
    last = entries[-1][0] if entries else b""
    index = _sealed(_block([(last + b"\xff", _varint(0) + _varint(len(data) - 5))]))
    handles = _varint(len(data)) + _varint(len(meta) - 5) + _varint(len(data) + len(meta)) + _varint(len(index) - 5)
    return data + meta + index + handles.ljust(_FOOTER - 8, b"\0") + _MAGIC


def _block(entries: Sequence[Entry]) -> bytes:
    """Return a block in which no key shares its beginning with the one before: each is a place to start at."""
    block, restarts = b"", [0]
    for number, (key, value) in enumerate(entries):
        if number:
            restarts.append(len(block))
        block += b"\0" + _varint(len(key)) + _varint(len(value)) + key + value
    return block + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def _sealed(block: bytes) -> bytes:
    """Return a block with its kind, uncompressed, and its checksum behind it."""
    checksum = _crc32c(block + b"\0")
    masked = ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return block + b"\0" + struct.pack("<I", masked)


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    return bytes([*data, number])


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[place]
        number |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return number, place


def _remainders() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC32C = _remainders()


def _crc32c(data: bytes) -> int:
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum = checksum >> 8 ^ _CRC32C[(checksum ^ byte) & 255]
    return checksum ^ 0xFFFFFFFF

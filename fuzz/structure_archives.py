"""Zip files with members changed, and pickles with operations changed: what PyTorch's and Keras's files are made of."""

from __future__ import annotations

import io
import pickletools
import random
import struct
import warnings
import zipfile
from collections.abc import Callable

from structure_trees import HOSTILE_TEXTS

__all__ = ["changed_pickle", "changed_zip", "is_pickle", "is_zip"]

Damage = Callable[[bytes, random.Random], bytes]
Member = tuple[str, bytes, int]

_DATE = (1980, 1, 1, 0, 0, 0)

#: Bytes of zeros that a small member unpacks to: more than any reader of a small file may hold.
_BOMB = 160 * 2**20

#: What no reader may look up or call.
_GLOBALS = (
    *("os system", "posix system", "builtins exec", "builtins eval", "builtins getattr", "rnnx_canary Cell"),
    *("torch load", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "collections OrderedDict"),
    *("torch FloatStorage", "torch DoubleStorage", "torch.serialization _get_layout", "torch Size", "torch device"),
    *("builtins set", "numpy ndarray", "_codecs encode", "torch._tensor _rebuild_from_type_v2", "torch Tensor"),
)


def is_zip(content: bytes) -> bool:
    """Say whether a file is a zip archive that can be unpacked."""
    return content.startswith(b"PK\x03\x04") and _members(content) is not None


def changed_zip(content: bytes, rng: random.Random, damage: Damage) -> bytes:
    """Return an archive with a member changed, removed, doubled, renamed, emptied or compressed; checksums fit."""
    members = _members(content) or []
    if not members:
        return damage(content, rng)
    place = rng.randrange(len(members))
    name, data, method = members[place]
    kind = rng.random()
    if kind < 0.6:
        largest = max(members, key=lambda member: len(member[1]))
        place = members.index(largest) if rng.random() < 0.3 else place
        name, data, method = members[place]
        members[place] = (name, damage(data, rng), method)
    elif kind < 0.7:
        members[place : place + 1] = rng.choice(([], [members[place], members[place]], [(name, b"", method)]))
    elif kind < 0.82:
        members[place] = (_other_name(name, members, rng), data, method)
    elif kind < 0.87:
        members[place] = (name, data, zipfile.ZIP_DEFLATED)
    elif kind < 0.89:
        members[place] = (name, bytes(_BOMB), zipfile.ZIP_DEFLATED)
    elif kind < 0.95:
        other = rng.randrange(len(members))
        members[place] = (name, members[other][1], method)
    else:
        rng.shuffle(members)
    return _zipped(members)


def _other_name(name: str, members: list[Member], rng: random.Random) -> str:
    folder, _, last = name.rpartition("/")
    others = (*(member[0] for member in members), f"../decoy/{last}", f"/{name}", last, f"{folder}/{folder}/{last}",
              name.upper(), name + "/", f"{folder}/../{last}", f"{folder}\\{last}")  # fmt: skip
    return rng.choice((*others, *(text for text in HOSTILE_TEXTS if "\x00" not in text)))


def _members(content: bytes) -> list[Member] | None:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return [(entry.filename, archive.read(entry), entry.compress_type) for entry in archive.infolist()]
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError):
        return None


def _zipped(members: list[Member]) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # of a name that stands there twice
        for name, data, method in members:
            archive.writestr(zipfile.ZipInfo(name, _DATE), data, method, compresslevel=1)
    return file.getvalue()


# -- pickles ----------------------------------------------------------------------------------------------------------


def is_pickle(content: bytes) -> bool:
    """Say whether a file begins with a pickle of protocol 2 or later."""
    return bool(_operations(content, 0))


def changed_pickle(content: bytes, rng: random.Random, damage: Damage) -> bytes:
    """Return a pickle, one of several in a row, with an operation removed, doubled, moved or changed."""
    starts = [0]
    while operations := _operations(content, starts[-1]):
        starts.append(starts[-1] + sum(map(len, operations)))
    start = rng.choice(starts[:-1])
    operations = _operations(content, start)
    rest = content[start + sum(map(len, operations)) :]
    for _ in range(rng.choice((1, 1, 2))):
        _change_operation(operations, rng)
    return content[:start] + b"".join(operations) + rest


def _change_operation(operations: list[bytes], rng: random.Random) -> None:
    if len(operations) < 2:
        return
    place = rng.randrange(1, len(operations))
    kind = rng.random()
    if kind < 0.6:
        operations[place] = _other_operation(operations[place], rng)
    elif kind < 0.75:
        del operations[place]
    elif kind < 0.9:
        operations[place:place] = [operations[rng.randrange(1, len(operations))]]
    else:
        operations[place] = _looked_up(rng) + b")R"


def _operations(content: bytes, start: int) -> list[bytes]:
    """Return a pickle cut into its operations, each with its argument; nothing where none begins."""
    if content[start : start + 1] != b"\x80" or content[start + 1 : start + 2] not in (
        b"\x02",
        b"\x03",
        b"\x04",
        b"\x05",
    ):
        return []
    pickle = content[start:]
    try:
        places = [place or 0 for _, _, place in pickletools.genops(pickle)]
    except (ValueError, UnicodeDecodeError, IndexError, struct.error):
        return []
    end = places[-1] + 1  # of STOP, which has no argument
    return [pickle[begin:stop] for begin, stop in zip(places, [*places[1:], end], strict=True)]


def _looked_up(rng: random.Random) -> bytes:
    return b"c" + rng.choice(_GLOBALS).replace(" ", "\n").encode() + b"\n"


def _other_operation(piece: bytes, rng: random.Random) -> bytes:
    code = piece[:1]
    if code == b"c":
        return _looked_up(rng)
    if code in (b"K", b"M", b"J", b"\x8a"):
        number = rng.choice((0, 1, 2, 3, 7, 255, 65536, 2**31 - 1, -1, -(2**31), 2**40, 2**63 - 1, 2**64))
        data = number.to_bytes(9, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    if code == b"X":
        text = rng.choice((*HOSTILE_TEXTS, "cpu", "cuda:0", "meta", "0", "1", "storage", "weight_ih_l0")).encode()
        return b"X" + struct.pack("<I", len(text)) + text
    return rng.choice((b"N", b"K\x00", b")", b"]", b"}", b"(", b"0", b"2", b"\x85", b"R", b"b", b"Q", b"t", b"u", b"s",
                       b"\x88", b"G\x7f\xf0" + bytes(6), b"\x81", b"e", b"a"))  # fmt: skip

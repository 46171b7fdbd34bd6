"""Damage done to valid files: `mutated` is what the readers are tried with.

Most of the files are changed by what they are (`structure`): such a file passes checksums and parsers, and only what
it says is wrong. The others, and some of those too, are changed byte by byte. All is chosen by the random numbers that
are given, so the same ones make the same files.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

import structure
from samples import Sample

__all__ = ["EXTREMES", "damaged", "mutated"]

#: Whole numbers that lengths, counts and offsets go wrong at.
EXTREMES = (
    *(0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 1000, 4095, 4096, 65535, 65536),
    *(2**24, 2**28, 2**30, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**33, 2**40, 2**48, 2**62, 2**63 - 1, 2**63),
    *(2**64 - 1, -1, -2, -128, -(2**31), -(2**63)),
)

#: Most changes that are made to one file, byte by byte.
_MOST_CHANGES = 4

Change = Callable[[bytes, random.Random], bytes]


def mutated(sample: Sample, others: Sequence[Sample], rng: random.Random) -> tuple[Sample, str]:
    """Return a damaged sample, and in a few words how it was damaged.

    Parameters
    ----------
    sample : Sample
        A valid one.
    others : sequence of Sample
        Valid ones of the same format, of which pieces are taken.
    rng : random.Random
        What makes every choice.
    """
    names = sorted(sample.files)
    if len(names) > 1 and rng.random() < 0.05:
        name = rng.choice(names)
        return sample.lacking(name), f"{name}: left out"
    told_apart = [each for each in names if structure.known(sample.files[each])] if len(names) > 1 else []
    name = rng.choice(told_apart if told_apart and rng.random() < 0.6 else names)
    content, told = sample.files[name], []
    if rng.random() < 0.75:
        content, what = structure.changed(content, rng, damaged)
        told += [what] if what else []
    if not told or rng.random() < 0.15:
        content, more = _damaged_with(content, _pieces(name, others), rng)
        told += more
    return sample.having(name, content), f"{name}: {', '.join(told)}"


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return bytes with a few changes."""
    return _damaged_with(content, (), rng)[0]


def _pieces(name: str, others: Sequence[Sample]) -> list[bytes]:
    """Return the files of other samples that are called alike: the same kind of file."""
    ending = name.rpartition(".")[2]
    return [data for other in others for each, data in sorted(other.files.items()) if each.endswith(ending)]


def _damaged_with(content: bytes, others: Sequence[bytes], rng: random.Random) -> tuple[bytes, list[str]]:
    told = []
    for _ in range(rng.randint(1, _MOST_CHANGES)):
        if others and rng.random() < 0.1:
            content = _spliced(content, rng.choice(others), rng)
            told.append("spliced")
        else:
            change = rng.choice(_CHANGES)
            content = change(content, rng)
            told.append(change.__name__.strip("_"))
    return content, told


# -- changes ----------------------------------------------------------------------------------------------------------


def _bit_flipped(content: bytes, rng: random.Random) -> bytes:
    return _replaced(content, rng, lambda byte: byte ^ 1 << rng.randrange(8))


def _byte_set(content: bytes, rng: random.Random) -> bytes:
    return _replaced(content, rng, lambda byte: rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256))))


def _byte_counted(content: bytes, rng: random.Random) -> bytes:
    return _replaced(content, rng, lambda byte: (byte + rng.choice((-1, 1))) % 256)


def _replaced(content: bytes, rng: random.Random, change: Callable[[int], int]) -> bytes:
    if not content:
        return content
    place = _place(content, rng)
    return content[:place] + bytes([change(content[place])]) + content[place + 1 :]


def _number_set(content: bytes, rng: random.Random) -> bytes:
    """Set a whole number of 1, 2, 4 or 8 bytes, in one order of bytes or the other, to an extreme."""
    size = rng.choice((1, 2, 4, 4, 8, 8))
    place = _place(content, rng)
    if rng.random() < 0.7:  # most numbers in files are aligned
        place -= place % min(size, 4)
    number = rng.choice(EXTREMES) % (1 << 8 * size)
    data = number.to_bytes(size, "little") if rng.random() < 0.8 else number.to_bytes(size, "big")
    return content[:place] + data + content[place + size :]


def _float_set(content: bytes, rng: random.Random) -> bytes:
    place = _place(content, rng)
    number = struct.pack("<f", rng.choice((float("nan"), float("inf"), -0.0, 1e-45, 3e38)))
    return content[:place] + number + content[place + 4 :]


def _block_removed(content: bytes, rng: random.Random) -> bytes:
    start, stop = _block(content, rng)
    return content[:start] + content[stop:]


def _block_doubled(content: bytes, rng: random.Random) -> bytes:
    start, stop = _block(content, rng)
    return content[:stop] + content[start:stop] + content[stop:]


def _block_zeroed(content: bytes, rng: random.Random) -> bytes:
    start, stop = _block(content, rng)
    return content[:start] + bytes(stop - start) + content[stop:]


def _block_randomized(content: bytes, rng: random.Random) -> bytes:
    start, stop = _block(content, rng)
    return content[:start] + rng.randbytes(stop - start) + content[stop:]


def _blocks_swapped(content: bytes, rng: random.Random) -> bytes:
    first, second = sorted((_block(content, rng), _block(content, rng)))
    if first[1] > second[0]:
        return _block_removed(content, rng)
    return b"".join(
        (content[: first[0]], content[slice(*second)], content[first[1] : second[0]], content[slice(*first)],
         content[second[1] :])
    )  # fmt: skip


def _truncated(content: bytes, rng: random.Random) -> bytes:
    return content[: _place(content, rng)]


def _prolonged(content: bytes, rng: random.Random) -> bytes:
    return content + rng.choice((bytes(8), rng.randbytes(16), content[-64:], content[:64]))


def _spliced(content: bytes, other: bytes, rng: random.Random) -> bytes:
    """Go on with another file, at the same place or anywhere."""
    place = _place(content, rng)
    return content[:place] + other[place if rng.random() < 0.5 else _place(other, rng) :]


_CHANGES: tuple[Change, ...] = (
    *(_bit_flipped, _byte_set, _byte_counted, _number_set, _number_set, _number_set, _float_set, _block_removed),
    *(_block_doubled, _block_zeroed, _block_randomized, _blocks_swapped, _truncated, _prolonged),
)


def _place(content: bytes, rng: random.Random) -> int:
    """Return a place in a file: anywhere, or near one of its ends, where headers and indices stand."""
    if not content:
        return 0
    near = min(len(content), 128)
    kind = rng.random()
    if kind < 0.3:
        return rng.randrange(near)
    if kind < 0.45:
        return len(content) - 1 - rng.randrange(near)
    return rng.randrange(len(content))


def _block(content: bytes, rng: random.Random) -> tuple[int, int]:
    start = _place(content, rng)
    size = rng.choice((1, 2, 4, 8, 16, 64, 256, rng.randint(1, max(1, len(content)))))
    return start, min(len(content), start + size)

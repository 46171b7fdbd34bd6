"""Two files that should hold the same networks: their weights bit for bit, and what they compute."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from rnnx.archive import Archive, Array, Part
from rnnx.errors import WeightFormatError
from rnnx.registry import get_backend
from rnnx.spelling import plain_leaves
from rnnx.trials import Form, in_dtype_of, measured, random_trial
from rnnx.verification import Difference, difference
from rnnx.weights.stored import same_bits

__all__ = ["Comparison", "PartComparison", "compared"]


@dataclasses.dataclass(frozen=True)
class PartComparison:
    """A recurrent part of one file beside that of the other.

    Parameters
    ----------
    name, other : str
        What it is called in the one and in the other.
    computed : Difference
        The largest differences of outputs and final states over the same random inputs and initial states, on NumPy.
    weights : int
        How many weights of single gates there are.
    differing : tuple of str
        Those that are not the same bit for bit, as the one file calls them.
    """

    name: str
    other: str
    computed: Difference
    weights: int
    differing: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `compared` found: each part, and the names of other arrays and files that are not the same."""

    parts: tuple[PartComparison, ...]
    differing: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether every weight, array and file is the same bit for bit."""
        return not self.differing and not any(part.differing for part in self.parts)

    @property
    def agrees(self) -> bool:
        """Whether the networks compute the same, to rounding, and all else is the same bit for bit."""
        return not self.differing and all(part.computed.agrees for part in self.parts)


def compared(one: Archive, other: Archive) -> Comparison:
    """Compare two files, part by part: those whose weights are called alike, or else in their order.

    Raises
    ------
    WeightFormatError
        If they do not have the same number of parts.
    """
    if len(one.parts) != len(other.parts):
        names = [", ".join(map(repr, archive.parts)) or "none" for archive in (one, other)]
        raise WeightFormatError(f"the files have other recurrent parts: {names[0]} and {names[1]}")
    parts = tuple(_compared(name, one.parts[name], again, other.parts[again]) for name, again in _pairs(one, other))
    return Comparison(parts, tuple(_differing(one.extra, other.extra)) + tuple(_differing(one.files, other.files)))


def _pairs(one: Archive, other: Archive) -> list[tuple[str, str]]:
    names = {frozenset(part.shapes): name for name, part in other.parts.items()}
    alike = [(name, names.get(frozenset(part.shapes))) for name, part in one.parts.items()]
    if len({again for _, again in alike}) == len(one.parts) and all(again is not None for _, again in alike):
        return [(name, again) for name, again in alike if again is not None]
    return list(zip(one.parts, other.parts, strict=True))


def _compared(name: str, part: Part, again: str, its: Part) -> PartComparison:
    trial = random_trial(part.cell)
    its_trial = in_dtype_of(its.cell, trial)
    wanted = measured(get_backend("numpy"), Form(name, part.cell), trial).whole
    found = measured(get_backend("numpy"), Form(again, its.cell), its_trial).whole
    mine, theirs = _in_order(part), _in_order(its)
    differing = [
        weight
        for weight, other in zip(mine, theirs, strict=False)
        if not _same(part.weights[weight], its.weights[other])
    ]
    computed = difference(found, wanted, its_trial.tolerance)
    return PartComparison(name, again, computed, len(mine), tuple(differing))


def _in_order(part: Part) -> list[str]:
    """Return the names of a part's weights, layer by layer, in one order for fused and unfused trees."""
    return [name for leaf in plain_leaves(part.tree()) for name in leaf.gate_shapes(1)]


def _differing(one: Mapping[str, Array | bytes], other: Mapping[str, Array | bytes]) -> Iterator[str]:
    for name in sorted({*one, *other}):
        if name not in one or name not in other or not _same(one[name], other[name]):
            yield name


def _same(one: Array | bytes, other: Array | bytes) -> bool:
    if isinstance(one, bytes) or isinstance(other, bytes):
        return one == other
    return same_bits(one, other)

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
    """Compare what was meant with what is there: parts by the names of their weights, or else by their shapes.

    Raises
    ------
    WeightFormatError
        If the other file has no weights for a part.
    """
    parts = tuple(_compared(name, part, *_counterpart(name, part, other)) for name, part in one.parts.items())
    files = {name: other.files.get(name, b"") for name in one.files}
    return Comparison(parts, tuple(_differing(one.extra, other.extra)) + tuple(_differing(one.files, files)))


def _counterpart(name: str, part: Part, other: Archive) -> tuple[str, Part]:
    """Return the other file's part for one, and its name; its weights may be grouped otherwise there."""
    for again, its in other.parts.items():
        if its.shapes.keys() == part.shapes.keys():
            return again, its
    weights = {weight: array for its in other.parts.values() for weight, array in its.weights.items()}
    if part.shapes.keys() <= weights.keys():
        return name, Part(part.spec, {weight: weights[weight] for weight in part.shapes})
    shapes = [part.shapes[weight] for weight in _in_order(part)]
    alike = [each for each in other.parts.items() if [each[1].shapes[w] for w in _in_order(each[1])] == shapes]
    if not alike:
        there = ", ".join(map(repr, other.parts)) or "none"
        raise WeightFormatError(f"the file written has no part with the weights of {name!r}; it has {there}")
    return max(alike, key=lambda each: len(shapes) - len(list(_others(part, each[1]))))


def _others(part: Part, its: Part) -> Iterator[str]:
    """Yield the weights of a part that are not the same bit for bit in another of the same shapes."""
    for weight, other in zip(_in_order(part), _in_order(its), strict=True):
        if not same_bits(part.weights[weight], its.weights[other]):
            yield weight


def _compared(name: str, part: Part, again: str, its: Part) -> PartComparison:
    trial = random_trial(part.cell)
    its_trial = in_dtype_of(its.cell, trial)
    wanted = measured(get_backend("numpy"), Form(name, part.cell), trial).whole
    found = measured(get_backend("numpy"), Form(again, its.cell), its_trial).whole
    differing = tuple(_others(part, its))
    computed = difference(found, wanted, its_trial.tolerance)
    return PartComparison(name, again, computed, len(part.shapes), differing)


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

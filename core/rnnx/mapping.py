"""What becomes of what in a conversion: names to names, and shapes to shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from rnnx.archive import Archive, Format, Part
from rnnx.weights.stored import Shape, Stored

__all__ = ["Mapped", "mapped"]


@dataclasses.dataclass(frozen=True)
class Mapped:
    """One tensor of the file to be written.

    Parameters
    ----------
    name : str
        What it will be called.
    shape : tuple of int
        Its shape.
    sources : mapping of str to tuple of int
        The tensors of the file read that its numbers stand in, and their shapes; none, where it is all zeros that no
        tensor of that file holds.
    part : str or None
        The recurrent part it belongs to.
    """

    name: str
    shape: Shape
    sources: dict[str, Shape]
    part: str | None = None


def mapped(source: Archive, content: Archive, target: Format) -> list[Mapped]:
    """Return, for each tensor that the target will hold, the tensors of the source that it is made of."""
    layouts = target.layouts(content)
    found = [each for name in content.parts for each in _of_part(name, source, content.parts[name], layouts[name])]
    return found + [Mapped(name, array.shape, {name: array.shape}) for name, array in content.extra.items()]


def _of_part(name: str, source: Archive, part: Part, layout: Sequence[Stored]) -> Iterator[Mapped]:
    held = {block.weight: stored for stood in source.stood.values() for stored in stood for block in stored.blocks}
    # A weight may have been renamed on the way, and stands where it stood.
    before = source.parts[name].weights if name in source.parts else part.weights
    origin = dict(zip(part.weights, before, strict=True))
    for stored in layout:
        weights = [each for block in stored.blocks for each in (block.weight, block.addend) if each is not None]
        places = (held.get(origin[weight]) for weight in weights)
        yield Mapped(stored.name, stored.shape, {each.name: each.shape for each in places if each is not None}, name)

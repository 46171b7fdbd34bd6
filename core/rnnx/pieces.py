"""A tree of cells as the pieces that run one after the other, for whoever builds it anew of a framework's layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from rnnx.errors import UnsupportedError
from rnnx.found import name_of
from rnnx.fusion import layers_of
from rnnx.spec import CellSpec

__all__ = ["Directions", "Dropout", "Piece", "Residual", "Stack", "pieces_of", "walk"]


@dataclasses.dataclass(frozen=True)
class Stack:
    """Layers one on the other, with dropout between.

    A tree's own pieces have one layer each; who builds of layers that are several deep joins them.
    """

    layers: tuple[CellSpec, ...]
    dropout: float = 0.0


@dataclasses.dataclass(frozen=True)
class Dropout:
    """Dropout on what comes from below, in training."""

    rate: float
    prefix: str = ""


@dataclasses.dataclass(frozen=True)
class Residual:
    """Pieces whose inputs are added to their outputs."""

    inner: tuple[Piece, ...]


@dataclasses.dataclass(frozen=True)
class Directions:
    """Pieces over the same inputs, the second ones backward in time, with their outputs side by side."""

    forward: tuple[Piece, ...]
    backward: tuple[Piece, ...]
    prefix: str = ""


Piece = Stack | Dropout | Residual | Directions


def pieces_of(spec: CellSpec, inference: bool, layer: str, trainer: str) -> Iterator[Piece]:
    """Yield the pieces of a tree, the bottom one first.

    Parameters
    ----------
    spec : CellSpec
        The tree. Fused cells are taken apart; what is neither a container nor a modifier becomes a `Stack` of its own.
    inference : bool
        Whether to leave out what acts in training only, dropout and zoneout.
    layer : str
        What the framework calls its layers, for an error: ``"layer of Keras"``.
    trainer : str
        What trains with zoneout, for an error.

    Raises
    ------
    UnsupportedError
        For zoneout, unless `inference` is set: it acts between the steps, where no framework's layer lets anyone in.
        And for fused cells of several prefixes that share a vector: what is in it has no name that is theirs alone.
    """
    _refuse_shared_vectors(spec)
    for cell in layers_of(spec):
        inner = [tuple(pieces_of(child, inference, layer, trainer)) for child in cell.children]
        if cell.kind == "ZoneoutCell":
            if any(cell.fields.values()) and not inference:
                raise UnsupportedError(
                    f"the ZoneoutCell around {name_of(cell)!r} acts between the steps in training, and no {layer} "
                    f"does: inference=True leaves it out; {trainer} trains with it"
                )
            yield from inner[0]
        elif cell.kind == "ResidualCell":
            yield Residual(inner[0])
        elif cell.kind == "BidirectionalCell":
            yield Directions(inner[0], inner[1], cell.fields["output_prefix"])
        elif cell.kind != "DropoutCell":
            yield Stack((cell,))
        elif cell.fields["dropout"] and not inference:
            yield Dropout(cell.fields["dropout"], cell.fields["prefix"])


def _refuse_shared_vectors(spec: CellSpec) -> None:
    owners: dict[str, str] = {}
    for cell in spec.walk():
        if cell.kind == "FusedRNNCell":
            prefix = cell.fields["prefix"]
            vector = cell.fields.get("params", prefix)
            owner = owners.setdefault(vector, prefix)
            if owner != prefix:
                raise UnsupportedError(
                    f"the FusedRNNCell {prefix!r} shares its vector of weights, {vector!r}, with the FusedRNNCell "
                    f"{owner!r}: give both the same prefix"
                )


def walk(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Yield the pieces and all within them, in the order in which they are written."""
    for piece in pieces:
        yield piece
        if isinstance(piece, Residual):
            yield from walk(piece.inner)
        if isinstance(piece, Directions):
            yield from walk(piece.forward + piece.backward)

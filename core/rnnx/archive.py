"""What a file of weights holds, whatever its format: recurrent parts, every other array, and files kept as they are."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from rnnx.cells import BaseRNNCell
from rnnx.errors import WeightFormatError, nearest
from rnnx.found import Assumptions, Found
from rnnx.registry import get_backend
from rnnx.spec import GATES
from rnnx.weights.layout import GROUPS, reorder_gates

__all__ = ["Archive", "Document", "Format", "Part", "assembled", "assembled_as", "selected"]

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Document:
    """A file as it was read, before its recurrent parts are looked for.

    Parameters
    ----------
    arrays : mapping of str to array
        Every array by its name, recurrent weights under the names of `mxnet.rnn`.
    files : mapping of str to bytes
        What stands beside the arrays and is kept byte for byte, such as ``symbol.json``.
    notes : mapping of str to str
        What a format needs to know to write the file again as it was.
    """

    arrays: Mapping[str, Array]
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Part:
    """A recurrent part, with its weights on the NumPy backend."""

    cell: BaseRNNCell
    evidence: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Archive:
    """What a file holds: parts by name, arrays that are no part's, files and notes as in `Document`."""

    parts: Mapping[str, Part]
    extra: Mapping[str, Array]
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Format(abc.ABC):
    """A file format, read into documents and written from archives."""

    #: The name that users type.
    name: str
    #: Endings by which the format of a file to be written is chosen.
    suffixes: tuple[str, ...] = ()

    @abc.abstractmethod
    def recognises(self, path: Path, head: bytes) -> bool:
        """Say whether a file is of this format, by its first bytes."""

    @abc.abstractmethod
    def read(self, path: Path) -> Document:
        """Read a file.

        Raises
        ------
        WeightFormatError
            If it is damaged.
        """

    @abc.abstractmethod
    def find(self, document: Document, assume: Assumptions) -> Sequence[Found]:
        """Return the document's recurrent parts.

        Raises
        ------
        WeightFormatError
            If something about them must be assumed and is not.
        """

    @abc.abstractmethod
    def write(self, path: Path, archive: Archive) -> None:
        """Write a file, whole or not at all; refuse what the format cannot hold."""


def assembled(document: Document, found: Sequence[Found]) -> Archive:
    """Return the archive of a document: each part that was found, built and loaded, and all that is left over.

    Raises
    ------
    WeightFormatError
        If a part's weights are missing or misshaped.
    """
    arrays = _as_named_today(document.arrays, found)
    parts, used = {}, set()
    for each in found:
        cell = BaseRNNCell.from_spec(each.spec)
        used |= _loaded(cell, arrays)
        parts[each.name] = Part(cell, each.evidence)
    return Archive(parts, _without(arrays, used), document.files, document.notes)


def assembled_as(document: Document, found: Sequence[Found], cell: BaseRNNCell) -> Archive:
    """Return the archive whose one part is the user's own cell; what was found tells the stored gate order only."""
    arrays = _as_named_today(document.arrays, found)
    used = _loaded(cell, arrays)
    return Archive({"cell": Part(cell, ("the cell tree was given",))}, _without(arrays, used), document.files)


def _loaded(cell: BaseRNNCell, arrays: Mapping[str, Array]) -> set[str]:
    """Load the cell's weights from among the arrays, and return the names of those used."""
    accepted = {name for leaf in cell.leaves() for name in leaf.accepted_names()}
    if cell.spec.kind == "SequentialRNNCell":
        accepted |= {name for name in arrays if name.endswith("parameters")}
    used = {name for name in arrays if name in accepted}
    cell.load_params({name: arrays[name] for name in used})
    return used


def _without(arrays: Mapping[str, Array], used: set[str]) -> dict[str, Array]:
    return {name: array for name, array in arrays.items() if name not in used}


def _as_named_today(arrays: Mapping[str, Array], found: Sequence[Found]) -> dict[str, Array]:
    """Return the arrays with weights under the names, and gates in the order, of today's cells."""
    renames = {old: new for each in found for old, new in each.renames.items()}
    named = {renames.get(name, name): array for name, array in arrays.items()}
    for prefix, stored in {key: order for each in found for key, order in each.gate_order.items()}.items():
        wanted = next(order for order in GATES.values() if sorted(order) == sorted(stored))
        for name in (prefix + group for group in GROUPS):
            if name in named:
                named[name] = reorder_gates(get_backend("numpy"), named[name], stored, wanted)
    return named


def selected(archive: Archive, select: str | None, source: object) -> Part:
    """Return the one recurrent part, or the one called `select`.

    Raises
    ------
    WeightFormatError
        If there is none, there are several, or none is called so; the message lists them.
    """
    names = ", ".join(map(repr, archive.parts)) or "none"
    if select is not None:
        if select not in archive.parts:
            raise WeightFormatError(
                f"{source} has no recurrent part {select!r}{nearest(select, archive.parts)}; it has {names}"
            )
        return archive.parts[select]
    if not archive.parts:
        raise WeightFormatError(f"no recurrent weights were found in {source}: give the cell tree as cell=")
    if len(archive.parts) > 1:
        raise WeightFormatError(f"{source} has several recurrent parts, {names}: give select=, or use load_all()")
    return next(iter(archive.parts.values()))

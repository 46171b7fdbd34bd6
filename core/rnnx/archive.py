"""What a file of weights holds, whatever its format: recurrent parts, every other array, and files kept as they are."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from rnnx.cells import BaseRNNCell
from rnnx.errors import RNNXError, WeightFormatError, nearest
from rnnx.found import Assumptions, Found

__all__ = ["Archive", "Array", "Document", "Format", "Part", "naming", "selected"]

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

    def told(self, document: Document) -> Sequence[Found]:
        """Return what a document tells of weights whose cell tree the user gives: names and orders of gates."""
        return ()

    @abc.abstractmethod
    def write(self, path: Path, archive: Archive) -> None:
        """Write a file, whole or not at all; refuse what the format cannot hold."""


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


@contextlib.contextmanager
def naming(path: object) -> Iterator[None]:
    """Let every error about a file's content say which file it is."""
    try:
        yield
    except RNNXError as error:
        if not str(error).startswith(str(path)):
            error.args = (f"{path}: {error}",)
        raise

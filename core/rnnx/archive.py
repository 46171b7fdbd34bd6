"""What a file of weights holds, whatever its format: recurrent parts, every other array, and files kept as they are."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from rnnx.cells import BaseRNNCell
from rnnx.errors import RNNXError, WeightFormatError, nearest
from rnnx.found import Assumptions, Found
from rnnx.spec import CellSpec
from rnnx.spelling import spelled
from rnnx.weights.stored import Stored, shapes_of

__all__ = ["Accepted", "Archive", "Array", "Document", "Format", "Part", "naming", "selected"]

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class Document:
    """A file as it was read, before its recurrent parts are looked for.

    Parameters
    ----------
    arrays : mapping of str to array
        Every array by the name that the file gives it.
    files : mapping of str to bytes
        What stands beside the arrays and is kept byte for byte, such as ``symbol.json``.
    notes : mapping of str to str
        What a format needs to know to write the file again as it was.
    """

    arrays: Mapping[str, Array]
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every array by name."""
        return {name: array.shape for name, array in self.arrays.items()}


class Part:
    """A recurrent part: the description of a cell tree, and its weights.

    Parameters
    ----------
    spec : CellSpec
        The tree.
    weights : mapping of str to array
        Every weight of a single gate, under the names and in the shapes of ``unpack_weights``; views of a file, as
        long as nobody asks for `cell`.
    evidence : tuple of str
        Why the part is taken for what it is.
    given : BaseRNNCell, optional
        The user's own cell that the part is.
    """

    def __init__(
        self,
        spec: CellSpec | None,
        weights: Mapping[str, Array],
        evidence: tuple[str, ...] = (),
        given: BaseRNNCell | None = None,
    ) -> None:
        self._spec = spec
        self.weights = weights
        self.evidence = evidence
        self._given = given

    @classmethod
    def of(cls, cell: BaseRNNCell, evidence: tuple[str, ...] = ()) -> Part:
        """Return the part that a cell with weights is."""
        return cls(None, cell.unpack_weights(cell.get_params()), evidence, cell)

    @property
    def given(self) -> BaseRNNCell | None:
        """The user's own cell that the part is, if it is one."""
        return self._given

    @property
    def spec(self) -> CellSpec:
        """The description of the tree; `UnsupportedError` if it is the user's own and has none."""
        return self._spec or self.tree().spec

    @functools.cached_property
    def cell(self) -> BaseRNNCell:
        """The cell tree with its weights, on the NumPy backend unless it is the user's own."""
        cell = self.tree()
        if self._given is None and self.weights:
            cell.load_params(self.weights)
        return cell

    @functools.cached_property
    def input_size(self) -> int:
        """The width of the part's inputs, as its weights tell it."""
        return spelled(self.tree(), self.shapes)[0]

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every weight by name."""
        return shapes_of(self.weights)

    @functools.cached_property
    def weight_dtype(self) -> str:
        """The name of the weights' dtype; empty without weights."""
        return next((self.weights[name].dtype.name for name in self.weights), "")

    def tree(self) -> BaseRNNCell:
        """Return the cell tree, with or without its weights."""
        if self._given is not None:
            return self._given
        assert self._spec is not None
        return BaseRNNCell.from_spec(self._spec)


@dataclasses.dataclass(frozen=True)
class Accepted:
    """Losses that a user accepts in a conversion.

    Parameters
    ----------
    merge_biases : bool
        Whether two biases may be added where the format has one a gate.
    """

    merge_biases: bool = False


@dataclasses.dataclass(frozen=True)
class Archive:
    """What a file holds: parts by name, arrays that are no part's, files and notes as in `Document`.

    Where it was read from a file, `stood` tells how that file's tensors were made of each part's weights.
    """

    parts: Mapping[str, Part]
    extra: Mapping[str, Array]
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stood: Mapping[str, Sequence[Stored]] = dataclasses.field(default_factory=dict)


class Format(abc.ABC):
    """A file format, read into documents and written from archives."""

    #: The name that users type.
    name: str
    #: Endings by which the format of a file to be written is chosen.
    suffixes: tuple[str, ...] = ()
    #: Whether its files tell what networks they hold, so that they can be read without naming the tree.
    describes: bool = True

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

    def spelled(self, document: Document, cell: BaseRNNCell) -> tuple[int, Sequence[Stored]] | None:
        """Return how a file's tensors are made of the weights of a tree that the user gives, told by their names.

        Before it stands the width of the tree's inputs. None, where a format's names do not tell: the weights of the
        parts that are found then go to the tree's cells in order.
        """
        return None

    @abc.abstractmethod
    def layouts(self, archive: Archive) -> Mapping[str, Sequence[Stored]]:
        """Return how the format stores the weights of each part, by the part's name.

        Raises
        ------
        UnsupportedError
            If the format has nothing that computes what a part does; the message names the cell.
        """

    @abc.abstractmethod
    def write(self, path: Path, archive: Archive, accepted: Accepted) -> None:
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

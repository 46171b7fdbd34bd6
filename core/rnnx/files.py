"""Files of weights, read and written in any format: `load`, `load_all`, `infer`, `save`, `convert`."""

from __future__ import annotations

import dataclasses
import errno
import glob
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rnnx.archive import Accepted, Archive, Array, Document, Format, Part, naming, selected
from rnnx.assembly import activation_in, assembled, assembled_as, fitted
from rnnx.cells import BaseRNNCell, placement
from rnnx.discovery import resolved
from rnnx.errors import WeightFormatError, nearest
from rnnx.found import NOTHING, Assumptions, name_of, named
from rnnx.mapping import Mapped, mapped
from rnnx.registry import backend_of, list_formats
from rnnx.reshaping import Changes, changed

__all__ = [
    "Conversion",
    "convert",
    "converted",
    "format_for",
    "infer",
    "load",
    "load_all",
    "read_archive",
    "save",
]

PathLike = str | os.PathLike[str]

#: How many bytes of a file its format is told by.
_HEAD = 64


def save(path: PathLike, cell: BaseRNNCell, extra: Mapping[str, Array] | None = None) -> None:
    """Write a cell tree and its weights to a portable file, whole or not at all.

    Parameters
    ----------
    path : path
        Any name; ``.rnnx`` or ``.safetensors`` are usual.
    cell : BaseRNNCell
        The tree. A cell class of your own is written too; `load` then needs ``cell=``.
    extra : mapping of str to array, optional
        Every array that is no cell's, such as embeddings.

    Raises
    ------
    WeightFormatError
        If a weight has no value yet, an extra array is called as a weight may be, or a dtype has no place in the file.
    """
    for name, value in placement.values(cell).items():
        if value is None:
            raise WeightFormatError(
                f"weight {name!r} has no value yet: call initialize() or load_params() before saving the cell"
            )
    arrays = {name: backend_of([array]).to_numpy(array) for name, array in (extra or {}).items()}
    _format("rnnx").write(Path(path), Archive({name_of(cell.spec) or "cell": Part.of(cell)}, arrays), Accepted())


def load(
    path: PathLike,
    cell: BaseRNNCell | None = None,
    select: str | None = None,
    backend: str | None = None,
    *,
    activation: str | None = None,
    forget_bias: float | None = None,
    from_: str | None = None,
    stack: bool = False,
) -> tuple[BaseRNNCell, dict[str, Array]]:
    """Read a cell tree with its weights, and every other array, from a file of any format.

    Parameters
    ----------
    path : path
        A file of any format: a portable one, an MXNet checkpoint's ``prefix-0001.params`` (with ``prefix-symbol.json``
        beside it or not), or one of another framework.
    cell : BaseRNNCell, optional
        The tree, where the file does not tell it; its weights are loaded in place, and it is returned. They are found
        by the names that the tree gives them, or in files of other frameworks by the places of its cells, or in order.
    select : str, optional
        Which recurrent part, where the file has several.
    backend : str, optional
        Where the weights are to live; NumPy otherwise.
    activation : str, optional
        The plain recurrent cells' activation, where the file does not tell it.
    forget_bias : float, optional
        What the code that made a TensorFlow 1 checkpoint adds to the forget gates when it runs.
    from_ : str, optional
        The format; told by the file's content otherwise.
    stack : bool
        Whether several parts make one tree, each reading what the one before it makes.

    Returns
    -------
    cell : BaseRNNCell
        The tree, with its weights.
    extra : dict of str to array
        Every array that is no cell's: read-only NumPy arrays, mapped from the file. The file may be replaced while they
        are in use, but not written into.

    Raises
    ------
    WeightFormatError
        If the file is damaged or of no known format, has no recurrent part or several, or does not tell something; the
        message says what, and what to give.
    """
    archive = read_archive(path, cell, Assumptions(activation, forget_bias), from_, (select,) if select else ())
    if stack:
        archive = changed(archive, Changes(stack=True, drop_files=True), path)
    part = selected(archive, None if cell is not None else select, path)
    if backend is not None:
        part.cell.to(backend)
    return part.cell, dict(archive.extra)


def load_all(
    path: PathLike, *, activation: str | None = None, forget_bias: float | None = None, from_: str | None = None
) -> dict[str, BaseRNNCell]:
    """Return every recurrent part of a file by name; see `load`."""
    parts = infer(path, activation=activation, forget_bias=forget_bias, from_=from_)
    return {name: part.cell for name, part in parts.items()}


def infer(
    path: PathLike,
    *,
    activation: str | None = None,
    forget_bias: float | None = None,
    from_: str | None = None,
) -> dict[str, Part]:
    """Return every recurrent part of a file by name: the cell tree it is taken for, and why.

    Parameters
    ----------
    path, activation, forget_bias
        As in `load`.
    from_ : str, optional
        The format; told by the file's content otherwise.

    Returns
    -------
    dict of str to Part
        Of each, ``spec`` is the tree's description, ``evidence`` a sentence for each decision, ``weights`` the arrays
        of single gates, and ``cell`` the tree with its weights.

    Raises
    ------
    WeightFormatError
        As in `load`, but for a file with several recurrent parts or none.
    """
    return dict(read_archive(path, None, Assumptions(activation, forget_bias), from_).parts)


def convert(
    src: PathLike,
    dst: PathLike,
    to: str | None = None,
    from_: str | None = None,
    *,
    cell: BaseRNNCell | None = None,
    activation: str | None = None,
    forget_bias: float | None = None,
    select: str | Sequence[str] | None = None,
    prefix: str | None = None,
    fuse: bool = False,
    unfuse: bool = False,
    dtype: str | None = None,
    merge_biases: bool = False,
    drop_files: bool = False,
    weights_only: bool = False,
    stack: bool = False,
) -> Archive:
    """Write what one file holds to another, of the same or another format, and return what was written.

    Parameters
    ----------
    src, dst : path
        What to read, and what to write.
    to : str, optional
        The format to write; told by the ending of `dst` otherwise.
    from_ : str, optional
        The format to read; told by the file's content otherwise.
    cell, activation, forget_bias
        As in `load`.
    select : str or sequence of str, optional
        Write this recurrent part only, or these, and nothing else of the file.
    prefix : str, optional
        What the names of the recurrent weights are to begin with; it takes the place of what they have in common.
    fuse, unfuse : bool
        Whether to write every part as one fused cell, or every fused cell as a stack of plain ones.
    dtype : str, optional
        The dtype of the recurrent weights, such as ``"float64"``.
    merge_biases : bool
        Add the two biases of a gate where the target has one. What the network computes stays the same to rounding.
    drop_files : bool
        Leave out what stands beside the arrays, such as MXNet's symbol file, which cannot be rewritten and describes
        the network as it was.
    weights_only : bool
        Leave out residual connections, dropout and zoneout, where the weights are for a program that has them in code.
    stack : bool
        Make one part of several, each reading what the one before it makes: files of weights do not tell that.

    Raises
    ------
    WeightFormatError
        If something would be lost; the message says what, and which option accepts it.
    UnsupportedError
        If a part has no fused form, or the target has nothing that computes the same.
    """
    names = (select,) if isinstance(select, str) else tuple(select or ())
    changes = Changes(names, prefix, fuse, unfuse, dtype, drop_files, weights_only, stack)
    target = format_for(dst, to)
    archive = read_archive(src, cell, Assumptions(activation, forget_bias), from_, names)
    conversion = converted(archive, src, dst, target, changes)
    conversion.write(Accepted(merge_biases))
    return conversion.content


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A conversion that is ready to be written: the content of the file read, and that of the file to be."""

    source: Archive
    content: Archive
    format: Format
    path: Path

    def write(self, accepted: Accepted) -> None:
        """Write the file, whole or not at all."""
        with naming(self.path):
            self.format.write(self.path, self.content, accepted)

    def mapped(self, accepted: Accepted) -> list[Mapped]:
        """Return which tensors the file's tensors will be made of; errors as of `write`.

        A file is written, to a temporary folder: no other way tells as much of what a format refuses.
        """
        with naming(self.path), tempfile.TemporaryDirectory(prefix="rnnx-") as folder:
            self.format.write(Path(folder) / self.path.name, self.content, accepted)
        return mapped(self.source, self.content, self.format)


def converted(archive: Archive, src: PathLike, dst: PathLike, target: Format, changes: Changes) -> Conversion:
    """Return the conversion of what was read from `src` to a file `dst`; see `convert`."""
    if any(part.given is not None for part in archive.parts.values()):
        changes = dataclasses.replace(changes, select=())  # which part it is was said when it was read
    return Conversion(archive, changed(archive, changes, src), target, Path(dst))


def format_for(dst: PathLike, to: str | None) -> Format:
    """Return the format to write: the one named, or else the one that the ending tells.

    Raises
    ------
    WeightFormatError
        If there is none.
    """
    return _format(to) if to else _format_of_suffix(Path(dst))


def read_archive(
    path: PathLike,
    cell: BaseRNNCell | None = None,
    assume: Assumptions = NOTHING,
    from_: str | None = None,
    select: Sequence[str] = (),
) -> Archive:
    """Return everything that a file holds; see `load`. Parts are selected only for a cell that is given."""
    place = Path(path)
    source = _format(from_) if from_ else _format_of_content(place)
    with naming(place):
        document = source.read(place)
        if cell is None:
            return assembled(document, source.find(document, assume), source.name)
        return _read_as(source, document, assume, cell, select)


def _read_as(
    source: Format, document: Document, assume: Assumptions, cell: BaseRNNCell, select: Sequence[str]
) -> Archive:
    told = source.spelled(document, cell)
    if told is None:
        # What the tree tells need not be said again.
        assume = dataclasses.replace(assume, activation=assume.activation or activation_in(cell))
        found = source.find(document, assume)
        if select:
            found = [named(found, name) for name in select]
        part = fitted(found, cell)
        told = part.input_size, part.stored
    return assembled_as(document, cell, *told, source.name)


def _format(name: str) -> Format:
    known = {info.name: info for info in list_formats()}
    if name not in known:
        raise WeightFormatError(f"no format is called {name!r}{nearest(name, known)}; there are {', '.join(known)}")
    return _made(known[name].target)


def _made(target: str) -> Format:
    made = resolved(target)()
    assert isinstance(made, Format), f"{target} is no rnnx.archive.Format"
    return made


def _format_of_content(path: Path) -> Format:
    head = _head(path)
    formats = [_made(info.target) for info in list_formats()]
    for known in formats:
        if known.recognises(path, head):
            return known
    if not head and path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a directory, and none that a format knows", str(path))
    names = ", ".join(known.name for known in formats)
    raise WeightFormatError(f"{path} is of no known format ({names}); it begins with {head[:8]!r}")


def _head(path: Path) -> bytes:
    """Return how a file begins; nothing of a directory, or of what is only the beginning of several files' names."""
    if path.is_dir() or (not path.exists() and any(path.parent.glob(f"{glob.escape(path.name)}.*"))):
        return b""
    with path.open("rb") as file:
        return file.read(_HEAD)


def _format_of_suffix(path: Path) -> Format:
    formats = [_made(info.target) for info in list_formats()]
    for known in formats:
        if path.suffix in known.suffixes:
            return known
    endings = ", ".join(suffix for known in formats for suffix in known.suffixes)
    raise WeightFormatError(f"the ending of {path} tells no format: use one of {endings}, or to= (--to)")

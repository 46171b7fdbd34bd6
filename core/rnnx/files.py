"""Files of weights, read and written in any format: `load`, `load_all`, `save`, `convert`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from rnnx.archive import Archive, Array, Format, Part, naming, selected
from rnnx.assembly import STORED, assembled, assembled_as
from rnnx.cells import BaseRNNCell, placement
from rnnx.cells.arguments import FLOATING
from rnnx.discovery import resolved
from rnnx.errors import UnsupportedError, WeightFormatError, nearest
from rnnx.found import Assumptions, name_of
from rnnx.fusion import fused_spec, unfused_spec
from rnnx.registry import backend_of, list_formats
from rnnx.spec import CellSpec

__all__ = ["convert", "load", "load_all", "read_archive", "save"]

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
    _format("rnnx").write(Path(path), Archive({name_of(cell.spec) or "cell": Part(cell)}, arrays))


def load(
    path: PathLike,
    cell: BaseRNNCell | None = None,
    select: str | None = None,
    backend: str | None = None,
    *,
    activation: str | None = None,
) -> tuple[BaseRNNCell, dict[str, Array]]:
    """Read a cell tree with its weights, and every other array, from a file of any format.

    Parameters
    ----------
    path : path
        A portable file, or an MXNet checkpoint's ``prefix-0001.params`` (with ``prefix-symbol.json`` beside it or not).
    cell : BaseRNNCell, optional
        The tree, where the file does not tell it; its weights are loaded in place, and it is returned.
    select : str, optional
        Which recurrent part, where the file has several.
    backend : str, optional
        Where the weights are to live; NumPy otherwise.
    activation : str, optional
        The plain recurrent cells' activation, where the file does not tell it.

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
    archive = read_archive(path, cell, activation)
    part = selected(archive, select, path)
    if backend is not None:
        part.cell.to(backend)
    return part.cell, dict(archive.extra)


def load_all(path: PathLike, *, activation: str | None = None) -> dict[str, BaseRNNCell]:
    """Return every recurrent part of a file by name; see `load`."""
    return {name: part.cell for name, part in read_archive(path, None, activation).parts.items()}


def convert(
    src: PathLike,
    dst: PathLike,
    to: str | None = None,
    from_: str | None = None,
    *,
    cell: BaseRNNCell | None = None,
    activation: str | None = None,
    fuse: bool = False,
    unfuse: bool = False,
    dtype: str | None = None,
    drop_symbol: bool = False,
) -> Archive:
    """Write what one file holds to another, of the same or another format, and return what was written.

    Parameters
    ----------
    src, dst : path
        What to read, and what to write.
    to : str, optional
        The format to write; told by the ending of `dst` otherwise.
    from_ : str, optional
        The format to read; told by the file's first bytes otherwise.
    cell, activation
        As in `load`.
    fuse, unfuse : bool
        Whether to write every part as one fused cell, or every fused cell as a stack of plain ones.
    dtype : str, optional
        The dtype of the recurrent weights, such as ``"float64"``.
    drop_symbol : bool
        Leave out MXNet's symbol file, which cannot be rewritten and describes the network as it was.

    Raises
    ------
    WeightFormatError
        If something would be lost; the message says what, and which option accepts it.
    UnsupportedError
        If a part has no fused form.
    """
    if fuse and unfuse:
        raise UnsupportedError("fuse and unfuse undo each other: give one of them")
    target = _format(to) if to else _format_of_suffix(Path(dst))
    archive = read_archive(src, cell, activation, from_)
    if drop_symbol:
        archive = dataclasses.replace(archive, files={})
    parts = {name: _reshaped(part, fuse, unfuse, dtype) for name, part in archive.parts.items()}
    if archive.files and any(parts[name].cell is not archive.parts[name].cell for name in parts):
        raise WeightFormatError(
            f"the symbol file beside {src} describes the network as it is, and cannot be rewritten: "
            "drop_symbol=True (--drop-symbol) leaves it out"
        )
    if not archive.files and (fuse or unfuse or drop_symbol):
        archive = dataclasses.replace(archive, notes=_without_stored(archive))
    written = dataclasses.replace(archive, parts=parts)
    target.write(Path(dst), written)
    return written


def read_archive(
    path: PathLike, cell: BaseRNNCell | None = None, activation: str | None = None, from_: str | None = None
) -> Archive:
    """Return everything that a file holds; see `load`."""
    place, assume = Path(path), Assumptions(activation=activation)
    source = _format(from_) if from_ else _format_of_content(place)
    with naming(place):
        document = source.read(place)
        if cell is None:
            return assembled(document, source.find(document, assume))
        return assembled_as(document, source.told(document), cell)


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
    with path.open("rb") as file:
        head = file.read(_HEAD)
    formats = [_made(info.target) for info in list_formats()]
    for known in formats:
        if known.recognises(path, head):
            return known
    names = ", ".join(known.name for known in formats)
    raise WeightFormatError(f"{path} is of no known format ({names}); it begins with {head[:8]!r}")


def _format_of_suffix(path: Path) -> Format:
    formats = [_made(info.target) for info in list_formats()]
    for known in formats:
        if path.suffix in known.suffixes:
            return known
    endings = ", ".join(suffix for known in formats for suffix in known.suffixes)
    raise WeightFormatError(f"the ending of {path} tells no format: use one of {endings}, or to= (--to)")


def _reshaped(part: Part, fuse: bool, unfuse: bool, dtype: str | None) -> Part:
    """Return the part in another form; its cell is the same object if it already has it."""
    cell = part.cell
    if dtype is not None:
        if dtype not in FLOATING:
            raise UnsupportedError(f"dtype is {dtype!r}; weights can be of {', '.join(FLOATING)}")
        cell.to("numpy", dtype=dtype)
    if fuse or unfuse:
        spec = fused_spec(cell.spec) if fuse else _all_unfused(cell.spec)
        cell = cell if spec == cell.spec else cell.converted(spec)
    return dataclasses.replace(part, cell=cell)


def _all_unfused(spec: CellSpec) -> CellSpec:
    if spec.kind == "FusedRNNCell":
        return unfused_spec(spec)
    return dataclasses.replace(spec, children=tuple(_all_unfused(child) for child in spec.children))


def _without_stored(archive: Archive) -> dict[str, str]:
    """Return the notes less how weights were packed: one a gate, they fit any tree and need no symbol."""
    return {key: note for key, note in archive.notes.items() if key != STORED}

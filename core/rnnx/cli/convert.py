"""``rnnx convert``: from one format to another, read back before it is called done."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy.typing as npt

from rnnx import files
from rnnx.archive import Archive
from rnnx.cells.arguments import FLOATING
from rnnx.cli.describing import describe
from rnnx.cli.group import DIFFERS
from rnnx.cli.options import activation_option, json_option
from rnnx.cli.screen import console, print_json, progress_bar, said
from rnnx.errors import RNNXError, WeightFormatError

__all__ = ["convert"]

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True)
class _Options:
    """The options of one call."""

    to: str | None
    from_: str | None
    fuse: bool
    unfuse: bool
    dtype: str | None
    activation: str | None
    drop_symbol: bool


@click.command()
@click.argument("src", type=click.Path(path_type=Path))
@click.argument("dst", type=click.Path(path_type=Path))
@click.option("--to", metavar="FORMAT", help="Format to write; told by the ending of DST otherwise.")
@click.option("--from", "from_", metavar="FORMAT", help="Format to read; told by the first bytes of SRC otherwise.")
@click.option("--fuse", is_flag=True, help="Write every part as one fused cell.")
@click.option("--unfuse", is_flag=True, help="Write every fused cell as a stack of plain ones.")
@click.option("--dtype", type=click.Choice(FLOATING), help="Dtype of the recurrent weights.")
@activation_option
@click.option("--drop-symbol", is_flag=True, help="Leave out MXNet's symbol file, which cannot be rewritten.")
@json_option
@click.pass_context
def convert(context: click.Context, /, src: Path, dst: Path, as_json: bool, **options: Any) -> None:
    """Write what SRC holds to DST, and read it again.

    Weights, other arrays and files must then be equal to those of SRC bit for bit, or with --dtype to what was cast.

    Exit codes: 0 they are, 1 they are not, 2 the input is wrong or something would be lost.
    """
    chosen = _Options(**options)
    with progress_bar("converting", as_json) as advance:
        advance(0, 2, f"{src} to {dst}")
        source = files.read_archive(src, activation=chosen.activation, from_=chosen.from_)
        written = files.convert(src, dst, **options)
        advance(1, 2, f"reading {dst} again")
        again = _read_again(dst, chosen)
    wanted = written if chosen.dtype else dataclasses.replace(source, files=written.files)
    differing = list(_differing(wanted, again))
    if as_json:
        print_json({**describe(dst, again), "source": str(src), "equal": not differing, "differing": differing})
    else:
        _show(dst, again, differing, chosen)
    context.exit(DIFFERS if differing else 0)


def _read_again(dst: Path, options: _Options) -> Archive:
    try:
        return files.read_archive(dst, activation=options.activation, from_=options.to)
    except RNNXError as error:
        raise WeightFormatError(f"{dst} was written, and cannot be read again without saying more: {error}") from error


def _differing(wanted: Archive, found: Archive) -> Iterator[str]:
    """Yield the name of every array and file that is not the same in both."""
    for one, other in ((_arrays(wanted), _arrays(found)), (wanted.files, found.files)):
        for name in sorted({*one, *other}):
            if name not in one or name not in other or not _same(one[name], other[name]):
                yield name


def _arrays(archive: Archive) -> Mapping[str, Array]:
    """Return every array by name, weights one a gate: so they are called in fused and in plain cells."""
    arrays = dict(archive.extra)
    for part in archive.parts.values():
        arrays.update(part.cell.unpack_weights(part.cell.get_params()))
    return arrays


def _same(one: Array | bytes, other: Array | bytes) -> bool:
    if isinstance(one, bytes) or isinstance(other, bytes):
        return one == other
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _show(dst: Path, archive: Archive, differing: list[str], options: _Options) -> None:
    screen, facts = console(), describe(dst, archive)
    said(screen, f"wrote {dst}", "bold")
    for part in facts["parts"]:
        cell, count = part["cell"]["kind"], f"{part['parameters']:,} weights"
        said(screen, f"  {part['name']}  {cell}, {count}, {part['dtype']}")
    for title, names in (("other arrays", facts["arrays"]), ("files", facts["files"])):
        if names:
            said(screen, f"  {title}: {', '.join(names)}")
    if differing:
        said(screen, f"NOT the same when read again: {', '.join(differing)}", "bold red")
    elif options.dtype:
        said(screen, f"read again: the same, bit for bit, as what was cast to {options.dtype}", "green")
    else:
        said(screen, "read again: the same, bit for bit", "green")

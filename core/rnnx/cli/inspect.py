"""``rnnx inspect``: what a file holds, and how that was found out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from textwrap import shorten

import click
from rich.console import Console

from rnnx.archive import Archive
from rnnx.cells import BaseRNNCell
from rnnx.cli.describing import Facts, describe, plan_of
from rnnx.cli.drawing import draw_part, shape_text
from rnnx.cli.options import assuming, file_argument, json_option
from rnnx.cli.screen import console, plain, print_json, said
from rnnx.files import read_archive
from rnnx.found import Assumptions

__all__ = ["inspect"]

#: How much of a note is shown, in characters.
NOTE = 100


@click.command()
@file_argument
@assuming
@json_option
def inspect(file: Path, cell: BaseRNNCell | None, assume: Assumptions, as_json: bool) -> None:
    """Show what FILE holds, and how that is known.

    That is its recurrent cells, the kernels that run them, every other array, and the files kept with it.
    """
    archive = read_archive(file, cell, assume)
    facts = describe(file, archive)
    if as_json:
        print_json(facts)
        return
    screen = console()
    size = f"  {file.stat().st_size:,} bytes" if file.is_file() else ""
    said(screen, f"{file}{size}", "bold")
    for name, part in archive.parts.items():
        screen.print()
        screen.print(draw_part(name, part))
        _section(screen, "found by", part.evidence)
        _section(screen, "runs on NumPy as", [line[2:] for line in str(plan_of(part)).splitlines()[1:]])
    if not archive.parts:
        said(screen, "no recurrent cells were found in it")
    _rest(screen, archive, facts)


def _rest(screen: Console, archive: Archive, facts: Facts) -> None:
    """Show what is no recurrent part's."""
    widest = max((len(plain(name)) for name in facts["arrays"]), default=0)
    arrays = (f"{plain(name):{widest}}  {shape_text(each)}  {each['dtype']}" for name, each in facts["arrays"].items())
    _section(screen, "other arrays", arrays)
    _section(screen, "files kept with it", (f"{name}  {size:,} bytes" for name, size in facts["files"].items()))
    _section(screen, "notes", (f"{key}: {shorten(text, NOTE)}" for key, text in facts["notes"].items()))


def _section(screen: Console, title: str, lines: Iterable[str]) -> None:
    shown = list(lines)
    if shown:
        screen.print()
        screen.print(title, style="bold")
    for line in shown:
        said(screen, f"  {line}")

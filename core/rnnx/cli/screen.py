"""What commands write with: consoles, JSON, and a progress bar."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["console", "plain", "print_json", "progress_bar", "said"]

#: Columns of output that goes to a file or a pipe.
PIPE_WIDTH = 100


def console(stderr: bool = False) -> Console:
    """Return a console that prints words as they are, as wide as the terminal."""
    made = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = PIPE_WIDTH
    return made


def said(screen: Console, text: str, style: str | None = None) -> None:
    """Print a line that a terminal may wrap but a pipe gets whole."""
    screen.print(plain(text), style=style, soft_wrap=not screen.is_terminal)


def plain(text: str) -> str:
    """Return text with what is not printable escaped: a file's names could otherwise command the terminal."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def print_json(document: Any) -> None:
    """Print one JSON document; NaN and the infinities, which JSON does not have, are strings in it."""
    click.echo(json.dumps(_finite(document), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def progress_bar(
    title: str, hidden: bool = False, file: TextIO | None = None
) -> Iterator[Callable[[int, int, str], None]]:
    """Show a bar while something long runs, on stderr or a file given, if that is a terminal; give what moves it.

    It is called with how much is done, how much there is, and what comes next.
    """
    screen = console(stderr=True) if file is None else Console(file=file)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns,
        console=screen,
        transient=True,
        redirect_stdout=file is None,
        redirect_stderr=file is None,
        disable=hidden or not screen.is_terminal,
    ) as bar:
        task = bar.add_task(title, total=None)

        def advance(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=f"{title}: {what}")

        yield advance

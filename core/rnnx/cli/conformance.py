"""``rnnx conformance``: run the suite that every backend has to pass, and show what came out."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
from rich.console import Console

from rnnx.cli.group import BAD_INPUT, DIFFERS
from rnnx.cli.screen import console, print_json, progress_bar, said
from rnnx.optional import required

if TYPE_CHECKING:
    from rnnx.conformance.results import Results

__all__ = ["conformance"]

#: How many failures are printed in full.
SHOWN = 10

#: What a shell makes of a process that was interrupted.
INTERRUPTED = 130

#: Exit codes of pytest, which is not imported here.
PYTEST_PASSED, PYTEST_FAILED, PYTEST_INTERRUPTED = 0, 1, 2


@click.command()
@click.argument("backend", metavar="NAME")
@click.option("--device", metavar="NAME", help="The device to run on; those that the backend tells otherwise.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result as JSON; - prints it.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), help="Write the result as a page of HTML.")
@click.option("-k", "expression", metavar="EXPR", help="Run the checks alone whose names match, as pytest reads it.")
@click.option("-x", "stop", is_flag=True, help="Stop at the first failure.")
@click.option("-n", "processes", type=click.IntRange(min=0), default=0, metavar="N", help="Run in N processes.")
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="MODULE",
    help="A module to import first, which makes the backend known; may be given several times.",
)
@click.pass_context
def conformance(context: click.Context, /, json_file: Path | None, html_file: Path | None, **options: Any) -> None:
    """Run the conformance suite on the backend NAME.

    Exit codes: 0 it conforms, 1 it does not, 2 it was not judged: the command is wrong, or something is not installed.
    """
    required("pytest", "conformance", "the checks")
    from rnnx.conformance.launching import Chosen, run_suite
    from rnnx.conformance.results import refuse_no_place

    printed = json_file == Path("-")
    chosen = Chosen(json_file=None if printed else json_file, html_file=html_file, **options)
    for path in filter(None, (chosen.json_file, html_file)):
        refuse_no_place(path)
    with _own_stderr() as stderr, progress_bar("checking", printed, stderr) as advance:
        code, results = run_suite(chosen, advance)
    if results is not None and printed:
        print_json(results.to_dict())
    elif results is not None:
        _show(console(), results)
    context.exit(_exit_code(code, results))


@contextlib.contextmanager
def _own_stderr() -> Iterator[TextIO]:
    """Give a second way to the terminal: pytest takes stderr away while a check runs."""
    with os.fdopen(os.dup(sys.__stderr__.fileno() if sys.__stderr__ else 2), "w", encoding="utf-8") as stderr:
        yield stderr


def _show(screen: Console, results: Results) -> None:
    from rnnx.conformance.summary import print_results

    for check in results.failures[:SHOWN]:
        said(screen, f"FAILED {check.id}", "bold red")
        for line in check.report.splitlines():
            said(screen, f"  {line}")
        screen.print()
    if more := len(results.failures[SHOWN:]):
        said(screen, f"and {more} more failures: --html FILE has them all", "bold red")
        screen.print()
    print_results(screen, results)


def _exit_code(code: int, results: Results | None) -> int:
    """Return the command's exit code for one of pytest's and what came out."""
    if code not in (PYTEST_PASSED, PYTEST_FAILED) or results is None:
        return INTERRUPTED if code == PYTEST_INTERRUPTED and not (results and results.problems) else BAD_INPUT
    return DIFFERS if code == PYTEST_FAILED else 0

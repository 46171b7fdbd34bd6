"""The result on a terminal: one row an area, and below it what makes the numbers mean something."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rnnx.backend import CAPABILITIES
from rnnx.cli.screen import plain, said
from rnnx.conformance.results import EXPECTED, FAILED, OUTCOMES, Results, counted
from rnnx.conformance.subject import TOLERANCES

__all__ = ["HEADINGS", "PROBLEMS", "as_text", "notes_of", "print_results", "title_of"]

#: What the outcomes are called over their columns.
HEADINGS = dict(zip(OUTCOMES, ("passed", "failed", "expected failures", "skipped"), strict=True))

#: The heading of what kept the suite from being run.
PROBLEMS = "problems"

STYLES = dict(zip(OUTCOMES, ("green", "bold red", "yellow", "dim"), strict=True))


def title_of(results: Results) -> str:
    """Return what was judged: backend, devices, versions, and how long it took."""
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    return f"{results.backend} on {', '.join(results.devices)}: {versions}; {results.seconds:.1f} s"


def notes_of(results: Results) -> Iterator[tuple[str, list[str]]]:
    """Yield what is to be said besides the counts: headings, and the lines below each."""
    yield PROBLEMS, [line for problem in results.problems for line in problem.splitlines()]
    yield "skipped", [f"{count:5}  {reason}" for reason, count in results.skips.items()]
    yield "expected failures", [f"{pattern}: {reason}" for pattern, reason in results.expected_failures.items()]
    yield "tolerances of its own", list(_tolerances(results))
    yield "declares", [", ".join(name for name in CAPABILITIES if name in results.capabilities)]
    yield "kernels that ran", [", ".join(results.kernels)] if results.kernels else []


def _tolerances(results: Results) -> Iterator[str]:
    for name, value in results.tolerances.items():
        if value != TOLERANCES[name]:
            loosened = "loosened from" if value > TOLERANCES[name] else "tightened from"
            yield f"{name}: {value:g}, {loosened} {TOLERANCES[name]:g}"


def print_results(screen: Console, results: Results) -> None:
    """Print the matrix, the notes and the verdict; the problems alone where nothing could be run."""
    said(screen, title_of(results), "bold")
    screen.print()
    if not results.problems:
        screen.print(_table(results))
        screen.print()
    for heading, lines in notes_of(results):
        if lines and bool(results.problems) == (heading == PROBLEMS):
            said(screen, heading, "bold")
            for line in lines:
                said(screen, f"  {line}")
            screen.print()
    style = {True: "bold green", False: "bold red", None: "bold yellow"}[results.conforms]
    said(screen, results.verdict, style)


def as_text(results: Results, width: int, colours: bool) -> str:
    """Return what `print_results` prints, for whoever has a terminal of their own."""
    written = io.StringIO()
    colour_system = "standard" if colours else None
    screen = Console(
        file=written,
        width=width,
        force_terminal=colours,
        color_system=colour_system,  # type: ignore[arg-type]
        markup=False,
        highlight=False,
        emoji=False,
    )
    print_results(screen, results)
    return written.getvalue()


def _table(results: Results) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("area", no_wrap=True, style="bold")
    table.add_column("what is checked", overflow="fold")
    for heading in HEADINGS.values():
        table.add_column(heading.replace(" ", "\n"), justify="right")
    table.add_column("s", justify="right")
    for area, what in results.areas.items():
        checks = results.of_area(area)
        if not checks:
            continue
        seconds = sum(check.seconds for check in checks)
        table.add_row(plain(area), plain(what), *_cells(counted(checks)), f"{seconds:.1f}")
    table.add_section()
    table.add_row("all", "", *_cells(results.counts), f"{sum(check.seconds for check in results.checks):.1f}")
    return table


def _cells(counts: dict[str, int]) -> Iterator[Text]:
    """Yield the numbers of a row: nothing stands out that did not happen."""
    for outcome, count in counts.items():
        unremarkable = not count and outcome in (FAILED, EXPECTED)
        yield Text("-" if unremarkable else str(count), "dim" if not count else STYLES[outcome])

"""Several backends beside each other: ``python -m rnnx.conformance.matrix numpy.json torch.json``.

The files are what ``rnnx conformance NAME --json FILE`` writes. The matrix is printed as Markdown, with ``--html`` as a
page of HTML that needs nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import click

from rnnx.backend import CAPABILITIES
from rnnx.conformance.page import VERDICTS, document, table
from rnnx.conformance.results import EXPECTED, FAILED, PASSED, SKIPPED, Results, counted, read_results
from rnnx.conformance.summary import PROBLEMS, notes_of
from rnnx.errors import RNNXError

__all__ = ["as_html", "as_markdown", "main"]

#: What is said of each backend besides the numbers.
NOTES = (PROBLEMS, "expected failures", "tolerances of its own")


def as_markdown(found: Sequence[Results]) -> str:
    """Return the matrix of several results as Markdown."""
    columns = [f"`{results.backend}`" for results in found]
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' --- |' * len(found)}"]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, *cells in _rows(found)]
    for heading, told in _notes(found):
        lines += ["", f"{heading}:", "", *(f"- {line}" for line in told)]
    return "\n".join(lines) + "\n"


def as_html(found: Sequence[Results]) -> str:
    """Return the matrix of several results as a page."""
    return document("rnnx conformance", _body(found))


def _body(found: Sequence[Results]) -> Iterator[str]:
    yield "<h1>Conformance of the backends</h1>"
    for results in found:
        yield f'<p class="verdict {VERDICTS[results.conforms]}">{escape(results.verdict)}</p>'
    rows = (
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f'<td class="number">{escape(cell)}</td>' for cell in cells)
        + "</tr>"
        for name, *cells in _rows(found)
    )
    yield from table("Checks that passed, by area", ("", *(results.backend for results in found)), rows)
    for heading, told in _notes(found):
        yield f"<h2>{escape(heading)}</h2>"
        yield from ("<ul>", *(f"<li>{escape(line)}</li>" for line in told), "</ul>")


def _rows(found: Sequence[Results]) -> Iterator[list[str]]:
    """Yield the rows of the matrix: a name, and a cell for each result."""
    yield ["conforms", *({True: "yes", False: "no", None: "not judged as a whole"}[each.conforms] for each in found)]
    yield ["device", *(", ".join(each.devices) for each in found)]
    for package in dict.fromkeys(name for each in found for name in each.versions):
        yield [package, *(each.versions.get(package, "") for each in found)]
    for area in dict.fromkeys(area for each in found for area in each.areas):
        yield [area, *(_cell(counted(each.of_area(area))) for each in found)]
    yield ["all checks", *(_cell(each.counts) for each in found)]
    for capability in CAPABILITIES:
        yield [f"declares {capability}", *("yes" if capability in each.capabilities else "-" for each in found)]


def _cell(counts: dict[str, int]) -> str:
    """Return the numbers of an area in words, those that are not zero."""
    remarks = [
        f"{counts[outcome]} {word}"
        for outcome, word in ((FAILED, "FAILED"), (EXPECTED, "failed as expected"), (SKIPPED, "skipped"))
        if counts[outcome]
    ]
    return ", ".join([str(counts[PASSED]), *remarks])


def _notes(found: Sequence[Results]) -> Iterator[tuple[str, list[str]]]:
    for results in found:
        for heading, lines in notes_of(results):
            if lines and heading in NOTES:
                yield f"{results.backend}, {heading}", lines


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--html", is_flag=True, help="Print a page of HTML instead of Markdown.")
def main(files: Sequence[Path], html: bool) -> None:
    """Print the results of several backends beside each other."""
    try:
        found = [read_results(path) for path in files]
    except RNNXError as error:
        raise click.UsageError(str(error)) from error
    click.echo((as_html if html else as_markdown)(found), nl=False)


if __name__ == "__main__":
    main(prog_name="python -m rnnx.conformance.matrix")

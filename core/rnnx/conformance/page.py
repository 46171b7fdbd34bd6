"""The result as one HTML page that needs nothing else: readable by day, by night, and by a screen reader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

from rnnx.conformance.results import EXPECTED, FAILED, OUTCOMES, Check, Results, counted
from rnnx.conformance.summary import HEADINGS, notes_of, title_of

__all__ = ["document", "page_of", "table"]

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1f24; --quiet: #57606a; --line: #d0d7de;
  --passed: #1a7f37; --failed: #b3261e; --expected: #8a5a00; --panel: #f4f6f8; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --ink: #e6e9ec; --quiet: #a0a8b0; --line: #3a4149;
  --passed: #57c773; --failed: #ff8a80; --expected: #e3b341; --panel: #1d2227; } }
body { background: var(--ground); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif;
  margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; color: var(--quiet); padding-bottom: .5rem; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .6rem; text-align: left; vertical-align: top; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.none { color: var(--quiet); }
.passed { color: var(--passed); } .expected { color: var(--expected); }
.failed { color: var(--failed); font-weight: 600; }
.verdict { border-left: .4rem solid currentColor; padding: .5rem 1rem; font-weight: 600; background: var(--panel); }
pre { background: var(--panel); overflow-x: auto; padding: .75rem; white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; padding: .25rem 0; } summary code { overflow-wrap: anywhere; }
dt { font-weight: 600; } dd { margin: 0 0 .5rem 1.5rem; }
"""

#: How a verdict looks, by `Results.conforms`.
VERDICTS = {True: "passed", False: "failed", None: "expected"}


def document(title: str, body: Iterable[str]) -> str:
    """Return a whole page with a title and the given parts."""
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            "<body>",
            "<main>",
            *body,
            "</main>",
            "</body>",
            "</html>",
            "",
        )
    )


def table(caption: str, headings: Iterable[str], rows: Iterable[str]) -> Iterator[str]:
    """Yield a table of rows of HTML; the first heading is that of names, the others are those of numbers."""
    first, *others = headings
    columns = "".join(f'<th scope="col" class="number">{escape(each)}</th>' for each in others)
    yield f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
    yield f"<caption>{escape(caption)}</caption>"
    yield f'<thead><tr><th scope="col">{escape(first)}</th>{columns}</tr></thead>'
    yield from ("<tbody>", *rows, "</tbody>")
    yield "</table></div>"


def page_of(results: Results) -> str:
    """Return the page of one backend's result."""
    return document(f"rnnx conformance: {results.backend}", _body(results))


def _body(results: Results) -> Iterator[str]:
    yield f"<h1>Conformance of {escape(results.backend)}</h1>"
    yield f'<p class="verdict {VERDICTS[results.conforms]}">{escape(results.verdict)}</p>'
    yield f"<p>{escape(title_of(results))}</p>"
    headings = ("area", *HEADINGS.values(), "seconds")
    yield from table("Checks by area", headings, _rows(results))
    yield from _listed("Failures", results.failures)
    yield from _notes(results)
    expected = [check for check in results.checks if check.outcome == EXPECTED]
    yield from _listed("Checks that failed as expected", expected)


def _rows(results: Results) -> Iterator[str]:
    for area, what in results.areas.items():
        name = f'<th scope="row">{escape(area)}<br><small class="none">{escape(what)}</small></th>'
        yield _row(name, results.of_area(area))
    yield _row('<th scope="row">all</th>', results.checks)


def _row(name: str, checks: Iterable[Check]) -> str:
    checks = list(checks)
    counts = counted(checks)
    cells = "".join(
        f'<td class="number {outcome if counts[outcome] else "none"}">{counts[outcome]}</td>' for outcome in OUTCOMES
    )
    return f'<tr>{name}{cells}<td class="number">{sum(check.seconds for check in checks):.1f}</td></tr>'


def _listed(heading: str, checks: Iterable[Check]) -> Iterator[str]:
    """Yield checks with their reports, each folded away."""
    checks = list(checks)
    if not checks:
        return
    yield f"<h2>{heading} ({len(checks)})</h2>"
    for check in checks:
        reason = f": {escape(check.reason)}" if check.reason else ""
        open_ = " open" if check is checks[0] and check.outcome == FAILED else ""
        yield f"<details{open_}><summary><code>{escape(check.id)}</code>{reason}</summary>"
        yield f"<pre>{escape(check.report)}</pre></details>"


def _notes(results: Results) -> Iterator[str]:
    yield "<h2>What it was judged by</h2>"
    yield "<dl>"
    for heading, lines in notes_of(results):
        if lines:
            yield f"<dt>{heading}</dt>"
            yield from (f"<dd>{escape(line)}</dd>" for line in lines)
    yield "</dl>"

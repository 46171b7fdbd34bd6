"""``rnnx verify``: run a checkpoint on every backend, and show how well the numbers agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rnnx.archive import Archive, Part, selected
from rnnx.cells import BaseRNNCell
from rnnx.cli.drawing import draw_part
from rnnx.cli.group import DIFFERS
from rnnx.cli.options import assuming, file_argument, json_option
from rnnx.cli.screen import console, plain, print_json, progress_bar, said
from rnnx.errors import WeightFormatError
from rnnx.files import read_archive
from rnnx.found import Assumptions
from rnnx.reference import Reference, read_reference, reference_path
from rnnx.verification import Difference, Run, Verification
from rnnx.verification import verify as verify_cell

__all__ = ["verify"]


@click.command()
@file_argument
@assuming
@click.option("--select", metavar="NAME", help="The recurrent part to verify; all of them otherwise.")
@json_option
@click.pass_context
def verify(
    context: click.Context,
    file: Path,
    cell: BaseRNNCell | None,
    assume: Assumptions,
    select: str | None,
    as_json: bool,
) -> None:
    """Run FILE on every backend and compare.

    Each recurrent part runs on every installed backend, fused and unfused. The numbers are compared with each other,
    and with what another framework recorded: MODEL.reference.safetensors beside MODEL.params, if there is one.

    Exit codes: 0 they agree, 1 they do not, 2 the input is wrong.
    """
    archive = read_archive(file, cell, assume)
    parts = _chosen(archive, select, file)
    references = _references(file, archive, parts)
    found = {}
    with progress_bar("verifying", as_json) as advance:
        for name, part in parts.items():
            found[name] = verify_cell(part.cell, archive.extra, references.get(name), progress=advance)
    if as_json:
        _print_json(file, found)
    else:
        screen = console()
        for name, verification in found.items():
            _show(screen, name, parts[name], verification)
        _conclude(screen, found)
    context.exit(0 if all(each.verified for each in found.values()) else DIFFERS)


def _chosen(archive: Archive, select: str | None, file: Path) -> Mapping[str, Part]:
    if not archive.parts:
        raise WeightFormatError(f"no recurrent weights were found in {file}: there is nothing to verify")
    return archive.parts if select is None else {select: selected(archive, select, file)}


def _references(file: Path, archive: Archive, parts: Mapping[str, Part]) -> Mapping[str, Reference]:
    """Return the reference beside the file, if there is one, under the name of the part that it is of."""
    path = reference_path(file)
    if not path.exists():
        return {}
    reference = read_reference(path)
    part, names = reference.part, ", ".join(map(repr, archive.parts))
    if part is None and len(parts) > 1:
        raise WeightFormatError(f"{path} does not say which part it is of, {names}: choose that with --select")
    if part is not None and part not in archive.parts:
        raise WeightFormatError(f"{path} is of a part {part!r}, and {file} has {names}")
    return {part or next(iter(parts)): reference}


def _print_json(file: Path, found: Mapping[str, Verification]) -> None:
    verified = all(each.verified for each in found.values())
    parts = [{"name": name, **each.to_dict()} for name, each in found.items()]
    print_json({"file": str(file), "verified": verified, "parts": parts})


def _show(screen: Console, name: str, part: Part, found: Verification) -> None:
    screen.print(draw_part(name, part, weights=False))
    screen.print()
    screen.print(_table(found))
    screen.print()
    for line in _legend(found):
        said(screen, line, "dim")
    for line in _told_of_model(found):
        said(screen, line)
    screen.print()


def _legend(found: Verification) -> Iterator[str]:
    yield f"{found.batch} sequences of {found.steps} steps, {'recorded' if found.source else 'random'}"
    yield f"outputs, states: largest differences from {found.source or found.baseline}"
    yield f"ragged: largest differences from {found.baseline} over sequences of other lengths"
    yield f"agrees: no difference above {found.tolerance:g} of the largest number, or of 1"
    for backend, reason in found.missing.items():
        yield f"not run on {backend}: {reason}"


def _told_of_model(found: Verification) -> Iterator[str]:
    """Yield what the reference says of the whole model."""
    if found.embedding == 0:
        yield f"inputs: the recorded tokens, embedded, are what {found.source} read, bit for bit"
    if (perplexity := found.perplexity) is not None:
        yield f"perplexity: {perplexity.computed:.5g}, recorded by {found.source}: {perplexity.recorded:.5g}"


def _table(found: Verification) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for title in ("backend", "form", "kernels"):
        table.add_column(title, overflow="fold")
    for title in ("outputs", "states", "ragged", "ms", ""):
        table.add_column(title, justify="right", no_wrap=True)
    for run in found.runs:
        table.add_row(*_cells(run, found), style=None if run.agrees else "bold red")
    return table


def _cells(run: Run, found: Verification) -> list[str | Text]:
    device = f" {run.device}" if run.device not in (None, "cpu") else ""
    whole = run.first if found.source is None else run.recorded
    verdict = Text("agrees", "green") if run.agrees else "FAILED" if run.failure else "DIFFERS"
    time = "" if run.failure else f"{run.milliseconds:.1f}"
    return [
        plain(run.backend + device),
        run.form,
        plain(", ".join(_counted(run.kernels))),
        "-" if whole is None else f"{whole.outputs:.1e}",
        "-" if whole is None else f"{whole.states:.1e}",
        _largest(run.ragged),
        time,
        verdict,
    ]


def _counted(kernels: tuple[str, ...]) -> list[str]:
    return [kernel if count == 1 else f"{count} x {kernel}" for kernel, count in Counter(kernels).items()]


def _largest(difference: Difference | None) -> str:
    return "-" if difference is None else f"{difference.largest:.1e}"


def _conclude(screen: Console, found: Mapping[str, Verification]) -> None:
    """Print the verdict as the last line."""
    problems = [problem for each in found.values() for problem in each.problems]
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        said(screen, f"NOT verified: {'; '.join(problems[:3])}{more}", "bold red")
        return
    runs = [run for each in found.values() for run in each.runs]
    backends = ", ".join(dict.fromkeys(run.backend for run in runs))
    sources = ", ".join(dict.fromkeys(each.source or "each other" for each in found.values()))
    tolerance = max(each.tolerance for each in found.values())
    said(
        screen,
        f"verified: {len(runs)} runs on {backends} agree with {sources} to {tolerance:g}",
        "bold green",
    )

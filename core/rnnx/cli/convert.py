"""``rnnx convert``: from one format to another, and what becomes of what."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from rnnx.archive import Accepted
from rnnx.assembly import activation_in
from rnnx.cells import BaseRNNCell
from rnnx.cells.arguments import FLOATING
from rnnx.cli.describing import Facts, describe
from rnnx.cli.drawing import shape_text
from rnnx.cli.group import DIFFERS
from rnnx.cli.options import assuming, json_option
from rnnx.cli.screen import console, print_json, progress_bar, said
from rnnx.comparison import Comparison, PartComparison, compared
from rnnx.errors import RNNXError, WeightFormatError
from rnnx.files import Conversion, converted, format_for, read_archive
from rnnx.formats.tf1 import FORGET_BIAS
from rnnx.found import Assumptions
from rnnx.mapping import Mapped
from rnnx.reshaping import Changes

__all__ = ["convert"]


@click.command()
@click.argument("src", type=click.Path(path_type=Path))
@click.argument("dst", type=click.Path(path_type=Path))
@click.option("--to", metavar="FORMAT", help="Format to write; told by the ending of DST otherwise.")
@click.option("--from", "from_", metavar="FORMAT", help="Format to read; told by the content of SRC otherwise.")
@assuming
@click.option(
    "--select",
    metavar="NAME",
    multiple=True,
    help="Write this recurrent part only, and nothing else of SRC; repeatable.",
)
@click.option("--prefix", metavar="TEXT", help="What the names of the recurrent weights are to begin with.")
@click.option("--stack", is_flag=True, help="Make one part of several, each reading what the one before it makes.")
@click.option("--fuse", is_flag=True, help="Write every part as one fused cell.")
@click.option("--unfuse", is_flag=True, help="Write every fused cell as a stack of plain ones.")
@click.option("--dtype", type=click.Choice(FLOATING), help="Dtype of the recurrent weights.")
@click.option("--merge-biases", is_flag=True, help="Add the two biases of a gate where DST has one.")
@click.option("--drop-files", is_flag=True, help="Leave out what stands beside the arrays, as MXNet's symbol file.")
@click.option("--weights-only", is_flag=True, help="Leave out residual connections, dropout and zoneout.")
@click.option("--dry-run", is_flag=True, help="Write nothing: show which tensors would be made of which.")
@click.option("--verify", is_flag=True, help="Read DST again, run both networks, and compare.")
@json_option
@click.pass_context
def convert(
    context: click.Context,
    /,
    src: Path,
    dst: Path,
    to: str | None,
    from_: str | None,
    cell: BaseRNNCell | None,
    assume: Assumptions,
    merge_biases: bool,
    dry_run: bool,
    verify: bool,
    as_json: bool,
    **changes: Any,
) -> None:
    """Write what SRC holds to DST.

    Nothing is lost: what DST has no place for is an error that says which option accepts the loss. With --verify, DST
    is read again, both networks run on the same random numbers, and the largest difference is shown.

    Exit codes: 0 all is well, 1 what was read again differs, 2 the input is wrong or something would be lost.
    """
    accepted = Accepted(merge_biases)
    with progress_bar("converting", as_json) as advance:
        asked = Changes(**changes)
        target = format_for(dst, to)
        advance(0, 3, f"reading {src}")
        archive = read_archive(src, cell, assume, from_, asked.select)
        conversion = converted(archive, src, dst, target, asked)
        if dry_run:
            _show_mapped(conversion, conversion.mapped(accepted), as_json)
            return
        advance(1, 3, f"writing {dst}")
        conversion.write(accepted)
        advance(2, 3, f"reading {dst} again" if verify else "")
        comparison = _compared(conversion, assume, asked) if verify else None
    _show(src, conversion, comparison, as_json)
    context.exit(0 if comparison is None or comparison.agrees else DIFFERS)


# -- what was written -------------------------------------------------------------------------------------------------


def _show(src: Path, conversion: Conversion, comparison: Comparison | None, as_json: bool) -> None:
    facts = describe(conversion.path, conversion.content, plans=False)
    if as_json:
        told = {} if comparison is None else {"comparison": _comparison_facts(comparison)}
        print_json({**facts, "format": conversion.format.name, "source": str(src), **told})
        return
    screen = console()
    said(screen, f"wrote {conversion.path}", "bold")
    for part in facts["parts"]:
        said(screen, f"  {part['name']}  {part['cell']['kind']}, {part['parameters']:,} weights, {part['dtype']}")
    for title, names in (("other arrays", facts["arrays"]), ("files", facts["files"])):
        if names:
            said(screen, f"  {title}: {', '.join(names)}")
    if comparison is not None:
        for line in _told(comparison):
            said(screen, line)
        verdict = (
            "read again: the same, bit for bit" if comparison.exact else "read again: the networks compute the same"
        )
        said(screen, verdict if comparison.agrees else "NOT the same when read again", _style(comparison))


def _style(comparison: Comparison) -> str:
    return "green" if comparison.agrees else "bold red"


# -- what was read again ----------------------------------------------------------------------------------------------


def _compared(conversion: Conversion, assume: Assumptions, asked: Changes) -> Comparison:
    """Read the file again and compare it; a format that does not describe networks is told the tree."""
    content, path = conversion.content, conversion.path
    activations = {activation_in(part.tree()) for part in content.parts.values()} - {None}
    activation = activations.pop() if len(activations) == 1 else None
    told = Assumptions(activation, assume.forget_bias or float(content.notes.get(FORGET_BIAS, 0.0)))
    cell = None
    if not conversion.format.describes and len(content.parts) == 1:
        cell = BaseRNNCell.from_spec(next(iter(content.parts.values())).spec)
    try:
        again = read_archive(path, cell, told, conversion.format.name)
    except RNNXError as error:
        raise WeightFormatError(f"{path} was written, and cannot be read again without saying more: {error}") from error
    # The networks as they were read, unless another was asked for; of all else, what was to be written.
    changed = asked.weights_only or asked.stack
    parts = content.parts if changed else {name: conversion.source.parts[name] for name in content.parts}
    return compared(dataclasses.replace(content, parts=parts), again)


def _told(comparison: Comparison) -> Iterator[str]:
    for part in comparison.parts:
        same = f"{part.weights - len(part.differing)} of {part.weights} weights bit for bit"
        outputs = f"outputs {part.computed.outputs:.1e}, states {part.computed.states:.1e}"
        yield f"  {part.name}: {same}; largest differences when run: {outputs}"
    if comparison.differing:
        yield f"  differing: {', '.join(comparison.differing)}"


def _comparison_facts(comparison: Comparison) -> Facts:
    def facts(part: PartComparison) -> Facts:
        return {**dataclasses.asdict(part), "differing": list(part.differing)}

    parts = [facts(part) for part in comparison.parts]
    return {
        "parts": parts,
        "differing": list(comparison.differing),
        "exact": comparison.exact,
        "agrees": comparison.agrees,
    }


# -- what would be written --------------------------------------------------------------------------------------------


def _show_mapped(conversion: Conversion, found: list[Mapped], as_json: bool) -> None:
    if as_json:
        print_json({"file": str(conversion.path), "tensors": [dataclasses.asdict(each) for each in found]})
        return
    screen = console()
    said(screen, f"{conversion.path} ({conversion.format.name}) would be made so; nothing was written", "bold")
    for part in [*conversion.content.parts, None]:
        mine = [each for each in found if each.part == part]
        if mine:
            said(screen, part or "other arrays", "cyan")
        width = max((len(_named(each.name, each.shape)) for each in mine), default=0)
        for each in mine:
            said(screen, f"  {_named(each.name, each.shape):{width}}  <-  {_sources(each.sources)}")
    for name in conversion.content.files:
        said(screen, f"file {name} goes along")


def _sources(sources: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(_named(name, shape) for name, shape in sources.items()) or "zeros"


def _named(name: str, shape: tuple[int, ...]) -> str:
    return f"{name} ({shape_text({'shape': shape})})"

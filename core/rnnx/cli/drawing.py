"""Cell trees and weights, drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text
from rich.tree import Tree

from rnnx.archive import Part
from rnnx.cells.node import Node
from rnnx.cli.describing import describe_arrays, facts_of
from rnnx.cli.screen import plain
from rnnx.spec import CellSpec

__all__ = ["draw_part", "shape_text"]

#: What to say of a field, by its name; a field is left out where its value is the usual one.
_SAID = {
    "mode": "{}",
    "num_layers": "{} layers",
    "num_hidden": "{} units",
    "num_projection": "projected to {}",
    "activation": "{}",
    "dropout": "dropout {:g}",
    "zoneout_outputs": "outputs {:g}",
    "zoneout_states": "states {:g}",
}
_USUAL = {"dropout": 0.0}
_FLAGS = {"bidirectional": (True, "bidirectional"), "reset_after": (False, "reset before the product")}


def draw_part(name: str, part: Part, weights: bool = True) -> Tree:
    """Return a recurrent part as a tree, with the shapes of its weights below each cell if they are wanted."""
    facts = facts_of(part)
    sizes = f"{facts['input_size']} in, {facts['output_size']} out"
    title = Text.assemble((plain(name), "bold cyan"), f"  {facts['parameters']:,} weights, {facts['dtype']}, {sizes}")
    tree = Tree(title, guide_style="dim")
    _draw(tree, part.cell.spec, part.cell.leaves(), weights)
    return tree


def _draw(tree: Tree, spec: CellSpec, leaves: Iterator[Node], weights: bool) -> None:
    """Draw a cell and what it is made of; `leaves` yields the cells of the specs without children, in order."""
    details = ", ".join(_details(spec.fields))
    branch = tree.add(Text.assemble((spec.kind, "bold"), f"  {details}" if details else ""))
    for child in spec.children:
        _draw(branch, child, leaves, weights)
    if not spec.children:
        shapes = _shapes(next(leaves))
        for name in shapes if weights else ():
            branch.add(Text(f"{plain(name)}  {shape_text(shapes[name])}", "dim"))


def _details(fields: Mapping[str, Any]) -> Iterator[str]:
    for key, template in _SAID.items():
        if key in fields and fields[key] != _USUAL.get(key):
            yield template.format(fields[key])
    for key, (value, text) in _FLAGS.items():
        if fields.get(key) is value:
            yield text


def _shapes(cell: Node) -> dict[str, dict[str, Any]]:
    return describe_arrays({parameter.name: parameter.value for parameter in cell.own_parameters()})


def shape_text(facts: Mapping[str, Any]) -> str:
    """Return a shape as it is read: ``800 x 200``."""
    return " x ".join(map(str, facts["shape"])) or "scalar"

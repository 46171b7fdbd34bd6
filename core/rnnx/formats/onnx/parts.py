"""The recurrent parts of an ONNX model: what they are called, and the cells and tensors they are made of.

A part is called as its first node is. A node without a name is called as its W, without the letter at the end (``lstm``
for ``lstm_W``), or else as its output. One layer in one direction is the cell ``<name>_``; several layers or directions
are ``<name>_l0_``, ``<name>_r0_``, ``<name>_l1_``, as of a fused cell that is unfused.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from rnnx.building import two_directions
from rnnx.errors import UnsupportedError
from rnnx.formats.onnx.nodes import Recurrent, evidence_of, recurrent, recurrent_nodes
from rnnx.formats.onnx.stacks import Layer, Stack, layers_of_nodes, stacks_of_layers
from rnnx.formats.onnx.values import Values
from rnnx.found import Found, stack_of
from rnnx.spec import CellSpec
from rnnx.weights.stored import Stored

__all__ = ["parts_of_program"]

#: Names of a node's W and of its outputs, and what stands before them.
_W, _Y = re.compile(r"(?s)(?:(.*)[._/:])?[Ww]"), re.compile(r"(?s)(?:(.*)[._/:])?[Yy](?:_[hc])?")

#: Most nodes that are named where several are left out.
_MAX_TOLD = 3


def parts_of_program(values: Values) -> list[Found]:
    """Return the recurrent parts of a program, in its order.

    Raises
    ------
    UnsupportedError
        If there are recurrent nodes, and none that rnnx has cells for.
    WeightFormatError
        If a node contradicts itself.
    """
    nodes, refusals = [], []
    for node in recurrent_nodes(values.program):
        try:
            nodes.append(recurrent(node, values))
        except UnsupportedError as error:
            refusals.append(str(error))
    layers, alone = layers_of_nodes(nodes)
    refusals += alone
    if refusals and not layers:
        raise UnsupportedError("; ".join(refusals[:_MAX_TOLD]))
    naming = _Naming()
    parts = [naming.part(stack, values) for stack in stacks_of_layers(layers, values)]
    left_out = tuple(f"left out: {each}" for each in refusals[:_MAX_TOLD])
    return [dataclasses.replace(part, evidence=(*part.evidence, *left_out)) for part in parts]


class _Naming:
    """Gives every part a name, and every cell a prefix, that no other has."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()
        self._prefixes: set[str] = set()
        #: The prefixes of the cells whose weights stand in tensors.
        self._owners: dict[tuple[object, ...], list[str]] = {}

    def part(self, stack: Stack, values: Values) -> Found:
        """Return the part that a stack of layers makes."""
        prefix, names = self._named(stack)
        cells: list[CellSpec] = []
        stored: list[Stored] = []
        for number, (layer, own) in enumerate(zip(stack.layers, names, strict=True)):
            directions, tensors = self._layer(layer, own)
            cells.append(two_directions(directions, f"{prefix}bi_l{number}_"))
            cells += [_dropout(rate, f"{prefix}_dropout{number}_") for rate in stack.dropouts[number]]
            stored += tensors
        nodes = [each for layer in stack.layers for each in layer.nodes]
        seen = (*itertools.chain.from_iterable(evidence_of(each, values) for each in nodes), *stack.evidence)
        width = stack.layers[-1].directions * nodes[-1].num_hidden
        name = prefix.removesuffix("_")
        return Found(name, stack_of(cells), seen, nodes[0].input_size, width, tuple(dict.fromkeys(stored)))

    def _layer(self, layer: Layer, prefixes: Sequence[str]) -> tuple[list[CellSpec], list[Stored]]:
        """Return a layer's cells, and its tensors; cells of the same tensors share their weights."""
        remaining = iter(prefixes)
        cells: list[CellSpec] = []
        stored: list[Stored] = []
        for each in layer.nodes:
            own = list(itertools.islice(remaining, each.directions))
            owners = self._owners.setdefault((each.node.op, each.reset_after, each.directions, *each.tensors), own)
            made = [_sharing(cell, owner) for cell, owner in zip(each.cells(own), owners, strict=True)]
            cells += made
            stored += each.stored(made)
        return cells, stored

    def _named(self, stack: Stack) -> tuple[str, list[list[str]]]:
        """Return a prefix for all cells of a stack, and those of the cells of each layer."""
        first = stack.layers[0].nodes[0]
        place = _place(first) or _bare(first)
        while True:
            self._count[place] += 1
            again = f"#{self._count[place]}" if self._count[place] > 1 else ""
            prefix = f"{place}{again}_"
            layers = list(_prefixes(stack, prefix))
            if self._prefixes.isdisjoint(itertools.chain(*layers)):
                self._prefixes.update(itertools.chain(*layers))
                return prefix, layers


def _place(first: Recurrent) -> str:
    """Return where a node stands; nothing, if its names do not tell."""
    if first.node.name:
        return first.node.name
    named = _W.fullmatch(first.tensors[0])
    if named:
        return named[1] or ""
    output = next((name for name in first.node.outputs if name), "")
    named = _Y.fullmatch(output)
    return (named[1] or "") if named else output


def _bare(first: Recurrent) -> str:
    """Return what the cells of a model without names are called."""
    activation = f"_{first.activations[0]}" if first.activations[0] in ("tanh", "relu") else ""
    return f"rnn{activation}" if first.node.op == "RNN" else first.node.op.lower()


def _prefixes(stack: Stack, prefix: str) -> Iterator[list[str]]:
    if len(stack.layers) == 1 and stack.layers[0].directions == 1:
        yield [prefix]
        return
    for number, layer in enumerate(stack.layers):
        yield [f"{prefix}{letter}{number}_" for letter in "lr"[: layer.directions]]


def _dropout(rate: float, prefix: str) -> CellSpec:
    return CellSpec("DropoutCell", {"dropout": rate, "prefix": prefix})


def _sharing(cell: CellSpec, owner: str) -> CellSpec:
    """Return a cell with the weights of the one whose prefix is `owner`."""
    if cell.fields["prefix"] == owner:
        return cell
    return dataclasses.replace(cell, fields={**cell.fields, "params": owner})

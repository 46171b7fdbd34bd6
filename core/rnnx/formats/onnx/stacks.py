"""Recurrent nodes of ONNX put together: two directions to one layer, and layers to a stack, where the graph says so.

A forward and a backward node on the same input make a bidirectional layer. Layers make a stack where the output of one
reaches the input of the next and nothing else, through operations that only move its axes (see `onnx_axes`) or are
dropout in inference. Whatever else stands between ends the stack: what follows is a part of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from rnnx.formats.onnx.axes import Axes, Path
from rnnx.formats.onnx.nodes import BACKWARD, BOTH, FORWARD, Recurrent, label
from rnnx.formats.onnx.program import Node
from rnnx.formats.onnx.values import Values

__all__ = ["Layer", "Stack", "layers_of_nodes", "stacks_of_layers"]

#: The axes of X and Y by layout, time first and batch first.
_INPUT: tuple[Axes, Axes] = ((("T",), ("N",), ("D", "H")), (("N",), ("T",), ("D", "H")))
_OUTPUT: tuple[Axes, Axes] = ((("T",), ("D",), ("N",), ("H",)), (("N",), ("T",), ("D",), ("H",)))


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """One node, or a forward and a backward one on the same input."""

    nodes: tuple[Recurrent, ...]

    @property
    def directions(self) -> int:
        """The number of directions."""
        return sum(each.directions for each in self.nodes)

    @property
    def input(self) -> str:
        """The value X that it reads."""
        return self.nodes[0].node.input(0)


@dataclasses.dataclass(eq=False)
class Stack:
    """Layers that run one after the other.

    Parameters
    ----------
    layers : list of Layer
        The bottom one first.
    dropouts : list of list of float
        For each layer, the fractions that are dropped behind it.
    evidence : list of str
        Why each layer above the bottom one belongs to the stack.
    """

    layers: list[Layer]
    dropouts: list[list[float]]
    evidence: list[str]


def layers_of_nodes(nodes: Sequence[Recurrent]) -> tuple[list[Layer], list[str]]:
    """Return the layers that nodes make, in order, and why a node that runs backwards alone makes none."""
    readers: dict[tuple[object, ...], list[Recurrent]] = {}
    for each in nodes:
        if each.direction != BOTH:
            key = (each.node.op, each.node.input(0), each.node.input(4), each.layout, each.num_hidden, each.input_size)
            readers.setdefault(key, []).append(each)
    pairs = {
        each: tuple(sorted(pair, key=lambda one: one.direction == BACKWARD))
        for pair in readers.values()
        if sorted(one.direction for one in pair) == [FORWARD, BACKWARD]
        for each in pair
    }
    grouped = [pairs.get(each, (each,)) for each in nodes]
    layers = [Layer(group) for group in dict.fromkeys(grouped) if group[0].direction != BACKWARD]
    alone = [group[0] for group in grouped if group[0].direction == BACKWARD]
    return layers, [
        f"{label(each.node)} runs backwards alone, and rnnx has cells that do so in pairs only: set its direction to "
        f"{FORWARD!r} and reverse in time what it reads and what it makes"
        for each in alone
    ]


def stacks_of_layers(layers: Sequence[Layer], values: Values) -> list[Stack]:
    """Return the stacks that layers make; a layer that nothing follows and that follows nothing is one too."""
    by_node = {each.node: layer for layer in layers for each in layer.nodes}
    stacks = {layer: Stack([layer], [[]], []) for layer in layers}
    for layer in layers:  # in the order of the graph, so that what is below has been put together
        way = _Way(layer, values, by_node)
        above = way.end()
        if above is not None:
            lower, upper = stacks[layer], stacks[above]
            lower.dropouts[-1] = way.dropouts
            lower.evidence.append(way.told(above))
            lower.layers += upper.layers
            lower.dropouts += upper.dropouts
            stacks.update(dict.fromkeys(upper.layers, lower))
    return list(dict.fromkeys(stacks.values()))


class _Way:
    """The way of a layer's output through the graph."""

    def __init__(self, layer: Layer, values: Values, layers: Mapping[Node, Layer]) -> None:
        self._layer, self._values, self._layers = layer, values, layers
        self._steps: list[Node] = []
        self.dropouts: list[float] = []

    def end(self) -> Layer | None:
        """Return the layer that reads nothing but the output of this one, or None."""
        start = self._merged() if len(self._layer.nodes) == 2 else self._start(self._layer.nodes[0], 2)
        if start is None:
            return None
        path, value = start
        while True:
            above = self._above(path, value)
            if above is not None:
                return above
            node = self._only_reader(value)
            axes = None if node is None else path.after(node, value)
            if node is None or axes is None or not self._passes(node):
                return None
            self._steps.append(node)
            value = node.output(0)
            path.axes[value] = axes

    def told(self, above: Layer) -> str:
        """Say how the layer above comes to be one of a stack."""
        through = " and ".join(dict.fromkeys(node.op for node in self._steps)) or "nothing"
        names = " and ".join(label(each.node) for each in above.nodes)
        return f"{names}: its input is the output below, through {through}: a stack"

    def _start(self, each: Recurrent, directions: int) -> tuple[Path, str] | None:
        """Return a node's Y and its axes."""
        value = each.node.output(0)
        if not value:
            return None
        path = Path(self._values, {"D": min(directions, each.directions), "H": each.num_hidden, **self._fixed(each)})
        path.axes[value] = _OUTPUT[each.layout]
        path.axes[each.node.input(0)] = (*_INPUT[each.layout][:2], ("I",))
        return path, value

    def _fixed(self, each: Recurrent) -> dict[str, int]:
        """Return the sizes of T and N where the model fixes them."""
        found = {"I": each.input_size}
        shapes = self._values.program.shapes
        for name, axes in ((each.node.input(0), _INPUT), (each.node.output(0), _OUTPUT)):
            for axis, size in zip(axes[each.layout], shapes.get(name, ()), strict=False):
                if size and axis in (("T",), ("N",)):
                    found[axis[0]] = size
        return found

    def _merged(self) -> tuple[Path, str] | None:
        """Return what a forward and a backward node's outputs are joined to, side by side."""
        ends = [self._to_concat(each) for each in self._layer.nodes]
        if ends[0] is None or ends[1] is None or ends[0][0] is not ends[1][0]:
            return None
        node, axes, value = ends[0]
        place = node.attributes["axis"].i if "axis" in node.attributes else len(axes)
        if node.inputs != (value, ends[1][2]) or axes != ends[1][1] or not -len(axes) <= place < len(axes):
            return None
        place %= len(axes)
        others = [letter for index, axis in enumerate(axes) if index != place for letter in axis]
        if "D" in others or axes[place] not in (("D",), ("H",), ("D", "H")):
            return None
        joined = ("D",) if axes[place] == ("D",) else ("D", "H")
        first = self._layer.nodes[0]
        path = Path(self._values, {"D": 2, "H": first.num_hidden, **self._fixed(first)})
        path.axes[node.output(0)] = (*axes[:place], joined, *axes[place + 1 :])
        self._steps.append(node)
        return path, node.output(0)

    def _to_concat(self, each: Recurrent) -> tuple[Node, Axes, str] | None:
        """Follow the output of one direction to where it is joined with another."""
        start = self._start(each, 1)
        if start is None:
            return None
        path, value = start
        while True:
            node = self._only_reader(value)
            if node is not None and node.op == "Concat" and not node.domain:
                return node, path.axes[value], value
            axes = None if node is None or node.op == "Dropout" else path.after(node, value)
            if node is None or axes is None:
                return None
            value = node.output(0)
            path.axes[value] = axes

    def _readers(self, value: str) -> list[Node]:
        """Return the nodes that read a value, less those that only ask for its shape."""
        return [node for node in self._values.readers[value] if node.op != "Shape" or node.domain]

    def _only_reader(self, value: str) -> Node | None:
        readers = self._readers(value)
        return readers[0] if len(readers) == 1 and not self._values.program.results[value] else None

    def _above(self, path: Path, value: str) -> Layer | None:
        """Return the layer whose input a value is, if it is nothing else and has the right axes."""
        readers = self._readers(value)
        above = self._layers.get(readers[0]) if readers else None
        if above is None or self._values.program.results[value] or len(readers) != len(above.nodes):
            return None
        if any(self._layers.get(node) is not above or node.inputs.count(value) != 1 for node in readers):
            return None
        alike = above.nodes[0].node.input(4) == self._layer.nodes[0].node.input(4)
        width = self._layer.directions * self._layer.nodes[0].num_hidden
        fits = path.alike(path.axes[value], _INPUT[above.nodes[0].layout]) and above.nodes[0].input_size == width
        return above if alike and fits and above.input == value else None

    def _passes(self, node: Node) -> bool:
        """Say whether a step keeps numbers as they are in inference; what is dropped in training is noted."""
        if node.op != "Dropout":
            return True
        rate = self._rate(node)
        if rate is None or not self._in_inference(node):
            return False
        self.dropouts += [rate] if rate else []
        return True

    def _rate(self, node: Node) -> float | None:
        """Return the fraction that a ``Dropout`` drops, or None if it is computed or no fraction."""
        held = self._values.constant(node.input(1)) if node.input(1) else None
        if node.input(1) and (held is None or held[1].size != 1):
            return None
        given = held[1].reshape(-1)[0] if held else node.attributes["ratio"].f if "ratio" in node.attributes else 0.5
        rate = float(str(np.float32(given)))  # the shortest number that is the same in single precision
        return rate if 0 <= rate < 1 else None

    def _in_inference(self, node: Node) -> bool:
        if "is_test" in node.attributes:
            return bool(node.attributes["is_test"].i)
        return not node.input(2) or self._values.zero(node.input(2))

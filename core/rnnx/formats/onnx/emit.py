"""The nodes that compute what a cell tree computes.

=====================  =============================================================================
cell                   nodes
=====================  =============================================================================
LSTMCell               LSTM
GRUCell                GRU, with ``linear_before_reset=1`` where ``reset_after`` is true
RNNCell                RNN, with the activation of that name
LSTMPCell              Scan over the steps: ONNX's LSTM has no projection
BidirectionalCell      one bidirectional node of two equal plain cells; the two trees, the second one
                       backward, and Concat otherwise
ResidualCell           the base cell's, and Add
FusedRNNCell           those of the plain cells that it stands for
=====================  =============================================================================

Dropout and zoneout act in training only and leave no node. Within the graph sequences are time-major, (T, N, C), and
every state of a plain cell is (1, N, H), as the nodes of ONNX have them.

Source: ``docs/Operators.md`` of ONNX, opset 17.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rnnx.errors import UnsupportedError
from rnnx.formats.onnx.layout import node_tensors
from rnnx.fusion import in_inference
from rnnx.optional import required
from rnnx.spec import GATES, CellSpec
from rnnx.weights.stored import Shape, Stored, blocks, gates

__all__ = ["Names", "Nodes", "Tree", "running"]

#: The operator of each kind of plain cell, and how many states it has.
_OPERATORS = {"LSTMCell": ("LSTM", 2), "GRUCell": ("GRU", 1), "RNNCell": ("RNN", 1)}

#: Activations of the operator RNN, by the names that MXNet has for them.
_ACTIVATIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softrelu": "Softplus", "softsign": "Softsign"}

#: The kinds of cell that have cells within, and those that leave no node.
_OTHERS = ("SequentialRNNCell", "BidirectionalCell", "ResidualCell", "ZoneoutCell", "DropoutCell")


class Names:
    """Names that are given once: one that is taken already gets a number behind, as in ``"lstm_W#2"``."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = {"", *taken}  # the empty name is ONNX's word for nothing

    def new(self, wanted: str) -> str:
        """Return a name like the one wanted that nothing has yet."""
        candidates = itertools.chain([wanted], (f"{wanted}#{number}" for number in itertools.count(2)))
        name = next(candidate for candidate in candidates if candidate not in self._taken)
        self._taken.add(name)
        return name


class Nodes:
    """The nodes of a graph, in order, and names for what they compute.

    Parameters
    ----------
    names : Names
        Where names are taken from; a graph within a graph takes them from the same place, since it sees the outer one.
    """

    def __init__(self, names: Names) -> None:
        self.names = names
        self.protos: list[Any] = []
        self._helper = required("onnx.helper", "onnx", "ONNX files")

    def add(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str] = ("",), name: str = "", **attributes: Any
    ) -> list[str]:
        """Append a node, and return the names of its outputs; those that are empty are given here."""
        name = self.names.new(name or operator)
        made = [given or self.names.new(f"{name}:{number}") for number, given in enumerate(outputs)]
        self.protos.append(self._helper.make_node(operator, inputs, made, name, **attributes))
        return made

    def one(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Append a node with one output, and return its name."""
        return self.add(operator, inputs, **attributes)[0]

    def integers(self, *values: int) -> str:
        """Return the name of a constant vector of whole numbers."""
        return self.one("Constant", [], value_ints=values)

    def joined(self, values: Sequence[str], axis: int) -> str:
        """Return values side by side on an axis; a single one as it is."""
        return values[0] if len(values) == 1 else self.one("Concat", values, axis=axis)

    def parted(self, value: str, count: int, axis: int) -> list[str]:
        """Return the equal parts of a value along an axis; the value itself where it is to be one."""
        return [value] if count == 1 else self.add("Split", [value], [""] * count, axis=axis)

    def graph(self, name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """Return the nodes as a graph with inputs and outputs that `variable` declares."""
        return self._helper.make_graph(self.protos, name, inputs, outputs)

    def variable(self, name: str, dtype: int, shape: Sequence[int | str | None]) -> Any:
        """Return what declares an input or output of a graph."""
        return self._helper.make_tensor_value_info(name, dtype, shape)


def running(spec: CellSpec) -> CellSpec:
    """Return the tree without what acts in training only, where a stack of one cell is that cell.

    Raises
    ------
    UnsupportedError
        If it holds a cell that no node of ONNX computes.
    """
    for cell in spec.walk():
        if cell.kind not in (*_OPERATORS, "LSTMPCell", *_OTHERS):
            raise UnsupportedError(
                f"{cell.kind} (prefix {cell.fields.get('prefix', '')!r}) has an equation of its own, for which ONNX "
                "has no node: write the portable file (.rnnx), or a tree without it"
            )
    return in_inference(spec)


class Tree:
    """The nodes of one cell tree.

    Parameters
    ----------
    nodes : Nodes
        Where they are put.
    scope : str
        What stands before every name.
    dtype : int
        The type of all that is computed, as ONNX counts types.
    shapes : mapping of str to tuple of int
        The shape of every weight of a single gate by name.
    states : iterator of str
        The initial states (1, N, H) of every plain cell, in order.
    """

    def __init__(
        self, nodes: Nodes, scope: str, dtype: int, shapes: Mapping[str, Shape], states: Iterator[str]
    ) -> None:
        self._nodes, self._scope, self._dtype, self._shapes, self._states = nodes, scope, dtype, shapes, states
        self._stored: dict[Stored, Stored] = {}
        #: The final states (1, N, H) of the cells that are there, in order.
        self.finals: list[str] = []

    @property
    def stored(self) -> list[Stored]:
        """How the tensors that the nodes read are made of weights."""
        return list(self._stored.values())

    def outputs(self, spec: CellSpec, inputs: str, backward: bool = False) -> str:
        """Put the nodes of a tree, as `running` returns it, and return its outputs (T, N, C) for inputs (T, N, I)."""
        if spec.kind == "SequentialRNNCell":
            for child in spec.children:
                inputs = self.outputs(child, inputs, backward)
            return inputs
        if spec.kind == "ResidualCell":
            return self._nodes.one("Add", [self.outputs(spec.children[0], inputs, backward), inputs])
        if spec.kind == "BidirectionalCell":
            return self._both_ways(spec.children, inputs, backward)
        if spec.kind == "LSTMPCell":
            return self._projected(spec, inputs, backward)
        return self._layer([spec], inputs, "reverse" if backward else "forward")

    def _both_ways(self, cells: Sequence[CellSpec], inputs: str, backward: bool) -> str:
        one, other = cells
        # A node's first direction is the forward one, which is the other cell's within a tree that runs backward.
        if not backward and _are_equal(one, other):
            return self._layer(cells, inputs, "bidirectional")
        # What runs backward within a tree that runs backward runs forward.
        sides = [self.outputs(one, inputs, backward), self.outputs(other, inputs, not backward)]
        return self._nodes.joined(sides, axis=2)

    def _layer(self, cells: Sequence[CellSpec], inputs: str, direction: str) -> str:
        operator, count = _OPERATORS[cells[0].kind]
        prefixes = [_weights_prefix(cell) for cell in cells]
        tensors = self._named("".join(prefixes), node_tensors(cells, self._shapes, "W", "R", "B"))
        begin = [list(itertools.islice(self._states, count)) for _ in cells]
        initial = [self._nodes.joined(states, axis=0) for states in zip(*begin, strict=True)]
        outputs, *finals = self._nodes.add(
            operator,
            [inputs, *tensors, "", *initial],
            [""] * (1 + count),
            self._scope + "".join(prefixes).rstrip("_"),
            direction=direction,
            hidden_size=cells[0].fields["num_hidden"],
            **_attributes(cells),
        )
        halves = [self._nodes.parted(state, len(cells), axis=0) for state in finals]
        self.finals += itertools.chain.from_iterable(zip(*halves, strict=True))
        return self._side_by_side(outputs, len(cells), cells[0].fields["num_hidden"])

    def _side_by_side(self, outputs: str, directions: int, width: int) -> str:
        """Return a node's outputs (T, D, N, H) as (T, N, D*H)."""
        if directions == 1:
            return self._nodes.one("Squeeze", [outputs, self._nodes.integers(1)])
        turned = self._nodes.one("Transpose", [outputs], perm=[0, 2, 1, 3])
        # A 0 keeps the axis as it is.
        return self._nodes.one("Reshape", [turned, self._nodes.integers(0, 0, directions * width)])

    def _projected(self, cell: CellSpec, inputs: str, backward: bool) -> str:
        """Put a Scan over the steps of an LSTM with a projection."""
        nodes, axis, directions = self._nodes, self._nodes.integers(0), [int(backward)]
        begin = [nodes.one("Squeeze", [next(self._states), axis]) for _ in "hc"]
        *finals, outputs = nodes.add(
            "Scan",
            [*begin, inputs],
            [""] * 3,
            self._scope + _weights_prefix(cell).rstrip("_"),
            body=self._projected_step(cell),
            num_scan_inputs=1,
            scan_input_directions=directions,
            scan_output_directions=directions,
        )
        self.finals += [nodes.one("Unsqueeze", [state, axis]) for state in finals]
        return outputs

    def _projected_step(self, cell: CellSpec) -> Any:
        """Return the graph of one step, from h, c and x to h, c and, for the outputs, h."""
        i2h_weight, i2h_bias, h2h_weight, h2h_bias, h2r_weight = self._named(_weights_prefix(cell), self._packed(cell))
        body = Nodes(self._nodes.names)
        h, c, x = (body.names.new(f"{self._scope}{_weights_prefix(cell)}step_{letter}") for letter in "hcx")
        # Not one product for all steps: where a Transpose comes before it, ONNX Runtime 1.32 crashes on float16.
        i2h = body.one("Gemm", [x, i2h_weight, i2h_bias], transB=1)
        h2h = body.one("Gemm", [h, h2h_weight, h2h_bias], transB=1)
        input_gate, forget_gate, candidate, output_gate = body.parted(body.one("Add", [i2h, h2h]), 4, axis=1)
        kept = body.one("Mul", [body.one("Sigmoid", [forget_gate]), c])
        fresh = body.one("Mul", [body.one("Sigmoid", [input_gate]), body.one("Tanh", [candidate])])
        cell_state = body.one("Add", [kept, fresh])
        wide = body.one("Mul", [body.one("Sigmoid", [output_gate]), body.one("Tanh", [cell_state])])
        hidden = body.one("Gemm", [wide, h2r_weight], transB=1)
        H, P = cell.fields["num_hidden"], cell.fields["num_projection"]
        width = self._shapes[f"{_weights_prefix(cell)}i2h_i_weight"][1]
        results = ((hidden, P), (cell_state, H), (body.one("Identity", [hidden]), P))
        return body.graph("step", self._rows(((h, P), (c, H), (x, width))), self._rows(results))

    def _rows(self, values: Iterable[tuple[str, int]]) -> list[Any]:
        """Return what declares values of some width, one row for each sequence of a batch."""
        return [self._nodes.variable(name, self._dtype, [None, width]) for name, width in values]

    def _packed(self, cell: CellSpec) -> list[Stored]:
        """Return the tensors of an LSTM with a projection, by their roles: rnnx's own packed weights."""
        prefix, tensors = _weights_prefix(cell), []
        for group in ("i2h_weight", "i2h_bias", "h2h_weight", "h2h_bias"):
            held = gates(prefix, group, GATES["lstm"])
            rows, *width = self._shapes[held[0].weight]
            tensors.append(Stored(group, (len(held) * rows, *width), held))
        name = f"{prefix}h2r_weight"
        return [*tensors, Stored("h2r_weight", self._shapes[name], blocks(name))]

    def _named(self, prefix: str, tensors: Iterable[Stored]) -> list[str]:
        """Return names for tensors that are called by their roles so far; a tensor that is there has one."""
        names = []
        for tensor in tensors:
            key = dataclasses.replace(tensor, name="")
            if key not in self._stored:
                name = self._nodes.names.new(f"{self._scope}{prefix}{tensor.name}")
                self._stored[key] = dataclasses.replace(tensor, name=name)
            names.append(self._stored[key].name)
        return names


def _attributes(cells: Sequence[CellSpec]) -> dict[str, Any]:
    fields = cells[0].fields
    if "reset_after" in fields:
        return {"linear_before_reset": int(fields["reset_after"])}
    if "activation" in fields:
        return {"activations": [_ACTIVATIONS[fields["activation"]]] * len(cells)}
    return {}


def _weights_prefix(cell: CellSpec) -> str:
    prefix: str = cell.fields.get("params", cell.fields["prefix"])
    return prefix


def _are_equal(one: CellSpec, other: CellSpec) -> bool:
    """Say whether two cells are plain ones that a single node can run."""
    names = ("prefix", "params", "forget_bias")
    alike = [
        (cell.kind, {key: value for key, value in cell.fields.items() if key not in names}) for cell in (one, other)
    ]
    return one.kind in _OPERATORS and alike[0] == alike[1]

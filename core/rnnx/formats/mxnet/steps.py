"""Cells that MXNet unrolled into single operators, recognised step by step from their equations.

A step is found by what is computed, not by what its nodes are called: an LSTM is ``o * tanh(f * c + i * g)`` whose four
gates are slices of one sum of two ``FullyConnected``, and so on. Only the weights have to be called
``<prefix>i2h_weight``, ``<prefix>i2h_bias``, ``<prefix>h2h_weight`` and ``<prefix>h2h_bias``, as they are in
``mxnet.rnn``, in Gluon's cells and in the examples that came before both.

**The order of an LSTM's gates** in a packed weight is read from which slice goes where. It is i f c o since the fused
cell came (apache/mxnet pull request 5004, February 2017), and was i c f o before it: in the first
``python/mxnet/rnn/rnn_cell.py`` of MXNet 0.9, ``in_transform`` is ``slice_gates[1]``, and in ``example/rnn/lstm.py`` of
0.8 and earlier, which much code copied, it is so for good. That first ``rnn_cell.py`` had no ``unpack_weights``:
weights stored gate by gate are later ones, and their names are right.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

from rnnx.errors import WeightFormatError
from rnnx.formats.mxnet.graph import ADD, MULTIPLY, SUBTRACT, Entry, Graph, both_ways

__all__ = ["Cell", "Chain", "Step", "chains_of", "zoneout_rate"]

_WEIGHT = re.compile(r"(?s)(.*)(i2h|h2h)_weight")

#: A step's node is called ``lstm_t0_i2h``, a GRU's ``gru_t0__i2h``.
_STEP_NAME = re.compile(r"(?s)(.*)t\d+__?i2h")

#: The slices of a cell's gates by suffix, or None where one is no activation of a slice.
_Slices = Mapping[str, Entry | None]


@dataclasses.dataclass(frozen=True)
class Cell:
    """What all steps of a cell have in common: kind of cell, prefixes, size, gates in the order stored."""

    kind: str
    prefix: str
    weights: str
    num_hidden: int
    gates: tuple[str, ...]
    activation: str
    forget_bias: float


@dataclasses.dataclass(frozen=True)
class Step:
    """One step: the entries it reads, the one it makes, its ``h2h`` node, and the name of its ``i2h`` node."""

    cell: Cell
    inputs: Entry
    state: Entry
    output: Entry
    h2h: Entry
    name: str


@dataclasses.dataclass(frozen=True)
class Chain:
    """The steps of one unrolled cell, in order, and the rate at which its states are kept from step to step."""

    steps: tuple[Step, ...]
    zoneout_states: float

    @property
    def cell(self) -> Cell:
        """What the steps have in common."""
        return self.steps[0].cell


@dataclasses.dataclass(frozen=True)
class _Affine:
    """A ``FullyConnected`` with weights named as a cell's."""

    prefix: str
    role: str
    data: Entry
    product: Entry
    rows: int
    name: str
    forget_bias: float


def chains_of(graph: Graph) -> list[Chain]:
    """Return the unrolled cells in a graph, in the order of their first steps."""
    steps: dict[Entry, Step] = {}
    for position in range(len(graph.nodes)):
        found = _step(graph, (position, 0))
        if found is not None:
            steps[found.output] = found
    kept = _kept_states(graph, steps)
    chains: list[list[Step]] = []
    chain_of: dict[Entry, list[Step]] = {}
    for step in steps.values():
        before = steps.get(kept[step.state][0] if step.state in kept else step.state)
        chain = chain_of.pop(before.output, None) if before and before.cell == step.cell else None
        if chain is None:
            chain = []
            chains.append(chain)
        chain.append(step)
        chain_of[step.output] = chain
    rates = dict(kept.values())
    return [Chain(tuple(chain), max(rates.get(step.output, 0.0) for step in chain)) for chain in chains]


def zoneout_rate(graph: Graph, entry: Entry) -> float | None:
    """Return the rate of a zoneout, ``where(Dropout(ones), new, old)``, or None if the entry is something else."""
    node = graph.node(entry)
    if node.op != "where" or len(node.inputs) != 3:
        return None
    mask = graph.node(node.inputs[0])
    if mask.op != "Dropout" or not mask.inputs or graph.node(mask.inputs[0]).op != "ones_like":
        return None
    return mask.rate("p", 0.5)


def _kept_states(graph: Graph, steps: Mapping[Entry, Step]) -> dict[Entry, tuple[Entry, float]]:
    """Return each zoneout of a step's state: the state before zoneout, and the rate."""
    kept = {}
    for position, node in enumerate(graph.nodes):
        rate = zoneout_rate(graph, (position, 0))
        if rate is not None:
            _, new, old = node.inputs
            if new in steps and steps[new].state == old:
                kept[position, 0] = (new, rate)
    return kept


def _step(graph: Graph, output: Entry) -> Step | None:
    """Return the step whose new hidden state an entry is."""
    op = graph.node(output).op
    if op == MULTIPLY:
        return _lstm_step(graph, output)
    if op == ADD:
        return _gru_step(graph, output)
    return _rnn_step(graph, output) if graph.activation(output) else None


def _rnn_step(graph: Graph, output: Entry) -> Step | None:
    activation = graph.activation(output) or ""
    affines = _affine_pair(graph, graph.node(output).inputs[0])
    return _made("RNNCell", affines, ("",), output, activation) if affines else None


def _lstm_step(graph: Graph, output: Entry) -> Step | None:
    for slices in _lstm_gates(graph, output):
        sliced = _sliced(graph, slices)
        affines = _affine_pair(graph, sliced[0]) if sliced else None
        if sliced and affines:
            return _made("LSTMCell", affines, sliced[1], output)
    return None


def _lstm_gates(graph: Graph, output: Entry) -> Iterator[_Slices]:
    """Yield the ways to read an entry as ``o * tanh(f * c + i * g)``."""
    for o, squashed in both_ways(graph.operands(output, MULTIPLY)):
        for forgotten, written in both_ways(graph.operands(graph.before(squashed, "tanh"), ADD)):
            for i, g in both_ways(graph.operands(written, MULTIPLY)):
                for f, _ in both_ways(graph.operands(forgotten, MULTIPLY)):
                    gates = {"_" + name: graph.before(gate, "sigmoid") for name, gate in (("i", i), ("f", f), ("o", o))}
                    yield {**gates, "_c": graph.before(g, "tanh")}


def _gru_step(graph: Graph, output: Entry) -> Step | None:
    for previous, pairs in _gru_gates(graph, output):
        first, second = (_sliced(graph, slices) for slices in _gru_slices(pairs))
        affines = _affines(graph, first[0], second[0]) if first and second else None
        if first and second and affines and first[1] == second[1] and affines[1].data == previous:
            return _made("GRUCell", affines, first[1], output)
    return None


def _gru_gates(graph: Graph, output: Entry) -> Iterator[tuple[Entry, dict[str, tuple[Entry, ...]]]]:
    """Yield the ways to read an entry as ``(1 - z) * tanh(a + r * b) + z * h``: h, and what each gate is a sum of."""
    for kept, new in both_ways(graph.operands(output, ADD)):
        for z, previous in both_ways(graph.operands(kept, MULTIPLY)):
            for complement, candidate in both_ways(graph.operands(new, MULTIPLY)):
                if _is_complement(graph, complement, z):
                    for a, product in both_ways(graph.operands(graph.before(candidate, "tanh"), ADD)):
                        for r, b in both_ways(graph.operands(product, MULTIPLY)):
                            gates = {"_r": _gate_sum(graph, r), "_z": _gate_sum(graph, z), "_o": (a, b)}
                            yield previous, gates


def _gate_sum(graph: Graph, gate: Entry) -> tuple[Entry, ...]:
    return graph.operands(graph.before(gate, "sigmoid"), ADD)


def _is_complement(graph: Graph, entry: Entry, of: Entry) -> bool:
    """Say whether an entry is one minus another: with a number in `mxnet.rnn`, with ``ones_like`` in Gluon."""
    node = graph.node(entry)
    if node.op == "_rminus_scalar":
        return node.inputs == (of,) and node.attrs.get("scalar") in ("1", "1.0")
    terms = graph.operands(entry, SUBTRACT)
    return bool(terms) and graph.node(terms[0]).op == "ones_like" and terms[1] == of


def _gru_slices(pairs: Mapping[str, tuple[Entry, ...]]) -> tuple[_Slices, _Slices]:
    """Sort the terms of each gate by what they are slices of, that of the candidate's own first term first."""
    a, b = pairs["_o"]
    first: dict[str, Entry | None] = {"_r": None, "_z": None, "_o": a}
    second: dict[str, Entry | None] = {"_r": None, "_z": None, "_o": b}
    for gate in ("_r", "_z"):
        for one, other in both_ways(pairs[gate]):
            if one[0] == a[0] and other[0] == b[0]:
                first[gate], second[gate] = one, other
    return first, second


def _sliced(graph: Graph, slices: _Slices) -> tuple[Entry, tuple[str, ...]] | None:
    """Return what the gates are all the slices of, and their suffixes in the order of the slices."""
    entries = [entry for entry in slices.values() if entry is not None]
    if len(entries) < len(slices) or len({position for position, _ in entries}) != 1:
        return None
    node = graph.node(entries[0])
    if node.op != "SliceChannel" or node.integer("num_outputs") != len(slices) or len(node.inputs) != 1:
        return None
    by_output = {entry[1]: gate for gate, entry in slices.items() if entry is not None}
    if sorted(by_output) != list(range(len(slices))):
        return None
    return node.inputs[0], tuple(by_output[output] for output in range(len(slices)))


def _affine_pair(graph: Graph, total: Entry) -> tuple[_Affine, _Affine] | None:
    """Return the i2h and the h2h product that an entry is the sum of."""
    terms = graph.operands(total, ADD)
    return _affines(graph, *terms) if terms else None


def _affines(graph: Graph, one: Entry, other: Entry) -> tuple[_Affine, _Affine] | None:
    for i2h, h2h in ((_affine(graph, one), _affine(graph, other)), (_affine(graph, other), _affine(graph, one))):
        if i2h and h2h and (i2h.role, h2h.role) == ("i2h", "h2h") and i2h.prefix == h2h.prefix:
            return i2h, h2h
    return None


def _affine(graph: Graph, entry: Entry) -> _Affine | None:
    node = graph.node(entry)
    if node.op != "FullyConnected" or len(node.inputs) != 3:
        return None
    weight, bias = (graph.node(variable) for variable in node.inputs[1:])
    named = _WEIGHT.fullmatch(weight.name)
    if not named or weight.op != "null" or bias.op != "null" or bias.name != f"{named[1]}{named[2]}_bias":
        return None
    forget_bias = bias.forget_bias("lstmbias")
    return _Affine(named[1], named[2], node.inputs[0], entry, node.integer("num_hidden"), node.name, forget_bias)


def _made(
    kind: str, affines: tuple[_Affine, _Affine], gates: Sequence[str], output: Entry, activation: str = ""
) -> Step:
    i2h, h2h = affines
    if i2h.rows != h2h.rows or i2h.rows < 1 or i2h.rows % len(gates):
        raise WeightFormatError(
            f"symbol file: {kind} {i2h.prefix!r}: {i2h.name!r} has num_hidden {i2h.rows} and {h2h.name!r} {h2h.rows}; "
            f"expected the same multiple of {len(gates)}"
        )
    named = _STEP_NAME.fullmatch(i2h.name)
    prefix = named[1] if named else i2h.prefix
    size = i2h.rows // len(gates)
    cell = Cell(kind, prefix, i2h.prefix, size, tuple(gates), activation, i2h.forget_bias)
    return Step(cell, i2h.data, h2h.data, output, h2h.product, i2h.name)

"""The recurrent cells in an MXNet symbol file, so that a checkpoint loads without the code that built the network.

Cells are looked for in any larger graph, and found by what is computed; see `rnnx.formats.mxnet.steps` for single
cells, `rnnx.formats.mxnet.fused` for ``RNN`` operators, and `rnnx.formats.mxnet.flow` for how they are put together.

What a graph does not tell: the prefix of a ``DropoutCell`` (its nodes are numbered, not named after it), dropout before
the first or behind the last cell (it may be the network's own), and, of a cell unrolled for one step only, which way it
runs and at which rate its states are kept.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from rnnx.errors import UnsupportedError
from rnnx.formats.mxnet.flow import MAX_REACH, Flow, Value
from rnnx.formats.mxnet.fused import Fused, fused_of
from rnnx.formats.mxnet.graph import Graph
from rnnx.formats.mxnet.steps import Chain, chains_of
from rnnx.found import name_of, renamed_apart, stack_of
from rnnx.spec import GATES, CellSpec
from rnnx.spelling import Told

__all__ = ["Drawn", "parts_of_symbol"]

_RECURRENT_WEIGHT = re.compile(r"(?s).*h2h(_[a-z])?_weight")

#: The name of the node that joins two directions, unless MXNet numbered it.
_JOINING = re.compile(r"(?s)(?!concat\d+\Z)(.*)(?:out|t\d+)")

_GATES = {"LSTMCell": GATES["lstm"], "GRUCell": GATES["gru"], "RNNCell": GATES["rnn_tanh"]}


@dataclasses.dataclass(frozen=True)
class Drawn(Told):
    """A recurrent part as a symbol draws it: see `rnnx.found.Found`, and `rnnx.spelling.Told` for its weights."""

    name: str = dataclasses.field(kw_only=True)
    spec: CellSpec = dataclasses.field(kw_only=True)
    evidence: tuple[str, ...] = dataclasses.field(kw_only=True)


def parts_of_symbol(symbol: bytes) -> list[Drawn]:
    """Return the recurrent parts of a network, in the order in which they run.

    A part is a cell, or several of which each reads what the one before it makes; where one's output goes to several
    others, each is a part of its own. A part that the graph holds twice, with the same weights, is returned once.

    Parameters
    ----------
    symbol : bytes
        Content of a ``prefix-symbol.json``.

    Raises
    ------
    WeightFormatError
        If it is not a symbol file, or a cell in it makes no sense.
    UnsupportedError
        If there are recurrent cells in it, and none that rnnx has.
    """
    graph = Graph(symbol)
    chains = chains_of(graph)
    fused, strange = _fused_nodes(graph)
    parts = list(_parts(Flow(graph, chains, fused), fused))
    strange += _unknown_cells(graph, chains)
    if strange and not parts:
        raise UnsupportedError("; ".join(strange[:3]))
    told = [dataclasses.replace(part, evidence=(*part.evidence, *strange[:3])) for part in _once(parts)]
    return renamed_apart(told)


def _fused_nodes(graph: Graph) -> tuple[dict[int, Fused], list[str]]:
    """Return the cells of ``RNN`` nodes by position, and why some nodes are none."""
    fused: dict[int, Fused] = {}
    strange = []
    for position, node in enumerate(graph.nodes):
        if node.op == "RNN":
            try:
                fused[position] = fused_of(graph, node)
            except UnsupportedError as error:
                strange.append(str(error))
    return fused, strange


def _unknown_cells(graph: Graph, chains: Sequence[Chain]) -> list[str]:
    """Say which nodes read weights called as a recurrent cell's, and belong to no cell that was found."""
    known = {step.h2h for chain in chains for step in chain.steps}
    strange: dict[str, str] = {}
    for position, node in enumerate(graph.nodes):
        for variable in (graph.node(entry) for entry in node.inputs):
            named = variable.op == "null" and _RECURRENT_WEIGHT.fullmatch(variable.name)
            if named and (position, 0) not in known and node.op != "Reshape":
                told = (
                    f"{node.op} node {node.name!r} reads {variable.name!r} as a recurrent cell does, and is part of no "
                    "cell that rnnx has: build the tree yourself and pass it as cell="
                )
                strange.setdefault(variable.name, told)
    return list(strange.values())


def _once(parts: Sequence[Drawn]) -> list[Drawn]:
    kept: list[Drawn] = []
    seen = set()
    for part in parts:
        key = part.spec, tuple(part.gate_order.items())
        if key not in seen:
            seen.add(key)
            kept.append(part)
    return kept


def _parts(flow: Flow, fused: Mapping[int, Fused]) -> Iterator[Drawn]:
    cells = [seq for seq, made in enumerate(flow.seqs) if made.is_cell and flow.holds(seq)]
    inner = {
        layer
        for seq in cells
        for part, run in zip(flow.seqs[seq].parts, flow.seqs[seq].runs, strict=True)
        for layer in flow.run(part, run)
    }
    outer = dict.fromkeys(seq for seq in cells if seq not in inner)
    under = {seq: _cell_under(flow, seq, outer) for seq in outer}
    readers = Counter(under.values())
    joined = {seq: cell for seq, cell in under.items() if cell is not None and readers[cell] == 1}
    stacks = [_stack(flow, top, joined) for top in outer.keys() - joined.values()]
    for stack in sorted(stacks, key=lambda stack: (flow.seen_at[stack[0]], stack)):
        yield _Description(flow, fused).part(stack)


def _cell_under(flow: Flow, seq: int, outer: Collection[int]) -> int | None:
    """Return the cell that another one reads, through dropout or not."""
    value = flow.below(Value(seq))
    for _ in range(MAX_REACH):
        if value is None or not value.is_whole or flow.seqs[value.seq].kind != "dropout":
            break
        value = flow.below(value)
    return value.seq if value is not None and value.is_whole and value.seq in outer else None


def _stack(flow: Flow, top: int, joined: Mapping[int, int]) -> list[int]:
    """Return the layers of a part, the one that runs first leading."""
    stack = [top]
    bottom = top
    while bottom in joined:
        bottom = joined[bottom]
        while stack[-1] != bottom:
            stack += flow.run(stack[-1], 2)[1:]
    return stack[::-1]


class _Description:
    """The spec of one part, and all that is said about it on the way."""

    def __init__(self, flow: Flow, fused: Mapping[int, Fused]) -> None:
        self._flow, self._fused = flow, fused
        self._evidence: list[str] = []
        self._gate_order: dict[str, tuple[str, ...]] = {}
        self._renames: dict[str, str] = {}

    def part(self, stack: Sequence[int]) -> Drawn:
        spec = stack_of([self._layer(seq) for seq in stack])
        under = self._flow.below(Value(stack[0]))
        if under is not None and self._flow.seqs[under.seq].kind == "reverse":
            self._evidence.append("it reads its inputs from last to first: reverse them, and its outputs")
        return Drawn(self._gate_order, self._renames, name=name_of(spec), spec=spec, evidence=tuple(self._evidence))

    def _layer(self, seq: int) -> CellSpec:
        made = self._flow.seqs[seq]
        node = self._flow.graph.nodes[self._flow.seen_at[seq]]
        if made.kind == "output":
            return self._unrolled(self._flow.chains[made.node[0]])
        if made.kind == "rnn":
            return self._of_operator(self._fused[made.node[0]])
        if made.kind == "dropout":
            self._evidence.append(f"node {node.name!r}: dropout {made.rate} between two cells")
            return CellSpec("DropoutCell", {"dropout": made.rate, "prefix": "dropout_"})
        inside = [self._inside(part, run) for part, run in zip(made.parts, made.runs, strict=True)]
        if made.kind == "zoneout":
            return self._zoned(inside[0], made.rate, node.name)
        if made.kind == "residual":
            self._evidence.append(f"node {node.name!r} adds to the outputs what the cell reads: residual")
            return CellSpec("ResidualCell", {}, (inside[0],))
        self._evidence.append(f"node {node.name!r} joins two cells that read the same in opposite directions")
        named = _JOINING.fullmatch(node.name)
        return CellSpec("BidirectionalCell", {"output_prefix": named[1] if named else "bi_"}, tuple(inside))

    def _inside(self, seq: int, layers: int) -> CellSpec:
        return stack_of([self._layer(layer) for layer in reversed(self._flow.run(seq, layers))])

    def _unrolled(self, chain: Chain) -> CellSpec:
        cell = chain.cell
        fields: dict[str, int | float | str | bool] = {"num_hidden": cell.num_hidden, "prefix": cell.prefix}
        if cell.prefix != cell.weights:
            fields["params"] = cell.weights
        said = f"nodes {chain.steps[0].name!r} to {chain.steps[-1].name!r}: {cell.kind}, {cell.num_hidden} hidden"
        if cell.kind == "LSTMCell":
            fields["forget_bias"] = cell.forget_bias
        elif cell.kind == "GRUCell":
            fields["reset_after"] = True
        else:
            fields["activation"] = cell.activation
            said += f", activation {cell.activation}"
        if cell.gates != _GATES[cell.kind]:
            self._gate_order[cell.weights] = cell.gates
        if len(cell.gates) > 1:
            said += f", packed gates in the order {' '.join(gate[1:] for gate in cell.gates)}"
        self._evidence.append(said)
        return self._with_kept_states(CellSpec(cell.kind, fields), chain)

    def _with_kept_states(self, spec: CellSpec, chain: Chain) -> CellSpec:
        if not chain.zoneout_states:
            return spec
        self._evidence.append(f"{chain.cell.prefix!r} keeps its states at the rate {chain.zoneout_states}: zoneout")
        return CellSpec("ZoneoutCell", {"zoneout_outputs": 0.0, "zoneout_states": chain.zoneout_states}, (spec,))

    def _zoned(self, inside: CellSpec, rate: float, name: str) -> CellSpec:
        """Return a cell whose outputs are zoned out, as one cell with the zoneout of its states if it has that, too."""
        self._evidence.append(f"node {name!r} keeps outputs at the rate {rate}: zoneout")
        states = 0.0
        holder = inside.children[0] if inside.kind == "ResidualCell" else inside
        if holder.kind == "ZoneoutCell" and not holder.fields["zoneout_outputs"]:
            states, bare = holder.fields["zoneout_states"], holder.children[0]
            inside = bare if holder is inside else CellSpec("ResidualCell", {}, (bare,))
        return CellSpec("ZoneoutCell", {"zoneout_outputs": rate, "zoneout_states": states}, (inside,))

    def _of_operator(self, fused: Fused) -> CellSpec:
        self._evidence += fused.evidence
        self._renames.update(fused.renames)
        return fused.spec

"""Which sequence every value in a graph belongs to, and at which step.

A cell may be unrolled over an array of all steps, a list of steps, or both in turn, with ``SliceChannel``,
``SwapAxis``, ``expand_dims``, ``Concat`` and ``reverse`` in between. Here those say nothing but where in which sequence
a value stands, so that layers are seen as what they are, functions from sequence to sequence:

===========  ======================================================================================
``source``   anything that is no cell's: an embedding, the data
``output``   the outputs of an unrolled cell
``rnn``      the outputs of an ``RNN`` operator
``dropout``  ``Dropout`` of a sequence
``zoneout``  ``where(Dropout(ones), new, old)``, old being the outcome at the step before
``residual`` a sequence plus what its layers read
``pair``     two sequences side by side, of layers that read the same one in opposite directions
``reverse``  a sequence from last to first
``list``     steps that are no sequence otherwise
===========  ======================================================================================

Every node is looked at once, in order; nothing recurses deeper than cells may be nested.

Source: ``_normalize_sequence`` and the ``unroll`` of every cell in ``python/mxnet/rnn/rnn_cell.py`` of MXNet 1.9.1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from rnnx.formats.mxnet.graph import ADD, Entry, Graph, Node
from rnnx.formats.mxnet.steps import Chain, zoneout_rate

__all__ = ["Flow", "Seq", "Value"]

#: Deepest nesting of modifiers and bidirectional cells that is followed.
MAX_DEPTH = 32

#: Most layers between the two ends of a residual connection, or within a bidirectional cell.
MAX_REACH = 64

_CELLS = frozenset({"output", "rnn", "zoneout", "residual", "pair"})


class Value(NamedTuple):
    """A sequence by its number: all of it, or one step (counted from 0) out of `of`."""

    seq: int
    step: int = -1
    of: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether it is all steps."""
        return self.step < 0


@dataclasses.dataclass(frozen=True)
class Seq:
    """A sequence: its kind, as in the table above, and what it is made of.

    ``parts`` are sequences by number and ``runs`` how many layers of each, from the top, belong to this one. ``node``
    is the chain's number for ``output`` and the entry for ``source`` and ``rnn``.
    """

    kind: str
    parts: tuple[int, ...] = ()
    runs: tuple[int, ...] = ()
    rate: float = 0.0
    node: Entry = (-1, 0)
    steps: tuple[Value, ...] = ()

    @property
    def is_cell(self) -> bool:
        """Whether a recurrent cell made it, of whatever kind."""
        return self.kind in _CELLS

    @property
    def is_layer(self) -> bool:
        """Whether it has something below it: a cell made it, or dropout."""
        return self.is_cell or self.kind == "dropout"


#: What an operator makes of the values it reads; None for nothing that is known.
_Rule = Callable[[Node, list[Value]], Value | None]


class Flow:
    """The sequences of a graph.

    Parameters
    ----------
    graph : Graph
        The graph.
    chains : sequence of Chain
        The unrolled cells in it.
    rnns : collection of int
        The positions of the ``RNN`` nodes that are cells; others are sources.

    Attributes
    ----------
    seqs : list of Seq
        The sequences by number, each one behind its parts.
    seen_at : list of int
        For each of them, the node at which it was first seen.
    """

    def __init__(self, graph: Graph, chains: Sequence[Chain], rnns: Collection[int]) -> None:
        self.graph, self.chains = graph, chains
        self.seqs: list[Seq] = []
        self.seen_at: list[int] = []
        self._rnns = rnns
        self._numbers: dict[Seq, int] = {}
        self._depths: list[int] = []
        # Pairs and zoneouts seen at a step that tells them from something else; pairs whose directions are known.
        self._confirmed: set[int] = set()
        self._placed: set[int] = set()
        self._values: dict[Entry, Value] = {}
        self._below: dict[Value, Value | None] = {}
        self._holds: dict[int, bool] = {}
        self._here: Entry = (0, 0)
        self._steps = {
            step.output: (number, place, step)
            for number, chain in enumerate(chains)
            for place, step in enumerate(chain.steps)
        }
        rules = self._rules()
        for position, node in enumerate(graph.nodes):
            self._visit(position, node, rules.get(node.op))

    def below(self, value: Value) -> Value | None:
        """Return what the layer that made a value reads at the same step; None for what no layer made."""
        if value not in self._below:
            self._below[value] = self._find_below(value)
        return self._below[value]

    def run(self, seq: int, count: int) -> list[int]:
        """Return a sequence and those below it, `count` in all or as many as layers made, the topmost first."""
        found: list[int] = []
        value: Value | None = Value(seq)
        while value is not None and value.is_whole and len(found) < count and self.holds(value.seq):
            found.append(value.seq)
            value = self.below(value)
        return found

    def holds(self, seq: int) -> bool:
        """Say whether a layer made the sequence at all its steps, not only at those at which it was looked at."""
        if seq not in self._holds:
            made = self.seqs[seq]
            complete = all(len(self.run(part, run)) == run for part, run in zip(made.parts, made.runs, strict=False))
            seen = seq in self._confirmed or made.kind not in ("pair", "zoneout")
            opposite = made.kind != "pair" or seq in self._placed or self._is_mirrored(made)
            self._holds[seq] = made.is_layer and complete and seen and opposite
        return self._holds[seq]

    def _is_mirrored(self, pair: Seq) -> bool:
        """Say whether the second cell of a pair reads all that the first one reads, from last to first."""
        read = [self._descended(Value(part), run) for part, run in zip(pair.parts, pair.runs, strict=True)]
        return read[0] is not None and read[0].is_whole and self._reversed(read[0]) == read[1]

    # -- what each operator does to sequences ---------------------------------------------------------------------

    def _rules(self) -> dict[str, _Rule]:
        return {
            ADD: self._sum,
            "Concat": self._concat,
            "Dropout": self._dropout,
            "RNN": self._rnn,
            "SwapAxis": self._swapped,
            "_copy": lambda _, values: values[0],
            "reverse": self._reverse,
            "stack": lambda _, values: self._gathered(values),
            "transpose": self._swapped,
            "where": self._where,
        }

    def _visit(self, position: int, node: Node, rule: _Rule | None) -> None:
        self._here = (position, 0)
        values = [self._value(entry) for entry in node.inputs]
        made = None
        if self._here in self._steps:
            number, place, _ = self._steps[self._here]
            seq = self._number(Seq("output", node=(number, 0)))
            made = Value(seq, place, len(self.chains[number].steps))
        elif rule and values:
            made = rule(node, values)
        if made is not None:
            self._values[self._here] = made

    def _rnn(self, _: Node, values: list[Value]) -> Value | None:
        if self._here[0] not in self._rnns or not values[0].is_whole:
            return None
        return Value(self._number(Seq("rnn", node=self._here)))

    def _dropout(self, node: Node, values: list[Value]) -> Value | None:
        rate = node.rate("p", 0.5)
        if node.attrs.get("mode", "training") != "training" or node.attrs.get("axes", "()") not in ("()", "[]", "None"):
            return None
        if rate == 0:
            return values[0]
        part = values[0].seq
        return values[0]._replace(seq=self._number(Seq("dropout", (part,), rate=rate), self._depths[part]))

    def _where(self, node: Node, values: list[Value]) -> Value | None:
        rate = zoneout_rate(self.graph, self._here)
        if rate is None or self._keeps_state(node) or not self.seqs[values[1].seq].is_cell:
            return None
        new, old = values[1:]
        kept = Seq("zoneout", (new.seq,), (1,), rate)
        first = new.step == 0 and not new.is_whole
        if not first and old != Value(self._numbers.get(kept, -1), new.step - 1, new.of):
            return None
        made = self._nested(new, kept, self._depths[new.seq])
        if made is not None and (not first or new.of == 1):
            self._confirmed.add(made.seq)
        return made

    def _keeps_state(self, node: Node) -> bool:
        return node.inputs[1] in self._steps and self._steps[node.inputs[1]][2].state == node.inputs[2]

    def _sum(self, _: Node, values: list[Value]) -> Value | None:
        if len(values) != 2:
            return None
        for top, bottom in (values, values[::-1]):
            reach = self._reach(top)
            if bottom in reach[1:]:
                run = reach[: reach.index(bottom, 1)]
                if any(self.seqs[value.seq].is_cell for value in run):
                    depth = max(self._depths[value.seq] for value in run)
                    return self._nested(top, Seq("residual", (top.seq,), (len(run),)), depth)
        return None

    def _concat(self, node: Node, values: list[Value]) -> Value | None:
        dim = node.integer("dim", 1)
        makers = [self.graph.node(entry) for entry in node.inputs]
        if dim in (0, 1) and all(self._adds_axis(maker, dim) for maker in makers):
            return self._gathered([self._value(maker.inputs[0]) for maker in makers])
        if len(values) != 2 or dim not in ((2, -1) if values[0].is_whole else (1, -1)):
            return None
        return self._pair(*values)

    def _adds_axis(self, node: Node, axis: int) -> bool:
        return node.op == "expand_dims" and len(node.inputs) == 1 and node.integer("axis") == axis

    def _pair(self, left: Value, right: Value) -> Value | None:
        turned = right.is_whole and self.seqs[right.seq].kind == "reverse"
        meeting = self._meeting(left, right) if left.is_whole == right.is_whole else None
        if meeting is None:
            return None
        shared, runs = meeting
        placed = turned or self._starts_opposite(left, right, shared, runs)
        if not placed and not (shared.is_whole and right.of == left.of):
            return None
        parts = left.seq, self.seqs[right.seq].parts[0] if turned else right.seq
        depth = max(self._depths[value.seq] for run in runs for value in run)
        made = self._nested(left, Seq("pair", parts, (len(runs[0]), len(runs[1]))), depth)
        if made is not None and placed:
            self._placed.add(made.seq)
        if made is not None and (placed or left.step != right.step):
            self._confirmed.add(made.seq)
        return made

    def _meeting(self, left: Value, right: Value) -> tuple[Value, list[list[Value]]] | None:
        """Return the first thing that cells below both values read, and the layers from it to either of them."""
        reaches = self._reach(left), self._reach(right)
        read_by_right = set(reaches[1][1:])
        shared = next((value for value in reaches[0][1:] if value in read_by_right), None)
        if shared is None:
            return None
        runs = [reach[: reach.index(shared, 1)] for reach in reaches]
        return (shared, runs) if all(any(map(self._made_by_cell, run)) for run in runs) else None

    def _starts_opposite(self, left: Value, right: Value, shared: Value, runs: Sequence[list[Value]]) -> bool:
        """Say whether one cell's first step reads the first of what they share, and the other's the last.

        Either may have fewer steps than there are: MXNet keeps none that only lead to outputs nobody uses.
        """
        if shared.is_whole:
            return False
        ends = [(Value(shared.seq, 0, shared.of), shared.step)]
        ends.append((Value(shared.seq, shared.of - 1, shared.of), shared.of - 1 - shared.step))
        sides = zip((left, right), runs, strict=True)
        found = [(self._descended(side._replace(step=0), len(run)), side.step) for side, run in sides]
        return found in (ends, ends[::-1])

    def _made_by_cell(self, value: Value) -> bool:
        seq = self.seqs[value.seq]
        return (self.seqs[seq.parts[0]] if seq.kind == "reverse" else seq).is_cell

    def _swapped(self, node: Node, values: list[Value]) -> Value | None:
        if node.op == "SwapAxis":
            fits = {node.integer("dim1", 0), node.integer("dim2", 0)} == {0, 1}
        else:
            fits = node.attrs.get("axes", "").strip("()[]").replace(" ", "") == "1,0,2"
        return values[0] if fits else None

    def _reverse(self, node: Node, values: list[Value]) -> Value | None:
        in_time = node.attrs.get("axis", "").strip("()[], ") in ("0", "1")
        return self._reversed(values[0]) if in_time and values[0].is_whole else None

    # -- sequences ------------------------------------------------------------------------------------------------

    def _value(self, entry: Entry) -> Value:
        if entry not in self._values:
            found = self._slice(self.graph.node(entry), entry[1])
            self._values[entry] = found or Value(self._number(Seq("source", node=entry)))
        return self._values[entry]

    def _slice(self, node: Node, output: int) -> Value | None:
        if node.op != "SliceChannel" or len(node.inputs) != 1 or not node.flag("squeeze_axis"):
            return None
        count = node.integer("num_outputs")
        if node.integer("axis", 1) not in (0, 1) or output >= count:
            return None
        return self._at(self._value(node.inputs[0]), output, count)

    def _at(self, value: Value, step: int, of: int) -> Value | None:
        """Return one step of a whole sequence; None if it is none, or has another number of steps."""
        seq = self.seqs[value.seq]
        if not value.is_whole:
            return None
        if seq.kind == "reverse":
            return self._at(Value(seq.parts[0]), of - 1 - step, of)
        if seq.kind == "list":
            return seq.steps[step] if len(seq.steps) == of else None
        if seq.kind == "output" and len(self.chains[seq.node[0]].steps) != of:
            return None
        return Value(value.seq, step, of)

    def _gathered(self, values: list[Value]) -> Value:
        """Return the sequence that has these steps."""
        of = len(values)
        seq = values[0].seq
        if values == [Value(seq, step, of) for step in range(of)]:
            return Value(seq)
        if values == [Value(seq, of - 1 - step, of) for step in range(of)]:
            return self._reversed(Value(seq))
        return Value(self._number(Seq("list", steps=tuple(values))))

    def _reversed(self, value: Value) -> Value:
        seq = self.seqs[value.seq]
        if seq.kind == "reverse":
            return Value(seq.parts[0])
        if seq.kind == "list":
            return Value(self._number(Seq("list", steps=seq.steps[::-1])))
        return Value(self._number(Seq("reverse", (value.seq,)), self._depths[value.seq]))

    def _reach(self, value: Value) -> list[Value]:
        """Return a value and what the layers that made it read, from the top down."""
        found = [value]
        under = self.below(value)
        while under is not None and len(found) <= MAX_REACH:
            found.append(under)
            under = self.below(under)
        return found

    def _find_below(self, value: Value) -> Value | None:
        seq = self.seqs[value.seq]
        if seq.kind == "output":
            steps = self.chains[seq.node[0]].steps
            if value.is_whole:
                return self._gathered([self._value(step.inputs) for step in steps])
            return self._value(steps[value.step].inputs)
        if seq.kind == "reverse":
            under = self.below(Value(seq.parts[0]))
            return self._reversed(under) if under is not None and under.is_whole else None
        if seq.kind in ("rnn", "dropout"):
            read = self._value(self.graph.node(seq.node).inputs[0]) if seq.kind == "rnn" else Value(seq.parts[0])
            return read if value.is_whole else self._at(read, value.step, value.of)
        if not seq.is_cell:
            return None
        return self._descended(value._replace(seq=seq.parts[0]), seq.runs[0])

    def _descended(self, value: Value | None, layers: int) -> Value | None:
        for _ in range(layers):
            value = self.below(value) if value is not None else None
        return value

    def _nested(self, like: Value, seq: Seq, depth: int) -> Value | None:
        """Return the value of a cell around other cells at the same step; None if it is nested too deep."""
        return like._replace(seq=self._number(seq, depth + 1)) if depth < MAX_DEPTH else None

    def _number(self, seq: Seq, depth: int = 0) -> int:
        if seq not in self._numbers:
            self._numbers[seq] = len(self.seqs)
            self.seqs.append(seq)
            self.seen_at.append(self._here[0])
            self._depths.append(depth)
        return self._numbers[seq]

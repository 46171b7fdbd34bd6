"""How the weights of a cell tree stand in a file under the names of `mxnet.rnn`: one a gate, packed, or as one vector.

====================================  =======================================================================
``<p>i2h_f_weight``                   one a gate, as ``save_rnn_checkpoint`` writes them
``<p>i2h_weight``                     packed: the gates of a cell, one under the other
``<p>parameters``                     every layer of a fused cell, in cuDNN's canonical order
====================================  =======================================================================

Each cell may be spelled its own way. A symbol can tell that packed gates stand in another order than today's, and that
a vector has another name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rnnx.cells import BaseRNNCell, FusedRNNCell, placement
from rnnx.cells.node import Node
from rnnx.errors import ShapeError, UnsupportedError, WeightFormatError, nearest
from rnnx.found import Found, built
from rnnx.fusion import fused_spec, unfused_spec
from rnnx.spec import CellSpec
from rnnx.weights.layout import GROUPS
from rnnx.weights.stored import Shape, Stored, blocks

__all__ = ["Told", "accepted_names", "found_as", "plain_leaves", "spelled"]


@dataclasses.dataclass(frozen=True)
class Told:
    """What a symbol tells of the weights in the file beside it.

    Parameters
    ----------
    gate_order : mapping of str to tuple of str
        For each prefix of weights whose packed gates do not stand in the order of `rnnx.spec.GATES`: the suffixes of
        the gates in the order stored.
    renames : mapping of str to str
        Weights that are not called what the cell calls them: the name stored to the name wanted.
    """

    gate_order: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    renames: Mapping[str, str] = dataclasses.field(default_factory=dict)


def spelled(cell: BaseRNNCell, shapes: Mapping[str, Shape], told: Told = Told()) -> tuple[int, tuple[Stored, ...]]:
    """Return the width of a tree's inputs, and how a file's arrays are made of the tree's weights.

    Parameters
    ----------
    cell : BaseRNNCell
        The tree, with or without weights.
    shapes : mapping of str to tuple of int
        The shape of every array of the file.
    told : Told, optional
        What the symbol says.

    Raises
    ------
    WeightFormatError
        If weights are missing, or stand there in two spellings.
    """
    file = _File(shapes, told)
    size = _input_size(cell, file)
    gates = placement.gate_shapes(cell, size)
    stored: dict[str, Stored] = {}
    covered: dict[str, str] = {}
    for name, weights in _packed(cell):
        if name in file.names and name not in stored:
            _refuse_twice(name, weights, covered, file)
            stored[name] = file.tensor(name, weights, gates)
            covered.update(dict.fromkeys(weights, name))
    for name in gates:
        if name not in covered:
            if name not in file.names:
                raise WeightFormatError(file.missing(name, cell))
            stored[name] = file.tensor(name, (name,), gates)
    return size, tuple(stored.values())


def found_as(
    name: str, spec: CellSpec, evidence: tuple[str, ...], shapes: Mapping[str, Shape], told: Told = Told()
) -> Found:
    """Return the part that a description and the arrays of a file make; errors as of `spelled`."""
    cell = built(spec)
    try:
        size, stored = spelled(cell, shapes, told)
    except ShapeError as error:
        raise WeightFormatError(f"the cell tree does not fit its weights: {error}") from error
    return Found(name, spec, evidence, size, cell.output_size(size), stored)


def accepted_names(cell: BaseRNNCell) -> set[str]:
    """Return every name under which a weight of the tree may stand in a file."""
    return {name for packed, gates in _packed(cell) for name in (packed, *gates)}


def plain_leaves(cell: BaseRNNCell) -> Iterator[Node]:
    """Yield the cells of a tree that have weights, in order, with fused ones unfused."""
    for leaf in cell.leaves():
        if isinstance(leaf, FusedRNNCell):
            yield from plain_leaves(BaseRNNCell.from_spec(unfused_spec(leaf.spec)))
        elif leaf.own_parameters():
            yield leaf


class _File:
    """A file's arrays under the names of today, and how their gates stand."""

    def __init__(self, shapes: Mapping[str, Shape], told: Told) -> None:
        for old, new in told.renames.items():
            if {old, new} <= shapes.keys():
                raise WeightFormatError(f"weight {old!r} is to be called {new!r}, as another array is: rename that")
        self.names = {told.renames.get(name, name): shape for name, shape in shapes.items()}
        self._stored_names = {new: old for old, new in told.renames.items() if old in shapes}
        self._gate_order = told.gate_order

    def tensor(self, name: str, weights: Sequence[str], gates: Mapping[str, Shape]) -> Stored:
        """Return how an array is made of weights."""
        shapes = [gates[weight] for weight in weights]
        if len({shape[1:] for shape in shapes}) == 1:
            shape = (sum(each[0] for each in shapes), *shapes[0][1:])
        else:  # matrices and biases follow each other in a vector
            shape = (sum(math.prod(each) for each in shapes),)
        return Stored(self._stored_names.get(name, name), shape, blocks(*self._in_stored_order(name, weights)))

    def _in_stored_order(self, name: str, weights: Sequence[str]) -> Sequence[str]:
        for prefix, order in self._gate_order.items():
            if name in {prefix + group for group in GROUPS}:
                role, kind = name.removeprefix(prefix).split("_")
                return [f"{prefix}{role}{gate}_{kind}" for gate in order]
        return weights

    def missing(self, gate: str, cell: BaseRNNCell) -> str:
        """Say which weight is missing: that of a gate where others of its cell stand there one a gate."""
        name = gate
        for leaf in cell.leaves():
            packed = leaf.gate_weights()
            mine = {weight for weights in packed.values() for weight in weights}
            if gate in mine and not mine & self.names.keys():
                name = next(name for name, weights in packed.items() if gate in weights)
        return f"weight {name!r} is missing{nearest(name, self.names)}"


def _refuse_twice(name: str, weights: Sequence[str], covered: Mapping[str, str], file: _File) -> None:
    """Refuse a packed weight where another one, or one of its gates, holds the same."""
    others = {covered[weight] for weight in weights if weight in covered}
    others |= {weight for weight in weights if weight in file.names and weight != name}
    if others:
        raise WeightFormatError(f"weights {name!r} and {min(others)!r} hold the same gate or layer: keep one of them")


def _other_forms(cell: BaseRNNCell, leaves: Iterable[Node]) -> Iterator[BaseRNNCell]:
    """Yield the tree fused, and leaves of it unfused: a file may spell the weights as any of them has them."""
    with contextlib.suppress(UnsupportedError):  # most trees have no fused form
        yield BaseRNNCell.from_spec(fused_spec(cell.spec))
    for leaf in leaves:
        if isinstance(leaf, FusedRNNCell):
            yield BaseRNNCell.from_spec(unfused_spec(leaf.spec))


def _packed(cell: BaseRNNCell) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the names of packed weights and vectors, and the weights of single gates that each holds."""
    for form in (cell, *_other_forms(cell, cell.leaves())):
        for leaf in form.leaves():
            yield from leaf.gate_weights().items()


def _input_size(cell: BaseRNNCell, file: _File) -> int:
    first = list(cell.first_leaves())
    for form in _other_forms(cell, first):
        first += form.first_leaves()
    for leaf in first:
        size = leaf.input_size_of(_packed_shapes(leaf, file))
        if size is not None:
            return size
    return 1  # no weight depends on it, or none is there


def _packed_shapes(leaf: Node, file: _File) -> dict[str, Shape]:
    """Return the shapes of a cell's weights, those that are stored one a gate as if they were packed."""
    shapes = {}
    for name, weights in leaf.gate_weights().items():
        if name in file.names:
            shapes[name] = file.names[name]
        elif name.endswith("i2h_weight") and len(file.names.get(weights[0], ())) == 2:
            rows, width = file.names[weights[0]]
            shapes[name] = (rows * len(weights), width)
    return shapes

"""`export`: a module of torch's own that computes what a cell tree does, and needs no rnnx.

A tree is told as pieces (`rnnx.pieces`): stacks of layers, each as deep as one of torch's recurrent modules can be,
dropout, residuals, and two directions that no such module has together. A single stack is the module itself. More are
joined by a `torch.fx.GraphModule`, which is a class of torch's, carries its own source, and is pickled and loaded
without rnnx.

Names, layouts and which cells have a module are those of `rnnx.formats.torch`, by which PyTorch's files are written.

Sources: ``torch/nn/modules/rnn.py`` and ``torch/fx/graph_module.py`` of PyTorch 2.13.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from rnnx.backend import Array
from rnnx.building import two_directions
from rnnx.cells import BaseRNNCell, placement
from rnnx.errors import RNNXError
from rnnx.formats.torch.modules import modules_of
from rnnx.formats.torch.names import Place, module_tensors
from rnnx.pieces import Directions, Dropout, Piece, Residual, Stack, pieces_of, walk
from rnnx.registry import get_backend
from rnnx.spec import CellSpec
from rnnx.weights.stored import Block, put_together

__all__ = ["export"]

_MODULES: Mapping[str, Callable[..., torch.nn.Module]] = {
    "LSTMCell": torch.nn.LSTM,
    "LSTMPCell": torch.nn.LSTM,
    "GRUCell": torch.nn.GRU,
    "RNNCell": torch.nn.RNN,
}


def export(cell: BaseRNNCell, *, inference: bool = False) -> torch.nn.Module:
    """Return a module of torch's own with a cell tree's weights, bit for bit, and the same outputs.

    A fused cell, a plain cell, a pair of equal ones, and a stack of layers alike become one ``torch.nn.LSTM``, ``GRU``
    or ``RNN``. Any other tree of such cells becomes a `torch.fx.GraphModule` of them, whose source `print` shows: it is
    called as ``outputs, states = module(inputs)``, goes on from ``module(inputs, *states)``, and has in `states` what
    each of its recurrent modules returns, in order. Inputs are (N, T, I): ``batch_first`` is set.

    Parameters
    ----------
    cell : BaseRNNCell
        The tree, with weights; it is left as it is, and the module's weights are copies, where the cell's are. Weights
        that cells share are shared in the module.
    inference : bool
        True leaves out what acts in training only, dropout and zoneout.

    Raises
    ------
    UnsupportedError
        For a cell that torch has nothing for, which the message names: other activations than tanh and relu, a GRU that
        resets before the recurrent product, a cell of one's own, and, unless `inference` is set, zoneout.
    """
    pieces = _of_torch(pieces_of(cell.spec, inference, "module of PyTorch", "rnnx_torch.RNNModule"))
    packed = cell.get_params()
    if not packed:
        raise RNNXError("the cell has no weights yet: call initialize() or load_params() before export()")
    modules = _Modules(cell.unpack_weights(packed), _device(cell))
    if len(pieces) == 1 and isinstance(pieces[0], Stack):
        return modules.recurrent(pieces[0])
    return _Graph(modules).of(pieces)


def _device(cell: BaseRNNCell) -> str | None:
    value = next(iter(placement.values(cell).values()))
    return str(value.device) if isinstance(value, Tensor) else None


# -- the pieces as torch has them -------------------------------------------------------------------------------------


def _of_torch(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """Return the pieces with neighbours joined where one module of torch is both, with the dropout between them."""
    joined: list[Piece] = []
    for piece in itertools.chain.from_iterable(map(_own, pieces)):
        between = joined[-1] if joined and isinstance(joined[-1], Dropout) else None
        place = -2 if between else -1
        below = joined[place] if len(joined) >= -place else None
        rate = between.rate if between else 0.0
        if isinstance(piece, Stack) and isinstance(below, Stack) and _stackable(below, piece, rate):
            joined[place:] = [Stack(below.layers + piece.layers, rate)]
        else:
            joined.append(piece)
    return tuple(joined)


def _own(piece: Piece) -> Iterator[Piece]:
    """Yield a piece, with what is within it joined; a cell that torch has no module for is refused."""
    if isinstance(piece, Stack):
        yield from (Stack(module.layers) for layer in piece.layers for module in modules_of(layer))
    elif isinstance(piece, Residual):
        yield Residual(_of_torch(piece.inner))
    elif isinstance(piece, Directions):
        yield _pair(_of_torch(piece.forward), _of_torch(piece.backward))
    else:
        yield piece


def _pair(forward: tuple[Piece, ...], backward: tuple[Piece, ...]) -> Piece:
    """Return two directions as a layer of one module if they are single cells alike."""
    layers = [layer for piece in (*forward, *backward) if isinstance(piece, Stack) for layer in piece.layers]
    if len(forward) == len(backward) == 1 and len(layers) == 2 and _alike(*layers):
        return Stack((two_directions(layers),))
    return Directions(forward, backward)


def _stackable(below: Stack, above: Stack, dropout: float) -> bool:
    inside = {stack.dropout for stack in (below, above) if len(stack.layers) > 1}
    return inside <= {dropout} and _alike(below.layers[0], above.layers[0])


def _alike(one: CellSpec, other: CellSpec) -> bool:
    """Say whether two layers have the same equation, sizes and directions."""
    return _equations(one) == _equations(other)


def _equations(layer: CellSpec) -> list[tuple[Any, ...]]:
    fields = ("num_hidden", "num_projection", "activation")
    return [(cell.kind, *(cell.fields.get(field) for field in fields)) for cell in _directions(layer)]


def _directions(layer: CellSpec) -> Sequence[CellSpec]:
    return layer.children if layer.kind == "BidirectionalCell" else (layer,)


# -- the pieces as modules --------------------------------------------------------------------------------------------


class _Modules:
    """Makes modules with a tree's weights, which are those of single gates."""

    def __init__(self, weights: Mapping[str, Array], device: str | None) -> None:
        self._weights, self._device = weights, device
        self._known: dict[tuple[Block, ...], torch.nn.Parameter] = {}

    def recurrent(self, stack: Stack) -> torch.nn.Module:
        """Return the module that a stack of layers is."""
        shapes = {name: tuple(array.shape) for name, array in self._weights.items()}
        tensors = list(module_tensors(Place(""), stack.layers, shapes))
        held = {block.weight: self._weights[block.weight] for tensor in tensors for block in tensor.blocks}
        arrays = put_together(tensors, held, "a module of PyTorch")
        module = _without_values(stack, tensors[0].shape[1])
        for tensor in tensors:
            setattr(module, tensor.name, self._parameter(tensor.blocks, arrays[tensor.name]))
        return module

    def _parameter(self, blocks: tuple[Block, ...], array: Array) -> torch.nn.Parameter:
        """Return a tensor of such weights as a parameter, the same one wherever the tree shares them."""
        if blocks not in self._known:
            value = get_backend("torch").from_numpy(np.asarray(array), self._device)
            self._known[blocks] = torch.nn.Parameter(value)
        return self._known[blocks]


def _without_values(stack: Stack, input_size: int) -> torch.nn.Module:
    """Return a module whose parameters are yet to come; drawing them would use up torch's random numbers."""
    sides = _directions(stack.layers[0])
    first = sides[0]
    options: dict[str, Any] = {"num_layers": len(stack.layers), "bidirectional": len(sides) == 2, "batch_first": True}
    if first.kind == "LSTMPCell":
        options["proj_size"] = first.fields["num_projection"]
    if first.kind == "RNNCell":
        options["nonlinearity"] = first.fields["activation"]
    make = _MODULES[first.kind]
    return make(input_size, first.fields["num_hidden"], dropout=stack.dropout, device="meta", **options)


class _Graph:
    """A graph of modules, as it is made."""

    def __init__(self, modules: _Modules) -> None:
        self._modules = modules
        self._graph = fx.Graph()
        self._root: dict[str, torch.nn.Module] = {}
        self._states: Iterator[fx.Node] = iter(())
        self._finals: list[fx.Node] = []

    def of(self, pieces: Sequence[Piece]) -> fx.GraphModule:
        """Return the module of a tree."""
        inputs = self._graph.placeholder("inputs")
        count = sum(isinstance(piece, Stack) for piece in walk(pieces))
        self._states = iter([self._graph.placeholder(f"state_{number}", default_value=None) for number in range(count)])
        outputs = self._run(pieces, inputs)
        self._graph.output((outputs, tuple(self._finals)))
        return fx.GraphModule(self._root, self._graph, "RecurrentStack")

    def _run(self, pieces: Sequence[Piece], value: fx.Node) -> fx.Node:
        for piece in pieces:
            value = self._step(piece, value)
        return value

    def _step(self, piece: Piece, value: fx.Node) -> fx.Node:
        """Return what a piece makes of inputs (N, T, I)."""
        call = self._graph.call_function
        if isinstance(piece, Stack):
            module = self._modules.recurrent(piece)
            results = self._module(type(module).__name__.lower(), module, value, next(self._states))
            self._finals.append(call(operator.getitem, (results, 1)))
            return call(operator.getitem, (results, 0))
        if isinstance(piece, Dropout):
            return self._module("dropout", torch.nn.Dropout(piece.rate), value)
        if isinstance(piece, Residual):
            return call(operator.add, (self._run(piece.inner, value), value))
        ahead = self._run(piece.forward, value)
        back = self._run(piece.backward, call(torch.flip, (value, [1])))
        return call(torch.cat, ([ahead, call(torch.flip, (back, [1]))], -1))

    def _module(self, kind: str, module: torch.nn.Module, *arguments: fx.Node) -> fx.Node:
        name = f"{kind}_{len(self._root)}"
        self._root[name] = module
        return self._graph.call_module(name, arguments)

"""`export`: a Keras model that computes what a cell tree does, and needs no rnnx.

A tree is told as pieces (`rnnx.pieces`), and each piece becomes layers of Keras's own, joined by the functional API:

========================================  ============================================================================
`LSTMCell`, `GRUCell`, `RNNCell`          ``LSTM``, ``GRU``, ``SimpleRNN``
`BidirectionalCell` of two such cells     ``Bidirectional`` of two such layers, which may be of two kinds
`BidirectionalCell` of two stacks         ``Bidirectional`` of two ``RNN`` layers of ``StackedRNNCells``
`DropoutCell`, `ResidualCell`             ``Dropout``, ``Add``
========================================  ============================================================================

Configs, names and layouts are those of `rnnx.formats.keras`, by which Keras's files are written.

Sources: ``keras/src/layers/rnn`` and ``keras/src/models/functional.py`` of Keras 3.15.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from rnnx.backend import Array
from rnnx.cells import BaseRNNCell
from rnnx.errors import RNNXError, UnsupportedError
from rnnx.formats.keras.layers import CLASSES, Weights, tensors
from rnnx.formats.keras.model import cell_config, legal_name, name_apart
from rnnx.found import name_of
from rnnx.pieces import Directions, Dropout, Piece, Residual, Stack, pieces_of, walk
from rnnx.spec import CellSpec
from rnnx.weights.stored import put_together
from rnnx_tensorflow.importing import cells_within

__all__ = ["export"]

_TRAINER = "rnnx_tensorflow.RNNLayer"
_INPUTS = "inputs"

#: What the weights of a cell of Keras are called.
_WEIGHTS = Weights("kernel", "recurrent_kernel", "bias")


def export(cell: BaseRNNCell, *, inference: bool = False, return_state: bool = False) -> keras.Model:
    """Return a Keras model with a cell tree's weights and the same outputs.

    The model is functional, of inputs (N, T, I) with N and T open, and of the cell's dtype. It gives the outputs of
    all steps (N, T, C), from zero states. It is saved, loaded and trained where there is no rnnx.

    Weights are the cell's bit for bit, but for biases: Keras has one a gate where rnnx has two, except in a ``GRU``
    with ``reset_after``. They are added, in double precision and rounded once, which is what the network computes
    with; which was which is lost. Cells that share all their weights become one layer, called as often.

    Masks work as in Keras: a mask given as ``model(inputs, mask=mask)``, or that of a layer before, goes through to
    the outputs. Steps that are masked leave the states as they are. Their outputs are Keras's, not always rnnx's
    zeros: a ``Bidirectional`` gives zeros, any other recurrent layer repeats its last output. Keras may warn that a
    model which was loaded again destroys masks; it does not.

    Parameters
    ----------
    cell : BaseRNNCell
        The tree, with weights on any backend; it is left as it is, and the model's weights are copies.
    inference : bool
        True leaves out what acts in training only, dropout and zoneout.
    return_state : bool
        True makes the model return a list, ``[outputs, *states]``: the final states of its layers, the bottom one
        first, each (N, H), of each layer forward before backward and h before c, as Keras's layers return them. That
        is the order of `state_info`, but of a fused cell, which keeps h of all layers together.

    Raises
    ------
    UnsupportedError
        For a cell that Keras has nothing for, which the message names: `LSTMPCell`, a cell of one's own, directions of
        two widths or with more than cells in them (with `return_state`, of unlike states), weights that cells share
        and layers cannot, and, unless `inference` is set, zoneout.
    """
    pieces = _of_keras(pieces_of(cell.spec, inference, "layer of Keras", _TRAINER))
    packed = cell.get_params()
    if not packed:
        raise RNNXError("the cell has no weights yet: call initialize() or load_params() before export()")
    name = legal_name(name_of(cell.spec).removesuffix("_"), "model")
    return _Network(cell.unpack_weights(packed), return_state).of(pieces, name)


# -- the pieces as Keras has them -------------------------------------------------------------------------------------


def _of_keras(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """Return the pieces, each direction joined to one stack; what Keras has no layer for is refused."""
    return tuple(map(_own, pieces))


def _own(piece: Piece) -> Piece:
    if isinstance(piece, Residual):
        return Residual(_of_keras(piece.inner))
    if isinstance(piece, Directions):
        return _pair(piece)
    if isinstance(piece, Stack):
        _check(piece.layers[0])
    return piece


def _pair(piece: Directions) -> Directions:
    """Return two directions that are a stack of cells each, of the same width."""
    cells = [layer for each in walk((piece,)) if isinstance(each, Stack) for layer in each.layers]
    who = f"the BidirectionalCell of {', '.join(repr(name_of(cell)) for cell in cells)}"
    sides = [_stack(side, who) for side in (piece.forward, piece.backward)]
    widths = [side.layers[-1].fields["num_hidden"] for side in sides]
    if widths[0] != widths[1]:
        raise UnsupportedError(
            f"{who} has directions {widths[0]} and {widths[1]} wide, and Keras's Bidirectional takes both to be of the "
            f"same width: {_TRAINER} runs it"
        )
    return Directions((sides[0],), (sides[1],), piece.prefix)


def _stack(pieces: Sequence[Piece], who: str) -> Stack:
    """Return a direction as one stack."""
    layers: list[CellSpec] = []
    for piece in pieces:
        if not isinstance(piece, Stack):
            instead = "inference=True leaves it out" if isinstance(piece, Dropout) else f"{_TRAINER} runs it"
            raise UnsupportedError(
                f"{who} has a {type(piece).__name__} in a direction, and those of Keras's Bidirectional are stacks of "
                f"cells and nothing else: {instead}"
            )
        layers += piece.layers
        _check(piece.layers[0])
    if not layers:
        raise UnsupportedError(f"{who} has a direction without cells, which no layer of Keras is")
    return Stack(tuple(layers))


def _check(cell: CellSpec) -> None:
    if cell.kind not in CLASSES:
        raise UnsupportedError(
            f"the {cell.kind} {name_of(cell)!r} has no layer in Keras that computes the same: {_TRAINER} runs it"
        )


# -- the pieces as layers ---------------------------------------------------------------------------------------------


class _Network:
    """A functional model, as it is made of a tree's weights, which are those of single gates."""

    def __init__(self, weights: Mapping[str, Array], return_state: bool) -> None:
        self._weights, self._return_state = weights, return_state
        self._dtype = next(iter(weights.values())).dtype.name
        self._names = {_INPUTS}
        self._known: dict[Any, keras.Layer] = {}
        self._owners: dict[str, Any] = {}
        self._states: list[keras.KerasTensor] = []

    def of(self, pieces: Sequence[Piece], name: str) -> keras.Model:
        """Return the model of a tree."""
        first = next(piece for piece in walk(pieces) if isinstance(piece, Stack))
        inputs = keras.Input((None, self._input_size(first.layers[0])), dtype=self._dtype, name=_INPUTS)
        outputs = self._run(pieces, inputs)
        model = keras.Model(inputs, [outputs, *self._states] if self._return_state else outputs, name=name)
        model.supports_masking = True  # as its layers do: otherwise Keras warns that the mask is lost
        return model

    def _run(self, pieces: Sequence[Piece], value: keras.KerasTensor) -> keras.KerasTensor:
        for piece in pieces:
            value = self._step(piece, value)
        return value

    def _step(self, piece: Piece, value: keras.KerasTensor) -> keras.KerasTensor:
        """Return what a piece makes of inputs (N, T, I)."""
        if isinstance(piece, Dropout):
            return keras.layers.Dropout(piece.rate, dtype=self._dtype, name=self._name(piece.prefix, "dropout"))(value)
        if isinstance(piece, Residual):
            inner = self._run(piece.inner, value)
            return keras.layers.Add(dtype=self._dtype, name=self._name("add_", "add"))([inner, value])
        sides = [piece] if isinstance(piece, Stack) else [*piece.forward, *piece.backward]
        prefix = piece.layers[0].fields["prefix"] if isinstance(piece, Stack) else piece.prefix
        return self._recurrent([side.layers for side in sides if isinstance(side, Stack)], prefix, value)

    def _name(self, prefix: str, kind: str) -> str:
        return name_apart(legal_name(prefix.removesuffix("_"), kind), self._names)

    def _recurrent(
        self, sides: Sequence[Sequence[CellSpec]], prefix: str, value: keras.KerasTensor
    ) -> keras.KerasTensor:
        """Return the outputs of one or two directions; their final states are kept."""
        key = tuple(tuple(map(_identity, side)) for side in sides)
        self._claim(sides, key)
        known = key in self._known
        if not known:
            self._known[key] = self._layer(sides, self._name(prefix, "bidirectional" if len(sides) == 2 else "rnn"))
        layer = self._known[key]
        outputs, *states = keras.tree.flatten(layer(value))
        if not known:
            self._fill(layer, [cell for side in sides for cell in side])
        self._states += states
        return outputs

    def _claim(self, sides: Sequence[Sequence[CellSpec]], key: Any) -> None:
        """Raise unless the weights are those of no other layer, and of one cell each."""
        for number, cell in enumerate(itertools.chain.from_iterable(sides)):
            if self._owners.setdefault(_weights_of(cell), (key, number)) != (key, number):
                raise UnsupportedError(
                    f"the {cell.kind} {name_of(cell)!r} shares its weights, {_weights_of(cell)!r}, with a cell that is "
                    f"another layer in Keras, and layers share none: {_TRAINER} runs it"
                )

    def _layer(self, sides: Sequence[Sequence[CellSpec]], name: str) -> keras.Layer:
        if len(sides) == 1:
            return self._direction(sides[0], name)
        if self._return_state:
            _refuse_unlike_states(sides)
        forward, backward = (
            self._direction(side, f"{way}_{name}", way == "backward")
            for way, side in zip(("forward", "backward"), sides, strict=True)
        )
        return keras.layers.Bidirectional(forward, backward_layer=backward, dtype=self._dtype, name=name)

    def _direction(self, cells: Sequence[CellSpec], name: str, backwards: bool = False) -> keras.layers.RNN:
        """Return the layer of a single cell, or of a stack of them."""
        options = {
            "name": name,
            "return_sequences": True,
            "return_state": self._return_state,
            "go_backwards": backwards,
        }
        configs = [cell_config(cell, self._dtype) for cell in cells]
        if len(cells) == 1:
            return getattr(keras.layers, CLASSES[cells[0].kind])(**configs[0], **options)
        inner = [
            getattr(keras.layers, f"{CLASSES[cell.kind]}Cell")(**config)
            for cell, config in zip(cells, configs, strict=True)
        ]
        # Of a list of cells Keras makes a stack in its own default dtype.
        stack = keras.layers.StackedRNNCells(inner, dtype=self._dtype)
        return keras.layers.RNN(stack, dtype=self._dtype, **options)

    def _fill(self, layer: keras.Layer, cells: Sequence[CellSpec]) -> None:
        """Give a layer that is built the weights of its cells."""
        for keras_cell, cell in zip(cells_within(layer), cells, strict=True):
            stored = tensors(cell, self._input_size(cell), _WEIGHTS)
            blocks = [block for each in stored for block in each.blocks]
            held = {name: self._weights[name] for block in blocks for name in (block.weight, block.addend) if name}
            arrays = put_together(stored, held, "a layer of Keras", merge_biases=True)
            keras_cell.set_weights([np.asarray(arrays[each.name]) for each in stored])

    def _input_size(self, cell: CellSpec) -> int:
        kernel = tensors(cell, 0, _WEIGHTS)[0]
        return int(self._weights[kernel.blocks[0].weight].shape[1])


def _refuse_unlike_states(sides: Sequence[Sequence[CellSpec]]) -> None:
    states = [[(cell.kind == "LSTMCell", cell.fields["num_hidden"]) for cell in side] for side in sides]
    if states[0] != states[1]:
        names = ", ".join(repr(name_of(cell)) for side in sides for cell in side)
        raise UnsupportedError(
            f"the BidirectionalCell of {names} has states of other widths or number in one direction than in the "
            "other, and Keras's Bidirectional takes them to be alike: leave out return_state"
        )


def _weights_of(cell: CellSpec) -> str:
    """Return what the names of a cell's weights begin with."""
    prefix: str = cell.fields.get("params", cell.fields["prefix"])
    return prefix


def _identity(cell: CellSpec) -> tuple[Any, ...]:
    """Return what two cells have in common that are one: the equation, and the weights."""
    fields = ("num_hidden", "activation", "reset_after")
    return cell.kind, _weights_of(cell), *(cell.fields.get(field) for field in fields)

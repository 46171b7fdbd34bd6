"""`from_keras`: a cell tree of a recurrent layer of Keras, or of a model that is a row of them.

What a layer computes is told by its config, and its weights' layout by `rnnx.formats.keras`, by which Keras's files are
read, too.

Sources: ``keras/src/layers/rnn`` and ``keras/src/models`` of Keras 3.15.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from rnnx.backend import Array
from rnnx.cells import BaseRNNCell, placement
from rnnx.errors import RNNXError, UnsupportedError
from rnnx.formats.keras.chain import chain_of
from rnnx.formats.keras.config import MODELS, layer_cells
from rnnx.formats.keras.find import part_of_chain
from rnnx.formats.keras.layers import CLASSES, Unit, Weights
from rnnx.registry import get_backend
from rnnx.spec import CellSpec
from rnnx.weights.stored import taken_apart

__all__ = ["cells_within", "from_keras"]

#: Layers for whole sequences, cells for one step, and layers that change no sequence.
_SEQUENCES = (*CLASSES.values(), "RNN", "Bidirectional")
_STEPS = (*(f"{kind}Cell" for kind in CLASSES.values()), "StackedRNNCells")
_PASSED = ("InputLayer", "Masking")


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A layer, its class and config, what its weights' names begin with, and what to call it in an error."""

    layer: keras.Layer
    kind: str
    config: Mapping[str, Any]
    prefix: str
    who: str


def from_keras(layer_or_model: keras.Layer, prefix: str | None = None, *, inference: bool = False) -> BaseRNNCell:
    """Return a cell tree that computes what a recurrent layer of Keras does, with copies of its weights.

    ``LSTM``, ``GRU`` and ``SimpleRNN`` become the plain cell of that name, ``Bidirectional`` a `BidirectionalCell`, and
    ``RNN`` of such cells the cell, or a `SequentialRNNCell` where they are stacked; likewise the cells by themselves. A
    ``Sequential`` or functional model of such layers in a row, with ``Dropout`` and ``Masking`` between them and models
    within it, becomes one `SequentialRNNCell`. Layers may be of any backend of Keras.

    The cell gives the outputs of all steps whatever ``return_sequences`` says, and takes as ``begin_state`` what a
    ``stateful`` layer keeps. ``Masking`` and masks are left out: give `unroll` the ``valid_length``. Where Keras has
    one bias a gate, it becomes that of ``i2h``, and the other is zero; so are both with ``use_bias=False``.

    Parameters
    ----------
    layer_or_model : keras.Layer
        One of those, built.
    prefix : str, optional
        Put before the weights' names: for a layer in place of its name, ``"lstm_1_"``; for a model before the names of
        its layers.
    inference : bool
        True leaves out what acts in training only: ``Dropout``, and ``dropout=`` and ``recurrent_dropout=`` of the
        layers, which no cell does in training. (They drop the same elements at every step.)

    Returns
    -------
    BaseRNNCell
        With weights in the dtype in which the layer keeps them, bit for bit the same: on the TensorFlow backend, on the
        layer's device, where Keras runs on TensorFlow, and otherwise on NumPy.

    Raises
    ------
    UnsupportedError
        For what rnnx has no cell for, which the message names: another class of layer, another activation or
        ``merge_mode``, ``go_backwards``, layers that are no row, and, unless `inference` is set, dropout within a
        layer.
    RNNXError
        If the layer has no weights yet.
    """
    layers = list(_layers(layer_or_model, prefix))
    arrays: dict[str, Array] = {}
    units = [unit for each in layers for unit in _units(each, inference, arrays)]
    if not arrays:
        raise UnsupportedError(f"the {type(layer_or_model).__name__} {layer_or_model.name!r} has no recurrent layer")
    part = part_of_chain(units, {name: array.shape for name, array in arrays.items()})
    cell = BaseRNNCell.from_spec(part.spec)
    shapes = placement.gate_shapes(cell, part.input_size)
    cell.load_params(taken_apart(part.stored, arrays, shapes))
    return _placed(cell, layers)


def cells_within(layer: keras.Layer) -> list[keras.Layer]:
    """Return the cells of a recurrent layer: those of the forward direction first, the bottom one of a stack first."""
    if isinstance(layer, keras.layers.Bidirectional):
        return [*cells_within(layer.forward_layer), *cells_within(layer.backward_layer)]
    cell = layer.cell if isinstance(layer, keras.layers.RNN) else layer
    return list(cell.cells) if isinstance(cell, keras.layers.StackedRNNCells) else [cell]


def _placed(cell: BaseRNNCell, layers: Sequence[_Layer]) -> BaseRNNCell:
    """Return the cell, with its weights where the first layer's are if that is on TensorFlow."""
    if keras.config.backend() != "tensorflow":
        return cell
    weight = next(each.layer.weights[0] for each in layers if each.layer.weights)
    return cell.to("tensorflow", get_backend("tensorflow").device(weight.value))


# -- the layers of a model --------------------------------------------------------------------------------------------


def _layers(layer: keras.Layer, prefix: str | None) -> Iterator[_Layer]:
    """Yield the layers that run one after the other."""
    _refuse_strangers(layer)
    # As a file has it, with lists for tuples.
    told = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    kind, name = told["class_name"], layer.name
    if kind in MODELS:
        yield from _layers_of_model(layer, kind, told["config"], prefix or "", "")
        return
    _refuse_unknown(kind, f"layer {name!r}", layer)
    config = {"cell": told} if kind in _STEPS else told["config"]
    yield _Layer(layer, kind, config, f"{name}_" if prefix is None else prefix, f"layer {name!r}")


def _layers_of_model(
    model: keras.Model, kind: str, config: Mapping[str, Any], prefix: str, above: str
) -> Iterator[_Layer]:
    for node in chain_of(kind, config, f"model {above + model.name!r}"):
        place = above + node.name
        if node.kind in MODELS:
            yield from _layers_of_model(model.get_layer(node.name), node.kind, node.config, prefix, f"{place}/")
        else:
            _refuse_unknown(node.kind, f"layer {place!r}", model)
            yield _Layer(model.get_layer(node.name), node.kind, node.config, f"{prefix}{place}_", f"layer {place!r}")


def _refuse_unknown(kind: str, who: str, given: keras.Layer) -> None:
    known = (*_SEQUENCES, *_STEPS, "Dropout", *_PASSED)
    if kind not in known:
        raise UnsupportedError(f"{who} is a {kind}, and none of {', '.join(known)}: {_instead(given)}")


def _refuse_strangers(layer: object) -> None:
    """Raise for classes and functions of somebody's own, which a config may call as Keras calls its own."""
    who = f"the {type(layer).__name__} {getattr(layer, 'name', '')!r}"
    if not isinstance(layer, keras.Layer) or type(layer).__module__.split(".")[0] != "keras":
        raise UnsupportedError(
            f"{who} is of no class of Keras's own, so what it computes is unknown: {_instead(layer)}"
        )
    for field in ("activation", "recurrent_activation"):
        function = getattr(layer, field, None)
        if function is not None and getattr(keras.activations, getattr(function, "__name__", ""), None) is not function:
            raise UnsupportedError(f"{who} has {field} {function!r}, which is no function of Keras's own")
    for inner in _within(layer):
        _refuse_strangers(inner)


def _within(layer: keras.Layer) -> Sequence[object]:
    if isinstance(layer, keras.Model):
        return list(layer.layers)
    if isinstance(layer, keras.layers.Bidirectional):
        return [layer.forward_layer, layer.backward_layer]
    if isinstance(layer, keras.layers.StackedRNNCells):
        return list(layer.cells)
    return [layer.cell] if type(layer) is keras.layers.RNN else []


# -- a layer ----------------------------------------------------------------------------------------------------------


def _units(given: _Layer, inference: bool, arrays: dict[str, Array]) -> Iterator[Unit]:
    """Yield what a layer is, if it is anything here; its weights are added to those of others."""
    if given.kind == "Dropout":
        if not inference:
            yield Unit(given.who, _dropout(given))
    elif given.kind in (*_SEQUENCES, *_STEPS):
        yield _recurrent(given, inference, arrays)


def _dropout(given: _Layer) -> CellSpec:
    if given.config.get("noise_shape") is not None:
        raise UnsupportedError(
            f"{given.who} has noise_shape {given.config['noise_shape']}, and rnnx's DropoutCell drops every element by "
            "itself: inference=True leaves it out"
        )
    return CellSpec("DropoutCell", {"dropout": float(given.config["rate"]), "prefix": given.prefix})


def _recurrent(given: _Layer, inference: bool, arrays: dict[str, Array]) -> Unit:
    kind = "RNN" if given.kind in _STEPS else given.kind
    spec, cells, _ = layer_cells(kind, given.config, given.prefix, given.who)
    weights: dict[str, Weights] = {}
    for (prefix, _, bias), keras_cell in zip(cells, cells_within(given.layer), strict=True):
        if not keras_cell.built:
            raise RNNXError(f"{given.who} has no weights yet: call it once, or its build()")
        if not inference:
            _refuse_dropout(keras_cell, given.who)
        names = [f"{prefix}kernel", f"{prefix}recurrent_kernel", *([f"{prefix}bias"] if bias else [])]
        arrays.update(zip(names, keras_cell.get_weights(), strict=True))
        weights[prefix] = Weights(names[0], names[1], names[2] if bias else None)
    return Unit(given.who, spec, (), weights)


def _refuse_dropout(keras_cell: Any, who: str) -> None:
    for field, where in (("dropout", "of its inputs"), ("recurrent_dropout", "of its state")):
        if getattr(keras_cell, field):
            raise UnsupportedError(
                f"{who} has {field}={getattr(keras_cell, field)}, which in training drops the same elements {where} at "
                "every step, and no cell of rnnx does: inference=True leaves it out"
            )


def _instead(layer: object) -> str:
    """Return what to do with a layer that is not taken, for an error."""
    inner = list(layer.layers) if isinstance(layer, keras.Model) else []
    found = [f"{each.name!r} ({type(each).__name__})" for each in inner if type(each).__name__ in _SEQUENCES]
    if not found:
        return "write it as a cell, a subclass of rnnx.BaseRNNCell"
    return (
        f"give from_keras each of the layers {', '.join(found)}, and put the cells on each other with "
        "rnnx.SequentialRNNCell"
    )

"""The recurrent layers of Keras: which weights they have, in which order of gates, and what they compute.

A cell has a ``kernel (I, G*H)``, a ``recurrent_kernel (H, G*H)`` and a ``bias``, all with the gates side by side:

=============  ========  =======================================================================================
cell           gates     bias
=============  ========  =======================================================================================
LSTMCell       i f c o   ``(4H,)``, one a gate
GRUCell        z r o     ``(2, 3H)``: the input's and the recurrent one; ``(3H,)`` where ``reset_after`` is False
SimpleRNNCell  one       ``(H,)``, one
=============  ========  =======================================================================================

Source: ``keras/src/layers/rnn/lstm.py``, ``gru.py`` and ``simple_rnn.py`` of Keras 3.15.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from rnnx.building import plain_cell
from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.found import Found, built
from rnnx.spec import CellSpec
from rnnx.weights.stored import Shape, Stored, gates, merged_biases

__all__ = [
    "ACTIVATIONS",
    "CLASSES",
    "GATE_ORDER",
    "Unit",
    "Weights",
    "cell_of_config",
    "found_units",
    "said_of",
    "tensors",
]

#: The class of layer that a cell of rnnx is.
CLASSES: Mapping[str, str] = MappingProxyType({"LSTMCell": "LSTM", "GRUCell": "GRU", "RNNCell": "SimpleRNN"})

#: In which order the gates of a cell stand.
GATE_ORDER: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"LSTMCell": ("_i", "_f", "_c", "_o"), "GRUCell": ("_z", "_r", "_o"), "RNNCell": ("",)}
)

#: What Keras calls the activations of a plain cell.
ACTIVATIONS: Mapping[str, str] = MappingProxyType(
    {"tanh": "tanh", "relu": "relu", "sigmoid": "sigmoid", "softplus": "softrelu", "softsign": "softsign"}
)

#: What else a config says that matters to who reads the outputs, where it is not what it is for rnnx's cells.
_SAID = MappingProxyType(
    {
        "return_sequences": (True, "it gives its last output only, where the cell gives all of them"),
        "stateful": (False, "it keeps its states from batch to batch, where the cell takes them as begin_state"),
        "dropout": (0.0, "it acts in training only, and is left out"),
        "recurrent_dropout": (0.0, "it acts in training only, and is left out"),
    }
)


@dataclasses.dataclass(frozen=True)
class Weights:
    """What the weights of a cell are called in the file; `bias` is None where it has none."""

    kernel: str
    recurrent_kernel: str
    bias: str | None


@dataclasses.dataclass(frozen=True)
class Unit:
    """A recurrent layer with its weights, or a dropout layer without.

    Parameters
    ----------
    place : str
        Its name, behind those of the models that it is in: ``"encoder/lstm"``.
    spec : CellSpec
        Its cells.
    evidence : tuple of str
        Why.
    weights : mapping of str to Weights
        The weights of each of its cells, by the cell's prefix.
    """

    place: str
    spec: CellSpec
    evidence: tuple[str, ...] = ()
    weights: Mapping[str, Weights] = dataclasses.field(default_factory=dict)


def tensors(cell: CellSpec, input_size: int, weights: Weights) -> tuple[Stored, ...]:
    """Return how the tensors of a Keras cell are made of the weights of rnnx's: the table of this format."""
    prefix = cell.fields.get("params", cell.fields["prefix"])
    hidden, order = cell.fields["num_hidden"], GATE_ORDER[cell.kind]
    width = hidden * len(order)
    kernel = Stored(weights.kernel, (input_size, width), gates(prefix, "i2h_weight", order), transposed=True)
    recurrent = Stored(weights.recurrent_kernel, (hidden, width), gates(prefix, "h2h_weight", order), transposed=True)
    if weights.bias is None:
        return kernel, recurrent
    if cell.fields.get("reset_after"):
        two = gates(prefix, "i2h_bias", order) + gates(prefix, "h2h_bias", order)
        return kernel, recurrent, Stored(weights.bias, (2, width), two)
    return kernel, recurrent, Stored(weights.bias, (width,), merged_biases(prefix, order))


def cell_of_config(kind: str, config: Mapping[str, Any], prefix: str, who: str) -> CellSpec:
    """Return the cell that a layer or cell of class `kind` is.

    Parameters
    ----------
    kind : str
        ``"LSTM"``, ``"GRU"`` or ``"SimpleRNN"``, with or without ``Cell`` behind it.
    config : mapping
        Its config.
    prefix : str
        What the names of its weights begin with.
    who : str
        What to call it in an error.

    Raises
    ------
    UnsupportedError
        If rnnx has no cell that computes the same; the message names layer, field and value.
    """
    units, activation = config.get("units"), _activation(config.get("activation"))
    if type(units) is not int:
        raise WeightFormatError(f"{who}: units should be a whole number, found {units!r}")
    if kind.startswith("SimpleRNN"):
        if activation not in ACTIVATIONS:
            raise UnsupportedError(f"{who} has activation {activation!r}; rnnx has {', '.join(ACTIVATIONS)}")
        return plain_cell("rnn", units, prefix, activation=ACTIVATIONS[activation])
    for field, value, expected in (
        ("activation", activation, "tanh"),
        ("recurrent_activation", _activation(config.get("recurrent_activation")), "sigmoid"),
    ):
        if value != expected:
            raise UnsupportedError(f"{who} has {field} {value!r}; rnnx's cell has {expected!r}")
    if kind.startswith("LSTM"):
        return plain_cell("lstm", units, prefix)
    # Layers that do not say it are of before there was a choice.
    return plain_cell("gru", units, prefix, reset_after=bool(config.get("reset_after", False)))


def said_of(config: Mapping[str, Any]) -> list[str]:
    """Return what a config says that rnnx's cell does not do by itself, a phrase each."""
    return [
        f"{field} {config[field]!r}: {meaning}"
        for field, (usual, meaning) in _SAID.items()
        if config.get(field, usual) != usual
    ]


def found_units(name: str, spec: CellSpec, units: Sequence[Unit], shapes: Mapping[str, Shape]) -> Found:
    """Return the part that units make, first to last.

    Raises
    ------
    WeightFormatError
        If a kernel is no matrix, or the cells do not fit each other.
    """
    cell = built(spec)
    stored: list[Stored] = []
    sizes = []
    for unit in units:
        for leaf in unit.spec.walk():
            if "num_hidden" in leaf.fields:
                weights = unit.weights[leaf.fields["prefix"]]
                shape = shapes[weights.kernel]
                if len(shape) != 2:
                    raise WeightFormatError(f"weight {weights.kernel!r} has shape {shape}; expected a matrix")
                sizes.append(shape[0])
                stored += tensors(leaf, shape[0], weights)
    evidence = tuple(sentence for unit in units for sentence in unit.evidence)
    return Found(name, spec, evidence, sizes[0], cell.output_size(sizes[0]), tuple(stored))


def _activation(told: object) -> str:
    """Return the name of an activation, which newer configs write as an object."""
    while isinstance(told, dict):
        told = told.get("config", told.get("class_name"))
    return told if isinstance(told, str) else repr(told)

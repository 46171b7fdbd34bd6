"""The ``Sequential`` model of Keras that a tree of cells is: its config, and where its weights stand.

Layers are called as the cells' prefixes say, with what Keras does not take in a name replaced: ``encoder/lstm_l0_``
makes ``encoder.lstm_l0``. Every layer returns its outputs of all steps. Zoneout acts in training only and is left out.

Source: ``get_config`` of the layers, ``keras/src/models/sequential.py``, ``keras/src/saving/saving_lib.py`` and
``keras/src/legacy/saving/legacy_h5_format.py`` of Keras 3.15.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rnnx.archive import Array, Part
from rnnx.errors import UnsupportedError
from rnnx.formats.keras.config import snake_case
from rnnx.formats.keras.files import CONFIG, EXTRA, LEGACY, LEGACY_CONFIG, LEGACY_ROOT, METADATA, WEIGHTS
from rnnx.formats.keras.hdf5 import Attribute
from rnnx.formats.keras.layers import ACTIVATIONS, CLASSES, GATE_ORDER, Weights, tensors
from rnnx.found import leaf_prefixes
from rnnx.fusion import layers_of
from rnnx.spec import CellSpec
from rnnx.weights.stored import Stored

__all__ = ["PARTS", "Model", "cell_config", "legal_name", "name_apart"]

#: Attribute of the group `EXTRA`: the description of the part, as JSON.
PARTS = "parts"

#: The oldest Keras that reads such files.
_VERSION = "3.0.0"

_INPUT = "input_layer"
_ACTIVATIONS = {ours: theirs for theirs, ours in ACTIVATIONS.items()}

_Attributes = dict[str, dict[str, Attribute]]


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A layer: its name, its class, the cell that it is, and where its weights stand in files of Keras 3."""

    name: str
    kind: str
    cell: CellSpec
    group: str

    def cells(self) -> list[tuple[str, CellSpec]]:
        """Return the cells with weights, each with the side that it is of in a bidirectional layer."""
        if self.kind == "Bidirectional":
            return list(zip(("forward", "backward"), self.cell.children, strict=True))
        return [("", self.cell)] if self.kind in CLASSES.values() else []

    def side_name(self, side: str) -> str:
        """Return the name of the layer within a bidirectional one."""
        return f"{side}_{self.name}"


class Model:
    """A sequential model for a part.

    Parameters
    ----------
    name : str
        What the part is called.
    spec : CellSpec
        Its cells.
    kind : str
        The kind of file it is for.
    input_size : callable
        Returns the width of a cell's inputs, given the cell and what its weights are called in the file.

    Raises
    ------
    UnsupportedError
        If Keras has no layer that computes what a cell does; the message names it.
    """

    def __init__(self, name: str, spec: CellSpec, kind: str, input_size: Callable[[CellSpec, Weights], int]) -> None:
        self._name, self._spec, self._kind, self._input_size = name, spec, kind, input_size
        self._layers = list(_layers(spec))

    @classmethod
    def of(cls, name: str, part: Part, kind: str) -> Model:
        """Return the model for a part that has weights."""
        return cls(name, part.spec, kind, lambda cell, _: int(_first_weight(part, cell).shape[1]))

    def layout(self) -> list[Stored]:
        """Return how the file's tensors are made of the weights."""
        return [
            stored
            for layer in self._layers
            for side, cell in layer.cells()
            for weights in (self._weights(layer, side, cell),)
            for stored in tensors(cell, self._input_size(cell, weights), weights)
        ]

    def files(self, dtype: str) -> dict[str, bytes]:
        """Return what stands beside arrays of a dtype."""
        if dtype == "bfloat16" and self._kind == LEGACY:
            raise UnsupportedError("Keras does not read bfloat16 from legacy files: give the file the ending .keras")
        inputs = {"batch_shape": [None, None, self.layout()[0].shape[0]], "dtype": dtype}
        layers = [_object("InputLayer", _INPUT, inputs), *(_config(layer, dtype) for layer in self._layers)]
        config = json.dumps(_object("Sequential", _model_name(self._name), {"layers": layers}), indent=1).encode()
        if self._kind == LEGACY:
            return {LEGACY_CONFIG: config}
        metadata = json.dumps({"keras_version": _VERSION}).encode()
        return {} if self._kind == WEIGHTS else {CONFIG: config, METADATA: metadata}

    def attributes(self) -> _Attributes:
        """Return the attributes of the file's groups, by path."""
        parts = {self._name: self._spec.to_dict()}
        own = self._legacy_attributes() if self._kind == LEGACY else self._names()
        return {**own, EXTRA: {PARTS: {"text": json.dumps(parts)}}}

    def _weights(self, layer: _Layer, side: str, cell: CellSpec) -> Weights:
        inner = f"{snake_case(CLASSES[cell.kind])}_cell"
        if self._kind == LEGACY:
            within = "/".join(filter(None, (layer.name, side and layer.side_name(side), inner)))
            own = f"{LEGACY_ROOT}/{layer.name}/{within}"
            return Weights(f"{own}/kernel", f"{own}/recurrent_kernel", f"{own}/bias")
        own = f"{layer.group}/{side}_layer/cell/vars" if side else f"{layer.group}/cell/vars"
        return Weights(f"{own}/0", f"{own}/1", f"{own}/2")

    def _names(self) -> _Attributes:
        """Return what Keras 3 says of names: of the model, the layers and their cells."""
        found: _Attributes = {"vars": {"name": {"text": _model_name(self._name)}}}
        for layer in self._layers:
            found[f"{layer.group}/vars"] = {"name": {"text": layer.name}}
            for side, cell in layer.cells():
                own = f"{layer.group}/{side}_layer" if side else layer.group
                if side:
                    found[f"{own}/vars"] = {"name": {"text": layer.side_name(side)}}
                found[f"{own}/cell/vars"] = {"name": {"text": f"{snake_case(CLASSES[cell.kind])}_cell"}}
        return found

    def _legacy_attributes(self) -> _Attributes:
        version: dict[str, Attribute] = {"keras_version": {"text": _VERSION}, "backend": {"text": "tensorflow"}}
        names: Attribute = {"text": [layer.name for layer in self._layers]}
        found: _Attributes = {"": version, LEGACY_ROOT: {**version, "layer_names": names}}
        for layer in self._layers:
            own = f"{LEGACY_ROOT}/{layer.name}"
            weights = [self._weights(layer, side, cell) for side, cell in layer.cells()]
            paths = [path for each in weights for path in dataclasses.astuple(each)]
            found[own] = {"weight_names": {"text": [path.removeprefix(f"{own}/") for path in paths]}}
        found[f"{LEGACY_ROOT}/top_level_model_weights"] = {"weight_names": {"text": []}}
        return found


def _first_weight(part: Part, cell: CellSpec) -> Array:
    return part.weights[f"{cell.fields['prefix']}i2h{GATE_ORDER[cell.kind][0]}_weight"]


# -- from cells to layers ---------------------------------------------------------------------------------------------


def _layers(spec: CellSpec) -> Iterator[_Layer]:
    taken = {_INPUT}
    counts: Counter[str] = Counter()
    for cell in _without_zoneout(spec):
        kind = _class_of(cell)
        component = snake_case(kind)
        number = f"_{counts[component]}" if counts[component] else ""
        counts[component] += 1
        place = cell.fields["output_prefix" if kind == "Bidirectional" else "prefix"].removesuffix("_")
        name = name_apart(legal_name(place, component), taken)
        yield _Layer(name, kind, cell, f"layers/{component}{number}")


def _without_zoneout(spec: CellSpec) -> Iterator[CellSpec]:
    """Yield what runs one after the other, down to cells that are no stacks."""
    for cell in layers_of(spec):
        if cell.kind == "ZoneoutCell":
            yield from _without_zoneout(cell.children[0])
        elif cell.kind == "BidirectionalCell":
            inner = [list(_without_zoneout(child)) for child in cell.children]
            if any(len(each) != 1 or each[0].kind not in CLASSES for each in inner):
                raise _refused(cell, "it runs whole stacks side by side")
            if len({each[0].fields["num_hidden"] for each in inner}) > 1:
                raise _refused(cell, "Keras takes both directions to be of the same width")
            yield dataclasses.replace(cell, children=tuple(each[0] for each in inner))
        else:
            yield cell


def _class_of(cell: CellSpec) -> str:
    for own in cell.walk():
        if "params" in own.fields:
            raise _refused(own, "it shares its weights with another, which layers in a row do not")
        if own.kind == "RNNCell" and own.fields["activation"] not in _ACTIVATIONS:
            raise _refused(own, f"its activation {own.fields['activation']!r} has no name there")
    kinds = {**CLASSES, "BidirectionalCell": "Bidirectional", "DropoutCell": "Dropout"}
    if cell.kind not in kinds:
        raise _refused(cell, "a model of layers in a row has none that computes the same")
    return kinds[cell.kind]


def _refused(cell: CellSpec, why: str) -> UnsupportedError:
    prefixes = ", ".join(map(repr, leaf_prefixes(cell))) or repr(cell.fields.get("prefix", ""))
    return UnsupportedError(
        f"a Keras file has no layer for the {cell.kind} with prefix {prefixes}: {why}. Write ONNX or the portable file"
    )


def legal_name(place: str, kind: str) -> str:
    """Return a name that Keras takes: it may not have a slash, and has to begin with a letter or digit."""
    name = re.sub(r"[^A-Za-z0-9_.>-]", ".", place)
    return (
        name if re.match(r"[A-Za-z0-9]", name) else f"{kind}{name if name.startswith('_') else '_' + name}".rstrip("_")
    )


def name_apart(name: str, taken: set[str]) -> str:
    """Return a name that is not taken yet, with a number behind it where it is; it then is."""
    numbered, number = name, 0
    while numbered in taken:
        number += 1
        numbered = f"{name}_{number}"
    taken.add(numbered)
    return numbered


def _model_name(name: str) -> str:
    return legal_name(name, "model")


# -- configs ----------------------------------------------------------------------------------------------------------


def _object(kind: str, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    module = "keras" if kind == "Sequential" else "keras.layers"
    return {"module": module, "class_name": kind, "config": {"name": name, **config}, "registered_name": None}


def _config(layer: _Layer, dtype: str) -> dict[str, Any]:
    if layer.kind == "Dropout":
        return _object("Dropout", layer.name, {"rate": layer.cell.fields["dropout"], "dtype": dtype})
    inner = [
        _object(
            CLASSES[cell.kind],
            layer.side_name(side) if side else layer.name,
            {**cell_config(cell, dtype), "return_sequences": True, "go_backwards": side == "backward"},
        )
        for side, cell in layer.cells()
    ]
    if layer.kind != "Bidirectional":
        return inner[0]
    both = {"merge_mode": "concat", "layer": inner[0], "backward_layer": inner[1], "dtype": dtype}
    return _object("Bidirectional", layer.name, both)


def cell_config(cell: CellSpec, dtype: str) -> dict[str, Any]:
    """Return the config of a cell of Keras, with which its layer's begins."""
    fields = {"LSTMCell": {"recurrent_activation": "sigmoid"}, "GRUCell": {"recurrent_activation": "sigmoid"}}
    own: dict[str, Any] = {
        "units": cell.fields["num_hidden"],
        "activation": _ACTIVATIONS[cell.fields.get("activation", "tanh")],
        **fields.get(cell.kind, {}),
        "use_bias": True,
        "dtype": dtype,
    }
    if dtype == "bfloat16":  # the usual, orthogonal, cannot be computed in it, and Keras begins with first values
        own["recurrent_initializer"] = "glorot_uniform"
    return {**own, "reset_after": cell.fields["reset_after"]} if cell.kind == "GRUCell" else own

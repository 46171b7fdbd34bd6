"""The recurrent layers that a model's config describes, and which of them feed each other.

A config is an object ``{"class_name": …, "config": …}``; that of a ``Sequential`` or ``Functional`` model has
``layers`` of the same form. In a functional model ``inbound_nodes`` say where a layer's inputs come from, as ``[layer,
node, tensor]``; Keras 3 keeps these in ``keras_history``.

Source: ``keras/src/models/functional.py`` (``get_config``), ``sequential.py`` and
``keras/src/saving/serialization_lib.py`` of Keras 3.15.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rnnx.building import two_directions
from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.formats.keras.layers import cell_of_config, said_of
from rnnx.found import stack_of
from rnnx.spec import CellSpec
from rnnx.weights.safetensors import json_object

__all__ = [
    "MODELS",
    "Drawn",
    "Layer",
    "Node",
    "layer_cells",
    "layers_of_config",
    "nodes_of",
    "snake_case",
    "tensors_in",
]

#: Models in models deeper than this are taken for an attack on the recursion limit.
_MAX_DEPTH = 16

#: The classes of models whose config tells their layers.
MODELS = ("Sequential", "Functional", "Model")
_PLAIN = ("LSTM", "GRU", "SimpleRNN")
_CELLS = ("LSTMCell", "GRUCell", "SimpleRNNCell")
_OTHER_CELLS = {
    "CuDNNLSTM": "its weights are laid out for cuDNN, in another order and with two biases",
    "CuDNNGRU": "its weights are laid out for cuDNN, in another order",
    **dict.fromkeys(("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"), "its gates are convolutions"),
}


#: A layer's cells as one; of each its prefix, its place within the layer, and whether it has a bias; words on them.
_Cells = tuple[CellSpec, list[tuple[str, str, bool]], str]


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer that is recurrent, or a dropout layer, or a recurrent one that rnnx has no cells for.

    Parameters
    ----------
    names : tuple of str
        Its name, behind those of the models that it is in.
    group : str
        Where its weights stand in files of Keras 3.
    spec : CellSpec, optional
        Its cells; None if `refused` says why there are none.
    cells : tuple of (str, str, bool)
        Of each cell the prefix, where its weights stand within the layer's, and whether it has a bias.
    evidence : tuple of str
        Why.
    refused : str
        Why rnnx has no cells for it.
    sequences : bool
        Whether the outputs of all steps go on.
    """

    names: tuple[str, ...]
    group: str
    spec: CellSpec | None = None
    cells: tuple[tuple[str, str, bool], ...] = ()
    evidence: tuple[str, ...] = ()
    refused: str = ""
    sequences: bool = True

    @property
    def place(self) -> str:
        """The layer's name, behind those of the models that it is in."""
        return "/".join(self.names)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What a config says: layers, and for each place the place of the one layer whose outputs it alone reads."""

    layers: tuple[Layer, ...]
    feeders: Mapping[str, str]


@dataclasses.dataclass
class Node:
    """A layer's config, and what it reads: of each tensor the layer, which of its calls, and which of its results."""

    name: str
    kind: str
    config: Mapping[str, Any]
    group: str
    custom: bool
    reads: list[tuple[str, int, int]]


def layers_of_config(content: bytes, what: str) -> Drawn | None:
    """Return the recurrent and dropout layers of a model; None where the model is a class of the user's own.

    Raises
    ------
    WeightFormatError
        If the config makes no sense.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise WeightFormatError(f"{what} is not UTF-8: {error}") from error
    model = json_object(text, what)
    if model.get("class_name") not in MODELS:
        return None
    layers: list[Layer] = []
    feeders: dict[str, str] = {}
    _read_model(model, (), "", layers, feeders)
    return Drawn(tuple(layers), feeders)


def snake_case(name: str) -> str:
    """Return a class's name as Keras writes it in the paths of weights."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


# -- models -----------------------------------------------------------------------------------------------------------


def _read_model(
    model: Mapping[str, Any], names: tuple[str, ...], group: str, layers: list[Layer], feeders: dict[str, str]
) -> None:
    if len(names) > _MAX_DEPTH:
        raise WeightFormatError(f"models are nested deeper than {_MAX_DEPTH}: {'/'.join(names)}")
    told = model.get("config")
    # The oldest sequential models have a list of layers for a config.
    config = {"layers": told} if isinstance(told, list) else _object(told, "the config of a model")
    nodes = list(nodes_of(config.get("layers"), f"{group}layers/", names))
    feeds = _sequence(nodes) if model["class_name"] == "Sequential" else _graph(nodes, config)
    for node in nodes:
        layers += _layers(node, names, layers, feeders)
        if node.name in feeds:
            feeders["/".join((*names, node.name))] = "/".join((*names, feeds[node.name]))


def _layers(node: Node, names: tuple[str, ...], layers: list[Layer], feeders: dict[str, str]) -> Iterator[Layer]:
    """Yield what a layer is, if it is anything here; those of a model within are added by themselves."""
    own = (*names, node.name)
    inner = node.config.get("layer")
    if node.custom:
        return
    if node.kind in MODELS:
        _read_model({"class_name": node.kind, "config": node.config}, own, f"{node.group}/", layers, feeders)
    elif node.kind == "Dropout":
        yield Layer(own, node.group, _dropout(node, "/".join(own)))
    elif node.kind in (*_PLAIN, "RNN", "Bidirectional", *_OTHER_CELLS):
        yield _recurrent(node, own)
    elif isinstance(inner, dict):  # a wrapper, such as TimeDistributed
        (within,) = nodes_of([inner], "", own)
        within.group = f"{node.group}/layer"
        yield from _layers(within, own, layers, feeders)


def nodes_of(listed: object, group: str, names: tuple[str, ...]) -> Iterator[Node]:
    """Yield the layers of a model; they are counted by class, which tells where their weights stand."""
    if not isinstance(listed, list):
        raise WeightFormatError(f"the config of model {'/'.join(names)!r} has no list of layers")
    seen: set[str] = set()
    counts: Counter[str] = Counter()
    for each in listed:
        layer = _object(each, "a layer of the config")
        kind, config = layer.get("class_name"), _object(layer.get("config"), "the config of a layer")
        name = layer.get("name", config.get("name"))
        if not isinstance(kind, str) or not isinstance(name, str) or not name:
            raise WeightFormatError(f"a layer of the config has class_name {kind!r} and name {name!r}")
        if name in seen:
            raise WeightFormatError(f"two layers of the config are called {'/'.join((*names, name))!r}")
        seen.add(name)
        component = snake_case(kind)
        number = f"_{counts[component]}" if counts[component] else ""
        counts[component] += 1
        yield Node(
            name,
            kind,
            config,
            group + component + number,
            _is_custom(layer),
            list(tensors_in(layer.get("inbound_nodes"))),
        )


def _is_custom(layer: Mapping[str, Any]) -> bool:
    """Say whether a class is the user's own, whatever its name."""
    module = layer.get("module") or "keras"
    known = isinstance(module, str) and module.split(".")[0] in ("keras", "tf_keras", "tensorflow")
    return not known or layer.get("registered_name") not in (None, layer.get("class_name"))


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise WeightFormatError(f"{what} should be a JSON object, found {str(value)[:60]!r}")
    return value


# -- what feeds what --------------------------------------------------------------------------------------------------


def _sequence(nodes: Sequence[Node]) -> dict[str, str]:
    inner = [node.name for node in nodes if node.kind != "InputLayer"]
    return dict(zip(inner[1:], inner, strict=False))


def _graph(nodes: Sequence[Node], config: Mapping[str, Any]) -> dict[str, str]:
    """Return the layers that read nothing but another's output, which nothing else reads."""
    readers = Counter(name for node in nodes for name, _, _ in node.reads)
    readers.update(name for name, _, _ in tensors_in(config.get("output_layers")))
    return {
        node.name: node.reads[0][0]
        for node in nodes
        if len(node.reads) == 1 and node.reads[0][1:] == (0, 0) and readers[node.reads[0][0]] == 1
    }


def tensors_in(*told: object) -> Iterator[tuple[str, int, int]]:
    """Yield every ``[layer, node, tensor]`` that parts of a config name, in whatever it is nested."""
    waiting = list(told)
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            waiting += each.values()
        elif isinstance(each, list):
            if len(each) in (3, 4) and isinstance(each[0], str) and type(each[1]) is int and type(each[2]) is int:
                yield each[0], each[1], each[2]
                waiting += each[3:]
            else:
                waiting += each


# -- layers -----------------------------------------------------------------------------------------------------------


def _dropout(node: Node, place: str) -> CellSpec:
    rate = node.config.get("rate")
    if not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise WeightFormatError(f"layer {place!r} drops {rate!r} of its inputs; expected a number from 0 to 1")
    return CellSpec("DropoutCell", {"dropout": float(rate), "prefix": f"{place}_"})


def _recurrent(node: Node, names: tuple[str, ...]) -> Layer:
    place = "/".join(names)
    try:
        spec, cells, words = layer_cells(node.kind, node.config, f"{place}_", f"layer {place!r}")
    except UnsupportedError as error:
        return Layer(names, node.group, refused=str(error))
    own = node.config
    if node.kind == "Bidirectional":
        own = _object(_object(own.get("layer"), "a layer").get("config"), "the config of a layer")
    seen = f"layer {place!r} of the config is of class {node.kind}: {words}"
    evidence = (seen, *(f"layer {place!r} has {phrase}" for phrase in said_of(own)))
    return Layer(names, node.group, spec, tuple(cells), evidence, sequences=bool(own.get("return_sequences", False)))


def layer_cells(kind: object, config: Mapping[str, Any], prefix: str, who: str, backwards: bool = False) -> _Cells:
    """Return a layer's cells as one, then each one's prefix, place within the layer and bias, then words on them.

    Parameters
    ----------
    kind : str
        Its class: ``"LSTM"``, ``"RNN"``, ``"Bidirectional"``, …
    config : mapping
        Its config.
    prefix : str
        What the names of its weights begin with.
    who : str
        What to call it in an error.
    backwards : bool
        Whether it has to run backwards, as the second layer of a bidirectional one does.

    Raises
    ------
    UnsupportedError
        If rnnx has no cells that compute the same; the message names the layer and why.
    """
    if kind in _OTHER_CELLS:
        raise UnsupportedError(f"{who} is a {kind}, which rnnx has no cell for: {_OTHER_CELLS[str(kind)]}")
    if kind == "Bidirectional":
        return _bidirectional(config, prefix, who)
    if bool(config.get("go_backwards", False)) is not backwards:
        raise UnsupportedError(
            f"{who} has go_backwards {config.get('go_backwards')!r}: it gives its outputs last step first, which no "
            "cell of rnnx does"
            if not backwards
            else f"{who} has go_backwards False: it is to run backwards"
        )
    if kind in _PLAIN:
        spec = cell_of_config(str(kind), config, prefix, who)
        bias = bool(config.get("use_bias", True))
        return spec, [(prefix, "cell", bias)], f"{_words(spec)}, use_bias {bias}"
    return _rnn(config, prefix, who)


def _bidirectional(config: Mapping[str, Any], prefix: str, who: str) -> _Cells:
    if config.get("merge_mode") != "concat":
        raise UnsupportedError(
            f"{who} has merge_mode {config.get('merge_mode')!r}; rnnx's BidirectionalCell has 'concat'"
        )
    forward = _object(config.get("layer"), f"{who}: 'layer'")
    backward = config.get("backward_layer")
    if backward is None:
        backward = {**forward, "config": {**_object(forward.get("config"), f"{who}: 'config'"), "go_backwards": True}}
    both, cells, told = [], [], []
    for side, direction, layer in (("l", "forward", forward), ("r", "backward", _object(backward, f"{who}: 'layer'"))):
        if _is_custom(layer) or layer.get("class_name") not in (*_PLAIN, "RNN"):
            raise UnsupportedError(f"{who} wraps a {layer.get('class_name')!r}, which rnnx has no cell for")
        inner = _object(layer.get("config"), f"{who}: 'config'")
        spec, own, words = layer_cells(
            layer["class_name"], inner, f"{prefix}{side}0_", f"the {direction} layer of {who}", side == "r"
        )
        both.append(spec)
        cells += [(start, f"{direction}_layer/{where}", bias) for start, where, bias in own]
        told.append(f"{direction} {words}")
    return two_directions(both, prefix), cells, f"merge_mode 'concat', {', '.join(told)}"


def _rnn(config: Mapping[str, Any], prefix: str, who: str) -> _Cells:
    """Return the cells of an ``RNN`` layer: one, or a stack of them."""
    outer = _object(config.get("cell"), f"{who}: 'cell'")
    if outer.get("class_name") != "StackedRNNCells" or _is_custom(outer):
        inner, wheres = [outer], ["cell"]
    else:
        inner = [
            _object(each, f"{who}: 'cells'")
            for each in _listed(_object(outer.get("config"), f"{who}: 'config'").get("cells"), who)
        ]
        wheres = _counted([str(each.get("class_name")) for each in inner])
    prefixes = [prefix] if len(inner) == 1 else [f"{prefix}l{number}_" for number in range(len(inner))]
    specs, cells = [], []
    for start, where, each in zip(prefixes, wheres, inner, strict=True):
        kind, own = each.get("class_name"), _object(each.get("config"), f"{who}: 'config'")
        if kind not in _CELLS or _is_custom(each):
            raise UnsupportedError(f"{who} has cells of class {kind!r}, which rnnx has no cell for")
        specs.append(cell_of_config(str(kind), own, start, f"cell {own.get('name')!r} of {who}"))
        cells.append((start, where, bool(own.get("use_bias", True))))
    return stack_of(specs), cells, " then ".join(map(_words, specs))


def _listed(cells: object, who: str) -> list[Any]:
    if not isinstance(cells, list) or not cells:
        raise WeightFormatError(f"{who} has a stack of no cells")
    return cells


def _counted(kinds: Sequence[str]) -> list[str]:
    """Return where the cells of a stack have their weights: under their classes, counted."""
    counts: Counter[str] = Counter()
    wheres = []
    for kind in map(snake_case, kinds):
        wheres.append(f"cell/cells/{kind}_{counts[kind]}" if counts[kind] else f"cell/cells/{kind}")
        counts[kind] += 1
    return wheres


def _words(spec: CellSpec) -> str:
    fields = ", ".join(f"{key} {value!r}" for key, value in spec.fields.items() if key not in ("prefix", "forget_bias"))
    return f"{spec.kind} ({fields})"

"""The layers of a model that run one after the other and do nothing else, as the model's config tells them.

It is the config of a live model of Keras 3, which tells of every call of a layer its ``args`` and ``kwargs``. Masks are
passed over, and what computes them: they say which steps there are, not what is computed of these.

Source: ``keras/src/models/functional.py`` (``get_config``, ``serialize_node``) of Keras 3.15.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rnnx.errors import UnsupportedError
from rnnx.formats.keras.config import Node, nodes_of, tensors_in

__all__ = ["chain_of"]

_INPUT = "InputLayer"

_Layers = Sequence[Mapping[str, Any]]


def chain_of(kind: str, config: Mapping[str, Any], model: str) -> list[Node]:
    """Return the layers of a model, first to last, less those that stand for its inputs.

    Parameters
    ----------
    kind : str
        The model's class: ``"Sequential"``, or a functional one.
    config : mapping
        Its config.
    model : str
        What to call it in an error.

    Raises
    ------
    UnsupportedError
        If a layer reads anything but the outputs of the one before, or is called more than once, or stands beside the
        others; the message names it. The final states that a recurrent layer returns may leave the model, too.
    """
    if kind == "Sequential":
        return [node for node in nodes_of(config["layers"], "", ()) if node.kind != _INPUT]
    _refuse_training(config["layers"], model)
    nodes = list(nodes_of(list(map(_without_masks, config["layers"])), "", ()))
    chain = _backwards(nodes, _end(config, model), model)[::-1]
    maskers = _maskers(config["layers"])
    for node in nodes:
        if node.kind != _INPUT and node not in chain and node.name not in maskers:
            raise _no_chain(model, node, "stands beside the layers that make the outputs")
    return chain


def _end(config: Mapping[str, Any], model: str) -> str:
    """Return the one layer whose outputs leave the model."""
    ends = [name for name, _, result in tensors_in(config["output_layers"]) if result == 0]
    if len(ends) != 1:
        raise UnsupportedError(
            f"{model} gives out the outputs of {len(ends)} layers, {', '.join(map(repr, ends)) or 'none'}: from_keras "
            "takes layers in a row"
        )
    return ends[0]


def _backwards(nodes: Sequence[Node], last: str, model: str) -> list[Node]:
    """Return the layers from the last down to the inputs."""
    named = {node.name: node for node in nodes}
    found: list[Node] = []
    node = named[last]
    while node.kind != _INPUT:
        if len(node.reads) != 1:
            read = ", ".join(repr(name) for name, _, _ in node.reads)
            raise _no_chain(model, node, f"reads {len(node.reads)} tensors, of {read}")
        ((below, _, result),) = node.reads
        if result:
            raise _no_chain(model, node, f"reads a state of {below!r}")
        found.append(node)
        node = named[below]
    return found


def _no_chain(model: str, node: Node, why: str) -> UnsupportedError:
    return UnsupportedError(f"layer {node.name!r} ({node.kind}) of {model} {why}: from_keras takes layers in a row")


# -- calls ------------------------------------------------------------------------------------------------------------


def _calls(layer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the keywords of each call of a layer."""
    return (call["kwargs"] for call in layer["inbound_nodes"])


def _refuse_training(layers: _Layers, model: str) -> None:
    """Raise if a call of a layer says that it is always training."""
    for layer in layers:
        if any(keywords.get("training") is True for keywords in _calls(layer)):
            raise UnsupportedError(
                f"layer {layer['name']!r} of {model} is called with training=True, so it drops in inference, too, and "
                "no cell of rnnx does"
            )


def _without_masks(layer: Mapping[str, Any]) -> dict[str, Any]:
    calls = [
        {**call, "kwargs": {name: value for name, value in call["kwargs"].items() if name != "mask"}}
        for call in layer["inbound_nodes"]
    ]
    return {**layer, "inbound_nodes": calls}


def _maskers(layers: _Layers) -> set[str]:
    """Return the names of the layers that masks are computed of."""
    named = {layer["name"]: layer for layer in layers}
    masks = [keywords.get("mask") for layer in layers for keywords in _calls(layer)]
    waiting = [name for name, _, _ in tensors_in(masks)]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [read for read, _, _ in tensors_in(named[name]["inbound_nodes"])]
    return found

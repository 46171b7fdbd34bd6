"""A run of a cell tree cut up to be looked into: fused cells as stacks of plain ones, and one array a state and layer.

What is said of a plain cell can then be said of a layer of a fused one. Names of the cells that a fused one stands for
are those of ``FusedRNNCell.unfuse`` of ``mxnet.rnn``: its prefix, ``l`` or ``r`` for the direction, the layer's number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rnnx.conformance import reference
from rnnx.conformance.equations import WITH_C, Array, Weights
from rnnx.conformance.reference import PARTS, Network, Spec

__all__ = ["Outcome", "Setting", "apart", "directions_of", "labels_of", "leaves", "unfused", "valid", "with_leaves"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Outputs (N, T, H), and the final state of every layer, None where a fused cell keeps it."""

    outputs: Array
    states: tuple[Array | None, ...]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the reference is run on: a tree without fused cells, with one initial state a layer."""

    spec: Spec
    weights: Weights
    inputs: Array
    begin: tuple[Array, ...] | None = None
    lengths: tuple[int, ...] | None = None
    parts: Mapping[str, Callable[..., Network]] = dataclasses.field(default_factory=lambda: PARTS)

    def run(self) -> Outcome:
        """Return what the reference makes of it."""
        network = reference.of_spec(self.spec, self.weights, self.parts)
        outputs, states = reference.run(network, self.inputs, self.begin, self.lengths)
        return Outcome(outputs, tuple(states))

    def with_parts(self, **parts: Callable[..., Network]) -> Setting:
        """Return it with others in the place of some of `PARTS`."""
        return dataclasses.replace(self, parts={**self.parts, **parts})

    def starting(self) -> tuple[Array, ...]:
        """Return the initial states, as zeros where none are given."""
        if self.begin is not None:
            return self.begin
        return tuple(np.zeros_like(state) for state in self.run().states if state is not None)


def valid(setting: Setting) -> Array:
    """Return (N, T, 1), whether a step counts."""
    batch, steps, _ = setting.inputs.shape
    lengths = np.full(batch, steps) if setting.lengths is None else np.asarray(setting.lengths)
    return np.asarray(np.arange(steps) < lengths[:, None])[..., None]


def leaves(spec: Spec) -> Iterator[Spec]:
    """Yield the plain and the fused cells of a tree, in order."""
    if "children" not in spec and "num_hidden" in spec:
        yield spec
    for child in spec.get("children", ()):
        yield from leaves(child)


def with_leaves(spec: Spec, change: Callable[[Spec], Spec]) -> Spec:
    """Return the tree with each plain or fused cell replaced by what `change` makes of it."""
    if "children" in spec:
        return {**spec, "children": [with_leaves(child, change) for child in spec["children"]]}
    return change(spec) if "num_hidden" in spec else spec


def unfused(spec: Spec, weights: Weights) -> tuple[Spec, dict[str, Array]]:
    """Return the tree with every fused cell as a stack of plain ones, and the weights under their names."""
    apart = dict(weights)

    def change(leaf: Spec) -> Spec:
        if leaf["kind"] != "FusedRNNCell":
            return leaf
        vector = weights[reference.names_of(leaf)["parameters"]]
        apart.pop(reference.names_of(leaf)["parameters"], None)
        stack = []
        for layer, directions in enumerate(reference.cut_of(leaf, vector)):
            cells = [_plain(leaf, f"{letter}{layer}_") for letter, _ in zip("lr", directions, strict=False)]
            for cell, groups in zip(cells, directions, strict=True):
                apart.update({cell["params"] + group: array for group, array in groups.items()})
            stack.append(cells[0] if len(cells) == 1 else {"kind": "BidirectionalCell", "children": cells})
        return {"kind": "SequentialRNNCell", "children": stack}

    return with_leaves(spec, change), apart


def _plain(fused: Spec, name: str) -> dict[str, Any]:
    """Return one layer and direction of a fused cell."""
    kinds: dict[str, dict[str, Any]] = {
        "lstm": {"kind": "LSTMCell"},
        "gru": {"kind": "GRUCell", "reset_after": True},
        "rnn_tanh": {"kind": "RNNCell", "activation": "tanh"},
        "rnn_relu": {"kind": "RNNCell", "activation": "relu"},
    }
    prefixes = {"prefix": fused["prefix"] + name, "params": fused.get("params", fused["prefix"]) + name}
    return {"num_hidden": fused["num_hidden"], **prefixes, **kinds[fused["mode"]]}


def apart(spec: Spec, states: Sequence[Array], final: bool = False) -> tuple[Array | None, ...]:
    """Cut the states of a tree, initial or final, into one a layer; None for those that a fused cell keeps."""
    given = iter(states)
    found: list[Array | None] = []
    for leaf in leaves(spec):
        count = 1 + (reference.mode_of(leaf) in WITH_C)
        if leaf["kind"] != "FusedRNNCell":
            found += [next(given) for _ in range(count)]
        elif final and not leaf["get_next_state"]:
            found += [None] * (count * leaf["num_layers"] * (1 + bool(leaf["bidirectional"])))
        else:
            found += [state for layer in zip(*(next(given) for _ in range(count)), strict=True) for state in layer]
    return tuple(found)


def labels_of(spec: Spec) -> list[str]:
    """Return what the states of a tree without fused cells are called, in order."""
    found = []
    for leaf in leaves(spec):
        names = ("h", "c") if reference.mode_of(leaf) in WITH_C else ("h",)
        found += [f"{name} of {leaf['prefix']!r}" for name in names]
    return found


def directions_of(spec: Spec, width: int) -> list[int]:
    """Return 1 for every output that runs forward in time, -1 for one that runs backward; `width` is the inputs'."""
    found = [1] * width
    if spec["kind"] == "BidirectionalCell":
        forward, backward = (directions_of(child, width) for child in spec["children"])
        return forward + [-each for each in backward]
    if "num_hidden" in spec:
        return [1] * int(spec.get("num_projection", spec["num_hidden"]))
    for child in spec.get("children", ()):
        found = directions_of(child, len(found))
    return found

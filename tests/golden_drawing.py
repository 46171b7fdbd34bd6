"""What the golden cases are made of: random arrays, weights by layer, and descriptions of cells."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

N, T, WIDTH, HIDDEN = 3, 5, 3, 4

#: Unsorted, one of them all steps.
LENGTHS = np.array([2, 5, 4])

GATES = {"lstm": 4, "lstmp": 4, "gru": 3, "gru_reset_before": 3}
GROUPS = ("i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias")

Array = np.ndarray
Layer = dict[str, Array]


class Drawing:
    """Random arrays of one dtype, with no element near zero."""

    def __init__(self, name: str, dtype: str = "float32") -> None:
        self._rng = np.random.default_rng(list(name.encode()))
        self._dtype = dtype

    def array(self, *shape: int) -> Array:
        return (self._rng.uniform(0.1, 0.9, shape) * self._rng.choice([-1, 1], shape)).astype(self._dtype)

    def inputs(self) -> Array:
        return self.array(N, T, WIDTH)

    def layer(self, mode: str, width: int = WIDTH, recurrent: int = HIDDEN) -> Layer:
        """The weights of one layer in one direction; those of an lstmp whose state is `recurrent` wide."""
        rows = GATES.get(mode, 1) * HIDDEN
        shapes = dict(zip(GROUPS, [(rows, width), (rows, recurrent), (rows,), (rows,)], strict=True))
        if mode == "lstmp":
            shapes["h2r_weight"] = (recurrent, HIDDEN)
        return {group: self.array(*shape) for group, shape in shapes.items()}

    def layers(self, mode: str, count: int, directions: int, recurrent: int = HIDDEN) -> list[Layer]:
        """The weights of every layer and direction, the direction running fastest."""
        widths = [WIDTH] + [directions * recurrent] * (count - 1)
        return [self.layer(mode, width, recurrent) for width in widths for _ in range(directions)]


def flat(layers: Iterable[Layer]) -> Array:
    """The vector of a fused cell: every matrix by layer and direction, then every bias."""
    layers = list(layers)
    return np.concatenate(
        [layer[group].ravel() for pair in (GROUPS[:2], GROUPS[2:]) for layer in layers for group in pair]
    )


def prefixed(prefix: str, layer: Layer) -> Layer:
    return {prefix + group: array for group, array in layer.items()}


def plain_spec(mode: str, prefix: str) -> dict[str, Any]:
    """The description of a plain cell."""
    own = {"num_hidden": HIDDEN, "prefix": prefix}
    if mode == "lstm":
        return {"kind": "LSTMCell", "forget_bias": 1.0, **own}
    if mode.startswith("gru"):
        return {"kind": "GRUCell", "reset_after": mode == "gru", **own}
    return {"kind": "RNNCell", "activation": mode.removeprefix("rnn_"), **own}


def lstmp_spec(projection: int, prefix: str) -> dict[str, Any]:
    own = {"num_hidden": HIDDEN, "num_projection": projection, "prefix": prefix}
    return {"kind": "LSTMPCell", "forget_bias": 1.0, **own}


def fused_spec(mode: str, layers: int, directions: int) -> dict[str, Any]:
    own = {"num_hidden": HIDDEN, "num_layers": layers, "mode": mode, "bidirectional": directions == 2}
    return {"kind": "FusedRNNCell", "dropout": 0.0, "get_next_state": True, "forget_bias": 1.0, "prefix": "", **own}


def both_spec(forward: dict[str, Any], backward: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "BidirectionalCell", "output_prefix": "bi_", "children": [forward, backward]}


def regated(packed: Array, order: tuple[int, ...]) -> Array:
    """A packed weight or bias with its gates in another order: `order` are places in rnnx's."""
    gates = np.split(packed, len(order))
    return np.concatenate([gates[place] for place in order])

"""Golden cases of Keras: LSTM, GRU (both kinds), SimpleRNN (five activations) and Bidirectional."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from golden_drawing import HIDDEN, LENGTHS, WIDTH, Drawing, Layer, N, T, both_spec, plain_spec, prefixed, regated
from rnnx.conformance.golden import Golden

PRODUCER = f"keras {keras.__version__}"

#: Keras's names of rnnx's activations.
ACTIVATIONS = {
    "rnn_tanh": "tanh",
    "rnn_relu": "relu",
    "rnn_sigmoid": "sigmoid",
    "rnn_softrelu": "softplus",
    "rnn_softsign": "softsign",
}

#: Places in rnnx's order of the gates of Keras's layers: i f c o, and z r h.
ORDERS = {"lstm": (0, 1, 2, 3), "gru": (1, 0, 2), "gru_reset_before": (1, 0, 2)}


def cases() -> Iterator[Golden]:
    """Yield the cases."""
    for mode in (*ORDERS, *ACTIVATIONS):
        yield case(mode, 1, None)
    for mode in ORDERS:
        yield case(mode, 2, LENGTHS)


def case(mode: str, directions: int, lengths: np.ndarray | None) -> Golden:
    """A case of one layer, alone or in a Bidirectional."""
    name = f"keras-{mode}-directions{directions}"
    drawing = Drawing(name)
    layers, inputs = drawing.layers(mode, 1, directions), drawing.inputs()
    begin = [drawing.array(N, HIDDEN) for _ in range(directions * (1 + (mode == "lstm")))]
    module = made(mode)
    if directions == 2:
        module = keras.layers.Bidirectional(module)
    module.build((N, T, WIDTH))
    module.set_weights([array for layer in layers for array in stored(mode, layer)])
    mask = None if lengths is None else np.arange(T) < lengths[:, None]
    outputs, *states = (np.asarray(array) for array in module(inputs, mask=mask, initial_state=begin))
    prefixes = ["l_", "r_"][:directions]
    cells = [plain_spec(mode, prefix) for prefix in prefixes]
    weights = {k: w for prefix, layer in zip(prefixes, layers, strict=True) for k, w in prefixed(prefix, layer).items()}
    spec = both_spec(*cells) if directions == 2 else cells[0]
    return Golden(name, PRODUCER, spec, weights, inputs, tuple(begin), lengths, outputs, tuple(states))


def made(mode: str) -> Any:
    """A layer that returns everything; one that masks gives zeros past a row's length."""
    both = {"return_sequences": True, "return_state": True, "zero_output_for_mask": True}
    if mode == "lstm":
        return keras.layers.LSTM(HIDDEN, **both)
    if mode.startswith("gru"):
        return keras.layers.GRU(HIDDEN, reset_after=mode == "gru", **both)
    return keras.layers.SimpleRNN(HIDDEN, activation=ACTIVATIONS[mode], **both)


def stored(mode: str, layer: Layer) -> list[np.ndarray]:
    """The kernels and the bias of a layer. Keras has one bias where only the sum of both counts."""
    packed = {group: regated(array, ORDERS.get(mode, (0,))) for group, array in layer.items()}
    biases = np.stack([packed["i2h_bias"], packed["h2h_bias"]])
    return [packed["i2h_weight"].T, packed["h2h_weight"].T, biases if mode == "gru" else biases.sum(0)]

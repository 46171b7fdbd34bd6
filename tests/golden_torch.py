"""Golden cases of PyTorch: ``torch.nn.LSTM``, ``GRU`` and ``RNN``, and the LSTM's projection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from golden_drawing import (
    HIDDEN,
    LENGTHS,
    WIDTH,
    Drawing,
    Layer,
    N,
    T,
    both_spec,
    flat,
    fused_spec,
    lstmp_spec,
    prefixed,
)
from rnnx.conformance.golden import Golden

PRODUCER = f"torch {torch.__version__.partition('+')[0]}"

MODES = {
    "lstm": (torch.nn.LSTM, {}),
    "gru": (torch.nn.GRU, {}),
    "rnn_tanh": (torch.nn.RNN, {"nonlinearity": "tanh"}),
    "rnn_relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
}

#: PyTorch's names of a layer's weights, by rnnx's.
NAMES = {
    "i2h_weight": "weight_ih",
    "h2h_weight": "weight_hh",
    "i2h_bias": "bias_ih",
    "h2h_bias": "bias_hh",
    "h2r_weight": "weight_hr",
}

PROJECTION = 2


def cases() -> Iterator[Golden]:
    """Yield the cases."""
    for mode in MODES:
        yield fused(mode, 1, 1, "float32", None)
        yield fused(mode, 2, 2, "float32", LENGTHS)
        yield fused(mode, 2, 2, "float64", LENGTHS)
    yield projected(1, 1, "float32", None)
    yield projected(2, 2, "float64", LENGTHS)


def fused(mode: str, layers: int, directions: int, dtype: str, lengths: np.ndarray | None) -> Golden:
    """A case of a multi-layer module, which a fused cell equals."""
    name = f"torch-{mode}-layers{layers}-directions{directions}-{dtype}"
    drawing, (make, options) = Drawing(name, dtype), MODES[mode]
    drawn, inputs = drawing.layers(mode, layers, directions), drawing.inputs()
    begin = [drawing.array(layers * directions, N, HIDDEN) for _ in range(1 + (mode == "lstm"))]
    module = make(WIDTH, HIDDEN, layers, batch_first=True, bidirectional=directions == 2, **options)
    outputs, states = ran(loaded(module, drawn, dtype), inputs, begin, lengths)
    weights = {"parameters": flat(drawn)}
    spec = fused_spec(mode, layers, directions)
    return Golden(name, PRODUCER, spec, weights, inputs, tuple(begin), lengths, outputs, tuple(states))


def projected(layers: int, directions: int, dtype: str, lengths: np.ndarray | None) -> Golden:
    """A case of an LSTM with a projection, which a stack of plain cells equals."""
    name = f"torch-lstmp-layers{layers}-directions{directions}-{dtype}"
    drawing = Drawing(name, dtype)
    drawn, inputs = drawing.layers("lstmp", layers, directions, PROJECTION), drawing.inputs()
    begin = [drawing.array(layers * directions, N, size) for size in (PROJECTION, HIDDEN)]
    module = torch.nn.LSTM(WIDTH, HIDDEN, layers, batch_first=True, bidirectional=directions == 2, proj_size=PROJECTION)
    outputs, states = ran(loaded(module, drawn, dtype), inputs, begin, lengths)
    prefixes = [f"{'lr'[direction]}{layer}_" for layer in range(layers) for direction in range(directions)]
    cells: list[dict[str, Any]] = [lstmp_spec(PROJECTION, prefix) for prefix in prefixes]
    if directions == 2:
        cells = [both_spec(*pair) for pair in zip(cells[::2], cells[1::2], strict=True)]
    weights = {k: w for prefix, layer in zip(prefixes, drawn, strict=True) for k, w in prefixed(prefix, layer).items()}
    spec = {"kind": "SequentialRNNCell", "children": cells}
    return Golden(name, PRODUCER, spec, weights, inputs, by_layer(begin), lengths, outputs, by_layer(states))


def by_layer(states: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """States h and c of all layers, as h, c of the first, h, c of the second and so on."""
    return tuple(state for layer in zip(*states, strict=True) for state in layer)


def loaded(module: torch.nn.RNNBase, layers: list[Layer], dtype: str) -> torch.nn.RNNBase:
    """The module with the weights of every layer and direction."""
    module = module.to(getattr(torch, dtype))
    directions = ["", "_reverse"][: 1 + module.bidirectional]
    for number, layer in enumerate(layers):
        ending = f"_l{number // len(directions)}{directions[number % len(directions)]}"
        for group, array in layer.items():
            getattr(module, NAMES[group] + ending).data = torch.from_numpy(array.copy())
    module.flatten_parameters()
    return module


def ran(
    module: torch.nn.RNNBase, inputs: np.ndarray, begin: list[np.ndarray], lengths: np.ndarray | None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Outputs and final states of a module, over packed sequences where there are lengths."""
    given = [torch.from_numpy(state) for state in begin]
    rows: Any = torch.from_numpy(inputs)
    if lengths is not None:
        rows = pack_padded_sequence(rows, torch.from_numpy(lengths), batch_first=True, enforce_sorted=False)
    with torch.no_grad():
        outputs, states = module(rows, tuple(given) if len(given) > 1 else given[0])
    if lengths is not None:
        outputs, _ = pad_packed_sequence(outputs, batch_first=True, total_length=T)
    return outputs.numpy(), [state.numpy() for state in (states if len(given) > 1 else [states])]

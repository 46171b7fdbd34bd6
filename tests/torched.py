"""Cell trees for the tests of torch's modules, and modules over them with weights that are all different."""

from __future__ import annotations

import numpy as np
import torch

import networks
import rnnx
from rnnx_torch import RNNModule

BATCH, STEPS, WIDTH, HIDDEN = 4, 5, 3, 4
RAGGED = torch.tensor(networks.RAGGED)


def fused(mode: str = "lstm", dropout: float = 0.3, **options) -> rnnx.BaseRNNCell:
    return rnnx.FusedRNNCell(HIDDEN, 2, mode, True, dropout, True, **options)


def zoned() -> rnnx.BaseRNNCell:
    """Some layers with a kernel, and some that only step."""
    return networks.sequential(
        rnnx.ZoneoutCell(rnnx.LSTMCell(HIDDEN, "a_"), 0.2, 0.3),
        rnnx.ResidualCell(rnnx.GRUCell(HIDDEN, "b_", reset_after=False)),
        rnnx.BidirectionalCell(rnnx.RNNCell(2, "softsign", "l_"), rnnx.RNNCell(3, "sigmoid", "r_")),
    )


def own() -> rnnx.BaseRNNCell:
    return networks.sequential(networks.PeepholeLSTM(HIDDEN), rnnx.DropoutCell(0.4), networks.Accumulator(2))


def placed() -> rnnx.BaseRNNCell:
    """Cells whose names say where in a larger model they stood."""
    return networks.sequential(rnnx.GRUCell(HIDDEN, "encoder.gru_"), fused(prefix="encoder.layers.1.lstm_"))


TREES = {
    **{mode: lambda mode=mode: fused(mode) for mode in networks.FUSED_MODES},
    "plain": lambda: rnnx.LSTMCell(HIDDEN),
    **{make.__name__: make for make in (zoned, own, placed)},
}


def module_of(cell: rnnx.BaseRNNCell, dtype: str = "float64", width: int = WIDTH, **options) -> RNNModule:
    """A module whose weights are all different."""
    return RNNModule(networks.randomized(cell, width, dtype, scale=0.7), width, **options)


def inputs_of(dtype: str = "float64", width: int = WIDTH) -> torch.Tensor:
    array = np.random.default_rng(3).normal(size=(BATCH, STEPS, width))
    return torch.from_numpy(array).to(getattr(torch, dtype))

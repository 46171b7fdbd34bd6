"""Descriptions of cells, made from what a file of another framework says of them."""

from __future__ import annotations

from collections.abc import Sequence

from rnnx.spec import CellSpec

__all__ = ["fused_cell", "plain_cell", "two_directions"]


def plain_cell(
    mode: str,
    num_hidden: int,
    prefix: str,
    *,
    reset_after: bool = True,
    activation: str | None = None,
    num_projection: int | None = None,
) -> CellSpec:
    """Return a cell of one layer and direction.

    Parameters
    ----------
    mode : str
        ``"lstm"``, ``"gru"``, ``"rnn_tanh"``, ``"rnn_relu"``, or ``"rnn"`` with an activation.
    num_hidden : int
        H, the number of units.
    prefix : str
        Put before the weights' names.
    reset_after : bool
        Of a GRU, whether the reset gate acts after the recurrent product.
    activation : str, optional
        Of a plain recurrent cell, where the mode does not tell.
    num_projection : int, optional
        Of an LSTM whose hidden state is projected, the width of that state.
    """
    fields: dict[str, int | float | str | bool] = {"num_hidden": num_hidden, "prefix": prefix}
    if mode == "lstm" and num_projection is not None:
        return CellSpec("LSTMPCell", {**fields, "num_projection": num_projection, "forget_bias": 1.0})
    if mode == "lstm":
        return CellSpec("LSTMCell", {**fields, "forget_bias": 1.0})
    if mode == "gru":
        return CellSpec("GRUCell", {**fields, "reset_after": reset_after})
    return CellSpec("RNNCell", {**fields, "activation": activation or mode.removeprefix("rnn_")})


def fused_cell(
    mode: str,
    num_hidden: int,
    num_layers: int,
    bidirectional: bool,
    prefix: str,
    *,
    dropout: float = 0.0,
    get_next_state: bool = False,
) -> CellSpec:
    """Return a cell of several layers and directions; parameters as of `rnnx.FusedRNNCell`."""
    fields = {
        "num_hidden": num_hidden,
        "num_layers": num_layers,
        "mode": mode,
        "bidirectional": bidirectional,
        "dropout": dropout,
        "get_next_state": get_next_state,
        "forget_bias": 1.0,
        "prefix": prefix,
    }
    return CellSpec("FusedRNNCell", fields)


def two_directions(cells: Sequence[CellSpec], output_prefix: str = "bi_") -> CellSpec:
    """Return a forward cell alone, or a forward and a backward one side by side."""
    return (
        cells[0] if len(cells) == 1 else CellSpec("BidirectionalCell", {"output_prefix": output_prefix}, tuple(cells))
    )

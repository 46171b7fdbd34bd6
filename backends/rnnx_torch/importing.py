"""`from_torch`: a cell tree of one of torch's recurrent modules.

Names and layouts are those of `rnnx.formats.torch.names`, by which PyTorch's files are read, too.

Source: ``torch/nn/modules/rnn.py`` of PyTorch 2.13.
"""

from __future__ import annotations

from typing import Any

import torch

from rnnx.backend import Array
from rnnx.building import fused_cell, plain_cell, two_directions
from rnnx.cells import BaseRNNCell, placement
from rnnx.errors import UnsupportedError
from rnnx.formats.torch.names import Place, module_tensors
from rnnx.fusion import running_layers
from rnnx.registry import get_backend
from rnnx.spec import CellSpec
from rnnx.weights.stored import taken_apart

__all__ = ["from_torch"]

#: The modules for whole sequences, and those for one step.
_SEQUENCES = (torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN)
_STEPS = (torch.nn.LSTMCell, torch.nn.GRUCell, torch.nn.RNNCell)


def from_torch(module: torch.nn.Module, prefix: str | None = None) -> BaseRNNCell:
    """Return a cell tree that computes what a recurrent module does, with copies of its weights.

    ``LSTM``, ``GRU`` and ``RNN`` become a `FusedRNNCell`, which holds all weights in one vector, and an ``LSTM`` with
    ``proj_size`` a stack of `LSTMPCell`; ``LSTMCell``, ``GRUCell`` and ``RNNCell`` become the cell of that name. With
    ``bias=False`` the biases are zero. Whether the module has ``batch_first`` is no matter of weights: give `unroll`
    ``layout="TNC"`` where it has not.

    Parameters
    ----------
    module : torch.nn.Module
        One of those modules.
    prefix : str, optional
        Put before the weights' names; by default what rnnx calls such a cell: ``"lstm_"``, ``"rnn_tanh_"``.

    Returns
    -------
    BaseRNNCell
        With weights on the module's device and in its dtype, bit for bit the same. They are copies: what trains one
        does not train the other.

    Raises
    ------
    UnsupportedError
        For any other module, such as a container; the message names what it holds.
    """
    kind = next((kind for kind in (*_SEQUENCES, *_STEPS) if isinstance(module, kind)), None)
    if kind is None:
        raise UnsupportedError(_unknown(module))
    if type(module).forward is not kind.forward:
        raise UnsupportedError(
            f"{type(module).__name__} has a forward of its own, so what it computes is not what {kind.__name__} does: "
            "write it as a cell, a subclass of rnnx.BaseRNNCell"
        )
    return _read(module, kind in _SEQUENCES, prefix)


def _unknown(module: torch.nn.Module) -> str:
    kinds = ", ".join(kind.__name__ for kind in (*_SEQUENCES, *_STEPS))
    found = [
        f"{name!r} ({type(child).__name__})"
        for name, child in module.named_modules()
        if name and isinstance(child, (*_SEQUENCES, *_STEPS))
    ]
    instead = (
        f"give from_torch each of those that it holds, {', '.join(found)}, and put the cells on each other with "
        "rnnx.SequentialRNNCell"
        if found
        else "it holds none of those"
    )
    return f"a {type(module).__name__} is none of {kinds}: {instead}"


def _read(module: Any, numbered: bool, prefix: str | None) -> BaseRNNCell:
    spec = _sequence(module, prefix) if numbered else _step(module, prefix)
    cell = BaseRNNCell.from_spec(spec)
    shapes = placement.gate_shapes(cell, module.input_size)
    stored = list(module_tensors(Place("", numbered), running_layers(spec), shapes, bool(module.bias)))
    torchs = get_backend("torch")
    # By attribute, where what a parametrization makes of a parameter stands.
    arrays: dict[str, Array] = {each.name: torchs.to_numpy(getattr(module, each.name)) for each in stored}
    cell.load_params(taken_apart(stored, arrays, shapes))
    return cell.to("torch", str(getattr(module, stored[0].name).device))


def _sequence(module: Any, prefix: str | None) -> CellSpec:
    mode = module.mode.lower()
    where = f"{mode}_" if prefix is None else prefix
    sizes = module.hidden_size, module.num_layers, module.bidirectional
    if not module.proj_size:
        return fused_cell(mode, *sizes, where, dropout=float(module.dropout), get_next_state=True)
    layers: list[CellSpec] = []
    for layer in range(module.num_layers):
        if layer and module.dropout:
            fields = {"dropout": float(module.dropout), "prefix": f"{where}_dropout{layer - 1}_"}
            layers.append(CellSpec("DropoutCell", fields))
        sides = "lr" if module.bidirectional else "l"
        cells = [
            plain_cell(mode, module.hidden_size, f"{where}{side}{layer}_", num_projection=module.proj_size)
            for side in sides
        ]
        layers.append(two_directions(cells, f"{where}bi_l{layer}_"))
    return CellSpec("SequentialRNNCell", {}, tuple(layers))


def _step(module: Any, prefix: str | None) -> CellSpec:
    mode = {torch.nn.LSTMCell: "lstm", torch.nn.GRUCell: "gru"}
    found = next((name for kind, name in mode.items() if isinstance(module, kind)), "rnn")
    where = f"{found}_" if prefix is None else prefix
    return plain_cell(found, module.hidden_size, where, activation=getattr(module, "nonlinearity", None))

"""Checkpoints as `mxnet.rnn` writes and reads them: ``prefix-symbol.json`` and ``prefix-0001.params``.

Source: ``python/mxnet/rnn/rnn.py`` and ``python/mxnet/model.py`` of MXNet 1.9.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rnnx.atomic import replace_file
from rnnx.backend import Array
from rnnx.cells import BaseRNNCell
from rnnx.formats.mxnet import params_path, read_params, symbol_path, write_params
from rnnx.registry import backend_of

__all__ = ["do_rnn_checkpoint", "load_rnn_checkpoint", "save_rnn_checkpoint"]

Cells = BaseRNNCell | Sequence[BaseRNNCell]


def save_rnn_checkpoint(
    cells: Cells,
    prefix: str,
    epoch: int,
    symbol: Any,
    arg_params: Mapping[str, Array],
    aux_params: Mapping[str, Array] | None = None,
) -> None:
    """Write a checkpoint that MXNet loads, each of its two files whole or not at all.

    Parameters
    ----------
    cells : BaseRNNCell or sequence of BaseRNNCell
        The cells whose packed weights are among the arguments; they are written one a gate.
    prefix : str
        What both files' names start with.
    epoch : int
        Number of the epoch, for the name of the arrays' file.
    symbol : bytes, str, object with ``tojson()``, or None
        Written byte for byte to ``prefix-symbol.json``; None leaves that file alone.
    arg_params, aux_params : mapping of str to array
        The whole model's arguments and auxiliary states, by name.
    """
    arguments = dict(arg_params)
    for cell in _listed(cells):
        arguments = cell.unpack_weights(arguments)
    path = params_path(prefix, epoch)
    if symbol is not None:
        with replace_file(symbol_path(path)) as file:
            file.write(_as_bytes(symbol))
    write_params(path, _as_numpy(arguments), _as_numpy(aux_params or {}))


def load_rnn_checkpoint(
    cells: Cells, prefix: str, epoch: int
) -> tuple[bytes | None, dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]:
    """Read a checkpoint, with the cells' weights packed.

    Returns
    -------
    symbol : bytes or None
        What ``prefix-symbol.json`` holds, or None if there is no such file.
    arg_params, aux_params : dict of str to array
        The whole model's arguments and auxiliary states; give a cell its own with ``load_params(arg_params,
        ignore_extra=True)``.

    Raises
    ------
    WeightFormatError
        If a file is damaged, or a weight of the cells is missing.
    """
    path = params_path(prefix, epoch)
    symbol = symbol_path(path)
    arguments, auxiliary = read_params(path)
    for cell in _listed(cells):
        arguments = cell.pack_weights(arguments)
    return symbol.read_bytes() if symbol.exists() else None, arguments, auxiliary


def do_rnn_checkpoint(cells: Cells, prefix: str, period: int = 1) -> Callable[..., None]:
    """Return a function to be called at the end of each epoch, which writes a checkpoint every `period` epochs.

    It takes the epoch's number, counted from 0, and the symbol, arguments and auxiliary states as
    `save_rnn_checkpoint` does. Without arguments it writes the weights of the cells themselves.
    """
    every = max(1, int(period))

    def callback(
        iter_no: int,
        sym: Any = None,
        arg: Mapping[str, Array] | None = None,
        aux: Mapping[str, Array] | None = None,
    ) -> None:
        if (iter_no + 1) % every == 0:
            own = {name: value for cell in _listed(cells) for name, value in cell.get_params().items()}
            save_rnn_checkpoint(cells, prefix, iter_no + 1, sym, own if arg is None else arg, aux)

    return callback


def _listed(cells: Cells) -> Sequence[BaseRNNCell]:
    return [cells] if isinstance(cells, BaseRNNCell) else cells


def _as_numpy(arrays: Mapping[str, Array]) -> dict[str, npt.NDArray[Any]]:
    return {name: np.asarray(backend_of([array]).to_numpy(array)) for name, array in arrays.items()}


def _as_bytes(symbol: Any) -> bytes:
    text = symbol.tojson() if hasattr(symbol, "tojson") else symbol
    return text if isinstance(text, bytes) else str(text).encode()

"""Checkpoints as `mxnet.rnn` writes and reads them: ``prefix-symbol.json`` and ``prefix-0001.params``.

Source: ``python/mxnet/rnn/rnn.py`` and ``python/mxnet/model.py`` of MXNet 1.9.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rnnx.archive import naming
from rnnx.backend import Array
from rnnx.cells import BaseRNNCell
from rnnx.errors import UnsupportedError
from rnnx.formats.mxnet import ARGUMENT, AUXILIARY, SYMBOL, params_path, read_params, write_both
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
    """Write a checkpoint that MXNet loads, whole or not at all.

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

    Raises
    ------
    WeightFormatError
        If a weight of the cells is missing.
    UnsupportedError
        If MXNet could not load an array, or `symbol` is something else.
    """
    arguments = dict(arg_params)
    for cell in _listed(cells):
        arguments = cell.unpack_weights(arguments)
    arrays = {ARGUMENT + name: array for name, array in arguments.items()}
    arrays |= {AUXILIARY + name: array for name, array in (aux_params or {}).items()}
    write_both(params_path(prefix, epoch), _as_numpy(arrays), _symbol_path(prefix), _as_bytes(symbol))


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
    path, symbol = params_path(prefix, epoch), _symbol_path(prefix)
    arguments, auxiliary = read_params(path)
    with naming(path):
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


def _symbol_path(prefix: str) -> Path:
    return Path(f"{prefix}-{SYMBOL}")


def _as_numpy(arrays: Mapping[str, Array]) -> dict[str, npt.NDArray[Any]]:
    return {name: np.asarray(backend_of([array]).to_numpy(array)) for name, array in arrays.items()}


def _as_bytes(symbol: Any) -> bytes | None:
    text = symbol.tojson() if hasattr(symbol, "tojson") else symbol
    if not isinstance(text, str | bytes | None):
        raise UnsupportedError(
            f"symbol is of type {type(symbol).__name__}; expected bytes, str, an object with tojson(), or None"
        )
    return text.encode() if isinstance(text, str) else text

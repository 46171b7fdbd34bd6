"""Files of MXNet: arrays of every version of the record, under every kind of name, and with a symbol beside them."""

from __future__ import annotations

import contextlib
import dataclasses
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from samples import Sample, scratch

from rnnx.cells import BaseRNNCell, FusedRNNCell
from rnnx.errors import RNNXError
from rnnx.formats.mxnet.ndarray import write_ndarrays
from rnnx.formats.mxnet.symbol import parts_of_symbol

__all__ = ["named_otherwise", "seeds", "with_symbols"]

_SYMBOLS = Path(__file__).parents[1] / "tests" / "fixtures" / "symbols"

_PARAMS, _SYMBOL = "model-0001.params", "model-symbol.json"

Arrays = Mapping[str, np.ndarray[Any, Any]]


def seeds() -> Iterator[Sample]:
    """Yield files that `rnnx.convert` does not write."""
    yield from named_otherwise()
    yield from of_other_versions()
    yield from with_symbols()


def named_otherwise() -> Iterator[Sample]:
    """Yield arrays as ``save_checkpoint`` and Gluon call them."""
    layer = _layer(8, 3, 2)
    yield _sample(
        {f"arg:lstm_{name}": array for name, array in layer.items()} | {"aux:bn_moving_mean": np.ones(2, "f4")}
    )
    yield _sample(
        {f"0._unfused.0.{name}": array for name, array in layer.items()} | {"1.weight": np.ones((2, 2), "f4")}
    )
    both = {f"_unfused.0.{side}_cell.{name}": array for side in "lr" for name, array in _layer(6, 3, 2).items()}
    yield _sample(both)
    yield _sample({f"lstm0_{side}0_{name}": array for side in "lr" for name, array in layer.items()})
    yield _sample(
        {f"{cell}.{name}": array for cell, width in ((0, 3), (1, 2)) for name, array in _layer(8, width, 2).items()}
    )
    vector = _sample({"arg:lstm_parameters": np.arange(56, dtype="f4")})
    yield dataclasses.replace(vector, cell=FusedRNNCell(2, prefix="lstm_").spec.to_json())


def of_other_versions() -> Iterator[Sample]:
    """Yield files of older MXNets, with sparse arrays, and with no names."""
    layer = _layer(8, 3, 2)
    for head in (_before_v1, _v1, _v3):
        yield Sample(_PARAMS, {_PARAMS: _file([head(array) for array in layer.values()], [f"lstm_{n}" for n in layer])})
    bfloat16 = struct.pack("<Iiiq3i4H", 0xF993FAC9, 0, 1, 4, 1, 0, 12, 1, 2, 3, 4)
    sparse = struct.pack("<Iiiqiqiiiiiqfq", 0xF993FAC9, 1, 1, 1, 1, 4, 1, 0, 0, 6, 1, 1, 2.0, 0)
    yield Sample(_PARAMS, {_PARAMS: _file([bfloat16, _v1(np.ones(2, "f4"))], ["arg:a", "arg:b"])})
    yield Sample(_PARAMS, {_PARAMS: _file([sparse], ["arg:a"])})
    yield Sample(_PARAMS, {_PARAMS: _file([_v1(np.ones(2, "f4"))], [])})


def with_symbols() -> Iterator[Sample]:
    """Yield each symbol of the tests, with weights that fit it where it has cells."""
    for path in sorted(_SYMBOLS.glob("*.json")):
        symbol = path.read_bytes()
        yield _sample({f"arg:{name}": array for name, array in _weights_of(symbol).items()}, symbol)


def _weights_of(symbol: bytes) -> dict[str, np.ndarray[Any, Any]]:
    weights = {}
    try:
        parts = parts_of_symbol(symbol)
    except RNNXError:  # symbols of cells that rnnx lacks are read too, and refused
        parts = []
    for part in parts:
        stored = {new: old for old, new in part.renames.items()}
        cell = _initialized(part.spec)
        weights.update({stored.get(name, name): np.asarray(array) for name, array in cell.get_params().items()})
    return weights


def _initialized(spec: Any) -> BaseRNNCell:
    """Return a cell with weights, for inputs of a width that it takes."""
    for width in (3, 4, 8, 16, 5, 6, 2, 1):
        cell = BaseRNNCell.from_spec(spec)
        with contextlib.suppress(RNNXError):  # what is added to its own inputs is as wide as they are
            cell.initialize(width, backend="numpy", dtype="float32", seed=0)
            return cell
    return BaseRNNCell.from_spec(spec)


def _layer(rows: int, width: int, hidden: int) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(rows)
    shapes = {"i2h_weight": (rows, width), "h2h_weight": (rows, hidden), "i2h_bias": (rows,), "h2h_bias": (rows,)}
    return {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}


def _sample(arrays: Arrays, symbol: bytes | None = None) -> Sample:
    with scratch() as folder:
        path = folder / _PARAMS
        write_ndarrays(path, list(arrays), list(arrays.values()))
        files = {_PARAMS: path.read_bytes()}
    return Sample(_PARAMS, files if symbol is None else {**files, _SYMBOL: symbol})


# -- records ----------------------------------------------------------------------------------------------------------


def _file(records: Sequence[bytes], names: Sequence[str]) -> bytes:
    listed = b"".join(struct.pack("<Q", len(name)) + name.encode() for name in names)
    return struct.pack("<QQQ", 0x112, 0, len(records)) + b"".join(records) + struct.pack("<Q", len(names)) + listed


def _before_v1(array: np.ndarray[Any, Any]) -> bytes:
    return struct.pack(f"<I{array.ndim}I3i", array.ndim, *array.shape, 1, 0, 0) + array.tobytes()


def _v1(array: np.ndarray[Any, Any]) -> bytes:
    return struct.pack(f"<Ii{array.ndim}q3i", 0xF993FAC8, array.ndim, *array.shape, 1, 0, 0) + array.tobytes()


def _v3(array: np.ndarray[Any, Any]) -> bytes:
    return struct.pack(f"<Iii{array.ndim}q3i", 0xF993FACA, 0, array.ndim, *array.shape, 1, 0, 0) + array.tobytes()

"""Valid files of every format, small, and the same at every run: what `mutations` damages.

Every format has those that rnnx writes of a few networks; most have others of the framework itself, where that is
installed. A format without its framework has no files.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator

import numpy as np
import seeds_foreign
import seeds_mxnet
from samples import Sample, scratch

import rnnx
from rnnx.errors import RNNXError
from rnnx.registry import list_formats

__all__ = ["NEEDS", "formats", "networks", "seeds_of"]

#: Packages that a format's files are read with.
NEEDS = {
    "torch": ("torch",),
    "keras": ("h5py",),
    "onnx": ("onnx",),
    "flax": ("msgpack",),
    "tf1": (),
}

#: Width of the inputs of every network.
WIDTH = 3

#: What a file is called whose name tells its kind.
_NAMES = {
    "rnnx": ("model.rnnx",),
    "mxnet": ("model-0001.params",),
    "torch": ("model.pt", "model.safetensors"),
    "keras": ("model.keras", "model.weights.h5", "model.h5"),
    "onnx": ("model.onnx",),
    "flax": ("model.msgpack",),
    "cudnn": ("model.npy",),
    "tf1": ("model.ckpt",),
}


def formats() -> list[str]:
    """Return the formats that rnnx has and whose packages are installed."""
    names = [info.name for info in list_formats()]
    return [name for name in names if all(importlib.util.find_spec(package) for package in NEEDS.get(name, ()))]


@functools.cache
def seeds_of(format: str) -> list[Sample]:  # noqa: A002
    """Return the valid files of a format."""
    return [*_written_by_rnnx(format), *_FOREIGN.get(format, _none)()]


def networks() -> Iterator[rnnx.BaseRNNCell]:
    """Yield small networks with random weights, of every kind of cell."""
    for mode in ("lstm", "gru", "rnn_tanh"):
        yield filled(rnnx.FusedRNNCell(2, 2, mode, True, prefix=f"enc.{mode}_"))
    yield filled(_stack(rnnx.LSTMCell(2, "lstm0_"), rnnx.DropoutCell(0.5), rnnx.LSTMCell(4, "lstm1_")))
    yield filled(rnnx.GRUCell(2, "gru_", reset_after=False))
    yield filled(rnnx.BidirectionalCell(rnnx.RNNCell(2, "relu", "l_"), rnnx.RNNCell(2, "relu", "r_")))
    yield filled(rnnx.LSTMPCell(4, 2, "proj_"))
    yield filled(rnnx.ZoneoutCell(rnnx.ResidualCell(rnnx.GRUCell(3, "res_")), 0.25, 0.5), dtype="float16")


def filled(cell: rnnx.BaseRNNCell, width: int = WIDTH, dtype: str = "float32") -> rnnx.BaseRNNCell:
    """Return the cell itself, with random weights."""
    cell.initialize(width, backend="numpy", dtype=dtype, seed=0)
    rng = np.random.default_rng(1)
    cell.load_params({name: rng.normal(size=old.shape).astype(dtype) for name, old in cell.get_params().items()})
    return cell


def _stack(*cells: rnnx.BaseRNNCell) -> rnnx.SequentialRNNCell:
    stack = rnnx.SequentialRNNCell()
    for cell in cells:
        stack.add(cell)
    return stack


def _written_by_rnnx(format: str) -> Iterator[Sample]:  # noqa: A002
    """Yield what rnnx writes of each network that the format has a form for."""
    extra = {"embedding": np.arange(12, dtype=np.float32).reshape(4, 3), "steps": np.array([7])}
    for cell in networks():
        for name in _NAMES.get(format, (f"model.{format}",)):
            with scratch() as folder:
                source, target = folder / "source.rnnx", folder / "written" / name
                target.parent.mkdir()
                rnnx.save(source, cell, extra if format != "cudnn" else None)
                try:
                    rnnx.convert(source, target, format, merge_biases=True)
                except RNNXError:  # the format has nothing for this network
                    continue
                files = {path.name: path.read_bytes() for path in sorted(target.parent.iterdir())}
            tree = cell.spec.to_json() if format == "cudnn" else None
            yield Sample(name, {each: seeds_foreign.reproducible(data) for each, data in files.items()}, tree)


def _portable_with_files() -> Iterator[Sample]:
    """Yield what MXNet's files become as portable ones, with a symbol and with notes in them."""
    for sample in [*seeds_mxnet.named_otherwise(), *list(seeds_mxnet.with_symbols())[::6]]:
        with scratch() as folder:
            path = folder / "model.rnnx"
            try:
                rnnx.convert(sample.written(folder), path, "rnnx", activation="tanh")
            except RNNXError:
                continue
            yield Sample("model.rnnx", {"model.rnnx": path.read_bytes()})


def _none() -> Iterator[Sample]:
    return iter(())


_FOREIGN: dict[str, Callable[[], Iterator[Sample]]] = {
    "mxnet": seeds_mxnet.seeds,
    "rnnx": _portable_with_files,
    "torch": seeds_foreign.of_torch,
    "keras": seeds_foreign.of_keras,
    "onnx": seeds_foreign.of_onnx,
    "flax": seeds_foreign.of_flax,
    "tf1": seeds_foreign.of_tensorflow,
}

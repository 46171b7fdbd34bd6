"""Weights are packed, moved, cast, saved and loaded bit for bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import rnnx
from rnnx.conformance import judging, networks, unrolled
from rnnx.conformance.dtypes import most_exact
from rnnx.conformance.marks import dtypes, singles
from rnnx.conformance.networks import MODES, TREES, Array, fused_tree, numpy_dtype
from rnnx.conformance.subject import Subject

names = pytest.mark.parametrize("name", ["lstm", "gru", "rnn_relu", "lstmp", "lstm-2-both", "gru-3-one", "both_unlike"])


@pytest.fixture
def dtype_here(subject: Subject) -> str:
    """Return a dtype that the backend declares, and files hold."""
    return most_exact(subject)


def assert_same_bits(found: dict[str, Array], expected: dict[str, Array], what: str) -> None:
    """Check weights by name: dtype, shape and every bit."""
    __tracebackhide__ = True
    assert list(found) == list(expected), f"{what}: names {list(found)}, expected {list(expected)}"
    for name, array in expected.items():
        one = (found[name].dtype, found[name].shape, found[name].tobytes())
        assert one == (array.dtype, array.shape, array.tobytes()), f"{what}: {name} is not the same bit for bit"


def exact_weights(name: str, dtype: str) -> dict[str, Array]:
    """Return a tree's weights in a dtype."""
    return {key: array.astype(numpy_dtype(dtype)) for key, array in networks.trial(name, dtype).weights.items()}


@dtypes
@names
def test_there_and_back(subject: Subject, name: str, dtype: str) -> None:
    """From NumPy to the backend and to NumPy again, with what NumPy has no ordinary numbers for."""
    weights = exact_weights(name, dtype)
    for array in weights.values():
        array.ravel()[:5] = np.array([-0.0, np.inf, np.nan, 0.0, 1e-7]).astype(array.dtype)
    cell = TREES[name].build()
    cell.load_params(weights)
    cell.to(subject.name, subject.device)
    assert_same_bits(cell.get_params(), weights, f"get_params on {subject.name}")
    cell.to("numpy")
    assert_same_bits(cell.get_params(), weights, "get_params after the way back")


@dtypes
@names
def test_packing(subject: Subject, name: str, dtype: str) -> None:
    """Packed weights of the backend's come apart by gate as NumPy's do, and go together again."""
    backend, weights = subject.backend, exact_weights(name, dtype)
    cell = TREES[name].build()
    apart = cell.unpack_weights({key: subject.array(array) for key, array in weights.items()})
    assert all(backend.owns(array) for array in apart.values())
    expected = cell.unpack_weights(weights)
    assert_same_bits({key: backend.to_numpy(array) for key, array in apart.items()}, expected, "unpack_weights")
    again = cell.pack_weights(apart)
    assert all(backend.owns(array) for array in again.values())
    packed = {key: np.array(backend.to_numpy(array)) for key, array in again.items()}
    assert_same_bits({key: packed[key] for key in weights}, weights, "pack_weights")


@names
def test_unpacked_weights_are_copies(subject: Subject, name: str, dtype_here: str) -> None:
    """Writing to a gate's weight, where the framework lets it, does not reach the packed one."""
    given = {key: subject.array(array) for key, array in exact_weights(name, dtype_here).items()}
    before = unrolled.bits(subject, given.values())
    for key, array in TREES[name].build().unpack_weights(given).items():
        values = subject.backend.to_numpy(array)
        if key not in given and values.flags.writeable:
            values[...] = 7
    judging.assert_unchanged(unrolled.bits(subject, given.values()), before, "packed weights")


@names
def test_get_params_gives_copies(subject: Subject, name: str, dtype_here: str) -> None:
    """What is done to them does not reach the cell."""
    trial = networks.trial(name, dtype_here)
    cell = unrolled.placed(subject, trial)
    for array in cell.get_params().values():
        array[...] = 7
    assert_same_bits(cell.get_params(), exact_weights(name, dtype_here), "get_params")
    judging.assert_right(subject, trial, unrolled.run(subject, trial, cell=cell))


@names
def test_load_params_copies(subject: Subject, name: str, dtype_here: str) -> None:
    """What is done later to the arrays that were loaded does not reach the cell, in either direction."""
    trial = networks.trial(name, dtype_here)
    cell = TREES[name].build()
    given = {key: subject.array(array) for key, array in exact_weights(name, dtype_here).items()}
    cell.load_params(given)
    for array in given.values():
        values = subject.backend.to_numpy(array)
        if values.flags.writeable:
            values[...] = 7
    assert_same_bits(cell.get_params(), exact_weights(name, dtype_here), "get_params")
    judging.assert_right(subject, trial, unrolled.run(subject, trial, cell=cell))


@names
def test_weights_of_each_gate_are_taken(subject: Subject, name: str, dtype_here: str) -> None:
    """`load_params` of the backend's arrays, one a gate."""
    trial = networks.trial(name, dtype_here)
    apart = TREES[name].build().unpack_weights(exact_weights(name, dtype_here))
    cell = TREES[name].build()
    cell.load_params({key: subject.array(array) for key, array in apart.items()})
    assert_same_bits(cell.get_params(), exact_weights(name, dtype_here), "get_params")
    judging.assert_right(subject, trial, unrolled.run(subject, trial, cell=cell))


@dtypes
@names
def test_casting(subject: Subject, name: str, dtype: str) -> None:
    """`to` another dtype rounds to the nearest number, as NumPy does."""
    weights = {key: array.astype(np.float64) / 3 for key, array in networks.trial(name, "float64").weights.items()}
    cell = TREES[name].build()
    cell.load_params(weights)
    cell.to(subject.name, subject.device, dtype)
    expected = {key: array.astype(numpy_dtype(dtype)) for key, array in weights.items()}
    assert_same_bits(cell.get_params(), expected, f"get_params in {dtype}")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@names
def test_casting_on_the_backend(subject: Subject, name: str, dtype: str) -> None:
    """From one dtype to another where the weights are, and it runs in the new one."""
    trial = networks.trial(name, dtype)
    wide = next(each for each in ("float64", "float32", dtype) if each in subject.capabilities)
    cell = TREES[name].build()
    cell.load_params({key: array.astype(wide) for key, array in trial.weights.items()})
    cell.to(subject.name, subject.device)
    unrolled.run(subject, networks.trial(name, wide), cell=cell)
    cell.to(subject.name, subject.device, dtype)
    judging.assert_right(subject, trial, unrolled.run(subject, trial, cell=cell))


# -- files ------------------------------------------------------------------------------------------------------------


@dtypes
@names
def test_the_portable_file(subject: Subject, name: str, dtype: str, tmp_path: Path) -> None:
    """Saved from the backend and loaded to it."""
    trial = networks.trial(name, dtype)
    path = tmp_path / "cell.rnnx"
    extra = {"embedding": subject.array(np.arange(6.0).reshape(2, 3).astype(numpy_dtype(dtype)))}
    rnnx.save(path, unrolled.placed(subject, trial), extra)
    cell, others = rnnx.load(path, backend=subject.name)
    assert_same_bits(cell.get_params(), exact_weights(name, dtype), "weights from the file")
    values = {name: np.asarray(array) for name, array in others.items()}
    assert_same_bits(values, {"embedding": np.arange(6.0).reshape(2, 3).astype(numpy_dtype(dtype))}, "what is extra")
    if subject.device == subject.backend.devices()[0] and dtype == most_exact(subject):
        judging.assert_right(subject, trial, unrolled.run(subject, trial, cell=cell))


@pytest.mark.parametrize("name", ["lstm", "gru", "lstm-2-both", "gru-3-one", "stack_lstm", "rnn_relu"])
@singles
def test_a_checkpoint_of_mxnet(subject: Subject, name: str, dtype: str, tmp_path: Path) -> None:
    """Written from the backend's arrays, one a gate, and read again."""
    trial, prefix = networks.trial(name, dtype), str(tmp_path / "model")
    cell = unrolled.placed(subject, trial)
    given = {key: subject.array(array) for key, array in exact_weights(name, dtype).items()}
    rnnx.save_rnn_checkpoint(cell, prefix, 3, b"{}", {**given, "other": subject.array(np.ones(2, np.float32))})
    other = TREES[name].build()
    symbol, arguments, _ = rnnx.load_rnn_checkpoint(other, prefix, 3)
    assert symbol == b"{}"
    assert arguments.pop("other").tolist() == [1.0, 1.0]
    assert_same_bits(dict(sorted(arguments.items())), dict(sorted(exact_weights(name, dtype).items())), "arguments")
    other.load_params(arguments)
    other.to(subject.name, subject.device)
    judging.assert_right(subject, trial, unrolled.run(subject, trial, cell=other))


# -- the vector of a fused cell ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("both", [False, True], ids=["one", "both"])
@pytest.mark.parametrize("mode", MODES)
def test_each_number_of_the_vector(subject: Subject, mode: str, both: bool, dtype_here: str) -> None:
    """Changed alone, it changes the outputs as the reference says: each has its place."""
    trial = networks.trial(fused_tree(mode, 2, both, 2, 1), dtype_here, batch=2, steps=3)
    cell, ((name, vector),) = unrolled.placed(subject, trial), trial.weights.items()
    for place in range(vector.size):
        changed = vector.copy()
        changed[place] += 0.5
        changed = networks.rounded(changed, dtype_here)
        cell.load_params({name: changed.astype(numpy_dtype(dtype_here))})
        other = dataclasses.replace(trial, weights={name: changed})
        judging.assert_right(subject, other, unrolled.run(subject, other, cell=cell))

"""The golden numbers in the wheel: read whole, equal to the reference's, and still what the frameworks compute."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence

import numpy as np
import pytest
from safetensors.numpy import save_file

import rnnx
from make_conformance_golden import TOLERANCES, assert_current
from networks import batch_major, leaves
from rnnx.conformance import reference
from rnnx.conformance.golden import FORMAT, PATH, Golden, cases, read

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

# PyTorch says that its oneDNN has no LSTM with projections; TensorFlow is not made for today's NumPy.
pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(keras|tensorflow|google).*"),
    pytest.mark.filterwarnings("ignore:.*__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

CASES = {case.name: case for case in cases()}


@pytest.fixture(params=CASES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return CASES[request.param]


def assert_agree(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    assert [each.shape for each in found] == [each.shape for each in expected]
    for one, other in zip(found, expected, strict=True):
        scale = TOLERANCES[str(other.dtype)] * max(1, np.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=0, atol=scale)


# -- what the file holds ---------------------------------------------------------------------------------------------


def test_the_file_is_small_and_of_every_framework():
    assert PATH.stat().st_size <= 200_000
    producers = sorted({case.producer.partition(" ")[0] for case in CASES.values()})
    assert producers == ["keras", "mxnet", "onnxruntime", "torch"]
    assert all(case.name.startswith(case.producer.partition(" ")[0]) for case in CASES.values())
    assert len(CASES) == len(cases())


def test_no_two_gates_are_alike_and_nothing_is_zero(golden):
    numbers = np.concatenate([array.ravel() for array in golden.weights.values()] or [np.ones(1)])
    assert numbers.all()
    assert len(np.unique(numbers)) > 0.999 * len(numbers)
    assert all(state.all() for state in golden.begin)
    assert golden.outputs.dtype == golden.inputs.dtype
    assert str(golden.outputs.dtype) in TOLERANCES


def test_outputs_past_the_lengths_are_zero(golden):
    if golden.lengths is not None:
        past = np.arange(golden.inputs.shape[1]) >= golden.lengths[:, None]
        assert past.any()
        assert not golden.outputs[past].any()
        assert golden.outputs[~past].any(-1).mean() > 0.9


def test_a_file_of_another_version_is_refused(tmp_path):
    save_file({"0/inputs": np.ones(1)}, tmp_path / "x", {"format": FORMAT, "format_version": "2"})
    with pytest.raises(ValueError, match="is not a file of format 'rnnx-golden', version 1: install rnnx anew"):
        read(tmp_path / "x")


# -- what it is equal to ---------------------------------------------------------------------------------------------


def test_the_reference_gives_these_numbers(golden):
    network = reference.of_spec(golden.spec, golden.weights)
    outputs, states = reference.run(network, golden.inputs, golden.begin, golden.lengths)
    assert_agree([outputs, *states], [golden.outputs, *golden.states])


def test_rnnx_on_numpy_gives_these_numbers(golden):
    cell = rnnx.BaseRNNCell.from_spec(rnnx.CellSpec.from_dict(dict(golden.spec)))
    cell.load_params(golden.weights)
    outputs, states = cell.unroll(None, golden.inputs, list(golden.begin), valid_length=golden.lengths)
    assert_agree([batch_major(outputs), *leaves(states)], [golden.outputs, *golden.states])


@pytest.mark.parametrize("name", ["torch", "keras", "onnxruntime"])
def test_the_framework_still_gives_these_numbers(name):
    pytest.importorskip(name, reason=f"{name} is the judge")
    if name == "keras":
        pytest.importorskip("tensorflow", reason="Keras computes on it")
    if name == "onnxruntime":
        pytest.importorskip("onnx", reason="onnx makes the nodes")
    assert_current(read(PATH), list(importlib.import_module(f"golden_{name}").cases()))

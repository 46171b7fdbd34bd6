"""rnnx on NumPy against what MXNet 1.9.1 gave, kept in a file that ``tests/oracle/make_golden.py`` wrote."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnx

GOLDEN = Path(__file__).parent / "golden" / "mxnet-1.9.1.npz"

#: Largest difference allowed, relative to the largest magnitude of what MXNet gave.
RESULTS, GRADIENTS = 1e-5, 1e-4

#: Of each tree, the kernels that run it, and how many loops do if none may.
KERNELS = {
    "lstm": (("lstm",), 1),
    "gru": (("gru",), 1),
    "rnn of relu": (("rnn_relu",), 1),
    "rnn of softsign": (("loop",), 1),
    "fused lstm": (("lstm",), 1),
    "fused lstm, two layers and directions": (("lstm",), 4),
    "fused gru, three layers": (("gru",), 3),
    "fused gru, two directions": (("gru",), 2),
    "fused tanh, two layers and directions": (("rnn_tanh",), 4),
    "fused relu, two layers": (("rnn_relu",), 2),
    "unfused lstm": (("lstm",), 4),
    "equal lstms": (("lstm",), 3),
    "stack in a stack": (("gru", "lstm", "rnn_tanh", "lstm"), 4),
    "fused that keeps its states": (("gru", "lstm", "rnn_tanh"), 3),
    "shared weights": (("lstm", "gru", "lstm"), 3),
    "bidirectional lstm": (("lstm",), 2),
    "bidirectional of two kinds": (("lstm", "gru"), 2),
    "bidirectional within bidirectional": (("lstm", "gru", "rnn_tanh"), 3),
    "residual around fused": (("gru",), 2),
    "residual around bidirectional": (("lstm", "gru"), 2),
    "residual in a stack": (("lstm", "lstm", "loop"), 3),
    "dropout between": (("lstm",), 2),
    "zoneout in a stack": (("lstm", "gru", "rnn_tanh"), 3),
}


@dataclasses.dataclass(frozen=True)
class Golden:
    """One tree: how it is called, what with, and what MXNet gave; gradients only where the tree does not draw."""

    spec: rnnx.CellSpec
    layout: str
    merge_outputs: bool | None
    weights: dict[str, Any]
    inputs: Any
    begin_state: list[Any]
    outputs: Any
    states: list[Any]
    cotangents: list[Any]
    gradients: dict[str, Any] | None

    def cell(self) -> rnnx.BaseRNNCell:
        cell = rnnx.BaseRNNCell.from_spec(self.spec)
        cell.load_params(self.weights)
        return cell


@pytest.fixture(params=KERNELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def golden(name: str) -> Golden:
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        case, numbers = json.loads(str(arrays[f"{name}:case"])), arrays[f"{name}:numbers"]
    spec = rnnx.CellSpec.from_dict(case.pop("spec"))
    return Golden(spec, **{key: with_arrays(value, numbers) for key, value in case.items()})


def with_arrays(value: Any, numbers: np.ndarray) -> Any:
    """Return JSON's lists and objects with arrays in the place of those that say where their numbers are."""
    if isinstance(value, list):
        return [with_arrays(each, numbers) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"start", "shape"}:
        size = int(np.prod(value["shape"]))
        return numbers[value["start"] : value["start"] + size].reshape(value["shape"])
    return {key: with_arrays(each, numbers) for key, each in value.items()}


def assert_agree(found: Any, expected: Any, tolerance: float) -> None:
    """Assert that lists, or dicts, of arrays have one form, and the arrays agree to their largest elements' scale."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        found, expected = [found[key] for key in expected], list(expected.values())
    if isinstance(expected, list):
        assert isinstance(found, list)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_agree(one, other, tolerance)
        return
    assert found.dtype == expected.dtype == np.float32
    assert found.shape == expected.shape
    scale = np.abs(expected).max(initial=0.1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


def test_every_tree_of_the_file_is_checked() -> None:
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        assert {file.rpartition(":")[0] for file in arrays.files} == set(KERNELS)


def test_kernels(name: str, golden: Golden) -> None:
    kernels, loops = KERNELS[name]
    cell = golden.cell()
    explained = (cell.explain(golden.inputs, golden.layout, fuse=fuse).kernels for fuse in (True, False))
    assert list(explained) == [tuple(f"numpy.{kernel}" for kernel in kernels), ("numpy.loop",) * loops]


@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "stepped"])
def test_outputs_and_states(golden: Golden, fuse: bool) -> None:
    found = golden.cell().unroll(
        None, golden.inputs, golden.begin_state, golden.layout, golden.merge_outputs, fuse=fuse
    )
    assert_agree(list(found), [golden.outputs, golden.states], RESULTS)


@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "stepped"])
def test_gradients(name: str, golden: Golden, fuse: bool) -> None:
    outputs, states, pullback = golden.cell().vjp(
        None, golden.inputs, golden.begin_state, golden.layout, golden.merge_outputs, fuse=fuse
    )
    assert_agree([outputs, states], [golden.outputs, golden.states], RESULTS)
    found = dataclasses.asdict(pullback(*golden.cotangents))
    if golden.gradients is None:
        assert name in ("dropout between", "zoneout in a stack"), "MXNet has no gradients out of training"
    else:
        assert_agree(found, golden.gradients, GRADIENTS)

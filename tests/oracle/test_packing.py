"""`pack_weights` and `unpack_weights` against MXNet's: the same names, and the same bits."""

from __future__ import annotations

import numpy as np
import pytest

import rnnx

from .bridge import draw, mx
from .trees import FUSED, TREES

#: MXNet cannot unpack weights that two cells share, nor a plain cell's under another prefix than its own.
UNPACKABLE = (
    "stack: shared weights",
    "stack: fused with shared weights",
    "stack: weights under another prefix",
    "bidirectional: one set of weights",
)

PACKABLE = {name: build for name, build in TREES.items() if name not in UNPACKABLE} | {
    "fused, under another prefix": lambda rnn: rnn.FusedRNNCell(4, 2, params=rnn.RNNParams("other_"))
}


def by_mxnet(convert, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights as one of MXNet's methods converts them."""
    given = {name: mx.nd.array(array, dtype=array.dtype) for name, array in weights.items()}
    return {name: array.asnumpy() for name, array in convert(given).items()}


def assert_same_bits(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


@pytest.fixture(params=["float32", "float64", "float16"])
def dtype(request) -> str:
    return request.param


@pytest.mark.parametrize("name", PACKABLE)
def test_every_tree(name, dtype):
    build = PACKABLE[name]
    packed = {key: array.astype(dtype) for key, array in draw(build, seed=1).weights.items()}
    packed["embedding_weight"] = np.arange(6, dtype=dtype).reshape(2, 3)
    theirs, ours = build(mx.rnn), build(rnnx)
    unpacked = by_mxnet(theirs.unpack_weights, packed)
    assert_same_bits(ours.unpack_weights(packed), unpacked)
    assert_same_bits(by_mxnet(theirs.pack_weights, unpacked), packed)
    assert_same_bits(ours.pack_weights(unpacked), packed)


@pytest.mark.parametrize("name", FUSED)
def test_fused_to_unfused_and_back(name, dtype):
    build = FUSED[name]
    flat = {key: array.astype(dtype) for key, array in draw(build, seed=2).weights.items()}
    theirs, ours = build(mx.rnn), build(rnnx)
    layers = by_mxnet(lambda args: theirs.unfuse().pack_weights(theirs.unpack_weights(args)), flat)
    assert_same_bits(ours.unfuse().pack_weights(ours.unpack_weights(flat)), layers)
    assert_same_bits(by_mxnet(lambda args: theirs.pack_weights(theirs.unfuse().unpack_weights(args)), layers), flat)
    assert_same_bits(ours.pack_weights(ours.unfuse().unpack_weights(layers)), flat)


@pytest.mark.parametrize("name", FUSED)
def test_a_cell_that_has_weights_keeps_them_when_it_is_unfused(name):
    build = FUSED[name]
    weights = draw(build, seed=3).weights
    theirs, ours = build(mx.rnn), build(rnnx)
    ours.load_params(weights)
    layers = by_mxnet(lambda args: theirs.unfuse().pack_weights(theirs.unpack_weights(args)), weights)
    assert_same_bits(ours.unfuse().get_params(), layers)
    assert_same_bits(ours.unfuse().fuse().get_params(), weights)


@pytest.mark.parametrize("name", [name for name, build in PACKABLE.items() if build(rnnx).params.parameters()])
def test_load_params_takes_what_mxnet_unpacks(name):
    build = PACKABLE[name]
    weights = draw(build, seed=4).weights
    cell = build(rnnx)
    cell.load_params(by_mxnet(build(mx.rnn).unpack_weights, weights))
    assert_same_bits(cell.get_params(), weights)

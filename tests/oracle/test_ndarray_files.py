"""NDArray list files against MXNet itself: it reads what is written here, and what it writes is read here."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest

from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.formats.mxnet.ndarray import read_ndarrays, write_ndarrays

with warnings.catch_warnings():
    # MXNet 1.9.1 uses names that NumPy 1.23 deprecates.
    warnings.simplefilter("ignore")
    mx = pytest.importorskip("mxnet")

DTYPES = ["float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool"]
SHAPES = [(1,), (5,), (4, 3), (2, 3, 4), (1, 2, 1, 3, 2), (0, 3)]


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return tmp_path / "theirs.params"


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    return tmp_path / "ours.params"


def random_array(dtype: str, *shape: int) -> np.ndarray:
    return (100 * np.random.default_rng(sum(shape)).standard_normal(shape)).astype(dtype)


def to_mxnet(array: np.ndarray):
    with mx.util.np_shape(True):
        made = mx.nd.empty(array.shape, dtype=array.dtype)
    if array.size:
        made[:] = mx.nd.array(array, dtype=array.dtype)
    return made


def arrays_of(dtype: str) -> dict[str, np.ndarray]:
    return {f"arg:größe_{shape}": random_array(dtype, *shape) for shape in SHAPES}


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


def record(version: bytes, ndim: bytes, dims: bytes, code: int, data: bytes) -> bytes:
    return version + ndim + dims + struct.pack("<iii", 1, 0, code) + data


def file_of(*records: bytes, names: list[bytes]) -> bytes:
    head = struct.pack("<QQQ", 0x112, 0, len(records))
    texts = b"".join(struct.pack("<Q", len(name)) + name for name in names)
    return head + b"".join(records) + struct.pack("<Q", len(names)) + texts


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bytes_are_those_of_mxnet(theirs, ours, dtype):
    arrays = arrays_of(dtype)
    mx.nd.save(str(theirs), {name: to_mxnet(array) for name, array in arrays.items()})
    write_ndarrays(ours, arrays.keys(), arrays.values())
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("arrays", [[], [random_array("float32", 3, 2), random_array("int64", 4)]])
def test_the_bytes_of_a_list_are_those_of_mxnet(theirs, ours, arrays):
    mx.nd.save(str(theirs), [to_mxnet(array) for array in arrays])
    write_ndarrays(ours, [], arrays)
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_mxnet_loads_what_is_written_here(ours, dtype):
    arrays = arrays_of(dtype)
    write_ndarrays(ours, arrays.keys(), [np.asfortranarray(array) for array in arrays.values()])
    loaded = mx.nd.load(str(ours))
    assert list(loaded) == list(arrays)
    for name, array in arrays.items():
        assert_same(loaded[name].asnumpy(), array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_mxnet_writes_is_read_here(theirs, dtype):
    arrays = arrays_of(dtype)
    mx.nd.save(str(theirs), {name: to_mxnet(array) for name, array in arrays.items()})
    names, found = read_ndarrays(theirs)
    assert names == list(arrays)
    for one, expected in zip(found, arrays.values(), strict=True):
        assert_same(one, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_mxnet_writes_in_numpy_shape_semantics_is_read_here(theirs, dtype):
    arrays = {**arrays_of(dtype), "scalar": random_array(dtype)}
    with mx.util.np_shape(True):
        mx.nd.save(str(theirs), {name: to_mxnet(array) for name, array in arrays.items()})
    names, found = read_ndarrays(theirs)
    assert names == list(arrays)
    for one, expected in zip(found, arrays.values(), strict=True):
        assert_same(one, expected)


def test_an_array_without_dimensions_that_mxnet_writes_and_cannot_load(theirs, ours):
    with mx.util.np_shape(True):
        scalar = mx.nd.array([2.5]).reshape(())
    mx.nd.save(str(theirs), {"scalar": scalar, "after": mx.nd.array([1.5, 3.0])})
    with pytest.raises(mx.MXNetError):
        mx.nd.load(str(theirs))
    assert [array.tolist() for array in read_ndarrays(theirs)[1]] == [2.5, [1.5, 3.0]]
    with pytest.raises(UnsupportedError, match="reshape"):
        write_ndarrays(ours, ["scalar"], [np.array(2.5)])


def test_a_checkpoint_of_mxnet(tmp_path, ours):
    stack = mx.rnn.SequentialRNNCell()
    stack.add(mx.rnn.LSTMCell(5, prefix="lstm_"))
    stack.add(mx.rnn.GRUCell(4, prefix="gru_"))
    outputs, _ = stack.unroll(2, mx.sym.Variable("data"), merge_outputs=True)
    symbol = mx.sym.BatchNorm(outputs, name="norm")
    shapes, _, aux_shapes = symbol.infer_shape(data=(2, 2, 3))
    weights = {
        name: to_mxnet(random_array("float32", *shape))
        for name, shape in zip(symbol.list_arguments(), shapes, strict=True)
        if name != "data"
    }
    aux = dict(zip(symbol.list_auxiliary_states(), map(mx.nd.ones, aux_shapes), strict=True))
    mx.rnn.save_rnn_checkpoint(stack, str(tmp_path / "model"), 7, symbol, weights, aux)
    checkpoint = tmp_path / "model-0007.params"
    names, arrays = read_ndarrays(checkpoint)
    assert {"arg:lstm_i2h_f_weight", "arg:gru_h2h_o_bias", "aux:norm_moving_var"} <= set(names)
    for name, array in zip(names, arrays, strict=True):
        assert_same(array, mx.nd.load(str(checkpoint))[name].asnumpy())
    write_ndarrays(ours, names, arrays)
    assert ours.read_bytes() == checkpoint.read_bytes()


def test_older_records(ours):
    data = random_array("float32", 2, 3)
    dims = struct.pack("<qq", 2, 3)
    pre_v1 = record(b"", struct.pack("<I", 2), struct.pack("<II", 2, 3), 0, data.tobytes())
    v1 = record(struct.pack("<I", 0xF993FAC8), struct.pack("<i", 2), dims, 0, (data + 1).tobytes())
    v2 = record(struct.pack("<Ii", 0xF993FAC9, 0), struct.pack("<i", 2), dims, 0, (data + 2).tobytes())
    ours.write_bytes(file_of(pre_v1, v1, v2, names=[b"a", b"b", b"c"]))
    names, arrays = read_ndarrays(ours)
    loaded = mx.nd.load(str(ours))
    for offset, (name, array) in enumerate(zip(names, arrays, strict=True)):
        assert_same(array, data + np.float32(offset))
        assert_same(array, loaded[name].asnumpy())


def test_mxnet_keeps_the_last_of_two_arrays_of_one_name_and_ignores_what_follows(ours):
    records = [
        record(struct.pack("<Iii", 0xF993FAC9, 0, 1), b"", struct.pack("<q", 1), 0, struct.pack("<f", value))
        for value in (1.5, 2.5)
    ]
    ours.write_bytes(file_of(*records, names=[b"a", b"a"]) + b"trailing")
    assert {name: array.asscalar() for name, array in mx.nd.load(str(ours)).items()} == {"a": 2.5}
    names, arrays = read_ndarrays(ours)
    assert names == ["a", "a"]
    assert [float(array[0]) for array in arrays] == [1.5, 2.5]


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("storage", ["csr", "row_sparse"])
def test_sparse_arrays_are_refused_by_name(theirs, storage, settled):
    dense = mx.nd.array([[0, 1.5, 0], [0, 0, 0], [2.5, 0, 3.5]])
    sparse = dense.tostype(storage)
    if settled:
        sparse.wait_to_read()
    mx.nd.save(str(theirs), {"first": dense, "sparse": sparse, "empty": mx.nd.sparse.zeros(storage, (2, 3))})
    with pytest.raises(UnsupportedError, match=rf"array 1 \('sparse'\) is stored as {storage}"):
        read_ndarrays(theirs)
    mx.nd.save(str(theirs), {"first": dense, "sparse": sparse.tostype("default")})
    assert read_ndarrays(theirs)[1][1].tolist() == dense.asnumpy().tolist()


@pytest.mark.parametrize("code", [8, 9, 10, 11])
def test_mxnet_cannot_load_the_dtypes_that_are_not_written_here(ours, code):
    # Codes 8 to 11 are int16, uint16, uint32 and uint64.
    name = ["int16", "uint16", "uint32", "uint64"][code - 8]
    array = np.array([1, 2], name)
    version = struct.pack("<Iii", 0xF993FAC9, 0, 1)
    ours.write_bytes(file_of(record(version, b"", struct.pack("<q", 2), code, array.tobytes()), names=[b"a"]))
    with pytest.raises(mx.MXNetError):
        mx.nd.load(str(ours))
    assert_same(read_ndarrays(ours)[1][0], array)
    with pytest.raises(UnsupportedError, match=name):
        write_ndarrays(ours, ["a"], [array])


def test_mxnet_loads_bfloat16_written_here(ours):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.array([1.0, -2.25, 0.5], ml_dtypes.bfloat16)
    write_ndarrays(ours, ["a"], [array])
    loaded = mx.nd.load(str(ours))["a"]
    assert loaded.asnumpy().tobytes() == array.tobytes()
    assert mx.nd.amp_cast(loaded, dtype="float32").asnumpy().tolist() == [1.0, -2.25, 0.5]


def test_mxnet_refuses_every_truncation_that_is_refused_here(theirs, ours):
    mx.nd.save(str(theirs), {"arg:a": mx.nd.array([1.5, 2.5]), "aux:b": mx.nd.array([[3.5]])})
    data = theirs.read_bytes()
    for length in range(len(data)):
        ours.write_bytes(data[:length])
        with pytest.raises(WeightFormatError):
            read_ndarrays(ours)
        with pytest.raises(mx.MXNetError):
            mx.nd.load(str(ours))

"""NDArray list files of MXNet: every version of the record, and everything a damaged file can hold."""

from __future__ import annotations

import builtins
import struct
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.formats.mxnet import ndarray as mxnet_ndarray
from rnnx.formats.mxnet.ndarray import looks_like_ndarrays, read_ndarrays, write_ndarrays

V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
CODES = {
    "float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6, "bool": 7,
    "int16": 8, "uint16": 9, "uint32": 10, "uint64": 11,
}  # fmt: skip
LOADED_BY_MXNET = list(CODES)[:8]
HUGE = 2**62


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def i32(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def i64(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


def u64(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def tail(array: np.ndarray, context: tuple[int, int] = (1, 0)) -> bytes:
    little = array.astype(array.dtype.newbyteorder("<"))
    return i32(*context, CODES[array.dtype.name]) + little.tobytes()


def pre_v1(array: np.ndarray) -> bytes:
    return u32(array.ndim) + b"".join(map(u32, array.shape)) + tail(array)


def v1(array: np.ndarray, context: tuple[int, int] = (1, 0)) -> bytes:
    return u32(V1) + i32(array.ndim) + i64(*array.shape) + tail(array, context)


def v2(array: np.ndarray, context: tuple[int, int] = (1, 0)) -> bytes:
    return u32(V2) + i32(0, array.ndim) + i64(*array.shape) + tail(array, context)


def v3(array: np.ndarray) -> bytes:
    return u32(V3) + i32(0, array.ndim) + i64(*array.shape) + tail(array)


def row_sparse(stored_shape: tuple[int, ...] = (2, 3)) -> bytes:
    """Rows 0 and 2 of a (4, 3) array."""
    head = u32(V2) + i32(1, len(stored_shape)) + i64(*stored_shape) + i32(2) + i64(4, 3)
    return head + i32(1, 0, 0) + i32(6, 1) + i64(2) + floats(2, 3).tobytes() + i64(0, 2)


def csr(stored_shape: tuple[int, ...] = (3,)) -> bytes:
    """Three values of a (2, 3) array."""
    head = u32(V2) + i32(2, len(stored_shape)) + i64(*stored_shape) + i32(2) + i64(2, 3)
    return head + i32(1, 0, 0) + i32(6, 1) + i64(3) + i32(6, 1) + i64(3) + floats(3).tobytes() + i64(0, 1, 3, 1, 0, 2)


def file_of(*records: bytes, names: Sequence[str | bytes] = (), count: int | None = None) -> bytes:
    head = u64(0x112, 0, len(records) if count is None else count)
    texts = [name.encode() if isinstance(name, str) else name for name in names]
    return head + b"".join(records) + u64(len(texts)) + b"".join(u64(len(text)) + text for text in texts)


def floats(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def sample(dtype: str, *shape: int) -> np.ndarray:
    """Random bits, so that NaN payloads, extreme values and every byte count."""
    if dtype == "bool":
        return np.random.default_rng(7).random(shape) < 0.5
    item = np.dtype(dtype).itemsize
    data = np.random.default_rng(item).bytes(item * int(np.prod(shape)))
    return np.frombuffer(data, dtype).reshape(shape)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.params"


def read(path: Path, data: bytes) -> tuple[list[str], list[np.ndarray]]:
    path.write_bytes(data)
    return read_ndarrays(path)


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


def error_of(path: Path, data: bytes) -> str:
    """Return the message about a damaged file, less the file's name in front of it."""
    with pytest.raises(WeightFormatError) as caught:
        read(path, data)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


# What every version of MXNet wrote


@pytest.mark.parametrize("record", [pre_v1, v1, v2, v3])
@pytest.mark.parametrize("dtype", CODES)
def test_every_version_and_dtype(path, record, dtype):
    array = sample(dtype, 2, 3)
    names, (found,) = read(path, file_of(record(array), names=["arg:weight"]))
    assert names == ["arg:weight"]
    assert_same(found, array)


@pytest.mark.parametrize("record", [pre_v1, v1, v2, v3])
@pytest.mark.parametrize("shape", [(1,), (5,), (4, 3), (2, 3, 4), (1, 2, 3, 2, 1), (0,), (0, 3), (2, 0), (1,) * 32])
def test_every_version_and_shape(path, record, shape):
    array = floats(*shape)
    after = floats(2, 2)
    _, (found, found_after) = read(path, file_of(record(array), record(after)))
    assert_same(found, array)
    assert_same(found_after, after)


def test_records_of_all_versions_in_one_file(path):
    arrays = [floats(3, 2), sample("int8", 5), sample("float64", 2), floats(), floats(4), sample("float16", 3)]
    data = [pre_v1(arrays[0]), v1(arrays[1]), v2(arrays[2]), v3(arrays[3]), pre_v1(arrays[4]), v2(arrays[5])]
    names, found = read(path, file_of(*data, names=["a", "b", "c", "d", "e", "f"]))
    assert names == ["a", "b", "c", "d", "e", "f"]
    for one, expected in zip(found, arrays, strict=True):
        assert_same(one, expected)


@pytest.mark.parametrize("record", [v2, v3])
def test_no_dimensions(path, record):
    scalar, after = floats(), floats(2)
    _, (found, found_after) = read(path, file_of(record(scalar), record(after), names=["scalar", "after"]))
    assert_same(found, scalar)
    assert_same(found_after, after)


@pytest.mark.parametrize("context", [(1, 0), (2, 7), (3, 0), (5, 0), (9, -1)])
@pytest.mark.parametrize("record", [v1, v2])
def test_the_device_is_ignored(path, record, context):
    array = floats(2, 3)
    _, (found,) = read(path, file_of(record(array, context)))
    assert_same(found, array)


def test_a_list_without_names(path):
    names, arrays = read(path, file_of(v2(floats(2)), v2(floats(3))))
    assert names == []
    assert [array.shape for array in arrays] == [(2,), (3,)]


def test_many_of_the_smallest_records_there_are(path):
    _, arrays = read(path, file_of(*[pre_v1(floats(0))] * 40))
    assert [array.shape for array in arrays] == [(0,)] * 40


def test_an_empty_list(path):
    assert read(path, file_of()) == ([], [])


def test_names_are_returned_as_stored(path):
    stored = ["arg:größe", "", "twice", "twice", "重み"]
    names, arrays = read(path, file_of(*(v2(floats(index + 1)) for index in range(5)), names=stored))
    assert names == stored
    assert [array.size for array in arrays] == [1, 2, 3, 4, 5]


def test_what_follows_the_names_is_ignored(path):
    names, _ = read(path, file_of(v2(floats(2)), names=["a"]) + b"trailing")
    assert names == ["a"]


def test_the_reserved_word_is_ignored(path):
    data = bytearray(file_of(v2(floats(2))))
    data[8:16] = u64(12345)
    assert len(read(path, bytes(data))[1]) == 1


@pytest.mark.parametrize(
    ("record", "stored_shape", "kind"),
    [(row_sparse, (2, 3), "row_sparse"), (row_sparse, (0,), "row_sparse"), (csr, (3,), "csr"), (csr, (0,), "csr")],
)
def test_sparse_arrays_are_refused_by_name(path, record, stored_shape, kind):
    data = file_of(v2(floats(2)), record(stored_shape), v2(floats(3)), names=["a", "arg:embedding", "b"])
    path.write_bytes(data)
    message = rf"array 1 \('arg:embedding'\) is stored as {kind}.*tostype\('default'\)"
    with pytest.raises(UnsupportedError, match=message):
        read_ndarrays(path)


# bfloat16


def bfloat16_file(dtype_code: int = 12) -> bytes:
    head = u32(V2) + i32(0, 2) + i64(2, 2) + i32(1, 0, dtype_code)
    return file_of(head + struct.pack("<4H", 0x3F80, 0xC010, 0x0000, 0x7F80), names=["arg:weight"])


def test_bfloat16(path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    _, (array,) = read(path, bfloat16_file())
    assert array.dtype == ml_dtypes.bfloat16
    assert array.astype("float32").tolist() == [[1.0, -2.25], [0.0, np.inf]]
    assert not array.flags.writeable


@pytest.mark.parametrize("transposed", [False, True])
def test_bfloat16_is_written(path, tmp_path, transposed):
    pytest.importorskip("ml_dtypes")
    names, (array,) = read(path, bfloat16_file())
    written = tmp_path / "written.params"
    write_ndarrays(written, names, [np.asfortranarray(array) if transposed else array])
    assert written.read_bytes() == bfloat16_file()


def test_bfloat16_without_ml_dtypes(path, monkeypatch):
    import_module = builtins.__import__

    def without_ml_dtypes(name: str, *rest: Any) -> Any:
        if name == "ml_dtypes":
            raise ModuleNotFoundError("No module named 'ml_dtypes'")
        return import_module(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_ml_dtypes)
    message = error_of(path, bfloat16_file())
    assert "array 0 ('arg:weight')" in message
    assert "pip install ml_dtypes" in message


# Mapping


def test_arrays_are_read_only_views_of_the_file(path):
    array = floats(1024, 1024)
    path.write_bytes(file_of(v2(array)))
    tracemalloc.start()
    _, (found,) = read_ndarrays(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < array.nbytes // 10
    assert not found.flags.owndata
    assert not found.flags.writeable
    assert_same(found, array)


def test_unaligned_data(path):
    array = sample("float64", 5)
    _, (_, found) = read(path, file_of(v2(sample("uint8", 3)), v2(array)))
    assert not found.flags.aligned
    assert_same(found, array)


def test_arrays_outlive_the_replacement_of_their_file(path):
    array = floats(3, 2)
    _, found = read(path, file_of(v2(array)))
    write_ndarrays(path, ["doubled"], [2 * found[0]])
    assert_same(found[0], array)
    assert_same(read_ndarrays(path)[1][0], 2 * array)


def test_data_of_the_other_byte_order_are_converted():
    other = np.array([1.5, -2.0], np.dtype("f4").newbyteorder())
    native = mxnet_ndarray._native(other)
    assert native.dtype == np.dtype("f4")
    assert native.dtype.isnative
    assert native.tolist() == [1.5, -2.0]
    assert not native.flags.writeable


# Sniffing


def test_looks_like_ndarrays():
    assert looks_like_ndarrays(file_of(v2(floats(2))))
    assert looks_like_ndarrays(u64(0x112))
    assert not looks_like_ndarrays(u64(0x112)[:7])
    assert not looks_like_ndarrays(u64(0x113))
    assert not looks_like_ndarrays(b"")


def test_an_empty_file(path):
    assert "the file is empty" in error_of(path, b"")


def test_an_archive_of_mxnet_2(path):
    with path.open("wb") as file:
        np.savez(file, weight=floats(2, 3))
    message = error_of(path, path.read_bytes())
    assert "zip archive" in message
    assert "numpy.load" in message


@pytest.mark.parametrize("data", [b"\x12", u64(0x112)[:7], u64(0x113, 0, 0, 0), b"\x89HDF\r\n\x1a\n" + bytes(9)])
def test_not_a_list(path, data):
    message = error_of(path, data)
    assert "header, byte 0: magic number: expected 12 01 00" in message
    assert f"found {data[:8].hex(' ')}" in message


# Damaged files

DENSE = u32(V2) + i32(0)
HOSTILE = {
    "array count beyond the file": (
        file_of(v2(floats(2)), count=2**60),
        "header, byte 16: number of arrays in the bytes left: expected 0 to 2, found 1152921504606846976",
    ),
    "one array too many": (file_of(pre_v1(floats(30)), count=2), "array 1, byte 164: version: "),
    "unknown version": (file_of(u32(V3 + 1) + bytes(40)), "array 0, byte 24: version: expected 0xf993fac8 to"),
    "33 old dimensions": (file_of(u32(33) + bytes(200)), "array 0, byte 24: version: "),
    "no old dimensions": (file_of(u32(0) + bytes(40)), "array 0, byte 24: version: "),
    "no dimensions in V1": (
        file_of(u32(V1) + i32(0) + bytes(40)),
        "array 0, byte 28: number of dimensions: expected 1 to 32, found 0",
    ),
    "storage type": (
        file_of(u32(V2) + i32(3) + bytes(40)),
        "array 0, byte 28: storage type: expected 0 to 2, found 3",
    ),
    "storage type below zero": (file_of(u32(V2) + i32(-1) + bytes(40)), "found -1"),
    "sparse in V3": (
        file_of(u32(V3) + row_sparse()[4:]),
        "array 0, byte 28: storage type: expected 0 to 0, found 1",
    ),
    "number of dimensions below zero": (
        file_of(DENSE + i32(-1) + bytes(40)),
        "array 0, byte 32: number of dimensions: expected 0 to 32, found -1",
    ),
    "33 dimensions": (file_of(DENSE + i32(33) + bytes(400)), "expected 0 to 32, found 33"),
    "dimension below zero": (
        file_of(v2(floats(2)), DENSE + i32(2) + i64(4, -1) + bytes(40)),
        "array 1, byte 84: dimension 1: expected 0 to 9223372036854775807, found -1",
    ),
    "dimension of an old record beyond the file": (
        file_of(u32(1) + u32(2**32 - 1) + i32(1, 0, 0) + bytes(40)),
        "array 0, byte 44: data of shape (4294967295,) and dtype float32: expected 17179869180 bytes, found 48 before",
    ),
    "product of dimensions beyond 64 bits": (
        file_of(DENSE + i32(2) + i64(HUGE, HUGE) + i32(1, 0, 0) + bytes(40)),
        "array 0, byte 64: shape: expected at most",
    ),
    "product of dimensions that wraps to 4": (
        file_of(DENSE + i32(3) + i64(2**32, 2**32, 1) + i32(1, 0, 0) + bytes(40)),
        "shape: expected at most",
    ),
    "huge dimensions times zero": (
        file_of(DENSE + i32(3) + i64(HUGE, 0, HUGE) + i32(1, 0, 0) + bytes(40)),
        "shape: expected at most",
    ),
    "dtype code": (
        file_of(DENSE + i32(1) + i64(2) + i32(1, 0, 13) + bytes(40)),
        "array 0, byte 52: dtype code: expected 0 to 12, found 13",
    ),
    "dtype code below zero": (file_of(DENSE + i32(1) + i64(2) + i32(1, 0, -1) + bytes(40)), "found -1"),
    "data beyond the file": (
        file_of(DENSE + i32(1) + i64(100) + i32(1, 0, 0)),
        "array 0, byte 56: data of shape (100,) and dtype float32: expected 400 bytes, found 8 before the end",
    ),
    "sparse data beyond the file": (file_of(row_sparse((2000, 3))), "array 0, byte 100: data of shape (2000, 3)"),
    "sparse index beyond the file": (
        file_of(csr().replace(i32(6, 1) + i64(3), i32(6, 1) + i64(10**6))),
        "data of shape (1000000,) and dtype int64",
    ),
    "no names": (file_of(v2(floats(2)))[:-8], "names, byte 64: number of names: expected 8 bytes, found 0"),
    "fewer names than arrays": (
        file_of(v2(floats(2)), v2(floats(2)), names=["a"]),
        "names, byte 104: number of names: expected 0 or 2, found 1",
    ),
    "more names than arrays": (file_of(names=["a"]), "names, byte 24: number of names: expected 0 or 0, found 1"),
    "name beyond the file": (
        file_of(v2(floats(2)))[:-8] + u64(1, 2**64 - 1) + b"abc",
        "name 0, byte 80: text: expected 18446744073709551615 bytes, found 3 before the end of the file",
    ),
    "name not UTF-8": (
        file_of(v2(floats(2)), v2(floats(2)), names=[b"a", b"ab\xff"]),
        "name 1, byte 131: text: expected UTF-8, found byte 0xff",
    ),
}


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_damaged_files(path, data, message):
    assert message in error_of(path, data)


@pytest.mark.parametrize("data", [data for data, _ in HOSTILE.values()], ids=HOSTILE)
def test_damage_allocates_nothing_to_speak_of(path, data):
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(WeightFormatError):
        read_ndarrays(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000


MIXED = file_of(
    pre_v1(floats(2, 1)),
    v1(sample("int8", 3)),
    v2(floats(2)),
    v3(floats()),
    v2(floats(0, 2)),
    names=["arg:a", "arg:b", "aux:ß", "", "e"],
)
SPARSE = file_of(row_sparse(), csr(), names=["rows", "csr"])


def survives(path: Path, data: bytes) -> bool:
    """Read a damaged file; return whether it could be read, and all its data with it."""
    path.write_bytes(data)
    try:
        names, arrays = read_ndarrays(path)
    except (WeightFormatError, UnsupportedError):
        return False
    assert len(names) in (0, len(arrays))
    assert sum(len(array.tobytes()) for array in arrays) <= len(data)
    return True


@pytest.mark.parametrize("data", [MIXED, SPARSE], ids=["mixed", "sparse"])
def test_truncated_anywhere(path, data):
    for length in range(len(data)):
        with pytest.raises(WeightFormatError):
            read(path, data[:length])


@pytest.mark.parametrize("data", [MIXED, SPARSE], ids=["mixed", "sparse"])
def test_any_bit_flipped(path, data):
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            survives(path, bytes(flipped))


def test_a_flipped_bit_of_magic_counts_shape_dtype_or_name_length_is_noticed(path):
    data = file_of(v2(floats(7)), names=["a"])
    unnoticed = set()
    for position in [*range(8), *range(16, 44), *range(52, 56), *range(84, 100)]:
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            if survives(path, bytes(flipped)):
                unnoticed.add((position, bit))
    # float32 turned into int32, one name into none, and the name's only letter cut off: good files all three.
    assert unnoticed == {(52, 2), (84, 0), (92, 0)}


@pytest.fixture(scope="module")
def shared_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "model.params"


words = st.one_of(
    st.integers(-(2**31), 2**31 - 1).map(i32),
    st.sampled_from([V1, V2, V3]).map(u32),
    st.integers(0, 12).map(i32),
    st.sampled_from([0, 1, 2, 3, 2**31, 2**32, 2**61, 2**62, 2**63 - 1, -1]).map(i64),
)


@settings(deadline=None)
@given(records=st.lists(words, max_size=40), count=st.integers(0, 4))
def test_random_records(shared_path, records, count):
    survives(shared_path, u64(0x112, 0, count) + b"".join(records))


@settings(deadline=None)
@given(data=st.data())
def test_words_of_a_good_file_replaced(shared_path, data):
    damaged = bytearray(data.draw(st.sampled_from([MIXED, SPARSE])))
    for _ in range(data.draw(st.integers(1, 4))):
        word = data.draw(words)
        start = data.draw(st.integers(8, len(damaged) - 8))
        damaged[start : start + len(word)] = word
    survives(shared_path, bytes(damaged))


# Writing


@pytest.mark.parametrize("dtype", LOADED_BY_MXNET)
def test_bytes_written(path, dtype):
    arrays = [sample(dtype, 3, 2), sample(dtype, 4)]
    write_ndarrays(path, ["arg:größe", ""], arrays)
    assert path.read_bytes() == file_of(*map(v2, arrays), names=["arg:größe", ""])


def test_a_list_without_names_is_written(path):
    write_ndarrays(path, [], [floats(2), floats(0, 3)])
    assert path.read_bytes() == file_of(v2(floats(2)), v2(floats(0, 3)))


def test_nothing_is_written_as_an_empty_list(path):
    write_ndarrays(path, [], [])
    assert path.read_bytes() == file_of()


def test_a_dict_is_written(path):
    arrays = {"b": floats(2), "a": floats(3)}
    write_ndarrays(path, arrays.keys(), arrays.values())
    names, found = read_ndarrays(path)
    assert names == ["b", "a"]
    assert [array.shape for array in found] == [(2,), (3,)]


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "transposed": lambda array: np.ascontiguousarray(array.T).T,
    "strided": lambda array: np.repeat(np.repeat(array, 2, 0), 3, 1)[::2, ::3],
    "backwards": lambda array: np.ascontiguousarray(array[::-1])[::-1],
    "big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
    "little-endian": lambda array: array.astype(array.dtype.newbyteorder("<")),
    "read-only": lambda array: np.broadcast_to(array, array.shape),
}


@pytest.mark.parametrize("dtype", LOADED_BY_MXNET)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_memory_layout_makes_no_difference(path, layout, dtype):
    array = sample(dtype, 3, 4)
    write_ndarrays(path, ["a"], [layout(array)])
    assert path.read_bytes() == file_of(v2(array), names=["a"])


shapes = npst.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=3)


@settings(deadline=None)
@given(arrays=st.lists(npst.arrays(st.sampled_from(LOADED_BY_MXNET), shapes), max_size=4), data=st.data())
def test_round_trip(shared_path, arrays, data):
    text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
    names = data.draw(st.lists(text, min_size=len(arrays), max_size=len(arrays), unique=True))
    write_ndarrays(shared_path, names, arrays)
    found_names, found = read_ndarrays(shared_path)
    assert found_names == names
    for one, expected in zip(found, arrays, strict=True):
        assert_same(one, expected)


UNWRITABLE = {
    "no dimensions": (np.float32(1.5) + np.zeros(()), r"has 0 dimensions.*reshape"),
    **{dtype: (sample(dtype, 2), f"has dtype {dtype}, which MXNet") for dtype in CODES if dtype not in LOADED_BY_MXNET},
    "complex64": (np.ones(2, "complex64"), "has dtype complex64"),
    "object": (np.array([object()]), "has dtype object"),
    "str": (np.array(["text"]), "has dtype str"),
    "bytes": (np.array([b"text"]), "has dtype bytes"),
    "datetime": (np.zeros(2, "M8[s]"), "has dtype datetime64"),
    "structure": (np.zeros(2, [("bfloat16", "u2")]), "has dtype void"),
}


@pytest.mark.parametrize(("array", "message"), UNWRITABLE.values(), ids=UNWRITABLE)
def test_arrays_that_mxnet_cannot_load_are_refused_by_name(path, array, message):
    path.write_bytes(b"the old file")
    with pytest.raises(UnsupportedError, match=rf"array 1 \('arg:b'\) {message}"):
        write_ndarrays(path, ["a", "arg:b"], [floats(2), array])
    assert path.read_bytes() == b"the old file"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], "1 names for 2 arrays"),
        (["a", "b", "c"], "3 names for 2 arrays"),
        (["a", "a"], r"occur more than once: \['a'\]"),
        (["a", "b\0c"], "NUL"),
        (["a", "b\udc80"], "cannot be stored as UTF-8"),
    ],
)
def test_names_that_cannot_be_stored(path, names, message):
    path.write_bytes(b"the old file")
    with pytest.raises(WeightFormatError, match=message):
        write_ndarrays(path, names, [floats(2), floats(3)])
    assert path.read_bytes() == b"the old file"


def test_a_failing_disk_leaves_the_old_file(path, monkeypatch):
    write_ndarrays(path, ["old"], [floats(2)])

    def failing(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fsync", failing)
    with pytest.raises(OSError, match="Input/output"):
        write_ndarrays(path, ["new"], [floats(3)])
    assert read_ndarrays(path)[0] == ["old"]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="NumPy 2 only")
def test_more_dimensions_than_mxnet_reads(path):
    with pytest.raises(UnsupportedError, match="has 40 dimensions"):
        write_ndarrays(path, [], [np.zeros((1,) * 40)])

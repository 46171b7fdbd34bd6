"""Safetensors files: the package `safetensors` judges them, and nothing that a damaged one says is believed."""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy as judge
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from rnnx.errors import WeightFormatError
from rnnx.weights.safetensors import read_tensors, write_tensors

DTYPES = (
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
    "float16", "bfloat16", "float32", "float64",
)  # fmt: skip
SHAPES = ((), (0,), (0, 3), (2, 0), (5,), (3, 4), (2, 1, 3))
ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def sample(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random bits, so that NaN payloads, extreme values and every byte count."""
    rng = np.random.default_rng(len(dtype) + sum(shape))
    if dtype == "bool":
        return np.asarray(rng.random(shape) < 0.5)
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    return np.frombuffer(rng.bytes(kind.itemsize * int(np.prod(shape))), kind).reshape(shape)


def file_of(header: Any, data: bytes = bytes(8), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def root(array: np.ndarray) -> Any:
    """What an array is a view of, in the end."""
    base: Any = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"


# -- what is sound ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_every_dtype_comes_back(path, shape):
    arrays = {dtype: sample(dtype, shape) for dtype in DTYPES}
    write_tensors(path, arrays, {"größe": "μ", "empty": ""})
    found, metadata = read_tensors(path)
    assert_same(found, arrays)
    assert metadata == {"größe": "μ", "empty": ""}


def test_the_judge_reads_what_is_written(path):
    arrays = {f"{dtype} {shape}": sample(dtype, shape) for dtype in DTYPES for shape in SHAPES}
    write_tensors(path, arrays, {"format": "test"})
    assert_same(judge.load_file(path), arrays)


def test_what_the_judge_writes_is_read(path):
    arrays = {f"{dtype} {shape}": sample(dtype, shape) for dtype in DTYPES for shape in SHAPES}
    judge.save_file(arrays, path, {"format": "test"})
    found, metadata = read_tensors(path)
    assert_same(found, arrays)
    assert metadata == {"format": "test"}


@pytest.mark.parametrize("metadata", [None, {}])
def test_metadata_may_be_missing(path, metadata):
    judge.save_file({"a": np.ones(3)}, path, metadata)
    assert read_tensors(path)[1] == {}


def test_no_tensors(path):
    write_tensors(path, {}, {})
    assert read_tensors(path) == ({}, {})


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.arange(24.0).reshape(2, 3, 4).T,
        np.arange(20)[::-3],
        np.broadcast_to(np.float32(2), (3, 3)),
        sample("bfloat16", (4, 6))[::2, ::3],
    ],
    ids=["big-endian", "transposed", "reversed", "broadcast", "strided bfloat16"],
)
def test_any_memory_layout(path, array):
    write_tensors(path, {"a": array}, {})
    assert_same(read_tensors(path)[0], {"a": np.array(array, array.dtype.newbyteorder("="))})
    assert_same(judge.load_file(path), {"a": np.array(array, array.dtype.newbyteorder("="))})


def test_equal_content_gives_equal_files(tmp_path):
    arrays, metadata = {name: sample("float32", (3,)) for name in "abc"}, {name: name for name in "pqrstuvw"}
    write_tensors(tmp_path / "one", arrays, metadata)
    write_tensors(tmp_path / "other", dict(reversed(arrays.items())), dict(reversed(metadata.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_every_tensor_is_aligned(path):
    write_tensors(path, {f"{index} {dtype}": sample(dtype, (3,)) for index, dtype in enumerate(DTYPES)}, {"x": "y"})
    for array in read_tensors(path)[0].values():
        assert array.flags.aligned


def test_tensors_are_views_of_the_mapped_file(path):
    write_tensors(path, {"a": sample("float32", (1 << 20,)), "b": sample("bfloat16", (1 << 20,))}, {})
    tracemalloc.start()
    found, _ = read_tensors(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 17
    assert isinstance(root(found["a"]), mmap.mmap)
    assert root(found["a"]) is root(found["b"])
    for array in found.values():
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_what_was_checked_is_what_is_read(path, monkeypatch):
    """A second look at the path could find another file there."""
    write_tensors(path, {"a": np.ones(3)}, {})
    opened, original = [], Path.open

    def recording(self: Path, *arguments: Any) -> Any:
        opened.append(self)
        return original(self, *arguments)

    monkeypatch.setattr(Path, "open", recording)
    read_tensors(path)
    assert opened == [path]


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a mapped file cannot be replaced")
def test_tensors_stay_readable_when_the_file_is_replaced(path):
    arrays = {"a": sample("float64", (1000,))}
    write_tensors(path, arrays, {})
    found, _ = read_tensors(path)
    write_tensors(path, {"a": np.zeros(1000)}, {})
    path.unlink()
    assert_same(found, arrays)


# -- what cannot be written -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("a", np.ones(2, "complex64"), "'a' has dtype complex64, which a safetensors file cannot hold; it holds bool"),
        ("a", np.array(["text"]), "'a' has dtype <U4, which"),
        ("a", np.array([None]), "'a' has dtype object, which"),
        ("a", np.zeros(1, "datetime64[s]"), "'a' has dtype datetime64"),
        ("a", np.zeros(1, [("x", "f4")]), "'a' has dtype .*'x'"),
        ("a", np.zeros(1, ml_dtypes.float8_e5m2), "'a' has dtype float8_e5m2, which"),
        ("__metadata__", np.ones(2), "no array can be called '__metadata__'"),
        ("\ud800", np.ones(2), "a name or note cannot be stored as UTF-8"),
    ],
)
def test_what_cannot_be_held_is_refused(path, name, array, message):
    with pytest.raises(WeightFormatError, match=message):
        write_tensors(path, {"fine": np.ones(3), name: array}, {})
    assert not path.exists()


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="this NumPy has no such arrays")
def test_more_dimensions_than_every_numpy_has_are_refused(path):
    with pytest.raises(WeightFormatError, match="'a' has 33 dimensions; a safetensors file holds up to 32"):
        write_tensors(path, {"a": np.zeros((1,) * 33)}, {})
    write_tensors(path, {"a": np.zeros((1,) * 32)}, {})
    assert read_tensors(path)[0]["a"].ndim == 32


def test_more_names_than_a_header_holds_are_refused(path, monkeypatch):
    monkeypatch.setattr("rnnx.weights.safetensors._MAX_HEADER", 1000)
    with pytest.raises(WeightFormatError, match="more than the 1000 allowed"):
        write_tensors(path, {f"weight {index}": np.ones(1) for index in range(20)}, {})
    assert not path.exists()


# -- what is damaged --------------------------------------------------------------------------------------------------

HEADERS = {
    "no JSON": (b"{", "the header is not JSON"),
    "not UTF-8": (b'{"\xff": 1}', "the header is not UTF-8"),
    "UTF-16": (json.dumps({"a": ENTRY}).encode("utf-16-le"), "the header is not JSON"),
    "byte order mark": (b"\xef\xbb\xbf{}", "the header is not JSON"),
    "half a character": (b'{"\\ud800": 1}', "the header is not JSON: .*surrogates"),
    "half a character in metadata": (b'{"__metadata__": {"a": "\\udc00"}}', "the header is not JSON: .*surrogates"),
    "a list": (b"[1]", "the header should be a JSON object"),
    "nothing": (b"", "the header is not JSON"),
    "something behind it": (b"{} {}", "the header is not JSON"),
    "deep nesting": (b'{"a":' * 100_000, "the header is not JSON"),
    "deep list": (b"[" * 100_000, "the header is not JSON"),
    "a name twice": (
        b'{"a": {"dtype":"U8","shape":[0],"data_offsets":[0,0]}, "a": {"dtype":"U8","shape":[8],"data_offsets":[0,8]}}',
        "'a' stands there twice",
    ),
    "a field twice": (b'{"a": {"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "'dtype' stands there"),
    "metadata twice": (b'{"__metadata__": {}, "__metadata__": {}}', "'__metadata__' stands there twice"),
    "metadata no object": ({"__metadata__": ["a"]}, "__metadata__ should be an object of strings"),
    "metadata null": ({"__metadata__": None}, "__metadata__ should be an object of strings"),
    "metadata no strings": ({"__metadata__": {"a": 1}}, "__metadata__ should be an object of strings"),
    "entry no object": ({"a": 3}, "tensor 'a' should be an object"),
    "entry a string": ({"a": "dtype"}, "tensor 'a' should be an object"),
    "a field missing": ({"a": {"dtype": "F32", "shape": [2]}}, "tensor 'a' should be an object"),
    "a field more": ({"a": {**ENTRY, "layout": "C"}}, "tensor 'a' should be an object"),
    "unknown dtype": ({"a": {**ENTRY, "dtype": "F8_E5M2"}}, "tensor 'a' has dtype 'F8_E5M2'; rnnx reads BOOL, U8"),
    "dtype no string": ({"a": {**ENTRY, "dtype": ["F32"]}}, r"tensor 'a' has dtype \['F32'\]"),
    "shape no list": ({"a": {**ENTRY, "shape": 2}}, "tensor 'a': shape and data_offsets should be lists"),
    "shape negative": ({"a": {**ENTRY, "shape": [-1, -2]}}, "tensor 'a': shape and data_offsets should be lists"),
    "shape of floats": ({"a": {**ENTRY, "shape": [2.0]}}, "tensor 'a': shape and data_offsets should be lists"),
    "shape of flags": ({"a": {**ENTRY, "shape": [True, 2]}}, "tensor 'a': shape and data_offsets should be lists"),
    "shape too small": ({"a": {**ENTRY, "shape": [1]}}, r"tensor 'a' of F32 and shape \(1,\) cannot stand at .*0, 8"),
    "shape too large": ({"a": {**ENTRY, "shape": [3]}}, r"tensor 'a' of F32 and shape \(3,\) cannot stand at"),
    "shape huge": ({"a": {**ENTRY, "shape": [2**40, 2**40]}}, "which no array of NumPy can have"),
    "shape huge and empty": (
        {"a": {**ENTRY, "shape": [2**62, 0, 2**62], "data_offsets": [0, 0]}},
        "which no array of NumPy can have",
    ),
    "shape beyond the platform": (
        {"a": {**ENTRY, "shape": [0, 2**64], "data_offsets": [0, 0]}},
        "which no array of NumPy can have",
    ),
    "a number of many digits": (b'{"a": {"shape": [1%s]}}' % (b"0" * 100), "the header is not JSON: a number of 101"),
    "many dimensions": ({"a": {**ENTRY, "shape": [1] * 32 + [2]}}, "which no array of NumPy can have"),
    "one offset": ({"a": {**ENTRY, "data_offsets": [8]}}, "cannot stand at the bytes"),
    "three offsets": ({"a": {**ENTRY, "data_offsets": [0, 8, 8]}}, "cannot stand at the bytes"),
    "offsets the wrong way round": ({"a": {**ENTRY, "data_offsets": [8, 0]}}, "cannot stand at the bytes"),
    "offsets negative": ({"a": {**ENTRY, "data_offsets": [-8, 0]}}, "should be lists of whole numbers"),
    "a gap in front": ({"a": {**ENTRY, "data_offsets": [8, 16]}}, "tensor 'a' begins at byte 8, expected 0"),
    "beyond the end": ({"a": {**ENTRY, "shape": [4], "data_offsets": [0, 16]}}, "have 16 bytes, and the file has 8"),
    "bytes left over": ({"a": {**ENTRY, "shape": [1], "data_offsets": [0, 4]}}, "have 4 bytes, and the file has 8"),
    "no tensor, some bytes": ({}, "have 0 bytes, and the file has 8"),
    "an overlap": ({"a": ENTRY, "b": ENTRY}, "tensor 'b' begins at byte 0, expected 8"),
    "a gap": (
        {
            "a": {**ENTRY, "shape": [1], "data_offsets": [0, 4]},
            "b": {"dtype": "U8", "shape": [2], "data_offsets": [6, 8]},
        },
        "tensor 'b' begins at byte 6, expected 4",
    ),
}


#: Where the package lets the last of two names win, knows a dtype that NumPy lacks, or passes over what is unknown.
LENIENT = {"a name twice", "unknown dtype", "a field more", "metadata null", "many dimensions"}


@pytest.mark.parametrize(("header", "message"), HEADERS.values(), ids=HEADERS)
def test_a_header_that_is_wrong(path, header, message):
    path.write_bytes(file_of(header))
    begun = time.perf_counter()
    with pytest.raises(WeightFormatError, match=message) as caught:
        read_tensors(path)
    assert str(caught.value).startswith(f"{path} cannot be read as a safetensors file")
    assert time.perf_counter() - begun < 1


@pytest.mark.parametrize("what", sorted(HEADERS.keys() - LENIENT))
def test_the_judge_refuses_it_too(path, what):
    path.write_bytes(file_of(HEADERS[what][0]))
    with pytest.raises((SafetensorError, UnicodeDecodeError)):
        judge.load_file(path)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 10**8 + 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_length_that_lies(path, length):
    whole = file_of({"a": ENTRY})
    path.write_bytes(struct.pack("<Q", length) + whole[8:])
    tracemalloc.start()
    with pytest.raises(WeightFormatError, match="the header"):
        read_tensors(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 16


@pytest.mark.parametrize("size", range(8))
def test_a_file_too_short_for_a_length(path, size):
    path.write_bytes(bytes(size))
    with pytest.raises(WeightFormatError, match=f"expected at least 8 bytes, found {size}"):
        read_tensors(path)


def test_a_header_longer_than_the_format_allows(path, monkeypatch):
    monkeypatch.setattr("rnnx.weights.safetensors._MAX_HEADER", 60)
    path.write_bytes(file_of({"a": ENTRY}))
    with pytest.raises(WeightFormatError, match="the header is said to have"):
        read_tensors(path)


def test_bfloat16_without_ml_dtypes(path, monkeypatch):
    write_tensors(path, {"a": sample("bfloat16", (3,))}, {})
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(WeightFormatError, match="tensor 'a' has dtype bfloat16, which needs pip install ml_dtypes"):
        read_tensors(path)


NUMBERS = st.integers(0, 9) | st.sampled_from([-1, 2**32, 2**63, 2**64, 1.5, True, None, "1"])
FIELDS = st.one_of(
    st.tuples(st.just("dtype"), st.sampled_from(["F32", "U8", "BF16", "F64", "F8_E4M3", "", None])),
    st.tuples(st.sampled_from(["shape", "data_offsets"]), st.lists(NUMBERS, max_size=3) | st.none()),
)


@st.composite
def nearly_sound_files(draw):
    """A file as it should be, or with some of its entries changed, or with more or fewer bytes at the end."""
    pairs, end = [], 0
    for name in draw(st.lists(st.sampled_from("abc"), max_size=3, unique=draw(st.booleans()))):
        shape = draw(st.lists(st.integers(0, 2), max_size=2))
        start, end = end, end + int(np.prod(shape)) * 4
        pairs.append((name, {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}))
    for _, entry in pairs if draw(st.booleans()) else ():
        field, value = draw(FIELDS)
        entry[field] = value
    entries = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in draw(st.permutations(pairs))]
    size = max(end + draw(st.sampled_from([0, 0, 0, 1, -1])), 0)
    return file_of(("{" + ", ".join(entries) + "}").encode(), bytes(range(size)))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=nearly_sound_files())
def test_what_is_read_is_what_the_judge_reads(path, content):
    path.write_bytes(content)
    try:
        found, _ = read_tensors(path)
    except WeightFormatError:
        event("refused")
        return
    event("read")
    assert_same(found, judge.load_file(path))

"""The portable file: every cell tree comes back bit for bit, and nothing that was tampered with is believed."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import networks
import rnnx
from networks import FUSED_MODES, PLAIN_MODES, Accumulator, PeepholeLSTM, sequential
from rnnx.errors import RNNXError, UnsupportedError, WeightFormatError
from rnnx.files import read_archive
from rnnx.weights.portable import read_portable, write_portable

GOLDEN = Path(__file__).parent / "golden"

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and limits")

WIDTH, HIDDEN = 3, 4


def shared_lstms() -> rnnx.BaseRNNCell:
    first = rnnx.LSTMCell(WIDTH, "a_")
    return sequential(first, rnnx.GRUCell(WIDTH), rnnx.LSTMCell(WIDTH, "b_", params=first.params))


def deep() -> rnnx.BaseRNNCell:
    both = rnnx.BidirectionalCell(rnnx.LSTMCell(2, "l_"), rnnx.GRUCell(1, "r_"), output_prefix="both_")
    return sequential(
        rnnx.FusedRNNCell(HIDDEN, 2, "gru", bidirectional=True, dropout=0.25, prefix="f_"),
        rnnx.DropoutCell(0.5, "drop_"),
        sequential(both, rnnx.ResidualCell(rnnx.RNNCell(3, "softsign", "s_"))),
        rnnx.ZoneoutCell(rnnx.LSTMCell(2, "z_", forget_bias=2.5), 0.125, 0.25),
    )


TREES: dict[str, Callable[[], rnnx.BaseRNNCell]] = {
    **{mode: lambda mode=mode: networks.plain(mode, HIDDEN) for mode in PLAIN_MODES},
    **{
        f"fused {mode} {layers}x{1 + both}": lambda mode=mode, layers=layers, both=both: rnnx.FusedRNNCell(
            HIDDEN, layers, mode, bool(both), get_next_state=bool(both), forget_bias=3
        )
        for mode in FUSED_MODES
        for layers in (1, 3)
        for both in (0, 1)
    },
    "unfused": lambda: rnnx.FusedRNNCell(HIDDEN, 2, "lstm", bidirectional=True, dropout=0.25).unfuse(),
    "stack": lambda: sequential(rnnx.LSTMCell(HIDDEN), rnnx.GRUCell(2)),
    "deep": deep,
    "shared weights": shared_lstms,
    "shared under another prefix": lambda: rnnx.LSTMCell(HIDDEN, "own_", params=rnnx.RNNParams("others_")),
    "dropout alone": lambda: rnnx.DropoutCell(0.5),
    "zoneout of residual": lambda: rnnx.ZoneoutCell(rnnx.ResidualCell(rnnx.GRUCell(WIDTH)), 0.5),
    "residual of bidirectional": lambda: rnnx.ResidualCell(
        rnnx.BidirectionalCell(rnnx.RNNCell(1, "relu", "l_"), rnnx.RNNCell(2, prefix="r_"))
    ),
    "odd prefixes": lambda: sequential(rnnx.LSTMCell(2, ""), rnnx.GRUCell(2, 'größe "1"\n')),
}

#: What a file cannot tell, and `load` is given.
OWN = {
    "own cell": lambda: PeepholeLSTM(HIDDEN),
    "own cells in a stack": lambda: sequential(Accumulator(2), rnnx.LSTMCell(HIDDEN), PeepholeLSTM(2)),
    "own cell in modifiers": lambda: rnnx.ZoneoutCell(rnnx.ResidualCell(PeepholeLSTM(WIDTH)), 0.5),
}

EXTRA = {
    "embed_weight": np.arange(12, dtype=np.float32).reshape(4, 3),
    "aux:moving_mean": np.full(3, np.nan, np.float16),
    "ids": np.arange(5, dtype=np.int64),
    "nothing": np.zeros((0, 3), np.uint8),
    "scalar": np.array(2.5),
    "flags": np.array([True, False]),
    "μ": np.array([1, 2], np.uint64),
}


def made(build: Callable[[], rnnx.BaseRNNCell], dtype: str = "float32") -> rnnx.BaseRNNCell:
    return networks.randomized(build(), WIDTH, dtype)


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def results(cell: rnnx.BaseRNNCell, dtype: str) -> list[np.ndarray]:
    inputs = np.random.default_rng(3).normal(size=(2, 4, WIDTH)).astype(dtype)
    return networks.leaves(cell.unroll(None, inputs, merge_outputs=True))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.rnnx"


@pytest.fixture
def saved(path: Path) -> Path:
    """A small file with everything in it: a tree, other arrays, notes."""
    rnnx.save(path, made(lambda: rnnx.GRUCell(1)), {"e": np.arange(3, dtype=np.int16)})
    return path


@pytest.fixture
def whole(saved: Path) -> bytes:
    """What stands in that file."""
    return saved.read_bytes()


def assert_refused(path: Path, match: str | None = None, kind: type[RNNXError] = WeightFormatError) -> None:
    """Reading is refused with an error that says which file it is."""
    with pytest.raises(kind, match=match) as caught:
        read_archive(path)
    assert str(path) in str(caught.value)


# -- round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("build", TREES.values(), ids=TREES)
def test_a_tree_comes_back_bit_for_bit(path, build, dtype):
    cell = made(build, dtype)
    rnnx.save(path, cell, EXTRA)
    again, extra = rnnx.load(path)
    assert type(again) is type(cell)
    assert again.spec == cell.spec
    assert_same(again.get_params(), cell.get_params())
    assert_same(extra, EXTRA)
    for found, expected in zip(results(again, dtype), results(cell, dtype), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_bfloat16_comes_back(path):
    cell = made(deep).to("numpy", dtype="bfloat16")
    rnnx.save(path, cell, {"e": cell.get_params()["z_i2h_bias"]})
    again, extra = rnnx.load(path)
    assert_same(again.get_params(), cell.get_params())
    assert extra["e"].dtype.name == "bfloat16"
    assert_same(extra, {"e": cell.get_params()["z_i2h_bias"]})


@pytest.mark.parametrize("build", OWN.values(), ids=OWN)
def test_a_users_own_cell_comes_back_into_the_tree_that_is_given(path, build):
    cell, other = made(build), build()
    rnnx.save(path, cell, EXTRA)
    again, extra = rnnx.load(path, cell=other)
    assert again is other
    assert_same(again.get_params(), cell.get_params())
    assert_same(extra, EXTRA)


@pytest.mark.parametrize("build", OWN.values(), ids=OWN)
def test_a_users_own_cell_is_never_imported_because_a_file_says_so(path, build):
    rnnx.save(path, made(build))
    assert_refused(path, r"networks:\w+', a cell class of the user's own, .* pass it as cell=", UnsupportedError)


def test_weights_of_another_backend(path, other_backend):
    cell = made(deep)
    expected = cell.get_params()
    rnnx.save(path, cell.to("tier1"), {"e": other_backend.from_numpy(EXTRA["embed_weight"])})
    again, extra = rnnx.load(path)
    assert_same(again.get_params(), expected)
    assert_same(extra, {"e": EXTRA["embed_weight"]})


def test_the_tensors_are_called_as_mxnet_unpacks_them(path):
    rnnx.save(path, made(lambda: rnnx.FusedRNNCell(HIDDEN, prefix="lstm_")), {"e": np.ones(2)})
    expected = {f"lstm_l0_{side}_{g}_{kind}" for side in ("i2h", "h2h") for g in "ifco" for kind in ("weight", "bias")}
    assert safetensors.numpy.load_file(path).keys() == {*expected, "e"}


def test_a_part_is_called_what_its_cells_have_in_common(path):
    names = {"lstm_": TREES["unfused"], "lstm_+gru_": TREES["stack"], "cell": TREES["dropout alone"]}
    for name, build in names.items():
        rnnx.save(path, made(build))
        assert rnnx.load_all(path).keys() == {name}


def test_equal_content_gives_equal_files(tmp_path):
    for name in ("one", "other"):
        rnnx.save(tmp_path / name, made(deep), EXTRA)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_file_of_the_first_version_is_still_read():
    cell, extra = rnnx.load(GOLDEN / "portable-v1.rnnx")
    assert [node.kind for node in cell.spec.walk()] == ["SequentialRNNCell", "LSTMCell", "DropoutCell", "GRUCell"]
    for name, array in cell.get_params().items():
        expected = np.linspace(-1, 1, array.size, dtype=np.float32).reshape(array.shape)
        np.testing.assert_array_equal(array, expected, err_msg=name)
    assert_same(extra, {"ids": np.arange(3, dtype=np.int64), "aux:mean": np.full((1, 2), 0.5, np.float16)})


def test_a_saved_file_is_the_same_as_in_the_first_version(path):
    cell, extra = rnnx.load(GOLDEN / "portable-v1.rnnx")
    rnnx.save(path, cell, extra)
    assert path.read_bytes() == (GOLDEN / "portable-v1.rnnx").read_bytes()


# -- the arrays are mapped --------------------------------------------------------------------------------------------


def root(array: np.ndarray) -> Any:
    base: Any = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base


def test_other_arrays_are_mapped_and_weights_are_not(path):
    cell = made(lambda: rnnx.RNNCell(HIDDEN))
    rnnx.save(path, cell, {"large": np.ones(1 << 20), "small": np.ones(3)})
    tracemalloc.start()
    again, extra = rnnx.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    assert isinstance(root(extra["large"]), mmap.mmap)
    assert root(extra["large"]) is root(extra["small"])
    with pytest.raises(ValueError, match="read-only"):
        extra["large"][0] = 0
    again.params["rnn_i2h_bias"] -= np.float32(1)
    assert_same(rnnx.load(path)[0].get_params(), cell.get_params())


@posix
def test_arrays_stay_readable_when_the_file_is_replaced(path):
    rnnx.save(path, made(deep), EXTRA)
    cell, extra = rnnx.load(path)
    rnnx.save(path, cell, {name: np.roll(array, 1) for name, array in extra.items()})
    assert_same(extra, EXTRA)
    assert not np.array_equal(rnnx.load(path)[1]["ids"], extra["ids"])


# -- what is not saved ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lstm_l0_i2h_f_weight", "an extra array is called 'lstm_l0_i2h_f_weight', as weights of a cell are: rename"),
        ("lstm_l1_h2h_bias", "an extra array is called 'lstm_l1_h2h_bias'"),
        ("lstm_parameters", "an extra array is called 'lstm_parameters'"),
        ("file:symbol.json", "array 'file:symbol.json' is called as a file within the portable file is"),
        ("__metadata__", "no array can be called '__metadata__'"),
        ("\ud800", "a name or note cannot be stored as UTF-8"),
    ],
)
@pytest.mark.parametrize("fuse", [True, False])
def test_names_that_clash(path, name, message, fuse):
    cell = made(lambda: rnnx.FusedRNNCell(HIDDEN, 2, prefix="lstm_"))
    with pytest.raises(WeightFormatError, match=message):
        rnnx.save(path, cell if fuse else cell.unfuse(), {name: np.ones(3)})
    assert not path.exists()


@pytest.mark.parametrize("array", [np.ones(2, "complex64"), np.array(["a"]), np.array([None])])
def test_a_dtype_that_has_no_place(path, array):
    with pytest.raises(
        WeightFormatError, match=r"'words' has dtype .*, which a safetensors file cannot hold; it holds"
    ):
        rnnx.save(path, made(deep), {"words": array})
    assert not path.exists()


@pytest.mark.parametrize("extra", [[1.0, 2.0], None, "text"])
def test_an_extra_that_is_no_array(path, extra):
    with pytest.raises(rnnx.BackendMismatchError, match=f"no backend takes an object of type .*{type(extra).__name__}"):
        rnnx.save(path, made(deep), {"e": extra})


def test_a_cell_without_weights(path):
    with pytest.raises(WeightFormatError, match="weight 'lstm_i2h_weight' has no value yet: call initialize"):
        rnnx.save(path, rnnx.LSTMCell(HIDDEN))
    half = sequential(made(lambda: rnnx.LSTMCell(WIDTH)), rnnx.GRUCell(2))
    with pytest.raises(WeightFormatError, match="weight 'gru_i2h_weight' has no value yet"):
        rnnx.save(path, half)
    assert not path.exists()


def test_an_activation_that_is_a_function(path):
    cell = made(lambda: rnnx.RNNCell(HIDDEN, np.tanh))
    with pytest.raises(UnsupportedError, match="is a function, which a description cannot hold"):
        rnnx.save(path, cell)
    assert not path.exists()


# -- what is damaged --------------------------------------------------------------------------------------------------


def test_truncated_anywhere(saved, whole):
    for size in reversed(range(len(whole))):
        os.truncate(saved, size)
        assert_refused(saved)


@pytest.mark.parametrize("more", [b"\0", b" ", b"{}", bytes(8)])
def test_bytes_behind_the_end(saved, whole, more):
    saved.write_bytes(whole + more)
    assert_refused(saved, "and the file has")


def test_any_bit_flipped(path):
    rnnx.save(path, made(lambda: rnnx.RNNCell(1)))
    whole = path.read_bytes()
    header = 8 + struct.unpack_from("<Q", whole)[0]
    with path.open("r+b", buffering=0) as file:
        for place, byte in enumerate(whole):
            for bit in range(8) if place < header else [place % 8]:
                file.seek(place)
                file.write(bytes([byte ^ 1 << bit]))
                assert_refused(path)
            file.seek(place)
            file.write(bytes([byte]))
    assert path.read_bytes() == whole


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_anything_done_to_the_bytes(saved, whole, data):
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        stop = data.draw(st.integers(start, min(start + 12, len(content))))
        content[start:stop] = data.draw(st.binary(max_size=12) | st.sampled_from([b'"', b"}", b",", b"[", b"9"]))
    saved.write_bytes(content)
    try:
        found = read_archive(saved)
    except RNNXError as error:
        assert str(saved) in str(error)  # noqa: PT017 what is not refused has to be whole
    else:
        assert bytes(content) == whole
        assert found.parts


@pytest.mark.parametrize("length", [0, 1, 2**16, 10**8, 2**31, 2**63, 2**64 - 1])
def test_a_length_that_lies(saved, whole, length):
    saved.write_bytes(struct.pack("<Q", length) + whole[8:])
    assert_refused(saved, "cannot be read as a safetensors file: the header")


def with_metadata(path: Path, change: Callable[[dict[str, str]], Any]) -> None:
    """Change a file's metadata and leave the rest as it is."""
    with safetensors.safe_open(path, "np") as file:
        metadata = dict(file.metadata())
    change(metadata)
    safetensors.numpy.save_file(safetensors.numpy.load_file(path), path, metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda metadata: metadata.update(parts="{}"), "was changed after it was written: its digest is sha256:"),
        (lambda metadata: metadata.update(more=""), "was changed after it was written"),
        (lambda metadata: metadata.pop("notes"), "was changed after it was written"),
        (lambda metadata: metadata.update(digest="sha256:"), "expected sha256:$"),
        (lambda metadata: metadata.update(format_version="2"), "has version '2' .* a newer rnnx is needed"),
        (lambda metadata: metadata.pop("format_version"), "has version None"),
        (lambda metadata: metadata.update(format="pt"), "is a safetensors file, but not one that rnnx wrote"),
        (lambda metadata: metadata.pop("format"), "not one that rnnx wrote"),
        (lambda metadata: metadata.pop("digest"), "not one that rnnx wrote"),
    ],
)
def test_metadata_that_were_changed(saved, change, message):
    with_metadata(saved, change)
    assert_refused(saved, message)


def test_metadata_in_another_order_are_the_same(saved):
    before = rnnx.load(saved)[0].get_params()
    with_metadata(saved, lambda metadata: metadata.update(dict(reversed(metadata.items()))))
    assert_same(rnnx.load(saved)[0].get_params(), before)


def test_tensors_that_change_places(saved, whole):
    saved.write_bytes(whole.replace(b"gru_i2h_r_bias", b"gru_?").replace(b"gru_i2h_z_bias", b"gru_i2h_r_bias"))
    assert_refused(saved)
    swapped = whole.replace(b"i2h_r_bias", b"??????????").replace(b"i2h_z_bias", b"i2h_r_bias")
    saved.write_bytes(swapped.replace(b"??????????", b"i2h_z_bias"))
    assert_refused(saved, "was changed after it was written")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_safetensors_file_of_someone_else(path, metadata):
    safetensors.numpy.save_file({"lstm_i2h_weight": np.ones((8, 2))}, path, metadata)
    with pytest.raises(WeightFormatError, match="is a safetensors file, but not one that rnnx wrote"):
        read_archive(path, from_="rnnx")


def test_the_digest_is_what_the_documentation_says(saved):
    with safetensors.safe_open(saved, "np") as file:
        metadata = dict(file.metadata())
    digest = metadata.pop("digest")
    expected = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, array in sorted(safetensors.numpy.load_file(saved).items()):
        expected.update(json.dumps([name, array.dtype.name, array.shape]).encode() + array.tobytes())
    assert digest == f"sha256:{expected.hexdigest()}"


# -- a file that is whole, and means harm -----------------------------------------------------------------------------


def spec(kind: str, *children: Any, **fields: Any) -> dict[str, Any]:
    """What the file holds of a cell, all of it well-formed unless said otherwise."""
    whole = {
        "GRUCell": {"num_hidden": 1, "prefix": "gru_", "reset_after": True},
        "LSTMCell": {"num_hidden": 1, "prefix": "gru_", "forget_bias": 1.0},
        "RNNCell": {"num_hidden": 1, "prefix": "gru_", "activation": "tanh"},
        "FusedRNNCell": {"num_hidden": 1, "num_layers": 1, "mode": "gru", "bidirectional": False, "dropout": 0.0}
        | {"get_next_state": False, "forget_bias": 1.0, "prefix": "gru_"},
        "DropoutCell": {"dropout": 0.5, "prefix": ""},
        "ZoneoutCell": {"zoneout_outputs": 0.5, "zoneout_states": 0.5},
        "BidirectionalCell": {"output_prefix": ""},
    }
    return {"kind": kind, **whole.get(kind, {}), **({"children": children} if children else {}), **fields}


def nested(depth: int) -> str:
    return '{"kind": "SequentialRNNCell", "children": [' * depth + json.dumps(spec("DropoutCell")) + "]}" * depth


#: Metadata ``parts``, or the spec of one part, and the error.
HARMFUL: dict[str, tuple[Any, type[RNNXError], str]] = {
    "nothing": ("", WeightFormatError, "metadata 'parts' is not JSON"),
    "a list": ("[]", WeightFormatError, "metadata 'parts' should be a JSON object"),
    "a part twice": ('{"a": {}, "a": {}}', WeightFormatError, "'a' stands there twice"),
    "many digits": (f'{{"a": 1{"0" * 400}}}', WeightFormatError, "a number of 401 digits"),
    "depth": (f'{{"a": {nested(65)}}}', WeightFormatError, "nested deeper than 64"),
    "more depth": (f'{{"a": {nested(100_000)}}}', WeightFormatError, "metadata 'parts' is not JSON"),
    "no object": (3, WeightFormatError, "a cell's spec is an object with a 'kind', found 3"),
    "code": (spec("os:system"), UnsupportedError, "'os:system', a cell class of the user's own"),
    "an unknown kind": (spec("GRUCel"), WeightFormatError, r"called 'GRUCel' \(nearest: 'GRUCell'\)"),
    "a base class": (spec("BaseRNNCell"), WeightFormatError, "no kind of cell is called 'BaseRNNCell'"),
    "an unknown field": (spec("GRUCell", hidden=3), WeightFormatError, "GRUCell has no field 'hidden'"),
    "a missing field": ({"kind": "GRUCell"}, WeightFormatError, "GRUCell: 'num_hidden', .* missing"),
    "text": (spec("GRUCell", num_hidden="1"), WeightFormatError, "'num_hidden' should be int, found '1'"),
    "a flag": (spec("GRUCell", num_hidden=True), WeightFormatError, "'num_hidden' should be int, found True"),
    "zero": (spec("GRUCell", num_hidden=0), WeightFormatError, "the cell tree cannot be built: num_hidden is 0"),
    "negative": (spec("GRUCell", num_hidden=-1), WeightFormatError, "num_hidden is -1"),
    "huge": (spec("GRUCell", num_hidden=2**62), WeightFormatError, "weight 'gru_i2h_r_weight' has shape"),
    "huge and fused": (spec("FusedRNNCell", num_hidden=2**62), WeightFormatError, "weight 'gru_parameters' is missing"),
    "no number": (spec("DropoutCell", dropout=float("nan")), WeightFormatError, "dropout.* nan"),
    "a rate": (spec("DropoutCell", dropout=1.5), WeightFormatError, "dropout is 1.5"),
    "an activation": (spec("RNNCell", activation="exec"), UnsupportedError, "no activation is called 'exec'"),
    "a mode": (spec("FusedRNNCell", mode="x"), UnsupportedError, "no mode is called 'x'"),
    "layers": (
        spec("FusedRNNCell", num_layers=10**12),
        WeightFormatError,
        "has 1000000000000 layers, more than the 4096",
    ),
    "layers in sum": (
        spec("SequentialRNNCell", *[spec("FusedRNNCell", num_layers=4096)] * 100),
        WeightFormatError,
        "the cell tree has 409600 layers",
    ),
    "children of a leaf": (spec("GRUCell", spec("GRUCell")), WeightFormatError, "GRUCell: 'children' does not fit"),
    "children no list": (spec("ResidualCell", children=1), WeightFormatError, "'children' does not fit the kind"),
    "no child": (spec("ResidualCell"), WeightFormatError, "ResidualCell: 'children' does not fit the kind"),
    "an only child": (
        spec("BidirectionalCell", spec("GRUCell")),
        WeightFormatError,
        "'children' does not fit the kind",
    ),
    "zoneout of fused": (
        spec("ZoneoutCell", spec("FusedRNNCell")),
        UnsupportedError,
        "a FusedRNNCell has none: unfuse",
    ),
    "two cells on one weight": (
        spec("BidirectionalCell", spec("GRUCell"), spec("LSTMCell")),
        WeightFormatError,
        "the cell tree cannot be built: weight 'gru_i2h_weight' is shared by cells that differ",
    ),
    "a residual that does not fit": (
        spec("ResidualCell", spec("GRUCell")),
        WeightFormatError,
        "the cell tree does not fit its weights: a residual adds its inputs, 3 wide",
    ),
    "no such weights": (
        spec("LSTMCell", prefix="gry_"),
        WeightFormatError,
        r"weight 'gry_i2h_weight' is missing \(nearest: 'gru_i2h_\w_weight'\)",
    ),
    "weights of another shape": (
        spec("GRUCell", num_hidden=2),
        WeightFormatError,
        r"weight 'gru_i2h_r_weight' has shape \(1, 3\), expected \(2, 3\)",
    ),
    "weights of another kind": (spec("LSTMCell"), WeightFormatError, "weight 'gru_i2h_i_weight' is missing"),
}


@pytest.mark.parametrize(("parts", "kind", "message"), HARMFUL.values(), ids=HARMFUL)
def test_a_spec_that_is_wrong_in_a_file_that_is_whole(saved, parts, kind, message):
    arrays, _ = read_portable(saved)
    write_portable(saved, arrays, {"parts": parts if isinstance(parts, str) else json.dumps({"a": parts})})
    begun = time.perf_counter()
    tracemalloc.start()
    assert_refused(saved, message, kind)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 25
    assert time.perf_counter() - begun < 3


@pytest.mark.parametrize(
    ("notes", "message"),
    [("{", "'notes' is not JSON"), ("3", "'notes' should be a JSON object"), ('{"a": 1}', "a JSON object of strings")],
)
def test_notes_that_are_wrong(saved, notes, message):
    arrays, metadata = read_portable(saved)
    write_portable(saved, arrays, {**metadata, "notes": notes})
    assert_refused(saved, message)


@pytest.mark.parametrize("stored", ["[", "3", "[3]", "[" * 100_000])
def test_notes_that_another_format_cannot_use(saved, tmp_path, stored):
    arrays, metadata = read_portable(saved)
    write_portable(saved, arrays, {**metadata, "notes": json.dumps({"stored": stored})})
    with pytest.raises(WeightFormatError, match="note 'stored'"):
        rnnx.convert(saved, tmp_path / "model-0001.params")
    assert list(tmp_path.iterdir()) == [saved]


def test_a_file_without_parts_has_arrays_alone(path):
    write_portable(path, EXTRA, {})
    assert rnnx.load_all(path) == {}
    assert_same(dict(read_archive(path).extra), EXTRA)
    with pytest.raises(WeightFormatError, match=r"no recurrent weights were found in .*model.rnnx: give the cell tree"):
        rnnx.load(path)


# -- what interrupts a save -------------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("moment", ["os.fsync", "Path.replace"])
def test_killed_while_saving(saved, whole, moment):
    code = f"""
import os, signal, sys
from pathlib import Path
import numpy as np
import rnnx
cell, _ = rnnx.load(sys.argv[1])
{moment} = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
rnnx.save(sys.argv[1], cell, {{"large": np.ones(1 << 18)}})
"""
    result = subprocess.run([sys.executable, "-c", code, str(saved)], capture_output=True, timeout=60)
    assert result.returncode == -signal.SIGKILL, result.stderr
    (left,) = (path for path in saved.parent.iterdir() if path != saved)
    assert left.stat().st_size > 1 << 21
    assert saved.read_bytes() == whole


def assert_a_save_fails(path: Path, whole: bytes, error: type[BaseException]) -> None:
    cell, _ = rnnx.load(path)
    with pytest.raises(error):
        rnnx.save(path, cell, {"large": np.ones(1 << 18)})
    assert path.read_bytes() == whole
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_syncing_fails(saved, whole, monkeypatch, error):
    def failing(descriptor: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", failing)
    assert_a_save_fails(saved, whole, type(error))


@posix
def test_writing_fails(saved, whole):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        assert_a_save_fails(saved, whole, OSError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

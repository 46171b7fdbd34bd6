"""cuDNN's weight buffers: the order judged by torch's parameters, the file by NumPy."""

from __future__ import annotations

import dataclasses
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import networks
import rnnx
from networks import assert_all_close, batch_major, randomized, sequential
from rnnx.archive import Accepted, Archive, Part
from rnnx.errors import RNNXError, UnsupportedError, WeightFormatError
from rnnx.files import read_archive
from rnnx.formats.cudnn import CudnnFormat

torch = pytest.importorskip("torch", reason="torch keeps the weights that cuDNN gets, and judges their order")

WIDTH, UNITS, STEPS = 3, 5, 6

TORCH = {
    "lstm": torch.nn.LSTM,
    "gru": torch.nn.GRU,
    "rnn_tanh": torch.nn.RNN,
    "rnn_relu": lambda *sizes, **options: torch.nn.RNN(*sizes, nonlinearity="relu", **options),
}


def inputs_of() -> np.ndarray:
    return np.random.default_rng(5).normal(size=(2, STEPS, WIDTH)).astype(np.float32)


def outputs_of(cell: rnnx.BaseRNNCell) -> np.ndarray:
    return batch_major(cell.unroll(None, inputs_of(), merge_outputs=True)[0])


def module_of(mode: str, layers: int, bidirectional: bool) -> torch.nn.Module:
    torch.manual_seed(1)
    return TORCH[mode](WIDTH, UNITS, layers, bidirectional=bidirectional, batch_first=True)


def buffer_of(module: torch.nn.Module) -> np.ndarray:
    """All matrices by layer, direction, ih and hh; then all biases likewise."""
    named = [(name, weight.detach().numpy()) for name, weight in module.named_parameters()]
    ordered = [array for kind in ("weight", "bias") for name, array in named if name.startswith(kind)]
    return np.concatenate([array.reshape(-1) for array in ordered])


def stored_in(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False)


# -- read and written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", networks.FUSED_MODES)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_torch_computes_the_same_from_a_buffer(tmp_path, mode, layers, bidirectional):
    module = module_of(mode, layers, bidirectional)
    path = tmp_path / "buffer.npy"
    np.save(path, buffer_of(module))
    expected = module(torch.from_numpy(inputs_of()))[0].detach().numpy()
    fused = rnnx.FusedRNNCell(UNITS, layers, mode, bidirectional, prefix="top_")
    for given in (fused, fused.unfuse()):
        cell, extra = rnnx.load(path, cell=given)
        assert cell is given
        assert extra == {}
        assert_all_close([outputs_of(cell)], [expected], 1e-5)
        rnnx.save(tmp_path / "between.rnnx", cell)
        rnnx.convert(tmp_path / "between.rnnx", tmp_path / "back.npy")
        assert (tmp_path / "back.npy").read_bytes() == path.read_bytes()


def test_any_stack_of_equal_layers_has_a_buffer(tmp_path):
    """A buffer has no names, so those of the cells need not be a fused cell's."""
    module = module_of("gru", 2, True)
    np.save(tmp_path / "buffer.npy", buffer_of(module))
    shared = rnnx.RNNParams("own_")
    cell = sequential(
        rnnx.DropoutCell(0.5),
        rnnx.BidirectionalCell(rnnx.ZoneoutCell(rnnx.GRUCell(UNITS, "a_"), 0.1, 0.1), rnnx.GRUCell(UNITS, "b_")),
        rnnx.DropoutCell(0.5),
        rnnx.BidirectionalCell(
            rnnx.FusedRNNCell(UNITS, 1, "gru", prefix="c_"), rnnx.GRUCell(UNITS, "d_", params=shared)
        ),
    )
    rnnx.load(tmp_path / "buffer.npy", cell=cell)
    assert_all_close([outputs_of(cell)], [module(torch.from_numpy(inputs_of()))[0].detach().numpy()], 1e-5)
    rnnx.save(tmp_path / "model.rnnx", cell)
    rnnx.convert(tmp_path / "model.rnnx", tmp_path / "back.npy")
    assert (tmp_path / "back.npy").read_bytes() == (tmp_path / "buffer.npy").read_bytes()


@pytest.mark.parametrize("dtype", ["<f2", "<f8", ">f4"])
def test_the_dtype_is_kept(tmp_path, dtype):
    vector = buffer_of(module_of("lstm", 2, False)).astype(dtype)
    np.save(tmp_path / "buffer.npy", vector)
    cell, _ = rnnx.load(tmp_path / "buffer.npy", cell=rnnx.FusedRNNCell(UNITS, 2, prefix="x_"))
    (found,) = cell.get_params().values()
    assert found.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(found, vector)


def test_the_vector_is_that_of_a_fused_cell(tmp_path):
    cell = randomized(rnnx.FusedRNNCell(UNITS, 2, "lstm", True), WIDTH, "float32")
    rnnx.save(tmp_path / "model.rnnx", cell)
    rnnx.convert(tmp_path / "model.rnnx", tmp_path / "buffer.npy")
    np.testing.assert_array_equal(stored_in(tmp_path / "buffer.npy"), cell.get_params()["lstm_parameters"])
    assert stored_in(tmp_path / "buffer.npy").dtype == np.float32


def test_the_weights_are_mapped(tmp_path):
    np.save(tmp_path / "buffer.npy", buffer_of(module_of("lstm", 1, False)))
    (array,) = CudnnFormat().read(tmp_path / "buffer.npy").arrays.values()
    assert isinstance(array, np.memmap)
    assert not array.flags.writeable


def test_a_header_of_the_second_version_and_an_old_one(tmp_path):
    vector = np.arange(5, dtype=np.float32)
    with (tmp_path / "new.npy").open("wb") as file:
        np.lib.format.write_array(file, vector, (2, 0))
    (tmp_path / "old.npy").write_bytes(npy("{'descr': '<f4', 'fortran_order': True, 'shape': (5L,)}", vector.tobytes()))
    for name in ("new.npy", "old.npy"):
        (array,) = CudnnFormat().read(tmp_path / name).arrays.values()
        np.testing.assert_array_equal(array, vector)


# -- refused ----------------------------------------------------------------------------------------------------------


def test_the_tree_must_be_given(tmp_path):
    np.save(tmp_path / "buffer.npy", np.ones(280, np.float32))
    message = r"a vector of 280 numbers does not tell what it is .*cell=rnnx.FusedRNNCell\(.*--cell \"FusedRNNCell\(60"
    with pytest.raises(WeightFormatError, match=message):
        rnnx.load(tmp_path / "buffer.npy")
    with pytest.raises(WeightFormatError, match=message):
        rnnx.convert(tmp_path / "buffer.npy", tmp_path / "x.rnnx")


def test_a_tree_that_the_vector_is_not_of(tmp_path):
    np.save(tmp_path / "buffer.npy", np.ones(281, np.float32))
    with pytest.raises(
        WeightFormatError, match="a vector of 281 elements is no lstm of 1 layers, 1 directions and 5 h"
    ):
        rnnx.load(tmp_path / "buffer.npy", cell=rnnx.FusedRNNCell(UNITS))


REFUSED = [
    (
        lambda: rnnx.GRUCell(UNITS, reset_after=False),
        "a tree with a GRUCell .*'reset_after': False.* has no fused form",
    ),
    (lambda: rnnx.ResidualCell(rnnx.GRUCell(WIDTH)), "a tree with a ResidualCell .* has no fused form"),
    (lambda: rnnx.LSTMPCell(UNITS, 2), "a tree with a LSTMPCell .* has no fused form"),
    (lambda: rnnx.RNNCell(UNITS, "sigmoid"), "a tree with a RNNCell .*sigmoid.* has no fused form"),
    (lambda: sequential(rnnx.LSTMCell(5, "a_"), rnnx.GRUCell(5, "b_")), "no fused form: the kind of cell differs"),
    (lambda: sequential(rnnx.LSTMCell(5, "a_"), rnnx.LSTMCell(4, "b_")), "no fused form: num_hidden differs"),
    (
        lambda: sequential(rnnx.BidirectionalCell(rnnx.LSTMCell(5, "a_"), rnnx.LSTMCell(5, "b_")), rnnx.LSTMCell(5)),
        "no fused form: the number of directions differs",
    ),
    (
        lambda: rnnx.BidirectionalCell(sequential(rnnx.LSTMCell(5, "a_"), rnnx.LSTMCell(5, "b_")), rnnx.LSTMCell(5)),
        "a tree with a SequentialRNNCell .* has no fused form",
    ),
]


@pytest.mark.parametrize(("build", "message"), REFUSED)
def test_a_tree_without_a_fused_form(tmp_path, build, message):
    np.save(tmp_path / "buffer.npy", np.ones(280, np.float32))
    with pytest.raises(UnsupportedError, match=message):
        rnnx.load(tmp_path / "buffer.npy", cell=build())
    rnnx.save(tmp_path / "model.rnnx", randomized(build(), WIDTH, "float32"))
    with pytest.raises(UnsupportedError, match=message):
        rnnx.convert(tmp_path / "model.rnnx", tmp_path / "new.npy")
    assert not (tmp_path / "new.npy").exists()


def test_one_part_and_nothing_else(tmp_path):
    part = Part.of(randomized(rnnx.GRUCell(4, "a_"), WIDTH, "float32"))
    other = Part.of(randomized(rnnx.GRUCell(4, "b_"), WIDTH, "float32"))
    one = Archive({"a_": part}, {})
    for archive, found in (
        (Archive({}, {}), "nothing"),
        (Archive({"a_": part, "b_": other}, {}), "'a_', 'b_'"),
        (dataclasses.replace(one, extra={"embed": np.ones(1)}), "'a_', 'embed'"),
        (dataclasses.replace(one, files={"symbol.json": b""}), "'a_', 'symbol.json'"),
    ):
        with pytest.raises(UnsupportedError, match=rf"one recurrent part and nothing else.*: {found}; select="):
            CudnnFormat().write(tmp_path / "x.npy", archive, Accepted())
    rnnx.save(tmp_path / "model.rnnx", part.cell, {"embed": np.ones(1)})
    rnnx.convert(tmp_path / "model.rnnx", tmp_path / "x.npy", select="a_")
    assert stored_in(tmp_path / "x.npy").shape == (3 * 4 * (WIDTH + 4 + 2),)


def test_bfloat16_has_no_place(tmp_path):
    rnnx.save(tmp_path / "model.rnnx", randomized(rnnx.GRUCell(4), WIDTH, "float32"))
    with pytest.raises(UnsupportedError, match=r"weights of bfloat16 have no place in a .npy file: dtype="):
        rnnx.convert(tmp_path / "model.rnnx", tmp_path / "x.npy", dtype="bfloat16")
    assert not (tmp_path / "x.npy").exists()


# -- hostile files ----------------------------------------------------------------------------------------------------


def npy(header: str | bytes, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    text = header if isinstance(header, bytes) else header.encode("latin1")
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(text)) + text + data


def described(descr: Any = "<f4", shape: str = "(2,)", order: str = "False") -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}"


HOSTILE = {
    "only a magic": (b"\x93NUMPY", "the header of the .npy file makes no sense"),
    "no header": (npy("")[:9], "the header of the .npy file makes no sense"),
    "a header cut off": (npy(described())[:-5], "the header of the .npy file makes no sense"),
    "a header of gigabytes": (b"\x93NUMPY\2\0\xff\xff\xff\xff{", "the header of the .npy file makes no sense"),
    "a long header": (npy(described() + " " * 60000, b"12345678"), "the header of the .npy file makes no sense"),
    "a newer header": (
        npy(described(), b"12345678", (3, 0)),
        r"the header is of version \(3, 0\), expected 1.0 or 2.0",
    ),
    "code": (npy("__import__('os').system('touch /tmp/harm')"), "the header of the .npy file makes no sense"),
    "deep nesting": (npy("(" * 9000), "the header of the .npy file makes no sense"),
    "deep signs": (npy("-" * 9000 + "1"), "the header of the .npy file makes no sense"),
    "deep sums": (npy("1" + "+1" * 4000), "the header of the .npy file makes no sense"),
    "no dict": (npy("3"), "the header of the .npy file makes no sense"),
    "keys of all kinds": (npy("{1: 2, 'a': 3, (): 4}"), "the header of the .npy file makes no sense"),
    "keys that are lists": (npy("{[]: 2}"), "the header of the .npy file makes no sense"),
    "a shape of text": (npy(described(shape="('a',)")), "the header of the .npy file makes no sense"),
    "no text": (npy(b"{'descr': '\xff\x00'}"), "the header of the .npy file makes no sense"),
    "a string without an end": (npy("{'descr: 5L"), "the header of the .npy file makes no sense"),
    "an unknown dtype": (npy(described("<q17")), "the header of the .npy file makes no sense"),
    "objects": (npy(described("|O"), b"12345678"), "the array has dtype object, expected one of float16, float32"),
    "fields": (npy(described([("a", "<f4")]), b"12345678"), r"the array has dtype \[\('a', '<f4'\)\]"),
    "integers": (npy(described("<i4"), b"12345678"), "the array has dtype int32"),
    "text": (npy(described("<U4"), b"1" * 32), "the array has dtype <U4"),
    "two axes": (npy(described(shape="(1, 2)"), b"12345678"), r"the array has shape \(1, 2\), expected one axis"),
    "no axis": (npy(described(shape="()"), b"1234"), r"the array has shape \(\), expected one axis"),
    "nothing in it": (npy(described(shape="(0,)")), r"the array has shape \(0,\), expected one axis"),
    "a negative size": (npy(described(shape="(-2,)")), r"the array has shape \(-2,\), expected one axis"),
    "a true size": (npy(described(shape="(True,)"), b"123"), "1 numbers of float32 are 4 bytes, and behind the he"),
    "a huge size": (npy(described(shape=f"({2**70},)")), "bytes, and behind the header are 0"),
    "cut off": (npy(described(), b"1234567"), "2 numbers of float32 are 8 bytes, and behind the header are 7"),
    "two arrays": (npy(described(), b"12345678") * 2, "2 numbers of float32 are 8 bytes, and behind the header are"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused(tmp_path, case):
    content, message = HOSTILE[case]
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(WeightFormatError, match=message) as caught:
        rnnx.load(path, cell=rnnx.FusedRNNCell(UNITS))
    assert str(path) in str(caught.value)


def test_a_pickle_is_never_loaded(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(WeightFormatError, match="the array has dtype object"):
        rnnx.load(tmp_path / "x.npy", cell=rnnx.FusedRNNCell(UNITS))


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_archive(tmp_path / "x.npy", from_="cudnn")


def test_no_bytes_do_harm(tmp_path):
    """Every change of a file is read, or refused as one should be."""
    rng = random.Random(3)
    good = npy(described(shape="(28,)"), bytes(112))
    path = tmp_path / "x.npy"
    refused = 0
    for _ in range(2000):
        content = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(80)] = rng.choice([rng.randrange(256), *b"()[]{}'\\-+,:L0 #\n"])
        path.write_bytes(bytes(content[: rng.choice([len(content), rng.randrange(len(content))])]))
        try:
            read_archive(path, rnnx.RNNCell(4, prefix="l0_"), from_="cudnn")
        except RNNXError:
            refused += 1
    assert refused > 1000


def test_which_files_are_of_the_format():
    assert CudnnFormat().recognises(Path("x"), npy(described()))
    assert not CudnnFormat().recognises(Path("x"), b"PK\3\4")
    assert not CudnnFormat().recognises(Path("x"), b"")


def test_bytes_of_the_file_are_numpy_s(tmp_path):
    cell = randomized(rnnx.GRUCell(4), WIDTH, "float64")
    rnnx.save(tmp_path / "model.rnnx", cell)
    rnnx.convert(tmp_path / "model.rnnx", tmp_path / "x.npy")
    np.save(tmp_path / "y.npy", stored_in(tmp_path / "x.npy"))
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "y.npy").read_bytes()

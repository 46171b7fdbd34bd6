"""Checkpoints as `mxnet.rnn` writes and reads them; ``tests/oracle/test_checkpoints.py`` holds them against MXNet."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import networks
import rnnx
from networks import sequential
from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.formats.mxnet.ndarray import read_ndarrays, write_ndarrays

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX limits")

Arrays = dict[str, np.ndarray]
WIDTH = 3
SYMBOL = b'{"nodes": [], "name": "\xc3\xa9"}\n'
OTHERS: Arrays = {"embed_weight": np.arange(12, dtype=np.float32).reshape(4, 3), "ids": np.arange(3)}
STATES: Arrays = {"bn_moving_mean": np.full(2, 0.25, np.float32)}


class Symbol:
    """What MXNet's symbol is to a checkpoint."""

    def tojson(self) -> str:
        return SYMBOL.decode()


def lstm(prefix: str = "lstm_") -> rnnx.BaseRNNCell:
    return networks.randomized(rnnx.LSTMCell(4, prefix), WIDTH, "float32")


def fused() -> rnnx.BaseRNNCell:
    return networks.randomized(rnnx.FusedRNNCell(4, 2, "gru", bidirectional=True, prefix="gru_"), WIDTH, "float32")


def stack() -> rnnx.BaseRNNCell:
    cells = (
        rnnx.LSTMCell(4, "a_"),
        rnnx.DropoutCell(0.5),
        rnnx.FusedRNNCell(2, prefix="b_"),
        rnnx.RNNCell(3, prefix="c_"),
    )
    return networks.randomized(sequential(*cells), WIDTH, "float32")


def shared() -> rnnx.BaseRNNCell:
    first = rnnx.GRUCell(WIDTH, "a_")
    return networks.randomized(sequential(first, rnnx.GRUCell(WIDTH, "b_", params=first.params)), WIDTH, "float32")


CELLS = {"plain": lstm, "fused": fused, "stack": stack, "shared": shared}


def stored_in(path: Path) -> Arrays:
    return dict(zip(*read_ndarrays(path), strict=True))


def assert_same(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (name, found[name].dtype, found[name].shape) == (name, array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes(), name


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return str(tmp_path / "model")


# -- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", CELLS.values(), ids=CELLS)
def test_one_cell(prefix, build):
    cell = build()
    weights = cell.get_params()
    rnnx.save_rnn_checkpoint(cell, prefix, 7, SYMBOL, {**weights, **OTHERS}, STATES)
    unpacked = cell.unpack_weights(weights)
    expected = {f"arg:{name}": array for name, array in {**OTHERS, **unpacked}.items()}
    assert_same(stored_in(Path(f"{prefix}-0007.params")), {**expected, "aux:bn_moving_mean": STATES["bn_moving_mean"]})
    symbol, arguments, states = rnnx.load_rnn_checkpoint(build(), prefix, 7)
    assert symbol == SYMBOL
    assert_same(arguments, {**OTHERS, **weights})
    assert_same(states, STATES)


def test_several_cells(prefix):
    cells = [lstm(), fused(), stack()]
    weights = {name: array for cell in cells for name, array in cell.get_params().items()}
    rnnx.save_rnn_checkpoint(cells, prefix, 1, None, {**weights, **OTHERS})
    assert not any(
        "parameters" in name or "lstm_i2h_weight" in name for name in stored_in(Path(f"{prefix}-0001.params"))
    )
    _, arguments, states = rnnx.load_rnn_checkpoint(tuple(cells), prefix, 1)
    assert_same(arguments, {**OTHERS, **weights})
    assert states == {}


def test_a_cell_takes_its_own_of_what_was_loaded(prefix):
    cells = [lstm("a_"), lstm("b_")]
    weights = {name: array for cell in cells for name, array in cell.get_params().items()}
    rnnx.save_rnn_checkpoint(cells, prefix, 1, None, {**weights, **OTHERS})
    _, arguments, _ = rnnx.load_rnn_checkpoint(cells, prefix, 1)
    again = rnnx.LSTMCell(4, "b_")
    again.load_params(arguments, ignore_extra=True)
    assert_same(again.get_params(), cells[1].get_params())


def test_rnnx_load_reads_it(prefix):
    cell = fused()
    rnnx.save_rnn_checkpoint(cell, prefix, 1, None, {**cell.get_params(), **OTHERS}, STATES)
    again, extra = rnnx.load(f"{prefix}-0001.params")
    assert_same(again.get_params(), cell.get_params())
    assert_same(extra, {**OTHERS, "aux:bn_moving_mean": STATES["bn_moving_mean"]})


def test_arguments_are_left_as_they_were(prefix):
    cell = lstm()
    arguments, states = {**cell.get_params(), **OTHERS}, dict(STATES)
    names = list(arguments)
    rnnx.save_rnn_checkpoint(cell, prefix, 1, None, arguments, states)
    assert list(arguments) == names
    assert states.keys() == STATES.keys()


def test_what_was_loaded_may_be_changed(prefix):
    cell = lstm()
    rnnx.save_rnn_checkpoint(cell, prefix, 1, None, {**cell.get_params(), **OTHERS}, STATES)
    _, arguments, states = rnnx.load_rnn_checkpoint(cell, prefix, 1)
    for array in (*arguments.values(), *states.values()):
        array[...] = 0
    assert_same(rnnx.load_rnn_checkpoint(cell, prefix, 1)[1], {**OTHERS, **cell.get_params()})


def test_any_memory_layout_and_byte_order(prefix):
    cell = lstm()
    weights = {name: np.asfortranarray(array) for name, array in cell.get_params().items()}
    odd = {"big": np.arange(3, dtype=">i4"), "strided": np.arange(10.0)[::3], "turned": np.arange(6.0).reshape(2, 3).T}
    rnnx.save_rnn_checkpoint(cell, prefix, 1, None, {**weights, **odd})
    found = rnnx.load_rnn_checkpoint(cell, prefix, 1)[1]
    native = {name: np.array(array, array.dtype.newbyteorder("="), order="C") for name, array in odd.items()}
    assert_same(found, {**native, **cell.get_params()})


def test_arrays_of_another_backend(prefix, other_backend):
    cell = lstm()
    weights = {name: other_backend.from_numpy(array) for name, array in cell.get_params().items()}
    others = {name: other_backend.from_numpy(array) for name, array in OTHERS.items()}
    rnnx.save_rnn_checkpoint(cell, prefix, 1, None, {**weights, **others}, STATES)
    assert_same(rnnx.load_rnn_checkpoint(cell, prefix, 1)[1], {**OTHERS, **cell.get_params()})


# -- names and the symbol ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epoch", "name"),
    [(0, "0000"), (7, "0007"), (1234, "1234"), (12345, "12345"), (np.int64(3), "0003"), (-1, "-001")],
)
def test_the_epoch_in_the_name(prefix, epoch, name):
    rnnx.save_rnn_checkpoint(lstm(), prefix, epoch, SYMBOL, lstm().get_params())
    folder = Path(prefix).parent
    assert {path.name for path in folder.iterdir()} == {"model-symbol.json", f"model-{name}.params"}
    assert rnnx.load_rnn_checkpoint(lstm(), prefix, epoch)[0] == SYMBOL


@pytest.mark.parametrize("name", ["a.b", "model-2", "model-0001", "mit Leerzeichen", "größe"])
def test_any_prefix(tmp_path, name):
    rnnx.save_rnn_checkpoint(lstm(), str(tmp_path / name), 3, SYMBOL, lstm().get_params())
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}-symbol.json", f"{name}-0003.params"}
    assert rnnx.load_rnn_checkpoint(lstm(), str(tmp_path / name), 3)[0] == SYMBOL


@pytest.mark.parametrize("symbol", [SYMBOL, SYMBOL.decode(), Symbol()], ids=["bytes", "text", "an object"])
def test_the_symbol_is_kept_byte_for_byte(prefix, symbol):
    rnnx.save_rnn_checkpoint(lstm(), prefix, 1, symbol, lstm().get_params())
    assert Path(f"{prefix}-symbol.json").read_bytes() == SYMBOL


def test_no_symbol_leaves_the_old_one_alone(prefix):
    rnnx.save_rnn_checkpoint(lstm(), prefix, 1, SYMBOL, lstm().get_params())
    rnnx.save_rnn_checkpoint(lstm(), prefix, 2, None, lstm().get_params())
    assert rnnx.load_rnn_checkpoint(lstm(), prefix, 2)[0] == SYMBOL


def test_there_may_be_no_symbol(prefix):
    rnnx.save_rnn_checkpoint(lstm(), prefix, 1, None, lstm().get_params())
    assert rnnx.load_rnn_checkpoint(lstm(), prefix, 1)[0] is None


@pytest.mark.parametrize("symbol", [3, Path("model-symbol.json"), {"nodes": []}])
def test_something_else_is_no_symbol(prefix, symbol):
    with pytest.raises(UnsupportedError, match=f"symbol is of type {type(symbol).__name__}; expected bytes, str"):
        rnnx.save_rnn_checkpoint(lstm(), prefix, 1, symbol, lstm().get_params())
    assert list(Path(prefix).parent.iterdir()) == []


# -- what is wrong ----------------------------------------------------------------------------------------------------


def test_weights_that_are_missing(prefix):
    cell, weights = lstm(), lstm().get_params()
    del weights["lstm_h2h_bias"]
    with pytest.raises(WeightFormatError, match="weight 'lstm_h2h_bias' is missing"):
        rnnx.save_rnn_checkpoint(cell, prefix, 1, SYMBOL, weights)
    assert list(Path(prefix).parent.iterdir()) == []
    rnnx.save_rnn_checkpoint([], prefix, 1, SYMBOL, OTHERS)
    with pytest.raises(WeightFormatError, match=r"model-0001.params: weight 'lstm_i2h_i_weight' is missing"):
        rnnx.load_rnn_checkpoint(cell, prefix, 1)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(1.0), "'arg:odd'.* has 0 dimensions, .* reshape it"),
        (np.ones(2, np.uint16), "'arg:odd'.* has dtype uint16, which MXNet 1.9.1 cannot load"),
        (np.array(["text"]), "'arg:odd'.* has dtype str"),
    ],
)
def test_what_mxnet_could_not_load(prefix, array, message):
    with pytest.raises(UnsupportedError, match=message):
        rnnx.save_rnn_checkpoint(lstm(), prefix, 1, SYMBOL, {**lstm().get_params(), "odd": array})
    assert list(Path(prefix).parent.iterdir()) == []


@pytest.mark.parametrize("name", ["lstm_i2h_i_weight", "ag:lstm_i2h_i_weight", ""])
def test_a_name_that_is_neither_argument_nor_state(prefix, name):
    write_ndarrays(f"{prefix}-0001.params", [name], [np.ones(2, np.float32)])
    with pytest.raises(WeightFormatError, match=rf"model-0001.params: array '{name}' is called neither arg:… nor"):
        rnnx.load_rnn_checkpoint([], prefix, 1)


def test_nothing_to_load(prefix):
    with pytest.raises(FileNotFoundError, match=r"model-0001.params"):
        rnnx.load_rnn_checkpoint(lstm(), prefix, 1)


# -- a disk that fails ------------------------------------------------------------------------------------------------


@pytest.fixture
def old(prefix: str) -> dict[str, bytes]:
    """Both files of an older checkpoint, by name."""
    rnnx.save_rnn_checkpoint(lstm(), prefix, 1, b"the old symbol", lstm().get_params())
    return {path.name: path.read_bytes() for path in Path(prefix).parent.iterdir()}


def assert_both_stay(prefix: str, old: dict[str, bytes], error: type[BaseException], symbol: bytes = SYMBOL) -> None:
    weights = {**lstm().get_params(), "large": np.ones(1 << 15, np.float32)}
    with pytest.raises(error):
        rnnx.save_rnn_checkpoint(lstm(), prefix, 1, symbol, weights)
    assert {path.name: path.read_bytes() for path in Path(prefix).parent.iterdir()} == old


@pytest.mark.parametrize("good", [0, 1])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_both_old_files_stay_when_syncing_fails(prefix, old, monkeypatch, good, error):
    calls = iter(range(100))

    def failing(descriptor: int) -> None:
        if next(calls) >= good:
            raise error

    monkeypatch.setattr(os, "fsync", failing)
    assert_both_stay(prefix, old, type(error))


@posix
@pytest.mark.parametrize("symbol", [SYMBOL, b" " * (1 << 20)], ids=["the arrays", "the symbol"])
def test_both_old_files_stay_when_writing_fails(prefix, old, symbol):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        assert_both_stay(prefix, old, OSError, symbol)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_both_old_files_stay_when_an_array_has_no_place(prefix, old):
    with pytest.raises(UnsupportedError):
        rnnx.save_rnn_checkpoint(lstm(), prefix, 1, SYMBOL, {**lstm().get_params(), "odd": np.array(1.0)})
    assert {path.name: path.read_bytes() for path in Path(prefix).parent.iterdir()} == old


@pytest.mark.parametrize("failing", ["arrays", "symbol"])
def test_a_conversion_leaves_both_or_neither_too(prefix, old, tmp_path, failing, monkeypatch):
    symbol = (Path(__file__).parent / "fixtures" / "symbols" / "lstm.json").read_bytes()
    rnnx.save_rnn_checkpoint(lstm(), f"{prefix}-new", 1, symbol, lstm().get_params())
    everything = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls = iter(range(100))

    def fail(descriptor: int) -> None:
        if next(calls) >= (failing == "arrays"):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        rnnx.convert(f"{prefix}-new-0001.params", f"{prefix}-0001.params")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == everything


# -- every few epochs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("period", "written"),
    [(1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3]), (0, [1, 2, 3, 4]), (-2, [1, 2, 3, 4]), (2.9, [2, 4])],
)
def test_the_period(prefix, period, written):
    cell = lstm()
    callback = rnnx.do_rnn_checkpoint(cell, prefix, period)
    for epoch in range(4):
        callback(epoch, Symbol(), {**cell.get_params(), "epoch": np.array([epoch + 1])}, STATES)
    names = {f"model-000{epoch}.params" for epoch in written}
    assert {path.name for path in Path(prefix).parent.glob("*.params")} == names
    for epoch in written:
        symbol, arguments, states = rnnx.load_rnn_checkpoint(cell, prefix, epoch)
        assert symbol == SYMBOL
        assert_same(arguments, {"epoch": np.array([epoch]), **cell.get_params()})
        assert_same(states, STATES)


def test_without_arguments_it_writes_the_cells_own_weights(prefix):
    cells = [lstm(), stack()]
    callback = rnnx.do_rnn_checkpoint(cells, prefix)
    cells[0].params["lstm_i2h_bias"] += np.float32(1)
    callback(0)
    expected = {name: array for cell in cells for name, array in cell.get_params().items()}
    symbol, arguments, states = rnnx.load_rnn_checkpoint(cells, prefix, 1)
    assert symbol is None
    assert_same(arguments, expected)
    assert states == {}


def test_no_arguments_are_not_the_cells_own(prefix):
    with pytest.raises(WeightFormatError, match="weight 'lstm_i2h_weight' is missing"):
        rnnx.do_rnn_checkpoint(lstm(), prefix)(0, SYMBOL, {})


def test_what_is_written_is_what_save_writes(prefix):
    cell = stack()
    arguments = {**OTHERS, **cell.get_params()}
    rnnx.do_rnn_checkpoint(cell, f"{prefix}-one")(4, SYMBOL, arguments, STATES)
    rnnx.save_rnn_checkpoint(cell, f"{prefix}-two", 5, SYMBOL, arguments, STATES)
    for ending in ("0005.params", "symbol.json"):
        assert Path(f"{prefix}-one-{ending}").read_bytes() == Path(f"{prefix}-two-{ending}").read_bytes()

"""Files of any format: loaded, told apart, converted there and back, and nothing lost or guessed on the way."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import networks
import rnnx
from networks import PeepholeLSTM, assert_all_close, batch_major, sequential
from rnnx.archive import Accepted, Archive, Part
from rnnx.conformance import reference
from rnnx.errors import ShapeError, UnsupportedError, WeightFormatError
from rnnx.files import read_archive
from rnnx.formats.mxnet import MXNetFormat
from rnnx.formats.mxnet.ndarray import read_ndarrays, write_ndarrays
from rnnx.formats.mxnet.symbol import parts_of_symbol
from rnnx.formats.portable import PortableFormat
from rnnx.weights.portable import write_portable

HERE = Path(__file__).parent
SYMBOLS = HERE / "fixtures" / "symbols"
SHERLOCK = HERE.parent / "examples" / "sherlock" / "sherlock-0010.params"

Arrays = dict[str, np.ndarray]
WIDTH = 3

#: What is no cell's: weights of every dtype that MXNet loads, and auxiliary states.
OTHERS: Arrays = {
    "embed_weight": np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3),
    "pred_bias": np.array([np.nan, -0.0, np.inf], np.float64),
    "half": np.arange(3, dtype=np.float16),
    "brain": np.arange(3).astype(ml_dtypes.bfloat16),
    "ids": np.arange(4, dtype=np.int64).reshape(2, 2),
    "flags": np.array([True, False]),
    "bytes": np.arange(3, dtype=np.uint8),
    "none": np.zeros((0, 3), np.int8),
    "aux:bn_moving_mean": np.full(2, 0.25, np.float32),
}


def found_in(symbol: str, seed: int = 0) -> list[rnnx.BaseRNNCell]:
    """The cells of a symbol file, with random weights; cells of one prefix have the same ones."""
    cells = [rnnx.BaseRNNCell.from_spec(part.spec) for part in parts_of_symbol(symbol_of(symbol))]
    for cell in cells:
        initialize(cell)
        named = {name: random_array(name, array.shape, seed) for name, array in cell.get_params().items()}
        cell.load_params(named)
    return cells


def initialize(cell: rnnx.BaseRNNCell) -> None:
    """Give a cell weights for inputs of a width that fits its residual connections."""
    for width in (WIDTH, 4, 8):
        try:
            cell.initialize(width)
        except ShapeError:
            continue
        return


def random_array(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([seed, *name.encode()])
    return (rng.uniform(0.1, 0.9, shape) * rng.choice([-1, 1], shape)).astype(np.float32)


def symbol_of(name: str) -> bytes:
    return (SYMBOLS / f"{name}.json").read_bytes()


def checkpoint(
    folder: Path, arrays: Mapping[str, np.ndarray], symbol: bytes | None = None, prefixed: bool = True
) -> Path:
    """Write a checkpoint as MXNet would, and return where its arrays are."""
    folder.mkdir(exist_ok=True)
    path = folder / "model-0007.params"
    names = [name if name.startswith("aux:") or not prefixed else f"arg:{name}" for name in arrays]
    write_ndarrays(path, names, list(arrays.values()))
    if symbol is not None:
        (folder / "model-symbol.json").write_bytes(symbol)
    return path


def stored_in(path: Path) -> Arrays:
    return dict(zip(*read_ndarrays(path), strict=True))


def assert_same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (name, found[name].dtype, found[name].shape) == (name, array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes(), name


def outputs_of(cell: rnnx.BaseRNNCell, inputs: np.ndarray) -> np.ndarray:
    return batch_major(cell.unroll(None, inputs, merge_outputs=True)[0])


def inputs_of(width: int = WIDTH, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(5).normal(size=(2, 4, width)).astype(dtype)


# -- there and back ---------------------------------------------------------------------------------------------------


def flat_or_packed(cell: rnnx.BaseRNNCell) -> Arrays:
    return cell.get_params()


def one_a_gate(cell: rnnx.BaseRNNCell) -> Arrays:
    return cell.unpack_weights(cell.get_params())


def layer_by_layer(cell: rnnx.BaseRNNCell) -> Arrays:
    """As Gluon stores fused cells."""
    arrays: Arrays = {}
    for leaf in cell.leaves():
        arrays.update(leaf.unfuse().get_params() if isinstance(leaf, rnnx.FusedRNNCell) else leaf_params(leaf, cell))
    return arrays


def leaf_params(leaf: Any, cell: rnnx.BaseRNNCell) -> Arrays:
    return {parameter.name: cell.get_params()[parameter.name] for parameter in leaf.own_parameters()}


def first_packed_last_not(cell: rnnx.BaseRNNCell) -> Arrays:
    arrays, leaves = dict(cell.get_params()), list(cell.leaves())
    if len(leaves) > 1:
        leaves[-1].unpack(arrays)
    return arrays


#: Every way in which a symbol's weights are named, ordered, shared and put together.
NETWORKS = (
    "activations", "before_cells_0_8", "bidirectional_mixed_list", "deep_default", "encoder_decoder", "fused",
    "fused_modes", "fused_names", "gluon_cells", "gluon_layer", "language_model", "old_lstm", "one_step_zoneout",
    "shared", "tried_twice",
)  # fmt: skip
STORED = [flat_or_packed, one_a_gate, layer_by_layer, first_packed_last_not]


@pytest.mark.parametrize("store", STORED, ids=lambda store: store.__name__)
@pytest.mark.parametrize("symbol", NETWORKS)
def test_mxnet_to_portable_and_back(tmp_path, symbol, store):
    arrays = dict(OTHERS)
    for cell in found_in(symbol):
        arrays.update(store(cell))
    renames = {new: old for part in parts_of_symbol(symbol_of(symbol)) for old, new in part.renames.items()}
    arrays = {renames.get(name, name): array for name, array in arrays.items()}
    source = checkpoint(tmp_path / "source", arrays, symbol_of(symbol))
    there, back = tmp_path / "there.rnnx", tmp_path / "back" / "other-0001.params"
    back.parent.mkdir()
    rnnx.convert(source, there)
    rnnx.convert(there, back)
    assert_same(stored_in(back), stored_in(source))
    assert (back.parent / "other-symbol.json").read_bytes() == symbol_of(symbol)
    for cell, again in zip(found_in(symbol), rnnx.load_all(back).values(), strict=True):
        assert again.spec == cell.spec


@pytest.mark.parametrize("prefixed", [True, False])
@pytest.mark.parametrize("store", STORED[:3], ids=lambda store: store.__name__)
def test_there_and_back_without_a_symbol(tmp_path, store, prefixed):
    cell = networks.randomized(rnnx.FusedRNNCell(4, 2, "gru", bidirectional=True, prefix="gru_"), WIDTH, "float32")
    others = {name: array for name, array in OTHERS.items() if prefixed or not name.startswith("aux:")}
    source = checkpoint(tmp_path / "source", {**store(cell), **others}, prefixed=prefixed)
    given = rnnx.FusedRNNCell(4, 2, "gru", bidirectional=True, prefix="gru_") if store is flat_or_packed else None
    there, back = tmp_path / "there.rnnx", tmp_path / "back-0001.params"
    rnnx.convert(source, there, cell=given)
    assert_same(rnnx.load(there)[0].get_params(), cell.get_params())
    rnnx.convert(there, back)
    assert_same(stored_in(back), stored_in(source))
    assert not (tmp_path / "back-symbol.json").exists()


def test_mxnet_to_mxnet(tmp_path):
    arrays = {**found_in("language_model")[0].get_params(), **OTHERS}
    source = checkpoint(tmp_path / "source", arrays, symbol_of("language_model"))
    rnnx.convert(source, tmp_path / "copy-0001.params")
    assert_same(stored_in(tmp_path / "copy-0001.params"), stored_in(source))
    assert (tmp_path / "copy-symbol.json").read_bytes() == symbol_of("language_model")


def test_portable_to_mxnet_to_portable(tmp_path):
    cell = networks.randomized(sequential(rnnx.LSTMCell(4, "a_"), rnnx.GRUCell(2, "b_")), WIDTH, "float32")
    rnnx.save(tmp_path / "one.rnnx", cell, OTHERS)
    rnnx.convert(tmp_path / "one.rnnx", tmp_path / "model-0001.params")
    assert stored_in(tmp_path / "model-0001.params").keys() >= {"arg:a_i2h_f_weight", "arg:ids", "aux:bn_moving_mean"}
    again, extra = rnnx.load(tmp_path / "model-0001.params")
    assert again.spec == cell.spec
    assert_same(again.get_params(), cell.get_params())
    assert_same(extra, OTHERS)


def test_a_file_may_be_converted_onto_itself(tmp_path):
    cell = networks.randomized(rnnx.FusedRNNCell(4, prefix="lstm_"), WIDTH, "float32")
    path = tmp_path / "model.rnnx"
    rnnx.save(path, cell, OTHERS)
    rnnx.convert(path, path, unfuse=True, dtype="float64")
    again, extra = rnnx.load(path)
    assert_same(again.get_params(), {k: v.astype(np.float64) for k, v in cell.unfuse().get_params().items()})
    assert_same(extra, OTHERS)


def test_convert_returns_what_was_written(tmp_path):
    source = checkpoint(tmp_path, {**found_in("lstm")[0].get_params(), **OTHERS}, symbol_of("lstm"))
    written = rnnx.convert(source, tmp_path / "model.rnnx")
    assert isinstance(written, Archive)
    assert list(written.parts) == ["lstm_"]
    assert_same(dict(written.extra), OTHERS)
    assert written.files == {"symbol.json": symbol_of("lstm")}


# -- old gate orders and odd names ------------------------------------------------------------------------------------


def as_of_today(packed: np.ndarray) -> np.ndarray:
    """Rows of the gates i c f o as i f c o."""
    i, c, f, o = np.split(packed, 4)
    return np.concatenate([i, f, c, o])


def old_reference(arrays: Arrays, prefix: str, old: bool) -> reference.Network:
    own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    return reference.cell("lstm", {name: as_of_today(array) if old else array for name, array in own.items()})


@pytest.mark.parametrize(
    ("symbol", "layers"),
    [
        ("old_lstm", {"a_": True, "b_": False}),
        ("old_lstm_0_9", {"a_": True, "b_": False}),
        ("before_cells", {"l0_": True, "l1_": True}),
        ("before_cells_0_8", {"l0_": True, "l1_": True}),
    ],
)
@pytest.mark.parametrize("given", [False, True])
def test_gates_in_the_order_of_before_2017(tmp_path, symbol, layers, given):
    arrays = found_in(symbol)[0].get_params()
    source = checkpoint(tmp_path, arrays, symbol_of(symbol))
    tree = sequential(*(rnnx.LSTMCell(4, prefix) for prefix in layers)) if given else None
    cell, extra = rnnx.load(source, cell=tree)
    expected, _ = reference.run(
        reference.sequential(*(old_reference(arrays, prefix, old) for prefix, old in layers.items())), inputs_of()
    )
    assert extra == {}
    assert_all_close([outputs_of(cell, inputs_of())], [expected], 1e-5)
    rnnx.convert(source, tmp_path / "model.rnnx")
    assert_all_close([outputs_of(rnnx.load(tmp_path / "model.rnnx")[0], inputs_of())], [expected], 1e-5)


def test_weights_of_each_gate_have_no_order(tmp_path):
    cell = found_in("old_lstm")[0]
    source = checkpoint(tmp_path, one_a_gate(cell), symbol_of("old_lstm"))
    assert_same(rnnx.load(source)[0].get_params(), cell.get_params())


def test_without_the_symbol_the_order_is_taken_for_todays_and_said_so(tmp_path):
    arrays = found_in("old_lstm")[0].get_params()
    archive = read_archive(checkpoint(tmp_path, arrays))
    assert_same(archive.parts["a_+b_"].cell.get_params(), arrays)
    assert any("taken to stand i f c o" in line for line in archive.parts["a_+b_"].evidence)


def test_a_dropped_symbol_takes_its_order_of_gates_along(tmp_path):
    """What is left must mean the same without it."""
    source = checkpoint(tmp_path / "source", found_in("old_lstm")[0].get_params(), symbol_of("old_lstm"))
    rnnx.convert(source, tmp_path / "bare-0001.params", drop_files=True)
    assert not (tmp_path / "bare-symbol.json").exists()
    assert "arg:a_i2h_c_weight" in stored_in(tmp_path / "bare-0001.params")
    one, other = rnnx.load(source)[0], rnnx.load(tmp_path / "bare-0001.params")[0]
    assert_same(one.get_params(), other.get_params())


@pytest.mark.parametrize(("name", "stored"), [("lstm_0", "lstm_0parameters"), ("odd_", "odd_weights")])
def test_a_vector_whose_name_lacks_the_underscore_or_is_another(tmp_path, name, stored):
    arrays = {}
    for cell in found_in("fused_names"):
        arrays.update({key.replace("odd_parameters", "odd_weights"): w for key, w in cell.get_params().items()})
    source = checkpoint(tmp_path, arrays, symbol_of("fused_names"))
    cell, _ = rnnx.load(source, select=name)
    layers = reference.cut_flat(arrays[stored], "gru", WIDTH, 4, 1, 1)
    expected, _ = reference.run(reference.stack("gru", layers), inputs_of())
    assert_all_close([outputs_of(cell, inputs_of())], [expected], 1e-5)
    assert cell.explain(inputs_of()).kernels == ("numpy.gru",)


def test_a_name_that_is_wanted_for_another_weight(tmp_path):
    arrays = {name: array for cell in found_in("fused_names") for name, array in cell.get_params().items()}
    arrays["odd_weights"] = np.ones_like(arrays["odd_parameters"])
    source = checkpoint(tmp_path, arrays, symbol_of("fused_names"))
    with pytest.raises(WeightFormatError, match="weight 'odd_weights' is to be called 'odd_parameters', as another"):
        rnnx.load(source)


@pytest.mark.parametrize("mode", networks.FUSED_MODES)
def test_a_vector_and_its_parts_hold_the_same_numbers(tmp_path, mode):
    cell = networks.randomized(rnnx.FusedRNNCell(4, 2, mode, bidirectional=True, prefix="x_"), WIDTH, "float32")
    layers = reference.cut_flat(cell.get_params()["x_parameters"], mode, WIDTH, 4, 2, 2)
    expected, _ = reference.run(reference.stack(mode, layers), inputs_of())
    for store in (flat_or_packed, one_a_gate, layer_by_layer):
        source = checkpoint(tmp_path / store.__name__, store(cell))
        for given in (rnnx.FusedRNNCell(4, 2, mode, bidirectional=True, prefix="x_"), cell.unfuse()):
            again, _ = rnnx.load(source, cell=given)
            assert_all_close([outputs_of(again, inputs_of())], [expected], 1e-5)


# -- the cell that is given -------------------------------------------------------------------------------------------


def test_a_given_cell_is_loaded_in_place(tmp_path):
    cell = found_in("lstm")[0]
    source = checkpoint(tmp_path, {**cell.get_params(), **OTHERS}, symbol_of("lstm"))
    given = rnnx.LSTMCell(4)
    again, extra = rnnx.load(source, cell=given)
    assert again is given
    assert_same(given.get_params(), cell.get_params())
    assert_same(extra, OTHERS)


def test_a_given_cell_takes_its_own_of_several(tmp_path):
    arrays = {name: array for cell in found_in("forked") for name, array in cell.get_params().items()}
    source = checkpoint(tmp_path, arrays, symbol_of("forked"))
    cell, extra = rnnx.load(source, cell=rnnx.GRUCell(4, "left_"))
    assert cell.get_params().keys() | extra.keys() == arrays.keys()
    assert {name.split("_")[0] for name in extra} == {"trunk", "right"}


def test_a_users_own_cell_that_the_symbol_does_not_know(tmp_path):
    """The symbol's error says to give it as ``cell=``, and then it is no error."""
    leaky = rnnx.RNNCell(4, lambda x: np.maximum(x, 0.1 * x))
    networks.randomized(leaky, WIDTH, "float32")
    source = checkpoint(tmp_path, {**leaky.get_params(), **OTHERS}, symbol_of("leaky"))
    with pytest.raises(UnsupportedError, match=r"model-0007.params: .* pass it as cell="):
        rnnx.load(source)
    again, extra = rnnx.load(source, cell=rnnx.RNNCell(4, lambda x: np.maximum(x, 0.1 * x)))
    np.testing.assert_array_equal(outputs_of(again, inputs_of()), outputs_of(leaky, inputs_of()))
    assert_same(extra, OTHERS)


def test_a_users_own_cell_through_both_formats(tmp_path):
    cell = networks.randomized(sequential(PeepholeLSTM(4), rnnx.LSTMCell(2)), WIDTH, "float32")
    source = checkpoint(tmp_path, {**cell.get_params(), **OTHERS}, symbol_of("leaky"))
    tree = [sequential(PeepholeLSTM(4), rnnx.LSTMCell(2)) for _ in range(4)]
    rnnx.convert(source, tmp_path / "there.rnnx", cell=tree[0])
    rnnx.convert(tmp_path / "there.rnnx", tmp_path / "back-0001.params", cell=tree[1])
    for path, given in ((tmp_path / "there.rnnx", tree[2]), (tmp_path / "back-0001.params", tree[3])):
        assert_same(rnnx.load(path, cell=given)[0].get_params(), cell.get_params())
    assert_same(stored_in(tmp_path / "back-0001.params"), stored_in(source))
    assert (tmp_path / "back-symbol.json").read_bytes() == symbol_of("leaky")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (rnnx.LSTMCell(4, "LSTM_"), r"weight 'LSTM_i2h_weight' is missing \(nearest: 'lstm_i2h_weight'\)"),
        (rnnx.LSTMCell(5), r"weight 'lstm_\w+' has shape \(16.*\), expected \(20"),
        (rnnx.GRUCell(4, "lstm_"), r"weight 'lstm_\w+' has shape \(16.*\), expected \(12"),
        (rnnx.FusedRNNCell(4, prefix="lstm_"), "weight 'lstm_parameters' is missing"),
        (PeepholeLSTM(4, "lstm_"), "weight 'lstm_peephole_weight' is missing"),
        (rnnx.ResidualCell(rnnx.LSTMCell(4)), "a residual adds its inputs, 3 wide, to its base cell's outputs, 4 wide"),
    ],
    ids=lambda given: type(given).__name__,
)
@pytest.mark.parametrize("form", ["mxnet", "rnnx"])
def test_a_wrong_cell(tmp_path, given, message, form):
    cell = networks.randomized(rnnx.LSTMCell(4), WIDTH, "float32")
    path = checkpoint(tmp_path, cell.get_params())
    if form == "rnnx":
        message = message.replace("nearest: 'lstm_i2h_weight'", r"nearest: 'lstm_i2h_\w_weight'")
        message += r"|weight 'lstm_i2h_\w*weight' is missing|has shape \(4, 3\), expected \(5, 3\)"
        path = path.with_suffix(".rnnx")
        rnnx.save(path, cell)
    with pytest.raises((WeightFormatError, ShapeError), match=message) as caught:
        rnnx.load(path, cell=given)
    assert str(caught.value).startswith(f"{path}: ")
    assert given.get_params() == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("lstm_i2h_f_bias"), r"weight 'lstm_i2h_f_bias' is missing \(nearest: 'lstm_i2h_"),
        (
            lambda arrays: arrays.update(lstm_i2h_f_biases=arrays.pop("lstm_i2h_f_bias")),
            r"weight 'lstm_i2h_f_bias' is missing \(nearest: 'lstm_i2h_f_biases'\)",
        ),
        (lambda arrays: arrays.update(lstm_i2h_f_bias=np.ones(3, np.float32)), r"'lstm_i2h\w+' has shape \(1?[35],\)"),
        (
            lambda arrays: arrays.update(lstm_i2h_f_bias=np.ones(4)),
            "weights of one part have several dtypes: '.*' float32, 'lstm_i2h_f_bias' float64",
        ),
        (
            lambda arrays: arrays.update({name: array.astype(np.int8) for name, array in arrays.items()}),
            r"weight 'lstm_\w+' has dtype int8, expected one of float32, float64",
        ),
        (
            lambda arrays: arrays.update(lstm_h2h_bias=np.ones(16, np.float32)),
            "weights 'lstm_h2h_bias' and 'lstm_h2h_c_bias' hold the same gate or layer: keep one",
        ),
    ],
    ids=["missing", "another name", "another shape", "another dtype", "no floats", "twice"],
)
@pytest.mark.parametrize("given", [None, rnnx.LSTMCell(4)], ids=["found", "given"])
def test_weights_that_do_not_fit(tmp_path, change, message, given):
    arrays = one_a_gate(found_in("lstm")[0])
    change(arrays)
    path = checkpoint(tmp_path, arrays, symbol_of("lstm"))
    with pytest.raises(WeightFormatError, match=message) as caught:
        rnnx.load(path, cell=given)
    assert str(caught.value).startswith(f"{path}: ")
    assert given is None or given.get_params() == {}


def test_a_vector_and_its_layers_at_once(tmp_path):
    cell = found_in("fused")[0]
    path = checkpoint(tmp_path, {**cell.get_params(), **layer_by_layer(cell)}, symbol_of("fused"))
    with pytest.raises(WeightFormatError, match="weights 'lstm_l0_i2h_weight' and 'lstm_parameters' hold the same"):
        rnnx.load(path)


def test_another_cells_vector_is_no_hindrance(tmp_path):
    stack = networks.randomized(sequential(rnnx.LSTMCell(4, "a_"), rnnx.GRUCell(2, "b_")), WIDTH, "float32")
    arrays = {**stack.get_params(), "dec_parameters": np.ones(5, np.float32), "n_parameters": np.ones(1, np.float32)}
    cell, extra = rnnx.load(
        checkpoint(tmp_path, arrays), cell=sequential(rnnx.LSTMCell(4, "a_"), rnnx.GRUCell(2, "b_"))
    )
    assert_same(cell.get_params(), stack.get_params())
    assert extra.keys() == {"dec_parameters", "n_parameters"}


# -- choosing a part --------------------------------------------------------------------------------------------------


@pytest.fixture
def several(tmp_path: Path) -> Path:
    cells = found_in("encoder_decoder")
    arrays = {name: array for cell in cells for name, array in cell.get_params().items()}
    return checkpoint(tmp_path / "several", {**arrays, **OTHERS}, symbol_of("encoder_decoder"))


@pytest.fixture(params=["mxnet", "rnnx"])
def of_several(request, several) -> Path:
    if request.param == "mxnet":
        return several
    rnnx.convert(several, several.with_suffix(".rnnx"))
    return several.with_suffix(".rnnx")


def test_several_parts(of_several):
    cells = dict(zip(("encoder_", "decoder_"), found_in("encoder_decoder"), strict=True))
    loaded = rnnx.load_all(of_several)
    assert list(loaded) == list(cells)
    for name, cell in cells.items():
        one, extra = rnnx.load(of_several, select=name)
        assert one.spec == loaded[name].spec == cell.spec
        assert_same(one.get_params(), cell.get_params())
        assert_same(loaded[name].get_params(), cell.get_params())
        assert_same(extra, OTHERS)


def test_one_of_several_has_to_be_chosen(of_several):
    message = rf"{of_several.name} has several recurrent parts, 'encoder_', 'decoder_': give select=, or use load_all"
    with pytest.raises(WeightFormatError, match=message):
        rnnx.load(of_several)
    message = r"no recurrent part 'decoder' \(nearest: 'decoder_'\); it has 'encoder_', 'decoder_'"
    with pytest.raises(WeightFormatError, match=message):
        rnnx.load(of_several, select="decoder")


def test_nothing_recurrent(tmp_path):
    path = checkpoint(tmp_path, OTHERS, symbol_of("no_cells"))
    assert rnnx.load_all(path) == {}
    with pytest.raises(WeightFormatError, match=r"no recurrent weights were found in .*params: give the cell tree as"):
        rnnx.load(path)
    with pytest.raises(WeightFormatError, match="has no recurrent part 'x'; it has none"):
        rnnx.load(path, select="x")
    rnnx.convert(path, tmp_path / "model.rnnx")
    assert_same(dict(read_archive(tmp_path / "model.rnnx").extra), OTHERS)


# -- what the file cannot tell ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["tanh", "relu", "softsign"])
def test_an_activation_is_asked_for(tmp_path, activation):
    cell = networks.randomized(rnnx.RNNCell(4, activation, "cell_"), WIDTH, "float32")
    path = checkpoint(tmp_path, cell.get_params())
    with pytest.raises(WeightFormatError, match=r"params: part 'cell_' .* activation='tanh' or activation='relu'"):
        rnnx.load(path)
    again, _ = rnnx.load(path, activation=activation)
    expected, _ = reference.run(networks.reference_of(f"rnn_{activation}", cell), inputs_of())
    assert_all_close([outputs_of(again, inputs_of())], [expected], 1e-5)
    assert rnnx.load_all(path, activation=activation)["cell_"].spec == cell.spec
    rnnx.convert(path, tmp_path / "model.rnnx", activation=activation)
    assert rnnx.load(tmp_path / "model.rnnx")[0].spec == cell.spec


def test_an_activation_that_there_is_not(tmp_path):
    path = checkpoint(tmp_path, networks.randomized(rnnx.RNNCell(4, prefix="cell_"), WIDTH).get_params())
    with pytest.raises(UnsupportedError, match=r"no activation is called 'tan' \(nearest: 'tanh'\)"):
        rnnx.load(path, activation="tan")


def test_a_vector_without_a_symbol(tmp_path):
    cell = found_in("fused")[0]
    path = checkpoint(tmp_path, cell.get_params())
    with pytest.raises(WeightFormatError, match=r"params: 'lstm_parameters' is the vector of a fused cell, .* cell="):
        rnnx.load(path)
    given = rnnx.FusedRNNCell(4, 2, bidirectional=True, prefix="lstm_")
    assert_same(rnnx.load(path, cell=given)[0].get_params(), cell.get_params())


# -- where the weights live -------------------------------------------------------------------------------------------


def test_the_weights_go_to_the_backend_that_is_asked_for(of_several, other_backend):
    cell, extra = rnnx.load(of_several, select="decoder_", backend="tier1")
    assert all(other_backend.owns(value) for _, value in cell.params.items())
    assert_same(cell.get_params(), found_in("encoder_decoder")[1].get_params())
    assert all(isinstance(array, np.ndarray) for array in extra.values())


def test_a_given_cell_stays_on_its_backend(tmp_path, other_backend):
    given = rnnx.LSTMCell(4)
    given.initialize(WIDTH, backend="tier1")
    path = checkpoint(tmp_path, found_in("lstm")[0].get_params())
    cell, _ = rnnx.load(path, cell=given)
    assert all(other_backend.owns(value) for _, value in cell.params.items())
    assert_same(cell.get_params(), found_in("lstm")[0].get_params())


def test_a_backend_that_there_is_not(several):
    with pytest.raises(rnnx.BackendNotFoundError, match="no backend is called 'nowhere'"):
        rnnx.load(several, select="decoder_", backend="nowhere")


# -- other shapes and dtypes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["model.rnnx", "model-0001.params"])
@pytest.mark.parametrize("mode", networks.FUSED_MODES)
def test_fused_and_unfused(tmp_path, mode, form):
    cell = networks.randomized(
        rnnx.FusedRNNCell(4, 2, mode, bidirectional=True, dropout=0.25, prefix=f"{mode}_"), WIDTH, "float32"
    )
    expected = outputs_of(cell, inputs_of())
    rnnx.save(tmp_path / "fused.rnnx", cell, OTHERS)
    rnnx.convert(tmp_path / "fused.rnnx", tmp_path / "unfused.rnnx", unfuse=True)
    unfused, extra = rnnx.load(tmp_path / "unfused.rnnx")
    assert unfused.spec == cell.unfuse().spec
    np.testing.assert_array_equal(outputs_of(unfused, inputs_of()), expected)
    assert_same(extra, OTHERS)
    rnnx.convert(tmp_path / "unfused.rnnx", tmp_path / form, fuse=True)
    fused, extra = rnnx.load(tmp_path / form)
    assert fused.spec.kind == "FusedRNNCell"
    assert_same(fused.get_params(), cell.get_params())
    assert_same(extra, OTHERS)


def test_fused_cells_within_a_tree_are_unfused(tmp_path):
    inner = [rnnx.FusedRNNCell(2, prefix=f"{side}_") for side in "lr"]
    cell = networks.randomized(
        sequential(rnnx.BidirectionalCell(*inner), rnnx.ResidualCell(rnnx.FusedRNNCell(4, mode="gru", prefix="g_"))),
        WIDTH,
        "float32",
    )
    rnnx.save(tmp_path / "one.rnnx", cell)
    rnnx.convert(tmp_path / "one.rnnx", tmp_path / "other.rnnx", unfuse=True)
    again, _ = rnnx.load(tmp_path / "other.rnnx")
    assert "FusedRNNCell" not in {node.kind for node in again.spec.walk()}
    np.testing.assert_array_equal(outputs_of(again, inputs_of()), outputs_of(cell, inputs_of()))


def test_packed_weights_are_written_one_a_gate_when_the_tree_changes(tmp_path):
    """So that `mxnet.rnn` packs them for the fused cell as well as for the plain ones."""
    cell = networks.randomized(rnnx.FusedRNNCell(4, 2, prefix="lstm_"), WIDTH, "float32")
    source = checkpoint(tmp_path / "source", cell.unfuse().get_params(), prefixed=False)
    rnnx.convert(source, tmp_path / "fused-0001.params", fuse=True)
    assert_same(stored_in(tmp_path / "fused-0001.params"), one_a_gate(cell))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: sequential(rnnx.LSTMCell(4, "l0_"), rnnx.GRUCell(4, "l1_")), "the kind of cell differs"),
        (lambda: rnnx.ResidualCell(rnnx.LSTMCell(3, "l0_")), "a ResidualCell .* has no fused form"),
        (lambda: rnnx.LSTMCell(4, "lstm_"), "the cell with prefix 'lstm_' would have to be called 'l0_'"),
    ],
)
def test_a_tree_without_a_fused_form(tmp_path, build, message):
    rnnx.save(tmp_path / "model.rnnx", networks.randomized(build(), WIDTH))
    with pytest.raises(UnsupportedError, match=message):
        rnnx.convert(tmp_path / "model.rnnx", tmp_path / "fused.rnnx", fuse=True)
    assert not (tmp_path / "fused.rnnx").exists()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_the_dtype_of_weights(several, tmp_path, dtype):
    rnnx.convert(several, tmp_path / "cast-0001.params", dtype=dtype)
    before, after = stored_in(several), stored_in(tmp_path / "cast-0001.params")
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    weights = {name: array.astype(kind) for name, array in before.items() if "coder_" in name}
    assert_same(after, {**before, **weights})
    assert (tmp_path / "cast-symbol.json").read_bytes() == symbol_of("encoder_decoder")


@pytest.mark.parametrize("dtype", ["int8", "float", "flaot32", "<f4", "complex64"])
def test_a_dtype_that_weights_cannot_have(several, tmp_path, dtype):
    with pytest.raises(UnsupportedError, match=f"dtype is '{dtype}'; weights can be of float32, float64"):
        rnnx.convert(several, tmp_path / "cast.rnnx", dtype=dtype)
    assert not (tmp_path / "cast.rnnx").exists()


def test_a_symbol_does_not_survive_another_tree(tmp_path):
    path = checkpoint(tmp_path / "source", found_in("unfused_merged")[0].get_params(), symbol_of("unfused_merged"))
    for source in (path, tmp_path / "there.rnnx"):
        with pytest.raises(WeightFormatError, match=rf"symbol.json beside .*{source.name} .*drop_files=True"):
            rnnx.convert(source, tmp_path / "fused.rnnx", fuse=True)
        assert not (tmp_path / "fused.rnnx").exists()
        rnnx.convert(path, tmp_path / "there.rnnx")
    rnnx.convert(path, tmp_path / "fused-0001.params", fuse=True, drop_files=True)
    fused, _ = rnnx.load(tmp_path / "fused-0001.params", activation="relu")
    assert fused.spec.kind == "FusedRNNCell"
    assert_same(fused.unfuse().get_params(), found_in("unfused_merged")[0].get_params())
    assert not (tmp_path / "fused-symbol.json").exists()


def test_a_symbol_survives_what_changes_no_tree(tmp_path):
    path = checkpoint(tmp_path / "source", found_in("fused")[0].get_params(), symbol_of("fused"))
    rnnx.convert(path, tmp_path / "copy-0001.params", fuse=True)
    assert_same(stored_in(tmp_path / "copy-0001.params"), stored_in(path))
    assert (tmp_path / "copy-symbol.json").read_bytes() == symbol_of("fused")


def test_fuse_and_unfuse_at_once(several, tmp_path):
    with pytest.raises(UnsupportedError, match="fuse and unfuse undo each other"):
        rnnx.convert(several, tmp_path / "x.rnnx", fuse=True, unfuse=True)


# -- formats ----------------------------------------------------------------------------------------------------------


def test_the_format_is_told_by_content_and_ending_or_by_name(several, tmp_path):
    odd = tmp_path / "weights.bin"
    rnnx.convert(several, odd, to="rnnx", from_="mxnet")
    assert list(rnnx.load_all(odd)) == ["encoder_", "decoder_"]
    rnnx.convert(odd, tmp_path / "again.dat", to="mxnet")
    assert_same(stored_in(tmp_path / "again.dat"), stored_in(several))
    for ending, at_eight in ((".rnnx", b"{"), (".safetensors", b"{"), (".params", b"\0"), (".nd", b"\0")):
        rnnx.convert(odd, tmp_path / f"x{ending}")
        assert (tmp_path / f"x{ending}").read_bytes()[8:9] == at_eight


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "caffe"}, "no format is called 'caffe'; there are .*mxnet.*, rnnx"),
        ({"to": "mxnte"}, r"no format is called 'mxnte' \(nearest: 'mxnet'\)"),
        ({"from_": "caffe"}, "no format is called 'caffe'; there are"),
        ({"from_": "rnnx"}, "model-0007.params cannot be read as a safetensors file: the header is"),
        (
            {"to": None},
            r"the ending of .*out.bin tells no format: use one of .*.params, .nd,.* .rnnx, .*, or to=",
        ),
    ],
)
def test_formats_that_are_wrong(several, tmp_path, options, message):
    with pytest.raises(WeightFormatError, match=message):
        rnnx.convert(several, tmp_path / "out.bin", **{"to": "rnnx", **options})
    assert not (tmp_path / "out.bin").exists()


def test_a_portable_file_is_no_checkpoint(tmp_path):
    rnnx.save(tmp_path / "model.rnnx", networks.randomized(rnnx.GRUCell(4), WIDTH))
    with pytest.raises(WeightFormatError, match=r"model.rnnx: header, byte 0: magic number: expected 12 01"):
        rnnx.convert(tmp_path / "model.rnnx", tmp_path / "x.rnnx", from_="mxnet")


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b'{"nodes": []}', b"a" * 100])
def test_a_foreign_file(tmp_path, content):
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    message = r"model.bin is of no known format \(.*mxnet.*, rnnx.*\); it begins with b"
    with pytest.raises(WeightFormatError, match=message) as caught:
        rnnx.load(path)
    assert repr(content[:8]) in str(caught.value)


def test_a_directory_and_nothing(tmp_path):
    with pytest.raises(OSError, match=tmp_path.name):
        rnnx.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"missing.rnnx"):
        rnnx.load(tmp_path / "missing.rnnx")


@pytest.mark.parametrize("symbol", [b"", b"{", b"[]", b'{"nodes": 3}', b"\xff"])
def test_a_damaged_symbol(tmp_path, symbol):
    path = checkpoint(tmp_path, found_in("lstm")[0].get_params(), symbol)
    with pytest.raises(WeightFormatError, match=r"model-0007.params: symbol file: "):
        rnnx.load(path)
    with pytest.raises(WeightFormatError, match="symbol file: "):
        rnnx.load(path, cell=rnnx.LSTMCell(4))


def test_a_symbol_with_more_layers_than_anyone_has(tmp_path):
    symbol = symbol_of("fused").replace(b'"num_layers":"2"', b'"num_layers":"1000000000"')
    assert symbol != symbol_of("fused")
    path = checkpoint(tmp_path, found_in("fused")[0].get_params(), symbol)
    with pytest.raises(WeightFormatError, match="params: the cell tree has 1000000000 layers, more than the 4096"):
        rnnx.load(path)


# -- what has no place ------------------------------------------------------------------------------------------------


def record(name: str, shape: tuple[int, ...], code: int, data: bytes) -> bytes:
    """A file of MXNet's with one array, such as `write_ndarrays` would refuse to write."""
    head = struct.pack("<QQQIii", 0x112, 0, 1, 0xF993FAC9, 0, len(shape)) + struct.pack(f"<{len(shape)}q", *shape)
    return head + struct.pack("<iii", 1, 0, code) + data + struct.pack("<QQ", 1, len(name)) + name.encode()


@pytest.mark.parametrize(
    ("shape", "code", "data", "expected", "message"),
    [
        ((), 0, struct.pack("<f", 2.5), np.array(2.5, np.float32), r"'arg:x'\) has 0 dimensions, .* reshape it"),
        ((2,), 9, b"\1\0\2\0", np.array([1, 2], np.uint16), r"'arg:x'\) has dtype uint16, .* convert it to one of"),
        ((2,), 12, b"\x80\x3f\0\x40", np.array([1, 2], ml_dtypes.bfloat16), None),
    ],
    ids=["no dimensions", "uint16", "bfloat16"],
)
def test_an_array_that_mxnet_cannot_load(tmp_path, shape, code, data, expected, message):
    path, there, back = tmp_path / "odd-0001.params", tmp_path / "there.rnnx", tmp_path / "back-0001.params"
    path.write_bytes(record("arg:x", shape, code, data))
    rnnx.convert(path, there)
    assert_same(dict(read_archive(there).extra), {"x": expected})
    if message is None:
        rnnx.convert(there, back)
        assert back.read_bytes() == path.read_bytes()
    else:
        with pytest.raises(UnsupportedError, match=message):
            rnnx.convert(there, back)
        assert not back.exists()


def test_a_file_that_no_checkpoint_has(tmp_path):
    write_portable(tmp_path / "model.rnnx", {"file:vocab.txt": np.frombuffer(b"a b c", np.uint8)}, {})
    assert read_archive(tmp_path / "model.rnnx").files == {"vocab.txt": b"a b c"}
    with pytest.raises(WeightFormatError, match=r"an MXNet checkpoint has no place for the file 'vocab.txt'"):
        rnnx.convert(tmp_path / "model.rnnx", tmp_path / "model-0001.params")


def test_arrays_without_names(tmp_path):
    write_ndarrays(tmp_path / "x.params", [], [np.ones(2, np.float32)])
    with pytest.raises(WeightFormatError, match=r"x.params holds 1 arrays without names, of which nothing can be told"):
        rnnx.load(tmp_path / "x.params")


def test_an_argument_that_is_called_as_auxiliary_states_are(tmp_path):
    write_ndarrays(tmp_path / "x.params", ["arg:aux:m", "aux:m"], [np.ones(2, np.float32), np.zeros(2, np.float32)])
    with pytest.raises(WeightFormatError, match=r"x.params holds an argument called arg:aux:…"):
        rnnx.load(tmp_path / "x.params")


def test_parts_that_share_a_name_and_no_weights(tmp_path):
    """As when one file's parts are put together with another's."""
    one, other = (networks.randomized(rnnx.GRUCell(4), WIDTH, seed=seed) for seed in (1, 2))
    rnnx.save(tmp_path / "one.rnnx", one)
    archive = read_archive(tmp_path / "one.rnnx")
    both = Archive({"a": archive.parts["gru_"], "b": Part.of(other)}, {})
    for target in (MXNetFormat(), PortableFormat()):
        with pytest.raises(WeightFormatError, match="two parts would have a tensor called 'gru_i2h_r_weight' each"):
            target.write(tmp_path / "both", both, Accepted())
    assert not (tmp_path / "both").exists()


# -- a real checkpoint ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["mxnet", "without its symbol", "rnnx", "unfused"])
def test_what_mxnet_trained_and_computed(tmp_path, form):
    path = tmp_path / "model.rnnx"
    if form == "mxnet":
        path = SHERLOCK
    elif form == "without its symbol":
        path = Path(shutil.copy(SHERLOCK, tmp_path / "alone-0010.params"))
    else:
        rnnx.convert(SHERLOCK, path, unfuse=form == "unfused", drop_files=form == "unfused")
    cell, extra = rnnx.load(path)
    judged = safetensors.numpy.load_file(SHERLOCK.with_suffix(".reference.safetensors"))
    begin = [judged["begin_state_0"], judged["begin_state_1"]]
    if form == "unfused":
        begin = networks.interleaved(begin)
    assert cell.explain(judged["inputs"]).kernels == ("numpy.lstm",)
    outputs, _ = cell.unroll(None, judged["inputs"], begin, merge_outputs=True)
    assert_all_close([outputs], [judged["outputs"]], 1e-5)
    assert extra.keys() == {"embed_weight", "pred_weight", "pred_bias"}
    np.testing.assert_array_equal(extra["embed_weight"][judged["tokens"]], judged["inputs"])


def test_what_mxnet_trained_comes_back(tmp_path):
    rnnx.convert(SHERLOCK, tmp_path / "model.rnnx")
    rnnx.convert(tmp_path / "model.rnnx", tmp_path / "sherlock-0010.params")
    assert_same(stored_in(tmp_path / "sherlock-0010.params"), stored_in(SHERLOCK))
    symbol = SHERLOCK.with_name("sherlock-symbol.json")
    assert (tmp_path / "sherlock-symbol.json").read_bytes() == symbol.read_bytes()

"""Keras files: read, written and read again, with Keras itself as the judge; and what is refused of them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

h5py = pytest.importorskip("h5py", reason="Keras keeps weights in HDF5 files")
pytest.importorskip("tensorflow", reason="Keras computes on it")
keras = pytest.importorskip("keras", reason="Keras judges its files")

import networks  # noqa: E402
import rnnx  # noqa: E402
from networks import same_bits, sequential  # noqa: E402
from rnnx.archive import Accepted, Archive, Part  # noqa: E402
from rnnx.errors import RNNXError, UnsupportedError, WeightFormatError  # noqa: E402
from rnnx.files import read_archive  # noqa: E402
from rnnx.formats.keras import KerasFormat  # noqa: E402
from rnnx.formats.keras.files import read_keras  # noqa: E402
from rnnx.formats.keras.hdf5 import read_tree  # noqa: E402
from rnnx.found import Assumptions  # noqa: E402
from rnnx.fusion import all_unfused  # noqa: E402
from rnnx.weights.portable import read_portable  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(keras|tensorflow|google).*"),
    pytest.mark.filterwarnings("ignore:.*__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

L = keras.layers
WIDTH, UNITS = 3, 5
ENDINGS = (".keras", ".weights.h5", ".h5")


def filled(model: Any, seed: int = 0) -> Any:
    """The model with every weight random, and none zero."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.1, 0.9, w.shape) * rng.choice([-1, 1], w.shape) for w in model.get_weights()])
    return model


def model_of(*layers: Any, name: str = "net") -> Any:
    return filled(keras.Sequential([keras.Input((None, WIDTH)), *layers], name=name))


def saved(model: Any, path: Path) -> Path:
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        model.save(path)
    return path


def inputs_of(width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(2, 6, width)).astype(np.float32)


def outputs_of(cell: rnnx.BaseRNNCell, inputs: np.ndarray | None = None) -> np.ndarray:
    return networks.batch_major(cell.unroll(None, inputs_of() if inputs is None else inputs, merge_outputs=True)[0])


def assert_close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-5, atol=1e-5)


def archive_of(path: Path, **assume: Any) -> Archive:
    return read_archive(path, None, Assumptions(**assume), "keras")


def arrays_in(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a Keras file, read by h5py alone."""
    found: dict[str, np.ndarray] = {}
    opened = io.BytesIO(zipfile.ZipFile(path).read("model.weights.h5")) if path.suffix == ".keras" else path
    with h5py.File(opened) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def attributes_in(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    opened = io.BytesIO(zipfile.ZipFile(path).read("model.weights.h5")) if path.suffix == ".keras" else path

    def keep(name: str, item: Any) -> None:
        found[name] = {key: np.asarray(value).tolist() for key, value in item.attrs.items()}

    with h5py.File(opened) as file:
        keep("", file)
        file.visititems(keep)
    return found


def tampered(path: Path, target: Path, **changes: Any) -> Path:
    """A copy of a .keras file, the config's text replaced, or files added."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                content = changes.pop("config", lambda same: same)(content)
            copy.writestr(name, content)
        for name, content in changes.items():
            copy.writestr(name, content)
    return target


# -- one layer --------------------------------------------------------------------------------------------------------

LAYERS = {
    "lstm": lambda **own: L.LSTM(UNITS, **own),
    "lstm without bias": lambda **own: L.LSTM(UNITS, use_bias=False, **own),
    "gru": lambda **own: L.GRU(UNITS, **own),
    "gru reset before": lambda **own: L.GRU(UNITS, reset_after=False, **own),
    "gru without bias": lambda **own: L.GRU(UNITS, use_bias=False, **own),
    "simple rnn": lambda **own: L.SimpleRNN(UNITS, **own),
    "simple rnn relu": lambda **own: L.SimpleRNN(UNITS, activation="relu", use_bias=False, **own),
    "simple rnn sigmoid": lambda **own: L.SimpleRNN(UNITS, activation="sigmoid", **own),
    "simple rnn softplus": lambda **own: L.SimpleRNN(UNITS, activation="softplus", **own),
    "simple rnn softsign": lambda **own: L.SimpleRNN(UNITS, activation="softsign", **own),
    "cell": lambda **own: L.RNN(L.LSTMCell(UNITS), **own),
    "cells": lambda **own: L.RNN(L.StackedRNNCells([L.LSTMCell(4), L.GRUCell(UNITS), L.SimpleRNNCell(4)]), **own),
}


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer(tmp_path, kind, ending):
    model = model_of(LAYERS[kind](return_sequences=True, name="encoder.first"))
    cell, extra = rnnx.load(saved(model, tmp_path / f"model{ending}"))
    assert extra == {}
    assert_close(outputs_of(cell), model(inputs_of()))
    assert list(rnnx.load_all(tmp_path / f"model{ending}")) == ["encoder.first"]


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("kind", LAYERS)
def test_both_directions(tmp_path, kind, ending):
    model = model_of(L.Bidirectional(LAYERS[kind](return_sequences=True), name="both"))
    cell, _ = rnnx.load(saved(model, tmp_path / f"model{ending}"))
    assert cell.spec.kind == "BidirectionalCell"
    assert_close(outputs_of(cell), model(inputs_of()))


@pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind != "gru without bias"])
@pytest.mark.parametrize("directions", [1, 2])
def test_weights_without_a_config(tmp_path, kind, directions):
    layer = LAYERS[kind](return_sequences=True, name="first")
    model = model_of(layer if directions == 1 else L.Bidirectional(layer, name="first"))
    activation = {"softplus": "softrelu"}.get(kind.split()[-1], kind.split()[-1])
    activation = activation if kind.startswith("simple rnn ") else "tanh"
    path = saved(model, tmp_path / "x.weights.h5")
    if kind == "cells" and directions == 2:
        with pytest.raises(UnsupportedError, match="layer 'first' has 3 forward and 3 backward cells"):
            rnnx.load(path, activation=activation)
        return
    archive = archive_of(path, activation=activation)
    ((name, part),) = archive.parts.items()
    assert (name, archive.extra) == ("first", {})
    assert_close(outputs_of(part.cell), model(inputs_of()))


def test_what_weights_do_not_tell(tmp_path):
    model = model_of(LAYERS["gru without bias"](return_sequences=True))
    path = saved(model, tmp_path / "x.weights.h5")
    with pytest.raises(WeightFormatError, match=r"part 'gru\w*' is a GRU without biases, .* rnnx.GRUCell\(5, "):
        rnnx.load(path)
    cell, _ = rnnx.load(path, cell=rnnx.GRUCell(UNITS, "g_"))
    assert_close(outputs_of(cell), model(inputs_of()))
    model = model_of(L.SimpleRNN(UNITS, activation="relu", return_sequences=True, name="plain"))
    path = saved(model, tmp_path / "y.weights.h5")
    with pytest.raises(WeightFormatError, match=r"part 'plain' is of plain recurrent cells, .* give it as activation="):
        rnnx.load(path)
    cell, _ = rnnx.load(path, cell=rnnx.RNNCell(UNITS, "relu"))
    assert_close(outputs_of(cell), model(inputs_of()))
    with pytest.raises(WeightFormatError, match="the cell given has 2 plain cells"):
        rnnx.load(path, cell=sequential(rnnx.RNNCell(UNITS), rnnx.RNNCell(UNITS, prefix="other_")))


def test_a_given_tree_where_the_file_has_no_cells(tmp_path):
    path = saved(model_of(L.Dense(2)), tmp_path / "model.keras")
    with pytest.raises(WeightFormatError, match="no recurrent weights were found, of which the cell given"):
        rnnx.load(path, cell=rnnx.LSTMCell(UNITS))


# -- larger models ----------------------------------------------------------------------------------------------------


def large() -> Any:
    """An encoder in a model, a decoder that reads its states, a stack, and weights of many kinds."""
    inner = keras.Input((None, 4))
    hidden = L.GRU(6, return_sequences=True, name="low")(inner)
    hidden = L.Dropout(0.25, name="drop")(hidden)
    encoder = keras.Model(inner, L.LSTM(5, return_sequences=True, name="high")(hidden), name="encoder")
    tokens = keras.Input((None,), name="tokens")
    hidden = L.Embedding(11, 4, name="embedding")(tokens)
    hidden = L.BatchNormalization()(encoder(hidden))
    hidden, *states = L.LSTM(4, return_sequences=True, return_state=True, name="states")(hidden)
    hidden = L.LSTM(4, return_sequences=True, name="from_states")(hidden, initial_state=states)
    hidden = L.Concatenate()([hidden, L.LSTM(3, return_sequences=True, stateful=False, name="aside")(hidden)])
    outputs = L.TimeDistributed(L.Dense(2), name="each")(hidden)
    return filled(keras.Model(tokens, outputs, name="large"))


def with_optimizer(model: Any) -> Any:
    """The model with slots of an optimizer, which are shaped as weights are."""
    model.compile("adam", keras.losses.MeanSquaredError())
    model.optimizer.build(model.trainable_variables)
    for number, slot in enumerate(model.optimizer.variables[2:]):
        slot.assign(np.full(slot.shape, number + 0.5))
    return model


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_large_model(tmp_path, ending):
    model = large()
    path = saved(model, tmp_path / f"model{ending}")
    archive = archive_of(path)
    expected = {"encoder/low+encoder/high", "states", "from_states", "aside"}
    if ending != ".weights.h5":
        assert set(archive.parts) == expected
        spec = archive.parts["encoder/low+encoder/high"].spec
        assert [cell.kind for cell in spec.children] == ["GRUCell", "DropoutCell", "LSTMCell"]
        hidden = model.get_layer("embedding")(np.arange(8).reshape(2, 4))
        cell = archive.parts["encoder/low+encoder/high"].cell
        assert_close(outputs_of(cell, np.asarray(hidden)), model.get_layer("encoder")(hidden))
    else:
        assert set(archive.parts) == {"encoder/low", "encoder/high", "states", "from_states", "aside"}
    for name in ("states", "from_states", "aside"):
        part, layer = archive.parts[name], model.get_layer(name)
        width = layer.weights[0].shape[0]
        judged = layer(inputs_of(width))
        assert_close(outputs_of(part.cell, inputs_of(width)), judged[0] if name == "states" else judged)


@pytest.mark.parametrize("ending", ENDINGS)
def test_there_and_back(tmp_path, ending):
    """All but the bytes of the container: arrays, optimizer included, attributes, config."""
    model = with_optimizer(large())
    path = saved(model, tmp_path / f"model{ending}")
    rnnx.convert(path, tmp_path / "there.rnnx", from_="keras")
    back = tmp_path / f"back{ending}"
    rnnx.convert(tmp_path / "there.rnnx", back)
    same_bits(arrays_in(path), arrays_in(back))
    assert attributes_in(path) == attributes_in(back)
    if ending == ".keras":
        for name in ("config.json", "metadata.json"):
            assert zipfile.ZipFile(path).read(name) == zipfile.ZipFile(back).read(name)
    tokens = np.arange(8).reshape(2, 4)
    if ending == ".weights.h5":
        again = with_optimizer(large())
        again.load_weights(back)
    else:
        again = keras.models.load_model(back)
        judged = keras.models.load_model(path)
        for one, other in zip(judged.optimizer.variables, again.optimizer.variables, strict=True):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    np.testing.assert_array_equal(again(tokens), model(tokens))


@pytest.mark.parametrize("ending", ENDINGS)
def test_tens_of_layers_are_not_mixed_up(tmp_path, ending):
    layers = [L.LSTM(4 + number % 2, return_sequences=True, name=f"n{number}") for number in range(12)]
    model = model_of(*layers)
    path = saved(model, tmp_path / f"model{ending}")
    if ending == ".weights.h5":  # which layer reads which is told by a config only
        assert list(archive_of(path).parts) == [f"n{number}" for number in range(12)]
    cell, _ = rnnx.load(path, stack=True)
    assert_close(outputs_of(cell), model(inputs_of()))


def test_a_model_of_the_users_own(tmp_path):
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="own")
            self.enc = L.GRU(4, return_sequences=True, name="reader")
            self.both = L.Bidirectional(L.LSTM(5, return_sequences=True), name="writer")
            self.head = L.Dense(2)

        def call(self, inputs: Any) -> Any:
            return self.head(self.both(self.enc(inputs)))

    model = Own()
    model(inputs_of())
    filled(model)
    for ending in (".weights.h5", ".keras"):
        path = saved(model, tmp_path / f"own{ending}")
        archive = archive_of(path)
        assert set(archive.parts) == {"reader", "writer"}
        assert_close(outputs_of(archive.parts["reader"].cell), model.enc(inputs_of()))
        assert len(archive.extra) == 2


def test_wrapped_and_nested_sequential_models(tmp_path):
    inner = keras.Sequential([L.LSTM(4, return_sequences=True), L.GRU(5, return_sequences=True)], name="inner")
    for ending in (".keras", ".h5"):
        model = model_of(inner, L.LSTM(4, return_sequences=True, name="after"))
        parts = archive_of(saved(model, tmp_path / f"model{ending}")).parts
        assert len(parts) == 2
        first, second = parts.values()
        assert_close(outputs_of(second.cell, outputs_of(first.cell)), model(inputs_of()))
    video = filled(keras.Sequential([keras.Input((2, 6, WIDTH)), L.TimeDistributed(L.LSTM(4, return_sequences=True))]))
    (part,) = archive_of(saved(video, tmp_path / "video.keras")).parts.values()
    assert_close(outputs_of(part.cell), video(np.stack([inputs_of()] * 2, 1))[:, 0])


def as_tf_keras(path: Path, target: Path, weights_only: bool) -> Path:
    """A legacy file with the names that tf_keras writes: ``:0`` behind each, and bytes of fixed length."""
    with h5py.File(path) as old, h5py.File(target, "w") as new:
        root = new if weights_only else new.create_group("model_weights")
        if not weights_only:
            new.attrs["model_config"] = np.bytes_(old.attrs["model_config"].encode())
        layers = list(old["model_weights"].attrs["layer_names"])
        root.attrs["layer_names"] = np.array([name.encode() for name in layers])
        for layer in layers:
            names = list(old["model_weights"][layer].attrs["weight_names"])
            group = root.create_group(layer)
            group.attrs["weight_names"] = np.array([f"{name}:0".encode() for name in names], np.bytes_)
            for name in names:
                group[f"{name}:0"] = old["model_weights"][layer][name][()]
    return target


@pytest.mark.parametrize("weights_only", [False, True])
def test_names_as_tf_keras_writes_them(tmp_path, weights_only):
    model = model_of(
        L.Bidirectional(L.LSTM(4, return_sequences=True), name="both"),
        L.RNN(L.StackedRNNCells([L.LSTMCell(4), L.GRUCell(6)]), return_sequences=True, name="cells"),
        L.GRU(7, return_sequences=True, reset_after=False, name="last"),
    )
    path = as_tf_keras(saved(model, tmp_path / "new.h5"), tmp_path / "old.h5", weights_only)
    cell, _ = rnnx.load(path, stack=True)
    assert_close(outputs_of(cell), model(inputs_of()))
    rnnx.convert(path, tmp_path / "there.rnnx", from_="keras")
    rnnx.convert(tmp_path / "there.rnnx", tmp_path / "back.h5")
    same_bits(arrays_in(path), arrays_in(tmp_path / "back.h5"))
    assert attributes_in(path) == {
        name: {key: value if key != "model_config" else value.encode() for key, value in own.items()}
        for name, own in attributes_in(tmp_path / "back.h5").items()
    }
    again = model_of(*[type(layer).from_config(layer.get_config()) for layer in model.layers])
    again.load_weights(tmp_path / "back.h5")
    np.testing.assert_array_equal(again(inputs_of()), model(inputs_of()))


# -- files made anew --------------------------------------------------------------------------------------------------

TREES = {
    "lstm": lambda: rnnx.LSTMCell(UNITS, "encoder/lstm_"),
    "gru": lambda: rnnx.GRUCell(UNITS),
    "gru reset before": lambda: rnnx.GRUCell(UNITS, reset_after=False),
    **{
        name: lambda name=name: rnnx.RNNCell(UNITS, name)
        for name in ("tanh", "relu", "sigmoid", "softrelu", "softsign")
    },
    "fused": lambda: rnnx.FusedRNNCell(UNITS, 3, "gru", bidirectional=True, dropout=0.5, prefix="deep.net_"),
    "stack": lambda: sequential(
        rnnx.LSTMCell(4, "_"),
        rnnx.DropoutCell(0.5, "drop_"),
        rnnx.ZoneoutCell(rnnx.GRUCell(6, "ä/b_"), 0.2, 0.1),
        rnnx.BidirectionalCell(rnnx.LSTMCell(3, "f_"), rnnx.GRUCell(3, prefix="b_")),
        rnnx.BidirectionalCell(rnnx.RNNCell(4, prefix="c_"), rnnx.RNNCell(4, prefix="d_")),
        rnnx.LSTMCell(4, "drop__"),
    ),
}
EXTRA = {
    "decoder.weight": np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3),
    "a/b%2F": np.array(3, np.int64),
    ".": np.array([True, False]),
    "vars": np.zeros((0, 2), np.uint8),
    "layers": np.arange(3, dtype=np.float16),
}


def without_recurrent_biases(cell: rnnx.BaseRNNCell) -> rnnx.BaseRNNCell:
    """The cell with its second biases zero where Keras has one a gate."""
    weights = cell.unpack_weights(cell.get_params())
    for leaf in rnnx.BaseRNNCell.from_spec(all_unfused(cell.spec)).leaves():
        if not leaf.spec.fields.get("reset_after"):
            weights.update(
                {
                    name: np.zeros_like(weights[name])
                    for name in leaf.gate_shapes(1)
                    if "h2h" in name and name.endswith("_bias")
                }
            )
    cell.load_params(weights)
    return cell


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", TREES)
def test_a_tree_from_elsewhere(tmp_path, name, ending):
    cell = without_recurrent_biases(networks.randomized(TREES[name](), WIDTH, "float32"))
    rnnx.save(tmp_path / "model.rnnx", cell, EXTRA)
    path = tmp_path / f"model{ending}"
    rnnx.convert(tmp_path / "model.rnnx", path)
    if ending == ".weights.h5":
        rnnx.convert(tmp_path / "model.rnnx", tmp_path / "model.keras")
        model = filled(keras.models.load_model(tmp_path / "model.keras"), 7)
        model.load_weights(path)
    else:
        model = keras.models.load_model(path)
    assert_close(model(inputs_of()), outputs_of(cell))
    archive = archive_of(path)
    (part,) = archive.parts.values()
    assert part.spec == cell.spec
    same_bits(part.weights, cell.unpack_weights(cell.get_params()))
    same_bits(archive.extra, EXTRA)
    rnnx.convert(path, tmp_path / f"again{ending}", from_="keras")
    given, _ = rnnx.load(path, cell=TREES[name]())
    same_bits(given.unpack_weights(given.get_params()), part.weights)
    same_bits(arrays_in(path), arrays_in(tmp_path / f"again{ending}"))


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_a_file_that_keras_saves_again(tmp_path, ending):
    """What rnnx knew of the tree is gone, and layers alone tell it."""
    cell = networks.randomized(rnnx.FusedRNNCell(UNITS, 2, "gru", bidirectional=True), WIDTH, "float32")
    rnnx.save(tmp_path / "model.rnnx", cell)
    rnnx.convert(tmp_path / "model.rnnx", tmp_path / f"model{ending}")
    saved(keras.models.load_model(tmp_path / f"model{ending}"), tmp_path / f"again{ending}")
    again, _ = rnnx.load(tmp_path / f"again{ending}")
    np.testing.assert_array_equal(outputs_of(again), outputs_of(cell))


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
@pytest.mark.parametrize("ending", [".keras", ".weights.h5"])
def test_other_dtypes(tmp_path, dtype, ending):
    cell = networks.randomized(rnnx.GRUCell(UNITS), WIDTH, "float32")
    rnnx.save(tmp_path / "model.rnnx", cell)
    path = tmp_path / f"model{ending}"
    rnnx.convert(tmp_path / "model.rnnx", path, dtype=dtype)
    if ending == ".keras":
        model = keras.models.load_model(path)
        assert {weight.dtype for weight in model.weights} == {dtype}
        saved(model, path)
    (part,) = archive_of(path).parts.values()
    assert {array.dtype.name for array in part.weights.values()} == {dtype}


def test_two_biases_become_one_if_that_is_accepted(tmp_path):
    cell = networks.randomized(rnnx.LSTMCell(UNITS), WIDTH, "float32")
    rnnx.save(tmp_path / "model.rnnx", cell)
    with pytest.raises(WeightFormatError, match=r"a Keras file has one bias a gate, .* merge_biases=True"):
        rnnx.convert(tmp_path / "model.rnnx", tmp_path / "model.keras")
    assert not (tmp_path / "model.keras").exists()
    rnnx.convert(tmp_path / "model.rnnx", tmp_path / "model.keras", merge_biases=True)
    assert_close(keras.models.load_model(tmp_path / "model.keras")(inputs_of()), outputs_of(cell))


def test_a_description_that_does_not_fit_is_passed_over(tmp_path):
    rnnx.save(tmp_path / "model.rnnx", networks.randomized(rnnx.GRUCell(UNITS), WIDTH, "float32"))
    rnnx.convert(tmp_path / "model.rnnx", tmp_path / "model.weights.h5")
    for text in ("[]", "{", '{"x": 3}', json.dumps({"x": rnnx.LSTMCell(UNITS).spec.to_dict()})):
        with h5py.File(tmp_path / "model.weights.h5", "a") as file:
            file["rnnx_extra"].attrs["parts"] = text
        assert list(archive_of(tmp_path / "model.weights.h5").parts) == ["gru"]


# -- what cannot be written -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: rnnx.ResidualCell(rnnx.LSTMCell(WIDTH, "l_")),
            "no layer for the ResidualCell with prefix 'l_': .* Write ONNX or the portable file",
        ),
        (
            lambda: rnnx.BidirectionalCell(sequential(rnnx.LSTMCell(3, "a_"), rnnx.LSTMCell(3, "b_")), rnnx.GRUCell(3)),
            "no layer for the BidirectionalCell with prefix 'a_', 'b_', 'gru_': it runs whole stacks side by side",
        ),
        (
            lambda: rnnx.BidirectionalCell(rnnx.LSTMCell(3, "a_"), rnnx.LSTMCell(4, "b_")),
            "prefix 'a_', 'b_': Keras takes both directions to be of the same width",
        ),
        (
            lambda: (lambda one: sequential(one, rnnx.LSTMCell(WIDTH, "b_", one.params)))(rnnx.LSTMCell(WIDTH, "a_")),
            "LSTMCell with prefix 'b_': it shares its weights with another",
        ),
    ],
)
def test_trees_that_keras_has_no_layers_for(tmp_path, build, message):
    rnnx.save(tmp_path / "model.rnnx", networks.randomized(build(), WIDTH, "float32"))
    with pytest.raises(UnsupportedError, match=message):
        rnnx.convert(tmp_path / "model.rnnx", tmp_path / "model.keras")
    assert not (tmp_path / "model.keras").exists()


def test_several_parts_and_foreign_files(tmp_path):
    parts = {name: Part.of(networks.randomized(rnnx.GRUCell(4, f"{name}_"), WIDTH, "float32")) for name in "ab"}
    target = KerasFormat()
    with pytest.raises(UnsupportedError, match="made for one recurrent part, found 'a', 'b': give select="):
        target.write(tmp_path / "x.keras", Archive(parts, {}), Accepted())
    with pytest.raises(WeightFormatError, match=r"no place for the file 'symbol.json': drop_files=True"):
        target.write(tmp_path / "x.h5", Archive({"a": parts["a"]}, {}, {"symbol.json": b"{}"}), Accepted())
    with pytest.raises(WeightFormatError, match="'rnnx_extra/' has no place in an HDF5 file"):
        target.write(tmp_path / "x.h5", Archive({"a": parts["a"]}, {"": np.ones(2)}), Accepted())
    assert list(tmp_path.iterdir()) == []


def test_a_model_becomes_no_other_kind_of_file(tmp_path):
    path = saved(large(), tmp_path / "model.keras")
    for ending in (".weights.h5", ".h5"):
        with pytest.raises(WeightFormatError, match=r"no place for the file .*json'.* drop_files=True"):
            rnnx.convert(path, tmp_path / f"other{ending}")
    rnnx.convert(path, tmp_path / "other.keras", select="aside")
    assert len(keras.models.load_model(tmp_path / "other.keras").layers) == 1
    with pytest.raises(WeightFormatError, match=r"cannot be rewritten: drop_files=True"):
        rnnx.convert(path, tmp_path / "there.rnnx", prefix="other_")


# -- layers that rnnx has no cells for --------------------------------------------------------------------------------

STRANGE = {
    "hard": (
        lambda: L.LSTM(4, recurrent_activation="hard_sigmoid", name="x"),
        "layer 'x' has recurrent_activation 'hard_",
    ),
    "relu": (lambda: L.GRU(4, activation="relu", name="x"), "layer 'x' has activation 'relu'; rnnx's cell has 'tanh'"),
    "gelu": (lambda: L.SimpleRNN(4, activation="gelu", name="x"), "layer 'x' has activation 'gelu'; rnnx has tanh, "),
    "back": (
        lambda: L.LSTM(4, go_backwards=True, name="x"),
        "'x' has go_backwards True: it gives its outputs last step",
    ),
    "sum": (lambda: L.Bidirectional(L.LSTM(4), merge_mode="sum", name="x"), "'x' has merge_mode 'sum'; rnnx's Bidir"),
    "turned": (
        lambda: L.Bidirectional(L.LSTM(4, go_backwards=True), backward_layer=L.LSTM(4), name="x"),
        "the forward layer of layer 'x' has go_backwards True",
    ),
    "cell": (
        lambda: L.RNN(L.StackedRNNCells([L.LSTMCell(4, activation="relu", name="c")]), name="x"),
        "cell 'c' of layer 'x' has activation 'relu'",
    ),
}


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("kind", STRANGE)
def test_layers_without_an_equal(tmp_path, kind, ending):
    build, message = STRANGE[kind]
    path = saved(model_of(build()), tmp_path / f"alone{ending}")
    with pytest.raises(UnsupportedError, match=message):
        rnnx.load(path)
    path = saved(model_of(L.LSTM(4, return_sequences=True, name="fine"), build()), tmp_path / f"both{ending}")
    archive = archive_of(path)
    assert list(archive.parts) == ["fine"]
    assert message in archive.parts["fine"].evidence[-1]
    assert len(archive.extra) >= 3


def test_convolutions(tmp_path):
    layer = L.ConvLSTM1D(2, 3, return_sequences=True, padding="same", name="x")
    model = filled(keras.Sequential([keras.Input((None, 4, WIDTH)), layer]))
    with pytest.raises(UnsupportedError, match=r"layer 'x' is a ConvLSTM1D, .* its gates are convolutions"):
        rnnx.load(saved(model, tmp_path / "model.keras"))
    with pytest.raises(UnsupportedError, match=r"of layer 'x' has weights of shapes .* which are convolutions"):
        rnnx.load(saved(model, tmp_path / "x.weights.h5"))


def legacy_weights(path: Path, layer: str, **arrays: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.encode()]
        file.create_group(layer).attrs["weight_names"] = [f"{layer}/{name}:0".encode() for name in arrays]
        for name, array in arrays.items():
            file[f"{layer}/{layer}/{name}:0"] = array
    return path


@pytest.mark.parametrize("columns", [4, 3])
def test_layers_for_cudnn(tmp_path, columns):
    hidden = {"kernel": np.ones((WIDTH, columns * 4)), "recurrent_kernel": np.ones((4, columns * 4))}
    path = legacy_weights(tmp_path / "x.h5", "cu", **hidden, bias=np.ones(2 * columns * 4))
    with pytest.raises(UnsupportedError, match=r"biases of shape \(\d+,\), as layers for cuDNN have them"):
        rnnx.load(path)
    kind = {4: "CuDNNLSTM", 3: "CuDNNGRU"}[columns]
    layer = {"class_name": kind, "config": {"name": "cu", "units": 4}}
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": [layer]})
    with pytest.raises(UnsupportedError, match=f"layer 'cu' is a {kind}, .* laid out for cuDNN"):
        rnnx.load(path)


def test_classes_of_the_users_own(tmp_path):
    path = saved(model_of(L.LSTM(4, name="x")), tmp_path / "model.keras")
    own = tampered(path, tmp_path / "own.keras", config=lambda text: text.replace(b'"keras.layers"', b'"mine"'))
    assert "weights do not tell activations" in archive_of(own).parts["x"].evidence[-1]


# -- damaged and hostile files ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    layers = L.LSTM(4, return_sequences=True, name="one"), L.GRU(5, return_sequences=True, name="two")
    return saved(model_of(*layers), tmp_path_factory.mktemp("keras") / "model.keras")


@pytest.fixture
def weights(tmp_path, model_file):
    path = tmp_path / "x.weights.h5"
    path.write_bytes(zipfile.ZipFile(model_file).read("model.weights.h5"))
    return path


def refused(path: Path, message: str) -> None:
    with pytest.raises(WeightFormatError, match=message):
        archive_of(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../evil", "a file called '../evil', which is no place within a folder"),
        ("/etc/evil", "a file called '/etc/evil'"),
        ("a\\..\\b", "a file called"),
        ("C:evil", "a file called 'C:evil'"),
    ],
)
def test_odd_places_in_an_archive(tmp_path, model_file, name, message):
    refused(tampered(model_file, tmp_path / "x.keras", **{name: b"x"}), message)


def test_a_file_without_a_name_in_an_archive(tmp_path, model_file):
    path = tampered(model_file, tmp_path / "x.keras", z=b"x")
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\1\2")
    data[entry + 28 : entry + 32] = 0, 0, 1, 0  # its name is an extra field now
    path.write_bytes(data)
    refused(path, "a file called '', which is no place within a folder")


def test_an_archive_that_swells(tmp_path, model_file):
    path = tmp_path / "x.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * (1 << 25))
    refused(path, r"the archive of \d+ bytes is said to hold 33554432, which is not read")


def test_archives_that_lie(tmp_path, model_file):
    data = model_file.read_bytes()
    path = tmp_path / "x.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", b"{}")
    refused(path, "the archive has no 'model.weights.h5'; it has config.json")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", b"{}")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("config.json", b"{}")
    refused(path, "the archive has 'config.json' 2 times")
    middle = data.index(b"\x89HDF") + 3000
    path.write_bytes(data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :])
    refused(path, "'model.weights.h5' is damaged: its checksum")
    path.write_bytes(data[: len(data) // 2])
    refused(path, "the archive is damaged")
    entry = data.index(b"PK\1\2", data.index(b"model.weights.h5"))
    path.write_bytes(data[: entry + 8] + b"\1" + data[entry + 9 :])
    refused(path, "is encrypted|damaged|at byte")


def test_a_compressed_archive(tmp_path, model_file):
    path = tmp_path / "x.keras"
    with zipfile.ZipFile(model_file) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    same_bits(archive_of(path).parts["one+two"].weights, archive_of(model_file).parts["one+two"].weights)


CONFIGS = {
    "not text": (lambda text: b"\xff", "the model's config is not UTF-8"),
    "no json": (lambda text: b"{", "the model's config is not JSON"),
    "a list": (lambda text: b"[]", "the model's config should be a JSON object"),
    "deep": (lambda text: b"[" * 100000, "the model's config is not JSON"),
    "no layers": (lambda text: b'{"class_name": "Sequential", "config": {}}', "has no list of layers"),
    "no config": (lambda text: b'{"class_name": "Sequential"}', "the config of a model should be a JSON object"),
    "no name": (lambda text: text.replace(b'"name": "one"', b'"name": 3'), "class_name 'LSTM' and name 3"),
    "twice": (
        lambda text: text.replace(b'"name": "two"', b'"name": "one"'),
        "two layers of the config are called 'one'",
    ),
    "units": (lambda text: text.replace(b'"units": 4', b'"units": "4"'), "layer 'one': units should be a whole number"),
    "none": (lambda text: text.replace(b'"units": 4', b'"units": -4'), "the cell tree cannot be built"),
    "huge": (
        lambda text: text.replace(b'"units": 4', b'"units": 4000000000000'),
        r"weight 'layers/lstm/cell/vars/0' has shape \(3, 16\), expected \(3, 16000000000000\)",
    ),
    "before": (
        lambda text: text.replace(b'"reset_after": true', b'"reset_after": false'),
        r"weight 'layers/gru/cell/vars/2' has shape \(2, 15\), expected \(15,\)",
    ),
    "nested": (
        lambda text: (
            b'{"class_name": "Sequential", "config": {"name": "m", "layers": [' * 20
            + b'{"class_name": "Dense", "config": {"name": "m"}}'
            + b"]}}" * 20
        ),
        "models are nested deeper than 16",
    ),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_that_makes_no_sense(tmp_path, model_file, kind):
    change, message = CONFIGS[kind]
    refused(tampered(model_file, tmp_path / "x.keras", config=change), message)


def test_layers_whose_weights_are_not_there(tmp_path, weights, model_file):
    with h5py.File(weights, "a") as file:
        del file["layers/lstm"]
    path = tmp_path / "less.keras"
    with zipfile.ZipFile(model_file) as source, zipfile.ZipFile(path, "w") as target:
        target.writestr("config.json", source.read("config.json"))
        target.writestr("model.weights.h5", weights.read_bytes())
    archive = archive_of(path)
    assert list(archive.parts) == ["two"]
    assert (
        "layer 'one' of the config has 1 cells, whose weights are not in the file" in archive.parts["two"].evidence[-1]
    )
    with h5py.File(weights, "a") as file:
        del file["layers/gru/cell/vars/2"]
    refused(weights, "part 'two' is a GRU without biases")


def with_external_storage(file: Any) -> None:
    file.create_dataset("evil", (4,), "f4", external=[("/etc/passwd", 0, 16)])


def with_virtual_dataset(file: Any) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    file.create_virtual_dataset("evil", layout)


def with_shape(file: Any, **options: Any) -> None:
    file.create_dataset("evil", (1 << 40,), "f4", **options)


def with_attribute(file: Any, value: Any, **options: Any) -> None:
    file["layers"].attrs.create("evil", value, **options)


def with_depth(file: Any) -> None:
    group = file
    for _ in range(70):
        group = group.create_group("g")


HOSTILE = {
    "external link": (
        lambda file: file.__setitem__("evil", h5py.ExternalLink("/etc/passwd", "/x")),
        "is a ExternalLink",
    ),
    "soft link": (lambda file: file.__setitem__("evil", h5py.SoftLink("/layers")), "is a SoftLink to another place"),
    "cycle": (lambda file: file["layers"].__setitem__("evil", file["/"]), "are one and the same object"),
    "twice": (lambda file: file.__setitem__("evil", file["layers/lstm"]), "are one and the same object"),
    "external storage": (with_external_storage, "is stored in another file, '/etc/passwd'"),
    "virtual": (with_virtual_dataset, "'evil' is a virtual dataset"),
    "type": (lambda file: file.__setitem__("evil", np.dtype("f4")), "/evil is a Datatype"),
    "reference": (lambda file: file.create_dataset("evil", data=file.ref, dtype=h5py.ref_dtype), "no numbers"),
    "text": (lambda file: file.create_dataset("evil", data="x" * 9), "array 'evil' has dtype object .*no numbers"),
    "empty": (lambda file: file.create_dataset("evil", data=h5py.Empty("f4")), "shape None, no numbers"),
    "huge": (with_shape, "array 'evil' would bring what is read to more than the file's"),
    "large": (
        lambda file: file.create_dataset("evil", (1 << 13, 1 << 10), "f4", chunks=(64, 64)),
        "array 'evil' would bring what is read to more than the file's",
    ),
    "huge in chunks": (
        lambda file: with_shape(file, chunks=(1 << 20,)),
        "array 'evil' would bring what is read to more",
    ),
    "compressed": (lambda file: with_shape(file, compression="gzip"), "'evil' is compressed or filtered"),
    "deep": (with_depth, "is nested deeper than 64 groups"),
    "attribute of a reference": (lambda file: with_attribute(file, file.ref, dtype=h5py.ref_dtype), "neither text nor"),
    "attribute of nothing": (lambda file: with_attribute(file, h5py.Empty("f4")), "neither text nor numbers"),
    "attribute of a table": (lambda file: with_attribute(file, np.zeros((2, 2), "S1")), r"has shape \(2, 2\)"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_no_file_of_keras_has(weights, kind):
    change, message = HOSTILE[kind]
    with h5py.File(weights, "a") as file:
        change(file)
    refused(weights, message)


def with_texts(path: Path, **options: Any) -> tuple[bytearray, int]:
    """A file with an attribute of texts, and where the first of them has its length, before the heap's address."""
    with h5py.File(path, "w", **options) as file:
        file.attrs["layer_names"] = ["first name", "second name"]
    data = bytearray(path.read_bytes())
    return data, data.index(struct.pack("<IQI", len("first name"), data.index(b"GCOL"), 2))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data, at: struct.pack_into("<I", data, at, 1 << 30), r"bytes of text, too many"),
        (lambda data, at: struct.pack_into("<I", data, at, 4000), "has no text of 4000 bytes there"),
        (
            lambda data, at: struct.pack_into("<Q", data, at + 4, 1 << 60),
            "damaged where attribute 'layer_names' stands",
        ),
        (lambda data, at: struct.pack_into("<Q", data, at + 4, 16), "there is no heap at byte 16"),
        (lambda data, at: struct.pack_into("<Q", data, data.index(b"GCOL") + 24, 0), "has no text of"),
        (lambda data, at: struct.pack_into("<Q", data, data.index(b"GCOL") + 8, 1 << 40), "there is no heap at byte"),
        (lambda data, at: struct.pack_into("<QI", data, at + 20, data.index(b"GCOL"), 9), "has no text of 11 bytes"),
    ],
)
def test_lengths_of_texts_that_lie(tmp_path, damage, message):
    data, at = with_texts(tmp_path / "x.h5")
    damage(data, at)
    (tmp_path / "x.h5").write_bytes(data)
    refused(tmp_path / "x.h5", message)


@pytest.mark.parametrize("options", [{}, {"libver": "latest"}, {"track_order": True}])
def test_texts_of_every_layout(tmp_path, options):
    with h5py.File(tmp_path / "x.h5", "w", **options) as file:
        file.attrs["layer_names"] = ["one", "", "\u00e4" * 5000]
        for number in range(6):
            file.attrs[f"a{number}"] = f"text {number}"
    own = json.loads(read_keras(tmp_path / "x.h5").notes["keras.attributes"])[""]
    assert own.pop("layer_names") == {"text": ["one", "", "\u00e4" * 5000]}
    assert own == {f"a{number}": {"text": f"text {number}"} for number in range(6)}
    with h5py.File(tmp_path / "y.h5", "w", libver="latest") as file:
        file.attrs["layer_names"] = ["long name"] * 5000
    refused(tmp_path / "y.h5", "attribute 'layer_names' is not stored in its owner's header")


def test_names_that_are_spread_over_several_attributes(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"kernel": rng.normal(size=(3, 12)), "recurrent_kernel": rng.normal(size=(4, 12)), "bias": np.ones(12)}
    path = legacy_weights(tmp_path / "x.h5", "gru", **arrays)
    with h5py.File(path, "a") as file:
        names = list(file["gru"].attrs.pop("weight_names"))
        file["gru"].attrs["weight_names0"], file["gru"].attrs["weight_names1"] = names[:1], names[1:]
    assert archive_of(path).parts["gru"].spec.fields["reset_after"] is False


def test_what_is_said_of_a_layer(tmp_path):
    layer = L.LSTM(4, dropout=0.5, recurrent_dropout=0.25, name="x")
    (part,) = archive_of(saved(model_of(layer), tmp_path / "model.keras")).parts.values()
    told = " ".join(part.evidence)
    for words in ("class LSTM", "return_sequences False: it gives its last", "dropout 0.5: it acts in training only"):
        assert words in told
    assert "recurrent_dropout 0.25" in told
    assert "'layers/lstm/cell/vars/0'" in told


def test_arrays_of_other_kinds(weights):
    """Big-endian, in chunks, never written, of one piece with the header: copied, and the same."""
    with h5py.File(weights, "a") as file:
        file.create_dataset("big", data=np.arange(3, dtype=">f4"))
        file.create_dataset("chunks", data=np.arange(6, dtype=np.int16), chunks=(4,))
        file.create_dataset("unwritten", (3,), "f8", fillvalue=2)
        file.create_dataset("flags", data=np.array([True, False]))
    extra = archive_of(weights).extra
    expected = {
        "big": np.arange(3, dtype=np.float32),
        "chunks": np.arange(6, dtype=np.int16),
        "unwritten": np.full(3, 2.0),
        "flags": np.array([True, False]),
    }
    same_bits({name: extra[name] for name in expected}, expected)


def test_arrays_are_views_of_the_file(weights):
    data = memoryview(weights.read_bytes())
    for array in read_tree(data).arrays.values():
        assert np.shares_memory(array, np.frombuffer(data, np.uint8))


def test_names_that_meet(weights):
    with h5py.File(weights, "a") as file:
        file["rnnx_extra/layers%2Flstm%2Fcell%2Fvars%2F0"] = np.ones(3)
    refused(weights, "two arrays are called 'layers/lstm/cell/vars/0'")


def test_notes_that_make_no_sense(tmp_path, weights):
    rnnx.convert(weights, tmp_path / "x.rnnx", from_="keras")
    archive = read_archive(tmp_path / "x.rnnx")
    target = KerasFormat()
    for key, text in (
        ("keras.paths", "{"),
        ("keras.paths", "[3]"),
        ("keras.attributes", '{"": 3}'),
        ("keras.attributes", "3"),
    ):
        damaged = Archive(archive.parts, archive.extra, {}, {**archive.notes, key: text})
        with pytest.raises(WeightFormatError, match=f"note '{key}'"):
            target.write(tmp_path / "y.weights.h5", damaged, Accepted())
    for told in ('{"hex": 3}', '{"text": 3}', '{"bytes": [3]}', "{}"):
        notes = {**archive.notes, "keras.attributes": f'{{"layers": {{"x": {told}}}}}'}
        with pytest.raises(WeightFormatError, match="attribute"):
            target.write(tmp_path / "y.weights.h5", Archive(archive.parts, archive.extra, {}, notes), Accepted())
    assert not (tmp_path / "y.weights.h5").exists()


@pytest.mark.parametrize("kind", ["weights", "archive", "legacy"])
def test_any_bytes(tmp_path, weights, model_file, kind):
    """Files with bytes changed, or cut short, are read or refused: nothing else is raised."""
    source = {"weights": weights, "archive": model_file, "legacy": tmp_path / "old.h5"}[kind]
    if kind == "legacy":
        rnnx.convert(weights, tmp_path / "there.rnnx", from_="keras")
        rnnx.convert(tmp_path / "there.rnnx", source, select=next(iter(archive_of(weights).parts)))
    data, rng = source.read_bytes(), np.random.default_rng(3)
    path = tmp_path / "x.h5"
    for number in range(150):
        changed = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 12)):
            changed[place] = rng.integers(0, 256)
        path.write_bytes(bytes(changed[: rng.integers(1, len(data))] if number % 5 == 0 else changed))
        with contextlib.suppress(RNNXError, OSError):
            archive_of(path, activation="tanh")


def test_what_is_no_keras_file(tmp_path):
    recognises = KerasFormat().recognises
    torch_like = io.BytesIO()
    with zipfile.ZipFile(torch_like, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    assert not any(recognises(tmp_path, head) for head in (b"", b"PK\3\4", torch_like.getvalue()[:64], b"{" * 64))
    for content in (b"", b"\x89HDF\r\n\x1a\n", b"a" * 100, b"PK\3\4"):
        (tmp_path / "x.h5").write_bytes(content)
        refused(tmp_path / "x.h5", r"x.h5: ")


def test_file_with_nothing_recurrent(tmp_path):
    path = saved(model_of(L.Dense(2)), tmp_path / "model.keras")
    rnnx.convert(path, tmp_path / "there.rnnx")
    rnnx.convert(tmp_path / "there.rnnx", tmp_path / "back.keras")
    same_bits(arrays_in(path), arrays_in(tmp_path / "back.keras"))
    assert read_portable(tmp_path / "there.rnnx")[0]["file:config.json"].size

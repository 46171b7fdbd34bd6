"""Files of flax: what linen and nnx compute, rnnx computes from their files, and they from rnnx's."""

from __future__ import annotations

import dataclasses
import random
import struct
import sys
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
from rnnx.formats import flax as flax_format
from rnnx.formats.flax import FlaxFormat
from rnnx.formats.flax import msgpack as flax_msgpack
from rnnx.weights.portable import write_portable

jax = pytest.importorskip("jax", reason="flax runs on jax, and judges its files")
flax = pytest.importorskip("flax", reason="flax judges its files")
msgpack = pytest.importorskip("msgpack", reason="files of flax are msgpack")

import jax.numpy as jnp  # noqa: E402
import ml_dtypes  # noqa: E402
from flax import linen as nn  # noqa: E402
from flax import nnx, serialization  # noqa: E402

WIDTH, STEPS = 3, 6

CELLS = {
    "LSTMCell": nn.LSTMCell,
    "OptimizedLSTMCell": nn.OptimizedLSTMCell,
    "GRUCell": nn.GRUCell,
    "SimpleCell": nn.SimpleCell,
}


def inputs_of(width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(2, STEPS, width)).astype(np.float32)


def outputs_of(cell: rnnx.BaseRNNCell, inputs: np.ndarray) -> np.ndarray:
    return batch_major(cell.unroll(None, inputs, merge_outputs=True)[0])


def scrambled(tree: Any, seed: int = 1) -> Any:
    """A tree with every number of every float array drawn anew, so that no two gates are alike."""
    rng = np.random.default_rng(seed)

    def draw(array: Any) -> Any:
        if not np.issubdtype(array.dtype, np.floating):
            return array
        return (rng.uniform(0.1, 0.9, array.shape) * rng.choice([-1, 1], array.shape)).astype(np.float32)

    return jax.tree_util.tree_map(draw, tree)


def initialized(module: nn.Module, width: int = WIDTH) -> Any:
    return scrambled(module.init(jax.random.key(0), inputs_of(width)))


def saved(path: Path, tree: Any) -> Path:
    path.write_bytes(serialization.to_bytes(tree))
    return path


def stored_in(path: Path) -> Any:
    return serialization.msgpack_restore(path.read_bytes())


def same_trees(one: Any, other: Any) -> None:
    flat = [flax.traverse_util.flatten_dict(tree, sep="/") for tree in (one, other)]
    networks.same_bits(*flat)


def there_and_back(path: Path, tmp_path: Path) -> bytes:
    rnnx.convert(path, tmp_path / "between.rnnx")
    rnnx.convert(tmp_path / "between.rnnx", tmp_path / "back.msgpack")
    return (tmp_path / "back.msgpack").read_bytes()


# -- linen ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("collection", [True, False])
def test_one_linen_cell(tmp_path, kind, collection):
    module = nn.RNN(CELLS[kind](5))
    variables = initialized(module)
    path = saved(tmp_path / "model.msgpack", variables if collection else variables["params"])
    cell, extra = rnnx.load(path, activation="tanh")
    assert not extra
    assert_all_close([outputs_of(cell, inputs_of())], [module.apply(variables, inputs_of())], 1e-5)
    assert there_and_back_with(path, tmp_path, "tanh") == path.read_bytes()


def there_and_back_with(path: Path, tmp_path: Path, activation: str) -> bytes:
    rnnx.convert(path, tmp_path / "between.rnnx", activation=activation)
    rnnx.convert(tmp_path / "between.rnnx", tmp_path / "back.msgpack")
    return (tmp_path / "back.msgpack").read_bytes()


@pytest.mark.parametrize(("activation", "function"), [("relu", nn.relu), ("sigmoid", nn.sigmoid)])
def test_a_simple_cell_of_another_activation(tmp_path, activation, function):
    module = nn.RNN(nn.SimpleCell(5, activation_fn=function))
    variables = initialized(module)
    path = saved(tmp_path / "model.msgpack", variables)
    with pytest.raises(WeightFormatError, match=r"part 'rnn' is of plain recurrent cells.*activation='tanh'"):
        rnnx.load(path)
    cell, _ = rnnx.load(path, activation=activation)
    assert_all_close([outputs_of(cell, inputs_of())], [module.apply(variables, inputs_of())], 1e-5)


class Tagger(nn.Module):
    """Two directions, two more layers, and what stands around them."""

    def setup(self) -> None:
        self.embed = nn.Dense(WIDTH)
        self.encoder = nn.Bidirectional(nn.RNN(nn.OptimizedLSTMCell(5)), nn.RNN(nn.GRUCell(4)))
        self.layers = [nn.RNN(nn.LSTMCell(7)), nn.RNN(nn.GRUCell(6))]
        self.output = nn.Dense(2)

    def __call__(self, inputs: Any) -> Any:
        middle = self.encoder(self.embed(inputs))
        for layer in self.layers:
            middle = layer(middle)
        return self.output(middle)


def test_a_model_of_linen(tmp_path):
    variables = initialized(Tagger(), 8)
    path = saved(tmp_path / "model.flax", variables)
    assert list(rnnx.load_all(path)) == ["encoder", "layers_0", "layers_1"]
    cell, extra = rnnx.load(path, stack=True)
    assert [spec.kind for spec in cell.spec.children] == ["BidirectionalCell", "LSTMCell", "GRUCell"]
    prefixes = [spec.fields["prefix"] for spec in cell.spec.walk() if "prefix" in spec.fields]
    assert prefixes == ["encoder_l0_", "encoder_r0_", "layers_0_", "layers_1_"]
    assert extra.keys() == {f"params/{layer}/{leaf}" for layer in ("embed", "output") for leaf in ("kernel", "bias")}
    middle = inputs_of(8) @ extra["params/embed/kernel"] + extra["params/embed/bias"]
    outputs = outputs_of(cell, middle) @ extra["params/output/kernel"] + extra["params/output/bias"]
    assert_all_close([outputs], [Tagger().apply(variables, inputs_of(8))], 1e-5)
    assert there_and_back(path, tmp_path) == path.read_bytes()
    same_trees(stored_in(tmp_path / "back.msgpack"), variables)


class Compact(nn.Module):
    """Cells that name themselves."""

    @nn.compact
    def __call__(self, inputs: Any) -> Any:
        middle = nn.RNN(nn.OptimizedLSTMCell(5))(inputs)
        return nn.RNN(nn.OptimizedLSTMCell(4))(middle)


def test_cells_that_name_themselves(tmp_path):
    variables = initialized(Compact())
    assert variables["params"].keys() == {"OptimizedLSTMCell_0", "OptimizedLSTMCell_1"}
    path = saved(tmp_path / "model.msgpack", variables)
    assert list(rnnx.load_all(path)) == ["OptimizedLSTMCell_0", "OptimizedLSTMCell_1"]
    cell, _ = rnnx.load(path, stack=True)
    assert [leaf.fields["prefix"] for leaf in cell.spec.children] == ["OptimizedLSTMCell_0_", "OptimizedLSTMCell_1_"]
    assert_all_close([outputs_of(cell, inputs_of())], [Compact().apply(variables, inputs_of())], 1e-5)


@pytest.mark.parametrize("kind", CELLS)
def test_a_bidirectional_layer_without_a_place(tmp_path, kind):
    module = nn.Bidirectional(nn.RNN(CELLS[kind](5)), nn.RNN(CELLS[kind](4)))
    variables = initialized(module)
    path = saved(tmp_path / "model.msgpack", variables)
    parts = rnnx.infer(path, activation="tanh")
    mode = {"GRUCell": "gru", "SimpleCell": "rnn"}.get(kind, "lstm")
    assert list(parts) == [mode]
    assert [side.fields["prefix"] for side in parts[mode].spec.children] == [f"{mode}_l0_", f"{mode}_r0_"]
    assert_all_close([outputs_of(parts[mode].cell, inputs_of())], [module.apply(variables, inputs_of())], 1e-5)
    assert there_and_back_with(path, tmp_path, "tanh") == path.read_bytes()


def test_what_is_seen_is_said(tmp_path):
    module = nn.Bidirectional(nn.RNN(nn.SimpleCell(5)), nn.RNN(nn.LSTMCell(5)))
    evidence = rnnx.infer(saved(tmp_path / "x.msgpack", initialized(module)), activation="tanh")["rnn"].evidence
    assert "'params/forward_rnn/cell/' has the arrays of linen.SimpleCell, i, h, for 3 inputs and 5 units" in evidence
    assert any("residual=True of a SimpleCell does not show in a file" in line for line in evidence)
    assert any("the activation is not in the file: tanh is what was given" in line for line in evidence)
    assert any("linen.LSTMCell or linen.OptimizedLSTMCell, ii, if, ig, io, hi, hf, hg, ho" in line for line in evidence)
    assert any("are called as the directions of a Bidirectional are" in line for line in evidence)


def test_a_backward_layer_alone_is_a_layer(tmp_path):
    tree = initialized(nn.RNN(nn.GRUCell(5)))
    path = saved(tmp_path / "x.msgpack", {"params": {"top": {"backward_rnn": tree["params"]}}})
    assert list(rnnx.infer(path)) == ["top/backward_rnn"]


def test_the_tree_may_be_given(tmp_path):
    variables = initialized(Tagger(), 8)
    tree = sequential(
        rnnx.BidirectionalCell(rnnx.LSTMCell(5, "f_"), rnnx.GRUCell(4, "b_")),
        rnnx.LSTMCell(7, "x_"),
        rnnx.GRUCell(6, "y_"),
    )
    path = saved(tmp_path / "model.flax", variables)
    cell, _ = rnnx.load(path, cell=tree)
    assert cell is tree
    expected, _ = rnnx.load(path, stack=True)
    np.testing.assert_array_equal(outputs_of(cell, inputs_of()), outputs_of(expected, inputs_of()))


def test_moments_of_an_optimiser_are_no_cells(tmp_path):
    """As in the file of a ``TrainState``."""
    params = initialized(nn.RNN(nn.GRUCell(5)))["params"]
    moments = {"count": np.int32(7), "mu": scrambled(params, 2), "nu": scrambled(params, 3)}
    state = {"step": 7, "params": params, "opt_state": {"0": moments, "1": {}}}
    path = saved(tmp_path / "state.msgpack", state)
    cell, extra = rnnx.load(path)
    assert outputs_of(cell, inputs_of()).shape == (2, STEPS, 5)
    assert extra["step"] == 7
    assert extra["opt_state/0/mu/cell/hn/bias"].shape == (5,)
    assert there_and_back(path, tmp_path) == path.read_bytes()


# -- nnx --------------------------------------------------------------------------------------------------------------


class Layered(nnx.Module):
    """Layers that read each other's outputs."""

    def __init__(self, *layers: nnx.Module) -> None:
        self.layers = nnx.List(layers)

    def __call__(self, inputs: Any) -> Any:
        for layer in self.layers:
            inputs = layer(inputs)
        return inputs


def state_of(module: nnx.Module) -> Any:
    """The parameters of a module, after every number of them has been drawn anew."""
    state = nnx.state(module, nnx.Param)
    nnx.replace_by_pure_dict(state, scrambled(nnx.to_pure_dict(state)))
    nnx.update(module, state)
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


@pytest.mark.parametrize("kind", ["LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell"])
@pytest.mark.parametrize("save", [serialization.to_bytes, serialization.msgpack_serialize], ids=["text", "numbers"])
def test_a_model_of_nnx(tmp_path, kind, save):
    def rnn(width: int, units: int) -> nnx.RNN:
        return nnx.RNN(getattr(nnx, kind)(width, units, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))

    model = Layered(nnx.Bidirectional(rnn(WIDTH, 5), rnn(WIDTH, 4), rngs=nnx.Rngs(0)), rnn(9, 7), rnn(7, 6))
    path = tmp_path / "model.msgpack"
    path.write_bytes(save(state_of(model)))
    parts = rnnx.infer(path, activation="tanh")
    assert list(parts) == ["layers/0", "layers/1", "layers/2"]
    for part in parts.values():
        assert any(f"has the arrays of nnx.{kind}, " in line for line in part.evidence)
    cell, _ = rnnx.load(path, activation="tanh", stack=True)
    assert_all_close([outputs_of(cell, inputs_of())], [model(inputs_of())], 1e-5)
    assert there_and_back_with(path, tmp_path, "tanh") == path.read_bytes()


def test_a_candidate_bias_has_no_place_in_nnx(tmp_path):
    """Its GRU has no bias within the product of the reset gate."""
    model = nnx.GRUCell(WIDTH, 5, rngs=nnx.Rngs(0))
    path = tmp_path / "model.msgpack"
    path.write_bytes(serialization.to_bytes(state_of(model)))
    archive = read_archive(path)
    part = archive.parts["gru"]
    weights = {**part.weights, "gru_h2h_o_bias": np.full(5, 0.5, np.float32)}
    changed = dataclasses.replace(archive, parts={"gru": Part(part.spec, weights)})
    with pytest.raises(WeightFormatError, match=r"a flax file has no place for weight 'gru_h2h_o_bias', which is not"):
        FlaxFormat().write(path, changed, Accepted())
    FlaxFormat().write(path, dataclasses.replace(changed, notes={}), Accepted())
    np.testing.assert_array_equal(stored_in(path)["params"]["gru"]["cell"]["hn"]["bias"], np.full(5, 0.5))


def test_of_nnx_to_linen(tmp_path):
    model = nnx.GRUCell(WIDTH, 5, rngs=nnx.Rngs(0))
    path, other = tmp_path / "model.msgpack", tmp_path / "linen.msgpack"
    path.write_bytes(serialization.to_bytes(state_of(model)))
    rnnx.convert(path, other, prefix="gru_l0_")
    outputs = nn.RNN(nn.GRUCell(5)).apply({"params": stored_in(other)["gru_l0"]}, inputs_of())
    assert_all_close([outputs], [nnx.RNN(model, rngs=nnx.Rngs(0))(inputs_of())], 1e-5)


# -- written ----------------------------------------------------------------------------------------------------------

LINEN = {
    "lstm": nn.OptimizedLSTMCell,
    "gru": nn.GRUCell,
    "rnn_tanh": nn.SimpleCell,
    "rnn_relu": lambda units: nn.SimpleCell(units, activation_fn=nn.relu),
}


@pytest.mark.parametrize("mode", networks.FUSED_MODES)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_linen_computes_what_rnnx_wrote(tmp_path, mode, bidirectional):
    cell = randomized(rnnx.FusedRNNCell(5, 2, mode, bidirectional, prefix="deep_"), WIDTH, "float32")
    path, source = tmp_path / "model.msgpack", tmp_path / "model.rnnx"
    rnnx.save(source, cell)
    with pytest.raises(WeightFormatError, match=r"a flax file has one bias a gate, and .* merge_biases=True"):
        rnnx.convert(source, path)
    assert not path.exists()
    rnnx.convert(source, path, merge_biases=True)
    tree, outputs = stored_in(path), inputs_of()
    assert list(tree["params"]) == ["deep_l0", "deep_l1"]
    for layer in ("deep_l0", "deep_l1"):
        rnn = nn.RNN(LINEN[mode](5))
        module = nn.Bidirectional(rnn, nn.RNN(LINEN[mode](5))) if bidirectional else rnn
        outputs = module.apply({"params": tree["params"][layer]}, outputs)
    assert_all_close([outputs_of(cell, inputs_of())], [outputs], 1e-5)
    activation = mode.removeprefix("rnn_") if "_" in mode else None
    again, _ = rnnx.load(path, activation=activation)
    fused = rnnx.BaseRNNCell.from_spec(rnnx.fusion.fused_spec(again.spec))
    assert dict(fused.spec.fields) == {**cell.spec.fields, "get_next_state": True}
    assert_all_close([outputs_of(again, inputs_of())], [outputs], 1e-5)


def test_the_two_biases_of_a_candidate_are_never_added(tmp_path):
    cell = randomized(rnnx.GRUCell(5, "top_"), WIDTH, "float32")
    rnnx.save(tmp_path / "model.rnnx", cell)
    rnnx.convert(tmp_path / "model.rnnx", tmp_path / "model.msgpack", merge_biases=True)
    weights = cell.unpack_weights(cell.get_params())
    stored = stored_in(tmp_path / "model.msgpack")["params"]["top"]["cell"]
    np.testing.assert_array_equal(stored["in"]["bias"], weights["top_i2h_o_bias"])
    np.testing.assert_array_equal(stored["hn"]["bias"], weights["top_h2h_o_bias"])
    np.testing.assert_allclose(stored["ir"]["bias"], weights["top_i2h_r_bias"] + weights["top_h2h_r_bias"], rtol=1e-6)


def test_what_acts_in_training_only_is_left_out(tmp_path):
    stack = sequential(
        rnnx.ZoneoutCell(rnnx.LSTMCell(5, "a_"), 0.1, 0.1),
        rnnx.DropoutCell(0.5),
        rnnx.BidirectionalCell(rnnx.ZoneoutCell(rnnx.GRUCell(4, "f_"), 0.1, 0.1), rnnx.GRUCell(4, "b_")),
    )
    randomized(stack, WIDTH, "float32")
    rnnx.save(tmp_path / "model.rnnx", stack)
    rnnx.convert(tmp_path / "model.rnnx", tmp_path / "model.msgpack", merge_biases=True)
    assert stored_in(tmp_path / "model.msgpack")["params"].keys() == {"a", "f"}
    again, _ = rnnx.load(tmp_path / "model.msgpack", stack=True)
    assert [spec.kind for spec in again.spec.children] == ["LSTMCell", "BidirectionalCell"]
    np.testing.assert_allclose(outputs_of(again, inputs_of()), outputs_of(stack, inputs_of()), atol=1e-6)


def test_other_arrays_are_nested_as_their_names_say(tmp_path):
    cell = randomized(rnnx.GRUCell(5, "encoder/top_"), WIDTH, "float32")
    extra = {"params/head/kernel": np.ones((5, 2), np.float32), "decoder.weight": np.arange(3)}
    rnnx.save(tmp_path / "model.rnnx", cell, extra)
    rnnx.convert(tmp_path / "model.rnnx", tmp_path / "model.msgpack", merge_biases=True)
    tree = stored_in(tmp_path / "model.msgpack")
    assert tree.keys() == {"params", "decoder.weight"}
    assert tree["params"].keys() == {"encoder", "head"}
    again, kept = rnnx.load(tmp_path / "model.msgpack")
    assert again.spec.fields["prefix"] == "encoder/top_"
    networks.same_bits(kept, extra)


def test_a_tree_without_the_collection_is_written_without_it(tmp_path):
    path, other = tmp_path / "model.msgpack", tmp_path / "other.msgpack"
    saved(path, initialized(nn.RNN(nn.GRUCell(5)))["params"] | {"head": {"kernel": np.ones(2)}})
    rnnx.convert(path, other, prefix="new_")
    assert stored_in(other).keys() == {"head", "new"}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: rnnx.GRUCell(3, "top_", reset_after=False), r"GRUCell 'top_' resets the state before .*such as ONNX"),
        (
            lambda: rnnx.ResidualCell(rnnx.GRUCell(3, "top_")),
            r"flax has nothing that computes what ResidualCell 'top_'",
        ),
        (lambda: rnnx.LSTMPCell(3, 2, "top_"), r"flax has nothing that computes what LSTMPCell 'top_'"),
        (
            lambda: rnnx.BidirectionalCell(
                sequential(rnnx.LSTMCell(3, "a_"), rnnx.LSTMCell(3, "b_")), rnnx.LSTMCell(3)
            ),
            r"flax's Bidirectional runs one cell each way, and the BidirectionalCell of the cells 'a_', 'b_', 'lstm_'",
        ),
    ],
)
def test_trees_that_flax_has_nothing_for(tmp_path, build, message):
    rnnx.save(tmp_path / "model.rnnx", randomized(build(), WIDTH, "float32"))
    with pytest.raises(UnsupportedError, match=message):
        rnnx.convert(tmp_path / "model.rnnx", tmp_path / "model.msgpack", merge_biases=True)
    assert not (tmp_path / "model.msgpack").exists()


@pytest.mark.parametrize("gated", [True, False])
def test_a_minimal_gated_unit_is_refused(tmp_path, gated):
    path = saved(tmp_path / "model.msgpack", initialized(nn.RNN(nn.MGUCell(5, reset_gate=gated))))
    with pytest.raises(UnsupportedError, match=r"'params/cell/' has the arrays of linen.MGUCell, if, in, hf, hn: a un"):
        rnnx.load(path)


def test_modules_that_are_no_cells_are_kept(tmp_path):
    """Convolutions, cells stacked by vmap, and dense layers that happen to be called as a cell's."""
    convolution = nn.RNN(nn.ConvLSTMCell(4, (3,))).init(jax.random.key(0), jnp.ones((2, STEPS, 6, WIDTH)))
    vector, matrix = np.ones(5, np.float32), np.ones((3, 5), np.float32)
    tree = {
        "conv": scrambled(convolution),
        "stacked": {"i": {"kernel": np.ones((2, 3, 5)), "bias": np.ones((2, 5))}, "h": {"kernel": np.ones((2, 5, 5))}},
        "dense": {"i": {"kernel": matrix, "bias": vector}, "h": {"kernel": matrix}},
        "fewer": {"ii": {"kernel": matrix}, "hi": {"kernel": np.ones((5, 5)), "bias": vector}},
    }
    path = saved(tmp_path / "model.msgpack", tree)
    assert rnnx.infer(path) == {}
    assert there_and_back(path, tmp_path) == path.read_bytes()


# -- everything else in a tree ----------------------------------------------------------------------------------------


def odd_tree() -> dict[Any, Any]:
    cell = initialized(nn.RNN(nn.GRUCell(5)))["params"]["cell"]
    return {
        "step": 7,
        "rnn": {"cell": dict(reversed(cell.items()))},
        "empty": {},
        "nothing": None,
        "name": "größer",
        "blob": b"\x00\xff",
        "flags": [True, False, [1, -2], {"x": 2.5}, []],
        "large": 2**64 - 1,
        "complex": 1.5 - 2j,
        "scalar": np.float32(0.25),
        "point": np.array(3, np.int8),
        "none": np.zeros((0, 3), np.float16),
        "brain": np.arange(3).astype(ml_dtypes.bfloat16),
        "waves": np.array([1 + 2j], np.complex64),
        "layers": {0: np.ones(2), 1: {"a/b": np.zeros(1)}},
    }


def test_everything_in_a_tree_comes_back_bit_for_bit(tmp_path):
    path = tmp_path / "model.msgpack"
    path.write_bytes(msgpack.packb(odd_tree(), default=serialization._msgpack_ext_pack, strict_types=True))
    assert read_archive(path).files == {"name": "größer".encode(), "blob": b"\x00\xff"}
    _, extra = rnnx.load(path)
    assert (extra["step"], extra["large"], extra["complex"], extra["flags/3/x"]) == (7, 2**64 - 1, 1.5 - 2j, 2.5)
    assert extra["layers/1/a/b"].shape == (1,)
    assert not extra["brain"].flags.writeable
    rnnx.convert(path, tmp_path / "same.msgpack")
    assert (tmp_path / "same.msgpack").read_bytes() == path.read_bytes()
    del extra["complex"], extra["waves"]  # a portable file has no complex numbers
    tree = {key: value for key, value in odd_tree().items() if key not in ("complex", "waves")}
    path.write_bytes(msgpack.packb(tree, default=serialization._msgpack_ext_pack, strict_types=True))
    assert there_and_back(path, tmp_path) == path.read_bytes()


def test_what_is_left_out_leaves_no_hole(tmp_path):
    path = tmp_path / "model.msgpack"
    path.write_bytes(msgpack.packb(odd_tree(), default=serialization._msgpack_ext_pack, strict_types=True))
    rnnx.convert(path, tmp_path / "one.msgpack", select="rnn", drop_files=True)
    assert stored_in(tmp_path / "one.msgpack").keys() == {"rnn", "empty", "nothing", "flags"}


def test_text_needs_a_place_in_other_formats(tmp_path):
    tree = initialized(nn.RNN(nn.LSTMCell(5))) | {"name": "x"}
    path = saved(tmp_path / "model.msgpack", tree)
    with pytest.raises(RNNXError, match="'name'"):
        rnnx.convert(path, tmp_path / "model-0001.params")
    rnnx.convert(path, tmp_path / "model-0001.params", drop_files=True)


def test_a_file_that_no_tree_has(tmp_path):
    archive = Archive({}, {}, {"symbol.json": b"{}"})
    with pytest.raises(WeightFormatError, match=r"no place for the file 'symbol.json': drop_files=True"):
        FlaxFormat().write(tmp_path / "x.msgpack", archive, Accepted())
    assert not (tmp_path / "x.msgpack").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"a": np.ones(1), "a/b": np.ones(1)}, r"array 'a/b' would stand below 'a', which is no map"),
        ({"a/b": np.ones(1), "a": np.ones(1)}, r"array 'a' would stand where there is a map"),
        ({"/".join("a" * 70): np.ones(1)}, r"would be nested deeper than 64 maps"),
        ({"a" * 1025: np.ones(1)}, r"has a name of more than 1024 characters"),
        ({"a": np.array(["x"])}, r"array 'a' has dtype <U1, which files of flax have no name for"),
        ({"a": np.zeros(2, "datetime64[s]")}, r"array 'a' has dtype datetime64\[s\], which files of flax have no name"),
    ],
)
def test_arrays_without_a_place(tmp_path, extra, message):
    with pytest.raises(RNNXError, match=message):
        FlaxFormat().write(tmp_path / "x.msgpack", Archive({}, extra), Accepted())
    assert not (tmp_path / "x.msgpack").exists()


def test_big_endian_arrays_are_written_as_flax_reads_them(tmp_path):
    FlaxFormat().write(tmp_path / "x.msgpack", Archive({}, {"a": np.arange(3, dtype=">f4")}), Accepted())
    np.testing.assert_array_equal(stored_in(tmp_path / "x.msgpack")["a"], np.arange(3, dtype=np.float32))


def test_large_arrays_stand_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 32)
    monkeypatch.setattr(flax_msgpack, "MAX_CHUNK", 32)
    variables = initialized(nn.RNN(nn.LSTMCell(5)))
    path = tmp_path / "model.msgpack"
    path.write_bytes(serialization.msgpack_serialize(variables))
    assert path.read_bytes().count(b"__msgpack_chunked_array__") == 8
    cell, _ = rnnx.load(path)
    assert_all_close([outputs_of(cell, inputs_of())], [nn.RNN(nn.LSTMCell(5)).apply(variables, inputs_of())], 1e-5)
    assert there_and_back(path, tmp_path) == path.read_bytes()
    same_trees(stored_in(tmp_path / "back.msgpack"), variables)


def test_flax_itself_is_not_needed(tmp_path, monkeypatch):
    path = saved(tmp_path / "model.msgpack", initialized(nn.RNN(nn.GRUCell(5))))
    for name in ("flax", "jax"):
        monkeypatch.setitem(sys.modules, name, None)
    assert there_and_back(path, tmp_path) == path.read_bytes()
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(UnsupportedError, match=r"flax files need msgpack .*pip install 'rnnx\[flax\]'"):
        rnnx.load(path)


# -- hostile files ----------------------------------------------------------------------------------------------------


def extension(code: int, data: bytes) -> bytes:
    return msgpack.packb({"x": msgpack.ExtType(code, data)})


def array(*fields: Any) -> bytes:
    return extension(1, msgpack.packb(fields))


def chunked(**changes: Any) -> bytes:
    piece = msgpack.ExtType(1, msgpack.packb([[2], "uint8", b"ab"]))
    fields = {"__msgpack_chunked_array__": True, "shape": {"0": 2}, "chunks": {"0": piece}, **changes}
    return msgpack.packb({"x": {key: value for key, value in fields.items() if value is not None}})


ODD_PIECE = msgpack.ExtType(1, msgpack.packb([[1], "int8", b"a"]))

HOSTILE = {
    "empty": (b"", "it is empty"),
    "no map": (b"\x93\x01\x02\x03", "expected a map of names, found of type list"),
    "an array alone": (extension(1, msgpack.packb([[1], "uint8", b"a"]))[3:], "expected a map of names, found an arr"),
    "cut off": (array([2], "float32", b"12345678")[:-3], "incomplete input"),
    "more behind it": (array([1], "uint8", b"a") + b"\x00", "extra data"),
    "many maps": (b"\x81\xa1a" * 500 + b"\xc0", "the tree is nested deeper than 64 maps"),
    "very many maps": (b"\x81\xa1a" * 100_000 + b"\xc0", "cannot be read as a msgpack file of flax"),
    "very many lists": (b"\x81\xa1a" + b"\x91" * 100_000, "cannot be read as a msgpack file of flax"),
    "a map of millions": (b"\x81\xa1a\xdf\xff\xff\xff\xff", "4294967295 exceeds max_map_len"),
    "a list of millions": (b"\x81\xa1a\xdd\x7f\xff\xff\xff", "2147483647 exceeds max_array_len"),
    "lists of many lists": (b"\x81\xa1a" + b"\xdd\x00\x00\xff\xff" * 1000, "cannot be read as a msgpack file of flax"),
    "very many values": (b"\x81\xa1a\x9f" + (b"\xdc\xff\xff" + b"\x90" * 0xFFFF) * 15, "more than 262144 values"),
    "text of gigabytes": (b"\x81\xa1a\xdb\xff\xff\xff\xff", "cannot be read as a msgpack file of flax"),
    "an array of gigabytes": (b"\x81\xa1a\xc9\xff\xff\xff\xff\x01", "cannot be read as a msgpack file of flax"),
    "a name without an end": (msgpack.packb({"a" * 2000: None}), "a name has 2000 characters, more than 1024"),
    "names that add up": (msgpack.packb({"a" * 600: {"b" * 600: None}}), "a name has 1201 characters"),
    "no text": (b"\x81\xa2\xff\xfe\xc0", "utf-8"),
    "key of nothing": (b"\x81\xc0\x01", "a key is of type NoneType, expected text or a whole number"),
    "key of bytes": (b"\x81\xc4\x01a\x01", "a key is of type bytes"),
    "key of a map": (b"\x81\x80\x01", "a key is of type dict"),
    "key of a truth": (b"\x81\xc3\x01", "a key is of type bool"),
    "key twice": (b"\x82\xa1a\xc0\xa1a\xc0", "a map has key 'a' twice"),
    "name twice": (msgpack.packb({"a": {"b": 1}, "a/b": 2}), "two values are called 'a/b'"),
    "number and text": (b"\x82\x01\xc3\xa11\xc2", "two values are called '1'"),
    "unknown type": (extension(4, b"abc"), "extension type 4; flax has 1, 2 and 3"),
    "a timestamp": (b"\x81\xa1a\xd6\xff\x00\x00\x00\x00", "a value is of type Timestamp, which flax does not write"),
    "objects": (array([1], "object", b"12345678"), "an array has dtype 'object'; rnnx reads bool, int8"),
    "fields": (array([1], "f4,f4", b"12345678"), "an array has dtype 'f4,f4'"),
    "unknown dtype": (array([1], "float8_e4m3fn", b"1"), "an array has dtype 'float8_e4m3fn'"),
    "too few bytes": (array([3], "float32", b"12345678"), r"an array of float32 and shape \(3,\) has 8 bytes"),
    "too many bytes": (array([1], "float32", b"12345678"), r"an array of float32 and shape \(1,\) has 8 bytes"),
    "a huge shape": (array([2**62, 2**62], "float32", b""), "which no array of NumPy can have"),
    "a huge and empty shape": (array([2**63, 0], "float32", b""), "which no array of NumPy can have"),
    "a negative shape": (array([-1], "float32", b""), "the shape of an array is not of whole numbers"),
    "a shape of floats": (array([1.0], "uint8", b"a"), "the shape of an array is not of whole numbers"),
    "too many dimensions": (array([1] * 33, "uint8", b"a"), "33 exceeds max_array_len"),
    "two fields": (array([1], "uint8"), "an array is not of a shape, a dtype's name and bytes"),
    "no shape": (array(1, "uint8", b"a"), "an array is not of a shape"),
    "no bytes": (array([1], "uint8", 5), "an array is not of a shape"),
    "no fields": (extension(1, b"\x05"), "a value of flax's own types should be a list"),
    "empty fields": (extension(1, b""), "cannot be read as a msgpack file of flax"),
    "a scalar with a shape": (extension(3, msgpack.packb([[1], "uint8", b"a"])), r"a scalar has shape \(1,\)"),
    "a complex number of one": (extension(2, msgpack.packb([1.0])), "a complex number is not of two floats"),
    "a complex number of text": (extension(2, msgpack.packb(["a", 1.0])), "a complex number is not of two floats"),
    "chunks without a shape": (chunked(shape=None), "an array in chunks has keys"),
    "chunks of numbers": (chunked(chunks={"0": 3}), "are not numbered from 0"),
    "chunks that are none": (chunked(chunks={}), "the chunks of an array are not vectors of one dtype"),
    "chunks in a list": (chunked(chunks=[]), "are not numbered from 0"),
    "chunks that skip": (chunked(chunks={"1": ODD_PIECE}), "are not numbered from 0"),
    "chunks too short": (chunked(shape={"0": 3}), r"an array of shape \(3,\) has chunks of 2 elements"),
    "a huge shape of chunks": (chunked(shape={"0": 2**62, "1": 2**62}), "which no array of NumPy can have"),
    "a negative shape of chunks": (chunked(shape={"0": -2}), "not of whole numbers"),
    "many dimensions of chunks": (chunked(shape={str(i): 1 for i in range(40)} | {"0": 2}), "has chunks of 2"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused(tmp_path, case):
    content, message = HOSTILE[case]
    path = tmp_path / "x.msgpack"
    path.write_bytes(content)
    with pytest.raises(WeightFormatError, match=message) as caught:
        read_archive(path, from_="flax")
    assert str(path) in str(caught.value)


def test_chunks_of_two_dtypes(tmp_path):
    piece = msgpack.ExtType(1, msgpack.packb([[1], "uint8", b"a"]))
    (tmp_path / "x.msgpack").write_bytes(chunked(chunks={"0": piece, "1": ODD_PIECE}))
    with pytest.raises(WeightFormatError, match="the chunks of an array are not vectors of one dtype"):
        read_archive(tmp_path / "x.msgpack", from_="flax")


def test_a_cell_whose_arrays_do_not_fit(tmp_path):
    tree = initialized(nn.RNN(nn.GRUCell(5)))
    tree["params"]["cell"]["hz"]["kernel"] = np.ones((5, 4), np.float32)
    with pytest.raises(WeightFormatError, match=r"'params/cell/hz/kernel' has shape \(5, 4\), expected \(5, 5\)"):
        rnnx.load(saved(tmp_path / "x.msgpack", tree))


def test_cells_without_inputs_or_units_are_none(tmp_path):
    tree = {
        "a": {"i": {"kernel": np.ones((0, 5)), "bias": np.ones(5)}, "h": {"kernel": np.ones((5, 5))}},
        "b": {"i": {"kernel": np.ones((5, 0)), "bias": np.ones(0)}, "h": {"kernel": np.ones((0, 0))}},
    }
    assert rnnx.infer(saved(tmp_path / "x.msgpack", tree), activation="tanh") == {}


def test_directions_that_read_other_inputs(tmp_path):
    tree = initialized(nn.Bidirectional(nn.RNN(nn.GRUCell(5)), nn.RNN(nn.GRUCell(5))))
    tree["params"]["backward_rnn"] = initialized(nn.RNN(nn.GRUCell(5)), 4)["params"]
    message = r"'params/backward_rnn/cell/ir/kernel' has shape \(4, 5\), expected \(3, 5\)"
    with pytest.raises(WeightFormatError, match=message):
        rnnx.load(saved(tmp_path / "x.msgpack", tree))


@pytest.mark.parametrize(
    "note",
    [
        *("", "{", "[]]", "3", "null", '"array"', '[["a", "none of these"]]', '[["a"]]', '[[["a"], "array"]]'),
        *('[[1.5, "array"]]', "[[true, []]]", f'[[{2**64}, "array"]]', '[["\\ud800", "array"]]', '{"list": 3}'),
        *("{}", '{"list": ["array"]}', "[" * 100_000, '[["a", ' * 80 + '"array"' + "]]" * 80),
    ],
)
def test_a_note_that_makes_no_sense(tmp_path, note):
    archive = Archive({}, {"a": np.ones(1)}, notes={flax_format.TREE: note})
    with pytest.raises(WeightFormatError, match=r"note 'flax.tree' does not describe a tree"):
        FlaxFormat().write(tmp_path / "x.msgpack", archive, Accepted())


def test_a_note_that_does_not_fit_what_is_there(tmp_path):
    note = '[["a", "text"], ["b", "int"], ["c", "complex"], ["d", "scalar"], ["e", "bytes"], ["e", "text"]]'
    arrays = {"a": np.ones(1), "b": np.ones((2, 3)), "c": np.array(2.5), "d": np.ones(2)}
    archive = Archive({}, arrays, {"e": b"\xff"}, {flax_format.TREE: note})
    with pytest.raises(WeightFormatError, match="what is to be text is not UTF-8"):
        FlaxFormat().write(tmp_path / "x.msgpack", archive, Accepted())
    FlaxFormat().write(tmp_path / "x.msgpack", dataclasses.replace(archive, files={}), Accepted())
    networks.same_bits(stored_in(tmp_path / "x.msgpack"), arrays)


def test_a_portable_file_with_a_hostile_note(tmp_path):
    write_portable(tmp_path / "x.rnnx", {"a": np.ones(1)}, {"parts": "{}", "notes": '{"flax.tree": "[[[]]]"}'})
    with pytest.raises(WeightFormatError, match=r"note 'flax.tree' does not describe a tree"):
        rnnx.convert(tmp_path / "x.rnnx", tmp_path / "x.msgpack")


def test_no_bytes_do_harm(tmp_path):
    """Every change of a file is read, or refused as one should be."""
    rng = random.Random(3)
    good = serialization.to_bytes(initialized(nn.Bidirectional(nn.RNN(nn.GRUCell(2)), nn.RNN(nn.SimpleCell(2)))))
    path = tmp_path / "x.msgpack"
    refused = 0
    for _ in range(2000):
        content = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.choice([rng.randrange(256), 0xC0, 0xDF, 0xC7, 0x80, 0xFF])
        path.write_bytes(bytes(content[: rng.choice([len(content), rng.randrange(len(content))])]))
        try:
            archive = read_archive(path, from_="flax", assume=rnnx.found.Assumptions(activation="tanh"))
            FlaxFormat().write(path, archive, Accepted())
        except RNNXError:
            refused += 1
    assert refused > 100


# -- telling files apart ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        msgpack.packb({"params": {}}),
        msgpack.packb({"step": 0, "params": {}}),
        msgpack.packb({0: {"kernel": 1}}),
        msgpack.packb({"a": {}}),
        msgpack.packb({"x" * 40: 1}),
        msgpack.packb({"x" * 200: {}}),
        msgpack.packb({str(i): i for i in range(300)}),
        msgpack.packb({"ä" * 100: 1}),
    ],
)
def test_trees_are_recognised(head):
    assert FlaxFormat().recognises(Path("x"), head[:64])


@pytest.mark.parametrize(
    "head",
    [
        *(b"", b"\x81", b"\x80", b"\x81\xa1", b"\x89HDF\r\n\x1a\n", b"\x89PNG\r\n\x1a\n", b"PK\3\4", b"\x93NUMPY\1\0"),
        *(
            b'{"nodes": []}',
            b"\x80\x02}q\0.",
            b"\x80\x04\x95",
            struct.pack("<QQ", 0x112, 0),
            b"\x08\x08\x12\x07pytorch",
        ),
        *(struct.pack("<Q", size) + b'{"__metadata__"' for size in (0x81, 0x0381, 0xA181, 0xA183 + (32 << 16), 0xA088)),
        *(b"\x81\xa2ab\xc1", b"\x81\xa2\x00\x01\x80", b"\x81\xc0\x80"),
    ],
)
def test_other_files_are_not(head):
    assert not FlaxFormat().recognises(Path("x"), head)

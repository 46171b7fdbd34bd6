"""Checkpoints: what MXNet writes runs here without a line of the user's code, and what is written here runs there."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnx

from .bridge import RESULTS, Array, Build, assert_close, mx, random_array, stacked

WORDS, WIDTH, CLASSES = 7, 4, 3
TOKENS = np.random.default_rng(1).integers(0, WORDS, (2, 5))

NETWORKS: dict[str, Build] = {
    **{
        f"fused {mode} {layers}x{1 + both}": lambda rnn, mode=mode, layers=layers, both=both: rnn.FusedRNNCell(
            3, layers, mode, bool(both), prefix=f"{mode}_"
        )
        for mode in ("lstm", "gru", "rnn_tanh", "rnn_relu")
        for layers, both in ((1, 0), (2, 1))
    },
    "lstm": lambda rnn: rnn.LSTMCell(3),
    "gru": lambda rnn: rnn.GRUCell(3),
    "rnn": lambda rnn: rnn.RNNCell(3, "softsign"),
    "unfused": lambda rnn: rnn.FusedRNNCell(3, 2, "gru", bidirectional=True, dropout=0.5, prefix="gru_").unfuse(),
    "bidirectional": lambda rnn: rnn.BidirectionalCell(rnn.LSTMCell(2, "l_"), rnn.GRUCell(3, "r_")),
    "residual": lambda rnn: rnn.ResidualCell(rnn.LSTMCell(WIDTH)),
    "zoneout": lambda rnn: rnn.ZoneoutCell(rnn.LSTMCell(3), 0.25, 0.5),
    "stack": lambda rnn: stacked(
        rnn, rnn.LSTMCell(3, "lstm_l0_"), rnn.DropoutCell(0.5), rnn.LSTMCell(3, "lstm_l1_"), rnn.GRUCell(2)
    ),
    "everything": lambda rnn: stacked(
        rnn,
        rnn.FusedRNNCell(3, 2, "rnn_relu", bidirectional=True, prefix="a_"),
        rnn.DropoutCell(0.5),
        rnn.ResidualCell(rnn.GRUCell(6, "b_")),
        rnn.BidirectionalCell(rnn.LSTMCell(2, "l_"), rnn.RNNCell(1, prefix="r_"), output_prefix="both_"),
        rnn.ZoneoutCell(rnn.LSTMCell(3, "z_"), 0.25, 0.5),
    ),
}


@dataclasses.dataclass(frozen=True)
class Model:
    """A network of words, with weights: what MXNet's `Module` would hand to a checkpoint."""

    build: Build
    symbol: Any
    arguments: dict[str, Array]
    states: dict[str, Array]

    @property
    def on_mxnet(self) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        return self.symbol, *({k: mx.nd.array(a, dtype=a.dtype) for k, a in each.items()} for each in self._arrays)

    @property
    def _arrays(self) -> tuple[dict[str, Array], dict[str, Array]]:
        return self.arguments, self.states


@pytest.fixture(params=NETWORKS, scope="module")
def model(request) -> Model:
    """Embedding, the cells, a linear layer and a normalisation, which has auxiliary states."""
    build = NETWORKS[request.param]
    cell = build(mx.rnn)
    embedded = mx.sym.Embedding(mx.sym.Variable("data"), input_dim=WORDS, output_dim=WIDTH, name="embed")
    begin = [mx.sym.zeros(**info) for info in cell.state_info]
    outputs, _ = cell.unroll(TOKENS.shape[1], embedded, begin_state=begin, layout="NTC", merge_outputs=True)
    scores = mx.sym.FullyConnected(mx.sym.reshape(outputs, shape=(-3, 0)), num_hidden=CLASSES, name="pred")
    symbol = mx.sym.BatchNorm(scores, fix_gamma=False, name="bn")
    shapes, _, state_shapes = symbol.infer_shape(data=TOKENS.shape)
    rng = np.random.default_rng(2)
    named = dict(zip(symbol.list_arguments(), shapes, strict=True))
    arguments = {name: random_array(rng, *shape) for name, shape in named.items() if name != "data"}
    state_names = symbol.list_auxiliary_states()
    states = {name: np.abs(random_array(rng, *shape)) for name, shape in zip(state_names, state_shapes, strict=True)}
    return Model(build, symbol, arguments, states)


def results_of_mxnet(symbol: Any, arguments: dict[str, Any], states: dict[str, Any]) -> Array:
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=TOKENS.shape)
    executor.copy_params_from(arguments, states)
    return executor.forward(is_train=False, data=mx.nd.array(TOKENS))[0].asnumpy()


def results_of_rnnx(cell: rnnx.BaseRNNCell, extra: dict[str, Array]) -> Array:
    """The network around the cells by hand, from the arrays that are no cell's."""
    outputs, _ = cell.unroll(None, extra["embed_weight"][TOKENS], merge_outputs=True)
    scores = outputs.reshape(-1, outputs.shape[2]) @ extra["pred_weight"].T + extra["pred_bias"]
    spread = np.sqrt(extra["aux:bn_moving_var"] + np.float32(1e-3))
    return (scores - extra["aux:bn_moving_mean"]) / spread * extra["bn_gamma"] + extra["bn_beta"]


def written_by_mxnet(model: Model, folder: Path, one_a_gate: bool) -> Path:
    """What `do_rnn_checkpoint` leaves, or `do_checkpoint`, with fused weights flat and others packed."""
    symbol, arguments, states = model.on_mxnet
    if one_a_gate:
        mx.rnn.save_rnn_checkpoint(model.build(mx.rnn), str(folder / "theirs"), 3, symbol, arguments, states)
    else:
        mx.model.save_checkpoint(str(folder / "theirs"), 3, symbol, arguments, states)
    return folder / "theirs-0003.params"


def stored_in(path: Path) -> dict[str, Array]:
    return {name: array.asnumpy() for name, array in mx.nd.load(str(path)).items()}


def assert_same(found: dict[str, Any], expected: dict[str, Array]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        mine = found[name] if isinstance(found[name], np.ndarray) else found[name].asnumpy()
        assert (name, mine.dtype, mine.shape) == (name, array.dtype, array.shape)
        assert mine.tobytes() == array.tobytes(), name


@pytest.mark.parametrize("one_a_gate", [True, False], ids=["one a gate", "packed"])
def test_what_mxnet_writes_runs_here(model, tmp_path, one_a_gate):
    path = written_by_mxnet(model, tmp_path, one_a_gate)
    cell, extra = rnnx.load(path)
    assert_same(cell.get_params(), {name: model.arguments[name] for name in cell.get_params()})
    assert len(cell.get_params()) + len(extra) == len(model.arguments) + len(model.states)
    expected = results_of_mxnet(*model.on_mxnet)
    assert_close(results_of_rnnx(cell, extra), expected, RESULTS, "results")
    rnnx.convert(path, tmp_path / "model.rnnx")
    assert_close(
        results_of_rnnx(*rnnx.load(tmp_path / "model.rnnx")), expected, RESULTS, "results of the portable file"
    )


def test_mxnet_loads_what_is_written_here(model, tmp_path):
    prefix = str(tmp_path / "ours")
    rnnx.save_rnn_checkpoint(model.build(rnnx), prefix, 3, model.symbol, model.arguments, model.states)
    symbol, arguments, states = mx.rnn.load_rnn_checkpoint(model.build(mx.rnn), prefix, 3)
    assert_same(arguments, model.arguments)
    assert_same(states, model.states)
    assert symbol.tojson() == model.symbol.tojson()
    expected = results_of_mxnet(*model.on_mxnet)
    np.testing.assert_array_equal(results_of_mxnet(symbol, arguments, states), expected)
    assert_close(results_of_rnnx(*rnnx.load(f"{prefix}-0003.params")), expected, RESULTS, "results")


def test_what_mxnet_writes_is_loaded_by_the_same_function_here(model, tmp_path):
    written_by_mxnet(model, tmp_path, one_a_gate=True)
    symbol, arguments, states = rnnx.load_rnn_checkpoint(model.build(rnnx), str(tmp_path / "theirs"), 3)
    assert symbol == (tmp_path / "theirs-symbol.json").read_bytes()
    assert_same(arguments, model.arguments)
    assert_same(states, model.states)


@pytest.mark.parametrize("one_a_gate", [True, False], ids=["one a gate", "packed"])
def test_mxnet_loads_what_was_converted_there_and_back(model, tmp_path, one_a_gate):
    theirs, ours = written_by_mxnet(model, tmp_path, one_a_gate), tmp_path / "ours-0003.params"
    rnnx.convert(theirs, tmp_path / "model.rnnx")
    rnnx.convert(tmp_path / "model.rnnx", ours)
    assert_same(stored_in(ours), stored_in(theirs))
    assert (tmp_path / "ours-symbol.json").read_bytes() == (tmp_path / "theirs-symbol.json").read_bytes()
    if one_a_gate:
        loaded = mx.rnn.load_rnn_checkpoint(model.build(mx.rnn), str(tmp_path / "ours"), 3)
    else:
        loaded = mx.model.load_checkpoint(str(tmp_path / "ours"), 3)
    np.testing.assert_array_equal(results_of_mxnet(*loaded), results_of_mxnet(*model.on_mxnet))


def test_a_portable_file_becomes_a_checkpoint_for_mxnet(model, tmp_path):
    """Where there never was a symbol, MXNet needs the user's code for the network, and takes the weights."""
    cell = model.build(rnnx)
    cell.load_params(model.arguments, ignore_extra=True)
    others = {name: array for name, array in model.arguments.items() if name not in cell.get_params()}
    states = {f"aux:{name}": array for name, array in model.states.items()}
    rnnx.save(tmp_path / "model.rnnx", cell, {**others, **states})
    rnnx.convert(tmp_path / "model.rnnx", tmp_path / "ours-0003.params", weights_only=True)
    model.symbol.save(str(tmp_path / "ours-symbol.json"))
    symbol, arguments, states = mx.rnn.load_rnn_checkpoint(model.build(mx.rnn), str(tmp_path / "ours"), 3)
    assert_same(arguments, model.arguments)
    np.testing.assert_array_equal(results_of_mxnet(symbol, arguments, states), results_of_mxnet(*model.on_mxnet))


def test_the_callback_writes_the_bytes_that_mxnet_writes(model, tmp_path):
    theirs = mx.rnn.do_rnn_checkpoint(model.build(mx.rnn), str(tmp_path / "theirs"), period=2)
    ours = rnnx.do_rnn_checkpoint(model.build(rnnx), str(tmp_path / "ours"), period=2)
    for epoch in range(3):
        theirs(epoch, *model.on_mxnet)
        ours(epoch, model.symbol, model.arguments, model.states)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ours-0002.params", "ours-symbol.json", "theirs-0002.params", "theirs-symbol.json",
    ]  # fmt: skip
    assert (tmp_path / "ours-symbol.json").read_bytes() == (tmp_path / "theirs-symbol.json").read_bytes()
    assert_same(stored_in(tmp_path / "ours-0002.params"), stored_in(tmp_path / "theirs-0002.params"))
    assert list(stored_in(tmp_path / "ours-0002.params")) == list(stored_in(tmp_path / "theirs-0002.params"))
    assert (tmp_path / "ours-0002.params").read_bytes() == (tmp_path / "theirs-0002.params").read_bytes()


def test_several_cells_in_one_checkpoint(tmp_path):
    """An encoder and a decoder, each with cells of its own."""

    def build(rnn: Any) -> list[Any]:
        return [rnn.FusedRNNCell(3, 2, "lstm", prefix="encoder_"), rnn.GRUCell(2, prefix="decoder_")]

    arguments = {}
    for cell in build(rnnx):
        cell.initialize(WIDTH, seed=3)
        arguments.update(cell.get_params())
    on_mxnet = {name: mx.nd.array(array) for name, array in arguments.items()}
    mx.rnn.save_rnn_checkpoint(build(mx.rnn), str(tmp_path / "theirs"), 1, None, on_mxnet, {})
    rnnx.save_rnn_checkpoint(build(rnnx), str(tmp_path / "ours"), 1, None, arguments)
    assert_same(stored_in(tmp_path / "ours-0001.params"), stored_in(tmp_path / "theirs-0001.params"))
    assert_same(rnnx.load_rnn_checkpoint(build(rnnx), str(tmp_path / "theirs"), 1)[1], arguments)

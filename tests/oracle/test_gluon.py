"""Gluon's layers and cells: what it saves is read here, and what is written back, it loads and runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnx
from rnnx.formats.mxnet.ndarray import read_ndarrays

from .bridge import RESULTS, Array, assert_close, mx

gluon = mx.gluon
WIDTH, STEPS, BATCH, HIDDEN = 3, 5, 2, 4
INPUTS = np.random.default_rng(1).normal(size=(BATCH, STEPS, WIDTH)).astype("float32")

Make = Callable[[], Any]

#: Layers, and the activation that must be told.
LAYERS: dict[str, tuple[Make, str | None]] = {
    **{
        f"{name} {layers}x{1 + both}": (
            lambda kind=kind, layers=layers, both=both, more=more: kind(
                HIDDEN, layers, layout="NTC", bidirectional=bool(both), **more
            ),
            more.get("activation"),
        )
        for name, kind, more in (
            ("lstm", gluon.rnn.LSTM, {}),
            ("gru", gluon.rnn.GRU, {}),
            ("rnn_relu", gluon.rnn.RNN, {"activation": "relu"}),
            ("rnn_tanh", gluon.rnn.RNN, {"activation": "tanh"}),
            ("projected", gluon.rnn.LSTM, {"projection_size": 2}),
            ("projected wider", gluon.rnn.LSTM, {"projection_size": 6}),
        )
        for layers, both in ((1, 0), (1, 1), (3, 0), (2, 1))
    },
    "ten layers": (lambda: gluon.rnn.GRU(2, 10, layout="NTC"), None),
}


def cells(*several: Any) -> Any:
    stack = gluon.rnn.HybridSequentialRNNCell()
    for each in several:
        stack.add(each)
    return stack


#: Cells and stacks of them, the activation that must be told, and the tree where keys do not tell it.
CELLS: dict[str, tuple[Make, str | None, Callable[[], rnnx.BaseRNNCell] | None]] = {
    "lstm": (lambda: gluon.rnn.LSTMCell(HIDDEN), None, None),
    "gru": (lambda: gluon.rnn.GRUCell(HIDDEN), None, None),
    "rnn": (lambda: gluon.rnn.RNNCell(HIDDEN), "tanh", None),
    "softsign": (lambda: gluon.rnn.RNNCell(HIDDEN, activation="softsign"), "softsign", None),
    "projected": (lambda: gluon.contrib.rnn.LSTMPCell(HIDDEN, 2), None, None),
    "both directions": (
        lambda: gluon.rnn.BidirectionalCell(gluon.rnn.LSTMCell(HIDDEN), gluon.rnn.GRUCell(2)),
        None,
        None,
    ),
    "stack": (
        lambda: cells(
            gluon.rnn.LSTMCell(HIDDEN),
            gluon.rnn.DropoutCell(0.5),
            gluon.rnn.BidirectionalCell(gluon.contrib.rnn.LSTMPCell(HIDDEN, 2), gluon.rnn.GRUCell(3)),
            gluon.rnn.ZoneoutCell(gluon.rnn.LSTMCell(3), 0.2, 0.2),
            gluon.rnn.GRUCell(3),
        ),
        None,
        None,
    ),
    "stacks within": (
        lambda: cells(
            cells(gluon.rnn.GRUCell(HIDDEN), gluon.rnn.GRUCell(HIDDEN)),
            gluon.rnn.BidirectionalCell(cells(gluon.rnn.LSTMCell(2), gluon.rnn.LSTMCell(2)), gluon.rnn.LSTMCell(3)),
        ),
        None,
        None,
    ),
    "residual": (
        lambda: cells(gluon.rnn.ResidualCell(gluon.rnn.GRUCell(WIDTH)), gluon.rnn.LSTMCell(2)),
        None,
        lambda: stacked(rnnx.ResidualCell(rnnx.GRUCell(WIDTH)), rnnx.LSTMCell(2)),
    ),
    "zoned out": (
        lambda: gluon.rnn.ZoneoutCell(gluon.rnn.RNNCell(WIDTH), 0.5, 0.5),
        None,
        lambda: rnnx.ZoneoutCell(rnnx.RNNCell(WIDTH), 0.5, 0.5),
    ),
}


class Model(gluon.Block):
    """A network with layers at several places, and weights that are no cell's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = gluon.nn.Dense(WIDTH, flatten=False)
        self.encoder = gluon.nn.HybridSequential()
        self.encoder.add(gluon.nn.LayerNorm(), gluon.rnn.LSTM(HIDDEN, 2, layout="NTC", bidirectional=True))
        self.encoder.add(gluon.nn.Dropout(0.5), gluon.rnn.GRU(2, layout="NTC"), gluon.rnn.GRU(2, layout="NTC"))
        self.decoder = gluon.rnn.SequentialRNNCell()
        self.decoder.add(gluon.rnn.LSTMCell(3))
        self.decoder.add(gluon.rnn.LSTMCell(5))

    def forward(self, inputs: Any) -> Any:
        return self.decoder.unroll(STEPS, self.encoder(self.embed(inputs)), merge_outputs=True)[0]


def stacked(*several: rnnx.BaseRNNCell) -> rnnx.SequentialRNNCell:
    stack = rnnx.SequentialRNNCell()
    for each in several:
        stack.add(each)
    return stack


def randomized(block: Any, seed: int = 3) -> Any:
    """The block with every element of every weight different."""
    block.initialize(force_reinit=True)
    run(block, INPUTS)
    rng = np.random.default_rng(seed)
    for parameter in block.collect_params().values():
        parameter.set_data(mx.nd.array(rng.uniform(-1, 1, parameter.shape)))
    return block


def run(block: Any, inputs: Array) -> Array:
    """Outputs (N, T, C)."""
    given = mx.nd.array(inputs)
    if isinstance(block, gluon.rnn.RecurrentCell):
        block.reset()
        return block.unroll(inputs.shape[1], given, layout="NTC", merge_outputs=True)[0].asnumpy()
    return block(given).asnumpy()


def ours(cell: rnnx.BaseRNNCell, inputs: Array) -> Array:
    return cell.unroll(None, inputs, merge_outputs=True)[0]


def run_alike(cell: rnnx.BaseRNNCell, block: Any) -> None:
    """The cell gives what the block gives."""
    assert_close(ours(cell, INPUTS), run(block, INPUTS), RESULTS, "outputs")


def stored_in(path: Path) -> dict[str, Array]:
    return dict(zip(*read_ndarrays(path), strict=True))


def same(one: Path, other: Path) -> None:
    """Both files hold the same arrays under the same keys."""
    first, second = stored_in(one), stored_in(other)
    assert first.keys() == second.keys()
    for key, array in first.items():
        assert (array.dtype, array.shape, array.tobytes()) == (
            second[key].dtype, second[key].shape, second[key].tobytes(),
        )  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_there_and_back(tmp_path, name):
    make, activation = LAYERS[name]
    block = randomized(make())
    block.save_parameters(str(tmp_path / "theirs.params"))
    cell, extra = rnnx.load(tmp_path / "theirs.params", activation=activation)
    assert not extra
    run_alike(cell, block)
    rnnx.convert(tmp_path / "theirs.params", tmp_path / "portable.rnnx", activation=activation)
    rnnx.convert(tmp_path / "portable.rnnx", tmp_path / "ours.params")
    same(tmp_path / "theirs.params", tmp_path / "ours.params")
    other = make()
    other.load_parameters(str(tmp_path / "ours.params"))
    run_alike(cell, other)


@pytest.mark.parametrize("strip", [False, True], ids=["full", "stripped"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_under_its_full_name(tmp_path, name, strip):
    make, activation = LAYERS[name]
    block = randomized(make())
    block.collect_params().save(str(tmp_path / "theirs.params"), block.prefix if strip else "")
    cell, extra = rnnx.load(tmp_path / "theirs.params", activation=activation)
    assert not extra
    run_alike(cell, block)
    rnnx.convert(tmp_path / "theirs.params", tmp_path / "ours.params", activation=activation)
    same(tmp_path / "theirs.params", tmp_path / "ours.params")
    randomized(block, seed=4).collect_params().load(
        str(tmp_path / "ours.params"), restore_prefix=block.prefix if strip else ""
    )
    run_alike(cell, block)


@pytest.mark.parametrize("name", CELLS)
def test_cells_there_and_back(tmp_path, name):
    make, activation, tree = CELLS[name]
    block = randomized(make())
    block.save_parameters(str(tmp_path / "theirs.params"))
    given = {"cell": tree()} if tree else {}
    cell, extra = rnnx.load(tmp_path / "theirs.params", activation=activation, **given)
    assert not extra
    run_alike(cell, block)
    given = {"cell": tree()} if tree else {}
    rnnx.convert(tmp_path / "theirs.params", tmp_path / "portable.rnnx", activation=activation, **given)
    rnnx.convert(tmp_path / "portable.rnnx", tmp_path / "ours.params")
    same(tmp_path / "theirs.params", tmp_path / "ours.params")
    other = make()
    other.load_parameters(str(tmp_path / "ours.params"))
    run_alike(cell, other)


def test_a_network_with_layers_at_several_places(tmp_path):
    block = randomized(Model())
    block.save_parameters(str(tmp_path / "theirs.params"))
    parts = rnnx.load_all(tmp_path / "theirs.params")
    assert list(parts) == ["decoder", "encoder.1", "encoder.3", "encoder.4"]
    embedded = block.encoder[0](block.embed(mx.nd.array(INPUTS))).asnumpy()
    encoded = ours(parts["encoder.1"], embedded)
    assert_close(encoded, block.encoder[1](mx.nd.array(embedded)).asnumpy(), RESULTS, "outputs")
    found = ours(parts["decoder"], ours(parts["encoder.4"], ours(parts["encoder.3"], encoded)))
    assert_close(found, run(block, INPUTS), RESULTS, "outputs")
    rnnx.convert(tmp_path / "theirs.params", tmp_path / "ours.params")
    other = Model()
    other.load_parameters(str(tmp_path / "ours.params"))
    assert_close(run(other, INPUTS), run(block, INPUTS), RESULTS, "outputs")


def test_a_changed_network_goes_out_under_other_names(tmp_path):
    block = randomized(gluon.rnn.LSTM(HIDDEN, 2, layout="NTC", prefix="lstm_"))
    block.save_parameters(str(tmp_path / "theirs.params"))
    rnnx.convert(tmp_path / "theirs.params", tmp_path / "ours.params", unfuse=True)
    assert "lstm_l1_h2h_o_weight" in stored_in(tmp_path / "ours.params")


def test_an_exported_layer_with_projections(tmp_path):
    """The symbol tells the tree; its weights stand in the file under their full names."""
    options = {"num_layers": 2, "bidirectional": True, "projection_size": 3}
    block = randomized(gluon.rnn.LSTM(HIDDEN, layout="NTC", prefix="layer_", **options))
    block.hybridize()
    run(block, INPUTS)
    block.export(str(tmp_path / "model"))
    (part,) = rnnx.infer(tmp_path / "model-0000.params").values()
    assert [cell.kind for cell in part.spec.children] == ["BidirectionalCell"] * 2
    assert "its hidden state is projected to 3" in part.evidence[0]
    run_alike(part.cell, block)
    rnnx.convert(tmp_path / "model-0000.params", tmp_path / "there.rnnx")
    rnnx.convert(tmp_path / "there.rnnx", tmp_path / "back-0000.params")
    same(tmp_path / "back-0000.params", tmp_path / "model-0000.params")

"""Checkpoints of TensorFlow 1: what its cells compute, rnnx computes from their variables, and they from rnnx's."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import networks
import rnnx
from networks import assert_all_close, batch_major, randomized, same_bits, sequential
from rnnx.archive import Accepted, Archive, Part
from rnnx.errors import RNNXError, ShapeError, UnsupportedError, WeightFormatError
from rnnx.files import read_archive
from rnnx.formats.tf1 import TF1Format
from rnnx.formats.tf1 import files as tf1_files
from rnnx.formats.tf1 import index as tf1_index
from rnnx.found import Assumptions
from rnnx.weights.portable import write_portable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="TensorFlow judges its checkpoints, and reads and writes them")
cells = pytest.importorskip(
    "tensorflow.python.keras.layers.legacy_rnn.rnn_cell_impl", reason="TensorFlow 1's cells judge their checkpoints"
)

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:`tf\.nn\.rnn_cell\.\w+` is deprecated:UserWarning"),
    pytest.mark.filterwarnings(r"ignore:`layer\.add_variable` is deprecated:UserWarning"),
]

v1 = tf.compat.v1

WIDTH, HIDDEN, STEPS = 3, 5, 6

INPUTS = np.random.default_rng(5).normal(size=(2, STEPS, WIDTH)).astype(np.float32)

#: A graph: from inputs (N, T, WIDTH) to outputs (N, T, H), with variables made on the way.
Graph = Callable[[Any], Any]


# -- graphs -----------------------------------------------------------------------------------------------------------


def run(cell: Any, scope: str = "rnn") -> Graph:
    return lambda inputs: v1.nn.dynamic_rnn(cell(), inputs, dtype=tf.float32, scope=scope)[0]


def both_ways(forward: Callable[[], Any], backward: Callable[[], Any], scope: str | None = None) -> Graph:
    def build(inputs: Any) -> Any:
        outputs, _ = v1.nn.bidirectional_dynamic_rnn(forward(), backward(), inputs, dtype=tf.float32, scope=scope)
        return tf.concat(outputs, -1)

    return build


def stack_both_ways(cell: Callable[[], Any], layers: int = 2) -> Graph:
    """As ``tf.contrib.rnn.stack_bidirectional_dynamic_rnn`` does it."""

    def build(inputs: Any) -> Any:
        with v1.variable_scope("stack_bidirectional_rnn"):
            for layer in range(layers):
                with v1.variable_scope(f"cell_{layer}"):
                    inputs = both_ways(cell, cell)(inputs)
        return inputs

    return build


def stacked(*makers: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: cells.MultiRNNCell([make() for make in makers])


def lstm(units: int = HIDDEN, **options: Any) -> Callable[[], Any]:
    return lambda: cells.LSTMCell(units, **options)


def basic_lstm(units: int = HIDDEN, **options: Any) -> Callable[[], Any]:
    return lambda: cells.BasicLSTMCell(units, **options)


def gru(units: int = HIDDEN, **options: Any) -> Callable[[], Any]:
    return lambda: cells.GRUCell(units, **options)


def basic_rnn(units: int = HIDDEN, **options: Any) -> Callable[[], Any]:
    return lambda: cells.BasicRNNCell(units, **options)


class _OwnCell(cells.LayerRNNCell):
    """A cell of contrib, which TensorFlow 2 does not bring: variables by name and shape, and `call`."""

    def __init__(self, units: int, name: str) -> None:
        super().__init__(name=name)
        self.units = units

    @property
    def state_size(self) -> Any:
        return self.units

    @property
    def output_size(self) -> int:
        return self.units

    def shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        raise NotImplementedError

    def build(self, shape: Any) -> None:
        self.own = {name: self.add_weight(name, each) for name, each in self.shapes(int(shape[-1])).items()}
        self.built = True


class GRUBlockCell(_OwnCell):
    """``tf.contrib.rnn.GRUBlockCell``: its variables, and the operator behind it."""

    def __init__(self) -> None:
        super().__init__(HIDDEN, "gru_cell")

    def shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        both = width + HIDDEN
        return {"w_ru": (both, 2 * HIDDEN), "b_ru": (2 * HIDDEN,), "w_c": (both, HIDDEN), "b_c": (HIDDEN,)}

    def call(self, inputs: Any, state: Any) -> Any:
        hidden = tf.raw_ops.GRUBlockCell(x=inputs, h_prev=state, **self.own)[3]
        return hidden, hidden


class LSTMBlockCell(_OwnCell):
    """``tf.contrib.rnn.LSTMBlockCell``: its variables, and the operator behind it, without a clip as by default."""

    def __init__(self) -> None:
        super().__init__(HIDDEN, "lstm_cell")

    @property
    def state_size(self) -> Any:
        return cells.LSTMStateTuple(HIDDEN, HIDDEN)

    def shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        return {"kernel": (width + HIDDEN, 4 * HIDDEN), "bias": (4 * HIDDEN,)}

    def call(self, inputs: Any, state: Any) -> Any:
        none = tf.zeros((HIDDEN,))
        made = tf.raw_ops.LSTMBlockCell(
            x=inputs, cs_prev=state[0], h_prev=state[1], w=self.own["kernel"], b=self.own["bias"],
            wci=none, wcf=none, wco=none, forget_bias=1.0, cell_clip=-1.0, use_peephole=False,
        )  # fmt: skip
        return made[6], cells.LSTMStateTuple(made[1], made[6])


class CudnnCompatibleGRUCell(_OwnCell):
    """``tf.contrib.cudnn_rnn.CudnnCompatibleGRUCell``, after its documentation."""

    def __init__(self) -> None:
        super().__init__(HIDDEN, "cudnn_compatible_gru_cell")

    def shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        return {
            "gates/kernel": (width + HIDDEN, 2 * HIDDEN),
            "gates/bias": (2 * HIDDEN,),
            "candidate/input_projection/kernel": (width, HIDDEN),
            "candidate/hidden_projection/kernel": (HIDDEN, HIDDEN),
            "candidate/input_projection/bias": (HIDDEN,),
            "candidate/hidden_projection/bias": (HIDDEN,),
        }

    def call(self, inputs: Any, state: Any) -> Any:
        own = self.own
        gates = tf.sigmoid(tf.concat([inputs, state], 1) @ own["gates/kernel"] + own["gates/bias"])
        reset, update = tf.split(gates, 2, 1)
        read = inputs @ own["candidate/input_projection/kernel"] + own["candidate/input_projection/bias"]
        kept = state @ own["candidate/hidden_projection/kernel"] + own["candidate/hidden_projection/bias"]
        hidden = (1 - update) * tf.tanh(read + reset * kept) + update * state
        return hidden, hidden


def trained(
    stem: Path,
    graph: Graph,
    names: Callable[[str], str] = str,
    others: Mapping[str, np.ndarray] = {},
    write_version: int = v1.train.SaverDef.V2,
    **save: Any,
) -> np.ndarray:
    """Save a checkpoint of a graph, with every number of every variable drawn anew, and return the graph's outputs."""
    rng = np.random.default_rng(7)
    with v1.Graph().as_default(), v1.Session() as session:
        outputs = graph(tf.constant(INPUTS))
        for variable in v1.global_variables():
            value = rng.uniform(0.1, 0.9, variable.shape) * rng.choice([-1, 1], variable.shape)
            session.run(v1.assign(variable, value.astype(np.float32)))
        saved = {names(variable.op.name): variable for variable in v1.global_variables()}
        for name, value in others.items():
            saved[name] = v1.get_variable(f"other_{len(saved)}", initializer=tf.constant(value), use_resource=True)
            session.run(saved[name].initializer)
        v1.train.Saver(saved, write_version=write_version).save(
            session, str(stem), **{"write_meta_graph": False, **save}
        )
        return session.run(outputs)


def restored(stem: Path, graph: Graph, inputs: np.ndarray = INPUTS) -> np.ndarray:
    """The outputs of a graph whose variables are a checkpoint's."""
    with v1.Graph().as_default(), v1.Session() as session:
        outputs = graph(tf.constant(inputs))
        v1.train.Saver(v1.global_variables()).restore(session, str(stem))
        return session.run(outputs)


def variables_in(stem: Path) -> dict[str, np.ndarray]:
    reader = v1.train.NewCheckpointReader(str(stem))
    return {name: np.asarray(reader.get_tensor(name)) for name in reader.get_variable_to_shape_map()}


def outputs_of(cell: rnnx.BaseRNNCell, inputs: np.ndarray = INPUTS) -> np.ndarray:
    return batch_major(cell.unroll(None, inputs, merge_outputs=True)[0])


def bytes_of(stem: Path) -> list[bytes]:
    return [Path(f"{stem}{ending}").read_bytes() for ending in (".index", ".data-00000-of-00001")]


# -- what TensorFlow trained ------------------------------------------------------------------------------------------

FUSED_LSTM = rnnx.FusedRNNCell(HIDDEN, 2, "lstm", prefix="rnn_")


def pair(left: rnnx.BaseRNNCell, right: rnnx.BaseRNNCell, output_prefix: str) -> rnnx.BaseRNNCell:
    return rnnx.BidirectionalCell(left, right, output_prefix=output_prefix)


#: Name: graph, what to say of it, the tree it is taken for.
TRAINED: dict[str, tuple[Graph, dict[str, Any], Callable[[], rnnx.BaseRNNCell]]] = {
    "BasicLSTMCell": (run(basic_lstm()), {"forget_bias": 1.0}, lambda: rnnx.LSTMCell(HIDDEN, "rnn_")),
    "BasicLSTMCell adding nothing": (
        run(basic_lstm(forget_bias=0.0)),
        {"forget_bias": 0.0},
        lambda: rnnx.LSTMCell(HIDDEN, "rnn_"),
    ),
    "LSTMCell": (
        run(lstm(forget_bias=0.1), "encoder/rnn"),
        {"forget_bias": 0.1},
        lambda: rnnx.LSTMCell(HIDDEN, "encoder/rnn_"),
    ),
    "LSTMCell projected": (
        run(lstm(num_proj=2)),
        {"forget_bias": 1.0},
        lambda: rnnx.LSTMPCell(HIDDEN, 2, "rnn_"),
    ),
    "LSTMBlockCell": (run(LSTMBlockCell), {"forget_bias": 1.0}, lambda: rnnx.LSTMCell(HIDDEN, "rnn_")),
    "GRUCell": (run(gru()), {}, lambda: rnnx.GRUCell(HIDDEN, "rnn_", reset_after=False)),
    "GRUBlockCell": (run(GRUBlockCell), {}, lambda: rnnx.GRUCell(HIDDEN, "rnn_", reset_after=False)),
    "CudnnCompatibleGRUCell": (run(CudnnCompatibleGRUCell), {}, lambda: rnnx.GRUCell(HIDDEN, "rnn_")),
    "BasicRNNCell": (run(basic_rnn()), {"activation": "tanh"}, lambda: rnnx.RNNCell(HIDDEN, "tanh", "rnn_")),
    "BasicRNNCell of relu": (
        run(basic_rnn(activation=tf.nn.relu)),
        {"activation": "relu"},
        lambda: rnnx.RNNCell(HIDDEN, "relu", "rnn_"),
    ),
    "stack": (run(stacked(basic_lstm(), basic_lstm())), {"forget_bias": 1.0}, lambda: FUSED_LSTM),
    "stack of CuDNN's LSTMs": (
        run(stacked(*[basic_lstm(forget_bias=0.0, name="cudnn_compatible_lstm_cell")] * 2)),
        {},
        lambda: FUSED_LSTM,
    ),
    "stack of CuDNN's GRUs": (
        run(stacked(CudnnCompatibleGRUCell, CudnnCompatibleGRUCell)),
        {},
        lambda: rnnx.FusedRNNCell(HIDDEN, 2, "gru", prefix="rnn_"),
    ),
    "stack of plain cells": (
        run(stacked(basic_rnn(), basic_rnn())),
        {"activation": "tanh"},
        lambda: rnnx.FusedRNNCell(HIDDEN, 2, "rnn_tanh", prefix="rnn_"),
    ),
    "stack of several kinds": (
        run(stacked(lstm(4), gru(), lstm(num_proj=2))),
        {"forget_bias": 1.0},
        lambda: sequential(
            rnnx.LSTMCell(4, "rnn_l0_"),
            rnnx.GRUCell(HIDDEN, "rnn_l1_", reset_after=False),
            rnnx.LSTMPCell(HIDDEN, 2, "rnn_l2_"),
        ),
    ),
    "both directions": (
        both_ways(lstm(), lstm()),
        {"forget_bias": 1.0},
        lambda: rnnx.FusedRNNCell(HIDDEN, 1, "lstm", bidirectional=True, prefix="lstm_"),
    ),
    "both directions of GRUs": (
        both_ways(gru(), gru(4), "encoder"),
        {},
        lambda: pair(
            rnnx.GRUCell(HIDDEN, "encoder_l0_", reset_after=False),
            rnnx.GRUCell(4, "encoder_r0_", reset_after=False),
            "encoder_bi_l0_",
        ),
    ),
    "both directions of stacks": (
        both_ways(stacked(lstm(), gru(4)), stacked(lstm(4), gru()), "x/bidirectional_rnn"),
        {"forget_bias": 1.0},
        lambda: pair(
            sequential(rnnx.LSTMCell(HIDDEN, "x_l0_"), rnnx.GRUCell(4, "x_l1_", reset_after=False)),
            sequential(rnnx.LSTMCell(4, "x_r0_"), rnnx.GRUCell(HIDDEN, "x_r1_", reset_after=False)),
            "x_bi_",
        ),
    ),
    "stack of both directions": (
        stack_both_ways(basic_lstm()),
        {"forget_bias": 1.0},
        lambda: rnnx.FusedRNNCell(HIDDEN, 2, "lstm", bidirectional=True, prefix="lstm_"),
    ),
    "stack of both directions of GRUs": (
        stack_both_ways(gru()),
        {},
        lambda: sequential(
            *(
                pair(
                    rnnx.GRUCell(HIDDEN, f"gru_l{layer}_", reset_after=False),
                    rnnx.GRUCell(HIDDEN, f"gru_r{layer}_", reset_after=False),
                    f"gru_bi_l{layer}_",
                )
                for layer in range(2)
            )
        ),
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, np.ndarray]]:
    """A function from the name of a graph to its checkpoint and outputs, each made once."""
    made: dict[str, tuple[Path, np.ndarray]] = {}

    def model(name: str) -> tuple[Path, np.ndarray]:
        if name not in made:
            stem = tmp_path_factory.mktemp("model") / "model.ckpt"
            made[name] = stem, trained(stem, TRAINED[name][0])
        return made[name]

    return model


@pytest.mark.parametrize("name", TRAINED)
def test_what_tensorflow_computes(models, name):
    stem, expected = models(name)
    _, said, tree = TRAINED[name]
    cell, extra = rnnx.load(stem, **said)
    assert not extra
    assert cell.spec == tree().spec
    assert_all_close([outputs_of(cell)], [expected], 1e-5)


@pytest.mark.parametrize("name", TRAINED)
def test_there_and_back(models, tmp_path, name):
    """By way of a portable file, every byte comes back, and the constant that was given is needed again."""
    stem, _ = models(name)
    said = TRAINED[name][1]
    rnnx.convert(stem, tmp_path / "there.rnnx", **said)
    rnnx.convert(tmp_path / "there.rnnx", tmp_path / "back.ckpt")
    assert bytes_of(tmp_path / "back.ckpt") == bytes_of(stem)
    assert {path.name for path in tmp_path.iterdir()} == {
        "there.rnnx",
        "back.ckpt.index",
        "back.ckpt.data-00000-of-00001",
    }


def test_early_names(tmp_path):
    """TensorFlow 1.0 called kernels weights, and biases by their plural."""
    graph = run(stacked(basic_lstm(), gru(), lstm(num_proj=2), basic_rnn()))
    expected = trained(
        tmp_path / "model.ckpt", graph, lambda name: name.replace("kernel", "weights").replace("bias", "biases")
    )
    assert "rnn/multi_rnn_cell/cell_1/gru_cell/gates/biases" in variables_in(tmp_path / "model.ckpt")
    cell, extra = rnnx.load(tmp_path / "model.ckpt", activation="tanh", forget_bias=1.0)
    assert not extra
    assert_all_close([outputs_of(cell)], [expected], 1e-5)


@pytest.mark.parametrize("shape", [(7, 4), (300, 2), (40_000, 1), (9,)])
def test_a_partitioned_variable(tmp_path, shape):
    def model(inputs: Any) -> Any:
        v1.get_variable("embedding", shape, partitioner=v1.fixed_size_partitioner(3), use_resource=False)
        return run(gru())(inputs)

    with v1.Graph().as_default(), v1.Session() as session:
        model(tf.constant(INPUTS))
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "model.ckpt"), write_meta_graph=False)
        expected = np.concatenate(session.run([each for each in v1.global_variables() if "embedding" in each.name]))
    index = tf1_index.read_index(tmp_path / "model.ckpt.index")
    assert len(index.variables[b"embedding"].slices) == len(index.slices) == 3
    _, extra = rnnx.load(tmp_path / "model.ckpt")
    np.testing.assert_array_equal(extra["embedding"], expected)


def test_evidence(models):
    part = rnnx.infer(models("stack of several kinds")[0], forget_bias=1.0)["rnn"]
    assert part.evidence == (
        "variables kernel, bias of 'rnn/multi_rnn_cell/cell_0/lstm_cell': LSTM, gates i j f o, 4 hidden, reading 3",
        "'rnn/multi_rnn_cell/cell_0/lstm_cell' is said to add 1.0 to its forget gate when it runs: that is its h2h "
        "bias, and the stored bias stays as it is",
        "variables gates/kernel, gates/bias, candidate/kernel, candidate/bias of "
        "'rnn/multi_rnn_cell/cell_1/gru_cell': GRU, gates r u and candidate, reset before the product, 5 hidden, "
        "reading 4",
        "variables kernel, bias of 'rnn/multi_rnn_cell/cell_2/lstm_cell': LSTM, gates i j f o, 5 hidden, projected to "
        "2, reading 5",
        "'rnn/multi_rnn_cell/cell_2/lstm_cell' is said to add 1.0 to its forget gate when it runs: that is its h2h "
        "bias, and the stored bias stays as it is",
        "variables do not tell residual connections, dropout, a clipped state, or another activation than tanh of LSTM "
        "and GRU cells: none are assumed",
    )


# -- the constant of the forget gate ----------------------------------------------------------------------------------


def test_the_constant_is_a_bias_of_its_own(models):
    stem, _ = models("LSTMCell")
    part = rnnx.infer(stem, forget_bias=0.1)["encoder/rnn"]
    stored = variables_in(stem)["encoder/rnn/lstm_cell/bias"]
    prefix = "encoder/rnn_"
    for gate, bias in zip("icfo", np.split(stored, 4), strict=True):
        np.testing.assert_array_equal(part.weights[f"{prefix}i2h_{gate}_bias"], bias)
        added = np.float32(0.1 if gate == "f" else 0)
        np.testing.assert_array_equal(part.weights[f"{prefix}h2h_{gate}_bias"], np.full(HIDDEN, added))


def test_the_constant_must_be_given(models):
    with pytest.raises(WeightFormatError, match=r"model.ckpt: part 'rnn' .*forget_bias=1.0 .* or forget_bias=0.0"):
        rnnx.load(models("stack")[0])
    with pytest.raises(ShapeError, match="forget_bias is nan, expected a finite number"):
        rnnx.load(models("stack")[0], forget_bias=float("nan"))


def test_a_constant_stays_one_under_other_names(models, tmp_path):
    stem, expected = models("stack")
    rnnx.convert(stem, tmp_path / "new.ckpt", prefix="new/scope_", forget_bias=1.0)
    graph = run(stacked(basic_lstm(), basic_lstm()), "new/scope")
    np.testing.assert_array_equal(restored(tmp_path / "new.ckpt", graph), expected)


@pytest.mark.parametrize("changed", ["one number", "every number"])
def test_a_constant_that_was_trained_on_is_none(models, tmp_path, changed):
    """It cannot be left to the code any more, and is added, if the user says so, to the stored bias."""
    rnnx.convert(models("BasicLSTMCell")[0], tmp_path / "there.rnnx", forget_bias=1.0)
    archive = read_archive(tmp_path / "there.rnnx")
    weights = dict(archive.parts["rnn"].weights)
    weights["rnn_h2h_f_bias"] = weights["rnn_h2h_f_bias"] + np.float32(np.arange(HIDDEN) if changed[0] == "o" else 1)
    archive = Archive({"rnn": Part(archive.parts["rnn"].spec, weights)}, {}, {}, archive.notes)
    with pytest.raises(WeightFormatError, match=r"a TensorFlow checkpoint has one bias a gate, .* merge_biases=True"):
        TF1Format().write(tmp_path / "back.ckpt", archive, Accepted())
    TF1Format().write(tmp_path / "back.ckpt", archive, Accepted(merge_biases=True))
    cell, _ = rnnx.load(tmp_path / "back.ckpt")
    assert variables_in(tmp_path / "back.ckpt").keys() == {
        "rnn/cudnn_compatible_lstm_cell/kernel",
        "rnn/cudnn_compatible_lstm_cell/bias",
    }
    assert_all_close([outputs_of(cell)], [outputs_of(archive.parts["rnn"].cell)], 1e-6)


def test_a_constant_in_a_note_that_is_no_number(models, tmp_path):
    rnnx.convert(models("GRUCell")[0], tmp_path / "there.rnnx")
    archive = read_archive(tmp_path / "there.rnnx")
    archive = Archive(archive.parts, {}, {}, {"tf1.forget_bias": "one"})
    with pytest.raises(WeightFormatError, match=r"note 'tf1.forget_bias' is 'one', and no number"):
        TF1Format().write(tmp_path / "back.ckpt", archive, Accepted())


# -- what rnnx writes -------------------------------------------------------------------------------------------------


def cudnn_lstm(units: int = HIDDEN, **options: Any) -> Callable[[], Any]:
    """The cell that a TensorFlow 1 program has from ``tf.contrib.cudnn_rnn``, and others make with `LSTMCell`."""
    return lstm(units, forget_bias=0.0, name="cudnn_compatible_lstm_cell", **options)


def one_after_the_other(inputs: Any) -> Any:
    with v1.variable_scope("deep/layer_0"):
        inputs = both_ways(cudnn_lstm(), gru(4))(inputs)
    with v1.variable_scope("deep"):
        return run(gru(), "layer_1")(inputs)


#: Name: the tree, the graph that takes its variables, what to say when it is read again.
WRITTEN: dict[str, tuple[Callable[[], rnnx.BaseRNNCell], Graph, dict[str, Any]]] = {
    "LSTM": (lambda: rnnx.LSTMCell(HIDDEN, "a.b/c_"), run(cudnn_lstm(), "a.b/c"), {}),
    "LSTM of another prefix": (lambda: rnnx.LSTMCell(HIDDEN, "rnn"), run(cudnn_lstm()), {}),
    "LSTM projected": (lambda: rnnx.LSTMPCell(HIDDEN, 2, "rnn_"), run(cudnn_lstm(num_proj=2)), {}),
    "GRU": (lambda: rnnx.GRUCell(HIDDEN, "rnn_"), run(CudnnCompatibleGRUCell), {}),
    "GRU that resets before": (lambda: rnnx.GRUCell(HIDDEN, "rnn_", reset_after=False), run(gru()), {}),
    "plain": (
        lambda: rnnx.RNNCell(HIDDEN, "softsign", "rnn_"),
        run(basic_rnn(activation=tf.nn.softsign)),
        {"activation": "softsign"},
    ),
    "fused": (
        lambda: rnnx.FusedRNNCell(HIDDEN, 2, "lstm", prefix="rnn_", dropout=0.5),
        run(stacked(cudnn_lstm(), cudnn_lstm())),
        {},
    ),
    "one fused layer": (lambda: rnnx.FusedRNNCell(HIDDEN, 1, "lstm", prefix="rnn_"), run(stacked(cudnn_lstm())), {}),
    "fused both directions": (
        lambda: rnnx.FusedRNNCell(HIDDEN, 2, "gru", bidirectional=True, prefix=""),
        stack_both_ways(CudnnCompatibleGRUCell),
        {},
    ),
    "stack": (
        lambda: sequential(
            rnnx.LSTMCell(4, "rnn_l0_"),
            rnnx.DropoutCell(0.5),
            rnnx.ZoneoutCell(rnnx.RNNCell(HIDDEN, "relu", "rnn_l1_"), 0.5, 0.5),
        ),
        run(stacked(cudnn_lstm(4), basic_rnn(activation=tf.nn.relu))),
        {"activation": "relu"},
    ),
    "uneven": (
        lambda: sequential(
            pair(rnnx.LSTMCell(HIDDEN, "deep_l0_"), rnnx.GRUCell(4, "deep_r0_", reset_after=False), "bi_"),
            rnnx.GRUCell(HIDDEN, "deep_l1_", reset_after=False),
        ),
        one_after_the_other,
        {},
    ),
    "both directions of stacks": (
        lambda: pair(
            sequential(rnnx.LSTMCell(HIDDEN, "x_l0_"), rnnx.LSTMCell(4, "x_l1_")),
            sequential(rnnx.LSTMCell(4, "x_r0_"), rnnx.LSTMCell(HIDDEN, "x_r1_")),
            "x_bi_",
        ),
        both_ways(stacked(cudnn_lstm(), cudnn_lstm(4)), stacked(cudnn_lstm(4), cudnn_lstm()), "x/bidirectional_rnn"),
        {},
    ),
}


def without_recurrent_biases(cell: rnnx.BaseRNNCell) -> rnnx.BaseRNNCell:
    """The tree itself, with one bias a gate: zero is the other, but for a candidate's that the reset gate acts on."""
    weights = cell.unpack_weights(cell.get_params())
    candidate = "h2h_o_bias" if any(name.endswith("_r_bias") for name in weights) else "none"
    zeroed = {
        name: np.zeros_like(array) if "h2h" in name and name.endswith("bias") and candidate not in name else array
        for name, array in weights.items()
    }
    cell.load_params(zeroed)
    return cell


@pytest.mark.parametrize("name", WRITTEN)
def test_what_tensorflow_computes_from_ours(tmp_path, name):
    build, graph, said = WRITTEN[name]
    cell = randomized(build(), WIDTH, "float32")
    if "before" not in name and "uneven" not in name:
        cell = without_recurrent_biases(cell)
    rnnx.save(tmp_path / "model.rnnx", cell)
    rnnx.convert(tmp_path / "model.rnnx", tmp_path / "model.ckpt", merge_biases="before" in name or "uneven" in name)
    expected = outputs_of(cell)
    assert_all_close([restored(tmp_path / "model.ckpt", graph)], [expected], 1e-5)
    again, extra = rnnx.load(tmp_path / "model.ckpt", **said)
    assert not extra
    assert_all_close([outputs_of(again)], [expected], 1e-6)


@pytest.mark.parametrize("mode", networks.FUSED_MODES)
@pytest.mark.parametrize("both", [False, True])
def test_a_fused_cell_comes_back_bit_for_bit(tmp_path, mode, both):
    cell = rnnx.FusedRNNCell(HIDDEN, 2, mode, bidirectional=both, prefix="net/rnn_")
    cell = without_recurrent_biases(randomized(cell, WIDTH, "float32"))
    rnnx.save(tmp_path / "model.rnnx", cell)
    rnnx.convert(tmp_path / "model.rnnx", tmp_path / "model.ckpt")
    again, _ = rnnx.load(tmp_path / "model.ckpt", activation=mode.removeprefix("rnn_") if "rnn" in mode else None)
    assert again.spec == cell.spec
    same_bits(again.get_params(), cell.get_params())


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_dtypes(models, tmp_path, dtype):
    stem, _ = models("BasicLSTMCell")
    rnnx.convert(stem, tmp_path / "cast.ckpt", forget_bias=1.0, dtype=dtype)
    cast = variables_in(tmp_path / "cast.ckpt")
    assert {name: str(array.dtype) for name, array in cast.items()} == dict.fromkeys(variables_in(stem), dtype)
    rnnx.convert(tmp_path / "cast.ckpt", tmp_path / "there.rnnx", forget_bias=1.0)
    rnnx.convert(tmp_path / "there.rnnx", tmp_path / "back.ckpt")
    assert bytes_of(tmp_path / "back.ckpt") == bytes_of(tmp_path / "cast.ckpt")


def test_two_biases_are_merged_only_if_accepted(tmp_path):
    cell = randomized(rnnx.GRUCell(HIDDEN, "rnn_"), WIDTH, "float32")
    rnnx.save(tmp_path / "model.rnnx", cell)
    with pytest.raises(WeightFormatError, match=r"one bias a gate, and 'rnn_i2h_r_bias' and 'rnn_h2h_r_bias' are two"):
        rnnx.convert(tmp_path / "model.rnnx", tmp_path / "model.ckpt")
    assert not list(tmp_path.glob("model.ckpt*"))
    rnnx.convert(tmp_path / "model.rnnx", tmp_path / "model.ckpt", merge_biases=True)
    assert_all_close([restored(tmp_path / "model.ckpt", run(CudnnCompatibleGRUCell))], [outputs_of(cell)], 1e-5)
    written = variables_in(tmp_path / "model.ckpt")
    weights = cell.unpack_weights(cell.get_params())
    for half, role in (("input", "i2h"), ("hidden", "h2h")):
        candidate = written[f"rnn/cudnn_compatible_gru_cell/candidate/{half}_projection/bias"]
        np.testing.assert_array_equal(candidate, weights[f"rnn_{role}_o_bias"])


# -- larger models ----------------------------------------------------------------------------------------------------


OTHERS = {
    "embedding": np.random.default_rng(1).normal(size=(7, WIDTH)).astype(np.float32),
    "global_step": np.array(1000, np.int64),
    "beta1_power": np.array(0.9, np.float32),
    "encoder/rnn/multi_rnn_cell/cell_0/basic_lstm_cell/kernel/Adam": np.ones((8, 20), np.float32),
    "encoder/rnn/multi_rnn_cell/cell_0/basic_lstm_cell/kernel/Adam_1": np.ones((8, 20), np.float32),
    "encoder/rnn/multi_rnn_cell/cell_0/basic_lstm_cell/bias/Momentum": np.ones(20, np.float32),
    "dense/kernel": np.ones((5, 20), np.float32),
    "dense/bias": np.ones(20, np.float32),
    "layer_norm_basic_lstm_cell/kernel": np.ones((8, 20), np.float32),
    "mask": np.array([True, False]),
    "half": np.array([1.5], np.float16),
}


def larger(inputs: Any) -> Any:
    with v1.variable_scope("encoder"):
        encoded = run(stacked(basic_lstm(), basic_lstm()))(inputs)
    with v1.variable_scope("decoder"):
        return run(gru())(encoded)


def test_a_larger_model(tmp_path):
    stem = tmp_path / "model.ckpt-1000"
    expected = trained(tmp_path / "model.ckpt", larger, others=OTHERS, global_step=1000, write_meta_graph=True)
    archive = read_archive(stem, None, Assumptions(forget_bias=1.0))
    assert list(archive.parts) == ["decoder/rnn", "encoder/rnn"]
    same_bits(OTHERS, archive.extra)
    encoder, decoder = (archive.parts[name].cell for name in ("encoder/rnn", "decoder/rnn"))
    assert_all_close([outputs_of(decoder, outputs_of(encoder))], [expected], 1e-5)
    rnnx.convert(stem, tmp_path / "there.rnnx", forget_bias=1.0)
    rnnx.convert(tmp_path / "there.rnnx", tmp_path / "back.ckpt")
    assert bytes_of(tmp_path / "back.ckpt") == bytes_of(stem)
    assert (tmp_path / "back.ckpt.meta").read_bytes() == (tmp_path / "model.ckpt-1000.meta").read_bytes()


def test_a_graph_does_not_survive_other_names(tmp_path):
    trained(tmp_path / "model.ckpt", run(gru()), write_meta_graph=True)
    with pytest.raises(WeightFormatError, match=r"model.meta beside .*drop_files=True"):
        rnnx.convert(tmp_path / "model.ckpt", tmp_path / "new.ckpt", prefix="new_")
    rnnx.convert(tmp_path / "model.ckpt", tmp_path / "new.ckpt", prefix="new_", drop_files=True)
    assert not (tmp_path / "new.ckpt.meta").exists()
    assert "new/gru_cell/gates/kernel" in variables_in(tmp_path / "new.ckpt")


def test_cells_that_share_a_scope(tmp_path):
    def graph(inputs: Any) -> Any:
        with v1.variable_scope("net"):
            first, second, third = lstm()(), lstm()(), gru()()
            state = first.zero_state(2, tf.float32)
            outputs = [cell(inputs[:, 0], state)[0] for cell in (first, second)]
            return [*outputs, third(inputs[:, 0], third.zero_state(2, tf.float32))[0]]

    expected = trained(tmp_path / "model.ckpt", graph)
    found = rnnx.load_all(tmp_path / "model.ckpt", forget_bias=1.0)
    assert list(found) == ["net/gru_cell", "net/lstm_cell", "net/lstm_cell_1"]
    outputs = [
        outputs_of(found[f"net/{name}"], INPUTS[:, :1])[:, 0] for name in ("lstm_cell", "lstm_cell_1", "gru_cell")
    ]
    assert_all_close(outputs, expected, 1e-5)


def test_numbered_scopes_are_a_stack(tmp_path):
    def graph(inputs: Any) -> Any:
        for layer in range(3):
            inputs = run(gru(HIDDEN + layer), f"layer_{layer}")(inputs)
        return inputs

    expected = trained(tmp_path / "model.ckpt", graph)
    cell, _ = rnnx.load(tmp_path / "model.ckpt")
    assert_all_close([outputs_of(cell)], [expected], 1e-5)


def test_layers_that_read_more_than_those_below_make(tmp_path):
    """As the layers of a decoder do that all see the attention."""

    def graph(inputs: Any) -> Any:
        with v1.variable_scope("multi_rnn_cell"):
            below = run(gru(), "cell_0")(inputs)
            return run(gru(), "cell_1")(tf.concat([below, inputs], -1))

    expected = trained(tmp_path / "model.ckpt", graph)
    found = rnnx.infer(tmp_path / "model.ckpt")
    assert list(found) == ["multi_rnn_cell/cell_0", "multi_rnn_cell/cell_1"]
    assert any("is a part of its own" in sentence for sentence in found["multi_rnn_cell/cell_0"].evidence)
    below = outputs_of(found["multi_rnn_cell/cell_0"].cell)
    above = outputs_of(found["multi_rnn_cell/cell_1"].cell, np.concatenate([below, INPUTS], -1))
    assert_all_close([above], [expected], 1e-5)


# -- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    ["", "checkpoint", "model.ckpt-7", "model.ckpt-7.index", "model.ckpt-7.data-00000-of-00001", "model.ckpt-7.meta"],
)
def test_every_way_to_say_which(tmp_path, given):
    """A directory may have been moved since, whatever its file says."""
    trained(tmp_path / "model.ckpt", run(gru()), global_step=7, write_meta_graph=True)
    shutil.move(tmp_path, moved := tmp_path.with_name(f"{tmp_path.name} moved"))
    assert list(rnnx.load_all(moved / given)) == ["rnn"]


def test_paths_that_lead_nowhere(tmp_path, models):
    known = TF1Format()
    assert not known.recognises(tmp_path, b"")
    assert not known.recognises(tmp_path / "model.ckpt", b"")
    (tmp_path / "small.index").write_bytes(b"1")
    (tmp_path / "other.index").write_bytes(b"0" * 100)
    assert not known.recognises(tmp_path / "small", b"")
    assert not known.recognises(tmp_path / "other.index", b"0" * 64)
    for state in (b"", b"\xff\xfe", b'model_checkpoint_path: ""', b"all_model_checkpoint_paths: 3"):
        (tmp_path / "checkpoint").write_bytes(state)
        with pytest.raises(WeightFormatError, match=r"checkpoint"):
            rnnx.load(tmp_path)
    (tmp_path / "checkpoint").write_bytes(b'model_checkpoint_path: "/etc/model.ckpt"')
    with pytest.raises(FileNotFoundError, match=r"model.ckpt.index"):
        rnnx.load(tmp_path)
    shutil.copy(f"{models('GRUCell')[0]}.index", tmp_path / "model.ckpt.index")
    with pytest.raises(FileNotFoundError, match=r"model.ckpt.data-00000-of-00001"):
        rnnx.load(tmp_path)


def test_what_is_there_is_replaced_whole_or_not_at_all(models, tmp_path, monkeypatch):
    stem = tmp_path / "model.ckpt"
    rnnx.convert(models("GRUCell")[0], stem)
    before = bytes_of(stem)
    order = []
    renamed = Path.replace

    def replace(self: Path, target: Any) -> Any:
        order.append(Path(target).name)
        if len(order) > 2:
            raise OSError("the disk is gone")
        return renamed(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    rnnx.convert(models("GRUBlockCell")[0], stem)
    assert order == ["model.ckpt.data-00000-of-00001", "model.ckpt.index"]
    between = bytes_of(stem)
    assert between != before
    with pytest.raises(OSError, match="the disk is gone"):
        rnnx.convert(models("GRUCell")[0], stem)
    assert bytes_of(stem) == between
    assert len(list(tmp_path.iterdir())) == 2


def test_no_disk_to_write_to(models, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError):
        rnnx.convert(models("GRUCell")[0], tmp_path / "none" / "model.ckpt")
    with pytest.raises(UnsupportedError, match=r"is a directory: say how the files' names begin, such as .*model.ckpt"):
        rnnx.convert(models("GRUCell")[0], tmp_path, to="tf1")
    monkeypatch.setattr(tf1_files.tempfile, "TemporaryDirectory", lambda **_: _Gone(tmp_path / "gone"))
    with pytest.raises(OSError, match="TensorFlow could not write a checkpoint"):
        rnnx.convert(models("GRUCell")[0], tmp_path / "model.ckpt")


class _Gone:
    """A temporary directory that a file stands in the way of."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> str:
        self.path.write_bytes(b"")
        return str(self.path)

    def __exit__(self, *_: object) -> None:
        self.path.unlink()


def test_it_works_where_eager_execution_is_off(models, tmp_path):
    with v1.Graph().as_default():
        rnnx.convert(models("GRUCell")[0], tmp_path / "model.ckpt")
    assert bytes_of(tmp_path / "model.ckpt") == bytes_of(models("GRUCell")[0])


# -- what is refused --------------------------------------------------------------------------------------------------


def written(stem: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    tf1_files.write_checkpoint(stem, arrays, None)
    return stem


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


LSTM = {"a/lstm_cell/kernel": ones(8, 20), "a/lstm_cell/bias": ones(20)}
GRU = {
    "a/gru_cell/gates/kernel": ones(8, 10),
    "a/gru_cell/gates/bias": ones(10),
    "a/gru_cell/candidate/kernel": ones(8, 5),
    "a/gru_cell/candidate/bias": ones(5),
}


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"a/lstm_cell/bias": ones(20)}, WeightFormatError, r"variable 'a/lstm_cell/kernel' is missing"),
        ({"a/lstm_cell/kernel": ones(8, 20)}, WeightFormatError, r"variable 'a/lstm_cell/bias' is missing"),
        (LSTM | {"a/lstm_cell/bias": ones(5)}, WeightFormatError, r"bias' has shape \(5,\), expected \(20,\)"),
        (LSTM | {"a/lstm_cell/kernel": ones(8, 21)}, WeightFormatError, r"\(8, 21\); expected 4 columns a hidden unit"),
        (LSTM | {"a/lstm_cell/kernel": ones(5, 20)}, WeightFormatError, r"\(5, 20\); expected 4 columns a hidden unit"),
        (LSTM | {"a/lstm_cell/kernel": ones(160)}, WeightFormatError, r"shape \(160,\); expected a matrix"),
        (LSTM | {"a/lstm_cell/kernel": ones(0, 20)}, WeightFormatError, r"shape \(0, 20\); expected a matrix"),
        (LSTM | {"a/lstm_cell/projection/kernel": ones(4, 2)}, WeightFormatError, r"\(4, 2\), expected \(5, 2\)"),
        (LSTM | {"a/lstm_cell/bias": np.ones(20, np.int32)}, WeightFormatError, "has dtype int32"),
        (LSTM | {"a/lstm_cell/bias": np.ones(20, np.float64)}, WeightFormatError, "several dtypes"),
        (LSTM | {"a/lstm_cell/w_f_diag": ones(5)}, UnsupportedError, "cell 'a/lstm_cell' has peepholes"),
        (LSTM | {"a/lstm_cell/projection/bias": ones(2)}, UnsupportedError, "has a bias behind its projection"),
        (LSTM | {"a/lstm_cell/recurrent_kernel": ones(5, 20)}, UnsupportedError, "as cells of Keras have"),
        (GRU | {"a/gru_cell/candidate/bias": ones(4)}, WeightFormatError, r"bias' has shape \(4,\), expected \(5,\)"),
        (
            {name.replace("a/", "a/multi_rnn_cell/cell_1/"): array for name, array in LSTM.items()},
            WeightFormatError,
            "the variables of layer 0 are missing: 'a/multi_rnn_cell/cell_1/lstm_cell' is of the same stack",
        ),
        (
            {name.replace("a/", "a/bidirectional_rnn/fw/"): array for name, array in LSTM.items()},
            WeightFormatError,
            "the variables of layer 0, side 'bw' are missing",
        ),
        (
            {
                name.replace("a/lstm_cell", f"a/multi_rnn_cell/cell_0/{cell}"): array
                for name, array in LSTM.items()
                for cell in ("lstm_cell", "lstm_cell_1")
            },
            WeightFormatError,
            "'a/multi_rnn_cell/cell_0/lstm_cell' and 'a/multi_rnn_cell/cell_0/lstm_cell_1' are two cells in one place",
        ),
        ({"basic_rnn_cell/kernel": ones(8, 5), "basic_rnn_cell/bias": ones(5)}, WeightFormatError, "activation='tanh'"),
        ({"dense/kernel": ones(8, 20), "dense/bias": ones(20)}, WeightFormatError, "no recurrent weights were found"),
    ],
)  # fmt: skip
def test_cells_that_make_no_sense(tmp_path, arrays, error, message):
    with pytest.raises(error, match=message):
        rnnx.load(written(tmp_path / "model.ckpt", arrays), forget_bias=1.0)


def test_cells_that_are_left_out_are_told(tmp_path):
    stem = written(tmp_path / "model.ckpt", LSTM | {"b/lstm_cell/w_f_diag": ones(5), "b/lstm_cell/kernel": ones(8, 20)})
    archive = read_archive(stem, None, Assumptions(forget_bias=1.0))
    assert archive.parts["a"].evidence[-1] == "cell 'b/lstm_cell' has peepholes, unlike rnnx's"
    assert archive.extra.keys() == {"b/lstm_cell/w_f_diag", "b/lstm_cell/kernel"}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: sequential(rnnx.LSTMCell(WIDTH, "a_"), rnnx.ResidualCell(rnnx.LSTMCell(WIDTH, "b_"))),
         "the ResidualCell of 'b_' would be lost in a TensorFlow checkpoint, .*: write a portable file"),
        (lambda: pair(pair(rnnx.LSTMCell(2, "a_"), rnnx.LSTMCell(2, "b_"), "c_"), rnnx.LSTMCell(2, "d_"), "e_"),
         r"the BidirectionalCell of 'a_\+b_' would be lost"),
    ],
)  # fmt: skip
def test_trees_that_variables_do_not_tell(tmp_path, build, message):
    rnnx.save(tmp_path / "model.rnnx", randomized(build(), WIDTH, "float32"))
    with pytest.raises(UnsupportedError, match=message):
        rnnx.convert(tmp_path / "model.rnnx", tmp_path / "model.ckpt", merge_biases=True)
    assert not list(tmp_path.glob("model.ckpt*"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "there is none to write"),
        ({"": ones(2)}, "TensorFlow takes no variable called ''"),
        ({"\0a": ones(2)}, r"TensorFlow takes no variable called '\\x00a'"),
        ({"\ud800": ones(2)}, "TensorFlow takes no variable called"),
        ({"a": np.array(["x"])}, "array 'a' has dtype <U1, which TensorFlow has not"),
        ({"a": np.array([0], "M8[s]")}, r"array 'a' has dtype datetime64\[s\], which TensorFlow has not"),
        ({"a": np.ones(2, ">f4")}, "array 'a' has dtype >f4, which TensorFlow has not"),
    ],
)
def test_arrays_that_tensorflow_has_not(tmp_path, arrays, message):
    with pytest.raises(UnsupportedError, match=message):
        written(tmp_path / "model.ckpt", arrays)
    assert not list(tmp_path.iterdir())


def test_a_file_that_no_checkpoint_has(tmp_path):
    write_portable(tmp_path / "model.rnnx", {"file:vocab.txt": np.frombuffer(b"a b c", np.uint8)}, {})
    with pytest.raises(WeightFormatError, match=r"a TensorFlow checkpoint has no place for the file 'vocab.txt'"):
        rnnx.convert(tmp_path / "model.rnnx", tmp_path / "model.ckpt")


def test_a_checkpoint_of_objects(tmp_path):
    tf.train.Checkpoint(weight=tf.Variable([1.0])).write(str(tmp_path / "model.ckpt"))
    with pytest.raises(UnsupportedError, match=r"model.ckpt is a checkpoint of TensorFlow 2, .* save the Keras model"):
        rnnx.load(tmp_path / "model.ckpt")


def test_a_checkpoint_of_the_first_version(tmp_path):
    trained(tmp_path / "model.ckpt", run(gru()), write_version=v1.train.SaverDef.V1)
    with pytest.raises(UnsupportedError, match=r"model.ckpt is a checkpoint of the first version, .* save it again"):
        rnnx.load(tmp_path / "model.ckpt")


def test_tensorflow_is_not_there(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(UnsupportedError, match=r"TensorFlow checkpoints need tensorflow .* 'rnnx\[tensorflow\]'"):
        rnnx.load(models("GRUCell")[0])


@pytest.mark.parametrize("value", [["a", "b"], b"x"])
def test_a_variable_of_text(tmp_path, value):
    with v1.Graph().as_default(), v1.Session() as session:
        variable = v1.get_variable("words", initializer=tf.constant(value))
        session.run(variable.initializer)
        v1.train.Saver().save(session, str(tmp_path / "model.ckpt"), write_meta_graph=False)
    with pytest.raises(WeightFormatError, match=r"variable 'words' has dtype string, and only numbers are read: save"):
        rnnx.load(tmp_path / "model.ckpt")


# -- hostile files ----------------------------------------------------------------------------------------------------

_CRC = [0] * 256
for _byte in range(256):
    _CRC[_byte] = _byte
    for _ in range(8):
        _CRC[_byte] = _CRC[_byte] >> 1 ^ (0x82F63B78 if _CRC[_byte] & 1 else 0)


def masked_crc(data: bytes) -> bytes:
    """The checksum of tables and tensors: CRC-32C, rotated, and a constant added."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    data = b""
    while number > 127:
        data += bytes([number & 127 | 128])
        number >>= 7
    return data + bytes([number])


def block(records: Sequence[tuple[bytes, bytes]], restarts: Sequence[int] = (0,)) -> bytes:
    data = b"".join(b"\0" + varint(len(key)) + varint(len(value)) + key + value for key, value in records)
    return data + struct.pack(f"<{len(restarts)}I", *restarts) + struct.pack("<I", len(restarts))


def table(*blocks: bytes, kind: bytes = b"\0", handles: Sequence[bytes] | None = None) -> bytes:
    """An index of blocks with the checksums that TensorFlow asks for."""
    data, places = b"", []
    for each in (*blocks, block([])):
        places.append(varint(len(data)) + varint(len(each)))
        data += each + kind + masked_crc(each + kind)
    index = block([(b"%c" % (200 + number), place) for number, place in enumerate(handles or places[:-1])])
    footer = places[-1] + varint(len(data)) + varint(len(index))
    data += index + b"\0" + masked_crc(index + b"\0")
    return data + footer.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little")


HEADER = (b"", bytes.fromhex("08011a020801"))

DATA = struct.pack("<2f", 1, 2)


def entry(
    dtype: int = 1, shape: Sequence[int] = (2,), shard: int = 0, offset: int = 0, size: int = 8, slices: bytes = b""
) -> bytes:
    dims = b"".join(b"\x12" + varint(len(dim)) + dim for dim in (b"\x08" + varint(each) for each in shape))
    data = b"\x08" + varint(dtype) + b"\x12" + varint(len(dims)) + dims
    data += b"\x18" + varint(shard) + b"\x20" + varint(offset) + b"\x28" + varint(size)
    return data + b"\x35" + masked_crc(DATA) + slices


def sliced(*extents: tuple[int, int]) -> bytes:
    """Slices of a vector: from where, how long."""
    data = b""
    for start, length in extents:
        extent = b"\x08" + varint(start) + b"\x10" + varint(length)
        data += b"\x3a" + varint(len(extent) + 2) + b"\x0a" + varint(len(extent)) + extent
    return data


def halves(shape: Sequence[int] = (1,), **other: Any) -> list[tuple[bytes, bytes]]:
    """The records of both slices of a vector ``a`` of two."""
    places = (b"\x80\x81", b"\x81\x81")
    return [(b"\0a\0\1\1\1" + each, entry(shape=shape, size=4, **other)) for each in places]


def hostile(folder: Path, index: bytes) -> Path:
    (folder / "model.ckpt.data-00000-of-00001").write_bytes(DATA)
    (folder / "model.ckpt.index").write_bytes(index)
    return folder / "model.ckpt"


def of(*records: tuple[bytes, bytes]) -> bytes:
    return table(block([HEADER, *records]))


def test_an_index_made_by_hand(tmp_path):
    found = TF1Format().read(hostile(tmp_path, of((b"a", entry())))).arrays
    same_bits(found, {"a": np.array([1, 2], np.float32)})


#: Indices that TensorFlow itself ends the process over, or reads what is not there, or makes other errors of.
HOSTILE = {
    "no record": (of((b"a", b"\xff\xff\xff")), "the record of 'a' is no BundleEntryProto"),
    "a negative size": (of((b"a", entry(shape=(-5,)))), r"variable 'a' has the shape \[-5\], which no tensor has"),
    "too many elements": (of((b"a", entry(shape=(1 << 40,) * 2))), "which no tensor has"),
    "too many dimensions": (of((b"a", entry(shape=(1,) * 300))), "which no tensor has"),
    "no rank": (of((b"a", b"\x08\x01\x12\x02\x18\x01")), "which no tensor has"),
    "nothing times much": (of((b"a", entry(shape=(0, 1 << 62, 1 << 62), size=0))), "which no tensor has"),
    "a huge shape": (of((b"a", entry(shape=(1 << 40,)))), "should have 4398046511104 bytes; the index says 8"),
    "a huge size": (of((b"a", entry(shape=(1 << 40,), size=4 << 40))), "and model.ckpt.data-00000-of-00001 has 8"),
    "no such file": (of((b"a", entry(shard=5))), "variable 'a' is in file 5 of 1"),
    "a negative file": (of((b"a", entry(shard=-1))), "variable 'a' is in file -1 of 1"),
    "a negative place": (of((b"a", entry(offset=-8))), "the index says 8 from byte -8 on"),
    "a place outside": (of((b"a", entry(offset=1 << 40))), "has 8"),
    "another size": (of((b"a", entry(size=4))), "should have 8 bytes; the index says 4"),
    "no dtype": (of((b"a", entry(dtype=99))), "has dtype number 99, and only numbers"),
    "a reference": (of((b"a", entry(dtype=101))), "has dtype float32_ref"),
    "much text": (of((b"a", entry(dtype=7, shape=(1 << 30,)))), "has dtype string"),
    "a variant": (of((b"a", entry(dtype=21, shape=()))), "has dtype variant"),
    "a resource": (of((b"a", entry(dtype=20, shape=()))), "has dtype resource"),
    "the same bytes often": (of((b"a", entry()), (b"b", entry())), "have 16 bytes, and its files 8"),
    "a name that is no text": (of((b"\xff", entry())), "cannot be read"),
    "a constant as a variable": (of((b"a:forget_bias", entry())), "TensorFlow has no variable called 'a:forget_bias'"),
    "no header": (table(block([(b"a", entry())])), "does not begin with the header"),
    "a broken header": (table(block([(b"", b"\xff")])), "the header is no BundleHeaderProto"),
    "an empty header": (table(block([(b"", b"")])), "does not begin with the header"),
    "another endianness": (table(block([(b"", b"\x08\x01\x10\x01")])), "header of a little-endian checkpoint"),
    "nothing": (table(), "does not begin with the header"),
    "names that go down": (of((b"b", entry()), (b"a", entry())), "is damaged"),
    "a name twice": (of((b"a", entry()), (b"a", entry())), "is damaged"),
    "a block twice": (table(block([HEADER]), handles=[b"\0\x11", b"\0\x11"]), "is damaged"),
    "a block outside": (table(block([HEADER]), handles=[b"\0\xff\x7f"]), "is damaged"),
    "a block of nothing": (table(block([HEADER]), handles=[b"\0\0"]), "is damaged"),
    "a handle that does not end": (table(block([HEADER]), handles=[b"\xff" * 12]), "is damaged"),
    "a place of a key within one": (table(block([HEADER], restarts=(0, 3))), "is damaged"),
    "no places of keys": (table(block([HEADER], restarts=())), "is damaged"),
    "more places than there are": (table(b"\0" * 8 + b"\xff\0\0\0"), "is damaged"),
    "a key that goes on": (table(b"\x05\1\0a" + struct.pack("<II", 0, 1)), "is damaged"),
    "a value that goes on": (table(b"\0\1\x7fa" + struct.pack("<II", 0, 1)), "is damaged"),
    "compressed": (table(block([HEADER]), kind=b"\1"), "is compressed"),
    "slices that do not fill": (of((b"a", entry(slices=sliced((0, 1))))), "do not make up its shape"),
    "slices outside": (of((b"a", entry(slices=sliced((0, 1), (2, 1))))), "do not make up its shape"),
    "a slice of nothing": (of(halves()[0], (b"a", entry(slices=sliced((0, 2), (1, 0))))), "lists other slices"),
    "a slice of another rank": (of((b"a", entry(shape=(2, 1), slices=sliced((0, 2))))), "do not make up its shape"),
    "slices that are not there": (of((b"a", entry(slices=sliced((0, 1), (1, 1))))), "lists other slices"),
    "a slice twice": (of(*halves()[:1], (b"a", entry(slices=sliced((0, 1), (0, 1))))), "do not make up its shape"),
    "slices of another dtype": (
        of(*halves(dtype=3), (b"a", entry(slices=sliced((0, 1), (1, 1))))), "lists other slices"),
    "slices of another shape": (
        of(*halves(shape=(1, 1)), (b"a", entry(slices=sliced((0, 1), (1, 1))))), "lists other slices"),
    "slices of slices": (
        of(*halves(slices=sliced((0, 1))), (b"a", entry(slices=sliced((0, 1), (1, 1))))), "lists other slices"),
    "slices under other names": (
        of((b"\0a", entry(shape=(1,), size=4)), (b"\0b", entry(shape=(1,), size=4)),
           (b"a", entry(slices=sliced((0, 1), (1, 1))))),
        "lists other slices",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_index(tmp_path, name):
    index, message = HOSTILE[name]
    with pytest.raises(WeightFormatError, match=message):
        rnnx.load(hostile(tmp_path, index))


def test_keys_that_grow(tmp_path, monkeypatch):
    """A few bytes of a table may stand for a long name."""
    monkeypatch.setattr(tf1_index, "_MAX_NAMES", 3)
    with pytest.raises(WeightFormatError, match="is damaged"):
        TF1Format().read(hostile(tmp_path, of((b"aa", entry()), (b"bb", entry()))))


def test_a_file_cut_short_anywhere(models, tmp_path):
    index, data = bytes_of(models("BasicLSTMCell")[0])
    known = TF1Format()
    for size in (*range(0, len(index), 7), len(index) - 1):
        (tmp_path / "model.ckpt.index").write_bytes(index[:size])
        (tmp_path / "model.ckpt.data-00000-of-00001").write_bytes(data)
        with pytest.raises(WeightFormatError):
            known.read(tmp_path / "model.ckpt")
    (tmp_path / "model.ckpt.index").write_bytes(index)
    (tmp_path / "model.ckpt.data-00000-of-00001").write_bytes(data[:-1])
    with pytest.raises(WeightFormatError, match=r"variable '.*' should have .* bytes"):
        known.read(tmp_path / "model.ckpt")


def test_data_that_was_changed(models, tmp_path):
    index, data = bytes_of(models("BasicLSTMCell")[0])
    (tmp_path / "model.ckpt.index").write_bytes(index)
    (tmp_path / "model.ckpt.data-00000-of-00001").write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    with pytest.raises(WeightFormatError, match=r"checkpoint .*model.ckpt cannot be read: "):
        rnnx.load(tmp_path / "model.ckpt", forget_bias=1.0)


def test_an_index_changed_anywhere(models, tmp_path):
    """Whatever is changed, with and without the checksum made to fit, an error of rnnx's or nothing comes of it."""
    index, data = bytes_of(models("BasicLSTMCell")[0])
    rng = random.Random(3)
    known = TF1Format()
    (tmp_path / "model.ckpt.data-00000-of-00001").write_bytes(data)
    size = index.index(b"\0" + masked_crc(_first_block(index) + b"\0"))
    for turn in range(400):
        changed = bytearray(index)
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(size if turn % 2 else len(index))] = rng.randrange(256)
        if turn % 2:
            changed[size + 1 : size + 5] = masked_crc(bytes(changed[: size + 1]))
        (tmp_path / "model.ckpt.index").write_bytes(changed)
        with contextlib.suppress(RNNXError, OSError):
            known.find(known.read(tmp_path / "model.ckpt"), Assumptions("tanh", 1.0))


def _first_block(index: bytes) -> bytes:
    """The block that the index of blocks begins with: all records of a small checkpoint."""
    for size in range(8, len(index)):
        if index[size : size + 5] == b"\0" + masked_crc(index[:size] + b"\0"):
            return index[:size]
    raise AssertionError("the first block has no end")

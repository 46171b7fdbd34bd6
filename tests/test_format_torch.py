"""State dicts of PyTorch, read and written, with PyTorch itself as the judge; and files that mean harm."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import random
import sys
import tracemalloc
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import networks
import rnnx
from networks import sequential
from rnnx.archive import Accepted
from rnnx.errors import RNNXError, UnsupportedError, WeightFormatError
from rnnx.files import read_archive
from rnnx.formats.torch import OUTLINE, TorchFormat
from rnnx.formats.torch import files as torch_files
from rnnx.formats.torch import outline as torch_outline
from rnnx.weights.safetensors import write_tensors

torch = pytest.importorskip("torch", "2.10", "PyTorch is the judge, and older ones are not trusted with files")

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")

WIDTH, HIDDEN, BATCH, STEPS = 3, 5, 2, 4

#: Every kind of module, by the mode of rnnx.
MODULES = {
    "lstm": (torch.nn.LSTM, torch.nn.LSTMCell, {}),
    "gru": (torch.nn.GRU, torch.nn.GRUCell, {}),
    "rnn_tanh": (torch.nn.RNN, torch.nn.RNNCell, {}),
    "rnn_relu": (torch.nn.RNN, torch.nn.RNNCell, {"nonlinearity": "relu"}),
}

#: What PyTorch calls the ways that weights go, and what rnnx does.
ROLES = {"ih": "i2h", "hh": "h2h", "hr": "h2r"}

#: Layers, whether bidirectional, whether biased.
BUILDS = [(1, False, True), (2, True, True), (3, False, False), (1, True, False), (2, True, False)]


def varied(module: Any) -> Any:
    """The module with every number different, and no bias zero."""
    generator = torch.Generator().manual_seed(3)
    for weight in module.parameters():
        torch.nn.init.uniform_(weight, 0.1, 0.9, generator)
        weight.data *= torch.where(torch.rand(weight.shape, generator=generator) < 0.5, -1.0, 1.0)
    return module


def layered(mode: str, layers: int = 2, bidirectional: bool = True, bias: bool = True, **more: Any) -> Any:
    kind, _, own = MODULES[mode]
    options = {"num_layers": layers, "bidirectional": bidirectional, "bias": bias, "batch_first": True}
    return varied(kind(WIDTH, HIDDEN, **options, **own, **more))


class Reader(torch.nn.Module):
    """A model as people write them: a recurrent module between others."""

    def __init__(self, rnn: Any) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(7, WIDTH)
        self.encoder = torch.nn.Module()
        self.encoder.rnn = rnn
        self.norm = torch.nn.BatchNorm1d(2)
        self.brain = torch.nn.Parameter(torch.arange(3.0).to(torch.bfloat16))
        varied(self)


def activation_of(mode: str) -> str | None:
    return mode.removeprefix("rnn_") if mode.startswith("rnn_") else None


def saved(tmp_path: Path, content: Any, name: str = "model.pt", **options: Any) -> Path:
    torch.save(content, tmp_path / name, **options)
    return tmp_path / name


def inputs_of(width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(BATCH, STEPS, width)).astype(np.float32)


def assert_agree(cell: rnnx.BaseRNNCell, module: Any) -> None:
    """Outputs and final states are PyTorch's."""
    outputs, states = cell.unroll(None, inputs_of(), merge_outputs=True)
    with torch.no_grad():
        expected, finals = module(torch.from_numpy(inputs_of()))
    np.testing.assert_allclose(outputs, expected.numpy(), atol=1e-5)
    found = networks.leaves(states)
    if any(node.kind == "LSTMPCell" for node in cell.spec.walk()):  # h and c of each direction in turn
        found = [np.stack(found[::2]), np.stack(found[1::2])]
    for state, final in zip(found, finals if isinstance(finals, tuple) else [finals], strict=True):
        np.testing.assert_allclose(state, final.numpy(), atol=1e-5)


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """The same tensors, to the bit, in the same order."""
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert (name, found[name].dtype) == (name, tensor.dtype)
        assert torch.equal(found[name], tensor), name


def loaded(path: Path) -> Any:
    if path.suffix != ".safetensors":
        return torch.load(path, weights_only=True)
    return {name: torch.from_numpy(np.array(array)) for name, array in safetensors.numpy.load_file(path).items()}


# -- PyTorch is the judge ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(("layers", "bidirectional", "bias"), BUILDS)
@pytest.mark.parametrize("mode", MODULES)
def test_a_module_and_back(tmp_path, mode, layers, bidirectional, bias, legacy):
    module = layered(mode, layers, bidirectional, bias)
    path = saved(tmp_path, module.state_dict(), _use_new_zipfile_serialization=not legacy)
    cell, extra = rnnx.load(path, activation=activation_of(mode))
    assert cell.spec.kind == "FusedRNNCell"
    assert cell.spec.fields["mode"] == mode
    assert extra == {}
    assert_agree(cell, module)
    for between in ("there.rnnx", "there.pth"):
        rnnx.convert(path, tmp_path / between, activation=activation_of(mode))
        rnnx.convert(tmp_path / between, tmp_path / "back.pt", activation=activation_of(mode))
        back = torch.load(tmp_path / "back.pt")
        assert_same(back, module.state_dict())
        assert back._metadata == module.state_dict()._metadata


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_projected_lstm_and_back(tmp_path, layers, bidirectional, bias):
    module = layered("lstm", layers, bidirectional, bias, proj_size=2)
    path = saved(tmp_path, module.state_dict())
    cell, _ = rnnx.load(path)
    assert_agree(cell, module)
    assert {node.fields["prefix"][:-2] for node in cell.spec.walk() if node.kind == "LSTMPCell"} <= {"lstm_l", "lstm_r"}
    for between in ("there.rnnx", "there.pt", "there.safetensors"):
        to = None if between.endswith("rnnx") else "torch"
        rnnx.convert(path, tmp_path / between, to=to)
        rnnx.convert(tmp_path / between, tmp_path / "back.pt")
        assert_same(torch.load(tmp_path / "back.pt"), module.state_dict())
        assert rnnx.load(tmp_path / between)[0].spec == cell.spec


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mode", MODULES)
def test_a_cell_and_back(tmp_path, mode, bias):
    _, kind, own = MODULES[mode]
    module = varied(kind(WIDTH, HIDDEN, bias, **own))
    path = saved(tmp_path, module.state_dict())
    cell, _ = rnnx.load(path, activation=activation_of(mode))
    state = None
    for step in inputs_of().swapaxes(0, 1):
        with torch.no_grad():
            state = module(torch.from_numpy(step), state)
    _, finals = cell.unroll(None, inputs_of(), merge_outputs=True)
    for one, other in zip(finals, state if isinstance(state, tuple) else [state], strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=1e-5)
    rnnx.convert(path, tmp_path / "there.rnnx", activation=activation_of(mode))
    rnnx.convert(tmp_path / "there.rnnx", tmp_path / "back.pt")
    assert_same(torch.load(tmp_path / "back.pt"), module.state_dict())


@pytest.mark.parametrize("ending", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("mode", MODULES)
def test_what_rnnx_writes_is_what_the_cell_computes(tmp_path, mode, ending):
    cell = networks.randomized(rnnx.FusedRNNCell(HIDDEN, 3, mode, True, get_next_state=True), WIDTH, "float32")
    rnnx.save(tmp_path / "cell.rnnx", cell)
    rnnx.convert(tmp_path / "cell.rnnx", tmp_path / f"model{ending}", to="torch")
    module = layered(mode, 3)
    module.load_state_dict(loaded(tmp_path / f"model{ending}"))
    assert_agree(cell, module)
    networks.same_bits(
        rnnx.load(tmp_path / f"model{ending}", activation=activation_of(mode))[0].get_params(), cell.get_params()
    )


@pytest.mark.parametrize("mode", MODULES)
def test_plain_cells_pairs_and_projections_are_modules_of_one_layer(tmp_path, mode):
    def plain(prefix: str) -> rnnx.BaseRNNCell:
        return networks.plain(mode, HIDDEN, prefix)

    pair = rnnx.BidirectionalCell(plain("both_l_"), rnnx.ZoneoutCell(plain("both_r_"), 0.1, 0.1))
    stack = sequential(pair, rnnx.DropoutCell(0.3), plain("top_"), rnnx.LSTMPCell(HIDDEN, 2, "last_"))
    cell = networks.randomized(stack, WIDTH, "float32")
    rnnx.save(tmp_path / "cell.rnnx", cell)
    rnnx.convert(tmp_path / "cell.rnnx", tmp_path / "model.pt")
    kind, _, own = MODULES[mode]
    model = torch.nn.ModuleDict(
        {
            "both": kind(WIDTH, HIDDEN, bidirectional=True, batch_first=True, **own),
            "top": kind(2 * HIDDEN, HIDDEN, batch_first=True, **own),
            "last": torch.nn.LSTM(HIDDEN, HIDDEN, proj_size=2, batch_first=True),
        }
    )
    model.load_state_dict(torch.load(tmp_path / "model.pt"))
    expected = torch.from_numpy(inputs_of())
    with torch.no_grad():
        for module in model.values():
            expected, _ = module(expected)
    outputs, _ = cell.unroll(None, inputs_of(), merge_outputs=True)
    np.testing.assert_allclose(np.asarray(outputs), expected.numpy(), atol=1e-5)


def test_every_weight_is_called_as_mxnet_calls_it(tmp_path):
    """What computes the same, such as one bias in the other's place, is seen by its name alone."""
    module = layered("lstm", proj_size=2)
    cell, _ = rnnx.load(saved(tmp_path, module.state_dict()))
    weights = cell.unpack_weights(cell.get_params())
    for (theirs, tensor), (layer, side) in itertools.product(module.state_dict().items(), [(0, "l"), (1, "r")]):
        group, ending = theirs.rsplit("_l", 1)
        if ending != f"{layer}{'_reverse' if side == 'r' else ''}":
            continue
        kind, role = group.split("_")
        gates = [""] if role == "hr" else ["_i", "_f", "_c", "_o"]
        for gate, rows in zip(gates, np.split(tensor.numpy(), len(gates)), strict=True):
            name = f"lstm_{side}{layer}_{ROLES[role]}{gate}_{kind}"
            np.testing.assert_array_equal(weights.pop(name), rows)
    assert {name[:8] for name in weights} == {"lstm_l1_", "lstm_r0_"}


@pytest.mark.parametrize(("dtype", "theirs"), [("float64", "float64"), ("bfloat16", "bfloat16"), ("float16", "half")])
def test_dtypes(tmp_path, dtype, theirs):
    module = layered("gru").to(getattr(torch, theirs))
    path = saved(tmp_path, module.state_dict())
    cell, _ = rnnx.load(path)
    assert {array.dtype.name for array in cell.get_params().values()} == {dtype}
    rnnx.convert(path, tmp_path / "there.rnnx")
    rnnx.convert(tmp_path / "there.rnnx", tmp_path / "back.pt")
    assert_same(torch.load(tmp_path / "back.pt"), module.state_dict())


# -- names ------------------------------------------------------------------------------------------------------------


def test_a_module_within_a_model(tmp_path):
    model = Reader(layered("gru"))
    path = saved(tmp_path, model.state_dict())
    part = rnnx.infer(path)["encoder.rnn"]
    assert part.spec.fields["prefix"] == "encoder.rnn_"
    assert part.evidence == (
        "'encoder.rnn.weight_hh_l0' has shape (15, 5): a GRU of 5 units",
        "'encoder.rnn.weight_hh_l0' to 'encoder.rnn.weight_hh_l1_reverse': num_layers 2, directions 2",
    )
    cell, extra = rnnx.load(path)
    assert_agree(cell, model.encoder.rnn)
    assert extra.keys() == {name for name in model.state_dict() if not name.startswith("encoder")}
    assert extra["brain"].dtype == ml_dtypes.bfloat16
    assert extra["norm.num_batches_tracked"].shape == ()
    assert not extra["embed.weight"].flags.writeable


@pytest.mark.parametrize("between", ["there.rnnx", "there.pth", "there.safetensors"])
def test_a_model_there_and_back(tmp_path, between):
    model = Reader(layered("lstm", bias=False))
    path = saved(tmp_path, model.state_dict())
    rnnx.convert(path, tmp_path / between, to=None if between.endswith("rnnx") else "torch")
    rnnx.convert(tmp_path / between, tmp_path / "back.pt")
    assert_same(torch.load(tmp_path / "back.pt"), model.state_dict())
    model.load_state_dict(torch.load(tmp_path / "back.pt"))


def test_several_modules_are_several_parts(tmp_path):
    model = torch.nn.ModuleDict(
        {"encoder": layered("lstm"), "decoder": layered("gru", 1), "step": torch.nn.GRUCell(9, 2)}
    )
    parts = rnnx.load_all(saved(tmp_path, torch.nn.DataParallel(model).state_dict()))
    assert list(parts) == ["module.decoder", "module.encoder", "module.step"]
    assert_agree(parts["module.encoder"], model["encoder"])
    assert_agree(parts["module.decoder"], model["decoder"])


def test_modules_are_a_stack_only_where_that_is_said(tmp_path):
    """What runs between two modules is told by no name: a layer may, and members of an ensemble run side by side."""
    modules = [torch.nn.LSTM(WIDTH, 4, batch_first=True), torch.nn.LSTM(4, 6, batch_first=True)]
    model = varied(torch.nn.ModuleDict({"rnns": torch.nn.ModuleList(modules)}))
    path = saved(tmp_path, model.state_dict())
    assert list(rnnx.load_all(path)) == ["rnns.0", "rnns.1"]
    cell, _ = rnnx.load(path, stack=True)
    assert [child.fields["num_hidden"] for child in cell.spec.children] == [4, 6]
    with torch.no_grad():
        expected = modules[1](modules[0](torch.from_numpy(inputs_of()))[0])[0]
    np.testing.assert_allclose(cell.unroll(None, inputs_of(), merge_outputs=True)[0], expected.numpy(), atol=1e-5)
    rnnx.convert(path, tmp_path / "stack.rnnx", stack=True)
    assert rnnx.load(tmp_path / "stack.rnnx")[0].spec == cell.spec
    rnnx.convert(tmp_path / "model.pt", tmp_path / "unremembered.pt", unfuse=True)
    again = torch.load(tmp_path / "unremembered.pt")
    assert "rnns.0.weight_ih_l0" in again
    model.load_state_dict(again)


def test_modules_that_make_no_stack(tmp_path):
    model = torch.nn.ModuleList([torch.nn.LSTM(WIDTH, 4), torch.nn.LSTM(5, 6)])
    path = saved(tmp_path, varied(model).state_dict())
    with pytest.raises(WeightFormatError, match="no stack in their order: '0' makes outputs 4 wide, and '1' reads 5"):
        rnnx.load(path, stack=True)


@pytest.mark.parametrize("prefix", ["model.encoder.", "model.encoder_", "model.encoder"])
def test_a_prefix_is_a_place(tmp_path, prefix):
    rnnx.save(tmp_path / "x.rnnx", networks.randomized(rnnx.LSTMCell(4), WIDTH, "float32"))
    rnnx.convert(tmp_path / "x.rnnx", tmp_path / "x.pt", prefix=prefix)
    assert "model.encoder.weight_ih_l0" in torch.load(tmp_path / "x.pt")


def test_a_weight_norm_is_named(tmp_path):
    state = layered("lstm").state_dict()
    state["weight_hh_l0_v"] = state.pop("weight_hh_l0")
    with pytest.raises(WeightFormatError, match="'weight_hh_l0' is computed by a weight norm: take that off with"):
        rnnx.load(saved(tmp_path, state))


def test_names_are_bare_where_nothing_else_is_in_the_file(tmp_path):
    cell = networks.randomized(rnnx.LSTMCell(HIDDEN, "lstm_"), WIDTH, "float32")
    other = networks.randomized(rnnx.LSTMCell(HIDDEN, "mine_"), WIDTH, "float32")
    rnnx.save(tmp_path / "default.rnnx", cell)
    rnnx.save(tmp_path / "extra.rnnx", cell, {"embed": np.ones(2, np.float32)})
    rnnx.save(tmp_path / "named.rnnx", other)
    names = []
    for name in ("default", "extra", "named"):
        rnnx.convert(tmp_path / f"{name}.rnnx", tmp_path / "model.pt")
        names.append(next(iter(torch.load(tmp_path / "model.pt"))))
    assert names == ["weight_ih_l0", "lstm.weight_ih_l0", "mine.weight_ih_l0"]


@pytest.mark.parametrize("prefix", ["lstm_", "gru_", "rnn_", "rnn_relu_"])
def test_default_prefixes(tmp_path, prefix):
    mode = {"rnn_": "rnn_relu"}.get(prefix, prefix[:-1])
    cell = networks.randomized(networks.plain(mode, HIDDEN, prefix), WIDTH, "float32")
    rnnx.save(tmp_path / "cell.rnnx", cell)
    rnnx.convert(tmp_path / "cell.rnnx", tmp_path / "model.pt")
    layered(mode, 1, False).load_state_dict(torch.load(tmp_path / "model.pt"))


def test_the_activation_is_asked_for(tmp_path):
    module = layered("rnn_relu")
    path = saved(tmp_path, module.state_dict())
    with pytest.raises(WeightFormatError, match=r"part 'rnn' is of plain recurrent cells.*give it as activation="):
        rnnx.load(path)
    with pytest.raises(WeightFormatError, match="activation='sigmoid': PyTorch's are 'tanh' and 'relu'"):
        rnnx.load(path, activation="sigmoid")
    assert "its activation is 'relu', as was said" in " ".join(rnnx.infer(path, activation="relu")["rnn_relu"].evidence)


def test_a_given_tree_tells_the_activation(tmp_path):
    module = layered("rnn_relu")
    path = saved(tmp_path, module.state_dict())
    given = rnnx.FusedRNNCell(HIDDEN, 2, "rnn_relu", True, get_next_state=True, prefix="mine_")
    cell, _ = rnnx.load(path, given)
    assert cell is given
    assert_agree(cell, module)
    plain = rnnx.RNNCell(HIDDEN, "relu", "mine_")
    with pytest.raises(WeightFormatError, match="the cell given has 1 plain cells with weights, and the parts"):
        rnnx.load(path, plain)


@pytest.mark.parametrize("layer", ["weight_hh_l0", "weight_ih_l1", "bias_hh_l0_reverse", "weight_hr_l1"])
def test_a_missing_tensor_is_named(tmp_path, layer):
    module = layered("lstm", proj_size=2)
    content = {f"rnn.{name}": tensor for name, tensor in module.state_dict().items() if name != layer}
    with pytest.raises(WeightFormatError, match=f"weight 'rnn.{layer}' is missing"):
        rnnx.load(saved(tmp_path, content))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("weight_hh_l0", (20, 4), r"weight 'weight_hh_l0' has shape \(20, 4\); with 4 hidden units, expected 16 rows"),
        ("weight_hh_l0", (25, 5), "expected 20 rows for an LSTM, 15 for a GRU, 5 for a plain cell"),
        ("weight_hh_l0", (20,), "expected a matrix"),
        ("weight_hh_l0", (0, 5), "expected a matrix"),
        ("weight_ih_l0", (20,), r"weight 'weight_ih_l0' has shape \(20,\), expected a matrix"),
        ("weight_ih_l1", (20, 5), r"weight 'weight_ih_l1' has shape \(20, 5\), expected \(20, 10\)"),
        ("bias_hh_l1_reverse", (21,), r"weight 'bias_hh_l1_reverse' has shape \(21,\), expected \(20,\)"),
    ],
)  # fmt: skip
def test_a_misshapen_tensor_is_named(tmp_path, name, shape, message):
    content = {**layered("lstm").state_dict(), name: torch.ones(shape)}
    with pytest.raises(WeightFormatError, match=message):
        rnnx.load(saved(tmp_path, content))


@pytest.mark.parametrize(("mode", "message"), [("gru", "expected 12 rows for an LSTM$"), ("lstm", "has shape")])
def test_a_projection_of_what_has_none(tmp_path, mode, message):
    content = {**layered(mode, 1, False).state_dict(), "weight_hr_l0": torch.ones(2, 3)}
    with pytest.raises(WeightFormatError, match=message):
        rnnx.load(saved(tmp_path, content))


def test_layers_without_end(tmp_path):
    content = {f"weight_hr_l{layer}": torch.ones(1, 2) for layer in range(5000)}
    with pytest.raises(WeightFormatError, match="'' has 5000 layers; up to 4096 are read"):
        rnnx.load(saved(tmp_path, content))


def test_other_names_are_passed_over(tmp_path):
    content = {name: torch.ones(3) for name in ("weight_hr", "x.my1weight_ih_l0", "weight_ih_l00", "weight_ih_l0_raw")}
    archive = read_archive(saved(tmp_path, content))
    assert archive.parts == {}
    assert archive.extra.keys() == content.keys()


# -- training checkpoints ---------------------------------------------------------------------------------------------


def training(module: Any, key: str = "model_state_dict") -> dict[str, Any]:
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.from_numpy(inputs_of()))[0].sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        key: module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "losses": [0.5, float("inf")],
        "note": "né",
        "args": {"dropout": None, "shape": (1, (2, True)), 5: []},
    }


def equal(one: Any, other: Any) -> bool:
    """Whether two nests are of the same types, and hold the same."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


@pytest.mark.parametrize("between", ["there.rnnx", "there.pth"])
@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_training_checkpoint_survives_whole(tmp_path, key, between):
    module = layered("lstm")
    content = training(module, key)
    path = saved(tmp_path, content)
    archive = read_archive(path)
    assert_agree(archive.parts["lstm"].cell, module)
    assert "optimizer.state.0.exp_avg" in archive.extra
    assert archive.parts["lstm"].evidence[-1] == f"what is no tensor in the file is kept as {OUTLINE!r}"
    rnnx.convert(path, tmp_path / between)
    rnnx.convert(tmp_path / between, tmp_path / "back.pt")
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert equal(back, content)
    assert back[key]._metadata == content[key]._metadata


def test_a_training_checkpoint_is_no_safetensors_file(tmp_path):
    path = saved(tmp_path, training(layered("lstm")))
    with pytest.raises(WeightFormatError, match=r"has no place for 'checkpoint.json': drop_files=True"):
        rnnx.convert(path, tmp_path / "there.safetensors", to="torch")
    rnnx.convert(path, tmp_path / "there.safetensors", to="torch", drop_files=True)
    assert "optimizer.state.0.exp_avg" in safetensors.numpy.load_file(tmp_path / "there.safetensors")


def test_a_nest_of_tensors_alone_is_written_by_every_format(tmp_path):
    content = {"state_dict": layered("gru").state_dict(), "ema": {"mean": torch.ones(2)}}
    path = saved(tmp_path, content)
    rnnx.convert(path, tmp_path / "there.safetensors", to="torch")
    rnnx.convert(tmp_path / "there.safetensors", tmp_path / "back.pt")
    assert equal(torch.load(tmp_path / "back.pt"), content)
    rnnx.convert(path, tmp_path / "model-0001.params")
    rnnx.convert(path, tmp_path / "renamed.pt", prefix="other_")
    renamed = torch.load(tmp_path / "renamed.pt")
    assert next(iter(renamed)) == "other.weight_ih_l0"
    assert "ema.mean" in renamed


def test_a_changed_training_checkpoint_has_no_outline(tmp_path):
    path = saved(tmp_path, training(layered("lstm")))
    with pytest.raises(WeightFormatError, match=r"checkpoint.json beside .* cannot be rewritten"):
        rnnx.convert(path, tmp_path / "there.pt", prefix="other_")
    with pytest.raises(WeightFormatError, match=r"the checkpoint's outline has no place for tensor 'another'"):
        TorchFormat().write(tmp_path / "no.pt", read_archive_with_other_names(path), Accepted())
    assert not (tmp_path / "no.pt").exists()


def read_archive_with_other_names(path: Path) -> Any:
    archive = read_archive(path)
    archive.extra["another"] = np.ones(2, np.float32)
    return archive


def test_two_networks_of_a_checkpoint(tmp_path):
    content = {"generator": layered("lstm").state_dict(), "discriminator": layered("gru").state_dict()}
    assert list(rnnx.load_all(saved(tmp_path, content))) == ["discriminator", "generator"]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (torch.device("cpu"), "torch.device"),
        (torch.float32, "torch.dtype"),
        (torch.Size([1]), "torch.Size"),
        ({1, 2}, "builtins.set"),
        (Counter("ab"), "collections.Counter"),
        (1j, "builtins.complex"),
        (1 << 63, "whole number of more than 64 bits"),
        ({(1, 2): 3}, "builtins.tuple"),
    ],
    ids=str,
)
def test_what_cannot_be_kept_is_refused_by_name(tmp_path, value, what):
    with pytest.raises(WeightFormatError, match=f"'config.x.*' holds a {what}, which is neither a tensor nor"):
        rnnx.load(saved(tmp_path, {"state_dict": layered("gru").state_dict(), "config": {"x": value}}))


@pytest.mark.parametrize("content", [torch.ones(2), [torch.ones(2)], 3])
def test_what_is_no_dict_is_refused(tmp_path, content):
    with pytest.raises(WeightFormatError, match=f"holds a {type(content).__name__}, expected a dict of tensors"):
        rnnx.load(saved(tmp_path, content))


@pytest.mark.parametrize(
    "content",
    [
        {"a": {"b": torch.ones(2)}, "a.b": torch.ones(2)},
        {"model": {"x": torch.ones(2)}, "x": torch.ones(2)},
        {0: torch.ones(2), "0": torch.ones(2)},
    ],
)
def test_two_tensors_of_one_name(tmp_path, content):
    with pytest.raises(WeightFormatError, match=r"two tensors would be called '(a.b|x|0)'"):
        rnnx.load(saved(tmp_path, content))


# -- safetensors ------------------------------------------------------------------------------------------------------


def foreign(tmp_path: Path, tensors: Mapping[str, Any], metadata: dict[str, str] | None) -> Path:
    path = tmp_path / "model.safetensors"
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    safetensors.numpy.save_file(arrays, path, metadata)
    return path


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"format": "pt", "step": "7"}])
def test_a_foreign_safetensors_file_and_back(tmp_path, metadata):
    module = layered("lstm", bias=False)
    path = foreign(tmp_path, module.state_dict(), metadata)
    cell, _ = rnnx.load(path)
    assert_agree(cell, module)
    for target in ("there.safetensors", "again.safetensors"):
        rnnx.convert(path, tmp_path / target, to="torch")
        path = tmp_path / target
    with safetensors.safe_open(path, "np") as file:
        told = file.metadata()
    assert {key: value for key, value in told.items() if not key.startswith("rnnx.")} == {
        "format": "pt", **(metadata or {})
    }  # fmt: skip
    module.load_state_dict(loaded(path))
    assert_agree(rnnx.load(path)[0], module)


def trees() -> list[rnnx.BaseRNNCell]:
    return [
        rnnx.FusedRNNCell(HIDDEN, 2, "rnn_relu", True, dropout=0.25, prefix="deep_"),
        sequential(rnnx.LSTMCell(HIDDEN, "a_"), rnnx.DropoutCell(0.5), rnnx.RNNCell(HIDDEN, "tanh", "b_")),
        rnnx.BidirectionalCell(rnnx.GRUCell(HIDDEN, "l_"), rnnx.ZoneoutCell(rnnx.GRUCell(HIDDEN, "r_"), 0.2, 0.1)),
        rnnx.LSTMCell(HIDDEN),
        sequential(*(rnnx.LSTMPCell(HIDDEN, 2, f"p_l{layer}_") for layer in range(2)), rnnx.LSTMPCell(4, 1, "q_l0_")),
    ]


@pytest.mark.parametrize("extra", [{}, {"embed": np.ones((2, 3), np.float32)}], ids=["alone", "beside another"])
@pytest.mark.parametrize("tree", range(len(trees())))
def test_safetensors_give_back_the_very_tree(tmp_path, tree, extra):
    cell = networks.randomized(trees()[tree], WIDTH, "float32")
    rnnx.save(tmp_path / "cell.rnnx", cell, extra)
    rnnx.convert(tmp_path / "cell.rnnx", tmp_path / "model.safetensors", to="torch")
    again, others = rnnx.load(tmp_path / "model.safetensors")
    assert again.spec == cell.spec
    networks.same_bits(again.get_params(), cell.get_params())
    networks.same_bits(others, extra)
    part = next(iter(rnnx.infer(tmp_path / "model.safetensors").values()))
    assert part.evidence == ("the cell tree is written in the file ('rnnx.parts'), and its tensors are there",)


def test_what_other_formats_remember_passes_through_safetensors(tmp_path):
    cell = networks.randomized(rnnx.FusedRNNCell(HIDDEN, prefix="x_"), WIDTH, "float32")
    rnnx.save(tmp_path / "cell.rnnx", cell)
    rnnx.convert(tmp_path / "cell.rnnx", tmp_path / "model-0001.params")
    rnnx.convert(tmp_path / "model-0001.params", tmp_path / "model.safetensors", to="torch")
    assert read_archive(tmp_path / "model.safetensors").notes["mxnet.names"] == "prefixed"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda parts: {"lstm": {"spec": {"kind": "os:system"}, "input_size": 3}}, "a cell class of the user's own"),
        (lambda parts: {"lstm": {**parts["lstm"], "input_size": 4}}, "cannot be made of the weights said to be in it"),
        (
            lambda parts: {"lstm": {**parts["lstm"], "input_size": 1 << 62}},
            "cannot be made of the weights said to be in it",
        ),
        (lambda parts: {"lstm": {**parts["lstm"], "input_size": True}}, "should have a spec and an input_size"),
        (
            lambda parts: {"lstm": {**parts["lstm"], "stored": parts["lstm"]["stored"][1:]}},
            "no tensor holds weight 'lstm_l0_i2h_i_",
        ),
        (lambda parts: {"lstm": {**parts["lstm"], "stored": 3}}, "should list the tensors of each part"),
        (
            lambda parts: {"lstm": {**parts["lstm"], "stored": [["x", [-1], ["y"], 1, False]]}},
            "does not say how a tensor",
        ),
        (
            lambda parts: {
                "lstm": {**parts["lstm"], "stored": [["gone", *each[1:]] for each in parts["lstm"]["stored"]]}
            },
            "tensor 'gone' has shape None, expected",
        ),
        (lambda parts: {"lstm": 3}, "should have a spec and an input_size"),
        (lambda parts: {"lstm": {"input_size": 3}}, "a cell's spec is an object"),
        (lambda parts: [], "should be a JSON object"),
    ],
)
def test_a_description_that_does_not_fit_is_not_believed(tmp_path, change, why):
    module = layered("lstm")
    path = foreign(tmp_path, module.state_dict(), None)
    rnnx.convert(path, path, to="torch")
    with safetensors.safe_open(path, "np") as file:
        told = file.metadata()
    told["rnnx.parts"] = json.dumps(change(json.loads(told["rnnx.parts"])))
    write_tensors(path, {name: tensor.numpy() for name, tensor in module.state_dict().items()}, told)
    part = rnnx.infer(path)["lstm"]
    assert_agree(part.cell, module)
    assert "what the file says of its cells is not believed" in part.evidence[-1]
    assert why in part.evidence[-1]


@pytest.mark.parametrize("notes", ["[]", "{", '{"a": 1}'])
def test_notes_that_make_no_sense(tmp_path, notes):
    path = foreign(tmp_path, layered("lstm").state_dict(), {"rnnx.notes": notes})
    with pytest.raises(WeightFormatError, match=r"'rnnx.notes'"):
        rnnx.load(path)


def test_safetensors_of_both_formats_exclude_each_other(tmp_path):
    path = foreign(tmp_path, layered("lstm").state_dict(), None)
    head = path.read_bytes()[:64]
    assert TorchFormat().recognises(path, head)
    rnnx.convert(path, tmp_path / "portable.safetensors", to="rnnx")
    assert not TorchFormat().recognises(tmp_path / "portable.safetensors", head)


def test_safetensors_need_no_pytorch(tmp_path, monkeypatch):
    module = layered("lstm")
    path = foreign(tmp_path, module.state_dict(), None)
    checkpoint = saved(tmp_path, module.state_dict())
    monkeypatch.setitem(sys.modules, "torch", None)
    rnnx.convert(path, tmp_path / "there.safetensors", to="torch")
    networks.same_bits(rnnx.load(path)[0].get_params(), rnnx.load(tmp_path / "there.safetensors")[0].get_params())
    with pytest.raises(UnsupportedError, match=r"PyTorch files need torch .*: pip install 'rnnx\[torch\]'"):
        rnnx.load(checkpoint)


def test_safetensors_are_copied_one_tensor_at_a_time(tmp_path):
    size = 600
    module = torch.nn.LSTM(size, size, 4)
    path = foreign(tmp_path, {**module.state_dict(), "embed": torch.ones(2000, size)}, None)
    one = 4 * 4 * size * size
    rnnx.convert(path, tmp_path / "warm.safetensors", to="torch")
    tracemalloc.start()
    try:
        rnnx.convert(path, tmp_path / "there.safetensors", to="torch")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < one
    assert path.stat().st_size > 8 * one


# -- what PyTorch has nothing for -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (rnnx.GRUCell(HIDDEN, "g_", reset_after=False), r"the GRUCell 'g_' resets before.*\(reset_after=False\)"),
        (rnnx.RNNCell(HIDDEN, "sigmoid", "s_"), "the RNNCell 's_' has the activation 'sigmoid'.*tanh and relu"),
        (rnnx.ResidualCell(rnnx.LSTMCell(WIDTH, "x_")), "the ResidualCell 'x_' adds its inputs to its outputs"),
        (rnnx.LSTMPCell(HIDDEN, HIDDEN, "p_"), "the LSTMPCell 'p_' projects 5 units to 5, and PyTorch's LSTM only to"),
        (
            rnnx.BidirectionalCell(rnnx.LSTMCell(HIDDEN, "b_l_"), rnnx.LSTMCell(4, "b_r_")),
            "the two directions of the BidirectionalCell 'b_' differ",
        ),
        (
            rnnx.BidirectionalCell(rnnx.LSTMCell(HIDDEN, "b_l_"), rnnx.GRUCell(HIDDEN, "b_r_")),
            "the two directions of the BidirectionalCell 'b_' differ",
        ),
        (
            rnnx.BidirectionalCell(
                sequential(rnnx.LSTMCell(4, "b_l0_"), rnnx.LSTMCell(4, "b_l1_")), rnnx.LSTMCell(4, "b_r_")
            ),
            "the BidirectionalCell 'b_' holds a stack in each direction",
        ),
        (networks.PeepholeLSTM(HIDDEN, "own_"), "PeepholeLSTM.*is no cell of rnnx's own"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_trees_without_a_module(tmp_path, cell, message, ending):
    rnnx.save(tmp_path / "cell.rnnx", networks.randomized(cell, WIDTH, "float32"))
    given = networks.PeepholeLSTM(HIDDEN, "own_") if isinstance(cell, networks.PeepholeLSTM) else None
    with pytest.raises(UnsupportedError, match=message):
        rnnx.convert(tmp_path / "cell.rnnx", tmp_path / f"model{ending}", to="torch", cell=given)
    assert not (tmp_path / f"model{ending}").exists()


def test_a_symbol_has_no_place(tmp_path):
    archive = read_archive(saved(tmp_path, layered("lstm").state_dict()))
    archive.files["symbol.json"] = b"{}"
    with pytest.raises(WeightFormatError, match=r"a PyTorch file has no place for 'symbol.json': drop_files=True"):
        TorchFormat().write(tmp_path / "there.pt", archive, Accepted())


def test_two_modules_of_one_place(tmp_path):
    cell = sequential(rnnx.LSTMCell(HIDDEN, "a"), rnnx.LSTMCell(HIDDEN, "a_"))
    rnnx.save(tmp_path / "cell.rnnx", networks.randomized(cell, WIDTH, "float32"))
    with pytest.raises(WeightFormatError, match=r"two parts would have a tensor called 'a.weight_ih_l0' each"):
        rnnx.convert(tmp_path / "cell.rnnx", tmp_path / "model.pt")


def test_tensors_that_share_an_address(tmp_path):
    archive = read_archive(saved(tmp_path, {}))
    memory = np.ones(2, np.float32)
    archive.extra.update({"none": memory[:0].view(np.int32), "x": memory})
    TorchFormat().write(tmp_path / "there.pt", archive, Accepted())
    assert torch.load(tmp_path / "there.pt")["none"].dtype == torch.int32
    archive.extra["y"] = memory.view(np.int32)
    TorchFormat().write(tmp_path / "there.pt", archive, Accepted())
    assert torch.load(tmp_path / "there.pt")["y"].tolist() == memory.view(np.int32).tolist()


def test_dtypes_that_have_no_place(tmp_path):
    archive = read_archive(saved(tmp_path, {"x": torch.ones(2, dtype=torch.complex64)}))
    archive.extra["text"] = np.array(["a"])
    with pytest.raises(WeightFormatError, match="'text' has dtype <U1, which PyTorch lacks"):
        TorchFormat().write(tmp_path / "there.pt", archive, Accepted())


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "uint32", "complex64", ">f4", "float16"])
def test_other_arrays_are_kept(tmp_path, dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype).T
    archive = read_archive(saved(tmp_path, layered("lstm").state_dict()))
    archive.extra["x"] = array
    TorchFormat().write(tmp_path / "there.pt", archive, Accepted())
    np.testing.assert_array_equal(torch.load(tmp_path / "there.pt")["x"].numpy(), array)


# -- files that mean harm ---------------------------------------------------------------------------------------------


class Malice:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, kind):
    mark, path = tmp_path / "ran", tmp_path / "model.pt"
    content = {**layered("lstm").state_dict(), "x": Malice(mark)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Malice(mark), protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(
        WeightFormatError, match=r"names (posix|nt|os)\.mkdir, and to make one could run code"
    ) as caught:
        rnnx.load(path)
    assert not mark.exists()
    assert "weights_only=False" not in str(caught.value)
    if kind == "pickle":  # it would have run
        pickle.loads(path.read_bytes())
        assert mark.exists()


def test_a_model_instead_of_its_state_dict(tmp_path):
    with pytest.raises(WeightFormatError, match=r"names torch.nn.modules.rnn.LSTM.*torch.save\(model.state_dict\(\)"):
        rnnx.load(saved(tmp_path, layered("lstm")))


def test_a_torchscript_program(tmp_path):
    path = saved(tmp_path, {"x": torch.ones(2)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/constants.pkl", b"\x80\x02.")
    with pytest.raises(WeightFormatError, match="is a TorchScript program"):
        rnnx.load(path)


def test_an_old_pytorch_is_not_asked(tmp_path, monkeypatch):
    path = saved(tmp_path, layered("lstm").state_dict())
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.9.1+cpu"))
    with pytest.raises(UnsupportedError, match=r"PyTorch 2.9.1\+cpu run code as it is read: 2.10 or newer is needed"):
        rnnx.load(path)


def rezipped(path: Path, compression: int) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def test_compressed_entries(tmp_path):
    path = saved(tmp_path, layered("lstm").state_dict())
    rezipped(path, zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightFormatError, match=r"zip entry 'model/data.pkl' is compressed"):
        rnnx.load(path)
    rezipped(path, zipfile.ZIP_STORED)
    rnnx.load(path)


def test_a_pickle_of_absurd_size(tmp_path, monkeypatch):
    path = saved(tmp_path, layered("lstm").state_dict())
    monkeypatch.setattr(torch_files, "_MAX_PICKLE", 100)
    with pytest.raises(WeightFormatError, match=r"'model/data.pkl' has \d+ bytes, more than the 100 that are read"):
        rnnx.load(path)


class Allocated:
    """A tensor that is made when it is unpickled, of any size."""

    def __reduce__(self) -> Any:
        return torch.FloatTensor, (1 << 26,)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (
            lambda: torch.zeros(1).expand(1 << 20, 1 << 20),
            "'x' of shape .* repeats its elements.*of which 4 are stored",
        ),
        (lambda: torch.zeros(3).as_strided((2, 2), (1, 1)), "repeats its elements"),
        (Allocated, "'x' of shape .67108864,. repeats its elements or has more than the file"),
        (lambda: torch.eye(3).to_sparse(), "'x' is torch.sparse_coo, and is to be saved after .to_dense"),
        (lambda: torch.ones(2, device="meta"), "'x' is on the device 'meta', without elements"),
        (lambda: torch.ones(2).to(torch.float8_e4m3fn), "'x' of torch.float8_e4m3fn is no array of NumPy"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "'x' is quantized"),
        (lambda: torch.nested.nested_tensor([torch.ones(2)]), "'x' is nested"),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")
def test_tensors_that_are_refused_by_name(tmp_path, tensor, message):
    with pytest.raises(WeightFormatError, match=message):
        rnnx.load(saved(tmp_path, {**layered("gru").state_dict(), "x": tensor()}))


def test_a_nest_without_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_outline, "_MAX_OBJECTS", 1000)
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(WeightFormatError, match=r"'x.0.0.*is nested deeper than 64 levels, or the file has more than"):
        rnnx.load(saved(tmp_path, {"x": endless}))
    many: list[Any] = []
    for _ in range(60):
        many = [many, many]
    with pytest.raises(WeightFormatError, match="or the file has more than 1000 objects"):
        rnnx.load(saved(tmp_path, {"x": many}))


class Odd:
    """A dict that is unpickled with numbers where it should have methods."""

    def __reduce__(self) -> Any:
        return OrderedDict, (), dict.fromkeys(("items", "get", "keys", "values"), 3)


def test_attributes_of_an_ordered_dict(tmp_path):
    with pytest.raises(WeightFormatError, match="has an attribute 'items', which is kept nowhere"):
        rnnx.load(saved(tmp_path, {"y": 1, "z": Odd()}))
    with pytest.raises(WeightFormatError, match="has an attribute 'items', which is kept nowhere"):
        rnnx.load(saved(tmp_path, Odd()))
    endless = OrderedDict(x=torch.ones(2))
    endless._metadata = endless
    with pytest.raises(WeightFormatError, match="nested deeper than 64 levels"):
        rnnx.load(saved(tmp_path, endless))


def test_a_name_that_is_no_text(tmp_path):
    with pytest.raises(WeightFormatError, match=r"a tensor is called 'a\\udc80', which is no text"):
        rnnx.load(saved(tmp_path, {"a\udc80": torch.ones(2)}))


@pytest.mark.parametrize(
    "outline",
    [
        "", "[]", "{}", "3", '{"dict": 3}', '{"dict": [3]}', '{"dict": [[1, 2, 3]]}', '{"dict": [[[], 2]]}',
        '{"set": []}',
        '{"tensor": []}', '{"tensor": "y"}', '{"list": [[1]]}', '{"OrderedDict": [], "items": 3}', '{"tuple": {}}',
        '{"dict": [["a", {"tensor": "x"}], ["b", {"tensor": "x"}]]}', '{"list": [' * 70 + "]}" * 70, '{"dict": []}',
    ],
)  # fmt: skip
def test_an_outline_that_makes_no_sense(outline):
    with pytest.raises(WeightFormatError, match="the checkpoint's outline"):
        torch_outline.placed(outline, {"x": 1})
    with pytest.raises(WeightFormatError, match="the checkpoint's outline"):
        torch_outline.placed(outline.encode() + b"\xff", {"x": 1})


def test_other_zip_files_are_not_recognised(tmp_path):
    np.savez(tmp_path / "arrays.npz", x=np.ones(2))
    (tmp_path / "broken").write_bytes(b"PK\x03\x04" + bytes(60))
    for name in ("arrays.npz", "broken"):
        path = tmp_path / name
        assert not TorchFormat().recognises(path, path.read_bytes()[:64])
        with pytest.raises(WeightFormatError, match=r"has no data.pkl"):
            read_archive(path, from_="torch")
    assert not TorchFormat().recognises(tmp_path, b"")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_archive(tmp_path / "none.pt", from_="torch")


def small() -> dict[str, Any]:
    return {"model": OrderedDict(torch.nn.GRU(1, 1).state_dict()), "epoch": 1, "tied": [torch.ones(2)] * 2}


def written(kind: str, folder: Path) -> bytes:
    if kind == "safetensors":
        path = foreign(folder, torch.nn.GRU(1, 1).state_dict(), None)
        rnnx.convert(path, path, to="torch")
        return path.read_bytes()
    buffer = io.BytesIO()
    torch.save(small(), buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damaged_files_are_refused_or_read_and_nothing_else(tmp_path, kind):
    whole, path, rng = written(kind, tmp_path), tmp_path / "damaged", random.Random(7)
    cuts = [whole[:length] for length in range(0, len(whole), max(1, len(whole) // 60))]
    flips = []
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 0x80, 0xFF, rng.randrange(256)])
        flips.append(bytes(data))
    for data in itertools.chain(cuts, flips):
        path.write_bytes(data)
        try:
            TorchFormat().recognises(path, data[:64])
            read_archive(path, from_="torch")
        except (RNNXError, OSError):
            continue

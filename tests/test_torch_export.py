"""`rnnx_torch.export` and `from_torch`: torch's own modules judge what comes out and what goes in."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest

import networks
import rnnx

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import rnnx_torch  # noqa: E402 - it needs torch

BATCH, STEPS, WIDTH, HIDDEN = 4, 6, 3, 5


def inputs_of(dtype: str = "float64", width: int = WIDTH) -> torch.Tensor:
    array = np.random.default_rng(3).normal(size=(BATCH, STEPS, width))
    return torch.from_numpy(array).to(getattr(torch, dtype))


def on_torch(cell: rnnx.BaseRNNCell, dtype: str = "float64", width: int = WIDTH) -> rnnx.BaseRNNCell:
    """The cell on torch, every element of every weight different."""
    return networks.randomized(cell, width, scale=0.7).to("torch", dtype=dtype)


def stack(*cells: rnnx.BaseRNNCell) -> rnnx.BaseRNNCell:
    return networks.sequential(*cells)


def pair(make, size: int = HIDDEN, other: int = HIDDEN, name: str = "") -> rnnx.BaseRNNCell:
    return rnnx.BidirectionalCell(make(size, prefix=f"{name}f_"), make(other, prefix=f"{name}b_"))


#: Trees that are one module of torch: how to make them, the module's class, and some of its attributes.
SINGLE = {
    "fused": (lambda: rnnx.FusedRNNCell(5, 3, "lstm", True, 0.3, True), "LSTM", {"num_layers": 3, "dropout": 0.3}),
    "fused gru": (lambda: rnnx.FusedRNNCell(5, 2, "gru"), "GRU", {"num_layers": 2, "bidirectional": False}),
    "fused relu": (lambda: rnnx.FusedRNNCell(5, 1, "rnn_relu", True), "RNN", {"nonlinearity": "relu"}),
    "plain": (lambda: rnnx.LSTMCell(5), "LSTM", {"num_layers": 1, "hidden_size": 5}),
    "tanh": (lambda: rnnx.RNNCell(5), "RNN", {"nonlinearity": "tanh"}),
    "equal layers": (lambda: stack(*(rnnx.GRUCell(5, f"g{n}_") for n in range(3))), "GRU", {"num_layers": 3}),
    "dropout between": (
        lambda: stack(rnnx.LSTMCell(5, "a_"), rnnx.DropoutCell(0.2), rnnx.LSTMCell(5, "b_")),
        "LSTM",
        {"num_layers": 2, "dropout": 0.2},
    ),
    "pairs": (
        lambda: stack(pair(rnnx.LSTMCell, name="0"), pair(rnnx.LSTMCell, name="1")),
        "LSTM",
        {"num_layers": 2, "bidirectional": True},
    ),
    "projected": (
        lambda: stack(rnnx.LSTMPCell(5, 2, "a_"), rnnx.LSTMPCell(5, 2, "b_")),
        "LSTM",
        {"num_layers": 2, "proj_size": 2},
    ),
    "fused in a stack": (
        lambda: stack(rnnx.FusedRNNCell(5, 2, prefix="a_"), rnnx.LSTMCell(5, "b_")),
        "LSTM",
        {"num_layers": 3},
    ),
}

#: Trees that are several, and the names of these.
SEVERAL = {
    "two sizes": (lambda: stack(rnnx.LSTMCell(5, "a_"), rnnx.LSTMCell(4, "b_")), ["lstm_0", "lstm_1"]),
    "two kinds": (lambda: stack(rnnx.GRUCell(5, "a_"), rnnx.RNNCell(5, "relu", "b_")), ["gru_0", "rnn_1"]),
    "two rates": (
        lambda: stack(
            *(rnnx.LSTMCell(5, "a_"), rnnx.DropoutCell(0.2), rnnx.LSTMCell(5, "b_")),
            *(rnnx.LSTMCell(5, "c_"), rnnx.DropoutCell(0.4)),
        ),
        ["lstm_0", "lstm_1", "dropout_2"],
    ),
    "residual": (
        lambda: stack(
            rnnx.LSTMCell(WIDTH, "a_"),
            rnnx.ResidualCell(stack(rnnx.GRUCell(4, "b_"), rnnx.GRUCell(WIDTH, "c_"))),
        ),
        ["lstm_0", "gru_1", "gru_2"],
    ),
    "unequal directions": (lambda: pair(rnnx.LSTMCell, 5, 2), ["lstm_0", "lstm_1"]),
    "stacked directions": (
        lambda: rnnx.BidirectionalCell(stack(rnnx.LSTMCell(5, "f0_"), rnnx.LSTMCell(5, "f1_")), rnnx.GRUCell(5, "b_")),
        ["lstm_0", "gru_1"],
    ),
}


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("name", SINGLE)
def test_a_tree_that_is_one_module(name, backend):
    make, kind, attributes = SINGLE[name]
    cell = on_torch(make())
    expected, _ = cell.unroll(None, inputs_of(), merge_outputs=True)
    module = rnnx_torch.export(cell.to(backend))
    assert type(module) is getattr(torch.nn, kind)
    assert {key: getattr(module, key) for key in attributes} == attributes
    assert module.batch_first
    torch.testing.assert_close(module.eval()(inputs_of())[0], expected, rtol=0, atol=1e-12)
    assert all(weight.requires_grad and weight.is_leaf for weight in module.parameters())


@pytest.mark.parametrize("name", SEVERAL)
def test_a_tree_that_is_several_modules(name):
    make, names = SEVERAL[name]
    cell = on_torch(make())
    module = rnnx_torch.export(cell)
    assert [name for name, _ in module.named_children()] == names
    expected, _ = cell.unroll(None, inputs_of(), merge_outputs=True)
    outputs, states = module.eval()(inputs_of())
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-12)

    if "directions" not in name:  # what comes in two pieces can be run in two
        first, states = module(inputs_of()[:, :2])
        second, _ = module(inputs_of()[:, 2:], *states)
        torch.testing.assert_close(torch.cat([first, second], 1), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [SINGLE["dropout between"][0], SEVERAL["two rates"][0]])
def test_dropout_acts_in_training_as_in_the_tree(make):
    cell = on_torch(make())
    module, own = rnnx_torch.export(cell), rnnx_torch.RNNModule(cell, WIDTH)
    torch.manual_seed(5)
    expected, _ = own(inputs_of())
    torch.manual_seed(5)
    outputs, _ = module(inputs_of())
    if isinstance(module, torch.nn.LSTM):
        torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-12)
    assert not torch.allclose(outputs, module.eval()(inputs_of())[0])

    bare = rnnx_torch.export(cell, inference=True)
    torch.testing.assert_close(bare.train()(inputs_of())[0], module(inputs_of())[0], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_weights_are_the_cells_bit_for_bit_and_copies(dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    cell = on_torch(rnnx.FusedRNNCell(5, 2, "gru", True), dtype)
    module = rnnx_torch.export(cell)
    recurrence = rnnx.backend.Recurrence("gru", WIDTH, 5, 2, True)
    vector = cell.params["gru_parameters"]
    layers = rnnx.weights.layout.split_flat(rnnx.get_backend("torch"), vector, recurrence).layers
    mine = [weight for layer in layers for weight in layer]
    assert all(torch.equal(one, other) for one, other in zip(mine, module.parameters(), strict=True))
    with torch.no_grad():
        next(module.parameters()).zero_()
    assert vector.count_nonzero() == vector.numel()


def test_shared_weights_are_shared_in_the_module():
    params = rnnx.LSTMCell(WIDTH, "a_").params
    cell = on_torch(
        stack(rnnx.LSTMCell(WIDTH, "a_", params), rnnx.GRUCell(WIDTH, "b_"), rnnx.LSTMCell(WIDTH, "a_", params))
    )
    module = rnnx_torch.export(cell)
    assert module.lstm_0.weight_hh_l0 is module.lstm_2.weight_hh_l0
    assert len(list(module.parameters())) == 8
    expected, _ = cell.unroll(None, inputs_of(), merge_outputs=True)
    torch.testing.assert_close(module(inputs_of())[0], expected, rtol=0, atol=1e-12)


def test_random_numbers_are_left_alone():
    cell = on_torch(rnnx.FusedRNNCell(5, 2))
    before = torch.get_rng_state()
    rnnx_torch.export(cell)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("make", [SINGLE["fused"][0], SEVERAL["residual"][0]])
def test_the_module_is_loaded_where_there_is_no_rnnx(make, tmp_path):
    cell = on_torch(make())
    expected, _ = cell.unroll(None, inputs_of(), merge_outputs=True)
    torch.save(rnnx_torch.export(cell).eval(), tmp_path / "module.pt")
    torch.save((inputs_of(), expected), tmp_path / "known.pt")
    code = """if True:
        import sys
        sys.modules.update({"rnnx": None, "rnnx_torch": None})
        import torch
        inputs, expected = torch.load("known.pt")
        outputs, _ = torch.load("module.pt", weights_only=False)(inputs)
        torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-12)
    """
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rnnx.RNNCell(5, "softsign", "s_"), r"RNNCell 's_' has the activation 'softsign'"),
        (lambda: rnnx.GRUCell(5, "g_", reset_after=False), r"GRUCell 'g_' resets before"),
        (
            lambda: stack(rnnx.LSTMCell(5, "a_"), networks.PeepholeLSTM(5, "p_")),
            r"networks:PeepholeLSTM.* is no cell of rnnx",
        ),
        (lambda: rnnx.LSTMPCell(4, 4, "p_"), r"LSTMPCell 'p_' projects 4 units to 4"),
        (lambda: rnnx.ZoneoutCell(rnnx.LSTMCell(5, "z_"), 0.1), r"ZoneoutCell around 'z.*inference=True"),
        (lambda: pair(lambda size, prefix: rnnx.RNNCell(size, "sigmoid", prefix)), r"RNNCell 'f_'.*'sigmoid'"),
        (lambda: rnnx.RNNCell(5, torch.sin), r"activation=.* is a function"),
    ],
)
def test_what_torch_has_nothing_for_is_refused_by_name(make, message):
    with pytest.raises(rnnx.UnsupportedError, match=message):
        rnnx_torch.export(make())


def test_zoneout_is_left_out_for_inference():
    cell = on_torch(rnnx.ZoneoutCell(rnnx.LSTMCell(5), 0.1, 0.2))
    expected, _ = cell.unroll(None, inputs_of(), merge_outputs=True)
    module = rnnx_torch.export(cell, inference=True)
    torch.testing.assert_close(module(inputs_of())[0], expected, rtol=0, atol=1e-12)


def test_a_cell_without_weights_is_refused():
    with pytest.raises(rnnx.RNNXError, match="no weights yet"):
        rnnx_torch.export(rnnx.LSTMCell(5))


# -- from_torch -------------------------------------------------------------------------------------------------------

SEQUENCES = [
    ("LSTM", {"num_layers": 2, "bidirectional": True, "dropout": 0.3}),
    ("LSTM", {"num_layers": 2, "bidirectional": True, "proj_size": 2}),
    ("GRU", {"num_layers": 2}),
    ("RNN", {"bidirectional": True, "nonlinearity": "relu"}),
]


def randomized(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.rand(weight.shape, generator=generator) * 1.4 - 0.7)
    return module


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kind", "options"), SEQUENCES)
def test_a_module_for_sequences_becomes_a_cell(kind, options, bias, batch_first):
    make = getattr(torch.nn, kind)
    module = randomized(make(WIDTH, HIDDEN, bias=bias, batch_first=batch_first, dtype=torch.float64, **options)).eval()
    cell = rnnx_torch.from_torch(module)
    inputs = inputs_of() if batch_first else inputs_of().transpose(0, 1)
    layout = "NTC" if batch_first else "TNC"
    outputs, states = cell.unroll(None, inputs, layout=layout, merge_outputs=True)
    expected, expected_states = module(inputs)
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-12)
    if "proj_size" not in options:
        judge = expected_states if kind == "LSTM" else (expected_states,)
        torch.testing.assert_close(tuple(states), judge, rtol=0, atol=1e-12)
        assert isinstance(cell, rnnx.FusedRNNCell)
        assert cell.explain(inputs, layout=layout).kernels == ("torch.native",)
    names = list(cell.get_params())
    default = {"LSTM": "lstm_", "GRU": "gru_", "RNN": "rnn_relu_"}[kind]
    assert all(name.startswith(default) for name in names)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_a_module_for_one_step_becomes_a_cell(kind, bias):
    module = randomized(getattr(torch.nn, kind)(WIDTH, HIDDEN, bias=bias, dtype=torch.float64))
    cell = rnnx_torch.from_torch(module, prefix="decoder.cell_")
    assert type(cell).__name__ == kind
    assert all(name.startswith("decoder.cell_") for name in cell.get_params())
    state = torch.rand(BATCH, HIDDEN, dtype=torch.float64)
    given = [state, state / 2] if kind == "LSTMCell" else [state]
    outputs, states = cell(inputs_of()[:, 0], given)
    expected = module(inputs_of()[:, 0], tuple(given) if kind == "LSTMCell" else state)
    judge = expected if kind == "LSTMCell" else (expected,)
    torch.testing.assert_close(tuple(states), judge, rtol=0, atol=1e-12)
    torch.testing.assert_close(outputs, judge[0], rtol=0, atol=1e-12)


def test_dropout_comes_along():
    cell = rnnx_torch.from_torch(torch.nn.LSTM(WIDTH, HIDDEN, 2, dropout=0.3))
    assert cell.spec.fields["dropout"] == 0.3
    projected = rnnx_torch.from_torch(torch.nn.LSTM(WIDTH, HIDDEN, 2, dropout=0.3, proj_size=2))
    assert [child.kind for child in projected.spec.children] == ["LSTMPCell", "DropoutCell", "LSTMPCell"]


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("options", [{}, {"proj_size": 2}])
def test_there_and_back_is_the_same_bit_for_bit(dtype, options):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    module = randomized(torch.nn.LSTM(WIDTH, HIDDEN, 2, bidirectional=True, dtype=getattr(torch, dtype), **options))
    back = rnnx_torch.export(rnnx_torch.from_torch(module))
    assert [name for name, _ in back.named_parameters()] == [name for name, _ in module.named_parameters()]
    assert all(torch.equal(one, other) for one, other in zip(back.parameters(), module.parameters(), strict=True))


def test_weights_are_copies():
    module = randomized(torch.nn.GRU(WIDTH, HIDDEN))
    cell = rnnx_torch.from_torch(module)
    before = cell.get_params()
    with torch.no_grad():
        module.weight_ih_l0.zero_()
    networks.same_bits(before, cell.get_params())
    assert not cell.params["gru_parameters"].requires_grad


def test_a_parametrized_weight_is_what_the_parametrization_makes_of_it():
    class Doubled(torch.nn.Module):
        def forward(self, weight):
            return 2 * weight

    module = randomized(torch.nn.LSTM(WIDTH, HIDDEN, batch_first=True))
    torch.nn.utils.parametrize.register_parametrization(module, "weight_hh_l0", Doubled())
    outputs, _ = rnnx_torch.from_torch(module).unroll(None, inputs_of("float32"))
    torch.testing.assert_close(outputs, module(inputs_of("float32"))[0], rtol=0, atol=1e-6)


def test_other_modules_are_refused():
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 3), torch.nn.LSTM(3, 5), torch.nn.ModuleList([torch.nn.GRUCell(5, 5)])
    )
    with pytest.raises(
        rnnx.UnsupportedError, match=r"a Sequential is none.*'1' \(LSTM\), '2\.0' \(GRUCell\).*Sequential"
    ):
        rnnx_torch.from_torch(model)
    with pytest.raises(rnnx.UnsupportedError, match=r"a Linear is none of LSTM, .*it holds none"):
        rnnx_torch.from_torch(model[0])

    class Reversed(torch.nn.LSTM):
        def forward(self, inputs, hx=None):
            return super().forward(inputs.flip(0), hx)

    with pytest.raises(rnnx.UnsupportedError, match="Reversed has a forward of its own"):
        rnnx_torch.from_torch(Reversed(3, 5))


def test_a_part_of_a_model_can_be_kept_in_a_portable_file(tmp_path):
    cell = rnnx_torch.from_torch(randomized(torch.nn.LSTM(WIDTH, HIDDEN)), prefix="encoder.lstm_")
    rnnx.save(tmp_path / "lstm.rnnx", cell)
    again, _ = rnnx.load(tmp_path / "lstm.rnnx")
    networks.same_bits(cell.get_params(), again.get_params())


def test_the_state_dict_is_that_of_the_module_written_by_hand():
    module = rnnx_torch.export(on_torch(rnnx.FusedRNNCell(5, 2)))
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    assert torch.load(file, weights_only=True).keys() == torch.nn.LSTM(3, 5, 2).state_dict().keys()

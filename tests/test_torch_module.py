"""`rnnx_torch.RNNModule`: what torch's own modules can do, over a cell tree."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys

import numpy as np
import pytest

import networks
import rnnx

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from rnnx_torch import RNNModule, kernels  # noqa: E402 - it needs torch
from torched import BATCH, HIDDEN, RAGGED, STEPS, TREES, WIDTH, fused, inputs_of, module_of, placed, zoned  # noqa: E402


def trained(module: RNNModule, steps: int = 1) -> RNNModule:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        module(inputs_of(str(next(module.parameters()).dtype).removeprefix("torch.")))[0].square().sum().backward()
        optimizer.step()
    return module


def same(one: RNNModule, other: RNNModule) -> bool:
    """Whether two modules have the same weights and compute the same."""
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    torch.testing.assert_close(one.eval()(inputs_of()), other.eval()(inputs_of()), rtol=0, atol=0)
    return all(name == its and torch.equal(mine, theirs) for (name, mine), (its, theirs) in pairs)


# -- what it computes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, RAGGED], ids=["full", "ragged"])
@pytest.mark.parametrize("layout", ["NTC", "TNC"])
@pytest.mark.parametrize("name", TREES)
def test_outputs_states_and_gradients_are_numpys(name, layout, lengths):
    cell = networks.randomized(TREES[name](), WIDTH, scale=0.7)
    inputs = inputs_of() if layout == "NTC" else inputs_of().transpose(0, 1)
    rng = np.random.default_rng(1)
    begin = [rng.normal(size=[size or BATCH for size in shape]) for shape in cell.state_shape]
    arguments = {"layout": layout, "merge_outputs": True, "valid_length": None if lengths is None else lengths.numpy()}
    expected, expected_states, pull = cell.vjp(None, inputs.numpy(), begin, **arguments)
    slope = rng.normal(size=expected.shape)
    slopes = networks.like(expected_states, rng)
    judge = pull(slope, slopes)

    module = RNNModule(cell, WIDTH, layout).eval()
    given = [torch.from_numpy(state).requires_grad_() for state in begin]
    inputs.requires_grad_()
    outputs, states = module(inputs, given, lengths)
    found = [outputs, *networks.leaves(states)]
    torch.autograd.backward(found, list(map(torch.from_numpy, [slope, *networks.leaves(slopes)])))
    networks.assert_all_close(
        [array.detach().numpy() for array in found], [expected, *networks.leaves(expected_states)], 1e-12
    )
    networks.assert_all_close(
        [array.grad.numpy() for array in (inputs, *given, *module.parameters())],
        [judge.inputs, *judge.begin_state, *judge.weights.values()],
        1e-11,
    )


@pytest.mark.parametrize("mode", ["lstm", "gru", "rnn_tanh"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_with_dropout_is_that_of_torch_nn(mode, dtype):
    """The same kernel, called once, drops the same elements for the same seed."""
    module = module_of(fused(mode), dtype)
    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn_tanh": torch.nn.RNN}[mode]
    judge = kind(WIDTH, HIDDEN, 2, dropout=0.3, bidirectional=True, batch_first=True, dtype=inputs_of(dtype).dtype)
    recurrence = rnnx.backend.Recurrence(mode, WIDTH, HIDDEN, 2, True)
    layers = rnnx.weights.layout.split_flat(
        rnnx.get_backend("torch"), module.get_parameter(f"{mode}_parameters"), recurrence
    )
    with torch.no_grad():
        for theirs, mine in zip(
            judge.parameters(), (weight for layer in layers.layers for weight in layer), strict=True
        ):
            theirs.copy_(mine)
    results = []
    for each in (module, judge):
        torch.manual_seed(11)
        results.append(each(inputs_of(dtype))[0])
    torch.testing.assert_close(*results, rtol=0, atol=1e-6 if dtype == "float32" else 1e-12)
    assert not torch.allclose(results[0], module(inputs_of(dtype))[0])


@pytest.mark.parametrize("name", ["lstm", "zoned", "own"])
def test_the_mode_drives_what_acts_in_training_and_a_seed_repeats_it(name):
    module = module_of(TREES[name]())
    still = module.eval()(inputs_of())[0]
    torch.testing.assert_close(module(inputs_of())[0], still, rtol=0, atol=0)
    module.train()
    torch.manual_seed(3)
    first = module(inputs_of())[0]
    assert not torch.allclose(first, still)
    assert not torch.allclose(first, module(inputs_of())[0])
    torch.manual_seed(3)
    torch.testing.assert_close(module(inputs_of())[0], first, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "dtype", "lengths", "expected"),
    [
        ("lstm", "float32", None, ("torch.mkldnn",)),
        ("lstm", "float32", RAGGED, ("torch.native",)),
        ("gru", "float64", None, ("torch.native",)),
        ("placed", "float64", None, ("torch.native", "torch.native")),
        ("own", "float32", None, ("torch.loop", "torch.loop")),
    ],
)
def test_the_kernel_that_runs_is_the_one_named(name, dtype, lengths, expected):
    module = module_of(TREES[name](), dtype).eval()
    inputs = inputs_of(dtype)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        module(inputs, valid_length=lengths)
    ran = {event.name for event in profile.events()}
    assert module.explain(inputs, lengths).kernels == expected
    assert module.cell.explain(inputs, valid_length=lengths).kernels == expected
    assert ("aten::mkldnn_rnn_layer" in ran) == ("torch.mkldnn" in expected)
    assert ran.isdisjoint({"aten::lstm", "aten::gru"}) == (expected[0] == "torch.loop")


def test_it_steps_where_that_is_asked_for():
    module = module_of(fused(), fuse=False)
    assert set(module.explain(inputs_of()).kernels) == {"torch.loop", "torch.dropout"}
    other = module_of(fused())
    torch.testing.assert_close(module.eval()(inputs_of()), other.eval()(inputs_of()), rtol=0, atol=1e-12)


def test_a_sequence_may_come_as_a_list_and_batches_may_be_empty():
    module = module_of(TREES["placed"]()).eval()
    outputs, _ = module(inputs_of())
    torch.testing.assert_close(module(list(inputs_of().unbind(1)))[0], outputs, rtol=0, atol=1e-12)
    outputs, states = module(inputs_of()[:0])
    assert outputs.shape == (0, STEPS, 2 * HIDDEN)
    assert [tuple(state.shape) for state in states] == [(0, HIDDEN), (4, 0, HIDDEN), (4, 0, HIDDEN)]


# -- the weights as parameters ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TREES)
def test_the_state_dict_has_the_weights_names(name):
    cell = networks.randomized(TREES[name](), WIDTH)
    before = cell.get_params()
    module = RNNModule(cell, WIDTH)
    state = module.state_dict()
    networks.same_bits(before, {name: weight.numpy() for name, weight in state.items()})
    assert [name for name, _ in module.named_parameters()] == list(before)
    assert all(weight.is_leaf and weight.requires_grad for weight in module.parameters())

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    other = RNNModule(TREES[name](), WIDTH, dtype=torch.float64)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert same(module, other)


def test_a_name_in_a_place_of_a_model_is_a_module_in_a_module():
    module = module_of(placed())
    assert isinstance(module.get_submodule("encoder.layers.1"), torch.nn.Module)
    assert module.get_parameter("encoder.layers.1.lstm_parameters").dim() == 1
    model = torch.nn.ModuleDict({"speech": module})
    assert "speech.encoder.gru_i2h_weight" in model.state_dict()


def test_a_fused_cell_without_a_prefix_has_a_weight_called_parameters():
    module = trained(module_of(fused(prefix="")))
    assert list(module.state_dict()) == ["parameters"]
    assert same(module, copy.deepcopy(module))
    other = RNNModule(fused(prefix=""), WIDTH, dtype=torch.float64)
    other.load_state_dict(module.state_dict())
    assert same(module, other)


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("train.lstm_", r"'train\.lstm_i2h_weight' would stand in a module called 'train'"),
        (".lstm_", r"would stand in a module called ''"),
        ("a..b_", r"would stand in a module called ''"),
    ],
)
def test_names_that_torch_cannot_have_are_refused(prefix, message):
    with pytest.raises(rnnx.UnsupportedError, match=message):
        RNNModule(rnnx.LSTMCell(2, prefix), 3)


def test_loading_is_strict():
    module = module_of(fused())
    with pytest.raises(RuntimeError, match=r"(?s)Missing.*lstm_parameters.*Unexpected.*other"):
        module.load_state_dict({"other": torch.zeros(3)})
    assert module.load_state_dict({}, strict=False).missing_keys == ["lstm_parameters"]


def test_weights_that_cells_share_are_one_parameter():
    params = rnnx.LSTMCell(WIDTH, "a_").params
    cell = networks.sequential(*(rnnx.LSTMCell(WIDTH, "a_", params) for _ in range(2)))
    module = module_of(cell)
    assert len(list(module.parameters())) == 4
    other = RNNModule(rnnx.LSTMCell(WIDTH, "a_", params), WIDTH)
    both = torch.nn.ModuleList([module, other])
    assert len(list(both.parameters())) == 4
    module(inputs_of())[0].sum().backward()
    assert other.get_parameter("a_h2h_bias").grad is not None


def test_what_trains_the_module_trains_the_cell(tmp_path):
    cell = networks.randomized(fused(), WIDTH)
    module = trained(RNNModule(cell, WIDTH), 3)
    networks.same_bits(cell.get_params(), {name: weight.numpy() for name, weight in module.state_dict().items()})
    rnnx.save(tmp_path / "cell.rnnx", cell)
    again, _ = rnnx.load(tmp_path / "cell.rnnx", backend="torch")
    torch.testing.assert_close(again.unroll(None, inputs_of())[0], module.eval()(inputs_of())[0], rtol=0, atol=0)

    module.load_state_dict({"lstm_parameters": torch.ones_like(module.lstm_parameters)}, assign=True)
    assert (module.cell.get_params()["lstm_parameters"] == 1).all()


def test_new_weights_are_drawn_from_torchs_generator():
    def made():
        torch.manual_seed(5)
        return RNNModule(fused(), WIDTH).state_dict()["lstm_parameters"]

    assert torch.equal(made(), made())
    assert made().dtype == torch.float32
    assert RNNModule(fused(), WIDTH, device="meta", dtype=torch.float16).lstm_parameters.is_meta
    cell = networks.randomized(fused(), WIDTH)
    before = torch.get_rng_state()
    assert RNNModule(cell, WIDTH, dtype=torch.float32).lstm_parameters.dtype == torch.float32
    assert torch.equal(before, torch.get_rng_state())


def test_a_cell_for_another_width_is_refused():
    with pytest.raises(rnnx.WeightFormatError, match="for inputs of size 7"):
        RNNModule(networks.randomized(rnnx.LSTMCell(4), WIDTH), 7)
    with pytest.raises(rnnx.ShapeError, match="'CTN'"):
        RNNModule(rnnx.LSTMCell(4), 3, "CTN")


def test_print_says_what_it_is():
    assert repr(RNNModule(fused(), WIDTH)) == "RNNModule(FusedRNNCell, input_size=3, layout='NTC')"


# -- one buffer -------------------------------------------------------------------------------------------------------


def given_to_the_kernel(module: RNNModule, monkeypatch) -> list[tuple[int, int]]:
    """The places and sizes of the weights that a call hands over, in elements of the module's one parameter."""
    vector = module.get_parameter("lstm_parameters")
    assert vector.is_contiguous()
    assert vector.storage_offset() == 0
    assert vector.untyped_storage().nbytes() == vector.numel() * vector.element_size()
    seen = []

    def spy(inputs, hidden, weights, *rest):
        seen.extend(weights)
        return real(inputs, hidden, weights, *rest)

    real = kernels._FUNCTIONS["lstm"]
    with monkeypatch.context() as patch:
        patch.setitem(kernels._FUNCTIONS, "lstm", spy)
        module(inputs_of())
    start = vector.data_ptr()
    return [((weight.data_ptr() - start) // vector.element_size(), weight.numel()) for weight in seen]


def assigned(module: RNNModule) -> RNNModule:
    module.load_state_dict({name: weight.clone() for name, weight in module.state_dict().items()}, assign=True)
    return module


def loaded(module: RNNModule) -> RNNModule:
    module.load_state_dict({name: weight * 2 for name, weight in module.state_dict().items()})
    return module


@pytest.mark.parametrize(
    "change",
    [
        lambda module: module,
        lambda module: module.float().double(),
        copy.deepcopy,
        lambda module: pickle.loads(pickle.dumps(module)),
        assigned,
        loaded,
        trained,
        lambda module: module.share_memory(),
    ],
)
def test_the_kernel_reads_views_of_the_one_parameter_in_cudnns_order(change, monkeypatch):
    places = given_to_the_kernel(change(module_of(fused())), monkeypatch)
    shapes = [places[start : start + 4] for start in range(0, len(places), 4)]
    ordered = [place for layer in shapes for place in layer[:2]] + [place for layer in shapes for place in layer[2:]]
    ends = np.cumsum([size for _, size in ordered])
    assert [start for start, _ in ordered] == [0, *ends[:-1]]
    assert len(places) == 16


def test_weights_elsewhere_in_a_buffer_are_put_into_one_of_their_own():
    cell = module_of(fused()).cell
    recurrence = rnnx.backend.Recurrence("lstm", WIDTH, HIDDEN, 2, True)
    ops, vector = rnnx.get_backend("torch"), cell.params["lstm_parameters"].detach()
    weights = rnnx.weights.layout.split_flat(ops, vector, recurrence)
    assert kernels.in_one_buffer(ops, weights, recurrence) is weights
    inside = rnnx.weights.layout.split_flat(ops, torch.cat([torch.zeros(3), vector])[3:], recurrence)
    for moved in (inside, rnnx.backend.KernelWeights(weights.layers)):
        found = kernels.in_one_buffer(ops, moved, recurrence).flat
        assert found.storage_offset() == 0
        assert torch.equal(found, vector)


# -- copies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lstm", "zoned", "placed"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copy_is_the_same_and_is_on_its_own(name, copied):
    module = module_of(TREES[name]())
    module(inputs_of())
    other = copied(module)
    assert same(module, other)
    trained(other)
    assert not same_weights(module, other)
    networks.same_bits(other.cell.get_params(), {name: weight.numpy() for name, weight in other.state_dict().items()})


def same_weights(one: RNNModule, other: RNNModule) -> bool:
    return all(torch.equal(mine, theirs) for mine, theirs in zip(one.parameters(), other.parameters(), strict=True))


def test_it_moves_between_dtypes_and_devices():
    module = module_of(zoned()).to(torch.float32).eval()
    assert module(inputs_of("float32"))[0].dtype == torch.float32
    assert all(weight.is_meta for weight in copy.deepcopy(module).to("meta").parameters())


def test_a_parametrization_is_seen():
    class Halved(torch.nn.Module):
        def forward(self, weight):
            return weight / 2

    module, other = module_of(fused()).eval(), module_of(fused()).eval()
    torch.nn.utils.parametrize.register_parametrization(module, "lstm_parameters", Halved())
    with torch.no_grad():
        other.lstm_parameters /= 2
    torch.testing.assert_close(module(inputs_of()), other(inputs_of()), rtol=0, atol=0)


def test_the_package_is_light_until_it_is_used():
    code = """if True:
        import sys
        import rnnx_torch
        assert {"RNNModule", "export", "from_torch"} <= set(dir(rnnx_torch))
        assert "torch" not in sys.modules
        try:
            rnnx_torch.LSTM
        except AttributeError as error:
            assert "module 'rnnx_torch' has no attribute 'LSTM'" in str(error)
        rnnx_torch.RNNModule
        assert "torch._dynamo" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code], check=True)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (np.zeros((4, 5, 3)), rnnx.BackendMismatchError, r"numpy\.ndarray belongs to backend 'numpy', where 'torch'"),
        (torch.zeros(4, 3, dtype=torch.float64), rnnx.ShapeError, r"inputs have shape \(4, 3\), expected 3 axes"),
        (torch.zeros(4, 5, 7, dtype=torch.float64), rnnx.ShapeError, "inputs are 7 wide, expected input_size=3"),
        (torch.zeros(4, 5, 3), rnnx.BackendMismatchError, "is float64 on cpu and the inputs are float32 on cpu"),
        (torch.zeros(4, 5, 3, dtype=int), rnnx.BackendMismatchError, "inputs have dtype int64"),
        (
            torch.zeros(4, 5, 3, dtype=torch.float64, device="meta"),
            rnnx.BackendMismatchError,
            "is float64 on cpu and the inputs are float64 on meta",
        ),
        (None, rnnx.ShapeError, "inputs is None"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs, error, message):
    with pytest.raises(error, match=message):
        module_of(fused())(inputs)


def test_states_and_lengths_that_do_not_fit_are_refused():
    module = module_of(rnnx.LSTMCell(HIDDEN))
    state = torch.zeros(BATCH, HIDDEN, dtype=torch.float64)
    with pytest.raises(rnnx.ShapeError, match="begin_state holds 1 arrays, expected 2"):
        module(inputs_of(), [state])
    with pytest.raises(rnnx.BackendMismatchError, match=r"begin_state\[1\] has dtype float32"):
        module(inputs_of(), [state, state.float()])
    with pytest.raises(rnnx.ShapeError, match="whole numbers from 0 to 5"):
        module(inputs_of(), valid_length=torch.tensor([1, 2, 3, 6]))

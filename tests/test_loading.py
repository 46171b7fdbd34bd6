"""Weights that are loaded, moved, set and made: what is taken, what is refused, and that no error loses any."""

from __future__ import annotations

import numpy as np
import pytest

import networks
import rnnx
from networks import plain, same_bits, sequential
from rnnx.initializers import LSTMBias, Uniform

WIDTH, HIDDEN = 3, 4
INPUTS = np.random.default_rng(2).normal(size=(2, 5, WIDTH))


def fused(mode: str = "lstm", layers: int = 2, bidirectional: bool = True, **more) -> rnnx.FusedRNNCell:
    return rnnx.FusedRNNCell(HIDDEN, layers, mode, bidirectional, prefix="f_", **more)


def computes_the_same(one: rnnx.BaseRNNCell, other: rnnx.BaseRNNCell) -> None:
    found, expected = (cell.unroll(None, INPUTS, merge_outputs=True)[0] for cell in (one, other))
    np.testing.assert_allclose(found, expected, atol=1e-12)


# -- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", networks.FUSED_MODES)
def test_a_plain_cell_loads_packed_and_per_gate(mode):
    cell = networks.randomized(plain(mode, HIDDEN), WIDTH)
    packed = cell.get_params()
    for weights in (packed, cell.unpack_weights(packed)):
        twin = plain(mode, HIDDEN)
        twin.load_params(weights)
        same_bits(packed, twin.get_params())
        computes_the_same(cell, twin)


@pytest.mark.parametrize("form", ["flat", "layers", "gates"])
@pytest.mark.parametrize("into", ["fused", "unfused", "nested"])
def test_fused_weights_load_in_any_form_into_any_form(form, into):
    source = networks.randomized(fused("gru"), WIDTH)
    weights = {
        "flat": source.get_params(),
        "layers": source.unfuse().get_params(),
        "gates": source.unpack_weights(source.get_params()),
    }[form]
    twin = {"fused": fused("gru"), "unfused": fused("gru").unfuse(), "nested": sequential(fused("gru"))}[into]
    twin.load_params(weights)
    computes_the_same(source, twin)


def test_some_gates_packed_and_some_not():
    cell = networks.randomized(sequential(plain("lstm", HIDDEN, "a_"), plain("gru", HIDDEN, "b_")), WIDTH)
    packed = cell.get_params()
    unpacked = cell.unpack_weights(packed)
    mixed = {name: array for name, array in packed.items() if name.startswith("a_")}
    mixed |= {name: array for name, array in unpacked.items() if name.startswith("b_")}
    twin = sequential(plain("lstm", HIDDEN, "a_"), plain("gru", HIDDEN, "b_"))
    twin.load_params(mixed)
    same_bits(packed, twin.get_params())


def misshaped(weights: dict, name: str, shape: tuple[int, ...]) -> dict:
    return {**weights, name: np.ones(shape, next(iter(weights.values())).dtype)}


REFUSED = {
    "missing": (
        lambda w: {name: array for name, array in w.items() if name != "cell_h2h_bias"},
        r"weight 'cell_h2h_bias' is missing \(nearest: 'cell_",
    ),
    "renamed": (
        lambda w: {name.replace("i2h_bias", "i2h_bais"): array for name, array in w.items()},
        r"'cell_i2h_bias' is missing \(nearest: 'cell_i2h_bais'\)",
    ),
    "extra": (
        lambda w: {**w, "cell_i2h_gain": np.ones(3)},
        r"'cell_i2h_gain' is none of this cell's \(nearest: 'cell_",
    ),
    "extra flat": (lambda w: {**w, "junk_parameters": np.ones(3)}, "'junk_parameters' is none of this cell's"),
    "none": (lambda w: {}, "'cell_i2h_weight' is missing; .*'cell_h2h_bias' is missing"),
    "hidden": (
        lambda w: misshaped(w, "cell_h2h_weight", (16, 5)),
        r"'cell_h2h_weight' has shape \(16, 5\), expected \(16, 4\) for inputs of size 3",
    ),
    "rows": (lambda w: misshaped(w, "cell_i2h_bias", (12,)), r"'cell_i2h_bias' has shape \(12,\), expected \(16,\)"),
    "not gates": (lambda w: misshaped(w, "cell_i2h_bias", (13,)), r"'cell_i2h_bias' has shape \(13,\), expected"),
    "rank": (
        lambda w: misshaped(w, "cell_i2h_weight", (48,)),
        r"'cell_i2h_weight' has shape \(48,\), expected \(16, ",
    ),
    "transposed": (
        lambda w: {**w, "cell_i2h_weight": w["cell_i2h_weight"].T},
        r"'cell_i2h_weight' has shape \(3, 16\), expected",
    ),
    "scalar": (lambda w: misshaped(w, "cell_h2h_bias", ()), r"'cell_h2h_bias' has shape \(\), expected \(16,\)"),
}


@pytest.mark.parametrize("initialized", [True, False])
@pytest.mark.parametrize(("spoil", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_loading_is_strict_and_all_or_nothing(spoil, message, initialized):
    cell = plain("lstm", HIDDEN)
    weights = networks.randomized(plain("lstm", HIDDEN), WIDTH).get_params()
    if initialized:
        networks.randomized(cell, WIDTH, seed=9)
    before = cell.get_params()
    with pytest.raises(rnnx.WeightFormatError, match=message) as caught:
        cell.load_params(spoil(weights))
    assert isinstance(caught.value, ValueError)
    same_bits(before, cell.get_params())


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.ones(7), r"vector of 7 elements is no lstm of 2 layers, 2 directions and 4 hidden units"),
        (np.ones((4, 176)), r"\(4, 176\)"),
        (np.ones(0), "vector of 0 elements"),
    ],
)
def test_a_vector_that_fits_no_input_size(vector, message):
    cell = networks.randomized(fused(), WIDTH)
    before = cell.get_params()
    with pytest.raises(rnnx.WeightFormatError, match=message):
        cell.load_params({"f_parameters": vector})
    same_bits(before, cell.get_params())


@pytest.mark.parametrize("values", [np.ones((16, 3), "int64"), np.ones((16, 3), bool), np.ones((16, 3), "complex128")])
def test_weights_are_floats(values):
    cell = plain("lstm", HIDDEN)
    weights = networks.randomized(plain("lstm", HIDDEN), WIDTH).get_params()
    with pytest.raises(rnnx.BackendMismatchError, match=f"dtype.*{values.dtype}"):
        cell.load_params({name: np.ones(array.shape, values.dtype) for name, array in weights.items()})
    assert cell.get_params() == {}


def test_weights_of_several_dtypes_are_refused():
    cell = networks.randomized(plain("lstm", HIDDEN), WIDTH)
    before = cell.get_params()
    mixed = {name: array.astype("float32") if "bias" in name else array for name, array in before.items()}
    with pytest.raises(rnnx.BackendMismatchError, match="the weights have several dtypes: float32, float64"):
        cell.load_params(mixed)
    same_bits(before, cell.get_params())


@pytest.mark.parametrize("mode", ["lstm", "rnn_tanh"])
def test_lists_are_no_weights(mode):
    cell = networks.randomized(plain(mode, HIDDEN), WIDTH)
    lists = {name: array.tolist() for name, array in cell.get_params().items()}
    with pytest.raises(rnnx.BackendMismatchError, match=r"no backend takes an object of type builtins\.list"):
        cell.load_params(lists)


def test_extra_weights_may_be_ignored():
    cell = plain("lstm", HIDDEN)
    weights = networks.randomized(plain("lstm", HIDDEN), WIDTH).get_params()
    cell.load_params({**weights, "embedding": np.ones(3), "other_parameters": np.ones(3)}, ignore_extra=True)
    same_bits(weights, cell.get_params())


def test_a_long_list_of_mistakes_is_cut():
    cell = sequential(*(plain("lstm", 2, f"l{n}_") for n in range(5)))
    with pytest.raises(rnnx.WeightFormatError, match="; and 12 more"):
        cell.load_params({})


def test_loading_may_change_the_dtype_and_the_input_size():
    cell = networks.randomized(plain("lstm", HIDDEN), WIDTH)
    weights = networks.randomized(plain("lstm", HIDDEN), 7, "float32").get_params()
    cell.load_params(weights)
    same_bits(weights, cell.get_params())


@pytest.mark.parametrize("make", [*(lambda m=m: plain(m, HIDDEN) for m in ("lstm", "rnn_tanh", "peephole")), fused])
def test_loading_copies(make):
    cell = make()
    weights = networks.randomized(make(), WIDTH).get_params()
    cell.load_params(weights)
    for array in weights.values():
        array[...] = np.nan
    assert all(np.isfinite(array).all() for array in cell.get_params().values())


@pytest.mark.parametrize("make", [lambda: plain("lstm", HIDDEN), fused])
def test_get_params_copies(make):
    cell = networks.randomized(make(), WIDTH)
    for array in cell.get_params().values():
        array[...] = np.nan
    assert all(np.isfinite(array).all() for array in cell.get_params().values())


def test_the_weights_of_some_cells_only():
    cell = sequential(plain("lstm", HIDDEN, "a_"))
    networks.randomized(cell, WIDTH)
    before = cell.get_params()
    cell.add(plain("gru", HIDDEN, "b_"))
    same_bits(before, cell.get_params())
    moved = cell.to("numpy", dtype="float32").get_params()
    assert moved.keys() == before.keys()
    assert cell.unroll(None, INPUTS.astype("float32"), merge_outputs=True)[0].shape == (2, 5, HIDDEN)
    assert len(cell.get_params()) == 8


# -- moving ----------------------------------------------------------------------------------------------------------


def test_moving_to_another_dtype():
    cell = networks.randomized(plain("lstm", HIDDEN), WIDTH)
    exact = cell.get_params()
    assert cell.to("numpy", dtype="float32") is cell
    for name, array in cell.get_params().items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, exact[name].astype("float32"))
    with pytest.raises(rnnx.BackendMismatchError, match=r"dtype float32 and the inputs have float64: use cell\.to\("):
        cell.unroll(None, INPUTS)


def test_moving_to_another_backend_and_back(other_backend):
    cell = networks.randomized(fused(), WIDTH)
    exact = cell.get_params()
    cell.to("tier1")
    assert other_backend.owns(cell.params["f_parameters"])
    same_bits(exact, cell.get_params())
    cell.to("numpy")
    same_bits(exact, cell.get_params())


def test_moving_nothing():
    with pytest.raises(rnnx.RNNXError, match="no weights yet: call initialize"):
        plain("lstm", HIDDEN).to("numpy")


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ({"backend": "nope"}, rnnx.BackendNotFoundError, "'nope'"),
        ({"backend": "numpy", "dtype": "float31"}, rnnx.ShapeError, "'float31'"),
        ({"backend": "numpy", "dtype": "int32"}, rnnx.RNNXError, "int32"),
        ({"backend": "numpy", "device": "cuda:0"}, rnnx.RNNXError, "no device 'cuda:0', only 'cpu'"),
    ],
)
def test_moving_to_nowhere_loses_nothing(where, error, message):
    cell = networks.randomized(plain("lstm", HIDDEN), WIDTH)
    before = cell.get_params()
    with pytest.raises(error, match=message):
        cell.to(**where)
    same_bits(before, cell.get_params())


# -- first values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: plain("gru", HIDDEN), fused, lambda: sequential(plain("lstm", 9), fused())])
def test_first_values_are_fixed_by_a_seed(make):
    def values(seed):
        cell = make()
        cell.initialize(WIDTH, seed=seed)
        return cell.get_params()

    same_bits(values(1), values(1))
    one, other = values(1), values(2)
    assert any(not np.array_equal(one[name], other[name]) for name in one)
    random = [values(None) for _ in range(2)]
    assert any(not np.array_equal(random[0][name], random[1][name]) for name in one)


@pytest.mark.parametrize("mode", ["lstm", "gru", "gru_reset_before", "rnn_tanh"])
def test_first_values_of_plain_cells_are_those_of_mxnet(mode):
    cell = plain(mode, 50)
    cell.initialize(40, seed=1)
    for name, array in cell.get_params().items():
        assert array.dtype == np.float32
        if name.endswith("weight"):
            assert 0.0099 < np.abs(array).max() <= 0.01
            assert abs(array.mean()) < 2e-4
            assert abs(array.std() - 0.01 / np.sqrt(3)) < 1e-4
        elif name == "cell_i2h_bias" and mode == "lstm":
            np.testing.assert_array_equal(array, np.repeat([0, 1, 0, 0], 50))
        else:
            assert not array.any()


@pytest.mark.parametrize("forget_bias", [1.0, 0.0, 2.5])
def test_forget_bias_is_a_first_value(forget_bias):
    plain_cell = rnnx.LSTMCell(HIDDEN, "l_", forget_bias=forget_bias)
    plain_cell.initialize(WIDTH)
    np.testing.assert_array_equal(plain_cell.get_params()["l_i2h_bias"], np.repeat([0, forget_bias, 0, 0], HIDDEN))
    assert not plain_cell.get_params()["l_h2h_bias"].any()
    cell = fused(forget_bias=forget_bias)
    cell.initialize(WIDTH)
    for name, array in cell.unpack_weights(cell.get_params()).items():
        if name.endswith("bias"):
            assert (array == (forget_bias if "_f_" in name[2:] else 0)).all()
        else:
            assert 0 < np.abs(array).max() <= 0.01


@pytest.mark.parametrize("mode", ["gru", "rnn_tanh", "rnn_relu"])
def test_other_fused_cells_have_no_forget_bias(mode):
    cell = fused(mode)
    cell.initialize(WIDTH)
    for name, array in cell.unpack_weights(cell.get_params()).items():
        assert array.any() == name.endswith("weight")


def test_first_values_have_the_dtype_asked_for():
    cell = plain("lstm", HIDDEN)
    cell.initialize(WIDTH, dtype="float64")
    assert {array.dtype for array in cell.get_params().values()} == {np.dtype("float64")}
    first = plain("lstm", HIDDEN)
    first.unroll(None, INPUTS.astype("float32"))
    assert {array.dtype for array in first.get_params().values()} == {np.dtype("float32")}


def test_initializing_again_draws_anew():
    cell = networks.randomized(plain("gru", HIDDEN), WIDTH)
    cell.initialize(5, seed=1)
    assert cell.get_params()["cell_i2h_weight"].shape == (3 * HIDDEN, 5)
    assert not cell.get_params()["cell_i2h_bias"].any()


def test_initializing_leaves_other_cells_weights_alone():
    one = networks.randomized(plain("gru", HIDDEN), WIDTH)
    before = one.get_params()
    plain("gru", HIDDEN).initialize(WIDTH)
    same_bits(before, one.get_params())


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"input_size": 0}, rnnx.ShapeError),
        ({"input_size": -1}, rnnx.ShapeError),
        ({"input_size": WIDTH, "backend": "nope"}, rnnx.BackendNotFoundError),
        ({"input_size": WIDTH, "dtype": "float31"}, rnnx.ShapeError),
        ({"input_size": WIDTH, "dtype": "int32"}, rnnx.RNNXError),
        ({"input_size": WIDTH, "device": "cuda:0"}, rnnx.RNNXError),
    ],
)
def test_a_failed_initialization_loses_nothing(wrong, error):
    cell = networks.randomized(plain("lstm", HIDDEN), WIDTH)
    before = cell.get_params()
    with pytest.raises(error):
        cell.initialize(**wrong)
    same_bits(before, cell.get_params())


# -- RNNParams -------------------------------------------------------------------------------------------------------


def test_params_are_a_mapping_of_values():
    cell = plain("lstm", HIDDEN)
    assert list(cell.params) == []
    assert len(cell.params) == 0
    assert "cell_i2h_bias" not in cell.params
    networks.randomized(cell, WIDTH)
    assert sorted(cell.params) == sorted(cell.get_params())
    assert len(cell.params) == 4
    assert "cell_i2h_bias" in cell.params
    assert dict(cell.params.items())["cell_i2h_bias"] is cell.params["cell_i2h_bias"]


def test_params_are_set_by_full_name():
    cell = networks.randomized(plain("lstm", HIDDEN), WIDTH)
    cell.params["cell_i2h_bias"] = np.full(4 * HIDDEN, 0.5)
    assert (cell.get_params()["cell_i2h_bias"] == 0.5).all()
    with pytest.raises(rnnx.WeightFormatError, match=r"'cell_i2h_bias' has shape \(16,\), found \(3,\)"):
        cell.params["cell_i2h_bias"] = np.ones(3)
    with pytest.raises(KeyError, match=r"no weight is called 'cell_i2h_bais' \(nearest: 'cell_i2h_bias'\)"):
        cell.params["cell_i2h_bais"] = np.ones(16)
    with pytest.raises(KeyError, match="no weight is called 'x'"):
        cell.params["x"]


def test_params_without_a_value():
    with pytest.raises(rnnx.RNNXError, match="'lstm_i2h_bias' has no value yet: call initialize"):
        rnnx.LSTMCell(2).params["lstm_i2h_bias"]


def test_params_declare_once():
    params = rnnx.RNNParams("x_")
    first = params.get("weight", shape=(3, 0))
    assert params.get("weight") is first
    assert first.name == "x_weight"
    assert first.shape(5) == (3, 5)
    assert params.prefix == "x_"
    assert params.get("rule", shape=lambda size: (size, size)).shape(2) == (2, 2)
    with pytest.raises(rnnx.ShapeError, match=r"x_weight.*\(3, 1\).*\(4, 1\)"):
        params.get("weight", shape=(4, 0))


def test_initializers():
    rng = np.random.default_rng(1)
    assert np.abs(Uniform(0.5)(rng, (1000,))).max() == pytest.approx(0.5, rel=0.05)
    np.testing.assert_array_equal(LSTMBias(3.0)(rng, (8,)), [0, 0, 3, 3, 0, 0, 0, 0])


@pytest.mark.parametrize("make", [lambda: plain("lstm", HIDDEN), fused])
def test_weights_given_twice_are_refused(make):
    cell = networks.randomized(make(), WIDTH)
    before = cell.get_params()
    with pytest.raises(rnnx.WeightFormatError, match="packed and one a gate: give one form"):
        cell.load_params({**before, **cell.unpack_weights(before)})
    same_bits(before, cell.get_params())

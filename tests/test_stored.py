"""Tensors of files as data: read apart and put together, and nothing lost without a word."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from rnnx.errors import WeightFormatError
from rnnx.weights.mapped import release
from rnnx.weights.safetensors import read_tensors, write_tensors
from rnnx.weights.stored import Stored, as_named, blocks, gates, merged_biases, pieces_of, put_together, taken_apart

H, WIDTH = 3, 5
SHAPES = {
    **{f"c_i2h{gate}_weight": (H, WIDTH) for gate in ("_r", "_z", "_o")},
    **{f"c_h2h{gate}_weight": (H, H) for gate in ("_r", "_z", "_o")},
    **{f"c_{role}{gate}_bias": (H,) for role in ("i2h", "h2h") for gate in ("_r", "_z", "_o")},
}


def weights(dtype: type = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {name: rng.uniform(0.1, 1, shape).astype(dtype) for name, shape in SHAPES.items()}


def of(group: str, order: str) -> list[np.ndarray]:
    role, kind = group.split("_")
    return [weights()[f"c_{role}_{gate}_{kind}"] for gate in order]


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (as_named("c_i2h_z_weight", (H, WIDTH)), lambda: of("i2h_weight", "z")[0]),
        (
            Stored("rows", (3 * H, WIDTH), gates("c_", "i2h_weight", ("_z", "_r", "_o"))),
            lambda: np.concatenate(of("i2h_weight", "zro")),
        ),
        (
            Stored("columns", (WIDTH, 3 * H), gates("c_", "i2h_weight", ("_o", "_r", "_z")), transposed=True),
            lambda: np.concatenate([each.T for each in of("i2h_weight", "orz")], 1),
        ),
        (
            Stored(
                "both",
                (WIDTH + H, 2 * H),
                blocks("c_i2h_r_weight", "c_h2h_r_weight", "c_i2h_z_weight", "c_h2h_z_weight"),
                columns=2,
                transposed=True,
            ),
            lambda: np.block([[each.T for each in of(f"{role}_weight", "rz")] for role in ("i2h", "h2h")]),
        ),
        (
            Stored("rows of biases", (2, H), blocks("c_i2h_z_bias", "c_h2h_r_bias")),
            lambda: np.stack([of("i2h_bias", "z")[0], of("h2h_bias", "r")[0]]),
        ),
        (
            Stored("vector", (H * WIDTH + H,), blocks("c_i2h_r_weight", "c_i2h_r_bias")),
            lambda: np.concatenate([weights()["c_i2h_r_weight"].ravel(), weights()["c_i2h_r_bias"]]),
        ),
    ],
    ids=lambda stored: getattr(stored, "name", ""),
)
def test_a_tensor_is_put_together_and_taken_apart(stored, expected):
    held = {block.weight: weights()[block.weight] for block in stored.blocks}
    made = put_together([stored], held, "a test")[stored.name]
    np.testing.assert_array_equal(np.asarray(made), expected())
    assert (made.shape, made.dtype, made.nbytes) == (stored.shape, np.float32, expected().nbytes)
    written = b"".join(np.ascontiguousarray(piece).tobytes() for piece in pieces_of(made))
    assert written == expected().tobytes()
    shapes = {name: SHAPES[name] for name in held}
    tensor = np.asarray(made)
    apart = taken_apart([stored], {stored.name: tensor}, shapes)
    assert apart.keys() == held.keys()
    for name, array in apart.items():
        np.testing.assert_array_equal(array, held[name])
        assert np.shares_memory(array, tensor)


def test_one_bias_is_read_into_two():
    stored = [Stored("bias", (2 * H,), merged_biases("c_", ("_r", "_z")))]
    shapes = {name: shape for name, shape in SHAPES.items() if name[-6:] in ("r_bias", "z_bias")}
    apart = taken_apart(stored, {"bias": np.arange(2.0 * H)}, shapes)
    np.testing.assert_array_equal(apart["c_i2h_z_bias"], [3, 4, 5])
    assert not apart["c_h2h_z_bias"].any()
    np.testing.assert_array_equal(np.asarray(put_together(stored, apart, "a test")["bias"]), np.arange(2.0 * H))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_two_biases_are_merged_only_where_that_is_accepted(dtype):
    stored = [Stored("bias", (H,), merged_biases("c_", ("_r",)))]
    held = {name: array for name, array in weights(dtype).items() if name.endswith("_r_bias")}
    message = (
        r"X has one bias a gate, and 'c_i2h_r_bias' and 'c_h2h_r_bias' are two: merge_biases=True \(--merge-biases\)"
    )
    with pytest.raises(WeightFormatError, match=message):
        put_together(stored, held, "X")
    merged = np.asarray(put_together(stored, held, "X", merge_biases=True)["bias"])
    exact = held["c_i2h_r_bias"].astype(np.float64) + held["c_h2h_r_bias"].astype(np.float64)
    np.testing.assert_array_equal(merged, exact.astype(dtype))
    assert merged.dtype == dtype


def test_what_no_tensor_holds_is_zero_or_refused():
    stored = [Stored("bias", (H,), blocks("c_i2h_r_bias"))]
    shapes = {"c_i2h_r_bias": (H,), "c_h2h_r_bias": (H,)}
    apart = taken_apart(stored, {"bias": np.ones(H, np.float32)}, shapes)
    np.testing.assert_array_equal(apart["c_h2h_r_bias"], np.zeros(H, np.float32))
    assert put_together(stored, apart, "X").keys() == {"bias"}
    for lost in (np.full(H, 1e-30, np.float32), np.full(H, -0.0, np.float32)):
        with pytest.raises(WeightFormatError, match="X has no place for weight 'c_h2h_r_bias', which is not zero"):
            put_together(stored, {**apart, "c_h2h_r_bias": lost}, "X", merge_biases=True)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"biass": np.ones(H)}, r"weight 'bias' is missing \(nearest: 'biass'\)"),
        ({"bias": np.ones(H + 1)}, r"weight 'bias' has shape \(4,\), expected \(3,\)"),
        ({"bias": np.ones((H, 1))}, r"weight 'bias' has shape \(3, 1\), expected \(3,\)"),
    ],
)
def test_tensors_that_are_not_as_they_should_be(arrays, message):
    with pytest.raises(WeightFormatError, match=message):
        taken_apart([Stored("bias", (H,), blocks("c_i2h_r_bias"))], arrays, {"c_i2h_r_bias": (H,)})


@pytest.mark.parametrize(
    "stored",
    [
        Stored("x", (2 * H, WIDTH), blocks("c_i2h_r_weight")),
        Stored("x", (WIDTH, 2 * H), blocks("c_i2h_r_weight"), transposed=True),
        Stored("x", (H, WIDTH), blocks("c_i2h_r_weight"), transposed=True),
        Stored(
            "x",
            (H + WIDTH, H),
            blocks("c_i2h_r_weight", "c_h2h_r_weight", "c_i2h_z_weight"),
            columns=2,
            transposed=True,
        ),
        Stored("x", (H, 2), blocks("c_i2h_r_bias", "c_h2h_r_bias"), transposed=True),
    ],
)
def test_blocks_that_do_not_fill_their_tensor(stored):
    with pytest.raises(WeightFormatError, match=r"weight 'x' has shape .*, which weights of \[.*\] do not make"):
        taken_apart([stored], {"x": np.ones(stored.shape)}, SHAPES)


def test_a_composed_tensor_is_an_array_to_numpy():
    stored = Stored("rows", (2 * H, WIDTH), gates("c_", "i2h_weight", ("_z", "_r")))
    made = put_together([stored], {b.weight: weights()[b.weight] for b in stored.blocks}, "a test")["rows"]
    assert np.asarray(made, np.float64).dtype == np.float64
    assert (made.ndim, made.size, made.itemsize) == (2, 2 * H * WIDTH, 4)
    with pytest.raises(ValueError, match="copies"):
        np.array(made, copy=False)


def test_memory_of_a_mapped_file_is_released_and_comes_back(tmp_path):
    wanted = np.random.default_rng(0).random((64, 1024))
    write_tensors(tmp_path / "x.safetensors", {"a": wanted, "b": wanted[:1]}, {})
    arrays, _ = read_tensors(tmp_path / "x.safetensors")
    for array in (arrays["a"], arrays["a"][3:40], arrays["a"].T, arrays["b"], wanted):
        before = array.copy()
        release(array)
        np.testing.assert_array_equal(array, before)
    np.testing.assert_array_equal(arrays["a"], wanted)

"""Every dtype computes in itself, and sums are not rounded on the way."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rnnx.conformance import judging, networks, unrolled
from rnnx.conformance.marks import dtypes, halves, modes, singles, trees, ways
from rnnx.conformance.networks import FUSED_FEW, PLAIN, RAGGED, Tree, fused_tree, numpy_dtype, rounded
from rnnx.conformance.subject import Subject

#: The distance from 1 to the next number.
EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


@halves
@trees(*PLAIN, *FUSED_FEW, "both_unlike", "residual_stack", "own_peephole", "own_wide")
def test_halves(subject: Subject, tree: Tree, dtype: str) -> None:
    """Every cell in half precision, and results in it."""
    trial = networks.trial(tree, dtype, lengths=RAGGED, scale=0.5)
    judging.assert_right(subject, trial, unrolled.run(subject, trial))


@halves
@modes
@ways
def test_halves_of_many_units(subject: Subject, mode: str, dtype: str, fuse: bool) -> None:
    """Layers 256 wide stay as close to float64 as their inputs' digits let them."""
    trial = networks.trial(fused_tree(mode, 1, True, 256, 64), dtype, batch=3, steps=6, scale=0.06)
    judging.assert_right(subject, trial, unrolled.run(subject, trial, fuse=fuse))


@dtypes
@modes
def test_sums_are_not_rounded_on_the_way(subject: Subject, mode: str, dtype: str) -> None:
    """A thousand small numbers add up in a kernel: they would stop growing, were sums held in half precision."""
    width = 1024
    tree = fused_tree(mode, 1, False, 5, width)
    made = networks.trial(tree, dtype, batch=2, steps=2, begin=False)
    weights = {name: np.zeros_like(array) for name, array in made.weights.items()}
    (vector,) = weights.values()
    networks.cut(tree, vector)[0][0]["i2h_weight"][...] = 1 / width
    inputs = rounded(np.random.default_rng(1).uniform(0.5, 1.0, made.inputs.shape), dtype)
    trial = dataclasses.replace(made, weights=weights, inputs=inputs)
    judging.assert_right(subject, trial, unrolled.run(subject, trial))


@dtypes
def test_affine_adds_up(subject: Subject, dtype: str) -> None:
    """Four thousand positive numbers, in whose sum each is small."""
    inputs = rounded(np.random.default_rng(1).uniform(0.5, 1.0, (2, 4096)), dtype)
    weight, bias = np.full((3, 4096), 2.0**-6), np.ones(3)
    arrays = [subject.array(array.astype(numpy_dtype(dtype))) for array in (inputs, weight, bias)]
    found, expected = subject.numpy(subject.backend.affine(*arrays)), inputs @ weight.T + bias
    limit = max(4 * EPSILON[dtype], subject.tolerance(dtype) / 4)
    judging.assert_numbers(found, expected, limit, "a sum of 4096 numbers")


@dtypes
def test_numbers_are_held_in_their_dtype(subject: Subject, dtype: str) -> None:
    """The next number after 1 is another, and the one halfway is not."""
    backend, step = subject.backend, EPSILON[dtype]
    one = subject.array(np.ones(1).astype(numpy_dtype(dtype)))
    for factor, expected in ((1.0, step), (0.25, 0.0)):
        small = subject.array(np.array([step * factor]).astype(numpy_dtype(dtype)))
        found = subject.numpy((one + small) - one)[0]
        assert found == expected, f"1 + {factor} epsilon - 1 is {found}, expected {expected}"
        assert backend.dtype(one + small) == dtype


@pytest.mark.parametrize("dtype", ["float64"])
@trees(*PLAIN, *FUSED_FEW)
def test_float64_is_float64(subject: Subject, tree: Tree, dtype: str) -> None:
    """Nothing on the way is float32: small changes of inputs and weights show in proportion."""
    trial = networks.trial(tree, dtype)
    moved = dataclasses.replace(trial, inputs=trial.inputs + 2.0**-34)
    one, other = (subject.numpy(unrolled.run(subject, each).outputs) for each in (trial, moved))
    expected = moved.expected()[0] - trial.expected()[0]
    judging.assert_numbers((other - one) * 2.0**34, expected * 2.0**34, 2.0**34 * 1e-13, "a small change")


@ways
@modes
@singles
def test_float32_is_float32(subject: Subject, mode: str, dtype: str, fuse: bool) -> None:
    """Wide layers lose no digits to a product in less."""
    trial = networks.trial(fused_tree(mode, 2, False, 257, 129), dtype, batch=5, steps=4, scale=0.1)
    judging.assert_right(subject, trial, unrolled.run(subject, trial, fuse=fuse))

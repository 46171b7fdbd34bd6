"""`bernoulli` and `fold` draw the right share, by the seed alone."""

from __future__ import annotations

import operator
import random
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rnnx.conformance import judging
from rnnx.conformance.dtypes import usual
from rnnx.conformance.networks import Array, numpy_dtype
from rnnx.conformance.subject import DTYPES, Subject

SHAPE = (40, 50, 10)

#: Seeds that are alike in some of their bits.
ALIKE = (0, 1, 2, 1 << 31, 1 << 32, (1 << 32) + 1, 1 << 40, 1 << 53, (1 << 53) + 1, 1 << 62, (1 << 63) - 1)


def drawn(
    subject: Subject, seed: Any, probability: float = 0.5, shape: Sequence[int] = SHAPE, dtype: str | None = None
) -> Array:
    """Return what the backend draws, as NumPy's booleans."""
    own = dtype or usual(subject)
    like = subject.array(np.zeros((2, 1), numpy_dtype(own)))
    found = subject.backend.bernoulli(seed, probability, tuple(shape), like)
    assert subject.backend.owns(found), f"bernoulli returns a {type(found).__name__}"
    values = np.array(subject.backend.to_numpy(found))
    assert values.dtype == np.bool_, f"bernoulli returns {values.dtype}, expected booleans"
    assert values.shape == tuple(shape)
    return values


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.75, 0.999])
def test_share(subject: Subject, dtype: str, probability: float) -> None:
    """As many are true as the probability says, within 5 sigma, for arrays of any dtype."""
    mean, sigma = drawn(subject, 12, probability, dtype=dtype).mean(), (probability * (1 - probability) / 20000) ** 0.5
    assert abs(mean - probability) < 5 * sigma, f"{mean:.4f} of them are true, expected {probability}"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_share_along_every_axis(subject: Subject, axis: int) -> None:
    """No row, step or unit has more of them than chance gives it."""
    others = tuple(each for each in range(3) if each != axis)
    means = drawn(subject, 5, 0.3, (30, 40, 50)).mean(others)
    sigma = (0.3 * 0.7 / (60000 / means.size)) ** 0.5
    assert (np.abs(means - 0.3) < 5.5 * sigma).all(), f"shares along axis {axis} go from {means.min()} to {means.max()}"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_neighbours_differ(subject: Subject, axis: int) -> None:
    """Nothing is repeated along an axis."""
    values = drawn(subject, 7, 0.5, (30, 40, 50))
    size = values.shape[axis]
    judging.assert_unrelated(
        values.take(range(size - 1), axis), values.take(range(1, size), axis), (0.5, 0.5), "two draws"
    )


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_never_and_always(subject: Subject, probability: float) -> None:
    """Probability 0 gives none, and 1 all."""
    assert (drawn(subject, 3, probability, (100, 1000)) == bool(probability)).all()


@pytest.mark.parametrize("seed", ALIKE)
def test_same_seed_same_draw(subject: Subject, seed: int) -> None:
    """Whatever was drawn in between."""
    first = drawn(subject, seed)
    drawn(subject, seed + 1 if seed < max(ALIKE) else 9)
    np.testing.assert_array_equal(drawn(subject, seed), first)


def test_every_bit_of_a_seed_counts(subject: Subject) -> None:
    """Seeds have 63 bits; two that differ in the high ones only draw differently."""
    draws = [drawn(subject, seed) for seed in ALIKE]
    for place, one in enumerate(draws):
        for later, other in enumerate(draws[:place]):
            if np.array_equal(one, other):
                raise AssertionError(f"seeds {ALIKE[place]} and {ALIKE[later]} draw the same")
            judging.assert_unrelated(one, other, (0.5, 0.5), "two draws")


def test_one_bit_of_a_seed(subject: Subject) -> None:
    """Each of a seed's bits, alone."""
    seed = 0x5DEECE66D1CE4E5B
    first = drawn(subject, seed, shape=(512,))
    idle = [bit for bit in range(63) if np.array_equal(drawn(subject, seed ^ (1 << bit), shape=(512,)), first)]
    assert not idle, f"bits {idle} of a seed have no effect on what it draws"


def test_draws_do_not_depend_on_the_array(subject: Subject) -> None:
    """Only the device of `like` matters, not its dtype."""
    declared = [dtype for dtype in DTYPES if dtype in subject.capabilities]
    first, *others = (drawn(subject, 31, dtype=dtype) for dtype in declared)
    for dtype, other in zip(declared[1:], others, strict=True):
        np.testing.assert_array_equal(other, first, f"the draw for {dtype} is not that for {declared[0]}")


def test_seeds_of_other_shapes(subject: Subject) -> None:
    """A seed is good for any shape, and for the empty one."""
    for shape in ((1,), (3, 1, 2), (0, 4), (7, 11)):
        drawn(subject, 1, 0.5, shape)


def test_shares_are_nested(subject: Subject) -> None:
    """What a seed draws depends on the probability: a larger one gives more."""
    counts = [int(drawn(subject, 21, probability).sum()) for probability in (0.1, 0.3, 0.6, 0.9)]
    assert counts == sorted(counts)
    assert len(set(counts)) == 4


def test_generators_are_left_alone(subject: Subject) -> None:
    """Neither NumPy's nor Python's generator is read or moved on."""
    np.random.seed(3)  # noqa: NPY002 -- the global generator is what may not be touched
    random.seed(3)
    first = drawn(subject, 17)
    after = np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    assert np.array_equal(np.random.get_state()[1], after[0]), "NumPy's generator was moved on"  # type: ignore[index]  # noqa: NPY002
    assert random.getstate() == after[1], "Python's generator was moved on"
    np.random.seed(4)  # noqa: NPY002
    random.seed(4)
    np.testing.assert_array_equal(drawn(subject, 17), first)


#: How the global generators of frameworks are seeded, and what draws from them.
GENERATORS = {
    "torch": ("manual_seed", "rand"),
    "tensorflow": ("random.set_seed", "random.uniform"),
    "cupy": ("random.seed", "random.random"),
    "mxnet": ("random.seed", "random.uniform"),
}


def test_the_frameworks_generator_is_left_alone(subject: Subject) -> None:
    """Nor is the framework's own, of those that have a global one."""
    if subject.info.framework not in GENERATORS:
        pytest.skip(f"{subject.info.framework} is not known to have a global generator")
    framework = sys.modules[subject.info.framework]
    seeded, draws = (operator.attrgetter(name)(framework) for name in GENERATORS[subject.info.framework])
    found = []
    for number in (3, 4):
        seeded(number)
        first = np.asarray(draws((4,)))
        seeded(number)
        found.append(drawn(subject, 17))
        np.testing.assert_array_equal(np.asarray(draws((4,))), first, "it was moved on")
    np.testing.assert_array_equal(found[0], found[1], "it was read")


# -- fold -------------------------------------------------------------------------------------------------------------


def test_fold_gives_what_bernoulli_takes(subject: Subject) -> None:
    """Each step its own seed, the same for the same seed and step."""
    draws = [drawn(subject, subject.backend.fold(11, time)) for time in range(6)]
    for place, one in enumerate(draws):
        np.testing.assert_array_equal(drawn(subject, subject.backend.fold(11, place)), one)
        assert abs(one.mean() - 0.5) < 5 * 0.5 / one.size**0.5
        for other in draws[:place]:
            judging.assert_unrelated(one, other, (0.5, 0.5), "two draws")


def test_fold_differs_by_seed(subject: Subject) -> None:
    """Two seeds are two at every step, also where one is the next step's neighbour."""
    fold = subject.backend.fold
    draws = [drawn(subject, fold(seed, time)) for seed in (11, 12, 11 + (1 << 40)) for time in (0, 1, 2)]
    draws.append(drawn(subject, 11))
    for place, one in enumerate(draws):
        for other in draws[:place]:
            judging.assert_unrelated(one, other, (0.5, 0.5), "two draws")


def test_fold_of_large_seeds(subject: Subject) -> None:
    """Seeds of 63 bits, and steps far out."""
    draws = [drawn(subject, subject.backend.fold((1 << 63) - 1, time)) for time in (0, 1, 1000, 1 << 20)]
    for place, one in enumerate(draws):
        for other in draws[:place]:
            judging.assert_unrelated(one, other, (0.5, 0.5), "two draws")

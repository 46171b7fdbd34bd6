"""Arrays of a graph that is being made: the core does not ask for their values, and takes them for seeds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import networks
import rnnx
import tracing
from networks import assert_all_close
from rnnx.ops import LoopSeeds, Ops, call_seeds
from rnnx.seeds import seeds
from tier1 import Wrapped
from tracing import Traced

WIDTH, HIDDEN = 3, 4
INPUTS = np.random.default_rng(0).normal(size=(2, 5, WIDTH))


@pytest.fixture
def backend(fresh_registry):
    rnnx.register_backend(tracing.INFO)
    return rnnx.get_backend("tracing")


def wrapped(weights, kind):
    return {name: kind(weight) for name, weight in weights.items()}


# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["packed", "unpacked"])
@pytest.mark.parametrize("there", [False, True])
def test_traced_weights_are_loaded_without_their_values(backend, there, form):
    source = networks.randomized(rnnx.LSTMCell(HIDDEN), WIDTH)
    expected, _ = source.unroll(None, INPUTS, merge_outputs=True)
    weights = source.get_params() if form == "packed" else source.unpack_weights(source.get_params())
    cell = rnnx.LSTMCell(HIDDEN)
    if there:
        cell.initialize(WIDTH, backend="tracing", dtype="float64")
    cell.load_params(wrapped(weights, Traced))
    found, _ = cell.unroll(None, Traced(INPUTS), merge_outputs=True)
    assert_all_close([found.value], [expected], 1e-12)


def test_a_traced_weight_is_taken_as_it_is_and_a_known_one_is_copied(backend):
    weights = networks.randomized(rnnx.LSTMCell(HIDDEN), WIDTH).get_params()
    for kind in (Traced, Wrapped):
        cell, given = rnnx.LSTMCell(HIDDEN), wrapped(weights, kind)
        cell.load_params(given)
        assert all((cell.params[name] is array) == (kind is Traced) for name, array in given.items())


def test_traced_weights_are_not_taken_by_a_cell_that_lives_elsewhere(backend):
    cell = networks.randomized(rnnx.LSTMCell(HIDDEN), WIDTH)
    before = cell.get_params()
    with pytest.raises(AssertionError, match="values of an array of a graph"):
        cell.load_params(wrapped(before, Traced))
    networks.same_bits(before, cell.get_params())


# -- steps ------------------------------------------------------------------------------------------------------------


def test_a_cell_keeps_from_step_to_step_only_what_the_caller_does_not_hold(backend):
    for cell, kept in ((rnnx.LSTMCell(HIDDEN), False), (rnnx.ZoneoutCell(rnnx.LSTMCell(HIDDEN), 0.5), True)):
        networks.randomized(cell, WIDTH).to("tracing")
        cell(Traced(INPUTS[:, 0]), cell.begin_state(dtype="float64"))
        assert (cell._memory is not None) == kept


# -- seeds ------------------------------------------------------------------------------------------------------------


def loop_of(backend, seed, steps=3, each=2):
    loop, found = LoopSeeds(Ops(backend, True, *call_seeds(backend, seed))), []
    for time in range(steps):
        loop.start(time)
        found.append([next(loop) for _ in range(each)])
        loop.stop()
    return found, loop


def test_a_seed_of_the_frameworks_own_is_folded_and_never_read(backend):
    seed = Traced(np.array(7))
    ops = Ops(backend, True, *call_seeds(backend, seed))
    assert [ops.next_seed() for _ in range(3)] == [(seed, number) for number in itertools.islice(seeds(0), 3)]
    found, _ = loop_of(backend, seed)
    inner = {number for step in found for (_, number), _ in step}
    assert [[time for _, time in step] for step in found] == [[0, 0], [1, 1], [2, 2]]
    assert all(own is seed for step in found for (own, _), _ in step)
    assert len(inner) == 2  # the same two in every step, so that a step may be traced once for all


def test_an_integer_stays_one_until_a_loop_folds_it(backend):
    ops = Ops(backend, True, *call_seeds(backend, 7))
    assert [ops.next_seed() for _ in range(3)] == list(itertools.islice(seeds(7), 3))
    found, _ = loop_of(backend, 7)
    assert all(isinstance(number, int) for step in found for number, _ in step)


def test_a_loop_holds_nothing_of_a_step_that_is_over(backend):
    _, loop = loop_of(backend, Traced(np.array(7)))
    assert not any(isinstance(held, Traced) for held in vars(loop).values())
    loop.start(Traced(np.array(3)))
    next(loop)
    loop.stop()
    assert not any(isinstance(held, Traced) for held in vars(loop).values())


def test_a_scalar_of_a_framework_without_graphs_is_a_seed_too():
    cell = networks.randomized(rnnx.ZoneoutCell(rnnx.LSTMCell(HIDDEN), 0.5, 0.5), WIDTH)

    def run(seed):
        return cell.unroll(None, INPUTS, merge_outputs=True, training=True, seed=seed)[0]

    np.testing.assert_array_equal(run(np.array(3)), run(np.array(3)))
    np.testing.assert_array_equal(
        run(np.array(3)), cell.vjp(None, INPUTS, merge_outputs=True, training=True, seed=np.array(3))[0]
    )
    assert not np.array_equal(run(np.array(3)), run(np.array(4)))

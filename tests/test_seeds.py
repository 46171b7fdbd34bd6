"""Seeds from a seed, and those of the steps of a loop."""

from __future__ import annotations

import itertools

import rnnx
from rnnx.ops import LoopSeeds, Ops
from rnnx.seeds import folded, seeds


def test_a_stream_is_that_of_splitmix64():
    # The first numbers of SplitMix64 from 0, as in the reference code of Vigna, less their last bit.
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert list(itertools.islice(seeds(0), 3)) == [number >> 1 for number in expected]


def test_steps_have_seeds_of_their_own_and_the_same_ones_again():
    found = {folded(seed, time) for seed in range(20) for time in range(20)}
    assert len(found) == 400
    assert all(0 <= seed < 2**63 for seed in found)
    assert folded(3, 4) == folded(3, 4)


def drawn(seed: int, steps: int, each: int) -> list[list[int]]:
    stream = LoopSeeds(Ops(rnnx.get_backend("numpy"), True, seeds(seed)))
    result = []
    for time in range(steps):
        stream.start(time)
        result.append([next(stream) for _ in range(each)])
    return result


def test_a_loop_draws_others_in_each_step_and_at_each_place():
    found = drawn(1, 5, 3)
    assert len({seed for step in found for seed in step}) == 15
    assert found == drawn(1, 5, 3)
    assert found != drawn(2, 5, 3)


def test_a_loop_that_draws_nothing_takes_no_seed_of_its_call():
    ops = Ops(rnnx.get_backend("numpy"), True, seeds(7))
    stream = LoopSeeds(ops)
    stream.start(0)
    assert ops.next_seed() == next(seeds(7))

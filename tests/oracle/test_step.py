"""One step at a time, against MXNet's own steps."""

from __future__ import annotations

import pytest

from .bridge import RESULTS, Problem, Result, assert_agree, assert_close, draw, executed, flat, loaded, mx
from .trees import INFERENCE, PLAIN, RESIDUAL, STACKS

STEPPABLE = {
    **PLAIN,
    "stack": STACKS["lstm on gru"],
    "stack in a stack": STACKS["stack in a stack"],
    "shared weights": STACKS["shared weights"],
    "residual": RESIDUAL["around lstm"],
    "residual around a stack": RESIDUAL["around a stack"],
    "residual in a stack": RESIDUAL["in a stack"],
    "dropout": INFERENCE["dropout"],
    "dropout between": INFERENCE["dropout between"],
    "zoneout": INFERENCE["zoneout"],
    "zoneout of residual": INFERENCE["zoneout of residual"],
    "residual of zoneout": INFERENCE["residual of zoneout"],
    "zoneout in a stack": INFERENCE["zoneout in a stack"],
}


def stepped_by_mxnet(build, problem: Problem) -> list[Result]:
    """Return the output and the states after each of several steps."""
    cell = build(mx.rnn)
    symbols = iter(mx.sym.Variable(f"given_{number}") for number in range(100))
    inputs = [next(symbols) for _ in problem.inputs]
    states = [next(symbols) for _ in problem.begin_state]
    steps = []
    for each in inputs:
        output, states = cell(each, states)
        steps.append([output, states])
    together = executed([steps, []], problem, training=False)
    return [Result(*step) for step in together.outputs]


@pytest.mark.parametrize("name", STEPPABLE)
@pytest.mark.parametrize("seed", range(3))
def test_three_steps(name, seed):
    build = STEPPABLE[name]
    problem = draw(build, seed, as_list=True)
    cell, states = loaded(build, problem.weights), problem.begin_state
    for inputs, expected in zip(problem.inputs, stepped_by_mxnet(build, problem), strict=True):
        output, states = cell(inputs, states)
        assert_agree(Result(output, states), expected)


@pytest.mark.parametrize("name", STEPPABLE)
def test_steps_give_what_unroll_gives(name):
    build = STEPPABLE[name]
    problem = draw(build, seed=7, as_list=True)
    cell, states = loaded(build, problem.weights), problem.begin_state
    unrolled, last = cell.unroll(3, problem.inputs, states)
    for inputs, expected in zip(problem.inputs, unrolled, strict=True):
        output, states = cell(inputs, states)
        assert_close(output, expected, RESULTS, "output")
    for mine, theirs in zip(flat(states), flat(last), strict=True):
        assert_close(mine, theirs, RESULTS, "state")

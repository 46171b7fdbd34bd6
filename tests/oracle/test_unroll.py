"""`unroll` and `vjp` against MXNet: numbers, and the form in which they are returned."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest

import rnnx

from .bridge import Result, assert_agree, compare, draw, mx, run_mxnet
from .trees import COMPOSED, FUSED, TREES

LAYOUTS = ("NTC", "TNC")
MERGES = (None, True, False)


@pytest.mark.parametrize("given_states", [True, False], ids=["states", "no states"])
@pytest.mark.parametrize("as_list", [False, True], ids=["array", "list"])
@pytest.mark.parametrize("name", COMPOSED)
def test_a_tree(name, as_list, given_states):
    for seed, (layout, merge_outputs) in enumerate(itertools.product(LAYOUTS, MERGES)):
        problem = draw(
            COMPOSED[name], seed, length=1 + seed % 4, layout=layout, as_list=as_list, given_states=given_states
        )
        compare(COMPOSED[name], problem, merge_outputs)


@pytest.mark.parametrize("name", FUSED)
def test_a_fused_cell(name):
    forms = itertools.product(LAYOUTS, (False, True), (True, False))
    for seed, (layout, as_list, given_states) in enumerate(forms):
        problem = draw(
            FUSED[name], seed, length=1 + seed % 4, layout=layout, as_list=as_list, given_states=given_states
        )
        compare(FUSED[name], problem, MERGES[seed % 3])


@pytest.mark.parametrize("mode", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_fused_cell_without_next_state_returns_no_states(mode, bidirectional):
    def build(rnn):
        return rnn.FusedRNNCell(4, 2, mode, bidirectional=bidirectional)

    problem = draw(build, seed=1)
    assert run_mxnet(build, problem).states == []
    for merge_outputs in MERGES:
        compare(build, problem, merge_outputs)


def test_an_activation_given_as_a_function():
    def build(rnn):
        leaky = functools.partial(mx.sym.LeakyReLU, act_type="leaky", slope=0.2)
        return rnn.RNNCell(4, leaky if rnn is mx.rnn else lambda x: np.where(x > 0, x, 0.2 * x).astype(np.float32))

    problem = draw(build, seed=3)
    cell = build(rnnx)
    cell.load_params(problem.weights)
    outputs, states = cell.unroll(None, problem.inputs, problem.begin_state)
    expected = run_mxnet(build, problem, training=False)
    assert_agree(Result(outputs, states), expected)


@pytest.mark.parametrize("name", TREES)
def test_zeros_of_batch_size_0_are_read_as_mxnet_infers_them(name):
    build = TREES[name]
    problem = draw(build, seed=5, given_states=False)
    cell = build(rnnx)
    if problem.weights:
        cell.load_params(problem.weights)
    outputs, states = cell.unroll(3, problem.inputs, cell.begin_state())
    assert_agree(Result(outputs, states), run_mxnet(build, problem, training=False))

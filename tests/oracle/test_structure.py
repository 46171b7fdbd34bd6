"""What a tree looks like from outside: constructors, states, names of weights, and the cells of `unfuse`."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import rnnx

from .bridge import draw, graph_of, mx, unrolled
from .trees import FUSED, TREES

CLASSES = (
    "RNNCell",
    "LSTMCell",
    "GRUCell",
    "FusedRNNCell",
    "SequentialRNNCell",
    "BidirectionalCell",
    "DropoutCell",
    "ZoneoutCell",
    "ResidualCell",
    "BaseRNNCell",
    "RNNParams",
)

#: What a tree of MXNet's is told apart by.
ATTRIBUTES = ("_prefix", "_num_hidden", "_activation", "_output_prefix", "dropout", "zoneout_outputs", "zoneout_states")

#: The same of rnnx's, by the field of the spec.
FIELDS = ("prefix", "num_hidden", "activation", "output_prefix", "dropout", "zoneout_outputs", "zoneout_states")


def parameters(function) -> list[tuple[str, object]]:
    return [(each.name, each.default) for each in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", CLASSES)
def test_a_constructor_starts_with_mxnets_parameters_and_their_defaults(name):
    theirs = parameters(getattr(mx.rnn, name))
    assert parameters(getattr(rnnx, name))[: len(theirs)] == theirs


@pytest.mark.parametrize("name", CLASSES[:9])
@pytest.mark.parametrize("method", ["__call__", "unroll", "pack_weights", "unpack_weights", "reset"])
def test_a_method_starts_with_mxnets_parameters_and_their_defaults(name, method):
    theirs = parameters(getattr(getattr(mx.rnn, name), method))
    assert parameters(getattr(getattr(rnnx, name), method))[: len(theirs)] == theirs


@pytest.mark.parametrize("name", CLASSES[:9])
def test_begin_state_takes_the_maker_of_states_by_mxnets_keyword(name):
    theirs = [each for each in inspect.signature(getattr(mx.rnn, name).begin_state).parameters if each != "kwargs"]
    ours = inspect.signature(getattr(rnnx, name).begin_state).parameters
    assert [each for each in theirs if each not in ours] == []


@pytest.mark.parametrize("name", TREES)
def test_states(name):
    theirs, ours = TREES[name](mx.rnn), TREES[name](rnnx)
    assert ours.state_info == theirs.state_info
    assert ours.state_shape == theirs.state_shape


class Namer:
    """A maker of states that notes what it is called with; `fill` makes the state."""

    def __init__(self, fill) -> None:
        self.seen = []
        self.fill = fill

    def __call__(self, name, shape, **kwargs):
        self.seen.append((name, kwargs))
        return self.fill(shape)


NAMED = [name for name in TREES if not name.startswith(("inference", "residual"))]


@pytest.mark.parametrize("name", NAMED)
def test_the_names_of_begin_states(name):
    theirs, ours = Namer(lambda shape: mx.sym.zeros(shape)), Namer(np.zeros)
    one, other = TREES[name](mx.rnn), TREES[name](rnnx)
    for _ in range(2):
        one.begin_state(func=theirs)
        other.begin_state(func=ours, batch_size=2)
    assert ours.seen == theirs.seen


@pytest.mark.parametrize("name", TREES)
def test_the_names_of_weights(name):
    problem = draw(TREES[name], seed=1)
    arguments = graph_of(*unrolled(TREES[name](mx.rnn), problem, None)).list_arguments()
    cell = TREES[name](rnnx)
    cell.initialize(3)
    assert set(cell.get_params()) == {each for each in arguments if not each.startswith("given")}
    assert {key: value.shape for key, value in cell.get_params().items()} == {
        key: value.shape for key, value in problem.weights.items()
    }


@pytest.mark.parametrize("name", TREES)
def test_params_hold_the_weights_of_the_whole_tree(name):
    theirs, ours = TREES[name](mx.rnn).params, TREES[name](rnnx).params
    assert {each.name for each in ours.parameters()} == set(theirs._params)


# -- unfuse -----------------------------------------------------------------------------------------------------------


def described_by_mxnet(cell) -> tuple:
    fields = {field: getattr(cell, name) for name, field in zip(ATTRIBUTES, FIELDS, strict=True) if hasattr(cell, name)}
    if isinstance(cell, mx.rnn.SequentialRNNCell | mx.rnn.BidirectionalCell):
        fields.pop("prefix")
    children = [described_by_mxnet(child) for child in getattr(cell, "_cells", [])]
    return type(cell).__name__, fields, children


def described_by_rnnx(spec: rnnx.CellSpec) -> tuple:
    fields = {field: value for field, value in spec.fields.items() if field in FIELDS}
    return spec.kind, fields, [described_by_rnnx(child) for child in spec.children]


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_cells_of_unfuse(name, dropout):
    def build(rnn):
        made = FUSED[name](rnnx).spec.fields
        return rnn.FusedRNNCell(**{**made, "dropout": dropout, "prefix": "mine_"}).unfuse()

    assert described_by_rnnx(build(rnnx).spec) == described_by_mxnet(build(mx.rnn))
    problem = draw(build, seed=1)
    cell = build(rnnx)
    cell.initialize(3)
    assert set(cell.get_params()) == set(problem.weights)


def test_the_cells_of_unfuse_under_another_prefix():
    def build(rnn):
        return rnn.FusedRNNCell(4, 2, prefix="mine_", params=rnn.RNNParams("other_")).unfuse()

    assert described_by_rnnx(build(rnnx).spec) == described_by_mxnet(build(mx.rnn))
    cell = build(rnnx)
    cell.initialize(3)
    assert set(cell.get_params()) == set(draw(build, seed=1).weights)

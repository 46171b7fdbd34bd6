"""The reference of the conformance suite: its derivatives, its masks, its descriptions, and that it stands alone."""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path

import numpy as np
import pytest

import networks
import rnnx
from networks import PLAIN_MODES, RAGGED, assert_all_close, leaves, plain, sequential
from rnnx.conformance import descriptions, equations, reference
from rnnx.conformance.reference import Direction, Point, slope

BATCH, STEPS, WIDTH, HIDDEN = 4, 5, 3, 6


def tree(name: str) -> rnnx.BaseRNNCell:
    """A tree by name, with random weights."""
    trees = {
        **{mode: lambda mode=mode: plain(mode, HIDDEN) for mode in PLAIN_MODES},
        "lstmp": lambda: rnnx.LSTMPCell(HIDDEN, 2, "p_"),
        "fused lstm": lambda: rnnx.FusedRNNCell(4, 2, "lstm", True, get_next_state=True, prefix="f_"),
        "fused gru without states": lambda: rnnx.FusedRNNCell(4, 2, "gru", dropout=0.4, prefix="f_"),
        "stack": lambda: sequential(
            plain("gru", HIDDEN, "a_"), rnnx.DropoutCell(0.4), rnnx.ResidualCell(plain("lstm", HIDDEN, "b_"))
        ),
        "both directions": lambda: rnnx.BidirectionalCell(plain("lstm", HIDDEN, "l_"), plain("rnn_relu", 2, "r_")),
        "zoneout": lambda: rnnx.ZoneoutCell(plain("rnn_softsign", HIDDEN), 0.5, 0.5),
        "shared weights": lambda: shared(),
        "residual of dropout": lambda: rnnx.ResidualCell(rnnx.DropoutCell(0.5)),
        "nothing": lambda: rnnx.SequentialRNNCell(),
    }
    return networks.randomized(trees[name](), WIDTH, scale=0.7)


def shared() -> rnnx.BaseRNNCell:
    first = rnnx.GRUCell(WIDTH, "a_")
    return sequential(first, rnnx.GRUCell(WIDTH, "b_", first.params))


TREES = (
    *PLAIN_MODES,
    *("lstmp", "fused lstm", "fused gru without states", "stack", "both directions", "zoneout", "shared weights"),
    *("residual of dropout", "nothing"),
)


def point_of(cell: rnnx.BaseRNNCell, lengths=RAGGED) -> Point:
    rng = np.random.default_rng(3)
    begin = [rng.normal(size=[size or BATCH for size in shape]) for shape in cell.state_shape]
    return Point(cell.get_params(), rng.normal(size=(BATCH, STEPS, WIDTH)), begin, lengths)


def network_of(cell: rnnx.BaseRNNCell):
    spec = cell.spec.to_dict()
    return lambda weights: reference.of_spec(spec, weights)


def every_direction(point: Point) -> dict[str, Direction]:
    """A direction for each weight, for the inputs, and for each begin state."""
    rng = np.random.default_rng(5)
    return {
        **{name: Direction({name: rng.normal(size=array.shape)}) for name, array in point.weights.items()},
        "inputs": Direction(inputs=rng.normal(size=point.inputs.shape)),
        **{f"state {k}": Direction(begin={k: rng.normal(size=state.shape)}) for k, state in enumerate(point.begin)},
    }


def along(point: Point, direction: Direction, step: float) -> Point:
    return Point(
        {name: array + step * direction.weights.get(name, 0) for name, array in point.weights.items()},
        point.inputs + step * (0 if direction.inputs is None else direction.inputs),
        [state + step * direction.begin.get(place, 0) for place, state in enumerate(point.begin)],
        point.lengths,
    )


# -- descriptions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, RAGGED], ids=["unmasked", "ragged"])
@pytest.mark.parametrize("name", TREES)
def test_a_description_stands_for_what_the_cell_computes(name, lengths):
    cell = tree(name)
    point = point_of(cell, lengths)
    outputs, states = cell.unroll(None, point.inputs, point.begin, merge_outputs=True, valid_length=lengths)
    expected, finals = reference.run(network_of(cell)(point.weights), point.inputs, point.begin, lengths)
    assert_all_close([outputs, *leaves(states)], [expected, *finals], 1e-12)


def test_a_kind_that_is_not_rnnx_own_is_refused():
    with pytest.raises(ValueError, match="no equation for a cell of kind 'mine:Cell': make its Network with cell"):
        reference.of_spec({"kind": "mine:Cell", "prefix": ""}, {})


def test_padding_is_never_read():
    for name in ("stack", "both directions", "fused lstm", "nothing"):
        cell = tree(name)
        clean = point_of(cell)
        dirty = np.where(np.arange(STEPS) < np.array(RAGGED)[:, None], 0.0, np.nan)[..., None] + clean.inputs
        network = network_of(cell)(clean.weights)
        results = [reference.run(network, inputs, clean.begin, RAGGED) for inputs in (clean.inputs, dirty)]
        assert not results[0][0][1].any()
        for one, other in zip(*([outputs, *states] for outputs, states in results), strict=True):
            np.testing.assert_array_equal(one, other)


def test_nothing_that_it_is_given_changes():
    cell = tree("stack")
    point = point_of(cell)
    copies = [np.array(array) for array in (*point.weights.values(), point.inputs, *point.begin)]
    reference.run(network_of(cell)(point.weights), point.inputs, point.begin, RAGGED)
    for array, copy in zip((*point.weights.values(), point.inputs, *point.begin), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


# -- derivatives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TREES)
def test_slopes_are_those_of_central_differences(name):
    cell, width = tree(name), 1e-5
    point = point_of(cell)
    for what, direction in every_direction(point).items():
        outputs, states = slope(network_of(cell), point, direction)
        ends = []
        for step in (width, -width):
            there = along(point, direction, step)
            value, finals = reference.run(network_of(cell)(there.weights), there.inputs, there.begin, there.lengths)
            ends.append([value, *finals])
        for found, ahead, behind in zip([outputs, *states], *ends, strict=True):
            np.testing.assert_allclose(found, (ahead - behind) / (2 * width), rtol=1e-6, atol=1e-8, err_msg=what)


@pytest.mark.parametrize("name", ["lstm", "gru_reset_before", "rnn_softrelu", "lstmp", "fused lstm", "stack"])
def test_slopes_and_gradients_are_exact(name):
    cell, rng = tree(name), np.random.default_rng(7)
    point = point_of(cell)
    outputs, states, pullback = cell.vjp(None, point.inputs, point.begin, merge_outputs=True, valid_length=RAGGED)
    cotangents = [rng.normal(size=array.shape) for array in (outputs, *leaves(states))]
    found = pullback(cotangents[0], cotangents[1:])
    expected = reference.gradients(network_of(cell), point, cotangents[0], cotangents[1:])
    assert found.weights.keys() == expected.weights.keys()
    pairs = [(found.weights[key], expected.weights[key]) for key in found.weights]
    pairs += [(found.inputs, expected.inputs), *zip(found.begin_state, expected.begin.values(), strict=True)]
    assert_all_close([one for one, _ in pairs], [other for _, other in pairs], 1e-12)
    for direction in every_direction(point).values():
        moved, finals = slope(network_of(cell), point, direction)
        ahead = sum(np.vdot(cotangent, each) for cotangent, each in zip(cotangents, [moved, *finals], strict=True))
        back = sum(np.vdot(found.weights[key], array) for key, array in direction.weights.items())
        back += sum(np.vdot(found.begin_state[place], array) for place, array in direction.begin.items())
        back += 0 if direction.inputs is None else np.vdot(found.inputs, direction.inputs)
        assert ahead == pytest.approx(back, rel=1e-12, abs=1e-12)


def test_gradients_of_outputs_alone_and_without_begin_states():
    cell = tree("gru")
    point = Point(cell.get_params(), point_of(cell).inputs)
    outputs, _, pullback = cell.vjp(None, point.inputs, merge_outputs=True)
    expected = reference.gradients(network_of(cell), point, np.ones_like(outputs))
    np.testing.assert_allclose(pullback(np.ones_like(outputs)).inputs, expected.inputs, atol=1e-13)
    assert expected.begin == {}


DERIVATIVES = {
    "relu": lambda x: (x > 0) * 1.0,
    "sigmoid": lambda x: 0.25 / np.cosh(x / 2) ** 2,
    "tanh": lambda x: 1 / np.cosh(x) ** 2,
    "softrelu": lambda x: 1 / (1 + np.exp(-x)),
    "softsign": lambda x: 1 / (1 + np.abs(x)) ** 2,
}


@pytest.mark.parametrize("name", equations.ACTIVATIONS)
def test_activations_and_their_derivatives(name):
    x = np.array([-300.0, -30.0, -2.0, -0.1, 0.2, 1.5, 40.0, 300.0])
    function = equations.ACTIVATIONS[name]
    value = function(x + 1e-30j)
    np.testing.assert_allclose(value.real, function(x), atol=1e-16)
    np.testing.assert_allclose(value.imag / 1e-30, DERIVATIVES[name](x), rtol=1e-12, atol=1e-100)


# -- standing alone --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [equations, descriptions, reference])
def test_it_shares_nothing_with_rnnx(module):
    imported = set()
    for node in ast.walk(ast.parse(Path(inspect.getfile(module)).read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module)
        elif isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
    others = {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names}
    assert others <= {"numpy", "numpy.typing", "rnnx.conformance.equations", "rnnx.conformance.descriptions"}

"""The same cell tree in MXNet and in rnnx, run on the same numbers.

MXNet's names are rnnx's, so one function of the module builds both trees: ``build(mx.rnn)`` and ``build(rnnx)``.
A test module that imports this one is skipped where MXNet is not installed.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import rnnx

# Its pass that rewrites graphs for oneDNN fails on some that are sound, such as the identity of a dropout.
os.environ["MXNET_SUBGRAPH_BACKEND"] = "NONE"
mx = pytest.importorskip("mxnet", reason="MXNet 1.9.1, the judge of these tests, is not installed")

Array = npt.NDArray[Any]

#: Builds a tree of cells out of the classes of a module, `mx.rnn` or `rnnx`.
Build = Callable[[Any], Any]

#: Largest difference allowed, relative to the largest magnitude of what MXNet gives.
RESULTS, GRADIENTS = 1e-5, 1e-4


@dataclasses.dataclass(frozen=True)
class Problem:
    """What both trees are given.

    Parameters
    ----------
    inputs : array or list of array
        In one array as `layout` says, or one array (N, C) a step.
    begin_state : list of array or None
        Flat, in the order of ``state_info``; None leaves it to the cell.
    weights : dict of str to array
        By the names of MXNet's arguments.
    seed : int
        Of the gradients of outputs and states.
    """

    inputs: Any
    layout: str
    begin_state: list[Array] | None
    weights: dict[str, Array]
    seed: int

    @property
    def length(self) -> int:
        if isinstance(self.inputs, list):
            return len(self.inputs)
        return int(self.inputs.shape[self.layout.index("T")])


@dataclasses.dataclass(frozen=True)
class Result:
    """Outputs and states as they are returned, and the gradients of everything that was given, in its form."""

    outputs: Any
    states: Any
    inputs: Any = None
    begin_state: list[Array] | None = None
    weights: dict[str, Array] | None = None


def flat(nested: Any) -> Iterator[Any]:
    """Yield the leaves of nested lists, in order."""
    for each in nested if isinstance(nested, list | tuple) else [nested]:
        if isinstance(each, list | tuple):
            yield from flat(each)
        else:
            yield each


def refilled(nested: Any, leaves: Iterator[Any]) -> Any:
    """Return nested lists of the same form with other leaves."""
    return [refilled(each, leaves) for each in nested] if isinstance(nested, list | tuple) else next(leaves)


def draw(
    build: Build,
    seed: int,
    length: int = 3,
    batch: int = 2,
    size: int = 3,
    layout: str = "NTC",
    as_list: bool = False,
    given_states: bool = True,
) -> Problem:
    """Return random inputs, begin states and weights; no two gates have the same weights, and no bias is zero."""
    rng = np.random.default_rng(seed)
    steps = [random_array(rng, batch, size) for _ in range(length)]
    inputs = steps if as_list else np.stack(steps, layout.index("T"))
    shapes = [tuple(axis or batch for axis in shape) for shape in build(mx.rnn).state_shape]
    states = [random_array(rng, *shape) for shape in shapes] if given_states else None
    unweighted = Problem(inputs, layout, states, {}, seed)
    return dataclasses.replace(unweighted, weights=random_weights(build, unweighted, rng))


def random_array(rng: np.random.Generator, *shape: int) -> Array:
    """Return an array with no element near zero."""
    return (rng.uniform(0.1, 0.9, shape) * rng.choice([-1, 1], shape)).astype(np.float32)


def random_weights(build: Build, problem: Problem, rng: np.random.Generator) -> dict[str, Array]:
    graph = graph_of(*unrolled(build(mx.rnn), problem, None))
    shapes, _, _ = graph.infer_shape(**{name: array.shape for name, array in feeds(problem).items()})
    named = dict(zip(graph.list_arguments(), shapes, strict=True))
    return {name: random_array(rng, *shape) for name, shape in named.items() if name not in feeds(problem)}


# -- MXNet ------------------------------------------------------------------------------------------------------------


def run_mxnet(build: Build, problem: Problem, merge_outputs: bool | None = None, training: bool = True) -> Result:
    """Return what MXNet gives; gradients only with `training`, since it has none without."""
    outputs, states = unrolled(build(mx.rnn), problem, merge_outputs)
    return executed([outputs, states], problem, training)


def unrolled(cell: Any, problem: Problem, merge_outputs: bool | None) -> Any:
    names = iter(feeds(problem))
    inputs = refilled(problem.inputs, (mx.sym.Variable(name) for name in names))
    states = None if problem.begin_state is None else [mx.sym.Variable(name) for name in names]
    return cell.unroll(problem.length, inputs, begin_state=states, layout=problem.layout, merge_outputs=merge_outputs)


def feeds(problem: Problem) -> dict[str, Array]:
    """Return inputs and begin states by the names of their variables."""
    inputs, states = list(flat(problem.inputs)), problem.begin_state or []
    return {f"given_{number}": array for number, array in enumerate([*inputs, *states])}


def graph_of(*results: Any) -> Any:
    """Return all results in one symbol; two equal ones as two, or MXNet would count one of their gradients."""
    return mx.sym.Group([mx.sym.identity(each) for each in flat(results)])


def executed(results: Any, problem: Problem, training: bool) -> Result:
    """Return the values of symbols of outputs and states, and the gradients of what they depend on."""
    executor = bound(graph_of(results), {**feeds(problem), **problem.weights}, training)
    executor.forward(is_train=training)
    values = [output.asnumpy() for output in executor.outputs]
    outputs, states = refilled(results, iter(values))
    if not training:
        return Result(outputs, states)
    executor.backward([mx.nd.array(each) for each in cotangents(values, problem.seed)])
    gradients = {name: array.asnumpy() for name, array in executor.grad_dict.items()}
    found = iter([gradients.pop(name) for name in feeds(problem)])
    inputs = refilled(problem.inputs, found)
    return Result(outputs, states, inputs, list(found) if problem.begin_state is not None else None, gradients)


def bound(graph: Any, values: dict[str, Array], training: bool) -> Any:
    """Return the executor of a graph with every argument set."""
    shapes = {name: values[name].shape for name in graph.list_arguments()}
    executor = graph.simple_bind(mx.cpu(), grad_req="write" if training else "null", **shapes)
    for name, array in executor.arg_dict.items():
        array[:] = values[name]
    return executor


def cotangents(values: list[Array], seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [random_array(rng, *value.shape) for value in values]


# -- rnnx -------------------------------------------------------------------------------------------------------------


def loaded(build: Build, weights: dict[str, Array]) -> rnnx.BaseRNNCell:
    """Return rnnx's tree with the weights."""
    cell = build(rnnx)
    if weights:
        cell.load_params(weights)
    return cell


def run_rnnx(
    build: Build, problem: Problem, merge_outputs: bool | None = None, fuse: bool = True, training: bool = False
) -> Result:
    """Return what rnnx gives, gradients included."""
    cell = loaded(build, problem.weights)
    outputs, states, pullback = cell.vjp(
        problem.length,
        problem.inputs,
        problem.begin_state,
        problem.layout,
        merge_outputs,
        training=training,
        fuse=fuse,
    )
    leaves = list(flat([outputs, states]))
    gradients = pullback(*refilled([outputs, states], iter(cotangents(leaves, problem.seed))))
    begin_state = gradients.begin_state if problem.begin_state is not None else None
    return Result(outputs, states, gradients.inputs, begin_state, gradients.weights)


def unrolled_by_rnnx(build: Build, problem: Problem, merge_outputs: bool | None = None, fuse: bool = True) -> Result:
    """Return what rnnx gives without gradients."""
    cell = loaded(build, problem.weights)
    return Result(
        *cell.unroll(problem.length, problem.inputs, problem.begin_state, problem.layout, merge_outputs, fuse=fuse)
    )


# -- comparing --------------------------------------------------------------------------------------------------------


def assert_agree(found: Result, expected: Result) -> None:
    """Assert that outputs and states have the same form and, within the tolerance, the same numbers."""
    _assert_alike(found.outputs, expected.outputs, RESULTS, "outputs")
    _assert_alike(found.states, expected.states, RESULTS, "states")


def assert_gradients_agree(found: Result, expected: Result) -> None:
    """Assert the same of all gradients; begin states that were not given have none."""
    assert found.weights is not None
    assert expected.weights is not None
    assert found.weights.keys() == expected.weights.keys()
    _assert_alike(found.inputs, expected.inputs, GRADIENTS, "gradient of inputs")
    _assert_alike(found.begin_state or [], expected.begin_state or [], GRADIENTS, "gradient of begin state")
    for name, array in expected.weights.items():
        _assert_alike(found.weights[name], array, GRADIENTS, f"gradient of {name}")


def _assert_alike(found: Any, expected: Any, tolerance: float, what: str) -> None:
    assert form(found) == form(expected), f"the form of {what}"
    for number, (mine, theirs) in enumerate(zip(flat(found), flat(expected), strict=True)):
        assert_close(mine, theirs, tolerance, f"{what}, number {number}")


def form(nested: Any) -> Any:
    """Return the nesting of lists, with the shape of each array in it."""
    return [form(each) for each in nested] if isinstance(nested, list) else (type(nested), np.shape(nested))


def assert_close(found: Array, expected: Array, tolerance: float, what: str) -> None:
    """Assert that arrays agree within a tolerance relative to the largest element.

    Elements that are nearly zero because large terms cancelled keep those terms' rounding, hence the least scale.
    """
    assert found.dtype == expected.dtype == np.float32
    scale = np.abs(expected).max(initial=0.1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale, err_msg=what)


def compare(build: Build, problem: Problem, merge_outputs: bool | None = None) -> None:
    """Assert that rnnx gives what MXNet gives: with and without kernels, and gradients if MXNet has any."""
    deterministic = not draws_at_random(build(rnnx).spec)
    expected = run_mxnet(build, problem, merge_outputs, training=deterministic)
    for fuse in (True, False):
        assert_agree(unrolled_by_rnnx(build, problem, merge_outputs, fuse), expected)
        found = run_rnnx(build, problem, merge_outputs, fuse)
        assert_agree(found, expected)
        if deterministic:
            assert_gradients_agree(found, expected)


def draws_at_random(spec: rnnx.CellSpec) -> bool:
    """Say whether a tree does something else in training."""
    rates = ("dropout", "zoneout_outputs", "zoneout_states")
    return any(node.fields.get(rate, 0.0) > 0 for node in spec.walk() for rate in rates)


def stacked(rnn: Any, *cells: Any) -> Any:
    """Return a `SequentialRNNCell` of the cells."""
    stack = rnn.SequentialRNNCell()
    for cell in cells:
        stack.add(cell)
    return stack

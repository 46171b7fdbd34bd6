"""Write down what MXNet gives for a list of cell trees, for tests to check where there is no MXNet.

Run from the root of the repository, in an environment with MXNet 1.9.1: ``python -m tests.oracle.make_golden``.

The file holds two arrays a tree: ``<name>:case``, a text of JSON, and ``<name>:numbers``, float32. In the JSON an array
is an object that says where its numbers ``start`` and what ``shape`` they have.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

import rnnx

from .bridge import Array, Build, cotangents, draw, draws_at_random, flat, refilled, run_mxnet
from .trees import BIDIRECTIONAL, FUSED, INFERENCE, PLAIN, RESIDUAL, STACKS

GOLDEN = Path(__file__).parents[1] / "golden" / "mxnet-1.9.1.npz"


@dataclasses.dataclass(frozen=True)
class Case:
    """A tree, and how it is called."""

    build: Build
    layout: str = "NTC"
    as_list: bool = False
    merge_outputs: bool | None = None


CASES = {
    "lstm": Case(PLAIN["lstm"]),
    "gru": Case(PLAIN["gru"], layout="TNC", merge_outputs=True),
    "rnn of relu": Case(PLAIN["rnn relu"], as_list=True),
    "rnn of softsign": Case(PLAIN["rnn softsign"]),
    "fused lstm": Case(FUSED["fused lstm, 1 layers, 1 directions"]),
    "fused lstm, two layers and directions": Case(FUSED["fused lstm, 2 layers, 2 directions"], layout="TNC"),
    "fused gru, three layers": Case(FUSED["fused gru, 3 layers, 1 directions"], merge_outputs=False),
    "fused gru, two directions": Case(FUSED["fused gru, 1 layers, 2 directions"], as_list=True),
    "fused tanh, two layers and directions": Case(FUSED["fused rnn_tanh, 2 layers, 2 directions"]),
    "fused relu, two layers": Case(FUSED["fused rnn_relu, 2 layers, 1 directions"]),
    "unfused lstm": Case(lambda rnn: rnn.FusedRNNCell(4, 2, bidirectional=True).unfuse(), layout="TNC"),
    "equal lstms": Case(STACKS["equal lstms"], merge_outputs=True),
    "stack in a stack": Case(STACKS["stack in a stack"]),
    "fused that keeps its states": Case(STACKS["fused that keeps its states"]),
    "shared weights": Case(STACKS["shared weights"]),
    "bidirectional lstm": Case(BIDIRECTIONAL["two lstms"], merge_outputs=True),
    "bidirectional of two kinds": Case(BIDIRECTIONAL["lstm and gru"]),
    "bidirectional within bidirectional": Case(BIDIRECTIONAL["within another"], layout="TNC", merge_outputs=True),
    "residual around fused": Case(RESIDUAL["around fused"]),
    "residual around bidirectional": Case(RESIDUAL["around bidirectional"], merge_outputs=True),
    "residual in a stack": Case(RESIDUAL["in a stack"]),
    "dropout between": Case(INFERENCE["dropout between"]),
    "zoneout in a stack": Case(INFERENCE["zoneout in a stack"], as_list=True),
}


class Numbers:
    """Arrays one after the other in a vector."""

    def __init__(self) -> None:
        self.arrays: list[Array] = []
        self.length = 0

    def put(self, nested: Any) -> Any:
        """Append the arrays of nested lists or dicts, and return the same nesting of where they are."""
        if isinstance(nested, dict):
            return {name: self.put(each) for name, each in nested.items()}
        if isinstance(nested, list):
            return [self.put(each) for each in nested]
        if nested is None:
            return None
        self.arrays.append(nested.astype(np.float32))
        start, self.length = self.length, self.length + nested.size
        return {"start": start, "shape": list(nested.shape)}


def described(case: Case, seed: int) -> tuple[str, Array]:
    """Return the JSON and the numbers of a case."""
    spec = case.build(rnnx).spec
    problem = draw(case.build, seed, length=4, layout=case.layout, as_list=case.as_list)
    result = run_mxnet(case.build, problem, case.merge_outputs, training=not draws_at_random(spec))
    forms = [result.outputs, result.states]
    gradients = {"inputs": result.inputs, "begin_state": result.begin_state, "weights": result.weights}
    numbers = Numbers()
    text = {
        "spec": spec.to_dict(),
        "layout": case.layout,
        "merge_outputs": case.merge_outputs,
        "weights": numbers.put(problem.weights),
        "inputs": numbers.put(problem.inputs),
        "begin_state": numbers.put(problem.begin_state),
        "outputs": numbers.put(result.outputs),
        "states": numbers.put(result.states),
        "cotangents": numbers.put(refilled(forms, iter(cotangents(list(flat(forms)), seed)))),
        "gradients": numbers.put(gradients) if result.weights is not None else None,
    }
    return json.dumps(text), np.concatenate([array.ravel() for array in numbers.arrays])


def golden() -> dict[str, Array]:
    """Return what the file should hold."""
    arrays: dict[str, Array] = {}
    for seed, (name, case) in enumerate(CASES.items()):
        text, numbers = described(case, seed)
        arrays[f"{name}:case"], arrays[f"{name}:numbers"] = np.array(text), numbers
    return arrays


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **golden())
    print(f"{GOLDEN}: {len(CASES)} trees, {GOLDEN.stat().st_size} bytes")

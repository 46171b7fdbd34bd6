"""Golden cases of MXNet 1.9.1: plain and fused cells, containers, and modifiers outside training."""

from __future__ import annotations

from collections.abc import Iterator

import rnnx
from rnnx.conformance.golden import Golden

from .bridge import Build, draw, flat, mx, run_mxnet
from .trees import BIDIRECTIONAL, FUSED, INFERENCE, MODES, PLAIN, RESIDUAL, STACKS

PRODUCER = f"mxnet {mx.__version__}"

TREES: dict[str, Build] = {
    **PLAIN,
    **{f"fused {mode}": FUSED[f"fused {mode}, 2 layers, 2 directions"] for mode in MODES},
    "lstm on gru": STACKS["lstm on gru"],
    "fused that keeps its states": STACKS["fused that keeps its states"],
    "shared weights": STACKS["shared weights"],
    "weights under another prefix": STACKS["weights under another prefix"],
    "both directions, two kinds": BIDIRECTIONAL["lstm and gru"],
    "both directions within both": BIDIRECTIONAL["within another"],
    "residual around both directions": RESIDUAL["around bidirectional"],
    "residual in a stack": RESIDUAL["in a stack"],
    "dropout between": INFERENCE["dropout between"],
    "zoneout in a stack": INFERENCE["zoneout in a stack"],
}


def cases() -> Iterator[Golden]:
    """Yield the cases."""
    for seed, (name, build) in enumerate(TREES.items()):
        problem = draw(build, seed, length=5, batch=3)
        result = run_mxnet(build, problem, merge_outputs=True, training=False)
        yield Golden(
            "mxnet-" + name.replace(",", "").replace(" ", "-"),
            PRODUCER,
            build(rnnx).spec.to_dict(),
            problem.weights,
            problem.inputs,
            tuple(problem.begin_state or ()),
            None,
            result.outputs,
            tuple(flat(result.states)),
        )

"""Which kernel runs which part of a cell tree, and why.

Each cell tells a `Planner` what it is in the planner's own words: layers of a recurrence, a chain, two directions, a
residual, dropout, or else something to be stepped. The planner asks the backend for kernels, joins neighbours that one
kernel can run, and keeps every refusal. The result is a tree of stages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rnnx.backend import Array, Backend, Call, Kernel, Recurrence, Unsupported
from rnnx.ops import Ops, Step
from rnnx.stages import (
    Bidirectional,
    Chain,
    Dropout,
    Fused,
    FusedFlat,
    Loop,
    Residual,
    Run,
    Stage,
    Steppable,
    Unfused,
    described,
)

__all__ = ["Plan", "Planner"]


class Planner:
    """Makes the stages of one plan.

    Parameters
    ----------
    backend : Backend
        Who runs it.
    call : Call
        What kind of call it is for.
    fuse : bool
        False makes every cell step, whatever the backend could do.
    """

    def __init__(self, backend: Backend, call: Call, fuse: bool = True) -> None:
        self._backend = backend
        self._call = call
        self._fuse = fuse
        self._answers: dict[Recurrence, Kernel | Unsupported] = {}

    @property
    def training(self) -> bool:
        """Whether dropout and zoneout act in the call that is planned."""
        return self._call.training

    def stands(self) -> bool:
        """Say whether the backend would answer now as it did: what it can do may depend on more than the call."""
        return all(self._backend.plan(asked, self._call) == answer for asked, answer in self._answers.items())

    def layer(self, recurrence: Recurrence, prefix: str, cell: Steppable) -> Stage:
        """Return the stage of one plain cell: a kernel's, or else the loop's."""
        compiled = self._ask(recurrence)
        if isinstance(compiled, Kernel):
            return Fused(compiled, (prefix,))
        return self.loop(cell, recurrence.input_size, described(recurrence), compiled.reason)

    def fused(self, recurrence: Recurrence, parameter: str, prefix: str, unfused: Callable[[], Stage]) -> Stage:
        """Return the stage of a fused cell: a kernel's, or else its unfused cells'."""
        compiled = self._ask(recurrence)
        if isinstance(compiled, Kernel):
            return FusedFlat(compiled, parameter)
        return Unfused(recurrence, parameter, prefix, unfused(), (compiled.reason,))

    def loop(self, cell: Steppable, input_size: int, label: str, reason: str) -> Stage:
        """Return the stage that steps a cell, with the reason that nothing faster does."""
        return Loop(cell, label, f"{self._backend.name}.loop", tuple(cell.slots(input_size)), (reason,))

    def dropout(self, rate: float) -> Stage:
        """Return the stage that drops inputs out: none at all outside training."""
        if not self._call.training or rate == 0:
            return Chain(())
        return Dropout(rate, f"{self._backend.name}.dropout")

    def residual(self, inner: Stage) -> Stage:
        """Return the stage that adds the inputs to the outputs of another."""
        return Residual(inner)

    def chain(self, stages: Sequence[Stage]) -> Stage:
        """Return the stages in order, with neighbours joined where one kernel runs both."""
        joined: list[Stage] = []
        for stage in _flattened(stages):
            joined.append(stage)
            while (found := self._joined_end(joined)) is not None:
                kept, merged = found
                joined[kept:] = [merged]
        return joined[0] if len(joined) == 1 else Chain(tuple(joined))

    def bidirectional(self, forward: Stage, backward: Stage) -> Stage:
        """Return one bidirectional kernel for two equal plain cells, or the two stages side by side."""
        told = (*forward.refused, *backward.refused)
        reasons = () if told else ("the two directions are not equal plain cells",)
        if isinstance(forward, Fused) and isinstance(backward, Fused):
            one, other = forward.compiled.recurrence, backward.compiled.recurrence
            if one == other and one.num_layers == 1 and not one.bidirectional:
                compiled = self._ask(dataclasses.replace(one, bidirectional=True))
                if isinstance(compiled, Kernel):
                    return Fused(compiled, forward.prefixes + backward.prefixes)
                reasons = (compiled.reason,)
        return Bidirectional(forward, backward, reasons)

    def _ask(self, recurrence: Recurrence) -> Kernel | Unsupported:
        if not self._fuse:
            return Unsupported("stepping was asked for with fuse=False")
        answer = self._answers[recurrence] = self._backend.plan(recurrence, self._call)
        return answer

    def _joined_end(self, stages: Sequence[Stage]) -> tuple[int, Stage] | None:
        """Return where the last stages start that one kernel can run, and that stage; None where there are none."""
        if len(stages) >= 2 and isinstance(stages[-1], Fused):
            above, below = stages[-1], stages[-2]
            if isinstance(below, Fused):
                return self._joined(len(stages) - 2, below, above, 0.0)
            if isinstance(below, Dropout) and len(stages) >= 3 and isinstance(stages[-3], Fused):
                return self._joined(len(stages) - 3, stages[-3], above, below.rate)
        return None

    def _joined(self, start: int, below: Fused, above: Fused, dropout: float) -> tuple[int, Stage] | None:
        one, other = below.compiled.recurrence, above.compiled.recurrence
        if not _stackable(one, other, dropout):
            return None
        both = dataclasses.replace(one, num_layers=one.num_layers + other.num_layers, dropout=dropout)
        compiled = self._ask(both)
        if not isinstance(compiled, Kernel):
            return None
        return start, Fused(compiled, below.prefixes + above.prefixes)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The stages of a cell tree on a backend, for a kind of call.

    ``str(plan)`` draws it; `kernels` lists what runs, in order.
    """

    backend: Backend = dataclasses.field(repr=False)
    call: Call
    root: Stage

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels, in the order in which they run."""
        return tuple(stage.kernel for stage, _ in _walk(self.root) if stage.kernel is not None)

    @property
    def refused(self) -> tuple[str, ...]:
        """Every reason for which something faster does not run."""
        return tuple(reason for stage, _ in _walk(self.root) for reason in stage.refused)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain dicts and lists, ready for JSON."""
        return {"backend": self.backend.name, **dataclasses.asdict(self.call), "plan": _as_dict(self.root)}

    def __str__(self) -> str:
        lines = [f"{self.backend.name}, {self.call.dtype}{', training' if self.call.training else ''}"]
        for stage, depth in _walk(self.root):
            kernel = f": {stage.kernel}" if stage.kernel else ""
            lines.append(f"{'  ' * depth}  {stage.label}{kernel}")
            lines += [f"{'  ' * depth}    not faster: {reason}" for reason in stage.refused]
        return "\n".join(lines)

    def run(
        self,
        ops: Ops,
        weights: Mapping[str, Array],
        inputs: Array,
        states: list[Array],
        valid_length: Array | None,
    ) -> Step:
        """Run the plan over inputs (T, N, C); what lies past a row's valid length is not looked at."""
        mask = None
        if valid_length is not None:
            mask = ops.backend.steps_before(valid_length, ops.shape(inputs)[0])
            inputs = ops.where(mask[..., None], inputs, ops.zeros((), inputs))
        return self.root.run(Run(ops, weights, valid_length, mask), inputs, states)


def _flattened(stages: Sequence[Stage]) -> Iterator[Stage]:
    for stage in stages:
        if isinstance(stage, Chain):
            yield from _flattened(stage.parts)
        else:
            yield stage


def _stackable(below: Recurrence, above: Recurrence, dropout: float) -> bool:
    """Say whether `above`, which reads `below`, is further layers of one recurrence, with `dropout` between the two."""
    same = (below.mode, below.hidden_size, below.bidirectional) == (above.mode, above.hidden_size, above.bidirectional)
    inside = {part.dropout for part in (below, above) if part.num_layers > 1}
    return same and inside <= {dropout}


def _walk(stage: Stage, depth: int = 0) -> Iterator[tuple[Stage, int]]:
    yield stage, depth
    for part in stage.parts:
        yield from _walk(part, depth + 1)


def _as_dict(stage: Stage) -> dict[str, Any]:
    return {
        "label": stage.label,
        "kernel": stage.kernel,
        "refused": list(stage.refused),
        "parts": [_as_dict(part) for part in stage.parts],
    }

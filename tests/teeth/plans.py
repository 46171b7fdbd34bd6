"""Faults of plans, and of what a backend says of itself."""

from __future__ import annotations

import dataclasses

from rnnx.backend import Kernel, Unsupported
from teeth.fault import in_backend
from teeth.right import Held, RightBackend

__all__ = ["FAULTS"]

right = RightBackend.plan


def names():
    def named(change):
        def plan(self, recurrence, call):
            found = right(self, recurrence, call)
            return Kernel(change(self, recurrence), recurrence) if isinstance(found, Kernel) else found

        return {"plan": plan}

    yield in_backend(
        "kernel_of_another", "kernels have another backend's name", "plans", **named(lambda self, r: f"numpy.{r.mode}")
    )
    yield in_backend(
        "kernel_called_loop", "kernels are called the loop", "plans", **named(lambda self, r: f"{self.name}.loop")
    )
    yield in_backend("kernel_nameless", "kernels have no name", "plans", **named(lambda self, r: ""))
    yield in_backend(
        "kernel_of_another_mode", "every kernel is called lstm", "plans", **named(lambda self, r: f"{self.name}.lstm")
    )


def answers():
    def recurrence_of(change):
        def plan(self, recurrence, call):
            found = right(self, recurrence, call)
            return Kernel(found.name, change(recurrence)) if isinstance(found, Kernel) else found

        return {"plan": plan}

    def refusing(condition, reason="not here"):
        def plan(self, recurrence, call):
            return Unsupported(reason) if condition(recurrence, call) else right(self, recurrence, call)

        return {"plan": plan}

    def failing(self, recurrence, call):
        if call.masked and recurrence.num_layers > 1:
            raise NotImplementedError("masks")
        return right(self, recurrence, call)

    turns = []

    def changing(self, recurrence, call):
        turns.append(1)
        return Unsupported("busy") if len(turns) % 2 else right(self, recurrence, call)

    yield in_backend("plan_raises", "plan raises for masks over layers", "plans", plan=failing)
    yield in_backend("plan_changes", "plan says another thing each time", "plans", plan=changing)
    yield in_backend(
        "plan_none",
        "plan returns None for relu",
        "plans",
        plan=lambda self, recurrence, call: None if recurrence.mode == "rnn_relu" else right(self, recurrence, call),
    )
    yield in_backend(
        "no_reason", "a refusal has no reason", "plans", **refusing(lambda r, call: call.dtype == "float16", "")
    )
    yield in_backend(
        "other_recurrence",
        "a kernel forgets the dropout",
        "plans",
        **recurrence_of(lambda r: dataclasses.replace(r, dropout=0.0)),
    )
    refused = {
        "gru": lambda r, call: r.mode == "gru",
        "masked": lambda r, call: call.masked,
        "training": lambda r, call: call.training,
        "bidirectional": lambda r, call: r.bidirectional,
        "layers": lambda r, call: r.num_layers > 2,
        "dropout": lambda r, call: r.dropout > 0 and call.training,
        "all": lambda r, call: True,
    }
    for name, condition in refused.items():
        yield in_backend(f"refuses_{name}", f"refuses what it declares: {name}", "plans", **refusing(condition))


def running():
    def stepping(self, kernel, weights, inputs, states, valid_length, seeds, record=True):
        for time in range(len(inputs)):
            self.affine(inputs[time], weights.layers[0][0], weights.layers[0][2])
        return RightBackend.run_recorded(self, kernel, weights, inputs, states, valid_length, seeds, record)

    def refusing(self, kernel, *given, **options):
        if kernel.recurrence.num_layers > 2:
            raise NotImplementedError("three layers")
        return RightBackend.run_recorded(self, kernel, *given, **options)

    yield in_backend("steps_inside", "a kernel steps through the operations", "plans", run_recorded=stepping)
    yield in_backend("run_refuses", "a kernel that agreed refuses", "outputs", run_recorded=refusing)
    yield in_backend(
        "tuple_states",
        "final states are one array",
        "outputs",
        run=lambda self, *given: _stacked(RightBackend.run(self, *given)),
    )


def _stacked(results):
    outputs, final = results
    return outputs, final[0]


def telling():
    yield in_backend(
        "declares_bfloat16",
        "bfloat16 is declared and not there",
        "operations",
        info={
            "capabilities": (
                "float64",
                "float32",
                "bfloat16",
                "gradients",
                "threads",
                "fused.lstm",
                "fused.gru",
                "fused.rnn_tanh",
                "fused.rnn_relu",
            ),
        },
    )
    yield in_backend(
        "undeclared_kernels",
        "kernels are there and not declared",
        "plans",
        info={
            "capabilities": ("float64", "float32", "float16", "gradients", "threads"),
        },
    )
    yield in_backend("no_gradients", "gradients are declared and not there", "gradients", differentiate=_no_gradients)
    yield in_backend("other_name", "the backend has another name than its BackendInfo", "imports", name="somebody")
    yield in_backend(
        "heavy_framework",
        "its arrays are of a class that is not named",
        "imports",
        info={"array_types": ("teeth.right.Other",)},
        owns=lambda self, array: isinstance(array, Held),
    )


def _no_gradients(self, function, arguments):
    raise NotImplementedError("no gradients")


FAULTS = [*names(), *answers(), *running(), *telling()]

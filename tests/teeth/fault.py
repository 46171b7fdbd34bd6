"""What a planted fault is, and the ways to plant one."""

from __future__ import annotations

import dataclasses

from rnnx.backend import API_VERSION, CAPABILITIES, BackendInfo
from teeth.kernel import Kernel
from teeth.right import RightBackend

__all__ = ["MODES", "Fault", "in_backend", "in_gradients", "in_kernel", "info_of"]

MODES = ("lstm", "gru", "rnn_tanh", "rnn_relu")


@dataclasses.dataclass(frozen=True)
class Fault:
    """A backend that is wrong in one way.

    Parameters
    ----------
    name : str
        What it is registered as.
    what : str
        What is wrong, in a few words.
    area : str
        Where the suite is expected to see it first.
    backend : type
        The backend.
    info : dict
        What is other in its `BackendInfo`.
    """

    name: str
    what: str
    area: str
    backend: type[RightBackend]
    info: dict[str, object] = dataclasses.field(default_factory=dict)


def info_of(fault):
    """What the fault's backend says of itself."""
    told = {
        "name": fault.name,
        "api_version": API_VERSION,
        "framework": "numpy",
        "array_types": ("teeth.right.Held",),
        "target": f"teeth.planted:{fault.name}",
        "install_hint": "it is part of the tests",
        "capabilities": tuple(capability for capability in CAPABILITIES if capability != "bfloat16"),
    }
    return BackendInfo(**{**told, **fault.info})


def in_backend(name, what, area, /, *, info=None, **members):
    """A fault of the backend's own methods."""
    return Fault(name, what, area, type("Wrong", (RightBackend,), {"name": name, **members}), info or {})


def in_kernel(name, what, area="outputs", /, *, modes=None, **members):
    """Faults of the kernel's methods: one for each of the modes, or one of all together."""
    if modes is None:
        kernel = type("WrongKernel", (Kernel,), members)
        return [in_backend(name, what, area, kernel=kernel)]
    return [_in_mode(f"{name}_{mode}", f"{what}, in {mode}", area, mode, members) for mode in modes]


def _in_mode(name, what, area, mode, members):
    wrong = type("WrongKernel", (Kernel,), members)

    def kernel(backend, recurrence, seeds):
        return (wrong if recurrence.mode == mode else Kernel)(backend, recurrence, seeds)

    return in_backend(name, what, area, kernel=staticmethod(kernel))


def in_gradients(name, what, change, /, *, modes=None):
    """A fault of the kernel's vector-Jacobian product: `change(recurrence, inputs, states, weights)` of its results."""

    def pulling(self, recurrence, pull):
        if pull is None or (modes is not None and recurrence.mode not in modes):
            return pull
        return lambda *cotangents: change(recurrence, *pull(*cotangents))

    return in_backend(name, what, "gradients", pulling=pulling)

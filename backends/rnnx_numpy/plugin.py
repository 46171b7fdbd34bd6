"""What rnnx reads of this backend before it is used; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence

from rnnx.backend import API_VERSION, CAPABILITIES, BackendInfo
from rnnx.hookspecs import hookimpl

__all__ = ["rnnx_backends"]


@hookimpl
def rnnx_backends() -> Sequence[BackendInfo]:
    """Return the one backend that this plugin brings."""
    return [
        BackendInfo(
            name="numpy",
            api_version=API_VERSION,
            framework="numpy",
            array_types=("numpy.ndarray",),
            target="rnnx_numpy.backend:NumpyBackend",
            install_hint="pip install numpy",
            # NumPy computes bfloat16 in float32, which would change the dtype.
            capabilities=tuple(capability for capability in CAPABILITIES if capability != "bfloat16"),
        )
    ]

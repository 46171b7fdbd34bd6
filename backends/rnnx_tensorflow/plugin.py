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
            name="tensorflow",
            api_version=API_VERSION,
            framework="tensorflow",
            array_types=("tensorflow.python.framework.tensor.Tensor", "tensorflow.python.ops.variables.Variable"),
            target="rnnx_tensorflow.backend:TensorFlowBackend",
            install_hint="pip install 'rnnx[tensorflow]'",
            capabilities=tuple(CAPABILITIES),
        )
    ]

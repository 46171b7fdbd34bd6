"""What rnnx reads of this backend before it is used; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence

from rnnx.backend import API_VERSION, CAPABILITIES, Backend, BackendInfo
from rnnx.hookspecs import Conformance, hookimpl

__all__ = ["rnnx_backends", "rnnx_conformance"]


@hookimpl
def rnnx_backends() -> Sequence[BackendInfo]:
    """Return the one backend that this plugin brings."""
    return [
        BackendInfo(
            name="jax",
            api_version=API_VERSION,
            framework="jax",
            array_types=(),  # JAX gives the classes of its arrays no public names: `JaxBackend.owns` knows them
            target="rnnx_jax.backend:JaxBackend",
            install_hint="pip install jax",
            capabilities=tuple(CAPABILITIES),
        )
    ]


@hookimpl
def rnnx_conformance(backend: Backend) -> Conformance | None:
    """Switch JAX's 64 bits on, which the suite judges too; there is nothing else to say."""
    if backend.name != "jax":
        return None
    import jax  # the suite has imported the backend by now

    jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]
    return Conformance()

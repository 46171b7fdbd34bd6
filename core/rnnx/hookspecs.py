"""The hooks by which plugins make themselves known to rnnx, through pluggy.

A plugin is a light module that imports nothing heavy. It is found by its entry point in the group ``rnnx``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pluggy

from rnnx.backend import Backend, BackendInfo

__all__ = ["PROJECT", "hookimpl", "rnnx_backends", "rnnx_conformance"]

#: Name of the pluggy project, of the entry-point group, and prefix of every hook.
PROJECT = "rnnx"

hookspec = pluggy.HookspecMarker(PROJECT)

#: Marks a plugin's functions as hooks.
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def rnnx_backends() -> Sequence[BackendInfo]:  # type: ignore[empty-body]
    """Return the backends that this plugin brings, without importing their frameworks."""


@hookspec(firstresult=True)
def rnnx_conformance(backend: Backend) -> Mapping[str, Any] | None:
    """Return tolerances, expected failures and devices for the conformance suite, or None for another's backend."""

"""The hooks by which plugins make themselves known to rnnx, through pluggy.

A plugin is a light module that imports nothing heavy. It is found by its entry point in the group ``rnnx``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pluggy

from rnnx.backend import Backend, BackendInfo

__all__ = ["PROJECT", "FormatInfo", "hookimpl", "rnnx_backends", "rnnx_conformance", "rnnx_formats"]

#: Name of the pluggy project, of the entry-point group, and prefix of every hook.
PROJECT = "rnnx"

hookspec = pluggy.HookspecMarker(PROJECT)

#: Marks a plugin's functions as hooks.
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def rnnx_backends() -> Sequence[BackendInfo]:  # type: ignore[empty-body]
    """Return the backends that this plugin brings, without importing their frameworks."""


@dataclasses.dataclass(frozen=True)
class FormatInfo:
    """What is known of a file format without importing it: strings only.

    Parameters
    ----------
    name : str
        The name that users type.
    target : str
        ``"module:Class"`` of the `rnnx.archive.Format`, imported when a file is read or written.
    """

    name: str
    target: str


@hookspec
def rnnx_formats() -> Sequence[FormatInfo]:  # type: ignore[empty-body]
    """Return the file formats that this plugin brings."""


@hookspec(firstresult=True)
def rnnx_conformance(backend: Backend) -> Mapping[str, Any] | None:
    """Return tolerances, expected failures and devices for the conformance suite, or None for another's backend."""

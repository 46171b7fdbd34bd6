"""The hooks by which plugins make themselves known to rnnx, through pluggy.

A plugin is a light module that imports nothing heavy. It is found by its entry point in the group ``rnnx``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import pluggy

from rnnx.backend import Backend, BackendInfo

__all__ = ["PROJECT", "Conformance", "FormatInfo", "hookimpl", "rnnx_backends", "rnnx_conformance", "rnnx_formats"]

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


@dataclasses.dataclass(frozen=True)
class Conformance:
    """What a backend says of itself to the conformance suite, in the open: the suite's result prints it.

    Parameters
    ----------
    tolerances : mapping of str to float
        Largest differences, for numbers up to 1, where they are not the suite's own: by dtype, ``"float32"``, or for
        gradients alone, ``"float32.gradients"``.
    expected_failures : mapping of str to str
        Patterns of tests' names, as `fnmatch` reads them, each with the reason. Such a test has to fail.
    devices : tuple of str
        Where the suite runs; on the backend's first device if there are none.
    """

    tolerances: Mapping[str, float] = dataclasses.field(default_factory=dict)
    expected_failures: Mapping[str, str] = dataclasses.field(default_factory=dict)
    devices: tuple[str, ...] = ()


@hookspec(firstresult=True)
def rnnx_conformance(backend: Backend) -> Conformance | None:
    """Return what the conformance suite is to know of a backend, or None for another's backend."""

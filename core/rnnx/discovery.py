"""Finding plugins: entry points of the group ``rnnx``, each loaded by itself.

A plugin that fails is kept with its cause, and harms nobody else. This module and pluggy are imported the first time a
backend or a format is needed, not with rnnx.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import types
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any, TypeVar

import pluggy

from rnnx import hookspecs
from rnnx.backend import API_VERSION, CAPABILITIES, Backend, BackendInfo
from rnnx.errors import BackendNotFoundError, RNNXError, class_name, nearest
from rnnx.hookspecs import Conformance, FormatInfo

__all__ = ["BackendStatus", "Plugins", "resolved"]

#: What comes with rnnx, registered first: nobody else's plugin can take a name of theirs.
OWN_PLUGINS = ("rnnx.formats.plugin", "rnnx_numpy.plugin", "rnnx_torch.plugin", "rnnx_tensorflow.plugin")

Info = TypeVar("Info", BackendInfo, FormatInfo)


@dataclasses.dataclass(frozen=True)
class BackendStatus:
    """One line of `list_backends`: a backend, or a plugin that failed, and why it cannot be used."""

    name: str
    available: bool
    reason: str = ""
    info: BackendInfo | None = None


class Plugins:
    """What has been found so far: backends by name, failures by name, and the backends already imported."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.infos: dict[str, BackendInfo] = {}
        self.formats: dict[str, FormatInfo] = {}
        self.failures: dict[str, BaseException] = {}
        self.loaded: dict[str, Backend] = {}
        self._owners: dict[type, str | None] = {}

    def discover(self) -> None:
        """Register each plugin by itself, so that one that fails is the only one that fails."""
        found = entry_points(group=hookspecs.PROJECT)
        for entry in sorted(found, key=lambda entry: (entry.value not in OWN_PLUGINS, entry.name)):
            try:
                self.register_plugin(entry.load(), entry.name)
            except (Exception, SystemExit) as error:  # a plugin is foreign code: whatever it raises is its report
                self.failures[entry.name] = error

    def register_plugin(self, plugin: object, name: str) -> None:
        """Register a plugin, and all that it brings, or nothing of it."""
        _refuse_misspelt_hooks(plugin)
        self.manager.register(plugin, name)
        try:
            self.manager.check_pending()
            backends = self._told_by(plugin, "rnnx_backends", BackendInfo)
            formats = self._told_by(plugin, "rnnx_formats", FormatInfo)
            for backend in backends:
                self._check(backend)
            for kind in formats:
                self._check_format(kind)
            self._add_all(backends)
            self.formats.update({info.name: info for info in formats})
        except BaseException:
            self.manager.unregister(plugin)
            raise

    def _told_by(self, plugin: object, hook: str, kind: type[Info]) -> list[Info]:
        """Return what one plugin's hook returns."""
        others = [other for other in self.manager.get_plugins() if other is not plugin]
        told = [info for infos in self.manager.subset_hook_caller(hook, others)() for info in infos]
        for info in told:
            if not isinstance(info, kind):
                raise RNNXError(f"{hook} should return a list of {kind.__name__}, found {info!r} in it")
        return told

    def add(self, info: BackendInfo) -> None:
        """Make a backend known."""
        self._check(info)
        self._add_all([info])

    def _add_all(self, infos: Sequence[BackendInfo]) -> None:
        self.infos.update({info.name: info for info in infos})
        self._owners.clear()

    def owner_of(self, kind: type) -> str | None:
        """Return the backend that names a class of arrays or one of its bases; looked up once for each class."""
        if kind not in self._owners:
            names = [class_name(base) for base in kind.__mro__]
            owners = (info.name for name in names for info in self.infos.values() if name in info.array_types)
            self._owners[kind] = next(owners, None)
        return self._owners[kind]

    def _check(self, info: BackendInfo) -> None:
        if info.api_version != API_VERSION:
            raise RNNXError(
                f"backend {info.name!r} is written for version {info.api_version} of the backend contract, "
                f"and this rnnx has version {API_VERSION}"
            )
        for capability in info.capabilities:
            if capability not in CAPABILITIES:
                hint = nearest(capability, CAPABILITIES)
                raise RNNXError(f"backend {info.name!r} declares {capability!r}, which is no capability{hint}")
        if self.infos.get(info.name, info) != info:
            raise RNNXError(f"two backends are called {info.name!r}: {self.infos[info.name].target} and {info.target}")
        for other in self.infos.values():
            both = sorted(set(info.array_types) & set(other.array_types))
            if both and other.name != info.name:
                raise RNNXError(f"backends {other.name!r} and {info.name!r} both say that {both[0]} is theirs")

    def add_format(self, info: FormatInfo) -> None:
        """Make a format known."""
        self._check_format(info)
        self.formats[info.name] = info

    def _check_format(self, info: FormatInfo) -> None:
        if self.formats.get(info.name, info) != info:
            raise RNNXError(f"two formats are called {info.name!r}: {self.formats[info.name].target} and {info.target}")

    def load(self, name: str) -> Backend:
        """Return a backend, importing it the first time."""
        if name not in self.loaded:
            self.loaded[name] = _import_backend(self._info(name))
        return self.loaded[name]

    def _info(self, name: str) -> BackendInfo:
        if name in self.infos:
            return self.infos[name]
        if name in self.failures:
            raise BackendNotFoundError(f"plugin {name!r} is broken: {_cause(self.failures[name])}") from self.failures[
                name
            ]
        raise BackendNotFoundError(
            f"no backend is called {name!r}{nearest(name, self.infos)}; there are {', '.join(sorted(self.infos))}"
        )

    def conformance(self, backend: Backend) -> Conformance:
        """Return what the plugins tell the conformance suite of a backend."""
        told = self.manager.hook.rnnx_conformance(backend=backend)
        if not isinstance(told, Conformance | None):
            raise RNNXError(f"rnnx_conformance should return a Conformance or None, found {told!r}")
        return told or Conformance()

    def status(self) -> list[BackendStatus]:
        """Return every backend, and every plugin that failed."""
        found = [_status(info) for _, info in sorted(self.infos.items())]
        broken = [BackendStatus(name, False, _cause(error)) for name, error in sorted(self.failures.items())]
        return found + broken


def resolved(target: str) -> Any:
    """Import what ``"module:name"`` names."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _status(info: BackendInfo) -> BackendStatus:
    if importlib.util.find_spec(info.framework.partition(".")[0]) is None:
        return BackendStatus(info.name, False, f"{info.framework} is not installed: {info.install_hint}", info)
    return BackendStatus(info.name, True, "", info)


def _import_backend(info: BackendInfo) -> Backend:
    try:
        kind = resolved(info.target)
        backend = kind()
    except Exception as error:  # a framework can fail to import in any way it likes
        raise BackendNotFoundError(
            f"backend {info.name!r} does not import ({_cause(error)}): {info.install_hint}"
        ) from error
    if not isinstance(backend, Backend):
        raise BackendNotFoundError(f"{info.target} is not a subclass of rnnx.backend.Backend")
    return backend


def _refuse_misspelt_hooks(plugin: object) -> None:
    """A module's function called ``rnnx_…`` that is no hook would otherwise never be called, without a word."""
    known = {name for name in vars(hookspecs) if name.startswith("rnnx_")}
    for name, value in vars(plugin).items():
        if not name.startswith("rnnx_") or not isinstance(value, types.FunctionType):
            continue
        if name not in known:
            raise RNNXError(f"there is no hook {name!r}{nearest(name, known)}")
        if not hasattr(value, f"{hookspecs.PROJECT}_impl"):
            raise RNNXError(f"{name} is not marked with @rnnx.hookspecs.hookimpl")


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"

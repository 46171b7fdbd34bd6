"""Which backends there are, and which one a call uses.

Plugins are found through the entry-point group ``rnnx`` the first time a backend is needed. A plugin that fails is kept
with its cause, shown by `list_backends`, and harms nobody else.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import importlib
import importlib.util
import os
import threading
import types
from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from rnnx import hookspecs
from rnnx.backend import API_VERSION, Backend, BackendInfo
from rnnx.errors import BackendMismatchError, BackendNotFoundError, RNNXError, nearest

__all__ = [
    "BackendStatus",
    "backend_of",
    "default_backend",
    "get_backend",
    "list_backends",
    "refresh",
    "register_backend",
    "use_backend",
]

#: Environment variable with the name of the default backend, read at first use.
ENVIRONMENT = "RNNX_BACKEND"

#: What runs where nothing else is said.
FALLBACK = "numpy"


@dataclasses.dataclass(frozen=True)
class BackendStatus:
    """One line of `list_backends`: a backend, or a plugin that failed, and why it cannot be used."""

    name: str
    available: bool
    reason: str = ""
    info: BackendInfo | None = None


class _Registry:
    """What has been found so far: backends by name, failures by name, and the backends already imported."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.infos: dict[str, BackendInfo] = {}
        self.failures: dict[str, BaseException] = {}
        self.loaded: dict[str, Backend] = {}

    def discover(self, found: Iterable[EntryPoint]) -> None:
        """Register each plugin by itself, so that one that fails is the only one that fails."""
        for entry in sorted(found, key=lambda entry: entry.name):
            try:
                self.register_plugin(entry.load(), entry.name)
            except Exception as error:  # a plugin is foreign code: whatever it raises is its report
                self.failures[entry.name] = error

    def register_plugin(self, plugin: object, name: str) -> None:
        _refuse_misspelt_hooks(plugin)
        self.manager.register(plugin, name)
        try:
            self.manager.check_pending()
            hook = self.manager.subset_hook_caller(
                "rnnx_backends", [other for other in self.manager.get_plugins() if other is not plugin]
            )
            for infos in hook():
                for info in infos:
                    self.add(info)
        except BaseException:
            self.manager.unregister(plugin)
            raise

    def add(self, info: BackendInfo) -> None:
        if info.api_version != API_VERSION:
            raise RNNXError(
                f"backend {info.name!r} is written for version {info.api_version} of the backend contract, "
                f"and this rnnx has version {API_VERSION}"
            )
        if self.infos.get(info.name, info) != info:
            raise RNNXError(f"two backends are called {info.name!r}: {self.infos[info.name].target} and {info.target}")
        self.infos[info.name] = info

    def load(self, name: str) -> Backend:
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

    def status(self) -> list[BackendStatus]:
        found = [_status(info) for _, info in sorted(self.infos.items())]
        broken = [BackendStatus(name, False, _cause(error)) for name, error in sorted(self.failures.items())]
        return found + broken


_lock = threading.RLock()
_registry: _Registry | None = None
_environment: str | None = None
_chosen: contextvars.ContextVar[str | None] = contextvars.ContextVar("rnnx_backend", default=None)


def _current() -> _Registry:
    """Return the registry, looking for plugins the first time."""
    global _registry, _environment
    with _lock:
        if _registry is None:
            _registry = _Registry()
            _registry.discover(entry_points(group=hookspecs.PROJECT))
            _environment = os.environ.get(ENVIRONMENT) or None
        return _registry


def refresh() -> None:
    """Forget every backend found, and the environment variable read: the next use looks again."""
    global _registry
    with _lock:
        _registry = None


def register_backend(info: BackendInfo) -> None:
    """Make a backend known without an entry point, until `refresh`.

    Raises
    ------
    RNNXError
        If the name is taken, or the contract's version is another.
    """
    with _lock:
        _current().add(info)


def list_backends() -> list[BackendStatus]:
    """Return every backend that was found, and every plugin that failed, with the reason it cannot be used."""
    return _current().status()


def get_backend(name: str) -> Backend:
    """Return the backend called `name`, importing its framework if that has not been done.

    Raises
    ------
    BackendNotFoundError
        If there is none, or its framework is not installed; the message says what to install.
    """
    with _lock:
        return _current().load(name)


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[Backend]:
    """Make `name` the default where the arrays do not tell, within the ``with`` block and this thread or task."""
    backend = get_backend(name)
    token = _chosen.set(name)
    try:
        yield backend
    finally:
        _chosen.reset(token)


def default_backend() -> Backend:
    """Return the backend of the enclosing `use_backend`, else of ``RNNX_BACKEND``, else NumPy's."""
    _current()
    return get_backend(_chosen.get() or _environment or FALLBACK)


def backend_of(arrays: Iterable[object], explicit: str | None = None) -> Backend:
    """Return the one backend that owns all the arrays.

    Parameters
    ----------
    arrays : iterable of object
        Arrays of one framework. If there are none, the default backend is returned.
    explicit : str, optional
        The backend that the caller named; it must be the arrays' own.

    Raises
    ------
    BackendMismatchError
        If an array is of no known framework, or two backends meet.
    """
    name = explicit
    for array in arrays:
        owner = _owner(type(array))
        if name is not None and owner != name:
            raise BackendMismatchError(
                f"an array of type {_class_name(type(array))} belongs to backend {owner!r}, where {name!r} is in use; "
                "rnnx never converts silently: move the weights with cell.to(), or convert the array yourself"
            )
        name = owner
    return get_backend(name) if name is not None else default_backend()


def _owner(kind: type) -> str:
    names = {_class_name(base) for base in kind.__mro__}
    infos = _current().infos
    for info in infos.values():
        if not names.isdisjoint(info.array_types):
            return info.name
    raise BackendMismatchError(
        f"no backend takes an object of type {_class_name(kind)}; there are {', '.join(sorted(infos))}"
    )


def _class_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _status(info: BackendInfo) -> BackendStatus:
    if importlib.util.find_spec(info.framework.partition(".")[0]) is None:
        return BackendStatus(info.name, False, f"{info.framework} is not installed: {info.install_hint}", info)
    return BackendStatus(info.name, True, "", info)


def _import_backend(info: BackendInfo) -> Backend:
    module, _, attribute = info.target.partition(":")
    try:
        kind: Any = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a framework can fail to import in any way it likes
        raise BackendNotFoundError(
            f"backend {info.name!r} does not import ({_cause(error)}): {info.install_hint}"
        ) from error
    backend = kind()
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

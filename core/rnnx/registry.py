"""Which backends and formats there are, and which backend a call uses.

Plugins are looked for the first time one is needed; see `rnnx.discovery`.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rnnx.backend import Backend, BackendInfo
from rnnx.errors import BackendMismatchError, BackendNotFoundError, class_name

if TYPE_CHECKING:
    from rnnx.discovery import BackendStatus, Plugins
    from rnnx.hookspecs import Conformance, FormatInfo

__all__ = [
    "backend_of",
    "conformance_of",
    "default_backend",
    "get_backend",
    "list_backends",
    "list_formats",
    "refresh",
    "register_backend",
    "register_format",
    "register_plugin",
    "use_backend",
]

#: Environment variable with the name of the default backend, read at first use.
ENVIRONMENT = "RNNX_BACKEND"

#: What runs where nothing else is said.
FALLBACK = "numpy"


_lock = threading.RLock()
_plugins: Plugins | None = None
_environment: str | None = None
_chosen: contextvars.ContextVar[str | None] = contextvars.ContextVar("rnnx_backend", default=None)


def _current() -> Plugins:
    """Return the plugins, looking for them the first time."""
    global _plugins, _environment
    with _lock:
        if _plugins is None:
            from rnnx.discovery import Plugins  # pluggy is not imported with rnnx, but when it is first needed

            _plugins = Plugins()
            _plugins.discover()
            _environment = os.environ.get(ENVIRONMENT) or None
        return _plugins


def refresh() -> None:
    """Forget every backend found, and the environment variable read: the next use looks again."""
    global _plugins
    with _lock:
        _plugins = None


def register_backend(info: BackendInfo) -> None:
    """Make a backend known without an entry point, until `refresh`.

    Raises
    ------
    RNNXError
        If the name is taken, or the contract's version is another.
    """
    with _lock:
        _current().add(info)


def register_format(info: FormatInfo) -> None:
    """Make a file format known without an entry point, until `refresh`.

    Raises
    ------
    RNNXError
        If the name is taken.
    """
    with _lock:
        _current().add_format(info)


def register_plugin(plugin: object, name: str) -> None:
    """Make all that a plugin brings known without an entry point, until `refresh`; a second time does nothing.

    Raises
    ------
    RNNXError
        If a name of it is taken, or one of its hooks is not as it should be.
    """
    with _lock:
        if not _current().manager.is_registered(plugin):
            _current().register_plugin(plugin, name)


def conformance_of(backend: Backend) -> Conformance:
    """Return what the plugins tell the conformance suite of a backend."""
    return _current().conformance(backend)


def list_backends() -> list[BackendStatus]:
    """Return every backend that was found, and every plugin that failed, with the reason it cannot be used."""
    return _current().status()


def list_formats() -> list[FormatInfo]:
    """Return every file format that was found."""
    return [info for _, info in sorted(_current().formats.items())]


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
        owner = _owner(array)
        if name is not None and owner != name:
            raise BackendMismatchError(
                f"an array of type {class_name(type(array))} belongs to backend {owner!r}, where {name!r} is in use; "
                "rnnx never converts silently: move the weights with cell.to(), or convert the array yourself"
            )
        name = owner
    return get_backend(name) if name is not None else default_backend()


def _owner(array: object) -> str:
    """Return whose an array is: by its class, or else by asking each backend whose framework is there already."""
    plugins, kind = _current(), type(array)
    named = plugins.owner_of(kind)
    if named is not None:
        return named
    for info in plugins.infos.values():
        if info.framework in sys.modules and _owned_by(info.name, array):
            return info.name
    raise BackendMismatchError(
        f"no backend takes an object of type {class_name(kind)}; there are {', '.join(sorted(plugins.infos))}"
    )


def _owned_by(name: str, array: object) -> bool:
    try:
        return get_backend(name).owns(array)
    except BackendNotFoundError:  # a broken one owns nothing, and says what is wrong where it is asked for by name
        return False

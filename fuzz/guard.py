"""What a reader does besides reading: files it opens, code it runs, memory it takes. Linux only, as fuzzing here is.

Python tells of most things through audit hooks (PEP 578). Libraries written in C open files without it, so a folder of
decoys, to which damaged files point, is watched by the kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import site
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

__all__ = ["Decoys", "Forbidden", "Guard", "limit_memory", "peak_memory", "reset_peak"]


class Forbidden(BaseException):
    """A reader did what none may do. No `Exception`, so that no library takes it for a damaged file."""


#: Events that no reader has a reason for, whatever their arguments; an ending dot stands for all that begin so.
_NEVER = (
    *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.kill"),
    *("os.killpg", "os.putenv", "os.unsetenv", "subprocess.Popen", "pty.spawn", "pickle.find_class", "ctypes.dlopen"),
    *("code.__new__", "function.__new__", "builtins.input", "urllib.Request", "webbrowser.open", "socket.", "ftplib."),
    *("smtplib.", "http.client.", "imaplib.", "poplib.", "sqlite3.", "winreg.", "syslog."),
)

#: Events about paths, and which arguments are paths.
_PATHS = {
    **dict.fromkeys(("os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.chown", "os.utime"), (0,)),
    **dict.fromkeys(
        ("os.rename", "os.link", "os.symlink", "shutil.move", "shutil.copyfile", "shutil.copytree"), (0, 1)
    ),
    **dict.fromkeys(("os.setxattr", "os.chdir", "shutil.rmtree", "tempfile.mkdtemp", "tempfile.mkstemp"), (0,)),
}

#: Packages that rnnx's formats ask for by name, late, whatever a file says.
_PACKAGES = frozenset(
    {"flax", "google", "h5py", "ml_dtypes", "msgpack", "numpy", "onnx", "rnnx", "tensorflow", "torch"}
)

_LISTING = ("os.listdir", "os.scandir")

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Guard:
    """Stops a reader that leaves a folder, imports what is no known package, or runs what a file says.

    Parameters
    ----------
    folder : path
        Where all that is read lies, and where temporary files may be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = os.path.realpath(folder)
        self._active = False
        self._known: set[str] = set()
        self._libraries = _library_folders()
        sys.addaudithook(self._heard)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Raise `Forbidden` in the reader, as long as the ``with`` block runs, where it does what it may not."""
        if not self._known:
            loaded = {name.partition(".")[0] for name in sys.modules}
            self._known = loaded | sys.stdlib_module_names | _PACKAGES
        self._active = True
        try:
            yield
        finally:
            self._active = False

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._active:
            return
        self._active = False  # what is looked up in judging is no reader's
        try:
            if self._refused(event, arguments):
                raise Forbidden(f"{event}{arguments!r}"[:500])
        finally:
            self._active = True

    def _refused(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open":
            path, mode, flags = arguments
            return not self._may_open(path, bool(set(mode or "") & set("wax+")) or bool((flags or 0) & _WRITING))
        if event == "import":
            return arguments[0].partition(".")[0] not in self._known
        if event == "exec":
            return not (self._is_library_code(arguments[0]) or _importing())
        if event in _PATHS:
            return not all(self._within(arguments[place]) for place in _PATHS[event])
        if event in _LISTING:
            return not (self._within(arguments[0]) or self._is_library(arguments[0]))
        return any(event == never or (never.endswith(".") and event.startswith(never)) for never in _NEVER)

    def _may_open(self, path: Any, writing: bool) -> bool:
        if self._within(path):
            return True
        return not writing and self._is_library(path)

    def _within(self, path: Any) -> bool:
        if path is None or isinstance(path, int):
            return True
        real = os.path.realpath(os.fsdecode(path))
        return real == self._folder or real.startswith(self._folder + os.sep)

    def _is_library(self, path: Any) -> bool:
        real = os.path.realpath(os.fsdecode(path or "."))
        return any(real == folder or real.startswith(folder + os.sep) for folder in self._libraries)

    def _is_library_code(self, code: Any) -> bool:
        return isinstance(code, CodeType) and (
            code.co_filename.startswith("<frozen") or self._is_library(code.co_filename)
        )


def _importing() -> bool:
    """Say whether a module is being imported: what it runs to define itself stands in no file."""
    frame = sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        if Path(frame.f_code.co_filename).name == "child.py":
            return False
    return False


def _library_folders() -> list[str]:
    """Return where Python's own modules and those of packages lie, which are read when they are first imported."""
    folders = {*sysconfig.get_paths().values(), *site.getsitepackages(), *sys.path}
    return sorted({os.path.realpath(folder) for folder in folders if folder and Path(folder).is_dir()})


class Decoys:
    """A folder in which every opening of a file is noticed, whoever opens it."""

    _OPENED = 0x20  # IN_OPEN of <sys/inotify.h>

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK)
        for path in (folder, *folder.iterdir()):
            libc.inotify_add_watch(self._descriptor, os.fsencode(path), self._OPENED)

    def opened(self) -> bool:
        """Say whether one was opened since the last time this was asked."""
        try:
            return bool(os.read(self._descriptor, 65536))
        except OSError:
            return False


# -- memory -----------------------------------------------------------------------------------------------------------


def limit_memory(more: int) -> None:
    """Let the process have so many bytes more than it has now, whether it uses them or not."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + more, hard))


def peak_memory() -> int:
    """Return the most bytes that it had in memory since `reset_peak`, or ever where the kernel does not forget."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Let the peak of memory be what is in memory now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _status(key: str) -> int:
    with Path("/proc/self/status").open() as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))

"""Running the suite from a program: pytest in this process, as if there were no configuration of the user's."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from rnnx.conformance.results import Results
from rnnx.conformance.subject import register_hooks, subjects_of
from rnnx.errors import RNNXError
from rnnx.optional import required

__all__ = ["Chosen", "run_suite"]

#: Called with how many checks are done, how many there are, and the one that was done last.
Advance = Callable[[int, int, str], None]

#: What would change the run, were it set.
SETTINGS = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS")

#: What makes the run the same anywhere.
ISOLATED = (
    "--noconftest",
    "--import-mode=importlib",
    f"-c{os.devnull}",
    f"--rootdir={Path(__file__).parent}",
    "-pno:cacheprovider",
    "-pno:terminal",
)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What is run, and where.

    Parameters
    ----------
    backend : str
        The backend's name.
    device : str, optional
        Its device.
    plugins : sequence of str
        Modules that make it known, where no entry point does.
    expression : str, optional
        Which checks, as ``pytest -k`` reads it.
    stop : bool
        Whether the first failure ends the run.
    processes : int
        In how many processes of their own the checks run; in this one if there are none.
    json_file, html_file : path, optional
        Where the result is written.
    """

    backend: str
    device: str | None = None
    plugins: Sequence[str] = ()
    expression: str | None = None
    stop: bool = False
    processes: int = 0
    json_file: Path | None = None
    html_file: Path | None = None

    def arguments(self) -> list[str]:
        """Return all of it as pytest's arguments."""
        given = ["-p", "rnnx.conformance.plugin", f"--rnnx-backend={self.backend}", "--pyargs", "rnnx.conformance"]
        given += [f"-p{module}" for module in self.plugins]
        given += [f"--rnnx-device={self.device}"] if self.device else []
        given += [f"-k{self.expression}"] if self.expression else []
        given += [f"--rnnx-json={self.json_file}"] if self.json_file else []
        given += [f"--rnnx-html={self.html_file}"] if self.html_file else []
        given += ["-x"] if self.stop else []
        given += ["-pxdist", f"-n{self.processes}"] if self.processes else []
        return [*given, *ISOLATED]


def run_suite(chosen: Chosen, advance: Advance) -> tuple[int, Results | None]:
    """Run the checks, and return pytest's exit code and the results, or None where pytest refused to begin.

    Raises
    ------
    RNNXError
        If the backend is not known, its framework or pytest-xdist is not installed, or a module of `chosen.plugins`
        does not import.
    """
    _import_plugins(chosen.plugins)
    if chosen.processes:  # it notes at its import which path its processes import from, so it comes after the plugins
        required("xdist", "conformance", "several processes")
    subjects_of(chosen.backend, chosen.device)  # said now, it is an error of rnnx, and not one of pytest
    observer = _Observer(advance)
    with _without_settings():
        code = pytest.main(chosen.arguments(), plugins=[observer])
    return int(code), observer.results


def _import_plugins(modules: Sequence[str]) -> None:
    """Import the modules, from where the user is, too, as ``python -m`` would, and register those with hooks."""
    if modules and os.getcwd() not in sys.path:  # noqa: PTH109 - an entry of sys.path is text
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    for name in modules:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # it is a user's module, which can fail in any way it likes
            raise RNNXError(f"--plugin {name} does not import: {type(error).__name__}: {error}") from error
        register_hooks(module, name)


@contextlib.contextmanager
def _without_settings() -> Iterator[None]:
    """Keep the environment's settings of pytest, and whatever plugins are installed, out of the run."""
    before = dict(os.environ)
    for name in SETTINGS:
        os.environ.pop(name, None)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class _Observer:
    """Hooks of pytest that tell how far the run is, and take its results when it is over."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._done = self._total = 0
        self.results: Results | None = None

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Take the number of checks."""
        self._total = max(self._total, len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Take the number of checks from a process of pytest-xdist."""
        self._total = len(ids)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a check that is over."""
        if report.when == "teardown":
            self._done += 1
            self._advance(self._done, self._total, report.nodeid.rpartition("/")[2])

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """Take the results."""
        from rnnx.conformance.recording import RESULTS  # pytest has imported it as a plugin by now

        self.results = config.stash.get(RESULTS, None)

"""Which checks there are, which of them a backend has to pass, and which it says that it fails."""

from __future__ import annotations

import ast
import dataclasses
import fnmatch
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from rnnx.backend import CAPABILITIES
from rnnx.conformance.subject import Subject
from rnnx.errors import nearest

__all__ = ["AREAS", "CHECK_MODULES", "Collected", "Collecting", "area_of", "check_id", "is_check", "is_own", "own_id"]

HERE = Path(__file__).parent

#: The suite's areas, one a module.
AREAS = tuple(sorted(path.stem.removeprefix("test_") for path in HERE.glob("test_*.py")))

#: The modules they are in.
CHECK_MODULES = tuple(f"rnnx.conformance.test_{area}" for area in AREAS)

#: A warning of NumPy or of a framework is a failure, but not what it says of its own future.
WARNINGS = (
    "error",
    "default::DeprecationWarning",
    "default::PendingDeprecationWarning",
    "default::FutureWarning",
)


def check_id(item: pytest.Item) -> str:
    """Return a check's id: without directories for the suite's own, ``test_outputs.py::test_lstm[float32]``."""
    _, separator, name = item.nodeid.partition("::")
    folder = "" if is_own(item.path) else f"{item.path.parent.name}/"
    return folder + item.path.name + separator + name


def own_id(node_id: str) -> str:
    """Return the id of one of the suite's own checks, of which nothing but pytest's id is known."""
    module, separator, name = node_id.partition("::")
    return module.rpartition("/")[2] + separator + name


def area_of(check: str) -> str:
    """Return the area of a check by its id: the module's name without ``test_``, or a module's path elsewhere."""
    module = check.partition("::")[0].removesuffix(".py")
    return module if "/" in module else module.removeprefix("test_")


def is_own(path: Path) -> bool:
    """Say whether this is a module of the suite's checks."""
    return path.parent == HERE and path.suffix == ".py" and path.stem.removeprefix("test_") in AREAS


def is_check(item: pytest.Item) -> bool:
    """Say whether a test counts: one of the suite's, or one that asks for the backend under test."""
    return is_own(item.path) or "subject" in getattr(item, "fixturenames", ())


class CheckModule(pytest.Module):
    """A module of checks, in which pytest finds tests by its own usual names whatever a user's ini says."""

    def funcnamefilter(self, name: str) -> bool:
        """Say whether a function is a test."""
        return name.startswith("test_")

    def classnamefilter(self, name: str) -> bool:
        """Say whether a class holds tests."""
        return name.startswith("Test")


@dataclasses.dataclass
class Collected:
    """What was found, as plain data: a worker of pytest-xdist sends it to the process that reports.

    Parameters
    ----------
    areas : dict of str to str
        Each area, and the first line of its module's docstring.
    checks : int
        How many there are, those left out included.
    left_out : int
        How many were deselected.
    problems : list of str
        What keeps the suite from being run at all.
    """

    areas: dict[str, str] = dataclasses.field(default_factory=dict)
    checks: int = 0
    left_out: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)


class Collecting:
    """Hooks of pytest that find the checks and mark those that are skipped or expected to fail."""

    def __init__(self, subjects: Sequence[Subject]) -> None:
        self.subjects = subjects
        self.subject = subjects[0]
        self.collected = Collected()

    @pytest.hookimpl(wrapper=True)
    def pytest_collect_file(
        self, file_path: Path, parent: pytest.Collector
    ) -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
        """Collect the suite's modules whatever a user's ini says of names, and once only."""
        collectors = yield
        return [CheckModule.from_parent(parent, path=file_path)] if is_own(file_path) else collectors

    @pytest.hookimpl(trylast=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run everything on each device, where there are several."""
        if "subject" in metafunc.fixturenames and len(self.subjects) > 1:
            devices = [subject.device for subject in self.subjects]
            metafunc.parametrize("subject", self.subjects, indirect=True, ids=devices, scope="session")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None, None, None]:
        """Mark the checks, before any is deselected; leave none to run where something is wrong.

        A wrong ``-k`` is raised by pytest, and a process of pytest-xdist does not survive that: it becomes a problem.
        """
        checks = [item for item in items if is_check(item)]
        self.collected.checks = len(checks)
        for check in checks:
            if (area := area_of(check_id(check))) not in self.collected.areas:
                self.collected.areas[area] = _first_line(check.path)
            check.add_marker(pytest.mark.filterwarnings(*WARNINGS), append=False)
            self._skip_undeclared(check)
        self._expect_failures(checks)
        try:
            yield
        except pytest.UsageError as error:
            self.collected.problems.append(str(error))
        if self.collected.problems:
            items.clear()

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Count what ``-k`` and the like leave out."""
        self.collected.left_out += sum(map(is_check, items))

    def _skip_undeclared(self, check: pytest.Item) -> None:
        needs = list(dict.fromkeys(_needs(check)))
        for need in needs:
            if need not in CAPABILITIES:
                self._refuse(f"{check_id(check)} needs {need!r}, which is no capability", need, CAPABILITIES)
        missing = [repr(need) for need in needs if need not in self.subject.capabilities]
        if missing:
            reason = f"{self.subject.name} does not declare {', '.join(missing)}"
            check.add_marker(pytest.mark.skip(reason=reason), append=False)

    def _expect_failures(self, checks: Sequence[pytest.Item]) -> None:
        ids = {check_id(check): check for check in checks}
        whole = set(AREAS) <= set(self.collected.areas)
        for pattern, reason in self.subject.conformance.expected_failures.items():
            matching = fnmatch.filter(ids, pattern)
            for each in matching:
                ids[each].add_marker(pytest.mark.xfail(reason=reason, strict=True))
            if whole and not matching:
                self._refuse(f"{self.subject.name} expects {pattern!r} to fail, which is no check", pattern, ids)

    def _refuse(self, problem: str, name: str, known: Iterable[str]) -> None:
        told = problem + nearest(name, known)
        if told not in self.collected.problems:
            self.collected.problems.append(told)


def _needs(check: pytest.Item) -> Iterator[str]:
    """Yield the capabilities that a check's marks name, and the dtype that it is run in."""
    for mark in check.iter_markers("needs"):
        yield from mark.args
    dtype = getattr(check, "callspec", None) and check.callspec.params.get("dtype")  # type: ignore[attr-defined]
    if isinstance(dtype, str) and dtype in CAPABILITIES:
        yield dtype


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]

"""What came out, as data: every check's outcome, what it was judged by, and the verdict."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rnnx.atomic import replace_file
from rnnx.backend import CAPABILITIES
from rnnx.conformance.subject import TOLERANCES
from rnnx.errors import RNNXError

__all__ = [
    "EXPECTED",
    "FAILED",
    "FORMAT",
    "FORMAT_VERSION",
    "OUTCOMES",
    "PASSED",
    "SKIPPED",
    "Check",
    "Results",
    "counted",
    "read_results",
    "refuse_no_place",
    "write_text",
]

FORMAT, FORMAT_VERSION = "rnnx-conformance", 1

#: What can become of a check; an expected failure is one that the backend tells in advance.
OUTCOMES = PASSED, FAILED, EXPECTED, SKIPPED = "passed", "failed", "expected", "skipped"


@dataclasses.dataclass(frozen=True)
class Check:
    """One check and what became of it.

    Parameters
    ----------
    id : str
        Such as ``test_outputs.py::test_a_sequence[lstm-float32-kernel]``.
    area : str
        The module's name without ``test_``.
    outcome : {"passed", "failed", "expected", "skipped"}
        What became of it.
    reason : str
        Why it was skipped, or is expected to fail.
    report : str
        What was found and expected, where it failed.
    seconds : float
        How long it took.
    kernels : tuple of str
        The kernels that ran, where it says so.
    """

    id: str
    area: str
    outcome: str
    reason: str = ""
    report: str = ""
    seconds: float = 0.0
    kernels: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Results:
    """A whole run.

    Parameters
    ----------
    backend : str
        The backend's name.
    devices : tuple of str
        Where it ran.
    versions : mapping of str to str
        Of rnnx, Python, NumPy and the framework.
    capabilities : tuple of str
        What the backend declares.
    tolerances : mapping of str to float
        Those of its own.
    expected_failures : mapping of str to str
        Patterns, and the reason of each.
    areas : mapping of str to str
        Each area, and what it checks.
    checks : tuple of Check
        Sorted by their ids.
    left_out : int
        How many checks were deselected.
    complete : bool
        Whether every check of the suite was run, or skipped with a reason.
    problems : tuple of str
        What kept the suite from being run.
    seconds : float
        How long it took.
    """

    backend: str
    devices: tuple[str, ...]
    versions: Mapping[str, str]
    capabilities: tuple[str, ...]
    tolerances: Mapping[str, float]
    expected_failures: Mapping[str, str]
    areas: Mapping[str, str]
    checks: tuple[Check, ...]
    left_out: int = 0
    complete: bool = True
    problems: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def counts(self) -> dict[str, int]:
        """How many checks came out each way."""
        return counted(self.checks)

    @property
    def declared(self) -> int:
        """How many checks there are of what the backend declares: those not skipped."""
        return len(self.checks) - self.counts[SKIPPED]

    @property
    def conforms(self) -> bool | None:
        """Whether the backend conforms; None where a part of the suite alone was run, or nothing of it."""
        if self.counts[FAILED]:
            return False
        return True if self.complete and self.counts[PASSED] and not self.problems else None

    @property
    def verdict(self) -> str:
        """One line."""
        counts, of = self.counts, "that it declares" if self.complete else "that were chosen"
        if self.problems:
            more = f"; and {len(self.problems) - 1} more" if len(self.problems) > 1 else ""
            return f"{self.backend} was not judged: {self.problems[0].splitlines()[0]}{more}"
        if counts[FAILED]:
            return f"{self.backend} does not conform: {counts[FAILED]} of {self.declared} checks {of} failed"
        if not counts[PASSED]:
            return f"{self.backend} was not judged: no check passed or failed"
        passed = f"{counts[PASSED]} of {self.declared} checks {of}"
        if not self.complete:
            return f"{self.backend} was judged in part: {passed} passed"
        if counts[EXPECTED]:
            return f"{self.backend} conforms but for {_failures(counts[EXPECTED])}: {passed}"
        return f"{self.backend} conforms: {passed}"

    @property
    def kernels(self) -> list[str]:
        """Every kernel that ran where a check says so."""
        return sorted({kernel for check in self.checks for kernel in check.kernels})

    @property
    def skips(self) -> dict[str, int]:
        """Each reason for which checks were skipped, and how many, the most frequent first."""
        return dict(Counter(check.reason for check in self.checks if check.outcome == SKIPPED).most_common())

    @property
    def failures(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.outcome == FAILED]

    def of_area(self, area: str) -> list[Check]:
        """Return the checks of an area."""
        return [check for check in self.checks if check.area == area]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON has it; `docs/conformance.md` has the schema."""
        told = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "conforms": self.conforms,
            "verdict": self.verdict,
            "counts": self.counts,
            "skips": [{"reason": reason, "checks": count} for reason, count in self.skips.items()],
            "kernels": self.kernels,
            **told,
            "capabilities": {name: name in self.capabilities for name in CAPABILITIES},
            "tolerances": {
                name: {"value": self.tolerances.get(name, usual), "usual": usual} for name, usual in TOLERANCES.items()
            },
            "areas": [self._area(name, what) for name, what in self.areas.items()],
            "checks": [dataclasses.asdict(check) for check in self.checks],
        }

    def _area(self, name: str, what: str) -> dict[str, Any]:
        checks = self.of_area(name)
        return {"name": name, "what": what, **counted(checks), "seconds": sum(check.seconds for check in checks)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Results:
        """Return what `to_dict` described."""
        fields = {field.name: document[field.name] for field in dataclasses.fields(cls)}
        fields |= {
            "devices": tuple(document["devices"]),
            "capabilities": tuple(name for name, declared in document["capabilities"].items() if declared),
            "tolerances": {
                name: each["value"] for name, each in document["tolerances"].items() if each["value"] != each["usual"]
            },
            "areas": {each["name"]: each["what"] for each in document["areas"]},
            "checks": tuple(Check(**{**each, "kernels": tuple(each["kernels"])}) for each in document["checks"]),
            "problems": tuple(document["problems"]),
        }
        return cls(**fields)


def counted(checks: Iterable[Check]) -> dict[str, int]:
    """Return how many checks came out each way."""
    counts = Counter(check.outcome for check in checks)
    return {outcome: counts[outcome] for outcome in OUTCOMES}


def read_results(path: Path) -> Results:
    """Return what ``--json`` wrote.

    Raises
    ------
    RNNXError
        If the file is none of the suite's, or of another version.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = document["format"], document["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise RNNXError(f"{path} is no result of the conformance suite") from error
    if found != (FORMAT, FORMAT_VERSION):
        raise RNNXError(f"{path} is {found[0]} {found[1]}, expected {FORMAT} {FORMAT_VERSION}")
    return Results.from_dict(document)


def refuse_no_place(path: Path) -> None:
    """Raise OSError if a file cannot be written there: better now than when everything has run."""
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replace_file(path) as file:
        file.write(text.encode("utf-8"))


def _failures(count: int) -> str:
    return "1 expected failure" if count == 1 else f"{count} expected failures"

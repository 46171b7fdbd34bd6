"""Keeping what the checks say, also that of the workers of pytest-xdist, and making `Results` of it."""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnx
from rnnx.conformance.collecting import AREAS, Collected, Collecting, area_of, check_id, is_check, own_id
from rnnx.conformance.page import page_of
from rnnx.conformance.results import EXPECTED, FAILED, PASSED, SKIPPED, Check, Results, write_text
from rnnx.conformance.subject import Subject
from rnnx.conformance.summary import as_text

__all__ = ["KERNEL", "RESULTS", "Recording"]

#: Where the suite is.
HERE = Path(__file__).parent

#: Where a run's `Results` are kept in pytest's configuration when it is over.
RESULTS = pytest.StashKey[Results]()

#: The name under which a check records a kernel that ran: ``record_property("kernel", name)``.
KERNEL = "kernel"

#: How pytest says that an expected failure has passed.
PASSES = "[XPASS(strict)] "

#: How a session ends that pytest itself refused.
NOTHING_RAN = (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.INTERNAL_ERROR)

#: What a worker of pytest-xdist calls what it has collected.
COLLECTED = "rnnx_collected"


class Recording:
    """Hooks of pytest that keep each check's outcome, and tell them when all have run."""

    def __init__(self, config: pytest.Config, collecting: Collecting) -> None:
        self.config, self.collecting = config, collecting
        self.reports: dict[str, list[pytest.TestReport]] = {}
        self.skipped_modules: dict[str, Check] = {}
        self.problems: list[str] = []
        self.started = time.perf_counter()

    @property
    def is_worker(self) -> bool:
        """Whether this process runs checks for another, which tells what came out."""
        return hasattr(self.config, "workerinput")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Say of a report that it is a check's, and make what failed readable."""
        report = yield
        if is_check(item):
            report.rnnx_check = check_id(item)  # type: ignore[attr-defined]
            if call.excinfo is not None and (report.failed or hasattr(report, "wasxfail")):
                report.longrepr = _readable(item, call.excinfo)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a check's report; that a worker crashed is told by pytest-xdist, which knows nothing of checks."""
        crashed = report.when not in ("setup", "call", "teardown")
        name = getattr(report, "rnnx_check", own_id(report.nodeid) if crashed else None)
        if name is not None:
            self.reports.setdefault(name, []).append(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep that a module of checks does not import, or skips itself."""
        if report.failed:
            self.problems.append(f"{report.nodeid} cannot be collected: {str(report.longrepr).strip()}")
        elif report.skipped and (area := area_of(name := own_id(report.nodeid))) in AREAS:
            self.skipped_modules[name] = Check(name, area, SKIPPED, _skip_reason(report))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Take over what a worker of pytest-xdist has collected, which is the same for all, or why it has nothing."""
        if error and not self.reports:
            self.problems.append(f"a process did not begin: {str(error).strip().splitlines()[-1]}")
        told = getattr(node, "workeroutput", {}).get(COLLECTED)
        if told:
            self.collecting.collected = Collected(**told)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Put the results together and write them down; fail where the suite could not be run."""
        if self.is_worker:
            self.config.workeroutput[COLLECTED] = dataclasses.asdict(self.collecting.collected)  # type: ignore[attr-defined]
            return
        if self.config.option.collectonly or session.exitstatus in NOTHING_RAN:
            return
        results = self.config.stash[RESULTS] = self._results()
        if results.problems:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
        elif results.conforms is None and not results.counts[PASSED]:
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
        if path := self.config.getoption("rnnx_json"):
            write_text(Path(path), json.dumps(results.to_dict(), indent=2) + "\n")
        if path := self.config.getoption("rnnx_html"):
            write_text(Path(path), page_of(results))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the matrix."""
        if (results := self.config.stash.get(RESULTS, None)) is not None:
            writer = terminalreporter._tw
            terminalreporter.section(f"conformance of {results.backend}")
            terminalreporter.write(as_text(results, writer.fullwidth, writer.hasmarkup))

    def _results(self) -> Results:
        subject, collected = self.collecting.subject, self.collecting.collected
        checks = {name: _check(name, reports) for name, reports in self.reports.items()}
        checks |= self.skipped_modules
        areas = dict(collected.areas)
        for check in checks.values():
            areas.setdefault(check.area, "")
        problems = tuple(dict.fromkeys(collected.problems + self.problems))
        ran = len(checks) - len(self.skipped_modules) == collected.checks
        return Results(
            backend=subject.name,
            devices=tuple(each.device for each in self.collecting.subjects),
            versions=_versions(subject),
            capabilities=subject.info.capabilities,
            tolerances=dict(subject.conformance.tolerances),
            expected_failures=dict(subject.conformance.expected_failures),
            areas=dict(sorted(areas.items())),
            checks=tuple(checks[name] for name in sorted(checks)),
            left_out=collected.left_out,
            complete=ran and not collected.left_out and not problems and set(AREAS) <= set(areas),
            problems=problems,
            seconds=time.perf_counter() - self.started,
        )


def _check(name: str, reports: Sequence[pytest.TestReport]) -> Check:
    """Return what became of a check, from the reports of its setup, call and teardown."""
    deciding = next((each for each in reports if each.failed), None)
    deciding = deciding or next((each for each in reports if each.skipped), reports[-1])
    outcome, reason, report = _outcome(deciding)
    return Check(
        id=name,
        area=area_of(name),
        outcome=outcome,
        reason=reason,
        report=report,
        seconds=sum(each.duration for each in reports),
        kernels=tuple(dict.fromkeys(str(value) for key, value in reports[-1].user_properties if key == KERNEL)),
    )


def _outcome(report: pytest.TestReport) -> tuple[str, str, str]:
    """Return an outcome, its reason, and the report of a failure."""
    if report.failed:
        text = str(report.longrepr)
        if text.startswith(PASSES):
            return FAILED, "", f"it passes, and is expected to fail: {text.removeprefix(PASSES)}"
        return FAILED, "", text
    if hasattr(report, "wasxfail"):
        return EXPECTED, report.wasxfail.removeprefix("reason: "), str(report.longrepr)
    return (SKIPPED, _skip_reason(report), "") if report.skipped else (PASSED, "", "")


def _skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")


def _readable(item: pytest.Item, raised: pytest.ExceptionInfo[BaseException]) -> str:
    """Return what an assertion of a check says; of any other error the way to it, from the check on."""
    place = Path(str(raised.traceback[-1].path))
    if isinstance(raised.value, AssertionError) and place.parent in (item.path.parent, HERE):
        return str(raised.value) or raised.exconly()
    return str(raised.getrepr(style="short", tbfilter=lambda info: info.traceback.cut(path=item.path).filter(info)))


def _versions(subject: Subject) -> Mapping[str, str]:
    """Return the versions of what the result depends on."""
    framework = subject.info.framework.partition(".")[0]
    version = getattr(sys.modules.get(framework), "__version__", None)
    known = {"rnnx": rnnx.__version__, "python": platform.python_version(), "numpy": np.__version__}
    return {**known, framework: str(version)} if version else known

"""How many of the planted faults were caught, at the end of the run."""

from __future__ import annotations


def pytest_terminal_summary(terminalreporter):
    def count(outcome):
        reports = terminalreporter.stats.get(outcome, [])
        return sum("test_a_fault_is_caught" in report.nodeid for report in reports if report.when == "call")

    passed, failed = count("passed"), count("failed")
    if passed + failed:
        terminalreporter.write_line(f"teeth: {passed} of {passed + failed} planted faults are caught")

"""The conformance suite catches every planted fault, and none in the backend that nothing is wrong with."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from teeth.bite import TESTS, caught
from teeth.planted import FAULTS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="faults are tried in forks of one process")


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest) -> dict[str, dict[str, str | None]]:
    """For each fault that is to be tried, the check that failed."""
    chosen = [item.callspec.params["name"] for item in request.session.items if hasattr(item, "callspec")]
    return caught([name for name in FAULTS if name in chosen])


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_caught(found, name):
    result = found[name]
    assert result["check"] not in (None, "refused"), f"{FAULTS[name].what}: {result['told']}"


def test_nothing_is_found_wrong_where_nothing_is():
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "RNNX_FAULTS": "right"}
    options = ["-q", "-c", os.devnull, "-p", "no:cacheprovider", "-p", "rnnx.conformance.plugin", "-p", "teeth.plugin"]
    command = [sys.executable, "-m", "pytest", *options, "--rnnx-backend=right", "--pyargs", "rnnx.conformance"]
    done = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]


def test_there_are_many():
    assert len(FAULTS) >= 300

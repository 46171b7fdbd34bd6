"""Run the suite against planted faults, each in a process of its own until the first check fails.

``python -m teeth.bite NAME ...`` prints one line of JSON a fault. What all have in common is imported once, and each
process is a fork of that.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]

#: How many faults one process is started for.
CHUNK = 12


def caught(names):
    """For each fault, the check that failed, or None, and what was said; on all cores."""
    chunks = [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return {line["fault"]: line for lines in pool.map(_bitten, chunks) for line in lines}


def _bitten(names):
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "teeth.bite", *names], cwd=TESTS, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"the runner failed for {names}:\n{done.stdout}\n{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def main(names):
    for name in names:
        print(json.dumps({"fault": name, **_in_fork(name)}), flush=True)


def _in_fork(name):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with contextlib.suppress(BaseException), os.fdopen(writing, "w") as result:  # a parent sees that nothing came
            json.dump(_run(name), result)
            result.flush()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as result:
        told = result.read()
    os.waitpid(child, 0)
    return json.loads(told) if told else {"check": None, "told": "the suite ended without a word"}


def _run(name):
    """Run the area that a fault belongs to, and if all of it passes the whole suite."""
    from rnnx import conformance
    from teeth.planted import FAULTS

    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    folder = Path(conformance.__file__).parent
    expected = folder / f"test_{FAULTS[name].area}.py"
    found = _suite(name, [str(expected)]) if expected.exists() else None
    return found or _suite(name, [str(folder)]) or {"check": None, "told": "every check passed"}


def _suite(name, arguments):
    import pytest

    class First:
        found = None

        def pytest_runtest_logreport(self, report):
            if report.failed and self.found is None:
                check = f"{Path(report.location[0]).name}::{report.location[2]}"
                self.found = {"check": check, "told": str(report.longrepr)[-2000:]}

        def pytest_collectreport(self, report):
            if report.failed and self.found is None:
                self.found = {"check": None, "told": f"not collected: {report.longrepr}"}

    os.environ["RNNX_FAULTS"] = name
    first, plugins = First(), ["-p", "no:cacheprovider", "-p", "rnnx.conformance.plugin", "-p", "teeth.plugin"]
    options = ["-x", "-q", "-c", os.devnull, "--rootdir", str(TESTS), f"--rnnx-backend={name}"]
    code = pytest.main([*options, *plugins, *arguments], plugins=[first])
    if first.found is None and code not in (0, 1):
        return {"check": "refused", "told": f"pytest ended with {code}"}
    return first.found


if __name__ == "__main__":
    import pytest  # noqa: F401 - here, not in every fork

    import teeth.planted  # noqa: F401

    main(sys.argv[1:])

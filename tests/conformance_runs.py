"""Runs of the conformance suite, in processes of their own, on backends written for the occasion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent

BACKEND = """
import dataclasses
import tier1
from rnnx.hookspecs import Conformance, hookimpl


class Mine(tier1.Tier1Backend):
    name = "mine"

    def from_numpy(self, array, device=None):
        assert device in (None, *self.devices()), device
        return super().from_numpy(array)

    {body}


INFO = dataclasses.replace(tier1.INFO, name="mine", target="mine:Mine", capabilities={capabilities!r})


@hookimpl
def rnnx_backends():
    return [INFO]


@hookimpl
def rnnx_conformance(backend):
    return Conformance({tolerances!r}, {expected!r}, {devices!r}) if backend.name == "mine" else None
"""


def write_backend(folder, capabilities=("float32",), tolerances=None, expected=None, devices=(), body="pass"):
    """Write a module `mine` with hooks and a backend of Tier 1, over arrays that are not NumPy's."""
    text = BACKEND.format(
        body=body.replace("\n", "\n    "),
        capabilities=tuple(capabilities),
        tolerances=tolerances or {},
        expected=expected or {},
        devices=tuple(devices),
    )
    (folder / "mine.py").write_text(text)


def run_python(folder, *arguments, **settings):
    """Run Python in a folder, with nothing of this session's pytest."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COLUMNS"))}
    environment |= {"PYTHONPATH": str(TESTS), "PYTHONDONTWRITEBYTECODE": "1", **settings}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def run_pytest(folder, *arguments, backend="mine", plugins=("mine",)):
    """Run pytest with the plugin, as a user would, and return the process and the result, or None."""
    chosen = [f"--rnnx-backend={backend}"] if backend else []
    process = run_python(
        folder,
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "rnnx.conformance.plugin"),
        *(f"-p{plugin}" for plugin in plugins),
        *chosen,
        "--rnnx-json=result.json",
        *arguments,
    )
    return process, read(folder / "result.json")


def run_command(folder, *arguments, **settings):
    """Run ``rnnx conformance`` and return the process and the result, or None."""
    process = run_python(folder, "-m", "rnnx", "conformance", "--json=result.json", *arguments, **settings)
    return process, read(folder / "result.json")


def read(path):
    """Return a result, which the next run will write anew."""
    if not path.exists():
        return None
    document = json.loads(path.read_text())
    path.unlink()
    return document


def outcomes(document):
    """Return what became of each check, by the name of its function and its parameters."""
    return {check["id"].partition("::")[2]: check["outcome"] for check in document["checks"]}

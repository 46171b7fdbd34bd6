"""The pytest plugin of the suite: its options, and the backend under test as the fixture `subject`.

.. code-block:: console

    pytest -p rnnx.conformance.plugin --pyargs rnnx.conformance --rnnx-backend=NAME

A check is a test of this package, or any other that asks for `subject`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from rnnx.conformance.collecting import CHECK_MODULES, Collecting
from rnnx.conformance.recording import Recording
from rnnx.conformance.results import refuse_no_place
from rnnx.conformance.subject import Subject, register_hooks, subjects_of
from rnnx.errors import RNNXError

__all__ = ["subject"]

pytest.register_assert_rewrite("rnnx.conformance.judging", *CHECK_MODULES)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the suite."""
    group = parser.getgroup("rnnx", "conformance of a backend of rnnx")
    group.addoption("--rnnx-backend", metavar="NAME", help="the backend to judge")
    group.addoption("--rnnx-device", metavar="DEVICE", help="the device to judge it on")
    group.addoption("--rnnx-json", metavar="FILE", help="write the result as JSON")
    group.addoption("--rnnx-html", metavar="FILE", help="write the result as a page")


def pytest_configure(config: pytest.Config) -> None:
    """Get the backend ready, and refuse what is wrong with it before anything runs."""
    config.addinivalue_line("markers", "needs(*capabilities): what a backend has to declare for a check to run")
    backend = config.getoption("rnnx_backend")
    if backend is None:
        return
    try:
        for option in ("rnnx_json", "rnnx_html"):
            if place := config.getoption(option):
                refuse_no_place(Path(place))
        for name, plugin in config.pluginmanager.list_name_plugin():  # a backend that ``-p`` names
            register_hooks(plugin, name)
        subjects = subjects_of(backend, config.getoption("rnnx_device"))
    except (RNNXError, OSError) as error:
        raise pytest.UsageError(str(error)) from error
    collecting = Collecting(subjects)
    config.pluginmanager.register(collecting, "rnnx-collecting")
    config.pluginmanager.register(Recording(config, collecting), "rnnx-recording")


@pytest.fixture(scope="session")
def subject(request: pytest.FixtureRequest) -> Subject:
    """Return the backend under test, on the device under test."""
    collecting = request.config.pluginmanager.get_plugin("rnnx-collecting")
    if collecting is None:
        raise pytest.UsageError("which backend? say --rnnx-backend=NAME")
    subjects: Sequence[Subject] = collecting.subjects
    chosen: Subject = getattr(request, "param", subjects[0])
    return chosen

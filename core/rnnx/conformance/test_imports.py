"""The backend is known without its framework, and by one name everywhere."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

import rnnx
from rnnx.backend import API_VERSION, CAPABILITIES, Backend, BackendInfo, Call, Kernel, Recurrence
from rnnx.conformance.networks import numpy_dtype
from rnnx.conformance.subject import DTYPES, Subject

#: Lists backends in a fresh interpreter, and says what was imported for it.
SCRIPT = """
import json, sys
import rnnx
at_first = sorted(sys.modules)
names = [status.name for status in rnnx.list_backends()]
print(json.dumps({"names": names, "at_first": at_first, "after": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def listing(subject: Subject) -> dict[str, list[str]]:
    """Return what a fresh interpreter found, if it knows the backend at all."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    if subject.name not in found["names"]:
        pytest.skip(f"{subject.name} has no entry point: it was registered by hand")
    return found


def test_it_is_found(subject: Subject, listing: dict[str, list[str]]) -> None:
    """By its entry point, once."""
    assert listing["names"].count(subject.name) == 1


def test_listing_imports_no_framework(subject: Subject, listing: dict[str, list[str]]) -> None:
    """Neither its framework nor the module that needs it."""
    framework, target = subject.info.framework.partition(".")[0], subject.info.target.partition(":")[0]
    if framework != "numpy":
        assert framework not in listing["after"], f"listing the backends imports {framework}"
    assert target not in listing["after"], f"listing the backends imports {target}"


def test_importing_rnnx_imports_no_plugin(subject: Subject, listing: dict[str, list[str]]) -> None:
    """They are looked for when the first is needed."""
    target = subject.info.target.partition(":")[0]
    assert target not in listing["at_first"]


def test_what_it_says_is_text(subject: Subject) -> None:
    """All of it but the version."""
    info = subject.info
    assert isinstance(info, BackendInfo)
    for field in dataclasses.fields(BackendInfo):
        value = getattr(info, field.name)
        if field.name in ("array_types", "capabilities"):
            assert isinstance(value, tuple), f"{field.name} is a {type(value).__name__}, expected a tuple"
            assert all(isinstance(each, str) and each for each in value), f"{field.name} is {value}"
        elif field.name != "api_version":
            assert isinstance(value, str), f"{field.name} is a {type(value).__name__}, expected text"
            assert value, f"{field.name} is empty"
    assert info.api_version == API_VERSION
    assert info.array_types
    assert all("." in name for name in info.array_types)


def test_its_target(subject: Subject) -> None:
    """Is ``module:Class``, a `Backend`, and its framework is imported by now."""
    module, _, name = subject.info.target.partition(":")
    assert isinstance(getattr(sys.modules[module], name), type)
    assert issubclass(getattr(sys.modules[module], name), Backend)
    assert isinstance(subject.backend, getattr(sys.modules[module], name))
    assert subject.info.framework in sys.modules, f"{subject.info.framework} was not imported with the backend"


def test_capabilities(subject: Subject) -> None:
    """Are known, and declared once."""
    assert set(subject.info.capabilities) <= set(CAPABILITIES)
    assert len(set(subject.info.capabilities)) == len(subject.info.capabilities)


def test_one_name(subject: Subject) -> None:
    """The backend's, what it is registered by, and the start of its kernels' names."""
    assert subject.backend.name == subject.name == subject.info.name
    for mode in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        found = subject.backend.plan(Recurrence(mode, 3, 7), Call("float32", subject.device))
        if isinstance(found, Kernel):
            assert found.name.startswith(f"{subject.name}.")


def test_it_is_made_once(subject: Subject) -> None:
    """Asking for it again gives the same one, and `use_backend` too."""
    assert rnnx.get_backend(subject.name) is subject.backend
    with rnnx.use_backend(subject.name) as used:
        assert used is subject.backend


@pytest.mark.parametrize("dtype", DTYPES)
def test_array_types_are_those_of_arrays(subject: Subject, dtype: str) -> None:
    """The class of every array, or one that it is derived from, is named."""
    array = subject.array(np.ones((2, 3)).astype(numpy_dtype(dtype)))
    for found in (array, array + array, subject.backend.tanh(array), array[0]):
        named = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(found).__mro__]
        assert set(named) & set(subject.info.array_types), f"none of {named} is in array_types"


def test_its_default_weights_are_its_own(subject: Subject) -> None:
    """Within `use_backend` a cell's weights and states are made there."""
    cell = rnnx.LSTMCell(4)
    with rnnx.use_backend(subject.name):
        cell.initialize(3, seed=0)
        states = cell.begin_state(batch_size=2)
    assert all(subject.backend.owns(state) for state in states)
    assert cell.get_params()["lstm_i2h_weight"].shape == (16, 3)


def test_an_unknown_backend_is_not_this_one(subject: Subject) -> None:
    """A name that is nearly its own is refused."""
    with pytest.raises(rnnx.BackendNotFoundError):
        rnnx.get_backend(f"{subject.name}x")

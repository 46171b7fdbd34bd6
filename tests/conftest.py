"""Fixtures that several test modules share."""

from __future__ import annotations

import pytest

import rnnx
import tier1


@pytest.fixture
def fresh_registry():
    """Leave the registry as it was found: whatever the test registers is forgotten."""
    rnnx.refresh()
    yield
    rnnx.refresh()


@pytest.fixture
def other_backend(fresh_registry):
    """A second backend, without kernels, whose arrays are not NumPy's."""
    rnnx.register_backend(tier1.INFO)
    return rnnx.get_backend("tier1")

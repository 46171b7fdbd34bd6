"""MXNet is retired: what it warns of when it runs under today's NumPy is none of rnnx's business."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import rnnx

HERE = Path(__file__).parent

#: NumPy's deprecated names, and the advice to prefer TNC for fused cells.
NOISE = ("ignore::DeprecationWarning:mxnet", "ignore:NTC layout detected:UserWarning:mxnet")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            for pattern in NOISE:
                item.add_marker(pytest.mark.filterwarnings(pattern))


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """Return a function that makes rnnx's NumPy backend draw what it is given."""
    return lambda given: monkeypatch.setattr(rnnx.get_backend("numpy"), "bernoulli", given)

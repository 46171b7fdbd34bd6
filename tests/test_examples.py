"""The examples do what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def _imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_training_with_numpy_alone_learns_to_add(capsys: pytest.CaptureFixture[str]) -> None:
    adding = _imported(EXAMPLES / "numpy_training" / "adding.py")

    error = adding.train(steps=500, length=6, seed=0)

    assert error < 1 / 6 / 4  # answering 1 always gives 1/6
    assert "step    0" in capsys.readouterr().out

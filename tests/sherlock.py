"""The language model of ``examples/sherlock``, and a little text for it that takes no time to train on."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "sherlock"


def module(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return a module of the example, which imports those beside it."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    return importlib.import_module(name)


def write_text(folder: Path) -> None:
    """Write texts of sentences of one or two buckets, in which words mostly come in the order of the vocabulary."""
    words = list(json.loads((EXAMPLE / "vocab.json").read_text(encoding="utf-8")))
    plain = [word for word in words[1:200] if not word.startswith((".", "!", "?"))]
    rng = np.random.default_rng(0)
    for part in ("train", "valid"):
        sentences = []
        for length in rng.permutation([5, 7, 12] * 33):
            first = int(rng.integers(len(plain)))
            sentences.append(" ".join(plain[(first + step) % len(plain)] for step in range(length)) + " .")
        (folder / f"sherlockholmes.{part}.txt").write_text("\n".join(sentences), encoding="utf-8")

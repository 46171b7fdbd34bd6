"""MXNet loads the checkpoints that the Sherlock Holmes example writes, and scores them alike."""

from __future__ import annotations

import numpy as np
import pytest

import sherlock

from . import bridge  # noqa: F401 - skips where there is no MXNet


@pytest.mark.parametrize("start", ["checkpoint", "untrained"])
def test_a_checkpoint_that_the_example_writes_has_the_same_perplexity(start, tmp_path, monkeypatch):
    sherlock.write_text(tmp_path)
    language_model = sherlock.module("language_model", monkeypatch)
    scoring = sherlock.module("score_mxnet", monkeypatch)
    kind = language_model.LanguageModel
    model = kind.load() if start == "checkpoint" else kind.untrained(seed=1)
    rng = np.random.default_rng(2)
    for array in (*model.others.values(), *dict(model.cell.params.items()).values()):
        array += rng.normal(scale=0.1, size=array.shape).astype(np.float32)
    model.save(tmp_path / "changed", 3)

    batches = language_model.held_out(tmp_path)
    expected = language_model.perplexity(model.score, batches)
    found = language_model.perplexity(scoring.Scorer(tmp_path / "changed", 3).score, batches)
    assert found == pytest.approx(expected, rel=1e-4)
    unchanged = language_model.perplexity(kind.load().score, batches)
    assert found != pytest.approx(unchanged, rel=1e-2)

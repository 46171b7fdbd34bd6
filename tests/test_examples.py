"""The examples do what they say."""

from __future__ import annotations

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import rnnx
import sherlock

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


@pytest.fixture
def language_model(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return sherlock.module("language_model", monkeypatch)


def _trained(script: str, folder: Path, *options: str) -> str:
    """Run a script on a little text, and return what it prints."""
    sherlock.write_text(folder)
    command = [sys.executable, "-W", "error", sherlock.EXAMPLE / script, folder, "--output", folder / "made", *options]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _curve(folder: Path) -> list[dict[str, float]]:
    with (folder / "made" / "curve.csv").open(newline="", encoding="utf-8") as file:
        return [{name: float(number) for name, number in row.items()} for row in csv.DictReader(file)]


trained_on = pytest.mark.parametrize(
    ("framework", "script"), [("torch", "train_torch.py"), ("tensorflow", "train_keras.py")]
)


@pytest.mark.parametrize("start", ["checkpoint", "scratch"])
@trained_on
def test_the_language_model_is_trained_and_given_back(framework, script, start, language_model, tmp_path):
    pytest.importorskip(framework, reason=f"{framework} is not installed")
    printed = _trained(script, tmp_path, "--epochs", "2", *(["--from-scratch"] if start == "scratch" else []))

    points = _curve(tmp_path)
    assert [point["epoch"] for point in points] == [0, 1, 2]
    assert points[2]["valid"] < 0.95 * points[0]["valid"]
    assert points[0]["valid"] == pytest.approx(1000, rel=0.1) or start == "checkpoint"

    made = language_model.LanguageModel.load(tmp_path / "made" / "sherlock", 2)
    again = language_model.perplexity(made.score, language_model.held_out(tmp_path))
    assert again == pytest.approx(points[2]["valid"], rel=1e-4)
    assert f"perplexity {again:.4f}" in printed
    assert (tmp_path / "made" / "curve.png").exists() == (importlib.util.find_spec("matplotlib") is not None)
    assert made.symbol == (sherlock.EXAMPLE / "sherlock-symbol.json").read_bytes()

    # What is on NumPy writes the same file, and such files MXNet scores in tests/oracle/test_sherlock_example.py.
    made.save(tmp_path / "again", 2)
    assert (tmp_path / "again-0002.params").read_bytes() == (tmp_path / "made" / "sherlock-0002.params").read_bytes()


@trained_on
def test_training_that_makes_it_worse_gives_back_the_start(framework, script, language_model, tmp_path):
    pytest.importorskip(framework, reason=f"{framework} is not installed")
    _trained(script, tmp_path, "--epochs", "1", "--rate", "1")

    points = _curve(tmp_path)
    assert points[1]["valid"] > points[0]["valid"]
    made = language_model.LanguageModel.load(tmp_path / "made" / "sherlock", 0)
    start, _ = rnnx.load(sherlock.EXAMPLE / "sherlock-0010.params")
    for name, array in start.get_params().items():
        np.testing.assert_array_equal(made.cell.get_params()[name], array)


class _Replayed(list):
    """Batches that come in the same order in every epoch."""

    def reset(self) -> None:
        pass


def test_every_framework_takes_the_same_steps(language_model, monkeypatch, tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    if keras.config.backend() != "tensorflow":
        pytest.skip("Keras runs on another backend")
    monkeypatch.setattr(language_model, "DROPOUT", 0.0)
    sherlock.write_text(tmp_path)
    texts = _Replayed(language_model.read_batches(tmp_path, "train", seed=0))

    told, made = [], []
    for name, kind in (("train_torch", "TorchTrainer"), ("train_keras", "KerasTrainer")):
        script = sherlock.module(name, monkeypatch)
        monkeypatch.setattr(script, "LARGEST_GRADIENT", 0.05)  # which some of the gradients are above
        monkeypatch.setattr(script, "WEIGHT_DECAY", 1e-3)  # far above epsilon, which torch adds elsewhere
        trainer = getattr(script, kind)(language_model.LanguageModel.untrained(0), 0.01, 0)
        told.append([])
        trainer.fit(texts, 4, told[-1].append)
        trainer.model().save(tmp_path / name, 4)
        made.append(rnnx.load(tmp_path / f"{name}-0004.params"))

    assert len(told[0]) == 4
    np.testing.assert_allclose(told[1], told[0], rtol=2e-3)
    (one, one_others), (other, other_others) = made
    pairs = [(one.get_params(), other.get_params()), (one_others, other_others)]
    differences = {name: np.abs(array - there[name]) for here, there in pairs for name, array in here.items()}
    assert len(differences) == 4
    for name, difference in differences.items():
        assert difference.mean() < 5e-4, name  # the steps of Adam come to about 0.01 each

"""What training the language model takes beside a framework: the command line, the epochs, and what is written.

A script gives `main` a function that makes a `Trainer` of a `LanguageModel`. Written are the checkpoint of the epoch
with the lowest validation perplexity, for MXNet and everyone else, the perplexities as ``curve.csv``, and where
Matplotlib is installed a picture of them, ``curve.png``.
"""

from __future__ import annotations

import argparse
import copy
import csv
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from corpus import EPOCHS, NAME
from language_model import Batch, LanguageModel, held_out, perplexity, read_batches
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import rnnx

#: The rate of Adam, from first weights on and where training goes on from the checkpoint.
FIRST_RATE, LATER_RATE = 0.004, 0.001

WEIGHT_DECAY, LARGEST_GRADIENT = 1e-5, 1.0

CONSOLE = Console()


class Trainer(Protocol):
    """A framework's model, in training."""

    def fit(self, texts: rnnx.BucketSentenceIter, epochs: int, ended: Callable[[float], None]) -> None:
        """Go through the text so many times, with a step of Adam on each batch.

        The gradient is that of the batch's summed negative log-likelihood divided by `BATCH_SIZE`, and each of its
        elements cut to `LARGEST_GRADIENT`. After every epoch `ended` is told the perplexity of its batches as they
        came.
        """
        ...

    def score(self, words: np.ndarray, following: np.ndarray) -> float:
        """Return the summed negative log-likelihood of a batch, in inference."""
        ...

    def model(self) -> LanguageModel:
        """Return the model as it is now."""
        ...


@dataclasses.dataclass(frozen=True)
class Point:
    """The perplexities after an epoch; `train` is that of the batches as they came, and NaN before the first."""

    epoch: int
    train: float
    valid: float


def main(description: str, framework: str, make: Callable[[LanguageModel, float, int], Trainer]) -> None:
    """Train as the command line says.

    Parameters
    ----------
    description : str
        What the script does.
    framework : str
        For the folder to write to, if none is named.
    make : callable
        Takes the model, the rate of Adam and a seed.
    """
    options = parsed(description, framework)
    model = LanguageModel.untrained(options.seed) if options.from_scratch else LanguageModel.load()
    rate = options.rate or (FIRST_RATE if options.from_scratch else LATER_RATE)
    curve = Curve(make(model, rate, options.seed), held_out(options.folder))
    curve.trainer.fit(read_batches(options.folder, "train", options.seed), options.epochs, curve.add)
    curve.write(options.output)


def parsed(description: str, framework: str) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the text is")
    parser.add_argument("--from-scratch", action="store_true", help="from first weights, not the checkpoint")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"times through the text (default: {EPOCHS})")
    parser.add_argument("--rate", type=float, help=f"of Adam (default: {LATER_RATE}, and from scratch {FIRST_RATE})")
    parser.add_argument("--seed", type=int, default=0, help="of the batches, the dropout and the first weights")
    output = Path(f"{NAME}-{framework}")
    parser.add_argument("--output", type=Path, default=output, help=f"where to write (default: {output})")
    return parser.parse_args()


class Curve:
    """The perplexities of every epoch, the start among them, and the model at the lowest validation one.

    Parameters
    ----------
    trainer : Trainer
        The model, before its first epoch.
    valid : list of Batch
        The validation text.
    """

    def __init__(self, trainer: Trainer, valid: list[Batch]) -> None:
        self.trainer, self.valid = trainer, valid
        self.points: list[Point] = []
        self.best = trainer.model()
        self.add(float("nan"))

    @property
    def lowest(self) -> Point:
        """The point with the lowest validation perplexity, the first of several."""
        return min(self.points, key=lambda point: point.valid)

    def add(self, train: float) -> None:
        """Score the model after another epoch, whose batches had a perplexity as they came."""
        point = Point(len(self.points), train, perplexity(self.trainer.score, self.valid))
        self.points.append(point)
        if self.lowest is point:
            self.best = copy.deepcopy(self.trainer.model())
        training = f", training {train:.2f}" if point.epoch else ""
        CONSOLE.print(f"epoch {point.epoch:2d}   validation perplexity {point.valid:.2f}{training}")

    def write(self, folder: Path) -> None:
        """Write the checkpoint and the curve, and score what was written."""
        folder.mkdir(parents=True, exist_ok=True)
        prefix, epoch = folder / NAME, self.lowest.epoch
        self.best.save(prefix, epoch)
        again = perplexity(LanguageModel.load(prefix, epoch).score, self.valid)
        CONSOLE.print(
            f"wrote {prefix}-{epoch:04d}.params: perplexity {again:.6f}, read back with NumPy", soft_wrap=True
        )
        with (folder / "curve.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["epoch", "train", "valid"])
            table.writerows(dataclasses.astuple(point) for point in self.points)
        CONSOLE.print(picture(folder / "curve.png", self.points), soft_wrap=True)


def each_epoch(texts: rnnx.BucketSentenceIter, epochs: int) -> Iterator[Iterator[Batch]]:
    """Yield the batches of one epoch after the other, with a bar of how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    for epoch in range(1, epochs + 1):
        texts.reset()
        with Progress(*columns, console=CONSOLE, transient=True, disable=not CONSOLE.is_terminal) as progress:
            batches = progress.track(texts, total=len(texts), description=f"epoch {epoch:2d}")
            yield ((batch.data[0], batch.label[0]) for batch in batches)


def picture(path: Path, points: list[Point]) -> str:
    """Draw the curve if Matplotlib is installed, and return what was done."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return f"Matplotlib is not installed, so there is no picture: the numbers are in {path.with_name('curve.csv')}"
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    epochs = [point.epoch for point in points]
    axes.plot(epochs, [point.train for point in points], label="training text")
    axes.plot(epochs, [point.valid for point in points], label="validation text")
    axes.set(xlabel="epoch", ylabel="perplexity", yscale="log")
    axes.legend()
    figure.savefig(path, dpi=150)
    return f"wrote {path}"

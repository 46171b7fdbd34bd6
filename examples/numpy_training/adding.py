"""Train an LSTM with NumPy alone: the adding problem of Hochreiter and Schmidhuber (1997).

Each step of a sequence has a number from 0 to 1 and a mark; two steps are marked, and the answer is the sum of their
numbers. Answering 1 always gives a mean squared error of 1/6. Run it with

    python examples/numpy_training/adding.py
"""

from __future__ import annotations

import argparse

import numpy as np

import rnnx

HIDDEN = 32


class Adam:
    """Adam (Kingma and Ba, 2015), over arrays that it updates in place."""

    def __init__(self, rate: float) -> None:
        self.rate, self.steps = rate, 0
        self.moments: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def update(self, arrays: dict[str, np.ndarray], gradients: dict[str, np.ndarray]) -> None:
        """Take one step down the gradients."""
        self.steps += 1
        for name, gradient in gradients.items():
            mean, square = self.moments.setdefault(name, (np.zeros_like(gradient), np.zeros_like(gradient)))
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient**2 - square)
            scale = self.rate * np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
            arrays[name] -= scale * mean / (np.sqrt(square) + 1e-8)


def batch(rng: np.random.Generator, rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs (N, T, 2) and answers (N,)."""
    numbers = rng.random((rows, length), np.float32)
    marks = np.zeros_like(numbers)
    marks[np.arange(rows), rng.integers(0, length // 2, rows)] = 1
    marks[np.arange(rows), rng.integers(length // 2, length, rows)] = 1
    return np.stack([numbers, marks], 2), (numbers * marks).sum(1)


def train(steps: int, length: int, seed: int) -> float:
    """Return the mean squared error over a fresh batch after training."""
    rng = np.random.default_rng(seed)
    cell = rnnx.FusedRNNCell(HIDDEN, mode="lstm")
    cell.initialize(input_size=2, seed=seed)
    readout = {"weight": rng.uniform(-0.1, 0.1, HIDDEN).astype(np.float32), "bias": np.zeros(1, np.float32)}
    weights, optimizer = dict(cell.params.items()), Adam(0.01)

    for step in range(steps):
        inputs, answers = batch(rng, 64, length)
        outputs, _, pullback = cell.vjp(length, inputs)
        error = outputs[:, -1] @ readout["weight"] + readout["bias"] - answers
        if step % 100 == 0:
            print(f"step {step:4d}  mean squared error {np.mean(error**2):.4f}")
        slope = 2 * error / len(error)
        of_outputs = np.zeros_like(outputs)
        of_outputs[:, -1] = slope[:, None] * readout["weight"]
        of_readout = {"weight": slope @ outputs[:, -1], "bias": slope.sum(keepdims=True)}
        optimizer.update(weights | readout, pullback(of_outputs).weights | of_readout)

    inputs, answers = batch(rng, 1000, length)
    outputs, _ = cell.unroll(length, inputs)
    return float(np.mean((outputs[:, -1] @ readout["weight"] + readout["bias"] - answers) ** 2))


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"after training  mean squared error {train(options.steps, options.length, options.seed):.4f}")


if __name__ == "__main__":
    main()

"""Time rnnx's NumPy kernels against torch.nn, in one process, turn by turn.

Prints the medians in milliseconds, their interquartile range, and the ratio of the medians. Both libraries get the same
number of threads; between turns torch's pool sleeps, since its threads block instead of spinning. Run it with

    OMP_WAIT_POLICY=passive python benchmarks/numpy_against_torch.py
"""

from __future__ import annotations

import argparse
import platform
import statistics
from collections.abc import Callable

from timing import SHAPES, THREADS, interleaved, shown  # first, for it sets the thread counts

import numpy as np  # isort: skip
import torch  # isort: skip

import rnnx  # isort: skip

TORCH = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn_tanh": torch.nn.RNN}


def contenders(mode: str, shape: tuple[int, ...], training: bool) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return rnnx's call and torch's, on the same weights and inputs."""
    batch, length, width, hidden, layers = shape
    inputs = np.random.default_rng(0).normal(size=(batch, length, width)).astype(np.float32)
    cell = rnnx.FusedRNNCell(hidden, layers, mode)
    cell.initialize(width, seed=0)
    module = TORCH[mode](width, hidden, layers, batch_first=True)
    tensor = torch.from_numpy(inputs)
    assert set(cell.explain(inputs).kernels) == {f"numpy.{mode}"}

    def train_numpy() -> object:
        outputs, _, pullback = cell.vjp(length, inputs)
        return pullback(np.ones_like(outputs))

    def train_torch() -> object:
        module.zero_grad()
        module(tensor.requires_grad_())[0].sum().backward()
        return None

    def infer_torch() -> object:
        with torch.inference_mode():
            return module(tensor)

    if training:
        return train_numpy, train_torch
    return lambda: cell.unroll(length, inputs), infer_torch


def main() -> None:
    """Time every shape and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each row")
    parser.add_argument("--modes", nargs="+", default=["lstm", "gru"], choices=sorted(TORCH))
    options = parser.parse_args()
    torch.set_num_threads(int(THREADS))
    print(f"{platform.machine()}, {THREADS} threads, NumPy {np.__version__}, torch {torch.__version__}\n")
    print("| mode | batch, time, input, hidden, layers | what | rnnx, ms | torch.nn, ms | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for mode in options.modes:
        for shape in SHAPES:
            for training in (False, True):
                mine, theirs = interleaved(contenders(mode, shape, training), options.seconds)
                ratio = statistics.median(mine) / statistics.median(theirs)
                what = "training step" if training else "inference"
                name = ", ".join(map(str, shape))
                print(f"| {mode} | {name} | {what} | {shown(mine)} | {shown(theirs)} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()

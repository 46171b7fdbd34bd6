"""Time rnnx's NumPy kernels against torch.nn, in one process, turn by turn.

Prints the medians in milliseconds, their interquartile range, and the ratio of the medians. Both libraries get the same
number of threads; between turns torch's pool sleeps, since its threads block instead of spinning. Run it with

    OMP_WAIT_POLICY=passive python benchmarks/numpy_against_torch.py
"""

from __future__ import annotations

import os

THREADS = "2"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, THREADS)

import argparse  # noqa: E402 - the thread counts are read when the libraries load
import platform  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

import rnnx  # noqa: E402

#: batch, time, input, hidden, layers.
SHAPES = [
    (1, 100, 256, 256, 1),
    (32, 50, 200, 200, 2),
    (64, 35, 650, 650, 2),
    (16, 25, 512, 512, 1),
    (32, 25, 1024, 1024, 1),
    (1, 1, 256, 256, 1),
]

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


def interleaved(calls: tuple[Callable[[], object], ...], seconds: float) -> list[list[float]]:
    """Return the milliseconds of each call's turns, at least 7 turns each."""
    times: list[list[float]] = [[] for _ in calls]
    stop = time.perf_counter() + seconds
    for call in calls:
        call()
    while len(times[0]) < 7 or time.perf_counter() < stop:
        for call, kept in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            kept.append((time.perf_counter() - start) * 1e3)
    return times


def shown(times: list[float]) -> str:
    """Return median and interquartile range."""
    low, middle, high = statistics.quantiles(times, n=4)
    return f"{middle:9.3f} ({low:.3f} to {high:.3f})"


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

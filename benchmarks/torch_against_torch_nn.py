"""Time rnnx on PyTorch against torch.nn by hand, in one process, turn by turn.

Two ways are timed, `FusedRNNCell.unroll` and `rnnx_torch.RNNModule`, each on the kernels that torch.nn runs. Prints the
medians in milliseconds with their interquartile range, the ratio of each to torch.nn's, and what it adds to a call in
microseconds. Run it with

    OMP_WAIT_POLICY=passive python benchmarks/torch_against_torch_nn.py
"""

from __future__ import annotations

import argparse
import platform
import statistics
from collections.abc import Callable, Iterable

from timing import SHAPES, THREADS, interleaved, shown  # first, for it sets the thread counts

import torch  # isort: skip

import rnnx  # isort: skip
from rnnx_torch import RNNModule  # isort: skip

MODULES = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn_tanh": torch.nn.RNN}
KERNELS = {"lstm": "torch.mkldnn", "gru": "torch.native", "rnn_tanh": "torch.native"}

Call = Callable[[], object]


def contenders(mode: str, shape: tuple[int, ...], training: bool) -> tuple[Call, Call, Call]:
    """Return the calls of torch.nn, of `unroll` and of `RNNModule`, on layers and inputs of the same sizes."""
    batch, length, width, hidden, layers = shape
    inputs = torch.randn(batch, length, width)
    judge = MODULES[mode](width, hidden, layers, batch_first=True)
    cell = rnnx.FusedRNNCell(hidden, layers, mode, get_next_state=True)
    cell.initialize(width, backend="torch", seed=0)
    weights = [weight.requires_grad_() for _, weight in cell.params.items()]
    module = RNNModule(rnnx.FusedRNNCell(hidden, layers, mode, get_next_state=True), width)
    assert cell.explain(inputs).kernels == module.explain(inputs).kernels == (KERNELS[mode],)
    calls = (
        (lambda: judge(inputs), list(judge.parameters())),
        (lambda: cell.unroll(length, inputs, training=training), weights),
        (lambda: module(inputs), list(module.parameters())),
    )
    judge.train(training)
    module.train(training)
    return tuple(step(call, weights) if training else inference(call) for call, weights in calls)


def inference(call: Callable[[], tuple[torch.Tensor, object]]) -> Call:
    """Return a call without gradients."""

    def infer() -> object:
        with torch.inference_mode():
            return call()

    return infer


def step(call: Callable[[], tuple[torch.Tensor, object]], weights: Iterable[torch.Tensor]) -> Call:
    """Return a forward and a backward pass, with gradients of the weights."""

    def train() -> None:
        for weight in weights:
            weight.grad = None
        call()[0].sum().backward()

    return train


def row(times: list[list[float]]) -> str:
    """Return the figures of a row: torch.nn's, and of each way its own, their ratio, and the microseconds added."""
    base = statistics.median(times[0])
    figures = [shown(times[0])]
    for mine in times[1:]:
        median = statistics.median(mine)
        figures += [shown(mine), f"{median / base:.3f}", f"{1e3 * (median - base):.0f}"]
    return " | ".join(figures)


def main() -> None:
    """Time every shape and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="time for each row")
    parser.add_argument("--modes", nargs="+", default=["lstm", "gru"], choices=sorted(MODULES))
    parser.add_argument("--shapes", nargs="+", type=int, default=range(len(SHAPES)), help="numbers of shapes, from 0")
    options = parser.parse_args()
    torch.set_num_threads(int(THREADS))
    print(f"{platform.machine()}, {THREADS} threads, torch {torch.__version__}\n")
    ways = " | ".join(f"{way}, ms | ratio | added, us" for way in ("unroll", "RNNModule"))
    print(f"| mode | batch, time, input, hidden, layers | what | torch.nn, ms | {ways} |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for mode in options.modes:
        for shape in (SHAPES[number] for number in options.shapes):
            for training in (False, True):
                times = interleaved(contenders(mode, shape, training), options.seconds)
                what = "training step" if training else "inference"
                print(f"| {mode} | {', '.join(map(str, shape))} | {what} | {row(times)} |", flush=True)


if __name__ == "__main__":
    main()

"""Measure how much of DistributedDataParallel's all-reduce goes on while the backward pass still runs.

Two processes on this machine, joined by gloo, train the same layers held in two ways: one `FusedRNNCell` of many
layers, whose one vector is one gradient, and a `SequentialRNNCell` of one-layer fused cells, as the documentation of
mxnet.rnn advises for training on several devices. A communication hook notes when each bucket's all-reduce begins and
ends.
Printed, in milliseconds after the backward pass began, and as medians over the steps of the first process, are

- when the first all-reduce began, and when the last gradient was there;
- when the backward pass returned, which is when the last all-reduce was done;
- how long all-reduces ran in all, and which part of that was over before the last gradient was there: the overlap.

Gradients are checked against those of one process with the whole batch. Run it with

    GLOO_SOCKET_IFNAME=lo python benchmarks/ddp_overlap.py
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import rnnx
from rnnx_torch import RNNModule

PROCESSES = 2
WARM_UP = 3


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is trained: `batch` rows in each process."""

    mode: str
    layers: int
    hidden: int
    batch: int
    length: int


@dataclasses.dataclass
class Times:
    """When each bucket's all-reduce of one backward pass began and ended, and when the pass did, in seconds."""

    began: list[float] = dataclasses.field(default_factory=list)
    ended: list[float] = dataclasses.field(default_factory=list)
    start: float = 0.0
    returned: float = 0.0

    def figures(self) -> dict[str, float]:
        """Return the milliseconds that the table has, and the overlap as a fraction."""
        last = max(self.began)
        communicating = _covered(self.began, self.ended, self.returned)
        return {
            "first": 1e3 * (min(self.began) - self.start),
            "gradients": 1e3 * (last - self.start),
            "returned": 1e3 * (self.returned - self.start),
            "communicating": 1e3 * communicating,
            "overlap": _covered(self.began, self.ended, last) / communicating,
        }


def _covered(began: list[float], ended: list[float], until: float) -> float:
    """Return how long before `until` at least one of the intervals lasted."""
    total, reached = 0.0, 0.0
    for low, high in sorted(zip(began, ended, strict=True)):
        total += max(0.0, min(high, until) - max(low, reached))
        reached = max(reached, min(high, until))
    return total


def timed_all_reduce(times: Times, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """Average a bucket over the processes, as DistributedDataParallel does, and note when."""
    place = len(times.began)
    times.began.append(time.perf_counter())
    times.ended.append(float("inf"))

    def averaged(future: torch.futures.Future[list[torch.Tensor]]) -> torch.Tensor:
        times.ended[place] = time.perf_counter()
        return future.value()[0].div_(PROCESSES)

    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(averaged)


def one_fused_cell(sizes: Sizes) -> rnnx.BaseRNNCell:
    """Return all layers in one vector."""
    return rnnx.FusedRNNCell(sizes.hidden, sizes.layers, sizes.mode, prefix="deep_")


def one_cell_a_layer(sizes: Sizes) -> rnnx.BaseRNNCell:
    """Return the same layers with a vector each."""
    stack = rnnx.SequentialRNNCell()
    for layer in range(sizes.layers):
        stack.add(rnnx.FusedRNNCell(sizes.hidden, 1, sizes.mode, prefix=f"layer{layer}_"))
    return stack


TREES = {"one fused cell": one_fused_cell, "one cell a layer": one_cell_a_layer}


def largest_difference(parallel: DistributedDataParallel, module: RNNModule, inputs: torch.Tensor) -> float:
    """Return that of the gradients from those of one process, relative to the largest gradient of each weight."""
    found = [weight.grad.clone() for weight in module.parameters() if weight.grad is not None]
    with parallel.no_sync():
        module.zero_grad()
        module(inputs)[0].square().mean().backward()
    expected = [weight.grad for weight in module.parameters() if weight.grad is not None]
    return max(float((one - two).abs().max() / two.abs().max()) for one, two in zip(found, expected, strict=True))


def measured(kind: str, sizes: Sizes, rank: int, steps: int) -> dict[str, float]:
    """Return this process's medians."""
    torch.manual_seed(0)
    module = RNNModule(TREES[kind](sizes), sizes.hidden)
    inputs = torch.randn(PROCESSES * sizes.batch, sizes.length, sizes.hidden)
    parallel, times = DistributedDataParallel(module, bucket_cap_mb=1), Times()
    parallel.register_comm_hook(None, lambda _, bucket: timed_all_reduce(times, bucket))
    taken = []
    for step in range(WARM_UP + steps):
        module.zero_grad()
        loss = parallel(inputs[rank::PROCESSES])[0].square().mean()
        times.began, times.ended, times.start = [], [], time.perf_counter()
        loss.backward()
        times.returned = time.perf_counter()
        if step >= WARM_UP:
            taken.append({**times.figures(), "buckets": len(times.began)})
    medians = {name: statistics.median(each[name] for each in taken) for name in taken[0]}
    return {**medians, "difference": largest_difference(parallel, module, inputs)}


def work(rank: int, folder: str, sizes: Sizes, steps: int) -> None:
    """Be one of the processes."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", PROCESSES)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=PROCESSES)
    for kind in TREES:
        found = measured(kind, sizes, rank, steps)
        if rank == 0:
            print(row(kind, found), flush=True)
        dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # threads of gloo's may still run, and would abort an orderly exit


def row(kind: str, found: dict[str, float]) -> str:
    """Return the Markdown row of a tree."""
    times = " | ".join(f"{found[name]:.1f}" for name in ("first", "gradients", "returned", "communicating"))
    return f"| {kind} | {found['buckets']:.0f} | {times} | {found['overlap']:.0%} | {found['difference']:.0e} |"


def main() -> None:
    """Start the processes and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", default="lstm", choices=["lstm", "gru", "rnn_tanh", "rnn_relu"])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16, help="rows in each process")
    parser.add_argument("--length", type=int, default=30)
    parser.add_argument("--steps", type=int, default=30)
    options = vars(parser.parse_args())
    steps = options.pop("steps")
    sizes = Sizes(**options)
    print(f"{platform.machine()}, {PROCESSES} processes of 1 thread, gloo, torch {torch.__version__}; {sizes}\n")
    print("| layers as | buckets | first all-reduce | last gradient | returned | all-reducing | overlap | difference |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (str(Path(folder)), sizes, steps), PROCESSES)


if __name__ == "__main__":
    main()

"""What the benchmarks share: the same threads for every library, calls timed turn by turn, and how figures are shown.

Import it before NumPy and any framework, since they read the thread counts when they load.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence

__all__ = ["SHAPES", "THREADS", "interleaved", "shown"]

THREADS = "2"
# Between turns a pool's threads are to sleep, and not to spin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, THREADS)

#: batch, time, input, hidden, layers.
SHAPES = [
    (1, 100, 256, 256, 1),
    (32, 50, 200, 200, 2),
    (64, 35, 650, 650, 2),
    (16, 25, 512, 512, 1),
    (32, 25, 1024, 1024, 1),
    (1, 1, 256, 256, 1),
]


def interleaved(calls: Sequence[Callable[[], object]], seconds: float) -> list[list[float]]:
    """Return the milliseconds of each call's turns, at least 7 turns each; two turns before those warm up."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
        call()
    stop = time.perf_counter() + seconds
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

"""Time ``import rnnx`` against ``import numpy``: processor time of fresh processes, turn by turn, medians.

python benchmarks/import_time.py
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys


def processor_seconds(code: str) -> float:
    """Return user and system time of a Python process that runs `code`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print both medians and their ratio."""
    times: dict[str, list[float]] = {"import numpy": [], "import rnnx": []}
    for _ in range(25):
        for code, kept in times.items():
            kept.append(processor_seconds(code))
    numpy, rnnx = (statistics.median(kept) for kept in times.values())
    print(f"import numpy {numpy * 1e3:.0f} ms, import rnnx {rnnx * 1e3:.0f} ms, ratio {rnnx / numpy:.2f}")


if __name__ == "__main__":
    main()

"""Converting a large portable file: the time beside that of a plain copy, and the peak of memory.

    python benchmarks/conversion.py [--megabytes 1024] [--repeats 5] [--folder /tmp]

Each conversion and each copy is a process of its own, in turns: so each one's peak of memory is its own, and a busy
machine slows all of them. Both sync what they wrote. The memory is the most that was resident, mapped pages of the
files included; that of a process that only imports rnnx stands beside it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import rnnx

#: Number of layers of the LSTM that is converted; its width is chosen for the size of the file.
LAYERS = 2

TARGETS = {"MXNet": ("out-0001.params", "mxnet"), "PyTorch safetensors": ("out.safetensors", "torch")}

_COPY = """
import os, shutil, sys
with open(sys.argv[1], "rb") as source, open(sys.argv[2], "wb") as target:
    shutil.copyfileobj(source, target, 1 << 20)
    target.flush()
    os.fsync(target.fileno())
"""
_CONVERT = "import sys, rnnx; rnnx.convert(sys.argv[1], sys.argv[2], to=sys.argv[3])"
_IMPORT = "import rnnx, rnnx.files"
#: Linux's own count for this program; what getrusage says begins with the memory of the process that started it.
_PEAK = "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"


def main() -> None:
    """Write the file, convert and copy it in turns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        source = Path(folder) / "large.rnnx"
        largest = write_large(source, options.megabytes)
        print(f"{source.stat().st_size / 2**20:.0f} MiB, largest tensor {largest / 2**20:.0f} MiB")
        report(source, options.repeats, largest)


def write_large(path: Path, megabytes: int) -> int:
    """Write a portable file of about a size, and return the bytes of its largest tensor."""
    width = round((megabytes * 2**20 / (LAYERS * 8 * 4)) ** 0.5)
    cell = rnnx.FusedRNNCell(width, LAYERS, prefix="lstm_")
    size = LAYERS * 4 * width * (2 * width + 2)
    cell.load_params({"lstm_parameters": np.random.default_rng(0).random(size, np.float32) - np.float32(0.5)})
    rnnx.save(path, cell)
    return 4 * width * width


def report(source: Path, repeats: int, largest: int) -> None:
    """Print time and memory of each conversion beside the copy's."""
    jobs = {"copy": (_COPY, "copy.bin")} | {name: (_CONVERT, *target) for name, target in TARGETS.items()}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    measured(_IMPORT)  # compiled, and its files in memory
    for _ in range(repeats):
        for name, (code, target, *rest) in jobs.items():
            found[name].append(measured(code, str(source), str(source.with_name(target)), *rest))
            source.with_name(target).unlink()
    _, imported = measured(_IMPORT)
    copied = statistics.median(seconds for seconds, _ in found["copy"])
    print(f"import alone {imported:.0f} MiB; allowed 1.3 x largest + 200: {1.3 * largest / 2**20 + 200:.0f} MiB")
    for name, runs in found.items():
        seconds, memory = statistics.median(run[0] for run in runs), max(run[1] for run in runs)
        spread = f"{min(run[0] for run in runs):.2f} to {max(run[0] for run in runs):.2f}"
        print(f"{name:20} {seconds:.2f} s ({spread}), {seconds / copied:.2f} x copy, peak {memory:.0f} MiB")


def measured(code: str, *arguments: str) -> tuple[float, float]:
    """Run code in a process of its own; return its seconds, less none, and its peak of memory in MiB."""
    start = time.perf_counter()
    program = f"{code}\n{_PEAK}"
    done = subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True)
    return time.perf_counter() - start, int(done.stdout) / 2**10


if __name__ == "__main__":
    main()

"""`Worker`: the process that reads, as its parent sees it. It may crash or hang, and is started again."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from samples import Sample

__all__ = ["USUAL", "Limits", "Result", "Worker"]

_CHILD = Path(__file__).with_name("child.py")

#: How long libraries may take to be imported.
_WARMUP = 240.0

#: About how many valid files are read to warm up.
_MOST_WARMING = 20


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a reader may take.

    Parameters
    ----------
    seconds : float
        Time of the processor.
    clock : float
        Seconds that are waited; more, since other programs run too.
    memory : int
        Bytes beside those that grow with the file.
    times : int
        Bytes of memory for each byte of the file.
    """

    seconds: float = 5.0
    clock: float = 20.0
    memory: int = 100 * 2**20
    times: int = 50


#: What readers of small files keep to easily.
USUAL = Limits()


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of reading a sample.

    Parameters
    ----------
    read : bool
        Whether it was read; if not, it was refused, or failed.
    seconds : float
        How long it took.
    memory : int
        The bytes it took at most.
    kind : str
        Of a failure, what it was: ``"crash"``, ``"hang"``, ``"memory"``, ``"slow"``, ``"forbidden"``, or the name
        of an exception; empty otherwise.
    where : str
        Of a failure, the line of rnnx it came from, as far as is known.
    report : str
        Of a failure, the traceback or what the process printed last; of a refusal, the message.
    """

    read: bool = False
    seconds: float = 0.0
    memory: int = 0
    kind: str = ""
    where: str = ""
    report: str = ""

    @property
    def signature(self) -> tuple[str, str]:
        """What failures of one cause have in common."""
        return self.kind, self.where


class Worker:
    """A process that reads samples of one format.

    Parameters
    ----------
    format : str
        The format that is named where content is not to tell it.
    seeds : sequence of Sample
        Valid files, which are read first so that libraries are ready.
    folder : path
        An empty folder; all that is read lies in ``case`` within it, beside ``decoy``.
    limits : Limits
        What a reader may take.
    """

    def __init__(self, format: str, seeds: Sequence[Sample], folder: Path, limits: Limits) -> None:  # noqa: A002
        self._format, self._seeds, self._limits = format, seeds, limits
        self._root, self._case, self._log = folder, folder / "case", folder / "printed.txt"
        _lay_decoys(folder / "decoy")
        self._process: subprocess.Popen[bytes] | None = None

    def tried(self, sample: Sample) -> Result:
        """Read a sample."""
        if self._process is None:
            self._start()
        path = self._written(sample)
        start = time.monotonic()
        self._ask({"path": str(path), "format": self._format, "cell": sample.cell})
        answer = self._answer(self._limits.clock)
        waited = time.monotonic() - start
        if answer is None:
            return self._ended(waited)
        return self._judged(answer, self._limits.memory + self._limits.times * sample.size)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            self._process = None

    def _start(self) -> None:
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
                       "JAX_PLATFORMS": "cpu", "TMPDIR": str(self._case), "PYTHONFAULTHANDLER": "1"}  # fmt: skip
        self._case.mkdir(exist_ok=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-B", str(_CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self._case,
                env=environment,
            )
        warmup = [
            {"path": str(seed.written(self._root / "seeds" / str(number))), "format": self._format, "cell": seed.cell}
            for number, seed in enumerate(self._warming())
        ]
        self._ask({"folder": str(self._case), "decoys": str(self._root / "decoy"), "warmup": warmup})
        if self._answer(_WARMUP) is None:
            raise RuntimeError(f"the process died before it began:\n{self._printed()}")

    def _warming(self) -> list[Sample]:
        """Return some valid files, and a few damaged ones: libraries import things to complain with, too."""
        some = self._seeds[:: max(1, len(self._seeds) // _MOST_WARMING)]
        damaged = [
            seed.having(name, content)
            for seed in some[:3]
            for name, data in seed.files.items()
            for content in (b"", data[: len(data) // 2], data[:64] + bytes(len(data)))
        ]
        return [*some, *damaged]

    def _written(self, sample: Sample) -> Path:
        for entry in self._case.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        return sample.written(self._case)

    def _ask(self, request: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()

    def _answer(self, seconds: float) -> dict[str, Any] | None:
        """Return the next answer; None if the process died or says nothing."""
        assert self._process is not None
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        line = self._process.stdout.readline() if ready else b""
        return json.loads(line) if line.endswith(b"\n") else None

    def _ended(self, waited: float) -> Result:
        """Return the result of a file that the process did not survive, or would never have finished."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        code = self._process.poll()
        if code is None:
            self._process.send_signal(signal.SIGABRT)  # Python's faulthandler prints where it hangs
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5.0)
        self.close()
        if code is None:
            return Result(seconds=waited, kind="hang", where=self._last_line(), report=self._printed())
        return Result(seconds=waited, kind="crash", where=f"exit {code} {self._last_line()}", report=self._printed())

    def _judged(self, answer: dict[str, Any], memory: int) -> Result:
        read, seconds, taken = answer["read"], answer["seconds"], answer["memory"]
        if "kind" in answer:
            return Result(read, seconds, taken, answer["kind"], answer["where"], answer["report"])
        if taken > memory:
            return Result(read, seconds, taken, "memory", "", f"took {taken} bytes, where {memory} are allowed\n")
        if seconds > self._limits.seconds:
            return Result(read, seconds, taken, "slow", "", f"took {seconds:.1f} s, where {self._limits.seconds} are\n")
        return Result(read, seconds, taken, report=answer.get("report", ""))

    def _printed(self) -> str:
        return self._log.read_text(errors="replace")[-20_000:]

    def _last_line(self) -> str:
        """Return the innermost line of rnnx that faulthandler printed."""
        for line in self._printed().splitlines():
            if "/rnnx/" in line and ", line " in line:
                return f"{line.split('/')[-1].split(chr(34))[0]}:{line.split(', line ')[1].split()[0]}"
        return ""


def _lay_decoys(folder: Path) -> None:
    """Write files that no reader may open, to which damaged files point."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "decoy.bin").write_bytes(bytes(range(256)) * 16)
    with contextlib.suppress(ImportError):
        import h5py

        with h5py.File(folder / "decoy.h5", "w") as file:
            file["secret"] = list(range(64))

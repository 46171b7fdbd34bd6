"""`Campaign`: one format, tried with damaged files until the time is up; what fails is made smaller and kept."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import time
from collections.abc import Iterator, Sequence

from mutations import mutated
from samples import Sample, scratch
from workers import USUAL, Limits, Result, Worker

__all__ = ["Campaign", "Failure", "Tally", "damaged_samples"]

#: Most failures of one format that are kept, and how often and long one is tried to be made smaller.
_MOST_KEPT = 40
_MOST_TRIALS, _MOST_SECONDS = 300, 20.0


@dataclasses.dataclass(frozen=True)
class Failure:
    """The first file that failed in one way.

    Parameters
    ----------
    sample : Sample
        The file, made smaller.
    damage : str
        How it was made.
    result : Result
        What came of it.
    number : int
        Which of the files it was.
    """

    sample: Sample
    damage: str
    result: Result
    number: int


@dataclasses.dataclass
class Tally:
    """What came of all files of one format."""

    format: str
    seeds: int = 0
    tried: int = 0
    read: int = 0
    refused: int = 0
    failed: int = 0
    slowest: float = 0.0
    memory: int = 0
    failures: dict[tuple[str, str], Failure] = dataclasses.field(default_factory=dict)
    #: Valid files that are refused, each with the reason: of cells that rnnx lacks, or a fault of reader or seeds.
    refused_seeds: list[str] = dataclasses.field(default_factory=list)

    def count(self, result: Result) -> None:
        """Add what came of one file."""
        self.tried += 1
        self.failed += bool(result.kind)
        self.read += result.read and not result.kind
        self.refused += not (result.read or result.kind)
        self.slowest = max(self.slowest, result.seconds)
        self.memory = max(self.memory, result.memory)


def damaged_samples(format: str, seeds: Sequence[Sample], seed: int) -> Iterator[tuple[Sample, str]]:  # noqa: A002
    """Yield damaged files without end, and how each was made; the same for the same seed."""
    number = 0
    while True:
        rng = random.Random(f"{seed} {format} {number}")
        yield mutated(rng.choice(seeds), seeds, rng)
        number += 1


class Campaign:
    """Tries the reader of a format.

    Parameters
    ----------
    format : str
        Its name.
    seeds : sequence of Sample
        Valid files.
    seed : int
        What all choices depend on.
    limits : Limits, optional
        What a reader may take.
    """

    def __init__(self, format: str, seeds: Sequence[Sample], seed: int, limits: Limits = USUAL) -> None:  # noqa: A002
        self._seeds, self._seed, self._limits = seeds, seed, limits
        self.tally = Tally(format, len(seeds))

    def run(self, seconds: float, count: int | None = None) -> Tally:
        """Try the valid files, and damaged ones for so many seconds or until so many were tried."""
        with self._worker() as worker:
            self._try_all(worker, seconds, count)
        return self.tally

    def _try_all(self, worker: Worker, seconds: float, count: int | None) -> None:
        for number, seed in enumerate(self._seeds):
            result = worker.tried(seed)
            if not result.read:
                self.tally.refused_seeds.append(f"{number}: {result.report}")
            self._note(worker, seed, "valid", result, number - len(self._seeds))
        start, spent = time.monotonic(), 0.0
        for number, (sample, damage) in enumerate(damaged_samples(self.tally.format, self._seeds, self._seed)):
            if number >= count if count is not None else time.monotonic() - start - spent >= seconds:
                return
            result = worker.tried(sample)
            self.tally.count(result)
            before = time.monotonic()
            self._note(worker, sample, damage, result, number)
            spent += time.monotonic() - before

    def _note(self, worker: Worker, sample: Sample, damage: str, result: Result, number: int) -> None:
        failures = self.tally.failures
        if result.kind and result.signature not in failures and len(failures) < _MOST_KEPT:
            again = worker.tried(sample)
            smaller = _smaller(worker, sample, result) if again.signature == result.signature else sample
            failures[result.signature] = Failure(smaller, damage, result, number)

    @contextlib.contextmanager
    def _worker(self) -> Iterator[Worker]:
        with scratch() as folder:
            worker = Worker(self.tally.format, self._seeds, folder, self._limits)
            try:
                yield worker
            finally:
                worker.close()


def _smaller(worker: Worker, sample: Sample, result: Result) -> Sample:
    """Return a sample that fails alike, with files and pieces left out as long as it does."""
    end = time.monotonic() + _MOST_SECONDS
    trials = 0

    def fails(candidate: Sample) -> bool:
        nonlocal trials
        trials += 1
        return worker.tried(candidate).signature == result.signature

    for name in sorted(sample.files):
        if len(sample.files) > 1 and fails(sample.lacking(name)):
            sample = sample.lacking(name)
    for name in sorted(sample.files):
        size = len(sample.files[name]) // 2
        while size and trials < _MOST_TRIALS and time.monotonic() < end:
            sample, size = _without_pieces(sample, name, size, fails, end), size // 2
    return sample


def _without_pieces(sample: Sample, name: str, size: int, fails: object, end: float) -> Sample:
    """Leave out every piece of a size that is not needed to fail."""
    assert callable(fails)
    start = 0
    while start < len(sample.files[name]) and time.monotonic() < end:
        content = sample.files[name]
        candidate = sample.having(name, content[:start] + content[start + size :])
        if fails(candidate):
            sample = candidate
        else:
            start += size
    return sample

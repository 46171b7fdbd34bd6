"""The process in which readers are tried: reads requests line by line, and answers each with what came of it.

It may be killed by what it reads; `workers` starts another one then.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import sysconfig
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from guard import Decoys, Forbidden, Guard, limit_memory, peak_memory, reset_peak

from rnnx.archive import Accepted, Archive
from rnnx.cells import BaseRNNCell
from rnnx.errors import RNNXError
from rnnx.files import read_archive
from rnnx.formats.portable import PortableFormat
from rnnx.found import Assumptions
from rnnx.spec import CellSpec

#: Addresses that the process may take beyond those it has when it begins, used or not.
_ADDRESSES = 2**30

_HERE = str(Path(__file__).parent)

#: Most bytes of an array that are copied at a time.
_PIECE = 2**16

#: What is assumed where the format is named, so that reading goes on where a user would have to say something.
_ASSUMED = Assumptions("tanh", 1.0)


class ChangedError(AssertionError):
    """What was read is not what comes back from a portable file."""


def main() -> None:
    """Warm up with the valid files, and answer requests until there are none."""
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    sys.stdin.close()  # and what they read is no request
    warnings.simplefilter("ignore")
    settings = json.loads(requests.readline())
    folder = Path(settings["folder"])
    tempfile.tempdir = str(folder)
    trial = Trial(folder, Guard(folder), Decoys(Path(settings["decoys"])))
    for request in settings["warmup"]:
        trial.warm(request)
    limit_memory(_ADDRESSES)
    print(json.dumps({"ready": True}), file=answers)
    for line in requests:
        print(json.dumps(trial.examined(json.loads(line))), file=answers)


class Trial:
    """Reads files, and tells what came of it."""

    def __init__(self, folder: Path, guard: Guard, decoys: Decoys) -> None:
        self._folder, self._guard, self._decoys = folder, guard, decoys

    def warm(self, request: dict[str, Any]) -> None:
        """Read without being watched, so that libraries import what they import late."""
        for named in (None, request["format"]):
            with contextlib.suppress(Exception):  # what is wrong with a file is told when it is examined
                self._read(request, named)

    def examined(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return what came of reading a file, how long it took, and how much memory."""
        reset_peak()
        before = peak_memory()
        self._decoys.opened()
        start = time.process_time()
        outcomes = [self._outcome(request, named) for named in (None, request["format"])]
        worst = max(outcomes, key=lambda told: bool(told.get("kind")))
        return {
            **worst,
            "read": outcomes[-1]["outcome"] == "read",
            "seconds": time.process_time() - start,
            "memory": max(0, peak_memory() - before),
        }

    def _outcome(self, request: dict[str, Any], named: str | None) -> dict[str, Any]:
        try:
            with self._guard.watching():
                self._read(request, named)
            outcome = {"outcome": "read"}
        except (RNNXError, OSError) as error:
            outcome = {"outcome": "refused", "report": f"{type(error).__name__}: {error}"}
        except (Exception, Forbidden, SystemExit) as error:
            kind = "forbidden" if isinstance(error, Forbidden) else type(error).__name__
            return {"outcome": "failed", "kind": kind, "where": _where(error), "report": _report(error)}
        if self._decoys.opened():
            return {"outcome": "failed", "kind": "forbidden", "where": "decoy", "report": "a decoy was opened\n"}
        return outcome

    def _read(self, request: dict[str, Any], named: str | None) -> None:
        path = Path(request["path"])
        cell = BaseRNNCell.from_spec(CellSpec.from_json(request["cell"])) if request["cell"] else None
        archive = read_archive(path, cell, _ASSUMED if named else Assumptions(), named)
        for part in archive.parts.values():
            _ = part.cell
        with self._kept(archive) as other:
            if other is not None:
                compare(archive, other)

    @contextlib.contextmanager
    def _kept(self, archive: Archive) -> Iterator[Archive | None]:
        """Give the archive as it comes back from a portable file; None if it has no place in one."""
        path = self._folder / "kept.rnnx"
        try:
            PortableFormat().write(path, archive, Accepted())
        except (RNNXError, OSError):
            yield None
            return
        try:
            yield _read_back(path)
        finally:
            path.unlink()


def _read_back(path: Path) -> Archive:
    try:
        return read_archive(path, from_="rnnx")
    except (RNNXError, OSError) as error:
        raise ChangedError(f"the portable file written of it is refused: {error}") from error


def compare(one: Archive, other: Archive) -> None:
    """Raise `ChangedError` if two archives differ in an array, a file or the name of a part."""
    if list(one.parts) != list(other.parts):
        raise ChangedError(f"parts {list(one.parts)} came back as {list(other.parts)}")
    _compare("extra arrays", one.extra, other.extra)
    for name, part in one.parts.items():
        _compare(f"part {name!r}", part.weights, other.parts[name].weights)
    if dict(one.files) != dict(other.files):
        raise ChangedError(f"files {list(one.files)} came back as {list(other.files)}")


def _compare(what: str, one: Any, other: Any) -> None:
    if one.keys() != other.keys():
        raise ChangedError(f"{what}: {sorted(one)} came back as {sorted(other)}")
    for name in one:
        mine, theirs = np.asarray(one[name]), np.asarray(other[name])
        if (mine.shape, mine.dtype) != (theirs.shape, theirs.dtype) or not _same_bits(mine, theirs):
            raise ChangedError(f"{what}: {name!r} {mine.dtype}{mine.shape} came back as {theirs.dtype}{theirs.shape}")


def _same_bits(one: Any, other: Any) -> bool:
    """Compare two arrays of one shape and dtype, a piece at a time: no large copy of either is made."""
    if one.nbytes <= _PIECE or not one.ndim:
        return bool(one.tobytes() == other.tobytes())
    if len(one) == 1:
        return _same_bits(one[0], other[0])
    half = len(one) // 2
    return _same_bits(one[:half], other[:half]) and _same_bits(one[half:], other[half:])


def _report(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-20_000:]


def _where(error: BaseException) -> str:
    """Return the deepest line of rnnx, or of a plugin, that led to an error."""
    frames = list(traceback.extract_tb(error.__traceback__))
    theirs = (*(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")), _HERE, "<")
    ours = [frame for frame in frames if "/rnnx/" in frame.filename or not frame.filename.startswith(theirs)]
    last = (ours or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"


if __name__ == "__main__":
    main()

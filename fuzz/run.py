"""Damaged files, read by every reader of rnnx: each is read or refused, and nothing else may come of it.

    python fuzz/run.py [--seconds 60] [--count N] [--seed N] [--json] [FORMAT …]

A file that makes a reader raise what is not `rnnx.RNNXError` or `OSError`, crash, hang, take too much time or memory,
run code, or touch what is not in its folder is kept in ``fuzz/failures``, made smaller, with a report beside it. So is
one that is read, but does not come back the same from a portable file. The exit status is then 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from campaign import Campaign, Failure, Tally
from rich.console import Console
from rich.table import Table
from seeds import formats, seeds_of

__all__ = ["main"]

FAILURES = Path(__file__).with_name("failures")


def main(arguments: Sequence[str] | None = None) -> int:
    """Try each format for its share of the time, print a table, and return the exit status."""
    options = _options(arguments)
    names = options.formats or formats()
    console = Console(stderr=options.json)
    tallies = []
    for name in names:
        with console.status(f"{name}: making valid files"):
            campaign = Campaign(name, seeds_of(name), options.seed)
        with console.status(f"{name}: reading damaged files"):
            tallies.append(campaign.run(options.seconds / len(names), options.count))
        for failure in tallies[-1].failures.values():
            console.print(f"{name}: {failure.result.kind} at {failure.result.where}: {_kept(name, failure, options)}")
    if options.json:
        print(json.dumps([_as_plain(tally) for tally in tallies], indent=2))
    else:
        console.print(_table(tallies))
    return int(any(tally.failed or tally.failures for tally in tallies))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help="all whose packages are installed, otherwise")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for all formats together (default: 60)")
    parser.add_argument("--count", type=int, help="how many files of each format, instead of a time")
    parser.add_argument("--seed", type=int, default=None, help="the same one makes the same files (default: the time)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--failures", type=Path, default=FAILURES, help="where files that fail are kept")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.formats) - set(formats()))
    if unknown:
        parser.error(f"{', '.join(unknown)}: no such format, or its packages are missing; there are {formats()}")
    if options.seed is None:
        options.seed = int(time.time())
    return options


def _kept(name: str, failure: Failure, options: argparse.Namespace) -> Path:
    """Write the files of a failure and a report, and return the folder."""
    folder: Path = options.failures / f"{name}-{options.seed}-{failure.number}"
    failure.sample.written(folder)
    result = failure.result
    lines = [
        f"format {name}, seed {options.seed}, file {failure.number}: {failure.damage}",
        f"opened {failure.sample.opened}" + (f", cell {failure.sample.cell}" if failure.sample.cell else ""),
        f"{result.kind} at {result.where} after {result.seconds:.2f} s, {result.memory} bytes",
        result.report,
    ]
    (folder / "report.txt").write_text("\n".join(lines))
    return folder


def _as_plain(tally: Tally) -> dict[str, object]:
    plain = {key: value for key, value in dataclasses.asdict(tally).items() if key != "failures"}
    failures = [
        {"kind": each.result.kind, "where": each.result.where, "file": each.number, "damage": each.damage}
        for each in tally.failures.values()
    ]
    return {**plain, "failures": failures}


def _table(tallies: Sequence[Tally]) -> Table:
    table = Table()
    for heading in ("format", "seeds", "tried", "read", "refused", "other", "slowest", "peak memory"):
        table.add_column(heading, justify="left" if heading == "format" else "right")
    for tally in tallies:
        other = f"[red]{tally.failed}[/red]" if tally.failed else "0"
        numbers = (str(tally.seeds), str(tally.tried), str(tally.read), str(tally.refused), other)
        table.add_row(tally.format, *numbers, f"{tally.slowest:.2f} s", f"{tally.memory / 2**20:.0f} MiB")
    return table


if __name__ == "__main__":
    sys.exit(main())

"""The fuzzer of ``fuzz/``: readers that need no framework withstand it, and a reader with any fault is caught by it."""

from __future__ import annotations

import itertools
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest

FUZZ = Path(__file__).parents[1] / "fuzz"
sys.path.append(str(FUZZ))

campaign = pytest.importorskip("campaign", reason="the fuzzer is not in source distributions")

import child  # noqa: E402
import mutations  # noqa: E402
import run  # noqa: E402
import seeds  # noqa: E402
import structure  # noqa: E402
from samples import Sample  # noqa: E402
from workers import Limits, Worker  # noqa: E402

from rnnx.archive import Archive, Part  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what a process does is watched by means of Linux")

#: Formats that are read with NumPy alone.
PLAIN = ("cudnn", "mxnet", "rnnx")

#: A plugin whose reader does what the file says, as no reader may.
PLANTED = '''
import ctypes
import os
import pickle
import time

import numpy as np

from rnnx.archive import Document, Format
from rnnx.errors import WeightFormatError
from rnnx.hookspecs import FormatInfo, hookimpl

libc = ctypes.CDLL(None)
kept = []


@hookimpl
def rnnx_formats():
    return [FormatInfo("planted", "planted:Planted")]


class Odd(bytes):
    """Bytes that are equal to none."""

    __hash__ = None

    def __eq__(self, other):
        return False


class Planted(Format):
    name = "planted"

    def recognises(self, path, head):
        return head.startswith(b"planted")

    def read(self, path):
        told = path.read_bytes().decode("latin-1").removeprefix("planted ")
        if "!" in told:
            raise KeyError("!")
        FAULTS.get(told, print)(told)
        return Document({"array": np.zeros(3)}, {"odd": Odd(b"bytes")} if told == "misread" else {})

    def find(self, document, assume):
        return ()

    def layouts(self, archive):
        return {}

    def write(self, path, archive, accepted):
        raise NotImplementedError


def refuse(told):
    raise WeightFormatError("no")


def work(told):
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass


FAULTS = {
    "refuse": refuse,
    "missing": lambda told: open("nowhere"),
    "recursion": lambda told: FAULTS["recursion"](told),
    "exit": lambda told: exit(0),
    "hang": lambda told: time.sleep(60),
    "slow": work,
    "much": lambda told: np.ones(2**23),
    "endless": lambda told: np.zeros(2**34),
    "keep": lambda told: kept.append(bytes(2**24)),
    "abort": lambda told: os.abort(),
    "fault": lambda told: ctypes.string_at(0),
    "outside": lambda told: open("/etc/hostname"),
    "above": lambda told: open("../decoy/decoy.bin"),
    "unheard": lambda told: libc.open(b"../decoy/decoy.bin", 0),
    "write": lambda told: open("../written", "w"),
    "remove": lambda told: os.remove("../decoy/decoy.bin"),
    "run": lambda told: os.system("true"),
    "code": lambda told: exec("1 + 1"),
    "import": lambda told: __import__("rnnx_canary"),
    "pickle": lambda told: pickle.loads(b"cos\\nsystem\\n(S'true'\\ntR."),
}
'''


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Make the plugin known to processes that are started, as an installed package is."""
    folder = tmp_path / "site"
    information = folder / "planted-1.0.dist-info"
    information.mkdir(parents=True)
    (folder / "planted.py").write_text(PLANTED)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[rnnx]\nplanted = planted\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(run, "formats", lambda: ["planted"])
    monkeypatch.setattr(run, "seeds_of", lambda name: [said("nothing"), said("much ado")])


def said(what: str) -> Sample:
    return Sample("file", {"file": f"planted {what}".encode()})


@pytest.fixture
def worker(tmp_path, planted):
    made = Worker("planted", [said("nothing")], tmp_path / "work", Limits(seconds=0.5, clock=3, memory=2**25))
    yield made
    made.close()


# -- faults are caught ------------------------------------------------------------------------------------------------


def test_every_fault_of_a_reader_is_told_from_reading_and_refusing(worker):
    kinds = {
        "nothing": "",
        "refuse": "",
        "missing": "",
        "!": "KeyError",
        "recursion": "RecursionError",
        "exit": "SystemExit",
        "slow": "slow",
        "much": "memory",
        "endless": "MemoryError",
        **dict.fromkeys(
            ("outside", "above", "unheard", "write", "remove", "run", "code", "import", "pickle"), "forbidden"
        ),
        "misread": "ChangedError",
    }
    found = {what: worker.tried(said(what)) for what in kinds}

    assert {what: result.kind for what, result in found.items()} == kinds
    assert [what for what, result in found.items() if result.read and not result.kind] == ["nothing"]
    assert "planted.py" in found["!"].where
    assert "KeyError: '!'" in found["!"].report


def test_a_process_that_crashes_or_hangs_is_started_again(worker):
    results = [worker.tried(said(what)) for what in ("abort", "nothing", "fault", "hang", "nothing")]

    assert [result.kind for result in results] == ["crash", "", "crash", "hang", ""]
    assert "planted.py" in results[3].report  # where it hung


def test_what_a_file_leaves_behind_is_not_counted_for_the_next(worker):
    assert [worker.tried(said("keep")).kind for _ in range(6)] == [""] * 6


def test_decoys_stay_and_nothing_is_written_beside_the_file(worker, tmp_path):
    for what in ("write", "remove"):
        worker.tried(said(what))

    assert not (tmp_path / "work" / "written").exists()
    assert (tmp_path / "work" / "decoy" / "decoy.bin").exists()


def test_an_archive_that_comes_back_otherwise_is_told():
    one = Archive({}, {"a": np.zeros((3, 2**15), "f4")}, {"symbol.json": b"{}"})
    child.compare(one, Archive({}, {"a": np.zeros((3, 2**15), "f4")}, {"symbol.json": b"{}"}))
    negative = np.zeros((3, 2**15), "f4")
    negative[2, -1] = -0.0

    for other in (
        Archive({}, {"a": negative}, one.files),
        Archive({}, {"a": np.zeros((3, 2**15), "f8")}, one.files),
        Archive({}, {"b": one.extra["a"]}, one.files),
        Archive({}, one.extra, {"symbol.json": b"[]"}),
        Archive({"part": Part(None, {})}, one.extra, one.files),
    ):
        with pytest.raises(child.ChangedError, match="came back as"):
            child.compare(one, other)


# -- what the program does with them ----------------------------------------------------------------------------------


def test_a_failing_file_is_kept_smaller_and_the_exit_status_is_1(planted, tmp_path, monkeypatch, capsys):
    def with_marks(content, rng, damage):
        return content + b" and more !" * 3, "marks"

    monkeypatch.setattr(structure, "changed", with_marks)

    status = run.main(["--count", "8", "--seed", "3", "--json", "--failures", str(tmp_path / "kept")])

    (told,) = json.loads(capsys.readouterr().out)
    assert status == 1
    assert told["tried"] == 8
    assert told["failed"] >= 1
    assert told["tried"] == told["read"] + told["refused"] + told["failed"]
    (failure,) = told["failures"]
    folder = tmp_path / "kept" / f"planted-3-{failure['file']}"
    assert (folder / "file").read_bytes() == b"!"
    report = (folder / "report.txt").read_text()
    assert "format planted, seed 3" in report
    assert "KeyError" in report


def test_readers_without_frameworks_withstand_it(tmp_path, capsys):
    status = run.main(["--count", "40", "--seed", "1", "--failures", str(tmp_path), *PLAIN])

    table = capsys.readouterr().out
    assert not list(tmp_path.iterdir()), table
    assert status == 0, table
    assert all(name in table for name in PLAIN)


def test_an_unknown_format_is_a_wrong_argument(capsys):
    with pytest.raises(SystemExit, match="2"):
        run.main(["nosuch"])
    assert "nosuch: no such format" in capsys.readouterr().err


# -- the files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
def test_the_same_seed_makes_the_same_files(name):
    def first(seed: int) -> list[tuple[Sample, str]]:
        return list(itertools.islice(campaign.damaged_samples(name, seeds.seeds_of(name), seed), 40))

    assert first(1) == first(1)
    assert first(1) != first(2)


def test_most_damage_goes_past_the_digest_of_a_portable_file(tmp_path):
    """A digest that does not fit hides all else that is wrong with a file."""
    (sample, *_) = seeds.seeds_of("rnnx")
    rng, messages = random.Random(0), []
    for _ in range(100):
        content, kind = structure.changed(sample.files["model.rnnx"], rng, mutations.damaged)
        assert kind == "safetensors"
        path = sample.having("model.rnnx", content).written(tmp_path)
        try:
            child.read_archive(path, from_="rnnx")
        except child.RNNXError as error:
            messages.append(str(error))

    assert sum("digest" in message for message in messages) < 30
    assert len({message.partition("model.rnnx")[2][:60] for message in messages}) > 10

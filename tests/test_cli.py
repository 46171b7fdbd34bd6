"""The command line: what it prints, as text and as JSON, and what it exits with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file

import kernelled
import networks
import rnnx
from rnnx import trials, verification
from rnnx.archive import Accepted, Archive, Part
from rnnx.cli import main
from rnnx.files import read_archive
from rnnx.formats.mxnet.ndarray import write_ndarrays
from rnnx.formats.portable import PortableFormat
from rnnx.reference import reference_path

SHERLOCK = Path(__file__).parents[1] / "examples" / "sherlock" / "sherlock-0010.params"

EXTRA = {"embed_weight": np.arange(15, dtype=np.float32).reshape(3, 5)}


@pytest.fixture(autouse=True)
def numpy_and_what_a_test_registers(monkeypatch, fresh_registry):
    installed = {status.name for status in rnnx.list_backends()} - {"numpy"}
    monkeypatch.setattr(trials, "REPEATS", 1)
    monkeypatch.setattr(
        verification, "list_backends", lambda: [each for each in rnnx.list_backends() if each.name not in installed]
    )


@pytest.fixture
def fused_file(tmp_path) -> Path:
    cell = rnnx.FusedRNNCell(4, 2, "lstm", dropout=0.2, prefix="lstm_")
    rnnx.save(tmp_path / "fused.rnnx", networks.randomized(cell, 5, "float32"), EXTRA)
    return tmp_path / "fused.rnnx"


@pytest.fixture
def two_parts(tmp_path) -> Path:
    encoder = networks.sequential(
        rnnx.BidirectionalCell(rnnx.LSTMCell(6, prefix="enc_l_"), rnnx.LSTMCell(6, prefix="enc_r_")),
        rnnx.ZoneoutCell(rnnx.GRUCell(12, prefix="enc_g_", reset_after=False), 0.1, 0.2),
        rnnx.ResidualCell(rnnx.RNNCell(12, "softsign", prefix="enc_s_")),
    )
    decoder = networks.randomized(rnnx.LSTMCell(7, prefix="dec_"), 9)
    parts = {"enc_": Part.of(networks.randomized(encoder, 5)), "dec_": Part.of(decoder)}
    PortableFormat().write(tmp_path / "two.rnnx", Archive(parts, {}), Accepted())
    return tmp_path / "two.rnnx"


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def call_json(*arguments: object, code: int = 0):
    result = call(*arguments, "--json", code=code)
    assert result.stderr == ""
    return json.loads(result.stdout)


def assert_refused(result: Result, *messages: str) -> None:
    """One line on stderr that says what is wrong, and nothing else."""
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for message in messages:
        assert message in result.stderr


def write_reference(path: Path, part: str | None = None) -> dict[str, np.ndarray]:
    """What a fused cell computes, recorded beside its file."""
    archive = read_archive(path)
    cell = next(iter(archive.parts.values())).cell if part is None else archive.parts[part].cell
    copy = rnnx.BaseRNNCell.from_spec(cell.spec)
    copy.load_params(cell.get_params())
    copy._get_next_state = True
    weights = cell.get_params()
    rng = np.random.default_rng(2)
    width = copy.input_size_of({name: array.shape for name, array in weights.items()})
    dtype = next(iter(weights.values())).dtype
    inputs = rng.normal(size=(3, 6, width)).astype(dtype)
    begin = [rng.normal(size=[size or 3 for size in shape]).astype(dtype) for shape in cell.state_shape]
    outputs, states = copy.unroll(None, inputs, begin, merge_outputs=True)
    tensors = {"inputs": inputs, "outputs": np.ascontiguousarray(outputs)}
    tensors |= {f"begin_state_{number}": state for number, state in enumerate(begin)}
    tensors |= {f"state_{number}": np.ascontiguousarray(state) for number, state in enumerate(networks.leaves(states))}
    save_reference(path, tensors, part)
    return tensors


def save_reference(path: Path, tensors: dict[str, np.ndarray], part: str | None = None) -> None:
    metadata = {"format": "rnnx-reference", "format_version": "1", "layout": "NTC", "produced_by": "mxnet 1.9.1"}
    save_file(tensors, reference_path(path), metadata | ({"part": part} if part else {}))


class TestBackends:
    def test_text(self, monkeypatch):
        monkeypatch.delenv("COLUMNS", raising=False)
        rnnx.register_backend(networks_absent())
        lines = call("backends").stdout.splitlines()
        (numpy,) = (line.split() for line in lines if line.startswith("numpy"))
        assert numpy == ["numpy", "ready", "numpy", np.__version__, "cpu"]
        (absent,) = (line for line in lines if line.startswith("absent"))
        assert "missing" in absent
        assert "no_such_framework is not installed: pip install absent" in absent  # a pipe is wider than 80 columns

    def test_json(self):
        rnnx.register_backend(networks_absent())
        found = {each["name"]: each for each in call_json("backends")["backends"]}
        assert found["numpy"] == {
            "name": "numpy",
            "available": True,
            "reason": "",
            "framework": "numpy",
            "version": np.__version__,
            "devices": ["cpu"],
        }
        assert found["absent"]["available"] is False
        assert found["absent"]["devices"] == []

    def test_one_that_does_not_import_is_not_ready(self):
        rnnx.register_backend(kernelled.info("unwritten"))
        found = {each["name"]: each for each in call_json("backends")["backends"]}
        assert found["unwritten"]["available"] is False
        assert "UnwrittenBackend" in found["unwritten"]["reason"]


def networks_absent() -> rnnx.BackendInfo:
    return rnnx.BackendInfo("absent", 1, "no_such_framework", ("no.Array",), "no:Backend", "pip install absent")


class TestInspect:
    def test_text(self, two_parts):
        text = call("inspect", two_parts).stdout
        for line in (
            "enc_  1,872 weights, float64, 5 in, 12 out",
            "└── SequentialRNNCell",
            "    ├── BidirectionalCell",
            "    │   ├── LSTMCell  6 units",
            "    │   │   ├── enc_l_i2h_weight  24 x 5",
            "    ├── ZoneoutCell  outputs 0.1, states 0.2",
            "    │   └── GRUCell  12 units, reset before the product",
            "        └── RNNCell  12 units, softsign",
            "  the cell tree is written in the file",
            "    lstm, 1 layer of 6, bidirectional: numpy.lstm",
            "      not faster: no fused kernel has this cell's equation",
            "dec_  504 weights, float64, 9 in, 7 out",
        ):
            assert line in text.splitlines()
        assert text.startswith(f"{two_parts}  {two_parts.stat().st_size:,} bytes\n")

    def test_everything_else_in_the_file_is_shown(self, fused_file):
        text = call("inspect", fused_file).stdout
        assert "└── FusedRNNCell  lstm, 2 layers, 4 units, dropout 0.2\n" in text
        assert "other arrays\n  embed_weight  3 x 5  float32\n" in text
        assert "  lstm, 2 layers of 4: numpy.lstm\n" in text

    def test_json(self, fused_file):
        found = call_json("inspect", fused_file)
        (part,) = found["parts"]
        assert (part["name"], part["input_size"], part["output_size"], part["dtype"]) == ("lstm_", 5, 4, "float32")
        assert part["weights"]["lstm_parameters"] == {"shape": [part["parameters"]], "dtype": "float32"}
        assert rnnx.CellSpec.from_dict(part["cell"]).fields["num_layers"] == 2
        assert part["plan"]["plan"]["kernel"] == "numpy.lstm"
        assert part["evidence"] == ["the cell tree is written in the file"]
        assert found["arrays"] == {"embed_weight": {"shape": [3, 5], "dtype": "float32"}}

    def test_a_file_without_recurrent_cells(self, tmp_path):
        PortableFormat().write(tmp_path / "x.rnnx", Archive({}, EXTRA), Accepted())
        text = call("inspect", tmp_path / "x.rnnx").stdout
        assert "no recurrent cells were found in it" in text
        assert "embed_weight" in text
        assert call_json("inspect", tmp_path / "x.rnnx")["parts"] == []

    def test_a_name_cannot_command_the_terminal(self, tmp_path):
        cell = networks.randomized(rnnx.LSTMCell(2, prefix="a\x1b[31m_"), 3)
        rnnx.save(tmp_path / "x.rnnx", cell, {"b\x1b]0;title\x07\n": np.ones(2), "[bold]c[/bold]": np.ones(1)})
        text = call("inspect", tmp_path / "x.rnnx").stdout
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "b\\x1b]0;title\\x07\\n" in text
        assert "[bold]c[/bold]" in text

    def test_activation(self, tmp_path):
        cell = networks.randomized(rnnx.RNNCell(4, "relu", prefix="cell_"), 5)
        rnnx.save(tmp_path / "x.rnnx", cell)
        path = tmp_path / "x-0001.params"
        call("convert", tmp_path / "x.rnnx", path, "--activation", "relu")
        assert_refused(call("inspect", path, code=2), "activation")
        assert "RNNCell  4 units, relu" in call("inspect", path, "--activation", "relu").stdout


class TestConvert:
    def test_there_and_back(self, fused_file, tmp_path):
        there, back = tmp_path / "a-0001.params", tmp_path / "b.rnnx"
        lines = call("convert", fused_file, there).stdout.splitlines()
        assert lines == [
            f"wrote {there}",
            "  lstm_  FusedRNNCell, 336 weights, float32",
            "  other arrays: embed_weight",
        ]
        call("convert", there, back)
        before, after = read_archive(fused_file), read_archive(back)
        old, new = before.parts["lstm_"].cell, after.parts["lstm_"].cell
        np.testing.assert_array_equal(old.get_params()["lstm_parameters"], new.get_params()["lstm_parameters"])
        np.testing.assert_array_equal(after.extra["embed_weight"], EXTRA["embed_weight"])

    def test_unfused_and_fused(self, fused_file, tmp_path):
        one, two = tmp_path / "one.rnnx", tmp_path / "two.rnnx"
        assert "lstm_  SequentialRNNCell" in call("convert", fused_file, one, "--unfuse").stdout
        assert "lstm_  FusedRNNCell" in call("convert", one, two, "--fuse").stdout
        assert read_archive(two).parts["lstm_"].cell.spec.fields["dropout"] == 0.2

    def test_json(self, fused_file, tmp_path):
        found = call_json("convert", fused_file, tmp_path / "x.out", "--to", "rnnx", "--from", "rnnx")
        assert (found["file"], found["source"]) == (str(tmp_path / "x.out"), str(fused_file))
        assert found["format"] == "rnnx"
        assert found["parts"][0]["parameters"] == 336
        assert "comparison" not in found

    def test_dtype(self, fused_file, tmp_path):
        text = call("convert", fused_file, tmp_path / "x.rnnx", "--dtype", "float64", "--verify").stdout
        assert "lstm_: 0 of 32 weights bit for bit; largest differences when run: outputs " in text
        assert text.splitlines()[-1] == "read again: the networks compute the same"
        assert call_json("inspect", tmp_path / "x.rnnx")["parts"][0]["dtype"] == "float64"
        assert "float64" in call("convert", fused_file, tmp_path / "y.rnnx", "--dtype", "int8", code=2).stderr
        assert not (tmp_path / "y.rnnx").exists()

    def test_a_symbol_is_kept_or_dropped_but_never_made_wrong(self, tmp_path):
        there = tmp_path / "there.rnnx"
        assert_refused(call("convert", SHERLOCK, there, "--unfuse", code=2), "--drop-files")
        assert not there.exists()
        assert "  files: symbol.json\n" in call("convert", SHERLOCK, there).stdout
        assert "files" not in call("convert", SHERLOCK, there, "--unfuse", "--drop-files").stdout
        assert read_archive(there).files == {}

    def test_another_networks_symbol_is_not_left_beside_it(self, tmp_path):
        (tmp_path / "x-symbol.json").write_bytes(SHERLOCK.with_name("sherlock-symbol.json").read_bytes())
        call("convert", SHERLOCK, tmp_path / "sherlock.rnnx", "--drop-files")
        refused = call("convert", tmp_path / "sherlock.rnnx", tmp_path / "x-0001.params", code=2)
        assert_refused(refused, "x-symbol.json is there and would be taken for the symbol of what is written")
        assert not (tmp_path / "x-0001.params").exists()

    def test_verified(self, fused_file, tmp_path):
        there = tmp_path / "a-0001.params"
        lines = call("convert", fused_file, there, "--unfuse", "--verify").stdout.splitlines()
        assert lines[-2:] == [
            "  lstm_: 32 of 32 weights bit for bit; largest differences when run: outputs 0.0e+00, states 0.0e+00",
            "read again: the same, bit for bit",
        ]
        found = call_json("convert", fused_file, there, "--verify")["comparison"]
        assert (found["exact"], found["agrees"], found["differing"]) == (True, True, [])
        assert found["parts"][0]["computed"] == {"outputs": 0.0, "states": 0.0, "agrees": True}

    @pytest.mark.parametrize(("step", "agrees"), [(1e-3, False), (1e-7, True)])
    def test_a_changed_weight_is_seen(self, fused_file, tmp_path, monkeypatch, step, agrees):
        def write(self, path: Path, archive: Archive, accepted: Accepted, written=PortableFormat.write) -> None:
            weights = dict(archive.parts["lstm_"].weights)
            weights["lstm_l0_i2h_i_weight"] = weights["lstm_l0_i2h_i_weight"] + np.float32(step)
            changed = Archive({"lstm_": Part(archive.parts["lstm_"].spec, weights)}, archive.extra)
            written(self, path, changed, accepted)

        monkeypatch.setattr(PortableFormat, "write", write)
        result = call("convert", fused_file, tmp_path / "x.rnnx", "--verify", code=0 if agrees else 1)
        verdict = "read again: the networks compute the same" if agrees else "NOT the same when read again"
        assert result.stdout.splitlines()[-1] == verdict
        assert "lstm_: 31 of 32 weights bit for bit" in result.stdout

    def test_a_dry_run_shows_what_becomes_of_what(self, tmp_path):
        source = tmp_path / "m-0001.params"
        cell = networks.randomized(rnnx.FusedRNNCell(4, mode="gru", prefix="g_"), 3, "float32")
        write_ndarrays(
            source, ["g_parameters", "pred"], [cell.get_params()["g_parameters"], np.ones((2, 2), np.float32)]
        )
        there = tmp_path / "x.rnnx"
        tree = "FusedRNNCell(4, mode='gru', prefix='g_')"
        lines = call("convert", source, there, "--cell", tree, "--dry-run", "--prefix", "top_").stdout.splitlines()
        assert lines[0] == f"{there} (rnnx) would be made so; nothing was written"
        assert "  top_l0_i2h_r_weight (4 x 3)  <-  g_parameters (108)" in lines
        assert lines[-2:] == ["other arrays", "  pred (2 x 2)  <-  pred (2 x 2)"]
        found = call_json("convert", source, there, "--cell", tree, "--dry-run")["tensors"]
        assert found[0] == {
            "name": "g_l0_i2h_r_weight",
            "shape": [4, 3],
            "sources": {"g_parameters": [108]},
            "part": "cell",
        }
        assert not there.exists()

    def test_several_of_more_parts(self, two_parts, tmp_path):
        there = tmp_path / "both.rnnx"
        call("convert", two_parts, there, "--select", "dec_", "--select", "enc_")
        assert list(read_archive(there).parts) == ["dec_", "enc_"]
        assert_refused(
            call("convert", two_parts, there, "--select", "dec_", "--select", "x", code=2), "no recurrent part 'x'"
        )

    def test_several_parts_as_a_stack(self, tmp_path):
        lower, upper = (
            networks.randomized(rnnx.LSTMCell(4, f"{name}_"), 4, "float32", seed) for seed, name in enumerate("ab")
        )
        parts = {"a_": Part.of(lower), "b_": Part.of(upper)}
        PortableFormat().write(tmp_path / "two.rnnx", Archive(parts, {}), Accepted())
        lines = call("convert", tmp_path / "two.rnnx", tmp_path / "one.rnnx", "--stack", "--verify").stdout.splitlines()
        assert lines[1] == "  a_+b_  SequentialRNNCell, 320 weights, float32"
        assert lines[-1] == "read again: the same, bit for bit"
        found = call_json("convert", tmp_path / "two.rnnx", tmp_path / "x.rnnx", "--stack", "--dry-run")["tensors"]
        assert {each["part"] for each in found} == {"a_+b_"}
        assert found[0]["sources"] == {"a_i2h_i_weight": [4, 4]}

    def test_verification_finds_parts_by_their_weights(self, tmp_path):
        """Whatever the order in which a format lists them."""
        parts = {
            name: Part.of(networks.randomized(rnnx.LSTMCell(4, name), 3, "float32", seed))
            for seed, name in enumerate(("z_", "a_"))
        }
        PortableFormat().write(tmp_path / "two.rnnx", Archive(parts, {}), Accepted())
        lines = call("convert", tmp_path / "two.rnnx", tmp_path / "two-0001.params", "--verify").stdout.splitlines()
        assert lines[-1] == "read again: the same, bit for bit"

    def test_one_of_several_parts_alone_and_under_another_name(self, two_parts, tmp_path):
        there = tmp_path / "one.rnnx"
        call("convert", two_parts, there, "--select", "enc_", "--prefix", "new_")
        archive = read_archive(there)
        assert (list(archive.parts), archive.extra) == (["enc_"], {})
        wanted = read_archive(two_parts).parts["enc_"].cell.get_params()
        for name, array in archive.parts["enc_"].cell.get_params().items():
            np.testing.assert_array_equal(array, wanted["enc_" + name.removeprefix("new_")])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--to", "mxnte"), "no format is called 'mxnte' (nearest: 'mxnet')"),
            (("--from", "mxnet"), ""),
            (("--fuse", "--unfuse"), "undo each other"),
            ((), "tells no format"),
        ],
    )
    def test_refusals(self, fused_file, tmp_path, options, message):
        assert_refused(call("convert", fused_file, tmp_path / "x.unknown", *options, code=2), message)
        assert not (tmp_path / "x.unknown").exists()


class TestVerify:
    def test_a_file_alone(self, fused_file):
        result = call("verify", fused_file)
        lines = result.stdout.splitlines()
        assert lines[1] == "└── FusedRNNCell  lstm, 2 layers, 4 units, dropout 0.2"
        rows = {tuple(line.split()[:2]): line.split() for line in lines if line.startswith("numpy")}
        assert rows["numpy", "fused"][2:6] == ["numpy.lstm", "-", "-", "-"]
        assert rows["numpy", "unfused"][2:5] == ["2", "x", "numpy.loop"]
        assert [row[-1] for row in rows.values()] == ["agrees"] * 3
        assert lines[-1] == "verified: 3 runs on numpy agree with each other to 1e-05"
        assert result.stderr == ""

    def test_against_a_reference(self, fused_file):
        write_reference(fused_file)
        lines = call("verify", fused_file).stdout.splitlines()
        assert lines[-1] == "verified: 3 runs on numpy agree with mxnet 1.9.1 to 1e-05"
        assert "3 sequences of 6 steps, recorded" in lines
        assert "outputs, states: largest differences from mxnet 1.9.1" in lines

    def test_numbers_that_differ_from_the_reference(self, fused_file):
        tensors = write_reference(fused_file)
        tensors["outputs"][1, 2, 3] += 0.25
        save_reference(fused_file, tensors)
        lines = call("verify", fused_file, code=1).stdout.splitlines()
        assert lines[-1].startswith("NOT verified: numpy fused differs from mxnet 1.9.1 by 2.5e-01; ")
        row = next(line for line in lines if line.startswith("numpy"))
        assert row.split()[3] == "2.5e-01"
        assert row.split()[-1] == "DIFFERS"
        found = call_json("verify", fused_file, code=1)
        assert found["verified"] is False
        assert found["parts"][0]["runs"][0]["recorded"]["outputs"] == pytest.approx(0.25)

    def test_json(self, fused_file):
        write_reference(fused_file)
        found = call_json("verify", fused_file)
        assert found["verified"] is True
        (part,) = found["parts"]
        assert (part["name"], part["source"], part["batch"], part["steps"]) == ("lstm_", "mxnet 1.9.1", 3, 6)
        assert [run["form"] for run in part["runs"]] == ["fused", "unfused", "unfuse()"]
        assert part["runs"][0]["kernels"] == ["numpy.lstm"]

    def test_nan_is_json_too(self, fused_file, tmp_path):
        cell = read_archive(fused_file).parts["lstm_"].cell
        cell.load_params({"lstm_parameters": np.full_like(cell.get_params()["lstm_parameters"], np.nan)})
        rnnx.save(tmp_path / "nan.rnnx", cell)
        found = call_json("verify", tmp_path / "nan.rnnx", code=1)
        assert found["parts"][0]["runs"][1]["first"]["outputs"] == "nan"

    def test_several_parts_are_each_verified(self, two_parts):
        lines = call("verify", two_parts).stdout.splitlines()
        assert sum(line.startswith(("enc_ ", "dec_ ")) for line in lines) == 2
        assert lines[-1] == "verified: 4 runs on numpy agree with each other to 1e-12"
        assert [part["name"] for part in call_json("verify", two_parts)["parts"]] == ["enc_", "dec_"]

    def test_one_part_may_be_selected(self, two_parts):
        (part,) = call_json("verify", two_parts, "--select", "dec_")["parts"]
        assert part["name"] == "dec_"
        assert_refused(call("verify", two_parts, "--select", "dek_", code=2), "no recurrent part 'dek_'", "'dec_'")

    def test_a_reference_is_of_one_part(self, two_parts):
        write_reference(two_parts, "dec_")
        found = {part["name"]: part for part in call_json("verify", two_parts)["parts"]}
        assert (found["dec_"]["source"], found["enc_"]["source"]) == ("mxnet 1.9.1", None)
        tensors = load_file(reference_path(two_parts))
        save_reference(two_parts, tensors)
        assert_refused(call("verify", two_parts, code=2), "does not say which part it is of", "--select")
        assert call_json("verify", two_parts, "--select", "dec_")["parts"][0]["source"] == "mxnet 1.9.1"
        save_reference(two_parts, tensors, "other_")
        assert_refused(call("verify", two_parts, code=2), "is of a part 'other_'", "'enc_', 'dec_'")

    def test_a_broken_backend_is_found(self, fused_file):
        rnnx.register_backend(kernelled.info("swapping"))
        lines = call("verify", fused_file, code=1).stdout.splitlines()
        (row,) = (line.split() for line in lines if line.startswith("swapping  fused"))
        assert (row[2], row[-1]) == ("swapping.lstm", "DIFFERS")
        assert lines[-1].startswith("NOT verified: swapping fused differs from numpy fused by ")

    def test_a_backend_that_fails_is_shown(self, fused_file):
        rnnx.register_backend(kernelled.info("raising"))
        lines = call("verify", fused_file, code=1).stdout.splitlines()
        assert any(line.startswith("raising  fused") and line.rstrip().endswith("FAILED") for line in lines)
        assert "raising fused failed: RuntimeError: no kernel image is available" in lines[-1]

    def test_a_right_backend_is_counted(self, fused_file):
        rnnx.register_backend(kernelled.info("right"))
        assert call("verify", fused_file).stdout.endswith("6 runs on numpy, right agree with each other to 1e-05\n")

    def test_a_backend_that_is_not_installed_is_named(self, fused_file):
        rnnx.register_backend(networks_absent())
        assert "not run on absent: no_such_framework is not installed: pip" in call("verify", fused_file).stdout


class TestBadInput:
    @pytest.mark.parametrize("command", ["inspect", "verify"])
    def test_a_missing_file(self, tmp_path, command):
        assert_refused(
            call(command, tmp_path / "no.rnnx", code=2), f"{tmp_path / 'no.rnnx'}: No such file or directory"
        )

    @pytest.mark.parametrize("command", ["inspect", "verify"])
    def test_a_file_of_no_known_format(self, tmp_path, command):
        (tmp_path / "x.txt").write_text("Call me Ishmael.")
        assert_refused(call(command, tmp_path / "x.txt", code=2), "is of no known format")

    @pytest.mark.parametrize("command", ["inspect", "verify"])
    def test_a_tampered_weight(self, fused_file, command):
        data = bytearray(fused_file.read_bytes())
        data[-3] ^= 1
        fused_file.write_bytes(data)
        assert_refused(call(command, fused_file, code=2), "was changed after it was written")

    def test_a_damaged_reference(self, fused_file):
        write_reference(fused_file)
        path = reference_path(fused_file)
        path.write_bytes(path.read_bytes()[:-4])
        assert_refused(call("verify", fused_file, code=2), str(path), "is damaged")

    def test_a_reference_of_another_network(self, fused_file, tmp_path):
        write_reference(fused_file)
        cell = networks.randomized(rnnx.FusedRNNCell(4, 3, prefix="lstm_"), 5, "float32")
        rnnx.save(fused_file, cell)
        assert_refused(call("verify", fused_file, code=2), "the reference is of another network", "(3, 3, 4)")

    def test_nothing_to_verify(self, tmp_path):
        PortableFormat().write(tmp_path / "x.rnnx", Archive({}, EXTRA), Accepted())
        assert_refused(call("verify", tmp_path / "x.rnnx", code=2), "nothing to verify")

    def test_nothing_is_printed_as_json(self, tmp_path):
        assert_refused(call("verify", tmp_path / "no.rnnx", "--json", code=2))

    def test_debug_shows_where(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            call("--debug", "verify", tmp_path / "no.rnnx")

    def test_a_command_that_does_not_exist(self):
        assert "No such command" in call("verfiy", code=2).stderr


class TestAsAProgram:
    """The installed command and ``python -m rnnx``, in a process of their own."""

    def run(self, *command: object, **options) -> subprocess.CompletedProcess[str]:
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)

    @pytest.fixture(params=["script", "module"])
    def program(self, request) -> list[str]:
        script = Path(sys.executable).with_name("rnnx")
        return [str(script)] if request.param == "script" else [sys.executable, "-m", "rnnx"]

    def test_version_exit_codes_and_plain_text(self, program, fused_file):
        environment = {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "COLUMNS")}
        done = self.run(*program, "--version")
        assert (done.returncode, done.stdout.split()[-1]) == (0, rnnx.__version__)
        done = self.run(*program, "inspect", fused_file, env=environment)
        assert (done.returncode, done.stderr) == (0, "")
        assert "\x1b" not in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= 100
        assert self.run(*program, "inspect", "no.rnnx").returncode == 2

    @pytest.mark.parametrize("options", [[], ["--json"]])
    def test_a_reader_that_leaves_early_is_no_error(self, fused_file, options):
        command = [sys.executable, "-m", "rnnx", "inspect", str(fused_file), *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            process.stdout.close()
            assert process.stderr.read() == b""

    def test_importing_rnnx_imports_nothing_of_it(self):
        code = (
            "import sys, rnnx; "
            "print([name for name in ('click', 'rich', 'rnnx.cli', 'rnnx.verification') if name in sys.modules])"
        )
        assert self.run(sys.executable, "-c", code).stdout == "[]\n"


class TestSherlock:
    """The checkpoint that MXNet trained, on every backend that is installed."""

    def test_it_is_verified(self):
        command = [sys.executable, "-m", "rnnx", "verify", str(SHERLOCK)]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        lines = done.stdout.splitlines()
        assert "perplexity: 41.962, recorded by mxnet 1.9.1: 41.962" in lines
        assert "inputs: the recorded tokens, embedded, are what mxnet 1.9.1 read, bit for bit" in lines
        assert lines[-1].startswith("verified: ")
        assert " agree with mxnet 1.9.1 to 1e-05" in lines[-1]

    def test_its_portable_copy_is_verified(self, tmp_path):
        call("convert", SHERLOCK, tmp_path / "copy.rnnx")
        reference_path(tmp_path / "copy.rnnx").write_bytes(reference_path(SHERLOCK).read_bytes())
        (part,) = call_json("verify", tmp_path / "copy.rnnx")["parts"]
        assert part["perplexity"]["agrees"] is True
        assert part["source"] == "mxnet 1.9.1"

    def test_another_weight_is_another_network(self, tmp_path):
        cell, extra = rnnx.load(SHERLOCK)
        weights = cell.get_params()
        weights["lstm_parameters"][100] += 0.5
        cell.load_params(weights)
        rnnx.save(tmp_path / "copy.rnnx", cell, extra)
        reference_path(tmp_path / "copy.rnnx").write_bytes(reference_path(SHERLOCK).read_bytes())
        found = call_json("verify", tmp_path / "copy.rnnx", code=1)
        assert found["parts"][0]["problems"][0].startswith("numpy fused differs from mxnet 1.9.1 by ")

    def test_inspecting_shows_the_evidence(self):
        text = call("inspect", SHERLOCK).stdout
        assert "RNN node 'lstm_rnn': mode lstm, 60 hidden, num_layers 2" in text
        assert "symbol.json  2,658 bytes" in text

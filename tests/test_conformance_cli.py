"""``rnnx conformance``: the suite itself, run on backends that pass it and backends that do not."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys

import pytest

from conformance_runs import run_command, run_python, write_backend

#: A few checks, for what does not depend on which.
FEW = ("-k", "test_outputs and float32 and lstm and none")


@pytest.fixture
def mine(tmp_path):
    """A folder with a backend, and how to run the command there."""

    def run(*arguments, **backend):
        write_backend(tmp_path, **backend)
        return run_command(tmp_path, "mine", "--plugin", "mine", *arguments)

    return run


def test_a_backend_of_tier_1_conforms(mine):
    process, document = mine("-n2")
    assert process.returncode == 0, process.stdout + process.stderr
    assert document["conforms"] is True
    assert document["complete"] is True
    assert document["counts"]["failed"] == 0
    assert "mine does not declare 'gradients'" in {each["reason"] for each in document["skips"]}
    assert document["kernels"] == ["mine.loop"]
    assert document["verdict"].startswith("mine conforms: ")
    assert process.stdout.rstrip().endswith(document["verdict"])


def test_numpy_is_run_without_a_plugin(tmp_path):
    process, document = run_command(tmp_path, "numpy", *FEW)
    assert process.returncode == 0
    assert document["conforms"] is None
    assert document["left_out"] > 0
    assert "numpy was judged in part: " in process.stdout
    assert "numpy.lstm" in document["kernels"]


def test_a_backend_that_is_wrong_does_not_conform(mine):
    body = "def tanh(self, array):\n    return Mine.sigmoid(self, array)"
    process, document = mine("-k", "test_outputs and float32 and lstm", "--html=page.html", body=body)
    assert process.returncode == 1
    assert document["conforms"] is False
    assert "FAILED test_outputs.py::" in process.stdout
    assert "more failures: --html FILE has them all" in process.stdout
    assert "mine does not conform: " in process.stdout
    for inside in ("Traceback", "_pytest", "conformance/judging.py", "pluggy"):
        assert inside not in process.stdout + process.stderr


def test_the_first_failure_ends_it_if_asked(mine):
    body = "def tanh(self, array):\n    return Mine.sigmoid(self, array)"
    process, document = mine(*FEW, "-x", body=body)
    assert process.returncode == 1
    assert document["counts"]["failed"] == 1
    assert document["complete"] is False


def test_json_can_be_printed(tmp_path):
    process = run_python(tmp_path, "-m", "rnnx", "conformance", "numpy", "--json", "-", *FEW)
    assert json.loads(process.stdout)["backend"] == "numpy"
    assert process.stderr == ""


@pytest.mark.parametrize("processes", ["-n0", "-n2"])
def test_an_expected_failure_that_is_no_check_is_refused(mine, processes):
    process, document = mine(*FEW, processes, expected={"test_outputs.py::test_nothing*": "why not"})
    assert process.returncode == 2
    assert document["checks"] == []
    assert "mine expects 'test_outputs.py::test_nothing*' to fail, which is no check" in process.stdout


def test_expected_failures_are_told(mine):
    body = "def tanh(self, array):\n    return Mine.sigmoid(self, array)"
    process, document = mine(*FEW, body=body, expected={"test_*.py::*": "tanh is missing"})
    assert process.returncode in (1, 2)
    assert document["counts"]["expected"] > 0
    assert "test_*.py::*: tanh is missing" in process.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nump"], "error: no backend is called 'nump' (nearest: 'numpy')"),
        (["numpy", "--device", "gpu"], "error: backend 'numpy' has no device 'gpu'; there are cpu"),
        (
            ["numpy", "--plugin", "no_such_module"],
            "error: --plugin no_such_module does not import: ModuleNotFoundError",
        ),
        (["numpy", "--html", "nowhere/page.html"], "error: nowhere: No such file or directory"),
        (["numpy", "--html", "."], "error: .: Is a directory"),
        (["numpy", "-n", "-1"], "-1 is not in the range"),
        ([], "Missing argument 'NAME'"),
    ],
)
def test_a_wrong_command_is_told_in_a_line(tmp_path, arguments, said):
    process, document = run_command(tmp_path, *arguments)
    assert process.returncode == 2
    assert document is None
    assert said in process.stderr
    assert "Traceback" not in process.stderr


def test_a_framework_that_is_not_installed_is_told_with_what_to_type(tmp_path):
    write_backend(tmp_path)
    text = (tmp_path / "mine.py").read_text()
    text = text.replace('target="mine:Mine"', 'target="no_such_framework:Mine", install_hint="pip install frame"')
    (tmp_path / "mine.py").write_text(text)
    process, _ = run_command(tmp_path, "mine", "--plugin", "mine")
    assert process.returncode == 2
    assert "No module named 'no_such_framework'): pip install frame" in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize("processes", ["-n0", "-n2"])
@pytest.mark.parametrize(
    ("expression", "said"), [("and and", "Wrong expression"), ("nothing_like_it", "no check passed or failed")]
)
def test_a_choice_of_nothing_is_refused(tmp_path, expression, said, processes):
    process, _ = run_command(tmp_path, "numpy", "-k", expression, processes)
    assert process.returncode == 2
    assert f"numpy was not judged: {said}" in process.stdout
    assert "INTERNALERROR" not in process.stdout + process.stderr


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("pytest", "error: the checks need pytest"),
        ("xdist", "error: several processes need xdist"),
    ],
)
def test_without_the_extra_it_says_what_to_install(tmp_path, module, said):
    without = f"import sys; sys.modules[{module!r}] = None; from rnnx.cli import main; main()"
    process = run_python(tmp_path, "-c", without, "conformance", "numpy", "-n2")
    assert process.returncode == 2
    assert said in process.stderr
    assert "pip install 'rnnx[conformance]'" in process.stderr
    assert "Traceback" not in process.stderr


def test_nothing_of_the_users_pytest_changes_the_run(tmp_path):
    _, plain = run_command(tmp_path, "numpy", *FEW)
    (tmp_path / "pytest.ini").write_text("[pytest]\npython_files = check_*.py\naddopts = -k nothing_like_it\n")
    (tmp_path / "conftest.py").write_text("raise SystemExit('a conftest of the user')\n")
    (tmp_path / "noisy.py").write_text("raise SystemExit('a plugin of the user')\n")
    settings = {"PYTEST_ADDOPTS": "--maxfail=1 -k nothing_like_it", "PYTEST_PLUGINS": "noisy"}
    process, document = run_command(tmp_path, "numpy", *FEW, **settings)
    assert process.returncode == 0, process.stderr
    assert [check["id"] for check in document["checks"]] == [check["id"] for check in plain["checks"]]


def test_without_the_command_no_test_framework_is_imported(tmp_path):
    code = "import sys, rnnx.cli; assert not {'pytest', 'rnnx.conformance'} & set(sys.modules)"
    assert run_python(tmp_path, "-c", code).returncode == 0


def test_a_terminal_shows_a_bar(tmp_path):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "rnnx", "conformance", "numpy", *FEW]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=theirs):
        os.close(theirs)
        shown = b"".join(read_until_closed(ours))
    os.close(ours)
    assert "checking: test_outputs.py::" in shown.decode()


def read_until_closed(terminal):
    """Yield what is written to a terminal; its other end, once closed, is an input/output error."""
    with contextlib.suppress(OSError):
        while chunk := os.read(terminal, 4096):
            yield chunk

"""The pytest plugin of the conformance suite, on checks written for the occasion."""

from __future__ import annotations

import numpy as np
import pytest

import rnnx
import tier1
from conformance_runs import outcomes, run_pytest, write_backend
from rnnx.backend import CAPABILITIES
from rnnx.conformance.collecting import AREAS
from rnnx.conformance.subject import DTYPES, TOLERANCES, register_hooks, subjects_of
from rnnx.errors import RNNXError
from rnnx.hookspecs import Conformance

CHECKS = '''
"""Several ways to end.

More is told of no area.
"""
import warnings
import pytest


def test_passes(subject, record_property):
    record_property("kernel", "mine.loop")


def test_fails(subject):
    assert subject.name == "yours", "found 0.5, expected 0.25"


def test_raises(subject):
    subject.backend.tanh(None)


@pytest.mark.xfail(reason="known for years", strict=True)
def test_expected(subject):
    raise AssertionError("found 0.5")


@pytest.mark.xfail(reason="known for years", strict=True)
def test_passes_unexpectedly(subject):
    pass


def test_skips_itself(subject):
    pytest.skip("not on Sundays")


@pytest.mark.needs("gradients", "threads")
def test_needs(subject):
    raise AssertionError("it runs")


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_in(subject, dtype):
    pass


def test_warns(subject):
    warnings.warn("overflow", RuntimeWarning)


def test_is_old(subject):
    warnings.warn("in version 9", DeprecationWarning)


@pytest.fixture
def broken(subject):
    raise AssertionError("no array")


def test_has_no_array(broken):
    pass


def test_of_something_else():
    raise AssertionError("this says nothing of the backend")
'''


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The checks, run once."""
    folder = tmp_path_factory.mktemp("ran")
    write_backend(folder)
    (folder / "test_fake.py").write_text(CHECKS)
    process, document = run_pytest(folder, "test_fake.py", "--rnnx-html=result.html")
    return process, document, (folder / "result.html").read_text(), folder


def test_every_outcome_is_told(ran):
    process, document, *_ = ran
    assert outcomes(document) == {
        "test_passes": "passed",
        "test_fails": "failed",
        "test_raises": "failed",
        "test_expected": "expected",
        "test_passes_unexpectedly": "failed",
        "test_skips_itself": "skipped",
        "test_needs": "skipped",
        "test_in[float32]": "passed",
        "test_in[float64]": "skipped",
        "test_in[int32]": "passed",
        "test_warns": "failed",
        "test_is_old": "passed",
        "test_has_no_array": "failed",
    }
    assert document["counts"] == {"passed": 4, "failed": 5, "expected": 1, "skipped": 3}
    assert document["conforms"] is False
    assert document["verdict"] == "mine does not conform: 5 of 10 checks that were chosen failed"
    assert process.returncode == pytest.ExitCode.TESTS_FAILED


def test_a_skip_has_its_reason(ran):
    assert {each["reason"]: each["checks"] for each in ran[1]["skips"]} == {
        "not on Sundays": 1,
        "mine does not declare 'gradients', 'threads'": 1,
        "mine does not declare 'float64'": 1,
    }


def test_what_failed_is_told_without_a_way_through_the_suite(ran):
    process, document, *_ = ran
    reports = {check["id"].rpartition(":")[2]: check["report"] for check in document["checks"]}
    assert reports["test_fails"].startswith("found 0.5, expected 0.25")
    assert "test_fake.py" not in reports["test_fails"]
    assert reports["test_passes_unexpectedly"] == "it passes, and is expected to fail: known for years"
    assert reports["test_expected"] == "found 0.5"
    assert reports["test_has_no_array"] == "no array"
    assert "RuntimeWarning: overflow" in reports["test_warns"]
    assert "found 0.5, expected 0.25" in process.stdout


def test_an_error_of_the_backend_is_told_with_the_way_to_it(ran):
    (report,) = (check["report"] for check in ran[1]["checks"] if check["id"].endswith("test_raises"))
    assert "test_fake.py" in report
    assert "tier1.py" in report
    assert "has no callable tanh method" in report
    assert "_pytest" not in report


def test_an_expected_failure_has_its_reason_and_a_kernel_its_name(ran):
    checks = {check["id"].rpartition(":")[2]: check for check in ran[1]["checks"]}
    assert checks["test_expected"]["reason"] == "known for years"
    assert checks["test_passes"]["kernels"] == ["mine.loop"]
    assert ran[1]["kernels"] == ["mine.loop"]


def test_the_matrix_is_printed(ran):
    printed = ran[0].stdout
    for line in (
        "Several ways to end.",
        "mine does not declare 'float64'",
        "mine.loop",
        "mine does not conform: 5 of 10",
    ):
        assert line in printed
    assert "More is told" not in printed


def test_the_page_has_it_too(ran):
    page = ran[2]
    assert "mine does not conform: 5 of 10" in page
    assert page.count("<details") == 6
    assert "found 0.5, expected 0.25" in page


def test_processes_of_their_own_say_the_same(ran):
    process, document = run_pytest(ran[3], "test_fake.py", "-n2")
    assert process.returncode == pytest.ExitCode.TESTS_FAILED
    assert timeless(document) == timeless(ran[1])


def timeless(document):
    """A result without its times."""
    checks = [{**check, "seconds": 0} for check in document["checks"]]
    areas = [{**area, "seconds": 0} for area in document["areas"]]
    return {**document, "seconds": 0, "checks": checks, "areas": areas}


FAKE = """
import pytest


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_it(subject, kind):
    assert kind == "lstm"
"""


def test_expected_failures_are_strict(tmp_path):
    (tmp_path / "test_fake.py").write_text(FAKE)
    write_backend(tmp_path, expected={"*test_fake.py::test_it[[]gru]": "no gru", "*[[]lstm]": "no lstm"})
    process, document = run_pytest(tmp_path, "test_fake.py")
    assert outcomes(document) == {"test_it[lstm]": "failed", "test_it[gru]": "expected"}
    assert document["checks"][1]["report"] == "it passes, and is expected to fail: no lstm"
    assert document["expected_failures"]["*[[]lstm]"] == "no lstm"
    assert process.returncode == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize("processes", ["-n0", "-n2"])
def test_an_unknown_capability_is_refused(tmp_path, processes):
    write_backend(tmp_path)
    (tmp_path / "test_fake.py").write_text(FAKE + '\n@pytest.mark.needs("gradient")\ndef test_more(subject): pass\n')
    process, document = run_pytest(tmp_path, "test_fake.py", processes)
    assert process.returncode == pytest.ExitCode.USAGE_ERROR
    assert document["conforms"] is None
    assert document["checks"] == []
    assert "test_more needs 'gradient', which is no capability (nearest: 'gradients')" in document["problems"][0]


def test_a_module_that_does_not_import_is_a_problem(tmp_path):
    write_backend(tmp_path)
    (tmp_path / "test_fake.py").write_text("import nothing_of_that_name\n")
    process, document = run_pytest(tmp_path, "test_fake.py")
    assert process.returncode == pytest.ExitCode.USAGE_ERROR
    assert "No module named 'nothing_of_that_name'" in document["problems"][0]
    assert document["verdict"].startswith("mine was not judged: ")


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ({"tolerances": {"float23": 1e-3}}, "tolerance for 'float23', which there is not (nearest: 'float32')"),
        ({"tolerances": {"float32": 0.0}}, "tolerance of 0.0 for 'float32', expected a number above 0"),
        ({"devices": ("cpu", "gpu")}, "no device 'gpu'; there are cpu"),
        ({"capabilities": ("threads",)}, "declares no dtype"),
        ({"body": "def __init__(self): raise OSError('no driver')"}, "does not import (OSError: no driver)"),
    ],
)
def test_a_backend_that_cannot_be_judged_is_refused(tmp_path, backend, said):
    write_backend(tmp_path, **backend)
    (tmp_path / "test_fake.py").write_text(FAKE)
    process, document = run_pytest(tmp_path, "test_fake.py")
    assert process.returncode == pytest.ExitCode.USAGE_ERROR
    assert document is None
    assert said in process.stderr
    assert "Traceback" not in process.stderr


def test_a_backend_that_is_not_there_is_refused(tmp_path):
    process, _ = run_pytest(tmp_path, backend="nump", plugins=())
    assert process.returncode == pytest.ExitCode.USAGE_ERROR
    assert "no backend is called 'nump' (nearest: 'numpy')" in process.stderr


def test_without_a_backend_the_fixture_says_what_is_missing(tmp_path):
    (tmp_path / "test_fake.py").write_text(FAKE)
    process, _ = run_pytest(tmp_path, "test_fake.py", backend=None, plugins=())
    assert "say --rnnx-backend=NAME" in process.stdout


def test_several_devices_are_all_run_on(tmp_path):
    body = 'def devices(self):\n    return ("cpu", "second")'
    write_backend(tmp_path, devices=("cpu", "second"), body=body)
    (tmp_path / "test_fake.py").write_text("def test_it(subject):\n    assert subject.device == 'cpu'\n")
    _, document = run_pytest(tmp_path, "test_fake.py")
    assert outcomes(document) == {"test_it[cpu]": "passed", "test_it[second]": "failed"}
    _, document = run_pytest(tmp_path, "test_fake.py", "--rnnx-device=cpu")
    assert outcomes(document) == {"test_it": "passed"}
    assert document["devices"] == ["cpu"]


INI = """[pytest]
python_files = check_*.py
python_functions = check_*
python_classes = Check*
addopts = --doctest-modules --strict-markers
filterwarnings = ignore
xfail_strict = false
"""


def test_an_ini_of_the_users_changes_nothing(tmp_path):
    write_backend(tmp_path)
    chosen = ("--pyargs", "rnnx.conformance", "--collect-only")
    plain, _ = run_pytest(tmp_path, *chosen)
    (tmp_path / "pytest.ini").write_text(INI)
    (tmp_path / "conftest.py").write_text("")
    inner = tmp_path / "inner"
    inner.mkdir()
    write_backend(inner)
    other, _ = run_pytest(inner, *chosen)
    collected = [process.stdout.count("::test_") for process in (plain, other)]
    assert collected[0] == collected[1] > 100
    for area in AREAS:
        assert f"test_{area}.py::" in other.stdout


def test_warnings_of_checks_are_errors_whatever_the_ini_says(tmp_path):
    write_backend(tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = ignore\n")
    (tmp_path / "test_fake.py").write_text("import warnings\ndef test_it(subject):\n    warnings.warn('x')\n")
    assert outcomes(run_pytest(tmp_path, "test_fake.py")[1]) == {"test_it": "failed"}


def test_checks_of_ones_own_do_not_take_the_place_of_the_suites(tmp_path):
    write_backend(tmp_path)
    (tmp_path / "test_outputs.py").write_text("def test_stepped(subject):\n    pass\n")
    _, document = run_pytest(tmp_path, "test_outputs.py")
    assert [area["name"] for area in document["areas"]] == [f"{tmp_path.name}/test_outputs"]
    assert document["complete"] is False


def test_a_place_that_is_not_there_is_refused_before_anything_runs(tmp_path):
    write_backend(tmp_path)
    process, _ = run_pytest(tmp_path, "--rnnx-html=nowhere/page.html")
    assert process.returncode == pytest.ExitCode.USAGE_ERROR
    assert "nowhere" in process.stderr


@pytest.fixture
def told(fresh_registry):
    """Register a backend, with what it says to the suite."""

    def register(conformance=None, **changes):
        module = type(tier1)("told")
        info = {"capabilities": ("float32", "float64"), **changes}
        module.rnnx_backends = hook(lambda: [rnnx.BackendInfo(**{**vars(tier1.INFO), **info})], "rnnx_backends")
        module.rnnx_conformance = hook(lambda backend: conformance, "rnnx_conformance")
        register_hooks(module, "told")

    return register


def hook(function, name):
    from rnnx.hookspecs import hookimpl

    function.__name__ = name
    return hookimpl(function)


def test_tolerances_are_the_suites_or_the_backends_own(told):
    told(Conformance(tolerances={"float32": 1e-3, "float64.gradients": 1e-9}))
    (subject,) = subjects_of("tier1")
    assert subject.tolerance("float32") == 1e-3
    assert subject.tolerance("float32", gradients=True) == TOLERANCES["float32.gradients"]
    assert subject.tolerance("float64", gradients=True) == 1e-9
    assert set(DTYPES) < set(CAPABILITIES)


def test_arrays_and_cells_are_placed_on_the_backend(told):
    told()
    (subject,) = subjects_of("tier1")
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    array = subject.array(values)
    assert isinstance(array, tier1.Wrapped)
    assert subject.numpy(array).dtype == np.float64
    np.testing.assert_array_equal(subject.numpy(array), values)
    cell = rnnx.LSTMCell(4)
    cell.initialize(3, seed=1)
    placed = subject.placed(cell, "float64")
    assert {value.dtype.name for value in placed.get_params().values()} == {"float64"}
    assert {type(parameter) for parameter in cell.get_params().values()} == {np.ndarray}
    outputs, _ = placed.unroll(None, subject.array(np.ones((2, 5, 3))), merge_outputs=True)
    assert isinstance(outputs, tier1.Wrapped)


def test_a_hook_that_returns_something_else_is_refused(told):
    told({"float32": 1e-3})
    with pytest.raises(RNNXError, match="rnnx_conformance should return a Conformance or None"):
        subjects_of("tier1")

"""What importing rnnx imports."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

FRAMEWORKS = ["torch", "tensorflow", "jax", "mxnet", "keras", "onnx", "onnxruntime", "flax", "h5py", "cupy"]

PLUGINS = [entry.value for entry in entry_points(group="rnnx")]


def imported_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after running `code`, any warning being an error."""
    report = f"{code}\nimport sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-W", "error", "-c", report], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import rnnx",
        "import rnnx; rnnx.list_backends()",
        "import rnnx, numpy; rnnx.LSTMCell(2).unroll(None, numpy.ones((1, 2, 3)))",
        *(f"import {plugin}" for plugin in PLUGINS),
    ],
)
def test_no_framework_is_imported(code):
    assert imported_by(code).isdisjoint(FRAMEWORKS)


def test_a_plugin_imports_no_backend():
    code = "import rnnx_numpy.plugin, sys; assert 'rnnx_numpy.backend' not in sys.modules"
    assert "rnnx_numpy" in imported_by(code)


def test_the_numpy_backend_is_imported_when_it_is_used():
    assert "rnnx_numpy" not in imported_by("import rnnx")


def test_every_public_name_is_there():
    code = "import rnnx; [getattr(rnnx, name) for name in rnnx.__all__]; assert set(rnnx.__all__) <= set(dir(rnnx))"
    assert imported_by(code).isdisjoint(FRAMEWORKS)


def test_a_name_that_is_not_there():
    import rnnx

    with pytest.raises(AttributeError, match="module 'rnnx' has no attribute 'LSTM'"):
        rnnx.LSTM  # noqa: B018

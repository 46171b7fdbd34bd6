"""The conformance suite of rnnx, as its command runs it."""

from __future__ import annotations

import subprocess
import sys


def test_the_backend_conforms():
    done = subprocess.run([sys.executable, "-m", "rnnx", "conformance", "jax", "-n", "2"], check=False)
    assert done.returncode == 0, "what is wrong is printed above"

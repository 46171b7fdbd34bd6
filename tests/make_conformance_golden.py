"""Write down what other frameworks compute, in the file of the conformance suite.

Run from the root of the repository, once for each environment that has some of the frameworks::

    python tests/make_conformance_golden.py torch keras onnxruntime
    python tests/make_conformance_golden.py mxnet

The cases of the frameworks named are made anew; those of all others stay as they are.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from rnnx.conformance.golden import FORMAT, FORMAT_VERSION, PATH, Golden, read

#: The module that makes each framework's cases.
PARTS = {
    "mxnet": "oracle.golden_mxnet",
    "torch": "golden_torch",
    "keras": "golden_keras",
    "onnxruntime": "golden_onnxruntime",
}


#: Largest difference allowed, relative to the largest magnitude and at least 1.
TOLERANCES = {"float32": 1e-5, "float64": 1e-12}


def framework(case: Golden) -> str:
    return case.producer.partition(" ")[0]


def merged(old: Sequence[Golden], new: Sequence[Golden]) -> list[Golden]:
    """All cases in the order of `PARTS`: the new ones, and those of frameworks that made none of them."""
    renewed = {framework(case) for case in new}
    kept = [case for case in old if framework(case) not in renewed]
    return sorted([*kept, *new], key=lambda case: list(PARTS).index(framework(case)))


def write(path: Path, cases: Sequence[Golden]) -> None:
    """Write the file."""
    tensors = {
        f"{number}/{name}": np.ascontiguousarray(array)
        for number, case in enumerate(cases)
        for name, array in case.arrays().items()
    }
    about = [{"name": case.name, "producer": case.producer, "spec": case.spec} for case in cases]
    metadata = {"format": FORMAT, "format_version": FORMAT_VERSION, "cases": json.dumps(about, separators=(",", ":"))}
    path.write_bytes(save(tensors, metadata))


def assert_current(kept: Sequence[Golden], made: Sequence[Golden]) -> None:
    """Assert that what is kept of a framework is what it makes now; its results may be rounded otherwise."""
    kept = [case for case in kept if framework(case) == framework(made[0])]
    assert [case.name for case in kept] == [case.name for case in made], "run tests/make_conformance_golden.py"
    for old, new in zip(kept, made, strict=True):
        assert old.spec == new.spec, old.name
        found, expected = old.arrays(), new.arrays()
        assert found.keys() == expected.keys(), old.name
        for name, array in expected.items():
            is_result = name.startswith(("outputs", "states"))
            allowed = TOLERANCES[str(array.dtype)] * max(1, np.abs(array).max()) if is_result else 0
            np.testing.assert_allclose(found[name], array, rtol=0, atol=allowed, err_msg=f"{old.name}, {name}")


if __name__ == "__main__":
    made = [case for name in sys.argv[1:] for case in importlib.import_module(PARTS[name]).cases()]
    everything = merged(read(PATH) if PATH.exists() else [], made)
    write(PATH, everything)
    print(f"{PATH}: {len(everything)} cases, {PATH.stat().st_size} bytes")

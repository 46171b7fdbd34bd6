"""What MXNet, PyTorch, Keras and ONNX Runtime computed is what the backend does."""

from __future__ import annotations

import numpy as np
import pytest

import rnnx
from rnnx.conformance import golden, judging, unrolled
from rnnx.conformance.golden import Golden
from rnnx.conformance.marks import ways
from rnnx.conformance.subject import Subject

CASES = golden.cases()

cases = [
    pytest.param(case, marks=pytest.mark.needs(str(case.inputs.dtype)), id=case.name.replace(" ", "_"))
    for case in CASES
]


@ways
@pytest.mark.parametrize("case", cases)
def test_numbers_of(subject: Subject, case: Golden, fuse: bool) -> None:
    """Another framework: outputs and final states."""
    dtype = str(case.inputs.dtype)
    cell = rnnx.BaseRNNCell.from_spec(rnnx.CellSpec.from_dict(dict(case.spec)))
    cell.load_params(dict(case.weights))
    placed = subject.placed(cell, dtype)
    inputs, *begin = map(subject.array, (case.inputs, *case.begin))
    outputs, states = placed.unroll(
        None, inputs, begin or None, merge_outputs=True, valid_length=case.lengths, fuse=fuse
    )
    found = [outputs, *unrolled.leaves(states)]
    tolerance = 4 * subject.tolerance(dtype)  # both have errors of their own
    for place, (array, expected) in enumerate(zip(found, (case.outputs, *case.states), strict=True)):
        what = f"{'outputs' if place == 0 else f'state {place - 1}'} of {case.producer}, {case.name},"
        judging.assert_its_own(subject, array, dtype, expected.shape, what)
        judging.assert_numbers(subject.numpy(array), expected.astype(np.float64), tolerance, what)

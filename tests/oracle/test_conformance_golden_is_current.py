"""The golden numbers in the wheel hold what MXNet gives."""

from __future__ import annotations

from make_conformance_golden import assert_current
from rnnx.conformance.golden import PATH, read

from .golden_mxnet import cases


def test_mxnet_still_gives_the_golden_numbers_in_the_wheel():
    assert_current(read(PATH), list(cases()))

"""The golden file of training runs holds the losses that MXNet comes to."""

from __future__ import annotations

import numpy as np

from .make_sgd import GOLDEN, golden


def test_the_golden_file_is_what_mxnet_comes_to_now():
    expected = golden()
    with np.load(GOLDEN, allow_pickle=False) as found:
        assert set(found.files) == set(expected), "run python -m tests.oracle.make_sgd"
        for name, array in expected.items():
            if name.endswith(":losses"):
                np.testing.assert_allclose(found[name], array, rtol=1e-5, err_msg=name)
            else:
                np.testing.assert_array_equal(found[name], array, err_msg=name)

"""The golden file holds what MXNet gives."""

from __future__ import annotations

import numpy as np

from .make_golden import GOLDEN, golden


def test_the_golden_file_is_what_mxnet_gives_now():
    expected = golden()
    with np.load(GOLDEN, allow_pickle=False) as found:
        assert set(found.files) == set(expected), "run python -m tests.oracle.make_golden"
        for name, array in expected.items():
            if name.endswith(":case"):
                assert str(found[name]) == str(array), name
            else:
                np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6, err_msg=name)

"""Marks that several modules of checks share."""

from __future__ import annotations

import pytest

from rnnx.conformance.networks import MODES, RAGGED, TREES, Tree
from rnnx.conformance.subject import DTYPES

__all__ = ["dtypes", "halves", "masks", "modes", "singles", "trees", "ways", "wide_dtypes"]

#: Every dtype that a backend can declare.
dtypes = pytest.mark.parametrize("dtype", DTYPES)

#: Those that kernels are made for.
wide_dtypes = pytest.mark.parametrize("dtype", ["float64", "float32"])

#: Float32 alone.
singles = pytest.mark.parametrize("dtype", ["float32"])

#: Those of half the digits.
halves = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])

#: With no lengths, and with rows of several.
masks = pytest.mark.parametrize("lengths", [None, RAGGED], ids=["whole", "masked"])

#: The modes of a fused cell.
modes = pytest.mark.parametrize("mode", MODES)

#: By whatever the backend runs it with, and stepped through time.
ways = pytest.mark.parametrize("fuse", [True, False], ids=["kernel", "stepped"])


def trees(*chosen: Tree | str) -> pytest.MarkDecorator:
    """Return the mark that runs a check on each of some trees, given themselves or by name."""
    found = [TREES[tree] if isinstance(tree, str) else tree for tree in chosen]
    return pytest.mark.parametrize("tree", found, ids=[tree.name for tree in found])

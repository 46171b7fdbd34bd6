"""The cell trees that a backend is run on, with weights, inputs and initial states.

No two weights are alike and no bias is zero, so that nothing can be exchanged or left out unseen. All sizes differ:
4 rows, 5 steps, inputs 3 wide, 7 units.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from rnnx.cells import (
    BaseRNNCell,
    BidirectionalCell,
    DropoutCell,
    FusedRNNCell,
    GRUCell,
    LSTMCell,
    LSTMPCell,
    ResidualCell,
    RNNCell,
    SequentialRNNCell,
    ZoneoutCell,
)
from rnnx.conformance import own_cells, reference

__all__ = [
    "BATCH",
    "FUSED",
    "FUSED_FEW",
    "HIDDEN",
    "LENGTHS",
    "MODES",
    "NESTED",
    "PLAIN",
    "RAGGED",
    "STEPS",
    "TREES",
    "WIDTH",
    "Tree",
    "Trial",
    "cut",
    "fused_tree",
    "numpy_dtype",
    "plain_cell",
    "rounded",
    "sequential",
    "trial",
]

Array = npt.NDArray[Any]

BATCH, STEPS, WIDTH, HIDDEN = 4, 5, 3, 7

#: The modes of a fused cell.
MODES = ("lstm", "gru", "rnn_tanh", "rnn_relu")

#: Lengths of the rows: unsorted, with one that has no step, one that has all, and one that has one.
RAGGED = (3, 0, 5, 1)

#: What there may be of lengths; `short` leaves the last step to no row.
LENGTHS: Mapping[str, tuple[int, ...] | None] = MappingProxyType(
    {"none": None, "ragged": RAGGED, "short": (2, 4, 1, 2), "full": (5, 5, 5, 5), "empty": (0, 0, 0, 0)}
)


@dataclasses.dataclass(frozen=True)
class Tree:
    """A cell tree by name.

    Parameters
    ----------
    name : str
        What checks are called by.
    build : callable
        Makes it, without weights.
    width : int
        Of its inputs.
    network : callable, optional
        Makes the reference's network of weights, where a cell in it is no cell of rnnx's own.
    """

    name: str
    build: Callable[[], BaseRNNCell]
    width: int = WIDTH
    network: Callable[[Mapping[str, Array]], reference.Network] | None = None


def plain_cell(mode: str, hidden: int = HIDDEN, prefix: str = "cell_") -> BaseRNNCell:
    """Return the plain cell of one of the reference's modes."""
    if mode == "lstm":
        return LSTMCell(hidden, prefix)
    if mode == "lstmp":
        return LSTMPCell(hidden, 2, prefix)
    if mode.startswith("gru"):
        return GRUCell(hidden, prefix, reset_after=mode == "gru")
    return RNNCell(hidden, mode.removeprefix("rnn_"), prefix)


def sequential(*cells: BaseRNNCell) -> SequentialRNNCell:
    """Return a stack of cells."""
    stack = SequentialRNNCell()
    for cell in cells:
        stack.add(cell)
    return stack


def both_ways(forward: str, backward: str, hidden: int = HIDDEN, prefix: str = "") -> BidirectionalCell:
    """Return two plain cells, one in each direction."""
    return BidirectionalCell(plain_cell(forward, hidden, f"{prefix}l_"), plain_cell(backward, hidden, f"{prefix}r_"))


def fused_tree(
    mode: str, layers: int = 1, bidirectional: bool = False, hidden: int = HIDDEN, width: int = WIDTH, **fields: Any
) -> Tree:
    """Return a fused cell that gives its final states."""
    name = f"{mode}-{layers}-{'both' if bidirectional else 'one'}"
    build = functools.partial(FusedRNNCell, hidden, layers, mode, bidirectional, get_next_state=True, **fields)
    return Tree(name, build, width)


def _plain_tree(mode: str) -> Tree:
    return Tree(mode, functools.partial(plain_cell, mode))


def _nested_trees() -> list[Tree]:
    """Return trees of several cells. What they show: kernels that join, that do not, and what wraps them."""
    cell = plain_cell
    made: dict[str, Callable[[], BaseRNNCell]] = {
        "stack_lstm_gru": lambda: sequential(cell("lstm", 7, "a_"), cell("gru", 4, "b_")),
        "stack_narrowing": lambda: sequential(cell("lstm", 7, "a_"), cell("lstm", 2, "b_"), cell("lstm", 2, "c_")),
        "stack_lstmp": lambda: sequential(cell("lstmp", 7, "a_"), cell("rnn_sigmoid", 4, "b_")),
        **{f"stack_{mode}": functools.partial(_stack_of, mode) for mode in MODES},
        **{f"both_{mode}": functools.partial(both_ways, mode, mode) for mode in MODES},
        "both_unlike": lambda: both_ways("lstm", "gru_reset_before"),
        "both_sizes": lambda: BidirectionalCell(cell("gru", 7, "l_"), cell("gru", 4, "r_")),
        "both_stacked": lambda: sequential(both_ways("lstm", "lstm", 7, "a_"), both_ways("lstm", "lstm", 7, "b_")),
        "stacks_both": lambda: BidirectionalCell(_stack_of("gru", "l_"), _stack_of("lstm", "r_")),
        "residual_lstm": lambda: ResidualCell(cell("lstm", WIDTH)),
        "residual_stack": lambda: sequential(cell("gru", 4, "a_"), ResidualCell(cell("gru", 4, "b_"))),
        "residual_both": lambda: sequential(cell("lstm", 4, "a_"), ResidualCell(both_ways("rnn_tanh", "rnn_tanh", 2))),
        "zoneout": lambda: ZoneoutCell(cell("lstm"), 0.4, 0.3),
        "dropout": lambda: sequential(DropoutCell(0.6, "in_"), cell("gru", 7, "a_"), DropoutCell(0.5, "out_")),
        "stack_shared": _sharing,
        "fused_in_stack": lambda: sequential(
            FusedRNNCell(4, 2, "gru", True, get_next_state=True, prefix="a_"), cell("lstm", 7, "b_")
        ),
        "fused_both": lambda: BidirectionalCell(
            FusedRNNCell(4, 1, "lstm", get_next_state=True, prefix="l_"), cell("rnn_relu", 7, "r_")
        ),
    }
    return [Tree(name, build) for name, build in made.items()]


def _sharing() -> SequentialRNNCell:
    lower = LSTMCell(WIDTH, "a_")
    return sequential(lower, LSTMCell(WIDTH, "a_", params=lower.params))


def _stack_of(mode: str, prefix: str = "") -> SequentialRNNCell:
    return sequential(plain_cell(mode, HIDDEN, f"{prefix}a_"), plain_cell(mode, HIDDEN, f"{prefix}b_"))


def _own_trees() -> list[Tree]:
    return [
        Tree("own_peephole", lambda: own_cells.PeepholeLSTM(HIDDEN), network=own_cells.peephole),
        Tree("own_wide", lambda: own_cells.Stacker(HIDDEN), network=own_cells.stacker),
        Tree(
            "own_residual",
            lambda: ResidualCell(own_cells.PeepholeLSTM(WIDTH)),
            network=lambda weights: reference.residual(own_cells.peephole(weights)),
        ),
    ]


#: Every equation of rnnx's plain cells, each alone.
PLAIN: tuple[Tree, ...] = tuple(
    map(_plain_tree, (*MODES, "rnn_sigmoid", "rnn_softrelu", "rnn_softsign", "gru_reset_before", "lstmp"))
)

#: Fused cells of every mode, one to three layers, in one direction or both.
FUSED: tuple[Tree, ...] = tuple(itertools.starmap(fused_tree, itertools.product(MODES, (1, 2, 3), (False, True))))

#: Some of them, in which every mode, and one layer and several, in one direction and both, are met.
FUSED_FEW: tuple[Tree, ...] = tuple(tree for tree in FUSED if tree.name.endswith(("1-one", "2-both")))

#: Trees of several cells, and cells of a user's own.
NESTED: tuple[Tree, ...] = (*_nested_trees(), *_own_trees())

#: All of them by name.
TREES: Mapping[str, Tree] = MappingProxyType({tree.name: tree for tree in (*PLAIN, *FUSED, *NESTED)})


@dataclasses.dataclass(frozen=True)
class Trial:
    """A tree with weights and what it is run on: float64 arrays of numbers that `dtype` holds exactly.

    Parameters
    ----------
    tree : Tree
        The cell tree.
    dtype : str
        What the backend is to compute in.
    weights : mapping of str to array
        By packed name.
    inputs : array
        (N, T, I).
    begin : tuple of array or None
        Initial states, flat; None for zeros.
    lengths : tuple of int or None
        The steps of each row that count; None for all.
    """

    tree: Tree
    dtype: str
    weights: Mapping[str, Array]
    inputs: Array
    begin: tuple[Array, ...] | None = None
    lengths: tuple[int, ...] | None = None

    def cell(self) -> BaseRNNCell:
        """Return the cell with its weights, on NumPy, in float64."""
        cell = self.tree.build()
        cell.load_params(dict(self.weights))
        return cell

    def network_of(self, weights: Mapping[str, Array]) -> reference.Network:
        """Return the reference's network of weights."""
        if self.tree.network is not None:
            return self.tree.network(weights)
        return reference.of_spec(_spec_of(self.tree), weights)

    @property
    def point(self) -> reference.Point:
        """What the reference's derivatives are taken at."""
        return reference.Point(self.weights, self.inputs, self.begin, self.lengths)

    def expected(self) -> tuple[Array, list[Array]]:
        """Return the outputs (N, T, H) and the final states, flat, by the reference."""
        return reference.run(self.network_of(self.weights), self.inputs, self.begin, self.lengths)


def cut(tree: Tree, vector: Array) -> list[list[dict[str, Array]]]:
    """Return views of a fused cell's vector: its four weights by layer and direction."""
    fields = _spec_of(tree)
    directions = 2 if fields["bidirectional"] else 1
    sizes = fields["num_hidden"], fields["num_layers"], directions
    return reference.cut_flat(vector, fields["mode"], tree.width, *sizes)


@functools.cache
def _spec_of(tree: Tree) -> dict[str, Any]:
    return tree.build().spec.to_dict()


@functools.cache
def _shapes_of(tree: Tree) -> tuple[Mapping[str, tuple[int, ...]], list[tuple[int, ...]]]:
    """Return the shapes of a tree's weights by name, and of its states with 0 for the batch size."""
    cell = tree.build()
    cell.initialize(tree.width, backend="numpy", dtype="float64", seed=0)
    return {name: array.shape for name, array in cell.get_params().items()}, cell.state_shape


def trial(
    tree: Tree | str,
    dtype: str = "float64",
    *,
    batch: int = BATCH,
    steps: int = STEPS,
    begin: bool = True,
    lengths: Sequence[int] | None = None,
    scale: float = 0.8,
    seed: int = 1,
) -> Trial:
    """Return a tree with random weights between -scale and scale, inputs and, if `begin`, initial states."""
    chosen = TREES[tree] if isinstance(tree, str) else tree
    rng = np.random.default_rng(seed)
    shapes, of_states = _shapes_of(chosen)

    def numbers(shape: Sequence[int], limit: float) -> Array:
        return rounded(rng.uniform(-limit, limit, shape), dtype)

    weights = {name: numbers(shape, scale) for name, shape in shapes.items()}
    inputs = numbers((batch, steps, chosen.width), 1.5)
    states = tuple(numbers([size or batch for size in shape], 1.0) for shape in of_states)
    return Trial(chosen, dtype, weights, inputs, states if begin else None, None if lengths is None else tuple(lengths))


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return NumPy's dtype of that name; bfloat16 comes from ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes  # NumPy itself has no bfloat16

        found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return found
    return np.dtype(name)


def rounded(array: npt.ArrayLike, dtype: str) -> Array:
    """Return the numbers of a dtype that are nearest, in float64."""
    return np.asarray(array, np.float64).astype(numpy_dtype(dtype)).astype(np.float64)

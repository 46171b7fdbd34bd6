"""Cells made of cells: `SequentialRNNCell` and `BidirectionalCell`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from rnnx.backend import Array
from rnnx.cells.base import BaseRNNCell
from rnnx.cells.node import Node
from rnnx.errors import RNNXError, UnsupportedError
from rnnx.ops import Ops, Slot, Step, Stepped, Weights
from rnnx.params import Parameter, RNNParams

if TYPE_CHECKING:
    from rnnx.plan import Planner
    from rnnx.stages import Stage

__all__ = ["BidirectionalCell", "SequentialRNNCell"]


class _Container(BaseRNNCell):
    """A cell whose states and weights are those of its cells."""

    def __init__(self, params: RNNParams | None) -> None:
        self._cells: list[BaseRNNCell] = []
        super().__init__("", params)

    def _take_in(self, cell: BaseRNNCell) -> None:
        """Append a cell, letting it use the container's own weights where they have its weights' names."""
        if self._params.shared is not None:
            if cell.params.shared is not None:
                raise RNNXError(f"give params= to the {type(self).__name__} or to the cells within it, not to both")
            cell.adopt(self._params.shared)
        self._cells.append(cell)
        _ = self.params  # the container that was given gets the cell's weights now

    @property
    def params(self) -> RNNParams:
        """The weights of all its cells, with those of cells that were added further down since."""
        for cell in self._cells:
            for parameter in cell.params.parameters():
                self._params.share(parameter)
        return self._params

    @property
    def state_info(self) -> list[dict[str, Any]]:
        """The states of all its cells, in order."""
        return [info for cell in self._cells for info in cell.state_info]

    def _begin_state(
        self, func: Callable[..., Array] | None, batch_size: int, kwargs: Mapping[str, Any]
    ) -> list[Array]:
        return [state for cell in self._cells for state in cell.begin_state(func, batch_size, **kwargs)]

    def own_parameters(self) -> tuple[Parameter, ...]:
        """Return none: all weights are its cells'."""
        return ()

    def slots(self, input_size: int) -> list[Slot]:
        """Return what all its cells carry."""
        return [slot for cell, size in self._sized_cells(input_size) for slot in cell.slots(size)]

    def _sized_cells(self, input_size: int) -> Iterator[tuple[BaseRNNCell, int]]:
        """Yield each cell with the width of the inputs it reads."""
        raise NotImplementedError

    def sized_leaves(self, input_size: int) -> Iterator[tuple[Node, int]]:
        """Yield the leaves with the width of the inputs that each reads."""
        for cell, size in self._sized_cells(input_size):
            yield from cell.sized_leaves(size)

    def _parted(self, states: list[Any]) -> Iterator[tuple[BaseRNNCell, list[Any]]]:
        """Yield each cell with its part of a flat list of states."""
        start = 0
        for cell in self._cells:
            stop = start + len(cell.state_info)
            yield cell, states[start:stop]
            start = stop

    def _fields(self) -> dict[str, Any]:
        return {}


class SequentialRNNCell(_Container):
    """Cells stacked one on the other: each reads the outputs of the one before.

    Parameters
    ----------
    params : RNNParams, optional
        Weights to share with another stack: the cells added use those that have their weights' names.
    """

    def __init__(self, params: RNNParams | None = None) -> None:
        super().__init__(params)

    def add(self, cell: BaseRNNCell) -> None:
        """Put a cell on top.

        Raises
        ------
        RNNXError
            If both the stack and the cell were given ``params=``.
        """
        self._take_in(cell)

    def output_size(self, input_size: int) -> int:
        """Return the width of the last cell's outputs."""
        for cell in self._cells:
            input_size = cell.output_size(input_size)
        return input_size

    def stage(self, planner: Planner, input_size: int) -> Stage:
        """Return the cells' stages in order, joined where one kernel runs several."""
        return planner.chain([cell.stage(planner, size) for cell, size in self._sized_cells(input_size)])

    def stepper(self, ops: Ops, weights: Weights) -> Stepped:
        """Return the cells bound to their weights, one after the other."""
        steppers = [cell.stepper(ops, weights) for cell in self._cells]
        counts = [len(cell.slots(size)) for cell, size in self._sized_cells(1)]  # whatever the input size

        def step(inputs: Array, carry: list[Array]) -> Step:
            after: list[Array] = []
            for stepper, count in zip(steppers, counts, strict=True):
                inputs, new = stepper(inputs, carry[len(after) : len(after) + count])
                after += new
            return inputs, after

        return step

    def merges(self, inputs_merged: bool) -> bool:
        """Say what the last cell says, given what the cells before it do."""
        for cell in self._cells:
            inputs_merged = cell.merges(inputs_merged)
        return inputs_merged

    def nest(self, states: list[Any]) -> list[Any]:
        """Return the cells' states one after the other; those of a bidirectional cell stay two lists."""
        return [state for cell, part in self._parted(states) for state in cell.nest(part)]

    def first_leaves(self) -> Iterator[Node]:
        """Yield the leaves that read the inputs: those of the first cells, up to one that may change them."""
        for cell in self._cells:
            yield from cell.first_leaves()
            if any(cell.output_size(width) != width for width in (1, 2)):
                return

    def _sized_cells(self, input_size: int) -> Iterator[tuple[BaseRNNCell, int]]:
        for cell in self._cells:
            yield cell, input_size
            input_size = cell.output_size(input_size)

    @classmethod
    def _assemble(cls, children: list[Any], fields: dict[str, Any], containers: dict[str, RNNParams]) -> Node:
        stack = cls(**fields)
        for child in children:
            stack.add(child)
        return stack


class BidirectionalCell(_Container):
    """Two cells over the same inputs, the second backward in time, their outputs side by side.

    Its final states are a list of two lists, ``[l_states, r_states]``, as in MXNet; `begin_state` is flat, and `unroll`
    takes either. Schuster and Paliwal (1997).

    Parameters
    ----------
    l_cell, r_cell : BaseRNNCell
        The forward and the backward cell; they may be of different kinds.
    params : RNNParams, optional
        Weights to share with another cell.
    output_prefix : str
        Kept for the description's sake: the prefix of the outputs' names in MXNet.
    """

    def __init__(
        self,
        l_cell: BaseRNNCell,
        r_cell: BaseRNNCell,
        params: RNNParams | None = None,
        output_prefix: str = "bi_",
    ) -> None:
        super().__init__(params)
        self._output_prefix = output_prefix
        self._take_in(l_cell)
        self._take_in(r_cell)

    def __call__(self, inputs: Array, states: Any, training: bool = False, seed: int | None = None) -> NoReturn:
        """Refuse: the backward cell starts at the end, so there is nothing to step."""
        raise UnsupportedError("BidirectionalCell cannot be stepped: use unroll()")

    def stepper(self, ops: Ops, weights: Weights) -> Stepped:
        """Refuse: the backward cell starts at the end, so there is nothing to step."""
        raise UnsupportedError("BidirectionalCell cannot be stepped: put the modifier on the cells within it")

    def output_size(self, input_size: int) -> int:
        """Return the widths of both cells' outputs together."""
        return sum(cell.output_size(input_size) for cell in self._cells)

    def stage(self, planner: Planner, input_size: int) -> Stage:
        """Return one bidirectional kernel's stage where the cells are equal, two otherwise."""
        forward, backward = (cell.stage(planner, input_size) for cell in self._cells)
        return planner.bidirectional(forward, backward)

    def merges(self, inputs_merged: bool) -> bool:
        """Say True if both cells do; they are given a list."""
        return all(cell.merges(False) for cell in self._cells)

    def nest(self, states: list[Any]) -> list[Any]:
        """Return [l_states, r_states]."""
        return [cell.nest(part) for cell, part in self._parted(states)]

    def first_leaves(self) -> Iterator[Node]:
        """Yield the leaves that read the inputs, in either direction."""
        for cell in self._cells:
            yield from cell.first_leaves()

    def _sized_cells(self, input_size: int) -> Iterator[tuple[BaseRNNCell, int]]:
        return ((cell, input_size) for cell in self._cells)

    def _fields(self) -> dict[str, Any]:
        return {"output_prefix": self._output_prefix}

"""Cells that change another cell, or the inputs: `DropoutCell`, `ZoneoutCell`, `ResidualCell`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rnnx.backend import Array
from rnnx.cells.base import BaseRNNCell
from rnnx.cells.containers import BidirectionalCell
from rnnx.cells.fused import FusedRNNCell
from rnnx.cells.node import Node
from rnnx.checks import fraction
from rnnx.errors import ShapeError, UnsupportedError
from rnnx.ops import Ops, Slot, Step, Stepped, Weights
from rnnx.params import Parameter, RNNParams

if TYPE_CHECKING:
    from rnnx.plan import Planner
    from rnnx.stages import Stage

__all__ = ["DropoutCell", "ModifierCell", "ResidualCell", "ZoneoutCell"]


class DropoutCell(BaseRNNCell):
    r"""Dropout on the inputs, in training only (Srivastava et al., 2014).

    .. math:: y = m x / (1 - p), \qquad m \sim \mathrm{Bernoulli}(1 - p)

    Parameters
    ----------
    dropout : float
        p, the fraction that is dropped.
    prefix : str
        Not used for weights: there are none.
    params : RNNParams, optional
        Accepted as by every cell.
    """

    def __init__(self, dropout: float, prefix: str = "dropout_", params: RNNParams | None = None) -> None:
        super().__init__(prefix, params)
        self.dropout = fraction("dropout", dropout)

    @property
    def state_info(self) -> list[dict[str, Any]]:
        """No state."""
        return []

    def output_size(self, input_size: int) -> int:
        """Return the width of the inputs."""
        return input_size

    def step(self, ops: Ops, weights: Weights, inputs: Array, states: list[Array]) -> Step:
        """Return the inputs, some dropped, and no states."""
        return ops.dropout(inputs, self.dropout), states

    def settings(self) -> tuple[Any, ...]:
        """Return the rate."""
        return (self.dropout,)

    def stage(self, planner: Planner, input_size: int) -> Stage:
        """Return dropout over the whole sequence."""
        return planner.dropout(self.dropout)

    def merges(self, inputs_merged: bool) -> bool:
        """Say that outputs are held as the inputs are."""
        return inputs_merged

    def _fields(self) -> dict[str, Any]:
        return {"dropout": self.dropout, "prefix": self._prefix}


class ModifierCell(BaseRNNCell):
    """Base of the cells that change another one, which is then used through them alone.

    Parameters
    ----------
    base_cell : BaseRNNCell
        The cell to change.
    """

    def __init__(self, base_cell: BaseRNNCell) -> None:
        self._cells = [base_cell]
        super().__init__()
        self.base_cell = base_cell
        base_cell._modified = True

    @property
    def params(self) -> RNNParams:
        """The base cell's weights."""
        return self.base_cell.params

    def settings(self) -> tuple[Any, ...]:
        """Return the base cell."""
        return (self.base_cell,)

    @property
    def state_info(self) -> list[dict[str, Any]]:
        """The base cell's states."""
        return self.base_cell.state_info

    def output_size(self, input_size: int) -> int:
        """Return the width of the base cell's outputs."""
        return self.base_cell.output_size(input_size)

    def slots(self, input_size: int) -> list[Slot]:
        """Return what the base cell carries."""
        return self.base_cell.slots(input_size)

    def sized_leaves(self, input_size: int) -> Iterator[tuple[Node, int]]:
        """Yield the base cell's leaves."""
        return self.base_cell.sized_leaves(input_size)

    def first_leaves(self) -> Iterator[Node]:
        """Yield the base cell's."""
        return self.base_cell.first_leaves()

    def own_parameters(self) -> tuple[Parameter, ...]:
        """Return none: all weights are the base cell's."""
        return ()

    def begin_state(
        self,
        func: Callable[..., Array] | None = None,
        batch_size: int | None = None,
        *,
        init_sym: Callable[..., Array] | None = None,
        **kwargs: Any,
    ) -> list[Array]:
        """Return the base cell's initial states; `init_sym` is what MXNet calls `func` here."""
        return super().begin_state(func if init_sym is None else init_sym, batch_size, **kwargs)

    def _begin_state(
        self, func: Callable[..., Array] | None, batch_size: int, kwargs: Mapping[str, Any]
    ) -> list[Array]:
        return self.base_cell._begin_state(func, batch_size, kwargs)

    def _fields(self) -> dict[str, Any]:
        return {}


class ZoneoutCell(ModifierCell):
    r"""Zoneout on a cell's outputs and states, in training only (Krueger et al., 2016).

    .. math:: s_t = m s'_t + (1 - m) s_{t-1}, \qquad m \sim \mathrm{Bernoulli}(1 - p)

    with :math:`s'_t` the base cell's new state, and outputs likewise, the output before the first being zero.

    Parameters
    ----------
    base_cell : BaseRNNCell
        A cell that can be stepped.
    zoneout_outputs, zoneout_states : float
        p, the fraction of elements that keep their last value.

    Raises
    ------
    UnsupportedError
        For a cell that cannot be stepped: a fused or bidirectional one, alone or in a stack.
    """

    def __init__(self, base_cell: BaseRNNCell, zoneout_outputs: float = 0.0, zoneout_states: float = 0.0) -> None:
        _refuse_unsteppable(base_cell)
        super().__init__(base_cell)
        self.zoneout_outputs = fraction("zoneout_outputs", zoneout_outputs)
        self.zoneout_states = fraction("zoneout_states", zoneout_states)

    def settings(self) -> tuple[Any, ...]:
        """Return the rates as well."""
        return (*super().settings(), self.zoneout_outputs, self.zoneout_states)

    def stage(self, planner: Planner, input_size: int) -> Stage:
        """Return the base cell's stage outside training, where zoneout changes nothing, and step within it."""
        if not planner.training or self.zoneout_outputs == self.zoneout_states == 0:
            return self.base_cell.stage(planner, input_size)
        return planner.loop(self, input_size, "zoneout", "zoneout acts between the steps")

    def slots(self, input_size: int) -> list[Slot]:
        """Return what the base cell carries, and the last output."""
        return [*super().slots(input_size), Slot((0, self.output_size(input_size)), public=False)]

    def stepper(self, ops: Ops, weights: Weights) -> Stepped:
        """Return the base cell bound to its weights, with zoneout after each step."""
        advance = self.base_cell.stepper(ops, weights)
        public = [slot.public for slot in self.base_cell.slots(1)]  # whatever the input size

        def step(inputs: Array, carry: list[Array]) -> Step:
            *before, last_output = carry
            output, after = advance(inputs, before)
            output = _zoned_out(ops, self.zoneout_outputs, output, last_output)
            states = [
                _zoned_out(ops, self.zoneout_states, new, old) if is_state else new
                for new, old, is_state in zip(after, before, public, strict=True)
            ]
            return output, [*states, output]

        return step

    def _fields(self) -> dict[str, Any]:
        return {"zoneout_outputs": self.zoneout_outputs, "zoneout_states": self.zoneout_states}


class ResidualCell(ModifierCell):
    """The base cell's outputs plus its inputs (Wu et al., 2016, https://arxiv.org/abs/1609.08144).

    Parameters
    ----------
    base_cell : BaseRNNCell
        A cell whose outputs are as wide as its inputs.
    """

    def stage(self, planner: Planner, input_size: int) -> Stage:
        """Return the base cell's stage with the inputs added."""
        self._check_width(input_size)
        return planner.residual(self.base_cell.stage(planner, input_size))

    def stepper(self, ops: Ops, weights: Weights) -> Stepped:
        """Return the base cell bound to its weights, with the inputs added after each step."""
        advance = self.base_cell.stepper(ops, weights)

        def step(inputs: Array, carry: list[Array]) -> Step:
            output, after = advance(inputs, carry)
            return output + inputs, after

        return step

    def sized_leaves(self, input_size: int) -> Iterator[tuple[Node, int]]:
        """Yield the base cell's leaves, if its outputs are as wide as the inputs."""
        self._check_width(input_size)
        return super().sized_leaves(input_size)

    def _check_width(self, input_size: int) -> None:
        width = self.output_size(input_size)
        if width != input_size:
            raise ShapeError(f"a residual adds its inputs, {input_size} wide, to its base cell's outputs, {width} wide")

    def merges(self, inputs_merged: bool) -> bool:
        """Say what the base cell says."""
        return self.base_cell.merges(inputs_merged)

    def nest(self, states: list[Any]) -> list[Any]:
        """Return them as the base cell does."""
        return self.base_cell.nest(states)


def _zoned_out(ops: Ops, rate: float, new: Array, old: Array) -> Array:
    if not ops.training or rate == 0:
        return new
    return ops.where(ops.keep(rate, new), new, old)


def _refuse_unsteppable(cell: Node) -> None:
    if isinstance(cell, FusedRNNCell):
        raise UnsupportedError("zoneout acts between the steps, and a FusedRNNCell has none: unfuse() it first")
    if isinstance(cell, BidirectionalCell):
        raise UnsupportedError(
            "zoneout needs a cell that can be stepped: put it on the cells within the BidirectionalCell"
        )
    for child in cell._cells:
        _refuse_unsteppable(child)

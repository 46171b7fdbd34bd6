"""`BaseRNNCell`: what every cell can do, and what a user's own cell has to say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rnnx.backend import Array
from rnnx.cells import placement
from rnnx.cells.arguments import checked_states, read_step
from rnnx.cells.node import Node
from rnnx.checks import whole
from rnnx.errors import RNNXError, ShapeError
from rnnx.fusion import fused_spec
from rnnx.ops import Ops, Step, call_seeds, fill_slots
from rnnx.params import RNNParams
from rnnx.registry import default_backend, get_backend
from rnnx.spec import CellSpec

if TYPE_CHECKING:
    from rnnx.cells.unrolling import Gradients, Unrolling
    from rnnx.plan import Plan

__all__ = ["BaseRNNCell", "ModifiedCellError"]

States = list[Any]


class ModifiedCellError(RNNXError):
    """A cell is used on its own that a modifier cell has taken over."""


class BaseRNNCell(Node):
    """Base of all cells.

    A cell of one's own declares its weights with ``self.params.get(name, shape=...)`` (0 stands for the input size),
    its states with `state_info`, and its equation in `step`. It then runs, unrolls, trains, saves and loads on every
    backend.

    Parameters
    ----------
    prefix : str
        Put before the names of the cell's weights and states.
    params : RNNParams, optional
        Weights to share with another cell; a new container is made otherwise.
    """

    def __init__(self, prefix: str = "", params: RNNParams | None = None) -> None:
        self._prefix = prefix
        self._params = RNNParams(prefix) if params is None else RNNParams(params.prefix, shared=params)
        self._modified = False
        self._planned = {}
        self.reset()

    # -- the interface of mxnet.rnn -------------------------------------------------------------------------------

    @property
    def params(self) -> RNNParams:
        """The cell's weights; give it to another cell as ``params=`` to share them."""
        return self._params

    def begin_state(
        self, func: Callable[..., Array] | None = None, batch_size: int | None = None, **kwargs: Any
    ) -> States:
        """Return initial states.

        Parameters
        ----------
        func : callable, optional
            Makes one state: called with its shape and `kwargs`, and with ``name`` and ``__layout__`` if it takes them;
            ``numpy.ones`` and ``torch.randn`` will do. Zeros otherwise.
        batch_size : int, optional
            N, the batch size, which `func` needs. Without it the states have batch size 0, and a cell reads them as
            zeros for any batch.
        **kwargs
            For `func`; without it ``dtype``, ``backend`` and ``device`` of the zeros.

        Raises
        ------
        ModifiedCellError
            If a modifier cell has taken this one over: call the modifier's `begin_state`.
        """
        self._refuse_if_modified()
        if batch_size is not None:
            whole("batch_size", batch_size, least=0)
        if func is not None and batch_size is None:
            raise ShapeError("begin_state(func) needs batch_size=: without it a state's shape is not known")
        return self._begin_state(func, batch_size or 0, kwargs)

    def unpack_weights(self, args: Mapping[str, Array]) -> dict[str, Array]:
        """Return `args` with this cell's packed weights replaced by one weight a gate; all else stays.

        Raises
        ------
        WeightFormatError
            If a weight is missing.
        """
        unpacked = dict(args)
        self.unpack(unpacked)
        return unpacked

    def pack_weights(self, args: Mapping[str, Array]) -> dict[str, Array]:
        """Return `args` with this cell's weights of each gate replaced by packed ones: undoes `unpack_weights`."""
        packed = dict(args)
        self.pack(packed)
        return packed

    def __call__(self, inputs: Array, states: Any, training: bool = False, seed: Any = None) -> Step:
        """Take one step.

        Parameters
        ----------
        inputs : array
            (N, I).
        states : list of array
            From `begin_state`, or from the step before.
        training : bool
            Whether dropout and zoneout act.
        seed : int, optional
            Makes them the same for the same seed; give each step another one. See `unroll`.

        Returns
        -------
        output : array
            (N, output size).
        states : list of array
            The new states.
        """
        backend, (_, width) = read_step(inputs)
        given = checked_states(backend, states, self.state_shape, inputs, "states")
        self.ready(backend, inputs, width)
        ops = Ops(backend, training, *call_seeds(backend, seed))
        slots = self.slots(width)
        carry = fill_slots(ops, slots, given, inputs)
        if self._memory is not None:
            carry = [new if slot.public else kept for new, kept, slot in zip(carry, self._memory, slots, strict=True)]
        output, carry = self.stepper(ops, placement.values(self))(inputs, carry)
        self._memory = None if all(slot.public for slot in slots) else carry
        return output, [state for state, slot in zip(carry, slots, strict=True) if slot.public]

    def unroll(
        self,
        length: int | None,
        inputs: Any,
        begin_state: Any = None,
        layout: str = "NTC",
        merge_outputs: bool | None = None,
        valid_length: Any = None,
        training: bool = False,
        seed: Any = None,
        *,
        fuse: bool = True,
    ) -> tuple[Any, States]:
        """Run the cell over a sequence.

        Parameters
        ----------
        length : int or None
            T, the number of steps; None takes it from the inputs.
        inputs : array or list of array
            (N, T, C) or (T, N, C) as `layout` says, or a list of T arrays (N, C).
        begin_state : nested list of array, optional
            From `begin_state()`, or another call's final states; zeros otherwise.
        layout : {"NTC", "TNC"}
            Axes of inputs, and of outputs, held in one array.
        merge_outputs : bool, optional
            True returns outputs as one array, False as a list of T arrays (N, C). None does as MXNet: a list for plain
            cells, an array for a fused one.
        valid_length : array of int, optional
            (N,), the steps of each row that count, from 0 to T. Outputs past them are zero, final states are those of
            the last step that counts, and the reverse direction starts there.
        training : bool
            Whether dropout and zoneout act.
        seed : int, optional
            Makes them the same for the same seed. An integer becomes part of a graph that is made of the call; a seed
            of the framework's own, a scalar or a key of JAX, is read each time the graph runs.
        fuse : bool
            False steps through time whatever a kernel could run, to compare with.

        Returns
        -------
        outputs : array or list of array
            As `merge_outputs` says.
        states : nested list of array
            The final states, a list of two lists for a `BidirectionalCell` as in MXNet; `begin_state` takes it so.
        """
        prepared = self._unrolling(length, inputs, begin_state, layout, merge_outputs, valid_length, training, fuse)
        return prepared.run(seed)

    # -- what rnnx adds -------------------------------------------------------------------------------------------

    def vjp(
        self,
        length: int | None,
        inputs: Any,
        begin_state: Any = None,
        layout: str = "NTC",
        merge_outputs: bool | None = None,
        valid_length: Any = None,
        training: bool = False,
        seed: Any = None,
        *,
        fuse: bool = True,
    ) -> tuple[Any, States, Callable[..., Gradients]]:
        """Do as `unroll`, and return the vector-Jacobian product as well.

        Returns
        -------
        outputs, states
            As of `unroll`.
        pullback : callable
            ``pullback(outputs, states=None)`` takes the gradient of a scalar with respect to the outputs and the final
            states (None for zeros) and returns its `Gradients` with respect to inputs, begin states and every weight.
        """
        prepared = self._unrolling(length, inputs, begin_state, layout, merge_outputs, valid_length, training, fuse)
        return prepared.vjp(seed)

    def explain(
        self,
        inputs: Any,
        layout: str = "NTC",
        valid_length: Any = None,
        training: bool = False,
        *,
        fuse: bool = True,
    ) -> Plan:
        """Return the plan that `unroll` would run with such inputs: every stage, its kernel, and what was refused."""
        return self._call(None, inputs, None, layout, None, valid_length, training, fuse).plan

    def initialize(
        self,
        input_size: int,
        backend: str | None = None,
        dtype: str = "float32",
        device: str | None = None,
        seed: int | None = None,
    ) -> None:
        """Create the weights anew, with MXNet's initial values.

        Without it they are created at the first call, on the inputs' backend, device and dtype.

        Parameters
        ----------
        input_size : int
            I, the width of the inputs.
        backend : str, optional
            Where they live; the default backend otherwise.
        dtype, device : str, optional
            As the backend names them.
        seed : int, optional
            Makes the values the same for the same seed.
        """
        chosen = get_backend(backend) if backend else default_backend()
        rng = np.random.default_rng(seed)
        placement.initialize(self, whole("input_size", input_size), chosen, dtype, device, rng)

    def load_params(self, params: Mapping[str, Array], ignore_extra: bool = False) -> None:
        """Set every weight from a mapping of names to arrays: packed, per gate, or a fused cell's flat vector.

        The weights stay on the backend and device where they are; a cell without weights takes those of the arrays.

        Raises
        ------
        WeightFormatError
            For a missing, extra or misshaped weight; nothing has changed then.
        """
        arrays = dict(params)
        known = placement.parameters(self)
        if any(f"{name.removesuffix('parameters')}l0_i2h_weight" in known for name in arrays):
            BaseRNNCell.from_spec(fused_spec(self.spec)).unpack(arrays)
        for leaf in self.leaves():
            leaf.refuse_twice(arrays)
            leaf.pack_present(arrays)
        placement.load(self, arrays, ignore_extra)

    def get_params(self) -> dict[str, npt.NDArray[Any]]:
        """Return the packed weights by name, as NumPy arrays of their own."""
        backend = placement.backend_of_weights(self)
        if backend is None:
            return {}
        present = {name: value for name, value in placement.values(self).items() if value is not None}
        return {name: np.array(backend.to_numpy(value)) for name, value in present.items()}

    def to(self, backend: str, device: str | None = None, dtype: str | None = None) -> BaseRNNCell:
        """Move the weights to another backend, device or dtype, and return the cell."""
        placement.move(self, get_backend(backend), device, dtype)
        return self

    def fuse(self) -> BaseRNNCell:
        """Return the `FusedRNNCell` that this tree is equal to, with the weights it has.

        Raises
        ------
        UnsupportedError
            If there is none, naming the cell that stands in the way.
        """
        return self.converted(fused_spec(self.spec))

    def _unrolling(self, length: int | None, inputs: Any, begin_state: Any, *arguments: Any) -> Unrolling:
        """Return a call of `unroll` or `vjp` with these arguments."""
        if begin_state is None:
            self._refuse_if_modified()
        self.reset()
        return self._call(length, inputs, begin_state, *arguments)

    def _call(self, *arguments: Any) -> Unrolling:
        from rnnx.cells.unrolling import Unrolling  # plans are imported when the first is made, not with rnnx

        return Unrolling(self, *arguments)

    def _refuse_if_modified(self) -> None:
        if self._modified:
            raise ModifiedCellError(
                f"this {type(self).__name__} belongs to a modifier cell (zoneout, residual): call that instead"
            )

    def converted(self, spec: CellSpec) -> BaseRNNCell:
        """Return the tree of `spec`, with this tree's weights if they fit it gate by gate."""
        other = BaseRNNCell.from_spec(spec)
        weights = {name: value for name, value in placement.values(self).items() if value is not None}
        if weights:
            other.load_params(self.unpack_weights(weights))
        return other

    @staticmethod
    def from_spec(spec: CellSpec) -> BaseRNNCell:
        """Build the tree that a spec describes; cells whose weights have one prefix share them.

        Raises
        ------
        UnsupportedError
            If it names a class that is not rnnx's own.
        """
        cell = Node.build(spec, {})
        assert isinstance(cell, BaseRNNCell)  # every class that is registered by name is one
        return cell

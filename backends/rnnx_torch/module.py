"""`RNNModule`: a `torch.nn.Module` over a cell tree.

The module's parameters are the tree's weights, and a call runs the tree's plan on them. What a call takes from torch it
takes where `torch.nn` does: whether dropout acts from ``train()`` and ``eval()``, and what is dropped from torch's
global generator, so that ``torch.manual_seed``, checkpointing, ``vmap`` and ``torch.compile`` do with it what they do
with torch's own modules.

Sources: ``torch/nn/modules/module.py`` and ``torch/_dynamo/decorators.py`` (``nonstrict_trace``) of PyTorch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rnnx.backend import Call, Kernel, KernelWeights, Recurrence, Unsupported
from rnnx.cells import BaseRNNCell, placement
from rnnx.cells.arguments import FLOATING, LAYOUTS, checked_length, checked_states, flat, read_inputs
from rnnx.checks import whole
from rnnx.errors import BackendMismatchError, ShapeError, UnsupportedError
from rnnx.ops import Ops
from rnnx.plan import Plan, Planner
from rnnx_torch.backend import TorchBackend
from rnnx_torch.kernels import run_kernel

__all__ = ["RNNModule"]

_FLOATING = frozenset(getattr(torch, name) for name in FLOATING)

#: Modules of torch that are not typed, or not wholly.
_JIT: Any = torch.jit
_ONEDNN: Any = torch.backends.mkldnn


class RNNModule(torch.nn.Module):
    """A cell tree as a module of torch.

    Its parameters are the tree's weights under the weights' own names; a dot in a name, as in that of
    ``encoder.lstm_parameters``, makes a module within the module. The cell and the module share the weights: what
    trains one trains the other. A weight that two cells share is one parameter.

    Parameters
    ----------
    cell : BaseRNNCell
        The tree. Weights that it has are kept, those that live elsewhere are moved to torch; otherwise new ones are
        drawn with MXNet's initial values from torch's global generator.
    input_size : int
        I, the width of the inputs.
    layout : {"NTC", "TNC"}
        Axes of inputs and outputs.
    fuse : bool
        False steps through time whatever a kernel could run; ``torch.vmap`` over the weights needs that, since torch's
        own kernels cannot be batched.
    device : torch.device or str, optional
        Where to put the weights.
    dtype : torch.dtype, optional
        What to make of them.

    Raises
    ------
    WeightFormatError
        If the cell has weights for inputs of another width.
    UnsupportedError
        If a weight has a name that no parameter of torch can have.
    """

    def __init__(
        self,
        cell: BaseRNNCell,
        input_size: int,
        layout: str = "NTC",
        *,
        fuse: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if layout not in LAYOUTS:
            raise ShapeError(f"layout is {layout!r}, expected one of {', '.join(map(repr, LAYOUTS))}")
        self.input_size, self.layout, self.fuse = whole("input_size", input_size), layout, fuse
        self._cell = cell
        self._plans: dict[tuple[Any, ...], Plan] = {}
        _place(cell, self.input_size, torch.empty(0, device=device, dtype=dtype), device is not None, dtype is not None)
        self._where = tuple(_register(self, name, value) for name, value in placement.values(cell).items())
        self._state_shapes = cell.state_shape
        self._share()

    @property
    def cell(self) -> BaseRNNCell:
        """The cell tree, with the module's parameters for its weights."""
        self._share()
        return self._cell

    def forward(self, inputs: Any, begin_state: Any = None, valid_length: Any = None) -> tuple[Tensor, list[Any]]:
        """Run the tree over a sequence, as ``cell.unroll`` with ``merge_outputs=True``; dropout acts in training mode.

        Under autocast all is done in its dtype, as torch does on CUDA devices.

        Parameters
        ----------
        inputs : tensor or list of tensor
            (N, T, I) or (T, N, I) as `layout` says, or T tensors (N, I).
        begin_state : nested list of tensor, optional
            In the order of the cell's `state_info`, or another call's final states; zeros otherwise.
        valid_length : tensor of int, optional
            (N,), the steps of each row that count. Within a compiled graph, its values are not looked at.

        Returns
        -------
        outputs : tensor
            (N, T, C) or (T, N, C).
        states : nested list of tensor
            The final states, as `unroll` nests them.
        """
        if not torch.compiler.is_compiling():
            return _run(self, inputs, self.training, begin_state, valid_length)
        given = {"begin_state": begin_state, "valid_length": valid_length}
        given = {name: value for name, value in given.items() if value is not None}
        # Dynamo is not to read the cells, but to keep the operations of torch that they come to.
        run = getattr(torch, "_dynamo").nonstrict_trace(_run)  # noqa: B009 - imported by now, and not before
        outputs, states = run(self, inputs, self.training, **given)
        return outputs, states

    def explain(self, inputs: Any, valid_length: Any = None) -> Plan:
        """Return the plan that a call with such inputs runs in the present mode; see `rnnx.BaseRNNCell.explain`."""
        read, _ = _lowered(_read(inputs, self.layout), self._values())
        return self._plan(read, self.training, valid_length is not None)

    def extra_repr(self) -> str:
        """Return what ``print`` shows of the module."""
        return f"{type(self._cell).__name__}, input_size={self.input_size}, layout={self.layout!r}"

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied and pickled: all but the plans."""
        return {**self.__dict__, "_plans": {}}

    def _share(self) -> None:
        weights = self._values()
        for name, parameter in placement.parameters(self._cell).items():
            parameter.value = weights[name]

    def _values(self) -> dict[str, Tensor]:
        """Return the weights by name, as the module holds them now."""
        return {name: _held(self, places, leaf) for name, places, leaf in self._where}

    def _plan(self, inputs: Tensor, training: bool, masked: bool) -> Plan:
        """Return the plan of such a call; made once."""
        key = (inputs.dtype, inputs.device, training, masked, torch.is_grad_enabled(), _traced())
        plan = self._plans.get(key)
        if plan is None:
            call = Call(_BACKEND.dtype(inputs), _BACKEND.device(inputs), training, masked)
            stage = self._cell.stage(Planner(_BACKEND, call, self.fuse), self.input_size)
            plan = self._plans[key] = Plan(_BACKEND, call, stage)
        return plan


class _ModuleBackend(TorchBackend):
    """The backend as modules use it: it draws from torch's global generator, and knows that calls may be traced."""

    def bernoulli(self, seed: int, probability: float, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """See `Backend.bernoulli`; the seed is torch's."""
        return torch.rand(shape, device=like.device) < probability

    def plan(self, recurrence: Recurrence, call: Call) -> Kernel | Unsupported:
        """See `TorchBackend.plan`."""
        if call.masked and _traced():
            return Unsupported("packed rows depend on what the lengths are, and a graph is made before they are known")
        with _libraries():
            return super().plan(recurrence, call)

    def run(
        self,
        kernel: Kernel,
        weights: KernelWeights,
        inputs: Tensor,
        states: Sequence[Tensor],
        valid_length: Tensor | None,
        seeds: Sequence[int],
    ) -> tuple[Tensor, list[Tensor]]:
        """See `Backend.run`; dropout is the kernel's own, but in a graph, where torch would lose it.

        ``_rnn_helper`` of ``torch/_decomp/decompositions.py`` takes a kernel to pieces, and drops nothing out.
        """
        dropout = kernel.recurrence.dropout if seeds else 0.0
        traced = _traced()
        drawn: tuple[Any, ...] = (seeds, 0.0) if traced else ((), dropout)
        with _libraries() if traced else _AS_THEY_ARE:
            return run_kernel(self, kernel.recurrence, weights, inputs, list(states), valid_length, *drawn)


#: What stands where nothing is to be changed: entering it takes a tenth of what a generator's context takes.
_AS_THEY_ARE = nullcontext()

_BACKEND = _ModuleBackend()


def _run(
    module: RNNModule, inputs: Any, training: bool, begin_state: Any = None, valid_length: Any = None
) -> tuple[Tensor, list[Any]]:
    """Run a module's tree over a sequence."""
    weights = module._values()
    inputs, lowered = _lowered(_read(inputs, module.layout), weights)
    if lowered is not weights and begin_state is not None:
        begin_state = [state.to(inputs.dtype) for state in flat(begin_state)]
    _check(lowered, inputs, module.input_size)
    states = _states(module, begin_state, inputs)
    lengths = _lengths(valid_length, inputs)
    plan = module._plan(inputs, training, lengths is not None)
    outputs, states = plan.run(Ops(_BACKEND, training, itertools.repeat(0)), lowered, inputs, states, lengths)
    return outputs.transpose(0, 1) if LAYOUTS[module.layout] else outputs, module._cell.nest(states)


def _read(inputs: Any, layout: str) -> Tensor:
    """Return the inputs time-major; those that all is well with at once, since a step takes but microseconds."""
    axis = LAYOUTS[layout]
    if isinstance(inputs, Tensor) and inputs.dim() == 3 and inputs.dtype in _FLOATING and inputs.shape[axis] > 0:
        return inputs.transpose(0, 1) if axis else inputs
    _, _, read = read_inputs(None, inputs, layout, "torch")
    time_major: Tensor = read
    return time_major


def _states(module: RNNModule, begin_state: Any, inputs: Tensor) -> list[Tensor]:
    if begin_state is not None:
        return checked_states(_BACKEND, begin_state, module._state_shapes, inputs[0], "begin_state")
    batch = inputs.shape[1]
    return [inputs.new_zeros([size or batch for size in shape]) for shape in module._state_shapes]


def _lowered(inputs: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return inputs and weights in the dtype that autocast asks for, if it does; float64 it leaves alone."""
    kind = inputs.device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return inputs, weights
    if torch.float64 in {inputs.dtype, *(weight.dtype for weight in weights.values())}:
        return inputs, weights
    dtype = torch.get_autocast_dtype(kind)
    return inputs.to(dtype), {name: weight.to(dtype) for name, weight in weights.items()}


def _traced() -> bool:
    """Say whether what runs becomes a graph, for tensors that are not there yet."""
    return torch.compiler.is_compiling() or bool(_JIT.is_tracing())


@contextmanager
def _libraries() -> Iterator[None]:
    """Choose and run kernels without oneDNN in a graph that is to be differentiated: torch has no derivative there."""
    enabled = _ONEDNN.enabled
    if not (enabled and torch.compiler.is_compiling() and torch.is_grad_enabled()):
        yield
        return
    _ONEDNN.enabled = False
    try:
        yield
    finally:
        _ONEDNN.enabled = enabled


def _lengths(valid_length: Any, inputs: Tensor) -> Tensor | None:
    """Return the lengths on the inputs' device, checked where they are there to be looked at."""
    if isinstance(valid_length, Tensor) and _traced():
        if tuple(valid_length.shape) != (inputs.shape[1],):
            raise ShapeError(f"valid_length has shape {tuple(valid_length.shape)}, expected {(inputs.shape[1],)}")
        return valid_length.to(inputs.device, torch.int64)
    return checked_length(_BACKEND, valid_length, inputs)


def _check(weights: Mapping[str, Tensor], inputs: Tensor, input_size: int) -> None:
    """Raise unless weights and inputs fit each other."""
    if inputs.shape[2] != input_size:
        raise ShapeError(f"inputs are {inputs.shape[2]} wide, expected input_size={input_size}")
    for name, weight in weights.items():
        if weight.dtype != inputs.dtype or weight.device != inputs.device:
            raise BackendMismatchError(
                f"weight {name!r} is {_BACKEND.dtype(weight)} on {weight.device} and the inputs are "
                f"{_BACKEND.dtype(inputs)} on {inputs.device}: move the module with .to(), or convert the inputs"
            )


# -- weights ----------------------------------------------------------------------------------------------------------


def _place(cell: BaseRNNCell, input_size: int, like: Tensor, elsewhere: bool, cast: bool) -> None:
    """See that every weight is a tensor that fits such inputs: on a device and in a dtype where they are said."""
    for leaf, size in cell.sized_leaves(input_size):
        for parameter in leaf.own_parameters():
            if parameter.value is not None:
                parameter.check(tuple(parameter.value.shape), size)
    here = placement.backend_of_weights(cell)
    if here is not None and (elsewhere or cast or here.name != _BACKEND.name):
        stays = here.name == _BACKEND.name and not elsewhere
        old = next(value for value in placement.values(cell).values() if value is not None)
        cell.to("torch", str(old.device if stays else like.device), _BACKEND.dtype(like) if cast else None)
    if any(value is None for value in placement.values(cell).values()):
        rng = np.random.default_rng(int(torch.randint(2**62, (), device="cpu")))
        placement.create(cell, input_size, _BACKEND, _BACKEND.dtype(like), _BACKEND.device(like), rng)


def _register(module: torch.nn.Module, name: str, value: Tensor) -> tuple[str, tuple[str, ...], str]:
    """Make a weight a parameter, and return its name, the modules within the module that lead to it, and its own."""
    *places, leaf = name.split(".")
    for place in places:
        if place not in module._modules:
            if not place or hasattr(module, place):
                raise UnsupportedError(
                    f"weight {name!r} would stand in a module called {place!r}, and torch lets none be called so: give "
                    "the cell another prefix="
                )
            module.add_module(place, torch.nn.Module())
        module = module.get_submodule(place)
    if not leaf:
        raise UnsupportedError(f"weight {name!r} has no name behind its last dot: give the cell another prefix=")
    # Not with register_parameter, which refuses "parameters", a fused cell's weight where its prefix is empty.
    module._parameters[leaf] = value if isinstance(value, torch.nn.Parameter) else torch.nn.Parameter(value)
    return name, tuple(places), leaf


def _held(module: torch.nn.Module, places: Sequence[str], leaf: str) -> Tensor:
    """Return a weight; as an attribute, where what parametrizations and pruning make of a parameter stands."""
    for place in places:
        module = getattr(module, place)
    weight: Tensor | None = module._parameters.get(leaf)
    return getattr(module, leaf) if weight is None else weight

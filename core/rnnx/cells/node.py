"""`Node`: a cell as the planner, the weights and the spec see it, a place in a tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rnnx.backend import Array, Backend
from rnnx.cells import placement
from rnnx.cells.arguments import call_with_shape
from rnnx.errors import BackendMismatchError, ShapeError, UnsupportedError, WeightFormatError
from rnnx.ops import Ops, Slot, Step, Stepped, Weights
from rnnx.params import Parameter, RNNParams, Shape
from rnnx.registry import backend_of, default_backend
from rnnx.spec import KINDS, CellSpec
from rnnx.weights.layout import GROUPS, merge_gates, split_gates

if TYPE_CHECKING:
    from rnnx.plan import Planner
    from rnnx.stages import Stage

__all__ = ["Node"]


class Node:
    """A cell in a tree. What stands here fits a cell without children; containers and modifiers override it."""

    _classes: ClassVar[dict[str, type[Node]]] = {}
    _cells: Sequence[Node] = ()
    _prefix: str
    _params: RNNParams
    _modified: bool
    _init_counter: int
    _memory: list[Array] | None
    _planned: dict[Any, Any]
    _built_in: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._built_in = cls.__module__.startswith("rnnx.cells.")
        if cls._built_in:
            Node._classes[cls.__name__] = cls

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied and pickled: all but the plans made so far."""
        return {**self.__dict__, "_planned": {}}

    # -- what a cell of one's own says ----------------------------------------------------------------------------

    @property
    def state_info(self) -> list[dict[str, Any]]:
        """Shape and layout of each state; 0 in a shape stands for the batch size."""
        raise UnsupportedError(f"{type(self).__name__} does not say what its states are: define state_info")

    @property
    def state_shape(self) -> list[tuple[int, ...]]:
        """Shapes of the states."""
        return [info["shape"] for info in self.state_info]

    def step(self, ops: Ops, weights: Weights, inputs: Array, states: list[Array]) -> Step:
        """Return one step's outputs and new states: the cell's equation, in the operations of `ops`.

        Parameters
        ----------
        ops : rnnx.ops.Ops
            The operations, ``ops.training``, and randomness.
        weights : mapping of str to array
            The cell's weights, by their names without the prefix.
        inputs : array
            (N, I).
        states : list of array
            In the order of `state_info`.
        """
        raise UnsupportedError(
            f"{type(self).__name__} has no equation: define step(self, ops, weights, inputs, states)"
        )

    def output_size(self, input_size: int) -> int:
        """Return the width of the outputs for inputs of the given width: that of the first state, unless overridden."""
        return int(self.state_info[0]["shape"][-1])

    @property
    def _gate_names(self) -> Sequence[str]:
        """Suffixes of the gates in a packed weight; empty for a cell whose weights are not packed."""
        return ()

    def _fields(self) -> dict[str, Any]:
        """Return the constructor's arguments, for the spec."""
        return {"prefix": self._prefix}

    def reset(self) -> None:
        """Forget what was kept from step to step, before another sequence is stepped through."""
        self._init_counter = -1
        self._memory: list[Array] | None = None
        for cell in self._cells:
            cell.reset()

    # -- running --------------------------------------------------------------------------------------------------

    def stage(self, planner: Planner, input_size: int) -> Stage:
        """Return the cell as a stage of a plan; stepping, unless there is something better to say."""
        return planner.loop(self, input_size, type(self).__name__, f"{type(self).__name__} has only its equation")

    def settings(self) -> tuple[Any, ...]:
        """Return what a caller may change of the cell that its stage depends on."""
        return ()

    def plan_basis(self) -> tuple[Any, ...] | None:
        """Return all that a plan of the tree depends on, to be compared; None with a class that is not rnnx's own."""
        if not self._built_in:
            return None
        basis = (self, *self.settings())
        for cell in self._cells:
            below = cell.plan_basis()
            if below is None:
                return None
            basis += below
        return basis

    def slots(self, input_size: int) -> list[Slot]:
        """Return what the cell carries from step to step."""
        return [Slot(info["shape"]) for info in self.state_info]

    def stepper(self, ops: Ops, weights: Weights) -> Stepped:
        """Return the cell bound to its weights: a function of inputs and carry."""
        start = len(self._params.prefix)
        own = {parameter.name[start:]: weights[parameter.name] for parameter in self.own_parameters()}

        def step(inputs: Array, states: list[Array]) -> Step:
            output, after = self.step(ops, own, inputs, states)
            if len(after) != len(states):
                raise ShapeError(f"step of {type(self).__name__} returned {len(after)} states, expected {len(states)}")
            return output, list(after)

        return step

    def ready(self, backend: Backend, inputs: Array, input_size: int) -> None:
        """See that every weight has a value that fits such inputs, MXNet's initial one if it had none."""
        here = placement.backend_of_weights(self)
        if here is not None and here.name != backend.name:
            raise BackendMismatchError(
                f"the inputs are arrays of backend {backend.name!r} and the weights live on {here.name!r}: "
                f"move them with cell.to({backend.name!r})"
            )
        dtype, device = backend.dtype(inputs), backend.device(inputs)
        if any(value is None for value in placement.values(self).values()):
            placement.create(self, input_size, backend, dtype, device)
        placement.check_fit(self, input_size, backend, dtype, device)

    def nest(self, states: list[Any]) -> list[Any]:
        """Return those of a flat list of final states that the cell returns, nested as MXNet nests them."""
        return states

    def merges(self, inputs_merged: bool) -> bool:
        """Say whether ``merge_outputs=None`` gives one array: plain cells give a list, as in MXNet."""
        return False

    def _begin_state(
        self, func: Callable[..., Array] | None, batch_size: int, kwargs: Mapping[str, Any]
    ) -> list[Array]:
        """Return initial states, made by `func` or else zeros on the weights' backend."""
        if func is None:
            func = self._zeros
        made = []
        for info in self.state_info:
            self._init_counter += 1
            name = f"{self._prefix}begin_state_{self._init_counter}"
            shape = tuple(size or batch_size for size in info["shape"])
            made.append(call_with_shape(func, shape, {"name": name, "__layout__": info.get("__layout__")}, kwargs))
        return made

    def _zeros(
        self, shape: tuple[int, ...], dtype: str | None = None, backend: str | None = None, device: str | None = None
    ) -> Array:
        weights = [value for value in placement.values(self).values() if value is not None]
        owner = backend_of(weights, backend) if weights or backend else default_backend()
        like = weights[0] if weights else None
        wanted = dtype or (owner.dtype(like) if like is not None else "float32")
        place = device or (owner.device(like) if like is not None else None)
        return owner.from_numpy(placement.cast(np.zeros(shape), wanted), place)

    # -- weights --------------------------------------------------------------------------------------------------

    def own_parameters(self) -> tuple[Parameter, ...]:
        """Return the weights that are the cell's own, not its children's."""
        return self._params.parameters()

    @property
    def weights_prefix(self) -> str:
        """What the names of this leaf's weights begin with."""
        return self._params.prefix

    @property
    def has_anothers_weights(self) -> bool:
        """Whether the weights bear another cell's prefix."""
        return self.weights_prefix != self._prefix and bool(self.own_parameters())

    def walk(self) -> Iterator[Node]:
        """Yield this cell and all below it, parents first."""
        yield self
        for cell in self._cells:
            yield from cell.walk()

    def leaves(self) -> Iterator[Node]:
        """Yield the cells of the tree that have no children, in order."""
        if not self._cells:
            yield self
        for cell in self._cells:
            yield from cell.leaves()

    def sized_leaves(self, input_size: int) -> Iterator[tuple[Node, int]]:
        """Yield the leaves with the width of the inputs that each reads."""
        yield self, input_size

    def first_leaves(self) -> Iterator[Node]:
        """Yield the leaves that read the tree's own inputs."""
        yield self

    def input_size_of(self, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
        """Return the input size that fits the shapes of this leaf's weights, or None if they do not tell."""
        for parameter in self.own_parameters():
            declared, found = parameter.declared, shapes.get(parameter.name, ())
            if declared and 0 in declared and len(found) == len(declared):
                return found[declared.index(0)]
        return None

    def gate_weights(self) -> dict[str, tuple[str, ...]]:
        """Return, for each weight of this leaf, the names of the weights of single gates that it holds, in order."""
        held: dict[str, tuple[str, ...]] = {each.name: (each.name,) for each in self.own_parameters()}
        for group in GROUPS if self._gate_names else ():
            role, kind = group.split("_")
            gates = tuple(f"{self._params.prefix}{role}{gate}_{kind}" for gate in self._gate_names)
            held[self._params.prefix + group] = gates
        return held

    def gate_shapes(self, input_size: int) -> dict[str, Shape]:
        """Return the shape of every weight of a single gate for inputs of a width, as `unpack` names them."""
        held = self.gate_weights()
        shapes = {}
        for parameter in self.own_parameters():
            rows, *width = parameter.shape(input_size)
            gates = held[parameter.name]
            shapes.update(dict.fromkeys(gates, (rows // len(gates), *width)))
        return shapes

    def adopt(self, shared: RNNParams) -> None:
        """Take the weights of `shared` in the place of one's own of the same name."""
        for cell in self._cells:
            cell.adopt(shared)
        mine = {parameter.name: parameter for parameter in self._params.parameters()}
        for parameter in shared.parameters():
            if parameter.name in mine:
                mine[parameter.name].check_declared(parameter.shape)
                self._params.share(parameter)

    def accepted_names(self) -> Iterator[str]:
        """Yield every name under which `load_params` takes a weight of this leaf."""
        yield from (parameter.name for parameter in self.own_parameters())
        yield from self._unpacked_names()

    def unpack(self, args: MutableMapping[str, Array]) -> None:
        """Replace the tree's packed weights in `args` by one a gate; weights that cells share are there once."""
        for leaf in self._distinct_leaves():
            leaf.unpack_own(args)

    def pack(self, args: MutableMapping[str, Array]) -> None:
        """Replace the tree's weights of each gate in `args` by packed ones."""
        for leaf in self._distinct_leaves():
            leaf.pack_own(args)

    def _distinct_leaves(self) -> Iterable[Node]:
        """Return the leaves, of those that share all their weights the first."""
        found: dict[tuple[str, ...], Node] = {}
        for leaf in self.leaves():
            found.setdefault(tuple(parameter.name for parameter in leaf.own_parameters()), leaf)
        return found.values()

    def unpack_own(self, args: MutableMapping[str, Array]) -> None:
        """Replace this leaf's packed weights in `args` by one a gate."""
        if self._gate_names:
            ops = backend_of(args[name] for name in self._packed_names() if name in args)
            split_gates(ops, args, self._params.prefix, tuple(self._gate_names))

    def pack_own(self, args: MutableMapping[str, Array]) -> None:
        """Replace this leaf's weights of each gate in `args` by packed ones."""
        if self._gate_names:
            ops = backend_of(args[name] for name in self._unpacked_names() if name in args)
            merge_gates(ops, args, self._params.prefix, tuple(self._gate_names))

    def refuse_twice(self, args: Mapping[str, Array]) -> None:
        """Raise `WeightFormatError` if weights of this leaf are in `args` both packed and one a gate."""
        own = {parameter.name for parameter in self.own_parameters()}
        packed = {name for name, gates in self.gate_weights().items() if gates != (name,)} & args.keys()
        others = (set(self.accepted_names()) - own) & args.keys()
        if packed and others:
            raise WeightFormatError(
                f"weights {min(packed)!r} and {min(others)!r} belong to one cell, packed and one a gate: give one form"
            )

    def pack_present(self, args: MutableMapping[str, Array]) -> None:
        """Pack this leaf's weights if they are there gate by gate."""
        if self._gate_names and any(name in args for name in self._unpacked_names()):
            self.pack_own(args)

    def _packed_names(self) -> Iterator[str]:
        return (self._params.prefix + group for group in GROUPS)

    def _unpacked_names(self) -> Iterator[str]:
        held = self.gate_weights()
        return (gate for name in self._packed_names() for gate in held.get(name, ()))

    # -- description ----------------------------------------------------------------------------------------------

    @property
    def spec(self) -> CellSpec:
        """The frozen description of the tree."""
        kind = type(self)
        name = kind.__name__ if Node._classes.get(kind.__name__) is kind else f"{kind.__module__}:{kind.__qualname__}"
        fields = self._fields()
        if self.has_anothers_weights:
            fields["params"] = self._params.prefix
        return CellSpec(name, fields, tuple(cell.spec for cell in self._cells))

    @staticmethod
    def build(spec: CellSpec, containers: dict[str, RNNParams]) -> Node:
        """Build the tree of a spec; `containers` holds the weights' containers made so far, by prefix."""
        if spec.kind not in KINDS:
            raise UnsupportedError(f"a cell of class {spec.kind!r} is not rnnx's own and cannot be built from its spec")
        children = [Node.build(child, containers) for child in spec.children]
        return Node._classes[spec.kind]._assemble(children, dict(spec.fields), containers)

    @classmethod
    def _assemble(cls, children: list[Any], fields: dict[str, Any], containers: dict[str, RNNParams]) -> Node:
        make: Callable[..., Node] = cls
        if "prefix" not in fields:
            return make(*children, **fields)
        prefix = fields.pop("params", fields["prefix"])
        known = containers.get(prefix)
        cell = make(*children, **fields, params=known)
        if known is None and prefix != fields["prefix"]:
            cell = make(*children, **fields, params=RNNParams(prefix))
        containers.setdefault(prefix, cell._params)
        return cell

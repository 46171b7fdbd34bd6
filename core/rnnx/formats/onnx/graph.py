"""Writing ONNX: one graph that computes what the cell tree of every recurrent part computes, for ONNX Runtime to run.

Inputs and outputs, for states of the cells in the order of ``cell.state_info``:

====================================  =======================================================================
``inputs (N, T, I)``                  rows, steps, width: the layout ``"NTC"`` of `unroll`; N and T may be any
``<prefix>h (N, H)``, ``<prefix>c``   initial states of the cell with that prefix
``outputs (N, T, C)``                 as of `unroll`; all steps of a row count
``<prefix>next_h``, ``…next_c``       final states, whatever ``get_next_state`` of a fused cell is
====================================  =======================================================================

The states of a `FusedRNNCell` are ``(L*D, N, H)``, and the ``h`` of an `LSTMPCell` is ``(N, P)``. Every input has to be
given. An initial state with a batch of 1 is that of every row, so ``numpy.zeros((1, H), "float32")`` begins any batch
with zeros, or ``(L*D, 1, H)`` for a fused cell. The sequences of a batch are of one length: there is no input for the
lengths of ragged ones. Where a model has several parts, ``<part>/`` stands before each of these names; a name that
something else has already gets a number behind, as in ``lstm_h#2``.

Metadata tells rnnx what it wrote: ``rnnx.parts`` has the trees and how the graph's initializers are made of their
weights, ``rnnx.notes`` what other formats need to write their files again as they were; see `rnnx.remembering`.

Weights that are larger than `EXTERNAL_FROM` together stand in a file of their own, ``model.onnx.data`` beside
``model.onnx``, since no protocol buffer is larger than 2 GB.

Source: ``docs/IR.md``, ``docs/ExternalData.md`` and ``docs/MetadataProps.md`` of ONNX.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rnnx.archive import Accepted, Archive, Array, Part
from rnnx.assembly import refuse_files, tensors_of
from rnnx.atomic import replace_file
from rnnx.cells import BaseRNNCell, placement
from rnnx.errors import UnsupportedError, WeightFormatError
from rnnx.formats.onnx.emit import Names, Nodes, Tree, running
from rnnx.fusion import all_unfused
from rnnx.optional import required
from rnnx.remembering import NOTES, PARTS, description
from rnnx.weights.mapped import release
from rnnx.weights.stored import Composed, Stored, pieces_of

__all__ = ["EXTERNAL_FROM", "write_model", "written_layouts"]

#: Bytes of weights from which on they stand in a file of their own.
EXTERNAL_FROM = 1_500_000_000

#: The version of the operators, and the one of the file that came with it (ONNX 1.12).
_OPSET, _IR = 17, 8

#: Where a tensor in a file of weights may begin: at a page, so that it can be mapped.
_PAGE = 4096

#: What ONNX calls the dtypes of arrays.
_TYPES: Mapping[str, str] = {
    "float16": "FLOAT16", "float32": "FLOAT", "float64": "DOUBLE", "bfloat16": "BFLOAT16", "bool": "BOOL",
    **{f"{sign}int{bits}": f"{sign}int{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip

#: The dtypes of which ONNX Runtime has kernels of LSTM, GRU and RNN on the CPU.
_RUN = ("float32", "float16")


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """A part as a graph: its inputs and outputs, and the tensors that it reads."""

    inputs: Sequence[Any]
    outputs: Sequence[Any]
    stored: list[Stored]


def written_layouts(archive: Archive) -> dict[str, list[Stored]]:
    """Return how the weights of each part are stored in the model that `write_model` writes, by the part's name.

    Raises
    ------
    UnsupportedError
        If ONNX has nothing that computes what a part does, or ONNX Runtime no kernel for its dtype.
    """
    return {name: part.stored for name, part in _drawn(archive)[1].items()}


def write_model(path: Path, archive: Archive, accepted: Accepted) -> None:
    """Write a model, and where it is large its weights beside it, whole or not at all.

    Raises
    ------
    UnsupportedError
        As of `written_layouts`.
    WeightFormatError
        If something has no place in the model.
    """
    _check_whole(archive)
    nodes, drawn = _drawn(archive)
    layouts = {name: part.stored for name, part in drawn.items()}
    tensors = tensors_of(archive, layouts, "an ONNX model", accepted)
    data = path.with_name(f"{path.name}.data") if _size(tensors) > EXTERNAL_FROM else None
    stored = _outside(tensors, data.name) if data else _inside(tensors)
    model = _model(nodes, list(drawn.values()), list(stored), _metadata(archive, layouts))
    with replace_file(path) as file:
        file.write(model.SerializeToString(deterministic=True))
        if data:
            # Once the data is replaced, nothing may be left to do that a full or failing disk could refuse.
            file.flush()
            os.fsync(file.fileno())
            with replace_file(data) as beside:
                _write_data(beside, tensors)


def _check_whole(archive: Archive) -> None:
    """Raise unless there is something to run, and a place for all the rest."""
    if not archive.parts:
        raise UnsupportedError("there is no recurrent part, so there is no graph: write the portable file (.rnnx)")
    refuse_files(archive, "an ONNX model")


# -- the graph --------------------------------------------------------------------------------------------------------


def _drawn(archive: Archive) -> tuple[Nodes, dict[str, _Drawn]]:
    _check_names(archive)
    nodes = Nodes(Names(archive.extra))
    several = len(archive.parts) > 1
    drawn = {name: _part(nodes, f"{name}/" if several else "", name, part) for name, part in archive.parts.items()}
    for name in archive.extra:
        # ONNX Runtime warns of an initializer, or a Constant, that no node reads; this one costs nothing.
        nodes.one("Shape", [name])
    return nodes, drawn


def _part(nodes: Nodes, scope: str, name: str, part: Part) -> _Drawn:
    """Put a part's nodes, time-major within and batch-major without."""
    spec, dtype = running(all_unfused(part.spec)), _checked_dtype(name, part)
    cell, width = BaseRNNCell.from_spec(part.spec), _input_size(part)
    shapes = placement.gate_shapes(cell, width) if width else {}
    rows, steps, inputs = f"{scope}N", f"{scope}T", nodes.names.new(f"{scope}inputs")
    states = _States(nodes, scope, cell, nodes.one("Shape", [inputs], start=0, end=1))
    tree = Tree(nodes, scope, dtype, shapes, states.begin())
    outputs = tree.outputs(spec, nodes.one("Transpose", [inputs], perm=[1, 0, 2]))
    (result,) = nodes.add("Transpose", [outputs], [nodes.names.new(f"{scope}outputs")], perm=[1, 0, 2])
    finals = states.end(tree.finals)
    made = cell.output_size(width) if width else None
    return _Drawn(
        [nodes.variable(inputs, dtype, [rows, steps, width]),
         *(nodes.variable(each, dtype, [size or None for size in shape]) for each, shape in states.inputs)],
        [nodes.variable(result, dtype, [rows, steps, made]),
         *(nodes.variable(each, dtype, [size or rows for size in shape]) for each, shape in finals)],
        tree.stored,
    )  # fmt: skip


class _States:
    """The states of a tree's cells: inputs and outputs of the graph, in rnnx's shapes, and parted for the nodes."""

    def __init__(self, nodes: Nodes, scope: str, cell: BaseRNNCell, rows: str) -> None:
        self._nodes, self._scope, self._rows = nodes, scope, rows
        self._cells = [(leaf.spec.fields["prefix"], leaf.state_shape) for leaf in cell.leaves() if leaf.state_shape]
        self.inputs = [
            (nodes.names.new(f"{scope}{prefix}{letter}"), shape)
            for prefix, shapes in self._cells
            for letter, shape in zip("hc", shapes, strict=False)
        ]

    def begin(self) -> Iterator[str]:
        """Yield the initial states (1, N, H) of every plain cell in order, those of fused cells among them."""
        inputs = iter(self.inputs)
        for _, shapes in self._cells:
            parted = [self._parted(name, shape) for name, shape in itertools.islice(inputs, len(shapes))]
            yield from itertools.chain.from_iterable(zip(*parted, strict=True))

    def _parted(self, name: str, shape: Sequence[int]) -> list[str]:
        """Return an initial state, for every row of the batch, as one (1, N, H) for each plain cell."""
        layers, width = _layers(shape), shape[-1]
        wanted = self._nodes.joined([self._nodes.integers(layers), self._rows, self._nodes.integers(width)], axis=0)
        return self._nodes.parted(self._nodes.one("Expand", [name, wanted]), layers, axis=0)

    def end(self, finals: Sequence[str]) -> list[tuple[str, Sequence[int]]]:
        """Put what makes the graph's outputs of the final states of the plain cells; return their names and shapes."""
        remaining, ended = iter(finals), list[tuple[str, Sequence[int]]]()
        for prefix, shapes in self._cells:
            mine = list(itertools.islice(remaining, sum(map(_layers, shapes))))
            for number, (letter, shape) in enumerate(zip("hc", shapes, strict=False)):
                name = self._nodes.names.new(f"{self._scope}{prefix}next_{letter}")
                self._ended(mine[number :: len(shapes)], shape, name)
                ended.append((name, shape))
        return ended

    def _ended(self, layers: Sequence[str], shape: Sequence[int], name: str) -> None:
        if len(shape) == 2:
            self._nodes.add("Squeeze", [*layers, self._nodes.integers(0)], [name])
        else:
            self._nodes.add("Concat", layers, [name], axis=0)


def _layers(shape: Sequence[int]) -> int:
    """Return of how many plain cells a state has the states."""
    return shape[0] if len(shape) == 3 else 1


def _input_size(part: Part) -> int | None:
    """Return the width of a part's inputs; None of one without weights."""
    for leaf in BaseRNNCell.from_spec(all_unfused(part.spec)).first_leaves():
        for name in leaf.gate_shapes(1):
            return int(part.weights[name].shape[1])
    return None


def _checked_dtype(name: str, part: Part) -> int:
    found = next((array.dtype.name for array in part.weights.values()), _RUN[0])
    if found not in _RUN:
        raise UnsupportedError(
            f"the weights of part {name!r} are {found}, and ONNX Runtime runs recurrent nodes of {' and '.join(_RUN)}: "
            "convert them with dtype='float32' (--dtype float32)"
        )
    return _type(found)


def _check_names(archive: Archive) -> None:
    weights = (name for part in archive.parts.values() for name in part.weights)
    try:
        "".join([*archive.parts, *archive.extra, *weights]).encode()
    except UnicodeEncodeError as error:
        raise WeightFormatError(f"a name cannot be stored as UTF-8, as an ONNX model stores names: {error}") from error
    if "" in archive.extra:
        raise WeightFormatError("an extra array has no name, and in ONNX no name means no array: rename it")


# -- the model --------------------------------------------------------------------------------------------------------


def _model(nodes: Nodes, parts: Sequence[_Drawn], tensors: Sequence[Any], metadata: Mapping[str, str]) -> Any:
    helper = required("onnx.helper", "onnx", "ONNX files")
    inputs = [each for part in parts for each in part.inputs]
    outputs = [each for part in parts for each in part.outputs]
    graph, opset = nodes.graph("rnnx", inputs, outputs), helper.make_opsetid("", _OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR, producer_name="rnnx")
    model.graph.initializer.extend(tensors)
    helper.set_model_props(model, metadata)
    return model


def _metadata(archive: Archive, layouts: Mapping[str, Sequence[Stored]]) -> dict[str, str]:
    """Return what rnnx reads back from a model that it wrote."""
    return {
        PARTS: description(archive.parts, layouts),
        NOTES: json.dumps(dict(archive.notes)),
    }


# -- tensors ----------------------------------------------------------------------------------------------------------


def _inside(tensors: Mapping[str, Array | Composed]) -> Iterator[Any]:
    """Yield tensors with their elements."""
    for name, array in tensors.items():
        proto = _declared(name, array)
        proto.raw_data = b"".join(_bytes(array))
        yield proto


def _outside(tensors: Mapping[str, Array | Composed], location: str) -> Iterator[Any]:
    """Yield tensors whose elements are in a file beside the model."""
    outside = required("onnx", "onnx", "ONNX files").TensorProto.EXTERNAL
    for (name, array), start in zip(tensors.items(), _starts(tensors), strict=True):
        proto = _declared(name, array)
        if array.nbytes:
            proto.data_location = outside
            for key, value in (("location", location), ("offset", start), ("length", array.nbytes)):
                proto.external_data.add(key=key, value=str(value))
        yield proto


def _write_data(file: BinaryIO, tensors: Mapping[str, Array | Composed]) -> None:
    for array, start in zip(tensors.values(), _starts(tensors), strict=True):
        file.write(bytes(start - file.tell()))
        for piece in _bytes(array):
            file.write(piece)


def _starts(tensors: Mapping[str, Array | Composed]) -> Iterator[int]:
    """Yield where each tensor begins in a file of weights."""
    start = 0
    for array in tensors.values():
        yield start
        start += -(-array.nbytes // _PAGE) * _PAGE


def _declared(name: str, array: Array | Composed) -> Any:
    """Return a tensor without its elements."""
    if array.dtype.name not in _TYPES:
        raise WeightFormatError(f"array {name!r} has dtype {array.dtype.name}; an ONNX model takes {', '.join(_TYPES)}")
    return required("onnx", "onnx", "ONNX files").TensorProto(
        name=name, dims=array.shape, data_type=_type(array.dtype.name)
    )


def _bytes(array: Array | Composed) -> Iterator[memoryview]:
    """Yield the elements as they are stored: row by row, little-endian."""
    for piece in pieces_of(array):
        yield np.ascontiguousarray(piece, piece.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data
        release(piece)


def _size(tensors: Mapping[str, Array | Composed]) -> int:
    return sum(array.nbytes for array in tensors.values())


def _type(dtype: str) -> int:
    found: int = required("onnx", "onnx", "ONNX files").TensorProto.DataType.Value(_TYPES[dtype])
    return found

"""How the tensors of a file are made of a network's weights: data, by which files are read apart and put together.

The weights are those of single gates, as `mxnet.rnn` unpacks and names them: ``lstm_i2h_f_weight (H, I)``,
``lstm_h2h_f_bias (H,)``. Every framework stores them in tensors of its own. A `Stored` says of one such tensor what it
is called, what shape it has, and which weights it holds in which order; it is read in both directions, so a layout is
written down once::

    # torch's weight_ih_l0 of a GRU: the gates' rows, one under the other
    Stored("weight_ih_l0", (3 * H, I), blocks("gru_i2h_r_weight", "gru_i2h_z_weight", "gru_i2h_o_weight"))
    # Keras's kernel of the same: other gates first, and transposed
    Stored("kernel", (I, 3 * H), blocks("gru_i2h_z_weight", "gru_i2h_r_weight", "gru_i2h_o_weight"), transposed=True)
    # the one bias of Keras's LSTM: what is read goes to i2h, and h2h is zero; what is written is their sum
    Stored("bias", (4 * H,), blocks(("lstm_i2h_i_bias", "lstm_h2h_i_bias"), …))

A weight that no tensor holds is zero: what a framework has no bias for cannot be anything else. Reading gives views and
copies nothing; writing puts a tensor together when its turn comes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rnnx.errors import WeightFormatError, nearest
from rnnx.weights.mapped import release

__all__ = [
    "Block",
    "Cast",
    "Composed",
    "Shape",
    "Stored",
    "as_named",
    "as_plain",
    "blocks",
    "composes",
    "from_plain",
    "gates",
    "merged_biases",
    "pieces_of",
    "put_together",
    "same_bits",
    "shapes_of",
    "taken_apart",
]

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Block:
    """A weight within a tensor, or the sum of two where the framework has one bias a gate."""

    weight: str
    addend: str | None = None


@dataclasses.dataclass(frozen=True)
class Stored:
    """One tensor of a file.

    Parameters
    ----------
    name : str
        What the file calls it.
    shape : tuple of int
        Its shape in the file.
    blocks : tuple of Block
        The weights it holds. By default their elements follow each other row by row, whatever the tensor's shape.
    columns : int
        How many weights stand side by side, where they do not only stand one under the other.
    transposed : bool
        Whether the tensor is the transpose of that.
    """

    name: str
    shape: Shape
    blocks: tuple[Block, ...]
    columns: int = 1
    transposed: bool = False


def blocks(*weights: str | tuple[str, str]) -> tuple[Block, ...]:
    """Return blocks of single weights, and of sums where two names are given."""
    return tuple(Block(each) if isinstance(each, str) else Block(*each) for each in weights)


def gates(prefix: str, group: str, order: Sequence[str]) -> tuple[Block, ...]:
    """Return the blocks of a packed weight: ``gates("lstm_", "i2h_weight", ("_i", "_f", "_c", "_o"))``."""
    role, kind = group.split("_")
    return blocks(*(f"{prefix}{role}{gate}_{kind}" for gate in order))


def merged_biases(prefix: str, order: Sequence[str]) -> tuple[Block, ...]:
    """Return the blocks of a bias that is the only one: of each gate, i2h and h2h together."""
    return blocks(*((f"{prefix}i2h{gate}_bias", f"{prefix}h2h{gate}_bias") for gate in order))


def as_named(weight: str, shape: Shape) -> Stored:
    """Return the tensor that is one weight and is called as the weight is."""
    return Stored(weight, shape, (Block(weight),))


def as_plain(stored: Stored) -> list[Any]:
    """Return a tensor's description as a list for JSON: name, shape, weights, columns, and whether it is transposed."""
    held = [block.weight if block.addend is None else [block.weight, block.addend] for block in stored.blocks]
    return [stored.name, list(stored.shape), held, stored.columns, stored.transposed]


def from_plain(plain: Any, where: str) -> Stored:
    """Return the description that `as_plain` made into a list, which need not be trusted.

    Raises
    ------
    WeightFormatError
        If it is none; `where` it stands is said.
    """
    try:
        name, shape, held, columns, transposed = plain
        made = tuple(Block(each) if isinstance(each, str) else Block(*each) for each in held)
        texts = [name, *(text for block in made for text in (block.weight, block.addend or ""))]
        "".join(texts).encode()
        if any(type(size) is not int or size < 0 for size in (columns, *shape)):
            raise ValueError("sizes should be whole numbers")
        return Stored(name, tuple(shape), made, columns, bool(transposed))
    except (TypeError, ValueError) as error:
        raise WeightFormatError(f"{where}: {str(plain)[:60]} does not say how a tensor is stored: {error}") from error


def composes(stored: Stored, shapes: Sequence[Shape]) -> bool:
    """Say whether weights of these shapes, one a block, make a tensor of the shape that it is said to have."""
    columns = stored.columns
    if not stored.transposed and columns == 1:
        return sum(map(math.prod, shapes)) == math.prod(stored.shape)
    if not shapes or columns < 1 or len(shapes) % columns or any(len(shape) != 2 for shape in shapes):
        return False
    rows = list(_rows(shapes, columns))
    alike = all([width for _, width in row] == [width for _, width in rows[0]] for row in rows)
    level = all(len({height for height, _ in row}) == 1 for row in rows)
    whole = (sum(row[0][0] for row in rows), sum(width for _, width in rows[0]))
    return alike and level and stored.shape == (whole[::-1] if stored.transposed else whole)


def taken_apart(stored: Sequence[Stored], arrays: Mapping[str, Array], shapes: Mapping[str, Shape]) -> dict[str, Array]:
    """Return the weights that a file's tensors hold: views of them, and zeros for those that none holds.

    Parameters
    ----------
    stored : sequence of Stored
        How the tensors are made.
    arrays : mapping of str to array
        The file's tensors by name.
    shapes : mapping of str to tuple of int
        The shape of every weight by name.

    Raises
    ------
    WeightFormatError
        If a tensor is missing, has another shape, or cannot be made of the weights.
    """
    found: dict[str, Array] = {}
    for each in stored:
        for block, array in _parts(each, _checked(each, arrays, shapes), shapes):
            if block.weight in found and not same_bits(found[block.weight], array):
                raise WeightFormatError(f"two tensors hold weight {block.weight!r}, {each.name!r} one, and they differ")
            found[block.weight] = array
            if block.addend is not None:
                found[block.addend] = _zeros(shapes[block.addend], array.dtype)
    dtype = next(iter(found.values())).dtype if found else np.dtype(np.float32)
    return {name: found[name] if name in found else _zeros(shape, dtype) for name, shape in shapes.items()}


def put_together(
    stored: Sequence[Stored], weights: Mapping[str, Array], where: str, merge_biases: bool = False
) -> dict[str, Array | Composed]:
    """Return the tensors of a file by name, from the weights they hold.

    Parameters
    ----------
    stored : sequence of Stored
        How the tensors are made.
    weights : mapping of str to array
        Every weight by name.
    where : str
        What to call the format in an error.
    merge_biases : bool
        Whether two biases may be added where the format has one.

    Raises
    ------
    WeightFormatError
        If the tensors cannot hold the weights; the message says what would be lost.
    """
    held = {name for each in stored for block in each.blocks for name in (block.weight, block.addend)}
    for name in weights:
        if name not in held and _says_something(weights[name]):
            raise WeightFormatError(f"{where} has no place for weight {name!r}, which is not zero: it would be lost")
    sums = {
        block: _sum(block, weights, where, merge_biases)
        for each in stored
        for block in each.blocks
        if block.addend is not None and _says_something(weights[block.addend])
    }
    dtype = next((weights[name].dtype for name in weights), np.dtype(np.float32))
    return {each.name: Composed(each, weights, sums, dtype) for each in stored}


class Composed:
    """A tensor to be written, put together from its blocks when its turn comes.

    It has the attributes of an array by which a file's header is written, and NumPy takes it for an array.
    """

    def __init__(
        self, stored: Stored, weights: Mapping[str, Array], sums: Mapping[Block, Array], dtype: np.dtype[Any]
    ) -> None:
        self._stored, self._weights, self._sums = stored, weights, sums
        self.shape = stored.shape
        self.dtype = dtype
        self.ndim = len(stored.shape)
        self.itemsize = dtype.itemsize
        self.size = math.prod(stored.shape)
        self.nbytes = self.size * self.itemsize

    def pieces(self) -> Iterator[Array]:
        """Yield arrays whose elements, row by row and one array after the other, are the tensor's."""
        parts = (self._part(block) for block in self._stored.blocks)
        if not self._stored.transposed and self._stored.columns == 1:
            yield from parts
        else:
            rows = [list(row) for row in _rows(list(parts), self._stored.columns)]
            if self._stored.transposed:
                rows = [[array.T for array in column] for column in zip(*rows, strict=True)]
            yield np.block(rows)

    def _part(self, block: Block) -> Array:
        return self._sums[block] if block in self._sums else self._weights[block.weight]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a composed tensor is only there once it has been put together, which copies")
        whole = np.concatenate([piece.reshape(-1) for piece in self.pieces()]).reshape(self.shape)
        return whole if dtype is None else whole.astype(dtype, copy=False)


class Cast(Mapping[str, Array]):
    """Weights that are cast one by one, each when it is asked for.

    Parameters
    ----------
    source : mapping of str to array
        The weights as they are.
    cast : callable
        Returns an array in the other dtype.
    """

    def __init__(self, source: Mapping[str, Array], cast: Callable[[Array], Array]) -> None:
        self.source, self._cast = source, cast

    def __getitem__(self, name: str) -> Array:
        array = self.source[name]
        cast = self._cast(array)
        release(array)
        return cast

    def __iter__(self) -> Iterator[str]:
        return iter(self.source)

    def __len__(self) -> int:
        return len(self.source)


def shapes_of(weights: Mapping[str, Array]) -> dict[str, Shape]:
    """Return the shape of every weight by name; nothing is cast for it."""
    return {name: array.shape for name, array in (weights.source if isinstance(weights, Cast) else weights).items()}


def same_bits(one: Array, other: Array) -> bool:
    """Say whether two arrays are the same bit for bit, dtype and shape included."""
    return one is other or (one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())


def pieces_of(array: Array | Composed) -> Iterator[Array]:
    """Yield arrays whose elements, row by row and one array after the other, are those of an array or tensor."""
    if isinstance(array, Composed):
        yield from array.pieces()
    else:
        yield array


# -- reading ----------------------------------------------------------------------------------------------------------


def _checked(stored: Stored, arrays: Mapping[str, Array], shapes: Mapping[str, Shape]) -> Array:
    if stored.name not in arrays:
        raise WeightFormatError(f"weight {stored.name!r} is missing{nearest(stored.name, arrays)}")
    array = arrays[stored.name]
    if array.shape != stored.shape:
        raise WeightFormatError(f"weight {stored.name!r} has shape {array.shape}, expected {stored.shape}")
    held = [shapes[block.weight] for block in stored.blocks]
    if not composes(stored, held):
        raise WeightFormatError(f"weight {stored.name!r} has shape {array.shape}, which weights of {held} do not make")
    return array


def _parts(stored: Stored, array: Array, shapes: Mapping[str, Shape]) -> Iterator[tuple[Block, Array]]:
    """Yield the blocks of a tensor, each with its view of it."""
    if stored.transposed or stored.columns > 1:
        yield from _tiles(stored, array.T if stored.transposed else array, shapes)
        return
    elements, start = array.reshape(-1), 0
    for block in stored.blocks:
        stop = start + math.prod(shapes[block.weight])
        yield block, elements[start:stop].reshape(shapes[block.weight])
        start = stop


def _tiles(stored: Stored, grid: Array, shapes: Mapping[str, Shape]) -> Iterator[tuple[Block, Array]]:
    top = 0
    for row in _rows(stored.blocks, stored.columns):
        left = 0
        for block in row:
            height, width = shapes[block.weight]
            yield block, grid[top : top + height, left : left + width]
            left += width
        top += shapes[row[0].weight][0]


def _rows(items: Sequence[Any], columns: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + columns] for start in range(0, len(items), columns))


def _zeros(shape: Shape, dtype: np.dtype[Any]) -> Array:
    """Return zeros that take no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)


# -- writing ----------------------------------------------------------------------------------------------------------


def _sum(block: Block, weights: Mapping[str, Array], where: str, merge_biases: bool) -> Array:
    assert block.addend is not None
    if not merge_biases:
        raise WeightFormatError(
            f"{where} has one bias a gate, and {block.weight!r} and {block.addend!r} are two: merge_biases=True "
            "(--merge-biases) adds them, which keeps what the network computes and loses which was which"
        )
    # Added in double precision and rounded once.
    one, other = weights[block.weight], weights[block.addend]
    return (one.astype(np.float64) + other.astype(np.float64)).astype(one.dtype)


def _says_something(array: Array) -> bool:
    """Say whether an array differs from zeros in a single bit."""
    return bool(np.any(array != 0) or np.any(np.signbit(array)))

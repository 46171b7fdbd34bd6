"""What becomes of the axes of a recurrent node's output on its way to the next node.

Axes are told apart by what runs along them: T steps, N rows, D directions, H units, as in ``Y (T, D, N, H)``. A step of
the graph may exchange them, drop D where there is one direction, or merge some, as ``Transpose`` and ``Reshape`` do to
make ``(T, N, D*H)``. What a ``Reshape`` is given as its shape may be computed from the sizes of the very value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rnnx.formats.onnx.program import Node
from rnnx.formats.onnx.values import Values

__all__ = ["Axes", "Path"]

#: For each axis of a value, the letters of what was merged into it.
Axes = tuple[tuple[str, ...], ...]

#: A size: a number, times sizes that only a run tells, by their letters.
_Size = tuple[int, tuple[str, ...]]

#: Most operations by which a shape is computed, and most axes that it tells of.
_MAX_STEPS, _MAX_AXES = 256, 32

#: The size that a `Reshape` finds out itself.
_REST: _Size = (-1, ())


class Path:
    """The values on the way from one node to the next, and their axes.

    Parameters
    ----------
    values : Values
        Of the program.
    sizes : mapping of str to int
        The sizes that are known, by letter: those of D and H, and of T and N where the model fixes them.
    """

    def __init__(self, values: Values, sizes: Mapping[str, int]) -> None:
        self._values, self._sizes = values, sizes
        #: The axes of every value that was passed.
        self.axes: dict[str, Axes] = {}
        self._steps = 0

    def after(self, node: Node, value: str) -> Axes | None:
        """Return the axes of a node's output, where it does nothing but move those of `value` about; or else None."""
        axes = self.axes[value]
        if node.domain or node.input(0) != value or not node.output(0):
            return None
        if node.op in ("Identity", "Dropout"):
            return axes
        if node.op == "Transpose":
            return self._transposed(node, axes)
        if node.op == "Squeeze":
            return self._squeezed(node, axes)
        return self._reshaped(node, axes) if node.op == "Reshape" else None

    def alike(self, axes: Axes, others: Axes) -> bool:
        """Say whether axes are the same but for those of size 1, whose place makes no difference."""
        return [self._longer(axis) for axis in axes] == [self._longer(axis) for axis in others]

    def _transposed(self, node: Node, axes: Axes) -> Axes | None:
        order = _listed(node, "perm")
        order = list(range(len(axes)))[::-1] if order is None else order
        return tuple(axes[axis] for axis in order) if sorted(order) == list(range(len(axes))) else None

    def _squeezed(self, node: Node, axes: Axes) -> Axes | None:
        dropped = self._values.numbers(node.input(1)) if node.input(1) else _listed(node, "axes")
        if not dropped or any(not -len(axes) <= axis < len(axes) for axis in dropped):
            return None
        places = {axis % len(axes) for axis in dropped}
        if any(self._size(axes[axis]) != (1, ()) for axis in places):
            return None
        return tuple(axis for place, axis in enumerate(axes) if place not in places)

    # -- Reshape ------------------------------------------------------------------------------------------------------

    def _reshaped(self, node: Node, axes: Axes) -> Axes | None:
        self._steps = 0
        copies = not _number(node, "allowzero")
        target = self._shape(node.input(1)) if node.input(1) else _listed(node, "shape")
        if target is None:
            return None
        wanted = [(each, ()) if isinstance(each, int) else each for each in target]
        for place, size in enumerate(wanted):
            if size == (0, ()):
                if not copies or place >= len(axes):
                    return None
                wanted[place] = self._size(axes[place])
        letters = [letter for axis in axes for letter in self._longer(axis)]
        return self._grouped(letters, wanted)

    def _grouped(self, letters: list[str], wanted: Sequence[_Size]) -> Axes | None:
        """Share the letters out, in their order, among axes of these sizes."""
        rest = wanted.index(_REST) if _REST in wanted else len(wanted)
        front = [self._taken(letters, size, 0) for size in wanted[:rest]]
        back = [self._taken(letters, size, -1) for size in reversed(wanted[rest + 1 :])]
        if None in front or None in back or (rest == len(wanted) and letters):
            return None
        middle = [tuple(letters)] if rest < len(wanted) else []
        return tuple(axis for axis in (*front, *middle, *reversed(back)) if axis is not None)

    def _taken(self, letters: list[str], size: _Size, end: int) -> tuple[str, ...] | None:
        """Take letters from one end that together have a size, or return None."""
        axis: tuple[str, ...] = ()
        while self._size(axis) != size:
            if not letters:
                return None
            letter = letters.pop(end)
            axis = (letter, *axis) if end else (*axis, letter)
        return axis

    def _longer(self, axis: Sequence[str]) -> list[str]:
        """Return the letters of sizes other than 1."""
        return [letter for letter in axis if self._sizes.get(letter) != 1]

    def _size(self, axis: Sequence[str]) -> _Size:
        known = [self._sizes[letter] for letter in axis if letter in self._sizes]
        return math.prod(known), tuple(sorted(letter for letter in axis if letter not in self._sizes))

    # -- computed shapes ----------------------------------------------------------------------------------------------

    def _shape(self, name: str) -> list[_Size] | None:
        """Return the sizes that a value holds, where they are numbers or sizes of values on the way."""
        numbers, node = self._values.numbers(name), self._values.producers.get(name)
        if numbers is not None:
            return [(number, ()) for number in numbers]
        self._steps += 1
        if node is None or node.domain or self._steps > _MAX_STEPS:
            return None
        if node.op == "Shape":
            return self._sizes_of(node)
        parents = node.inputs if node.op in ("Concat", "Mul") else node.inputs[:1]
        inputs = [self._shape(each) for each in parents[:_MAX_AXES]]
        held = [each for each in inputs if each is not None]
        return self._computed(node, held) if len(held) == len(parents) > 0 else None

    def _sizes_of(self, node: Node) -> list[_Size] | None:
        axes = self.axes.get(node.input(0))
        if axes is None:
            return None
        end = _number(node, "end")
        return [self._size(axis) for axis in axes[_number(node, "start") or 0 : len(axes) if end is None else end]]

    def _computed(self, node: Node, held: list[list[_Size]]) -> list[_Size] | None:
        if node.op == "Concat":
            return [size for each in held for size in each][:_MAX_AXES]
        if node.op == "Mul":
            return [_times(one, other) for one, other in zip(*held, strict=False)] if _alike(held) else None
        if node.op == "Gather":
            picked = self._values.numbers(node.input(1)) or []
            fit = all(-len(held[0]) <= index < len(held[0]) for index in picked)
            return [held[0][index] for index in picked] if fit and picked else None
        if node.op == "Slice":
            return self._cut(node, held[0])
        return held[0] if node.op in ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze") else None

    def _cut(self, node: Node, sizes: list[_Size]) -> list[_Size] | None:
        starts = self._values.numbers(node.input(1)) if node.input(1) else _listed(node, "starts")
        ends = self._values.numbers(node.input(2)) if node.input(2) else _listed(node, "ends")
        if not starts or not ends or node.input(4):
            return None
        return sizes[starts[0] : ends[0]]


def _alike(held: Sequence[Sequence[_Size]]) -> bool:
    return len(held) == 2 and len(held[0]) == len(held[1])


def _times(one: _Size, other: _Size) -> _Size:
    return one[0] * other[0], tuple(sorted((*one[1], *other[1])))


def _listed(node: Node, name: str) -> list[int] | None:
    return list(node.attributes[name].ints) if name in node.attributes else None


def _number(node: Node, name: str) -> int | None:
    return int(node.attributes[name].i) if name in node.attributes else None

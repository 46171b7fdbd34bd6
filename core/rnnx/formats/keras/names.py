"""Where recurrent cells have their weights in an HDF5 file of Keras, told by paths and attributes.

In files of Keras 3 the paths are of classes and attributes, and a layer's name is an attribute of its ``vars``::

    layers/lstm_1/cell/vars/0                        kernel; 1 is the recurrent kernel, 2 the bias
    layers/bidirectional/forward_layer/cell/vars/0
    layers/rnn/cell/cells/lstm_cell/vars/0
    encoder/cell/vars/0                              of a class of the user's own, with the attribute ``encoder``

In legacy files they are of names, and the attributes ``layer_names`` and ``weight_names`` give the order::

    model_weights/<layer>/<layer>/lstm_cell/kernel
    model_weights/<layer>/<layer>/forward_lstm/lstm_cell/kernel:0
    model_weights/<model>/<layer>/stacked_rnn_cells/lstm_cell/kernel

Source: ``_save_state`` in ``keras/src/saving/saving_lib.py`` and ``save_weights_to_hdf5_group`` in
``keras/src/legacy/saving/legacy_h5_format.py`` of Keras 3.15.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rnnx.formats.keras.config import Layer
from rnnx.formats.keras.files import EXTRA, LEGACY, LEGACY_ROOT
from rnnx.formats.keras.layers import Weights
from rnnx.found import natural
from rnnx.weights.stored import Shape

__all__ = ["CellInFile", "LegacyPlaces", "Places", "places_of"]

_MODERN_CELL = re.compile(r"(?s)(.+?)(?:/(forward|backward)_layer)?/cell(?:/cells/([^/]+))?")

#: What Keras calls the cells of its layers.
_CELL_NAME = re.compile(r"(lstm|gru|simple_rnn)_cell(_\d+)?")

#: The last names of a legacy path that are not a layer's.
_INNER = re.compile(r"(?:(?:lstm|gru|simple_rnn)_cell|stacked_rnn_cells)(?:_\d+)?")
_SIDE = re.compile(r"(forward|backward)_.*")

_Attributes = Mapping[str, Mapping[str, Mapping[str, Any]]]


@dataclasses.dataclass(frozen=True)
class CellInFile:
    """A cell that a file has weights of.

    Parameters
    ----------
    place : str
        The name of its layer, behind those of the models that it is in.
    side : str
        ``"forward"`` or ``"backward"`` within a bidirectional layer, otherwise nothing.
    called : str
        What the cell is called, or its class.
    weights : Weights
        What its weights are called.
    """

    place: str
    side: str
    called: str
    weights: Weights


class Places:
    """A file of Keras 3: ``.weights.h5``, or that in a ``.keras`` archive."""

    def __init__(self, shapes: Mapping[str, Shape], attributes: _Attributes) -> None:
        self._shapes, self._attributes = shapes, attributes

    def of_layer(self, layer: Layer) -> list[Weights] | None:
        """Return the names of the weights of each cell of a layer; None if the file has none of them."""
        found = []
        for _, where, bias in layer.cells:
            own = f"{layer.group}/{where}/vars"
            found.append(Weights(f"{own}/0", f"{own}/1", f"{own}/2" if bias else None))
        return found if all(each.kernel in self._shapes for each in found) else None

    def belongs(self, cell: CellInFile, layer: Layer) -> bool:
        """Say whether a cell is one of a layer's."""
        return cell.weights.kernel.startswith(f"{layer.group}/")

    def cells(self) -> Iterator[CellInFile]:
        """Yield every cell that paths and names show, in natural order."""
        for path in sorted(self._shapes, key=natural):
            group = path.removesuffix("/vars/0")
            if group == path or path.startswith(f"{EXTRA}/") or f"{group}/vars/1" not in self._shapes:
                continue
            bias = f"{group}/vars/2"
            weights = Weights(path, f"{group}/vars/1", bias if bias in self._shapes else None)
            called = self._name(group) or group.rpartition("/")[2]
            named = _MODERN_CELL.fullmatch(group)
            if named:
                yield CellInFile(self._place(named[1]), named[2] or "", called, weights)
            elif _CELL_NAME.fullmatch(called) or _CELL_NAME.fullmatch(group.rpartition("/")[2]):
                yield CellInFile(self._place(group), "", called, weights)

    def _name(self, group: str) -> str:
        name = self._attributes.get(f"{group}/vars", {}).get("name", {}).get("text", "")
        return name if isinstance(name, str) else ""

    def _place(self, group: str) -> str:
        parts = group.split("/")
        above = [self._name("/".join(parts[:depth])) for depth in range(1, len(parts))]
        return "/".join([*filter(None, above), self._name(group) or parts[-1]])


class LegacyPlaces:
    """A file of before Keras 3, with the weights of a model or alone."""

    def __init__(self, shapes: Mapping[str, Shape], attributes: _Attributes) -> None:
        self._shapes, self._attributes = shapes, attributes
        whole = any(path.startswith(f"{LEGACY_ROOT}/") for path in [*shapes, *attributes])
        self._root = f"{LEGACY_ROOT}/" if whole else ""
        self._cells = [cell for name in self._layer_names() for cell in self._cells_of(name)]

    def of_layer(self, layer: Layer) -> list[Weights] | None:
        """Return the names of the weights of each cell of a layer; None if the file has others, or none."""
        mine = [cell for cell in self._cells if self.belongs(cell, layer)]
        if len(mine) != len(layer.cells):
            return None
        found = []
        for (_, _, bias), cell in zip(layer.cells, mine, strict=True):
            missing = cell.weights.recurrent_kernel.replace("recurrent_kernel", "bias")
            found.append(dataclasses.replace(cell.weights, bias=(cell.weights.bias or missing) if bias else None))
        return found

    def belongs(self, cell: CellInFile, layer: Layer) -> bool:
        """Say whether a cell is one of a layer's."""
        path = cell.weights.kernel.removeprefix(self._root)
        top, *inner = layer.names
        return path.startswith(f"{top}/") and (not inner or inner[-1] in path.removeprefix(f"{top}/").split("/"))

    def cells(self) -> Iterator[CellInFile]:
        """Yield every cell that the names of weights show, in the order in which Keras loads them."""
        yield from self._cells

    def _layer_names(self) -> Sequence[str]:
        told = self._texts(self._root.rstrip("/"), "layer_names")
        return told or sorted({path.removeprefix(self._root).split("/")[0] for path in self._shapes}, key=natural)

    def _texts(self, path: str, name: str) -> list[str]:
        """Return a list of texts, which Keras spreads over several attributes where it is long."""
        own = self._attributes.get(path, {})
        found: list[str] = []
        for attribute in [name, *(f"{name}{number}" for number in range(len(own)))]:
            told = own.get(attribute, {})
            texts = told.get("text", told.get("bytes", []))
            found += texts if isinstance(texts, list) else []
        return found

    def _cells_of(self, layer: str) -> Iterator[CellInFile]:
        for name in self._texts(f"{self._root}{layer}", "weight_names"):
            named = re.fullmatch(r"(?s)(?:(.*)/)?recurrent_kernel(:0)?", name)
            if named:
                where = f"{self._root}{layer}/{named[1]}" if named[1] else f"{self._root}{layer}"
                kernel, recurrent, bias = (
                    f"{where}/{kind}{named[2] or ''}" for kind in ("kernel", "recurrent_kernel", "bias")
                )
                if {kernel, recurrent} <= self._shapes.keys():
                    weights = Weights(kernel, recurrent, bias if bias in self._shapes else None)
                    yield self._cell(layer, (named[1] or layer).split("/"), weights)

    def _cell(self, layer: str, parts: list[str], weights: Weights) -> CellInFile:
        """Return a cell whose weights stand under names: of models, of its layer, and of what it is within that."""
        called, side = parts[-1], ""
        while len(parts) > 1 and _INNER.fullmatch(parts[-1]):
            parts = parts[:-1]
        sided = _SIDE.fullmatch(parts[-1])
        if sided and len(parts) > 1:
            side, parts = sided[1], parts[:-1]
        # Layers of a sequential model bear its name before their own.
        below = parts[parts.index(layer) + 1 :] if layer in parts else parts
        return CellInFile("/".join([layer, *below]), side, called, weights)


def places_of(kind: str, shapes: Mapping[str, Shape], attributes: _Attributes) -> Places | LegacyPlaces:
    """Return how a file of a kind says where weights stand."""
    return LegacyPlaces(shapes, attributes) if kind == LEGACY else Places(shapes, attributes)

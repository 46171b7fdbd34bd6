"""Every pair of formats, with every kind of network: what comes back bit for bit, and what is refused.

`matrix` is the table in docs/conversions.md.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

import networks
import rnnx
from rnnx.errors import RNNXError
from rnnx.spelling import plain_leaves

#: Each format with the ending of its files; some have several kinds of file.
FILES = {
    "rnnx": ".rnnx",
    "mxnet": ".params",
    "torch": ".pt",
    "torch safetensors": ".safetensors",
    "keras": ".keras",
    "keras weights": ".weights.h5",
    "keras legacy": ".h5",
    "onnx": ".onnx",
    "flax": ".msgpack",
    "tf1": ".ckpt",
    "cudnn": ".npy",
}

WIDTH = 3


def fused(mode: str) -> Callable[[], rnnx.BaseRNNCell]:
    return lambda: rnnx.FusedRNNCell(4, 2, mode, bidirectional=True, get_next_state=True, prefix=f"{mode}_")


def residual() -> rnnx.BaseRNNCell:
    return networks.sequential(rnnx.LSTMCell(4, "a_"), rnnx.ResidualCell(rnnx.LSTMCell(4, "b_")))


#: The kinds of network, each by the letter that stands for it in the table.
KINDS: dict[str, tuple[str, Callable[[], rnnx.BaseRNNCell]]] = {
    "L": ("LSTM, two layers, both directions", fused("lstm")),
    "G": ("GRU, the same", fused("gru")),
    "T": ("plain RNN of tanh, the same", fused("rnn_tanh")),
    "U": ("plain RNN of relu, the same", fused("rnn_relu")),
    "B": (
        "GRU that resets before the product, two layers",
        lambda: networks.sequential(
            rnnx.GRUCell(4, "rnn0_", reset_after=False), rnnx.GRUCell(5, "rnn1_", reset_after=False)
        ),
    ),
    "P": (
        "LSTM with projection, two layers",
        lambda: networks.sequential(rnnx.LSTMPCell(4, 2, "l0_"), rnnx.LSTMPCell(4, 2, "l1_")),
    ),
    "S": ("LSTM under a GRU", lambda: networks.sequential(rnnx.LSTMCell(4, "rnn0_"), rnnx.GRUCell(5, "rnn1_"))),
    "R": ("LSTM, and one with a residual connection", residual),
}


@dataclasses.dataclass(frozen=True)
class Held:
    """A file of a format with a network in it, and whether biases had to be merged for that."""

    path: Path
    merged: bool


def place(folder: Path, name: str, stem: str) -> Path:
    ending = FILES[name]
    return folder / (f"{stem}-0001.params" if name == "mxnet" else stem + ending)


def format_of(name: str) -> str:
    return name.partition(" ")[0]


def cells_in(path: Path, name: str, kind: str) -> list[rnnx.BaseRNNCell]:
    told = reading(name, kind)
    return [rnnx.load(path, **told)[0]] if "cell" in told else list(rnnx.load_all(path, **told).values())


def outputs_of(cells: Sequence[rnnx.BaseRNNCell]) -> np.ndarray:
    """What the cells compute, one after the other."""
    outputs = np.random.default_rng(5).normal(size=(2, 4, WIDTH)).astype(np.float32)
    for cell in cells:
        outputs, _ = cell.unroll(None, outputs, merge_outputs=True)
    return outputs


def weights_in(path: Path, name: str, kind: str) -> list[np.ndarray]:
    """The weights of a file, in the order in which they are used."""
    parts = cells_in(path, name, kind)
    arrays = []
    for cell in parts:
        unpacked = cell.unpack_weights(cell.get_params())
        arrays += [unpacked[key] for leaf in plain_leaves(cell) for key in leaf.gate_shapes(1)]
    return arrays


def reading(name: str, kind: str) -> dict:
    """What files of a format do not tell of a kind of network."""
    if name == "cudnn":
        return {"cell": KINDS[kind][1]()}
    told: dict = {"activation": {"T": "tanh", "U": "relu"}.get(kind)}
    return told | {"forget_bias": 0.0}


def converted(source: Path, name: str, target: Path, to: str, kind: str, merge: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # A config of a Keras model, say, goes no further than to a portable file.
    drop = to not in (name, "rnnx")
    told = reading(name, kind)
    rnnx.convert(source, target, to=format_of(to), from_=format_of(name), merge_biases=merge, drop_files=drop, **told)


def first_file(folder: Path, name: str, kind: str) -> Held | str:
    """Write a network to a file of a format; return why it cannot be, otherwise."""
    source, target = folder / "source.rnnx", place(folder, name, "model")
    folder.mkdir(parents=True, exist_ok=True)
    cell = networks.randomized(KINDS[kind][1](), WIDTH, "float32")
    rnnx.save(source, cell)
    refusals = []
    for merge in (False, True):
        try:
            converted(source, "rnnx", target, name, kind, merge)
        except RNNXError as error:
            refusals.append(str(error))
        else:
            if np.allclose(outputs_of(cells_in(target, name, kind)), outputs_of([cell]), atol=1e-5):
                return Held(target, merge)
            return "the file does not tell the ResidualCell"
    return refusals[-1]


def there_and_back(folder: Path, held: Held, name: str, other: str, kind: str) -> str:
    """Return "exact", "merged" where biases had to be added on the way, or why there is no way."""
    for merge in (False, True):
        there = place(folder / f"there {merge}", other, "model")
        back = place(folder / f"back {merge}", name, "model")
        try:
            converted(held.path, name, there, other, kind, merge)
            np.testing.assert_allclose(
                outputs_of(cells_in(there, other, kind)), outputs_of(cells_in(held.path, name, kind)), atol=1e-5
            )
            converted(there, other, back, name, kind, merge or held.merged)
        except RNNXError as error:
            refusal = str(error)
            continue
        same = all(
            one.dtype == two.dtype and one.tobytes() == two.tobytes()
            for one, two in zip(weights_in(held.path, name, kind), weights_in(back, name, kind), strict=True)
        )
        assert same or merge, f"{kind}: {name} -> {other} -> {name} lost something without a word"
        one, two = (outputs_of(cells_in(path, name, kind)) for path in (held.path, back))
        np.testing.assert_allclose(two, one, atol=1e-5, err_msg=f"{kind}: {name} -> {other} -> {name}")
        return "exact" if same else "merged"
    return refusal


Results = Mapping[tuple[str, str, str], str]


def results(folder: Path, formats: tuple[str, ...]) -> Results:
    """Return what becomes of each kind of network from each format to each other one and back."""
    found = {}
    for kind in KINDS:
        for name in formats:
            held = first_file(folder / kind / name, name, kind)
            for other in formats:
                place = folder / kind / name / other
                found[kind, name, other] = (
                    held if isinstance(held, str) else there_and_back(place, held, name, other, kind)
                )
                shutil.rmtree(place, ignore_errors=True)
    return found


def matrix(found: Results, formats: tuple[str, ...]) -> str:
    """Return the results as a table in Markdown."""
    lines = ["| from, to and back | " + " | ".join(formats) + " |", "| --- |" + " --- |" * len(formats)]
    for name in formats:
        cells = [_letters(found, name, other) for other in formats]
        lines.append(f"| **{name}** | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _letters(found: Results, name: str, other: str) -> str:
    exact = "".join(kind for kind in KINDS if found[kind, name, other] == "exact")
    merged = "".join(kind for kind in KINDS if found[kind, name, other] == "merged")
    return " ".join(filter(None, (exact, f"({merged})" if merged else ""))) or "-"

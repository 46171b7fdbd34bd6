"""Recurrent cells of TensorFlow 1 by their variables: what these are called, and how they are made of weights.

=============================  ==========================================  =======================================
cell                           variables                                   shapes
=============================  ==========================================  =======================================
``basic_lstm_cell`` and so on  ``kernel``, ``bias``                        ``(I + H, 4H)``, ``(4H,)``; i j f o
with a projection              the same, and ``projection/kernel``         ``(I + P, 4H)``, ``(4H,)``, ``(H, P)``
``gru_cell``                   ``gates/kernel``, ``gates/bias``,           ``(I + H, 2H)``, ``(2H,)``; r u
                               ``candidate/kernel``, ``candidate/bias``    ``(I + H, H)``, ``(H,)``
``cudnn_compatible_gru_cell``  the gates as above, then                    as above, then
                               ``candidate/input_projection/kernel`` …,    ``(I, H)``, ``(H,)``,
                               ``candidate/hidden_projection/kernel`` …    ``(H, H)``, ``(H,)``
``basic_rnn_cell``             ``kernel``, ``bias``                        ``(I + H, H)``, ``(H,)``
=============================  ==========================================  =======================================

A kernel holds what the inputs are multiplied by above what the hidden state is; j is `mxnet.rnn`'s gate c, and u its z.
TensorFlow 1.0 said ``weights`` and ``biases``; ``GRUBlockCell`` says ``w_ru``, ``b_ru``, ``w_c``, ``b_c``.

An LSTM cell adds a constant to the forget gate when it runs, 1 unless its code says otherwise, and no checkpoint holds
it. It becomes the h2h bias of that gate: nothing is rounded, and the stored bias stays as it is. The constant is listed
as if it were a variable, ``<cell>:forget_bias``, which no variable can be called. ``cudnn_compatible_lstm_cell`` adds
none.

Sources: ``tensorflow/python/keras/layers/legacy_rnn/rnn_cell_impl.py`` of TensorFlow 2.21;
``ops/lstm_ops.py``, ``ops/gru_ops.py`` and ``tools/checkpoint_convert.py`` in ``tensorflow/contrib/rnn/python`` and
``tensorflow/contrib/cudnn_rnn/python/ops/cudnn_rnn_ops.py`` of TensorFlow 1.15.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence

from rnnx.errors import WeightFormatError, nearest
from rnnx.weights.stored import Shape, Stored, blocks, merged_biases

__all__ = ["CONSTANT", "Cell", "Form", "cells_of", "form_named", "strange_cells", "tensors_of_cell"]

#: Behind a cell's scope, what a run-time constant is listed as.
CONSTANT = ":forget_bias"


@dataclasses.dataclass(frozen=True)
class Form:
    """How the variables of a kind of cell are called, behind its scope: kernels and biases, then what is optional."""

    mode: str
    names: tuple[str, ...]
    optional: tuple[str, ...] = ()
    reset_after: bool = False


_FORMS = (
    Form("lstm", ("kernel", "bias"), ("projection/kernel",)),
    Form("lstm", ("weights", "biases"), ("projection/weights",)),
    Form("gru", ("gates/kernel", "gates/bias", "candidate/kernel", "candidate/bias")),
    Form("gru", ("gates/weights", "gates/biases", "candidate/weights", "candidate/biases")),
    Form("gru", ("w_ru", "b_ru", "w_c", "b_c")),
    Form(
        "gru",
        (
            "gates/kernel",
            "gates/bias",
            "candidate/input_projection/kernel",
            "candidate/input_projection/bias",
            "candidate/hidden_projection/kernel",
            "candidate/hidden_projection/bias",
        ),
        reset_after=True,
    ),
    Form("rnn", ("kernel", "bias")),
    Form("rnn", ("weights", "biases")),
)

#: The mode of the cells of each name. A graph may number a name: ``basic_lstm_cell_1``.
_MODES = {
    "basic_lstm_cell": "lstm",
    "lstm_cell": "lstm",
    "lstm_fused_cell": "lstm",
    "cudnn_compatible_lstm_cell": "lstm",
    "gru_cell": "gru",
    "cudnn_compatible_gru_cell": "gru",
    "basic_rnn_cell": "rnn",
}

_VARIABLE = re.compile(rf"(?s)((?:.*/)?(?:{'|'.join(_MODES)})(?:_[0-9]+)?)/(.+)")

#: Variables of cells with these names and equations that are not rnnx's.
_STRANGE = {
    "w_f_diag": "peepholes",
    "w_i_diag": "peepholes",
    "w_o_diag": "peepholes",
    "projection/bias": "a bias behind its projection",
    "projection/biases": "a bias behind its projection",
    "recurrent_kernel": "a kernel of its own for the hidden state, as cells of Keras have",
}

_LSTM, _GRU_GATES, _CANDIDATE, _RNN = ("_i", "_c", "_f", "_o"), ("_r", "_z"), ("_o",), ("",)


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell's variables.

    Parameters
    ----------
    scope : str
        What their names begin with, up to the cell's own name: ``rnn/basic_lstm_cell``.
    form : Form
        How they are called.
    input_size, num_hidden : int
        I and H.
    num_projection : int, optional
        P, where the hidden state is projected.
    forget_bias : float
        What the cell adds to its forget gate when it runs.
    """

    scope: str
    form: Form
    input_size: int
    num_hidden: int
    num_projection: int | None = None
    forget_bias: float = 0.0

    @property
    def output_size(self) -> int:
        """The width of the hidden state."""
        return self.num_projection or self.num_hidden

    @property
    def adds_constant(self) -> bool:
        """Whether it adds a constant to the forget gate that only its code tells."""
        return self.form.mode == "lstm" and kind_of(self.scope) != "cudnn_compatible_lstm_cell"


def kind_of(scope: str) -> str:
    """Return the name of a cell's kind, without a graph's number."""
    return re.sub(r"_[0-9]+$", "", scope.rpartition("/")[2])


def form_named(mode: str, reset_after: bool = False) -> Form:
    """Return how today's cells of a mode call their variables."""
    return next(form for form in _FORMS if form.mode == mode and form.reset_after == reset_after)


def tensors_of_cell(cell: Cell, prefix: str) -> tuple[Stored, ...]:
    """Return how a cell's variables are made of the weights whose names begin with a prefix."""
    names = [f"{cell.scope}/{name}" for name in (*cell.form.names, *cell.form.optional)]
    if cell.form.mode == "lstm":
        return tuple(_lstm_tensors(cell, prefix, *names))
    if cell.form.mode == "rnn":
        return _kernel(cell, names[0], prefix, _RNN), _bias(cell, names[1], prefix, _RNN)
    gates = _kernel(cell, names[0], prefix, _GRU_GATES), _bias(cell, names[1], prefix, _GRU_GATES)
    if not cell.form.reset_after:
        return *gates, _kernel(cell, names[2], prefix, _CANDIDATE), _bias(cell, names[3], prefix, _CANDIDATE)
    candidate = zip(("i2h", "h2h"), (cell.input_size, cell.num_hidden), names[2::2], names[3::2], strict=True)
    return *gates, *(each for role in candidate for each in _projection(cell, prefix, *role))


def _lstm_tensors(cell: Cell, prefix: str, kernel: str, bias: str, projection: str) -> Iterator[Stored]:
    yield _kernel(cell, kernel, prefix, _LSTM)
    if cell.forget_bias == 0:
        yield _bias(cell, bias, prefix, _LSTM)
    else:
        # The h2h bias of the forget gate is the constant.
        constant = f"{prefix}h2h_f_bias"
        merged = merged_biases(prefix, _LSTM)
        held = tuple(dataclasses.replace(each, addend=None) if each.addend == constant else each for each in merged)
        yield Stored(bias, (4 * cell.num_hidden,), held)
        yield Stored(f"{cell.scope}{CONSTANT}", (cell.num_hidden,), blocks(constant))
    if cell.num_projection is not None:
        shape = (cell.num_hidden, cell.num_projection)
        yield Stored(projection, shape, blocks(f"{prefix}h2r_weight"), transposed=True)


def _kernel(cell: Cell, name: str, prefix: str, gates: Sequence[str]) -> Stored:
    weights = [f"{prefix}{role}{gate}_weight" for gate in gates for role in ("i2h", "h2h")]
    shape = (cell.input_size + cell.output_size, len(gates) * cell.num_hidden)
    return Stored(name, shape, blocks(*weights), columns=2, transposed=True)


def _bias(cell: Cell, name: str, prefix: str, gates: Sequence[str]) -> Stored:
    return Stored(name, (len(gates) * cell.num_hidden,), merged_biases(prefix, gates))


def _projection(cell: Cell, prefix: str, role: str, width: int, kernel: str, bias: str) -> tuple[Stored, Stored]:
    """Return the variables of a candidate's half: the reset gate acts on what the hidden state's half has become."""
    weight, addend = blocks(f"{prefix}{role}_o_weight"), blocks(f"{prefix}{role}_o_bias")
    return Stored(kernel, (width, cell.num_hidden), weight, transposed=True), Stored(bias, (cell.num_hidden,), addend)


# -- cells found ------------------------------------------------------------------------------------------------------


def cells_of(shapes: Mapping[str, Shape]) -> list[Cell]:
    """Return the cells whose variables are there, in the order of their names.

    Raises
    ------
    WeightFormatError
        If a cell's variables are incomplete, or do not fit each other.
    """
    strange = strange_cells(shapes)
    scopes = {scope: own for scope, own in _scopes(shapes).items() if scope not in strange}
    return [_cell(scope, _form_of(scope, own), shapes) for scope, own in scopes.items()]


def strange_cells(shapes: Mapping[str, Shape]) -> dict[str, str]:
    """Return the scopes of cells that are called as some of rnnx's are, and what they have that those have not."""
    return {
        scope: _STRANGE[name]
        for scope, own in _scopes(shapes).items()
        for name in sorted(own & _STRANGE.keys(), reverse=True)
    }


def _scopes(shapes: Mapping[str, Shape]) -> dict[str, set[str]]:
    """Return the scopes of cells, and the names behind them; those of optimizers' slots are nobody's."""
    scopes: dict[str, set[str]] = {}
    for variable in sorted(shapes):
        named = _VARIABLE.fullmatch(variable)
        if named and named[2] in _known(_MODES[kind_of(named[1])]):
            scopes.setdefault(named[1], set()).add(named[2])
    return scopes


def _known(mode: str) -> set[str]:
    forms = (form for form in _FORMS if form.mode == mode)
    return {name for form in forms for name in (*form.names, *form.optional)} | _STRANGE.keys()


def _form_of(scope: str, own: set[str]) -> Form:
    """Return the form that most of a cell's variables are of."""
    forms = [form for form in _FORMS if form.mode == _MODES[kind_of(scope)]]
    return max(forms, key=lambda form: len(own & {*form.names, *form.optional}))


def _cell(scope: str, form: Form, shapes: Mapping[str, Shape]) -> Cell:
    for name in (f"{scope}/{each}" for each in form.names):
        if name not in shapes:
            raise WeightFormatError(f"variable {name!r} is missing{nearest(name, shapes)}: its cell has others")
    kernel = f"{scope}/{form.names[0]}"
    gates = {"lstm": 4, "gru": 2, "rnn": 1}[form.mode]
    rows, columns = _matrix(kernel, shapes)
    projection = next((f"{scope}/{each}" for each in form.optional if f"{scope}/{each}" in shapes), None)
    num_projection = None if projection is None else _matrix(projection, shapes)[1]
    cell = Cell(scope, form, rows - (num_projection or columns // gates), columns // gates, num_projection)
    if cell.input_size < 1 or cell.num_hidden < 1 or columns % gates:
        raise WeightFormatError(
            f"variable {kernel!r} has shape {shapes[kernel]}; expected {gates} columns a hidden unit, and rows for "
            "inputs and the hidden state"
        )
    for each in tensors_of_cell(cell, ""):
        if shapes[each.name] != each.shape:
            raise WeightFormatError(
                f"variable {each.name!r} has shape {shapes[each.name]}, expected {each.shape}: {kernel!r} has "
                f"{shapes[kernel]}"
            )
    return cell


def _matrix(name: str, shapes: Mapping[str, Shape]) -> Shape:
    if len(shapes[name]) != 2 or min(shapes[name]) < 1:
        raise WeightFormatError(f"variable {name!r} has shape {shapes[name]}; expected a matrix")
    return shapes[name]

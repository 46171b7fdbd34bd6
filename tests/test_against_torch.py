"""Results and gradients of fused cells against PyTorch's own layers, in float64."""

from __future__ import annotations

import numpy as np
import pytest

import rnnx
from slopes import WIDTH, Problem

torch = pytest.importorskip("torch")

HIDDEN = 4
CLASSES = {
    "lstm": (torch.nn.LSTM, {}),
    "gru": (torch.nn.GRU, {}),
    "rnn_tanh": (torch.nn.RNN, {}),
    "rnn_relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
}


def torch_name(name: str) -> str:
    """``f_r1_i2h_weight`` is ``weight_ih_l1_reverse``."""
    _, place, side, kind = name.split("_")
    return f"{kind}_{'ih' if side == 'i2h' else 'hh'}_l{place[1:]}{'_reverse' if place[0] == 'r' else ''}"


def layer_by_layer(cell: rnnx.FusedRNNCell, vector: np.ndarray) -> dict[str, np.ndarray]:
    """A flat vector cut up, by PyTorch's names."""
    unfused = cell.unfuse()
    unfused.load_params(cell.unpack_weights({"f_parameters": vector}))
    return {torch_name(name): array for name, array in unfused.get_params().items()}


def theirs(problem: Problem, mode: str, layers: int, bidirectional: bool, lengths):
    """PyTorch's results, and its gradients by the names of the problem's point and of its own parameters."""
    kind, extra = CLASSES[mode]
    module = kind(WIDTH, HIDDEN, layers, bidirectional=bidirectional, batch_first=True, dtype=torch.float64, **extra)
    weights = layer_by_layer(problem.cell, problem.point["f_parameters"])
    module.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    names = ["inputs", *(name for name in problem.point if name.startswith("state "))]
    inputs, *begin = given = [torch.from_numpy(problem.point[name]).requires_grad_() for name in names]
    if lengths is not None:
        inputs = torch.nn.utils.rnn.pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
    outputs, states = module(inputs, tuple(begin) if len(begin) > 1 else begin[0])
    if lengths is not None:
        outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True)
    results = [outputs, *(states if len(begin) > 1 else [states])]
    torch.autograd.backward(results, [torch.from_numpy(factor) for factor in [problem.of_outputs, *problem.of_states]])
    gradients = {name: array.grad for name, array in zip(names, given, strict=True)}
    return results, gradients | {name: weight.grad for name, weight in module.named_parameters()}


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("lengths", [None, (3, 2, 5, 1)], ids=["unmasked", "ragged"])
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, True), (3, False)])
@pytest.mark.parametrize("mode", CLASSES)
def test_results_and_gradients_agree(mode, layers, bidirectional, lengths, fuse):
    cell = rnnx.FusedRNNCell(HIDDEN, layers, mode, bidirectional, get_next_state=True, prefix="f_")
    problem = Problem(cell, valid_length=lengths, fuse=fuse)
    results, expected = theirs(problem, mode, layers, bidirectional, lengths)
    outputs, states = cell.unroll(*problem.arguments(problem.point), valid_length=lengths, fuse=fuse)
    gradients = problem.gradients()
    gradients |= layer_by_layer(cell, gradients.pop("f_parameters"))
    assert gradients.keys() == expected.keys()
    for mine, other in [
        *zip([outputs, *states], results, strict=True),
        *((gradients[n], expected[n]) for n in expected),
    ]:
        np.testing.assert_allclose(mine, other.detach().numpy(), rtol=1e-10, atol=1e-10)

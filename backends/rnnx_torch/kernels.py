"""PyTorch's fused recurrences: which library runs one, and how it is called.

The functions behind `torch.nn.LSTM`, `GRU` and `RNN` are called directly, so that no module is made and no weight is
copied. Their list of weights is, for each layer and direction, ``i2h_weight, h2h_weight, i2h_bias, h2h_bias``, with
gates in rnnx's own order.

Sources: ``torch/nn/modules/rnn.py`` and ``aten/src/ATen/native/RNN.cpp`` (``use_mkldnn``) of PyTorch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from rnnx.backend import Backend, Call, KernelWeights, Recurrence, Unsupported
from rnnx.weights.layout import join_flat, split_flat

__all__ = ["in_one_buffer", "kernel_name", "run_kernel"]

_VF: Any = getattr(torch, "_VF")  # noqa: B009 - it has no type of its own
_FUNCTIONS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "lstm": _VF.lstm,
    "gru": _VF.gru,
    "rnn_tanh": _VF.rnn_tanh,
    "rnn_relu": _VF.rnn_relu,
}

#: What these modules say of the libraries they stand for; torch leaves them untyped.
_CUDNN: Any = torch.backends.cudnn
_ONEDNN: Any = torch.backends.mkldnn


def kernel_name(mode: str, call: Call) -> str | Unsupported:
    """Return the name of the library that runs such a call, or why none does."""
    kind = (call.device or "cpu").partition(":")[0]
    if kind == "cuda":
        return "torch.cudnn" if _CUDNN.is_available() and call.dtype != "bfloat16" else "torch.native"
    if kind != "cpu":
        return Unsupported(f"torch's fused kernels are not used on {kind!r}")
    if mode == "lstm" and not call.masked and _ONEDNN.is_available() and _ONEDNN.enabled and _in_onednn(call.dtype):
        return "torch.mkldnn"
    return "torch.native"


def _in_onednn(dtype: str) -> bool:
    """Say whether torch hands an LSTM of such numbers to oneDNN on this processor."""
    if dtype == "bfloat16":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == "float16":
        return not torch.is_grad_enabled() and bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return dtype == "float32"


def run_kernel(
    ops: Backend,
    recurrence: Recurrence,
    weights: KernelWeights,
    inputs: Tensor,
    states: list[Tensor],
    valid_length: Tensor | None,
    seeds: Sequence[int],
    dropout: float = 0.0,
) -> tuple[Tensor, list[Tensor]]:
    """Run a recurrence; see `rnnx.backend.Backend.run`.

    With seeds the layers run one by one: torch's own dropout draws from the global generator, and could not be repeated
    by a seed. Where that is wanted, `dropout` is the fraction that torch drops.
    """
    if inputs.device.type == "cuda":
        weights = in_one_buffer(ops, weights, recurrence)
    if not seeds:
        return _whole(recurrence, weights, inputs, states, valid_length, dropout)
    finals = []
    for layer in range(recurrence.num_layers):
        places = slice(layer * recurrence.directions, (layer + 1) * recurrence.directions)
        alone = dataclasses.replace(recurrence, num_layers=1)
        mine = KernelWeights(weights.layers[places])
        inputs, final = _whole(alone, mine, inputs, [state[places] for state in states], valid_length)
        finals.append(final)
        if layer < recurrence.num_layers - 1:
            keep = ops.bernoulli(seeds[layer], 1.0 - recurrence.dropout, tuple(inputs.shape), inputs)
            inputs = torch.where(keep, inputs / (1.0 - recurrence.dropout or 1.0), 0.0)
    return inputs, [torch.cat(parts) for parts in zip(*finals, strict=True)]


def in_one_buffer(ops: Backend, weights: KernelWeights, recurrence: Recurrence) -> KernelWeights:
    """Return weights as cuDNN wants them: views of one vector, with which its storage begins."""
    if weights.flat is not None and weights.flat.storage_offset() == 0:
        return weights
    return split_flat(ops, join_flat(ops, weights.layers), recurrence)


def _whole(
    recurrence: Recurrence,
    weights: KernelWeights,
    inputs: Tensor,
    states: list[Tensor],
    valid_length: Tensor | None,
    dropout: float = 0.0,
) -> tuple[Tensor, list[Tensor]]:
    flat = [weight for layer in weights.layers for weight in layer]
    tracked = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (inputs, *states, *flat))
    options = (True, recurrence.num_layers, dropout, tracked or dropout > 0, recurrence.bidirectional)
    if valid_length is not None:
        return _ragged(recurrence, options, flat, inputs, states, valid_length)
    return _split(_FUNCTIONS[recurrence.mode](inputs.contiguous(), _hidden(states), flat, *options, False))


def _ragged(
    recurrence: Recurrence,
    options: tuple[Any, ...],
    flat: list[Tensor],
    inputs: Tensor,
    states: list[Tensor],
    valid_length: Tensor,
) -> tuple[Tensor, list[Tensor]]:
    """Run rows of several lengths, the longest first as torch wants them, and those of length 0 not at all."""
    order = torch.argsort(valid_length, descending=True, stable=True)
    lengths = valid_length[order].cpu()
    rows = int((lengths > 0).sum())
    outputs = inputs.new_zeros((*inputs.shape[:2], recurrence.directions * recurrence.hidden_size))
    states = [state[:, order] for state in states]
    if rows:
        packed = pack_padded_sequence(inputs[:, order[:rows]], lengths[:rows])
        hidden = _hidden([state[:, :rows].contiguous() for state in states])
        data, final = _split(_FUNCTIONS[recurrence.mode](packed.data, packed.batch_sizes, hidden, flat, *options))
        padded, _ = pad_packed_sequence(PackedSequence(data, packed.batch_sizes), total_length=inputs.shape[0])
        outputs = torch.cat([padded, outputs[:, rows:]], 1)
        states = [torch.cat([new, old[:, rows:]], 1) for new, old in zip(final, states, strict=True)]
    back = torch.argsort(order)
    return outputs[:, back], [state[:, back] for state in states]


def _hidden(states: list[Tensor]) -> Any:
    return [state.contiguous() for state in states] if len(states) > 1 else states[0].contiguous()


def _split(results: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
    return results[0], list(results[1:])

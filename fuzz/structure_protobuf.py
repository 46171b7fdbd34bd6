"""ONNX models with fields of their messages changed, whatever the fields mean."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from structure_trees import HOSTILE_TEXTS

__all__ = ["changed_model", "is_model"]

Damage = Callable[[bytes, random.Random], bytes]

_NUMBERS = (0, 1, 2, 3, 4, 7, 8, 10, 11, 14, 16, 20, 22, 63, 64, 255, 1000, 65536, 2**31 - 1, 2**31, 2**32, 2**40,
            2**62, 2**63 - 1, -1, -2, -(2**31), -(2**63))  # fmt: skip
_FLOATS = (0.0, -0.0, 1.0, 1e-45, 3e38, float("inf"), float("nan"))

#: Deepest message that is changed: a graph within an attribute of a node within a graph, and what is in it.
_DEEPEST = 12


def is_model(content: bytes) -> bool:
    """Say whether a file is a model of ONNX with a graph, and onnx is there to tell."""
    model = _parsed(content) if content[:1] in (b"\x08", b"\x12", b":") else None
    return model is not None and bool(model.graph.ListFields())


def changed_model(content: bytes, rng: random.Random, damage: Damage) -> bytes:
    """Return a model with fields changed, left out, doubled or swapped."""
    model = _parsed(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if rng.random() < 0.1:
            _store_outside(model, rng)
        else:
            _change(rng.choice(list(_messages(model, 0))), _texts(model), rng, damage)
    changed: bytes = model.SerializeToString(deterministic=True)
    return changed


def _parsed(content: bytes) -> Any:
    try:
        import onnx
    except ImportError:
        return None
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception:  # protobuf's DecodeError, wherever this version of it keeps that
        return None
    return model


def _messages(message: Any, depth: int) -> Any:
    """Yield a message and all within it."""
    yield message
    if depth < _DEEPEST:
        for field, value in message.ListFields():
            if field.message_type is not None:
                for inner in value if _repeated(field) else (value,):
                    yield from _messages(inner, depth + 1)


def _texts(model: Any) -> list[str]:
    """Return all text of the model: names of tensors, kinds of nodes, names of attributes."""
    found = {
        text
        for message in _messages(model, 0)
        for field, value in message.ListFields()
        if field.type == field.TYPE_STRING
        for text in (value if _repeated(field) else (value,))
    }
    return sorted(found)


def _repeated(field: Any) -> bool:
    # Newer protobufs warn of `label`, and older ones have nothing else.
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED


def _change(message: Any, texts: Sequence[str], rng: random.Random, damage: Damage) -> None:
    present = [field for field, _ in message.ListFields()]
    fields = present if present and rng.random() < 0.85 else list(message.DESCRIPTOR.fields)
    if not fields:
        return
    field = rng.choice(fields)
    try:
        if rng.random() < 0.15:
            message.ClearField(field.name)
        elif _repeated(field):
            _change_list(getattr(message, field.name), field, texts, rng, damage)
        elif field.message_type is not None:
            getattr(message, field.name).SetInParent()
        else:
            setattr(message, field.name, _value(field, getattr(message, field.name), texts, rng, damage))
    except (ValueError, TypeError):  # a number that the field has no room for
        return


def _change_list(items: Any, field: Any, texts: Sequence[str], rng: random.Random, damage: Damage) -> None:
    if not len(items):
        items.add() if field.message_type is not None else items.append(_value(field, None, texts, rng, damage))
        return
    place, other = rng.randrange(len(items)), rng.randrange(len(items))
    kind = rng.randrange(4)
    if kind == 0:
        del items[place]
    elif field.message_type is None and kind == 1:
        items[place] = _value(field, items[place], texts, rng, damage)
    elif kind == 2:
        items.extend([items[other]] * rng.choice((1, 1, 30)))
    elif field.message_type is None:
        items[place], items[other] = items[other], items[place]
    else:
        copy = type(items[place])()
        copy.CopyFrom(items[place])
        items[place].CopyFrom(items[other])
        items[other].CopyFrom(copy)


def _value(field: Any, old: Any, texts: Sequence[str], rng: random.Random, damage: Damage) -> Any:
    if field.cpp_type == field.CPPTYPE_STRING:
        if field.type == field.TYPE_BYTES:
            return damage(old, rng) if old else rng.randbytes(rng.choice((1, 4, 12)))
        return rng.choice(rng.choice((HOSTILE_TEXTS, _OPERATORS, texts or _OPERATORS)))
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return rng.choice(_FLOATS)
    if isinstance(old, int) and rng.random() < 0.4:
        return old + rng.choice((-1, 1, old))
    return rng.choice(_NUMBERS)


_OPERATORS = ("LSTM", "GRU", "RNN", "Constant", "Identity", "Concat", "Reshape", "Transpose", "If", "Loop", "Expand",
              "ConstantOfShape", "Slice", "Unsqueeze", "Tanh", "Relu", "Affine", "forward", "reverse", "bidirectional",
              "ai.onnx.ml", "hidden_size", "W", "R", "B", "X", "direction", "layout", "value")  # fmt: skip


def _store_outside(model: Any, rng: random.Random) -> None:
    """Let a tensor's data stand in another file: one that is not there, the model itself, a decoy, a device."""
    if not model.graph.initializer:
        return
    tensor = rng.choice(model.graph.initializer)
    places = (
        "../decoy/decoy.bin",
        "model.onnx",
        "weights.bin",
        "/etc/hostname",
        "/dev/zero",
        "",
        ".",
        "a/../../decoy/x",
    )
    tensor.data_location = 1
    if rng.random() < 0.7:
        tensor.ClearField("raw_data")
    for key, value in (("location", rng.choice(places)), ("offset", str(rng.choice((0, 8, 4096, 2**63, -1)))),
                       ("length", str(rng.choice((0, 4, 96, 2**40, -1))))):  # fmt: skip
        if rng.random() < 0.8:
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value

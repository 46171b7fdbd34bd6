"""What rnnx reads of its own formats before one is used; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence

from rnnx.hookspecs import FormatInfo, hookimpl

__all__ = ["rnnx_formats"]


@hookimpl
def rnnx_formats() -> Sequence[FormatInfo]:
    """Return the formats that come with rnnx."""
    return [
        FormatInfo("mxnet", "rnnx.formats.mxnet:MXNetFormat"),
        FormatInfo("rnnx", "rnnx.formats.portable:PortableFormat"),
        FormatInfo("torch", "rnnx.formats.torch:TorchFormat"),
        FormatInfo("onnx", "rnnx.formats.onnx:OnnxFormat"),
        FormatInfo("flax", "rnnx.formats.flax:FlaxFormat"),
        FormatInfo("cudnn", "rnnx.formats.cudnn:CudnnFormat"),
        FormatInfo("keras", "rnnx.formats.keras:KerasFormat"),
        FormatInfo("tf1", "rnnx.formats.tf1:TF1Format"),
    ]

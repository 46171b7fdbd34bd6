"""Faults of the operations that cells are written in, and of arrays on their way to the backend and back."""

from __future__ import annotations

import numpy as np

from teeth.fault import in_backend
from teeth.kernel import sigmoid, turned
from teeth.right import RightBackend, held

__all__ = ["FAULTS"]


def functions():
    def one(name, operation, what, change):
        return in_backend(name, what, "operations", **{operation: lambda self, array: held(change(np.asarray(array)))})

    def naive(x):
        with np.errstate(all="ignore"):
            return np.nan_to_num(1 / (1 + np.exp(-x)))

    def logged(x):
        with np.errstate(all="ignore"):
            return np.log(1 + np.exp(x))

    yield one(
        "sigmoid_hard", "sigmoid", "sigmoid is piecewise linear", lambda x: np.clip(0.2 * x + 0.5, 0, 1).astype(x.dtype)
    )
    yield one("sigmoid_nan", "sigmoid", "sigmoid of NaN is 0", naive)
    yield one("sigmoid_loud", "sigmoid", "sigmoid overflows with a warning", lambda x: 1 / (1 + np.exp(-x)))
    yield one("sigmoid_rough", "sigmoid", "sigmoid is off by 1e-4", lambda x: (sigmoid(x) * (1 - 1e-4)).astype(x.dtype))
    yield one(
        "sigmoid_float32",
        "sigmoid",
        "sigmoid computes in float32",
        lambda x: sigmoid(x.astype(np.float32)).astype(x.dtype),
    )
    yield one(
        "tanh_rough",
        "tanh",
        "tanh is a rational approximation",
        lambda x: np.clip(x * (27 + x * x) / (27 + 9 * x * x), -1, 1),
    )
    yield one("tanh_clipped", "tanh", "tanh clips its argument to 3", lambda x: np.tanh(np.clip(x, -3, 3)))
    yield one("relu_nan", "relu", "relu of NaN is 0", lambda x: np.fmax(x, 0).astype(x.dtype))
    yield one("relu_abs", "relu", "relu is the absolute value", np.abs)
    yield one("softplus_overflow", "softplus", "softplus overflows", logged)
    yield one(
        "softplus_threshold",
        "softplus",
        "softplus is the identity past 10",
        lambda x: np.where(x > 10, x, np.logaddexp(np.minimum(x, 10), 0)).astype(x.dtype),
    )
    yield in_backend(
        "affine_no_bias",
        "affine leaves the bias out",
        "operations",
        affine=lambda self, inputs, weight, bias: held(np.asarray(inputs) @ np.asarray(weight).T),
    )
    yield in_backend("affine_transposed", "affine transposes no square weight", "operations", affine=_square)
    yield in_backend(
        "affine_rows",
        "affine takes inputs of two axes for what it knows, and others row by row, wrongly",
        "operations",
        affine=_flattened,
    )
    yield in_backend("affine_float32", "affine multiplies in float32", "operations", affine=_single)
    yield in_backend(
        "affine_in_place", "affine adds the bias to a buffer that it keeps", "repeatability", affine=_buffered
    )


def _square(self, inputs, weight, bias):
    matrix = np.asarray(weight)
    turned_weight = matrix if matrix.shape[0] == matrix.shape[1] else matrix.T
    return held(np.asarray(inputs) @ turned_weight + (0 if bias is None else np.asarray(bias)))


def _flattened(self, inputs, weight, bias):
    if inputs.ndim == 3:
        rows = RightBackend.affine(self, inputs.swapaxes(0, 1).reshape(-1, inputs.shape[-1]), weight, bias)
        return rows.reshape(*inputs.shape[:2], -1)
    return RightBackend.affine(self, inputs, weight, bias)


def _single(self, inputs, weight, bias):
    return RightBackend.affine(self, inputs.astype(np.float32), weight.astype(np.float32), bias).astype(inputs.dtype)


_buffers = {}


def _buffered(self, inputs, weight, bias):
    result = RightBackend.affine(self, inputs, weight, bias)
    buffer = _buffers.setdefault((result.shape, result.dtype), np.empty_like(result))
    buffer[...] = result
    return buffer


def moving():
    yield in_backend(
        "split_equal",
        "split ignores sizes",
        "operations",
        split=lambda self, array, parts, axis=-1: [
            held(part) for part in np.array_split(array, parts if isinstance(parts, int) else len(parts), axis)
        ],
    )
    yield in_backend(
        "split_last_axis",
        "split cuts the last axis always",
        "operations",
        split=lambda self, array, parts, axis=-1: RightBackend.split(self, array, parts),
    )
    yield in_backend(
        "split_turned",
        "split gives the parts in reverse",
        "operations",
        split=lambda self, array, parts, axis=-1: RightBackend.split(self, array, parts, axis)[::-1],
    )
    yield in_backend(
        "concat_alone",
        "concat returns an array that is alone",
        "operations",
        concat=lambda self, arrays, axis=-1: arrays[0] if len(arrays) == 1 else RightBackend.concat(self, arrays, axis),
    )
    yield in_backend(
        "concat_last_axis",
        "concat joins the last axis always",
        "operations",
        concat=lambda self, arrays, axis=-1: RightBackend.concat(self, arrays),
    )
    yield in_backend(
        "stack_last", "stack makes a last axis", "operations", stack=lambda self, arrays: held(np.stack(arrays, -1))
    )
    yield in_backend(
        "unstack_turned",
        "unstack begins at the end",
        "operations",
        unstack=lambda self, array: [array[at] for at in range(len(array))][::-1],
    )
    yield in_backend(
        "reshape_fortran",
        "reshape goes column by column",
        "operations",
        reshape=lambda self, array, shape: held(np.reshape(array, shape, order="F")),
    )
    yield in_backend("swapaxes_reshaped", "swapaxes reshapes", "operations", swapaxes=_reshaped)
    yield in_backend(
        "reverse_whole",
        "reverse takes no notice of lengths",
        "operations",
        reverse=lambda self, array, lengths: held(array[::-1].copy()),
    )
    yield in_backend(
        "reverse_rolled",
        "reverse puts the padding first",
        "operations",
        reverse=lambda self, array, lengths: (
            held(array[::-1].copy()) if lengths is None or array.ndim < 3 else held(_rolled(array, lengths))
        ),
    )
    yield in_backend("reverse_zeroed", "reverse zeroes what lies past a row's length", "operations", reverse=_zeroing)
    yield in_backend(
        "reverse_off",
        "reverse of a row is off by one",
        "operations",
        reverse=lambda self, array, lengths: RightBackend.reverse(
            self, array, None if lengths is None else np.maximum(lengths - 1, 0)
        ),
    )
    yield in_backend(
        "reverse_batch",
        "reverse turns the rows",
        "operations",
        reverse=lambda self, array, lengths: held(array[:, ::-1].copy()),
    )
    yield in_backend(
        "where_turned",
        "where exchanges its arguments",
        "operations",
        where=lambda self, condition, one, other: RightBackend.where(self, condition, other, one),
    )
    yield in_backend(
        "where_product",
        "where multiplies by the condition",
        "extremes",
        where=lambda self, condition, one, other: held(one * condition + other * np.logical_not(condition)).astype(
            one.dtype
        ),
    )
    yield in_backend(
        "zeros_float64", "zeros are float64", "operations", zeros=lambda self, shape, like: held(np.zeros(shape))
    )
    yield in_backend(
        "zeros_empty",
        "zeros are what the memory holds",
        "operations",
        zeros=lambda self, shape, like: held(np.full(shape, 1e-3, like.dtype)),
    )
    yield in_backend("zeros_shared", "all zeros are one array", "operations", zeros=_shared)
    yield in_backend(
        "steps_inclusive",
        "the mask is true at the step of a row's length",
        "operations",
        steps_before=lambda self, lengths, length: held(np.arange(length)[:, None] <= lengths),
    )
    yield in_backend(
        "steps_turned",
        "the mask is (N, T)",
        "operations",
        steps_before=lambda self, lengths, length: held(np.arange(length) < np.asarray(lengths)[:, None]),
    )
    yield in_backend("scan_backwards", "scan begins at the end", "operations", scan=_backwards)
    yield in_backend("scan_stuck", "scan hands the first carry to every step", "operations", scan=_stuck)
    yield in_backend(
        "scan_times",
        "scan counts from one",
        "operations",
        scan=lambda self, step, inputs, carry: RightBackend.scan(
            self, lambda time, *given: step(time + 1, *given), inputs, carry
        ),
    )


def _reshaped(self, array, first, second):
    shape = list(array.shape)
    shape[first], shape[second] = shape[second], shape[first]
    return array.reshape(shape)


def _rolled(array, lengths):
    rows = [
        np.roll(turned(array[:, [row]], lengths[[row]]), len(array) - lengths[row], 0) for row in range(len(lengths))
    ]
    return np.concatenate(rows, 1)


def _zeroing(self, array, lengths):
    result = RightBackend.reverse(self, array, lengths)
    if lengths is not None:
        past = np.arange(len(array))[:, None] >= lengths
        result = np.where(past.reshape(past.shape + (1,) * (array.ndim - 2)), np.zeros((), array.dtype), result)
    return held(result)


_zeros = {}


def _shared(self, shape, like):
    return _zeros.setdefault((tuple(shape), like.dtype), held(np.zeros(shape, like.dtype)))


def _backwards(self, step, inputs, carry):
    return RightBackend.scan(self, step, inputs[::-1], carry)


def _stuck(self, step, inputs, carry):
    first = list(carry)
    return RightBackend.scan(self, lambda time, current, _: step(time, current, first), inputs, carry)


def conversions():
    yield in_backend(
        "from_numpy_aliases",
        "from_numpy keeps NumPy's memory",
        "operations",
        from_numpy=lambda self, array, device=None: held(array),
    )
    yield in_backend(
        "from_numpy_float32",
        "from_numpy makes float64 float32",
        "operations",
        from_numpy=lambda self, array, device=None: held(
            array.astype(np.float32) if array.dtype == np.float64 else array.copy()
        ),
    )
    yield in_backend(
        "from_numpy_memory",
        "from_numpy reads memory in order, whatever the strides",
        "operations",
        from_numpy=lambda self, array, device=None: held(np.array(array, order="K").ravel("K").reshape(array.shape)),
    )
    yield in_backend(
        "from_numpy_int32",
        "from_numpy makes integers 32 bits",
        "operations",
        from_numpy=lambda self, array, device=None: held(
            array.astype(np.int32) if array.dtype.kind in "iu" else array.copy()
        ),
    )
    yield in_backend("from_numpy_flushes", "from_numpy makes denormal numbers zero", "operations", from_numpy=_flushed)
    yield in_backend(
        "to_numpy_float64",
        "to_numpy gives float64",
        "operations",
        to_numpy=lambda self, array: np.asarray(array, np.float64) if array.dtype.kind == "f" else np.asarray(array),
    )
    yield in_backend(
        "to_numpy_transposes",
        "to_numpy transposes matrices",
        "operations",
        to_numpy=lambda self, array: np.asarray(array).T if array.ndim == 2 else np.asarray(array),
    )
    yield in_backend(
        "to_numpy_keeps_class", "to_numpy gives its own class", "operations", to_numpy=lambda self, array: array
    )
    yield in_backend(
        "owns_all",
        "every NumPy array is taken for its own",
        "operations",
        owns=lambda self, array: isinstance(array, np.ndarray),
    )
    yield in_backend("owns_nothing", "its own arrays are not known", "operations", owns=lambda self, array: False)
    yield in_backend(
        "no_devices", "the device named is not that of arrays", "operations", device=lambda self, array: "gpu:0"
    )
    yield in_backend(
        "dtype_named_wrong",
        "float64 is called double",
        "operations",
        dtype=lambda self, array: "double" if array.dtype == np.float64 else array.dtype.name,
    )


def _flushed(self, array, device=None):
    small = (
        (np.abs(array) < np.finfo(array.dtype).tiny) if array.dtype.kind == "f" and array.dtype.itemsize > 2 else False
    )
    return held(np.where(small, array.dtype.type(0), array)) if array.dtype.isnative else held(array.copy())


FAULTS = [*functions(), *moving(), *conversions()]

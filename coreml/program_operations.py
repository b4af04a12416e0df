"""The operations of Core ML programs as functions of arrays.

Follows the documentation of coremltools' intermediate language (`coremltools.converters.mil.mil.ops.defs`). Each
function has the parameter names of its operation.
"""

import functools
import math

import numpy as np

from coreml import kernels

OPERATIONS = {}  # operation name -> function of its parameters that returns one or more arrays


def operation(name):
    def register(function):
        OPERATIONS[name] = function
        return function

    return register


# --- compressed weights


@operation("constexpr_affine_dequantize")
def _affine_dequantize(quantized_data, zero_point, scale, axis):
    shape = [1] * quantized_data.ndim
    shape[axis] = -1
    scale, zero_point = (np.asarray(v, np.float32) for v in (scale, zero_point))
    scale, zero_point = (v.reshape(shape) if v.ndim else v for v in (scale, zero_point))
    return scale * (quantized_data.astype(np.float32) - zero_point)


@operation("constexpr_lut_to_dense")
def _lut_to_dense(indices, lut, shape=None, vector_axis=None):
    if shape is None:  # since iOS 18: one palette per block, indices not packed
        return _block_lut_to_dense(indices, lut, vector_axis)
    bits, count = int(math.log2(lut.size)), int(np.prod(shape))
    single_bits = np.unpackbits(np.asarray(indices, np.uint8), bitorder="little", count=bits * count)
    indices = np.packbits(single_bits.reshape(count, bits), axis=1, bitorder="little").ravel()
    return lut[indices].reshape(shape)


def _block_lut_to_dense(indices, lut, vector_axis):
    if vector_axis is not None or lut.shape[-1] != 1:
        raise ValueError("palettes of vectors are not supported")
    block = _block_of_each(indices.shape, lut.shape[: indices.ndim])
    return lut[(*block, indices.astype(int), 0)]


def _block_of_each(shape, blocks):
    """Block index of each element of an array of `shape` divided into `blocks`."""
    return np.ix_(*(np.arange(n) * count // n for n, count in zip(shape, blocks, strict=True)))


@operation("constexpr_blockwise_shift_scale")
def _blockwise_shift_scale(data, scale, offset=None):
    block = _block_of_each(data.shape, scale.shape)
    shift = 0 if offset is None else np.asarray(offset, np.float32)[block]
    return np.asarray(scale, np.float32)[block] * (data.astype(np.float32) - shift)


@operation("constexpr_sparse_to_dense")
def _sparse_to_dense(nonzero_data, mask, shape=None):
    if shape is not None:
        mask = np.unpackbits(np.asarray(mask, np.uint8), bitorder="little", count=int(np.prod(shape))).reshape(shape)
    dense = np.zeros(mask.shape, np.float32)
    dense[mask != 0] = nonzero_data
    return dense


@operation("constexpr_cast")
def _constexpr_cast(source_val, output_dtype):
    return source_val


@operation("dequantize")
def _dequantize(input, scale, zero_point=0, axis=0):
    return _affine_dequantize(np.asarray(input), zero_point, scale, axis or 0)


# --- convolutions and pooling


def _padding(pad_type, pad, sizes, kernel, strides, dilations=None):
    """Padding as (before, after) per axis; as in coremltools, "same" keeps ceil(size / stride) for every kernel."""
    match pad_type:
        case "same" | "same_lower":
            return kernels.same_padding(sizes, kernel, strides, dilations, pad_type == "same")
        case "custom":
            return list(zip(pad[::2].tolist(), pad[1::2].tolist(), strict=True))
        case "valid":
            return [(0, 0)] * len(kernel)
    raise ValueError(f"padding {pad_type} is not supported")


@operation("conv")
def _conv(x, weight, strides, pad_type, dilations, groups, pad=None, bias=None):
    strides, dilations = strides.tolist(), dilations.tolist()
    padding = _padding(pad_type, pad, x.shape[2:], weight.shape[2:], strides, dilations)
    return kernels.convolve(x, weight, bias, strides, padding, dilations, int(groups))


@operation("conv_transpose")
def _conv_transpose(x, weight, strides, pad_type, dilations, groups, pad=None, output_shape=None, bias=None):
    if set(dilations.tolist()) != {1}:
        raise ValueError("a dilated transposed convolution is not supported")
    full = [(n - 1) * s + k for n, s, k in zip(x.shape[2:], strides, weight.shape[2:], strict=True)]
    sizes = None if output_shape is None else output_shape[2:].tolist()
    if pad_type == "same":
        sizes = sizes or [n * int(s) for n, s in zip(x.shape[2:], strides, strict=True)]
        cut = [((n - size) // 2, 0) for n, size in zip(full, sizes, strict=True)]
        if min(map(min, cut)) < 0:
            raise ValueError(f"it cannot produce {sizes} from {full}")
    else:
        cut = _padding(pad_type, pad, x.shape[2:], weight.shape[2:], strides)
    return kernels.convolve_transposed(x, weight, bias, strides.tolist(), cut, int(groups), sizes)


def _pool(reduction, x, kernel_sizes, strides, pad_type, pad, exclude_padding_from_average=False, ceil_mode=False):
    kernel, strides = kernel_sizes.tolist(), strides.tolist()
    padding = _padding(pad_type, pad, x.shape[2:], kernel, strides)
    return kernels.pool(x, reduction, kernel, strides, padding, bool(exclude_padding_from_average), bool(ceil_mode))


OPERATIONS |= {
    "max_pool": functools.partial(_pool, "max"),
    "avg_pool": functools.partial(_pool, "average"),
    "l2_pool": functools.partial(_pool, "l2"),
}


@operation("linear")
def _linear(x, weight, bias=None):
    return x @ weight.T + (0 if bias is None else bias)


@operation("matmul")
def _matmul(x, y, transpose_x=False, transpose_y=False):
    return (x.swapaxes(-1, -2) if transpose_x else x) @ (y.swapaxes(-1, -2) if transpose_y else y)


# --- normalization


@operation("batch_norm")
def _batch_norm(x, mean, variance, epsilon, gamma=None, beta=None):
    return kernels.normalize(x, mean, variance, gamma, beta, epsilon)


@operation("instance_norm")
def _instance_norm(x, epsilon, gamma=None, beta=None):
    axes = tuple(range(2, x.ndim))
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    y = (x - mean) / np.sqrt(variance + epsilon)
    shape = (-1, *[1] * len(axes))
    return y * (1 if gamma is None else gamma.reshape(shape)) + (0 if beta is None else beta.reshape(shape))


@operation("layer_norm")
def _layer_norm(x, axes, epsilon, gamma=None, beta=None):
    axes = tuple(int(axis) for axis in axes)
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    y = (x - mean) / np.sqrt(variance + epsilon)
    shape = [n if axis in {a % x.ndim for a in axes} else 1 for axis, n in enumerate(x.shape)]
    return y * (1 if gamma is None else gamma.reshape(shape)) + (0 if beta is None else beta.reshape(shape))


# --- one input


@operation("prelu")
def _prelu(x, alpha):
    return kernels.leaky_relu(x, alpha.reshape(-1, *[1] * (x.ndim - 2)))


@operation("softplus_parametric")
def _softplus_parametric(x, alpha, beta):
    alpha, beta = (v.reshape(-1, *[1] * (x.ndim - 2)) for v in (alpha, beta))
    return alpha * kernels.softplus(beta * x)


@operation("cast")
def _cast(x, dtype):
    types = {"fp16": np.float16, "fp32": np.float32, "int32": np.int32, "bool": np.bool_}
    return np.asarray(x).astype(types.get(dtype, dtype))


OPERATIONS |= {
    "relu": kernels.relu,
    "relu6": lambda x: np.clip(x, 0, 6),
    "clamped_relu": lambda x, alpha, beta: np.minimum(kernels.leaky_relu(x, alpha), beta),
    "leaky_relu": kernels.leaky_relu,
    "thresholded_relu": kernels.thresholded_relu,
    "elu": kernels.elu,
    "linear_activation": kernels.linear_activation,
    "sigmoid": kernels.sigmoid,
    "sigmoid_hard": kernels.sigmoid_hard,
    "silu": lambda x: x * kernels.sigmoid(x),
    "scaled_tanh": kernels.scaled_tanh,
    "softplus": kernels.softplus,
    "softsign": kernels.softsign,
    "softmax": lambda x, axis: kernels.softmax(x, int(axis)),
    "gelu": kernels.gelu,
    "erf": kernels.erf,
    "clip": lambda x, alpha, beta: np.minimum(np.maximum(x, alpha), beta),
    "inverse": lambda x, epsilon: 1 / (x + epsilon),
    "log": lambda x, epsilon: np.log(x + epsilon),
    "rsqrt": lambda x, epsilon: 1 / np.sqrt(x + epsilon),
    "threshold": lambda x, alpha: np.maximum(x, np.float32(alpha)),
    "identity": lambda x: x,
    "pow": lambda x, y: np.power(np.asarray(x, np.float32), y),
    "select": lambda cond, a, b: np.where(cond != 0, a, b),
}


# Operations pass arguments by name, which NumPy functions do not accept.
UNARY = {
    "abs": np.abs,
    "ceil": np.ceil,
    "cos": np.cos,
    "exp": np.exp,
    "exp2": np.exp2,
    "floor": np.floor,
    "logical_not": np.logical_not,
    "round": np.rint,
    "sign": np.sign,
    "sin": np.sin,
    "sqrt": np.sqrt,
    "square": np.square,
    "tanh": np.tanh,
}
BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "real_div": np.divide,
    "floor_div": np.floor_divide,
    "mod": np.mod,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}
OPERATIONS |= {name: lambda x, function=function: function(x) for name, function in UNARY.items()}
OPERATIONS |= {name: lambda x, y, function=function: function(x, y) for name, function in BINARY.items()}


# --- reductions


def _reduction(function):
    def reduce(x, axes=None, keep_dims=False):
        return function(x, axis=None if axes is None else tuple(int(a) for a in axes), keepdims=bool(keep_dims))

    return reduce


OPERATIONS |= {
    "reduce_mean": _reduction(np.mean),
    "reduce_sum": _reduction(np.sum),
    "reduce_max": _reduction(np.max),
    "reduce_min": _reduction(np.min),
    "reduce_prod": _reduction(np.prod),
    "reduce_sum_square": _reduction(kernels.sum_of_squares),
    "reduce_l2_norm": _reduction(kernels.root_of_sum_of_squares),
}


@operation("reduce_argmax")
def _reduce_argmax(x, axis, keep_dims, output_dtype="int32"):
    return x.argmax(int(axis), keepdims=bool(keep_dims))


# --- shapes


@operation("concat")
def _concat(values, axis, interleave=False):
    if interleave:
        raise ValueError("interleaved concatenation is not supported")
    return np.concatenate(values, int(axis))


@operation("stack")
def _stack(values, axis):
    return np.stack(values, int(axis))


@operation("split")
def _split(x, axis, num_splits=None, split_sizes=None):
    boundaries = int(num_splits) if split_sizes is None else np.cumsum(split_sizes)[:-1].tolist()
    return np.split(x, boundaries, int(axis))


@operation("pad")
def _pad(x, pad, mode, constant_val):
    pairs = [(0, 0)] * (x.ndim - len(pad) // 2) + list(zip(pad[::2].tolist(), pad[1::2].tolist(), strict=True))
    if mode == "constant":
        return np.pad(x, pairs, constant_values=constant_val)
    return np.pad(x, pairs, {"reflect": "reflect", "replicate": "edge"}[mode])


@operation("slice_by_index")
def _slice_by_index(x, begin, end, stride=None, begin_mask=None, end_mask=None, squeeze_mask=None):
    index = []
    for axis in range(x.ndim):
        first = None if begin_mask is not None and begin_mask[axis] else int(begin[axis])
        last = None if end_mask is not None and end_mask[axis] else int(end[axis])
        pixels = slice(first, last, 1 if stride is None else int(stride[axis]))
        index.append(int(begin[axis]) if squeeze_mask is not None and squeeze_mask[axis] else pixels)
    return x[tuple(index)]


@operation("slice_by_size")
def _slice_by_size(x, begin, size):
    return x[tuple(slice(b, None if n == -1 else b + n) for b, n in zip(begin.tolist(), size.tolist(), strict=True))]


@operation("crop")
def _crop(x, crop_height, crop_width):
    (top, bottom), (left, right) = crop_height.tolist(), crop_width.tolist()
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


@operation("reshape")
def _reshape(x, shape):
    return x.reshape([x.shape[axis] if n == 0 else n for axis, n in enumerate(np.asarray(shape).tolist())])


OPERATIONS |= {
    "transpose": lambda x, perm: x.transpose(perm.tolist()),
    "expand_dims": lambda x, axes: np.expand_dims(x, tuple(axes.tolist())),
    "squeeze": lambda x, axes=None: x.squeeze(None if axes is None else tuple(axes.tolist())),
    "tile": lambda x, reps: np.tile(x, reps.tolist()),
}


# --- resizing


@operation("upsample_bilinear")
def _upsample_bilinear(x, scale_factor_height, scale_factor_width, align_corners):
    sizes = _scaled_sizes(x, scale_factor_height, scale_factor_width)
    return kernels.resize_bilinear(x, sizes, kernels.STRICTLY_ALIGNED if align_corners else kernels.UNALIGNED)


@operation("upsample_nearest_neighbor")
def _upsample_nearest(x, scale_factor_height, scale_factor_width):
    return kernels.resize_nearest(x, _scaled_sizes(x, scale_factor_height, scale_factor_width))


def _scaled_sizes(x, *factors):
    return [math.floor(float(factor) * n) for factor, n in zip(factors, x.shape[-2:], strict=True)]


@operation("resize_bilinear")
def _resize_bilinear(x, target_size_height, target_size_width, sampling_mode):
    return kernels.resize_bilinear(x, (int(target_size_height), int(target_size_width)), sampling_mode)


@operation("resize_nearest_neighbor")
def _resize_nearest(x, target_size_height, target_size_width):
    return kernels.resize_nearest(x, (int(target_size_height), int(target_size_width)))

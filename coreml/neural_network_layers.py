"""The layers of Core ML neural networks as functions of arrays.

Follows the comments of NeuralNetwork.proto. Channels, height and width are the last three axes.
"""

import functools

import numpy as np

from coreml import kernels
from coreml.neural_network_weights import read_weights

# Layer name -> function of its parameters (the message p) that returns a function of arrays.
LAYERS = {}


def layer(name):
    def register(function):
        LAYERS[name] = function
        return function

    return register


# --- convolutions and pooling


@layer("convolution")
def _convolution(p):
    kernel, strides, dilations = (
        list(field) or [default] * 2 for field, default in ((p.kernelSize, 3), (p.stride, 1), (p.dilationFactor, 1))
    )
    groups = p.nGroups or 1
    bias = read_weights(p.bias, (p.outputChannels,)) if p.hasBias else None
    if p.isDeconvolution:
        return _deconvolution(p, kernel, strides, groups, bias)
    weight = read_weights(p.weights, (p.outputChannels, p.kernelChannels, *kernel))
    return lambda x: kernels.convolve(
        x, weight, bias, strides, _padding(p, x, kernel, strides, dilations), dilations, groups
    )


def _deconvolution(p, kernel, strides, groups, bias):
    shape = (p.kernelChannels, p.outputChannels // groups, *kernel)
    weight = read_weights(p.weights, shape, axis=1)
    fills = p.WhichOneof("ConvolutionPaddingType") == "same"
    return transposed(weight, bias, strides, groups, list(p.outputShape), fills, _borders(p.valid.paddingAmounts))


def transposed(weight, bias, strides, groups, size, fills, borders):
    """Return a transposed convolution in two or three dimensions, as a function of an array.

    Args:
        weight: (input channels, output channels / groups, *kernel).
        bias, strides, groups: as for `kernels.convolve_transposed`.
        size: size of the output, which overrides the borders: both sides are cut equally; []: not given.
        fills: whether the output is as large as the input times the strides if no size is given.
        borders: what is cut off, (before, after) for each axis.
    """

    def compute(x):
        sides, kernel = x.shape[2 - weight.ndim :], weight.shape[2:]
        full = [(n - 1) * s + k for n, s, k in zip(sides, strides, kernel, strict=True)]
        sizes = size or (fills and [n * s for n, s in zip(sides, strides, strict=True)])
        cut = borders
        if sizes:
            cut = [((n - size) // 2, n - size - (n - size) // 2) for n, size in zip(full, sizes, strict=True)]
        if min(map(min, cut)) < 0:
            raise ValueError(f"it cannot produce {sizes} from {full}")
        return kernels.convolve_transposed(x, weight, bias, strides, cut, groups)

    return compute


def _padding(p, x, kernel, strides, dilations=None):
    """Padding of a convolution or pooling layer as (before, after) for height and width."""
    if p.HasField("same"):
        return kernels.same_padding(x.shape[-2:], kernel, strides, dilations, p.same.asymmetryMode == 0)
    return _borders(p.valid.paddingAmounts)


def _borders(amounts):
    return [(edge.startEdgeSize, edge.endEdgeSize) for edge in amounts.borderAmounts] or [(0, 0)] * 2


@layer("pooling")
def _pooling(p):
    reduction = ("max", "average", "l2")[p.type]
    kernel, strides = (list(field) or [default] * 2 for field, default in ((p.kernelSize, 3), (p.stride, 1)))
    if p.HasField("includeLastPixel"):
        raise ValueError("padding that includes the last pixel is not supported")

    def compute(x):
        if p.globalPooling:
            return kernels.pool(x, reduction, x.shape[-2:], (1, 1), [(0, 0)] * 2)
        padding = _padding(p, x, kernel, strides)
        return kernels.pool(x, reduction, kernel, strides, padding, p.avgPoolExcludePadding)

    return compute


@layer("innerProduct")
def _inner_product(p):
    weight = read_weights(p.weights, (p.outputChannels, p.inputChannels))
    bias = read_weights(p.bias, (p.outputChannels,)) if p.hasBias else 0

    def compute(x):
        if x.ndim > 3:
            raise ValueError(f"an inner product of {x.ndim} axes is not supported")
        return x @ weight.T + bias

    return compute


@layer("batchedMatmul")
def _batched_matmul(p):
    if p.weightMatrixFirstDimension:  # stored as (second, first)
        second = read_weights(p.weights, (p.weightMatrixSecondDimension, p.weightMatrixFirstDimension)).T
        bias = read_weights(p.bias, (p.weightMatrixSecondDimension,)) if p.hasBias else 0
        return lambda a: (a.swapaxes(-1, -2) if p.transposeA else a) @ second + bias
    return lambda a, b: (a.swapaxes(-1, -2) if p.transposeA else a) @ (b.swapaxes(-1, -2) if p.transposeB else b)


@layer("batchnorm")
def _batchnorm(p):
    if p.computeMeanVar:
        raise ValueError("statistics of the image itself are not supported")
    gamma, beta, mean, variance = (read_weights(w, (p.channels,)) for w in (p.gamma, p.beta, p.mean, p.variance))
    return lambda x: kernels.normalize(x, mean, variance, gamma, beta, p.epsilon or 1e-5, axis=x.ndim - 3)


@layer("loadConstantND")
def _load_constant_nd(p):
    value = read_weights(p.data, tuple(p.shape))
    return lambda: value


# --- one input


@layer("activation")
def _activation(p):
    name = p.WhichOneof("NonlinearityType")
    if name == "PReLU":
        weights = p.PReLU.alpha
        count = max(len(weights.floatValue), len(weights.float16Value) // 2)
        alpha = read_weights(weights, (count,)).reshape(-1, 1, 1)
        return lambda x: kernels.leaky_relu(x, alpha)
    if name not in ACTIVATIONS:
        raise ValueError(f"the activation {name} is not supported")
    parameters = getattr(p, name)
    values = {field.name: getattr(parameters, field.name) for field in parameters.DESCRIPTOR.fields}
    return functools.partial(ACTIVATIONS[name], **values)


ACTIVATIONS = {
    "linear": kernels.linear_activation,
    "ReLU": kernels.relu,
    "leakyReLU": kernels.leaky_relu,
    "thresholdedReLU": kernels.thresholded_relu,
    "tanh": np.tanh,
    "scaledTanh": kernels.scaled_tanh,
    "sigmoid": kernels.sigmoid,
    "sigmoidHard": kernels.sigmoid_hard,
    "ELU": kernels.elu,
    "softsign": kernels.softsign,
    "softplus": kernels.softplus,
}


@layer("unary")
def _unary(p):
    operation = p.Operation.Name(p.type)

    def compute(x):
        x = (p.scale or 1.0) * x + p.shift
        match operation:
            case "SQRT":
                return np.sqrt(x)
            case "RSQRT":
                return 1 / np.sqrt(x + (p.epsilon or 1e-6))
            case "INVERSE":
                return 1 / (x + (p.epsilon or 1e-6))
            case "POWER":
                return np.power(x, np.float32(p.alpha))
            case "EXP":
                return np.exp(x)
            case "LOG":
                return np.log(x)
            case "ABS":
                return np.abs(x)
        return np.maximum(p.alpha, x)  # THRESHOLD

    return compute


LAYERS |= {
    "clip": lambda p: lambda x: np.clip(x, p.minVal, p.maxVal),
    "gelu": lambda p: functools.partial(kernels.gelu, mode=p.GeluMode.Name(p.mode)),
    "softmaxND": lambda p: functools.partial(kernels.softmax, axis=p.axis),
    "softmax": lambda p: functools.partial(kernels.softmax, axis=-3),
    "tanh": lambda p: np.tanh,
    "sin": lambda p: np.sin,
    "cos": lambda p: np.cos,
    "ceil": lambda p: np.ceil,
    "floor": lambda p: np.floor,
    "round": lambda p: np.rint,
    "sign": lambda p: np.sign,
    "exp2": lambda p: np.exp2,
    "logicalNot": lambda p: lambda x: x == 0,
    "copy": lambda p: lambda x: x,
}


# --- two or more inputs


@layer("add")
def _add(p):
    return lambda *x: x[0] + p.alpha if len(x) == 1 else functools.reduce(np.add, x)


@layer("multiply")
def _multiply(p):
    return lambda *x: x[0] * p.alpha if len(x) == 1 else functools.reduce(np.multiply, x)


@layer("whereBroadcastable")
def _where(_):
    return lambda condition, a, b: np.where(condition != 0, a, b)


def _of_all(function):
    """A layer that applies a function of two arrays to its inputs in turn."""
    return lambda _: lambda *x: functools.reduce(function, x)


def _comparison(function):
    """A layer that compares its input with a second one, or with alpha."""
    return lambda p: lambda a, b=None: function(a, p.alpha if b is None else b)


LAYERS |= {
    "min": _of_all(np.minimum),
    "max": _of_all(np.maximum),
    "addBroadcastable": _of_all(np.add),
    "subtractBroadcastable": _of_all(np.subtract),
    "multiplyBroadcastable": _of_all(np.multiply),
    "divideBroadcastable": _of_all(np.divide),
    "floorDivBroadcastable": _of_all(np.floor_divide),
    "modBroadcastable": _of_all(np.mod),
    "powBroadcastable": _of_all(np.power),
    "maxBroadcastable": _of_all(np.maximum),
    "minBroadcastable": _of_all(np.minimum),
    "logicalAnd": _of_all(lambda a, b: (a != 0) & (b != 0)),
    "logicalOr": _of_all(lambda a, b: (a != 0) | (b != 0)),
    "logicalXor": _of_all(lambda a, b: (a != 0) ^ (b != 0)),
    "greaterThan": _comparison(np.greater),
    "greaterEqual": _comparison(np.greater_equal),
    "lessThan": _comparison(np.less),
    "lessEqual": _comparison(np.less_equal),
    "equal": _comparison(np.equal),
    "notEqual": _comparison(np.not_equal),
}


# --- reductions


def _reduction(function):
    return lambda p: lambda x: function(x, axis=None if p.reduceAll else tuple(p.axes), keepdims=p.keepDims)


LAYERS |= {
    "reduceMean": _reduction(np.mean),
    "reduceSum": _reduction(np.sum),
    "reduceMax": _reduction(np.max),
    "reduceMin": _reduction(np.min),
    "reduceProd": _reduction(np.prod),
    "reduceSumSquare": _reduction(kernels.sum_of_squares),
    "reduceL2": _reduction(kernels.root_of_sum_of_squares),
}


@layer("argMax")
def _arg_max(p):
    return lambda x: x.argmax(p.axis, keepdims=not p.removeDim)


# --- shapes


@layer("concat")
def _concat(p):
    return lambda *x: np.concatenate(x, -5 if p.sequenceConcat else -3)


@layer("concatND")
def _concat_nd(p):
    if p.interleave:
        raise ValueError("interleaved concatenation is not supported")
    return lambda *x: np.concatenate(x, p.axis)


@layer("splitND")
def _split_nd(p):
    boundaries = np.cumsum(p.splitSizes)[:-1].tolist() if len(p.splitSizes) else p.numSplits
    return lambda x: np.split(x, boundaries, p.axis)


@layer("padding")
def _padding_layer(p):
    padding_type, borders = p.WhichOneof("PaddingType"), _borders(p.paddingAmounts)
    if padding_type in (None, "constant"):
        return lambda x: kernels.pad_spatial(x, borders, p.constant.value)
    mode = {"reflection": "reflect", "replication": "edge"}[padding_type]
    return lambda x: np.pad(x, [(0, 0)] * (x.ndim - 2) + borders, mode)


@layer("constantPad")
def _constant_pad(p):
    if p.padToGivenOutputSizeMode:
        raise ValueError("padding to a given size is not supported")
    pairs = list(zip(p.padAmounts[::2], p.padAmounts[1::2], strict=True))
    return lambda x: np.pad(x, pairs, constant_values=p.value)


@layer("crop")
def _crop(p):
    (top, bottom), (left, right) = _borders(p.cropAmounts)

    def compute(x, *others):
        if others or len(p.offset):
            raise ValueError("cropping to another array is not supported")
        return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]

    return compute


@layer("slice")
def _slice(p):
    if p.endIndex <= p.startIndex or p.startIndex < 0:
        raise ValueError("a slice counted from the end is not supported")
    along = slice(p.startIndex, p.endIndex, p.stride or 1)
    return lambda x: x[(..., along, *[slice(None)] * (2 - p.axis))]


@layer("sliceStatic")
def _slice_static(p):
    bounds = zip(p.beginIds, p.beginMasks, p.endIds, p.endMasks, p.strides, strict=True)
    index = [
        slice(None if no_begin else begin, None if no_end else end, stride)
        for begin, no_begin, end, no_end, stride in bounds
    ]
    for axis, squeezed in enumerate(p.squeezeMasks):
        index[axis] = p.beginIds[axis] if squeezed else index[axis]
    return lambda x: x[tuple(index)]


LAYERS |= {
    "stack": lambda p: lambda *x: np.stack(x, p.axis),
    "transpose": lambda p: lambda x: x.transpose([int(axis) for axis in p.axes]),
    "tile": lambda p: lambda x: np.tile(x, list(p.reps)),
    "expandDims": lambda p: lambda x: np.expand_dims(x, tuple(p.axes)),
    "squeeze": lambda p: lambda x: x.squeeze(None if p.squeezeAll else tuple(p.axes)),
    "reshapeStatic": lambda p: lambda x: x.reshape(list(p.targetShape)),
    "rankPreservingReshape": lambda p: lambda x: x.reshape([n or x.shape[i] for i, n in enumerate(p.targetShape)]),
}


# --- resizing


@layer("upsample")
def _upsample(p):
    factors = list(p.scalingFactor) or list(p.fractionalScalingFactor) or [1, 1]
    mode = (kernels.DEFAULT, kernels.ALIGNED, kernels.UNALIGNED)[p.linearUpsampleMode]

    def compute(x):
        sizes = [int(np.floor(n * factor)) for n, factor in zip(x.shape[-2:], factors, strict=True)]
        return kernels.resize_nearest(x, sizes) if p.mode == 0 else kernels.resize_bilinear(x, sizes, mode)

    return compute


@layer("resizeBilinear")
def _resize_bilinear(p):
    modes = (kernels.STRICTLY_ALIGNED, kernels.ALIGNED, kernels.DEFAULT, kernels.OFFSET)
    sizes = list(p.targetSize) or [1, 1]
    return lambda x: kernels.resize_bilinear(x, sizes, modes[p.mode.samplingMethod])

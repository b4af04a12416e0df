"""The layers of Core ML neural networks as functions of arrays.

Follows the comments of NeuralNetwork.proto. A layer that speaks of channels, height and width means the third last,
second last and last axis.
"""

import functools

import numpy as np

from coreml import kernels
from coreml.kernels import sigmoid, softmax, softplus
from coreml.weights import weights

LAYERS = {}  # name of a layer to a function of its message that returns a function of arrays


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
    bias = weights(p.bias, (p.outputChannels,)) if p.hasBias else None
    if p.isDeconvolution:
        return _deconvolution(p, kernel, strides, groups, bias)
    weight = weights(p.weights, (p.outputChannels, p.kernelChannels, *kernel))
    return lambda x: kernels.convolve(
        x, weight, bias, strides, _padding(p, x, kernel, strides, dilations), dilations, groups
    )


def _deconvolution(p, kernel, strides, groups, bias):
    shape = (p.kernelChannels, p.outputChannels // groups, *kernel)
    weight = weights(p.weights, shape, axis=1)

    def compute(x):
        full = [(n - 1) * s + k for n, s, k in zip(x.shape[-2:], strides, kernel, strict=True)]
        kind = p.WhichOneof("ConvolutionPaddingType")
        sizes = list(p.outputShape)
        if not sizes and kind == "same":
            sizes = [n * s for n, s in zip(x.shape[-2:], strides, strict=True)]
        if sizes:  # where the size is given, the kind of padding is not looked at: as much is cut on either side
            cut = [((n - size) // 2, n - size - (n - size) // 2) for n, size in zip(full, sizes, strict=True)]
        else:
            cut = _borders(p.valid.paddingAmounts)
        if min(map(min, cut)) < 0:
            raise ValueError(f"it cannot give {sizes} out of {full}")
        return kernels.convolve_transposed(x, weight, bias, strides, cut, groups)

    return compute


def _padding(p, x, kernel, strides, dilations=None):
    """Padding of a convolution or of pooling, as (before, after) for height and width."""
    if p.HasField("same"):
        return kernels.same_padding(x.shape[-2:], kernel, strides, dilations, p.same.asymmetryMode == 0)
    return _borders(p.valid.paddingAmounts)


def _borders(amounts):
    return [(edge.startEdgeSize, edge.endEdgeSize) for edge in amounts.borderAmounts] or [(0, 0)] * 2


@layer("pooling")
def _pooling(p):
    kind = ("max", "average", "l2")[p.type]
    kernel, strides = (list(field) or [default] * 2 for field, default in ((p.kernelSize, 3), (p.stride, 1)))
    if p.HasField("includeLastPixel"):
        raise ValueError("padding that includes the last pixel is not known here")

    def compute(x):
        if p.globalPooling:
            return kernels.pool(x, kind, x.shape[-2:], (1, 1), [(0, 0)] * 2)
        return kernels.pool(x, kind, kernel, strides, _padding(p, x, kernel, strides), p.avgPoolExcludePadding)

    return compute


@layer("innerProduct")
def _inner_product(p):
    weight = weights(p.weights, (p.outputChannels, p.inputChannels))
    bias = weights(p.bias, (p.outputChannels,)) if p.hasBias else 0

    def compute(x):
        if x.ndim > 3:
            raise ValueError(f"an inner product of {x.ndim} axes is not known here")
        return x @ weight.T + bias

    return compute


@layer("batchedMatmul")
def _batched_matmul(p):
    if p.weightMatrixFirstDimension:  # stored as (second, first)
        second = weights(p.weights, (p.weightMatrixSecondDimension, p.weightMatrixFirstDimension)).T
        bias = weights(p.bias, (p.weightMatrixSecondDimension,)) if p.hasBias else 0
        return lambda a: (a.swapaxes(-1, -2) if p.transposeA else a) @ second + bias
    return lambda a, b: (a.swapaxes(-1, -2) if p.transposeA else a) @ (b.swapaxes(-1, -2) if p.transposeB else b)


@layer("batchnorm")
def _batchnorm(p):
    if p.computeMeanVar:
        raise ValueError("statistics of the image itself are not known here")
    gamma, beta, mean, variance = (weights(w, (p.channels,)) for w in (p.gamma, p.beta, p.mean, p.variance))
    return lambda x: kernels.normalise(x, mean, variance, gamma, beta, p.epsilon or 1e-5, axis=x.ndim - 3)


# --- single values


@layer("activation")
def _activation(p):
    kind = p.WhichOneof("NonlinearityType")
    q = getattr(p, kind) if kind else None
    match kind:
        case "linear":
            return lambda x: q.alpha * x + q.beta
        case "ReLU":
            return lambda x: np.maximum(x, 0)
        case "leakyReLU":
            return lambda x: np.where(x >= 0, x, q.alpha * x)
        case "thresholdedReLU":
            return lambda x: np.where(x >= q.alpha, x, 0)
        case "PReLU":
            alpha = weights(q.alpha, (max(len(q.alpha.floatValue), len(q.alpha.float16Value) // 2),)).reshape(-1, 1, 1)
            return lambda x: np.where(x >= 0, x, alpha * x)
        case "tanh":
            return np.tanh
        case "scaledTanh":
            return lambda x: q.alpha * np.tanh(q.beta * x)
        case "sigmoid":
            return sigmoid
        case "sigmoidHard":
            return lambda x: np.clip(q.alpha * x + q.beta, 0, 1)
        case "ELU":
            return lambda x: np.where(x >= 0, x, q.alpha * np.expm1(np.minimum(x, 0)))
        case "softsign":
            return lambda x: x / (1 + np.abs(x))
        case "softplus":
            return softplus
    raise ValueError(f"the activation {kind} is not known here")


@layer("unary")
def _unary(p):
    def compute(x):
        x = (p.scale or 1.0) * x + p.shift
        match p.Operation.Name(p.type):
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


@layer("clip")
def _clip(p):
    return lambda x: np.clip(x, p.minVal, p.maxVal)


@layer("gelu")
def _gelu(p):
    match p.GeluMode.Name(p.mode):
        case "TANH_APPROXIMATION":
            return lambda x: 0.5 * x * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (x + 0.044715 * x**3)))
        case "SIGMOID_APPROXIMATION":
            return lambda x: x * sigmoid(1.702 * x)
    raise ValueError("the exact form is not known here")


@layer("softmaxND")
def _softmax_nd(p):
    return lambda x: softmax(x, p.axis)


@layer("softmax")
def _softmax(_):
    return lambda x: softmax(x, -3)


for _name, _function in {
    "tanh": np.tanh,
    "sin": np.sin,
    "cos": np.cos,
    "ceil": np.ceil,
    "floor": np.floor,
    "round": np.rint,
    "sign": np.sign,
    "exp2": np.exp2,
    "logicalNot": lambda x: x == 0,
}.items():
    LAYERS[_name] = lambda _, function=_function: function


# --- two values or more


@layer("add")
def _add(p):
    return lambda *x: x[0] + p.alpha if len(x) == 1 else functools.reduce(np.add, x)


@layer("multiply")
def _multiply(p):
    return lambda *x: x[0] * p.alpha if len(x) == 1 else functools.reduce(np.multiply, x)


for _name, _function in {
    "addBroadcastable": np.add,
    "subtractBroadcastable": np.subtract,
    "multiplyBroadcastable": np.multiply,
    "divideBroadcastable": np.divide,
    "floorDivBroadcastable": np.floor_divide,
    "modBroadcastable": np.mod,
    "powBroadcastable": np.power,
    "maxBroadcastable": np.maximum,
    "minBroadcastable": np.minimum,
    "logicalAnd": lambda a, b: (a != 0) & (b != 0),
    "logicalOr": lambda a, b: (a != 0) | (b != 0),
    "logicalXor": lambda a, b: (a != 0) ^ (b != 0),
}.items():
    LAYERS[_name] = lambda _, function=_function: lambda *x: functools.reduce(function, x)

for _name, _function in {
    "greaterThan": np.greater,
    "greaterEqual": np.greater_equal,
    "lessThan": np.less,
    "lessEqual": np.less_equal,
    "equal": np.equal,
    "notEqual": np.not_equal,
}.items():
    LAYERS[_name] = lambda p, function=_function: lambda a, b=None: function(a, p.alpha if b is None else b)


@layer("min")
def _min(_):
    return lambda *x: functools.reduce(np.minimum, x)


@layer("max")
def _max(_):
    return lambda *x: functools.reduce(np.maximum, x)


@layer("whereBroadcastable")
def _where(_):
    return lambda condition, a, b: np.where(condition != 0, a, b)


# --- shapes


@layer("concat")
def _concat(p):
    return lambda *x: np.concatenate(x, -5 if p.sequenceConcat else -3)


@layer("concatND")
def _concat_nd(p):
    if p.interleave:
        raise ValueError("interleaved concatenation is not known here")
    return lambda *x: np.concatenate(x, p.axis)


@layer("splitND")
def _split_nd(p):
    places = np.cumsum(p.splitSizes)[:-1].tolist() if len(p.splitSizes) else p.numSplits
    return lambda x: np.split(x, places, p.axis)


@layer("stack")
def _stack(p):
    return lambda *x: np.stack(x, p.axis)


@layer("padding")
def _padding_layer(p):
    kind, borders = p.WhichOneof("PaddingType"), _borders(p.paddingAmounts)
    if kind in (None, "constant"):
        return lambda x: kernels.pad_spatial(x, borders, p.constant.value)
    mode = {"reflection": "reflect", "replication": "edge"}[kind]
    return lambda x: np.pad(x, [(0, 0)] * (x.ndim - 2) + borders, mode)


@layer("constantPad")
def _constant_pad(p):
    if p.padToGivenOutputSizeMode:
        raise ValueError("padding to a given size is not known here")
    pairs = list(zip(p.padAmounts[::2], p.padAmounts[1::2], strict=True))
    return lambda x: np.pad(x, pairs, constant_values=p.value)


@layer("crop")
def _crop(p):
    (top, bottom), (left, right) = _borders(p.cropAmounts)

    def compute(x, *others):
        if others or len(p.offset):
            raise ValueError("cropping to another array is not known here")
        return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]

    return compute


@layer("sliceStatic")
def _slice_static(p):
    def compute(x):
        cuts = [
            slice(None if first_mask else first, None if last_mask else last, step)
            for first, first_mask, last, last_mask, step in zip(
                p.beginIds, p.beginMasks, p.endIds, p.endMasks, p.strides, strict=True
            )
        ]
        for axis, squeezed in enumerate(p.squeezeMasks):
            cuts[axis] = p.beginIds[axis] if squeezed else cuts[axis]
        return x[tuple(cuts)]

    return compute


@layer("transpose")
def _transpose(p):
    axes = [int(axis) for axis in p.axes]
    return lambda x: x.transpose(axes)


@layer("expandDims")
def _expand_dims(p):
    return lambda x: np.expand_dims(x, tuple(p.axes))


@layer("squeeze")
def _squeeze(p):
    return lambda x: x.squeeze() if p.squeezeAll else x.squeeze(tuple(p.axes))


@layer("reshapeStatic")
def _reshape_static(p):
    return lambda x: x.reshape(list(p.targetShape))


@layer("rankPreservingReshape")
def _rank_preserving_reshape(p):
    return lambda x: x.reshape([n or x.shape[axis] for axis, n in enumerate(p.targetShape)])


@layer("loadConstantND")
def _load_constant_nd(p):
    value = weights(p.data, tuple(p.shape))
    return lambda: value


@layer("copy")
def _copy(_):
    return lambda x: x


for _name, _function in {
    "reduceMean": np.mean,
    "reduceSum": np.sum,
    "reduceMax": np.max,
    "reduceMin": np.min,
    "reduceProd": np.prod,
    "reduceSumSquare": lambda x, axis, keepdims: np.square(x).sum(axis, keepdims=keepdims),
    "reduceL2": lambda x, axis, keepdims: np.sqrt(np.square(x).sum(axis, keepdims=keepdims)),
}.items():
    LAYERS[_name] = lambda p, function=_function: (
        lambda x: function(x, axis=None if p.reduceAll else tuple(p.axes), keepdims=p.keepDims)
    )


@layer("argMax")
def _arg_max(p):
    def compute(x):
        found = x.argmax(p.axis)
        return found if p.removeDim else np.expand_dims(found, p.axis)

    return compute


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
    modes = ("STRICT_ALIGN_CORNERS", kernels.ALIGNED, kernels.DEFAULT, kernels.OFFSET)
    sizes = list(p.targetSize) or [1, 1]
    return lambda x: kernels.resize_bilinear(x, sizes, modes[p.mode.samplingMethod])

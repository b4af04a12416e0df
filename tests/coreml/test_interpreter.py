"""The interpreter of Core ML models: every layer and operation against an independent calculation, and bad files."""

import itertools
import math
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
from common.errors import InputError
from coreml import kernels
from coreml.neural_network_layers import LAYERS as KNOWN_LAYERS
from coreml.neural_network_weights import read_weights
from coreml.program_operations import OPERATIONS as KNOWN_OPERATIONS
from coreml.reader import read_model

ct = pytest.importorskip("coremltools")
from coremltools.converters.mil import Builder as mb
from coremltools.proto import NeuralNetwork_pb2 as messages


def random(*shape, seed=0, low=-2.0, high=2.0):
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


X = random(1, 4, 6, 5)
POSITIVE = np.abs(X) + np.float32(0.1)


# --- references, pixel by pixel


def convolve_by_hand(x, weight, bias, strides, padding, dilations, groups):
    *_, height, width = x.shape
    out, inner, kh, kw = weight.shape
    (top, bottom), (left, right) = padding
    rows = (height + top + bottom - (kh - 1) * dilations[0] - 1) // strides[0] + 1
    columns = (width + left + right - (kw - 1) * dilations[1] - 1) // strides[1] + 1
    y = np.zeros((1, out, rows, columns))
    for o, r, c in np.ndindex(out, rows, columns):
        first = o // (out // groups) * inner
        for i, a, b in np.ndindex(inner, kh, kw):
            row, column = r * strides[0] - top + a * dilations[0], c * strides[1] - left + b * dilations[1]
            if 0 <= row < height and 0 <= column < width:
                y[0, o, r, c] += float(x[0, first + i, row, column]) * float(weight[o, i, a, b])
    return y + (0 if bias is None else np.reshape(bias, (-1, 1, 1)))


def spread_by_hand(x, weight, bias, strides, cut, groups, sizes):
    """Transposed convolution: every pixel adds its kernel to the result."""
    _, channels, height, width = x.shape
    _, outer, kh, kw = weight.shape
    y = np.zeros((1, outer * groups, (height - 1) * strides[0] + kh, (width - 1) * strides[1] + kw))
    for i, o, r, c, a, b in np.ndindex(channels, outer, height, width, kh, kw):
        group = i // (channels // groups)
        y[0, group * outer + o, r * strides[0] + a, c * strides[1] + b] += float(x[0, i, r, c] * weight[i, o, a, b])
    y = y[:, :, cut[0] : cut[0] + sizes[0], cut[1] : cut[1] + sizes[1]]
    return y + (0 if bias is None else np.reshape(bias, (-1, 1, 1)))


def pool_by_hand(x, reduce, kernel, strides, padding, outside):
    """`reduce` takes the list of the values in a window; `outside` is the value of the border, None leaves it out."""
    _, channels, height, width = x.shape
    (top, bottom), (left, right) = padding
    rows = (height + top + bottom - kernel[0]) // strides[0] + 1
    columns = (width + left + right - kernel[1]) // strides[1] + 1
    y = np.zeros((1, channels, rows, columns))
    for ch, r, c in np.ndindex(channels, rows, columns):
        values = []
        for a, b in np.ndindex(*kernel):
            row, column = r * strides[0] - top + a, c * strides[1] - left + b
            inside = 0 <= row < height and 0 <= column < width
            values += [float(x[0, ch, row, column])] if inside else [] if outside is None else [outside]
        y[0, ch, r, c] = reduce(values)
    return y


def each(function, *arrays):
    """A function of Python numbers on every element."""
    arrays = np.broadcast_arrays(*arrays)
    return np.array(
        [function(*map(float, values)) for values in zip(*(a.ravel() for a in arrays), strict=True)]
    ).reshape(arrays[0].shape)


def logistic(v):
    return 1 / (1 + math.exp(-v))


def gelu(v):
    return 0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))


def exact_gelu(v):
    return 0.5 * v * (1 + math.erf(v / math.sqrt(2)))


def softmax_by_hand(x, axis):
    return np.apply_along_axis(lambda line: [math.exp(v) / sum(map(math.exp, line)) for v in line], axis, x)


def interpolate(x, rows, columns):
    """Linear interpolation at given places."""
    y = np.apply_along_axis(lambda line: np.interp(rows, np.arange(len(line)), line), 2, x.astype(np.float64))
    return np.apply_along_axis(lambda line: np.interp(columns, np.arange(len(line)), line), 3, y)


def close(got, expected, tolerance=1e-5):
    got = got if isinstance(got, (list, tuple)) else [got]
    expected = expected if isinstance(expected, (list, tuple)) else [expected]
    for ours, theirs in zip(got, expected, strict=True):
        assert np.shape(ours) == np.shape(theirs)
        np.testing.assert_allclose(np.asarray(ours, np.float64), theirs, rtol=tolerance, atol=tolerance)


# --- layers of neural networks


def message(kind, **fields):
    """Parameters of a layer; nested messages as dicts, weights as arrays."""
    layer = messages.NeuralNetworkLayer()
    parameters = getattr(layer, kind)
    parameters.SetInParent()
    fill(parameters, fields)
    return parameters


def fill(target, fields):
    for name, value in fields.items():
        if isinstance(value, dict):
            getattr(target, name).SetInParent()
            fill(getattr(target, name), value)
        elif isinstance(value, np.ndarray):
            getattr(target, name).floatValue.extend(value.ravel().tolist())
        elif isinstance(value, (list, tuple)):
            for one in value:
                if isinstance(one, dict):
                    fill(getattr(target, name).add(), one)
                else:
                    getattr(target, name).append(one)
        else:
            setattr(target, name, value)


def borders(top, bottom, left, right):
    edges = [{"startEdgeSize": top, "endEdgeSize": bottom}, {"startEdgeSize": left, "endEdgeSize": right}]
    return {"borderAmounts": edges}


W = random(6, 4, 3, 2, seed=1)
DEPTHWISE = random(4, 1, 3, 3, seed=2)
GROUPED = random(6, 2, 3, 3, seed=3)
UP = random(4, 3, 3, 2, seed=4)
BIAS = random(6, seed=5)
CONV = {"outputChannels": 6, "kernelChannels": 4, "kernelSize": [3, 2], "weights": W}
DECONV = {"outputChannels": 3, "kernelChannels": 4, "kernelSize": [3, 2], "isDeconvolution": True, "weights": UP}
C = random(4, seed=6)
V = np.abs(random(4, seed=7)) + np.float32(0.1)
Y = random(1, 4, 6, 5, seed=8)
NORM = (X - V.reshape(-1, 1, 1)) / np.sqrt(V + 1e-3).reshape(-1, 1, 1) * C.reshape(-1, 1, 1) + C.reshape(-1, 1, 1)
HALF_PIXEL_ROWS = [max(0, min(5, (i + 0.5) / 2 - 0.5)) for i in range(12)]
HALF_PIXEL_COLUMNS = [max(0, min(4, (i + 0.5) / 3 - 0.5)) for i in range(15)]


def activation(kind, **fields):
    return message("activation", **{kind: fields})


LAYERS = [
    (
        message("convolution", **CONV, hasBias=True, bias=BIAS, valid={"paddingAmounts": borders(1, 0, 2, 1)}),
        [X],
        convolve_by_hand(X, W, BIAS, (1, 1), ((1, 0), (2, 1)), (1, 1), 1),
    ),
    (
        message("convolution", **CONV, stride=[2, 2], same={}),  # 6 rows to 3, 5 columns to 3
        [X],
        convolve_by_hand(X, W, None, (2, 2), ((0, 1), (0, 1)), (1, 1), 1),
    ),
    (
        message("convolution", **CONV, stride=[2, 2], same={"asymmetryMode": 1}),
        [X],
        convolve_by_hand(X, W, None, (2, 2), ((1, 0), (1, 0)), (1, 1), 1),
    ),
    (
        message(
            "convolution",
            outputChannels=4,
            kernelChannels=1,
            nGroups=4,
            kernelSize=[3, 3],
            dilationFactor=[2, 2],
            weights=DEPTHWISE,
            same={},
        ),
        [X],
        convolve_by_hand(X, DEPTHWISE, None, (1, 1), ((2, 2), (2, 2)), (2, 2), 4),
    ),
    (
        message("convolution", **DECONV, stride=[2, 2], hasBias=True, bias=BIAS[:3], outputShape=[12, 10], same={}),
        [X],
        spread_by_hand(X, UP, BIAS[:3], (2, 2), (0, 0), 1, (12, 10)),
    ),
    (
        message("convolution", **DECONV, same={}),
        [X],
        spread_by_hand(X, UP, None, (1, 1), (1, 0), 1, (6, 5)),
    ),
    (
        message("convolution", **DECONV, valid={"paddingAmounts": borders(1, 0, 0, 1)}),
        [X],
        spread_by_hand(X, UP, None, (1, 1), (1, 0), 1, (7, 5)),
    ),
    (
        message("pooling", type=0, kernelSize=[2, 3], stride=[2, 1], valid={"paddingAmounts": borders(0, 0, 1, 1)}),
        [X],
        pool_by_hand(X, max, (2, 3), (2, 1), ((0, 0), (1, 1)), -math.inf),
    ),
    (
        message("pooling", type=1, kernelSize=[3, 3], stride=[1, 1], same={}),
        [X],
        pool_by_hand(X, lambda v: sum(v) / 9, (3, 3), (1, 1), ((1, 1), (1, 1)), 0.0),
    ),
    (
        message("pooling", type=1, kernelSize=[3, 3], stride=[1, 1], same={}, avgPoolExcludePadding=True),
        [X],
        pool_by_hand(X, lambda v: sum(v) / len(v), (3, 3), (1, 1), ((1, 1), (1, 1)), None),
    ),
    (message("pooling", type=1, globalPooling=True), [X], X.mean((2, 3), dtype=np.float64)[..., None, None]),
    (
        message("pooling", type=2, kernelSize=[2, 2], stride=[2, 2], valid={}),
        [X],
        pool_by_hand(X, lambda v: math.sqrt(sum(a * a for a in v)), (2, 2), (2, 2), ((0, 0), (0, 0)), 0.0),
    ),
    (
        message("innerProduct", inputChannels=5, outputChannels=3, hasBias=True, weights=random(3, 5), bias=BIAS[:3]),
        [X[0]],
        np.einsum("chw,ow->cho", X[0].astype(np.float64), random(3, 5)) + BIAS[:3],
    ),
    (
        message(
            "batchedMatmul", weightMatrixFirstDimension=5, weightMatrixSecondDimension=3, weights=random(3, 5, seed=9)
        ),
        [X],
        np.einsum("nchw,ow->ncho", X.astype(np.float64), random(3, 5, seed=9)),
    ),
    (message("batchedMatmul", transposeB=True), [X, Y], np.einsum("nchw,ncgw->nchg", X.astype(np.float64), Y)),
    (message("batchnorm", channels=4, epsilon=1e-3, gamma=C, beta=C, mean=V, variance=V), [X], NORM),
    (activation("linear", alpha=2.0, beta=-1.0), [X], each(lambda v: 2 * v - 1, X)),
    (activation("ReLU"), [X], each(lambda v: max(v, 0), X)),
    (activation("leakyReLU", alpha=0.1), [X], each(lambda v: v if v > 0 else 0.1 * v, X)),
    (activation("thresholdedReLU", alpha=0.5), [X], each(lambda v: v if v >= 0.5 else 0, X)),
    (activation("PReLU", alpha=C), [X], each(lambda v, a: v if v > 0 else a * v, X, C.reshape(1, 4, 1, 1))),
    (activation("tanh"), [X], each(math.tanh, X)),
    (activation("scaledTanh", alpha=2.0, beta=0.5), [X], each(lambda v: 2 * math.tanh(0.5 * v), X)),
    (activation("sigmoid"), [X], each(logistic, X)),
    (activation("sigmoidHard", alpha=0.2, beta=0.5), [X], each(lambda v: min(max(0.2 * v + 0.5, 0), 1), X)),
    (activation("ELU", alpha=1.5), [X], each(lambda v: v if v > 0 else 1.5 * (math.exp(v) - 1), X)),
    (activation("softsign"), [X], each(lambda v: v / (1 + abs(v)), X)),
    (activation("softplus"), [X], each(lambda v: math.log(1 + math.exp(v)), X)),
    *(
        (message("unary", type=number, **fields), [POSITIVE], each(function, POSITIVE))
        for number, fields, function in (
            (0, {"scale": 2.0, "shift": 1.0}, lambda v: math.sqrt(2 * v + 1)),
            (1, {"epsilon": 0.5}, lambda v: 1 / math.sqrt(v + 0.5)),
            (2, {"epsilon": 0.5}, lambda v: 1 / (v + 0.5)),
            (3, {"alpha": 1.5}, lambda v: v**1.5),
            (4, {}, math.exp),
            (5, {}, math.log),
            (6, {"scale": -1.0}, abs),
            (7, {"alpha": 1.0}, lambda v: max(v, 1)),
        )
    ),
    (message("clip", minVal=-0.5, maxVal=1.0), [X], each(lambda v: min(max(v, -0.5), 1), X)),
    (message("gelu", mode=0), [X], each(exact_gelu, X)),
    (message("gelu", mode=1), [X], each(gelu, X)),
    (message("gelu", mode=2), [X], each(lambda v: v * logistic(1.702 * v), X)),
    (message("softmaxND", axis=-1), [X], softmax_by_hand(X, -1)),
    (message("softmax"), [X], softmax_by_hand(X, 1)),
    (message("tanh"), [X], each(math.tanh, X)),
    (message("sin"), [X], each(math.sin, X)),
    (message("cos"), [X], each(math.cos, X)),
    (message("ceil"), [X], each(math.ceil, X)),
    (message("floor"), [X], each(math.floor, X)),
    (message("round"), [X], each(round, X)),
    (message("sign"), [X], each(lambda v: math.copysign(1, v), X)),
    (message("exp2"), [X], each(lambda v: 2**v, X)),
    (message("logicalNot"), [np.float32([0, 2])], np.array([1, 0])),
    (message("add"), [X, Y, X], each(lambda a, b: 2 * a + b, X, Y)),
    (message("add", alpha=3.0), [X], each(lambda v: v + 3, X)),
    (message("multiply"), [X, C.reshape(1, 4, 1, 1)], each(lambda a, b: a * b, X, C.reshape(1, 4, 1, 1))),
    (message("multiply", alpha=3.0), [X], each(lambda v: v * 3, X)),
    (message("addBroadcastable"), [X, C.reshape(4, 1, 1)], each(lambda a, b: a + b, X, C.reshape(4, 1, 1))),
    (message("subtractBroadcastable"), [X, Y], each(lambda a, b: a - b, X, Y)),
    (message("multiplyBroadcastable"), [X, Y], each(lambda a, b: a * b, X, Y)),
    (message("divideBroadcastable"), [X, POSITIVE], each(lambda a, b: a / b, X, POSITIVE)),
    (message("floorDivBroadcastable"), [X, POSITIVE], each(lambda a, b: a // b, X, POSITIVE)),
    (message("modBroadcastable"), [X, POSITIVE], each(lambda a, b: a % b, X, POSITIVE)),
    (message("powBroadcastable"), [POSITIVE, Y], each(lambda a, b: a**b, POSITIVE, Y)),
    (message("maxBroadcastable"), [X, Y], each(max, X, Y)),
    (message("minBroadcastable"), [X, Y], each(min, X, Y)),
    (message("logicalAnd"), [np.float32([0, 1, 2]), np.float32([1, 0, 1])], np.array([0, 0, 1])),
    (message("logicalOr"), [np.float32([0, 1, 0]), np.float32([1, 0, 0])], np.array([1, 1, 0])),
    (message("logicalXor"), [np.float32([0, 1, 1]), np.float32([1, 0, 1])], np.array([1, 1, 0])),
    (message("greaterThan"), [X, Y], each(lambda a, b: a > b, X, Y)),
    (message("greaterThan", alpha=0.5), [X], each(lambda a: a > 0.5, X)),
    (message("greaterEqual"), [X, Y], each(lambda a, b: a >= b, X, Y)),
    (message("lessThan"), [X, Y], each(lambda a, b: a < b, X, Y)),
    (message("lessEqual"), [X, X], np.ones_like(X)),
    (message("equal"), [X, Y], np.zeros_like(X)),
    (message("notEqual"), [X, Y], np.ones_like(X)),
    (message("min"), [X, Y], each(min, X, Y)),
    (message("max"), [X, Y], each(max, X, Y)),
    (message("whereBroadcastable"), [np.float32([1, 0]), np.float32([2, 3]), np.float32([4, 5])], np.array([2, 5])),
    (message("concat"), [X, Y], np.stack([*X[0], *Y[0]])[None]),
    (message("concatND", axis=2), [X, Y], np.stack([np.vstack([X[0, c], Y[0, c]]) for c in range(4)])[None]),
    (message("splitND", axis=1, numSplits=2), [X], [X[:, :2], X[:, 2:]]),
    (message("splitND", axis=1, splitSizes=[1, 3]), [X], [X[:, :1], X[:, 1:]]),
    (message("stack", axis=0), [X, Y], np.array([X.tolist(), Y.tolist()])),
    (
        message("padding", constant={"value": 0.5}, paddingAmounts=borders(1, 0, 2, 3)),
        [X],
        np.stack([cv2.copyMakeBorder(c, 1, 0, 2, 3, cv2.BORDER_CONSTANT, value=0.5) for c in X[0]])[None],
    ),
    (
        message("padding", reflection={}, paddingAmounts=borders(2, 1, 1, 2)),
        [X],
        np.stack([cv2.copyMakeBorder(c, 2, 1, 1, 2, cv2.BORDER_REFLECT_101) for c in X[0]])[None],
    ),
    (
        message("padding", replication={}, paddingAmounts=borders(2, 1, 1, 2)),
        [X],
        np.stack([cv2.copyMakeBorder(c, 2, 1, 1, 2, cv2.BORDER_REPLICATE) for c in X[0]])[None],
    ),
    (message("constantPad", value=1.0, padAmounts=[1, 2]), [np.float32([5, 6])], np.array([1, 5, 6, 1, 1])),
    (message("crop", cropAmounts=borders(1, 2, 0, 3)), [X], X[:, :, 1:4, :2]),
    (
        message(
            "sliceStatic",
            beginIds=[0, 1, 5, 2],
            beginMasks=[True, False, False, False],
            endIds=[0, 3, 0, 3],
            endMasks=[True, False, True, False],
            strides=[1, 1, -2, 1],
            squeezeMasks=[False, False, False, True],
        ),
        [X],
        X[:, 1:3, [5, 3, 1], 2],
    ),
    (message("transpose", axes=[0, 2, 3, 1]), [X], np.stack([X[0, c] for c in range(4)], -1)[None]),
    (message("expandDims", axes=[0, -1]), [C], np.array([[[v] for v in C.tolist()]])),
    (message("squeeze", axes=[0]), [X], X[0]),
    (message("squeeze", squeezeAll=True), [X[:, :1]], X[0, 0]),
    (message("reshapeStatic", targetShape=[2, -1]), [X], np.array([X.ravel()[:60], X.ravel()[60:]])),
    (message("rankPreservingReshape", targetShape=[0, 2, 12, 0]), [X], np.array(X.ravel()).reshape(1, 2, 12, 5)),
    (message("loadConstantND", shape=[2, 2], data=C), [], np.array([[C[0], C[1]], [C[2], C[3]]])),
    (message("copy"), [X], X),
    (message("reduceMean", axes=[2, 3], keepDims=True), [X], X.astype(np.float64).sum((2, 3), keepdims=True) / 30),
    (message("reduceSum", axes=[1]), [X], sum(X[:, c].astype(np.float64) for c in range(4))),
    (message("reduceMax", axes=[1]), [X], each(max, *(X[:, c] for c in range(4)))),
    (message("reduceMin", axes=[1]), [X], each(min, *(X[:, c] for c in range(4)))),
    (message("reduceProd", axes=[1]), [X], each(lambda a, b, c, d: a * b * c * d, *(X[:, c] for c in range(4)))),
    (message("reduceSumSquare", reduceAll=True), [X], math.fsum(v * v for v in X.ravel().tolist())),
    (message("reduceL2", axes=[1]), [X], each(math.hypot, *(X[:, c] for c in range(4)))),
    (message("argMax", axis=1, removeDim=True), [X], each(lambda *v: v.index(max(v)), *(X[:, c] for c in range(4)))),
    (message("argMax", axis=1), [X], each(lambda *v: v.index(max(v)), *(X[:, c] for c in range(4)))[:, None]),
    (
        message("upsample", scalingFactor=[2, 3]),
        [X],
        np.stack([cv2.resize(c, (15, 12), interpolation=0) for c in X[0]])[None],
    ),
    (
        message("upsample", scalingFactor=[2, 3], mode=1),
        [X],
        interpolate(X, [min(5, i / 2) for i in range(12)], [min(4, i / 3) for i in range(15)]),
    ),
    (
        message("upsample", scalingFactor=[2, 3], mode=1, linearUpsampleMode=1),
        [X],
        interpolate(X, np.linspace(0, 5, 12), np.linspace(0, 4, 15)),
    ),
    (
        message("upsample", scalingFactor=[2, 3], mode=1, linearUpsampleMode=2),
        [X],
        np.stack([cv2.resize(c, (15, 12), interpolation=cv2.INTER_LINEAR) for c in X[0]])[None],
    ),
    (
        message("resizeBilinear", targetSize=[4, 9], mode={"samplingMethod": 0}),
        [X],
        interpolate(X, np.linspace(0, 5, 4), np.linspace(0, 4, 9)),
    ),
    (message("resizeBilinear", targetSize=[1, 1], mode={"samplingMethod": 1}), [X], interpolate(X, [2.5], [2.0])),
    (
        message("resizeBilinear", targetSize=[4, 9], mode={"samplingMethod": 2}),
        [X],
        interpolate(X, np.linspace(0, 6 - 6 / 4, 4), np.minimum(4, np.linspace(0, 5 - 5 / 9, 9))),
    ),
    (
        message("resizeBilinear", targetSize=[4, 9], mode={"samplingMethod": 3}),
        [X],
        interpolate(X, [5 / 4 * (i + 0.5) for i in range(4)], [min(4, 4 / 9 * (i + 0.5)) for i in range(9)]),
    ),
]


def kind_of(parameters):
    """Name of a layer by its message."""
    fields = messages.NeuralNetworkLayer.DESCRIPTOR.oneofs_by_name["layer"].fields
    names = {field.message_type.name: field.name for field in fields}
    return names[type(parameters).DESCRIPTOR.name]


@pytest.mark.parametrize("parameters, inputs, expected", LAYERS, ids=[kind_of(p) for p, _, _ in LAYERS])
def test_layer_of_a_neural_network(parameters, inputs, expected):
    close(KNOWN_LAYERS[kind_of(parameters)](parameters)(*inputs), expected)


def test_every_layer_that_is_known_has_been_tested():
    assert set(KNOWN_LAYERS) == {kind_of(parameters) for parameters, _, _ in LAYERS}


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_convolutions_of_any_form(data):
    """Against loops over pixels: kernels, strides, borders, dilations, groups."""
    numbers = data.draw(st.integers(0, 2**31), "seed")
    groups = data.draw(st.sampled_from([1, 2, 4]))
    kernel, strides, dilations = ([data.draw(st.integers(1, high)) for _ in range(2)] for high in (3, 2, 2))
    if groups > 1 and max(dilations) > 1:
        strides = [1, 1]
    padding = [tuple(data.draw(st.integers(0, 2)) for _ in range(2)) for _ in range(2)]
    x, weight = random(1, 4, 7, 6, seed=numbers), random(4, 4 // groups, *kernel, seed=numbers + 1)
    if max(strides) > 1 and max(dilations) > 1:
        dilations = [1, 1]  # backends have one or the other
    got = kernels.convolve(x, weight, None, strides, padding, dilations, groups)
    close(got, convolve_by_hand(x, weight, None, strides, padding, dilations, groups))
    up = random(4, 3, *kernel, seed=numbers + 2)
    sizes = [(n - 1) * s + k for n, s, k in zip((7, 6), strides, kernel, strict=True)]
    got = kernels.convolve_transposed(x, up, None, strides, [(0, 0)] * 2, groups)
    close(got, spread_by_hand(x, up, None, strides, (0, 0), groups, sizes))


# --- weights


def pack(numbers, bits):
    """Numbers of a few bits, one after the other, the highest bit first, as coremltools packs them."""
    text = "".join(format(number, f"0{bits}b") for number in numbers)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))


@pytest.mark.parametrize("bits", [1, 3, 4, 6, 8])
def test_weights_of_few_bits(bits):
    numbers = np.random.default_rng(0).integers(0, 2**bits, 10)
    parameters = messages.WeightParams(rawValue=pack(numbers.tolist(), bits))
    parameters.quantization.numberOfBits = bits
    palette = random(2**bits)
    parameters.quantization.lookupTableQuantization.floatValue.extend(palette.tolist())
    close(read_weights(parameters, (5, 2)), np.array([palette[n] for n in numbers]).reshape(5, 2))

    scale, bias = random(5, seed=1), random(5, seed=2)
    parameters.quantization.linearQuantization.scale.extend(scale.tolist())
    parameters.quantization.linearQuantization.bias.extend(bias.tolist())
    close(read_weights(parameters, (5, 2)), numbers.reshape(5, 2) * scale[:, None] + bias[:, None])
    with pytest.raises(ValueError, match="bytes are there"):
        read_weights(parameters, (50, 2))


def test_weights_in_half_precision():
    values = random(3, 2).astype(np.float16)
    parameters = messages.WeightParams(float16Value=values.tobytes())
    close(read_weights(parameters, (3, 2)), values)
    with pytest.raises(ValueError, match=r"6 weights are there, .* needs 8"):
        read_weights(parameters, (4, 2))


def test_scales_of_a_transposed_convolution_run_along_its_outputs():
    parameters = message("convolution", **{k: v for k, v in DECONV.items() if k != "weights"}, valid={})
    numbers = np.random.default_rng(0).integers(0, 256, (4, 3, 3, 2)).astype(np.uint8)
    scale, bias = random(3, seed=1), random(3, seed=2)
    parameters.weights.rawValue = numbers.tobytes()
    parameters.weights.quantization.numberOfBits = 8
    parameters.weights.quantization.linearQuantization.scale.extend(scale.tolist())
    parameters.weights.quantization.linearQuantization.bias.extend(bias.tolist())
    weight = numbers * scale.reshape(1, 3, 1, 1) + bias.reshape(1, 3, 1, 1)
    got = KNOWN_LAYERS["convolution"](parameters)(X)
    close(got, spread_by_hand(X, weight, None, (1, 1), (0, 0), 1, (8, 6)), 1e-3)


# --- operations of ML programs


def ints(*values):
    return np.array(values, np.int32)


ONES, ZEROS = ints(1, 1), ints(0, 0, 0, 0)
GROUPED_UP = random(4, 2, 2, 2, seed=10)
OPERATIONS = [
    (
        "conv",
        {
            "x": X,
            "weight": W,
            "strides": ints(2, 1),
            "pad_type": "custom",
            "pad": ints(1, 0, 2, 1),
            "dilations": ONES,
            "groups": 1,
            "bias": BIAS,
        },
        convolve_by_hand(X, W, BIAS, (2, 1), ((1, 0), (2, 1)), (1, 1), 1),
    ),
    (
        "conv",
        {"x": X, "weight": W, "strides": ints(2, 2), "pad_type": "same", "pad": ZEROS, "dilations": ONES, "groups": 1},
        convolve_by_hand(X, W, None, (2, 2), ((0, 1), (0, 1)), (1, 1), 1),
    ),
    (
        "conv",
        {"x": X, "weight": W, "strides": ints(2, 2), "pad_type": "same_lower", "dilations": ONES, "groups": 1},
        convolve_by_hand(X, W, None, (2, 2), ((1, 0), (1, 0)), (1, 1), 1),
    ),
    (
        "conv",
        {"x": X, "weight": GROUPED, "strides": ONES, "pad_type": "valid", "dilations": ints(2, 1), "groups": 2},
        convolve_by_hand(X, GROUPED, None, (1, 1), ((0, 0), (0, 0)), (2, 1), 2),
    ),
    (
        "conv_transpose",
        {
            "x": X,
            "weight": UP,
            "strides": ONES,
            "pad_type": "same",
            "pad": ZEROS,
            "dilations": ONES,
            "groups": 1,
            "output_shape": ints(1, 3, 6, 5),
            "bias": BIAS[:3],
        },
        spread_by_hand(X, UP, BIAS[:3], (1, 1), (1, 0), 1, (6, 5)),
    ),
    (
        "conv_transpose",
        {
            "x": X,
            "weight": GROUPED_UP,
            "strides": ints(2, 2),
            "pad_type": "custom",
            "pad": ints(1, 0, 0, 1),
            "dilations": ONES,
            "groups": 2,
        },
        spread_by_hand(X, GROUPED_UP, None, (2, 2), (1, 0), 2, (11, 9)),
    ),
    (
        "max_pool",
        {"x": X, "kernel_sizes": ints(2, 3), "strides": ints(2, 1), "pad_type": "custom", "pad": ints(0, 0, 1, 1)},
        pool_by_hand(X, max, (2, 3), (2, 1), ((0, 0), (1, 1)), -math.inf),
    ),
    (
        "max_pool",
        {
            "x": X,
            "kernel_sizes": ints(2, 2),
            "strides": ints(2, 2),
            "pad_type": "valid",
            "pad": ZEROS,
            "ceil_mode": True,
        },
        pool_by_hand(X, max, (2, 2), (2, 2), ((0, 0), (0, 1)), -math.inf),
    ),
    (
        "avg_pool",
        {
            "x": X,
            "kernel_sizes": ints(3, 3),
            "strides": ONES,
            "pad_type": "same",
            "pad": ZEROS,
            "exclude_padding_from_average": True,
        },
        pool_by_hand(X, lambda v: sum(v) / len(v), (3, 3), (1, 1), ((1, 1), (1, 1)), None),
    ),
    (
        "l2_pool",
        {"x": X, "kernel_sizes": ints(2, 2), "strides": ints(2, 2), "pad_type": "valid", "pad": ZEROS},
        pool_by_hand(X, lambda v: math.sqrt(sum(a * a for a in v)), (2, 2), (2, 2), ((0, 0), (0, 0)), 0.0),
    ),
    (
        "linear",
        {"x": X, "weight": random(3, 5), "bias": BIAS[:3]},
        np.einsum("nchw,ow->ncho", X.astype(np.float64), random(3, 5)) + BIAS[:3],
    ),
    ("matmul", {"x": X, "y": Y, "transpose_y": True}, np.einsum("nchw,ncgw->nchg", X.astype(np.float64), Y)),
    ("batch_norm", {"x": X, "mean": V, "variance": V, "gamma": C, "beta": C, "epsilon": 1e-3}, NORM),
    (
        "instance_norm",
        {"x": X, "epsilon": 1e-3, "gamma": C, "beta": C},
        np.stack([(c - np.mean(c)) / math.sqrt(np.var(c) + 1e-3) * w + w for c, w in zip(X[0], C, strict=True)])[None],
    ),
    (
        "layer_norm",
        {"x": X, "axes": ints(-1), "epsilon": 1e-3},
        np.apply_along_axis(lambda line: (line - line.mean()) / math.sqrt(line.var() + 1e-3), 3, X),
    ),
    ("softmax", {"x": X, "axis": 1}, softmax_by_hand(X, 1)),
    ("gelu", {"x": X, "mode": "TANH_APPROXIMATION"}, each(gelu, X)),
    ("gelu", {"x": X, "mode": "EXACT"}, each(exact_gelu, X)),
    ("gelu", {"x": X, "mode": "SIGMOID_APPROXIMATION"}, each(lambda v: v * logistic(1.702 * v), X)),
    ("prelu", {"x": X, "alpha": C}, each(lambda v, a: v if v > 0 else a * v, X, C.reshape(1, 4, 1, 1))),
    (
        "softplus_parametric",
        {"x": X, "alpha": C, "beta": V},
        each(lambda v, a, b: a * math.log(1 + math.exp(b * v)), X, C.reshape(4, 1, 1), V.reshape(4, 1, 1)),
    ),
    ("cast", {"x": X, "dtype": "int32"}, each(math.trunc, X)),
    ("cast", {"x": X, "dtype": "fp16"}, X.astype(np.float16)),
    ("relu", {"x": X}, each(lambda v: max(v, 0), X)),
    ("relu6", {"x": 5 * X}, each(lambda v: min(max(v, 0), 6), 5 * X)),
    ("clamped_relu", {"x": X, "alpha": 0.1, "beta": 1.0}, each(lambda v: min(v if v > 0 else 0.1 * v, 1), X)),
    ("leaky_relu", {"x": X, "alpha": 0.1}, each(lambda v: v if v > 0 else 0.1 * v, X)),
    ("thresholded_relu", {"x": X, "alpha": 0.5}, each(lambda v: v if v >= 0.5 else 0, X)),
    ("elu", {"x": X, "alpha": 1.5}, each(lambda v: v if v > 0 else 1.5 * (math.exp(v) - 1), X)),
    ("linear_activation", {"x": X, "alpha": 2.0, "beta": -1.0}, each(lambda v: 2 * v - 1, X)),
    ("sigmoid", {"x": X}, each(logistic, X)),
    ("sigmoid", {"x": np.float32([-200, 200])}, np.array([0, 1])),
    ("sigmoid_hard", {"x": X, "alpha": 0.2, "beta": 0.5}, each(lambda v: min(max(0.2 * v + 0.5, 0), 1), X)),
    ("silu", {"x": X}, each(lambda v: v * logistic(v), X)),
    ("scaled_tanh", {"x": X, "alpha": 2.0, "beta": 0.5}, each(lambda v: 2 * math.tanh(0.5 * v), X)),
    ("softplus", {"x": X}, each(lambda v: math.log(1 + math.exp(v)), X)),
    ("softsign", {"x": X}, each(lambda v: v / (1 + abs(v)), X)),
    ("erf", {"x": X}, each(math.erf, X)),
    ("clip", {"x": X, "alpha": -0.5, "beta": 1.0}, each(lambda v: min(max(v, -0.5), 1), X)),
    ("inverse", {"x": POSITIVE, "epsilon": 0.5}, each(lambda v: 1 / (v + 0.5), POSITIVE)),
    ("log", {"x": POSITIVE, "epsilon": 0.5}, each(lambda v: math.log(v + 0.5), POSITIVE)),
    ("rsqrt", {"x": POSITIVE, "epsilon": 0.5}, each(lambda v: 1 / math.sqrt(v + 0.5), POSITIVE)),
    ("threshold", {"x": X, "alpha": 0.5}, each(lambda v: max(v, 0.5), X)),
    ("identity", {"x": X}, X),
    ("pow", {"x": POSITIVE, "y": 2.0}, each(lambda v: v**2, POSITIVE)),
    ("select", {"cond": np.array([True, False]), "a": 1.0, "b": 2.0}, np.array([1, 2])),
    *(
        (name, {"x": X}, each(function, X))
        for name, function in (
            ("tanh", math.tanh),
            ("abs", abs),
            ("ceil", math.ceil),
            ("cos", math.cos),
            ("exp", math.exp),
            ("exp2", lambda v: 2**v),
            ("floor", math.floor),
            ("sign", lambda v: math.copysign(1, v)),
            ("sin", math.sin),
            ("square", lambda v: v * v),
            ("round", round),
            ("logical_not", lambda v: not v),
        )
    ),
    ("sqrt", {"x": POSITIVE}, each(math.sqrt, POSITIVE)),
    *(
        (name, {"x": X, "y": POSITIVE}, each(function, X, POSITIVE))
        for name, function in (
            ("maximum", max),
            ("minimum", min),
            ("add", lambda a, b: a + b),
            ("sub", lambda a, b: a - b),
            ("mul", lambda a, b: a * b),
            ("real_div", lambda a, b: a / b),
            ("floor_div", lambda a, b: a // b),
            ("mod", lambda a, b: a % b),
            ("equal", lambda a, b: a == b),
            ("not_equal", lambda a, b: a != b),
            ("greater", lambda a, b: a > b),
            ("greater_equal", lambda a, b: a >= b),
            ("less", lambda a, b: a < b),
            ("less_equal", lambda a, b: a <= b),
        )
    ),
    *(
        (name, {"x": np.array([True, True, False]), "y": np.array([True, False, False])}, np.array(expected))
        for name, expected in (
            ("logical_and", [1, 0, 0]),
            ("logical_or", [1, 1, 0]),
            ("logical_xor", [0, 1, 0]),
        )
    ),
    *(
        (
            name,
            {"x": X, "axes": ints(1), "keep_dims": False},
            each(lambda *v, f=function: f(v), *(X[:, c] for c in range(4))),
        )
        for name, function in (
            ("reduce_mean", lambda v: sum(v) / 4),
            ("reduce_sum", sum),
            ("reduce_max", max),
            ("reduce_min", min),
            ("reduce_prod", math.prod),
            ("reduce_sum_square", lambda v: sum(a * a for a in v)),
            ("reduce_l2_norm", lambda v: math.hypot(*v)),
        )
    ),
    (
        "reduce_argmax",
        {"x": X, "axis": 1, "keep_dims": True},
        each(lambda *v: v.index(max(v)), *(X[:, c] for c in range(4)))[:, None],
    ),
    ("concat", {"values": [X, Y], "axis": 1}, np.stack([*X[0], *Y[0]])[None]),
    ("stack", {"values": [X, Y], "axis": 0}, np.array([X.tolist(), Y.tolist()])),
    ("split", {"x": X, "axis": 1, "split_sizes": ints(1, 3)}, [X[:, :1], X[:, 1:]]),
    ("split", {"x": X, "axis": 1, "num_splits": 2}, [X[:, :2], X[:, 2:]]),
    (
        "pad",
        {"x": X, "pad": ints(1, 0, 2, 3), "mode": "constant", "constant_val": 0.5},
        np.stack([cv2.copyMakeBorder(c, 1, 0, 2, 3, cv2.BORDER_CONSTANT, value=0.5) for c in X[0]])[None],
    ),
    (
        "pad",
        {"x": X, "pad": ints(2, 1, 1, 2), "mode": "reflect", "constant_val": 0.0},
        np.stack([cv2.copyMakeBorder(c, 2, 1, 1, 2, cv2.BORDER_REFLECT_101) for c in X[0]])[None],
    ),
    (
        "slice_by_index",
        {
            "x": X,
            "begin": ints(0, 1, 5, 2),
            "end": ints(0, 3, 0, 3),
            "stride": ints(1, 1, -2, 1),
            "begin_mask": [True, False, False, False],
            "end_mask": [True, False, True, False],
            "squeeze_mask": [False, False, False, True],
        },
        X[:, 1:3, [5, 3, 1], 2],
    ),
    ("slice_by_size", {"x": X, "begin": ints(0, 1, 2, 0), "size": ints(1, 2, -1, 5)}, X[:, 1:3, 2:]),
    ("crop", {"x": X, "crop_height": ints(1, 2), "crop_width": ints(0, 3)}, X[:, :, 1:4, :2]),
    ("reshape", {"x": X, "shape": ints(0, 2, -1)}, np.array([[X.ravel()[:60], X.ravel()[60:]]])),
    ("transpose", {"x": X, "perm": ints(0, 2, 3, 1)}, np.stack([X[0, c] for c in range(4)], -1)[None]),
    ("expand_dims", {"x": C, "axes": ints(0, -1)}, np.array([[[v] for v in C.tolist()]])),
    ("squeeze", {"x": X, "axes": ints(0)}, X[0]),
    ("tile", {"x": C, "reps": ints(2)}, np.array([*C, *C])),
    (
        "upsample_bilinear",
        {"x": X, "scale_factor_height": 2, "scale_factor_width": 3.0, "align_corners": False},
        np.stack([cv2.resize(c, (15, 12), interpolation=cv2.INTER_LINEAR) for c in X[0]])[None],
    ),
    (
        "upsample_bilinear",
        {"x": X, "scale_factor_height": 2, "scale_factor_width": 3.0, "align_corners": True},
        interpolate(X, np.linspace(0, 5, 12), np.linspace(0, 4, 15)),
    ),
    (
        "upsample_nearest_neighbor",
        {"x": X, "scale_factor_height": 2, "scale_factor_width": 3},
        np.stack([cv2.resize(c, (15, 12), interpolation=cv2.INTER_NEAREST) for c in X[0]])[None],
    ),
    (
        "resize_bilinear",
        {"x": X, "target_size_height": 12, "target_size_width": 15, "sampling_mode": "UNALIGN_CORNERS"},
        interpolate(X, HALF_PIXEL_ROWS, HALF_PIXEL_COLUMNS),
    ),
    (
        "resize_nearest_neighbor",
        {"x": X, "target_size_height": 12, "target_size_width": 15},
        np.stack([cv2.resize(c, (15, 12), interpolation=cv2.INTER_NEAREST) for c in X[0]])[None],
    ),
    (
        "constexpr_affine_dequantize",
        {
            "quantized_data": np.int8([[1, -2], [3, 4]]),
            "zero_point": np.int8([1, 2]),
            "scale": np.float32([2, 3]),
            "axis": 1,
        },
        np.array([[0, -12], [4, 6]]),
    ),
    (
        "dequantize",
        {"input": np.int8([1, -2]), "scale": np.float32(0.5), "zero_point": np.int8(1)},
        np.array([0, -1.5]),
    ),
    (
        "constexpr_lut_to_dense",  # four colours: 3, 0 | 2, 1, 3 from the lowest bits on
        {"indices": np.uint8([0b01100011, 0b11]), "lut": np.float32([10, 11, 12, 13]), "shape": ints(5)},
        np.array([13, 10, 12, 11, 13]),
    ),
    (
        "constexpr_lut_to_dense",  # one palette for either row
        {
            "indices": np.uint8([[0, 1], [1, 1]]),
            "lut": np.float32([[[[1], [2]]], [[[3], [4]]]]),
            "vector_axis": None,
        },
        np.array([[1, 2], [4, 4]]),
    ),
    (
        "constexpr_blockwise_shift_scale",
        {"data": np.int8([[1, 2, 3, 4]]), "scale": np.float32([[2, 10]]), "offset": np.int8([[1, 0]])},
        np.array([[0, 2, 30, 40]]),
    ),
    (
        "constexpr_sparse_to_dense",
        {"nonzero_data": np.float32([5, 6]), "mask": np.uint8([0b00010010]), "shape": ints(5)},
        np.array([0, 5, 0, 0, 6]),
    ),
    ("constexpr_cast", {"source_val": C, "output_dtype": "fp32"}, C),
]


@pytest.mark.parametrize("name, arguments, expected", OPERATIONS, ids=[name for name, _, _ in OPERATIONS])
def test_operation_of_a_program(name, arguments, expected):
    close(KNOWN_OPERATIONS[name](**arguments), expected)


def test_every_operation_that_is_known_has_been_tested():
    assert set(KNOWN_OPERATIONS) == {name for name, _, _ in OPERATIONS}


def save_program(function, path, *shapes, **options):
    """Write a small ML program; `function` takes the inputs a, b, ... of the builder."""
    specs = [mb.TensorSpec(shape=shape) for shape in shapes]
    made = mb.program(input_specs=specs, opset_version=ct.target.iOS16)(function)
    model = ct.convert(
        made, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS16, skip_model_load=True, **options
    )
    model.save(str(path))
    return path


@pytest.fixture(scope="module")
def a_program(tmp_path_factory):
    def function(a):
        return mb.relu(x=mb.conv(x=a, weight=random(200, 60, 1, 1), bias=random(200)), name="result")

    folder = tmp_path_factory.mktemp("program")
    return save_program(function, folder / "model.mlpackage", (1, 60, 2, 2), compute_precision=ct.precision.FLOAT32)


def test_program_from_its_file(a_program):
    x = random(1, 60, 2, 2, seed=5)
    (result,) = read_model(a_program).run({"a": x}).values()
    close(
        result, np.maximum(convolve_by_hand(x, random(200, 60, 1, 1), random(200), (1, 1), [(0, 0)] * 2, (1, 1), 1), 0)
    )


def test_half_precision_is_rounded_after_every_operation(tmp_path):
    def function(a):
        return mb.mul(x=mb.add(x=a, y=np.float32(1000.3)), y=np.float32(100.0), name="result")

    path = save_program(function, tmp_path / "m.mlpackage", (3,), compute_precision=ct.precision.FLOAT16)
    (result,) = read_model(path).run({"a": np.float32([0.1, 0.4, -900])}).values()
    with np.errstate(over="ignore"):
        expected = (np.float16([0.1, 0.4, -900]) + np.float16(1000.3)) * np.float16(100)  # beyond 65504: infinite
    np.testing.assert_array_equal(result, expected.astype(np.float32))
    assert np.isinf(result[:2]).all()


# --- bad files


@pytest.fixture(scope="module")
def a_network(tmp_path_factory):
    """A neural network of one layer."""
    builder = ct.models.neural_network.NeuralNetworkBuilder(
        [("input", ct.models.datatypes.Array(4, 6, 5))], [("output", None)], disable_rank5_shape_mapping=True
    )
    builder.add_activation("last", "RELU", "input", "output")
    path = tmp_path_factory.mktemp("network") / "model.mlmodel"
    ct.utils.save_spec(builder.spec, str(path))
    return path


def changed(path, folder, change):
    """A copy of a model whose message `change` has changed."""
    spec = ct.utils.load_spec(str(path))
    change(spec)
    target = folder / path.name
    if path.suffix == ".mlmodel":
        target.write_bytes(spec.SerializeToString())
    else:
        shutil.copytree(path, target)
        (target / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(spec.SerializeToString())
    return target


def test_network_from_its_file(a_network):
    (result,) = read_model(a_network).run({"input": X[0]}).values()
    close(result, np.maximum(X[0], 0))
    with pytest.raises(ValueError, match=r"input takes \(4, 6, 5\), not \(1, 4, 6, 5\)"):
        read_model(a_network).run({"input": X})


def retype(spec):
    spec.pipeline.SetInParent()


def set_version(spec):
    spec.specificationVersion = 99


def unknown_layer(spec):
    spec.neuralNetwork.layers[0].lrn.SetInParent()


def five_axes(spec):
    spec.neuralNetwork.arrayInputShapeMapping = 0


def lost_input(spec):
    spec.neuralNetwork.layers[0].input[0] = "elsewhere"


def lost_output(spec):
    spec.neuralNetwork.layers[0].output[0] = "elsewhere"


def short_weights(spec):
    layer = spec.neuralNetwork.layers[0].convolution
    layer.outputChannels, layer.kernelChannels = 3, 4
    layer.weights.floatValue.extend([1.0] * 7)


def preprocess(spec):
    spec.neuralNetwork.preprocessing.add().meanImage.SetInParent()


def colour_input(spec):
    spec.description.input[0].type.imageType.colorSpace = 20


@pytest.mark.parametrize(
    "change, text",
    [
        (retype, "of the kind pipeline"),
        (set_version, "specification version 99"),
        (unknown_layer, "layer last is of the kind lrn, which is not known"),
        (five_axes, "five axes"),
        (lost_input, "activation last reads 'elsewhere', which nothing gives"),
        (lost_output, "nothing gives the output output"),
        (short_weights, "convolution last cannot be read: 7 weights are there"),
        (preprocess, "meanImage before the network"),
        (colour_input, "coloured image"),
    ],
)
def test_foreign_networks_are_named(tmp_path, a_network, change, text):
    path = changed(a_network, tmp_path, change)
    with pytest.raises(InputError, match=text):
        read_model(path).run({"input": X[0]})


def first_operation(spec):
    function = spec.mlProgram.functions["main"]
    operations = function.block_specializations[function.opset].operations
    return next(operation for operation in operations if operation.type != "const")


def unknown_operation(spec):
    first_operation(spec).type = "gru"


def lost_function(spec):
    del spec.mlProgram.functions["main"]


def wrong_parameter(spec):
    operation = first_operation(spec)
    operation.inputs["x"].arguments[0].name = "elsewhere"


@pytest.mark.parametrize(
    "change, text",
    [
        (unknown_operation, "of the kind gru, which is not known"),
        (lost_function, "no function main"),
        (wrong_parameter, "coremltools cannot read its program"),
        (set_version, "specification version 99"),
    ],
)
def test_foreign_programs_are_named(tmp_path, a_program, change, text):
    with pytest.raises(InputError, match=text):
        read_model(changed(a_program, tmp_path, change))


def cut_file(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


DATA = Path("Data") / "com.apple.CoreML"


@pytest.mark.parametrize(
    "harm, text",
    [
        (lambda p: (p / "Manifest.json").unlink(), "no Manifest.json"),
        (lambda p: (p / "Manifest.json").write_text("{"), "damaged"),
        (lambda p: (p / DATA / "model.mlmodel").unlink(), "damaged"),
        (lambda p: cut_file(p / DATA / "model.mlmodel", 0.6), "damaged"),
        (lambda p: (p / DATA / "weights" / "weight.bin").unlink(), "damaged"),
        (lambda p: cut_file(p / DATA / "weights" / "weight.bin", 0.5), "damaged"),
        (lambda p: (p / DATA / "weights" / "weight.bin").write_bytes(b""), "damaged"),
    ],
)
def test_damaged_packages_are_named(tmp_path, a_program, harm, text):
    path = tmp_path / "model.mlpackage"
    shutil.copytree(a_program, path)
    harm(path)
    with pytest.raises(InputError, match=text):
        read_model(path)


def test_damaged_files_are_named(tmp_path, a_network):
    for name, content, text in (
        ("empty.mlmodel", b"", "names no kind of model"),
        ("text.mlmodel", b"this is no model" * 10, "damaged"),
        ("cut.mlmodel", a_network.read_bytes()[:-3], "damaged"),
        ("model.onnx", b"", "is no Core ML model"),
        ("file.mlpackage", b"", "the other way round"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=text):
            read_model(tmp_path / name)
    with pytest.raises(InputError, match="does not exist"):
        read_model(tmp_path / "gone.mlmodel")


def test_sample_positions_stay_within_the_image():
    modes = (kernels.ALIGNED, kernels.UNALIGNED, kernels.DEFAULT, kernels.OFFSET, kernels.STRICTLY_ALIGNED)
    for mode, size, count in itertools.product(modes, (1, 2, 5), (1, 3, 11)):
        positions = kernels.sample_positions(size, count, mode)
        assert len(positions) == count and positions.min() >= 0 and positions.max() <= size - 1
    with pytest.raises(ValueError, match="sampling mode CUBIC"):
        kernels.sample_positions(2, 3, "CUBIC")

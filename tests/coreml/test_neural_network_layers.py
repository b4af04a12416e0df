"""Every layer of Core ML neural networks against an independent calculation, and the forms of their weights."""

import math

import cv2
import numpy as np
import pytest
from pixelwise import (
    BIAS,
    NORM,
    POSITIVE,
    UP,
    C,
    V,
    W,
    X,
    Y,
    close,
    convolve_by_hand,
    each,
    exact_gelu,
    gelu,
    interpolate,
    logistic,
    pool_by_hand,
    random,
    softmax_by_hand,
    spread_by_hand,
)

from coreml.neural_network_layers import LAYERS as KNOWN_LAYERS
from coreml.neural_network_weights import read_weights

pytest.importorskip("coremltools")
from coremltools.proto import NeuralNetwork_pb2 as messages


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


def activation(kind, **fields):
    return message("activation", **{kind: fields})


DEPTHWISE = random(4, 1, 3, 3, seed=2)
CONV = {"outputChannels": 6, "kernelChannels": 4, "kernelSize": [3, 2], "weights": W}
DECONV = {"outputChannels": 3, "kernelChannels": 4, "kernelSize": [3, 2], "isDeconvolution": True, "weights": UP}
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
    (message("slice", startIndex=1, endIndex=4, axis=0), [X], X[:, 1:4]),
    (message("slice", startIndex=1, endIndex=6, stride=2, axis=1), [X], X[:, :, 1:6:2]),
    (message("slice", startIndex=0, endIndex=3, axis=2), [X], X[..., :3]),
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
    (message("tile", reps=[1, 2, 1, 3]), [X], np.stack([np.hstack([X[0, c % 4]] * 3) for c in range(8)])[None]),
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
    with pytest.raises(ValueError, match="wrong number of bytes"):
        read_weights(parameters, (50, 2))


def test_weights_in_half_precision():
    values = random(3, 2).astype(np.float16)
    parameters = messages.WeightParams(float16Value=values.tobytes())
    close(read_weights(parameters, (3, 2)), values)
    with pytest.raises(ValueError, match=r"wrong number of weights \(found 6, expected 8"):
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

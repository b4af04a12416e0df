"""The layers of Core ML neural networks for volumes: depth, height and width are the last three axes."""

from coreml import kernels
from coreml.neural_network_layers import transposed
from coreml.neural_network_weights import read_weights


def _convolution_3d(p):
    kernel, strides, dilations = (_depth_height_width(p, name) for name in ("kernel", "stride", "dilation"))
    groups = p.nGroups or 1
    bias = read_weights(p.bias, (p.outputChannels,)) if p.hasBias else None
    if p.isDeconvolution:
        weight = read_weights(p.weights, (p.inputChannels, p.outputChannels // groups, *kernel), axis=1)
        fills = p.PaddingType.Name(p.paddingType) == "SAME"
        return transposed(weight, bias, strides, groups, list(p.outputShape), fills, _borders_3d(p))
    weight = read_weights(p.weights, (p.outputChannels, p.inputChannels // groups, *kernel))

    def compute(x):
        padding = _padding_3d(p, p.PaddingType.Name(p.paddingType), x, kernel, strides, dilations)
        return kernels.convolve(x, weight, bias, strides, padding, dilations, groups)

    return compute


def _pooling_3d(p):
    reduction = p.PoolingType3D.Name(p.type).lower()
    kernel, strides = (_depth_height_width(p, name) for name in ("kernel", "stride"))

    def compute(x):
        padding = _padding_3d(p, p.Pooling3DPaddingType.Name(p.paddingType), x, kernel, strides)
        return kernels.pool(x, reduction, kernel, strides, padding, p.countExcludePadding)

    return compute


def _depth_height_width(p, name):
    return [getattr(p, f"{name}{side}") or 1 for side in ("Depth", "Height", "Width")]


def _padding_3d(p, kind, x, kernel, strides, dilations=None):
    if kind == "SAME":
        return kernels.same_padding(x.shape[-3:], kernel, strides, dilations)
    return _borders_3d(p) if kind == "CUSTOM" else [(0, 0)] * 3


def _borders_3d(p):
    sides = (("Front", "Back"), ("Top", "Bottom"), ("Left", "Right"))
    return [tuple(getattr(p, f"customPadding{side}") for side in pair) for pair in sides]


LAYERS = {"convolution3d": _convolution_3d, "pooling3d": _pooling_3d}  # as in `coreml.neural_network_layers`

"""The layers of Core ML neural networks for volumes against SciPy and sums written out."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from pixelwise import close, random
from scipy.signal import correlate

from coreml.neural_network_layers_3d import LAYERS

pytest.importorskip("coremltools")
from coremltools.proto.NeuralNetwork_pb2 import Convolution3DLayerParams, Pooling3DLayerParams

X = random(1, 2, 4, 6, 5)
BIAS = random(3, seed=1)


def sides(name, *values):
    """Fields of a size along depth, height and width."""
    return {f"{name}{side}": value for side, value in zip(("Depth", "Height", "Width"), values, strict=True)}


def padding(*amounts):
    names = ("Front", "Back", "Top", "Bottom", "Left", "Right")
    return {f"customPadding{name}": amount for name, amount in zip(names, amounts, strict=True)}


def weights(array):
    return {"floatValue": array.ravel().tolist()}


@pytest.mark.parametrize(
    ("fields", "borders"),
    [
        ({"paddingType": "VALID"}, [(0, 0)] * 3),
        ({"paddingType": "CUSTOM", **padding(1, 0, 2, 1, 0, 1)}, [(1, 0), (2, 1), (0, 1)]),
        ({"paddingType": "SAME"}, [(0, 1), (0, 1), (0, 1)]),  # 4, 6, 5 voxels to 2, 3, 5
    ],
)
def test_a_convolution_is_the_correlation_of_scipy(fields, borders):
    kernel = random(3, 2, 3, 3, 2, seed=2)
    sizes = {"outputChannels": 3, "inputChannels": 2, **sides("kernel", 3, 3, 2), **sides("stride", 2, 2, 1)}
    p = Convolution3DLayerParams(**sizes, **fields, hasBias=True, weights=weights(kernel), bias=weights(BIAS))
    padded = np.pad(X[0], [(0, 0), *borders])
    expected = np.stack([correlate(padded, of_channel, "valid")[0, ::2, ::2] for of_channel in kernel])
    close(LAYERS["convolution3d"](p)(X), (expected + BIAS.reshape(-1, 1, 1, 1))[None])


def test_a_convolution_has_groups_and_dilation():
    kernel = random(2, 1, 2, 2, 2, seed=3)
    sizes = {"outputChannels": 2, "inputChannels": 2, "nGroups": 2, **sides("kernel", 2, 2, 2)}
    p = Convolution3DLayerParams(**sizes, **sides("dilation", 2, 3, 1), paddingType="VALID", weights=weights(kernel))
    spread = np.zeros((2, 3, 4, 2))
    spread[:, ::2, ::3] = kernel[:, 0]
    expected = [correlate(image, part, "valid") for image, part in zip(X[0], spread, strict=True)]
    close(LAYERS["convolution3d"](p)(X), np.stack(expected)[None])


@pytest.mark.parametrize("fields", [{"paddingType": "SAME"}, {"outputShape": [8, 12, 10]}, {"paddingType": "VALID"}])
def test_a_transposed_convolution_spreads_each_voxel(fields):
    kernel = random(2, 3, 2, 2, 2, seed=4)
    sizes = {"outputChannels": 3, "inputChannels": 2, **sides("kernel", 2, 2, 2), **sides("stride", 2, 2, 2)}
    p = Convolution3DLayerParams(
        **sizes, **fields, isDeconvolution=True, hasBias=True, weights=weights(kernel), bias=weights(BIAS)
    )
    expected = np.einsum("izyx,ioabc->ozaybxc", X[0], kernel).reshape(3, 8, 12, 10)
    close(LAYERS["convolution3d"](p)(X), (expected + BIAS.reshape(-1, 1, 1, 1))[None])


@pytest.mark.parametrize(
    ("kind", "function", "outside", "excluded"),
    [("MAX", np.max, -np.inf, False), ("AVERAGE", np.mean, 0, False), ("AVERAGE", np.nanmean, np.nan, True)],
)
def test_pooling_is_of_windows(kind, function, outside, excluded):
    sizes = {**sides("kernel", 2, 3, 2), **sides("stride", 2, 1, 2), **padding(0, 0, 1, 1, 1, 0)}
    p = Pooling3DLayerParams(type=kind, paddingType="CUSTOM", countExcludePadding=excluded, **sizes)
    padded = np.pad(X[0].astype(float), [(0, 0), (0, 0), (1, 1), (1, 0)], constant_values=outside)
    windows = sliding_window_view(padded, (2, 3, 2), (1, 2, 3))[:, ::2, :, ::2]
    close(LAYERS["pooling3d"](p)(X), function(windows, axis=(-3, -2, -1))[None])

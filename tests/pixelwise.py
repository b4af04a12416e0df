"""Core ML arithmetic computed pixel by pixel, and the arrays that it is tested with."""

import math

import numpy as np


def random(*shape, seed=0, low=-2.0, high=2.0):
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


X = random(1, 4, 6, 5)
POSITIVE = np.abs(X) + np.float32(0.1)
W = random(6, 4, 3, 2, seed=1)
UP = random(4, 3, 3, 2, seed=4)
BIAS = random(6, seed=5)
C = random(4, seed=6)
V = np.abs(random(4, seed=7)) + np.float32(0.1)
Y = random(1, 4, 6, 5, seed=8)
NORM = (X - V.reshape(-1, 1, 1)) / np.sqrt(V + 1e-3).reshape(-1, 1, 1) * C.reshape(-1, 1, 1) + C.reshape(-1, 1, 1)


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

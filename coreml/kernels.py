"""The arithmetic that both kinds of Core ML model share: channels first, (N, C, *spatial), in float32.

Convolutions are those of Keras' backend; everything else is NumPy. Padding is always explicit here: the readers work
it out from what the file says.
"""

import math

import numpy as np


def same_padding(sizes, kernel, strides, dilations=None, more_at_end=True):
    """Padding that keeps ceil(size / stride) pixels.

    Args:
        sizes: spatial sizes.
        kernel, strides, dilations: one number a spatial axis.
        more_at_end: where an odd total puts its odd pixel.

    Returns:
        list of (before, after).
    """
    padding = []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations or [1] * len(sizes), strict=True):
        wanted = (math.ceil(size / stride) - 1) * stride + (width - 1) * dilation + 1
        total = max(0, wanted - size)
        padding.append((total // 2, total - total // 2) if more_at_end else (total - total // 2, total // 2))
    return padding


def pad_spatial(x, padding, value=0.0):
    """Pad the last axes of x; `padding` holds (before, after) for each."""
    padding = [(0, 0)] * (x.ndim - len(padding)) + list(padding)
    return np.pad(x, padding, constant_values=value) if any(map(any, padding)) else x


def convolve(x, weight, bias, strides, padding, dilations, groups):
    """Convolution.

    Args:
        x: (N, C, *spatial).
        weight: (out, C / groups, *kernel).
        bias: (out,) or None.
        strides, dilations: one number a spatial axis.
        padding: list of (before, after).
        groups: int.

    Returns:
        (N, out, *spatial).
    """
    from keras import ops

    channels, rank = x.shape[1], x.ndim - 2
    if groups * weight.shape[1] != channels or weight.shape[0] % groups:
        raise ValueError(f"a kernel of {weight.shape} in {groups} groups does not fit {channels} channels")
    x = to_channels_last(pad_spatial(x, padding))
    spatial = range(2, 2 + rank)
    options = {"padding": "valid", "data_format": "channels_last", "dilation_rate": tuple(dilations)}
    if groups == channels > 1 and rank == 2:  # (out, 1, *kernel) with out = channels * multiplier, channel by channel
        kernel = np.moveaxis(weight.reshape(channels, -1, *weight.shape[2:]), (0, 1), (2, 3))
        y = _depthwise(x, kernel, strides, options)
    else:
        kernel = weight.transpose(*spatial, 1, 0)
        y = ops.convert_to_numpy(ops.conv(x, kernel, tuple(strides), **options))
    return with_bias(to_channels_first(y), bias)


def _depthwise(x, kernel, strides, options):
    from keras import ops

    if len(set(strides)) == 1:
        return ops.convert_to_numpy(ops.depthwise_conv(x, kernel, tuple(strides), **options))
    whole = ops.convert_to_numpy(ops.depthwise_conv(x, kernel, (1, 1), **options))  # backends want equal strides
    return whole[:, :: strides[0], :: strides[1]]


def convolve_transposed(x, weight, bias, strides, padding, groups, sizes=None):
    """Transposed convolution: each pixel adds its kernel, `strides` apart.

    Args:
        x: (N, C, *spatial).
        weight: (C, out / groups, *kernel).
        bias: (out,) or None.
        padding: list of (before, after), which is cut from the result.
        sizes: spatial sizes of the result; None: all that is left.

    Returns:
        (N, out, *spatial).
    """
    from keras import ops

    if weight.shape[0] != x.shape[1] or x.shape[1] % groups:
        raise ValueError(f"a kernel of {weight.shape} in {groups} groups does not fit {x.shape[1]} channels")
    kernels = np.split(weight, groups)
    parts = np.split(x, groups, axis=1)
    results = []
    for part, kernel in zip(parts, kernels, strict=True):
        y = ops.conv_transpose(
            to_channels_last(part),
            kernel.transpose(*range(2, kernel.ndim), 1, 0),
            tuple(strides),
            padding="valid",
            data_format="channels_last",
        )
        results.append(to_channels_first(ops.convert_to_numpy(y)))
    y = np.concatenate(results, axis=1)
    full = [(n - 1) * s + k for n, s, k in zip(x.shape[2:], strides, weight.shape[2:], strict=True)]
    sizes = sizes or [n - before - after for n, (before, after) in zip(full, padding, strict=True)]
    for axis, (n, size, (before, _)) in enumerate(zip(full, sizes, padding, strict=True), start=2):
        if before + size > n:
            raise ValueError(f"a transposed convolution of {n} pixels cannot give {size} from {before} on")
        y = y.take(range(before, before + size), axis=axis)
    return with_bias(y, bias)


def with_bias(y, bias):
    return y if bias is None else y + bias.reshape(-1, *[1] * (y.ndim - 2))


def pool(x, kind, kernel, strides, padding, exclude_padding=False, ceil_mode=False):
    """Pooling.

    Args:
        x: (N, C, *spatial).
        kind: "max", "average" or "l2" (the root of the sum of squares).
        kernel, strides: one number a spatial axis.
        padding: list of (before, after).
        exclude_padding: an average counts the pixels of the image only.
        ceil_mode: a last window may reach beyond the padded image.
    """
    rank = len(kernel)
    outside = -np.inf if kind == "max" else 0.0
    if ceil_mode:
        padded = [n + before + after for n, (before, after) in zip(x.shape[2:], padding, strict=True)]
        missing = [-(n - k) % s for n, k, s in zip(padded, kernel, strides, strict=True)]
        padding = [(before, after + more) for (before, after), more in zip(padding, missing, strict=True)]

    def windows(array, value):
        view = np.lib.stride_tricks.sliding_window_view(
            pad_spatial(array, padding, value), kernel, axis=tuple(range(2, 2 + rank))
        )
        return view[(slice(None), slice(None), *(slice(None, None, s) for s in strides))]

    axes = tuple(range(-rank, 0))
    found = windows(x, outside)
    if kind == "max":
        return found.max(axes)
    if kind == "l2":
        return np.sqrt(np.square(found).sum(axes))
    count = windows(np.ones_like(x), 0.0).sum(axes) if exclude_padding else math.prod(kernel)
    return found.sum(axes) / count


# --- resizing

# Where the pixels of the result lie among those of the source, by the names of ML programs.
ALIGNED, UNALIGNED, DEFAULT, OFFSET = "ALIGN_CORNERS", "UNALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS"


def grid(size, count, mode):
    """Positions of `count` samples among `size` pixels, (count,) float64 within 0..size - 1.

    Args:
        size, count: int.
        mode: one of the names above, or "STRICT_ALIGN_CORNERS".

    Raises:
        ValueError: for another mode.
    """
    i = np.arange(count, dtype=np.float64)
    if mode == ALIGNED and count == 1:
        points = np.array([(size - 1) / 2])
    elif mode in (ALIGNED, "STRICT_ALIGN_CORNERS"):
        points = i * (size - 1) / max(count - 1, 1)
    elif mode == UNALIGNED:
        points = (i + 0.5) * size / count - 0.5
    elif mode == DEFAULT:
        points = i * size / count
    elif mode == OFFSET:
        points = (i + 0.5) * max(1, size - 1) / count
    else:
        raise ValueError(f"sampling mode {mode} is not known")
    return points.clip(0, size - 1)


def resize_bilinear(x, sizes, mode):
    """Resize the last two axes to `sizes` by linear interpolation at the points of `grid`."""
    for axis, count in zip((-2, -1), sizes, strict=True):
        points = grid(x.shape[axis], count, mode)
        before = np.floor(points).astype(int)
        after = np.minimum(before + 1, x.shape[axis] - 1)
        share = (points - before).astype(np.float32)
        share = share[:, None] if axis == -2 else share
        x = x.take(before, axis) * (1 - share) + x.take(after, axis) * share
    return x


def resize_nearest(x, sizes):
    """Resize the last two axes to `sizes`: sample i is pixel floor(i * size / count)."""
    for axis, count in zip((-2, -1), sizes, strict=True):
        x = x.take(np.arange(count) * x.shape[axis] // count, axis)
    return x


# --- single values


def sigmoid(x):
    return (0.5 * (1 + np.tanh(0.5 * x))).astype(np.float32)  # this form does not overflow


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def softplus(x):
    return np.logaddexp(x, np.float32(0))


def normalise(x, mean, variance, gamma, beta, epsilon, axis=1):
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta, one of each a channel; gamma and beta may be None."""
    shape = [1] * x.ndim
    shape[axis] = -1
    factor = 1 / np.sqrt(variance + np.float32(epsilon))
    factor = factor if gamma is None else factor * gamma
    offset = -mean * factor if beta is None else beta - mean * factor
    return x * factor.reshape(shape) + offset.reshape(shape)


def to_channels_last(x):
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def to_channels_first(x):
    return np.moveaxis(x, -1, 1)

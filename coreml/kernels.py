"""The arithmetic that neural networks and ML programs share: channels first, (N, C, *spatial), in float32.

The Keras backend computes the convolutions, NumPy everything else. Padding is always explicit here: the layers and
operations derive it from the file.
"""

import math

import numpy as np


def same_padding(sizes, kernel, strides, dilations=None, more_at_end=True):
    """Padding that keeps ceil(size / stride) pixels.

    Args:
        sizes: spatial sizes.
        kernel, strides, dilations: one number per spatial axis; dilations None: 1.
        more_at_end: whether the extra pixel of an odd total goes to the end.

    Returns:
        list of (before, after).
    """
    padding = []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations or [1] * len(sizes), strict=True):
        needed = (math.ceil(size / stride) - 1) * stride + (width - 1) * dilation + 1
        total = max(0, needed - size)
        padding.append((total // 2, total - total // 2) if more_at_end else (total - total // 2, total // 2))
    return padding


def pad_spatial(x, padding, value=0.0):
    """Pad the last axes of x with `value`; `padding` has (before, after) for each of them."""
    padding = [(0, 0)] * (x.ndim - len(padding)) + list(padding)
    return np.pad(x, padding, constant_values=value) if any(map(any, padding)) else x


def convolve(x, weight, bias, strides, padding, dilations, groups):
    """Convolution.

    Args:
        x: (N, C, *spatial).
        weight: (out, C / groups, *kernel).
        bias: (out,) or None.
        strides, dilations: one number per spatial axis.
        padding: list of (before, after).
        groups: int.

    Returns:
        (N, out, *spatial).

    Raises:
        ValueError: if the kernel does not fit the channels.
    """
    from keras import ops  # after the backend is chosen

    channels, rank = x.shape[1], x.ndim - 2
    if groups * weight.shape[1] != channels or weight.shape[0] % groups:
        raise ValueError(f"kernel {weight.shape} does not fit the input (groups: {groups}, channels: {channels})")
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
    from keras import ops  # after the backend is chosen

    if len(set(strides)) == 1:
        return ops.convert_to_numpy(ops.depthwise_conv(x, kernel, tuple(strides), **options))
    dense = ops.convert_to_numpy(ops.depthwise_conv(x, kernel, (1, 1), **options))  # backends require equal strides
    return dense[:, :: strides[0], :: strides[1]]


def convolve_transposed(x, weight, bias, strides, padding, groups, sizes=None):
    """Transposed convolution: each pixel adds its kernel, `strides` apart.

    Args:
        x: (N, C, *spatial).
        weight: (C, out / groups, *kernel).
        bias: (out,) or None.
        strides: one number per spatial axis.
        padding: list of (before, after) to cut from the result.
        groups: int.
        sizes: spatial sizes of the result; None: everything between the cuts.

    Returns:
        (N, out, *spatial).

    Raises:
        ValueError: if the kernel does not fit the channels, or the sizes do not fit the result.
    """
    from keras import ops  # after the backend is chosen

    if weight.shape[0] != x.shape[1] or x.shape[1] % groups:
        raise ValueError(f"kernel {weight.shape} does not fit the input (groups: {groups}, channels: {x.shape[1]})")
    results = []
    for group, kernel in zip(np.split(x, groups, axis=1), np.split(weight, groups), strict=True):
        y = ops.conv_transpose(
            to_channels_last(group),
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
            raise ValueError(f"a transposed convolution of {n} pixels cannot produce {size}, starting at {before}")
        y = y.take(range(before, before + size), axis=axis)
    return with_bias(y, bias)


def with_bias(y, bias):
    """Add a bias (C,), or None, to y (N, C, *spatial)."""
    return y if bias is None else y + bias.reshape(-1, *[1] * (y.ndim - 2))


def pool(x, reduction, kernel, strides, padding, exclude_padding=False, ceil_mode=False):
    """Pooling.

    Args:
        x: (N, C, *spatial).
        reduction: "max", "average" or "l2" (the root of the sum of squares).
        kernel, strides: one number per spatial axis.
        padding: list of (before, after).
        exclude_padding: whether an average counts only pixels of the image.
        ceil_mode: whether the last window may extend beyond the padded image.

    Returns:
        (N, C, *spatial).
    """
    rank = len(kernel)
    outside = -np.inf if reduction == "max" else 0.0
    if ceil_mode:
        padded = [n + before + after for n, (before, after) in zip(x.shape[2:], padding, strict=True)]
        missing = [-(n - k) % s for n, k, s in zip(padded, kernel, strides, strict=True)]
        padding = [(before, after + extra) for (before, after), extra in zip(padding, missing, strict=True)]

    def windows(array, value):
        view = np.lib.stride_tricks.sliding_window_view(
            pad_spatial(array, padding, value), kernel, axis=tuple(range(2, 2 + rank))
        )
        return view[(slice(None), slice(None), *(slice(None, None, s) for s in strides))]

    axes = tuple(range(-rank, 0))
    values = windows(x, outside)
    if reduction == "max":
        return values.max(axes)
    if reduction == "l2":
        return np.sqrt(np.square(values).sum(axes))
    count = windows(np.ones_like(x), 0.0).sum(axes) if exclude_padding else math.prod(kernel)
    return values.sum(axes) / count


# --- resizing

# Sampling modes of ML programs: source positions of the result's pixels.
ALIGNED, STRICTLY_ALIGNED, UNALIGNED = "ALIGN_CORNERS", "STRICT_ALIGN_CORNERS", "UNALIGN_CORNERS"
DEFAULT, OFFSET = "DEFAULT", "OFFSET_CORNERS"


def sample_positions(size, count, mode):
    """Positions of `count` samples among `size` pixels.

    Args:
        size, count: int.
        mode: a sampling mode.

    Returns:
        (count,) float64 in 0..size - 1, in pixels.

    Raises:
        ValueError: for another mode.
    """
    i = np.arange(count, dtype=np.float64)
    if mode == ALIGNED and count == 1:
        positions = np.array([(size - 1) / 2])
    elif mode in (ALIGNED, STRICTLY_ALIGNED):
        positions = i * (size - 1) / max(count - 1, 1)
    elif mode == UNALIGNED:
        positions = (i + 0.5) * size / count - 0.5
    elif mode == DEFAULT:
        positions = i * size / count
    elif mode == OFFSET:
        positions = (i + 0.5) * max(1, size - 1) / count
    else:
        raise ValueError(f"sampling mode {mode} is not supported")
    return positions.clip(0, size - 1)


def resize_bilinear(x, sizes, mode):
    """Resize the last two axes to `sizes` by linear interpolation at `sample_positions` of a mode."""
    for axis, count in zip((-2, -1), sizes, strict=True):
        positions = sample_positions(x.shape[axis], count, mode)
        before = np.floor(positions).astype(int)
        after = np.minimum(before + 1, x.shape[axis] - 1)
        fraction = (positions - before).astype(np.float32)
        fraction = fraction[:, None] if axis == -2 else fraction
        x = x.take(before, axis) * (1 - fraction) + x.take(after, axis) * fraction
    return x


def resize_nearest(x, sizes):
    """Resize the last two axes to `sizes`: sample i is pixel floor(i * size / count)."""
    for axis, count in zip((-2, -1), sizes, strict=True):
        x = x.take(np.arange(count) * x.shape[axis] // count, axis)
    return x


# --- activations, with the parameters of ML program operations


def relu(x):
    return np.maximum(x, 0)


def leaky_relu(x, alpha):
    return np.where(x >= 0, x, alpha * x)


def thresholded_relu(x, alpha):
    return np.where(x >= alpha, x, 0)


def elu(x, alpha):
    return np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0)))


def linear_activation(x, alpha, beta):
    return alpha * x + beta


def sigmoid(x):
    return (0.5 * (1 + np.tanh(0.5 * x))).astype(np.float32)  # this form does not overflow


def sigmoid_hard(x, alpha, beta):
    return np.clip(alpha * x + beta, 0, 1)


def scaled_tanh(x, alpha, beta):
    return alpha * np.tanh(beta * x)


def softplus(x):
    return np.logaddexp(x, np.float32(0))


def softsign(x):
    return x / (1 + np.abs(x))


def softmax(x, axis):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def erf(x):
    return np.vectorize(math.erf, otypes=[np.float32])(x)


def gelu(x, mode):
    """Gaussian error linear unit (Hendrycks and Gimpel 2016, arXiv:1606.08415).

    Raises:
        ValueError: for an unknown mode.
    """
    match mode:
        case "TANH_APPROXIMATION":
            return 0.5 * x * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (x + 0.044715 * x**3)))
        case "SIGMOID_APPROXIMATION":
            return x * sigmoid(1.702 * x)
        case "EXACT":
            return 0.5 * x * (1 + erf(x / np.sqrt(2)))
    raise ValueError(f"{mode} is not supported")


# --- reductions


def sum_of_squares(x, axis, keepdims):
    return np.square(x).sum(axis, keepdims=keepdims)


def root_of_sum_of_squares(x, axis, keepdims):
    return np.sqrt(sum_of_squares(x, axis, keepdims))


# --- normalization and layout


def normalize(x, mean, variance, gamma, beta, epsilon, axis=1):
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta, each (C,) along `axis`; gamma and beta may be None."""
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

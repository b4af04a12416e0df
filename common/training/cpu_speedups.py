"""Train any network faster with TensorFlow on a CPU, using other operations with the same results.

The layers stay Keras' own, with their weights and configurations, and so do model files. In training, and all but
dropout in validation, some layers use operations that TensorFlow with oneDNN computes fast. In bfloat16,
convolutions stay as they are: on a CPU that computes it, they are as fast as the CPU can multiply. Nothing changes on
other backends and devices, and in float16. Models loaded for prediction have other operations: see
`common.prediction.cpu_speedups`. Only dropout does not give the same results: see `dropout`.
"""

from functools import partial

import keras
import numpy as np
from keras import layers

from common.devices import has_avx512, is_tensorflow_on_cpu
from common.words import number_of

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

KERAS = "3.15"  # version whose layers are changed here; other versions may call them differently
# Minimum side and channels of feature maps for which another operation is faster than TensorFlow's own.
WINOGRAD_FROM = 12, 64  # convolutions with kernels of 3 x 3
KERNEL_GRADIENT_FROM = 40, 16  # kernel gradients by matrix products, on CPUs without AVX-512
DTYPES = "float32", "bfloat16"  # in which batch normalization and dropout are changed
CACHED_ROWS = 6000  # maximum rows per matrix product, so that the matrices stay in a core's cache


def speed_up(model):
    """Speed up the training of a model if the backend is TensorFlow and there is only a CPU.

    Args:
        model: keras.Model; changes layers of Keras' own classes in place, also in nested models.
    """
    for layer, method, function in _replacements(model):
        setattr(layer, method, partial(function, layer))


def speedups_in_words(model):
    """Describe for environment.txt what `speed_up` changes in a model: lines of text, or "" if nothing."""
    if not is_tensorflow_on_cpu():
        return ""
    if not _is_keras_known():
        return f"CPU speedups: off (made for Keras {KERAS}, found {keras.__version__})\n"
    changed = [layer for layer, _, _ in _replacements(model)]
    number = number_of(len(changed), "layer")
    lines = [f"CPU speedups in {number}: training uses operations that round differently from Keras'"]
    rates = sorted({layer.rate for layer in changed if isinstance(layer, layers.Dropout)})
    lines += [f"dropout {rate:g}: drops different elements than Keras, {round(256 * rate)} of 256" for rate in rates]
    return "\n".join(lines) + "\n" if changed else ""


def are_used():
    """Whether TensorFlow computes on a CPU, and this module knows the layers of the installed Keras."""
    return is_tensorflow_on_cpu() and _is_keras_known()


def _is_keras_known():
    return keras.__version__.split(".")[:2] == KERAS.split(".")


def _replacements(model):
    """(layer, method name, function of the layer and the method's arguments) for each layer to change."""
    if not are_used():
        return
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _replacements(layer)
        elif type(layer) is layers.Conv2D and is_plain_convolution(layer):
            yield layer, "convolution_op", _convolution_op
        elif type(layer) is layers.BatchNormalization and layer.scale and layer.center and layer.axis in (-1, 3):
            yield layer, "call", _batch_normalization
        elif type(layer) is layers.Dropout and layer.noise_shape is None and 1 / 512 <= layer.rate <= 511 / 512:
            yield layer, "call", _dropout


def is_plain_convolution(layer):
    """Whether a layer has an odd kernel larger than 1, stride 1, no dilation or groups, and zero padding."""
    options = layer.strides, layer.dilation_rate, layer.padding, layer.groups, layer.data_format
    odd = all(side % 2 for side in layer.kernel_size) and max(layer.kernel_size) > 1
    return odd and options == ((1, 1), (1, 1), "same", 1, "channels_last")


def _convolution_op(layer, inputs, kernel):
    _, height, width, channels = inputs.shape
    side, fewest = min(height or 0, width or 0), min(channels, layer.filters)

    def reaches(limit):
        return inputs.dtype == "float32" and side >= limit[0] and fewest >= limit[1]

    if layer.kernel_size == (3, 3) and reaches(WINOGRAD_FROM):
        return convolve_winograd(inputs, kernel)
    if reaches(KERNEL_GRADIENT_FROM) and not has_avx512():
        return convolve(inputs, kernel)
    return type(layer).convolution_op(layer, inputs, kernel)


def _batch_normalization(layer, inputs, training=None, mask=None):
    usual = mask is None and len(inputs.shape) == 4 and inputs.dtype in DTYPES
    several = tf.distribute.get_strategy().num_replicas_in_sync > 1  # see common.training.mirrored
    if several or not usual:
        return type(layer).call(layer, inputs, training=training, mask=mask)
    if not (training and layer.trainable):
        moments = {"mean": layer.moving_mean, "variance": layer.moving_variance}
        return normalize(inputs, layer.gamma, layer.beta, layer.epsilon, **moments)[0]
    outputs, *moments = normalize(inputs, layer.gamma, layer.beta, layer.epsilon)
    for moving, new in zip((layer.moving_mean, layer.moving_variance), moments, strict=True):
        moving.assign(moving * layer.momentum + new * (1 - layer.momentum))
    return outputs


def _dropout(layer, inputs, training=False):
    if not training or inputs.dtype not in DTYPES:
        return type(layer).call(layer, inputs, training=training)
    return dropout(inputs, layer.rate, layer.seed_generator.next())


# --- operations, in TensorFlow


def convolve(images, kernel):
    """Convolution with stride 1, padding "same" and an odd kernel.

    Args:
        images: (B, H, W, C) float32.
        kernel: (h, w, C, D) float32, h and w odd.

    Returns:
        (B, H, W, D) float32.
    """
    # as a tensor, since custom_gradient does not know the gradient of a variable
    return tf.custom_gradient(_convolve)(images, tf.convert_to_tensor(kernel))


def _convolve(images, kernel):
    def gradients(upstream):
        back = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(images), filter=kernel, out_backprop=upstream, strides=[1, 1, 1, 1], padding="SAME"
        )
        return back, kernel_gradient(images, upstream, kernel.shape[:2])

    return tf.nn.conv2d(images, kernel, 1, "SAME"), gradients


def kernel_gradient(images, upstream, size):
    """Gradient of the kernel of `convolve`: a matrix product for each kernel position.

    With zeros around all images and their pixels in one long row, a kernel position is a shift along that row. The row
    is multiplied in blocks.

    Args:
        images: (B, H, W, C) with known H, W and C.
        upstream: (B, H, W, D), gradient of the output.
        size: (h, w) of the kernel.

    Returns:
        (h, w, C, D).
    """
    down, across = (side + extent - 1 for side, extent in zip(images.shape[1:3], size, strict=True))
    lines = max(n for n in range(1, down + 1) if down % n == 0 and n * across <= max(CACHED_ROWS, across))
    margins = [[0, 1], [size[0] // 2] * 2, [size[1] // 2] * 2, [0, 0]]  # with an extra image of zeros to shift into
    behind = [[0, 0], [0, size[0] - 1], [0, size[1] - 1], [0, 0]]
    pixels = tf.reshape(tf.pad(images, margins), [-1, images.shape[-1]])
    upstream_blocks = tf.reshape(tf.pad(upstream, behind), [-1, lines * across, upstream.shape[-1]])
    count = tf.shape(pixels)[0] - down * across

    def product(shift):
        block = tf.reshape(pixels[shift : shift + count], [-1, lines * across, images.shape[-1]])
        return tf.reduce_sum(tf.matmul(block, upstream_blocks, transpose_a=True), 0)

    products = [product(y * across + x) for y in range(size[0]) for x in range(size[1])]
    return tf.reshape(tf.stack(products), [*size, images.shape[-1], upstream.shape[-1]])


def convolve_winograd(images, kernel):
    """`convolve` with a 3 x 3 kernel, by Winograd's F(4x4, 3x3) with a quarter of the multiplications.

    Each tile of 6 x 6 pixels gives 4 x 4 output pixels, by one matrix product for each of 36 combinations of its pixels
    (Lavin and Gray, arXiv 1509.09308). Rounding errors are about 1e-6 of the standard deviation of the output.
    """
    return tf.custom_gradient(_convolve_winograd)(images, tf.convert_to_tensor(kernel))


def _convolve_winograd(images, kernel):
    tiles = _tiles(images)

    def gradients(upstream):
        turned = tf.transpose(kernel[::-1, ::-1], [0, 1, 3, 2])
        back = _combine(_tiles(upstream), turned, images.shape)
        products = _transform(OF_PRODUCTS.T, _squares(upstream))
        return back, tf.reshape(_transform(OF_KERNEL.T, tf.matmul(tiles, products, transpose_a=True)), kernel.shape)

    return _combine(tiles, kernel, images.shape), gradients


def _transform_matrices(points=(0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)):
    """Matrices (36, 36) for the pixels of a tile, (36, 9) for a kernel, and (16, 36) for the products of both.

    The Cook-Toom construction evaluates polynomials at these points and at infinity. The points lose less precision in
    float32 than 0, 1, -1, 2 and -2 (compare Barabasz et al., arXiv 1803.10986).
    """

    def values(count):
        return np.array([[point**k for k in range(count)] for point in points] + [[0] * (count - 1) + [1]])

    scale = np.array([[np.prod([p - q for q in points if q != p])] for p in points] + [[1]])
    of_tile, of_kernel, of_products = np.linalg.inv(values(6)).T * scale, values(3) / scale, values(4).T
    return [np.kron(matrix, matrix).astype(np.float32) for matrix in (of_tile, of_kernel, of_products)]


OF_TILE, OF_KERNEL, OF_PRODUCTS = _transform_matrices()


def _transform(matrix, x):
    """Multiply a matrix (M, N) with the leading axes of x, which have N elements; returns (M, rows, channels)."""
    return tf.reshape(tf.matmul(matrix, tf.reshape(x, [matrix.shape[1], -1])), [len(matrix), -1, x.shape[-1]])


def _squares(images, margin=0):
    """Images as squares of 4 x 4 pixels, (4, 4, B, h, w, C); zeros pad `margin` pixels before, the rest after."""
    sides = [-(-side // 4) + margin for side in images.shape[1:3]]
    margins = [[margin, 4 * n - side - margin] for n, side in zip(sides, images.shape[1:3], strict=True)]
    padded = tf.pad(images, [[0, 0], *margins, [0, 0]])
    squares = tf.reshape(padded, [-1, sides[0], 4, sides[1], 4, images.shape[-1]])
    return tf.transpose(squares, [2, 4, 0, 1, 3, 5])


def _tiles(images):
    """Transformed tiles of 6 x 6 pixels that overlap by two: (36, tiles, C)."""
    squares = _squares(images, 1)
    squares = tf.concat([squares[:, :, :, :-1], squares[:2, :, :, 1:]], 0)
    return _transform(OF_TILE, tf.concat([squares[:, :, :, :, :-1], squares[:, :2, :, :, 1:]], 1))


def _combine(tiles, kernel, shape):
    """Images from transformed tiles and a kernel (3, 3, C, D): (B, H, W, D), with H and W as in `shape`."""
    height, width = shape[1:3]
    kernels = _transform(OF_KERNEL, kernel)
    pixels = _transform(OF_PRODUCTS, tf.matmul(tiles, kernels))
    squares = tf.reshape(pixels, [4, 4, -1, -(-height // 4), -(-width // 4), kernel.shape[-1]])
    images = tf.transpose(squares, [2, 3, 0, 4, 1, 5])
    return tf.reshape(images, [-1, 4 * squares.shape[3], 4 * squares.shape[4], kernel.shape[-1]])[:, :height, :width]


def normalize(x, scale, offset, epsilon, mean=None, variance=None):
    """Batch normalization over all axes except the last.

    Args:
        x: (B, H, W, C) float32 or bfloat16; sums are float32.
        scale, offset: (C,) float32.
        epsilon: added to the variance.
        mean, variance: (C,) float32, for validation; None: those of the batch.

    Returns:
        The output, and mean and variance of the batch, both (C,).
    """
    options = {"epsilon": epsilon, "is_training": mean is None}
    y, mean, variance = tf.compat.v1.nn.fused_batch_norm(x, scale, offset, mean, variance, **options)
    count = tf.cast(tf.reduce_prod(tf.shape(x)[:-1]), tf.float32)
    return y, mean, variance * (count - 1) / count  # TensorFlow returns the sample variance


def dropout(x, rate, seed):
    """Dropout with one random byte per element, so the rate is rounded to a multiple of 1 / 256.

    Drops different elements than Keras, at the same rate.

    Args:
        x: float32 or bfloat16 of any shape.
        rate: share to drop, at least 1 / 512 and at most 511 / 512.
        seed: two int32.

    Returns:
        x with dropped elements 0, and the others divided by the share kept.
    """
    dropped = round(256 * rate)
    size = tf.size(x)
    words = tf.random.stateless_uniform([(size + 3) // 4], seed, None, None, tf.int32)
    kept = tf.reshape(tf.reshape(tf.bitcast(words, tf.uint8), [-1])[:size], tf.shape(x)) >= dropped
    return _keep(x, kept, 256 / (256 - dropped))


def _keep(x, kept, factor):
    factor, zero = tf.cast(factor, x.dtype), tf.zeros([], x.dtype)

    def select(x):
        def gradient(upstream):
            return tf.where(kept, upstream * factor, zero)

        return tf.where(kept, x * factor, zero), gradient

    return tf.custom_gradient(select)(x)

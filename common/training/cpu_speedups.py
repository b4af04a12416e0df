"""Faster training of any network with TensorFlow on a CPU, by other operations with the same results.

The layers stay Keras' own, with their weights and configurations, and so do the files of a model. Only what some of
them compute in training (and a Winograd convolution in validation too) is put together from operations that
TensorFlow with oneDNN computes fast in float32. On other backends and devices, in half precision, and in a model that
was loaded to predict, nothing changes. Dropout is the exception to "the same results": see `dropout`.
"""

from functools import partial

import keras
import numpy as np
from keras import layers

from common.devices import is_tensorflow_on_cpu

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

KERAS = "3.15"  # version whose layers are changed here; later ones may call them in another way
# Smallest side and fewest channels of the feature maps for which another operation is faster than TensorFlow's own.
WINOGRAD_FROM = 12, 64  # convolutions with kernels of 3 x 3
KERNEL_GRADIENT_FROM = 40, 16  # gradients of kernels by products of matrices
CACHED_ROWS = 6000  # of the matrices that are multiplied at a time, at most: they stay in a core's cache


def speed_up(model):
    """Let a model train faster if the backend is TensorFlow and there is only a CPU.

    Args:
        model: keras.Model; its layers of Keras' own classes are changed in place, also those of models within.
    """
    for layer, method, function in _replacements(model):
        setattr(layer, method, partial(function, layer))


def speedups_in_words(model):
    """What `speed_up` changes in a model, for environment.txt: lines of text, or "" for nothing."""
    if not is_tensorflow_on_cpu():
        return ""
    if not _is_keras_known():
        return f"CPU speedups off: made for Keras {KERAS}, not {keras.__version__}\n"
    changed = [layer for layer, _, _ in _replacements(model)]
    lines = [f"CPU speedups in {len(changed)} layers: training uses operations that round differently from Keras'"]
    rates = sorted({layer.rate for layer in changed if isinstance(layer, layers.Dropout)})
    lines += [f"dropout {rate:g}: drops other elements than Keras, {round(256 * rate)} of 256" for rate in rates]
    return "\n".join(lines) + "\n" if changed else ""


def _is_keras_known():
    return keras.__version__.split(".")[:2] == KERAS.split(".")


def _replacements(model):
    """(layer, name of its method, function of the layer and the method's arguments) for each layer to change."""
    if not is_tensorflow_on_cpu() or not _is_keras_known():
        return
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _replacements(layer)
        elif type(layer) is layers.Conv2D and _is_plain_convolution(layer):
            yield layer, "convolution_op", _convolution_op
        elif type(layer) is layers.BatchNormalization and layer.scale and layer.center and layer.axis in (-1, 3):
            yield layer, "call", _batch_normalization
        elif type(layer) is layers.Dropout and layer.noise_shape is None and 1 / 512 <= layer.rate <= 511 / 512:
            yield layer, "call", _dropout


def _is_plain_convolution(layer):
    """Whether its kernel is odd and larger than 1, at every pixel, with zeros around the images."""
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
    if reaches(KERNEL_GRADIENT_FROM):
        return convolve(inputs, kernel)
    return type(layer).convolution_op(layer, inputs, kernel)


def _batch_normalization(layer, inputs, training=None, mask=None):
    usual = mask is None and len(inputs.shape) == 4 and inputs.dtype == "float32"
    if not (training and layer.trainable and usual):
        return type(layer).call(layer, inputs, training=training, mask=mask)
    outputs, *moments = normalize(inputs, layer.gamma, layer.beta, layer.epsilon)
    for moving, new in zip((layer.moving_mean, layer.moving_variance), moments, strict=True):
        moving.assign(moving * layer.momentum + new * (1 - layer.momentum))
    return outputs


def _dropout(layer, inputs, training=False):
    if not training or inputs.dtype != "float32":
        return type(layer).call(layer, inputs, training=training)
    return dropout(inputs, layer.rate, layer.seed_generator.next())


# --- operations, in TensorFlow


def convolve(images, kernel):
    """Convolution of stride 1 and padding "same" with an odd kernel.

    Args:
        images: (B, H, W, C) float32.
        kernel: (h, w, C, D) float32, h and w odd.

    Returns:
        (B, H, W, D) float32.
    """
    # as a tensor, since the gradient of a variable would not be known
    return tf.custom_gradient(_convolve)(images, tf.convert_to_tensor(kernel))


def _convolve(images, kernel):
    def gradients(upstream):
        back = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(images), filter=kernel, out_backprop=upstream, strides=[1, 1, 1, 1], padding="SAME"
        )
        return back, kernel_gradient(images, upstream, kernel.shape[:2])

    return tf.nn.conv2d(images, kernel, 1, "SAME"), gradients


def kernel_gradient(images, upstream, size):
    """Gradient of the kernel of `convolve`: a product of matrices for each of its places.

    With a margin of zeros around all images, and their pixels in one long row, a place of the kernel is a shift along
    that row. The products are of blocks of it.

    Args:
        images: (B, H, W, C), of known H, W and C.
        upstream: (B, H, W, D), the gradient of what came out.
        size: (h, w) of the kernel.

    Returns:
        (h, w, C, D).
    """
    down, across = (side + extent - 1 for side, extent in zip(images.shape[1:3], size, strict=True))
    lines = max(n for n in range(1, down + 1) if down % n == 0 and n * across <= max(CACHED_ROWS, across))
    margins = [[0, 1], [size[0] // 2] * 2, [size[1] // 2] * 2, [0, 0]]  # and an image of zeros to shift into
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
    """`convolve` with a kernel of 3 x 3, by Winograd's F(4x4, 3x3): with a fourth of the multiplications.

    Of each tile of 6 x 6 pixels come 4 x 4, by one product of matrices for each of 36 combinations of its pixels
    (Lavin and Gray, arXiv 1509.09308). Rounding errors are some 1e-6 of the standard deviation of what comes out.
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
    """Matrices (36, 36) of the pixels of a tile, (36, 9) of a kernel, and (16, 36) of the products of both.

    By the construction of Cook and Toom, from the values of polynomials at points and at infinity; these points lose
    less in float32 than 0, 1, -1, 2 and -2 (compare Barabasz et al., arXiv 1803.10986).
    """

    def values(count):
        return np.array([[point**k for k in range(count)] for point in points] + [[0] * (count - 1) + [1]])

    scale = np.array([[np.prod([p - q for q in points if q != p])] for p in points] + [[1]])
    of_tile, of_kernel, of_products = np.linalg.inv(values(6)).T * scale, values(3) / scale, values(4).T
    return [np.kron(matrix, matrix).astype(np.float32) for matrix in (of_tile, of_kernel, of_products)]


OF_TILE, OF_KERNEL, OF_PRODUCTS = _transform_matrices()


def _transform(matrix, x):
    """Product of a matrix (M, N) and the first axes of x, N elements, and its last two: (M, rows, channels)."""
    return tf.reshape(tf.matmul(matrix, tf.reshape(x, [matrix.shape[1], -1])), [len(matrix), -1, x.shape[-1]])


def _squares(images, margin=0):
    """Images as squares of 4 x 4 pixels, (4, 4, B, h, w, C); with a margin of zeros before, and as many behind."""
    sides = [-(-side // 4) + margin for side in images.shape[1:3]]
    margins = [[margin, 4 * n - side - margin] for n, side in zip(sides, images.shape[1:3], strict=True)]
    padded = tf.pad(images, [[0, 0], *margins, [0, 0]])
    squares = tf.reshape(padded, [-1, sides[0], 4, sides[1], 4, images.shape[-1]])
    return tf.transpose(squares, [2, 4, 0, 1, 3, 5])


def _tiles(images):
    """Transformed tiles of 6 x 6 pixels, which overlap by two: (36, tiles, C)."""
    squares = _squares(images, 1)
    squares = tf.concat([squares[:, :, :, :-1], squares[:2, :, :, 1:]], 0)
    return _transform(OF_TILE, tf.concat([squares[:, :, :, :, :-1], squares[:, :2, :, :, 1:]], 1))


def _combine(tiles, kernel, shape):
    """The images that transformed tiles and a kernel (3, 3, C, D) give: (B, H, W, D), of H and W as in `shape`."""
    height, width = shape[1:3]
    kernels = _transform(OF_KERNEL, kernel)
    pixels = _transform(OF_PRODUCTS, tf.matmul(tiles, kernels))
    squares = tf.reshape(pixels, [4, 4, -1, -(-height // 4), -(-width // 4), kernel.shape[-1]])
    images = tf.transpose(squares, [2, 3, 0, 4, 1, 5])
    return tf.reshape(images, [-1, 4 * squares.shape[3], 4 * squares.shape[4], kernel.shape[-1]])[:, :height, :width]


def normalize(x, scale, offset, epsilon):
    """Batch normalization over all axes but the last, as in training.

    Args:
        x: (B, H, W, C) float32.
        scale, offset: (C,).
        epsilon: added to the variance.

    Returns:
        What comes out, mean and variance of the batch, (C,) both.
    """
    y, mean, variance = tf.compat.v1.nn.fused_batch_norm(x, scale, offset, epsilon=epsilon, is_training=True)
    count = tf.cast(tf.reduce_prod(tf.shape(x)[:-1]), tf.float32)
    return y, mean, variance * (count - 1) / count  # it has that of a sample


def dropout(x, rate, seed):
    """Dropout, decided by one random byte per element, so that the rate is rounded to a multiple of 1 / 256.

    Args:
        x: float32 of any shape.
        rate: share to drop, at least 1 / 512 and at most 511 / 512.
        seed: two int32.

    Returns:
        Zeros, and the others divided by the share that is kept.
    """
    dropped = round(256 * rate)
    size = tf.size(x)
    words = tf.random.stateless_uniform([(size + 3) // 4], seed, None, None, tf.int32)
    kept = tf.reshape(tf.reshape(tf.bitcast(words, tf.uint8), [-1])[:size], tf.shape(x)) >= dropped
    return _keep(x, kept, 256 / (256 - dropped))


def _keep(x, kept, factor):
    def select(x):
        def gradient(upstream):
            return tf.where(kept, upstream * factor, 0.0)

        return tf.where(kept, x * factor, 0.0), gradient

    return tf.custom_gradient(select)(x)

"""Operations that TensorFlow computes slowly on a CPU, put together from such as it computes fast; same results.

Measured with float32 and oneDNN: of a step of a U-net, the gradients of the kernels took half, though they are a third
of the operations; normalising, rectifying and dropping out took a third. See `tests/benchmarks/layers.py`.
"""

import tensorflow as tf

ROWS = 4096  # of the matrices that are multiplied at a time: they stay in a core's cache


def convolve(images, kernel):
    """Convolution of stride 1 and padding "same" with an odd kernel.

    Args:
        images: (B, H, W, C) float32.
        kernel: (h, w, C, D) float32, h and w odd.

    Returns:
        (B, H, W, D) float32.
    """
    return _convolve(images, tf.convert_to_tensor(kernel))  # of a variable the gradient would not be known


@tf.custom_gradient
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
    that row.

    Args:
        images: (B, H, W, C).
        upstream: (B, H, W, D), the gradient of what came out.
        size: (h, w) of the kernel.

    Returns:
        (h, w, C, D).
    """
    height, width = size
    across = tf.shape(images)[2] + width - 1
    margins = [[0, 0], [height // 2] * 2, [width // 2] * 2, [0, 0]]
    behind = [[0, 0], [0, height - 1], [0, width - 1], [0, 0]]
    pixels = tf.reshape(tf.pad(images, margins), [-1, images.shape[-1]])
    slopes = tf.reshape(tf.pad(upstream, behind), [-1, upstream.shape[-1]])
    count = tf.shape(pixels)[0] - (height - 1) * across - (width - 1)  # behind these, the slopes are zeros
    slopes = slopes[:count]
    places = [y * across + x for y in range(height) for x in range(width)]
    products = [_product(pixels[place : place + count], slopes) for place in places]
    return tf.reshape(tf.stack(products), [height, width, images.shape[-1], upstream.shape[-1]])


def _product(a, b):
    """Transpose of (N, C) times (N, D), in blocks of ROWS."""
    whole = tf.shape(a)[0] // ROWS * ROWS
    blocks = [tf.reshape(matrix[:whole], [-1, ROWS, matrix.shape[-1]]) for matrix in (a, b)]
    rest = tf.matmul(a[whole:], b[whole:], transpose_a=True)
    return rest + tf.reduce_sum(tf.matmul(*blocks, transpose_a=True), 0)


def normalise(x, scale, offset, epsilon):
    """Batch normalisation over all axes but the last, as in training.

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


def drop(x, rate, seed):
    """Drop-out, decided by a byte for each element: in steps of 1 / 256 of a rate.

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
    @tf.custom_gradient
    def select(x):
        def gradient(upstream):
            return tf.where(kept, upstream * factor, 0.0)

        return tf.where(kept, x * factor, 0.0), gradient

    return select(x)

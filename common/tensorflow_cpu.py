"""Operations that TensorFlow computes slowly on a CPU, put together from such as it computes fast; same results.

They are the gradients of kernels, normalising and dropping out, in float32 and with oneDNN.
"""

import tensorflow as tf

ROWS = 6000  # of the matrices that are multiplied at a time, at most: they stay in a core's cache


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
    that row. The products are of blocks of it.

    Args:
        images: (B, H, W, C), of known H, W and C.
        upstream: (B, H, W, D), the gradient of what came out.
        size: (h, w) of the kernel.

    Returns:
        (h, w, C, D).
    """
    down, across = (side + extent - 1 for side, extent in zip(images.shape[1:3], size, strict=True))
    lines = max(n for n in range(1, down + 1) if down % n == 0 and n * across <= max(ROWS, across))
    margins = [[0, 1], [size[0] // 2] * 2, [size[1] // 2] * 2, [0, 0]]  # and an image of zeros to shift into
    behind = [[0, 0], [0, size[0] - 1], [0, size[1] - 1], [0, 0]]
    pixels = tf.reshape(tf.pad(images, margins), [-1, images.shape[-1]])
    slopes = tf.reshape(tf.pad(upstream, behind), [-1, lines * across, upstream.shape[-1]])
    count = tf.shape(pixels)[0] - down * across

    def product(shift):
        block = tf.reshape(pixels[shift : shift + count], [-1, lines * across, images.shape[-1]])
        return tf.reduce_sum(tf.matmul(block, slopes, transpose_a=True), 0)

    products = [product(y * across + x) for y in range(size[0]) for x in range(size[1])]
    return tf.reshape(tf.stack(products), [*size, images.shape[-1], upstream.shape[-1]])


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

"""Operations that TensorFlow computes slowly on a CPU, put together from such as it computes fast; same results.

They are convolutions and the gradients of their kernels, normalising and dropping out, in float32 and with oneDNN.
"""

import numpy as np
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


def convolve_by_tiles(images, kernel):
    """What `convolve` gives for a kernel of 3 x 3, by Winograd's F(4x4, 3x3): with a fourth of the multiplications.

    Of each tile of 6 x 6 pixels come 4 x 4, by one product of matrices for each of 36 combinations of its pixels
    (Lavin and Gray, arXiv 1509.09308). Rounding errors are some 1e-6 of the standard deviation of what comes out.
    """
    return _convolve_by_tiles(images, tf.convert_to_tensor(kernel))


@tf.custom_gradient
def _convolve_by_tiles(images, kernel):
    tiles = _tiles(images)

    def gradients(upstream):
        turned = tf.transpose(kernel[::-1, ::-1], [0, 1, 3, 2])
        back = _combine(_tiles(upstream), turned, images.shape)
        slopes = _transform(OF_PRODUCTS.T, _squares(upstream))
        return back, tf.reshape(_transform(OF_KERNEL.T, tf.matmul(tiles, slopes, transpose_a=True)), kernel.shape)

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

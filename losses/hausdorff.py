"""Hausdorff distance loss (Karimi and Salcudean, doi 10.1109/TMI.2019.2930068), with distances from dilations."""

from keras import ops

from losses.overlap import foreground, harden
from losses.pixel import mean_of_pixels

CAP = 101  # pixels; larger distances, and distances to an empty mask, count as this


def hausdorff(targets, probabilities, valid=None):
    """Mean of (t - p)^2 (dt^2 + dp^2) over pixels and classes; two (B, H, W, C) float32 to (B,).

    With `valid`, see `losses.pixel`, targets and probabilities are 0 elsewhere.

    dt and dp are a pixel's distances to the mask and to the thresholded prediction, divided by CAP; see `distances`.
    They have no gradient.
    """
    errors = ops.square(foreground(targets) - foreground(probabilities))
    masks = ops.concatenate([foreground(targets), foreground(harden(probabilities))], axis=-1)
    squares = ops.square(distances(ops.stop_gradient(masks)) / CAP)
    dt, dp = ops.split(squares, 2, axis=-1)
    return mean_of_pixels(ops.mean(errors * (dt + dp), axis=-1), valid)


def distances(masks, cap=CAP):
    """Chessboard distance of every pixel to the mask: 0 inside it, at most `cap`.

    S(m), the sum of a mask's dilations by 0, 1, ... m - 1 pixels, is m minus the distance capped at m. It doubles:
    S(m + k) = S(m) + (S(k) dilated by m) for k <= m, and S(k) = max(S(m) - (m - k), 0). So about log2(cap) dilations
    are enough instead of `cap`. All values are whole numbers, so nothing is rounded.

    Args:
        masks: (B, H, W, C), zeros and ones, float.
        cap: pixels, at least 1.

    Returns:
        (B, H, W, C) whole numbers 0..cap of the same type.
    """
    total, reach = ops.convert_to_tensor(masks), 1  # S(reach)
    while reach < cap:
        more = min(reach, cap - reach)
        total = total + dilate(ops.maximum(total - (reach - more), 0), reach)
        reach += more
    return cap - total


def dilate(images, radius):
    """Maximum in a square of 2 radius + 1 pixels around every pixel; (B, H, W, C), at least 0, to the same shape."""
    for axis in (1, 2):
        images = ops.pad(images, [(radius, radius) if i == axis else (0, 0) for i in range(4)])
        width, full = 1, 2 * radius + 1  # window size; each pixel contains the maximum of its window
        while width < full:
            step = min(width, full - width)
            side = images.shape[axis]
            images = ops.maximum(_cut(images, axis, 0, side - step), _cut(images, axis, step, side))
            width += step
    return images


def _cut(images, axis, start, end):
    return images[:, start:end] if axis == 1 else images[:, :, start:end]

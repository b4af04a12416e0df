"""Dice (Dice 1945, Sorensen 1948) and IoU (Jaccard 1912) of images, and the losses 1 - score.

Slices (B, H, W, C) have one sigmoid channel for one class, or the K + 1 softmax channels of K classes, background
first. Volumes (B, S, H, W, K) have one sigmoid channel per label and none for the background. Overlapping classes never
come here together: `losses.SegmentationLoss` computes a loss for each of them alone.
"""

import keras
from keras import ops

IGNORED = 254  # as `common.slices.classes.IGNORED`


def one_hot_like(y_true, y_pred):
    """Class numbers as channels.

    Args:
        y_true: (B, H, W, 1) or (B, S, H, W, 1), class numbers 0..K of any type, or of slices IGNORED.
        y_pred: (B, H, W, C) or (B, S, H, W, C), probabilities, float.

    Returns:
        Tensor with the shape and type of y_pred; if C is 1, the mask itself.
    """
    channels = y_pred.shape[-1]
    if channels == 1:
        return ops.cast(y_true, y_pred.dtype)
    numbers = ops.cast(y_true[..., 0], "int32") - (0 if has_background(y_pred) else 1)  # for -1, all channels are 0
    return ops.one_hot(numbers, channels, dtype=y_pred.dtype)


def valid_pixels(y_true, y_pred):
    """Where the truth is not IGNORED: (B, H, W) of 0 and 1 in the type of y_pred."""
    return ops.cast(y_true[..., 0] != IGNORED, y_pred.dtype)


def harden(probabilities):
    """Probabilities (..., C) to zeros and ones: 1 in the largest channel.

    Without a background channel, only pixels whose probabilities sum to more than 0.5 have a label.
    """
    above = ops.cast(ops.sum(probabilities, axis=-1, keepdims=True) > 0.5, probabilities.dtype)
    if probabilities.shape[-1] == 1:
        return above
    largest = ops.one_hot(ops.argmax(probabilities, axis=-1), probabilities.shape[-1], dtype=probabilities.dtype)
    return largest if has_background(probabilities) else largest * above


def foreground(channels):
    """Channels of the classes 1..K."""
    return channels[..., 1:] if has_background(channels) else channels


def has_background(channels):
    """Whether the first channel is the background, as in a softmax: only for slices with several classes."""
    return len(channels.shape) == 4 and channels.shape[-1] > 1


# --- scores


def overlap_sums(targets, probabilities):
    """Sums over the pixels of every image and channel.

    Args:
        targets, probabilities: (B, H, W, C) or (B, S, H, W, C) float32 in 0..1.

    Returns:
        sum of t * p, sum of t, sum of p; each (B, C).
    """
    pixels = tuple(range(1, len(targets.shape) - 1))
    return (
        ops.sum(targets * probabilities, axis=pixels),
        ops.sum(targets, axis=pixels),
        ops.sum(probabilities, axis=pixels),
    )


def smoothing(target):
    """Pixels to add to both sides of a score, so that it is 1 if mask and prediction are empty.

    It is nearly 0 if there is a mask. For an empty mask, its inverse is the gradient at an empty prediction, which must
    fit in half precision.
    """
    return ops.where(target > 0, 1e-7, 1e-4)


def dice_of_sums(both, target, prediction):
    """2 sum(t p) / (sum t + sum p); 1 if both are empty."""
    more = smoothing(target)
    return (2 * both + more) / (target + prediction + more)


def iou_of_sums(both, target, prediction):
    """sum(t p) / (sum t + sum p - sum(t p)); 1 if both are empty."""
    more = smoothing(target)
    return (both + more) / (target + prediction - both + more)


def rou_of_sums(both, target, prediction):
    """Residual over union, (sum t - sum(t p)) / (sum t + sum p - sum(t p)): the uncovered part of the mask divided by
    the union; 0 is best, and also the value if both are empty."""
    return (target - both) / (target + prediction - both + smoothing(target))


def tversky_of_sums(both, target, prediction, alpha=0.3, beta=0.7):
    """both / (both + alpha false positives + beta false negatives); 1 if both are empty."""
    missed = alpha * (prediction - both) + beta * (target - both)
    more = smoothing(target)
    return (both + more) / (both + missed + more)


# --- losses


def dice(targets, probabilities):
    """1 - Dice, mean over the classes; shapes as in `overlap_sums`, to (B,). For an empty mask the loss is 0 if the
    prediction is empty too, else nearly 1."""
    sums = overlap_sums(foreground(targets), foreground(probabilities))
    return 1 - ops.mean(dice_of_sums(*sums), axis=-1)


def batch_dice(targets, probabilities):
    """1 - Dice of all images of the batch together, mean over the classes; shapes as in `dice`, with equal values.

    An image with an empty mask counts with its false positives, not with a Dice of its own; small masks weigh less.
    """
    sums = overlap_sums(foreground(targets), foreground(probabilities))
    together = [ops.sum(one, axis=0) for one in sums]
    return ops.zeros_like(sums[0][:, 0]) + 1 - ops.mean(dice_of_sums(*together))


def smooth_dice(targets, probabilities):
    """1 - (2 sum(t p) + 1) / (sum t + sum p + 1), mean over the classes; shapes as in `dice`. The +1 keeps the gradient
    of an absent class small, so that one false positive does not outweigh the other classes."""
    both, target, prediction = overlap_sums(foreground(targets), foreground(probabilities))
    return 1 - ops.mean((2 * both + 1) / (target + prediction + 1), axis=-1)


def smooth_batch_dice(targets, probabilities):
    """`smooth_dice` of all images of the batch together, with equal values; shapes as in `dice`."""
    sums = overlap_sums(foreground(targets), foreground(probabilities))
    both, target, prediction = (ops.sum(one, axis=0) for one in sums)
    return ops.zeros_like(sums[0][:, 0]) + 1 - ops.mean((2 * both + 1) / (target + prediction + 1))


def iou(targets, probabilities):
    """1 - IoU, mean over the classes; shapes and empty masks as in `dice`."""
    sums = overlap_sums(foreground(targets), foreground(probabilities))
    return 1 - ops.mean(iou_of_sums(*sums), axis=-1)


def tversky(targets, probabilities):
    """1 - Tversky index, mean over the classes, with alpha 0.3 and beta 0.7: false negatives weigh more than false
    positives (Salehi et al., arXiv 1706.05721). Shapes and empty masks as in `dice`. Keras' own loss swaps the two, and
    is 1 if mask and prediction are empty."""
    sums = overlap_sums(foreground(targets), foreground(probabilities))
    return 1 - ops.mean(tversky_of_sums(*sums), axis=-1)


def focal_tversky(targets, probabilities, gamma=4 / 3):
    """(1 - Tversky index)^(1 / gamma), mean over the classes (Abraham and Khan, arXiv 1810.07842). Shapes and empty
    masks as in `dice`. Its gradient is unbounded at 0, so it is flat below Keras' epsilon."""
    sums = overlap_sums(foreground(targets), foreground(probabilities))
    missing = ops.maximum(1 - tversky_of_sums(*sums), keras.config.epsilon())
    return ops.mean(ops.power(missing, 1 / gamma), axis=-1)

"""Dice (Dice 1945, Sorensen 1948) and IoU (Jaccard 1912) of images, and the losses that are one minus them.

Slices (B, H, W, C) have one sigmoid channel for one class, or for K classes the K + 1 channels of a softmax, the
background first. Volumes (B, S, H, W, K) have a sigmoid channel for each label, and none for the background.
"""

import keras
from keras import ops


def one_hot_like(y_true, y_pred):
    """Class numbers as channels.

    Args:
        y_true: (B, H, W, 1) or (B, S, H, W, 1), class numbers 0..K of any type.
        y_pred: (B, H, W, C) or (B, S, H, W, C), probabilities, float.

    Returns:
        The shape and type of y_pred; if C is 1, the mask itself.
    """
    channels = y_pred.shape[-1]
    if channels == 1:
        return ops.cast(y_true, y_pred.dtype)
    numbers = ops.cast(y_true[..., 0], "int32") - (0 if has_background(y_pred) else 1)  # of -1, no channel is 1
    return ops.one_hot(numbers, channels, dtype=y_pred.dtype)


def harden(probabilities):
    """Probabilities (..., C) to zeros and ones: the largest of the channels.

    Without a background that is where a label, whichever, is probable: where their sum is above 0.5.
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
    """Whether the first channel is the background: of a softmax, which slices with several classes have."""
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
    """What is added to both sides of a score, in pixels, so that it is 1 where mask and prediction are empty.

    Nearly nothing where there is a mask. For an empty mask its inverse is the slope at an empty prediction, which half
    precision must hold.
    """
    return ops.where(target > 0, 1e-7, 1e-4)


def dice_of_sums(both, target, prediction):
    """2 sum(t p) / (sum t + sum p); 1 where both are empty."""
    more = smoothing(target)
    return (2 * both + more) / (target + prediction + more)


def iou_of_sums(both, target, prediction):
    """sum(t p) / (sum t + sum p - sum(t p)); 1 where both are empty."""
    more = smoothing(target)
    return (both + more) / (target + prediction - both + more)


def rou_of_sums(both, target, prediction):
    """Residual over union, (sum t - sum(t p)) / (sum t + sum p - sum(t p)): the part of the mask left uncovered over
    the union; 0 is good, and is the value where both are empty."""
    return (target - both) / (target + prediction - both + smoothing(target))


def tversky_of_sums(both, target, prediction, alpha=0.3, beta=0.7):
    """both / (both + alpha false positives + beta false negatives); 1 where both are empty."""
    missed = alpha * (prediction - both) + beta * (target - both)
    more = smoothing(target)
    return (both + more) / (both + missed + more)


# --- losses


def dice(targets, probabilities):
    """1 - Dice, mean over the classes; shapes of `overlap_sums`, to (B,). An empty mask gives 0 for an empty guess,
    and nearly 1 for any other."""
    sums = overlap_sums(foreground(targets), foreground(probabilities))
    return 1 - ops.mean(dice_of_sums(*sums), axis=-1)


def smooth_dice(targets, probabilities):
    """1 - (2 sum(t p) + 1) / (sum t + sum p + 1), mean over the classes; shapes as `dice`. The one keeps the slope of a
    class that is not there small, so that one voxel too many does not outweigh the other classes."""
    both, target, prediction = overlap_sums(foreground(targets), foreground(probabilities))
    return 1 - ops.mean((2 * both + 1) / (target + prediction + 1), axis=-1)


def iou(targets, probabilities):
    """1 - IoU, mean over the classes; shapes and empty masks as `dice`."""
    sums = overlap_sums(foreground(targets), foreground(probabilities))
    return 1 - ops.mean(iou_of_sums(*sums), axis=-1)


def tversky(targets, probabilities):
    """1 - Tversky index, mean over the classes, with alpha 0.3 and beta 0.7: what is missed weighs more than what is
    too much (Salehi et al., arXiv 1706.05721). Shapes and empty masks as `dice`. Keras' own has the two the other way
    round, and costs 1 where mask and prediction are empty."""
    sums = overlap_sums(foreground(targets), foreground(probabilities))
    return 1 - ops.mean(tversky_of_sums(*sums), axis=-1)


def focal_tversky(targets, probabilities, gamma=4 / 3):
    """(1 - Tversky index)^(1 / gamma), mean over the classes (Abraham and Khan, arXiv 1810.07842). Shapes and empty
    masks as `dice`. Its slope has no bound at 0, so it is flat below Keras' epsilon."""
    sums = overlap_sums(foreground(targets), foreground(probabilities))
    missing = ops.maximum(1 - tversky_of_sums(*sums), keras.config.epsilon())
    return ops.mean(ops.power(missing, 1 / gamma), axis=-1)

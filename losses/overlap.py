"""Dice (Dice 1945, Sorensen 1948) and IoU (Jaccard 1912) of images, and the losses that are one minus them."""

import keras
from keras import ops


def overlap_sums(targets, probabilities):
    """Sums over the pixels of every image and channel.

    Args:
        targets, probabilities: (B, H, W, C) float32 in 0..1.

    Returns:
        sum of t * p, sum of t, sum of p; each (B, C).
    """
    pixels = (1, 2)
    return (
        ops.sum(targets * probabilities, axis=pixels),
        ops.sum(targets, axis=pixels),
        ops.sum(probabilities, axis=pixels),
    )


def dice_of_sums(both, target, prediction):
    """2 sum(t p) / (sum t + sum p); 1 where both are empty."""
    epsilon = keras.config.epsilon()
    return (2 * both + epsilon) / (target + prediction + epsilon)


def iou_of_sums(both, target, prediction):
    """sum(t p) / (sum t + sum p - sum(t p)); 1 where both are empty."""
    epsilon = keras.config.epsilon()
    return (both + epsilon) / (target + prediction - both + epsilon)


def foreground(channels):
    """Channels of the classes 1..K: all of a sigmoid, without the first of a softmax."""
    return channels if channels.shape[-1] == 1 else channels[..., 1:]


def dice(targets, probabilities):
    """1 - Dice, mean over the classes; (B, H, W, C) float32 twice to (B,). An empty mask gives 0 for an empty
    prediction, and nearly 1 for any other."""
    sums = overlap_sums(foreground(targets), foreground(probabilities))
    return 1 - ops.mean(dice_of_sums(*sums), axis=-1)


def iou(targets, probabilities):
    """1 - IoU, mean over the classes; shapes and empty masks as `dice`."""
    sums = overlap_sums(foreground(targets), foreground(probabilities))
    return 1 - ops.mean(iou_of_sums(*sums), axis=-1)

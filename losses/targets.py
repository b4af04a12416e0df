"""Targets and predictions in each other's shape.

Slices (B, H, W, C) have one sigmoid channel for one class, or for K classes the K + 1 channels of a softmax, the
background first. Volumes (B, S, H, W, K) have a sigmoid channel for each label, and none for the background.
"""

from keras import ops


def has_background(channels):
    """Whether the first channel is the background: of a softmax, which slices with several classes have."""
    return len(channels.shape) == 4 and channels.shape[-1] > 1


def foreground(channels):
    """Channels of the classes 1..K."""
    return channels[..., 1:] if has_background(channels) else channels


def one_hot_like(y_true, y_pred):
    """Class numbers as channels.

    Args:
        y_true: (B, H, W, 1) or (B, S, H, W, 1), class numbers 0..K of any type.
        y_pred: (B, H, W, C) or (B, S, H, W, C), probabilities, float.

    Returns:
        The shape and type of y_pred; where C is 1, the mask itself.
    """
    channels = y_pred.shape[-1]
    if channels == 1:
        return ops.cast(y_true, y_pred.dtype)
    numbers = ops.cast(y_true[..., 0], "int32") - (0 if has_background(y_pred) else 1)  # of -1, no channel is 1
    return ops.one_hot(numbers, channels, dtype=y_pred.dtype)


def harden(probabilities):
    """Probabilities (..., C) to zeros and ones: the greatest of the channels.

    Without a background that is where a label, whichever, is probable: where their sum is above 0.5.
    """
    above = ops.cast(ops.sum(probabilities, axis=-1, keepdims=True) > 0.5, probabilities.dtype)
    if probabilities.shape[-1] == 1:
        return above
    greatest = ops.one_hot(ops.argmax(probabilities, axis=-1), probabilities.shape[-1], dtype=probabilities.dtype)
    return greatest if has_background(probabilities) else greatest * above

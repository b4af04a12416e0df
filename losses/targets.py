"""Targets and predictions in each other's shape."""

from keras import ops


def one_hot_like(y_true, y_pred):
    """Class numbers as channels.

    Args:
        y_true: (B, H, W, 1) class numbers 0..K of any type.
        y_pred: (B, H, W, C) probabilities, float.

    Returns:
        (B, H, W, C) of the type of y_pred; where C is 1, the mask itself.
    """
    if y_pred.shape[-1] == 1:
        return ops.cast(y_true, y_pred.dtype)
    return ops.one_hot(ops.cast(y_true[..., 0], "int32"), y_pred.shape[-1], dtype=y_pred.dtype)


def harden(probabilities):
    """Probabilities (..., C) to zeros and ones: above 0.5 for one channel, else the greatest of the channels."""
    if probabilities.shape[-1] == 1:
        return ops.cast(probabilities > 0.5, probabilities.dtype)
    return ops.one_hot(ops.argmax(probabilities, axis=-1), probabilities.shape[-1], dtype=probabilities.dtype)

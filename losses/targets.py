"""Targets in the shape of predictions."""

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

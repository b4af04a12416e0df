"""Losses of single pixels. Each takes targets and probabilities and gives a mean per image."""

import keras
from keras import ops


def mse(targets, probabilities):
    """Mean squared error; (B, H, W, C) float32 twice to (B,)."""
    return ops.mean(keras.losses.mean_squared_error(targets, probabilities), axis=(1, 2))


def bce(targets, probabilities):
    """Binary cross-entropy of every channel; (B, H, W, C) float32 twice to (B,)."""
    return ops.mean(keras.losses.binary_crossentropy(targets, probabilities), axis=(1, 2))


def cce(targets, probabilities):
    """Categorical cross-entropy; (B, H, W, C) float32 twice to (B,).

    Raises:
        ValueError: for one channel.
    """
    if probabilities.shape[-1] == 1:
        raise ValueError('the loss "cce" is for several classes; take "bce" for one')
    return ops.mean(keras.losses.categorical_crossentropy(targets, probabilities), axis=(1, 2))

"""Losses of single pixels.

Each takes targets and probabilities, (B, H, W, C) float32, and gives a mean per image, (B,). C is 1 for
one class, or K + 1 with the background first.
"""

import keras
from keras import ops

PIXELS = (1, 2)
CCE_NEEDS_CLASSES = 'the loss "cce" is for several classes; take "bce" for one'


def mse(targets, probabilities):
    """Mean squared error."""
    return ops.mean(keras.losses.mean_squared_error(targets, probabilities), axis=PIXELS)


def log_cosh(targets, probabilities):
    """Mean of log(cosh(p - t))."""
    return ops.mean(keras.losses.log_cosh(targets, probabilities), axis=PIXELS)


def bce(targets, probabilities):
    """Binary cross-entropy of every channel."""
    return ops.mean(keras.losses.binary_crossentropy(targets, probabilities), axis=PIXELS)


def cce(targets, probabilities):
    """Categorical cross-entropy.

    Raises:
        ValueError: for one channel.
    """
    if probabilities.shape[-1] == 1:
        raise ValueError(CCE_NEEDS_CLASSES)
    return ops.mean(keras.losses.categorical_crossentropy(targets, probabilities), axis=PIXELS)


def kld(targets, probabilities):
    """Kullback-Leibler divergence, sum over the classes of t log(t / p), the background being one of them.

    One channel p stands for the two classes 1 - p and p: without the first, p = 1 everywhere would cost nothing.
    """
    t, p = with_background(targets), with_background(probabilities)
    return ops.mean(keras.losses.kl_divergence(t, p), axis=PIXELS)


def focal(targets, probabilities, alpha=0.25, gamma=2.0):
    """Focal loss, -a (1 - pt)^gamma log pt, pt the probability of the true class (Lin et al., arXiv 1708.02002);
    a is `alpha` on the foreground and 1 - alpha on the background."""
    classes = probabilities.shape[-1]
    if classes == 1:
        losses = keras.losses.binary_focal_crossentropy(
            targets, probabilities, apply_class_balancing=True, alpha=alpha, gamma=gamma
        )
    else:
        weights = [1 - alpha] + [alpha] * (classes - 1)
        losses = keras.losses.categorical_focal_crossentropy(targets, probabilities, alpha=weights, gamma=gamma)
    return ops.mean(losses, axis=PIXELS)


def constrained_focal(targets, probabilities, power=1 / 2.5):
    """Constrained focal loss, -w^power log pt (Zhao et al., doi 10.1109/ACCESS.2019.2953085).

    On the pixels of a class w = (area - n) / n, n their number in the image, at least 1; on the background w = 1.
    """
    t, p = with_background(targets), with_background(probabilities)
    area = t.shape[1] * t.shape[2]
    counts = ops.maximum(ops.sum(t[..., 1:], axis=PIXELS, keepdims=True), 1)
    weights = ops.power((area - counts) / counts, power)
    weight = t[..., 0] + ops.sum(t[..., 1:] * weights, axis=-1)
    epsilon = keras.config.epsilon()
    true = ops.clip(ops.sum(t * p, axis=-1), epsilon, 1 - epsilon)
    return ops.mean(-weight * ops.log(true), axis=PIXELS)


def with_background(channels):
    """Channels with the background first: one channel p becomes 1 - p and p; several have it already."""
    return channels if channels.shape[-1] > 1 else ops.concatenate([1 - channels, channels], axis=-1)

"""Losses of single pixels.

Each accepts targets and probabilities, (B, H, W, C) float32, and returns a mean per image, (B,). C is 1 for one class,
or K + 1 with the background first. `mse`, `log_cosh` and `bce` also accept volumes, (B, S, H, W, K). With `valid`,
(B, H, W) of 0 and 1, the means are over the pixels with 1.
"""

import keras
from keras import ops

CCE_NEEDS_CLASSES = 'the loss "cce" needs several exclusive classes (found one, or overlapping ones); use "bce"'


def mse(targets, probabilities, valid=None):
    """Mean squared error."""
    return mean_of_pixels(keras.losses.mean_squared_error(targets, probabilities), valid)


def log_cosh(targets, probabilities, valid=None):
    """Mean of log(cosh(p - t))."""
    return mean_of_pixels(keras.losses.log_cosh(targets, probabilities), valid)


def bce(targets, probabilities, valid=None):
    """Binary cross-entropy of every channel.

    Of several, from the probabilities: for those of a softmax, Keras on TensorFlow computes it from their logits as if
    they were those of sigmoids.
    """
    if probabilities.shape[-1] == 1:
        return mean_of_pixels(keras.losses.binary_crossentropy(targets, probabilities), valid)
    epsilon = keras.config.epsilon()
    p = ops.clip(probabilities, epsilon, 1 - epsilon)
    return mean_of_pixels(ops.mean(-targets * ops.log(p) - (1 - targets) * ops.log(1 - p), axis=-1), valid)


def weighted_bce(targets, probabilities, valid=None):
    """Cross-entropy -log pt in which every class of the image's own mask counts the same, and the background as one.

    pt is the probability of the true class. The mean is over the pixels of a class, then over the classes present.
    """
    t, p = with_background(targets), with_background(probabilities)
    t = t if valid is None else t * valid[..., None]
    epsilon = keras.config.epsilon()
    logs = -ops.log(ops.clip(p, epsilon, 1 - epsilon))
    counts = ops.sum(t, axis=(1, 2))
    means = ops.sum(t * logs, axis=(1, 2)) / ops.maximum(counts, 1)
    return ops.sum(means, axis=-1) / ops.maximum(ops.sum(ops.cast(counts > 0, means.dtype), axis=-1), 1)


def cce(targets, probabilities, valid=None):
    """Categorical cross-entropy.

    Raises:
        ValueError: for one channel.
    """
    if probabilities.shape[-1] == 1:
        raise ValueError(CCE_NEEDS_CLASSES)
    return mean_of_pixels(keras.losses.categorical_crossentropy(targets, probabilities), valid)


def kld(targets, probabilities, valid=None):
    """Kullback-Leibler divergence, sum of t log(t / p) over the classes and the background.

    One channel p counts as two classes, 1 - p and p: without the first, p = 1 everywhere would cost nothing.
    """
    t, p = with_background(targets), with_background(probabilities)
    return mean_of_pixels(keras.losses.kl_divergence(t, p), valid)


def focal(targets, probabilities, valid=None, alpha=0.25, gamma=2.0):
    """Focal loss, -a (1 - pt)^gamma log pt (Lin et al., arXiv 1708.02002). pt is the probability of the true
    class; a is `alpha` on the foreground and 1 - alpha on the background."""
    classes = probabilities.shape[-1]
    if classes == 1:
        losses = keras.losses.binary_focal_crossentropy(
            targets, probabilities, apply_class_balancing=True, alpha=alpha, gamma=gamma
        )
    else:
        weights = [1 - alpha] + [alpha] * (classes - 1)
        losses = keras.losses.categorical_focal_crossentropy(targets, probabilities, alpha=weights, gamma=gamma)
    return mean_of_pixels(losses, valid)


def constrained_focal(targets, probabilities, valid=None, power=1 / 2.5):
    """Constrained focal loss, -w^power log pt (Zhao et al., doi 10.1109/ACCESS.2019.2953085).

    On the n pixels of a class in the image, w = (area - n) / n, with n at least 1; on the background, w = 1.
    """
    t, p = with_background(targets), with_background(probabilities)
    area = t.shape[1] * t.shape[2] if valid is None else ops.sum(valid, axis=(1, 2))[:, None, None, None]
    counts = ops.maximum(ops.sum(t[..., 1:], axis=(1, 2), keepdims=True), 1)
    weights = ops.power(ops.maximum((area - counts) / counts, 0), power)
    weight = t[..., 0] + ops.sum(t[..., 1:] * weights, axis=-1)
    epsilon = keras.config.epsilon()
    true = ops.clip(ops.sum(t * p, axis=-1), epsilon, 1 - epsilon)
    return mean_of_pixels(-weight * ops.log(true), valid)


def with_background(channels):
    """Channels with the background first: one channel p becomes 1 - p and p; several already have it."""
    return channels if channels.shape[-1] > 1 else ops.concatenate([1 - channels, channels], axis=-1)


def mean_of_pixels(losses, valid=None):
    """Mean over all axes but the first, of the pixels of which `valid`, of the same shape, is 1; 0 without any."""
    axes = tuple(range(1, len(losses.shape)))
    if valid is None:
        return ops.mean(losses, axis=axes)
    return ops.sum(losses * valid, axis=axes) / ops.maximum(ops.sum(valid, axis=axes), 1)


LOSSES = (mse, log_cosh, kld, bce, cce, weighted_bce, focal, constrained_focal)

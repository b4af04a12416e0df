"""Streaming metrics of an epoch: exact means over its images, whatever the batch size.

The overlap scores skip images with an empty mask, since their Dice does not measure how well an outline is found.
With several classes, an image's score is the mean over the classes in its mask. Without any such image the result is
0. Images with an empty mask have their own metric. With `ignores`, pixels of slices that are IGNORED do not count.
"""

import keras
from keras import ops

from losses import overlap
from losses.overlap import IGNORED, foreground, harden, one_hot_like, valid_pixels


def without_ignored(y_true, *channels):
    """Channels, each (B, H, W, C), with 0 where the truth, class numbers or channels, is IGNORED."""
    valid = valid_pixels(y_true, channels[0])[..., None]
    return [values * valid for values in channels]


def class_channels(y_true, y_pred, soft=False):
    """Channels of the classes 1..K, without the background.

    Args:
        y_true: (B, H, W, 1) class numbers, or (B, H, W, K) channels of K overlapping classes; volumes alike.
        y_pred: (B, H, W, C) probabilities, float.
        soft: whether to leave probabilities as they are, instead of 1 where a class is predicted.

    Returns:
        targets and predictions, (B, H, W, K) in the type of y_pred.
    """
    if y_true.shape[-1] > 1:
        return ops.cast(y_true, y_pred.dtype), y_pred if soft else ops.cast(y_pred > 0.5, y_pred.dtype)
    targets, predicted = one_hot_like(y_true, y_pred), y_pred if soft else harden(y_pred)
    return foreground(targets), foreground(predicted)


SCORES = {"dice": overlap.dice_of_sums, "iou": overlap.iou_of_sums, "rou": overlap.rou_of_sums}


@keras.saving.register_keras_serializable(package="segmentation")
class Overlap(keras.metrics.Metric):
    """Mean Dice, IoU or residual over union (RoU) over the images with a non-empty mask.

    Args:
        score: "dice", "iou" or "rou".
        soft: True: use the probabilities unchanged, as the losses do; False: use the most probable class (for one
            class, and for overlapping ones: p > 0.5).
        ignores: whether masks have pixels that are IGNORED.
        name: metric name; default: the score, prefixed with "soft_" if soft.
    """

    def __init__(self, score="dice", soft=False, ignores=False, name=None, **kwargs):
        super().__init__(name=name or ("soft_" if soft else "") + score, **kwargs)
        self.score, self.soft, self.ignores = score, soft, ignores
        self.total = self.add_weight(name="total", initializer="zeros")
        self.count = self.add_weight(name="count", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add a batch: class numbers or channels, and probabilities, shaped as in `class_channels`."""
        y_pred = ops.cast(y_pred, self.dtype)
        channels = class_channels(y_true, y_pred, self.soft)
        if self.ignores:
            channels = without_ignored(y_true, *channels)
        sums = overlap.overlap_sums(*channels)
        present = ops.cast(sums[1] > 0, self.dtype)
        classes = ops.sum(present, axis=-1)
        scores = ops.sum(SCORES[self.score](*sums) * present, axis=-1) / ops.maximum(classes, 1)
        self.total.assign_add(ops.sum(scores))
        self.count.assign_add(ops.sum(ops.cast(classes > 0, self.dtype)))

    def result(self):
        return self.total / ops.maximum(self.count, 1)

    def get_config(self):
        return {**super().get_config(), "score": self.score, "soft": self.soft, "ignores": self.ignores}


@keras.saving.register_keras_serializable(package="segmentation")
class FalsePositivesOnEmpty(keras.metrics.Metric):
    """False positives on empty truth: predicted area over image area, mean over the images with an empty mask.

    0 without any such image. The prediction is p > 0.5, or the most probable of exclusive classes; the area is the area
    of all classes together.
    """

    def __init__(self, ignores=False, name="fpoet", **kwargs):
        super().__init__(name=name, **kwargs)
        self.ignores = ignores
        self.total = self.add_weight(name="total", initializer="zeros")
        self.count = self.add_weight(name="count", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add a batch: class numbers or channels, and probabilities, shaped as in `class_channels`."""
        _, predicted = class_channels(y_true, ops.cast(y_pred, self.dtype))
        pixels, target, size = tuple(range(1, len(predicted.shape) - 1)), y_true > 0, None
        if self.ignores:
            target = ops.logical_and(target, y_true != IGNORED)
            (predicted,) = without_ignored(y_true, predicted)
            size = ops.maximum(ops.sum(valid_pixels(y_true, predicted), axis=pixels), 1)
        area = ops.max(predicted, axis=-1)
        share = ops.mean(area, axis=pixels) if size is None else ops.sum(area, axis=pixels) / size
        empty = ops.cast(ops.logical_not(ops.any(target, axis=tuple(range(1, len(y_true.shape))))), self.dtype)
        self.total.assign_add(ops.sum(share * empty))
        self.count.assign_add(ops.sum(empty))

    def result(self):
        return self.total / ops.maximum(self.count, 1)

    def get_config(self):
        return {**super().get_config(), "ignores": self.ignores}


@keras.saving.register_keras_serializable(package="segmentation")
class ClassDice(keras.metrics.Metric):
    """Mean Dice of one class over the images whose mask contains it; NaN without any such image.

    Args:
        number: class number, from 1.
        ignores: whether masks have pixels that are IGNORED.
        name: metric name; default: "dice_" and the number.
    """

    def __init__(self, number, ignores=False, name=None, **kwargs):
        super().__init__(name=name or f"dice_{number}", **kwargs)
        self.number, self.ignores = number, ignores
        self.total = self.add_weight(name="total", initializer="zeros")
        self.count = self.add_weight(name="count", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add a batch: class numbers or channels, and probabilities, shaped as in `class_channels`."""
        y_pred = ops.cast(y_pred, self.dtype)
        channels = class_channels(y_true, y_pred)
        if self.ignores:
            channels = without_ignored(y_true, *channels)
        sums = overlap.overlap_sums(*(values[..., self.number - 1 : self.number] for values in channels))
        present = ops.cast(sums[1] > 0, self.dtype)
        self.total.assign_add(ops.sum(overlap.dice_of_sums(*sums) * present))
        self.count.assign_add(ops.sum(present))

    def result(self):
        return self.total / self.count

    def get_config(self):
        return {**super().get_config(), "number": self.number, "ignores": self.ignores}


def training_metrics(classes=1, ignores=False):
    """The metrics of every run: dice, iou, rou, fpoet, soft_dice, soft_iou; with several classes also dice_1, ...

    Args:
        classes: number of classes without the background.
        ignores: whether masks have pixels that are `common.slices.classes.IGNORED`.
    """
    hard = [Overlap(score, ignores=ignores) for score in SCORES]
    soft = [Overlap(score, soft=True, ignores=ignores) for score in ("dice", "iou")]
    by_class = [ClassDice(number, ignores) for number in range(1, classes + 1)] if classes > 1 else []
    return [*hard, FalsePositivesOnEmpty(ignores), *soft, *by_class]

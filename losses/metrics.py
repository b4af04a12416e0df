"""Streaming metrics of an epoch: exact means over its images, whatever the batches.

Images with an empty mask are left out, since their Dice says nothing about how well an outline is found; with
several classes, an image's score is the mean over the classes in its mask. With no such image the result is 0.
"""

import keras
from keras import ops

from losses import overlap
from losses.targets import one_hot_like

SCORES = {"dice": overlap.dice_of_sums, "iou": overlap.iou_of_sums}


@keras.saving.register_keras_serializable(package="segmentation")
class Overlap(keras.metrics.Metric):
    """Mean Dice or IoU over the images with a non-empty mask.

    Args:
        score: "dice" or "iou".
        soft: True takes the probabilities as they are, as the losses do; False takes the class that they say, which
            for one class is p > 0.5.
        name: of the metric; default: the score, with "soft_" before it where it is soft.
    """

    def __init__(self, score="dice", soft=False, name=None, **kwargs):
        super().__init__(name=name or ("soft_" if soft else "") + score, **kwargs)
        self.score, self.soft = score, soft
        self.total = self.add_weight(name="total", initializer="zeros")
        self.count = self.add_weight(name="count", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add a batch: class numbers (B, H, W, 1) and probabilities (B, H, W, 1 or K + 1)."""
        y_pred = ops.cast(y_pred, self.dtype)
        targets = one_hot_like(y_true, y_pred)
        if not self.soft:
            y_pred = harden(y_pred)
        sums = overlap.overlap_sums(overlap.foreground(targets), overlap.foreground(y_pred))
        present = ops.cast(sums[1] > 0, self.dtype)
        classes = ops.sum(present, axis=-1)
        scores = ops.sum(SCORES[self.score](*sums) * present, axis=-1) / ops.maximum(classes, 1)
        self.total.assign_add(ops.sum(scores))
        self.count.assign_add(ops.sum(ops.cast(classes > 0, self.dtype)))

    def result(self):
        return self.total / ops.maximum(self.count, 1)

    def get_config(self):
        return {**super().get_config(), "score": self.score, "soft": self.soft}


def harden(probabilities):
    """Probabilities (..., C) to zeros and ones: above 0.5 for one channel, else the greatest of the channels."""
    if probabilities.shape[-1] == 1:
        return ops.cast(probabilities > 0.5, probabilities.dtype)
    return ops.one_hot(ops.argmax(probabilities, axis=-1), probabilities.shape[-1], dtype=probabilities.dtype)


def training_metrics():
    """The metrics of every run: dice, iou, soft_dice, soft_iou."""
    return [Overlap(score, soft) for soft in (False, True) for score in SCORES]

"""Losses by name: a pixel loss alone, or with an overlap term, such as "mse", "dice", "mse+dice"."""

import keras
from keras import ops

from losses import overlap, pixel
from losses.metrics import training_metrics  # noqa: F401  (the metrics of a run are named beside its loss)
from losses.targets import one_hot_like

TERMS = {"mse": pixel.mse, "bce": pixel.bce, "cce": pixel.cce, "dice": overlap.dice, "iou": overlap.iou}


def get_loss(name):
    """Loss of a name.

    Args:
        name: names of TERMS joined by "+"; their losses are added.

    Returns:
        keras.losses.Loss of class numbers (B, H, W, 1) and probabilities (B, H, W, 1 or K + 1): the loss of each image,
        averaged over the images; computed in float32 whatever the policy.

    Raises:
        ValueError: for an unknown name.
    """
    return SegmentationLoss(name)


@keras.saving.register_keras_serializable(package="segmentation")
class SegmentationLoss(keras.losses.Loss):
    """Sum of the losses that `terms` names; see `get_loss`."""

    def __init__(self, terms="mse+dice", **kwargs):
        parts = terms.split("+")
        unknown = [part for part in parts if part not in TERMS]
        if unknown or len(set(parts)) < len(parts):
            raise ValueError(
                f'unknown loss "{terms}"; choose one of {", ".join(TERMS)}, or a sum of them such as "mse+dice"'
            )
        super().__init__(**{"name": "_".join(parts), "dtype": "float32", **kwargs})
        self.terms = terms
        self.functions = [TERMS[part] for part in parts]

    def call(self, y_true, y_pred):
        y_pred = ops.cast(y_pred, "float32")
        targets = one_hot_like(y_true, y_pred)
        return sum(function(targets, y_pred) for function in self.functions)

    def get_config(self):
        return {"terms": self.terms, "name": self.name, "reduction": self.reduction}

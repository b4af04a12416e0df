"""Losses by name: one alone, or a sum, such as "mse", "dice", "mse+dice", "hausdorff+iou", "my.py+dice"."""

from functools import partial
from pathlib import Path

import keras
from keras import ops

from losses import overlap, own, pixel
from losses.hausdorff import hausdorff
from losses.metrics import training_metrics  # noqa: F401  (imported from here, like the loss)
from losses.overlap import one_hot_like, valid_pixels

TERMS = {
    **{term.__name__: term for term in (pixel.mse, pixel.log_cosh, pixel.kld, pixel.bce, pixel.cce)},
    pixel.weighted_bce.__name__: pixel.weighted_bce,
    **{term.__name__: term for term in (pixel.focal, pixel.constrained_focal, hausdorff)},
    **{term.__name__: term for term in (overlap.dice, overlap.batch_dice, overlap.smooth_dice)},
    **{term.__name__: term for term in (overlap.smooth_batch_dice, overlap.iou)},
    **{term.__name__: term for term in (overlap.tversky, overlap.focal_tversky)},
}
FOR_VOLUMES = ("mse", "log_cosh", "bce", "dice", "batch_dice", "smooth_dice", "smooth_batch_dice", "iou")
FOR_VOLUMES += ("tversky", "focal_tversky")
SERIES = ("mse", "log_cosh", "kld", "focal", "constrained_focal", "hausdorff")  # used in turn
SERIES_STEPS = 10  # batches before the next loss has its turn


def get_loss(name, classes=None, axes=2, ignores=False, overlapping=False):
    """Return the loss for a name.

    Args:
        name: names in TERMS, "series" (the losses in SERIES in turn) or paths of .py files as in `losses.own`; names
            joined by "+" are added up.
        classes: number of classes, if known, to refuse losses that do not suit them.
        axes: 2 for slices, 3 for volumes.
        ignores: whether masks of slices have pixels that are `common.slices.classes.IGNORED` and do not count.
        overlapping: whether classes overlap.

    Returns:
        keras.losses.Loss of class numbers, or of the channels of overlapping classes, and probabilities, shaped as in
        `losses.overlap`. It is averaged over the images, and computed in float32 whatever the dtype policy.

    Raises:
        ValueError: for an unknown name, "series" on JAX, "cce" for one class or overlapping ones, a loss that does not
            support volumes, or a file that does not work.
    """
    loss = SegmentationLoss(name, ignores)
    terms = name.split("+")
    classes = 1 if overlapping else classes  # each of them is one
    if classes == 1 and pixel.cce in loss.functions:
        raise ValueError(pixel.CCE_NEEDS_CLASSES)
    if axes == 3 and (flat := [term for term in terms if term not in FOR_VOLUMES and not own.is_own(term)]):
        raise ValueError(f'the loss "{flat[0]}" is for slices only; for volumes choose one of {", ".join(FOR_VOLUMES)}')
    if classes:
        for path in own.own_files(name):
            own.try_loss(path, classes, axes)
    return loss


@keras.saving.register_keras_serializable(package="segmentation")
class SegmentationLoss(keras.losses.Loss):
    """Sum of the losses in `terms`; see `get_loss`.

    With `ignores`, targets and probabilities of ignored pixels are 0 in all channels for the overlap losses and for
    your own, and losses of pixels are means over the others.

    Of overlapping classes, each counts like the only class of its images, and the loss is the mean over the classes.

    Attributes:
        steps: number of batches so far; "series" uses it to choose the loss. See `follow_steps`.
    """

    def __init__(self, terms="mse+dice", ignores=False, **kwargs):
        names = terms.split("+")
        unknown = [name for name in names if name not in (*TERMS, "series") and not own.is_own(name)]
        short = [Path(name).stem if own.is_own(name) else name for name in names]
        if unknown or len(set(short)) < len(short):
            raise ValueError(
                f'unknown loss "{terms}"; choose one of {", ".join(TERMS)}, series, a sum of different ones '
                'such as "mse+dice", or the path of a .py file with loss(targets, probabilities)'
            )
        if "series" in names and keras.backend.backend() == "jax":
            raise ValueError(
                'the loss "series" needs TensorFlow or PyTorch (on JAX, a loss cannot see the step); choose another'
            )
        super().__init__(**{"name": "_".join(short), "dtype": "float32", **kwargs})
        self.terms, self.ignores = terms, ignores
        self.functions = [self._function(name) for name in names]
        self.steps = 0

    def _function(self, name):
        if own.is_own(name):
            return own.find_loss(name)
        return self.series if name == "series" else TERMS[name]

    def call(self, y_true, y_pred):
        y_pred = ops.cast(y_pred, "float32")
        if y_true.shape[-1] == 1:
            return self._of_masks(y_true, y_pred)
        classes = range(y_pred.shape[-1])  # they overlap
        losses = [self._of_masks(y_true[..., k : k + 1], y_pred[..., k : k + 1]) for k in classes]
        return sum(losses) / len(losses)

    def _of_masks(self, y_true, y_pred):
        if not self.ignores:
            targets = one_hot_like(y_true, y_pred)
            return sum(function(targets, y_pred) for function in self.functions)
        valid = valid_pixels(y_true, y_pred)
        targets = one_hot_like(y_true, y_pred) * valid[..., None]
        return sum(apply(function, targets, y_pred, valid) for function in self.functions)

    def series(self, targets, probabilities, valid=None):
        """The loss in SERIES whose turn it is."""
        turn = ops.cast(self.steps, "int32") // SERIES_STEPS % len(SERIES)
        functions = [TERMS[name] for name in SERIES]
        if valid is not None:
            functions = [partial(apply, function, valid=valid) for function in functions]
        return ops.switch(turn, functions, targets, probabilities)

    def get_config(self):
        config = {"terms": self.terms, "name": self.name, "reduction": self.reduction}
        return config | ({"ignores": True} if self.ignores else {})

    @classmethod
    def from_config(cls, config):
        return cls(**config | {"terms": own.take_copies(config["terms"])})


def apply(function, targets, probabilities, valid):
    """A loss of the pixels of which `valid`, (B, H, W), is 1; targets are 0 elsewhere. See `SegmentationLoss`."""
    if function in pixel.LOSSES:
        return function(targets, probabilities, valid)
    probabilities = probabilities * valid[..., None]
    takes_valid = function is hausdorff or getattr(function, "__func__", None) is SegmentationLoss.series
    return function(targets, probabilities, valid) if takes_valid else function(targets, probabilities)


def follow_steps(model):
    """Let the loss of a compiled model read the optimizer's step, so that a resumed run continues from there."""
    if isinstance(model.loss, SegmentationLoss):
        model.loss.steps = model.optimizer.iterations

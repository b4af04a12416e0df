"""Sets of slices for training, and batches of them; `common.training.opening` opens them."""

import math
from pathlib import Path

import keras
import numpy as np

from common.scores import mean_dice
from common.slices.drawing import PREDICTED_COLOUR, TRUTH_COLOUR, draw_outlines, first_and_last
from common.slices.images import to_eight_bit, to_unit
from common.slices.lists import slice_identity
from common.slices.masks import class_numbers, to_classes
from common.training.augmentation import make_augmentation
from common.training.distribution import Spread
from common.training.timing import clock


class SliceSet:
    """Slices with masks.

    Attributes:
        path: file that it came from.
        x, y: (N, H, W, 1) in the integer types of the files: arrays, or what gives rows when indexed like one, see
            `common.slices.packed`.
        case, source: lists of N str.
        classes: 1, or K for class numbers 0..K.
        in_memory: whether x and y are arrays.
        preparation: dict of `common.slices.cases.common_preparation`.

    `common.training.volume_sets.VolumeSet` has the same methods, and the attributes classes, shape and axes.
    """

    axes = 2

    def __init__(self, path, x, y, case, source, classes, in_memory, preparation):
        self.path, self.x, self.y, self.case, self.source = path, x, y, case, source
        self.classes, self.in_memory, self.preparation = int(classes), in_memory, preparation

    def __len__(self):
        return len(self.case)

    @property
    def shape(self):
        """(height, width, channels) of a slice."""
        return tuple(self.x.shape[1:])

    def in_words(self):
        """Size and number of the slices as text."""
        return f"{len(self)} slices of {self.shape[0]}x{self.shape[1]}"

    def has_foreground(self):
        """Whether any mask holds any."""
        return any(self.y[i].any() for i in range(len(self)))

    def in_order(self):
        """What tells its items apart, in their order, as a list of str; "" where that is not known."""
        return [slice_identity(source) if source else "" for source in self.source]

    def identities(self):
        """What may not be in two sets, as a set of str."""
        return set(filter(None, self.in_order()))

    def about(self):
        """What later steps need to know of the slices, as a dict for JSON."""

        def known(name):
            values = [float(value) for value in self.preparation[name]]
            return None if any(map(math.isnan, values)) else values

        return {
            "classes": self.classes,
            "size": self.shape[0],
            "bits": 8 * self.x[0].dtype.itemsize,
            "spacing": known("spacing"),
            "window": known("window"),
            "resampled": known("resampled"),
            "plane": str(self.preparation["plane"]),
            "fit": str(self.preparation["fit"]),
            "stretched": bool(self.preparation["stretched"]),
        }

    def batch(self, indices):
        """Slices scaled to 0..1, (B, H, W, 1) float32, and class numbers, (B, H, W, 1) uint8."""
        return to_unit(self.x[indices]), to_classes(self.y[indices], self.classes)

    def batches(self, batch_size, seed=None, augmentation=None, crop=None, spread=None):
        """Batches of the slices; arguments as the settings of train.py, `seed` None for the order of the set.

        For `spread` see `common.training.distribution`; None: one device.

        Raises:
            ValueError: for an augmentation that there is not, or a crop, which is for volumes.
        """
        if crop:
            raise ValueError("CROP is for packed volumes; slices are of one size")
        return Batches(self, batch_size, seed, make_augmentation(augmentation or {}), spread)

    def best_and_worst(self, model, batch_size, count=6):
        """The `count` worst and the `count` best slices with a mask, with the outlines of mask and prediction.

        Returns:
            list of ((H, W, 3) uint8, RGB; caption).
        """
        batches = self.batches(batch_size)
        scores = {}
        for b in range(len(batches)):
            x, y = batches[b]
            predicted = class_numbers(model.predict_on_batch(x))
            for i, (mask, guess) in enumerate(zip(y[..., 0], predicted, strict=True)):
                if mask.any():
                    scores[b * batch_size + i] = mean_dice(guess, mask)
        pictures = []
        for i in first_and_last(sorted(scores, key=scores.get), count):
            x, y = self.batch([i])
            picture = draw_outlines(to_eight_bit(self.x[i][..., 0]), y[0, ..., 0], [TRUTH_COLOUR])
            picture = draw_outlines(picture, class_numbers(model.predict_on_batch(x))[0], [PREDICTED_COLOUR])
            pictures.append((picture, f"{scores[i]:.3f} {self.case[i]} {Path(self.source[i]).stem}"))
        return pictures


class Batches(keras.utils.PyDataset):
    """Batches of a set for `fit`, `evaluate` and `predict`.

    All that is random in an epoch depends on (seed, epoch) alone, so that a run that was resumed goes on as if
    it had never stopped. Each epoch has an order of its own, of all slices, drawn without regard to where they are:
    sets that are read from their files are shuffled as those in memory, and one batch of them is held at a time.

    Args:
        slices: SliceSet.
        batch_size: slices a batch; the last one of an epoch may be smaller.
        seed: int for shuffled batches; None keeps the order of the set.
        augment: function (x, y, seeds) to (x, y), or None; see `common.training.augmentation`.
        spread: `common.training.distribution.Spread` of the devices that they go to; None: one.
    """

    def __init__(self, slices, batch_size, seed=None, augment=None, spread=None):
        super().__init__()
        self.slices, self.batch_size, self.seed, self.augment = slices, batch_size, seed, augment
        self.spread = spread or Spread()
        self.set_epoch(0)

    def set_epoch(self, epoch):
        """Draw the order of an epoch; to be called before it begins."""
        self.epoch = epoch
        count = len(self.slices)
        self.order = (
            np.arange(count) if self.seed is None else np.random.default_rng([self.seed, epoch]).permutation(count)
        )

    def __len__(self):
        return math.ceil(len(self.slices) / self.batch_size)

    def batch(self, index):
        """The batch of this number, whether an epoch has begun or not."""
        return self[index]

    def __getitem__(self, index):
        """Slices (B, H, W, 1) float32 in 0..1, and class numbers (B, H, W, 1) uint8."""
        indices = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        own = self.spread.own(indices)
        with clock.timed("reading"):
            x, y = self.slices.batch(own)
        if self.augment:
            with clock.timed("augmenting"):
                part = [self.spread.process] if len(own) < len(indices) else []
                x, y = self.augment(x, y, [self.seed or 0, self.epoch, index, *part])
        batch = self.spread.place((x, y), len(indices))
        clock.made(index, len(x))
        return batch

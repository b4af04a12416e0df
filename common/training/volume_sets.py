"""Sets of packed volumes for training, in memory where they fit, and batches of whole cases or of equal crops."""

import itertools
import json
import math
import os

import keras
import numpy as np

from common.errors import InputError
from common.prediction.volume_tiling import predict_volume, to_labels
from common.scores import mean_dice
from common.slices.drawing import PREDICTED_COLOUR, TRUTH_COLOUR, draw_planes, first_and_last
from common.training.distribution import Spread
from common.training.timing import clock
from common.training.volume_augmentation import Change, check_augmentation, plain_geometry, show, within
from common.volumes.grids import Box, grid_of_box, grow_box, whole_box

WORKERS = max(2, min(8, os.cpu_count() - 1))  # threads that prepare batches; SimpleITK lets go of Python's lock
FOREGROUND_SHARE = 0.5  # of the crops that are put around a labelled voxel
PROBES = (16, 24)  # sides of the batches that show Keras which axes vary


class VolumeSet:
    """Packed volumes with labels.

    Attributes:
        path: file that it came from.
        names: list of str, the cases.
        classes: number of labels.
        in_memory: whether the volumes are arrays.
        shape: (None, None, None, channels).
        tile: voxels (up, back, left) of the crops that its batches have, and of the tiles of `best_and_worst`, or None.

    Args:
        path: of the file.
        file: h5py.File of it, open.
        memory_gb: sets of up to so many GB are read into memory, in their number types.

    Raises:
        InputError: if it holds no case, or is damaged.
    """

    axes, tile = 3, None

    def __init__(self, path, file, memory_gb):
        self.path, attributes = path, file.attrs
        self.names = list(file.get("cases", ()))
        if not self.names:
            raise InputError(f"{path} holds no volume")
        try:
            self.groups = [file["cases"][name] for name in self.names]
        except (KeyError, OSError):
            raise InputError(f"{path} links to cases.h5, which is not in its place; pack the volumes again") from None
        self.step, self.labels = str(attributes["step"]), json.loads(attributes["labels"])
        self.classes, self.channels = len(self.labels), int(attributes["channels"])
        self.intensity, self.spacing = json.loads(attributes["intensity"]), json.loads(attributes["spacing"])
        self.voxels = int(attributes["voxels"]) or None
        self.smallest_box, self.margin = int(attributes["smallest_box"]), float(attributes["margin"])
        self.geometries = [
            plain_geometry(group["label"].shape, json.loads(group.attrs["grid"])["spacing"]) for group in self.groups
        ]
        self.boxes = [Box(*(tuple(map(int, corner)) for corner in group.attrs["box"])) for group in self.groups]
        self.smallest = [max(1, round(self.smallest_box / group.attrs["factor"])) for group in self.groups]
        self.lowest = [group.attrs["lowest"] for group in self.groups]  # of each channel: what lies outside
        size = sum(group[name].nbytes for group in self.groups for name in ("image", "label"))
        self.in_memory = size <= memory_gb * 1e9
        try:
            self.places = [group["places"][:] for group in self.groups]
            if self.in_memory:
                self.groups = [{name: group[name][:] for name in ("image", "label")} for group in self.groups]
        except OSError:
            raise InputError(f"{path} is damaged or cut short; pack the volumes again") from None

    def __len__(self):
        return len(self.names)

    @property
    def shape(self):
        """(None, None, None, channels): volumes are of any size."""
        return (None, None, None, self.channels)

    def in_words(self):
        """Number and size of the volumes as text."""
        counts = [np.prod(self.shown(i).size) for i in range(len(self))]
        return f"{len(self)} volumes of {min(counts) / 1e6:.2g} to {max(counts) / 1e6:.2g} million voxels ({self.step})"

    def has_foreground(self):
        """Whether any volume has a label."""
        return any(len(places) for places in self.places)

    def in_order(self):
        """What tells its items apart, in their order, as a list of str."""
        return self.names

    def identities(self):
        """What may not be in two sets, as a set of str."""
        return set(self.names)

    def about(self):
        """What later steps need to know of the volumes, as a dict for JSON."""
        return {
            "kind": "volumes",
            "step": self.step,
            "classes": self.classes,
            "labels": self.labels,
            "channels": self.channels,
            "spacing": self.spacing,
            "voxels": self.voxels,
            "smallest_box": self.smallest_box,
            "margin": self.margin,
            "intensity": self.intensity,
        }

    def read(self, i, box):
        """Image (s, h, w, C) float16 and labels (s, h, w) uint8 of a Box of a case."""
        return tuple(self.groups[i][name][box.slices] for name in ("image", "label"))

    def shown(self, i, margin=None):
        """Box of a case that a network is shown: all of it, or in the step "patch" that of the labels with a margin.

        Args:
            i: number of the case.
            margin: share of its sides on each side; None: that of prediction.
        """
        geometry = self.geometries[i]
        if self.step != "patch":
            return whole_box(geometry)
        return grow_box(self.boxes[i], geometry, self.smallest[i], self.margin if margin is None else margin)

    def batches(self, batch_size, seed=None, augmentation=None, crop=None, spread=None):
        """Batches of the volumes; arguments as the settings of train.py, `seed` None for the order of the set.

        For `spread` see `common.training.distribution`; None: one device.

        Raises:
            ValueError: for an augmentation that there is not, a crop that is none, or several whole volumes in a batch.
        """
        check_augmentation(augmentation or {}, self.step)
        if crop is None and batch_size > 1:
            raise ValueError(
                f"BATCH_SIZE is {batch_size}; volumes of different sizes go one at a time: give --crop too"
            )
        if crop is not None and (len(crop) != 3 or not all(isinstance(n, int) and n >= 8 for n in crop)):
            raise ValueError(f"CROP is {crop}; expected three whole numbers of at least 8, up, back and left")
        if seed is not None and len(self) == 1 and (augmentation or {}).get("margins"):
            raise ValueError("margins make volumes of several sizes, and need two volumes to train on at least")
        self.tile = crop
        if seed is None:
            return ValidationBatches(self, batch_size, crop, spread)
        return TrainingBatches(self, batch_size, crop, spread, seed, augmentation or {})

    def best_and_worst(self, model, batch_size, count=3):
        """The `count` worst and the `count` best volumes in three planes, with the outlines of labels and prediction.

        Returns:
            list of ((H, W, 3) uint8, RGB; caption).
        """
        judged = {}
        for i in range(len(self)):
            image, labels = self.shown_volume(i)
            if labels.any():
                guess = to_labels(predict_volume([model], image, self.voxels, self.tile))
                outlines = [(labels, [TRUTH_COLOUR]), (guess, [PREDICTED_COLOUR])]
                picture = draw_planes(image[..., 0], outlines, self.geometries[i].spacing)
                judged[i] = mean_dice(guess, labels), picture
        chosen = first_and_last(sorted(judged, key=lambda i: judged[i][0]), count)
        return [(judged[i][1], f"{judged[i][0]:.3f} {self.names[i]}") for i in chosen]

    def shown_volume(self, i):
        """What a network is shown of a case without augmentation: image (S, H, W, C) float32, labels (S, H, W)."""
        return self.show(i, within(self.geometries[i], self.shown(i), self.voxels))

    def show(self, i, grid, change=None):
        """A grid of a case, changed; see `common.training.volume_augmentation.show`."""
        return show(lambda box: self.read(i, box), self.geometries[i], grid, change, self.lowest[i])


class VolumeBatches(keras.utils.PyDataset):
    """Batches of volumes, prepared by several threads while the network computes.

    Args:
        volumes: VolumeSet.
        batch_size: items a batch; the last one of an epoch may have fewer.
        crop: voxels (up, back, left), or None for whole volumes, one a batch.
        spread: `common.training.distribution.Spread` of the devices that they go to; None: one.

    Attributes:
        items: what an epoch goes through, in its order; `make` makes image and labels of one.
    """

    def __init__(self, volumes, batch_size, crop, spread=None):
        super().__init__(workers=WORKERS, max_queue_size=WORKERS)
        self.volumes, self.batch_size, self.crop = volumes, batch_size, crop
        self.spread = spread or Spread()
        self.begun = False

    def on_epoch_begin(self):
        self.begun = True

    def __len__(self):
        return math.ceil(len(self.items) / self.batch_size)

    def __getitem__(self, index):
        """Images (B, S, H, W, C) float32 and labels (B, S, H, W, 1) uint8.

        Keras looks at the first two batches before an epoch begins, to learn which axes vary. In those that it gets to
        see then, all do.
        """
        if not (self.begun or self.crop or len(self) == 1):
            side = PROBES[index % len(PROBES)]
            shape = (1, side, side, side)
            probe = np.zeros((*shape, self.volumes.channels), np.float32), np.zeros((*shape, 1), np.uint8)
            return self.spread.place(probe, 1)
        return self.batch(index)

    def batch(self, index):
        """The batch of this number, whether an epoch has begun or not."""
        items = self.items[index * self.batch_size : (index + 1) * self.batch_size]
        with clock.timed("reading and augmenting"):
            images, labels = zip(*map(self.make, self.spread.own(items)), strict=True)
            batch = self.spread.place((np.stack(images), np.stack(labels)[..., None]), len(items))
        clock.made(index, len(images))
        return batch


class TrainingBatches(VolumeBatches):
    """Augmented cases in random order; or crops, as many of a case as it takes to have its voxels once.

    All that is random in an epoch depends on (seed, epoch) alone, whichever thread is first.

    Args:
        volumes, batch_size, crop, spread: as `VolumeBatches`.
        seed: int.
        augmentation: dict for `common.training.volume_augmentation.Change`, and "margins".
    """

    def __init__(self, volumes, batch_size, crop, spread, seed, augmentation):
        super().__init__(volumes, batch_size, crop, spread)
        self.seed, self.augmentation = seed, augmentation
        self.all_items = [(i, number) for i in range(len(volumes)) for number in range(self.count(i))]
        self.set_epoch(0)

    def count(self, i):
        """How often an epoch comes to a case."""
        return math.ceil(np.prod(self.volumes.shown(i).size) / np.prod(self.crop)) if self.crop else 1

    def set_epoch(self, epoch):
        """Draw the order of an epoch; to be called before it begins."""
        self.epoch = epoch
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.all_items))
        self.items = [self.all_items[number] for number in order]

    def make(self, item):
        """Image and labels of a case as this epoch has them for the number of times that it came to it."""
        i, number = item
        volumes, geometry = self.volumes, self.volumes.geometries[i]
        rng = np.random.default_rng([self.seed, self.epoch, i, number, 1])
        change = Change(self.augmentation, rng)
        margins = self.augmentation.get("margins")
        box = volumes.shown(i, rng.choice(margins) if margins else None)
        if self.crop:
            grid = grid_of_box(geometry, self.draw_crop(volumes.places[i], box, rng))
        else:
            grid = within(geometry, box, volumes.voxels)
        return volumes.show(i, grid, change)

    def draw_crop(self, places, box, rng):
        """Box of the size of a crop within another, often around a voxel of a label, each label equally often."""
        size, low, high = np.array(self.crop[::-1]), np.array(box.start), np.array(box.stop)
        start = rng.integers(low, np.maximum(high - size, low) + 1)
        around, label, which = rng.random(3)
        if around < FOREGROUND_SHARE and len(places):
            numbers = np.unique(places[:, 3])
            of_label = places[places[:, 3] == numbers[int(label * len(numbers))]]
            centre = of_label[int(which * len(of_label)), 2::-1]
            start = np.clip(centre - size // 2, low, np.maximum(high - size, low))
        return Box(tuple(start.tolist()), tuple((start + size).tolist()))


class ValidationBatches(VolumeBatches):
    """Cases as prediction sees them, or crops side by side that cover them, always in the same order.

    Args:
        volumes, batch_size, crop, spread: as `VolumeBatches`.
    """

    def __init__(self, volumes, batch_size, crop, spread=None):
        super().__init__(volumes, batch_size, crop, spread)
        self.items = [(i, box) for i in range(len(volumes)) for box in self.boxes(i)]

    def boxes(self, i):
        """Boxes of a case; of crops, the last along an axis reach over one another."""
        shown = self.volumes.shown(i)
        if not self.crop:
            return [shown]
        size = self.crop[::-1]
        starts = []
        for low, high, side in zip(shown.start, shown.stop, size, strict=True):
            starts.append([max(low, min(start, high - side)) for start in range(low, high, side)])
        return [Box(start, tuple(np.add(start, size).tolist())) for start in itertools.product(*starts)]

    def make(self, item):
        i, box = item
        if not self.crop:
            return self.volumes.shown_volume(i)
        return self.volumes.show(i, grid_of_box(self.volumes.geometries[i], box))

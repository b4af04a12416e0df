"""Sets of packed volumes for training, in memory if they fit, and batches of whole cases or equal crops."""

import itertools
import json
import math
import os
import time
from pathlib import Path

import keras
import numpy as np
import scipy.ndimage

from common.devices import OneDevice
from common.errors import InputError
from common.slices.classes import NESTED, OVERLAPPING, as_sets, channels_of, type_of_masks
from common.slices.hdf5 import damage_as_error, open_unchanged, state_of
from common.slices.hdf5_text import key_of, names_in, text_of
from common.training.augmentation import VolumeChange, check_volume_augmentation
from common.training.run_records import VolumeData
from common.training.volume_grids import plain_geometry, read_grid
from common.volumes.grids import Box, Geometry, grid_of_box, grow_box, whole_box
from common.words import number_of

WORKERS = max(2, min(8, os.cpu_count() - 1))  # threads that prepare batches; SimpleITK releases Python's lock
STEPS = ("whole", "patch", "single")
CLOSING = (5, 5, 5)  # voxels
PROBES = (16, 24)  # sides of dummy batches that show Keras which axes vary


class VolumeSet:
    """Packed volumes with labels. Implements `common.training.sets.TrainingSet`.

    Attributes:
        path: source file.
        names: names of the cases, list of str.
        classes: number of labels.
        overlap: how labels share voxels; see `common.slices.classes`. Overlapping ones are stored as sets, nested ones
            as numbers.
        overlapping: whether they share any.
        regions: dict of class to label numbers in the files, if classes are regions; otherwise {}.
        in_memory: whether the volumes are arrays.
        shape: (None, None, None, channels).

    Args:
        path: path of the file.
        file: the open h5py.File.
        memory_gb: load sets up to this size into memory, in their number types.

    Raises:
        InputError: if the file contains no case, or is damaged.
    """

    axes = 3
    division = ""  # 3_pack_volumes.py writes its folder in one piece
    ignores = False  # 3_pack_volumes.py accepts no label to ignore

    def __init__(self, path, file, memory_gb):
        self.path = path
        with damage_as_error(path):
            self.names = names_in(file.get("cases", ()))
            if not self.names:
                raise InputError(f"{path}: contains no volume; pack the volumes again")
            self._read_attributes(file.attrs)
            self._read_cases([file["cases"][key_of(name)] for name in self.names], memory_gb)

    def _read_attributes(self, attributes):
        self.step, self.labels = str(text_of(attributes["step"])), list(map(str, json.loads(attributes["labels"])))
        self.classes, self.channels = len(self.labels), int(attributes["channels"])
        self.intensity, self.spacing = json.loads(attributes["intensity"]), json.loads(attributes["spacing"])
        self.voxels = int(attributes["voxels"]) or None
        self.smallest_side = int(attributes.get("smallest_side", 0))
        self.smallest_box, self.margin = int(attributes["smallest_box"]), float(attributes["margin"])
        self.patterns = json.loads(attributes.get("patterns", "[]"))
        overlap = str(text_of(attributes.get("overlap", NESTED if attributes.get("nested", False) else "")))
        self.overlap = overlap if self.classes > 1 else ""
        self.overlapping = bool(self.overlap)
        self.regions = json.loads(attributes.get("regions", "{}")) if self.overlap else {}
        if self.step not in STEPS or not self.labels or overlap not in (OVERLAPPING, NESTED, ""):
            raise ValueError(self.step)

    def _read_cases(self, groups, memory_gb):
        self.geometries, self.boxes, self.smallest, self.lowest, self.grids = [], [], [], [], []
        for group in groups:
            shape, attributes = group["label"].shape, group.attrs
            grid, box = json.loads(attributes["grid"]), np.asarray(attributes["box"])
            spacing = grid["spacing"]
            lowest, factor = np.asarray(attributes["lowest"]), float(attributes["factor"])
            fits = group["image"].shape == (*shape, self.channels) and lowest.shape == (self.channels,)
            fits = fits and group["label"].dtype == type_of_masks(self.overlap == OVERLAPPING)
            fits = fits and box.shape == (2, 3) and box.dtype.kind in "iu" and lowest.dtype == np.float16
            if not (fits and len(shape) == 3 and np.all(np.isfinite(spacing)) and min(*spacing, factor) > 0):
                raise ValueError(group.name)
            self.geometries.append(plain_geometry(shape, spacing))
            self.grids.append(grid)
            self.boxes.append(Box(*map(tuple, box.tolist())))
            self.smallest.append(max(1, round(self.smallest_box / factor)))
            self.lowest.append(lowest)  # value outside the volume, for each channel
        size = sum(group[name].nbytes for group in groups for name in ("image", "label"))
        self.in_memory = size <= memory_gb * 1e9
        self.places = [group["places"][:] for group in groups]
        self.states = {file: state_of(os.stat(file)) for file in {Path(group.file.filename) for group in groups}}
        self.groups, self.clusters_of = groups, {}
        if self.in_memory:
            self.groups = [{name: group[name][:] for name in ("image", "label")} for group in groups]

    def __len__(self):
        return len(self.names)

    @property
    def shape(self):
        """(None, None, None, channels): volumes can have any size."""
        return (None, None, None, self.channels)

    def in_words(self):
        """Number and size of the volumes as text."""
        counts = [np.prod(self.shown_box(i).size) for i in range(len(self))]
        number = number_of(len(self), "volume")
        return f"{number} of {min(counts) / 1e6:.2g} to {max(counts) / 1e6:.2g} million voxels ({self.step})"

    def has_foreground(self):
        """Whether any volume has a label."""
        return any(len(places) for places in self.places)

    def item_keys(self):
        """Names of the cases."""
        return self.names

    def case_keys(self, by_name):
        """Names of the cases, as a set."""
        return set(self.names)

    def record(self):
        """Facts about the volumes for later steps, as a `common.training.run_folder.VolumeData`."""
        return VolumeData.of(
            self.path,
            step=self.step,
            classes=self.classes,
            labels=self.labels,
            channels=self.channels,
            spacing=self.spacing,
            voxels=self.voxels,
            smallest_side=self.smallest_side,
            smallest_box=self.smallest_box,
            margin=self.margin,
            intensity=self.intensity,
            nested=self.overlap == NESTED,
            overlap=self.overlap,
            patterns=self.patterns,
            regions=self.regions,
        )

    def read(self, i, box):
        """Image (s, h, w, C) float16 and labels (s, h, w), uint8 or sets, inside a Box of a case."""
        if not self.in_memory:
            file = Path(self.groups[i].file.filename)
            with open_unchanged(file, self.states[file]):
                pass
        return tuple(self.groups[i][name][box.slices] for name in ("image", "label"))

    def clusters(self, i):
        """Boxes around the clusters of labels of a case, as list of Box.

        Parts that a closing of CLOSING voxels a side joins are one cluster.
        """
        if i not in self.clusters_of:
            foreground = self.groups[i]["label"][:] > 0
            closed = scipy.ndimage.grey_closing(foreground, CLOSING)
            components, _ = scipy.ndimage.label(closed, np.ones((3, 3, 3)))
            found = scipy.ndimage.find_objects(components * foreground)  # at a border, closing adds voxels
            self.clusters_of[i] = [
                Box(*(tuple(getattr(side, end) for side in sides[::-1]) for end in ("start", "stop")))
                for sides in found
            ]
        return self.clusters_of[i]

    def shown_box(self, i, margin=None, around=None):
        """Box of a case that the model is shown: the whole case, or in the step "patch" the labels with a margin.

        Args:
            i: number of the case.
            margin: share of the box side to add on each side; None: the same as in prediction.
            around: Box in place of that of all labels; None: all labels.
        """
        geometry = self.geometries[i]
        if self.step != "patch":
            return whole_box(geometry)
        margin = self.margin if margin is None else margin
        return grow_box(around or self.boxes[i], geometry, self.smallest[i], margin)

    def shown_grids(self):
        """Geometry of each case as the model is shown it without augmentation and crops."""
        return [grid_of_box(self.geometries[i], self.shown_box(i), self.voxels) for i in range(len(self))]

    def true_grid(self, i):
        """Geometry of a case as the model is shown it, where it was in the patient."""
        grid = Geometry(**{name: tuple(values) for name, values in self.grids[i].items()})
        return grid_of_box(grid, self.shown_box(i), self.voxels)

    def typical_grid(self, crop=None):
        """Medians over the cases of what a network sees, for networks that choose their kernels by it.

        Args:
            crop: size in voxels (up, back, left), as in `batches`.

        Returns:
            dict of "spacing" in mm, list of float, and "size" in voxels, list of int; both along (up, back, left).
        """
        grids = self.shown_grids()
        spacing = np.median([(self.geometries[i] if crop else grid).spacing for i, grid in enumerate(grids)], axis=0)
        size = crop or np.median([grid.size for grid in grids], axis=0)[::-1]
        return {"spacing": [round(float(mm), 4) for mm in spacing[::-1]], "size": [int(side) for side in size]}

    def batches(self, batch_size, seed=None, augmentation=None, crop=None, devices=None, foreground=0):
        """Batches of volumes; see `common.training.sets.TrainingSet`.

        Raises:
            ValueError: for an unknown augmentation, an invalid crop, or several whole volumes per batch or a share of
                foreground in them.
        """
        if foreground and crop is None:
            raise ValueError(f"FOREGROUND: whole volumes are shown as they are (found {foreground:g}); set it to 0")
        augmentation = {} if isinstance(augmentation, str) else augmentation or {}  # presets are for slices
        check_volume_augmentation(augmentation, self.step)
        if crop is None and batch_size > 1:
            raise ValueError(
                f"BATCH_SIZE: expected 1 for whole volumes, which differ in size (found {batch_size}); pass --crop too"
            )
        if crop is not None and (len(crop) != 3 or not all(isinstance(n, int) and n >= 8 for n in crop)):
            raise ValueError(f"CROP: expected three whole numbers of at least 8: up, back, left (found {crop})")
        if seed is not None and len(self) == 1 and augmentation.get("margins"):
            raise ValueError("AUGMENTATION: margins need at least two training volumes (found one); remove them")
        if seed is None:
            return ValidationBatches(self, batch_size, crop, devices)
        return TrainingBatches(self, batch_size, crop, devices, seed, augmentation, foreground)

    def shown_volume(self, i):
        """A case as the model is shown it without augmentation: image (S, H, W, C) float32, labels (S, H, W)."""
        return self.read_grid(i, grid_of_box(self.geometries[i], self.shown_box(i), self.voxels))

    def targets(self, labels):
        """Labels (...) as a network learns them: (..., 1), or (..., K) uint8 of 0 and 1 if they share voxels."""
        if not self.overlapping:
            return labels[..., None]
        return channels_of(as_sets(labels, self.overlap)[..., None], self.classes)

    def read_grid(self, i, grid, change=None):
        """Read a grid of a case with a change; see the function `read_grid`."""
        return read_grid(lambda box: self.read(i, box), self.geometries[i], grid, change, self.lowest[i])


class VolumeBatches(keras.utils.PyDataset):
    """Batches of volumes, prepared by several threads while the model computes.

    Args:
        volumes: VolumeSet.
        batch_size, devices: as in `common.training.sets.TrainingSet.batches`.
        crop: size in voxels (up, back, left); None: whole volumes, one per batch.

    Attributes:
        items: items of an epoch, in order; `make` makes image and labels of one.
    """

    def __init__(self, volumes, batch_size, crop, devices=None):
        super().__init__(workers=WORKERS, max_queue_size=WORKERS)
        self.volumes, self.batch_size, self.crop = volumes, batch_size, crop
        self.devices = devices or OneDevice()
        self.begun, self.made_at = False, {}

    def on_epoch_begin(self):
        self.begun = True

    def __len__(self):
        return math.ceil(len(self.items) / self.batch_size)

    def __getitem__(self, index):
        """Images (B, S, H, W, C) float32 and labels (B, S, H, W, 1) uint8, or channels if they overlap.

        Before an epoch begins, Keras reads the first two batches to learn which axes vary. It then gets dummy batches
        in which all of them vary.
        """
        if not (self.begun or self.crop or len(self) == 1):
            side = PROBES[index % len(PROBES)]
            shape = (1, side, side, side)
            labels = self.volumes.targets(np.zeros(shape, np.uint8))
            probe = np.zeros((*shape, self.volumes.channels), np.float32), labels
            return self.devices.put(probe, 1)
        return self.batch(index)

    def batch(self, index):
        """Return a batch, whether an epoch has begun or not."""
        items = self.items[index * self.batch_size : (index + 1) * self.batch_size]
        images, labels = zip(*map(self.make, self.devices.own_share(items)), strict=True)
        batch = self.devices.put((np.stack(images), self.volumes.targets(np.stack(labels))), len(items))
        self.made_at.setdefault(index, time.perf_counter())
        return batch


class TrainingBatches(VolumeBatches):
    """Augmented cases in random order; or crops, as many per case as its voxel count requires.

    All random choices in an epoch depend only on (seed, epoch), whichever thread is first.

    Args:
        volumes, batch_size, crop, devices: as in `VolumeBatches`.
        seed: int.
        augmentation: settings of `common.training.augmentation.VolumeChange`, "margins", "anywhere" and "cluster".
        foreground: share of the crops that are placed around a labeled voxel.
    """

    def __init__(self, volumes, batch_size, crop, devices, seed, augmentation, foreground):
        super().__init__(volumes, batch_size, crop, devices)
        self.seed, self.augmentation, self.foreground = seed, augmentation, foreground
        self.all_items = [(i, number) for i in range(len(volumes)) for number in range(self.count(i))]
        self.set_epoch(0)

    def count(self, i):
        """How often an epoch shows a case."""
        return math.ceil(np.prod(self.volumes.shown_box(i).size) / np.prod(self.crop)) if self.crop else 1

    def set_epoch(self, epoch):
        """Shuffle for an epoch; call this before it begins."""
        self.epoch, self.made_at = epoch, {}
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.all_items))
        self.items = [self.all_items[number] for number in order]

    def make(self, item):
        """Augmented image and labels of an item, (case, how often this epoch has already shown it)."""
        i, number = item
        volumes, geometry = self.volumes, self.volumes.geometries[i]
        rng = np.random.default_rng([self.seed, self.epoch, i, number, 1])
        change = VolumeChange(self.augmentation, rng)
        margins = self.augmentation.get("margins")
        margin, cluster = rng.choice(margins) if margins else None, None
        if (share := self.augmentation.get("cluster", 0)) and rng.random() < share:
            clusters = volumes.clusters(i)
            cluster = clusters[rng.integers(len(clusters))]
        box = volumes.shown_box(i, margin, cluster)
        if (share := self.augmentation.get("anywhere", 0)) and rng.random() < share:
            box = draw_box(box.size, whole_box(geometry), rng)
        if self.crop:
            grid = grid_of_box(geometry, self.draw_crop(volumes.places[i], box, rng))
        else:
            grid = grid_of_box(geometry, box, volumes.voxels)
        return volumes.read_grid(i, grid, change)

    def draw_crop(self, places, box, rng):
        """Draw a crop inside a box, at random or around a labeled voxel, with each label equally often."""
        size, low, high = np.array(self.crop[::-1]), np.array(box.start), np.array(box.stop)
        drawn = draw_box(size, box, rng)
        around, label, voxel = rng.random(3)
        if around < self.foreground and len(places):
            numbers = np.unique(places[:, 3])
            of_label = places[places[:, 3] == numbers[int(label * len(numbers))]]
            center = of_label[int(voxel * len(of_label)), 2::-1]
            start = np.clip(center - size // 2, low, np.maximum(high - size, low))
            return Box(tuple(start.tolist()), tuple((start + size).tolist()))
        return drawn


def draw_box(size, box, rng):
    """Draw a Box with this size, (i, j, k), inside another; along an axis that is too short, from its first voxel."""
    low, high = np.array(box.start), np.array(box.stop)
    start = rng.integers(low, np.maximum(high - size, low) + 1)
    return Box(tuple(start.tolist()), tuple((start + size).tolist()))


class ValidationBatches(VolumeBatches):
    """Cases as in prediction, or adjacent crops that cover them, always in the same order.

    Args:
        volumes, batch_size, crop, devices: as in `VolumeBatches`.
    """

    def __init__(self, volumes, batch_size, crop, devices=None):
        super().__init__(volumes, batch_size, crop, devices)
        self.items = [(i, box) for i in range(len(volumes)) for box in self.boxes(i)]

    def boxes(self, i):
        """Boxes of a case. Crops are adjacent from the first corner on; the last one along each axis is moved back.

        The starts differ from `common.slices.tiling.tile_starts`: validation scores depend on these crops, and a
        resumed run must continue with the same ones.
        """
        shown = self.volumes.shown_box(i)
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
        return self.volumes.read_grid(i, grid_of_box(self.volumes.geometries[i], box))

"""Data sets for training: open packed files and lists, keep slices in memory or in files, and make batches."""

import collections
import functools
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import cv2
import keras
import numpy as np

from common.devices import OneDevice
from common.errors import InputError, summarize
from common.parallel import ordered_map, progress
from common.slices.channels import to_draw
from common.slices.classes import channels_of, is_target, type_of_masks
from common.slices.hdf5 import damage_as_error, open_hdf5
from common.slices.images import read_mask, read_pair, read_slice, shapes_of, to_unit, with_channels
from common.slices.lists import read_list, slice_identity
from common.slices.masks import to_classes, values_of
from common.slices.packed import read_packed
from common.slices.preparation import common_preparation, count_classes, holds_ignored, list_of_text
from common.slices.rows import LazyRows
from common.training.augmentation import make_augmentation
from common.training.divisions import refuse_mixed_divisions, refuse_shared_cases
from common.training.run_records import SliceData
from common.training.sampling import with_share
from common.words import number_of


class TrainingSet(Protocol):
    """Interface of a training set: see SliceSet and `common.training.volume_sets.VolumeSet`.

    Attributes:
        axes: spatial axes of an item, 2 or 3.
        classes: 1, or K for class numbers 0..K.
        shape: shape of an item, (height, width, channels) or (None, None, None, channels).
        division: identity of the division of a packed set; "" if unknown.
        ignores: whether masks have pixels that are `common.slices.classes.IGNORED`.
        overlapping: whether classes overlap.
    """

    axes: int
    classes: int
    shape: tuple
    division: str
    ignores: bool
    overlapping: bool

    def __len__(self):
        """Number of items."""

    def in_words(self):
        """Number and size of the items as text."""

    def has_foreground(self):
        """Whether any mask has foreground."""

    def item_keys(self):
        """Identity of each item as a list of str; "" if unknown. No key may be in two sets."""

    def case_keys(self, by_name):
        """Identity of the cases as a set of str: by their names, or by their folders. See SliceSet."""

    def record(self):
        """Facts for later steps: SliceData or VolumeData of `common.training.run_folder`."""

    def batches(self, batch_size, seed=None, augmentation=None, crop=None, devices=None, foreground=0):
        """Batches for `fit` and `evaluate`.

        Args:
            batch_size: items per batch over all devices; the last batch may be smaller.
            seed: int for shuffled batches; None: the order of the set.
            augmentation: setting AUGMENTATION, a dict or the name of a preset.
            crop: setting CROP, a list or None.
            devices: `common.devices.OneDevice` or `common.training.distribution.Devices`; None: one device.
            foreground: setting FOREGROUND, a share of every batch.

        Returns:
            keras.utils.PyDataset with: batch(index), for any batch at any time; with a seed, set_epoch(epoch), to call
            before each epoch; made_at, a dict of batch index to the time.perf_counter() when it was made.

        Raises:
            ValueError: if the set does not support the augmentation, the crop or the batch size.
        """


def open_set(path, memory_gb=4.0, classes=None):
    """Open a packed set (.h5, also from AIS with <name>_X and <name>_Y), packed volumes (.h5) or a list (.csv).

    Args:
        path: path of the file.
        memory_gb: load sets up to this size into memory, in their integer type; larger ones stay in the file.
        classes: number of classes if known from another set; None: find it in this set.

    Returns:
        TrainingSet: SliceSet or `common.training.volume_sets.VolumeSet`.

    Raises:
        InputError: if the file is missing, damaged, empty or something else.
    """
    path = Path(path)
    if not path.is_file():
        packed = "a packed set of 3_pack_hdf5.py or 3_pack_volumes.py"
        problem = "expected a file (found a folder)" if path.is_dir() else "file does not exist"
        raise InputError(f"{path}: {problem}; pass {packed}, or a list of 2_write_lists.py")
    opener = _open_list if path.suffix.lower() == ".csv" else _open_packed
    return opener(path, memory_gb, classes)


def open_both(training_path, validation_path, memory_gb):
    """Open the training and the validation set; arguments and errors are as in `open_set`.

    Returns:
        The two sets; None for a validation path of "".

    Raises:
        InputError: also if they differ in shape or classes, share slices or cases, were not divided together although
            they are in the same folder, or validation has no foreground.
    """
    training = open_set(training_path, memory_gb)
    if not validation_path:
        return training, None
    validation = open_set(validation_path, memory_gb, training.classes)
    for property_name, ours, theirs in (
        ("image shape", training.shape, validation.shape),
        ("number of classes", training.classes, validation.classes),
        ("kind of masks", *("overlapping classes" if s.overlapping else "numbers" for s in (training, validation))),
    ):
        if ours != theirs:
            raise InputError(
                f"{validation_path}: its {property_name} must match {training_path} (found {theirs} and {ours}); "
                "pack both with the same settings"
            )
    refuse_mixed_divisions(training, validation)
    if both := set(training.item_keys()) & set(validation.item_keys()) - {""}:
        raise InputError(
            f"{validation_path}: contains slices or cases of {training_path} (found {len(both)}, such as {min(both)}); "
            "split them again"
        )
    refuse_shared_cases(training, validation)
    if not validation.has_foreground():
        raise InputError(f"{validation_path}: every mask is empty, so no epoch can be the best; use another VALIDATION")
    return training, validation


class SliceSet:
    """Slices with masks. Implements TrainingSet.

    Attributes:
        path: source file.
        x, y: (N, H, W, C) and (N, H, W, 1) in the files' integer types; as in `common.slices.packed.PackedSlices`.
        case, source: lists of N str.
        classes: 1, K for class numbers 0..K, or K overlapping classes.
        in_memory: whether x and y are arrays.
        preparation: result of `common.slices.preparation.common_preparation`.
        division: identity of the division of a packed set; "" if unknown.
        ignores: whether masks have pixels that are IGNORED.
    """

    axes = 2

    def __init__(self, path, x, y, case, source, classes, in_memory, preparation, division="", ignores=False):
        self.path, self.x, self.y, self.case, self.source = path, x, y, case, source
        self.classes, self.in_memory, self.preparation = int(classes), in_memory, preparation
        self.division, self.ignores = division, ignores
        self.overlapping = bool(preparation.get("overlap")) and self.classes > 1

    def __len__(self):
        return len(self.case)

    @property
    def shape(self):
        """(height, width, channels) of a slice."""
        return tuple(self.x.shape[1:])

    def in_words(self):
        """Number and size of the slices as text."""
        channels = f" with {self.shape[2]} channels" if self.shape[2] > 1 else ""
        return f"{number_of(len(self), 'slice')} of {self.shape[0]}x{self.shape[1]}{channels}"

    def has_foreground(self):
        """Whether any mask has foreground."""
        return any(is_target(self.y[i]).any() for i in range(len(self)))

    @functools.cached_property
    def with_foreground(self):
        """Whether each mask has foreground, (N,) bool; read once."""
        return np.array([is_target(self.y[i]).any() for i in range(len(self))])

    def item_keys(self):
        """Identity of each slice as a list of str, equal for its variants; "" if unknown."""
        return [slice_identity(source) if source else "" for source in self.source]

    def case_keys(self, by_name):
        """Set of str that identify the cases: their names, or the paths of their folders; without unknown ones."""
        if by_name:
            return set(self.case) - {""}
        return {os.path.dirname(key) for key in self.item_keys() if key}

    def record(self):
        """Facts about the slices for later steps, as a `common.training.run_folder.SliceData`."""

        names = list_of_text(str(self.preparation["class_names"]))

        def known(name):
            values = [float(value) for value in self.preparation[name]]
            return None if any(map(math.isnan, values)) else values

        return SliceData.of(
            self.path,
            classes=self.classes,
            size=self.shape[0],
            inputs=self.shape[2],
            bits=8 * self.x[0].dtype.itemsize,
            spacing=known("spacing"),
            window=known("window"),
            resampled=known("resampled"),
            plane=str(self.preparation["plane"]),
            fit=str(self.preparation["fit"]),
            stretched=bool(self.preparation["stretched"]),
            channels=list_of_text(str(self.preparation["channels"])),
            neighbors=int(self.preparation["neighbors"]),
            overlap=str(self.preparation["overlap"]) if self.overlapping else "",
            labels=names if names and len(names) == self.classes else None,
        )

    def to_draw(self, image):
        """What to draw of a slice of this set, (H, W, C); see `common.slices.channels.to_draw`."""
        return to_draw(image, int(self.preparation["neighbors"]))

    def batch(self, indices):
        """Slices scaled to 0..1, (B, H, W, C) float32, and masks, (B, H, W, 1): see `common.slices.classes`."""
        return to_unit(self.x[indices]), to_classes(self.y[indices], self.classes, self.overlapping)

    def batches(self, batch_size, seed=None, augmentation=None, crop=None, devices=None, foreground=0):
        """Batches of slices; see TrainingSet. Raises ValueError for an unknown augmentation, or a crop."""
        if crop:
            raise ValueError("CROP: only for packed volumes (found slices); set it to None")
        return Batches(self, batch_size, seed, make_augmentation(augmentation or {}), devices, foreground)


class Batches(keras.utils.PyDataset):
    """Batches of a set for `fit`, `evaluate` and `predict`.

    All random choices in an epoch depend only on (seed, epoch), so a resumed run continues as if uninterrupted; those
    of augmentation on (seed, epoch, slice), so batch size, threads, devices and processes do not change them. Each
    epoch shuffles all slices, whether they are in memory or in files. Threads prepare the next batches; from files,
    only these are read.

    Args:
        slices: SliceSet.
        batch_size, seed, devices: as in `TrainingSet.batches`.
        augment: `common.training.augmentation.SliceAugmentation`, or None.
        foreground: least share of every batch with foreground, if shuffled; slices with foreground then take the place
            of empty ones, and may come several times in an epoch.

    Attributes:
        order: number of the slice at each place of the epoch.
        times: how often this slice has come before in this epoch.
    """

    def __init__(self, slices, batch_size, seed=None, augment=None, devices=None, foreground=0):
        super().__init__()
        self.foreground = foreground
        self.slices, self.batch_size, self.seed, self.augment = slices, batch_size, seed, augment
        self.devices = devices or OneDevice()
        self.set_epoch(0)

    def set_epoch(self, epoch):
        """Shuffle for an epoch; call this before it begins."""
        self.epoch, self.made_at, self.ahead = epoch, {}, {}
        self.order = np.arange(len(self.slices))
        if self.seed is not None:
            rng = np.random.default_rng([self.seed, epoch])
            self.order = rng.permutation(len(self.slices))
            if self.foreground:
                self.order = with_share(self.order, self.slices.with_foreground, self.batch_size, self.foreground, rng)
        seen = collections.Counter()
        self.times = np.zeros(len(self.order), int)
        for place, number in enumerate(self.order.tolist()):
            self.times[place] = seen[number]
            seen[number] += 1

    def __len__(self):
        return math.ceil(len(self.slices) / self.batch_size)

    def batch(self, index):
        """Return a batch, whether an epoch has begun or not."""
        return self[index]

    def __getitem__(self, index):
        """Slices (B, H, W, C) float32 in 0..1, and class numbers (B, H, W, 1), or K overlapping classes (B, H, W, K),
        uint8."""
        pool, threads = _preparing()
        for later in range(index, min(index + threads + 1, len(self))):
            if later not in self.ahead:
                self.ahead[later] = pool.submit(self._make, later, self._items(later), self.epoch, self.made_at)
        batch = self.ahead.pop(index).result()
        return self.devices.put(batch, len(self._items(index)))

    def first(self, count):
        """The first `count` slices of this epoch, as the model sees them, and their masks, (B, H, W, 1)."""
        return self._augmented(np.stack([self.order, self.times], 1)[:count], self.epoch)

    def _items(self, index):
        places = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return np.stack([self.order[places], self.times[places]], 1)

    def _make(self, index, items, epoch, made_at):
        x, y = self._augmented(self.devices.own_share(items), epoch)
        y = channels_of(y, self.slices.classes) if self.slices.overlapping else y
        made_at.setdefault(index, time.perf_counter())
        return x, y

    def _augmented(self, items, epoch):
        x, y = self.slices.batch(items[:, 0])
        if self.augment:
            for i, item in enumerate(items):
                x[i], y[i] = self.augment(x[i], y[i], [self.seed or 0, epoch, *item], self._other)
        return x, y

    def _other(self, place):
        """The slice at a place in 0..1 of the set."""
        x, y = self.slices.batch([int(place * len(self.slices))])
        return x[0], y[0]


@functools.cache
def _preparing():
    """Threads that prepare batches, and their number: one core is left for the training step."""
    cv2.setNumThreads(1)  # each thread has its own slice
    threads = max(1, min(8, (os.cpu_count() or 1) - 1))
    return ThreadPoolExecutor(threads, "prepare"), threads


# --- opening


def _open_packed(path, memory_gb, classes):
    file = open_hdf5(path)
    with damage_as_error(path):
        has_volumes = "step" in file.attrs
    if has_volumes:
        from common.training.volume_sets import VolumeSet  # imports SimpleITK, which slices do not need

        return VolumeSet(path, file, memory_gb)
    return SliceSet(path, *read_packed(path, file, memory_gb, classes))


def _open_list(path, memory_gb, classes):
    table = read_list(path)
    preparation = common_preparation(table)
    mask_type, first = type_of_masks(preparation["overlap"]), read_slice(table["x"][0])
    shapes = {name: ((len(table), *shape), dtype) for name, (shape, dtype) in shapes_of(first, mask_type).items()}
    in_memory = sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes.values()) <= memory_gb * 1e9
    if in_memory:
        x, y = np.empty(*shapes["x"]), np.empty(*shapes["y"])
    else:
        x = LazyRows(lambda i: with_channels(read_slice(table["x"][i])), *shapes["x"])
        y = LazyRows(lambda i: read_mask(table["y"][i], mask_type)[..., None], *shapes["y"])
    problems, values = [], set()
    pairs = zip(table["x"], table["y"], strict=True)
    like = table["x"][0], first
    decoded = ordered_map(lambda pair: read_pair(*pair, like, mask_type), pairs, problems=problems)
    for i, pair in enumerate(progress(decoded, len(table), f"reading {path.name}")):
        if pair is None:
            continue
        if in_memory:
            x[i], y[i] = map(with_channels, pair)
        values |= values_of(pair[1])
    if problems:
        raise InputError(summarize(problems, f"slices of {path} cannot be used"))
    classes = count_classes(values, path, preparation, classes)
    texts = list(table["case"]), list(table["x"])
    return SliceSet(path, x, y, *texts, classes, in_memory, preparation, ignores=holds_ignored(values, preparation))

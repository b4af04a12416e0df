"""Sets of slices for training: packed HDF5 files or lists, in memory where they fit, and batches of them."""

import math
from pathlib import Path

import h5py
import keras
import numpy as np

from common.augmentation import make_augmentation
from common.cases import UNKNOWN, common_preparation, read_list, slice_identity
from common.errors import InputError, summarise
from common.images import (
    PREDICTED_COLOUR,
    TRUTH_COLOUR,
    class_count,
    class_numbers,
    draw_outlines,
    first_and_last,
    read_mask,
    read_pair,
    read_slice,
    to_classes,
    to_eight_bit,
    to_unit,
    values_of,
)
from common.parallel import ordered_map, progress
from common.scores import mean_dice
from common.spread import Spread
from common.stored import Rows, open_rows, refuse_broken_shards
from common.timing import clock


class SliceSet:
    """Slices with masks.

    Attributes:
        path: file that it came from.
        x, y: (N, H, W, 1) in the integer types of the files: arrays, or what gives rows when indexed like one, see
            `common.stored`.
        case, source: lists of N str.
        classes: 1, or K for class numbers 0..K.
        in_memory: whether x and y are arrays.
        preparation: dict of `common.cases.common_preparation`.

    `common.volume_sets.VolumeSet` has the same methods, and the attributes classes, shape and axes.
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

        For `spread` see `common.spread`; None: one device.

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


def open_set(path, memory_gb=4.0, classes=None):
    """Open a packed set (.h5, also one of AIS with <name>_X and <name>_Y), packed volumes (.h5) or a list (.csv).

    Args:
        path: the file.
        memory_gb: sets of up to so many GB are read into memory, in their integer type; greater ones stay in the file.
        classes: number of classes where it is known, from another set; None finds it in this one.

    Returns:
        SliceSet or `common.volume_sets.VolumeSet`.

    Raises:
        InputError: if the file is missing, damaged, empty or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path} does not exist; expected a packed set of 3_pack_hdf5.py or a list of 2_write_lists.py"
        )
    opener = _open_list if path.suffix.lower() == ".csv" else _open_packed
    return opener(path, memory_gb, classes)


def _open_packed(path, memory_gb, classes):
    try:
        file = h5py.File(path, "r")
    except OSError:
        raise InputError(f"{path} is no HDF5 file, or is cut short; pack it again with 3_pack_hdf5.py") from None
    if "step" in file.attrs:
        from common.volume_sets import VolumeSet  # with SimpleITK, which slices do not need

        return VolumeSet(path, file, memory_gb)
    names = _dataset_names(path, file)
    x, y = (file[name] for name in names)
    if x.ndim != 4 or x.shape[-1] != 1 or y.shape != x.shape or not x.dtype.kind == y.dtype.kind == "u":
        raise InputError(
            f"{path} holds {names[0]} {x.shape} {x.dtype} and {names[1]} {y.shape} {y.dtype}; "
            "expected (N, size, size, 1) unsigned integers twice"
        )
    if not len(x):
        raise InputError(f"{path} holds no slice")
    in_memory = x.nbytes + y.nbytes <= memory_gb * 1e9
    try:
        texts = {
            name: [text.decode() for text in file[name][:]] if name in file else [""] * len(x)
            for name in ("case", "source")
        }
        for dataset in (x, y):
            refuse_broken_shards(path, dataset)
        x, y = (dataset[:] if in_memory else open_rows(path, dataset) for dataset in (x, y))
    except OSError:
        raise InputError(f"{path} is damaged or cut short; pack it again with 3_pack_hdf5.py") from None
    classes = file.attrs.get("classes", classes)
    if classes is None:  # a file of AIS
        classes = class_count(set().union(*(values_of(y[i]) for i in range(len(y)))), path)
    preparation = {name: file.attrs.get(name, value) for name, value in UNKNOWN.items()}
    return SliceSet(path, x, y, texts["case"], texts["source"], classes, in_memory, preparation)


def _dataset_names(path, file):
    for x in file:
        y = x[:-1] + ("y" if x.endswith("x") else "Y")
        if (x == "x" or x.endswith("_X")) and y in file:
            return x, y
    raise InputError(
        f"{path} holds {', '.join(file) or 'nothing'}; expected datasets x and y, or <name>_X and <name>_Y"
    )


def _open_list(path, memory_gb, classes):
    table = read_list(path)
    like = (table["x"][0], read_slice(table["x"][0]))
    shape, number = (len(table), *like[1].shape, 1), like[1].dtype
    in_memory = np.prod(shape) * (number.itemsize + 1) <= memory_gb * 1e9
    if in_memory:
        x, y = np.empty(shape, number), np.empty(shape, np.uint8)
    else:
        x = Rows(lambda i: read_slice(table["x"][i])[..., None], shape, number)
        y = Rows(lambda i: read_mask(table["y"][i])[..., None], shape, np.uint8)
    problems, values = [], set()
    pairs = zip(table["x"], table["y"], strict=True)
    decoded = ordered_map(lambda pair: read_pair(*pair, like), pairs, problems=problems)
    for i, pair in enumerate(progress(decoded, len(table), f"reading {path.name}")):
        if pair is None:
            continue
        if in_memory:
            x[i, ..., 0], y[i, ..., 0] = pair
        values |= values_of(pair[1])
    if problems:
        raise InputError(summarise(problems, f"slices of {path} cannot be used"))
    if not (classes and 1 < classes >= max(values)):
        classes = class_count(values, path)
    preparation = common_preparation(table)
    return SliceSet(path, x, y, list(table["case"]), list(table["x"]), classes, in_memory, preparation)


class Batches(keras.utils.PyDataset):
    """Batches of a set for `fit`, `evaluate` and `predict`.

    All that is random in an epoch depends on (seed, epoch) alone, so that a run that was resumed goes on as if
    it had never stopped. Each epoch has an order of its own, of all slices, drawn without regard to where they are:
    sets that are read from their files are shuffled as those in memory, and one batch of them is held at a time.

    Args:
        slices: SliceSet.
        batch_size: slices a batch; the last one of an epoch may be smaller.
        seed: int for shuffled batches; None keeps the order of the set.
        augment: function (x, y, seeds) to (x, y), or None; see `common.augmentation`.
        spread: `common.spread.Spread` of the devices that they go to; None: one.
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

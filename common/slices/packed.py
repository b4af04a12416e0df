"""Packed sets: slices and masks in one HDF5 file, or in shards joined by one file.

Datasets: x (N, side, side, C) and y (N, side, side, 1); case and source, text. Attributes: classes, settings, format,
division (the same for sets divided together), and how the slices were made (`common.slices.preparation.UNKNOWN`).
AIS files with <name>_X and <name>_Y work too.
"""

import hashlib
import math
import os
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from common.errors import InputError
from common.parallel import ordered_map, progress
from common.slices.classes import are_sets, type_of_masks
from common.slices.hdf5 import damage_as_error, open_hdf5
from common.slices.hdf5_text import text_of, write_attributes, write_texts
from common.slices.images import read_pair, shapes_of, with_channels
from common.slices.masks import class_count, values_of
from common.slices.preparation import UNKNOWN
from common.slices.rows import open_rows
from common.words import number_of

FORMAT = 1  # version of packed sets
AGAIN = "pack it again with 3_pack_hdf5.py"
MOST_CHANNELS = 64
ROWS = 64  # read at once to compare sets


# --- reading


class PackedSlices(NamedTuple):
    """A packed set.

    Attributes:
        x: slices, (N, H, W, C) uint8 or uint16; an array, `LazyRows` or `FileRows`.
        y: masks, (N, H, W, 1) uint8, or uint16 if classes overlap; the same.
        case: list of N case names; "" if unknown.
        source: list of N slice paths; "" if unknown.
        classes: number of classes.
        in_memory: whether x and y are arrays.
        preparation: dict with the keys of `common.slices.preparation.UNKNOWN`.
        division: identity of the division that the set belongs to; "" if unknown.
        ignores: whether masks have pixels that are `common.slices.classes.is_ignored`.
    """

    x: object
    y: object
    case: list
    source: list
    classes: int
    in_memory: bool
    preparation: dict
    division: str
    ignores: bool = False


def read_packed(path, file, memory_gb, classes=None):
    """Read a packed set.

    Args:
        path: Path of the file, for messages and to find its shards.
        file: its h5py.File; keep it open if rows are compressed and not in memory.
        memory_gb: read sets of up to this size into memory; larger ones stay in the file.
        classes: number of classes if the file does not record it; None: count them in the masks.

    Returns:
        PackedSlices.

    Raises:
        InputError: if datasets are missing, empty or have another shape or type, or if a file is damaged.
    """
    with damage_as_error(path):
        return _read_packed(Path(path), file, memory_gb, classes)


def _read_packed(path, file, memory_gb, classes):
    names = _dataset_names(path, file)
    x, y = (file[name] for name in names)
    fits = x.ndim == 4 and y.shape == (*x.shape[:3], 1) and 1 <= x.shape[-1] <= MOST_CHANNELS
    if not fits or not x.dtype.kind == y.dtype.kind == "u":
        raise InputError(
            f"{path}: expected unsigned integers, (N, size, size, C) and (N, size, size, 1) "
            f"(found {names[0]} {x.shape} {x.dtype} and {names[1]} {y.shape} {y.dtype}); {AGAIN}"
        )
    if not len(x):
        raise InputError(f"{path}: contains no slices; {AGAIN}")
    in_memory = x.nbytes + y.nbytes <= memory_gb * 1e9
    case, source = (_read_texts(path, file, name, len(x)) for name in ("case", "source"))
    x, y = (dataset[:] if in_memory else open_rows(path, dataset) for dataset in (x, y))
    classes = file.attrs.get("classes", classes)
    if classes is None:  # AIS file
        classes = class_count(set().union(*(values_of(y[i]) for i in range(y.shape[0]))), path)
    preparation = _read_preparation(path, file)
    if preparation["overlap"] and not are_sets(y):
        raise InputError(f"{path}: damaged (its classes overlap, but its masks are {y.dtype}); {AGAIN}")
    division, ignores = str(text_of(file.attrs.get("division", ""))), bool(file.attrs.get("ignores", False))
    return PackedSlices(x, y, case, source, int(classes), in_memory, preparation, division, ignores)


def content_digest(path):
    """SHA-256 of what a packed set has for training, as hexadecimal text.

    `source` and the settings, which depend on the working folder, do not count.

    Args:
        path: Path of a set of 3_pack_hdf5.py.

    Raises:
        InputError: as `read_packed`.
    """
    with open_hdf5(path) as file:
        packed = read_packed(path, file, memory_gb=0)
        about = [packed.case, packed.classes, packed.preparation, packed.division, packed.ignores]
        digest = hashlib.sha256(repr(about).encode())
        for rows in (packed.x, packed.y):
            digest.update(f"{rows.shape} {rows.dtype}".encode())
            for numbers in np.array_split(np.arange(len(packed.case)), math.ceil(len(packed.case) / ROWS)):
                digest.update(np.ascontiguousarray(rows[numbers]))
    return digest.hexdigest()


def _read_texts(path, file, name, count):
    if name not in file:
        return [""] * count
    if file[name].shape != (count,):
        raise InputError(
            f"{path}: damaged (expected {number_of(count, 'value')} in {name}, found {file[name].shape}); {AGAIN}"
        )
    texts = [os.fsdecode(text) for text in file[name][:]]  # any name of a file
    if any("\0" in text for text in texts):
        raise InputError(f"{path}: damaged (a text of {name} contains a zero byte); {AGAIN}")
    return texts


def _read_preparation(path, file):
    preparation = {name: text_of(file.attrs.get(name, value)) for name, value in UNKNOWN.items()}
    for name, value in preparation.items():
        kind, unknown = np.asarray(value), np.asarray(UNKNOWN[name])
        if kind.shape != unknown.shape or (kind.dtype.kind in "fiub") != (unknown.dtype.kind in "fiub"):
            raise InputError(f"{path}: damaged (its attribute {name} is {value!r}); {AGAIN}")
    return preparation


def _dataset_names(path, file):
    for x in file:
        y = x[:-1] + ("y" if x.endswith("x") else "Y")
        if (x == "x" or x.endswith("_X")) and y in file:
            return x, y
    raise InputError(
        f"{path}: expected datasets x and y, or <name>_X and <name>_Y (found {', '.join(file) or 'nothing'}); {AGAIN}"
    )


# --- writing


def pack_slices(file, table, like, attributes, compression, problems, bar, workers=None):
    """Write a packed set, or a shard of one, except for its classes.

    Without compression, slices are written directly to their positions in the file, by the decoding threads, because
    HDF5 admits only one thread at a time. What worker processes decode, this process writes.

    Args:
        file: path of the HDF5 file.
        table: DataFrame from `common.slices.lists.read_list`.
        like: (path, slice); all slices must have its size and number type.
        attributes: dict of attributes: `common.slices.preparation.common_preparation`, and settings as JSON text.
            They decide the number type of the masks.
        compression: None, "gzip" or "lzf".
        problems: list that collects error messages for unusable slices.
        bar: text of the progress bar.
        workers: `common.workers.Threads` or Processes to decode slices; None: threads.

    Returns:
        set of values in the masks.
    """
    count, mask_type = len(table), type_of_masks(attributes["overlap"])
    paths = enumerate(zip(table["x"], table["y"], strict=True))
    are_processes = workers is not None and workers.are_processes
    with h5py.File(file, "w") as packed:
        for dataset, (shape, dtype) in shapes_of(like[1], mask_type).items():
            _create(packed, dataset, (count, *shape), dtype, compression)
        describe(packed, table, attributes)
        offsets = [] if compression else [packed[dataset].id.get_offset() for dataset in ("x", "y")]

    def write(i, pair):
        for offset, image in zip(offsets, pair, strict=False):
            with open(file, "r+b") as raw:
                raw.seek(offset + i * image.nbytes)
                raw.write(image)

    def read_and_write(task):
        values, pair = read_with_values(task[1], like, mask_type)
        write(task[0], pair)
        return values, pair

    if are_processes:
        read = partial(read_with_values, like=like, mask_type=mask_type)
        stored = workers.map(read, (of_slice for _, of_slice in paths), problems)
    else:
        stored = ordered_map(read_and_write, paths, problems=problems)
    values = set()
    with h5py.File(file, "r+") if compression else nullcontext() as packed:
        for i, result in enumerate(progress(stored, count, bar)):
            if result:
                values |= result[0]
                if are_processes:
                    write(i, result[1])
                for dataset, image in zip(("x", "y") if packed else (), result[1], strict=False):
                    packed[dataset][i] = with_channels(image)
    return values


def read_with_values(paths, like, mask_type):
    """Read a slice and its mask, which must be like another slice: (set of values in the mask, (slice, mask))."""
    pair = read_pair(*paths, like, mask_type)
    return values_of(pair[1]), pair


def _create(packed, name, shape, dtype, compression):
    """Create a dataset; without compression, allocate all file space at once, unfilled."""
    if compression:
        packed.create_dataset(name, shape, dtype, chunks=(1, *shape[1:]), compression=compression)
        return
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    packed.create_dataset(name, shape, dtype, dcpl=properties)


def describe(packed, table, attributes):
    """Write the texts and attributes of an open packed set; arguments as in `pack_slices`."""
    for column, texts in (("case", table["case"]), ("source", table["x"])):
        write_texts(packed, column, texts)
    write_attributes(packed, {"format": FORMAT, **attributes})


def add_attributes(file, **attributes):
    """Add attributes: the number of classes of a set, or the mask values of a shard."""
    with h5py.File(file, "a") as packed:
        packed.attrs.update(attributes)

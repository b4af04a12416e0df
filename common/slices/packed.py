"""Packed sets: slices and masks in one HDF5 file, or in shards joined by one file.

Datasets: x (N, side, side, C) and y (N, side, side, 1); case and source, text. Attributes: classes, settings, format,
division (the same for sets divided together), and how the slices were made (`common.slices.preparation.UNKNOWN`).
AIS files with <name>_X and <name>_Y work too.
"""

import functools
import hashlib
import os
import re
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from common.claims import remove_abandoned
from common.errors import InputError
from common.manifest import MANIFEST, Manifest
from common.parallel import ordered_map, progress
from common.slices.classes import are_sets, type_of_masks
from common.slices.hdf5 import DAMAGE, damage_as_error, sources_of, write_virtual
from common.slices.hdf5_text import text_of, write_attributes, write_texts
from common.slices.images import read_pair, shapes_of, with_channels
from common.slices.masks import class_count, values_of
from common.slices.preparation import UNKNOWN
from common.slices.rows import open_rows
from common.words import number_of

FORMAT = 1  # version of packed sets
AGAIN = "pack it again with 3_pack_hdf5.py"
MOST_CHANNELS = 64


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


def _read_texts(path, file, name, count):
    if name not in file:
        return [""] * count
    if file[name].shape != (count,):
        raise InputError(
            f"{path}: damaged (expected {number_of(count, 'value')} in {name}, found {file[name].shape}); {AGAIN}"
        )
    return [os.fsdecode(text) for text in file[name][:]]  # any name of a file


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


def pack_slices(file, table, like, attributes, compression, problems, bar):
    """Write a packed set, or a shard of one, except for its classes.

    Without compression, the decoding threads write each slice directly to its position in the file, because HDF5 admits
    only one thread at a time.

    Args:
        file: path of the HDF5 file.
        table: DataFrame from `common.slices.lists.read_list`.
        like: (path, slice); all slices must have its size and number type.
        attributes: dict of attributes: `common.slices.preparation.common_preparation`, and settings as JSON text.
            They decide the number type of the masks.
        compression: None, "gzip" or "lzf".
        problems: list that collects error messages for unusable slices.
        bar: text of the progress bar.

    Returns:
        set of values in the masks.
    """
    count, mask_type = len(table), type_of_masks(attributes["overlap"])
    with h5py.File(file, "w") as packed:
        for dataset, (shape, dtype) in shapes_of(like[1], mask_type).items():
            _create(packed, dataset, (count, *shape), dtype, compression)
        _describe(packed, table, attributes)
        offsets = [] if compression else [packed[dataset].id.get_offset() for dataset in ("x", "y")]

    def store(task):
        i, *paths = task
        pair = read_pair(*paths, like, mask_type)
        for offset, image in zip(offsets, pair, strict=False):
            with open(file, "r+b") as raw:
                raw.seek(offset + i * image.nbytes)
                raw.write(image)
        return values_of(pair[1]), pair

    values = set()
    stored = ordered_map(store, zip(range(count), table["x"], table["y"], strict=True), problems=problems)
    with h5py.File(file, "r+") if compression else nullcontext() as packed:
        for i, result in enumerate(progress(stored, count, bar)):
            if result:
                values |= result[0]
                for dataset, image in zip(("x", "y") if packed else (), result[1], strict=False):
                    packed[dataset][i] = with_channels(image)
    return values


def _create(packed, name, shape, dtype, compression):
    """Create a dataset; without compression, allocate all file space at once, unfilled."""
    if compression:
        packed.create_dataset(name, shape, dtype, chunks=(1, *shape[1:]), compression=compression)
        return
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    packed.create_dataset(name, shape, dtype, dcpl=properties)


def _describe(packed, table, attributes):
    for column, texts in (("case", table["case"]), ("source", table["x"])):
        write_texts(packed, column, texts)
    write_attributes(packed, {"format": FORMAT, **attributes})


def add_attributes(file, **attributes):
    """Add attributes: the number of classes of a set, or the mask values of a shard."""
    with h5py.File(file, "a") as packed:
        packed.attrs.update(attributes)


# --- shards


def join_shards(file, shards, table, like, attributes):
    """Write a packed set that concatenates x and y of its shards.

    Args:
        file: path of the HDF5 file.
        shards: list of (shard path relative to the folder of the set, number of rows), in order.
        table, like, attributes: as in `pack_slices`; attributes also contain the classes.
    """
    with h5py.File(file, "w") as packed:
        for dataset, (shape, dtype) in shapes_of(like[1], type_of_masks(attributes["overlap"])).items():
            write_virtual(packed, dataset, shape, dtype, shards)
        _describe(packed, table, attributes)


def is_joined(path, shards):
    """Whether a set exists and joins exactly these shards, a list of Path."""
    try:
        with h5py.File(path, "r") as packed:
            return bool(shards) and [source.file for source in sources_of(packed["x"])] == shards
    except (InputError, *DAMAGE):
        return False


def values_of_shards(shards):
    """Set of int, the mask values in shards; `shards` is a list of Path."""
    values = set()
    for shard in shards:
        with h5py.File(shard, "r") as packed:
            values |= set(packed.attrs["values"].tolist())
    return values


def outdated_sets(folder, names):
    """Sets that an earlier run made in a folder and that are not among `names`; paths relative to the folder."""
    made = Manifest.read(Path(folder, MANIFEST)).files
    is_set = re.compile(r"(fold\d+/)?(train|validation|test)\.h5")
    return [name for name in made if name not in names and is_set.fullmatch(name)]


def remove_shards(folder, names, kept):
    """Remove the shards in a folder that no set uses, and half-written ones that no process is writing.

    Args:
        folder: Path of the shards.
        names: names of the sets.
        kept: set of Path, the shards in use.
    """
    for path in {path for name in names for path in folder.glob(f"{name}-*.h5")} - kept:
        if re.fullmatch(r"[a-z]+-\d{4,}-[0-9a-f]{12}\.h5", path.name):
            path.unlink(missing_ok=True)
    remove_abandoned(folder, "*.h5")
    if not kept:
        with suppress(OSError):  # missing, or contains a user's own files
            folder.rmdir()


def fingerprint(table, like, compression, lists):
    """Fingerprint of the sources of a shard: file names, sizes, times to the nanosecond and order, and storage format.

    The time of the last change counts too, since tools that copy files keep the time of the last modification.

    Args:
        table: rows of the shard.
        like: a slice.
        compression: as in `pack_slices`.
        lists: folder of the lists. Paths are relative to it, so that the fingerprint is the same on all machines.

    Returns:
        12 hexadecimal digits.
    """
    return _digest(table, like, lists, compression)[:12]


def _digest(table, like, lists, compression=None, times=True):
    digest = hashlib.sha256(f"{FORMAT} {compression} {like.shape} {like.dtype}".encode())
    from_lists = functools.cache(lambda folder: _relative_to(lists, folder))  # a case has many slices
    for row in table.itertuples(index=False):
        for file in (row.x, row.y):
            status = os.stat(file)
            folder, name = os.path.split(file)
            changed = f"{status.st_mtime_ns} {status.st_ctime_ns}" if times else ""
            digest.update(os.fsencode(f"{from_lists(folder)} {name} {row.case} {status.st_size} {changed}\n"))
    return digest.hexdigest()


def identify_division(tables, like, lists):
    """Identity of a division, which its sets carry, so that sets of two divisions are not mixed.

    It counts names, cases and file sizes, but no times, so that equal slices are packed into equal files.

    Args:
        tables: dict of set name to DataFrame.
        like, lists: as in `fingerprint`.

    Returns:
        12 hexadecimal digits.
    """
    parts = [f"{name} {_digest(table, like, lists, times=False)}" for name, table in sorted(tables.items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _relative_to(lists, folder):
    try:
        return os.path.relpath(folder, lists)
    except ValueError:  # another drive on Windows
        return folder

"""Packed sets: slices and masks in one HDF5 file, or in shards that one file shows together.

Datasets x and y, (N, side, side, 1), and case and source, text; attributes classes, settings, format, and how the
slices were made (`common.slices.cases.UNKNOWN`). Files of AIS with <name>_X and <name>_Y are read too.
"""

import functools
import hashlib
import os
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from common.errors import InputError
from common.parallel import ordered_map, progress
from common.slices.cases import UNKNOWN
from common.slices.images import read_pair
from common.slices.masks import class_count, values_of

FORMAT = 1  # version of a packed set


# --- reading


class PackedSlices(NamedTuple):
    """A packed set.

    Attributes:
        x: slices, (N, H, W, 1) uint8 or uint16; an array, `LazyRows` or `FileRows`.
        y: masks, (N, H, W, 1) uint8; the same.
        case: list of N names of cases; "" if unknown.
        source: list of N paths of the slices; "" if unknown.
        classes: number of classes.
        in_memory: whether x and y are arrays.
        preparation: dict with the names of `common.slices.cases.UNKNOWN`.
    """

    x: object
    y: object
    case: list
    source: list
    classes: int
    in_memory: bool
    preparation: dict


def open_hdf5(path):
    """h5py.File to read, or InputError if it is no HDF5 file."""
    try:
        return h5py.File(path, "r")
    except OSError:
        raise InputError(f"{path} is no HDF5 file, or is cut short; pack it again with 3_pack_hdf5.py") from None


def read_packed(path, file, memory_gb, classes=None):
    """Read a packed set.

    Args:
        path: Path of the file, for messages and for its shards.
        file: h5py.File of it, which stays open if its rows are compressed and not in memory.
        memory_gb: read sets of up to this size into memory; larger ones stay in the file.
        classes: number of classes of a file that does not contain it; None: from the masks.

    Returns:
        PackedSlices.

    Raises:
        InputError: if datasets are missing, empty or of another shape or type, or if the file or a shard is damaged.
    """
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
        case, source = (
            [text.decode() for text in file[name][:]] if name in file else [""] * len(x) for name in ("case", "source")
        )
        for dataset in (x, y):
            refuse_broken_shards(path, dataset)
        x, y = (dataset[:] if in_memory else open_rows(path, dataset) for dataset in (x, y))
    except OSError:
        raise InputError(f"{path} is damaged or cut short; pack it again with 3_pack_hdf5.py") from None
    classes = file.attrs.get("classes", classes)
    if classes is None:  # a file of AIS
        classes = class_count(set().union(*(values_of(y[i]) for i in range(y.shape[0]))), path)
    preparation = {name: file.attrs.get(name, value) for name, value in UNKNOWN.items()}
    return PackedSlices(x, y, case, source, classes, in_memory, preparation)


def _dataset_names(path, file):
    for x in file:
        y = x[:-1] + ("y" if x.endswith("x") else "Y")
        if (x == "x" or x.endswith("_X")) and y in file:
            return x, y
    raise InputError(
        f"{path} holds {', '.join(file) or 'nothing'}; expected datasets x and y, or <name>_X and <name>_Y"
    )


class LazyRows:
    """Rows of (N, H, W, 1) that a function reads one by one; indexed by a number or by an array of numbers.

    Args:
        read: function of a number to a row, (H, W, 1).
        shape: of all, (N, H, W, 1).
        dtype: of the rows.
    """

    def __init__(self, read, shape, dtype):
        self.read, self.shape, self.dtype = read, tuple(shape), dtype

    def __getitem__(self, index):
        return self.read(index) if np.ndim(index) == 0 else np.stack([self.read(i) for i in index])


class FileRows:
    """Rows of HDF5 datasets that lie in their files contiguously, read from there without HDF5.

    HDF5 lets one thread in at a time, and reading a slice through it takes three times as long. The files are opened
    for every batch: no limit on open files is met, and threads do not share a position in one. The process keeps
    nothing of what was read, as it would of a memory map; the operating system's cache serves the next epoch.

    Args:
        spans: list of FileSpan, in order.
        shape, dtype: as `LazyRows`.
    """

    def __init__(self, spans, shape, dtype):
        self.spans, self.shape, self.dtype = spans, tuple(shape), dtype
        self.starts = np.array([span.first for span in spans])

    def __getitem__(self, index):
        indices = np.atleast_1d(index)
        rows = np.empty((len(indices), *self.shape[1:]), self.dtype)
        span_numbers = np.searchsorted(self.starts, indices, "right") - 1
        for number in np.unique(span_numbers):
            span = self.spans[number]
            wanted = np.flatnonzero(span_numbers == number)
            with open(span.file, "rb", buffering=0) as file:
                for i in wanted[np.argsort(indices[wanted])]:  # in the order in which they lie on the disk
                    file.seek(span.offset + int(indices[i] - span.first) * rows[i].nbytes)
                    if file.readinto(rows[i]) < rows[i].nbytes:
                        raise InputError(f"{span.file} is cut short; pack it again with 3_pack_hdf5.py")
        return rows[0] if np.ndim(index) == 0 else rows


class FileSpan(NamedTuple):
    """Consecutive rows in a file: the number of the first, the file, and the byte at which they start."""

    first: int
    file: Path
    offset: int


def open_rows(path, dataset):
    """Rows of a dataset of a packed set, or of the shards that it joins.

    Args:
        path: Path of the HDF5 file.
        dataset: h5py.Dataset of it, (N, H, W, 1), which stays open if its rows are compressed.

    Returns:
        FileRows, or LazyRows for a dataset in chunks.
    """
    spans = []
    for first, file, name in sources_of(path, dataset):
        with h5py.File(file, "r") as source:
            offset = source[name].id.get_offset() if source[name].dtype == dataset.dtype else None
        if offset is None:
            return LazyRows(dataset.__getitem__, dataset.shape, dataset.dtype)
        spans.append(FileSpan(first, file, offset))
    return FileRows(spans, dataset.shape, dataset.dtype)


def sources_of(path, dataset):
    """Where the rows of a dataset are.

    Returns:
        list of (number of the first row, Path of the file, name of the dataset in it), in order.
    """
    if not dataset.is_virtual:
        return [(0, path, dataset.name)]
    sources = [
        (s.vspace.get_select_bounds()[0][0], path.parent / s.file_name, s.dset_name) for s in dataset.virtual_sources()
    ]
    return sorted(sources)


def refuse_broken_shards(path, dataset):
    """Raise InputError if a shard of a set is gone or cut short: HDF5 would return black slices instead."""
    for _, file, _ in sources_of(path, dataset):
        if file == path:
            continue
        try:
            h5py.File(file, "r").close()
        except OSError:
            wrong = "is damaged or cut short" if file.is_file() else "is gone"
            raise InputError(f"{file}, a shard of {path}, {wrong}; pack it again with 3_pack_hdf5.py") from None


# --- writing


def pack_slices(file, table, like, attributes, compression, problems, bar):
    """Write a packed set, or a shard of one, except for its classes.

    Without compression, the decoding threads write each slice to its position in the file themselves: HDF5 lets only
    one thread in at a time, and would keep the others waiting.

    Args:
        file: path of the HDF5 file.
        table: DataFrame of `common.slices.lists.read_list`.
        like: (path, slice) whose size and number type all slices must have.
        attributes: dict of what else the set says: `common.slices.cases.common_preparation`, and settings, JSON text.
        compression: None, "gzip" or "lzf".
        problems: list to which messages on slices that cannot be used are added.
        bar: text of the progress bar.

    Returns:
        set of the values in the masks.
    """
    count, (side, _), number = len(table), like[1].shape, like[1].dtype
    with h5py.File(file, "w") as packed:
        for dataset, dtype in (("x", number), ("y", np.uint8)):
            _create(packed, dataset, (count, side, side, 1), dtype, compression)
        _describe(packed, table, attributes)
        offsets = [] if compression else [packed[dataset].id.get_offset() for dataset in ("x", "y")]

    def store(task):
        i, *paths = task
        pair = read_pair(*paths, like)
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
                    packed[dataset][i, ..., 0] = image
    return values


def _create(packed, name, shape, dtype, compression):
    """Create a dataset; without compression, the file has all its space from the start, not filled."""
    if compression:
        packed.create_dataset(name, shape, dtype, chunks=(1, *shape[1:]), compression=compression)
        return
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    packed.create_dataset(name, shape, dtype, dcpl=properties)


def _describe(packed, table, attributes):
    for column, texts in (("case", table["case"]), ("source", table["x"])):
        packed.create_dataset(column, data=list(texts), dtype=h5py.string_dtype())
    packed.attrs.update(format=FORMAT, **attributes)


def add_attributes(file, **attributes):
    """Add attributes to a packed set: its number of classes or, of a shard, the values in its masks."""
    with h5py.File(file, "a") as packed:
        packed.attrs.update(attributes)


# --- shards


def join_shards(file, shards, table, like, attributes):
    """Write a packed set whose x and y are those of its shards one after the other.

    Args:
        file: path of the HDF5 file.
        shards: list of (path of the shard relative to the folder of the set, number of its rows), in order.
        table, like, attributes: as `pack_slices`; the attributes also contain the classes.
    """
    with h5py.File(file, "w") as packed:
        for dataset, dtype in (("x", like[1].dtype), ("y", np.uint8)):
            layout = h5py.VirtualLayout((len(table), *like[1].shape, 1), dtype)
            first = 0
            for shard, count in shards:
                layout[first : first + count] = h5py.VirtualSource(shard, dataset, (count, *like[1].shape, 1), dtype)
                first += count
            packed.create_virtual_dataset(dataset, layout)
        _describe(packed, table, attributes)


def is_joined(path, shards):
    """Whether a set exists and shows these shards, a list of Path, and no others."""
    try:
        with h5py.File(path, "r") as packed:
            return bool(shards) and [file for _, file, _ in sources_of(path, packed["x"])] == shards
    except (OSError, KeyError):
        return False


def values_of_shards(shards):
    """Values in the masks of shards, a list of Path; set of int."""
    values = set()
    for shard in shards:
        with h5py.File(shard, "r") as packed:
            values |= set(packed.attrs["values"].tolist())
    return values


def fingerprint(table, like, compression, lists):
    """What a shard is made from, as a few digits: files by name, size and time, their order, and the storage.

    Args:
        table: rows of the shard.
        like: a slice.
        compression: as `pack_slices`.
        lists: folder of the lists. Folders are seen from it, so that machines that have the data in different places
            agree.

    Returns:
        12 hexadecimal digits.
    """
    digest = hashlib.sha256(f"{FORMAT} {compression} {like.shape} {like.dtype}".encode())
    from_lists = functools.cache(lambda folder: _relative_to(lists, folder))  # a case has many slices
    for row in table.itertuples(index=False):
        for file in (row.x, row.y):
            status = os.stat(file)
            folder, name = os.path.split(file)
            text = f"{from_lists(folder)} {name} {row.case} {status.st_size} {int(status.st_mtime)}\n"
            digest.update(text.encode())
    return digest.hexdigest()[:12]


def _relative_to(lists, folder):
    try:
        return os.path.relpath(folder, lists)
    except ValueError:  # another drive of Windows
        return folder

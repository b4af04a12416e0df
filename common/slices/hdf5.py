"""Open HDF5 files that may come from anybody: they lead to no other file, and are as large as they claim.

A packed set may link to files of its own folder, by their plain names: to the shards of 3_pack_hdf5.py, in shards/, and
to cases.h5 of 3_pack_volumes.py, which the sets of a fold find one folder above. These files link to nothing.
"""

import math
import os
import re
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from common.errors import InputError
from common.files import real_path
from common.slices.hdf5_text import CheckedHeaps
from common.system_errors import raise_system_error

SHARDS = "shards"  # folder of the shards, next to their sets
CASES = "cases.h5"  # file with the cases that sets of volumes link to
DAMAGE = (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, IndexError, OverflowError)
EXPANSION = 1100  # bytes that a stored byte can stand for; gzip, the strongest compression here, reaches 1032
SMALL = 2**20  # bytes that a dataset may claim without storing them
LONGEST_ATTRIBUTE = 10**6  # values
AGAIN = "pack it again with 3_pack_hdf5.py or 3_pack_volumes.py"


class Damaged(InputError):
    """A file that HDF5 cannot read."""


@contextmanager
def damage_as_error(path):
    """Turn whatever h5py raises about the content of a file into an InputError; a missing permission stays one."""
    try:
        yield
    except (InputError, PermissionError):
        raise
    except DAMAGE as error:
        raise_system_error(error, path)
        raise Damaged(f"{path}: not an HDF5 file, or damaged or cut short; {AGAIN}") from None


def open_hdf5(path):
    """Open a file to read.

    Args:
        path: path of the file; a symbolic link to it is followed, so that its neighbors are those of the real file.

    Returns:
        h5py.File.

    Raises:
        InputError: if it is not an HDF5 file, is damaged, leads out of its folder, or claims to contain more than it
            stores; also for the files next to it that it links to.
    """
    path = Path(path)
    with _open_checked(path) as file, damage_as_error(path):
        neighbors = _check(path, file)
    for neighbor, shown in neighbors.items():
        _check_neighbor(path, neighbor, shown)
    with damage_as_error(path):
        return h5py.File(os.path.realpath(path), "r")


def require_self_contained(path, stream):
    """Raise InputError if an HDF5 file inside another file is damaged, or leads to another file.

    Args:
        path: path of the other file, for messages.
        stream: binary file object.
    """
    with damage_as_error(path), h5py.File(CheckedHeaps(stream), "r") as file:
        if links := _check(path, file):
            _refuse(path, f"a link to {next(iter(links)).name}")


@contextmanager
def _open_checked(path):
    """Open a file for `_check`, in a context: slowly, so that a damaged heap is noticed before HDF5 reads it."""
    with open(path, "rb", buffering=0) as stream:  # an error says what is wrong in the words of the system
        with damage_as_error(path):
            file = h5py.File(CheckedHeaps(stream), "r")
        with file:
            yield file


def _check_neighbor(path, neighbor, shown):
    """Check a file that a set links to: it links to nothing, and has the datasets whose rows the set shows.

    Args:
        path: Path of the set, for messages.
        neighbor: Path of the file.
        shown: list of (dataset name, shape).
    """
    if neighbor.is_symlink() or neighbor.parent.is_symlink():
        raise InputError(f"{path}: links to {neighbor}, which is a symbolic link; move the file itself there")
    if not neighbor.is_file():
        raise InputError(f"{path}: links to a missing {neighbor.name} (expected {neighbor}); move it back, or {AGAIN}")
    try:
        with _open_checked(neighbor) as file, damage_as_error(neighbor):
            if others := _check(neighbor, file):
                _refuse(neighbor, f"a link to {next(iter(others)).name}")
            fits = all(file[name].shape == shape for name, shape in shown)
    except Damaged:
        fits = False
    if not fits:
        raise InputError(f"{path}: links to {neighbor}, which is damaged or cut short; {AGAIN}")


def neighbor_of(path, name):
    """Path of a file that another file, with a Path, links to by name.

    Raises:
        InputError: unless the name is a plain one in the folder of the file, in its `shards` folder, or, for a set in
            a folder such as fold1, cases.h5 one folder above.
    """
    folder = real_path(path).parent
    above = name == f"../{CASES}" and re.fullmatch(r"fold\d+", folder.name)
    plain = name.removeprefix(f"{SHARDS}/")
    if not above and (plain in ("", ".", "..") or re.search(r"[/\\:%\x00-\x1f]", plain)):
        _refuse(path, f"{name!r}")
    return folder.parent / CASES if above else folder / name


def _refuse(path, found):
    raise InputError(f"{path}: leads to a file outside its folder (found {found}); use a set that you packed yourself")


# --- the content of a file


def _check(path, file):
    """Check all links, datasets and attributes of a file; read all text of varying length, whose heaps may be damaged.

    Args:
        path: Path, also for messages.
        file: h5py.File over `CheckedHeaps`.

    Returns:
        dict of each Path that it links to, to the list of (dataset name, shape) whose rows it shows.
    """
    neighbors = {}
    for item in _items_of(path, file, neighbors):
        _check_attributes(path, item)
        if isinstance(item, h5py.Dataset):
            _check_dataset(path, item)
            for source in sources_of(item, path) if item.is_virtual else ():
                neighbors.setdefault(source.file, []).append((source.dataset, (source.count, *item.shape[1:])))
    return neighbors


def _items_of(path, file, neighbors):
    """Yield each group and dataset of a file once; add the Paths that it links to as keys to `neighbors`."""
    groups, seen = [file], set()
    while groups:
        group = groups.pop()
        yield group
        for name in group:
            links, key = group.id.links, name if isinstance(name, bytes) else name.encode()
            kind = links.get_info(key).type  # h5py's own `get` finds no name that is not UTF-8
            if kind == h5py.h5l.TYPE_EXTERNAL:
                neighbors.setdefault(neighbor_of(path, os.fsdecode(links.get_val(key)[0])), [])
            if kind != h5py.h5l.TYPE_HARD:  # a soft link stays within the file
                continue
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:  # groups can contain each other
                continue
            seen.add(address)
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif isinstance(item, h5py.Dataset):
                yield item


def _check_attributes(path, item):
    for name in item.attrs:
        attribute = item.attrs.get_id(name)
        count = math.prod(attribute.shape or ())
        if count > LONGEST_ATTRIBUTE:
            raise InputError(f"{path}: damaged (its attribute {name} has {count} values); {AGAIN}")
        if _is_varying(path, name, attribute.dtype):
            item.attrs[name]


def _is_varying(path, name, dtype):
    """Whether a type is text of varying length; numbers and text of one length are plain, all others are refused.

    Raises:
        InputError: for other lists of varying length, on which HDF5 can crash if they are damaged.
    """
    text = h5py.check_string_dtype(dtype)
    if dtype.kind not in "biufS" and text is None:
        raise InputError(f"{path}: damaged (values of {name} are neither numbers nor text); {AGAIN}")
    return text is not None and text.length is None


def _check_dataset(path, dataset):
    """Raise InputError if the values of a dataset are in another file, or if it claims more than it stores."""
    is_varying = _is_varying(path, dataset.name, dataset.dtype)
    if dataset.id.get_create_plist().get_external_count():
        _refuse(path, f"values of {dataset.name} in {dataset.external[0][0]!r}")
    if dataset.is_virtual:
        return
    claimed = math.prod(dataset.shape or ()) * dataset.id.get_type().get_size()
    stored = dataset.id.get_storage_size()
    if claimed > max(SMALL, EXPANSION * stored):
        raise InputError(
            f"{path}: damaged or cut short ({dataset.name} claims {claimed:,} bytes and stores {stored:,}); {AGAIN}"
        )
    if is_varying:
        dataset[()]


class Source(NamedTuple):
    """Consecutive rows of a dataset in a file: first row, number of rows, Path of the file, dataset name in it."""

    first: int
    count: int
    file: Path
    dataset: str


def sources_of(dataset, path=None):
    """Find the files that contain the rows of a dataset.

    Args:
        dataset: h5py.Dataset.
        path: Path of its file, if h5py does not know it.

    Returns:
        list of Source, in order; a virtual dataset has one for each shard, any other itself.

    Raises:
        InputError: if the shards are not in files next to it, or do not fit together.
    """
    path = Path(dataset.file.filename) if path is None else path
    if not dataset.is_virtual:
        return [Source(0, len(dataset), path, dataset.name)]
    sources = []
    for source in dataset.virtual_sources():
        first, last = source.vspace.get_select_bounds()
        count = last[0] + 1 - first[0]
        size, whole = count * math.prod(dataset.shape[1:]), source.src_space.get_select_type() == h5py.h5s.SEL_ALL
        sources.append(Source(first[0], count, neighbor_of(path, source.file_name), source.dset_name))
        if source.vspace.get_select_npoints() != size or not (whole or source.src_space.get_select_npoints() == size):
            sources = []
            break
    sources.sort(key=lambda source: source.first)
    if [s.first + s.count for s in sources] != [*[s.first for s in sources[1:]], len(dataset)] or sources[0].first:
        raise InputError(f"{path}: damaged (the shards of {dataset.name} do not fit together); {AGAIN}")
    return sources


# --- while a file is read


def state_of(status):
    """State of a file, to notice that it was replaced or changed; `status` is a result of os.stat."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def open_unchanged(path, state):
    """Open a file to read bytes, in a context.

    Args:
        path: path of the file.
        state: result of `state_of` when the set was opened.

    Raises:
        InputError: if the file was replaced, changed or removed since.
    """
    with suppress(FileNotFoundError), open(path, "rb", buffering=0) as file:
        if state_of(os.fstat(file.fileno())) == state:
            yield file
            return
    raise InputError(f"{path}: was packed again or changed while it was being read; start again")


def write_virtual(file, name, shape, dtype, sources):
    """Write a dataset that concatenates the datasets of the same name in other files.

    h5py's own function lets HDF5 note the time, so that no two files would be equal.

    Args:
        file: h5py.File, open for writing.
        name: name of the dataset.
        shape: shape of a row.
        dtype: NumPy type.
        sources: list of (path relative to the folder of the file, number of rows), in order.
    """
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)
    whole, first = (sum(rows for _, rows in sources), *shape), 0
    for path, rows in sources:
        place, source = h5py.h5s.create_simple(whole), h5py.h5s.create_simple((rows, *shape))
        place.select_hyperslab((first, *(0 for _ in shape)), (rows, *shape))
        properties.set_virtual(place, os.fsencode(path), name.encode(), source)
        first += rows
    kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
    h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(whole), dcpl=properties)

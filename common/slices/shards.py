"""Shards of packed sets: files with a run of rows each, which a set shows as one; and the sets that they belong to."""

import functools
import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import h5py

from common.claims import claimed, remove_abandoned
from common.errors import InputError
from common.files import whole_file
from common.manifest import MANIFEST, Manifest
from common.slices.classes import type_of_masks
from common.slices.hdf5 import DAMAGE, sources_of, write_virtual
from common.slices.images import shapes_of
from common.slices.packed import FORMAT, add_attributes, describe, pack_slices


class Shard(NamedTuple):
    """A run of rows of a set in its own file; the file name contains their fingerprint."""

    path: Path
    name: str  # name of the set
    table: object  # DataFrame of `common.slices.lists.read_list`


def pack_shard(task, compression):
    """Write a shard; return error messages for slices that cannot be used, without writing.

    Args:
        task: Shard, and `like` and `attributes` as in `pack_slices`.
        compression: as there.
    """
    (shard, like, attributes), problems = task, []
    with claimed(shard.path, wait=True), suppress(InputError), whole_file(shard.path) as file:
        bar = f"packing {shard.path.stem[:-13]}"
        values = pack_slices(file, shard.table, like, attributes, compression, problems, bar)
        if problems:
            raise InputError
        add_attributes(file, values=sorted(values))  # mask values; classes depend on all shards
    return problems


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
        describe(packed, table, attributes)


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

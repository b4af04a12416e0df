"""Step 3: pack the lists into HDF5, one file per list.

Reads   LISTS/train.csv, validation.csv, test.csv, or LISTS/fold1/train.csv and so on, from step 2
Writes  PACKED/train.h5, validation.h5, test.h5, or PACKED/fold1/train.h5 and so on, for train.py
Takes   about a second per 1,000 slices of 200x200 on two cores; keeps only a few slices in memory

Datasets: x, (N, size, size, channels), in the number type of the slices; y, (N, size, size, 1);
case and source, text. Attributes: classes, settings, format, and how slices were made (spacing,
window, resampled, plane, fit, stretched, channels, neighbors). Training sets are shuffled once.
With SHARD_GB, PACKED/shards has the slices, and train.h5 links to them: keep both together. After
an interruption, the same command makes the missing shards.
"""

import sys
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import setting_types as types
from common.settings import apply_command_line

# --- input and output
LISTS: types.PathName = "data/lists"  # folder with the lists of step 2
PACKED: types.PathName = "data/packed"  # output folder for the packed sets
REPLACE: bool = False  # True: overwrite existing packed sets

# --- storage
COMPRESSION: Literal["gzip", "lzf"] | None = None  # None: fastest to read; "gzip" or "lzf": smaller files
SEED: types.Seed = 1  # random seed of the training set order
SHARD_GB: types.Positive | None = None  # split each set into files of this size in GB; None: one file
WORKERS: types.Workers = ""  # "": this machine's cores; a number of processes; or a Dask scheduler
#   Such as "tcp://10.0.0.1:8786", for several machines: see docs/scaling.md. With SHARD_GB they write the shards.

settings = apply_command_line(globals())

import json
import math
from functools import partial
from typing import NamedTuple

import numpy as np

from common.claims import claimed
from common.errors import InputError, summarize
from common.public_settings import public_settings
from common.replacing import refuse_existing, whole_entries
from common.slices.images import read_mask, read_slice
from common.slices.lists import read_divisions
from common.slices.masks import class_count_of_files, values_of
from common.slices.packed import add_attributes, pack_slices
from common.slices.preparation import common_preparation, count_classes, holds_ignored
from common.slices.shards import (
    Shard,
    fingerprint,
    identify_division,
    is_joined,
    join_shards,
    outdated_sets,
    pack_shard,
    remove_shards,
    values_of_shards,
)
from common.words import number_of
from common.workers import start_workers

SHARDS = "shards"  # folder of the shards, next to the sets


def main():
    divisions = [plan(folder, lists) for folder, lists in read_divisions(settings.LISTS).items()]
    for division in divisions:
        for name, table in division.tables.items():
            if not is_joined(path := set_path(division.folder, name), division.shard_paths(name)):
                refuse_existing(path, settings.REPLACE)
            list_path = Path(settings.LISTS, division.folder, f"{name}.csv")
            print(f"packing {number_of(len(table), 'slice')} from {list_path}", flush=True)
    with start_workers(settings.WORKERS) as workers:
        if divisions[0].shards:
            pack_shards(divisions, workers)
        else:
            write_sets(divisions, partial(pack_division, workers=workers))
    counts = [len(table) for d in divisions for table in d.tables.values()]
    print(f"wrote {number_of(sum(counts), 'slice')} in {number_of(len(counts), 'set')} to {settings.PACKED}")


class Division(NamedTuple):
    """Lists that belong together, and the sets to make from them.

    Attributes:
        folder: subfolder, "" or "fold1" and so on.
        tables: dict of set name to DataFrame of `read_list`, in the order of the set.
        attributes: dict of set name to its attributes, without the classes.
        like: (path, slice); all slices must have its size and number type.
        shards: list of Shard; empty if each set is one file.
    """

    folder: str
    tables: dict
    attributes: dict
    like: tuple
    shards: list

    def shard_paths(self, name):
        """Paths of the shards of a set, in order."""
        return [shard.path for shard in self.shards if shard.name == name]


def plan(folder, lists):
    """Division for the lists of a subfolder."""
    tables = {
        name: table.sample(frac=1, random_state=settings.SEED) if name == "train" else table
        for name, table in lists.items()
    }
    first = next(iter(tables.values()))["x"].iloc[0]
    like = first, read_slice(first)
    identity = identify_division(lists, like[1], settings.LISTS)
    recorded = {"settings": json.dumps(public_settings(settings)), "division": identity}
    attributes = {name: common_preparation(table) | recorded for name, table in tables.items()}
    divided = tables.items() if settings.SHARD_GB is not None else ()
    shards = [shard for name, table in divided for shard in divide(folder, name, table, like[1])]
    return Division(folder, tables, attributes, like, shards)


def divide(folder, name, table, like):
    """Shards of a set, in order, as many as SHARD_GB needs; `like` is a slice."""
    slice_gb = like.size * (like.itemsize + 1) / 1e9
    count = math.ceil(len(table) / max(1, int(settings.SHARD_GB / slice_gb)))
    shards = []
    for rows in np.array_split(np.arange(len(table)), min(count, len(table))):
        rows = table.iloc[rows]
        made_from = fingerprint(rows, like, settings.COMPRESSION, settings.LISTS)
        path = Path(settings.PACKED, folder, SHARDS, f"{name}-{len(shards) + 1:04d}-{made_from}.h5")
        shards.append(Shard(path, name, rows))
    return shards


def set_path(folder, name):
    """Path of a packed set."""
    return Path(settings.PACKED, folder, f"{name}.h5")


def write_sets(divisions, write):
    """Write the sets of all divisions in one step; sets and shards of earlier lists disappear.

    Args:
        divisions: list of Division.
        write: function of a Division and of a dict of set name to the Path to write to.
    """
    names = [f"{d.folder}/{name}.h5".lstrip("/") for d in divisions for name in d.tables]
    removed = outdated_sets(settings.PACKED, names) if settings.REPLACE else []
    with whole_entries(settings.PACKED, names, settings.REPLACE, removed=removed) as new:
        for division in divisions:
            write(division, {name: new / division.folder / f"{name}.h5" for name in division.tables})
    for d in divisions:
        remove_shards(Path(settings.PACKED, d.folder, SHARDS), d.tables, {shard.path for shard in d.shards})


def pack_division(division, files, workers):
    """Pack all lists of a division; other arguments as `write` of `write_sets`.

    Raises:
        InputError: if a slice cannot be used.
    """
    problems, values = [], set()
    for name, table in division.tables.items():
        how = division.like, division.attributes[name], settings.COMPRESSION
        values |= pack_slices(files[name], table, *how, problems, f"packing {name}", workers)
    if problems:
        raise InputError(summarize(problems, "slices cannot be packed"))
    classes = classes_of(values, division)
    for name, file in files.items():
        add_attributes(file, classes=classes, ignores=holds_ignored(values, division.attributes[name]))


def classes_of(values, division):
    """Number of classes for the values in all masks; an error lists the masks that do not fit the others."""
    where = Path(settings.LISTS, division.folder)
    prepared = list(division.attributes.values())
    if differing := {attributes["overlap"] for attributes in prepared} - {prepared[0]["overlap"]}:
        found = " and ".join(sorted(overlap or "exclusive" for overlap in {*differing, prepared[0]["overlap"]}))
        raise InputError(f"{where}: lists differ in how classes overlap (found {found}); import all the same way")
    try:
        return max(count_classes(values, where, attributes) for attributes in prepared)
    except InputError:
        masks = [mask for table in division.tables.values() for mask in table["y"]]
        return class_count_of_files({mask: values_of(read_mask(mask)) for mask in masks}, where)


# --- shards


def pack_shards(divisions, workers):
    """Make the missing shards, each in one task of the workers, and then the sets."""
    tasks = []
    for division in divisions:
        missing = [shard for shard in division.shards if settings.REPLACE or not shard.path.exists()]
        if existing := len(division.shards) - len(missing):
            count = len(division.shards)
            print(f"skipping {existing} of {count} shards: they already exist with equal slices, order and settings")
        tasks += [(shard, division.like, division.attributes[shard.name]) for shard in missing]
    pack = partial(pack_shard, compression=settings.COMPRESSION)
    packed = workers.map(pack, tasks, batch=1) if workers.are_processes else map(pack, tasks)  # with threads of its own
    if problems := [problem for of_shard in packed for problem in of_shard]:
        raise InputError(summarize(problems, "slices cannot be packed"))
    with claimed(Path(settings.PACKED, SHARDS), wait=True):  # another run that makes the same
        if settings.REPLACE or not is_finished(divisions):
            write_sets(divisions, join_division)


def is_finished(divisions):
    """Whether all sets exist and consist of the shards of their divisions."""
    sets = [(set_path(d.folder, name), d.shard_paths(name)) for d in divisions for name in d.tables]
    return all(is_joined(path, shards) for path, shards in sets)


def join_division(division, files):
    """Write the sets, which concatenate x and y of their shards; arguments as `write` of `write_sets`."""
    values = values_of_shards([shard.path for shard in division.shards])
    classes = classes_of(values, division)
    for name, file in files.items():
        shards = [(f"{SHARDS}/{s.path.name}", len(s.table)) for s in division.shards if s.name == name]
        attributes = division.attributes[name]
        attributes |= {"classes": classes, "ignores": holds_ignored(values, attributes)}
        join_shards(file, shards, division.tables[name], division.like, attributes)


if __name__ == "__main__":
    main()

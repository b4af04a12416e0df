"""Step 3: pack the lists into HDF5, one file a list.

Reads   LISTS/train.csv, validation.csv, test.csv, or those in LISTS/fold1 and so on             from step 2
Writes  PACKED/train.h5, validation.h5, test.h5, or PACKED/fold1/train.h5 and so on              for train.py
Takes   about a second for each 1,000 slices of 200x200 on two cores; holds a few slices at a time

Datasets x and y, (N, size, size, 1) in the number type of the slices; case and source, text;
attributes classes, settings, format, and how the slices were made (spacing, window, resampled, plane, fit, stretched).
Training sets are shuffled once. With SHARD_GB or PART, the slices are in PACKED/shards, and train.h5 shows them as one
set: keep both together. After a stop, the same command goes on with the shards that are missing.
"""

import sys
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.setting_types import PartOfWork, PathName, Positive, Seed
from common.settings import apply_command_line

# --- where from, where to
LISTS: PathName = "data/lists"  # folder with the lists of step 2
PACKED: PathName = "data/packed"  # folder for the packed sets
REPLACE: bool = False  # True to write over packed sets that exist

# --- storage
COMPRESSION: Literal["gzip", "lzf"] | None = None  # None reads fastest; "gzip" or "lzf" makes smaller files
SEED: Seed = 1  # of the order of the training set
SHARD_GB: Positive | None = None  # size of the files that a set is divided into; None: one file
PART: PartOfWork = ""
# "2/8": make the second of eight parts, every eighth shard; the part that ends last joins them; "": all without
# SHARD_GB, a set has as many shards as there are parts

settings = apply_command_line(globals())

import functools
import hashlib
import json
import math
import os
from contextlib import ExitStack, nullcontext, suppress
from typing import NamedTuple

import h5py
import numpy as np

from common.errors import InputError, summarise
from common.files import natural_key, refuse_existing, whole_file
from common.jobs import Part, locked
from common.parallel import ordered_map, progress
from common.settings import require_folder
from common.slices.cases import common_preparation
from common.slices.images import read_pair, read_slice
from common.slices.lists import read_list, slice_identity
from common.slices.masks import class_count, values_of
from common.slices.packed import sources_of

NAMES = ("train", "validation", "test")
FORMAT = 1  # version of a packed set
SHARDS = "shards"  # folder of the shards, beside the sets


def main():
    part = Part.read(settings.PART)
    divisions = [plan(folder, lists, part) for folder, lists in find_lists().items()]
    for division in divisions:
        for name, table in division.tables.items():
            path = Path(settings.PACKED, division.folder, f"{name}.h5")
            if not is_joined(path, division.shards):
                refuse_existing(path, settings.REPLACE)
            print(f"packing {len(table)} slices of {Path(settings.LISTS, division.folder, name)}.csv", flush=True)
    joined = [pack_shards(d, part) if d.shards else pack_division(d) for d in divisions]
    if not all(joined):
        print(f"part {part} is done; the part that ends last joins them")
        return
    slices = sum(len(table) for division in divisions for table in division.tables.values())
    print(f"wrote {slices} slices in {sum(len(division.tables) for division in divisions)} sets to {settings.PACKED}")


class Division(NamedTuple):
    """Lists that belong together, and what is made of them.

    Attributes:
        folder: subfolder, "" or "fold1" and so on.
        tables: dict of the name of a set to DataFrame of `read_list`, in the order of the set.
        like: (path, slice) whose size and number type all slices must have.
        shards: list of Shard; empty for sets of one file.
    """

    folder: str
    tables: dict
    like: tuple
    shards: list


def plan(folder, lists, part):
    """Division of the lists of a subfolder."""
    tables = {
        name: table.sample(frac=1, random_state=settings.SEED) if name == "train" else table
        for name, table in lists.items()
    }
    first = next(iter(tables.values()))["x"].iloc[0]
    like = first, read_slice(first)
    if settings.SHARD_GB is None and part.is_whole:
        return Division(folder, tables, like, [])
    shards = [shard for name, table in tables.items() for shard in divide(folder, name, table, like[1], part)]
    return Division(folder, tables, like, shards)


def find_lists():
    """Lists to pack.

    Returns:
        dict of subfolder ("" or "fold1" and so on) to a dict of list name to DataFrame of `read_list`.

    Raises:
        InputError: if there is none, one cannot be used, or a slice is in two lists of a division.
    """
    root = require_folder(settings.LISTS, "LISTS")
    folds = sorted((path.name for path in root.glob("fold*") if path.is_dir()), key=natural_key)
    divisions = {}
    for folder in folds or [""]:
        files = {name: root / folder / f"{name}.csv" for name in NAMES}
        lists = {name: read_list(file) for name, file in files.items() if file.exists()}
        if not lists:
            raise InputError(f"{root / folder} holds no train.csv, validation.csv or test.csv; run 2_write_lists.py")
        refuse_overlap(lists, root / folder)
        divisions[folder] = lists
    return divisions


def refuse_overlap(lists, folder):
    """A slice in two lists, in whatever variant, would make validation and test scores worthless."""
    seen = {}
    both = []
    for name, table in lists.items():
        for x in table["x"]:
            like = seen.setdefault(slice_identity(x), name)
            if like != name:
                both.append(f"{x} is in {like}.csv and in {name}.csv")
    if both:
        raise InputError(summarise(both, f"slices are in two lists of {folder}"))


def pack_division(division):
    """Pack the lists of one division: all of them or, where a slice cannot be used, none; True when done."""
    folder, tables, like, _ = division
    problems, values = [], set()
    with ExitStack() as stack:
        files = whole_files(stack, folder, tables)
        for name, table in tables.items():
            values |= pack(files[name], table, name, like, common_preparation(table), problems)
        if problems:
            raise InputError(summarise(problems, "slices cannot be packed"))
        classes = class_count(values, Path(settings.LISTS, folder))
        for file in files.values():
            with h5py.File(file, "a") as packed:
                packed.attrs["classes"] = classes
    remove_shards(division)
    return True


def whole_files(stack, folder, names):
    """dict of the name of a set to the Path to write it to until the stack is left."""
    return {name: stack.enter_context(whole_file(Path(settings.PACKED, folder, f"{name}.h5"))) for name in names}


def pack(file, table, name, like, preparation, problems):
    """Write one packed set.

    Without compression, the decoding threads write each slice to its place in the file themselves: HDF5 lets only
    one thread in at a time, and would keep the others waiting.

    Args:
        file: path of the HDF5 file.
        table: DataFrame of `read_list`.
        name: name of the list.
        like: (path, slice) whose size and number type all slices must have.
        preparation: dict of `common_preparation`.
        problems: list that takes messages on slices that cannot be used.

    Returns:
        set of the values in the masks.
    """
    count, (side, _), number = len(table), like[1].shape, like[1].dtype
    with h5py.File(file, "w") as packed:
        for dataset, kind in (("x", number), ("y", np.uint8)):
            create(packed, dataset, (count, side, side, 1), kind)
        describe(packed, table, preparation)
        places = [] if settings.COMPRESSION else [packed[dataset].id.get_offset() for dataset in ("x", "y")]

    def store(task):
        i, *pair = task
        pictures = read_pair(*pair, like)
        for place, picture in zip(places, pictures, strict=False):
            with open(file, "r+b") as raw:
                raw.seek(place + i * picture.nbytes)
                raw.write(picture)
        return values_of(pictures[1]), pictures

    values = set()
    stored = ordered_map(store, zip(range(count), table["x"], table["y"], strict=True), problems=problems)
    with h5py.File(file, "r+") if settings.COMPRESSION else nullcontext() as packed:
        for i, result in enumerate(progress(stored, count, f"packing {name}")):
            if result:
                values |= result[0]
                for dataset, picture in zip(("x", "y") if packed else (), result[1], strict=False):
                    packed[dataset][i, ..., 0] = picture
    return values


def describe(packed, table, preparation):
    """Write what a set holds beside x and y, but for the classes."""
    for column, texts in (("case", table["case"]), ("source", table["x"])):
        packed.create_dataset(column, data=list(texts), dtype=h5py.string_dtype())
    recorded = json.dumps(settings.as_json() | {"PART": ""})
    packed.attrs.update(format=FORMAT, settings=recorded, **preparation)


def create(packed, name, shape, number):
    """Create a dataset; one without compression has its whole place in the file from the start, not filled."""
    if settings.COMPRESSION:
        packed.create_dataset(name, shape, number, chunks=(1, *shape[1:]), compression=settings.COMPRESSION)
        return
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    packed.create_dataset(name, shape, number, dcpl=properties)


# --- shards


class Shard(NamedTuple):
    """Some neighbouring rows of a set, in a file whose name says what they were made from."""

    path: Path
    name: str  # of the set
    table: object  # DataFrame of `read_list`


def divide(folder, name, table, like, part):
    """Shards of a set, in order: as many as SHARD_GB asks for, or one for each part; `like` is a slice."""
    slice_gb = like.size * (like.itemsize + 1) / 1e9
    count = (
        part.count if settings.SHARD_GB is None else math.ceil(len(table) / max(1, int(settings.SHARD_GB / slice_gb)))
    )
    shards = []
    for rows in np.array_split(np.arange(len(table)), min(count, len(table))):
        of_shard = table.iloc[rows]
        path = Path(settings.PACKED, folder, SHARDS, f"{name}-{len(shards) + 1:04d}-{fingerprint(of_shard, like)}.h5")
        shards.append(Shard(path, name, of_shard))
    return shards


def fingerprint(table, like):
    """What a shard is made from, as a few digits: files by name, size and time, their order, and the storage."""
    digest = hashlib.sha256(f"{FORMAT} {settings.COMPRESSION} {like.shape} {like.dtype}".encode())
    for row in table.itertuples(index=False):
        for file in (row.x, row.y):
            about = os.stat(file)
            place, name = os.path.split(file)
            digest.update(f"{from_lists(place)} {name} {row.case} {about.st_size} {int(about.st_mtime)}\n".encode())
    return digest.hexdigest()[:12]


@functools.cache  # a case has many slices
def from_lists(place):
    """Path of a folder seen from LISTS, which is the same on machines that have the data at different places."""
    try:
        return os.path.relpath(place, settings.LISTS)
    except ValueError:  # another drive of Windows
        return place


def pack_shards(division, part):
    """Make the shards of a part that are missing, and the sets once all shards are there.

    Returns:
        whether the sets are there; False where shards of other parts are missing.
    """
    preparations = {name: common_preparation(table) for name, table in division.tables.items()}
    mine = division.shards[part.number - 1 :: part.count]
    missing = [shard for shard in mine if not shard.path.exists()]
    if len(missing) < len(mine):
        there = f"{len(mine) - len(missing)} of {len(mine)} shards are there already, and are not made again"
        print(f"{there}: their slices, order and recorded are the same", flush=True)
    problems = []
    for shard in missing:
        problems += pack_shard(shard, division.like, preparations[shard.name])
    if problems:
        raise InputError(summarise(problems, "slices cannot be packed"))
    with locked(Path(settings.PACKED, division.folder, SHARDS)):
        if not all(shard.path.exists() for shard in division.shards):
            return False
        if not all(
            is_joined(Path(settings.PACKED, division.folder, f"{name}.h5"), division.shards) for name in division.tables
        ):
            join_shards(division, preparations)
        remove_shards(division)
    return True


def pack_shard(shard, like, preparation):
    """Write a shard, or return messages on its slices that cannot be used."""
    problems = []
    with suppress(InputError), whole_file(shard.path) as file:
        values = pack(file, shard.table, shard.path.stem[:-13], like, preparation, problems)
        if problems:
            raise InputError
        with h5py.File(file, "a") as packed:
            packed.attrs["values"] = sorted(values)  # of the masks; the classes are those of all shards
    return problems


def is_joined(path, shards):
    """Whether a set is there and shows those of the shards that are its own."""
    mine = [shard.path for shard in shards if shard.name == path.stem]
    try:
        with h5py.File(path, "r") as packed:
            return bool(mine) and [file for _, file, _ in sources_of(path, packed["x"])] == mine
    except (OSError, KeyError):
        return False


def join_shards(division, preparations):
    """Write the sets, whose x and y are those of their shards one after the other."""
    values = set()
    for shard in division.shards:
        with h5py.File(shard.path, "r") as packed:
            values |= set(packed.attrs["values"].tolist())
    classes = class_count(values, Path(settings.LISTS, division.folder))
    like = division.like[1]
    with ExitStack() as stack:
        for name, file in whole_files(stack, division.folder, division.tables).items():
            with h5py.File(file, "w") as packed:
                for dataset, number in (("x", like.dtype), ("y", np.uint8)):
                    show(
                        packed, dataset, [shard for shard in division.shards if shard.name == name], like.shape, number
                    )
                describe(packed, division.tables[name], preparations[name])
                packed.attrs["classes"] = classes


def show(packed, dataset, shards, shape, number):
    """Create a dataset that HDF5 takes from those of the shards; they are found from the place of the set."""
    layout = h5py.VirtualLayout((sum(len(shard.table) for shard in shards), *shape, 1), number)
    first = 0
    for shard in shards:
        count = len(shard.table)
        source = h5py.VirtualSource(f"{SHARDS}/{shard.path.name}", dataset, (count, *shape, 1), number)
        layout[first : first + count] = source
        first += count
    packed.create_virtual_dataset(dataset, layout)


def remove_shards(division):
    """Remove the shards of earlier sets, which these do not show."""
    place, kept = Path(settings.PACKED, division.folder, SHARDS), {shard.path for shard in division.shards}
    for name in division.tables:
        for path in {*place.glob(f"{name}-*.h5"), *place.glob(f".part-{name}-*.h5")} - kept:
            path.unlink(missing_ok=True)
    if not kept:
        with suppress(OSError):  # it is not there, or a user's own files are in it
            place.rmdir()


if __name__ == "__main__":
    main()

"""Step 3: pack the lists into HDF5, one file a list.

Reads   LISTS/train.csv, validation.csv, test.csv, or those in LISTS/fold1 and so on             from step 2
Writes  PACKED/train.h5, validation.h5, test.h5, or PACKED/fold1/train.h5 and so on              for train.py
Takes   about a second for each 1,000 slices of 200x200 on two cores; holds a few slices at a time

Datasets x and y, (N, size, size, 1) in the number type of the slices; case and source, text;
attributes classes, settings, format, and how the slices were made (spacing, window, resampled, plane, fit, stretched).
Training sets are shuffled once.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.settings import apply_command_line, recorded_settings

# --- where from, where to
LISTS = "data/lists"  # folder with the lists of step 2
PACKED = "data/packed"  # folder for the packed sets
REPLACE = False  # True to write over packed sets that exist

# --- storage
COMPRESSION: str | None = None  # None reads fastest; "gzip" or "lzf" makes smaller files
SEED = 1  # of the order of the training set

apply_command_line(globals())

import json
from contextlib import ExitStack, nullcontext

import h5py
import numpy as np

from common.cases import common_preparation, read_list, slice_identity
from common.errors import InputError, summarise
from common.files import natural_key, refuse_existing, require_choice, require_folder, whole_file
from common.images import class_count, read_pair, read_slice, values_of
from common.parallel import ordered_map, progress

NAMES = ("train", "validation", "test")
FORMAT = 1  # version of a packed set


def main():
    require_choice(COMPRESSION, (None, "gzip", "lzf"), "COMPRESSION")
    divisions = find_lists()
    for folder, lists in divisions.items():
        for name, table in lists.items():
            refuse_existing(Path(PACKED, folder, f"{name}.h5"), REPLACE)
            print(f"packing {len(table)} slices of {Path(LISTS, folder, name)}.csv", flush=True)
    for folder, lists in divisions.items():
        pack_division(folder, lists)
    slices = sum(len(table) for lists in divisions.values() for table in lists.values())
    print(f"wrote {slices} slices in {sum(map(len, divisions.values()))} sets to {PACKED}")


def find_lists():
    """Lists to pack.

    Returns:
        dict of subfolder ("" or "fold1" and so on) to a dict of list name to DataFrame of `read_list`.

    Raises:
        InputError: if there is none, one cannot be used, or a slice is in two lists of a division.
    """
    root = require_folder(LISTS, "LISTS")
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


def pack_division(folder, lists):
    """Pack the lists of one division: all of them or, where a slice cannot be used, none."""
    problems, values = [], set()
    like = None
    with ExitStack() as stack:
        parts = {name: stack.enter_context(whole_file(Path(PACKED, folder, f"{name}.h5"))) for name in lists}
        for name, part in parts.items():
            table = lists[name].sample(frac=1, random_state=SEED) if name == "train" else lists[name]
            like = like or (table["x"].iloc[0], read_slice(table["x"].iloc[0]))
            values |= pack(part, table, name, like, problems)
        if problems:
            raise InputError(summarise(problems, "slices cannot be packed"))
        classes = class_count(values, Path(LISTS, folder))
        for part in parts.values():
            with h5py.File(part, "a") as packed:
                packed.attrs["classes"] = classes


def pack(file, table, name, like, problems):
    """Write one packed set.

    Without compression, the decoding threads write each slice to its place in the file themselves: HDF5 lets only
    one thread in at a time, and would keep the others waiting.

    Args:
        file: path of the HDF5 file.
        table: DataFrame of `read_list`.
        name: name of the list.
        like: (path, slice) whose size and number type all slices must have.
        problems: list that takes messages on slices that cannot be used.

    Returns:
        set of the values in the masks.
    """
    count, (side, _), number = len(table), like[1].shape, like[1].dtype
    with h5py.File(file, "w") as packed:
        for dataset, kind in (("x", number), ("y", np.uint8)):
            create(packed, dataset, (count, side, side, 1), kind)
        for column, texts in (("case", table["case"]), ("source", table["x"])):
            packed.create_dataset(column, data=list(texts), dtype=h5py.string_dtype())
        settings = json.dumps(recorded_settings(globals()))
        packed.attrs.update(format=FORMAT, settings=settings, **common_preparation(table))
        places = [] if COMPRESSION else [packed[dataset].id.get_offset() for dataset in ("x", "y")]

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
    with h5py.File(file, "r+") if COMPRESSION else nullcontext() as packed:
        for i, result in enumerate(progress(stored, count, f"packing {name}")):
            if result:
                values |= result[0]
                for dataset, picture in zip(("x", "y") if packed else (), result[1], strict=False):
                    packed[dataset][i, ..., 0] = picture
    return values


def create(packed, name, shape, number):
    """Create a dataset; one without compression has its whole place in the file from the start, not filled."""
    if COMPRESSION:
        packed.create_dataset(name, shape, number, chunks=(1, *shape[1:]), compression=COMPRESSION)
        return
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    packed.create_dataset(name, shape, number, dcpl=properties)


if __name__ == "__main__":
    main()

"""Opening sets for training: packed HDF5 files or lists, in memory where they fit."""

from pathlib import Path

import h5py
import numpy as np

from common.errors import InputError, summarise
from common.parallel import ordered_map, progress
from common.slices.cases import UNKNOWN, common_preparation
from common.slices.images import read_mask, read_pair, read_slice
from common.slices.lists import read_list
from common.slices.masks import class_count, values_of
from common.slices.packed import LazyRows, open_rows, refuse_broken_shards
from common.training.sets import SliceSet


def open_set(path, memory_gb=4.0, classes=None):
    """Open a packed set (.h5, also one of AIS with <name>_X and <name>_Y), packed volumes (.h5) or a list (.csv).

    Args:
        path: the file.
        memory_gb: sets of up to so many GB are read into memory, in their integer type; greater ones stay in the file.
        classes: number of classes where it is known, from another set; None finds it in this one.

    Returns:
        SliceSet or `common.training.volume_sets.VolumeSet`.

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


def open_both(training_path, validation_path, memory_gb):
    """Open a set to train on and one to choose the best epoch by; arguments and errors as `open_set`.

    Returns:
        The two sets.

    Raises:
        InputError: also where they are not alike, have slices or cases in common, or validation has no foreground.
    """
    training = open_set(training_path, memory_gb)
    validation = open_set(validation_path, memory_gb, training.classes)
    for what, ours, theirs in (
        ("images of", training.shape, validation.shape),
        ("classes:", training.classes, validation.classes),
    ):
        if ours != theirs:
            raise InputError(f"{training_path} has {what} {ours} and {validation_path} {theirs}; they must be alike")
    if both := training.identities() & validation.identities():
        raise InputError(
            f"{len(both)} slices or cases are in {training_path} and in {validation_path}, such as {min(both)}; "
            "divide them again"
        )
    if not validation.has_foreground():
        raise InputError(f"every mask in {validation_path} is empty; the best epoch cannot be chosen by it")
    return training, validation


def _open_packed(path, memory_gb, classes):
    try:
        file = h5py.File(path, "r")
    except OSError:
        raise InputError(f"{path} is no HDF5 file, or is cut short; pack it again with 3_pack_hdf5.py") from None
    if "step" in file.attrs:
        from common.training.volume_sets import VolumeSet  # with SimpleITK, which slices do not need

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
        classes = class_count(set().union(*(values_of(y[i]) for i in range(y.shape[0]))), path)
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
        x = LazyRows(lambda i: read_slice(table["x"][i])[..., None], shape, number)
        y = LazyRows(lambda i: read_mask(table["y"][i])[..., None], shape, np.uint8)
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

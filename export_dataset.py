"""Export case folders and their lists to the raw layout of nnU-Net v2, with the same split.

    python export_dataset.py --lists data/lists --output data/nnunet/Dataset001_Mine

Reads   LISTS/train.csv, validation.csv, test.csv, or LISTS/fold1/train.csv and so on, from step 2
Writes  OUTPUT/dataset.json, imagesTr, labelsTr, imagesTs, labelsTs and splits_final.json
Takes   about a second per 500 slices of 200x200 on two cores

Slices become PNG images, or NIfTI volumes if they are all slices of a volume. To train nnU-Net on
the same cases, copy splits_final.json to nnUNet_preprocessed/Dataset001_Mine after its
nnUNetv2_plan_and_preprocess.
"""

from typing import Literal

from common import setting_types as types
from common.settings import apply_command_line

# --- input and output
LISTS: types.PathName = "data/lists"  # folder with the lists of step 2
OUTPUT: types.DataSetName = "data/nnunet/Dataset001_Mine"  # data set to write; nnU-Net expects such a name
REPLACE: bool = False  # True: overwrite an existing data set

# --- content
KIND: Literal["auto", "images", "volumes"] = "auto"  # "images": each slice; "volumes": slices joined to volumes
#   "auto": volumes if every case has all slices of a volume.
CHANNEL: types.ChannelName = "gray"  # channel name; nnU-Net normalizes "CT" in another way than other names
CLASS_NAMES: types.Names | None = None  # names of class 1, 2 and so on; None: from case.json, or "class1", ...

settings = apply_command_line(globals())

from pathlib import Path

import numpy as np

from common.errors import InputError, summarize
from common.files import natural_key, write_json
from common.parallel import ordered_map, progress
from common.replacing import refuse_existing, whole_folder
from common.slices.case_files import read_case_record
from common.slices.channels import to_draw
from common.slices.classes import IGNORED, highest_class, type_of_masks
from common.slices.images import read_pair, read_slice, with_channels, write_png
from common.slices.lists import read_divisions
from common.slices.masks import class_count_of_files, values_of
from common.slices.nnunet import are_nested, name_labels
from common.slices.variants import is_variant_folder
from common.volumes.slicing import stack_slices
from common.volumes.writing import write_volume
from common.words import number_of

FOLDERS = {True: ("imagesTs", "labelsTs"), False: ("imagesTr", "labelsTr")}  # whether for testing


def main():
    refuse_existing(settings.OUTPUT, settings.REPLACE)
    divisions = read_divisions(settings.LISTS)
    slices = list_slices(divisions)
    records = {case: read_case_record(case) for case in dict.fromkeys(Path(x).parent.parent for x in slices)}
    cases, ending = group(slices, records)
    splits = make_splits(divisions, cases)
    testing = {name for name, members in cases.items() if slices[members[0]][1]}
    nested = are_nested(records, settings.LISTS)
    classes, ignores = count_classes(slices, nested)
    labels = name_labels(settings.CLASS_NAMES, classes, records, nested) | ({"ignore": classes + 1} if ignores else {})
    print(f"exporting {number_of(len(cases), 'case')} ({ending}) to {settings.OUTPUT}", flush=True)
    with whole_folder(settings.OUTPUT, settings.REPLACE) as folder:
        for name in ("imagesTr", "labelsTr", *(FOLDERS[True] if testing else ())):
            (folder / name).mkdir()
        write = write_images if ending == ".png" else write_volumes
        write(folder, cases, slices, records, testing, classes)
        about = {
            "channel_names": name_channels(slices, records),
            "labels": labels,
            **({"regions_class_order": list(range(1, classes + 1))} if nested else {}),
            "numTraining": len(cases) - len(testing),
            "file_ending": ending,
        }
        write_json(folder / "dataset.json", about)
        if splits:
            write_json(folder / "splits_final.json", splits)
    if not splits:
        print("note: no validation list, so no splits_final.json; nnU-Net draws its own split")
    trained = number_of(len(cases) - len(testing), "training case")
    split = f", {number_of(len(splits), 'split')}" if splits else ""
    print(f"wrote {trained}, {number_of(len(testing), 'test case')}{split} to {settings.OUTPUT}")


# --- what to export


def list_slices(divisions):
    """Slices of all lists, without variants.

    Args:
        divisions: result of `read_divisions`.

    Returns:
        dict of slice path to (mask path, whether it is for testing), in natural order.
    """
    slices, variants = {}, set()
    for lists in divisions.values():
        for name, table in lists.items():
            for x, y in zip(table["x"], table["y"], strict=True):
                if is_variant_folder(Path(x).parent.name):
                    variants.add(x)
                else:
                    slices[x] = y, name == "test"
    if variants:
        print(f"skipped {number_of(len(variants), 'variant')} of step 1; nnU-Net makes its own")
    if not any(not testing for _, testing in slices.values()):
        raise InputError(f"{settings.LISTS}: nothing to train on; list slices in train.csv")
    return {x: slices[x] for x in sorted(slices, key=natural_key)}


def group(slices, records):
    """Slices of each case of nnU-Net.

    Returns:
        dict of case name to slice paths; and the file ending, ".png" for images, ".nii.gz" for volumes.

    Raises:
        InputError: if two cases would have the same name, or KIND is "volumes" and a case is not a whole volume.
    """
    by_case = {}
    for x in slices:
        by_case.setdefault(Path(x).parent.parent, []).append(x)
    problems = [problem for case, paths in by_case.items() if (problem := why_no_volume(case, paths, slices, records))]
    if settings.KIND == "volumes" and problems:
        raise InputError(summarize(problems, "cases are no volumes; use --kind images"))
    if settings.KIND == "images" or problems:
        named = [(f"{Path(x).parent.parent.name}_{Path(x).stem}", [x]) for x in slices]
    else:
        named = [(case.name, paths) for case, paths in by_case.items()]
    cases = {}
    for name, paths in named:
        if name in cases:
            raise InputError(f"{paths[0]}: same case name as {cases[name][0]} ({name}); rename one of the cases")
        cases[name] = paths
    return cases, ".png" if settings.KIND == "images" or problems else ".nii.gz"


def why_no_volume(case, paths, slices, records):
    """Message why slices are not all those of a volume, or ""."""
    entries = [records[case].get("slices", {}).get(Path(x).stem) for x in paths]
    if not records[case].get("volume") or None in entries:
        return f"{case}: not from a volume"
    indices = sorted(entry["index"] for entry in entries)
    if indices != list(range(indices[0], indices[0] + len(paths))) or len({str(e["box"]) for e in entries}) > 1:
        return f"{case}: slices are missing between others, or cut at different places"
    return "" if len({slices[x][1] for x in paths}) == 1 else f"{case}: in several lists"


def make_splits(divisions, cases):
    """Content of splits_final.json: a dict of "train" and "val" for each fold; [] without validation.

    Raises:
        InputError: if a volume would be in both.
    """
    name_of = {x: name for name, paths in cases.items() for x in paths}
    splits = []
    for lists in divisions.values():
        names = {
            name: list(dict.fromkeys(name_of[x] for x in table["x"] if x in name_of)) for name, table in lists.items()
        }
        if not names.get("validation"):
            return []
        if both := set(names.get("train", [])) & set(names["validation"]):
            raise InputError(f"{settings.LISTS}: {min(both)} is in two lists; use --kind images, or split by case")
        splits.append({"train": names.get("train", []), "val": names["validation"]})
    return splits


def count_classes(slices, nested):
    """Number of classes in all masks, and whether pixels are IGNORED."""
    problems, first, values = [], None, {}

    def check(item):
        x, (y, _) = item
        return values_of(highest_class(read_pair(x, y, first, type_of_masks(nested))[1]))

    items = list(slices.items())
    first = items[0][0], read_slice(items[0][0])
    found = ordered_map(check, items, problems=problems)
    for (_, (y, _)), of_mask in zip(items, progress(found, len(items), "checking masks"), strict=True):
        values[y] = of_mask or frozenset()
    if problems:
        raise InputError(summarize(problems, "slices cannot be used"))
    ignores = any(IGNORED in found for found in values.values())
    if nested:
        return max(2, *(set().union(*values.values()) - {IGNORED})), ignores
    return class_count_of_files(values, settings.LISTS), ignores


def name_channels(slices, records):
    """Channels of dataset.json: dict of number, as text, to name."""
    x = next(iter(slices))
    count = len(channels_of(read_slice(x), records[Path(x).parent.parent]))
    names = ["R", "G", "B"] if count == 3 else [f"{settings.CHANNEL}{number}" for number in range(count)]
    return {str(number): name for number, name in enumerate(names if count > 1 else [settings.CHANNEL])}


# --- writing


def write_images(folder, cases, slices, records, testing, classes):
    """Write each slice as a PNG image for each channel, and its mask as class numbers."""

    def write(item):
        name, (x,) = item
        images, labels = FOLDERS[name in testing]
        record = records[Path(x).parent.parent]
        image, mask = read_pair(x, slices[x][0], mask_type=type_of_masks(record.get("overlap")))
        for number, channel in enumerate(channels_of(image, record)):
            write_png(folder / images / f"{name}_{number:04d}.png", channel, atomic=False)
        write_png(folder / labels / f"{name}.png", as_numbers(mask, classes), atomic=False)

    for _ in progress(ordered_map(write, list(cases.items())), len(cases), "writing"):
        pass


def write_volumes(folder, cases, slices, records, testing, classes):
    """Write the slices of each case as a NIfTI volume, and their masks as a label volume."""
    for name, paths in progress(cases.items(), len(cases), "writing"):
        record = records[Path(paths[0]).parent.parent]
        mask_type = type_of_masks(record.get("overlap"))
        pairs = {Path(x).stem: read_pair(x, slices[x][0], mask_type=mask_type) for x in paths}
        images, labels = FOLDERS[name in testing]
        channels = {stem: channels_of(image, record) for stem, (image, _) in pairs.items()}
        for number in range(len(next(iter(channels.values())))):
            values = stack_slices(record, {stem: of_slice[number] for stem, of_slice in channels.items()})
            write_volume(values, folder / images / f"{name}_{number:04d}.nii.gz")
        numbers = stack_slices(record, {stem: as_numbers(mask, classes) for stem, (_, mask) in pairs.items()})
        write_volume(numbers, folder / labels / f"{name}.nii.gz")


def channels_of(image, record):
    """Channels of a slice, a list of (H, H); of neighboring slices only the slice itself, since nnU-Net has the others.

    Args:
        image: (H, H) or (H, H, C).
        record: content of case.json.
    """
    if neighbors := record.get("neighbors", 0):
        image = to_draw(image, neighbors)
    return list(np.moveaxis(with_channels(image), -1, 0))


def as_numbers(mask, classes):
    """Class numbers of a mask of a case folder; the one after the last class where it is IGNORED."""
    mask = highest_class(mask)
    return np.where(mask == 255, np.uint8(1), np.where(mask == IGNORED, np.uint8(classes + 1), mask))


if __name__ == "__main__":
    main()

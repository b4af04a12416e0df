"""Step 3 for 3-D networks: pack volumes with label volumes into HDF5.

Reads   DATA: a data set of the Medical Segmentation Decathlon; or IMAGES and LABELS, folders of volumes
Writes  PACKED/cases.h5, and train.h5 and validation.h5 (or fold1/train.h5 and so on), which link to it     for train.py
Takes   about two seconds for a volume of 512x512x200 on two cores, twice that where grey values are worked out;
        holds one volume at a time, in about ten times the memory of its file unpacked

STEP says what a network is to learn: "whole" finds the region of all labels in the whole volume, "patch" finds each
label in the box around them, and predict.py does one after the other; "single" finds each label in the whole volume.
A group a case: image (up, back, left, channels) float16, standardised; label uint8; where it lay, and the box around
its labels. Cases are divided as a whole.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.setting_types import Folds, Intensity, LabelValues, NamePattern, Names, PathName, Seed, Spacing
from common.settings import apply_command_line

# --- where from, where to
DATA: str = ""  # folder with dataset.json, imagesTr and labelsTr; or else
IMAGES: str = ""  # folder that is searched for volumes, whose channels are the fourth axis, and DICOM series
LABELS: str = ""  # the same for the label volumes, by the names of the volumes
LABEL_NAME: NamePattern = "{id}"  # name of the labels of a volume, for instance "{id}_seg"
PACKED: PathName = "data/volumes"  # folder for the packed volumes
REPLACE: bool = False  # True to write over packed volumes that exist

# --- what a network gets to see
STEP: Literal["whole", "patch", "single"] = "whole"  # "whole", then "patch"; or "single"
SPACING: Spacing | None = 1.0  # mm to resample to, one number or three (left, back, head); None: as it is
VOXELS: Annotated[int, Ge(4096), Le(10**10)] | None = 5832000
# greater volumes (or boxes, with "patch") are scaled down to so many; None: never
SMALLEST_BOX: Annotated[int, Ge(1), Le(4096)] = 24  # voxels a side to which the box around the labels is grown at least
MARGIN: Annotated[float, Ge(0), Le(2)] = 0.2  # share of its sides by which it is then grown on each side
LARGEST_MARGIN: Annotated[float, Ge(0), Le(2)] = 0.3
# the same as far as it is packed, for the "margins" of train.py's AUGMENTATION

# --- grey values
INTENSITY: Literal["auto", "ct", "mr", "liver", "lung", "pancreas"] | Intensity = "auto"
# "ct": cut and standardised as the labelled voxels of all cases say; "mr": each volume by itself; "auto": as
# dataset.json says, or else "mr"; "liver", "lung", "pancreas": CT as in these tasks; or {"low": -100, "high": 240,
# "mean": 0.5, "sd": 0.2}, the last two in units of low to high

# --- labels
LABEL_VALUES: LabelValues | None = None
# for instance {5: 1, 6: 1}, what is not named becomes 0; None takes them as they are
EMPTY: Literal["refuse", "skip", "keep"] = "refuse"
# volumes without any label: "refuse", "skip", or "keep" them (not with "patch")

# --- division
VALIDATION_SHARE: Annotated[float, Ge(0.001), Le(0.999)] = 0.2  # share of the cases to choose the best epoch by
VALIDATION_CASES: Names | None = None  # names of these cases instead
FOLDS: Folds = 0  # 0: one division; 2 or more: so many, each case once on the side of validation
SEED: Seed = 1  # of the division

settings = apply_command_line(globals())

import json

import h5py
import numpy as np
import SimpleITK as sitk

from common.errors import InputError, SettingError, as_input_error, summarise
from common.files import natural_key, refuse_existing, whole_folder
from common.parallel import progress
from common.settings import require_folder
from common.volumes.datasets import read_case, read_decathlon, read_folders
from common.volumes.grids import (
    Box,
    Geometry,
    along_axes,
    at_spacing,
    box_on_grid,
    coarsening_factor,
    coarser,
    grid_of_box,
    grow_box,
    onto_grid,
    orient,
    smoothed_onto_grid,
)
from common.volumes.intensity import TASKS, ForegroundStatistics, Scale, fixed_rule, scales_of

FORMAT = 1  # version of packed volumes
PLACES = 500  # voxels of each label of which the place is kept, to put crops around


def main():
    check_settings()
    data = find_data()
    divisions = divide(sorted((case.name for case in data.cases), key=natural_key))
    refuse_existing(settings.PACKED, settings.REPLACE, "cases.h5")
    rule, labels = look_at(data)
    print(
        (f"packing {len(data.cases)} volumes, step {settings.STEP}, {len(labels)} labels, into {settings.PACKED}"),
        flush=True,
    )
    attributes = {
        "format": FORMAT,
        "settings": json.dumps(settings.as_json()),
        "step": settings.STEP,
        "labels": json.dumps(["foreground"] if settings.STEP == "whole" else list(labels.values())),
        "intensity": json.dumps(rule),
        "spacing": json.dumps(along_axes(settings.SPACING)),
        "voxels": settings.VOXELS or 0,
        "smallest_box": settings.SMALLEST_BOX,
        "margin": settings.MARGIN,
    }
    with whole_folder(settings.PACKED, settings.REPLACE, "cases.h5") as part:
        written = pack_all(part / "cases.h5", data, labels, rule, attributes)
        for folder, sets in divisions.items():
            for name, cases in sets.items():
                write_links(part, folder, name, [case for case in cases if case in written], attributes)
    sizes = ", ".join(f"{name} {len(cases)}" for name, cases in next(iter(divisions.values())).items())
    print(
        f"wrote {len(written)} volumes to {settings.PACKED}"
        + (f" in {settings.FOLDS} folds" if settings.FOLDS else f": {sizes}")
    )


def check_settings():
    if isinstance(settings.INTENSITY, dict) and settings.INTENSITY["low"] >= settings.INTENSITY["high"]:
        raise SettingError(f"INTENSITY is {settings.INTENSITY}; expected low < high")
    if settings.MARGIN > settings.LARGEST_MARGIN:
        raise SettingError(f"MARGIN is {settings.MARGIN}; expected at most LARGEST_MARGIN, {settings.LARGEST_MARGIN}")


def find_data():
    if settings.DATA:
        data = read_decathlon(require_folder(settings.DATA, "DATA"))
        if settings.LABEL_VALUES is not None:
            data.labels = {}  # their numbers are others now
        return data
    if not settings.IMAGES:
        raise InputError("DATA is not set; give --data a folder with dataset.json, or --images and --labels")
    return read_folders(
        require_folder(settings.IMAGES, "IMAGES"), require_folder(settings.LABELS, "LABELS"), settings.LABEL_NAME
    )


def divide(names):
    """Divide cases.

    Args:
        names: list of str.

    Returns:
        dict of subfolder ("" or "fold1" and so on) to a dict of set to names.
    """
    if settings.VALIDATION_CASES is not None:
        if unknown := set(settings.VALIDATION_CASES) - set(names):
            raise InputError(f"VALIDATION_CASES: there is no case {min(unknown)}; there are {', '.join(names[:10])}")
        kept = {"": set(settings.VALIDATION_CASES)}
    else:
        count = settings.FOLDS or max(1, round(settings.VALIDATION_SHARE * len(names)))
        drawn = np.random.default_rng(settings.SEED).permutation(names).tolist()
        parts = (
            {f"fold{i + 1}": drawn[i :: settings.FOLDS] for i in range(settings.FOLDS)}
            if settings.FOLDS
            else {"": drawn[:count]}
        )
        kept = {folder: set(part) for folder, part in parts.items()}
    divisions = {}
    for folder, validation in kept.items():
        train = [name for name in names if name not in validation]
        if not train or not validation:
            raise InputError(f"{len(names)} cases cannot be divided: none would be left to train on, or to validate")
        divisions[folder] = {"train": train, "validation": [name for name in names if name in validation]}
    return divisions


def look_at(data):
    """The rule of the grey values, and the labels by number; reads all volumes once where not both are known.

    Raises:
        InputError: if volumes cannot be used, or hold no labels.
    """
    kind = ("ct" if data.ct else "mr") if settings.INTENSITY == "auto" else settings.INTENSITY
    rule = {"kind": "volume"} if kind == "mr" else None
    if isinstance(kind, dict) or kind in TASKS:
        rule = fixed_rule([Scale(**kind) if isinstance(kind, dict) else TASKS[kind]])
    if rule and data.labels:
        return rule, data.labels
    statistics, numbers_found, problems = [], set(), []
    for case in progress(data.cases, len(data.cases), "looking at volumes"):
        try:
            channels, label = read_case(case, data.labels, settings.LABEL_VALUES)
        except InputError as error:
            problems.append(str(error))
            continue
        numbers = sitk.GetArrayViewFromImage(label)
        numbers_found |= set(np.flatnonzero(np.bincount(numbers.ravel())).tolist()) - {0}
        statistics += [ForegroundStatistics() for _ in range(len(channels) - len(statistics))]
        for channel, image in zip(statistics, channels, strict=False):
            channel.add(sitk.GetArrayViewFromImage(image)[numbers > 0])
    if problems:
        raise InputError(summarise(problems, "volumes cannot be used"))
    if sorted(numbers_found) != list(range(1, len(numbers_found) + 1)):
        found = ", ".join(map(str, sorted(numbers_found))) or "none"
        raise InputError(f"the label volumes hold the labels {found}; expected 1, 2 and so on: see --label-values")
    with as_input_error("INTENSITY"):
        rule = rule or fixed_rule([channel.scale() for channel in statistics])
    return rule, data.labels or {number: str(number) for number in sorted(numbers_found)}


def pack_all(file, data, labels, rule, attributes):
    """Write cases.h5.

    Returns:
        set of the names of the cases in it.

    Raises:
        InputError: if volumes cannot be used; all are looked at.
    """
    problems, written, channels = [], set(), None
    with h5py.File(file, "w") as packed:
        for case in progress(data.cases, len(data.cases), "packing"):
            try:
                volume = prepare(case, labels, rule)
            except InputError as error:
                problems.append(str(error))
                continue
            if volume is None:
                print(f"{case.label} holds no label and is left out")
                continue
            channels = channels or (volume["image"].shape[-1], case.image)
            if volume["image"].shape[-1] != channels[0]:
                have = volume["image"].shape[-1]
                problems.append(f"{case.image} has {have} channels; {channels[1]} has {channels[0]}")
                continue
            group = packed.create_group(f"cases/{case.name}")
            for name in ("image", "label", "places"):
                group[name] = volume.pop(name)
            group.attrs.update(volume)
            written.add(case.name)
        attributes["channels"] = channels[0] if channels else 0
        packed.attrs.update(attributes)
    if problems or not written:
        raise InputError(summarise(problems or ["no volume holds a label"], "volumes cannot be packed"))
    return written


def prepare(case, labels, rule):
    """What is packed of a case: image, label and places, arrays, and its attributes; None for one that is left out."""
    channels, label = read_case(case, labels, settings.LABEL_VALUES)
    original = Geometry.of(label)
    if not sitk.GetArrayViewFromImage(label).any():
        if settings.EMPTY == "skip":
            return None
        if settings.EMPTY == "refuse" or settings.STEP == "patch":
            raise InputError(f'{case.label} holds no label; leave the case out, or give --empty "skip"')
    label = orient(label)
    label = sitk.Cast(label > 0, sitk.sitkUInt8) if settings.STEP == "whole" else label
    with as_input_error(case.image):
        scales = scales_of(rule, channels)
    geometry = Geometry.of(label)
    working = at_spacing(geometry, settings.SPACING)
    around = Box.of(sitk.GetArrayViewFromImage(label))
    around = around and box_on_grid(around, geometry, working)
    grid, factor = choose_grid(working, around)
    image = np.empty((*grid.shape, len(channels)), np.float16)
    for i, scale in enumerate(scales):
        image[..., i] = scale.apply(smoothed_onto_grid(orient(channels[i]), grid))
        channels[i] = None
    numbers = sitk.GetArrayFromImage(onto_grid(label, grid, sitk.sitkLabelLinear))
    inside = (around and box_on_grid(around, working, grid)) or Box((0, 0, 0), (0, 0, 0))
    return {
        "image": image,
        "label": numbers,
        "places": places_of(numbers),
        "original": json.dumps(original._asdict()),
        "grid": json.dumps(grid._asdict()),
        "box": [inside.start, inside.stop],
        "factor": factor,
        "lowest": image.min(axis=(0, 1, 2)),
    }


def choose_grid(working, around):
    """Grid on which a case is packed, and the factor by which it is coarser than the working one.

    Args:
        working: Geometry of the volume at SPACING.
        around: Box of its labels, or None.
    """
    if settings.STEP != "patch":
        factor = coarsening_factor(working, settings.VOXELS)
        return coarser(working, factor), factor
    factor = coarsening_factor(
        grid_of_box(working, grow_box(around, working, settings.SMALLEST_BOX, settings.MARGIN)), settings.VOXELS
    )
    return coarser(
        grid_of_box(working, grow_box(around, working, settings.SMALLEST_BOX, settings.LARGEST_MARGIN)), factor
    ), factor


def places_of(numbers):
    """Some voxels of each label, (N, 4) int16: up, back, left, and the label."""
    rng = np.random.default_rng(0)
    found = [np.zeros((0, 4), np.int16)]
    for label in filter(None, np.flatnonzero(np.bincount(numbers.ravel()))):
        voxels = np.argwhere(numbers == label)
        voxels = voxels[np.sort(rng.choice(len(voxels), min(PLACES, len(voxels)), replace=False))]
        found.append(np.column_stack([voxels, np.full(len(voxels), label)]).astype(np.int16))
    return np.concatenate(found)


def write_links(root, folder, name, cases, attributes):
    """Write a set: links to its cases, which stand in cases.h5 once."""
    if not cases:
        raise InputError(f"{name}.h5 would hold no case: all of them are empty")
    (root / folder).mkdir(exist_ok=True)
    with h5py.File(root / folder / f"{name}.h5", "w") as packed:
        packed.attrs.update(attributes)
        for case in cases:
            packed[f"cases/{case}"] = h5py.ExternalLink("../cases.h5" if folder else "cases.h5", f"cases/{case}")


if __name__ == "__main__":
    main()

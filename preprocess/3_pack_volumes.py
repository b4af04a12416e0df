"""Step 3 for 3-D networks: pack volumes with label volumes into HDF5.

Reads   DATA: a data set of the Medical Segmentation Decathlon or nnU-Net v2; or IMAGES and LABELS
Writes  PACKED/cases.h5, and train.h5 and validation.h5 (or fold1/train.h5, ...), which link to it
Takes   about 2 s for a 512x512x200 volume on two cores, 4 s if gray value statistics are computed,
        and about ten times the memory of its uncompressed file

STEP sets what a network learns. "whole" finds the region of all labels in the whole volume, and
"patch" finds each label in the box around them; predict.py runs one after the other. "single"
finds each label in the whole volume. docs/file_formats.md describes the files.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import setting_types as types
from common.settings import apply_command_line

# --- input and output
DATA: str = ""  # folder with dataset.json, imagesTr and labelsTr; "": use IMAGES and LABELS
IMAGES: str = ""  # folder to search for volumes (fourth axis: channels) and DICOM series
CHANNELS: types.FileChannels = []  # a file name for each channel, such as ["{id}_flair", "{id}_t1"]
LABELS: str = ""  # the same for label volumes, or DICOM SEG and RTSTRUCT of the series
LABEL_NAME: types.LabelPattern = "{id}"  # label volume of volume {id}: "{id}_seg", or "{id}_{class}"
PACKED: types.PathName = "data/volumes"  # where to write the packed volumes
REPLACE: bool = False  # True: overwrite existing packed volumes
NAMES: types.CaseNames = "numbers"  # case names of DICOM: "numbers" (case_0001, ...) or "folder"
#   "folder" keeps the names of your folders, which may identify patients.
NAMES_TABLE: types.TableName | Literal[""] = ""  # table to write: name and path of each case; "": none
WORKERS: types.Workers = ""  # "": this machine's cores; a number of processes; or a Dask scheduler
#   Such as "tcp://10.0.0.1:8786", for several machines: see docs/scaling.md.

# --- volumes and boxes
STEP: Literal["whole", "patch", "single"] = "whole"  # pack for "whole" and again for "patch", or once for "single"
SPACING: types.Spacing | None = 1.0  # mm to resample to, one number or (left, back, head); None: no resampling
SMALLEST_SIDE: Annotated[int, Ge(0), Le(4096)] = 0  # enlarge shorter sides to this many voxels, such as 24; 0: off
VOXELS: Annotated[int, Ge(4096), Le(10**10)] | None = 5832000
# scale volumes (boxes of "patch") down to this many; None: no limit
SMALLEST_BOX: Annotated[int, Ge(1), Le(4096)] = 24  # min side in voxels of the box around the labels
MARGIN: Annotated[float, Ge(0), Le(2)] = 0.2  # margin then added on each side of the box, as a share of its side
LARGEST_MARGIN: Annotated[float, Ge(0), Le(2)] = 0.3  # margin to pack, for "margins" in AUGMENTATION of train.py

# --- gray values
NOT_FINITE: float | None = None  # value to replace NaN and infinity by; None: refuse such volumes
INTENSITY: Literal["auto", "ct", "ct_3sd", "mr", "liver", "lung", "pancreas"] | types.Intensity = "auto"
# "ct", "ct_3sd", "mr", "auto": by dataset.json; a task; or values
#   "ct": percentiles of all labeled voxels; "ct_3sd": their mean +- 3 SD, then by whole volumes; "mr": by each volume;
#   "auto": "mr" without a dataset.json; "liver", "lung", "pancreas": CT of these Decathlon tasks; or values, mean and
#   sd as shares of the range: {"low": -100, "high": 240, "mean": 0.5, "sd": 0.2}.

# --- labels
LABEL_VALUES: types.LabelValues | None = None  # new labels, such as {5: 1, 6: 1}; others become 0; None: keep all
CLASSES: types.Names | None = None  # segments to use (DICOM SEG, RTSTRUCT, ...), in class order; None: all
NESTED: bool = False  # True: each label includes those with larger numbers
REGIONS: types.NamedRegions | None = None  # classes of several labels: {"whole": [1, 2], "core": [2]}
OVERLAP: Literal["largest", "keep"] = "largest"  # of segments that overlap, the later class wins, or "keep" all
EMPTY: Literal["refuse", "skip", "keep"] = "refuse"  # volumes without a label; "keep" is not possible for "patch"

# --- training and validation
VALIDATION_SHARE: Annotated[float, Ge(0.001), Le(0.999)] = 0.2  # share of cases for validation
VALIDATION_CASES: types.Names | None = None  # validation cases by name instead
FOLDS: types.Folds = 0  # 0: one division; 2 or more: number of folds; each case validates in one fold
SEED: types.Seed = 1  # random seed of the division

settings = apply_command_line(globals())

import json
from functools import partial

import h5py
import numpy as np

from common.errors import InputError, SettingError, as_input_error, summarize
from common.files import natural_key
from common.parallel import progress
from common.public_settings import public_settings
from common.replacing import refuse_existing, whole_folder
from common.settings import require_folder
from common.slices.hdf5_text import key_of, write_attributes
from common.slices.lists import count_of_share, make_divisions, pick_named
from common.slices.nnunet import DATASET
from common.volumes.datasets import read_data_set, read_folders, survey, with_regions, write_sets
from common.volumes.grids import Geometry, along_axes
from common.volumes.intensity import fixed_rule, rule_of
from common.volumes.packing import Packing, prepare, report_sizes
from common.volumes.privacy import names_table
from common.words import number_of
from common.workers import start_workers

FORMAT = 1  # version of the packed format


def main():
    check_settings()
    with names_table(settings.NAMES_TABLE, {"PACKED": settings.PACKED}, settings.REPLACE):
        pack_all()


def pack_all():
    data = find_data()
    divisions = divide(sorted((case.name for case in data.cases), key=natural_key))
    refuse_existing(settings.PACKED, settings.REPLACE)
    with start_workers(settings.WORKERS) as workers:
        written = pack(data, divisions, workers)
    sizes = ", ".join(f"{name} {len(cases)}" for name, cases in next(iter(divisions.values())).items())
    divided = f" in {settings.FOLDS} folds" if settings.FOLDS else f": {sizes}"
    data.write_names_table(settings.NAMES_TABLE)
    print(f"wrote {number_of(len(written), 'volume')} to {settings.PACKED}{divided}")


def pack(data, divisions, workers):
    """Write PACKED; returns the names of the packed cases."""
    rule, labels = find_rule_and_labels(data, workers)
    volumes = number_of(len(data.cases), "volume")
    print(f"packing {volumes} into {settings.PACKED} (step: {settings.STEP}, labels: {len(labels)})", flush=True)
    attributes = {
        "format": FORMAT,
        "settings": json.dumps(public_settings(settings, hidden=["IMAGES", "LABELS"])),
        "step": settings.STEP,
        "labels": json.dumps(["foreground"] if settings.STEP == "whole" else list(labels.values())),
        "intensity": json.dumps(rule),
        "spacing": json.dumps(along_axes(settings.SPACING)),
        "voxels": settings.VOXELS or 0,
        "smallest_side": settings.SMALLEST_SIDE,
        "smallest_box": settings.SMALLEST_BOX,
        "margin": settings.MARGIN,
        "patterns": json.dumps(settings.CHANNELS),
        "overlap": "nested" if settings.NESTED else data.overlap,
        "regions": json.dumps({} if settings.LABEL_VALUES else data.regions),  # of the labels in the files
    }
    with whole_folder(settings.PACKED, settings.REPLACE) as folder:
        written = pack_cases(folder / "cases.h5", data, labels, rule, attributes, workers)
        write_sets(folder, divisions, written, attributes)
    return written


def check_settings():
    if isinstance(settings.INTENSITY, dict) and settings.INTENSITY["low"] >= settings.INTENSITY["high"]:
        raise SettingError(f"INTENSITY: low must be below high (found {settings.INTENSITY}); change one of them")
    if settings.MARGIN > settings.LARGEST_MARGIN:
        raise SettingError(f"MARGIN: above LARGEST_MARGIN ({settings.MARGIN}); use at most {settings.LARGEST_MARGIN}")
    if settings.NESTED and settings.OVERLAP == "keep":
        raise SettingError('OVERLAP: "keep" and NESTED exclude each other; remove one of them')
    if settings.REGIONS and (settings.NESTED or settings.CLASSES):
        raise SettingError(
            f"REGIONS: set together with {'NESTED' if settings.NESTED else 'CLASSES'}; remove one of them"
        )


def find_data():
    options = settings.NAMES, settings.LABEL_VALUES, settings.CLASSES
    if settings.DATA:
        folder = require_folder(settings.DATA, "DATA")
        for name in filter(lambda name: getattr(settings, name), ("IMAGES", "LABELS", "CHANNELS")):
            raise SettingError(f"{name}: not used with DATA (found both); leave out one of them")
        if not (folder / DATASET).is_file():
            raise InputError(f"DATA: {folder} contains no {DATASET}; set IMAGES and LABELS to folders of volumes")
        return with_regions(read_data_set(folder, *options), settings.REGIONS, settings.LABEL_VALUES)
    if not settings.IMAGES:
        raise InputError("DATA: not set; set --data to a folder with dataset.json, or set --images and --labels")
    images, labels = require_folder(settings.IMAGES, "IMAGES"), require_folder(settings.LABELS, "LABELS")
    data = read_folders(images, labels, settings.LABEL_NAME, *options, settings.CHANNELS, settings.OVERLAP == "keep")
    return with_regions(data, settings.REGIONS, settings.LABEL_VALUES)


def divide(names):
    """Divide cases into sets.

    Args:
        names: list of str.

    Returns:
        dict of subfolder ("", or "fold1", ...) to dict of "train" and "validation" to names.
    """
    drawn = np.random.default_rng(settings.SEED).permutation(names).tolist()
    if settings.VALIDATION_CASES is not None:
        validation = [pick_named(names, settings.VALIDATION_CASES, str, "VALIDATION_CASES")[0]]
    elif settings.FOLDS:
        validation = [drawn[fold :: settings.FOLDS] for fold in range(settings.FOLDS)]
    else:
        validation = [drawn[: count_of_share(settings.VALIDATION_SHARE, len(names))]]
    divisions = make_divisions(names, validation)
    if not all(train and held_out for train, held_out in divisions.values()):
        raise InputError(f"cases: cannot be divided ({len(names)} found); keep one or more for each set")
    return {folder: dict(zip(("train", "validation"), sets, strict=True)) for folder, sets in divisions.items()}


def find_rule_and_labels(data, workers):
    """Gray value rule and label names by number; workers read all volumes once unless both are known.

    Raises:
        InputError: if volumes are unusable or contain no labels.
    """
    rule = rule_of(settings.INTENSITY, data.ct)
    if rule and data.labels:
        return rule, data.labels
    labels, statistics = survey(data, settings.LABEL_VALUES, settings.NOT_FINITE, settings.INTENSITY, workers)
    with as_input_error("INTENSITY"):
        rule = rule or fixed_rule([of_channel.scale() for of_channel in statistics])
    return rule, data.labels or {label: str(label) for label in labels}


def make_packing():
    """Settings that decide how a case is packed."""
    return Packing(
        step=settings.STEP,
        spacing=settings.SPACING,
        smallest_side=settings.SMALLEST_SIDE,
        voxels=settings.VOXELS,
        smallest_box=settings.SMALLEST_BOX,
        margin=settings.MARGIN,
        largest_margin=settings.LARGEST_MARGIN,
        label_values=settings.LABEL_VALUES,
        not_finite=settings.NOT_FINITE,
        empty=settings.EMPTY,
    )


def pack_cases(file, data, labels, rule, attributes, workers):
    """Write cases.h5 of the cases that workers prepare.

    Returns:
        set of the names of the packed cases.

    Raises:
        InputError: if volumes are unusable, after reading all of them.
    """
    problems, sizes, first = [], {}, None  # path and channels of the first volume
    task = partial(prepare, labels=labels, rule=rule, label_files=data.label_files, how=make_packing())
    with h5py.File(file, "w") as packed:
        prepared = progress(workers.map_large(task, data.cases, problems), len(data.cases), "packing")
        for case, volume in zip(data.cases, prepared, strict=True):
            if volume is None:
                continue
            channels = volume["image"].shape[-1]
            first = first or (case.image, channels)
            if channels != first[1]:
                problems.append(f"{case.image}: wrong number of channels ({channels}); {first[0]} has {first[1]}")
                continue
            group = packed.create_group(key_of(f"cases/{case.name}"))
            for name in ("image", "label", "places"):
                group[name] = volume.pop(name)
            write_attributes(group, volume)
            sizes[case.name] = Geometry(**json.loads(volume["original"]))
        attributes["channels"] = first[1] if first else 0
        write_attributes(packed, attributes)
    if problems or not sizes:
        raise InputError(summarize(problems or ["labels: all are 0; check LABEL_VALUES"], "volumes cannot be packed"))
    report_sizes(sizes)
    return set(sizes)


if __name__ == "__main__":
    main()

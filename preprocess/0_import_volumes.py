"""Step 0: import volumes with label volumes into case folders of slices.

Reads   IMAGES and LABELS: folders of DICOM series, NIfTI, NRRD or MetaImage files;
        as labels also DICOM SEG, RTSTRUCT and .seg.nrrd of 3D Slicer
Writes  CASES/case_<name>/x/0001.png, y/0001.png and case.json, for steps 1 and 2
Takes   about 2 s and 0.5 GB of memory for a 512x512x300 volume on two cores

Label volumes are matched by name, DICOM SEG and RTSTRUCT by the series that they refer to; their
grids may differ. case.json records the geometry, so that predictions can be mapped back onto the
volume, and nothing that identifies a patient. Loads one volume at a time.
"""

import sys
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import setting_types as types
from common.settings import apply_command_line

# --- input and output
IMAGES: str = ""  # folder to search for volumes and DICOM series, or one volume
#   A folder with dataset.json is a data set of nnU-Net or the Decathlon and needs no LABELS.
CHANNELS: types.FileChannels = []  # a file name for each channel, such as ["{id}_flair", "{id}_t1"]
LABELS: str = ""  # the same for label volumes, matched by name; empty: all masks are black
LABEL_NAME: types.LabelPattern = "{id}"  # label volume name for volume {id}, such as "{id}_seg"
#   "{id}_{class}" or "{id}/{class}": a label volume for each class; CLASSES gives their order.
SERIES: types.Series | None = None  # number or description of the series, if a folder contains several
#   Without it, a message lists and numbers them.
CASES: types.PathName = "data/cases"  # where to write the case folders
REPLACE: bool = False  # True: overwrite existing case folders
NAMES: types.CaseNames = "numbers"  # case names of DICOM: "numbers" (case_0001, ...) or "folder"
#   "folder" keeps the names of your folders, which may identify patients.
NAMES_TABLE: str = ""  # table to write (.csv): name and path of each case; "": none
#   It identifies patients, so it must be outside of what you pass on.
SKIP_BROKEN: bool = False  # True: exit with 0 even if some volumes could not be used

# --- slices
PLANE: types.Plane = "axial"  # "axial", "coronal" or "sagittal"
SPACING: types.Spacing | None = None  # mm to resample to, one number or (left, back, head); None: no resampling
SLICES: Literal["all", "labeled", "labelled"] = "all"  # "all"; "labeled": only slices with a label
#   Empty slices teach what is not the target. Use "labeled" if only some slices of each volume are outlined.
NEIGHBORS: types.Neighbors = 0  # slices before and after each slice to add as channels (2.5-D)
SIZE: types.Side = 200  # side length of the slices in pixels
FIT: Literal["resize", "crop", "pad"] = "pad"  # "resize" (may distort), "crop" the center, or "pad" to a square
#   "pad" shrinks slices larger than SIZE.

# --- gray values
NOT_FINITE: float | None = None  # value to replace NaN and infinity by; None: refuse such volumes
WINDOW: types.Window | None = None  # values mapped to black and white, [low, high], such as [-200, 200] HU
PERCENTILES: types.Percentiles = [0.5, 99.5]  # percentiles mapped to black and white if WINDOW is None
BITS: Literal[8, 16] = 8  # bit depth of the slices: 8 or 16

# --- labels
IGNORE: types.Gray | None = None  # label of voxels that count in no loss and no score; None: none
LABEL_VALUES: types.LabelValues | None = None  # new labels, such as {5: 1, 6: 1}; others become 0; None: keep all
CLASSES: types.Names | None = None  # segments to use, by name, in class order; None: all
#   For DICOM SEG, RTSTRUCT and .seg.nrrd. The script prints the names.
OVERLAP: Literal["largest", "keep"] = "largest"  # of segments that overlap, the later class wins, or "keep" all
REGIONS: types.Regions | None = None  # classes of several labels: {"whole": [1, 2], "core": [2]}
#   "nested": class 1 includes class 2, which includes class 3, and so on.

settings = apply_command_line(globals())

import os
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import SimpleITK as sitk

from common.errors import InputError, SettingError, name_broken
from common.parallel import ordered_map
from common.slices.cases import CaseRecord, Imported, as_case_name, import_cases, refuse_existing_cases
from common.slices.classes import is_target, type_of_masks
from common.slices.images import cut, encode_png, encode_slice, fit_boxes
from common.slices.nnunet import DATASET
from common.slices.regions import Regions
from common.volumes.channels import first_files, group_channels
from common.volumes.datasets import read_data_set
from common.volumes.finding import find_volumes
from common.volumes.grids import Geometry, orient
from common.volumes.label_files import LabelFiles, labels_onto
from common.volumes.label_matching import match_labels
from common.volumes.privacy import check_names_table, is_dicom_volume, safe_names, write_names_table
from common.volumes.slicing import open_slices, planes_of, slice_entry, spacing_of_plane, to_gray_levels, with_neighbors
from common.words import number_of

FEW_LABELED = 0.1  # share of the slices of a volume


def main():
    check_settings()
    found = match_volumes()
    volumes, labels, class_names = found.volumes, found.labels, found.class_names
    names = safe_names(volumes, settings.NAMES)
    cases = {name: Path(settings.CASES, as_case_name(case)) for name, case in names.items()}
    refuse_existing_cases(cases.values(), settings.REPLACE)
    expected = {} if found.regions else dict(enumerate(class_names, 1))
    how = settings.CLASSES, settings.LABEL_VALUES, settings.SERIES, expected
    sharing = {"overlapping": settings.OVERLAP == "keep", "regions": found.regions and Regions(found.regions)}
    sharing |= {"further": found.further, "class_of": found.class_of}
    label_files = LabelFiles(labels.values(), *how, ignore=found.ignored, **sharing)
    size = f"{settings.SIZE}x{settings.SIZE}"
    count = number_of(len(volumes), "volume")
    if names_of_classes := label_files.describe():
        print(names_of_classes, flush=True)
    print(f"importing {count} into {settings.CASES} ({settings.PLANE}, {settings.FIT} to {size})", flush=True)
    labeled = []
    fitting = {"fit": settings.FIT, "mask_values": settings.LABEL_VALUES, "overlap": label_files.overlap}
    fitting |= {"class_names": label_files.names_of_regions or class_names}
    fitting |= {"neighbors": settings.NEIGHBORS, "channels": found.patterns or None}
    result = import_cases(
        [(cases[name], (found.files.get(name, [path]), labels.get(name))) for name, path in volumes.items()],
        partial(import_volume, label_files=label_files, labeled=labeled),
        partial(CaseRecord, "0_import_volumes.py", settings.SIZE, **fitting),
        settings.REPLACE,
        parallel=False,
    )
    slices = f"{number_of(result.slices, 'slice')} of {settings.SIZE}x{settings.SIZE}"
    write_names_table(settings.NAMES_TABLE, names, volumes)
    for note in filter(None, (label_files.note_on_overlap(), note_on_empty(labeled))):
        print(f"note: {note}")
    print(f"wrote {slices} in {number_of(result.cases, 'case')} to {settings.CASES}")
    problems = list(dict.fromkeys([*label_files.failed.values(), *result.problems]))
    name_broken(problems, "volumes cannot be used", result.cases, settings.SKIP_BROKEN)


def check_settings():
    if settings.SLICES != "all" and not (settings.LABELS or is_data_set()):
        raise SettingError(
            f'SLICES: "{settings.SLICES}" needs LABELS; set --labels to their folder, or use --slices all'
        )
    check_names_table(settings.NAMES_TABLE, {"CASES": settings.CASES}, settings.REPLACE)


def is_data_set():
    """Whether IMAGES is a data set with dataset.json, which lists its labels."""
    return not settings.LABELS and os.path.isfile(Path(settings.IMAGES or "-", DATASET))


class Found(NamedTuple):
    """What to import.

    Attributes:
        volumes, labels: dicts of name to Path of the volumes, or of their first channels, and of the label files.
        class_names: names of class 1, 2 and so on that are no secret.
        ignored: label of voxels that do not count, or None.
        files, patterns: dict of name to the Paths of all channels, and their name patterns; empty with one file each.
        regions: setting REGIONS, or the regions of the data set; None: none.
        further, class_of: as of `common.volumes.label_matching.Matched`.
    """

    volumes: dict
    labels: dict
    class_names: list
    ignored: int | None
    files: dict
    patterns: list
    regions: dict | str | None
    further: dict | None = None
    class_of: dict | None = None


def match_volumes():
    """Match volumes with their channels and label files.

    Returns:
        Found.

    Raises:
        InputError: if no volumes are found, or one has no labels or lacks a channel.
    """
    for setting, value in (("IMAGES", settings.IMAGES), ("LABELS", settings.LABELS)):
        if (value or setting == "IMAGES") and not Path(value or "-").exists():
            found = f"{value} does not exist" if value else "not set"
            raise InputError(f"{setting}: {found}; choose a folder of volumes, or one volume")
    if is_data_set():
        data = read_data_set(
            Path(settings.IMAGES), settings.NAMES, settings.LABEL_VALUES, settings.CLASSES, special=True
        )
        files = {case.source: [case.image, *case.channels] for case in data.cases}
        patterns = [f"{{id}}_{number:04d}" for number in range(max(map(len, files.values())))]
        return Found(
            volumes={case.source: case.image for case in data.cases},
            labels={case.source: case.label for case in data.cases},
            class_names=list(data.labels.values()),
            ignored=data.ignored if settings.IGNORE is None else settings.IGNORE,
            files=files,
            patterns=patterns if len(patterns) > 1 else [],
            regions=settings.REGIONS or data.regions or None,
        )
    files = {}
    if settings.CHANNELS:
        files = group_channels(find_volumes(settings.IMAGES), settings.CHANNELS, "IMAGES")
    volumes, labels, several = first_files(files), {}, ()
    if settings.LABELS:
        names = settings.LABEL_NAME, settings.SERIES
        volumes, labels, *several = match_labels(settings.IMAGES, settings.LABELS, *names, volumes or None)
    volumes = volumes or find_volumes(settings.IMAGES)
    if settings.SERIES is not None and not any(is_dicom_volume(path) for path in volumes.values()):
        raise InputError(f"SERIES: no DICOM series in IMAGES to choose from (found {settings.SERIES!r}); remove it")
    how = settings.IGNORE, files, settings.CHANNELS, settings.REGIONS
    return Found(volumes, labels, settings.CLASSES or [], *how, *several)


def read_labels(path, label_files, volume):
    """Labels as an array (S, P, L) on the grid of the slices; `volume` is the entry of case.json."""
    image, grid = label_files.read(path, Geometry(**volume["geometry"])), Geometry(**volume["grid"])
    return sitk.GetArrayFromImage(orient(labels_onto(image, grid, path)))


def note_on_empty(labeled):
    """What a user should know about slices without a label, or "".

    Args:
        labeled: list of shares of the slices that have a label, one for each volume with labels.
    """
    if not (settings.LABELS or is_data_set()):
        return "LABELS is not set, so all masks are empty; use these cases for prediction only"
    few = sum(share < FEW_LABELED for share in labeled)
    if settings.SLICES != "all" or not few:
        return ""
    return (
        f"{number_of(few, 'volume')} with a label on less than {FEW_LABELED:.0%} of the slices; if the other slices "
        "show the target too but are not outlined, import again with --slices labeled"
    )


def import_volume(source, label_files, labeled):
    """Read a volume and cut its slices.

    Args:
        source: list of the Paths of its channels, and Path of its labels or None for black masks.
        label_files: LabelFiles of all volumes.
        labeled: list; gets the share of the slices that have a label.

    Returns:
        Imported.

    Raises:
        InputError: if the volume cannot be read, or has no label.
    """
    paths, label_path = source
    path = paths[0]
    window, percentiles = settings.WINDOW, settings.PERCENTILES
    how = settings.SPACING, settings.SERIES, settings.NOT_FINITE
    values, levels, volume = open_slices(paths, settings.PLANE, window, percentiles, *how, several=True)
    if len(levels) > 1 and settings.NEIGHBORS:
        raise SettingError(f"NEIGHBORS: only for volumes with one channel (found {len(levels)}); set it to 0")
    grid, shape = Geometry(**volume["grid"]), values.shape[1:3]
    masks = np.zeros(values.shape[:3], type_of_masks(label_files.overlap))
    if label_path:
        masks = planes_of(read_labels(label_path, label_files, volume), settings.PLANE)
    wanted = [i for i in range(len(values)) if settings.SLICES == "all" or is_target(masks[i]).any()]
    labeled.append(sum(bool(is_target(mask).any()) for mask in masks) / len(masks))
    if not wanted:
        raise InputError(f"{path}: no slice has a label; remove the volume, or use --slices all")
    (box,) = fit_boxes(shape, settings.SIZE, settings.FIT)

    def make_slice(i):
        mask = np.ascontiguousarray(masks[i])
        if label_files.largest == 1 and not label_files.overlap:
            mask = np.where(is_target(mask), np.uint8(255), mask)
        image = to_gray_levels(with_neighbors(values, i, settings.NEIGHBORS), levels, settings.BITS)
        mask = cut(mask, box, settings.SIZE, cv2.INTER_NEAREST)
        return encode_slice(cut(image, box, settings.SIZE)), encode_png(mask), slice_entry(shape, i, box)

    spacing = spacing_of_plane(grid.spacing, settings.PLANE)
    common = list(levels[0]) if len(set(map(tuple, levels))) == 1 else None
    return Imported(ordered_map(make_slice, wanted), {"spacing": spacing, "window": common, "volume": volume})


if __name__ == "__main__":
    main()

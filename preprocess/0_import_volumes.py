"""Step 0: bring volumes with label volumes into case folders of slices.

Reads   IMAGES and LABELS: folders of DICOM series, NIfTI, NRRD or MetaImage files
Writes  CASES/case_<name>/x/0001.png, y/0001.png and case.json                          for steps 1 and 2
Takes   about two seconds, and half a GB, for a volume of 512x512x300 on two cores

A volume belongs to the labels of the same name; these may have a grid of their own. case.json keeps the geometry, so
that a prediction finds its way back into the volume, and nothing that names a patient. One volume is held at a time.
"""

import sys
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.setting_types import (
    LabelValues,
    NamePattern,
    PathName,
    Percentiles,
    Plane,
    PositiveInt,
    Side,
    Spacing,
    Window,
)
from common.settings import apply_command_line

# --- where from, where to
IMAGES: str = ""  # folder that is searched for volumes and DICOM series, or one volume
LABELS: str = ""  # the same for the label volumes, by the names of the volumes; empty: masks are black
LABEL_NAME: NamePattern = "{id}"  # name of the labels of a volume, for instance "{id}_seg"
SERIES: PositiveInt | None = None
# which series of a folder that holds several, by its number in the message that lists them
CASES: PathName = "data/cases"  # folder for the case folders
REPLACE: bool = False  # True to write over case folders that exist
SKIP_BROKEN: bool = False  # True: volumes that cannot be used do not count as an error

# --- slices
PLANE: Plane = "axial"  # "axial", "coronal" or "sagittal"
SPACING: Spacing | None = None  # mm to resample to, one number or three (left, back, head); None: as it is
SLICES: Literal["labelled", "all"] = "labelled"  # "labelled": only slices with a label; "all"
SIZE: Side = 200  # side of the slices in pixels
FIT: Literal["resize", "crop", "pad"] = "pad"
# "resize" to SIZE whatever the shape; "crop" the centre; "pad" to a square, shrunk where larger than SIZE

# --- grey values
WINDOW: Window | None = None  # values to map to black and white, [low, high], for instance [-200, 200] HU
PERCENTILES: Percentiles = [0.5, 99.5]  # of the volume, to map to black and white where WINDOW is None
BITS: Literal[8, 16] = 8  # of the slices: 8 or 16

# --- labels
LABEL_VALUES: LabelValues | None = None
# for instance {5: 1, 6: 1}, what is not named becomes 0; None takes them as they are

settings = apply_command_line(globals())

import cv2
import numpy as np

from common.errors import InputError, SettingError, name_broken
from common.files import refuse_existing
from common.parallel import ordered_map, progress
from common.slices.cases import as_case_name, case_record, write_case
from common.slices.images import cut, encode_png, fit_boxes, window_to_gray
from common.volumes.finding import find_volumes, match_labels
from common.volumes.grids import Geometry, onto_grid, orient
from common.volumes.labels import labels_in
from common.volumes.privacy import safe_names
from common.volumes.reading import read_volume
from common.volumes.slicing import open_slices, planes_of, slice_entry, spacing_of_plane


def main():
    check_settings()
    volumes, labels = match_volumes()
    cases = name_cases(volumes)
    for case in cases.values():
        refuse_existing(Path(settings.CASES, case), settings.REPLACE, "case.json")
    problems = []
    classes = count_classes(labels, problems)
    print(
        f"importing {len(volumes)} volumes, {settings.PLANE}, {settings.FIT} to "
        f"{settings.SIZE}x{settings.SIZE}, into {settings.CASES}",
        flush=True,
    )
    written = done = 0
    for name in progress(volumes, len(volumes), "importing"):
        try:
            written += import_volume(volumes[name], labels.get(name), Path(settings.CASES, cases[name]), classes)
            done += 1
        except InputError as error:
            problems.append(str(error))
    problems = list(dict.fromkeys(problems))
    print(f"wrote {written} slices of {settings.SIZE}x{settings.SIZE} in {done} cases to {settings.CASES}")
    name_broken(problems, "volumes cannot be used", done, settings.SKIP_BROKEN)


def check_settings():
    if settings.SLICES == "labelled" and not settings.LABELS:
        raise SettingError('without LABELS no slice has a label; give --labels their folder, or --slices "all"')


def match_volumes():
    """Volumes by name, and the label volumes that go with them.

    Raises:
        InputError: if there are none, or one has no partner.
    """
    for setting, value in (("IMAGES", settings.IMAGES), ("LABELS", settings.LABELS)):
        if (value or setting == "IMAGES") and not Path(value or "-").exists():
            raise InputError(f"{setting}: {value or 'not set'} does not exist; give a folder of volumes, or one volume")
    return (
        match_labels(settings.IMAGES, settings.LABELS, settings.LABEL_NAME)
        if settings.LABELS
        else (find_volumes(settings.IMAGES), {})
    )


def name_cases(volumes):
    """Name of the case folder of each volume: its own, or a number where that holds what a DICOM tag says."""
    cases = {name: as_case_name(safe) for name, safe in safe_names(volumes).items()}
    if len(set(cases.values())) < len(cases):
        raise InputError(f"two volumes of {settings.IMAGES} would become the same case; rename one")
    return cases


def count_classes(labels, problems):
    """Greatest label of all label volumes, at least 1; those that cannot be read are added to the problems."""
    greatest = 1
    for path in progress(labels.values(), len(labels), "looking at labels"):
        try:
            greatest = max(greatest, int(read_labels(path).max(initial=0)))
        except InputError as error:
            problems.append(str(error))
    return greatest


def read_labels(path, geometry=None):
    """Labels as an array (S, P, L) uint8 in the grid of the file, or in another one, turned for slices."""
    image = read_volume(path, settings.SERIES)
    if geometry:
        image = orient(onto_grid(image, geometry)) if Geometry.of(image) != geometry else orient(image)
    return labels_in(image, path, settings.LABEL_VALUES)


# --- one volume


def import_volume(path, label_path, case, classes):
    """Write the case folder of a volume.

    Returns:
        number of slices.

    Raises:
        InputError: if it cannot be read, or has no label; nothing is written then.
    """
    pictures, levels, volume = open_slices(
        path, settings.PLANE, settings.WINDOW, settings.PERCENTILES, settings.SPACING, settings.SERIES
    )
    grid = Geometry(**volume["grid"])
    masks = (
        planes_of(read_labels(label_path, grid), settings.PLANE) if label_path else np.zeros(pictures.shape, np.uint8)
    )
    wanted = [i for i in range(len(pictures)) if settings.SLICES == "all" or masks[i].any()]
    if not wanted:
        raise InputError(f"{path}: no slice has a label")
    (box,) = fit_boxes(pictures.shape[1:], settings.SIZE, settings.FIT)

    def make(i):
        mask = np.ascontiguousarray(masks[i])
        mask = cv2.compare(mask, 0, cv2.CMP_GT) if classes == 1 else mask
        picture = cut(window_to_gray(pictures[i], *levels, settings.BITS), box, settings.SIZE)
        return encode_png(picture), encode_png(cut(mask, box, settings.SIZE, cv2.INTER_NEAREST))

    slices = {f"{number:04d}": slice_entry(pictures.shape[1:], i, box) for number, i in enumerate(wanted, 1)}
    spacing = spacing_of_plane(grid.spacing, settings.PLANE)
    record = case_record(
        "0_import_volumes.py",
        settings.SIZE,
        slices,
        settings.FIT,
        False,
        settings.LABEL_VALUES,
        spacing,
        list(levels),
        volume,
    )
    write_case(case, settings.REPLACE, record, ordered_map(make, wanted))
    return len(slices)


if __name__ == "__main__":
    main()

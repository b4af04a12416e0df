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
from common import setting_types as types
from common.settings import apply_command_line

# --- where from, where to
IMAGES: str = ""  # folder that is searched for volumes and DICOM series, or one volume
LABELS: str = ""  # the same for the label volumes, by the names of the volumes; empty: masks are black
LABEL_NAME: types.NamePattern = "{id}"  # name of the labels of a volume, for instance "{id}_seg"
SERIES: types.PositiveInt | None = None
# which series of a folder that holds several, by its number in the message that lists them
CASES: types.PathName = "data/cases"  # folder for the case folders
REPLACE: bool = False  # True to write over case folders that exist
SKIP_BROKEN: bool = False  # True: volumes that cannot be used do not count as an error

# --- slices
PLANE: types.Plane = "axial"  # "axial", "coronal" or "sagittal"
SPACING: types.Spacing | None = None  # mm to resample to, one number or three (left, back, head); None: as it is
SLICES: Literal["labelled", "all"] = "labelled"  # "labelled": only slices with a label; "all"
SIZE: types.Side = 200  # side of the slices in pixels
FIT: Literal["resize", "crop", "pad"] = "pad"
# "resize" to SIZE whatever the shape; "crop" the centre; "pad" to a square, shrunk where larger than SIZE

# --- grey values
WINDOW: types.Window | None = None  # values to map to black and white, [low, high], for instance [-200, 200] HU
PERCENTILES: types.Percentiles = [0.5, 99.5]  # of the volume, to map to black and white where WINDOW is None
BITS: Literal[8, 16] = 8  # of the slices: 8 or 16

# --- labels
LABEL_VALUES: types.LabelValues | None = None
# for instance {5: 1, 6: 1}, what is not named becomes 0; None takes them as they are

settings = apply_command_line(globals())

from functools import partial

import cv2
import numpy as np

from common.errors import InputError, SettingError, name_broken
from common.parallel import ordered_map, progress
from common.slices.cases import CaseRecord, Imported, as_case_name, import_cases, refuse_existing_cases
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
    refuse_existing_cases(cases.values(), settings.REPLACE)
    classes, problems = count_classes(labels)
    size = f"{settings.SIZE}x{settings.SIZE}"
    print(
        f"importing {len(volumes)} volumes, {settings.PLANE}, {settings.FIT} to {size}, into {settings.CASES}",
        flush=True,
    )
    result = import_cases(
        [(cases[name], (path, labels.get(name))) for name, path in volumes.items()],
        partial(import_volume, classes=classes),
        partial(CaseRecord, "0_import_volumes.py", settings.SIZE, fit=settings.FIT, mask_values=settings.LABEL_VALUES),
        settings.REPLACE,
        parallel=False,
    )
    print(f"wrote {result.slices} slices of {size} in {result.cases} cases to {settings.CASES}")
    problems = list(dict.fromkeys(problems + result.problems))
    name_broken(problems, "volumes cannot be used", result.cases, settings.SKIP_BROKEN)


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
    if not settings.LABELS:
        return find_volumes(settings.IMAGES), {}
    return match_labels(settings.IMAGES, settings.LABELS, settings.LABEL_NAME)


def name_cases(volumes):
    """Path of the case folder of each volume: its own name, or a number if that contains what a DICOM tag says."""
    cases = {name: as_case_name(safe) for name, safe in safe_names(volumes).items()}
    if len(set(cases.values())) < len(cases):
        raise InputError(f"two volumes of {settings.IMAGES} would become the same case; rename one")
    return {name: Path(settings.CASES, case) for name, case in cases.items()}


def count_classes(labels):
    """Largest label in all label volumes, at least 1; and messages on those that cannot be used."""
    largest, problems = 1, []
    for path in progress(labels.values(), len(labels), "looking at labels"):
        try:
            largest = max(largest, int(read_labels(path).max(initial=0)))
        except InputError as error:
            problems.append(str(error))
    return largest, problems


def read_labels(path, grid=None):
    """Labels as an array (S, P, L) uint8: of the file as it is, or on a grid and turned for slices."""
    image = read_volume(path, settings.SERIES)
    if grid:
        image = orient(image if Geometry.of(image) == grid else onto_grid(image, grid))
    return labels_in(image, path, settings.LABEL_VALUES)


def import_volume(source, classes):
    """Read a volume and cut its slices.

    Args:
        source: Path of the volume and of its labels, or None for black masks.
        classes: number of classes in all volumes.

    Returns:
        Imported.

    Raises:
        InputError: if the volume cannot be read, or has no label.
    """
    path, label_path = source
    values, (low, high), volume = open_slices(
        path, settings.PLANE, settings.WINDOW, settings.PERCENTILES, settings.SPACING, settings.SERIES
    )
    grid, shape = Geometry(**volume["grid"]), values.shape[1:]
    masks = planes_of(read_labels(label_path, grid), settings.PLANE) if label_path else np.zeros(values.shape, np.uint8)
    wanted = [i for i in range(len(values)) if settings.SLICES == "all" or masks[i].any()]
    if not wanted:
        raise InputError(f"{path}: no slice has a label")
    (box,) = fit_boxes(shape, settings.SIZE, settings.FIT)

    def make_slice(i):
        mask = np.ascontiguousarray(masks[i])
        mask = cv2.compare(mask, 0, cv2.CMP_GT) if classes == 1 else mask
        image = cut(window_to_gray(values[i], low, high, settings.BITS), box, settings.SIZE)
        mask = cut(mask, box, settings.SIZE, cv2.INTER_NEAREST)
        return encode_png(image), encode_png(mask), slice_entry(shape, i, box)

    spacing = spacing_of_plane(grid.spacing, settings.PLANE)
    return Imported(ordered_map(make_slice, wanted), {"spacing": spacing, "window": [low, high], "volume": volume})


if __name__ == "__main__":
    main()

"""Step 0: bring CT scans with a table of lung nodules into case folders of slices.

Reads   SCANS: MetaImage, NIfTI, NRRD or DICOM; ANNOTATIONS: seriesuid,coordX,coordY,coordZ,diameter_mm (mm, LPS)
Writes  CASES/case_<name>/x/0001.png, y/0001.png and case.json                          for steps 1 and 2
Takes   about a second for a scan of 512x512x300 on two cores; four for all of its slices, with lungs

A scan belongs to the rows whose seriesuid is its name. Each nodule gives the slice of its centre and its neighbours,
with discs of the sphere of that diameter. Scans without a row and rows without a scan are counted and named.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.setting_types import PathName, Side, Window
from common.settings import apply_command_line

# --- where from, where to
SCANS: str = ""  # folder that is searched for scans
ANNOTATIONS: str = ""  # the table (.csv); may be empty where SLICES is "all": masks are black
CASES: PathName = "data/cases"  # folder for the case folders
REPLACE: bool = False  # True to write over case folders that exist
SKIP_BROKEN: bool = False  # True: scans that cannot be used do not count as an error

# --- slices
SLICES: Literal["nodules", "all"] = "nodules"
# "nodules": those through a nodule; "all": every slice of every scan, for instance to predict
NEIGHBOURS: Annotated[int, Ge(0), Le(1000)] = 1  # slices on each side of that of a centre, where SLICES is "nodules"
SIZE: Side = 512  # side of the slices in pixels
WINDOW: Window = [-1000, 400]  # HU of black and white
LUNGS: Literal["clusters", "thresholds", ""] = ""
# what is outside of the lungs turns black: "clusters" or "thresholds" finds them; "": all stays
CUT: bool = False  # True: slices are cut to the square around the lungs, which LUNGS finds

settings = apply_command_line(globals())

import cv2
import numpy as np

from common.errors import InputError, SettingError, name_broken
from common.files import refuse_existing
from common.parallel import ordered_map, progress
from common.settings import require_folder
from common.slices.cases import as_case_name, case_record, write_case
from common.slices.images import cut, encode_png, fit_boxes, window_to_gray
from common.volumes.finding import find_volumes
from common.volumes.grids import Geometry
from common.volumes.nodules import LUNG_FINDERS, no_annotations, read_annotations, sphere_masks, square_around
from common.volumes.slicing import open_slices, slice_entry, spacing_of_plane


def main():
    check_settings()
    of_scan, scans = match_rows()
    paths = {name: Path(settings.CASES, as_case_name(series_of(name))) for name in of_scan}
    if len(set(paths.values())) < len(paths):
        raise InputError(f"two scans of {settings.SCANS} have the same name; rename one")
    for path in paths.values():
        refuse_existing(path, settings.REPLACE, "case.json")

    print(
        (f"importing {len(of_scan)} scans with {sum(map(len, of_scan.values()))} nodules into {settings.CASES}"),
        flush=True,
    )
    problems, written = [], 0
    for name, rows in progress(of_scan.items(), len(of_scan), "importing"):
        try:
            written += import_scan(scans[name], rows, paths[name])
        except InputError as error:
            problems.append(str(error))
    done = len(of_scan) - len(problems)
    print(f"wrote {written} slices of {settings.SIZE}x{settings.SIZE} in {done} cases to {settings.CASES}")
    name_broken(problems, "scans cannot be used", done, settings.SKIP_BROKEN)


def match_rows():
    """Rows of the table by the name of the scan, and the scans themselves; who has no partner is named.

    Raises:
        InputError: if no slice is wanted of any.
    """
    scans = find_volumes(require_folder(settings.SCANS, "SCANS"))
    table = read_annotations(settings.ANNOTATIONS) if settings.ANNOTATIONS else no_annotations()
    of_scan = {name: table[table["seriesuid"] == series_of(name)] for name in scans}
    known = {series_of(name) for name in scans}
    if settings.ANNOTATIONS:
        tell("scans have no row", [name for name, rows in of_scan.items() if rows.empty])
        tell("series of the table have no scan", [name for name in table["seriesuid"].unique() if name not in known])
    of_scan = {name: rows for name, rows in of_scan.items() if settings.SLICES == "all" or not rows.empty}
    if not of_scan:
        raise InputError(f"no scan of {settings.SCANS} has the name of a seriesuid in {settings.ANNOTATIONS}")
    return of_scan, scans


def series_of(name):
    return name.split("/")[-1]


def check_settings():
    if not settings.ANNOTATIONS and settings.SLICES == "nodules":
        raise SettingError("ANNOTATIONS is not set; give --annotations the table, or --slices all")
    if settings.CUT and not settings.LUNGS:
        raise SettingError("CUT needs LUNGS; give --lungs clusters or --lungs thresholds")


def tell(what, names):
    if names:
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        print(f"{len(names)} {what}: {shown}")


def import_scan(path, nodules, case):
    """Write the case folder of a scan.

    Returns:
        number of slices.
    """
    voxels, _, volume = open_slices(path, "axial", settings.WINDOW)
    grid = Geometry(**volume["grid"])
    masks = sphere_masks(grid, nodules, settings.NEIGHBOURS if settings.SLICES == "nodules" else len(voxels))
    empty = np.zeros(voxels.shape[1:], np.uint8)
    wanted = range(len(voxels)) if settings.SLICES == "all" else sorted(masks)
    made = list(ordered_map(lambda k: make_slice(voxels[k], masks.get(k, empty)), wanted))
    boxes = [box for _, _, box in made]
    slices = {
        f"{number:04d}": slice_entry(voxels.shape[1:], k, box)
        for number, (k, box) in enumerate(zip(wanted, boxes, strict=True), 1)
    }
    spacing = spacing_of_plane(grid.spacing, "axial")
    fit = "crop" if settings.CUT else "resize"
    record = case_record(
        "0_import_nodules.py", settings.SIZE, slices, fit, False, None, spacing, settings.WINDOW, volume
    )
    write_case(case, settings.REPLACE, record, [files for *files, _ in made])
    return len(slices)


def make_slice(hu, mask):
    """A slice and its mask as PNG files, and the box that they were cut from."""
    (box,) = fit_boxes(hu.shape, settings.SIZE, "resize")
    grey = window_to_gray(hu, *settings.WINDOW, 8)
    if settings.LUNGS:
        inside = LUNG_FINDERS[settings.LUNGS](np.asarray(hu, np.float32))
        grey = np.where(inside | (mask > 0), grey, 0).astype(np.uint8)  # a nodule at the wall stays
        box = (square_around(inside | (mask > 0)) or box) if settings.CUT else box
    mask = cut(mask * np.uint8(255), box, settings.SIZE, cv2.INTER_NEAREST)
    return encode_png(cut(grey, box, settings.SIZE)), encode_png(mask), box


if __name__ == "__main__":
    main()

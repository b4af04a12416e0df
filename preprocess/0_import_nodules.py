"""Step 0: bring CT scans with a table of lung nodules into case folders of slices.

Reads   SCANS: MetaImage, NIfTI, NRRD or DICOM; ANNOTATIONS: seriesuid,coordX,coordY,coordZ,diameter_mm (mm, LPS)
Writes  CASES/case_<name>/x/0001.png, y/0001.png and case.json                          for steps 1 and 2
Takes   about five seconds for a scan of 512x512x300 on two cores

A scan belongs to the rows whose seriesuid is its name. Each nodule gives the slice of its centre and its neighbours,
with discs of the sphere of that diameter. Scans without a row and rows without a scan are counted and named.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.settings import apply_command_line

# --- where from, where to
SCANS = ""  # folder that is searched for scans
ANNOTATIONS = ""  # the table (.csv)
CASES = "data/cases"  # folder for the case folders
REPLACE = False  # True to write over case folders that exist

# --- slices
NEIGHBOURS = 1  # slices on each side of that of a centre
SIZE = 512  # side of the slices in pixels
WINDOW = [-1000, 400]  # HU of black and white
LUNGS = ""  # what is outside of the lungs turns black: "clusters" or "thresholds" finds them; "": all stays
CUT = False  # True: slices are cut to the square around the lungs, which LUNGS finds

apply_command_line(globals())

import cv2
import numpy as np
import SimpleITK as sitk

from common import lungs
from common.cases import case_record, is_case_name
from common.errors import InputError, summarise
from common.files import refuse_existing, require_choice, require_folder, whole_folder, write_json
from common.images import cut, encode_png, fit_boxes, to_grey
from common.nodules import discs, read_annotations
from common.parallel import ordered_map, progress
from common.volumes import Geometry, find_volumes, orient, read_volume, spacing_of_plane


def main():
    check_settings()
    scans = find_volumes(require_folder(SCANS, "SCANS"))
    table = read_annotations(ANNOTATIONS)
    of_scan = {name: table[table["seriesuid"] == name.split("/")[-1]] for name in scans}
    tell("scans have no row", [name for name, rows in of_scan.items() if rows.empty])
    known = {name.split("/")[-1] for name in scans}
    tell("series of the table have no scan", [name for name in table["seriesuid"].unique() if name not in known])
    wanted = [name for name, rows in of_scan.items() if not rows.empty]
    if not wanted:
        raise InputError(f"no scan of {SCANS} has the name of a seriesuid in {ANNOTATIONS}")
    paths = {name: Path(CASES, case_name(name.split("/")[-1])) for name in wanted}
    for path in paths.values():
        refuse_existing(path, REPLACE, "case.json")

    print(f"importing {len(wanted)} scans with {sum(len(of_scan[n]) for n in wanted)} nodules into {CASES}", flush=True)
    problems, written = [], 0
    for name in progress(wanted, len(wanted), "importing"):
        try:
            written += import_scan(scans[name], of_scan[name], paths[name])
        except InputError as error:
            problems.append(str(error))
    print(f"wrote {written} slices of {SIZE}x{SIZE} in {len(wanted) - len(problems)} cases to {CASES}")
    if problems:
        raise InputError(summarise(problems, "scans cannot be used; the others were imported"))


def check_settings():
    require_choice(LUNGS, ("", *lungs.WAYS), "LUNGS")
    if CUT and not LUNGS:
        raise InputError("CUT needs LUNGS; give --lungs clusters or --lungs thresholds")
    if NEIGHBOURS < 0 or SIZE < 8:
        raise InputError(f"NEIGHBOURS is {NEIGHBOURS}, SIZE {SIZE}; expected at least 0 and at least 8")
    if not (len(WINDOW) == 2 and WINDOW[0] < WINDOW[1]):
        raise InputError(f"WINDOW is {WINDOW}; expected [low, high]")


def tell(what, names):
    if names:
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        print(f"{len(names)} {what}: {shown}")


def case_name(name):
    return name if is_case_name(name) else f"case_{name}"


def import_scan(path, nodules, case):
    """Write the case folder of a scan.

    Returns:
        number of slices.
    """
    image = read_volume(path)
    geometry = Geometry.of(image)
    image = orient(image)
    grid, voxels = Geometry.of(image), sitk.GetArrayViewFromImage(image)
    masks = discs(image, nodules, NEIGHBOURS)
    wanted = sorted(masks)
    made = ordered_map(lambda k: make_slice(voxels[k], masks[k]), wanted)
    slices = {}
    with whole_folder(case, REPLACE, "case.json") as part:
        for side in ("x", "y"):
            (part / side).mkdir()
        for number, (k, (picture, mask, box)) in enumerate(zip(wanted, made, strict=True), 1):
            (part / "x" / f"{number:04d}.png").write_bytes(picture)
            (part / "y" / f"{number:04d}.png").write_bytes(mask)
            entry = {"image": None, "mask": None, "image_size": list(voxels.shape[1:]), "box": list(box), "index": k}
            slices[f"{number:04d}"] = entry
        record = case_record("0_import_nodules.py", SIZE, slices, "crop" if CUT else "resize")
        record |= {
            "spacing": spacing_of_plane(grid.spacing, "axial"),
            "origin": geometry.origin,
            "orientation": geometry.direction,
            "window": WINDOW,
            "volume": {"plane": "axial", "geometry": geometry._asdict(), "grid": grid._asdict()},
        }
        write_json(part / "case.json", record)
    return len(slices)


def make_slice(hu, mask):
    """A slice and its mask as PNG files, and the box that they were cut from."""
    (box,) = fit_boxes(hu.shape, SIZE, "resize")
    grey = to_grey(hu, *WINDOW, 8)
    if LUNGS:
        inside = lungs.WAYS[LUNGS](np.asarray(hu, np.float32))
        grey = np.where(inside | (mask > 0), grey, 0).astype(np.uint8)  # a nodule at the wall stays
        box = (lungs.square_around(inside | (mask > 0)) or box) if CUT else box
    mask = cut(mask * np.uint8(255), box, SIZE, cv2.INTER_NEAREST)
    return encode_png(cut(grey, box, SIZE)), encode_png(mask), box


if __name__ == "__main__":
    main()

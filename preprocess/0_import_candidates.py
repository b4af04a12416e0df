"""Step 0: import crops of lung nodule candidates, for a second stage that removes false positives.

Reads   SCANS; CANDIDATES: seriesuid,coordX,coordY,coordZ (mm, LPS), such as submission.py writes;
        ANNOTATIONS: the true nodules, with diameter_mm
Writes  CASES/case_<name>/x/0001.png, y/0001.png and case.json for steps 1 and 2; CUBES
Takes   about 10 ms a candidate, and a second to read a scan of 512x512x300

A crop is an image of three channels: the axial, coronal and sagittal plane through the candidate.
Its mask is white if the candidate is less than the radius away from a true nodule, else black, so
that `train.py --model crop_classifier` learns to tell them apart. The true nodules themselves are
crops too. Then submission.py --second-stage gives every candidate its probability.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import setting_types as types
from common.settings import apply_command_line

# --- input and output
SCANS: str = ""  # folder to search for scans
CANDIDATES: str = ""  # table of candidates (.csv)
ANNOTATIONS: str = ""  # table of true nodules (.csv)
CASES: types.PathName = "data/candidates"  # where to write the case folders
CUBES: str = ""  # folder for a cube (.nii.gz) around each candidate; "": none
REPLACE: bool = False  # True: overwrite existing case folders and cubes
NAMES: types.CaseNames = "numbers"  # case names of DICOM: "numbers" (case_0001, ...) or "folder"
#   "folder" keeps the names of your folders, which may identify patients.
SKIP_BROKEN: bool = False  # True: exit with 0 even if some scans could not be used
WORKERS: types.Workers = ""  # "": this machine's cores; a number of processes; or a Dask scheduler

# --- crops
SIZE: types.Side = 64  # side length of the crops in pixels
SPACING: types.Millimeters = 0.75  # mm between their pixels: 64 of 0.75 mm are 48 mm
WINDOW: types.Window = [-1000, 400]  # HU mapped to black and white, [low, high]
WITH_NODULES: bool = True  # also crop around true nodules, so that missed ones are learned
CUBE_SIZE: types.Side = 60  # side length of the cubes in voxels
CUBE_SPACING: types.Millimeters = 1.0  # mm between their voxels

settings = apply_command_line(globals())

from contextlib import nullcontext
from functools import partial

import numpy as np

from common.errors import SettingError, name_broken
from common.files import remove
from common.replacing import refuse_existing, whole_folder
from common.slices.cases import CaseRecord, as_case_name, import_cases, refuse_existing_cases
from common.volumes.candidate_crops import Candidates, Cropping, import_scan
from common.volumes.candidates import PLANES, POINT, are_nodules, match_scans, read_annotations, read_lesions
from common.volumes.nodules import find_scans
from common.volumes.privacy import safe_names
from common.words import number_of
from common.workers import start_workers


def main():
    scans = find_scans(settings.SCANS)
    names = {name: as_case_name(case) for name, case in safe_names(scans, settings.NAMES).items()}
    crops = find_crops(scans)
    cases = {name: Path(settings.CASES, names[name]) for name in crops}
    refuse_existing_cases(cases.values(), settings.REPLACE)
    if settings.CUBES:
        refuse_existing(settings.CUBES, settings.REPLACE)
    count, true = (sum(map(function, (labels for _, labels in crops.values()))) for function in (len, np.count_nonzero))
    found = f"{number_of(count, 'crop')} ({true} of nodules) of {number_of(len(crops), 'scan')}"
    print(f"importing {found} into {settings.CASES}", flush=True)
    known = {"channels": PLANES, "spacing": [settings.SPACING] * 2, "window": settings.WINDOW}
    how = Cropping(settings.SIZE, settings.SPACING, settings.WINDOW, settings.CUBE_SIZE, settings.CUBE_SPACING)
    with (
        start_workers(settings.WORKERS) as workers,
        whole_folder(settings.CUBES, settings.REPLACE) if settings.CUBES else nullcontext() as cubes,
    ):
        result = import_cases(
            [
                (cases[name], Candidates(scans[name], *of_scan, cubes and cubes / names[name]))
                for name, of_scan in crops.items()
            ],
            partial(import_scan, how=how),
            partial(CaseRecord, "0_import_candidates.py", settings.SIZE, **known),
            settings.REPLACE,
            parallel=False,
            workers=workers,
        )
        if cubes and not result.cases:
            remove(cubes)
    if outside := [place for of_scan in result.notes for place in of_scan]:
        print(f"left out {number_of(len(outside), 'candidate')} outside of the scan: {', '.join(outside[:10])}")
    if result.slices:
        print(f"wrote {number_of(result.slices, 'crop')} in {number_of(result.cases, 'case')} to {settings.CASES}")
    name_broken(result.problems, "scans cannot be used", result.cases, settings.SKIP_BROKEN)


def find_crops(scans):
    """Points to crop around, and whether each is a nodule.

    Args:
        scans: dict of scan name to Path.

    Returns:
        dict of scan name to ((N, 3) points in mm, (N,) bool), without scans that have none.

    Raises:
        SettingError: if a table is not set.
        InputError: if a table is about other scans.
    """
    for name in ("CANDIDATES", "ANNOTATIONS"):
        if not getattr(settings, name):
            raise SettingError(f"{name}: not set; pass --{name.lower()} the table of {name.lower()}")
    candidates, nodules = read_lesions(settings.CANDIDATES), read_annotations(settings.ANNOTATIONS)
    needed = not (settings.WITH_NODULES and candidates.empty)  # a first stage may find nothing, and miss nodules
    match_scans(candidates, settings.CANDIDATES, scans, settings.SCANS, "candidates", needed)
    match_scans(nodules, settings.ANNOTATIONS, scans, settings.SCANS, "annotations", not needed)
    found = {}
    for name in scans:
        of_scan = nodules[nodules["seriesuid"] == name]
        points = candidates.loc[candidates["seriesuid"] == name, POINT].to_numpy(float)
        if settings.WITH_NODULES:
            points = np.concatenate([points, of_scan[POINT].to_numpy(float)])
        if len(points):
            found[name] = points, are_nodules(points, of_scan)
    return found


if __name__ == "__main__":
    main()

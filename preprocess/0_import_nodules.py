"""Step 0: import CT scans and a table of lung nodules into case folders of slices.

Reads   SCANS: MetaImage, NIfTI, NRRD or DICOM; ANNOTATIONS:
        seriesuid,coordX,coordY,coordZ,diameter_mm (mm, LPS)
Writes  CASES/case_<name>/x/0001.png, y/0001.png and case.json, for steps 1 and 2;
        LUNG_MASKS, LABEL_VOLUMES and SIZES, if set
Takes   about 1 s for a 512x512x300 scan on two cores; 4 s for all of its slices with LUNGS

A row belongs to the scan whose name is its seriesuid. For each nodule, the slice through its
center and NEIGHBOURS more on each side are imported. Masks are cross-sections of a sphere with the
nodule's diameter, clipped at the faces of the scan. Lists scans without annotations, annotations
without a scan, and nodules outside of their scan, which are left out.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import setting_types as types
from common.settings import apply_command_line

# --- input and output
SCANS: str = ""  # folder to search for scans
ANNOTATIONS: str = ""  # nodule table (.csv); "" if SLICES is "all": all masks are black
CASES: types.PathName = "data/cases"  # where to write the case folders
REPLACE: bool = False  # True: overwrite existing case folders
NAMES: types.CaseNames = "numbers"  # case names of DICOM: "numbers" (case_0001, ...) or "folder"
#   "folder" keeps the names of your folders, which may identify patients.
NAMES_TABLE: types.TableName | Literal[""] = ""  # table to write: name and path of each case; "": none
#   It identifies patients, so it must be outside of what you pass on.
LUNG_MASKS: str = ""  # folder for a mask of the lungs of each slice (needs LUNGS); "": none
LABEL_VOLUMES: str = ""  # folder for label volumes of whole spheres, for 3-D networks; "": none
SIZES: types.TableName | Literal[""] = ""  # table to write: size of each nodule and its slices; "": none
SKIP_BROKEN: bool = False  # True: exit with 0 even if some scans could not be used
WORKERS: types.Workers = ""  # "": this machine's cores; a number of processes; or a Dask scheduler
#   Such as "tcp://10.0.0.1:8786", for several machines: see docs/scaling.md.

# --- slices
SLICES: Literal["nodules", "all"] = "nodules"  # slices through a "nodules" entry, or "all", such as to predict
NEIGHBOURS: Annotated[int, Ge(0), Le(1000)] = 1  # slices to add on each side of the center slice, for "nodules"
SIZE: types.Side = 512  # side length of the slices in pixels
NOT_FINITE: float | None = None  # value to replace NaN and infinity by; None: refuse such scans
WINDOW: types.Window = [-1000, 400]  # HU mapped to black and white, [low, high]
LUNGS: Literal["clusters", "thresholds", ""] = ""  # black out all but the lungs: by "clusters" or "thresholds"; "": off
CUT: bool = False  # True: crop slices to the square around the lungs (needs LUNGS)

settings = apply_command_line(globals())

from contextlib import ExitStack
from functools import partial
from itertools import chain

import numpy as np
import pandas as pd

from common.errors import SettingError, name_broken
from common.files import remove
from common.replacing import new_file, refuse_existing, whole_folder
from common.slices.cases import CaseRecord, as_case_name, import_cases, refuse_existing_cases
from common.tables import write_table
from common.volumes.candidates import match_scans, no_annotations, print_names, read_annotations
from common.volumes.importing_nodules import NoduleSlicing, import_scan
from common.volumes.nodules import NODULE_COLUMNS, find_scans
from common.volumes.privacy import names_table, safe_names, write_names_table
from common.words import number_of
from common.workers import start_workers


def main():
    check_settings()
    with names_table(settings.NAMES_TABLE, {"CASES": settings.CASES}, settings.REPLACE):
        import_all()


def import_all():
    paths = find_scans(settings.SCANS)
    names = safe_names(paths, settings.NAMES)
    cases = {
        Path(settings.CASES, as_case_name(names[name])): scan for name, scan in match_annotations(paths, names).items()
    }
    refuse_existing_cases(cases, settings.REPLACE)
    nodules = sum(len(rows) for _, rows in cases.values())
    found = f"{number_of(len(cases), 'scan')} with {number_of(nodules, 'nodule')}"
    print(f"importing {found} into {settings.CASES}", flush=True)
    make_record = partial(CaseRecord, "0_import_nodules.py", settings.SIZE, fit="crop" if settings.CUT else "resize")
    make_record = partial(make_record, window=settings.WINDOW)
    how = NoduleSlicing(
        all_slices=settings.SLICES == "all",
        neighbors=settings.NEIGHBOURS,
        size=settings.SIZE,
        not_finite=settings.NOT_FINITE,
        window=settings.WINDOW,
        lungs=settings.LUNGS,
        cut=settings.CUT,
    )
    with ExitStack() as stack:
        workers = stack.enter_context(start_workers(settings.WORKERS))
        lungs, labels = (
            stack.enter_context(whole_folder(folder, settings.REPLACE)) if folder else None
            for folder in (settings.LUNG_MASKS, settings.LABEL_VOLUMES)
        )
        load = partial(import_scan, how=how._replace(lung_masks=lungs, label_volumes=labels))
        sources = [(case, (*scan, case.name)) for case, scan in cases.items()]
        result = import_cases(sources, load, make_record, settings.REPLACE, parallel=False, workers=workers)
        for folder in filter(None, (lungs, labels)):
            if not result.cases:
                remove(folder)
    report_nodules(list(chain.from_iterable(result.notes)))
    write_names_table(settings.NAMES_TABLE, names, paths)
    if result.slices:
        slices = f"{number_of(result.slices, 'slice')} of {settings.SIZE}x{settings.SIZE}"
        print(f"wrote {slices} in {number_of(result.cases, 'case')} to {settings.CASES}")
    name_broken(result.problems, "scans cannot be used", result.cases, settings.SKIP_BROKEN)


def check_settings():
    if not settings.ANNOTATIONS and settings.SLICES == "nodules":
        raise SettingError("ANNOTATIONS: not set; set --annotations to the nodule table, or use --slices all")
    if settings.CUT and not settings.LUNGS:
        raise SettingError("CUT: needs LUNGS; use --lungs clusters or --lungs thresholds")
    if settings.LUNG_MASKS and not settings.LUNGS:
        raise SettingError("LUNG_MASKS: needs LUNGS; use --lungs clusters or --lungs thresholds")
    for output in filter(None, (settings.LUNG_MASKS, settings.LABEL_VOLUMES, settings.SIZES)):
        refuse_existing(output, settings.REPLACE)


def match_annotations(paths, names):
    """Match scans to their table rows; print scans without rows and the number of rows without a scan.

    Args:
        paths: dict of scan name to Path.
        names: dict of scan name to case name, for what is printed.

    Returns:
        dict of scan name to (Path, rows).

    Raises:
        InputError: if the table is about other scans.
    """
    table = read_annotations(settings.ANNOTATIONS) if settings.ANNOTATIONS else no_annotations()
    scans = {name: (path, table[table["seriesuid"] == name]) for name, path in paths.items()}
    if settings.ANNOTATIONS:
        print_names("scans without annotations", [names[name] for name, (_, rows) in scans.items() if rows.empty])
        needed = settings.SLICES == "nodules"
        match_scans(table, settings.ANNOTATIONS, paths, settings.SCANS, "annotations", needed)
    return {name: scan for name, scan in scans.items() if settings.SLICES == "all" or not scan[1].empty}


def report_nodules(table):
    """Print the sizes of the nodules and which are outside of their scans, and write SIZES."""
    kept = [row["diameter_mm"] for row in table if row["place"] != "outside"]
    if kept:
        print(f"nodule diameters: {min(kept):g} to {max(kept):g} mm, median {np.median(kept):g}")
    for place, what in (("clipped", "clipped at the face of a scan"), ("outside", "left out: outside of their scan")):
        found = [
            f"{row['case']} (voxel {row['i']:.0f}, {row['j']:.0f}, {row['k']:.0f})"
            for row in table
            if row["place"] == place
        ]
        print_names(f"nodules {what}", found)
    if settings.SIZES:
        with new_file(settings.SIZES, settings.REPLACE) as file:
            write_table(file, pd.DataFrame(table, columns=["case", *NODULE_COLUMNS]))


if __name__ == "__main__":
    main()

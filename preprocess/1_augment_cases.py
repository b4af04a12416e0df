"""Step 1: make filtered and deformed variants of every slice, in folders next to x and y.

Reads   CASES/<case>/x and y, from step 0
Writes  CASES/<case>/x_<filter><shape> and y_O<shape>, such as x_A_RTP and y_O_RTP, for step 2
Takes   about 40 seconds per 1,000 slices of 200x200 on two cores with the default settings

Filters change only images, so all filters share one mask folder per shape. A second run replaces
only the folders that an earlier run made; augmented.json lists them.
"""

import sys
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Le

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import setting_types as types
from common.settings import apply_command_line

# --- input and output
CASES: types.PathName = "data/cases"  # folder of the case folders

# --- variants
FILTERS: types.Filters = ["O", "A", "B", "C"]  # O none, A denoise, B bilateral, C CLAHE, D posterize
#   A is non-local means.
SHAPES: types.Shapes = ["", "HT", "WD", "DKP", "DKM", "HSR", "HSL", "RTP", "RTM", "CP0", "CP1", "CP2", "CP3", "CP4"]
# "" none, HT WD stretch, DKP DKM trapezoid, HSR HSL shear, ...
#   RTP and RTM rotate; CP0 to CP4 keep one square of the image.
WORKERS: types.Workers = ""  # "": this machine's cores; a number of processes; or a Dask scheduler
#   Such as "tcp://10.0.0.1:8786", for several machines: see docs/scaling.md.

# --- shape strengths
STRETCH: types.ShareOfHalf = 0.05  # HT and WD: fraction of the size to stretch at each end
TRAPEZOID: types.ShareOfHalf = 0.125  # DKP, DKM: fraction of the size to widen one edge on each side
#   Use 0.15 for small targets.
SHEAR: types.ShareOfHalf = 0.10  # HSR and HSL: fraction of the size to move two corners (small targets: 0.15)
ROTATION: Annotated[float, Ge(0), Le(180)] = 8.0  # RTP (counterclockwise) and RTM: degrees (small targets: 15)
PART_MARGIN: Annotated[int, Ge(0), Le(1000)] = 10  # CP1 to CP4: pixels between the corner squares and the image edges

# --- filter strengths, in 8-bit gray values
DENOISE: Annotated[float, Ge(0), Le(100)] = 2.0  # non-local means: strength h
BILATERAL: types.Sigmas = [3.0, 1.5]
# bilateral filter, three rounds: sigmas of gray value and space
CLAHE_LIMIT: Annotated[float, Gt(0), Le(1000)] = 1.4  # CLAHE: clip limit, on 4x4 tiles
LEVELS: Annotated[int, Ge(2), Le(256)] = 32  # posterization: number of gray levels
TRIM: Annotated[int, Ge(-(2**14)), Le(2**14)] = 0
# pixels to black out first: top, bottom; below 0: left, right; 0: none

settings = apply_command_line(globals())

from contextlib import ExitStack
from functools import partial

from common.claims import claimed
from common.errors import InputError, summarize
from common.files import one_name
from common.manifest import VARIANTS
from common.parallel import progress
from common.replacing import refuse_existing, whole_entries
from common.slices.augmenting import Recipe, augment_slice, check_slice
from common.slices.case_files import read_case_record
from common.slices.cases import find_cases, pair_up
from common.slices.classes import type_of_masks
from common.slices.variants import Variants, digests_of, is_variant_folder
from common.words import number_of
from common.workers import start_workers


def main():
    recipe, cases = make_recipe(), find_cases(settings.CASES)
    with ExitStack() as claims:
        for case in cases:  # before a look at what another process may be replacing
            claims.enter_context(claimed(case))
        run(recipe, cases)


def run(recipe, cases):
    for case in cases:
        refuse_foreign_folders(case, recipe.folders)
    types = {case: type_of_masks(read_case_record(case).get("overlap")) for case in cases}
    slices = [(case, *pair, types[case]) for case in cases for pair in pair_up(case / "x", case / "y", case)]
    with start_workers(settings.WORKERS) as workers:
        check_slices(slices, workers)
        counts = f"filters: {len(recipe.filters)}, shapes: {len(recipe.shapes)}"
        in_cases = number_of(len(cases), "case")
        print(f"augmenting {number_of(len(slices), 'slice')} in {in_cases} ({counts})", flush=True)
        augment(cases, slices, recipe, workers)
    files, per_case = len(slices) * len(recipe.folders), number_of(len(recipe.folders), "folder")
    print(f"wrote {number_of(files, 'file')} in {in_cases}, {per_case} per case, to {settings.CASES}")


def augment(cases, slices, recipe, workers):
    """Write the variants of all slices, and replace those of an earlier run, in one step."""
    root, folders = cases[0].parent, recipe.folders
    outdated = [name for case in cases for name in outdated_folders(case, folders)]
    entries = [f"{case.name}/{name}" for case in cases for name in (*folders, VARIANTS)]
    with whole_entries(root, entries, replace=True, removed=outdated, listed=False) as new:
        for case in cases:
            for folder in folders:
                (new / case.name / folder).mkdir()
        made = workers.map(partial(augment_slice, recipe=recipe, new=new), slices)
        for _ in progress(made, len(slices), "augmenting"):
            pass
        for case in cases:
            Variants.of(new / case.name, folders, made_of=digests_of(case)).write_to(new / case.name / VARIANTS)


def make_recipe():
    """Recipe by the settings; a leading underscore of a filter or shape is ignored."""
    names = [tuple(name.removeprefix("_") for name in given) for given in (settings.FILTERS, settings.SHAPES)]
    filters = settings.DENOISE, tuple(settings.BILATERAL), settings.CLAHE_LIMIT, settings.LEVELS
    shapes = settings.STRETCH, settings.TRAPEZOID, settings.SHEAR, settings.ROTATION, settings.PART_MARGIN
    return Recipe(*(tuple(dict.fromkeys(of_kind)) for of_kind in names), filters, shapes, settings.TRIM)


def refuse_foreign_folders(case, folders):
    """Raise InputError if a variant's folder exists and step 1 did not make it, or it changed since."""
    for name in (*folders, *outdated_folders(case, folders)):
        refuse_existing(case / Path(name).name, replace=True)


def outdated_folders(case, folders):
    """Folders that an earlier run made in a case and this one does not, as "case/folder"."""
    made = Variants.read(case / VARIANTS)
    names = {one_name(name.split("/")[0], case / VARIANTS) for name in (*made.folders, *made.files)}
    if unknown := [name for name in sorted(names) if not is_variant_folder(name)]:
        raise InputError(f"{case / VARIANTS}: not a folder of variants (found {unknown[0]!r}); restore it or remove it")
    return [f"{case.name}/{name}" for name in sorted(names - set(folders)) if (case / name).exists()]


def check_slices(slices, workers):
    """Raise InputError if slices or masks are unreadable, or too small for PART_MARGIN or TRIM."""
    check = partial(check_slice, smallest=2 * settings.PART_MARGIN + 2, trimmed=settings.TRIM)
    problems = []
    for _ in workers.map(check, slices, problems):
        pass
    if problems:
        raise InputError(summarize(problems, "files cannot be used"))


if __name__ == "__main__":
    main()

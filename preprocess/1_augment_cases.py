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
WORKERS: Annotated[int, Ge(0), Le(1024)] = 0  # slices to process in parallel; 0: one per core
PART: types.PartOfWork = ""  # "2/8": the second of eight parts, to share work among machines; "": all

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

from functools import partial

import cv2
import numpy as np

from common.errors import InputError, summarize
from common.files import one_name
from common.jobs import Part
from common.manifest import VARIANTS
from common.parallel import ordered_map, progress
from common.replacing import refuse_existing, whole_entries
from common.slices.case_files import read_case_record
from common.slices.cases import find_cases, pair_up
from common.slices.classes import are_sets, type_of_masks
from common.slices.images import encode_png, encode_slice, read_pair, slice_ending
from common.slices.variants import (
    Variants,
    digests_of,
    image_folder,
    is_variant_folder,
    make_filters,
    make_shapes,
    mask_folder,
    trim,
)
from common.words import number_of


def main():
    filters, shapes = chosen_filters(), chosen_shapes()
    part = Part.read(settings.PART)
    cases = part.share(find_cases(settings.CASES))
    if not cases:
        print(f"nothing to do for part {part}: {settings.CASES} has fewer cases than parts")
        return
    folders = [*(image_folder(letter, shape) for letter in filters for shape in shapes), *map(mask_folder, shapes)]
    for case in cases:
        refuse_foreign_folders(case, folders)
    types = {case: type_of_masks(read_case_record(case).get("overlap")) for case in cases}
    slices = [(case, *pair, types[case]) for case in cases for pair in pair_up(case / "x", case / "y", case)]
    check_slices(slices)
    in_cases = number_of(len(cases), "case")
    print(
        f"augmenting {number_of(len(slices), 'slice')} in {in_cases} (filters: {len(filters)}, shapes: {len(shapes)})",
        flush=True,
    )
    root, outdated = cases[0].parent, [name for case in cases for name in outdated_folders(case, folders)]
    entries = [f"{case.name}/{name}" for case in cases for name in (*folders, VARIANTS)]
    with whole_entries(root, entries, replace=True, removed=outdated, listed=False) as new:
        for case in cases:
            for folder in folders:
                (new / case.name / folder).mkdir()
        augment = partial(augment_slice, filters=filters, shapes=shapes, new=new)
        for _ in progress(ordered_map(augment, slices, settings.WORKERS), len(slices), "augmenting"):
            pass
        for case in cases:
            Variants.of(new / case.name, folders, made_of=digests_of(case)).write_to(new / case.name / VARIANTS)
    files, per_case = number_of(len(slices) * len(folders), "file"), number_of(len(folders), "folder")
    print(f"wrote {files} in {in_cases}, {per_case} per case, to {settings.CASES}")


def chosen_filters():
    """dict of letter to filter, for FILTERS; a leading underscore is ignored."""
    filters = make_filters(settings.DENOISE, settings.BILATERAL, settings.CLAHE_LIMIT, settings.LEVELS)
    return {name: filters[name] for name in (name.removeprefix("_") for name in settings.FILTERS)}


def chosen_shapes():
    """dict of name to deformation, for SHAPES; a leading underscore is ignored."""
    amounts = settings.STRETCH, settings.TRAPEZOID, settings.SHEAR, settings.ROTATION, settings.PART_MARGIN
    shapes = make_shapes(*amounts)
    return {name: shapes[name] for name in (name.removeprefix("_") for name in settings.SHAPES)}


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


def check_slices(slices):
    """Raise InputError if slices or masks are unreadable, or too small for PART_MARGIN or TRIM."""

    def check(task):
        *_, image_path, mask_path, mask_type = task
        side = len(read_pair(image_path, mask_path, mask_type=mask_type)[0])
        if side < 2 * settings.PART_MARGIN + 2 or abs(settings.TRIM) >= side / 2:
            raise InputError(f"{image_path}: too small for PART_MARGIN or TRIM (found {side}x{side}); reduce them")

    problems = []
    for _ in ordered_map(check, slices, settings.WORKERS, problems):
        pass
    if problems:
        raise InputError(summarize(problems, "files cannot be used"))


def augment_slice(task, filters, shapes, new):
    """Write every variant of a slice and of its mask.

    Args:
        task: (case folder, name, image path, mask path, number type of masks).
        filters, shapes: dict of name to function.
        new: Path of the folder that contains a folder for each case.
    """
    case, name, image_path, mask_path, mask_type = task
    image, mask = (trim(pixels, settings.TRIM) for pixels in read_pair(image_path, mask_path, mask_type=mask_type))
    for letter, function in filters.items():
        filtered = function(image)
        for shape, deform in shapes.items():
            data = encode_slice(deform(filtered, smooth=True))
            (new / case.name / image_folder(letter, shape) / f"{name}{slice_ending(data)}").write_bytes(data)
    one_class = not are_sets(mask) and np.isin(mask, (0, 255)).all()
    for shape, deform in shapes.items():
        deformed = deform(mask, smooth=one_class)  # never blend class numbers
        if one_class:
            deformed = cv2.threshold(deformed, 127, 255, cv2.THRESH_BINARY)[1]
        (new / case.name / mask_folder(shape) / f"{name}.png").write_bytes(encode_png(deformed))


if __name__ == "__main__":
    main()

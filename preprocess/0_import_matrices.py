"""Step 0: import slices stored as numbers, in text or in NumPy's .npy, into case folders.

Reads   IMAGES and MASKS: files with matching names; text has a line per pixel row (such as HU) and
        no header, .npy a slice or several
Writes  CASES/case_<name>/x/0001.png, y/0001.png and case.json, a case per file, for step 1 or 2
Takes   about four seconds per 100 slices of 512x512 on two cores

Lists and skips invalid pairs, and exits with status 1: different sizes, short rows, values that
are not finite, or mask values other than 0 and 1, or 0 and 255.
"""

import sys
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import setting_types as types
from common.settings import apply_command_line

# --- input and output
IMAGES: str = ""  # folder, pattern such as "sets/images_{id}.npy", or one .npy file of slices
#   Files in subfolders count too; in folders called masks, labels or y, they are no images.
MASKS: str = ""  # the same for the masks; "": subfolders of IMAGES called masks
#   Without them, all masks are black.
CASES: types.PathName = "data/cases"  # output folder for the case folders
REPLACE: bool = False  # True: overwrite existing case folders
SKIP_BROKEN: bool = False  # True: exit with status 0 even if some pairs cannot be used
WORKERS: types.Workers = ""  # "": this machine's cores; a number of processes; or a Dask scheduler
#   Such as "tcp://10.0.0.1:8786", for several machines: see docs/scaling.md.

# --- slices
SIZE: types.Side = 512  # side length of the slices in pixels
FIT: Literal["resize", "crop", "pad"] = "resize"  # "resize" (may distort), "crop" the center, or "pad" to a square
#   "pad" shrinks slices larger than SIZE.
WINDOW: types.Window | None = None  # black and white, such as [-200, 200] HU; None: minimum and maximum
#   None takes the minimum and maximum of each file.
BITS: Literal[8, 16] = 8  # bit depth of the slices: 8 or 16

# --- masks
SMALLEST: types.PositiveInt = 5  # remove mask components with fewer pixels; diagonal neighbors are connected

settings = apply_command_line(globals())

from functools import partial

from common.errors import InputError, name_broken, summarize
from common.slices.cases import CaseRecord, as_case_name, import_cases, refuse_existing_cases, without_partner
from common.slices.importing_matrices import MatrixFitting, import_pair
from common.slices.matrices import find_matrices, has_masks_inside, stem_of
from common.words import number_of
from common.workers import start_workers


def main():
    pairs = match_pairs()
    refuse_existing_cases([case for case, _ in pairs], settings.REPLACE)
    size, files = f"{settings.SIZE}x{settings.SIZE}", number_of(len(pairs), "file")
    print(f"importing {files}, {settings.FIT} to {size}, into {settings.CASES}", flush=True)
    make_record = partial(CaseRecord, "0_import_matrices.py", settings.SIZE, fit=settings.FIT)
    how = MatrixFitting(settings.SIZE, settings.FIT, settings.WINDOW, settings.BITS, settings.SMALLEST)
    with start_workers(settings.WORKERS) as workers:
        load = partial(import_pair, how=how)
        result = import_cases(pairs, load, make_record, settings.REPLACE, workers=workers)
    if (flat := sum(result.notes)) > result.slices / 2:  # a few may show air
        shown = f"{flat} of {number_of(result.slices, 'slice')}"
        window = settings.WINDOW or "minimum and maximum"
        print(f"note: {shown} have almost no contrast (WINDOW: {window}); set WINDOW in the units of the files")
    if result.slices:
        slices, cases = number_of(result.slices, "slice"), number_of(result.cases, "case")
        print(f"wrote {slices} of {size} in {cases} to {settings.CASES}")
    name_broken(result.problems, "pairs cannot be used", result.slices, settings.SKIP_BROKEN)


def match_pairs():
    """Match files by name and print those without a partner.

    Returns:
        list of (Path of the case folder, (Path of the image, Path of the mask or None)), in natural order.

    Raises:
        InputError: if no file has a partner, or two names would become one case.
    """
    root, images = find_matrices(settings.IMAGES, "IMAGES")
    if not images:
        raise InputError(f"IMAGES: no file of numbers in {settings.IMAGES}; choose another folder or pattern")
    masks, place = dict.fromkeys(images), settings.MASKS or settings.IMAGES
    if settings.MASKS or (root.is_dir() and has_masks_inside(root)):
        _, masks = find_matrices(place, "MASKS", "masks")
    else:
        print("MASKS is not set, and IMAGES has no folder of masks: all masks are black, so do not train on them")
    if not images.keys() & masks.keys():
        raise InputError(f"MASKS: no file in {place} has the same name as one in {settings.IMAGES}")
    alone = without_partner(images, masks, f"mask in {place}")
    if alone := alone + without_partner(masks, images, f"image in {settings.IMAGES}"):
        print(f"skipped {summarize(alone, 'files without a partner')}")
    cases = {}
    for key in images.keys() & masks.keys():
        case = as_case_name("_".join(filter(None, key)) or stem_of(images[key].name))
        if case in cases:
            raise InputError(f"IMAGES: {images[cases[case]]} and {images[key]} would become the same case; rename one")
        cases[case] = key
    order = {key: number for number, key in enumerate(images)}
    found = sorted(cases.items(), key=lambda item: order[item[1]])
    return [(Path(settings.CASES, case), (images[key], masks[key])) for case, key in found]


if __name__ == "__main__":
    main()

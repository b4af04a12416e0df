"""Step 0: import slices stored as comma-separated numbers into case folders.

Reads   IMAGES and MASKS: files with matching names, one line per pixel row (such as HU), no header
Writes  CASES/case_<name>/x/0001.png, y/0001.png and case.json, one case per slice, for step 1 or 2
Takes   about four seconds per 100 slices of 512x512 on two cores

Lists and skips invalid pairs, and exits with status 1: different sizes, short rows, values that
are not finite, or mask values other than 0 and 1.
"""

import sys
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import setting_types as types
from common.settings import apply_command_line

# --- input and output
IMAGES: str = ""  # folder of the image files
MASKS: str = ""  # folder of the mask files, with the same names
CASES: types.PathName = "data/cases"  # output folder for the case folders
REPLACE: bool = False  # True: overwrite existing case folders
SKIP_BROKEN: bool = False  # True: exit with status 0 even if some pairs cannot be used

# --- slices
SIZE: types.Side = 512  # side length of the slices in pixels
FIT: Literal["resize", "crop", "pad"] = "resize"  # "resize" (may distort), "crop" the center, or "pad" to a square
#   "pad" shrinks slices larger than SIZE.
WINDOW: types.Window | None = None  # black and white, such as [-200, 200] HU; None: minimum and maximum
#   None takes the minimum and maximum of each slice.
BITS: Literal[8, 16] = 8  # bit depth of the slices: 8 or 16

# --- masks
SMALLEST: types.PositiveInt = 5  # remove mask components with fewer pixels; diagonal neighbors are connected

settings = apply_command_line(globals())

import io
from functools import partial

import cv2
import numpy as np
import pandas as pd

from common.errors import InputError, name_broken, summarize
from common.files import natural_key
from common.settings import require_folder
from common.slices.cases import (
    CaseRecord,
    Imported,
    as_case_name,
    import_cases,
    refuse_existing_cases,
    without_partner,
)
from common.slices.finding import OTHER, read_regular, report_skipped, scan
from common.slices.images import cut, encode_png, fit_boxes, refuse_tiny, window_to_gray
from common.slices.masks import clean
from common.words import number_of


def main():
    pairs = match_pairs()
    refuse_existing_cases([case for case, _ in pairs], settings.REPLACE)
    size, slices = f"{settings.SIZE}x{settings.SIZE}", number_of(len(pairs), "slice")
    print(f"importing {slices}, {settings.FIT} to {size}, into {settings.CASES}", flush=True)
    make_record = partial(CaseRecord, "0_import_matrices.py", settings.SIZE, fit=settings.FIT)
    result = import_cases(pairs, import_pair, make_record, settings.REPLACE)
    if result.slices:
        slices = number_of(result.slices, "slice")
        print(f"wrote {slices} of {size}, each as a case, to {settings.CASES}")
    name_broken(result.problems, "pairs cannot be used", result.slices, settings.SKIP_BROKEN)


def match_pairs():
    """Match files by name and print those without a partner.

    Returns:
        list of (Path of the case folder, (Path of the image, Path of the mask)), in natural order.

    Raises:
        InputError: if no file has a partner, or two names would become one case.
    """
    images, masks = files_of(settings.IMAGES, "IMAGES"), files_of(settings.MASKS, "MASKS")
    if not images.keys() & masks.keys():
        raise InputError(f"MASKS: no file in {settings.MASKS} has the same name as one in {settings.IMAGES}")
    alone = without_partner(images, masks, f"mask in {settings.MASKS}")
    if alone := alone + without_partner(masks, images, f"image in {settings.IMAGES}"):
        print(f"skipped {summarize(alone, 'files without a partner')}")
    cases = {}
    for name in sorted(images.keys() & masks.keys(), key=natural_key):
        case = as_case_name(name.removesuffix(".csv").removesuffix(".txt"))
        if case in cases:
            raise InputError(f"IMAGES: {cases[case]} and {name} would become the same case; rename one")
        cases[case] = name
    return [(Path(settings.CASES, case), (images[name], masks[name])) for case, name in cases.items()]


def files_of(folder, setting):
    """Files of a folder, in natural order: dict of name to Path. `setting` is for messages."""
    images, _, others = scan(require_folder(folder, setting))
    report_skipped([(reason, path) for reason, path in others if reason != OTHER])
    files = images + [path for reason, path in others if reason == OTHER]
    return {path.name: path for path in sorted(files, key=lambda path: natural_key(path.name))}


def import_pair(pair):
    """Read a slice with its mask and cut both to size.

    Returns:
        Imported.

    Raises:
        InputError: if the pair is invalid.
    """
    image_path, mask_path = pair
    image, mask = read_matrix(image_path), read_matrix(mask_path)
    if image.shape != mask.shape:
        sizes = "{1}x{0} and {3}x{2}".format(*image.shape, *mask.shape)
        raise InputError(
            f"{image_path}: size differs from its mask {mask_path} (found {sizes}); export one of them again"
        )
    values = np.unique(mask)
    if not set(values.tolist()) <= {0, 1}:
        raise InputError(f"{mask_path}: expected mask values 0 and 1 (found {values[:5].tolist()}); export it again")
    low, high = settings.WINDOW or (image.min(), image.max())
    if not low < high:
        raise InputError(
            f"{image_path}: expected different values (found only {low:g}); remove the pair, or set WINDOW"
        )
    mask = clean(mask.astype(np.uint8), smallest=settings.SMALLEST)
    (box,) = fit_boxes(image.shape, settings.SIZE, settings.FIT)
    entry = {"image": image_path.name, "mask": mask_path.name, "image_size": list(image.shape), "box": list(box)}
    image_file = encode_png(cut(window_to_gray(image, low, high, settings.BITS), box, settings.SIZE))
    mask_file = encode_png(cut(mask * np.uint8(255), box, settings.SIZE, cv2.INTER_NEAREST))
    return Imported([(image_file, mask_file, entry)], {"window": [float(low), float(high)]})


def read_matrix(path):
    """Read a file of numbers, (H, W) float32.

    Raises:
        InputError: if the file is empty, has rows of different lengths, or contains anything but numbers.
    """
    try:
        matrix = pd.read_csv(io.BytesIO(read_regular(path)), header=None, dtype=np.float32, comment=None).to_numpy()
    except (ValueError, OverflowError, pd.errors.ParserError) as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"{path}: not a matrix of comma-separated numbers ({reason}); export it again") from None
    if not np.isfinite(matrix).all():
        row, column = np.argwhere(~np.isfinite(matrix))[0] + 1
        found = f"found {matrix[row - 1, column - 1]} in row {row}, column {column}"
        raise InputError(f"{path}: no finite number ({found}; a short row ends with nan); export it again")
    refuse_tiny(matrix, path)
    return matrix


if __name__ == "__main__":
    main()

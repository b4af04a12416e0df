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

import cv2
import numpy as np

from common.errors import InputError, name_broken, summarize
from common.slices.cases import (
    CaseRecord,
    Imported,
    as_case_name,
    import_cases,
    refuse_existing_cases,
    without_partner,
)
from common.slices.images import cut, encode_png, fit_boxes, window_to_gray
from common.slices.masks import clean
from common.slices.matrices import find_matrices, has_masks_inside, read_matrices, stem_of
from common.words import number_of


def main():
    pairs = match_pairs()
    refuse_existing_cases([case for case, _ in pairs], settings.REPLACE)
    size, files = f"{settings.SIZE}x{settings.SIZE}", number_of(len(pairs), "file")
    print(f"importing {files}, {settings.FIT} to {size}, into {settings.CASES}", flush=True)
    make_record = partial(CaseRecord, "0_import_matrices.py", settings.SIZE, fit=settings.FIT)
    result = import_cases(pairs, import_pair, make_record, settings.REPLACE)
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


def import_pair(pair):
    """Read a file with its mask and cut its slices to size.

    Args:
        pair: (Path of the image, Path of the mask or None).

    Returns:
        Imported.

    Raises:
        InputError: if the pair is invalid.
    """
    image_path, mask_path = pair
    images = read_matrices(image_path)
    masks = read_matrices(mask_path) if mask_path else np.broadcast_to(np.uint8(0), images.shape)
    if images.shape != masks.shape:
        sizes = " and ".join(map(in_words, (images.shape, masks.shape)))
        raise InputError(
            f"{image_path}: size differs from its mask {mask_path} (found {sizes}); export one of them again"
        )
    values = np.unique(masks)
    if not (set(values.tolist()) <= {0, 1} or set(values.tolist()) <= {0, 255}):
        raise InputError(f"{mask_path}: expected mask values 0 and 1 (found {values[:5].tolist()}); export it again")
    low, high = settings.WINDOW or (images.min(), images.max())
    if not low < high:
        raise InputError(
            f"{image_path}: expected different values (found only {low:g}); remove the pair, or set WINDOW"
        )
    files = {"image": image_path.name, "mask": mask_path.name if mask_path else None}
    slices = (slice_of(*arrays, float(low), float(high), files) for arrays in zip(images, masks, strict=True))
    return Imported(slices, {"window": [float(low), float(high)]})


def in_words(shape):
    """Width and height of slices (N, H, W), and their number unless it is one, as text."""
    size = f"{shape[2]}x{shape[1]}"
    return size if shape[0] == 1 else f"{number_of(shape[0], 'slice')} of {size}"


def slice_of(image, mask, low, high, files):
    """A slice and its mask, cut to size, as PNG bytes, with its entry for case.json.

    Args:
        image, mask: (H, W) arrays.
        low, high: values that become black and white.
        files: the names of both files, for the entry.
    """
    mask = clean((mask > 0).astype(np.uint8), smallest=settings.SMALLEST)
    (box,) = fit_boxes(image.shape, settings.SIZE, settings.FIT)
    image_file = encode_png(cut(window_to_gray(image, low, high, settings.BITS), box, settings.SIZE))
    mask_file = encode_png(cut(mask * np.uint8(255), box, settings.SIZE, cv2.INTER_NEAREST))
    return image_file, mask_file, {**files, "image_size": list(image.shape), "box": list(box)}


if __name__ == "__main__":
    main()

"""Step 1: filtered and deformed variants of every slice, in folders beside x and y.

Reads   CASES/<case>/x and y                                                            from step 0
Writes  CASES/<case>/x_<filter><shape> and y_O<shape>, such as x_A_RTP and y_O_RTP      for step 2
Takes   about 40 seconds for 1,000 slices of 200x200 on two cores with the settings below

Filters change images only, so one mask folder a shape pairs with every filter. Running it again
replaces the folders that it made before (augmented.json lists them) and touches no others.
"""

import sys
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Le, Len

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.setting_types import Filters, PartOfWork, PathName, Shapes, ShareOfHalf
from common.settings import apply_command_line

# --- where
CASES: PathName = "data/cases"  # folder of the case folders

# --- what to make
FILTERS: Filters = ["O", "A", "B", "C"]  # O none, A non-local means, B bilateral, C CLAHE, D posterisation
SHAPES: Shapes = ["", "HT", "WD", "DKP", "DKM", "HSR", "HSL", "RTP", "RTM", "CP0", "CP1", "CP2", "CP3", "CP4"]
# "" undeformed, HT and WD stretch, DKP and DKM trapezoid, HSR and HSL parallelogram, RTP and RTM rotation, CP parts
WORKERS: Annotated[int, Ge(0), Le(1024)] = 0  # slices at a time; 0: one a core
PART: PartOfWork = ""
# "2/8": the second of eight parts of the cases, each for a process or machine of its own; "": all

# --- amounts of the shapes
STRETCH: ShareOfHalf = 0.05  # share of the size by which HT and WD stretch at each end
TRAPEZOID: ShareOfHalf = 0.125
# share of the size by which DKP and DKM widen an edge on both sides (small targets: 0.15)
SHEAR: ShareOfHalf = 0.10  # share of the size by which HSR and HSL push two corners (small targets: 0.15)
ROTATION: Annotated[float, Ge(0), Le(180)] = 8.0  # degrees of RTP (counter-clockwise) and RTM (small targets: 15)
PART_MARGIN: Annotated[int, Ge(0), Le(1000)] = 10  # pixels between the corner parts CP1 to CP4 and the edges

# --- amounts of the filters, in grey values of 8 bits
DENOISE: Annotated[float, Ge(0), Le(100)] = 2.0  # strength h of non-local means
BILATERAL: Annotated[list[Annotated[float, Ge(0), Le(100)]], Len(2, 2)] = [3.0, 1.5]
# sigma of grey values and of distance, three rounds
CLAHE_LIMIT: Annotated[float, Gt(0), Le(1000)] = 1.4  # clip limit, on 4x4 tiles
LEVELS: Annotated[int, Ge(2), Le(256)] = 32  # grey levels of the posterisation
TRIM: Annotated[int, Ge(-(2**14)), Le(2**14)] = 0
# pixels blacked out before the filters: at top and bottom, or, if negative, at left and right

settings = apply_command_line(globals())

from functools import partial

import cv2
import numpy as np

from common.errors import InputError, summarise
from common.files import read_json, remove, write_json
from common.jobs import Part
from common.parallel import ordered_map, progress
from common.slices.cases import find_cases, pair_up
from common.slices.images import encode_png, read_pair

RECORD = "augmented.json"


def main():
    shapes, filters = (
        choose(settings.SHAPES, make_shapes(), "SHAPES"),
        choose(settings.FILTERS, make_filters(), "FILTERS"),
    )
    part = Part.read(settings.PART)
    cases = part.share(find_cases(settings.CASES))
    if not cases:
        print(f"nothing to do in part {part}: {settings.CASES} has fewer cases")
        return
    folders = [*(f"x_{f}{suffix(s)}" for f in filters for s in shapes), *(f"y_O{suffix(s)}" for s in shapes)]
    for case in cases:
        refuse_foreign_folders(case, folders)
    slices = [(case, *pair) for case in cases for pair in pair_up(case / "x", case / "y", case)]
    problems = []
    for _ in ordered_map(lambda task: check_slice(*task[2:]), slices, settings.WORKERS, problems):
        pass
    if problems:
        raise InputError(summarise(problems, "files cannot be used"))
    print(
        f"augmenting {len(slices)} slices of {len(cases)} cases: {len(filters)} filters x {len(shapes)} shapes",
        flush=True,
    )

    try:
        for case in cases:
            for folder in folders:
                remove(part_of(case, folder))
                part_of(case, folder).mkdir()
        last_of_case = {case: i for i, (case, *_) in enumerate(slices)}
        augmented = ordered_map(partial(augment_slice, filters=filters, shapes=shapes), slices, settings.WORKERS)
        for i, case in enumerate(progress(augmented, len(slices), "augmenting")):
            if i == last_of_case[case]:
                publish(case, folders)
    finally:
        for case in cases:
            for folder in folders:
                remove(part_of(case, folder))
    files = len(slices) * len(folders)
    print(f"wrote {len(folders)} folders in each of {len(cases)} cases, {files} files, to {settings.CASES}")


def augment_slice(task, filters, shapes):
    """Write every variant of a slice and of its mask.

    Args:
        task: (case folder, name, image path, mask path).
        filters, shapes: dict of name to function.

    Returns:
        The case folder.
    """
    case, name, image_path, mask_path = task
    image, mask = (trim(picture) for picture in read_pair(image_path, mask_path))
    for letter, function in filters.items():
        filtered = function(image)
        for shape, deform in shapes.items():
            data = encode_png(deform(filtered, smooth=True))
            (part_of(case, f"x_{letter}{suffix(shape)}") / f"{name}.png").write_bytes(data)
    one_class = np.isin(mask, (0, 255)).all()
    for shape, deform in shapes.items():
        deformed = deform(mask, smooth=one_class)  # class numbers must not be mixed
        if one_class:
            deformed = cv2.threshold(deformed, 127, 255, cv2.THRESH_BINARY)[1]
        (part_of(case, f"y_O{suffix(shape)}") / f"{name}.png").write_bytes(encode_png(deformed))
    return case


# --- filters


def make_filters():
    """dict of letter to filter: (H, H) uint8 or uint16 to the same."""
    return {"O": lambda image: image, "A": denoise, "B": smooth_three_times, "C": equalise, "D": posterise}


def denoise(image):
    """Non-local means (Buades et al., doi 10.5201/ipol.2011.bcm_nlm), template window 7, search window 21."""
    if image.dtype == np.uint8:
        return cv2.fastNlMeansDenoising(image, None, settings.DENOISE, 7, 21)
    return cv2.fastNlMeansDenoising(image, [settings.DENOISE * 257], None, 7, 21, cv2.NORM_L1)


def smooth_three_times(image):
    for _ in range(3):
        image = bilateral(image, -1, *settings.BILATERAL)
    return image


def equalise(image):
    """Contrast-limited adaptive histogram equalisation.

    16 bits get the change that their upper 8 bits get: with 65,536 bins, more than a tile has pixels, no limit works.
    """
    clahe = cv2.createCLAHE(settings.CLAHE_LIMIT, (4, 4))
    if image.dtype == np.uint8:
        return clahe.apply(image)
    upper = (image >> 8).astype(np.uint8)
    change = clahe.apply(upper).astype(np.int32) - upper
    return (image + 257 * change).clip(0, 65535).astype(np.uint16)


def posterise(image):
    """Smooth, then round down to LEVELS grey levels that are spread over the full range."""
    top = np.iinfo(image.dtype).max
    level = bilateral(image, 10, 10, 10).astype(np.uint32) * settings.LEVELS // (top + 1)
    return (level * top // (settings.LEVELS - 1)).astype(image.dtype)


def bilateral(image, diameter, sigma_colour, sigma_space):
    if image.dtype == np.uint8:
        return cv2.bilateralFilter(image, diameter, sigma_colour, sigma_space)
    smoothed = cv2.bilateralFilter(image.astype(np.float32), diameter, sigma_colour * 257, sigma_space)
    return np.rint(smoothed).clip(0, 65535).astype(np.uint16)


def trim(picture):
    if not settings.TRIM:
        return picture
    picture = picture.copy()
    sides = picture if settings.TRIM > 0 else picture.T
    sides[: abs(settings.TRIM)] = 0
    sides[-abs(settings.TRIM) :] = 0
    return picture


# --- shapes


def make_shapes():
    """dict of suffix to deformation: ((H, H), smooth) to the same; black outside; smooth=False: nearest neighbour."""
    shapes = {"": lambda picture, smooth: picture, "HT": stretch_height, "WD": stretch_width}
    shapes |= {
        "DKP": partial(warp, left_bottom=-settings.TRAPEZOID, right_bottom=settings.TRAPEZOID),
        "DKM": partial(warp, left_top=-settings.TRAPEZOID, right_top=settings.TRAPEZOID),
        "HSR": partial(warp, left_bottom=-settings.SHEAR, right_top=settings.SHEAR),
        "HSL": partial(warp, left_top=-settings.SHEAR, right_bottom=settings.SHEAR),
        "RTP": partial(rotate, degrees=settings.ROTATION),
        "RTM": partial(rotate, degrees=-settings.ROTATION),
    }
    return shapes | {f"CP{i}": partial(keep_part, index=i) for i in range(5)}


def stretch_height(picture, smooth):
    size = len(picture)
    ends = int(size * settings.STRETCH)
    interpolation = cv2.INTER_CUBIC if smooth else cv2.INTER_NEAREST
    return cv2.resize(picture, (size, size + 2 * ends), interpolation=interpolation)[ends : ends + size]


def stretch_width(picture, smooth):
    size = len(picture)
    ends = int(size * settings.STRETCH)
    interpolation = cv2.INTER_CUBIC if smooth else cv2.INTER_NEAREST
    return cv2.resize(picture, (size + 2 * ends, size), interpolation=interpolation)[:, ends : ends + size]


def warp(picture, smooth, left_top=0, right_top=0, left_bottom=0, right_bottom=0):
    """Perspective warp that moves corners sideways by shares of the size, rounded down to pixels."""
    size = len(picture)
    corners = np.float32([[0, 0], [size, 0], [0, size], [size, size]])
    moved = corners.copy()
    moved[:, 0] += [int(size * share) for share in (left_top, right_top, left_bottom, right_bottom)]
    matrix = cv2.getPerspectiveTransform(corners, moved)
    return cv2.warpPerspective(picture, matrix, (size, size), flags=cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST)


def rotate(picture, smooth, degrees):
    size = len(picture)
    matrix = cv2.getRotationMatrix2D((size / 2, size / 2), degrees, 1)
    return cv2.warpAffine(picture, matrix, (size, size), flags=cv2.INTER_CUBIC if smooth else cv2.INTER_NEAREST)


def keep_part(picture, smooth, index):
    """Keep a square of half the size at its place: the centre, then top left, top right, bottom left, bottom right."""
    size = len(picture)
    side, near, far = size // 2, settings.PART_MARGIN, size - settings.PART_MARGIN - size // 2
    top, left = [(size // 4, size // 4), (near, near), (near, far), (far, near), (far, far)][index]
    part = np.zeros_like(picture)
    part[top : top + side, left : left + side] = picture[top : top + side, left : left + side]
    return part


# --- folders and checks


def choose(names, functions, setting):
    """Functions of the names in a setting; a leading underscore is as good as none."""
    names = [str(name).removeprefix("_") for name in names]
    unknown = [name for name in names if name not in functions]
    if unknown or not names:
        wrong = f"{setting} has {unknown[0]!r}" if unknown else f"{setting} is empty"
        raise InputError(f"{wrong}; choose from {', '.join(map(repr, functions))}")
    return {name: functions[name] for name in names}


def check_slice(image_path, mask_path):
    image, _ = read_pair(image_path, mask_path)
    if len(image) < 2 * settings.PART_MARGIN + 2 or abs(settings.TRIM) >= len(image) / 2:
        raise InputError(f"{image_path} is {len(image)} pixels a side, too small for PART_MARGIN or TRIM")


def suffix(shape):
    return f"_{shape}" if shape else ""


def part_of(case, folder):
    """Folder that is being filled, until `publish` gives it its name."""
    return case / f".part-{folder}"


def folders_made(case):
    """Folders that an earlier run made in a case."""
    record = case / RECORD
    return read_json(record)["folders"] if record.exists() else []


def refuse_foreign_folders(case, folders):
    made = folders_made(case)
    foreign = [folder for folder in folders if (case / folder).exists() and folder not in made]
    if foreign:
        raise InputError(f"{case / foreign[0]} exists and was not made by this script; move or remove it")


def publish(case, folders):
    """Give the finished folders of a case their names in place of those that an earlier run made."""
    made = folders_made(case)
    # The record comes first: a run that is killed in between can then be repeated.
    write_json(case / RECORD, {"folders": sorted({*made, *folders})})
    for folder in {*made, *folders}:
        remove(case / folder)
    for folder in folders:
        part_of(case, folder).rename(case / folder)
    write_json(case / RECORD, {"folders": sorted(folders)})


if __name__ == "__main__":
    main()

"""Step 0: import images with outlines from annotation programs into case folders.

Reads   IMAGES: png, jpg, tif or bmp; ANNOTATIONS: LabelMe, COCO, CVAT or ImageJ files
Writes  CASES/case_<subfolder>/x/0001.png, y/0001.png and case.json, for steps 1 and 2
Takes   about a second per 100 images of 512x512 on two cores

Names of shapes become classes; the script prints their numbers. A pixel is inside an outline if
its center is. Images and their annotations are matched by the file names in the annotations.
IMAGES and ANNOTATIONS stay unchanged.
"""

import sys
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import setting_types as types
from common.settings import apply_command_line

# --- input and output
IMAGES: str = ""  # folder of the images
ANNOTATIONS: str = ""  # folder of the annotation files, or one file; may be IMAGES
FORMAT: Literal["auto", "labelme", "coco", "cvat", "imagej"] = "auto"  # "auto": whatever the content of each file says
CASES: types.PathName = "data/cases"  # output folder for the case folders
CASE_FROM: Literal["folder", "image"] = "folder"  # "folder": a case per subfolder; "image": a case per image
#   With "folder", images without a subfolder are one case together, unless names tell patients, as P004_s01 does.
REPLACE: bool = False  # True: overwrite existing case folders
SKIP_BROKEN: bool = False  # True: exit with status 0 even if some images cannot be used

# --- classes
CLASSES: types.ClassNumbers = {}  # class of each name, such as {"liver": 1}; {}: numbers the names, sorted
#   "*" in a name fits any text, as in {"lesion*": 2}. Shapes with other names are background.
OVERLAP: Literal["largest", "last"] = "largest"  # if classes overlap: the "largest" number, or the "last" shape, wins
UNMATCHED: Literal["stop", "skip", "empty"] = "empty"
# image without annotations: "stop", "skip" it, or "empty" mask

# --- size
SIZE: types.Side = 200  # side length of the slices in pixels
FIT: Literal["resize", "crop", "pad", "tile"] = "resize"
# "resize" (may distort), "crop" the center, "pad" to a square, "tile"
#   "pad" shrinks images larger than SIZE. Black fills gaps.
TILE_OVERLAP: types.Count = 0  # minimum overlap of neighboring tiles in pixels

# --- gray values
STRETCH: bool = False  # True: stretch each image's own minimum and maximum to the full range

settings = apply_command_line(globals())

from collections import Counter
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np

from common.annotations.classes import names_of, number_classes, print_classes
from common.annotations.matching import match_images
from common.annotations.reading import find_annotations, read_annotations
from common.annotations.shapes import draw
from common.errors import InputError, SettingError, name_broken, summarize
from common.settings import require_folder
from common.slices.case_names import name_cases
from common.slices.cases import CaseRecord, Imported, import_cases, refuse_existing_cases
from common.slices.finding import IMAGE_ENDINGS, find_images, report_skipped, walk
from common.slices.images import cut, encode_png, fit_boxes, read_image, refuse_tiny, stretch, to_gray
from common.slices.import_notes import Seen
from common.slices.leftovers import find_earlier_cases
from common.slices.masks import class_count, values_of
from common.slices.matching import IMAGE_FOLDERS, MASK_FOLDERS
from common.words import number_of

SCRIPT = "0_import_annotations.py"  # in case.json


class Source(NamedTuple):
    """An image to import."""

    image: Path
    annotations: list  # of Annotation
    image_name: str  # relative to IMAGES


class Drawn(NamedTuple):
    """What drawing needs and finds: classes, and pixels of several classes in each image that has some."""

    numbers: dict
    one_class: bool
    overlaps: list


def main():
    check_settings()
    sources, numbers = match_sources()
    cases = dict.fromkeys(case for case, _ in sources)
    refuse_existing_cases(cases, settings.REPLACE)
    earlier = find_earlier_cases(sources, SCRIPT, lambda source: source.image_name, settings.REPLACE)
    size = f"{settings.SIZE}x{settings.SIZE}"
    images, in_cases = number_of(len(sources), "image"), number_of(len(cases), "case")
    print(f"importing {images} as {in_cases}, {settings.FIT} to {size}, into {settings.CASES}", flush=True)
    names = names_of(numbers, settings.CLASSES)
    record = {"fit": settings.FIT, "stretched": settings.STRETCH, "class_names": names}
    seen, drawn = Seen({}, [], [], []), Drawn(numbers, set(numbers.values()) == {1}, [])
    result = import_cases(
        sources,
        partial(import_image, seen=seen, drawn=drawn),
        partial(CaseRecord, SCRIPT, settings.SIZE, **record),
        settings.REPLACE,
        check=check_masks,
        earlier=earlier,
    )
    if earlier and result.slices:
        print(f"removed {number_of(len(earlier), 'case')} of an earlier import of the same images")
    classes = class_count(result.values, settings.ANNOTATIONS)
    print(
        f"wrote {number_of(result.slices, 'slice')} of {size}, {number_of(classes, 'class', 'classes')}, "
        f"in {number_of(result.cases, 'case')} to {settings.CASES}"
    )
    print(f'class names for train.py: --class-names "{names}"')
    print_overlaps(drawn.overlaps)
    seen.print_notes(settings.FIT)
    name_broken(result.problems, "images cannot be used", result.slices, settings.SKIP_BROKEN)


def check_settings():
    if settings.TILE_OVERLAP >= settings.SIZE:
        raise SettingError(f"TILE_OVERLAP: expected 0 to {settings.SIZE - 1} (found {settings.TILE_OVERLAP})")


def check_masks(values):
    if not values - {0}:
        raise InputError(
            f"ANNOTATIONS: every mask is empty, so all shapes are outside of their images (in {settings.ANNOTATIONS}); "
            "choose the images that were annotated"
        )
    class_count(values, settings.ANNOTATIONS)


def print_overlaps(overlaps):
    """Print how many pixels several classes cover."""
    if overlaps:
        wins = "the largest class number" if settings.OVERLAP == "largest" else "the last shape"
        pixels, images = number_of(sum(overlaps), "pixel"), number_of(len(overlaps), "image")
        print(f"note: shapes of several classes cover {pixels} in {images}; there, {wins} wins (see --overlap)")


# --- matching images and annotations


def match_sources():
    """Read the annotations, number their classes, and match them to images.

    Returns:
        list of (Path of the case folder, Source), in natural order; and dict of name to class number.

    Raises:
        InputError: if there are no images or annotations, an annotation is unusable, or they do not match.
    """
    root = require_folder(settings.IMAGES, "IMAGES")
    image_files, skipped = walk(root)
    together = Path(settings.ANNOTATIONS or "-").resolve() == root.resolve()
    files = find_annotations(settings.ANNOTATIONS, skipped if together else None)
    report_skipped(skipped)
    annotations, problems = read_annotations(files, settings.FORMAT)
    images = find_images(root, image_files, "{id}", skip=MASK_FOLDERS, drop=IMAGE_FOLDERS)
    if not images:
        raise InputError(f"IMAGES: no image ({', '.join(IMAGE_ENDINGS)}) in {root}; choose another folder")
    folder = root if together else Path(settings.ANNOTATIONS)
    matched, alone = match_images(annotations, list(images.values()), root, folder if folder.is_dir() else root)
    if problems + alone:
        raise InputError(summarize(problems + alone, "annotations cannot be used"))
    counts = Counter(shape.name for one in annotations for shape in one.shapes)
    print(f"{number_of(counts.total(), 'shape')} in {number_of(len(files), 'file')}, on {len(matched)} of "
          f"{number_of(len(images), 'image')}")  # fmt: skip
    numbers = number_classes(set(counts), settings.CLASSES)
    print_classes(numbers, counts)
    print_ignored(annotations)
    used = choose_images(images, matched)
    sources = []
    for key, case in name_cases(used, settings.CASE_FROM).items():
        image = images[key]
        source = Source(image, matched.get(image, []), image.relative_to(root).as_posix())
        sources.append((Path(settings.CASES, case), source))
    return sources, numbers


def print_ignored(annotations):
    """Print how many shapes have no area."""
    if ignored := sum((one.ignored for one in annotations), Counter()):
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(ignored.items()))
        print(f"skipped {number_of(ignored.total(), 'shape')} without an area ({kinds})")


def choose_images(images, matched):
    """Keys of the images to import, by UNMATCHED."""
    without = [path for path in images.values() if path not in matched]
    if without and settings.UNMATCHED == "stop":
        problems = [f"{path}: no annotation in {settings.ANNOTATIONS}" for path in without]
        raise InputError(summarize(problems, "images have no annotation; see --unmatched"))
    if without:
        count = number_of(len(without), "image")
        print(f"skipped {count} without annotations" if settings.UNMATCHED == "skip" else
              f"note: {count} without annotations, imported with an empty mask (see --unmatched)")  # fmt: skip
    return [key for key, path in images.items() if path in matched or settings.UNMATCHED == "empty"]


# --- one image


def import_image(source, seen, drawn):
    """Read an image, draw its shapes, and cut both to size.

    Args:
        source: Source.
        seen: Seen, to which it is added.
        drawn: Drawn.

    Returns:
        Imported.
    """
    image = to_gray(read_image(source.image))
    refuse_tiny(image, source.image)
    for one in source.annotations:
        if one.size and one.size != image.shape:
            sizes = "{1}x{0}, expected {3}x{2}".format(*image.shape, *one.size)
            raise InputError(
                f"{source.image}: not the size that {one.file} has (found {sizes}); use the annotated image"
            )
    mask, several = draw(
        [shape for one in source.annotations for shape in one.shapes],
        drawn.numbers,
        image.shape,
        settings.OVERLAP == "last",
    )
    if several:
        drawn.overlaps.append(several)
    if drawn.one_class:
        mask = np.where(mask > 0, np.uint8(255), np.uint8(0))
    if settings.STRETCH:
        image = stretch(image)
    slices = []
    for box in fit_boxes(image.shape, settings.SIZE, settings.FIT, settings.TILE_OVERLAP):
        entry = {"image": source.image_name, "mask": None, "image_size": list(image.shape), "box": box}
        image_cut, mask_cut = cut(image, box, settings.SIZE), cut(mask, box, settings.SIZE, cv2.INTER_NEAREST)
        slices.append((encode_png(image_cut), encode_png(mask_cut), entry))
    if image.dtype == np.uint16:
        seen.brightest.append(int(image.max()))
    seen.ratios.append(max(image.shape) / min(image.shape))
    return Imported(slices, values=values_of(mask))


if __name__ == "__main__":
    main()

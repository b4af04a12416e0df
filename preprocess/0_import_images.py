"""Step 0: import images with masks into case folders.

Reads   IMAGES and MASKS: png, jpg, tif or bmp; 1, 3 or 4 channels; 8 or 16 bit; any size
Writes  CASES/case_<subfolder>/x/0001.png, y/0001.png and case.json, for steps 1 and 2
Takes   about a second per 100 images of 512x512 on two cores

Each subfolder becomes a case. Images and masks are matched by subfolder and name; the last
subfolder may differ, such as x and y, or images and masks. IMAGES and MASKS stay unchanged.
"""

import sys
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import setting_types as types
from common.settings import apply_command_line

# --- input and output
IMAGES: str = ""  # folder of the images, or a name pattern: "images/{case}_{id}.png"
#   A folder with dataset.json is a data set of nnU-Net and needs no MASKS.
MASKS: str = ""  # folder of the masks, or a path with a name pattern: "images/{id}_mask.png"
#   With a file for each class: "masks/{class}/{id}.png" or "masks/{id}_{class}.png".
CASES: types.PathName = "data/cases"  # output folder for the case folders
CASE_FROM: Literal["folder", "image"] = "folder"  # "folder": a case per subfolder; "image": a case per image
#   With "folder", images without a subfolder are one case together, unless names tell patients, as P004_s01 does.
REPLACE: bool = False  # True: overwrite existing case folders
SKIP_BROKEN: bool = False  # True: exit with status 0 even if some images cannot be used
WORKERS: types.Workers = ""  # "": this machine's cores; a number of processes; or a Dask scheduler
#   Such as "tcp://10.0.0.1:8786", for several machines: see docs/scaling.md.

# --- size
SIZE: types.Side = 200  # side length of the slices in pixels
FIT: Literal["resize", "crop", "pad", "tile"] = "resize"
# "resize" (may distort), "crop" the center, "pad" to a square, "tile"
#   "pad" shrinks images larger than SIZE. Black fills gaps.
TILE_OVERLAP: types.Count = 0  # minimum overlap of neighboring tiles in pixels

# --- channels and gray values
CHANNELS: types.Channels = "gray"  # "gray", "rgb", or name patterns of the files of an image
#   ["{id}_0000", "{id}_0001"]: two gray files become an image of two channels; IMAGES is then their folder.
STRETCH: bool = False  # True: stretch each image's own minimum and maximum to the full range

# --- masks
MASK_VALUES: types.MaskValues | None = None  # map mask values, such as {1: 255}; None: 0 and 255, or class numbers
COLORS: types.MaskColors = {}  # classes of colored masks, such as {"#ff0000": 1, "#0000ff": 2}
IGNORE: types.Gray | None = None  # mask value of pixels that count in no loss and no score; None: none
#   Masks then have 254 there.
CLASS_NAMES: types.Names = []  # with {class} in MASKS: names of the classes in order; []: all of them
OVERLAP: Literal["keep", "largest"] = "keep"  # with {class}: pixels in several classes stay, or "largest" number wins
REGIONS: types.Regions | None = None  # classes of several mask numbers: {"whole": [1, 2], "core": [2]}
#   "nested": class 1 includes class 2, which includes class 3, and so on.
MASK_THRESHOLD: types.Gray | None = None  # mask values above this are foreground (soft or JPEG); None: off
UNMATCHED: Literal["stop", "skip", "empty"] = "stop"
# image without a mask: "stop", "skip" it, or "empty": a black mask

settings = apply_command_line(globals())

from functools import partial

from common.errors import InputError, SettingError, name_broken
from common.files import real_path
from common.slices import nnunet
from common.slices.case_names import name_cases
from common.slices.cases import (
    CaseRecord,
    import_cases,
    match_files,
    refuse_existing_cases,
)
from common.slices.class_masks import MaskReader, has_classes
from common.slices.finding import IMAGE_ENDINGS, find_images, report_skipped, walk
from common.slices.import_notes import Seen
from common.slices.importing import Fitting, Source, import_image
from common.slices.leftovers import find_earlier_cases
from common.slices.matching import (
    IMAGE_FOLDERS,
    MASK_FOLDERS,
    MASK_NAMES,
    apart_from,
    choose_mask_name,
    root_and_name,
)
from common.words import number_of
from common.workers import start_workers

SCRIPT = "0_import_images.py"  # in case.json

settings, class_names = nnunet.settings_for(settings)


def main():
    check_settings()
    masks = MaskReader(settings, class_names)
    sources = match_sources(masks)
    cases = dict.fromkeys(case for case, _ in sources)
    refuse_existing_cases(cases, settings.REPLACE)
    earlier = find_earlier_cases(sources, SCRIPT, lambda source: source.image_name, settings.REPLACE)
    size = f"{settings.SIZE}x{settings.SIZE}"
    images, in_cases = number_of(len(sources), "image"), number_of(len(cases), "case")
    print(f"importing {images} as {in_cases}, {settings.FIT} to {size}, into {settings.CASES}", flush=True)
    fitting = {"fit": settings.FIT, "stretched": settings.STRETCH, "mask_values": settings.MASK_VALUES}
    fitting |= {"class_names": masks.names, "overlap": masks.overlap}
    fitting["channels"] = None if settings.CHANNELS == "gray" else settings.CHANNELS
    how = Fitting(settings.CHANNELS, settings.STRETCH, settings.SIZE, settings.FIT, settings.TILE_OVERLAP)
    with start_workers(settings.WORKERS) as workers:
        result = import_cases(
            sources,
            partial(import_image, masks=masks.reading, how=how),
            partial(CaseRecord, SCRIPT, settings.SIZE, **fitting),
            settings.REPLACE,
            workers=workers,
            check=lambda _, notes: Seen(notes).check(settings.IMAGES, settings.MASKS, masks.overlap),
            earlier=earlier,
        )
    if earlier and result.slices:
        print(f"removed {len(earlier)} case{'s' * (len(earlier) != 1)} of an earlier import of the same images")
    print(
        f"wrote {number_of(result.slices, 'slice')} of {size}, {masks.in_words(result.values)}, "
        f"in {number_of(result.cases, 'case')} to {settings.CASES}"
    )
    Seen(result.notes).print_notes(settings.FIT)
    name_broken(result.problems, "images cannot be used", result.slices, settings.SKIP_BROKEN)


def check_settings():
    if settings.TILE_OVERLAP >= settings.SIZE:
        raise SettingError(f"TILE_OVERLAP: expected 0 to {settings.SIZE - 1} (found {settings.TILE_OVERLAP})")
    if settings.MASK_VALUES is not None and settings.MASK_THRESHOLD is not None:
        raise SettingError("MASK_VALUES: cannot be combined with MASK_THRESHOLD; set only one of them")
    others = settings.MASK_VALUES, settings.MASK_THRESHOLD, settings.IGNORE
    if settings.COLORS and others != (None, None, None):
        raise SettingError(
            "COLORS: cannot be combined with MASK_VALUES, MASK_THRESHOLD or IGNORE; set only one of them"
        )
    if settings.REGIONS and (has_classes(settings.MASKS) or settings.MASK_THRESHOLD is not None):
        raise SettingError("REGIONS: needs class numbers (found {class} or MASK_THRESHOLD); remove one of them")
    if has_classes(settings.MASKS) and settings.COLORS:
        raise SettingError("COLORS: cannot be combined with {class} in MASKS; remove one of them")


# --- matching images and masks


def match_sources(masks):
    """Match images and masks.

    Args:
        masks: MaskReader, which also finds the files of each class.

    Returns:
        list of (Path of the case folder, Source), in natural order.

    Raises:
        InputError: if there are no images, or images and masks do not match.
    """
    image_root, image_name = root_and_name(settings.IMAGES, "IMAGES")
    image_files, skipped = walk(image_root)
    image_files = apart_from(image_files, image_root, settings.MASKS)
    patterns = settings.CHANNELS if isinstance(settings.CHANNELS, list) else [image_name or "{id}"]
    of_channels = [find_images(image_root, image_files, name, MASK_FOLDERS, IMAGE_FOLDERS) for name in patterns]
    images = of_channels[0]
    for name, others in zip(patterns[1:], of_channels[1:], strict=True):
        missing = f"file {name} in {settings.IMAGES}", f"file {patterns[0]} in {settings.IMAGES}"
        match_files(images, others, *missing, "files have no partner; see --channels")
    if masks.by_class:
        report_skipped(skipped)
        images, found, mask_root = masks.find(images)
    else:
        images, found, mask_root = find_masks(images, image_root, image_files, image_name, skipped)
    used = choose_used(images, found, mask_root)
    sources = []
    for key, case in name_cases(used, settings.CASE_FROM).items():
        image, mask = images[key], found.get(key)
        files = [of_channel[key] for of_channel in of_channels]
        names = image.relative_to(image_root).as_posix(), mask and mask.relative_to(mask_root).as_posix()
        sources.append((Path(settings.CASES, case), Source(image, files, mask, masks.files.get(key, {}), *names)))
    masks.note_missing([source.of_class for _, source in sources])
    return sources


def find_masks(images, image_root, image_files, image_name, skipped):
    """Masks with one file for each image.

    Args:
        images: dict of key to Path, from `find_images`.
        image_root, image_files, skipped: folder of the images, and what `walk` found there.
        image_name: name pattern of the images, or None.

    Returns:
        images (without files that are masks), dict of key to Path of the masks, and the folder of the masks.
    """
    mask_root, mask_name = root_and_name(settings.MASKS, "MASKS")
    same = real_path(mask_root) == real_path(image_root)
    mask_root, mask_files, more = (image_root, image_files, []) if same else (mask_root, *walk(mask_root))
    mask_files = apart_from(mask_files, mask_root, settings.IMAGES)
    report_skipped(skipped + more)
    whole = "{case}" in (image_name or "") and Path(image_name).stem
    candidates = [mask_name] if mask_name else [name.replace("{id}", whole or "{id}") for name in MASK_NAMES]
    every = images
    images, masks, fitting = choose_mask_name(every, mask_root, mask_files, candidates, same)
    if every and not images:
        raise InputError(
            f"MASKS: each image in {settings.IMAGES} is also a mask; pass their folder, or a name pattern such as "
            f'--masks "{mask_root}/{{id}}_mask.png"'
        )
    unknown = images and not (image_name or mask_name or images.keys() & masks.keys())
    if unknown and masks_match(image_root, image_files, mask_root, mask_files):
        raise InputError(f"IMAGES: {settings.IMAGES} has the masks of the images in {settings.MASKS}; swap the folders")
    if not mask_name and fitting != "{id}" and images.keys() & masks.keys():
        print(f"mask name pattern: {fitting}")
    return images, masks, mask_root


def masks_match(mask_root, mask_files, image_root, image_files):
    """Whether masks have names that fit images; arguments are folders, and lists of Path from `walk`."""
    images = find_images(image_root, image_files, "{id}", MASK_FOLDERS, IMAGE_FOLDERS)
    images, masks, _ = choose_mask_name(images, mask_root, mask_files, MASK_NAMES, same_root=False)
    return bool(images.keys() & masks.keys())


def choose_used(images, masks, mask_root):
    """Images to import, dict of key to Path, by the setting UNMATCHED.

    Raises:
        InputError: if there are no images, or images and masks do not match.
    """
    if not images:
        raise InputError(
            f"IMAGES: no image ({', '.join(IMAGE_ENDINGS)}) matches {settings.IMAGES}; pass their folder as --images"
        )
    if not images.keys() & masks.keys():
        raise InputError(
            f"MASKS: no mask in {settings.MASKS} matches an image in {settings.IMAGES}; pass a name pattern such as "
            f'--masks "{mask_root}/{{id}}_mask.png", or "{mask_root}/{{class}}/{{id}}.png" for a folder of each class'
        )
    must_match = {key: path for key, path in images.items() if settings.UNMATCHED == "stop" or key in masks}
    missing = f"mask in {settings.MASKS}", f"image in {settings.IMAGES}"
    match_files(must_match, masks, *missing, "files have no partner (for images without a mask, see --unmatched)")
    used = images if settings.UNMATCHED == "empty" else must_match
    if skipped := len(images) - len(used):
        print(f"skipped {number_of(skipped, 'image')} without a mask")
    return used


if __name__ == "__main__":
    main()

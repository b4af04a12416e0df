"""Step 0: bring pictures with masks into case folders.

Reads   IMAGES and MASKS: png, jpg, tif or bmp; 1, 3 or 4 channels; 8 or 16 bit; any size
Writes  CASES/case_<subfolder>/x/0001.png, y/0001.png and case.json                     for steps 1 and 2
Takes   about a second for each 100 pictures of 512x512 on two cores

A subfolder is a case. A picture belongs to the mask in the same subfolder (x and y, images and masks
and the like count as the same one) whose name fits. Nothing in IMAGES and MASKS is changed.
"""

import sys
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common.setting_types import Count, Gray, MaskValues, PathName, Side
from common.settings import apply_command_line

# --- where from, where to
IMAGES = ""  # folder of the pictures, or with a name pattern: "pictures/{id}.png"
MASKS = ""  # folder of the masks, or with a name pattern: "pictures/{id}_mask.png"
CASES: PathName = "data/cases"  # folder for the case folders
CASE_FROM: Literal["folder", "image"] = "folder"
# "folder": a subfolder is a case, loose pictures are one; "image": each picture is one
REPLACE = False  # True to write over case folders that exist
SKIP_BROKEN = False  # True: pictures that cannot be used do not count as an error

# --- size
SIZE: Side = 200  # side of the slices in pixels
FIT: Literal["resize", "crop", "pad", "tile"] = "resize"
# "resize" to SIZE whatever the shape; "crop" the centre, black where there is too little; "pad" with black to a square,
# shrunk first where larger than SIZE; "tile" cuts all of it
TILE_OVERLAP: Count = 0  # pixels that neighbouring tiles share at least

# --- grey values
STRETCH = False  # True stretches each picture from its own least value to its greatest over the full range

# --- masks
MASK_VALUES: MaskValues | None = None  # for instance {1: 255}; None takes 0 and 255, or class numbers, as they are
MASK_THRESHOLD: Gray | None = None  # values above it are foreground, for soft or JPEG masks; None: off
UNMATCHED: Literal["stop", "skip", "empty"] = "stop"
# a picture without a mask: "stop", "skip" it, or "empty" gives it a black mask

settings = apply_command_line(globals())

import re
from contextlib import ExitStack
from typing import NamedTuple

import cv2
import numpy as np

from common.errors import InputError, SettingError, name_broken, summarise
from common.files import natural_key, refuse_existing, remove, require_folder, whole_folder, write_json
from common.parallel import ordered_map, progress
from common.slices.cases import as_case_name, case_record
from common.slices.images import PICTURES, cut, encode_png, fit_boxes, read_picture, stretch, to_gray
from common.slices.masks import check_mask_values, class_count, values_of

IMAGE_FOLDERS = ("x", "image", "images", "img", "imgs")
MASK_FOLDERS = ("y", "mask", "masks", "label", "labels", "seg", "gt")
MASK_NAMES = ("{id}", "{id}_mask", "{id}-mask", "{id}_seg", "{id}_label", "{id}_gt", "mask_{id}")


class Source(NamedTuple):
    """A picture to import."""

    case: str
    image: Path
    mask: Path | None  # None gives a black mask


class Cut(NamedTuple):
    """A slice that was cut out of a picture."""

    image: bytes  # PNG file
    mask: bytes
    record: dict  # its entry in case.json


def main():
    check_settings()
    sources = match_sources()
    cases = sorted({source.case for source in sources}, key=natural_key)
    for case in cases:
        refuse_existing(Path(settings.CASES, case), settings.REPLACE, marker="case.json")
    print(
        f"importing {len(sources)} pictures as {len(cases)} cases, {settings.FIT} to "
        f"{settings.SIZE}x{settings.SIZE}, into {settings.CASES}",
        flush=True,
    )

    problems, values = [], set()
    records = {case: {} for case in cases}
    with ExitStack() as stack:  # no case folder appears before its last picture has been read
        folders = {
            case: stack.enter_context(whole_folder(Path(settings.CASES, case), settings.REPLACE, "case.json"))
            for case in cases
        }
        for folder in folders.values():
            (folder / "x").mkdir()
            (folder / "y").mkdir()
        imported = ordered_map(import_picture, sources, problems=problems)
        for source, result in zip(sources, progress(imported, len(sources), "importing"), strict=True):
            if result is None:
                continue
            cuts, values_here = result
            values |= values_here
            for cut_out in cuts:
                name = f"{len(records[source.case]) + 1:04d}"
                (folders[source.case] / "x" / f"{name}.png").write_bytes(cut_out.image)
                (folders[source.case] / "y" / f"{name}.png").write_bytes(cut_out.mask)
                records[source.case][name] = cut_out.record
        classes = class_count(values, settings.MASKS)
        for case, folder in folders.items():
            if not records[case]:
                remove(folder)
                continue
            record = case_record(
                "0_import_images.py", settings.SIZE, records[case], settings.FIT, settings.STRETCH, settings.MASK_VALUES
            )
            write_json(folder / "case.json", record)
    slices, filled = sum(map(len, records.values())), sum(map(bool, records.values()))
    what = "class" if classes == 1 else "classes"
    print(
        f"wrote {slices} slices of {settings.SIZE}x{settings.SIZE}, {classes} {what}, in {filled} cases to "
        f"{settings.CASES}"
    )
    name_broken(problems, "pictures cannot be used", slices, settings.SKIP_BROKEN)


def check_settings():
    if settings.TILE_OVERLAP >= settings.SIZE:
        raise SettingError(f"TILE_OVERLAP is {settings.TILE_OVERLAP}; expected 0 to {settings.SIZE - 1}")
    if settings.MASK_VALUES is not None and settings.MASK_THRESHOLD is not None:
        raise SettingError("MASK_VALUES and MASK_THRESHOLD are both set; give one of them")


# --- which mask belongs to which picture


def match_sources():
    """Pictures with their masks, in natural order.

    Raises:
        InputError: if there are none, or pictures and masks do not match.
    """
    image_root, image_name = root_and_name(settings.IMAGES, "IMAGES")
    mask_root, mask_name = root_and_name(settings.MASKS, "MASKS")
    all_images = scan(image_root, image_name or "{id}", skip=MASK_FOLDERS, drop=IMAGE_FOLDERS)
    candidates = [mask_name] if mask_name else MASK_NAMES
    found = [scan(mask_root, name, skip=IMAGE_FOLDERS, drop=MASK_FOLDERS) for name in candidates]
    if image_root == mask_root:  # a mask is no image, and an image no mask of itself
        images_alone = [without_files(all_images, masks) for masks in found]
        found = [without_files(masks, images) for masks, images in zip(found, images_alone, strict=True)]
    else:
        images_alone = [all_images] * len(found)
    best = max(range(len(found)), key=lambda i: len(found[i].keys() & images_alone[i].keys()))
    images, masks = images_alone[best], found[best]
    if not images:
        raise InputError(
            f"IMAGES: no picture ({', '.join(PICTURES)}) fits {settings.IMAGES}; give --images their folder"
        )
    if not images.keys() & masks.keys():
        raise InputError(
            f"no mask in {settings.MASKS} fits a picture in {settings.IMAGES}; give --masks a name pattern such as "
            f'"{mask_root}/{{id}}_mask.png"'
        )
    if not mask_name and candidates[best] != "{id}":
        print(f"masks are named {candidates[best]}")

    alone = [f"{path} has no picture in {settings.IMAGES}" for key, path in masks.items() if key not in images]
    if settings.UNMATCHED == "stop":
        alone += [f"{path} has no mask in {settings.MASKS}" for key, path in images.items() if key not in masks]
    if alone:
        raise InputError(summarise(alone, "files have no partner (--unmatched says what to do with pictures)"))
    keys = [key for key in images if key in masks or settings.UNMATCHED == "empty"]
    if left_out := len(images) - len(keys):
        print(f"{left_out} pictures without a mask are left out")

    names = {}
    for folder, name in keys:
        case = case_name(folder, name)
        if names.setdefault(case, (folder, name)[: 1 + (settings.CASE_FROM == "image")])[0] != folder:
            raise InputError(f"subfolders {names[case][0]} and {folder} would both become {case}; rename one")
    keys.sort(key=lambda key: (natural_key(case_name(*key)), natural_key(key[1])))
    return [Source(case_name(*key), images[key], masks.get(key)) for key in keys]


def root_and_name(setting, what):
    """Split a setting into the folder to search and the name pattern, which is None where it is a folder only."""
    path = Path(setting)
    parts = path.parts
    first = next((i for i, part in enumerate(parts) if "{" in part), None)
    if first is None:
        return require_folder(setting, what), None
    if path.name.count("{id}") != 1:
        raise InputError(f'{what}: {setting} has no {{id}} in its file name; expected for instance "{{id}}_mask.png"')
    return require_folder(Path(*parts[:first]), what), path.name


def scan(root, name, skip, drop):
    """Pictures under a folder whose name fits a pattern.

    Args:
        root: folder, searched with its subfolders.
        name: pattern with {id}; without an ending it fits all of them.
        skip, drop: names of a last subfolder that are passed over, or that are no part of the case.

    Returns:
        dict of (subfolder, id) to Path.

    Raises:
        InputError: if two pictures have the same subfolder and id.
    """
    before, after = name.split("{id}")
    any_ending = not after.lower().endswith(PICTURES)
    expression = re.escape(before) + "(.+)" + re.escape(after) + (r"\.[^.]+" if any_ending else "")
    found = {}
    for path in sorted(root.rglob("*"), key=lambda path: natural_key(path.relative_to(root))):
        fits = re.fullmatch(expression, path.name)
        if not fits or path.suffix.lower() not in PICTURES or path.name.startswith("."):
            continue
        folders = path.parent.relative_to(root).parts
        last = folders[-1].lower() if folders else ""
        if last in skip:
            continue
        key = ("_".join(folders[:-1] if last in drop else folders), fits[1])
        if key in found:
            raise InputError(f"{path} and {found[key]} would be the same slice; rename or remove one")
        found[key] = path
    return found


def without_files(some, others):
    files = set(others.values())
    return {key: path for key, path in some.items() if path not in files}


def case_name(folder, name):
    parts = [part for part in (folder, name if settings.CASE_FROM == "image" else "") if part]
    return as_case_name("_".join(parts) or "case01")


# --- one picture


def import_picture(source):
    """Read a picture with its mask and cut it to size.

    Returns:
        list of Cut, and the set of values in its mask.
    """
    image = to_gray(read_picture(source.image))
    mask = np.zeros(image.shape, np.uint8) if source.mask is None else prepare_mask(source.mask)
    if mask.shape != image.shape:
        sizes = "{1}x{0} and {3}x{2}".format(*image.shape, *mask.shape)
        raise InputError(f"{source.image} and {source.mask} differ in size: {sizes}")
    if settings.STRETCH:
        image = stretch(image)
    cuts = []
    for box in fit_boxes(image.shape, settings.SIZE, settings.FIT, settings.TILE_OVERLAP):
        record = {
            "image": str(source.image.relative_to(root_and_name(settings.IMAGES, "IMAGES")[0]).as_posix()),
            "mask": source.mask and str(source.mask.relative_to(root_and_name(settings.MASKS, "MASKS")[0]).as_posix()),
            "image_size": list(image.shape),
            "box": box,
        }
        image_cut, mask_cut = cut(image, box, settings.SIZE), cut(mask, box, settings.SIZE, cv2.INTER_NEAREST)
        cuts.append(Cut(encode_png(image_cut), encode_png(mask_cut), record))
    return cuts, values_of(mask)


def prepare_mask(path):
    """Read a mask and map its values.

    Returns:
        (H, W) uint8.
    """
    mask = read_picture(path)
    if mask.ndim == 3:
        gray = to_gray(mask)
        if not np.array_equal(gray, mask[..., 0]):
            raise InputError(f"{path} is coloured; expected a gray mask, or one with equal channels")
        mask = gray
    if settings.MASK_THRESHOLD is not None:
        return np.where(mask > settings.MASK_THRESHOLD, 255, 0).astype(np.uint8)
    values = values_of(mask)
    if settings.MASK_VALUES is not None:
        mapping = {0: 0} | {int(key): int(value) for key, value in settings.MASK_VALUES.items()}
        if unknown := sorted(values - mapping.keys()):
            raise InputError(f"{path} has the values {unknown[:8]}, which MASK_VALUES does not map")
        table = np.zeros(65536, np.uint8)
        table[list(mapping)] = list(mapping.values())
        return table[mask]
    check_mask_values(values, path)
    return mask.astype(np.uint8)


if __name__ == "__main__":
    main()

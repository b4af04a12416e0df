"""Match images and masks by their names, and tell patients from slices in names."""

import re
from collections import Counter
from pathlib import Path

from common.errors import InputError
from common.settings import require_folder
from common.slices.finding import find_images

IMAGE_FOLDERS = ("x", "image", "images", "img", "imgs")
MASK_FOLDERS = ("y", "mask", "masks", "label", "labels", "seg", "gt")
MASK_NAMES = ("{id}", "{id}_mask", "{id}-mask", "{id}_seg", "{id}_label", "{id}_gt", "mask_{id}")
IMAGE_SUFFIXES = ("", "_crop")  # of images whose masks do not have it: case1_crop.tif and case1_label.tif
SLICE_OF = re.compile(r"(.*\d)[ _.-]+(?:[a-z]{1,6}[ _.-]?)?\d+", re.I | re.S)  # P004_s01: slice 01 of P004


def patients_in(names):
    """Patients that file names such as P004_s01 tell.

    They do if each name is something with a digit, a separator, perhaps a word, and a number; if there are at least
    two patients; and if one of them has several names.

    Args:
        names: list of str, without suffix.

    Returns:
        dict of name to patient; {} if the names tell none.
    """
    found = {name: SLICE_OF.fullmatch(name) for name in names}
    if not all(found.values()):
        return {}
    patients = {name: match[1] for name, match in found.items()}
    counts = Counter(patients.values())
    return patients if len(counts) > 1 and max(counts.values()) > 1 else {}


def root_and_name(setting, what):
    """Split a setting into the folder to search and the name pattern; None without a pattern.

    Args:
        setting: path of a folder, or with a file name that contains {id}, and perhaps {case} before it.
        what: name of the setting, for messages.
    """
    path = Path(setting)
    parts = path.parts
    first = next((i for i, part in enumerate(parts) if "{" in part), None)
    if first is None:
        return require_folder(setting, what), None
    if path.name.count("{id}") != 1 or path.name.count("{case}") > 1 or "{case}{id}" in path.name:
        raise InputError(
            f'{what}: expected one {{id}} in the file name, such as "{{id}}_mask.png" or "{{case}}_{{id}}.png" '
            f"(found {setting})"
        )
    return require_folder(Path(*parts[:first]), what), path.name


def choose_mask_name(images, mask_root, mask_files, names, same_root):
    """Choose the mask name pattern that matches the most images.

    Args:
        images: result of `find_images`, with {case} in its pattern if the patterns have one.
        mask_root, mask_files: folder of the masks, and the images in it.
        names: patterns.
        same_root: whether this folder also contains the images.

    Returns:
        images (without files that are masks), masks, and the pattern as text.
    """
    options = []
    for name in names:
        masks = find_images(mask_root, mask_files, name, skip=IMAGE_FOLDERS, drop=MASK_FOLDERS)
        not_images = set(masks.values()) if same_root else set()
        rest = {key: path for key, path in images.items() if path not in not_images}
        for suffix in IMAGE_SUFFIXES:
            named = {(folder, f"{key}{suffix}"): path for (folder, key), path in masks.items()}
            options.append((rest, named, in_words(name, suffix)))
    return max(options, key=lambda option: len(option[0].keys() & option[1].keys()))


def in_words(name, suffix):
    """A mask name pattern as text, with the pattern of the images if these have a suffix."""
    return f"{name} for images {{id}}{suffix}" if suffix else name

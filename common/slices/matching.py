"""Match images and masks by their names, and tell patients from slices in names."""

import itertools
import re
from collections import Counter
from pathlib import Path

from common.errors import InputError
from common.files import real_path
from common.settings import require_folder
from common.slices.finding import find_images

IMAGE_FOLDERS = ("x", "image", "images", "img", "imgs")
MASK_FOLDERS = ("y", "mask", "masks", "label", "labels", "seg", "gt")
MASK_NAMES = ("{id}", "{id}_mask", "{id}-mask", "{id}_seg", "{id}_label", "{id}_gt", "mask_{id}")
IMAGE_SUFFIXES = ("", "_crop")  # of images whose masks do not have it: case1_crop.tif and case1_label.tif
WORDS = re.compile(  # in names, that say what a file is and not whose
    "images?|img|im|x|pictures?|pic|photo|scan|slice|volume|vol|orig|original|raw|ct|mr|mri|"
    "masks?|y|labels?|seg|segm|segmentations?|gt|ground|truth|annotations?|manual|outlines?|contours?|rois?"
)
CHANNEL = re.compile(r"_\d{4}$")  # of an image, as nnU-Net counts them
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


def apart_from(files, root, other):
    """Files that are not in a folder of the other side, such as masks/ within the folder of the images.

    Args:
        files: list of Path from `walk(root)`.
        root: folder.
        other: setting of the other side, a folder or a path with a name pattern.
    """
    folder = itertools.takewhile(lambda part: "{" not in part, Path(other).parts)
    inner, outer = map(real_path, (Path(*folder), root))
    if not str(other) or inner == outer or not inner.is_relative_to(outer):
        return files
    inner = Path(root, inner.relative_to(outer))
    return [path for path in files if not path.is_relative_to(inner)]


def choose_mask_name(images, mask_root, mask_files, names, same_root):
    """Choose the mask name pattern that matches the most images.

    Args:
        images: result of `find_images`, with {case} in its pattern if the patterns have one.
        mask_root, mask_files: folder of the masks, and the images in it.
        names: patterns.
        same_root: whether this folder also contains the images.

    Returns:
        images (without files that are masks), masks, and the pattern as text. If none of several patterns matches, that
        of `common_names`.
    """
    options = []
    for name in names:
        masks = find_images(mask_root, mask_files, name, skip=IMAGE_FOLDERS, drop=MASK_FOLDERS)
        not_images = set(masks.values()) if same_root else set()
        rest = {key: path for key, path in images.items() if path not in not_images}
        for suffix in IMAGE_SUFFIXES:
            named = {(folder, f"{key}{suffix}"): path for (folder, key), path in masks.items()}
            options.append((rest, named, in_words(name, suffix)))
    best = max(options, key=lambda option: len(option[0].keys() & option[1].keys()))
    if same_root or len(names) < 2 or best[0].keys() & best[1].keys():
        return best
    masks = find_images(mask_root, mask_files, "{id}", skip=IMAGE_FOLDERS, drop=MASK_FOLDERS)
    if not (found := common_names(list(images), list(masks))):
        return best
    of_images, of_masks, partners = found
    return images, {key: masks[mask] for key, mask in partners.items()}, f"{of_masks} for images {of_images}"


def by_mask_name(predictions, masks):
    """Name masks by the ids in their names, with the pattern, such as {id}_mask, that fits the most predictions.

    Prints a pattern other than {id}.

    Args:
        predictions, masks: dicts of (case, name) to Path.

    Returns:
        dict of (case, id) to Path; masks that fit no pattern keep their names.
    """
    options = []
    for pattern in MASK_NAMES:
        before, after = pattern.split("{id}")
        named = [(case, name) for case, name in masks if name.startswith(before) and name.endswith(after)]
        for suffix in IMAGE_SUFFIXES:
            ids = [(case, name[len(before) : len(name) - len(after)] + suffix) for case, name in named]
            options.append((dict(zip(ids, map(masks.get, named), strict=True)), in_words(pattern, suffix)))
    found, pattern = max(options, key=lambda option: len(option[0].keys() & predictions.keys()))
    if not found.keys() & predictions.keys() and (shared := common_names(list(predictions), list(masks))):
        of_images, of_masks, partners = shared
        found, pattern = {key: masks[mask] for key, mask in partners.items()}, f"{of_masks} for images {of_images}"
    if pattern == "{id}":
        return found
    print(f"mask name pattern: {pattern}")
    return {key: path for key, path in masks.items() if path not in set(found.values())} | found


def common_names(images, masks):
    """Patterns of the names of images and masks, such as image_{id} and label_{id}, if all names of a side start and
    end alike, and the rest tells which belong together.

    Names that differ in more than WORDS, such as those of two patients, do not belong together.

    Args:
        images, masks: lists of (subfolder, name).

    Returns:
        Name pattern of the images and of the masks, and dict of image to mask; None unless every image, or every mask,
        has one partner, and there are at least two.
    """
    patterns, sides, others = [], [], []
    for names in (images, masks):
        start, end = _shared_ends([name for _, name in names])
        words = re.findall(r"[a-z]+|\d+", f"{start} {CHANNEL.sub('', end)}".lower())
        others.append([word for word in words if not WORDS.fullmatch(word)])
        patterns.append(f"{start}{{id}}{end}")
        sides.append({(folder, name[len(start) : len(name) - len(end)]): (folder, name) for folder, name in names})
    partners = {image: sides[1][key] for key, image in sides[0].items() if key in sides[1]}
    fewer = min(len(images), len(masks))
    return (*patterns, partners) if len(partners) == fewer > 1 and others[0] == others[1] else None


def _shared_ends(names):
    """What all names start and end with, without digits next to what differs."""
    start = re.sub(r"\d+$", "", _shared_start(names))
    end = _shared_start([name[len(start) :][::-1] for name in names])[::-1]
    return start, re.sub(r"^\d+", "", end)


def _shared_start(names):
    first, last = min(names, default=""), max(names, default="")  # in the order of letters
    return "".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))


def in_words(name, suffix):
    """A mask name pattern as text, with the pattern of the images if these have a suffix."""
    return f"{name} for images {{id}}{suffix}" if suffix else name

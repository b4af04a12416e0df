"""How run_pipeline.py reads a user's own masks: other values than 0 and 255, soft edges, colors."""

from pathlib import Path

import numpy as np

from common.files import real_path
from common.parallel import ordered_map
from common.slices.classes import IGNORED
from common.slices.finding import find_images, walk
from common.slices.images import is_color, read_image, to_gray
from common.slices.masks import BLACK, MOST_COLORS, are_soft, colors_of, values_of
from common.slices.matching import IMAGE_FOLDERS, MASK_FOLDERS, MASK_NAMES, apart_from, choose_mask_name

LOOKED_AT = 20  # masks, evenly spaced; all of them if these have other values than 0 and 255, or colors
SOFT = 0.1  # at most this share of a soft mask is between background and foreground
LARGEST_NUMBER = 99  # of a class; a larger value is a gray level


def some(paths):
    """Up to LOOKED_AT paths, evenly spaced."""
    return paths[:: max(1, -(-len(paths) // LOOKED_AT))]


def find_own(images, masks):
    """Image files and mask files as 0_import_images.py matches them.

    Args:
        images: folder of the images.
        masks: folder of the masks, or a path with a name pattern.

    Returns:
        two dicts of (subfolder, name) to Path: images, without files that are masks, and the masks of these images;
        masks are empty if there is a file for each class.
    """
    image_root, mask_root = Path(images), Path(str(masks).partition("{")[0])
    if not mask_root.is_dir():
        mask_root = mask_root.parent  # "masks/case_{id}.png"
    files = apart_from(walk(image_root)[0], image_root, masks)
    same = real_path(mask_root) == real_path(image_root)
    mask_root, mask_files = (
        (image_root, files) if same else (mask_root, apart_from(walk(mask_root)[0], mask_root, images))
    )
    found = find_images(image_root, files, "{id}", MASK_FOLDERS, IMAGE_FOLDERS)
    if "{class}" in str(masks):
        return found, {}
    names = [Path(masks).name] if "{" in str(masks) else MASK_NAMES
    found, of_images, _ = choose_mask_name(found, mask_root, mask_files, names, same)
    return found, {key: mask for key, mask in of_images.items() if key in found}


def choose_reading(masks):
    """Choose the settings of 0_import_images.py that masks need.

    Args:
        masks: list of Path.

    Returns:
        dict of MASK_VALUES, MASK_THRESHOLD or COLORS to (value, reason); {} for 0 and 255, for class numbers, and for
        masks that leave no sensible choice, which the importer reports.
    """
    looked_at = list(_read(some(masks)))
    if any(is_color(mask) for mask in looked_at):
        return _of_colors(masks)
    looked_at = list(map(to_gray, looked_at))
    values = set().union(*map(values_of, looked_at))
    if values <= {0, 255} or (max(values) <= LARGEST_NUMBER and not values <= {0, 1}):
        return {}
    if are_soft(values - {IGNORED}):
        is_soft = all(foreground_of(mask) is not None for mask in looked_at)
        reason = "the masks have soft edges, as JPEG leaves them: half of the largest value is the border"
        return {"MASK_THRESHOLD": (max(values) // 2, reason)} if is_soft else {}
    values = set().union(*(values_of(to_gray(mask)) for mask in _read(masks)))
    if len(values - {0}) != 1 or values <= {0, 255}:
        return {}
    (value,) = values - {0}
    return {"MASK_VALUES": ({value: 255}, f"every mask has only 0 and {value}, which is the foreground")}


def _of_colors(masks):
    """COLORS of masks; {} if there are more colors than anyone would use for classes."""
    colors = set()
    for mask in _read(masks):
        colors.update(colors_of(mask if mask.ndim == 3 else np.repeat(mask[..., None], 3, axis=2)))
        if len(colors) > MOST_COLORS + 1:
            return {}
    colors = sorted(colors - {BLACK})
    reason = "the masks have a color for each class; black is the background"
    return {"COLORS": ({color: number for number, color in enumerate(colors, 1)}, reason)}


def _read(masks):
    """Masks that can be read, one after the other; the importer reports the others."""
    return (mask for mask in ordered_map(read_image, masks, problems=[]) if mask is not None)


def foreground_of(mask):
    """Foreground of a mask, (H, W) float32 of 0 and 1; None if the image is no mask.

    Args:
        mask: (H, W) uint8 or uint16: 0 and one value, class numbers, or soft edges as JPEG leaves them.
    """
    if not are_soft(values_of(mask)):
        return (mask > 0).astype(np.float32)
    share = mask / np.float32(mask.max())
    between = ((share > 0.1) & (share < 0.9)).mean()
    return (share > 0.5).astype(np.float32) if between < SOFT else None

"""Variants of slices for training: filters change an image, shapes deform it and its mask.

A variant of a case is an image folder, x_<filter><shape> such as x_A_RTP, and a mask folder, y_O<shape>. Filters do not
change masks.
"""

import functools
import hashlib
import re
from functools import partial

import cv2
import numpy as np
from pydantic import Field

from common.errors import InputError
from common.manifest import VARIANTS, Manifest
from common.records import read_record
from common.slices.finding import read_regular
from common.slices.images import by_channels, each_channel, images_in, resize

CUBIC = cv2.INTER_CUBIC


class Variants(Manifest):
    """Content of augmented.json: what step 1 made in a case folder, and of which slices (see `digests_of`)."""

    made_of: dict[str, str] = Field({})


def image_folder(letter, shape):
    """Image folder name for a filter and a shape; "" is no deformation."""
    return f"x_{letter}_{shape}" if shape else f"x_{letter}"


def mask_folder(shape):
    """Mask folder name for a shape."""
    return f"y_O_{shape}" if shape else "y_O"


def is_variant_folder(name):
    """Whether a folder name is one that step 1 gives."""
    return bool(re.fullmatch(r"x_[A-Z](_[A-Z]+[0-9]?)?|y_O(_[A-Z]+[0-9]?)?", name))


def digests_of(case):
    """Digests of the slices of a case with their masks: dict of slice name to 16 hexadecimal digits.

    Step 1 records them as `made_of` in augmented.json, so that step 2 notices variants of slices that changed since.

    Args:
        case: Path.
    """
    masks, digests = images_in(case / "y"), {}
    for name, image in images_in(case / "x").items():
        content = read_regular(image) + (read_regular(masks[name]) if name in masks else b"")
        digests[name] = hashlib.sha256(content).hexdigest()[:16]
    return digests


def find_variants(case):
    """Find the variants of a case: list of folder names (images, masks).

    Args:
        case: Path.

    Raises:
        InputError: if an image folder has no mask folder, if the files of either differ from x, or if slices or masks
            changed since their variants were made.
    """
    names = set(images_in(case / "x"))
    variants = []
    for images in sorted(path.name for path in case.glob("x_*") if path.is_dir()):
        masks = mask_folder("_".join(images.split("_")[2:]))
        if not (case / masks).is_dir():
            raise InputError(f"{case / images}: its mask folder {masks} is missing; run 1_augment_cases.py again")
        for folder in (images, masks):
            if set(images_in(case / folder)) != names:
                raise InputError(f"{case / folder}: its slices differ from {case / 'x'}; run 1_augment_cases.py again")
        variants.append((images, masks))
    made_of = read_record(case / VARIANTS, Variants).made_of if variants and (case / VARIANTS).exists() else {}
    changed = [name for name, digest in digests_of(case).items() if made_of.get(name) != digest] if made_of else []
    if changed:
        raise InputError(
            f"{case}: its variants are older than its slices (changed since: {len(changed)}, such as {changed[0]}); "
            "run 1_augment_cases.py again"
        )
    return variants


def list_rows(members, variants):
    """Make the rows of a list: each slice is followed by its variants.

    The undeformed copy x_O replaces x, since both are the same image.

    Args:
        members: slices with the attributes case, x and y (Path) and name.
        variants: dict of case to result of `find_variants`.

    Returns:
        list of (image path, mask path, case name).
    """
    rows = []
    files_in = functools.cache(images_in)
    for s in members:
        folders = variants.get(s.case) or []
        if "x_O" not in [x for x, _ in folders]:
            rows.append((s.x, s.y, s.case.name))
        rows += [(files_in(s.case / x)[s.name], files_in(s.case / y)[s.name], s.case.name) for x, y in folders]
    return rows


# --- filters


def make_filters(strength, sigmas, clip_limit, levels):
    """Make the filters: "O" none, "A" non-local means, "B" bilateral, "C" CLAHE, "D" posterization.

    Args:
        strength: non-local means strength, in 8-bit gray levels.
        sigmas: sigmas of the bilateral filter, in 8-bit gray levels and in pixels.
        clip_limit: CLAHE clip limit.
        levels: number of gray levels of the posterization.

    Returns:
        dict of letter to function; each maps (H, H) or (H, H, C) uint8 or uint16 to the same, channel by channel.
    """
    filters = {
        "O": lambda image: image,
        "A": partial(denoise, strength=strength),
        "B": partial(smooth_three_times, sigmas=sigmas),
        "C": partial(equalize, clip_limit=clip_limit),
        "D": partial(posterize, levels=levels),
    }
    return {letter: partial(each_channel, function) for letter, function in filters.items()}


def denoise(image, strength):
    """Non-local means (Buades et al., doi 10.5201/ipol.2011.bcm_nlm), template window 7, search window 21."""
    if image.dtype == np.uint8:
        return cv2.fastNlMeansDenoising(image, None, strength, 7, 21)
    return cv2.fastNlMeansDenoising(image, [strength * 257], None, 7, 21, cv2.NORM_L1)


def smooth_three_times(image, sigmas):
    """Three rounds of a bilateral filter (Tomasi and Manduchi, doi 10.1109/ICCV.1998.710815)."""
    for _ in range(3):
        image = bilateral(image, -1, *sigmas)
    return image


def equalize(image, clip_limit):
    """Contrast-limited adaptive histogram equalization (Pizer et al., doi 10.1016/S0734-189X(87)80186-X), 4x4 tiles.

    16-bit images get the change of their upper 8 bits: with 65,536 bins, more than pixels in a tile, no limit works.
    """
    clahe = cv2.createCLAHE(clip_limit, (4, 4))
    if image.dtype == np.uint8:
        return clahe.apply(image)
    upper = (image >> 8).astype(np.uint8)
    change = clahe.apply(upper).astype(np.int32) - upper
    return (image + 257 * change).clip(0, 65535).astype(np.uint16)


def posterize(image, levels):
    """Smooth, then round down to evenly spaced gray levels over the full range."""
    top = np.iinfo(image.dtype).max
    level = bilateral(image, 10, 10, 10).astype(np.uint32) * levels // (top + 1)
    return (level * top // (levels - 1)).astype(image.dtype)


def bilateral(image, diameter, sigma_gray, sigma_space):
    """Bilateral filter; `sigma_gray` is in 8-bit gray levels, also for 16-bit images."""
    if image.dtype == np.uint8:
        return cv2.bilateralFilter(image, diameter, sigma_gray, sigma_space)
    smoothed = cv2.bilateralFilter(image.astype(np.float32), diameter, sigma_gray * 257, sigma_space)
    return np.rint(smoothed).clip(0, 65535).astype(np.uint16)


def trim(image, margin):
    """Black out a margin in pixels: top and bottom or, if negative, left and right; 0: none."""
    if not margin:
        return image
    image = image.copy()
    lines = image if margin > 0 else image.swapaxes(0, 1)
    lines[: abs(margin)] = 0
    lines[-abs(margin) :] = 0
    return image


# --- shapes


def make_shapes(stretch, trapezoid, shear, rotation, margin):
    """Make the deformations: "" none, HT and WD stretch, DKP and DKM trapezoid, HSR and HSL parallelogram, RTP and RTM
    rotation, CP0 to CP4 keep a square.

    Args:
        stretch: HT and WD stretch each end by this share of the size.
        trapezoid: DKP and DKM widen an edge on each side by this share of the size.
        shear: HSR and HSL move two corners by this share of the size.
        rotation: degrees; RTP is counterclockwise.
        margin: pixels between the edges and the squares CP1 to CP4.

    Returns:
        dict of name to function; each maps ((H, H) or (H, H, C) uint8 or uint16, smooth) to the same, black outside.
        smooth=False uses nearest neighbors.
    """
    shapes = {
        "": lambda image, smooth: image,
        "HT": partial(stretch_height, share=stretch),
        "WD": partial(stretch_width, share=stretch),
        "DKP": partial(warp, left_bottom=-trapezoid, right_bottom=trapezoid),
        "DKM": partial(warp, left_top=-trapezoid, right_top=trapezoid),
        "HSR": partial(warp, left_bottom=-shear, right_top=shear),
        "HSL": partial(warp, left_top=-shear, right_bottom=shear),
        "RTP": partial(rotate, degrees=rotation),
        "RTM": partial(rotate, degrees=-rotation),
    }
    return shapes | {f"CP{i}": partial(keep_square, index=i, margin=margin) for i in range(5)}


def stretch_height(image, smooth, share):
    """Stretch up and down by a share of the size, and cut off the ends."""
    size = len(image)
    ends = int(size * share)
    return resize(image, (size + 2 * ends, size), CUBIC if smooth else cv2.INTER_NEAREST)[ends : ends + size]


def stretch_width(image, smooth, share):
    """Like `stretch_height`, to the left and right."""
    size = len(image)
    ends = int(size * share)
    return resize(image, (size, size + 2 * ends), CUBIC if smooth else cv2.INTER_NEAREST)[:, ends : ends + size]


def warp(image, smooth, left_top=0, right_top=0, left_bottom=0, right_bottom=0):
    """Move corners sideways by shares of the size, rounded down to pixels (perspective warp)."""
    size = len(image)
    corners = np.float32([[0, 0], [size, 0], [0, size], [size, size]])
    moved = corners.copy()
    moved[:, 0] += [int(size * share) for share in (left_top, right_top, left_bottom, right_bottom)]
    matrix = cv2.getPerspectiveTransform(corners, moved)
    flags = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
    return by_channels(lambda channels: cv2.warpPerspective(channels, matrix, (size, size), flags=flags), image)


def rotate(image, smooth, degrees):
    """Rotate counterclockwise around the center."""
    size = len(image)
    matrix = cv2.getRotationMatrix2D((size / 2, size / 2), degrees, 1)
    flags = CUBIC if smooth else cv2.INTER_NEAREST
    return by_channels(lambda channels: cv2.warpAffine(channels, matrix, (size, size), flags=flags), image)


def keep_square(image, smooth, index, margin):
    """Black out all but a square of half the size: 0 center, 1 top left, 2 top right, 3 bottom left, 4 bottom right."""
    size = len(image)
    side, near, far = size // 2, margin, size - margin - size // 2
    top, left = [(size // 4, size // 4), (near, near), (near, far), (far, near), (far, far)][index]
    kept = np.zeros_like(image)
    kept[top : top + side, left : left + side] = image[top : top + side, left : left + side]
    return kept

"""Slices or volumes to check an exported model on."""

from pathlib import Path

import cv2
import numpy as np

from common.errors import InputError
from common.slices.cases import find_slices
from common.slices.channels import read_with_channels
from common.slices.classes import are_sets, classes_in, is_target
from common.slices.images import images_in, read_image, read_mask, resize, to_unit, with_channels
from common.slices.masks import class_count, to_classes, values_of
from common.training.sets import open_set
from common.words import number_of

DRAWN_VOLUME = (32, 32, 32)  # voxels
TRIES_PER_SLICE = 50  # slices to open per slice wanted, in search of some with a mask


def gather_or_draw(source, validation, count, shape, channels, overlapping=False):
    """Gather slices from a source or from the run's validation set; if both are missing, draw some.

    Args:
        source: as for `gather_slices`, or "".
        validation: path of the run's validation set, or None without a run.
        count, shape, channels, overlapping: as for `gather_slices`.

    Returns:
        what `gather_slices` returns, and a text that describes the slices.
    """
    if len(shape) == 4:
        images, truths, description = gather_or_draw_volumes(source, validation, count, shape[-1], shape[:3])
        return [_padded(image, shape) for image in images], truths, description
    if source or (validation and Path(validation).is_file()):
        images, truths = gather_slices(source or validation, count, shape, channels, overlapping)
        return images, truths, f"{source or validation} (slices: {len(images)})"
    reason = f"the run's validation set {validation} is missing" if validation else "there is no run"
    return *draw_slices(count, shape), f"drawn slices ({count}), because {reason}; use your own with --slices"


def gather_or_draw_volumes(source, validation, count, channels, crop):
    """Gather packed volumes from a source or from the run's validation set; if both are missing, draw some.

    Args:
        source: packed volumes, or "".
        validation: path of the run's validation set, or None without a run.
        count: number of volumes; fewer if the set is smaller.
        channels: channels of the network's input.
        crop: size of the part in the center that is used, (up, back, left); None: whole volumes.

    Returns:
        as `gather_or_draw`; the images are (S, H, W, C) float32, standardized, and all masks None.

    Raises:
        InputError: if the set is missing or does not fit the network.
    """
    if not (source or (validation and Path(validation).is_file())):
        return *draw_slices(count, (*DRAWN_VOLUME, channels)), f"{number_of(count, 'drawn volume')}; use --slices"
    volumes = open_set(source or validation, memory_gb=0)
    if len(volumes.shape) != 4 or volumes.shape[-1] != channels:
        raise InputError(
            f"SLICES: {source or validation} does not fit the network (found shape {volumes.shape}, expected volumes "
            f"with {number_of(channels, 'channel')}); use packed volumes as in training"
        )
    images = [_center(volumes.shown_volume(i)[0], crop) for i in range(min(count, len(volumes)))]
    return images, [None] * len(images), f"{source or validation} ({number_of(len(images), 'volume')})"


def _padded(volume, shape):
    """The center of a volume at a shape, with zeros around it if it is smaller."""
    volume = _center(volume, [min(pair) for pair in zip(volume.shape[:3], shape[:3], strict=True)])
    missing = [want - have for have, want in zip(volume.shape, shape, strict=True)]
    return np.pad(volume, [(n // 2, n - n // 2) for n in missing])


def _center(volume, size):
    """Center of a volume (S, H, W, C), at most of a size (up, back, left); None: the whole volume."""
    starts = [max(0, (have - want) // 2) for have, want in zip(volume.shape[:3], size or volume.shape[:3], strict=True)]
    return volume[*(slice(start, start + want) for start, want in zip(starts, size or volume.shape[:3], strict=True))]


def gather_slices(source, count, shape, channels, overlapping=False):
    """Choose slices at random from a set, preferably with a mask.

    Args:
        source: packed set, list, folder of images or of cases; images of another size are resized.
        count: number of slices; fewer if the set is smaller.
        shape: (H, W, C) of the network's input.
        channels: channels of the network's output.
        overlapping: whether its classes overlap.

    Returns:
        list of images (H, W, C) float32 in 0..1, and list of masks (H, W) or None.

    Raises:
        InputError: if the set is missing or does not fit the network.
    """
    source, classes = Path(source), channels if overlapping else max(channels - 1, 1)
    if not source.exists():
        raise InputError(f"SLICES: {source} does not exist; use a packed set, a list or a folder")
    if source.is_dir():
        images, truths = _gather_from_folder(source, count, shape, classes, overlapping)
    else:
        images, truths = _gather_from_set(source, count, classes, overlapping)
    if images[0].shape != tuple(shape):
        raise InputError(
            f"SLICES: {source} does not fit the network (found slices of {images[0].shape}, expected {tuple(shape)}); "
            "use slices of that shape"
        )
    return images, truths


def _gather_from_folder(folder, count, shape, classes, overlapping):
    paths = [s.path for s in find_slices(str(folder), "x", "SLICES")]
    folders = {path.parent for path in paths if path.parent.name == "x"}
    mask_paths = {folder: images_in(folder.with_name("y")) for folder in folders if folder.with_name("y").is_dir()}

    def mask_of(path):
        mask_path = mask_paths.get(path.parent, {}).get(path.stem)
        return None if mask_path is None else read_mask(mask_path, np.uint16 if overlapping else np.uint8)

    def has_mask(i):
        mask = mask_of(paths[i])
        return mask is not None and is_target(mask).any()

    def read(path):
        kind = {1: "gray", 3: "rgb"}.get(shape[2])
        return read_with_channels([path], kind)[0] if kind else read_image(path)

    images, truths = [], []
    for i in _choose_slices(len(paths), count, has_mask):
        mask = mask_of(paths[i])
        images.append(to_unit(with_channels(resize(read(paths[i]), shape[:2]))))
        truths.append(None if mask is None else _to_network_mask(mask, paths[i], shape, classes))
    return images, truths


def _to_network_mask(mask, path, shape, classes):
    found = class_count(values_of(mask), path) if classes == 1 else max(classes_in(mask), default=0)
    if found > classes:
        raise InputError(
            f"SLICES: the mask of {path} does not fit the network (found class {found}, expected up to {classes}); "
            "use masks with the same classes"
        )
    return resize(to_classes(mask, classes, are_sets(mask)), shape[:2], cv2.INTER_NEAREST)


def _gather_from_set(path, count, classes, overlapping):
    slices = open_set(path, memory_gb=0, classes=classes)
    found, expected = (
        f"{number} overlapping" if kind else str(number)
        for number, kind in ((slices.classes, slices.overlapping), (classes, overlapping))
    )
    if found != expected:
        raise InputError(
            f"SLICES: {path} does not fit the network (found classes: {found}, expected {expected}); "
            "use masks with the same classes"
        )
    pairs = [slices.batch([i]) for i in _choose_slices(len(slices), count, lambda i: is_target(slices.y[i]).any())]
    return [x[0] for x, _ in pairs], [y[0, ..., 0] for _, y in pairs]


def _choose_slices(total, count, has_mask):
    """Sorted indices of `count` of `total` slices, preferably with a mask; opens up to TRIES_PER_SLICE for each."""
    with_mask, without_mask = [], []
    for i in np.random.default_rng(0).permutation(total)[: TRIES_PER_SLICE * count].tolist():
        (with_mask if has_mask(i) else without_mask).append(i)
        if len(with_mask) == count:
            break
    return sorted((with_mask + without_mask)[:count])


def draw_slices(count, shape):
    """Draw soft clouds with noise, for a network without slices or volumes to check on.

    Args:
        count: number of images.
        shape: (H, W, C) or (S, H, W, C).

    Returns:
        list of images (H, W, C) float32 in 0..1, and list of None.
    """
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        clouds = resize(rng.random((8, 8), np.float32), shape[-3:-1], cv2.INTER_LINEAR)
        noise = rng.normal(0, 0.05, shape).astype(np.float32)
        images.append(np.clip(clouds[..., None] + noise, 0, 1).astype(np.float32))
    return images, [None] * count

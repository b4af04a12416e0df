"""Slices to check an exported model on."""

from pathlib import Path

import cv2
import numpy as np

from common.errors import InputError
from common.slices.cases import find_slices
from common.slices.images import pictures_in, read_mask, read_picture, resize, to_gray, to_unit
from common.slices.masks import class_count, to_classes, values_of
from common.training.sets import open_set

TRIED = 50  # slices looked at for each one that is wanted, to find some with a mask


def gather_or_draw(source, own, count, shape, planes):
    """Slices of `source`; where none is given, those of `own`, the validation set of the run, or else drawn ones.

    Returns:
        as `gather`, and what they are, as text.
    """
    if source or (own and Path(own).is_file()):
        images, truths = gather(source or own, count, shape, planes)
        return images, truths, f"{len(images)} slices of {source or own}"
    why = f"the validation set of the run, {own}, is not here" if own else "there is no run"
    return *draw(count, shape), f"{count} drawn pictures, since {why}; give --slices your own"


def gather(source, count, shape, planes):
    """Slices spread evenly over a set, those with a mask first.

    Args:
        source: packed set, list, folder of pictures or of cases; pictures of another size are resized.
        count: how many, or all that there are.
        shape: (H, W, C) that the network takes.
        planes: channels that it gives.

    Returns:
        list of (H, W, C) float32 in 0..1, and list of class numbers (H, W) or None.

    Raises:
        InputError: if there is no such set, or it does not fit the network.
    """
    source, classes = Path(source), max(planes - 1, 1)
    if not source.exists():
        raise InputError(f"SLICES: {source} does not exist; give --slices a packed set, a list or a folder")
    images, truths = _of_folder(source, count, shape, classes) if source.is_dir() else _of_set(source, count, classes)
    if images[0].shape != tuple(shape):
        raise InputError(f"SLICES: {source} has slices of {images[0].shape}; the network takes {tuple(shape)}")
    return images, truths


def _of_set(path, count, classes):
    slices = open_set(path, memory_gb=0, classes=classes)
    if slices.classes != classes:
        has = "one class" if slices.classes == 1 else f"{slices.classes} classes"
        raise InputError(f"SLICES: {path} has {has}; the network has {classes}")
    chosen = _with_mask_first(len(slices), count, lambda i: slices.y[i].any())
    pairs = [slices.batch([i]) for i in chosen]
    return [x[0] for x, _ in pairs], [y[0, ..., 0] for _, y in pairs]


def _of_folder(folder, count, shape, classes):
    pictures = [s.path for s in find_slices(str(folder), "x", "SLICES")]
    folders = {path.parent for path in pictures if path.parent.name == "x"}
    masks = {folder: pictures_in(folder.with_name("y")) for folder in folders if folder.with_name("y").is_dir()}

    def mask_of(path):
        mask = masks.get(path.parent, {}).get(path.stem)
        return None if mask is None else read_mask(mask)

    def has_mask(i):
        mask = mask_of(pictures[i])
        return mask is not None and mask.any()

    images, truths = [], []
    for i in _with_mask_first(len(pictures), count, has_mask):
        path, mask = pictures[i], mask_of(pictures[i])
        images.append(to_unit(resize(to_gray(read_picture(path)), shape[:2]))[..., None])
        if mask is not None:
            values = values_of(mask)
            found = class_count(values, path) if classes == 1 else max(values)
            if found > classes:
                raise InputError(f"SLICES: the mask of {path} has a class {found}; the network has {classes}")
            mask = resize(to_classes(mask, classes), shape[:2], cv2.INTER_NEAREST)
        truths.append(mask)
    return images, truths


def _with_mask_first(total, count, has_mask):
    """Numbers of `count` slices out of `total`, in order; looks at no more than TRIED for each."""
    spread = np.random.default_rng(0).permutation(total)[: TRIED * count]
    full, empty = [], []
    for i in spread.tolist():
        (full if has_mask(i) else empty).append(i)
        if len(full) == count:
            break
    return sorted((full + empty)[:count])


def draw(count, shape):
    """Pictures for a network whose own slices are not at hand: soft clouds under noise, (H, W, C) in 0..1.

    Returns:
        list of arrays, and list of None.
    """
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(count):
        clouds = resize(rng.random((8, 8), np.float32), shape[:2], cv2.INTER_LINEAR)
        noise = rng.normal(0, 0.05, shape).astype(np.float32)
        pictures.append(np.clip(clouds[..., None] + noise, 0, 1).astype(np.float32))
    return pictures, [None] * count

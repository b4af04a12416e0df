"""Read an image with its mask and cut both to size: the work of 0_import_images.py, in this process or in a worker."""

from pathlib import Path
from typing import NamedTuple

import cv2

from common.errors import InputError
from common.slices.cases import Imported
from common.slices.channels import read_with_channels
from common.slices.classes import is_target
from common.slices.images import cut, encode_png, encode_slice, fit_boxes, refuse_tiny, stretch
from common.slices.import_notes import ImageNotes
from common.slices.masks import values_of


class Source(NamedTuple):
    """An image to import.

    Attributes:
        image: Path.
        files: Paths of the image, or of each of its channels.
        mask: Path; None: a black mask.
        of_class: dict of class number to Path, if each class has a file.
        image_name, mask_name: paths relative to IMAGES and MASKS; `mask_name` may be None.
    """

    image: Path
    files: list
    mask: Path | None
    of_class: dict
    image_name: str
    mask_name: str | None


class Fitting(NamedTuple):
    """Settings of importers of images that decide how an image becomes slices, as there."""

    channels: str | list
    stretch: bool
    size: int
    fit: str
    tile_overlap: int


def import_image(source, masks, how):
    """Read an image with its mask and cut both to size.

    Args:
        source: Source.
        masks: `common.slices.class_masks.MaskReading`.
        how: Fitting.

    Returns:
        Imported; its notes are ImageNotes.

    Raises:
        InputError: if a file is unreadable, or the sizes differ.
    """
    image, lost_colors = read_with_channels(source.files, how.channels)
    refuse_tiny(image, source.image)
    shape = image.shape[:2]
    try:
        mask = masks.read(source.mask, source.of_class, shape)
    except InputError:
        if source.mask and image.ndim == 2 and values_of(image) <= {0, 255}:
            raise InputError(f"{source.image}: has only 0 and 255, as masks have; swap IMAGES and MASKS") from None
        raise
    if mask.shape != shape:
        sizes = "{1}x{0} and {3}x{2}".format(*shape, *mask.shape)
        raise InputError(f"{source.image}: size differs from its mask {source.mask} (found {sizes}); replace one")
    slices, image = fit(image, mask, {"image": source.image_name, "mask": source.mask_name}, how)
    found, of_mask = values_of(mask), {}
    if source.mask:
        of_mask = {"mask": source.mask, "values": found, "share": float(is_target(mask).mean())}
    return Imported(slices, values=found, notes=ImageNotes.of(image, lost_colors, **of_mask))


def fit(image, mask, names, how):
    """Stretch an image and cut it to size with its mask.

    Args:
        image: (H, W) or (H, W, C) uint8 or uint16.
        mask: (H, W).
        names: dict of "image" and "mask" to their names in case.json.
        how: Fitting.

    Returns:
        slices of Imported, a list; and the image, stretched if `how` says so.
    """
    if how.stretch:
        image = stretch(image)
    slices = []
    for box in fit_boxes(mask.shape, how.size, how.fit, how.tile_overlap):
        image_cut, mask_cut = cut(image, box, how.size), cut(mask, box, how.size, cv2.INTER_NEAREST)
        entry = {**names, "image_size": list(mask.shape), "box": box}
        slices.append((encode_slice(image_cut), encode_png(mask_cut), entry))
    return slices, image

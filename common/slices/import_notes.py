"""Facts about imported images and masks that look like a mistake."""

from collections.abc import Set
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError
from common.slices.classes import IGNORED, IGNORED_SET
from common.slices.masks import class_count_of_files
from common.words import number_of

OBLONG = 1.1  # long side over short side from which squeezing to a square changes shapes
DARK = 2**14  # brightest value of 16-bit images that nobody can see


class ImageNotes(NamedTuple):
    """Facts about an imported image, or a series of slices.

    Attributes:
        ratio: long side over short side.
        brightest: maximum of a 16-bit image; None for others.
        lost_colors: whether it lost its colors.
        mask: Path of its mask; None without a file.
        values: set of the values in that mask.
        share: share of foreground in that mask; None without a file.
        several: number of pixels that shapes of several classes cover.
        plain: whether all its pixels are equal.
    """

    ratio: float
    brightest: int | None = None
    lost_colors: bool = False
    mask: Path | None = None
    values: Set = frozenset()
    share: float | None = None
    several: int = 0
    plain: bool = False

    @classmethod
    def of(cls, image, lost_colors, **of_mask):
        """Notes about an image, (H, W) or (H, W, C) uint8 or uint16; `of_mask` are the attributes about its mask."""
        height, width = image.shape[:2]
        brightest = int(image.max()) if image.dtype == np.uint16 else None
        plain = bool((image == image[0, 0]).all())
        return cls(max(height, width) / min(height, width), brightest, lost_colors, plain=plain, **of_mask)


class Seen:
    """What the notes of all images of an import say together.

    Args:
        notes: list of ImageNotes.
    """

    def __init__(self, notes):
        self.values = {one.mask: one.values for one in notes if one.mask}
        self.brightest = [one.brightest for one in notes if one.brightest is not None]
        self.ratios = [one.ratio for one in notes]
        self.shares = [one.share for one in notes if one.share is not None]
        self.colored = [one.lost_colors for one in notes]
        self.plain = [one.plain for one in notes]

    def check(self, images, where, overlap=""):
        """Raise InputError for images that show nothing, and for masks that do not fit each other or are all empty.

        Args:
            images, where: folders of the images and of the masks, for messages.
            overlap: how classes share pixels; see `common.slices.classes`.
        """
        if len(self.plain) > 1 and all(self.plain):
            raise InputError(f"IMAGES: each image in {images} has one value only; check how they were exported")
        if not overlap:
            class_count_of_files(self.values, where)
        empty = {0, IGNORED_SET if overlap else IGNORED}
        if len(self.values) > 1 and not any(found - empty for found in self.values.values()):
            raise InputError(
                f"MASKS: every mask in {where} is empty (found {number_of(len(self.values), 'mask')} without a pixel "
                "above 0); pass the folder of the masks, or a pattern of their names"
            )

    def print_notes(self, fit):
        """Print what may be meant, or not.

        Args:
            fit: how images are fitted to the size.
        """
        if self.brightest and max(self.brightest) < DARK:
            print(
                f"note: the 16-bit images are dark (brightest value {max(self.brightest)} of 65535); consider --stretch"
            )
        if any(self.plain):
            print(
                f"note: {sum(self.plain)} of {number_of(len(self.plain), 'image')} with one value only, such as black"
            )
        if any(self.colored):
            count = f"{sum(self.colored)} of {number_of(len(self.colored), 'image')}"
            print(f"note: {count} lost their colors; to train on colors, use --channels rgb")
        oblong = sum(ratio > OBLONG for ratio in self.ratios)
        if oblong and fit == "resize":
            print(
                f"note: {oblong} of {number_of(len(self.ratios), 'image')} squeezed to a square (sides differ by up to "
                f"a factor of {max(self.ratios):.2g}); --fit pad keeps their shape"
            )
        inverted = sum(share > 0.5 for share in self.shares)
        if inverted > len(self.shares) / 2:
            print(
                f"note: foreground covers more than half of {inverted} of {number_of(len(self.shares), 'mask')}; "
                'if they are inverted, use --mask-values "{0: 255, 255: 0}"'
            )

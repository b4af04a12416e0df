"""Images and series to import with their annotations."""

from typing import NamedTuple

import numpy as np

from common.annotations.report import print_without
from common.errors import InputError, summarize
from common.words import number_of


class Source(NamedTuple):
    """What an import reads at once.

    Attributes:
        image: Path of an image, or `common.annotations.dicom_slices.Series`.
        annotations: list of Annotation, or for a series, dict of slice index to such a list.
        image_name: path of an image relative to IMAGES; None for a series, whose names may identify a patient.
    """

    image: object
    annotations: object
    image_name: str | None = None

    @property
    def without(self):
        """Number of slices without annotations."""
        return int(not self.annotations) if self.image_name else self.image.count - len(self.annotations)


class Classes(NamedTuple):
    """Class numbers, and what drawing finds.

    Attributes:
        numbers: dict of name to class number.
        one: whether there is one class, which is 255 in masks.
        overlaps: list of the number of pixels of several classes, for each image that has some.
    """

    numbers: dict
    one: bool
    overlaps: list

    def in_files(self, mask):
        """Class numbers as the values of mask files."""
        return np.where(mask > 0, np.uint8(255), np.uint8(0)) if self.one else mask


def choose(sources, unmatched, annotations):
    """Sources to import.

    Args:
        sources: list of (Path of the case folder, Source).
        unmatched: setting UNMATCHED: "stop" if there are slices without annotations, "skip" them, or "empty".
        annotations: setting ANNOTATIONS, for messages.

    Returns:
        list of (Path of the case folder, Source).

    Raises:
        InputError: by "stop"; or if nothing is left.
    """
    without = sum(source.without for _, source in sources)
    if without and unmatched == "stop":
        problems = [
            f"{source.image}: no annotation in {annotations}"
            if source.image_name
            else f"{source.image.where}: {number_of(source.without, 'slice')} without annotations"
            for _, source in sources
            if source.without
        ]
        raise InputError(summarize(problems, "images have no annotation; see --unmatched"))
    total = sum(1 if source.image_name else source.image.count for _, source in sources)
    noun = "image" if sources[0][1].image_name else "slice"
    skip = unmatched == "skip"
    print_without(without, total, noun, skip)
    return [(case, source) for case, source in sources if source.annotations or not skip]

"""Images and series to import with their annotations."""

from typing import NamedTuple

import numpy as np

from common.annotations.report import print_without
from common.annotations.shapes import draw
from common.errors import InputError, SettingError, summarize
from common.slices.classes import MOST_OVERLAPPING, OVERLAPPING, type_of_masks
from common.slices.preparation import classes_in_words
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
    """Class numbers, and how classes share pixels.

    Attributes:
        numbers: dict of name to class number.
        one: whether there is one class, which is 255 in masks.
        rule: setting OVERLAP; see `common.annotations.shapes.draw`.
        names: names of the classes.
    """

    numbers: dict
    one: bool
    rule: str
    names: list

    @classmethod
    def of(cls, numbers, names, rule):
        """Classes before drawing; raises SettingError if too many overlap."""
        one, most = set(numbers.values()) == {1}, max(numbers.values())
        if rule == "keep" and most > MOST_OVERLAPPING:
            raise SettingError(f'OVERLAP: "keep" is for up to {MOST_OVERLAPPING} classes (found {most}); choose some')
        return cls(numbers, one, "largest" if one and rule == "keep" else rule, names)

    @property
    def overlap(self):
        """How classes share pixels; see `common.slices.classes`."""
        return OVERLAPPING if self.rule == "keep" else ""

    @property
    def type(self):
        """Number type of masks."""
        return type_of_masks(self.overlap)

    def draw(self, shapes, shape):
        """Mask of shapes in an image of (height, width), and the number of pixels of several classes."""
        return draw(shapes, self.numbers, shape, self.rule)

    def in_files(self, mask):
        """A drawn mask with the values of mask files."""
        return np.where(mask > 0, np.uint8(255), np.uint8(0)) if self.one else mask

    def in_words(self, values, where):
        """Number and kind of the classes of masks with a set of values as text; `where` is for messages."""
        return classes_in_words(values, where, self.overlap, self.names)

    def check(self, values, where):
        """Raise InputError if masks with a set of values show that shapes are not where they should be."""
        if values == {0}:
            raise InputError(
                f"ANNOTATIONS: every mask is empty, so all shapes are outside of their images (in {where}); "
                "choose the images that were annotated"
            )
        if values == {0, 1} and not self.overlap:
            raise InputError(
                f"CLASSES: only class 1 has pixels (of {number_of(len(self.names), 'class', 'classes')}); other shapes "
                f'are outside of their images or covered; for one class, pass --classes "{{{self.names[0]!r}: 1}}"'
            )
        self.in_words(values, where)  # raises it for other values


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

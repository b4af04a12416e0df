"""Named segments of label files: which class each one is, and painting them into one array of class numbers."""

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from common.errors import InputError, SettingError
from common.slices.classes import MOST_OVERLAPPING, OVERLAPPING, are_sets, type_of_masks

MAX_CLASSES = 99  # class numbers of label volumes


class Segment(NamedTuple):
    """A segment, or ROI, of a label file.

    Attributes:
        key: what identifies it in its file.
        number: its number in the file: segment number, ROI number or label value.
        name: text without line breaks.
    """

    key: object
    number: int
    name: str


def plain_text(text):
    """A name in a header as printable text without outer spaces."""
    return "".join(c if c.isprintable() else " " for c in str(text)).strip()


def as_key(name):
    """A name without the differences in case and spaces that do not count."""
    return " ".join(name.split()).casefold()


@dataclass(frozen=True)
class Numbering:
    """Class numbers of the segments of a set of label files.

    Attributes:
        names: dict of class number to name, from 1; of LABEL_VALUES, to all names that it became.
        label_values: setting LABEL_VALUES, applied to the numbers in the files instead of names; or None.
        overlapping: whether segments that overlap stay; otherwise the later class wins.
    """

    names: dict
    label_values: dict | None = None
    overlapping: bool = False

    @property
    def overlap(self):
        """How classes share voxels; see `common.slices.classes`."""
        return OVERLAPPING if self.overlapping and self.largest > 1 else ""

    def of(self, segment):
        """Class number of a Segment; 0: it is left out."""
        if self.label_values is not None:
            return self.label_values.get(segment.number, 0)
        return next((number for number, name in self.names.items() if as_key(name) == as_key(segment.name)), 0)

    @property
    def largest(self):
        """Largest class number, 0 without segments."""
        return max(self.names, default=0)


def number_segments(files, wanted=None, label_values=None, partial=False, overlapping=False):
    """Number the segments of all label files as classes, by their names.

    Args:
        files: dict of Path to list of Segment.
        wanted: setting CLASSES, names in class order; None: all, in the order in which they are found.
        label_values: as for Numbering.
        partial: whether some files could not be read, so that names may be missing.
        overlapping: as for Numbering.

    Returns:
        Numbering.

    Raises:
        InputError: if there are too many names.
        SettingError: if a wanted name is in no file.
    """
    found = {}
    for segment in (segment for segments in files.values() for segment in segments):
        found.setdefault(as_key(segment.name), segment.name)
    if wanted and len(wanted) > MAX_CLASSES:
        raise SettingError(f"CLASSES: too many names (found {len(wanted)}); use at most {MAX_CLASSES}")
    if label_values is not None:
        classes = {}
        for segment in (segment for segments in files.values() for segment in segments):
            if number := label_values.get(segment.number, 0):
                classes.setdefault(number, {})[as_key(segment.name)] = segment.name
        names = {number: ", ".join(classes[number].values()) for number in sorted(classes)}
        return _checked(Numbering(names, label_values, overlapping))
    if wanted is None and len(found) > MAX_CLASSES:
        raise InputError(
            f"LABELS: {len(found)} different segment names (at most {MAX_CLASSES}); choose some with --classes"
        )
    if not partial:
        require_names(wanted or [], found)
    return _checked(Numbering(dict(enumerate(wanted or found.values(), 1)), None, overlapping))


def require_names(wanted, found):
    """Raise SettingError if a name in CLASSES is not among those found, a dict of comparable name to name."""
    if missing := [name for name in wanted if as_key(name) not in found]:
        listed = ", ".join(list(found.values())[:20]) or "no names"
        raise SettingError(f"CLASSES: no segment {missing[0]!r} in the label files (found {listed}); use their names")


def _checked(numbering):
    if numbering.overlap and numbering.largest > MOST_OVERLAPPING:
        found = f"up to {MOST_OVERLAPPING} classes (found {numbering.largest})"
        raise SettingError(f'OVERLAP: "keep" is for {found}; choose some with CLASSES')
    return numbering


def describe(files, numbering):
    """What became of the segments, as text: "classes 1 liver (in 12 files), 2 tumor (in 9 files)"."""
    counts = Counter()
    for segments in files.values():
        counts.update({numbering.of(segment) for segment in segments})
    texts = [f"{number} {name} (in {counts[number]} of {len(files)})" for number, name in numbering.names.items()]
    others = {as_key(s.name): s.name for segments in files.values() for s in segments if not numbering.of(s)}
    left = f"; left out: {', '.join(others.values())}" if others else ""
    return f"classes: {', '.join(texts) or 'none'}{left}"


class Canvas:
    """Array of classes that segments are painted into, one class after the other.

    Args:
        shape: (k, j, i).
        numbering: Numbering.

    Attributes:
        array: (k, j, i) uint8 class numbers, or uint16 sets of overlapping classes.
        overlap: number of voxels that were painted in two classes; of class numbers the later one counts.
    """

    def __init__(self, shape, numbering):
        self.array, self.overlap = np.zeros(shape, type_of_masks(numbering.overlap)), 0

    def paint(self, mask, number, index=...):
        """Paint a class where a mask is true.

        Args:
            mask: bool array, of the shape of the array or of `index` in it.
            number: class number.
            index: part of the array.
        """
        part, sets = self.array[index], are_sets(self.array)
        before, value = part[mask], 1 << (number - 1) if sets else number
        self.overlap += int(np.count_nonzero((before > 0) & (before != value)))
        part[mask] = before | value if sets else number

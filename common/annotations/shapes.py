"""Shapes of annotations and how they become masks.

Coordinates are in pixels, x to the right and y down; (0, 0) is the top left corner of the top left pixel, whose center
is (0.5, 0.5). LabelMe, COCO, CVAT, ImageJ and OsiriX all count like this.
"""

import math
from collections import Counter
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Ge, Le
from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import InputError
from common.records import first_problem
from common.slices.case_files import Side
from common.slices.outlines import fill_outlines
from common.streams import one_line

FARTHEST = 2**20  # pixels
ADVICE = "export the annotations again"
MOST_CROSSINGS = 2**22  # of rows by outlines, at the same time
CHORD = 0.02  # pixels that an ellipse may differ from the polygon that replaces it

Coordinate = Annotated[float, Ge(-FARTHEST), Le(FARTHEST)]
Height, Width = Side, Side


class Shape(NamedTuple):
    """A region with the name of its class.

    Attributes:
        name: class name.
        rings: list of (N, 2) arrays x, y: closed outlines; a ring within a ring is a hole (even-odd rule).
        mask: (H, W) bool, or None.
        corner: (left, top) pixel of the mask in the image.
    """

    name: str
    rings: tuple = ()
    mask: np.ndarray | None = None
    corner: tuple = (0, 0)


class Annotation(NamedTuple):
    """What an annotation file says of one image.

    Attributes:
        file: Path of the annotation file.
        image: file name of the image as the file has it, with "/" between folders; None: found by the name of `file`.
        size: (height, width) of the image as the file has it, or None.
        shapes: list of Shape.
        ignored: Counter of kinds of shapes without an area, such as "line".
        uid: SOP instance UID of the DICOM slice, or None.
        index: slice index in the series or stack, from 0, or None.
        middle: (x, y, z) in mm, LPS, and (x, y) in pixels of the middle of its points, as one tuple, or None.
    """

    file: Path
    image: str | None
    size: tuple | None
    shapes: list
    ignored: Counter
    uid: str | None = None
    index: int | None = None
    middle: tuple | None = None

    def check_size(self, image, shape):
        """Raise InputError if an image, with its shape (height, width), is not the size that the file has."""
        if self.size and self.size != tuple(shape):
            sizes = "{1}x{0}, expected {3}x{2}".format(*shape, *self.size)
            raise InputError(f"{image}: not the size that {self.file} has (found {sizes}); use the annotated image")


class Part(BaseModel):
    """Base of what is read from annotation files: unknown fields are ignored, values are not converted."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


def check(kind, value, where, program):
    """Check the content of an annotation file.

    Args:
        kind: subclass of Part.
        value: content of the file.
        where: file, for messages.
        program: format for messages, such as "LabelMe".

    Returns:
        kind.

    Raises:
        InputError: with the first invalid field.
    """
    try:
        return kind.model_validate(value)
    except (ValidationError, RecursionError) as error:
        problem = first_problem(error) if isinstance(error, ValidationError) else "nested too deeply"
        raise InputError(f"{where}: not a valid {program} file ({problem}); {ADVICE}") from None


class Collected:
    """Shapes of one image while its annotations are read.

    Attributes:
        shapes: list of Shape.
        ignored: Counter of kinds of shapes without an area.
    """

    def __init__(self):
        self.shapes, self.ignored = [], Counter()

    def outline(self, name, rings, where):
        """Add a shape with outlines, or count it as ignored if no ring has three points.

        Args:
            name: class name.
            rings: list of lists of (x, y).
            where: file and shape, for messages.

        Raises:
            InputError: if a point is not finite or far away.
        """
        rings = [np.array(ring, float).reshape(-1, 2) for ring in rings]
        for ring in rings:
            wrong = ~(np.abs(ring) <= FARTHEST).all(1)
            if wrong.any():
                found = ", ".join(f"{value:g}" for value in ring[wrong][0])
                raise InputError(f"{where}: a point is not in the image (found {found}); {ADVICE}")
        if with_area := tuple(ring for ring in rings if len(ring) >= 3):
            self.shapes.append(Shape(name, with_area))
        else:
            self.ignored["outline of fewer than three points"] += 1

    def mask(self, name, mask, corner=(0, 0)):
        """Add a shape with a mask, (H, W) bool, whose top left pixel is at `corner`; keeps only its bounding box."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            self.ignored["empty mask"] += 1
            return
        top, left = int(rows[0]), int(columns[0])
        inside = mask[top : rows[-1] + 1, left : columns[-1] + 1].copy()
        self.shapes.append(Shape(name, mask=inside, corner=(corner[0] + left, corner[1] + top)))


# --- outlines


def rectangle(left, top, right, bottom, degrees=0.0):
    """Outline of a rectangle, turned clockwise about its center."""
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return turned(np.array(corners, float), ((left + right) / 2, (top + bottom) / 2), degrees)


def ellipse(x, y, radius_x, radius_y, degrees=0.0):
    """Outline of an ellipse, turned clockwise about its center: a polygon within CHORD pixels of it."""
    largest = max(radius_x, radius_y, CHORD)
    count = math.ceil(math.pi / math.acos(1 - CHORD / largest)) + 8
    angles = np.arange(count) * (2 * math.pi / count)
    ring = np.column_stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)])
    return turned(ring, (x, y), degrees)


def turned(ring, center, degrees):
    """An outline turned clockwise, as seen on the screen, about a center (x, y)."""
    if not degrees:
        return ring
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (ring - center) @ np.array([[cosine, sine], [-sine, cosine]]) + center


# --- masks


def fill(rings, shape):
    """Mask of closed outlines.

    Args:
        rings: list of (N, 2) arrays x, y.
        shape: (height, width).

    Returns:
        (height, width) bool: pixels whose centers are inside an odd number of rings.
    """
    centered = [ring - 0.5 for ring in rings]  # whole numbers are now pixel centers
    lines = np.concatenate([np.stack([ring, np.roll(ring, -1, axis=0)], axis=1) for ring in centered])
    inside, step = np.zeros(shape, bool), max(MOST_CROSSINGS // max(shape[0], 1), 1)
    for start in range(0, len(lines), step):
        inside ^= fill_outlines(lines[start : start + step], shape).astype(bool)
    return inside


def draw(shapes, numbers, shape, overlap="largest"):
    """Draw shapes into a mask.

    Args:
        shapes: list of Shape.
        numbers: dict of name to class number; shapes with other names are not drawn.
        shape: (height, width).
        overlap: which class a pixel gets if shapes of several classes cover it: the "largest" number, the "last" one,
            or "keep": all of them.

    Returns:
        (height, width) uint8 class numbers or, with "keep", uint16 sets of classes; and the number of pixels that
        several classes cover.
    """
    keep = overlap == "keep"
    result, several = np.zeros(shape, np.uint16 if keep else np.uint8), np.zeros(shape, bool)
    for one in shapes:
        number = numbers.get(one.name)
        if number is None:
            continue
        left, top, right, bottom = (int(v) for v in _box_in(one, shape))
        box = np.s_[top:bottom, left:right]
        inside, there = _within(one, left, top, right, bottom), result[box]
        value = 1 << (number - 1) if keep else number
        several[box] |= inside & (there > 0) & (there != value)
        if keep:
            there[inside] |= value
        else:
            there[inside if overlap == "last" else inside & (there < number)] = number
    return result, int(several.sum())


def _box_in(one, shape):
    """Box (left, top, right, bottom) around a shape in an image, in whole pixels."""
    if one.mask is not None:
        low = np.array(one.corner)
        high = low + one.mask.shape[::-1]
    else:
        points = np.concatenate(one.rings)
        low, high = np.floor(points.min(0)), np.ceil(points.max(0))
    low = np.clip(low, 0, shape[::-1])
    return (*low, *np.clip(high, low, shape[::-1]))


def _within(one, left, top, right, bottom):
    """Mask of a shape in a box of `_box_in`, bool."""
    if one.mask is not None:
        x, y = left - one.corner[0], top - one.corner[1]
        return one.mask[y : y + bottom - top, x : x + right - left]
    return fill([ring - (left, top) for ring in one.rings], (bottom - top, right - left))


def class_name(name, where):
    """Name of a shape as the name of a class: one line, without spaces at its ends.

    Raises:
        InputError: if nothing is left.
    """
    name = one_line(name).strip()
    if not name:
        raise InputError(f"{where}: a shape has no name; give it the name of its class")
    return name

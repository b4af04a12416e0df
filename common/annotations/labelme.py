"""LabelMe: a JSON file for each image, with polygons, rectangles, circles and masks."""

import base64
import binascii
import math
from pathlib import PureWindowsPath
from typing import Annotated

from annotated_types import Len

from common.annotations.shapes import (
    ADVICE,
    Annotation,
    Collected,
    Coordinate,
    Height,
    Part,
    Width,
    check,
    class_name,
    ellipse,
    rectangle,
)
from common.errors import InputError
from common.slices.decoding import decode
from common.slices.images import to_gray

PROGRAM = "LabelMe"
POINTS = {"rectangle": 2, "circle": 2, "oriented_rectangle": 4, "mask": 2}  # of shapes with a fixed number


class LabelMeShape(Part):
    label: str
    points: list[Annotated[list[Coordinate], Len(2, 2)]]
    shape_type: str | None = None
    mask: str | None = None


class LabelMeFile(Part):
    imagePath: str
    shapes: list[LabelMeShape]
    imageHeight: Height | None = None
    imageWidth: Width | None = None


def is_labelme(content):
    """Whether the content of a JSON file is LabelMe's."""
    return isinstance(content, dict) and "shapes" in content


def read_labelme(content, path):
    """Read a LabelMe file.

    Args:
        content: content of the JSON file.
        path: Path, for messages.

    Returns:
        list with one Annotation.

    Raises:
        InputError: if the file is invalid.
    """
    file = check(LabelMeFile, content, path, PROGRAM)
    collected = Collected()
    for number, one in enumerate(file.shapes, 1):
        where = f"{path}: shape {number}"
        kind = one.shape_type or "polygon"
        name = class_name(one.label, where)
        if len(one.points) != POINTS.get(kind, len(one.points)):
            raise InputError(
                f"{where}: expected {POINTS[kind]} points for a {kind} (found {len(one.points)}); {ADVICE}"
            )
        if kind == "mask":
            corner = tuple(math.floor(v) for v in one.points[0])
            collected.mask(name, _mask_of(one, where), corner)
        elif kind in OUTLINES:
            collected.outline(name, [OUTLINES[kind](one.points)], where)
        else:
            collected.ignored[kind] += 1
    size = (file.imageHeight, file.imageWidth) if file.imageHeight and file.imageWidth else None
    image = PureWindowsPath(file.imagePath).as_posix()
    return [Annotation(path, image, size, collected.shapes, collected.ignored)]


def _circle(points):
    (x, y), edge = points
    radius = math.dist((x, y), edge)
    return ellipse(x, y, radius, radius)


OUTLINES = {
    "polygon": list,
    "oriented_rectangle": list,
    "rectangle": lambda points: rectangle(*points[0], *points[1]),
    "circle": _circle,
}


def _mask_of(one, where):
    """The mask of a shape, a PNG within its bounding box, as bool."""
    try:
        data = base64.b64decode(one.mask or "", validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"{where}: its mask is not base64 text; {ADVICE}") from None
    if not data:
        raise InputError(f"{where}: a mask without an image; {ADVICE}")
    mask = to_gray(decode(data, f"{where}, mask")) > 0
    (left, top), (right, bottom) = ([math.floor(v) for v in point] for point in one.points)
    expected = bottom - top + 1, right - left + 1
    if mask.shape != expected:
        sizes = "{1}x{0}, expected {3}x{2}".format(*mask.shape, *expected)
        raise InputError(f"{where}: its mask does not fill its box (found {sizes}); {ADVICE}")
    return mask

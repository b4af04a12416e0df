"""CVAT for images 1.1: one XML file for all images, with polygons, boxes, ellipses and masks."""

import math
from pathlib import PureWindowsPath

from common.annotations.run_lengths import decode_runs
from common.annotations.shapes import ADVICE, FARTHEST, Annotation, Collected, class_name, ellipse, rectangle
from common.annotations.xml_files import parse_xml
from common.errors import InputError

ROOT = "annotations"
NO_SHAPES = ("attribute", "tag")  # elements of an image


def read_cvat(data, path):
    """Read a CVAT file.

    Args:
        data: bytes of the XML file.
        path: Path, for messages.

    Returns:
        list of Annotation, one for each image.

    Raises:
        InputError: if the file is invalid, or for videos.
    """
    root = parse_xml(data)
    images = root.findall("image")
    if not images:
        if root.find("track") is not None:
            raise InputError(f'{path}: CVAT for video; export it as "CVAT for images 1.1"')
        raise InputError(f"{path}: not a valid CVAT file (no image in it); {ADVICE}")
    return [_image(element, path) for element in images]


def _image(element, path):
    name = _text(element, "name", f"{path}: image")
    where = f"{path}: {name}"
    size = tuple(_whole(element, side, where) for side in ("height", "width"))
    collected = Collected()
    shapes = [one for one in element if one.tag not in NO_SHAPES]
    shapes.sort(key=lambda one: _number(one, "z_order", where, 0.0))
    for one in shapes:
        _add(one, collected, f"{where}, {one.tag}")
    return Annotation(path, PureWindowsPath(name).as_posix(), size, collected.shapes, collected.ignored)


def _add(one, collected, where):
    """Add an element to the shapes of its image."""

    def numbers(*names):
        return [_number(one, name, where) for name in names]

    if one.tag not in ("polygon", "box", "ellipse", "mask"):
        collected.ignored[one.tag] += 1
        return
    name = class_name(_text(one, "label", where), where)
    if one.tag == "polygon":
        collected.outline(name, [_points(one, where)], where)
    elif one.tag == "box":
        ring = rectangle(*numbers("xtl", "ytl", "xbr", "ybr"), _number(one, "rotation", where, 0.0))
        collected.outline(name, [ring], where)
    elif one.tag == "ellipse":
        x, y, *radii = numbers("cx", "cy", "rx", "ry")
        if min(radii) < 0:
            raise InputError(f"{where}: negative radius (found {min(radii):g}); {ADVICE}")
        collected.outline(name, [ellipse(x, y, *radii, _number(one, "rotation", where, 0.0))], where)
    else:
        left, top, width, height = (_whole(one, side, where) for side in ("left", "top", "width", "height"))
        counts = [_as_number(text, "rle", where, int) for text in _text(one, "rle", where).split(",")]
        collected.mask(name, decode_runs(counts, (height, width), where), (left, top))


def _text(element, name, where):
    text = element.get(name)
    if not text:
        raise InputError(f"{where}: {name} is missing; {ADVICE}")
    return text


def _number(element, name, where, default=None):
    if default is not None and element.get(name) is None:
        return default
    return _as_number(_text(element, name, where), name, where)


def _whole(element, name, where):
    return _as_number(_text(element, name, where), name, where, int)


def _as_number(text, name, where, kind=float):
    try:
        number = kind(text)
    except ValueError:
        number = math.nan
    if not abs(number) <= (FARTHEST if kind is float else FARTHEST**2):
        raise InputError(f"{where}: {name}: invalid number (found {text[:40]!r}); {ADVICE}")
    return number


def _points(element, where):
    points = []
    for pair in _text(element, "points", where).split(";"):
        numbers = [_as_number(text, "points", where) for text in pair.split(",")]
        if len(numbers) != 2:
            raise InputError(f"{where}: points: expected x,y (found {pair[:40]!r}); {ADVICE}")
        points.append(numbers)
    return points

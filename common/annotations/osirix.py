"""OsiriX and Horos: ROIs that the plug-in Export ROIs writes, as XML property list or CSV, or the same content as JSON.

The plug-in's source is https://github.com/pixmeo/osirixplugins, ExportROIs/ExportROIsPlugin.m.
"""

import csv
import io
import math
import plistlib
import re
from collections import Counter

import numpy as np
from pydantic import Field, NonNegativeInt

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
)
from common.errors import InputError

PROGRAM = "OsiriX"
KINDS = {5: "length", 10: "open polygon", 12: "angle", 13: "text", 14: "arrow", 16: "point", 19: "point"}
KINDS |= {24: "layer", 26: "axis", 27: "angle", 28: "curve"}  # types of ROIs without an area, as in OsiriX' DCMView.h
BRUSH = 20  # its outline goes around centers of pixels, which it counts as whole numbers (ITKSegmentation3D.mm)
NUMBER = r"\s*([-+.\deE]+|[-+]?nan|[-+]?inf)\s*"
POINTS = {count: re.compile(r"\(" + ",".join([NUMBER] * count) + r"\)") for count in (2, 3)}
COLUMNS = ("ImageNo", "RoiName", "RoiType", "NumOfPoints")  # of the CSV file, among others
OF_POINT = 5  # columns: mmX, mmY, mmZ, pxX, pxY
LONGEST_CELL = 2**24  # characters

Point = str | list[Coordinate]  # "(12.5, 3.0)"


class Roi(Part):
    Name: str
    Type: int | None = None
    Point_px: list[Point]
    Point_mm: list[Point] = Field(default_factory=list)
    SOPInstanceUID: str | None = None


class RoiImage(Part):
    ImageIndex: NonNegativeInt
    ImageHeight: Height | None = None
    ImageWidth: Width | None = None
    ROIs: list[Roi]
    SOPInstanceUID: str | None = None


class RoiFile(Part):
    Images: list[RoiImage]


def is_osirix(content):
    """Whether the content of a property list or JSON file is that of the plug-in."""
    return isinstance(content, dict) and "Images" in content


def read_osirix(content, path):
    """Read the ROIs of a series.

    Args:
        content: content of the property list or JSON file.
        path: Path, for messages.

    Returns:
        list of Annotation, one for each ROI; `image` is None.

    Raises:
        InputError: if the file is invalid.
    """
    found = []
    for image in check(RoiFile, content, path, PROGRAM).Images:
        size = (image.ImageHeight, image.ImageWidth) if image.ImageHeight and image.ImageWidth else None
        for roi in image.ROIs:
            where = f"{path}: image {image.ImageIndex}, ROI {roi.Name[:40]!r}"
            pixels, points = (
                [_point(text, count, where) for text in texts]
                for count, texts in ((2, roi.Point_px), (3, roi.Point_mm))
            )
            uid = roi.SOPInstanceUID or image.SOPInstanceUID
            found.append(_annotation(path, roi.Name, roi.Type, pixels, points, where, size, uid, image.ImageIndex))
    return found


def read_osirix_plist(data, path):
    """Read the ROIs of an XML property list that `check_xml` accepted; arguments and errors as `read_osirix`."""
    try:
        content = plistlib.loads(data, fmt=plistlib.FMT_XML)
    except Exception as error:  # plistlib raises anything for what is no property list
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise InputError(f"{path}: damaged property list ({reason}); {ADVICE}") from None
    if not is_osirix(content):
        raise InputError(
            f"{path}: a property list without ROIs (expected Images); export the ROIs with the plug-in Export ROIs"
        )
    return read_osirix(content, path)


def read_osirix_csv(data, path):
    """Read the ROIs of a CSV file.

    Args:
        data: bytes.
        path: Path, for messages.

    Returns:
        list of Annotation, one for each row; `image` is None.

    Raises:
        InputError: if the file is invalid; with the line.
    """
    csv.field_size_limit(LONGEST_CELL)
    rows = csv.reader(io.StringIO(data.decode("utf-8-sig", "replace"), newline=""), skipinitialspace=True, strict=True)
    found = []
    try:
        header = [name.strip() for name in next(rows, [])]
        first = header[: header.index("NumOfPoints") + 1] if "NumOfPoints" in header else header  # points follow
        if missing := [name for name in COLUMNS if name not in first]:
            raise InputError(
                f"{path}: no column {missing[0]} before the points (found {','.join(header)[:80]}); {ADVICE}"
            )
        for row in rows:
            if row:
                found.append(_of_row(row, first, path, f"{path}: line {rows.line_num}"))
    except csv.Error as error:
        raise InputError(f"{path}: line {rows.line_num} is not CSV ({error}); {ADVICE}") from None
    return found


def _of_row(row, header, path, where):
    """Annotation of a row of the CSV file; `header` ends where the points begin."""
    row += [""] * (len(header) - len(row))
    cells = dict(zip(header, row, strict=False))
    index, count, kind = (_whole(cells, name, where) for name in ("ImageNo", "NumOfPoints", "RoiType"))
    numbers = row[len(header) :]
    while numbers and not numbers[-1].strip():
        numbers.pop()
    if len(numbers) != OF_POINT * count:
        raise InputError(f"{where}: expected {OF_POINT} numbers for each point (found {len(numbers)} in all); {ADVICE}")
    points = np.array([_number(text, where) for text in numbers]).reshape(count, OF_POINT)
    uid = cells.get("SOPInstanceUID") or None
    return _annotation(path, cells["RoiName"], kind, points[:, 3:], points[:, :3], where, None, uid, index)


def _annotation(path, name, kind, pixels, points, where, size, uid, index):
    """Annotation of a ROI; without an area, or without three points, only what it is."""
    collected = Collected()
    if kind in KINDS:
        collected.ignored[KINDS[kind]] += 1
    else:
        ring = np.array(pixels, float).reshape(-1, 2)
        collected.outline(class_name(name, where), [ring + 0.5 if kind == BRUSH else ring], where)
    middle = None
    if len(points) == len(pixels) > 0 and np.isfinite(points).all():
        middle = (*np.mean(points, axis=0).tolist(), *np.mean(pixels, axis=0).tolist())
    ignored = Counter(collected.ignored)
    return Annotation(path, None, size, collected.shapes, ignored, uid and uid.strip(), index, middle)


def _point(text, count, where):
    """Coordinates of a point: text such as "(12.5, 3.0)", or a list."""
    if isinstance(text, str):
        fits = POINTS[count].fullmatch(text.strip())
        numbers = [_number(number, where) for number in fits.groups()] if fits else []
    else:
        numbers = text
    if len(numbers) != count:
        raise InputError(f"{where}: expected a point such as {(1.5,) * count} (found {str(text)[:40]!r}); {ADVICE}")
    return numbers


def _number(text, where):
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{where}: not a number (found {text[:40]!r}); {ADVICE}") from None


def _whole(cells, name, where):
    number = _number(cells[name], where)
    if not (math.isfinite(number) and number == int(number) and 0 <= number < 10**7):
        raise InputError(f"{where}: {name}: expected a whole number (found {cells[name][:40]!r}); {ADVICE}")
    return int(number)

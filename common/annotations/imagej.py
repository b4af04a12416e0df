"""ImageJ: ROIs in .roi files, and ROI sets in .zip files of the ROI Manager."""

import logging
import re
import struct
import zipfile
import zlib
from collections import Counter
from itertools import pairwise
from pathlib import PurePosixPath

import numpy as np
from roifile import ROI_SUBTYPE, ROI_TYPE, ImagejRoi

from common.annotations.shapes import ADVICE, Annotation, Collected, class_name, ellipse, rectangle
from common.errors import InputError

ENDING, START = ".roi", b"Iout"
MOST_ROIS, LARGEST_ROI = 100_000, 2**26  # of a set; bytes of a ROI
DAMAGE = (ValueError, TypeError, struct.error, LookupError, ArithmeticError, AssertionError)  # raised by roifile
ZIP_DAMAGE = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError, OSError, EOFError)
OUTLINES = (ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED)
UNNAMED = re.compile(r"(\d{4,})-\d{4,}(-\d{4,})?(-\d+)?")  # the name that ImageJ gives: slice, row, column
CURVE = np.linspace(0, 1, 33)[1:, None]  # where curves of composite ROIs become points
logging.getLogger("roifile").disabled = True  # what it reports is refused or not needed here


def read_roi(data, path):
    """Read a .roi file.

    Args:
        data: bytes.
        path: Path, for messages and for its name if the ROI has none.

    Returns:
        list with one Annotation; its `image` is None.

    Raises:
        InputError: if the file is damaged.
    """
    return [_annotation(data, path, path.stem, path)]


def read_roi_set(archive, path):
    """Read the ROIs of an open zip file.

    Args:
        archive: zipfile.ZipFile.
        path: its Path, for messages.

    Returns:
        list of Annotation, one for each ROI.

    Raises:
        InputError: if it is damaged.
    """
    entries = [entry for entry in archive.infolist() if _is_roi(entry.filename)]
    if len(entries) > MOST_ROIS:
        raise InputError(f"{path}: too many ROIs (found {len(entries)}, up to {MOST_ROIS}); {ADVICE}")
    found = []
    for entry in entries:
        name = PurePosixPath(entry.filename).stem
        with archive.open(entry) as file:
            data = file.read(LARGEST_ROI + 1)
        found.append(_annotation(data, path, name, f"{path}: {name}"))
    return found


def is_roi_set(archive):
    """Whether an open zip file contains ROIs."""
    return any(map(_is_roi, archive.namelist()))


def _is_roi(name):
    """Whether an entry of a zip file is a ROI, not what macOS adds to each file, such as __MACOSX/._liver.roi."""
    return name.lower().endswith(ENDING) and not PurePosixPath(name).name.startswith("._")


def _annotation(data, path, name, where):
    """Annotation of a ROI."""
    if len(data) > LARGEST_ROI:
        raise InputError(f"{where}: too large for a ROI (found over {LARGEST_ROI / 1e6:.0f} MB); {ADVICE}")
    collected = Collected()
    try:
        roi = ImagejRoi.frombytes(data)
        rings = _rings(roi)
    except DAMAGE as error:
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise InputError(f"{where}: not a readable ImageJ ROI ({reason}); {ADVICE}") from None
    if rings is None:
        collected.ignored[_kind(roi)] += 1
    else:
        collected.outline(class_name(_class_of(roi, name), where), rings, where)
    index = _slice_of(roi, name)
    return Annotation(path, None, None, collected.shapes, Counter(collected.ignored), index=index)


def _kind(roi):
    """What a ROI without an area is, in a word."""
    kind = roi.subtype if roi.subtype in (ROI_SUBTYPE.TEXT, ROI_SUBTYPE.IMAGE) else roi.roitype
    return kind.name.lower()


def _class_of(roi, name):
    """Name of a ROI; if ImageJ named it, its group, or "ROI"."""
    name = roi.name.strip("\0 ") or re.sub(r"-\d{1,3}$", "", name)
    if UNNAMED.fullmatch(name):
        return f"group {roi.group}" if roi.group else "ROI"
    return name


def _slice_of(roi, name):
    """Slice index from 0, or None if the ROI is about no particular slice."""
    if position := max(roi.position, 0) or max(roi.z_position, 0):
        return position - 1
    named = UNNAMED.fullmatch(name)
    return int(named[1]) - 1 if named and named[2] and int(named[1]) else None


def _rings(roi):
    """Outlines of a ROI; None if it has no area."""
    if roi.subtype in (ROI_SUBTYPE.TEXT, ROI_SUBTYPE.IMAGE):
        return None
    if roi.multi_coordinates is not None:
        return _path(roi.multi_coordinates.tolist())
    if roi.roitype in OUTLINES:
        return [np.asarray(roi.coordinates(), float)]
    if roi.roitype not in (ROI_TYPE.RECT, ROI_TYPE.OVAL):
        return None
    left, top, right, bottom = roi.left, roi.top, roi.right, roi.bottom
    if roi.subpixelrect:
        left, top, right, bottom = roi.xd, roi.yd, roi.xd + roi.widthd, roi.yd + roi.heightd
    if not (np.isfinite([left, top, right, bottom]).all() and left <= right and top <= bottom):
        raise ValueError(f"invalid box {left:g}, {top:g}, {right:g}, {bottom:g}")
    if roi.roitype == ROI_TYPE.OVAL:
        return [ellipse((left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2)]
    if roi.rounded_rect_arc_size > 0:
        return [_rounded(left, top, right, bottom, roi.rounded_rect_arc_size / 2)]
    return [rectangle(left, top, right, bottom)]


def _rounded(left, top, right, bottom, radius):
    """Outline of a rectangle with round corners."""
    x, y = min(radius, (right - left) / 2), min(radius, (bottom - top) / 2)
    ring = ellipse(0, 0, x, y)
    middle = np.array([(left + right) / 2, (top + bottom) / 2])
    return ring + middle + np.where(ring >= 0, 1, -1) * (np.array([right - left, bottom - top]) / 2 - (x, y))


def _path(numbers):
    """Outlines of a path of java.awt.geom: kind of step and its points; curves become 32 lines."""
    rings, at = [], 0
    while at < len(numbers):
        step = numbers[at]
        count = {0: 1, 1: 1, 2: 2, 3: 3, 4: 0}[step]  # points; KeyError: another kind
        points = np.reshape(numbers[at + 1 : at + 1 + 2 * count], (count, 2))  # ValueError: cut short
        at += 1 + 2 * count
        if step == 0:
            rings.append([points])
        elif step == 1:
            rings[-1].append(points)
        elif step in (2, 3):
            rings[-1].append(_curve(np.concatenate([rings[-1][-1][-1:], points])))
    return [np.concatenate(ring) for ring in rings]


def _curve(points):
    """Points of a Bezier curve without the first one, by the algorithm of de Casteljau."""
    parts = list(points)
    while len(parts) > 1:
        parts = [first + (second - first) * CURVE for first, second in pairwise(parts)]
    return parts[0]

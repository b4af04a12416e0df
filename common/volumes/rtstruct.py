"""DICOM RTSTRUCT: outlines of ROIs in mm in the patient, drawn onto the slices of their series.

Voxels are inside if their centers are, by the even-odd rule over all contours of an ROI in a slice, which makes holes
of inner contours. Centers on a contour are inside, so that outlines through the centers of the outer voxels, as some
programs write them, lose nothing.
"""

import numpy as np

from common.errors import InputError
from common.slices.outlines import crossings_of
from common.volumes.dicom_files import damaged_dicom, read_dataset
from common.volumes.grids import image_at
from common.volumes.segments import Canvas, Segment, plain_text

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "")
CONTOUR_DATA = 0x30060050
OFF_PLANE = 0.25  # max distance of a contour from the center of its slice, in slices
ON_EDGE = 0.01  # max distance of a voxel center from an edge to be on it, in voxels


def segments_in(path):
    """ROIs with closed contours, as list of Segment whose key is the ROI number, in the order of these numbers.

    Raises:
        InputError: if the file is damaged or has no closed contours.
    """
    return _segments_of(path, read_dataset(path))


def _segments_of(path, content):
    with damaged_dicom(path):
        closed = {
            int(item.ReferencedROINumber)
            for item in content.get("ROIContourSequence") or []
            if any(_is_closed(contour) for contour in item.get("ContourSequence") or [])
        }
        names = {int(item.ROINumber): item.get("ROIName") for item in content.get("StructureSetROISequence") or []}
    if not closed:
        raise InputError(f"{path}: RTSTRUCT without closed contours; remove it, or export it again")
    return [Segment(n, n, plain_text(names.get(n) or "") or f"ROI {n}") for n in sorted(closed)]


def _is_closed(contour):
    return str(contour.get("ContourGeometricType") or "") in CLOSED


def read_segments(path, segments, numbering, volume):
    """Draw the ROIs as class numbers onto the grid of their series.

    Args:
        path: Path.
        segments: result of `segments_in`.
        numbering: `common.volumes.segments.Numbering`.
        volume: Geometry of the series.

    Returns:
        SimpleITK.Image as of `Canvas`, and the number of voxels in several classes.

    Raises:
        InputError: if the file is damaged, or a contour is invalid, outside of the series or not in one slice.
    """
    content, canvas = read_dataset(path), Canvas(volume.shape, numbering)
    with damaged_dicom(path):
        items = {int(item.ReferencedROINumber): item for item in content.ROIContourSequence}
        for segment in sorted(filter(numbering.of, segments), key=numbering.of):
            slices = {}
            for contour in filter(_is_closed, items[segment.key].ContourSequence):
                index, points = _in_slice(contour, segment.name, volume)
                slices.setdefault(index, []).append(points)
            for index, contours in slices.items():
                canvas.paint(fill(contours, canvas.array.shape[1:]), numbering.of(segment), index)
    return image_at(canvas.array, volume), canvas.overlap


def _in_slice(contour, name, volume):
    """Slice index of a contour, and its points (N, 2) in voxels i, j."""
    element = contour.get_item(CONTOUR_DATA)
    text = element.value if element is not None else None
    try:
        numbers = text.split(b"\\") if isinstance(text, bytes) else text or []  # a raw element, which is faster
        points = np.array([float(number) for number in numbers]).reshape(-1, 3)
    except ValueError:
        raise InputError(f"ROI {name!r}: a contour is not a list of points (x, y, z); export it again") from None
    if not len(points) or not np.isfinite(points).all():
        problem = "a point that is not finite" if len(points) else "no points"
        raise InputError(f"ROI {name!r}: a contour has {problem}; export it again")
    voxels = volume.to_voxels(points)
    heights = voxels[:, 2]
    index = round(float(np.median(heights)))
    if not 0 <= index < volume.size[2]:
        raise InputError(
            f"ROI {name!r}: a contour is outside of the series that it refers to (slice {index + 1}, found "
            f"{volume.size[2]} slices); use the whole series that it was drawn on"
        )
    if np.abs(heights - index).max() > OFF_PLANE:
        raise InputError(
            f"ROI {name!r}: a contour is not in a slice of the series (slices {heights.min() + 1:.2f} to "
            f"{heights.max() + 1:.2f}); use the series that it was drawn on"
        )
    sides = np.array(volume.size[:2])
    if (voxels[:, :2].max(axis=0) < -0.5).any() or (voxels[:, :2].min(axis=0) > sides - 0.5).any():
        raise InputError(f"ROI {name!r}: a contour is outside of the slices; use the series that it was drawn on")
    return index, voxels[:, :2]


def fill(contours, shape):
    """Fill closed contours by the even-odd rule; pixels whose center is on an edge are inside.

    Args:
        contours: list of (N, 2) arrays of points x, y in pixels; whole numbers are pixel centers.
        shape: (height, width).

    Returns:
        bool array.
    """
    height, width = shape
    starts = np.concatenate(contours)
    stops = np.concatenate([np.roll(points, -1, axis=0) for points in contours])
    rows, lefts, rights = _spans(starts, stops, height)
    flat = np.abs(starts[:, 1] - stops[:, 1]) <= ON_EDGE  # edges along a row, and corners
    flat &= np.abs(starts[:, 1] - np.rint(starts[:, 1])) <= ON_EDGE
    corner = np.abs(starts - np.rint(starts)).max(axis=1) <= ON_EDGE
    rows = np.concatenate([rows, np.rint(starts[flat, 1]), np.rint(starts[corner, 1])]).astype(int)
    lefts = np.concatenate([lefts, np.minimum(starts, stops)[flat, 0], starts[corner, 0]])
    rights = np.concatenate([rights, np.maximum(starts, stops)[flat, 0], starts[corner, 0]])
    first = np.clip(np.ceil(lefts - ON_EDGE), 0, width).astype(int)
    last = np.clip(np.floor(rights + ON_EDGE) + 1, 0, width).astype(int)
    used = (rows >= 0) & (rows < height) & (first < last)
    changes = np.zeros((height, width + 1), np.int32)
    np.add.at(changes, (rows[used], first[used]), 1)
    np.add.at(changes, (rows[used], last[used]), -1)
    return np.cumsum(changes, axis=1)[:, :width] > 0


def _spans(starts, stops, height):
    """Rows, and left and right ends, of the inside of polygons on the lines through pixel centers.

    Args:
        starts, stops: (N, 2) ends x, y of the edges.
        height: number of rows.
    """
    row, x = crossings_of(starts, stops, height)
    order = np.lexsort((x, row))
    row, x = row[order], x[order]  # an even number of crossings in each row
    return row[::2], x[::2], x[1::2]

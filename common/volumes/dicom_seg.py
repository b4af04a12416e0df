"""DICOM segmentations (SEG): segments of voxels in frames, each of which has its own position in the patient."""

import math

import highdicom
import numpy as np

from common.errors import InputError
from common.volumes.dicom_files import damaged_dicom, read_dataset
from common.volumes.dicom_headers import finite_numbers
from common.volumes.grids import MAX_VOXELS, Geometry, image_at
from common.volumes.segments import Canvas, Segment, plain_text

KINDS = ("BINARY", "FRACTIONAL", "LABELMAP")
PARALLEL = 1e-4  # max deviation of a cosine from 1
BETWEEN = 0.05  # max distance of a frame from its place, in slices
HALF = 0.5  # probability or share from which a voxel of a fractional segmentation counts


def segments_in(path):
    """Segments of a file, as list of Segment whose key is the segment number.

    Raises:
        InputError: if the file is damaged or has no segments.
    """
    content = read_dataset(path, pixels=False)
    with damaged_dicom(path):
        background = content.get("PixelPaddingValue")  # of a label map
        items = [item for item in content.get("SegmentSequence") or [] if item.SegmentNumber != background]
        segments = [
            Segment(int(i.SegmentNumber), int(i.SegmentNumber), _name_of(i))
            for i in sorted(items, key=lambda item: item.SegmentNumber)
        ]
    if not segments:
        raise InputError(f"{path}: DICOM SEG without segments; remove it, or export it again")
    return segments


def _name_of(item):
    return plain_text(item.get("SegmentLabel") or "") or f"segment {item.SegmentNumber}"


def read_segments(path, segments, numbering, volume):
    """Read a segmentation as class numbers on the grid of its frames, which covers some or all slices of the series.

    Args:
        path: Path.
        segments: result of `segments_in`.
        numbering: `common.volumes.segments.Numbering`.
        volume: Geometry of the series.

    Returns:
        SimpleITK.Image as of `Canvas`, and the number of voxels in several classes.

    Raises:
        InputError: if the file is damaged, or its frames are outside of the series, in no order or without position.
    """
    with damaged_dicom(path):
        content = read_dataset(path)
        kind = content.get("SegmentationType")
        if kind not in KINDS:
            raise InputError(f"unknown SegmentationType (found {kind!r}); expected {', '.join(KINDS)}; export it again")
        geometry, places = _grid_of(content, volume)
        content = highdicom.seg.Segmentation.from_dataset(content, copy=False)
        canvas, is_map = Canvas(geometry.shape, numbering), kind == "LABELMAP"
        least = HALF * int(content.MaximumFractionalValue) if kind == "FRACTIONAL" else 1
        numbers = {segment.key: numbering.of(segment) for segment in segments}
        frames = [(numbers.get(_segment_of(content, i), 0), i) for i in range(len(places))]
        for number, i in frames if is_map else sorted(frames):
            if is_map:
                values = content.get_stored_frame(i, as_index=True)
                for segment in sorted(filter(numbering.of, segments), key=numbering.of):
                    canvas.paint(values == segment.key, numbering.of(segment), places[i])
            elif number:
                canvas.paint(content.get_stored_frame(i, as_index=True) >= least, number, places[i])
    return image_at(canvas.array, geometry), canvas.overlap


def _segment_of(content, frame):
    """Segment number of a frame; 0 for a label map, which has several."""
    groups = [content.PerFrameFunctionalGroupsSequence[frame], content.SharedFunctionalGroupsSequence[0]]
    items = [group.SegmentIdentificationSequence[0] for group in groups if "SegmentIdentificationSequence" in group]
    return int(items[0].ReferencedSegmentNumber) if items else 0


def _grid_of(content, volume):
    """Geometry of all frames, and the slice index of each of them."""
    frames = content.get("PerFrameFunctionalGroupsSequence") or []
    if not frames:
        raise InputError("DICOM SEG without frames; export it again")
    shared = content.SharedFunctionalGroupsSequence[0]

    def values(frame, sequence, name, count):
        group = frame if sequence in frame else shared
        if not group.get(sequence) or not group[sequence].value[0].get(name):
            raise InputError(f"no {name} of its frames; export it again with positions in the patient")
        return np.array(finite_numbers(group[sequence].value[0][name].value, count, name))

    turns = [values(frame, "PlaneOrientationSequence", "ImageOrientationPatient", 6) for frame in frames]
    spacings = [values(frame, "PixelMeasuresSequence", "PixelSpacing", 2) for frame in frames]
    if not np.allclose(turns, turns[0], atol=1e-4) or not np.allclose(spacings, spacings[0], rtol=1e-3):
        raise InputError("frames differ in orientation or pixel spacing; export it again")
    positions = np.array([values(frame, "PlanePositionSequence", "ImagePositionPatient", 3) for frame in frames])
    across, down = turns[0][:3], turns[0][3:]
    normal = np.cross(across, down)
    if not math.isclose(np.linalg.norm(normal), 1, abs_tol=1e-3):
        raise InputError("invalid ImageOrientationPatient (not at right angles); export it again")
    rows, columns = int(content.Rows), int(content.Columns)
    centers = positions + across * spacings[0][1] * (columns - 1) / 2 + down * spacings[0][0] * (rows - 1) / 2
    _refuse_outside(volume, centers)
    heights = positions @ normal
    step = _step_of(content, volume, normal, heights)
    lowest = int(np.argmin(heights))
    places = (heights - heights[lowest]) / step
    indices = np.rint(places).astype(int)
    sideways = positions - np.outer(heights, normal)
    if np.abs(places - indices).max() > BETWEEN or np.ptp(sideways, axis=0).max() > BETWEEN * step:
        raise InputError(f"frames are not on slices of equal distance ({step:g} mm); export it again")
    size = (columns, rows, int(indices.max()) + 1)
    if math.prod(size) > MAX_VOXELS:
        raise InputError(f"too many voxels ({'x'.join(map(str, size))}); export it again")
    direction = np.column_stack([across, down, normal]).ravel()
    spacing = (float(spacings[0][1]), float(spacings[0][0]), float(step))
    return Geometry(size, spacing, tuple(positions[lowest].tolist()), tuple(direction.tolist())), indices.tolist()


def _refuse_outside(volume, centers):
    """Raise InputError if the center of a frame is outside of the volume."""
    voxels = volume.to_voxels(centers)
    tolerance = 0.5 + BETWEEN
    outside = ((voxels < -tolerance) | (voxels > np.array(volume.size) - 1 + tolerance)).any(axis=1)
    if outside.any():
        frame = int(np.argmax(outside))
        where = ", ".join(f"{mm:.4g}" for mm in centers[frame])
        count = f"{int(outside.sum())} of {len(centers)} frames"
        raise InputError(
            f"{count} are outside of the series that it refers to (frame {frame + 1} around {where} mm); "
            "use the whole series that it was made from"
        )


def _step_of(content, volume, normal, heights):
    """Distance in mm between slices: of the series if they are parallel, or of the file."""
    cosines = np.abs(np.reshape(volume.direction, (3, 3)).T @ normal)
    if cosines.max() > 1 - PARALLEL:
        step = volume.spacing[int(np.argmax(cosines))]
        places = (heights - heights.min()) / step
        if np.abs(places - np.rint(places)).max() <= BETWEEN:
            return step
    distances = np.diff(np.unique(np.round(heights, 4)))
    measures = content.SharedFunctionalGroupsSequence[0].get("PixelMeasuresSequence") or [{}]
    given = measures[0].get("SpacingBetweenSlices") or measures[0].get("SliceThickness")
    step = float(distances.min()) if len(distances) else float(given or 1)
    if not 0 < step < math.inf:
        raise InputError(f"invalid distance between slices ({step:g} mm); export it again")
    return step

"""Segmentations of 3D Slicer (.seg.nrrd): segments with names, in one layer or, if they overlap, in several."""

import re

from common.errors import InputError
from common.lazy import Lazy
from common.volumes.grids import Geometry, image_at
from common.volumes.reading import read_channels, read_information
from common.volumes.segments import Canvas, Segment, plain_text

sitk = Lazy("SimpleITK")

ENDING = ".seg.nrrd"


def is_slicer_file(path):
    """Whether a file has the ending of a segmentation of 3D Slicer."""
    return path.name.lower().endswith(ENDING)


def segments_in(path):
    """Segments that a file lists, as list of Segment whose key is (layer, value); [] if its header lists none.

    Raises:
        InputError: if the header is damaged.
    """
    try:
        reader = read_information(path)
    except RuntimeError as error:
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[-1]}); replace or remove it") from None
    header = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys() if re.match(r"Segment\d+_", key)}
    layered = reader.GetNumberOfComponents() > 1 or reader.GetDimension() > 3
    segments = []
    for number in sorted({int(re.match(r"Segment(\d+)_", key)[1]) for key in header}):
        entries = {name: header.get(f"Segment{number}_{name}") for name in ("Name", "ID", "LabelValue", "Layer")}
        try:  # older versions write neither layer nor value: a layer for each segment
            value = int(entries["LabelValue"] or 1)
            layer = int(entries["Layer"] or (number if layered and not entries["LabelValue"] else 0))
        except ValueError:
            found = f"LabelValue {entries['LabelValue']}, Layer {entries['Layer']}"
            raise InputError(f"{path}: segment {number} is invalid ({found}); save it again in 3D Slicer") from None
        name = plain_text(entries["Name"] or entries["ID"] or "") or f"segment {number + 1}"
        segments.append(Segment((layer, value), value, name))
    return segments


def read_segments(path, segments, numbering):
    """Read a segmentation as class numbers on its own grid.

    Args:
        path: Path.
        segments: result of `segments_in`.
        numbering: `common.volumes.segments.Numbering`.

    Returns:
        SimpleITK.Image as of `Canvas`, and the number of voxels in several classes.

    Raises:
        InputError: if the file is damaged, or has no such layer.
    """
    layers = read_channels(path)
    canvas = Canvas(layers[0].GetSize()[::-1], numbering)
    for segment in sorted(filter(numbering.of, segments), key=numbering.of):
        layer, value = segment.key
        if not 0 <= layer < len(layers):
            found = f"layer {layer} of {len(layers)}"
            raise InputError(f"{path}: segment {segment.name!r} is missing ({found}); save it again in 3D Slicer")
        image = layers[layer]
        canvas.paint(sitk.GetArrayViewFromImage(image) == value, numbering.of(segment))
    return image_at(canvas.array, Geometry.of(layers[0])), canvas.overlap

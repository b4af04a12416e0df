"""Masks for viewers: ROIs of OsiriX and Horos, annotations of QuPath, and names and colors of classes for ITK-SNAP."""

import json
import plistlib

import numpy as np

from common.errors import InputError
from common.files import whole_file
from common.prediction.polygons import area_of, polygons_of, with_slits
from common.slices.classes import has_class
from common.slices.drawing import CLASS_COLORS
from common.slices.mask_files import file_names

OSIRIX, QUPATH, ITK_SNAP = "osirix", "qupath", "itk-snap"  # values of VIEWER_FILES, and names of folders
LABEL_FILE = "classes.label"
CLOSED_POLYGON = 11  # type of a ROI, as in OsiriX' DCMView.h
HEADER = """################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
################################################
"""


def require_volumes(kinds, source):
    """Raise InputError if VIEWER_FILES has ROIs of OsiriX, which need slices of volumes, and there are none.

    Args:
        kinds: setting VIEWER_FILES.
        source: `common.prediction.inputs.ImageInput` or VolumeInput.
    """
    if OSIRIX in kinds and not any("volume" in source.case_of(s)[1] for s in source.slices):
        raise InputError('VIEWER_FILES: "osirix" is for volumes (found images in INPUT); remove it, or use volumes')


class ViewerFiles:
    """Writes files for viewers.

    Args:
        folder: Path of OUTPUT.
        kinds: setting VIEWER_FILES: list of OSIRIX, QUPATH and ITK_SNAP.
        names: class names from 1 up.
        overlap: how classes share pixels; see `common.slices.classes`.
    """

    def __init__(self, folder, kinds, names, overlap=""):
        self.folder, self.kinds, self.names = folder, kinds, list(map(str, names))
        if ITK_SNAP in kinds:
            write_label_file(folder / LABEL_FILE, enumerate(self.names, 1))
            parts = file_names(self.names) if overlap else []  # of label volumes with one class, whose value is 1
            for number, part in enumerate(parts, 1):
                write_label_file(folder / f"{part}.label", [(number, self.names[number - 1])], value=1)

    def add_image(self, case, name, numbers):
        """Write the annotations of an image; `numbers` is its mask (H, W), class numbers or sets of classes."""
        if QUPATH in self.kinds:
            write_geojson(self.folder / QUPATH / case / f"{name}.geojson", self._features(numbers))

    def add_volume(self, case, labels):
        """Write the ROIs and annotations of a volume.

        Args:
            case: name of the files.
            labels: SimpleITK.Image of class numbers, or of sets of overlapping classes, on the grid of the volume.
        """
        import SimpleITK as sitk  # volumes only

        from common.volumes.grids import Geometry  # volumes only

        array = sitk.GetArrayFromImage(labels)
        if QUPATH in self.kinds:
            features = [feature for k in _planes_with_labels(array) for feature in self._features(array[k], k)]
            write_geojson(self.folder / QUPATH / f"{case}.geojson", features)
        if OSIRIX in self.kinds:
            content = self._rois(array, Geometry.of(labels))
            with whole_file(self.folder / OSIRIX / f"{case}.xml") as unfinished:
                unfinished.write_bytes(plistlib.dumps(content))

    def _polygons(self, numbers):
        """(class number, polygon as of `polygons_of`) of each part of each class."""
        for number in range(1, len(self.names) + 1):
            for rings in polygons_of(has_class(numbers, number)):
                yield number, rings

    def _features(self, numbers, plane=0):
        """GeoJSON features of a mask (H, W)."""
        features = []
        for number, rings in self._polygons(numbers):
            closed = [np.concatenate([ring, ring[:1]]) for ring in map(_turned, rings, [1, *[-1] * (len(rings) - 1)])]
            geometry = {"type": "Polygon", "coordinates": [ring.tolist() for ring in closed]}
            if plane:
                geometry["plane"] = {"c": -1, "z": int(plane), "t": 0}
            classification = {"name": self.names[number - 1], "color": list(color_of(number))}
            properties = {"objectType": "annotation", "classification": classification}
            features.append({"type": "Feature", "geometry": geometry, "properties": properties})
        return features

    def _rois(self, array, grid):
        """Content of a property list: as the plug-in Export ROIs writes it, and as OsiriX and Horos import it."""
        count, height, width = array.shape
        images, imported = [], []
        for k in _planes_with_labels(array):
            rois = []
            for number, rings in self._polygons(array[k]):
                ring, name = with_slits(rings), self.names[number - 1]
                points = grid.to_points(np.column_stack([ring - 0.5, np.full(len(ring), k)]))
                rois.append(
                    {
                        "IndexInImage": len(rois),
                        "Name": name,
                        "Type": CLOSED_POLYGON,
                        "NumberOfPoints": len(ring),
                        "Point_px": [f"({x:f}, {y:f})" for x, y in ring],
                        "Point_mm": [f"({x:f}, {y:f}, {z:f})" for x, y, z in points],
                    }
                )
                texts = [f"{{{x:g}, {y:g}}}" for x, y in ring]
                imported.append({"Slice": int(k) + 1, "Name": name, "Comments": "", "ROIPoints": texts})
            image = {"ImageIndex": int(k), "ImageTotalNum": count, "ImageHeight": height, "ImageWidth": width}
            images.append({**image, "NumberOfROIs": len(rois), "ROIs": rois})
        return {"Images": images, "ROI array": imported}


def write_geojson(path, features):
    """Write features as a GeoJSON file, complete or not at all."""
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")


def _planes_with_labels(array):
    return np.flatnonzero(array.any(axis=(1, 2)))


def _turned(ring, sign):
    """A ring with an area of that sign, as RFC 7946 wants outlines and holes."""
    return ring if np.sign(area_of(ring)) == sign else ring[::-1]


def color_of(number):
    """RGB of a class."""
    return CLASS_COLORS[(number - 1) % len(CLASS_COLORS)]


def write_label_file(path, classes, value=None):
    """Write a label description file of ITK-SNAP.

    Args:
        path: Path.
        classes: iterable of (class number, name).
        value: value of the class in the label volume; None: its number.
    """
    rows = [(0, (0, 0, 0), 0, "Clear Label")]
    rows += [(value or number, color_of(number), 1, name) for number, name in classes]
    lines = []
    for number, (red, green, blue), shown, name in rows:
        name = " ".join(name.replace('"', "'").split())
        lines.append(f'{number:5}{red:6}{green:5}{blue:5}{shown:9}{shown:3}{shown:3}    "{name}"\n')
    with whole_file(path) as unfinished:
        unfinished.write_text(HEADER + "".join(lines), encoding="utf-8", errors="backslashreplace")

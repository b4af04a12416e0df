"""Label files of a set: label volumes, DICOM SEG, RTSTRUCT and .seg.nrrd, with the same class numbers in all."""

from pathlib import Path

from common.errors import InputError, SettingError
from common.parallel import progress
from common.slices.classes import is_target, sets_of_numbers
from common.volumes import slicer_files
from common.volumes.finding import dicom_labels_in
from common.volumes.grids import Geometry, image_at
from common.volumes.labels import labels_in
from common.volumes.reading import read_volume
from common.volumes.segments import as_key, describe, number_segments
from common.words import number_of


class LabelFiles:
    """Label files that are read with the same class numbers.

    Args:
        paths: iterable of Path.
        classes: setting CLASSES, names of segments in class order; None: all.
        label_values: setting LABEL_VALUES; None: values are labels.
        series: as for `common.volumes.reading.read_volume`.
        names: dict of label number to name, of a data set; None or empty: any numbers.
        ignore: value of voxels of label volumes that do not count; None: none.
        survey: whether to read label volumes without names too, for `largest`.
        overlapping: whether segments that overlap stay; otherwise the later class wins.
        regions: `common.slices.regions.Regions` of label numbers, or None.

    Attributes:
        failed: dict of Path of an unusable file to the message about it.
        largest: largest class number in all files, at least 1.
        overlap: how classes share voxels; see `common.slices.classes`.

    Raises:
        SettingError: if a class is in no file, or listed twice, or `label_values` is given too.
        InputError: if there are too many names.
    """

    def __init__(
        self,
        paths,
        classes=None,
        label_values=None,
        series=None,
        names=None,
        survey=True,
        ignore=None,
        overlapping=False,
        regions=None,
    ):
        if classes and label_values is not None:
            raise SettingError("CLASSES: set together with LABEL_VALUES; use names or numbers, not both")
        if len({as_key(name) for name in classes or []}) < len(classes or []):
            raise SettingError(f"CLASSES: a name is listed twice (found {classes}); list each name once")
        self.label_values, self.series, self.names, self.ignore = label_values, series, names, ignore
        self.largest, self.overlaps, self.regions = 1, [], regions
        self.segments, self.failed = {}, {}
        paths = list(paths)
        for path in progress(paths, len(paths), "checking labels"):
            try:
                if segments := segments_in(path):
                    self.segments[path] = segments
                elif survey:
                    labels = self._labels_in(read_volume(path, series), path)
                    self.largest = max(self.largest, int(labels[is_target(labels)].max(initial=0)))
            except InputError as error:
                self.failed[path] = str(error)
        if classes and not self.segments and not self.failed:
            raise SettingError("CLASSES: no names in the label files; use it for DICOM SEG, RTSTRUCT or .seg.nrrd only")
        if regions and self.segments:
            raise SettingError("REGIONS: for label volumes of numbers (found segments with names); remove it")
        self.numbering = number_segments(self.segments, classes, label_values, bool(self.failed), overlapping)
        self.overlap = regions.overlap if regions else self.numbering.overlap
        self.largest = max(self.largest, self.numbering.largest)

    @property
    def names_of_regions(self):
        """Names of the classes that are regions, [] if unknown."""
        return self.regions.names if self.regions else []

    def describe(self):
        """Names and class numbers of the segments, or of the data set, as text; "" without names."""
        if self.segments:
            return describe(self.segments, self.numbering)
        if self.regions:
            listed = ", ".join(f"{number} {name}" for number, name in enumerate(self.regions.names, 1))
            return f"{self.overlap} classes: {listed or 'each includes those with larger numbers'}"
        listed = ", ".join(f"{number} {name}" for number, name in (self.names or {}).items())
        return f"classes: {listed}" if listed else ""

    def read(self, path, volume):
        """Read the labels of a volume as SimpleITK.Image, on a grid of their own: uint8 or, if classes overlap, uint16.

        Args:
            path: Path, one of `paths`.
            volume: Geometry of the volume as it is stored.

        Raises:
            InputError: if the file is damaged, or does not fit the volume.
        """
        if path in self.failed:
            raise InputError(self.failed[path])
        if path not in self.segments:
            image = read_volume(path, self.series)
            labels = self._labels_in(image, path)
            if self.regions:
                labels = self.regions.sets_of(labels, path)
            elif self.overlap:
                labels = sets_of_numbers(labels)
            return image_at(labels, Geometry.of(image))
        image, overlap = read_segments(path, self.segments[path], self.numbering, volume)
        if overlap:
            self.overlaps.append(overlap)
        return image

    def _labels_in(self, image, path):
        return labels_in(image, path, self.label_values, self.names, ignore=self.ignore)

    def note_on_overlap(self):
        """What a user should know about voxels in several segments, or ""."""
        if not self.overlaps:
            return ""
        files, voxels = number_of(len(self.overlaps), "label file"), number_of(sum(self.overlaps), "voxel")
        found = f"{files} with overlapping segments; {voxels} in several of them"
        if self.overlap:
            return f"{found} stay in all"
        return f"{found} became the highest of their classes; --overlap keep leaves them in all"


def segments_in(path):
    """List of Segment of a file; [] for a label volume without names.

    Raises:
        InputError: if the file is damaged or has no segments.
    """
    path = Path(path)
    if path.is_file() and slicer_files.is_slicer_file(path):
        return slicer_files.segments_in(path)
    if kind := dicom_labels_in(path):
        return _module_of(kind).segments_in(path)
    return []


def read_segments(path, segments, numbering, volume):
    """Read a file with named segments as class numbers.

    Args:
        path: Path.
        segments: list of Segment in it.
        numbering: `common.volumes.segments.Numbering`.
        volume: Geometry of the volume as it is stored.

    Returns:
        SimpleITK.Image uint8, on a grid of its own, and the number of voxels in several classes.

    Raises:
        InputError: if the file is damaged, or does not fit the volume.
    """
    if slicer_files.is_slicer_file(path):
        return slicer_files.read_segments(path, segments, numbering)
    return _module_of(dicom_labels_in(path)).read_segments(path, segments, numbering, volume)


def _module_of(kind):
    if kind == "SEG":
        from common.volumes import dicom_seg  # loads highdicom, which takes a second

        return dicom_seg
    from common.volumes import rtstruct  # only for such files

    return rtstruct

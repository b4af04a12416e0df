"""Label files of a set: label volumes, DICOM SEG, RTSTRUCT and .seg.nrrd, with the same class numbers in all."""

from functools import partial
from pathlib import Path

import numpy as np

from common.errors import InputError, SettingError
from common.lazy import Lazy
from common.parallel import progress
from common.slices.classes import are_sets, is_target, sets_of_numbers
from common.volumes import slicer_files
from common.volumes.finding import dicom_labels_in
from common.volumes.grids import Geometry, image_at, onto_grid
from common.volumes.labels import labels_in
from common.volumes.reading import read_volume
from common.volumes.segments import Canvas, Segment, as_key, describe, number_segments
from common.words import number_of
from common.workers import Threads

sitk = Lazy("SimpleITK")

MASK = "mask"  # key of the segment that is a whole label volume


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
        further, class_of: as of `common.volumes.label_matching.Matched`, or None.
        workers: `common.workers.Threads` or Processes to look into the files; None: one after another.

    Attributes:
        segments: dict of Path to the Segments of a volume, of those that have names.
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
        further=None,
        class_of=None,
        workers=None,
    ):
        if classes and label_values is not None:
            raise SettingError("CLASSES: set together with LABEL_VALUES; use names or numbers, not both")
        if len({as_key(name) for name in classes or []}) < len(classes or []):
            raise SettingError(f"CLASSES: a name is listed twice (found {classes}); list each name once")
        self.series, self.names, self.largest, self.regions = series, names, 1, regions
        self.labels_in = partial(labels_in, label_values=label_values, names=names, ignore=ignore)
        self.segments, self.files, self.failed = {}, {}, {}
        self._look_into(list(paths), further or {}, class_of or {}, survey, workers or Threads())
        if classes and not self.segments and not self.failed:
            raise SettingError("CLASSES: no names in the label files; use it for DICOM SEG, RTSTRUCT or .seg.nrrd only")
        if regions and self.segments:
            raise SettingError("REGIONS: for label volumes of numbers (found segments with names); remove it")
        self.numbering = number_segments(self.segments, classes, label_values, bool(self.failed), overlapping)
        self.overlap = regions.overlap if regions else self.numbering.overlap
        self.largest = max(self.largest, self.numbering.largest)
        for path, files in self.files.items():
            if problem := doubled_segment(files, self.numbering):
                self.failed[path] = problem

    def _look_into(self, paths, further, class_of, survey, workers):
        """Find segments, failures and the largest label of all files; arguments as of the class."""
        files = [{file: class_of.get(file) for file in (path, *further.get(path, ()))} for path in paths]
        look = partial(_look_into, read=self._read_labels if survey else None)
        found = zip(paths, workers.map_large(look, files), strict=True)
        for path, (segments, largest, problem) in progress(found, len(paths), "checking labels"):
            if problem:
                self.failed[path] = problem
            elif segments:
                self.files[path] = segments
                self.segments[path] = [segment for of_file in segments.values() for segment in of_file]
            self.largest = max(self.largest, largest)

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
        """Read the labels of a volume.

        Args:
            path: Path, one of `paths`.
            volume: Geometry of the volume as it is stored.

        Returns:
            SimpleITK.Image on a grid of its own, uint8 or, if classes overlap, uint16; and the number of voxels in
            several segments.

        Raises:
            InputError: if the file is damaged, or does not fit the volume.
        """
        if path in self.failed:
            raise InputError(self.failed[path])
        if path not in self.segments:
            labels, grid = self._read_labels(path)
            if self.regions:
                labels = self.regions.sets_of(labels, path)
            elif self.overlap:
                labels = sets_of_numbers(labels)
            return image_at(labels, grid), 0
        return read_files(self.files[path], self.numbering, volume)

    def _read_labels(self, path):
        """Label volume without names: array of labels, and its Geometry."""
        image = read_volume(path, self.series)
        return self.labels_in(image, path), Geometry.of(image)

    def note_on_overlap(self, overlaps):
        """What a user should know about voxels in several segments, or ""; `overlaps` are their numbers, by `read`."""
        overlaps = [voxels for voxels in overlaps if voxels]
        if not overlaps:
            return ""
        files, voxels = number_of(len(overlaps), "label file"), number_of(sum(overlaps), "voxel")
        found = f"{files} with overlapping segments; {voxels} in several of them"
        if self.overlap:
            return f"{found} stay in all"
        return f"{found} became the highest of their classes; --overlap keep leaves them in all"


def _look_into(files, read):
    """Segments and labels of the label files of a volume.

    Args:
        files: dict of Path to the name of its only class, or None.
        read: function of the Path of a label volume without names to its labels; None: do not read these.

    Returns:
        dict of Path to list of Segment, {} without names; largest label of a label volume without names, at least 1;
        and the message about an unusable file, or "".
    """
    try:
        segments = {file: segments_in(file, name) for file, name in files.items()}
        if all(segments.values()):
            return segments, 1, ""
        if not read:
            return {}, 1, ""
        labels, _ = read(next(iter(files)))
        return {}, max(1, int(labels[is_target(labels)].max(initial=0))), ""
    except InputError as error:
        return {}, 1, str(error)


def doubled_segment(files, numbering):
    """Message about a segment in two files of one volume, or ""; arguments as of `read_files`."""
    found = {}
    for path, segments in files.items():
        for segment in filter(numbering.of, segments):
            other = found.setdefault(as_key(segment.name), path)
            if other != path:
                return (
                    f"{other.parent}: 2 files of one volume contain segment {segment.name!r} "
                    f"({other.name}, {path.name}); keep one of them"
                )
    return ""


def read_files(files, numbering, volume):
    """Read the label files of a volume as one.

    Args:
        files: dict of Path to list of Segment.
        numbering: `common.volumes.segments.Numbering`.
        volume: Geometry of the volume as it is stored.

    Returns:
        SimpleITK.Image, uint8 or, for overlapping classes, uint16; of one file on a grid of its own, of several on the
        one of the volume; and the number of voxels in several classes.

    Raises:
        InputError: if a file is damaged, or does not fit the volume.
    """
    joined, several, overlap = None, False, 0
    for path, segments in files.items():
        image, of_file = read_segments(path, segments, numbering, volume)
        if len(files) == 1:
            return image, of_file
        array = sitk.GetArrayFromImage(labels_onto(image, volume, path))
        joined = np.zeros_like(array) if joined is None else joined
        several, overlap = several | ((joined > 0) & (array > 0) & (joined != array)), overlap + of_file
        joined = joined | array if are_sets(array) else np.maximum(joined, array)
    return image_at(joined, volume), overlap + int(np.count_nonzero(several))


def labels_onto(image, grid, path):
    """Labels, SimpleITK.Image, on a grid, a Geometry; raises InputError if all of them are outside of it."""
    if Geometry.of(image) == grid:
        return image
    found = onto_grid(image, grid)
    if sitk.GetArrayViewFromImage(image).any() and not sitk.GetArrayViewFromImage(found).any():
        raise InputError(f"{path}: all labels are outside their volume; check origin, spacing and axes of both")
    return found


def segments_in(path, class_name=None):
    """List of Segment of a file; [] for a label volume without names.

    Args:
        path: path.
        class_name: name of the class of a label volume that contains one class only; None: any file.

    Raises:
        InputError: if the file is damaged or has no segments.
    """
    path = Path(path)
    if class_name is not None:
        return [Segment(MASK, 1, class_name)]
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
        SimpleITK.Image uint8, or uint16 for overlapping classes, on a grid of its own, and the number of voxels in
        several classes.

    Raises:
        InputError: if the file is damaged, or does not fit the volume.
    """
    if segments[0].key == MASK:
        return _read_class(path, segments[0], numbering)
    if slicer_files.is_slicer_file(path):
        return slicer_files.read_segments(path, segments, numbering)
    return _module_of(dicom_labels_in(path)).read_segments(path, segments, numbering, volume)


def _read_class(path, segment, numbering):
    """Label volume with one class, whatever its value is; as `read_segments`."""
    image = read_volume(path)
    values = sitk.GetArrayViewFromImage(image)
    others = np.setdiff1d(np.unique(values), (0,))
    if len(others) > 1:
        raise InputError(
            f"{path}: expected 0 and one value, of class {segment.name} (found {number_of(len(others), 'value')} up "
            f"to {others[-1]:g}); use a LABEL_NAME without {{class}} for label volumes of several classes"
        )
    canvas = Canvas(values.shape, numbering)
    if number := numbering.of(segment):
        canvas.paint(values != 0, number)
    return image_at(canvas.array, Geometry.of(image)), 0


def _module_of(kind):
    if kind == "SEG":
        from common.volumes import dicom_seg  # loads highdicom, which takes a second

        return dicom_seg
    from common.volumes import rtstruct  # only for such files

    return rtstruct

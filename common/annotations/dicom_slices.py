"""Annotations of DICOM slices: series in a folder, the slice that each annotation is about, and label volumes."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pydicom
import SimpleITK as sitk

from common.annotations.matching import SET_NAME, Images
from common.errors import InputError
from common.files import natural_key, real_path
from common.parallel import ordered_map
from common.slices.cases import Imported
from common.slices.images import cut, encode_png, fit_boxes, window_to_gray
from common.slices.import_notes import ImageNotes
from common.volumes.dicom import find_series
from common.volumes.dicom_files import damaged_dicom
from common.volumes.finding import is_dicom, may_be_dicom
from common.volumes.grids import Geometry, image_at, orient
from common.volumes.slicing import PLANES, open_slices, planes_of, slice_entry, spacing_of_plane
from common.words import number_of

SECRETS = ("PatientName", "PatientID", "PatientBirthDate", "OtherPatientNames", "OtherPatientIDs", "AccessionNumber")
FAR_PIXELS = 2  # that positions in mm and in pixels may differ; viewers count from corners or centers of pixels
FACTS = ("SOPInstanceUID", "InstanceNumber", *SECRETS)


class Series(NamedTuple):
    """A DICOM series.

    Attributes:
        name: its folder below IMAGES, with "/".
        path: Path of its folder.
        number: number for `common.volumes.reading.read_volume`.
        headers: list of common.volumes.dicom_headers.Header, in slice order.
        uids: SOP instance UID of each file.
        shown: slice index of each image in the order in which viewers show them.
        secrets: texts that identify the patient.
    """

    name: str
    path: Path
    number: int
    headers: list
    uids: list
    shown: list
    secrets: list

    @property
    def where(self):
        """Path to read it from: its folder, or its only file."""
        return self.path if len(self.headers) > 1 else self.headers[0].file

    @property
    def count(self):
        """Number of slices; a file can contain several."""
        return self.headers[0].frames if len(self.headers) == 1 else len(self.headers)


def find_dicom(root, files):
    """DICOM series in a folder with its subfolders.

    Args:
        root: Path of the folder.
        files: list of Path of the files in it that are no images.

    Returns:
        list of Series.

    Raises:
        InputError: if a DICOM file is damaged.
    """
    dicom = {path for path in files if may_be_dicom(path) and (path.suffix.lower() == ".dcm" or is_dicom(path))}
    found = []
    for folder in sorted({path.parent for path in dicom}, key=lambda folder: natural_key(folder.relative_to(root))):
        all_series = find_series(folder)
        for number, headers in enumerate(all_series, 1):
            name = folder.relative_to(root).as_posix() if folder != root else real_path(root).name
            name += f"/{headers[0].file.stem}" if len(all_series) > 1 else ""
            found.append(_series(name, folder, number, headers))
    return found


def _series(name, folder, number, headers):
    facts = [_facts(header.file) for header in headers]
    numbers = [one["InstanceNumber"] for one in facts]
    shown = list(range(headers[0].frames if len(headers) == 1 else len(headers)))
    if len(headers) > 1 and len(set(numbers)) == len(numbers) and all(map(str.isdecimal, numbers)):
        shown.sort(key=lambda k: int(numbers[k]))
    secrets = {one[tag] for one in facts for tag in SECRETS} - {""}
    return Series(name, folder, number, headers, [one["SOPInstanceUID"] for one in facts], shown, sorted(secrets))


def _facts(file):
    """FACTS of a DICOM file as text."""
    with damaged_dicom(file):
        content = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(FACTS))
        return {tag: str(content.get(tag) or "").strip() for tag in FACTS}


# --- matching


def match_slices(annotations, all_series, image_root, root):
    """Match annotations to slices: by SOP instance UID, file name, position in mm, or number.

    Args:
        annotations: list of Annotation.
        all_series: list of Series.
        image_root: folder of the images.
        root: folder of the annotations.

    Returns:
        dict of index in `all_series` to dict of slice index to list of Annotation; and list of error messages.
    """
    lookup = _Lookup(all_series, image_root)
    found, problems = {}, []
    for one in annotations:
        try:
            place = lookup.find(one, root)
            if place:
                header = all_series[place[0]].headers[0]
                one.check_size(header.file, header.size[:2])
                found.setdefault(place[0], {}).setdefault(place[1], []).append(one)
            elif one.shapes:
                problems.append(f"{one.file}: no DICOM file {one.image} in {image_root}")
        except InputError as error:
            problems.append(str(error))
    return found, list(dict.fromkeys(problems))


class _Lookup:
    def __init__(self, all_series, image_root):
        self.all_series, self.root = all_series, image_root
        files = {header.file: (i, k) for i, one in enumerate(all_series) for k, header in enumerate(one.headers)}
        self.by_uid = {uid: (i, k) for i, one in enumerate(all_series) for k, uid in enumerate(one.uids) if uid}
        self.by_file, self.images = files, Images(list(files), image_root)

    def find(self, one, root):
        """(index of the series, slice index) of an annotation; None if its file name is unknown."""
        if one.uid:
            if one.uid not in self.by_uid:
                raise InputError(
                    f"{one.file}: no slice with the SOP instance UID of a ROI in {self.root}; use the same DICOM files"
                )
            return self._frame(*self.by_uid[one.uid], one)
        if one.image is not None:
            path = self.images.find(one, root)
            return path and self._frame(*self.by_file[path], one)
        i = self._series_of(one, root)
        return i, self._slice_of(one, self.all_series[i])

    def _frame(self, i, k, one):
        several = self.all_series[i].headers[0].frames > 1
        return i, self._slice_of(one, self.all_series[i]) if several else k

    def _series_of(self, one, root):
        """Index of the series that the name of an annotation file fits."""
        stem = SET_NAME.sub("", one.file.stem)
        folder = one.file.parent.relative_to(root).as_posix() if one.file.is_relative_to(root) else "."
        for fits in (
            lambda s: s.headers[0].file.stem in (one.file.stem, stem) and len(s.headers) == 1,
            lambda s: s.name.split("/")[-1] in (one.file.stem, stem) or s.path.name in (one.file.stem, stem),
            lambda s: s.path.relative_to(self.root).as_posix() == folder,
            lambda s: len(s.headers) == 1 and stem and s.headers[0].file.stem.startswith(f"{stem}_"),  # INbreast
            lambda s: True,
        ):
            found = [i for i, series in enumerate(self.all_series) if fits(series)]
            if len(found) == 1:
                return found[0]
        raise InputError(
            f"{one.file}: which of {number_of(len(self.all_series), 'series', 'series')} in {self.root} it is about is "
            "unclear; name it after the folder of its series"
        )

    def _slice_of(self, one, series):
        """Slice index of an annotation in its series."""
        k = _at_position(one.middle, series) if one.middle else None
        if k is not None:
            return k
        if series.count == 1 and not one.index:
            return 0
        if one.index is None:
            slices = number_of(series.count, "slice")
            raise InputError(f"{one.file}: a ROI without a slice number (its series has {slices}); export it again")
        if one.index >= series.count:
            raise InputError(
                f"{one.file}: no image {one.index} in its series (found {number_of(series.count, 'slice')}); use the "
                "same DICOM files"
            )
        return series.shown[one.index]


def _at_position(middle, series):
    """Slice index of a point that is known in mm and in pixels; None if the two do not agree, or positions are unknown.

    Args:
        middle: `Annotation.middle`.
        series: Series.
    """
    first = series.headers[0]
    places = [header.positions[0] for header in series.headers if header.positions]
    places = np.array(first.positions if len(series.headers) == 1 else places)
    if first.orientation is None or len(places) != series.count:
        return None
    point, (x, y) = np.array(middle[:3]), middle[3:]
    right, down = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    by_row, by_column = first.spacing
    on_slices = places + right * by_column * x + down * by_row * y
    normal = np.cross(right, down)
    k = int(np.argmin(np.abs((on_slices - point) @ normal)))
    away = on_slices[k] - point
    half = np.median(np.abs(np.diff(places @ normal))) / 2 if len(places) > 1 else np.inf
    agrees = max(abs(away @ right) / by_column, abs(away @ down) / by_row) <= FAR_PIXELS
    return k if agrees and abs(away @ normal) <= half else None


# --- slices


class SeriesSlicing(NamedTuple):
    """Settings of 0_import_annotations.py that decide how a series becomes slices, as there.

    Attributes:
        only_annotated: whether to skip slices without annotations.
    """

    window: list | None
    percentiles: list
    bits: int
    size: int
    fit: str
    only_annotated: bool


def import_series(source, classes, how):
    """Read a series, draw its annotations, and cut its slices.

    Args:
        source: Source.
        classes: Classes.
        how: SeriesSlicing.

    Returns:
        Imported.

    Raises:
        InputError: if the series cannot be read.
    """
    series, size = source.image, how.size
    plane = plane_of(series.headers[0])
    number = series.number if series.where == series.path else None
    values, ((low, high),), volume = open_slices(series.where, plane, how.window, how.percentiles, None, number)
    masks, annotated, several = _masks_of(source, Geometry(**volume["geometry"]), plane, classes)
    shape = values.shape[1:]
    (box,) = fit_boxes(shape, size, how.fit)

    def make_slice(i):
        image = cut(window_to_gray(values[i], low, high, how.bits), box, size)
        mask = cut(np.ascontiguousarray(masks[i]), box, size, cv2.INTER_NEAREST)
        return encode_png(image), encode_png(mask), slice_entry(shape, i, box)

    wanted = [i for i in range(len(values)) if annotated[i].any() or not how.only_annotated]
    spacing = spacing_of_plane(Geometry(**volume["grid"]).spacing, plane)
    record = {"spacing": spacing, "window": [low, high], "volume": volume}
    notes = ImageNotes(max(shape) / min(shape), several=several)
    return Imported(ordered_map(make_slice, wanted), record, set(np.unique(masks).tolist()), notes)


def _masks_of(source, geometry, plane, classes):
    """Masks in display order, and where slices are annotated, (slices, H, W); and pixels of several classes."""
    labels, annotated, several = np.zeros(geometry.shape, classes.type), np.zeros(geometry.shape, np.uint8), 0
    for k, annotations in source.annotations.items():
        shapes = [shape for one in annotations for shape in one.shapes]
        labels[k], more = classes.draw(shapes, geometry.shape[1:])
        annotated[k] = 1
        several += more
    arrays = (classes.in_files(labels), annotated)
    found = [planes_of(sitk.GetArrayFromImage(orient(image_at(array, geometry))), plane) for array in arrays]
    return *found, several


def plane_of(header):
    """Plane in which a series was acquired: a name in `common.volumes.slicing.PLANES`."""
    if header.orientation is None:
        return "axial"
    normal = np.abs(np.cross(header.orientation[:3], header.orientation[3:]))
    axis = 2 - int(np.argmax(normal))  # of an array (S, P, L)
    return next(plane for plane, (cut, _) in PLANES.items() if cut == axis)

"""Cut the slices of a volume with its labels: the work of 0_import_volumes.py, in this process or in a worker."""

from typing import NamedTuple

import cv2
import numpy as np

from common.errors import InputError, SettingError
from common.lazy import Lazy
from common.parallel import ordered_map
from common.slices.cases import Imported
from common.slices.classes import is_target, type_of_masks
from common.slices.images import cut, encode_png, encode_slice, fit_boxes
from common.volumes.grids import Box, Geometry, orient, reaches_beyond
from common.volumes.label_files import labels_onto
from common.volumes.slicing import open_slices, planes_of, slice_entry, spacing_of_plane, to_gray_levels, with_neighbors

sitk = Lazy("SimpleITK")


class Slicing(NamedTuple):
    """Settings of 0_import_volumes.py that decide how a volume becomes slices, as there.

    Attributes:
        only_labeled: whether to skip slices without a label.
    """

    plane: str
    spacing: float | list | None
    series: int | str | None
    not_finite: float | None
    window: list | None
    percentiles: list
    bits: int
    neighbors: int
    size: int
    fit: str
    only_labeled: bool


class VolumeNotes(NamedTuple):
    """Facts about an imported volume.

    Attributes:
        labeled: share of the slices that have a label.
        overlap: number of voxels in several segments of its label files.
        cut: whether its labels reach more than a voxel beyond it.
    """

    labeled: float
    overlap: int
    cut: bool


def import_volume(source, label_files, how):
    """Read a volume and cut its slices.

    Args:
        source: list of the Paths of its channels, and Path of its labels or None for black masks.
        label_files: `common.volumes.label_files.LabelFiles` of all volumes.
        how: Slicing.

    Returns:
        Imported; its notes are VolumeNotes.

    Raises:
        InputError: if the volume cannot be read, or has no label.
    """
    paths, label_path = source
    reading = how.spacing, how.series, how.not_finite
    values, levels, volume = open_slices(paths, how.plane, how.window, how.percentiles, *reading, several=True)
    if len(levels) > 1 and how.neighbors:
        raise SettingError(f"NEIGHBORS: only for volumes with one channel (found {len(levels)}); set it to 0")
    grid, shape, overlap, are_cut = Geometry(**volume["grid"]), values.shape[1:3], 0, False
    masks = np.zeros(values.shape[:3], type_of_masks(label_files.overlap))
    if label_path:
        labels, overlap, are_cut = _read_labels(label_path, label_files, volume)
        masks = planes_of(labels, how.plane)
    are_labeled = [bool(is_target(mask).any()) for mask in masks]
    wanted = [i for i, is_labeled in enumerate(are_labeled) if is_labeled or not how.only_labeled]
    if not wanted:
        raise InputError(f"{paths[0]}: no slice has a label; remove the volume, or use --slices all")
    (box,) = fit_boxes(shape, how.size, how.fit)

    def make_slice(i):
        mask = np.ascontiguousarray(masks[i])
        if label_files.largest == 1 and not label_files.overlap:
            mask = np.where(is_target(mask), np.uint8(255), mask)
        image = to_gray_levels(with_neighbors(values, i, how.neighbors), levels, how.bits)
        mask = cut(mask, box, how.size, cv2.INTER_NEAREST)
        return encode_slice(cut(image, box, how.size)), encode_png(mask), slice_entry(shape, i, box)

    common = list(levels[0]) if len(set(map(tuple, levels))) == 1 else None
    record = {"spacing": spacing_of_plane(grid.spacing, how.plane), "window": common, "volume": volume}
    notes = VolumeNotes(sum(are_labeled) / len(are_labeled), overlap, are_cut)
    return Imported(ordered_map(make_slice, wanted), record, notes=notes)


def _read_labels(path, label_files, volume):
    """Labels on the grid of the slices, (S, P, L), the number of voxels in several segments, and whether they are cut.

    Args:
        path, label_files: as for `import_volume`.
        volume: entry of case.json.
    """
    geometry = Geometry(**volume["geometry"])
    image, overlap = label_files.read(path, geometry)
    labels = sitk.GetArrayFromImage(orient(labels_onto(image, Geometry(**volume["grid"]), path)))
    own = Geometry.of(image)
    box = Box.of(sitk.GetArrayViewFromImage(image)) if own != geometry else None
    return labels, overlap, box is not None and reaches_beyond(box, own, geometry)

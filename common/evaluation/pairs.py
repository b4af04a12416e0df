"""Match predicted and true masks, slices or label volumes, and read both."""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError
from common.files import natural_key
from common.settings import require_folder
from common.slices.case_files import read_case_record
from common.slices.cases import find_slices, match_files, pixel_spacing
from common.slices.images import read_picture, to_gray
from common.slices.masks import check_mask_values, class_count, values_of
from common.volumes.finding import ending_of, find_volumes
from common.volumes.grids import Geometry
from common.volumes.labels import labels_in
from common.volumes.privacy import plain_name, read_names_table
from common.volumes.reading import read_volume

GEOMETRY_TOLERANCE = 1e-3  # tolerance for origin, spacing and axes of predicted and true volumes


class Pair(NamedTuple):
    """A predicted mask and its true mask.

    Attributes:
        case: case name; "" for loose images.
        name: slice name, or "volume".
        predicted, truth: files.
        spacing: mm between pixels along each axis; None if unknown.
    """

    case: str
    name: str
    predicted: Path
    truth: Path
    spacing: tuple | None

    @property
    def is_volume(self):
        return bool(ending_of(self.truth))


def match_pairs(predicted, truth, label_name="{id}", names_table=""):
    """Pair predicted and true masks by case and name, or label volumes by name.

    Args:
        predicted: OUTPUT folder of predict.py, or any input of `find_slices`.
        truth: any input of `find_slices`, or a folder of label volumes.
        label_name: true label volume name, with {id} for the predicted name without "case_".
        names_table: setting NAMES_TABLE: table of the names behind numbered predictions; "": same names.

    Returns:
        list of Pair, in natural order.

    Raises:
        InputError: if a mask has no partner, or no masks are found.
    """
    if holds_volumes(truth):
        pairs = _match_volumes(predicted, truth, label_name, read_names_table(names_table))
    elif names_table:
        raise InputError("NAMES_TABLE: only for label volumes (TRUTH is images); leave it empty")
    else:
        pairs = _match_slices(predicted, truth)
    return sorted(pairs, key=lambda pair: (natural_key(pair.case), natural_key(pair.name)))


def holds_volumes(path):
    """Whether a path is a label volume or a folder of label volumes; False for ""."""
    path = Path(path) if str(path) else None
    return bool(path) and any(
        ending_of(file) not in ("", ".dcm")
        for file in ([path] if path.is_file() else path.iterdir() if path.is_dir() else [])
    )


def _match_slices(predicted, truth):
    predictions = {(s.case, s.name): s.path for s in find_slices(predicted, "y", "PREDICTED")}
    masks = {(s.case, s.name): s.path for s in find_slices(truth, "y", "TRUTH")}
    if not predictions.keys() & masks.keys():  # one side may be in case folders, the other loose
        predictions, masks = (_without_only_case(side) for side in (predictions, masks))
    record_of = functools.cache(read_case_record)  # a case has many slices
    return [
        Pair(*key, prediction, mask, pixel_spacing(record_of(mask.parent.parent), mask.stem))
        for key, prediction, mask in _match(predictions, masks, predicted, truth)
    ]


def _match_volumes(predicted, truth, label_name, own_names):
    root = require_folder(predicted, "PREDICTED")
    files = [path for path in root.iterdir() if ending_of(path) not in ("", ".dcm")]
    names = {path: path.name[: -len(ending_of(path))].removeprefix("case_") for path in files}
    own = {path: own_names.get(name, name) for path, name in names.items()}
    predictions = {label_name.format(id=name).removeprefix("case_"): path for path, name in own.items()}
    masks = {plain_name(name).removeprefix("case_"): path for name, path in find_volumes(truth).items()}
    if len(predictions) == len(masks) == 1:
        masks = dict.fromkeys(predictions, *masks.values())
    matched = _match(predictions, masks, predicted, truth)
    return [Pair(names[prediction], "volume", prediction, mask, None) for _, prediction, mask in matched]


def _without_only_case(masks):
    return {("", name): path for (_, name), path in masks.items()} if len({case for case, _ in masks}) == 1 else masks


def _match(predictions, masks, predicted, truth):
    missing = f"true mask in {truth}", f"predicted mask in {predicted}"
    return match_files(predictions, masks, *missing, "masks have no partner")


# --- reading


def read_mask(path):
    """Read a mask or label volume.

    Returns:
        (H, W) or (k, j, i) uint8, and its Geometry (None for an image).

    Raises:
        InputError: if its values are not mask values.
    """
    if not ending_of(path):
        mask = to_gray(read_picture(path))
        check_mask_values(values_of(mask), path)
        return mask.astype(np.uint8), None
    image = read_volume(path)
    return labels_in(image, path, allow_255=True), Geometry.of(image)


def values_in(mask):
    """Set of int values in a mask with two or three axes."""
    return values_of(mask.reshape(-1, mask.shape[-1]))


def read_masks(pair):
    """Read both masks of a pair, with their spacing and the values in the files.

    Returns:
        predicted and truth, class numbers as uint8 arrays of the same shape, with 255 converted to 1; mm along each
        axis, or None; and the sets of values of both.

    Raises:
        InputError: if one is unreadable, or they do not match.
    """
    (predicted, geometry), (truth, true_geometry) = (read_mask(path) for path in (pair.predicted, pair.truth))
    if predicted.shape != truth.shape:
        found, expected = ("x".join(map(str, mask.shape[::-1])) for mask in (predicted, truth))
        raise InputError(
            f"{pair.predicted}: size differs from {pair.truth} (found {found}, expected {expected}); "
            "check that both belong to the same image"
        )
    if geometry and not all(
        np.allclose(a, b, rtol=GEOMETRY_TOLERANCE, atol=GEOMETRY_TOLERANCE)
        for a, b in zip(geometry, true_geometry, strict=True)
    ):
        raise InputError(
            f"{pair.predicted}: position or spacing differs from {pair.truth}; check that both belong to the same image"
        )
    values = values_in(predicted), values_in(truth)
    predicted, truth = (
        np.where(mask == 255, np.uint8(1), mask) if 255 in present else mask
        for mask, present in zip((predicted, truth), values, strict=True)
    )
    return predicted, truth, true_geometry.spacing[::-1] if true_geometry else pair.spacing, values


def count_classes(pairs, values, truth):
    """Count the classes of a set of pairs.

    Args:
        pairs: list of Pair.
        values: sets of predicted and true values of each pair, from `read_masks`.
        truth: setting TRUTH, for messages.

    Raises:
        InputError: if true values are not class numbers, or a predicted mask contains other values.
    """
    known = set().union(*(true_values for _, true_values in values))
    volumes = pairs[0].is_volume
    classes = 1 if volumes and known <= {0, 1} else class_count(known, truth)
    allowed = {0, 255} | ({1} if volumes else set()) if classes == 1 else set(range(classes + 1))
    for pair, (predicted_values, _) in zip(pairs, values, strict=True):
        if unknown := sorted(predicted_values - allowed):
            raise InputError(
                f"{pair.predicted}: unexpected value (found {unknown[0]}; the true masks contain {sorted(known)}); "
                "check that both use the same classes"
            )
    return classes

"""Predicted masks and the true ones that they belong to: slices or label volumes."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from common.cases import find_slices, pixel_spacing, read_case_record
from common.errors import InputError, summarise
from common.files import natural_key, require_folder
from common.images import check_mask_values, class_count, read_picture, to_gray, values_of
from common.parallel import ordered_map
from common.volumes import Geometry, ending_of, find_volumes, read_volume

PLACE = 1e-3  # by which the geometry of a predicted volume may differ from that of the true one


class Pair(NamedTuple):
    """A predicted mask and the true one.

    Attributes:
        case: name, "" for loose pictures.
        name: of the slice, or "volume".
        predicted, truth: files.
        spacing: mm between pixels along each axis, or None where it is not known.
    """

    case: str
    name: str
    predicted: Path
    truth: Path
    spacing: tuple | None


def match_pairs(predicted, truth, label_name="{id}"):
    """Pair predicted and true masks by case and name, or label volumes by name.

    Args:
        predicted: folder that predict.py wrote, or any that `find_slices` takes.
        truth: what `find_slices` takes, or a folder of label volumes.
        label_name: name of the true labels of a volume, with {id} for that of the predicted ones without "case_".

    Returns:
        list of Pair, in natural order.

    Raises:
        InputError: if a mask has no partner, or none is there.
    """
    pairs = _match_volumes(predicted, truth, label_name) if holds_volumes(truth) else _match_slices(predicted, truth)
    return sorted(pairs, key=lambda pair: (natural_key(pair.case), natural_key(pair.name)))


def holds_volumes(place):
    """Whether a place is a label volume, or a folder of such."""
    path = Path(place) if str(place) else None
    return bool(path) and any(
        ending_of(file) not in ("", ".dcm")
        for file in ([path] if path.is_file() else path.iterdir() if path.is_dir() else [])
    )


def _match_slices(predicted, truth):
    guesses = {(s.case, s.name): s.path for s in find_slices(predicted, "y", "PREDICTED")}
    masks = {(s.case, s.name): s.path for s in find_slices(truth, "y", "TRUTH")}
    if not guesses.keys() & masks.keys():  # the one side may be in case folders and the other loose
        guesses, masks = (_without_only_case(side) for side in (guesses, masks))
    _refuse_alone(guesses, masks, predicted, truth)
    return [Pair(*key, guesses[key], masks[key], _spacing_of(masks[key])) for key in guesses]


def _match_volumes(predicted, truth, label_name):
    root = require_folder(predicted, "PREDICTED")
    files = [path for path in root.iterdir() if ending_of(path) not in ("", ".dcm")]
    names = {path: path.name[: -len(ending_of(path))].removeprefix("case_") for path in files}
    guesses = {label_name.format(id=name).removeprefix("case_"): path for path, name in names.items()}
    masks = {name.removeprefix("case_"): path for name, path in find_volumes(truth).items()}
    if len(guesses) == len(masks) == 1:
        masks = dict.fromkeys(guesses, *masks.values())
    _refuse_alone(guesses, masks, predicted, truth)
    return [Pair(names[path], "volume", path, masks[key], None) for key, path in guesses.items()]


def _refuse_alone(guesses, masks, predicted, truth):
    alone = [f"{path} has no true mask in {truth}" for key, path in guesses.items() if key not in masks]
    alone += [f"{path} has no predicted mask in {predicted}" for key, path in masks.items() if key not in guesses]
    if alone:
        raise InputError(summarise(alone, "masks have no partner"))


def _without_only_case(masks):
    return {("", name): path for (_, name), path in masks.items()} if len({case for case, _ in masks}) == 1 else masks


def _spacing_of(mask):
    """(row, column) spacing of a slice of a case folder in mm; None where it is not known."""
    return pixel_spacing(read_case_record(mask.parent.parent), mask.stem)


# --- reading


def find_classes(pairs, truth):
    """Number of classes in the true masks; `truth` is for messages."""
    values = set()
    for found in ordered_map(lambda pair: values_in(read_mask(pair.truth)[0]), pairs):
        values |= found
    return 1 if holds_volumes(truth) and values <= {0, 1} else class_count(values, truth)


def read_mask(path):
    """A mask or label volume.

    Returns:
        (H, W) or (S, H, W) uint8, and its Geometry, None for a picture.

    Raises:
        InputError: if its values are no mask's.
    """
    if not ending_of(path):
        mask = to_gray(read_picture(path))
        check_mask_values(values_of(mask), path)
        return mask.astype(np.uint8), None
    image = read_volume(path)
    values = sitk.GetArrayFromImage(image)
    if values.min() < 0 or values.max() > 255 or not np.array_equal(values, np.rint(values)):
        raise InputError(f"{path} holds values from {values.min():g} to {values.max():g}; expected labels 0 to 99")
    mask = values.astype(np.uint8)
    check_mask_values(values_in(mask), path)
    return mask, Geometry.of(image)


def values_in(mask):
    """Values that a mask of two or three axes holds, as a set of int."""
    return values_of(mask.reshape(-1, mask.shape[-1]))


def read_pair(pair, classes):
    """Class numbers of both masks of a pair, and the spacing.

    Returns:
        predicted and truth, uint8 arrays of the same shape; mm along each axis, or None.

    Raises:
        InputError: if one cannot be read, or they do not fit.
    """
    masks, geometries = [], []
    for path in (pair.predicted, pair.truth):
        mask, geometry = read_mask(path)
        allowed = {0, 255} | ({1} if geometry else set()) if classes == 1 else set(range(classes + 1))
        if odd := sorted(values_in(mask) - allowed):
            raise InputError(f"{path} holds the value {odd[0]}; expected {sorted(allowed)}, as in the true masks")
        masks.append((mask > 0).astype(np.uint8) if classes == 1 else mask)
        geometries.append(geometry)
    if masks[0].shape != masks[1].shape:
        sizes = " and ".join("x".join(map(str, mask.shape[::-1])) for mask in masks)
        raise InputError(f"{pair.predicted} and {pair.truth} differ in size: {sizes}")
    ours, theirs = geometries
    if ours and not all(np.allclose(a, b, rtol=PLACE, atol=PLACE) for a, b in zip(ours, theirs, strict=True)):
        raise InputError(f"{pair.predicted} and {pair.truth} lie at different places, or differ in spacing")
    return *masks, ours.spacing[::-1] if ours else pair.spacing

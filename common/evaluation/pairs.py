"""Match predicted and true masks, slices or label volumes, and read both."""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError
from common.evaluation.volume_classes import recorded_regions
from common.evaluation.volume_pairs import find_sides, holds_volumes, read_both, require_scans
from common.files import natural_key, read_json, real_path
from common.prediction.outputs import RECORD
from common.settings import require_folder
from common.slices.case_files import is_pseudo_labeled, read_case_record
from common.slices.cases import find_slices, is_case, is_case_name, match_files
from common.slices.classes import IGNORED, NESTED, OVERLAPPING, are_sets, classes_in, is_ignored
from common.slices.images import read_image, to_gray, without_soft_edges
from common.slices.mask_files import CLASSES
from common.slices.masks import check_mask_values, class_count_of_files, refuse_samples, values_of
from common.slices.matching import by_mask_name, patients_in
from common.slices.matrices import MatrixSlice, are_matrices, find_matrix_slices
from common.slices.preparation import pixel_spacing
from common.slices.regions import Regions
from common.volumes.finding import ending_of, is_volume
from common.volumes.grids import Geometry
from common.volumes.privacy import read_names_table
from common.words import number_of

GEOMETRY_TOLERANCE = 1e-3  # tolerance for origin, spacing and axes of predicted and true volumes


class Masks(NamedTuple):
    """Both masks of a Pair.

    Attributes:
        predicted, truth: class numbers as uint8 arrays of the same shape, with 255 converted to 1.
        spacing: mm along each axis, or None.
        values: the sets of values in the predicted and the true file.
        geometry: Geometry of a volume; None for images.
    """

    predicted: np.ndarray
    truth: np.ndarray
    spacing: tuple | None
    values: tuple
    geometry: Geometry | None


class Pair(NamedTuple):
    """A predicted mask and its true mask.

    Attributes:
        case: case name; "" for loose images.
        name: slice name, or "volume".
        predicted, truth: files.
        spacing: mm between pixels along each axis; None if unknown.
        ignore: value of true pixels that do not count, besides IGNORED; None: no other.
        overlap: how classes share pixels; see `common.slices.classes`.
        labels: predicted and true `common.evaluation.volume_classes.Labels` of a volume; () for images.
    """

    case: str
    name: str
    predicted: Path
    truth: Path
    spacing: tuple | None
    ignore: int | None = None
    overlap: str = ""
    labels: tuple = ()

    @property
    def is_volume(self):
        return bool(self.labels)


def match_pairs(
    predicted,
    truth,
    label_name="{id}",
    names_table="",
    unmatched="stop",
    case_from="folder",
    images="",
    classes=None,
    regions=None,
):
    """Pair predicted and true masks by case and name, or label volumes by name.

    Args:
        predicted: OUTPUT folder of predict.py, or any input of `find_slices`.
        truth: any input of `find_slices`, or a folder of label volumes.
        label_name: true label volume name, with {id} for the predicted name without "case_", and {class} if each class
            has a file.
        names_table: setting NAMES_TABLE: table of the names behind numbered predictions; "": same names.
        unmatched: "stop", or "skip" masks without a partner.
        case_from: "folder", or "image" if each loose image is a case.
        images: folder of the volumes that DICOM SEG and RTSTRUCT refer to; "": those in `truth`.
        classes: names of segments in class order; None: those of predict.py, or all.
        regions: setting REGIONS: classes of several numbers in true label volumes; None: numbers are classes.

    Returns:
        list of Pair, in natural order.

    Raises:
        InputError: if a mask has no partner, or no masks are found.
    """
    if holds_volumes(truth):
        names = read_names_table(names_table)
        pairs = _match_volumes(predicted, truth, label_name, names, unmatched, images, classes, regions)
    elif names_table or classes or regions:
        find_slices(truth, "y", "TRUTH")  # raises if it contains nothing
        setting = "NAMES_TABLE" if names_table else "CLASSES" if classes else "REGIONS"
        raise InputError(f"{setting}: only for label volumes (TRUTH is images); leave it out")
    else:
        pairs = _match_slices(predicted, truth, unmatched)
        if not any(pair.case for pair in pairs) and not any(map(known_case, (predicted, truth))):
            pairs = _with_cases(pairs, case_from)
    return sorted(pairs, key=lambda pair: (natural_key(pair.case), natural_key(pair.name)))


def _with_cases(pairs, case_from):
    """Pairs of loose images with the cases that their names tell, or a case each."""
    names = [pair.name for pair in pairs]
    patients = dict(zip(names, names, strict=True)) if case_from == "image" else patients_in(names)
    if patients:
        return [pair._replace(case=patients[pair.name]) for pair in pairs]
    if len(pairs) > 1:
        print(f"{number_of(len(pairs), 'image')} count as one case; if each is a patient, pass --case-from image")
    return pairs


def _match_slices(predicted, truth, unmatched):
    predictions, masks = (
        {(s.case, s.name): s.path for s in find_slices_of(source, setting)}
        for source, setting in ((predicted, "PREDICTED"), (truth, "TRUTH"))
    )
    if not predictions.keys() & masks.keys() or any(not case for case, _ in (*predictions, *masks)):
        predictions, masks = _as_one_case(predictions, masks, predicted, truth)
    masks = by_mask_name(predictions, masks)
    record_of = functools.cache(read_case_record)  # a case has many slices
    cases = sorted({mask.parent.parent for mask in masks.values()})
    if pseudo_labeled := [case for case in cases if is_pseudo_labeled(record_of(case))]:
        raise InputError(
            f"TRUTH: {pseudo_labeled[0]} contains masks of a model, not true ones (found {len(pseudo_labeled)} "
            "pseudo-labeled); leave such cases out"
        )
    overlaps = {record_of(case).get("overlap") or "" for case in cases}
    if len(overlaps) > 1:
        found = " and ".join(sorted(overlap or "exclusive" for overlap in overlaps))
        raise InputError(f"TRUTH: cases differ in how classes overlap (found {found}); import all the same way")
    (overlap,) = overlaps
    if not overlap and (found := overlap_of(predicted)):
        raise InputError(
            f"PREDICTED: {predicted} contains {found} classes (found exclusive ones in {truth}); for one of them, "
            f"pass its folder in {Path(predicted, CLASSES)}"
        )
    return [
        Pair(*key, prediction, mask, pixel_spacing(record_of(mask.parent.parent), mask.stem), overlap=overlap)
        for key, prediction, mask in _match(predictions, masks, predicted, truth, unmatched)
    ]


def find_slices_of(source, setting, side="y"):
    """Slices as by `find_slices`, or of files of numbers; `side` is "x" for images, "y" for masks."""
    if source and are_matrices(source):
        return find_matrix_slices(source, setting, "masks" if side == "y" else "images")
    return find_slices(source, side, setting)


def overlap_of(predicted):
    """How classes share pixels in an OUTPUT of predict.py; "" for exclusive ones and for anything else."""
    found = _record_of(predicted).get("overlap")
    return found if found in (OVERLAPPING, NESTED) else ""


def _record_of(predicted):
    """Content of prediction.json in an OUTPUT of predict.py as a dict; {} for anything else."""
    path = Path(predicted, RECORD)
    record = read_json(path) if path.is_file() else {}
    return record if isinstance(record, dict) else {}


def _as_one_case(predictions, masks, predicted, truth):
    """Match the masks of single cases by slice name if one side is in a case folder and the other is loose.

    Returns:
        predictions and masks without case names, or unchanged if a side has several cases.

    Raises:
        InputError: if both sides are known to be of different cases.
    """
    cases = [{case for case, _ in side} for side in (predictions, masks)]
    if max(map(len, cases)) > 1:
        return predictions, masks
    names = [case or known_case(source) for (case,), source in zip(cases, (predicted, truth), strict=True)]
    if all(names) and len({name.removeprefix("case_") for name in names}) > 1:
        raise InputError(
            f"PREDICTED: {predicted} contains {names[0]} (found {names[1]} in TRUTH, {truth}); "
            "choose masks of the same case, or rename the case folder if both are the same"
        )
    if cases[0] != cases[1] and not all(names):
        loose, name = (truth, names[0]) if names[0] else (predicted, names[1])
        print(f"taking the masks in {loose} as {name}: nothing there says which case they are")
    return [{("", name): path for (_, name), path in side.items()} for side in (predictions, masks)]


def known_case(source):
    """Case name that a folder of loose masks is known to have; "" if unknown.

    Args:
        source: case folder, its x or y, a case in an OUTPUT of predict.py, or such an OUTPUT of a single case.
    """
    root = real_path(source)
    for folder in (root, root.parent):
        if is_case(folder):
            return folder.name
    if (root.parent / RECORD).is_file():
        return root.name
    record = read_json(root / RECORD) if (root / RECORD).is_file() else {}
    given = record.get("INPUT") if isinstance(record, dict) else None
    name = Path(given).name if isinstance(given, str) else ""
    return name if is_case_name(name) and not ending_of(name) and not name.lower().endswith(".csv") else ""


def predicted_images(predicted):
    """Images that predict.py read, if they are still there: the INPUT in prediction.json, or "" """
    record = read_json(Path(predicted) / RECORD) if (Path(predicted) / RECORD).is_file() else {}
    given = record.get("INPUT") if isinstance(record, dict) else None
    return given if isinstance(given, str) and Path(given).exists() and not is_volume(given) else ""


def _match_volumes(predicted, truth, label_name, own_names, unmatched, *how):
    if not Path(predicted).is_file():
        require_folder(predicted, "PREDICTED")
    names, regions = map(_record_of(predicted).get, ("class_names", "regions"))
    recorded = (
        list(map(str, names)) if isinstance(names, list) else [],
        overlap_of(predicted),
        recorded_regions(regions),
    )
    predictions, masks = find_sides(predicted, truth, label_name, own_names, *how, *recorded)
    if len(predictions) == len(masks) == 1 and Path(truth).is_file():
        (prediction,), (mask,) = predictions.values(), masks.values()
        if predictions.keys() != masks.keys():
            print(f"scoring {prediction.path} against {mask.path}: their names differ, but TRUTH is one file")
        masks = dict.fromkeys(predictions, mask)
    if unmatched == "stop":
        require_scans(predictions, masks, how[0] or truth)
    paths = [{name: labels.path for name, labels in side.items()} for side in (predictions, masks)]
    matched = _match(*paths, predicted, f"{truth} (see LABEL_NAME, NAMES_TABLE and IMAGES)", unmatched)
    pairs = [(predictions[name], masks[name]) for name, *_ in matched]
    return [
        Pair(both[0].case, "volume", *(labels.path for labels in both), None, overlap=both[1].overlap, labels=both)
        for both in pairs
    ]


def _match(predictions, masks, predicted, truth, unmatched):
    if not predictions and not masks:
        raise InputError(f"PREDICTED: no masks in {predicted} (found none in TRUTH, {truth}, either); choose the masks")
    missing = f"true mask in {truth}", f"predicted mask in {predicted}"
    both = predictions.keys() & masks.keys()
    if unmatched == "skip" and both:
        alone = len(predictions) + len(masks) - 2 * len(both)
        predictions, masks = ({key: side[key] for key in side if key in both} for side in (predictions, masks))
        if alone:
            print(f"skipped {number_of(alone, 'mask')} without a partner")
    return match_files(predictions, masks, *missing, "masks have no partner; --unmatched skip leaves them out")


# --- reading


def read_mask(path, ignore=None, overlap=""):
    """Read a mask.

    Args:
        path: file, or MatrixSlice.
        ignore: value of pixels that do not count, which becomes IGNORED; None: none.
        overlap: how classes share pixels: then images of 16 bits are sets of classes, and others class numbers.

    Returns:
        (H, W) uint8, or uint16 for overlapping classes.

    Raises:
        InputError: if its values are not mask values.
    """
    mask = _whole_numbers(path) if isinstance(path, MatrixSlice) else without_color(read_image(path), path)
    if overlap and are_sets(mask):
        return mask
    mask = mask if ignore is None else np.where(mask == ignore, mask.dtype.type(IGNORED), mask)
    if mask.dtype == np.uint8:
        mask = without_soft_edges(mask, path)
    check_mask_values(values_of(mask), path)
    mask = mask.astype(np.uint8)
    return Regions(overlap).sets_of(mask, path) if overlap else mask


def _whole_numbers(matrix):
    """Class numbers of a MatrixSlice as uint8; raises InputError for others than 0 to 255."""
    numbers = np.asarray(matrix.read())
    if not (numbers == np.clip(np.rint(numbers), 0, 255)).all():
        found = f"found {numbers.min():g} to {numbers.max():g}"
        raise InputError(f"{matrix}: expected class numbers ({found}); choose the masks, not the images")
    return numbers.astype(np.uint8)


def without_color(picture, path):
    """Mask (H, W) of an image with one channel, or three equal ones; raises InputError for colors."""
    if picture.ndim == 3 and not (picture == picture[..., :1]).all():
        raise InputError(
            f"{path}: a color image (expected a mask with 0 and 255 or class numbers); "
            "choose the folder of the masks, not of overlays"
        )
    refuse_samples(picture, path)
    return to_gray(picture)


def values_in(mask):
    """Set of int values in a mask with two or three axes; of overlapping classes their numbers, 0 and IGNORED."""
    if are_sets(mask):
        return {0, *classes_in(mask), *([IGNORED] if is_ignored(mask).any() else [])}
    return values_of(mask.reshape(-1, mask.shape[-1]))


def read_masks(pair):
    """Read both masks of a pair as Masks, with their spacing and the values in the files.

    Raises:
        InputError: if one is unreadable, or they do not match.
    """
    geometry = true_geometry = None
    if pair.is_volume:
        (predicted, geometry), (truth, true_geometry) = read_both(*pair.labels, pair.ignore)
    else:
        predicted = read_mask(pair.predicted, overlap=pair.overlap)
        truth = read_mask(pair.truth, pair.ignore, pair.overlap)
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
        np.where(mask == 255, np.uint8(1), mask) if 255 in present and not are_sets(mask) else mask
        for mask, present in zip((predicted, truth), values, strict=True)
    )
    spacing = true_geometry.spacing[::-1] if true_geometry else pair.spacing
    return Masks(predicted, truth, spacing, values, true_geometry)


def count_classes(pairs, values, truth):
    """Count the classes of a set of pairs.

    Args:
        pairs: list of Pair.
        values: sets of predicted and true values of each pair, from `read_masks`.
        truth: setting TRUTH, for messages.

    Raises:
        InputError: if true values are not class numbers, or a predicted mask contains other values.
    """
    known = set().union(*(true_values for _, true_values in values)) - {IGNORED}
    volumes = pairs[0].is_volume or any(isinstance(side, MatrixSlice) for side in pairs[0][2:4])  # 1 is the class
    if pairs[0].overlap:
        return max(2, *known, *(value for both in values for found in both for value in found - {IGNORED}))
    by_file = {pair.truth: true_values - {IGNORED} for pair, (_, true_values) in zip(pairs, values, strict=True)}
    classes = 1 if volumes and known <= {0, 1} else class_count_of_files(by_file, truth)
    allowed = {0, 255} | ({1} if volumes else set()) if classes == 1 else set(range(classes + 1))
    for pair, (predicted_values, _) in zip(pairs, values, strict=True):
        if unknown := sorted(predicted_values - allowed):
            raise InputError(
                f"{pair.predicted}: unexpected value (found {unknown[0]}; the true masks contain {sorted(known)}); "
                "check that both use the same classes"
            )
    return classes

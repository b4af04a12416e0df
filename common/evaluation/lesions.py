"""Find the lesions of masks, match predicted with true ones, and compute detection scores: FROC and panoptic quality.

A lesion is a connected component of a class. Every true lesion looks for predicted ones that meet the rule: "overlap",
at least one common pixel, or "center", the center less than the true radius away (as the LUNA16 script does). A
predicted lesion that meets it for no true lesion is a false positive; a further one at a lesion that is found already
is neither (LUNA16: double detection).
"""

from typing import NamedTuple

import numpy as np

from common.slices.components import label_components, measure_components

FALSE_POSITIVE_RATES = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)  # per image, of the FROC score
SAME_LESION = 0.5  # IoU above which two lesions are the same in the panoptic quality; at most one partner exceeds it
FOUND, MISSED, FALSE, EXTRA, EXCLUDED = KINDS = ("found", "missed", "false positive", "extra", "excluded")
AXES = ("x", "y", "z")


class Lesion(NamedTuple):
    """A predicted or true lesion.

    Attributes:
        point: center (x, y) or (x, y, z) in mm, or pixels if the spacing is unknown; LPS for volumes.
        diameter: in the same unit; NaN if unknown.
        probability: of a predicted lesion; NaN if unknown.
        excluded: whether a true lesion does not count, nor predicted lesions that meet the rule for it.
    """

    point: tuple
    diameter: float
    probability: float = np.nan
    excluded: bool = False


def lesions_of(mask, spacing, geometry=None):
    """Find the lesions of a mask.

    Args:
        mask: bool array, (H, W) or (k, j, i).
        spacing: mm (or 1) between pixels along each array axis.
        geometry: Geometry of a volume, for points in LPS; None: points from the first pixel.

    Returns:
        int32 array of lesion numbers from 1, and list of Lesion in that order.
    """
    numbers = label_components(mask)
    components = measure_components(numbers, spacing)
    centers = np.array([component.center for component in components]).reshape(-1, mask.ndim)
    points = geometry.to_points(centers[:, ::-1]) if geometry else (centers * np.asarray(spacing))[:, ::-1]
    return numbers, [Lesion(tuple(map(float, p)), c.diameter) for p, c in zip(points, components, strict=True)]


def overlaps(truth, predicted, counts):
    """IoU of every true with every predicted lesion.

    Args:
        truth, predicted: arrays of lesion numbers from 1, 0 outside, of the same shape.
        counts: number of true and of predicted lesions.

    Returns:
        (N true, M predicted) float array.
    """
    inside = (truth > 0) & (predicted > 0)
    flat = (truth[inside].astype(np.int64) - 1) * counts[1] + predicted[inside] - 1
    both = np.bincount(flat, minlength=counts[0] * counts[1]).reshape(counts)
    sizes = [
        np.bincount(side.ravel(), minlength=count + 1)[1:]
        for side, count in zip((truth, predicted), counts, strict=True)
    ]
    return both / (sizes[0][:, None] + sizes[1] - both)


def match_lesions(truth, predicted, rule, iou=None):
    """Match the lesions of an image.

    Args:
        truth, predicted: lists of Lesion.
        rule: "overlap" or "center".
        iou: result of `overlaps`; None if unknown, for "center" only.

    Returns:
        list of dicts: a row for each true lesion, with the predicted lesion that fits best (largest IoU, or nearest
        center), and one for each predicted lesion that fits none best. `probability` is the largest of all predicted
        lesions that meet the rule.
    """
    distances = np.zeros((len(truth), len(predicted)))
    if distances.size:
        points = [np.array([lesion.point for lesion in side], float) for side in (truth, predicted)]
        distances = np.linalg.norm(points[0][:, None] - points[1][None], axis=2)
    radii = np.array([lesion.diameter / 2 for lesion in truth]).reshape(-1, 1)
    meets = iou > 0 if rule == "overlap" else distances < radii
    rows, used = [], set()
    for i, lesion in enumerate(truth):
        best_iou = float(iou[i].max(initial=0)) if iou is not None else np.nan
        if lesion.excluded:
            continue
        row = describe(MISSED, lesion, None) | {"iou": best_iou}
        if (near := np.flatnonzero(meets[i])).size:
            order = (distances[i, near], -iou[i, near]) if rule == "overlap" else (distances[i, near],)
            best = int(near[np.lexsort(order)[0]])
            used.add(best)
            row = describe(FOUND, lesion, predicted[best]) | {"iou": best_iou, "distance": float(distances[i, best])}
            row["probability"] = float(np.fmax.reduce([predicted[j].probability for j in near]))
        rows.append(row)
    counted = np.array([not lesion.excluded for lesion in truth], bool)
    for j, lesion in enumerate(predicted):
        if j not in used:
            kind = EXTRA if meets[counted, j].any() else EXCLUDED if meets[~counted, j].any() else FALSE
            row = describe(kind, None, lesion)
            rows.append(row | {"iou": float(iou[:, j].max(initial=0)) if iou is not None else np.nan})
    return rows


def describe(kind, lesion, predicted):
    """Row of a table of lesions: kind, position and size of the true and the predicted lesion, NaN without one."""
    row = {"kind": kind}
    for side, prefix in ((lesion, ""), (predicted, "predicted_")):
        point = (*side.point, *[np.nan] * 3)[:3] if side else (np.nan,) * 3
        row |= {f"{prefix}{axis}": value for axis, value in zip(AXES, point, strict=True)}
        row[f"{prefix}diameter"] = side.diameter if side else np.nan
    row |= {"distance": np.nan, "iou": np.nan, "probability": predicted.probability if predicted else np.nan}
    return row


# --- scores


class Froc(NamedTuple):
    """FROC curve: each point counts the lesions with at least the probability of that threshold.

    Attributes:
        thresholds: (N + 1,) falling, the first infinite.
        false_positives: (N + 1,) false positives per image.
        sensitivity: (N + 1,) share of true lesions found.
    """

    thresholds: np.ndarray
    false_positives: np.ndarray
    sensitivity: np.ndarray

    @property
    def score(self):
        """Mean sensitivity at FALSE_POSITIVE_RATES, linear between the points: LUNA16's competition metric."""
        return float(np.mean(self.sensitivity_at(FALSE_POSITIVE_RATES)))

    def sensitivity_at(self, rates):
        return np.interp(rates, self.false_positives, self.sensitivity)


def froc(found, false, lesions, images):
    """Free-response ROC (Setio et al., Medical Image Analysis 2017, doi 10.1016/j.media.2017.06.015).

    Args:
        found: probabilities of the true lesions that are found.
        false: probabilities of the false positives.
        lesions: number of true lesions, above 0.
        images: number of images, above 0.

    Returns:
        Froc.
    """
    probabilities = np.concatenate([found, false])
    thresholds = np.unique(probabilities)[::-1]
    found, false = (
        len(side) - np.searchsorted(np.sort(side), thresholds, "left") for side in map(np.asarray, (found, false))
    )
    curve = np.concatenate([[0], false]) / images, np.concatenate([[0], found]) / lesions
    return Froc(np.concatenate([[np.inf], thresholds]), *curve)


def panoptic_quality(iou, predicted):
    """Panoptic quality and its factors (Kirillov et al., CVPR 2019, arXiv 1801.00868).

    Args:
        iou: (N,) largest IoU of each true lesion with a predicted one.
        predicted: number of predicted lesions.

    Returns:
        PQ = SQ * RQ, recognition quality RQ (F1 of lesions with an IoU above 0.5), and segmentation quality SQ (their
        mean IoU); NaN if there are no lesions on both sides, SQ also if none is recognized.
    """
    iou = np.asarray(iou, float)
    same = iou[iou > SAME_LESION]
    total = len(iou) + predicted
    if not total:
        return np.nan, np.nan, np.nan
    return 2 * same.sum() / total, 2 * len(same) / total, float(same.mean()) if len(same) else np.nan

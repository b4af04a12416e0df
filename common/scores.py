"""Scores of predicted against true masks: overlaps from pixel counts, and distances between surfaces.

SCORES contains one record per score. Tables, summaries, plots and reports use these records, so a new score needs only
one more record.

The surface of a mask is its pixels or voxels with a face neighbor outside the mask; outside the image is outside the
mask. Distances are between centers, in mm if the spacing is known, otherwise in pixels. Definitions follow Maier-Hein,
Reinke et al., Metrics Reloaded, doi 10.1038/s41592-023-02151-z, unless a rule differs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from common.lazy import Lazy

spatial = Lazy("scipy.spatial")


class Counts(NamedTuple):
    """Pixel counts of an image, or of all images of a case, for one class."""

    true_positive: int
    false_positive: int
    false_negative: int
    pixels: int = 0  # all pixels

    @property
    def truth(self):
        return self.true_positive + self.false_negative

    @property
    def predicted(self):
        return self.true_positive + self.false_positive

    @property
    def union(self):
        return self.truth + self.false_positive


class Distances(NamedTuple):
    """Distances between the surfaces of two non-empty masks, in mm or pixels."""

    to_truth: np.ndarray  # (N,) from each element of the predicted surface to the nearest true one
    to_prediction: np.ndarray  # (M,) from each element of the true surface to the nearest predicted one
    tolerance: float  # tolerance of the surface Dice

    @property
    def both(self):
        return np.concatenate([self.to_truth, self.to_prediction])


@dataclass(frozen=True)
class Score:
    """One score.

    Attributes:
        name: column in tables; `_` becomes a space in reports.
        of: "pixels" if `compute` uses Counts (for a case, summed over its images), "surfaces" if it uses Distances (for
            a case, the mean over its images).
        rule: definition, and value for empty masks. T is the true mask, P the predicted one, || counts pixels.
        compute: function of Counts or Distances; NaN if the score is undefined.
        unit: "share", or "distance" for mm or pixels. Plots show distances, and shares with 1 as best value.
        low_is_good: whether 0 is the best value.
        headline: whether reports show it in large type at the top.
        one_empty: value of a surface score if exactly one mask is empty; "diagonal": the largest distance between two
            pixels of the image.
        of_tolerance: whether it depends on the tolerance.
        lowest, highest: smallest and largest possible value of a share.
        of_empty_masks: whether means over images include images with an empty true mask.
        plotted: whether box plots show it.
    """

    name: str
    of: Literal["pixels", "surfaces"]
    rule: str
    compute: Callable[[Counts | Distances], float]
    unit: Literal["share", "distance"] = "share"
    low_is_good: bool = False
    headline: bool = False
    one_empty: float | Literal["diagonal"] = np.nan
    of_empty_masks: bool = False
    of_tolerance: bool = False
    lowest: float = 0.0
    highest: float = 1.0
    plotted: bool = True

    @property
    def limits(self):
        """Smallest and largest possible value."""
        return (0.0, np.inf) if self.unit == "distance" else (self.lowest, self.highest)


def ratio(amount, whole):
    return amount / whole if whole else np.nan


SCORES = {
    score.name: score
    for score in (
        Score(
            "dice",
            of="pixels",
            rule="2|T and P| / (|T| + |P|); 0 if one is empty, undefined if both are",
            compute=lambda n: ratio(2 * n.true_positive, n.truth + n.predicted),
            headline=True,
        ),
        Score(
            "iou",
            of="pixels",
            rule="|T and P| / |T or P|; 0 if one is empty, undefined if both are",
            compute=lambda n: ratio(n.true_positive, n.union),
            headline=True,
        ),
        Score(
            "precision",
            of="pixels",
            rule="|T and P| / |P|; undefined if P is empty",
            compute=lambda n: ratio(n.true_positive, n.predicted),
        ),
        Score(
            "recall",
            of="pixels",
            rule="|T and P| / |T|; undefined if T is empty",
            compute=lambda n: ratio(n.true_positive, n.truth),
        ),
        Score(
            "rou",
            of="pixels",
            rule="residual over union, |T without P| / |T or P|, 0 is best; undefined if T is empty",
            compute=lambda n: ratio(n.false_negative, n.union) if n.truth else np.nan,
            low_is_good=True,
        ),
        Score(
            "fpoet",
            of="pixels",
            rule="false positives on empty truth, |P| / all pixels, 0 is best; undefined unless T is empty",
            compute=lambda n: np.nan if n.truth else ratio(n.false_positive, n.pixels),
            low_is_good=True,
            of_empty_masks=True,
        ),
        Score(
            "volume_error",
            of="pixels",
            rule="(|P| - |T|) / |T|, 0 is best; undefined if T is empty",
            compute=lambda n: ratio(n.predicted - n.truth, n.truth),
            low_is_good=True,
            lowest=-1.0,
            highest=np.inf,
        ),
        Score(
            "hausdorff",
            of="surfaces",
            rule="maximum distance from either surface to the other; undefined if one is empty",
            compute=lambda d: d.both.max(),
            unit="distance",
            low_is_good=True,
        ),
        Score(
            "hausdorff_95",
            of="surfaces",
            rule="as hausdorff with the 95th percentile in each direction, then the larger; undefined if one is empty",
            compute=lambda d: max(np.percentile(d.to_truth, 95), np.percentile(d.to_prediction, 95)),
            unit="distance",
            low_is_good=True,
            headline=True,
        ),
        Score(
            "mean_surface_distance",
            of="surfaces",
            rule="mean of all distances from either surface to the other; undefined if one is empty",
            compute=lambda d: d.both.mean(),
            unit="distance",
            low_is_good=True,
            headline=True,
        ),
        Score(
            "surface_dice",
            of="surfaces",
            rule="share of both surfaces within the tolerance of the other; 0 if one is empty, undefined if both are",
            compute=lambda d: np.mean(d.both <= d.tolerance),
            headline=True,
            one_empty=0.0,
            of_tolerance=True,
        ),
        Score(
            "hausdorff_95_penalized",
            of="surfaces",
            rule="hausdorff_95, or the image diagonal for a missed or invented mask (one is empty); "
            "undefined if both are empty",
            compute=lambda d: max(np.percentile(d.to_truth, 95), np.percentile(d.to_prediction, 95)),
            unit="distance",
            low_is_good=True,
            one_empty="diagonal",
            of_empty_masks=True,
            plotted=False,
        ),
    )
}


def scores_of(source):
    """Records in SCORES with this `of`: "pixels" or "surfaces"."""
    return [score for score in SCORES.values() if score.of == source]


# --- overlaps


COUNTS = ["tp", "fp", "fn"]  # names of what `count_pixels` returns


def count_pixels(predicted, truth):
    """Count pixels.

    Args:
        predicted, truth: bool arrays of the same shape.

    Returns:
        true positives, false positives and false negatives, as int.
    """
    both = int(np.count_nonzero(predicted & truth))
    return both, int(np.count_nonzero(predicted)) - both, int(np.count_nonzero(truth)) - both


def scores_of_counts(true_positive, false_positive, false_negative, pixels=0):
    """Compute the pixel scores.

    Args:
        pixels: number of pixels in the image or case, for FPoET.

    Returns:
        dict of name to float; NaN if the score is undefined.
    """
    counts = Counts(true_positive, false_positive, false_negative, pixels)
    return {score.name: float(score.compute(counts)) for score in scores_of("pixels")}


# --- distances


def scores_of_surfaces(predicted, truth, spacing, tolerance):
    """Compute the surface scores.

    Args:
        predicted, truth: bool arrays of the same shape, 2-D or 3-D.
        spacing: mm (or 1) between pixels along each array axis.
        tolerance: tolerance of the surface Dice, in the same unit.

    Returns:
        dict of name to float; NaN if the score is undefined.
    """
    filled = int(predicted.any()), int(truth.any())
    if sum(filled) < 2:
        worst = {"diagonal": float(np.linalg.norm((np.array(truth.shape) - 1) * spacing))}
        values = {score.name: worst.get(score.one_empty, score.one_empty) for score in scores_of("surfaces")}
        return values if sum(filled) else dict.fromkeys(values, np.nan)
    (to_truth, _, _), (to_prediction, _, _) = surface_distances(predicted, truth, spacing)
    distances = Distances(to_truth, to_prediction, tolerance)
    return {score.name: float(score.compute(distances)) for score in scores_of("surfaces")}


def surface_distances(predicted, truth, spacing):
    """Distances from each surface element to the nearest one of the other surface, both ways; masks must not be empty.

    Returns:
        from prediction to truth and from truth to prediction, each: distances (N,), and pixel positions (N, axes) of
        the elements and of their nearest elements.
    """
    union = predicted | truth
    others = (tuple(set(range(truth.ndim)) - {axis}) for axis in range(truth.ndim))
    box = tuple(slice(*_ends(union.any(axes))) for axes in others)
    corner = np.array([side.start for side in box])
    surfaces = [np.argwhere(surface_of(mask[box])) for mask in (predicted, truth)]
    trees = [spatial.KDTree(surface * np.asarray(spacing)) for surface in surfaces]
    both_ways = []
    for one, other in ((0, 1), (1, 0)):
        distances, nearest = trees[other].query(trees[one].data)
        both_ways.append((distances, surfaces[one] + corner, surfaces[other][nearest] + corner))
    return both_ways


def _ends(line):
    filled = np.flatnonzero(line)
    return int(filled[0]), int(filled[-1]) + 1


def surface_of(mask):
    """Elements of a mask with a face neighbor outside the mask; outside the array is outside the mask."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        along, result = np.moveaxis(mask, axis, 0), np.moveaxis(inside, axis, 0)
        result[1:] &= along[:-1]
        result[:-1] &= along[1:]
        result[[0, -1]] = False
    return mask & ~inside


def hausdorff_line(predicted, truth, spacing):
    """Both ends of the Hausdorff distance, in pixels; None if a mask is empty."""
    if not (predicted.any() and truth.any()):
        return None
    distances, elements, nearest = max(surface_distances(predicted, truth, spacing), key=lambda found: found[0].max())
    longest = int(distances.argmax())
    return elements[longest], nearest[longest]

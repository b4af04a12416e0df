"""Scores of masks against masks: overlaps from counts of pixels, and distances between surfaces.

SCORES holds one record for each score. Tables, summaries, plots and reports go over these records, so a new score needs
one more record and nothing else.

A surface is the pixels or voxels of a mask that have a neighbor outside of it over a face; outside of the image is
outside of the mask. Distances are between their centers, in mm if the spacing is known, else in pixels. Definitions
follow Maier-Hein, Reinke et al., Metrics Reloaded, doi 10.1038/s41592-023-02151-z, unless a rule says otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy.spatial import KDTree


class Counts(NamedTuple):
    """Pixels of an image, or of all images of a case, for one class."""

    true_positive: int
    false_positive: int
    false_negative: int
    pixels: int = 0  # all of them

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
    """Distances between the surfaces of two masks of which none is empty, in mm or in pixels."""

    to_truth: np.ndarray  # (N,) from each element of the predicted surface to the nearest of the true one
    to_prediction: np.ndarray  # (M,) from each element of the true surface to the nearest of the predicted one
    tolerance: float  # of the surface Dice

    @property
    def both(self):
        return np.concatenate([self.to_truth, self.to_prediction])


@dataclass(frozen=True)
class Score:
    """One score.

    Attributes:
        name: column of the tables; `_` becomes a space in reports.
        of: "pixels" if `compute` takes Counts (a case: those of all its images together), "surfaces" if it takes
            Distances (a case: mean over its images).
        rule: definition, and what it is if a mask is empty. T is the true mask, P the predicted one, || counts pixels.
        compute: function of Counts or Distances; NaN if the score is not defined.
        unit: "share", or "distance" for mm or pixels. Shares of which 1 is good, and all distances, are plotted.
        low_is_good: whether 0 is the best value.
        headline: whether reports show it in large at their top.
        one_empty: value of a score of surfaces if exactly one mask is empty.
        of_empty_masks: whether means over images include those whose true mask is empty.
    """

    name: str
    of: Literal["pixels", "surfaces"]
    rule: str
    compute: Callable[[Counts | Distances], float]
    unit: Literal["share", "distance"] = "share"
    low_is_good: bool = False
    headline: bool = False
    one_empty: float = np.nan
    of_empty_masks: bool = False


def ratio(amount, whole):
    return amount / whole if whole else np.nan


SCORES = {
    score.name: score
    for score in (
        Score(
            "dice",
            of="pixels",
            rule="2|T and P| / (|T| + |P|); 0 where one is empty, none where both are",
            compute=lambda n: ratio(2 * n.true_positive, n.truth + n.predicted),
            headline=True,
        ),
        Score(
            "iou",
            of="pixels",
            rule="|T and P| / |T or P|; 0 where one is empty, none where both are",
            compute=lambda n: ratio(n.true_positive, n.union),
            headline=True,
        ),
        Score(
            "precision",
            of="pixels",
            rule="|T and P| / |P|; none where P is empty",
            compute=lambda n: ratio(n.true_positive, n.predicted),
        ),
        Score(
            "recall",
            of="pixels",
            rule="|T and P| / |T|; none where T is empty",
            compute=lambda n: ratio(n.true_positive, n.truth),
        ),
        Score(
            "rou",
            of="pixels",
            rule="residual over union, |T without P| / |T or P|, 0 is good; none where T is empty",
            compute=lambda n: ratio(n.false_negative, n.union) if n.truth else np.nan,
            low_is_good=True,
        ),
        Score(
            "fpoet",
            of="pixels",
            rule="false positives on empty truth, |P| / all pixels, 0 is good; none where T is not empty",
            compute=lambda n: np.nan if n.truth else ratio(n.false_positive, n.pixels),
            low_is_good=True,
            of_empty_masks=True,
        ),
        Score(
            "volume_error",
            of="pixels",
            rule="(|P| - |T|) / |T|, 0 is good; none where T is empty",
            compute=lambda n: ratio(n.predicted - n.truth, n.truth),
            low_is_good=True,
        ),
        Score(
            "hausdorff",
            of="surfaces",
            rule="greatest distance from one surface to the other, either way; none where one is empty",
            compute=lambda d: d.both.max(),
            unit="distance",
            low_is_good=True,
        ),
        Score(
            "hausdorff_95",
            of="surfaces",
            rule="the same with the 95th percentile each way, the greater of both; none where one is empty",
            compute=lambda d: max(np.percentile(d.to_truth, 95), np.percentile(d.to_prediction, 95)),
            unit="distance",
            low_is_good=True,
            headline=True,
        ),
        Score(
            "mean_surface_distance",
            of="surfaces",
            rule="mean of all distances from either surface to the other; none where one is empty",
            compute=lambda d: d.both.mean(),
            unit="distance",
            low_is_good=True,
            headline=True,
        ),
        Score(
            "surface_dice",
            of="surfaces",
            rule="share of both surfaces within the tolerance of the other; 0 where one is empty, none for both",
            compute=lambda d: np.mean(d.both <= d.tolerance),
            headline=True,
            one_empty=0.0,
        ),
    )
}


def scores_of(source):
    """Records of SCORES whose `of` is "pixels" or "surfaces"."""
    return [score for score in SCORES.values() if score.of == source]


# --- overlaps


def count_pixels(predicted, truth):
    """Count pixels.

    Args:
        predicted, truth: bool arrays of the same shape.

    Returns:
        true positives, false positives, false negatives; ints.
    """
    both = int(np.count_nonzero(predicted & truth))
    return both, int(np.count_nonzero(predicted)) - both, int(np.count_nonzero(truth)) - both


def scores_of_counts(true_positive, false_positive, false_negative, pixels=0):
    """The scores of pixels.

    Args:
        pixels: all of the image or of the case, which FPoET is a share of.

    Returns:
        dict of name to float; NaN if the score is not defined.
    """
    counts = Counts(true_positive, false_positive, false_negative, pixels)
    return {score.name: float(score.compute(counts)) for score in scores_of("pixels")}


def mean_dice(predicted, truth):
    """Mean Dice over the classes in a mask.

    Args:
        predicted, truth: class numbers of the same shape; truth with at least one class.
    """
    classes = np.unique(truth[truth > 0])
    return float(np.mean([scores_of_counts(*count_pixels(predicted == c, truth == c))["dice"] for c in classes]))


# --- distances


def scores_of_surfaces(predicted, truth, spacing, tolerance):
    """The scores of surfaces.

    Args:
        predicted, truth: bool arrays of the same shape, of two or three axes.
        spacing: mm (or 1) between pixels along each axis of the arrays.
        tolerance: of the surface Dice, in the same unit.

    Returns:
        dict of name to float; NaN if the score is not defined.
    """
    filled = int(predicted.any()), int(truth.any())
    if sum(filled) < 2:
        return {score.name: score.one_empty if sum(filled) else np.nan for score in scores_of("surfaces")}
    (to_truth, _, _), (to_prediction, _, _) = surface_distances(predicted, truth, spacing)
    distances = Distances(to_truth, to_prediction, tolerance)
    return {score.name: float(score.compute(distances)) for score in scores_of("surfaces")}


def surface_distances(predicted, truth, spacing):
    """From each element of a surface to the nearest of the other, both ways; the masks are not empty.

    Returns:
        twice (distances, (N,) array; positions (N, axes) of the elements and of their nearest, in pixels): from the
        prediction to the mask, and from the mask to the prediction.
    """
    union = predicted | truth
    others = (tuple(set(range(truth.ndim)) - {axis}) for axis in range(truth.ndim))
    box = tuple(slice(*_ends(union.any(axes))) for axes in others)
    corner = np.array([side.start for side in box])
    surfaces = [np.argwhere(surface_of(mask[box])) for mask in (predicted, truth)]
    trees = [KDTree(surface * np.asarray(spacing)) for surface in surfaces]
    both_ways = []
    for one, other in ((0, 1), (1, 0)):
        distances, nearest = trees[other].query(trees[one].data)
        both_ways.append((distances, surfaces[one] + corner, surfaces[other][nearest] + corner))
    return both_ways


def _ends(line):
    filled = np.flatnonzero(line)
    return int(filled[0]), int(filled[-1]) + 1


def surface_of(mask):
    """Elements of a mask that have a neighbor outside of it over a face; outside of the array is outside of it."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        along, result = np.moveaxis(mask, axis, 0), np.moveaxis(inside, axis, 0)
        result[1:] &= along[:-1]
        result[:-1] &= along[1:]
        result[[0, -1]] = False
    return mask & ~inside


def hausdorff_line(predicted, truth, spacing):
    """Both ends of the Hausdorff distance, in pixels; None if one of the masks is empty."""
    if not (predicted.any() and truth.any()):
        return None
    distances, elements, nearest = max(surface_distances(predicted, truth, spacing), key=lambda found: found[0].max())
    longest = int(distances.argmax())
    return elements[longest], nearest[longest]

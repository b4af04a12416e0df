"""Scores of masks against masks: overlaps from counts, and distances between surfaces.

A surface is the pixels or voxels of a mask that have a neighbour outside of it over a face; outside of the picture is
outside of the mask. Distances are between their centres, in mm where the spacing is known, else in pixels. Definitions
follow Maier-Hein, Reinke et al., Metrics Reloaded, doi 10.1038/s41592-023-02151-z, where nothing else is said.
"""

import numpy as np
from scipy.spatial import KDTree

# What each score is, and what it is where a mask is empty. T is the mask, P the prediction, and | | counts pixels.
RULES = {
    "dice": "2|T and P| / (|T| + |P|); 0 where one is empty, none where both are",
    "iou": "|T and P| / |T or P|; 0 where one is empty, none where both are",
    "precision": "|T and P| / |P|; none where P is empty",
    "recall": "|T and P| / |T|; none where T is empty",
    "rou": "residual over union, |T without P| / |T or P|, 0 is good; none where T is empty",
    "fpoet": "false positives on empty truth, |P| / all pixels, 0 is good; none where T is not empty",
    "volume_error": "(|P| - |T|) / |T|, 0 is good; none where T is empty",
    "hausdorff": "greatest distance from one surface to the other, either way; none where one is empty",
    "hausdorff_95": "the same with the 95th percentile each way, the greater of both; none where one is empty",
    "mean_surface_distance": "mean of all distances from either surface to the other; none where one is empty",
    "surface_dice": "share of both surfaces within the tolerance of the other; 0 where one is empty, none for both",
}
OVERLAPS = ("dice", "iou", "precision", "recall", "rou", "fpoet", "volume_error")
DISTANCES = ("hausdorff", "hausdorff_95", "mean_surface_distance", "surface_dice")
SCORES = OVERLAPS + DISTANCES
LOW_IS_GOOD = {"rou", "fpoet", "volume_error", "hausdorff", "hausdorff_95", "mean_surface_distance"}


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
    """The scores of OVERLAPS, as RULES has them; NaN stands for none.

    Args:
        pixels: all of the image or of the case, which FPoET is a share of.

    Returns:
        dict of OVERLAPS to float.
    """

    def ratio(part, whole):
        return part / whole if whole else np.nan

    truth = true_positive + false_negative
    union = truth + false_positive
    return {
        "dice": ratio(2 * true_positive, union + true_positive),
        "iou": ratio(true_positive, union),
        "precision": ratio(true_positive, true_positive + false_positive),
        "recall": ratio(true_positive, truth),
        "rou": ratio(false_negative, union) if truth else np.nan,
        "fpoet": np.nan if truth else ratio(false_positive, pixels),
        "volume_error": ratio(false_positive - false_negative, truth),
    }


def mean_dice(predicted, truth):
    """Mean Dice over the classes in a mask.

    Args:
        predicted, truth: class numbers of the same shape; truth with at least one class.
    """
    classes = np.unique(truth[truth > 0])
    return float(np.mean([scores_of_counts(*count_pixels(predicted == c, truth == c))["dice"] for c in classes]))


# --- distances


def scores_of_surfaces(predicted, truth, spacing, tolerance):
    """The scores of DISTANCES, as RULES has them; NaN stands for none.

    Args:
        predicted, truth: bool arrays of the same shape, of two or three axes.
        spacing: mm (or 1) between pixels along each axis of the arrays.
        tolerance: of the surface Dice, in the same unit.

    Returns:
        dict of DISTANCES to float.
    """
    filled = int(predicted.any()), int(truth.any())
    if sum(filled) < 2:
        nothing = dict.fromkeys(DISTANCES, np.nan)
        return nothing | {"surface_dice": 0.0} if sum(filled) else nothing
    ways = [distances for distances, _, _ in surface_distances(predicted, truth, spacing)]
    every = np.concatenate(ways)
    return {
        "hausdorff": float(every.max()),
        "hausdorff_95": float(max(np.percentile(way, 95) for way in ways)),
        "mean_surface_distance": float(every.mean()),
        "surface_dice": float(np.mean(every <= tolerance)),
    }


def surface_distances(predicted, truth, spacing):
    """From each element of a surface to the nearest of the other, both ways; the masks are not empty.

    Returns:
        twice (distances, (N,) array; places (N, axes) of the elements and of their nearest, in pixels): from the
        prediction to the mask, and from the mask to the prediction.
    """
    union = predicted | truth
    others = (tuple(set(range(truth.ndim)) - {axis}) for axis in range(truth.ndim))
    box = tuple(slice(*_ends(union.any(axes))) for axes in others)
    corner = np.array([part.start for part in box])
    places = [np.argwhere(surface_of(mask[box])) for mask in (predicted, truth)]
    trees = [KDTree(place * np.asarray(spacing)) for place in places]
    found = []
    for one, other in ((0, 1), (1, 0)):
        distances, nearest = trees[other].query(trees[one].data)
        found.append((distances, places[one] + corner, places[other][nearest] + corner))
    return found


def surface_of(mask):
    """What of a mask has a neighbour outside of it over a face; outside of the array is outside of it."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        along, result = np.moveaxis(mask, axis, 0), np.moveaxis(inside, axis, 0)
        result[1:] &= along[:-1]
        result[:-1] &= along[1:]
        result[[0, -1]] = False
    return mask & ~inside


def _ends(line):
    filled = np.flatnonzero(line)
    return int(filled[0]), int(filled[-1]) + 1


def hausdorff_line(predicted, truth, spacing):
    """The two ends of the Hausdorff distance, places in pixels; None where one of the masks is empty."""
    if not (predicted.any() and truth.any()):
        return None
    distances, here, there = max(surface_distances(predicted, truth, spacing), key=lambda way: way[0].max())
    longest = int(distances.argmax())
    return here[longest], there[longest]

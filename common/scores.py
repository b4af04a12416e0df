"""Scores of masks against masks, from counts of pixels."""

import numpy as np

SCORES = ("dice", "iou", "precision", "recall")


def count_pixels(predicted, truth):
    """Count pixels.

    Args:
        predicted, truth: bool arrays of the same shape.

    Returns:
        true positives, false positives, false negatives; ints.
    """
    both = int(np.count_nonzero(predicted & truth))
    return both, int(np.count_nonzero(predicted)) - both, int(np.count_nonzero(truth)) - both


def scores_of_counts(true_positive, false_positive, false_negative):
    """Dice, IoU, precision and recall.

    Where the mask and the prediction are both empty there is nothing to score: all four are NaN. An empty mask
    with a prediction scores 0, with no recall (NaN); a mask without a prediction scores 0, with no precision (NaN).

    Returns:
        dict of SCORES to float.
    """

    def ratio(part, whole):
        return part / whole if whole else np.nan

    return {
        "dice": ratio(2 * true_positive, 2 * true_positive + false_positive + false_negative),
        "iou": ratio(true_positive, true_positive + false_positive + false_negative),
        "precision": ratio(true_positive, true_positive + false_positive),
        "recall": ratio(true_positive, true_positive + false_negative),
    }


def mean_dice(predicted, truth):
    """Mean Dice over the classes in a mask.

    Args:
        predicted, truth: class numbers of the same shape; truth with at least one class.
    """
    classes = np.unique(truth[truth > 0])
    return float(np.mean([scores_of_counts(*count_pixels(predicted == c, truth == c))["dice"] for c in classes]))

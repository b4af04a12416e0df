"""Read a data set once and keep what its checks need: little per slice, and nothing of the size of an image."""

from typing import NamedTuple

import cv2
import numpy as np

from common.checking.leaks import signature_of
from common.parallel import ordered_map, progress
from common.slices.checks import Checked, check_images
from common.slices.classes import classes_in, has_class, is_target, type_of_masks
from common.slices.drawing import evenly_spaced
from common.slices.images import read_pair, to_gray
from common.slices.shifts import Alignment, edges_under_outline

BINS = {8: 256, 16: 1024}  # of the histogram of gray levels, by bit depth
MOST_CURVES = 40  # cases whose histogram is drawn


class Facts(NamedTuple):
    """What is kept of a slice.

    Attributes:
        checked: Checked.
        histogram: (bins,) int64, number of pixels by gray level; None unless its case is drawn.
        sizes: dict of class to its fraction of the slice; 255 counts as class 1.
        frame: fraction of the pixels at the border of the mask that are foreground.
        contrast: mean gray level of foreground minus background; 0 without one of them.
        signature: bytes of `signature_of`.
        edges: result of `edges_under_outline`.
    """

    checked: Checked
    histogram: np.ndarray | None
    sizes: dict
    frame: float
    contrast: float
    signature: bytes
    edges: np.ndarray | None


class DataFacts:
    """What is kept of a data set.

    Args:
        pairs: list of `common.slices.checks.Pair`, the slices of a case one after the other.
        problems: list that collects the messages of slices that cannot be used.

    Attributes:
        slices: list of Checked.
        sizes: dict of class to the fractions of the slices with this class that it covers.
        cases_of: dict of class to the set of names of its cases.
        frames, contrasts: as in Facts, of each slice.
        signatures: bytes for each slice, empty for slices that are nearly uniform.
        histograms: dict of case name to the number of pixels by gray level, for some cases.
        alignment: Alignment of masks and images.
    """

    def __init__(self, pairs, problems):
        self.slices, self.frames, self.contrasts, self.signatures = [], [], [], []
        self.sizes, self.cases_of, self.histograms, self.alignment = {}, {}, {}, Alignment()
        self._drawn = set(evenly_spaced(list(dict.fromkeys(pair.case for pair in pairs)), MOST_CURVES))
        looked = ordered_map(self._look_at, pairs, problems=problems)
        for facts in progress(looked, len(pairs), "checking"):
            if facts:
                self._add(facts)

    def _look_at(self, pair):
        image, mask = read_pair(pair.x, pair.y, mask_type=type_of_masks(pair.overlap))
        checked = check_images(pair, image, mask)
        image = to_gray(image)
        histogram = None
        if pair.case in self._drawn:
            bins = BINS[checked.bits]
            histogram = cv2.calcHist([image], [0], None, [bins], [0, 2**checked.bits]).ravel().astype(np.int64)
        numbers = mask if pair.overlap else np.where(mask == 255, np.uint8(1), mask)
        sizes = {number: float(has_class(numbers, number).mean()) for number in classes_in(numbers)}
        frame = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
        inside = is_target(mask)
        contrast = float(image[inside].mean() - image[~inside].mean()) if 0 < checked.foreground < 1 else 0.0
        of_image = signature_of(image), edges_under_outline(image, mask)
        return Facts(checked, histogram, sizes, float(is_target(frame).mean()), contrast, *of_image)

    def _add(self, facts):
        case = facts.checked.case.name
        self.slices.append(facts.checked)
        self.frames.append(facts.frame)
        self.contrasts.append(facts.contrast)
        self.signatures.append(facts.signature)
        for number, share in facts.sizes.items():
            self.sizes.setdefault(number, []).append(share)
            self.cases_of.setdefault(number, set()).add(case)
        if facts.histogram is not None:
            before = self.histograms.get(case)
            fits = before is None or before.shape == facts.histogram.shape
            self.histograms[case] = facts.histogram + (before if before is not None and fits else 0)
        self.alignment.add(case, facts.edges)

"""Pseudo-labels: keep predictions that are confident, as slices with masks to train on."""

import collections
from typing import NamedTuple

import cv2
import numpy as np

from common.files import real_path
from common.slices.cases import as_case_name
from common.slices.classes import are_sets, class_numbers
from common.slices.images import cut, encode_png, encode_slice, fit_boxes
from common.slices.masks import clean, from_classes
from common.words import number_of

SCRIPT = "pseudo_label.py"  # in case.json
PREFIX = "pseudo_"  # of the names of the cases
FROM_RECORD = (
    "fit",
    "stretched",
    "channels",
    "neighbors",
    "spacing",
    "window",
    "volume",
)  # of case.json, kept for slices of a case


class Rule(NamedTuple):
    """When a prediction is kept.

    Attributes:
        confidence: least mean confidence, 0.5..1; see `confidence_of`.
        smallest: least number of pixels of its mask.
        margin: pixels around the mask that count too.
    """

    confidence: float
    smallest: int
    margin: int


class Labeled(NamedTuple):
    """A slice that was kept: image and mask as bytes of files, and its entry of `CaseRecord.slices`."""

    image: bytes
    mask: bytes
    entry: dict


def confidence_of(probabilities, numbers, margin):
    """Mean confidence of a prediction in its mask and around it.

    Args:
        probabilities: (H, W, C) float32; C is 1, K + 1 with the background first, or K for overlapping classes.
        numbers: (H, W) predicted mask, uint8 class numbers or uint16 sets of overlapping classes.
        margin: pixels around the mask that count too.

    Returns:
        Mean of max(p, 1 - p), of overlapping classes the smallest of them, or of the largest probability with several
        exclusive classes; 0.0 for an empty mask.
    """
    if not numbers.any():
        return 0.0
    near = cv2.distanceTransform((numbers == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= margin
    largest = probabilities.max(-1)
    if probabilities.shape[-1] == 1 or are_sets(numbers):
        largest = np.maximum(probabilities, 1 - probabilities).min(-1)
    return float(largest[near].mean())


class PseudoLabels:
    """Collects the predictions to keep.

    Args:
        size: side of the slices in pixels.
        fit: "resize", "tile" or "pad", as for `common.slices.images.fit_boxes`.
        threshold: as for `common.slices.masks.class_numbers`.
        cleaning: dict of arguments for `common.slices.masks.clean`.
        rule: Rule.
        channels: "rgb", or patterns of the files of an image, as the models were trained.
        overlap: how classes share pixels; see `common.slices.classes`.
        names: names of the classes.

    Attributes:
        counts: Counter of "kept", "small" (too small, or empty) and "unsure" slices.
    """

    def __init__(self, size, fit, threshold, cleaning, rule, channels=None, overlap="", names=()):
        self.size, self.fit, self.threshold, self.cleaning, self.rule = size, fit, threshold, cleaning, rule
        self.channels, self.overlap, self.names = channels, overlap, list(names)
        self.counts = collections.Counter()

    def slices_of(self, s, image, probabilities, record):
        """Slices of a predicted image that are kept.

        Args:
            s: `common.slices.cases.Slice`.
            image: (H, W) or (H, W, C) uint8 or uint16.
            probabilities: (H, W, C) float32.
            record: content of case.json of its case, or {}.

        Yields:
            Labeled.
        """
        numbers = clean(class_numbers(probabilities, self.threshold, bool(self.overlap)), **self.cleaning)
        entry = record.get("slices", {}).get(s.name)
        shape = image.shape[:2]
        fits = shape == (self.size, self.size)
        for box in [[0, 0, self.size, self.size]] if fits else fit_boxes(shape, self.size, self.fit):
            mask = cut(numbers, box, self.size, cv2.INTER_NEAREST)
            if not self._is_kept(cut_probabilities(probabilities, box, self.size), mask):
                continue
            cut_out = {"image": s.path.name, "mask": None, "image_size": [*shape], "box": box}
            own = entry if fits and entry else cut_out
            classes = max(probabilities.shape[-1] - 1, 1)
            yield Labeled(encode_slice(cut(image, box, self.size)), encode_png(from_classes(mask, classes)), own)

    def _is_kept(self, probabilities, mask):
        if np.count_nonzero(mask) < self.rule.smallest:
            result = "small"
        else:
            confidence = confidence_of(probabilities, mask, self.rule.margin)
            result = "kept" if confidence >= self.rule.confidence else "unsure"
        self.counts[result] += 1
        return result == "kept"

    def record_of(self, record, model):
        """CaseRecord attributes of a case.

        Args:
            record: content of case.json of its source, or {}.
            model: name of the run or cross-validation that predicts.
        """
        kept = {name: record[name] for name in FROM_RECORD if record.get("size") == self.size and name in record}
        made = {"confidence": self.rule.confidence, "model": model}
        channels = {"channels": self.channels} if self.channels else {}
        classes = {"overlap": self.overlap, "class_names": self.names} if self.overlap else {}
        return {"fit": self.fit, **channels, **kept, **classes, "pseudo_labels": made}

    def in_words(self):
        """What was kept and what not, as text."""
        few = f"{self.counts['small']} with a mask under {number_of(self.rule.smallest, 'pixel')}"
        return f"left out {few}, {self.counts['unsure']} with a confidence under {self.rule.confidence:g}"


def cut_probabilities(probabilities, box, size):
    """Probabilities (H, W, C) in a box, scaled to (size, size, C) as an image is."""
    channels = [
        cut(np.ascontiguousarray(channel), box, size, cv2.INTER_LINEAR) for channel in np.moveaxis(probabilities, -1, 0)
    ]
    return np.stack(channels, axis=-1)


def case_name(s):
    """Name of the pseudo-labeled case of a `common.slices.cases.Slice`: its case, or the folder of loose images."""
    folder = real_path(s.path).parent
    return PREFIX + as_case_name(s.case or (folder.parent if folder.name == "x" else folder).name)

"""Masks that do not lie on their images: edges of the images are strongest at some other place than the outlines.

The mean gradient under the outlines is computed at every offset of a window. If masks are right, it is strongest at or
next to offset 0, even if single slices have stronger edges elsewhere. A shift is found if two halves of the slices,
each by itself, have their strongest edges at the same other offset, and no second place is nearly as good.
"""

import cv2
import numpy as np

from common.slices.classes import is_ignored

LARGEST_OFFSET, OF_SIDE = 32, 5  # pixels; in a small slice a fifth of its side
FEWEST_POINTS, MOST_POINTS = 12, 200  # of an outline
SMOOTHING = 1.0  # pixels, against noise
FEWEST_SLICES = 6  # with an outline, for a statement about a case or a set
FEWEST_CASES = 4  # halves are every other case from here on; below, every other slice of each case
# In 819 runs of slices from real MR and microscopy and from drawn scans, right masks never met all of these.
SMALLEST_SHIFT = 3  # pixels; fat and water in MR, and outlines drawn from inside, can differ by 2
STRONGER = 1.1  # edges at the offset compared with those within a pixel of the outlines, in both halves
STRONG = 1.2  # edges at the offset compared with the mean of all offsets
SHARP = 1.25  # how far they are above this mean, compared with the best offset more than 3 pixels away


def edges_under_outline(image, mask):
    """Mean gradient of an image under the outline of its mask, at every offset of a window.

    Args:
        image: (H, H) uint8 or uint16.
        mask: (H, H) uint8 or uint16; the edge of what is ignored is no outline.

    Returns:
        (2 R + 1, 2 R + 1) float32 with mean 1; row and column R + d for an outline moved by d pixels down or to the
        right. None if there is no outline or no edge.
    """
    outline, known = np.zeros(mask.shape, bool), ~is_ignored(mask)
    outline[:, 1:] |= (mask[:, 1:] != mask[:, :-1]) & known[:, 1:] & known[:, :-1]
    outline[1:] |= (mask[1:] != mask[:-1]) & known[1:] & known[:-1]
    rows, columns = np.nonzero(outline)
    if len(rows) < FEWEST_POINTS:
        return None
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), MOST_POINTS)).astype(int)
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), SMOOTHING)
    gradient = cv2.magnitude(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    gradient = np.minimum(gradient, np.percentile(gradient, 99))  # single bright spots
    reach = int(np.clip(len(image) // OF_SIDE, 2, LARGEST_OFFSET))
    borders = [reach] * 4
    around = cv2.copyMakeBorder(gradient, *borders, cv2.BORDER_CONSTANT, value=float(gradient.mean()))
    windows = np.lib.stride_tricks.sliding_window_view(around, (2 * reach + 1, 2 * reach + 1))
    mean = windows[rows[chosen], columns[chosen]].mean(axis=0)
    return mean / mean.mean() if mean.mean() > 0 else None


class Alignment:
    """Where edges are strongest, for each case and the whole set; memory does not grow with the number of slices.

    Attributes:
        shifted: dict of case name to (down, right, how many times stronger), for cases that are shifted by themselves.
    """

    def __init__(self):
        self.shifted = {}
        self._shape = None  # slices of other sizes are left out
        self._case, self._sums, self._counts = None, [0.0, 0.0], [0, 0]  # of every other slice of a case
        self._of_cases, self._of_slices = [0.0, 0.0], [0.0, 0.0]  # sums over cases: every other case, or slice
        self._case_count, self._slice_count = 0, 0

    def add(self, case, edges):
        """Add a slice; the slices of a case, its name, come one after the other. edges: of `edges_under_outline`."""
        if case != self._case:
            self._finish_case()
            self._case = case
        if edges is None or (self._shape or edges.shape) != edges.shape:
            return
        self._shape = edges.shape
        half = sum(self._counts) % 2
        self._sums[half] = self._sums[half] + edges
        self._counts[half] += 1

    def _finish_case(self):
        """Add a case to the sums over cases, every case with the same weight."""
        sums, counts, count = self._sums, self._counts, sum(self._counts)
        self._sums, self._counts = [0.0, 0.0], [0, 0]
        if not count:
            return
        half = self._case_count % 2
        self._of_cases[half] = self._of_cases[half] + sum(sums) / count
        self._of_slices = [whole + of_case / count for whole, of_case in zip(self._of_slices, sums, strict=True)]
        self._case_count += 1
        self._slice_count += count
        if count >= FEWEST_SLICES and (found := find_offset(sums[0] / counts[0], sums[1] / counts[1])):
            self.shifted[self._case] = found

    def finish(self):
        """Offset of the whole set as (down, right, how many times stronger); None if its masks lie on the edges."""
        self._finish_case()
        self._case = None
        halves = self._of_cases if self._case_count >= FEWEST_CASES else self._of_slices
        if self._slice_count < FEWEST_SLICES or any(np.ndim(half) == 0 for half in halves):
            return None
        return find_offset(*[half / half.mean() for half in halves])


def find_offset(first, second):
    """Offset at which edges are clearly stronger than at the outlines, in two independent halves of slices.

    Args:
        first, second: (2 R + 1, 2 R + 1) means of `edges_under_outline`.

    Returns:
        (pixels down, pixels to the right, how many times stronger); None if there is no such offset.
    """
    both, reach = (first + second) / 2, len(first) // 2
    down, right = best = _strongest(both)
    distance = max(abs(down), abs(right))
    if not SMALLEST_SHIFT <= distance < reach:  # at the border of the window, edges may grow on and on
        return None
    if any(abs(a - b) > 1 for half in (first, second) for a, b in zip(_strongest(half), best, strict=True)):
        return None
    near = np.s_[reach - 1 : reach + 2, reach - 1 : reach + 2]
    at = (reach + down, reach + right)
    stronger = [half[at] / half[near].max() for half in (first, second)]
    rows, columns = np.indices(both.shape) - reach
    elsewhere = both[np.maximum(abs(rows - down), abs(columns - right)) > SMALLEST_SHIFT].max()
    is_sharp = both[at] - 1 >= SHARP * max(elsewhere - 1, 0)
    if min(stronger) < STRONGER or both[at] < STRONG or not is_sharp:
        return None
    return int(down), int(right), float(both[at] / both[reach, reach])


def _strongest(edges):
    reach = len(edges) // 2
    row, column = np.unravel_index(edges.argmax(), edges.shape)
    return int(row) - reach, int(column) - reach


def in_words(down, right):
    """An offset, such as "8 pixels down and 3 pixels to the left"."""
    vertical = f"{abs(down)} pixels {'down' if down > 0 else 'up'}" if down else ""
    horizontal = f"{abs(right)} pixels to the {'right' if right > 0 else 'left'}" if right else ""
    return " and ".join(filter(None, (vertical, horizontal)))

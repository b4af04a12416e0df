"""Images that are in two cases: equal, or nearly equal after a change of brightness, a JPEG or a blur.

Each image has a signature of 64 bytes, whether it gets brighter from point to point of a 17x17 version (a difference
hash). Pairs with nearly equal signatures are read again and compared in detail. Slices of one case are alike by nature
and are not compared.
"""

import functools
from typing import NamedTuple

import cv2
import numpy as np

from common.parallel import progress
from common.slices.images import read_slice, to_gray

GRID = 17  # points of a side, for 2 x 256 differences
SIGNATURE = 2 * (GRID - 1) ** 2 // 8  # bytes
FLAT = 0.05  # differences below this fraction of the standard deviation are none
CONTENT, POINTS = 0.05, 0.05  # nearly uniform: fewer points differ from the median by CONTENT of the range
# On real MR and microscopy, changed copies differed in up to 52 bits and had a correlation of 0.97 or more; slices of
# different patients had a correlation of up to 0.9. Drawn scans of one and the same body reach 0.97, and neighbors in a
# scan 0.99: a copy must be clearly more alike than neighbors of the same case are.
MOST_BITS, ALIKE = 64, 0.95
NEARER = 0.7  # difference of a copy compared with the difference of neighbors; copies had up to 0.6, others 0.9 or more
DETAIL, BLUR = 64, 2.0  # side in points of the images to compare, and the blur to subtract from them
CHUNK = 512  # signatures to compare with as many others at once
MOST_CANDIDATES = 5000  # pairs to read again, the most similar ones
MOST_DETAILS = 1000  # images in memory at once, of 16 KB each


class Leak(NamedTuple):
    """Two slices (Checked) of different cases with the same image, and their correlation; 1.0 if all pixels are."""

    first: object
    second: object
    correlation: float


def signature_of(image):
    """Signature of an image, (H, H) uint8 or uint16: 64 bytes; empty if it is nearly uniform, such as air."""
    middle = _shrunk(image, DETAIL)
    extent = np.ptp(middle)
    if not extent or (abs(middle - np.median(middle)) > CONTENT * extent).mean() < POINTS:
        return b""
    small = cv2.resize(middle, (GRID, GRID), interpolation=cv2.INTER_AREA)
    least = FLAT * small.std()
    right, down = small[:-1, 1:] - small[:-1, :-1], small[1:, :-1] - small[:-1, :-1]
    return np.packbits(np.stack([right, down]) > least).tobytes()


def find_equal(slices):
    """Equal images in different cases: a Leak for each slice that is in an earlier case too.

    Args:
        slices: list of Checked; images of one gray level do not count.
    """
    first_of, leaks = {}, []
    for s in slices:
        first = first_of.setdefault(s.digest, s)
        if s.digest and first.case != s.case:
            leaks.append(Leak(first, s, 1.0))
    return leaks


def find_alike(slices, pairs):
    """Nearly equal images in different cases: a Leak for each such pair, the most similar first.

    Args:
        slices: list of Checked, the slices of a case one after the other.
        pairs: result of `find_candidates`.
    """

    @functools.lru_cache(maxsize=MOST_DETAILS)
    def detail(index):
        return detail_of(to_gray(read_slice(slices[index].x)))

    @functools.lru_cache(maxsize=MOST_CANDIDATES)
    def difference(first, second):
        """1 minus the correlation; 1 if sizes differ."""
        if slices[first].size != slices[second].size:
            return 1.0
        return max(1 - float((detail(first) * detail(second)).sum()), 0.0)

    def of_neighbors(index):
        """Smallest difference to the slice before or after in the same case, unless that is a copy; 1 if alone."""
        others = [i for i in (index - 1, index + 1) if 0 <= i < len(slices) and slices[i].case == slices[index].case]
        others = [difference(index, i) for i in others if slices[i].digest != slices[index].digest]
        return min(others, default=1.0)

    leaks = []
    for first, second in progress(pairs, len(pairs), "comparing"):
        if slices[first].digest == slices[second].digest or difference(first, second) > 1 - ALIKE:
            continue
        if difference(first, second) <= NEARER * min(of_neighbors(first), of_neighbors(second)):
            leaks.append(Leak(slices[first], slices[second], 1 - difference(first, second)))
    return sorted(leaks, key=lambda leak: -leak.correlation)


def find_candidates(slices, signatures):
    """Pairs of slices of different cases with nearly equal signatures, up to MOST_CANDIDATES.

    Args:
        slices: list of Checked, the slices of a case one after the other.
        signatures: bytes of `signature_of` for each.

    Returns:
        list of pairs of indices.
    """
    numbers = np.array([i for i, signature in enumerate(signatures) if signature], int)
    if len(numbers) < 2:
        return []
    words = np.frombuffer(b"".join(signatures), np.uint64).reshape(-1, SIGNATURE // 8)
    case_numbers = {case: number for number, case in enumerate(dict.fromkeys(s.case for s in slices))}
    cases = np.array([case_numbers[slices[i].case] for i in numbers])
    starts = range(0, len(numbers), CHUNK)
    found = np.empty((0, 3), int)  # bits that differ, and both indices
    for top in progress(starts, len(starts), "comparing signatures"):
        for left in range(top, len(numbers), CHUNK):
            a, b = slice(top, top + CHUNK), slice(left, left + CHUNK)
            bits = np.zeros((len(cases[a]), len(cases[b])), np.uint16)
            for word in range(words.shape[1]):
                bits += np.bitwise_count(words[a, None, word] ^ words[None, b, word])
            rows, columns = np.nonzero((bits <= MOST_BITS) & (cases[a, None] < cases[None, b]))
            new = np.stack([bits[rows, columns], numbers[a][rows], numbers[b][columns]], axis=1)
            found = np.concatenate([found, new.astype(int)])
            if len(found) > MOST_CANDIDATES:
                found = found[np.argsort(found[:, 0], kind="stable")[:MOST_CANDIDATES]]
    return [(int(a), int(b)) for _, a, b in found]


def detail_of(image):
    """Fine detail of an image, to correlate: (D, D) float32 with mean 0 and norm 1, or zeros; D is up to DETAIL."""
    small = _shrunk(image, DETAIL)
    small -= cv2.GaussianBlur(small, (0, 0), BLUR)
    small -= small.mean()
    norm = np.linalg.norm(small)
    return small / norm if norm else small


def _shrunk(image, side):
    side = min(side, len(image))
    return cv2.resize(image.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)

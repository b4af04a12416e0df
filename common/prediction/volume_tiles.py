"""Mean probabilities of 3-D networks, whole or in overlapping tiles."""

import itertools
import math
import time

import numpy as np

from common.errors import SettingError
from common.slices.tiling import WeightedMean, gaussian_window, tile_starts

MIRRORS = {  # array axes to mirror, to average over
    "none": [()],
    "flips": [axes for count in range(4) for axes in itertools.combinations(range(3), count)],
}
LARGEST_PADDING, MAX_PADDED = 2**25, 64  # voxels, and times the voxels of the volume: memory for nothing
MAX_TILES = 20_000  # per volume; hours on a GPU


def mean_probabilities(networks, image, voxels=None, tile=None, overlap=0.5, flips="none", further=None):
    """Mean probabilities of several networks and flips, whole or in overlapping tiles with Gaussian weights.

    Needs memory for the image, the result, and the network on one tile.

    Args:
        networks: list of keras.Model.
        image: (S, H, W, C) float32, standardized.
        voxels: larger volumes are cut into cubic tiles of up to this many voxels; None: never.
        tile: tile size in voxels (up, back, left) for volumes of any size; None: use `voxels`.
        overlap: min overlap of neighboring tiles as a share of a tile, 0 to 0.9.
        flips: name in MIRRORS.
        further: function of the probabilities (S, H, W, K) of one network that returns channels (S, H, W, M) to average
            too; None: none.

    Returns:
        (S, H, W, K) float32; K + M with `further`.
    """
    shape = np.array(image.shape[:3])
    if tile is None and voxels and shape.prod() > 1.1 * voxels:  # 10% allows for rounding
        tile = [max(8, int(voxels ** (1 / 3)))] * 3
    if tile is None:
        return predict_tile(networks, image, flips, further)
    padded = math.prod(int(side) for side in np.maximum(shape, tile))
    if padded > max(LARGEST_PADDING, MAX_PADDED * shape.prod()):
        found = " for ".join("x".join(map(str, sides)) for sides in (tile, shape))
        raise SettingError(f"TILE: far larger than the volume (found {found} voxels); use a smaller one")
    image, original = pad_to(image, tile), tuple(map(slice, shape))
    if image.shape[:3] == tuple(tile):
        return predict_tile(networks, image, flips, further)[original]
    window, mean = gaussian_window(tile), None
    for start in with_estimate(tile_corners(image.shape[:3], tile, overlap)):
        place = tuple(slice(first, first + size) for first, size in zip(start, tile, strict=True))
        predicted = predict_tile(networks, image[place], flips, further)
        mean = mean or WeightedMean(image.shape[:3], predicted.shape[-1])
        mean.add(start, predicted, window)
    return mean.result()[original]


def tile_corners(shape, tile, overlap):
    """First voxels (up, back, left) of tiles that cover a volume and overlap by at least a share of their sides.

    Raises:
        SettingError: for more than MAX_TILES tiles.
    """
    overlaps = [size - max(1, int(size * (1 - overlap))) for size in tile]
    starts = list(map(tile_starts, shape, tile, overlaps))
    count = math.prod(map(len, starts))
    if count > MAX_TILES:
        size = "x".join(map(str, shape))
        raise SettingError(
            f"TILE and OVERLAP: too many tiles ({count:,} for {size} voxels, at most {MAX_TILES:,}); "
            "use larger tiles or a smaller overlap"
        )
    return list(itertools.product(*starts))


def with_estimate(corners):
    """Pass through the corners of tiles, and print the time for all of them if it is long."""
    start = time.monotonic()
    for number, corner in enumerate(corners):
        if number == 2:  # the first compiles the network
            minutes = (time.monotonic() - start) * len(corners) / 60
            if minutes > 2:
                print(f"predicting {len(corners)} tiles, about {minutes:.0f} minutes", flush=True)
        elif number == 1:
            start = time.monotonic()
        yield corner


def predict_tile(networks, image, flips="none", further=None):
    """Mean probabilities (S, H, W, K) of an image (S, H, W, C), over networks and flips; as `mean_probabilities`.

    Networks and flips are averaged one at a time, so memory contains one of them.
    """
    total = 0
    for network in networks:
        mean = 0
        for axes in MIRRORS[flips]:
            flipped = np.ascontiguousarray(np.flip(image, axes))
            mean = mean + np.flip(np.asarray(network.predict_on_batch(flipped[None]), np.float32)[0], axes)
        mean = mean / np.float32(len(MIRRORS[flips]))
        if further:
            mean = np.concatenate([mean, further(mean)], axis=-1)
        total = total + mean
    return total / np.float32(len(networks))


def pad_to(image, tile):
    """Pad an image smaller than a tile at its far ends with its minimum."""
    missing = np.maximum(np.array(tile) - image.shape[:3], 0)
    if not missing.any():
        return image
    padded = np.broadcast_to(image.min(axis=(0, 1, 2)), (*(image.shape[:3] + missing), image.shape[-1])).copy()
    padded[tuple(map(slice, image.shape[:3]))] = image
    return padded

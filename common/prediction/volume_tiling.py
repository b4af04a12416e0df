"""Prediction of volumes by networks of any size: whole, or in overlapping tiles."""

import itertools

import numpy as np


def predict_volume(networks, image, voxels=None, tile=None, overlap=0.5):
    """Mean of the probabilities of several networks.

    Args:
        networks: list of keras.Model.
        image: (S, H, W, C) float32, standardised.
        voxels: greater volumes are cut into tiles, cubes of so many voxels; None: never.
        tile: voxels (up, back, left) of the tiles, whatever the size; None: as `voxels` says.
        overlap: share by which neighbouring tiles overlap at least.

    Returns:
        (S, H, W, K) float32; overlapping tiles are averaged with Gaussian weights. Beside the volume and this it holds
        what the network needs for a tile.
    """
    shape = np.array(image.shape[:3])
    if tile is None and voxels and shape.prod() > 1.1 * voxels:  # a little more comes of rounding
        tile = [max(8, int(voxels ** (1 / 3)))] * 3
    if tile is None or (np.array(tile) >= shape).all():
        return predict_tile(networks, image if tile is None else pad_to(image, tile))[tuple(map(slice, shape))]
    image, tile = pad_to(image, tile), np.array(tile)
    window = gaussian_window(tile)
    total = np.zeros((*image.shape[:3], networks[0].output_shape[-1]), np.float32)
    weights = np.zeros((*image.shape[:3], 1), np.float32)
    for start in tile_starts(image.shape[:3], tile, overlap):
        place = tuple(slice(a, a + n) for a, n in zip(start, tile, strict=True))
        total[place] += window * predict_tile(networks, image[place])
        weights[place] += window
    total /= weights
    return total[tuple(map(slice, shape))]


def predict_tile(networks, image):
    """Mean probabilities (S, H, W, K) of an image (S, H, W, C)."""
    total = 0
    for network in networks:
        total = total + np.asarray(network.predict_on_batch(image[None]), np.float32)[0]
    return total / np.float32(len(networks))


def pad_to(image, tile):
    """The image, at its far ends filled up with its least values where it is smaller than a tile."""
    missing = np.maximum(np.array(tile) - image.shape[:3], 0)
    if not missing.any():
        return image
    padded = np.broadcast_to(image.min(axis=(0, 1, 2)), (*(image.shape[:3] + missing), image.shape[-1])).copy()
    padded[tuple(map(slice, image.shape[:3]))] = image
    return padded


def tile_starts(shape, tile, overlap):
    """First voxels of tiles that cover a volume at even distances, as (up, back, left)."""
    starts = []
    for side, size in zip(shape, tile, strict=True):
        count = 1 + int(np.ceil((side - size) / max(1, int(size * (1 - overlap)))))
        starts.append(np.unique(np.linspace(0, side - size, count).round().astype(int)).tolist())
    return itertools.product(*starts)


def gaussian_window(tile):
    """Weights of the voxels of a tile, (s, h, w, 1), least at the edges; its deviation is an eighth of the side."""
    sides = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in tile]
    return np.maximum(np.einsum("i,j,k->ijk", *sides), 1e-3)[..., None].astype(np.float32)


def to_labels(probabilities, threshold=0.5):
    """Label numbers (S, H, W) uint8 of probabilities (S, H, W, K): the greatest, where any label is probable enough.

    That is where their sum is above the threshold: where two labels meet, neither needs to reach it alone.
    """
    return ((probabilities.argmax(-1) + 1) * (probabilities.sum(-1) > threshold)).astype(np.uint8)

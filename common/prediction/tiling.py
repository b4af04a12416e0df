"""Prediction of pictures of any size by a network of one size: whole, or in overlapping tiles."""

import itertools

import cv2
import numpy as np

from common.slices.images import cut, fit_boxes, resize, to_unit

# How a picture is shown to the network to average over: quarter turns, and whether it is mirrored.
TRANSFORMS = {
    "none": [(0, False)],
    "flips": [(0, False), (0, True), (2, False), (2, True)],
    "turns": [(turns, mirrored) for turns in range(4) for mirrored in (False, True)],
}


def average_over(network, x, flips):
    """Mean of a network's probabilities over turned and mirrored forms of square pictures.

    Args:
        network: keras.Model.
        x: (B, H, H, 1) float32.
        flips: name of TRANSFORMS.

    Returns:
        (B, H, H, C) float32.
    """
    return sum(predict_turned(network, x, *form) for form in TRANSFORMS[flips]) / np.float32(len(TRANSFORMS[flips]))


def predict_turned(network, x, turns, mirrored):
    """Probabilities of pictures that are shown turned and mirrored, turned back; arguments as `average_over`."""
    shown = np.rot90(x, turns, (1, 2))
    shown = np.ascontiguousarray(shown[:, :, ::-1] if mirrored else shown)
    probabilities = np.asarray(network.predict_on_batch(shown), np.float32)
    return np.rot90(probabilities[:, :, ::-1] if mirrored else probabilities, -turns, (1, 2))


def predict_pictures(pictures, network, size, fit, overlap=0.5, batch_size=8, flips="none"):
    """Probabilities of pictures, streamed: it holds a few pictures at a time.

    Args:
        pictures: iterable of (H, W) uint8 or uint16, each of its own size.
        network: keras.Model.
        size: side of the slices that it takes.
        fit: of `common.slices.images.fit_boxes`; overlapping tiles are averaged with Gaussian weights.
        overlap: share by which neighbouring tiles overlap at least.
        batch_size: slices or tiles a step.
        flips: name of TRANSFORMS.

    Yields:
        (picture, probabilities), the latter (H, W, C) float32.
    """
    window = gaussian_window(size) if fit == "tile" else np.ones((size, size), np.float32)
    open_canvases = []

    def pieces():
        for picture in pictures:
            boxes = [[0, 0, size, size]] if picture.shape == (size, size) else None
            canvas = Canvas(picture, boxes or fit_boxes(picture.shape, size, fit, int(overlap * size)))
            open_canvases.append(canvas)
            for box in canvas.boxes:
                yield canvas, box, to_unit(cut(picture, box, size))

    stream = pieces()
    while batch := list(itertools.islice(stream, batch_size)):
        x = np.zeros((batch_size, size, size, 1), np.float32)  # always full, so that the network is compiled once
        for row, (_, _, piece) in enumerate(batch):
            x[row, ..., 0] = piece
        for (canvas, box, _), probabilities in zip(batch, average_over(network, x, flips), strict=False):
            canvas.add(box, probabilities, window)
        while open_canvases and open_canvases[0].complete():
            canvas = open_canvases.pop(0)
            yield canvas.picture, canvas.probabilities()


class Canvas:
    """A picture whose pieces are being predicted.

    Args:
        picture: (H, W).
        boxes: of its pieces.
    """

    def __init__(self, picture, boxes):
        self.picture, self.boxes = picture, boxes
        self.missing = len(boxes)
        self.total = self.weights = 0

    def add(self, box, probabilities, window):
        """Add the probabilities of a piece, (size, size, C), scaled back to its box."""
        left, top, width, height = box
        rows, columns = self.picture.shape
        probabilities = resize(probabilities, (height, width), cv2.INTER_LINEAR).reshape(height, width, -1)
        weights = resize(window, (height, width), cv2.INTER_LINEAR)[..., None]
        inside = slice(max(-top, 0), rows - top), slice(max(-left, 0), columns - left)
        place = slice(max(top, 0), top + height), slice(max(left, 0), left + width)
        if self.missing == len(self.boxes):
            self.total = np.zeros((rows, columns, probabilities.shape[-1]), np.float32)
            self.weights = np.zeros((rows, columns, 1), np.float32)
        self.total[place] += (probabilities * weights)[inside]
        self.weights[place] += weights[inside]
        self.missing -= 1

    def complete(self):
        return self.missing == 0

    def probabilities(self):
        """(H, W, C) float32; background where no piece reached."""
        outside = self.weights[..., 0] == 0
        result = self.total / np.maximum(self.weights, np.finfo(np.float32).tiny)
        if result.shape[-1] > 1:
            result[outside, 0] = 1
        return result


def gaussian_window(size):
    """Weights of a tile: a Gaussian of sigma size / 8 about its centre, as in nnU-Net (Isensee et al., doi
    10.1038/s41592-020-01008-z), at least 0.001 so that the edges of the picture count.

    Returns:
        (size, size) float32, greatest 1.
    """
    line = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / (size / 8)) ** 2)
    return np.maximum(np.outer(line, line), 1e-3).astype(np.float32)

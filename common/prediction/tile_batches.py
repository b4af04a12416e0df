"""Images of any size as batches of square tiles for a network, and back, in order.

A slice or tile of one value, such as air or a black border, shows nothing: the network gives the same answer to each
that has this value. Each value is predicted once, and the answer is used again.
"""

import collections

import cv2
import numpy as np

from common.slices.images import cut, fit_boxes, resize, to_unit, with_channels
from common.slices.tiling import WeightedMean, gaussian_window

MOST_VALUES = 16  # whose probabilities are kept


class TileBatches:
    """Batches of tiles of a stream of images; only a few images are in memory at a time.

    Args:
        images: iterable of (H, W) or (H, W, C) uint8 or uint16, of any sizes, with the channels of the network.
        size: side of the input slices in pixels.
        fit: "resize", "tile" or "pad", as for `common.slices.images.fit_boxes`; overlapping tiles are averaged with
            Gaussian weights.
        overlap: min overlap of neighboring tiles as a share of a tile, 0 to 0.9.
        batch_size: slices or tiles per batch.
        skip_empty: whether to predict tiles of one value only once for each value.

    Attributes:
        skipped: number of tiles so far that were not sent to the network.
    """

    def __init__(self, images, size, fit, overlap, batch_size, skip_empty):
        self.images, self.size, self.fit, self.overlap = images, size, fit, int(overlap * size)
        self.batch_size, self.skip_empty, self.skipped = batch_size, skip_empty, 0
        self.window = gaussian_window((size, size)) if fit == "tile" else np.ones((size, size, 1), np.float32)
        self.waiting, self.sent = collections.deque(), collections.deque()
        self.known, self.asked = {}, {}  # by value: probabilities, and Requests without an answer so far

    def __iter__(self):
        """Yield batches (batch_size, size, size, C) float32, one shape for all, so that the network compiles once.

        If all tiles fit into one batch, it has as many rows as tiles. Rows without a tile are zeros. A batch has no
        rows if many images are complete without it: answer it with none, and take them by `completed`.
        """
        batch, images, rows = [], 0, None
        for image in self.images:
            images += 1
            for request in self._requests_of(image):
                batch.append(request)
                if len(batch) == self.batch_size:
                    yield self._send(batch, self.batch_size)
                    batch, images, rows = [], 0, self.batch_size
            if images >= 2 * self.batch_size:  # nearly all of one value
                yield self._send(batch, self.batch_size)
                batch, images, rows = [], 0, self.batch_size if batch else rows
        if batch:
            yield self._send(batch, rows or len(batch))

    def _requests_of(self, image):
        """Requests for the tiles of an image whose probabilities are not known."""
        shape = image.shape[:2]
        boxes = [[0, 0, self.size, self.size]] if shape == (self.size, self.size) else None
        tiled = TiledImage(image, boxes or fit_boxes(shape, self.size, self.fit, self.overlap), self.window)
        self.waiting.append(tiled)
        for number, box in enumerate(tiled.boxes):
            tile = with_channels(cut(image, box, self.size))
            value = only_value(tile) if self.skip_empty else None
            self.skipped += value in self.known or value in self.asked
            if value in self.known:
                tiled.add(number, self.known[value])
            elif value in self.asked:
                self.asked[value].places.append((tiled, number))
            else:
                request = Request(to_unit(tile), value, [(tiled, number)])
                if value is not None:
                    self.asked[value] = request
                yield request

    def _send(self, batch, rows):
        self.sent.append(batch)
        x = np.zeros((rows if batch else 0, *(batch[0].tile.shape if batch else (self.size, self.size, 1))), np.float32)
        for row, request in zip(x, batch, strict=False):
            row[:] = request.tile
        return x

    def answer(self, probabilities):
        """Add the probabilities (rows, size, size, C) of the oldest batch without an answer."""
        for request, of_tile in zip(self.sent.popleft(), probabilities, strict=False):
            for tiled, number in request.places:
                tiled.add(number, of_tile)
            if request.value is not None:
                del self.asked[request.value]
                self.known[request.value] = np.array(of_tile)
                if len(self.known) > MOST_VALUES:
                    del self.known[next(iter(self.known))]

    def completed(self):
        """Yield (image, probabilities (H, W, C) float32) of the images that are complete, in order.

        To be asked after each answer, and once after the last batch: known values may complete the last images.
        """
        while self.waiting and self.waiting[0].is_complete:
            tiled = self.waiting.popleft()
            yield tiled.image, tiled.mean.result()


class Request:
    """A tile for the network.

    Args:
        tile: (size, size, C) float32.
        value: `only_value` of the tile.
        places: list of (TiledImage, tile number) that its probabilities are for.
    """

    def __init__(self, tile, value, places):
        self.tile, self.value, self.places = tile, value, places


def only_value(tile):
    """Values of the channels of a tile (H, W, C), as bytes with their type, if all pixels have them; otherwise None."""
    first = tile[0, 0]
    if (tile[-1, -1] != first).any() or (tile != first).any():
        return None
    return tile.dtype.str, first.tobytes()


class TiledImage:
    """An image with tiles in prediction.

    Args:
        image: (H, W) or (H, W, C).
        boxes: tile boxes, [left, top, width, height].
        window: (size, size, 1), tile weights.

    Attributes:
        mean: WeightedMean of the tiles so far; None before the first tile.
    """

    def __init__(self, image, boxes, window):
        self.image, self.boxes, self.window = image, boxes, window
        self.added, self.early, self.mean = 0, {}, None

    def add(self, number, probabilities):
        """Add the probabilities (size, size, C) of a tile, scaled back to its box; sums are in the order of the boxes.

        Args:
            number: position of the tile in `boxes`.
        """
        self.early[number] = probabilities
        while self.added in self.early:
            self._sum(self.boxes[self.added], self.early.pop(self.added))
            self.added += 1

    def _sum(self, box, probabilities):
        left, top, width, height = box
        probabilities, weights = (
            resize(array, (height, width), cv2.INTER_LINEAR).reshape(height, width, -1)
            for array in (probabilities, self.window)
        )
        self.mean = self.mean or WeightedMean(self.image.shape[:2], probabilities.shape[-1])
        self.mean.add((top, left), probabilities, weights)

    @property
    def is_complete(self):
        return self.added == len(self.boxes)

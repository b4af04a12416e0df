"""Predict images of any size, whole or in overlapping tiles, averaged over networks, flips and quarter turns."""

import collections
import gc
import itertools
import tempfile
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from common.errors import InputError
from common.parallel import progress
from common.prediction.networks_in_workers import load_keras, network_of, surroundings
from common.prediction.uncertainty import foreground
from common.slices.images import cut, fit_boxes, resize, to_unit, with_channels
from common.slices.tiling import WeightedMean, gaussian_window
from common.training.trained_models import load_network, recorded_shape

# Test-time augmentation: transforms to average over, as (quarter turns, mirrored).
TRANSFORMS = {
    "none": [(0, False)],
    "flips": [(0, False), (0, True), (2, False), (2, True)],
    "turns": [(turns, mirrored) for turns in range(4) for mirrored in (False, True)],
}


class Ensemble:
    """Networks to average probabilities over, with one in memory at a time.

    Args:
        files: list of Path of .keras files.

    Attributes:
        size: side of the input slices in pixels.
        inputs, channels: numbers of input and output channels.
        overlapping: whether classes overlap: each channel is a class.
        classes: number of classes.

    Raises:
        InputError: if one cannot be loaded, or their sizes or channels differ.
    """

    def __init__(self, files):
        self.files, self._loaded = files, None
        others = [recorded_shape(file) or shape_of(self._load(i), file) for i, file in enumerate(files[1:], 1)]
        own = shape_of(self._load(0), files[0])  # stays loaded, because it predicts first
        self.size, self.inputs, self.channels, self.overlapping = own
        self.classes = self.channels - (self.channels > 1 and not self.overlapping)
        for shape, file in zip(others, files[1:], strict=True):
            if shape != own:
                raise InputError(
                    f"{file}: does not match {files[0]} (side, input and output channels, overlapping classes: {shape} "
                    f"and {own}); average only models that match"
                )

    def predict(self, images, count, **settings):
        """Mean probabilities of images, in order, with a progress bar over all images and networks.

        Args:
            images, settings: as for `running_sums`, workers too.
            count: number of images.

        Yields:
            (image, probabilities); probabilities are (H, W, C) float32, or C + 1 with `squares`.
        """
        sums = self.running_sums(images, **settings)
        for number, image, total in progress(sums, count * len(self.files), "predicting"):
            if number == len(self.files) - 1:
                yield image, total / np.float32(len(self.files))

    def running_sums(self, images, squares=False, workers=None, flips="none", **settings):
        """Running sums of probabilities, network by network; stored in files, 4 bytes per pixel and channel.

        Args:
            images: function that returns an iterable of (H, W) or (H, W, C) uint8 or uint16, the same at each call.
            squares: whether to add a channel, the square of the foreground probability, to see how networks differ.
            workers: `common.workers.Threads` or Processes; processes predict a batch in each task. None: this process.
            flips, settings: as for `predict_images`.

        Yields:
            (network number, image, sum of probabilities up to this network), for each network and image.
        """
        with tempfile.TemporaryDirectory() as folder:
            for number in range(len(self.files)):
                predicted = predict_images(images(), self._average(number, flips, workers), self.size, **settings)
                for i, (image, total) in enumerate(predicted):
                    file = Path(folder, f"{i}.npy")
                    if squares:
                        squared = foreground(total, self.overlapping)[..., None] ** 2
                        total = np.concatenate([total, squared], axis=-1)
                    if number:
                        total = total + np.load(file)
                    if number < len(self.files) - 1:
                        np.save(file, total)
                    yield number, image, total

    def _average(self, number, flips, workers):
        """Function of an iterable of batches that yields their probabilities by a network."""
        if workers is None or not workers.are_processes:
            return partial(map, partial(average_over, self._load(number), flips=flips))
        predict = partial(predict_batch, file=self.files[number], flips=flips, wanted=surroundings())
        return partial(workers.map, predict, batch=1)

    def _load(self, number):
        """Network with this number; the previous one is freed."""
        if self._loaded is None or self._loaded[0] != number:
            self._loaded = None
            gc.collect()
            self._loaded = number, load_network(self.files[number])
        return self._loaded[1]


def shape_of(network, file):
    """Input slice side, input channels, output channels of a network, and whether its classes overlap.

    Raises:
        InputError: if its input is not square slices.
    """
    shape = network.input_shape[1:]
    if len(shape) != 3 or shape[0] != shape[1] or None in shape:
        raise InputError(f"{file}: unsupported input shape (found {shape}); expected square slices")
    from models import has_overlapping_classes  # loads Keras; scripts check their input first

    return shape[0], shape[2], network.output_shape[-1], has_overlapping_classes(network)


# --- one network


def predict_batch(x, file, flips, wanted):
    """Predict a batch in a worker.

    Args:
        x, flips: as for `average_over`.
        file: Path of a .keras file.
        wanted: `common.prediction.networks_in_workers.Surroundings`.
    """
    load_keras(wanted)
    return average_over(network_of(file), x, flips)


def predict_images(images, average, size, fit, overlap=0.5, batch_size=8):
    """Predict probabilities of images as a stream; only a few images are in memory at a time.

    Args:
        images: iterable of (H, W) or (H, W, C) uint8 or uint16, of any sizes, with the channels of the network.
        average: function of an iterable of batches (B, size, size, C) float32 that yields their probabilities in order.
        size: side of the input slices in pixels.
        fit: "resize", "tile" or "pad", as for `common.slices.images.fit_boxes`; overlapping tiles are averaged with
            Gaussian weights.
        overlap: min overlap of neighboring tiles as a share of a tile, 0 to 0.9.
        batch_size: slices or tiles per step.

    Yields:
        (image, probabilities); probabilities are (H, W, C) float32.
    """
    window = gaussian_window((size, size)) if fit == "tile" else np.ones((size, size, 1), np.float32)
    waiting, sent = collections.deque(), collections.deque()

    def all_tiles():
        for image in images:
            shape = image.shape[:2]
            boxes = [[0, 0, size, size]] if shape == (size, size) else None
            tiled = TiledImage(image, boxes or fit_boxes(shape, size, fit, int(overlap * size)), window)
            waiting.append(tiled)
            for box in tiled.boxes:
                yield tiled, box, to_unit(with_channels(cut(image, box, size)))

    def batches():
        stream = all_tiles()
        while batch := list(itertools.islice(stream, batch_size)):
            shape = batch_size, *batch[0][2].shape  # always full, so that the network compiles only once
            x = np.zeros(shape, np.float32)
            for row, (_, _, tile) in enumerate(batch):
                x[row] = tile
            sent.append([(tiled, box) for tiled, box, _ in batch])
            yield x

    for of_batch in average(batches()):
        for (tiled, box), probabilities in zip(sent.popleft(), of_batch, strict=False):
            tiled.add(box, probabilities)
        while waiting and waiting[0].is_complete:
            tiled = waiting.popleft()
            yield tiled.image, tiled.mean.result()


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
        self.missing, self.mean = len(boxes), None

    def add(self, box, probabilities):
        """Add the probabilities (size, size, C) of a tile, scaled back to its box."""
        left, top, width, height = box
        probabilities, weights = (
            resize(array, (height, width), cv2.INTER_LINEAR).reshape(height, width, -1)
            for array in (probabilities, self.window)
        )
        self.mean = self.mean or WeightedMean(self.image.shape[:2], probabilities.shape[-1])
        self.mean.add((top, left), probabilities, weights)
        self.missing -= 1

    @property
    def is_complete(self):
        return self.missing == 0


def average_over(network, x, flips="none"):
    """Mean probabilities of a network over turned and mirrored square images.

    Args:
        network: keras.Model.
        x: (B, H, H, C) float32.
        flips: name in TRANSFORMS.

    Returns:
        (B, H, H, C) float32.
    """
    return sum(predict_turned(network, x, *form) for form in TRANSFORMS[flips]) / np.float32(len(TRANSFORMS[flips]))


def predict_turned(network, x, turns, mirrored):
    """Predict turned and mirrored images, and turn the probabilities back; arguments as for `average_over`."""
    turned = np.rot90(x, turns, (1, 2))
    turned = np.ascontiguousarray(turned[:, :, ::-1] if mirrored else turned)
    probabilities = np.asarray(network.predict_on_batch(turned), np.float32)
    return np.rot90(probabilities[:, :, ::-1] if mirrored else probabilities, -turns, (1, 2))

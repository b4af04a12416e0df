"""Predict images of any size, whole or in overlapping tiles, averaged over networks, flips and quarter turns."""

import gc
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.parallel import ahead, progress
from common.prediction.networks_in_workers import load_for_prediction, load_keras, network_of, surroundings
from common.prediction.tile_batches import TileBatches
from common.prediction.uncertainty import moments
from common.training.trained_models import recorded_shape

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
        precision: "float32" or "mixed_bfloat16" for all networks; None: each as it was trained.

    Attributes:
        precision: as above; if it changes, networks are loaded again.
        size: side of the input slices in pixels.
        inputs, channels: numbers of input and output channels.
        overlapping: whether classes overlap: each channel is a class.
        classes: number of classes.

    Raises:
        InputError: if one cannot be loaded, or their sizes or channels differ.
    """

    def __init__(self, files, precision=None):
        self.files, self.precision, self._loaded = files, precision, None
        others = [recorded_shape(file) or shape_of(self.load(i), file) for i, file in enumerate(files[1:], 1)]
        own = shape_of(self.load(0), files[0])  # stays loaded, because it predicts first
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
            (image, probabilities); probabilities are (H, W, C) float32, or C + 2 with `with_moments`.
        """
        sums = ahead(self.running_sums(images, **settings))  # the network continues while results are written
        for number, image, total in progress(sums, count * len(self.files), "predicting"):
            if number == len(self.files) - 1:
                yield image, total / np.float32(len(self.files))

    def running_sums(self, images, with_moments=False, workers=None, flips="none", **settings):
        """Running sums of probabilities, network by network; stored in files, 4 bytes per pixel and channel.

        Args:
            images: function that returns an iterable of (H, W) or (H, W, C) uint8 or uint16, the same at each call.
            with_moments: whether to add the channels of `common.prediction.uncertainty.moments`.
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
                    if with_moments:
                        total = np.concatenate([total, moments(total, self.overlapping)], axis=-1)
                    if number:
                        total = total + np.load(file)
                    if number < len(self.files) - 1:
                        np.save(file, total)
                    yield number, image, total

    def _average(self, number, flips, workers):
        """Function of an iterable of batches that yields their probabilities by a network."""
        if workers is None or not workers.are_processes:
            return partial(map, partial(average_over, self.load(number), flips=flips))
        used = self.files[number], self.precision
        predict = partial(predict_batch, network=used, flips=flips, wanted=surroundings())
        return partial(workers.map, predict, batch=1)

    def load(self, number):
        """Network with this number, in the precision in force; the previous one is freed."""
        wanted = self.files[number], self.precision
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None
            gc.collect()
            self._loaded = wanted, load_for_prediction(*wanted)
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


def predict_batch(x, network, flips, wanted):
    """Predict a batch in a worker.

    Args:
        x, flips: as for `average_over`.
        network: Path of a .keras file, and its precision, as for `load_for_prediction`.
        wanted: `common.prediction.networks_in_workers.Surroundings`.
    """
    load_keras(wanted)
    return average_over(network_of(*network), x, flips)


def predict_images(images, average, size, fit, overlap=0.5, batch_size=8, skip_empty=True):
    """Predict probabilities of images as a stream; only a few images are in memory at a time.

    Args:
        average: function of an iterable of batches (B, size, size, C) float32 that yields their probabilities in order.
        images, size, fit, overlap, batch_size, skip_empty: as for `TileBatches`.

    Yields:
        (image, probabilities); probabilities are (H, W, C) float32.
    """
    batches = TileBatches(images, size, fit, overlap, batch_size, skip_empty)
    for probabilities in average(batches):
        batches.answer(probabilities)
        yield from batches.completed()
    yield from batches.completed()


def average_over(network, x, flips="none"):
    """Mean probabilities of a network over turned and mirrored square images.

    Args:
        network: keras.Model.
        x: (B, H, H, C) float32.
        flips: name in TRANSFORMS.

    Returns:
        (B, H, H, C) float32.
    """
    if not len(x):
        return x
    return sum(predict_turned(network, x, *form) for form in TRANSFORMS[flips]) / np.float32(len(TRANSFORMS[flips]))


def predict_turned(network, x, turns, mirrored):
    """Predict turned and mirrored images, and turn the probabilities back; arguments as for `average_over`."""
    turned = np.rot90(x, turns, (1, 2))
    turned = np.ascontiguousarray(turned[:, :, ::-1] if mirrored else turned)
    probabilities = np.asarray(network.predict_on_batch(turned), np.float32)
    return np.rot90(probabilities[:, :, ::-1] if mirrored else probabilities, -turns, (1, 2))

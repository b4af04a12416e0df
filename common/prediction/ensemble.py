"""Predicting with several networks, one in memory at a time."""

import gc
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.files import read_json
from common.prediction.tiling import predict_pictures
from common.training.trained_models import load_network


def ends_of(network, file):
    """Side of the slices that a network takes, and its output channels.

    Raises:
        InputError: if it takes other than square gray slices.
    """
    (height, width, gray), channels = network.input_shape[1:], network.output_shape[-1]
    if height != width or height is None or gray != 1:
        raise InputError(f"{file} takes {network.input_shape[1:]}; expected square slices of one channel")
    return height, channels


def ends_on_record(file):
    """The same, as state.json beside a network of a run says; None where there is none or the file is damaged."""
    state = Path(file).with_name("state.json")
    data = read_json(state).get("data", {}) if state.exists() else {}
    if not {"size", "classes"} <= data.keys():
        return None
    with zipfile.ZipFile(file) as archive:
        if archive.testzip():
            return None
    return data["size"], 1 if data["classes"] == 1 else data["classes"] + 1


class Ensemble:
    """Networks whose probabilities are averaged.

    Args:
        files: list of Path of .keras files.

    Attributes:
        size: side of the slices that they take.
        channels: of their output.

    Raises:
        InputError: if one cannot be loaded, or they differ in size or channels.
    """

    def __init__(self, files):
        self.files, self.loaded = files, None
        others = [ends_on_record(files[i]) or ends_of(self._load(i), files[i]) for i in range(1, len(files))]
        ends = [ends_of(self._load(0), files[0]), *others]  # the first one stays loaded
        for (size, channels), file in zip(ends, files, strict=True):
            if (size, channels) != ends[0]:
                raise InputError(
                    f"{file} takes slices of {size} and gives {channels} channels, {files[0]} takes {ends[0][0]} and "
                    f"gives {ends[0][1]}; they must agree"
                )
        self.size, self.channels = ends[0]

    def _load(self, i):
        """Network i; the one before it is forgotten."""
        if self.loaded is None or self.loaded[0] != i:
            self.loaded = None
            gc.collect()
            self.loaded = i, load_network(self.files[i])
        return self.loaded[1]

    def predict(self, pictures, **settings):
        """Probabilities of pictures, in order.

        With several networks, the sums of their probabilities wait in files, 4 bytes a pixel and channel.

        Args:
            pictures: function that gives an iterable of (H, W) uint8 or uint16, the same each time.
            settings: of `common.prediction.tiling.predict_pictures`.

        Yields:
            (picture, probabilities), the latter (H, W, C) float32; with n networks, n - 1 times (None, None) for each
            picture first, so that a bar moves.
        """
        if len(self.files) == 1:
            yield from predict_pictures(pictures(), self._load(0), self.size, **settings)
            return
        with tempfile.TemporaryDirectory() as place:
            for i in range(len(self.files)):
                stream = predict_pictures(pictures(), self._load(i), self.size, **settings)
                for number, (picture, probabilities) in enumerate(stream):
                    file = Path(place, f"{number}.npy")
                    total = probabilities + np.load(file) if i else probabilities
                    if i < len(self.files) - 1:
                        np.save(file, total)
                        yield None, None
                    else:
                        file.unlink()
                        yield picture, total / np.float32(len(self.files))

"""Predictions of the same validation slices while a model learns, for the run's page and for TensorBoard."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import keras
import numpy as np

from common.files import remove, whole_file
from common.slices.classes import class_numbers, is_target
from common.slices.drawing import contact_sheet, draw_truth_and_prediction, evenly_spaced
from common.slices.images import encode_jpeg, to_eight_bit, window_to_gray
from common.volumes.labels import label_numbers

WATCHED = 4  # slices
SIDE = 200  # pixels of each in the strip
MOST = 40  # strips to keep; then every second one goes
BLOCK = 32, 128  # voxels of a volume around a watched slice: up, and back and left


class Example(NamedTuple):
    """A validation slice to watch.

    Attributes:
        x: input of the network, (H, W, C) or, around a slice of a volume, (S, H, W, C) float32.
        background: (H, W) or (H, W, C) uint8, to draw on.
        truth: (H, W), its mask.
        mask_of: function of the probabilities that returns the predicted mask (H, W).
    """

    x: np.ndarray
    background: np.ndarray
    truth: np.ndarray
    mask_of: Callable


class Watched:
    """Draws strips of a few validation slices, with truth and prediction, into the run folder.

    Args:
        run: `common.training.run_folder.Run`.
        validation: validation set; without one, there are no strips.
    """

    def __init__(self, run, validation):
        self.run, self.examples = run, []
        if validation is not None:
            self.examples = examples_of_slices(validation) if validation.axes == 2 else examples_of_volumes(validation)

    def draw(self, model, epoch):
        """Predict with a model and write the strip of an epoch.

        Returns:
            (SIDE, N * SIDE, 3) uint8 RGB; None if there is nothing to watch.
        """
        if not self.examples:
            return None
        drawn = []
        for example in self.examples:
            with keras.device("cpu:0"):
                probabilities = keras.ops.convert_to_numpy(model(example.x[None], training=False))[0]
            predicted = example.mask_of(probabilities.astype(np.float32))
            drawn.append(draw_truth_and_prediction(example.background, example.truth, predicted))
        strip = contact_sheet(drawn, len(drawn), SIDE)
        self.run.progress_folder.mkdir(exist_ok=True)
        with whole_file(self.run.strip_file(epoch)) as unfinished:
            unfinished.write_bytes(encode_jpeg(strip))
        strips = self.run.strips()
        if len(strips) > MOST:
            for path in list(strips.values())[1:-1:2]:
                remove(path)
        return strip


def examples_of_slices(validation):
    """Up to WATCHED slices with a mask from the whole set, as a list of Example."""
    candidates = evenly_spaced(list(range(len(validation))), 50 * WATCHED)
    chosen = evenly_spaced([i for i in candidates if is_target(validation.y[i]).any()], WATCHED)
    mask_of, found = partial(class_numbers, overlapping=validation.overlapping), []
    for i in chosen:
        x, y = validation.batch([i])
        found.append(Example(x[0], to_eight_bit(validation.to_draw(validation.x[i])), y[0, ..., 0], mask_of))
    return found


def examples_of_volumes(validation):
    """The axial slice with the largest label of up to WATCHED volumes, as a list of Example.

    Memory contains one volume at a time. The network is shown a block around the label in that slice, not the whole
    volume, so that it takes little time.
    """
    found = []
    for i in evenly_spaced([i for i in range(len(validation)) if len(validation.places[i])], WATCHED):
        image, labels = validation.shown_volume(i)
        if not labels.any():  # of labels of a few voxels, on a coarser grid
            continue
        middle = (labels > 0).sum(axis=(1, 2)).argmax()
        center = middle, *np.argwhere(labels[middle]).mean(axis=0).astype(int)
        side = min(BLOCK[1], *labels.shape[1:])
        sizes = min(BLOCK[0], len(labels)), side, side
        starts = np.clip(np.subtract(center, np.array(sizes) // 2), 0, np.subtract(labels.shape, sizes)).tolist()
        block = tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
        x, level = image[block], middle - starts[0]
        low, high = np.percentile(x[level, ..., 0], (1, 99.5))
        background = window_to_gray(x[level, ..., 0], low, max(high, low + 1e-6), 8)

        def mask_of(probabilities, level=level):
            return label_numbers(np.moveaxis(probabilities[level], -1, 0), overlap=validation.overlap)

        found.append(Example(x.copy(), background, labels[block][level].copy(), mask_of))
    return found

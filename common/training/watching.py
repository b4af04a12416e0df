"""Predictions of the same validation slices while a model learns, for the run's page and for TensorBoard."""

import keras
import numpy as np

from common.files import remove, whole_file
from common.slices.classes import class_numbers, is_target
from common.slices.drawing import contact_sheet, draw_truth_and_prediction, evenly_spaced
from common.slices.images import encode_jpeg, to_eight_bit

WATCHED = 4  # slices
SIDE = 200  # pixels of each in the strip
MOST = 40  # strips to keep; then every second one goes


class Watched:
    """Draws strips of a few validation slices, with truth and prediction, into the run folder.

    Args:
        run: `common.training.run_folder.Run`.
        validation: validation set; None, and a set of volumes, have no strips.
    """

    def __init__(self, run, validation):
        self.run, self.validation, self.indices = run, validation, []
        if validation is not None and validation.axes == 2:
            filled = [
                i for i in evenly_spaced(list(range(len(validation))), 50 * WATCHED) if is_target(validation.y[i]).any()
            ]
            self.indices = evenly_spaced(filled, WATCHED)

    def draw(self, model, epoch):
        """Predict with a model and write the strip of an epoch.

        Returns:
            (SIDE, N * SIDE, 3) uint8 RGB; None if there is nothing to watch.
        """
        if not self.indices:
            return None
        x, y = self.validation.batch(self.indices)
        with keras.device("cpu:0"):
            probabilities = keras.ops.convert_to_numpy(model(x, training=False)).astype(np.float32)
        numbers = class_numbers(probabilities, overlapping=self.validation.overlapping)
        drawn = [
            draw_truth_and_prediction(to_eight_bit(self.validation.to_draw(self.validation.x[i])), mask, predicted)
            for i, mask, predicted in zip(self.indices, y[..., 0], numbers, strict=True)
        ]
        strip = contact_sheet(drawn, len(drawn), SIDE)
        self.run.progress_folder.mkdir(exist_ok=True)
        with whole_file(self.run.strip_file(epoch)) as unfinished:
            unfinished.write_bytes(encode_jpeg(strip))
        strips = self.run.strips()
        if len(strips) > MOST:
            for path in list(strips.values())[1:-1:2]:
                remove(path)
        return strip

"""The second stage of nodule detection: a run of train.py on crops gives candidates a probability."""

import numpy as np

from common.devices import import_keras
from common.errors import InputError
from common.prediction.ensemble import Ensemble
from common.slices.images import window_to_gray
from common.training.trained_models import CrossValidation, model_file, slice_preparation
from common.volumes.candidate_crops import crop_planes, open_scan
from common.volumes.candidates import PLANES
from common.volumes.reading import read_volume


class SecondStage:
    """Models that were trained on crops of 0_import_candidates.py; their probabilities are averaged.

    The last checkpoint of a run counts, not the one with the best Dice: Dice does not see false alarms, which are crops
    with an empty mask.

    Args:
        run: run folder, cross-validation or .keras file.

    Raises:
        InputError: if there is no model, or it was not trained on such crops.
    """

    def __init__(self, run):
        folds = CrossValidation(run)
        files = [model_file(fold, "last") for fold in (folds.runs() if folds.exists else [run])]
        made = slice_preparation(files)
        if made.channels != PLANES or not (made.spacing and made.window):
            raise InputError(
                f"SECOND_STAGE: {run} was not trained on crops of candidates; train on cases of 0_import_candidates.py"
            )
        self.window, self.mm = made.window, made.spacing[0]
        import_keras()
        self.ensemble = Ensemble(files)

    def probabilities(self, scan, points):
        """Probability of each candidate: the mean of the model's output over its crop.

        Args:
            scan: Path of the scan.
            points: (N, 3) in mm, LPS.

        Returns:
            list of float.
        """
        values, grid = open_scan(read_volume(scan))

        def crops():
            for point in points:
                crop = crop_planes(values, grid, point, self.ensemble.size, self.mm, self.window[0])
                yield window_to_gray(crop, *self.window, 8)

        predicted = self.ensemble.predict(crops, len(points), fit="resize")
        return [float(np.mean(probabilities)) for _, probabilities in predicted]

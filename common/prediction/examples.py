"""Predict the validation set with the best model: calibrate it, and draw the best and worst predictions."""

from pathlib import Path

import numpy as np

from common.prediction.flip_choice import choose_flips
from common.prediction.networks_in_workers import load_for_prediction
from common.prediction.volume_tiles import mean_probabilities
from common.slices.classes import as_sets, class_numbers, is_target, mean_dice, without_ignored
from common.slices.drawing import PREDICTED_COLOR, TRUTH_COLOR, draw_planes, draw_truth_and_prediction, first_and_last
from common.slices.images import to_eight_bit
from common.training.calibration import Calibrator
from common.training.earlier_calibration import calibration_before
from common.training.report import finish_report
from common.volumes.labels import label_numbers


def finish_run(run, log, validation, batch_size, tile=None):
    """Write calibration.json, validation_slices.png and the final report of a run.

    Args:
        run: `common.training.run_folder.Run` with best_dice.keras, unless there is no validation set.
        log: `common.training.run_folder.Log`.
        validation: validation set, or None.
        batch_size, tile: as for `best_and_worst`.

    Returns:
        `common.training.run_records.Calibration`; without a validation set, the one of an earlier run, or None.
    """
    if validation is None:
        calibration = calibration_before(run)
        if calibration:
            calibration.write_to(run.calibration_file)
        finish_report(run, log, [], calibration)
        return calibration
    model, calibrator = run.model_file("best_dice"), Calibrator(validation)
    network = load_for_prediction(model)
    drawn = best_and_worst(validation, network, batch_size, tile=tile, seen=calibrator.add)
    calibration = calibrator.result(model)
    if validation.axes == 2:
        calibration = calibration.model_copy(update=choose_flips(validation, network, len(log), run.turns))
    calibration.write_to(run.calibration_file)
    finish_report(run, log, drawn, calibration)
    return calibration


def best_and_worst(dataset, model, batch_size, count=6, tile=None, seen=None):
    """Draw the worst and best predictions by Dice, with outlines of truth and prediction.

    Args:
        dataset: `common.training.sets.SliceSet` or `common.training.volume_sets.VolumeSet`; items without foreground
            are skipped.
        model: keras.Model.
        batch_size: slices to predict at a time.
        count: slices at each end; half as many volumes, as each is drawn in three planes.
        tile: for volumes, see `common.prediction.volume_tiles.mean_probabilities`.
        seen: function that is called with the probabilities, class numbers and case of every item; None: none.

    Returns:
        list of ((H, W, 3) uint8 RGB, caption with the Dice), worst first, without duplicates.
    """
    seen = seen or (lambda *_: None)
    if dataset.axes == 3:
        return _volumes(dataset, model, count // 2, tile, seen)
    return _slices(dataset, model, batch_size, count, seen)


def _slices(dataset, model, batch_size, count, seen):
    scores = {}
    for start in range(0, len(dataset), batch_size):
        indices = np.arange(start, min(start + batch_size, len(dataset)))
        x, y = dataset.batch(indices)
        predicted = np.asarray(model.predict_on_batch(x), np.float32)
        for i, mask, probabilities in zip(indices.tolist(), y[..., 0], predicted, strict=True):
            seen(probabilities, mask, dataset.case[i])
            if is_target(mask).any():
                numbers = class_numbers(probabilities, overlapping=dataset.overlapping)
                scores[i] = mean_dice(*without_ignored(numbers, mask))
    pictures = []
    for i in first_and_last(sorted(scores, key=scores.get), count):
        x, y = dataset.batch([i])
        numbers = class_numbers(model.predict_on_batch(x), overlapping=dataset.overlapping)[0]
        image = to_eight_bit(dataset.to_draw(dataset.x[i]))
        picture = draw_truth_and_prediction(image, y[0, ..., 0], numbers)
        pictures.append((picture, f"Dice {scores[i]:.3f} {dataset.case[i]} {Path(dataset.source[i]).stem}"))
    return pictures


def _volumes(dataset, model, count, tile, seen):
    scores, pictures = {}, {}
    for i in range(len(dataset)):
        image, labels = dataset.shown_volume(i)
        probabilities = mean_probabilities([model], image, dataset.voxels, tile)
        truth = as_sets(labels, dataset.overlap) if dataset.overlap else labels
        seen(probabilities, truth, dataset.names[i])
        if not labels.any():
            continue
        numbers = label_numbers(np.moveaxis(probabilities, -1, 0), overlap=dataset.overlap)
        numbers = as_sets(numbers, dataset.overlap) if dataset.overlap else numbers
        outlines = [(truth, [TRUTH_COLOR]), (numbers, [PREDICTED_COLOR])]
        scores[i] = mean_dice(numbers, truth)
        pictures[i] = draw_planes(image[..., 0], outlines, dataset.geometries[i].spacing)
    ranked = first_and_last(sorted(scores, key=scores.get), count)
    return [(pictures[i], f"Dice {scores[i]:.3f} {dataset.names[i]}") for i in ranked]

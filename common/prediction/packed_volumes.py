"""Predict packed volumes, on their own grids: for scores of each fold's validation cases without their source files."""

from pathlib import Path

import numpy as np

from common.devices import import_keras
from common.errors import InputError
from common.parallel import progress
from common.prediction.networks_in_workers import load_for_prediction
from common.prediction.outputs import write_output, write_rows
from common.prediction.precision import precision_without_trial
from common.prediction.volume_networks import clean_numbers, last_stage
from common.prediction.volume_tiles import mean_probabilities
from common.replacing import refuse_existing
from common.slices.classes import NESTED
from common.slices.drawing import CLASS_COLORS, draw_planes
from common.slices.images import write_png
from common.slices.mask_files import MaskFiles
from common.training.calibration import threshold_in_words, with_threshold
from common.volumes.labels import label_image, label_numbers, measure_labels, write_all
from common.words import number_of

NOT_HERE = (
    "OUT_OF_FOLD",
    "FIT",
    "PASTE",
    "UNCERTAINTY",
    "PROBABILITIES",
    "DICOM_LABELS",
    "VIEWER_FILES",
    "WORKERS",
    "NAMES_TABLE",
)


def is_packed(path):
    """Whether INPUT is a file of packed volumes, by its name."""
    return Path(path).suffix.lower() == ".h5"


def predict_packed(models, settings):
    """Predict the packed volumes of INPUT, and write their label volumes on the grids that the network sees.

    In the step "patch", these are boxes around the true labels.

    Args:
        models: result of `common.training.trained_models.find_volume_models`.
        settings: settings of predict.py.

    Raises:
        InputError: for settings of volumes in their own files, or volumes packed in another way than in training.
    """
    if used := [name for name in NOT_HERE if getattr(settings, name)]:
        raise InputError(f"{used[0]}: not available for packed volumes; remove it, or predict the volumes themselves")
    refuse_existing(settings.OUTPUT, settings.REPLACE)
    import_keras()
    from common.training.sets import open_set  # imports Keras, which must be imported quietly first

    volumes, used = open_set(settings.INPUT, memory_gb=0), last_stage(models)
    require_same_step(volumes, models)
    settings = with_threshold(settings, used.files, used.threshold)
    flips, tile = settings.FLIPS or used.flips, settings.TILE or used.crop
    cleaning = used.clean if settings.CLEAN is None else settings.CLEAN
    networks = [load_for_prediction(file, precision_without_trial(settings.PRECISION)) for file in used.files]
    files = MaskFiles(volumes.labels, volumes.overlap)

    def fill(folder):
        print(f"predicting {number_of(len(volumes), 'packed volume')}", flush=True)
        print(threshold_in_words(settings), flush=True)
        rows = []
        for i, name in enumerate(progress(volumes.names, len(volumes), "predicting")):
            image, _ = volumes.shown_volume(i)
            probabilities = mean_probabilities(networks, image, volumes.voxels, tile, settings.OVERLAP, flips)
            numbers = numbers_of(probabilities, settings.THRESHOLD, volumes.overlap, cleaning, settings.LABEL_ORDER)
            labels = label_image(numbers, volumes.true_grid(i))
            write_all(labels, files, folder, name, settings.LABEL_VOLUMES or ".nii.gz")
            measured = measure_labels(name, labels, volumes.classes, volumes.overlap == NESTED)
            rows += [row | {"label": label} for row, label in zip(measured, volumes.labels, strict=True)]
            if settings.OVERLAYS:
                planes = draw_planes(image[..., 0], [(numbers, CLASS_COLORS)], labels.GetSpacing())
                write_png(folder / "overlays" / f"{name}.png", planes, atomic=False)
        write_rows(rows, folder / "volumes.csv")

    facts = {"class_names": volumes.labels} | ({"overlap": volumes.overlap} if volumes.overlapping else {})
    write_output(settings, fill, ["INPUT"], facts)
    print(f"wrote {number_of(len(volumes), 'label volume')} to {settings.OUTPUT}")


def require_same_step(volumes, models):
    """Raise InputError unless a set of packed volumes was packed as in the training of the models."""
    if volumes.axes != 3:
        raise InputError(f"INPUT: {volumes.path} contains slices; pass images, or packed volumes")
    if list(models) != [volumes.step]:
        steps = " and ".join(map(repr, models))
        raise InputError(
            f"INPUT: {volumes.path} was packed for the step {volumes.step!r} (found models of {steps}); "
            "pass the run of that step"
        )
    data = models[volumes.step].data
    for name, ours, theirs in (
        ("labels", volumes.labels, list(map(str, data.labels or []))),
        ("channels", volumes.channels, data.channels),
    ):
        if ours != theirs:
            raise InputError(f"INPUT: {volumes.path} has other {name} than in training ({ours} and {theirs})")


def numbers_of(probabilities, threshold=0.5, overlap="", cleaning=None, order="likeliest"):
    """Cleaned labels, as of `label_numbers`, from probabilities (S, H, W, K); arguments as in predict.py."""
    numbers = label_numbers(np.moveaxis(probabilities, -1, 0), threshold, overlap, order)
    return clean_numbers(numbers, cleaning or {}, overlap)

"""Read a run folder, or a cross-validation, in every way that later steps do, but for predicting.

python tests/faults/readers/run.py FOLDER MODEL

MODEL is the one model to load, best_dice, last or none, since that takes most of the time.
"""

import sys
from unittest import mock

from common.errors import report_error

sys.excepthook = report_error

import keras

from common.settings import Settings
from common.training.checkpoints import read_checkpoint
from common.training.run_folder import Run
from common.training.trained_models import CrossValidation, find_models, load_network, slice_preparation
from coreml.metadata import recorded_facts

load_model = keras.saving.load_model


def load_chosen(path, **options):
    return load_model(path, **options) if path.stem == sys.argv[2] else None


def read(folder):
    models = find_models([folder], "best_dice")
    slice_preparation(models.files)
    for file in models.files:
        run = Run(file.parent)
        recorded_facts(run, file)
        run.calibration_of(file)
        load_network(file)
    if CrossValidation(folder).exists:
        return
    run = Run(folder)
    Settings.of("train.py").with_recorded(run.settings_file)
    for which in run.find_models():
        run.score(run.model_file(which)), run.validation_metrics(run.model_file(which))
    run.data, run.crop, run.has_ended, run.log.best("dice")
    read_checkpoint(run)


with mock.patch.object(keras.saving, "load_model", load_chosen):
    read(sys.argv[1])

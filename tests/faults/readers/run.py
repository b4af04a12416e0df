"""Read a run folder, or a cross-validation, in every way that later steps do, but for predicting.

python tests/faults/readers/run.py FOLDER
"""

import sys

from common.errors import report_error

sys.excepthook = report_error

from common.settings import Settings
from common.training.checkpoints import read_checkpoint
from common.training.run_folder import Run
from common.training.trained_models import CrossValidation, find_models, load_network, slice_preparation
from coreml.metadata import recorded_facts

folder = sys.argv[1]
models = find_models([folder], "best_dice")
slice_preparation(models.files)
for file in models.files:
    run = Run(file.parent)
    recorded_facts(run, file)
    run.calibration_of(file)
    load_network(file)
if not CrossValidation(folder).exists:
    run = Run(folder)
    Settings.of("train.py").with_recorded(run.settings_file)
    for which in run.find_models():
        run.score(run.model_file(which)), run.validation_metrics(run.model_file(which))
    run.data, run.crop, run.has_ended, run.log.best("dice")
    read_checkpoint(run)

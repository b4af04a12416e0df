"""The exponential average of the weights: what is validated, kept and resumed."""

import keras
import numpy as np
import pandas as pd
import pytest
from running import run_here, training

from common.training.run_folder import Run
from common.training.sets import Batches, open_set
from losses.metrics import training_metrics

OPTIMIZER = {"name": "adam", "use_ema": True, "ema_momentum": 0.8}
SETTINGS = {
    "OPTIMIZER": OPTIMIZER,
    "MODEL_SETTINGS": {"features": 2, "depth": 1, "dropout": 0.0},
    "LEARNING_RATE": 0.02,
}
on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="bit for bit on TensorFlow only")


@pytest.fixture(scope="module")
def averaged(packed, made_once):
    """Run of three epochs with an average of the weights."""
    settings = {"EPOCHS": 3, "EARLY_STOP": 0, **SETTINGS}
    runs, _ = made_once("averaged", lambda runs: run_here("train.py", **training(packed, runs, **settings)).stdout)
    (run,) = runs.iterdir()
    return Run(run)


def weights(path):
    return keras.saving.load_model(path, compile=False).get_weights()


def test_the_best_model_is_the_average_that_was_validated(averaged, packed):
    """Its scores are those in the log, and its weights the average of the optimizer where the last epoch is best."""
    best = keras.saving.load_model(averaged.model_file("best_dice"), compile=False)
    score, epoch = averaged.log.best("dice")
    best.compile(loss="mse", metrics=training_metrics())
    validation = Batches(open_set(packed["packed"] / "validation.h5"), 3)
    assert best.evaluate(validation, verbose=0, return_dict=True)["dice"] == pytest.approx(score, abs=1e-5)
    last = keras.saving.load_model(averaged.model_file("last"))
    averages = [keras.ops.convert_to_numpy(value) for value in last.optimizer._model_variables_moving_average]
    own = [keras.ops.convert_to_numpy(value) for value in last.trainable_variables]
    assert not all(map(np.array_equal, own, averages)), "last.keras has the weights that training continues with"
    if epoch == 3:
        found = [keras.ops.convert_to_numpy(value) for value in best.trainable_variables]
        assert all(map(np.array_equal, found, averages))


def test_batch_statistics_of_the_average_are_taken_again(averaged, packed):
    """The first normalization: means over the batches of the epoch of the mean and variance of its input."""
    best = keras.saving.load_model(averaged.model_file("best_dice"), compile=False)
    epoch = averaged.log.best("dice")[1]
    settings = averaged.settings
    batches = open_set(packed["packed"] / "train.h5").batches(3, settings["SEED"], settings["AUGMENTATION"])
    batches.set_epoch(epoch - 1)
    first = keras.Model(best.inputs, best.get_layer("down0_conv1").output)
    inputs = [keras.ops.convert_to_numpy(first(batches[index][0])) for index in range(len(batches))]
    norm = best.get_layer("down0_norm1")
    np.testing.assert_allclose(
        norm.moving_mean, np.mean([x.mean((0, 1, 2)) for x in inputs], axis=0), rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(
        norm.moving_variance, np.mean([x.var((0, 1, 2)) for x in inputs], axis=0), rtol=1e-3, atol=1e-5
    )


@pytest.mark.slow
@on_tensorflow
def test_a_resumed_run_has_the_same_average(averaged, packed, tmp_path):
    settings = {"EPOCHS": 1, "EARLY_STOP": 0, **SETTINGS}
    run_here("train.py", **training(packed, tmp_path, **settings))
    (run,) = tmp_path.iterdir()
    run_here("train.py", MODE="resume", RUN=run, EPOCHS=3)
    for name in ("last", "best_dice", "best_iou"):
        ours, theirs = weights(run / f"{name}.keras"), weights(averaged.model_file(name))
        assert all(map(np.array_equal, ours, theirs)), name
    logs = [pd.read_csv(folder / "training_log.csv").drop(columns="seconds") for folder in (run, averaged.folder)]
    pd.testing.assert_frame_equal(*logs, check_exact=True)

"""Run folders, cross-validations and studies as they are recorded, without a training."""

import json
import math
from pathlib import Path

import pandas as pd
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from common.files import write_json
from common.settings import Settings
from common.tables import write_table
from common.training.cross_validation import write_fold_scores
from common.training.run_folder import Run
from common.training.run_records import SliceData
from common.training.trained_models import CrossValidation
from common.training.training_log import Log
from common.tuning.study import open_study

SUMMARY = """ Total params: 3,702 (14.46 KB)
 Trainable params: 1,200 (4.69 KB)
 Non-trainable params: 34 (136.00 B)
"""


def curve(best, epochs=8):
    """Dice that climbs towards `best`, and reaches it in the last epoch but one."""
    dice = [best * (1 - math.exp(-epoch / 2)) for epoch in range(1, epochs + 1)]
    return [*dice[:-2], best, best - 0.01]


def record_run(folder, dice, ended="finished all 8 epochs", planned=None, **settings):
    """Record a run with a validation Dice for each epoch."""
    run = Run(folder)
    of_script = Settings.of("train.py", MODEL="unet", LOSS="bce+dice", **settings)
    write_json(run.settings_file, json.loads(json.dumps(of_script.explained())))
    rows = [
        {"epoch": i, "seconds": 30.0, "learning_rate": 1e-3}
        | {"loss": 1 - d, "val_loss": 1 - d, "val_dice": d, "val_iou": d / 2}
        for i, d in enumerate(dice, 1)
    ]
    log = Log(rows)
    if rows:
        log.write(run.log_file)
        run.write_state(log, planned or len(dice), ended, {}, SliceData(), {})
    run.summary_file.write_text(SUMMARY)
    run.report_file.write_text("<!doctype html><title>report</title>")
    return run


def record_folds(folder, bests=(0.7, 0.8, 0.9)):
    """Record a cross-validation with its scores by evaluate.py."""
    folds = CrossValidation(folder)
    settings = Settings.of("train.py", MODEL="unet", LOSS="bce+dice", FOLD="all")
    write_json(folds.settings_file, json.loads(json.dumps(settings.explained())))
    for number, best in enumerate(bests, 1):
        record_run(
            folds.fold(number), curve(best), FOLD=number, TRAIN=f"data/packed/fold{number}/train.h5", OPTIMIZER="nadam"
        )
    write_fold_scores(folds)  # as train.py does at the end
    record_scores(folds.scores_folder, 0.75, 0.65, 0.85, 12)
    return folds


def record_scores(folder, mean, low, high, cases):
    Path(folder).mkdir(parents=True)
    row = {"class": 1, "n": cases, "mean": mean, "low": low, "high": high}
    rows = [row | {"score": score, "over": over} for over in ("cases", "images") for score in ("dice", "iou")]
    write_table(folder / "summary.csv", pd.DataFrame(rows).assign(mean=[mean, 0.1, 0.2, 0.3]))
    (folder / "report.html").write_text("<!doctype html><title>scores</title>")


def new_study(folder):
    """Folder of a study without a trial."""
    open_new_study(folder)
    return folder


def open_new_study(folder):
    settings = Settings.of("tune.py", TRAIN="train.h5", VALIDATION="validation.h5", STUDY="study", TRIALS=9)
    return open_study(Path(folder), json.loads(json.dumps(settings.as_json())), (), lambda: None, None)


def record_study(folder, bests=(0.5, 0.8, 0.6)):
    """Record a study of complete trials, and a failed one at the end."""
    study = open_new_study(folder)
    distributions = {"model": CategoricalDistribution(["unet", "cvnet"]), "unet depth": IntDistribution(1, 9)}
    for number, best in enumerate([*bests, None]):
        dice = curve(best) if best else []
        if best:
            record_run(folder / f"runs/trial-{number:03d}/2026_unet", dice)
        attributes = {"minutes": 0.1, "run": "../../elsewhere"} | ({} if best else {"reason": "out of memory"})
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if best else TrialState.FAIL,
                value=best,
                params={"model": "unet", "unet depth": number + 1},
                distributions=distributions,
                intermediate_values=dict(enumerate(dice, 1)),
                user_attrs=attributes,
            )
        )
    return folder

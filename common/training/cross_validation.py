"""Cross-validation: a run for each fold, out-of-fold predictions of every case, and one summary."""

from contextlib import suppress
from pathlib import Path

import pandas as pd

from common.claims import claimed
from common.errors import InputError
from common.files import natural_key, remove, whole_file, write_json
from common.jobs import call
from common.replacing import whole_folder
from common.settings import FORMAT
from common.slices.classes import OVERLAPPING
from common.slices.lists import write_list
from common.slices.mask_files import MaskFiles
from common.streams import print_lines
from common.tables import write_table
from common.training.distribution import several_processes
from common.training.new_run import dated, new_folder
from common.training.trained_models import CrossValidation

PREDICTION = "prediction.json"  # record in a folder that predict.py wrote: how classes overlap


def fold_file(path, fold):
    """Path of a packed set or list of a fold: fold3/train.h5 next to train.h5."""
    path = Path(path)
    return str(path if path.parent.name == f"fold{fold}" else path.parent / f"fold{fold}" / path.name)


def fold_numbers(path):
    """Numbers of the folds next to a packed set or list, of which there may be none."""
    folders = sorted((f.name for f in Path(path).parent.glob("fold*") if f.is_dir()), key=natural_key)
    return [int(name[4:]) for name in folders if name[4:].isdigit() and Path(fold_file(path, name[4:])).is_file()]


def find_folds(path):
    """Numbers of the folds next to a packed set or list.

    Raises:
        InputError: if there are fewer than two.
    """
    numbers = fold_numbers(path)
    if len(numbers) < 2:
        raise InputError(
            f"FOLD: expected folds with {Path(path).name} in {Path(path).parent} (found {len(numbers)}, needs two); "
            "make them with --folds 5 of 2_write_lists.py, then pack them; or of 3_pack_volumes.py"
        )
    return numbers


def cross_validate(settings):
    """Train all missing folds in turn, then predict and score the validation cases of each.

    Args:
        settings: dict of the recorded settings of train.py.

    Raises:
        InputError: if several processes were started, or RUN cannot be resumed.
    """
    if several_processes():
        raise InputError('FOLD: "all" works in one process only (found several); train one fold at a time')
    if settings["MODE"] == "resume":
        folds = CrossValidation(settings["RUN"])
        if not folds.exists:
            name = folds.settings_file.name
            problem = f"not a cross-validation ({folds} has no {name})" if settings["RUN"] else "not set"
            raise InputError(f"RUN: {problem}; pass --run the folder of a cross-validation")
        numbers = find_folds(folds.settings["TRAIN"])
    else:
        numbers = find_folds(settings["TRAIN"])
        folds = CrossValidation(new_folder(settings["RUNS"], f"{dated(settings['MODEL'])}_folds"))
        write_json(folds.settings_file, {FORMAT: 1} | settings)
    with claimed(folds):
        train_folds(folds, numbers)


def train_folds(folds, numbers):
    """Train the folds with these numbers, then predict and score their validation cases."""
    print(f"cross-validation over {len(numbers)} folds in {folds}", flush=True)
    for number in numbers:
        print_lines(f"\nfold {number} of {len(numbers)}")
        train_fold(folds, number)
    scored = predict_out_of_fold(folds)
    table = write_fold_scores(folds)
    print_lines(f"\n{table.round(4).to_string(index=False)}\nmean validation Dice {table['val_dice'].mean():.4f}")
    made = "the folds, out_of_fold, scores/report.html" if scored else "the folds"
    print(f"wrote {folds}: {made}; to average the folds: python predict.py --run {folds}")


def train_fold(folds, number):
    """Train or continue a fold, unless it is complete.

    Args:
        folds: CrossValidation.
        number: fold number.
    """
    run = folds.fold(number)
    if run.has_ended:
        print(f"skipping {run}: it is complete", flush=True)
    elif run.exists:
        call("train.py", MODE="resume", RUN=run, FOLD=number, RUNS=folds, MAX_MINUTES=run.minutes_left)
    else:
        with suppress(OSError):
            run.folder.rmdir()  # empty: the training was killed before it wrote its settings
        if run.folder.exists():
            raise InputError(f"{run}: not a run folder (no {run.settings_file.name} in it); move it away")
        call("train.py", "--settings", folds.settings_file, RUNS=folds, FOLD=number)


def predict_out_of_fold(folds):
    """Write the prediction of each validation slice by its fold's model, and the scores of all.

    Args:
        folds: CrossValidation.

    Returns:
        Whether this was possible.
    """
    from common.training.sets import open_set  # imports Keras, which otherwise only the training of a fold needs

    lists = {}
    for run in folds.runs():
        validation = open_set(run.validation_set, memory_gb=0)
        if validation.axes == 3:
            return predict_volumes_out_of_fold(folds)
        lists[run] = list_of_set(validation)
        if lists[run] is None:
            print(f"skipping out-of-fold predictions: the source files of {validation.path} are missing")
            return False
    with whole_folder(folds.predicted_folder, replace=True) as unfinished:
        for run, table in lists.items():
            write_list(run.validation_list_file, table)
            source, predicted = run.validation_list_file, run.predicted_folder
            # at 0.5: a run's own threshold was chosen on these very slices
            call("predict.py", "--replace", RUN=run, INPUT=source, OUTPUT=predicted, OVERLAYS=False, THRESHOLD=0.5)
            for path in predicted.iterdir():
                if path.is_dir() or path.name.endswith(".nii.gz"):  # a case's masks or label volume
                    path.rename(unfinished / path.name)
            remove(run.predicted_folder)
    write_list(folds.validation_list_file, pd.concat(lists.values()))
    scored = {"PREDICTED": folds.predicted_folder, "TRUTH": folds.validation_list_file, "OUTPUT": folds.scores_folder}
    call("evaluate.py", "--replace", **scored)
    return True


def predict_volumes_out_of_fold(folds):
    """As `predict_out_of_fold`, of packed volumes on the grids that the networks see; also writes the true labels.

    Scores of the step "patch" are those in boxes around the true labels.

    Returns:
        True.
    """
    from common.training.sets import open_set  # as in `predict_out_of_fold`
    from common.volumes.labels import label_image, write_all  # needs SimpleITK, slices do not

    named = {}
    with (
        whole_folder(folds.predicted_folder, replace=True) as predicted,
        whole_folder(folds.truth_folder, replace=True) as truth,
    ):
        for run in folds.runs():
            validation = open_set(run.validation_set, memory_gb=0)
            for i, name in enumerate(validation.names):
                labels = label_image(validation.shown_volume(i)[1], validation.true_grid(i))
                write_all(labels, MaskFiles(validation.labels, validation.overlap), truth, name, ".nii.gz")
            source, aside = run.validation_set, run.predicted_folder
            call("predict.py", "--replace", RUN=run, INPUT=source, OUTPUT=aside, OVERLAYS=False, THRESHOLD=0.5)
            for path in aside.iterdir():
                if path.name.endswith(".nii.gz") or (path.name == PREDICTION and validation.overlapping):
                    path.replace(predicted / path.name)
            remove(aside)
            named = {"LABEL_NAME": "{id}_{class}"} if validation.overlap == OVERLAPPING else {}
    scored = {"PREDICTED": folds.predicted_folder, "TRUTH": folds.truth_folder, "OUTPUT": folds.scores_folder} | named
    call("evaluate.py", "--replace", **scored)
    return True


def list_of_set(packed):
    """The list that a validation set was packed from, as a DataFrame of x, y and case; None if its files are gone."""
    x = [Path(source) for source in packed.source]
    y = [path.parents[1] / "y" / path.name for path in x]  # in a case folder; validation sets have no variants
    if not all(path.is_file() for path in (*x, *y)):
        return None
    return pd.DataFrame({"x": x, "y": y, "case": packed.case})


def write_fold_scores(folds):
    """Write the best epoch of each fold, with the Dice of each class if there are several; return it as a DataFrame.

    Args:
        folds: CrossValidation.

    Raises:
        InputError: if the log of a fold is damaged.
    """
    rows = []
    for run in folds.runs():
        log, row = run.log, run.best_row()
        best = {name: row[name] for name in ("epoch", "val_dice", "val_iou", "val_loss")}
        best |= {name: value for name, value in row.items() if name.startswith("val_dice_")}
        rows.append({"fold": run.name, "epochs": len(log), **best, "minutes": log.minutes})
    table = pd.DataFrame(rows)
    with whole_file(folds.folds_file) as unfinished:
        write_table(unfinished, table)
    return table

"""Cross-validation: a run for each fold, predictions of each case by the network that has not seen it, one summary."""

import os
import time
from pathlib import Path

import pandas as pd

from common.errors import InputError
from common.files import natural_key, read_json, remove, whole_file, whole_folder, write_json
from common.jobs import call
from common.slices.lists import write_list
from common.training.run_folder import model_file

RECORD = "cross_validation.json"  # marks the folder of a cross-validation, and holds its settings
CHOICE = "choice.json"  # there too: what evaluate.py --choose found to help


def fold_file(path, fold):
    """Path of a packed set or list of a fold: fold3/train.h5 beside train.h5."""
    path = Path(path)
    return str(path if path.parent.name == f"fold{fold}" else path.parent / f"fold{fold}" / path.name)


def find_folds(path):
    """Numbers of the folds beside a packed set or list.

    Raises:
        InputError: if there are fewer than two.
    """
    folders = sorted((f.name for f in Path(path).parent.glob("fold*") if f.is_dir()), key=natural_key)
    numbers = [int(name[4:]) for name in folders if name[4:].isdigit() and Path(fold_file(path, name[4:])).is_file()]
    if len(numbers) < 2:
        raise InputError(
            f"FOLD: {Path(path).parent} holds {len(numbers)} folds with a {Path(path).name}; "
            "make them with 2_write_lists.py --folds 5 and pack them"
        )
    return numbers


def is_cross_validation(folder):
    return Path(folder, RECORD).is_file()


def fold_runs(folder):
    """Run folders of the folds of a cross-validation, in order.

    Raises:
        InputError: if none has been trained.
    """
    runs = sorted(
        (f for f in Path(folder).glob("fold*") if (f / "settings.json").is_file()), key=lambda f: natural_key(f.name)
    )
    if not runs:
        raise InputError(
            f"{folder} holds no fold that was trained; run train.py --fold all --mode resume --run {folder}"
        )
    return runs


def cross_validate(settings):
    """Train the folds in turn, or go on with those that are missing, then predict and score what each has not seen.

    Args:
        settings: dict of the settings of train.py, as recorded.
    """
    if settings["MODE"] == "resume":
        folder = Path(settings["RUN"])
        if not is_cross_validation(folder):
            raise InputError(f"RUN: {settings['RUN'] or 'not set'} is no cross-validation (it has no {RECORD})")
        settings = read_json(folder / RECORD)
        folds = find_folds(settings["TRAIN"])
    else:
        folds = find_folds(settings["TRAIN"])
        folder = Path(settings["RUNS"], f"{time.strftime('%Y%m%d-%H%M%S')}_{Path(settings['MODEL']).stem}_folds")
        write_json(folder / RECORD, settings)
    print(f"cross-validation over {len(folds)} folds in {folder}", flush=True)
    for fold in folds:
        run = folder / f"fold{fold}"
        print(f"\nfold {fold} of {len(folds)}", flush=True)
        if has_ended(run):
            print(f"{run} is complete", flush=True)
        elif (run / "settings.json").is_file():
            call("train.py", MODE="resume", RUN=run, FOLD=fold, RUNS=folder)
        else:
            remove(run)
            call("train.py", "--settings", folder / RECORD, RUNS=folder, FOLD=fold)
    judged = predict_out_of_fold(folder)
    table = fold_scores(folder)
    print(f"\n{table.round(4).to_string(index=False)}\nmean validation Dice {table['val_dice'].mean():.4f}")
    made = "the folds, out_of_fold, scores/report.html" if judged else "the folds"
    print(f"wrote {folder}: {made}; predict.py --run {folder} averages the folds")


def has_ended(run):
    """Whether a run has all that it ends with."""
    state = run / "state.json"
    return state.is_file() and bool(read_json(state).get("ended")) and (run / "validation_slices.png").is_file()


def fold_scores(folder):
    """folds.csv: the best epoch of each fold."""
    rows = []
    for run in fold_runs(folder):
        log = pd.read_csv(run / "training_log.csv")
        best = log.loc[log["val_dice"].idxmax(), ["epoch", "val_dice", "val_iou", "val_loss"]]
        rows.append({"fold": run.name, "epochs": len(log), **best, "minutes": log["seconds"].sum() / 60})
    table = pd.DataFrame(rows).astype({"epoch": int})
    with whole_file(Path(folder) / "folds.csv") as part:
        table.to_csv(part, index=False)
    return table


def predict_out_of_fold(folder):
    """Write out_of_fold/, the prediction of each validation slice by its fold's network, and scores/.

    Returns:
        whether that could be done.
    """
    from common.training.opening import open_set

    lists = {}
    for run in fold_runs(folder):
        validation = open_set(read_json(run / "settings.json")["VALIDATION"], memory_gb=0)
        if validation.axes == 3:
            print("no out-of-fold predictions of volumes: predict.py and evaluate.py judge both steps together")
            return False
        lists[run] = list_of_set(validation)
        if lists[run] is None:
            print(f"no out-of-fold predictions: the slices that {validation.path} was packed from are gone")
            return False
    with whole_folder(folder / "out_of_fold", replace=True) as part:
        for run, listed in lists.items():
            write_list(run / "validation.csv", listed)
            call("predict.py", "--replace", RUN=run, INPUT=run / "validation.csv", OUTPUT=run / "predicted")
            for path in (run / "predicted").iterdir():
                if path.name not in ("overlays", "prediction.json", "volumes.csv"):
                    path.rename(part / path.name)
            remove(run / "predicted")
    truth = folder / "validation.csv"
    write_list(truth, pd.concat(lists.values()))
    call("evaluate.py", "--replace", PREDICTED=folder / "out_of_fold", TRUTH=truth, OUTPUT=folder / "scores")
    return True


def list_of_set(packed):
    """The list that a set was packed from, as a DataFrame of x, y and case; None where its files are gone."""
    x = [Path(source) for source in packed.source]
    y = [path.parent.parent / path.parent.name.replace("x", "y", 1) / path.name for path in x]
    if not all(path.is_file() for path in (*x, *y)):
        return None
    return pd.DataFrame({"x": x, "y": y, "case": packed.case})


# --- the choice that predict.py finds


def write_choice(choice, folder):
    """Write choice.json; other cross-validations are named relative to the folder."""
    networks = [[os.path.relpath(other, folder), which] for other, which in choice["networks"]]
    write_json(Path(folder) / CHOICE, choice | {"networks": networks})


def read_choice(folder):
    """What was chosen for a cross-validation, or what is taken without a choice: the best network of every fold.

    Returns:
        dict of files, list of Path of the .keras files to average; flips, a name of
        `common.prediction.tiling.TRANSFORMS`; clean, arguments of `common.slices.masks.clean`.
    """
    path = Path(folder) / CHOICE
    choice = read_json(path) if path.is_file() else {"networks": [[".", "best_dice"]], "flips": "none", "clean": {}}
    networks = [(Path(folder, other).resolve(), which) for other, which in choice["networks"]]
    files = [model_file(run, which) for other, which in networks for run in fold_runs(other)]
    return {"files": files, "flips": choice["flips"], "clean": choice["clean"]}

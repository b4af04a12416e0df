"""Volumes in folds: out-of-fold predictions and scores, choose.py, and predict.py as it chose."""

import json
import shutil
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from drawings import write_decathlon
from running import assert_refused, leftovers, run_here

from common.errors import InputError
from common.evaluation.selection import THRESHOLDS, find_threshold, open_fold
from common.files import read_json
from common.prediction.out_of_fold import models_of_volumes
from common.prediction.packed_volumes import numbers_of
from common.prediction.volume_tiles import mean_probabilities
from common.scores import count_pixels, scores_of_counts
from common.training.calibration import choose_threshold
from common.training.run_folder import Run
from common.training.sets import open_set
from common.training.trained_models import CrossValidation, VolumeModels, find_volume_models, load_network


@pytest.fixture(scope="session")
def volume_folds(made_once):
    """Packed volumes in two folds, and a cross-validation over them."""

    def make(root):
        data = write_decathlon(root / "data", cases=4)
        packing = {"STEP": "single", "SPACING": 2.5, "VOXELS": 5000, "FOLDS": 2}
        run_here("preprocess/3_pack_volumes.py", DATA=data, PACKED=root / "packed", **packing)
        settings = {"TRAIN": root / "packed" / "train.h5", "VALIDATION": root / "packed" / "validation.h5"}
        settings |= {"MODEL": "unet3d", "MODEL_SETTINGS": {"features": 2}, "EPOCHS": 2, "OPTIMIZER": "adam"}
        settings |= {"LEARNING_RATE": 0.01, "AUGMENTATION": {}, "LOSS": "bce+dice"}
        with mock.patch("common.training.cross_validation.call", run_here):
            return run_here("train.py", RUNS=root / "runs", FOLD="all", **settings).stdout

    root, said = made_once("volume_folds", make)
    (folder,) = (root / "runs").iterdir()
    return root, folder, said


def read(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_volumes_are_predicted_by_the_models_that_had_them_for_validation(tmp_path, monkeypatch):
    data = write_decathlon(tmp_path / "data", cases=4)
    packing = {"STEP": "whole", "SPACING": 4.0, "VOXELS": 5000, "FOLDS": 2}
    run_here("preprocess/3_pack_volumes.py", DATA=data, PACKED=tmp_path / "packed", **packing)
    monkeypatch.setattr(
        Run, "validation_set", property(lambda run: str(tmp_path / "packed" / run.folder.name / "validation.h5"))
    )
    files = {step: [tmp_path / step / f"fold{n}" / "best_dice.keras" for n in (1, 2)] for step in ("whole", "patch")}
    models = {step: VolumeModels(of_step, None, [8, 8, 8], "flips") for step, of_step in files.items()}
    held_out = [open_set(tmp_path / "packed" / f"fold{n}" / "validation.h5").names for n in (1, 2)]
    names = [name for pair in zip(*held_out, strict=True) for name in pair]
    found = models_of_volumes(models, names)
    assert list(found) == [*held_out[0], *held_out[1]]  # a fold after the other, so that each model is loaded once
    for fold, of_fold in enumerate(held_out):
        for name in of_fold:
            for step in files:
                assert found[name][step] == models[step]._replace(files=[files[step][fold]])
    with pytest.raises(InputError, match=r"1 volume in no validation set of the step 'whole' \(other\)"):
        models_of_volumes(models, [*names, "other"])
    alone = models | {"patch": models["patch"]._replace(files=files["patch"][:1])}
    with pytest.raises(InputError, match="2 volumes in no validation set of the step 'patch'"):
        models_of_volumes(alone, names)


@pytest.mark.slow
def test_both_steps_are_scored_on_volumes_that_neither_has_seen(tmp_path):
    data, runs = write_decathlon(tmp_path / "data", cases=4), []
    for step in ("whole", "patch"):
        packing = {"STEP": step, "SPACING": 2.5, "VOXELS": 5000, "SMALLEST_BOX": 8, "FOLDS": 2}
        run_here("preprocess/3_pack_volumes.py", DATA=data, PACKED=tmp_path / step, **packing)
        settings = {"TRAIN": tmp_path / step / "train.h5", "VALIDATION": tmp_path / step / "validation.h5"}
        settings |= {"MODEL": "unet3d", "MODEL_SETTINGS": {"features": 2}, "EPOCHS": 1, "AUGMENTATION": {}}
        with mock.patch("common.training.cross_validation.call", run_here):
            run_here("train.py", RUNS=tmp_path / f"runs_{step}", FOLD="all", LOSS="bce+dice", **settings)
        runs += map(str, (tmp_path / f"runs_{step}").iterdir())
    given = {"INPUT": data / "imagesTr", "OVERLAYS": False}
    said = run_here("predict.py", RUN=runs, OUTPUT=tmp_path / "out", OUT_OF_FOLD=True, **given).stdout
    assert "each volume by those that did not train on it" in said and "threshold 0.5 (" in said
    rows = pd.read_csv(tmp_path / "out" / "volumes.csv")["case"].tolist()
    assert rows == sorted(rows) and len(set(rows)) == 4
    for fold in (1, 2):
        both = [f"{folder}/fold{fold}" for folder in runs]
        run_here("predict.py", RUN=both, OUTPUT=tmp_path / f"fold{fold}", THRESHOLD=0.5, **given)
        for name in open_set(tmp_path / "patch" / f"fold{fold}" / "validation.h5").names:
            assert np.array_equal(*(read(tmp_path / f / f"{name}.nii.gz") for f in ("out", f"fold{fold}")))
    scored = {"PREDICTED": tmp_path / "out", "TRUTH": data / "labelsTr"}
    run_here("evaluate.py", OUTPUT=tmp_path / "scores", **scored)
    assert len(set(pd.read_csv(tmp_path / "scores" / "cases.csv")["case"])) == 4
    packed = {"RUN": runs[1], "INPUT": tmp_path / "patch" / "validation.h5", "OUTPUT": tmp_path / "no"}
    assert_refused("predict.py", "OUT_OF_FOLD: not available for packed volumes", OUT_OF_FOLD=True, **packed)


@pytest.mark.slow
def test_every_volume_is_predicted_by_the_network_that_has_not_seen_it(volume_folds):
    root, folder, said = volume_folds
    everyone = {f"case_{number:02d}" for number in range(1, 5)}
    assert {path.name.removesuffix(".nii.gz") for path in (folder / "out_of_fold").glob("[!.]*")} == everyone
    scores = pd.read_csv(folder / "scores" / "cases.csv", dtype={"case": str})
    for run in CrossValidation(folder).runs():
        held_out, network = open_set(run.validation_set), load_network(run.model_file("best_dice"))
        assert run.settings["MODEL_SETTINGS"] == CrossValidation(folder).settings["MODEL_SETTINGS"]
        for i, name in enumerate(held_out.names):
            image, truth = held_out.shown_volume(i)
            numbers = numbers_of(mean_probabilities([network], image, held_out.voxels))
            assert np.array_equal(read(folder / "out_of_fold" / f"{name}.nii.gz"), numbers)
            assert np.array_equal(read(folder / "truth" / f"{name}.nii.gz"), truth)
            assert sitk.ReadImage(str(folder / "truth" / f"{name}.nii.gz")).GetOrigin() != (0, 0, 0)
            for number in (1, 2):
                row = scores[(scores["case"] == name.removeprefix("case_")) & (scores["class"] == number)].iloc[0]
                dice = scores_of_counts(*count_pixels(numbers == number, truth == number))["dice"]
                assert row["dice"] == pytest.approx(dice, nan_ok=True)
    assert (folder / "scores" / "report.html").is_file() and not leftovers(root)
    table = pd.read_csv(folder / "folds.csv")
    assert {"val_dice_1", "val_dice_2"} <= set(table) and "val_dice_2" in said


@pytest.mark.slow
def test_a_choice_is_made_on_volumes_not_seen_and_predict_takes_it(volume_folds, tmp_path):
    root, folder, _ = volume_folds
    folder = shutil.copytree(folder, tmp_path / "copy")
    said = run_here("choose.py", CROSS_VALIDATIONS=folder, CLEANINGS=[{"share": 1}]).stdout
    table = pd.read_csv(folder / "choice.csv")
    assert len(table) == 2 * 2 * 2 and (table["n"] == 4).all() and set(table["flips"]) == {"none", "flips"}
    scores = pd.read_csv(folder / "scores" / "cases.csv")
    assert table["dice"].iloc[0] == pytest.approx(scores.groupby("case")["dice"].mean().mean(), abs=1e-9)
    assert table["dice_2"].iloc[0] == pytest.approx(scores[scores["class"] == 2]["dice"].mean(), abs=1e-9)
    assert (table["chosen"] == "yes").sum() == 1 and "dice_2" in said and "threshold" not in said

    choice = read_json(folder / "choice.json")
    choice |= {"networks": [[".", "best_dice"], [".", "last"]], "flips": "flips", "clean": {"share": 1}}
    (folder / "choice.json").write_text(json.dumps(choice))
    (models,) = find_volume_models([folder], "best_dice").values()
    assert (len(models.files), models.flips, models.clean) == (4, "flips", {"share": 1})
    packed = root / "packed" / "fold1" / "validation.h5"
    chosen = run_here("predict.py", RUN=folder, INPUT=packed, OUTPUT=tmp_path / "a").stdout
    assert "predicting 2 packed volumes" in chosen
    runs = [str(folder / f"fold{k}" / f"{which}.keras") for which in ("best_dice", "last") for k in (1, 2)]
    same = {"FLIPS": "flips", "CLEAN": {"share": 1}, "THRESHOLD": float(chosen.split("threshold ")[1].split()[0])}
    run_here("predict.py", RUN=runs, INPUT=packed, OUTPUT=tmp_path / "b", **same)
    for name in open_set(packed).names:
        assert np.array_equal(*(read(tmp_path / side / f"{name}.nii.gz") for side in "ab"))
        assert (tmp_path / "a" / "overlays" / f"{name}.png").is_file()
    shutil.rmtree(folder / "fold2")
    said = run_here("choose.py", CROSS_VALIDATIONS=folder, CLEANINGS=[{}]).stdout
    assert f"note: fold2 of {folder} not trained: choosing without these cases" in said


def test_cross_validations_of_both_steps_are_not_averaged(monkeypatch):
    def cross_validation(name):
        return SimpleNamespace(runs=lambda: [SimpleNamespace(validation_set=name)])

    monkeypatch.setattr("common.evaluation.selection.CrossValidation", cross_validation)
    monkeypatch.setattr("common.evaluation.selection.open_set", lambda name: SimpleNamespace(axes=3, step=name))
    with pytest.raises(InputError, match=r"whole and patch are of different steps .* choose for each alone"):
        open_fold(0, {"all averaged": [["whole", "best_dice"], ["patch", "best_dice"]]})


def test_the_threshold_of_volumes_with_one_label_is_found_out_of_fold(monkeypatch):
    """By brute force, from probabilities of four volumes; several labels have none."""
    rng = np.random.default_rng(0)
    truths = rng.random((4, 3, 4, 5)) < 0.4
    probabilities = np.clip(0.3 * truths + rng.random(truths.shape) * 0.35, 0, 1).astype(np.float32)
    volumes = SimpleNamespace(axes=3, classes=1, overlapping=False, overlap="", names=list("abcd"))

    def predicted(volumes, runs, groups, flips, title):
        assert groups == {"chosen": [["folds", "last"]]} and flips == ["flips"]
        for i in range(4):
            yield i, truths[i].astype(np.uint8), {("chosen", "flips"): probabilities[i][..., None]}

    monkeypatch.setattr("common.evaluation.selection.require_same_folds", lambda folders: 1)
    monkeypatch.setattr("common.evaluation.selection.open_fold", lambda fold, groups: (volumes, {}))
    monkeypatch.setattr("common.evaluation.volume_selection.probabilities_of", predicted)
    found = find_threshold([["folds", "last"]], "flips", {})
    hard = probabilities[:, None] > THRESHOLDS[:, None, None, None]
    both = (hard & truths[:, None]).sum(axis=(2, 3, 4))
    dice = 2 * both / (hard.sum(axis=(2, 3, 4)) + truths.sum(axis=(1, 2, 3))[:, None])
    assert found == pytest.approx(choose_threshold(dice, np.ones(4), THRESHOLDS)) and found[2] < found[1]
    volumes.classes = 2
    assert find_threshold([["folds", "last"]], "flips", {}) is None


@pytest.mark.slow
def test_packed_volumes_of_other_steps_are_refused(volume_folds, decathlon, decathlon_runs, tmp_path):
    packed = volume_folds[0] / "packed" / "fold1" / "validation.h5"
    given = {"RUN": decathlon_runs[0], "OUTPUT": tmp_path / "out"}
    assert_refused("predict.py", "packed for the step 'single' (found models of 'whole')", INPUT=packed, **given)
    own = decathlon / "whole" / "validation.h5"
    assert_refused("predict.py", "PROBABILITIES: not available for packed", INPUT=own, PROBABILITIES=True, **given)

"""Cross-validation, averaging of networks, flips and turns, and the choice of what helps."""

import json
import shutil
import subprocess
import sys
import time

import keras
import numpy as np
import pandas as pd
import pytest
from drawings import write_copying_network, write_image
from running import ROOT, assert_refused, kill_a_worker, leftovers, lines_of, run_here, run_script

from common.command_line import flags_of
from common.errors import InputError
from common.evaluation.selection import THRESHOLDS, find_threshold
from common.files import write_json
from common.prediction.ensemble import TRANSFORMS, average_over
from common.slices.images import read_image, read_mask, to_unit
from common.slices.masks import clean
from common.training.calibration import choose_threshold
from common.training.cross_validation import cross_validate, write_fold_scores
from common.training.trained_models import CrossValidation

# --- flips and turns


class Gradient:
    """In place of a network: brightness times a ramp, which sees how an image is turned."""

    def predict_on_batch(self, x):
        return x * np.linspace(0, 1, x.shape[2], dtype=np.float32)[None, None, :, None]


@pytest.mark.parametrize("flips", TRANSFORMS)
def test_averages_come_back_to_their_place(flips):
    x = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
    ramp = np.linspace(0, 1, 8)
    across, down = np.broadcast_to(ramp, (8, 8)), np.broadcast_to(ramp[:, None], (8, 8))
    weight = {
        "none": across,
        "flips": (across + across[:, ::-1]) / 2,
        "turns": (across + across[:, ::-1] + down + down[::-1]) / 4,
    }[flips]
    np.testing.assert_allclose(average_over(Gradient(), x, flips), x * weight[..., None], atol=1e-6)
    assert len(set(TRANSFORMS[flips])) == {"none": 1, "flips": 4, "turns": 8}[flips]


def test_networks_are_averaged_one_at_a_time(tmp_path):
    """Probabilities of three networks, of images of several sizes, and flips, against Keras by hand."""
    for k, bias in enumerate((-10, -4, -16)):
        write_copying_network(tmp_path / f"{k}.keras", 24)
        model = keras.saving.load_model(tmp_path / f"{k}.keras")
        model.get_layer("output").bias.assign([float(bias)])
        model.save(tmp_path / f"{k}.keras")
    rng = np.random.default_rng(0)
    for name, shape in (("a", (24, 24)), ("b", (24, 24)), ("c", (40, 30))):
        write_image(tmp_path / "in" / f"{name}.png", rng.integers(0, 256, shape).astype(np.uint8))
    runs = [str(tmp_path / f"{k}.keras") for k in range(3)]
    run_here("predict.py", RUN=runs, INPUT=tmp_path / "in", OUTPUT=tmp_path / "out", FLIPS="turns", OVERLAYS=False)
    x = to_unit(read_image(tmp_path / "in" / "a.png")).astype(np.float64)
    mean = sum(1 / (1 + np.exp(-(20 * x + bias))) for bias in (-10, -4, -16)) / 3
    sure = np.abs(mean - 0.5) > 1e-4
    np.testing.assert_array_equal((read_mask(tmp_path / "out" / "a.png") > 0)[sure], (mean > 0.5)[sure])
    assert read_image(tmp_path / "out" / "c.png").shape == (40, 30) and not leftovers(tmp_path)
    write_copying_network(tmp_path / "other.keras", 32)
    settings = {"INPUT": tmp_path / "in", "OUTPUT": tmp_path / "two"}
    assert_refused(
        "predict.py", "average only models that match", RUN=[runs[0], str(tmp_path / "other.keras")], **settings
    )
    assert_refused("predict.py", "FLIPS", "'up'", status=2, RUN=runs, FLIPS="up", **settings)


# --- cross-validation


@pytest.mark.slow
def test_every_case_is_predicted_by_the_network_that_has_not_seen_it(folded):
    root, folder, _, said = folded
    table = pd.read_csv(folder / "folds.csv")
    assert list(table["fold"]) == ["fold1", "fold2"] and "mean validation Dice" in said
    tested = set(pd.read_csv(root / "lists" / "fold1" / "test.csv")["case"])
    everyone = {path.name for path in (root / "cases").iterdir()}
    assert {path.name for path in (folder / "out_of_fold").glob("[!.]*")} == everyone - tested and len(tested) == 1
    for fold in (1, 2):
        listed = pd.read_csv(root / "lists" / f"fold{fold}" / "validation.csv")
        settings = json.loads((folder / f"fold{fold}" / "settings.json").read_text())
        assert settings["FOLD"] == fold and f"fold{fold}" in settings["TRAIN"]
        model = keras.saving.load_model(folder / f"fold{fold}" / "best_dice.keras", compile=False)
        for case in listed["case"].unique():
            x = to_unit(read_image(root / "cases" / case / "x" / "0001.png"))[None, ..., None]
            p = model.predict(x, verbose=0)[0, ..., 0]
            mask, sure = read_mask(folder / "out_of_fold" / case / "0001.png") > 0, np.abs(p - 0.5) > 1e-4
            np.testing.assert_array_equal(mask[sure], (p > 0.5)[sure])
    scores = pd.read_csv(folder / "scores" / "cases.csv")
    assert set(scores["case"]) == everyone - tested and (folder / "scores" / "report.html").is_file()


@pytest.mark.parametrize(
    ("log", "found"),
    [
        ("", "damaged"),
        ("epoch\n", "no validated epoch"),
        ("epoch\n1\n", "no column val_dice"),
        ("loss\n1\n", "no column epoch"),
    ],
)
def test_a_damaged_log_of_a_fold_is_said(tmp_path, log, found):
    run = tmp_path / "fold1"
    write_json(run / "settings.json", {"FOLD": 1})
    (run / "training_log.csv").write_text(log)
    (run / "best_dice.keras").touch()
    with pytest.raises(InputError, match=rf"training_log.csv: {found}"):
        write_fold_scores(CrossValidation(tmp_path))


@pytest.mark.slow
def test_a_cross_validation_goes_on_where_it_was(folded, tmp_path):
    _, folder, _, _ = folded
    copy = shutil.copytree(folder, tmp_path / "copy")
    for gone in ("fold2", "out_of_fold", "scores", "folds.csv"):
        shutil.rmtree(copy / gone) if (copy / gone).is_dir() else (copy / gone).unlink()
    (copy / "fold2").mkdir()  # killed before it had its settings
    kept = (copy / "fold1" / "best_dice.keras").read_bytes()
    assert "fold1: it is complete" in run_here("train.py", MODE="resume", RUN=copy, FOLD="all").stdout
    assert (copy / "fold1" / "best_dice.keras").read_bytes() == kept
    ours, theirs = (keras.saving.load_model(f / "fold2" / "last.keras", compile=False) for f in (copy, folder))
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(pd.read_csv(copy / "folds.csv")) == 2 and (copy / "scores" / "report.html").is_file()


@pytest.mark.slow
def test_choice_is_made_on_cases_not_seen_and_predict_takes_it(folded, tmp_path):
    root, folder, _, _ = folded
    folder = shutil.copytree(folder, tmp_path / "copy")
    cleanings = [{"share": 1}, {"median": 3}]
    said = run_script("choose.py", CROSS_VALIDATIONS=folder, CLEANINGS=cleanings).stdout
    table = pd.read_csv(folder / "choice.csv")
    assert len(table) == 2 * 3 * 3 and (table["n"] == 4).all()
    plain = table[(table["flips"] == "none") & (table["clean"] == "{}")].iloc[0]
    scores = pd.read_csv(folder / "scores" / "cases.csv")
    assert plain["dice"] == pytest.approx(scores["dice"].mean(), abs=1e-9), "the same as evaluate.py has it"
    chosen = table[table["chosen"] == "yes"]
    assert len(chosen) == 1 and chosen["dice"].iloc[0] >= plain["dice"] and "choice.json" in said
    choice = json.loads((folder / "choice.json").read_text())
    assert choice["flips"] == chosen["flips"].iloc[0] and str(choice["clean"]) == chosen["clean"].iloc[0]
    assert {which for _, which in choice["networks"]} <= {"best_dice", "best_iou", "last"}
    assert f"\nthreshold {choice['threshold']:g}, chosen on the same predictions: Dice " in said
    assert f"({chosen['dice'].iloc[0]:.4f} at 0.5)" in said, "cleaned, and averaged over flips, as it will be used"

    choice = {"networks": [[".", "best_dice"], [".", "last"]], "flips": "flips", "clean": {"share": 1}}
    choice["threshold"] = 0.45
    (folder / "choice.json").write_text(json.dumps(choice))
    case = root / "cases" / "case01"
    said = run_here("predict.py", RUN=folder, INPUT=case, OUTPUT=tmp_path / "a").stdout
    assert said.count("best_dice.keras") == said.count("last.keras") == 2 and "averaged over flips" in said
    assert "\nthreshold 0.45 (chosen out of fold by choose.py)\n" in said
    runs = [str(folder / f"fold{k}" / f"{which}.keras") for which in ("best_dice", "last") for k in (1, 2)]
    run_here(
        "predict.py", RUN=runs, INPUT=case, OUTPUT=tmp_path / "b", FLIPS="flips", CLEAN={"share": 1}, THRESHOLD=0.45
    )
    for name in ("0001.png", "0002.png"):
        np.testing.assert_array_equal(*(read_image(tmp_path / side / name) for side in "ab"))


@pytest.mark.slow
def test_workers_choose_what_one_run_chooses(folded, scheduler, tmp_path):
    """Byte for byte, and line for line; also if one is killed."""
    folder, cleanings = shutil.copytree(folded[1], tmp_path / "copy"), [{"share": 1}, {"median": 3}]
    made = []
    for more in ({}, {"WORKERS": scheduler}):
        result = run_script("choose.py", CROSS_VALIDATIONS=folder, CLEANINGS=cleanings, **more)
        files = [folder / name for name in ("choice.csv", "choice.json")]
        made.append(([file.read_bytes() for file in files], lines_of(result, folder)))
        for file in files:
            file.unlink()
    assert "workers: 2 at" in result.stdout and made[0] == made[1] and not leftovers(tmp_path)

    flags = flags_of({"CROSS_VALIDATIONS": folder, "CLEANINGS": cleanings, "WORKERS": 2})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, str(ROOT / "choose.py"), *flags], **pipes) as script:
        kill_a_worker(script, lambda: "workers: 2" in script.stdout.readline() and not time.sleep(1))  # in its task
        _, err = script.communicate(timeout=300)
    assert script.returncode == 0 and not err, err
    assert [file.read_bytes() for file in files] == made[0][0] and not leftovers(tmp_path)


@pytest.mark.slow
def test_the_threshold_of_a_choice_is_found_out_of_fold(folded):
    """By brute force: the mean Dice over cases of averaged, flipped and cleaned predictions, at each threshold."""
    root, folder, _, _ = folded
    networks, cleaning = [[str(folder), "best_dice"], [str(folder), "last"]], {"smallest": 9}
    found = find_threshold(networks, "flips", cleaning)
    counts = {}
    for fold in (1, 2):
        files = [folder / f"fold{fold}" / f"{which}.keras" for which in ("best_dice", "last")]
        models = [keras.saving.load_model(file, compile=False) for file in files]
        for row in pd.read_csv(root / "lists" / f"fold{fold}" / "validation.csv").itertuples():
            image, mask = (root / "lists" / f"fold{fold}" / path for path in (row.x, row.y))
            x = to_unit(read_image(image))[None, ..., None]
            p = np.mean([average_over(model, x, "flips")[0, ..., 0] for model in models], axis=0)
            for threshold in THRESHOLDS:
                predicted, truth = clean((p > threshold).astype(np.uint8), **cleaning) > 0, read_mask(mask) > 0
                key = threshold, row.case
                counts[key] = counts.get(key, 0) + np.array(
                    [2 * (predicted & truth).sum(), (predicted + 0 + truth).sum()]
                )
    cases = sorted({case for _, case in counts})
    dice = np.array([[np.divide(*counts[t, case]) for t in THRESHOLDS] for case in cases])
    expected = choose_threshold(dice, np.ones(len(cases)), THRESHOLDS)
    assert found[0] == expected[0] and found[1:] == pytest.approx(expected[1:], abs=1e-3)
    assert found[2] == pytest.approx(dice.mean(axis=0)[9], abs=1e-3)


@pytest.mark.slow
def test_bad_input(folded, tmp_path):
    root, folder, settings, _ = folded
    folder = shutil.copytree(folder, tmp_path / "copy")
    settings = settings | {"RUNS": tmp_path / "runs"}
    assert_refused("train.py", "FOLD: no fold 7", "found 1, 2", status=2, FOLD=7, **settings)
    with pytest.raises(InputError, match="found 0, needs two"):
        cross_validate({"MODE": "new", "TRAIN": root / "lists" / "x.csv"})
    with pytest.raises(InputError, match=r"RUN: not a cross-validation .* has no cross_validation\.json"):
        cross_validate({"MODE": "resume", "RUN": tmp_path})
    use = "use a folder of train.py --fold all"
    assert_refused("choose.py", "is not a cross-validation", use, CROSS_VALIDATIONS=folder / "fold1")
    write_json(tmp_path / "other" / "cross_validation.json", {})
    write_json(tmp_path / "other" / "fold1" / "settings.json", {})
    others = [str(folder), str(tmp_path / "other")]
    assert_refused("choose.py", "folds of", "differ; train the missing ones", CROSS_VALIDATIONS=others)
    assert_refused("choose.py", "CLEANINGS", "'polish'", status=2, CROSS_VALIDATIONS=folder, CLEANINGS=[{"polish": 1}])
    both = [str(folder), str(folder / "fold1")]
    good = {"INPUT": root / "cases" / "case01", "OUTPUT": tmp_path / "out"}
    assert_refused("predict.py", "a cross-validation cannot be combined", RUN=both, **good)
    (folder / "choice.json").write_text('{"networks": [')
    assert_refused("predict.py", "choice.json: damaged", RUN=folder, **good)
    assert not (tmp_path / "runs").exists() and not (tmp_path / "out").exists()

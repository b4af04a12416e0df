"""Calibration of a trained model: threshold, temperature and reliability, each against an independent calculation."""

import json
import shutil

import numpy as np
import pytest
from drawings import disc_slice, write_image
from running import assert_refused, bytes_of, only_folder, run_here
from scipy.optimize import brentq
from scipy.special import expit, log_softmax, logit, softmax

from common.errors import InputError
from common.slices.classes import class_numbers, mean_dice
from common.training.calibration import (
    THRESHOLDS,
    Calibrator,
    calibration_error,
    choose_threshold,
    dice_by_threshold,
    find_temperature,
    flips_of,
    log_likelihood,
    log_probabilities,
    reliability,
    scaled,
    threshold_of,
)
from common.training.earlier_calibration import calibration_before
from common.training.run_folder import Run
from common.training.sets import open_set

CERTAIN = 15.0  # logits beyond are not known from float32 probabilities


def drawn(temperature, classes=1, count=100_000, seed=0):
    """Probabilities of a model whose logits are `temperature` times too large, and the true classes."""
    rng = np.random.default_rng(seed)
    if classes == 1:
        z = rng.normal(-1, 2, count)
        return expit(temperature * z).astype(np.float32)[:, None], (rng.random(count) < expit(z)).astype(np.uint8)
    z = rng.normal(0, 1.5, (count, classes + 1))
    truth = (rng.random(count)[:, None] > softmax(z, axis=1).cumsum(axis=1)).sum(axis=1).astype(np.uint8)
    return softmax(temperature * z, axis=1).astype(np.float32), np.minimum(truth, classes)


# --- temperature and reliability


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7, 3.0])
def test_the_temperature_that_scaled_the_logits_is_found_again(classes, temperature):
    probabilities, truth = drawn(temperature, classes)
    found = find_temperature(*log_probabilities(probabilities, truth, exclusive=classes > 1))
    assert found == pytest.approx(temperature, rel=0.03)


def test_the_temperature_is_where_the_slope_of_the_likelihood_is_zero():
    """Its derivative by 1/T, written out for a sigmoid: the mean of z (y - sigmoid(z/T))."""
    probabilities, truth = drawn(2.3, count=5000)
    z = logit(np.clip(probabilities[:, 0].astype(float), 1e-7, 1 - 1e-7))
    expected = 1 / brentq(lambda inverse: np.mean(z * (truth - expit(inverse * z))), 0.1, 5)
    assert find_temperature(*log_probabilities(probabilities, truth, False)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("classes", [1, 3])
def test_likelihood_and_scaled_probabilities_are_those_of_numpy(classes):
    probabilities, truth = drawn(1.5, classes, count=2000)
    logarithms, numbers = log_probabilities(probabilities, truth, exclusive=classes > 1)
    if classes == 1:
        z = logit(np.clip(probabilities[:, 0].astype(float), 1e-7, 1 - 1e-7)) / 1.9
        p = np.stack([expit(-z), expit(z)], axis=1)
    else:
        p = np.exp(log_softmax(np.log(np.maximum(probabilities, 1e-7)) / 1.9, axis=1))
    expected = np.mean([np.log(row[number]) for row, number in zip(p, truth, strict=True)])
    assert log_likelihood(logarithms, numbers, 1.9) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(scaled(logarithms, 1.9), p, rtol=1e-5, atol=1e-9)


def test_each_label_of_a_volume_is_a_class_of_its_own():
    """Sigmoid channels without one for the background: one pair (background, label) for each."""
    rng = np.random.default_rng(0)
    probabilities, truth = rng.random((50, 3)).astype(np.float32), rng.integers(0, 4, 50)
    logarithms, numbers = log_probabilities(probabilities, truth, exclusive=False)
    np.testing.assert_allclose(np.exp(logarithms[:, 1]).reshape(50, 3), probabilities, rtol=1e-6)
    np.testing.assert_allclose(np.exp(logarithms).sum(axis=1), 1, rtol=1e-6)
    assert numbers.reshape(50, 3).tolist() == [[int(t == c) for c in (1, 2, 3)] for t in truth]


@pytest.mark.parametrize("classes", [1, 3])
def test_reliability_and_its_error_by_hand(classes):
    probabilities, truth = drawn(2.0, classes, count=3000)
    columns = np.concatenate([1 - probabilities, probabilities], axis=1) if classes == 1 else probabilities
    pairs = [(columns[i, c], truth[i] == c) for i in range(len(truth)) for c in range(1, classes + 1)]
    rows, error = [], 0
    for low in range(15):
        inside = [(p, y) for p, y in pairs if low / 15 <= p < (low + 1) / 15 or (low == 14 and p == 1)]
        if inside:
            p, y = np.mean(inside, axis=0)
            rows.append([len(inside), p, y])
            error += len(inside) / len(pairs) * abs(p - y)
    found = reliability(columns, truth)
    np.testing.assert_allclose(found, rows, rtol=1e-5)
    assert calibration_error(found) == pytest.approx(error, rel=1e-5) and error > 0.02
    logarithms, numbers = log_probabilities(probabilities, truth, classes > 1)
    temperature = find_temperature(logarithms, numbers)
    assert calibration_error(reliability(scaled(logarithms, temperature), numbers)) < error / 2


# --- threshold


@pytest.mark.parametrize("classes", [1, 3])
def test_dice_at_every_threshold_by_brute_force(classes):
    rng = np.random.default_rng(classes)
    truth = rng.integers(0, classes + 1, (9, 11)).astype(np.uint8)
    probabilities = rng.random((9, 11, classes)).astype(np.float32) / classes
    probabilities[0, :4, 0] = THRESHOLDS[[9, 19, 49, 89]]  # on a threshold is not above it
    probabilities[0, :4, 1:] = 0
    expected = []
    for threshold in THRESHOLDS:
        numbers = (probabilities.argmax(-1) + 1) * (probabilities.sum(-1) > threshold)
        expected.append(mean_dice(numbers, truth))
        if classes == 1:
            assert np.array_equal(numbers, class_numbers(probabilities, float(threshold))), "as predict.py has it"
    np.testing.assert_allclose(dice_by_threshold(probabilities, truth), expected, rtol=1e-12)


def test_the_threshold_closest_to_a_half_within_one_standard_error():
    """By brute force: mean Dice over slices, and the standard error of each difference over cases."""
    rng = np.random.default_rng(3)
    for spread in (0.0, 0.02, 0.2, 1.0):
        items = rng.integers(1, 5, 12)
        curve = 0.8 - np.abs(THRESHOLDS - 0.3) / 2
        cases = [rng.normal(0, spread, 99).cumsum() / 10 for _ in items]
        dice = np.array([n * (curve + case) for n, case in zip(items, cases, strict=True)])
        mean = dice.sum(axis=0) / items.sum()
        best = int(mean.argmax())
        allowed = []
        for i in range(99):
            difference = dice[:, best] / items - dice[:, i] / items
            d = np.sum(items * difference) / items.sum()
            error = np.sqrt(12 / 11 * np.sum((items * (difference - d)) ** 2)) / items.sum()
            if d <= error:
                allowed.append(i)
        expected = min(allowed, key=lambda i: abs(i - 49))
        threshold, score, at_half = choose_threshold(dice, items)
        assert threshold == pytest.approx((expected + 1) / 100)
        assert (score, at_half) == pytest.approx((mean[expected], mean[49]))
    assert choose_threshold(np.tile(curve, (4, 1)), np.ones(4))[0] == 0.3, "all cases agree"


def test_few_cases_that_disagree_keep_a_half():
    low, high = 0.8 - np.abs(THRESHOLDS - 0.2) / 2, 0.8 - np.abs(THRESHOLDS - 0.6) / 2
    assert choose_threshold(np.array([low, high]), np.ones(2))[0] == 0.5
    assert choose_threshold(np.array([low]), np.ones(1))[0] == 0.5, "one slice alone says nothing"


class Set:
    """As much of a set as a Calibrator asks."""

    axes, overlapping = 2, False

    def __init__(self, cases, classes=1):
        self.case, self.classes = cases, classes

    def __len__(self):
        return len(self.case)


def blurred(rng, scale, size=48):
    """A disc, and probabilities that are `scale` too low around its edge."""
    rows, columns = np.mgrid[:size, :size] - size / 2 + rng.normal(0, 2, (2, 1, 1))
    z = 8 - np.hypot(rows, columns) + rng.normal(0, 0.5, (size, size))
    return expit(z - scale).astype(np.float32)[..., None], (np.hypot(rows, columns) < 8).astype(np.uint8)


def test_a_model_that_is_too_careful_gets_a_lower_threshold(tmp_path):
    (tmp_path / "m.keras").write_bytes(b"model")
    rng = np.random.default_rng(0)
    cases = [f"case{i // 2}" for i in range(20)]
    calibrator = Calibrator(Set(cases))
    for i, case in enumerate(cases):
        probabilities, truth = blurred(rng, scale=1.5)
        calibrator.add(probabilities, truth if i % 5 else np.zeros_like(truth), case)  # empty ones have no Dice
    found = calibrator.result(tmp_path / "m.keras")
    assert found.threshold < 0.4 and found.dice > found.dice_at_half + 0.02
    assert sum(row[0] for row in found.reliability) == 20 * 48 * 48 == sum(row[0] for row in found.scaled_reliability)
    assert f"threshold {found.threshold:g}" in found.in_words() and "at 0.5" in found.in_words()


def test_values_are_sampled_from_every_slice_so_that_memory_is_limited(tmp_path, monkeypatch):
    (tmp_path / "m.keras").write_bytes(b"model")
    monkeypatch.setattr("common.training.calibration.SAMPLE", 25_000)
    calibrator, rng = Calibrator(Set(["a", "b"] * 25)), np.random.default_rng(0)
    for i in range(50):
        calibrator.add(*blurred(rng, 0.5), "ab"[i % 2])
    assert [len(values) for values in calibrator.truth] == [500] * 50 and len(calibrator.dice) == 2
    exact = Calibrator(Set(["a", "b"] * 25))
    exact.share, rng = 10**6, np.random.default_rng(0)
    for i in range(50):
        exact.add(*blurred(rng, 0.5), "ab"[i % 2])
    sampled, exact = calibrator.result(tmp_path / "m.keras"), exact.result(tmp_path / "m.keras")
    assert sampled.temperature == pytest.approx(exact.temperature, rel=0.15)
    assert (sampled.threshold, sampled.dice) == (exact.threshold, exact.dice), "Dice counts every pixel"


def test_several_exclusive_classes_get_a_temperature_only(tmp_path):
    (tmp_path / "m.keras").write_bytes(b"model")
    calibrator = Calibrator(Set(["a", "b"], classes=3))
    for case, seed in (("a", 0), ("b", 1)):
        probabilities, truth = drawn(2.0, 3, count=40_000, seed=seed)
        calibrator.add(probabilities.reshape(200, 200, 4), truth.reshape(200, 200), case)
    found = calibrator.result(tmp_path / "m.keras")
    assert found.threshold is found.dice is found.dice_at_half is None
    assert found.temperature == pytest.approx(2, rel=0.05) and found.scaled_ece < found.ece / 2
    assert found.in_words().startswith("temperature 2.0")


# --- in a run


def test_a_run_records_what_its_validation_set_says(trained, packed):
    folder, said = trained
    run, network_file = Run(folder), folder / "best_dice.keras"
    import keras

    validation = open_set(packed["packed"] / "validation.h5")
    x, y = validation.batch(np.arange(len(validation)))
    p = keras.saving.load_model(network_file, compile=False).predict(x, verbose=0)
    found = run.calibration_of(network_file)
    assert found.in_words() in said
    for threshold, dice in ((found.threshold, found.dice), (0.5, found.dice_at_half)):
        scores = [mean_dice(class_numbers(a, threshold), b[..., 0]) for a, b in zip(p, y, strict=True) if b.any()]
        assert dice == pytest.approx(np.mean(scores), abs=1e-5)
    assert found.dice_at_half == pytest.approx(run.score(network_file), abs=1e-5)
    assert sum(row[0] for row in found.reliability) == y.size
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert 'class="plot medium" alt="Dice over the threshold; reliability curve' in page
    assert f"Threshold {found.threshold:g}" in page and len(found.dice_by_threshold) == 99
    assert found.dice_by_threshold[round(100 * found.threshold) - 1] == found.dice
    assert found.dice_by_threshold[49] == found.dice_at_half
    assert run.calibration_of(folder / "last.keras") is None, "it belongs to one file, whatever that is called"


def test_predictions_take_the_flips_and_their_threshold(trained, tmp_path):
    """As train.py chose them, for the model alone; several models that chose differently use none."""
    run = shutil.copytree(trained[0], tmp_path / "run")
    record = json.loads((run / "calibration.json").read_text())
    chosen = {
        "flips": "turns",
        "flips_threshold": 0.31,
        "flips_dice": 0.9,
        "flips_dice_without": 0.8,
        "flips_slices": 4,
    }
    (run / "calibration.json").write_text(json.dumps(record | {"threshold": 0.6} | chosen))
    assert (
        "Dice 0.9000 on 4 of these slices, without 0.8000"
        in Run(run).calibration_of(run / "best_dice.keras").in_words()
    )
    worse = Run(run).calibration_of(run / "best_dice.keras").model_copy(update={"flips_dice": 0.799})
    assert "predict.py does so, since training showed all orientations (--flips none" in worse.in_words()
    best, last = run / "best_dice.keras", run / "last.keras"
    assert (flips_of([best]), flips_of([best, last]), flips_of([last])) == ("turns", "none", "none")
    assert [threshold_of([best], flips)[0] for flips in ("turns", "none", "flips")] == [0.31, 0.6, 0.6]
    for number in range(2):
        write_image(tmp_path / "new" / f"{number}.png", disc_slice(24, number)[0])
    own = {"RUN": run, "INPUT": tmp_path / "new"}
    out = run_here("predict.py", OUTPUT=tmp_path / "chosen", **own).stdout
    assert "averaged over flips and quarter turns" in out and "threshold 0.31" in out
    recorded = json.loads((tmp_path / "chosen" / "prediction.json").read_text())
    assert (recorded["FLIPS"], recorded["THRESHOLD"]) == ("turns", 0.31)
    run_here("predict.py", OUTPUT=tmp_path / "given", FLIPS="turns", THRESHOLD=0.31, **own)
    assert bytes_of(tmp_path / "chosen" / "masks") == bytes_of(tmp_path / "given" / "masks")
    out = run_here("predict.py", OUTPUT=tmp_path / "none", FLIPS="none", **own).stdout
    assert out.splitlines()[1].startswith("threshold 0.6"), out


def test_a_run_without_validation_takes_the_choices_of_the_run_or_folds_before(trained, packed, tmp_path, capsys):
    record = json.loads((trained[0] / "calibration.json").read_text())

    def earlier(folder, **chosen):
        (shutil.copytree(trained[0], folder) / "calibration.json").write_text(json.dumps(record | chosen))

    earlier(tmp_path / "before" / "one", threshold=0.4, temperature=1.5, flips="turns", flips_threshold=0.35)
    given = {"TRAIN": packed["packed"] / "train.h5", "VALIDATION": "", "RUNS": tmp_path / "runs"}
    retrained = {"MODE": "retrain", "RUN": tmp_path / "before", "EPOCHS": 1}
    said = run_here("train.py", **given, **retrained).stdout
    words = (
        "verage over flips and quarter turns with threshold 0.35, threshold 0.4, temperature 1.50: as chosen for one"
    )
    run = Run(only_folder(tmp_path / "runs"))
    assert f"a{words}" in said and f"A{words}" in run.report_file.read_text(encoding="utf-8")
    assert run.settings["RUN"] == str(tmp_path / "before" / "one")
    assert threshold_of([run.final_file]) == (0.4, "chosen by train.py for one")
    write_image(tmp_path / "new" / "a.png", disc_slice(24, 1)[0])
    out = run_here("predict.py", RUN=run, INPUT=tmp_path / "new", OUTPUT=tmp_path / "out").stdout
    assert "averaged over flips and quarter turns" in out and "threshold 0.35 (chosen by train.py for one)" in out

    for fold, threshold, temperature in ((1, 0.3, 1.0), (2, 0.5, 4.0)):
        earlier(tmp_path / "folds" / f"fold{fold}", threshold=threshold, temperature=temperature)
    (tmp_path / "folds" / "cross_validation.json").write_text("{}")
    final = given | {"RUNS": tmp_path / "final"}
    run_here("train.py", **final, EPOCHS_FROM=tmp_path / "folds", MODEL_SETTINGS={"features": 2, "depth": 1})
    run = Run(only_folder(tmp_path / "final"))
    found = run.calibration_of(run.final_file)
    assert (found.threshold, found.temperature, found.source) == (0.4, pytest.approx(2.0), "folds")
    (tmp_path / "folds" / "fold2" / "calibration.json").write_text("{")
    assert calibration_before(run) is None and "note: no threshold of an earlier run (" in capsys.readouterr().out
    (tmp_path / "folds" / "fold2" / "calibration.json").unlink()
    assert calibration_before(run) is None, "one fold has none"


def test_a_damaged_calibration_is_one_line_and_an_old_run_has_none(trained, tmp_path):
    run = shutil.copytree(trained[0], tmp_path / "run")
    file = run / "calibration.json"
    record = json.loads(file.read_text())
    for change, words in (
        ({"threshold": 1.0}, "threshold: input should be less than 1"),
        ({"temperature": 0}, "temperature"),
        ({"reliability": []}, "reliability"),
        ({"format": 2}, "newer version"),
    ):
        file.write_text(json.dumps(record | change))
        with pytest.raises(InputError, match=rf"calibration.json: .*{words}"):
            Run(run).calibration_of(run / "best_dice.keras")
    file.write_text(json.dumps(record | {"threshold": 0.3}))
    assert threshold_of([run / "best_dice.keras"]) == (0.3, "chosen by train.py on the validation set")
    both, reason = threshold_of([run / "best_dice.keras", run / "best_iou.keras"])
    assert both == 0.3 if (run / "best_iou.keras").read_bytes() == (run / "best_dice.keras").read_bytes() else 0.4
    assert reason == "mean over 2 models, each chosen on its validation set"
    file.write_text('{"threshold": ')
    assert_refused("predict.py", "calibration.json: damaged", RUN=run, INPUT=trained[0], OUTPUT=tmp_path / "out")
    file.unlink()
    assert Run(run).calibration_of(run / "best_dice.keras") is None
    assert threshold_of([run / "best_dice.keras"]) == (0.5, "no threshold was chosen for this model")
    run_here("train.py", MODE="resume", RUN=run)
    assert json.loads(file.read_text()) == record

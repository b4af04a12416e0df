"""pseudo_label.py: confident predictions become cases that are for training only."""

import json
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
from drawings import disc_slice, write_image
from running import assert_refused, leftovers, run_here

from common.errors import InputError
from common.prediction.pseudo_labels import PseudoLabels, Rule, case_name, confidence_of
from common.slices.case_files import read_case_record, split_pseudo_labeled
from common.slices.cases import Slice
from common.slices.preparation import common_preparation


def square(probability, around, size=32):
    """Probabilities of a square of 10x10, and of all around it."""
    values = np.full((size, size, 1), around, np.float32)
    values[11:21, 11:21] = probability
    return values


def test_confidence_counts_the_mask_and_its_surroundings():
    values = square(0.9, 0.2)
    numbers = (values[..., 0] > 0.5).astype(np.uint8)
    assert confidence_of(values, numbers, 0) == pytest.approx(0.9)
    near = np.hypot(*[np.maximum(np.maximum(11 - g, g - 20), 0) for g in np.mgrid[:32, :32]]) <= 3
    expected = np.where(numbers > 0, 0.9, 0.8)[near].mean()
    assert confidence_of(values, numbers, 3) == pytest.approx(expected, abs=1e-5)
    assert confidence_of(values, np.zeros_like(numbers), 3) == 0
    classes = np.concatenate([1 - values, values * 0.7, values * 0.3], -1)
    assert confidence_of(classes, numbers, 0) == pytest.approx(0.63, abs=1e-5)


@pytest.mark.parametrize(
    ("probability", "around", "rule", "result"),
    [
        (0.99, 0.01, Rule(0.95, 50, 5), "kept"),
        (0.90, 0.01, Rule(0.95, 50, 0), "unsure"),
        (0.99, 0.40, Rule(0.95, 50, 5), "unsure"),
        (0.99, 0.01, Rule(0.95, 101, 5), "small"),
        (0.40, 0.01, Rule(0.50, 1, 5), "small"),
    ],
)
def test_the_rule(tmp_path, probability, around, rule, result):
    labels, image = PseudoLabels(32, "resize", 0.5, {}, rule), np.full((32, 32), 7, np.uint8)
    s = Slice("", "a", tmp_path / "a.png")
    kept = list(labels.slices_of(s, image, square(probability, around), {}))
    assert labels.counts == {result: 1} and len(kept) == (result == "kept")
    if kept:
        mask = cv2.imdecode(np.frombuffer(kept[0].mask, np.uint8), -1)
        assert np.array_equal(mask > 0, square(1, 0)[..., 0] > 0) and set(np.unique(mask)) == {0, 255}
        assert kept[0].entry == {"image": "a.png", "mask": None, "image_size": [32, 32], "box": [0, 0, 32, 32]}


def test_tiles_of_a_large_image_are_judged_one_by_one(tmp_path):
    labels, probabilities = PseudoLabels(32, "tile", 0.5, {}, Rule(0.95, 50, 5)), np.zeros((32, 64, 1), np.float32)
    probabilities[:, :32] = square(0.99, 0.01)
    kept = list(labels.slices_of(Slice("", "a", tmp_path / "a.png"), np.zeros((32, 64), np.uint8), probabilities, {}))
    assert [labeled.entry["box"] for labeled in kept] == [[0, 0, 32, 32]] and labels.counts == {"kept": 1, "small": 1}


@pytest.fixture(scope="module")
def labeled(packed, trained, tmp_path_factory):
    """Own cases with those that a model labeled, and what was printed; its rule lets everything pass."""
    root = tmp_path_factory.mktemp("labeled")
    shutil.copytree(packed["cases"], root / "cases")
    for number in range(3):
        write_image(root / "unlabeled" / f"{number}.png", disc_slice(24, 90 + number)[0])
    rule = {"CONFIDENCE": 0.5, "SMALLEST": 1, "THRESHOLD": 0.0}
    settings = {"RUN": trained[0], "INPUT": root / "unlabeled", "CASES": root / "cases", **rule}
    return root, settings, run_here("pseudo_label.py", **settings).stdout


def test_cases_are_marked_and_for_training_only(labeled, packed):
    root, settings, out = labeled
    case = root / "cases" / "pseudo_case_unlabeled"
    assert "wrote 3 pseudo-labeled slices in 1 case" in out and "left out 0 with a mask under 1 pixel" in out
    record = read_case_record(case)
    assert record["pseudo_labels"] == {"confidence": 0.5, "model": settings["RUN"].name}
    assert record["slices"]["0002"]["image"] == "1.png" and len(list((case / "y").iterdir())) == 3
    assert not leftovers(root)
    given = {"CASES": root / "cases", "VALIDATION_SHARE": 0.25, "TEST_SHARE": 0.25}
    for folds in (0, 2):
        out = run_here("preprocess/2_write_lists.py", LISTS=root / f"lists{folds}", FOLDS=folds, **given).stdout
        assert "pseudo-labeled, only for training: pseudo_case_unlabeled" in out
        for path in (root / f"lists{folds}").rglob("*.csv"):
            cases = pd.read_csv(path)["case"]
            assert (cases == case.name).sum() == (3 if path.stem == "train" else 0), path
    for name in ("validation", "test"):
        ours, before = (pd.read_csv(lists / f"{name}.csv")["case"] for lists in (root / "lists0", packed["lists"]))
        assert list(ours) == list(before), "own cases are split as without them"
    files = [f"{c}/x/0001.png" for c in ("case01", case.name)]
    tables = [pd.DataFrame({"x": [root / "cases" / file for file in some]}) for some in (files[:1], files)]
    np.testing.assert_equal(*map(common_preparation, tables))


def test_they_are_no_truth_and_nothing_is_lost(labeled, tmp_path):
    root, settings, _ = labeled
    case = root / "cases" / "pseudo_case_unlabeled"
    words = "TRUTH: ", "contains masks of a model, not true ones"
    assert_refused("evaluate.py", *words, PREDICTED=case, TRUTH=case, OUTPUT=tmp_path / "scores")
    assert_refused("pseudo_label.py", f"{case}: already exists", **settings)
    with pytest.raises(InputError, match="CASES: only pseudo-labeled cases in"):
        split_pseudo_labeled([Slice(case, "0001", case / "x" / "0001.png")])
    out = run_here("pseudo_label.py", **settings | {"SMALLEST": 10**6, "REPLACE": True}).stdout
    assert "wrote 0 pseudo-labeled slices" in out and not case.exists() and (root / "cases" / "case01").exists()
    (tmp_path / "gone").mkdir()
    assert_refused("pseudo_label.py", "INPUT: no image", **settings | {"INPUT": tmp_path / "gone", "REPLACE": True})


def test_slices_of_a_case_keep_where_they_come_from(tmp_path):
    entry = {"image": "b.nii", "mask": None, "image_size": [9, 9], "box": [0, 0, 9, 9], "index": 4}
    record = {"size": 32, "fit": "pad", "spacing": [1.0, 2.0], "slices": {"0004": entry}}
    labels = PseudoLabels(32, "resize", 0.5, {}, Rule(0.5, 1, 0))
    s = Slice("case7", "0004", tmp_path / "case7" / "x" / "0004.png")
    (kept,) = labels.slices_of(s, np.zeros((32, 32), np.uint8), square(0.9, 0.1), record)
    assert kept.entry == entry
    assert case_name(s) == case_name(s._replace(case="")) == "pseudo_case7"
    assert case_name(Slice("", "1", tmp_path / "new" / "1.png")) == "pseudo_case_new"
    made = labels.record_of(record, "run")
    assert made == {"fit": "pad", "spacing": [1.0, 2.0], "pseudo_labels": {"confidence": 0.5, "model": "run"}}
    assert labels.record_of({"size": 64, "spacing": [1.0, 2.0]}, "run").keys() == {"fit", "pseudo_labels"}
    json.dumps(made)

"""Overlapping classes in predictions, scores, pseudo-labels and Core ML: the truth as prediction comes back exactly."""

import json

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest
from drawings import write_copying_network, write_image
from running import assert_refused, only_folder, run_here

from common.evaluation.selection import count_slice
from common.files import write_json
from common.prediction.pseudo_labels import confidence_of
from common.prediction.uncertainty import entropy, foreground
from common.slices import classes as c
from common.slices.images import read_image
from common.slices.mask_files import MaskFiles
from common.training.sets import SliceSet

NAMES = ["heart", "left lung", "rib"]


def draw(root, images=4, shape=(32, 32)):
    """RGB images whose channels are the masks of three classes, which overlap; a folder of masks for each class."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    for number in range(images):
        image = np.zeros((*shape, 3), np.uint8)
        for channel, name in enumerate(NAMES):
            center = rng.integers(10, 22, 2)
            image[..., channel] = 255 * ((rows - center[0]) ** 2 + (columns - center[1]) ** 2 < rng.integers(30, 90))
            write_image(root / "masks" / name / f"p{number}.png", image[..., channel])
        write_image(root / "images" / f"p{number}.png", image[..., ::-1])  # OpenCV writes blue first


def imported(root, **given):
    given = {"IMAGES": root / "images", "MASKS": f"{root}/masks/{{class}}", "CASES": root / "cases", "SIZE": 32} | given
    run_here("preprocess/0_import_images.py", CASE_FROM="image", CHANNELS="rgb", CLASS_NAMES=NAMES, **given)
    return {path.parent.parent.name: read_image(path) for path in sorted(root.glob("cases/*/y/*.png"))}


@pytest.fixture(scope="module")
def copying(tmp_path_factory):
    """Run folder of a network that gives back its image, trained on `imported`."""
    folder = tmp_path_factory.mktemp("run")
    write_copying_network(folder / "best_dice.keras", 32, 3)
    data = {"classes": 3, "size": 32, "inputs": 3, "channels": "rgb", "labels": NAMES, "overlap": "overlapping"}
    write_json(folder / "settings.json", {"MODEL": "unet"})
    write_json(folder / "state.json", {"data": data})
    return folder


def test_the_truth_as_prediction_comes_back_and_scores_1(tmp_path, copying):
    draw(tmp_path, shape=(40, 32))
    truths = imported(tmp_path, FIT="tile")
    given = {"RUN": copying, "INPUT": tmp_path / "cases", "PASTE": tmp_path / "images", "FIT": "tile"}
    run_here("predict.py", OUTPUT=tmp_path / "out", UNCERTAINTY=True, **given)
    assert json.loads((tmp_path / "out" / "prediction.json").read_text())["overlap"] == "overlapping"
    for case, truth in truths.items():
        image = cv2.imread(str(tmp_path / "images" / f"{case.removeprefix('case_')}.png"))[..., ::-1]
        full = read_image(tmp_path / "out" / "full" / case / f"{case.removeprefix('case_')}.png")
        np.testing.assert_array_equal(full, c.sets_of_classes(list(np.moveaxis(image > 0, -1, 0))))
        for number in range(1, 4):
            by_class = tmp_path / "out" / "classes" / NAMES[number - 1] / case / "0002.png"
            np.testing.assert_array_equal(read_image(by_class) > 0, c.has_class(truth, number))
        assert c.overlap_in(truth)
    areas = pd.read_csv(tmp_path / "out" / "full" / "areas.csv")
    assert areas.groupby("case")["class"].apply(list).tolist() == [[1, 2, 3]] * 4
    scored = {"PREDICTED": tmp_path / "out", "TRUTH": tmp_path / "cases", "OUTPUT": tmp_path / "scores"}
    run_here("evaluate.py", **scored)
    cases = pd.read_csv(tmp_path / "scores" / "cases.csv")
    assert sorted(cases["class"].unique()) == [1, 2, 3] and (cases["dice"] == 1).all()
    assert (cases["hausdorff"].dropna() == 0).all()
    # masks of one class alone
    given = {"PREDICTED": tmp_path / "out" / "classes" / "rib", "TRUTH": tmp_path / "out" / "classes" / "left lung"}
    run_here("evaluate.py", OUTPUT=tmp_path / "other", **given)
    found = pd.read_csv(tmp_path / "other" / "cases.csv").set_index("case")["tp"]
    both = pd.read_csv(tmp_path / "scores" / "cases.csv").groupby("case")["tp"].min()
    assert (found <= both[found.index]).all() and found.sum() > 0


def test_predictions_and_truth_must_be_of_one_kind(tmp_path, copying):
    draw(tmp_path, images=2)
    imported(tmp_path)
    run_here("predict.py", RUN=copying, INPUT=tmp_path / "cases", OUTPUT=tmp_path / "out")
    given = {"OUTPUT": tmp_path / "scores"}
    imported(tmp_path, CASES=tmp_path / "exclusive", OVERLAP="largest")
    exclusive = given | {"PREDICTED": tmp_path / "out", "TRUTH": tmp_path / "exclusive"}
    assert_refused("evaluate.py", "out contains overlapping classes", "exclusive ones in", **exclusive)
    # class numbers against overlapping classes: each number is a class
    numbers = tmp_path / "numbers"
    for path in sorted(tmp_path.glob("exclusive/*/y/*.png")):
        write_image(numbers / path.parent.parent.name / path.name, read_image(path))
    run_here("evaluate.py", PREDICTED=numbers, TRUTH=tmp_path / "cases", **given)
    recall = pd.read_csv(tmp_path / "scores" / "cases.csv").groupby("class")["recall"].mean()
    precision = pd.read_csv(tmp_path / "scores" / "cases.csv").groupby("class")["precision"].mean()
    assert (precision == 1).all() and recall[3] == 1 and recall[1] < 1
    write_image(numbers / "case_p0" / "0001.png", np.full((32, 32), 20, np.uint8))
    refused = given | {"PREDICTED": numbers, "TRUTH": tmp_path / "cases", "REPLACE": True}
    assert_refused("evaluate.py", "0001.png", "in no region", "found 20", **refused)
    assert_refused("submission.py", "out", "overlap", PREDICTED=tmp_path / "out", OUTPUT=tmp_path / "rows.csv")


def test_pseudo_labels_keep_all_classes(tmp_path, copying):
    draw(tmp_path, images=2)
    truths = imported(tmp_path)
    for case in tmp_path.glob("cases/*"):
        for path in (case / "x").glob("*.png"):
            write_image(tmp_path / "new" / f"{case.name}.png", cv2.imread(str(path)))
    run_here("pseudo_label.py", RUN=copying, INPUT=tmp_path / "new", CASES=tmp_path / "cases", SMALLEST=1)
    found = sorted(tmp_path.glob("cases/pseudo_*/y/*.png"))
    record = json.loads((found[0].parent.parent / "case.json").read_text())
    assert (record["overlap"], record["class_names"]) == ("overlapping", NAMES)
    for path, truth in zip(found, truths.values(), strict=True):
        np.testing.assert_array_equal(read_image(path), truth)


def test_core_ml_has_a_channel_for_each_class(tmp_path, copying):
    draw(tmp_path, images=2)
    imported(tmp_path)
    given = {"RUN": copying, "SLICES": tmp_path / "cases", "OUTPUT": tmp_path / "a.mlmodel"}
    out = run_here("convert_coreml.py", **given).stdout
    assert "matches Keras" in out or "wrote" in out
    assert "Dice against the truth 1.0000 (Keras), 1.0000 (file)" in out
    refused = given | {"OUTPUT_KIND": "classes", "REPLACE": True}
    assert_refused("convert_coreml.py", "OUTPUT_KIND", "overlap", "probabilities", **refused)
    run_here("export.py", RUN=copying, SLICES=tmp_path / "cases", OUTPUT=tmp_path / "exported", FORMATS=["saved_model"])
    cards = [json.loads(path.read_text()) for path in (tmp_path / "exported").glob("*/*.json")]
    (card,) = [card for card in cards if "overlapping" in card]
    assert card["overlapping"] and card["classes"] == 3 and card["output"]["values"] == "probability of each class"
    ct = pytest.importorskip("coremltools")
    description = ct.models.MLModel(str(tmp_path / "a.mlmodel"), skip_model_load=True).get_spec().description
    assert description.metadata.userDefined["classes"] == "3"
    assert json.loads(description.metadata.userDefined["class_names"]) == NAMES
    assert "each class, which may overlap" in description.output[0].shortDescription
    assert_refused("convert_coreml.py", "CLASS_NAMES", "expected 3", **given | {"CLASS_NAMES": ["a"], "REPLACE": True})


def test_volumes_of_each_class_and_of_numbers_if_they_can_say_it():
    overlapping = c.sets_of_classes([np.ones((2, 2, 2), bool), np.eye(2, dtype=bool)[None].repeat(2, 0)])
    files = MaskFiles(["a", "b/c"], c.OVERLAPPING)
    assert [suffix for suffix, _ in files.volumes(overlapping)] == ["_a", "_class2"]
    nested = MaskFiles(["a", "b"], c.NESTED).volumes(overlapping)
    assert [suffix for suffix, _ in nested] == ["_a", "_b", ""]
    np.testing.assert_array_equal(nested[2][1], np.where(overlapping == 3, 2, 1))
    apart = c.sets_of_numbers(np.arange(8, dtype=np.uint8).reshape(2, 2, 2) % 3)
    np.testing.assert_array_equal(files.volumes(apart)[2][1], np.arange(8).reshape(2, 2, 2) % 3)


def test_measures_of_overlapping_probabilities():
    p = np.float32([[[0.9, 0.6], [0.5, 0.1]]])
    np.testing.assert_allclose(foreground(p, True), [[0.9, 0.5]])
    binary = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    np.testing.assert_allclose(entropy(p, True), binary.max(-1), rtol=1e-5)
    sets = c.class_numbers(p, 0.5, overlapping=True)
    np.testing.assert_array_equal(sets, [[3, 0]])
    assert confidence_of(p, sets, 0) == pytest.approx(0.6)


def test_choices_count_each_class_alone():
    rng = np.random.default_rng(1)
    sets = rng.integers(0, 8, (2, 8, 8, 1)).astype(np.uint16)
    p = rng.random((2, 8, 8, 3)).astype(np.float32)
    how = {"in_memory": True, "preparation": {"overlap": "overlapping"}}
    slices = SliceSet("a", np.zeros(sets.shape, np.uint8), sets, ["a"] * 2, [""] * 2, 3, **how)
    for i in range(2):
        rows = count_slice(p, slices, [{}], i)
        for k, row in enumerate(rows):
            truth, predicted = (sets[i, ..., 0] >> k & 1).astype(bool), p[i, ..., k] > 0.5
            assert row["tp"] == (truth & predicted).sum() and row["fn"] == (truth & ~predicted).sum()


@pytest.mark.slow
def test_overlaps_are_learned_which_numbers_cannot_say(tmp_path):
    """Two discs of which each is half covered by the other: with one class a pixel, Dice of one of them stays low."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:32, :32]
    truths = {}
    for number in range(40):
        row, column = rng.integers(12, 20), rng.integers(10, 16)
        first = (rows - row) ** 2 + (columns - column) ** 2 < 64
        second = (rows - row) ** 2 + (columns - column - 6) ** 2 < 64
        image = 60 + 50 * first + 90 * second + rng.normal(0, 6, first.shape)
        write_image(tmp_path / "images" / f"p{number:02d}.png", image.clip(0, 255).astype(np.uint8))
        for name, mask in (("first", first), ("second", second)):
            write_image(tmp_path / "masks" / name / f"p{number:02d}.png", mask * np.uint8(255))
        truths[f"case_p{number:02d}"] = c.sets_of_classes([first, second])
    best = np.mean([2 * n / (c.has_class(t, 1).sum() + n) for t in truths.values() for n in [(t == 1).sum()]])
    given = {"IMAGES": tmp_path / "images", "MASKS": f"{tmp_path}/masks/{{class}}/{{id}}.png", "SIZE": 32}
    run_here("preprocess/0_import_images.py", CASES=tmp_path / "cases", CASE_FROM="image", **given)
    run_here("preprocess/2_write_lists.py", CASES=tmp_path / "cases", LISTS=tmp_path / "lists", TEST_SHARE=0.2)
    run_here("preprocess/3_pack_hdf5.py", LISTS=tmp_path / "lists", PACKED=tmp_path / "packed")
    sets = {name.upper(): tmp_path / "packed" / f"{name}.h5" for name in ("train", "validation")}
    network = {"MODEL": "unet", "MODEL_SETTINGS": {"features": 8, "depth": 2, "dropout": 0.0}}
    learning = {"LOSS": "bce+dice", "EPOCHS": 60, "BATCH_SIZE": 4, "LEARNING_RATE": 5e-3, "AUGMENTATION": {}}
    run_here("train.py", RUNS=tmp_path / "runs", **sets, **network, **learning)
    run = only_folder(tmp_path / "runs")
    with h5py.File(tmp_path / "packed" / "test.h5") as packed:
        cases = set(packed["case"].asstr()[:])
    run_here("predict.py", RUN=run, INPUT=tmp_path / "lists" / "test.csv", OUTPUT=tmp_path / "out")
    run_here(
        "evaluate.py", PREDICTED=tmp_path / "out", TRUTH=tmp_path / "lists" / "test.csv", OUTPUT=tmp_path / "scores"
    )
    dice = pd.read_csv(tmp_path / "scores" / "cases.csv").groupby("class")["dice"].mean()
    assert len(cases) == 8 and dice.min() > 0.9 > best + 0.1, (dice, best)
    out = run_here("convert_coreml.py", RUN=run, OUTPUT=tmp_path / "a.mlmodel").stdout
    assert "wrote" in out

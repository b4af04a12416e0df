"""evaluate.py on files of numbers: text and .npy, as truth and as prediction."""

import numpy as np
import pandas as pd
import pytest
from drawings import write_image
from running import assert_refused, run_here

from common.slices.images import read_image

SCRIPT = "evaluate.py"


def draw(classes=1, shape=(3, 20, 24)):
    """Class numbers of predicted and true masks, (N, H, W)."""
    truth, predicted = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for number in range(1, classes + 1):
        left = 8 * (number - 1)
        truth[:, 4:14, left + 1 : left + 7] = number
        predicted[:, 6:15, left + 1 : left + 6] = number
    predicted[1] = np.roll(predicted[1], 1, axis=0)
    return predicted, truth


def dice(predicted, truth, number):
    first, second = predicted == number, truth == number
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def write_texts(folder, masks, names=("a", "b", "c"), suffix=""):
    folder.mkdir(parents=True)
    for name, mask in zip(names, masks, strict=True):
        np.savetxt(folder / f"{name}{suffix}", mask, fmt="%d", delimiter=",")
    return folder


def scores(folder):
    table = pd.read_csv(folder / "scores.csv").fillna({"case": ""})
    return table.pivot_table(index=["case", "image"], columns="class", values="dice").to_numpy()


@pytest.mark.parametrize("classes", [1, 3])
def test_scores_are_those_of_the_formula(tmp_path, classes):
    predicted, truth = draw(classes)
    expected = [
        [dice(*both, number) for number in range(1, classes + 1)] for both in zip(predicted, truth, strict=True)
    ]
    texts = write_texts(tmp_path / "masks", truth)
    for name, mask in zip("abc", predicted, strict=True):
        write_image(tmp_path / "p" / f"{name}.png", mask * 255 if classes == 1 else mask)
    write_texts(tmp_path / "numbers", predicted, suffix=".csv")
    for number, source in enumerate(("p", "numbers")):
        out = tmp_path / f"s{number}"
        run_here(SCRIPT, PREDICTED=tmp_path / source, TRUTH=texts, CASE_FROM="image", OUTPUT=out)
        np.testing.assert_allclose(scores(out), expected, atol=1e-6)
    for name, masks in (("imgs", predicted), ("imgs_mask", truth)):
        np.save(tmp_path / f"{name}.npy", masks[:, None])
    for number, mask in enumerate(predicted, 1):  # as predict.py writes the masks of imgs.npy
        write_image(tmp_path / "q" / "imgs" / f"{number:04d}.png", mask * 255 if classes == 1 else mask)
    for number, source in enumerate(("q", "imgs.npy")):
        out = tmp_path / f"t{number}"
        run_here(SCRIPT, PREDICTED=tmp_path / source, TRUTH=tmp_path / "imgs_mask.npy", OUTPUT=out)
        np.testing.assert_allclose(scores(out), expected, atol=1e-6)


def test_files_of_patients_by_pattern_and_errors_on_their_images(tmp_path):
    predicted, truth = draw()
    for patient in ("p1", "p2"):
        np.save(tmp_path / f"masks_{patient}.npy", truth)
        np.save(tmp_path / f"images_{patient}.npy", np.linspace(-500, 500, truth.size).reshape(truth.shape))
        for number, mask in enumerate(predicted, 1):
            write_image(tmp_path / "p" / patient / f"{number:04d}.png", mask * 255)
    sides = {"PREDICTED": tmp_path / "p", "TRUTH": tmp_path / "masks_{id}.npy"}
    images = {"IMAGES": tmp_path / "images_{id}.npy", "WINDOW": [-500, 500], "SHOW": "first"}
    run_here(SCRIPT, **sides, **images, OUTPUT=tmp_path / "s")
    assert sorted(pd.read_csv(tmp_path / "s" / "cases.csv")["case"]) == ["p1", "p2"]
    run_here(SCRIPT, **sides, SHOW="first", OUTPUT=tmp_path / "black")
    drawn, black = (read_image(tmp_path / name / "worst.png") for name in ("s", "black"))
    assert drawn.shape == black.shape and (drawn > black).mean() > 0.3


def test_bad_input(tmp_path):
    predicted, truth = draw()
    write_texts(tmp_path / "p", predicted)
    settings = {"PREDICTED": tmp_path / "p", "OUTPUT": tmp_path / "s"}
    hu = write_texts(tmp_path / "hu", truth * 40.0 - 1000)
    assert_refused(SCRIPT, "hu/a: expected class numbers (found -1000 to -960)", TRUTH=hu, **settings)
    halves = write_texts(tmp_path / "halves", truth)
    np.savetxt(halves / "b", truth[1] / 2, fmt="%.1f", delimiter=",")
    assert_refused(SCRIPT, "halves/b: expected class numbers (found 0 to 0.5)", TRUTH=halves, **settings)
    larger = write_texts(tmp_path / "larger", np.pad(truth, ((0, 0), (1, 1), (1, 1))))
    assert_refused(SCRIPT, "size differs from", TRUTH=larger, **settings)
    few = write_texts(tmp_path / "few", truth[:2], names=("a", "b"))
    assert_refused(SCRIPT, "p/c: no true mask in", TRUTH=few, **settings)
    short = write_texts(tmp_path / "short", truth)
    (short / "c").write_text("0,1,x\n")
    assert_refused(SCRIPT, "short/c: not a matrix of numbers", TRUTH=short, **settings)
    assert not (tmp_path / "s").exists()

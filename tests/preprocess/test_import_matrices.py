"""0_import_matrices.py: files of numbers to slices, and what it leaves out."""

import json
import os

import numpy as np
import pytest
from running import assert_refused, leftovers, lines_of_workers, run_here, run_script

from common.slices.images import read_image, read_mask

SCRIPT = "preprocess/0_import_matrices.py"


def write(path, matrix):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, matrix, fmt="%g", delimiter=",")


def scan(size=(40, 40), seed=0):
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, int)
    mask[10:20, 12:30] = 1
    return rng.integers(-1000, 1000, size), mask


@pytest.fixture
def muscle(tmp_path):
    for number in range(3):
        image, mask = scan(seed=number)
        mask[0, 0] = mask[1, 1] = mask[2, 2] = mask[3, 3] = 1  # a speck of four pixels, over corners
        mask[30, 30:35] = 1  # five pixels
        write(tmp_path / "images" / f"L3_{number}", image)
        write(tmp_path / "masks" / f"L3_{number}", mask)
    return {"IMAGES": tmp_path / "images", "MASKS": tmp_path / "masks", "CASES": tmp_path / "cases", "SIZE": 40}


def test_a_window_in_other_units_is_reported(muscle, tmp_path):
    assert "contrast" not in run_here(SCRIPT, WINDOW=[-200, 200], **muscle).stdout
    for path in muscle["IMAGES"].iterdir():  # from 0 to 1 instead of HU
        write(path, (np.loadtxt(path, delimiter=",") + 1000) / 2000)
    said = run_here(SCRIPT, WINDOW=[-200, 200], **muscle | {"CASES": tmp_path / "other"}).stdout
    assert "note: 3 of 3 slices have almost no contrast (WINDOW: [-200" in said


def test_values_and_specks(muscle, tmp_path):
    run_script(SCRIPT, WINDOW=[-200, 200], **muscle)
    assert sorted(path.name for path in muscle["CASES"].iterdir()) == ["case_L3_0", "case_L3_1", "case_L3_2"]
    image, mask = scan(seed=1)
    case = muscle["CASES"] / "case_L3_1"
    expected = np.rint((image.clip(-200, 200) + 200) / 400 * 255)
    assert np.abs(read_image(case / "x" / "0001.png") - expected).max() <= 1
    mask[30, 30:35] = 1
    np.testing.assert_array_equal(read_mask(case / "y" / "0001.png"), mask * 255)
    record = json.loads((case / "case.json").read_text())
    assert record["window"] == [-200, 200] and record["slices"]["0001"]["image_size"] == [40, 40]


def test_whole_range_and_other_sizes(muscle, tmp_path):
    image, mask = scan((30, 50))
    write(muscle["IMAGES"] / "wide.csv", image)
    write(muscle["MASKS"] / "wide.csv", mask)
    run_here(SCRIPT, FIT="pad", BITS=16, **muscle | {"SIZE": 50})
    picture = read_image(muscle["CASES"] / "case_wide" / "x" / "0001.png")
    assert picture.shape == (50, 50) and picture.dtype == np.uint16
    assert picture.max() == 65535 and not picture[:10].any() and not picture[40:].any()
    assert read_mask(muscle["CASES"] / "case_wide" / "y" / "0001.png").sum() == 255 * 180


def test_pairs_that_do_not_fit_are_named_and_left_out(muscle):
    image, mask = scan()
    write(muscle["IMAGES"] / "size", image)
    write(muscle["MASKS"] / "size", mask[:-1])
    write(muscle["IMAGES"] / "odd", image)
    write(muscle["MASKS"] / "odd", mask * 3)
    write(muscle["IMAGES"] / "tiny", image[:4, :4])
    write(muscle["IMAGES"] / "alone", image)
    texts = {"short": "1,2,3\n4,5\n", "words": "a,b\nc,d\n", "complex": "1+2j,3\n4,5\n", "endless": "1,2\n3,inf\n"}
    for name, text in {**texts, "empty": ""}.items():
        (muscle["IMAGES"] / name).write_text(text)
    os.mkfifo(muscle["IMAGES"] / "fifo")
    for name in (*texts, "empty", "tiny", "fifo"):
        write(muscle["MASKS"] / name, mask)
    said = assert_refused(SCRIPT, "8 pairs cannot be used", "Imported the others", **muscle)
    for words in (
        "size differs from its mask",
        "(found 40x40 and 40x39)",
        "odd: expected mask values 0 and 1 (found [0.0, 3.0])",
        "short: no finite number (found nan in row 2, column 3",
        "endless: no finite number (found inf in row 2, column 2",
        "words: not a matrix",
        "complex: not a matrix",
        "empty: file is empty",
        "tiny: too small",
    ):
        assert words in said, said
    assert len(list(muscle["CASES"].iterdir())) == 3 and not leftovers(muscle["CASES"])
    said = run_here(SCRIPT, "--skip-broken", "--replace", **muscle).stdout
    for words in (
        f"alone: no mask in {muscle['MASKS']}",
        "skipped 1 file (FIFO, device or socket): fifo",
        "wrote 3 slices",
        "tiny",
    ):
        assert words in said, said


@pytest.mark.slow
def test_workers_import_what_one_run_imports(scheduler, muscle, tmp_path):
    """Byte for byte and line for line, with several slices in a file and one that has a short row."""
    (muscle["IMAGES"] / "short").write_text("1,2,3\n4,5\n")
    write(muscle["MASKS"] / "short", np.ones((2, 3), int))
    for side, dtype in (("IMAGES", np.float32), ("MASKS", np.uint8)):
        values = np.random.default_rng(1).random((5, 30, 30)) > 0.5
        np.save(muscle[side] / "several.npy", values.astype(dtype))
    settings = {"IMAGES": muscle["IMAGES"], "MASKS": muscle["MASKS"], "SIZE": 32}
    alone = lines_of_workers(SCRIPT, settings, scheduler, tmp_path)
    assert any("images/short" in line for line in alone), alone


def test_bad_input(muscle, tmp_path):
    assert_refused(SCRIPT, "gone does not exist", **muscle | {"IMAGES": tmp_path / "gone"})
    (tmp_path / "empty").mkdir()
    assert_refused(SCRIPT, "MASKS: no file in", "has the same name as one in", **muscle | {"MASKS": tmp_path / "empty"})
    assert_refused(SCRIPT, "WINDOW", "(found [200, -200])", status=2, WINDOW=[200, -200], **muscle)
    assert_refused(SCRIPT, "SMALLEST", "(found 0)", status=2, SMALLEST=0, **muscle)
    run_here(SCRIPT, **muscle)
    assert_refused(SCRIPT, "exists", **muscle)
    for number in range(3):
        write(muscle["MASKS"] / f"L3_{number}", np.full((40, 40), 7))
    assert_refused(SCRIPT, "3 pairs cannot be used", REPLACE=True, **muscle)
    assert len(list(muscle["CASES"].iterdir())) == 3


# --- subfolders, no masks, and .npy


def test_folders_of_patients_with_images_and_masks_inside(muscle, tmp_path):
    for number, patient in enumerate(("p1", "p2/follow-up")):
        image, mask = scan(seed=number)
        write(tmp_path / "data" / patient / "images" / "L3", image)
        write(tmp_path / "data" / patient / "masks" / "L3", mask)
    run_here(SCRIPT, IMAGES=tmp_path / "data", CASES=tmp_path / "nested", SIZE=40, WINDOW=[-200, 200])
    run_here(SCRIPT, IMAGES=muscle["IMAGES"], MASKS=muscle["MASKS"], CASES=muscle["CASES"], SIZE=40, WINDOW=[-200, 200])
    cases = tmp_path / "nested"
    assert sorted(path.name for path in cases.iterdir()) == ["case_p1_L3", "case_p2_follow-up_L3"]
    for name, flat in (("case_p1_L3", "case_L3_0"), ("case_p2_follow-up_L3", "case_L3_1")):
        found, expected = (read_image(folder / "x" / "0001.png") for folder in (cases / name, muscle["CASES"] / flat))
        np.testing.assert_array_equal(found, expected)
        assert read_mask(cases / name / "y" / "0001.png").any()


def test_without_masks(muscle):
    said = run_here(SCRIPT, **{name: value for name, value in muscle.items() if name != "MASKS"}).stdout
    assert "all masks are black, so do not train on them" in said and "wrote 3 slices of 40x40 in 3 cases" in said
    for case in muscle["CASES"].iterdir():
        assert read_image(case / "x" / "0001.png").any() and not read_mask(case / "y" / "0001.png").any()


@pytest.mark.parametrize("shape", [(4, 40, 40), (4, 1, 40, 40), (4, 40, 40, 1)])
def test_sets_of_the_nodule_tutorial(tmp_path, shape):
    """imgs_train.npy and imgs_mask_train.npy: all slices in one file, with a channel axis; masks of 0 and 255."""
    images, masks = (np.stack(arrays) for arrays in zip(*(scan(seed=number) for number in range(4)), strict=True))
    np.save(tmp_path / "imgs_train.npy", images.reshape(shape).astype(np.float32))
    np.save(tmp_path / "imgs_mask_train.npy", (255 * masks).reshape(shape).astype(np.uint8))
    given = {"IMAGES": tmp_path / "imgs_train.npy", "MASKS": tmp_path / "imgs_mask_train.npy"}
    said = run_here(SCRIPT, CASES=tmp_path / "cases", SIZE=40, WINDOW=[-1000, 400], **given).stdout
    assert "wrote 4 slices of 40x40 in 1 case to" in said
    case = tmp_path / "cases" / "case_imgs_train"
    for number in range(4):
        expected = np.rint((images[number].clip(-1000, 400) + 1000) / 1400 * 255)
        assert np.abs(read_image(case / "x" / f"000{number + 1}.png") - expected).max() <= 1
        np.testing.assert_array_equal(read_mask(case / "y" / f"000{number + 1}.png"), 255 * masks[number])
    assert json.loads((case / "case.json").read_text())["slices"]["0004"]["mask"] == "imgs_mask_train.npy"


def test_a_file_for_each_scan_by_pattern_and_what_does_not_fit(tmp_path):
    for number in (1, 2):
        image, mask = scan(seed=number)
        np.save(tmp_path / f"images_{number:04d}.npy", np.stack([image] * 3))
        np.save(tmp_path / f"masks_{number:04d}.npy", np.stack([mask] * (3 if number == 1 else 2)).astype(bool))
        np.save(tmp_path / f"lungmask_{number:04d}.npy", np.ones((3, 40, 40)))
    given = {"IMAGES": tmp_path / "images_{id}.npy", "MASKS": tmp_path / "masks_{id}.npy", "SIZE": 40}
    said = assert_refused(SCRIPT, "(found 3 slices of 40x40 and 2 slices of 40x40)", CASES=tmp_path / "cases", **given)
    assert "Imported the others" in said and [path.name for path in (tmp_path / "cases").iterdir()] == ["case_0001"]
    assert len(list((tmp_path / "cases" / "case_0001" / "y").iterdir())) == 3
    assert_refused(SCRIPT, "IMAGES: expected one {id}", **given | {"IMAGES": tmp_path / "{id}_{id}.npy"})
    assert_refused(SCRIPT, "no file of numbers in", **given | {"IMAGES": tmp_path / "none_{id}.npy"})
    np.savez(tmp_path / "both.npz", image=image, mask=mask)
    both = dict.fromkeys(("IMAGES", "MASKS"), tmp_path / "both.npz")
    assert_refused(SCRIPT, "both.npz: not text (binary data", "as .npy by np.save", CASES=tmp_path / "other", **both)

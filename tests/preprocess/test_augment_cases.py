"""1_augment_cases.py against the definitions of the AIS codeset, written again with plain OpenCV and NumPy."""

import cv2
import h5py
import numpy as np
import pytest
from drawings import disc_slice, make_cases, write_image
from running import assert_refused, leftovers, run_here, run_script

from common import parallel
from common.errors import InputError
from common.slices.images import read_image, read_mask
from common.slices.variants import find_variants

SCRIPT = "preprocess/1_augment_cases.py"
SHAPES = ["", "HT", "WD", "DKP", "DKM", "HSR", "HSL", "RTP", "RTM", "CP0", "CP1", "CP2", "CP3", "CP4"]


def reference_filter(letter, image):
    if letter == "A":
        return cv2.fastNlMeansDenoising(image, h=2, templateWindowSize=7, searchWindowSize=21)
    if letter == "B":
        for _ in range(3):
            image = cv2.bilateralFilter(image, d=-1, sigmaColor=3.0, sigmaSpace=1.5)
        return image
    if letter == "C":
        return cv2.createCLAHE(clipLimit=1.4, tileGridSize=(4, 4)).apply(image)
    if letter == "D":
        smooth = cv2.bilateralFilter(image, d=10, sigmaColor=10, sigmaSpace=10)
        return (np.floor(smooth / 8) * 255 / 31).astype(np.uint8)
    return image


def reference_shape(shape, image):
    s = image.shape[0]
    five, ten, trapezoid = int(s * 0.05), int(s * 0.10), int(s * 0.125)
    if shape == "HT":
        return cv2.resize(image, (s, s + 2 * five), interpolation=cv2.INTER_CUBIC)[five : five + s]
    if shape == "WD":
        return cv2.resize(image, (s + 2 * five, s), interpolation=cv2.INTER_CUBIC)[:, five : five + s]
    moved = {  # top left, top right, bottom right, bottom left
        "DKP": [(0, 0), (s, 0), (s + trapezoid, s), (-trapezoid, s)],
        "DKM": [(-trapezoid, 0), (s + trapezoid, 0), (s, s), (0, s)],
        "HSR": [(0, 0), (s + ten, 0), (s, s), (-ten, s)],
        "HSL": [(-ten, 0), (s, 0), (s + ten, s), (0, s)],
    }
    if shape in moved:
        corners = np.float32([(0, 0), (s, 0), (s, s), (0, s)])
        return cv2.warpPerspective(image, cv2.getPerspectiveTransform(corners, np.float32(moved[shape])), (s, s))
    if shape in ("RTP", "RTM"):
        matrix = cv2.getRotationMatrix2D((s / 2, s / 2), 8 if shape == "RTP" else -8, 1.0)
        return cv2.warpAffine(image, matrix, (s, s), flags=cv2.INTER_CUBIC)
    if shape.startswith("CP"):
        half, far = s // 2, s - 10 - s // 2
        top, left = {"0": (s // 4, s // 4), "1": (10, 10), "2": (10, far), "3": (far, 10), "4": (far, far)}[shape[2]]
        out = np.zeros_like(image)
        out[top : top + half, left : left + half] = image[top : top + half, left : left + half]
        return out
    return image


@pytest.fixture(scope="module")
def augmented(tmp_path_factory):
    cases = make_cases(tmp_path_factory.mktemp("augment"), cases=2, slices=2, size=64)
    run_script(SCRIPT, CASES=cases, FILTERS=["O", "A", "B", "C", "D"])
    return cases


@pytest.mark.parametrize("letter", "OABCD")
@pytest.mark.parametrize("shape", SHAPES)
def test_every_filter_and_shape(augmented, letter, shape):
    case, ending = augmented / "case02", f"_{shape}" if shape else ""
    image = read_image(case / "x" / "0002.png")
    expected = reference_shape(shape, reference_filter(letter, image))
    found = read_image(case / f"x_{letter}{ending}" / "0002.png")
    assert np.abs(found.astype(int) - expected).max() <= (1 if letter == "D" else 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_masks_are_deformed_alike_and_stay_masks(augmented, shape):
    case, ending = augmented / "case01", f"_{shape}" if shape else ""
    mask = read_mask(case / "y" / "0001.png")
    expected = np.where(reference_shape(shape, mask) > 127, 255, 0)
    assert np.array_equal(read_mask(case / f"y_O{ending}" / "0001.png"), expected)


def test_parts_at_size_512_are_those_of_the_codeset(tmp_path):
    white = np.full((512, 512), 255, np.uint8)
    write_image(tmp_path / "case1" / "x" / "0001.png", white)
    write_image(tmp_path / "case1" / "y" / "0001.png", white)
    run_here(SCRIPT, CASES=tmp_path, FILTERS=["O"], SHAPES=["CP0", "CP1", "CP4", "_CP2"])
    for shape, rows, columns in (
        ("CP0", (128, 384), (128, 384)),
        ("CP1", (10, 266), (10, 266)),
        ("CP2", (10, 266), (246, 502)),
        ("CP4", (246, 502), (246, 502)),
    ):
        filled = np.argwhere(read_image(tmp_path / "case1" / f"x_O_{shape}" / "0001.png"))
        assert tuple(filled.min(0)) == (rows[0], columns[0])
        assert tuple(filled.max(0) + 1) == (rows[1], columns[1])


def test_rotation_plus_is_counter_clockwise(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[28:36, 48:60] = 255  # on the right: counter-clockwise takes it up
    write_image(tmp_path / "case1" / "x" / "0001.png", mask)
    write_image(tmp_path / "case1" / "y" / "0001.png", mask)
    run_here(SCRIPT, CASES=tmp_path, FILTERS=["O"], SHAPES=["RTP"])
    assert np.argwhere(read_mask(tmp_path / "case1" / "y_O_RTP" / "0001.png"))[:, 0].mean() < 30


def test_the_number_of_threads_changes_nothing(augmented, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "own_threads", 1)
    cases = make_cases(tmp_path, cases=2, slices=2, size=64)
    run_here(SCRIPT, CASES=cases, FILTERS=["O", "A", "B", "C", "D"])
    files = sorted(path.relative_to(cases) for path in cases.rglob("*.png"))
    assert files == sorted(path.relative_to(augmented) for path in augmented.rglob("*.png"))
    assert len(files) == 4 * 2 + 4 * 14 * 6
    for file in files:
        assert (cases / file).read_bytes() == (augmented / file).read_bytes()


def test_class_numbers_stay_class_numbers_and_16_bits_stay(tmp_path):
    make_cases(tmp_path, cases=1, slices=1, size=64, classes=3, bits=16)
    run_here(SCRIPT, CASES=tmp_path, FILTERS=["O", "A", "B", "C", "D"])
    case = tmp_path / "case01"
    assert set(np.unique(read_mask(case / "y_O_RTP" / "0001.png"))) <= {0, 1, 2, 3}
    image = read_image(case / "x" / "0001.png")
    write_image(case / "x" / "0001.png", (image >> 8) * 257)  # the same image in 8 bits is known
    run_here(SCRIPT, CASES=tmp_path, FILTERS=["O", "A", "B", "C", "D"], SHAPES=[""])
    for letter in "OABCD":
        found = read_image(case / f"x_{letter}" / "0001.png")
        expected = reference_filter(letter, (image >> 8).astype(np.uint8)) * 257.0
        assert found.dtype == np.uint16 and np.abs(found - expected).mean() < 2 * 257


def test_cases_with_jpeg_files_go_through_all_steps(tmp_path):
    """As AIS has them: soft masks are cut at 127, and the variants are found, with masks of 0 and 255."""
    for number in (1, 2):
        for name in ("0001", "0002"):
            for side, picture in zip("xy", disc_slice(24, 10 * number + int(name)), strict=True):
                write_image(tmp_path / "cases" / f"case{number}" / side / f"{name}.jpg", picture)
    soft = read_image(tmp_path / "cases" / "case1" / "y" / "0001.jpg")
    assert len(np.unique(soft)) > 2
    assert np.array_equal(read_mask(tmp_path / "cases" / "case1" / "y" / "0001.jpg"), np.where(soft > 127, 255, 0))
    run_here(SCRIPT, CASES=tmp_path / "cases", FILTERS=["O", "A"], SHAPES=["", "RTP"])
    run_here(
        "preprocess/2_write_lists.py",
        CASES=tmp_path / "cases",
        LISTS=tmp_path / "lists",
        VALIDATION_SHARE=0.5,
        TEST_SHARE=0,
    )
    run_here("preprocess/3_pack_hdf5.py", LISTS=tmp_path / "lists", PACKED=tmp_path / "packed")
    with h5py.File(tmp_path / "packed" / "train.h5") as file:
        assert len(file["x"]) == 8 and set(np.unique(file["y"])) == {0, 255} and file.attrs["classes"] == 1
    numbers = tmp_path / "cases" / "case1" / "y" / "0001.jpg"
    write_image(numbers, np.where(soft > 127, 2, 0).astype(np.uint8))
    assert_refused(SCRIPT, "0001.jpg: class numbers in a JPEG file are not exact", CASES=tmp_path / "cases")


@pytest.mark.parametrize(("trim", "axis"), [(5, 0), (-5, 1)])
def test_trimming_blacks_out_two_sides(tmp_path, trim, axis):
    make_cases(tmp_path, cases=1, slices=1, size=64)
    run_here(SCRIPT, CASES=tmp_path, FILTERS=["O"], SHAPES=[""], TRIM=trim)
    image = read_image(tmp_path / "case01" / "x_O" / "0001.png")
    lines = np.moveaxis(image, axis, 0)
    assert not lines[:5].any() and not lines[-5:].any() and lines[5].any() and lines[-6].any()


def test_again_replaces_only_folders_that_it_made(tmp_path):
    case = make_cases(tmp_path, cases=1, slices=1, size=64) / "case01"
    run_here(SCRIPT, CASES=tmp_path, FILTERS=["O", "C"], SHAPES=["", "HT"])
    (case / "x_mine").mkdir()
    run_here(SCRIPT, CASES=tmp_path, FILTERS=["O"], SHAPES=[""])
    assert sorted(p.name for p in case.iterdir() if p.is_dir()) == ["x", "x_O", "x_mine", "y", "y_O"]
    (case / "x_B").mkdir()
    (case / "x_B" / "mine.png").write_bytes(b"")
    assert_refused(SCRIPT, "x_B", "not made by this toolkit", CASES=tmp_path, FILTERS=["B"])
    assert (case / "x_O" / "0001.png").exists()


def test_bad_input(tmp_path):
    make_cases(tmp_path / "cases", cases=2, slices=2, size=64)
    cases = tmp_path / "cases"
    assert_refused(SCRIPT, "FILTERS", "(found ['E'])", status=2, CASES=cases, FILTERS=["E"])
    assert_refused(SCRIPT, "SHAPES", "at least 1", status=2, CASES=cases, SHAPES=[])
    assert_refused(SCRIPT, "contains no case folder", CASES=tmp_path / "cases" / "case01" / "x")
    assert_refused(SCRIPT, "too small for PART_MARGIN or TRIM (found 64x64)", CASES=cases, TRIM=40)
    bad = cases / "case02" / "x" / "0002.png"
    bad.write_bytes(bad.read_bytes()[:-30])
    assert_refused(SCRIPT, bad, "cut short", CASES=cases)
    write_image(bad, disc_slice(32, 1)[0])
    assert_refused(SCRIPT, bad, "size differs from its mask", "(found 32x32 and 64x64)", CASES=cases)
    bad.unlink()
    assert_refused(SCRIPT, "0002.png: no image in", CASES=cases)
    assert sorted(path.name for path in (cases / "case01").iterdir()) == ["x", "y"]
    assert not leftovers(tmp_path)


def test_variants_older_than_their_slices_are_refused_and_system_files_are_not(tmp_path):
    case = make_cases(tmp_path, cases=1, slices=2, size=32) / "case01"
    settings = {"CASES": tmp_path, "FILTERS": ["O"], "SHAPES": [""], "PART_MARGIN": 2}
    run_here(SCRIPT, **settings)
    for folder in ("x", "x_O", "y_O"):
        (case / folder / ".DS_Store").write_text("x")
        (case / folder / "Thumbs.db").write_text("x")
    assert find_variants(case) == [("x_O", "y_O")]
    for changed in ("x/0002.png", "y/0001.png"):
        good = (case / changed).read_bytes()
        write_image(case / changed, 255 - read_image(case / changed))
        with pytest.raises(InputError, match=rf"variants are older .*{changed[2:6]}.*run 1_augment_cases.py again"):
            find_variants(case)
        (case / changed).write_bytes(good)
    assert find_variants(case)
    (case / "y_O" / "0001.png").unlink()
    with pytest.raises(InputError, match="y_O: its slices differ"):
        find_variants(case)

"""data/make_sample.py, run as a user runs it."""

import json

import cv2
import numpy as np
import pytest
from running import assert_refused, run_here, run_script

from common.manifest import MANIFEST

SCRIPT = "data/make_sample.py"
SMALL = {"COUNT": 2, "SLICES": 6, "SIZE": 64}


def make(root, run=run_here, **settings):
    return run(SCRIPT, CASES=root, **settings).stdout.splitlines()


def files_of(root):
    """Content of every file but the manifest, which lists them."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.name != MANIFEST]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The data set that the script makes by default: its folder, and what was printed."""
    root = tmp_path_factory.mktemp("data") / "sample"
    return root, make(root, run_script)


@pytest.fixture(scope="module")
def pictures(sample):
    """Images and masks, (8, 12, 200, 200) each."""
    root, _ = sample

    def read(side):
        files = sorted(root.glob(f"case*/{side}/*.png"))
        return np.array([cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in files]).reshape(8, 12, 200, 200)

    return read("x"), read("y")


def test_layout_and_records(sample):
    root, printed = sample
    names = [f"{i:04d}" for i in range(1, 13)]
    cases = [f"case{i:02d}" for i in range(1, 9)]
    pngs = {f"{case}/{side}/{name}.png" for case in cases for side in "xy" for name in names}
    assert set(files_of(root)) == pngs | {f"{case}/case.json" for case in cases}
    assert [path.name for path in root.parent.iterdir()] == ["sample"]
    assert len(printed) == 2
    assert "8 cases, 96 slices" in printed[1] and str(root) in printed[1]

    record = json.loads((root / "case03" / "case.json").read_text())
    assert record["format"] == 1 and record["size"] == 200
    assert record["source"] == "synthetic, make_sample.py, seed 1"
    assert record["spacing"] == [1.8, 1.8]
    assert all(record[key] is None for key in ("origin", "orientation", "window", "fit", "mask_values"))
    assert list(record["slices"]) == names
    assert record["slices"]["0001"] == {
        "image": None,
        "mask": None,
        "image_size": [200, 200],
        "box": [0, 0, 200, 200],
    }


def test_images_are_gray_and_masks_hold_0_and_255(pictures):
    images, masks = pictures
    assert images.dtype == masks.dtype == np.uint8
    assert set(np.unique(masks)) == {0, 255}
    assert images.min() == 0 and images.max() == 255


def test_every_case_begins_and_ends_without_heart(pictures):
    area = (pictures[1] > 0).sum((2, 3))
    assert not area[:, 0].any() and not area[:, -1].any()
    assert ((area > 0).sum(1) >= 6).all()
    assert (np.ptp(area[:, 4:8], axis=1) > 0).all()
    assert len(set(area[:, 6])) == 8


def test_no_threshold_and_no_band_of_gray_values_finds_the_heart(pictures):
    images, masks = pictures
    heart = masks > 0
    in_heart = np.cumsum(np.bincount(images[heart], minlength=256))
    anywhere = np.cumsum(np.bincount(images.ravel(), minlength=256))
    best = 0
    for below_band in range(-1, 255):  # -1: the band begins at gray value 0, as "below a threshold" does
        both, band = (
            sums[below_band + 1 :] - (sums[below_band] if below_band >= 0 else 0) for sums in (in_heart, anywhere)
        )
        best = max(best, (2 * both / (band + heart.sum())).max())
    assert best < 0.6


def test_heart_is_as_bright_as_what_is_around_it(pictures):
    images, masks = pictures
    for image, mask in zip(images.reshape(-1, 200, 200), masks.reshape(-1, 200, 200), strict=True):
        if not mask.any():
            continue
        level = np.median(image[mask > 0])
        alike = (np.abs(image.astype(int) - level) < 20) & (mask == 0)
        assert alike.sum() > 0.5 * (mask > 0).sum()


def test_same_seed_gives_same_bytes(tmp_path):
    for name, settings in {"a": {}, "b": {}, "other": {"SEED": 2}, "more": {"COUNT": 3}}.items():
        make(tmp_path / name, **(SMALL | settings))
    a, b, other, more = (files_of(tmp_path / name) for name in ("a", "b", "other", "more"))
    assert a == b
    assert a["case01/x/0003.png"] != other["case01/x/0003.png"]
    assert a["case01/y/0003.png"] != a["case02/y/0003.png"]
    assert a.items() <= more.items()


def test_replaces_its_own_data_set_only_when_told(tmp_path):
    root = tmp_path / "sample"
    make(root, **SMALL)
    before = files_of(root)
    assert_refused(SCRIPT, root, "--replace", CASES=root, SEED=2, **SMALL)
    assert files_of(root) == before
    make(root, SEED=2, REPLACE=True, **SMALL)
    assert files_of(root) != before
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", "mine"),
        ("case01/x/0001.png", "mine"),
        ("case01/case.json", '{"source": "pictures of the user"}'),
        ("case01/case.json", "[1]"),
    ],
)
def test_never_replaces_a_folder_of_the_user(tmp_path, name, content):
    file = tmp_path / "mine" / name
    file.parent.mkdir(parents=True)
    file.write_text(content)
    before = files_of(tmp_path)
    assert_refused(
        SCRIPT, tmp_path / "mine", "not made by this toolkit", CASES=tmp_path / "mine", REPLACE=True, **SMALL
    )
    assert files_of(tmp_path) == before


def test_never_replaces_a_case_that_the_user_added(tmp_path):
    root = tmp_path / "sample"
    make(root, **SMALL)
    (root / "case_of_mine" / "x").mkdir(parents=True)
    before = files_of(root)
    assert_refused(SCRIPT, root, "no script made", CASES=root, REPLACE=True, **SMALL)
    assert files_of(root) == before and (root / "case_of_mine" / "x").is_dir()


@pytest.mark.parametrize(
    ("settings", "words", "status"),
    [
        ({"COUNT": 0}, ("COUNT", "(found 0)", "1 to 99"), 2),
        ({"SLICES": 5}, ("SLICES", "(found 5)", "6 to 99"), 2),
        ({"SIZE": 513}, ("SIZE", "(found 513)", "64 to 512"), 2),
        ({"SEED": -1}, ("SEED", "(found -1)"), 2),
        ({"CASES": ""}, ("CASES", "(found '')"), 2),
        ({"COUNT": "many"}, ("COUNT", "'many'"), 2),
        ({"SLICE": 12}, ("--slice", "--slices"), 2),
    ],
)
def test_bad_settings_end_with_one_message(tmp_path, settings, words, status):
    message = assert_refused(SCRIPT, *words, status=status, **({"CASES": tmp_path / "sample"} | settings))
    assert len(message.splitlines()) == 1
    assert not any(tmp_path.iterdir())

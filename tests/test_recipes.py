"""The recipes of docs/recipes/, each run as written on small drawn data, but for smaller networks and fewer epochs."""

import shutil

import drawings
import numpy as np
import pandas as pd
import pytest
from drawings import assert_same_geometry
from running import ROOT, leftovers, run_here

from common.prediction.outputs import find_crop
from common.slices.images import read_image
from common.volumes.reading import read_volume

SMALL = {
    "0_import_images.py": ["--size", "32"],
    "0_import_nodules.py": ["--size", "48"],
    "0_import_matrices.py": ["--size", "48"],
    "0_import_volumes.py": ["--size", "32"],
    "pseudo_label.py": ["--confidence", "0.5", "--smallest", "1", "--threshold", "0"],
    "train.py": ["--epochs", "2", "--model-settings", "{'features': 4, 'depth': 2, 'dropout': 0}"],
}


@pytest.fixture
def cook(tmp_path, monkeypatch):
    """Function that runs the commands of a page in `tmp_path`; the last value of a flag counts."""
    monkeypatch.chdir(tmp_path)

    def run(page):
        for _, script, *flags in drawings.commands_of(page):
            run_here(script, *flags, *SMALL.get(script.split("/")[-1], []))
        assert not leftovers(tmp_path)

    return run


def test_head_and_neck(tmp_path, cook):
    drawings.head_and_neck(tmp_path / "head_neck", pictures=(4, 2, 2), shape=(96, 128), crop=66)
    cook("head_and_neck.md")
    predictions, full = tmp_path / "head_neck" / "predictions", tmp_path / "head_neck" / "full"
    names = [path.stem for path in sorted((tmp_path / "head_neck" / "data" / "test" / "image").iterdir())]
    for name in names:
        crop = read_image(tmp_path / "head_neck" / "data" / "test" / "image" / f"{name}.tif")
        left, top = find_crop(crop, read_image(full / f"{name}.png"))
        whole, mask = (read_image(folder / f"{name}.png") for folder in (predictions / "full", predictions))
        np.testing.assert_array_equal(whole[top : top + 66, left : left + 66], mask)
        assert whole.shape == (96, 128) and whole.sum() == mask.sum()
    areas = pd.read_csv(predictions / "full" / "areas.csv")
    assert list(areas["image"]) == [f"{name}.png" for name in names]
    assert (tmp_path / "head_neck" / "scores" / "scores.csv").is_file()


@pytest.mark.slow
def test_nodules(tmp_path, cook):
    drawings.lung_scans(tmp_path / "luna", train=4, test=1, shape=(10, 64, 64), pixel=5.5)
    cook("nodules.md")
    (scan,) = (tmp_path / "luna" / "test").glob("*.mhd")
    labels = read_volume(tmp_path / "luna" / "predictions" / f"case_{scan.stem}.nii.gz")
    assert_same_geometry(labels, read_volume(scan), 1e-4)
    found = pd.read_csv(tmp_path / "luna" / "nodules.csv", dtype={"seriesuid": str})
    columns = ["seriesuid", "coordX", "coordY", "coordZ", "probability", "diameter_mm"]
    assert list(found.columns) == [*columns, "mean_probability", "max_probability"]
    assert set(found["seriesuid"]) <= {scan.stem}
    assert len(pd.read_csv(tmp_path / "luna" / "run_lengths.csv")) == 10


@pytest.mark.slow
def test_muscle(tmp_path, cook):
    drawings.muscle(tmp_path / "muscle", slices=8, side=64)
    cook("muscle.md")
    assert len(list((tmp_path / "muscle" / "predictions").rglob("0001.png"))) == 2 * 2  # masks and overlays
    assert len(pd.read_csv(tmp_path / "muscle" / "scores" / "scores.csv")) == 2


@pytest.mark.slow
def test_pseudo_labels(tmp_path, cook):
    cases = drawings.make_cases(tmp_path / "drawn", cases=5, slices=2, size=32)
    for case in sorted(cases.glob("[!.]*")):
        (tmp_path / "my_data" / "images" / case.name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(case / "x", tmp_path / "my_data" / "images" / case.name)
        shutil.copytree(case / "y", tmp_path / "my_data" / "masks" / case.name)
    drawings.write_image(tmp_path / "my_data" / "new" / "1.png", drawings.disc_slice(40, 7)[0])
    cook("pseudo_labels.md")
    assert "pseudo_" in (tmp_path / "data" / "lists_pseudo" / "train.csv").read_text()
    assert len(list((tmp_path / "runs_pseudo").glob("[!.]*"))) == 1


@pytest.mark.slow
def test_spinal_cord(tmp_path, cook):
    """Columns that are brighter than their surroundings on one volume, and darker on the next one."""
    row, column = np.indices((20, 24)) - np.reshape([10, 12], (2, 1, 1))
    cord = np.broadcast_to(np.hypot(row, column) < 5, (10, 20, 24)).astype(np.uint8)
    rng = np.random.default_rng(0)
    for name, inside, label in (("t1w", 500, "cord"), ("t2", 100, "cord"), ("t2s", 150, "gray_matter")):
        values = np.where(cord, inside, 300) + rng.normal(0, 20, cord.shape)
        for ending, array in (("", values.astype(np.int16)), (f"_{label}", cord)):
            image = drawings.as_volume(array, np.eye(3), spacing=(1, 1, 2))
            drawings.write(tmp_path / "spinal_cord", f"{name}{ending}.nii.gz", image)
    cook("spinal_cord.md")
    for name, run in (("t2", "t2w_by_t1w"), ("t1w", "t1w_by_t2w"), ("t2s", "t2s")):
        (labels,) = (tmp_path / "cord" / run).glob("*.nii.gz")
        assert_same_geometry(read_volume(labels), read_volume(tmp_path / "spinal_cord" / f"{name}.nii.gz"), 1e-4)
        assert len(pd.read_csv(tmp_path / "cord" / f"scores_{run}" / "scores.csv")) == 1


def test_a_crop_is_found_by_its_pixels():
    picture = np.random.default_rng(0).integers(0, 65536, (60, 90)).astype(np.uint16)
    for left, top in ((0, 0), (70, 47), (31, 12)):
        crop = picture[top : top + 13, left : left + 20]
        assert find_crop(crop, picture) == (left, top)
        noisy = np.clip(crop + np.random.default_rng(1).normal(0, 300, crop.shape), 0, 65535)
        assert find_crop(noisy, picture) == (left, top)
    assert find_crop(picture[::-1, ::-1][:20, :20], picture) is None
    assert find_crop(picture, picture[:20]) is None


@pytest.mark.parametrize("page", ["head_and_neck.md", "nodules.md", "muscle.md", "pseudo_labels.md", "spinal_cord.md"])
def test_the_readme_names_the_recipe(page):
    assert f"docs/recipes/{page}" in (ROOT / "README.md").read_text(encoding="utf-8")

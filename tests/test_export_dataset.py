"""export_dataset.py: the layout of nnU-Net v2 with the same pixels, masks, geometry and split."""

import json

import numpy as np
import pandas as pd
import pytest
from drawings import as_volume, block, make_cases, masks_of, write
from running import assert_refused, leftovers, run_here

sitk = pytest.importorskip("SimpleITK")
from common.slices.images import read_image, write_png
from common.slices.nnunet import read_nnunet
from common.volumes.grids import Geometry
from common.volumes.reading import read_volume
from common.volumes.slicing import PLANES

SCRIPT = "export_dataset.py"
NAME = "Dataset007_Test"


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("classes", [1, 2])
def test_slices_and_folds(tmp_path, classes):
    cases = make_cases(tmp_path / "cases", cases=5, slices=2, classes=classes)
    run_here("preprocess/1_augment_cases.py", CASES=cases, FILTERS=["O"], SHAPES=["RTP"])
    run_here("preprocess/2_write_lists.py", CASES=cases, LISTS=tmp_path / "lists", FOLDS=2, TEST_SHARE=0.2)
    output = tmp_path / "raw" / NAME
    said = run_here(SCRIPT, LISTS=tmp_path / "lists", OUTPUT=output).stdout
    assert "wrote 8 training cases, 2 test cases, 2 splits" in said and "skipped 8 variants" in said
    content = json.loads((output / "dataset.json").read_text())
    labels = {"background": 0} | {f"class{number}": number for number in range(1, classes + 1)}
    assert content == {"channel_names": {"0": "gray"}, "labels": labels, "numTraining": 8, "file_ending": ".png"}
    splits = json.loads((output / "splits_final.json").read_text())
    for fold, split in enumerate(splits, 1):
        for name, ours in (("train", "train"), ("validation", "val")):
            table = pd.read_csv(tmp_path / "lists" / f"fold{fold}" / f"{name}.csv")
            listed = {f"{case}_{x[-8:-4]}" for case, x in zip(table["case"], table["x"], strict=True)}
            assert set(split[ours]) == listed and len(split[ours]) == len(listed)
    data = read_nnunet(output)
    assert set(data.cases) == {*splits[0]["train"], *splits[0]["val"]} and data.is_2d
    testing = {name.removesuffix(".png") for name in names_in(output / "labelsTs")}
    assert len(testing) == 2 and not testing & set(data.cases)
    assert names_in(output / "imagesTs") == sorted(f"{name}_0000.png" for name in testing)
    for name in (*data.cases, *testing):
        case, number = name.rsplit("_", 1)
        side = "Ts" if name in testing else "Tr"
        source = [read_image(cases / case / folder / f"{number}.png") for folder in "xy"]
        image, mask = output / f"images{side}" / f"{name}_0000.png", output / f"labels{side}" / f"{name}.png"
        np.testing.assert_array_equal(read_image(image), source[0])
        np.testing.assert_array_equal(read_image(mask), np.where(source[1] == 255, 1, source[1]))
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("plane", PLANES)
def test_slices_of_volumes_become_volumes_in_their_place(tmp_path, plane):
    values, labels = block((10, 14, 12), labels=2)
    for name in ("a", "b", "c"):
        write(tmp_path / "i", f"{name}.nrrd", as_volume(values + (name == "b")))
        write(tmp_path / "l", f"{name}.nrrd", as_volume(labels))
    places = {"CASES": tmp_path / "cases", "LABELS": tmp_path / "l"}
    run_here("preprocess/0_import_volumes.py", IMAGES=tmp_path / "i", SIZE=16, PLANE=plane, BITS=16, **places)
    lists = {"VALIDATION_CASES": ["case_b"], "TEST_SHARE": 0, "SAME_SLICES": "report"}
    run_here("preprocess/2_write_lists.py", CASES=tmp_path / "cases", LISTS=tmp_path / "lists", **lists)
    output = tmp_path / NAME
    settings = {"LISTS": tmp_path / "lists", "OUTPUT": output, "CHANNEL": "CT", "CLASS_NAMES": ["liver", "tumor"]}
    run_here(SCRIPT, **settings)
    assert json.loads((output / "splits_final.json").read_text()) == [
        {"train": ["case_a", "case_c"], "val": ["case_b"]}
    ]
    data = read_nnunet(output)
    assert data.channels == ["CT"] and data.labels == {1: "liver", 2: "tumor"} and data.ending == ".nii.gz"
    assert not (output / "imagesTs").exists()
    truth = sitk.GetArrayFromImage(read_volume(tmp_path / "l" / "a.nrrd"))
    grid = Geometry.of(as_volume(labels))
    (image,), label = data.cases["case_a"]
    for path, source in ((label, truth), (image, values)):
        volume = read_volume(path)
        array, geometry = sitk.GetArrayFromImage(volume), Geometry.of(volume)
        voxels = np.argwhere(np.ones(truth.shape, bool))[:, ::-1]
        there = geometry.to_voxels(grid.to_points(voxels))
        np.testing.assert_allclose(there, np.rint(there), atol=1e-3)
        found = array[tuple(np.rint(there).astype(int).T[::-1])].reshape(truth.shape)
        if path == label:
            np.testing.assert_array_equal(found, source)
            assert np.count_nonzero(array) == np.count_nonzero(source)
        else:
            assert np.corrcoef(found.ravel(), source.ravel())[0, 1] > 0.99
    again = {"IMAGES": output, "CASES": tmp_path / "again", "SIZE": 16, "PLANE": plane}
    run_here("preprocess/0_import_volumes.py", **again)
    counts = []
    for folder in (tmp_path / "cases" / "case_a", tmp_path / "again" / "case_a"):
        masks = np.stack(list(masks_of(folder).values()))
        counts.append([np.count_nonzero(masks == number) for number in (1, 2)])
    assert counts[0] == counts[1]


def test_what_is_refused(tmp_path):
    cases = make_cases(tmp_path / "cases", cases=3, slices=2)
    run_here("preprocess/2_write_lists.py", CASES=cases, LISTS=tmp_path / "lists", TEST_SHARE=0)
    settings = {"LISTS": tmp_path / "lists", "OUTPUT": tmp_path / NAME}
    assert_refused(SCRIPT, "cases are no volumes", "not from a volume", KIND="volumes", **settings)
    assert_refused(SCRIPT, "OUTPUT: expected a folder whose name", status=2, **settings | {"OUTPUT": tmp_path / "raw"})
    for names in ([], ["background"], ["ignore"]):
        assert_refused(SCRIPT, "CLASS_NAMES: expected 1 different name", status=2, CLASS_NAMES=names, **settings)
    assert_refused(SCRIPT, "contains no train.csv", **settings | {"LISTS": cases})
    mask = next((cases / "case01" / "y").iterdir())
    write_png(mask, np.full((24, 24), 7, np.uint8))
    assert_refused(SCRIPT, str(mask), **settings)
    assert not (tmp_path / NAME).exists() and not leftovers(tmp_path)
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "mine.txt").write_text("text")
    assert_refused(SCRIPT, "exists", **settings)

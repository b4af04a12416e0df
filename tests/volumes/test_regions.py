"""REGIONS of label volumes: classes of several labels, from packing to scores."""

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from dicom_labels import write_seg_nrrd
from drawings import as_volume, write, write_decathlon, write_nnunet
from running import assert_refused, run_here

from common.files import write_json
from common.slices import classes as c
from common.training.sets import open_set
from common.volumes.grids import Geometry

PACK = "preprocess/3_pack_volumes.py"
CROSSED = {"whole": [1, 2, 3], "core": [1, 3], "edge": [2, 3]}  # neither of the last two includes the other
TUMOR = {"whole": [1, 2, 3], "core": [1, 3], "active": [3]}  # as in BraTS: nested, but not in the order of the labels
KEPT = {"STEP": "single", "SPACING": None, "VOXELS": None, "INTENSITY": "mr"}


def draw_labels(seed=0):
    """Four labels in blocks, (k, j, i) uint8."""
    return np.kron(np.random.default_rng(seed).integers(0, 4, (3, 6, 6)), np.ones((4, 4, 4), int)).astype(np.uint8)


def write_labels(root, cases=3):
    """Volumes and label volumes; dict of name to labels."""
    made = {f"v{number}": draw_labels(number) for number in range(cases)}
    for name, labels in made.items():
        write(root / "images", f"{name}.nii.gz", as_volume(labels.astype(np.int16) * 100, np.eye(3), (1.0, 1.0, 1.0)))
        write(root / "labels", f"{name}.nii.gz", as_volume(labels, np.eye(3), (1.0, 1.0, 1.0)))
    return made


def write_named(path):
    """Segments with names."""
    labels = draw_labels()
    write_seg_nrrd(path, [labels], Geometry.of(as_volume(labels)), [("whole", 1, 0), ("core", 3, 0)])


def masks_of(labels, regions):
    return [np.isin(labels, numbers) for numbers in regions.values()]


@pytest.mark.parametrize("regions", [CROSSED, TUMOR])
def test_packed_volumes_have_the_regions(tmp_path, regions):
    made = write_labels(tmp_path)
    given = KEPT | {"IMAGES": tmp_path / "images", "LABELS": tmp_path / "labels"}
    said = run_here(PACK, PACKED=tmp_path / "packed", REGIONS=regions, **given).stdout
    overlap = c.NESTED if regions is TUMOR else c.OVERLAPPING
    assert f"{overlap} classes: 1 whole, 2 core, 3 {list(regions)[2]}" in said
    for name in ("train", "validation"):
        volumes = open_set(tmp_path / "packed" / f"{name}.h5")
        assert volumes.labels == list(regions) and volumes.record().sharing == overlap
        assert volumes.record().regions == regions
        for i, case in enumerate(volumes.names):
            expected = np.stack(masks_of(made[case], regions), axis=-1)
            _, y = volumes.batches(1).batch(i)
            np.testing.assert_array_equal(y[0], expected)
    mapped = {10 * number: number for number in range(1, 4)}
    for case, labels in made.items():
        write(tmp_path / "tens", f"{case}.nii.gz", as_volume(labels * np.uint8(10), np.eye(3), (1.0, 1.0, 1.0)))
    how = {"PACKED": tmp_path / "mapped", "LABEL_VALUES": mapped, "REGIONS": regions}
    run_here(PACK, **given | {"LABELS": tmp_path / "tens"} | how)
    same = open_set(tmp_path / "mapped" / f"{name}.h5")
    np.testing.assert_array_equal(same.shown_volume(0)[1], volumes.shown_volume(0)[1])
    assert same.record().regions == {}, "the numbers in the files are others"


@pytest.mark.parametrize("write_data", [write_decathlon, write_nnunet])
def test_regions_of_data_sets(tmp_path, write_data):
    """Set for the Decathlon; nnU-Net has them in its dataset.json."""
    regions = {"all": [1, 2], "lesion": [2]}
    of_file = {} if write_data is write_decathlon else {"labels": {"background": 0} | regions, "channels": ["CT"]}
    write_data(tmp_path / "data", cases=3, **of_file)
    given = {"DATA": tmp_path / "data", "STEP": "single", "SPACING": 3.0, "VOXELS": 5000}
    run_here(PACK, PACKED=tmp_path / "regions", **given, **({} if of_file else {"REGIONS": regions}))
    given |= {"LABEL_VALUES": {1: 1, 2: 2}, "NESTED": True}
    run_here(PACK, PACKED=tmp_path / "nested", **given)
    found, expected = (open_set(tmp_path / name / "train.h5") for name in ("regions", "nested"))
    assert found.labels == ["all", "lesion"] and found.overlap == expected.overlap == c.NESTED
    for ours, theirs in zip(found.shown_volume(0), expected.shown_volume(0), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    run_here(PACK, PACKED=tmp_path / "whole", **given | {"NESTED": False, "STEP": "whole"}, REGIONS=regions)
    whole = open_set(tmp_path / "whole" / "train.h5")
    assert not whole.overlapping and whole.record().regions == {}


def test_a_region_that_is_never_alone_is_there_and_one_without_a_voxel_is_refused(tmp_path):
    """The rule of gray values needs all labels read; the outer region has no label of its own."""
    for name, labels in write_labels(tmp_path).items():
        only_core = np.where(labels == 3, 3, 0).astype(np.uint8)
        noise = np.random.default_rng(0).integers(0, 300, labels.shape).astype(np.int16)
        for folder, values in (("cores", only_core), ("images", noise)):
            write(tmp_path / folder, f"{name}.nii.gz", as_volume(values, np.eye(3), (1.0, 1.0, 1.0)))
    given = KEPT | {"IMAGES": tmp_path / "images", "LABELS": tmp_path / "cores", "INTENSITY": "ct_3sd"}
    run_here(PACK, PACKED=tmp_path / "packed", REGIONS={"whole": [1, 3], "core": [3]}, **given)
    assert open_set(tmp_path / "packed" / "train.h5").record().sharing == c.NESTED
    for regions, missing in (({"whole": [2, 3], "core": [2]}, "core"), ({"a": [3, 1], "b": [1, 2]}, "b")):
        words = f"REGIONS: no voxel of {missing} in any label volume"
        assert_refused(PACK, words, PACKED=tmp_path / "no", REGIONS=regions, **given)


def test_what_is_refused(tmp_path):
    write_labels(tmp_path)
    given = KEPT | {"IMAGES": tmp_path / "images", "LABELS": tmp_path / "labels", "PACKED": tmp_path / "no"}

    def refused(*words, status=1, **changed):
        said = assert_refused(PACK, *words, status=status, **given | {"REGIONS": TUMOR} | changed)
        assert not (tmp_path / "no").exists()
        return said

    refused("3 volumes cannot be packed", "numbers in no region of REGIONS (found 2)", REGIONS={"a": [1, 3], "b": [3]})
    refused("REGIONS: expected 2 to 15 regions (found 1)", REGIONS={"a": [1, 2, 3]})
    refused("REGIONS: set together with NESTED; remove one of them", status=2, NESTED=True)
    refused("REGIONS: set together with CLASSES; remove one of them", status=2, CLASSES=["a"])
    refused("REGIONS", status=2, REGIONS="nested")
    for number in range(3):
        write_named(tmp_path / "named" / f"v{number}.seg.nrrd")
    words = "REGIONS: for label volumes of numbers (found segments with names); remove it"
    refused(words, status=2, LABELS=tmp_path / "named")
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    write_nnunet(tmp_path / "nnunet", labels=labels)
    data = {"DATA": tmp_path / "nnunet", "IMAGES": "", "LABELS": "", "REGIONS": None}
    refused("labels to ignore are not supported (found 3); use --label-values", **data)


def dice_of(predicted, truth):
    return [2 * (p & t).sum() / (p.sum() + t.sum()) for p, t in zip(predicted, truth, strict=True)]


@pytest.mark.parametrize("regions", [CROSSED, TUMOR])
@pytest.mark.parametrize("writer", ["predict.py", "another program"])
def test_scores_of_regions(tmp_path, regions, writer):
    """TRUTH has the labels as they were packed; PREDICTED classes of predict.py, or the same labels."""
    truth, predicted = draw_labels(0), np.roll(draw_labels(0), 2, axis=1)
    write(tmp_path / "truth", "a.nii.gz", as_volume(truth))
    masks = masks_of(predicted, regions)
    if writer == "predict.py":
        overlap = c.NESTED if regions is TUMOR else c.OVERLAPPING
        write_json(tmp_path / "out" / "prediction.json", {"overlap": overlap, "class_names": list(regions)})
        for name, mask in zip(regions, masks, strict=True):
            write(tmp_path / "out", f"case_a_{name}.nii.gz", as_volume(mask.astype(np.uint8)))
        if overlap == c.NESTED:
            write(tmp_path / "out", "case_a.nii.gz", as_volume(sum(mask.astype(np.uint8) for mask in masks)))
    else:
        write(tmp_path / "out", "a.nii.gz", as_volume(predicted))
    given = {"PREDICTED": tmp_path / "out", "TRUTH": tmp_path / "truth", "OUTPUT": tmp_path / "scores"}
    run_here("evaluate.py", REGIONS=regions, **given)
    found = pd.read_csv(tmp_path / "scores" / "cases.csv").set_index("class")["dice"]
    np.testing.assert_allclose(found, dice_of(masks, masks_of(truth, regions)), rtol=1e-12)
    again = given | {"OUTPUT": tmp_path / "no"}
    if writer == "predict.py":
        record = {"overlap": overlap, "class_names": list(regions), "regions": regions}
        write_json(tmp_path / "out" / "prediction.json", record)
        said = run_here("evaluate.py", **given | {"OUTPUT": tmp_path / "recorded"}).stdout
        assert "TRUTH: regions of labels, as the model was trained on ({'whole': [1, 2, 3]" in said
        table = pd.read_csv(tmp_path / "recorded" / "cases.csv").set_index("class")["dice"]
        np.testing.assert_array_equal(table, found)
        turned = dict(reversed(regions.items()))
        words = f"REGIONS: PREDICTED has other classes (found {', '.join(turned)}; expected whole, core"
        assert len(assert_refused("evaluate.py", words, status=2, **again, REGIONS=turned).splitlines()) == 1
    write(tmp_path / "slices", "a.png", sitk.GetImageFromArray(truth[0]))
    words = "REGIONS: only for label volumes (TRUTH is images)"
    assert_refused("evaluate.py", words, REGIONS=regions, **again | {"TRUTH": tmp_path / "slices"})
    write_named(tmp_path / "named" / "a.seg.nrrd")
    words = "REGIONS: for label volumes of numbers (found segments with names in TRUTH)"
    assert_refused("evaluate.py", words, status=2, REGIONS=regions, **again | {"TRUTH": tmp_path / "named"})
    assert not (tmp_path / "no").exists()


def test_a_folder_for_each_case_with_its_images(tmp_path):
    """As in BraTS: TRUTH contains label volumes next to the volumes, in a folder of each case."""
    truth = draw_labels()
    for name in ("a", "b"):
        write(tmp_path / "brats" / name, f"{name}_seg.nii.gz", as_volume(truth))
        write(tmp_path / "brats" / name, f"{name}_flair.nii.gz", as_volume(truth.astype(np.int16) * 100))
        write(tmp_path / "out", f"case_{name}_{name}.nii.gz", as_volume(np.roll(truth, 1, axis=1)))
    given = {"PREDICTED": tmp_path / "out", "TRUTH": tmp_path / "brats", "LABEL_NAME": "{id}_seg"}
    said = run_here("evaluate.py", OUTPUT=tmp_path / "scores", REGIONS=TUMOR, **given).stdout
    assert "TRUTH: skipped 2 files without the name of a label volume, {id}_seg (a_a_flair, b_b_flair)" in said
    table = pd.read_csv(tmp_path / "scores" / "cases.csv").set_index("case")
    expected = dice_of(masks_of(np.roll(truth, 1, axis=1), TUMOR), masks_of(truth, TUMOR))
    for name in ("a_a", "b_b"):
        np.testing.assert_allclose(table.loc[name, "dice"], expected, rtol=1e-12)
    (tmp_path / "out" / "case_b_b.nii.gz").unlink()
    assert_refused("evaluate.py", "b_seg.nii.gz: no predicted mask", OUTPUT=tmp_path / "no", **given)

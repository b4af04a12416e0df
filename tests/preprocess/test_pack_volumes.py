"""3_pack_volumes.py: what it packs and refuses; and data/make_volumes.py."""

import json
import shutil

import h5py
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_labels import draw_series, sources, write_seg, write_seg_nrrd
from drawings import STRAIGHT, TURNED, ball, write_decathlon, write_nnunet
from running import assert_refused, bytes_of, leftovers, lines_of, run_here, run_script

from common.prediction.volume_networks import Stage
from common.slices.hdf5_text import text_of
from common.training.sets import open_set
from common.training.trained_models import VolumeModels
from common.volumes.grids import Box, Geometry, image_at, onto_grid, orient
from common.volumes.reading import read_volume

SCRIPT = "preprocess/3_pack_volumes.py"


@pytest.fixture(scope="module")
def decathlon(tmp_path_factory):
    return write_decathlon(tmp_path_factory.mktemp("decathlon"), cases=5)


def pack(data, packed, **settings):
    return run_here(SCRIPT, DATA=data, PACKED=packed, **settings)


def cases_of(file):
    with h5py.File(file) as packed:
        return list(packed["cases"])


def geometry_of(group, name):
    return Geometry(**{field: tuple(values) for field, values in json.loads(group.attrs[name]).items()})


# --- what is packed


@pytest.mark.parametrize("direction", [STRAIGHT, TURNED])
def test_labels_come_back_onto_their_own_grid(tmp_path, direction):
    """From 0.8 x 0.8 x 2.5 mm to 1 mm and back."""
    size, spacing = (120, 110, 44), (0.8, 0.8, 2.5)
    labels = ball(size[::-1], (60, 55, 22), 34, spacing).astype(np.uint8)
    labels[ball(size[::-1], (75, 60, 24), 15, spacing)] = 2
    place = Geometry(size, spacing, (-31.7, 12.25, 804.5), direction)
    image = np.array([-100, 40, 90], np.int16)[labels]
    for folder, volume in (("images", image), ("labels", labels)):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            sitk.WriteImage(image_at(volume, place), str(tmp_path / folder / f"{name}.nii.gz"))
    settings = {"IMAGES": tmp_path / "images", "LABELS": tmp_path / "labels", "PACKED": tmp_path / "packed"}
    run_here(SCRIPT, **settings, STEP="single", VALIDATION_SHARE=0.5, INTENSITY="ct")
    with h5py.File(tmp_path / "packed" / "cases.h5") as packed:
        group = packed["cases/a"]
        grid, original = geometry_of(group, "grid"), geometry_of(group, "original")
        back = onto_grid(image_at(group["label"][:], grid), original, sitk.sitkLabelLinear)
        rule = json.loads(packed.attrs["intensity"])["channels"][0]
        values = image_at(group["image"][..., 0].astype(np.float32), grid)
    read = read_volume(tmp_path / "labels" / "a.nii.gz")
    for ours, theirs in zip(Geometry.of(back), Geometry.of(read), strict=True):
        assert np.allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    assert np.allclose(grid.spacing, 1)
    for number in (1, 2):
        ours, theirs = (sitk.GetArrayFromImage(v) == number for v in (back, read))
        assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) >= 0.99
    gray = sitk.GetArrayFromImage(onto_grid(values, original, sitk.sitkLinear)) * rule["sd"] + rule["mean"]
    gray = gray * (rule["high"] - rule["low"]) + rule["low"]
    inside = ball(size[::-1], (60, 55, 22), 30, spacing) & ~ball(size[::-1], (75, 60, 24), 19, spacing)
    assert np.abs(gray - image)[inside].max() < 1


def test_a_set_has_what_training_needs(decathlon, tmp_path):
    out = pack(decathlon, tmp_path / "p", STEP="whole", VOXELS=4096, VALIDATION_SHARE=0.4).stdout
    assert out.splitlines()[-1].startswith("wrote 5 volumes to ") and out.rstrip().endswith("train 3, validation 2")
    train, validation = (cases_of(tmp_path / "p" / f"{name}.h5") for name in ("train", "validation"))
    assert sorted(train + validation) == [f"case_{i:02d}" for i in range(1, 6)]
    with h5py.File(tmp_path / "p" / "train.h5") as packed:
        assert text_of(packed.attrs["step"]) == "whole" and json.loads(packed.attrs["labels"]) == ["foreground"]
        assert packed.attrs["channels"] == 1 and json.loads(packed.attrs["intensity"]) == {"kind": "volume"}
        for group in packed["cases"].values():
            image, label = group["image"][:], group["label"][:]
            assert image.dtype == np.float16 and image.shape == (*label.shape, 1) and label.dtype == np.uint8
            assert 3000 < label.size <= 4096 and set(np.unique(label)) == {0, 1}
            assert abs(image.astype(float).mean()) < 0.1 and 0.8 < image.astype(float).std() < 1.1
            box = Box(*map(tuple, group.attrs["box"]))
            outside = label.copy()
            outside[box.slices] = 0
            assert not outside.any()
            for *place, number in group["places"][:]:
                assert label[tuple(place)] == number


@pytest.mark.slow
@pytest.mark.parametrize("intensity", ["ct", "ct_3sd"])
def test_workers_pack_what_one_run_packs(scheduler, tmp_path, intensity):
    """Byte for byte and line for line: also of a volume without labels, and of files that cannot be used."""
    data = write_decathlon(tmp_path / "data", cases=6, channels=2)
    empty = sitk.ReadImage(str(data / "labelsTr" / "case_02.nii.gz")) * 0
    sitk.WriteImage(empty, str(data / "labelsTr" / "case_02.nii.gz"))
    settings = {"DATA": data, "INTENSITY": intensity, "STEP": "single", "EMPTY": "skip", "FOLDS": 2}
    results = {
        name: run_script(SCRIPT, **settings, **more, PACKED=tmp_path / name / "packed")
        for name, more in (("alone", {}), ("shared", {"WORKERS": scheduler}))
    }
    assert bytes_of(tmp_path / "shared") == bytes_of(tmp_path / "alone") and not leftovers(tmp_path)
    alone, shared = (lines_of(result, tmp_path / name) for name, result in results.items())
    assert "workers: 2 at" in results["shared"].stdout and shared == alone
    assert "skipped case_02: it contains no labels" in alone
    cut = data / "imagesTr" / "case_03.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-500])
    assert_refused(SCRIPT, "case_03.nii.gz", **settings, PACKED=tmp_path / "cut", WORKERS=scheduler)
    assert not (tmp_path / "cut").exists()


def test_a_patch_is_the_box_of_the_labels_with_its_margin(decathlon, tmp_path):
    pack(decathlon, tmp_path / "p", STEP="patch", SMALLEST_BOX=12)
    with h5py.File(tmp_path / "p" / "cases.h5") as packed:
        for name, group in packed["cases"].items():
            label, box = group["label"][:], Box(*map(tuple, group.attrs["box"]))
            assert set(np.unique(label)) == {0, 1, 2} and np.array_equal(json.loads(packed.attrs["spacing"]), [1, 1, 1])
            tight = Box.of(label)
            assert all(a <= b for a, b in zip(box.start, tight.start, strict=True))
            assert all(a >= b for a, b in zip(box.stop, tight.stop, strict=True))
            assert max(b - a for a, b in zip(tight.size, box.size, strict=True)) <= 3
            whole = np.ceil(np.array(read_volume(decathlon / "labelsTr" / f"{name}.nii.gz").GetSize()).max() * 1.6)
            for side, stored in zip(box.size, label.shape[::-1], strict=True):
                assert side < stored <= min(side + 2 * np.ceil(0.3 * side), whole)


def test_a_patch_has_about_as_many_voxels_as_are_allowed(decathlon, tmp_path):
    pack(decathlon, tmp_path / "p", STEP="patch", SMALLEST_BOX=1, VOXELS=4096, MARGIN=0.2, LARGEST_MARGIN=0.2)
    with h5py.File(tmp_path / "p" / "cases.h5") as packed:
        for group in packed["cases"].values():
            assert 0.8 * 4096 < group["label"].size <= 4096


def test_short_sides_are_enlarged_in_packing_and_prediction(tmp_path):
    data = write_decathlon(tmp_path / "data", cases=2)
    pack(data, tmp_path / "p", STEP="single", SPACING=None, SMALLEST_SIDE=26)
    packed = open_set(tmp_path / "p" / "train.h5")
    assert [min(geometry.size) for geometry in packed.geometries] == [26]
    stage = Stage(VolumeModels([], packed.record(), None), None)
    scan = read_volume(data / "imagesTr" / f"{packed.names[0]}.nii.gz")
    assert stage.working_grid(Geometry.of(orient(scan))).size == packed.geometries[0].size


def test_folds_hold_each_case_once(decathlon, tmp_path):
    pack(decathlon, tmp_path / "p", FOLDS=3, VOXELS=4096)
    seen = []
    for fold in (1, 2, 3):
        train, validation = (cases_of(tmp_path / "p" / f"fold{fold}" / f"{n}.h5") for n in ("train", "validation"))
        assert len(set(train + validation)) == 5
        seen += validation
    assert sorted(seen) == sorted(set(seen)) and len(seen) == 5
    with h5py.File(tmp_path / "p" / "fold2" / "train.h5") as packed:
        assert all(group["label"][:].any() for group in packed["cases"].values())


def test_channels_and_named_validation_cases(tmp_path):
    data = write_decathlon(tmp_path / "d", cases=3, channels=2)
    pack(data, tmp_path / "p", VALIDATION_CASES=["case_02"], STEP="single")
    assert cases_of(tmp_path / "p" / "validation.h5") == ["case_02"]
    with h5py.File(tmp_path / "p" / "train.h5") as packed:
        assert packed["cases/case_01/image"].shape[-1] == 2 and packed.attrs["channels"] == 2


def test_a_data_set_of_nnunet_has_a_file_for_each_channel(tmp_path):
    root = tmp_path / "Dataset001_Organ"
    made = write_nnunet(root, channels=["T2", "ADC"])
    pack(root, tmp_path / "p", VALIDATION_CASES=["scan_002"], STEP="single", SPACING=None, INTENSITY="mr")
    with h5py.File(tmp_path / "p" / "cases.h5") as packed:
        assert json.loads(packed.attrs["labels"]) == ["organ", "lesion"] and packed.attrs["channels"] == 2
        for name, (images, truth) in made.items():
            group = packed[f"cases/{name}"]
            np.testing.assert_array_equal(group["label"][:], sitk.GetArrayFromImage(truth))
            for i, image in enumerate(images):
                values = sitk.GetArrayFromImage(image)
                packed_values = group["image"][..., i]  # clipped at a high percentile
                expected = np.minimum((values - values.mean()) / values.std(), packed_values.max())
                np.testing.assert_allclose(packed_values, expected, atol=0.02)
    moved = made["scan_001"][0][1]
    moved.SetOrigin((0, 0, 1000))
    sitk.WriteImage(moved, str(root / "imagesTr" / "scan_001_0001.nii.gz"))
    assert_refused(SCRIPT, "scan_001_0001.nii.gz: not on the grid of", DATA=root, PACKED=tmp_path / "q", STEP="single")


def test_named_segments_are_labels(tmp_path):
    """A DICOM SEG on some slices, found by its series, and a segmentation of 3D Slicer, by its name."""
    masks = np.zeros((6, 36, 40, 2), np.uint8)
    masks[1:4, 5:20, 4:12, 0] = masks[2:5, 8:25, 15:30, 1] = 1
    image = draw_series(tmp_path / "i" / "Plant", direction=np.eye(3))
    write_seg(tmp_path / "l" / "seg", sources(tmp_path / "i" / "Plant")[1:5], masks[1:5], ["liver", "Plant tumor"])
    sitk.WriteImage(image, str(tmp_path / "i" / "b.nrrd"))
    write_seg_nrrd(tmp_path / "l" / "b.seg.nrrd", [masks[..., 1] * 4], Geometry.of(image), [("plant tumor", 4, 0)])
    settings = {"IMAGES": tmp_path / "i", "LABELS": tmp_path / "l", "STEP": "single", "SPACING": None}
    said = run_here(SCRIPT, PACKED=tmp_path / "p", VALIDATION_SHARE=0.5, **settings).stdout
    assert "classes: 1 plant tumor (in 2 of 2), 2 liver (in 1 of 2)" in said
    with h5py.File(tmp_path / "p" / "cases.h5") as packed:
        assert json.loads(packed.attrs["labels"]) == ["1", "2"], "names in files may be private"
        np.testing.assert_array_equal(packed["cases/b/label"][:], masks[..., 1])
        name = next(name for name in packed["cases"] if name != "b")
        np.testing.assert_array_equal(packed[f"cases/{name}/label"][:], masks[..., 1] + 2 * masks[..., 0])
    run_here(SCRIPT, PACKED=tmp_path / "q", CLASSES=["Plant tumor"], **settings)
    with h5py.File(tmp_path / "q" / "cases.h5") as packed:
        assert json.loads(packed.attrs["labels"]) == ["Plant tumor"]
    assert_refused(SCRIPT, "CLASSES: no segment 'x'", status=2, PACKED=tmp_path / "r", CLASSES=["x"], **settings)


def test_gray_values_of_ct_are_those_of_the_labelled_voxels(tmp_path):
    data = write_decathlon(tmp_path / "d", cases=3, modality="CT")
    pack(data, tmp_path / "p", SPACING=None)
    values = []
    for path in sorted((data / "imagesTr").iterdir()):
        image, label = (sitk.GetArrayFromImage(read_volume(p)) for p in (path, data / "labelsTr" / path.name))
        values.append(image[label > 0])
    values = np.concatenate(values)
    low, high = np.percentile(values, (0.5, 99.5))
    unit = (np.clip(values, low, high) - low) / (high - low)
    with h5py.File(tmp_path / "p" / "train.h5") as packed:
        (found,) = json.loads(packed.attrs["intensity"])["channels"]
        assert abs(found["low"] - low) <= 1 and abs(found["high"] - high) <= 1
        assert np.allclose([found["mean"], found["sd"]], [unit.mean(), unit.std()], atol=0.005)
        image = packed["cases"][next(iter(packed["cases"]))]["image"][:].astype(float)
        assert np.isclose(image.min(), -found["mean"] / found["sd"], atol=0.01)


def test_gray_values_of_ct_by_the_rule_of_the_runner_up(tmp_path):
    data = write_decathlon(tmp_path / "d", cases=3, modality="CT")
    pack(data, tmp_path / "p", SPACING=None, INTENSITY="ct_3sd")
    pairs = []
    for path in sorted((data / "imagesTr").iterdir()):
        image, label = (sitk.GetArrayFromImage(read_volume(p)) for p in (path, data / "labelsTr" / path.name))
        pairs.append((image, image[label > 0]))
    mean, sd = (np.mean([f(labeled) for _, labeled in pairs]) for f in (np.mean, np.std))
    units = [(np.clip(image, mean - 3 * sd, mean + 3 * sd) - mean) / (6 * sd) + 0.5 for image, _ in pairs]
    expected = mean - 3 * sd, mean + 3 * sd, np.mean([u.mean() for u in units]), np.mean([u.std() for u in units])
    with h5py.File(tmp_path / "p" / "train.h5") as packed:
        (found,) = json.loads(packed.attrs["intensity"])["channels"]
    assert np.allclose([found[name] for name in ("low", "high", "mean", "sd")], expected, atol=1e-6)


# --- bad input


def broken(decathlon, tmp_path, change):
    data = shutil.copytree(decathlon, tmp_path / "data")
    change(data)
    message = assert_refused(SCRIPT, "case_02", DATA=data, PACKED=tmp_path / "p", STEP="patch")
    assert not (tmp_path / "p").exists() and not leftovers(tmp_path)
    return message


def change_labels(data, function):
    path = data / "labelsTr" / "case_02.nii.gz"
    sitk.WriteImage(function(sitk.ReadImage(str(path))), str(path))


def test_labels_on_another_grid(decathlon, tmp_path):
    def moved(labels):
        labels.SetOrigin([x + 5 for x in labels.GetOrigin()])
        return labels

    assert "not on the grid of" in broken(decathlon, tmp_path, lambda data: change_labels(data, moved))


def test_labels_of_another_size(decathlon, tmp_path):
    message = broken(decathlon, tmp_path, lambda data: change_labels(data, lambda labels: labels[:-1]))
    assert "not on the grid of" in message and "x28x20" in message


def test_a_label_that_there_is_not(decathlon, tmp_path):
    message = broken(decathlon, tmp_path, lambda data: change_labels(data, lambda labels: labels * 4))
    assert "values from 0 to 8); expected whole numbers from 0 to 2 (organ, lesion)" in message


def test_labels_with_gaps_are_closed_by_the_user(decathlon, tmp_path):
    data = shutil.copytree(decathlon, tmp_path / "data")
    (data / "dataset.json").unlink()
    folders = {"IMAGES": data / "imagesTr", "LABELS": data / "labelsTr"}
    for path in folders["LABELS"].iterdir():
        sitk.WriteImage(sitk.ReadImage(str(path)) * 2, str(path))
    assert_refused(SCRIPT, "(found 2, 4);", "--label-values", **folders, PACKED=tmp_path / "p")
    run_here(SCRIPT, **folders, PACKED=tmp_path / "p", STEP="single", LABEL_VALUES={2: 1, 4: 2}, VOXELS=5000)
    with h5py.File(tmp_path / "p" / "cases.h5") as packed:
        assert json.loads(packed.attrs["labels"]) == ["1", "2"]
        assert set(np.unique(packed["cases/case_01/label"])) == {0, 1, 2}


def test_no_label(decathlon, tmp_path):
    message = broken(decathlon, tmp_path, lambda data: change_labels(data, lambda labels: labels * 0))
    assert "contains no labels" in message and "--empty" in message


def test_a_volume_that_was_cut_short(decathlon, tmp_path):
    def cut(data):
        path = data / "imagesTr" / "case_02.nii.gz"
        path.write_bytes(path.read_bytes()[:-2000])

    assert "cut short" in broken(decathlon, tmp_path, cut)


@pytest.mark.parametrize(("factor", "said"), [(1e-3, "smaller than a voxel of SPACING (found 0.0"), (0.1, "")])
def test_a_header_in_other_units(decathlon, tmp_path, factor, said):
    """In meters, a volume is refused; in centimeters, it is reported."""
    data = shutil.copytree(decathlon, tmp_path / "data")
    for folder in ("imagesTr", "labelsTr"):
        path = str(data / folder / "case_02.nii.gz")
        image = sitk.ReadImage(path)
        image.SetSpacing([mm * factor for mm in image.GetSpacing()])
        sitk.WriteImage(image, path)
    if said:
        assert_refused(SCRIPT, said, "case_02", "correct the spacing", DATA=data, PACKED=tmp_path / "p")
        return
    out = pack(data, tmp_path / "p").stdout
    assert "1 volume of another size than the others (case_02: " in out and "check the spacing" in out
    assert "another size" not in pack(decathlon, tmp_path / "q").stdout


def test_labels_that_vanish_are_reported(decathlon, tmp_path):
    def one_voxel(labels):
        small = labels * 0
        small[10, 10, 10] = 1
        return small

    data = shutil.copytree(decathlon, tmp_path / "data")
    change_labels(data, one_voxel)
    out = pack(data, tmp_path / "p", SPACING=4.0, VOXELS=None).stdout
    assert "case_02: its labels are smaller than the voxels and vanish" in out


def test_channels_that_differ(decathlon, tmp_path):
    def doubled(data):
        path = data / "imagesTr" / "case_02.nii.gz"
        sitk.WriteImage(sitk.JoinSeries([sitk.ReadImage(str(path))] * 2), str(path))

    assert "wrong number of channels (2)" in broken(decathlon, tmp_path, doubled)


def test_empty_volumes_are_left_out_where_that_is_said(decathlon, tmp_path):
    data = shutil.copytree(decathlon, tmp_path / "data")
    change_labels(data, lambda labels: labels * 0)
    out = pack(data, tmp_path / "p", EMPTY="skip", STEP="patch").stdout
    assert "skipped" in out and "contains no labels" in out and "wrote 4 volumes" in out
    pack(data, tmp_path / "q", EMPTY="keep", STEP="whole")
    assert "case_02" in cases_of(tmp_path / "q" / "cases.h5")


def test_bad_settings(decathlon, tmp_path):
    def refused(*words, **settings):
        assert_refused(SCRIPT, *words, **{"DATA": decathlon, "PACKED": tmp_path / "p", **settings})

    refused("contains no dataset.json; set IMAGES and LABELS", DATA=tmp_path)
    for name in ("IMAGES", "LABELS"):
        refused(f"{name}: not used with DATA", status=2, **{name: decathlon / "imagesTr"})
    refused("CHANNELS: not used with DATA", status=2, CHANNELS=["{id}_a"])
    (tmp_path / "others").mkdir()
    shutil.copy(decathlon / "imagesTr" / "case_01.nii.gz", tmp_path / "others" / "scan.nii.gz")
    folders = {"DATA": "", "IMAGES": tmp_path / "others", "LABELS": decathlon / "labelsTr"}
    refused("no label volume scan in", "; change --label-name, or remove the volume", **folders)
    (tmp_path / "dataset.json").write_text('{"labels": {"1": "x"}}')
    refused("dataset.json: not in Decathlon format", DATA=tmp_path)
    refused("unknown case x", VALIDATION_CASES=["x"])
    refused("cases: cannot be divided (5 found)", FOLDS=6)
    refused("INTENSITY", status=2, INTENSITY={"low": 3, "high": 2, "mean": 0, "sd": 1})
    refused("SPACING: too fine for", status=2, SPACING=0.001, VOXELS=None)
    refused("SPACING", status=2, SPACING=1e-9)
    content = json.loads((decathlon / "dataset.json").read_text())
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / name).symlink_to(decathlon / name)
    first = content["training"][0]
    for entry, said in (
        (first, "two cases have the same name"),
        ({"image": first["label"], "label": first["label"]}, "used as its own label volume"),
    ):
        changed = content | {"training": [first, entry] if entry is first else [entry]}
        (tmp_path / "dataset.json").write_text(json.dumps(changed))
        refused(said, DATA=tmp_path)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "mine").touch()
    refused("exists")
    refused(": not made by this toolkit", REPLACE=True)
    assert not leftovers(tmp_path)


# --- the synthetic set


def test_synthetic_volumes_are_of_decathlon_form_and_repeat_themselves(tmp_path):
    for name in ("a", "b"):
        run_here("data/make_volumes.py", DATA=tmp_path / name, TRAIN=2, TEST=1, CONTRASTS=3)
    about = json.loads((tmp_path / "a" / "dataset.json").read_text())
    assert about["labels"] == {"0": "background", "1": "outer", "2": "inner", "3": "lesion"}
    assert len(about["training"]) == 2 and len(about["modality"]) == 3
    for path in sorted((tmp_path / "a").glob("*Tr/*")) + sorted((tmp_path / "a").glob("*Ts/*")):
        ours, theirs = (sitk.ReadImage(str(tmp_path / name / path.parent.name / path.name)) for name in ("a", "b"))
        assert np.array_equal(*map(sitk.GetArrayViewFromImage, (ours, theirs)))
        assert all(48 <= side <= 96 for side in ours.GetSize()[:3])
        if path.parent.name.startswith("labels"):
            counts = np.bincount(sitk.GetArrayViewFromImage(ours).ravel())
            assert len(counts) == 4 and counts[0] > 10 * counts[1] > 20 * counts[2:].max() / 2 and counts.min() > 50

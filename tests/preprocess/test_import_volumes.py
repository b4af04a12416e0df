"""0_import_volumes.py: volumes of every kind to slices and back, and what it refuses."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
from drawings import (
    SHAPE,
    as_volume,
    assert_same_geometry,
    block,
    masks_of,
    write,
    write_copying_network,
    write_nnunet,
    write_series,
)
from running import REAL_DATA, assert_refused, bytes_of, leftovers, lines_of, run_here, run_script

sitk = pytest.importorskip("SimpleITK")
from common.slices.classes import IGNORED
from common.slices.images import read_image, read_mask
from common.training.sets import open_set
from common.volumes.grids import orient
from common.volumes.labels import labels_of_slices, write_labels
from common.volumes.reading import read_volume
from common.volumes.slicing import PLANES, planes_of

SCRIPT = "preprocess/0_import_volumes.py"
SIDE = 128  # of the part of each real slice that is used


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("plane", PLANES)
def test_labels_find_their_way_back(tmp_path, ending, plane):
    values, labels = block(labels=3)
    image, truth = as_volume(values), as_volume(labels)
    write(tmp_path / "images", f"a{ending}", image)
    write(tmp_path / "labels", f"a{ending}", truth)
    kept = read_volume(tmp_path / "labels" / f"a{ending}")  # NIfTI holds directions in single precision
    run_here(
        SCRIPT, IMAGES=tmp_path / "images", LABELS=tmp_path / "labels", CASES=tmp_path / "cases", PLANE=plane, SIZE=32
    )
    (case,) = (tmp_path / "cases").iterdir()
    record = json.loads((case / "case.json").read_text())
    back = labels_of_slices(record, masks_of(case))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), labels)
    assert_same_geometry(back, kept)
    write_labels(back, tmp_path / f"back{ending}")
    again = read_volume(tmp_path / f"back{ending}")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(again), labels)
    assert_same_geometry(again, kept, 1e-5 if ending == ".nii.gz" else 1e-6)


@pytest.mark.slow
def test_workers_import_what_one_run_imports(scheduler, tmp_path):
    """Byte for byte and line for line: also of labels and values that cannot be used, and of what is replaced."""
    for number, name in enumerate("abcde"):
        values, labels = block((12, 24, 20), labels=2, seed=number)
        values = values.astype(np.float32)
        if name == "b":
            values[1, 2, 3] = np.nan
        labels[:-1] = 0  # which the script notes
        write(tmp_path / "images", f"{name}.nrrd", as_volume(values))
        write(tmp_path / "labels", f"{name}.nrrd", as_volume(labels.astype(np.float32) + (name == "d") / 2))
    (tmp_path / "images" / "e.nrrd").write_bytes((tmp_path / "images" / "e.nrrd").read_bytes()[:-100])
    settings = {"IMAGES": tmp_path / "images", "LABELS": tmp_path / "labels", "SIZE": 24, "NOT_FINITE": 0, "BITS": 16}
    results = {
        name: run_script(SCRIPT, **settings, **more, CASES=tmp_path / name / "cases", expect=1)
        for name, more in (("alone", {}), ("shared", {"WORKERS": scheduler}))
    }
    assert bytes_of(tmp_path / "shared") == bytes_of(tmp_path / "alone") and not leftovers(tmp_path)
    assert len(bytes_of(tmp_path / "alone" / "cases")) > 3 * 2 * 12
    alone, shared = (lines_of(result, tmp_path / name) for name, result in results.items())
    assert "workers: 2 at" in results["shared"].stdout and shared == alone
    for words in ("replaced 1 voxel", "2 volumes cannot be used", "a label on less than 10% of the slices"):
        assert any(words in line for line in alone), words


@pytest.fixture(scope="module")
def real_volume():
    """The 20 membranes as one volume, turned, with uneven spacing and an origin, and their labels."""
    folder = REAL_DATA / "membrane"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    images, masks = (
        np.stack(
            [
                read_image(path)[:SIDE, :SIDE]
                for case in ("case01", "case02")
                for path in sorted((folder / case / side).glob("*.png"))
            ]
        )
        for side in ("x", "y")
    )
    return [as_volume(array, spacing=(0.4, 0.45, 5)) for array in (images.astype(np.int16), masks // 255)]


@pytest.mark.parametrize("source", ["nifti", "dicom"])
@pytest.mark.parametrize("plane", PLANES)
def test_the_truth_as_the_prediction_finds_its_way_back(tmp_path, real_volume, source, plane):
    """Import, predict and export by the scripts: every voxel and the geometry are those of the source."""
    image, labels = real_volume
    if source == "nifti":
        write(tmp_path, "scan.nii.gz", image)
        scan = tmp_path / "scan.nii.gz"
    else:
        names = [f"IM{number:05d}" for number in np.random.default_rng(0).permutation(image.GetSize()[2])]
        write_series(tmp_path / "scan", image, names)
        scan = tmp_path / "scan"
    write(tmp_path, "truth.nrrd", labels)
    cases = tmp_path / "cases"
    run_here(SCRIPT, IMAGES=scan, LABELS=tmp_path / "truth.nrrd", CASES=cases, PLANE=plane, SIZE=SIDE)
    (case,) = cases.iterdir()
    for mask in (case / "y").iterdir():
        mask.replace(case / "x" / mask.name)
    network = write_copying_network(tmp_path / "copying.keras", SIDE)
    settings = {"OUTPUT": tmp_path / "out", "OVERLAYS": False, "LABEL_VOLUMES": ".nrrd"}
    run_here("predict.py", RUN=network, INPUT=case, **settings)
    expected = read_volume(scan)
    back = read_volume(tmp_path / "out" / f"{case.name}.nrrd")
    for ending in (".nii.gz", ".nrrd", ".mha"):
        write_labels(back, tmp_path / f"again{ending}")
        found = read_volume(tmp_path / f"again{ending}")
        np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(labels))
        assert_same_geometry(found, expected)


def test_dicom_series_of_any_file_names(tmp_path):
    values, labels = block()
    image = as_volume(values)
    names = [f"IM{number:05d}" for number in np.random.default_rng(0).permutation(SHAPE[0])]
    write_series(tmp_path / "scans" / "one", image, names)
    write(tmp_path / "labels", "one.nrrd", as_volume(labels))
    run_script(SCRIPT, IMAGES=tmp_path / "scans", LABELS=tmp_path / "labels", CASES=tmp_path / "cases", SIZE=32)
    case = tmp_path / "cases" / "case_0001"
    back = labels_of_slices(json.loads((case / "case.json").read_text()), masks_of(case))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), labels)
    assert_same_geometry(back, image, 1e-4)  # DICOM holds decimal strings of 16 characters


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
def test_compressed_dicom(tmp_path, compressor):
    values, labels = block()
    image = as_volume(values, np.eye(3))
    write_series(tmp_path / "scans" / "one", image, compressor=compressor)
    content = (tmp_path / "scans" / "one" / "000.dcm").read_bytes()
    assert {"JPEG": b"1.2.840.10008.1.2.4.70", "JPEG2000": b"1.2.840.10008.1.2.4.90"}[compressor] in content
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(tmp_path / "scans" / "one")), values)
    write(tmp_path / "labels", "one.nrrd", as_volume(labels, np.eye(3)))
    run_here(SCRIPT, IMAGES=tmp_path / "scans", LABELS=tmp_path / "labels", CASES=tmp_path / "cases", SIZE=32)
    case = tmp_path / "cases" / "case_0001"
    back = labels_of_slices(json.loads((case / "case.json").read_text()), masks_of(case))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), labels)


def test_all_frames_of_one_dicom_file(tmp_path):
    values, labels = block()
    image = sitk.Cast(as_volume(values, np.eye(3)) + 500, sitk.sitkUInt16)
    write(tmp_path / "scans", "frames.dcm", image)
    write(tmp_path / "labels", "scans.nrrd", as_volume(labels, np.eye(3)))
    settings = {"IMAGES": tmp_path / "scans", "LABELS": tmp_path / "labels", "CASES": tmp_path / "cases"}
    run_here(SCRIPT, SIZE=24, WINDOW=[0, 1000], SLICES="all", **settings)
    case = tmp_path / "cases" / "case_0001"
    back = labels_of_slices(json.loads((case / "case.json").read_text()), masks_of(case))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), labels)
    assert_same_geometry(back, image)
    shown = read_image(case / "x" / "0003.png")[:, 2:22]
    assert np.abs(shown - np.rint((values[2] + 500) / 1000 * 255)).max() <= 1


def test_labels_on_their_own_grid_and_another_spacing(tmp_path):
    shape = (20, 40, 40)
    ball = (np.indices(shape) - np.reshape([10, 20, 20], (3, 1, 1, 1))) * np.reshape([2, 1, 1], (3, 1, 1, 1))
    labels = (np.square(ball).sum(0) < 144).astype(np.uint8)
    image = as_volume((labels * 100).astype(np.int16), spacing=(1, 1, 2))
    finer = sitk.Resample(
        as_volume(labels, spacing=(1, 1, 2)),
        [60, 60, 30],
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        image.GetOrigin(),
        [2 / 3, 2 / 3, 4 / 3],
        image.GetDirection(),
    )
    write(tmp_path / "images", "a.mha", image)
    write(tmp_path / "labels", "a.mha", finer)
    settings = {"IMAGES": tmp_path / "images", "LABELS": tmp_path / "labels", "SIZE": 64, "WINDOW": [0, 100]}
    run_here(SCRIPT, CASES=tmp_path / "cases", SPACING=1.5, SLICES="all", **settings)
    case = tmp_path / "cases" / "case_a"
    record = json.loads((case / "case.json").read_text())
    assert record["volume"]["grid"]["spacing"] == [1.5, 1.5, 1.5] and record["spacing"] == [1.5, 1.5]
    back = sitk.GetArrayFromImage(labels_of_slices(record, masks_of(case)))
    assert back.shape == shape
    assert 2 * (back & labels).sum() / (back.sum() + labels.sum()) > 0.9
    pictures = np.stack([read_image(path) for path in sorted((case / "x").glob("*.png"))])
    masks = np.stack([read_mask(path) for path in sorted((case / "y").glob("*.png"))])
    assert 2 * ((pictures > 127) & (masks > 0)).sum() / ((pictures > 127).sum() + (masks > 0).sum()) > 0.9


def test_window_bits_and_values(tmp_path):
    values, labels = block(labels=2)
    write(tmp_path / "i", "a.nrrd", as_volume(values))
    write(tmp_path / "l", "a.nrrd", as_volume(labels))
    settings = {"IMAGES": tmp_path / "i", "LABELS": tmp_path / "l", "SIZE": 24, "BITS": 16, "WINDOW": [-100, 200]}
    run_here(SCRIPT, CASES=tmp_path / "c", LABEL_VALUES={2: 1}, SLICES="all", **settings)
    case = tmp_path / "c" / "case_a"
    oriented = orient(as_volume(values)), orient(as_volume(labels))
    shown, marked = (planes_of(sitk.GetArrayFromImage(image), "axial")[4] for image in oriented)
    expected = np.rint((shown.clip(-100, 200) + 100) / 300 * 65535)
    expected = cv2.copyMakeBorder(expected, 0, 0, 2, 2, cv2.BORDER_CONSTANT)  # 24 rows and 20 columns
    assert np.abs(read_image(case / "x" / "0005.png").astype(int) - expected).max() <= 1
    mask = cv2.copyMakeBorder(np.where(marked == 2, 255, 0).astype(np.uint8), 0, 0, 2, 2, cv2.BORDER_CONSTANT)
    np.testing.assert_array_equal(read_mask(case / "y" / "0005.png"), mask)
    record = json.loads((case / "case.json").read_text())
    assert record["window"] == [-100, 200]


def test_nothing_that_names_a_patient_gets_out(tmp_path):
    planted = {
        "0010|0010": "Mustermann^Erika",
        "0010|0020": "PAT4711X",
        "0010|0030": "19561224",
        "0008|0050": "ACC998877",
        "0008|0080": "Klinikum Nirgendwo",
        "0008|0090": "Doktor^Faust",
        "0010|1040": "Hauptstrasse 77",
        "0010|4000": "Kommentar geheim",
        "0008|1030": "Verlauf Tumorboard",
        "0020|4000": "Bildkommentar",
        "0008|0020": "20240229",
        "0020|0010": "STUDY5566",
    }
    values, labels = block()
    write_series(tmp_path / "scans" / "Mustermann_Erika", as_volume(values), **planted)
    write(tmp_path / "labels", "Mustermann_Erika.nrrd", as_volume(labels))
    done = run_script(SCRIPT, IMAGES=tmp_path / "scans", LABELS=tmp_path / "labels", CASES=tmp_path / "cases", SIZE=32)
    lists, packed = tmp_path / "lists", tmp_path / "packed"
    run_script("preprocess/2_write_lists.py", CASES=tmp_path / "cases", LISTS=lists, TEST_SHARE=0)
    run_script("preprocess/3_pack_hdf5.py", LISTS=lists, PACKED=packed)
    secrets = [word.lower() for value in planted.values() for word in value.replace("^", " ").split() if len(word) > 3]
    root = str(tmp_path).lower()
    written = [path for folder in (tmp_path / "cases", lists, packed) for path in folder.rglob("*")]
    assert written
    texts = [done.stdout.lower().replace(root, "")]
    texts += [str(path).lower().replace(root, "") for path in written]
    texts += [path.read_bytes().decode("latin-1").lower().replace(root, "") for path in written if path.is_file()]
    for secret in secrets:
        assert not [text[:200] for text in texts if secret in text], secret


def test_one_broken_volume_among_many(tmp_path):
    for number in range(6):
        values, labels = block((3, 16, 16), seed=number)
        write(tmp_path / "i", f"v{number}.nrrd", as_volume(values))
        write(tmp_path / "l", f"v{number}.nrrd", as_volume(labels))
    broken = tmp_path / "i" / "v3.nrrd"
    broken.write_bytes(broken.read_bytes()[:400])
    settings = {"IMAGES": tmp_path / "i", "LABELS": tmp_path / "l", "CASES": tmp_path / "c", "SIZE": 16}
    said = assert_refused(SCRIPT, "v3.nrrd: damaged header", "Imported the others", "--skip-broken", **settings)
    assert "v2.nrrd" not in said
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [f"case_v{n}" for n in (0, 1, 2, 4, 5)]
    run_here(SCRIPT, "--skip-broken", "--replace", **settings)
    assert not leftovers(tmp_path)


def test_series_that_make_no_volume(tmp_path):
    values, _ = block()
    image = as_volume(values)
    settings = {"CASES": tmp_path / "c", "SLICES": "all", "SIZE": 32}

    write_series(tmp_path / "gap", image)
    (tmp_path / "gap" / "004.dcm").unlink()
    assert_refused(SCRIPT, "slices 4 and 5 of 8 are 5 mm apart, others 2.5 mm", IMAGES=tmp_path / "gap", **settings)

    write_series(tmp_path / "two", image)
    write_series(tmp_path / "two", image[:, :, :4], [f"x{k}.dcm" for k in range(4)], "1.2.9")
    assert_refused(
        SCRIPT,
        "contains 2 series (1: CT, 9 files; 2: CT, 4 files); choose one with --series",
        IMAGES=tmp_path / "two",
        **settings,
    )
    run_here(SCRIPT, IMAGES=tmp_path / "two", SERIES=2, **settings)
    assert len(list((tmp_path / "c" / "case_0001" / "x").iterdir())) == 4

    t2, pilot = {"0008|103e": "T2 FSE"}, {"0008|103e": "Pilot"}
    write_series(tmp_path / "named", image, **t2)
    write_series(tmp_path / "named", image[:, :, :4], [f"x{k}.dcm" for k in range(4)], "1.2.9", **pilot)
    listed = "1: CT T2 FSE, 9 files; 2: CT Pilot, 4 files"
    for wrong in ("T1", "CT"):
        assert_refused(SCRIPT, listed, IMAGES=tmp_path / "named", SERIES=wrong, **settings | {"CASES": tmp_path / "n"})
    run_here(SCRIPT, IMAGES=tmp_path / "named", SERIES="pilot", **settings | {"CASES": tmp_path / "n"})
    assert len(list((tmp_path / "n" / "case_0001" / "x").iterdir())) == 4

    for number, echo in enumerate(("20", "40"), 1):
        names = [f"e{number}{k}.dcm" for k in range(9)]
        write_series(tmp_path / "echoes", image + 100 * number, names, **{"0018|0081": echo})
    listed = "1: CT, echo time 20 ms, 9 files; 2: CT, echo time 40 ms, 9 files"
    assert_refused(SCRIPT, listed, IMAGES=tmp_path / "echoes", **settings | {"CASES": tmp_path / "e"})
    run_here(SCRIPT, IMAGES=tmp_path / "echoes", SERIES=2, **settings | {"CASES": tmp_path / "e"})
    assert len(list((tmp_path / "e" / "case_0001" / "x").iterdir())) == 9

    (tmp_path / "empty").mkdir()
    assert_refused(SCRIPT, "no volumes found", IMAGES=tmp_path / "empty", **settings)
    assert_refused(SCRIPT, "gone does not exist", IMAGES=tmp_path / "gone", **settings)


def test_bad_labels_and_settings(tmp_path):
    values, labels = block()
    write(tmp_path / "i", "a.nrrd", as_volume(values))
    write(tmp_path / "l", "b.nrrd", as_volume(labels))
    write(tmp_path / "i", "c.nrrd", as_volume(values))
    settings = {"IMAGES": tmp_path / "i", "CASES": tmp_path / "cases"}
    assert_refused(SCRIPT, "no label volume a in", LABELS=tmp_path / "l", **settings)
    assert_refused(SCRIPT, '"labelled" needs LABELS', status=2, SLICES="labelled", **settings)
    write(tmp_path / "odd", "a.nrrd", as_volume(values))
    one = settings | {"IMAGES": tmp_path / "i" / "a.nrrd"}
    assert_refused(SCRIPT, "invalid labels (values from -500", "--label-values", LABELS=tmp_path / "odd", **one)
    write(tmp_path / "none", "a.nrrd", as_volume(0 * labels))
    assert_refused(SCRIPT, "no slice has a label", LABELS=tmp_path / "none", SLICES="labeled", **one)
    for name, value, said in (
        ("WINDOW", [200, -200], "(found [200, -200])"),
        ("PLANE", "oblique", "(found 'oblique')"),
        ("SPACING", [1, 2], "(found [1, 2])"),
        ("LABEL_NAME", "seg", "(found 'seg')"),
        ("BITS", 12, "(found 12)"),
    ):
        assert_refused(SCRIPT, name, said, status=2, LABELS=tmp_path / "none", **one, **{name: value})
    assert not (tmp_path / "cases").exists() or not list((tmp_path / "cases").iterdir())


def test_empty_slices_stay_and_are_counted(tmp_path):
    values, labels = block((24, 16, 16))
    labels[:] = 0
    labels[7, 4:9, 4:9] = 1
    write(tmp_path / "i", "a.nrrd", as_volume(values))
    write(tmp_path / "l", "a.nrrd", as_volume(labels))
    settings = {"IMAGES": tmp_path / "i", "SIZE": 16}
    said = run_here(SCRIPT, CASES=tmp_path / "all", LABELS=tmp_path / "l", **settings).stdout
    assert "wrote 24 slices" in said and "1 volume with a label on less than 10% of the slices" in said
    for name in ("labeled", "labelled"):
        said = run_here(SCRIPT, CASES=tmp_path / name, LABELS=tmp_path / "l", SLICES=name, **settings).stdout
        assert "wrote 1 slice " in said and "note" not in said
    said = run_here(SCRIPT, CASES=tmp_path / "x", **settings).stdout
    assert "LABELS is not set, so all masks are empty" in said


def test_what_cannot_be_right(tmp_path):
    values, labels = block((4, 20, 20))
    broken = values.astype(np.float32)
    broken[1, 2, 3] = np.nan
    for name, image in (("a", broken), ("b", values)):
        write(tmp_path / "i", f"{name}.nrrd", as_volume(image))
        write(tmp_path / "l", f"{name}.nrrd", as_volume(labels))
    (tmp_path / "i" / "notes.txt").write_text("text")
    settings = {"IMAGES": tmp_path / "i", "LABELS": tmp_path / "l", "SIZE": 24}
    said = assert_refused(SCRIPT, "a.nrrd: NaN", "in 1 voxel", "--not-finite", CASES=tmp_path / "c", **settings)
    assert "b.nrrd" not in said and (tmp_path / "c" / "case_b").is_dir()
    done = run_here(SCRIPT, CASES=tmp_path / "d", NOT_FINITE=-100, **settings)
    assert "replaced 1 voxel" in done.stdout and "skipped 1 file without a volume (notes.txt)" in done.stdout
    own = settings | {"LABELS": tmp_path / "i"}
    assert_refused(
        SCRIPT, "2 volumes cannot be used: used as its own label volume", "b.nrrd", CASES=tmp_path / "e", **own
    )
    one = settings | {"IMAGES": tmp_path / "i" / "b.nrrd", "CASES": tmp_path / "e"}
    fine = one | {"SPACING": 0.003}
    assert_refused(SCRIPT, "SPACING: too fine for", "4667x6000x3333 voxels, about 348 GB", status=2, **fine)
    for name, image, said in (
        ("far", as_volume(labels, origin=(1000, 0, 0)), "all labels are outside their volume"),
        ("half", as_volume(labels * np.float32(1.5)), "values from 0 to 1.5"),
        ("many", as_volume(labels * np.int16(300)), "values from 0 to 300"),
        ("infinite", as_volume(np.where(labels, np.float32(np.inf), np.float32(0))), "NaN, infinity"),
    ):
        write(tmp_path / name, "b.nrrd", image)
        assert_refused(SCRIPT, "b.nrrd", said, **one | {"LABELS": tmp_path / name})
    assert_refused(SCRIPT, "values from 0 to 1.5", LABEL_VALUES={1: 1}, **one | {"LABELS": tmp_path / "half"})
    assert not (tmp_path / "e").exists()


def test_labels_that_reach_beyond_their_volume_are_counted(tmp_path):
    values, labels = block()
    write(tmp_path / "i", "a.nrrd", as_volume(values))
    for moved, says in ((0, False), (1, False), (2, True)):  # voxels; there are labels at every face
        image = as_volume(labels)
        image.SetOrigin(image.TransformContinuousIndexToPhysicalPoint((0.0, float(moved), 0.0)))
        write(tmp_path / "l", "a.nrrd", image)
        folders = {"IMAGES": tmp_path / "i", "LABELS": tmp_path / "l", "CASES": tmp_path / "c"}
        said = run_here(SCRIPT, SIZE=24, REPLACE=True, **folders).stdout
        assert ("note: labels of 1 volume reach beyond it and are cut; check that both belong" in said) == says
    write(tmp_path / "l", "a.nrrd", as_volume(np.zeros_like(labels), origin=(1000, 0, 0)))
    assert "reach beyond" not in run_here(SCRIPT, SIZE=24, REPLACE=True, **folders).stdout


def test_a_volume_of_one_voxel(tmp_path):
    write(tmp_path, "i.nrrd", as_volume(np.full((1, 1, 1), 5, np.int16)))
    write(tmp_path, "l.nrrd", as_volume(np.ones((1, 1, 1), np.uint8)))
    settings = {"IMAGES": tmp_path / "i.nrrd", "LABELS": tmp_path / "l.nrrd", "WINDOW": [0, 10], "SIZE": 24}
    run_here(SCRIPT, CASES=tmp_path / "c", **settings)
    (case,) = (tmp_path / "c").iterdir()
    assert np.sort(masks_of(case)["0001"].ravel())[-2:].tolist() == [0, 255]


def test_predicted_labels_are_on_the_grid_of_the_volume(tmp_path, trained):
    """Through the script, with a network of 24x24: labels, geometry and millilitres."""
    values, labels = block()
    for name in ("a", "b"):
        write(tmp_path / "i", f"{name}.nrrd", as_volume(values))
        write(tmp_path / "l", f"{name}.nrrd", as_volume(labels))
    cases, output = tmp_path / "cases", tmp_path / "out"
    run_here(SCRIPT, IMAGES=tmp_path / "i", LABELS=tmp_path / "l", CASES=cases, SIZE=24, PLANE="sagittal")
    run_here("predict.py", RUN=trained[0], INPUT=cases, OUTPUT=output, LABEL_VOLUMES=".nrrd")
    record = json.loads((cases / "case_a" / "case.json").read_text())
    masks = {path.stem: read_mask(path) for path in sorted((output / "case_a").glob("*.png"))}
    expected = labels_of_slices(record, masks)
    found = read_volume(output / "case_a.nrrd")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
    assert_same_geometry(found, as_volume(values))
    table = pd.read_csv(output / "volumes.csv").set_index("case")
    voxels = int(sitk.GetArrayFromImage(found).sum())
    assert list(table.index) == ["case_a", "case_b"] and table.loc["case_a", "voxels"] == voxels
    assert table.loc["case_a", "ml"] == pytest.approx(voxels * 0.7 * 0.9 * 2.5 / 1000)
    run_here("predict.py", RUN=trained[0], INPUT=cases / "case_b", OUTPUT=tmp_path / "one")
    assert (tmp_path / "one" / "case_b.nii.gz").is_file()


def test_a_volume_is_predicted_as_its_slices_are(tmp_path, trained):
    """A NIfTI file and a DICOM folder, straight to predict.py, against the way through a case folder."""
    values, _ = block((24, 24, 24))
    volume = as_volume(values, spacing=(1, 1, 1))
    write(tmp_path, "scan.nii.gz", volume)
    write_series(tmp_path / "dicom", volume)
    shared = {"PLANE": "coronal", "WINDOW": [-400, 300]}
    run_here(SCRIPT, IMAGES=tmp_path / "scan.nii.gz", CASES=tmp_path / "c", SLICES="all", SIZE=24, **shared)
    run_here("predict.py", RUN=trained[0], INPUT=tmp_path / "c" / "case_scan", OUTPUT=tmp_path / "a")
    run_here("predict.py", RUN=trained[0], INPUT=tmp_path / "scan.nii.gz", OUTPUT=tmp_path / "b", **shared)
    run_here("predict.py", RUN=trained[0], INPUT=tmp_path / "dicom", OUTPUT=tmp_path / "d", **shared)
    found = [read_volume(tmp_path / name) for name in ("a/case_scan.nii.gz", "b/scan.nii.gz", "d/case_0001.nii.gz")]
    arrays = [sitk.GetArrayFromImage(image) for image in found]
    np.testing.assert_array_equal(arrays[0], arrays[1])
    np.testing.assert_array_equal(arrays[0], arrays[2])
    assert_same_geometry(found[1], volume, 1e-5)
    assert len(list((tmp_path / "b").glob("0*.png"))) == 24


def test_window_goes_from_the_cases_into_the_run(tmp_path):
    values, labels = block((24, 24, 24))
    for name in ("a", "b", "c", "d"):
        write(tmp_path / "i", f"{name}.nrrd", as_volume(values))
        write(tmp_path / "l", f"{name}.nrrd", as_volume(labels))
    settings = {"IMAGES": tmp_path / "i", "LABELS": tmp_path / "l", "SIZE": 24, "WINDOW": [-150, 250]}
    run_here(SCRIPT, CASES=tmp_path / "cases", **settings)
    lists, packed = tmp_path / "lists", tmp_path / "packed"
    run_here("preprocess/2_write_lists.py", CASES=tmp_path / "cases", LISTS=lists, SAME_SLICES="report")
    run_here("preprocess/3_pack_hdf5.py", LISTS=lists, PACKED=packed)
    for path in (packed / "train.h5", lists / "train.csv"):
        record = open_set(path).record()
        assert record.window == [-150, 250] and record.spacing == [0.9, 0.7]
    run_here(SCRIPT, CASES=tmp_path / "percentiles", **settings | {"WINDOW": None})
    lists = tmp_path / "lists_of_percentiles"
    run_here("preprocess/2_write_lists.py", CASES=tmp_path / "percentiles", LISTS=lists, SAME_SLICES="report")
    assert open_set(lists / "train.csv").record().window is None, (
        "the percentiles of one volume are not those of another"
    )


@pytest.mark.parametrize("spacing", [1.4, [1.4, 1.4, None]])
def test_a_volume_is_predicted_at_the_spacing_of_training(tmp_path, spacing):
    """A network that was trained on 1.4 mm, coronal, predicts a volume of 0.7 mm so, and gives its own grid back."""
    values, labels = block((24, 24, 24))
    for name in ("a", "b", "c", "d"):
        write(tmp_path / "i", f"{name}.nrrd", as_volume(values, spacing=(0.7, 0.7, 0.7)))
        write(tmp_path / "l", f"{name}.nrrd", as_volume(labels, spacing=(0.7, 0.7, 0.7)))
    cases, lists, scan = tmp_path / "cases", tmp_path / "lists", tmp_path / "i" / "a.nrrd"
    prepared = {"PLANE": "coronal", "SPACING": spacing, "WINDOW": [-150, 250]}
    run_here(SCRIPT, IMAGES=tmp_path / "i", LABELS=tmp_path / "l", CASES=cases, SIZE=24, SLICES="all", **prepared)
    run_here("preprocess/2_write_lists.py", CASES=cases, LISTS=lists, TEST_SHARE=0, SAME_SLICES="report")
    run = tmp_path / "run"
    run.mkdir()
    write_copying_network(run / "best_dice.keras", 24)
    (run / "state.json").write_text(
        json.dumps({"data": open_set(lists / "train.csv").record().model_dump(mode="json")})
    )
    run_here("predict.py", RUN=run, INPUT=cases / "case_a", OUTPUT=tmp_path / "a")
    run_here("predict.py", RUN=run, INPUT=scan, OUTPUT=tmp_path / "b")
    assert len(list((tmp_path / "b").glob("0*.png"))) == 12
    found = [read_volume(path) for path in (tmp_path / "a" / "case_a.nii.gz", tmp_path / "b" / "a.nii.gz")]
    for image in found:
        assert_same_geometry(image, read_volume(scan), 1e-5)
    arrays = [sitk.GetArrayFromImage(image) for image in found]
    np.testing.assert_array_equal(*arrays)
    assert 0.1 < arrays[0].mean() < 0.9


def test_a_data_set_of_nnunet(tmp_path):
    root = tmp_path / "Dataset001_Organ"
    made = write_nnunet(root, channels=["CT"])
    settings = {"IMAGES": root, "CASES": tmp_path / "cases", "SIZE": 32}
    said = run_here(SCRIPT, SLICES="labeled", **settings).stdout
    assert "classes: 1 organ, 2 lesion" in said and "in 3 cases" in said
    for name, (_, truth) in made.items():
        record = json.loads((tmp_path / "cases" / f"case_{name}" / "case.json").read_text())
        back = labels_of_slices(record, masks_of(tmp_path / "cases" / f"case_{name}"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(truth))
        assert_same_geometry(back, truth, 1e-5)
        assert record["class_names"] == ["organ", "lesion"]
    write_nnunet(root, labels={"background": 0, "all": [1, 2], "lesion": 2}, channels=["CT"])
    run_here(SCRIPT, REPLACE=True, **settings)  # see test_import_overlapping.py
    run_here(SCRIPT, LABEL_VALUES={1: 1, 2: 1}, REPLACE=True, **settings)
    assert_refused(SCRIPT, "CLASSES: not for a data set", status=2, CLASSES=["lesion"], **settings)
    write_nnunet(root, labels={"background": 0, "organ": 1, "ignore": 2}, channels=["CT"])
    run_here(SCRIPT, REPLACE=True, **settings)
    for name, (_, truth) in made.items():
        masks = np.stack(list(masks_of(tmp_path / "cases" / f"case_{name}").values()))
        counts = [np.count_nonzero(masks == value) for value in (255, IGNORED)]
        assert counts == [np.count_nonzero(sitk.GetArrayViewFromImage(truth) == number) for number in (1, 2)]
    write_nnunet(root, channels=["T2", "ADC"])
    run_here(SCRIPT, REPLACE=True, **settings)
    record = json.loads((tmp_path / "cases" / "case_scan_001" / "case.json").read_text())
    assert record["channels"] == ["{id}_0000", "{id}_0001"]
    write_nnunet(tmp_path / "other", channels=["CT"], labels={"background": 0, "organ": 1})
    words = "invalid labels (values from 0 to 2); expected whole numbers from 0 to 1 (organ)"
    assert_refused(SCRIPT, words, **settings | {"IMAGES": tmp_path / "other", "CASES": tmp_path / "more"})


def test_a_series_of_what_is_no_dicom_is_refused(tmp_path):
    write(tmp_path / "in", "a.nii.gz", as_volume(np.arange(4 * 576).reshape(4, 24, 24).astype(np.int16), np.eye(3)))
    settings = {"IMAGES": tmp_path / "in", "CASES": tmp_path / "c", "SLICES": "all", "SIZE": 24}
    assert_refused(SCRIPT, "SERIES: no DICOM series in IMAGES", SERIES=2, **settings)
    run_here(SCRIPT, **settings)

"""predict.py: images of any size in, masks and overlays out."""

import json
import shutil
import subprocess
import sys

import cv2
import keras
import numpy as np
import pandas as pd
import pytest
from drawings import as_volume, block, disc_slice, write, write_image
from running import ROOT, assert_refused, bytes_of, leftovers, run_here

from common.command_line import flags_of
from common.files import write_json
from common.prediction import ensemble as averaging
from common.prediction.ensemble import predict_images
from common.prediction.inputs import PixelSizes, VolumeInput
from common.slices.images import read_image, read_mask, to_unit
from common.training.trained_models import load_network


def brightness(batches):
    """In place of a network: the probability is the brightness."""
    return batches


@pytest.mark.parametrize("fit", ["resize", "tile", "pad"])
@pytest.mark.parametrize("shape", [(32, 32), (70, 45), (20, 90)])
def test_probabilities_come_back_to_their_place(fit, shape):
    """A smooth image must come back as it went in, whatever was cut, scaled and pasted."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    picture = (127 + 60 * np.sin(rows / 25) + 60 * np.cos(columns / 25)).astype(np.uint8)
    stream = predict_images([picture, picture[::-1]], brightness, 32, fit)
    for image, probabilities in stream:
        assert probabilities.shape == (*shape, 1) and probabilities.dtype == np.float32
        difference = np.abs(probabilities[..., 0] - to_unit(image))
        if fit == "tile" or shape == (32, 32):
            assert difference.max() <= 1e-6
        else:  # scaling mixes the edge of a padded image with black
            assert difference[5:-5, 5:-5].max() <= 0.06


def test_many_pictures_are_streamed():
    taken = []

    def pictures():
        for i in range(100):
            taken.append(i)
            yield np.zeros((32, 32), np.uint8)

    for i, _ in enumerate(predict_images(pictures(), brightness, 32, "resize", batch_size=8)):
        assert len(taken) <= i + 2 * 8


def test_masks_and_overlays_have_the_names_and_sizes_of_the_pictures(trained, tmp_path):
    run, _ = trained
    for name, size in (("a.jpg", (50, 31)), ("b.png", (24, 24)), ("c.tif", (24, 80))):
        write_image(tmp_path / "in" / name, cv2.merge([cv2.resize(disc_slice(24, 1)[0], size[::-1])] * 3))
    run_here("predict.py", RUN=[str(run), str(run / "last.keras")], INPUT=tmp_path / "in", OUTPUT=tmp_path / "out")
    for name, size in (("a", (50, 31)), ("b", (24, 24)), ("c", (24, 80))):
        mask = read_image(tmp_path / "out" / f"{name}.png")
        assert mask.shape == size and set(np.unique(mask)) <= {0, 255}
        assert read_image(tmp_path / "out" / "overlays" / f"{name}.png").shape == (*size, 3)


def test_masks_are_pasted_into_the_full_pictures(trained, tmp_path):
    """Crops of larger pictures: the mask lies where the crop was, also where tiles overlap."""
    for number in range(3):
        image, mask = disc_slice(60, number)
        write_image(tmp_path / "images" / f"p{number}.tif", image[:40])
        write_image(tmp_path / "masks" / f"p{number}.tif", mask[:40])
    source = {"IMAGES": tmp_path / "images", "MASKS": tmp_path / "masks", "SIZE": 24}
    for fit in ("crop", "tile"):
        cases, output = tmp_path / fit, tmp_path / f"{fit}_out"
        run_here("preprocess/0_import_images.py", CASES=cases, FIT=fit, **source)
        run_here("predict.py", RUN=trained[0], INPUT=cases, OUTPUT=output, PASTE=tmp_path / "images")
        (case,) = cases.iterdir()
        record = json.loads((case / "case.json").read_text())
        expected = {f"p{number}": np.zeros((40, 60), np.uint8) for number in range(3)}
        for name, entry in record["slices"].items():
            left, top, width, height = entry["box"]
            found = next(path for path in (output / f"{name}.png", output / case.name / f"{name}.png") if path.exists())
            place = expected[entry["image"].removesuffix(".tif")]
            rows, columns = slice(max(top, 0), top + height), slice(max(left, 0), left + width)
            mask = cv2.resize(read_mask(found), (width, height), interpolation=cv2.INTER_NEAREST)
            place[rows, columns] |= mask[max(-top, 0) :, max(-left, 0) :][: 40 - max(top, 0), : 60 - max(left, 0)]
        areas = pd.read_csv(output / "full" / "areas.csv").set_index("image")
        for name, mask in expected.items():
            np.testing.assert_array_equal(read_image(output / "full" / case.name / f"{name}.png"), mask)
            assert read_image(output / "full" / "overlays" / case.name / f"{name}.png").shape == (40, 60, 3)
            assert areas.loc[f"{name}.tif", "pixels"] == (mask > 0).sum()
    for file in (tmp_path / "images").iterdir():  # crops by hand, of the name of their image or with _crop
        write_image(
            tmp_path / "by_hand" / f"{file.stem}{'_crop' * (file.stem != 'p0')}.png", read_image(file)[7:31, 9:33]
        )
    by_hand = {"INPUT": tmp_path / "by_hand", "OUTPUT": tmp_path / "pasted"}
    run_here("predict.py", RUN=trained[0], PASTE=tmp_path / "images", **by_hand)
    for file in (tmp_path / "by_hand").iterdir():
        expected = np.zeros((40, 60), np.uint8)
        expected[7:31, 9:33] = read_mask(tmp_path / "pasted" / f"{file.stem}.png")
        name = f"{file.stem.removesuffix('_crop')}.png"
        np.testing.assert_array_equal(read_image(tmp_path / "pasted" / "full" / name), expected)
        assert expected.any()
    (tmp_path / "images" / "p1.tif").unlink()
    words = "PASTE: no image p1_crop in"
    assert_refused("predict.py", words, RUN=trained[0], PASTE=tmp_path / "images", **by_hand | {"REPLACE": True})
    settings = {"RUN": trained[0], "INPUT": tmp_path / "crop", "OUTPUT": tmp_path / "x"}
    assert_refused("predict.py", "p1.tif", PASTE=tmp_path / "images", **settings)
    assert_refused("predict.py", "gone does not exist", PASTE=tmp_path / "gone", **settings)
    assert not (tmp_path / "x").exists() and not leftovers(tmp_path)


def test_masks_are_those_of_the_network(trained, packed, tmp_path):
    run, _ = trained
    model = keras.saving.load_model(run / "best_dice.keras", compile=False)
    run_here("predict.py", RUN=run, INPUT=packed["cases"], OUTPUT=tmp_path / "out", OVERLAYS=False, THRESHOLD=0.3)
    images = sorted(packed["cases"].glob("*/x/*.png"))
    assert len(images) == len(list(tmp_path.glob("out/case*/*.png"))) == 16
    for image in images[:5]:
        p = model.predict(to_unit(read_image(image))[None, ..., None], verbose=0)[0, ..., 0]
        mask = read_mask(tmp_path / "out" / image.parent.parent.name / image.name)
        assert (mask > 0)[np.abs(p - 0.3) > 1e-5].tolist() == (p > 0.3)[np.abs(p - 0.3) > 1e-5].tolist()


def test_the_threshold_is_the_one_that_the_run_recorded(trained, packed, tmp_path):
    run, case = shutil.copytree(trained[0], tmp_path / "run"), next(packed["cases"].iterdir())
    record = json.loads((run / "calibration.json").read_text())
    write_json(run / "calibration.json", record | {"threshold": 0.31})
    settings = {"RUN": run, "INPUT": case, "OVERLAYS": False}
    out = run_here("predict.py", **settings, OUTPUT=tmp_path / "auto").stdout
    assert "\nthreshold 0.31 (chosen by train.py on the validation set)\n" in out
    said = json.loads((tmp_path / "auto" / "prediction.json").read_text())
    assert said["THRESHOLD"] == 0.31 and said["reasons"] == {"THRESHOLD": "chosen by train.py on the validation set"}
    out = run_here("predict.py", **settings, OUTPUT=tmp_path / "given", THRESHOLD=0.31).stdout
    assert "\nthreshold 0.31 (flag --threshold)\n" in out
    assert files_of(tmp_path / "auto").keys() == files_of(tmp_path / "given").keys()
    for image in sorted((tmp_path / "auto").glob("*.png")):
        assert image.read_bytes() == (tmp_path / "given" / image.name).read_bytes()
    out = run_here("predict.py", **settings, OUTPUT=tmp_path / "last", WEIGHTS_FILE="last").stdout
    assert "\nthreshold 0.5 (no threshold was chosen for this model)\n" in out


def test_overlays_of_color_images_are_in_color(trained, tmp_path):
    """Outside of the mask the colors are unchanged, also of the full image that a mask is pasted into."""
    gray = disc_slice(24, 1)[0]
    picture = np.dstack([gray // 2, 255 - gray, np.full_like(gray, 200)])
    write_image(tmp_path / "in" / "a.png", picture)
    write_image(tmp_path / "in" / "b.png", cv2.merge([gray] * 3))
    settings = {"RUN": trained[0], "INPUT": tmp_path / "in", "PASTE": tmp_path / "in"}
    run_here("predict.py", **settings, OUTPUT=tmp_path / "out")
    for name, expected in (("a", picture[..., ::-1]), ("b", np.dstack([gray] * 3))):  # OpenCV wrote blue first
        mask = read_mask(tmp_path / "out" / f"{name}.png")
        for folder in ("overlays", "full/overlays"):
            (overlay,) = (tmp_path / "out" / folder).rglob(f"{name}.png")
            drawn = read_image(overlay)
            assert (mask == 0).any() and np.array_equal(drawn[mask == 0], expected[mask == 0])


@pytest.mark.slow
def test_each_of_several_networks_is_loaded_once(trained, monkeypatch):
    files, loaded = [trained[0] / "best_dice.keras", trained[0] / "last.keras"], []
    monkeypatch.setattr(averaging, "load_for_prediction", lambda file, _: loaded.append(file) or load_network(file))
    ensemble = averaging.Ensemble(files)
    assert (ensemble.size, ensemble.channels) == (24, 1)
    pictures = [np.zeros((24, 24), np.uint8)]
    sums = list(ensemble.running_sums(lambda: pictures, fit="resize"))
    assert len(sums) == 2 and loaded == files
    ((picture, mean),) = ensemble.predict(lambda: pictures, len(pictures), fit="resize")
    assert picture is pictures[0] and np.array_equal(mean, sums[-1][2] / 2)


def test_images_are_predicted_without_simpleitk(trained, tmp_path):
    """It is for volumes, and takes a while to load."""
    write_image(tmp_path / "in" / "a.png", disc_slice(24, 1)[0])
    program = "import runpy, sys; runpy.run_path('predict.py', run_name='__main__'); print('SimpleITK' in sys.modules)"
    flags = flags_of({"RUN": trained[0], "INPUT": tmp_path / "in", "OUTPUT": tmp_path / "out"})
    command = [sys.executable, "-c", program, *flags]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert output.endswith("\nFalse\n") and (tmp_path / "out" / "a.png").is_file()


def test_a_folder_of_volumes_is_predicted_as_each_of_them(trained, tmp_path):
    """Masks in a folder for each volume, and label volumes and tables as of one; a broken volume stops all, by name."""
    for name, seed in (("a", 1), ("b", 2)):
        write(tmp_path / "in" / name, "scan.nii.gz", as_volume(block(seed=seed)[0]))
    settings = {"RUN": trained[0], "OVERLAYS": False}
    out = run_here("predict.py", **settings, INPUT=tmp_path / "in", OUTPUT=tmp_path / "all").stdout
    for name in ("a", "b"):
        single = tmp_path / f"of_{name}"
        run_here("predict.py", **settings, INPUT=tmp_path / "in" / name / "scan.nii.gz", OUTPUT=single)
        masks = sorted(single.glob("*.png"))
        assert masks and f"wrote {2 * len(masks)} masks, 2 label volumes to" in out
        for mask in masks:
            assert mask.read_bytes() == (tmp_path / "all" / f"{name}_scan" / mask.name).read_bytes()
        assert (single / "scan.nii.gz").read_bytes() == (tmp_path / "all" / f"{name}_scan.nii.gz").read_bytes()
    table = pd.read_csv(tmp_path / "all" / "volumes.csv")
    assert table["case"].tolist() == ["a_scan", "b_scan"]
    (tmp_path / "in" / "c.nii").write_bytes((tmp_path / "in" / "a" / "scan.nii.gz").read_bytes()[:60])
    assert_refused("predict.py", "c.nii", **settings, INPUT=tmp_path / "in", OUTPUT=tmp_path / "none")
    assert not (tmp_path / "none").exists() and not leftovers(tmp_path)


def test_two_volumes_of_a_folder_are_in_memory(tmp_path):
    for name in "abcd":
        write(tmp_path, f"{name}.mha", as_volume(block(seed=ord(name))[0]))
    source = VolumeInput(tmp_path, "axial", None, None, None)
    alone = {name: VolumeInput(tmp_path / f"{name}.mha", "axial", None, None, None) for name in "abcd"}
    for s in source.slices:
        assert np.array_equal(source.read(s), alone[s.case].read(s._replace(case="")))
        assert s.path in source._newest and len(source._newest) <= 2
        assert source.range_of(s) == alone[s.case].range_of(s) and source.spacing_of(s) == alone[s.case].spacing_of(s)


@pytest.mark.parametrize(
    ("fit", "shape", "spacing", "differs"),
    [
        ("resize", (64, 64), (0.5, 0.5), False),
        ("resize", (64, 96), (0.5, 0.5), True),
        ("pad", (64, 20), (0.5, 0.5), False),
        ("pad", (128, 20), (0.5, 0.5), True),
        ("tile", (500, 500), (1, 1), False),
        ("tile", (500, 500), (1.2, 0.82), False),
        ("tile", (500, 500), (0.7, 1), True),
        ("tile", (500, 500), None, False),
    ],
)
def test_pixels_unlike_those_of_training_are_said(fit, shape, spacing, differs):
    pixels = PixelSizes([1.0, 1.0], 32, fit)
    pixels.add(shape, spacing)
    assert bool(pixels.note()) == differs
    assert not differs or "in 1 of 1 image (" in pixels.note()
    unknown = PixelSizes(None, 32, fit)
    unknown.add(shape, spacing)
    assert unknown.note() == ""


def files_of(folder):
    """Content of every file but the manifest, which has a digest of prediction.json."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".made_files.json"]
    return {path.relative_to(folder): path.read_bytes() for path in files}


@pytest.mark.slow
def test_workers_predict_what_one_run_predicts(scheduler, trained, packed, tmp_path):
    """Byte for byte: cases of which some came from a volume, whole and in tiles."""
    cases = tmp_path / "cases"
    shutil.copytree(packed["cases"], cases)
    grid = {
        "size": [24, 24, 4],
        "spacing": [1.0, 1.0, 2.0],
        "origin": [0.0] * 3,
        "direction": np.eye(3).ravel().tolist(),
    }
    entries = {f"{i + 1:04d}": {"index": i, "image_size": [24, 24], "box": [0, 0, 24, 24]} for i in range(4)}
    for case in ("case02", "case03"):
        volume = {"plane": "axial", "grid": grid, "geometry": grid}
        write_json(cases / case / "case.json", {"slices": entries, "volume": volume})
    settings = {"RUN": trained[0], "INPUT": cases, "BATCH_SIZE": 3, "UNCERTAINTY": True}
    for name, workers in (("alone", {}), ("shared", {"WORKERS": scheduler})):
        for fit, precision in (("resize", "auto"), ("tile", "mixed_bfloat16")):
            out, how = tmp_path / name / fit / "out", {"FIT": fit, "OVERLAP": 0.6, "PRECISION": precision}
            run_here("predict.py", **settings, **how, OUTPUT=out, **workers)
    alone, shared = bytes_of(tmp_path / "alone"), bytes_of(tmp_path / "shared")
    assert alone == shared and alone["resize/out/volumes.csv"].count(b"case0") == 2
    assert not leftovers(tmp_path)


def test_bad_input_of_predict(trained, packed, tmp_path):
    run, _ = trained
    good = {"RUN": run, "INPUT": packed["cases"], "OUTPUT": tmp_path / "out"}
    assert_refused("predict.py", "RUN: not set", **{**good, "RUN": ""})
    assert_refused("predict.py", "no trained model", **{**good, "RUN": tmp_path})
    assert_refused("predict.py", "INPUT: not set", **{**good, "INPUT": ""})
    assert_refused("predict.py", "THRESHOLD", status=2, **good, THRESHOLD=2)
    assert_refused("predict.py", "TILE: only for 3-D models (found [8, 8, 8])", status=2, **good, TILE=[8, 8, 8])
    of_volumes = {"PLANE": "coronal", "SPACING": 2.0, "SERIES": 1, "NOT_FINITE": 0.0, "WINDOW": [0.0, 9.0]}
    for name, value in of_volumes.items():
        assert_refused(
            "predict.py", f"{name}: only for volumes", f"(found {value!r})", status=2, **good, **{name: value}
        )
    (tmp_path / "empty").mkdir()
    assert_refused("predict.py", "INPUT: no image", **{**good, "INPUT": tmp_path / "empty"})
    cut = tmp_path / "cut.keras"
    cut.write_bytes((run / "last.keras").read_bytes()[:500])
    assert_refused("predict.py", "cut.keras: damaged", **{**good, "RUN": cut})
    write_image(tmp_path / "in" / "a.png", disc_slice(24, 1)[0])
    (tmp_path / "in" / "b.png").write_bytes((tmp_path / "in" / "a.png").read_bytes()[:-9])
    assert_refused("predict.py", "b.png: file is cut short", **{**good, "INPUT": tmp_path / "in"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert_refused("predict.py", "exists", **{**good, "OUTPUT": tmp_path / "mine"})
    assert_refused("predict.py", "not made by this toolkit", **{**good, "OUTPUT": tmp_path / "mine"}, REPLACE=True)
    assert (tmp_path / "mine" / "notes.txt").exists() and not (tmp_path / "out").exists()
    assert not leftovers(tmp_path)

"""0_import_images.py: images as people have them, into case folders."""

import json
from itertools import pairwise

import cv2
import numpy as np
import pytest
from drawings import disc_slice, make_cases, write_image, write_nnunet_images
from hypothesis import given
from hypothesis import strategies as st
from running import REAL_DATA, assert_refused, leftovers, lines_of_workers, run_here, run_script

from common.slices.images import cut, fit_boxes, read_image, read_mask, read_slice
from common.slices.matching import common_names, patients_in

SCRIPT = "preprocess/0_import_images.py"


def pictures(root, names=("1", "2", "10"), size=(30, 40), ending=".png", masks="{}_mask"):
    """Write images and masks of their own values; returns them by name."""
    made = {}
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        image = rng.integers(0, 256, size, np.uint8)
        mask = np.where(rng.random(size) > 0.7, 255, 0).astype(np.uint8)
        write_image(root / "images" / f"{name}{ending}", image)
        write_image(root / "masks" / f"{masks.format(name)}.png", mask)
        made[name] = image, mask
    return made


def run_import(root, **settings):
    settings = {"IMAGES": root / "images", "MASKS": root / "masks", "CASES": root / "cases", "SIZE": 32, **settings}
    return run_here(SCRIPT, **settings)


def test_loose_pictures_become_one_case_in_natural_order(tmp_path):
    made = pictures(tmp_path, size=(32, 32))
    out = run_import(tmp_path).stdout
    assert "mask name pattern: {id}_mask" in out and "wrote 3 slices of 32x32" in out
    record = json.loads((tmp_path / "cases" / "case01" / "case.json").read_text())
    for number, name in enumerate(("1", "2", "10"), 1):
        file = f"{number:04d}.png"
        assert np.array_equal(read_slice(tmp_path / "cases" / "case01" / "x" / file), made[name][0])
        assert np.array_equal(read_mask(tmp_path / "cases" / "case01" / "y" / file), made[name][1])
        entry = record["slices"][f"{number:04d}"]
        assert entry == {
            "image": f"{name}.png",
            "mask": f"{name}_mask.png",
            "image_size": [32, 32],
            "box": [0, 0, 32, 32],
        }


@pytest.mark.slow
@pytest.mark.parametrize("by_class", [False, True])
def test_workers_import_what_one_run_imports(scheduler, tmp_path, by_class):
    """Byte for byte and line for line, with the notes on images and a file that is cut short; in tiles of colors."""
    made = pictures(tmp_path, names=list(map(str, range(9))), size=(70, 50), masks="{}")
    for number, (name, (image, _)) in enumerate(made.items()):
        write_image(tmp_path / "images" / f"{name}.png", np.dstack([image, image, image + 1]) if number % 3 else image)
        for organ in ("heart", "liver") if by_class else ():
            (tmp_path / "masks" / organ).mkdir(parents=True, exist_ok=True)
            mask = np.where(image > (200 if organ == "heart" else 90), 255, 0).astype(np.uint8)
            write_image(tmp_path / "masks" / organ / f"{name}.png", mask)
        if by_class:
            (tmp_path / "masks" / f"{name}.png").unlink()
    cut_short = tmp_path / "images" / "4.png"
    cut_short.write_bytes(cut_short.read_bytes()[:-300])
    settings = {"IMAGES": tmp_path / "images", "SIZE": 32, "FIT": "tile", "CASE_FROM": "image"}
    settings["MASKS"] = tmp_path / ("masks/{class}/{id}.png" if by_class else "masks")
    alone = lines_of_workers(SCRIPT, settings, scheduler, tmp_path)
    for words in ("note: 5 of 8 images lost their colors", "4.png", "wrote 48 slices"):
        assert any(words in line for line in alone), alone


@pytest.mark.parametrize("folder", ["images", "masks"])  # masks: one folder for both
def test_crops_and_their_labels(tmp_path, folder):
    made = pictures(tmp_path, names=["HNC01-1001", "HNC01-1002"], size=(32, 32), masks="{}_label")
    for path in list((tmp_path / "images").iterdir()):
        path.rename(tmp_path / folder / f"{path.stem}_crop{path.suffix}")
    out = run_import(tmp_path, IMAGES=tmp_path / folder, CASE_FROM="folder").stdout
    assert "mask name pattern: {id}_label for images {id}_crop" in out and "wrote 2 slices of 32x32" in out
    for number, (image, mask) in enumerate(made.values(), 1):
        (case,) = (tmp_path / "cases").iterdir()
        assert np.array_equal(read_slice(case / "x" / f"{number:04d}.png"), image)
        assert np.array_equal(read_mask(case / "y" / f"{number:04d}.png"), mask)


def test_each_picture_its_own_case_and_subfolders_as_cases(tmp_path):
    pictures(tmp_path)
    run_import(tmp_path, CASE_FROM="image")
    assert sorted(path.name for path in (tmp_path / "cases").iterdir()) == ["case_1", "case_10", "case_2"]
    for name in ("ann", "case7"):
        image, mask = disc_slice(32, 1)
        write_image(tmp_path / "other" / name / "image" / "a.tif", image)
        write_image(tmp_path / "other" / name / "label" / "a.png", mask)
    run_script(SCRIPT, IMAGES=tmp_path / "other", MASKS=tmp_path / "other", CASES=tmp_path / "two", SIZE=32)
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["case7", "case_ann"]


@pytest.mark.parametrize("fit", ["resize", "crop", "pad", "tile"])
def test_fit(tmp_path, fit):
    made = pictures(tmp_path, names=["1"], size=(40, 70))
    run_import(tmp_path, FIT=fit)
    image, mask = made["1"]
    case = tmp_path / "cases" / "case01"
    boxes = {
        "resize": [[0, 0, 70, 40]],
        "crop": [[19, 4, 32, 32]],
        "pad": [[0, -15, 70, 70]],
        "tile": [[x, y, 32, 32] for y in (0, 8) for x in (0, 19, 38)],
    }[fit]
    for number, box in enumerate(boxes, 1):
        left, top, width, height = box
        padded = cv2.copyMakeBorder(mask, 99, 99, 99, 99, cv2.BORDER_CONSTANT)
        expected = padded[99 + top : 99 + top + height, 99 + left : 99 + left + width]
        expected = cv2.resize(expected, (32, 32), interpolation=cv2.INTER_NEAREST)
        assert np.array_equal(read_mask(case / "y" / f"{number:04d}.png"), expected)
    entries = json.loads((case / "case.json").read_text())["slices"]
    assert [entry["box"] for entry in entries.values()] == boxes
    if fit in ("crop", "tile"):
        left, top, _, _ = boxes[-1]
        last = read_slice(case / "x" / f"{len(boxes):04d}.png")
        assert np.array_equal(last, image[top : top + 32, left : left + 32])


@given(st.integers(1, 90), st.integers(1, 90), st.integers(8, 40), st.integers(0, 7))
def test_tiles_cover_the_picture(height, width, size, overlap):
    covered = np.zeros((height, width), bool)
    boxes = fit_boxes((height, width), size, "tile", overlap)
    for left, top, w, h in boxes:
        assert (w, h) == (size, size)
        covered[max(top, 0) : top + h, max(left, 0) : left + w] = True
    assert covered.all()
    for axis, length in ((0, width), (1, height)):
        starts = sorted({box[axis] for box in boxes})
        assert all(b - a <= size - overlap for a, b in pairwise(starts))
        assert length <= size or (starts[0] == 0 and starts[-1] == length - size)


@given(st.integers(-9, 20), st.integers(-9, 20), st.integers(1, 25))
def test_cut_takes_what_is_inside_and_black_outside(left, top, side):
    picture = np.arange(1, 13 * 17 + 1, dtype=np.uint16).reshape(13, 17)
    if left >= 17 or top >= 13 or left + side <= 0 or top + side <= 0:
        return
    out = cut(picture, [left, top, side, side], side)
    for y in range(side):
        for x in range(side):
            inside = 0 <= top + y < 13 and 0 <= left + x < 17
            assert out[y, x] == (picture[top + y, left + x] if inside else 0)


@pytest.mark.parametrize("ending", [".png", ".tif", ".bmp", ".jpg"])
@pytest.mark.parametrize("kind", ["gray", "color", "alpha", "16 bit"])
def test_kinds_of_pictures(tmp_path, ending, kind):
    image, mask = disc_slice(32, 3)
    stored = {
        "gray": image,
        "color": cv2.merge([image] * 3),
        "alpha": cv2.merge([image] * 3 + [np.full_like(image, 255)]),
        "16 bit": image.astype(np.uint16) * 257,
    }[kind]
    if (kind == "alpha" and ending in (".jpg", ".bmp")) or (kind == "16 bit" and ending not in (".png", ".tif")):
        pytest.skip("the format does not have it")
    write_image(tmp_path / "images" / f"a{ending}", stored)
    write_image(tmp_path / "masks" / "a.png", mask)
    run_import(tmp_path)
    out = read_image(tmp_path / "cases" / "case01" / "x" / "0001.png")
    expected = image.astype(np.uint16) * 257 if kind == "16 bit" else image
    assert out.dtype == expected.dtype and out.ndim == 2
    assert np.abs(out.astype(int) - expected).max() <= (20 if ending == ".jpg" else 0)


def test_mask_values_threshold_and_unmatched(tmp_path):
    for name, value in (("a", 1), ("b", 7)):
        image, mask = disc_slice(32, 3)
        write_image(tmp_path / "images" / f"{name}.png", image)
        write_image(tmp_path / "masks" / f"{name}.png", (mask > 0).astype(np.uint8) * value)
    write_image(tmp_path / "images" / "c.png", image)
    run_import(tmp_path, MASK_VALUES={1: 1, 7: 2}, UNMATCHED="empty", STRETCH=True)
    case = tmp_path / "cases" / "case01"
    assert [int(read_mask(case / "y" / f"000{i}.png").max()) for i in (1, 2, 3)] == [1, 2, 0]
    stretched = read_slice(case / "x" / "0001.png")
    assert stretched.min() == 0 and stretched.max() == 255
    run_import(tmp_path, MASK_THRESHOLD=3, UNMATCHED="skip", REPLACE=True)
    assert [int(read_mask(case / "y" / f"000{i}.png").max()) for i in (1, 2)] == [0, 255]


def test_bad_pictures_are_refused_and_nothing_is_written(tmp_path):
    pictures(tmp_path)
    places = {"IMAGES": tmp_path / "images", "MASKS": tmp_path / "masks", "CASES": tmp_path / "cases"}

    def refused(*words, **settings):
        assert_refused(SCRIPT, *words, **{**places, **settings})
        assert not (tmp_path / "cases").exists() or not list((tmp_path / "cases").iterdir())

    refused("does not exist", IMAGES=tmp_path / "gone")
    refused("MASKS: not set", MASKS="")
    refused("IMAGES: no image", IMAGES=tmp_path / "images" / "{id}.bmp")
    refused("MASKS: no mask", MASKS=tmp_path / "masks" / "{id}_seg.png")
    refused("FIT", "'tile'", status=2, FIT="stretch")
    refused("MASK_VALUES", status=2, MASK_VALUES={"a": 1})

    (tmp_path / "images" / "1.png").unlink()
    refused("1_mask.png: no image in")
    pictures(tmp_path)
    write_image(tmp_path / "images" / "extra.png", np.zeros((30, 40), np.uint8))
    refused("extra.png: no mask in")
    (tmp_path / "images" / "extra.png").unlink()
    for name in ("1", "2", "10"):
        write_image(tmp_path / "masks" / f"{name}_mask.png", np.eye(30, 40, dtype=np.uint8))
    refused("0 and 1", '--mask-values "{1: 255}"')
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("case_from", ["folder", "image"])
def test_one_broken_picture_among_many(tmp_path, case_from):
    for number in range(100):
        image = np.full((8, 8), number, np.uint8)
        image[-1, -1] = 255  # images of one value are refused
        write_image(tmp_path / "images" / f"{number:03d}.png", image)
        write_image(tmp_path / "masks" / f"{number:03d}.png", 255 * np.eye(8, dtype=np.uint8))
    broken = tmp_path / "images" / "042.png"
    good = broken.read_bytes()
    places = {"IMAGES": tmp_path / "images", "MASKS": tmp_path / "masks", "CASES": tmp_path / "cases"}
    settings = places | {"SIZE": 8, "CASE_FROM": case_from}
    for content, said in (
        (good[: len(good) // 2], "042.png: file is cut short"),
        (b"no picture at all", "042.png: not a readable image"),
        (b"", "042.png: file is empty"),
    ):
        broken.write_bytes(content)
        message = assert_refused(SCRIPT, said, "Imported the others", "--skip-broken", **settings, REPLACE=True)
        assert message.count(".png") == 1
        written = sorted((tmp_path / "cases").rglob("x/*.png"))
        assert {int(read_image(path)[0, 0]) for path in written} == set(range(100)) - {42}
        assert len(list((tmp_path / "cases").iterdir())) == (1 if case_from == "folder" else 99)
    said = run_here(SCRIPT, "--skip-broken", "--replace", **settings).stdout
    assert "042.png: file is empty" in said and "wrote 99 slices" in said
    write_image(broken, np.zeros((9, 9), np.uint8))
    assert_refused(SCRIPT, "042.png: size differs from its mask", "(found 9x9 and 8x8)", **settings, REPLACE=True)
    broken.write_bytes(good)
    write_image(tmp_path / "masks" / "042.png", np.full((8, 8), 200, np.uint8))
    assert_refused(SCRIPT, "042.png", "200", "--mask-threshold", **settings, REPLACE=True)
    assert not leftovers(tmp_path)


def test_what_is_wrong_with_every_mask_is_said_once(tmp_path):
    """Masks of JPEG, also with the value that stands for ignored pixels, and colored masks."""
    made = pictures(tmp_path, size=(64, 64))
    for name in made:
        (tmp_path / "masks" / f"{name}_mask.png").unlink()
        disc = cv2.circle(np.zeros((64, 64), np.uint8), (30, 30), 20, 255, -1)
        write_image(tmp_path / "masks" / f"{name}_mask.jpg", disc)
        write_image(tmp_path / "colored" / f"{name}_mask.png", np.dstack([disc, disc, 0 * disc]))
    assert 254 in read_image(tmp_path / "masks" / "1_mask.jpg")
    places = {"IMAGES": tmp_path / "images", "MASKS": tmp_path / "masks", "CASES": tmp_path / "cases"}
    soft = assert_refused(SCRIPT, "3 images cannot be used: expected mask values 0 and 255", **places)
    assert soft.count("--mask-threshold 127") == 1 and soft.count(".jpg") == 3
    colored = assert_refused(
        SCRIPT, "3 images cannot be used: expected a gray", **places | {"MASKS": tmp_path / "colored"}
    )
    assert colored.count("--colors \"{'#00ffff': 1}\"") == 1 and colored.count(".png") == 3
    assert "wrote 3 slices" in run_import(tmp_path, MASK_THRESHOLD=127).stdout


@pytest.mark.parametrize("masks", ["{}_mask", "{}"])
def test_swapped_folders_are_said(tmp_path, masks):
    pictures(tmp_path, masks=masks)
    swapped = {"IMAGES": tmp_path / "masks", "MASKS": tmp_path / "images", "CASES": tmp_path / "cases"}
    assert "swap" in assert_refused(SCRIPT, **swapped)
    same = {"IMAGES": tmp_path / "images", "MASKS": tmp_path / "images", "CASES": tmp_path / "cases"}
    (tmp_path / "link").symlink_to(tmp_path / "images")
    for folder in (tmp_path / "images", tmp_path / "link"):  # one folder, as it is often written in two ways
        assert_refused(SCRIPT, "is also a mask; pass their folder", **same | {"MASKS": folder})


def test_an_existing_case_is_not_lost(tmp_path):
    pictures(tmp_path)
    run_import(tmp_path)
    places = {"IMAGES": tmp_path / "images", "MASKS": tmp_path / "masks", "CASES": tmp_path / "cases"}
    assert_refused(SCRIPT, "exists", "--replace", **places)
    outline = tmp_path / "cases" / "case01" / "y" / "0001.png"
    outline.write_bytes(outline.read_bytes() + b"edited by hand")
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "cases").rglob("*.png"))
    assert_refused(SCRIPT, "case01: contains files that no script made, or that changed since", **places, REPLACE=True)
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "cases").rglob("*.png")) == before


def test_dark_16_bit_images_and_tiny_ones(tmp_path):
    """12-bit values in 16 bits are a fraction of what the model could see."""
    image, mask = disc_slice(32, 1)
    write_image(tmp_path / "images" / "a.png", image.astype(np.uint16) * 16)
    write_image(tmp_path / "masks" / "a.png", mask)
    assert "of 65535); consider --stretch" in run_import(tmp_path).stdout
    assert "--stretch" not in run_import(tmp_path, STRETCH=True, REPLACE=True).stdout
    for shape in ((1, 1), (1, 40), (40, 7)):
        write_image(tmp_path / "images" / "a.png", np.zeros(shape, np.uint8))
        write_image(tmp_path / "masks" / "a.png", np.zeros(shape, np.uint8))
        for fit in ("resize", "crop", "pad", "tile"):
            places = {"IMAGES": tmp_path / "images", "MASKS": tmp_path / "masks", "CASES": tmp_path / "c"}
            assert_refused(SCRIPT, f"too small for an image (found {shape[1]}x{shape[0]}", FIT=fit, **places)


def test_masks_that_do_not_fit_the_others_are_listed(tmp_path):
    pictures(tmp_path, names=[str(i) for i in range(5)])
    write_image(tmp_path / "masks" / "3_mask.png", np.eye(30, 40, dtype=np.uint8))
    places = {"IMAGES": tmp_path / "images", "MASKS": tmp_path / "masks", "CASES": tmp_path / "cases"}
    message = assert_refused(SCRIPT, "3_mask.png: expected 0 and 255 as in the other masks (found 0, 1)", **places)
    assert message.count(".png") == 1


def test_the_same_images_under_other_case_names(tmp_path):
    pictures(tmp_path)
    places = {"IMAGES": tmp_path / "images", "MASKS": tmp_path / "masks", "CASES": tmp_path / "cases"}
    run_import(tmp_path)
    write_image(tmp_path / "cases" / "case_mine" / "x" / "1.png", np.zeros((8, 8), np.uint8))
    (tmp_path / "cases" / "case_mine" / "y").mkdir()
    assert_refused(SCRIPT, "cases of the same images under other names", "case01", CASE_FROM="image", **places)
    note = tmp_path / "cases" / "case01" / "x" / "notes.txt"
    note.write_text("mine")
    assert_refused(SCRIPT, "case01", "notes.txt", CASE_FROM="image", REPLACE=True, **places)
    note.unlink()
    assert "removed 1 case" in run_import(tmp_path, CASE_FROM="image", REPLACE=True).stdout
    assert sorted(path.name for path in (tmp_path / "cases").iterdir()) == ["case_1", "case_10", "case_2", "case_mine"]
    write_image(tmp_path / "images" / "ward" / "1.png", np.zeros((30, 40), np.uint8))
    write_image(tmp_path / "masks" / "ward" / "1.png", np.zeros((30, 40), np.uint8))
    more = {"IMAGES": tmp_path / "images" / "ward", "MASKS": tmp_path / "masks" / "ward"}
    message = assert_refused(SCRIPT, "same images", **places | more)  # "1.png" is one of the names that are known
    assert "case_1" in message


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=f"{REAL_DATA} is not there")
def test_real_pictures(tmp_path):
    membrane, brain = REAL_DATA / "membrane", REAL_DATA / "brain_tumour"
    run_here(SCRIPT, IMAGES=membrane, MASKS=membrane, CASES=tmp_path / "m", SIZE=256, FIT="tile")
    for case in ("case01", "case02"):
        assert len(list((tmp_path / "m" / case / "x").iterdir())) == 40
        whole = read_image(membrane / case / "x" / "0003.png")
        assert np.array_equal(read_slice(tmp_path / "m" / case / "x" / "0010.png"), whole[:256, 256:])
    run_here(SCRIPT, IMAGES=brain / "images", MASKS=brain / "masks", CASES=tmp_path / "b", SIZE=256, CASE_FROM="image")
    assert len(list((tmp_path / "b").iterdir())) == 44
    assert set(np.unique(read_mask(tmp_path / "b" / "case_3000" / "y" / "0001.png"))) == {0, 255}


# --- patients in names, colors, and notes


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        (["P004_s01", "P004_s02", "P1_s01"], ["P004", "P004", "P1"]),
        (["case 12 slice 3", "case 12 slice 4", "case 13 slice 1"], ["case 12", "case 12", "case 13"]),
        (["TCGA_CS_4941_19960909_1", "TCGA_CS_4941_19960909_12", "TCGA_HT_1_2_1"], None),
        (["tumor_001", "tumor_002"], []),
        (["benign (1)", "benign (2)", "malignant (1)"], []),
        (["P1_s1", "P1_s2"], []),
        (["P1_s1", "P2_s1"], []),
        (["P1_s1", "P1_s2", "P2_s1", "notes"], []),
        ([], []),
    ],
)
def test_names_tell_patients(names, patients):
    found = patients_in(names)
    expected = [name.rpartition("_")[0] for name in names] if patients is None else patients
    assert list(found.values()) == expected and list(found) == (names if expected else [])


PATIENTS = ["P004_s01", "P004_s02", "P010_s01"]


def test_slices_of_a_patient_are_one_case(tmp_path):
    pictures(tmp_path, PATIENTS)
    assert "2 cases from file names such as P004_s01" in run_import(tmp_path).stdout
    assert {path.name: len(list(path.glob("x/*"))) for path in (tmp_path / "cases").iterdir()} == {
        "case_P004": 2,
        "case_P010": 1,
    }
    out = run_import(tmp_path, CASE_FROM="image", CASES=tmp_path / "each").stdout
    assert "note: P004_s01 looks like a slice of a patient" in out and "as 3 cases" in out


def test_a_pattern_tells_the_case(tmp_path):
    pictures(tmp_path, ["liver_1", "liver_2", "my_heart_1"])
    images = tmp_path / "images" / "{case}_{id}.png"
    assert "mask name pattern: {case}_{id}_mask" in run_import(tmp_path, IMAGES=images).stdout
    assert {path.name for path in (tmp_path / "cases").iterdir()} == {"case_liver", "case_my_heart"}
    record = json.loads((tmp_path / "cases/case_my_heart/case.json").read_text())
    assert record["slices"]["0001"]["image"] == "my_heart_1.png"
    masks = tmp_path / "masks" / "{case}_{id}_mask.png"
    run_import(tmp_path, IMAGES=images, MASKS=masks, CASES=tmp_path / "again")
    for wrong in ("{case}{id}.png", "{case}.png", "{case}_{case}_{id}.png"):
        assert_refused(SCRIPT, "IMAGES: expected one {id}", IMAGES=tmp_path / "images" / wrong, MASKS=masks)


def test_colored_masks(tmp_path):
    pictures(tmp_path, size=(32, 32))
    colored = np.zeros((32, 32, 3), np.uint8)
    colored[:8], colored[8:12] = (255, 0, 0), (0, 0, 255)
    for path in (tmp_path / "masks").iterdir():
        write_image(path, colored[..., ::-1])  # OpenCV writes blue first
    places = {"IMAGES": tmp_path / "images", "MASKS": tmp_path / "masks", "CASES": tmp_path / "cases", "SIZE": 32}
    advice = "--colors \"{'#0000ff': 1, '#ff0000': 2}\""
    message = assert_refused(SCRIPT, "expected a gray mask (found 2 colors)", advice, **places)
    assert "#000000" not in message
    assert "2 classes" in run_import(tmp_path, COLORS={"#ff0000": 1, "#0000ff": 2}).stdout
    mask = read_mask(tmp_path / "cases" / "case01" / "y" / "0001.png")
    assert (mask[:8] == 1).all() and (mask[8:12] == 2).all() and not mask[12:].any()
    run_import(tmp_path, COLORS={"#ff0000": 1, "#0000ff": 1}, REPLACE=True)
    mask = read_mask(tmp_path / "cases" / "case01" / "y" / "0001.png")
    assert (mask[:12] == 255).all() and not mask[12:].any(), "one class is 255"
    assert_refused(SCRIPT, "without an entry in COLORS (found #0000ff)", COLORS={"#ff0000": 1}, REPLACE=True, **places)
    assert_refused(SCRIPT, "COLORS", status=2, COLORS={"#ff0000": 1}, MASK_THRESHOLD=3, **places)
    assert_refused(SCRIPT, 'maps colors to classes, such as {"#ff0000": 1}', status=2, COLORS={"red": 1}, **places)


def test_what_looks_like_a_mistake_is_said(tmp_path):
    pictures(tmp_path, size=(30, 40))
    assert (
        "note: 3 of 3 images squeezed to a square (sides differ by up to a factor of 1.3)"
        in run_import(tmp_path).stdout
    )
    assert "squeezed" not in run_import(tmp_path, FIT="pad", REPLACE=True).stdout
    for path in (tmp_path / "masks").iterdir():
        write_image(path, 255 - read_image(path))
    assert "foreground covers more than half of 3 of 3 masks" in run_import(tmp_path, REPLACE=True).stdout
    out = run_import(tmp_path, REPLACE=True, MASK_VALUES={0: 255, 255: 0}).stdout
    assert "foreground covers" not in out
    for path in (tmp_path / "masks").iterdir():
        write_image(path, np.zeros((30, 40), np.uint8))
    places = {"IMAGES": tmp_path / "images", "MASKS": tmp_path / "masks", "CASES": tmp_path / "cases", "SIZE": 32}
    assert_refused(SCRIPT, "MASKS: every mask in", "is empty (found 3 masks", REPLACE=True, **places)


def test_images_that_show_nothing(tmp_path):
    pictures(tmp_path)
    first, *others = sorted((tmp_path / "images").iterdir())
    write_image(first, np.full_like(read_image(first), 7))
    assert "note: 1 of 3 images with one value only, such as black" in run_import(tmp_path).stdout
    for path in others:
        write_image(path, np.zeros_like(read_image(path)))
    places = {"IMAGES": tmp_path / "images", "MASKS": tmp_path / "masks", "CASES": tmp_path / "new"}
    assert_refused(SCRIPT, "IMAGES: each image in", "has one value only; check how they were exported", **places)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("classes", [1, 2])
def test_a_data_set_of_nnunet(tmp_path, classes):
    root = tmp_path / "Dataset003_Discs"
    about, drawn = write_nnunet_images(root, classes=classes)
    run_here(SCRIPT, IMAGES=root, CASES=tmp_path / "cases", SIZE=32)
    for name, (image, mask) in drawn.items():
        case = tmp_path / "cases" / f"case_{name}"
        np.testing.assert_array_equal(read_image(case / "x" / "0001.png"), image)
        np.testing.assert_array_equal(read_image(case / "y" / "0001.png"), mask)
        record = json.loads((case / "case.json").read_text())
        assert (
            record["class_names"] == ["liver", "tumor"][:classes] and record["slices"]["0001"]["mask"] == f"{name}.png"
        )
    (root / "dataset.json").write_text(json.dumps(about | {"channel_names": {"0": "a", "1": "b"}}))
    for name in ("a", "b", "c"):
        write_image(root / "imagesTr" / f"{name}_0001.png", 255 - drawn[name][0])
    run_here(SCRIPT, IMAGES=root, CASES=tmp_path / "channels", SIZE=32)
    for name, (image, _) in drawn.items():
        found = read_image(tmp_path / "channels" / f"case_{name}" / "x" / "0001.tif")
        np.testing.assert_array_equal(found, np.dstack([image, 255 - image]))
    (root / "imagesTr" / "b_0001.png").unlink()
    assert_refused(SCRIPT, "channel_names", IMAGES=root, CASES=tmp_path / "more")
    for name in ("a", "b", "c"):
        write_image(root / "imagesTr" / f"{name}_0000.png", np.dstack([drawn[name][0]] * 2 + [255 - drawn[name][0]]))
        (root / "imagesTr" / f"{name}_0001.png").unlink(missing_ok=True)
    (root / "dataset.json").write_text(json.dumps(about | {"channel_names": {"0": "R", "1": "G", "2": "B"}}))
    run_here(SCRIPT, IMAGES=root, CASES=tmp_path / "colors", SIZE=32)
    for name, (image, _) in drawn.items():
        found = read_image(tmp_path / "colors" / f"case_{name}" / "x" / "0001.png")
        np.testing.assert_array_equal(found, np.dstack([255 - image, image, image]))  # OpenCV wrote blue first
    labels = {name: number for name, number in about["labels"].items() if number <= 1} | {"ignore": 2}
    (root / "dataset.json").write_text(json.dumps(about | {"labels": labels}))
    for name, (_, mask) in drawn.items():
        write_image(root / "imagesTr" / f"{name}_0000.png", drawn[name][0])
        numbers = (mask > 0).astype(np.uint8)
        numbers[:3] = 2
        write_image(root / "labelsTr" / f"{name}.png", numbers)
    run_here(SCRIPT, IMAGES=root, CASES=tmp_path / "ignored", SIZE=32)
    for name, (_, mask) in drawn.items():
        found = read_image(tmp_path / "ignored" / f"case_{name}" / "y" / "0001.png")
        expected = np.where(mask > 0, 255, 0)
        expected[:3] = 254
        np.testing.assert_array_equal(found, expected)
    run_here("preprocess/2_write_lists.py", CASES=tmp_path / "ignored", LISTS=tmp_path / "lists", TEST_SHARE=0)
    run_here("export_dataset.py", LISTS=tmp_path / "lists", OUTPUT=tmp_path / "Dataset009_Out")
    assert json.loads((tmp_path / "Dataset009_Out" / "dataset.json").read_text())["labels"]["ignore"] == 2
    for name in drawn:
        again = read_image(tmp_path / "Dataset009_Out" / "labelsTr" / f"case_{name}_0001.png")
        np.testing.assert_array_equal(again, read_image(root / "labelsTr" / f"{name}.png"))


def test_slices_exported_to_nnunet_stay_with_their_case(tmp_path):
    cases = make_cases(tmp_path / "cases", cases=3, slices=2)
    run_here("preprocess/2_write_lists.py", CASES=cases, LISTS=tmp_path / "lists", TEST_SHARE=0)
    run_here("export_dataset.py", LISTS=tmp_path / "lists", OUTPUT=tmp_path / "Dataset001_A")
    said = run_here(SCRIPT, IMAGES=tmp_path / "Dataset001_A", CASES=tmp_path / "again", SIZE=24).stdout
    assert "3 cases from file names" in said
    for case in ("case01", "case02", "case03"):
        for side in ("x", "y"):
            for path in (cases / case / side).iterdir():
                again = tmp_path / "again" / case / side / path.name
                np.testing.assert_array_equal(read_image(again), read_image(path))


@given(
    st.lists(st.from_regex(r"[0-9]{1,3}[a-c]?", fullmatch=True), min_size=2, max_size=8, unique=True),
    st.sampled_from(["", "p7_", "ISIC_", "study-2 "]),
    st.sampled_from(
        [("image_{}", "label_{}"), ("IMG_{}", "IMG_{}_Mask"), ("{}_0000", "{}"), ("volume-{}", "segmentation-{}")]
    ),
)
def test_names_that_differ_in_words_only(ids, shared, patterns):
    images, masks = ([("", shared + pattern.format(one)) for one in ids] for pattern in patterns)
    found = common_names(images, masks)
    assert found is not None and found[2] == dict(zip(images, masks, strict=True))


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["p1_1", "p1_2"], ["p2_1_mask", "p2_2_mask"]),  # of two patients
        (["anna_1", "anna_2"], ["bob_1_mask", "bob_2_mask"]),
        (["a1", "a2"], ["b1", "b2"]),
        (["image_1", "image_2"], ["label_3", "label_4"]),
        (["image_1", "image_2", "image_3"], ["label_1", "label_2", "label_9"]),
        (["image_1"], ["label_1"]),
        ([], ["label_1"]),
    ],
)
def test_names_that_may_be_of_others_are_not_paired(images, masks):
    assert common_names([("", name) for name in images], [("", name) for name in masks]) is None

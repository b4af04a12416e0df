"""Decisions about a user's own images, and the pipeline on them."""

import json

import cv2
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_labels import draw_series
from drawings import disc_slice, make_cases, write_image, write_nnunet_images
from running import assert_refused, run_here, run_script

from common.errors import InputError, SettingError
from common.training.own_data import SIDES, Decisions, choose_final, choose_import, choose_split, kept_outlines
from common.training.run_folder import Run
from common.training.sets import open_set


def values(chosen):
    return {name: value for name, (value, _) in chosen.items()}


def images(folder, names, shape=(40, 40)):
    for name in names:
        write_image(folder / name, np.zeros(shape, np.uint8))
    return folder


@pytest.mark.parametrize(
    ("names", "shape", "minutes", "expected"),
    [
        (["a.png", "b.png"], (300, 300), 20, {"CASE_FROM": "image", "SIZE": 256, "FIT": "resize"}),
        (["a.png", "b.png"], (300, 300), 60, {"SIZE": 256}),
        (["a.png"], (700, 690), 60, {"SIZE": 512, "FIT": "resize"}),
        (["p1_1.png", "p1_2.png", "p2_1.png"], (300, 300), 20, {"CASE_FROM": "folder"}),
        (["p1/a.png", "p1/b.png"], (300, 200), 20, {"CASE_FROM": "folder", "SIZE": 256, "FIT": "pad"}),
        (["a.png"], (40, 40), 20, {"SIZE": 96}),
    ],
)
def test_images(tmp_path, names, shape, minutes, expected):
    folder = images(tmp_path / "images", names, shape)
    script, chosen = choose_import(folder, tmp_path / "masks", None, minutes)
    assert script.endswith("0_import_images.py") and values(chosen) | expected == values(chosen)
    assert values(choose_import(folder, "masks", 128, minutes)[1])["SIZE"] == 128


def test_colors_are_kept(tmp_path):
    folder = images(tmp_path / "images", ["a.png", "b.png"])
    assert "CHANNELS" not in choose_import(folder, "masks", None, 20)[1]
    write_image(folder / "b.png", np.dstack([np.full((40, 40), value, np.uint8) for value in (9, 9, 80)]))
    value, reason = choose_import(folder, "masks", None, 20)[1]["CHANNELS"]
    assert value == "rgb" and reason == "1 of 2 images looked at are in color"


def test_size_and_tiles_follow_the_outlines(tmp_path):
    """Large targets allow small slices; lines of four pixels need tiles. Images among the masks do not count."""
    rng = np.random.default_rng(0)
    folder = images(tmp_path / "images", ["a.png", "b.png", "c.png"], (512, 512))
    for number, name in enumerate("abc"):
        disc = cv2.circle(np.zeros((512, 512), np.uint8), (200, 230 + 20 * number), 90, 255, -1)
        write_image(tmp_path / "discs" / f"{name}.png", disc)
        write_image(tmp_path / "jpeg" / f"{name}.jpg", disc)
        lines = np.zeros((512, 512), np.uint8)
        for start, end in rng.integers(0, 512, (40, 2, 2)).tolist():
            cv2.line(lines, start, end, 255, 4)
        write_image(tmp_path / "lines" / f"{name}.png", lines)
    write_image(tmp_path / "discs" / "scan.png", rng.integers(0, 256, (512, 512)).astype(np.uint8))
    for masks in ("discs", "jpeg"):
        found = values(choose_import(folder, tmp_path / masks, None, 20)[1])
        assert (found["SIZE"], found["FIT"]) == (128, "resize")
        assert values(choose_import(folder, tmp_path / masks, None, 60)[1])["SIZE"] == 512
    _, chosen = choose_import(folder, tmp_path / "lines", None, 20)
    assert (chosen["SIZE"][0], chosen["FIT"][0]) == (256, "tile") and "tiles keep all detail" in chosen["FIT"][1]
    small = images(tmp_path / "small", ["a.png"], (158, 150))
    write_image(tmp_path / "thin" / "a.png", cv2.resize(lines, (150, 158), interpolation=cv2.INTER_NEAREST))
    _, chosen = choose_import(small, tmp_path / "thin", None, 20)
    assert (chosen["SIZE"][0], chosen["FIT"][0]) == (160, "pad") and "no smaller than the images" in chosen["SIZE"][1]
    kept = kept_outlines(sorted((tmp_path / "discs").glob("*.png")))
    assert kept[512] == 1 and 0.97 < kept[128] < kept[256] < 1
    assert kept_outlines([tmp_path / "gone.png"]) == {} == kept_outlines([folder / "a.png"])


def rings(value, edge=None):
    """A disc of a value; with `edge`, a ring of another value around it."""
    mask = np.zeros((64, 64), np.uint8)
    if edge:
        cv2.circle(mask, (30, 30), 20, edge, -1)
    return cv2.circle(mask, (30, 30), 14, value, -1)


RED_BLUE = np.dstack([rings(255), np.zeros((64, 64), np.uint8), np.roll(rings(255), 30)])


@pytest.mark.parametrize(
    ("masks", "ending", "expected"),
    [
        ([rings(255)] * 2, "png", {}),
        ([rings(1)] * 2, "png", {"MASK_VALUES": {1: 255}}),
        ([rings(254)] * 2, "png", {"MASK_VALUES": {254: 255}}),
        ([rings(128), np.dstack([rings(128)] * 3)], "png", {"MASK_VALUES": {128: 255}}),
        ([rings(1, 2)] * 2, "png", {}),
        ([rings(1)] * 25 + [rings(1, 2)] + [rings(1)] * 4, "png", {}),  # one rare class
        ([rings(255, 128)] * 2, "png", {}),  # classes, or pixels to ignore?
        ([rings(255)] * 2, "jpg", {"MASK_THRESHOLD": 127}),
        ([RED_BLUE] * 2, "png", {"COLORS": {"#0000ff": 1, "#ff0000": 2}}),
        ([np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)] * 2, "png", {}),
        ([np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)] * 2, "png", {}),
    ],
)
def test_masks_are_read_as_they_are(tmp_path, masks, ending, expected):
    """What is chosen is what the importer needs; what leaves no sensible choice is left to its message."""
    for number, mask in enumerate(masks):
        write_image(tmp_path / "images" / f"{number}.png", np.random.default_rng(number).integers(0, 99, (64, 64)))
        write_image(tmp_path / "masks" / f"{number}_mask.{ending}", mask)
    script, chosen = choose_import(tmp_path / "images", tmp_path / "masks", 64, 20)
    found = {name: value for name, value in values(chosen).items() if name.startswith(("MASK_", "COLORS"))}
    assert found == expected
    if expected:
        out = run_script(script, CASES=tmp_path / "cases", **values(chosen)).stdout
        assert f"wrote {len(masks)} slices" in out
    given = {"IGNORE": 128}
    assert choose_import(tmp_path / "images", tmp_path / "masks", 64, 20, given)[1]["IGNORE"] == (128, "as you said")


def test_images_and_masks_in_one_folder(tmp_path):
    """Side by side, and in subfolders; the masks are not taken for images."""
    for number in range(3):
        image, mask = disc_slice(64, number)
        write_image(tmp_path / "flat" / f"{number}.png", image)
        write_image(tmp_path / "flat" / f"{number}_mask.png", np.minimum(mask, 1))
        write_image(tmp_path / "both" / "images" / f"{number}.png", image)
        write_image(tmp_path / "both" / "masks" / f"{number}.png", np.minimum(mask, 1))
    for place in ("flat", "both"):
        script, chosen = choose_import(tmp_path / place, tmp_path / place, 64, 20)
        assert chosen["MASK_VALUES"][0] == {1: 255} and chosen["CASE_FROM"][0] == "image"
        out = run_script(script, CASES=tmp_path / f"{place}_cases", **values(chosen)).stdout
        assert "wrote 3 slices of 64x64, 1 class, in 3 cases" in out


@pytest.mark.parametrize("inner", ["masks", "by A. Smith"])
@pytest.mark.parametrize("within", ["images", "masks"])
def test_a_folder_of_the_other_side_inside(tmp_path, within, inner):
    """Masks in a subfolder of the images, of any name, are no images; and the other way round."""
    place = {"images": tmp_path, "masks": tmp_path, within: tmp_path / "outer"}
    place["masks" if within == "images" else "images"] = tmp_path / "outer" / inner
    for number in range(3):
        for side, pixels in zip(("images", "masks"), disc_slice(32, number), strict=True):
            folder = place[side] / "p1"
            write_image(folder / f"{number}.png", pixels)
            volume = sitk.GetImageFromArray(np.stack([pixels // 255 if side == "masks" else pixels] * 2))
            sitk.WriteImage(volume, str(_made(tmp_path / "3d" / folder.relative_to(tmp_path)) / f"{number}.nii"))
    for root, word in ((tmp_path, "wrote 3 slices"), (tmp_path / "3d", "wrote 6 slices")):
        sides = [root / place[side].relative_to(tmp_path) for side in ("images", "masks")]
        script, chosen = choose_import(*sides, 32, 20)
        assert word in run_here(script, CASES=root / "cases", **values(chosen)).stdout
        assert len(list((root / "cases").glob("*/x/*"))) == int(word.split()[1])


def _made(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_a_folder_with_masks_alone(tmp_path):
    images(tmp_path, ["masks/a.png", "masks/b.png"])
    with pytest.raises(InputError, match=r"IMAGES: all images in .* are masks"):
        choose_import(tmp_path, tmp_path / "masks", None, 20)


def test_dicom_without_endings(tmp_path):
    draw_series(tmp_path / "scans" / "p1", (3, 24, 24), np.eye(3))
    for path in (tmp_path / "scans" / "p1").iterdir():
        path.rename(path.with_suffix(""))
    label = np.zeros((3, 24, 24), np.uint8)
    label[1, 5:12, 6:14] = 1
    (tmp_path / "labels").mkdir()
    drawn = sitk.GetImageFromArray(label)
    drawn.CopyInformation(draw_series(tmp_path / "again", (3, 24, 24), np.eye(3)))
    sitk.WriteImage(drawn, str(tmp_path / "labels" / "p1_seg.nii.gz"))
    script, chosen = choose_import(tmp_path / "scans", tmp_path / "labels", None, 20)
    assert script.endswith("0_import_volumes.py") and chosen["LABEL_NAME"][0] == "{id}_seg"
    assert "wrote 3 slices" in run_here(script, CASES=tmp_path / "cases", **values(chosen)).stdout


def test_settings_of_the_import_pass_through_the_pipeline(tmp_path):
    for number in range(3):
        image, mask = disc_slice(48, number)
        write_image(tmp_path / "images" / f"{number}.png", image)
        if number:
            write_image(tmp_path / "masks" / f"{number}.png", mask)
    own = {"IMAGES": tmp_path / "images", "MASKS": tmp_path / "masks", "WORK": tmp_path / "work", "SIZE": 48}
    assert_refused("run_pipeline.py", "--import-settings \"{'UNMATCHED': 'skip'}\"", **own)
    own |= {"IMPORT_SETTINGS": {"unmatched": "skip"}}
    assert "found 2 slices in 2 cases" in assert_refused("run_pipeline.py", "too few for training", **own)
    for wrong, words in {"help": "unknown setting HELP", "FIT": "FIT: expected 'resize'"}.items():
        own |= {"IMPORT_SETTINGS": {wrong: "x"}}
        assert_refused("run_pipeline.py", f"IMPORT_SETTINGS: {words}", status=2, **own)
    own |= {"IMPORT_SETTINGS": {"CASES": "elsewhere"}}
    assert_refused("run_pipeline.py", "IMPORT_SETTINGS: contains CASES; pass --work instead", status=2, **own)


def test_volumes_and_neither(tmp_path):
    sitk.WriteImage(sitk.Image([130, 100, 4], sitk.sitkInt16), str(tmp_path / "v.nii.gz"))
    script, chosen = choose_import(tmp_path, "labels", None, 20)
    expected = {"IMAGES": str(tmp_path), "LABELS": "labels", "SLICES": "all", "SIZE": 128, "FIT": "pad"}
    assert script.endswith("0_import_volumes.py") and values(chosen) == expected
    images(tmp_path, ["a.png"])
    with pytest.raises(InputError, match=r"either images or volumes .found 1 image and 1 volume"):
        choose_import(tmp_path, "labels", None, 20)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found 0 images and 0 volumes"):
        choose_import(tmp_path / "empty", "labels", None, 20)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.nii").write_bytes(b"no volume")
    with pytest.raises(InputError, match="none of the volumes"):
        choose_import(tmp_path / "bad", "labels", None, 20)


@pytest.mark.parametrize(
    ("volumes", "labels", "expected"),
    [
        (["a", "b"], ["a", "b"], None),
        (["a", "b"], ["a_seg", "b_seg"], "{id}_seg"),
        (["p1/a", "p2/b"], ["p1/a-mask", "p2/b-mask"], "{id}-mask"),
        (["a", "b"], ["x", "y"], None),
        (["a", "a_seg", "b", "b_seg"], None, "{id}_seg"),
        (["a", "a.seg"], None, None),
    ],
)
def test_names_of_label_volumes(tmp_path, volumes, labels, expected):
    """Also beside their volumes in one folder; names of which nobody knows the rule are left to the importer."""
    image = sitk.Image([20, 20, 3], sitk.sitkUInt8)
    for folder, names in (("images", volumes), ("labels", labels or [])):
        for name in names:
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(image, str(tmp_path / folder / f"{name}.nii.gz"))
    _, chosen = choose_import(tmp_path / "images", tmp_path / ("labels" if labels else "images"), 32, 20)
    assert chosen.get("LABEL_NAME", (None,))[0] == expected


ONE = {"LABEL_NAME": "{id}_seg", "CHANNELS": ["{id}_flair", "{id}_t1"]}  # as BraTS has them
LAYOUTS = {  # of volumes: names of three images, names of their labels (None: in the same folder), settings
    "channels in one folder": (["p{n}_flair", "p{n}_t1"], ["p{n}_seg"], True, ONE),
    "a folder for each case": (["p{n}/p{n}_flair", "p{n}/p{n}_t1"], ["p{n}/p{n}_seg"], True, ONE),
    "the same names": (
        ["p{n}/ct"],
        ["p{n}/segmentation"],
        True,
        {"LABEL_NAME": "{id}/segmentation", "CHANNELS": ["ct"]},
    ),
    "nnU-Net": (
        ["v{n}_0000", "v{n}_0001"],
        ["v{n}"],
        False,
        {"LABEL_NAME": "{id}", "CHANNELS": ["{id}_0000", "{id}_0001"]},
    ),
    "other words": (["image_{n}"], ["label_{n}"], False, {"LABEL_NAME": "label_{id}", "CHANNELS": ["image_{id}"]}),
    "3D Slicer": (["v{n}"], ["v{n}.seg"], True, {}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_volumes(tmp_path, layout):
    """What is chosen is what the importer needs; labels of 0 and 255 too."""
    images, labels, together, expected = LAYOUTS[layout]
    for n in range(9, 12):
        label = np.zeros((3, 24, 24), np.uint8)
        label[1, 5:12, 6:14] = 255
        for names, folder, values_ in ((images, "images", label.astype(np.int16)), (labels, "labels", label)):
            for name in names:
                path = tmp_path / ("images" if together else folder) / f"{name.format(n=n)}.nrrd"
                path.parent.mkdir(parents=True, exist_ok=True)
                sitk.WriteImage(sitk.GetImageFromArray(values_), str(path))
    masks = tmp_path / ("images" if together else "labels")
    script, chosen = choose_import(tmp_path / "images", masks, 24, 20)
    found = {name: value for name, value in values(chosen).items() if name in ("LABEL_NAME", "CHANNELS")}
    assert found == expected
    if not together:
        assert chosen["LABEL_VALUES"][0] == {255: 1}
    given = values(chosen) | {"LABEL_VALUES": {255: 1}}
    out = run_script(script, CASES=tmp_path / "cases", **given).stdout
    assert "wrote 9 slices of 24x24 in 3 cases" in out


@pytest.mark.parametrize(
    ("image", "mask"),
    [("IMG_{n}.PNG", "IMG_{n}_Mask.PNG"), ("image_{n}.png", "label_{n}.png"), ("c{n}_0000.png", "c{n}.png")],
)
def test_names_of_masks_that_no_list_has(tmp_path, image, mask):
    for n in range(9, 12):
        picture, truth = disc_slice(32, n)
        write_image(tmp_path / "images" / image.format(n=n), picture)
        write_image(tmp_path / "masks" / mask.format(n=n), truth)
    script, chosen = choose_import(tmp_path / "images", tmp_path / "masks", 32, 20)
    assert "wrote 3 slices" in run_script(script, CASES=tmp_path / "cases", **values(chosen)).stdout
    records = [json.loads(path.read_text()) for path in sorted((tmp_path / "cases").glob("*/case.json"))]
    pairs = [(entry["image"], entry["mask"]) for record in records for entry in record["slices"].values()]
    assert sorted(pairs) == sorted((image.format(n=n), mask.format(n=n)) for n in range(9, 12))


def test_a_data_set_of_nnunet_needs_no_masks(tmp_path):
    folder = tmp_path / "Dataset001"
    write_nnunet_images(folder)
    script, chosen = choose_import(folder, "", None, 20)
    assert chosen["MASKS"][0] == "" and chosen["IMAGES"][0] == str(folder) and chosen["SIZE"][0] in SIDES
    assert "wrote" in run_script(script, CASES=tmp_path / "cases", **values(chosen)).stdout


@pytest.mark.parametrize(
    ("cases", "slices", "folds", "expected"),
    [
        (1, 5, 0, {"TEST_SHARE": 0.2, "VALIDATION_SHARE": 0.2}),
        (4, 1, 0, {"TEST_SHARE": 0.25, "VALIDATION_SHARE": 0.25}),
        (12, 1, 0, {"TEST_SHARE": 0.2, "VALIDATION_SHARE": 0.2}),
        (4, 1, 3, {"TEST_SHARE": 0.25, "FOLDS": 3}),
    ],
)
def test_split(tmp_path, cases, slices, folds, expected):
    folder = make_cases(tmp_path / "cases", cases=cases, slices=slices, size=16)
    assert values(choose_split(folder, folds)) == expected


def test_a_link_to_the_images_is_no_folder_of_masks(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / "images" / f"{name}.png", disc_slice(24, 1)[0])
    (tmp_path / "link").symlink_to(tmp_path / "images")
    with pytest.raises(InputError, match=r"IMAGES: all images in .* are masks"):
        choose_import(str(tmp_path / "images"), str(tmp_path / "link"), None, 5, {})


def test_too_few_to_split(tmp_path):
    with pytest.raises(SettingError, match=r"FOLDS: too many for 3 cases .found 3.; use at most 2"):
        choose_split(make_cases(tmp_path / "three", cases=3, slices=1, size=16), 3)
    with pytest.raises(SettingError, match=r"FOLDS: too many for 1 case .found 2.; use 0"):
        choose_split(make_cases(tmp_path / "single", cases=1, slices=4, size=16), 2)
    with pytest.raises(InputError, match=r"too few for training, validation and test .found 2 slices in 1 case"):
        choose_split(make_cases(tmp_path / "one", cases=1, slices=2, size=16), 0)
    with pytest.raises(InputError, match=r"found 8 slices in 2 cases.*not patients, pass --import-settings"):
        choose_split(make_cases(tmp_path / "two", cases=2, slices=4, size=16), 0)


def test_decisions_are_kept(tmp_path, capsys):
    decisions = Decisions(tmp_path / "work" / "decisions.md")
    decisions.add("split", {"SEED": (1, "a reason")})
    (tmp_path / "plan.json").write_text(json.dumps({"format": 1, "LOSS": "dice", "reasons": {"LOSS": "planned: so"}}))
    decisions.add_plan(tmp_path / "plan.json")
    text = (tmp_path / "work" / "decisions.md").read_text()
    assert "## Split\n\n- `SEED = 1`: a reason" in text and "## Training\n\n- `LOSS = 'dice'`: planned: so" in text
    assert "- LOSS = 'dice': planned: so" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("folds", [0, 2])
def test_one_command_from_own_images_to_a_model(tmp_path, folds):
    for case in range(5):
        for number in range(2):
            image, mask = disc_slice(48, 2 * case + number)
            write_image(tmp_path / "images" / f"p{case}" / f"{number}.png", image)
            write_image(tmp_path / "masks" / f"p{case}" / f"{number}_mask.png", mask)
    own = {"IMAGES": tmp_path / "images", "MASKS": tmp_path / "masks", "WORK": tmp_path / "work"}
    out = run_script(
        "run_pipeline.py", **own, MINUTES=4, SIZE=48, **({"FOLDS": folds} if folds else {"FINAL": 0.5})
    ).stdout
    for made in ("model.mlmodel", "scores/report.html", "decisions.md", "packed/plan.json"):
        assert (tmp_path / "work" / made).is_file()
    assert "finished all steps in" in out and "CASE_FROM = 'folder'" in out
    assert ("the final training continues" in out) == (not folds)
    if not folds:
        tested, final = sorted((tmp_path / "work" / "runs").iterdir())
        assert Run(final).settings["RUN"] == str(tested) and not Run(final).has_validation
        assert len(open_set(tmp_path / "work" / "final" / "packed" / "train.h5")) == 10
        assert Run(final).calibration_of(Run(final).final_file).source == tested.name
        assert f"wrote {tmp_path / 'work' / 'model.mlmodel'}, {tmp_path / 'work' / 'scores'} and {final}" in out
        assert f"--run {final}" in out.partition("$ python convert_coreml.py")[2]


@pytest.mark.parametrize(
    ("cases", "more", "share", "reason"),
    [
        (5, {}, 0.6, "with 5 cases"),
        (100, {}, 0.0, "100 cases are enough"),
        (5, {"minutes": 4.9}, 0.0, "under 5 minutes"),
        (5, {"folds": 3}, 0.0, "the networks of the folds"),
        (100, {"share": 0.3}, 0.3, "as you said"),
        (5, {"share": 0.0}, 0.0, "as you said"),
    ],
)
def test_few_cases_get_a_final_training(tmp_path, cases, more, share, reason):
    for number in range(cases):
        for side in "xy":
            (tmp_path / f"case_{number}" / side).mkdir(parents=True)
    chosen = choose_final(tmp_path, **{"folds": 0, "minutes": 20, "share": None, **more})
    assert chosen["FINAL"][0] == share and reason in chosen["FINAL"][1]


def test_bad_folders_of_the_pipeline(tmp_path):
    assert_refused("run_pipeline.py", "IMAGES", IMAGES=tmp_path / "gone", MASKS=tmp_path, WORK=tmp_path / "w")
    assert_refused("run_pipeline.py", "MASKS", IMAGES=tmp_path, MASKS="", WORK=tmp_path / "w")
    both = {"FINAL": 0.5, "FOLDS": 3}
    assert_refused("run_pipeline.py", "FINAL", status=2, IMAGES=tmp_path, MASKS=tmp_path, WORK=tmp_path / "w", **both)
    assert_refused("run_pipeline.py", "found 0 images and 0 volumes", IMAGES=tmp_path, MASKS=tmp_path, WORK=tmp_path)

"""Scores are honest: masks of another case, of one name twice, or in color are refused, and so are damaged tables."""

import json

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from drawings import as_volume, disc_slice, make_cases, write, write_image
from running import assert_refused, run_here

from common.errors import InputError
from common.evaluation.images import find_backgrounds
from common.evaluation.pairs import match_pairs, predicted_images, read_masks
from common.evaluation.summary import read_other
from common.files import write_json
from common.prediction.inputs import ImageInput, refuse_same_output
from common.scores import SCORES
from common.slices.cases import find_slices
from common.slices.images import read_mask
from common.slices.lists import write_list


@pytest.fixture
def cases(tmp_path):
    return make_cases(tmp_path / "c", cases=4, slices=2, size=24)


def masks_in(folder, names=("0001", "0002")):
    for name in names:
        write_image(folder / f"{name}.png", disc_slice(24, 1)[1])
    return folder


def refusal(*arguments):
    with pytest.raises(InputError) as caught:
        match_pairs(*arguments)
    return str(caught.value)


def test_masks_of_another_case_are_refused(cases, tmp_path):
    truth = cases / "case03"
    for predicted in (
        masks_in(tmp_path / "several" / "case04").parent,  # OUTPUT of predict.py for a folder of cases
        cases / "case04",
        cases / "case04" / "y",
    ):
        message = refusal(predicted, truth)
        assert "contains case04 (found case03 in TRUTH" in message and message.startswith("PREDICTED: ")
    single = masks_in(tmp_path / "single")  # OUTPUT of predict.py for one case: its masks are loose
    for given in ("case04", "c/case04", str(cases / "case04")):
        write_json(single / "prediction.json", {"INPUT": given})
        assert "contains case04 (found case03" in refusal(single, truth)
    write_json(single.parent / "prediction.json", {})
    assert "contains case04" in refusal(masks_in(tmp_path / "case04"), truth), "a folder in an OUTPUT of predict.py"
    one = make_cases(tmp_path / "one", cases=1, slices=2, size=24)
    assert "contains case04 (found case01 in TRUTH" in refusal(tmp_path / "several", one)


def test_masks_of_the_same_case_are_matched(cases, tmp_path, capsys):
    truth = cases / "case03"
    single = masks_in(tmp_path / "single")
    write_json(single / "prediction.json", {"INPUT": "elsewhere/case03"})
    several = masks_in(tmp_path / "several" / "case03").parent
    for predicted in (single, several, several / "case03", truth, truth / "y"):
        pairs = match_pairs(predicted, truth)
        assert [(pair.case, pair.name) for pair in pairs] == [("", "0001"), ("", "0002")]
        assert pairs[0].truth == truth / "y" / "0001.png"
    assert not capsys.readouterr().out
    loose = masks_in(tmp_path / "loose")
    assert len(match_pairs(loose, truth / "y")) == 2
    one = make_cases(tmp_path / "one", cases=1, slices=2, size=24)
    assert len(match_pairs(loose, one)) == 2
    assert f"taking the masks in {loose} as case01" in capsys.readouterr().out
    assert "no true mask" in refusal(loose, cases)


def test_one_volume_each_with_other_names(tmp_path, capsys):
    ball = as_volume(np.ones((3, 4, 5), np.uint8))
    write(tmp_path / "p", "case_patient7.nii.gz", ball)
    write(tmp_path / "t", "patient9.nrrd", ball)
    assert "case_patient7.nii.gz: no true mask" in (message := refusal(tmp_path / "p", tmp_path / "t"))
    assert "LABEL_NAME" in message
    (pair,) = match_pairs(tmp_path / "p", tmp_path / "t" / "patient9.nrrd")
    assert pair.truth.name == "patient9.nrrd" and "their names differ" in capsys.readouterr().out
    (pair,) = match_pairs(tmp_path / "p", tmp_path / "t", "patient9")
    assert pair.case == "patient7"
    write(tmp_path / "p", "patient7.nrrd", ball)
    assert "same case name as" in refusal(tmp_path / "p", tmp_path / "t")


def test_folders_without_masks_are_refused(tmp_path):
    (tmp_path / "p").mkdir()
    pixels = sitk.Cast(as_volume(np.ones((1, 4, 5))), sitk.sitkInt16)
    write(tmp_path / "t", "scan.dcm", pixels)
    assert "PREDICTED: no masks in" in refusal(tmp_path / "p", tmp_path / "t")


def test_a_list_that_names_a_slice_twice_is_refused(cases, tmp_path):
    rows = [(s.path, cases / s.case / "y" / s.path.name, s.case) for s in find_slices(cases, "x", "INPUT")]
    variant = cases / "case01" / "x_A" / "0001.png"
    write_image(variant, disc_slice(24, 1)[0])
    good, twice, variants = (tmp_path / f"{name}.csv" for name in ("good", "twice", "variants"))
    write_list(good, rows)
    write_list(twice, [*rows, rows[0]])
    write_list(variants, [*rows, (variant, rows[0][1], "case01")])
    assert len(ImageInput(good, False).slices) == 8
    for path, words in ((twice, "same slice as line 2"), (variants, r"rows repeat .* \(1 of 9, such as case01 0001\)")):
        for use in (lambda path: ImageInput(path, False), lambda path: match_pairs(cases, path)):
            with pytest.raises(InputError, match=words) as caught:
                use(path)
            assert str(caught.value).startswith(f"{path}: ")


def test_outputs_that_would_overwrite_each_other_are_refused(cases, tmp_path):
    rows = [(cases / "case01/x/0001.png", cases / "case01/y/0001.png", "overlays")]
    write_list(tmp_path / "reserved.csv", rows)
    with pytest.raises(InputError, match="has a case overlays"):
        ImageInput(tmp_path / "reserved.csv", False)
    rows = [(cases / f"case0{n}/x/000{n}.png", cases / f"case0{n}/y/000{n}.png", "same") for n in (1, 2)]
    write_list(tmp_path / "mixed.csv", rows)
    assert ImageInput(tmp_path / "mixed.csv", False)
    write_json(cases / "case02" / "case.json", {"slices": {}})
    with pytest.raises(InputError, match=r"case01 and of .*case02 under the case same"):
        ImageInput(tmp_path / "mixed.csv", False)
    with pytest.raises(InputError, match="INPUT: a/b and a_b would overwrite each other"):
        refuse_same_output({"a/b": "a_b", "a_b": "a_b"}, "INPUT")


def test_color_images_are_no_masks(tmp_path):
    masks = masks_in(tmp_path / "p", ("a", "b"))
    run_here("submission.py", PREDICTED=masks, OUTPUT=tmp_path / "s.csv")
    color = np.zeros((24, 24, 3), np.uint8)
    color[3:9, 3:9] = (255, 0, 0)
    write_image(masks / "a.png", color)
    assert_refused("submission.py", f"{masks / 'a.png'}: a color image", PREDICTED=masks, OUTPUT=tmp_path / "t.csv")
    assert not (tmp_path / "t.csv").exists()
    truth = masks_in(tmp_path / "t", ("a", "b"))
    settings = {"PREDICTED": masks, "TRUTH": truth, "OUTPUT": tmp_path / "s"}
    assert_refused("evaluate.py", f"{masks / 'a.png'}: a color image", **settings)
    numbers = np.zeros((24, 24), np.uint8)
    numbers[3:9], numbers[9:12] = 1, 2
    write_image(masks / "a.png", numbers)
    said = run_here("submission.py", PREDICTED=masks, OUTPUT=tmp_path / "u.csv").stdout
    assert "several classes in 1 of 2 masks" in said and "wrote 2 rows" in said


# --- cases.csv of another evaluation

HEADER = ["case", *SCORES, "class"]
GOOD = {"case": "a", **dict.fromkeys(SCORES, "0.5"), "class": "1"}


def written(folder, rows, header=HEADER):
    folder.mkdir(exist_ok=True)
    lines = [header, *([row[name] for name in header] if isinstance(row, dict) else row for row in rows)]
    (folder / "cases.csv").write_text("".join(",".join(line) + "\n" for line in lines), encoding="utf-8")
    return folder


OWN = {"TOLERANCE": 1.0, "SPACING": None}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([GOOD, GOOD], "lines 2 and 3 have the same case and class (found a, 1)"),
        (
            [GOOD, GOOD | {"case": "b", "dice": "1.5"}],
            "line 3 has an invalid dice (found '1.5', expected a number",
        ),
        ([GOOD | {"dice": "x"}], "line 2 has an invalid dice (found 'x'"),
        ([GOOD | {"hausdorff": "-1"}], "line 2 has an invalid hausdorff (found '-1'"),
        ([GOOD | {"hausdorff": "inf"}], "line 2 has an invalid hausdorff (found 'inf'"),
        ([GOOD | {"volume_error": "-1.5"}], "line 2 has an invalid volume_error"),
        ([GOOD | {"class": "1.5"}], "line 2 has an invalid class (found '1.5', expected a whole number"),
        ([GOOD | {"class": ""}], "line 2 has an invalid class (found ''"),
        ([GOOD | {"class": "one"}], "line 2 has an invalid class (found 'one'"),
        ([GOOD, ["b", "0.5"]], "line 3 is incomplete or too long (found 2 fields, expected 14)"),
        ([["b", '"0.5']], "line 2 is not CSV"),
        ([], "none of the cases"),
    ],
)
def test_one_wrong_field_of_another_evaluation(tmp_path, rows, words):
    folder = written(tmp_path / "s", rows)
    with pytest.raises(InputError) as caught:
        read_other(folder, {"a"}, OWN)
    message = str(caught.value)
    assert words in message and "\n" not in message and str(folder) in message


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"\0\0\0", b"case,class\n", b"\xe9\xa9,b\n"])
def test_another_evaluation_that_is_no_table(tmp_path, content):
    (tmp_path / "cases.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"cases\.csv: "):
        read_other(tmp_path, {"a"}, OWN)


def test_what_cannot_be_compared_is_printed(tmp_path, capsys):
    folder = written(tmp_path / "s", [GOOD | {"volume_error": "7", "hausdorff": "", "hausdorff_95": "300"}])
    table = read_other(folder, {"a"}, OWN)
    assert table["class"].tolist() == [1] and pd.isna(table["hausdorff"][2]) and not capsys.readouterr().out
    read_other(folder, {"a", "b"}, OWN)
    assert f"comparing 1 of 2 cases; not in {folder}: b" in capsys.readouterr().out
    write_json(folder / "evaluation.json", {"TOLERANCE": 2.0, "SPACING": None})
    assert "surface_dice" not in read_other(folder, {"a"}, OWN) and "dice" in read_other(folder, {"a"}, OWN)
    assert "not comparing surface_dice" in capsys.readouterr().out
    write_json(folder / "evaluation.json", {"TOLERANCE": 1.0, "SPACING": 3.0})
    assert "hausdorff" not in read_other(folder, {"a"}, OWN)


@pytest.mark.parametrize("order", ["LPI", "RAS", "PIR"])
def test_label_volumes_in_other_orders_of_axes_are_compared(tmp_path, order):
    labels = np.zeros((6, 8, 10), np.uint8)
    labels[1:3, 2:6, 3:8] = 1
    image = as_volume(labels, spacing=(0.5, 0.8, 2.5))
    moved = as_volume(np.roll(labels, 1, axis=1), spacing=(0.5, 0.8, 2.5))
    write(tmp_path / "p", "a.nii.gz", moved)
    write(tmp_path / "t", "a.nii.gz", image)
    write(tmp_path / "other", "a.nii.gz", sitk.DICOMOrient(image, order))
    (expected,), (pair,) = (match_pairs(tmp_path / "p", tmp_path / side) for side in ("t", "other"))
    for ours, theirs in zip(read_masks(pair)[:2], read_masks(expected)[:2], strict=True):
        assert np.array_equal(ours, theirs) and ours.any()
    assert read_masks(pair)[2] == pytest.approx(read_masks(expected)[2])


def loose(root, names, pattern="{}"):
    for name in names:
        write_image(root / f"{pattern.format(name)}.png", disc_slice(24, len(name))[1])
    return root


@pytest.mark.parametrize("pattern", ["{}_mask", "mask_{}", "{}-mask", "{}_gt"])
def test_names_of_masks_are_understood_as_at_import(tmp_path, capsys, pattern):
    predicted, truth = loose(tmp_path / "p", ["a", "b"]), loose(tmp_path / "t", ["a", "b"], pattern)
    pairs = match_pairs(predicted, truth)
    assert [(pair.name, pair.truth.stem) for pair in pairs] == [(name, pattern.format(name)) for name in "ab"]
    assert f"mask name pattern: {pattern.format('{id}')}" in capsys.readouterr().out


def test_predictions_of_crops_find_their_labels(tmp_path, capsys):
    predicted = loose(tmp_path / "p", ["a", "b"], "{}_crop")
    pairs = match_pairs(predicted, loose(tmp_path / "t", ["a", "b"], "{}_label"))
    assert [(pair.name, pair.truth.stem) for pair in pairs] == [("a_crop", "a_label"), ("b_crop", "b_label")]
    assert "mask name pattern: {id}_label for images {id}_crop" in capsys.readouterr().out


def test_predictions_find_masks_whose_names_differ_in_words(tmp_path, capsys):
    predicted = loose(tmp_path / "p", ["1", "2"], "image_{}")
    pairs = match_pairs(predicted, loose(tmp_path / "t", ["1", "2"], "label_{}"))
    assert [(pair.name, pair.truth.stem) for pair in pairs] == [("image_1", "label_1"), ("image_2", "label_2")]
    assert "mask name pattern: label_{id} for images image_{id}" in capsys.readouterr().out
    with pytest.raises(InputError, match="true mask"):
        match_pairs(predicted, loose(tmp_path / "others", ["1", "2"], "anna_{}"))


def test_masks_without_a_partner_are_skipped_if_asked(tmp_path, capsys):
    predicted, truth = loose(tmp_path / "p", ["a", "b", "c"]), loose(tmp_path / "t", ["b", "c", "d"], "{}_mask")
    with pytest.raises(InputError, match="--unmatched skip"):
        match_pairs(predicted, truth)
    assert [pair.name for pair in match_pairs(predicted, truth, unmatched="skip")] == ["b", "c"]
    assert "skipped 2 masks without a partner" in capsys.readouterr().out
    with pytest.raises(InputError, match="no partner"):
        match_pairs(predicted, loose(tmp_path / "other", ["x"]), unmatched="skip")


def test_loose_images_are_cases_by_their_names_or_each(tmp_path, capsys):
    names = ["P1_1", "P1_2", "P2_1"]
    pairs = match_pairs(loose(tmp_path / "p", names), loose(tmp_path / "t", names))
    assert [pair.case for pair in pairs] == ["P1", "P1", "P2"]
    patients = [loose(tmp_path / side, ["3006", "3007"]) for side in ("p2", "t2")]
    assert [pair.case for pair in match_pairs(*patients)] == ["", ""]
    assert "2 images count as one case; if each is a patient, pass --case-from image" in capsys.readouterr().out
    assert [pair.case for pair in match_pairs(*patients, case_from="image")] == ["3006", "3007"]


def test_backgrounds_come_from_what_was_predicted(tmp_path):
    images = loose(tmp_path / "images", ["a", "b"])
    predicted, truth = loose(tmp_path / "p", ["a", "b"]), loose(tmp_path / "t", ["a", "b"], "{}_mask")
    assert predicted_images(predicted) == ""
    (predicted / "prediction.json").write_text(json.dumps({"INPUT": str(images)}))
    assert predicted_images(predicted) == str(images)
    keys = [(pair.case, pair.name) for pair in match_pairs(predicted, truth, case_from="image")]
    assert find_backgrounds("", truth, keys) == {}
    assert find_backgrounds("", truth, keys, predicted=str(images)) == {
        (name, name): images / f"{name}.png" for name in "ab"
    }
    (predicted / "prediction.json").write_text(json.dumps({"INPUT": str(tmp_path / "gone")}))
    assert predicted_images(predicted) == ""


def test_true_masks_with_other_values_than_the_rest_are_listed(tmp_path):
    cases = make_cases(tmp_path / "cases", cases=3, slices=2, size=24)
    odd = cases / "case02" / "y" / "0002.png"
    write_image(odd, np.minimum(read_mask(odd), 2))
    message = assert_refused("evaluate.py", "expected 0 and 255 as in the other masks (found 0, 2)", PREDICTED=cases,
        TRUTH=cases, OUTPUT=tmp_path / "s",
    )  # fmt: skip
    assert message.startswith(f"evaluate.py: error: {odd}: ")

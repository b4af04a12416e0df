"""Content of case.json, checked when it is read."""

import json

import pytest
from drawings import disc_slice, write_image
from running import run_here

from common.errors import InputError
from common.slices.case_files import RECORD, read_case_record


def record_of(folder, image):
    entry = {"image": image, "mask": None, "image_size": [24, 24], "box": [0, 0, 24, 24]}
    (folder / RECORD).write_text(json.dumps({"size": 24, "slices": {"0001": entry}}))
    return folder


def test_images_of_subfolders_are_imported_and_listed(tmp_path):
    for case in ("a", "b", "c"):
        image, mask = disc_slice(24, ord(case))
        write_image(tmp_path / "images" / case / "1.png", image)
        write_image(tmp_path / "masks" / case / "1.png", mask)
    places = {"IMAGES": tmp_path / "images", "MASKS": tmp_path / "masks", "CASES": tmp_path / "cases"}
    run_here("preprocess/0_import_images.py", SIZE=24, **places)
    assert read_case_record(tmp_path / "cases" / "case_a")["slices"]["0001"]["image"] == "a/1.png"
    shares = {"VALIDATION_SHARE": 0.3, "TEST_SHARE": 0.3}
    run_here("preprocess/2_write_lists.py", CASES=tmp_path / "cases", LISTS=tmp_path / "lists", **shares)


@pytest.mark.parametrize(
    "image", ["../a.png", "a/../../b.png", "/etc/passwd", "C:\\a.png", "..", "", "a//b.png", "a\\..\\b", 5]
)
def test_an_image_outside_of_its_folder_is_refused(tmp_path, image):
    with pytest.raises(InputError, match=r"slices\.0001\.image"):
        read_case_record(record_of(tmp_path, image))


ENTRY = {"image": "anna/0001.png", "mask": None, "image_size": [20, 30], "box": [-2, 0, 30, 20]}
GOOD = {"format": 1, "source": "x", "size": 24, "spacing": [1, 0.5], "window": [0, 80], "slices": {"0001": ENTRY}}
GRID = {"size": [30, 20, 4], "spacing": [1, 1, 2], "origin": [0, 0, 0], "direction": [1, 0, 0, 0, 1, 0, 0, 0, 1]}
VOLUME = {"plane": "axial", "geometry": GRID, "grid": GRID, "resampled": None}


def write(folder, changes, entry=None):
    record = GOOD | changes
    if entry is not None:
        record["slices"] = {"0001": ENTRY | entry}
    (folder / "case.json").write_text(json.dumps(record), encoding="utf-8-sig")


def test_a_good_record_is_read_as_it_is(tmp_path):
    assert read_case_record(tmp_path) == {}
    write(tmp_path, {})
    assert read_case_record(tmp_path) == GOOD
    write(tmp_path, {"volume": VOLUME}, {"index": 3})
    assert read_case_record(tmp_path)["volume"] == VOLUME


@pytest.mark.parametrize(
    ("changes", "entry", "field"),
    [
        ({"size": "24"}, None, "size"),
        ({"size": 0}, None, "size"),
        ({"size": None}, None, "size: missing"),
        ({"spacing": [1]}, None, "spacing"),
        ({"spacing": [1, float("nan")]}, None, "spacing.1"),
        ({"window": [80, 0]}, None, "window"),
        ({"fit": "stretch"}, None, "fit"),
        ({"slices": []}, None, "slices"),
        ({"slices": {"../0001": ENTRY}}, None, "slices"),
        ({}, {"image": "../mine.png"}, "slices.0001.image"),
        ({}, {"image": "/etc/passwd"}, "slices.0001.image"),
        ({}, {"image": "C:\\mine.png"}, "slices.0001.image"),
        ({}, {"box": [0, 0, 30]}, "slices.0001.box"),
        ({}, {"box": [0, 0, 0, 5]}, "slices.0001.box"),
        ({}, {"image_size": [1e30, 5]}, "slices.0001.image_size"),
        ({"volume": VOLUME}, {"index": 4}, "slices.0001.index"),
        ({"volume": VOLUME}, None, "slices.0001.index"),
        ({"volume": VOLUME}, {"index": 0, "image_size": [20, 31]}, "slices.0001.image_size"),
        ({"volume": VOLUME | {"grid": GRID | {"spacing": [1, 1, 0]}}}, {"index": 0}, "volume.grid.spacing"),
    ],
)
def test_one_wrong_field_is_one_line(tmp_path, changes, entry, field):
    write(tmp_path, changes, entry)
    with pytest.raises(InputError) as raised:
        read_case_record(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path / 'case.json'}: damaged ({field}") and "\n" not in str(raised.value)

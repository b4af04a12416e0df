"""Content of case.json."""

import json

import pytest
from drawings import disc_slice, write_picture
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
        write_picture(tmp_path / "images" / case / "1.png", image)
        write_picture(tmp_path / "masks" / case / "1.png", mask)
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

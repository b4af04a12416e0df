"""LabelMe: a file that LabelMe wrote, and bad ones."""

import base64
import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.annotations.reading import read_file
from common.annotations.shapes import draw, fill
from common.errors import InputError

FILE = Path(__file__).parent / "files" / "labelme.json"
ROWS, COLUMNS = np.mgrid[:40, :60]
DISC = (COLUMNS - 40) ** 2 / 100 + (ROWS - 20) ** 2 / 64 < 1  # the mask in the file


def test_a_file_of_labelme():
    (one,) = read_file(FILE)
    assert (one.image, one.size, dict(one.ignored)) == ("../images/slice1.png", (40, 60), {"line": 1})
    assert [shape.name for shape in one.shapes] == ["liver", "tumor", "cyst", "cyst"]
    mask, _ = draw(one.shapes, {"tumor": 1}, one.size)
    assert np.array_equal(mask > 0, DISC)
    circle, box = (fill(shape.rings, one.size) for shape in one.shapes[2:])
    assert np.array_equal(circle, np.hypot(COLUMNS + 0.5 - 50, ROWS + 0.5 - 8) < 5)
    assert box.sum() == 7 * 3 and box[36:39, 2:9].all()


def edited(change):
    content = json.loads(FILE.read_text())
    change(content)
    return json.dumps(content)


def png(mask):
    return base64.b64encode(cv2.imencode(".png", mask)[1].tobytes()).decode()


BAD = {
    "cut short": (FILE.read_text()[:300], r"damaged \(not a JSON file\)"),
    "empty": ("", "file is empty"),
    "UTF-16": (FILE.read_text(), r"damaged \(not a JSON file\)"),
    "something else": ('{"a": 1}', "not an annotation file"),
    "no image": (edited(lambda c: c.pop("imagePath")), r"not a valid LabelMe file \(imagePath: missing\)"),
    "text as point": (edited(lambda c: c["shapes"][0]["points"].append(["1", 2])), r"shapes.0.points.4.0: .*found '1'"),
    "not a number": (edited(lambda c: c["shapes"][0]["points"].append([float("nan"), 2])), "shapes.0.points.4.0"),
    "far away": (edited(lambda c: c["shapes"][0]["points"].append([1e300, 2])), "less than or equal to 1048576"),
    "no name": (edited(lambda c: c["shapes"][0].update(label=" ")), "shape 1: a shape has no name"),
    "three corners": (
        edited(lambda c: c["shapes"][3]["points"].append([1, 2])),
        r"2 points for a rectangle \(found 3\)",
    ),
    "mask without data": (edited(lambda c: c["shapes"][1].update(mask=None)), "shape 2: a mask without an image"),
    "mask is no base64": (edited(lambda c: c["shapes"][1].update(mask="?")), "shape 2: its mask is not base64"),
    "mask is cut": (edited(lambda c: c["shapes"][1].update(mask=c["shapes"][1]["mask"][:40])), "shape 2, mask: "),
    "mask of another size": (
        edited(lambda c: c["shapes"][1].update(mask=png(np.ones((3, 4), np.uint8)))),
        r"does not fill its box \(found 4x3, expected 19x15\)",
    ),
    "deep": ('{"shapes": ' + "[" * 100_000, "nested too deeply|not a JSON file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_one_line(tmp_path, kind):
    text, words = BAD[kind]
    (tmp_path / "a.json").write_text(text, encoding="utf-16" if kind == "UTF-16" else "utf-8")
    with pytest.raises(InputError, match=words) as error:
        read_file(tmp_path / "a.json")
    assert str(error.value).startswith(f"{tmp_path}/a.json: ") and len(str(error.value).splitlines()) == 1


def test_old_files_without_kinds_and_size(tmp_path):
    content = json.loads(FILE.read_text())
    old = copy.deepcopy(content)
    old["shapes"] = [{"label": "liver", "points": content["shapes"][0]["points"]}]
    del old["imageHeight"], old["imageWidth"]
    (tmp_path / "a.json").write_text(json.dumps(old))
    (one,) = read_file(tmp_path / "a.json", "labelme")
    assert one.size is None and len(one.shapes) == 1 and one.shapes[0].name == "liver"

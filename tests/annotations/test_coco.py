"""COCO: polygons, and run lengths as pycocotools writes them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco
from pycocotools.coco import COCO

from common.annotations.reading import read_file
from common.annotations.run_lengths import decode_runs, uncompress
from common.annotations.shapes import draw
from common.errors import InputError

SIZE = (40, 60)
ROWS, COLUMNS = np.mgrid[:40, :60]
DISC = (COLUMNS - 40) ** 2 / 100 + (ROWS - 20) ** 2 / 64 < 1
PARTS = [[5.5, 4.25, 25.0, 6.0, 22.5, 30.75, 8.25, 28.0], [50, 2, 58, 2, 58, 9, 50, 9], [52, 4, 55, 4, 55, 7, 52, 7]]


def runs(mask):
    """Run lengths of pycocotools, compressed."""
    found = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": found["size"], "counts": found["counts"].decode()}


def content(**changes):
    counts = np.diff(np.flatnonzero(np.diff(np.concatenate([[2], DISC.ravel(order="F"), [2]])))).tolist()
    regions = [PARTS, {"size": [40, 60], "counts": counts}, runs(DISC), []]
    return {
        "info": {"description": "drawn"},
        "images": [{"id": 7, "file_name": "a\\s1.png", "height": 40, "width": 60}, {"id": "x", "file_name": "s2.png"}],
        "categories": [{"id": 1, "name": "liver"}, {"id": 5, "name": "tumor"}],
        "annotations": [
            {"id": n, "image_id": "x" if n == 2 else 7, "category_id": 5 if n else 1, "segmentation": region}
            | {"iscrowd": int(n == 1), "bbox": [1, 2, 3, 4], "area": 5.5}
            for n, region in enumerate(regions)
        ],
        **changes,
    }


def written(tmp_path, value):
    path = tmp_path / "instances.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools")
def test_polygons_and_run_lengths(tmp_path):
    path = written(tmp_path, content())
    first, second = read_file(path)
    assert (first.image, first.size, dict(first.ignored)) == ("a/s1.png", SIZE, {"box": 1})
    assert (second.image, second.size) == ("s2.png", SIZE)
    mask, _ = draw(first.shapes, {"tumor": 1}, SIZE)
    assert np.array_equal(mask > 0, DISC)
    assert np.array_equal(draw(second.shapes, {"tumor": 1}, SIZE)[0] > 0, DISC)
    liver = draw(first.shapes, {"liver": 1}, SIZE)[0] > 0
    assert liver[4:7, 52:55].all()  # a part in a part is no hole
    dataset = COCO(path)
    theirs = dataset.annToMask(dataset.anns[0]) > 0
    assert np.array_equal(theirs[2:9, 50:58], liver[2:9, 50:58])
    neighbors = [np.roll(liver, step, axis) for axis in (0, 1) for step in (-1, 1)]
    border = np.any([one != liver for one in neighbors], axis=0)
    assert not ((theirs != liver) & ~border).any()  # pycocotools draws on five times finer pixels


@given(st.integers(1, 12), st.integers(1, 12), st.randoms(use_true_random=False))
def test_compressed_run_lengths_are_those_of_pycocotools(height, width, rng):
    share = rng.random()
    mask = np.array([[rng.random() < share for _ in range(width)] for _ in range(height)])
    found = runs(mask)
    assert np.array_equal(decode_runs(uncompress(found["counts"], "x"), (height, width), "x", "F"), mask)


def test_long_runs():
    mask = np.zeros((3000, 2000), bool)
    mask[100:2900, 1990] = mask[5, 3] = True
    assert np.array_equal(decode_runs(uncompress(runs(mask)["counts"], "x"), mask.shape, "x", "F"), mask)


def region(segmentation, **changes):
    return content(annotations=[{"image_id": 7, "category_id": 1, "segmentation": segmentation, **changes}])


IMAGES = content()["images"]
BAD = {
    "cut short": (json.dumps(content())[:-200], r"damaged \(not a JSON file\)"),
    "no file name": (content(images=[{"id": 7}]), r"not a valid COCO file \(images.0.file_name: missing\)"),
    "images twice": (content(images=[*IMAGES, IMAGES[0]]), "images: the id 7 is there twice"),
    "unknown image": (region(PARTS, image_id=8), "annotation 1: no image with the id 8"),
    "unknown category": (region(PARTS, category_id=2), "annotation 1: no category with the id 2"),
    "odd numbers": (region([[1, 2, 3, 4, 5, 6, 7]]), r"a number is missing in an outline \(found 7 numbers\)"),
    "text": (region([["1", 2, 3, 4, 5, 6]]), "annotations.0.segmentation.*found '1'"),
    "infinite": (region([[float("inf"), 2, 3, 4, 5, 6]]), "annotations.0.segmentation"),
    "too few runs": (region({"size": [40, 60], "counts": [5, 6]}), r"do not fill 60x40 pixels \(found 11\)"),
    "huge": (region({"size": [10**6, 10**6], "counts": [10**12]}), "not the size of its image"),
    "huge, of no size": (
        region({"size": [10**6, 10**6], "counts": [10**12]}, image_id="x"),
        r"mask is too large \(found 1000000x1000000\)",
    ),
    "negative runs": (region({"size": [40, 60], "counts": [-1, 2401]}), "annotations.0.segmentation"),
    "other characters": (region({"size": [40, 60], "counts": "é"}), "invalid compressed run lengths"),
    "endless number": (region({"size": [40, 60], "counts": "o" * 99}), "invalid compressed run lengths"),
    "runs cut short": (region({"size": [40, 60], "counts": runs(DISC)["counts"][:-1] + "o"}), "are cut short"),
    "other size": (region(runs(DISC.T)), r"not the size of its image \(found 40x60, expected 60x40\)"),
    "no name": (content(categories=[{"id": 1, "name": ""}]), "a shape has no name"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_one_line(tmp_path, kind):
    value, words = BAD[kind]
    path = written(tmp_path, value)
    with pytest.raises(InputError, match=words) as error:
        read_file(path)
    assert str(error.value).startswith(f"{path}: ") and len(str(error.value).splitlines()) == 1

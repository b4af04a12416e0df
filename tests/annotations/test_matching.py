"""Which image an annotation is about."""

from collections import Counter
from pathlib import Path

import pytest

from common.annotations.matching import match_images
from common.annotations.shapes import Annotation, Shape

IMAGES = ["a/s1.png", "a/s2.png", "a/s10.png", "b/s1.png", "b/only.png", "c/x.tif", "top.jpg"]


def match(file, image=None, index=None):
    """Image that an annotation is matched to, or the message why there is none."""
    one = Annotation(Path("notes", file), image, None, [Shape("liver")], Counter(), index=index)
    found, problems = match_images([one], [Path("data", name) for name in IMAGES], Path("data"), Path("notes"))
    assert len(found) + len(problems) == 1
    return next(iter(found)).relative_to("data").as_posix() if found else problems[0]


@pytest.mark.parametrize(
    ("file", "image", "expected"),
    [
        ("all.json", "a/s1.png", "a/s1.png"),
        ("all.json", "/home/me/a/s1.png", "a/s1.png"),
        ("all.json", "/home/me/s1.png", "several images are called s1.png"),
        ("a/s1.json", "s1.png", "a/s1.png"),
        ("b/s1.json", "../images/s1.png", "b/s1.png"),
        ("all.json", "C:/data/only.png", "b/only.png"),
        ("all.json", "top.jpg", "top.jpg"),
        ("all.json", "top.png", "top.jpg"),
        ("all.json", "other.png", "notes/all.json: no image other.png in data"),
        ("all.json", "", "file name of the image: expected the name"),
        ("all.json", "..", "file name of the image: expected the name"),
        ("all.json", "../../etc/passwd", "no image ../../etc/passwd in data"),
    ],
)
def test_by_the_file_name_in_the_annotation(file, image, expected):
    assert expected in match(file, image)


@pytest.mark.parametrize(
    ("file", "index", "expected"),
    [
        ("only.roi", None, "b/only.png"),
        ("only.roi", 0, "b/only.png"),
        ("only.roi", 4, "a ROI on slice 5 of data/b/only.png, which has one"),
        ("only_RoiSet.zip", None, "b/only.png"),
        ("only-rois.zip", None, "b/only.png"),
        ("top.jpg.zip", None, "top.jpg"),
        ("only/liver.roi", None, "b/only.png"),
        ("b/s1.roi", None, "b/s1.png"),
        ("s1.roi", None, "several images are called s1.png"),
        ("a/RoiSet.zip", 2, "a/s10.png"),
        ("a.zip", 1, "a/s2.png"),
        ("a.zip", 3, "no slice 4 in the folder a (found 3 images)"),
        ("a.zip", None, "a ROI without a slice number, and the folder a has 3 images"),
        ("c.zip", None, "c/x.tif"),
        ("RoiSet.zip", None, "top.jpg"),
        ("a/liver.roi", 2, "a/s10.png"),
        ("other.roi", None, "no image other in data"),
    ],
)
def test_by_the_name_of_the_annotation_file(file, index, expected):
    assert expected in match(file, index=index)


def test_annotations_without_shapes_need_no_image():
    one = Annotation(Path("notes/all.json"), "gone.png", None, [], Counter())
    assert match_images([one], [Path("data/a.png")], Path("data"), Path("notes")) == ({}, [])

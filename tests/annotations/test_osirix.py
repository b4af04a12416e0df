"""OsiriX and Horos: what their plug-in Export ROIs writes (pixmeo/osirixplugins, ExportROIs/ExportROIsPlugin.m)."""

import copy
import json
import plistlib

import numpy as np
import pytest
from skimage.measure import find_contours

from common.annotations.reading import read_file
from common.annotations.shapes import draw, fill
from common.errors import InputError

SIZE = (40, 60)
ROWS, COLUMNS = np.mgrid[:40, :60]
DISC = (COLUMNS - 40) ** 2 / 100 + (ROWS - 20) ** 2 / 64 < 1
HEADER = (
    "ImageNo,RoiNo,RoiMean,RoiMin,RoiMax,RoiTotal,RoiDev,RoiName,RoiCenterX,RoiCenterY,RoiCenterZ,LengthCm,LengthPix,"
    "AreaPix2, AreaCm2,RoiType,NumOfPoints,mmX,mmY,mmZ,pxX,pxY,..."
)
LIVER = [(5.5, 4.25), (25, 6), (22.5, 30.75), (8.25, 28)]
TUMOR = [(31, 16), (49, 16), (49, 26), (31, 26)]


def roi(name, points, kind=11, z=12.5, **more):
    """A ROI as the plug-in describes it."""
    return {
        "IndexInImage": 0,
        "Mean": 1.5,
        "Name": name,
        "Type": kind,
        "Center": "(1.000000, 2.000000, 3.000000)",
        "NumberOfPoints": len(points),
        "Point_mm": [f"({0.7 * x:f}, {0.7 * y:f}, {z:f})" for x, y in points],
        "Point_px": [f"({x:f}, {y:f})" for x, y in points],
        "Point_value": [3.0] * len(points),
        **more,
    }


def series(*rois, index=2, **more):
    """Content of a property list with one image."""
    image = {"ImageHeight": 40, "ImageWidth": 60, "ImageIndex": index, "ImageTotalNum": 5, "NumberOfROIs": len(rois)}
    return {"Images": [{**image, "ROIs": list(rois), **more}]}


ROIS = roi("liver", LIVER), roi("tumor", TUMOR, 6), roi("length", LIVER[:2], 5), roi("dot", [(3, 3)], 19)


def as_csv(*rois, index=2, header=HEADER, uid=None):
    lines = [header]
    for number, one in enumerate(rois):
        points = []
        for mm, px in zip(one["Point_mm"], one["Point_px"], strict=True):
            points += [text.strip() for text in f"{mm[1:-1]},{px[1:-1]}".split(",")]
        first = [index, number, 1.5, 1, 2, 3, 0.5, f'"{one["Name"]}"', 1, 2, 3, 0, 0, 9, 9, one["Type"]]
        lines.append(",".join(map(str, [*first, *([uid] if uid else []), one["NumberOfPoints"], *points])))
    return "\n".join(lines) + "\n"


def written(tmp_path, content, name="a.xml"):
    path = tmp_path / name
    if isinstance(content, dict):
        content = json.dumps(content) if name.endswith("json") else plistlib.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", ["a.xml", "a.plist", "a.json", "a.csv"])
def test_the_rois_of_a_series(tmp_path, name):
    content = as_csv(*ROIS) if name == "a.csv" else series(*ROIS)
    found = read_file(written(tmp_path, content, name), "osirix")
    assert [one.index for one in found] == [2] * 4 and {one.image for one in found} == {None}
    assert [dict(one.ignored) for one in found[2:]] == [{"length": 1}, {"point": 1}]
    assert [shape.name for one in found for shape in one.shapes] == ["liver", "tumor"]
    tumor = fill(found[1].shapes[0].rings, SIZE)
    assert tumor.sum() == 180 and tumor[16:26, 31:49].all()
    assert np.allclose(found[1].middle, (0.7 * 40, 0.7 * 21, 12.5, 40, 21))
    assert np.allclose(found[0].shapes[0].rings[0], LIVER)
    if name != "a.csv":
        assert found[0].size == SIZE


def test_points_as_lists_and_uids(tmp_path):
    one = {"Name": "liver", "Point_px": [[5.5, 4.25], [25, 6], [22.5, 30.75]]}
    content = {"Images": [{"ImageIndex": 0, "ROIs": [one, one | {"SOPInstanceUID": "1.2.3"}], "SOPInstanceUID": "1.2"}]}
    assert [one.uid for one in read_file(written(tmp_path, content, "a.json"))] == ["1.2", "1.2.3"]
    header = HEADER.replace("NumOfPoints", "SOPInstanceUID,NumOfPoints")
    (found,) = read_file(written(tmp_path, as_csv(ROIS[0], header=header, uid="1.2.3"), "a.csv"))
    assert found.uid == "1.2.3" and len(found.shapes) == 1


def test_ovals_have_enough_points(tmp_path):
    """OsiriX exports an oval as the points of a polygon."""
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    points = np.column_stack([40.5 + 10 * np.cos(angles), 20.5 + 8 * np.sin(angles)]).tolist()
    found = read_file(written(tmp_path, series(roi("tumor", points, 9))))
    differs = (draw(found[0].shapes, {"tumor": 1}, SIZE)[0] > 0) != DISC
    assert np.abs(np.hypot((COLUMNS - 40) / 10, (ROWS - 20) / 8) - 1)[differs].max(initial=0) < 0.001


def test_the_outline_of_a_brush(tmp_path):
    """OsiriX finds it with marching squares at 1, between pixels of 0 and 255."""
    (contour,) = find_contours(DISC * 255.0, 1)
    found = read_file(written(tmp_path, series(roi("tumor", contour[:, ::-1].tolist(), 20))))
    assert np.array_equal(draw(found[0].shapes, {"tumor": 1}, SIZE)[0] > 0, DISC)


def changed(change):
    content = copy.deepcopy(series(*ROIS))
    change(content["Images"][0])
    return content


CSV = as_csv(*ROIS)
BAD = {
    "cut short": ("a.xml", plistlib.dumps(series(*ROIS))[:600], r"damaged \(not XML"),
    "an archive": (
        "a.rois_series",
        plistlib.dumps({"$archiver": "x"}, fmt=plistlib.FMT_BINARY),
        "export the ROIs as XML",
    ),
    "another list": ("a.xml", plistlib.dumps({"Label": "x"}), "a property list without ROIs"),
    "no list": ("a.xml", b"<plist><integer>x</integer></plist>", "damaged property list"),
    "entities": (
        "a.xml",
        b'<!DOCTYPE plist [<!ENTITY x SYSTEM "file:///etc/passwd">]><plist><string>&x;</string></plist>',
        "declares entities",
    ),
    "no index": (
        "a.xml",
        changed(lambda c: c.pop("ImageIndex")),
        r"not a valid OsiriX file \(Images.0.ImageIndex: missing",
    ),
    "negative index": ("a.json", changed(lambda c: c.update(ImageIndex=-1)), "Images.0.ImageIndex"),
    "no point": (
        "a.xml",
        changed(lambda c: c["ROIs"][0].update(Point_px=["5, 6"])),
        r"image 2, ROI 'liver': expected a point such as \(1.5, 1.5\) \(found '5, 6'\)",
    ),
    "not finite": (
        "a.xml",
        changed(lambda c: c["ROIs"][0].update(Point_px=["(5, nan)"] * 3)),
        "a point is not in the image .found 5, nan",
    ),
    "no name": ("a.json", changed(lambda c: c["ROIs"][0].update(Name="  ")), "a shape has no name"),
    "csv without points": ("a.csv", CSV.replace("NumOfPoints", "N"), "no column NumOfPoints"),
    "csv with the index behind the points": (
        "a.csv",
        CSV.replace("ImageNo,RoiNo", "A,RoiNo").replace("mmX,mmY", "mmX,ImageNo"),
        "no column ImageNo before the points",
    ),
    "csv cut short": ("a.csv", CSV[: len(HEADER) + 150], "line 2: expected 5 numbers for each point|not a number"),
    "csv with text": ("a.csv", CSV.replace("5.500000", "five"), "line 2: not a number .found 'five'"),
    "csv with half an image": ("a.csv", as_csv(*ROIS, index=1.5), "line 2: ImageNo: expected a whole number"),
    "csv with an open quote": ("a.csv", CSV.replace('"liver"', '"liver'), "line "),
    "another csv": ("a.csv", "name,age\nx,3\n", "no column ImageNo"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_one_line(tmp_path, kind):
    name, content, words = BAD[kind]
    path = written(tmp_path, content, name)
    with pytest.raises(InputError, match=words) as error:
        read_file(path)
    assert str(error.value).startswith(f"{path}: ") and len(str(error.value).splitlines()) == 1

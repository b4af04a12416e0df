"""ImageJ: ROIs as roifile writes them, and sets of them in zip files."""

import struct
import zipfile

import numpy as np
import pytest
from roifile import ROI_OPTIONS, ROI_SUBTYPE, ROI_TYPE, ImagejRoi

from common.annotations.reading import read_file
from common.annotations.shapes import draw, fill
from common.errors import InputError

SIZE = (40, 60)
ROWS, COLUMNS = np.mgrid[:40, :60]
DISC = (COLUMNS - 40) ** 2 / 100 + (ROWS - 20) ** 2 / 64 < 1
CIRCLE = 4 / 3 * (2**0.5 - 1)  # where the middle points of a quarter circle are


def traced(mask):
    """Corners of a mask without holes, as the wand of ImageJ traces them: edges of pixels, clockwise."""
    padded = np.pad(mask, 1)
    steps = {}
    for row, column in np.argwhere(padded):
        for (y, x), start, end in (
            ((-1, 0), (0, 0), (1, 0)),
            ((0, 1), (1, 0), (1, 1)),
            ((1, 0), (1, 1), (0, 1)),
            ((0, -1), (0, 1), (0, 0)),
        ):
            if not padded[row + y, column + x]:
                corner = column - 1 + start[0], row - 1 + start[1]
                steps[corner] = (column - 1 + end[0], row - 1 + end[1])
    ring = [next(iter(steps))]
    while (after := steps[ring[-1]]) != ring[0]:
        ring.append(after)
    return np.array(ring)


def roi(kind, left, top, right, bottom, **more):
    return ImagejRoi(roitype=kind, left=left, top=top, right=right, bottom=bottom, **more)


def composite(*path, **more):
    numbers = np.array(path, np.float32)
    return roi(ROI_TYPE.RECT, 0, 0, 9, 9, shape_roi_size=len(numbers), multi_coordinates=numbers, **more)


def rois():
    """ROIs of every kind, by name."""
    tumor = ImagejRoi.frompoints(traced(DISC), name="tumor")
    tumor.roitype = ROI_TYPE.TRACED
    line = ImagejRoi.frompoints([[1, 1], [5, 5], [9, 1]], name="needle")
    line.roitype = ROI_TYPE.POLYLINE
    return [
        tumor,
        ImagejRoi.frompoints([[5.5, 4.25], [25, 6], [22.5, 30.75], [8.25, 28]], name="liver"),
        roi(ROI_TYPE.RECT, 2, 36, 9, 39, name="cyst"),
        roi(ROI_TYPE.OVAL, 45, 3, 55, 13, name="node"),
        composite(*(0, 2, 2, 1, 12, 2, 1, 12, 10, 1, 2, 10, 4), *(0, 4, 4, 1, 8, 4, 1, 8, 8, 1, 4, 8, 4), name="ring"),
        line,
        ImagejRoi.frompoints([[3, 3]], name="point"),
    ]


def write_set(path, rois):
    for one in rois:
        one.tofile(path)
    return path


def test_a_set_of_rois(tmp_path):
    found = read_file(write_set(tmp_path / "RoiSet.zip", rois()[:-1]))
    assert [one.index for one in found] == [None] * 6 and found[-1].ignored == {"polyline": 1}
    masks = {one.shapes[0].name: draw(one.shapes, {one.shapes[0].name: 1}, SIZE)[0] > 0 for one in found[:-1]}
    assert np.array_equal(masks["tumor"], DISC)
    assert masks["cyst"].sum() == 21 and masks["cyst"][36:39, 2:9].all()
    assert np.array_equal(masks["node"], np.hypot(COLUMNS + 0.5 - 50, ROWS + 0.5 - 8) < 5)
    assert masks["ring"].sum() == 80 - 16 and not masks["ring"][4:8, 4:8].any()
    assert masks["liver"].any()


def test_curves_and_round_corners(tmp_path):
    c = 10 * CIRCLE
    quarters = [
        *(0, 30, 20, 3, 30, 20 + c, 20 + c, 30, 20, 30, 3, 20 - c, 30, 10, 20 + c, 10, 20),
        *(3, 10, 20 - c, 20 - c, 10, 20, 10, 3, 20 + c, 10, 30, 20 - c, 30, 20, 4),
    ]
    (one,) = read_file(written(tmp_path, composite(*quarters, name="disc")))
    ring = one.shapes[0].rings[0]
    assert len(ring) > 100 and np.abs(np.hypot(*(ring - 20).T) - 10).max() < 0.01
    (one,) = read_file(written(tmp_path, composite(0, 0, 0, 2, 5, 10, 10, 0, 4, name="parabola")))
    assert abs(one.shapes[0].rings[0][:, 1].max() - 5) < 0.1
    box = roi(ROI_TYPE.RECT, 10, 10, 30, 20, rounded_rect_arc_size=8, name="box")
    (one,) = read_file(written(tmp_path, box))
    mask = fill(one.shapes[0].rings, SIZE)
    assert not mask[10, 10] and mask[10, 14:26].all() and mask[14:16, 10:30].all()
    assert abs(mask.sum() - (200 - (4 - np.pi) * 16)) < 4
    exact = roi(
        ROI_TYPE.RECT, 0, 0, 9, 9, options=ROI_OPTIONS.SUB_PIXEL_RESOLUTION, xd=1.4, yd=2.6, widthd=3, heightd=2
    )
    (one,) = read_file(written(tmp_path, exact))
    assert np.argwhere(fill(one.shapes[0].rings, SIZE)).tolist() == [[y, x] for y in (3, 4) for x in (1, 2, 3)]


def written(tmp_path, one, name="a.roi"):
    path = tmp_path / name
    path.write_bytes(one if isinstance(one, bytes) else one.tobytes())
    return path


@pytest.mark.parametrize(
    ("name", "file", "more", "expected"),
    [
        ("liver", "b.roi", {"position": 3}, ("liver", 2)),
        ("", "tumor-2.roi", {"z_position": 4}, ("tumor", 3)),
        ("0007-0123-0456", "x.roi", {}, ("ROI", None)),
        ("", "0007-0123-0456.roi", {"group": 3}, ("group 3", 6)),
        ("", "0123-0456.roi", {}, ("ROI", None)),
    ],
)
def test_names_and_slices(tmp_path, name, file, more, expected):
    (one,) = read_file(written(tmp_path, roi(ROI_TYPE.RECT, 1, 1, 5, 5, name=name, **more), file))
    assert (one.shapes[0].name, one.index) == expected


def damaged(change):
    data = bytearray(rois()[1].tobytes())
    change(data)
    return bytes(data)


BAD = {
    "cut short": (rois()[0].tobytes()[:90], "not a readable ImageJ ROI"),
    "only a start": (b"Iout" + bytes(20), "not a readable ImageJ ROI .ImageJ ROI data too short"),
    "more points than data": (
        damaged(lambda d: d.__setitem__(slice(16, 18), b"\xff\xff")),
        "not a readable ImageJ ROI",
    ),
    "not a number": (
        damaged(lambda d: d.__setitem__(slice(80, 84), struct.pack(">f", float("nan")))),
        "a point is not in the image .found nan",
    ),
    "another step": (composite(7, 1, 2, name="x").tobytes(), "not a readable ImageJ ROI"),
    "a cut path": (composite(0, 1, 2, 1, 5, name="x").tobytes(), "not a readable ImageJ ROI"),
    "a line before a start": (composite(1, 1, 2, name="x").tobytes(), "not a readable ImageJ ROI"),
    "upside down": (roi(ROI_TYPE.RECT, 30, 20, 10, 10, name="x").tobytes(), "not a readable ImageJ ROI .invalid box"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_one_line(tmp_path, kind):
    data, words = BAD[kind]
    path = written(tmp_path, data)
    with pytest.raises(InputError, match=words) as error:
        read_file(path)
    assert str(error.value).startswith(f"{path}: ") and len(str(error.value).splitlines()) == 1


def test_what_macos_adds_to_a_zip_file_is_no_roi(tmp_path):
    path = write_set(tmp_path / "RoiSet.zip", rois()[:2])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/._liver.roi", bytes(120))
    assert len(read_file(path)) == 2


def test_bad_sets(tmp_path):
    path = write_set(tmp_path / "RoiSet.zip", rois()[:2])
    data = path.read_bytes()
    path.write_bytes(data[:-40])
    with pytest.raises(InputError, match="damaged zip file"):
        read_file(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../liver.roi", b"Iout")
    with pytest.raises(InputError, match=r"RoiSet\.zip: liver: not a readable ImageJ ROI"):
        read_file(path)
    (tmp_path / "b.roi").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a readable ImageJ ROI"):
        read_file(tmp_path / "b.roi")


def test_text_is_no_shape(tmp_path):
    text = roi(ROI_TYPE.RECT, 1, 1, 5, 5, subtype=ROI_SUBTYPE.TEXT, name="note", text="x", text_name="Arial")
    (one,) = read_file(written(tmp_path, text))
    assert (one.shapes, dict(one.ignored)) == ([], {"text": 1})

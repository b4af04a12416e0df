"""DICOM SEG, RTSTRUCT and .seg.nrrd: voxel for voxel what their own libraries wrote, and what is refused."""

import io

import numpy as np
import PIL.Image
import pydicom
import pytest
from dicom_labels import draw_series, sources, write_rtstruct, write_seg, write_seg_nrrd
from drawings import assert_same_geometry

sitk = pytest.importorskip("SimpleITK")
from common.errors import InputError
from common.volumes.grids import Geometry, onto_grid
from common.volumes.label_files import LabelFiles
from common.volumes.rtstruct import fill

DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
AXIAL = np.eye(3)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """Folder of a skewed series, its datasets in slice order, and its image."""
    folder = tmp_path_factory.mktemp("series")
    image = draw_series(folder)
    return folder, sources(folder), image


def masks_of_three(shape, seed=0):
    """Boolean masks (k, j, i, 3) of segments that overlap in places; the first and last slice are empty."""
    masks = np.random.default_rng(seed).random((*shape, 3)) < 0.4
    masks[[0, -1]] = False
    return masks


def in_order(masks, order=(0, 1, 2)):
    """Class numbers of masks, of which the later wins, and the number of voxels in several."""
    labels = np.zeros(masks.shape[:3], np.uint8)
    for number, segment in enumerate(order, 1):
        labels[masks[..., segment]] = number
    return labels


def read(path, image, **settings):
    """Labels of a file on the grid of an image, and its LabelFiles."""
    files = LabelFiles([path], **settings)
    if files.failed:
        raise InputError(files.failed[path])
    geometry = Geometry.of(image)
    labels = onto_grid(files.read(path, geometry)[0], geometry)
    assert_same_geometry(labels, image)
    return sitk.GetArrayFromImage(labels), files


@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        ("BINARY", None),
        ("BINARY", DEFLATED),
        ("FRACTIONAL", None),
        ("FRACTIONAL", "1.2.840.10008.1.2.5"),  # RLE
        ("FRACTIONAL", JPEG_2000),
        ("LABELMAP", None),
        ("LABELMAP", "1.2.840.10008.1.2.4.80"),  # JPEG-LS
        ("LABELMAP", "1.2.840.10008.1.2.5"),
    ],
)
def test_dicom_seg_of_highdicom(tmp_path, series, kind, syntax):
    _, slices, image = series
    masks = masks_of_three(image.GetSize()[::-1])
    expected = in_order(masks)
    content = expected if kind == "LABELMAP" else masks.astype(np.uint8)
    if kind == "FRACTIONAL":
        content = np.where(masks, 0.6, 0.4)
    coded = None if syntax in (DEFLATED, JPEG_2000) else syntax  # these are written afterwards
    write_seg(tmp_path / "seg.dcm", slices, content, ["liver", "tumor", "vessel"], kind, coded)
    if syntax == DEFLATED:
        change(tmp_path / "seg.dcm", lambda content: setattr(content.file_meta, "TransferSyntaxUID", DEFLATED))
    if syntax == JPEG_2000:
        change(tmp_path / "seg.dcm", encode_as_jpeg_2000)
    found, files = read(tmp_path / "seg.dcm", image)
    np.testing.assert_array_equal(found, expected)
    assert files.describe() == "classes: 1 liver (in 1 of 1), 2 tumor (in 1 of 1), 3 vessel (in 1 of 1)"
    overlap = np.count_nonzero(masks[..., 0] & masks[..., 1]) + np.count_nonzero(masks[..., :2].any(3) & masks[..., 2])
    assert files.read(tmp_path / "seg.dcm", Geometry.of(image))[1] == (0 if kind == "LABELMAP" else overlap)
    found, files = read(tmp_path / "seg.dcm", image, classes=["Vessel", "liver "])
    chosen = in_order(masks, (2, 0)) if kind != "LABELMAP" else np.array([0, 2, 0, 1], np.uint8)[expected]
    np.testing.assert_array_equal(found, chosen)
    assert "left out: tumor" in files.describe() and files.largest == 2
    found, files = read(tmp_path / "seg.dcm", image, label_values={3: 1})
    np.testing.assert_array_equal(found > 0, masks[..., 2])


def encode_as_jpeg_2000(content):
    streams = []
    for frame in content.pixel_array:
        stream = io.BytesIO()
        PIL.Image.fromarray(frame).save(stream, "JPEG2000", no_jp2=True, irreversible=False)
        streams.append(stream.getvalue())
    content.PixelData = pydicom.encaps.encapsulate(streams)
    content["PixelData"].is_undefined_length = True
    content.file_meta.TransferSyntaxUID = JPEG_2000


def test_dicom_seg_of_some_slices_in_any_order(tmp_path, series):
    _, slices, image = series
    masks = masks_of_three(image.GetSize()[::-1])[..., :1]
    masks[2] = False
    order = [4, 1, 3]
    write_seg(tmp_path / "some.dcm", [slices[k] for k in order], masks[order].astype(np.uint8))
    found, _ = read(tmp_path / "some.dcm", image)
    np.testing.assert_array_equal(found > 0, masks[..., 0])
    write_seg(tmp_path / "one.dcm", [slices[3]], masks[[3]].astype(np.uint8))
    found, _ = read(tmp_path / "one.dcm", image)
    np.testing.assert_array_equal(np.flatnonzero(found.any((1, 2))), [3])
    np.testing.assert_array_equal(found[3] > 0, masks[3, ..., 0])


def change(path, to):
    """Change a DICOM file."""
    content = pydicom.dcmread(path)
    to(content)
    content.save_as(path)


def frames_of(content):
    return content.PerFrameFunctionalGroupsSequence


def moved(content, mm):
    for frame in frames_of(content):
        place = frame.PlanePositionSequence[0]
        place.ImagePositionPatient = [float(v) + mm for v in place.ImagePositionPatient]


@pytest.mark.parametrize(
    ("to", "said"),
    [
        (lambda c: moved(c, 500), "frames are outside of the series"),
        (lambda c: setattr(c, "SegmentSequence", []), "DICOM SEG without segments"),
        (lambda c: setattr(c, "PerFrameFunctionalGroupsSequence", []), "DICOM SEG without frames"),
        (lambda c: moved(c, float("nan")), "invalid ImagePositionPatient (nan"),
        (lambda c: [delattr(frame, "PlanePositionSequence") for frame in frames_of(c)], "no ImagePositionPatient"),
        (
            lambda c: setattr(
                frames_of(c)[1].PlanePositionSequence[0],
                "ImagePositionPatient",
                (np.array(frames_of(c)[0].PlanePositionSequence[0].ImagePositionPatient, float) + 0.5).tolist(),
            ),
            "not on slices of equal distance",
        ),
        (lambda c: setattr(c, "SegmentationType", "ODD"), "unknown SegmentationType (found 'ODD')"),
        (lambda c: setattr(c, "NumberOfFrames", 900), "damaged header"),
    ],
)
def test_bad_dicom_seg(tmp_path, series, to, said):
    _, slices, image = series
    write_seg(tmp_path / "seg.dcm", slices, masks_of_three(image.GetSize()[::-1]).astype(np.uint8))
    change(tmp_path / "seg.dcm", to)
    with pytest.raises(InputError) as error:
        read(tmp_path / "seg.dcm", image)
    assert str(error.value).startswith(f"{tmp_path / 'seg.dcm'}: ") and said in str(error.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("kind", ["seg", "rtstruct", "slicer"])
def test_cut_files(tmp_path, series, kind, share):
    _, slices, image = series
    masks = masks_of_three(image.GetSize()[::-1])
    path = tmp_path / {"seg": "s.dcm", "rtstruct": "r.dcm", "slicer": "s.seg.nrrd"}[kind]
    if kind == "seg":
        write_seg(path, slices, masks.astype(np.uint8))
    elif kind == "slicer":
        write_seg_nrrd(path, [in_order(masks)], Geometry.of(image), [("liver", 1, 0)])
    else:
        write_rtstruct(path, slices, [(1, "liver", [square(image, 2)], "CLOSED_PLANAR")])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError) as error:
        read(path, image)
    assert str(path) in str(error.value)


# --- RTSTRUCT


def outline(image, k, points):
    """Points (N, 2) in voxels i, j of a slice, in mm."""
    return Geometry.of(image).to_points(np.column_stack([points, np.full(len(points), k)]))


def square(image, k, low=4.5, high=12.5):
    return outline(image, k, np.array([(low, low), (high, low), (high, high), (low, high)]))


@pytest.mark.parametrize("direction", [None, AXIAL])
def test_outlines_become_the_voxels_inside(tmp_path, direction):
    image = draw_series(tmp_path / "scan", direction=direction)
    hole = outline(image, 2, np.array([(6.5, 6.5), (8.5, 6.5), (8.5, 9.5), (6.5, 9.5)]))
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    circle = outline(image, 4, np.column_stack([9 + 6.3 * np.cos(angles), 11 + 6.3 * np.sin(angles)]))
    rois = [
        (7, "Tumor", [square(image, 2), hole], "CLOSED_PLANAR"),
        (3, "Liver", [circle, square(image, 2, 10.5, 15.5)], "CLOSED_PLANAR"),
        (5, "isocenter", [outline(image, 2, np.array([(3, 3)]))], "POINT"),
    ]
    write_rtstruct(tmp_path / "rt.dcm", sources(tmp_path / "scan"), rois)
    found, files = read(tmp_path / "rt.dcm", image)
    expected = np.zeros_like(found)
    j, i = np.indices(expected.shape[1:])
    expected[4][(i - 9) ** 2 + (j - 11) ** 2 < 6.3**2] = 1
    expected[2, 11:16, 11:16] = 1
    expected[2, 5:13, 5:13] = 2
    expected[2, 7:10, 7:9] = 0
    np.testing.assert_array_equal(found, expected)
    assert files.read(tmp_path / "rt.dcm", Geometry.of(image))[1] == 4
    assert files.describe() == "classes: 1 Liver (in 1 of 1), 2 Tumor (in 1 of 1)"
    found, _ = read(tmp_path / "rt.dcm", image, classes=["tumor"])
    assert np.count_nonzero(found) == 64 - 6
    found, _ = read(tmp_path / "rt.dcm", image, label_values={7: 4})
    assert np.unique(found).tolist() == [0, 4]


def test_outlines_through_the_centers_of_the_outer_voxels():
    """As OpenCV, and programs that use it, draw them, with holes: each mask comes back as it was."""
    import cv2

    rng = np.random.default_rng(1)
    for _ in range(20):
        mask = cv2.resize(rng.random((6, 7)).astype(np.float32), (40, 30), interpolation=cv2.INTER_CUBIC) > 0.5
        contours, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        outer = [c[:, 0] for c, links in zip(contours, tree[0], strict=True) if links[3] < 0]
        filled = fill(outer, mask.shape)
        assert filled[mask].all() and (filled & ~mask).sum() == (cv2.drawContours(
            mask.astype(np.uint8), [c for c, links in zip(contours, tree[0], strict=True) if links[3] < 0], -1, 1, -1
        ) - mask).sum()  # fmt: skip
        np.testing.assert_array_equal(fill([c[:, 0] for c in contours], mask.shape), mask)


def test_polygons_by_the_test_of_matplotlib():
    from matplotlib.path import Path as Outline

    rng, (height, width) = np.random.default_rng(2), (25, 32)
    centers = np.indices((height, width)).reshape(2, -1).T[:, ::-1]
    for _ in range(30):
        points = rng.uniform(-5, 36, (rng.integers(3, 12), 2))
        angles = np.arctan2(*(points - points.mean(0)).T)
        points = points[np.argsort(angles)]
        expected, *near = (Outline(points).contains_points(centers, radius=r) for r in (0, 0.05, -0.05))
        sure = near[0] == near[1]  # not on an edge
        np.testing.assert_array_equal(fill([points], (height, width)).ravel()[sure], expected[sure])
        assert sure.mean() > 0.98


@pytest.mark.parametrize(
    ("contours", "kind", "said"),
    [
        (lambda image: [square(image, 9)], "CLOSED_PLANAR", "outside of the series that it refers to (slice 10"),
        (lambda image: [square(image, 2.4)], "CLOSED_PLANAR", "not in a slice of the series (slices 3.40 to 3.40)"),
        (lambda image: [square(image, 2, 60, 70)], "CLOSED_PLANAR", "outside of the slices"),
        (lambda image: [square(image, 2) * np.nan], "CLOSED_PLANAR", "a point that is not finite"),
        (lambda image: [square(image, 2).ravel()[:-1]], "CLOSED_PLANAR", "not a list of points"),
        (lambda image: [square(image, 2)], "POINT", "RTSTRUCT without closed contours"),
        (lambda image: [], "CLOSED_PLANAR", "RTSTRUCT without closed contours"),
    ],
)
def test_bad_outlines(tmp_path, series, contours, kind, said):
    _, slices, image = series
    write_rtstruct(tmp_path / "rt.dcm", slices, [(1, "liver", contours(image), kind)])
    with pytest.raises(InputError) as error:
        read(tmp_path / "rt.dcm", image)
    assert str(error.value).startswith(f"{tmp_path / 'rt.dcm'}: ") and said in str(error.value)


# --- 3D Slicer


@pytest.mark.parametrize("layers", [1, 2])
def test_segmentations_of_3d_slicer(tmp_path, series, layers):
    image = series[2]
    masks = masks_of_three(image.GetSize()[::-1])
    geometry = Geometry.of(image)
    segments = [("liver", 5, 0), ("tumor", 2, 0), ("vessel", 1, layers - 1)]
    if layers == 2:
        arrays = [np.where(masks[..., 1], 2, np.where(masks[..., 0], 5, 0)).astype(np.uint8)]
        arrays.append(masks[..., 2].astype(np.uint8))
        expected = np.where(masks[..., 2], 3, np.where(masks[..., 1], 2, masks[..., 0])).astype(np.uint8)
    else:
        arrays = [np.array([0, 5, 2, 1], np.uint8)[in_order(masks)]]
        expected = in_order(masks)
    path = tmp_path / "a.seg.nrrd"
    write_seg_nrrd(path, arrays, geometry, segments)
    found, files = read(path, image)
    np.testing.assert_array_equal(found, expected)
    assert "1 liver" in files.describe()
    overlap = files.read(path, geometry)[1]
    assert bool(overlap) == (layers == 2) and bool(files.note_on_overlap([0, overlap])) == bool(overlap)
    found, _ = read(path, image, classes=["vessel"])
    np.testing.assert_array_equal(found > 0, masks[..., 2])
    found, _ = read(path, image, label_values={5: 1})
    np.testing.assert_array_equal(found > 0, arrays[0] == 5)


@pytest.mark.parametrize(
    ("segments", "said"),
    [
        ([("liver", 1, 4)], "segment 'liver' is missing (layer 4 of 2)"),
        ([("liver", "x", 0)], "segment 0 is invalid (LabelValue x, Layer 0)"),
    ],
)
def test_bad_segmentations_of_3d_slicer(tmp_path, series, segments, said):
    image = series[2]
    layer = np.ones(image.GetSize()[::-1], np.uint8)
    write_seg_nrrd(tmp_path / "a.seg.nrrd", [layer, layer], Geometry.of(image), segments)
    with pytest.raises(InputError) as error:
        read(tmp_path / "a.seg.nrrd", image)
    assert said in str(error.value)


# --- names of several files


def test_classes_have_the_same_number_in_all_files(tmp_path, series):
    _, slices, image = series
    masks = masks_of_three(image.GetSize()[::-1]).astype(np.uint8)
    a, b = tmp_path / "a.dcm", tmp_path / "b.dcm"
    write_seg(a, slices, masks[..., :2], ["liver", "tumor"])
    write_seg(b, slices, masks[..., :2], ["Tumor", "Liver"])
    files = LabelFiles([a, b])
    assert files.describe() == "classes: 1 liver (in 2 of 2), 2 tumor (in 2 of 2)"
    labels = sitk.GetArrayFromImage(onto_grid(files.read(b, Geometry.of(image))[0], Geometry.of(image)))
    np.testing.assert_array_equal(labels, in_order(masks.astype(bool)[..., [1, 0]], (0, 1)))
    with pytest.raises(InputError, match=r"CLASSES: no segment 'livr' in the label files \(found liver, tumor"):
        LabelFiles([a, b], ["livr"])

"""Files for viewers, read back: OsiriX ROIs by our own importer, GeoJSON by shapely, .label by ITK-SNAP's rules."""

import json
import plistlib
import re

import numpy as np
import pytest
from drawings import as_volume, disc_slice, write, write_copying_network, write_image
from running import assert_refused, run_here

from common.annotations.reading import read_file
from common.annotations.shapes import draw, fill
from common.prediction.polygons import area_of, polygons_of, with_slits
from common.prediction.viewer_files import ViewerFiles
from common.slices.classes import sets_of_classes
from common.slices.drawing import CLASS_COLORS
from common.volumes.grids import Geometry

sitk = pytest.importorskip("SimpleITK")
shapely = pytest.importorskip("shapely.geometry")
NAMES = ["liver", 'tumor "A"']


def masks(seed=0, shape=(5, 30, 40)):
    """Class numbers with holes, single pixels, parts that touch at corners, and at the edge."""
    rng = np.random.default_rng(seed)
    numbers = np.zeros(shape, np.uint8)
    numbers[1] = rng.integers(0, 3, shape[1:])
    numbers[2, :12, :20], numbers[2, 3:9, 4:12], numbers[2, 5:7, 6:8], numbers[2, 4, 15] = 1, 0, 2, 0
    numbers[3, 20:, 30:], numbers[3, 25, 35] = 2, 0
    return numbers


@pytest.mark.parametrize("seed", range(3))
def test_polygons_give_the_mask_back_and_stay_within_half_a_pixel(seed):
    mask = masks(seed)[1 + seed] == 1 + (seed == 2)
    parts = polygons_of(mask)
    all_rings = [ring for rings in parts for ring in rings]
    for rings in ([with_slits(rings) for rings in parts], all_rings):
        np.testing.assert_array_equal(fill(rings, mask.shape), mask)
    padded = np.pad(mask, 1)
    below, right = (np.argwhere(np.diff(padded, axis=axis)) for axis in (0, 1))
    edges = np.concatenate([below - [0, 0.5], right - [0.5, 0]])[:, ::-1]  # x, y of the middles of edges of pixels
    points = np.concatenate(all_rings)
    distances = np.abs(points[:, None] - edges[None]).max(axis=-1)
    assert distances.min(axis=1).max() <= 0.5 and len(points) <= len(edges)


def labels_of(numbers, direction=None):
    return as_volume(numbers, *([direction] if direction is not None else []))


def test_rois_of_osirix_are_read_back_equal(tmp_path):
    numbers, labels = masks(), labels_of(masks())
    ViewerFiles(tmp_path, ["osirix"], NAMES).add_volume("scan", labels)
    path = tmp_path / "osirix" / "scan.xml"
    found = np.zeros_like(numbers)
    shapes = {}
    for one in read_file(path, "osirix"):
        assert one.size == numbers.shape[1:] and not one.ignored
        shapes.setdefault(one.index, []).extend(one.shapes)
        point, (x, y) = one.middle[:3], one.middle[3:]
        expected = Geometry.of(labels).to_points([(x - 0.5, y - 0.5, one.index)])[0]
        np.testing.assert_allclose(point, expected, atol=1e-4)
    for k, of_slice in shapes.items():
        found[k], _ = draw(of_slice, {name: number for number, name in enumerate(NAMES, 1)}, numbers.shape[1:])
    np.testing.assert_array_equal(found, numbers)
    imported = plistlib.loads(path.read_bytes())["ROI array"]  # what OsiriX itself imports
    for k in range(5):
        rings = [roi["ROIPoints"] for roi in imported if (roi["Slice"], roi["Name"]) == (k + 1, "liver")]
        rings = [np.array([[float(n) for n in re.findall(r"[-\d.]+", point)] for point in ring]) for ring in rings]
        filled = fill(rings, numbers.shape[1:]) if rings else np.zeros(numbers.shape[1:], bool)
        np.testing.assert_array_equal(filled, numbers[k] == 1)


def test_annotations_of_qupath_are_valid_and_equal(tmp_path):
    numbers, files = masks(), ViewerFiles(tmp_path, ["qupath"], NAMES)
    files.add_image("case1", "0001", numbers[2])
    files.add_volume("scan", labels_of(numbers))
    volume = json.loads((tmp_path / "qupath" / "scan.geojson").read_text())
    image = json.loads((tmp_path / "qupath" / "case1" / "0001.geojson").read_text())
    assert image["type"] == "FeatureCollection" and len(image["features"]) == 2
    places = shapely.MultiPoint([(x + 0.5, y + 0.5) for y in range(30) for x in range(40)]).geoms
    for content, planes in ((image, {0: numbers[2]}), (volume, dict(enumerate(numbers)))):
        found = {k: np.zeros(1200, np.uint8) for k in planes}
        for feature in content["features"]:
            polygon = shapely.shape(feature["geometry"])
            assert polygon.is_valid and feature["properties"]["objectType"] == "annotation"
            assert polygon.exterior.is_ccw and not any(ring.is_ccw for ring in polygon.interiors)
            named = feature["properties"]["classification"]
            number = NAMES.index(named["name"]) + 1
            assert tuple(named["color"]) == CLASS_COLORS[number - 1]
            k = feature["geometry"].get("plane", {"z": 0})["z"]
            found[k][[polygon.contains(place) for place in places]] = number
        for k, plane in planes.items():
            np.testing.assert_array_equal(found[k].reshape(30, 40), plane)


def test_overlapping_classes_have_outlines_of_their_own(tmp_path):
    first, second = np.zeros((2, 20, 20), bool)
    first[2:12, 2:12], second[6:18, 6:18] = True, True
    sets = sets_of_classes([first, second])
    files = ViewerFiles(tmp_path, ["osirix", "qupath"], NAMES)
    files.add_image("", "a", sets)
    files.add_volume("v", labels_of(sets[None]))
    for name in ("a", "v"):
        features = json.loads((tmp_path / "qupath" / f"{name}.geojson").read_text())["features"]
        assert [shapely.shape(one["geometry"]).area for one in features] == [99.5, 143.5]
    rois = read_file(tmp_path / "osirix" / "v.xml", "osirix")
    for roi, mask in zip(rois, (first, second), strict=True):
        np.testing.assert_array_equal(fill(roi.shapes[0].rings, (20, 20)), mask)


def test_names_and_colors_for_itk_snap(tmp_path):
    ViewerFiles(tmp_path, ["itk-snap"], NAMES)
    rows = [line for line in (tmp_path / "classes.label").read_text().splitlines() if not line.startswith("#")]
    found = [
        re.fullmatch(r"\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([\d.]+)\s+([01])\s+([01])\s+\"([^\"]*)\"", r) for r in rows
    ]
    assert [(int(row[1]), row[8]) for row in found] == [(0, "Clear Label"), (1, "liver"), (2, "tumor 'A'")]
    assert tuple(map(int, found[2].groups()[1:4])) == CLASS_COLORS[1]


def test_rings_are_joined_by_slits_without_area():
    mask = np.zeros((20, 20), bool)
    mask[2:18, 2:18], mask[4:6, 4:6], mask[10:14, 8:12] = True, False, False
    (rings,) = polygons_of(mask)
    assert len(rings) == 3 and [abs(area_of(ring)) for ring in rings] == [255.5, 15.5, 3.5]
    assert abs(abs(area_of(with_slits(rings))) - (255.5 - 15.5 - 3.5)) < 1e-9


def test_predict_writes_them_for_volumes_and_images(tmp_path):
    write_copying_network(tmp_path / "copy.keras", 32)
    values = np.stack([disc_slice(32, seed)[1] for seed in range(4)])
    write(tmp_path / "scans", "a.nii.gz", as_volume(values.astype(np.int16)))
    settings = {"RUN": tmp_path / "copy.keras", "OVERLAYS": False, "PROBABILITIES": True}
    kinds = ["osirix", "qupath", "itk-snap"]
    out = tmp_path / "out"
    run_here("predict.py", INPUT=tmp_path / "scans", OUTPUT=out, VIEWER_FILES=kinds, WINDOW=[0, 255], **settings)
    labels = sitk.ReadImage(str(out / "a.nii.gz"))
    array = sitk.GetArrayFromImage(labels)
    assert array.any() and 'mask"' in (out / "classes.label").read_text()
    rois = {one.index: one.shapes for one in read_file(out / "osirix" / "a.xml", "osirix")}
    for k in range(4):
        drawn, _ = draw(rois.get(k, []), {"mask": 1}, array.shape[1:])
        np.testing.assert_array_equal(drawn, array[k])
    assert json.loads((out / "qupath" / "a.geojson").read_text())["features"]
    probabilities = sitk.ReadImage(str(out / "probabilities" / "mask" / "a.nii.gz"))
    assert probabilities.GetSize() == labels.GetSize() and probabilities.GetPixelIDTypeAsString() == "32-bit float"
    np.testing.assert_allclose(probabilities.GetOrigin(), labels.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(probabilities.GetDirection(), labels.GetDirection(), atol=1e-6)
    found = sitk.GetArrayFromImage(probabilities)
    np.testing.assert_array_equal(found, found.astype(np.float16))
    np.testing.assert_array_equal(found > 0.5, array == 1)
    write_image(tmp_path / "images" / "b.png", values[0])
    assert_refused(
        "predict.py", "VIEWER_FILES", INPUT=tmp_path / "images", OUTPUT=tmp_path / "no", VIEWER_FILES=kinds, **settings
    )
    run_here("predict.py", INPUT=tmp_path / "images", OUTPUT=tmp_path / "b", VIEWER_FILES=kinds[1:], **settings)
    assert json.loads((tmp_path / "b" / "qupath" / "b.geojson").read_text())["features"]

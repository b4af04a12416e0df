"""0_import_stl.py: surfaces to masks and onto the grid of a volume."""

import zlib
from unittest import mock

import numpy as np
import pytest
from drawings import as_volume, assert_same_geometry
from hypothesis import given
from hypothesis import strategies as st
from running import assert_refused, run_here, run_script
from skimage.measure import grid_points_in_poly

from common import claims
from common.slices.images import read_mask
from common.volumes.reading import read_volume
from common.volumes.surfaces import fill_outlines

sitk = pytest.importorskip("SimpleITK")
trimesh = pytest.importorskip("trimesh")

SCRIPT = "preprocess/0_import_stl.py"


def save(path, *meshes):
    trimesh.util.concatenate(list(meshes)).export(path)
    return path


def sphere(radius, center=(0, 0, 0)):
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    mesh.apply_translation(center)
    return mesh


def hollow(radius, inner):
    """A ball with a cavity: its inner surface looks inwards."""
    cavity = sphere(inner)
    cavity.invert()
    return sphere(radius), cavity


def masks_in(folder):
    return np.stack([read_mask(path) > 0 for path in sorted(folder.glob("slice*.png"))])


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_ball_with_a_cavity(tmp_path, axis):
    surface = save(tmp_path / "ball.stl", *hollow(20.0, 8.0))
    run_here(SCRIPT, SURFACE=surface, OUTPUT=tmp_path / "m", AXIS=axis, INTERVAL=2.0, PIXEL=0.5, SIZE=100)
    masks = masks_in(tmp_path / "m")
    assert masks.shape == (20, 100, 100)
    places = (np.arange(100) - 49.5) * 0.5
    heights = np.arange(20) * 2.0 - 20
    square = places[:, None] ** 2 + places**2 + heights[:, None, None] ** 2
    expected = (square < 400) & (square > 64)
    assert 2 * (masks & expected).sum() / (masks.sum() + expected.sum()) > 0.995


def test_order_offset_flip_and_size(tmp_path):
    box = trimesh.creation.box((40, 20, 10))
    box.vertices[box.vertices[:, 2] > 0] *= [0.5, 1, 1]  # narrower at the top
    box.vertices[box.vertices[:, 0] > 0] *= [0.8, 1, 1]  # and to one side
    surface = save(tmp_path / "box.stl", box)
    settings = {"SURFACE": surface, "PIXEL": 1.0, "SIZE": 60, "INTERVAL": 3.0, "OFFSET": 1.0}
    run_script(SCRIPT, OUTPUT=tmp_path / "up", **settings)
    run_here(SCRIPT, OUTPUT=tmp_path / "down", **settings | {"INTERVAL": -3.0})
    run_here(SCRIPT, OUTPUT=tmp_path / "flipped", FLIP="both", **settings)
    up, down, flipped = (masks_in(tmp_path / name) for name in ("up", "down", "flipped"))
    areas = up.sum((1, 2))
    assert len(up) == 3 and (np.diff(areas) < 0).all()
    assert (np.diff(down.sum((1, 2))) > 0).all()
    np.testing.assert_array_equal(flipped, up[:, ::-1, ::-1])
    run_here(SCRIPT, SURFACE=surface, OUTPUT=tmp_path / "fitted", INTERVAL=5.0)
    fitted = masks_in(tmp_path / "fitted")
    assert fitted.shape[1:] == (200, 200) and abs(fitted[0].any(0).sum() - 180) <= 2


def nested_balls():
    """A ball with a cavity, a ball in that and another one aside: every view of them is different."""
    parts = [(20.0, (3, -5, 8), (1.3, 0.9, 0.7)), (9.0, (8, -4, 9), (1, 1.2, 0.9)), (4.0, (9, -3, 8), (1, 1, 1))]
    parts += [(6.1, (25, 12, 14), (0.7, 1, 1.4))]
    balls = [trimesh.creation.icosphere(subdivisions=3, radius=radius) for radius, *_ in parts]
    for ball, (_, center, stretch) in zip(balls, parts, strict=True):
        ball.vertices = ball.vertices * stretch + center
    balls[1].invert()
    return balls


@pytest.mark.parametrize(
    ("axis", "offset", "interval", "flip", "areas", "digest"),
    [
        ("z", 2, -3.5, "", [0, 4801, 13627, 16287, 18205, 18162, 16780, 13516, 5683], 2727571052),
        ("x", 0, 5, "", [0, 6495, 11654, 15431, 17831, 15145, 12824, 11799, 13320, 10687, 5831], 377691091),
        ("y", 1.3, 4.4, "horizontal", [2306, 8999, 12490, 13353, 14169, 12773, 10763, 7866, 1621, 108], 2207481833),
        ("z", 0, 6, "vertical", [0, 14494, 17934, 17045, 11501], 2406940241),
    ],
)
def test_slices_of_the_codeset_pixel_for_pixel(tmp_path, axis, offset, interval, flip, areas, digest):
    """Areas and CRC-32 are of the masks that SliceSTL.py of AIS Training Codeset writes for this surface."""
    surface = save(tmp_path / "balls.stl", *nested_balls())
    settings = {"AXIS": axis, "OFFSET": float(offset), "INTERVAL": float(interval), "FLIP": flip, "AS_AIS": True}
    run_here(SCRIPT, SURFACE=surface, OUTPUT=tmp_path / "m", **settings)
    masks = masks_in(tmp_path / "m")
    assert masks.sum((1, 2)).tolist() == areas
    assert zlib.crc32(np.packbits(masks).tobytes()) == digest


@pytest.mark.parametrize("space", ["LPS", "RAS"])
def test_onto_the_grid_of_a_turned_volume(tmp_path, space):
    volume = as_volume(np.zeros((30, 40, 50), np.int16), spacing=(0.8, 0.7, 1.2))
    sitk.WriteImage(volume, str(tmp_path / "scan.nrrd"))
    center = np.array(volume.TransformContinuousIndexToPhysicalPoint((24.3, 20.6, 14.1)))
    surface = save(tmp_path / "ball.stl", sphere(9.0, center * ([1, 1, 1] if space == "LPS" else [-1, -1, 1])))
    settings = {"SURFACE": surface, "VOLUME": tmp_path / "scan.nrrd"}
    run_here(SCRIPT, OUTPUT=tmp_path / "labels.nii.gz", SPACE=space, **settings)
    labels = read_volume(tmp_path / "labels.nii.gz")
    assert_same_geometry(labels, volume, 1e-5)
    found = sitk.GetArrayFromImage(labels)
    k, j, i = np.indices(found.shape)
    axes = np.reshape(volume.GetDirection(), (3, 3)) * volume.GetSpacing()
    places = np.stack([i, j, k], -1) @ axes.T + volume.GetOrigin()
    expected = np.linalg.norm(places - center, axis=-1) < 9
    assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.99
    other = "RAS" if space == "LPS" else "LPS"
    assert_refused(SCRIPT, "surface is outside", OUTPUT=tmp_path / "x.nrrd", SPACE=other, **settings)
    assert not (tmp_path / "x.nrrd").exists()


def test_a_label_volume_that_another_process_wrote_meanwhile_stays(tmp_path):
    """Two at once, without --replace: the second found no output when it started."""
    output, volume = tmp_path / "out.nrrd", tmp_path / "v.nrrd"
    sitk.WriteImage(sitk.Image(30, 30, 30, sitk.sitkUInt8), str(volume))
    claimed = claims.claimed

    def after_another(path):
        output.write_bytes(b"of another process")
        return claimed(path)

    settings = {"SURFACE": save(tmp_path / "s.stl", sphere(9.0)), "VOLUME": volume, "OUTPUT": output}
    with mock.patch.object(claims, "claimed", after_another):
        assert_refused(SCRIPT, f"{output}: already exists", **settings)
    assert output.read_bytes() == b"of another process"


def test_surfaces_that_are_not_closed(tmp_path):
    ball = sphere(10.0)
    whole = save(tmp_path / "whole.stl", ball)
    ball.faces = ball.faces[1:]
    surface = save(tmp_path / "open.stl", ball)
    assert_refused(SCRIPT, "surface is not closed", "--open-surface repair", SURFACE=surface, OUTPUT=tmp_path / "o")
    done = run_here(SCRIPT, SURFACE=surface, OUTPUT=tmp_path / "o", OPEN_SURFACE="repair")
    assert "filled the holes of" in done.stdout
    run_here(SCRIPT, SURFACE=whole, OUTPUT=tmp_path / "w")
    assert (masks_in(tmp_path / "o") != masks_in(tmp_path / "w")).mean() < 1e-3


def test_bad_input(tmp_path):
    (tmp_path / "text.stl").write_text("no surface at all")
    whole = save(tmp_path / "whole.stl", sphere(10.0))
    cut = tmp_path / "cut.stl"
    cut.write_bytes(whole.read_bytes()[:5000])
    for name in ("text.stl", "cut.stl"):
        assert_refused(SCRIPT, name, SURFACE=tmp_path / name, OUTPUT=tmp_path / "o")
    assert_refused(SCRIPT, "gone.stl does not exist", SURFACE=tmp_path / "gone.stl", OUTPUT=tmp_path / "o")
    assert_refused(SCRIPT, "OFFSET: beyond the surface (found 90", SURFACE=whole, OUTPUT=tmp_path / "o", OFFSET=90.0)
    assert_refused(SCRIPT, "INTERVAL", "(found 0.0)", status=2, SURFACE=whole, OUTPUT=tmp_path / "o", INTERVAL=0.0)
    both = {"AS_AIS": True, "PIXEL": 1.0}
    assert_refused(SCRIPT, "AS_AIS: cannot be", status=2, SURFACE=whole, OUTPUT=tmp_path / "o", **both)
    assert_refused(SCRIPT, "use a file that ends in", status=2, SURFACE=whole, OUTPUT=tmp_path / "o", VOLUME=tmp_path)
    for name, place, number, said in (
        ("nan", 84 + 12, np.nan, "impossible vertices"),
        ("infinite", 84 + 12, np.inf, "impossible vertices"),
        ("far", 84 + 12, 1e30, "impossible vertices"),
    ):
        content = bytearray(whole.read_bytes())
        content[place : place + 4] = np.float32(number).tobytes()
        (tmp_path / f"{name}.stl").write_bytes(content)
        assert_refused(SCRIPT, f"{name}.stl: {said}", SURFACE=tmp_path / f"{name}.stl", OUTPUT=tmp_path / "o")
    settings = {"SURFACE": whole, "OUTPUT": tmp_path / "o"}
    assert_refused(SCRIPT, "INTERVAL: too small (1e-300 mm", status=2, INTERVAL=1e-300, **settings)
    assert_refused(SCRIPT, "PIXEL: too small (1e-06 mm", status=2, PIXEL=1e-6, **settings)
    volume = tmp_path / "v.nrrd"
    sitk.WriteImage(sitk.Image(30, 30, 30, sitk.sitkUInt8), str(volume))
    before = volume.read_bytes()
    own = {"SURFACE": whole, "VOLUME": volume, "OUTPUT": volume, "REPLACE": True}
    assert_refused(SCRIPT, "OUTPUT: would overwrite its source", status=2, **own)
    assert volume.read_bytes() == before
    assert not (tmp_path / "o").exists()


@given(st.integers(0, 2**31), st.integers(3, 12), st.booleans())
def test_outlines_are_filled_by_the_even_odd_rule(seed, corners, hole):
    """Any polygon, also one that crosses itself, against scikit-image; its pieces in any order."""
    rng = np.random.default_rng(seed)
    outlines = [rng.uniform(-5, 30, (corners, 2))]
    if hole:
        outlines.append(rng.uniform(5, 15, (3, 2)))
    lines = np.concatenate([np.stack([outline, np.roll(outline, -1, 0)], 1) for outline in outlines])
    rng.shuffle(lines)
    shape = (20, 26)
    expected = np.zeros(shape, bool)
    for outline in outlines:
        expected ^= grid_points_in_poly(shape, outline[:, ::-1])
    np.testing.assert_array_equal(fill_outlines(lines, shape), expected)

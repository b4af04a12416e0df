"""Reading volumes: whole and possible files are read, others are refused with a reason."""

import ast
import gzip
import os
import re
import struct

import cv2
import numpy as np
import pytest
import SimpleITK as sitk
from drawings import as_volume, block, write
from running import ROOT

from common.errors import InputError
from common.volumes.privacy import header_texts
from common.volumes.reading import read_channels, read_volume

VALUES = block((5, 12, 10))[0]
FILES = [(".nii", 0), (".nii.gz", 1), (".nrrd", 0), (".nrrd", 1), (".nhdr", 0), (".nhdr", 1)]
FILES += [(".mha", 0), (".mha", 1), (".mhd", 0), (".mhd", 1)]


def make(folder, ending, packed=0, values=VALUES):
    """Write a volume; return its file and the file with its voxels."""
    folder.mkdir(exist_ok=True)
    sitk.WriteImage(as_volume(values, np.eye(3)), str(folder / f"v{ending}"), useCompression=bool(packed))
    return folder / f"v{ending}", max(folder.iterdir(), key=lambda path: path.stat().st_size)


def refused(path, *words):
    with pytest.raises(InputError) as caught:
        read_volume(path)
    for word in (f"{path.name.split('.')[0]}.", *words):
        assert word in str(caught.value), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("ending", "packed"), FILES)
def test_whole_files_only(tmp_path, ending, packed):
    """Cut anywhere, longer than its header says, or with one wrong byte in compressed voxels."""
    path, data = make(tmp_path / "v", ending, packed)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(path)), VALUES)
    content = data.read_bytes()
    for length in (0, 40, len(content) // 2, len(content) - 9, len(content) - 1):
        data.write_bytes(content[:length])
        refused(path)
    if packed:
        for place in range(len(content) - 300, len(content), 7):
            data.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
            refused(path)
    else:
        data.write_bytes(content + b"\0" * 240)
        refused(path, "length does not match its header")
    data.unlink()
    refused(path, "does not exist")


def test_check_sums_of_large_streams(tmp_path):
    """One wrong byte anywhere in 2 MB of compressed noise, in which the stream itself often stays valid."""
    noise = np.random.default_rng(0).integers(0, 2**15, (20, 250, 250)).astype(np.int16)
    for ending in (".nii.gz", ".nrrd", ".mha"):
        path, _ = make(tmp_path / ending[1:], ending, 1, noise)
        content = bytearray(path.read_bytes())
        for place in np.random.default_rng(1).integers(600, len(content), 4):
            damaged = bytearray(content)
            damaged[place] ^= 1
            path.write_bytes(damaged)
            refused(path)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e300])
def test_numbers_that_are_not_finite(tmp_path, wrong, capsys):
    values = VALUES.astype(np.float64)
    values[1, 2, 3] = values[4, 5, 6] = wrong
    for kind in (np.float32, np.float64):
        for ending, packed in FILES:
            with np.errstate(over="ignore"):
                path, _ = make(tmp_path / "v", ending, packed, values.astype(kind))
            refused(path, "in 2 voxels")  # the reader of NIfTI would turn them into 0
            read = sitk.GetArrayFromImage(read_volume(path, not_finite=-7))
            assert read[1, 2, 3] == read[4, 5, 6] == -7 and (read != -7).sum() == read.size - 2
            assert f"v{ending}: replaced 2 voxels" in capsys.readouterr().out
    if not np.isfinite(wrong):
        image = as_volume(values)
        sitk.WriteImage(sitk.JoinSeries([image, image]), str(tmp_path / "four.nii.gz"))
        first, second = read_channels(tmp_path / "four.nii.gz", not_finite=-7)
        np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, (first, second)))
        assert sitk.GetArrayFromImage(second)[1, 2, 3] == -7


@pytest.mark.parametrize("spacing", [np.nan, np.inf, 0, -1, 1e30, 1e-30])
def test_impossible_spacing(tmp_path, spacing):
    text = f"{spacing}"
    nifti, _ = make(tmp_path / "n", ".nii")
    content = nifti.read_bytes()
    nifti.write_bytes(content[:84] + struct.pack("<f", spacing) + content[88:])
    refused(nifti, "spacing")
    (tmp_path / "n" / "v.nii.gz").write_bytes(gzip.compress(nifti.read_bytes()))
    refused(tmp_path / "n" / "v.nii.gz", "spacing")
    nrrd, _ = make(tmp_path / "r", ".nrrd")
    content = nrrd.read_bytes()
    assert b"space directions: (" in content
    directions = re.sub(rb"space directions: .*", f"space directions: ({text},0,0) (0,1,0) (0,0,1)".encode(), content)
    nrrd.write_bytes(directions if spacing != -1 else content.replace(b"space directions", b"spacings: -1 1 1\n#", 1))
    refused(nrrd, "spacing")
    meta, _ = make(tmp_path / "m", ".mha")
    content = meta.read_bytes()
    meta.write_bytes(re.sub(rb"ElementSpacing = \S+", f"ElementSpacing = {text}".encode(), content))
    refused(meta, "spacing")


def test_impossible_headers(tmp_path):
    nifti, _ = make(tmp_path / "n", ".nii")
    content = nifti.read_bytes()
    for place, number, kind in ((112, np.nan, "f"), (116, np.inf, "f"), (108, 1e9, "f"), (42, -1, "h"), (70, 32, "h")):
        changed = struct.pack("<" + kind, number)
        nifti.write_bytes(content[:place] + changed + content[place + len(changed) :])
        refused(nifti)
    for slope, offset in ((0, 5), (1e-20, 0)):
        nifti.write_bytes(content[:112] + struct.pack("<2f", slope, offset) + content[120:])
        refused(nifti, "damaged header (scaling by")
    nifti.write_bytes(content[:112] + struct.pack("<2f", 0, 0) + content[120:])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(nifti)), VALUES)
    sizes = struct.pack("<3h", 10000, 10000, 10000)
    nifti.write_bytes(content[:42] + sizes + content[48:])
    refused(nifti, "cut short", "expected 2000000000000")
    (tmp_path / "n" / "v.nii.gz").write_bytes(gzip.compress(nifti.read_bytes()))
    refused(tmp_path / "n" / "v.nii.gz", "cut short")
    nrrd, _ = make(tmp_path / "r", ".nrrd", 1)
    nrrd.write_bytes(nrrd.read_bytes().replace(b"sizes: 10 12 5", b"sizes: 99999 99999 99999", 1))
    refused(nrrd, "cut short")
    meta, _ = make(tmp_path / "m", ".mha", 1)
    meta.write_bytes(meta.read_bytes().replace(b"DimSize = 10 12 5", b"DimSize = 99999 99999 99999", 1))
    refused(meta, "cut short")


def test_a_second_spacing_is_said_once_and_by_us(tmp_path, capfd):
    """As in the ACDC data; ITK warns in lines of its own."""
    path, _ = make(tmp_path / "n", ".nii")
    content = path.read_bytes()
    path.write_bytes(content[:76] + struct.pack("<4f", 1, 0.5, 1, 1) + content[92:])
    header_texts(path)
    assert read_volume(path).GetSpacing() == (0.5, 1, 1)
    out, err = capfd.readouterr()
    assert not err and out.count("\n") == 1
    assert f"{path}: two different spacings (0.5 1 1 in pixdim, 0.7 0.9 2.5 in its sform); used pixdim" in out


def test_two_different_orientations_are_said(tmp_path, capsys):
    path, _ = make(tmp_path / "n", ".nii")
    content = path.read_bytes()
    sform = np.array(struct.unpack("<12f", content[280:328])).reshape(3, 4)
    turned = {
        "as they are": np.eye(3),
        "a little": cv2.Rodrigues(np.array([0.3, 0, 0.5]))[0],
        "a quarter": cv2.Rodrigues(np.array([0, 0, np.pi / 2]))[0],
        "mirrored": np.diag([-1, 1, 1]),
    }
    for how, matrix in turned.items():
        path.write_bytes(content[:280] + struct.pack("<12f", *(matrix @ sform).ravel()) + content[328:])
        read_volume(path)
        assert ("two different orientations" in capsys.readouterr().out) == (how in ("a quarter", "mirrored")), how
        path.write_bytes(path.read_bytes()[:252] + struct.pack("<h", 0) + path.read_bytes()[254:])  # without a qform
        read_volume(path)
        assert not capsys.readouterr().out


def test_units_and_scaling_that_itk_ignores_are_said(tmp_path, capsys):
    meta, _ = make(tmp_path / "m", ".mha")
    nrrd, _ = make(tmp_path / "r", ".nrrd")
    units = (b"NDims", b"DistanceUnits = %s\nNDims"), (b"kinds:", b'space units: "%s" "%s" "%s"\nkinds:')
    plain = meta.read_bytes()
    for path, (old, new) in zip((meta, nrrd), units, strict=True):
        content = path.read_bytes()
        for unit in (b"mm", b"um"):
            path.write_bytes(content.replace(old, new.replace(b"%s", unit), 1))
            read_volume(path)
            said = capsys.readouterr().out
            assert said == (
                f"{path}: distances in um in its header; used as mm, so check it\n" if unit == b"um" else ""
            )
    for slope, is_said in ((b"1", False), (b"2.5", True)):
        meta.write_bytes(plain.replace(b"NDims", b"ElementToIntensityFunctionSlope = " + slope + b"\nNDims", 1))
        read_volume(meta)
        assert ("times 2.5 plus 0" in capsys.readouterr().out) == is_said


@pytest.mark.parametrize("axes", ["0 0 0 0 0 0 0 0 0", "2 0 0 0 2 0 0 0 2", "1 0 0 0.5 1 0 0 0 1", "1 0 0 1 0 0 0 0 1"])
def test_axes_that_are_no_rotation(tmp_path, axes):
    """ITK takes them: the spacing is then another one than recorded, and slices are shifted."""
    meta, _ = make(tmp_path / "m", ".mha")
    meta.write_bytes(re.sub(rb"TransformMatrix = [^\n]*", f"TransformMatrix = {axes}".encode(), meta.read_bytes()))
    refused(meta, "axes", "sheared or scaled")
    nrrd, _ = make(tmp_path / "r", ".nrrd")
    rows = axes.split()
    vectors = " ".join(f"({','.join(rows[k : k + 3])})" for k in (0, 3, 6)).encode()
    nrrd.write_bytes(re.sub(rb"space directions: [^\n]*", b"space directions: " + vectors, nrrd.read_bytes()))
    if axes[0] != "2":  # that is a spacing of 2 mm
        refused(nrrd, "spacing" if axes[0] == "0" else "axes")


@pytest.mark.parametrize(
    ("old", "new"),
    [("encoding: raw", f"encoding: {'a' * 2000}"), ("encoding", f"{'a' * 2000}: b\nencoding"), ("kinds:", "k" * 9000)],
)
def test_a_long_field_of_nrrd_is_refused_before_its_reader_crashes(tmp_path, old, new):
    nrrd, _ = make(tmp_path / "r", ".nrrd")
    content = nrrd.read_bytes()
    free = f"# {'a' * 2000}\ncontent: {'b' * 2000}\nkey{'c' * 2000}:={'d' * 2000}\nencoding:"
    nrrd.write_bytes(content.replace(b"encoding:", free.encode()))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(nrrd)), VALUES)
    nrrd.write_bytes(content.replace(old.encode(), new.encode()))
    refused(nrrd, "a field has more than 1000 characters")


def test_a_header_without_spacing_is_said(tmp_path, capsys):
    meta, _ = make(tmp_path / "m", ".mha")
    meta.write_bytes(re.sub(rb"ElementSpacing = [^\n]*\n", b"", meta.read_bytes()))
    nrrd, _ = make(tmp_path / "r", ".nrrd")
    nrrd.write_bytes(re.sub(rb"space[^\n]*\n", b"", nrrd.read_bytes()))
    for path in (meta, nrrd):
        assert read_volume(path).GetSpacing() == (1, 1, 1)
        assert f"{path}: no spacing in its header; used 1 mm" in capsys.readouterr().out
    nrrd, _ = make(tmp_path / "r", ".nrrd")
    nrrd.write_bytes(re.sub(rb"directions: \S+", b"directions: none", nrrd.read_bytes()))
    refused(nrrd, "space directions")


def test_reasons_without_addresses(tmp_path):
    nrrd, _ = make(tmp_path / "r", ".nrrd")
    nrrd.write_bytes(re.sub(rb"space: [^\n]*\n", b"", nrrd.read_bytes()))
    refused(nrrd, "cannot be read (don't yet have a valid space dimension)")
    nifti, _ = make(tmp_path / "n", ".nii")
    content = bytearray(nifti.read_bytes())
    content[:4] = struct.pack("<i", 540)
    nifti.write_bytes(content)
    refused(nifti, "NIfTI-2")


def test_nothing_but_the_reason_of_a_damaged_header(tmp_path, capfd):
    path, _ = make(tmp_path / "m", ".mha")
    lines = path.read_bytes().split(b"\n", 12)
    matrix = next(line for line in lines if line.startswith(b"TransformMatrix"))
    lines.remove(matrix)
    path.write_bytes(b"\n".join([matrix, *lines]))
    assert header_texts(path) == []
    refused(path, "cannot be read")
    assert capfd.readouterr() == ("", "")


def test_kinds_of_voxels_and_axes(tmp_path):
    image = as_volume(VALUES.astype(np.float32), np.eye(3))
    for ending in (".nii", ".nrrd", ".mha"):
        write(tmp_path, f"complex{ending}", sitk.RealAndImaginaryToComplex(image, image))
        refused(tmp_path / f"complex{ending}")
    write(tmp_path, "vector.nii", sitk.Compose(image, image))
    assert len(read_channels(tmp_path / "vector.nii")) == 2
    refused(tmp_path / "vector.nii", "wrong number of channels (2)")
    write(tmp_path, "four.nii", sitk.JoinSeries([image, image, image]))
    refused(tmp_path / "four.nii", "wrong number of channels (3)")
    write(tmp_path, "five.nii", sitk.JoinSeries([sitk.JoinSeries([image] * 2)] * 2))
    refused(tmp_path / "five.nii", "wrong number of axes (5)")
    (tmp_path / "text.dcm").write_text("no DICOM")
    refused(tmp_path / "text.dcm", "not a volume")


@pytest.mark.parametrize("name", [b"M\xfcller", "😀".encode(), b"two\nlines", b"\x1b[31mred", b"a b'\"$(x)"])
def test_names_of_any_bytes(tmp_path, name):
    """SimpleITK aborts the process on a name that is not UTF-8."""
    folder = tmp_path / os.fsdecode(name)
    for ending, packed in FILES:
        path, data = make(tmp_path / "plain", ending, packed)
        folder.mkdir(exist_ok=True)
        path = path.rename(folder / os.fsdecode(name + ending.encode()))
        if data.exists():
            data.rename(folder / data.name)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(path)), VALUES)


def test_pipes_and_links_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "v.nii")
    refused(tmp_path / "v.nii", "not a regular file")
    (tmp_path / "w.nii").symlink_to("gone.nii")
    refused(tmp_path / "w.nii", "link to a missing file")


def test_no_view_of_an_image_that_is_gone():
    """A view of the voxels of an image is valid only as long as the image: it must have a name."""
    found = []
    for path in [*ROOT.glob("*.py"), *(p for f in ("common", "preprocess") for p in (ROOT / f).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "GetArrayViewFromImage":
                found += [] if isinstance(node.args[0], ast.Name) else [f"{path.name}:{node.lineno}"]
            if isinstance(node, ast.Return | ast.Yield) and node.value and "View" in ast.unparse(node.value):
                starts = ast.unparse(node.value).startswith("sitk.GetArrayViewFromImage")
                found += [f"{path.name}:{node.lineno}"] if starts else []
    assert not found

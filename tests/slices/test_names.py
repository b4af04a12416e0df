"""Any name of a file or case goes through lists and packed sets unchanged, and what is no name is refused."""

import os
import shutil

import h5py
import numpy as np
import pytest
import SimpleITK as sitk
from drawings import as_volume, block, disc_slice, make_cases, write_image
from running import assert_refused, run_here, run_script

from common.slices.hdf5 import open_hdf5
from common.slices.lists import read_list
from common.slices.packed import read_packed
from common.training.sets import open_set

POSIX = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}  # a locale without letters other than ASCII
ODD = [os.fsdecode(b"case caf\xe9"), "case 😀, 'x'", "case\n\x1b[31mred", 'case "a,b"', "case é", "case\u202e"]


def test_names_of_cases_and_slices(tmp_path):
    """Latin-1 bytes, emoji, line feeds, terminal escapes, quotes and commas."""
    for number, name in enumerate(ODD):
        for slice_number, slice_name in enumerate((os.fsdecode(b"\xfc"), "a\nb")):
            image, mask = disc_slice(24, 10 * number + slice_number)
            write_image(tmp_path / "cases" / name / "x" / f"{slice_name}.png", image)
            write_image(tmp_path / "cases" / name / "y" / f"{slice_name}.png", mask)
    out = run_here("preprocess/2_write_lists.py", CASES=tmp_path / "cases", LISTS=tmp_path / "lists", TEST_SHARE=0)
    assert "\x1b" not in out.stdout + out.stderr
    tables = [read_list(tmp_path / "lists" / f"{name}.csv") for name in ("train", "validation")]
    assert {case for table in tables for case in table["case"]} == set(ODD)
    run_here("preprocess/3_pack_hdf5.py", LISTS=tmp_path / "lists", PACKED=tmp_path / "packed", SHARD_GB=1e-5)
    found = set()
    for name in ("train", "validation"):
        path = tmp_path / "packed" / f"{name}.h5"
        with open_hdf5(path) as file:
            packed = read_packed(path, file, memory_gb=1)
        assert all(os.path.isfile(source) for source in packed.source)
        found |= set(packed.case)
    assert found == set(ODD)


@pytest.mark.parametrize("locale", [{}, POSIX], ids=["UTF-8", "POSIX"])
def test_names_of_packed_volumes(tmp_path, locale):
    names = [*ODD, "-case", "case ", "=cmd case"]
    for side, values in zip("xy", block((6, 12, 10)), strict=True):
        (tmp_path / side).mkdir()
        sitk.WriteImage(as_volume(values, np.eye(3)), str(tmp_path / "one.nii.gz"))
        for name in names:
            shutil.copy(tmp_path / "one.nii.gz", tmp_path / side / f"{name}.nii.gz")
    places = {"IMAGES": tmp_path / "x", "LABELS": tmp_path / "y", "PACKED": tmp_path / "packed"}
    out = run_script("preprocess/3_pack_volumes.py", env=locale, SMALLEST_BOX=8, **places)
    assert "\x1b" not in out.stdout + out.stderr
    found = set()
    for name in ("train", "validation"):
        found |= set(open_set(tmp_path / "packed" / f"{name}.h5", 1).names)
    assert found == set(names)


def test_a_case_in_two_packed_sets_is_refused(tmp_path):
    cases = make_cases(tmp_path / "cases", cases=4, slices=2)
    run_here("preprocess/2_write_lists.py", CASES=cases, LISTS=tmp_path / "lists", TEST_SHARE=0)
    run_here("preprocess/3_pack_hdf5.py", LISTS=tmp_path / "lists", PACKED=tmp_path / "p")
    with h5py.File(tmp_path / "p" / "validation.h5", "r+") as file:
        other = read_list(tmp_path / "lists" / "train.csv")["case"][0]
        file["case"][0] = other
    both = {name: tmp_path / "p" / f"{name.lower()}.h5" for name in ("TRAIN", "VALIDATION")}
    assert_refused("train.py", f"contains cases of {both['TRAIN']}", other, RUNS=tmp_path / "runs", **both)


def test_images_with_odd_names(tmp_path):
    names = [os.fsdecode(b"caf\xe9"), "a\nb", "😀", "x²"]
    for number, name in enumerate(names):
        image, mask = disc_slice(24, number)
        write_image(tmp_path / "images" / f"{name}.png", image)
        write_image(tmp_path / "masks" / f"{name}.png", np.where(mask > 0, 255, 0).astype(np.uint8))
    places = {"IMAGES": tmp_path / "images", "MASKS": tmp_path / "masks", "CASES": tmp_path / "cases"}
    assert "wrote 4 slices" in run_here("preprocess/0_import_images.py", **places).stdout
    assert (
        "in 4 cases"
        in run_here("preprocess/0_import_images.py", CASE_FROM="image", **places | {"CASES": tmp_path / "c"}).stdout
    )

"""3_pack_hdf5.py: what goes from the lists into HDF5, in one file or in shards."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from drawings import disc_slice, make_cases, write_image
from running import ROOT, assert_refused, bytes_of, leftovers, run_here, run_script

from common.command_line import flags_of
from common.errors import InputError
from common.slices.hdf5_text import text_of
from common.slices.images import read_image
from common.slices.lists import read_list
from common.training.sets import open_both, open_set

LISTS, PACK = "preprocess/2_write_lists.py", "preprocess/3_pack_hdf5.py"


def test_packed_sets_hold_the_slices_of_the_lists(packed):
    with h5py.File(packed["packed"] / "train.h5") as file:
        assert file["x"].shape == file["y"].shape == (8, 24, 24, 1)
        assert file["x"].dtype == file["y"].dtype == np.uint8
        assert file.attrs["classes"] == 1 and file.attrs["format"] == 1
        assert "SEED" in text_of(file.attrs["settings"])
        sources = [text.decode() for text in file["source"]]
        assert sorted(sources) == sorted(read_list(packed["lists"] / "train.csv")["x"])
        assert sources != sorted(sources), "shuffled"
        for i, source in enumerate(sources):
            assert np.array_equal(file["x"][i, ..., 0], read_image(source))
            mask = Path(source).parent.parent / "y" / Path(source).name
            assert np.array_equal(file["y"][i, ..., 0], read_image(mask))
            assert file["case"][i].decode() == Path(source).parent.parent.name


def test_more_slices_than_a_block_and_compression(tmp_path):
    cases = make_cases(tmp_path / "cases", cases=2, slices=300, size=16, bits=16)
    for number, path in enumerate(sorted(cases.glob("*/x/*.png"))):  # no two are the same
        image = read_image(path)
        image[0, 0] = number
        write_image(path, image)
    run_here(LISTS, CASES=cases, LISTS=tmp_path / "lists", VALIDATION_SHARE=0.5, TEST_SHARE=0)
    for compression in ("None", "gzip"):
        run_here(PACK, LISTS=tmp_path / "lists", PACKED=tmp_path / compression, COMPRESSION=compression)
        with h5py.File(tmp_path / compression / "validation.h5") as file:
            assert file["x"].dtype == np.uint16 and file["y"].dtype == np.uint8
            for i in (0, 255, 256, 299):
                assert np.array_equal(file["x"][i, ..., 0], read_image(file["source"][i].decode()))


def contents(path):
    """All that a packed set holds but the settings; of compressed or joined ones too."""
    with h5py.File(path) as file:
        attributes = {
            name: np.array(text_of(value)).tolist() for name, value in file.attrs.items() if name != "settings"
        }
        return {name: file[name][:].tolist() for name in ("x", "y", "case", "source")}, repr(attributes)


def assert_packed_alike(ours, theirs):
    names = sorted(path.name for path in theirs.glob("*.h5"))
    assert names and sorted(path.name for path in ours.glob("*.h5")) == names
    for name in names:
        assert contents(ours / name) == contents(theirs / name)
    assert not leftovers(ours)


def test_shards_are_shown_as_one_set_and_are_made_once(packed, tmp_path):
    settings = {"LISTS": packed["lists"], "PACKED": tmp_path / "a", "SHARD_GB": 3 * 24 * 24 * 2 / 1e9}
    run_script(PACK, **settings, REPLACE=True)
    assert len(list((tmp_path / "a" / "shards").glob("train-*.h5"))) == 3
    assert_packed_alike(tmp_path / "a", packed["packed"])
    joined = (tmp_path / "a" / "train.h5").read_bytes()
    time.sleep(1.1)  # HDF5 notes times in seconds, unless told not to
    run_here(PACK, **settings, REPLACE=True)
    assert (tmp_path / "a" / "train.h5").read_bytes() == joined
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert_packed_alike(tmp_path / "b", packed["packed"])
    inside, outside = (open_set(tmp_path / "b" / "train.h5", memory_gb) for memory_gb in (1, 0))
    for ours, theirs in zip(inside.batch([7, 0, 3, 5]), outside.batch([7, 0, 3, 5]), strict=True):
        assert np.array_equal(ours, theirs)
    settings["PACKED"] = tmp_path / "b"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "b").rglob("*.h5")}
    assert "skipping 7 of 7 shards: they already exist" in run_script(PACK, **settings).stdout
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "b").rglob("*.h5")} == before
    assert_refused(PACK, "exists", **{**settings, "SEED": 2})
    run_script(PACK, **{**settings, "SEED": 2}, REPLACE=True)
    assert len(list((tmp_path / "b" / "shards").iterdir())) == 7, "shards of the set before are gone"
    shard = max((tmp_path / "b" / "shards").glob("train-*.h5"))
    whole = shard.read_bytes()
    for content, words in ((whole[: len(whole) // 2], "cut short"), (None, "links to a missing train-")):
        shard.unlink()
        if content:
            shard.write_bytes(content)
        with pytest.raises(InputError, match=words):
            open_set(tmp_path / "b" / "train.h5", memory_gb=0)
    run_script(PACK, LISTS=packed["lists"], PACKED=tmp_path / "b", REPLACE=True)
    assert not (tmp_path / "b" / "shards").exists()
    assert_packed_alike(tmp_path / "b", packed["packed"])


@pytest.mark.parametrize("more", [{}, {"COMPRESSION": "gzip"}, {"SHARD_GB": 3e-6}], ids=["plain", "gzip", "shards"])
def test_workers_pack_what_one_run_packs(scheduler, packed, tmp_path, more):
    """Byte for byte, from relative paths too."""
    for name, workers in (("alone", {}), ("shared", {"WORKERS": scheduler})):
        run_here(PACK, LISTS=packed["lists"], PACKED=tmp_path / name / "packed", **more, **workers)
    assert bytes_of(tmp_path / "alone") == bytes_of(tmp_path / "shared")


def test_what_workers_cannot_read_is_one_message(scheduler, packed, tmp_path):
    shutil.copytree(packed["cases"].parent, tmp_path / "data")
    bad = [Path(path) for path in read_list(tmp_path / "data" / "lists" / "train.csv")["x"][:2]]
    for path in bad:
        path.write_bytes(path.read_bytes()[:-20])
    settings = {"LISTS": tmp_path / "data" / "lists", "PACKED": tmp_path / "packed"}
    for more in ({}, {"SHARD_GB": 3e-6}):
        assert_refused(PACK, "2 slices cannot be packed", *bad, **settings, **more, WORKERS=scheduler)
        assert not list(tmp_path.glob("packed/*.h5")) and not leftovers(tmp_path)
    assert_refused(PACK, "SHARD_GB", "(found 0)", status=2, **settings, SHARD_GB=0)


@pytest.mark.slow
def test_packing_that_was_killed_goes_on_at_its_shard(tmp_path):
    cases = make_cases(tmp_path / "cases", cases=4, slices=100, size=64)
    run_script(LISTS, CASES=cases, LISTS=tmp_path / "lists")
    settings = {"LISTS": tmp_path / "lists", "PACKED": tmp_path / "a", "SHARD_GB": 20 * 64 * 64 * 2 / 1e9}
    command = [sys.executable, str(ROOT / PACK), *flags_of(settings)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    shards = tmp_path / "a" / "shards"
    while len(list(shards.glob("train-*.h5"))) < 3:
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list((tmp_path / "a").glob("*.h5"))
    whole = {path: path.stat().st_mtime_ns for path in shards.glob("train-*.h5")}
    bad = Path(read_list(tmp_path / "lists" / "test.csv")["x"][0])
    good = bad.read_bytes()
    bad.write_bytes(good[:-20])
    assert_refused(PACK, "cut short", **settings)
    assert not list((tmp_path / "a").glob("*.h5"))
    bad.write_bytes(good)
    assert "shards: they already exist" in run_script(PACK, **settings).stdout
    assert all(path.stat().st_mtime_ns == before for path, before in whole.items())
    run_script(PACK, LISTS=tmp_path / "lists", PACKED=tmp_path / "b")
    assert_packed_alike(tmp_path / "a", tmp_path / "b")


def test_spacing_of_the_slices_is_that_of_the_source_scaled(tmp_path):
    cases = make_cases(tmp_path / "cases", cases=3, slices=2, size=16)
    for case in cases.iterdir():
        entry = {"image": None, "mask": None, "image_size": [32, 64], "box": [0, 0, 64, 32]}
        record = {"size": 16, "fit": "resize", "spacing": [0.5, 0.25], "slices": {"0001": entry, "0002": entry}}
        (case / "case.json").write_text(json.dumps(record))
    run_here(LISTS, CASES=cases, LISTS=tmp_path / "lists")
    run_here(PACK, LISTS=tmp_path / "lists", PACKED=tmp_path / "packed")
    with h5py.File(tmp_path / "packed" / "train.h5") as file:
        assert file.attrs["spacing"].tolist() == [1.0, 1.0] and text_of(file.attrs["fit"]) == "resize"


def test_lists_that_people_cut_themselves(tmp_path):
    """Under other names they are packed as the usual ones; files that are no list are named, never passed over."""
    cases, lists = make_cases(tmp_path / "cases", cases=4, slices=2), tmp_path / "lists"
    run_here(LISTS, CASES=cases, LISTS=lists, VALIDATION_SHARE=0.25, TEST_SHARE=0.25)
    out = run_here(PACK, LISTS=lists, PACKED=tmp_path / "usual").stdout
    assert "using" not in out and "skipped" not in out
    for name, other in (("train", "Training"), ("validation", "val"), ("test", "testing")):
        (lists / f"{name}.csv").rename(lists / f"{other}.csv")
    (lists / "patients.csv").write_text("name\n")
    out = run_here(PACK, LISTS=lists, PACKED=tmp_path / "own").stdout
    assert f"using {lists / 'Training.csv'} as train.csv" in out and "wrote 8 slices in 3 sets" in out
    assert f"skipped 1 file in {lists} that are none of" in out and "patients.csv" in out
    for name in ("train", "validation", "test"):
        sets = [h5py.File(tmp_path / folder / f"{name}.h5") for folder in ("own", "usual")]
        assert all(np.array_equal(sets[0][key][:], sets[1][key][:]) for key in ("x", "y", "case", "source"))
        assert sets[0].attrs["division"] == sets[1].attrs["division"]
    shutil.copy(lists / "val.csv", lists / "valid.csv")
    assert_refused(PACK, "valid.csv: the same list as val.csv", LISTS=lists, PACKED=tmp_path / "none")


def test_bad_lists(tmp_path):
    cases = make_cases(tmp_path / "cases", cases=4, slices=2)
    lists = tmp_path / "lists"
    run_here(LISTS, CASES=cases, LISTS=lists, VALIDATION_SHARE=0.25, TEST_SHARE=0.25)
    kept = tmp_path / "kept"
    shutil.copytree(lists, kept)
    train = lists / "train.csv"

    def refused(*words, **extra):
        assert_refused(PACK, *words, **{"LISTS": lists, "PACKED": tmp_path / "packed", **extra})
        assert not (tmp_path / "packed").exists() or not list((tmp_path / "packed").iterdir())

    refused("does not exist", LISTS=tmp_path / "gone")
    refused("contains no train.csv", "(found no list); run 2_write_lists.py", LISTS=cases)
    (tmp_path / "own").mkdir()
    shutil.copy(train, tmp_path / "own" / "my cut.csv")
    refused("(found my cut.csv); rename them", LISTS=tmp_path / "own")
    refused("COMPRESSION", status=2, COMPRESSION="zip")
    rows = train.read_text().splitlines()
    train.write_text(rows[0] + "\n")
    refused("train.csv: the list is empty")
    train.write_text("image,mask\n")
    refused("header")
    train.write_bytes(b"\xff\xfe\x00\x01")
    refused("train.csv")
    train.write_text("\n".join([*rows, "../cases/gone.png,../cases/gone_mask.png,case01"]))
    refused("gone.png: file does not exist")
    train.write_text("\n".join([*rows, *(lists / "test.csv").read_text().splitlines()[1:]]))
    refused("2 slices are in two lists", "train.csv")
    shutil.copy(kept / "train.csv", train)
    bad = Path(read_list(lists / "test.csv")["x"][0])
    good = bad.read_bytes()
    bad.write_bytes(good[:-20])
    refused("cut short")
    write_image(bad, disc_slice(32, 0)[0])
    refused("(found 32x32 uint8)")
    bad.write_bytes(good)
    run_here(PACK, LISTS=lists, PACKED=tmp_path / "packed")
    assert_refused(PACK, "exists", LISTS=lists, PACKED=tmp_path / "packed")
    assert not leftovers(tmp_path)


def test_replace_packs_masks_that_changed_and_sets_of_two_divisions_are_noticed(tmp_path):
    cases, packed = make_cases(tmp_path / "cases", cases=5, slices=2, size=16), tmp_path / "packed"
    divide = {"CASES": cases, "LISTS": tmp_path / "lists", "TEST_SHARE": 0.2, "VALIDATION_SHARE": 0.2, "REPLACE": True}
    pack = {"LISTS": tmp_path / "lists", "PACKED": packed, "SHARD_GB": 3 * 16 * 16 * 2 / 1e9, "REPLACE": True}
    run_here(LISTS, **divide)
    run_here(PACK, **pack)
    train, validation, test = (packed / f"{name}.h5" for name in ("train", "validation", "test"))
    divisions = {open_set(path).division for path in (train, validation, test)}
    assert len(divisions) == 1 and len(divisions.pop()) == 12
    open_both(train, validation, 1)
    masks = [Path(x).parents[1] / "y" / Path(x).name for x in open_set(train).source]
    for mask in masks:
        status = mask.stat()
        write_image(mask, 255 - read_image(mask))
        os.utime(mask, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "skipping" not in run_here(PACK, **pack).stdout
    for y, mask in zip(open_set(train).y, masks, strict=True):
        assert np.array_equal(y[..., 0], read_image(mask))
    old = {path: path.read_bytes() for path in (validation, test)}
    run_here(LISTS, **divide, SEED=3)
    run_here(PACK, **{**pack, "SHARD_GB": None})
    for path, content in old.items():  # killed between the sets
        new = path.read_bytes()
        path.write_bytes(content)
        with h5py.File(path, "a") as file:
            for name in ("x", "y"):  # its shards are gone
                rows = np.full((2, 16, 16, 1), 255, np.uint8)
                del file[name]
                file[name] = rows
        with pytest.raises(InputError, match=rf"{path.name}: of another division than .*train\.h5"):
            open_both(train, validation, 1)
        with h5py.File(path, "a") as file:
            del file.attrs["division"]  # of an earlier version
            file["source"][:] = ["a/x/1.png", "a/x/2.png"]
            file["case"][:] = ["a", "a"]
        open_both(train, validation, 1)
        path.write_bytes(new)


@pytest.mark.parametrize("options", [{}, {"COMPRESSION": "gzip"}])
def test_equal_slices_are_packed_into_equal_files(tmp_path, options):
    """At another time, in files without text of varying length, on which HDF5 can hang."""
    made, folders = [], {"LISTS": tmp_path / "lists", "PACKED": tmp_path / "packed"}
    for time_of_files in (10**9, 10**9 + 7):
        for folder in tmp_path.iterdir():
            shutil.rmtree(folder)
        cases = make_cases(tmp_path / "cases", cases=3, slices=2, size=16)
        for path in cases.rglob("*.png"):
            os.utime(path, (time_of_files, time_of_files))
        run_here(LISTS, CASES=cases, LISTS=folders["LISTS"], VALIDATION_SHARE=0.34, TEST_SHARE=0.34)
        run_here(PACK, **folders, **options)
        made.append({path.name: path.read_bytes() for path in folders["PACKED"].iterdir()})
    assert made[0] == made[1]
    assert not any(b"GCOL" in content for content in made[0].values())

"""2_write_lists.py and 3_pack_hdf5.py: what goes into which list, and from there into HDF5."""

import importlib.util
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from drawings import disc_slice, make_cases, write_picture
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from running import ROOT, assert_refused, leftovers, run_here, run_script

from common.command_line import flags_of
from common.errors import InputError
from common.slices.images import read_picture
from common.slices.lists import read_list, slice_identity
from common.slices.masks import values_of
from common.training.sets import open_set

LISTS, PACK = "preprocess/2_write_lists.py", "preprocess/3_pack_hdf5.py"


def load_script(name):
    specification = importlib.util.spec_from_file_location("script", ROOT / name)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


# --- dividing


def checked(script, cases, slices, tiles):
    return [
        script.Checked(
            Path(f"c/case{c}"),
            f"{s:04d}",
            Path(f"c/case{c}/x/{s:04d}.png"),
            Path("y"),
            f"{c}/{s // tiles}",
            8,
            8,
            frozenset({0}),
            0.0,
        )
        for c in range(cases)
        for s in range(slices * tiles)
    ]


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 12), st.integers(3, 9), st.integers(1, 4), st.integers(0, 4), st.integers(0, 9),
    st.sampled_from([0, 0.1, 0.3]), st.sampled_from([0, 0.2, 0.5]),
)  # fmt: skip
def test_a_division_keeps_what_belongs_together_on_one_side(cases, slices, tiles, folds, seed, test, validation):
    script = load_script(LISTS)
    folds = folds if folds > 1 else 0
    chosen = {"SEED": seed, "FOLDS": folds, "TEST_SHARE": test, "VALIDATION_SHARE": validation}
    script.settings = script.settings.replace("a test", **chosen)
    everything = checked(script, cases, slices, tiles)
    try:
        divisions = script.divide(everything)
    except InputError:
        assert cases < 5 or cases < folds + 2 or slices < 5
        return
    assert script.divide(everything) == divisions, "the same seed gives the same lists"
    for lists in divisions.values():
        members = [s for part in lists.values() for s in part]
        assert sorted(members) == sorted(everything), "every slice is in one list"
        assert lists["train"]
        side = (lambda s: s.case) if cases > 1 else (lambda s: s.group)
        for a in lists:
            for b in lists:
                assert a == b or not {side(s) for s in lists[a]} & {side(s) for s in lists[b]}
        if cases == 1:
            numbers = [[int(s.name) for s in part] for part in lists.values()]
            if not folds:
                assert all(part == list(range(part[0], part[-1] + 1)) for part in numbers), "runs of neighbours"
    if folds:
        validated = [s for lists in divisions.values() for s in lists["validation"]]
        tested = divisions["fold1"].get("test", [])
        assert sorted(validated + tested) == sorted(everything), "each slice is validated on once"


def test_lists_hold_pairs_with_variants_for_training_only(tmp_path):
    cases = make_cases(tmp_path / "cases", cases=5, slices=3, size=32, empty=True)
    run_script("preprocess/1_augment_cases.py", CASES=cases, FILTERS=["O", "C"], SHAPES=["", "RTP"], PART_MARGIN=2)
    out = run_script(LISTS, CASES=cases, LISTS=tmp_path / "lists", COPY_TO=tmp_path / "flat").stdout
    tables = {name: read_list(tmp_path / "lists" / f"{name}.csv") for name in ("train", "validation", "test")}
    assert {name: len(table) for name, table in tables.items()} == {"train": 3 * 3 * 4, "validation": 3, "test": 3}
    assert (tmp_path / "lists" / "train.csv").read_text().splitlines()[0] == "x,y,case"
    for name, table in tables.items():
        for x, y, case in table.itertuples(index=False):
            x, y = Path(x), Path(y)
            assert x.name == y.name and x.parent.parent == y.parent.parent and case == x.parent.parent.name
            variant = x.parent.name[1:].split("_", 2)[2:]
            assert y.parent.name == "_".join(["y_O", *variant] if "_" in x.parent.name else ["y"])
            assert name == "train" or x.parent.name == "x"
    assert "33%" in out and "36" in out, "empty masks and variants are told"
    sheet = read_picture(tmp_path / "lists" / "data_check.png")
    assert sheet.ndim == 3 and sheet.std() > 5
    copied = pd.read_csv(tmp_path / "flat" / "train" / "copied_files.csv")
    assert list(copied.columns) == ["file", "src_x", "src_y"] and len(copied) == 36
    for row in copied.sample(5, random_state=0).itertuples():
        assert (tmp_path / "flat" / "train" / "x" / row.file).read_bytes() == Path(row.src_x).read_bytes()
        assert (tmp_path / "flat" / "train" / "y" / row.file).read_bytes() == Path(row.src_y).read_bytes()


def test_named_cases_folds_and_tables(tmp_path):
    cases = make_cases(tmp_path / "cases", cases=5, slices=2)
    run_here(LISTS, CASES=cases, LISTS=tmp_path / "a", VALIDATION_CASES=["case02"], TEST_CASES=["case05", "case01"])
    assert set(read_list(tmp_path / "a" / "validation.csv")["case"]) == {"case02"}
    assert set(read_list(tmp_path / "a" / "test.csv")["case"]) == {"case01", "case05"}
    run_here(LISTS, CASES=cases, LISTS=tmp_path / "b", FOLDS=2, TEST_SHARE=0.2)
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["data_check.png", "fold1", "fold2"]
    run_here(PACK, LISTS=tmp_path / "b", PACKED=tmp_path / "p")
    assert (tmp_path / "p" / "fold2" / "validation.h5").exists()


def test_bad_data_sets(tmp_path):
    cases = make_cases(tmp_path / "cases", cases=4, slices=2)
    places = {"CASES": cases, "LISTS": tmp_path / "lists"}
    x, y = cases / "case02" / "x" / "0001.png", cases / "case02" / "y" / "0001.png"
    good_x, good_y = x.read_bytes(), y.read_bytes()

    def refused(*words, **extra):
        assert_refused(LISTS, *words, **{**places, **extra})
        assert not (tmp_path / "lists").exists()

    refused("does not exist", CASES=tmp_path / "gone")
    refused("VALIDATION_SHARE", status=2, VALIDATION_SHARE=1.5)
    refused("nothing to train on", status=2, VALIDATION_SHARE=0.5, TEST_SHARE=0.5)
    refused("case09", VALIDATION_CASES=["case09"])
    refused("take fewer folds", FOLDS=9)
    y.unlink()
    refused("0001.png has no mask")
    write_picture(y, disc_slice(32, 1)[1])
    refused("24 pixels a side and its mask")
    write_picture(x, disc_slice(32, 1)[0])
    refused("differ in pixels a side")
    x.write_bytes(good_x), y.write_bytes(good_y)
    write_picture(x, disc_slice(24, 1, bits=16)[0])
    refused("differ in bits")
    write_picture(x, np.zeros((24, 24, 4), np.uint8))
    refused("4 channels")
    write_picture(x, np.zeros((24, 30), np.uint8))
    refused("30x24", "square")
    x.write_bytes(good_x)
    write_picture(y, np.full((24, 24), 130, np.uint8))
    refused("130", "--mask-values")
    for file in cases.glob("case*/y/*.png"):
        write_picture(file, np.eye(24, dtype=np.uint8))
    refused("0 and 1")
    assert not leftovers(tmp_path)


def test_lists_are_replaced_only_when_told_and_strange_files_never(tmp_path):
    cases = make_cases(tmp_path / "cases", cases=4, slices=2)
    run_here(LISTS, CASES=cases, LISTS=tmp_path / "lists")
    before = (tmp_path / "lists" / "train.csv").read_bytes()
    assert_refused(LISTS, "exists", CASES=cases, LISTS=tmp_path / "lists")
    (tmp_path / "lists" / "notes.txt").write_text("mine")
    assert_refused(LISTS, "notes.txt", CASES=cases, LISTS=tmp_path / "lists", REPLACE=True)
    assert (tmp_path / "lists" / "train.csv").read_bytes() == before
    (tmp_path / "lists" / "notes.txt").unlink()
    run_here(LISTS, CASES=cases, LISTS=tmp_path / "lists", REPLACE=True, TEST_SHARE=0)
    assert not (tmp_path / "lists" / "test.csv").exists(), "a list of the division before must not stay"


# --- packing


def test_packed_sets_hold_the_slices_of_the_lists(packed):
    with h5py.File(packed["packed"] / "train.h5") as file:
        assert file["x"].shape == file["y"].shape == (8, 24, 24, 1)
        assert file["x"].dtype == file["y"].dtype == np.uint8
        assert file.attrs["classes"] == 1 and file.attrs["format"] == 1
        assert "SEED" in file.attrs["settings"]
        sources = [text.decode() for text in file["source"]]
        assert sorted(sources) == sorted(read_list(packed["lists"] / "train.csv")["x"])
        assert sources != sorted(sources), "shuffled"
        for i, source in enumerate(sources):
            assert np.array_equal(file["x"][i, ..., 0], read_picture(source))
            mask = Path(source).parent.parent / "y" / Path(source).name
            assert np.array_equal(file["y"][i, ..., 0], read_picture(mask))
            assert file["case"][i].decode() == Path(source).parent.parent.name


def test_more_slices_than_a_block_and_compression(tmp_path):
    cases = make_cases(tmp_path / "cases", cases=2, slices=300, size=16, bits=16)
    run_here(LISTS, CASES=cases, LISTS=tmp_path / "lists", VALIDATION_SHARE=0.5, TEST_SHARE=0)
    for compression in ("None", "gzip"):
        run_here(PACK, LISTS=tmp_path / "lists", PACKED=tmp_path / compression, COMPRESSION=compression)
        with h5py.File(tmp_path / compression / "validation.h5") as file:
            assert file["x"].dtype == np.uint16 and file["y"].dtype == np.uint8
            for i in (0, 255, 256, 299):
                assert np.array_equal(file["x"][i, ..., 0], read_picture(file["source"][i].decode()))


def contents(path):
    """All that a packed set holds but the settings; of compressed or joined ones too."""
    with h5py.File(path) as file:
        attributes = {name: np.array(value).tolist() for name, value in file.attrs.items() if name != "settings"}
        return {name: file[name][:].tolist() for name in ("x", "y", "case", "source")}, repr(attributes)


def assert_packed_alike(ours, theirs):
    names = sorted(path.name for path in theirs.glob("*.h5"))
    assert names and sorted(path.name for path in ours.glob("*.h5")) == names
    for name in names:
        assert contents(ours / name) == contents(theirs / name)
    assert not leftovers(ours)


def test_shards_are_shown_as_one_set_and_are_made_once(packed, tmp_path):
    settings = {"LISTS": packed["lists"], "PACKED": tmp_path / "a", "SHARD_GB": 3 * 24 * 24 * 2 / 1e9}
    run_script(PACK, **settings)
    assert len(list((tmp_path / "a" / "shards").glob("train-*.h5"))) == 3
    assert_packed_alike(tmp_path / "a", packed["packed"])
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert_packed_alike(tmp_path / "b", packed["packed"])
    inside, outside = (open_set(tmp_path / "b" / "train.h5", memory_gb) for memory_gb in (1, 0))
    for ours, theirs in zip(inside.batch([7, 0, 3, 5]), outside.batch([7, 0, 3, 5]), strict=True):
        assert np.array_equal(ours, theirs)
    settings["PACKED"] = tmp_path / "b"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "b").rglob("*.h5")}
    assert "7 of 7 shards are there already" in run_script(PACK, **settings).stdout
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "b").rglob("*.h5")} == before
    assert_refused(PACK, "exists", **{**settings, "SEED": 2})
    run_script(PACK, **{**settings, "SEED": 2}, REPLACE=True)
    assert len(list((tmp_path / "b" / "shards").iterdir())) == 7, "shards of the set before are gone"
    shard = max((tmp_path / "b" / "shards").glob("train-*.h5"))
    whole = shard.read_bytes()
    for content, words in ((whole[: len(whole) // 2], "cut short"), (None, "is gone")):
        shard.unlink()
        if content:
            shard.write_bytes(content)
        with pytest.raises(InputError, match=words):
            open_set(tmp_path / "b" / "train.h5", memory_gb=0)
    run_script(PACK, LISTS=packed["lists"], PACKED=tmp_path / "b", REPLACE=True)
    assert not (tmp_path / "b" / "shards").exists()
    assert_packed_alike(tmp_path / "b", packed["packed"])


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_parts_pack_what_one_run_packs(packed, tmp_path, compression):
    """All at the same time: whichever ends last joins them."""
    settings = {"LISTS": packed["lists"], "PACKED": tmp_path, "COMPRESSION": compression}
    commands = [
        [sys.executable, str(ROOT / PACK), *flags_of({**settings, "PART": f"{number}/3"})] for number in (1, 2, 3)
    ]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert any("wrote 16 slices in 3 sets" in output for output in outputs)
    assert_packed_alike(tmp_path, packed["packed"])
    assert_refused(PACK, "PART", "'4/3'", status=2, **settings, PART="4/3")
    assert_refused(PACK, "SHARD_GB", "(found 0)", status=2, **settings, SHARD_GB=0)


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
    assert "shards are there already" in run_script(PACK, **settings).stdout
    assert all(path.stat().st_mtime_ns == before for path, before in whole.items())
    run_script(PACK, LISTS=tmp_path / "lists", PACKED=tmp_path / "b")
    assert_packed_alike(tmp_path / "a", tmp_path / "b")


@given(hnp.arrays(np.uint8, (3, 4), elements=st.sampled_from([0, 1, 2, 254, 255])))
def test_values_of_a_mask(mask):
    assert values_of(mask) == set(np.unique(mask).tolist())


def test_what_a_slice_is_known_by(tmp_path):
    """Variants of a slice and links to it are the same slice; its neighbour is not."""
    case = make_cases(tmp_path, cases=1, slices=2, size=16) / "case01"
    slice_, other = case / "x" / "0001.png", case / "x" / "0002.png"
    (case / "x_A").mkdir()
    copies = [shutil.copy(slice_, case / "x_A"), tmp_path / "link.png", tmp_path / "case09" / "x" / "0001.png"]
    copies[1].symlink_to(slice_)
    (tmp_path / "case09").symlink_to(case)
    assert {slice_identity(str(copy)) for copy in copies} == {slice_identity(str(slice_))}
    assert slice_identity(str(other)) != slice_identity(str(slice_))


def test_spacing_of_the_slices_is_that_of_the_source_scaled(tmp_path):
    import json

    cases = make_cases(tmp_path / "cases", cases=3, slices=2, size=16)
    for case in cases.iterdir():
        entry = {"image": None, "mask": None, "image_size": [32, 64], "box": [0, 0, 64, 32]}
        record = {"size": 16, "fit": "resize", "spacing": [0.5, 0.25], "slices": {"0001": entry, "0002": entry}}
        (case / "case.json").write_text(json.dumps(record))
    run_here(LISTS, CASES=cases, LISTS=tmp_path / "lists")
    run_here(PACK, LISTS=tmp_path / "lists", PACKED=tmp_path / "packed")
    with h5py.File(tmp_path / "packed" / "train.h5") as file:
        assert file.attrs["spacing"].tolist() == [1.0, 1.0] and file.attrs["fit"] == "resize"


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
    refused("holds no train.csv", LISTS=cases)
    refused("COMPRESSION", status=2, COMPRESSION="zip")
    rows = train.read_text().splitlines()
    train.write_text(rows[0] + "\n")
    refused("train.csv is empty")
    train.write_text("image,mask\n")
    refused("header")
    train.write_bytes(b"\xff\xfe\x00\x01")
    refused("train.csv")
    train.write_text("\n".join([*rows, "../cases/gone.png,../cases/gone.png,case01"]))
    refused("gone.png does not exist")
    train.write_text("\n".join([*rows, *(lists / "test.csv").read_text().splitlines()[1:]]))
    refused("2 slices are in two lists", "train.csv")
    shutil.copy(kept / "train.csv", train)
    bad = Path(read_list(lists / "test.csv")["x"][0])
    good = bad.read_bytes()
    bad.write_bytes(good[:-20])
    refused("cut short")
    write_picture(bad, disc_slice(32, 0)[0])
    refused("32 pixels a side")
    bad.write_bytes(good)
    run_here(PACK, LISTS=lists, PACKED=tmp_path / "packed")
    assert_refused(PACK, "exists", LISTS=lists, PACKED=tmp_path / "packed")
    assert not leftovers(tmp_path)

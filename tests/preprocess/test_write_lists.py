"""2_write_lists.py: what goes into which list."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
from drawings import disc_slice, make_cases, write_image
from hypothesis import given, settings
from hypothesis import strategies as st
from running import ROOT, assert_refused, leftovers, run_here, run_script

from common.errors import InputError
from common.slices.checks import Checked
from common.slices.images import read_image
from common.slices.lists import read_list

LISTS, PACK = "preprocess/2_write_lists.py", "preprocess/3_pack_hdf5.py"


def load_script(name):
    specification = importlib.util.spec_from_file_location("script", ROOT / name)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


# --- dividing


def checked(cases, slices, tiles):
    return [
        Checked(
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
    everything = checked(cases, slices, tiles)
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
    sheet = read_image(tmp_path / "lists" / "data_check.png")
    assert sheet.ndim == 3 and sheet.std() > 5
    copied = pd.read_csv(tmp_path / "flat" / "train" / "copied_files.csv")
    assert list(copied.columns) == ["file", "src_x", "src_y"] and len(copied) == 36
    for row in copied.sample(5, random_state=0).itertuples():
        assert (tmp_path / "flat" / "train" / "x" / row.file).read_bytes() == Path(row.src_x).read_bytes()
        assert (tmp_path / "flat" / "train" / "y" / row.file).read_bytes() == Path(row.src_y).read_bytes()


def test_the_pairs_of_a_list_cut_by_hand_are_copied(tmp_path):
    """A list of ours, and one of AIS Training Codeset with absolute paths, of which lines were removed."""
    cases = make_cases(tmp_path / "cases", cases=4, slices=3, size=32)
    run_here(LISTS, CASES=cases, LISTS=tmp_path / "lists", TEST_SHARE=0)
    lines = (tmp_path / "lists" / "train.csv").read_text().splitlines()
    (tmp_path / "lists" / "cut.csv").write_text("\n".join(lines[:1] + lines[2::3]) + "\n")
    pairs = [
        (cases / "case02" / side / "0003.png" for side in "xy"),
        (cases / "case01" / side / "0001.png" for side in "xy"),
    ]
    pairs = [tuple(map(str, pair)) for pair in pairs]
    (tmp_path / "ais.csv").write_text("x,y\n" + "".join(f"{x},{y}\n" for x, y in pairs))
    for file, expected in ((tmp_path / "lists" / "cut.csv", None), (tmp_path / "ais.csv", pairs)):
        given = {"COPY_LIST": file, "COPY_TO": tmp_path / "copies" / file.stem, "CASES": tmp_path / "gone"}
        said = run_here(LISTS, LISTS=tmp_path / "none", **given).stdout
        copied = pd.read_csv(tmp_path / "copies" / file.stem / file.stem / "copied_files.csv")
        rows = list(copied[["src_x", "src_y"]].itertuples(index=False, name=None))
        assert rows == (expected or list(read_list(file)[["x", "y"]].itertuples(index=False, name=None)))
        assert f"copied {len(rows)} pairs to" in said
        for name, x, y in copied.itertuples(index=False):
            for side, source in (("x", x), ("y", y)):
                made = tmp_path / "copies" / file.stem / file.stem / side / name
                assert made.read_bytes() == Path(source).read_bytes()
    assert not (tmp_path / "none").exists()
    for place in (tmp_path / "lists", tmp_path / "lists" / "copies", tmp_path):
        assert_refused(
            LISTS, "COPY_TO: expected a folder outside LISTS", status=2, LISTS=tmp_path / "lists", COPY_TO=place
        )
    assert_refused(LISTS, "COPY_LIST: needs COPY_TO", status=2, COPY_LIST=tmp_path / "ais.csv")
    refused = {"COPY_TO": tmp_path / "no"}
    assert_refused(LISTS, "gone.csv: file does not exist", COPY_LIST=tmp_path / "gone.csv", **refused)
    (tmp_path / "ais.csv").write_text(f"x,y\n{pairs[0][0]},{tmp_path}/missing.png\n")
    assert_refused(LISTS, "line 2", "missing.png", COPY_LIST=tmp_path / "ais.csv", **refused)
    (tmp_path / "ais.csv").write_text("a,b\n1,2\n")
    assert_refused(LISTS, "ais.csv", "x", COPY_LIST=tmp_path / "ais.csv", **refused)
    assert not (tmp_path / "no").exists()


def test_named_cases_folds_and_tables(tmp_path):
    cases = make_cases(tmp_path / "cases", cases=5, slices=2)
    run_here(LISTS, CASES=cases, LISTS=tmp_path / "a", VALIDATION_CASES=["case02"], TEST_CASES=["case05", "case01"])
    assert set(read_list(tmp_path / "a" / "validation.csv")["case"]) == {"case02"}
    assert set(read_list(tmp_path / "a" / "test.csv")["case"]) == {"case01", "case05"}
    run_here(LISTS, CASES=cases, LISTS=tmp_path / "b", FOLDS=2, TEST_SHARE=0.2)
    assert sorted(path.name for path in (tmp_path / "b").glob("[!.]*")) == ["data_check.png", "fold1", "fold2"]
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
    refused("nothing left to train on", status=2, VALIDATION_SHARE=0.5, TEST_SHARE=0.5)
    refused("case09", VALIDATION_CASES=["case09"])
    refused("use fewer folds", FOLDS=9)
    y.unlink()
    refused("0001.png: no mask in")
    write_image(y, disc_slice(32, 1)[1])
    refused("size differs from its mask", "(found 24x24 and 32x32)")
    write_image(x, disc_slice(32, 1)[0])
    refused("differ in side length", "24 in", "32 in")
    x.write_bytes(good_x), y.write_bytes(good_y)
    write_image(x, disc_slice(24, 1, bits=16)[0])
    refused("differ in bit depth", "16 in")
    write_image(x, np.zeros((24, 24, 3), np.uint8))
    refused("differ in number of channels", "3 in")
    write_image(x, np.zeros((24, 24, 4), np.uint8))
    refused("transparent pixels")
    write_image(x, np.zeros((24, 30), np.uint8))
    refused("30x24", "square")
    x.write_bytes(good_x)
    write_image(y, np.full((24, 24), 130, np.uint8))
    refused("130", "--mask-values")
    for file in cases.glob("case*/y/*.png"):
        write_image(file, np.eye(24, dtype=np.uint8))
    refused("0 and 1")
    assert not leftovers(tmp_path)


def test_the_same_image_in_two_cases_and_what_is_no_image(tmp_path):
    cases = make_cases(tmp_path / "cases", cases=3, slices=2)
    places = {"CASES": cases, "LISTS": tmp_path / "lists", "VALIDATION_CASES": ["case02"], "TEST_SHARE": 0}
    for file in ("case01/x/0001.png", "case02/x/0001.png"):
        write_image(cases / file, np.zeros((24, 24), np.uint8))  # black slices are often equal
    (cases / "case01" / "x" / ".DS_Store").write_text("x")
    (cases / "case01" / "y" / "notes.txt").write_text("x")
    out = run_here(LISTS, **places).stdout
    assert "skipped 1 file (hidden or system): .DS_Store" in out and "notes.txt" in out
    image = read_image(cases / "case01" / "x" / "0002.png")
    write_image(cases / "case02" / "x" / "0002.png", image)
    places["REPLACE"] = True
    assert_refused(LISTS, "case02/x/0002.png", "the same image as", "case01/x/0002.png", "--same-slices", **places)
    assert "note: " in run_here(LISTS, SAME_SLICES="report", **places).stdout
    run_here(LISTS, **{**places, "VALIDATION_CASES": ["case03"]})  # both in one list


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

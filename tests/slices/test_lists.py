"""Lists of slices: paths, and dividing."""

import shutil

import pandas as pd
import pytest
from drawings import make_cases

from common.errors import InputError
from common.slices.lists import (
    count_of_share,
    make_divisions,
    pick_named,
    read_list,
    slice_identity,
    split_into_folds,
    write_list,
)


def test_paths_of_a_list(tmp_path, monkeypatch):
    for file in ("a/case1/x/1.png", "a/case1/y/1.png"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    monkeypatch.chdir(tmp_path)
    rows = [("a/case1/x/1.png", "a/case1/y/1.png", "case1")]
    write_list("lists/absolute.csv", pd.DataFrame(rows, columns=["x", "y", "case"]))
    write_list("lists/relative.csv", rows, "lists")
    assert (tmp_path / "lists/relative.csv").read_text().split() == [
        "x,y,case",
        "../a/case1/x/1.png,../a/case1/y/1.png,case1",
    ]
    absolute, relative = (read_list(tmp_path / "lists" / f"{name}.csv") for name in ("absolute", "relative"))
    assert absolute.equals(relative) and str(tmp_path) in (tmp_path / "lists/absolute.csv").read_text()


def test_divisions():
    units = list("abcde")
    assert make_divisions(units, [["d", "a"]]) == {"": (["b", "c", "e"], ["a", "d"])}
    assert make_divisions(units, [[]]) == {"": (units, [])}
    folds = make_divisions(units, [["a", "b"], ["c", "d", "e"]])
    assert folds == {"fold1": (["c", "d", "e"], ["a", "b"]), "fold2": (["a", "b"], ["c", "d", "e"])}
    assert pick_named(units, ["b", "e"], str, "TEST_CASES") == (["b", "e"], ["a", "c", "d"])
    with pytest.raises(InputError, match="TEST_CASES: unknown case f, x; choose from a, b, c, d, e"):
        pick_named(units, ["x", "a", "f"], str, "TEST_CASES")
    assert split_into_folds(units, 2) == [["a", "b", "c"], ["d", "e"]]
    with pytest.raises(InputError, match=r"6 folds \(found 5\)"):
        split_into_folds(units, 6)
    assert [count_of_share(0.2, total) for total in (1, 8, 10)] == [1, 2, 2]


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

"""Lists of slices: paths, and dividing."""

import os
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from drawings import make_cases, write_image

from common.errors import InputError
from common.slices.lists import (
    count_of_share,
    make_divisions,
    pick_named,
    read_list,
    refuse_shared,
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


def lists_of(folder, **rows):
    """Lists in a folder, and what `read_list` returns for them; `rows` are lines without the header."""
    for name, lines in rows.items():
        (folder / f"{name}.csv").write_text("\n".join(["x,y,case", *lines]))
    return {name: read_list(folder / f"{name}.csv") for name in rows}


def test_what_a_list_cannot_contain(tmp_path):
    make_cases(tmp_path, cases=2, slices=3, size=16)
    row, other = (f"./case01/x/000{i}.png,./case01/y/000{i}.png,case01" for i in (1, 2))
    lists_of(tmp_path, train=[row, other])
    for lines, words in (
        ([row, other, row], "train.csv: line 4: the same slice as line 2"),
        ([row, "./" + row], "train.csv: line 3: the same slice as line 2"),
        ([row, row.replace("y/0001", "y/0002")], "train.csv: line 3: the same slice as line 2"),
        ([row, other.removesuffix("case01")], "line 3: expected a case name"),
        ([row, other.replace(",case01", ",../../a")], "line 3: expected a case name"),
        ([row.replace(",case01", ",/etc"), other.replace(",case01", ",..")], "2 rows of"),
        ([other.replace("y/", "x/")], "line 2: x and y are the same file"),
        ([row, "case01/x/0002.png,case01/y/0002.png"], "line 3 is incomplete"),
    ):
        with pytest.raises(InputError, match=words):
            lists_of(tmp_path, train=lines)
    with pytest.raises(InputError, match=r"train.csv: line 3: the same slice as line 2; .*499,998 more"):
        lists_of(tmp_path, train=[row] * 500_000)


def test_what_two_lists_cannot_share(tmp_path, capsys):
    make_cases(tmp_path, cases=3, slices=3, size=16)

    def row(case, number):
        return f"case0{case}/x/000{number}.png,case0{case}/y/000{number}.png,case0{case}"

    refuse_shared(lists_of(tmp_path, train=[row(1, 1)], validation=[row(1, 2)]), "L")  # runs of the only case
    refuse_shared(lists_of(tmp_path, train=[row(1, 1), row(2, 1)], validation=[row(3, 1)]), "L")
    with pytest.raises(InputError, match=r"case01: case in both train.csv and validation.csv"):
        refuse_shared(lists_of(tmp_path, train=[row(1, 1), row(2, 1)], validation=[row(1, 2)]), "L")
    with pytest.raises(InputError, match=r"0001.png: listed in both train.csv and test.csv"):
        refuse_shared(lists_of(tmp_path, train=[row(1, 1)], test=[row(1, 1)]), "L")
    for copy in (os.link, shutil.copyfile):
        target = tmp_path / "case03" / "x" / "0002.png"
        target.unlink()
        copy(tmp_path / "case01" / "x" / "0001.png", target)
        refuse_shared(lists_of(tmp_path, train=[row(1, 1)], validation=[row(3, 2)]), "L")
        assert re.search(r"note: .*case03.x.0002.png: the same image as .*case01.x.0001.png", capsys.readouterr().out)
    for case in (1, 3):
        write_image(tmp_path / f"case0{case}" / "x" / "0003.png", np.zeros((16, 16), np.uint8))
    refuse_shared(lists_of(tmp_path, train=[row(1, 3)], validation=[row(3, 3)]), "L")  # black slices are often equal

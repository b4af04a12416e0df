"""Case folders: importing sources into them, and matching files."""

import json
import weakref
from functools import partial

import numpy as np
import pytest
from running import leftovers

from common.errors import InputError
from common.slices.case_files import read_case_record
from common.slices.cases import CaseRecord, Imported, find_cases, import_cases, match_files
from common.slices.images import encode_png, read_mask, read_slice

ENTRY = {"image": None, "mask": None, "image_size": [8, 8], "box": [0, 0, 8, 8]}


def load(source):
    """Slices of the gray levels in a source, a list; an empty list cannot be used."""
    if not source:
        raise InputError("empty source")
    black = encode_png(np.zeros((8, 8), np.uint8))
    slices = [(encode_png(np.full((8, 8), gray, np.uint8)), black, ENTRY) for gray in source]
    return Imported(slices, {"window": [0, max(source)]}, {0}, max(source))


make_record = partial(CaseRecord, "test", 8)


@pytest.mark.parametrize("parallel", [True, False])
def test_import(tmp_path, parallel):
    a, b, c = (tmp_path / f"case_{name}" for name in "abc")
    sources = [(a, [1, 2]), (a, []), (a, [3]), (b, []), (c, [4])]
    result = import_cases(sources, load, make_record, replace=False, parallel=parallel)
    assert result == (4, 2, {0}, ["empty source"] * 2, [2, 3, 4])
    assert [read_slice(a / "x" / f"000{i}.png").max() for i in (1, 2, 3)] == [1, 2, 3]
    assert read_mask(c / "y" / "0001.png").max() == 0 and not b.exists() and not leftovers(tmp_path)
    record = read_case_record(a)
    assert list(record["slices"]) == ["0001", "0002", "0003"] and record["window"] == [0, 3]
    assert json.loads((c / "case.json").read_text()) == CaseRecord("test", 8, {"0001": ENTRY}, window=[0, 4]).as_json()
    with pytest.raises(InputError, match="exists"):
        import_cases(sources, load, make_record, replace=False, parallel=parallel)


def test_no_case_appears_if_the_check_fails(tmp_path):
    def check(values, notes):
        assert not list(tmp_path.glob("case*"))
        raise InputError(f"bad values {values} {notes}")

    with pytest.raises(InputError, match=r"bad values \{0\} \[1\]"):
        import_cases([(tmp_path / "case_a", [1])], load, make_record, replace=False, check=check)
    assert not list(tmp_path.iterdir())


def test_one_source_in_memory_at_a_time(tmp_path):
    class Volume(list):
        pass

    alive = weakref.WeakSet()

    def load_volume(_):
        assert not alive
        volume = Volume([1, 2])
        alive.add(volume)
        return load(volume)._replace(slices=((*files, ENTRY) for *files, _ in load(volume).slices if volume))

    Volume.__hash__ = object.__hash__
    sources = [(tmp_path / f"case_{i}", i) for i in range(3)]
    assert import_cases(sources, load_volume, make_record, replace=False, parallel=False).slices == 6


def test_files_without_a_partner(tmp_path):
    first, second = {"a": tmp_path / "a", "b": tmp_path / "b"}, {"b": tmp_path / "b_mask"}
    with pytest.raises(InputError, match="a: no mask in y"):
        match_files(first, second, "mask in y", "image in x", "files are alone")
    with pytest.raises(InputError, match="2 files are alone"):
        match_files({"a": tmp_path / "a"}, second, "mask in y", "image in x", "files are alone")
    assert match_files({"b": first["b"]}, second, "", "", "") == [("b", tmp_path / "b", tmp_path / "b_mask")]


def test_incomplete_cases_are_listed_in_natural_order(tmp_path):
    for number in (10, 2, 1, 11, 3):
        (tmp_path / f"case{number}").mkdir()
    with pytest.raises(InputError) as refused:
        find_cases(tmp_path)
    lines = str(refused.value).splitlines()
    assert lines[0] == "5 case folders are incomplete: x or y is missing; import the case again"
    assert [line.rpartition("/")[2] for line in lines[1:]] == ["case1", "case2", "case3", "case10", "case11"]

"""Files and folders that appear whole or not at all."""

import signal
import subprocess
import sys
import time

import pytest
from drawings import make_cases
from hypothesis import given
from hypothesis import strategies as st
from running import ROOT, leftovers

from common.files import natural_key, whole_file


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with whole_file(path) as unfinished:
        unfinished.write_text("whole")
        assert not path.exists() and unfinished.suffix == path.suffix
    with pytest.raises(RuntimeError), whole_file(path) as unfinished:
        unfinished.write_text("half")
        raise RuntimeError
    assert path.read_text() == "whole" and not leftovers(tmp_path)


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_natural_order_is_that_of_numbers(numbers):
    names = [f"slice{n}.png" for n in numbers]
    assert sorted(names, key=natural_key) == [f"slice{n}.png" for n in sorted(numbers)]


def test_names_with_equal_numbers_have_an_order():
    """Otherwise the order of the disk would decide, and the same seed would split the same cases differently."""
    one, other = ["case01", "case1", "case001"], ["case001", "case1", "case01"]
    assert sorted(one, key=natural_key) == sorted(other, key=natural_key)


def test_ctrl_c_in_the_middle_leaves_nothing_half_written(tmp_path):
    cases = make_cases(tmp_path, cases=6, slices=60, size=160)
    command = [sys.executable, str(ROOT / "preprocess" / "1_augment_cases.py"), "--cases", str(cases)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not list(cases.glob(".part-*/new/case01/x_C/0005.png")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0 and "Traceback" not in err and "Ctrl-C" in err
    assert not leftovers(tmp_path)
    for case in cases.iterdir():
        made = {path.name for path in case.iterdir() if path.is_dir()} - {"x", "y"}
        assert not made or len(made) == 70, "a case is augmented whole or not at all"


def test_a_file_within_an_unfinished_one_has_no_name_of_its_own(tmp_path):
    """A kill would leave it under a name that no later run looks for."""
    with whole_file(tmp_path / "a.html") as outer:
        with whole_file(outer) as inner:
            inner.write_text("x")
        assert list(tmp_path.iterdir()) == [outer]
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "b.html") as outer, whole_file(outer) as inner:
        inner.write_text("x")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]

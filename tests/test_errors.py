"""The error rule, and files that appear whole or not at all."""

import errno
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from drawings import make_cases
from hypothesis import given
from hypothesis import strategies as st
from running import ROOT, SCRIPTS, assert_refused, leftovers, run_script

from common.errors import InputError, report_error, summarise
from common.files import natural_key, refuse_existing, whole_file, whole_folder
from common.parallel import ordered_map


def shown(capsys, error):
    report_error(type(error), error, None)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (InputError("a.png is empty"), "error: a.png is empty"),
        (KeyboardInterrupt(), "stopped by Ctrl-C"),
        (OSError(errno.ENOSPC, "No space left on device", "x.h5"), "the disk is full while writing x.h5"),
        (OSError("Can't write data (errno = 28, error message = 'No space left on device')"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), "error: out: Permission denied"),
        (MemoryError(), "out of memory"),
    ],
)
def test_what_a_user_can_cause_is_one_line(capsys, error, words):
    text = shown(capsys, error)
    assert words in text and len(text.strip().splitlines()) == 1


BAD = {  # a setting that each script refuses; train.py and tune.py have such tests of their own
    "convert_coreml.py": {"RUN": "gone"},
    "data/make_sample.py": {"COUNT": 0},
    "data/make_volumes.py": {"CONTRASTS": 5},
    "evaluate.py": {"SHOW": "best"},
    "predict.py": {"RUN": "gone"},
    "preprocess/0_import_images.py": {"IMAGES": "gone", "MASKS": "gone"},
    "preprocess/0_import_matrices.py": {"IMAGES": "gone"},
    "preprocess/0_import_nodules.py": {"LUNGS": "gone"},
    "preprocess/0_import_stl.py": {"SURFACE": "gone"},
    "preprocess/0_import_volumes.py": {"BITS": 12},
    "preprocess/1_augment_cases.py": {"CASES": "gone"},
    "preprocess/2_write_lists.py": {"CASES": "gone"},
    "preprocess/3_pack_hdf5.py": {"LISTS": "gone"},
    "preprocess/3_pack_volumes.py": {"DATA": "gone"},
    "run_pipeline.py": {"CASES": "gone"},
    "submission.py": {"KIND": "x"},
}


@pytest.mark.parametrize("script", sorted(set(SCRIPTS) - {"train.py", "tune.py"}))
def test_every_script_refuses_as_a_process(tmp_path, monkeypatch, script):
    """The other tests of what is refused stay in their own process."""
    monkeypatch.chdir(tmp_path)
    ((_, bad), *_) = BAD[script].items()
    assert len(assert_refused(script, bad, run=run_script, **BAD[script]).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_our_own_mistakes_keep_their_traceback(capsys):
    assert "ZeroDivisionError" in shown(capsys, ZeroDivisionError("a bug"))


def test_many_problems_are_counted_and_ten_shown():
    text = summarise([f"{i}.png is bad" for i in range(14)], "files are bad")
    assert text.splitlines()[0] == "14 files are bad:" and len(text.splitlines()) == 12 and "4 more" in text
    assert summarise(["1.png is bad"], "files are bad") == "1.png is bad"


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with whole_file(path) as part:
        part.write_text("whole")
        assert not path.exists() and part.suffix == path.suffix
    with pytest.raises(RuntimeError), whole_file(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "whole" and not leftovers(tmp_path)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a"
    with whole_folder(path) as part:
        (part / "mark").write_text("1")
    with pytest.raises(InputError, match="--replace"), whole_folder(path):
        pass
    with pytest.raises(RuntimeError), whole_folder(path, replace=True, marker="mark"):
        raise RuntimeError
    assert (path / "mark").read_text() == "1"
    with whole_folder(path, replace=True, marker="mark") as part:
        (part / "mark").write_text("2")
    assert (path / "mark").read_text() == "2" and not leftovers(tmp_path)
    with pytest.raises(InputError, match="not made by this script"):
        refuse_existing(path, True, "other")
    (tmp_path / "empty").mkdir()
    refuse_existing(tmp_path / "empty", False)


def test_leftovers_of_a_killed_run_are_in_nobodys_way(tmp_path):
    (tmp_path / ".part-a" / "deep").mkdir(parents=True)
    with whole_folder(tmp_path / "a") as part:
        assert not list(part.iterdir())


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_natural_order_is_that_of_numbers(numbers):
    names = [f"slice{n}.png" for n in numbers]
    assert sorted(names, key=natural_key) == [f"slice{n}.png" for n in sorted(numbers)]


@pytest.mark.parametrize("workers", [1, 3])
def test_ordered_map_keeps_order_and_collects_problems(workers):
    def half(n):
        if n % 5 == 4:
            raise InputError(f"{n}")
        time.sleep(0.001 * (n % 3))
        return n / 2

    problems = []
    assert list(ordered_map(half, range(20), workers, problems)) == [None if n % 5 == 4 else n / 2 for n in range(20)]
    assert problems == ["4", "9", "14", "19"]
    with pytest.raises(InputError, match="4"):
        list(ordered_map(half, range(20), workers))


def test_ordered_map_takes_only_a_few_items_ahead():
    taken = []
    mapped = ordered_map(lambda n: n, (taken.append(i) or i for i in range(1000)), workers=2)
    next(mapped)
    assert len(taken) <= 8


def test_ctrl_c_in_the_middle_leaves_nothing_half_written(tmp_path):
    cases = make_cases(tmp_path, cases=6, slices=60, size=160)
    command = [sys.executable, str(ROOT / "preprocess" / "1_augment_cases.py"), "--cases", str(cases)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not list(cases.glob("case01/.part-x_C/0005.png")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0 and "Traceback" not in err and "Ctrl-C" in err
    assert not leftovers(tmp_path)
    for case in cases.iterdir():
        made = {path.name for path in case.iterdir() if path.is_dir()} - {"x", "y"}
        assert not made or len(made) == 70, "a case is augmented whole or not at all"


def test_the_pipeline_runs_every_step_and_names_the_one_that_fails(tmp_path):
    cases = make_cases(tmp_path / "cases", cases=5, slices=3, size=32)
    tiny = {"MODEL_SETTINGS": {"features": 2, "depth": 1, "dropout": 0.0}, "EPOCHS": 1}
    places = {"CASES": cases, "WORK": tmp_path / "work"}
    out = run_script("run_pipeline.py", **places, **tiny).stdout
    assert "all steps done" in out
    for name in ("lists/data_check.png", "packed/test.h5", "scores/scores.csv", "model.mlmodel"):
        assert (tmp_path / "work" / name).exists()
    result = run_script("run_pipeline.py", **places, **tiny, LOSS="dise", expect=1)
    assert "run_pipeline.py: error: train.py failed" in result.stderr and "unknown loss" in result.stderr
    assert "Traceback" not in result.stderr
    assert len(list(Path(tmp_path, "work", "runs").iterdir())) == 1

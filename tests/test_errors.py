"""The error rule: one line for what a user can cause, a traceback for our own mistakes."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from drawings import make_cases
from running import ROOT, SCRIPTS, assert_refused, run_script

from common.child import child
from common.command_line import make_parser
from common.errors import InputError, ignore_in_thread, report_error, summarize


def shown(capsys, error):
    report_error(type(error), error, None)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (InputError("a.png: file is empty"), "error: a.png: file is empty"),
        (KeyboardInterrupt(), "stopped by Ctrl-C"),
        (OSError(errno.ENOSPC, "No space left on device", "x.h5"), "x.h5: the disk is full"),
        (OSError("Can't write data (errno = 28, error message = 'No space left on device')"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), "error: out: no permission (Permission denied);"),
        (RuntimeError("TF: ; No space left on device"), "the disk is full; free some space and run again (TF: ;"),
        (MemoryError(), "out of memory"),
        (ImportError("libtensorflow_cc.so.2: failed to map segment from shared object"), "out of memory"),
    ],
)
def test_what_a_user_can_cause_is_one_line(capsys, error, words):
    text = shown(capsys, error)
    assert words in text and len(text.strip().splitlines()) == 1


BAD = {  # a setting that each script refuses; train.py and tune.py have such tests of their own
    "check.py": {"CASES": "gone"},
    "choose.py": {"CROSS_VALIDATIONS": "gone"},
    "compare_runs.py": {"RUNS": "gone"},
    "convert_coreml.py": {"RUN": "gone"},
    "data/make_sample.py": {"COUNT": 0},
    "data/make_volumes.py": {"CONTRASTS": 5},
    "export.py": {"RUN": "gone"},
    "export_dataset.py": {"LISTS": "gone"},
    "evaluate.py": {"SHOW": "best"},
    "predict.py": {"RUN": "gone"},
    "preprocess/0_import_annotations.py": {"IMAGES": "gone", "ANNOTATIONS": "gone"},
    "preprocess/0_import_candidates.py": {"SCANS": "gone"},
    "preprocess/0_import_images.py": {"IMAGES": "gone", "MASKS": "gone"},
    "preprocess/0_import_matrices.py": {"IMAGES": "gone"},
    "preprocess/0_import_nodules.py": {"LUNGS": "by hand"},
    "preprocess/0_import_stl.py": {"SURFACE": "gone"},
    "preprocess/0_import_volumes.py": {"BITS": 12},
    "preprocess/1_augment_cases.py": {"CASES": "gone"},
    "preprocess/2_write_lists.py": {"CASES": "gone"},
    "preprocess/3_pack_hdf5.py": {"LISTS": "gone"},
    "preprocess/3_pack_volumes.py": {"DATA": "gone"},
    "preprocess/4_plan_training.py": {"PACKED": "gone"},
    "pseudo_label.py": {"RUN": "gone"},
    "run_pipeline.py": {"CASES": "gone"},
    "submission.py": {"KIND": "x"},
}


@pytest.mark.parametrize("script", sorted(set(SCRIPTS) - {"train.py", "tune.py"}))
def test_every_script_refuses_as_a_process(tmp_path, monkeypatch, script):
    """The other tests of what is refused stay in their own process."""
    monkeypatch.chdir(tmp_path)
    ((name, bad), *_) = BAD[script].items()
    status = 1 if bad == "gone" else 2  # 2: it cannot work whatever the files are
    message = assert_refused(script, name if status == 2 else "", bad, status=status, run=run_script, **BAD[script])
    assert len(message.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_value_that_begins_with_a_dash(capsys):
    with pytest.raises(SystemExit):
        make_parser({"__doc__": ""}, {"OUTPUT": ""}).parse_args(["--output", "-x"])
    assert "write a value that begins with a dash as --output=VALUE" in capsys.readouterr().err


def test_our_own_mistakes_keep_their_traceback(capsys):
    assert "ZeroDivisionError" in shown(capsys, ZeroDivisionError("a bug"))


def test_a_file_that_hdf5_cannot_close_adds_nothing_to_the_message(capsys):
    assert shown(capsys, RuntimeError("Can't decrement id ref count (file write failed: errno = 28)")) == ""


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyError("a")])
def test_a_full_disk_in_a_thread_is_left_to_the_code_that_waits_for_it(capsys, monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr(threading, "excepthook", ignore_in_thread)
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    assert ("Traceback" in capsys.readouterr().err) is isinstance(error, KeyError)


def test_many_problems_are_counted_and_ten_shown():
    text = summarize([f"{i}.png is bad" for i in range(14)], "files are bad")
    assert text.splitlines()[0] == "14 files are bad:" and len(text.splitlines()) == 12 and "4 more" in text
    assert summarize(["1.png is bad"], "files are bad") == "1.png is bad"


@pytest.mark.slow
def test_the_pipeline_runs_every_step_and_names_the_one_that_fails(tmp_path):
    cases = make_cases(tmp_path / "cases", cases=5, slices=3, size=32)
    tiny = {"MODEL_SETTINGS": {"features": 2, "depth": 1, "dropout": 0.0}, "EPOCHS": 1}
    places = {"CASES": cases, "WORK": tmp_path / "work"}
    out = run_script("run_pipeline.py", **places, **tiny).stdout
    assert "finished all steps" in out
    for name in ("lists/data_check.png", "packed/test.h5", "scores/scores.csv", "model.mlmodel"):
        assert (tmp_path / "work" / name).exists()
    assert_refused("run_pipeline.py", "LOSS", "dise", status=2, run=run_script, **places, **tiny, LOSS="dise")
    result = run_script("run_pipeline.py", **places, **tiny, LOSS="cce", expect=1)
    assert "run_pipeline.py: error: train.py: failed" in result.stderr and "several exclusive classes" in result.stderr
    assert "Traceback" not in result.stderr
    assert len(list(Path(tmp_path, "work", "runs").iterdir())) == 1


@pytest.mark.parametrize("script", ["train.py", "preprocess/0_import_images.py"])
def test_a_missing_package_is_one_line(script):
    """As with a Python that has none: the environment has not been activated."""
    command = [sys.executable, "-E", "-s", "-S", str(ROOT / script)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1, result.stderr
    assert "package is not installed for" in result.stderr and "pip install -r requirements.txt" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="its status after Ctrl-C is another number")
@pytest.mark.parametrize("script", ["train.py", "check.py"])
def test_ctrl_c_before_the_settings_are_read_is_one_line(tmp_path, script):
    (tmp_path / "annotated_types.py").write_text("raise KeyboardInterrupt")  # which settings need
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    options = {"env": environment, "stderr": subprocess.PIPE}
    with (
        child(ROOT / script, [], **options) as step,
        subprocess.Popen([sys.executable, ROOT / script], **options) as own,
    ):
        for process in (step, own):
            assert process.stderr.read().decode() == f"\n{script}: stopped by Ctrl-C; left no incomplete files\n"
            assert process.wait() == -signal.SIGINT


@pytest.mark.parametrize(
    ("flag", "advice"),
    [
        ("--lr", "did you mean --learning-rate?"),
        ("--features", "did you mean --model-settings \"{'features': VALUE}\"?"),
        ("--epoch", "did you mean --epochs?"),
        ("--xyzzy", "--help lists all settings"),
    ],
)
def test_an_unknown_flag_gets_advice(flag, advice):
    assert f"unrecognized arguments: {flag} 1 ({advice})" in run_script("train.py", flag, "1", expect=2).stderr

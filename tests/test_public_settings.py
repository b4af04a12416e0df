"""Nothing that is passed on contains a path of the user, the home folder or the name of the machine."""

import errno
import socket
import stat
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from common.public_settings import without_own_paths
from common.training.board import Board
from common.training.report import draw_network
from common.training.run_folder import Run


def test_paths_outside_the_working_folder_keep_their_last_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    settings = {
        "TRAIN": "/home/jdoe/my project/packed/train.h5",
        "RUN": ["../runs/a", str(tmp_path / "runs" / "b"), "runs/c"],
        "RUNS": str(tmp_path.parent),
        "LOSS": "bce+dice",
        "WINDOWS": "C:\\Users\\jdoe\\train.h5",
        "WINDOW": [-200, 200],
        "NOTE": {"reason": "recorded in /home/jdoe/my project/run/settings.json"},
        "NONE": None,
    }
    assert without_own_paths(settings) == {
        "TRAIN": "train.h5",
        "RUN": ["a", "runs/b", "runs/c"],
        "RUNS": "~",
        "LOSS": "bce+dice",
        "WINDOWS": "train.h5",
        "WINDOW": [-200, 200],
        "NOTE": {"reason": "recorded in settings.json"},
        "NONE": None,
    }


def test_files_of_a_run_that_are_passed_on_have_no_own_paths(trained):
    run, _ = trained
    files = [*run.glob("*.keras"), *run.glob("*.png"), *(run / "tensorboard").iterdir(), run / "report.html"]
    files += [run / "state.json", run / "training_log.csv", run / "environment.txt"]
    assert len(files) > 6
    for file in files:
        assert str(run.parent).encode() not in file.read_bytes(), file
    assert '<th scope="row">TRAIN</th><td>train.h5</td>' in (run / "report.html").read_text(encoding="utf-8")


def test_tensorboard_files_have_no_host_name(monkeypatch, tmp_path):
    monkeypatch.setattr("socket.gethostname", lambda: "radiology7")
    board = Board(tmp_path)
    board.add_scalars({"loss": 1.0}, 1)
    board.add_image("slices", np.zeros((4, 8, 3), np.uint8), 1)
    board.close()
    (file,) = tmp_path.iterdir()
    assert "radiology7" not in file.name and file.name.startswith("events.out.tfevents.")
    assert b"radiology7" not in file.read_bytes() and socket.gethostname() == "radiology7"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_curves_on_a_full_disk_name_their_folder(full_disk):
    disk = full_disk(8192)
    with pytest.raises(OSError) as caught:
        board = Board(disk)
        for step in range(20):
            board.add_image("slices", np.random.default_rng(step).integers(0, 255, (64, 64, 3)).astype(np.uint8), step)
        board.close()
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(disk)


@pytest.mark.parametrize("failing", ["always", "on this network"])
def test_graphviz_that_aborts_does_not_end_a_training(monkeypatch, tmp_path, capsys, failing):
    """A program called dot that aborts, at once or after the check of Keras, an empty graph."""
    dot = tmp_path / "bin" / "dot"
    dot.parent.mkdir()
    check = 'grep -q conv "$2" || exit 0\n' if failing != "always" else ""
    dot.write_text(f"#!/bin/sh\n{check}echo trouble in init_rank >&2\nkill -6 $$\n")
    dot.chmod(dot.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(dot.parent), prepend=":")
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, keras.layers.Conv2D(1, 1, name="conv")(inputs))
    run = Run(tmp_path / "run")
    draw_network(model, run)
    said = capsys.readouterr()
    assert said.out.startswith("skipped the drawing of the network: Graphviz failed") and said.out.count("\n") == 1
    assert not said.err and [path.name for path in run.folder.iterdir()] == ["model_summary.txt"]


def test_graphviz_that_is_missing_is_reported(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    inputs = keras.Input((8, 8, 1))
    draw_network(keras.Model(inputs, inputs + 1), SimpleNamespace(**vars(Run(tmp_path / "run"))))
    assert "install Graphviz" in capsys.readouterr().out

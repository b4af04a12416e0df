"""What a run leaves behind: its folder, the log, checkpoints, curves and the report."""

import json
import math
import shutil
import time
import zipfile
from pathlib import Path

import keras
import matplotlib
import pandas as pd

import losses.own  # brings the loss and metrics that a checkpoint holds
from common.devices import environment, hushed
from common.errors import InputError
from common.files import whole_file, whole_folder, write_json
from common.training.aside import Aside, copy_network, copy_state
from common.training.course import MONITORED, Log, read_log
from common.training.report import write_report
from common.training.timing import BLOCKED, COPYING, clock, time_table

matplotlib.use("Agg")
import matplotlib.pyplot as plt

STATE_IN_CHECKPOINT = (
    "run_state.json"  # member of last.keras: a checkpoint is one file, so that it is whole or not at all
)


def make_run_folder(runs, model, settings, code, name=None):
    """Make a run folder with the settings, the environment and the code.

    Args:
        runs: folder of the runs.
        model: name of the network, or path of a .py file.
        settings: dict for `settings.json`.
        code: dict of `common.training.run_folder.read_code`.
        name: of the folder; None: made of date, time and network.

    Returns:
        Path of `<runs>/<yyyymmdd-hhmmss>_<model>`, with a number behind it where there is one of that second.
    """
    stem = name or f"{time.strftime('%Y%m%d-%H%M%S')}_{Path(model).stem}"
    run = Path(runs, stem)
    number = 1
    while run.exists():
        number += 1
        run = Path(runs, f"{stem}-{number}")
    with whole_folder(run) as part:
        write_json(part / "settings.json", settings)
        (part / "environment.txt").write_text(environment(), encoding="utf-8")
        for name, content in code.items():
            path = part / "code" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return run


def save_checkpoint(model, log, run):
    """Save a network with its optimizer; where the last epoch is a best one, also as best_dice or best_iou.

    last.keras appears last: until then a resumed run starts from the epoch before, and writes the others again.
    """
    with whole_file(run / "last.keras") as part:
        model.save(part)
        with zipfile.ZipFile(part, "a") as archive:
            archive.writestr(STATE_IN_CHECKPOINT, json.dumps({"epoch": len(log)}))
        for metric in MONITORED:
            if log.is_best(metric):
                with whole_file(run / f"best_{metric}.keras") as copy:
                    shutil.copyfile(part, copy)
        log.write(run / "training_log.csv")


def read_checkpoint(run):
    """Model and log of a run to resume.

    Returns:
        (keras.Model, Log); (None, empty Log) where the run was stopped before its first epoch ended.

    Raises:
        InputError: if the checkpoint is damaged.
    """
    path = run / "last.keras"
    if not path.exists():
        return None, Log()
    try:
        with zipfile.ZipFile(path) as archive:
            epoch = json.loads(archive.read(STATE_IN_CHECKPOINT))["epoch"]
        with losses.own.files_in(run / "code"):
            model = keras.saving.load_model(path)
        return model, read_log(run / "training_log.csv", epoch)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise InputError(f"{path} or training_log.csv beside it is damaged ({error}); start a new run") from error


class Recorder(keras.callbacks.Callback):
    """Says what an epoch ended with and keeps the run folder up to date; it goes behind its `Course`.

    Args:
        run: run folder.
        course: Course of the run.
        about: dict that goes into `state.json`.
    """

    def __init__(self, run, course, about):
        super().__init__()
        self.run, self.course, self.log, self.about = run, course, course.log, about
        self.draw_after = -math.inf
        with hushed():
            from tensorboard.summary import Writer
        self.board = Writer(str(run / "tensorboard"))
        self.aside = Aside()

    def on_train_begin(self, logs=None):
        self.copy = copy_network(self.model)

    def on_epoch_end(self, epoch, logs=None):
        if not self.course.failed:
            self._say(self.log.rows[-1])
            self._save()

    def _save(self):
        """Copy what the epoch ends with, and write the files aside."""
        self.finish_writing()
        with clock.timed(COPYING):
            copy_state(self.model, self.copy)
        self.aside.start(self._write, Log(self.log.rows), self.course.why)
        if self.copy is self.model:
            self.finish_writing()

    def finish_writing(self):
        """Wait for the files of the last epoch; raises OSError where the disk is full."""
        with clock.timed(BLOCKED):
            self.aside.wait()

    def _write(self, log, why):
        with clock.timed("writing files"):
            save_checkpoint(self.copy, log, self.run)
            row = log.rows[-1]
            for name, value in row.items():
                if name != "epoch":
                    self.board.add_scalar(name, value, step=row["epoch"])
            self.board.flush()
            self._draw_now_and_then(log)
            self._write_state(log, why)
            write_report(self.run, log)

    def _say(self, row):
        best = " best" if self.log.is_best("dice") else ""
        width = len(str(self.course.epochs))
        print(
            f"epoch {row['epoch']:{width}}/{self.course.epochs}  loss {row['loss']:.4f}  dice {row['dice']:.3f}  "
            f"val_loss {row['val_loss']:.4f}  val_dice {row['val_dice']:.3f}  val_iou {row['val_iou']:.3f}  "
            f"rate {row['learning_rate']:.2g}  {row['seconds']:.1f} s{best}",
            flush=True,
        )

    def _draw_now_and_then(self, log):
        """Draw the curves so seldom that it takes at most a hundredth of the run's time."""
        started = time.monotonic()
        if started >= self.draw_after:
            draw_curves(log, self.run / "curves.png")
            now = time.monotonic()
            self.draw_after = now + 100 * (now - started)

    def _write_state(self, log, why):
        best = {f"best_{metric}": dict(zip(("score", "epoch"), log.best(metric), strict=True)) for metric in MONITORED}
        state = {"epoch": len(log), "epochs": self.course.epochs, "ended": why, "time": time_table()}
        write_json(self.run / "state.json", state | best | self.about)

    def close(self):
        """Write what is only worth it at the end, once all else is written."""
        self.finish_writing()
        self.board.close()
        if self.log.rows:
            # a run that was killed right after its last checkpoint has the state of the epoch before
            self._write_state(self.log, self.course.why)
            draw_curves(self.log, self.run / "curves.png")


def draw_curves(log, path):
    """Plot loss, Dice and IoU, and the learning rate over the epochs."""
    table = pd.DataFrame(log.rows)
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.5))
    figure.subplots_adjust(left=0.045, right=0.99, top=0.9, bottom=0.15, wspace=0.16)  # a layout engine draws twice
    for axis, names in zip(axes[:2], (("loss",), ("dice", "iou")), strict=True):
        for name, colour in zip(names, ("tab:blue", "tab:orange"), strict=False):
            axis.plot(table["epoch"], table[name], "--", color=colour, label=f"training {name}")
            axis.plot(table["epoch"], table[f"val_{name}"], color=colour, label=f"validation {name}")
        axis.legend(fontsize=8)
    score, epoch = log.best("dice")
    axes[1].set(ylim=(0, 1), title=f"best validation Dice {score:.3f} in epoch {epoch}")
    axes[0].set(title="loss")
    axes[2].plot(table["epoch"], table["learning_rate"], color="tab:green", drawstyle="steps-mid")
    axes[2].set(title="learning rate", yscale="log" if (table["learning_rate"] > 0).all() else "linear")
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
    with whole_file(path) as part:
        figure.savefig(part, dpi=100, format="png")
    plt.close(figure)

"""What a run leaves behind: its folder, the log, checkpoints, curves and pictures."""

import json
import math
import shutil
import time
import zipfile
from pathlib import Path

import keras
import matplotlib
import numpy as np
import pandas as pd
from tqdm import tqdm

import losses  # noqa: F401  (a checkpoint holds its loss and metrics)
from common.aside import Aside, copy_network, copy_state
from common.devices import environment, hushed
from common.errors import InputError
from common.files import whole_file, whole_folder, write_json
from common.report import write_report
from common.timing import BLOCKED, COPYING, clock, time_table

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
CODE = ("train.py", "models", "losses", "common")
MONITORED = ("dice", "iou")
STATE_IN_CHECKPOINT = (
    "run_state.json"  # member of last.keras: a checkpoint is one file, so that it is whole or not at all
)


def make_run_folder(runs, model, settings, name=None):
    """Make a run folder with the settings, the environment and the code.

    Args:
        runs: folder of the runs.
        model: name of the network, or path of a .py file, which is copied too.
        settings: dict for `settings.json`.
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
        (part / "code").mkdir()
        for name in (*CODE, *([model] if model.endswith(".py") else [])):
            source = ROOT / name if name in CODE else Path(name)
            copy = shutil.copytree if source.is_dir() else shutil.copyfile
            options = {"ignore": shutil.ignore_patterns("__pycache__")} if source.is_dir() else {}
            copy(source, part / "code" / source.name, **options)
    return run


class Log:
    """Rows of `training_log.csv`, one an epoch, and what follows from them.

    Everything that decides how a run goes on (best scores, learning-rate controller, early stop) is worked out
    from these rows, so that a resumed run decides as the run before it.
    """

    def __init__(self, rows=()):
        self.rows = list(rows)

    def __len__(self):
        return len(self.rows)

    def best(self, metric):
        """(score, epoch) of the best epoch by a validation metric; the earliest of equals; (-inf, 0) for none."""
        scores = [(row[f"val_{metric}"], -row["epoch"]) for row in self.rows if math.isfinite(row[f"val_{metric}"])]
        score, epoch = max(scores, default=(-math.inf, 0))
        return score, -epoch

    def is_best(self, metric):
        """Whether the last epoch is the best one."""
        return self.best(metric)[1] == len(self.rows)

    def reason_to_stop(self, epochs, early_stop):
        """Why training is over, as text: all epochs are done, or `early_stop` of them brought no best; or None."""
        since_best = len(self.rows) - max(self.best(metric)[1] for metric in MONITORED)
        if len(self.rows) >= epochs:
            return f"all {epochs} epochs done"
        return f"no new best for {early_stop} epochs" if early_stop and since_best >= early_stop else None

    def multiplier(self, controller):
        """Multiplier of the learning rate after the epochs so far, by a fresh `common.schedules.Controller`."""
        for count in range(1, len(self.rows) + 1):
            controller.update(Log(self.rows[:count]).is_best("dice"))
        return controller.multiplier

    def write(self, path):
        with whole_file(path) as part:
            pd.DataFrame(self.rows).to_csv(part, index=False)


def read_log(path, epochs):
    """First `epochs` rows of a log, exactly as they were written."""
    if not epochs:
        return Log()
    rows = pd.read_csv(path, dtype=str).head(epochs).to_dict("records")
    return Log([{name: int(text) if name == "epoch" else float(text) for name, text in row.items()} for row in rows])


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
        model = keras.saving.load_model(path)
        return model, read_log(run / "training_log.csv", epoch)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise InputError(f"{path} or training_log.csv beside it is damaged ({error}); start a new run") from error


class Recorder(keras.callbacks.Callback):
    """Keeps the run folder up to date, sets what an epoch needs, and decides when to stop.

    Args:
        run: run folder.
        log: Log of the epochs so far.
        training: Batches, told the epoch.
        rate: function of the number of the epoch, from 0, and the log to the learning rate.
        seed: of the drop-out and noise layers.
        epochs: how many the run has.
        early_stop: epochs without a new best that end it; 0: never.
        max_minutes: stop before an epoch that would end later than this; None: never.
        about: dict that goes into `state.json`.
    """

    def __init__(self, run, log, training, rate, seed, epochs, early_stop=0, max_minutes=None, about=None):
        super().__init__()
        self.run, self.log, self.training, self.rate, self.seed = run, log, training, rate, seed
        self.epochs, self.early_stop, self.max_minutes, self.about = epochs, early_stop, max_minutes, about or {}
        self.started = time.monotonic()
        self.draw_after = -math.inf
        self.longest = 0.0
        self.why, self.failed = log.reason_to_stop(epochs, early_stop), False
        with hushed():
            from tensorboard.summary import Writer
        self.board = Writer(str(run / "tensorboard"))
        self.aside = Aside()

    def on_train_begin(self, logs=None):
        self.copy = copy_network(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_started = time.monotonic()
        self.training.set_epoch(epoch)
        self.bar = tqdm(total=len(self.training), desc=f"epoch {epoch + 1}", leave=False, disable=None)
        self.learning_rate = self.rate(epoch, self.log)
        self.model.optimizer.learning_rate = self.learning_rate
        generators = [v for v in self.model.variables if v.name == "seed_generator_state"]
        for number, state in enumerate(generators):
            word = np.random.SeedSequence([self.seed, epoch, number]).generate_state(1)[0] >> 1
            state.assign(np.array([word, 0]))

    def on_train_batch_begin(self, batch, logs=None):
        """Move the bar; here, since Keras waits for the metrics of every step for a callback at its end."""
        self.bar.update(batch - self.bar.n)

    def on_epoch_end(self, epoch, logs=None):
        self.bar.close()
        if not math.isfinite(logs["loss"]):
            self.why = (
                f"the loss of epoch {epoch + 1} is {logs['loss']}: lower LEARNING_RATE or take another LOSS; "
                "last.keras holds the epoch before"
            )
            self.failed = self.model.stop_training = True
            return
        row = {"epoch": epoch + 1, "learning_rate": self.learning_rate}
        row |= {name: float(value) for name, value in logs.items()}
        row["seconds"] = round(time.monotonic() - self.epoch_started, 3)
        self.log.rows.append(row)
        self._say(row)
        now = time.monotonic()
        self.longest = max(self.longest, now - self.epoch_started)
        self.why = self.log.reason_to_stop(self.epochs, self.early_stop)
        if not self.why and self.max_minutes and now + self.longest > self.started + 60 * self.max_minutes:
            self.why = f"another epoch would end after {self.max_minutes:g} minutes"
        self.model.stop_training = self.why is not None
        self._save()

    def _save(self):
        """Copy what the epoch ends with, and write the files aside."""
        self.finish_writing()
        with clock.timed(COPYING):
            copy_state(self.model, self.copy)
        self.aside.start(self._write, Log(self.log.rows), self.why)
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
        width = len(str(self.epochs))
        print(
            f"epoch {row['epoch']:{width}}/{self.epochs}  loss {row['loss']:.4f}  dice {row['dice']:.3f}  "
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
        state = {"epoch": len(log), "epochs": self.epochs, "ended": why, "time": time_table(), **best, **self.about}
        write_json(self.run / "state.json", state)

    def close(self):
        """Write what is only worth it at the end, once all else is written."""
        self.finish_writing()
        self.board.close()
        if self.log.rows:
            # a run that was killed right after its last checkpoint has the state of the epoch before
            self._write_state(self.log, self.why)
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

"""The course of a run: its log, what an epoch begins with, and when to stop."""

import math
import time

import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

from common import devices
from common.files import whole_file

MONITORED = ("dice", "iou")


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
        """Multiplier of the learning rate after the epochs so far, by a fresh `schedules.Controller`."""
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


class Course(keras.callbacks.Callback):
    """Sets what an epoch needs, keeps the log and decides when to stop.

    Args:
        log: Log of the epochs so far.
        training: batches, told the epoch.
        rate: function of the number of the epoch, from 0, and the log to the learning rate.
        seed: of the drop-out and noise layers.
        epochs: how many the run has.
        early_stop: epochs without a new best that end it; 0: never.
        max_minutes: stop before an epoch that would end later than this; None: never.
        agree: function of a value to that of the first of several processes, whose clocks differ.

    Attributes:
        why: why training is over, as text, or None.
        failed: whether it is over since it went wrong.
    """

    def __init__(self, log, training, rate, seed, epochs, early_stop=0, max_minutes=None, agree=lambda value: value):
        super().__init__()
        self.log, self.training, self.rate, self.seed = log, training, rate, seed
        self.epochs, self.early_stop, self.max_minutes, self.agree = epochs, early_stop, max_minutes, agree
        self.last_moment = time.monotonic() + 60 * max_minutes if max_minutes else math.inf
        self.longest = 0.0
        self.why, self.failed = log.reason_to_stop(epochs, early_stop), False

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
        if batch == 0:
            devices.hold_memory()  # again: TensorFlow lets go of it when it begins to take batches from Python
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
        now = time.monotonic()
        row["seconds"] = round(now - self.epoch_started, 3)
        self.log.rows.append(row)
        self.longest = max(self.longest, now - self.epoch_started)
        self.why = self.log.reason_to_stop(self.epochs, self.early_stop)
        if not self.why and self.max_minutes and self.agree(now + self.longest > self.last_moment):
            self.why = f"another epoch would end after {self.max_minutes:g} minutes"
        self.model.stop_training = self.why is not None

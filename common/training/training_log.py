"""The log of a training: a row for each epoch, and what is computed from the rows."""

import math
import os

from common.errors import InputError
from common.files import whole_file
from common.system_errors import why_unreadable
from common.words import number_of

MONITORED = ("dice", "iou")  # validation metrics; a run keeps its best model for each


class Log:
    """Rows of `training_log.csv`, one per epoch, and values computed from them.

    All decisions of a run (best scores, learning-rate controller, early stop) depend on these rows only. So a resumed
    run makes the same decisions as an uninterrupted one.

    Attributes:
        rows: list of dicts: "epoch" from 1, "learning_rate", "seconds", each metric, and each metric with "val_".
    """

    def __init__(self, rows=()):
        self.rows = list(rows)

    @classmethod
    def read(cls, path, epochs=None):
        """Read the first `epochs` rows of a file (None: all), exactly as written.

        Returns:
            Log; empty if the file is missing.

        Raises:
            InputError: if the file is damaged.
        """
        if epochs == 0 or not os.path.lexists(path):
            return cls()
        if not path.is_file():
            raise InputError(f"{path}: {why_unreadable(path)}; restore it from a copy")
        import pandas as pd  # takes half a second to load, and most readers of a run folder need no log

        try:
            with open(path, "rb") as file:  # pandas takes a folder called "http:" for an address
                rows = pd.read_csv(file, dtype=str).head(epochs).to_dict("records")
            return cls([{name: _number(name, text) for name, text in row.items()} for row in rows])
        except ValueError as error:
            raise InputError(f"{path}: damaged ({error}); restore it from a copy") from None

    def write(self, path):
        """Write the file, completely or not at all."""
        import pandas as pd  # see `read`

        with whole_file(path) as unfinished, open(unfinished, "w", encoding="utf-8", newline="") as file:
            pd.DataFrame(self.rows).to_csv(file, index=False)

    def __len__(self):
        return len(self.rows)

    @property
    def minutes(self):
        """Minutes that the epochs took."""
        return sum(row["seconds"] for row in self.rows) / 60

    def best(self, metric):
        """(score, epoch) of the best epoch by a validation metric, the earliest if equal; (-inf, 0) if empty.

        While the score is 0, the soft score counts: it shows which epoch is closest to a pixel above 0.5.
        """
        rows = self.rows if self.has_validation else []
        (score, _), epoch = max(
            ((_rank(row, metric), -row["epoch"]) for row in rows if math.isfinite(row[f"val_{metric}"])),
            default=(NO_RANK, 0),
        )
        return score, -epoch

    @property
    def has_validation(self):
        """Whether its epochs were validated; True for an empty log."""
        return not self.rows or any(name.startswith("val_") for name in self.rows[-1])

    def missing_columns(self, has_validation):
        """Columns that every training writes, with or without validation, and the rows lack; [] without rows."""
        scores = ["loss", "dice", "iou"]
        needed = [*scores, *(f"val_{name}" for name in scores if has_validation), "learning_rate", "seconds"]
        return [name for name in needed if self.rows and name not in self.rows[0]]

    def best_in_words(self):
        """The best epoch by Dice, as text."""
        score, epoch = self.best("dice")
        if not self.has_validation:
            return "no validation set, so the model of the last epoch counts"
        return f"best validation Dice {score:.4f} (epoch {epoch})"

    def is_best(self, metric):
        """Whether the last epoch is the best one."""
        return self.best(metric)[1] == len(self.rows)

    def reason_to_stop(self, epochs, early_stop):
        """Why training is over, as text: all epochs finished, or no new best in `early_stop` epochs; else None.

        Args:
            epochs: number of epochs in the run; None: not known yet.
            early_stop: setting EARLY_STOP.
        """
        since_best = len(self.rows) - max(self.best(metric)[1] for metric in MONITORED)
        if epochs and len(self.rows) >= epochs:
            return "finished 1 epoch" if epochs == 1 else f"finished all {epochs} epochs"
        if early_stop and since_best >= early_stop:
            return f"stopped early, no new best Dice or IoU in {number_of(early_stop, 'epoch')}"
        return None

    def multiplier(self, controller):
        """Learning-rate multiplier after these epochs, from a new `common.training.optimizer.Controller`.

        A new best Dice or IoU counts.
        """
        best = dict.fromkeys(MONITORED, NO_RANK)
        for row in self.rows:
            better = {metric: rank for metric in MONITORED if (rank := _rank(row, metric)) > best[metric]}
            best |= better
            controller.update(bool(better))
        return controller.multiplier


NO_RANK = (-math.inf, 0)  # before the first epoch


def _rank(row, metric):
    """How good an epoch is by a validation metric: its score and, while this is 0, its soft score."""
    score = row[f"val_{metric}"]
    return (score, 0 if score else row.get(f"val_soft_{metric}", 0)) if math.isfinite(score) else NO_RANK


def _number(name, text):
    return int(text) if name == "epoch" else float(text)

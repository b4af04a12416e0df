"""The run folder of train.py: the only module that knows the names of its files."""

import math
import os
import re
from pathlib import Path

from common.errors import InputError
from common.files import UNFINISHED, file_digest, read_json, remove, write_json
from common.records import read_fields, read_record
from common.settings import REASONS
from common.training.run_records import Calibration, RunSettings, SliceData, State
from common.training.training_log import MONITORED, Log

CHECKPOINTS = ("best_dice", "best_iou", "last")  # the best models and the last one
LARGEST_SUMMARY = 2**22  # characters of model_summary.txt to read
MEASURED = "as many as fit into MAX_MINUTES, measured over two epochs"  # the reason for EPOCHS


class ResultFolder(os.PathLike):
    """A folder that train.py fills, complete or not.

    Args:
        folder: path of the folder; nothing is read or checked yet.

    Attributes:
        folder: Path. Attributes that end in _file or _folder are Paths inside it, which may not exist.
    """

    settings_name = "settings.json"

    def __init__(self, folder):
        self.folder = Path(folder)
        self.settings_file = self.folder / self.settings_name

    def __fspath__(self):
        return str(self.folder)

    __str__ = __fspath__

    @property
    def name(self):
        return self.folder.name

    @property
    def exists(self):
        """Whether the folder is one of its kind."""
        return self.settings_file.is_file()


# --- one run


class Run(ResultFolder):
    """A run folder of train.py; also the folder of a single .keras file."""

    def __init__(self, folder):
        super().__init__(folder)
        folder = self.folder
        self.state_file = folder / "state.json"
        self.log_file = folder / "training_log.csv"
        self.calibration_file = folder / "calibration.json"
        self.environment_file = folder / "environment.txt"
        self.averaged_file = folder / "averaged.keras"  # without validation: the average of the weights
        self.code_folder = folder / "code"
        self.tensorboard_folder = folder / "tensorboard"
        self.summary_file = folder / "model_summary.txt"
        self.diagram_file = folder / "network.png"
        self.curves_file = folder / "curves.png"
        self.augmented_file = folder / "augmented_slices.png"
        self.examples_file = folder / "validation_slices.png"
        self.report_file = folder / "report.html"
        self.scores_folder = folder / "scores"  # if evaluate.py was told to write there
        self.progress_folder = folder / "progress"  # the same validation slices in the course of the epochs
        self.validation_list_file = folder / "validation.csv"  # validation slices of a fold
        self.predicted_folder = folder / "predicted"  # temporary: their predicted masks

    @property
    def has_ended(self):
        """Whether training has ended and the run folder is complete."""
        return bool(self.state.get("ended")) and (self.examples_file.is_file() or not self.has_validation)

    @property
    def has_validation(self):
        """Whether it has a validation set, and so a best epoch; if not, the model of the last epoch counts."""
        return self.settings.get("VALIDATION") != ""

    @property
    def settings(self):
        """dict of the settings in force; empty if unknown. Raises InputError if damaged."""
        found = self._read(self.settings_file, RunSettings)
        return {name: value for name, value in found.items() if name not in (REASONS, "format")}

    @property
    def reasons(self):
        """dict of setting to the reason for its value; empty if unknown. Raises InputError if damaged."""
        return self._read(self.settings_file, RunSettings).get(REASONS) or {}

    @property
    def state(self):
        """dict of state.json; empty before the first epoch ends. Raises InputError if damaged."""
        return self._read(self.state_file, State)

    @staticmethod
    def _read(path, kind):
        """Content of a record as a dict; empty if the file is missing."""
        return read_fields(path, kind) if os.path.lexists(path) else {}

    @property
    def data(self):
        """SliceData or VolumeData of the training set; an empty SliceData if unknown."""
        return (read_record(self.state_file, State).data if os.path.lexists(self.state_file) else None) or SliceData()

    def class_names(self, data):
        """Names of the classes from 1 up, as a list of str; [] if they have none.

        Args:
            data: SliceData or VolumeData of the training set.
        """
        return self.settings.get("CLASS_NAMES") or [str(label) for label in getattr(data, "labels", None) or []]

    @property
    def validation_set(self):
        """Path of the validation set, as text. Raises InputError if the run does not record it."""
        path = self.settings.get("VALIDATION")
        if path == "":
            raise InputError(f"{self}: trained without a validation set; choose a run that has one")
        if not path:
            raise InputError(f"{self.settings_file}: VALIDATION: missing; train again to record the validation set")
        return path

    @property
    def crop(self):
        """Size in voxels (up, back, left) of the crops it was trained on; None: whole volumes, or slices."""
        return self.settings.get("CROP")

    @property
    def minutes_left(self):
        """Minutes of MAX_MINUTES that the epochs so far have left, for a process that resumes it; None: no limit."""
        minutes = self.settings.get("MAX_MINUTES")
        return max(minutes - self.log.minutes, 1e-3) if minutes else None

    @property
    def turns(self):
        """Whether training showed slices in all orientations: flipped in both directions and turned."""
        augmentation = self.settings.get("AUGMENTATION")
        known = augmentation if isinstance(augmentation, dict) else {}
        return known.get("flip") == "horizontal_and_vertical" and bool(known.get("turn"))

    @property
    def environment(self):
        """Text about versions and machine."""
        return self.environment_file.read_text(encoding="utf-8")

    @property
    def parameters(self):
        """Number of parameters of the network, as model_summary.txt counts them; None if unknown."""
        if not self.summary_file.is_file():
            return None
        with open(self.summary_file, encoding="utf-8", errors="replace") as file:
            text = file.read(LARGEST_SUMMARY)
        counts = re.findall(r"^ *(?:Non-t|T)rainable params: ([\d,]{1,20}) ", text, re.M)
        return sum(int(count.replace(",", "")) for count in counts) if len(counts) == 2 else None

    @property
    def log(self):
        """Log of all epochs; empty before the first one ends. Raises InputError if damaged."""
        return Log.read(self.log_file)

    def best_row(self):
        """Row of the log, a dict, of the epoch with the best validation Dice.

        Raises:
            InputError: if there is none, or the log is damaged.
        """
        log = self.log
        needed = "epoch", "val_dice", "val_iou", "val_loss", "seconds"
        if missing := [name for name in needed if log.rows and name not in log.rows[0]]:
            raise InputError(f"{self.log_file}: no column {missing[0]}; restore it from a copy")
        _, epoch = log.best("dice")
        row = next((row for row in log.rows if row["epoch"] == epoch), None)
        if row is None:
            raise InputError(f"{self.log_file}: no validated epoch; finish this training first")
        return row

    # --- its models

    def model_file(self, which):
        """Path of the .keras file for a name in CHECKPOINTS, whether it exists or not."""
        return self.folder / f"{which}.keras"

    def find_models(self):
        """List the names in CHECKPOINTS whose files exist."""
        return [which for which in CHECKPOINTS if self.model_file(which).is_file()]

    @property
    def final_file(self):
        """Path of the model of a run without a validation set: the average of its weights, or its last epoch."""
        return self.averaged_file if self.averaged_file.is_file() else self.model_file("last")

    def score(self, file):
        """Best score for which a .keras file was kept; None for "last", or if unknown."""
        return (self.state.get(file.stem) or {}).get("score")

    def validation_metrics(self, file):
        """Validation metrics by name, in the epoch of a .keras file; None if unknown.

        Raises:
            InputError: if the log is damaged.
        """
        state = self.state
        epoch = (state.get(file.stem) or state).get("epoch")
        if epoch is None or not self.log_file.is_file():
            return None
        try:
            row = next(row for row in reversed(self.log.rows) if row["epoch"] == epoch)
        except (InputError, KeyError, StopIteration):
            raise InputError(f"{self.log_file}: damaged, or without epoch {epoch}; restore it from a copy") from None
        metrics = {name.removeprefix("val_"): value for name, value in row.items() if name.startswith("val_")}
        return {name: round(value, 5) for name, value in metrics.items() if not math.isnan(value)}

    def calibration_of(self, file):
        """`Calibration` of a .keras file; None if this very file has none. Raises InputError if damaged."""
        if not self.calibration_file.is_file():
            return None
        calibration = read_record(self.calibration_file, Calibration)
        return calibration if calibration.model == file_digest(file) else None

    def strip_file(self, epoch):
        """Path of the validation slices of an epoch, which may not exist."""
        return self.progress_folder / f"epoch-{epoch:05d}.jpg"

    def strips(self):
        """Files of `strip_file`: dict of epoch to Path, sorted."""
        found = (re.fullmatch(r"epoch-(\d+)\.jpg", path.name) for path in self.progress_folder.glob("epoch-*.jpg"))
        return {epoch: self.strip_file(epoch) for epoch in sorted(int(match[1]) for match in found if match)}

    # --- writing

    def record_epochs(self, epochs):
        """Record the measured number of epochs in settings.json."""
        settings = read_json(self.settings_file)
        reasons = settings.get(REASONS, {}) | {"EPOCHS": MEASURED}
        write_json(self.settings_file, settings | {"EPOCHS": epochs, REASONS: reasons})

    def remove_unfinished(self):
        """Remove what a killed process left; call only while no other one can write."""
        for folder in (self.folder, self.progress_folder):
            for path in folder.glob(f"{UNFINISHED}*"):
                remove(path)

    def write_state(self, log, epochs, ended, time, data, advice):
        """Write state.json.

        Args:
            log: Log.
            epochs: number of epochs in the run; None: not known yet.
            ended: why training ended, as text; None while it continues.
            time: result of `common.training.timing.Timer.table`.
            data: SliceData or VolumeData of the training set.
            advice: dict of a rule of `common.training.advice` to its sentence.
        """
        best = {f"best_{metric}": dict(zip(("score", "epoch"), log.best(metric), strict=True)) for metric in MONITORED}
        best = best if log.has_validation else {}
        state = {"epoch": len(log), "epochs": epochs, "ended": ended, "time": time, "advice": advice}
        write_json(self.state_file, {"format": 1} | state | best | {"data": data.model_dump(mode="json")})


def runs_in(folder):
    """Runs in a folder, sorted by name; names start with the date."""
    return [Run(path.parent) for path in sorted(Path(folder).glob("[!.]*/settings.json"))]

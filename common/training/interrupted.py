"""What an interrupted run_pipeline.py had begun, so that the next call in the same WORK continues it."""

import hashlib
import json
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from common.files import real_path
from common.records import Record, read_record
from common.settings import Settings, read_settings
from common.slices.packed import content_digest
from common.training.run_folder import Run
from common.training.trained_models import CrossValidation

RECORD = "pipeline.json"  # in WORK
SETS = ("train.h5", "validation.h5")
PATHS = ("TRAIN", "VALIDATION", "RUN")  # settings of train.py


class BegunTraining(BaseModel):
    """A training that was begun.

    Attributes:
        identity: see `identity_of`.
        before: names in the folder of the run folders before it; its own folder is none of them.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    identity: str
    before: list[str]


class BegunSteps(Record):
    """Content of pipeline.json, which is in WORK until all steps are done.

    Attributes:
        plans: dict of the word for a training to the `identity_of` the sets and time that it was planned for.
        trainings: dict of the word for a training to BegunTraining.
    """

    REMEDY = "remove it to train from the start"

    format: Literal[1] = 1
    plans: dict[str, str] = Field(default_factory=dict)
    trainings: dict[str, BegunTraining] = Field(default_factory=dict)


class Begun:
    """What was begun in WORK and has not been finished; a word such as "final training" identifies a training.

    Args:
        work: Path of WORK, which the caller has claimed.

    Raises:
        InputError: if its record is damaged.
    """

    def __init__(self, work):
        self.runs, self.file = work / "runs", work / RECORD
        self.steps = read_record(self.file, BegunSteps) if os.path.lexists(self.file) else BegunSteps()

    def is_planned(self, step, packed, minutes):
        """Whether plan.json, in the folder `packed`, was made for the same sets and time."""
        return (packed / "plan.json").is_file() and self.steps.plans.get(step) == identity_of(packed, minutes)

    def planned(self, step, packed, minutes):
        """Record that plan.json was made; the sets must not have changed since."""
        self._record(plans=self.steps.plans | {step: identity_of(packed, minutes)})

    def find_run(self, step, settings):
        """Find the training that an interrupted pipeline began with the same sets and settings.

        Args:
            step: word for the training.
            settings: result of `settings_of_training`.

        Returns:
            Run or CrossValidation; None if there is none. If the sets or settings have changed, a line is printed.
        """
        begun = self.steps.trainings.get(step)
        if begun is None:
            return None
        if begun.identity != identity_of_training(settings):
            print(f"restarting the {step}: its data or settings have changed since it was interrupted", flush=True)
            return None
        kind = CrossValidation if settings["FOLD"] == "all" else Run
        new = [kind(path) for path in self._folders() if path.name not in begun.before]
        return next((run for run in new if run.exists and run.settings.get("TRAIN") == settings["TRAIN"]), None)

    def begin(self, step, settings):
        """Record that a training begins; arguments as in `find_run`."""
        before = [path.name for path in self._folders()]
        begun = BegunTraining(identity=identity_of_training(settings), before=before)
        self._record(trainings=self.steps.trainings | {step: begun})

    def end(self):
        """Remove the record, since all steps are done."""
        self.file.unlink(missing_ok=True)

    def _folders(self):
        return sorted(self.runs.glob("[!.]*"))

    def _record(self, **changes):
        self.steps = self.steps.model_copy(update=changes)
        self.steps.write_to(self.file)


def is_complete(run):
    """Whether a Run or CrossValidation has ended and its folder is complete.

    A run without a validation set is not: nothing shows that its last files were written, and that takes a moment.
    """
    if isinstance(run, CrossValidation):
        return run.folds_file.is_file()
    return run.has_ended and run.has_validation


def settings_to_resume(run):
    """Settings of train.py that continue a Run, within the minutes it has left, or a CrossValidation."""
    own = {"FOLD": "all"} if isinstance(run, CrossValidation) else {"MAX_MINUTES": run.minutes_left}
    return {"MODE": "resume", "RUN": run} | own


def with_whole_paths(values):
    """Settings of train.py with absolute paths, so that the run can be continued from any working folder.

    Args:
        values: dict of setting name to value.
    """
    return values | {name: real_path(values[name]) for name in PATHS if values.get(name)}


def settings_of_training(plan, values):
    """All settings of train.py for a training, as a dict for JSON: its constants, those of a plan, and others.

    RUNS is left out, since it is always in WORK.

    Args:
        plan: path of plan.json, or None.
        values: dict of setting name to value.
    """
    found = Settings.of("train.py", **(read_settings(plan) if plan else {}) | values).as_json()
    return {name: value for name, value in found.items() if name != "RUNS"}


def identity_of_training(settings):
    """`identity_of` the sets and settings of a training; arguments as in `Begun.find_run`."""
    return identity_of(Path(settings["TRAIN"]).parent, settings)


def identity_of(packed, value):
    """Digest of the contents of the sets of training and validation in a folder and its folds, and of a JSON value."""
    files = [path for name in SETS for path in sorted(packed.rglob(name))]
    sets = {path.relative_to(packed).as_posix(): content_digest(path) for path in files}
    return hashlib.sha256(json.dumps([sets, value]).encode()).hexdigest()

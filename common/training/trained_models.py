"""Trained models: find them from RUN, learn how their training images were made, and load them."""

import os
import zipfile
from pathlib import Path
from typing import NamedTuple

from common.errors import InputError, as_input_error
from common.files import natural_key, real_path
from common.records import read_fields, read_record
from common.system_errors import raise_system_error
from common.training.calibration import flips_of
from common.training.h5_models import is_h5, load_h5
from common.training.keras_files import require_safe
from common.training.run_folder import CHECKPOINTS, ResultFolder, Run, runs_in
from common.training.run_records import ChoiceFile, CrossValidationSettings, SliceData, VolumeData
from common.training.trust import own_files, trusted_copy
from common.words import number_of

FIT_OF_IMPORT = {"tile": "tile", "crop": "tile", "pad": "pad"}  # importer's fit to FIT of predict.py; others: "resize"
# Must match in models for volumes that are averaged.
SAME = ("step", "labels", "channels", "spacing", "smallest_side", "voxels", "intensity")


def newest_run(folder):
    """The newest run that has a model in a folder of runs; for any other folder, the folder itself."""
    runs = [] if Run(folder).exists else runs_in(folder)
    return max(runs, key=lambda run: (bool(run.find_models()), run.name), default=Run(folder))


def model_file(run, which="best_dice"):
    """Find a trained model.

    Args:
        run: run folder of train.py; a folder of run folders, to use the newest; a .keras file; or an .h5 file of
            Keras 2, see `common.training.h5_models`.
        which: name in CHECKPOINTS, for a run folder; without a validation set, there is one model for all names.

    Returns:
        Path of the .keras or .h5 file.

    Raises:
        InputError: if there is no model, or it is not a .keras file.
    """
    if not str(run):
        raise InputError("RUN: not set; pass --run a run folder of train.py or a .keras file")
    path = Path(run)
    if not path.exists():
        raise InputError(f"{path}: does not exist; pass --run a run folder of train.py or a .keras file")
    if path.is_dir():
        run = newest_run(path)
        existing = run.find_models()
        if not existing:
            missing = ", ".join(f"{name}.keras" for name in CHECKPOINTS)
            raise InputError(f"{run}: no trained model (found none of {missing}); choose a run folder of train.py")
        if which not in existing and not run.has_validation:
            return model_file(run.final_file)
        if which not in existing:
            raise InputError(f"{run}: no {which}.keras (found {' and '.join(existing)}); choose one that exists")
        path = run.model_file(which)
    if not path.is_file():  # a pipe: opening it would wait for its writer
        raise InputError(f"{path}: not a regular file; pass --run a run folder of train.py or a .keras file")
    if is_h5(path):
        return path
    if path.suffix != ".keras":
        raise InputError(f"{path}: not a .keras file; pass --run a run folder of train.py or a .keras file")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: damaged or cut short (not as Keras writes it); pass --run another model")
    return path


def load_network(path):
    """Load a trained model, uncompiled.

    Args:
        path: .keras file, or .h5 file of Keras 2.

    Returns:
        keras.Model in the precision of its training.

    Raises:
        InputError: if the file is damaged, or contains an unknown layer; if the run has code that is not trusted.
    """
    if is_h5(path):
        return load_h5(path)
    import keras  # takes seconds, and scripts check their input first

    import models  # registers its layers with Keras

    run = Run(Path(path).parent)
    for own in own_files(run.settings.get("MODEL", "")):  # it may have its own layers: the run keeps a copy
        copy = trusted_copy(run.code_folder, own, "MODEL")
        with as_input_error(path):
            models.find_network(str(copy))
    try:
        require_safe(path, compiled=False)
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except InputError:
        raise
    except Exception as error:  # Keras, HDF5 or a layer can raise anything
        raise_system_error(error, path)
        reason = next(filter(None, str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"{path}: cannot be loaded ({reason})\n"
            "  It is damaged, or contains a layer of your own without @keras.saving.register_keras_serializable()."
        ) from error


def take_weights(model, other, source):
    """Copy weights between layers with the same name and shapes, and print which layers were loaded.

    Args:
        model: keras.Model to copy to.
        other: keras.Model to copy from.
        source: source of the other model, for messages.

    Raises:
        InputError: if no layer matches.
    """
    theirs = {layer.name: layer.get_weights() for layer in other.layers}
    taken, left = 0, []
    for layer in model.layers:
        ours, weights = layer.get_weights(), theirs.get(layer.name, [])
        if not ours:
            continue
        if [w.shape for w in ours] == [w.shape for w in weights]:
            layer.set_weights(weights)
            taken += 1
        else:
            left.append(layer.name)
    if not taken:
        raise InputError(f"{source}: no layer matches {model.name}; retrain from a run of the same architecture")
    loaded = f"loaded {number_of(taken, 'layer')} from {source}"
    print(loaded + (f"; not in {source}: {', '.join(left)}" if left else ""))


def recorded_shape(file):
    """(slice side, input channels, output channels, whether classes overlap) of a model, as recorded in its run.

    Returns:
        None if the run did not record them, or the file is damaged: then load the model to find out.
    """
    data = Run(Path(file).parent).data
    if is_h5(file) or not isinstance(data, SliceData) or None in (data.size, data.classes, data.inputs):
        return None
    with zipfile.ZipFile(file) as archive:
        if archive.testzip():
            return None
    overlapping = bool(data.overlap)
    return data.size, data.inputs, data.classes + (data.classes > 1 and not overlapping), overlapping


def names_of_classes(file, classes):
    """Names of the classes from 1 up, as the run of a .keras file records them; otherwise "class 1" and so on."""
    run = Run(Path(file).parent)
    names = run.class_names(run.data)
    if len(names) != classes:
        names = [f"class {number}" for number in range(1, classes + 1)] if classes > 1 else ["mask"]
    return names


# --- cross-validations


class Choice(NamedTuple):
    """How predict.py averages models.

    Attributes:
        files: list of Paths of the .keras files to average.
        flips: name in `common.prediction.ensemble.TRANSFORMS`.
        clean: dict of arguments for `common.slices.masks.clean`.
        threshold: probability above which a pixel is foreground, chosen out of fold; None: not chosen.
    """

    files: list
    flips: str
    clean: dict
    threshold: float | None = None


class CrossValidation(ResultFolder):
    """Folder of a cross-validation: a run for each fold, and out-of-fold predictions of every case."""

    settings_name = "cross_validation.json"

    def __init__(self, folder):
        super().__init__(folder)
        folder = self.folder
        self.choice_file = folder / "choice.json"
        self.combinations_file = folder / "choice.csv"
        self.folds_file = folder / "folds.csv"
        self.validation_list_file = folder / "validation.csv"
        self.predicted_folder = folder / "out_of_fold"
        self.truth_folder = folder / "truth"  # true labels of packed volumes, on the same grids
        self.scores_folder = folder / "scores"

    @property
    def settings(self):
        """dict of the train.py settings that all folds share; raises InputError if damaged."""
        return read_fields(self.settings_file, CrossValidationSettings)

    def fold(self, number):
        """Run of a fold, whether it exists or not."""
        return Run(self.folder / f"fold{number}")

    def runs(self):
        """Runs of the folds, in order.

        Raises:
            InputError: if no fold has been trained.
        """
        runs = [run for run in runs_in(self.folder) if run.name.startswith("fold")]
        if not runs:
            raise InputError(f"{self}: no trained fold; run python train.py --fold all --mode resume --run {self}")
        return sorted(runs, key=lambda run: natural_key(run.name))

    @property
    def choice(self):
        """Choice made by choose.py; by default, the best model of every fold.

        Raises:
            InputError: if it is damaged, or a model is missing.
        """
        choice = read_record(self.choice_file, ChoiceFile) if self.choice_file.is_file() else ChoiceFile()
        others = [(CrossValidation(real_path(self.folder / other)), which) for other, which in choice.networks]
        files = [model_file(run, which) for other, which in others for run in other.runs()]
        return Choice(files, choice.flips, dict(choice.clean), choice.threshold)

    def write_choice(self, networks, flips, clean, threshold=None):
        """Write choice.json.

        Args:
            networks: list of (cross-validation folder, name in CHECKPOINTS); written relative to this folder.
            flips, clean, threshold: see Choice.
        """
        networks = [[os.path.relpath(folder, self.folder), which] for folder, which in networks]
        choice = ChoiceFile(networks=networks, flips=flips, clean=clean, threshold=threshold)
        choice.write_to(self.choice_file)


# --- models for slices


def find_models(runs, which):
    """Find models to average, with flips and cleaning.

    Args:
        runs: list of run folders, folders of runs or .keras files; or one cross-validation.
        which: name in CHECKPOINTS, for run folders.

    Returns:
        Choice.

    Raises:
        InputError: if one is missing, or a cross-validation is not the only one.
    """
    choices = [CrossValidation(run).choice for run in runs if run and CrossValidation(run).exists]
    if choices and len(runs) > 1:
        raise InputError("RUN: a cross-validation cannot be combined with others; to average several, use choose.py")
    if choices:
        return choices[0]
    files = [model_file(run, which) for run in runs]
    return Choice(files, flips_of(files), {})


class Preparation(NamedTuple):
    """How the slices of a training set were made from their sources; None if unknown.

    Attributes:
        fit: the matching value of FIT in predict.py: "resize", "tile" or "pad".
        window, plane, resampled, stretched, channels, neighbors, inputs, spacing, overlap: see
            `common.training.run_folder.SliceData`; models may differ in spacing, and the first one's is used.
    """

    fit: str | None
    window: list | None
    plane: str | None
    resampled: list | None
    stretched: bool | None
    channels: str | list | None
    neighbors: int | None
    inputs: int | None
    spacing: list | None
    overlap: str | None

    @property
    def channels_to_read(self):
        """How `common.slices.channels.read_with_channels` reads an image; "stored": all channels of its file."""
        if self.channels or self.inputs in (None, 1):
            return self.channels or "gray"
        return "rgb" if self.inputs == 3 and not self.neighbors else "stored"


def slice_preparation(files, decided=()):
    """How the training slices of models were made.

    Args:
        files: list of Paths of .keras files.
        decided: fields of Preparation in which runs may differ, since a setting decides them.

    Returns:
        Preparation.

    Raises:
        InputError: if the runs differ in other fields.
    """
    data = [Run(file.parent).data for file in files]
    prepared = {}
    for name in Preparation._fields:
        values = [getattr(one, name, None) for one in data]
        if name == "fit":
            values = [value and FIT_OF_IMPORT.get(value, "resize") for value in values]
        known = [value for value in values if value not in (None, "")]
        prepared[name] = known[0] if known else None
        if name not in (*decided, "spacing") and any(value != known[0] for value in known):
            kinds = " and ".join(dict.fromkeys(map(str, known)))
            raise InputError(
                f"RUN: the runs were trained on different slices ({name} is {kinds}); predict with one run at a time"
            )
    return Preparation(**prepared)


# --- models for volumes


class VolumeModels(NamedTuple):
    """Models trained on the same step of packed volumes, to be averaged.

    Attributes:
        files: list of Paths of the .keras files.
        data: `common.training.run_folder.VolumeData`.
        crop: size in voxels (up, back, left) of their training crops, or None.
        flips, clean, threshold: as in Choice.
    """

    files: list
    data: VolumeData
    crop: list | None
    flips: str = "none"
    clean: dict | None = None
    threshold: float | None = None


def find_volume_models(runs, which):
    """Find models for volumes in runs.

    Args:
        runs: list of run folders, cross-validations, or .keras files in run folders.
        which: name in CHECKPOINTS.

    Returns:
        dict of step to VolumeModels; None for runs of slices.

    Raises:
        InputError: if the runs mix slices and volumes, differ, or cannot be combined.
    """
    choices = {}  # by file
    for run in filter(None, runs):
        folds = CrossValidation(run)
        choice = folds.choice if folds.exists else Choice([model_file(run, which)], "none", {})
        choices |= dict.fromkeys(choice.files, choice)
    files = list(choices)
    of_volumes = [file for file in files if isinstance(Run(file.parent).data, VolumeData)]
    if not of_volumes:
        return None
    if len(of_volumes) < len(files):
        of_slices = next(file for file in files if file not in of_volumes)
        raise InputError(f"RUN: cannot combine slices and volumes ({of_slices} was trained on slices); pass one kind")
    steps = {}
    for file in files:
        run = Run(file.parent)
        first = steps.setdefault(run.data.step, VolumeModels([], run.data, run.crop, *choices[file][1:]))
        differences = [(name, getattr(run.data, name), getattr(first.data, name)) for name in SAME]
        for name, ours, theirs in [*differences, ("crop", run.crop, first.crop)]:
            if ours != theirs:
                raise InputError(
                    f"{file}: {name} differs from {first.files[0]} ({ours} and {theirs}); "
                    "average only models trained with the same settings"
                )
        first.files.append(file)
    if "single" in steps and len(steps) > 1:
        raise InputError(
            'RUN: cannot combine a model of step "single" with others; pass it alone, or "whole" and "patch"'
        )
    return steps

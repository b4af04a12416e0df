"""Predict volumes by the settings of predict.py, in this process or in workers, and write what belongs to them."""

import functools
import os
import pickle
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from common.devices import import_keras
from common.errors import InputError, SettingError, summarize
from common.files import unfinished_name
from common.parallel import progress
from common.prediction.inputs import GrayRange, refuse_same_output
from common.prediction.networks_in_workers import load_keras, surroundings
from common.prediction.out_of_fold import models_of_volumes
from common.prediction.outputs import make_dicom_labels, print_dicom, require_dicom, write_output, write_rows
from common.prediction.packed_volumes import is_packed, predict_packed
from common.prediction.precision import precision_without_trial
from common.prediction.probabilities import FOLDER as PROBABILITIES
from common.prediction.probabilities import write_volumes
from common.prediction.uncertainty import Uncertainty, moments_of_volume, write_cases_to_label
from common.prediction.viewer import FOLDER as VIEWERS
from common.prediction.viewer import Compressor, write_viewer
from common.prediction.viewer_files import ViewerFiles
from common.prediction.volume_networks import Options, Stage, Volume, last_stage, predict_labels
from common.prediction.volume_precision import choose_volume_precision
from common.replacing import refuse_existing
from common.settings import refuse_unused
from common.slices.classes import NESTED, are_sets, as_sets
from common.slices.drawing import CLASS_COLORS, draw_planes
from common.slices.images import window_to_gray, write_png
from common.slices.mask_files import MaskFiles
from common.training.calibration import DEFAULT, threshold_in_words, with_threshold
from common.volumes.channels import find_files
from common.volumes.grids import Geometry, orient
from common.volumes.intensity import percentiles_of
from common.volumes.labels import label_image, measure_labels, write_all
from common.volumes.privacy import safe_names, write_names_table
from common.volumes.slicing import PERCENTILES, spacing_of_plane
from common.words import number_of
from common.workers import start_workers

ONLY_SLICES = {"FIT": None, "PASTE": "", "PLANE": None, "WINDOW": None, "SPACING": None}  # settings without effect


def predict_with_settings(models, settings):
    """Predict the volumes of INPUT, write OUTPUT, and report failed volumes at the end.

    Args:
        models: result of `common.training.trained_models.find_volume_models`.
        settings: settings of predict.py.

    Raises:
        SettingError: for settings of slices.
        InputError: without volumes, or if any volume cannot be predicted.
    """
    check_settings(models, settings)
    if is_packed(settings.INPUT):
        return predict_packed(models, settings)
    refuse_existing(settings.OUTPUT, settings.REPLACE)
    volumes, further = find_files(settings.INPUT, settings.CHANNELS or last_stage(models).data.patterns)
    problems = []
    require_dicom(settings.DICOM_LABELS, volumes.values())
    names = safe_names(volumes, settings.NAMES)
    refuse_same_output(names, "INPUT")
    own = {names[name]: path for name, path in volumes.items()}
    last, used = last_stage(models), settings
    if settings.OUT_OF_FOLD and settings.THRESHOLD is None:
        used = settings.replace("a run's own was chosen on these volumes", THRESHOLD=DEFAULT)
    used = with_threshold(used, last.files, last.threshold)
    options = options_of(settings, last, used.THRESHOLD, further)
    flipped = (options.flips or last.flips) != "none"

    def fill(folder):
        import_keras()
        of_volumes = models_of_volumes(models, own) if settings.OUT_OF_FOLD else dict.fromkeys(own, models)
        steps = ", then ".join(f"{step} {len(of_step.files)}" for step, of_step in sorted(models.items())[::-1])
        print(
            f"predicting {number_of(len(own), 'volume')} (models: {steps}{', averaged over flips' * flipped}"
            f"{', each volume by those that did not train on it' * settings.OUT_OF_FOLD})",
            threshold_in_words(used),
            sep="\n",
            flush=True,
        )
        precision, reason = choose_volume_precision(partial(_stages_of, models), list(own.values()), options)
        facts["PRECISION"] = precision or "auto"
        if reason:
            print(f"precision {reason}", flush=True)
        with start_workers(settings.WORKERS) as workers:
            tried = options._replace(precision=facts["PRECISION"])
            problems.extend(predict_volumes(of_volumes, own, folder, tried, workers))

    facts = {"class_names": list(map(str, last.data.labels))}
    facts |= {key: value for key, value in (("overlap", last.data.sharing), ("regions", last.data.regions)) if value}
    write_output(used, fill, ["INPUT"], facts)
    write_names_table(settings.NAMES_TABLE, names, volumes)
    print(f"wrote {number_of(len(volumes) - len(problems), 'label volume')} to {settings.OUTPUT}")
    if problems:
        raise InputError(summarize(problems, "volumes cannot be predicted") + "\n  The other volumes were predicted.")


def check_settings(models, settings):
    """Check for settings of slices and missing volumes; arguments and errors as of `predict_with_settings`."""
    if settings.FLIPS == "turns":
        raise InputError('FLIPS: "turns" is not available for 3-D models; use "flips"')
    if settings.LABEL_ORDER != "likeliest" and (sharing := last_stage(models).data.sharing):
        raise InputError(f"LABEL_ORDER: {settings.LABEL_ORDER!r} is not for {sharing} labels; leave it at likeliest")
    refuse_unused(settings, ONLY_SLICES, "not for 3-D models")
    if settings.CHANNELS in ("gray", "rgb"):
        raise SettingError(f"CHANNELS: {settings.CHANNELS!r} is not for 3-D models; leave it at None")
    if is_packed(settings.INPUT):
        return
    if not settings.INPUT or not Path(settings.INPUT).exists():
        found = f"{settings.INPUT} does not exist" if settings.INPUT else "not set"
        raise InputError(f"INPUT: {found}; choose a volume, or a folder of volumes")


def options_of(settings, last, threshold, further):
    """Options by the settings of predict.py, models of the last step, the threshold in force and `further_channels`."""
    return Options(
        threshold,
        settings.OVERLAP,
        settings.TILE,
        settings.LABEL_VOLUMES or ".nii.gz",
        (last.clean or {}) if settings.CLEAN is None else settings.CLEAN,
        settings.OVERLAYS,
        settings.SERIES,
        settings.NOT_FINITE,
        DEFAULT if settings.THRESHOLD is None else settings.THRESHOLD,
        tuple(settings.DICOM_LABELS),
        settings.PROBABILITIES,
        tuple(settings.VIEWER_FILES),
        further,
        settings.FLIPS,
        settings.UNCERTAINTY,
        settings.LABEL_ORDER,
        settings.PRECISION,
    )


def predict_volumes(of_volumes, volumes, folder, options, workers):
    """Predict volumes and write label volumes on their own grids, and volumes.csv.

    Args:
        of_volumes: dict of safe volume name to its models, each as of `find_volume_models`, in the order to predict.
        volumes: dict of safe volume name to Path.
        folder: Path to write to.
        options: Options.
        workers: `common.workers.Threads` or Processes; processes predict a volume in each task.

    Returns:
        list of messages about volumes that cannot be predicted.

    Raises:
        InputError: if no volume can be predicted.
    """
    print_dicom(options.dicom_labels)
    aside, problems, rows, unsure = folder / unfinished_name("volumes"), [], [], []
    aside.mkdir()
    predict = partial(predict_volume, options=options, aside=aside, wanted=surroundings())
    items = [(name, volumes[name], models) for name, models in of_volumes.items()]
    predicted = workers.map_large(predict, items, problems)
    for name, result in zip(of_volumes, progress(predicted, len(items), "predicting"), strict=True):
        if result:
            own, measured, note, worth = result
            shutil.copytree(own, folder, dirs_exist_ok=True, copy_function=os.replace)
            rows += measured
            unsure += worth
            if note:
                print(f"{name}: {note}", flush=True)
    shutil.rmtree(aside)
    if not rows:
        raise InputError(summarize(problems, "volumes cannot be predicted"))
    order = list(volumes)
    write_rows(sorted(rows, key=lambda row: order.index(row["case"])), folder / "volumes.csv")
    if unsure:
        write_cases_to_label(folder, unsure)
    return problems


def predict_volume(item, options, aside, wanted):
    """Predict a volume, and write what belongs to it.

    Memory contains the volume, and the probabilities of one stage on its grid.

    Args:
        item: safe name and Path of the volume, and its models.
        options: as in `predict_volumes`.
        aside: Path of a folder to make a folder in.
        wanted: `common.prediction.networks_in_workers.Surroundings`.

    Returns:
        Path of the new folder with all files, rows of volumes.csv, a note for the user, or "", and rows of
        `Uncertainty.rows`.

    Raises:
        InputError: if it cannot be predicted.
    """
    load_keras(wanted)
    name, path, models = item
    stages = _stages_of(models, options)
    names = last_stage(stages).data.labels
    folder, texts = aside / unfinished_name(name), list(map(str, names))
    folder.mkdir()
    volume = Volume(path, options.series, options.not_finite, (options.further_channels or {}).get(path, ()))
    maps = Maps(folder, name, volume, last_stage(stages), options)
    labels, note = predict_labels(volume, stages, options, maps.write, maps.further)
    overlap = last_stage(stages).data.sharing
    write_all(labels, MaskFiles(texts, overlap), folder, name, options.ending)
    if overlap == NESTED:  # all classes of a voxel
        labels = label_image(as_sets(sitk.GetArrayFromImage(labels), overlap), Geometry.of(labels))
    if dicom := make_dicom_labels(folder, options.dicom_labels, {name: path}, options.series, names):
        dicom.write(name, labels)
    ViewerFiles(folder, options.viewer_files, names, overlap).add_volume(name, labels)
    measured = measure_labels(name, labels, len(names))
    if options.overlays:
        write_png(folder / "overlays" / f"{name}.png", draw_volume(volume, labels), atomic=False)
        view_volume(folder / VIEWERS / f"{name}.html", volume, labels, texts)
    rows = [row | {"label": label} for row, label in zip(measured, names, strict=True)]
    return folder, rows, note, maps.uncertainty.rows() if maps.uncertainty else []


class Maps:
    """Writes the probabilities of a volume, and how sure the models are, as far as options ask for them.

    Args:
        folder: Path.
        name: name of the volume.
        volume: Volume.
        stage: Stage that predicts the labels.
        options: Options.

    Attributes:
        further: as for `mean_probabilities`, or None.
        uncertainty: `common.prediction.uncertainty.Uncertainty`, or None.
    """

    def __init__(self, folder, name, volume, stage, options):
        self.folder, self.name, self.volume, self.options = folder, name, volume, options
        self.folders = MaskFiles(list(map(str, stage.data.labels)), "").folders
        self.further = self.uncertainty = None
        if options.uncertainty:
            self.further = partial(moments_of_volume, nested=bool(stage.data.sharing))
            self.uncertainty = Uncertainty(folder, len(stage.networks), bool(stage.data.sharing))

    def write(self, probabilities, grid):
        """Write what is known on a grid; arguments as of `keep` in `predict_labels`."""
        file, original = f"{self.name}{self.options.ending}", self.volume.original
        if self.options.probabilities:
            of_labels = probabilities[..., : len(self.folders)]
            write_volumes(self.folder / PROBABILITIES, self.folders, file, original, of_labels, grid)
        if self.uncertainty:
            corners = np.zeros((grid.size[2], 3))
            corners[:, 2] = np.arange(grid.size[2])
            levels = self.volume.geometry.to_voxels(grid.to_points(corners))[:, 2].round().astype(int)
            levels = levels.clip(0, self.volume.geometry.size[2] - 1)  # of a grid that extends beyond the volume
            images = [str(level + 1) for level in levels]
            maps = self.uncertainty.add_volume(self.name, probabilities, self.options.threshold, images)
            write_volumes(self.folder, list(maps), file, original, np.stack(list(maps.values()), axis=-1), grid)


def _stages_of(models, options):
    """dict of step to Stage, of models as of `find_volume_models`; the last ones stay loaded."""
    files = tuple((str(file), os.stat(file).st_mtime_ns) for of_step in models.values() for file in of_step.files)
    return _stages(pickle.dumps((models, options.tile, precision_without_trial(options.precision))), files)


@functools.lru_cache(maxsize=1)
def _stages(pickled, _files):
    """dict of step to Stage, from what they take, pickled; stays loaded, unless the files of the models change."""
    models, *options = pickle.loads(pickled)
    return {step: Stage(of_step, *options) for step, of_step in models.items()}


def draw_volume(volume, labels):
    """Draw three planes of a volume with outlines of its labels."""
    gray, numbers = map(sitk.GetArrayFromImage, (volume.channels[0], orient(labels)))
    return draw_planes(gray, [(numbers, CLASS_COLORS)], volume.geometry.spacing)


def view_volume(path, volume, labels, names):
    """Write the page of a volume: its axial slices with the labels, which have names from 1 up."""
    values, numbers = map(sitk.GetArrayFromImage, (volume.channels[0], orient(labels)))
    low, high = percentiles_of(values, PERCENTILES)
    gray_range = GrayRange.around(low, max(high, low + 1e-6), values.min(), values.max())
    compressor = Compressor(len(values))
    slices = []
    for plane, mask in zip(values, numbers, strict=True):
        slices.append(compressor.compress(window_to_gray(plane, gray_range.black, gray_range.white, 8), mask))
    spacing = spacing_of_plane(volume.geometry.spacing, "axial")
    write_viewer(path, slices, numbers.shape[1:], gray_range, spacing, names, are_sets(numbers))

"""Predict volumes with 3-D networks in one stage, or in two: find the region, then the labels in it."""

from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from common.devices import import_keras
from common.errors import InputError, SettingError, as_input_error, summarize
from common.jobs import Part
from common.parallel import progress
from common.prediction.inputs import GrayRange, refuse_same_output
from common.prediction.mask_files import MaskFiles
from common.prediction.outputs import fingerprint, make_dicom_labels, require_dicom, write_output, write_rows
from common.prediction.probabilities import write_volumes
from common.prediction.viewer import FOLDER as VIEWERS
from common.prediction.viewer import Compressor, write_viewer
from common.prediction.viewer_files import ViewerFiles
from common.prediction.volume_tiles import mean_probabilities
from common.replacing import refuse_existing
from common.slices.classes import NESTED, highest_class, sets_of_numbers
from common.slices.drawing import CLASS_COLORS, draw_planes
from common.slices.images import window_to_gray, write_png
from common.slices.masks import clean, keep_components
from common.training.calibration import DEFAULT, threshold_in_words, with_threshold
from common.training.trained_models import load_network
from common.volumes.channels import find_files
from common.volumes.grids import (
    Box,
    Geometry,
    at_spacing,
    box_on_grid,
    coarsening_factor,
    coarser,
    grid_of_box,
    grow_box,
    orient,
    require_room,
    smoothed_onto_grid,
    whole_box,
)
from common.volumes.intensity import percentiles_of, scales_of
from common.volumes.labels import label_image, measure_labels, write_labels
from common.volumes.privacy import safe_names, write_names_table
from common.volumes.reading import read_channels, read_further
from common.volumes.slicing import PERCENTILES, spacing_of_plane
from common.volumes.values import channels_on_grid
from common.words import number_of


class Stage:
    """Networks trained on the same step; their probabilities are averaged.

    Args:
        models: `common.training.trained_models.VolumeModels`.
        tile: tile size in voxels (up, back, left); None: the crop size of training, or whole volumes.
    """

    def __init__(self, models, tile):
        self.data, self.tile = models.data, tile or models.crop
        self.networks = [load_network(file) for file in models.files]

    def grid(self, geometry, box=None):
        """Grid of an oriented volume, or of a Box of its working grid, as in training."""
        grid = self.working_grid(geometry)
        grid = grid_of_box(grid, box) if box else grid
        return coarser(grid, coarsening_factor(grid, self.data.voxels))

    def working_grid(self, geometry):
        """Grid of a volume at the training spacing."""
        return at_spacing(geometry, self.data.spacing)

    def probabilities(self, volume, grid, overlap):
        """Probabilities on a grid, (S, H, W, K) float32."""
        require_room(grid, f"{volume.path}: too large at the spacing of training", "crop it")
        image = np.empty((*grid.shape, len(volume.channels)), np.float32)
        for i, (scale, channel) in enumerate(zip(volume.scales(self), volume.channels, strict=True)):
            image[..., i] = scale.apply(smoothed_onto_grid(channel, grid))
        return mean_probabilities(self.networks, image, self.data.voxels, self.tile, overlap)


class Volume:
    """A volume to predict: its channels, oriented as in training, and its original geometry.

    Args:
        path: Path.
        series, not_finite: as for `common.volumes.reading.read_volume`.
        further: Paths of channels in other files.

    Raises:
        InputError: if it cannot be read, or its channels have different grids.
    """

    def __init__(self, path, series=None, not_finite=None, further=()):
        channels = read_channels(path, series, not_finite)
        channels += read_further(further, channels[0], path, not_finite=not_finite)
        self.path, self.original = path, Geometry.of(channels[0])
        self.channels = [orient(channel) for channel in channels]
        self.geometry = Geometry.of(self.channels[0])
        self._scales = {}  # by rule; both stages may use the same

    def scales(self, stage):
        """`common.volumes.intensity.Scale` of each channel, as the networks of a stage expect it.

        Raises:
            InputError: if the number of channels differs from training, or a channel is constant.
        """
        expected, intensity = stage.data.channels, stage.data.intensity
        if len(self.channels) != expected:
            raise InputError(
                f"{self.path}: wrong number of channels ({len(self.channels)}); expected {expected}, as in training"
            )
        rule = intensity.model_dump() if intensity else None
        if str(rule) not in self._scales:
            with as_input_error(self.path):
                self._scales[str(rule)] = scales_of(rule, self.channels)
        return self._scales[str(rule)]


class Options(NamedTuple):
    """Settings of predict.py for volumes.

    Attributes:
        threshold, region_threshold: probability of any label above which a voxel is labeled, or is part of the region
            that the first of two steps finds.
        overlap, tile: as for `mean_probabilities`; tile None: the crop size of training.
        ending: ending of the label volumes.
        cleaning: arguments of `common.slices.masks.clean`.
        overlays: whether to write overlays of three planes, and pages of all slices.
        series, not_finite: as for `common.volumes.reading.read_volume`.
        dicom_labels: setting DICOM_LABELS.
        probabilities: whether to write the probabilities of each label.
        viewer_files: setting VIEWER_FILES.
        further_channels: mapping of the Path of a volume to Paths of its channels in other files.
    """

    threshold: float
    overlap: float
    tile: list | None
    ending: str
    cleaning: dict
    overlays: bool
    series: int | str | None
    not_finite: float | None = None
    region_threshold: float = DEFAULT
    dicom_labels: tuple = ()
    probabilities: bool = False
    viewer_files: tuple = ()
    further_channels: dict = MappingProxyType({})


def predict_with_settings(models, settings):
    """Predict the volumes of INPUT, write OUTPUT, and report failed volumes at the end.

    Args:
        models: result of `common.training.trained_models.find_volume_models`.
        settings: settings of predict.py.

    Raises:
        InputError: for slice settings, without volumes, or if any volume cannot be predicted.
    """
    if settings.FLIPS not in (None, "none") or settings.FIT or settings.PASTE or settings.UNCERTAINTY:
        raise InputError("FLIPS, FIT, PASTE and UNCERTAINTY: not available for 3-D models; remove them")
    if not settings.INPUT or not Path(settings.INPUT).exists():
        found = f"{settings.INPUT} does not exist" if settings.INPUT else "not set"
        raise InputError(f"INPUT: {found}; choose a volume, or a folder of volumes")
    refuse_existing(settings.OUTPUT, settings.REPLACE)
    volumes, further = find_files(settings.INPUT, settings.CHANNELS or last_stage(models).data.patterns)
    part, problems = Part.read(settings.PART), []
    require_dicom(settings.DICOM_LABELS, volumes.values())
    names = safe_names(volumes, settings.NAMES)
    refuse_same_output(names, "INPUT")
    own = {names[name]: volumes[name] for name in part.share(list(volumes))}
    used = with_threshold(settings, last_stage(models).files)
    options = options_of(settings, used.THRESHOLD, further)

    def fill(folder):
        import_keras()
        steps = ", then ".join(f"{step} {len(of_step.files)}" for step, of_step in sorted(models.items())[::-1])
        print(
            f"predicting {number_of(len(own), 'volume')} (models: {steps})",
            threshold_in_words(used),
            sep="\n",
            flush=True,
        )
        if own:
            problems.extend(predict_volumes(models, own, folder, options))

    networks = [file for of_step in models.values() for file in of_step.files]
    inputs = {"networks": list(map(str, networks)), "volumes": len(volumes)}
    files = [*volumes.values(), *(path for of_volume in further.values() for path in of_volume)]
    inputs["files"] = fingerprint([*networks, *files])
    facts = {"overlap": NESTED} if last_stage(models).data.nested else {}
    if write_output(used, part, inputs, fill, ["INPUT"], facts):
        write_names_table(settings.NAMES_TABLE, names, volumes)
        count = len(volumes) - len(problems)
        print(f"wrote {number_of(count, 'label volume')} to {settings.OUTPUT}")
    if problems:
        raise InputError(summarize(problems, "volumes cannot be predicted") + "\n  The other volumes were predicted.")


def options_of(settings, threshold, further):
    """Options by the settings of predict.py, the threshold in force and `further_channels`."""
    return Options(
        threshold,
        settings.OVERLAP,
        settings.TILE,
        settings.LABEL_VOLUMES or ".nii.gz",
        settings.CLEAN or {},
        settings.OVERLAYS,
        settings.SERIES,
        settings.NOT_FINITE,
        DEFAULT if settings.THRESHOLD is None else settings.THRESHOLD,
        tuple(settings.DICOM_LABELS),
        settings.PROBABILITIES,
        tuple(settings.VIEWER_FILES),
        further,
    )


def predict_volumes(models, volumes, folder, options):
    """Predict volumes and write label volumes on their own grids, and volumes.csv.

    Memory contains one volume, and the probabilities of one stage on its grid.

    Args:
        models: result of `common.training.trained_models.find_volume_models`.
        volumes: dict of safe volume name to Path.
        folder: Path to write to.
        options: Options.

    Returns:
        list of messages about volumes that cannot be predicted.

    Raises:
        InputError: if no volume can be predicted.
    """
    stages = {step: Stage(of_step, options.tile) for step, of_step in models.items()}
    problems, rows = [], []
    names = last_stage(stages).data.labels
    dicom = make_dicom_labels(folder, options.dicom_labels, volumes, options.series, names)
    viewer_files, folders = (
        ViewerFiles(folder, options.viewer_files, names),
        MaskFiles(list(map(str, names)), "").folders,
    )
    for name, path in progress(volumes.items(), len(volumes), "predicting"):
        try:
            volume = Volume(path, options.series, options.not_finite, options.further_channels.get(path, ()))
            keep = partial(write_volumes, folder, folders, f"{name}{options.ending}", volume.original)
            labels, note = predict_labels(volume, stages, options, keep if options.probabilities else None)
            if dicom:
                dicom.write(name, labels)
        except SettingError:
            raise
        except InputError as error:
            problems.append(str(error))
            continue
        if note:
            print(f"{name}: {note}", flush=True)
        write_labels(labels, folder / f"{name}{options.ending}")
        viewer_files.add_volume(name, labels)
        measured = measure_labels(name, labels, len(names), last_stage(stages).data.nested)
        rows += [row | {"label": label} for row, label in zip(measured, names, strict=True)]
        if options.overlays:
            write_png(folder / "overlays" / f"{name}.png", draw_volume(volume, labels), atomic=False)
            view_volume(folder / VIEWERS / f"{name}.html", volume, labels, list(map(str, names)))
    if not rows:
        raise InputError(summarize(problems, "volumes cannot be predicted"))
    write_rows(rows, folder / "volumes.csv")
    return problems


def last_stage(stages):
    """From a dict by step, the step that predicts the labels; "whole", which finds the region, only if it is alone."""
    return stages.get("patch") or stages.get("single") or stages["whole"]


def predict_labels(volume, stages, options, keep=None):
    """Predict the labels of a volume.

    Args:
        volume: Volume.
        stages: dict of step to Stage.
        options: Options.
        keep: function that is called with the probabilities (S, H, W, K) and their Geometry, or None.

    Returns:
        SimpleITK.Image uint8 on the volume's own grid, and a note for the user, or "".
    """
    last, box, note = last_stage(stages), None, ""
    if len(stages) > 1:
        box = find_region(volume, stages["whole"], last, options)
        note = "" if box else "the first step found nothing; the second step uses the whole volume"
    if last.data.step == "patch" and not box:
        grid = last.working_grid(volume.geometry)  # at the resolution of a box, in tiles if too large
    else:
        grid = last.grid(volume.geometry, box)
    probabilities = last.probabilities(volume, grid, options.overlap)
    if keep:
        keep(probabilities, grid)
    labels = labels_on_grid(probabilities, grid, volume.original, options.threshold, last.data.nested)
    if last.data.nested:
        labels = highest_class(clean(sets_of_numbers(labels, nested=True), **options.cleaning))
    else:
        labels = clean(labels, **options.cleaning)
    return label_image(labels, volume.original), note


def find_region(volume, first, second, options):
    """Box around the largest part that the first stage finds, in the working grid of the second; or None."""
    grid = first.grid(volume.geometry)
    foreground = first.probabilities(volume, grid, options.overlap)[..., 0] > options.region_threshold
    box = Box.of(keep_components(foreground, share=1, near=0, smallest=0))
    working_grid = second.working_grid(volume.geometry)
    box = box and box_on_grid(box, grid, working_grid)
    return box and grow_box(box, working_grid, second.data.smallest_box, second.data.margin)


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
    write_viewer(path, slices, numbers.shape[1:], gray_range, spacing, names)


# --- probabilities in, labels out


def labels_on_grid(probabilities, grid, original, threshold, nested=False):
    """Labels from probabilities interpolated onto the grid of a volume, one label at a time.

    Args:
        probabilities: (S, H, W, K) float32.
        grid: their Geometry.
        original: Geometry of the result.
        threshold, nested: as for `label_numbers`.

    Returns:
        (k, j, i) uint8.
    """
    labels = np.zeros(original.shape, np.uint8)
    box = box_on_grid(whole_box(grid), grid, original)
    target = grid_of_box(original, box)
    labels[box.slices] = label_numbers(channels_on_grid(probabilities, grid, target), threshold, nested)
    return labels


def label_numbers(channels, threshold=0.5, nested=False):
    """Label numbers from probabilities with a channel for each label and none for the background.

    A voxel gets the label with the largest probability if the sum of all is above the threshold, so between two
    labels neither needs to exceed it alone. Of nested labels, it gets the largest number that is above the threshold.

    Args:
        channels: iterable of arrays of one shape, the probabilities of labels 1, 2, ...; loads one at a time.
        threshold: 0 to 1.
        nested: whether each label includes those with larger numbers.

    Returns:
        uint8 of the same shape.
    """
    channels = iter(channels)
    if nested:
        labels = (next(channels) > threshold).astype(np.uint8)
        for number, values in enumerate(channels, 2):
            labels[values > threshold] = number
        return labels
    largest = np.array(next(channels))
    total, labels = largest.copy(), np.ones(largest.shape, np.uint8)
    for number, values in enumerate(channels, 2):
        is_larger = values > largest
        labels[is_larger] = number
        largest[is_larger] = values[is_larger]
        total += values
    labels[total <= threshold] = 0
    return labels

"""Prediction of volumes by 3-D networks: one alone, or one that finds the region and one for the labels in it."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import SimpleITK as sitk

from common.errors import InputError, as_input_error, summarise
from common.files import read_json
from common.parallel import progress
from common.prediction.volume_tiling import predict_volume
from common.slices.drawing import CLASS_COLOURS, draw_planes
from common.slices.images import write_png
from common.slices.masks import clean, keep_components
from common.training.cross_validation import is_cross_validation, read_choice
from common.training.trained_models import load_network, model_file
from common.volumes.grids import (
    Box,
    Geometry,
    at_spacing,
    box_on_grid,
    coarsening_factor,
    coarser,
    grid_of_box,
    grow_box,
    image_at,
    onto_grid,
    orient,
    smoothed_onto_grid,
    whole_box,
)
from common.volumes.intensity import scales_of
from common.volumes.labels import label_image, measure_labels, write_labels
from common.volumes.reading import read_channels

ALIKE = ("step", "labels", "channels", "spacing", "voxels", "intensity", "crop")  # of networks that are averaged


class Step:
    """Networks that were trained on the same step, whose probabilities are averaged.

    Attributes:
        about: what the run says of its volumes, as `VolumeSet.about`, and the crop that it was trained on.
        networks: list of keras.Model.
    """

    def __init__(self, files, about, tile):
        self.files, self.about = files, about
        self.networks = [load_network(file) for file in files]
        self.tile = tile or about["crop"]

    def grid(self, geometry, box=None):
        """Grid of an oriented volume as the networks saw it: all of it, or a Box of its working grid."""
        part = self.working(geometry)
        part = grid_of_box(part, box) if box else part
        return coarser(part, coarsening_factor(part, self.about["voxels"]))

    def working(self, geometry):
        """Grid of a volume at the spacing of training."""
        return at_spacing(geometry, self.about["spacing"])

    def probabilities(self, volume, grid, overlap):
        """(S, H, W, K) float32 on a grid."""
        image = np.empty((*grid.shape, len(volume.channels)), np.float32)
        for i, (scale, channel) in enumerate(zip(volume.scales(self), volume.channels, strict=True)):
            image[..., i] = scale.apply(smoothed_onto_grid(channel, grid))
        return predict_volume(self.networks, image, self.about["voxels"], self.tile, overlap)


class Volume:
    """A volume to predict: its channels, turned as the networks see them, and where it lay.

    Raises:
        InputError: if it cannot be read.
    """

    def __init__(self, path, series):
        channels = read_channels(path, series)
        self.path, self.original = path, Geometry.of(channels[0])
        self.channels = [orient(channel) for channel in channels]
        self.geometry = Geometry.of(self.channels[0])
        self.found = {}  # scales by rule: both steps may have the same

    def scales(self, step):
        """`common.volumes.intensity.Scale` of each channel as a step wants them.

        Raises:
            InputError: if it has other channels than the volumes of training, or one has a single value.
        """
        if len(self.channels) != step.about["channels"]:
            have, expected = len(self.channels), step.about["channels"]
            raise InputError(f"{self.path} has {have} channels; the network was trained on {expected}")
        rule = step.about["intensity"]
        if str(rule) not in self.found:
            with as_input_error(self.path):
                self.found[str(rule)] = scales_of(rule, self.channels)
        return self.found[str(rule)]


def find_volume_networks(runs, which):
    """Networks for volumes that runs hold.

    Args:
        runs: list of run folders, cross-validations, or .keras files in run folders.
        which: one of `common.training.run_folder.MODELS`.

    Returns:
        dict of a step to (files, what the run says of its volumes); None for runs of slices.

    Raises:
        InputError: if runs of slices and of volumes are mixed, do not belong together, or lack the second step.
    """
    files = []
    for run in filter(None, runs):
        files += read_choice(run)["files"] if is_cross_validation(run) else [model_file(run, which)]
    abouts = [describe(file) for file in files]
    if not any(abouts):
        return None
    if not all(abouts):
        raise InputError(f"RUN: {files[abouts.index(None)]} was trained on slices, others on volumes")
    steps = {}
    for file, about in zip(files, abouts, strict=True):
        first = steps.setdefault(about["step"], ([], about))
        for name in ALIKE:
            if about[name] != first[1][name]:
                raise InputError(
                    f"{file} and {first[0][0]} differ in {name}, {about[name]} and {first[1][name]}; "
                    "only networks that were trained alike can be averaged"
                )
        first[0].append(file)
    if "single" in steps and len(steps) > 1:
        raise InputError('RUN: a network of the step "single" stands alone; give "whole" and "patch", or that one')
    return steps


def describe(file):
    """What a run says of its volumes, and its crop; None where it was trained on slices or says nothing."""
    state, settings = file.with_name("state.json"), file.with_name("settings.json")
    about = read_json(state).get("data", {}) if state.exists() else {}
    if about.get("kind") != "volumes":
        return None
    return about | {"crop": read_json(settings).get("CROP")}


class Options(NamedTuple):
    """Settings of predict.py for volumes.

    Attributes:
        threshold: probability of any label above which a voxel has one.
        overlap, tile: of `common.prediction.volume_tiling.predict_volume`; None takes the crops of training.
        ending: of the label volumes.
        cleaning: arguments of `common.slices.masks.clean`.
        overlays: whether pictures of three planes are written.
        series: of `common.volumes.reading.read_volume`.
    """

    threshold: float
    overlap: float
    tile: list | None
    ending: str
    cleaning: dict
    overlays: bool
    series: int | None


def predict_volumes(found, volumes, folder, options):
    """Predict volumes and write label volumes on their own grids, and volumes.csv.

    It holds one volume, and beside it the probabilities of one step on the grid of that step.

    Args:
        found: of `find_volume_networks`.
        volumes: dict of a name to the Path of a volume.
        folder: Path to write to.
        options: Options.

    Returns:
        list of messages on volumes that cannot be predicted.

    Raises:
        InputError: if none can.
    """
    steps = {name: Step(files, about, options.tile) for name, (files, about) in found.items()}
    problems, rows = [], []
    for name, path in progress(volumes.items(), len(volumes), "predicting"):
        name = name.replace("/", "_")
        try:
            volume = Volume(path, options.series)
            labels, note = predict_one(volume, steps, options)
        except InputError as error:
            problems.append(str(error))
            continue
        if note:
            print(f"{name}: {note}", flush=True)
        write_labels(labels, folder / f"{name}{options.ending}")
        names = last_step(steps).about["labels"]
        rows += [
            {**row, "label": label} for row, label in zip(measure_labels(name, labels, len(names)), names, strict=True)
        ]
        if options.overlays:
            (folder / "overlays").mkdir(exist_ok=True)
            write_png(folder / "overlays" / f"{name}.png", draw_volume(volume, labels))
    if not rows:
        raise InputError(summarise(problems, "volumes cannot be predicted"))
    pd.DataFrame(rows).to_csv(folder / "volumes.csv", index=False)
    return problems


def last_step(steps):
    """The step that gives the labels: the first, which finds the region, only where it is alone."""
    return steps.get("patch") or steps.get("single") or steps["whole"]


def predict_one(volume, steps, options):
    """Labels of a volume.

    Args:
        volume: Volume.
        steps: dict of a step to Step.
        options: Options.

    Returns:
        SimpleITK.Image uint8 on the volume's own grid, and what is to be said of it, or "".
    """
    last, box, note = last_step(steps), None, ""
    if len(steps) > 1:
        box = find_region(volume, steps["whole"], last, options)
        note = "" if box else "the first step finds nothing; the second looks at the whole volume"
    if last.about["step"] == "patch" and not box:
        grid = last.working(volume.geometry)  # as fine as a box would be, in tiles where it is too large
    else:
        grid = last.grid(volume.geometry, box)
    probabilities = last.probabilities(volume, grid, options.overlap)
    labels = labels_of(probabilities, grid, volume.original, options.threshold)
    return label_image(clean(labels, **options.cleaning), volume.original), note


def find_region(volume, first, second, options):
    """Box in the working grid of the second step around the largest part of what the first one finds, or None."""
    grid = first.grid(volume.geometry)
    found = first.probabilities(volume, grid, options.overlap)[..., 0] > options.threshold
    box = Box.of(keep_components(found, share=1, near=0, smallest=0))
    working = second.working(volume.geometry)
    box = box and box_on_grid(box, grid, working)
    return box and grow_box(box, working, second.about["smallest_box"], second.about["margin"])


def labels_of(probabilities, grid, original, threshold):
    """Labels on the grid of the volume that probabilities come from, which are interpolated, one label at a time.

    Args:
        probabilities: (S, H, W, K) float32.
        grid: their Geometry.
        original: Geometry of the result.

    Returns:
        (k, j, i) uint8, the label of the greatest probability where their sum is above the threshold.
    """
    labels = np.zeros(original.shape, np.uint8)
    box = box_on_grid(whole_box(grid), grid, original)
    place = grid_of_box(original, box)
    best, total = np.zeros(place.shape, np.float32), np.zeros(place.shape, np.float32)
    for number in range(1, probabilities.shape[-1] + 1):
        channel = onto_grid(image_at(probabilities[..., number - 1], grid), place, sitk.sitkLinear)
        values = sitk.GetArrayViewFromImage(channel)
        greater = values > best
        labels[box.slices][greater] = number
        best[greater] = values[greater]
        total += values
    labels[box.slices][total <= threshold] = 0
    return labels


def draw_volume(volume, labels):
    """Picture of three planes of a volume with the outlines of its labels."""
    grey, numbers = map(sitk.GetArrayFromImage, (volume.channels[0], orient(labels)))
    return draw_planes(grey, [(numbers, CLASS_COLOURS)], volume.geometry.spacing)

"""Predict volumes with 3-D networks in one stage, or in two: find the region, then the labels in it."""

from typing import NamedTuple

import numpy as np

from common.errors import InputError, as_input_error
from common.prediction.networks_in_workers import load_for_prediction
from common.prediction.volume_tiles import mean_probabilities
from common.slices.classes import NESTED, OVERLAPPING, as_sets, highest_class, type_of_masks
from common.slices.masks import clean, keep_components
from common.training.calibration import DEFAULT
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
from common.volumes.intensity import scales_of
from common.volumes.labels import label_image, label_numbers
from common.volumes.reading import read_channels, read_further
from common.volumes.values import channels_on_grid


class Stage:
    """Networks trained on the same step; their probabilities are averaged.

    Args:
        models: `common.training.trained_models.VolumeModels`.
        tile: tile size in voxels (up, back, left); None: the crop size of training, or whole volumes.
        precision: as for `load_for_prediction`.
    """

    def __init__(self, models, tile, precision=None):
        self.data, self.tile, self.flips = models.data, tile or models.crop, models.flips
        self.networks = [load_for_prediction(file, precision) for file in models.files]
        from models.se_resunet3d import with_region  # imports Keras, which must be imported quietly first

        self.two_headed = list(filter(None, map(with_region, self.networks)))

    def grid(self, geometry, box=None):
        """Grid of an oriented volume, or of a Box of its working grid, as in training."""
        grid = self.working_grid(geometry)
        grid = grid_of_box(grid, box) if box else grid
        return coarser(grid, coarsening_factor(grid, self.data.voxels))

    def working_grid(self, geometry):
        """Grid of a volume at the training spacing."""
        return at_spacing(geometry, self.data.spacing, self.data.smallest_side)

    @property
    def has_region(self):
        """Whether all networks have a second output that finds the region of the labels."""
        return bool(self.two_headed) and len(self.two_headed) == len(self.networks)

    def probabilities(self, volume, grid, overlap, flips="none", further=None, networks=None):
        """Probabilities on a grid; overlap, flips, further and what it returns as for `mean_probabilities`.

        Args:
            volume: Volume.
            grid: Geometry.
            networks: list of keras.Model; None: `self.networks`.
        """
        image, networks = self.image(volume, grid), networks or self.networks
        return mean_probabilities(networks, image, self.data.voxels, self.tile, overlap, flips, further)

    def image(self, volume, grid):
        """What the networks see of a Volume on a grid, (S, H, W, C) float32; raises InputError if that is too large."""
        require_room(grid, f"{volume.path}: too large at the spacing of training", "crop it")
        image = np.empty((*grid.shape, len(volume.channels)), np.float32)
        for i, (scale, channel) in enumerate(zip(volume.scales(self), volume.channels, strict=True)):
            image[..., i] = scale.apply(smoothed_onto_grid(channel, grid))
        return image

    def probabilities_in_region(self, volume, grid, threshold, overlap, flips="none", further=None):
        """As `probabilities`, of labels that are 0 outside of the region that the second output finds.

        Args:
            threshold: probability above which a voxel is part of the region; its largest part counts.
            volume, grid, overlap, flips, further: as for `probabilities`.

        Returns:
            (S, H, W, K) float32, K + M with `further`, and whether there is a region; without one, nothing becomes 0.
        """
        labels = len(self.data.labels)
        of_labels = further and (lambda values: further(values[..., :labels]))
        found = self.probabilities(volume, grid, overlap, flips, of_labels, self.two_headed)
        region = Box.of(keep_components(found[..., labels] > threshold, share=1, near=0, smallest=0))
        found = np.delete(found, labels, axis=-1)
        if region:
            inside = grow_box(region, grid, self.data.smallest_box, self.data.margin)
            outside = np.ones(grid.shape, bool)
            outside[inside.slices] = False
            found[outside, :labels] = 0
        return found, bool(region)


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
        flips: name in `common.prediction.volume_tiles.MIRRORS`; None: as choose.py chose for each stage.
        uncertainty: whether to write how sure the networks are.
        order: as for `common.volumes.labels.label_numbers`.
        precision: setting PRECISION.
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
    further_channels: dict | None = None
    flips: str | None = None
    uncertainty: bool = False
    order: str = "likeliest"
    precision: str = "auto"


def last_stage(stages):
    """From a dict by step, the step that predicts the labels; "whole", which finds the region, only if it is alone."""
    return stages.get("patch") or stages.get("single") or stages["whole"]


def predict_labels(volume, stages, options, keep=None, further=None):
    """Predict the labels of a volume.

    Args:
        volume: Volume.
        stages: dict of step to Stage.
        options: Options.
        keep: function that is called with the probabilities, as of `mean_probabilities`, and their Geometry, or None.
        further: as for `mean_probabilities`.

    Returns:
        SimpleITK.Image of labels, as of `label_numbers`, on the volume's own grid, and a note for the user, or "".
    """
    last, box, note = last_stage(stages), None, ""
    if len(stages) > 1:
        box = find_region(volume, stages["whole"], last, options)
        note = "" if box else "the first step found nothing; the second step uses the whole volume"
    if last.data.step == "patch" and not box:
        grid = last.working_grid(volume.geometry)  # at the resolution of a box, in tiles if too large
    else:
        grid = last.grid(volume.geometry, box)
    how = options.overlap, options.flips or last.flips, further
    if last.has_region and len(stages) == 1:
        probabilities, found = last.probabilities_in_region(volume, grid, options.region_threshold, *how)
        note = "" if found else "the region output found nothing; labels anywhere are kept"
    else:
        probabilities = last.probabilities(volume, grid, *how)
    if keep:
        keep(probabilities, grid)
    probabilities = probabilities[..., : len(last.data.labels)]
    how = options.threshold, last.data.sharing, options.order
    labels = labels_on_grid(probabilities, grid, volume.original, *how)
    return label_image(clean_numbers(labels, options.cleaning, last.data.sharing), volume.original), note


def clean_numbers(labels, cleaning, overlap=""):
    """Clean labels (S, H, W), nested ones as the regions that they stand for; cleaning as for `clean`."""
    if overlap != NESTED:
        return clean(labels, **cleaning)
    return highest_class(clean(as_sets(labels, overlap), **cleaning))


def find_region(volume, first, second, options):
    """Box around the largest part that the first stage finds, in the working grid of the second; or None."""
    grid = first.grid(volume.geometry)
    foreground = first.probabilities(volume, grid, options.overlap, options.flips or first.flips)[..., 0]
    foreground = foreground > options.region_threshold
    box = Box.of(keep_components(foreground, share=1, near=0, smallest=0))
    working_grid = second.working_grid(volume.geometry)
    box = box and box_on_grid(box, grid, working_grid)
    return box and grow_box(box, working_grid, second.data.smallest_box, second.data.margin)


# --- probabilities in, labels out


def labels_on_grid(probabilities, grid, original, threshold, overlap="", order="likeliest"):
    """Labels from probabilities interpolated onto the grid of a volume, one label at a time.

    Args:
        probabilities: (S, H, W, K) float32.
        grid: their Geometry.
        original: Geometry of the result.
        threshold, overlap, order: as for `label_numbers`.

    Returns:
        (k, j, i) uint8 or, of overlapping labels, uint16.
    """
    labels = np.zeros(original.shape, type_of_masks(overlap == OVERLAPPING))
    box = box_on_grid(whole_box(grid), grid, original)
    target = grid_of_box(original, box)
    labels[box.slices] = label_numbers(channels_on_grid(probabilities, grid, target), threshold, overlap, order)
    return labels

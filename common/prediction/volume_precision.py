"""Choose the precision in which 3-D networks predict, by a trial on a cube of a volume."""

import math
import time

import numpy as np

from common.errors import InputError
from common.prediction.precision import HALF, LEAST_SECONDS, can_try, decide, precision_without_trial
from common.prediction.volume_networks import Volume, last_stage
from common.prediction.volume_tiles import MIRRORS, predict_tile
from common.volumes.grids import Box, grid_of_box
from common.volumes.labels import label_numbers

SIDE = 64  # voxels of the cube


def choose_volume_precision(load, paths, options):
    """Choose as `common.prediction.precision.choose_precision`, by a cube in the middle of the first readable volume.

    The first network of the step that finds the labels predicts it.

    Args:
        load: function of `common.prediction.volume_networks.Options` that returns a dict of step to Stage.
        paths: list of Path of the volumes.
        options: Options, with the setting PRECISION.

    Returns:
        The precision, None if each network predicts as it was trained, and the reason as text for the user, or "" if
        there was nothing to choose.
    """
    if not can_try(options.precision):
        return precision_without_trial(options.precision), ""
    stage = last_stage(load(options._replace(precision="float32")))
    image, grid = _cube(stage, paths, options)
    if image is None:
        return "float32", ""
    seconds, expected = _predict(stage, image)
    flips = MIRRORS[options.flips or stage.flips]
    cubes = len(paths) * len(stage.networks) * len(flips) * math.prod(grid.size) / math.prod(image.shape[:3])
    if seconds * cubes < LEAST_SECONDS:
        return "float32", ""
    half, found = _predict(last_stage(load(options._replace(precision=HALF))), image)
    probabilities = [p[..., : len(stage.data.labels)] for p in (expected, found)]
    how = options.threshold, stage.data.sharing, options.order
    masks = [label_numbers(np.moveaxis(p, -1, 0), *how) for p in probabilities]
    return decide((seconds, half), masks, probabilities, f"{'x'.join(map(str, image.shape[:3]))} voxels")


def _cube(stage, paths, options):
    """What a Stage sees of the middle of the first readable volume, and the Geometry of all that it sees; or None."""
    for path in paths:
        try:
            further = (options.further_channels or {}).get(path, ())
            volume = Volume(path, options.series, options.not_finite, further)
            grid = (stage.working_grid if stage.data.step == "patch" else stage.grid)(volume.geometry)
            sides = np.minimum(grid.size, SIDE)
            start = (grid.size - sides) // 2
            box = Box(tuple(start.tolist()), tuple((start + sides).tolist()))
            return stage.image(volume, grid_of_box(grid, box)), grid
        except InputError:  # predicting it says so
            continue
    return None, None


def _predict(stage, image):
    """Seconds for an image by the first network, compiled before, and its probabilities."""
    for _ in range(2):
        started = time.perf_counter()
        probabilities = predict_tile(stage.networks[:1], image)
        seconds = time.perf_counter() - started
    return seconds, probabilities

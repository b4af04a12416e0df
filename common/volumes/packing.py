"""Prepare a volume with its labels for a packed set: the work of 3_pack_volumes.py, in this process or in a worker."""

import json
from typing import NamedTuple

import numpy as np

from common.errors import InputError, SettingError, as_input_error
from common.lazy import Lazy
from common.volumes.datasets import read_case
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
)
from common.volumes.intensity import scales_of
from common.volumes.labels import resample_labels, sample_voxels
from common.words import number_of

sitk = Lazy("SimpleITK")

MOST_UNLIKE = 5  # sides of volumes that are more times longer or shorter than the median are reported


class Packing(NamedTuple):
    """Settings of 3_pack_volumes.py that decide how a case is packed, as there."""

    step: str
    spacing: float | list | None
    smallest_side: int
    voxels: int | None
    smallest_box: int
    margin: float
    largest_margin: float
    label_values: dict | None
    not_finite: float | None
    empty: str


def prepare(case, labels, rule, label_files, how):
    """Read a case and resample it to the grid to pack it on.

    Args:
        case: `common.volumes.datasets.VolumeCase`.
        labels, label_files: as for `common.volumes.datasets.read_case`.
        rule: gray value rule; see `common.volumes.intensity`.
        how: Packing.

    Returns:
        group of the case as a dict: arrays image (S, P, L, C) float16, label (S, P, L) and places, and its attributes;
        None to skip the case.

    Raises:
        InputError: if a file is unusable, or there are no labels.
    """
    channels, label = read_case(case, labels, how.label_values, how.not_finite, label_files)
    original = Geometry.of(label)
    if not sitk.GetArrayViewFromImage(label).any():
        if how.empty == "skip":
            print(f"skipped {case.name}: it contains no labels", flush=True)
            return None
        if how.empty == "refuse" or how.step == "patch":
            raise InputError(f"{case.label}: contains no labels; remove the case, or use --empty skip")
    label = orient(sitk.Cast(label > 0, sitk.sitkUInt8) if how.step == "whole" else label)
    with as_input_error(case.image):
        scales = scales_of(rule, channels)
    oriented = Geometry.of(label)
    working = at_spacing(oriented, how.spacing, how.smallest_side)
    box = (labeled := Box.of(sitk.GetArrayViewFromImage(label))) and box_on_grid(labeled, oriented, working)
    if max(working.size) == 1 < max(oriented.size):
        raise InputError(
            f"{case.image}: smaller than a voxel of SPACING (found {size_in_mm(oriented)}); "
            "correct the spacing in its header"
        )
    require_room(working, f"SPACING: too fine for {case.image}", "use a larger spacing", SettingError)
    grid, factor = choose_grid(working, box, how)
    image = np.empty((*grid.shape, len(channels)), np.float16)
    for i, scale in enumerate(scales):
        image[..., i] = scale.apply(smoothed_onto_grid(orient(channels[i]), grid))
        channels[i] = None
    packed = resample_labels(label, grid)
    if box and not packed.any():
        advice = "use a finer SPACING, or more VOXELS"
        print(f"{case.name}: its labels are smaller than the voxels and vanish; {advice}", flush=True)
    box = (box and box_on_grid(box, working, grid)) or Box((0, 0, 0), (0, 0, 0))
    return {
        "image": image,
        "label": packed,
        "places": sample_voxels(packed),
        "original": json.dumps(original._asdict()),
        "grid": json.dumps(grid._asdict()),
        "box": [box.start, box.stop],
        "factor": factor,
        "lowest": image.min(axis=(0, 1, 2)),
    }


def report_sizes(grids):
    """Print which cases have sides in mm that are far from the median: their headers may be wrong.

    Args:
        grids: dict of case name to Geometry.
    """
    sides = {name: sorted(np.multiply(grid.size, grid.spacing)) for name, grid in grids.items()}  # in any orientation
    usual = np.median(list(sides.values()), axis=0)
    unlike = [name for name, mm in sides.items() if np.any(np.abs(np.log(mm / usual)) > np.log(MOST_UNLIKE))]
    if unlike:
        found = f"{unlike[0]}: {size_in_mm(grids[unlike[0]])}; usual: {' x '.join(f'{mm:.3g}' for mm in usual)} mm"
        count = number_of(len(unlike), "volume")
        print(f"{count} of another size than the others ({found}); check the spacing in the header")


def size_in_mm(grid):
    """Size of a Geometry as text."""
    return " x ".join(f"{count * mm:.3g}" for count, mm in zip(grid.size, grid.spacing, strict=True)) + " mm"


def choose_grid(working, box, how):
    """Grid to pack a case on, and how much coarser it is than another.

    Args:
        working: Geometry of the whole case.
        box: Box of its labels, or None.
        how: Packing.

    Returns:
        Geometry, and float.
    """
    if how.step != "patch":
        factor = coarsening_factor(working, how.voxels)
        return coarser(working, factor), factor
    usual, largest = (
        grid_of_box(working, grow_box(box, working, how.smallest_box, margin))
        for margin in (how.margin, how.largest_margin)
    )
    factor = coarsening_factor(usual, how.voxels)
    return coarser(largest, factor), factor

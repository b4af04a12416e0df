"""Cut the slices of a scan with nodules: the work of 0_import_nodules.py, in this process or in a worker."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from common.files import put_file, unfinished_name
from common.parallel import ordered_map
from common.slices.cases import Imported
from common.slices.images import cut, encode_png, fit_boxes, window_to_gray
from common.volumes.candidates import POINT, all_outside
from common.volumes.grids import Geometry
from common.volumes.labels import labels_on, write_labels
from common.volumes.nodules import LUNG_FINDERS, place_nodules, sphere_masks, square_around
from common.volumes.slicing import open_slices, slice_entry, spacing_of_plane


class NoduleSlicing(NamedTuple):
    """Settings of 0_import_nodules.py that decide how a scan becomes slices, as there.

    Attributes:
        all_slices: whether to import all slices, not only those through nodules.
        lung_masks, label_volumes: Path of `common.replacing.whole_folder` to write them to; None: none.
    """

    all_slices: bool
    neighbors: int
    size: int
    not_finite: float | None
    window: list
    lungs: str
    cut: bool
    lung_masks: Path | None = None
    label_volumes: Path | None = None


def import_scan(source, how):
    """Read a scan and cut its slices.

    Args:
        source: (Path, rows of annotations, case name).
        how: NoduleSlicing.

    Returns:
        Imported; its notes are the rows of SIZES.

    Raises:
        InputError: if only slices with nodules are wanted, and all nodules are outside the scan.
    """
    path, nodules, case = source
    hu, _, volume = open_slices(path, "axial", how.window, not_finite=how.not_finite)
    grid, shape = Geometry(**volume["grid"]), hu.shape[1:]
    placed = place_nodules(grid, nodules)
    kept = nodules[[row["place"] != "outside" for row in placed]]
    if kept.empty and not how.all_slices:
        raise all_outside(path, grid, nodules[POINT].to_numpy(float), "nodule")
    masks = sphere_masks(grid, kept, len(hu) if how.all_slices else how.neighbors)
    wanted = range(len(hu)) if how.all_slices else sorted(masks)
    empty = np.zeros(shape, np.uint8)
    if how.lung_masks:
        (how.lung_masks / case).mkdir(exist_ok=True)
    if how.label_volumes:
        spheres = sphere_masks(grid, kept, len(hu))
        array = np.stack([spheres.get(k, empty) for k in range(len(hu))])
        put_labels(labels_on(array, grid, Geometry(**volume["geometry"])), how.label_volumes / f"{case}.nii.gz")

    def make_entry(numbered):
        number, k = numbered
        image, mask, lung, box = make_slice(hu[k], masks.get(k, empty), how)
        if how.lung_masks:
            put_file(how.lung_masks / case / f"{number:04d}.png", lung, how.lung_masks.parents[1])
        return image, mask, slice_entry(shape, k, box)

    record = {"spacing": spacing_of_plane(grid.spacing, "axial"), "volume": volume}
    notes = [{"case": case, **row} for row in placed]
    return Imported(ordered_map(make_entry, enumerate(wanted, 1)), record, notes=notes)


def put_labels(labels, path):
    """Write a label volume into a folder of `whole_folder`; a worker that is killed leaves nothing in that folder."""
    aside = path.parents[2] / unfinished_name(path.stem)
    aside.mkdir()
    write_labels(labels, aside / path.name)
    os.replace(aside / path.name, path)
    shutil.rmtree(aside)


def make_slice(hu, mask, how):
    """A slice, its mask and the mask of its lungs (None without LUNGS) as encoded PNG, and their box."""
    (box,) = fit_boxes(hu.shape, how.size, "resize")
    image, lung = window_to_gray(hu, *how.window, 8), None
    if how.lungs:
        found = LUNG_FINDERS[how.lungs](np.asarray(hu, np.float32))
        inside = found | (mask > 0)  # keeps nodules at the wall
        image = np.where(inside, image, 0).astype(np.uint8)
        box = (square_around(inside) or box) if how.cut else box
        lung = encode_png(cut(found * np.uint8(255), box, how.size, cv2.INTER_NEAREST))
    mask = cut(mask * np.uint8(255), box, how.size, cv2.INTER_NEAREST)
    return encode_png(cut(image, box, how.size)), encode_png(mask), lung, box

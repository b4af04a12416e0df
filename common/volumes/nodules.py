"""Lung nodules as spheres: annotations to masks, label volumes to annotations; and finding the lungs."""

from typing import NamedTuple

import cv2
import numpy as np

from common.errors import InputError
from common.lazy import Lazy
from common.settings import require_folder
from common.slices.components import label_components, measure_components
from common.volumes.finding import find_volumes
from common.volumes.grids import Geometry

sitk, ndimage, segmentation = Lazy("SimpleITK"), Lazy("scipy.ndimage"), Lazy("skimage.segmentation")

NODULE_COLUMNS = ["i", "j", "k", "diameter_mm", "diameter_pixels", "slices", "height", "width"]
NODULE_COLUMNS += ["spacing_x", "spacing_y", "spacing_z", "place"]  # of `place_nodules`
AIR_HU = -320  # `lungs_by_thresholds` counts pixels below this as air


def find_scans(folder):
    """Find the scans in the folder SCANS: dict of name, the last part of a path without ending, to Path.

    Raises:
        InputError: if none are found, or two have the same name.
    """
    scans = {}
    for name, path in find_volumes(require_folder(folder, "SCANS")).items():
        if scans.setdefault(name.split("/")[-1], path) != path:
            raise InputError(f"{path}: same name as {scans[name.split('/')[-1]]}; rename one")
    return scans


def sphere_masks(grid, nodules, neighbors):
    """Masks of the slices through spherical nodules.

    Args:
        grid: Geometry of the scan, with slices along the third axis.
        nodules: rows of `common.volumes.candidates.read_annotations` for one scan.
        neighbors: number of slices on each side of the center slice.

    Returns:
        dict of slice index to (H, W) uint8 of 0 and 1. Nodules are clipped at the faces of the scan.
    """
    columns, rows, count = grid.size
    spacing = grid.spacing
    masks = {}
    for nodule in nodules.itertuples():
        i, j, k = grid.to_voxels([(nodule.coordX, nodule.coordY, nodule.coordZ)])[0]
        x, y = (np.arange(columns) - i) * spacing[0], (np.arange(rows) - j) * spacing[1]
        middle = min(max(round(k), 0), count - 1)
        for slice_index in range(max(0, middle - neighbors), min(count, middle + neighbors + 1)):
            squared_radius = (nodule.diameter_mm / 2) ** 2 - ((slice_index - k) * spacing[2]) ** 2
            disc = np.add.outer(y**2, x**2) <= squared_radius
            is_inside = 0 <= round(j) < rows and 0 <= round(i) < columns
            if not (disc.any() or is_inside):
                continue
            mask = masks.setdefault(slice_index, np.zeros((rows, columns), np.uint8))
            mask |= disc.astype(np.uint8)
            if slice_index == round(k) and is_inside and not disc.any():  # smaller than a pixel: mark the center pixel
                mask[round(j), round(i)] = 1
    return masks


def place_nodules(grid, nodules):
    """Where the nodules of a scan are, as rows of a table.

    Args:
        grid, nodules: as for `sphere_masks`.

    Returns:
        list of dicts: i, j, k (center in voxels), diameter_mm, diameter_pixels (rows of the slice), slices (number of
        slices that the sphere reaches), height, width (of the slices in pixels), spacing_x, spacing_y, spacing_z (mm),
        and place: "inside", "clipped" (only a part of the sphere is inside) or "outside".
    """
    size, spacing, rows = np.array(grid.size), np.array(grid.spacing), []
    for nodule in nodules.itertuples():
        center = grid.to_voxels([(nodule.coordX, nodule.coordY, nodule.coordZ)])[0]
        radius = nodule.diameter_mm / 2 / spacing
        low, high = np.ceil(center - radius), np.floor(center + radius)
        inside = (center >= -0.5) & (center < size - 0.5)
        near = np.clip(center, 0, size - 1)
        touches = np.linalg.norm((near - center) * spacing) <= nodule.diameter_mm / 2
        place = "outside" if not (inside.all() or touches) else "inside"
        if place == "inside" and ((low < 0) | (high > size - 1)).any():
            place = "clipped"
        slices = int(max(1, min(high[2], size[2] - 1) - max(low[2], 0) + 1)) if place != "outside" else 0
        row = dict(zip(("i", "j", "k"), map(float, center), strict=True)) | {"diameter_mm": nodule.diameter_mm}
        row |= {"diameter_pixels": nodule.diameter_mm / spacing[1], "slices": slices}
        row |= {"height": int(size[1]), "width": int(size[0])}
        row |= {f"spacing_{axis}": float(mm) for axis, mm in zip("xyz", spacing, strict=True)}
        rows.append(row | {"place": place})
    return rows


class Nodule(NamedTuple):
    """A nodule in a label volume.

    Attributes:
        point: center in mm, (x, y, z), LPS.
        diameter: of a disc with the area of its largest slice, in mm.
        mean, maximum: of the probabilities inside it; None if unknown.
    """

    point: tuple
    diameter: float
    mean: float | None = None
    maximum: float | None = None


def find_nodules(labels, probabilities=None):
    """Find the nodules in a label volume.

    Args:
        labels: SimpleITK.Image, 0 outside.
        probabilities: (k, j, i) array of the same shape; None: unknown.

    Returns:
        list of Nodule, one for each connected component; those in most slices first.
    """
    numbers = label_components(sitk.GetArrayViewFromImage(labels) != 0)
    components = measure_components(numbers, labels.GetSpacing()[::-1])
    points = Geometry.of(labels).to_points(np.reshape([c.center[::-1] for c in components], (-1, 3)))
    nodules = [Nodule(tuple(map(float, p)), c.diameter) for p, c in zip(points, components, strict=True)]
    boxes = ndimage.find_objects(numbers)
    if probabilities is not None:
        insides = [probabilities[box][numbers[box] == n].astype(float) for n, box in enumerate(boxes, 1)]
        nodules = [
            nodule._replace(mean=float(inside.mean()), maximum=float(inside.max()))
            for nodule, inside in zip(nodules, insides, strict=True)
        ]
    return [nodules[i] for i in sorted(range(len(nodules)), key=lambda i: boxes[i][0].start - boxes[i][0].stop)]


def run_lengths(mask):
    """Run lengths of a mask: pairs "start length", counted from 1 by columns; "" for fewer than 10 pixels.

    Args:
        mask: (H, W), foreground not 0.
    """
    flat = (np.asarray(mask) != 0).ravel(order="F")
    if flat.sum() < 10:
        return ""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    starts, ends = edges[::2], edges[1::2]
    return " ".join(f"{start + 1} {end - start}" for start, end in zip(starts, ends, strict=True))


# --- lungs on an axial slice; pixel lengths are for 512x512 and scale with the slice size


def lungs_by_clusters(hu):
    """Find the lungs with two clusters of gray values, as in the Data Science Bowl 2017 tutorial for LUNA.

    Args:
        hu: (H, W) array.

    Returns:
        (H, W) bool: the lungs with a margin.
    """
    height, width = hu.shape
    image = (hu - hu.mean()) / max(float(hu.std()), 1e-6)
    rows, columns = slice(height * 100 // 512, height * 400 // 512), slice(width * 100 // 512, width * 400 // 512)
    mean, extremes = image[rows, columns].mean(), (image.min(), image.max())
    image = np.where(np.isin(image, extremes), mean, image).astype(np.float32)
    values = image[rows, columns].reshape(-1, 1)
    cv2.setRNGSeed(0)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 50, 1e-4)
    _, _, centers = cv2.kmeans(values, 2, None, criteria, 3, cv2.KMEANS_PP_CENTERS)
    dark = (image < centers.mean()).astype(np.uint8)
    dark = cv2.dilate(cv2.erode(dark, _square(4, height)), _square(10, height))
    _, components, boxes, _ = cv2.connectedComponentsWithStats(dark, connectivity=8)
    _, top, wide, high = (boxes[:, i] * 512 / height for i in range(4))
    keep = (wide < 475) & (high < 475) & (top > 40) & (top + high < 472)
    keep[0] = False
    return cv2.dilate(keep[components].astype(np.uint8), _square(10, height)) > 0


def lungs_by_thresholds(hu):
    """Find the lungs as the two largest air components that do not touch the border, smoothed and filled.

    Args:
        hu: (H, W) array.

    Returns:
        (H, W) bool.
    """
    air = segmentation.clear_border(hu < AIR_HU).astype(np.uint8)
    _, components, boxes, _ = cv2.connectedComponentsWithStats(air, connectivity=8)
    largest = 1 + np.argsort(-boxes[1:, cv2.CC_STAT_AREA], kind="stable")[:2]
    lungs = np.isin(components, largest).astype(np.uint8)
    lungs = cv2.erode(lungs, _disc(2, len(hu)))
    closing = _disc(10, len(hu))
    edge = len(closing)  # keeps closing from sticking to the border
    lungs = cv2.copyMakeBorder(lungs, edge, edge, edge, edge, cv2.BORDER_CONSTANT)
    lungs = cv2.morphologyEx(lungs, cv2.MORPH_CLOSE, closing)[edge:-edge, edge:-edge]
    return ndimage.binary_fill_holes(lungs)


LUNG_FINDERS = {"clusters": lungs_by_clusters, "thresholds": lungs_by_thresholds}  # by setting LUNGS


def square_around(mask):
    """The smallest square around a mask, within the slice if it fits: (left, top, side, side); None if empty."""
    if not mask.any():
        return None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    side = int(max(rows[-1] - rows[0], columns[-1] - columns[0])) + 1

    def start(filled, length):
        first = (int(filled[0]) + int(filled[-1]) + 1 - side) // 2
        return min(max(first, 0), length - side) if side <= length else first

    return start(columns, mask.shape[1]), start(rows, mask.shape[0]), side, side


def _square(side, height):
    side = max(1, round(side * height / 512))
    return np.ones((side, side), np.uint8)


def _disc(radius, height):
    radius = max(1, round(radius * height / 512))
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))

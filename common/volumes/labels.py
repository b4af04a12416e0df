"""Label volumes: the labels in a file, and the masks of slices as labels on the grid of their volume."""

import numpy as np
import SimpleITK as sitk

from common.errors import InputError
from common.slices.images import paste
from common.slices.masks import clean
from common.volumes.grids import Geometry, image_at, onto_grid
from common.volumes.slicing import planes_of

MAX_LABEL = 99


def labels_in(image, path, label_values=None, names=None, allow_255=False):
    """Labels of a volume.

    Args:
        image: SimpleITK.Image.
        path: its file, for the message.
        label_values: setting LABEL_VALUES, a dict of the values in the file to labels; all other values become 0.
            None: the values are the labels.
        names: dict of the expected labels to their names; None or empty: 0 to MAX_LABEL.
        allow_255: whether values of 0 and 255 are also accepted, by evaluate.py, which has no LABEL_VALUES.

    Returns:
        (k, j, i) uint8 array.

    Raises:
        InputError: if a value is no label.
    """
    values = sitk.GetArrayViewFromImage(image)
    if label_values is not None:
        mapped = np.zeros(values.shape, np.uint8)
        for value, label in label_values.items():
            mapped[values == value] = label
        values = mapped
    low, high = values.min(), values.max()
    if allow_255 and high == 255 and np.isin(values, (0, 255)).all():
        return values.astype(np.uint8)
    highest = max(names) if names else MAX_LABEL
    if low < 0 or high > highest or (values.dtype.kind == "f" and not np.array_equal(values, np.rint(values))):
        expected = f"0 to {highest}" + (f" ({', '.join(names.values())})" if names else "")
        expected += ", or 0 and 255" if allow_255 else ": see --label-values"
        raise InputError(f"{path} holds values from {low:g} to {high:g}; expected {expected}")
    return values.astype(np.uint8)


def label_image(array, geometry):
    """SimpleITK.Image of an array (k, j, i) of labels with a Geometry."""
    return image_at(np.asarray(array, np.uint8), geometry)


def labels_on(array, grid, geometry):
    """A label volume on the grid that a volume had before it was turned or resampled.

    Args:
        array: (S, P, L) uint8 on the grid of the slices.
        grid: Geometry of the slices.
        geometry: Geometry of the result; on the same voxels as `grid` they are copied, not interpolated.

    Returns:
        SimpleITK.Image.
    """
    labels = label_image(array, grid)
    orientation = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(geometry.direction)
    turned = sitk.DICOMOrient(labels, orientation)
    if turned.GetSize() == tuple(geometry.size) and np.allclose(turned.GetOrigin(), geometry.origin, atol=1e-3):
        return label_image(sitk.GetArrayViewFromImage(turned), geometry)  # with its origin to the last digit
    return onto_grid(labels, geometry)


def labels_of_slices(record, masks):
    """Label volume of the masks of a case.

    Args:
        record: content of case.json, of a case that 0_import_volumes.py made.
        masks: dict of the name of a slice to its mask (SIZE, SIZE), 0 and 255 or class numbers.

    Returns:
        SimpleITK.Image uint8 on the grid of the volume that the case came from; 255 becomes 1, and 0 stands where no
        slice is.
    """
    grid, geometry = (
        Geometry(**{field: tuple(values) for field, values in record["volume"][name].items()})
        for name in ("grid", "geometry")
    )
    array = np.zeros(grid.size[::-1], np.uint8)
    slices = planes_of(array, record["volume"]["plane"])
    for name, mask in masks.items():
        entry = record["slices"][name]
        slices[entry["index"]] = paste(np.where(mask == 255, 1, mask), entry["box"], entry["image_size"])
    return labels_on(array, grid, geometry)


def clean_labels(image, cleaning):
    """A label volume cleaned as a whole; `cleaning` are arguments of `common.slices.masks.clean`."""
    return label_image(clean(sitk.GetArrayFromImage(image), **cleaning), Geometry.of(image))


def write_labels(image, path):
    """Write a label volume, compressed where the format can."""
    sitk.WriteImage(image, str(path), useCompression=True)


def measure_labels(case, labels, classes=1):
    """Rows of volumes.csv, one a class: how much of it a label volume holds.

    Args:
        case: its name.
        labels: SimpleITK.Image.
        classes: minimum number of rows.
    """
    counts = np.bincount(sitk.GetArrayViewFromImage(labels).ravel(), minlength=classes + 1)
    millilitres = np.prod(labels.GetSpacing()) / 1000
    return [
        {"case": case, "class": number, "voxels": int(voxels), "ml": voxels * millilitres}
        for number, voxels in enumerate(counts[1:], 1)
    ]


def sample_voxels(labels, count):
    """Some voxels of each label, drawn at random, the same ones each time.

    Args:
        labels: (S, P, L) uint8 array.
        count: maximum number of voxels per label.

    Returns:
        (N, 4) int16 array: up, back, left, and the label.
    """
    rng = np.random.default_rng(0)
    samples = [np.zeros((0, 4), np.int16)]
    for label in filter(None, np.flatnonzero(np.bincount(labels.ravel()))):
        voxels = np.argwhere(labels == label)
        voxels = voxels[np.sort(rng.choice(len(voxels), min(count, len(voxels)), replace=False))]
        samples.append(np.column_stack([voxels, np.full(len(voxels), label)]).astype(np.int16))
    return np.concatenate(samples)

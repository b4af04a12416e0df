"""Label volumes: read labels from a file, and make them of masks of slices or of probabilities."""

import numpy as np

from common.errors import InputError
from common.lazy import Lazy
from common.slices.classes import (
    IGNORED,
    NESTED,
    OVERLAPPING,
    are_sets,
    as_sets,
    classes_in,
    has_class,
)
from common.slices.masks import clean
from common.volumes.grids import Geometry, image_at, onto_grid
from common.volumes.slicing import array_of_slices
from common.volumes.writing import write_volume

sitk = Lazy("SimpleITK")

MAX_LABEL = 99
SAMPLES = 500  # voxel positions to pack per label, as crop centers


def labels_in(image, path, label_values=None, names=None, allow_255=False, ignore=None):
    """Check and map the labels of a volume.

    Args:
        image: SimpleITK.Image.
        path: the file, for the message.
        label_values: setting LABEL_VALUES, a dict of file values to labels; all other values become 0. None: values
            are labels.
        names: dict of expected label to name; None or empty: 0 to MAX_LABEL.
        allow_255: whether to accept 0 and 255 too, for evaluate.py, which has no LABEL_VALUES.
        ignore: value of voxels that do not count; None: none.

    Returns:
        (k, j, i) uint8 array; `common.slices.masks.IGNORED` where voxels do not count.

    Raises:
        InputError: if a value is not a label.
    """
    values = sitk.GetArrayViewFromImage(image)
    if ignore is not None and (ignored := values == ignore).any():
        others = np.where(ignored, values.dtype.type(0), values)
        return np.where(ignored, np.uint8(IGNORED), _checked(others, path, label_values, names, allow_255))
    return _checked(values, path, label_values, names, allow_255)


def _checked(values, path, label_values, names, allow_255):
    is_whole = values.dtype.kind != "f" or np.array_equal(values, np.rint(values))
    if label_values is not None and is_whole:
        mapped = np.zeros(values.shape, np.uint8)
        for value, label in label_values.items():
            mapped[values == value] = label
        values = mapped
    low, high = values.min(), values.max()
    if allow_255 and high == 255 and np.isin(values, (0, 255)).all():
        return values.astype(np.uint8)
    highest = max(names) if names else MAX_LABEL
    if low < 0 or high > highest or not is_whole:
        expected = f"whole numbers from 0 to {highest}" + (f" ({', '.join(names.values())})" if names else "")
        expected += ", or 0 and 255" if allow_255 else "; use --label-values to map them"
        raise InputError(f"{path}: invalid labels (values from {low:g} to {high:g}); expected {expected}")
    return values.astype(np.uint8)


def label_image(array, geometry):
    """SimpleITK.Image of an array (k, j, i) of labels, uint8 unless they are sets of overlapping classes, uint16."""
    return image_at(array if are_sets(array) else np.asarray(array, np.uint8), geometry)


def labels_on(array, grid, geometry):
    """Convert labels to a label volume on the volume's grid before orienting and resampling.

    Args:
        array: (S, P, L) uint8 or uint16 on the grid of the slices.
        grid: Geometry of the slices.
        geometry: Geometry of the result; if its voxels match `grid`, labels are copied, not interpolated.

    Returns:
        SimpleITK.Image.
    """
    labels = label_image(array, grid)
    orientation = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(geometry.direction)
    turned = sitk.DICOMOrient(labels, orientation)
    if turned.GetSize() == tuple(geometry.size) and np.allclose(turned.GetOrigin(), geometry.origin, atol=1e-3):
        return label_image(sitk.GetArrayViewFromImage(turned), geometry)  # keeps the exact origin
    return onto_grid(labels, geometry)


def resample_labels(image, grid, transform=None):
    """Labels interpolated linearly onto a grid: the largest one wins, or each alone if they overlap.

    Args:
        image: SimpleITK.Image, uint8 or, for sets of overlapping classes, uint16.
        grid: Geometry.
        transform: as for `onto_grid`.

    Returns:
        (k, j, i) array of the number type of the image.
    """
    labels = sitk.GetArrayViewFromImage(image)
    if not are_sets(labels):
        return sitk.GetArrayFromImage(onto_grid(image, grid, sitk.sitkLabelLinear, 0, transform))
    sets = np.zeros(grid.shape, labels.dtype)
    for number in classes_in(labels):
        mask = image_at(has_class(labels, number).astype(np.uint8), Geometry.of(image))
        moved = sitk.GetArrayFromImage(onto_grid(mask, grid, sitk.sitkLabelLinear, 0, transform))
        sets |= moved.astype(np.uint16) << (number - 1)
    return sets


def labels_of_slices(record, masks):
    """Label volume from the masks of a case.

    Args:
        record: content of case.json, written by 0_import_volumes.py.
        masks: dict of slice name to mask (SIZE, SIZE), 0 and 255, class numbers or sets of overlapping classes.

    Returns:
        SimpleITK.Image on the grid of the original volume, of the number type of the masks; 255 becomes 1 in uint8, and
        missing slices are 0.
    """
    array, grid, geometry = array_of_slices(record, masks)
    if not are_sets(array):
        array[array == 255] = 1
    return labels_on(array, grid, geometry)


def clean_labels(image, cleaning):
    """Clean a label volume as a whole; `cleaning` are arguments of `common.slices.masks.clean`."""
    return label_image(clean(sitk.GetArrayFromImage(image), **cleaning), Geometry.of(image))


def write_labels(image, path):
    """Write a label volume, as `common.volumes.writing.write_volume`."""
    write_volume(image, path)


def write_all(image, files, folder, case, ending):
    """Write the label volumes of a case.

    Args:
        image: SimpleITK.Image of class numbers, or of sets of overlapping classes.
        files: `common.slices.mask_files.MaskFiles`.
        folder, case, ending: <folder>/<case><ending> is the volume of class numbers.
    """
    for suffix, labels in files.volumes(sitk.GetArrayFromImage(image)):
        write_labels(label_image(labels, Geometry.of(image)), folder / f"{case}{suffix}{ending}")


def measure_labels(case, labels, classes=1, nested=False):
    """Rows of volumes.csv, one per class, with its size in voxels and ml.

    Args:
        case: case name.
        labels: SimpleITK.Image.
        classes: minimum number of rows.
        nested: whether each label includes those with larger numbers.
    """
    array = sitk.GetArrayViewFromImage(labels)
    array = as_sets(array, NESTED) if nested else array
    counts = np.zeros(classes + 1, int)
    if are_sets(array):
        counts[1:] = [np.count_nonzero(has_class(array, number)) for number in range(1, classes + 1)]
    else:
        counts = np.bincount(array.ravel(), minlength=classes + 1)
    millilitres = np.prod(labels.GetSpacing()) / 1000
    return [
        {"case": case, "class": number, "voxels": int(voxels), "ml": voxels * millilitres}
        for number, voxels in enumerate(counts[1:], 1)
    ]


def sample_voxels(labels, count=SAMPLES):
    """Draw voxels of each label at random, with a fixed seed.

    Args:
        labels: (S, P, L) array, uint8 or, of overlapping classes, uint16.
        count: maximum number of voxels per label.

    Returns:
        (N, 4) int16 array: up, back, left, label.
    """
    rng = np.random.default_rng(0)
    samples = [np.zeros((0, 4), np.int16)]
    for label in classes_in(labels):
        voxels = np.argwhere(has_class(labels, label))
        voxels = voxels[np.sort(rng.choice(len(voxels), min(count, len(voxels)), replace=False))]
        samples.append(np.column_stack([voxels, np.full(len(voxels), label)]).astype(np.int16))
    return np.concatenate(samples)


def label_numbers(channels, threshold=0.5, overlap="", order="likeliest"):
    """Labels from probabilities with a channel for each label and none for the background.

    A voxel gets the label with the largest probability if the sum of all is above the threshold, so between two
    labels neither needs to exceed it alone. Of nested labels, it gets the largest number that is above the threshold,
    and of overlapping ones all that are. With an order, it gets the last or the first of those above the threshold.

    Args:
        channels: iterable of arrays of one shape, the probabilities of labels 1, 2, ...; loads one at a time.
        threshold: 0 to 1.
        overlap: how labels share voxels; see `common.slices.classes`.
        order: "likeliest", or "last" or "first" as the runner-up of the Decathlon 2018 had it, by task.

    Returns:
        label numbers, uint8 of the same shape; of overlapping labels sets, uint16.
    """
    channels = iter(channels)
    if overlap == OVERLAPPING:
        labels = 0
        for index, values in enumerate(channels):
            labels |= (values > threshold).astype(np.uint16) << index
        return labels
    if overlap or order != "likeliest":
        labels = (next(channels) > threshold).astype(np.uint8)
        for number, values in enumerate(channels, 2):
            free = labels == 0 if order == "first" else True
            labels[(values > threshold) & free] = number
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

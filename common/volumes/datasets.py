"""Volumes with label volumes: the layout of the Medical Segmentation Decathlon, or two folders; and reading them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from common.errors import InputError, summarise
from common.files import read_json
from common.volumes.grids import Geometry
from common.volumes.reading import ending_of, match_labels, read_channels, read_volume, safe_names

PLACE = 1e-3  # mm by which label volume and image may lie apart
LARGEST_LABEL = 99


class VolumeCase(NamedTuple):
    """A volume and its labels."""

    name: str
    image: Path
    label: Path


@dataclass
class VolumeData:
    """A data set of volumes.

    Attributes:
        cases: list of VolumeCase, by name.
        labels: dict of number to name, without the background; empty where they are not known.
        ct: whether it is CT; None where it is not known.
    """

    cases: list
    labels: dict = field(default_factory=dict)
    ct: bool | None = None


def read_decathlon(folder):
    """Find the training cases of a data set with dataset.json, imagesTr and labelsTr.

    Args:
        folder: Path.

    Returns:
        VolumeData.

    Raises:
        InputError: if dataset.json is not there or damaged, or a file that it names is gone.
    """
    about = read_json(folder / "dataset.json")
    try:
        labels = {int(number): str(name) for number, name in about["labels"].items()}
        files = [(folder / pair["image"], folder / pair["label"]) for pair in about["training"]]
        channels = [str(name).upper() for name in about["modality"].values()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{folder / 'dataset.json'} is not that of the Decathlon ({type(error).__name__} {error}); expected "
            '"modality" and "labels", numbers to names, and "training", a list of {"image", "label"}'
        ) from None
    gone = [f"{path} does not exist" for pair in files for path in pair if not path.is_file()]
    if gone or not files:
        raise InputError(summarise(gone or [f"{folder / 'dataset.json'} lists no training case"], "files are gone"))
    cases = [VolumeCase(image.name[: -len(ending_of(image)) or None], image, label) for image, label in files]
    labels = {number: name for number, name in sorted(labels.items()) if number}
    if list(labels) != list(range(1, len(labels) + 1)):
        labels = {}  # numbers with gaps, which LABEL_VALUES has to close
    return VolumeData(sorted(cases), labels, ct=channels == ["CT"])


def read_folders(images, labels, label_name):
    """Find the cases of a folder of volumes and one of label volumes, by name.

    Args:
        images, labels: folders.
        label_name: name of the labels of a volume, with {id} for that of the volume.

    Raises:
        InputError: if there are none, one has no partner, or two would have the same name.
    """
    volumes, found = match_labels(images, labels, label_name)
    safe = safe_names(volumes)
    if len(set(safe.values())) < len(safe):
        raise InputError(f"two volumes of {images} would become the same case; rename one")
    return VolumeData([VolumeCase(safe[name], volumes[name], found[name]) for name in volumes])


def read_case(case, labels, values=None):
    """Read a volume and its labels.

    Args:
        case: VolumeCase.
        labels: dict of the labels that there are, by number; empty where they are not known.
        values: dict of the numbers in the file to labels, what is not named becomes 0; None: as they are.

    Returns:
        list of SimpleITK.Image, the channels, and SimpleITK.Image uint8, the labels on the same voxels.

    Raises:
        InputError: if one cannot be read, they do not lie on each other, or a number is no label.
    """
    channels = read_channels(case.image)
    label = read_volume(case.label)
    here, there = Geometry.of(channels[0]), Geometry.of(label)
    if here.size != there.size:
        sizes = " and ".join("x".join(map(str, size)) for size in (there.size, here.size))
        raise InputError(f"{case.label} lies on another grid than {case.image}: {sizes} voxels")
    corners = np.array([(0, 0, 0), here.size])
    if not np.allclose(here.to_points(corners), there.to_points(corners), atol=PLACE * max(1, *here.size)):
        raise InputError(f"{case.label} lies on another grid than {case.image}: its origin, spacing or axes differ")
    array = sitk.GetArrayViewFromImage(label)
    if values is not None:
        mapped = np.zeros(array.shape, np.uint8)
        for old, new in values.items():
            mapped[array == old] = new
        array = mapped
    low, high = array.min(), array.max()
    highest = max(labels, default=LARGEST_LABEL)
    if low < 0 or high > highest or (array.dtype.kind == "f" and not np.array_equal(array, np.rint(array))):
        expected = f"0 to {highest}" + (f" ({', '.join(labels.values())})" if labels else "")
        raise InputError(f"{case.label} holds values from {low:g} to {high:g}; expected {expected}: see --label-values")
    image = sitk.GetImageFromArray(array.astype(np.uint8))
    image.CopyInformation(channels[0])
    return channels, image

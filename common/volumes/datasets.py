"""Find and read volumes with label volumes (a Medical Segmentation Decathlon data set, or two folders); write sets."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import h5py
import numpy as np
import SimpleITK as sitk
from pydantic import BaseModel, ConfigDict, Field

from common.errors import InputError, summarize
from common.parallel import progress
from common.records import Inside, Record, read_record
from common.slices.hdf5_text import write_attributes
from common.volumes.finding import name_of
from common.volumes.grids import Geometry, image_at
from common.volumes.intensity import ForegroundStatistics
from common.volumes.label_matching import match_labels, refuse_own_labels
from common.volumes.labels import labels_in
from common.volumes.privacy import safe_names, write_names_table
from common.volumes.reading import read_channels, read_volume

ADVICE = "resample it onto that grid"
POSITION_TOLERANCE = 1e-3  # max offset of label volume and image: mm per voxel of the longest axis


class VolumeCase(NamedTuple):
    """A volume and its label volume; `source` is its own name, which may identify a patient."""

    name: str
    image: Path
    label: Path
    source: str


Number = Annotated[str, Field(pattern=r"^[0-9]{1,3}$")]


class DecathlonPair(BaseModel):
    """A training case in dataset.json: paths of the volume and of its label volume."""

    model_config = ConfigDict(strict=True, extra="ignore")

    image: Inside
    label: Inside


class DecathlonFile(Record):
    """Content of dataset.json of the Medical Segmentation Decathlon, as far as it is used.

    Attributes:
        modality: dict of channel number to name.
        labels: dict of label number to name.
        training: list of DecathlonPair.
    """

    DAMAGED: ClassVar = "not in Decathlon format"
    REMEDY: ClassVar = 'write "modality" and "labels", numbers to names, and "training", a list of {"image", "label"}'

    modality: dict[Number, str]
    labels: dict[Number, str]
    training: list[DecathlonPair]


@dataclass
class VolumeData:
    """A data set of volumes.

    Attributes:
        cases: list of VolumeCase, sorted by name.
        labels: dict of number to name, without the background; empty if unknown.
        ct: whether it is CT; None if unknown.
    """

    cases: list
    labels: dict = field(default_factory=dict)
    ct: bool | None = None

    def write_names_table(self, table):
        """Write NAMES_TABLE, as `common.volumes.privacy.write_names_table`."""
        names = {case.source: case.name for case in self.cases}
        write_names_table(table, names, {case.source: case.image for case in self.cases})


def read_decathlon(folder, case_names="numbers"):
    """Find the training cases of a data set with dataset.json, imagesTr and labelsTr.

    Args:
        folder: Path.
        case_names: as `names` of `common.volumes.privacy.safe_names`.

    Returns:
        VolumeData.

    Raises:
        InputError: if dataset.json is missing or damaged, a file that it lists is missing, or two have the same name.
    """
    content = read_record(folder / "dataset.json", DecathlonFile)
    labels = {int(number): name for number, name in content.labels.items()}
    files = [(folder / pair.image, folder / pair.label) for pair in content.training]
    channels = [name.upper() for name in content.modality.values()]
    missing = [path for pair in files for path in pair if not path.is_file()]
    if missing:
        advice = "missing (listed in dataset.json); restore it or remove its entry"
        raise InputError(summarize([f"{path}: {advice}" for path in missing], "files are missing"))
    if not files:
        raise InputError(f'{folder / "dataset.json"}: no training cases; list them under "training"')
    _refuse_same_names([image for image, _ in files], folder / "dataset.json")
    refuse_own_labels(dict(files))
    names = safe_names({name_of(image): image for image, _ in files}, case_names)
    cases = [VolumeCase(names[name_of(image)], image, label, name_of(image)) for image, label in files]
    labels = {number: name for number, name in sorted(labels.items()) if number}
    if list(labels) != list(range(1, len(labels) + 1)):
        labels = {}  # gaps between the numbers; LABEL_VALUES must close them
    return VolumeData(sorted(cases), labels, ct=channels == ["CT"])


def _refuse_same_names(images, where):
    """Raise InputError if two images would become the same case."""
    paths, problems = {}, []
    for image in images:
        other = paths.setdefault(name_of(image), image)
        if other is not image:
            problems.append(f"{where}: two cases have the same name ({other} and {image}); rename or remove one")
    if problems:
        raise InputError(summarize(problems, "cases have the name of another"))


def read_folders(images, labels, label_name, case_names="numbers"):
    """Find the cases in a folder of volumes and a folder of label volumes, matched by name.

    Args:
        images, labels: folders.
        label_name: label volume name, with {id} for the volume name.
        case_names: as `names` of `common.volumes.privacy.safe_names`.

    Raises:
        InputError: if none are found, one has no partner, or two get the same name.
    """
    volumes, label_volumes = match_labels(images, labels, label_name)
    cases = safe_names(volumes, case_names)
    return VolumeData([VolumeCase(cases[name], volumes[name], label_volumes[name], name) for name in volumes])


def read_case(case, names, label_values=None, not_finite=None):
    """Read a volume and its labels.

    Args:
        case: VolumeCase.
        names, label_values: as for `labels_in`.
        not_finite: as for `common.volumes.reading.read_volume`.

    Returns:
        channels, a list of SimpleITK.Image; and labels on the same voxels, SimpleITK.Image uint8.

    Raises:
        InputError: if one is unreadable, their grids differ, or a value is not a label.
    """
    channels = read_channels(case.image, not_finite=not_finite)
    label = read_volume(case.label)
    grid, label_grid = Geometry.of(channels[0]), Geometry.of(label)
    if grid.size != label_grid.size:
        sizes = " and ".join("x".join(map(str, size)) for size in (label_grid.size, grid.size))
        raise InputError(f"{case.label}: not on the grid of {case.image} ({sizes} voxels); {ADVICE}")
    corners = np.array([(0, 0, 0), grid.size])
    tolerance = POSITION_TOLERANCE * max(1, *grid.size)
    if not np.allclose(grid.to_points(corners), label_grid.to_points(corners), atol=tolerance):
        raise InputError(f"{case.label}: not on the grid of {case.image} (different origin, spacing or axes); {ADVICE}")
    return channels, image_at(labels_in(label, case.label, label_values, names), grid)


def survey(data, label_values=None, not_finite=None):
    """Read all volumes of a data set once to find labels and gray value statistics.

    Args:
        data: VolumeData.
        label_values: as for `labels_in`.
        not_finite: as for `read_case`.

    Returns:
        labels found in the volumes (1, 2, ...), and ForegroundStatistics of each channel.

    Raises:
        InputError: if volumes are unusable, or contain no labels or labels with gaps.
    """
    labels, statistics, problems = set(), [], []
    for case in progress(data.cases, len(data.cases), "checking volumes"):
        try:
            channels, label_image = read_case(case, data.labels, label_values, not_finite)
        except InputError as error:
            problems.append(str(error))
            continue
        numbers = sitk.GetArrayViewFromImage(label_image)
        labels |= set(np.flatnonzero(np.bincount(numbers.ravel())).tolist()) - {0}
        statistics += [ForegroundStatistics() for _ in range(len(channels) - len(statistics))]
        for of_channel, image in zip(statistics, channels, strict=False):
            of_channel.add(sitk.GetArrayViewFromImage(image)[numbers > 0])
    if problems:
        raise InputError(summarize(problems, "volumes cannot be used"))
    if sorted(labels) != list(range(1, len(labels) + 1)):
        listed = ", ".join(map(str, sorted(labels))) or "none"
        raise InputError(f"label volumes: expected labels 1, 2, ... without gaps (found {listed}); use --label-values")
    return sorted(labels), statistics


def write_sets(folder, divisions, written, attributes):
    """Write the packed sets as links to their cases, which are stored only in cases.h5.

    Args:
        folder: Path of the folder with cases.h5.
        divisions: dict of subfolder ("", or "fold1", ...) to dict of set name to case names.
        written: set of the names of the cases in cases.h5.
        attributes: dict of attributes of the files.

    Raises:
        InputError: if a set has no cases.
    """
    for subfolder, sets in divisions.items():
        for name, names in sets.items():
            _write_set(folder, subfolder, name, [case for case in names if case in written], attributes)


def _write_set(folder, subfolder, name, cases, attributes):
    if not cases:
        raise InputError(f"{name}.h5: no cases left (all of them are empty); add cases with labels")
    (folder / subfolder).mkdir(exist_ok=True)
    with h5py.File(folder / subfolder / f"{name}.h5", "w") as packed:
        write_attributes(packed, attributes)
        for case in cases:
            packed[f"cases/{case}"] = h5py.ExternalLink("../cases.h5" if subfolder else "cases.h5", f"cases/{case}")

"""Find and read volumes with label volumes (a Medical Segmentation Decathlon data set, or two folders); write sets."""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import h5py
import SimpleITK as sitk
from pydantic import BaseModel, ConfigDict, Field

from common.errors import InputError, SettingError, summarize
from common.parallel import progress
from common.records import Inside, Record, read_record
from common.slices.classes import NESTED, classes_in
from common.slices.hdf5_text import key_of, write_attributes
from common.slices.nnunet import is_nnunet, read_nnunet
from common.slices.regions import Regions
from common.volumes.channels import first_files, group_channels
from common.volumes.finding import LABEL_ENDINGS, ending_of, find_volumes, name_of
from common.volumes.grids import Geometry, image_at, onto_grid, require_same_grid
from common.volumes.intensity import ForegroundStatistics, VolumeStatistics
from common.volumes.label_files import LabelFiles
from common.volumes.label_matching import match_labels, refuse_own_labels
from common.volumes.labels import labels_in
from common.volumes.privacy import safe_names, write_names_table
from common.volumes.reading import read_channels, read_further, read_volume
from common.workers import Threads


class VolumeCase(NamedTuple):
    """A volume and its label volume; `source` is its own name, which may identify a patient.

    Attributes:
        channels: Paths of further channels, each in a file of its own.
    """

    name: str
    image: Path
    label: Path
    source: str
    channels: tuple = ()


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
        label_files: LabelFiles with named segments, or of regions; None if all are label volumes of class numbers.
        ignored: label of voxels that do not count, or None.
        regions: dict of name to list of label numbers, if classes are regions; otherwise {}.
    """

    cases: list
    labels: dict = field(default_factory=dict)
    ct: bool | None = None
    label_files: LabelFiles | None = None
    ignored: int | None = None
    regions: dict = field(default_factory=dict)

    @property
    def overlap(self):
        """How labels share voxels; see `common.slices.classes`."""
        return self.label_files.overlap if self.label_files else ""

    def write_names_table(self, table):
        """Write NAMES_TABLE, as `common.volumes.privacy.write_names_table`."""
        names = {case.source: case.name for case in self.cases}
        write_names_table(table, names, {case.source: case.image for case in self.cases})


def read_data_set(folder, case_names="numbers", label_values=None, classes=None, ignores=False):
    """Find the training cases of a data set with dataset.json, of the Decathlon or of nnU-Net v2.

    Args:
        folder: Path.
        case_names: as `names` of `common.volumes.privacy.safe_names`.
        label_values: setting LABEL_VALUES.
        classes: setting CLASSES, which must not be set.
        ignores: whether a label to ignore is supported.

    Returns:
        VolumeData; its labels are empty if `label_values` changes their numbers.

    Raises:
        InputError: as for `read_decathlon` and `common.slices.nnunet.read_nnunet`, or if the files are no volumes.
    """
    if classes:
        raise SettingError("CLASSES: not for a data set with dataset.json, which lists its labels; use LABEL_VALUES")
    if not is_nnunet(folder):
        data = read_decathlon(folder, case_names)
    else:
        found = read_nnunet(folder, label_values, ignores)
        if found.is_2d or not ending_of(f"name{found.ending}"):
            advice = "use 0_import_images.py" if found.is_2d else f"convert them to {LABEL_ENDINGS[0]}"
            raise InputError(f"{found.path}: contains no volumes (found {found.ending}); {advice}")
        names = safe_names({name: images[0] for name, (images, _) in found.cases.items()}, case_names)
        cases = [
            VolumeCase(names[name], images[0], label, name, tuple(images[1:]))
            for name, (images, label) in found.cases.items()
        ]
        ct = [name.upper() for name in found.channels] == ["CT"]
        data = VolumeData(sorted(cases), found.labels, ct, ignored=found.ignored, regions=dict(found.regions))
    if label_values is not None:
        data.labels = {}
    return data


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


def with_regions(data, regions, label_values=None):
    """Make the classes of a data set regions of label numbers.

    Args:
        data: VolumeData.
        regions: setting REGIONS of 3_pack_volumes.py, dict of name to list of numbers; None: those of the data set.
        label_values: setting LABEL_VALUES, applied first.

    Returns:
        VolumeData, unchanged without regions.

    Raises:
        SettingError: if the label files have names.
        InputError: as for Regions.
    """
    if not (regions := regions or data.regions):
        return data
    if data.label_files:
        raise SettingError("REGIONS: for label volumes of numbers (found segments with names); remove it")
    paths = [case.label for case in data.cases]
    files = LabelFiles(paths, None, label_values, survey=False, regions=Regions(regions))
    print(files.describe(), flush=True)
    return replace(data, labels=dict(enumerate(regions, 1)), label_files=files, regions=regions)


def read_folders(
    images, labels, label_name, case_names="numbers", label_values=None, classes=None, channels=(), overlapping=False
):
    """Find the cases in a folder of volumes and a folder of labels, matched as by `match_labels`.

    Args:
        images, labels: folders.
        label_name: label volume name, with {id} for the volume name.
        case_names: as `names` of `common.volumes.privacy.safe_names`.
        label_values, classes, overlapping: as for LabelFiles.
        channels: name patterns of the files of a volume, as for `common.volumes.channels.group_channels`; empty: one.

    Raises:
        InputError: if none are found, one has no partner or channel, is damaged, or two get the same name.
    """
    files = group_channels(find_volumes(images, apart=labels), channels, "IMAGES") if channels else {}
    matched = match_labels(images, labels, label_name, channels=first_files(files) or None)
    volumes, label_volumes = matched.volumes, matched.labels
    names = safe_names(volumes, case_names)
    further = {name: tuple(paths[1:]) for name, paths in files.items()}
    cases = [VolumeCase(names[n], volumes[n], label_volumes[n], n, further.get(n, ())) for n in volumes]
    several = {"further": matched.further, "class_of": matched.class_of, "overlapping": overlapping}
    files = LabelFiles(label_volumes.values(), classes, label_values, survey=False, **several)
    if files.failed:
        raise InputError(summarize(list(files.failed.values()), "label files cannot be used"))
    if not files.segments:
        return VolumeData(cases)
    print(files.describe(), flush=True)
    return VolumeData(cases, dict(enumerate(classes or [], 1)), label_files=files)  # names in files may be private


def read_case(case, names, label_values=None, not_finite=None, label_files=None):
    """Read a volume and its labels.

    Args:
        case: VolumeCase.
        names, label_values: as for `labels_in`.
        label_files: LabelFiles, or None.
        not_finite: as for `common.volumes.reading.read_volume`.

    Returns:
        channels, a list of SimpleITK.Image; and labels on the same voxels, SimpleITK.Image uint8 or, if they
        overlap, uint16.

    Raises:
        InputError: if one is unreadable, their grids differ, or a value is not a label.
    """
    channels = read_channels(case.image, not_finite=not_finite)
    channels += read_further(case.channels, channels[0], case.image, not_finite=not_finite)
    grid = Geometry.of(channels[0])
    if label_files and case.label in label_files.segments:
        return channels, onto_grid(label_files.read(case.label, grid)[0], grid)
    label = read_volume(case.label)
    require_same_grid(label, case.label, channels[0], case.image)
    regions = label_files and label_files.regions
    numbers = labels_in(label, case.label, label_values, None if regions else names)
    return channels, image_at(regions.as_packed(numbers, case.label) if regions else numbers, grid)


def survey(data, label_values=None, not_finite=None, intensity="ct", workers=None):
    """Read all volumes of a data set once to find labels and gray value statistics.

    Args:
        data: VolumeData.
        label_values: as for `labels_in`.
        not_finite: as for `read_case`.
        intensity: setting INTENSITY, which decides the kind of statistics.
        workers: `common.workers.Threads` or Processes to read the volumes; None: one after another.

    Returns:
        labels found in the volumes (1, 2, ...), and the statistics of each channel.

    Raises:
        InputError: if volumes are unusable, or contain no labels, labels with gaps, or none of a region.
    """
    labels, statistics, problems = set(), [], []
    kind = VolumeStatistics if intensity == "ct_3sd" else ForegroundStatistics
    reading = {"names": data.labels, "label_values": label_values, "not_finite": not_finite}
    look = partial(_survey_case, kind=kind, label_files=data.label_files, **reading)
    surveyed = (workers or Threads()).map_large(look, data.cases, problems)
    for found in progress(surveyed, len(data.cases), "checking volumes"):
        if not found:
            continue
        labels |= found[0]
        statistics += [kind() for _ in range(len(found[1]) - len(statistics))]
        for of_channel, of_case in zip(statistics, found[1], strict=False):
            of_channel.include(of_case)
    if problems:
        raise InputError(summarize(problems, "volumes cannot be used"))
    if data.overlap == NESTED and labels:
        labels = set(range(1, max(labels) + 1))  # a voxel of a region is one of all that include it
    if data.regions and (missing := [name for number, name in data.labels.items() if number not in labels]):
        raise InputError(f"REGIONS: no voxel of {', '.join(missing)} in any label volume; correct the numbers")
    if sorted(labels) != list(range(1, len(labels) + 1)):
        listed = ", ".join(map(str, sorted(labels))) or "none"
        raise InputError(f"label volumes: expected labels 1, 2, ... without gaps (found {listed}); use --label-values")
    return sorted(labels), statistics


def _survey_case(case, kind, **reading):
    """Labels of a case, set of int, and the statistics of each channel; `reading` as for `read_case`."""
    channels, label_image = read_case(case, **reading)
    numbers = sitk.GetArrayViewFromImage(label_image)
    statistics = [kind() for _ in channels]
    for of_channel, image in zip(statistics, channels, strict=True):
        of_channel.add(sitk.GetArrayViewFromImage(image), numbers > 0)
    return {*classes_in(numbers)}, statistics


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
            key = key_of(f"cases/{case}")
            packed[key] = h5py.ExternalLink("../cases.h5" if subfolder else "cases.h5", key)

"""Data sets in the raw layout of nnU-Net v2: dataset.json, imagesTr/NAME_0000.nii.gz, labelsTr/NAME.nii.gz.

A number to ignore is for slices only.
"""

import os
import re
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, ClassVar, NamedTuple

from pydantic import Field

from common.errors import InputError, SettingError, summarize
from common.files import natural_key, read_json
from common.records import Inside, Record
from common.slices.classes import NESTED
from common.slices.finding import IMAGE_ENDINGS
from common.slices.matching import patients_in
from common.words import number_of

DATASET = "dataset.json"
Number = Annotated[str, Field(pattern=r"^[0-9]{1,3}$")]
Label = Annotated[int, Field(ge=0, le=99)]


class NnunetCase(Record):
    """A case listed in dataset.json: its channels in order, and its labels."""

    images: Annotated[list[Inside], Field(min_length=1)]
    label: Inside


class NnunetFile(Record):
    """Content of dataset.json of nnU-Net v2, as far as it is used."""

    DAMAGED: ClassVar = "not in the format of nnU-Net v2"
    REMEDY: ClassVar = 'write "channel_names" (numbers to names), "labels" (names to numbers) and "file_ending"'

    channel_names: dict[Number, str]
    labels: dict[str, Label | list[Label]]
    file_ending: Annotated[str, Field(pattern=r"^\.[A-Za-z0-9.]{1,20}$")]
    dataset: dict[str, NnunetCase] | None = None


class NnunetData(NamedTuple):
    """A data set of nnU-Net v2.

    Attributes:
        path: Path of dataset.json.
        channels: channel names.
        labels: dict of label number to name, without the background.
        ending: ending of all files, such as ".nii.gz".
        cases: dict of case name to (list of Paths of the channels, Path of the labels), in natural order.
        ignored: number of the label to ignore; None: none.
        regions: dict of name to list of numbers, if labels are regions; otherwise {}.
    """

    path: Path
    channels: list
    labels: dict
    ending: str
    cases: dict
    ignored: int | None = None
    regions: dict = MappingProxyType({})

    @property
    def is_2d(self):
        """Whether the files are images, not volumes."""
        return self.ending.lower() in IMAGE_ENDINGS

    @property
    def files_per_case(self):
        """Number of files of an image; 1 for colors in one file."""
        return max(len(images) for images, _ in self.cases.values())


def is_nnunet(folder):
    """Whether a folder contains dataset.json of nnU-Net v2; the Decathlon has such a file of another format."""
    path = Path(folder, DATASET)
    if not os.path.isfile(path):  # False for impossible names, too
        return False
    content = read_json(path)
    return isinstance(content, dict) and bool({"channel_names", "file_ending"} & set(content))


def read_nnunet(folder, label_values=None, ignores=False):
    """Find the training cases of a data set.

    Args:
        folder: Path with dataset.json.
        label_values: setting LABEL_VALUES or MASK_VALUES, which decides instead of regions and labels to ignore.
        ignores: whether the caller supports labels to ignore.

    Returns:
        NnunetData.

    Raises:
        InputError: if dataset.json is damaged or asks for what is not supported, or files are missing.
    """
    path = Path(folder, DATASET)
    content = NnunetFile.check(read_json(path), path)
    of_file, ignored, regions = dict(content.labels), None, {}
    if ignores and isinstance(of_file.get("ignore"), int):
        ignored = of_file.pop("ignore")
    elif label_values is None and "ignore" in of_file:
        advice = 'use --label-values, such as "{1: 1, 2: 2}", to choose numbers of the label files'
        raise InputError(f"{path}: labels to ignore are not supported (found {of_file['ignore']}); {advice}")
    if label_values is None and any(isinstance(numbers, list) for numbers in of_file.values()):
        regions = {name: numbers if isinstance(numbers, list) else [numbers] for name, numbers in of_file.items()}
        regions = {name: numbers for name, numbers in regions.items() if numbers != [0]}
    elif label_values is None:
        _refuse_gaps(path, sorted(of_file.values()))
    numbers = {name: number for name, number in of_file.items() if isinstance(number, int) and number}
    labels = {number: name for name, number in sorted(numbers.items(), key=lambda pair: pair[1])}
    if content.dataset is not None:
        cases = {
            name: ([Path(folder, image) for image in case.images], Path(folder, case.label))
            for name, case in content.dataset.items()
        }
        _refuse_missing([file for images, label in cases.values() for file in (*images, label)])
    else:
        cases = _find_cases(Path(folder), content.file_ending)
    if not cases:
        raise InputError(f"{path}: no training cases; expected files such as imagesTr/NAME_0000{content.file_ending}")
    cases = {name: cases[name] for name in sorted(cases, key=natural_key)}
    counts = {len(images) for images, _ in cases.values()}
    channels = [content.channel_names[key] for key in sorted(content.channel_names, key=int)]
    in_one = counts == {1} and content.file_ending.lower() in IMAGE_ENDINGS  # colors
    if not in_one and counts != {len(channels)}:
        found = " or ".join(map(str, sorted(counts)))
        raise InputError(f"{path}: channel_names: expected as many as files of a case ({found} files, {len(channels)})")
    return NnunetData(path, channels, labels, content.file_ending, cases, ignored, regions)


def join_channels(folder, volumes):
    """Join the files of a case in a folder of nnU-Net, such as imagesTs, next to a dataset.json.

    Args:
        folder: Path of imagesTr, imagesTs and the like, or of anything else.
        volumes: dict of file name without ending to Path.

    Returns:
        dict of case name to Path of its first channel, and dict of this Path to a list of the Paths of its further
        channels; `volumes` and {} if the folder is another.

    Raises:
        InputError: if a channel is missing.
    """
    if not (Path(folder).is_dir() and is_nnunet(Path(os.path.abspath(folder)).parent)):
        return volumes, {}
    channels = {}
    for name, path in volumes.items():
        if not (match := re.fullmatch(r"(.+)_(\d{4})", name, re.DOTALL)):
            return volumes, {}
        channels.setdefault(match[1], {})[int(match[2])] = path
    if problems := _gaps_in(channels):
        raise InputError(problems[0])
    further = {files[0]: [files[number] for number in sorted(files)[1:]] for files in channels.values()}
    return {name: files[0] for name, files in channels.items()}, further


def settings_for(settings):
    """Settings of 0_import_images.py for a data set of nnU-Net as IMAGES, by its dataset.json.

    Args:
        settings: `common.settings.Settings`.

    Returns:
        Settings, unchanged if IMAGES is no such data set or MASKS is set; and the class names, [] if unknown.

    Raises:
        InputError: as `read_nnunet`, and for volumes, and files in other folders.
    """
    folder = Path(settings.IMAGES or "-")
    if settings.MASKS or not is_nnunet(folder):
        return settings, []
    data = read_nnunet(folder, settings.MASK_VALUES, ignores=True)
    if not data.is_2d:
        raise InputError(f"{data.path}: contains volumes (found {data.ending}); use 0_import_volumes.py")
    patterns = [f"{{id}}_{channel:04d}" for channel in range(data.files_per_case)]
    images = [folder / "imagesTr" / f"{pattern}{data.ending}" for pattern in patterns]
    masks = folder / "labelsTr" / f"{{id}}{data.ending}"
    for name, (files, mask) in data.cases.items():
        for file, expected in zip([*files, mask], [*images, masks], strict=True):
            if str(file) != str(expected).format(id=name):
                raise InputError(f"{data.path}: dataset: {file} is not {expected}; rename the files of {name}")
    changes = {"IMAGES": str(images[0]), "MASKS": str(masks)}
    if len(patterns) > 1:
        changes |= {"IMAGES": str(folder / "imagesTr"), "CHANNELS": patterns}
    elif len(data.channels) == 3 and "CHANNELS" not in settings.given:
        changes["CHANNELS"] = "rgb"
    if "CASE_FROM" not in settings.given and not patients_in(list(data.cases)):
        changes["CASE_FROM"] = "image"
    if settings.MASK_VALUES is None and len(data.labels) == 1 and not data.regions:
        changes["MASK_VALUES"] = {1: 255}
    if data.ignored and settings.IGNORE is None:
        changes["IGNORE"] = data.ignored
    if data.regions and settings.REGIONS is None:
        changes["REGIONS"] = data.regions
    names = [] if settings.MASK_VALUES else list(data.labels.values())
    return settings.replace(f"{DATASET} of nnU-Net", **changes), names


def _refuse_gaps(path, numbers):
    if numbers != list(range(len(numbers))) or len(numbers) < 2:
        listed = ", ".join(map(str, numbers)) or "none"
        raise InputError(f"{path}: labels: expected the background 0, then 1, 2, ... without gaps (found {listed})")


def _find_cases(folder, ending):
    """Cases by the names of their files: NAME_0000, NAME_0001, ... and NAME.

    Returns:
        dict of case name to (list of Paths, Path).
    """
    for name in ("imagesTr", "labelsTr"):
        if not (folder / name).is_dir():
            raise InputError(f"{folder / name}: folder is missing; restore it, as listed by {DATASET}")
    channels, problems = {}, []
    for file in sorted((folder / "imagesTr").iterdir()):
        if file.name.startswith(".") or not file.name.endswith(ending):
            continue
        match = re.fullmatch(r"(.+)_(\d{4})", file.name.removesuffix(ending), re.DOTALL)
        if match:
            channels.setdefault(match[1], {})[int(match[2])] = file
        else:
            problems.append(f"{file}: no channel number in its name; expected a name such as NAME_0000{ending}")
    if problems := problems + _gaps_in(channels):
        raise InputError(summarize(problems, "files do not fit the layout of nnU-Net"))
    cases = {
        name: ([files[number] for number in sorted(files)], folder / "labelsTr" / f"{name}{ending}")
        for name, files in channels.items()
    }
    _refuse_missing([label for _, label in cases.values()])
    return cases


def _gaps_in(channels):
    """Messages about cases that lack a channel, by dict of case name to dict of channel number to Path."""
    problems = []
    for name, files in channels.items():
        if sorted(files) != list(range(len(files))):
            found = ", ".join(f"{number:04d}" for number in sorted(files))
            problems.append(f"{files[min(files)]}: channels of {name} are missing (found {found}); restore them")
    return problems


def _refuse_missing(files):
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise InputError(summarize([f"{path}: file is missing; restore it" for path in missing], "files are missing"))


# --- writing


def are_nested(records, where):
    """Whether classes are nested.

    Args:
        records: dict of case to content of case.json.
        where: setting LISTS, for messages.

    Raises:
        InputError: if classes overlap in another way, which nnU-Net cannot express, or cases differ.
    """
    found = {record.get("overlap") or "" for record in records.values()}
    if found not in ({NESTED}, {""}):
        kinds = " and ".join(sorted(kind or "exclusive" for kind in found))
        raise InputError(f"{where}: {kinds} classes; nnU-Net has exclusive or nested ones, so import them again")
    return found == {NESTED}


def name_labels(names, classes, records, nested):
    """Labels of dataset.json: dict of name to number, or to the numbers of a nested class.

    Args:
        names: setting CLASS_NAMES; None: the names that all records agree on, otherwise class1 and so on.
        classes: number of classes.
        records: dict of case to content of case.json.
        nested: whether classes are nested.

    Raises:
        SettingError: if `names` do not fit.
    """
    if names is None:
        recorded = {tuple(record.get("class_names") or ()) for record in records.values()}
        names = list(recorded.pop()) if len(recorded) == 1 else []
        if len(names) < classes or len(set(names) | {"background"}) <= len(names):
            names = [f"class{number}" for number in range(1, classes + 1)]
    elif len(names) < classes or len({*names, "background", "ignore"}) < len(names) + 2:
        raise SettingError(
            f"CLASS_NAMES: expected {number_of(classes, 'different name')}, none of them background or ignore "
            f"(found {names}); list one for each class"
        )
    numbered = dict(zip(names, range(1, len(names) + 1), strict=True))
    if nested:
        numbered = {name: [*range(number, classes + 1)] for name, number in numbered.items() if number <= classes}
    return {"background": 0} | numbered

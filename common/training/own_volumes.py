"""How run_pipeline.py reads a user's own volumes: names of label volumes and of channels, and values of labels."""

import statistics
from pathlib import Path

from common.errors import InputError
from common.files import real_path
from common.slices.finding import IMAGE_ENDINGS, all_below
from common.slices.matching import MASK_NAMES, apart_from, common_names
from common.training.own_masks import LARGEST_NUMBER, some
from common.volumes.finding import ending_of, is_dicom, may_be_dicom, name_of
from common.volumes.label_matching import SLICER
from common.words import number_of

LABEL_FILES = ("segmentation", "seg", "labels", "label", "mask")  # in a folder for each case
SEPARATORS = "_-. "


def volumes_in(folder, apart=""):
    """Volumes, and files of DICOM series, in a folder and its subfolders: a sorted list of Path.

    Args:
        folder: folder.
        apart: folder of the other side, which is left out if it is inside.
    """
    return [path for path in apart_from(sorted(all_below(folder)), folder, apart) if _is_volume(path)]


def _is_volume(path):
    if path.name.startswith(".") or path.suffix.lower() in IMAGE_ENDINGS or not path.is_file():
        return False
    return bool(ending_of(path)) or is_dicom(path)


def median_side(images, volumes):
    """Median of the larger sides, in pixels, of the slices of up to 20 volumes.

    Args:
        images: their folder, for the message.
        volumes: list of Path.

    Raises:
        InputError: if none can be read.
    """
    from common.volumes.reading import read_information  # SimpleITK loads slowly

    sides = []
    for path in some(volumes):
        try:
            sides.append(max(read_information(path).GetSize()[:2]))
        except (InputError, RuntimeError):  # the importer reports it
            continue
    if not sides:
        raise InputError(f"IMAGES: none of the volumes in {images} can be read; see 0_import_volumes.py for each")
    return statistics.median(sides)


def choose_values(labels):
    """LABEL_VALUES with its reason, if label volumes have a gray level in place of 1; otherwise {}.

    Args:
        labels: folder.
    """
    import SimpleITK as sitk  # loads slowly

    from common.volumes.reading import read_volume  # likewise

    found = set()
    for path in some(volumes_in(labels)):
        try:
            values = sitk.GetArrayFromImage(read_volume(path))
        except InputError:  # the importer reports it
            return {}
        lowest, highest = float(values.min()), float(values.max())
        found |= {lowest, highest} if ((values == 0) | (values == highest)).all() else {None}
    if None in found or len(found - {0}) != 1 or max(found) <= LARGEST_NUMBER:
        return {}
    value = int(max(found))
    return {"LABEL_VALUES": ({value: 1}, f"the label volumes have only 0 and {value}")}


def choose_names(images, labels):
    """LABEL_NAME and CHANNELS that fit most label volumes, each with its reason, if the defaults fit none.

    Args:
        images, labels: folders, or one folder for both.
    """
    together = real_path(labels) == real_path(images)
    of_volumes, of_labels = _names(images, labels), _names(labels, images)
    found = dict.fromkeys(MASK_NAMES, 0)
    for pattern in MASK_NAMES:
        wanted = {name: pattern.format(id=name) for name in of_volumes}
        found[pattern] = sum(label in of_labels and not (together and label == name) for name, label in wanted.items())
    found["{id}"] += sum(f"{name}{SLICER}" in of_labels for name in of_volumes)
    best = max(found, key=found.get)
    if found["{id}"] == found[best] > 0:
        return {}
    if found[best]:
        return {"LABEL_NAME": (best, f"{number_of(found[best], 'label volume')} fit a volume by this name")}
    return _names_of_channels(of_volumes, of_labels, together) or _shared_names(of_volumes, of_labels) or {}


def _names(folder, apart):
    """Names of the volumes of a folder, as `common.volumes.finding.find_volumes` has them."""
    return {_name(path, Path(folder)) for path in volumes_in(folder, apart)}


def _name(path, folder):
    if not may_be_dicom(path):
        return path.relative_to(folder).with_name(name_of(path)).as_posix()
    return path.parent.relative_to(folder).as_posix() if path.parent != folder else folder.name


def _names_of_channels(volumes, labels, together):
    """Volumes with a file for each channel: p1_flair and p1_t1 with p1_seg, or p1/ct with p1/segmentation."""
    for pattern in (*MASK_NAMES, *(f"{{id}}/{name}" for name in LABEL_FILES)):
        start, end = pattern.split("{id}")
        if together and not (start or end):
            continue
        cases = {label[len(start) : len(label) - len(end)] for label in labels if _fits(label, start, end)}
        channels = {case: _rests(case, volumes - {pattern.format(id=case)}, "/" in end) for case in cases}
        kinds = set(channels.values())
        if len(kinds) == 1 and (rests := kinds.pop()):
            names = [rest.lstrip("/") if "/" in end else f"{{id}}{rest}" for rest in rests]
            reason = f"each of {number_of(len(cases), 'label volume')} fits {number_of(len(names), 'file')} by name"
            return {"CHANNELS": (names, reason), "LABEL_NAME": (pattern, reason)}
    return None


def _fits(name, start, end):
    return name.startswith(start) and name.endswith(end) and len(name) > len(start) + len(end)


def _rests(case, names, in_folder):
    """What follows the name of a case in the names of its channels, a sorted tuple."""
    rests = (name[len(case) :] for name in names if name.startswith(case))
    return tuple(sorted(rest for rest in rests if rest and rest[0] in ("/" if in_folder else SEPARATORS)))


def _shared_names(volumes, labels):
    """Volumes and labels whose names start and end differently, such as image_1 and label_1."""
    found = common_names([("", name) for name in sorted(volumes)], [("", name) for name in sorted(labels)])
    if not found or any("/" in name for name in volumes | labels):
        return None
    reason = f"names of {number_of(len(found[2]), 'volume')} and of their labels differ by what is around {{id}}"
    return {"CHANNELS": ([found[0]], reason), "LABEL_NAME": (found[1], reason)}

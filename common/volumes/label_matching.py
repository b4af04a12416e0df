"""Match label files to volumes: by name, or, for DICOM SEG and RTSTRUCT, by the series that they refer to."""

import os
import re
from typing import NamedTuple

from common.errors import InputError, summarize
from common.files import natural_key, real_path
from common.slices.cases import without_partner
from common.volumes.finding import find_volumes, is_dicom, may_be_dicom, print_skipped
from common.volumes.privacy import is_dicom_volume
from common.words import number_of

SLICER = ".seg"  # end of the names of segmentations of 3D Slicer
OWN_UIDS = ("SeriesInstanceUID", "SOPInstanceUID")
REFERENCES = (0x0020000E, 0x00081155)  # SeriesInstanceUID, ReferencedSOPInstanceUID


class Matched(NamedTuple):
    """Volumes with their label files.

    Attributes:
        volumes, labels: dicts of volume name to Path: volumes, and the first label file of each.
        further: dict of the Path of a first label file to a tuple of further ones of the same volume.
        class_of: dict of the Path of a label volume with a single class to the name of the class.
    """

    volumes: dict
    labels: dict
    further: dict
    class_of: dict


def match_labels(images, labels, label_name, series=None, channels=None):
    """Match the volumes of a folder to label files.

    DICOM SEG and RTSTRUCT files belong to the series that they refer to, other label volumes to the volume of their
    name; "{id}.seg.nrrd" needs no pattern.

    Args:
        images, labels: folders, or one file each.
        label_name: label volume name, with {id} for the volume name, and {class} if each class has a file.
        series: as for `common.volumes.reading.read_volume`.
        channels: dict of volume name to Path of its first channel, of volumes with a file for each; None: one file.

    Returns:
        Matched.

    Raises:
        InputError: if none are found, or one has no partner.
    """
    together, dicom_labels = real_path(labels) == real_path(images), []
    if is_class_pattern(label_name):
        return _match_classes(channels or find_volumes(images, apart=labels), labels, images, label_name, together)
    volumes = find_volumes(images, dicom_labels if together else None, labels)
    label_volumes = volumes if together else find_volumes(labels, dicom_labels, images)
    volumes = channels or volumes
    referring, foreign = by_reference(dicom_labels, volumes, series) if dicom_labels else ({}, [])
    if len(volumes) == len(label_volumes) == 1 and not referring:
        expected = dict.fromkeys(volumes, *label_volumes)
    else:
        wanted = [name for name in volumes if name not in referring]
        expected = {name: label_of(name, label_name, label_volumes, together) for name in wanted}
    if together:
        used = {label for label in expected.values() if label.endswith(SLICER)}
        expected = {name: label for name, label in expected.items() if label in label_volumes and name not in used}
        left = volumes.keys() - expected.keys() - referring.keys() - set(expected.values())
        print_skipped(labels, [f"{name}: no label volume {label_name.format(id=name)}" for name in sorted(left)])
    else:
        unused = sorted(label_volumes.keys() - set(expected.values()))
        named = not any(is_dicom_volume(path) for path in volumes.values())
        print_skipped(labels, [label_volumes[name].name for name in unused], f"without a volume in {images}", named)
    count = number_of(len(foreign), "DICOM SEG or RTSTRUCT file")
    others = f", and {count} in it for other series" if foreign else ""
    alone = [
        message
        for name, label in expected.items()
        for message in without_partner(
            {label: volumes[name]}, label_volumes, f"label volume {label} in {labels}{others}"
        )
    ]
    if alone or not (expected or referring):
        no_match = f"{labels}: no label volume matches --label-name ({label_name}){others}"
        advice = _channels_instead(volumes, label_volumes, label_name) or "change it, or rename the files"
        if len(alone) == 1:
            alone = [f"{alone[0]}; change --label-name, or remove the volume"]
        raise InputError(
            summarize(alone or [f"{no_match}; {advice}"], "volumes have no label volume; see --label-name")
        )
    if foreign:
        print(f"skipped {count} for other series", flush=True)
    refuse_own_labels({volumes[name]: label_volumes[label] for name, label in expected.items()})
    return _matched(volumes, {name: [label_volumes[label]] for name, label in expected.items()} | referring, {})


def _channels_instead(volumes, label_volumes, pattern):
    """Advice for volumes whose channels have a file each, such as a_flair and a_t1 with the labels a_seg; or None."""
    start, end = pattern.split("{id}")
    for label in label_volumes:
        case = label[len(start) : len(label) - len(end)]
        names = sorted(name for name in volumes if name.startswith(f"{case}_") and name != label)
        if label == pattern.format(id=case) and len(names) > 1:
            channels = [f"{{id}}{name.removeprefix(case)}" for name in names]
            return f'if each channel has a file, use --channels "{channels}"'
    return None


def _matched(volumes, files, class_of):
    """Matched of a dict of volume name to list of Path."""
    labels = {name: paths[0] for name, paths in files.items()}  # their order numbers the classes
    further = {paths[0]: tuple(paths[1:]) for paths in files.values() if len(paths) > 1}
    return Matched({name: volumes[name] for name in volumes if name in files}, labels, further, class_of)


def label_of(name, pattern, label_volumes, together):
    """Name of the label volume of a volume; 3D Slicer adds .seg to it."""
    label = pattern.format(id=name)
    is_own = together and label == name
    return label + SLICER if label + SLICER in label_volumes and (is_own or label not in label_volumes) else label


def refuse_own_labels(pairs):
    """Raise InputError if a volume is its own label volume, directly or through a link.

    Args:
        pairs: dict of Path of a volume to Path of its label volume.
    """
    own = [path for path, label in pairs.items() if path.exists() and label.exists() and os.path.samefile(path, label)]
    problems = [f"{path}: used as its own label volume; set --labels and --label-name to the labels" for path in own]
    if problems:
        raise InputError(summarize(problems, "volumes cannot be used"))


# --- a file for each class


def is_class_pattern(label_name):
    """Whether a setting LABEL_NAME has {class}: each class has a file."""
    return "{class}" in label_name


def class_files(label_name, label_volumes, names=None, classes=None):
    """Find the label volumes of each class.

    Args:
        label_name: pattern with {id} and {class}.
        label_volumes: dict of name to Path.
        names: names of the volumes; None: any.
        classes: names of the classes; None: any.

    Returns:
        dict of volume name to dict of class name to Path, in natural order. If several names fit, the longest one does.
    """
    groups = {"{id}": names, "{class}": classes}
    parts = [_pattern_of(part, groups) for part in re.split(r"(\{id\}|\{class\})", label_name)]
    pattern, found = re.compile("".join(parts)), {}
    for label in sorted(label_volumes, key=natural_key):
        if fits := pattern.fullmatch(label):
            found.setdefault(fits["id"], {})[fits["class"]] = label_volumes[label]
    return found


def _pattern_of(part, groups):
    """Regular expression of a part of a pattern: of known names, the longest first, or of any name."""
    if part not in groups:
        return re.escape(part)
    known = groups[part]
    options = "[^/]+?" if known is None else "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
    return f"(?P<{part[1:-1]}>{options})"


def _match_classes(volumes, labels, images, label_name, together):
    """Matched of volumes with a label volume for each class; arguments as of `match_labels`, with volumes by name."""
    label_volumes = volumes if together else find_volumes(labels, apart=images)
    found = class_files(label_name, label_volumes, names=volumes)
    class_of = {path: name for files in found.values() for name, path in files.items()}
    if together:
        found = {name: files for name, files in found.items() if volumes[name] not in class_of}
        left = [name for name, path in volumes.items() if name not in found and path not in class_of]
        print_skipped(labels, [f"{name}: no label volume {label_name}" for name in left])
    alone = [] if together else [f"{volumes[name]}: no label volume in {labels}" for name in volumes.keys() - found]
    if alone or not found:
        no_match = f"{labels}: no label volume matches --label-name ({label_name}); change it, or rename the files"
        raise InputError(summarize(sorted(alone) if found else [no_match], "volumes have no label volume"))
    for path in class_of:
        refuse_own_labels({volumes[name]: path for name in found})
    return _matched(volumes, {name: list(files.values()) for name, files in found.items()}, class_of)


# --- DICOM


def by_reference(dicom_labels, volumes, series=None):
    """Label files by the series or images that they refer to.

    Args:
        dicom_labels: Paths of DICOM SEG and RTSTRUCT files.
        volumes: dict of name to Path.
        series: as for `common.volumes.reading.read_volume`.

    Returns:
        dict of volume name to list of Path; and the list of files that refer to none of the volumes.

    Raises:
        InputError: if a file is damaged.
    """
    volume_of = {uid: name for name, path in volumes.items() for uid in _own_uids(path, series)}
    found, foreign, damaged = {}, [], []
    for path in dicom_labels:
        try:
            names = {volume_of[uid] for uid in references_of(path) if uid in volume_of}
        except InputError as error:
            damaged.append(str(error))
            continue
        foreign += [] if names else [path]
        for name in names:
            found.setdefault(name, []).append(path)
    if damaged:  # which volumes they belong to is unknown
        raise InputError(summarize(damaged, "label files cannot be used"))
    return found, foreign


def series_number(path, label_file):
    """Number of the series in a folder that a DICOM SEG or RTSTRUCT refers to; None if there are not several."""
    from common.volumes.dicom import find_series  # needs pydicom, which only DICOM needs

    candidates = find_series(path) if path.is_dir() else []
    if len(candidates) < 2:
        return None
    uids = references_of(label_file)
    return next((number for number, headers in enumerate(candidates, 1) if headers[0].series in uids), None)


def _own_uids(path, series):
    """UIDs of a DICOM series and of its images; empty for other volumes, and if it cannot be read."""
    import pydicom  # takes half a second to load, and only DICOM needs it

    from common.volumes.dicom import choose_series  # needs pydicom too

    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and may_be_dicom(file) and is_dicom(file))
    elif not may_be_dicom(path):
        return set()
    uids = set()
    try:
        if series is not None and path.is_dir():
            files = [header.file for header in choose_series(path, series, quiet=True)]
        for file in files:
            content = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(OWN_UIDS))
            uids |= {str(content.get(name)) for name in OWN_UIDS if content.get(name)}
    except Exception:  # reading the volume reports it
        return set()
    return uids


def references_of(path):
    """UIDs of the series and images that a DICOM SEG or RTSTRUCT file refers to."""
    from common.volumes.dicom_files import damaged_dicom, read_dataset  # needs pydicom, which only DICOM needs

    with damaged_dicom(path):
        return set(_nested_uids(read_dataset(path, pixels=False)))


def _nested_uids(item, depth=0):
    from pydicom.datadict import dictionary_has_tag, dictionary_VR  # only DICOM needs it

    for tag in item.keys():  # noqa: SIM118, iterating over a dataset converts its values, such as contours
        kind = item.get_item(tag).VR or (dictionary_VR(tag) if dictionary_has_tag(tag) else "")
        if tag in REFERENCES and depth:
            yield str(item[tag].value)
        elif kind == "SQ":
            for child in item[tag].value or []:
                yield from _nested_uids(child, depth + 1)

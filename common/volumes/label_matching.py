"""Match label files to volumes: by name, or, for DICOM SEG and RTSTRUCT, by the series that they refer to."""

import os
from pathlib import Path

from common.errors import InputError, summarize
from common.slices.cases import without_partner
from common.volumes.finding import find_volumes, is_dicom, may_be_dicom, print_skipped
from common.words import number_of

SLICER = ".seg"  # end of the names of segmentations of 3D Slicer
OWN_UIDS = ("SeriesInstanceUID", "SOPInstanceUID")
REFERENCES = (0x0020000E, 0x00081155)  # SeriesInstanceUID, ReferencedSOPInstanceUID


def match_labels(images, labels, label_name, series=None, channels=None):
    """Match the volumes of a folder to label files.

    DICOM SEG and RTSTRUCT files belong to the series that they refer to, other label volumes to the volume of their
    name; "{id}.seg.nrrd" needs no pattern.

    Args:
        images, labels: folders, or one file each.
        label_name: label volume name, with {id} for the volume name.
        series: as for `common.volumes.reading.read_volume`.
        channels: dict of volume name to Path of its first channel, of volumes with a file for each; None: one file.

    Returns:
        two dicts of volume name to Path: volumes and label files.

    Raises:
        InputError: if none are found, or one has no partner.
    """
    together, dicom_labels = Path(labels).resolve() == Path(images).resolve(), []
    volumes = find_volumes(images, dicom_labels if together else None)
    label_volumes = volumes if together else find_volumes(labels, dicom_labels)
    volumes = channels or volumes
    referring, foreign = _by_reference(dicom_labels, volumes, series) if dicom_labels else ({}, 0)
    if len(volumes) == len(label_volumes) == 1 and not referring:
        expected = dict.fromkeys(volumes, *label_volumes)
    else:
        wanted = [name for name in volumes if name not in referring]
        expected = {name: _label_of(name, label_name, label_volumes, together) for name in wanted}
    if together:
        used = {label for label in expected.values() if label.endswith(SLICER)}
        expected = {name: label for name, label in expected.items() if label in label_volumes and name not in used}
        left = volumes.keys() - expected.keys() - referring.keys() - set(expected.values())
        print_skipped(labels, [f"{name}: no label volume {label_name.format(id=name)}" for name in sorted(left)])
    others = f", and {number_of(foreign, 'DICOM SEG or RTSTRUCT file')} in it for other series" if foreign else ""
    alone = [
        message
        for name, label in expected.items()
        for message in without_partner(
            {label: volumes[name]}, label_volumes, f"label volume {label} in {labels}{others}"
        )
    ]
    no_match = f"{labels}: no label volume matches --label-name ({label_name}){others}; change it, or rename the files"
    if alone or not (expected or referring):
        raise InputError(summarize(alone or [no_match], "volumes have no label volume; see --label-name"))
    if foreign:
        print(f"skipped {number_of(foreign, 'DICOM SEG or RTSTRUCT file')} for other series", flush=True)
    found = {name: label_volumes[label] for name, label in expected.items()} | referring
    refuse_own_labels({volumes[name]: found[name] for name in expected})
    return {name: path for name, path in volumes.items() if name in found}, {name: found[name] for name in found}


def _label_of(name, pattern, label_volumes, together):
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
        raise InputError(summarize(problems, "volumes are used as their own label volumes"))


# --- DICOM


def _by_reference(dicom_labels, volumes, series):
    """Label files by the series or images that they refer to.

    Returns:
        dict of volume name to Path; and the number of files that refer to none of the volumes.

    Raises:
        InputError: if a file is damaged, or several refer to one volume.
    """
    volume_of = {uid: name for name, path in volumes.items() for uid in _own_uids(path, series)}
    found, foreign, damaged = {}, 0, []
    for path in dicom_labels:
        try:
            names = {volume_of[uid] for uid in _references_of(path) if uid in volume_of}
        except InputError as error:
            damaged.append(str(error))
            continue
        foreign += not names
        for name in names:
            found.setdefault(name, []).append(path)
    if damaged:  # which volumes they belong to is unknown
        raise InputError(summarize(damaged, "label files cannot be used"))
    problems = [
        f"{volumes[name]}: {len(paths)} DICOM SEG or RTSTRUCT files refer to it "
        f"({', '.join(path.name for path in paths[:5])}); keep one of them in LABELS"
        for name, paths in found.items()
        if len(paths) > 1
    ]
    if problems:
        raise InputError(summarize(problems, "volumes have several label files"))
    return {name: paths[0] for name, paths in found.items()}, foreign


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


def _references_of(path):
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

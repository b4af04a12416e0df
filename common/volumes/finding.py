"""Find volumes and their labels by file name.

This module does not import SimpleITK, so scripts can tell a volume from an image without loading it.
"""

from pathlib import Path

from common.errors import InputError, summarise
from common.slices.cases import without_partner

VOLUME_ENDINGS = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr", ".dcm")
LABEL_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")  # formats to write label volumes in


def ending_of(path):
    """Ending of a volume name, such as ".nii.gz"; "" if it is not in VOLUME_ENDINGS."""
    name = Path(path).name.lower()
    return max((ending for ending in VOLUME_ENDINGS if name.endswith(ending)), key=len, default="")


def name_of(path):
    """Name of a volume without its ending."""
    name = Path(path).name
    return name[: -len(ending_of(name)) or None]


def is_volume(path):
    """Whether a path is a volume: a file with one of VOLUME_ENDINGS, or a folder of DICOM files."""
    path = Path(path)
    if path.is_file():
        return bool(ending_of(path))
    files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else []
    return any(_may_be_dicom(file) and is_dicom(file) for file in files)


def is_dicom(path):
    """Whether a file starts like a DICOM file (DICOM PS3.10)."""
    with Path(path).open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def find_volumes(root):
    """Find volumes under a folder: files, and folders of DICOM series.

    Args:
        root: folder, or one volume.

    Returns:
        dict of name (without ending, with "/" between folders) to Path.

    Raises:
        InputError: if none are found, or two have the same name.
    """
    root = Path(root)
    if root.is_file():
        return {name_of(root): root}
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    volumes = {}
    for file in files:
        if not _may_be_dicom(file):
            path, name = file, file.relative_to(root).with_name(name_of(file)).as_posix()
        elif is_dicom(file):
            path = file.parent
            name = path.relative_to(root).as_posix() if path != root else root.name
        else:
            continue
        if volumes.setdefault(name, path) != path:
            raise InputError(f"{path} and {volumes[name]}: same case name ({name}); rename or remove one")
    if not volumes:
        raise InputError(
            f"{root}: no volumes found; expected DICOM series, or files that end in {', '.join(VOLUME_ENDINGS)}"
        )
    return volumes


def _may_be_dicom(path):
    return ending_of(path) in ("", ".dcm")  # DICOM files often have no ending


def match_labels(images, labels, label_name):
    """Match the volumes of a folder to label volumes by name.

    Args:
        images, labels: folders, or one volume each.
        label_name: label volume name, with {id} for the volume name.

    Returns:
        two dicts of volume name to Path: volumes and label volumes.

    Raises:
        InputError: if none are found, or one has no partner.
    """
    volumes, label_volumes = find_volumes(images), find_volumes(labels)
    if len(volumes) == len(label_volumes) == 1:
        return volumes, dict.fromkeys(volumes, *label_volumes.values())
    if Path(labels).resolve() == Path(images).resolve():
        volumes = {name: path for name, path in volumes.items() if label_name.format(id=name) in label_volumes}
    expected = {name: label_name.format(id=name) for name in volumes}
    alone = [
        message
        for name, label in expected.items()
        for message in without_partner({label: volumes[name]}, label_volumes, f"label volume {label} in {labels}")
    ]
    no_match = f"{labels}: no label volume matches --label-name ({label_name}); change it, or rename the files"
    if alone or not volumes:
        raise InputError(summarise(alone or [no_match], "volumes have no label volume; see --label-name"))
    return volumes, {name: label_volumes[label] for name, label in expected.items()}

"""Find volumes and their labels by file name.

This module does not import SimpleITK, so scripts can tell a volume from an image without loading it.
"""

import os
import re
from pathlib import Path

from common.errors import InputError
from common.files import read_bytes
from common.manifest import MANIFEST
from common.parallel import progress
from common.slices.finding import all_below, walk
from common.slices.matching import apart_from
from common.words import number_of

VOLUME_ENDINGS = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr", ".dcm")
HEAD = 132  # bytes at the start of a DICOM file, the last four of which are DICM
DIRECTORY = b"1.2.840.10008.1.3.10"  # class of a DICOMDIR
LABEL_CLASSES = {  # DICOM classes of files that contain labels of a series, not an image
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.66.7": "SEG",  # label map
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT",
}
DATA_ENDINGS = (".raw", ".zraw", ".gz", ".bz2", ".bin", ".img", ".dat")  # data files of .mhd and .nhdr headers
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
    return any(may_be_dicom(file) and is_dicom(file) for file in files)


def is_folder_of_volumes(path):
    """Whether a folder, no volume itself, has volumes inside and no images, which may be slices of cases."""
    path = Path(path)
    if not path.is_dir() or is_volume(path) or walk(path)[0]:
        return False
    files = (file for file in all_below(path) if not (file.name.startswith(".") or file.is_dir()) and file.is_file())
    return any(ending_of(file) or is_dicom(file) for file in files)


def is_dicom(path):
    """Whether a file starts like a DICOM file (DICOM PS3.10); False for a DICOMDIR, which lists files."""
    if os.stat(path).st_size < HEAD:  # files of /proc and /sys have no size, and reading some of them waits for ever
        return False
    head = read_bytes(path, 1024)
    return head[128:132] == b"DICM" and DIRECTORY not in head


def dicom_labels_in(path):
    """Kind of labels in a DICOM file, "SEG" or "RTSTRUCT"; "" for any other file."""
    if not Path(path).is_file() or not may_be_dicom(path):
        return ""
    head = read_bytes(path, 1024) if os.stat(path).st_size >= HEAD else b""
    found = re.search(rb"\x02\x00\x02\x00UI..([0-9.]+)", head, re.DOTALL) if head[128:132] == b"DICM" else None
    return LABEL_CLASSES.get(found[1].decode(), "") if found else ""


def find_volumes(root, dicom_labels=None, apart=""):
    """Find volumes under a folder: files, and folders of DICOM series; print what is skipped.

    Args:
        root: folder, or one volume.
        dicom_labels: list that collects the Paths of DICOM SEG and RTSTRUCT files; None: they are skipped.
        apart: folder of the other side, such as labels/ within the folder of the scans, which is left out; "": none.

    Returns:
        dict of name (without ending, with "/" between folders) to Path.

    Raises:
        InputError: if none are found, not even `dicom_labels`, or two have the same name.
    """
    root = Path(root)
    if root.is_file() and dicom_labels is not None and dicom_labels_in(root):
        dicom_labels.append(root)
        return {}
    if root.is_file():
        return {name_of(root): root}
    if root.exists() and not root.is_dir():
        raise InputError(f"{root}: not a file or folder; choose a volume, or a folder of volumes")
    files = apart_from(sorted(path for path in all_below(root) if path.is_symlink() or not path.is_dir()), root, apart)
    volumes, skipped = {}, []
    headers = {path.with_suffix("") for path in files if ending_of(path) in (".mhd", ".nhdr")}
    for file in progress(files, len(files), f"looking through {root}"):
        if file.name == MANIFEST:
            continue
        if reason := _reason_to_skip(file):
            skipped.append(f"{file.relative_to(root)}{reason}")
            continue
        if not may_be_dicom(file):
            path, name = file, file.relative_to(root).with_name(name_of(file)).as_posix()
        elif kind := dicom_labels_in(file):
            if dicom_labels is None:
                skipped.append(f"{file.relative_to(root)} (DICOM {kind})")
            else:
                dicom_labels.append(file)
            continue
        elif file.suffix.lower() == ".dcm" or is_dicom(file):
            path = file.parent
            name = path.relative_to(root).as_posix() if path != root else root.name
        else:
            if not _is_data(file, headers):
                skipped.append(str(file.relative_to(root)))
            continue
        if volumes.setdefault(name, path) != path:
            raise InputError(f"{path} and {volumes[name]}: same case name ({name}); rename or remove one")
    is_named = not dicom_labels and not any(path.is_dir() for path in volumes.values())
    print_skipped(root, skipped, named=is_named)
    if not volumes and not dicom_labels:
        raise InputError(
            f"{root}: no volumes found; expected DICOM series, or files that end in {', '.join(VOLUME_ENDINGS)}"
        )
    return volumes


def _reason_to_skip(file):
    """Why a file cannot be a volume whatever its name; "" if it can."""
    if file.name.startswith("."):
        return " (hidden)"
    if not file.exists():
        return " (link to a missing file)"
    return "" if file.is_file() else " (link to a folder)" if file.is_dir() else " (not a regular file)"


def _is_data(file, headers):
    """Whether a file contains the data of a header; `headers` are Paths of headers without their ending."""
    stems = {file.with_suffix(""), file.with_suffix("").with_suffix("")}
    return file.suffix.lower() in DATA_ENDINGS and bool(stems & headers)


def print_skipped(root, skipped, reason="without a volume", named=True):
    """Print the count of skipped files, if there are any, and the first names unless they are next to DICOM files."""
    if skipped:
        listed = ", ".join(skipped[:10]) + (", ..." if len(skipped) > 10 else "")
        count = number_of(len(skipped), "file")
        if named:
            print(f"{root}: skipped {count} {reason} ({listed})", flush=True)
        else:
            print(f"skipped {count} {reason}, next to DICOM files (names may identify patients)", flush=True)


def may_be_dicom(path):
    """Whether a file name allows DICOM content: without an ending of another format."""
    return ending_of(path) in ("", ".dcm")  # DICOM files often have no ending

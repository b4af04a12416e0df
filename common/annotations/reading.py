"""Find annotation files and read them; their content tells the format."""

import zipfile
from pathlib import Path

from common.annotations.coco import is_coco, read_coco
from common.annotations.cvat import read_cvat
from common.annotations.imagej import START, ZIP_DAMAGE, is_roi_set, read_roi, read_roi_set
from common.annotations.labelme import is_labelme, read_labelme
from common.annotations.osirix import is_osirix, read_osirix, read_osirix_csv, read_osirix_plist
from common.annotations.report import print_skipped
from common.annotations.xml_files import check_xml
from common.errors import InputError
from common.files import LARGEST_JSON, read_json
from common.parallel import ordered_map, progress
from common.slices.finding import OTHER, read_regular, walk

FORMATS = {"labelme": "LabelMe", "coco": "COCO", "cvat": "CVAT", "imagej": "ImageJ", "osirix": "OsiriX"}
ENDINGS = (".json", ".xml", ".zip", ".roi", ".csv", ".plist")
XML_ROOTS = {"annotations": ("cvat", read_cvat), "plist": ("osirix", read_osirix_plist)}
CVAT_IN_ZIP = "annotations.xml"
ADVICE = "remove it or export it again"


def find_annotations(root, skipped=None):
    """Annotation files in a folder, or one file; print what else is in the folder.

    Args:
        root: setting ANNOTATIONS.
        skipped: list of (reason, Path) of `common.slices.finding.walk` if the folder is the folder of the images;
            annotation files are removed from it, and nothing is printed.

    Returns:
        list of Path.

    Raises:
        InputError: if there are none.
    """
    root = Path(root or "-")
    if root.is_file():
        return [root]
    if not root.is_dir():
        found = f"{root} does not exist" if str(root) != "-" else "not set"
        raise InputError(f"ANNOTATIONS: {found}; choose a folder of annotation files, or one file")
    images, others = walk(root) if skipped is None else ([], skipped)
    files = [path for reason, path in others if reason == OTHER and path.suffix.lower() in ENDINGS]
    if not files:
        raise InputError(f"ANNOTATIONS: no file in {root} ends in {', '.join(ENDINGS)}; choose another folder")
    others[:] = [(reason, path) for reason, path in others if path not in set(files)]
    if skipped is None:
        print_skipped([*images, *(path for _, path in others)], len(files))
    return sorted(files)


def read_annotations(files, expected):
    """Read annotation files.

    Args:
        files: list of Path.
        expected: setting FORMAT.

    Returns:
        list of Annotation, and list of error messages.
    """
    problems = []
    read = ordered_map(lambda path: read_file(path, expected), files, problems=problems)
    return [one for found in progress(read, len(files), "reading annotations") for one in found or ()], problems


def read_file(path, expected="auto"):
    """Read an annotation file.

    Args:
        path: Path.
        expected: setting FORMAT.

    Returns:
        list of Annotation.

    Raises:
        InputError: if the file is damaged, or not of the expected format.
    """
    found, content, read = _recognize(path)
    if expected not in ("auto", found):
        raise InputError(
            f"{path}: not {FORMATS[expected]} (found {FORMATS[found]}); use another file or --format {found}"
        )
    return read(content, path)


def _recognize(path):
    """Format of a file, its content, and the function that reads it."""
    if path.is_file() and path.stat().st_size > LARGEST_JSON:
        raise InputError(f"{path}: too large (found {path.stat().st_size / 1e6:.0f} MB); {ADVICE}")
    data = read_regular(path)
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"PK\x03\x04") or path.suffix.lower() == ".zip":
        return _in_zip(path)
    if start.startswith(b"bplist"):
        raise InputError(f"{path}: an archive of OsiriX; export the ROIs as XML or CSV with the plug-in Export ROIs")
    if start.startswith(START) or path.suffix.lower() == ".roi":
        return "imagej", data, read_roi
    in_utf_16 = start.startswith((b"\xff\xfe", b"\xfe\xff")) and path.suffix.lower() != ".json"
    if start.startswith(b"<") or in_utf_16:
        root = check_xml(data, path)
        if root in XML_ROOTS:
            found, read = XML_ROOTS[root]
            return found, data, read
    elif path.suffix.lower() == ".csv" or start.startswith(b"ImageNo"):
        return "osirix", data, read_osirix_csv
    else:
        content = read_json(path)
        if is_labelme(content):
            return "labelme", content, read_labelme
        if is_coco(content):
            return "coco", content, read_coco
        if is_osirix(content):
            return "osirix", content, read_osirix
    raise InputError(f"{path}: not an annotation file (expected one of {', '.join(FORMATS.values())}); {ADVICE}")


def _in_zip(path):
    """Format of a zip file, its content, and the function that reads it."""
    try:
        with zipfile.ZipFile(path) as archive:
            if is_roi_set(archive):
                annotations = read_roi_set(archive, path)
                return "imagej", annotations, lambda annotations, _: annotations
            if CVAT_IN_ZIP not in archive.namelist():
                expected = f"expected {CVAT_IN_ZIP} of CVAT or .roi files of ImageJ"
                raise InputError(f"{path}: no annotations in this zip file ({expected}); {ADVICE}")
            with archive.open(CVAT_IN_ZIP) as file:
                data = file.read(LARGEST_JSON + 1)
    except ZIP_DAMAGE as error:
        raise InputError(f"{path}: damaged zip file ({str(error)[:80]}); copy it again") from None
    if len(data) > LARGEST_JSON:
        raise InputError(f"{path}: too large (found over {LARGEST_JSON / 1e6:.0f} MB of annotations); {ADVICE}")
    if check_xml(data, path) != "annotations":
        raise InputError(f"{path}: {CVAT_IN_ZIP} is not CVAT's; {ADVICE}")
    return "cvat", data, read_cvat

"""Find annotation files and read them; their content tells the format."""

from pathlib import Path

from common.annotations.labelme import is_labelme, read_labelme
from common.errors import InputError
from common.files import read_json
from common.parallel import ordered_map, progress
from common.slices.finding import OTHER, read_regular, walk

ENDINGS = (".json",)
FORMATS = {"labelme": "LabelMe"}


def find_annotations(root, skipped):
    """Annotation files in a folder, or one file.

    Args:
        root: setting ANNOTATIONS.
        skipped: list of (reason, Path) of `common.slices.finding.walk` for the same folder, or None; annotation files
            are removed from it.

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
    if skipped is None:
        skipped = walk(root)[1]
    files = [path for reason, path in skipped if reason == OTHER and path.suffix.lower() in ENDINGS]
    if not files:
        raise InputError(f"ANNOTATIONS: no file in {root} ends in {', '.join(ENDINGS)}; choose another folder")
    skipped[:] = [(reason, path) for reason, path in skipped if path not in files]
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
    read_regular(path)
    content = read_json(path)
    if is_labelme(content):
        return "labelme", content, read_labelme
    raise InputError(
        f"{path}: not an annotation file (expected one of {', '.join(FORMATS.values())}); remove it or export it again"
    )

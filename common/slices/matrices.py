"""Images stored as numbers: text with a line for each row of pixels, and NumPy's .npy, also with several slices."""

import glob
import io
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError
from common.files import natural_key, read_bytes
from common.slices.cases import Slice
from common.slices.finding import OTHER, read_regular, report_skipped, walk
from common.slices.images import refuse_tiny
from common.slices.matching import IMAGE_FOLDERS, MASK_FOLDERS, root_and_name

TEXT_ENDINGS, ARRAY_ENDING = (".csv", ".txt", ".tsv", ".dat"), ".npy"
ENDINGS = (*TEXT_ENDINGS, ARRAY_ENDING)
SIDES = {"images": (MASK_FOLDERS, IMAGE_FOLDERS), "masks": (IMAGE_FOLDERS, MASK_FOLDERS)}  # folders to skip, to drop
MAGIC = b"\x93NUMPY"


# --- finding


def stem_of(name):
    """Name of a file without one of ENDINGS; other endings may be parts of names."""
    return name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in ENDINGS else name


def find_matrices(source, setting, side="images"):
    """Find files of numbers in a folder and its subfolders, and report the others.

    Args:
        source: folder; pattern of a path with {id} in the file name, such as "sets/images_{id}.npy"; or one file.
        setting: setting name for messages.
        side: "images" or "masks"; subfolders with names of the other side are skipped.

    Returns:
        Path of the folder, and dict of (subfolder, name) to Path in natural order; subfolders called "images" and so on
        are no part of the key. One file has the key ("", "").

    Raises:
        InputError: if the folder does not exist, or two files would have the same key.
    """
    if Path(source).is_file():
        return Path(source).parent, {("", ""): Path(source)}
    root, pattern = root_and_name(source, setting)
    expression = re.escape(pattern or "{id}").replace(r"\{id\}", "(?P<id>.+)").replace(r"\{case\}", ".+")
    skip, drop = SIDES[side]
    images, others = walk(root)
    report_skipped([(reason, path) for reason, path in others if reason != OTHER])
    files = images + [path for reason, path in others if reason == OTHER]
    found = {}
    for path in sorted(files, key=lambda path: natural_key(path.relative_to(root))):
        fits = re.fullmatch(expression, path.name, re.DOTALL)
        folders = path.parent.relative_to(root).parts
        last = folders[-1].lower() if folders else ""
        if not fits or last in skip:
            continue
        key = "_".join(folders[:-1] if last in drop else folders), stem_of(fits["id"])
        if key in found:
            raise InputError(f"{setting}: {path} would become the same case as {found[key]}; rename one")
        found[key] = path
    return root, found


class MatrixSlice(NamedTuple):
    """A slice in a file of numbers.

    Attributes:
        path: the file.
        index: its index in the file.
    """

    path: Path
    index: int

    @property
    def parent(self):
        return self.path.parent

    @property
    def stem(self):
        return self.path.stem

    def __str__(self):
        return f"{self.path} (slice {self.index + 1})" if self.index else str(self.path)

    def read(self):
        """(H, W) array; raises InputError as `read_matrices`."""
        return read_matrices(self.path)[self.index]


def find_matrix_slices(source, setting, side="masks"):
    """Find the slices of files of numbers, with the names that predict.py gives them.

    Args:
        As for `find_matrices`; a folder with both sides inside has the masks in subfolders.

    Returns:
        list of `common.slices.cases.Slice` with MatrixSlices as paths; the case is empty for files with one slice, and
        for a single file.

    Raises:
        InputError: if there are none, or a file cannot be read.
    """
    _, files = find_matrices(source, setting, side)
    if not files:
        raise InputError(f"{setting}: no file of numbers in {source}; choose another folder or pattern")
    found = []
    for key, path in files.items():
        count, name = len(read_matrices(path)), "_".join(filter(None, key)) or stem_of(path.name)
        case = name if count > 1 and path != Path(source) else ""
        found += [Slice(case, f"{i + 1:04d}" if count > 1 else name, MatrixSlice(path, i)) for i in range(count)]
    return found


def has_masks_inside(folder):
    """Whether a folder has subfolders for images and for masks, at any depth."""
    names = {name.lower() for _, folders, _ in os.walk(folder) for name in folders}
    return bool(names & set(IMAGE_FOLDERS) and names & set(MASK_FOLDERS))


def are_matrices(path):
    """Whether a path is a file of numbers, or a folder or pattern with some and no images; a list is neither."""
    path = Path(path)
    if "{id}" in path.name and path.parent.is_dir():
        return any(map(_has_numbers, path.parent.rglob(glob.escape(path.name).replace("{id}", "*"))))
    if path.is_dir():
        images, others = walk(path)
        return not images and any(reason == OTHER and _has_numbers(file) for reason, file in others)
    return path.is_file() and _has_numbers(path)


def _has_numbers(path):
    """Whether a file starts as .npy, or as text with a number, not with a word as lists do; by its ending too."""
    if path.suffix.lower() not in (*ENDINGS, ""):
        return False
    start = read_bytes(path, 64).lstrip(b"\xef\xbb\xbf \t\r\n")
    return start.startswith(MAGIC) or bool(re.match(rb"[-+.\d]|nan|inf", start, re.I))


# --- reading and writing


def read_matrices(path):
    """Read a file of numbers as slices.

    Args:
        path: text with a line for each row, separated by commas, semicolons, tabs or spaces; or .npy.

    Returns:
        (N, H, W) array: float32 for text; for .npy its own type, mapped from the file, so that it needs no memory.

    Raises:
        InputError: if the file is empty or damaged, has rows of different lengths, another shape, or anything but
            finite numbers.
    """
    path = Path(path)
    values = _read_array(path) if path.suffix.lower() == ARRAY_ENDING else _read_text(path)[None]
    for number, matrix in enumerate(values):
        if not np.isfinite(matrix).all():
            row, column = np.argwhere(~np.isfinite(matrix))[0] + 1
            where = f"row {row}, column {column}" + (f" of slice {number + 1}" if len(values) > 1 else "")
            found = f"found {matrix[row - 1, column - 1]} in {where}"
            raise InputError(f"{path}: no finite number ({found}; a short row ends with nan); export it again")
    refuse_tiny(values[0], path)
    return values


def _read_text(path):
    import pandas as pd  # takes half a second, and .npy does without

    data = read_regular(path)
    if b"\0" in data[:4096]:
        raise InputError(f"{path}: not text (binary data or UTF-16); save it as UTF-8, or an array as .npy by np.save")
    first = next((line for line in data.removeprefix(b"\xef\xbb\xbf").splitlines() if line.strip()), b"")
    separator = next((sign for sign in (";", "\t", ",") if sign.encode() in first), r"\s+")
    decimal = "," if separator != "," and b"," in first else "."
    options = {"header": None, "dtype": np.float32, "comment": None, "sep": separator, "decimal": decimal}
    try:
        return pd.read_csv(io.BytesIO(data), **options).to_numpy()
    except (ValueError, OverflowError, pd.errors.ParserError) as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"{path}: not a matrix of numbers ({reason}); export it again") from None


def _read_array(path):
    if not path.is_file() or not path.stat().st_size:
        read_regular(path)  # says what it is
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy reads the header as Python, whose tokenizer raises anything
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InputError(f"{path}: not an array of NumPy, or damaged ({reason}); save it again with np.save") from None
    if values.dtype.kind not in "biuf":
        raise InputError(f"{path}: expected numbers (found {values.dtype}); save it again as numbers")
    squeezed = as_slices(values)
    if squeezed is None:
        shape = "x".join(map(str, values.shape))
        raise InputError(
            f"{path}: expected (rows, columns) or (slices, rows, columns), with axes of length 1 (found {shape}); "
            "save it again"
        )
    return squeezed


def array_shape(path):
    """Shape of the array in a .npy file that `read_matrices` has read; None for text."""
    return np.load(path, mmap_mode="r", allow_pickle=False).shape if path.suffix.lower() == ARRAY_ENDING else None


def as_slices(values):
    """View of an array (H, W) or (N, H, W), which may have further axes of length 1, as (N, H, W); otherwise None."""
    if values.ndim > 2:
        values = values.reshape([n for n in values.shape if n != 1])
    if values.ndim not in (2, 3) or 0 in values.shape:
        return None
    return values.reshape(-1, *values.shape[-2:])


def write_matrix(path, numbers):
    """Write integers (H, W) as text with commas, or an array of any shape as .npy, by the ending of the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ARRAY_ENDING:
        np.save(path, numbers)
    else:
        np.savetxt(path, numbers, fmt="%d", delimiter=",")

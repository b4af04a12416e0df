"""Write files and folders completely or not at all, and never lose existing results."""

import gzip
import hashlib
import json
import os
import re
import shutil
import zlib
from contextlib import contextmanager
from pathlib import Path

from common.errors import InputError

ROOT = Path(__file__).resolve().parents[1]  # project root


@contextmanager
def whole_file(path):
    """Write a file under a temporary name and rename it when complete.

    Args:
        path: final path; its folder is created.

    Yields:
        Path to write to. If the block raises, this file is removed and `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".part-{path.name}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def whole_folder(path, replace=False, marker=None):
    """Fill a folder under a temporary name and rename it when complete.

    Args:
        path: final path.
        replace: whether to replace an existing folder.
        marker: replace only folders that contain this file, to protect a user's own folders; None: any folder.

    Yields:
        Path of an empty folder to fill. If the block raises, it is removed and `path` stays as it was. A block can
        remove it to write no folder.

    Raises:
        InputError: if `path` exists and must not be replaced.
    """
    path = Path(path)
    refuse_existing(path, replace, marker)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".part-{path.name}")
    old = path.with_name(f".part-old-{path.name}")
    remove(unfinished)
    unfinished.mkdir()
    try:
        yield unfinished
        if not unfinished.exists():
            return
        remove(old)
        if path.exists():
            path.rename(old)
        unfinished.rename(path)
    finally:
        remove(unfinished)
        remove(old)


def remove(path):
    """Remove a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def refuse_existing(path, replace, marker=None):
    """Raise InputError if `path` exists and must not be replaced; arguments as in `whole_folder`."""
    path = Path(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not replace:
        raise InputError(f"{path}: already exists; use another path or pass --replace to overwrite it")
    if marker and not (path / marker).is_file():
        raise InputError(f"{path}: not made by this script (no {marker} in it); use another path")


def require_whole_gzip(path, least=None):
    """Raise InputError if a gzip file is cut short or damaged; some readers silently ignore that.

    Args:
        path: path of the file.
        least: minimum size in bytes of the unpacked content. If the last four bytes, the length, agree, the file is not
            unpacked for the check.
    """
    with open(path, "rb") as file:
        file.seek(-min(4, os.path.getsize(path)), os.SEEK_END)
        length = int.from_bytes(file.read(), "little")
    if least is not None and (length - least) % 2**32 < 2**16:  # headers are small; the length is modulo 2^32
        return
    try:
        with gzip.open(path) as file:
            while file.read(2**20):
                pass
    except (EOFError, OSError, zlib.error):
        raise InputError(f"{path}: damaged or cut short; copy or make it again") from None


def write_json(path, value):
    """Write an indented JSON file, complete or not at all."""
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def read_json(path):
    """Read a JSON file.

    Raises:
        InputError: if the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: file does not exist") from None
    except ValueError:
        raise InputError(f"{path}: damaged (not a JSON file); restore it or make it again") from None


def file_digest(path):
    """SHA-256 of a file, as hexadecimal text."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def natural_key(text):
    """Sort key that puts `slice2` before `slice10`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(text))]

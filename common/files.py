"""Files that appear whole or not at all, and existing results that are not lost."""

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

ROOT = Path(__file__).resolve().parents[1]  # of the project


@contextmanager
def whole_file(path):
    """Write a file under another name in its folder and rename it once it is complete.

    Args:
        path: where the file shall appear; its folder is made.

    Yields:
        Path to write to. Where the block raises, the file is removed and what stood at `path` stays.
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
    """Fill a folder under another name beside it and rename it once it is complete.

    Args:
        path: where the folder shall appear.
        replace: whether a folder that stands there is replaced.
        marker: file that a folder must hold to be replaced, so that none of a user's own is; None: any.

    Yields:
        Path of the folder to fill, empty. Where the block raises, it is removed and what stood at `path` stays; a
        block that wants no folder removes it itself.

    Raises:
        InputError: if `path` exists and is not to be replaced.
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
    """Remove a file or a folder, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def refuse_existing(path, replace, marker=None):
    """Raise InputError where something stands at `path` that may not be replaced; arguments as `whole_folder`."""
    path = Path(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not replace:
        raise InputError(f"{path} exists; name another place, or give --replace to write over it")
    if marker and not (path / marker).is_file():
        raise InputError(f"{path} was not made by this script (it has no {marker}); name another place")


def require_whole_gzip(path, least=None):
    """Raise InputError where a gzip file was cut short or damaged, which some readers pass over in silence.

    Args:
        path: the file.
        least: bytes that it holds at least once it is unpacked; where its last four bytes, the length, agree with that,
            it is not unpacked to look.
    """
    with open(path, "rb") as file:
        file.seek(-min(4, os.path.getsize(path)), os.SEEK_END)
        length = int.from_bytes(file.read(), "little")
    if least is not None and (length - least) % 2**32 < 2**16:  # a header is small, and the length is modulo 2^32
        return
    try:
        with gzip.open(path) as file:
            while file.read(2**20):
                pass
    except (EOFError, OSError, zlib.error):
        raise InputError(f"{path} is damaged or cut short; copy or make it again") from None


def write_json(path, value):
    """Write a JSON file, indented, whole or not at all."""
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def read_json(path):
    """Read a JSON file.

    Raises:
        InputError: if it is not there or is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except ValueError:
        raise InputError(f"{path} is damaged: it is not a JSON file") from None


def file_digest(path):
    """SHA-256 of a file, as text."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def natural_key(text):
    """Sort key that puts `slice2` before `slice10`."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(text))]

"""Write files completely or not at all, and read records that other programs may have damaged."""

import hashlib
import json
import os
import re
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import InputError
from common.system_errors import UNFINISHED, errors_of

ROOT = Path(__file__).resolve().parents[1]  # project root
LARGEST_JSON = 2**28  # bytes; our largest records have a few MB


@contextmanager
def whole_file(path):
    """Write a file under a temporary name, flush it to disk, and rename it when complete.

    Args:
        path: final path; its folder is created. A link is replaced, not followed.

    Yields:
        Path to write to, with the same ending. If the block raises, this file is removed and `path` stays as it was. A
        `path` that is such a temporary name itself is written directly: its owner renames or removes it, and finds it
        after a kill.
    """
    path = Path(path)
    if path.name.startswith(UNFINISHED):
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(unfinished_name(path.name))
    try:
        with errors_of(path):
            yield unfinished
            flush(unfinished)
            os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def put_file(path, content, aside):
    """Write a file of a staging folder, whole or not at all; several processes may write the same content.

    Args:
        path: Path in an existing folder.
        content: bytes.
        aside: Path of an existing folder on the same disk; a process that is killed leaves an incomplete file there.
    """
    unfinished = aside / unfinished_name(path.name)
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def unfinished_name(name):
    """Temporary name for a file or folder, different at each call; it keeps the ending of `name`."""
    return f"{UNFINISHED}{secrets.token_hex(6)}-{os.fsdecode(os.fsencode(name)[-200:])}"


def flush(path):
    """Wait until a file or folder is on disk, if its file system can do that."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def flush_all(folder):
    """Wait until a folder with everything below it is on disk."""
    paths = [path for path in [*folder.rglob("*"), folder] if not path.is_symlink()]
    if len(paths) > 1000 and hasattr(os, "sync"):
        os.sync()  # of all file systems, which takes less than so many files one by one
        return
    with ThreadPoolExecutor(16) as pool:  # file systems write what waits at the same time in one go
        list(pool.map(flush, paths))


def remove(path):
    """Remove a file or a folder, if it exists; a link is removed, not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, onerror=_raise_unless_gone)
    else:
        path.unlink(missing_ok=True)


def _raise_unless_gone(function, path, found):
    """For `shutil.rmtree`: what another process has removed meanwhile is no error."""
    if not isinstance(found[1], FileNotFoundError):
        raise found[1]


def real_path(path):
    """Absolute Path without links, as `Path.resolve`, which raises a RuntimeError for a link to itself."""
    return Path(os.path.realpath(path))


def one_name(name, where):
    """Check a name that was read from a file before it becomes part of a path.

    Args:
        name: value read from the file.
        where: file and field for the message.

    Returns:
        The name: text that is exactly one component of a path, and no hidden or unfinished file.

    Raises:
        InputError: if it is anything else, such as "..", "a/b" or an absolute path.
    """
    text = name if isinstance(name, str) else ""
    if not text or text.startswith(".") or re.search(r"[/\\\0]|^[A-Za-z]:", text) or len(os.fsencode(text)) > 255:
        raise InputError(f"{where}: expected the name of a file or folder, without a path (found {str(name)[:80]!r})")
    return text


def write_json(path, value):
    """Write an indented JSON file, complete or not at all."""
    with whole_file(path) as unfinished:
        unfinished.write_text(json_text(value), encoding="utf-8")


def json_text(value):
    """A value as the indented text of our JSON files."""
    return json.dumps(value, indent=1) + "\n"


def read_json(path):
    """Read a JSON file; a byte order mark is skipped.

    Raises:
        InputError: if the file is missing, not JSON, nested too deeply, or larger than LARGEST_JSON.
    """
    path = Path(path)
    damaged = "restore it or make it again"
    try:
        if not path.is_file():
            raise InputError(f"{path}: {'not a file' if path.exists() else 'file does not exist'}")
        if path.stat().st_size > LARGEST_JSON:
            raise InputError(f"{path}: too large for a record (found {path.stat().st_size / 1e6:.0f} MB); {damaged}")
        return json.loads(read_bytes(path).decode("utf-8-sig"))
    except RecursionError:
        raise InputError(f"{path}: damaged (lists or objects nested too deeply); {damaged}") from None
    except ValueError:
        raise InputError(f"{path}: damaged (not a JSON file); {damaged}") from None


def read_bytes(path, count=-1):
    """Content of a file, or its first `count` bytes. If the disk fails, OSError contains the path, as open does."""
    with errors_of(path), open(path, "rb") as file:
        return file.read(count)


def file_digest(path):
    """SHA-256 of a file, as hexadecimal text."""
    with errors_of(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def natural_key(text):
    """Sort key that puts `slice2` before `slice10`, and no two names in the same place (`slice1`, `slice01`)."""
    text = str(text)
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)], text

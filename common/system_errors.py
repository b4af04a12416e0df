"""Errors of the system in plain words: a full disk, a missing permission and the like, whichever library reports it."""

import errno
import os
import re
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

UNFINISHED = ".part-"  # start of the names of incomplete files and folders
NEARLY_FULL = 2**20  # bytes; with less free space, an unexplained failure to write means a full disk


class Reason(NamedTuple):
    """What a system error means.

    Attributes:
        problem: text after the path.
        remedy: what to do.
        said: pattern of the texts with which libraries report it without its number.
    """

    problem: str
    remedy: str
    said: str = ""


REASONS = {
    errno.ENOSPC: Reason(
        "the disk is full", "free some space and run again", "No space left|disk is full|not enough space on the disk"
    ),
    errno.EDQUOT: Reason("the disk quota is used up", "remove some files and run again", "quota exceeded"),
    errno.EFBIG: Reason(
        "the file gets too large for this disk or for ulimit -f",
        "raise the limit or use another disk",
        "File too large",
    ),
    errno.EACCES: Reason(
        "no permission (Permission denied)",
        "check the owner and the mode, or use another path",
        "Permission denied|attempt to write a readonly database|unable to open database file",
    ),
    errno.EPERM: Reason(
        "no permission (Operation not permitted)",
        "check the owner and the mode, or use another path",
        "Operation not permitted",
    ),
    errno.EROFS: Reason("read-only file system", "use another path", "Read-only file system"),
    errno.EMFILE: Reason("too many open files", "raise the limit with ulimit -n", "Too many open files"),
    errno.ENFILE: Reason("too many open files on this machine", "close other programs"),
    errno.ENAMETOOLONG: Reason("the name is too long", "use a shorter one", "File ?name too long"),
    errno.EIO: Reason(
        "the disk failed (input/output error)",
        "check the disk, or use another one",
        "Input/output error|disk I/O error",
    ),
    errno.ESTALE: Reason("the network share has changed", "run again", "Stale file handle"),
    errno.EBUSY: Reason("another program uses it", "close that program and run again"),
}
WITHOUT_TEXT = {  # only Python reports these by number; readers of files have messages of their own
    errno.ENOENT: Reason("does not exist", "check the path"),
    errno.EEXIST: Reason("already exists", "use another path"),
    errno.EISDIR: Reason("expected a file (found a folder)", "use another path"),
    errno.ENOTDIR: Reason("expected a folder (found a file)", "use another path"),
    errno.ENOTEMPTY: Reason("the folder is not empty", "use another path"),
    errno.ELOOP: Reason("its links lead in a circle", "use another path"),
}


def number_of(error, path=None):
    """Number of the system error behind an exception: a key of REASONS, or None.

    Args:
        error: exception of Python or of any library; what caused it is looked at too.
        path: what was written or read; a failure that no text explains means a full disk if this one is full.
    """
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        number = getattr(error, "errno", None)
        if number not in REASONS:
            said = (n for n, reason in REASONS.items() if reason.said and re.search(reason.said, str(error), re.I))
            number = next(said, None)
        if number == errno.EIO and path is not None and is_full(path):
            return errno.ENOSPC
        if number is not None:
            return number
        error = error.__cause__ or error.__context__
    return None


def is_full(path):
    """Whether the disk of a path, existing or not, has no space or no free entry left; /proc, without blocks, never."""
    place = next((p for p in (Path(path).absolute(), *Path(path).absolute().parents) if p.exists()), None)
    if place is None or not hasattr(os, "statvfs"):
        return False
    disk = os.statvfs(place)
    no_space = disk.f_blocks > 0 and disk.f_bavail * disk.f_frsize < NEARLY_FULL
    return no_space or (disk.f_files > 0 and disk.f_favail == 0)


def as_system_error(error, path):
    """OSError with number and file name for an exception that a system error caused; otherwise None.

    Args:
        error: exception of Python or of any library.
        path: what was written or read.
    """
    number = number_of(error, path)
    if number is None:
        return None
    place = getattr(error, "filename", None)
    if place is not None and _is_unfinished(place):
        place = path
    if place is None and number == errno.ENOSPC and not is_full(path) and is_full(tempfile.gettempdir()):
        place = tempfile.gettempdir()
    return OSError(number, os.strerror(number), os.fspath(place or path))


def _is_unfinished(place):
    """Whether a path is below a temporary name of `common.files`, which tells a user nothing."""
    return isinstance(place, str | bytes | os.PathLike) and UNFINISHED in os.fsdecode(place)


def raise_system_error(error, path):
    """Raise `as_system_error`, if there is one; for handlers that would report it as damage."""
    if system_error := as_system_error(error, path):
        raise system_error from error


@contextmanager
def errors_of(path):
    """Raise system errors of any library inside the block as OSError that contains `path`; other errors pass."""
    try:
        yield
    except Exception as error:
        if getattr(error, "names_file", False):
            raise
        system_error = as_system_error(error, path)
        named = getattr(error, "filename", None)
        if system_error is None or (getattr(error, "errno", None) in REASONS and named and not _is_unfinished(named)):
            raise
        raise system_error from error


def in_words(error):
    """Describe an OSError: "<path>: <problem>; <what to do>"."""
    reasons = REASONS | WITHOUT_TEXT
    reason = reasons.get(error.errno) or reasons.get(number_of(error))
    name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    if reason is None:
        return f"{name}: {error.strerror or error}" if name else str(error)
    remedy = reason.remedy
    if name and str(name) == tempfile.gettempdir():
        remedy += ", or set TMPDIR to a folder on another disk"
    return f"{name}: {reason.problem}; {remedy}" if name else f"{reason.problem}; {remedy}"


def why_unreadable(path):
    """Why a path is not a file that can be read, as text for a message."""
    try:
        return "a folder, not a file" if stat.S_ISDIR(os.stat(path).st_mode) else "not a regular file"
    except OSError as error:
        return REASONS[error.errno].problem if error.errno in REASONS else "file does not exist"
    except ValueError:  # a name that the system does not accept
        return "not a file name"

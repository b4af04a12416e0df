"""Journals of `common.replacing`: what is to be put in its place, so that another process can finish it."""

import ctypes
import os
import sys
from typing import Literal

from pydantic import Field

from common.files import flush, write_json
from common.records import Record

JOURNAL, NEW, OLD = "journal.json", "new", "old"  # in a staging folder


class Journal(Record):
    """What a process was about to do when everything new was complete."""

    format: Literal[1] = 1
    entries: dict[str, int] = Field(default_factory=dict)  # relative path to the inode number of the new entry
    replaced: dict[str, list[int]] = Field(default_factory=dict)  # relative path to `identity` of the old entry
    removed: list[str] = Field(default_factory=list)  # relative paths that disappear in the same step
    leader: str = ""  # staging folder elsewhere; this journal counts only while that one has a journal
    followers: list[str] = Field(default_factory=list)  # staging folders elsewhere that are carried out before this one


def write_journal(staging, root, names, **fields):
    """Write the journal of a staging folder whose entries `names` are complete and on disk.

    Args:
        staging: Path of the folder.
        root: Path of the folder in which the entries get their places.
        names: list of relative paths.
        fields: further fields of `Journal`.

    Returns:
        Journal.
    """
    entries = {name: os.lstat(staging / NEW / name).st_ino for name in names}
    replaced = {name: identity(root / name) for name in names if os.path.lexists(root / name)}
    journal = Journal(entries=entries, replaced=replaced, **fields)
    write_json(staging / JOURNAL, journal.model_dump())
    flush(staging)
    return journal


def carry_out(staging, root, journal):
    """Do what a Journal says; what is done already is skipped.

    Manifests, which know the old results, are the last entries, so that the next script can check the others.
    """
    for name in journal.removed:
        old = staging / OLD / name
        if os.path.lexists(root / name) and not os.path.lexists(old):
            old.parent.mkdir(parents=True, exist_ok=True)
            os.rename(root / name, old)
    for name, inode in journal.entries.items():
        new, old, final = staging / NEW / name, staging / OLD / name, root / name
        if not os.path.lexists(new) or os.lstat(new).st_ino != inode:
            continue  # done
        old.parent.mkdir(parents=True, exist_ok=True)
        if not put(new, final):
            if not os.path.lexists(old):
                os.rename(final, old)
            os.rename(new, final)
    for folder in {(root / name).parent for name in (*journal.entries, *journal.removed)}:
        flush(folder)
    (staging / JOURNAL).unlink()


def put(new, final):
    """Put a file or folder in its place in one step; returns False if the system or the file system cannot do that."""
    final.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(final) and (new.is_dir() or (final.is_dir() and not final.is_symlink())):
        return exchange(new, final)
    os.replace(new, final)
    return True


def identity(path):
    """Inode number and time of the last change in ns of an entry, which no stranger's journal can contain."""
    status = os.lstat(path)
    return [status.st_ino, status.st_mtime_ns]


def exchange(first, second):
    """Exchange two names in one step; returns False if the system or the file system cannot do that."""
    library = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    paths = os.fsencode(first), os.fsencode(second)
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        here = -100  # AT_FDCWD
        return library.renameat2(here, paths[0], here, paths[1], ctypes.c_uint(2)) == 0  # 2: RENAME_EXCHANGE
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        return library.renamex_np(*paths, ctypes.c_uint(2)) == 0  # 2: RENAME_SWAP
    return False

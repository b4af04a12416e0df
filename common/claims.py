"""Claims: keep two processes off one output."""

import glob
import json
import os
import signal
import socket
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from common.errors import InputError
from common.files import UNFINISHED, read_json, real_path
from common.system_errors import errors_of

LOCK_OF, OWNER_OF = ".part-lock-", ".part-owner-"  # starts of the names of the files of a claim

_claims = {}  # path to the number of blocks of this process that claim it
_claims_lock = threading.Lock()


@contextmanager
def claimed(path, wait=False):
    """Keep other processes from writing a path during the block.

    The lock file and the file that says who has it are next to the path and are removed at the end. The system frees
    the lock of a process that dies. On file systems without locks there is none.

    Args:
        path: path of a file or folder, which may be missing; a link is followed.
        wait: whether to wait for another process instead of raising.

    Raises:
        InputError: if another process claims it; the message contains which.
    """
    final = real_path(path)
    with _claims_lock:
        is_ours = _claims.get(final, 0) > 0
        if is_ours:
            _claims[final] += 1
    if is_ours:
        try:
            yield
        finally:
            _claims[final] -= 1
        return
    missing = [folder for folder in final.parents if not folder.exists()]
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with _lock_file(final, path, wait):
            _claims[final] = 1
            for left in final.parent.glob(f"{UNFINISHED}????????????-{glob.escape(final.name[-200:])}"):
                if left.is_file() and not left.is_symlink():
                    left.unlink(missing_ok=True)
            try:
                yield
            finally:
                del _claims[final]
    finally:
        for folder in missing:
            with suppress(OSError):  # not empty
                folder.rmdir()


def is_claimed(path):
    """Whether a process of this machine is writing a path now."""
    final = real_path(path)
    lock = final.with_name(LOCK_OF + os.fsdecode(os.fsencode(final.name)[-200:]))
    if not lock.is_file() or lock.is_symlink():
        return False
    try:
        with held(lock):
            return False
    except PermissionError:  # unknown
        return False
    except OSError:
        return True


def remove_abandoned(folder, names):
    """Remove half-written files in a folder, Path, of files like `names`, unless a process is writing them."""
    for path in folder.glob(f"{UNFINISHED}????????????-{names}"):
        with suppress(InputError), claimed(path.with_name(path.name.split("-", 2)[2])):
            pass  # claiming removes what a killed process left


@contextmanager
def _lock_file(final, path, wait):
    """Hold the lock file of a path; `path` as the user knows it, for messages."""
    name = os.fsdecode(os.fsencode(final.name)[-200:])
    lock = FileLock(final.with_name(LOCK_OF + name), poll_interval=0.01)
    owner = final.with_name(OWNER_OF + name)
    try:
        with errors_of(path):
            lock.acquire(timeout=-1 if wait else 1)  # others hold it for a moment to see whether it is in use
    except Timeout:
        holder = _owner(owner) or _holder(lock.lock_file) or "unknown script"
        raise InputError(f"{path}: another process is writing it ({holder}); wait for it, or stop it") from None
    except NotImplementedError:  # a file system without locks
        yield
        return
    try:
        owner.unlink(missing_ok=True)
        with suppress(OSError):  # it only serves messages
            text = {"script": Path(sys.argv[0]).name, "process": os.getpid(), "machine": socket.gethostname()}
            owner.write_text(json.dumps(text), encoding="utf-8")
        yield
    finally:
        with undisturbed():
            owner.unlink(missing_ok=True)
            with suppress(OSError):  # Windows cannot remove open files
                Path(lock.lock_file).unlink()  # while locked: a waiting process notices this and makes a new one
            lock.release()


def _owner(path):
    """Describe who holds a lock, as text, by what it wrote; "" if it has not yet, or no longer."""
    with suppress(InputError, KeyError, TypeError, OSError):
        found = read_json(path)
        return f"{found['script']}, process {found['process']} on {found['machine']}"
    return ""


def _holder(lock):
    """Describe who holds a lock file, as text, by what Linux says; "" if it does not."""
    with suppress(OSError, ValueError):
        inode, locks = str(os.stat(lock).st_ino), Path("/proc/locks").read_text(encoding="ascii")
        for fields in map(str.split, locks.splitlines()):
            if "FLOCK" in fields and "->" not in fields and fields[5].split(":")[-1] == inode and int(fields[4]) > 0:
                return f"process {fields[4]} on {socket.gethostname()}"
    return ""


@contextmanager
def held(path):
    """Hold a lock file that a process left; the block does not start if one has it."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except (Timeout, NotImplementedError) as error:
        raise OSError(f"{path}: locked") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def undisturbed():
    """Put Ctrl-C off until the block ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.default_int_handler)
    if came:
        raise KeyboardInterrupt

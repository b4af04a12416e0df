"""The error rule: every user error prints one message and exits with status 1 (2 for a setting), without a traceback.

The environment variable SHOW_TRACEBACK=1 shows the traceback too.
"""

import errno
import os
import re
import sys
import threading
import traceback
from contextlib import contextmanager
from pathlib import Path

from common import STOPPED, missing_package, system_errors
from common.streams import on_own_lines

CRASHES_HDF5 = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # after a failure to write, it crashes at exit
NOT_CLOSED = "Can't decrement id ref count"  # of h5py, which then calls sys.excepthook by itself


class InputError(Exception):
    """Bad input. The text reports the file, the problem, what was expected and what to do."""

    names_file = True  # so `common.system_errors.errors_of` does not name another one


class SettingError(InputError):
    """An invalid setting; the script exits with status 2."""


@contextmanager
def as_input_error(where):
    """Turn a ValueError from a library that reads user data into an InputError that starts with `where`."""
    try:
        yield
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


@contextmanager
def as_setting_error(setting):
    """Turn a ValueError from a library that uses a setting into a SettingError that starts with its name."""
    try:
        yield
    except ValueError as error:
        raise SettingError(f"{setting}: {error}") from error


def summarize(problems, what):
    """Make one message for many bad files: the count and the first ten; a problem that all share is said once.

    Args:
        problems: list of str, one per file.
        what: text after the count, such as "masks cannot be used".
    """
    if len(problems) == 1:
        return problems[0]
    files, said = zip(*(problem.partition(": ")[::2] for problem in problems), strict=True)
    shared = said[0] if len(set(said)) == 1 and said[0] else ""
    head = f"{len(problems)} {what}: {shared}" if shared else f"{len(problems)} {what}:"
    lines = [head, *(f"  {line}" for line in (files if shared else problems)[:10])]
    if len(problems) > 10:
        lines.append(f"  ... and {len(problems) - 10} more")
    return "\n".join(lines)


def name_broken(problems, what, done, skip):
    """Report files that an importer could not use: an error, unless others were imported and `skip` is set.

    Args:
        problems, what: as in `summarize`.
        done: number of imported files.
        skip: the setting SKIP_BROKEN.
    """
    if not problems:
        return
    message = summarize(problems, what)
    if not (skip and done):
        others = "\n  Imported the others; pass --skip-broken to exit with status 0." if done else ""
        raise InputError(message + others)
    print(message)


def is_out_of_memory(text):
    """Whether an error message from Python, Keras or a backend means out of memory."""
    said = r"out.?of.?memory|\bOOM\b|Resource.?Exhausted|bad_alloc|MemoryError|failed to map seg|cannot allocate memory"
    return bool(re.search(said, text, re.I))


def report_error(kind, error, trace):
    """Hook for `sys.excepthook`: print user errors as one message, and our own errors as a traceback."""
    script = Path(sys.argv[0]).name
    if NOT_CLOSED in str(error):
        return  # h5py calls this hook when it cannot close a file; the error of writing follows
    if os.environ.get("SHOW_TRACEBACK") == "1":
        traceback.print_exception(kind, error, trace)
    if issubclass(kind, KeyboardInterrupt):
        print(f"\n{script}: {STOPPED}", file=sys.stderr)
    elif issubclass(kind, InputError):
        print(f"{script}: error: {on_own_lines(str(error))}", file=sys.stderr)
    elif issubclass(kind, ModuleNotFoundError):
        print(f"{script}: error: {missing_package(error)}", file=sys.stderr)
    elif issubclass(kind, OSError):
        print(f"{script}: error: {on_own_lines(system_errors.in_words(error))}", file=sys.stderr)
    elif issubclass(kind, MemoryError) or (issubclass(kind, ImportError) and is_out_of_memory(str(error))):
        what = str(error) if str(error).endswith(": out of memory") else "out of memory"  # with the file, if known
        print(f"{script}: error: {on_own_lines(what)}; use a smaller size or batch size", file=sys.stderr)
    elif issubclass(kind, Exception) and (number := system_errors.number_of(error)):  # raised by a library
        reason = next(filter(None, str(error).splitlines()), kind.__name__)[:200]
        words = system_errors.in_words(OSError(number, os.strerror(number)))
        print(f"{script}: error: {on_own_lines(f'{words} ({reason})')}", file=sys.stderr)
    elif os.environ.get("SHOW_TRACEBACK") != "1":
        traceback.print_exception(kind, error, trace)
    if issubclass(kind, SettingError):
        sys.exit(2)


def ignore_unraisable(unraisable):
    """Hook for `sys.unraisablehook`: what a library raises while Python clears up follows from another error."""
    if os.environ.get("SHOW_TRACEBACK") == "1":
        sys.__unraisablehook__(unraisable)


def ignore_in_thread(failure):
    """Hook for `threading.excepthook`: the code that waits for a thread of a library reports its system errors."""
    if os.environ.get("SHOW_TRACEBACK") == "1" or not system_errors.number_of(failure.exc_value):
        threading.__excepthook__(failure)


def report_and_end(kind, error, trace):
    """`report_error`, for a script in its own process: also ends it before HDF5 can crash."""
    try:
        report_error(kind, error, trace)
    finally:
        if "h5py" in sys.modules and issubclass(kind, OSError) and system_errors.number_of(error) in CRASHES_HDF5:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(1)

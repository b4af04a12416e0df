"""The error rule: what a user can cause ends in one message and exit status 1 (2 for a setting), never in a traceback.

With the environment variable SHOW_TRACEBACK=1 the traceback is shown too.
"""

import errno
import os
import re
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path


class InputError(Exception):
    """Bad input. Its text names the file, what is wrong, what was expected and what to do."""


class SettingError(InputError):
    """A setting that cannot work; the script exits with status 2."""


@contextmanager
def as_input_error(where):
    """Turn a ValueError of a library that reads what a user brought into an InputError that names it."""
    try:
        yield
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


@contextmanager
def as_setting_error(setting):
    """Turn a ValueError of a library that takes what a user set into a SettingError that names the setting."""
    try:
        yield
    except ValueError as error:
        raise SettingError(f"{setting}: {error}") from error


def summarise(problems, what):
    """One message for many bad files: the count and the first ten.

    Args:
        problems: list of str, one a file.
        what: str after the count, for instance "masks cannot be used".
    """
    if len(problems) == 1:
        return problems[0]
    lines = [f"{len(problems)} {what}:", *(f"  {p}" for p in problems[:10])]
    if len(problems) > 10:
        lines.append(f"  ... and {len(problems) - 10} more")
    return "\n".join(lines)


def name_broken(problems, what, done, skip):
    """Name the files that an importer could not use: an error, unless others were imported and `skip` is set.

    Args:
        problems, what: as `summarise`.
        done: number of those that were imported.
        skip: the setting SKIP_BROKEN.
    """
    if not problems:
        return
    message = summarise(problems, what)
    if not (skip and done):
        raise InputError(message + ("\nThe others were imported; --skip-broken makes this no error." if done else ""))
    print(message)


def is_out_of_memory(text):
    """Whether an error message, of Python, Keras or a backend, says that memory ran out."""
    return bool(re.search(r"out.?of.?memory|\bOOM\b|Resource.?Exhausted|bad_alloc|MemoryError", text, re.I))


def report_error(kind, error, trace):
    """Hook for `sys.excepthook`: a user's mistake as one message, our own as a traceback."""
    script = Path(sys.argv[0]).name
    if os.environ.get("SHOW_TRACEBACK") == "1":
        traceback.print_exception(kind, error, trace)
    if issubclass(kind, KeyboardInterrupt):
        print(f"\n{script}: stopped by Ctrl-C; nothing half-written was left", file=sys.stderr)
    elif issubclass(kind, InputError):
        print(f"{script}: error: {error}", file=sys.stderr)
    elif issubclass(kind, OSError) and (error.errno == errno.ENOSPC or "No space left" in str(error)):
        where = f" while writing {error.filename}" if error.filename else ""
        print(f"{script}: error: the disk is full{where}; free some space and run again", file=sys.stderr)
    elif issubclass(kind, OSError):
        reason = f"{error.filename}: {error.strerror}" if error.filename else error
        print(f"{script}: error: {reason}", file=sys.stderr)
    elif issubclass(kind, MemoryError):
        print(f"{script}: error: out of memory; use a smaller size or batch", file=sys.stderr)
    elif os.environ.get("SHOW_TRACEBACK") != "1":
        traceback.print_exception(kind, error, trace)
    if issubclass(kind, SettingError):
        sys.exit(2)

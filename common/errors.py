"""The error rule: what a user can cause ends in one message and exit status 1, never in a traceback."""

import errno
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path


class InputError(Exception):
    """Bad input. Its text names the file, what is wrong, what was expected and what to do."""


@contextmanager
def as_input_error(where):
    """Turn a ValueError of the library, which takes what a user set, into an InputError that names the setting."""
    try:
        yield
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


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


def show_in_one_line(kind, error, trace):
    """Hook for `sys.excepthook`: a user's mistake as one message, our own as a traceback."""
    script = Path(sys.argv[0]).name
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
    else:
        traceback.print_exception(kind, error, trace)

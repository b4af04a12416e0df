"""Standard output and error that cannot end a script: any name can be printed, and nobody needs to read along."""

import contextlib
import errno
import os
import re
import sys
import warnings

STREAMS = ("stdin", "stdout", "stderr")
LIBRARIES = 2  # descriptor to which C++ libraries write
LONGEST_WORD = 4096  # characters, as of the longest path
# Control characters except tab and line feed, and marks that reorder text: a file name must not move the cursor.
OWN = ("__main__", "common", "coreml", "losses", "models")  # modules of the toolkit
CONTROL = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"


def printable(text):
    """Text with control characters as escapes, such as `\\x1b`; tabs and line feeds stay."""
    return re.sub(CONTROL, _escape, text)


def one_line(text):
    """`printable` text without line breaks and without bytes of file names that are not UTF-8, as for drawings."""
    text = printable(text).replace("\n", "\\n").replace("\t", "\\t")
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def as_utf8(text):
    """Text for a file of UTF-8: letters that the locale or a file name has as bytes are letters, others escapes."""
    try:
        content = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        content = text.encode("utf-8", "backslashreplace")
    return content.decode("utf-8", "backslashreplace")


def on_own_lines(message):
    """`printable` text in which only a line feed before two spaces starts a new line; others are in file names.

    Words longer than a path can be are shortened; a colon at their end stays.
    """
    message = re.sub(rf"(\S{{60}})\S{{{LONGEST_WORD - 60},}}?(:?)(?!\S)", r"\1...\2", message)
    return printable(re.sub(r"\n(?!  )", r"\\n", message))


def on_one_line(text):
    """What is printed at once, as `on_own_lines`, but a line feed at its end stays, and so do long words."""
    return printable(re.sub(r"\n(?!  |\Z)", r"\\n", text))


def print_lines(text):
    """Print a text of several lines, such as a table; within one `print`, only lines that begin with two spaces are."""
    print(*text.split("\n"), sep="\n", flush=True)


def _escape(match):
    return match[0].encode("unicode_escape").decode("ascii")


def prepare():
    """Make the standard streams safe and quiet; call before anything else opens a file.

    A closed stream becomes the null device. Characters that the encoding lacks become escapes, as do control characters
    of everything but progress bars, and line feeds within what a `print` of the toolkit prints to standard output. When
    the reader has gone (`| head`), the rest of the output is discarded. `sys.stderr` gets a descriptor of its own, so
    that what libraries write to descriptor 2 can be discarded alone.
    Warnings of libraries are not shown, unless Python was asked to (python -W, PYTHONWARNINGS).
    """
    _fill_closed()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    for name in STREAMS:
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8")  # noqa: SIM115  (stays open)
            setattr(sys, name, stream)
        if name == "stdin" or isinstance(stream, SafeStream):
            continue
        if stream is sys.__stderr__ and stream.fileno() == LIBRARIES:
            stream = open(os.dup(LIBRARIES), "w", 1, stream.encoding)  # noqa: SIM115  (stays open)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, SafeStream(stream, own_lines=name == "stdout"))


def _fill_closed():
    """Open the null device for closed descriptors below 3: a file opened there would receive what libraries print."""
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor < 3:
        os.set_inheritable(descriptor, True)
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)


class SafeStream:
    """A text stream whose `write` and `flush` escape control characters and discard what cannot be written.

    Args:
        raw: the stream itself, for progress bars, which move the cursor.
        own_lines: whether what the toolkit's modules write at once is `on_one_line`. Other modules, such as a user's
            own network, write as many lines as they like.
    """

    def __init__(self, raw, own_lines=False):
        self.raw, self.own_lines = raw, own_lines

    def __getattr__(self, name):
        return getattr(self.raw, name)

    def __iter__(self):
        return iter(self.raw)

    def write(self, text):
        is_own = self.own_lines and sys._getframe(1).f_globals.get("__name__", "").partition(".")[0] in OWN
        self._try(self.raw.write, on_one_line(text) if is_own else printable(text))
        return len(text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def flush(self):
        self._try(self.raw.flush)

    def _try(self, action, *arguments):
        try:
            action(*arguments)
        except OSError as error:
            self._discard()
            if error.errno != errno.EPIPE and self is not sys.stderr:
                print(f"standard output: {error.strerror}; the rest of it is lost", file=sys.stderr)

    def _discard(self):
        """Send this and all further output to the null device, of libraries and of scripts that this one starts too."""
        with contextlib.suppress(OSError, ValueError):  # a stream without a descriptor
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.raw.fileno())
            if self is sys.stderr:
                os.dup2(null, LIBRARIES)
            os.close(null)


def cursor_stream():
    """Standard error without escaping, for a progress bar."""
    return getattr(sys.stderr, "raw", sys.stderr)

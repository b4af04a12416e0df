"""Find image files in folders: count and report everything else, and never wait for what is not a file."""

import errno
import os
import re
import stat
import time
from pathlib import Path

from common.errors import InputError
from common.files import natural_key
from common.parallel import print_above
from common.streams import one_line
from common.words import number_of

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
JUNK = ("thumbs.db", "desktop.ini", "__macosx")  # what systems leave in folders, like hidden files
HIDDEN, OTHER, DANGLING, CIRCLE = "hidden or system", "of another type", "dangling link", "links in a circle"
SPECIAL, FOLDER, LINKED = "FIFO, device or socket", "folder with an image ending", "linked folder"
SUBFOLDER = "subfolder"  # only where images of subfolders are not used
QUIET_SECONDS, SAID_EVERY = 2, 10  # seconds until a search prints what it looks through, and prints it again
KINDS = {stat.S_ISDIR: "folder", stat.S_ISFIFO: "FIFO", stat.S_ISSOCK: "socket"}


def read_regular(path):
    """Read a file; a FIFO or device, which might never end, is refused without opening it.

    Args:
        path: path of the file.

    Returns:
        bytes, at least one.

    Raises:
        InputError: if the file is missing, empty, unreadable or not a regular file.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            kind = next((name for is_kind, name in KINDS.items() if is_kind(mode)), "device")
            raise InputError(f"{path}: not a regular file (found a {kind}); remove it or use another file")
        data = Path(path).read_bytes()
    except (FileNotFoundError, ValueError):  # ValueError: NUL in the path
        what = "link to a missing file" if os.path.islink(path) else "file does not exist"
        raise InputError(f"{path}: {what}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    if not data:
        raise InputError(f"{path}: file is empty (0 bytes); copy it again")
    return data


def scan(folder):
    """Sort the entries of a folder by what they are, without opening any.

    Args:
        folder: path.

    Returns:
        images (list of Path), subfolders (list of Path), and skipped (list of (reason, Path)), each sorted.
    """
    images, folders, skipped = [], [], []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            reason = _reason_to_skip(entry)
            path = Path(folder, entry.name)
            if reason:
                skipped.append((reason, path))
            else:
                (folders if entry.is_dir() else images).append(path)
    return images, folders, skipped


def _reason_to_skip(entry):
    if entry.name.startswith(".") or entry.name.lower() in JUNK:
        return HIDDEN
    is_image = Path(entry.name).suffix.lower() in IMAGE_ENDINGS
    if entry.is_symlink() and leads_in_a_circle(entry.path):
        return CIRCLE
    if entry.is_dir():
        return LINKED if entry.is_symlink() else FOLDER if is_image else None
    if entry.is_file():
        return None if is_image else OTHER
    return DANGLING if entry.is_symlink() and not os.path.exists(entry.path) else SPECIAL


def leads_in_a_circle(path):
    """Whether a link leads to itself, perhaps over others."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def walk(root):
    """Scan a folder with its subfolders.

    Returns:
        images (list of Path) and skipped (list of (reason, Path)).
    """
    images, skipped, waiting = [], [], [Path(root)]
    search = Search(root)
    while waiting:
        found, folders, others = scan(waiting.pop())
        images += found
        skipped += others
        waiting += reversed(folders)
        search.found(len(found) + len(others))
    return images, skipped


def all_below(root):
    """Paths of all files and folders below a folder, as `Path.rglob("*")`, which passes over unreadable folders.

    Raises:
        PermissionError: for such a folder.
    """
    search = Search(root)
    for folder, folders, files in os.walk(root, onerror=_refuse_unreadable):
        for name in (*folders, *files):
            search.found(1)
            yield Path(folder, name)


def _refuse_unreadable(error):
    if isinstance(error, PermissionError):  # others have gone meanwhile, as in /proc
        raise error


class Search:
    """Prints what a search looks through if it takes long, since the folder may be a whole disk by mistake."""

    def __init__(self, root):
        self._root, self._count, self._next = root, 0, time.monotonic() + QUIET_SECONDS

    def found(self, count):
        """Count files that the search passed."""
        self._count += count
        if time.monotonic() > self._next:
            self._next = time.monotonic() + SAID_EVERY
            print_above(f"looking through {self._root}: {number_of(self._count, 'file')} so far")


def report_skipped(skipped):
    """Print a line per reason: the number of skipped files, and the first ten names.

    Args:
        skipped: list of (reason, Path), from `scan` or `walk`.
    """
    by_reason = {}
    for reason, path in dict.fromkeys(skipped):
        by_reason.setdefault(reason, []).append(path.name)
    for reason, names in by_reason.items():
        shown = ", ".join(one_line(name) for name in names[:10]) + (", ..." if len(names) > 10 else "")
        print(f"skipped {number_of(len(names), 'file')} ({reason}): {shown}")


def find_images(root, files, name, skip, drop):
    """Choose the images under a folder whose names match a pattern.

    Args:
        root: folder.
        files: images in it and its subfolders, from `walk`.
        name: pattern with {id}; without a suffix it matches all suffixes. {case} becomes part of the subfolder.
        skip, drop: lower-case names of the last subfolder: skip images in one of `skip`, and drop a name in `drop` from
            the keys.

    Returns:
        dict of (subfolder, id) to Path.

    Raises:
        InputError: if two images have the same subfolder and id.
    """
    any_ending = not name.lower().endswith(IMAGE_ENDINGS)
    expression = re.escape(name).replace(r"\{id\}", "(?P<id>.+)").replace(r"\{case\}", "(?P<case>.+)")
    expression += r"\.[^.]+" if any_ending else ""
    found = {}
    for path in sorted(files, key=lambda path: natural_key(path.relative_to(root))):
        fits = re.fullmatch(expression, path.name, re.DOTALL)
        if not fits:
            continue
        folders = path.parent.relative_to(root).parts
        last = folders[-1].lower() if folders else ""
        if last in skip:
            continue
        case = fits.groupdict().get("case")
        key = "_".join([*(folders[:-1] if last in drop else folders), *([case] if case else [])]), fits["id"]
        if key in found:
            raise InputError(f"{path}: would become the same slice as {found[key]}; rename or remove one")
        found[key] = path
    return found

"""Give SimpleITK, which aborts on names that are not UTF-8 and misreads others, other names for such files."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path


def is_plain(path):
    """Whether a path is text that can be passed to SimpleITK; MetaImage takes % for a pattern."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return "%" not in str(path)


@contextmanager
def plain_files(paths, also=()):
    """Yield Paths of the same files that SimpleITK can open: themselves, or links in a temporary folder.

    Args:
        paths: list of Path.
        also: further Paths in the folder of the first that must keep their names, such as the data of a header.
    """
    if all(map(is_plain, [*paths, *also])):
        yield list(paths)
        return
    with tempfile.TemporaryDirectory() as folder:
        links = [Path(folder, f"{number:06d}{ending_of_file(path)}") for number, path in enumerate(paths)]
        for link, path in [*zip(links, paths, strict=True), *((Path(folder, path.name), path) for path in also)]:
            os.symlink(os.path.abspath(path), link)
        yield links


@contextmanager
def plain_folder(folder):
    """Yield a Path of the same folder that SimpleITK can open: itself, or a link in a temporary folder."""
    if is_plain(folder):
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory() as outside:
        link = Path(outside, "folder")
        link.symlink_to(os.path.abspath(folder), target_is_directory=True)
        yield link


def ending_of_file(path):
    """All endings of a file name that tell its format, such as ".nii.gz"."""
    return "".join(suffix for suffix in Path(path).suffixes[-2:] if is_plain(suffix) and suffix.lower() in ENDINGS)


ENDINGS = (".nii", ".gz", ".mha", ".mhd", ".nrrd", ".nhdr", ".dcm")

"""Write volumes, and measure what SimpleITK wrote before it counts: it leaves half a file on a full disk in silence."""

import errno
import math
import os
import re
import shutil
from pathlib import Path

import numpy as np

from common.devices import silenced_libraries
from common.lazy import Lazy
from common.replacing import publish, staged
from common.volumes.finding import ending_of
from common.volumes.paths import plain_folder

sitk = Lazy("SimpleITK")

TOLERANCE = 1e-4  # max difference of geometries, relative or in mm; NIfTI has single precision


def write_volume(image, path):
    """Write a volume, compressed if the format supports it, complete or not at all.

    It is written into a staging folder next to its place, flushed to disk, read back and compared. An existing file is
    overwritten.

    Args:
        image: SimpleITK.Image.
        path: file with one of `common.volumes.finding.LABEL_ENDINGS`.

    Raises:
        InputError: if another process is writing the file.
        OSError: if the disk is full, or what was written differs.
    """
    path = Path(path)
    with staged(path) as made:
        _write_into(made.parent, image, path)
        publish(made, path)


def _write_into(folder, image, path):
    """Write the files of a volume into an empty folder, check them, and give them their names."""
    with plain_folder(folder) as plain:
        plain = plain / f"volume{ending_of(path)}"
        try:
            with silenced_libraries(modules=False):  # what ITK prints, it raises, or the comparison finds
                sitk.WriteImage(image, str(plain), useCompression=True)
            _flush(folder)
            is_whole = _is_equal(image, sitk.ReadImage(str(plain)))
        except RuntimeError:
            is_whole = False
    header = folder / plain.name
    if not is_whole:
        raise _failure(folder, image, path)
    if ending_of(path) == ".mhd":
        (data,) = (part for part in folder.iterdir() if part != header)
        header.write_bytes(header.read_bytes().replace(data.name.encode(), os.fsencode(_data_name(path, data))))
        data.rename(folder / _data_name(path, data))
    header.rename(folder / path.name)


def _data_name(path, data):
    """File name of the data of a header, without anything that MetaImage takes for a pattern or a list."""
    stem = re.sub(r"[\x00-\x1f\x7f%]|^(?=LIST)", "_", path.stem, flags=re.I)
    return stem + data.suffix


def _flush(folder):
    """Flush the files of a folder to disk, so that a full disk shows before the files get their names."""
    for part in folder.iterdir():
        with open(part, "rb+") as file:
            os.fsync(file.fileno())


def _is_equal(image, written):
    if image.GetSize() != written.GetSize() or image.GetPixelID() != written.GetPixelID():
        return False
    places = [(i.GetOrigin(), i.GetSpacing(), i.GetDirection()) for i in (image, written)]
    near = all(np.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE) for a, b in zip(*places, strict=True))
    return near and np.array_equal(*map(sitk.GetArrayViewFromImage, (image, written)))


def _failure(folder, image, path):
    """OSError for a volume that was not written completely: a full disk if there is no room for it."""
    size = image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel() * image.GetSizeOfPixelComponent()
    number = errno.ENOSPC if shutil.disk_usage(folder).free < size + 2**20 else errno.EIO
    if _size_limit() < size:
        number = errno.EFBIG
    return OSError(number, os.strerror(number), str(path))


def _size_limit():
    """Max file size in bytes, as set by ulimit -f."""
    try:
        import resource  # not on Windows
    except ImportError:
        return math.inf
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return math.inf if limit == resource.RLIM_INFINITY else limit

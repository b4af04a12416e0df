"""Check that volume files are complete and make sense before SimpleITK, which fills gaps in silence, reads them.

A header must be valid, the data as long as it says, and the check sums of compressed data must be right.
"""

import bz2
import math
import os
import stat
import struct
import zlib

import numpy as np

from common.errors import InputError
from common.system_errors import errors_of, raise_system_error
from common.volumes.headers import ADVICE, read_meta, read_nifti, read_nrrd

DEFLATE_RATIO = 1032  # zlib compresses no better than this


def require_file(path):
    """Raise InputError unless a path is a regular file, or a link to one, that is not empty; never waits for a pipe."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        problem = "link to a missing file" if os.path.islink(path) else "file does not exist"
        raise InputError(f"{path}: {problem}; restore it or remove it") from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: not a regular file; remove it")
    if not status.st_size:
        raise InputError(f"{path}: file is empty; {ADVICE}")


def check_header(path):
    """Check the header of a volume file against the data length.

    Args:
        path: Path of a file with one of `common.volumes.finding.VOLUME_ENDINGS` other than .dcm.

    Returns:
        Data, to be checked by `check_stream` if it is compressed.

    Raises:
        InputError: if the file is cut short, too long, or its header is invalid.
    """
    require_file(path)
    name = path.name.lower()
    read = read_nifti if name.endswith((".nii", ".nii.gz")) else read_nrrd
    read = read_meta if name.endswith((".mha", ".mhd")) else read
    try:
        with errors_of(path):
            data = read(path)
    except (ValueError, KeyError, IndexError, OverflowError, struct.error) as error:
        reason = f"missing {error.args[0]}" if isinstance(error, KeyError) else error
        raise InputError(f"{path}: damaged header ({reason}); {ADVICE}") from None
    except (EOFError, zlib.error):
        raise InputError(f"{path}: damaged or cut short; {ADVICE}") from None
    require_file(data.file)
    _check_length(path, data)
    return data


def _check_length(path, data):
    length = data.file.stat().st_size
    found = length if data.start is None else length - data.start
    if data.coding == "raw":
        if found < data.size:
            raise InputError(f"{path}: cut short ({max(found, 0)} bytes of voxels, expected {data.size}); {ADVICE}")
        if found > data.size and data.start is not None:
            raise InputError(
                f"{path}: length does not match its header ({found} bytes of voxels, expected {data.size}); {ADVICE}"
            )
    elif data.stored is not None and found < data.stored:
        raise InputError(f"{path}: cut short ({max(found, 0)} bytes of voxels, expected {data.stored}); {ADVICE}")
    elif data.coding in ("gzip", "zlib") and data.size > DEFLATE_RATIO * length + 1024:
        raise InputError(f"{path}: cut short (too short for {data.size} bytes of voxels); {ADVICE}")


def check_stream(path, data):
    """Unpack compressed data once to compare length and check sums, and look for numbers that the reader would hide.

    Returns:
        (N,) int64 array: positions of voxels in the file that are NaN or infinity, if `data.floats` is set.

    Raises:
        InputError: if length or check sums are wrong.
    """
    scan = NotFinite(*data.floats) if data.floats else None
    if data.coding == "raw" and not scan:
        return np.zeros(0, np.int64)
    try:
        with open(data.file, "rb") as file:
            file.seek(data.start or 0)
            if data.coding == "text":
                found = len(file.read().split())
            else:
                found = _copied(file, scan) if data.coding == "raw" else _unpacked(file, data, scan)
    except (zlib.error, EOFError, OSError, ValueError) as error:
        raise_system_error(error, path)
        raise InputError(f"{path}: damaged or cut short (wrong check sum); {ADVICE}") from None
    if found != data.size:
        unit = "values" if data.coding == "text" else "bytes of voxels"
        raise InputError(f"{path}: length does not match its header ({found} {unit}, expected {data.size}); {ADVICE}")
    return scan.positions() if scan else np.zeros(0, np.int64)


class NotFinite:
    """Find the values of a stream of bytes that are NaN or infinity.

    Args:
        dtype: NumPy type of the values.
        skip: number of bytes before them.
    """

    def __init__(self, dtype, skip):
        self.dtype, self.skip, self.rest, self.count, self.found = np.dtype(dtype), skip, b"", 0, []

    def add(self, block):
        """Look at the next bytes."""
        block, self.skip = block[self.skip :], max(0, self.skip - len(block))
        block = self.rest + block
        end = len(block) - len(block) % self.dtype.itemsize
        values, self.rest = np.frombuffer(block[:end], self.dtype), block[end:]
        self.found.append(self.count + np.flatnonzero(~np.isfinite(values)))
        self.count += len(values)

    def positions(self):
        return np.concatenate([np.zeros(0, np.int64), *self.found])


def _copied(file, scan):
    """Number of bytes up to the end of a file, after looking at them."""
    total = 0
    while block := file.read(2**20):
        scan.add(block)
        total += len(block)
    return total


def _unpacked(file, data, scan):
    """Number of unpacked bytes; stops soon after the expected number."""
    total, started = 0, False
    make = bz2.BZ2Decompressor if data.coding == "bzip2" else lambda: zlib.decompressobj(47)  # zlib or gzip
    unpacker = make()
    limit = math.inf if data.stored is None else data.stored
    while total <= data.size and (block := file.read(min(2**16, limit))):
        limit -= len(block)
        while block and total <= data.size:
            if unpacker.eof:
                if not block.strip(b"\0") or data.coding == "zlib":
                    return total  # padding, or other data
                unpacker, started = make(), False  # the next member of a gzip file
            unpacked = unpacker.decompress(block)
            total += len(unpacked)
            if scan:
                scan.add(unpacked)
            started, block = True, unpacker.unused_data
    if total <= data.size and started and not unpacker.eof:
        raise EOFError
    return total

"""Errors of the system are called what they are, whichever library reports them."""

import errno
import os
import subprocess
import sys
import tempfile

import h5py
import numpy as np
import pytest
from running import ROOT

from common import system_errors
from common.system_errors import errors_of


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "x", "a.h5"), "a.h5: the disk is full; free"),
        (OSError(errno.EROFS, "x", b"a.h5"), "a.h5: read-only file system; use"),
        (OSError(errno.ENAMETOOLONG, "x", "aaa"), "aaa: the name is too long; use"),
        (OSError(errno.EMFILE, "x", "aaa"), "too many open files; raise the limit with ulimit -n"),
        (PermissionError(errno.EPERM, "x", "aaa"), "aaa: no permission (Operation not permitted);"),
        (IsADirectoryError(errno.EISDIR, "x", "a"), "a: expected a file (found a folder)"),
        (OSError("file write failed: errno = 28, error message = 'No space left on device'"), "the disk is full; free"),
        (OSError(errno.ENOTCONN, "Not connected", "a"), "a: Not connected"),
        (OSError("something else"), "something else"),
    ],
)
def test_words_of_system_errors(error, words):
    assert words in system_errors.in_words(error)


def test_errors_of_libraries_get_number_and_path(tmp_path):
    for error, number in (
        (RuntimeError("ITK: Reason: No space left on device"), errno.ENOSPC),
        (ValueError("database or disk is full"), errno.ENOSPC),
        (RuntimeError("unable to open file: errno = 13, error message = 'Permission denied'"), errno.EACCES),
        (OSError("[Errno 30] Read-only file system"), errno.EROFS),
    ):
        with pytest.raises(OSError) as caught, errors_of(tmp_path / "a"):
            raise error
        assert caught.value.errno == number and caught.value.filename == str(tmp_path / "a")
    with pytest.raises(OSError) as caught, errors_of("b"):
        try:
            raise OSError(errno.ENOSPC, "x", "inner")
        except OSError as inner:
            raise KeyError("weights") from inner
    assert caught.value.errno == errno.ENOSPC
    for other in (KeyError("a"), FileNotFoundError(errno.ENOENT, "x", "y")):
        with pytest.raises(type(other)), errors_of("a"):
            raise other


def test_an_unexplained_failure_on_a_full_disk(full_disk, tmp_path):
    """coremltools reports an input/output error when the disk is full."""
    disk = full_disk(40_000)
    error = RuntimeError("filesystem error: cannot copy: Input/output error [a] [b]")
    assert system_errors.number_of(error, disk / "new" / "m.mlpackage") == errno.ENOSPC
    assert system_errors.number_of(error, tmp_path) == errno.EIO


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs Linux")
def test_a_disk_without_blocks_is_not_full():
    assert not system_errors.is_full("/proc/self/mem")


def test_a_full_folder_for_temporary_files_is_reported(full_disk, monkeypatch, tmp_path):
    disk = full_disk(40_000)
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    with pytest.raises(OSError) as caught, errors_of(tmp_path / "model.keras"):
        raise OSError("[Errno 28] No space left on device")
    assert caught.value.filename == str(disk)
    assert "the disk is full" in (text := system_errors.in_words(caught.value)) and "set TMPDIR" in text


CRASH = """
import sys
sys.path.insert(0, sys.argv[1])
from common.errors import report_and_end
sys.excepthook = report_and_end
import h5py, numpy as np
with h5py.File(sys.argv[2], "w") as file:
    x = file.create_dataset("x", (100, 64, 64), "u1", chunks=(1, 64, 64), compression="gzip")
    for i in range(100):
        x[i] = np.random.default_rng(i).integers(0, 255, (64, 64))
"""


def test_hdf5_does_not_crash_on_a_full_disk(full_disk):
    """HDF5 itself ends in a segmentation fault when the process ends after such a failure."""
    path = full_disk(100_000) / "a.h5"
    command = [sys.executable, "-c", CRASH, str(ROOT), str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "the disk is full" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_missing_permission_is_not_called_damage(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)
    path.chmod(0)
    with pytest.raises(PermissionError), errors_of(path):
        h5py.File(path, "r")

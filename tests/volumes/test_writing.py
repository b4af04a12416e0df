"""Writing volumes: what SimpleITK wrote is measured before it counts."""

import errno
import os
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from drawings import as_volume, block

from common.volumes.finding import LABEL_ENDINGS
from common.volumes.reading import read_volume
from common.volumes.writing import write_volume

LABELS = block((6, 20, 18), labels=3)[1]


@pytest.mark.parametrize("ending", LABEL_ENDINGS)
@pytest.mark.parametrize("name", [b"a.b", b"M\xfcller", "😀".encode(), b"two\nlines", b"100%", b"LIST_1"])
def test_any_name(tmp_path, name, ending):
    tmp_path = tmp_path / "50%"
    path = tmp_path / os.fsdecode(name + ending.encode())
    write_volume(as_volume(LABELS), path)
    write_volume(as_volume(LABELS), path)  # overwrites
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(path)), LABELS)
    assert len(list(tmp_path.iterdir())) == (2 if ending == ".mhd" else 1)


@pytest.mark.parametrize("ending", LABEL_ENDINGS)
def test_half_a_file_is_no_result(tmp_path, ending):
    """With a limit on file sizes, SimpleITK writes half a volume, mostly without an error; the old one stays."""
    resource = pytest.importorskip("resource")
    path = tmp_path / f"v{ending}"
    write_volume(as_volume(LABELS), path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    noise = np.random.default_rng(0).integers(0, 255, (20, 80, 80)).astype(np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
        with pytest.raises(OSError) as caught:
            write_volume(as_volume(noise), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_full_disk(tmp_path, monkeypatch):
    """A writer that loses the end of a file, on a disk without room."""
    write = sitk.WriteImage

    def lose_the_end(image, path, **options):
        write(image, path, **options)
        os.truncate(path, os.path.getsize(path) // 2)

    monkeypatch.setattr(sitk, "WriteImage", lose_the_end)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=4096))
    for ending in (".nii", ".nrrd", ".mha"):
        with pytest.raises(OSError) as caught:
            write_volume(as_volume(LABELS), tmp_path / f"v{ending}")
        assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())

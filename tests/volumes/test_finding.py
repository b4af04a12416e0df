"""Which paths are volumes, and what they are called, without SimpleITK."""

import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT

from common.volumes.finding import dicom_labels_in, ending_of, find_volumes, is_dicom, is_volume, name_of


def test_telling_volumes_from_pictures_does_not_load_simpleitk():
    code = "import sys; import common.volumes.finding; sys.exit('SimpleITK' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    "file, name, ending",
    [
        ("a/scan.nii.gz", "scan", ".nii.gz"),
        ("Scan.v2.NII", "Scan.v2", ".nii"),
        ("0001.dcm", "0001", ".dcm"),
        ("slice.png", "slice.png", ""),
        ("IM0001", "IM0001", ""),
    ],
)
def test_names_and_endings(file, name, ending):
    assert (name_of(file), ending_of(file)) == (name, ending)


def test_volumes_are_files_and_folders_of_dicom(tmp_path):
    for file in ("b/c/scan.nii.gz", "b/notes", "b/.hidden.nii", "d/e/IM1", "d/e/IM2"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(bytes(128) + b"DICM" if "IM" in file else b"text")
    scan, series = tmp_path / "b" / "c" / "scan.nii.gz", tmp_path / "d" / "e"
    assert find_volumes(tmp_path) == {"b/c/scan": scan, "d/e": series}
    assert find_volumes(scan) == {"scan": scan} and find_volumes(series) == {"e": series}
    assert is_volume(scan) and is_volume(series)
    assert not any(map(is_volume, (tmp_path / "b", tmp_path / "d", tmp_path / "b" / "notes", tmp_path / "gone")))


@pytest.mark.skipif(not Path("/proc/kmsg").exists(), reason="needs Linux")
def test_files_of_the_system_that_never_end_are_not_read(monkeypatch):
    """A search of the whole disk comes by /proc/kmsg, a regular file without size that waits for the next message."""
    monkeypatch.setattr("common.volumes.finding.read_bytes", None)
    assert not is_dicom("/proc/kmsg") and not dicom_labels_in("/proc/kmsg")

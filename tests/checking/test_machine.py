"""Disk, GPU and a training step, as a machine without, with too little, or with a broken one shows them."""

import os
from collections import namedtuple

import pytest

import common.devices
from common.checking import machine
from common.checking.findings import NOTE, OK, PROBLEM
from common.checking.machine import check_backend, check_disk, check_processor, check_room, check_step

Usage = namedtuple("Usage", "total used free")


def levels(findings):
    return [finding.level for finding in findings]


def test_processor():
    (finding,) = check_processor()
    assert finding.level == OK and "core" in finding.text


@pytest.mark.parametrize(("free", "level"), [(0.5e9, PROBLEM), (5e9, NOTE), (50e9, OK)])
def test_free_space(tmp_path, monkeypatch, free, level):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: Usage(100e9, 0, free))
    findings = check_disk({"results": tmp_path / "missing" / "folder"})
    assert set(levels(findings)) == {level}
    assert str(tmp_path) not in findings[0].text  # the page may be passed on
    assert levels(check_room(4e9, tmp_path / "missing")) == [OK if free > 6e9 else PROBLEM]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    assert PROBLEM in levels(check_disk({"results": tmp_path}))


# --- GPU


@pytest.fixture
def devices(monkeypatch):
    """Function that sets the devices of the backend."""

    def use(*names):
        monkeypatch.setattr(common.devices, "list_devices", lambda: list(names))

    return use


needs_posix = pytest.mark.skipif(os.name == "nt", reason="an executable script")


@needs_posix
def test_a_gpu_that_is_used(driver, devices):
    driver("NVIDIA T4, 16000, 15000")
    devices("gpu:0")
    assert levels(check_backend()) == [OK, OK]
    driver("NVIDIA T4, 16000, 1500")
    _, short = check_backend()
    assert short.level == NOTE and "2 GB free; close other programs" in short.text


@needs_posix
def test_a_gpu_that_the_backend_does_not_use(driver, devices):
    driver("NVIDIA T4, 16000, 15000")
    devices("cpu:0")
    problem = check_backend()[-1]
    assert problem.level == PROBLEM and "tensorflow does not use it (found NVIDIA T4, and " in problem.text


@needs_posix
def test_a_gpu_that_is_hidden(driver, devices, monkeypatch):
    driver("NVIDIA T4, 16000, 15000")
    devices("cpu:0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert PROBLEM not in levels(check_backend())


@needs_posix
def test_a_driver_that_does_not_work(driver, devices):
    driver("NVIDIA-SMI has failed because it could not communicate with the driver.", status=9)
    devices("cpu:0")
    problem = check_backend()[-1]
    assert problem.level == PROBLEM and "(found NVIDIA-SMI has failed" in problem.text


def test_a_machine_without_gpu(devices, monkeypatch):
    monkeypatch.setattr(machine, "find_gpus", list)
    devices("cpu:0")
    assert levels(check_backend()) == [OK, NOTE]


# --- a training step


def test_a_training_step_is_measured():
    (finding,) = check_step()
    assert finding.level in (OK, NOTE) and "ms (4 slices of 64x64, U-net with 4 features;" in finding.text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("DNN library is not found.\nmore"), "(found RuntimeError: DNN library is not found.)"),
        (MemoryError(), "close other programs"),
    ],
)
def test_a_training_step_that_fails_is_one_line(monkeypatch, error, words):
    def fail():
        raise error

    monkeypatch.setattr(machine, "_make_step", lambda: fail)
    (finding,) = check_step()
    assert finding.level == PROBLEM and words in finding.text and "\n" not in finding.text
    monkeypatch.setattr(machine, "_make_step", lambda: lambda: float("nan"))
    (finding,) = check_step()
    assert finding.level == PROBLEM and "the loss is no number (found nan)" in finding.text

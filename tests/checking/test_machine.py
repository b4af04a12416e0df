"""Disk, GPU and a training step, as a machine without, with too little, or with a broken one shows them."""

import os
import sys
from collections import namedtuple

import pytest

from common.checking import machine
from common.checking.findings import NOTE, OK, PROBLEM
from common.checking.machine import check_backend, check_disk, check_processor, check_room, check_step, find_gpus

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
def driver(tmp_path, monkeypatch):
    """Function that puts an nvidia-smi on the path that prints lines and ends with a status."""

    def make(*lines, status=0):
        path = tmp_path / "nvidia-smi"
        path.write_text(f"#!{sys.executable}\nprint({chr(10).join(lines)!r})\nraise SystemExit({status})\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return make


@pytest.fixture
def devices(monkeypatch):
    """Function that sets the devices of the backend."""

    def use(*names, backend="tensorflow"):
        monkeypatch.setattr(machine, "describe", lambda: f"{backend} on {', '.join(names)}")
        monkeypatch.setattr(machine, "accelerators", lambda: [name for name in names if not name.startswith("cpu")])
        monkeypatch.setattr(machine, "backend", lambda: backend)

    return use


needs_posix = pytest.mark.skipif(os.name == "nt", reason="an executable script")


@needs_posix
def test_gpus_of_the_driver(driver):
    driver("NVIDIA H200, 143771, 143000", "NVIDIA A100, 80 GB, [N/A], 500")
    first, second = find_gpus()
    assert first.name == "NVIDIA H200" and 150 < first.memory < 151 and second.name == "NVIDIA A100, 80 GB"
    assert second.memory == 0


@needs_posix
def test_a_gpu_that_is_used(driver, devices):
    driver("NVIDIA T4, 16000, 15000")
    devices("gpu:0")
    assert levels(check_backend()) == [OK, OK]
    driver("NVIDIA T4, 16000, 1500")
    _, short = check_backend()
    assert short.level == NOTE and "2 GB free; close other programs" in short.text


@needs_posix
@pytest.mark.parametrize(("backend", "words"), [("tensorflow", "tensorflow"), ("jax", 'pip install "jax[cuda12]"')])
def test_a_gpu_that_the_backend_does_not_use(driver, devices, monkeypatch, backend, words):
    driver("NVIDIA T4, 16000, 15000")
    devices("cpu:0", backend=backend)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    problem = check_backend()[-1]
    assert problem.level == PROBLEM and words in problem.text and "CUDA_VISIBLE_DEVICES=-1" in problem.text
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

"""A full disk is called that by every script that writes, leaves nothing half-written, and ends without a crash."""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from drawings import make_cases
from running import ROOT, assert_refused, leftovers, run_here, run_script

from common.evaluation.selection import reserve
from common.system_errors import in_words
from common.tuning.study import open_study


def test_packing_on_a_full_disk_ends_in_one_line(packed, full_disk):
    """Compressed and in shards, HDF5 keeps what it cannot write until the process ends."""
    disk = full_disk(50_000)
    for settings in ({"COMPRESSION": "gzip"}, {"SHARD_GB": 0.00005}):
        settings |= {"LISTS": packed["lists"], "PACKED": disk / "packed"}
        message = assert_refused("preprocess/3_pack_hdf5.py", "the disk is full", run=run_script, **settings)
        assert len(message.splitlines()) == 1
        assert not leftovers(disk) and not list(disk.rglob("train.h5"))


def test_scores_on_a_full_disk(tmp_path, full_disk):
    truth = make_cases(tmp_path / "c", cases=2, slices=2, size=32)
    disk = full_disk(20_000)
    message = assert_refused("evaluate.py", "the disk is full", PREDICTED=truth, TRUTH=truth, OUTPUT=disk / "s")
    assert len(message.splitlines()) == 1 and not (disk / "s").exists() and not leftovers(disk)


@pytest.mark.parametrize("free", [0, 8192, 40_000])
def test_a_check_on_a_full_disk(tmp_path, full_disk, free):
    """Of a page that does not fit, nothing is left; one that exists stays."""
    cases, disk = make_cases(tmp_path / "c", cases=2, slices=2, size=32), full_disk("1m")
    settings = {"CASES": cases, "STEP": False, "REPLACE": True, "OUTPUT": disk / "check.html"}
    for before in (b"", b"a page"):
        if before:
            settings["OUTPUT"].write_bytes(before)
        with filled(disk, free):
            message = assert_refused("check.py", f"{disk / 'check.html'}: the disk is full", **settings)
            assert len(message.splitlines()) == 1 and not leftovers(disk)
        assert (settings["OUTPUT"].read_bytes() if before else b"") == before
    assert_refused("check.py", "not ready to train (found 1 problem)", **settings)  # the disk has little space
    assert settings["OUTPUT"].stat().st_size > 40_000


def test_a_plan_on_a_full_disk(packed, full_disk):
    disk = full_disk("1m")
    settings = {"PACKED": shutil.copytree(packed["packed"], disk / "packed"), "MINUTES": 5, "REPLACE": True}
    plan = disk / "packed" / "plan.json"
    for before in (b"", b"{}"):
        if before:
            plan.write_bytes(before)
        with filled(disk):
            message = assert_refused("preprocess/4_plan_training.py", f"{plan}: the disk is full", **settings)
            assert len(message.splitlines()) == 1 and not leftovers(disk)
            assert (plan.read_bytes() if before else b"") == before and plan.exists() == bool(before)
    run_here("preprocess/4_plan_training.py", **settings)
    assert plan.stat().st_size > 100 and not leftovers(disk)


@contextmanager
def filled(disk, free=0):
    """Leave so many bytes on a disk during the block."""
    state = os.statvfs(disk)
    with open(disk / "filler", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, state.f_bavail * state.f_frsize - free)
    yield
    (disk / "filler").unlink()


def test_a_new_study_on_a_full_disk(full_disk):
    """SQLite has words of its own."""
    disk = full_disk(40_000)
    with pytest.raises(OSError) as caught:
        open_study(disk / "study", {"TRIALS": 1}, (), lambda: None, None)
    assert "study.db: the disk is full" in in_words(caught.value)
    assert not (disk / "study" / "study.db").exists() and not leftovers(disk)


def test_a_mapped_file_gets_its_space_first(full_disk, tmp_path):
    disk = full_disk(100_000)
    with pytest.raises(OSError) as caught:
        reserve(disk / "a", 200_000)
    assert "No space" in caught.value.strerror and str(caught.value.filename) == str(disk)
    reserve(tmp_path / "b", 3_000_001)
    assert (tmp_path / "b").stat().st_size == 3_000_001
    assert not np.memmap(tmp_path / "b", np.uint8, "r").any()


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_a_file_size_limit_is_reported(packed, tmp_path):
    """ulimit -f, as on shared machines."""
    script = f'ulimit -f 4; "{sys.executable}" "{ROOT / "preprocess" / "3_pack_hdf5.py"}" --compression gzip '
    script += f'--lists "{packed["lists"]}" --packed "{tmp_path / "p"}"'
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "ulimit -f" in result.stderr and len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("*.h5")) and not leftovers(tmp_path)

"""A full disk is called that by every script that writes, leaves nothing half-written, and ends without a crash."""

import os
import subprocess
import sys

import numpy as np
import pytest
from drawings import make_cases
from running import ROOT, assert_refused, leftovers, run_script

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

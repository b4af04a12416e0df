"""Moments to stop a script at, and sizes of a full disk: a sample in the suite, all by hand with `--faults 1`."""

import random
import time
from pathlib import Path

from faults.judging import grammar

PAGE = 4096  # bytes; a disk in memory grows by pages
SIZES = 4  # sizes of a full disk, in the suite; 20 by hand


def sample(request, rng, moments, count):
    moments = list(moments)
    return moments if request.config.getoption("faults") else sorted(rng.sample(moments, min(count, len(moments))))


def wait_for_stop(room):
    """Number of the process that `faults.forking.stop_at` stopped, once it is."""
    until, file = time.monotonic() + 600, room / "stopped"
    while not file.exists() or not file.read_text():
        assert time.monotonic() < until
        time.sleep(0.01)
    return int(file.read_text())


def free_sizes(folder, request, name, factor=1):
    """Numbers of free bytes: none, and up to `factor` times as many as everything in a folder has."""
    pages = factor * sum(-(-path.stat().st_size // PAGE) for path in folder.rglob("*") if path.is_file())
    more = sorted({pages * k // 19 for k in range(1, 20)})
    return [0, *(PAGE * p for p in sample(request, random.Random(name), more, SIZES - 1))]


def disk_is_full(answer, script):
    """Whether a script ended with one line about a full disk; False if it worked; raises if it ended in another way."""
    assert answer["status"] in (0, 1), answer
    if answer["status"]:
        assert "the disk is full" in answer["err"] and ".part-" not in answer["err"], answer
        assert not grammar(Path(script).name, answer["err"]), answer
    return bool(answer["status"])

"""Measure two ways of doing the same work in turn, so that a machine that others use too slows both alike."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def compare(what, ours, theirs, rounds=3, warm_up=True):
    """Run `ours` and `theirs` in turn and print how many times faster ours is.

    Args:
        what: text for the line.
        ours, theirs: functions that do the work and return the seconds that it took.
        rounds: how often.
        warm_up: whether to run both once before, not counted, since files and libraries are read for the first time.
    """
    if warm_up:
        ours(), theirs()
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    ratios = sorted(b / a for a, b in pairs)
    print(
        f"{what}: {statistics.median(ratios):.2f} times as fast (least {ratios[0]:.2f}, greatest {ratios[-1]:.2f}, "
        f"{rounds} rounds; ours {statistics.median(a for a, _ in pairs):.2f} s, "
        f"theirs {statistics.median(b for _, b in pairs):.2f} s)",
        flush=True,
    )


def run(*command):
    """Run a Python program to its end.

    Returns:
        seconds, and the greatest resident memory of the process in MB.
    """
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command} failed")
    return time.monotonic() - started, usage.ru_maxrss / 1024

"""What a machine offers to train on: processor, memory, disk, backend, GPUs, and a training step that works."""

import os
import shutil
import tempfile
import time
from pathlib import Path

from common.checking.findings import NOTE, OK, PROBLEM, Finding
from common.devices import accelerators, describe, import_keras, set_up, unused_gpu, usual_jit
from common.errors import is_out_of_memory
from common.gpus import GB, broken_driver, find_gpus
from common.words import number_of

# A run of the largest network keeps three checkpoints of 0.4 GB; a few runs and predictions need some GB.
TOO_FULL, NEARLY_FULL = 2 * GB, 10 * GB
LITTLE_GPU_MEMORY = 4  # GB; batches of the default settings need more
STEP_SIDE, STEP_BATCH, STEP_NETWORK = 64, 4, {"features": 4, "depth": 1}
SLOW_STEP = 10  # seconds from building the network to the last step; usually 2 to 5


def check_processor():
    """Findings about the processor and its memory."""
    memory = ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / GB:.0f} GB of memory"
    return [Finding(OK, f"processor: {number_of(os.cpu_count(), 'core')}{memory}")]


def check_disk(places):
    """Findings about free space and permissions, without paths: the page may be passed on.

    Args:
        places: dict of what is written to its folder, which may be missing.
    """
    disks, findings = {}, []
    for what, folder in (places | {"temporary files": tempfile.gettempdir()}).items():
        folder = _existing(folder)
        disks.setdefault(os.stat(folder).st_dev, (folder, []))[1].append(what)
        if not os.access(folder, os.W_OK):
            advice = "change its permissions, or work in another folder"
            findings.append(Finding(PROBLEM, f"{what}: no permission to write to the folder; {advice}"))
    for folder, uses in disks.values():
        free, what = shutil.disk_usage(folder).free, ", ".join(uses)
        if free < TOO_FULL:
            found = f"found {free / GB:.1f} GB, expected at least {TOO_FULL / GB:.0f} GB"
            findings.append(Finding(PROBLEM, f"disk: too little free space for {what} ({found}); free some"))
        else:
            findings.append(Finding(NOTE if free < NEARLY_FULL else OK, f"disk: {free / GB:.0f} GB free for {what}"))
    return findings


def check_room(needed, folder):
    """Findings about the space for packed sets: `needed` bytes in a folder, which may be missing."""
    free = shutil.disk_usage(_existing(folder)).free
    text = f"packed sets: about {max(needed / GB, 0.1):.1f} GB without compression"
    if free >= needed + TOO_FULL:
        return [Finding(OK, text)]
    return [Finding(PROBLEM, f"{text}, more than the disk has (found {free / GB:.1f} GB free); free some")]


def _existing(folder):
    """The folder, or the nearest one around it that exists."""
    folder = Path(folder).absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


# --- GPU


def check_backend():
    """Findings about the backend and whether it uses the GPU; Keras must have been imported."""
    findings = [Finding(OK, f"backend: {describe()}")]
    try:
        gpus = find_gpus()
    except OSError as error:
        return [*findings, Finding(PROBLEM, broken_driver(error))]
    for gpu in gpus:
        found = f"{gpu.name} with {gpu.memory:.0f} GB, {gpu.free:.0f} GB free"
        is_short = 0 < gpu.free < LITTLE_GPU_MEMORY
        advice = "; close other programs, or use smaller batches" if is_short else ""
        findings.append(Finding(NOTE if is_short else OK, f"GPU: {found}{advice}"))
    if line := unused_gpu():
        findings.append(Finding(PROBLEM, line))
    elif not accelerators():
        findings.append(Finding(NOTE, "GPU: none is used, so training runs on the processor; use small networks"))
    return findings


# --- a training step


def check_step():
    """Train a tiny U-net for a few steps: findings with what they took, or why they failed."""
    import_keras(say_unused=False)  # `check_backend` does
    # these import Keras, which must be imported quietly first
    from common.training.plan import time_steps

    started = time.perf_counter()
    try:
        step = _make_step()
        seconds, first = time_steps(step, count=3)
        loss = float(step())
    except Exception as error:  # whatever a backend raises that does not fit its GPU or driver
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        is_full = is_out_of_memory(f"{type(error).__name__} {error}")
        advice = "close other programs" if is_full else "install requirements.txt in a new environment"
        return [Finding(PROBLEM, f"training step: failed (found {type(error).__name__}: {reason}); {advice}")]
    if not 0 <= loss < float("inf"):
        advice = "install requirements.txt in a new environment"
        return [Finding(PROBLEM, f"training step: the loss is no number (found {loss}); {advice}")]
    took = time.perf_counter() - started
    what = f"{STEP_BATCH} slices of {STEP_SIDE}x{STEP_SIDE}, U-net with {STEP_NETWORK['features']} features"
    text = f"training step: {seconds * 1000:.0f} ms ({what}; {first:.1f} s for the first, which compiles)"
    slow = f"; all of it took {took:.0f} s: is the machine busy?" if took > SLOW_STEP else ""
    return [Finding(NOTE if slow else OK, text + slow)]


def _make_step():
    """Function that trains a tiny U-net for one step and returns the loss."""
    import numpy as np  # late: a damaged one has been reported by now

    # these import Keras, see check_step
    from common.training.optimizer import compile_network
    from models import build_model

    set_up(seed=1, deterministic=False)
    network = build_model("unet", (STEP_SIDE, STEP_SIDE, 1), 1, **STEP_NETWORK)
    compile_network(network, "adam", 1e-3, "bce+dice", usual_jit())
    x = np.random.default_rng(1).random((STEP_BATCH, STEP_SIDE, STEP_SIDE, 1), np.float32)
    y = (x > 0.5).astype(np.uint8)
    return lambda: network.train_on_batch(x, y)[0]

"""Twelve short trials on the sample, killed twice at random moments and finished by two processes.

python tests/benchmarks/tune.py WORK

WORK is a folder for all that is made; the sample there is not made again, and the search is a new one every time.
Takes about nine minutes on two cores.
"""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas as pd
from comparing import ROOT, run

TRIALS, EPOCHS = 12, 4
WAIT = 10, 60  # seconds before a process is killed
SETTINGS = {
    "--models": ["unet", "deeplab_v3plus"],
    "--model-settings": {
        "unet": {"features": [2, 4, 8], "depth": [2, 3]},
        "deeplab_v3plus": {"backbone": "mobilenetv2", "alpha": 0.35},
    },
    "--losses": ["bce+dice", "focal+dice"],
    "--learning-rate": [1e-3, 3e-2],
    "--augmentation": {"flip": [None, "horizontal"]},
    "--precisions": ["float32"],
    "--others": {"BATCH_SIZE": 4, "OPTIMIZER": "adam"},
    "--patience": 3,
    "--trials": TRIALS,
    "--epochs": EPOCHS,
}


def main(work):
    cases, lists, packed, study = work / "sample", work / "lists", work / "packed", work / "study"
    if not packed.is_dir():
        run(ROOT / "data" / "make_sample.py", "--cases", cases)
        run(ROOT / "preprocess" / "2_write_lists.py", "--cases", cases, "--lists", lists, "--validation-share", 0.125)
        run(ROOT / "preprocess" / "3_pack_hdf5.py", "--lists", lists, "--packed", packed)
    shutil.rmtree(study, ignore_errors=True)
    command = [sys.executable, ROOT / "tune.py", "--study", study]
    command += ["--train", packed / "train.h5", "--validation", packed / "validation.h5"]
    command = [*map(str, command), *(f"{flag}={value}" for flag, value in SETTINGS.items())]

    started = time.monotonic()
    process = subprocess.Popen(command)
    wait_for(study / "runs" / "trial-000")
    for _ in range(2):
        time.sleep(random.uniform(*WAIT))
        assert process.poll() is None, "it was done before it was killed; take longer trials"
        process.send_signal(signal.SIGKILL)
        print("killed", flush=True)
        process = subprocess.Popen(command)
    pair = [process, subprocess.Popen(command)]
    assert [p.wait() for p in pair] == [0, 0], "a process failed"
    print(f"{check_study(study)} in {(time.monotonic() - started) / 60:.1f} minutes")


def wait_for(path):
    while not path.exists():
        time.sleep(0.5)


def check_study(study):
    """Compare the study with the runs in its folder.

    Returns:
        One line of text.
    """
    sys.path.insert(0, str(ROOT))
    from common.tuning import study as tuning

    trials = tuning.open_study(study, {}, (), None, None).get_trials()
    states = Counter(trial.state.name.lower() for trial in trials)
    lost = set(range(TRIALS)) - {trial.number for trial in trials if trial.state.is_finished()}
    twice = []
    for trial in trials:
        runs = [path for path in tuning.trial_folder(study, trial.number).iterdir() if path.is_dir()]
        epochs = pd.read_csv(runs[0] / "training_log.csv")["epoch"].to_list()
        if len(runs) != 1 or epochs != list(range(1, len(epochs) + 1)) or set(epochs) != set(trial.intermediate_values):
            twice.append(trial.number)
    repeated = sum(trial.params in [other.params for other in trials[: trial.number]] for trial in trials)
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    found = f"{len(lost)} lost, {len(twice)} run twice, {repeated} drawn twice"
    return f"{len(trials)} trials of {TRIALS}, {counts}; {found}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]).resolve())

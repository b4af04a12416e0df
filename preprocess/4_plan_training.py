"""Step 4: plan a training that fits the packed sets, this device and your time.

Reads   PACKED/train.h5 and validation.h5, or those in PACKED/fold1, of slices or volumes; without
        validation.h5, it plans a final training on all cases
Writes  PACKED/plan.json, a settings file with a reason for each value, for train.py
Takes   about half a minute: it measures a few training steps on this device

Use it, or edit it first:

    python train.py --settings data/packed/plan.json

The rules are in docs/plan.md.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import setting_types as types
from common.settings import apply_command_line

# --- input and output
PACKED: types.PathName = "data/packed"  # folder of the packed sets of step 3
REPLACE: bool = False  # True: overwrite an existing plan

# --- time
MINUTES: types.Positive = 30.0  # time for a training on this device; of each fold in a cross-validation

settings = apply_command_line(globals())

import json

from common.devices import import_keras, usual_jit
from common.errors import InputError
from common.replacing import new_file, refuse_existing
from common.settings import Settings, require_folder

PLAN = "plan.json"


def main():
    packed = require_folder(settings.PACKED, "PACKED")
    path = packed / PLAN
    refuse_existing(path, settings.REPLACE)
    training_file, validation_file = find_sets(packed)
    print(f"looking at {training_file}{f' and {validation_file}' if validation_file else ''}", flush=True)
    import_keras()
    # these import Keras, which must be imported quietly first
    from common.training import plan, volume_plan
    from common.training.sets import open_both

    training, validation = open_both(training_file, validation_file, memory_gb=1)
    rules = volume_plan if training.axes == 3 else plan
    facts = rules.read_facts(training, validation)
    print(*(f"  {line}" for line in facts.in_words()), sep="\n", flush=True)
    chosen = rules.network_of(facts)
    seconds, first = measure(training, chosen)
    if training.axes == 3:
        facts = facts.with_crops(chosen["CROP"][0])
    chosen |= plan.schedule_of(facts, chosen["BATCH_SIZE"][0], settings.MINUTES, seconds, first)
    with new_file(path, settings.REPLACE) as unfinished:
        unfinished.write_text(json.dumps(plan.as_record(chosen), indent=1) + "\n", encoding="utf-8")
    for name, (value, reason) in chosen.items():
        print(f"  {name} = {value!r}: {reason}")
    sets = "" if training_file.parent == packed else " --fold all"
    validated = packed / "validation.h5" if validation_file else '""'
    files = f"--train {packed / 'train.h5'} --validation {validated}"
    print(f"wrote {path}; to train: python train.py --settings {path} {files}{sets}")


def find_sets(packed):
    """Paths of the training and the validation set, or "" for none; of the first fold, if there are folds."""
    for folder in (packed, packed / "fold1"):
        training, validation = folder / "train.h5", folder / "validation.h5"
        if training.is_file():
            return training, validation if validation.is_file() else ""
    raise InputError(f"PACKED: {packed} contains no train.h5; run 3_pack_hdf5.py or 3_pack_volumes.py first")


def measure(training, chosen):
    """Measure a training step with its batch.

    Returns:
        seconds of a step, and seconds to the end of the first one.
    """
    # see main
    from common.training.configure import build_network, configure, make_batches
    from common.training.optimizer import compile_network
    from common.training.plan import time_steps

    print("measuring training steps on this device", flush=True)
    values = {name: value for name, (value, _) in chosen.items()}
    s = configure(Settings.of("train.py", TRAIN=str(training.path), **values))
    network = build_network(s, training)
    compile_network(network, s.OPTIMIZER, s.LEARNING_RATE, s.LOSS, usual_jit(), training.ignores)
    batches = make_batches(s, training, s.BATCH_SIZE)
    numbers = iter(range(10**6))

    def step():
        network.train_on_batch(*batches.batch(next(numbers) % len(batches)))

    return time_steps(step)


if __name__ == "__main__":
    main()

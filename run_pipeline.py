"""Run all steps in order, from case folders to a Core ML model, with small settings.

Reads   CASES: case folders; by default the synthetic sample, which is made if it is not there
Writes  WORK/lists, packed, runs/<date-time>_unet, predictions, scores, and model.mlmodel
Takes   four to six minutes on two cores, three of them to train
Expect  a mean Dice of about 0.95 on the test cases of the sample

Every step is the script itself, run as you would run it; the commands are printed, to be taken on from there.
Step 1 also writes its variants into CASES, beside x and y.
"""

from common.settings import apply_command_line, flags_of

# --- where from, where to
CASES = "data/sample"  # folder of the case folders; the sample is made if it is not there
WORK = "work"  # folder for everything that is made
REPLACE = True  # True to write over what an earlier run left in WORK (run folders are kept)

# --- small settings
FILTERS = ["O", "C"]  # filters of step 1
SHAPES = ["", "RTP"]  # shapes of step 1
VALIDATION_SHARE = 0.125  # share of the cases to validate on
TEST_SHARE = 0.25  # share of the cases to test on
MODEL_SETTINGS = {"features": 8, "depth": 4, "dropout": 0.0}  # of the U-net
LOSS = "bce+dice"  # loss to train with
LEARNING_RATE = 3e-3  # to start from; it falls to 0
BATCH_SIZE = 4  # slices a step
EPOCHS = 10  # passes over the training set
MAX_MINUTES = 3.5  # stop training before an epoch that would end later
SEED = 1  # of the division and of the training

apply_command_line(globals())

import shlex
import time
from pathlib import Path

from common.files import require_folder
from common.scripts import call


def main():
    started = time.monotonic()
    work = Path(WORK)
    if Path(CASES) == Path("data/sample") and not Path(CASES).exists():
        run("data/make_sample.py", CASES=CASES)
    require_folder(CASES, "CASES")
    run("preprocess/1_augment_cases.py", CASES=CASES, FILTERS=FILTERS, SHAPES=SHAPES)
    run(
        "preprocess/2_write_lists.py",
        CASES=CASES,
        LISTS=work / "lists",
        VALIDATION_SHARE=VALIDATION_SHARE,
        TEST_SHARE=TEST_SHARE,
        SEED=SEED,
        REPLACE=REPLACE,
    )
    run("preprocess/3_pack_hdf5.py", LISTS=work / "lists", PACKED=work / "packed", REPLACE=REPLACE)
    before = set(work.glob("runs/*"))
    run(
        "train.py",
        TRAIN=work / "packed" / "train.h5",
        VALIDATION=work / "packed" / "validation.h5",
        RUNS=work / "runs",
        MODEL_SETTINGS=MODEL_SETTINGS,
        LOSS=LOSS,
        LEARNING_RATE=LEARNING_RATE,
        BATCH_SIZE=BATCH_SIZE,
        SCHEDULE="cosine",
        EPOCHS=EPOCHS,
        MAX_MINUTES=MAX_MINUTES,
        SEED=SEED,
    )
    (trained,) = set(work.glob("runs/*")) - before
    test = work / "lists" / "test.csv"
    run("predict.py", RUN=trained, INPUT=test, OUTPUT=work / "predictions", REPLACE=REPLACE)
    run("evaluate.py", PREDICTED=work / "predictions", TRUTH=test, OUTPUT=work / "scores", REPLACE=REPLACE)
    run("convert_coreml.py", RUN=trained, OUTPUT=work / "model.mlmodel", REPLACE=REPLACE)
    minutes = (time.monotonic() - started) / 60
    print(f"\nall steps done in {minutes:.1f} minutes; wrote {work / 'model.mlmodel'}, {work / 'scores'} and {trained}")


def run(script, **settings):
    """Say what is run, and run it."""
    print(f"\n$ python {script} {shlex.join(flags_of(settings))}", flush=True)
    call(script, **settings)


if __name__ == "__main__":
    main()

"""Run all steps in order, from case folders to a Core ML model, with small settings.

Reads   CASES: case folders; by default the synthetic sample, which is made if it is not there
Writes  WORK/lists, packed, runs/<date-time>_unet, predictions, scores, and model.mlmodel
Takes   four to six minutes on two cores, three of them to train
Expect  a mean Dice of about 0.95 on the test cases of the sample

Every step is the script itself, run as you would run it; the commands are printed, to be taken on from there.
Step 1 also writes its variants into CASES, beside x and y.
"""

from common import setting_types as types
from common.command_line import flags_of
from common.settings import apply_command_line

# --- where from, where to
CASES: types.PathName = "data/sample"  # folder of the case folders; the sample is made if it is not there
WORK: types.PathName = "work"  # folder for everything that is made
REPLACE: bool = True  # True to write over what an earlier run left in WORK (run folders are kept)

# --- small settings
FILTERS: types.Filters = ["O", "C"]  # filters of step 1
SHAPES: types.Shapes = ["", "RTP"]  # shapes of step 1
VALIDATION_SHARE: types.ShareBelowOne = 0.125  # share of the cases to validate on
TEST_SHARE: types.ShareBelowOne = 0.25  # share of the cases to test on
MODEL_SETTINGS: types.UnetSettings = {"features": 8, "depth": 4, "dropout": 0.0}  # of the U-net
LOSS: types.Loss = "bce+dice"  # loss to train with
LEARNING_RATE: types.NonNegative = 3e-3  # to start from; it falls to 0
BATCH_SIZE: types.PositiveInt = 4  # slices a step
EPOCHS: types.PositiveInt = 10  # passes over the training set
MAX_MINUTES: types.Positive | None = 3.5  # stop training before an epoch that would end later
SEED: types.Seed = 1  # of the division and of the training

settings = apply_command_line(globals())

import shlex
import time
from pathlib import Path

from common.jobs import call
from common.settings import require_folder


def main():
    started = time.monotonic()
    work = Path(settings.WORK)
    if Path(settings.CASES) == Path("data/sample") and not Path(settings.CASES).exists():
        run("data/make_sample.py", CASES=settings.CASES)
    require_folder(settings.CASES, "CASES")
    run("preprocess/1_augment_cases.py", CASES=settings.CASES, FILTERS=settings.FILTERS, SHAPES=settings.SHAPES)
    run(
        "preprocess/2_write_lists.py",
        CASES=settings.CASES,
        LISTS=work / "lists",
        VALIDATION_SHARE=settings.VALIDATION_SHARE,
        TEST_SHARE=settings.TEST_SHARE,
        SEED=settings.SEED,
        REPLACE=settings.REPLACE,
    )
    run("preprocess/3_pack_hdf5.py", LISTS=work / "lists", PACKED=work / "packed", REPLACE=settings.REPLACE)
    before = set(work.glob("runs/*"))
    run(
        "train.py",
        TRAIN=work / "packed" / "train.h5",
        VALIDATION=work / "packed" / "validation.h5",
        RUNS=work / "runs",
        MODEL_SETTINGS=settings.MODEL_SETTINGS,
        LOSS=settings.LOSS,
        LEARNING_RATE=settings.LEARNING_RATE,
        BATCH_SIZE=settings.BATCH_SIZE,
        SCHEDULE="cosine",
        EPOCHS=settings.EPOCHS,
        MAX_MINUTES=settings.MAX_MINUTES,
        SEED=settings.SEED,
    )
    (trained,) = set(work.glob("runs/*")) - before
    test = work / "lists" / "test.csv"
    run("predict.py", RUN=trained, INPUT=test, OUTPUT=work / "predictions", REPLACE=settings.REPLACE)
    run("evaluate.py", PREDICTED=work / "predictions", TRUTH=test, OUTPUT=work / "scores", REPLACE=settings.REPLACE)
    run("convert_coreml.py", RUN=trained, OUTPUT=work / "model.mlmodel", REPLACE=settings.REPLACE)
    minutes = (time.monotonic() - started) / 60
    print(f"\nall steps done in {minutes:.1f} minutes; wrote {work / 'model.mlmodel'}, {work / 'scores'} and {trained}")


def run(script, **settings):
    """Say what is run, and run it."""
    print(f"\n$ python {script} {shlex.join(flags_of(settings))}", flush=True)
    call(script, **settings)


if __name__ == "__main__":
    main()

"""Run all steps in order, from case folders to a Core ML model, with small settings.

Reads   CASES: case folders; by default the synthetic sample, which is created if missing
Writes  WORK/lists, packed, runs/<date-time>_unet, predictions, scores, and model.mlmodel
Takes   under five minutes on two cores, most of them for training
Expect  a mean Dice of about 0.98 on the test cases of the sample

Each step runs its script as you would, and prints the command so that you can reuse it.
Step 1 also writes its variants into CASES, next to x and y.
"""

from common import setting_types as types
from common.command_line import flags_of
from common.settings import apply_command_line

# --- input and output
CASES: types.PathName = "data/sample"  # folder with the case folders; the sample is created if missing
WORK: types.PathName = "work"  # output folder for all steps
REPLACE: bool = True  # overwrite earlier output in WORK (run folders are kept)

# --- small settings
FILTERS: types.Filters = ["O", "C"]  # filters of step 1
SHAPES: types.Shapes = ["", "RTP"]  # shapes of step 1
VALIDATION_SHARE: types.ShareBelowOne = 0.125  # share of the cases for validation
TEST_SHARE: types.ShareBelowOne = 0.25  # share of the cases for testing
MODEL_SETTINGS: types.UnetSettings = {"features": 8, "depth": 4, "dropout": 0.0}  # U-net settings
LOSS: types.Loss = "bce+dice"  # loss to train with
LEARNING_RATE: types.NonNegative = 3e-3  # initial learning rate; it falls to 0
BATCH_SIZE: types.PositiveInt = 4  # slices per step
EPOCHS: types.PositiveInt = 10  # passes over the training set
MAX_MINUTES: types.Positive | None = 3.5  # stop before an epoch that would exceed this time; None: never
SEED: types.Seed = 1  # random seed for the split and the training

settings = apply_command_line(globals())

import shlex
import time
from pathlib import Path

from common.jobs import call
from common.settings import require_folder
from common.training.trust import trust_command


def main():
    trust_command(settings)
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
        AUGMENTATION={},  # step 1 has made variants
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
    written = f"{work / 'model.mlmodel'}, {work / 'scores'} and {trained}"
    print(f"\nfinished all steps in {minutes:.1f} minutes; wrote {written}")


def run(script, **settings):
    """Print a command and run it."""
    print(f"\n$ python {script} {' '.join(map(as_typed, flags_of(settings)))}", flush=True)
    call(script, **settings)


def as_typed(flag):
    """A flag as the pages show it: --model-settings "{'features': 8}"."""
    name, _, value = flag.partition("=")
    in_double = "'" in value and not set(value) & set('"$`\\!')
    return f'{name} "{value}"' if in_double else f"{name} {shlex.quote(value)}" if value else name


if __name__ == "__main__":
    main()

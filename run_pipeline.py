"""Run all steps in order, from images or case folders to a Core ML model.

    python run_pipeline.py
    python run_pipeline.py --images my_data/images --masks my_data/masks --minutes 20

Reads   IMAGES and MASKS: your own images or volumes, with masks of matching names; or CASES: case
        folders, by default the synthetic sample, which is created if missing
Writes  WORK/lists, packed, runs, predictions, scores, model.mlmodel; for IMAGES also decisions.md
Takes   under five minutes on two cores for the sample; with IMAGES, MINUTES and a few more
Expect  a mean Dice of about 0.98 on the test cases of the sample

Each step runs its script as you would, and prints the command so that you can reuse it. With
CASES, step 1 writes its variants into CASES, next to x and y, and training uses the small settings
below. With IMAGES, step 4 plans the training.
"""

from common import setting_types as types
from common.command_line import as_typed, flags_of
from common.settings import apply_command_line

# --- input and output
IMAGES: str = ""  # your own images: a folder of images or of volumes; "": case folders in CASES
MASKS: str = ""  # their masks or label volumes, in a folder
#   A data set of nnU-Net in IMAGES needs none. Masks of each class: "masks/{class}/{id}.png".
CASES: types.PathName = "data/sample"  # folder with the case folders; the sample is created if missing
WORK: types.PathName = "work"  # output folder for all steps
REPLACE: bool = True  # overwrite earlier output in WORK (run folders are kept)

# --- with IMAGES
MINUTES: types.Positive = 20.0  # time for training; with FOLDS, for all folds together
FOLDS: types.Folds = 0  # number of cross-validation folds to average; 0: one training
SIZE: types.Side | None = None  # side length of the slices in pixels; None: chosen from your images
IMPORT_SETTINGS: types.FreeDict = {}  # settings of step 0 to change, such as {"UNMATCHED": "skip"}

# --- small settings, with CASES
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

import time
from pathlib import Path

from common.claims import claimed
from common.errors import InputError, SettingError
from common.jobs import call
from common.settings import require_folder

WORK_FOLDER = Path(settings.WORK)


def main():
    with claimed(WORK_FOLDER / "runs"):
        run_all_steps()


def run_all_steps():
    started = time.monotonic()
    trained = train_on_own_images() if settings.IMAGES else train_on_cases()
    test = WORK_FOLDER / "lists" / "test.csv"
    if settings.FOLDS and settings.IMAGES:
        test = WORK_FOLDER / "lists" / "fold1" / "test.csv"
    predicted, scores, model = (WORK_FOLDER / name for name in ("predictions", "scores", "model.mlmodel"))
    run("predict.py", RUN=trained, INPUT=test, OUTPUT=predicted, REPLACE=settings.REPLACE)
    run("evaluate.py", PREDICTED=predicted, TRUTH=test, OUTPUT=scores, REPLACE=settings.REPLACE)
    run("convert_coreml.py", RUN=run_to_convert(trained), OUTPUT=model, REPLACE=settings.REPLACE)
    minutes = (time.monotonic() - started) / 60
    print("", f"finished all steps in {minutes:.1f} minutes; wrote {model}, {scores} and {trained}", sep="\n")


def train_on_cases():
    """Run steps 1 to 3 on CASES with the small settings, and train; returns the run folder."""
    work = WORK_FOLDER
    if Path(settings.CASES) == Path("data/sample") and not Path(settings.CASES).exists():
        run("data/make_sample.py", CASES=settings.CASES)
    require_folder(settings.CASES, "CASES")
    run("preprocess/1_augment_cases.py", CASES=settings.CASES, FILTERS=settings.FILTERS, SHAPES=settings.SHAPES)
    shares = {"VALIDATION_SHARE": settings.VALIDATION_SHARE, "TEST_SHARE": settings.TEST_SHARE}
    write_and_pack_lists(settings.CASES, **shares)
    return train(
        TRAIN=work / "packed" / "train.h5",
        VALIDATION=work / "packed" / "validation.h5",
        AUGMENTATION={},  # step 1 has made variants
        MODEL="unet",
        MODEL_SETTINGS=settings.MODEL_SETTINGS,
        LOSS=settings.LOSS,
        LEARNING_RATE=settings.LEARNING_RATE,
        BATCH_SIZE=settings.BATCH_SIZE,
        SCHEDULE="cosine",
        EPOCHS=settings.EPOCHS,
        MAX_MINUTES=settings.MAX_MINUTES,
    )


def train_on_own_images():
    """Import IMAGES and MASKS, split, pack, plan and train; returns the run folder or the cross-validation."""
    from common.training.own_data import Decisions, choose_import, choose_split  # only with IMAGES

    work, decisions = WORK_FOLDER, Decisions(WORK_FOLDER / "decisions.md")
    require_folder(settings.IMAGES, "IMAGES")
    if settings.MASKS or not Path(settings.IMAGES, "dataset.json").is_file():
        require_folder(settings.MASKS.partition("{")[0], "MASKS")
    given = import_settings()
    script, chosen = choose_import(settings.IMAGES, settings.MASKS, settings.SIZE, settings.MINUTES, given)
    decisions.add("import", chosen)
    values = {name: value for name, (value, _) in chosen.items()}
    try:
        run(script, CASES=work / "cases", REPLACE=settings.REPLACE, **values)
    except InputError as error:
        example = "{'LABEL_NAME': '{id}_seg'}" if "LABELS" in chosen else "{'UNMATCHED': 'skip'}"
        advice = f'pass the settings that it names as --import-settings "{example}"'
        raise InputError(f"{error}; {advice}") from None
    chosen = choose_split(work / "cases", settings.FOLDS)
    decisions.add("split", chosen)
    write_and_pack_lists(work / "cases", **{name: value for name, (value, _) in chosen.items()})
    plan = work / "packed" / "plan.json"
    minutes = settings.MINUTES / (settings.FOLDS or 1)
    run("preprocess/4_plan_training.py", PACKED=work / "packed", MINUTES=minutes, REPLACE=settings.REPLACE)
    decisions.add_plan(plan)
    sets = {"TRAIN": work / "packed" / "train.h5", "VALIDATION": work / "packed" / "validation.h5"}
    trained = train("--settings", plan, **sets, **({"FOLD": "all"} if settings.FOLDS else {}))
    if settings.FOLDS:
        run("choose.py", CROSS_VALIDATIONS=trained)
    return trained


def import_settings():
    """IMPORT_SETTINGS with names in capitals, also if they are typed as flags are: "unmatched", "mask-values".

    Raises:
        SettingError: for those that this script sets.
    """
    given = {name.lstrip("-").replace("-", "_").upper(): value for name, value in settings.IMPORT_SETTINGS.items()}
    own = {
        "IMAGES": "IMAGES",
        "MASKS": "MASKS",
        "LABELS": "MASKS",
        "CASES": "WORK",
        "SIZE": "SIZE",
        "REPLACE": "REPLACE",
    }
    for name in given.keys() & own.keys():
        raise SettingError(f"IMPORT_SETTINGS: contains {name}; pass --{own[name].lower()} instead")
    return given


def write_and_pack_lists(cases, **split):
    """Run steps 2 and 3."""
    work, seed = WORK_FOLDER, settings.SEED
    own = {"CASES": cases, "LISTS": work / "lists", "SEED": seed, "REPLACE": settings.REPLACE}
    run("preprocess/2_write_lists.py", **own, **split)
    run("preprocess/3_pack_hdf5.py", LISTS=work / "lists", PACKED=work / "packed", REPLACE=settings.REPLACE)


def train(*arguments, **values):
    """Train; returns the new run folder."""
    before = set(WORK_FOLDER.glob("runs/[!.]*"))
    run("train.py", *arguments, RUNS=WORK_FOLDER / "runs", SEED=settings.SEED, **values)
    new = sorted(set(WORK_FOLDER.glob("runs/[!.]*")) - before)
    if len(new) > 1:
        names = " and ".join(path.name for path in new)
        raise InputError(f"{WORK_FOLDER / 'runs'}: another training wrote there too (found {names}); use another WORK")
    return new[0]


def run_to_convert(trained):
    """Run whose model is converted: of a cross-validation, the fold with the best validation Dice."""
    from common.training.trained_models import CrossValidation  # loads pydantic and more

    folds = CrossValidation(trained)
    return max(folds.runs(), key=lambda fold: fold.log.best("dice")[0]) if folds.exists else trained


def run(script, *arguments, **values):
    """Print a command and run it."""
    shown = " ".join(map(as_typed, [*map(str, arguments), *flags_of(values)]))
    print("", f"$ python {script} {shown}", sep="\n", flush=True)
    call(script, *arguments, **values)


if __name__ == "__main__":
    main()

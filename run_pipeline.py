"""Run all steps in order, from images or case folders to a Core ML model.

    python run_pipeline.py
    python run_pipeline.py --images my_data/images --masks my_data/masks --minutes 20

Reads   IMAGES and MASKS: your own images or volumes, with masks of matching names; or CASES: case
        folders, by default the synthetic sample, which is created if missing
Writes  WORK/lists, packed, runs, predictions, scores, model.mlmodel; for IMAGES also decisions.md
        and final
Takes   under five minutes on two cores for the sample; with IMAGES, MINUTES and a few more
Expect  a mean Dice of about 0.98 on the test cases of the sample

Each step runs its script as you would, and prints the command so that you can reuse it. With
CASES, step 1 writes its variants into CASES, next to x and y, and training uses the small settings
below. With IMAGES, step 4 plans the training; with few cases, the model that has been tested goes
on learning from all of them. After an interruption, the same command continues the training.
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
FINAL: types.ShareBelowOne | None = None  # share of MINUTES for a final training on all cases; 0: none; None: chosen
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
BATCH_SIZE: types.PositiveInt = 2  # slices per step
EPOCHS: types.PositiveInt = 5  # passes over the training set
MAX_MINUTES: types.Positive | None = 3.5  # stop before an epoch that would exceed this time; None: never
SEED: types.Seed = 1  # random seed for the split and the training

settings = apply_command_line(globals())

import time
from pathlib import Path

from common.claims import claimed
from common.errors import InputError, SettingError
from common.jobs import call
from common.replacing import refuse_existing
from common.settings import require_folder
from common.training.interrupted import Begun, is_complete, settings_of_training, settings_to_resume, with_whole_paths

WORK_FOLDER = Path(settings.WORK)


def main():
    with claimed(WORK_FOLDER / "runs"):
        run_all_steps()


def run_all_steps():
    started = time.monotonic()
    makers = {"predictions": "predict.py", "scores": "evaluate.py", "model.mlmodel": "convert_coreml.py"}
    for name, script in (makers | ({"decisions.md": None} if settings.IMAGES else {})).items():
        refuse_existing(WORK_FOLDER / name, settings.REPLACE, script)  # now, not after the training
    begun = Begun(WORK_FOLDER)
    final = from_own_images(begun) if settings.IMAGES else from_cases(begun)
    model, scores = WORK_FOLDER / "model.mlmodel", WORK_FOLDER / "scores"
    run("convert_coreml.py", RUN=run_to_convert(final), OUTPUT=model, REPLACE=settings.REPLACE)
    begun.end()
    minutes = (time.monotonic() - started) / 60
    print("", f"finished all steps in {minutes:.1f} minutes; wrote {model}, {scores} and {final}", sep="\n")


def from_cases(begun):
    """Run steps 1 to 3 on CASES with the small settings, train and test; returns the run folder."""
    work = WORK_FOLDER
    if Path(settings.CASES) == Path("data/sample") and not Path(settings.CASES).exists():
        run("data/make_sample.py", CASES=settings.CASES)
    require_folder(settings.CASES, "CASES")
    run("preprocess/1_augment_cases.py", CASES=settings.CASES, FILTERS=settings.FILTERS, SHAPES=settings.SHAPES)
    shares = {"VALIDATION_SHARE": settings.VALIDATION_SHARE, "TEST_SHARE": settings.TEST_SHARE}
    write_and_pack_lists(settings.CASES, work, **shares)
    trained = train(
        begun,
        "training",
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
    test(trained)
    return trained


def from_own_images(begun):
    """Import IMAGES and MASKS, split, pack, plan, train and test; returns the final run or the cross-validation."""
    from common.training.own_data import Decisions, choose_final, choose_split  # only with IMAGES

    if settings.FINAL and settings.FOLDS:
        raise SettingError(f"FINAL: cannot be combined with FOLDS ({settings.FOLDS}); set only one of them")
    decisions, cases = Decisions(WORK_FOLDER / "decisions.md"), WORK_FOLDER / "cases"
    import_own_images(decisions)
    split = choose_split(cases, settings.FOLDS)
    decisions.add("split", split)
    final = choose_final(cases, settings.FOLDS, settings.MINUTES, settings.FINAL)
    decisions.add("time", final)
    share = final["FINAL"][0]
    pack_and_plan(begun, WORK_FOLDER, (1 - share) / (settings.FOLDS or 1), decisions, "training", split)
    if share:
        whole = dict.fromkeys(("VALIDATION_SHARE", "TEST_SHARE"), (0.0, "the final training has all cases"))
        pack_and_plan(begun, WORK_FOLDER / "final", share, decisions, "final training", whole)
    packed = WORK_FOLDER / "packed"
    sets = {"TRAIN": packed / "train.h5", "VALIDATION": packed / "validation.h5"}
    trained = train(begun, "training", packed / "plan.json", **sets, **({"FOLD": "all"} if settings.FOLDS else {}))
    if settings.FOLDS:
        run("choose.py", CROSS_VALIDATIONS=trained)
    test(trained)
    if not share:
        return trained
    before = "the scores above are of the model before it"
    print("", f"the final training continues from this model, with all cases; {before}", sep="\n", flush=True)
    packed = WORK_FOLDER / "final" / "packed"
    sets = {"TRAIN": packed / "train.h5", "VALIDATION": ""}
    return train(begun, "final training", packed / "plan.json", MODE="retrain", RUN=trained, **sets)


def import_own_images(decisions):
    """Choose how IMAGES and MASKS are imported, and import them."""
    from common.training.own_data import choose_import  # only with IMAGES

    require_folder(settings.IMAGES, "IMAGES")
    if settings.MASKS or not Path(settings.IMAGES, "dataset.json").is_file():
        require_folder(settings.MASKS.partition("{")[0], "MASKS")
    given = import_settings()
    script, chosen = choose_import(settings.IMAGES, settings.MASKS, settings.SIZE, settings.MINUTES, given)
    decisions.add("import", chosen)
    values = {name: value for name, (value, _) in chosen.items()}
    try:
        run(script, CASES=WORK_FOLDER / "cases", REPLACE=settings.REPLACE, **values)
    except InputError as error:
        example = "{'LABEL_NAME': '{id}_seg'}" if "LABELS" in chosen else "{'UNMATCHED': 'skip'}"
        advice = f'if it names a setting, pass it as --import-settings "{example}"'
        raise InputError(f"{error}; {advice}") from None


def pack_and_plan(begun, work, share, decisions, step, split):
    """Split the cases, pack and plan a training; the plan of an interrupted pipeline is kept, since it measures time.

    Args:
        begun: `common.training.interrupted.Begun`.
        work: folder for lists and packed sets.
        share: share of MINUTES that it may take.
        decisions: Decisions, which gets the plan.
        step: word for the training.
        split: dict of setting of 2_write_lists.py to (value, reason).
    """
    write_and_pack_lists(WORK_FOLDER / "cases", work, **{name: value for name, (value, _) in split.items()})
    packed, minutes = work / "packed", round(settings.MINUTES * share, 2)
    try:
        if not begun.is_planned(step, packed, minutes):
            run("preprocess/4_plan_training.py", PACKED=packed, MINUTES=minutes, REPLACE=settings.REPLACE)
            begun.planned(step, packed, minutes)
    except InputError as error:
        if share == 1:
            raise
        raise InputError(f"{error} (the {step} has {minutes:g} of the {settings.MINUTES:g} minutes)") from None
    decisions.add_plan(packed / "plan.json", step)


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


def write_and_pack_lists(cases, work, **split):
    """Run steps 2 and 3 into a folder."""
    seed = settings.SEED
    own = {"CASES": cases, "LISTS": work / "lists", "SEED": seed, "REPLACE": settings.REPLACE}
    run("preprocess/2_write_lists.py", **own, **split)
    run("preprocess/3_pack_hdf5.py", LISTS=work / "lists", PACKED=work / "packed", REPLACE=settings.REPLACE)


def train(begun, step, plan=None, **values):
    """Train, or continue what an interrupted pipeline began; returns the run folder.

    Args:
        begun: `common.training.interrupted.Begun`.
        step: word for the training.
        plan: Path of plan.json, or None.
        values: settings of train.py.
    """
    values = with_whole_paths({"RUNS": WORK_FOLDER / "runs", "SEED": settings.SEED} | values)
    wanted = settings_of_training(plan, values)
    if earlier := begun.find_run(step, wanted):
        complete, restart = is_complete(earlier), f"to train from the start, remove {begun.file}"
        done = f"skipping the {step}: {earlier} is complete" if complete else f"continuing the {step} in {earlier}"
        print("", f"{done}, since the last pipeline was interrupted; {restart}", sep="\n", flush=True)
        if not complete:
            run("train.py", **settings_to_resume(earlier))
        return earlier.folder
    begun.begin(step, wanted)
    before = set(WORK_FOLDER.glob("runs/[!.]*"))
    run("train.py", *(["--settings", plan] if plan else []), **values)
    new = sorted(set(WORK_FOLDER.glob("runs/[!.]*")) - before)
    if len(new) > 1:
        names = " and ".join(path.name for path in new)
        raise InputError(f"{WORK_FOLDER / 'runs'}: another training wrote there too (found {names}); use another WORK")
    return new[0]


def test(trained):
    """Predict the test cases and score them."""
    folder, predicted = "lists/fold1" if settings.FOLDS and settings.IMAGES else "lists", WORK_FOLDER / "predictions"
    cases = WORK_FOLDER / folder / "test.csv"
    run("predict.py", RUN=trained, INPUT=cases, OUTPUT=predicted, REPLACE=settings.REPLACE)
    scores = WORK_FOLDER / "scores"
    run("evaluate.py", PREDICTED=predicted, TRUTH=cases, OUTPUT=scores, REPLACE=settings.REPLACE)


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

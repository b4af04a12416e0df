"""Turn confident predictions on unlabeled images into case folders to train on.

    python pseudo_label.py --run runs/20260102-030405_unet --input my_data/new --cases data/mine

Reads   RUN: run folder of train.py, or a cross-validation; INPUT: unlabeled images or case folders
Writes  CASES/pseudo_<case>/x, y and case.json, marked as pseudo-labeled, for step 2, which puts
        them into training lists only
Takes   as long as predict.py
Expect  a part of the slices: those with a mask of at least SMALLEST pixels in which, and around
        which, the model is sure

Use images of patients who are neither in validation nor in test. Look at some masks first.
"""

from typing import Annotated

from annotated_types import Ge, Le

from common import setting_types as types
from common.settings import apply_command_line

# --- input and output
RUN: str = ""  # run folder, .keras file, or cross-validation as choose.py chose
WEIGHTS_FILE: types.WeightsFile = "best_dice"  # checkpoint of a run: "best_dice", "best_iou" or "last"
MODEL: str = ""  # your own network file of RUN, so that its copy in RUN may run
TRUST_RUN: bool = False  # True: run any code that RUN contains; only if you trust its source
INPUT: str = ""  # unlabeled images: a folder of images or of cases, or a case folder
CASES: types.PathName = "data/pseudo"  # where to write the case folders; also next to your own cases
REPLACE: bool = False  # True: overwrite existing pseudo-labeled cases

# --- what is kept
CONFIDENCE: Annotated[float, Ge(0.5), Le(1)] = 0.95  # min mean confidence in a mask and around it, 0.5 to 1
#   The confidence of a pixel is max(p, 1 - p), p its probability; with several classes, the largest probability.
MARGIN: types.Count = 5  # pixels around the mask that count too
SMALLEST: types.PositiveInt = 50  # min size of a mask in pixels of the slice

# --- prediction
THRESHOLD: types.Share | None = None  # probability above which a pixel is foreground; None: as training chose
BATCH_SIZE: types.PositiveInt = 8  # slices or tiles per step

settings = apply_command_line(globals())

import itertools
from functools import partial
from pathlib import Path

from common.devices import import_keras
from common.errors import InputError
from common.parallel import ordered_map
from common.prediction.ensemble import Ensemble
from common.prediction.inputs import ImageInput, reader_of
from common.prediction.pseudo_labels import SCRIPT, PseudoLabels, Rule, case_name
from common.replacing import whole_entries
from common.slices.cases import CaseRecord, Imported, fill_case, refuse_existing_cases
from common.slices.classes import OVERLAPPING
from common.training.calibration import threshold_in_words, with_threshold
from common.training.trained_models import find_models, find_volume_models, names_of_classes, slice_preparation
from common.training.trust import trust_command
from common.volumes.finding import is_volume
from common.words import number_of


def main():
    trust_command(settings)
    if find_volume_models([settings.RUN], settings.WEIGHTS_FILE):
        raise InputError(f"RUN: {settings.RUN} was trained on volumes; pseudo-labels are for slices")
    models = find_models([settings.RUN], settings.WEIGHTS_FILE)
    if settings.INPUT and is_volume(settings.INPUT):
        raise InputError(f"INPUT: {settings.INPUT} is a volume; import it with 0_import_volumes.py, then pass its case")
    prepared = slice_preparation(models.files)
    source = ImageInput(settings.INPUT, prepared.stretched, prepared.channels_to_read)
    cases = {s: case_name(s) for s in source.slices}
    names = list(dict.fromkeys(cases.values()))
    refuse_existing_cases([Path(settings.CASES, name) for name in names], settings.REPLACE)
    import_keras()
    ensemble, used = Ensemble(models.files), with_threshold(settings, models.files, models.threshold, models.flips)
    fit = prepared.fit or "resize"
    rule = Rule(settings.CONFIDENCE, settings.SMALLEST, settings.MARGIN)
    overlap = (prepared.overlap or OVERLAPPING) if ensemble.overlapping else ""
    classes = prepared.channels, overlap, names_of_classes(models.files[0], ensemble.classes)
    labels = PseudoLabels(ensemble.size, fit, used.THRESHOLD, models.clean, rule, *classes)
    images = number_of(len(source.slices), "image")
    print(f"predicting {images} with {', '.join(map(str, models.files))}", flush=True)
    if ensemble.channels == 1 or ensemble.overlapping:
        print(threshold_in_words(used), flush=True)
    options = {"fit": fit, "batch_size": settings.BATCH_SIZE, "flips": models.flips}
    read = reader_of(source, ensemble.inputs)
    predicted = ensemble.predict(lambda: ordered_map(read, source.slices), len(source.slices), **options)
    kept, model = [], models.files[0].parent.name if len(models.files) == 1 else Path(settings.RUN).name
    with whole_entries(settings.CASES, names, settings.REPLACE, removed=lambda: outdated(names, kept)) as folder:
        kept += write_cases(folder, zip(source.slices, predicted, strict=True), source, cases, labels, model)
    print(labels.in_words())
    written = f"{number_of(labels.counts['kept'], 'pseudo-labeled slice')} in {number_of(len(kept), 'case')}"
    print(f"wrote {written} to {settings.CASES}")


def outdated(names, kept):
    """Names of the cases of an earlier call of which no slice is kept now."""
    return [name for name in names if name not in kept and Path(settings.CASES, name).exists()]


def write_cases(folder, predicted, source, cases, labels, model):
    """Write the slices that are kept into case folders.

    Args:
        folder: Path of the folder for them.
        predicted: iterable of (Slice, (image, probabilities)), in the order of the cases.
        source: ImageInput.
        cases: dict of Slice to the name of its case folder.
        labels: PseudoLabels.
        model: name of the run or cross-validation that predicts.

    Returns:
        Names of the cases with a slice that is kept.
    """
    kept = []
    for name, of_case in itertools.groupby(predicted, key=lambda item: cases[item[0]]):
        first = next(of_case)
        record = source.case_of(first[0])[1]
        (folder / name).mkdir()
        slices = (
            labels.slices_of(s, image, probabilities, record)
            for s, (image, probabilities) in itertools.chain([first], of_case)
        )
        attributes = labels.record_of(record, model)
        make_record = partial(CaseRecord, SCRIPT, labels.size, **attributes)
        count, _ = fill_case(folder / name, map(Imported, slices), make_record)
        kept += [name] * bool(count)
    return kept


if __name__ == "__main__":
    main()

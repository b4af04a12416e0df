"""Decisions of run_pipeline.py about a user's own images, each with its reason."""

import statistics
from pathlib import Path

import cv2
import numpy as np

from common.errors import InputError, SettingError
from common.files import read_json, whole_file
from common.settings import REASONS, Settings
from common.slices.cases import find_cases
from common.slices.finding import walk
from common.slices.images import images_in, is_color, read_image, resize, to_gray
from common.slices.matching import patients_in
from common.slices.nnunet import DATASET
from common.training.own_masks import choose_reading, find_own, foreground_of, some
from common.training.own_volumes import choose_names, choose_values, median_side, volumes_in
from common.words import number_of

SIDES = (96, 128, 160, 192, 224, 256, 320, 384, 448, 512)  # pixels
SHORT_MINUTES, LARGEST_IF_SHORT = 60, 256  # on a CPU, larger slices leave too few epochs
KEPT, KEPT_AT_LEAST = 0.97, 0.95  # Dice of masks with themselves, reduced to a size and enlarged again
SMALLEST_IF_SHORT = 128  # pixels
SQUARE = 0.05  # sides that differ by less than this share may be resized
MANY_CASES = 10
FEWEST_SLICES = 3
FEW_CASES = 100  # with fewer, those that validate and test are missed in training
FINAL_SHARE, SHORTEST_FINAL = 0.6, 5  # share of the time for a final training, and least minutes for both


class Decisions:
    """Prints decisions before each step and keeps them in a Markdown file.

    Args:
        path: Path of the file; each run overwrites it.
    """

    def __init__(self, path):
        self.path, self.lines = path, ["# Decisions", ""]

    def add(self, step, chosen):
        """Add the settings of a step.

        Args:
            step: word for the step.
            chosen: dict of setting to (value, reason).
        """
        lines = [f"- `{name} = {value!r}`: {reason}" for name, (value, reason) in chosen.items()]
        print("", *(line.replace("`", "") for line in lines), sep="\n", flush=True)
        self.lines += [f"## {step.capitalize()}", "", *lines, ""]
        with whole_file(self.path) as unfinished:
            unfinished.write_text("\n".join(self.lines), encoding="utf-8", errors="backslashreplace")

    def add_plan(self, plan, step="training"):
        """Add the settings of plan.json, a Path."""
        found = read_json(plan)
        reasons = found[REASONS]
        self.add(step, {name: (value, reasons[name]) for name, value in found.items() if name in reasons})


def choose_import(images, masks, size, minutes, given=()):
    """Choose the importer and its settings.

    Args:
        images, masks: folders; the masks of images also as a name pattern.
        size: side length in pixels, or None to choose it.
        minutes: time for training.
        given: dict of settings of the importer that the user gave.

    Returns:
        path of the script, and dict of setting to (value, reason).

    Raises:
        InputError: if the folder contains neither images nor volumes, or both.
        SettingError: for a given setting that the importer lacks or refuses.
    """
    of_dataset = not masks and (Path(images) / DATASET).is_file()  # of nnU-Net, which needs no more
    source, labels = (Path(images, "imagesTr"), Path(images, "labelsTr")) if of_dataset else (images, masks)
    pictures, _ = walk(source)
    volumes = volumes_in(source, labels)
    if bool(pictures) == bool(volumes):
        found = f"{number_of(len(pictures), 'image')} and {number_of(len(volumes), 'volume')}"
        raise InputError(f"IMAGES: {images} must contain either images or volumes (found {found}); use another folder")
    given = {"IMAGES": str(images), "LABELS" if volumes else "MASKS": str(masks)} | dict(given)
    if volumes:
        script, chosen = "preprocess/0_import_volumes.py", _of_volumes(source, labels, volumes, size, minutes)
    else:
        script, chosen = "preprocess/0_import_images.py", _of_images(source, labels, size, minutes, given)
    if of_dataset:
        chosen = {name: chosen[name] for name in ("SLICES", "SIZE", "FIT") if name in chosen}
    said = {name: (value, "as you said") for name, value in given.items()}
    Settings.of(script).with_given(given, "given", "IMPORT_SETTINGS: ")
    return script, said | {name: found for name, found in chosen.items() if name not in given}


def _of_volumes(images, labels, volumes, size, minutes):
    return {
        **choose_names(images, labels),
        **choose_values(labels),
        "SLICES": ("all", "slices without a label teach what is not the target"),
        "SIZE": _side(median_side(images, volumes), size, minutes),
        "FIT": ("pad", "padding does not distort"),
    }


def _of_images(images, masks, size, minutes, given):
    found, of_images = find_own(images, masks)
    pictures, of_images = list(found.values()), list(of_images.values())
    if not pictures:
        raise InputError(f"IMAGES: all images in {images} are masks, by their names or folders; use another folder")
    looked_at = [read_image(path) for path in some(pictures)]
    shapes = [image.shape[:2] for image in looked_at]
    ratio = max(max(shape) / min(shape) for shape in shapes)
    chosen = {}
    if any(folder for folder, _ in found):
        chosen["CASE_FROM"] = "folder", "a subfolder is a case, such as a patient"
    elif patients := patients_in([path.stem for path in pictures]):
        name, patient = next(iter(patients.items()))
        chosen["CASE_FROM"] = "folder", f"names tell the patient: {name} is a slice of {patient}"
    else:
        reason = "each image counts as a case; if a patient has several images, put them into a subfolder"
        chosen["CASE_FROM"] = "image", reason
    if colored := sum(map(is_color, looked_at)):
        chosen["CHANNELS"] = "rgb", f"{colored} of {number_of(len(shapes), 'image')} looked at are in color"
    median = statistics.median(max(shape) for shape in shapes)
    if not given.keys() & {"MASK_VALUES", "MASK_THRESHOLD", "COLORS", "IGNORE", "REGIONS"}:
        chosen |= choose_reading(of_images)
    kept = kept_outlines(of_images) if size is None else {}
    side, why = _side(median, size, minutes, kept)
    share = kept.get(side, 1)
    whole = [s for s in SIDES if median <= s <= _limit(minutes)]
    if share < KEPT_AT_LEAST and whole:
        side, why = whole[0], f"no smaller than the images, since at {side} outlines keep a Dice of only {share:.2f}"
        chosen["FIT"] = "pad", "padding keeps all detail"
    elif share < KEPT_AT_LEAST:
        reason = f"reduced to this size, the outlines would keep a Dice of only {share:.2f}: tiles keep all detail"
        chosen["FIT"] = "tile", reason
    elif ratio <= 1 + SQUARE:
        chosen["FIT"] = "resize", "the images are square"
    else:
        chosen["FIT"] = "pad", f"sides differ by a factor of up to {ratio:.2g}; padding does not distort"
    chosen["SIZE"] = side, why
    return chosen


def _side(median, size, minutes, kept=None):
    """Side length and reason.

    Args:
        median: median of the larger sides in pixels.
        size: side length that the user gave, or None.
        minutes: time for training.
        kept: result of `kept_outlines`; empty: unknown.
    """
    if size is not None:
        return size, "as you said"
    is_short, limit = minutes < SHORT_MINUTES, _limit(minutes)
    fitting = [side for side in SIDES if side <= min(median, limit)] or [SIDES[0]]
    enough = [side for side in fitting if side >= SMALLEST_IF_SHORT and kept and kept.get(side, 0) >= KEPT]
    if is_short and enough:
        return enough[0], f"its outlines keep a Dice of {kept[enough[0]]:.2f}; larger slices leave fewer epochs"
    return fitting[-1], f"the images have {median:g} pixels at the median; at most {limit} for {minutes:g} minutes"


def _limit(minutes):
    """Largest side in pixels for a time."""
    return LARGEST_IF_SHORT if minutes < SHORT_MINUTES else SIDES[-1]


def kept_outlines(masks):
    """How much of the outlines each side in SIDES keeps.

    Args:
        masks: list of Path.

    Returns:
        dict of side to mean Dice of up to 20 masks with themselves, reduced to this size and enlarged again;
        only sides up to the smallest mask's larger side. Empty if no mask can be read or has foreground.
    """
    found = {}
    for path in some(masks):
        try:
            mask = to_gray(read_image(path))
        except InputError:  # the importer reports it
            continue
        mask = foreground_of(mask)
        if mask is not None and mask.any():
            for side in SIDES:
                if side <= max(mask.shape):
                    found.setdefault(side, []).append(_dice_after_resizing(mask, side))
    most = max(map(len, found.values()), default=0)
    return {side: statistics.fmean(values) for side, values in found.items() if len(values) == most}


def _dice_after_resizing(mask, side):
    """Dice of a mask, (H, W) float32 of 0 and 1, with itself after its larger side was reduced."""
    scale = side / max(mask.shape)
    smaller = [max(1, round(length * scale)) for length in mask.shape]
    reduced = (resize(mask, smaller, cv2.INTER_AREA) > 0.5).astype(np.float32)
    back = resize(reduced, mask.shape, cv2.INTER_LINEAR) > 0.5
    return 2 * float(mask[back].sum()) / float(mask.sum() + back.sum())


def choose_split(cases, folds):
    """Choose how step 2 divides the cases.

    Args:
        cases: folder of the case folders.
        folds: number of cross-validation folds; 0: a single split.

    Returns:
        dict of setting of 2_write_lists.py to (value, reason).

    Raises:
        SettingError: for more folds than cases.
        InputError: if there are too few slices for any split.
    """
    found = find_cases(cases)
    count, slices = len(found), sum(len(images_in(case / "x")) for case in found)
    if slices < FEWEST_SLICES or (count > 1 and count < FEWEST_SLICES):
        advice = f"outline at least {FEWEST_SLICES} cases"
        if slices >= FEWEST_SLICES and not any("volume" in read_json(path) for path in Path(cases).glob("*/case.json")):
            advice += """; if the subfolders are not patients, pass --import-settings "{'CASE_FROM': 'image'}\""""
        raise InputError(
            f"IMAGES: too few for training, validation and test (found {number_of(slices, 'slice')} in "
            f"{number_of(count, 'case')}); {advice}"
        )
    if folds and count < folds + 1:
        most = "use 0" if count < 3 else f"use at most {count - 1}"
        raise SettingError(f"FOLDS: too many for {number_of(count, 'case')} (found {folds}); {most}")
    if count == 1:
        reason = "only one case: neighboring slices are similar, so scores are too good; add cases"
        share = 0.2, reason
    elif count < MANY_CASES:
        share = 1 / count, f"one case of {count}: more would leave too few for training"
    else:
        share = 0.2, f"a fifth of {number_of(count, 'case')}"
    chosen = {"TEST_SHARE": share}
    if folds:
        chosen["FOLDS"] = folds, "every case but those for testing validates once"
    else:
        chosen["VALIDATION_SHARE"] = share
    return chosen


def choose_final(cases, folds, minutes, share):
    """Choose how much of the time a final training on all cases gets.

    Args:
        cases: folder of the case folders.
        folds: number of cross-validation folds; 0: a single split.
        minutes: time for training.
        share: share that the user gave, or None.

    Returns:
        dict of the setting FINAL to (value, reason).
    """
    count = len(find_cases(cases))
    of_cases = number_of(count, "case")
    if share is not None:
        chosen = share, "as you said"
    elif folds:
        chosen = 0.0, "the networks of the folds have learned from all cases together"
    elif count >= FEW_CASES:
        chosen = 0.0, f"{of_cases} are enough without those that validate and test"
    elif minutes < SHORTEST_FINAL:
        chosen = 0.0, f"under {SHORTEST_FINAL} minutes there is time for one training only"
    else:
        reason = f"with {of_cases}, those that validate and test are missed in training: it continues with all of them"
        chosen = FINAL_SHARE, reason
    return {"FINAL": chosen}

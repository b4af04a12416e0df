"""Score predicted masks against true ones.

Reads   PREDICTED: masks of predict.py; TRUTH: masks, case folder, folder of cases, or list
Writes  OUTPUT/scores.csv (case,image,dice,iou,precision,recall,...), cases.csv, worst.png
Takes   about three seconds for 1,000 masks of 200x200 on two cores
Expect  a table of the scores; look at worst.png before you believe a mean

True positives are green, false positives red, false negatives blue. Images whose mask is empty are not
in the means over images (a Dice says nothing there); they are counted, and they are in the scores of cases.
"""

from common.settings import apply_command_line, recorded_settings

# --- where from, where to
PREDICTED = "predictions"  # folder of predicted masks
TRUTH = ""  # true masks: folder of masks, case folder, folder of cases, or list (.csv)
IMAGES = ""  # pictures for worst.png, where TRUTH has none: folder of pictures
OUTPUT = "scores"  # folder for the scores
REPLACE = False  # True to write over an OUTPUT that exists

# --- pictures
WORST = 12  # how many images worst.png shows

apply_command_line(globals())

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from common.cases import find_slices
from common.errors import InputError, summarise
from common.files import natural_key, refuse_existing, whole_folder, write_json
from common.images import (
    check_mask_values,
    class_count,
    contact_sheet,
    encode_png,
    read_picture,
    to_classes,
    to_eight_bit,
    to_gray,
    values_of,
)
from common.parallel import ordered_map, progress
from common.scores import SCORES, count_pixels, scores_of_counts

RECORD = "evaluation.json"
COUNTS = ["tp", "fp", "fn"]
TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE = (0, 200, 80), (230, 50, 40), (60, 110, 255)


class Pair(NamedTuple):
    """A predicted mask and the true one."""

    case: str
    name: str
    predicted: Path
    truth: Path


def main():
    refuse_existing(OUTPUT, REPLACE, RECORD)
    pairs = match()
    print(f"scoring {len(pairs)} masks of {PREDICTED} against {TRUTH}", flush=True)
    classes = find_classes(pairs)
    counted = ordered_map(lambda pair: count(pair, classes), pairs)
    rows = [row for rows in progress(counted, len(pairs), "scoring") for row in rows]
    images = with_scores(pd.DataFrame(rows))
    cases = with_scores(images.groupby(["case", "class"], sort=False)[COUNTS].sum().reset_index())
    with whole_folder(OUTPUT, REPLACE, RECORD) as part:
        order = ["case", "image", *SCORES, "class", *COUNTS]
        images[order].to_csv(part / "scores.csv", index=False)
        cases[["case", *SCORES, "class", *COUNTS]].to_csv(part / "cases.csv", index=False)
        sheet = worst_images(images, pairs, classes)
        if sheet is not None:
            (part / "worst.png").write_bytes(encode_png(sheet))
        write_json(part / RECORD, recorded_settings(globals()))
    print_tables(images, cases)
    print(f"wrote the scores of {len(pairs)} images and {cases['case'].nunique()} cases to {OUTPUT}")


# --- pairs


def match():
    """Pair predicted and true masks by case and name.

    Raises:
        InputError: if a predicted mask has no true one, a true one no predicted one, or none is there.
    """
    predicted = {(s.case, s.name): s.path for s in find_slices(PREDICTED, "y", "PREDICTED")}
    truth = {(s.case, s.name): s.path for s in find_slices(TRUTH, "y", "TRUTH")}
    if not predicted.keys() & truth.keys():  # the one side may be in case folders and the other loose
        predicted, truth = (without_only_case(side) for side in (predicted, truth))
    alone = [f"{path} has no true mask in {TRUTH}" for key, path in predicted.items() if key not in truth]
    alone += [f"{path} has no predicted mask in {PREDICTED}" for key, path in truth.items() if key not in predicted]
    if alone:
        raise InputError(summarise(alone, "masks have no partner"))
    return [Pair(*key, predicted[key], truth[key]) for key in sorted(predicted, key=natural_key_of_pair)]


def without_only_case(masks):
    return {("", name): path for (_, name), path in masks.items()} if len({case for case, _ in masks}) == 1 else masks


def natural_key_of_pair(key):
    return natural_key(key[0]), natural_key(key[1])


# --- scores


def read(path):
    """A mask, gray.

    Raises:
        InputError: if its values are no mask's.
    """
    mask = to_gray(read_picture(path))
    check_mask_values(values_of(mask), path)
    return mask.astype(np.uint8)


def find_classes(pairs):
    values = set()
    for found in ordered_map(lambda pair: values_of(read(pair.truth)), pairs):
        values |= found
    return class_count(values, TRUTH)


def count(pair, classes):
    """Rows of counts, one a class, of an image."""
    allowed = {0, 255} if classes == 1 else set(range(classes + 1))
    masks = []
    for path in (pair.predicted, pair.truth):
        mask = read(path)
        if odd := sorted(values_of(mask) - allowed):
            raise InputError(f"{path} holds the value {odd[0]}; the masks in {TRUTH} hold {sorted(allowed)}")
        masks.append(to_classes(mask, classes))
    predicted, truth = masks
    if predicted.shape != truth.shape:
        sizes = "{1}x{0} and {3}x{2}".format(*predicted.shape, *truth.shape)
        raise InputError(f"{pair.predicted} and {pair.truth} differ in size: {sizes}")
    return [
        {"case": pair.case, "image": pair.name, "class": c}
        | dict(zip(COUNTS, count_pixels(predicted == c, truth == c), strict=True))
        for c in range(1, classes + 1)
    ]


def with_scores(table):
    """Table with columns of SCORES for its columns of COUNTS."""
    scores = [scores_of_counts(*counts) for counts in table[COUNTS].itertuples(index=False)]
    return pd.concat([table, pd.DataFrame(scores)], axis=1)


def print_tables(images, cases):
    """One screen: the scores by class over images and over cases, and what the empty masks got."""
    filled = images[images["tp"] + images["fn"] > 0]
    for title, table in (("images with a mask", filled), ("cases, all pixels of a case together", cases)):
        lines = []
        for number, rows in table.groupby("class"):
            for score in SCORES:
                values = rows[score].dropna()
                lines.append(
                    {
                        "class": number,
                        "score": score,
                        "n": len(values),
                        "mean": values.mean(),
                        "median": values.median(),
                        "least": values.min(),
                    }
                )
        print(f"\n{title}\n{pd.DataFrame(lines).round(4).to_string(index=False)}")
    empty = images[images["tp"] + images["fn"] == 0]
    print(f"\nempty masks: {len(empty)}, of which predicted empty too: {(empty['fp'] == 0).sum()}")


# --- pictures


def worst_images(images, pairs, classes):
    """Sheet of the images with the least Dice; false positives on empty masks come first, as they score 0.

    Returns:
        (H, W, 3) uint8, RGB, or None where nothing was scored.
    """
    scores = images.groupby(["case", "image"], sort=False)["dice"].mean().dropna().sort_values(kind="stable")
    by_key = {(pair.case, pair.name): pair for pair in pairs}
    backgrounds = find_backgrounds()
    pictures, captions = [], []
    for key, dice in scores.head(WORST).items():
        pair = by_key[key]
        predicted, truth = (to_classes(read(path), classes) for path in (pair.predicted, pair.truth))
        picture = paint_errors(backgrounds.get(key), predicted, truth)
        pictures.append(picture)
        captions.append(f"{dice:.3f} {pair.case} {pair.name}")
    return contact_sheet(pictures, min(6, len(pictures)), 240, captions) if pictures else None


def find_backgrounds():
    """dict of (case, name) to picture path; empty where TRUTH has no pictures and IMAGES is not set."""
    slices = find_slices(IMAGES or TRUTH, "x", "IMAGES")
    if not IMAGES and {s.path for s in slices} == {s.path for s in find_slices(TRUTH, "y", "TRUTH")}:
        return {}
    return {(s.case, s.name): s.path for s in slices}


def paint_errors(background, predicted, truth):
    """Colour true positives, false positives and false negatives on a slice, or on black.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    image = to_eight_bit(to_gray(read_picture(background))) if background else np.zeros(truth.shape, np.uint8)
    picture = np.repeat(image[..., None], 3, axis=2)
    for where, colour in (
        ((predicted == truth) & (truth > 0), TRUE_POSITIVE),
        ((predicted > 0) & (predicted != truth), FALSE_POSITIVE),
        ((truth > 0) & (predicted == 0), FALSE_NEGATIVE),
    ):
        picture[where] = np.rint(0.6 * picture[where] + 0.4 * np.array(colour))
    return picture


if __name__ == "__main__":
    main()

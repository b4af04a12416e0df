"""Draw the errors of predictions on the images that they belong to, also of two predictions next to each other."""

from pathlib import Path

import cv2
import numpy as np

from common.errors import InputError
from common.evaluation.pairs import find_slices_of, match_pairs, read_masks
from common.evaluation.volume_pairs import holds_volumes
from common.files import read_json
from common.lazy import Lazy
from common.parallel import ordered_map
from common.scores import hausdorff_line
from common.slices.classes import without_ignored
from common.slices.drawing import paint_errors
from common.slices.images import read_image, resize, to_eight_bit, to_gray, window_to_gray
from common.slices.matrices import MatrixSlice
from common.tables import read_table, to_numbers
from common.volumes.finding import find_volumes
from common.volumes.grids import orient
from common.volumes.intensity import percentiles_of
from common.volumes.privacy import plain_name, read_names_table
from common.volumes.reading import read_volume
from common.volumes.slicing import PERCENTILES

sitk = Lazy("SimpleITK")

SMALLEST = 240  # smaller images are enlarged by a whole factor to about this side


def choose_images(scores, show, count):
    """Choose the images to show.

    Args:
        scores: DataFrame with case, image, dice and hausdorff, a row for each image and class.
        show: "worst" (by Dice; a false positive on an empty mask scores 0), "hausdorff" (largest first, missed and
            invented masks before all), "first" or "random".
        count: how many.

    Returns:
        list of named tuples with Index (case, image), dice and hausdorff, means over the classes.
    """
    scores = scores.groupby(["case", "image"], sort=False)[["dice", "hausdorff"]].mean()
    scores = scores[scores["dice"].notna()]
    if show == "worst":
        scores = scores.sort_values("dice", kind="stable")
    elif show == "hausdorff":
        scores = scores.sort_values("hausdorff", ascending=False, kind="stable", na_position="first")
    elif show == "random":
        scores = scores.sample(frac=1, random_state=1)
    return list(scores.head(count).itertuples())


def draw_images(chosen, pairs, backgrounds, others, window, line):
    """Draw the errors in chosen images.

    Args:
        chosen: result of `choose_images`.
        pairs: list of all Pair.
        backgrounds: result of `find_backgrounds`.
        others: result of `find_others`: the same images as predicted otherwise; {}: none.
        window, line: as for `show_errors`.

    Returns:
        list of (list of RGB images, list of captions): one image each, or two.
    """
    by_key = {(pair.case, pair.name): pair for pair in pairs}

    def draw(row):
        other, _ = others.get(row.Index, (None, None))
        return show_errors(by_key[row.Index], backgrounds.get(row.Index), window, line, other)

    captions = []
    for row in chosen:
        distance = f", HD {row.hausdorff:.1f}" if np.isfinite(row.hausdorff) else ""
        captions.append([" ".join([f"Dice {row.dice:.3f}", *row.Index]) + distance])
        if row.Index in others:
            dice = others[row.Index][1]
            captions[-1].append("other" + (f": Dice {dice:.3f}" if np.isfinite(dice) else ""))
    return list(zip(ordered_map(draw, chosen), captions, strict=True))


def find_others(against, predicted, truth, **matching):
    """Find the predictions of another evaluation, to show both.

    Args:
        against: OUTPUT folder of the other evaluation.
        predicted: its PREDICTED; "": as recorded there, if it is found.
        truth, matching: as for `match_pairs`, which skips masks without a partner.

    Returns:
        dict of (case, name) to (Pair, its mean Dice over the classes, NaN if unknown); {} if it is not found.

    Raises:
        InputError: as `match_pairs`, if `predicted` is given.
    """
    record = Path(against, "evaluation.json")
    recorded = read_json(record) if record.is_file() else {}
    recorded = recorded.get("PREDICTED") if isinstance(recorded, dict) else None
    if not predicted and not (isinstance(recorded, str) and recorded and Path(recorded).exists()):
        print("showing this evaluation only; to show both, pass --against-predicted with the other one's PREDICTED")
        return {}
    try:
        pairs = match_pairs(predicted or recorded, truth, **matching | {"unmatched": "skip"})
    except InputError as error:
        if predicted:
            raise
        print(f"showing this evaluation only: the other one's predictions have changed ({error})")
        return {}
    dice = dice_of_images(Path(against, "scores.csv"))
    return {(pair.case, pair.name): (pair, dice.get((pair.case, pair.name), np.nan)) for pair in pairs}


def dice_of_images(path):
    """Mean Dice over the classes of each image in a scores.csv: dict of (case, image) to float; {} if missing."""
    if not path.is_file():
        return {}
    advice = "run that evaluation again"
    table = read_table(path, ["case", "image", "dice"], advice)
    table["dice"] = to_numbers(table, "dice", path, advice, (0, 1))
    return table.groupby(["case", "image"])["dice"].mean().to_dict()


def find_backgrounds(images, truth, keys, names_table="", predicted=""):
    """Find images or volumes to show errors on.

    Args:
        images: setting IMAGES; "": images next to the true masks.
        truth: setting TRUTH.
        keys: (case, name) of each scored image; single cases on both sides may have different names.
        names_table: as for `common.evaluation.pairs.match_pairs`.
        predicted: images that were predicted, to take if there are no others; "": unknown.

    Returns:
        dict of (case, name) to Path, empty without images.
    """
    if holds_volumes(truth):
        volumes = find_volumes(images) if images else {}
        numbers = {name: number for number, name in read_names_table(names_table).items()}
        named = {plain_name(name).removeprefix("case_"): path for name, path in volumes.items()}
        return {(numbers.get(name, name), "volume"): path for name, path in named.items()}
    slices = {(s.case, s.name): s.path for s in find_slices_of(images or truth, "IMAGES", "x")}
    if not images and set(slices.values()) == {s.path for s in find_slices_of(truth, "TRUTH")}:
        if not predicted:
            return {}
        slices = {(s.case, s.name): s.path for s in find_slices_of(predicted, "PREDICTED", "x")}
    cases, found = {case for case, _ in keys}, {case for case, _ in slices}
    if found == {""} and len({name for _, name in keys}) == len(keys):
        return {(case, name): slices["", name] for case, name in keys if ("", name) in slices}
    if len(cases) == len(found) == 1 and "" in cases | found:
        return {(*cases, name): path for (_, name), path in slices.items()}
    return slices


def show_errors(pair, background, window, line, other=None):
    """Color the errors in a slice, or in the slice of a volume with the most errors.

    Args:
        pair: Pair.
        background: Path of the image or volume, or None for black.
        window: [low, high], values mapped to black and white, or None.
        line: whether to draw the Hausdorff distance as a line.
        other: Pair of another prediction of the same image, to draw on the same slice; None: none.

    Returns:
        list of one or two (H, W, 3) uint8 images, RGB; small images are enlarged.
    """
    both = [read_masks(of) for of in (pair, other) if of]
    spacing = both[0].spacing or (1, 1)
    masks = [without_ignored(of.predicted, of.truth) for of in both]
    truth = masks[0][1]
    if truth.ndim == 3:
        index = int(np.argmax(sum((predicted != true).sum((1, 2)) for predicted, true in masks)))
        gray = _slice_of_volume(background, index, window, truth.shape)
        masks, spacing = [(predicted[index], true[index]) for predicted, true in masks], spacing[1:]
    else:
        gray = _gray_image(background, window, truth.shape)
    return [_paint(gray, *of, spacing if line else None) for of in masks]


def _paint(gray, predicted, truth, spacing):
    """Errors on an image, enlarged if it is small; with a spacing, also the line of the Hausdorff distance."""
    factor = max(1, round(SMALLEST / max(gray.shape)))
    image = paint_errors(gray, predicted, truth).repeat(factor, 0).repeat(factor, 1)
    ends = hausdorff_line(predicted > 0, truth > 0, spacing) if spacing else None
    if ends is not None:
        points = [tuple(int((v + 0.5) * factor) for v in end[::-1]) for end in ends]
        cv2.line(image, *points, (255, 220, 0), max(1, len(image) // 200), cv2.LINE_AA)
    return image


def _slice_of_volume(path, index, window, shape):
    if path is None:
        return np.zeros(shape[1:], np.uint8)
    values = sitk.GetArrayFromImage(orient(read_volume(path)))
    if values.shape != shape:
        found, expected = ("x".join(map(str, size[::-1])) for size in (values.shape, shape))
        raise InputError(
            f"IMAGES: size of {path} differs from its label volume (found {found}, expected {expected}); "
            "check that both belong to the same case"
        )
    return window_to_gray(values[index], *(window or percentiles_of(values, PERCENTILES)), 8)


def _gray_image(path, window, shape):
    if path is None:
        return np.zeros(shape, np.uint8)
    if isinstance(path, MatrixSlice):
        values = path.read()
        gray = window_to_gray(values, *(window or (values.min(), values.max())), 8)
    else:
        gray = to_gray(read_image(path))
        gray = window_to_gray(gray, *window, 8) if window else to_eight_bit(gray)
    return gray if gray.shape == shape else resize(gray, shape)

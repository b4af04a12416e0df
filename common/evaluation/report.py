"""Pictures and page of an evaluation."""

import html

import cv2
import numpy as np
import SimpleITK as sitk

from common import html as page
from common.errors import InputError
from common.evaluation import plots
from common.evaluation.pairs import holds_volumes, read_pair
from common.scores import DISTANCES, LOW_IS_GOOD, RULES, SCORES, hausdorff_line
from common.slices.cases import find_slices
from common.slices.drawing import FALSE_NEGATIVE, FALSE_POSITIVE, TRUE_POSITIVE, paint_errors
from common.slices.images import encode_jpeg, read_picture, resize, to_eight_bit, to_gray, window_to_gray
from common.volumes.finding import find_volumes
from common.volumes.intensity import percentiles_of
from common.volumes.reading import read_volume
from common.volumes.slicing import PERCENTILES

LARGEST = 640  # side of a picture in the page, at most
NARROW = ("case", "image", "class", "score", "n", "mean", "dice", "difference", "low", "high", "hausdorff_95")


# --- pictures


def find_backgrounds(images, truth, keys):
    """Pictures or volumes to show errors on.

    Args:
        images: setting IMAGES, "" for those beside the true masks.
        truth: setting TRUTH.
        keys: (case, name) of what is scored; of one case there, and one here, the names of the cases do not matter.

    Returns:
        dict of (case, name) to Path, empty where there are none.
    """
    if holds_volumes(truth):
        found = find_volumes(images) if images else {}
        return {(name.removeprefix("case_"), "volume"): path for name, path in found.items()}
    found = {(s.case, s.name): s.path for s in find_slices(images or truth, "x", "IMAGES")}
    if not images and set(found.values()) == {s.path for s in find_slices(truth, "y", "TRUTH")}:
        return {}
    cases = {case for case, _ in keys}
    if len(cases) == len({case for case, _ in found}) == 1:
        return {(*cases, name): path for (_, name), path in found.items()}
    return found


def show_errors(pair, background, window, line):
    """Colour what is right and wrong in a slice, or in the slice of a volume with the most errors.

    Args:
        pair: Pair.
        background: Path of the picture or volume, or None for black.
        window: [low, high] of black and white, or None.
        line: whether to draw the line that realises the Hausdorff distance.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    predicted, truth, spacing, _ = read_pair(pair)
    if truth.ndim == 3:
        index = int(np.argmax((predicted != truth).sum((1, 2))))
        grey = _slice_of(background, index, window, truth.shape)
        predicted, truth, spacing = predicted[index], truth[index], spacing[1:]
    else:
        grey = _picture(background, window, truth.shape)
    picture = paint_errors(grey, predicted, truth)
    ends = hausdorff_line(predicted > 0, truth > 0, spacing or (1, 1)) if line else None
    if ends is not None:
        points = [tuple(int(v) for v in end[::-1]) for end in ends]
        cv2.line(picture, *points, (255, 220, 0), max(1, len(picture) // 200), cv2.LINE_AA)
    return picture


def _picture(path, window, shape):
    if path is None:
        return np.zeros(shape, np.uint8)
    grey = to_gray(read_picture(path))
    grey = window_to_gray(grey, *window, 8) if window else to_eight_bit(grey)
    return grey if grey.shape == shape else resize(grey, shape)


def _slice_of(path, index, window, shape):
    if path is None:
        return np.zeros(shape[1:], np.uint8)
    values = sitk.GetArrayViewFromImage(read_volume(path))
    if values.shape != shape:
        sizes = " and ".join("x".join(map(str, size[::-1])) for size in (values.shape, shape))
        raise InputError(f"IMAGES: {path} and its labels differ in size: {sizes}")
    return window_to_gray(values[index], *(window or percentiles_of(values, PERCENTILES)), 8)


# --- page


def write_report(path, result, pictures, settings, environment):
    """Write `report.html`.

    Args:
        path: of the file.
        result: common.evaluation.summary.Result.
        pictures: list of (RGB picture, caption).
        settings: dict of the settings.
        environment: text.
    """
    parts = [
        page.paragraph(
            f"{result.images[['case', 'image']].drop_duplicates().shape[0]} {result.what}; distances in {result.unit}, "
            f"surface Dice at {result.tolerance:g} {result.unit}."
        ),
        page.tiles(_headlines(result)),
        page.section("Scores over cases", _note(result), _named(result.over_cases)),
        page.section("Scores over images with a mask", _named(result.over_images)),
        *_plots(result),
    ]
    if result.differences is not None:
        text = f"Ours less those of {result.against}, over the cases that both have, with a bootstrap interval of 95 %."
        parts.append(page.section("Against", page.paragraph(text), _named(result.differences)))
    if pictures:
        parts.append(
            page.section("Slices, the worst first", _colours(), page.gallery([_for_page(*p) for p in pictures]))
        )
    parts += [
        page.section("Empty masks", page.plain_table(result.empties)),
        page.section(
            "Cases, the worst first",
            page.sorted_table(result.cases[["case", "class", *SCORES]].sort_values("dice"), NARROW),
        ),
        page.section("What the scores are", page.plain_table({k.replace("_", " "): v for k, v in RULES.items()})),
        page.section("Settings", page.plain_table(settings)),
        page.folded("Environment", page.text_block(environment)),
    ]
    page.write_page(path, f"Evaluation of {settings['PREDICTED']}", parts)


def _named(table):
    return page.sorted_table(table.assign(score=table["score"].str.replace("_", " ")), NARROW)


def _headlines(result):
    shown = []
    for score in ("dice", "iou", "hausdorff_95", "mean_surface_distance", "surface_dice"):
        for row in result.over_cases[result.over_cases["score"] == score].head(1).itertuples():
            if row.n:
                unit = f" {result.unit}" if score in DISTANCES and score != "surface_dice" else ""
                interval = f"{row.low:.3g} to {row.high:.3g} (95 %)" if row.n > 1 else "one case"
                shown.append((score.replace("_", " "), page.number(row.mean) + unit, interval))
    cases = result.cases["case"].nunique()
    return [*shown, ("cases", str(cases), "the first class" if result.cases["class"].nunique() > 1 else "")]


def _note(result):
    return page.paragraph(
        "Of a case of slices, overlaps are of all its pixels together, and distances the mean over its images. Low and "
        "high: 95 % interval of the mean, by drawing cases with replacement. Left out: where the score is not defined. "
        "Low is good: " + ", ".join(sorted(LOW_IS_GOOD)).replace("_", " ") + "."
    )


def _plots(result):
    many = result.cases if result.cases["case"].nunique() >= 5 else result.images
    what = "cases" if many is result.cases else "images"
    groups = [(["dice", "iou", "precision", "recall", "surface_dice"], "share")]
    if many["hausdorff"].notna().any():
        groups.append((["hausdorff", "hausdorff_95", "mean_surface_distance"], result.unit))
    boxes = page.picture(plots.box_plots(many, groups), "svg+xml", f"box plots of the scores of the {what}")
    sizes = (many["tp"] + many["fn"]).to_numpy() * result.element
    there = sizes > 0
    parts = [page.section("Distribution", page.paragraph(f"A dot for each of the {what}."), boxes)]
    if there.any():
        drawn = plots.dice_by_size(many[there], sizes[there], f"size of the mask ({result.element_unit})")
        parts.append(page.section("Dice by size", page.picture(drawn, "svg+xml", "Dice against the size of the mask")))
    return parts


def _colours():
    words = (("true positive", TRUE_POSITIVE), ("false positive", FALSE_POSITIVE), ("false negative", FALSE_NEGATIVE))
    spans = (
        f'<span class="key" style="color: rgb{tuple(int(0.8 * v) for v in rgb)}">{html.escape(w)}</span>'
        for w, rgb in words
    )
    return f"<p>{', '.join(spans)}. A click enlarges.</p>"


def _for_page(picture, caption):
    scale = LARGEST / max(picture.shape[:2])
    if scale < 1:
        picture = resize(picture, (round(picture.shape[0] * scale), round(picture.shape[1] * scale)))
    return encode_jpeg(picture), caption

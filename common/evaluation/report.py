"""Draw the images and plots of an evaluation, and write its page."""

import cv2
import matplotlib
import numpy as np
import SimpleITK as sitk
from matplotlib.figure import Figure

from common.errors import InputError
from common.evaluation.lesion_page import lesion_page
from common.evaluation.pairs import holds_volumes, read_masks
from common.html import in_words, write_page
from common.plots import CLASS_COLORS, PLOT_STYLE, SOFT, svg
from common.scores import SCORES, hausdorff_line
from common.slices.cases import find_slices
from common.slices.drawing import FALSE_NEGATIVE, FALSE_POSITIVE, TRUE_POSITIVE, paint_errors
from common.slices.images import encode_jpeg, read_image, resize, to_eight_bit, to_gray, window_to_gray
from common.slices.masks import without_ignored
from common.volumes.finding import find_volumes
from common.volumes.grids import orient
from common.volumes.intensity import percentiles_of
from common.volumes.privacy import plain_name, read_names_table
from common.volumes.reading import read_volume
from common.volumes.slicing import PERCENTILES

LARGEST = 640  # max side of an image in the page, in pixels
SMALLEST = 240  # smaller images are enlarged by a whole factor to about this side
NARROW = ("case", "image", "class", "score", "n", "mean", "dice", "difference", "low", "high", "hausdorff_95")
CASES_TO_PLOT = 5  # with fewer cases, plot images instead


# --- images


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
    slices = {(s.case, s.name): s.path for s in find_slices(images or truth, "x", "IMAGES")}
    if not images and set(slices.values()) == {s.path for s in find_slices(truth, "y", "TRUTH")}:
        if not predicted:
            return {}
        slices = {(s.case, s.name): s.path for s in find_slices(predicted, "x", "PREDICTED")}
    cases, found = {case for case, _ in keys}, {case for case, _ in slices}
    if found == {""} and len({name for _, name in keys}) == len(keys):
        return {(case, name): slices["", name] for case, name in keys if ("", name) in slices}
    if len(cases) == len(found) == 1 and "" in cases | found:
        return {(*cases, name): path for (_, name), path in slices.items()}
    return slices


def show_errors(pair, background, window, line):
    """Color the errors in a slice, or in the slice of a volume with the most errors.

    Args:
        pair: Pair.
        background: Path of the image or volume, or None for black.
        window: [low, high], values mapped to black and white, or None.
        line: whether to draw the Hausdorff distance as a line.

    Returns:
        (H, W, 3) uint8, RGB; small images are enlarged.
    """
    masks = read_masks(pair)
    predicted, truth = without_ignored(masks.predicted, masks.truth)
    spacing = masks.spacing
    if truth.ndim == 3:
        index = int(np.argmax((predicted != truth).sum((1, 2))))
        gray = _slice_of_volume(background, index, window, truth.shape)
        predicted, truth, spacing = predicted[index], truth[index], spacing[1:]
    else:
        gray = _gray_image(background, window, truth.shape)
    factor = max(1, round(SMALLEST / max(gray.shape)))
    image = paint_errors(gray, predicted, truth).repeat(factor, 0).repeat(factor, 1)
    ends = hausdorff_line(predicted > 0, truth > 0, spacing or (1, 1)) if line else None
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
    gray = to_gray(read_image(path))
    gray = window_to_gray(gray, *window, 8) if window else to_eight_bit(gray)
    return gray if gray.shape == shape else resize(gray, shape)


# --- page


def write_report(path, result, images, settings, environment):
    """Write `report.html`.

    Args:
        path: file to write.
        result: common.evaluation.summary.Result.
        images: list of (RGB image, caption).
        settings: dict of settings.
        environment: text.
    """
    plotted_cases = result.cases["case"].nunique() >= CASES_TO_PLOT
    plotted = result.cases if plotted_cases else result.images
    sizes = (plotted["tp"] + plotted["fn"]).to_numpy() * result.element_size
    filled = sizes > 0
    write_page(
        path,
        "evaluation/report.html.jinja",
        f"Evaluation of {settings['PREDICTED']}",
        result=result,
        count=len(result.images[["case", "image"]].drop_duplicates()),
        headlines=_headlines(result),
        low_is_good=sorted(_with_spaces(score.name) for score in SCORES.values() if score.low_is_good),
        over_cases=_with_spaces_in_scores(result.over_cases),
        over_images=_with_spaces_in_scores(result.over_images),
        plotted="cases" if plotted_cases else "images",
        boxes=box_plots(plotted, _plot_groups(plotted, result.unit)),
        dice_by_size=dice_by_size(plotted[filled], sizes[filled], f"mask size ({result.element_unit})")
        if filled.any()
        else None,
        lesions=lesion_page(result.lesions) if result.lesions else None,
        differences=None if result.differences is None else _with_spaces_in_scores(result.differences),
        colors=[
            (name, f"rgb{color}")
            for name, color in (
                ("true positive", TRUE_POSITIVE),
                ("false positive", FALSE_POSITIVE),
                ("false negative", FALSE_NEGATIVE),
            )
        ],
        images=[_for_page(*image) for image in images],
        cases=result.cases[["case", "class", *SCORES]].sort_values("dice"),
        rules={_with_spaces(score.name): score.rule for score in SCORES.values()},
        narrow=NARROW,
        settings=settings,
        environment=environment,
    )


def _headlines(result):
    headlines = []
    for score in SCORES.values():
        rows = result.over_cases[result.over_cases["score"] == score.name]
        first = rows.iloc[0]
        if score.headline and first["n"]:
            unit = f" {result.unit}" if score.unit == "distance" else ""
            interval = f"{first['low']:.3g} to {first['high']:.3g} (95 %)" if first["n"] > 1 else "one case"
            headlines.append((_with_spaces(score.name), in_words(first["mean"]) + unit, interval))
    cases = result.cases["case"].nunique()
    return [*headlines, ("cases", str(cases), "scores: first class" if result.cases["class"].nunique() > 1 else "")]


def _plot_groups(table, distance_unit):
    """Scores that share an axis, with its label: shares for which 1 is good, and distances."""
    shares = [score.name for score in SCORES.values() if score.unit == "share" and not score.low_is_good]
    distances = [score.name for score in SCORES.values() if score.unit == "distance"]
    groups = ((shares, "share"), (distances, distance_unit))
    return [(names, label) for names, label in groups if table[names].notna().any(axis=None) or label == "share"]


def _with_spaces(name):
    return name.replace("_", " ")


def _with_spaces_in_scores(table):
    return table.assign(score=table["score"].str.replace("_", " "))


def _for_page(image, caption):
    scale = LARGEST / max(image.shape[:2])
    if scale < 1:
        image = resize(image, (round(image.shape[0] * scale), round(image.shape[1] * scale)))
    return encode_jpeg(image), caption


# --- plots


def box_plots(table, groups):
    """Draw box plots of scores with a dot for every row.

    Args:
        table: DataFrame with columns class and the scores.
        groups: list of (score names that share an axis, axis label).

    Returns:
        content of an SVG file.
    """
    classes = sorted(table["class"].unique())
    rng = np.random.default_rng(0)
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(10.5, 3.6))
        widths = [len(names) for names, _ in groups]
        axes = figure.subplots(1, len(groups), width_ratios=widths, squeeze=False)[0]
        for axis, (names, label) in zip(axes, groups, strict=True):
            for index, number in enumerate(classes):
                values = [table[name][table["class"] == number].dropna().to_numpy(float) for name in names]
                _draw_boxes(axis, values, index, len(classes), rng)
                axis.plot([], [], color=CLASS_COLORS[index % len(CLASS_COLORS)], label=f"class {number}")
            axis.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names])
            axis.set_ylabel(label)
            axis.grid(axis="y", color=SOFT)
            axis.set_axisbelow(True)
            if (table[names].max(skipna=True).max() or 0) <= 1:
                axis.set_ylim(0, 1.02)
        if len(classes) > 1:
            axes[0].legend(frameon=False, fontsize=8)
        return svg(figure)


def _draw_boxes(axis, values, index, classes, rng):
    """Draw boxes and dots of one class; `values` contains an array for each score."""
    width = 0.7 / classes
    positions = np.arange(len(values)) + (index - (classes - 1) / 2) * width
    color = CLASS_COLORS[index % len(CLASS_COLORS)]
    line = {"color": color, "linewidth": 1.4}
    axis.boxplot(
        values,
        positions=positions,
        widths=0.7 * width,
        showfliers=False,
        medianprops=line | {"linewidth": 2.4},
        boxprops=line,
        whiskerprops=line,
        capprops=line,
        manage_ticks=False,
    )
    for position, of_score in zip(positions, values, strict=True):
        jitter = rng.uniform(-0.2, 0.2, len(of_score)) * width
        axis.plot(position + jitter, of_score, ".", color=color, alpha=0.35, markersize=4, zorder=1)


def dice_by_size(table, sizes, label):
    """Plot the Dice against the mask size.

    Args:
        table: DataFrame with columns class and dice.
        sizes: (N,) mask size of each row, above 0.
        label: axis label.

    Returns:
        content of an SVG file.
    """
    with matplotlib.rc_context(PLOT_STYLE):
        figure = Figure(figsize=(10.5, 3.2))
        axis = figure.subplots()
        for index, number in enumerate(sorted(table["class"].unique())):
            of_class = (table["class"] == number).to_numpy()
            axis.plot(
                np.asarray(sizes)[of_class],
                table["dice"][of_class],
                "o",
                color=CLASS_COLORS[index % len(CLASS_COLORS)],
                alpha=0.6,
                markersize=4.5,
                markeredgewidth=0,
                label=f"class {number}",
            )
        axis.set(xscale="log", ylim=(-0.02, 1.02), xlabel=label, ylabel="Dice")
        axis.grid(color=SOFT)
        axis.set_axisbelow(True)
        if table["class"].nunique() > 1:
            axis.legend(frameon=False, fontsize=8)
        return svg(figure)

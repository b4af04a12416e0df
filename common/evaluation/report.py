"""Draw the images and plots of an evaluation, and write its page."""

import numpy as np

from common.evaluation.agreement import bland_altman_plot
from common.evaluation.lesion_page import lesion_page
from common.html import in_words, write_page
from common.lazy import Lazy
from common.plots import CLASS_COLORS, PLOT_STYLE, SOFT, svg
from common.scores import SCORES
from common.slices.drawing import FALSE_NEGATIVE, FALSE_POSITIVE, TRUE_POSITIVE
from common.slices.images import encode_jpeg, resize

matplotlib, figures = Lazy("matplotlib"), Lazy("matplotlib.figure")

LARGEST = 640  # max side of an image in the page, in pixels
GAP = 8  # pixels between two images
NARROW = ("case", "image", "class", "score", "n", "mean", "dice", "difference", "low", "high", "hausdorff_95", "icc")
CASES_TO_PLOT = 5  # with fewer cases, plot images instead


# --- page


def write_report(path, result, images, settings, environment):
    """Write `report.html`.

    Args:
        path: file to write.
        result: common.evaluation.summary.Result.
        images: list of (list of RGB images, list of captions), for each image one or two.
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
        agreement_plot=bland_altman_plot(result.sizes, result.agreement, result.size_unit),
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
        shows_both=any(len(drawn) > 1 for drawn, _ in images),
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
    plotted = [score for score in SCORES.values() if score.plotted]
    shares = [score.name for score in plotted if score.unit == "share" and not score.low_is_good]
    distances = [score.name for score in plotted if score.unit == "distance"]
    groups = ((shares, "share"), (distances, distance_unit))
    return [(names, label) for names, label in groups if table[names].notna().any(axis=None) or label == "share"]


def _with_spaces(name):
    return name.replace("_", " ")


def _with_spaces_in_scores(table):
    return table.assign(score=table["score"].str.replace("_", " "))


def _for_page(images, captions):
    """One image, or two next to each other, as a JPEG file with its caption."""
    gap = np.full((len(images[0]), GAP, 3), 255, np.uint8)
    image = np.hstack([part for image in images for part in (image, gap)][:-1])
    scale = LARGEST * len(images) / max(image.shape[:2])
    if scale < 1:
        image = resize(image, (round(image.shape[0] * scale), round(image.shape[1] * scale)))
    return encode_jpeg(image), "; ".join(captions)


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
        figure = figures.Figure(figsize=(10.5, 3.6))
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
        figure = figures.Figure(figsize=(10.5, 3.2))
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

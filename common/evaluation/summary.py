"""Score pairs of masks, and summarize the scores: means with intervals over cases, quartiles and differences."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from common.errors import InputError
from common.evaluation.agreement import agreement_of_sizes
from common.evaluation.pairs import count_classes, read_masks
from common.files import read_json
from common.lazy import Lazy
from common.parallel import progress
from common.scores import SCORES, count_pixels, scores_of, scores_of_counts, scores_of_surfaces
from common.slices.classes import IGNORED, has_class, is_ignored, without_ignored
from common.tables import read_table, refuse_duplicates, to_numbers
from common.words import number_of

stats = Lazy("scipy.stats")

COUNTS = ["tp", "fp", "fn", "pixels"]
RESAMPLES = 9999
CONFIDENCE = 0.95
AT_ONCE = 2_000_000  # cases to draw at a time, to limit memory


@dataclass
class Result:
    """Scores of an evaluation.

    Attributes:
        content: "slices" or "label volumes".
        unit: distance unit, "mm" or "pixels".
        tolerance: surface Dice tolerance in that unit.
        element_size: size of a pixel or voxel in element_unit: "mm²", "mm³" or "pixels".
        images, cases: DataFrames of scores, with a row for each image or case and class.
        over_images, over_cases: their summaries by `summarize_scores`.
        empty_masks: dict of kind of empty masks to their count and names, as text.
        sizes: DataFrame of true and predicted areas or volumes: case, image, class, true, predicted, in size_unit.
        size_unit: "mm²", "mm³", "pixels" or "voxels".
        agreement: DataFrame of `common.evaluation.agreement.agreement_of_sizes`.
        lesions: common.evaluation.lesion_scores.LesionResult; None without LESIONS.
        differences, other: DataFrame of `compare_scores`, and the other evaluation's folder; otherwise None and "".
    """

    content: str
    unit: str
    tolerance: float
    element_size: float
    element_unit: str
    images: pd.DataFrame
    cases: pd.DataFrame
    over_images: pd.DataFrame
    over_cases: pd.DataFrame
    empty_masks: dict
    sizes: pd.DataFrame
    size_unit: str
    agreement: pd.DataFrame
    lesions: object = None
    differences: pd.DataFrame | None = None
    other: str = ""


# --- scores of pairs


def score_pairs(pairs, given_spacing, tolerance, find_lesions, workers):
    """Score pairs; reads each mask once, and keeps only a few in memory.

    Args:
        pairs: list of Pair.
        given_spacing: (row, column) spacing of slices in mm; None: spacing of the cases.
        tolerance: surface Dice tolerance.
        find_lesions: function of a Pair, a class, its bool masks (predicted, true), spacing and Geometry (of a volume)
            to a list of rows of lesions; None: none.
        workers: `common.workers.Threads` or Processes.

    Returns:
        list of results of `score_pair`, for `combine_scores`.

    Raises:
        InputError: as for `read_masks`.
    """
    known = knows_spacing(pairs, given_spacing)
    if not known and len({pair.spacing for pair in pairs}) > 1:
        print("some cases have no spacing; all distances are in pixels")
    score = partial(
        score_pair, known=known, given_spacing=given_spacing, tolerance=tolerance, find_lesions=find_lesions
    )
    return list(progress(workers.map(score, pairs), len(pairs), "scoring"))


def score_pair(pair, known, given_spacing, tolerance, find_lesions):
    """Score a pair.

    Args:
        pair, given_spacing, tolerance, find_lesions: as in `score_pairs`.
        known: whether distances are in mm.

    Returns:
        [rows, values, lesions]: a dict for each class, the lists of values in the predicted and the true file, and the
        rows of `find_lesions`.
    """
    predicted, truth, own_spacing, values, geometry = read_masks(pair)
    spacing = own_spacing if known else (1, 1)
    if given_spacing and not pair.is_volume:
        spacing = given_spacing
    classes = ({1 if value == 255 else value for value in set().union(*values)} | {1}) - {0, IGNORED}
    pixels = int(np.count_nonzero(~is_ignored(truth)))
    predicted, truth = without_ignored(predicted, truth)
    of_class = partial(score_class, pixels=pixels, spacing=spacing, tolerance=tolerance)
    rows, lesions = [], []
    for c in sorted(classes):
        masks = has_class(predicted, c), has_class(truth, c)
        rows.append(of_class(pair, c, *masks))
        lesions += find_lesions(pair, c, *masks, spacing, geometry) if find_lesions else []
    return [rows, list(map(sorted, values)), lesions]


def knows_spacing(pairs, given_spacing):
    """Whether distances are in mm: for volumes, for a given spacing, or if all cases have a spacing."""
    return pairs[0].is_volume or bool(given_spacing) or None not in {pair.spacing for pair in pairs}


def score_class(pair, number, predicted, truth, pixels, spacing, tolerance):
    counts = count_pixels(predicted, truth)
    return {
        "case": pair.case,
        "image": pair.name,
        **scores_of_counts(*counts, pixels),
        **scores_of_surfaces(predicted, truth, spacing, tolerance),
        "class": number,
        **dict(zip(COUNTS, (*counts, pixels), strict=True)),
        "element": float(np.prod(spacing)),
    }


# --- scores of all


def combine_scores(scored, pairs, truth_folder, given_spacing, tolerance):
    """Combine the scores of all pairs.

    Args:
        scored: results of `score_pairs` for the pairs.
        pairs: list of Pair, not empty.
        truth_folder: setting TRUTH, for messages.
        given_spacing, tolerance: as for `score_pairs`.

    Returns:
        Result, without differences.

    Raises:
        InputError: as for `count_classes`.
    """
    volumes, known = pairs[0].is_volume, knows_spacing(pairs, given_spacing)
    rows, values, _ = zip(*scored, strict=True)
    classes = count_classes(pairs, [list(map(set, both)) for both in values], truth_folder)
    images = pd.DataFrame([row for pair_rows in rows for row in with_all_classes(pair_rows, classes)])
    elements = images.pop("element")
    sizes = sizes_of(images, elements)
    cases = combine_images(images)
    filled = images.copy()  # means over images exclude images with an empty mask
    of_filled = [score.name for score in SCORES.values() if not score.of_empty_masks]
    filled.loc[images["tp"] + images["fn"] == 0, of_filled] = np.nan
    return Result(
        content="label volumes" if volumes else "slices",
        unit="mm" if known else "pixels",
        tolerance=tolerance,
        element_size=float(elements.iloc[0]) if elements.nunique() == 1 else 1.0,
        element_unit=("mm³" if volumes else "mm²") if known and elements.nunique() == 1 else "pixels",
        images=images,
        cases=cases,
        over_images=summarize_scores(filled, SCORES),
        over_cases=summarize_scores(cases, SCORES),
        empty_masks=describe_empty_masks(images, cases),
        sizes=sizes,
        size_unit=("mm³" if volumes else "mm²") if known else "voxels" if volumes else "pixels",
        agreement=agreement_of_sizes(sizes, interval_of_mean),
    )


def sizes_of(images, elements):
    """True and predicted areas or volumes of the images in which a class is present in either mask."""
    true, predicted = ((images["tp"] + images[name]) * elements for name in ("fn", "fp"))
    sizes = images[["case", "image", "class"]].assign(true=true, predicted=predicted)
    return sizes[true + predicted > 0].reset_index(drop=True)


def with_all_classes(rows, classes):
    """Rows of an image for every class; a class in neither mask is scored as two empty masks."""
    by_class = {row["class"]: row for row in rows}
    counts = dict.fromkeys(COUNTS, 0) | {"pixels": rows[0]["pixels"]}
    distances = {score.name: np.nan for score in scores_of("surfaces")}
    absent = rows[0] | scores_of_counts(*counts.values()) | distances | counts
    return [by_class.get(c, absent | {"class": c}) for c in range(1, classes + 1)]


def combine_images(images):
    """Case scores: pixel scores from all pixels of a case, surface scores as means over its images."""
    groups = images.groupby(["case", "class"], sort=False)
    counts, distances = groups[COUNTS].sum(), groups[[score.name for score in scores_of("surfaces")]].mean()
    overlaps = pd.DataFrame([scores_of_counts(*row) for row in counts.itertuples(index=False)], index=counts.index)
    table = pd.concat([overlaps, distances, counts], axis=1).reset_index()
    return table[["case", *SCORES, "class", *COUNTS]]


def describe_empty_masks(images, cases):
    """Count and list empty masks and empty predictions: dict of kind to text."""
    described = {}
    for content, table, names in (
        ("images", images, images["case"] + " " + images["image"]),
        ("cases", cases, cases["case"]),
    ):
        no_truth, no_prediction = table["tp"] + table["fn"] == 0, table["tp"] + table["fp"] == 0
        for kind, chosen in (
            ("empty mask and empty prediction", no_truth & no_prediction),
            ("empty mask, but a prediction", no_truth & ~no_prediction),
            ("a mask, but an empty prediction", no_prediction & ~no_truth),
        ):
            listed = sorted({name.strip() for name in names[chosen]})
            text = ", ".join(filter(None, listed[:20])) + (", ..." if len(listed) > 20 else "")
            described[f"{content}: {kind}"] = f"{int(chosen.sum())}" + (f": {text}" if text else "")
    return described


# --- summaries


def summarize_scores(table, scores):
    """Summarize the scores of a table.

    Args:
        table: DataFrame with columns case, class and the scores; NaN for undefined scores.
        scores: names of the columns.

    Returns:
        DataFrame with a row for each class and score: class, score, n, left_out (rows without the score), mean,
        low and high (interval of the mean), median, q1, q3, least, greatest.
    """
    rows = []
    for number, of_class in table.groupby("class", sort=True):
        for score in scores:
            known = of_class[of_class[score].notna()]
            values = known[score].to_numpy(float)
            row = {"class": number, "score": score, "n": len(known), "left_out": len(of_class) - len(known)}
            if len(values):
                low, high = interval_of_mean(values, known["case"])
                q1, median, q3 = np.percentile(values, [25, 50, 75])
                row |= {"mean": values.mean(), "low": low, "high": high, "median": median, "q1": q1, "q3": q3}
                row |= {"least": values.min(), "greatest": values.max()}
            rows.append(row)
    columns = ["class", "score", "n", "left_out", "mean", "low", "high", "median", "q1", "q3", "least", "greatest"]
    return pd.DataFrame(rows, columns=columns)


def interval_of_mean(values, cases):
    """Bootstrap interval of a mean over images: draws cases with replacement, each with all of its images.

    Percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13) with a fixed seed.

    Args:
        values: (N,) array.
        cases: (N,) case of each value.

    Returns:
        (low, high) of the 95% interval; NaN for fewer than two cases.
    """
    _, number = np.unique(np.asarray(cases, str), return_inverse=True)
    sums, sizes = np.bincount(number, values), np.bincount(number)
    if len(sizes) < 2:
        return np.nan, np.nan
    interval = stats.bootstrap(
        (sums, sizes),
        lambda sums, sizes, axis: sums.sum(axis) / sizes.sum(axis),
        paired=True,
        method="percentile",
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        batch=max(1, AT_ONCE // len(sizes)),
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


# --- comparison with another evaluation


def read_other(folder, cases, own):
    """Read the case scores of another evaluation, and print what cannot be compared.

    Args:
        folder: OUTPUT folder of evaluate.py.
        cases: set of case names to compare.
        own: dict of the settings TOLERANCE and SPACING of this evaluation.

    Returns:
        DataFrame of its cases.csv: case, class and the scores.

    Raises:
        InputError: if the folder is not an evaluation, or cases.csv is damaged or contains none of the cases or scores.
    """
    path, advice = Path(folder, "cases.csv"), "run that evaluation again"
    if not path.is_file():
        raise InputError(
            f"AGAINST: {folder} is not an output folder of evaluate.py (cases.csv is missing); "
            "use the OUTPUT of another evaluation"
        )
    table = read_table(path, ["case", "class"], advice)
    known = [name for name in SCORES if name in table]
    if not known:
        raise InputError(f"{path}: no column {next(iter(SCORES))} or another score; {advice}")
    refuse_duplicates(table, ["case", "class"], path, advice)
    table["class"] = to_numbers(table, "class", path, advice, (1, 254), whole=True)
    for name in known:
        table[name] = to_numbers(table, name, path, advice, SCORES[name].limits)
    if not cases & set(table["case"]):
        raise InputError(f"AGAINST: {folder} has none of the cases scored here; use an evaluation of the same cases")
    if missing := sorted(cases - set(table["case"])):
        listed = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
        common = len(cases) - len(missing)
        print(f"comparing {common} of {number_of(len(cases), 'case')}; not in {folder}: {listed}")
    return table.drop(columns=incomparable(folder, own, known))


def incomparable(folder, own, known):
    """Names in `known` of scores that another evaluation computed with other settings; prints the reason."""
    record = Path(folder, "evaluation.json")
    recorded = read_json(record) if record.is_file() else {}
    changed = [name for name, value in own.items() if name in recorded and recorded[name] != value]
    names = {score.name for score in scores_of("surfaces") if "SPACING" in changed or score.of_tolerance}
    dropped = [name for name in known if changed and name in names]
    if dropped:
        print(f"not comparing {', '.join(dropped)}: {folder} was scored with another {' and '.join(changed)}")
    return dropped


def compare_scores(ours, theirs, scores):
    """Paired differences, ours minus theirs, over the common cases.

    Args:
        ours, theirs: DataFrames with columns case, class and the scores.
        scores: names of the columns; columns missing in either are skipped.

    Returns:
        DataFrame with a row for each class and score: class, score, n, difference (mean), low and high (its
        interval), more and less (number of cases in which ours is larger or smaller), p (two-sided Wilcoxon signed-rank
        test; cases without a difference are left out, NaN if all are).
    """
    both = ours.merge(theirs, on=["case", "class"], suffixes=("", "_theirs"))
    rows = []
    for number, of_class in both.groupby("class", sort=True):
        for score in (name for name in scores if name in ours and name in theirs):
            differences = (of_class[score] - of_class[f"{score}_theirs"]).dropna()
            row = {"class": number, "score": score, "n": len(differences)}
            if len(differences):
                low, high = interval_of_mean(differences.to_numpy(float), of_class.loc[differences.index, "case"])
                row |= {"difference": differences.mean(), "low": low, "high": high}
                row |= {"more": int((differences > 0).sum()), "less": int((differences < 0).sum())}
                row["p"] = float(stats.wilcoxon(differences).pvalue) if differences.any() else np.nan
            rows.append(row)
    return pd.DataFrame(rows, columns=["class", "score", "n", "difference", "low", "high", "more", "less", "p"])

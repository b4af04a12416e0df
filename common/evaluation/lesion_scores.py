"""Summarize matched lesions: sensitivity, false positives, FROC, panoptic quality, and errors of position and size."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from common.evaluation.lesions import (
    AXES,
    EXTRA,
    FALSE,
    FALSE_POSITIVE_RATES,
    FOUND,
    MISSED,
    froc,
    lesions_of,
    match_lesions,
    overlaps,
    panoptic_quality,
)
from common.evaluation.summary import interval_of_mean
from common.tables import write_table

KEYS = ["case", "image", "class"]
TRUE, PREDICTED = (FOUND, MISSED), (FOUND, FALSE, EXTRA)  # kinds of rows that count
RESAMPLES = 1000  # of the FROC curve, as in LUNA16
RATES = np.geomspace(FALSE_POSITIVE_RATES[0], FALSE_POSITIVE_RATES[-1], 97)  # false positives at which it is drawn


@dataclass
class LesionResult:
    """Detection scores.

    Attributes:
        rule: "overlap" or "center".
        unit: "mm" or "pixels".
        scans: word for what false positives are counted in: "image" or "volume" or "scan".
        rows: DataFrame of all lesions, as of `match_lesions` with KEYS.
        summary: DataFrame by class and size group.
        errors: DataFrame by class and measure.
        curves: dict of class to the result of `curve_with_interval`; empty without probabilities.
        images: number of images.
    """

    rule: str
    unit: str
    scans: str
    rows: pd.DataFrame
    summary: pd.DataFrame
    errors: pd.DataFrame
    curves: dict
    images: int


def find_lesions(rule, candidates, pair, number, predicted, truth, spacing, geometry):
    """Find and match the lesions of a class in a pair of masks.

    Args:
        rule: "overlap" or "center".
        candidates: common.evaluation.lesion_tables.Candidates, or None.
        pair: Pair.
        number: class.
        predicted, truth: bool arrays of the same shape.
        spacing: mm (or 1) between pixels along each array axis.
        geometry: Geometry of a volume, otherwise None.

    Returns:
        list of rows of `match_lesions` with KEYS.
    """
    (true_numbers, true), (numbers, found) = (lesions_of(mask, spacing, geometry) for mask in (truth, predicted))
    if candidates:
        found = candidates.add_to(pair.case, found)
    rows = match_lesions(true, found, rule, overlaps(true_numbers, numbers, (len(true), len(found))))
    return [{"case": pair.case, "image": pair.name, "class": number, **row} for row in rows]


def summarize_lesions(rows, images, classes, rule, unit, scans, limits):
    """Compute the detection scores.

    Args:
        rows: list of dicts of `match_lesions` with KEYS.
        images: list of (case, image) of all images, also without lesions.
        classes: number of classes.
        rule, unit, scans: as in LesionResult.
        limits: rising diameters between the size groups.

    Returns:
        LesionResult.
    """
    columns = [*KEYS, *(match_columns())]
    table = pd.DataFrame(rows, columns=columns)
    images = pd.DataFrame(images, columns=KEYS[:2])
    summaries, errors, curves = [], [], {}
    for number in range(1, classes + 1):
        of_class = table[table["class"] == number]
        if of_class["probability"].notna().any() and of_class["kind"].isin(TRUE).any():
            curves[number] = curve_with_interval(of_class, images)
        score = froc_scores(curves.get(number))
        for group, chosen in size_groups(of_class, limits, unit):
            row = {"class": number, "size": group, **detection(chosen, images)}
            summaries.append(row | (score if group == "all" else dict.fromkeys(score, np.nan)))
        errors += [{"class": number, **row} for row in measure_errors(of_class)]
    summary, errors = pd.DataFrame(summaries), pd.DataFrame(errors, columns=ERRORS)
    return LesionResult(rule, unit, scans, table, summary, errors, curves, len(images))


def match_columns():
    sides = [f"{prefix}{name}" for prefix in ("", "predicted_") for name in (*AXES, "diameter")]
    return ["kind", *sides, "distance", "iou", "probability"]


def size_groups(table, limits, unit):
    """Groups by the true diameter, or the predicted one of a false positive: list of (title, rows)."""
    groups = [("all", table)]
    if not limits:
        return groups
    sizes = table["diameter"].fillna(table["predicted_diameter"])
    for low, high in zip([0, *limits], [*limits, np.inf], strict=True):
        title = f"{low:g} {unit} and more" if high == np.inf else f"{low:g} to {high:g} {unit}"
        groups.append((title if low else f"under {high:g} {unit}", table[(sizes >= low) & (sizes < high)]))
    return groups


def detection(table, images):
    """Counts, sensitivity and false positives per image with their intervals over cases, and panoptic quality."""
    true, predicted = table[table["kind"].isin(TRUE)], table[table["kind"].isin(PREDICTED)]
    found, false = true["kind"] == FOUND, table[table["kind"] == FALSE]
    per_image = count_in(false, images)
    low, high = interval_of_mean(found.to_numpy(float), true["case"]) if len(true) else (np.nan, np.nan)
    false_low, false_high = interval_of_mean(per_image, images["case"])
    hits = distinct(predicted[predicted["kind"] != FALSE])
    sensitivity = found.mean() if len(true) else np.nan
    precision = hits / (hits + len(false)) if hits + len(false) else np.nan
    quality = panoptic_quality(true["iou"], hits + len(false)) if table["iou"].notna().all() else (np.nan,) * 3
    return {
        "lesions": len(true),
        "found": int(found.sum()),
        "sensitivity": sensitivity,
        "low": low,
        "high": high,
        "predicted": hits + len(false),
        "false_positives": len(false),
        "false_per_scan": per_image.mean(),
        "false_low": false_low,
        "false_high": false_high,
        "precision": precision,
        "f1": 2 * sensitivity * precision / (sensitivity + precision) if found.any() else sensitivity * 0,
        "panoptic_quality": quality[0],
        "recognition_quality": quality[1],
        "segmentation_quality": quality[2],
    }


def distinct(table):
    """Number of different predicted lesions in rows; one that covers two true lesions has two rows."""
    return len(table.drop_duplicates([*KEYS, *(f"predicted_{axis}" for axis in AXES), "predicted_diameter"]))


def count_in(table, images):
    """Number of rows of each image: (N,) float."""
    counts = table.groupby(KEYS[:2]).size()
    return (
        images.merge(counts.rename("count"), "left", left_on=KEYS[:2], right_index=True)["count"].fillna(0).to_numpy()
    )


# --- FROC


def curve_with_interval(table, images):
    """FROC curve of a class, with 95% bootstrap intervals of its sensitivity and of its score.

    Draws cases with replacement, each with its images and lesions, as the LUNA16 script draws scans.

    Returns:
        (Froc, (2, 97) low and high of the sensitivity at RATES, (low, high) of the score); NaN for fewer than two
        cases.
    """
    cases = images["case"].unique()
    number = pd.Series(range(len(cases)), index=cases)
    true = table[table["kind"].isin(TRUE)]
    found, false = table[table["kind"] == FOUND], table[table["kind"] == FALSE]
    found, false = (side.assign(probability=side["probability"].fillna(0)) for side in (found, false))
    curve = froc(found["probability"], false["probability"], len(true), len(images))
    if len(cases) < 2:
        return curve, np.full((2, len(RATES)), np.nan), (np.nan, np.nan)
    sizes = [np.bincount(number[side["case"]], minlength=len(cases)) for side in (true, images)]
    events = [(side["probability"].to_numpy(), number[side["case"]].to_numpy()) for side in (found, false)]
    order = [np.argsort(-probability, kind="stable") for probability, _ in events]
    ends = [np.searchsorted(-p[o], -curve.thresholds, "right") for (p, _), o in zip(events, order, strict=True)]
    rng = np.random.default_rng(0)
    drawn, scores = [], []
    for _ in range(RESAMPLES):
        weights = np.bincount(rng.integers(0, len(cases), len(cases)), minlength=len(cases))
        lesions, scans = (float(weights @ size) for size in sizes)
        if not lesions:
            continue
        tp, fp = (
            np.concatenate([[0], np.cumsum(weights[case[o]])])[end]
            for (_, case), o, end in zip(events, order, ends, strict=True)
        )
        rates, sensitivity = fp / scans, tp / lesions
        drawn.append(np.interp(RATES, rates, sensitivity))
        scores.append(np.interp(FALSE_POSITIVE_RATES, rates, sensitivity).mean())
    low, high = np.percentile(scores, [2.5, 97.5])
    return curve, np.percentile(drawn, [2.5, 97.5], axis=0), (float(low), float(high))


def froc_scores(curve):
    """Columns of the summary for the result of `curve_with_interval`, or None."""
    names = [f"sensitivity_at_{rate:g}" for rate in FALSE_POSITIVE_RATES]
    if curve is None:
        return dict.fromkeys(["froc", "froc_low", "froc_high", *names], np.nan)
    low, high = curve[2]
    return {
        "froc": curve[0].score,
        "froc_low": low,
        "froc_high": high,
        **dict(zip(names, curve[0].sensitivity_at(FALSE_POSITIVE_RATES), strict=True)),
    }


# --- errors

ERRORS = ["class", "measure", "n", "mean", "absolute", "sd", "variance", "mse", "least", "greatest"]


def measure_errors(table):
    """Errors of the lesions found: predicted minus true coordinate and diameter, their ratio, and the distance.

    Returns:
        list of dicts: measure, n, mean, absolute (mean of the absolute values), sd, variance (both with n - 1), mse
        (of a ratio, from 1), least, greatest.
    """
    found = table[table["kind"] == FOUND]
    values = {name: found[f"predicted_{name}"] - found[name] for name in (*AXES, "diameter")}
    values |= {"diameter_ratio": found["predicted_diameter"] / found["diameter"], "distance": found["distance"]}
    rows = []
    for name, errors in values.items():
        errors = errors[np.isfinite(errors.to_numpy(float))]
        if not len(errors):
            continue
        row = {"measure": name, "n": len(errors), "mean": errors.mean(), "absolute": errors.abs().mean()}
        row |= {
            "sd": errors.std(),
            "variance": errors.var(),
            "mse": ((errors - (name == "diameter_ratio")) ** 2).mean(),
        }
        rows.append(row | {"least": errors.min(), "greatest": errors.max()})
    return rows


# --- files


def write_lesion_tables(folder, result):
    """Write lesions.csv, lesion_summary.csv, lesion_errors.csv and, with probabilities, froc.csv into a folder."""
    write_table(folder / "lesions.csv", result.rows)
    write_table(folder / "lesion_summary.csv", result.summary)
    write_table(folder / "lesion_errors.csv", result.errors)
    curves = [
        pd.DataFrame(
            {
                "class": number,
                "threshold": curve.thresholds[1:],
                "false_positives": curve.false_positives[1:],
                "sensitivity": curve.sensitivity[1:],
                "low": np.interp(curve.false_positives[1:], RATES, interval[0], np.nan, np.nan),
                "high": np.interp(curve.false_positives[1:], RATES, interval[1], np.nan, np.nan),
            }
        )
        for number, (curve, interval, _) in result.curves.items()
    ]
    if curves:
        write_table(folder / "froc.csv", pd.concat(curves))

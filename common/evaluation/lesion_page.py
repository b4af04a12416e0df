"""What a report shows of detection scores, and the report of two tables of lesions."""

import pandas as pd

from common.evaluation.lesion_plots import error_plot, froc_plot
from common.html import in_words, write_page

RULES = {
    "overlap": "A true lesion is found if a predicted one has a pixel in common with it.",
    "center": "A true lesion is found if the center of a predicted one is less than its radius away from its center.",
}
DETECTION = {
    "class": "class",
    "size": "size",
    "lesions": "lesions",
    "found": "found",
    "sensitivity": "sensitivity",
    "low": "low",
    "high": "high",
    "false_positives": "false positives",
    "false_per_scan": "per scan",
    "false_low": "per scan, low",
    "false_high": "per scan, high",
}
QUALITY = {
    "class": "class",
    "size": "size",
    "precision": "precision",
    "f1": "F1",
    "panoptic_quality": "panoptic quality",
    "recognition_quality": "recognition quality",
    "segmentation_quality": "segmentation quality",
}
NARROW = ("class", "size", "sensitivity", "panoptic quality", "measure", "n", "mean", "mse")


def lesion_page(result):
    """Values of the template evaluation/lesions.html.jinja for a LesionResult, as a dict."""
    detection, quality = (
        result.summary[list(names)].rename(columns=names).dropna(axis=1, how="all") for names in (DETECTION, QUALITY)
    )
    detection.columns = [name.replace("per scan", f"per {result.scans}") for name in detection.columns]
    overall = result.summary[result.summary["size"] == "all"].set_index("class")
    scores = {
        f"class {number}": f"{row['froc']:.3f}"
        + (f" (95%: {row['froc_low']:.3f} to {row['froc_high']:.3f})" if pd.notna(row["froc_low"]) else "")
        for number, row in overall.iterrows()
        if pd.notna(row["froc"])
    }
    return {
        "rule": RULES[result.rule],
        "scans": result.scans,
        "unit": result.unit,
        "detection": detection,
        "quality": quality,
        "narrow": (*NARROW, f"per {result.scans}"),
        "froc": froc_plot(result) if result.curves else None,
        "scores": scores,
        "errors": result.errors if len(result.errors) else None,
        "error_plot": error_plot(result),
    }


def write_lesion_report(path, result, settings, environment):
    """Write the report of an evaluation of two tables of lesions.

    Args:
        path: file to write.
        result: LesionResult.
        settings: dict of settings.
        environment: text.
    """
    overall = result.summary.iloc[0]
    tiles = [
        (name.replace("_", " "), in_words(overall[name]), f"{overall[low]:.3g} to {overall[high]:.3g} (95%)")
        for name, low, high in (
            ("sensitivity", "low", "high"),
            ("false_per_scan", "false_low", "false_high"),
            ("froc", "froc_low", "froc_high"),
        )
        if pd.notna(overall[low])
    ]
    write_page(
        path,
        "evaluation/lesion_report.html.jinja",
        f"Lesions of {settings['PREDICTED']}",
        tiles=[*tiles, ("lesions", str(overall["lesions"]), f"{overall['found']} found")],
        lesions=lesion_page(result),
        settings=settings,
        environment=environment,
    )

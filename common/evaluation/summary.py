"""Scores of many pairs of masks, and what they come to."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from common.errors import InputError
from common.evaluation.pairs import count_classes, read_pair
from common.evaluation.statistics import summarise_scores
from common.parallel import ordered_map, progress
from common.scores import DISTANCES, OVERLAPS, SCORES, count_pixels, scores_of_counts, scores_of_surfaces

COUNTS = ["tp", "fp", "fn", "pixels"]


@dataclass
class Result:
    """What an evaluation found.

    Attributes:
        what: text, slices or volumes.
        unit: of distances, "mm" or "pixels".
        tolerance: of the surface Dice.
        element: size of a pixel or voxel, and element_unit, its name.
        images, cases: DataFrames of the scores.
        over_images, over_cases: what they come to.
        empties: dict of a kind of empty masks to how many there are, and which, as text.
        differences, against: DataFrame and name of what was compared with; None and "" for nothing.
    """

    what: str
    unit: str
    tolerance: float
    element: float
    element_unit: str
    images: pd.DataFrame
    cases: pd.DataFrame
    over_images: pd.DataFrame
    over_cases: pd.DataFrame
    empties: dict
    differences: pd.DataFrame | None = None
    against: str = ""


def score_pairs(pairs, everything, given, tolerance):
    """Score pairs; each mask is read once, and a few are held at a time.

    Args:
        pairs: list of Pair.
        everything: list of all pairs of the evaluation, of which those are some or all.
        given: (row, column) spacing of slices in mm, or None to take what the cases say.
        tolerance: of the surface Dice.

    Returns:
        list of [rows, values] of each pair, for `summarise`, as JSON keeps them: a dict for each class, and the lists
        of the values that the predicted and the true file hold.

    Raises:
        InputError: as `read_pair`.
    """
    volumes, known = everything[0].is_volume, knows_spacing(everything, given)
    if not known and len({pair.spacing for pair in everything}) > 1:
        print("the spacing of some cases is not known: distances of all are in pixels")

    def score(pair):
        predicted, truth, own, values = read_pair(pair)
        spacing = own if volumes else given or (own if known else (1, 1))
        there = ({1 if value == 255 else value for value in set().union(*values)} | {1}) - {0}
        rows = [score_class(pair, c, predicted == c, truth == c, spacing, tolerance) for c in sorted(there)]
        return [rows, list(map(sorted, values))]

    return list(progress(ordered_map(score, pairs), len(pairs), "scoring"))


def knows_spacing(pairs, given):
    """Whether distances are in mm: of volumes, of a spacing that was given, or where all cases know theirs."""
    return pairs[0].is_volume or bool(given) or None not in {pair.spacing for pair in pairs}


def summarise(scored, pairs, truth_place, given, tolerance):
    """What the scores of all pairs come to.

    Args:
        scored: what `score_pairs` gives for the pairs.
        pairs: list of Pair, not empty.
        truth_place: place of the true masks, for messages.
        given, tolerance: as `score_pairs`.

    Returns:
        Result, without differences.

    Raises:
        InputError: as `count_classes`.
    """
    volumes, known = pairs[0].is_volume, knows_spacing(pairs, given)
    rows, values = zip(*scored, strict=True)
    classes = count_classes(pairs, [list(map(set, both)) for both in values], truth_place)
    images = pd.DataFrame([row for of_pair in rows for row in with_all_classes(of_pair, classes)])
    elements = images.pop("element")
    cases = of_cases(images)
    filled = images.copy()  # means over images leave out those whose mask is empty
    filled.loc[images["tp"] + images["fn"] == 0, [name for name in SCORES if name != "fpoet"]] = np.nan
    return Result(
        what="label volumes" if volumes else "slices",
        unit="mm" if known else "pixels",
        tolerance=tolerance,
        element=float(elements.iloc[0]) if elements.nunique() == 1 else 1.0,
        element_unit=("mm³" if volumes else "mm²") if known and elements.nunique() == 1 else "pixels",
        images=images,
        cases=cases,
        over_images=summarise_scores(filled, SCORES),
        over_cases=summarise_scores(cases, SCORES),
        empties=describe_empties(images, cases),
    )


def score_class(pair, number, predicted, truth, spacing, tolerance):
    counts = count_pixels(predicted, truth)
    return {
        "case": pair.case,
        "image": pair.name,
        **scores_of_counts(*counts, truth.size),
        **scores_of_surfaces(predicted, truth, spacing, tolerance),
        "class": number,
        **dict(zip(COUNTS, (*counts, truth.size), strict=True)),
        "element": float(np.prod(spacing)),
    }


def with_all_classes(rows, classes):
    """Rows of an image for every class: those that neither of its masks holds have counts of 0 and no score."""
    there = {row["class"]: row for row in rows}
    counts = dict.fromkeys(COUNTS, 0) | {"pixels": rows[0]["pixels"]}
    nothing = rows[0] | dict.fromkeys(SCORES, np.nan) | counts | {"fpoet": 0.0}
    return [there.get(c, nothing | {"class": c}) for c in range(1, classes + 1)]


def of_cases(images):
    """Scores of cases: overlaps of all pixels together, distances as the mean over the images that have them."""
    groups = images.groupby(["case", "class"], sort=False)
    counts, distances = groups[COUNTS].sum(), groups[list(DISTANCES)].mean()
    overlaps = pd.DataFrame([scores_of_counts(*row) for row in counts.itertuples(index=False)], index=counts.index)
    table = pd.concat([overlaps, distances, counts], axis=1).reset_index()
    return table[["case", *OVERLAPS, *DISTANCES, "class", *COUNTS]]


def read_other(folder, cases):
    """Scores of the cases of another evaluation.

    Args:
        folder: that evaluate.py wrote.
        cases: set of the names that are to be compared.

    Returns:
        DataFrame of its cases.csv.

    Raises:
        InputError: if it is none, or has none of the cases.
    """
    path = Path(folder, "cases.csv")
    if not path.is_file():
        raise InputError(f"AGAINST: {folder} is no OUTPUT of evaluate.py (it has no cases.csv)")
    table = pd.read_csv(path, dtype={"case": str}, keep_default_na=False, na_values=[""])
    missing = {"case", "class", *SCORES} - set(table.columns)
    if missing:
        raise InputError(f"AGAINST: {path} has no column {min(missing)}; evaluate it again")
    table["case"] = table["case"].fillna("")
    if not cases & set(table["case"]):
        raise InputError(f"AGAINST: {folder} has none of the cases that are scored here")
    return table


def describe_empties(images, cases):
    """Who is empty on either side: dict of the kind to how many there are, and which."""
    found = {}
    for what, table, names in (
        ("images", images, images["case"] + " " + images["image"]),
        ("cases", cases, cases["case"]),
    ):
        truth, predicted = table["tp"] + table["fn"] == 0, table["tp"] + table["fp"] == 0
        for title, here in (
            ("empty mask and empty prediction", truth & predicted),
            ("empty mask, but a prediction", truth & ~predicted),
            ("a mask, but an empty prediction", predicted & ~truth),
        ):
            listed = sorted({name.strip() for name in names[here]})
            shown = ", ".join(filter(None, listed[:20])) + (", ..." if len(listed) > 20 else "")
            found[f"{what}: {title}"] = f"{int(here.sum())}" + (f": {shown}" if shown else "")
    return found

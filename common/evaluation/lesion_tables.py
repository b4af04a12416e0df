"""Lesions as tables: probabilities of candidates, and two tables scored as the LUNA16 script does."""

from pathlib import Path

import numpy as np

from common.errors import InputError
from common.evaluation.lesion_scores import summarize_lesions
from common.evaluation.lesions import Lesion, match_lesions
from common.files import read_bytes
from common.streams import print_lines
from common.volumes.candidates import POINT, read_annotations, read_lesions
from common.words import number_of

UNKNOWN_DIAMETER = 10.0  # mm, of an excluded finding with a negative diameter, as in the LUNA16 script


def is_lesion_table(path):
    """Whether a path is a CSV table with a column seriesuid."""
    path = Path(path) if str(path) else None
    if not path or path.suffix.lower() != ".csv" or not path.is_file():
        return False
    return b"seriesuid" in read_bytes(path, 1000).split(b"\n")[0]


class Candidates:
    """Probabilities of candidates, to look up for predicted lesions.

    Args:
        path: table of `read_lesions` with a probability.
        names: dict of case name to seriesuid, for numbered cases.
    """

    def __init__(self, path, names):
        rows = read_lesions(path, with_probability=True)
        self.names = names
        self.rows = {
            name: (of_scan[POINT].to_numpy(), of_scan["probability"].to_numpy())
            for name, of_scan in rows.groupby("seriesuid")
        }

    def add_to(self, case, lesions):
        """Lesions of a case with the probability of the nearest row within their radius; without one, still NaN."""
        name = self.names.get(case, case)
        points, probabilities = self.rows.get(name, self.rows.get(f"case_{name}", (np.empty((0, 3)), [])))
        known = []
        for lesion in lesions:
            distances = np.linalg.norm(points - lesion.point, axis=1)
            near = len(distances) and distances.min() <= lesion.diameter / 2
            known.append(lesion._replace(probability=float(probabilities[distances.argmin()])) if near else lesion)
        return known


def read_scans(path):
    """Read the seriesuids of a table with or without a header: list of str."""
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); use a table with a seriesuid in each line") from None
    names = [line.strip().split(",")[0] for line in lines]
    return list(dict.fromkeys(name for name in names if name not in ("", "seriesuid")))


def score_tables(predicted, truth, excluded, scans, sizes, numbers=None):
    """Score a table of predicted lesions against one of true lesions; a center within the true radius is a hit.

    Args:
        predicted: table with a probability, and a diameter or none.
        truth: table with diameters.
        excluded: table of findings that count neither as lesions nor as false positives; "": none.
        scans: table of all scans, also without lesions; "": those in `predicted` or `truth`.
        sizes: diameters in mm between the size groups.
        numbers: result of `common.volumes.privacy.read_numbers`, by which scans count and are called; None: none.

    Returns:
        LesionResult.

    Raises:
        InputError: as `read_lesions` and `read_annotations`, or if no true lesion is in a scan.
    """

    def numbered(table):
        return table.assign(seriesuid=[_number_of(name, numbers) for name in table["seriesuid"]])

    found, true = numbered(read_lesions(predicted)), numbered(read_annotations(truth))
    others = numbered(read_lesions(excluded, with_diameter=True)) if excluded else true.iloc[:0]
    others = others.assign(diameter_mm=others["diameter_mm"].where(others["diameter_mm"] > 0, UNKNOWN_DIAMETER))
    names = sorted({*found["seriesuid"], *true["seriesuid"]})
    if scans:
        names = [_number_of(name, numbers) for name in read_scans(scans)]
    elif not (found.empty or true.empty or set(found["seriesuid"]) & set(true["seriesuid"])):
        counts = " and ".join(str(table["seriesuid"].nunique()) for table in (found, true))
        raise InputError(
            f"{predicted}: no seriesuid is in {truth} too (found {counts}); pass --names-table if predictions are "
            "numbered, or --scans with all scans if they are right"
        )
    if not set(true["seriesuid"]) & set(names):
        raise InputError(f"{truth}: no lesion in a scan of {scans or predicted}; use tables of the same scans")
    for table, path in ((found, predicted), (true, truth)):
        if left := int((~table["seriesuid"].isin(names)).sum()):
            print(f"skipped {number_of(left, 'row')} of {path}: not in {scans}")
    found, true, others = by_scan(found), by_scan(true), by_scan(others, excluded=True)
    rows = []
    for name in names:
        matched = match_lesions(true.get(name, []) + others.get(name, []), found.get(name, []), "center")
        rows += [{"case": name, "image": "scan", "class": 1, **row} for row in matched]
    return summarize_lesions(rows, [(name, "scan") for name in names], 1, "center", "mm", "scan", sizes)


def _number_of(name, numbers):
    """Number of a scan by its own name, from a dict; without one, the name."""
    return numbers.get(name, name.removeprefix("case_")) if numbers else name


def by_scan(table, excluded=False):
    """dict of seriesuid to list of Lesion."""
    found = {}
    columns = (table[name] for name in ("seriesuid", *POINT, "diameter_mm", "probability"))
    for name, x, y, z, diameter, probability in zip(*columns, strict=True):
        found.setdefault(name, []).append(Lesion((x, y, z), diameter, probability, excluded))
    return found


def print_lesions(result):
    """Print the detection scores of a LesionResult, and the number of lesions without a probability."""
    columns = ["class", "size", "lesions", "found", "sensitivity", "low", "high", "false_positives", "false_per_scan"]
    table = result.summary[[*columns, "panoptic_quality", "froc"]].dropna(axis=1, how="all")
    table = table.rename(columns={"false_per_scan": f"false_per_{result.scans}"}).round(4)
    print_lines(f"\nlesions, found by {result.rule} (diameters in {result.unit})\n{table.to_string(index=False)}")
    unknown = result.rows["predicted_x"].notna() & result.rows["probability"].isna()
    if result.curves and unknown.any():
        print(f"{number_of(int(unknown.sum()), 'predicted lesion')} without a probability; taken as 0")

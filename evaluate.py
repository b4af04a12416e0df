"""Score predicted masks against true ones.

Reads   PREDICTED: masks or label volumes of predict.py; TRUTH: masks, case folder, folder of cases, list, or volumes
Writes  OUTPUT/report.html, scores.csv (case,image,dice,iou,...), cases.csv, summary.csv, worst.png
Takes   about three seconds for 1,000 masks of 200x200 on two cores
Expect  a table of the scores; look at the pictures in report.html before you believe a mean

True positives are green, false positives red, false negatives blue. Images whose mask is empty are not in the means
over images (a Dice says nothing there); they are counted, and they are in the scores of cases. The report says what
each score is, and what it is where a mask is empty.
"""

from typing import Annotated, Literal

from annotated_types import Len

from common.setting_types import (
    Cleaning,
    Count,
    NamePattern,
    NonNegative,
    PartOfWork,
    PathName,
    Positive,
    PositivePair,
    Window,
)
from common.settings import apply_command_line

# --- where from, where to
PREDICTED: PathName = "predictions"  # folder of predicted masks or label volumes
TRUTH: str = ""  # true masks: folder of masks, case folder, folder of cases, list (.csv), or folder of label volumes
LABEL_NAME: NamePattern = "{id}"  # name of the true labels of a volume, for instance "{id}_seg"
IMAGES: str = ""  # pictures to show errors on, where TRUTH has none: folder of pictures or of volumes
OUTPUT: PathName = "scores"  # folder for the scores
REPLACE: bool = False  # True to write over an OUTPUT that exists
PART: PartOfWork = ""
# "2/8": score the second of eight parts of the masks; the part that ends last writes OUTPUT; "": all
AGAINST: str = ""  # OUTPUT of another evaluation of the same cases, to compare with

# --- what to predict with
CHOOSE: str | Annotated[list[PathName], Len(1)] = ""
# folder of train.py --fold all, or several: instead of scoring, choose networks, flips and cleaning by the cases that
# each fold has not seen; choice.json there is what predict.py takes, choice.csv the scores
CLEANINGS: list[Cleaning] = [{}, {"share": 1}, {"share": 0.1}, {"smallest": 50}, {"fill": True}, {"median": 5}]
# to choose from

# --- distances
SPACING: Positive | PositivePair | None = None
# mm between the pixels of slices, [row, column]; None: as the cases or volumes say
TOLERANCE: NonNegative = 1.0  # of the surface Dice, in mm, or in pixels where the spacing is not known

# --- pictures
SHOW: Literal["worst", "first", "random"] = "worst"  # which images are shown: "worst", "first" or "random"
WORST: Count = 12  # how many
WINDOW: Window | None = None  # black and white of IMAGES, [low, high]; None: as they are
HAUSDORFF_LINE: bool = False  # True to draw the line that realises the Hausdorff distance

settings = apply_command_line(globals())

from pathlib import Path

import numpy as np
import pandas as pd

from common.devices import environment, import_keras
from common.errors import InputError
from common.evaluation.pairs import match_pairs
from common.evaluation.report import find_backgrounds, show_errors, write_report
from common.evaluation.summary import combine_scores, compare_scores, read_other, score_pairs
from common.files import read_json, refuse_existing, whole_file, write_json
from common.jobs import Part, do_part
from common.parallel import ordered_map
from common.scores import SCORES
from common.slices.drawing import contact_sheet
from common.slices.images import encode_png

RECORD = "evaluation.json"
SCORED = "scored.json"  # of a part


def main():
    if settings.CHOOSE:
        choose_what_helps()
        return
    check_settings()
    pairs = match_pairs(settings.PREDICTED, settings.TRUTH, settings.LABEL_NAME)
    others = read_other(settings.AGAINST, {pair.case for pair in pairs}) if settings.AGAINST else None
    part, spacing, results = Part.read(settings.PART), settings.SPACING and tuple(pair_of(settings.SPACING)), []
    mine = part.share(pairs)
    print(f"scoring {len(mine)} masks of {settings.PREDICTED} against {settings.TRUTH}", flush=True)
    recorded = settings.as_json() | {"PART": ""}

    def fill(folder):
        scored = score_pairs(mine, pairs, spacing, settings.TOLERANCE)
        if part.is_whole:
            write(folder, scored)
        else:
            write_json(folder / SCORED, scored)

    def join(folders, folder):
        write(folder, [scored for part in folders for scored in read_json(part / SCORED)])

    def write(folder, scored):
        result = combine_scores(scored, pairs, settings.TRUTH, spacing, settings.TOLERANCE)
        if settings.AGAINST:
            result.differences, result.other = compare_scores(result.cases, others, SCORES), settings.AGAINST
        write_result(folder, result, pairs, recorded)
        results.append(result)

    do_part(settings.OUTPUT, part, recorded | {"masks": len(pairs)}, fill, join, settings.REPLACE, RECORD)
    for result in results:
        print_tables(result)
        print(
            f"wrote the scores of {len(pairs)} images and {result.cases['case'].nunique()} cases to {settings.OUTPUT}"
        )


def write_result(folder, result, pairs, recorded):
    """Write the tables, the pictures and the report of a `common.evaluation.summary.Result` into a folder."""
    result.images.to_csv(folder / "scores.csv", index=False)
    result.cases.to_csv(folder / "cases.csv", index=False)
    both = (("cases", result.over_cases), ("images", result.over_images))
    pd.concat([t.assign(over=name) for name, t in both]).to_csv(folder / "summary.csv", index=False)
    if result.differences is not None:
        result.differences.to_csv(folder / "differences.csv", index=False)
    pictures = show(result.images, pairs)
    if pictures:
        shown, captions = zip(*pictures, strict=True)
        (folder / "worst.png").write_bytes(encode_png(contact_sheet(shown, min(6, len(shown)), 240, captions)))
    write_json(folder / RECORD, recorded)
    write_report(folder / "report.html", result, pictures, recorded, environment(backend=False))


def check_settings():
    refuse_existing(settings.OUTPUT, settings.REPLACE, RECORD)


def pair_of(spacing):
    return spacing if isinstance(spacing, list) else [spacing] * 2


def choose_what_helps():
    """Write choice.json and choice.csv into the first of the cross-validations CHOOSE."""
    if settings.PART:
        raise InputError("PART divides the scoring of masks; CHOOSE is done by one process")
    import_keras()
    from common.evaluation.selection import choose
    from common.training.cross_validation import write_choice

    folders = settings.CHOOSE if isinstance(settings.CHOOSE, list) else [settings.CHOOSE]
    choice, table = choose(folders, settings.CLEANINGS if {} in settings.CLEANINGS else [{}, *settings.CLEANINGS])
    with whole_file(Path(folders[0], "choice.csv")) as part:
        table.to_csv(part, index=False)
    write_choice(choice, folders[0])
    shown = pd.concat([table.head(1), table.nlargest(8, "dice"), table[table["chosen"] == "yes"]]).drop_duplicates()
    print(f"the first, the best eight of {len(table)} ways, and the chosen one")
    print(shown.round(4).to_string(index=False))
    print(f"wrote {Path(folders[0], 'choice.json')}; predict.py --run {folders[0]} takes it")


# --- what is shown


def print_tables(result):
    """One screen: the scores by class over images and over cases, and what the empty masks got."""
    columns = ["class", "score", "n", "mean", "low", "high", "median", "q1", "q3", "least"]
    for title, table in (
        ("images with a mask", result.over_images),
        ("cases, all pixels of a case together", result.over_cases),
    ):
        print(f"\n{title}\n{table[table['n'] > 0][columns].round(4).to_string(index=False)}")
    empty = result.images[result.images["tp"] + result.images["fn"] == 0]
    print(f"\nempty masks: {len(empty)}, of which predicted empty too: {(empty['fp'] == 0).sum()}")
    if result.differences is not None:
        print(f"\nless those of {settings.AGAINST}\n{result.differences.round(4).to_string(index=False)}")


def show(images, pairs):
    """Pictures of WORST images, with their scores as captions; false positives on empty masks score 0.

    Returns:
        list of (RGB picture, caption).
    """
    scores = images.groupby(["case", "image"], sort=False)[["dice", "hausdorff"]].mean()
    scores = scores[scores["dice"].notna()]
    if settings.SHOW == "worst":
        scores = scores.sort_values("dice", kind="stable")
    elif settings.SHOW == "random":
        scores = scores.sample(frac=1, random_state=1)
    by_key = {(pair.case, pair.name): pair for pair in pairs}
    backgrounds = find_backgrounds(settings.IMAGES, settings.TRUTH, by_key)
    chosen = list(scores.head(settings.WORST).itertuples())

    def draw(row):
        return show_errors(by_key[row.Index], backgrounds.get(row.Index), settings.WINDOW, settings.HAUSDORFF_LINE)

    captions = [
        f"{row.dice:.3f} {' '.join(row.Index)}" + (f", HD {row.hausdorff:.1f}" if np.isfinite(row.hausdorff) else "")
        for row in chosen
    ]
    return list(zip(ordered_map(draw, chosen), captions, strict=True))


if __name__ == "__main__":
    main()

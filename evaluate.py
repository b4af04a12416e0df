"""Score predicted masks against true ones.

Reads   PREDICTED: masks or label volumes of predict.py; TRUTH: masks, case folder, folder of
        cases, list, files of numbers, or volumes; both may be DICOM SEG, RTSTRUCT or
        .seg.nrrd; or two tables of lesions, as in LUNA16
Writes  OUTPUT/report.html, scores.csv (case,image,dice,iou,...), cases.csv, summary.csv, worst.png
Takes   about 3 s for 1,000 masks of 200x200 on two cores
Expect  a table of scores; look at the images in report.html before you trust a mean

True positives are green, false positives red, false negatives blue. Means over images exclude
images with an empty true mask, because their Dice is meaningless; they are counted, and case
scores include them. The report defines each score and its value for empty masks.
"""

from functools import partial
from itertools import chain
from typing import Literal

from common import setting_types as types
from common.settings import apply_command_line

# --- input and output
PREDICTED: types.PathName = "predictions"  # folder of predicted masks or label volumes
TRUTH: str = ""  # true masks: folder, case folder, folder of cases, list (.csv), volumes
LABEL_NAME: types.LabelPattern = "{id}"  # true label volume name for volume {id}, such as "{id}_seg"
#   "{id}_{class}" or "{id}/{class}": a label volume for each class.
CLASSES: types.Names | None = None  # names of segments to score, in class order; None: as predict.py, or all
#   For DICOM SEG, RTSTRUCT, .seg.nrrd and a label volume for each class.
REGIONS: types.Regions | None = None  # classes of several labels: {"whole": [1, 2], "core": [2]}
#   For TRUTH of label volumes. "nested": class 1 includes class 2, and so on; None: as predict.py recorded.
UNMATCHED: Literal["stop", "skip"] = "stop"  # mask without a partner: "stop", or "skip" it
CASE_FROM: Literal["folder", "image"] = "folder"  # "image": each loose image is a case; "folder": they are one
#   With "folder", names such as P004_s01 tell the case of a loose image.
NAMES_TABLE: str = ""  # names table of predict.py for numbered predictions; "": none
IGNORE: types.Gray | None = None  # value in TRUTH of pixels that do not count; None: none
#   254, as in case folders of an import with IGNORE, never counts.
IMAGES: str = ""  # images to show errors on, if TRUTH has none: folder of images or volumes
#   DICOM SEG and RTSTRUCT need the series that they refer to, here or in TRUTH.
OUTPUT: types.PathName = "scores"  # where to write the scores
REPLACE: bool = False  # True: overwrite an existing OUTPUT
WORKERS: types.Workers = ""  # "": this machine's cores; a number of processes; or a Dask scheduler
#   Such as "tcp://10.0.0.1:8786", for several machines: see docs/scaling.md.
AGAINST: str = ""  # OUTPUT of another evaluation of the same cases to compare with; "": none
AGAINST_PREDICTED: str = ""  # its PREDICTED, to show both on one image; "": as recorded there

# --- distances
SPACING: types.PixelSpacing | None = None
# pixel spacing in mm, a number or [row, column]; None: as recorded
#   None reads it from the cases or volumes.
TOLERANCE: types.NonNegative = 1.0  # surface Dice tolerance in mm (in pixels if the spacing is unknown)

# --- lesions
LESIONS: Literal["overlap", "center", ""] = ""  # score connected parts as lesions, matched by this rule; "": off
#   "overlap": a common pixel; "center": center of the predicted lesion within the true radius. Tables: "center".
LESION_SIZES: types.RisingSizes = [5, 10, 20]  # diameters in mm between size groups; []: one
CANDIDATES: str = ""  # table of submission.py: probability of each predicted lesion; "": none
#   For label volumes; tables of lesions have their own.
EXCLUDED: str = ""  # table of findings that do not count; "": none
SCANS: str = ""  # table of all scans, also without lesions; "": those in the tables
#   EXCLUDED and SCANS are for a TRUTH that is a table of lesions.

# --- images in the report
SHOW: Literal["worst", "hausdorff", "first", "random"] = "worst"  # images to show: "worst" by Dice, ...
#   "hausdorff": the largest distance first, and missed or invented masks before all; "first"; "random".
WORST: types.Count = 12  # how many images to show
WINDOW: types.Window | None = None  # values of IMAGES mapped to black and white, [low, high]; None: unchanged
HAUSDORFF_LINE: bool = False  # True: draw the Hausdorff distance as a line

settings = apply_command_line(globals())

import pandas as pd

from common.devices import environment
from common.errors import InputError, SettingError
from common.evaluation.images import choose_images, draw_images, find_backgrounds, find_others
from common.evaluation.lesion_page import write_lesion_report
from common.evaluation.lesion_scores import find_lesions, summarize_lesions, write_lesion_tables
from common.evaluation.lesion_tables import Candidates, is_lesion_table, print_lesions, score_tables
from common.evaluation.pairs import match_pairs, predicted_images
from common.evaluation.report import write_report
from common.evaluation.summary import combine_scores, compare_scores, read_other, score_pairs
from common.evaluation.volume_pairs import scans_of
from common.files import write_json
from common.public_settings import public_settings
from common.replacing import refuse_existing, refuse_input_inside, whole_folder
from common.scores import SCORES
from common.settings import FORMAT, refuse_unused
from common.slices.drawing import contact_sheet
from common.slices.images import encode_png
from common.streams import print_lines
from common.tables import write_table
from common.volumes.privacy import read_names_table, read_numbers
from common.workers import start_workers

RECORD = "evaluation.json"


def main():
    refuse_existing(settings.OUTPUT, settings.REPLACE)
    if is_lesion_table(settings.TRUTH) or is_lesion_table(settings.PREDICTED):
        evaluate_tables()
        return
    refuse_unused(settings, {"EXCLUDED": "", "SCANS": ""}, "only for tables of lesions")
    if settings.AGAINST_PREDICTED and not settings.AGAINST:
        raise SettingError("AGAINST_PREDICTED: needs AGAINST; pass --against the OUTPUT of that evaluation")
    refuse_input_inside("AGAINST", settings.AGAINST, settings.OUTPUT)
    evaluation = Evaluation()
    with whole_folder(settings.OUTPUT, settings.REPLACE) as folder:
        result = evaluation.write(folder, evaluation.score())
    print_tables(result)
    cases = result.cases["case"].nunique()
    print(f"wrote {settings.OUTPUT} (images: {len(evaluation.pairs)}, cases: {cases})")


def evaluate_tables():
    """Score a table of predicted lesions against one of true lesions."""
    for name, other in (("PREDICTED", "TRUTH"), ("TRUTH", "PREDICTED")):
        if not is_lesion_table(getattr(settings, name)):
            raise InputError(
                f"{name}: expected a table of lesions, as {other} is (found {getattr(settings, name) or 'nothing'}); "
                "use a table seriesuid,coordX,coordY,coordZ,..., such as submission.py --kind nodules writes"
            )
    unfit = [name for name in ("AGAINST", "CANDIDATES") if getattr(settings, name)]
    unfit += ["LESIONS"] if settings.LESIONS == "overlap" else []
    if unfit:
        raise InputError(f"{unfit[0]}: not for tables of lesions (TRUTH is {settings.TRUTH}); leave it out")
    tables = settings.PREDICTED, settings.TRUTH, settings.EXCLUDED, settings.SCANS
    result = score_tables(*tables, settings.LESION_SIZES, read_numbers(settings.NAMES_TABLE))
    recorded = public_settings(settings, ["TRUTH", "EXCLUDED", "SCANS"])
    with whole_folder(settings.OUTPUT, settings.REPLACE) as folder:
        write_lesion_tables(folder, result)
        write_json(folder / RECORD, {FORMAT: 1} | recorded)
        write_lesion_report(folder / "report.html", result, recorded, environment(with_backend=False))
    print_lesions(result)
    print(f"wrote {settings.OUTPUT} (lesions: {result.summary['lesions'].iloc[0]}, scans: {result.images})")


class Evaluation:
    """All pairs of the settings.

    Attributes:
        pairs: list of Pair.
        recorded: dict of settings to record.

    Raises:
        InputError: as `match_pairs` and `read_other`.
    """

    def __init__(self):
        self.pairs = match_pairs(settings.PREDICTED, settings.TRUTH, **matching())
        self.pairs = [pair._replace(ignore=settings.IGNORE) for pair in self.pairs]
        own = {"TOLERANCE": settings.TOLERANCE, "SPACING": settings.SPACING}
        cases = {pair.case for pair in self.pairs}
        self.other = read_other(settings.AGAINST, cases, own) if settings.AGAINST else None
        self.candidates = self.read_candidates()
        spacing = settings.SPACING
        self.spacing = tuple(spacing) if isinstance(spacing, list) else spacing and (spacing, spacing)
        self.recorded = public_settings(settings, ["TRUTH", "IMAGES"] if self.pairs[0].is_volume else [])

    def read_candidates(self):
        if not settings.CANDIDATES:
            return None
        if not self.pairs[0].is_volume or not settings.LESIONS:
            raise InputError("CANDIDATES: only for label volumes and with LESIONS; leave it empty")
        return Candidates(settings.CANDIDATES, read_names_table(settings.NAMES_TABLE))

    def score(self):
        """Score the pairs: list of results of `score_pair`."""
        find = partial(find_lesions, settings.LESIONS, self.candidates) if settings.LESIONS else None
        with start_workers(settings.WORKERS) as workers:
            print(f"scoring {settings.PREDICTED} (masks: {len(self.pairs)})", flush=True)
            return score_pairs(self.pairs, self.spacing, settings.TOLERANCE, find, workers)

    def write(self, folder, scored):
        """Write the result into a folder, and return it, a common.evaluation.summary.Result."""
        result = combine_scores(scored, self.pairs, settings.TRUTH, self.spacing, settings.TOLERANCE)
        if settings.LESIONS:
            result.lesions = summarize_lesions(
                [row for _, _, lesions in scored for row in lesions],
                [(pair.case, pair.name) for pair in self.pairs],
                result.images["class"].max(),
                settings.LESIONS,
                result.unit,
                "volume" if self.pairs[0].is_volume else "image",
                settings.LESION_SIZES,
            )
        if settings.AGAINST:
            result.differences, result.other = (
                compare_scores(result.cases, self.other, SCORES),
                self.recorded["AGAINST"],
            )
        write_result(folder, result, self.pairs, self.recorded)
        return result


def matching():
    """Arguments of `match_pairs` by the settings."""
    return {
        "label_name": settings.LABEL_NAME,
        "names_table": settings.NAMES_TABLE,
        "unmatched": settings.UNMATCHED,
        "case_from": settings.CASE_FROM,
        "images": settings.IMAGES,
        "classes": settings.CLASSES,
        "regions": settings.REGIONS,
    }


def write_result(folder, result, pairs, recorded):
    """Write the tables, images and report of a Result into a folder."""
    write_table(folder / "scores.csv", result.images)
    write_table(folder / "cases.csv", result.cases)
    both = (("cases", result.over_cases), ("images", result.over_images))
    write_table(folder / "summary.csv", pd.concat([t.assign(over=name) for name, t in both]))
    if result.lesions:
        write_lesion_tables(folder, result.lesions)
    write_table(folder / "agreement.csv", result.agreement)
    if result.differences is not None:
        write_table(folder / "differences.csv", result.differences)
    images = draw(result.images, pairs)
    if images:
        drawn, captions = (list(chain(*lists)) for lists in zip(*images, strict=True))
        (folder / "worst.png").write_bytes(encode_png(contact_sheet(drawn, min(6, len(drawn)), 240, captions)))
    write_json(folder / RECORD, {FORMAT: 1} | recorded)
    write_report(folder / "report.html", result, images, recorded, environment(with_backend=False))


def draw(images, pairs):
    """Draw WORST images with their scores as captions, with AGAINST also as predicted there."""
    others = {}
    if settings.AGAINST:
        others = find_others(settings.AGAINST, settings.AGAINST_PREDICTED, settings.TRUTH, **matching())
    predicted = predicted_images(settings.PREDICTED)
    keys = [(pair.case, pair.name) for pair in pairs]
    backgrounds = find_backgrounds(settings.IMAGES, settings.TRUTH, keys, settings.NAMES_TABLE, predicted)
    backgrounds |= scans_of(pairs)
    chosen = choose_images(images, settings.SHOW, settings.WORST)
    return draw_images(chosen, pairs, backgrounds, others, settings.WINDOW, settings.HAUSDORFF_LINE)


def print_tables(result):
    """Print scores by class over images and over cases, and the count of empty masks."""
    columns = ["class", "score", "n", "mean", "low", "high", "median", "q1", "q3", "least"]
    for title, table in (
        ("images with a mask", result.over_images),
        ("cases (all pixels of a case together)", result.over_cases),
    ):
        print_lines(f"\n{title}\n{table[table['n'] > 0][columns].round(4).to_string(index=False)}")
    empty = result.images[result.images["tp"] + result.images["fn"] == 0]
    print_lines(f"\nempty masks: {len(empty)} ({(empty['fp'] == 0).sum()} predicted empty)")
    if result.lesions:
        print_lesions(result.lesions)
    if result.differences is not None:
        table = result.differences.round(4).to_string(index=False)
        print("", f"difference to {settings.AGAINST} (this minus other)", sep="\n")
        print_lines(table)


if __name__ == "__main__":
    main()

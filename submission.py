"""Convert predictions to the tables that competitions ask for.

Reads   PREDICTED: masks or label volumes of predict.py; SCANS for a second stage
Writes  OUTPUT: img,pixels (run lengths), or seriesuid,coordX,coordY,coordZ,probability,diameter_mm
        (nodules)
Takes   about 1 s for 300 masks of 512x512, or for a 512x512x300 label volume
"""

from pathlib import Path
from typing import Literal

from common import setting_types as types
from common.settings import apply_command_line

KIND: Literal["run_lengths", "nodules"] = "run_lengths"  # "run_lengths" of masks, or "nodules" in label volumes
#   "run_lengths": by columns, from 1, none under 10 pixels; "nodules": center and diameter in mm (LPS) of each
#   connected part.
PREDICTED: types.PathName = "predictions"  # OUTPUT folder of predict.py
OUTPUT: types.TableName = "submission.csv"  # table to write
NAMES_TABLE: str = ""  # names table of predict.py, to write your own names; "": none
REPLACE: bool = False  # True: overwrite an existing table

# --- probability of nodules
PROBABILITY: types.Share = 1.0  # probability to write for every nodule, without the following
PROBABILITIES: str = ""  # folder of probability volumes; "": those in PREDICTED, if any
#   predict.py --probabilities True writes them into PREDICTED. probability is then the mean inside each nodule;
#   mean_probability and max_probability are further columns.
SECOND_STAGE: str = ""  # run of train.py on crops of 0_import_candidates.py; "": none
SCANS: str = ""  # folder of the scans, for SECOND_STAGE
MIN_PROBABILITY: types.Share = 0.0  # leave out nodules with a lower one

settings = apply_command_line(globals())

import numpy as np
import pandas as pd

from common.errors import InputError, SettingError, summarize
from common.evaluation.pairs import overlap_of, read_mask
from common.lazy import Lazy
from common.parallel import ordered_map, progress
from common.prediction import probabilities
from common.prediction.second_stage import SecondStage
from common.replacing import new_file, refuse_existing
from common.settings import require_folder
from common.slices.cases import find_slices
from common.slices.mask_files import CLASSES
from common.slices.masks import values_of
from common.tables import write_table
from common.volumes.finding import LABEL_ENDINGS, ending_of, find_volumes, name_of
from common.volumes.grids import require_same_grid
from common.volumes.labels import labels_in
from common.volumes.nodules import find_nodules, run_lengths
from common.volumes.privacy import plain_name, read_names_table, safe_names
from common.volumes.reading import read_volume
from common.words import number_of

sitk = Lazy("SimpleITK")


def main():
    refuse_existing(settings.OUTPUT, settings.REPLACE)
    if settings.KIND == "run_lengths":
        for name in ("PROBABILITIES", "SECOND_STAGE", "SCANS", "MIN_PROBABILITY"):
            if getattr(settings, name):
                raise SettingError(f"{name}: only for nodules; use --kind nodules, or leave it out")
    elif bool(settings.SCANS) != bool(settings.SECOND_STAGE):
        raise SettingError("SCANS: SECOND_STAGE and SCANS need each other; set both or none")
    if overlap_of(settings.PREDICTED):
        folders = f"{settings.PREDICTED}/{CLASSES}"
        raise InputError(f"PREDICTED: classes of {settings.PREDICTED} overlap; pass one of the folders in {folders}")
    rows = run_length_rows() if settings.KIND == "run_lengths" else nodule_rows()
    with new_file(settings.OUTPUT, settings.REPLACE) as file:
        write_table(file, rows)
    print(f"wrote {number_of(len(rows), 'row')} to {settings.OUTPUT}")


def run_length_rows():
    masks = find_slices(settings.PREDICTED, "y", "PREDICTED")
    problems = []
    read = progress(ordered_map(read_runs, masks, problems=problems), len(masks), "reading")
    runs, classes = zip(*((None, 0) if both is None else both for both in read), strict=True)
    if problems:
        raise InputError(summarize(problems, "masks cannot be used"))
    if several := sum(count > 1 for count in classes):
        print(f"several classes in {several} of {number_of(len(masks), 'mask')}; they become one mask here")
    names = [f"{s.case}/{s.name}" if s.case else s.name for s in masks]
    return pd.DataFrame({"img": names, "pixels": runs})


def read_runs(s):
    """Run lengths of the mask of a `common.slices.cases.Slice`, and its number of classes."""
    mask = read_mask(s.path)
    return run_lengths(mask), len(values_of(mask) - {0})


def nodule_rows():
    folder = require_folder(settings.PREDICTED, "PREDICTED")
    files = [path for path in sorted(folder.iterdir()) if ending_of(path) in LABEL_ENDINGS]
    if not files:
        raise InputError(
            f"{settings.PREDICTED}: no label volumes found ({', '.join(LABEL_ENDINGS)}); predict cases of volumes first"
        )
    cases = [name_of(path).removeprefix("case_") for path in files]
    if again := {name for name in cases if cases.count(name) > 1}:
        raise InputError(f"{settings.PREDICTED}: several label volumes of {min(again)}; keep only one of them")
    folders, scans = folders_of_probabilities(), scans_by_name() if settings.SCANS else {}
    second = SecondStage(settings.SECOND_STAGE) if settings.SECOND_STAGE else None
    rows, names = [], read_names_table(settings.NAMES_TABLE)
    for path in progress(files, len(files), "reading"):
        name = name_of(path).removeprefix("case_")
        name = names.get(name, name)
        if second and name not in scans:
            raise InputError(f"{path}: no scan {name} in {settings.SCANS}; see NAMES_TABLE, or add the scan")
        labels = read_volume(path)
        labels_in(labels, path, allow_255=True)  # refuses a scan
        nodules = find_nodules(labels, probabilities_of(path, labels, folders) if folders else None)
        judged = second.probabilities(scans[name], [nodule.point for nodule in nodules]) if second and nodules else []
        for number, nodule in enumerate(nodules):
            own = settings.PROBABILITY if nodule.mean is None else nodule.mean
            row = (name, *nodule.point, judged[number] if second else own, nodule.diameter)
            rows.append(row + ((nodule.mean, nodule.maximum) if folders else ()))
    columns = ["seriesuid", "coordX", "coordY", "coordZ", "probability", "diameter_mm"]
    columns += ["mean_probability", "max_probability"] if folders else []
    table = pd.DataFrame(rows, columns=columns)
    return table[table["probability"] >= settings.MIN_PROBABILITY]


def scans_by_name():
    """Scans in SCANS by all names that a prediction of them can have: dict to Path."""
    volumes = find_volumes(require_folder(settings.SCANS, "SCANS"))
    scans = {plain_name(name): path for name, path in volumes.items()}
    for names in (safe_names(volumes), {name: name.split("/")[-1] for name in volumes}):
        for name, other in names.items():
            scans.setdefault(other.removeprefix("case_"), volumes[name])
    return scans


def folders_of_probabilities():
    """Folders of probability volumes, one for each class: PROBABILITIES, or what predict.py wrote into PREDICTED."""
    folder = Path(settings.PREDICTED, probabilities.FOLDER)
    if settings.PROBABILITIES:
        folder = require_folder(settings.PROBABILITIES, "PROBABILITIES")
    elif not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir()) or [folder]


def probabilities_of(path, labels, folders):
    """Foreground probability (k, j, i) for a label volume: the sum over the classes, on its grid.

    Raises:
        InputError: if a volume is missing, has another grid, or values outside of 0 to 1.
    """
    total = 0
    for folder in folders:
        found = [other for other in sorted(folder.iterdir()) if ending_of(other) and name_of(other) == name_of(path)]
        if not found:
            raise InputError(f"{path}: no probability volume in {folder} with this name; predict both together")
        image = read_volume(found[0])
        require_same_grid(image, found[0], labels, path)
        values = sitk.GetArrayFromImage(image)
        if not (values.min() >= 0 and values.max() <= 1):
            raise InputError(f"{found[0]}: expected probabilities from 0 to 1 (found up to {values.max():g})")
        total = total + values
    return np.minimum(total, 1)


if __name__ == "__main__":
    main()

"""Step 2: check the data set and split its cases into training, validation and test lists.

Reads   CASES/<case>/x and y, and the variants x_*, y_O* from step 1
Writes  LISTS/train.csv, validation.csv, test.csv (header x,y,case), data_check.png, for step 3
        with FOLDS = 5: LISTS/fold1 to fold5, each with these lists; all share the same test cases
Takes   about a second per 1,000 slices of 200x200 on two cores

All slices of a case go to the same list. If there is only one case, each list is a run of
neighboring slices. Only training lists contain variants and the cases of pseudo_label.py. Look at
data_check.png before you train.
"""

import sys
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import setting_types as types
from common.settings import apply_command_line

# --- input and output
CASES: types.PathName = "data/cases"  # folder that contains the case folders
LISTS: types.PathName = "data/lists"  # output folder for the lists
REPLACE: bool = False  # True: overwrite existing lists
COPY_TO: str = ""  # also copy the listed pairs to <folder>/<list>/x and y; "": no copies
#   Each list then has a copied_files.csv.
COPY_LIST: str = ""  # only copy the pairs of this list (.csv), such as a cut one; "": none

# --- split
VALIDATION_SHARE: types.ShareBelowOne = 0.2  # fraction of the cases for validation; 0: none
TEST_SHARE: types.ShareBelowOne = 0.1  # fraction of the cases for testing; 0: none
VALIDATION_CASES: types.Names = []  # names of the validation cases, instead of a fraction
TEST_CASES: types.Names = []  # names of the test cases, instead of a fraction
FOLDS: types.Folds = 0  # number of cross-validation folds; 0: a single split by VALIDATION_SHARE
SAME_SLICES: Literal["stop", "report"] = "stop"
# the same image in two lists: "stop" with an error, or "report" it
#   Blank images do not count.
SEED: types.Seed = 1  # random seed of the split; the same seed writes the same lists
VARIANTS: bool = True  # False: exclude the variants of step 1 from the training lists

settings = apply_command_line(globals())

import shutil

import numpy as np
import pandas as pd

from common.errors import InputError, SettingError
from common.files import natural_key, real_path
from common.parallel import progress
from common.replacing import refuse_existing, refuse_input_inside, whole_folder, whole_folders
from common.slices.case_files import split_pseudo_labeled
from common.slices.cases import find_cases
from common.slices.checks import check_data, count_classes_of
from common.slices.drawing import data_check
from common.slices.images import encode_png
from common.slices.lists import (
    count_of_share,
    find_same_images,
    make_divisions,
    pick_named,
    read_list,
    split_into_folds,
    write_list,
)
from common.slices.variants import find_variants, list_rows
from common.streams import print_lines
from common.tables import write_table
from common.words import number_of


def main():
    check_settings()
    if settings.COPY_LIST:
        rows = list(read_list(settings.COPY_LIST).itertuples(index=False))
        with whole_folder(settings.COPY_TO, settings.REPLACE) as unfinished:
            copy_pairs(Path(settings.COPY_LIST).stem, rows, unfinished)
        return
    refuse_existing(settings.LISTS, settings.REPLACE)
    cases = find_cases(settings.CASES)
    print(f"checking {number_of(len(cases), 'case')} in {settings.CASES}", flush=True)
    slices = check_data(cases, settings.CASES)
    classes = count_classes_of(slices, settings.CASES)
    variants = {case: find_variants(case) if settings.VARIANTS else [] for case in cases}

    divisions = divide(slices)
    find_same_images(divisions.values(), settings.SAME_SLICES)
    outputs = [settings.LISTS, *([settings.COPY_TO] if settings.COPY_TO else [])]
    with whole_folders(outputs, settings.REPLACE) as (unfinished, *copies):
        for folder, lists in divisions.items():
            (unfinished / folder).mkdir(exist_ok=True)
            for name, members in lists.items():
                rows = list_rows(members, variants if name == "train" else {})
                write_list(unfinished / folder / f"{name}.csv", rows, Path(settings.LISTS, folder))
                for copy in copies:
                    copy_pairs(Path(folder, name), rows, copy)
        (unfinished / "data_check.png").write_bytes(encode_png(data_check(slices, classes)))
    for folder, lists in divisions.items():
        print_table(folder, lists, variants)
    what = "one class" if classes == 1 else f"{classes} {slices[0].overlap} classes".replace("  ", " ")
    size, bits, count = slices[0].size, slices[0].bits, sum(map(len, divisions.values()))
    written = f"{number_of(count, 'list')} of {size}x{size} {bits}-bit slices, {what}"
    print(f"wrote {written}, and data_check.png to {settings.LISTS}")


def check_settings():
    if settings.VALIDATION_SHARE + settings.TEST_SHARE >= 1:
        total = settings.VALIDATION_SHARE + settings.TEST_SHARE
        raise SettingError(
            f"VALIDATION_SHARE: nothing left to train on (found {total:g} with TEST_SHARE); use a sum below 1"
        )
    if settings.FOLDS and settings.VALIDATION_CASES:
        raise SettingError("FOLDS: cannot be combined with VALIDATION_CASES; set only one of them")
    if settings.COPY_LIST and not settings.COPY_TO:
        raise SettingError("COPY_LIST: needs COPY_TO; pass --copy-to with a folder for the copies")
    if settings.COPY_TO and not settings.COPY_LIST:
        lists, copies = map(real_path, (settings.LISTS, settings.COPY_TO))
        if lists == copies or lists in copies.parents or copies in lists.parents:
            raise SettingError(f"COPY_TO: expected a folder outside LISTS (found {settings.COPY_TO}); use another one")
    if settings.COPY_TO:
        refuse_input_inside("COPY_LIST", settings.COPY_LIST, settings.COPY_TO, "COPY_TO")
        refuse_existing(settings.COPY_TO, settings.REPLACE)


# --- dividing


def divide(slices):
    """Assign every slice to a list.

    Returns:
        dict of subfolder ("" or "fold1" and so on) to a dict of list name to list of Checked.

    Raises:
        InputError: if there are too few cases, or a chosen case does not exist.
    """
    by_case, by_group = {}, {}
    slices, added = split_pseudo_labeled(slices)
    for s in slices:
        by_case.setdefault(s.case.name, []).append(s)
        by_group.setdefault(s.group, []).append(s)
    if len(by_case) > 1:
        units = [tuple(members) for members in by_case.values()]
        np.random.default_rng(settings.SEED).shuffle(units)
    elif settings.TEST_CASES or settings.VALIDATION_CASES:
        raise InputError(f"TEST_CASES, VALIDATION_CASES: {settings.CASES} contains only one case; use shares instead")
    else:  # one case: keep the order of its images, so that each list is a run of neighbors
        units = [tuple(members) for members in by_group.values()]

    test, rest = take(units, settings.TEST_SHARE, settings.TEST_CASES, "TEST", len(units))
    if settings.FOLDS:
        validation_sets = split_into_folds(rest, settings.FOLDS)
    else:
        validation, _ = take(rest, settings.VALIDATION_SHARE, settings.VALIDATION_CASES, "VALIDATION", len(units))
        validation_sets = [validation]
    divisions = make_divisions(rest, validation_sets)
    if not all(train for train, _ in divisions.values()):
        raise InputError(f"CASES: nothing left to train on (cases in {settings.CASES}: {len(by_case)}); add cases")
    if added:
        print(f"pseudo-labeled, only for training: {', '.join(unit[0].case.name for unit in added)}")
    return {folder: lists_of(train + added, validation, test) for folder, (train, validation) in divisions.items()}


def take(units, share, names, setting, total):
    """Split units into the named ones, or a `share` of `total`, and the rest."""
    if names:
        return pick_named(units, names, lambda unit: unit[0].case.name, f"{setting}_CASES")
    if not share:
        return [], units
    count = count_of_share(share, total)
    if count >= len(units):
        remedy = "use --test-share 0, or add cases" if setting == "VALIDATION" and len(units) < total else "add some"
        raise InputError(
            f"{setting}_SHARE: too few cases (needs {count} of {len(units)}, and one to train on); {remedy}"
        )
    return units[-count:], units[:-count]


def lists_of(train, validation, test):
    """dict of list name to list of Checked, in natural order, without empty lists."""
    named = {"train": train, "validation": validation, "test": test}
    lists = {name: [s for unit in units for s in unit] for name, units in named.items() if units}
    return {name: sorted(members, key=lambda s: natural_key(s.x)) for name, members in lists.items()}


# --- writing


def print_table(folder, lists, variants):
    rows = [
        {
            "list": f"{folder} {name}".strip(),
            "cases": len({s.case for s in members}),
            "slices": len(members),
            "with variants": len(list_rows(members, variants if name == "train" else {})),
            "empty masks": f"{np.mean([not s.foreground for s in members]):.0%}",
            "foreground": f"{np.mean([s.foreground for s in members]):.2%}",
        }
        for name, members in lists.items()
    ]
    print_lines(pd.DataFrame(rows).to_string(index=False))
    for name in ("train", "validation"):
        if name in lists and not any(s.foreground for s in lists[name]):
            print(f"note: all masks in {name} are empty")


def copy_pairs(name, rows, unfinished):
    """Copy the pairs of a list to <name>/x and <name>/y, numbered; copied_files.csv lists their origin.

    Args:
        name: name of the list, in the subfolder of its fold.
        rows: list of (x, y, case).
        unfinished: Path of the folder that becomes COPY_TO.
    """
    copy, copied = unfinished / name, []
    for side in ("x", "y"):
        (copy / side).mkdir(parents=True)
    for number, (*pair, _) in enumerate(progress(rows, len(rows), f"copying {Path(name).name}"), 1):
        x, y = map(Path, pair)
        file = f"{number:04d}{x.suffix}"
        shutil.copyfile(x, copy / "x" / file)
        shutil.copyfile(y, copy / "y" / f"{number:04d}{y.suffix}")
        copied.append((file, x.as_posix(), y.as_posix()))
    write_table(copy / "copied_files.csv", pd.DataFrame(copied, columns=["file", "src_x", "src_y"]))
    print(f"copied {number_of(len(rows), 'pair')} to {Path(settings.COPY_TO, name)}")


if __name__ == "__main__":
    main()

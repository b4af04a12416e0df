"""Lists of slices (`x,y,case`): reading, writing, dividing what they contain."""

import functools
import os
from pathlib import Path

import numpy as np

from common.errors import InputError, summarise
from common.files import whole_file


def read_list(path):
    """Read a list of slices.

    Args:
        path: CSV with header `x,y,case`, paths relative to its folder; lists `x,y` of AIS are read too, their case
            is the folder above that of the image.

    Returns:
        DataFrame of str with columns x, y (paths) and case; at least one row.

    Raises:
        InputError: if it is missing, empty, has no such header, or names files that are gone.
    """
    import pandas as pd  # half a second at the start of scripts that read no list

    path = Path(path)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; write it with preprocess/2_write_lists.py") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError):
        raise InputError(f"{path} cannot be read as a list; expected CSV with the header x,y,case") from None
    if not {"x", "y"} <= set(table.columns):
        raise InputError(f"{path} has the header {','.join(table.columns)}; expected x,y,case")
    if table.empty:
        raise InputError(f"{path} is empty; expected a row for every slice")
    for column in ("x", "y"):
        table[column] = [os.path.normpath(os.path.join(path.parent, name)) for name in table[column]]
    if "case" not in table:
        table["case"] = [Path(x).parent.parent.name for x in table["x"]]
    gone = [f"{name} does not exist" for name in [*table["x"], *table["y"]] if not os.path.isfile(name)]
    if gone:
        raise InputError(summarise(gone, f"files in {path} are gone"))
    return table[["x", "y", "case"]]


def write_list(path, rows, relative_to=None):
    """Write a list of slices.

    Args:
        path: CSV file, which appears complete or not at all.
        rows: DataFrame with the columns x, y and case, or a list of such rows.
        relative_to: folder that the list will be read from, to which its paths are relative; None: absolute paths.
    """
    import pandas as pd  # as in `read_list`

    def written(file):
        return Path(os.path.relpath(file, relative_to)).as_posix() if relative_to else Path(file).resolve()

    table = pd.DataFrame(rows, columns=["x", "y", "case"])
    table = table.assign(x=table["x"].map(written), y=table["y"].map(written))
    with whole_file(path) as unfinished:
        table.to_csv(unfinished, index=False)


def slice_identity(image_path):
    """What all variants of one slice have in common: its case folder and its name.

    Args:
        image_path: path such as `case01/x_A_RTP/0001.png`.
    """
    if os.path.islink(image_path):
        image_path = os.path.realpath(image_path)
    folder, file = os.path.split(image_path)
    return os.path.join(os.path.dirname(_real_path(folder)), os.path.splitext(file)[0])


_real_path = functools.cache(os.path.realpath)  # a case has many slices


# --- dividing


def pick_named(units, names, name_of, setting):
    """Split units into those with certain names and the others.

    Args:
        units: list.
        names: names of the wanted ones.
        name_of: function of a unit to its name.
        setting: that holds the names, for the message.

    Returns:
        the wanted units and the others, two lists in the order of `units`.

    Raises:
        InputError: if a name belongs to no unit.
    """
    known = [name_of(unit) for unit in units]
    if unknown := set(names) - set(known):
        there = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
        raise InputError(f"{setting}: there is no case {', '.join(sorted(unknown))}; there are {there}")
    return [u for u in units if name_of(u) in names], [u for u in units if name_of(u) not in names]


def count_of_share(share, total):
    """Number of units in a share of them, at least one."""
    return max(1, round(share * total))


def split_into_folds(units, count):
    """Split units into runs of nearly the same length, one a fold.

    Raises:
        InputError: if there are fewer units than folds.
    """
    if len(units) < count:
        raise InputError(f"FOLDS is {count}, but only {len(units)} cases are left to divide; take fewer folds")
    return [[units[i] for i in run] for run in np.array_split(np.arange(len(units)), count)]


def make_divisions(units, validation_sets):
    """Divide units into training and validation sets, once or for each fold of a cross-validation.

    Args:
        units: list of what stays together, such as cases; hashable.
        validation_sets: list of lists of units, one a fold; a single one for a single division.

    Returns:
        dict of subfolder ("" for a single division, otherwise "fold1" and so on) to training and validation units, two
        lists, both in the order of `units`.
    """
    divisions = {}
    for number, chosen in enumerate(validation_sets, 1):
        folder, chosen = f"fold{number}" if len(validation_sets) > 1 else "", set(chosen)
        train = [unit for unit in units if unit not in chosen]
        divisions[folder] = train, [unit for unit in units if unit in chosen]
    return divisions

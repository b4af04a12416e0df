"""Lists of slices (`x,y,case`): read, write and split them."""

import functools
import os
from itertools import islice
from pathlib import Path

import numpy as np

from common.errors import InputError, summarize
from common.files import file_digest, natural_key, read_bytes, real_path, whole_file
from common.settings import require_folder
from common.slices.images import read_image
from common.streams import one_line
from common.system_errors import why_unreadable
from common.words import number_of

LIST_NAMES = ("train", "validation", "test")
# Names of lists that people cut themselves.
OTHER_NAMES = {"training": "train", "val": "validation", "valid": "validation", "testing": "test"}


def read_list(path):
    """Read a list of slices.

    Args:
        path: CSV with header `x,y,case` and paths relative to its folder. AIS lists with `x,y` work too; the case is
            the grandparent folder of the image.

    Returns:
        DataFrame of str with columns x, y (paths) and case; at least one row.

    Raises:
        InputError: if the list is missing, empty, has another header, or contains missing files.
    """
    from common import tables  # with pandas, which costs half a second, and not all scripts read lists

    path, advice = Path(path), "use a list of 2_write_lists.py"
    if not path.exists():
        raise InputError(f"{path}: file does not exist; write it with preprocess/2_write_lists.py")
    _refuse_repeated_lines(path)
    table = tables.read_table(path, ["x", "y"], advice)
    if table.empty:
        raise InputError(f"{path}: the list is empty (expected a row per slice); write it again with 2_write_lists.py")
    _refuse_repeats(path, table)
    folder, exists = os.fspath(path.parent), functools.cache(os.path.isfile)
    gone = []
    for column in ("x", "y"):
        names = [tables.as_file_name(name) for name in table[column]]
        for line, name in zip(table.index, names, strict=True):
            if not name or "\0" in name:
                raise InputError(f"{path}: line {line} has no file in column {column}; {advice}")
        table[column] = [os.path.normpath(os.path.join(folder, name)) for name in names]
        gone += [
            f"line {line}: {name}: {why_unreadable(name)}" for line, name in table[column].items() if not exists(name)
        ]
    if gone:
        raise InputError(
            f"{path}: {gone[0]}" if len(gone) == 1 else summarize(gone, f"files listed in {path} are missing")
        )
    _refuse_repeats(path, table)
    if "case" not in table:
        table["case"] = [Path(os.path.abspath(x)).parent.parent.name for x in table["x"]]
    table["case"] = list(map(tables.as_file_name, table["case"]))
    return table[["x", "y", "case"]].reset_index(drop=True)


def _refuse_repeated_lines(path):
    """Raise InputError if lines are repeated, in a moment even if the list has a million of them."""
    content = read_bytes(path) if path.is_file() else b""
    if b'"' in content:  # a name with a line feed has several lines
        return
    lines = [line for line in content.splitlines() if line.strip()]
    if repeated := len(lines) - len(set(lines)):
        seen = set()
        line = next(line for line in lines if line in seen or seen.add(line))
        first, second = islice((i for i, other in enumerate(content.splitlines(), 1) if other == line), 2)
        message = f"line {second}: the same slice as line {first}; keep one"
        more = f" (and {repeated - 1:,} more repeated lines)" if repeated > 1 else ""
        raise InputError(f"{path}: {message}{more}")


def _refuse_repeats(path, table):
    """Raise InputError if a list contains a slice twice or with two masks, or a row without a case or a mask."""
    repeated = table["x"][table["x"].duplicated()]
    firsts = table["x"].drop_duplicates()
    problems = [""] * len(repeated)
    for i, (line, x) in enumerate(repeated[:10].items()):
        problems[i] = f"line {line}: the same slice as line {firsts.index[firsts == x][0]} ({x}); keep one"
    if "case" in table:
        problems += [
            f"line {line}: expected a case name without a path (found {case!r}); write the list again"
            for line, case in table["case"].drop_duplicates().items()
            if not case or case.startswith(".") or "/" in case or os.sep in case
        ]
    same = table.index[table["x"] == table["y"]]
    problems += [f"line {line}: x and y are the same file; write the list again" for line in same]
    if problems:
        message = summarize(problems, f"rows of {path} are invalid")
        raise InputError(f"{path}: {message}" if len(problems) == 1 else message)


def refuse_shared(lists, where):
    """Raise InputError if two lists share a slice, a variant of one, or a case: scores would be worthless.

    Copies of a file under other names are printed: step 2 stops at them unless the user said not to. Lists that
    contain only one case, all the same one, are runs of its slices and may share it.

    Args:
        lists: dict of list name to result of `read_list`.
        where: folder of the lists, for the message.
    """
    slices, cases, twice = {}, {}, []
    for name, table in lists.items():
        for x, case in zip(table["x"], table["case"], strict=True):
            cases.setdefault(case, {})[name] = x
            first = slices.setdefault(slice_identity(x), name)
            if first != name:
                twice.append(f"{x}: listed in both {first}.csv and {name}.csv; keep one")
    shared = [
        f"{case}: case in both {' and '.join(f'{name}.csv' for name in found)} (such as {next(iter(found.values()))}); "
        "split by case, or rename one if they are different cases"
        for case, found in cases.items()
        if len(found) > 1 and len(cases) > 1
    ]
    for problems, what in ((twice, "slices"), (shared, "cases")):
        if problems:
            raise InputError(summarize(problems, f"{what} are in two lists of {where}"))
    if copies := [f"{x}: the same image as {other}" for x, other in _same_files(lists)]:
        print(f"note: {summarize(copies, f'slices are in two lists of {where}, so scores are too good')}", flush=True)


def _same_files(lists):
    """Yield (file, file of an earlier list) with the same content, except images of one gray level."""
    sizes, digests = {}, {}
    for name, table in lists.items():
        for x in table["x"]:
            sizes.setdefault(os.path.getsize(x), []).append((name, x))
    for files in sizes.values():
        if len({name for name, _ in files}) < 2:
            continue
        for name, x in files:
            first = digests.setdefault(file_digest(x), (name, x))
            if first[0] != name and np.ptp(read_image(x)):
                yield x, first[1]


def find_same_images(divisions, action):
    """Find images that are in two lists, in different files.

    Args:
        divisions: iterable of dicts of list name to slices with `x`, a path, and `digest`, which is empty for images of
            one gray level: these do not count.
        action: "stop" or "report", the setting SAME_SLICES.

    Raises:
        InputError: if there are any, for "stop"; "report" prints them.
    """
    found = {}
    for lists in divisions:
        seen = {}
        for name, members in lists.items():
            for s in members:
                list_of_first, first = seen.setdefault(s.digest, (name, s))
                if s.digest and list_of_first != name:
                    found[s.x] = f"{s.x} ({name}): the same image as {first.x} ({list_of_first})"
    if not found:
        return
    message = summarize(list(found.values()), "slices are in two lists, so scores would be too good")
    if action == "stop":
        advice = "remove the copies, or pass --same-slices report"
        raise InputError(f"{message}; {advice}" if len(found) == 1 else f"{message}\n  {advice}")
    print(f"note: {message}")


def read_divisions(root):
    """Read the lists of a folder, or of its folders fold1, fold2 and so on.

    Returns:
        dict of subfolder ("" or "fold1" and so on) to a dict of list name to DataFrame of `read_list`.

    Raises:
        InputError: if a folder has no lists, or a list is damaged or shares slices with another.
    """
    root = require_folder(root, "LISTS")
    folds = sorted((path.name for path in root.glob("fold*") if path.is_dir()), key=natural_key)
    divisions = {}
    for folder in folds or [""]:
        lists = {name: read_list(file) for name, file in _list_files(root / folder).items()}
        if not lists:
            others = ", ".join(one_line(path.name) for path in sorted((root / folder).glob("*.csv"))[:10])
            advice = "rename them" if others else "run 2_write_lists.py"
            raise InputError(
                f"{root / folder}: contains no train.csv, validation.csv or test.csv (found {others or 'no list'}); "
                f"{advice}"
            )
        refuse_shared(lists, root / folder)
        divisions[folder] = lists
    return divisions


def _list_files(folder):
    """Lists in a folder, dict of a name in LIST_NAMES to Path; other names are taken for one of them, or printed.

    Raises:
        InputError: if two files would be the same list.
    """
    files, others = {}, []
    for path in sorted(folder.glob("*.csv"), key=natural_key):
        name = OTHER_NAMES.get(path.stem.lower(), path.stem)
        if name not in LIST_NAMES:
            others.append(path.name)
            continue
        if name in files:
            raise InputError(f"{path}: the same list as {files[name].name}, as {name}.csv; keep only one of them")
        if name != path.stem:
            print(f"using {path} as {name}.csv")
        files[name] = path
    if files and others:
        listed = ", ".join(map(one_line, others[:10])) + (", ..." if len(others) > 10 else "")
        names = ", ".join(f"{name}.csv" for name in LIST_NAMES)
        print(f"skipped {number_of(len(others), 'file')} in {folder} that are none of {names}: {listed}")
    return {name: files[name] for name in LIST_NAMES if name in files}


def write_list(path, rows, relative_to=None):
    """Write a list of slices.

    Args:
        path: CSV file; it appears complete or not at all.
        rows: DataFrame with the columns x, y and case, or a list of such rows.
        relative_to: final folder of the list; paths are relative to it. None: absolute paths.
    """
    import pandas as pd  # as in `read_list`

    from common.tables import write_table  # as in `read_list`

    def written(file):
        return Path(os.path.relpath(file, relative_to)).as_posix() if relative_to else real_path(file)

    table = pd.DataFrame(rows, columns=["x", "y", "case"])
    table = table.assign(x=table["x"].map(written), y=table["y"].map(written))
    with whole_file(path) as unfinished:
        write_table(unfinished, table)


def slice_identity(image_path):
    """Identity that all variants of a slice share: case folder and slice name.

    Args:
        image_path: path such as `case01/x_A_RTP/0001.png`.
    """
    if os.path.islink(image_path):
        image_path = os.path.realpath(image_path)
    folder, file = os.path.split(image_path)
    return os.path.join(os.path.dirname(_real_path(folder)), os.path.splitext(file)[0])


_real_path = functools.cache(os.path.realpath)  # a case has many slices


# --- splitting


def pick_named(units, names, name_of, setting):
    """Split units into those with the given names and the others.

    Args:
        units: list.
        names: names to pick.
        name_of: function of a unit to its name.
        setting: name of the setting that contains the names, for the message.

    Returns:
        the picked units and the others, two lists in the order of `units`.

    Raises:
        InputError: if a name belongs to no unit.
    """
    known = [name_of(unit) for unit in units]
    if unknown := set(names) - set(known):
        there = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
        raise InputError(f"{setting}: unknown case {', '.join(sorted(unknown))}; choose from {there}")
    return [u for u in units if name_of(u) in names], [u for u in units if name_of(u) not in names]


def count_of_share(share, total):
    """Number of units in a share, at least one."""
    return max(1, round(share * total))


def split_into_folds(units, count):
    """Split units into runs of nearly equal length, one per fold.

    Raises:
        InputError: if there are fewer units than folds.
    """
    if len(units) < count:
        raise InputError(f"FOLDS: too few cases for {count} folds (found {len(units)}); use fewer folds")
    return [[units[i] for i in run] for run in np.array_split(np.arange(len(units)), count)]


def make_divisions(units, validation_sets):
    """Split units into training and validation sets, once or per cross-validation fold.

    Args:
        units: list of hashable items that stay together, such as cases.
        validation_sets: list of lists of units, one per fold; only one for a single split.

    Returns:
        dict of subfolder ("" for a single split, otherwise "fold1" and so on) to two lists, training and validation
        units, both in the order of `units`.
    """
    divisions = {}
    for number, chosen in enumerate(validation_sets, 1):
        folder, chosen = f"fold{number}" if len(validation_sets) > 1 else "", set(chosen)
        train = [unit for unit in units if unit not in chosen]
        divisions[folder] = train, [unit for unit in units if unit in chosen]
    return divisions

"""How slices were made from their sources: what case.json files agree on, as packed sets and runs record it."""

import json
from contextlib import suppress
from pathlib import Path

import numpy as np

from common.slices.case_files import read_case_record
from common.slices.classes import IGNORED, IGNORED_SET
from common.slices.masks import class_count
from common.words import number_of

# How slices were made from their sources, with the value for "unknown".
UNKNOWN = {
    "spacing": (np.nan, np.nan),  # (row, column) distance between pixels in mm
    "window": (np.nan, np.nan),  # (low, high) values mapped to black and white
    "resampled": (np.nan, np.nan, np.nan),  # volumes: mm to the left, back and head; 0: not resampled
    "plane": "",  # volumes only
    "fit": "",
    "stretched": False,  # whether each image was stretched from its minimum to its maximum
    "channels": "",  # "rgb", or a list of file name patterns as JSON text
    "neighbors": 0,  # slices before and after a slice that are its further channels
    "class_names": "",  # a list as JSON text
    "overlap": "",  # how classes share pixels: "overlapping", "nested" or, for exclusive ones, ""
}


def common_preparation(table):
    """Preparation on which all case.json files of a list agree, except for pseudo-labeled cases.

    Args:
        table: DataFrame from `read_list`.

    Returns:
        dict with the keys of UNKNOWN; a value is the unknown one if cases differ or do not record it.
    """
    found = {name: set() for name in UNKNOWN}
    for case in {Path(x).parent.parent for x in table["x"]}:
        record = read_case_record(case)
        if record.get("pseudo_labels"):  # made for a model of the same preparation; parts may be unknown
            continue
        volume = record.get("volume") or {}
        window = None if volume.get("percentiles") else record.get("window")  # that of another volume is another one
        found["window"].add(tuple(map(float, window or UNKNOWN["window"])))
        found["resampled"].add(tuple(float(mm or 0) for mm in volume.get("resampled") or UNKNOWN["resampled"]))
        found["plane"].add(volume.get("plane", ""))
        found["fit"].add(record.get("fit") or "")
        found["stretched"].add(bool(record.get("stretched")))
        found["channels"].add(list_as_text(record.get("channels")))
        found["class_names"].add(list_as_text(record.get("class_names")))
        found["overlap"].add(record.get("overlap") or "")
        found["neighbors"].add(int(record.get("neighbors") or 0))
        for name in record.get("slices", {}) or [None]:
            found["spacing"].add(pixel_spacing(record, name) or UNKNOWN["spacing"])
    return {name: values.pop() if len(values) == 1 else UNKNOWN[name] for name, values in found.items()}


def count_classes(values, where, preparation, known=None):
    """Number of classes of masks.

    Args:
        values: set of int, the values in all masks.
        where: file or folder, for messages.
        preparation: result of `common_preparation`.
        known: number of classes of another set that belongs to it, or None.

    Returns:
        1; or K for class numbers 0..K, or for K overlapping classes; at least `known` where there are several.

    Raises:
        InputError: for values that are none of masks.
    """
    if not preparation["overlap"]:
        fits = known and 1 < known >= max(values - {IGNORED}, default=0)
        return known if fits else class_count(values, where)
    names = list_of_text(str(preparation["class_names"]))
    highest = max(values - {IGNORED_SET}, default=0).bit_length()
    return max(2, len(names) if isinstance(names, list) else 0, highest, known or 0)


def classes_in_words(values, where, overlap, names):
    """Number and kind of the classes of masks as text.

    Args:
        values, where: as for `count_classes`.
        overlap: how classes share pixels; see `common.slices.classes`.
        names: list of class names, [] if unknown.
    """
    kind = f"{overlap} class".strip()
    count = count_classes(values, where, {"overlap": overlap, "class_names": list_as_text(names)})
    return number_of(count, kind, f"{kind}es")


def holds_ignored(values, preparation):
    """Whether masks with a set of values have pixels that count in no loss and no score."""
    return (IGNORED_SET if preparation["overlap"] else IGNORED) in values


def list_as_text(value):
    """A list, text or None of case.json as text for an attribute of a packed set: a list as JSON, None as ""."""
    return json.dumps(value) if isinstance(value, list) else value or ""


def list_of_text(text):
    """The reverse of `list_as_text`, but "" stays; damaged text stays as it is."""
    with suppress(ValueError):
        return json.loads(text)
    return text


def pixel_spacing(record, name):
    """(row, column) distance in mm between the pixels of a slice; None if unknown.

    Args:
        record: content of case.json.
        name: slice name.
    """
    entry = record.get("slices", {}).get(name)
    if not entry or not record.get("spacing"):
        return None
    scale = [entry["box"][3] / record["size"], entry["box"][2] / record["size"]]
    return tuple(np.round(np.multiply(record["spacing"], scale), 6).tolist())

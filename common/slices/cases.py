"""Case folders (`<name with "case">/x`, `y`, `case.json`) and lists of slices (`x,y,case`)."""

import functools
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError, summarise
from common.files import natural_key, read_json, require_folder, whole_folder, write_json
from common.slices.images import PICTURES, pictures_in

FORMAT = 1  # version of case.json

# How slices were made from their sources, with the value that stands for not known.
UNKNOWN = {
    "spacing": (np.nan, np.nan),  # (row, column) in mm of a pixel of the slices
    "window": (np.nan, np.nan),  # (low, high) that became black and white
    "resampled": (np.nan, np.nan, np.nan),  # mm to the left, the back, the head of volumes; 0: as it was
    "plane": "",  # of volumes
    "fit": "",
    "stretched": False,  # whether each was stretched from its least value to its greatest
}


class Slice(NamedTuple):
    """A picture of a set: its case ("" for loose pictures), its name without ending, its file."""

    case: str
    name: str
    path: Path


def case_record(
    source, size, slices, fit=None, stretched=False, mask_values=None, spacing=None, window=None, volume=None
):
    """Content of `case.json`: where the slices of a case came from.

    Args:
        source: str, what they were made from; never anything that identifies a patient.
        size: side of the slices in pixels.
        slices: dict of slice name to {"image", "mask": file names; "image_size": [height, width] of the source;
            "box": [left, top, width, height] that was cut from it and scaled to `size`}.
        fit: how the slices were fitted to their size ("resize", "crop", "pad", "tile"), or None.
        stretched: whether each source was stretched from its least value to its greatest.
        mask_values: how the values of the source's masks were mapped, or None.
        spacing: [row, column] distance of the source's pixels in mm, or None.
        window: [low, high], values of the source that became black and white, or None.
        volume: entry that `common.volumes.reading.open_slices` gives for slices of a volume, or None.
    """
    return {
        "format": FORMAT,
        "source": source,
        "size": size,
        "fit": fit,
        "stretched": stretched,
        "spacing": spacing,
        "origin": volume and volume["geometry"]["origin"],
        "orientation": volume and volume["geometry"]["direction"],
        "window": window,
        "mask_values": mask_values and repr(mask_values),
        **({"volume": volume} if volume else {}),
        "slices": slices,
    }


def write_case(case, replace, record, files):
    """Write a case folder, whole or not at all.

    Args:
        case: Path of the folder.
        replace: whether one that stands there is replaced.
        record: content of its case.json.
        files: the slice and its mask, encoded as PNG, of each of the record's slices in their order.
    """
    with whole_folder(case, replace, "case.json") as part:
        for side in ("x", "y"):
            (part / side).mkdir()
        for name, (image, mask) in zip(record["slices"], files, strict=True):
            (part / "x" / f"{name}.png").write_bytes(image)
            (part / "y" / f"{name}.png").write_bytes(mask)
        write_json(part / "case.json", record)


def common_preparation(table):
    """What the case.json files of a list agree on.

    Args:
        table: DataFrame of `read_list`.

    Returns:
        dict with the names of UNKNOWN, whose values stand where cases differ or say nothing.
    """
    found = {name: set() for name in UNKNOWN}
    for case in {Path(x).parent.parent for x in table["x"]}:
        record = read_case_record(case)
        volume = record.get("volume") or {}
        found["window"].add(tuple(map(float, record.get("window") or UNKNOWN["window"])))
        found["resampled"].add(tuple(float(mm or 0) for mm in volume.get("resampled") or UNKNOWN["resampled"]))
        found["plane"].add(volume.get("plane", ""))
        found["fit"].add(record.get("fit") or "")
        found["stretched"].add(bool(record.get("stretched")))
        for name in record.get("slices", {}) or [None]:
            found["spacing"].add(pixel_spacing(record, name) or UNKNOWN["spacing"])
    return {name: values.pop() if len(values) == 1 else UNKNOWN[name] for name, values in found.items()}


def pixel_spacing(record, name):
    """(row, column) distance in mm of the pixels of a slice of a case; None where it is not known.

    Args:
        record: content of its case.json.
        name: of the slice.
    """
    entry = record.get("slices", {}).get(name)
    if not entry or not record.get("spacing"):
        return None
    scale = [entry["box"][3] / record["size"], entry["box"][2] / record["size"]]
    return tuple(np.round(np.multiply(record["spacing"], scale), 6).tolist())


def read_case_record(case):
    """`case.json` of a case folder; an empty dict where there is none.

    Raises:
        InputError: if it is damaged.
    """
    path = Path(case) / "case.json"
    return read_json(path) if path.exists() else {}


def is_case(folder):
    """Whether a folder holds slices and masks."""
    return (folder / "x").is_dir() and (folder / "y").is_dir()


def find_cases(root):
    """Case folders of a data set, in natural order; `root` may be one itself.

    Args:
        root: value of the setting CASES.

    Raises:
        InputError: if there is none, or one lacks `x` or `y`.
    """
    root = require_folder(root, "CASES")
    if is_case(root):
        return [root]
    cases = [path for path in root.iterdir() if path.is_dir() and is_case_name(path.name)]
    if not cases:
        raise InputError(
            f'{root} holds no case folder (a name with "case", with x and y inside); '
            "make them with 0_import_images.py, or give --cases the folder above them"
        )
    incomplete = [f"{case} lacks x or y" for case in cases if not is_case(case)]
    if incomplete:
        raise InputError(summarise(incomplete, "case folders are incomplete"))
    return sorted(cases, key=lambda case: natural_key(case.name))


def is_case_name(name):
    """Whether a folder of this name counts as a case folder."""
    return "case" in name.lower() and not name.startswith(".")


def as_case_name(text):
    """Name of the case folder for something of that name."""
    return text if is_case_name(text) else f"case_{text}"


def pair_up(images, masks, case):
    """Pairs of two folders of a case by name.

    Args:
        images, masks: folders.
        case: text for messages.

    Returns:
        list of (name, image path, mask path).

    Raises:
        InputError: if an image has no mask or a mask no image.
    """
    x, y = pictures_in(images), pictures_in(masks)
    alone = [f"{x[name]} has no mask in {masks}" for name in x.keys() - y.keys()]
    alone += [f"{y[name]} has no image in {images}" for name in y.keys() - x.keys()]
    if alone:
        raise InputError(summarise(sorted(alone), f"files of {case} have no partner"))
    return [(name, x[name], y[name]) for name in x]


def find_slices(source, side, setting):
    """Slices or masks of whatever holds them.

    Args:
        source: a folder of pictures, a case folder, a folder of cases, a folder of folders of pictures, or a
            list of step 2.
        side: "x" for images, "y" for masks.
        setting: name of the setting, for messages.

    Returns:
        list of Slice, in natural order within a folder; `case` is empty for loose pictures and for one case folder.

    Raises:
        InputError: if there is none.
    """
    path = Path(source)
    if path.suffix.lower() == ".csv":
        return [Slice(row.case, Path(row.x).stem, Path(getattr(row, side))) for row in read_list(path).itertuples()]
    root = require_folder(source, setting)
    if is_case(root):
        folders = {"": root / side}
    else:
        inner = sorted((f for f in root.iterdir() if f.is_dir()), key=lambda f: natural_key(f.name))
        folders = {f.name: f / side for f in inner if is_case(f)} or {"": root}
        if folders == {"": root} and not pictures_in(root):
            folders = {f.name: f for f in inner if not f.name.startswith(".")}
    slices = [
        Slice(case, name, file)
        for case, folder in folders.items()
        for name, file in sorted(pictures_in(folder).items(), key=lambda item: natural_key(item[0]))
    ]
    if not slices:
        raise InputError(f"{setting}: {root} holds no picture ({', '.join(PICTURES)}) and no case folder")
    return slices


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
    import pandas as pd  # takes half a second to load, which the scripts without lists save

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


def slice_identity(image_path):
    """What all variants of one slice share: its case folder and its name.

    Args:
        image_path: path such as `case01/x_A_RTP/0001.png`.
    """
    if os.path.islink(image_path):
        image_path = os.path.realpath(image_path)
    folder, file = os.path.split(image_path)
    return os.path.join(os.path.dirname(_real_path(folder)), os.path.splitext(file)[0])


_real_path = functools.cache(os.path.realpath)  # a case has many slices

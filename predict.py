"""Predict masks for pictures of any size.

Reads   RUN: run folder of train.py, several to average, or .keras files; INPUT: pictures, case folders or a list
Writes  OUTPUT/<name>.png, masks of the size of the pictures, and OUTPUT/overlays/<name>.png;
        of several cases OUTPUT/<case>/<name>.png and OUTPUT/overlays/<case>/<name>.png; of a case that came from a
        volume OUTPUT/<case>.nii.gz, labels on the volume's own grid, and OUTPUT/volumes.csv, what they measure
Takes   20 seconds for 10 pictures of 512x512 in tiles with a U-net of 16 features on two cores
"""

from common.settings import apply_command_line

# --- where from, where to
RUN: str | list = ""  # run folder or .keras file; a list of them is averaged
WEIGHTS_FILE = "best_dice"  # which model of a run: "best_dice", "best_iou" or "last"
INPUT = ""  # folder of pictures, case folder, folder of cases, list (.csv), or a volume (DICOM folder, NIfTI, NRRD,
# MetaImage)
OUTPUT = "predictions"  # folder for the masks
REPLACE = False  # True to write over an OUTPUT that exists

# --- how
FIT: str | None = None  # "resize" to the size of the network and back; "tile" by overlapping tiles of that size;
# None: "tile" if the network was trained on tiles, else "resize"
OVERLAP = 0.5  # share by which neighbouring tiles overlap at least
THRESHOLD = 0.5  # probability above which a pixel is foreground, with one class
BATCH_SIZE = 8  # slices or tiles a step

# --- volumes
PLANE = "axial"  # slices of a volume as in training: "axial", "coronal" or "sagittal"
WINDOW: list | None = None  # black and white of a volume, [low, high]; None: as in training, or else by percentiles

# --- what is done to the masks
CLEAN = {}  # for instance {"median": 3, "share": 0.1, "near": 10, "smallest": 50, "fill": True}: smooth; drop parts of
# less than a tenth of the largest (1: all but the largest) unless within 10 pixels of one that stays; drop parts of
# fewer than 50 pixels; fill holes
CLEAN_IN = "2d"  # "2d": each mask by itself; "3d": label volumes as a whole, and the masks stay as they are

# --- what is written
OVERLAYS = True  # False to leave the overlays out
PASTE = ""  # folder of the pictures that case folders were cut from: full/ gets masks of their size, overlays and areas
LABEL_VOLUMES = ".nii.gz"  # kind of label volumes, ".nii.gz", ".nii", ".nrrd", ".mha" or ".mhd"; "": none

apply_command_line(globals())

import functools
from pathlib import Path

import numpy as np

from common.cases import Slice, find_slices, read_case_record
from common.devices import import_keras
from common.errors import InputError, as_input_error
from common.files import read_json, refuse_existing, require_choice, require_folder, whole_folder, write_json
from common.fullscale import FullPictures
from common.images import (
    class_numbers,
    draw_outlines,
    encode_png,
    from_classes,
    paint,
    read_picture,
    stretch,
    to_gray,
    to_grey,
)
from common.label_volumes import WRITTEN, CaseVolumes
from common.parallel import ordered_map, progress
from common.postprocess import STEPS, clean
from common.runs import MODELS, load_network, model_file
from common.settings import recorded_settings
from common.tiling import predict_pictures
from common.volumes import PLANES, ending_of, is_volume, open_slices

RECORD = "prediction.json"


def main():
    check_settings()
    runs = RUN if isinstance(RUN, list) else [RUN]
    files = [model_file(run, WEIGHTS_FILE) for run in runs]
    refuse_existing(OUTPUT, REPLACE, RECORD)
    fit, stretched, window = preparation(files)
    slices, read, record_of = open_input(stretched, window)

    import_keras()
    networks = [load_network(file) for file in files]
    size, channels = ends(networks, files)
    print(
        f"predicting {len(slices)} pictures of {INPUT} with {', '.join(map(str, files))}, {fit} at {size}", flush=True
    )
    pictures = ordered_map(read, slices)
    predicted = predict_pictures(pictures, networks, size, fit, OVERLAP, BATCH_SIZE)
    with whole_folder(OUTPUT, REPLACE, RECORD) as part:
        pictures_at_full_scale = FullPictures(part, PASTE, max(channels - 1, 1))
        volumes = CaseVolumes(part, LABEL_VOLUMES, CLEAN if CLEAN_IN == "3d" else {})
        for s, (image, probabilities) in zip(slices, progress(predicted, len(slices), "predicting"), strict=True):
            numbers = choose_classes(probabilities)
            numbers = clean(numbers, **CLEAN) if CLEAN_IN == "2d" else numbers
            write(part / s.case / f"{s.name}.png", from_classes(numbers, max(channels - 1, 1)))
            if OVERLAYS:
                write(part / "overlays" / s.case / f"{s.name}.png", draw_outlines(paint(image, numbers), numbers))
            name, record = record_of(s)
            volumes.add(name, s.name, record, numbers)
            pictures_at_full_scale.add(name, s.name, record, numbers)
        written = [(volumes.close(), "label volumes"), (pictures_at_full_scale.close(), "pictures at full scale")]
        write_json(part / RECORD, recorded_settings(globals()))
    also = (" and overlays" if OVERLAYS else "") + "".join(f", {count} {what}" for count, what in written if count)
    print(f"wrote {len(slices)} masks{also} to {OUTPUT}")


def check_settings():
    require_choice(WEIGHTS_FILE, MODELS, "WEIGHTS_FILE")
    require_choice(PLANE, PLANES, "PLANE")
    if WINDOW is not None and not (len(WINDOW) == 2 and WINDOW[0] < WINDOW[1]):
        raise InputError(f"WINDOW is {WINDOW}; expected [low, high]")
    if PASTE:
        require_folder(PASTE, "PASTE")
    require_choice(CLEAN_IN, ("2d", "3d"), "CLEAN_IN")
    with as_input_error("CLEAN"):
        if unknown := CLEAN.keys() - set(STEPS):
            raise ValueError(f"no step is called {min(unknown)!r}; there are {', '.join(STEPS)}")
        clean(np.zeros((1, 1), np.uint8), **CLEAN)
    require_choice(LABEL_VOLUMES, ("", *WRITTEN), "LABEL_VOLUMES")
    require_choice(FIT, (None, "resize", "tile", "pad"), "FIT")
    for name, value, low, high in (("OVERLAP", OVERLAP, 0, 0.9), ("THRESHOLD", THRESHOLD, 0, 1)):
        if not low <= value <= high:
            raise InputError(f"{name} is {value}; expected {low} to {high}")
    if BATCH_SIZE < 1:
        raise InputError(f"BATCH_SIZE is {BATCH_SIZE}; expected at least 1")
    if RUN == []:
        raise InputError("RUN is an empty list; give --run a run folder or several")


# --- what the runs say


def preparation(files):
    """How pictures are brought to the network: the fit, whether they are stretched, and the window, as in training."""
    found = []
    for file in files:
        state = file.with_name("state.json")
        found.append(read_json(state).get("data", {}) if state.exists() else {})
    if len({data.get("stretched", False) for data in found}) > 1:
        raise InputError("some of the runs were trained on stretched pictures and some were not; predict one by one")
    trained = {data.get("fit") for data in found}
    if FIT:
        fit = FIT
    elif trained <= {"tile", "crop"}:
        fit = "tile"
    else:
        fit = "pad" if trained == {"pad"} else "resize"
    return fit, found[0].get("stretched", False), found[0].get("window")


def ends(networks, files):
    """Input size and output channels that the networks share.

    Raises:
        InputError: if they differ, or one takes other than square gray slices.
    """
    shapes = [(network.input_shape[1:], network.output_shape[-1]) for network in networks]
    for shape, file in zip(shapes, files, strict=True):
        if shape != shapes[0]:
            raise InputError(
                f"{file} takes {shape[0]} and gives {shape[1]} channels, unlike {files[0]}; they must agree"
            )
    (height, width, gray), channels = shapes[0]
    if height != width or height is None or gray != 1:
        raise InputError(f"{files[0]} takes {shapes[0][0]}; expected square slices of one channel")
    return height, channels


# --- pictures in, probabilities out


def open_input(stretched, window):
    """What is to be predicted.

    Returns:
        list of `common.cases.Slice`; function of one of them that reads its picture; and function that gives the name
        of its case and the content of its case.json.
    """
    if INPUT and is_volume(INPUT):
        values, levels, record = open_slices(INPUT, PLANE, WINDOW or window)
        slices = [Slice("", name, Path(INPUT)) for name in record["slices"]]
        path = Path(INPUT).resolve()
        name = path.name[: -len(ending_of(path)) or None]
        return (
            slices,
            lambda s: to_grey(values[record["slices"][s.name]["index"]], *levels, 8),
            lambda s: (name, record),
        )

    record_in = functools.cache(read_case_record)

    def record_of(s):
        folder = s.path.parent.parent
        return s.case or folder.name, record_in(folder)

    return find_slices(INPUT, "x", "INPUT"), lambda s: read_input(s.path, stretched), record_of


def read_input(path, stretched):
    """A picture, gray; stretched as in training unless it is a slice of a case folder, where it has been."""
    image = to_gray(read_picture(path))
    return stretch(image) if stretched and not (path.parent.parent / "case.json").exists() else image


def choose_classes(probabilities):
    """Class numbers (H, W) of probabilities (H, W, C): by THRESHOLD with one channel, else the greatest."""
    if probabilities.shape[-1] == 1:
        return (probabilities[..., 0] > THRESHOLD).astype(np.uint8)
    return class_numbers(probabilities)


def write(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(picture))


if __name__ == "__main__":
    main()

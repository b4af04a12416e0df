"""Predict masks for pictures of any size.

Reads   RUN: run folder of train.py, several to average, a cross-validation, or .keras files; INPUT: pictures, case
        folders, a list or a volume; with 3-D networks ["first", "second"], of the steps whole and patch, and volumes
Writes  OUTPUT/<name>.png, masks of the size of the pictures, and OUTPUT/overlays/<name>.png;
        of several cases OUTPUT/<case>/<name>.png and OUTPUT/overlays/<case>/<name>.png; of a case that came from a
        volume OUTPUT/<case>.nii.gz, labels on the volume's own grid, and OUTPUT/volumes.csv, what they measure
Takes   20 seconds for 10 pictures of 512x512 in tiles with a U-net of 16 features on two cores
"""

from typing import Annotated, Literal

from annotated_types import Ge, Le, Len

from common.setting_types import (
    Cleaning,
    Crop,
    PartOfWork,
    PathName,
    Plane,
    PositiveInt,
    Share,
    Spacing,
    VolumeEnding,
    WeightsFile,
    Window,
)
from common.settings import apply_command_line, require_folder

# --- where from, where to
RUN: str | Annotated[list[PathName], Len(1)] = ""
# run folder, folder of runs (the newest), or .keras file; a list of them is averaged; or the folder of a
# cross-validation, whose folds are averaged as choose.py has chosen
WEIGHTS_FILE: WeightsFile = "best_dice"  # which model of a run: "best_dice", "best_iou" or "last"
INPUT: str = ""
# folder of pictures, case folder, folder of cases, list (.csv), or a volume (DICOM folder, NIfTI, NRRD, MetaImage)
OUTPUT: PathName = "predictions"  # folder for the masks
REPLACE: bool = False  # True to write over an OUTPUT that exists
PART: PartOfWork = ""
# "2/8": the second of eight parts of the cases or pictures; the part that ends last joins them; "": all

# --- how
FIT: Literal["resize", "tile", "pad"] | None = None
# "resize" to the size of the network and back; "tile" by overlapping tiles of that size; None: "tile" if the network
# was trained on tiles, else "resize"
OVERLAP: Annotated[float, Ge(0), Le(0.9)] = 0.5  # share by which neighbouring tiles overlap at least
FLIPS: Literal["flips", "turns", "none"] | None = None
# average over "flips" of each picture (4 times as long) or "turns", quarter turns and flips (8 times); "none"; None: as
# chosen for a cross-validation, else none
THRESHOLD: Share = 0.5  # probability above which a pixel is foreground, with one class
BATCH_SIZE: PositiveInt = 8  # slices or tiles a step
TILE: Crop | None = None  # of 3-D networks: voxels (up, back, left) of the tiles; None: the crops of training, or whole

# --- volumes
PLANE: Plane | None = None  # "axial", "coronal" or "sagittal"; None: as in training, or else axial
WINDOW: Window | None = None  # black and white of a volume, [low, high]; None: as in training, or else by percentiles
SPACING: Spacing | None = None  # mm to resample to, one number or three (left, back, head); None: as in training
SERIES: PositiveInt | None = None
# which series of a folder that holds several, by its number in the message that lists them

# --- what is done to the masks
CLEAN: Cleaning | None = None
# for instance {"median": 3, "share": 0.1, "near": 10, "smallest": 50, "fill": True}: smooth; drop parts of less than a
# tenth of the largest (1: all but the largest) unless within 10 pixels of one that stays; drop parts of fewer than 50
# pixels; fill holes; None: as chosen for a cross-validation, else nothing
CLEAN_IN: Literal["2d", "3d"] = "2d"
# "2d": each mask by itself; "3d": label volumes as a whole, and the masks stay as they are

# --- what is written
OVERLAYS: bool = True  # False to leave the overlays out
PASTE: str = ""
# folder of the pictures that cases or crops were cut from: full/ gets masks of their size, overlays, areas
LABEL_VOLUMES: VolumeEnding = ".nii.gz"  # kind of label volumes, ".nii.gz", ".nii", ".nrrd", ".mha" or ".mhd"; "": none

settings = apply_command_line(globals())

import functools
from pathlib import Path

import numpy as np

from common.devices import import_keras
from common.errors import InputError, summarise
from common.files import read_json, refuse_existing, write_json
from common.jobs import Part, do_part
from common.parallel import ordered_map, progress
from common.prediction.ensemble import Ensemble
from common.prediction.outputs import FullPictures
from common.prediction.volume_networks import Options, find_volume_networks, predict_volumes
from common.slices.cases import Slice, find_slices, read_case_record
from common.slices.drawing import draw_outlines, paint
from common.slices.images import encode_png, read_picture, stretch, to_gray, window_to_gray
from common.slices.masks import class_numbers, clean, from_classes
from common.training.cross_validation import is_cross_validation, read_choice
from common.training.trained_models import model_file
from common.volumes.finding import ending_of, find_volumes, is_volume
from common.volumes.labels import CaseVolumes
from common.volumes.slicing import open_slices, slice_entry

RECORD = "prediction.json"
LIKE_TRAINING = {"tile": "tile", "crop": "tile", "pad": "pad"}  # FIT by that of the importer, which else is "resize"


def main():
    check_settings()
    if networks := find_volume_networks(
        settings.RUN if isinstance(settings.RUN, list) else [settings.RUN], settings.WEIGHTS_FILE
    ):
        predict_in_3d(networks)
        return
    files, flips, cleaning = find_networks()
    refuse_existing(settings.OUTPUT, settings.REPLACE, RECORD)
    prepared = preparation(files)
    slices, read, record_of = open_input(prepared)
    part = Part.read(settings.PART)
    mine = part.share(slices, functools.partial(what_stays_together, record_of=record_of))
    recorded = settings.as_json() | {"PART": ""}
    written = [f"{len(slices)} masks, in {part.count} parts,"]

    def fill(folder):
        if mine:
            written.append(predict(folder, mine, read, record_of, files, prepared["fit"], flips, cleaning))
        write_json(folder / RECORD, recorded)

    same = recorded | {"networks": list(map(str, files)), "pictures": len(slices)}  # in all parts
    if do_part(settings.OUTPUT, part, same, fill, replace=settings.REPLACE, marker=RECORD):
        print(f"wrote {written[-1] if part.is_whole else written[0]} to {settings.OUTPUT}")


def what_stays_together(s, record_of):
    """What slice `s` must not be parted from: its case, or the picture or volume that it was cut from."""
    name, record = record_of(s)
    return name if s.case or "volume" in record or (settings.PASTE and record) else s.path


def predict(folder, slices, read, record_of, files, fit, flips, cleaning):
    """Write the masks of slices, and what is made of them, into a folder.

    Args:
        folder: Path.
        slices, read, record_of: of `open_input`.
        files, flips, cleaning: of `find_networks`.
        fit: of the training sets, where FIT does not say another.

    Returns:
        what was written, as text.
    """
    import_keras()
    ensemble = Ensemble(files)
    size, classes = ensemble.size, max(ensemble.channels - 1, 1)
    fit = settings.FIT or fit or "resize"
    averaged = {"none": "", "flips": ", averaged over flips", "turns": ", averaged over flips and quarter turns"}[flips]
    print(
        f"predicting {len(slices)} pictures of {settings.INPUT} with {', '.join(map(str, files))}, {fit} at "
        f"{size}{averaged}",
        flush=True,
    )
    recorded = {"fit": fit, "overlap": settings.OVERLAP, "batch_size": settings.BATCH_SIZE, "flips": flips}
    steps = ensemble.predict(lambda: ordered_map(read, slices), **recorded)
    steps = progress(steps, len(slices) * len(files), "predicting")
    predicted = ((image, probabilities) for image, probabilities in steps if image is not None)
    pictures_at_full_scale = FullPictures(folder, settings.PASTE, classes)
    volumes = CaseVolumes(folder, settings.LABEL_VOLUMES, cleaning if settings.CLEAN_IN == "3d" else {})
    for s, (image, probabilities) in zip(slices, predicted, strict=True):
        numbers = choose_classes(probabilities)
        numbers = clean(numbers, **cleaning) if settings.CLEAN_IN == "2d" else numbers
        write(folder / s.case / f"{s.name}.png", from_classes(numbers, classes))
        if settings.OVERLAYS:
            write(folder / "overlays" / s.case / f"{s.name}.png", draw_outlines(paint(image, numbers), numbers))
        name, record = record_of(s)
        volumes.add(name, s.name, record, numbers)
        pictures_at_full_scale.add(name if record else s.case, s.name, record, numbers, s.path)
    others = [(volumes.close(), "label volumes"), (pictures_at_full_scale.close(), "pictures at full scale")]
    also = (" and overlays" if settings.OVERLAYS else "") + "".join(
        f", {count} {what}" for count, what in others if count
    )
    return f"{len(slices)} masks{also}"


def check_settings():
    if settings.PASTE:
        require_folder(settings.PASTE, "PASTE")


def predict_in_3d(networks):
    """Predict volumes by 3-D networks; what cannot be predicted is named once the others are written."""
    if settings.FLIPS not in (None, "none") or settings.FIT or settings.PASTE:
        raise InputError("FLIPS, FIT and PASTE are for networks of slices; these were trained on volumes")
    if not settings.INPUT or not Path(settings.INPUT).exists():
        raise InputError(f"INPUT: {settings.INPUT or 'not set'} does not exist; give a volume, or a folder of volumes")
    refuse_existing(settings.OUTPUT, settings.REPLACE, RECORD)
    volumes, part, problems = find_volumes(settings.INPUT), Part.read(settings.PART), []
    mine = {name: volumes[name] for name in part.share(list(volumes))}
    recorded = settings.as_json() | {"PART": ""}
    options = Options(
        settings.THRESHOLD,
        settings.OVERLAP,
        settings.TILE,
        settings.LABEL_VOLUMES or ".nii.gz",
        settings.CLEAN or {},
        settings.OVERLAYS,
        settings.SERIES,
    )

    def fill(folder):
        import_keras()
        steps = ", then ".join(f"{name} with {len(files)}" for name, (files, _) in sorted(networks.items())[::-1])
        print(f"predicting {len(mine)} volumes of {settings.INPUT}, networks: {steps}", flush=True)
        if mine:
            problems.extend(predict_volumes(networks, mine, folder, options))
        write_json(folder / RECORD, recorded)

    same = recorded | {"networks": [str(file) for files, _ in networks.values() for file in files]}  # in all parts
    if do_part(settings.OUTPUT, part, same | {"volumes": len(volumes)}, fill, replace=settings.REPLACE, marker=RECORD):
        print(f"wrote {len(volumes) - len(problems)} label volumes to {settings.OUTPUT}")
    if problems:
        raise InputError(summarise(problems, "volumes cannot be predicted") + "\nThe others were.")


# --- what the runs say


def find_networks():
    """Files of the networks to average, a name of TRANSFORMS, and how masks are cleaned."""
    runs = settings.RUN if isinstance(settings.RUN, list) else [settings.RUN]
    choices = [read_choice(run) for run in runs if run and is_cross_validation(run)]
    if choices and len(runs) > 1:
        raise InputError("RUN: a cross-validation stands alone; choose.py averages several")
    chosen = choices[0] if choices else {"files": [model_file(run, settings.WEIGHTS_FILE) for run in runs]}
    flips = chosen.get("flips", "none") if settings.FLIPS is None else settings.FLIPS
    return chosen["files"], flips, chosen.get("clean", {}) if settings.CLEAN is None else settings.CLEAN


def preparation(files):
    """How the slices of the training sets were made.

    Returns:
        dict of fit, the value of FIT that does the same; window, plane, resampled and stretched, as
        `SliceSet.about` has them; None for what no run knows.

    Raises:
        InputError: if the runs differ, and no setting says what is meant.
    """
    states = [file.with_name("state.json") for file in files]
    found = [read_json(state).get("data", {}) for state in states if state.exists()]
    found = [data | {"fit": data.get("fit") and LIKE_TRAINING.get(data["fit"], "resize")} for data in found]
    prepared = {}
    recorded = {
        "fit": settings.FIT,
        "window": settings.WINDOW,
        "plane": settings.PLANE,
        "resampled": settings.SPACING,
        "stretched": None,
    }
    for name, setting in recorded.items():
        known = [data[name] for data in found if data.get(name) not in (None, "")]
        prepared[name] = known[0] if known else None
        if setting is None and any(value != known[0] for value in known):
            kinds = " and ".join(dict.fromkeys(map(str, known)))
            raise InputError(
                f"the runs were trained on slices of different kinds: {name} is {kinds}; predict one by one"
            )
    return prepared


# --- pictures in, probabilities out


def open_input(prepared):
    """What is to be predicted.

    Args:
        prepared: dict of `preparation`.

    Returns:
        list of `common.slices.cases.Slice`; function of one of them that reads its picture; and function that gives the
        name of its case and the content of its case.json.
    """
    if settings.INPUT and is_volume(settings.INPUT):
        plane, window = settings.PLANE or prepared["plane"] or "axial", settings.WINDOW or prepared["window"]
        spacing = prepared["resampled"] if settings.SPACING is None else settings.SPACING
        values, levels, volume = open_slices(settings.INPUT, plane, window, spacing=spacing, series=settings.SERIES)
        entries = {f"{i + 1:04d}": slice_entry(values.shape[1:], i) for i in range(len(values))}
        record = {"slices": entries, "volume": volume}
        slices = [Slice("", name, Path(settings.INPUT)) for name in entries]
        path = Path(settings.INPUT).resolve()
        name = path.name[: -len(ending_of(path)) or None]
        return (
            slices,
            lambda s: window_to_gray(values[entries[s.name]["index"]], *levels, 8),
            lambda s: (name, record),
        )

    record_in = functools.cache(read_case_record)

    def record_of(s):
        folder = s.path.parent.parent
        return s.case or folder.name, record_in(folder)

    return find_slices(settings.INPUT, "x", "INPUT"), lambda s: read_input(s.path, prepared["stretched"]), record_of


def read_input(path, stretched):
    """A picture, gray; stretched as in training unless it is a slice of a case folder, where it has been."""
    image = to_gray(read_picture(path))
    return stretch(image) if stretched and not (path.parent.parent / "case.json").exists() else image


def choose_classes(probabilities):
    """Class numbers (H, W) of probabilities (H, W, C): by THRESHOLD with one channel, else the greatest."""
    if probabilities.shape[-1] == 1:
        return (probabilities[..., 0] > settings.THRESHOLD).astype(np.uint8)
    return class_numbers(probabilities)


def write(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(picture))


if __name__ == "__main__":
    main()

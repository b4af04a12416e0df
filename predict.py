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

from common import setting_types as types
from common.settings import apply_command_line, require_folder

# --- where from, where to
RUN: str | Annotated[list[types.PathName], Len(1)] = ""
# run folder, folder of runs (the newest), or .keras file; a list of them is averaged; or the folder of a
# cross-validation, whose folds are averaged as choose.py has chosen
WEIGHTS_FILE: types.WeightsFile = "best_dice"  # which model of a run: "best_dice", "best_iou" or "last"
INPUT: str = ""
# folder of pictures, case folder, folder of cases, list (.csv), or a volume (DICOM folder, NIfTI, NRRD, MetaImage)
OUTPUT: types.PathName = "predictions"  # folder for the masks
REPLACE: bool = False  # True to write over an OUTPUT that exists
PART: types.PartOfWork = ""
# "2/8": the second of eight parts of the cases or pictures; the part that ends last joins them; "": all

# --- how
FIT: Literal["resize", "tile", "pad"] | None = None
# "resize" to the size of the network and back; "tile" by overlapping tiles of that size; None: "tile" if the network
# was trained on tiles, else "resize"
OVERLAP: Annotated[float, Ge(0), Le(0.9)] = 0.5  # share by which neighbouring tiles overlap at least
FLIPS: Literal["flips", "turns", "none"] | None = None
# average over "flips" of each picture (4 times as long) or "turns", quarter turns and flips (8 times); "none"; None: as
# chosen for a cross-validation, else none
THRESHOLD: types.Share = 0.5  # probability above which a pixel is foreground, with one class
BATCH_SIZE: types.PositiveInt = 8  # slices or tiles a step
TILE: types.Crop | None = None
# of 3-D networks: voxels (up, back, left) of the tiles; None: the crops of training, or whole

# --- volumes
PLANE: types.Plane | None = None  # "axial", "coronal" or "sagittal"; None: as in training, or else axial
WINDOW: types.Window | None = None
# black and white of a volume, [low, high]; None: as in training, or else by percentiles
SPACING: types.Spacing | None = None  # mm to resample to, one number or three (left, back, head); None: as in training
SERIES: types.PositiveInt | None = None
# which series of a folder that holds several, by its number in the message that lists them

# --- what is done to the masks
CLEAN: types.Cleaning | None = None
# for instance {"median": 3, "share": 0.1, "near": 10, "smallest": 50, "fill": True}: smooth; drop parts of less than a
# tenth of the largest (1: all but the largest) unless within 10 pixels of one that stays; drop parts of fewer than 50
# pixels; fill holes; None: as chosen for a cross-validation, else nothing
CLEAN_IN: Literal["2d", "3d"] = "2d"
# "2d": each mask by itself; "3d": label volumes as a whole, and the masks stay as they are

# --- what is written
OVERLAYS: bool = True  # False to leave the overlays out
PASTE: str = ""
# folder of the pictures that cases or crops were cut from: full/ gets masks of their size, overlays, areas
LABEL_VOLUMES: types.VolumeEnding = ".nii.gz"
# kind of label volumes, ".nii.gz", ".nii", ".nrrd", ".mha" or ".mhd"; "": none

settings = apply_command_line(globals())

import functools

from common.devices import import_keras
from common.files import refuse_existing
from common.jobs import Part
from common.parallel import ordered_map
from common.prediction.ensemble import Ensemble
from common.prediction.inputs import ImageInput, VolumeInput
from common.prediction.outputs import RECORD, Outputs, write_output
from common.slices.masks import class_numbers
from common.training.trained_models import find_models, find_volume_models, slice_preparation
from common.volumes.finding import is_volume


def main():
    if settings.PASTE:
        require_folder(settings.PASTE, "PASTE")
    runs = settings.RUN if isinstance(settings.RUN, list) else [settings.RUN]
    if models := find_volume_models(runs, settings.WEIGHTS_FILE):
        from common.prediction.volume_networks import predict_with_settings  # SimpleITK, which images do not need

        predict_with_settings(models, settings)
    else:
        predict_slices(find_models(runs, settings.WEIGHTS_FILE))


def predict_slices(models):
    """Predict the slices of INPUT, or those of this part, and write OUTPUT.

    Args:
        models: `common.training.trained_models.Choice`.
    """
    refuse_existing(settings.OUTPUT, settings.REPLACE, RECORD)
    names = {"fit": "FIT", "window": "WINDOW", "plane": "PLANE", "resampled": "SPACING"}
    decided = [name for name, setting in names.items() if getattr(settings, setting) is not None]
    prepared = slice_preparation(models.files, decided)
    source = open_input(prepared)
    part = Part.read(settings.PART)
    own = part.share(source.slices, functools.partial(unit_of, source=source))
    written = [f"{len(source.slices)} masks, in {part.count} parts,"]

    def fill(folder):
        if own:
            written.append(write_slices(folder, own, source, models, settings.FIT or prepared.fit or "resize"))

    inputs = {"networks": list(map(str, models.files)), "pictures": len(source.slices)}
    if write_output(settings, part, inputs, fill):
        print(f"wrote {written[-1] if part.is_whole else written[0]} to {settings.OUTPUT}")


def open_input(prepared):
    """ImageInput or VolumeInput of the setting INPUT, prepared as for training unless a setting says otherwise."""
    if not settings.INPUT or not is_volume(settings.INPUT):
        return ImageInput(settings.INPUT, prepared.stretched)
    plane, window = settings.PLANE or prepared.plane or "axial", settings.WINDOW or prepared.window
    return VolumeInput(settings.INPUT, plane, window, settings.SPACING or prepared.resampled, settings.SERIES)


def unit_of(s, source):
    """What slice `s` must stay in one part with: its case, or the image or volume that it was cut from."""
    case, record = source.case_of(s)
    return case if s.case or "volume" in record or (settings.PASTE and record) else s.path


def write_slices(folder, slices, source, models, fit):
    """Predict slices and write their masks, and what is made of them, into a folder.

    Args:
        folder: Path.
        slices: list of `common.slices.cases.Slice`.
        source: ImageInput or VolumeInput that they are from.
        models: `common.training.trained_models.Choice`.
        fit: "resize", "tile" or "pad".

    Returns:
        What was written, as text.
    """
    import_keras()
    ensemble = Ensemble(models.files)
    flips = settings.FLIPS or models.flips
    averaged = {"none": "", "flips": ", averaged over flips", "turns": ", averaged over flips and quarter turns"}[flips]
    print(
        f"predicting {len(slices)} pictures of {settings.INPUT} with {', '.join(map(str, models.files))}, {fit} at "
        f"{ensemble.size}{averaged}",
        flush=True,
    )
    cleaning = models.clean if settings.CLEAN is None else settings.CLEAN
    outputs = Outputs(
        folder,
        classes=max(ensemble.channels - 1, 1),
        overlays=settings.OVERLAYS,
        full_scale=settings.PASTE,
        volume_ending=settings.LABEL_VOLUMES,
        clean_slices=cleaning if settings.CLEAN_IN == "2d" else {},
        clean_volumes=cleaning if settings.CLEAN_IN == "3d" else {},
    )
    options = {"fit": fit, "overlap": settings.OVERLAP, "batch_size": settings.BATCH_SIZE, "flips": flips}
    predicted = ensemble.predict(lambda: ordered_map(source.read, slices), len(slices), **options)
    for s, (image, probabilities) in zip(slices, predicted, strict=True):
        outputs.add(s, image, class_numbers(probabilities, settings.THRESHOLD), *source.case_of(s))
    return outputs.close()


if __name__ == "__main__":
    main()

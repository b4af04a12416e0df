"""Predict masks for images of any size.

Reads   RUN: run folder of train.py, several to average, a cross-validation, or .keras files;
        INPUT: images, case folders, a list, a volume, a folder of volumes, or files of numbers;
        for 3-D models RUN is ["whole run", "patch run"]
Writes  OUTPUT/<name>.png, masks of the same size as the images, and OUTPUT/overlays/<name>.png;
        for several cases OUTPUT/<case>/<name>.png and OUTPUT/overlays/<case>/<name>.png; for cases
        from volumes also OUTPUT/<case>.nii.gz, labels on the volume's own grid, volumes.csv,
        their measurements, and OUTPUT/viewers/<case>.html, pages to look at them; for files of
        numbers also OUTPUT/matrices/<file>, class numbers in the same format
Takes   20 s for 10 images of 512x512 in tiles with a U-net of 16 features on two cores
"""

from functools import partial
from typing import Annotated, Literal

from annotated_types import Ge, Le, Len

from common import setting_types as types
from common.settings import apply_command_line, refuse_unused, require_folder

# --- input and output
RUN: str | Annotated[list[types.PathName], Len(1)] = ""
# run folder, folder of runs, .keras or .h5 file, cross-validation; or a list
#   Of a folder of runs, the newest is used. Models of a list are averaged, and so are the folds of a cross-validation,
#   as choose.py chose.
WEIGHTS_FILE: types.WeightsFile = "best_dice"  # checkpoint of a run: "best_dice", "best_iou" or "last"
MODEL: str = ""  # your own network file of RUN, so that its copy in RUN may run
#   Code in RUN runs only if it equals this file.
TRUST_RUN: bool = False  # True: run any code that RUN contains; only if you trust its source
INPUT: str = ""  # folder of images, cases, volumes or numbers; case, list, volume or packed set
#   A volume is a DICOM folder, NIfTI, NRRD or MetaImage. Files of numbers (.csv, .txt, .npy) give such masks back too.
OUTPUT: types.PathName = "predictions"  # where to write the masks
REPLACE: bool = False  # True: overwrite an existing OUTPUT
NAMES: types.CaseNames = "numbers"  # names of DICOM volumes: "numbers" (case_0001, ...) or "folder"
#   "folder" keeps the names of your folders, which may identify patients.
NAMES_TABLE: types.TableName | Literal[""] = ""  # table to write: name and path of each volume; "": none
#   evaluate.py reads it. It identifies patients, so it must be outside of what you pass on.
WORKERS: types.Workers = ""  # "": this machine; a number of processes; or a Dask scheduler
#   Such as "tcp://10.0.0.1:8786", for several machines: see docs/scaling.md.

# --- prediction
FIT: Literal["resize", "tile", "pad"] | None = None  # "resize", "pad" to a square, "tile"; None: as for training
#   "resize" to the input size and back; "tile": overlapping tiles of that size; None: "resize" if training slices have
#   no record.
OVERLAP: Annotated[float, Ge(0), Le(0.9)] = 0.5  # min overlap of neighboring tiles, as a share of a tile
CHANNELS: types.Channels | None = None  # images: "gray", "rgb" or name patterns of files; None: as in training
FLIPS: Literal["flips", "turns", "none"] | None = None
# average over "flips", "turns" or "none"; None: as was chosen
#   None: as train.py chose on the validation set (slices only), or choose.py. "flips" takes 4 times as long, in 3-D 8
#   times; "turns" (flips and quarter turns; not in 3-D) 8 times.
THRESHOLD: types.Share | None = None  # probability above which a pixel is foreground; None: as training chose
#   With one class, or in 3-D. None is the threshold of choose.py, or of the run (the mean over several), otherwise 0.5.
OUT_OF_FOLD: bool = False  # 3-D: True: predict each volume by models that did not train on it
#   For scores of cross-validations, of one step or of both together: INPUT is what was packed.
LABEL_ORDER: Literal["likeliest", "last", "first"] = "likeliest"  # 3-D: label of a voxel where several are possible
#   "last", "first": of those above THRESHOLD, as the runner-up of the Decathlon 2018 chose by task.
BATCH_SIZE: types.PositiveInt = 8  # slices or tiles per step
PRECISION: Literal["auto", "float32", "mixed_bfloat16"] = "auto"
# "float32", "mixed_bfloat16", "auto": the faster with the same masks
#   On a CPU that computes bfloat16, "auto" tries both on one slice, or on a cube of a volume, if the prediction takes
#   longer than 30 s. Other CPUs predict in float32. On a GPU, it is the precision of training.
SKIP_EMPTY: bool = True  # predict slices or tiles of one gray value only once
#   Such as air and black borders: equal slices get equal masks.
TILE: types.Crop | None = None  # 3-D: tile size in voxels (up, back, left); None: training crop
#   None without a training crop: whole volumes.

# --- volumes
PLANE: types.Plane | None = None  # "axial", "coronal" or "sagittal"; None: as in training, otherwise axial
WINDOW: types.Window | None = None  # black and white, [low, high]; None: as in training, or percentiles
SPACING: types.Spacing | None = None  # mm to resample to, one number or (left, back, head); None: as in training
NOT_FINITE: float | None = None  # value to replace NaN and infinity in volumes by; None: refuse them
SERIES: types.Series | None = None  # number or description of the series, if a folder contains several
#   Without it, a message lists and numbers them.

# --- cleaning
CLEAN: types.Cleaning | None = None  # such as {"share": 0.1, "fill": True}; None: as choose.py chose
#   {"median": 3}: median filter; "share": 0.1: remove parts under 0.1 of the largest (1: keep only the largest);
#   "near": 10: unless within 10 pixels of a kept part; "smallest": 50: remove parts under 50 pixels; "fill": True: fill
#   holes. None without a choice is no cleaning.
CLEAN_IN: Literal["2d", "3d"] = "2d"  # "2d": clean each mask; "3d": whole label volumes
#   "3d" leaves the masks as predicted.

# --- files to write
OVERLAYS: bool = True  # False: write no overlays, and no pages of volumes (viewers/)
UNCERTAINTY: bool = False  # True: write probability, uncertainty and cases_to_label.csv too
#   The table lists the images or volumes whose masks are most worth outlining first. With several models, such as the
#   folds of a cross-validation, they are those on which the models disagree.
PROBABILITIES: bool = False  # True: also write probabilities, to probabilities/<class>
#   16-bit images of slices (65535 is 1); volumes in half precision on the grid of the scan.
PASTE: str = ""  # folder of the full images of cases or crops: paste masks into them
#   Masks, overlays and areas at full size are written to full/.
LABEL_VOLUMES: types.VolumeEnding = ".nii.gz"  # format: ".nii.gz", ".nii", ".nrrd", ".mha", ".mhd"; "": none
#   3-D models always write label volumes; "" is .nii.gz there.
DICOM_LABELS: list[Literal["SEG", "RTSTRUCT"]] = []  # also write these for DICOM series, in OUTPUT/dicom
#   They repeat the patient's name and other tags of the series, so keep them apart from what you pass on.
VIEWER_FILES: list[Literal["osirix", "qupath", "itk-snap"]] = []  # also write files for these viewers
#   "osirix": ROIs of volumes (.xml), for Horos too; "qupath": outlines (.geojson); "itk-snap": names and colors of
#   classes (classes.label).

settings = apply_command_line(globals())

from common.devices import import_keras
from common.parallel import ordered_map
from common.prediction.ensemble import Ensemble
from common.prediction.inputs import ImageInput, PixelSizes, VolumeInput, reader_of
from common.prediction.matrices import MatrixInput
from common.prediction.outputs import Outputs, require_dicom, write_output
from common.prediction.precision import choose_precision, precision_without_trial
from common.prediction.probabilities import Probabilities
from common.prediction.uncertainty import Uncertainty
from common.prediction.viewer_files import require_volumes
from common.replacing import refuse_existing
from common.slices.classes import OVERLAPPING, class_numbers
from common.slices.matrices import are_matrices
from common.training.calibration import threshold_in_words, with_threshold
from common.training.trained_models import find_models, find_volume_models, names_of_classes, slice_preparation
from common.training.trust import trust_command
from common.volumes.finding import is_folder_of_volumes, is_volume
from common.volumes.privacy import names_table, write_names_table
from common.words import number_of
from common.workers import start_workers


def main():
    trust_command(settings)
    if settings.PASTE:
        require_folder(settings.PASTE, "PASTE")
    runs = settings.RUN if isinstance(settings.RUN, list) else [settings.RUN]
    with names_table(settings.NAMES_TABLE, {"OUTPUT": settings.OUTPUT}, settings.REPLACE):
        if models := find_volume_models(runs, settings.WEIGHTS_FILE):
            from common.prediction.volume_outputs import predict_with_settings  # needs SimpleITK, images do not

            predict_with_settings(models, settings)
        else:
            only_3d = {"OUT_OF_FOLD": False, "LABEL_ORDER": "likeliest", "TILE": None}
            refuse_unused(settings, only_3d, "only for 3-D models")
            predict_slices(find_models(runs, settings.WEIGHTS_FILE))


def predict_slices(models):
    """Predict the slices of INPUT, and write OUTPUT.

    Args:
        models: `common.training.trained_models.Choice`.
    """
    refuse_existing(settings.OUTPUT, settings.REPLACE)
    names = {"fit": "FIT", "window": "WINDOW", "plane": "PLANE", "resampled": "SPACING", "channels": "CHANNELS"}
    decided = [name for name, setting in names.items() if getattr(settings, setting) is not None]
    prepared = slice_preparation(models.files, decided)
    used, facts = with_threshold(settings, models.files, models.threshold, settings.FLIPS or models.flips), {}
    if prepared.overlap:
        facts["overlap"] = prepared.overlap
    source = open_input(prepared)
    require_dicom(settings.DICOM_LABELS, source.volumes.values())
    require_volumes(settings.VIEWER_FILES, source)
    written = []

    def fill(folder):
        with start_workers(settings.WORKERS) as workers:
            written.append(write_slices(folder, source, models, prepared, used, facts, workers))

    write_output(used, fill, ["INPUT"] if source.volumes else [], facts)
    write_names_table(settings.NAMES_TABLE, source.names, source.volumes)
    print(f"wrote {written[0]} to {settings.OUTPUT}")


def open_input(prepared):
    """ImageInput or VolumeInput for INPUT, prepared as in training unless a setting overrides it."""
    if not settings.INPUT or not (is_volume(settings.INPUT) or is_folder_of_volumes(settings.INPUT)):
        only_volumes = {"NAMES_TABLE": "", "PLANE": None, "SPACING": None, "SERIES": None, "NOT_FINITE": None}
        refuse_unused(settings, only_volumes, "only for volumes; INPUT is images or cases")
        if settings.INPUT and are_matrices(settings.INPUT):
            return MatrixInput(settings.INPUT, settings.WINDOW or prepared.window)
        refuse_unused(settings, {"WINDOW": None}, "only for volumes and files of numbers; INPUT is images or cases")
        return ImageInput(settings.INPUT, prepared.stretched, settings.CHANNELS or prepared.channels_to_read)
    plane, window = settings.PLANE or prepared.plane or "axial", settings.WINDOW or prepared.window
    spacing = settings.SPACING or prepared.resampled
    options = (
        settings.SERIES,
        settings.NOT_FINITE,
        settings.NAMES,
        prepared.neighbors or 0,
        settings.CHANNELS or prepared.channels,
    )
    return VolumeInput(settings.INPUT, plane, window, spacing, *options)


def write_slices(folder, source, models, prepared, used, facts, workers):
    """Predict slices and write their masks and all other outputs into a folder.

    Args:
        folder: Path.
        source: ImageInput, VolumeInput or MatrixInput.
        models: `common.training.trained_models.Choice`.
        prepared: `common.training.trained_models.Preparation` of the training slices.
        used: settings with the threshold in force.
        facts: dict, which gets the names of the classes, and how they overlap, if they do.
        workers: `common.workers.Threads` or Processes.

    Returns:
        Text that lists what was written.
    """
    import_keras()
    slices, ensemble = source.slices, Ensemble(models.files, precision_without_trial(settings.PRECISION))
    fit, flips = settings.FIT or prepared.fit or "resize", settings.FLIPS or models.flips
    averaged = {"none": "", "flips": ", averaged over flips", "turns": ", averaged over flips and quarter turns"}[flips]
    how = f"{', '.join(map(str, models.files))} ({fit} at {ensemble.size}x{ensemble.size}{averaged})"
    print(f"predicting {number_of(len(slices), 'image')} with {how}", flush=True)
    if ensemble.channels == 1 or ensemble.overlapping:
        print(threshold_in_words(used), flush=True)
    names = names_of_classes(models.files[0], ensemble.classes)
    facts["class_names"] = names
    if ensemble.overlapping:
        facts["overlap"] = facts.get("overlap", OVERLAPPING)
    cleaning = models.clean if settings.CLEAN is None else settings.CLEAN
    outputs = Outputs(
        folder,
        source,
        names,
        overlap=facts.get("overlap", ""),
        overlays=settings.OVERLAYS,
        full_scale=settings.PASTE,
        volume_ending=settings.LABEL_VOLUMES,
        clean_slices=cleaning if settings.CLEAN_IN == "2d" else {},
        clean_volumes=cleaning if settings.CLEAN_IN == "3d" else {},
        dicom_labels=settings.DICOM_LABELS,
        series=settings.SERIES,
        viewer_files=settings.VIEWER_FILES,
    )
    further = further_outputs(folder, ensemble, outputs.files.folders, len(models.files))
    options = {"fit": fit, "overlap": settings.OVERLAP, "batch_size": settings.BATCH_SIZE, "flips": flips}
    options |= {"skip_empty": settings.SKIP_EMPTY, "with_moments": settings.UNCERTAINTY, "workers": workers}
    read, pixels = reader_of(source, ensemble.inputs), PixelSizes(prepared.spacing, ensemble.size, fit)
    facts |= choose_precision_of(ensemble, partial(read, slices[len(slices) // 2]), len(slices), used, options)
    predicted = ensemble.predict(images=lambda: ordered_map(read, slices), count=len(slices), **options)
    for s, (image, probabilities) in zip(slices, predicted, strict=True):
        numbers = class_numbers(probabilities[..., : ensemble.channels], used.THRESHOLD, ensemble.overlapping)
        for one in further:
            one.add(s, *source.case_of(s), probabilities, numbers)
        outputs.add(s, image, numbers)
        pixels.add(numbers.shape, source.spacing_of(s))
    if note := pixels.note():
        print(note, flush=True)
    for one in further:
        one.close()
    return outputs.close()


def choose_precision_of(ensemble, image, count, used, options):
    """Let an ensemble predict in the best precision, and print which one; returns it and the flips, to be recorded."""
    tried = {name: options[name] for name in ("flips", "fit", "overlap", "batch_size")}
    precision, reason = choose_precision(settings.PRECISION, ensemble, image, count, used.THRESHOLD, **tried)
    if reason:
        print(f"precision {reason}", flush=True)
    return {"PRECISION": precision, "FLIPS": options["flips"]}


def further_outputs(folder, ensemble, names, models):
    """Writers of probabilities and of uncertainty, as far as settings ask for them, as a list.

    Args:
        folder: Path.
        ensemble: Ensemble.
        names: folder names of the classes from 1 up.
        models: number of models.
    """
    found = []
    if settings.PROBABILITIES:
        found.append(Probabilities(folder, names, ensemble.channels, settings.LABEL_VOLUMES))
    if settings.UNCERTAINTY:
        found.append(Uncertainty(folder, models, ensemble.overlapping))
    return found


if __name__ == "__main__":
    main()

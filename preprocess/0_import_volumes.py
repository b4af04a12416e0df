"""Step 0: import volumes with label volumes into case folders of slices.

Reads   IMAGES and LABELS: folders of DICOM series, NIfTI, NRRD or MetaImage files;
        as labels also DICOM SEG, RTSTRUCT and .seg.nrrd of 3D Slicer
Writes  CASES/case_<name>/x/0001.png, y/0001.png and case.json, for steps 1 and 2
Takes   about 2 s and 0.5 GB of memory for a 512x512x300 volume on two cores

Label volumes are matched by name, DICOM SEG and RTSTRUCT by the series that they refer to; their
grids may differ. case.json records the geometry, so that predictions can be mapped back onto the
volume, and nothing that identifies a patient. Loads one volume at a time.
"""

import sys
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import setting_types as types
from common.settings import apply_command_line

# --- input and output
IMAGES: str = ""  # folder to search for volumes and DICOM series, or one volume
#   A folder with dataset.json is a data set of nnU-Net or the Decathlon and needs no LABELS.
CHANNELS: types.FileChannels = []  # a file name for each channel, such as ["{id}_flair", "{id}_t1"]
LABELS: str = ""  # the same for label volumes, matched by name; empty: all masks are black
LABEL_NAME: types.LabelPattern = "{id}"  # label volume name for volume {id}, such as "{id}_seg"
#   "{id}_{class}" or "{id}/{class}": a label volume for each class; CLASSES gives their order.
SERIES: types.Series | None = None  # number or description of the series, if a folder contains several
#   Without it, a message lists and numbers them.
CASES: types.PathName = "data/cases"  # where to write the case folders
REPLACE: bool = False  # True: overwrite existing case folders
NAMES: types.CaseNames = "numbers"  # case names of DICOM: "numbers" (case_0001, ...) or "folder"
#   "folder" keeps the names of your folders, which may identify patients.
NAMES_TABLE: types.TableName | Literal[""] = ""  # table to write: name and path of each case; "": none
#   It identifies patients, so it must be outside of what you pass on.
SKIP_BROKEN: bool = False  # True: exit with 0 even if some volumes could not be used
WORKERS: types.Workers = ""  # "": this machine's cores; a number of processes; or a Dask scheduler
#   Such as "tcp://10.0.0.1:8786", for several machines: see docs/scaling.md.

# --- slices
PLANE: types.Plane = "axial"  # "axial", "coronal" or "sagittal"
SPACING: types.Spacing | None = None  # mm to resample to, one number or (left, back, head); None: no resampling
SLICES: Literal["all", "labeled", "labelled"] = "all"  # "all"; "labeled": only slices with a label
#   Empty slices teach what is not the target. Use "labeled" if only some slices of each volume are outlined.
NEIGHBORS: types.Neighbors = 0  # slices before and after each slice to add as channels (2.5-D)
SIZE: types.Side = 200  # side length of the slices in pixels
FIT: Literal["resize", "crop", "pad"] = "pad"  # "resize" (may distort), "crop" the center, or "pad" to a square
#   "pad" shrinks slices larger than SIZE.

# --- gray values
NOT_FINITE: float | None = None  # value to replace NaN and infinity by; None: refuse such volumes
WINDOW: types.Window | None = None  # values mapped to black and white, [low, high], such as [-200, 200] HU
PERCENTILES: types.Percentiles = [0.5, 99.5]  # percentiles mapped to black and white if WINDOW is None
BITS: Literal[8, 16] = 8  # bit depth of the slices: 8 or 16

# --- labels
IGNORE: types.Gray | None = None  # label of voxels that count in no loss and no score; None: none
LABEL_VALUES: types.LabelValues | None = None  # new labels, such as {5: 1, 6: 1}; others become 0; None: keep all
CLASSES: types.Names | None = None  # segments to use, by name, in class order; None: all
#   For DICOM SEG, RTSTRUCT and .seg.nrrd. The script prints the names.
OVERLAP: Literal["largest", "keep"] = "largest"  # of segments that overlap, the later class wins, or "keep" all
REGIONS: types.Regions | None = None  # classes of several labels: {"whole": [1, 2], "core": [2]}
#   "nested": class 1 includes class 2, which includes class 3, and so on.

settings = apply_command_line(globals())

import os
from functools import partial
from typing import NamedTuple

from common.errors import InputError, SettingError, name_broken
from common.slices.cases import CaseRecord, as_case_name, import_cases, refuse_existing_cases
from common.slices.nnunet import DATASET
from common.slices.regions import Regions
from common.volumes.channels import first_files, group_channels
from common.volumes.datasets import read_data_set
from common.volumes.finding import find_volumes
from common.volumes.importing import Slicing, import_volume
from common.volumes.label_files import LabelFiles
from common.volumes.label_matching import match_labels
from common.volumes.privacy import is_dicom_volume, names_table, safe_names, write_names_table
from common.words import number_of
from common.workers import start_workers

FEW_LABELED = 0.1  # share of the slices of a volume


def main():
    check_settings()
    with names_table(settings.NAMES_TABLE, {"CASES": settings.CASES}, settings.REPLACE):
        import_all()


def import_all():
    found = match_volumes()
    volumes, labels = found.volumes, found.labels
    names = safe_names(volumes, settings.NAMES)
    cases = {name: Path(settings.CASES, as_case_name(case)) for name, case in names.items()}
    refuse_existing_cases(cases.values(), settings.REPLACE)
    into = f"into {settings.CASES} ({settings.PLANE}, {settings.FIT} to {settings.SIZE}x{settings.SIZE})"
    with start_workers(settings.WORKERS) as workers:
        label_files = open_label_files(found, workers)
        print(f"importing {number_of(len(volumes), 'volume')} {into}", flush=True)
        how = Slicing(
            plane=settings.PLANE,
            spacing=settings.SPACING,
            series=settings.SERIES,
            not_finite=settings.NOT_FINITE,
            window=settings.WINDOW,
            percentiles=settings.PERCENTILES,
            bits=settings.BITS,
            neighbors=settings.NEIGHBORS,
            size=settings.SIZE,
            fit=settings.FIT,
            only_labeled=settings.SLICES != "all",
        )
        fitting = {"fit": settings.FIT, "mask_values": settings.LABEL_VALUES, "overlap": label_files.overlap}
        fitting |= {"class_names": label_files.names_of_regions or found.class_names}
        fitting |= {"neighbors": settings.NEIGHBORS, "channels": found.patterns or None}
        result = import_cases(
            [(cases[name], (found.files.get(name, [path]), labels.get(name))) for name, path in volumes.items()],
            partial(import_volume, label_files=label_files, how=how),
            partial(CaseRecord, "0_import_volumes.py", settings.SIZE, **fitting),
            settings.REPLACE,
            parallel=False,
            workers=workers,
        )
    write_names_table(settings.NAMES_TABLE, names, volumes)
    report(result, label_files)


def report(result, label_files):
    """Print notes and what was written, and end with status 1 if volumes could not be used."""
    slices = f"{number_of(result.slices, 'slice')} of {settings.SIZE}x{settings.SIZE}"
    overlaps, labeled = [notes.overlap for notes in result.notes], [notes.labeled for notes in result.notes]
    notes = label_files.note_on_overlap(overlaps), note_on_empty(labeled), note_on_cut(sum(n.cut for n in result.notes))
    for note in filter(None, notes):
        print(f"note: {note}")
    print(f"wrote {slices} in {number_of(result.cases, 'case')} to {settings.CASES}")
    problems = list(dict.fromkeys([*label_files.failed.values(), *result.problems]))
    name_broken(problems, "volumes cannot be used", result.cases, settings.SKIP_BROKEN)


def check_settings():
    if settings.SLICES != "all" and not (settings.LABELS or is_data_set()):
        raise SettingError(
            f'SLICES: "{settings.SLICES}" needs LABELS; set --labels to their folder, or use --slices all'
        )


def is_data_set():
    """Whether IMAGES is a data set with dataset.json, which lists its labels."""
    return not settings.LABELS and os.path.isfile(Path(settings.IMAGES or "-", DATASET))


class Found(NamedTuple):
    """What to import.

    Attributes:
        volumes, labels: dicts of name to Path of the volumes, or of their first channels, and of the label files.
        class_names: names of class 1, 2 and so on that are no secret.
        ignored: label of voxels that do not count, or None.
        files, patterns: dict of name to the Paths of all channels, and their name patterns; empty with one file each.
        regions: setting REGIONS, or the regions of the data set; None: none.
        further, class_of: as of `common.volumes.label_matching.Matched`.
    """

    volumes: dict
    labels: dict
    class_names: list
    ignored: int | None
    files: dict
    patterns: list
    regions: dict | str | None
    further: dict | None = None
    class_of: dict | None = None


def match_volumes():
    """Match volumes with their channels and label files.

    Returns:
        Found.

    Raises:
        InputError: if no volumes are found, or one has no labels or lacks a channel.
    """
    for setting, value in (("IMAGES", settings.IMAGES), ("LABELS", settings.LABELS)):
        if (value or setting == "IMAGES") and not Path(value or "-").exists():
            found = f"{value} does not exist" if value else "not set"
            raise InputError(f"{setting}: {found}; choose a folder of volumes, or one volume")
    if is_data_set():
        data = read_data_set(
            Path(settings.IMAGES), settings.NAMES, settings.LABEL_VALUES, settings.CLASSES, ignores=True
        )
        files = {case.source: [case.image, *case.channels] for case in data.cases}
        patterns = [f"{{id}}_{number:04d}" for number in range(max(map(len, files.values())))]
        return Found(
            volumes={case.source: case.image for case in data.cases},
            labels={case.source: case.label for case in data.cases},
            class_names=list(data.labels.values()),
            ignored=data.ignored if settings.IGNORE is None else settings.IGNORE,
            files=files,
            patterns=patterns if len(patterns) > 1 else [],
            regions=settings.REGIONS or data.regions or None,
        )
    files = {}
    if settings.CHANNELS:
        files = group_channels(find_volumes(settings.IMAGES, apart=settings.LABELS), settings.CHANNELS, "IMAGES")
    volumes, labels, several = first_files(files), {}, ()
    if settings.LABELS:
        names = settings.LABEL_NAME, settings.SERIES
        volumes, labels, *several = match_labels(settings.IMAGES, settings.LABELS, *names, volumes or None)
    volumes = volumes or find_volumes(settings.IMAGES)
    if settings.SERIES is not None and not any(is_dicom_volume(path) for path in volumes.values()):
        raise InputError(f"SERIES: no DICOM series in IMAGES to choose from (found {settings.SERIES!r}); remove it")
    how = settings.IGNORE, files, settings.CHANNELS, settings.REGIONS
    return Found(volumes, labels, settings.CLASSES or [], *how, *several)


def open_label_files(found, workers):
    """LabelFiles of all volumes, looked into by workers; prints the names of their classes."""
    expected = {} if found.regions else dict(enumerate(found.class_names, 1))
    how = settings.CLASSES, settings.LABEL_VALUES, settings.SERIES, expected
    sharing = {"overlapping": settings.OVERLAP == "keep", "regions": found.regions and Regions(found.regions)}
    sharing |= {"further": found.further, "class_of": found.class_of}
    label_files = LabelFiles(found.labels.values(), *how, ignore=found.ignored, **sharing, workers=workers)
    if names_of_classes := label_files.describe():
        print(names_of_classes, flush=True)
    return label_files


def note_on_cut(volumes):
    """What a user should know about labels, of so many volumes, that reach beyond their volume, or ""."""
    if not volumes:
        return ""
    return f"labels of {number_of(volumes, 'volume')} reach beyond it and are cut; check that both belong together"


def note_on_empty(labeled):
    """What a user should know about slices without a label, or "".

    Args:
        labeled: list of shares of the slices that have a label, one for each volume with labels.
    """
    if not (settings.LABELS or is_data_set()):
        return "LABELS is not set, so all masks are empty; use these cases for prediction only"
    few = sum(share < FEW_LABELED for share in labeled)
    if settings.SLICES != "all" or not few:
        return ""
    return (
        f"{number_of(few, 'volume')} with a label on less than {FEW_LABELED:.0%} of the slices; if the other slices "
        "show the target too but are not outlined, import again with --slices labeled"
    )


if __name__ == "__main__":
    main()

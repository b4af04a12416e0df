"""Step 0: import images or DICOM slices with outlines from annotation programs into case folders.

Reads   IMAGES: png, jpg, tif, bmp, or DICOM series; ANNOTATIONS: LabelMe, COCO, CVAT, ImageJ,
        or the XML, CSV or JSON files that OsiriX and Horos export
Writes  CASES/case_<subfolder>/x/0001.png, y/0001.png and case.json, for steps 1 and 2
Takes   about a second per 100 images of 512x512 on two cores

Names of shapes become classes; the script prints their numbers. A pixel is inside an outline if
its center is. Images and annotations are matched by file names, DICOM slices also by UID,
position or number. IMAGES and ANNOTATIONS stay unchanged.
"""

import sys
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import setting_types as types
from common.settings import apply_command_line

# --- input and output
IMAGES: str = ""  # folder of the images, or of DICOM series
ANNOTATIONS: str = ""  # folder of the annotation files, or one file; may be IMAGES
FORMAT: Literal["auto", "labelme", "coco", "cvat", "imagej", "osirix"] = "auto"
# "auto": the content of each file tells its format
CASES: types.PathName = "data/cases"  # output folder for the case folders
CASE_FROM: Literal["folder", "image"] = "folder"  # "folder": a case per subfolder; "image": a case per image
#   With "folder", images without a subfolder are one case together, unless names tell patients, as P004_s01 does.
#   A DICOM series is always a case.
REPLACE: bool = False  # True: overwrite existing case folders
NAMES: types.CaseNames = "numbers"  # case names of DICOM: "numbers" (case_0001, ...) or "folder"
#   "folder" keeps the names of your folders, which may identify patients.
NAMES_TABLE: types.TableName | Literal[""] = ""  # DICOM: table to write: name and path of each case; "": none
#   It identifies patients, so it must be outside of what you pass on.
SKIP_BROKEN: bool = False  # True: exit with status 0 even if some images cannot be used
WORKERS: types.Workers = ""  # "": this machine's cores; a number of processes; or a Dask scheduler

# --- classes
CLASSES: types.ClassNumbers | types.Names = {}  # class of each name, such as {"liver": 1}, or names in class order
#   {} numbers the names in alphabetical order. "*" in a name fits any text, as in {"lesion*": 2}. Shapes with other
#   names are background.
OVERLAP: Literal["largest", "last", "keep"] = "largest"  # of classes that overlap, one wins, or "keep" all of them
#   "largest": the largest number wins; "last": the last shape.
UNMATCHED: Literal["stop", "skip", "empty"] = "empty"
# image without annotations: "stop", "skip" it, or "empty" mask

# --- size
SIZE: types.Side = 200  # side length of the slices in pixels
FIT: Literal["resize", "crop", "pad", "tile"] = "resize"
# "resize" (may distort), "crop" the center, "pad" to a square, "tile"
#   "pad" shrinks images larger than SIZE. Black fills gaps. "tile" is for images only.
TILE_OVERLAP: types.Count = 0  # minimum overlap of neighboring tiles in pixels

# --- gray values of images
CHANNELS: Literal["gray", "rgb"] = "gray"  # "gray", or "rgb" to keep the colors of images
STRETCH: bool = False  # True: stretch each image's own minimum and maximum to the full range

# --- gray values of DICOM
WINDOW: types.Window | None = None  # values mapped to black and white, [low, high], such as [-200, 200] HU
PERCENTILES: types.Percentiles = [0.5, 99.5]  # percentiles mapped to black and white if WINDOW is None
BITS: Literal[8, 16] = 8  # bit depth of the slices: 8 or 16

settings = apply_command_line(globals())

from functools import partial

from common.annotations.classes import as_numbers, names_of
from common.annotations.images import import_image
from common.annotations.matching import match_images
from common.annotations.reading import find_annotations, read_annotations
from common.annotations.report import number_and_print, print_overlaps, print_several
from common.annotations.sources import Classes, Source, choose
from common.errors import InputError, SettingError, name_broken, summarize
from common.files import real_path
from common.settings import require_folder
from common.slices.case_names import name_cases
from common.slices.cases import CaseRecord, as_case_name, import_cases, refuse_existing_cases
from common.slices.finding import IMAGE_ENDINGS, OTHER, find_images, report_skipped, walk
from common.slices.import_notes import Seen
from common.slices.importing import Fitting
from common.slices.leftovers import find_earlier_cases
from common.slices.matching import IMAGE_FOLDERS, MASK_FOLDERS
from common.volumes.finding import may_be_dicom
from common.volumes.privacy import names_table, safe_names, write_names_table
from common.words import number_of
from common.workers import start_workers

SCRIPT = "0_import_annotations.py"  # in case.json


def main():
    check_settings()
    with names_table(settings.NAMES_TABLE, {"CASES": settings.CASES}, settings.REPLACE):
        import_annotations()


def import_annotations():
    root = require_folder(settings.IMAGES, "IMAGES")
    images, skipped = walk(root)
    together = real_path(settings.ANNOTATIONS or "-") == real_path(root)
    files = find_annotations(settings.ANNOTATIONS, skipped if together else None)
    folder = root if together or Path(settings.ANNOTATIONS).is_file() else Path(settings.ANNOTATIONS)
    annotations, problems = read_annotations(files, settings.FORMAT)
    series, secrets = find_series(root, images, skipped)
    if settings.NAMES_TABLE and not series:
        raise InputError("NAMES_TABLE: only for DICOM series (IMAGES contains images); leave it empty")
    match = partial(match_series, series, skipped) if series else partial(match_files, images, skipped)
    sources, more = match(annotations, root, folder)
    if problems := problems + more:
        raise InputError(summarize(problems, "annotations cannot be used"))
    classes = as_numbers(settings.CLASSES)
    numbers = number_and_print(annotations, len(files), classes, secrets)
    sources = choose(sources, settings.UNMATCHED, settings.ANNOTATIONS)
    import_all(sources, numbers, names_of(numbers, classes, secrets), bool(series))


def check_settings():
    if settings.TILE_OVERLAP >= settings.SIZE:
        raise SettingError(f"TILE_OVERLAP: expected 0 to {settings.SIZE - 1} (found {settings.TILE_OVERLAP})")


def import_all(sources, numbers, names, is_dicom):
    """Import images or series into case folders.

    Args:
        sources: list of (Path of the case folder, Source).
        numbers: dict of name to class number.
        names: list of class names.
        is_dicom: whether the sources are DICOM series.
    """
    cases = dict.fromkeys(case for case, _ in sources)
    refuse_existing_cases(cases, settings.REPLACE)
    earlier = [] if is_dicom else find_earlier_cases(sources, SCRIPT, lambda s: s.image_name, settings.REPLACE)
    size = f"{settings.SIZE}x{settings.SIZE}"
    what = number_of(len(sources), *(("series", "series") if is_dicom else ("image",)))
    in_cases = number_of(len(cases), "case")
    print(f"importing {what} as {in_cases}, {settings.FIT} to {size}, into {settings.CASES}", flush=True)
    drawn = Classes.of(numbers, names, settings.OVERLAP)
    record = {} if is_dicom else {"stretched": settings.STRETCH, "channels": {"rgb": "rgb"}.get(settings.CHANNELS)}
    record |= {"fit": settings.FIT, "class_names": names, "overlap": drawn.overlap}
    with start_workers(settings.WORKERS) as workers:
        result = import_cases(
            sources,
            (loader_of_series if is_dicom else loader_of_images)(drawn),
            partial(CaseRecord, SCRIPT, settings.SIZE, **record),
            settings.REPLACE,
            parallel=not is_dicom,
            workers=workers,
            check=lambda values, _: drawn.check(values, settings.ANNOTATIONS),
            earlier=earlier,
        )
    if earlier and result.slices:
        print(f"removed {number_of(len(earlier), 'case')} of an earlier import of the same images")
    found = drawn.in_words(result.values, settings.ANNOTATIONS)
    slices, of_cases = number_of(result.slices, "slice"), number_of(result.cases, "case")
    print(f"wrote {slices} of {size}, {found}, in {of_cases} to {settings.CASES}")
    if is_dicom:
        series = {source.image.name: (case.name, source.image.where) for case, source in sources}
        names_of_cases, paths = ({name: pair[i] for name, pair in series.items()} for i in (0, 1))
        write_names_table(settings.NAMES_TABLE, names_of_cases, paths)
    print(f"class names, which train.py takes from case.json: {', '.join(names)}")
    print_overlaps([notes.several for notes in result.notes], drawn.rule)
    Seen(result.notes).print_notes(settings.FIT)
    broken = "series cannot be used" if is_dicom else "images cannot be used"
    name_broken(result.problems, broken, result.slices, settings.SKIP_BROKEN)


# --- images


def match_files(images, skipped, annotations, root, folder):
    """Match annotations to image files.

    Args:
        images, skipped: from `common.slices.finding.walk`.
        annotations: list of Annotation.
        root, folder: folders of the images and of the annotations.

    Returns:
        list of (Path of the case folder, Source), in natural order; and list of error messages.
    """
    report_skipped(skipped)
    images = find_images(root, images, "{id}", skip=MASK_FOLDERS, drop=IMAGE_FOLDERS)
    if not images:
        endings = ", ".join(IMAGE_ENDINGS)
        raise InputError(f"IMAGES: no image ({endings}) or DICOM file in {root}; choose another folder")
    matched, problems = match_images(annotations, list(images.values()), root, folder)
    print_several(matched.values())
    sources = []
    for key, case in name_cases(images, settings.CASE_FROM).items():
        name = images[key].relative_to(root).as_posix()
        sources.append((Path(settings.CASES, case), Source(images[key], matched.get(images[key], []), name)))
    return sources, problems


def loader_of_images(classes):
    """Function that `import_cases` calls for a Source."""
    how = Fitting(settings.CHANNELS, settings.STRETCH, settings.SIZE, settings.FIT, settings.TILE_OVERLAP)
    return partial(import_image, classes=classes, how=how)


# --- DICOM series


def find_series(root, images, skipped):
    """DICOM series in IMAGES, and texts that identify their patients.

    Args:
        root: Path of the folder.
        images, skipped: from `common.slices.finding.walk`.
    """
    others = [path for reason, path in skipped if reason == OTHER and may_be_dicom(path)]
    if not others:
        return [], set()
    from common.annotations.dicom_slices import find_dicom  # with pydicom and SimpleITK, which images do not need

    series = find_dicom(root, others)
    if images and series:
        raise InputError(f"IMAGES: both images and DICOM series in {root}; put them into two folders")
    if series and settings.FIT == "tile":
        raise SettingError('FIT: "tile" is for images (found DICOM series); use "resize", "crop" or "pad"')
    return series, {text for one in series for text in one.secrets}


def match_series(series, skipped, annotations, root, folder):
    """Match annotations to slices of DICOM series; arguments and result as `match_files`."""
    from common.annotations.dicom_slices import match_slices  # see find_series

    matched, problems = match_slices(annotations, series, root, folder)
    if others := len(skipped) - sum(len(one.headers) for one in series):
        print(f"skipped {number_of(others, 'file')} next to DICOM images (names may identify patients)")
    names = safe_names({one.name: one.where for one in series}, settings.NAMES)
    cases = [Path(settings.CASES, as_case_name(names[one.name])) for one in series]
    sources = [Source(one, matched.get(i, {})) for i, one in enumerate(series)]
    return list(zip(cases, sources, strict=True)), problems


def loader_of_series(classes):
    """Function that `import_cases` calls for a Source of a series."""
    from common.annotations.dicom_slices import SeriesSlicing, import_series  # see find_series

    how = SeriesSlicing(
        window=settings.WINDOW,
        percentiles=settings.PERCENTILES,
        bits=settings.BITS,
        size=settings.SIZE,
        fit=settings.FIT,
        only_annotated=settings.UNMATCHED != "empty",
    )
    return partial(import_series, classes=classes, how=how)


if __name__ == "__main__":
    main()

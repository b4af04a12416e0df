"""Find and read label volumes on both sides of an evaluation: numbers, a file for each class, or named segments."""

from pathlib import Path

from common.errors import InputError, summarize
from common.evaluation.volume_classes import Labels, with_numbers, with_regions
from common.lazy import Lazy
from common.slices.classes import MOST_OVERLAPPING, NESTED
from common.slices.finding import all_below, walk
from common.slices.mask_files import file_names
from common.slices.regions import Regions
from common.volumes.finding import dicom_labels_in, ending_of, find_volumes, may_be_dicom, name_of, print_skipped
from common.volumes.grids import Geometry, image_at, orient, require_same_grid
from common.volumes.label_files import labels_onto, read_files, segments_in
from common.volumes.label_matching import SLICER, by_reference, class_files, is_class_pattern, series_number
from common.volumes.labels import labels_in
from common.volumes.privacy import is_dicom_volume, plain_name, safe_names
from common.volumes.reading import read_information, read_volume
from common.volumes.segments import as_key

sitk = Lazy("SimpleITK")

OF_PREDICT = "{id}_{class}"  # names of label volumes of overlapping classes that predict.py writes


def holds_volumes(path):
    """Whether a path is a label volume, DICOM SEG or RTSTRUCT, or a folder with such files; False for "".

    A folder with volumes in its subfolders, or with other .dcm files, counts too unless it contains images: label
    files may be in a folder of each case, or damaged.
    """
    path = Path(path) if str(path) else None
    if not path or not path.exists():
        return False
    files = [path] if path.is_file() else list(path.iterdir())
    if any(ending_of(file) not in ("", ".dcm") for file in files):
        return True
    files = files if path.is_file() else list(all_below(path))
    return any(map(dicom_labels_in, files)) or (
        path.is_dir() and any(ending_of(file) for file in files) and not walk(path)[0]
    )


def find_sides(predicted, truth, label_name, own_names, images, classes, regions, recorded, overlap, trained):
    """Find the label volumes of both sides, and number their classes.

    Args:
        predicted, truth: settings PREDICTED and TRUTH: a folder, or one file.
        label_name, images, classes, regions: settings LABEL_NAME, IMAGES, CLASSES and REGIONS.
        own_names: result of `common.volumes.privacy.read_names_table`.
        recorded: names of the classes of predict.py, [] if unknown.
        overlap: how the classes of predict.py share voxels; see `common.slices.classes`.
        trained: dict of name to list of numbers, the regions that the model of predict.py was trained on, or None.

    Returns:
        two dicts of name of the volume to Labels: predicted and true ones.

    Raises:
        InputError: if two have the same name, one is damaged, or the names of classes differ.
    """
    dicom = []
    inside = find_volumes(truth, dicom)
    scans = find_volumes(images) if images else {name: path for name, path in inside.items() if is_dicom_volume(path)}
    pattern, class_of, how = _classes_in_files(recorded, overlap, classes, label_name)
    found = find_predicted(predicted, own_names, scans, pattern, class_of, how)
    inside = {name: path for name, path in inside.items() if not is_dicom_volume(path)}
    true = find_true(inside, label_name, found, scans, dicom, class_of)
    by_name = {plain_name(name).removeprefix("case_"): path for name, path in scans.items()}
    sides = [
        {n: labels._replace(scan=labels.scan or by_name.get(n)) for n, labels in side.items()} for side in (found, true)
    ]
    sides = with_numbers(*sides, classes, recorded, overlap)
    if trained and not regions and not any(labels.segments for labels in sides[1].values()):
        regions = trained
        print(f"TRUTH: regions of labels, as the model was trained on ({regions}); --regions changes them", flush=True)
    return with_regions(*sides, Regions(regions), recorded) if regions else sides


def _classes_in_files(names, overlap, classes, label_name):
    """Pattern of the names of predicted label volumes with a file for each class, and dict of what they say to class.

    The pattern is "" if each file contains all classes.
    """
    if overlap:
        renamed = classes and len(classes) == len(names) and not {*map(as_key, classes)} & {*map(as_key, names)}
        return OF_PREDICT, dict(zip(file_names(names), classes if renamed else names, strict=True)), overlap
    if is_class_pattern(label_name) and classes:
        return label_name, dict(zip(classes, classes, strict=True)), ""
    return "", {}, ""


# --- finding


def find_predicted(predicted, own_names, scans, pattern, class_of, overlap):
    """Find the predicted label volumes.

    Args:
        predicted: setting PREDICTED.
        own_names: dict of case name without "case_" to the name of its source.
        scans: dict of name to Path of the volumes that DICOM labels may refer to.
        pattern: pattern of names of files with one class; "": none.
        class_of: dict of what stands for {class} in these names to the name of the class.
        overlap: how the classes of predict.py share voxels; "": such files are not of predict.py, or there are none.

    Returns:
        dict of name of the volume to Labels.

    Raises:
        InputError: if two have the same name, or one is damaged.
    """
    root = Path(predicted)
    files = [root] if root.is_file() else sorted(path for path in root.iterdir() if path.is_file())
    plain = [path for path in files if not may_be_dicom(path) and ending_of(path)]
    volumes = {name_of(path): path for path in plain}
    if pattern and not overlap and not root.is_file():
        volumes = {name: path for name, path in find_volumes(root, []).items() if not is_dicom_volume(path)}
    by_class = class_files(pattern, volumes, classes=class_of) if pattern else {}
    in_files = {path for of_class in by_class.values() for path in of_class.values()}
    others = {path: name_of(path).removesuffix(SLICER) for path in plain if path not in in_files}
    if overlap == NESTED:
        by_class = {}  # there is a volume of numbers too
    elif overlap:
        _require_all_classes(root, by_class or {name: {} for name in others.values()}, class_of)
    found = {}
    for path, name in others.items():
        if name not in by_class:
            case = name.removeprefix("case_")
            _add(found, own_names.get(case, case), Labels({path: segments_in(path)}, case))
    for name, of_class in by_class.items():
        case = plain_name(name).removeprefix("case_")
        named = {path: segments_in(path, class_of[part]) for part, path in of_class.items()}
        _add(found, own_names.get(case, case), Labels(named, case))
    dicom = [path for path in files if dicom_labels_in(path)]
    others = [path.name for path in files if ending_of(path) == ".dcm" and path not in dicom]
    print_skipped(root, others, "without labels", named=False)
    cases = {plain_name(name): case.removeprefix("case_") for name, case in safe_names(scans).items()} if dicom else {}
    for name, labels in _referring(dicom, scans).items():
        _add(found, name, labels._replace(case=cases.get(name, name)))
    return found


def _require_all_classes(root, by_class, classes):
    """Raise InputError if a predicted volume lacks the file of a class; `by_class` as of `class_files`."""
    for name, of_class in by_class.items():
        if missing := [part for part in classes if part not in of_class]:
            raise InputError(f"{root}: no label volume of class {missing[0]} for {name}; predict it again")


def find_true(volumes, label_name, names, scans, dicom, class_of):
    """Find the true label volumes.

    Args:
        volumes: dict of name to Path of the volumes in TRUTH.
        label_name: setting LABEL_NAME.
        names: names of the predicted volumes.
        scans: as for `find_predicted`.
        dicom: Paths of the DICOM SEG and RTSTRUCT files in TRUTH.
        class_of: dict of what stands for {class} in file names to the name of the class, if they differ.

    Returns, Raises: as `find_predicted`.
    """
    found = _referring(dicom, scans)
    if is_class_pattern(label_name):
        for name, of_class in class_files(label_name, volumes, names=names).items():
            _add(found, name, Labels({path: segments_in(path, class_of.get(c, c)) for c, path in of_class.items()}))
        used = {path for labels in found.values() for path in labels.files}
        others = {name: path for name, path in volumes.items() if path not in used and name not in found}
        volumes = {name: path for name, path in others.items() if name.removesuffix(SLICER) in names}
        print_skipped("TRUTH", [name for name in others if name not in volumes], "that match no predicted volume")
        label_name = "{id}"
    volumes = {plain_name(name).removeprefix("case_"): path for name, path in volumes.items()}
    pattern = label_name.removeprefix("case_")
    wanted = {pattern.format(id=name): name for name in names}
    others = [label for label in volumes if not _fits(pattern, label)]
    print_skipped("TRUTH", others, f"without the name of a label volume, {label_name}")
    for label, path in volumes.items():
        if label in others or f"{label}{SLICER}" in volumes:
            continue  # the volume that a segmentation of 3D Slicer belongs to
        name = label if label in wanted else label.removesuffix(SLICER)
        _add(found, wanted.get(name, name), Labels({path: segments_in(path)}))
    return found


def _fits(pattern, label):
    """Whether a label volume has a name of a pattern with {id}; 3D Slicer adds .seg to it."""
    before, _, after = pattern.partition("{id}")
    return any(name.startswith(before) and name.endswith(after) for name in (label, label.removesuffix(SLICER)))


def _referring(dicom, scans):
    """dict of name to Labels of DICOM labels: name of the series, or of the file if the series was not found."""
    referring, foreign = by_reference(dicom, scans) if dicom else ({}, [])
    found = {}
    for name, paths in referring.items():
        files = {path: segments_in(path) for path in paths}
        _add(found, plain_name(name), Labels(files, "", scans[name], series_number(scans[name], paths[0])))
    for path in foreign:
        _add(found, name_of(path).removeprefix("case_"), Labels({path: segments_in(path)}))
    return found


def _add(found, name, labels):
    """Add Labels to a dict by name; raises InputError if two have the same name."""
    if (other := found.setdefault(name, labels)) is not labels:
        raise InputError(f"{labels.path}: same case name as {other.path} ({name}); keep only one of them")


def require_scans(predicted, true, where):
    """Raise InputError if DICOM labels have no partner because the series that they refer to was not found.

    Args:
        predicted, true: dicts of name to Labels.
        where: path in which the series was searched for.
    """
    advice = f"the series that it refers to was not found in {where}; set IMAGES to the folder of the series"
    problems = [
        f"{labels.path}: {advice}"
        for side, other in ((predicted, true), (true, predicted))
        for name, labels in side.items()
        if name not in other and not labels.scan and dicom_labels_in(labels.path)
    ]
    if problems:
        raise InputError(summarize(problems, "label files belong to an unknown series"))


def scans_of(pairs):
    """dict of (case, name) of a Pair to the Path of the volume that its labels belong to, if it is known."""
    scans = {(pair.case, pair.name): [labels for labels in pair.labels if labels.scan] for pair in pairs}
    return {key: known[-1].scan for key, known in scans.items() if known and not known[-1].series}


# --- reading


def read_both(predicted, true, ignore=None):
    """Read both label volumes of a pair.

    Args:
        predicted, true: Labels.
        ignore: value of true voxels that do not count, besides IGNORED; None: no other.

    Returns:
        for each side: (k, j, i) array, uint8 or, for overlapping classes, uint16; and its Geometry.

    Raises:
        InputError: if a file is unreadable, or labels do not fit the volume that they belong to.
    """
    images = [_read_numbers(predicted), _read_numbers(true, ignore)]
    if None in images:
        scan = next((labels for labels in (true, predicted) if labels.scan), None)
        grid = Geometry.of(read_volume(scan.scan, scan.series)) if scan else None
        grid = grid or next((Geometry.of(image) for image in images[::-1] if image is not None), None)
        both = zip(images, (predicted, true), strict=True)
        images = [_read_named(labels, grid) if image is None else image for image, labels in both]
    images = map(orient, images)  # so that both have their slices in the same order
    return [(sitk.GetArrayFromImage(image), Geometry.of(image)) for image in images]


def _read_numbers(labels, ignore=None):
    """Label volume of numbers as SimpleITK.Image; None if it has segments."""
    if labels.segments:
        return None
    image = read_volume(labels.path)
    numbers = labels_in(image, labels.path, allow_255=True, ignore=ignore)
    regions = labels.regions or (Regions(labels.overlap) if labels.overlap else None)
    return image_at(regions.sets_of(numbers, labels.path) if regions else numbers, Geometry.of(image))


def _read_named(labels, grid):
    """Segments as SimpleITK.Image on a grid, or on their own if it is None."""
    path = labels.path
    if grid is None and dicom_labels_in(path):
        raise InputError(f"{path}: the series that it refers to was not found; set IMAGES to the folder of the series")
    own = grid
    if grid is None and len(labels.files) > 1:
        first, *others = labels.files
        reader = read_information(first)
        for other in others:
            require_same_grid(read_information(other), other, reader, first)
        own = Geometry.of(reader)
    image, overlap = read_files(labels.files, labels.numbering, own)
    if overlap and not labels.overlap:
        raise InputError(
            f"{path}: overlapping segments of {labels.numbering.largest} classes (at most {MOST_OVERLAPPING}); choose "
            "some with CLASSES"
        )
    return labels_onto(image, grid, path) if grid else image

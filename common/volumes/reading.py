"""Volumes: reading them with SimpleITK, their planes as slices, and other spacings."""

from pathlib import Path

import cv2
import numpy as np
import SimpleITK as sitk

from common.errors import InputError, summarise
from common.files import require_whole_gzip
from common.parallel import ordered_map
from common.volumes.grids import Geometry, at_spacing, onto_grid

VOLUMES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr", ".dcm")
MODALITIES = {"DERIVED", "SECONDARY", "ORIGINAL", "PRIMARY", "AXIAL"}  # words of tags that name nobody
PERCENTILES = (0.5, 99.5)  # that become black and white, where no window is given
TOLERANCE = 0.01  # share by which distances between the slices of a series may differ

# Axis of an array (S, P, L) that a plane runs along, and the axes that are turned round for display: head and front up.
PLANES = {"axial": (0, ()), "coronal": (1, (0,)), "sagittal": (2, (0,))}


def ending_of(path):
    """Ending of the name of a volume, such as ".nii.gz", or "" for none that is known."""
    name = Path(path).name.lower()
    return max((ending for ending in VOLUMES if name.endswith(ending)), key=len, default="")


# --- reading


def read_volume(path, series=None):
    """Read a volume.

    Args:
        path: a file, or a folder with the files of a DICOM series, under whatever names.
        series: which one, where a folder holds several: its number in the order of `list_series`, from 1.

    Returns:
        SimpleITK.Image of three axes and one channel.

    Raises:
        InputError: if it cannot be read or is no volume; for a series with missing or uneven slices or mixed
            orientations; for several series without a choice, listing them.
    """
    channels = read_channels(path, series)
    if len(channels) > 1:
        raise InputError(f"{path} has {len(channels)} channels; expected a volume of three axes and one channel")
    return channels[0]


def read_channels(path, series=None):
    """Read a volume of one or more channels, along the fourth axis or in each voxel; arguments and errors as above.

    Returns:
        list of SimpleITK.Image of three axes.
    """
    path = Path(path)
    try:
        image = _read_series(path, series) if path.is_dir() else sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read: {_reason(error)}") from None
    if path.suffix.lower() == ".gz":
        components = image.GetNumberOfComponentsPerPixel()
        require_whole_gzip(path, image.GetNumberOfPixels() * components * image.GetSizeOfPixelComponent())
    if image.GetDimension() == 2:
        image = sitk.JoinSeries(image)
    if image.GetDimension() == 4 and image.GetNumberOfComponentsPerPixel() == 1:
        return [image[..., channel] for channel in range(image.GetSize()[3])]
    if image.GetDimension() != 3:
        raise InputError(f"{path} has {image.GetDimension()} axes; expected a volume of three")
    if image.GetNumberOfComponentsPerPixel() == 1:
        return [image]
    return [sitk.VectorIndexSelectionCast(image, i) for i in range(image.GetNumberOfComponentsPerPixel())]


def _reason(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line.split("ERROR:")[-1].strip() for line in reversed(lines) if "rror" in line), lines[-1])


def list_series(folder):
    """Series in a folder, as lists of files in the order of their slices, the longest first."""
    identifiers = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    found = [sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), identifier) for identifier in identifiers]
    return sorted((list(files) for files in found), key=lambda files: (-len(files), files[0]))


def _read_series(folder, series):
    found = list_series(folder)
    if not found:
        raise InputError(f"{folder} holds no DICOM series")
    if len(found) > 1 and series is None:
        listed = "; ".join(f"{number}: {len(files)} files" for number, files in enumerate(found, 1))
        raise InputError(f"{folder} holds {len(found)} series ({listed}); give --series the number of one")
    if series is not None and not 1 <= series <= len(found):
        raise InputError(f"{folder} holds {len(found)} series; SERIES is {series}")
    files = found[(series or 1) - 1]
    if len(files) > 1:
        _check_slices(folder, files)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    return reader.Execute()


def _check_slices(folder, files):
    """Refuse a series whose slices do not make up a volume."""

    def place(file):
        reader = sitk.ImageFileReader()
        reader.SetFileName(file)
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise InputError(f"{file} cannot be read: {_reason(error)}") from None
        return reader.GetOrigin(), reader.GetDirection(), reader.GetSize()

    problems = []
    places = list(ordered_map(place, files, problems=problems))
    if problems:
        raise InputError(summarise(problems, f"files of {folder} cannot be read"))
    origins, directions, sizes = zip(*places, strict=True)
    if len(set(sizes)) > 1:
        raise InputError(f"{folder} holds slices of different sizes, {sizes[0][:2]} and others")
    if not np.allclose(directions, directions[0], atol=1e-4):
        raise InputError(f"{folder} mixes slices of different orientation; sort them into a folder each")
    normal = np.reshape(directions[0], (3, 3))[:, 2]
    steps = np.diff(np.array(origins) @ normal)
    usual = np.median(steps)
    if usual == 0 or np.any(np.abs(steps - usual) > TOLERANCE * abs(usual)):
        odd = int(np.argmax(np.abs(steps - usual)))
        raise InputError(
            f"{folder}: slices {odd + 1} and {odd + 2} of {len(files)} are {abs(steps[odd]):.4g} mm apart, others "
            f"{abs(usual):.4g}: slices are missing, doubled or uneven"
        )


def find_volumes(root):
    """Volumes under a folder: files, and folders of DICOM series.

    Args:
        root: folder, or a volume itself.

    Returns:
        dict of a name without ending, with "/" between folders, to Path.

    Raises:
        InputError: if there are none, or two of one name.
    """
    root = Path(root)
    if root.is_file():
        return {root.name[: -len(ending_of(root)) or None]: root}
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    found = {}
    for path in files:
        ending = ending_of(path)
        is_slice = ending in ("", ".dcm")  # DICOM files often have no ending
        if is_slice and not _is_dicom(path):
            continue
        place = path.parent if is_slice else path
        name = place.relative_to(root).as_posix() if place != root else root.name
        name = name if is_slice else name[: -len(ending)]
        if found.setdefault(name, place) != place:
            raise InputError(f"{place} and {found[name]} would be the same case; rename or remove one")
    if not found:
        raise InputError(f"{root} holds no volume ({', '.join(VOLUMES)}) and no DICOM series")
    return found


def match_labels(images, labels, label_name):
    """Volumes of a folder, and the label volumes that go with them by name.

    Args:
        images, labels: folders, or one volume each.
        label_name: name of the labels of a volume, with {id} for that of the volume.

    Returns:
        two dicts of the names of the volumes to Path.

    Raises:
        InputError: if there are none, or one has no partner.
    """
    volumes, found = find_volumes(images), find_volumes(labels)
    if len(volumes) == len(found) == 1:
        return volumes, dict.fromkeys(volumes, *found.values())
    if Path(labels).resolve() == Path(images).resolve():
        volumes = {name: path for name, path in volumes.items() if label_name.format(id=name) in found}
    expected = {name: label_name.format(id=name) for name in volumes}
    alone = [
        f"{volumes[name]} has no labels {label} in {labels}" for name, label in expected.items() if label not in found
    ]
    if alone or not volumes:
        raise InputError(summarise(alone or [f"no name in {labels} fits"], "volumes have no labels; see --label-name"))
    return volumes, {name: found[label] for name, label in expected.items()}


def _is_dicom(path):
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


# --- planes


def orient(image):
    """Turn the axes of a volume so that they run to the left, the back and the head as nearly as they can.

    Axes change places and directions; no voxel is interpolated.
    """
    return sitk.DICOMOrient(image, "LPS")


def planes_of(volume, plane):
    """Slices of a volume for display.

    Args:
        volume: (S, P, L) array of an image of `orient`.
        plane: a name of PLANES.

    Returns:
        view (slices, height, width): axial from the feet up, the front of the body at the top; coronal from front to
        back and sagittal from right to left, the head at the top.
    """
    axis, turned = PLANES[plane]
    return np.moveaxis(np.flip(volume, turned), axis, 0)


def from_planes(slices, plane):
    """The array (S, P, L) whose `planes_of` are the slices given."""
    axis, turned = PLANES[plane]
    return np.flip(np.moveaxis(slices, 0, axis), turned)


def spacing_of_plane(spacing, plane):
    """(row, column) distance in mm of the pixels of a plane; `spacing` is that of the oriented volume, i, j, k."""
    return [mm for axis, mm in enumerate(spacing[::-1]) if axis != PLANES[plane][0]]


# --- resampling


def three(spacing):
    """A setting SPACING, one number or three, as a list of three."""
    return list(spacing) if isinstance(spacing, list | tuple) else [spacing] * 3


def resample(image, spacing):
    """Resample a volume linearly to a spacing in mm, as `at_spacing` takes it."""
    grid = at_spacing(Geometry.of(image), spacing)
    return onto_grid(image, grid, sitk.sitkLinear, sitk.GetArrayViewFromImage(image).min())


# --- a volume as slices


def is_volume(path):
    """Whether a path is a volume: a file of a known ending, or a folder of DICOM files."""
    path = Path(path)
    if path.is_file():
        return bool(ending_of(path))
    inside = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else []
    return any(ending_of(file) in ("", ".dcm") and _is_dicom(file) for file in inside)


def open_slices(path, plane, window=None, percentiles=PERCENTILES, spacing=None, series=None):
    """Slices of a volume, as 0_import_volumes.py makes them and predict.py takes them.

    Args:
        path: as `read_volume`.
        plane: a name of PLANES.
        window: [low, high], values of black and white; None takes the percentiles.
        percentiles: [low, high] of the volume, in percent.
        spacing: mm to resample to, to the left, the back and the head; None: as it is, also for one of the three.
        series: as `read_volume`.

    Returns:
        values, (slices, H, W) array; low and high, of black and white; and the entry of the volume for case.json.

    Raises:
        InputError: as `read_volume`, or if low is not less than high.
    """
    image = read_volume(path, series)
    geometry = Geometry.of(image)
    image = orient(image)
    if spacing and any(spacing):
        image = resample(image, spacing)
    values = planes_of(sitk.GetArrayFromImage(image), plane)
    low, high = window or percentiles_of(values, percentiles)
    if not low < high:
        raise InputError(f"{path} holds the value {low:g} only, between its percentiles {list(percentiles)}")
    grid = Geometry.of(image)
    resampled = list(spacing) if spacing and any(spacing) else None
    volume = {"plane": plane, "geometry": geometry._asdict(), "grid": grid._asdict(), "resampled": resampled}
    return values, (low, high), volume


def percentiles_of(values, percentiles):
    """Percentiles of a volume, as `numpy.percentile` gives them; of 16 bits by a histogram, which is faster.

    Args:
        values: (slices, H, W) array.
        percentiles: in percent.

    Returns:
        list of float.
    """
    if values.dtype not in (np.int16, np.uint16):
        return np.percentile(values, percentiles).tolist()
    lowest = np.iinfo(values.dtype).min
    counts = np.zeros(65536, np.int64)
    for found in ordered_map(lambda plane: _histogram(plane, lowest), values):
        counts += found
    ranks = np.asarray(percentiles) / 100 * (values.size - 1)
    below, above = (
        np.searchsorted(counts.cumsum(), side, "right") + lowest for side in (np.floor(ranks), np.ceil(ranks))
    )
    return (below + (ranks - np.floor(ranks)) * (above - below)).tolist()


def _histogram(plane, lowest):
    plane = np.ascontiguousarray(plane).view(np.uint16)
    counts = cv2.calcHist([plane], [0], None, [65536], [0, 65536]).ravel().astype(np.int64)
    return np.roll(counts, lowest)  # negative numbers are the upper half of the unsigned ones


def slice_entry(shape, index, box=None):
    """Entry of a slice of a volume in case.json.

    Args:
        shape: (height, width) of the slice.
        index: of the slice in the order of `planes_of`.
        box: (left, top, width, height) that was cut from it; None: all of it.
    """
    height, width = shape
    return {
        "image": None,
        "mask": None,
        "image_size": [height, width],
        "box": list(box or (0, 0, width, height)),
        "index": index,
    }


# --- what names a patient


def safe_names(volumes):
    """A name for each volume: its own, "_" for "/", or a number where that holds what a DICOM tag says.

    Args:
        volumes: dict of `find_volumes`.

    Returns:
        dict of the names of `volumes` to these.
    """
    names = {name: name.replace("/", "_") for name in volumes}
    for number, (name, path) in enumerate(volumes.items(), 1):
        if any(value in names[name].lower() for value in tag_values(path)):
            names[name] = f"{number:04d}"
    return names


def tag_values(path):
    """Words of the text tags of a DICOM file or series that could name somebody, in lower case; none for other files.

    Args:
        path: file or folder.
    """
    path = Path(path)
    if path.is_dir():
        path = Path(list_series(path)[0][0])
    elif not _is_dicom(path):
        return set()
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return set()
    keys = [key for key in reader.GetMetaDataKeys() if key.startswith(("0010|", "0008|00", "0008|10", "0020|0010"))]
    text = " ".join(reader.GetMetaData(key) for key in keys if not key.startswith(("0008|0005", "0008|0016")))
    return {word.lower() for word in text.replace("^", " ").split() if len(word) > 2 and word not in MODALITIES}

"""Read volumes with SimpleITK: files, and DICOM series whose slices form a volume."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from common.errors import InputError, summarise
from common.files import require_whole_gzip
from common.parallel import ordered_map

DISTANCE_TOLERANCE = 0.01  # max relative deviation of slice distances in a series


def read_volume(path, series=None):
    """Read a volume.

    Args:
        path: a file, or a folder with the files of a DICOM series, named in any way.
        series: number of the series in the order of `list_series`, from 1, if a folder contains several.

    Returns:
        SimpleITK.Image with three axes and one channel.

    Raises:
        InputError: if it is unreadable or not a volume; if a series has missing or uneven slices or mixed
            orientations; if several series are found but `series` is None (the message lists them).
    """
    channels = read_channels(path, series)
    if len(channels) > 1:
        raise InputError(f"{path}: wrong number of channels ({len(channels)}); expected a 3-D volume with one channel")
    return channels[0]


def read_channels(path, series=None):
    """Read a volume with one or more channels (fourth axis, or voxel components); arguments and errors as above.

    Returns:
        list of SimpleITK.Image with three axes.
    """
    path = Path(path)
    try:
        image = _read_series(path, series) if path.is_dir() else sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path}: cannot be read ({_reason_in(error)}); replace or remove it") from None
    if path.suffix.lower() == ".gz":
        components = image.GetNumberOfComponentsPerPixel()
        require_whole_gzip(path, image.GetNumberOfPixels() * components * image.GetSizeOfPixelComponent())
    if image.GetDimension() == 2:
        image = sitk.JoinSeries(image)
    if image.GetDimension() == 4 and image.GetNumberOfComponentsPerPixel() == 1:
        return [image[..., channel] for channel in range(image.GetSize()[3])]
    if image.GetDimension() != 3:
        raise InputError(f"{path}: wrong number of axes ({image.GetDimension()}); expected a 3-D volume")
    if image.GetNumberOfComponentsPerPixel() == 1:
        return [image]
    return [sitk.VectorIndexSelectionCast(image, i) for i in range(image.GetNumberOfComponentsPerPixel())]


def list_series(folder):
    """Series in a folder as lists of files in slice order, longest series first."""
    identifiers = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    series = [sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), identifier) for identifier in identifiers]
    return sorted((list(files) for files in series), key=lambda files: (-len(files), files[0]))


def _read_series(folder, series):
    candidates = list_series(folder)
    if not candidates:
        raise InputError(f"{folder}: no DICOM series found; choose a folder with DICOM files")
    if len(candidates) > 1 and series is None:
        listed = "; ".join(
            f"{number}: {len(files)} file{'s' * (len(files) != 1)}" for number, files in enumerate(candidates, 1)
        )
        raise InputError(f"{folder}: contains {len(candidates)} series ({listed}); choose one with --series")
    if series is not None and not 1 <= series <= len(candidates):
        raise InputError(f"SERIES: no series {series} in {folder} (found {len(candidates)}); use a number up to that")
    files = candidates[(series or 1) - 1]
    if len(files) > 1:
        _check_slices(folder, files)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    return reader.Execute()


def _check_slices(folder, files):
    """Raise InputError if the slices of a series do not form a volume."""
    problems = []
    headers = list(ordered_map(_read_header, files, problems=problems))
    if problems:
        raise InputError(summarise(problems, f"files of {folder} cannot be read"))
    origins, directions, sizes = zip(*headers, strict=True)
    if len(set(sizes)) > 1:
        first_size = "x".join(map(str, sizes[0][:2]))
        raise InputError(f"{folder}: slices differ in size ({first_size} and others); sort them into separate folders")
    if not np.allclose(directions, directions[0], atol=1e-4):
        raise InputError(f"{folder}: slices differ in orientation; sort them into separate folders")
    normal = np.reshape(directions[0], (3, 3))[:, 2]
    distances = np.diff(np.array(origins) @ normal)
    median = np.median(distances)
    deviations = np.abs(distances - median)
    if median == 0 or np.any(deviations > DISTANCE_TOLERANCE * abs(median)):
        worst = int(np.argmax(deviations))
        raise InputError(
            f"{folder}: slices are missing, doubled or uneven (slices {worst + 1} and {worst + 2} of {len(files)} are "
            f"{abs(distances[worst]):.4g} mm apart, others {abs(median):.4g} mm); add missing ones or remove doubles"
        )


def _read_header(file):
    """Origin, direction and size of a slice in a series."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{file}: cannot be read ({_reason_in(error)}); replace or remove it") from None
    return reader.GetOrigin(), reader.GetDirection(), reader.GetSize()


def _reason_in(error):
    """Line of a SimpleITK message that contains the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line.split("ERROR:")[-1].strip() for line in reversed(lines) if "rror" in line), lines[-1])

"""Read volumes with SimpleITK: files, and DICOM series whose slices form a volume; only whole and possible ones."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from common.devices import silenced_libraries
from common.errors import InputError
from common.lazy import Lazy
from common.volumes.dicom import list_series, read_series  # noqa: F401
from common.volumes.finding import VOLUME_ENDINGS, ending_of, is_dicom
from common.volumes.grids import Geometry, image_at, require_same_grid
from common.volumes.headers import ADVICE, FARTHEST, check_axes, check_spacing
from common.volumes.paths import plain_files
from common.volumes.whole import check_header, check_stream, require_file
from common.words import number_of

sitk = Lazy("SimpleITK")

READERS = {".nii": "NiftiImageIO", ".nii.gz": "NiftiImageIO", ".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO"}
READERS |= {".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
LARGEST = float(np.finfo(np.float32).max)  # larger gray values are not finite in what networks compute


def read_volume(path, series=None, not_finite=None):
    """Read a volume.

    Args:
        path: a file, or a folder with the files of a DICOM series, named in any way.
        series: number of the series in the order of `list_series`, from 1, or a part of its description, if a folder
            contains several.
        not_finite: value to replace NaN, infinity and numbers beyond float32 by; None: they are an error.

    Returns:
        SimpleITK.Image with three axes and one channel.

    Raises:
        InputError: if it is unreadable, damaged, cut short or not a volume; if it contains numbers that are not finite;
            if a series has missing or uneven slices or mixed orientations; if several series are found but `series` is
            None (the message lists them).
    """
    channels = read_channels(path, series, not_finite)
    if len(channels) > 1:
        raise InputError(f"{path}: wrong number of channels ({len(channels)}); expected a 3-D volume with one channel")
    return channels[0]


def read_further(paths, first, first_path, series=None, not_finite=None):
    """Read channels that have a file of their own.

    Args:
        paths: Paths of all channels but the first.
        first, first_path: first channel, SimpleITK.Image, and its Path.
        series, not_finite: as for `read_volume`.

    Returns:
        list of SimpleITK.Image.

    Raises:
        InputError: as `read_volume`, or if one has another grid than the first.
    """
    channels = []
    for path in paths:
        channels.append(read_volume(path, series, not_finite))
        require_same_grid(channels[-1], path, first, first_path)
    return channels


def read_channels(path, series=None, not_finite=None):
    """Read a volume with one or more channels (fourth axis, or voxel components); arguments and errors as above.

    Returns:
        list of SimpleITK.Image with three axes.
    """
    path = Path(path)
    try:
        channels = _channels_of(_read(path, series, not_finite), path)
        _check_geometry(channels[0], path)
        return [_finite(channel, path, not_finite) for channel in channels]
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "allocate" in str(error):
            raise MemoryError(f"{path}: out of memory") from None
        raise InputError(f"{path}: cannot be read ({_reason_in(error)}); replace or remove it") from None


def _read(path, series, not_finite):
    if path.is_dir():
        return read_series(path, series)
    require_file(path)
    ending = ending_of(path)
    if ending in ("", ".dcm"):
        if is_dicom(path):
            return read_series(path)
        expected = f"a DICOM file or one that ends in {', '.join(VOLUME_ENDINGS)}"
        raise InputError(f"{path}: not a volume, or damaged; expected {expected}")
    data = check_header(path)
    _require_memory(path, data.size)
    if data.doubt:
        print(f"{path}: {data.doubt}", flush=True)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(READERS[ending])
    also = [data.file] if data.file != path else []
    with plain_files([path], also) as (file,), ThreadPoolExecutor(1) as thread:
        whole = thread.submit(check_stream, path, data)  # while SimpleITK unpacks the same data
        try:
            reader.SetFileName(str(file))
            with silenced_libraries(modules=False):  # what ITK prints, it raises, or `whole` does
                image = reader.Execute()
        finally:
            hidden = whole.result()
    return _with_hidden(image, hidden, path, not_finite) if len(hidden) else image


def read_information(path):
    """Read the header of a volume file.

    Args:
        path: Path of a file, not of a folder.

    Returns:
        SimpleITK.ImageFileReader that has read the size and the other entries of the header, but no voxels.

    Raises:
        InputError, RuntimeError: if the header is invalid.
    """
    also = []
    if ending_of(path) in READERS:
        data = check_header(path)
        also = [data.file] if data.file != path else []
    reader = sitk.ImageFileReader()
    with plain_files([path], also) as (file,), silenced_libraries(modules=False):  # what ITK prints, it raises
        reader.SetFileName(str(file))
        reader.ReadImageInformation()
    return reader


def _with_hidden(image, positions, path, replacement):
    """Replace the voxels at positions of the file, which were NaN or infinity and that the reader turned into 0."""
    if replacement is None or image.GetNumberOfComponentsPerPixel() > 1:
        raise _not_finite(path, len(positions))
    values = sitk.GetArrayFromImage(image)
    values.ravel()[positions] = replacement
    _print_replaced(path, len(positions), replacement)
    replaced = sitk.GetImageFromArray(values, isVector=False)
    replaced.CopyInformation(image)
    return replaced


def _not_finite(path, count):
    voxels = number_of(count, "voxel")
    advice = "correct it or, if it is an image, pass --not-finite"
    return InputError(f"{path}: NaN, infinity or a number beyond float32 in {voxels}; {advice}")


def _print_replaced(path, count, replacement):
    print(f"{path}: replaced {number_of(count, 'voxel')} with NaN or infinity by {replacement:g}", flush=True)


def _require_memory(path, size):
    """Raise InputError if an array of `size` bytes does not fit into the memory of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**40
    if size > memory:
        raise InputError(
            f"{path}: too large ({size / 2**30:.1f} GB of voxels, this machine has {memory / 2**30:.1f} GB of memory); "
            "scale it down or cut it"
        )


def _channels_of(image, path):
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"{path}: contains complex numbers; convert it to real ones")
    if image.GetDimension() == 2:
        image = sitk.JoinSeries(image)
    components = image.GetNumberOfComponentsPerPixel()
    if image.GetDimension() == 4 and components == 1:
        return [image[..., channel] for channel in range(image.GetSize()[3])]
    if image.GetDimension() != 3:
        raise InputError(f"{path}: wrong number of axes ({image.GetDimension()}); expected a 3-D volume")
    if components == 1:
        return [image]
    return [sitk.VectorIndexSelectionCast(image, i) for i in range(components)]


def _check_geometry(image, path):
    geometry = Geometry.of(image)
    try:
        check_spacing(geometry.spacing)
        check_axes(np.reshape(geometry.direction, (3, 3)).T)
    except ValueError as error:
        raise InputError(f"{path}: impossible {error}; {ADVICE}, or resample it") from None
    numbers = np.array([*geometry.origin, *geometry.direction])
    if not np.isfinite(numbers).all() or np.abs(numbers).max() > FARTHEST:
        raise InputError(f"{path}: impossible position or axes (origin {geometry.origin}); {ADVICE}")


def _finite(image, path, replacement):
    """The image, without numbers that are not finite."""
    values = sitk.GetArrayViewFromImage(image)
    if values.dtype.kind != "f" or (values.min() >= -LARGEST and values.max() <= LARGEST):
        return image
    wrong = ~(np.abs(values) <= LARGEST)
    if replacement is None:
        raise _not_finite(path, int(wrong.sum()))
    values = values.copy()
    values[wrong] = replacement
    _print_replaced(path, int(wrong.sum()), replacement)
    return image_at(values, Geometry.of(image))


def _reason_in(error):
    """Reason in the message of SimpleITK, without names and addresses of its objects."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines[-1].startswith("[nrrd]"):  # the last of them is the innermost
        return lines[-1].split(": ", 1)[-1]
    reason = next((line.split("ERROR:")[-1] for line in lines if "ERROR:" in line), lines[-1])
    return re.sub(r"\w+\(0x[0-9a-f]+\):|ReadImageInformation:", "", reason).strip()

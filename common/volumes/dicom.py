"""Find DICOM series with pydicom and check them; GDCM, which reads the pixels, silently drops or fills damaged ones."""

import logging
import math
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.devices import silenced_libraries
from common.errors import InputError, summarize
from common.lazy import Lazy
from common.parallel import ordered_map
from common.system_errors import raise_system_error
from common.volumes.finding import is_dicom, may_be_dicom, print_skipped
from common.volumes.paths import plain_files
from common.volumes.whole import ADVICE, check_spacing, require_file
from common.words import number_of

pydicom, uids, sitk = Lazy("pydicom"), Lazy("pydicom.uid"), Lazy("SimpleITK")

DISTANCE_TOLERANCE = 0.01  # max relative deviation of slice distances in a series
SPACING_TAGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
CODING = ("BitsStored", "HighBit", "PixelRepresentation", "PhotometricInterpretation")
NO_IMAGES = ("1.3.12.2.1107.5.9.1", "1.2.840.113619.4.26", "1.2.840.113619.4.27")  # private classes of reports
MAX_ITEMS = 10**6  # fragments of compressed pixels in a file

warnings.filterwarnings("ignore", module="pydicom")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


class Header(NamedTuple):
    """What a DICOM file says about its image.

    Attributes:
        file: Path.
        series: SeriesInstanceUID.
        size: (rows, columns, samples, bits).
        coding: (BitsStored, HighBit, PixelRepresentation, PhotometricInterpretation) as text.
        frames: number of frames.
        spacing: mm between rows and between columns.
        orientation: six direction cosines; None if missing.
        positions: position of each frame in mm; empty if missing.
        description: modality and series description, as text.
        echo: echo time in ms, as text; "" without one.
    """

    file: Path
    series: str
    size: tuple
    coding: tuple
    frames: int
    spacing: tuple
    orientation: tuple | None
    positions: tuple
    description: str = ""
    echo: str = ""


def list_series(folder):
    """Series of images in a folder as lists of files in slice order, longest series first; each echo is a series.

    Raises:
        InputError: if a DICOM file is damaged.
    """
    return [[str(header.file) for header in series] for series in find_series(folder)]


def find_series(folder, others=None):
    """Like `list_series`, with the Header of each file; without a series, an empty list.

    Args:
        folder: Path.
        others: list that collects the names of DICOM files other than images, such as reports.
    """
    names = sorted(path for path in Path(folder).iterdir() if _is_candidate(path))
    problems, series, others = [], {}, [] if others is None else others
    for name, header in zip(names, ordered_map(read_header, names, problems=problems), strict=False):
        if header:
            series.setdefault(header.series, []).append(header)
        elif not problems:
            others.append(name.name)
    if problems:
        raise InputError(summarize(problems, f"DICOM files of {folder} cannot be read"))
    parts = [part for headers in series.values() for part in _by_echo(headers)]
    return sorted(map(_in_order, parts), key=lambda files: (-len(files), files[0].file))


def _by_echo(headers):
    """Files of a series for each of its echoes, if all have equally many; else all of them together."""
    echoes = {}
    for header in headers:
        echoes.setdefault(header.echo, []).append(header)
    return list(echoes.values()) if len({len(files) for files in echoes.values()}) == 1 else [headers]


def _is_candidate(path):
    """Whether a file is DICOM, or should be, by its ending .dcm or its length of 0; a link to nothing is not."""
    if path.name.startswith(".") or not may_be_dicom(path):
        return False
    return path.is_file() and (path.suffix.lower() == ".dcm" or is_dicom(path) or not path.stat().st_size)


def _in_order(headers):
    """Sort the files of a series along the normal of their slices, as far as their headers tell."""
    if any(header.orientation is None or not header.positions for header in headers):
        return headers
    normal = _normal(headers[0])
    return sorted(headers, key=lambda header: (round(float(np.dot(header.positions[0], normal)), 4), header.file))


def _normal(header):
    return np.cross(header.orientation[:3], header.orientation[3:])


# --- headers


def read_header(path):
    """Read the Header of a DICOM file, and check that its pixels are complete.

    Returns:
        Header, or None for a file without an image, such as a report.

    Raises:
        InputError: if the file is damaged, cut short, or without pixel spacing.
    """
    path = Path(path)
    require_file(path)
    try:
        with open(path, "rb") as file:
            pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # we check what we use
            content = pydicom.dcmread(file, stop_before_pixels=True)
            if not _is_image(content):
                return None
            header = _header_of(path, content)
            if content.file_meta.get("TransferSyntaxUID") != uids.DeflatedExplicitVRLittleEndian:
                check_pixels(file, content, header.size, header.frames)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # pydicom raises anything on a damaged file
        raise_system_error(error, path)
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise InputError(f"{path}: damaged DICOM file ({reason}); {ADVICE}") from None
    return header


def _is_image(content):
    """Whether a file contains an image, by its class and size; a segmentation is none."""
    kinds = [str(content.get("SOPClassUID", "")), str(content.file_meta.get("MediaStorageSOPClassUID", ""))]
    names = [uids.UID(kind).name for kind in kinds if kind not in NO_IMAGES]
    if any(name.startswith("Segmentation") for name in names):
        return False
    damaged = any(not name[:1].isalpha() for name in names)
    return "Rows" in content or damaged or any("Image" in name for name in names)


def _header_of(path, content):
    size = tuple(int(content.get(name) or 0) for name in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated"))
    frames = int(content.get("NumberOfFrames") or 1)
    if not all(1 <= number < 2**16 for number in size) or not 1 <= frames < 2**20:
        raise InputError(f"invalid image size ({size[0]} rows, {size[1]} columns, {frames} frames); {ADVICE}")
    for name in ("RescaleSlope", "RescaleIntercept"):
        value = float(1 if content.get(name) in (None, "") else content.get(name))
        if not math.isfinite(value) or (name == "RescaleSlope" and not value):
            raise InputError(f"invalid {name} ({value:g}); {ADVICE}")
    shared, frame_groups = (content.get(f"{name}FunctionalGroupsSequence") or [] for name in ("Shared", "PerFrame"))
    groups = [*shared, *frame_groups]
    places = [_from_groups([group], "PlanePositionSequence", "ImagePositionPatient") for group in frame_groups]
    if not places or None in places:
        places = [content.get("ImagePositionPatient")] if content.get("ImagePositionPatient") else []
    orientation = content.get("ImageOrientationPatient")
    orientation = orientation or _from_groups(groups, "PlaneOrientationSequence", "ImageOrientationPatient")
    return Header(
        path,
        str(content.SeriesInstanceUID),
        size,
        tuple(str(content.get(name)) for name in CODING),
        frames,
        _spacing_of(content, groups),
        orientation and finite_numbers(orientation, 6, "ImageOrientationPatient"),
        tuple(finite_numbers(place, 3, "ImagePositionPatient") for place in places),
        " ".join(filter(None, (str(content.get(name) or "") for name in ("Modality", "SeriesDescription")))),
        str(content.get("EchoTime") or ""),
    )


def _from_groups(groups, sequence, name):
    """First value of an element in the functional groups of a multi-frame image; None if missing."""
    items = [item for group in groups for item in group.get(sequence) or []]
    return next((item.get(name) for item in items if item.get(name)), None)


def _spacing_of(content, groups):
    value = next((content.get(name) for name in SPACING_TAGS if content.get(name)), None)
    value = value or _from_groups(groups, "PixelMeasuresSequence", "PixelSpacing")
    if not value:
        raise InputError("no pixel spacing (PixelSpacing is missing); export it again with spacing")
    spacing = finite_numbers(value, 2, "PixelSpacing")
    try:
        check_spacing(spacing)
    except ValueError:
        raise InputError(f"invalid pixel spacing ({spacing[0]:g} and {spacing[1]:g} mm); {ADVICE}") from None
    return spacing


def finite_numbers(values, count, name):
    """Tuple of `count` numbers of an element; InputError if there are not as many, or some are not finite."""
    numbers = tuple(map(float, values))
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise InputError(f"invalid {name} ({', '.join(map(str, numbers))}); {ADVICE}")
    return numbers


def check_pixels(file, content, size, frames):
    """Check the length of the pixel data, at whose element the file was left.

    Args:
        file: open file.
        content: pydicom.Dataset up to its pixels.
        size: (rows, columns, samples, bits).
        frames: number of frames.

    Raises:
        InputError: if pixels are missing.
    """
    order = "little" if content.original_encoding[1] else "big"
    tag = [int.from_bytes(file.read(2), order) for _ in range(2)]
    if tag not in ([0x7FE0, 0x0010], [0x7FE0, 0x0008], [0x7FE0, 0x0009]):
        raise InputError(f"no pixels, or cut short before them; {ADVICE}")
    if not content.original_encoding[0]:
        file.read(4)  # explicit VR: its name and two reserved bytes
    length = int.from_bytes(file.read(4), order)
    start = file.tell()
    left = file.seek(0, 2) - start
    rows, columns, samples, bits = size
    expected = math.ceil(frames * rows * columns * samples * bits / 8)
    if length == 0xFFFFFFFF:
        file.seek(start)
        _check_fragments(file, left)
    elif length > left:
        raise InputError(f"cut short ({left} bytes of pixels, expected {length}); {ADVICE}")
    elif not expected <= length <= expected + 1 and "422" not in str(content.get("PhotometricInterpretation")):
        raise InputError(f"damaged header ({length} bytes of pixels, expected {expected}); {ADVICE}")


def _check_fragments(file, left):
    """Check that the fragments of compressed pixels reach up to their end mark."""
    for _ in range(MAX_ITEMS):
        tag, length = file.read(4), int.from_bytes(file.read(4), "little")
        left -= 8 + length
        if tag == b"\xfe\xff\xdd\xe0":
            return
        if tag != b"\xfe\xff\x00\xe0" or left < 0:
            break
        file.seek(length, 1)
    raise InputError(f"cut short or damaged within its compressed pixels; {ADVICE}")


# --- series


def read_series(path, series=None):
    """Read a DICOM series as a volume.

    Args:
        path: folder, or one file.
        series: number of the series in the order of `list_series`, from 1, or a part of its description, if a folder
            contains several.

    Returns:
        SimpleITK.Image.

    Raises:
        InputError: if the slices do not form a volume, or several series are found but `series` is None.
        RuntimeError: if memory is too small.
    """
    headers = choose_series(path, series) if path.is_dir() else [read_header(path)]
    if headers == [None]:
        raise InputError(f"{path}: DICOM file without an image; choose a file or folder with images")
    if len(headers) > 1:
        _check_slices(path, headers)
    elif headers[0].frames > 1:
        _check_frames(headers[0])
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    with plain_files([header.file for header in headers]) as files:
        reader.SetFileNames([str(file) for file in files])
        with silenced_libraries():  # what ITK prints, it raises
            try:
                image = reader.Execute()
            except RuntimeError as error:
                if "allocate" in str(error):
                    raise
                raise InputError(_undecodable(path, zip(headers, files, strict=True))) from None
    spacing = headers[0].spacing[::-1]
    if not np.allclose(image.GetSpacing()[:2], spacing, rtol=1e-3):
        found = " and ".join(f"{mm:g}" for mm in image.GetSpacing()[:2])
        raise InputError(f"{headers[0].file}: unclear pixel spacing ({found} mm, or {spacing[0]:g} and {spacing[1]:g})")
    return image


def _undecodable(path, files):
    """Message about pixels that GDCM does not decode, with the first such file of pairs of Header and name."""
    for header, file in files:
        try:
            sitk.ReadImage(str(file))
        except RuntimeError:
            syntax = pydicom.dcmread(header.file, stop_before_pixels=True).file_meta.get("TransferSyntaxUID", "")
            found = f"{uids.UID(str(syntax)).name or 'unknown coding'}, {header.coding[-1]}"
            return f"{header.file}: pixels cannot be decoded ({found}); copy it again, or save it as gray values"
    return f"{path}: slices cannot be read together; copy the series again or restore it"


def choose_series(folder, series, quiet=False):
    """List of Header of one series in a folder; arguments and errors as for `read_series`.

    Args:
        quiet: whether not to print the number of other files.
    """
    others = []
    candidates = find_series(folder, others)
    if not quiet:
        print_skipped(folder, others, "without an image", named=False)
    if not candidates:
        raise InputError(f"{folder}: no DICOM images found; choose a folder with DICOM images")
    listed = "; ".join(f"{number}: {_in_words(files, candidates)}" for number, files in enumerate(candidates, 1))
    if len(candidates) > 1 and series is None:
        raise InputError(
            f"{folder}: contains {len(candidates)} series ({listed}); choose one with --series, a number or text"
        )
    if isinstance(series, str):
        found = [files for files in candidates if series.lower() in _in_words(files, candidates).lower()]
        if len(found) != 1:
            raise InputError(
                f"SERIES: {series!r} fits {len(found)} series in {folder} ({listed}); use a part of one description"
            )
        return found[0]
    if series is not None and not 1 <= series <= len(candidates):
        raise InputError(f"SERIES: no series {series} in {folder} (found {listed}); use one of these numbers")
    return candidates[(series or 1) - 1]


def _in_words(headers, candidates):
    """A series as text, such as "MR T2 FSE, echo time 20 ms, 22 files"."""
    first = headers[0]
    echoes = {files[0].echo for files in candidates if files[0].series == first.series}
    parts = [
        first.description,
        f"echo time {first.echo} ms" if len(echoes) > 1 else "",
        number_of(len(headers), "file"),
    ]
    return ", ".join(filter(None, parts))


def _check_slices(folder, headers):
    """Raise InputError if the slices of a series do not form a volume."""
    sort = "sort them into separate folders"
    if framed := [header.file for header in headers if header.frames > 1]:
        raise InputError(f"{framed[0]}: has several frames, like a volume, within a series of {len(headers)}; {sort}")
    if sizes := sorted({header.size[:2] for header in headers}):
        first = "x".join(map(str, headers[0].size[1::-1]))
        if len(sizes) > 1:
            raise InputError(f"{folder}: slices differ in size ({first} and others); {sort}")
    if len({(header.size[2:], header.coding) for header in headers}) > 1:
        raise InputError(f"{folder}: slices differ in channels or bits; {sort}")
    if alone := [header.file for header in headers if header.orientation is None or not header.positions]:
        raise InputError(f"{alone[0]}: no position or orientation; export the series again, or use one file")
    if not np.allclose([header.spacing for header in headers], headers[0].spacing, rtol=1e-3):
        raise InputError(f"{folder}: slices differ in pixel spacing; {sort}")
    if not np.allclose([header.orientation for header in headers], headers[0].orientation, atol=1e-4):
        raise InputError(f"{folder}: slices differ in orientation; {sort}")
    _check_distances(folder, headers[0], [header.positions[0] for header in headers], "slices")


def _check_frames(header):
    if len(header.positions) == header.frames and header.orientation:
        _check_distances(header.file, header, header.positions, "frames")


def _check_distances(path, first, positions, noun):
    across = np.array(_normal(first))
    if not math.isclose(float(np.linalg.norm(across)), 1, abs_tol=1e-3):
        raise InputError(f"{path}: invalid ImageOrientationPatient (not at right angles); {ADVICE}")
    distances = np.diff(np.array(positions) @ across)
    median = np.median(distances)
    deviations = np.abs(distances - median)
    if median == 0 or np.any(deviations > DISTANCE_TOLERANCE * abs(median)):
        worst = int(np.argmax(deviations))
        advice = "add missing ones or remove doubles"
        raise InputError(
            f"{path}: {noun} are missing, doubled or uneven ({noun} {worst + 1} and {worst + 2} of {len(positions)} "
            f"are {abs(distances[worst]):.4g} mm apart, others {abs(median):.4g} mm); {advice}"
        )
    sideways = np.array(positions) - np.outer(np.array(positions) @ across, across)
    if np.ptp(sideways, axis=0).max() > DISTANCE_TOLERANCE * max(abs(median), *first.spacing) * len(positions):
        raise InputError(
            f"{path}: {noun} are shifted sideways, like a tilted gantry; resample them into a volume first"
        )

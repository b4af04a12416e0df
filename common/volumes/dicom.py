"""Find DICOM series with pydicom and check them; GDCM, which reads the pixels, silently drops or fills damaged ones."""

from pathlib import Path

import numpy as np

from common.devices import silenced_libraries
from common.errors import InputError, summarize
from common.lazy import Lazy
from common.parallel import ordered_map
from common.volumes.dicom_headers import read_header
from common.volumes.finding import is_dicom, may_be_dicom, print_skipped
from common.volumes.headers import ADVICE
from common.volumes.paths import plain_files
from common.words import number_of

pydicom, uids, sitk = Lazy("pydicom"), Lazy("pydicom.uid"), Lazy("SimpleITK")

DISTANCE_TOLERANCE = 0.01  # max relative deviation of slice distances in a series
ANGLE_TOLERANCE = 5e-3  # max deviation of products of the direction cosines: 0.3 degrees, or lengths by 0.25%


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
        if len({header.scaling for header in headers}) > 1 and headers[0].size[2] == 1:
            reader.SetOutputPixelType(sitk.sitkFloat64)  # otherwise that of the first slice, and the others are cut
        with silenced_libraries(modules=False):  # what ITK prints, it raises
            try:
                image = reader.Execute()
            except RuntimeError as error:
                if "allocate" in str(error):
                    raise
                raise InputError(_undecodable(path, zip(headers, files, strict=True))) from None
    if doubt := next((header.doubt for header in headers if header.doubt), ""):
        print(f"{path}: {doubt}", flush=True)
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
    for name, values in (
        ("PatientID, as if of several patients", {header.patient for header in headers}),
        ("FrameOfReferenceUID", {header.frame_of_reference for header in headers}),
    ):
        if len(values - {""}) > 1:
            raise InputError(f"{folder}: slices differ in {name}; {sort}")
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
    across, axes = np.array(_normal(first)), np.reshape(first.orientation, (2, 3))
    if not np.allclose(axes @ axes.T, np.eye(2), atol=ANGLE_TOLERANCE):  # GDCM straightens others
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

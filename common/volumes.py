"""Volumes: reading them with SimpleITK, their planes as slices, and masks of slices back on the volume's own grid."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import SimpleITK as sitk

from common.cases import read_case_record
from common.errors import InputError, summarise
from common.images import paste
from common.parallel import ordered_map
from common.postprocess import clean

VOLUMES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr", ".dcm")
WRITTEN = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
MODALITIES = {"DERIVED", "SECONDARY", "ORIGINAL", "PRIMARY", "AXIAL"}  # words of tags that name nobody
TOLERANCE = 0.01  # share by which distances between the slices of a series may differ

# Axis of an array (S, P, L) that a plane runs along, and the axes that are turned round for display: head and front up.
PLANES = {"axial": (0, ()), "coronal": (1, (0,)), "sagittal": (2, (0,))}


class Geometry(NamedTuple):
    """Where the voxels of a volume are.

    Attributes:
        size: voxels along the axes i, j, k.
        spacing: mm between them.
        origin: place of the first voxel in mm, LPS.
        direction: the three axes as the columns of a matrix, row by row.
    """

    size: tuple
    spacing: tuple
    origin: tuple
    direction: tuple

    @classmethod
    def of(cls, image):
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    def to_voxels(self, points):
        """Places in mm, (N, 3) LPS, as (N, 3) i, j, k; a whole number is the middle of a voxel."""
        axes = np.reshape(self.direction, (3, 3)) * np.array(self.spacing)
        return np.linalg.solve(axes, (np.asarray(points) - np.array(self.origin)).T).T


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
    path = Path(path)
    try:
        image = _read_series(path, series) if path.is_dir() else sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read: {_reason(error)}") from None
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[..., 0]
    if image.GetDimension() == 2:
        image = sitk.JoinSeries(image)
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"{path} has {image.GetDimension()} axes and {image.GetNumberOfComponentsPerPixel()} channels; "
            "expected a volume of three axes and one channel"
        )
    return image


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
    rest = [mm for axis, mm in enumerate(spacing[::-1]) if axis != PLANES[plane][0]]
    return rest


# --- resampling


def resample(image, spacing):
    """Resample a volume linearly to a spacing in mm, three numbers of which None keeps its own.

    The outer faces of the volume stay where they are, to a voxel.
    """
    spacing = [new or old for new, old in zip(spacing, image.GetSpacing(), strict=True)]
    size = [
        max(1, round(n * old / new)) for n, old, new in zip(image.GetSize(), image.GetSpacing(), spacing, strict=True)
    ]
    shift = [(new - old) / 2 for old, new in zip(image.GetSpacing(), spacing, strict=True)]
    origin = np.array(image.GetOrigin()) + np.reshape(image.GetDirection(), (3, 3)) @ shift
    return sitk.Resample(
        image,
        size,
        sitk.Transform(),
        sitk.sitkLinear,
        origin.tolist(),
        spacing,
        image.GetDirection(),
        float(sitk.GetArrayViewFromImage(image).min()),
        image.GetPixelID(),
    )


def onto_grid(labels, geometry):
    """Labels on another grid: the nearest voxel's, 0 outside.

    Args:
        labels: SimpleITK.Image.
        geometry: Geometry of the result.
    """
    return sitk.Resample(
        labels,
        list(geometry.size),
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        list(geometry.origin),
        list(geometry.spacing),
        list(geometry.direction),
        0,
        labels.GetPixelID(),
    )


def label_image(array, geometry):
    """SimpleITK.Image of an array (k, j, i) of labels with a Geometry."""
    labels = sitk.GetImageFromArray(np.ascontiguousarray(array, np.uint8))
    labels.SetSpacing(geometry.spacing)
    labels.SetOrigin(geometry.origin)
    labels.SetDirection(geometry.direction)
    return labels


def labels_on(array, grid, geometry):
    """A label volume on the grid that a volume had before it was turned or resampled.

    Args:
        array: (S, P, L) uint8 on the grid of the slices.
        grid: Geometry of the slices.
        geometry: Geometry of the result; on the same voxels as `grid` they are copied, not interpolated.

    Returns:
        SimpleITK.Image.
    """
    labels = label_image(array, grid)
    name = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(geometry.direction)
    turned = sitk.DICOMOrient(labels, name)
    if turned.GetSize() == tuple(geometry.size) and np.allclose(turned.GetOrigin(), geometry.origin, atol=1e-3):
        turned.SetSpacing(geometry.spacing)
        turned.SetOrigin(geometry.origin)
        turned.SetDirection(geometry.direction)
        return turned
    return onto_grid(labels, geometry)


# --- what names a patient


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


# --- the way back


def labels_of_slices(record, masks):
    """Label volume of the masks of a case.

    Args:
        record: content of case.json, of a case that 0_import_volumes.py made.
        masks: dict of the name of a slice to its mask (SIZE, SIZE), 0 and 255 or class numbers.

    Returns:
        SimpleITK.Image uint8 on the grid of the volume that the case came from; 255 becomes 1, and 0 stands where no
        slice is.
    """
    grid, geometry = (Geometry(*map(tuple_of, record["volume"][name].values())) for name in ("grid", "geometry"))
    array = np.zeros(grid.size[::-1], np.uint8)
    slices = planes_of(array, record["volume"]["plane"])
    for name, mask in masks.items():
        entry = record["slices"][name]
        slices[entry["index"]] = paste(np.where(mask == 255, 1, mask), entry["box"], entry["image_size"])
    return labels_on(array, grid, geometry)


def tuple_of(values):
    return tuple(values) if isinstance(values, list) else values


def write_labels(image, path):
    """Write a label volume, compressed where the format can."""
    sitk.WriteImage(image, str(path), useCompression=True)


class CaseVolumes:
    """Collects predicted masks and writes a label volume of each case that came from a volume, one at a time.

    Args:
        folder: Path to write <case><ending> and volumes.csv to.
        ending: one of WRITTEN, or "" to write none.
        cleaning: arguments of `common.postprocess.clean` for the volume as a whole.
    """

    def __init__(self, folder, ending, cleaning=None):
        self.folder, self.ending, self.cleaning = folder, ending, cleaning
        self.case, self.record, self.masks, self.rows = None, {}, {}, []

    def add(self, case, path, numbers):
        """Take the class numbers (SIZE, SIZE) of a slice; slices of a case come one after the other.

        Args:
            case: name for the file.
            path: Path of the slice, <case folder>/x/<name>.png.
        """
        if not self.ending:
            return
        place = path.parent.parent
        if place != self.case:
            self._write()
            self.case, self.masks = place, {}
            self.name, self.record = case or place.name, read_case_record(place)
        if "volume" in self.record and path.stem in self.record["slices"]:
            self.masks[path.stem] = numbers

    def close(self):
        """Write what is left, and the table.

        Returns:
            number of label volumes.
        """
        self._write()
        if self.rows:
            pd.DataFrame(self.rows).to_csv(self.folder / "volumes.csv", index=False)
        return len({row["case"] for row in self.rows})

    def _write(self):
        if not self.masks:
            return
        labels = labels_of_slices(self.record, self.masks)
        if self.cleaning:
            labels = label_image(clean(sitk.GetArrayFromImage(labels), **self.cleaning), Geometry.of(labels))
        write_labels(labels, self.folder / f"{self.name}{self.ending}")
        millilitres = np.prod(labels.GetSpacing()) / 1000
        counts = np.bincount(sitk.GetArrayViewFromImage(labels).ravel())
        for number in range(1, max(len(counts), 2)):
            voxels = int(counts[number]) if number < len(counts) else 0
            self.rows.append({"case": self.name, "class": number, "voxels": voxels, "ml": voxels * millilitres})
        self.masks = {}

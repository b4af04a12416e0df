"""Headers of DICOM files, read with pydicom and checked: GDCM, which reads the pixels, ignores what is wrong."""

import logging
import math
import warnings
from pathlib import Path
from typing import NamedTuple

from common.errors import InputError
from common.lazy import Lazy
from common.system_errors import raise_system_error
from common.volumes.headers import ADVICE, check_spacing
from common.volumes.whole import require_file

pydicom, uids = Lazy("pydicom"), Lazy("pydicom.uid")

SPACING_TAGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
CODING = ("BitsStored", "HighBit", "PixelRepresentation", "PhotometricInterpretation")
NO_IMAGES = ("1.3.12.2.1107.5.9.1", "1.2.840.113619.4.26", "1.2.840.113619.4.27")  # private classes of reports
PER_FRAME = (
    ("PixelValueTransformationSequence", "RescaleSlope"),
    ("PixelValueTransformationSequence", "RescaleIntercept"),
    ("PixelMeasuresSequence", "PixelSpacing"),
    ("PlaneOrientationSequence", "ImageOrientationPatient"),
)  # elements that must be equal in all frames
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
        doubt: what the header lacks or GDCM ignores, and what counts, as text; "" if nothing.
        scaling: (slope, intercept) from stored numbers to values.
        frame_of_reference: UID of the system of the positions; "" if missing.
        patient: PatientID, to compare only; "" if missing.
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
    doubt: str = ""
    scaling: tuple = (1, 0)
    frame_of_reference: str = ""
    patient: str = ""


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
    shared, frame_groups = (content.get(f"{name}FunctionalGroupsSequence") or [] for name in ("Shared", "PerFrame"))
    groups = [*shared, *frame_groups]
    scaling = _scaling_of(content, groups)
    _check_groups(frame_groups, frames)
    if not content.get("SeriesInstanceUID"):
        raise InputError(f"no SeriesInstanceUID; {ADVICE}")
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
        _doubt_of(content, groups, frames, len(places)),
        scaling,
        *(str(content.get(name) or "") for name in ("FrameOfReferenceUID", "PatientID")),
    )


def _scaling_of(content, groups):
    """Slope and intercept by which pixels become values; raises InputError if they cannot be right."""
    scaling = {}
    for name, usual in (("RescaleSlope", 1), ("RescaleIntercept", 0)):
        found = content.get(name)
        found = _from_groups(groups, "PixelValueTransformationSequence", name) if found in (None, "") else found
        scaling[name] = float(usual if found in (None, "") else found)
        if not math.isfinite(scaling[name]) or (name == "RescaleSlope" and not scaling[name]):
            raise InputError(f"invalid {name} ({scaling[name]:g}); {ADVICE}")
    if str(content.get("PhotometricInterpretation")) == "MONOCHROME1" and tuple(scaling.values()) != (1, 0):
        found = ", ".join(f"{name} {value:g}" for name, value in scaling.items())
        raise InputError(f"MONOCHROME1 with a rescaling ({found}), which GDCM inverts; save it as MONOCHROME2")
    return tuple(scaling.values())


def _check_groups(groups, frames):
    """Check the functional groups of the frames, of which GDCM applies the first one to all."""
    if groups and len(groups) != frames:
        raise InputError(f"damaged header (positions of {len(groups)} of {frames} frames); {ADVICE}")
    for sequence, name in PER_FRAME:
        values = {str(_from_groups([group], sequence, name)) for group in groups}
        if len(values) > 1:
            raise InputError(f"frames differ in {name} (found {len(values)}); save each frame as a file of its own")


def _doubt_of(content, groups, frames, positions):
    if content.get("ModalityLUTSequence"):
        return "has a table of values (ModalityLUTSequence), which GDCM ignores; used the values as stored"
    across = _from_groups(groups, "PixelMeasuresSequence", "SpacingBetweenSlices")
    across = across or content.get("SpacingBetweenSlices") or content.get("GridFrameOffsetVector")  # of a dose
    if frames > 1 and positions != frames and not across:
        return f"no distance between its {frames} frames; used 1 mm, so check it"
    return ""


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

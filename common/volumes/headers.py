"""Headers of volume files, checked: SimpleITK fills gaps in silence, and takes what makes no sense."""

import math
import ntpath
import os
import re
import struct
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import InputError

SPACINGS = (1e-7, 1e4)  # mm; from electron microscopy to more than a body
SFORM_TOLERANCE = 0.01  # max relative difference of the two spacings in a NIfTI header
AXES_TOLERANCE = 0.02  # of the products of the directions of two axes, about 1 degree
FARTHEST = 1e7  # max distance of an origin in mm
HEADER = 2**20  # max size of a text header in bytes
LONGEST_FIELD = 1000  # characters; the library that reads NRRD crashes if it reports a line of 1,024
FREE_TEXT = re.compile(r"#|content:|[^:]*:=", re.I)  # lines of NRRD headers that may be longer
NO_SPACING = "no spacing in its header; used 1 mm, so check it"
ADVICE = "copy it again or restore it"
MILLIMETERS = ("", "mm", "millimeter", "millimeters", "?", "???")  # and what stands for an unknown unit

# Bytes per value of each datatype code of NIfTI, each type of NRRD, each element type of MetaImage.
NIFTI_TYPES = {2: 1, 4: 2, 8: 4, 16: 4, 64: 8, 128: 3, 256: 1, 512: 2, 768: 4, 1024: 8, 1280: 8, 2304: 4}
COMPLEX_NIFTI_TYPES = {32, 1792, 2048}
NRRD_TYPES = {
    **dict.fromkeys(["signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"], 1),
    **dict.fromkeys(["short", "short int", "signed short", "signed short int", "int16", "int16_t"], 2),
    **dict.fromkeys(["ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"], 2),
    **dict.fromkeys(["int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t"], 4),
    **dict.fromkeys(["longlong", "long long", "long long int", "signed long long", "signed long long int"], 8),
    **dict.fromkeys(["int64", "int64_t", "ulonglong", "unsigned long long", "unsigned long long int"], 8),
    **dict.fromkeys(["uint64", "uint64_t", "double"], 8),
    "float": 4,
}
META_TYPES = {
    **dict.fromkeys(["MET_CHAR", "MET_UCHAR"], 1),
    **dict.fromkeys(["MET_SHORT", "MET_USHORT"], 2),
    **dict.fromkeys(["MET_INT", "MET_UINT", "MET_FLOAT"], 4),
    **dict.fromkeys(["MET_LONG", "MET_ULONG", "MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"], 8),
}
SCALING = {"Slope": "1", "Offset": "0"}  # fields of MetaImage headers, after ElementToIntensityFunction


class Data(NamedTuple):
    """The voxels of a file.

    Attributes:
        file: Path of the file that contains them.
        start: position of the first byte; None: they are at the end.
        size: bytes, uncompressed; for text, the number of values.
        coding: "raw", "gzip", "zlib", "bzip2" or "text".
        stored: compressed bytes if the header records them, otherwise None.
        floats: NumPy type of the voxels and number of bytes before them, if the reader turns NaN and infinity into 0,
            as for NIfTI; otherwise None.
        doubt: what the header lacks or says twice and differently, and what counts, as text; "" if nothing.
    """

    file: Path
    start: int | None
    size: int
    coding: str
    stored: int | None = None
    floats: tuple | None = None
    doubt: str = ""


def _positive(numbers, what):
    if not numbers or not all(1 <= n < 2**40 for n in numbers):
        raise ValueError(f"{what} {' '.join(map(str, numbers))}")
    return math.prod(numbers)


def check_spacing(spacings):
    """Raise ValueError unless all numbers are possible distances in mm between voxels."""
    low, high = SPACINGS
    if not all(low <= mm <= high for mm in spacings):
        raise ValueError(f"spacing {' '.join(f'{mm:g}' for mm in spacings)} mm")


def check_axes(vectors):
    """Raise ValueError unless the directions of axes, (N, N), are perpendicular to each other and of length 1."""
    vectors = np.asarray(vectors, float)
    if not np.allclose(vectors @ vectors.T, np.eye(len(vectors)), atol=AXES_TOLERANCE):
        shown = ", ".join(" ".join(f"{number:g}" for number in vector) for vector in vectors)
        raise ValueError(f"axes {shown}, which are sheared or scaled")


def _finite(numbers, what):
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{what} {' '.join(f'{n:g}' for n in numbers)}")


def read_nifti(path):
    """Data of a NIfTI-1 file by its header; Path; raises ValueError and others that `check_header` turns into one."""
    packed = path.name.lower().endswith(".gz")
    with open(path, "rb") as file:
        head = file.read(2**16)
    if packed:
        if head[:2] != b"\x1f\x8b":
            raise ValueError("not a gzip file")
        head = zlib.decompressobj(47).decompress(head, 1024)
    for order in "<>":
        if struct.unpack(order + "i", head[:4]) == (348,):
            dim, (kind,) = struct.unpack(order + "8h", head[40:56]), struct.unpack(order + "h", head[70:72])
            pixdim = struct.unpack(order + "8f", head[76:108])
            start, *scaling = struct.unpack(order + "3f", head[108:120])
            codes, matrices = struct.unpack(order + "2h", head[252:256]), struct.unpack(order + "18f", head[256:328])
            magic = head[344:348]
            break
        if struct.unpack(order + "i", head[:4]) == (540,):
            raise InputError(f"{path}: NIfTI-2, which ITK does not read; convert it to NIfTI-1")
    else:
        raise ValueError("not a NIfTI file")
    if magic != b"n+1\0":
        raise ValueError("not a NIfTI file with header and voxels in one")
    if not 1 <= dim[0] <= 7:
        raise ValueError(f"{dim[0]} axes")
    if kind in COMPLEX_NIFTI_TYPES:
        raise InputError(f"{path}: contains complex numbers; convert it to real ones")
    if kind not in NIFTI_TYPES:
        raise ValueError(f"data type {kind}")
    voxels = _positive(dim[1 : dim[0] + 1], "size")
    check_spacing(pixdim[1 : min(dim[0], 3) + 1])
    _check_scaling(start, *scaling)
    _finite(matrices[:6] if codes[0] > 0 else [], "position")
    _finite(matrices[6:] if codes[1] > 0 else [], "position")
    size, start = voxels * NIFTI_TYPES[kind], int(start)
    if not len(magic) <= start < 2**40:
        raise ValueError(f"voxels start at byte {start}")
    floats = {16: f"{order}f4", 64: f"{order}f8"}.get(kind)
    doubt = _doubt_of_spacing(pixdim[1:4], matrices[6:]) if codes[1] > 0 and dim[0] >= 3 else ""
    if not doubt and min(codes) > 0:
        doubt = _doubt_of_orientation(matrices[:3], pixdim[0], matrices[6:])
    first, size, coding = (0, start + size, "gzip") if packed else (start, size, "raw")
    return Data(path, first, size, coding, floats=floats and (floats, start - first), doubt=doubt)


def _check_scaling(start, slope, offset):
    """Refuse numbers that are not finite, and a slope that ITK takes for 1 though the standard does not."""
    _finite([start, slope, offset], "scaling")
    if abs(slope) < sys.float_info.epsilon and (slope or offset):
        raise ValueError(f"scaling by {slope:g} plus {offset:g}")


def _doubt_of_spacing(spacing, sform):
    """Text if the spacing of a NIfTI header (its pixdim) differs from the length of the axes of its sform; else ""."""
    lengths = [math.hypot(*sform[axis::4]) for axis in range(3)]
    if all(math.isclose(*pair, rel_tol=SFORM_TOLERANCE) for pair in zip(spacing, lengths, strict=True)):
        return ""
    first, second = (" ".join(f"{mm:g}" for mm in found) for found in (spacing, lengths))
    return f"two different spacings ({first} in pixdim, {second} in its sform); used pixdim, so check it"


def _doubt_of_orientation(quaternion, third_sign, sform):
    """Text if an axis of a NIfTI header's qform and of its sform are over 45 degrees apart; else ""."""
    b, c, d = quaternion
    a = math.sqrt(max(0, 1 - b * b - c * c - d * d))
    qform = np.array([  # NIfTI-1 standard, method 2
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ]) * [1, 1, -1 if third_sign < 0 else 1]  # fmt: skip
    axes = np.reshape(sform, (3, 4))[:, :3]
    if ((qform * axes).sum(0) > np.linalg.norm(axes, axis=0) * math.cos(math.pi / 4)).all():
        return ""
    return "two different orientations (its qform and its sform); check left and right"


def _doubt_of_unit(units):
    """Text if one of the units of length in a header is no millimeter; else ""."""
    other = next((unit for unit in units if unit.lower() not in MILLIMETERS), "")
    return f"distances in {other} in its header; used as mm, so check it" if other else ""


def _text_header(path, end):
    """Text header of a file, and its length in bytes; `end` is a function of a line to whether it is the last."""
    lines, length = [], 0
    with open(path, "rb") as file:
        while line := file.readline(HEADER):
            length += len(line)
            lines.append(line.decode("latin-1").rstrip("\r\n"))
            if end(lines[-1]):
                return lines, length, True
            if length > HEADER:
                raise ValueError("it has no end")
    return lines, length, False


def _data_file(path, name):
    """Path of a data file named in a header (Latin-1 text of its bytes); refused outside the folder of the header."""
    place = ntpath.normpath(name)
    if name.startswith(("/", "\\")) or ntpath.splitdrive(name)[0] or place.split("\\")[0] == "..":
        raise InputError(f"{path}: its data file is in another folder (found {name}); put both into one folder")
    return path.parent / os.fsdecode(name.encode("latin-1"))


def read_nrrd(path):
    """As `read_nifti` for NRRD, with its voxels inside or in a file next to it."""
    lines, length, ended = _text_header(path, lambda line: not line)
    if not lines or not lines[0].startswith("NRRD000"):
        raise ValueError("not an NRRD file")
    if any(len(line) > LONGEST_FIELD and not FREE_TEXT.match(line) for line in lines):
        raise ValueError(f"a field has more than {LONGEST_FIELD} characters")
    pairs = [line.split(":", 1) for line in lines[1:] if ":" in line and not line.startswith("#")]
    fields = {key.strip().lower(): value.strip() for key, value in pairs if not value.startswith("=")}
    detached = fields.get("data file", fields.get("datafile"))
    if not detached and not ended:
        raise ValueError("it has no end")
    sizes = [int(number) for number in fields["sizes"].split()]
    if int(fields["dimension"]) != len(sizes):
        raise ValueError(f"dimension {fields['dimension']}, {len(sizes)} sizes")
    kind = fields["type"].lower()
    if kind not in NRRD_TYPES:
        raise ValueError(f"type {kind}")
    spacings = [float(mm) for mm in fields.get("spacings", "").split()]
    spatial = [k.lower() in ("domain", "space") for k in fields.get("kinds", "").split()] or [True] * len(spacings)
    check_spacing([mm for mm, is_space in zip(spacings, spatial, strict=False) if is_space])
    vectors = [v.strip("()").split(",") for v in fields.get("space directions", "").replace(", ", ",").split()]
    directions = [[float(mm) for mm in vector] for vector in vectors if vector != ["none"]]
    check_spacing([math.hypot(*direction) for direction in directions])
    if vectors and len(directions) < min(3, len(sizes)):
        raise ValueError(f"space directions {fields['space directions']}")
    if len(directions) == 3:
        check_axes([np.divide(direction, math.hypot(*direction)) for direction in directions])
    _finite([float(mm) for mm in fields.get("space origin", "").strip("()").split(",") if mm], "origin")
    values = _positive(sizes, "sizes")
    coding = fields["encoding"].lower()
    coding = {"gz": "gzip", "bz2": "bzip2", "txt": "text", "ascii": "text"}.get(coding, coding)
    if coding not in ("raw", "gzip", "bzip2", "text"):
        raise ValueError(f"encoding {coding}")
    if detached and (detached.upper().startswith("LIST") or "%" in detached):
        raise InputError(f"{path}: has several data files; convert it to one file")
    skip = int(fields.get("byte skip", fields.get("byteskip", 0)))
    if int(fields.get("line skip", fields.get("lineskip", 0))) or skip < -1 or (skip and coding != "raw"):
        raise InputError(f"{path}: skips parts of its data file; convert it to one file")
    file, start = (_data_file(path, detached), 0) if detached else (path, length)
    start = None if skip == -1 else start + skip
    units = re.findall(r'"([^"]*)"', fields.get("space units", "") or fields.get("units", ""))
    doubt = _doubt_of_unit(units) if spacings or vectors else NO_SPACING
    return Data(file, start, values * (1 if coding == "text" else NRRD_TYPES[kind]), coding, doubt=doubt)


def read_meta(path):
    """As `read_nifti` for MetaImage, with its voxels inside or in a file next to it."""
    is_last = lambda line: line.split("=")[0].strip() == "ElementDataFile"  # noqa: E731
    lines, length, ended = _text_header(path, is_last)
    fields = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    if not ended or "DimSize" not in fields:
        raise ValueError("not a MetaImage file")
    sizes = [int(number) for number in fields["DimSize"].split()]
    if int(fields["NDims"]) != len(sizes):
        raise ValueError(f"NDims {fields['NDims']}, {len(sizes)} sizes")
    kind, channels = fields["ElementType"].removesuffix("_ARRAY"), int(fields.get("ElementNumberOfChannels", 1))
    if kind not in META_TYPES:
        raise ValueError(f"ElementType {kind}")
    for name in ("ElementSpacing", "ElementSize"):
        check_spacing([float(mm) for mm in fields.get(name, "").split()][:3])
    for name in ("Offset", "Position", "Origin", "TransformMatrix", "Rotation", "Orientation"):
        numbers = [float(number) for number in fields.get(name, "").split()]
        _finite(numbers, name)
        if len(numbers) == 9:
            check_axes(np.reshape(numbers, (3, 3)))
    values = _positive([*sizes, channels], "DimSize")
    place = fields["ElementDataFile"]
    if place.upper().startswith("LIST") or "%" in place:
        raise InputError(f"{path}: has several data files; convert it to one file")
    binary = fields.get("BinaryData", "False")[:1].upper() in ("T", "1")
    packed = fields.get("CompressedData", "False")[:1].upper() in ("T", "1")
    file, start = (path, length) if place.upper() == "LOCAL" else (_data_file(path, place), 0)
    skip = int(fields.get("HeaderSize", 0))
    start = None if skip == -1 else start + skip
    coding = "zlib" if packed else "raw" if binary else "text"
    stored = int(fields["CompressedDataSize"]) if packed and "CompressedDataSize" in fields else None
    has_spacing = {"ElementSpacing", "ElementSize"} & fields.keys()
    doubt = _doubt_of_unit([fields.get("DistanceUnits", "")]) if has_spacing else NO_SPACING
    slope, offset = (fields.get(f"ElementToIntensityFunction{name}", usual) for name, usual in SCALING.items())
    if not doubt and (float(slope), float(offset)) != (1, 0):
        doubt = f"a scaling in its header (times {slope} plus {offset}), which ITK ignores; used the values as stored"
    return Data(file, start, values * (1 if coding == "text" else META_TYPES[kind]), coding, stored, doubt=doubt)

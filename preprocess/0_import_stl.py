"""Step 0: slice a closed surface (.stl) into masks, or turn it into a label volume for a scan.

Reads   SURFACE: .stl, .obj or .ply in mm; and VOLUME, for its grid
Writes  OUTPUT/slice0001.png, ..., masks of 0 and 255; with VOLUME, the label volume OUTPUT, for
        the LABELS folder of 0_import_volumes.py
Takes   about 2 s for a surface of 20,000 triangles in 160 slices of 512x512 on two cores

A pixel is inside if its center is.
"""

import sys
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import setting_types as types
from common.settings import apply_command_line

# --- input and output
SURFACE: str = ""  # surface file (.stl, .obj or .ply)
OUTPUT: types.PathName = "data/surface"  # folder for the masks; with VOLUME, the label volume
#   A label volume has a file name, such as "labels/scan1.nii.gz".
REPLACE: bool = False  # True: overwrite an existing OUTPUT
OPEN_SURFACE: Literal["refuse", "repair"] = "refuse"  # if the surface is not closed: "refuse" it, or "repair" its holes

# --- masks
AXIS: Literal["x", "y", "z"] = "z"  # axis to slice along: "x", "y" or "z"
OFFSET: types.NonNegative = 0.0  # mm from the end of the surface to the first slice
INTERVAL: Annotated[float, Ge(-1e6), Le(1e6), types.Rule("a number other than 0", bool)] = 1.0
# mm between slices; negative: start from the other end
PIXEL: types.Millimeters | None = None  # pixel size in mm; None: the longer side of the surface fills 90% of SIZE
SIZE: types.Side = 200  # side length of the masks in pixels; the surface is centered
AS_AIS: bool = False  # True: masks as SliceSTL.py of AIS makes them, pixel for pixel
FLIP: Literal["", "horizontal", "vertical", "both"] = ""  # mirror "horizontal", "vertical" or "both"; "": off

# --- label volume instead of masks
VOLUME: str = ""  # volume (DICOM folder, NIfTI, NRRD, MetaImage) with the grid; "": masks
SPACE: Literal["LPS", "RAS"] = "LPS"  # axes of the surface: "LPS" (DICOM, 3D Slicer) or "RAS" (NIfTI tools)

settings = apply_command_line(globals())

import logging
from contextlib import contextmanager

import numpy as np
import trimesh

from common.claims import claimed
from common.errors import InputError, SettingError
from common.files import real_path, write_json
from common.parallel import progress
from common.public_settings import public_settings
from common.replacing import refuse_existing, whole_folder
from common.settings import FORMAT
from common.slices.images import encode_png
from common.volumes.finding import LABEL_ENDINGS
from common.volumes.grids import Geometry
from common.volumes.labels import label_image, write_labels
from common.volumes.reading import read_volume
from common.volumes.surfaces import slice_as_codeset, slice_surface, with_vertices
from common.words import number_of

ENDINGS = tuple(ending for ending in LABEL_ENDINGS if ending != ".mhd")  # .mhd is two files
logging.getLogger("trimesh").setLevel(logging.CRITICAL)  # it prints tracebacks
RECORD = "surface.json"
FARTHEST = 1e5  # max distance of vertices from the origin in mm
MAX_SLICES = 20_000
MAX_PIXELS = 10**6  # max side of the surface in pixels


def main():
    check_settings()
    surface = read_surface()
    if settings.VOLUME:
        write_label_volume(surface)
    else:
        write_masks(surface)


def check_settings():
    if settings.VOLUME and not settings.OUTPUT.lower().endswith(ENDINGS):
        endings = ", ".join(ENDINGS)
        raise SettingError(f"OUTPUT: not a label volume ({settings.OUTPUT}); use a file that ends in {endings}")
    inputs = [path for path in (settings.SURFACE, settings.VOLUME) if path]
    if own := [path for path in inputs if Path(path).exists() and real_path(path) == real_path(settings.OUTPUT)]:
        raise SettingError(f"OUTPUT: would overwrite its source {own[0]}; use another path")
    if settings.AS_AIS and (settings.PIXEL or settings.VOLUME):
        other = "PIXEL" if settings.PIXEL else "VOLUME"
        raise SettingError(f"AS_AIS: cannot be combined with {other} ({settings.values[other]}); set only one of them")
    refuse_existing(settings.OUTPUT, settings.REPLACE)


def read_surface():
    """Read the surface, and close it if asked to.

    Raises:
        InputError: if it is unreadable or not closed.
    """
    path = Path(settings.SURFACE)
    if not path.is_file():
        found = f"{path} does not exist" if settings.SURFACE else "not set"
        raise InputError(f"SURFACE: {found}; set --surface to an .stl, .obj or .ply file")
    with as_unreadable(path):
        surface = trimesh.load_mesh(path, process=False)  # processing removes triangles with NaN
    if not isinstance(surface, trimesh.Trimesh) or not len(surface.faces):
        raise InputError(f"{path}: contains no triangles; use another surface")
    if surface.faces.min() < 0 or surface.faces.max() >= len(surface.vertices):
        raise InputError(f"{path}: damaged (a triangle has a vertex that is not there); export it again")
    if not np.isfinite(surface.vertices).all() or np.abs(surface.vertices).max() > FARTHEST:
        raise InputError(
            f"{path}: impossible vertices (NaN, infinity or over {FARTHEST:g} mm away); export it again in mm"
        )
    if not np.ptp(surface.vertices, axis=0).all():
        raise InputError(f"{path}: surface is flat; use a closed surface")
    with as_unreadable(path):
        surface.merge_vertices(merge_tex=True, merge_norm=True)  # only positions count
    if not surface.is_watertight:
        if settings.OPEN_SURFACE == "refuse":
            raise InputError(f"{path}: surface is not closed; close it, or use --open-surface repair")
        trimesh.repair.fill_holes(surface)
        if not surface.is_watertight:
            raise InputError(
                f"{path}: surface is not closed and cannot be repaired; close it in the program that wrote it"
            )
        print("filled the holes of the surface, which was not closed")
    return surface


@contextmanager
def as_unreadable(path):
    """Turn any error of trimesh about a damaged file into an InputError."""
    try:
        yield
    except Exception as error:  # its readers raise anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{path}: cannot be read ({reason}); use a valid .stl, .obj or .ply file") from None


# --- onto a volume


def write_label_volume(surface):
    """Write a surface as a label volume on the grid of VOLUME.

    Raises:
        InputError: if it is outside the volume.
    """
    geometry = Geometry.of(read_volume(settings.VOLUME))
    size = "x".join(map(str, geometry.size))
    print(f"converting the surface to a label volume on the grid of VOLUME ({size})", flush=True)
    points = surface.vertices * ([1, 1, 1] if settings.SPACE == "LPS" else [-1, -1, 1])
    in_voxels = with_vertices(surface, geometry.to_voxels(points))
    columns, rows, count = geometry.size
    masks = np.stack(list(slice_surface(in_voxels, range(count), (rows, columns))))
    if not masks.any():
        raise InputError(
            f"{settings.SURFACE}: surface is outside {settings.VOLUME} (SPACE is {settings.SPACE}); "
            "check that it is in mm, or change --space"
        )
    with claimed(settings.OUTPUT):
        refuse_existing(settings.OUTPUT, settings.REPLACE)  # again: another process may have written it meanwhile
        write_labels(label_image(masks, geometry), settings.OUTPUT)
    voxels, used = number_of(int(masks.sum()), "voxel"), int(masks.any((1, 2)).sum())
    print(f"wrote {settings.OUTPUT}: {voxels} in {used} of {number_of(count, 'slice')}")


# --- slicing


def write_masks(surface):
    """Write slices through a surface as masks."""
    side = settings.SIZE
    in_pixels, heights = to_pixels(surface)
    if settings.AS_AIS:
        masks = slice_as_codeset(surface, settings.AXIS, settings.OFFSET, abs(settings.INTERVAL), side)
        masks = masks if settings.INTERVAL > 0 else masks[::-1]
    else:
        masks = slice_surface(in_pixels, heights, (side, side))
    count = len(masks) if settings.AS_AIS else len(heights)
    print(
        f"slicing the surface along {settings.AXIS} into {settings.OUTPUT} (masks: {count} of {side}x{side})",
        flush=True,
    )
    with whole_folder(settings.OUTPUT, settings.REPLACE) as folder:
        for number, mask in enumerate(progress(masks, count, "slicing"), 1):
            mask = mask[::-1] if settings.FLIP in ("vertical", "both") else mask
            mask = mask[:, ::-1] if settings.FLIP in ("horizontal", "both") else mask
            (folder / f"slice{number:04d}.png").write_bytes(encode_png(np.ascontiguousarray(mask) * np.uint8(255)))
        write_json(folder / RECORD, {FORMAT: 1} | public_settings(settings, hidden=["SURFACE"]))
    print(f"wrote {number_of(count, 'mask')} to {settings.OUTPUT}")


def to_pixels(surface):
    """The surface in pixels across AXIS and in mm along it (third coordinate), and the slice heights in mm."""
    order = {"x": [1, 2, 0], "y": [0, 2, 1], "z": [0, 1, 2]}[settings.AXIS]
    points = surface.vertices[:, order]
    low, high = points.min(0), points.max(0)
    length = high[2] - low[2]
    if (count := length / abs(settings.INTERVAL)) > MAX_SLICES:
        raise SettingError(
            f"INTERVAL: too small ({settings.INTERVAL:g} mm, {count:.6g} times; at most {MAX_SLICES:,} slices); "
            "use a larger one"
        )
    pixel = settings.PIXEL or (high - low)[:2].max() / (0.9 * settings.SIZE)
    if (side_in_pixels := (high - low)[:2].max() / pixel) > MAX_PIXELS:
        raise SettingError(
            f"PIXEL: too small ({pixel:g} mm makes {side_in_pixels:.6g} pixels across, at most {MAX_PIXELS:,}); "
            "use a larger one"
        )
    points = points - [*((low + high) / 2)[:2], 0]
    points = points / [pixel, pixel, 1] + [(settings.SIZE - 1) / 2, (settings.SIZE - 1) / 2, 0]
    steps = np.arange(settings.OFFSET, length, abs(settings.INTERVAL))
    if not len(steps):
        raise InputError(
            f"OFFSET: beyond the surface (found {settings.OFFSET} mm); "
            f"use less than its length along {settings.AXIS}, {length:.4g} mm"
        )
    heights = low[2] + steps if settings.INTERVAL > 0 else high[2] - steps
    return with_vertices(surface, points), heights.tolist()


if __name__ == "__main__":
    main()

"""COCO: one JSON file for all images, with polygons and run lengths."""

from pathlib import PureWindowsPath
from typing import Annotated

from annotated_types import Len
from pydantic import Field, NonNegativeInt

from common.annotations.run_lengths import decode_runs, uncompress
from common.annotations.shapes import (
    ADVICE,
    Annotation,
    Collected,
    Coordinate,
    Height,
    Part,
    Width,
    check,
    class_name,
)
from common.errors import InputError

PROGRAM = "COCO"
Identity = int | str


class Image(Part):
    id: Identity
    file_name: str
    height: Height | None = None
    width: Width | None = None


class Category(Part):
    id: Identity
    name: str


class Runs(Part):
    size: Annotated[list[Height], Len(2, 2)]
    counts: list[NonNegativeInt] | str


class Region(Part):
    image_id: Identity
    category_id: Identity
    segmentation: list[list[Coordinate]] | Runs | None = None


class CocoFile(Part):
    images: list[Image]
    categories: list[Category] = Field(default_factory=list)
    annotations: list[Region]


def is_coco(content):
    """Whether the content of a JSON file is COCO's."""
    return isinstance(content, dict) and "images" in content and "annotations" in content


def read_coco(content, path):
    """Read a COCO file; areas of crowds (iscrowd) count like the others, boxes without outlines are ignored.

    Args:
        content: content of the JSON file.
        path: Path, for messages.

    Returns:
        list of Annotation, one for each image.

    Raises:
        InputError: if the file is invalid.
    """
    file = check(CocoFile, content, path, PROGRAM)
    images = _by_id(file.images, f"{path}: images")
    names = {key: class_name(one.name, path) for key, one in _by_id(file.categories, f"{path}: categories").items()}
    found = {key: Collected() for key in images}
    sizes = {key: (one.height, one.width) if one.height and one.width else None for key, one in images.items()}
    for number, one in enumerate(file.annotations, 1):
        where = f"{path}: annotation {number}"
        if one.image_id not in images:
            raise InputError(f"{where}: no image with the id {one.image_id!r:.40}; {ADVICE}")
        if one.category_id not in names:
            raise InputError(f"{where}: no category with the id {one.category_id!r:.40}; {ADVICE}")
        _add(one, names[one.category_id], found[one.image_id], sizes, where)
    return [
        Annotation(path, PureWindowsPath(one.file_name).as_posix(), sizes[key], found[key].shapes, found[key].ignored)
        for key, one in images.items()
    ]


def _by_id(items, where):
    found = {}
    for item in items:
        if found.setdefault(item.id, item) is not item:
            raise InputError(f"{where}: the id {item.id!r:.40} is there twice; {ADVICE}")
    return found


def _add(one, name, collected, sizes, where):
    """Add an annotation to the shapes of its image."""
    region = one.segmentation
    if not region:
        collected.ignored["box"] += 1
    elif isinstance(region, Runs):
        size = tuple(region.size)
        if sizes[one.image_id] not in (None, size):
            sides = "{1}x{0}, expected {3}x{2}".format(*size, *sizes[one.image_id])
            raise InputError(f"{where}: not the size of its image (found {sides}); {ADVICE}")
        sizes[one.image_id] = size
        counts = uncompress(region.counts, where) if isinstance(region.counts, str) else region.counts
        collected.mask(name, decode_runs(counts, size, where, order="F"))
    else:
        for ring in region:  # parts of one object, also if one is in another
            if len(ring) % 2:
                raise InputError(f"{where}: a number is missing in an outline (found {len(ring)} numbers); {ADVICE}")
            collected.outline(name, [ring], where)

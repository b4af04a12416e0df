"""Write the variants of a slice: the work of step 1, in this process or in a worker."""

import functools
from typing import NamedTuple

import cv2
import numpy as np

from common.errors import InputError
from common.files import put_file
from common.slices.classes import are_sets
from common.slices.images import encode_png, encode_slice, read_pair, slice_ending
from common.slices.variants import image_folder, make_filters, make_shapes, mask_folder, trim


class Recipe(NamedTuple):
    """How to make variants.

    Attributes:
        filters: letters, such as ("O", "A").
        shapes: names, such as ("", "RTP").
        filter_strengths: arguments of `common.slices.variants.make_filters`.
        shape_strengths: arguments of `make_shapes`.
        trim: pixels to black out first; see `common.slices.variants.trim`.
    """

    filters: tuple
    shapes: tuple
    filter_strengths: tuple
    shape_strengths: tuple
    trim: int

    @property
    def folders(self):
        """Folder names of the variants of a case."""
        images = [image_folder(letter, shape) for letter in self.filters for shape in self.shapes]
        return [*images, *map(mask_folder, self.shapes)]


@functools.cache
def _functions(recipe):
    """(dict of letter to filter, dict of name to deformation) of a Recipe."""
    filters, shapes = make_filters(*recipe.filter_strengths), make_shapes(*recipe.shape_strengths)
    return {name: filters[name] for name in recipe.filters}, {name: shapes[name] for name in recipe.shapes}


def check_slice(task, smallest, trimmed):
    """Raise InputError if a slice or mask is unreadable or too small.

    Args:
        task: (case folder, name, image path, mask path, number type of masks).
        smallest: least side in pixels.
        trimmed: pixels to black out.
    """
    *_, image_path, mask_path, mask_type = task
    side = len(read_pair(image_path, mask_path, mask_type=mask_type)[0])
    if side < smallest or abs(trimmed) >= side / 2:
        raise InputError(f"{image_path}: too small for PART_MARGIN or TRIM (found {side}x{side}); reduce them")


def augment_slice(task, recipe, new):
    """Write every variant of a slice and of its mask, each file whole or not at all.

    Args:
        task: as in `check_slice`.
        recipe: Recipe.
        new: Path of the staging folder, which contains the folders of the variants of each case.
    """
    case, name, image_path, mask_path, mask_type = task
    filters, shapes = _functions(recipe)
    image, mask = (trim(pixels, recipe.trim) for pixels in read_pair(image_path, mask_path, mask_type=mask_type))

    def put(folder, ending, data):
        put_file(new / case.name / folder / f"{name}{ending}", data, new.parent)

    for letter, function in filters.items():
        filtered = function(image)
        for shape, deform in shapes.items():
            data = encode_slice(deform(filtered, smooth=True))
            put(image_folder(letter, shape), slice_ending(data), data)
    one_class = not are_sets(mask) and np.isin(mask, (0, 255)).all()
    for shape, deform in shapes.items():
        deformed = deform(mask, smooth=one_class)  # never blend class numbers
        if one_class:
            deformed = cv2.threshold(deformed, 127, 255, cv2.THRESH_BINARY)[1]
        put(mask_folder(shape), ".png", encode_png(deformed))

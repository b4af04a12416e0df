"""Predicted masks as files: images of slices and label volumes, also one for each of several overlapping classes."""

import numpy as np

from common.errors import InputError
from common.files import one_name
from common.slices.classes import NESTED, are_sets, has_class, highest_class, overlap_in
from common.slices.images import write_png
from common.slices.masks import from_classes

CLASSES = "classes"  # folder in which each overlapping class has a folder of masks


class MaskFiles:
    """Writes the masks of a prediction.

    Args:
        names: names of the classes from 1 up.
        overlap: how classes share pixels; see `common.slices.classes`.
    """

    def __init__(self, names, overlap):
        self.names, self.overlap = names, overlap
        self.folders = file_names(names)

    def write(self, folder, name, mask):
        """Write the mask of a slice or image.

        Overlapping classes become a mask of 16 bits, and one of 0 and 255 for each class in `folder`/classes/<class>.

        Args:
            folder: Path of the folder of masks.
            name: path of the file in it, with ending.
            mask: (H, W) uint8 class numbers, or uint16 sets of overlapping classes.
        """
        write_png(folder / name, from_classes(mask, len(self.names)), atomic=False)
        if are_sets(mask):
            for number, of_class in enumerate(self.folders, 1):
                write_png(folder / CLASSES / of_class / name, has_class(mask, number) * np.uint8(255), atomic=False)

    def volumes(self, labels):
        """Label volumes of an array of labels.

        Args:
            labels: (k, j, i) uint8 class numbers, or uint16 sets of overlapping classes.

        Returns:
            list of (what follows the name of the case in the file name, (k, j, i) uint8): one volume of class numbers;
            of overlapping classes one for each class and, if they are nested or do not overlap here, one of numbers.
        """
        if not are_sets(labels):
            return [("", labels)]
        by_class = [
            (f"_{of_class}", has_class(labels, number).astype(np.uint8))
            for number, of_class in enumerate(self.folders, 1)
        ]
        has_numbers = self.overlap == NESTED or not overlap_in(labels)
        return [*by_class, ("", highest_class(labels))] if has_numbers else by_class


def file_names(names):
    """Names of classes as parts of the names of their files and folders."""
    found = []
    for number, name in enumerate(names, 1):
        try:
            found.append(one_name(name, "class name"))
        except InputError:
            found.append(f"class{number}")
    return found

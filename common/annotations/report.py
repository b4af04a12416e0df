"""What an import of annotations prints."""

from collections import Counter

from common.annotations.classes import number_classes, print_classes
from common.words import number_of


def number_and_print(annotations, files, classes):
    """Number the classes, and print shapes, classes, and what is skipped.

    Args:
        annotations: list of Annotation.
        files: number of annotation files.
        classes: result of `common.annotations.classes.as_numbers`.

    Returns:
        dict of name to class number.

    Raises:
        InputError, SettingError: as `common.annotations.classes.number_classes`.
    """
    counts = Counter(shape.name for one in annotations for shape in one.shapes)
    numbers = number_classes(set(counts), classes)
    print(f"{number_of(counts.total(), 'shape')} in {number_of(files, 'file')}:")
    print_classes(numbers, counts)
    if ignored := sum((one.ignored for one in annotations), Counter()):
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(ignored.items()))
        print(f"skipped {number_of(ignored.total(), 'shape')} without an area ({kinds})")
    return numbers


def print_without(count, total, noun, skipped):
    """Print how many images have no annotations.

    Args:
        count, total: numbers of images.
        noun: "image" or "slice".
        skipped: whether these are not imported.
    """
    if count:
        what = f"{count} of {number_of(total, noun)} without annotations"
        print(f"skipped {what}" if skipped else f"note: {what}, imported with an empty mask (see --unmatched)")


def print_overlaps(overlaps, largest):
    """Print how many pixels several classes cover.

    Args:
        overlaps: list of numbers of such pixels, one for each image that has some.
        largest: whether the largest class number wins.
    """
    if overlaps:
        wins = "the largest class number" if largest else "the last shape"
        pixels, images = number_of(sum(overlaps), "pixel"), number_of(len(overlaps), "image")
        print(f"note: shapes of several classes cover {pixels} in {images}; there, {wins} wins (see --overlap)")

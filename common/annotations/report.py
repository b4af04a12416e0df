"""What an import of annotations prints."""

from collections import Counter

from common.annotations.classes import number_classes, print_classes
from common.words import number_of


def number_and_print(annotations, files, classes, secrets=()):
    """Number the classes, and print shapes, classes, and what is skipped.

    Args:
        annotations: list of Annotation.
        files: number of annotation files.
        classes: result of `common.annotations.classes.as_numbers`.
        secrets: texts that identify patients.

    Returns:
        dict of name to class number.

    Raises:
        InputError, SettingError: as `common.annotations.classes.number_classes`.
    """
    counts = Counter(shape.name for one in annotations for shape in one.shapes)
    numbers = number_classes(set(counts), classes)
    print(f"{number_of(counts.total(), 'shape')} in {number_of(files, 'file')}:")
    print_classes(numbers, counts, secrets)
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


def print_overlaps(overlaps, rule):
    """Print how many pixels several classes cover.

    Args:
        overlaps: list of numbers of such pixels, one for each image.
        rule: setting OVERLAP.
    """
    if overlaps := list(filter(None, overlaps)):
        result = {"largest": "the largest class number wins", "last": "the last shape wins", "keep": "all of them stay"}
        pixels, images = number_of(sum(overlaps), "pixel"), number_of(len(overlaps), "image")
        print(f"note: shapes of several classes cover {pixels} in {images}; there, {result[rule]} (see --overlap)")


def print_skipped(skipped, files):
    """Print how many files in the folder of the annotations are none, by ending; their names may identify patients.

    Args:
        skipped: list of Path.
        files: number of annotation files.
    """
    if skipped:
        endings = Counter(path.suffix.lower() or "none" for path in skipped)
        kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(endings.items()))
        print(f"skipped {number_of(len(skipped), 'file')} next to {number_of(files, 'annotation file')} ({kinds})")


def print_several(matched):
    """Print how many images have annotations from several files that tell their image.

    Args:
        matched: iterable of lists of Annotation, one for each image.
    """
    count = sum(len({one.file for one in found if one.image}) > 1 for found in matched)
    if count:
        print(f"note: {number_of(count, 'image')} with annotations in several files, drawn together")

"""Read images and draw their annotations: the work of 0_import_annotations.py on images."""

from common.slices.cases import Imported
from common.slices.channels import read_with_channels
from common.slices.images import refuse_tiny
from common.slices.import_notes import ImageNotes
from common.slices.importing import fit
from common.slices.masks import values_of


def import_image(source, classes, how):
    """Read an image, draw its shapes, and cut both to size.

    Args:
        source: `common.annotations.sources.Source`.
        classes: `common.annotations.sources.Classes`.
        how: `common.slices.importing.Fitting`.

    Returns:
        Imported.

    Raises:
        InputError: if the image cannot be read, or has another size than in its annotations.
    """
    image, lost_colors = read_with_channels([source.image], how.channels)
    refuse_tiny(image, source.image)
    shape = image.shape[:2]
    for one in source.annotations:
        one.check_size(source.image, shape)
    shapes = [shape for one in source.annotations for shape in one.shapes]
    mask, several = classes.draw(shapes, shape)
    mask = classes.in_files(mask)
    slices, image = fit(image, mask, {"image": source.image_name, "mask": None}, how)
    return Imported(slices, values=values_of(mask), notes=ImageNotes.of(image, lost_colors, several=several))

"""Which image an annotation is about."""

from pathlib import PurePosixPath

from common.errors import InputError
from common.files import one_name


def match_images(annotations, images, image_root, root):
    """Match annotations to images.

    A file name in an annotation is only looked up among the images: as a path from the folder of the images, from the
    same subfolder as the annotation file, or by its last part if only one image has it.

    Args:
        annotations: list of Annotation.
        images: list of Path.
        image_root: folder of the images.
        root: folder of the annotations.

    Returns:
        dict of Path of the image to list of Annotation, and list of error messages.
    """
    by_path = {path.relative_to(image_root).as_posix(): path for path in images}
    by_name = {}
    for path in images:
        by_name.setdefault(path.name, []).append(path)
    found, alone, problems = {}, {}, []
    for one in annotations:
        try:
            path = _find(one, by_path, by_name, root)
        except InputError as error:
            problems.append(str(error))
            continue
        if path:
            found.setdefault(path, []).append(one)
        elif one.shapes:
            alone[one.file, one.image] = one.file
    problems += [f"{file}: no image {image} in {image_root}" for file, image in alone]
    return found, problems


def _find(one, by_path, by_name, root):
    """Path of the image of an annotation; None if there is none."""
    parts = [part for part in PurePosixPath(one.image).parts if part not in ("..", ".", "/")]
    name = one_name(parts[-1] if parts else "", f"{one.file}: file name of the image")
    folder = one.file.parent.relative_to(root).as_posix() if one.file.is_relative_to(root) else "."
    for candidate in (PurePosixPath(folder, *parts), PurePosixPath(folder, name), PurePosixPath(*parts)):
        if path := by_path.get(candidate.as_posix()):
            return path
    same = by_name.get(name, [])
    if len(same) > 1:
        raise InputError(
            f"{one.file}: several images are called {name} (such as {same[0]} and {same[1]}); put the annotation into "
            "the same subfolder as its image"
        )
    return same[0] if same else None

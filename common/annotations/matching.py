"""Which image an annotation is about."""

import re
from pathlib import PurePosixPath

from common.errors import InputError
from common.files import natural_key, one_name
from common.words import number_of

SET_NAME = re.compile(r"[ _.-]*(roi[ _-]?set|rois?|roi_manager)$", re.I)  # at the end of names of ROI files


class Images:
    """Images in a folder, to find them by what annotations say.

    Args:
        paths: list of Path.
        root: Path of the folder.
    """

    def __init__(self, paths, root):
        self.root, self.by_path, self.by_name, self.by_stem, self.by_folder = root, {}, {}, {}, {}
        for path in sorted(paths, key=lambda path: natural_key(path.relative_to(root))):
            self.by_path[path.relative_to(root).as_posix()] = path
            self.by_name.setdefault(path.name, []).append(path)
            self.by_stem.setdefault(path.stem, []).append(path)
            self.by_folder.setdefault(path.parent.relative_to(root).as_posix(), []).append(path)

    def find(self, one, root):
        """Path of the image of an annotation; None if there is none.

        A file name in an annotation is only looked up: from the subfolder of the annotation file, as a path from the
        folder of the images or from one above it, or by its last part if only one image has it, perhaps with another
        ending. Without one, the name of the annotation file counts: it is the name of an image, or of a folder of
        images, such as a stack.

        Args:
            one: Annotation.
            root: Path of the folder of the annotations.

        Raises:
            InputError: if several images fit.
        """
        folder = one.file.parent.relative_to(root).as_posix() if one.file.is_relative_to(root) else "."
        if one.image is None:
            return self._by_file(one, folder)
        parts = [part for part in PurePosixPath(one.image).parts if part not in ("..", ".", "/")]
        name = one_name(parts[-1] if parts else "", f"{one.file}: file name of the image")
        tails = [PurePosixPath(*parts[i:]) for i in range(len(parts))]
        for candidate in (PurePosixPath(folder, *parts), PurePosixPath(folder, name), *tails):
            if path := self.by_path.get(candidate.as_posix()):
                return path
        same = self.by_name.get(name, []) or self.by_stem.get(PurePosixPath(name).stem, [])
        return _only(same, one)

    def _by_file(self, one, folder):
        stem = SET_NAME.sub("", one.file.stem)
        parent = one.file.parent.name
        for name in dict.fromkeys((one.file.stem, stem, parent)):
            found = self.by_stem.get(name, []) + self.by_name.get(name, [])
            near = [path for path in found if path.parent.relative_to(self.root).as_posix() == folder]
            if path := _only(near or found, one):
                if one.index:
                    raise InputError(f"{one.file}: a ROI on slice {one.index + 1} of {path}, which has one; remove it")
                return path
        names = [PurePosixPath(folder, stem).as_posix(), stem] if stem else []
        for name in [*names, *([folder] if not stem or one.index is not None else [])]:
            if stack := self.by_folder.get(name, []):
                return _slice_in(stack, one, name)
        return None


def _only(paths, one):
    if len(paths) > 1:
        raise InputError(
            f"{one.file}: several images are called {paths[0].name} (such as {paths[0]} and {paths[1]}); put the "
            "annotation into the same subfolder as its image"
        )
    return paths[0] if paths else None


def _slice_in(stack, one, name):
    """Image of a folder of slices that a ROI is about."""
    index = 0 if one.index is None and len(stack) == 1 else one.index
    if index is None:
        raise InputError(
            f"{one.file}: a ROI without a slice number, and the folder {name} has {number_of(len(stack), 'image')}; "
            "rename the file after its image"
        )
    if index >= len(stack):
        raise InputError(
            f"{one.file}: no slice {index + 1} in the folder {name} (found {number_of(len(stack), 'image')})"
        )
    return stack[index]


def match_images(annotations, images, image_root, root):
    """Match annotations to images, as `Images.find`.

    Args:
        annotations: list of Annotation.
        images: list of Path.
        image_root: folder of the images.
        root: folder of the annotations.

    Returns:
        dict of Path of the image to list of Annotation, and list of error messages.
    """
    found, problems = {}, []
    lookup = Images(images, image_root)
    for one in annotations:
        try:
            path = lookup.find(one, root)
        except InputError as error:
            problems.append(str(error))
            continue
        if path:
            found.setdefault(path, []).append(one)
        elif one.shapes:
            problems.append(f"{one.file}: no image {one.image or one.file.stem} in {image_root}")
    return found, list(dict.fromkeys(problems))

"""Images with several channels: colors, or a file for each channel."""

import re

import numpy as np

from common.errors import InputError
from common.slices.images import is_color, read_image, to_gray


def read_with_channels(paths, channels):
    """Read an image from its files.

    Args:
        paths: list of Paths; one, or one for each channel.
        channels: "gray": luminance of RGB; "rgb": three channels, equal ones of a gray file; a list: the files are gray
            and become channels.

    Returns:
        (H, W) or (H, W, C) uint8 or uint16, and whether colors were lost.

    Raises:
        InputError: if a file is unreadable or has other channels, or files differ in size or number type.
    """
    pictures = [read_image(path) for path in paths]
    for picture, path in zip(pictures, paths, strict=True):
        if picture.ndim == 3 and picture.shape[2] != 3:
            raise InputError(f"{path}: expected gray or RGB (found {picture.shape[2]} channels); convert it to PNG")
    if isinstance(channels, list):
        return _stack(pictures, paths), False
    (picture,) = pictures
    if channels == "rgb":
        return picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2), False
    return to_gray(picture), is_color(picture)


def _stack(pictures, paths):
    for picture, path in zip(pictures, paths, strict=True):
        if is_color(picture):
            raise InputError(f"{path}: expected a gray image (found colors); convert it, or see --channels")
        first, own = ("{1}x{0} {2}".format(*image.shape[:2], image.dtype) for image in (pictures[0], picture))
        if own != first:
            raise InputError(f"{path}: expected {first} as in {paths[0]} (found {own}); replace one of them")
    return np.stack([to_gray(picture) for picture in pictures], axis=-1)


def to_draw(image, neighbors=0):
    """What to draw of a slice.

    Args:
        image: (H, W) or (H, W, C).
        neighbors: slices before and after it that are its channels.

    Returns:
        (H, W), or (H, W, 3) RGB: three channels that are no neighbors, the middle one of neighbors, or the first.
    """
    return image if image.ndim == 2 or (image.shape[2] == 3 and not neighbors) else image[..., neighbors]


def group_files(slices, patterns):
    """Group loose image files that are channels of one image; slices of case folders have all channels already.

    Args:
        slices: list of `common.slices.cases.Slice`.
        patterns: list of name patterns without ending, such as "{id}_0000".

    Returns:
        list of Slice, with the names that the patterns give, and dict of the Path of each to the list of its files.

    Raises:
        InputError: if a file of an image is missing, or no name fits.
    """
    names = {(s.path.parent, s.name): s.path for s in slices}
    first = re.escape(patterns[0]).replace(r"\{id\}", "(?P<id>.+)").replace(r"\{case\}", "(?P<case>.+)")
    grouped, files = [], {}
    for s in slices:
        if s.path.parent.name == "x":
            grouped.append(s)
        elif found := re.fullmatch(first, s.name, re.DOTALL):
            parts = found.groupdict()
            wanted = [pattern.replace("{case}", parts.get("case", "")) for pattern in patterns]
            wanted = [name.replace("{id}", parts["id"]) for name in wanted]
            missing = [name for name in wanted if (s.path.parent, name) not in names]
            if missing:
                raise InputError(f"{s.path}: no {missing[0]} next to it, its channel; add it, or see --channels")
            files[s.path] = [names[s.path.parent, name] for name in wanted]
            name = "_".join(part for part in (parts.get("case"), parts["id"]) if part)
            grouped.append(s._replace(name=name))
    if not grouped:
        raise InputError(
            f"INPUT: no name fits {patterns[0]}, a channel of training (found {slices[0].path.name}); rename them, "
            "or pass their patterns as --channels"
        )
    return grouped, files

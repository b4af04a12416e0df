"""Images: read and check files, write, convert gray levels, cut to size."""

import io
from functools import partial

import cv2
import numpy as np

from common.errors import InputError
from common.files import whole_file
from common.lazy import Lazy
from common.slices.decoding import decode
from common.slices.finding import SUBFOLDER, read_regular, scan
from common.slices.tiling import tile_starts

tifffile = Lazy("tifffile")

MOST_TILES, MOST_TILE_PIXELS = 10_000, 2**30  # of one image, all in memory at once
SMALLEST_SIDE = 8  # pixels, of an image to import; smaller ones are icons or damaged


def read_image(path):
    """Read an image as stored.

    Args:
        path: PNG, JPEG, TIFF or BMP file.

    Returns:
        uint8 or uint16, (H, W) or (H, W, 3) in RGB order, without an opaque alpha channel; (H, W, C) of a TIFF with C
        gray samples per pixel.

    Raises:
        InputError: if the file is missing, empty or no regular file, or as `common.slices.decoding.decode`.
    """
    return decode(read_regular(path), path)


def refuse_tiny(picture, path):
    """Raise InputError if an image to import, (H, W) or (H, W, C), has a side under SMALLEST_SIDE."""
    if min(picture.shape[:2]) < SMALLEST_SIDE:
        found = "{1}x{0}".format(*picture.shape)
        raise InputError(f"{path}: too small for an image (found {found}, expected at least 8x8); replace it")


def read_slice(path):
    """Read a slice of a case folder: gray or with several channels, 8-bit or 16-bit, square.

    Returns:
        (H, H) or (H, H, C) uint8 or uint16.

    Raises:
        InputError: as `read_image`, and if the image is not square.
    """
    picture = read_image(path)
    height, width = picture.shape[:2]
    if height != width:
        raise InputError(f"{path}: expected a square (found {width}x{height}); import it with 0_import_images.py")
    return picture


def read_mask(path, mask_type=np.uint8):
    """Read a mask of a case folder, like `read_slice` but gray only; JPEG as in `without_soft_edges`.

    Args:
        path: file.
        mask_type: number type that it must have, uint8 or, for overlapping classes, uint16.

    Returns:
        (H, H) of that type.
    """
    mask = read_slice(path)
    if mask.ndim == 3:
        raise InputError(
            f"{path}: expected one gray channel (found {mask.shape[2]} channels); import it with 0_import_images.py"
        )
    if mask.dtype != mask_type:
        bits, found = ("an 8", 16) if mask_type == np.uint8 else ("a 16", 8)
        raise InputError(f"{path}: expected {bits}-bit mask (found {found} bits); import it with 0_import_images.py")
    return without_soft_edges(mask, path)


def without_soft_edges(mask, path):
    """A mask, (H, W), with 255 above 127 and else 0 if its file is a JPEG, which has soft edges; others as is.

    Raises:
        InputError: for a JPEG file that can only have class numbers, which would not be exact.
    """
    if not str(path).lower().endswith((".jpg", ".jpeg")):
        return mask
    if 0 < mask.max() < 100:
        raise InputError(
            f"{path}: class numbers in a JPEG file are not exact (brightest value {mask.max()}); save masks as PNG"
        )
    return np.where(mask > 127, np.uint8(255), np.uint8(0))


def read_pair(x_path, y_path, like=None, mask_type=np.uint8):
    """Read a slice with its mask.

    Args:
        x_path, y_path: files.
        like: (path, slice) with the expected size and number type, or None.
        mask_type: as for `read_mask`.

    Returns:
        (H, H) or (H, H, C) uint8 or uint16, and (H, H) of `mask_type`.

    Raises:
        InputError: as `read_slice`, and if sizes, channels or number types differ.
    """
    x, y = read_slice(x_path), read_mask(y_path, mask_type)
    if like and (x.shape, x.dtype) != (like[1].shape, like[1].dtype):
        expected, found = (f"{'x'.join(map(str, image.shape))} {image.dtype}" for image in (like[1], x))
        raise InputError(
            f"{x_path}: expected {expected} as in {like[0]} (found {found}); import both with the same settings"
        )
    if len(x) != len(y):
        sizes = f"{len(x)}x{len(x)} and {len(y)}x{len(y)}"
        raise InputError(f"{x_path}: size differs from its mask {y_path} (found {sizes}); import both again")
    return x, y


def images_in(folder, skipped=None):
    """Image files in a folder.

    Args:
        folder: path.
        skipped: list that collects (reason, Path) of everything else, for `common.slices.finding.report_skipped`.

    Returns:
        dict of name without suffix to Path, sorted by name.

    Raises:
        InputError: if two files differ only in their suffix.
    """
    images, folders, others = scan(folder)
    if skipped is not None:
        skipped += others + [(SUBFOLDER, path) for path in folders]
    found = {}
    for path in images:
        if path.stem in found:
            raise InputError(f"{path}: same name as {found[path.stem].name}; keep only one of them")
        found[path.stem] = path
    return found


def to_gray(picture):
    """Convert an image to gray.

    Args:
        picture: (H, W) or (H, W, C); 3 channels are RGB.

    Returns:
        (H, W), same number type; equal channels stay unchanged, RGB becomes luminance (ITU-R BT.601), and of other
        channels the first is taken.
    """
    if picture.ndim == 2:
        return picture
    if is_color(picture):
        return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.ascontiguousarray(picture[..., 0])


def is_color(picture):
    """Whether an image, (H, W) or (H, W, C), is RGB with channels that differ."""
    return picture.ndim == 3 and picture.shape[2] == 3 and not (picture == picture[..., :1]).all()


def with_channels(picture):
    """View of an image, (H, W) or (H, W, C), as (H, W, C)."""
    return picture if picture.ndim == 3 else picture[..., None]


def shapes_of(image, mask_type=np.uint8):
    """Shapes and number types of slices and masks in arrays, dict of "x" and "y", for a slice (H, W) or (H, W, C)."""
    return {"x": (with_channels(image).shape, image.dtype), "y": ((*image.shape[:2], 1), np.dtype(mask_type))}


def by_channels(function, picture):
    """Apply an OpenCV function to an image; it is exact for 1, 3 and 4 channels, so others go one by one.

    Args:
        function: function of (H, W) or (H, W, C) to an image of the same channels; OpenCV drops a channel axis of 1.
        picture: (H, W) or (H, W, C).

    Returns:
        the result, with a channel axis if `picture` has one.
    """
    if picture.ndim == 2:
        return function(picture)
    if picture.shape[2] in (1, 3, 4):
        return with_channels(function(picture))
    return each_channel(function, picture)


def each_channel(function, picture):
    """Apply a function of (H, W) to an image, (H, W) or (H, W, C), channel by channel."""
    if picture.ndim == 2:
        return function(picture)
    return np.stack([function(np.ascontiguousarray(picture[..., i])) for i in range(picture.shape[2])], axis=-1)


def write_png(path, picture, *, atomic=True):
    """Write a gray or RGB image as PNG; create its folder if missing.

    Args:
        path: Path of the file.
        picture: (H, W) or (H, W, 3) uint8, or (H, W) uint16.
        atomic: whether the file appears complete or not at all; False is faster, for files in a folder that itself
            appears complete.
    """
    data = encode_png(picture)
    if atomic:
        with whole_file(path) as unfinished:
            unfinished.write_bytes(data)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def encode_slice(picture):
    """Encode a slice for a case folder.

    Args:
        picture: (H, W) or (H, W, C) uint8 or uint16.

    Returns:
        bytes of a PNG file for gray and RGB, otherwise of a TIFF file (deflate); `slice_ending` tells which.
    """
    if picture.ndim == 2 or picture.shape[2] in (1, 3):
        return encode_png(picture)
    file = io.BytesIO()
    samples = {"extrasamples": [0] * (picture.shape[2] - 1), "metadata": None}  # unspecified, so not alpha
    tifffile.imwrite(file, picture, photometric="minisblack", planarconfig="contig", compression="zlib", **samples)
    return file.getvalue()


def slice_ending(data):
    """Ending for the bytes of `encode_slice`."""
    return ".tif" if data.startswith((b"II", b"MM")) else ".png"


def encode_png(picture):
    """Encode a gray or RGB image as PNG bytes."""
    return _encode(".png", picture)


def _encode(ending, picture, settings=()):
    if picture.ndim == 3:
        picture = picture[..., ::-1]
    return cv2.imencode(ending, np.ascontiguousarray(picture), settings)[1].tobytes()


def encode_jpeg(picture, quality=88):
    """Encode a gray or RGB image as JPEG bytes."""
    return _encode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])


def window_to_gray(values, low, high, bits):
    """Map a range of values, such as a window in HU, to gray levels.

    Args:
        values: (H, W) array of numbers.
        low, high: values mapped to black and white; values outside are clipped.
        bits: 8 or 16.

    Returns:
        uint8 or uint16 of the same shape.
    """
    if values.dtype not in (np.uint8, np.int8, np.uint16, np.int16, np.float32, np.float64):
        values = values.astype(np.float64)
    values, scale = np.ascontiguousarray(values), (2**bits - 1) / (high - low)
    depth = cv2.CV_8U if bits == 8 else cv2.CV_16U
    return cv2.addWeighted(values, scale, values, 0, -low * scale, dtype=depth)  # rounds and clips


def to_unit(images):
    """Scale integer images to network input.

    Args:
        images: uint8 or uint16, any shape.

    Returns:
        float32 in 0..1: values divided by the maximum of the number type.
    """
    return np.multiply(images, np.float32(1 / np.iinfo(images.dtype).max), dtype=np.float32)


def to_eight_bit(image):
    """8-bit version of an image for display; stretches 16-bit images, as scanners often use few of the 16 bits."""
    return image if image.dtype == np.uint8 else (stretch(image) >> 8).astype(np.uint8)


def stretch(image):
    """Stretch minimum and maximum to the full range of the number type; a constant image becomes black."""
    low, high = int(image.min()), int(image.max())
    scale = np.iinfo(image.dtype).max / max(high - low, 1)
    return np.rint((image - np.float32(low)) * np.float32(scale)).astype(image.dtype)


# --- cutting to size


def fit_boxes(shape, size, fit, overlap=0):
    """Boxes of an image to cut out as slices.

    Args:
        shape: (height, width) of the image.
        size: side length of the slices in pixels.
        fit: "resize": the whole image; "crop": the central square of `size`; "pad": a square around the image, at
            least `size`; "tile": squares of `size` that cover it.
        overlap: minimum overlap of neighboring tiles in pixels.

    Returns:
        list of [left, top, width, height]; left and top are negative if a box extends beyond the edge.

    Raises:
        InputError: for more than MOST_TILES tiles, or MOST_TILE_PIXELS pixels in them.
    """
    height, width = shape
    if fit == "resize":
        return [[0, 0, width, height]]
    if fit == "tile":
        tops, lefts = (tile_starts(length, size, overlap) for length in shape)
        if (count := len(tops) * len(lefts)) > min(MOST_TILES, MOST_TILE_PIXELS // size**2):
            raise InputError(
                f"TILE_OVERLAP: too many tiles of a {width}x{height} image (found {count:,}, up to {MOST_TILES:,} "
                f"with {MOST_TILE_PIXELS:,} pixels in all); use a smaller overlap or another size"
            )
        return [[left, top, size, size] for top in tops for left in lefts]
    side = size if fit == "crop" else max(size, height, width)
    return [[(width - side) // 2, (height - side) // 2, side, side]]


def cut(picture, box, size, interpolation=None):
    """Cut a box out of an image, black beyond the edge, and scale it to size x size.

    Args:
        picture: (H, W) or (H, W, C).
        box: (left, top, width, height) in image pixels; left and top may be negative.
        size: side length of the result in pixels.
        interpolation: an OpenCV constant; None: area averaging to shrink, bicubic to enlarge.

    Returns:
        (size, size) or (size, size, C), same number type.
    """
    left, top, width, height = box
    rows, columns = picture.shape[:2]
    inside = picture[max(top, 0) : top + height, max(left, 0) : left + width]
    borders = (max(-top, 0), max(top + height - rows, 0), max(-left, 0), max(left + width - columns, 0))
    if any(borders):
        add = partial(cv2.copyMakeBorder, borderType=cv2.BORDER_CONSTANT, value=0)
        inside = by_channels(lambda channels: add(channels, *borders), inside)
    return resize(inside, (size, size), interpolation)


def paste(values, box, shape, interpolation=cv2.INTER_NEAREST):
    """Undo `cut`: put a mask, or other values, back into its position in the image, with zeros around it.

    Args:
        values: (size, size) uint8, uint16 or float32.
        box: (left, top, width, height) that they were cut from; parts outside the image are dropped.
        shape: (height, width) of the image.
        interpolation: OpenCV's method; nearest neighbor for masks.

    Returns:
        (height, width) of the same type.
    """
    left, top, width, height = box
    whole = np.zeros(shape, values.dtype)
    values = resize(np.ascontiguousarray(values), (height, width), interpolation)
    rows, columns = slice(max(top, 0), top + height), slice(max(left, 0), left + width)
    inside = whole[rows, columns]
    inside[:] = values[max(-top, 0) :, max(-left, 0) :][: inside.shape[0], : inside.shape[1]]
    return whole


def resize(picture, shape, interpolation=None):
    """Scale an image, (H, W) or (H, W, C), to (height, width); interpolation as in `cut`."""
    height, width = shape
    if picture.shape[:2] == (height, width):
        return picture
    if interpolation is None:
        shrinks = height * width < picture.shape[0] * picture.shape[1]
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return by_channels(lambda channels: cv2.resize(channels, (width, height), interpolation=interpolation), picture)

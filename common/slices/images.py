"""Images: read and check files, write, convert gray levels, cut to size."""

import cv2
import numpy as np

from common.errors import InputError
from common.files import whole_file
from common.slices.decoding import decode
from common.slices.finding import SUBFOLDER, read_regular, scan
from common.slices.tiling import tile_starts

MOST_TILES, MOST_TILE_PIXELS = 10_000, 2**30  # of one image, all in memory at once
SMALLEST_SIDE = 8  # pixels, of an image to import; smaller ones are icons or damaged


def read_image(path):
    """Read an image as stored.

    Args:
        path: PNG, JPEG, TIFF or BMP file.

    Returns:
        uint8 or uint16, (H, W) or (H, W, 3) in RGB order, without an opaque alpha channel.

    Raises:
        InputError: if the file is missing, empty or no regular file, or as `common.slices.decoding.decode`.
    """
    return decode(read_regular(path), path)


def refuse_tiny(picture, path):
    """Raise InputError if an image to import, (H, W), has a side under SMALLEST_SIDE."""
    if min(picture.shape) < SMALLEST_SIDE:
        found = "{1}x{0}".format(*picture.shape)
        raise InputError(f"{path}: too small for an image (found {found}, expected at least 8x8); replace it")


def read_slice(path):
    """Read a slice of a case folder: gray, 8-bit or 16-bit, square.

    Returns:
        (H, H) uint8 or uint16.

    Raises:
        InputError: as `read_image`, and if the image has several channels or is not square.
    """
    picture = read_image(path)
    if picture.ndim == 3:
        raise InputError(
            f"{path}: expected one gray channel (found {picture.shape[2]} channels); import it with 0_import_images.py"
        )
    height, width = picture.shape
    if height != width:
        raise InputError(f"{path}: expected a square (found {width}x{height}); import it with 0_import_images.py")
    return picture


def read_mask(path):
    """Read a mask of a case folder, like `read_slice` but 8-bit only.

    Returns:
        (H, H) uint8.
    """
    mask = read_slice(path)
    if mask.dtype != np.uint8:
        raise InputError(f"{path}: expected an 8-bit mask (found 16 bits); import it with 0_import_images.py")
    return mask


def read_pair(x_path, y_path, like=None):
    """Read a slice with its mask.

    Args:
        x_path, y_path: files.
        like: (path, slice) with the expected size and number type, or None.

    Returns:
        (H, H) uint8 or uint16 and (H, H) uint8.

    Raises:
        InputError: as `read_slice`, and if sizes or number types differ.
    """
    x, y = read_slice(x_path), read_mask(y_path)
    if like and (x.shape, x.dtype) != (like[1].shape, like[1].dtype):
        expected, found = (f"{len(image)}x{len(image)} {image.dtype}" for image in (like[1], x))
        raise InputError(
            f"{x_path}: expected {expected} as in {like[0]} (found {found}); import both with the same settings"
        )
    if x.shape != y.shape:
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
        picture: (H, W) or (H, W, 3), RGB order.

    Returns:
        (H, W), same number type; equal channels stay unchanged, others become luminance (ITU-R BT.601).
    """
    if picture.ndim == 2:
        return picture
    first = picture[..., 0]
    if all(np.array_equal(first, picture[..., i]) for i in (1, 2)):
        return np.ascontiguousarray(first)
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


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
        picture: (H, W).
        box: (left, top, width, height) in image pixels; left and top may be negative.
        size: side length of the result in pixels.
        interpolation: an OpenCV constant; None: area averaging to shrink, bicubic to enlarge.

    Returns:
        (size, size), same number type.
    """
    left, top, width, height = box
    rows, columns = picture.shape
    inside = picture[max(top, 0) : top + height, max(left, 0) : left + width]
    borders = (max(-top, 0), max(top + height - rows, 0), max(-left, 0), max(left + width - columns, 0))
    if any(borders):
        inside = cv2.copyMakeBorder(inside, *borders, cv2.BORDER_CONSTANT, value=0)
    return resize(inside, (size, size), interpolation)


def paste(mask, box, shape):
    """Undo `cut`: put a mask back into its position in the image, with zeros around it.

    Args:
        mask: (size, size) class numbers.
        box: (left, top, width, height) that it was cut from; parts outside the image are dropped.
        shape: (height, width) of the image.

    Returns:
        (height, width) uint8.
    """
    left, top, width, height = box
    whole = np.zeros(shape, np.uint8)
    mask = resize(np.ascontiguousarray(mask, np.uint8), (height, width), cv2.INTER_NEAREST)
    rows, columns = slice(max(top, 0), top + height), slice(max(left, 0), left + width)
    inside = whole[rows, columns]
    inside[:] = mask[max(-top, 0) :, max(-left, 0) :][: inside.shape[0], : inside.shape[1]]
    return whole


def resize(picture, shape, interpolation=None):
    """Scale an image to (height, width); interpolation as in `cut`."""
    height, width = shape
    if picture.shape[:2] == (height, width):
        return picture
    if interpolation is None:
        shrinks = height * width < picture.shape[0] * picture.shape[1]
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(picture, (width, height), interpolation=interpolation)

"""Decode image files strictly: a file that is damaged, or is more than one plain image, is refused.

OpenCV alone fills missing data with gray, reads only the first page of a TIFF, and ignores orientation. It decodes PNG
here, after a check of every checksum. simplejpeg decodes JPEG, since it alone reports what libjpeg only warns about;
tifffile decodes TIFF, and Pillow BMP and the TIFF compressions that tifffile lacks (OpenCV, if they are 16-bit color).
Only a TIFF of several gray samples per pixel has other channels than gray or RGB.
"""

import io
import logging
import struct
import warnings
import zlib
from itertools import count, islice

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from common.devices import silenced_libraries
from common.errors import InputError
from common.lazy import Lazy

tifffile = Lazy("tifffile")

LARGEST = 2**28  # pixels times channels of an image
MOST_PAGES = 1000  # to count
Image.MAX_IMAGE_PIXELS = None  # LARGEST instead, with our own message
for library in ("tifffile", "PIL"):  # they report damage that is refused here
    logging.getLogger(library).setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module=r"PIL\.")

CUT = "file is cut short; copy it again"
ORIENTATION = 0x0112  # tag of EXIF and TIFF
FOREIGN = {
    b"GIF8": "GIF",
    b"RIFF": "WebP",
    b"\0\0\0\x0cjP": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"%PDF": "PDF",
    b"PK\x03\x04": "ZIP",
    b"\x1f\x8b": "gzip",
    b"\x89HDF": "HDF5",
    b"version https://git-lfs": "Git LFS pointer",
}
DAMAGE = (
    *(ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError, EOFError, OSError),
    *(AssertionError, ImportError, SyntaxError, struct.error, zlib.error, cv2.error),
)  # what the libraries raise for damaged files


class Unusable(Exception):
    """Why an image cannot be used: the problem, what was found, and what to do."""


def decode(data, path):
    """Decode a PNG, JPEG, TIFF or BMP file.

    Args:
        data: bytes of the file.
        path: path for messages.

    Returns:
        uint8 or uint16, (H, W) or (H, W, 3) in RGB order, or (H, W, C) of a TIFF with C gray samples per pixel; 1-bit
        images as 0 and 255.

    Raises:
        InputError: if the file is damaged or of another format; has several pages or frames, an orientation,
            transparent pixels, CMYK colors or another number type; or has over LARGEST values.
    """
    try:
        read = _reader(data)
        with np.errstate(all="ignore"):
            return _without_alpha(*read(data))
    except Unusable as problem:
        raise InputError(f"{path}: {problem}") from None
    except DAMAGE as error:
        said = str(error).partition(" <_io.")[0].strip()  # Pillow names the object that it reads
        reason = said.splitlines()[0][:100] if said else type(error).__name__
        raise InputError(
            f"{path}: not a readable image (damaged or cut short: {reason}); copy it again or convert it to PNG"
        ) from None


def _reader(data):
    if data[128:132] == b"DICM":
        raise Unusable("expected PNG, JPEG, TIFF or BMP (found DICOM); import it with 0_import_volumes.py")
    for start, reader in READERS.items():
        if data.startswith(start):
            return reader
    if name := next((name for start, name in FOREIGN.items() if data.startswith(start)), None):
        raise Unusable(f"expected PNG, JPEG, TIFF or BMP (found {name}); convert it to PNG")
    raise Unusable("not a readable image (damaged, or another format); copy it again or convert it to PNG")


def _check_size(width, height, channels=1):
    if width * height * channels > LARGEST:
        raise Unusable(
            f"image is too large (found {width}x{height}x{channels}, up to {LARGEST:,} values); "
            "cut it into smaller images"
        )
    if not width * height:
        raise Unusable(f"image is empty (found {width}x{height}); make it again")


def _check_orientation(value):
    if value not in (None, 0, 1):
        raise Unusable(
            f"image has to be turned for display (found EXIF orientation {value}), and its mask might not be; "
            "save both upright"
        )


def _check_frames(number, what):
    if number > 1:
        raise Unusable(
            f"expected one image (found {number} {what}); save each as its own file, or import a volume with "
            "0_import_volumes.py"
        )


def _without_alpha(image, several=False):
    """Remove an opaque alpha channel and single channels; refuse other number types.

    Args:
        image: array.
        several: whether all channels are gray samples, none of them alpha.
    """
    if image.dtype == bool:
        image = image.astype(np.uint8) * 255
    if image.dtype not in (np.uint8, np.uint16):
        raise Unusable(f"expected 8-bit or 16-bit values (found {image.dtype}); convert it")
    if several and image.ndim == 3 and image.shape[2] > 1:
        return np.ascontiguousarray(image)
    if image.ndim == 3 and image.shape[2] in (2, 4):
        if (image[..., -1] != np.iinfo(image.dtype).max).any():
            raise Unusable("image has transparent pixels (alpha channel); save it without transparency")
        image = image[..., :-1]
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3):
        return np.ascontiguousarray(image)
    raise Unusable(f"expected one gray channel or RGB (found shape {image.shape}); convert it to PNG")


# --- formats


PNG = b"\x89PNG\r\n\x1a\n"
PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
PNG_KINDS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # color type to bits


def _read_png(data):
    every = list(_png_chunks(data))
    chunks = dict(every)
    width, height, bits, kind = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    _check_size(width, height, {0: 1, 4: 2, 2: 3}.get(kind, 4))
    if bits not in PNG_KINDS.get(kind, ()):
        raise ValueError(f"{bits} bits of color type {kind}")
    if strange := [name for name, _ in every if name not in PNG_PIXELS and not name[0] & 32]:
        raise ValueError(f"unknown chunk {strange[0]!r}, without which pixels have another meaning")
    if kind == 3:
        _check_palette(data, len(chunks.get(b"PLTE", b"")) // 3)
    if b"acTL" in chunks:
        _check_frames(max(2, int.from_bytes(chunks[b"acTL"][:4])), "frames of an animation")
    if b"eXIf" in chunks:
        exif = Image.Exif()
        exif.load(b"Exif\0\0" + chunks[b"eXIf"])
        _check_orientation(exif.get(ORIENTATION))
    if chunks.keys() - set(PNG_PIXELS):  # libpng prints what it does not like about the others, such as color profiles
        data = PNG + b"".join(_png_chunk(kind, body) for kind, body in every if kind in PNG_PIXELS)
    return (_by_opencv(data),)


def _check_palette(data, colors):
    """OpenCV shows pixels beyond the palette as black."""
    if not colors:
        raise ValueError("no palette")
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        last = int(np.asarray(image).max())
    if last >= colors:
        raise ValueError(f"color {last} of {colors}")


def _png_chunk(kind, body):
    return len(body).to_bytes(4) + kind + body + zlib.crc32(body, zlib.crc32(kind)).to_bytes(4)


def _by_opencv(data):
    with silenced_libraries(modules=False):  # libpng prints what is wrong with the pixels
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError("OpenCV cannot decode it")
    return image if image.ndim == 2 else image[..., [2, 1, 0, 3][: image.shape[2]]]


def _png_chunks(data):
    """Yield (type, content) of the chunks; raise ValueError unless all are complete, with correct checksums.

    OpenCV checks only some of them; it does check that the pixels are complete.
    """
    start = 8
    while True:
        length = int.from_bytes(data[start : start + 4])
        end = start + 12 + length
        if end > len(data):
            raise Unusable(CUT)
        kind, body, checksum = data[start + 4 : start + 8], data[start + 8 : end - 4], data[end - 4 : end]
        if zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(checksum):
            raise ValueError(f"wrong checksum of {kind!r}")
        yield kind, body
        if kind == b"IEND":
            return
        start = end


def _read_jpeg(data):
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as header:
        _check_size(*header.size, len(header.getbands()))
        if header.mode not in ("L", "RGB"):
            raise Unusable(f"expected gray or RGB (found {header.mode}); convert it to PNG")
        _check_orientation(header.getexif().get(ORIENTATION))
        colors = {"L": "GRAY"}.get(header.mode, "RGB")
    return (simplejpeg.decode_jpeg(data, colors, strict=True),)


def _read_bmp(data):
    offset, header_size, width, height, _, bits, compression = struct.unpack("<10xIIiiHHI", data[:34])
    if header_size >= 40:
        _check_size(abs(width), abs(height), 4)
        needed = offset + (abs(width) * bits + 31) // 32 * 4 * abs(height)
        if compression in (0, 3) and not needed <= len(data) <= needed + 1024:
            raise ValueError(f"header and file size differ: {needed} and {len(data)} bytes")
    with Image.open(io.BytesIO(data), formats=("BMP",)) as image:
        _check_size(*image.size, len(image.getbands()))
        return (np.asarray(image.convert("RGB") if image.mode == "P" else image),)


def _read_tiff(data):
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        pages = [each for each in islice(_pages_of(file), MOST_PAGES) if not each.is_reduced]  # reduced: a thumbnail
        if pages and page.is_reduced:
            raise Unusable("the first page is a smaller copy of the image, like a thumbnail; save it without this page")
        _check_frames(len(pages), "pages" if len(pages) < MOST_PAGES else "pages or more")
        if file.is_imagej or file.is_stk:
            _check_frames(file.series[0].size // max(page.size, 1), "pages")
        _check_size(page.imagewidth, page.imagelength, page.samplesperpixel)
        _check_frames(page.imagedepth, "planes")
        tag = page.tags.get(ORIENTATION)
        _check_orientation(tag and int(tag.value))
        gray = page.photometric is not None and page.photometric.name in ("MINISBLACK", "MINISWHITE")
        return _tiff_pixels(page, data), gray and page.samplesperpixel > 1 and not any(page.extrasamples)


def _pages_of(file):
    """Yield the pages one by one; a damaged file can have them without end."""
    for number in count():
        try:
            yield file.pages[number]
        except IndexError:
            return


def _tiff_pixels(page, data):
    color = page.photometric.name if page.photometric is not None else "unknown"
    if color not in ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE", "YCBCR"):
        raise Unusable(f"expected gray or RGB (found {color}); convert it to PNG")
    if page.dtype is None or page.dtype not in (bool, np.uint8, np.uint16) or page.bitspersample not in (1, 8, 16):
        found = page.dtype if page.dtype is not None and page.dtype.kind != "u" else f"{page.bitspersample} bits"
        raise Unusable(f"expected 8-bit or 16-bit values (found {found}); convert it")
    if not _check_segments(page, data):
        image = _tiff_pixels_by_pillow(page, data)
        return ~image if color == "MINISWHITE" and image.dtype == np.uint16 else image  # Pillow inverts the others
    image = page.asarray()
    if color == "PALETTE":
        colors = page.colormap >> (8 if page.colormap.max() > 255 else 0)
        return np.moveaxis(colors.astype(np.uint8)[:, image], 0, -1)
    if page.axes == "SYX":
        image = np.moveaxis(image, 0, -1)
    return ~image if color == "MINISWHITE" else image


def _check_segments(page, data):
    """Check the strips or tiles of a TIFF.

    Returns:
        whether tifffile can decode it: uncompressed or deflate.

    Raises:
        ValueError: if one is missing, cut short, damaged or of the wrong size.
    """
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if any(not offset or not count or offset + count > len(data) for offset, count in segments):
        raise ValueError("strips are missing or beyond the end")
    if page.compression not in (tifffile.COMPRESSION.NONE, *DEFLATE):
        return False
    sizes = [count for _, count in segments]
    if page.compression in DEFLATE:
        sizes = [len(_inflate(data[offset : offset + count])) for offset, count in segments]
    row, samples = (page.imagewidth * page.bitspersample * page.samplesperpixel + 7) // 8, 1
    if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
        row, samples = (page.imagewidth * page.bitspersample + 7) // 8, page.samplesperpixel
    if page.is_tiled:
        number = -(-page.imagewidth // page.tilewidth) * -(-page.imagelength // page.tilelength) * samples
        tile = page.tilewidth * page.tilelength * page.bitspersample * page.samplesperpixel // samples // 8
        expected = {tile * number}
    else:
        number = -(-page.imagelength // page.rowsperstrip) * samples
        expected = {row * page.imagelength * samples, row * page.rowsperstrip * number}
    if len(segments) != number:
        raise ValueError(f"expected {number} strips or tiles, found {len(segments)}")
    if sum(sizes) not in expected:
        raise ValueError(f"expected {max(expected)} bytes of pixels, found {sum(sizes)}")
    return True


DEFLATE = (8, 32946)  # values of the tag Compression: Adobe's, and the older one


def _inflate(data):
    """Decompress a strip with its checksum; bytes after it are padding."""
    unpacked = zlib.decompressobj()
    pixels = unpacked.decompress(data, 4 * LARGEST)
    if not unpacked.eof:
        raise ValueError("a strip ends early")
    return pixels


def _tiff_pixels_by_pillow(page, data):
    with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
        with silenced_libraries(modules=False):  # Pillow raises what libtiff prints
            image.load()
        if image.mode == "P" or page.photometric.name == "YCBCR":
            image = image.convert("RGB")
        image = np.asarray(image)
    if image.dtype != page.dtype and page.bitspersample > 1:  # Pillow reduces 16-bit color to 8 bits
        return _by_opencv(data)
    return image


READERS = {
    PNG: _read_png,
    b"\xff\xd8\xff": _read_jpeg,
    b"BM": _read_bmp,
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _read_tiff),
}

"""Image files: what is decoded, and that damage and everything that is not one plain image is refused."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import simplejpeg
import tifffile
from PIL import Image

from common.errors import InputError
from common.slices.decoding import LARGEST, decode

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
RNG = np.random.default_rng(0)
GRAY = cv2.GaussianBlur(RNG.integers(0, 256, (40, 50)).astype(np.float32), (0, 0), 3).astype(np.uint8)
DEEP = GRAY.astype(np.uint16) * 257 + 3
COLOR = np.stack([GRAY, GRAY[::-1], 255 - GRAY], -1)
FEW = Image.fromarray(COLOR).quantize(5)
WIDE = COLOR.astype(np.uint16) * 257
OPAQUE = np.dstack([COLOR, np.full_like(GRAY, 255)])


def pillow(image, ending="PNG", mode=None, **settings):
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    (image.convert(mode) if mode else image).save(file, ending, **settings)
    return file.getvalue()


def tiff(image, **settings):
    file = io.BytesIO()
    tifffile.imwrite(file, image, **settings)
    return file.getvalue()


def opencv(ending, image):
    return cv2.imencode(ending, image if image.ndim == 2 else image[..., [2, 1, 0, 3][: image.shape[2]]])[1].tobytes()


JPEG = simplejpeg.decode_jpeg(pillow(GRAY, "JPEG"), "GRAY")[..., 0]
GOOD = {
    "gray PNG": (opencv(".png", GRAY), GRAY),
    "16-bit PNG": (opencv(".png", DEEP), DEEP),
    "RGB PNG": (opencv(".png", COLOR), COLOR),
    "16-bit RGB PNG": (opencv(".png", WIDE), WIDE),
    "opaque alpha": (opencv(".png", OPAQUE), COLOR),
    "gray and opaque alpha": (pillow(GRAY, mode="LA"), np.dstack([GRAY] * 3)),
    "1-bit PNG": (pillow(GRAY > 100), (GRAY > 100) * np.uint8(255)),
    "palette": (pillow(FEW), np.asarray(FEW.convert("RGB"))),
    "interlaced": (pillow(GRAY, interlace=1), GRAY),
    "JPEG": (pillow(GRAY, "JPEG"), JPEG),
    "RGB JPEG": (pillow(COLOR, "JPEG"), simplejpeg.decode_jpeg(pillow(COLOR, "JPEG"), "RGB")),
    "progressive": (pillow(GRAY, "JPEG", progressive=True), JPEG),
    "BMP": (pillow(GRAY, "BMP"), np.dstack([GRAY] * 3)),
    "RGB BMP": (opencv(".bmp", COLOR), COLOR),
    "1-bit BMP": (pillow(GRAY > 100, "BMP"), (GRAY > 100) * np.uint8(255)),
    "TIFF": (tiff(GRAY), GRAY),
    "16-bit TIFF": (tiff(DEEP), DEEP),
    "big-endian": (tiff(DEEP, byteorder=">"), DEEP),
    "RGB TIFF": (tiff(COLOR, photometric="rgb"), COLOR),
    "planes": (tiff(np.moveaxis(COLOR, -1, 0), photometric="rgb", planarconfig="separate"), COLOR),
    "deflate": (tiff(DEEP, compression="zlib", rowsperstrip=7), DEEP),
    "predictor": (tiff(DEEP, compression="zlib", predictor=True), DEEP),
    "16-bit RGB deflate": (tiff(WIDE, photometric="rgb", compression="zlib"), WIDE),
    "tiles": (tiff(DEEP, tile=(16, 16)), DEEP),
    "packed tiles": (tiff(DEEP, tile=(16, 16), compression="zlib"), DEEP),
    "LZW": (pillow(GRAY, "TIFF", compression="tiff_lzw"), GRAY),
    "16-bit LZW": (pillow(DEEP, "TIFF", compression="tiff_lzw"), DEEP),
    "16-bit RGB LZW": (opencv(".tif", WIDE), WIDE),
    "packbits": (pillow(COLOR, "TIFF", compression="packbits"), COLOR),
    "1-bit TIFF": (pillow(GRAY > 100, "TIFF"), (GRAY > 100) * np.uint8(255)),
    "fax": (pillow(GRAY > 100, "TIFF", compression="group4"), (GRAY > 100) * np.uint8(255)),
    "white is zero": (tiff(GRAY, photometric="miniswhite"), 255 - GRAY),
    "BigTIFF": (tiff(GRAY, bigtiff=True), GRAY),
    "thumbnail": (b"", GRAY),
}  # fmt: skip


def with_thumbnail(first=False):
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for is_small in (first, not first):
            writer.write(GRAY[::2, ::2] if is_small else GRAY, subfiletype=int(is_small))
    return file.getvalue()


GOOD["thumbnail"] = with_thumbnail(), GRAY


@pytest.mark.parametrize("kind", GOOD)
def test_kinds(kind):
    data, expected = GOOD[kind]
    image = decode(data, "a")
    if expected.ndim == 2 and image.ndim == 3:  # OpenCV makes three channels of some gray files
        assert all(np.array_equal(image[..., 0], image[..., i]) for i in (1, 2))
        image = image[..., 0]
    if expected.ndim == 3 and image.ndim == 2:
        image = np.dstack([image] * 3)
    assert image.dtype == expected.dtype and np.array_equal(image, expected)


def animation(ending):
    frames = [Image.fromarray(GRAY), Image.fromarray(255 - GRAY)]
    return pillow(frames[0], ending, save_all=True, append_images=frames[1:])


def png_of_size(width, height, bits=8, kind=0, chunks=(), pixels=bytes(9)):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)), *chunks]
    chunks += [(b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def turned(ending):
    exif = Image.Exif()
    exif[0x0112] = 6
    return pillow(GRAY, ending, exif=exif)


TRANSPARENT = OPAQUE.copy()
TRANSPARENT[3, 4, 3] = 254
BAD = {
    "pages": (tiff(np.stack([GRAY] * 9)), "found 9 pages"),
    "pages of ImageJ": (tiff(np.stack([GRAY] * 4), imagej=True), "found 4 pages"),
    "APNG": (animation("PNG"), "found 2 frames"),
    "GIF": (animation("GIF"), "found GIF"),
    "WebP": (animation("WEBP"), "found WebP"),
    "transparent": (opencv(".png", TRANSPARENT), "transparent pixels"),
    "transparent gray": (pillow(Image.merge("LA", [Image.fromarray(GRAY)] * 2)), "transparent pixels"),
    "CMYK JPEG": (pillow(COLOR, "JPEG", mode="CMYK"), "found CMYK"),
    "CMYK TIFF": (pillow(COLOR, "TIFF", mode="CMYK"), "found SEPARATED"),
    "turned JPEG": (turned("JPEG"), "orientation 6"),
    "turned PNG": (turned("PNG"), "orientation 6"),
    "turned TIFF": (tiff(GRAY, extratags=[(274, 3, 1, 6, True)]), "orientation 6"),
    "float": (tiff(GRAY.astype(np.float32)), "found float32"),
    "NaN": (tiff(np.full((9, 9), np.nan)), "found float64"),
    "signed": (tiff(GRAY.astype(np.int16)), "found int16"),
    "32 bits": (tiff(GRAY.astype(np.uint32)), "found 32 bits"),
    "complex": (tiff(GRAY.astype(np.complex64)), "found complex64"),
    "volume": (tiff(np.stack([GRAY] * 9), volumetric=True), "found 9 planes"),
    "five channels": (tiff(np.dstack([GRAY] * 5), photometric="rgb"), "expected one gray channel or RGB"),
    "no image": (b"no image at all", "another format"),
    "DICOM": (bytes(128) + b"DICM" + bytes(99), "found DICOM"),
    "huge": (png_of_size(60000, 60000), f"up to {LARGEST:,}"),
    "empty": (png_of_size(0, 5), "found 0x5"),
    "no palette": (png_of_size(9, 9, kind=3), "no palette"),
    "short palette": (
        png_of_size(9, 9, kind=3, chunks=[(b"PLTE", bytes(6))], pixels=9 * b"\0\0\1\1\2\0\0\0\0\1"),
        "color 2 of 2",
    ),
    "critical chunk": (png_of_size(9, 9, chunks=[(b"CgBI", b"")], pixels=bytes(90)), "unknown chunk b'CgBI'"),
    "wrong bits": (png_of_size(9, 9, bits=2, kind=2), "2 bits of color type 2"),
    "thumbnail before the image": (with_thumbnail(first=True), "a smaller copy of the image"),
    "few pixels": (png_of_size(9, 9), "damaged or cut short"),
    "wrong filter": (png_of_size(9, 9, pixels=9 * (b"\5" + bytes(9))), "damaged or cut short"),
    "half JPEG": (pillow(GRAY, "JPEG", quality=95)[:500] + b"\xff\xd9", "premature end"),
}


@pytest.mark.parametrize("kind", BAD)
def test_no_plain_images(kind, capfd):
    data, words = BAD[kind]
    with pytest.raises(InputError, match=f"^a.png: .*{words}.*") as error:
        decode(data, "a.png")
    assert "\n" not in str(error.value)
    assert not capfd.readouterr().err


def test_what_libpng_warns_about_is_not_printed(capfd):
    pixels = b"".join(b"\0" + row.tobytes() for row in GRAY)
    image = decode(png_of_size(*GRAY.shape[::-1], pixels=pixels + b"more"), "a.png")
    assert np.array_equal(image, GRAY) and not capfd.readouterr().err


def test_what_is_wrong_with_the_color_profile_of_a_png_is_not_printed(capfd):
    pixels = b"".join(b"\0" + row.tobytes() for row in GRAY)
    junk = [(b"iCCP", b"x\0\0" + zlib.compress(b"junk")), (b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))]
    image = decode(png_of_size(*GRAY.shape[::-1], chunks=junk, pixels=pixels), "a.png")
    assert np.array_equal(image, GRAY) and not capfd.readouterr().err


TIFFS = ["TIFF", "deflate", "tiles", "LZW", "packbits", "fax", "16-bit RGB LZW"]
CUT = ["gray PNG", "16-bit PNG", "JPEG", "progressive", "BMP", *TIFFS]


@pytest.mark.parametrize("kind", CUT)
def test_files_that_end_early(kind):
    data, _ = GOOD[kind]
    for length in [*range(1, len(data) - 12, max(1, len(data) // 40)), len(data) - 13]:
        try:
            image = decode(data[:length], "a")
        except InputError:
            continue
        # The TIFF writers put tags, such as the name of the software, behind the pixels.
        assert kind in TIFFS and np.array_equal(image, GOOD[kind][1])


@pytest.mark.parametrize("kind", ["gray PNG", "palette", "deflate", "packed tiles"])
def test_a_changed_byte_is_noticed_if_the_format_has_checksums(kind):
    data, expected = GOOD[kind]
    for place in RNG.integers(0, len(data), 150):
        changed = bytearray(data)
        changed[place] ^= int(RNG.integers(1, 256))
        try:
            image = decode(bytes(changed), "a")
        except InputError:
            continue
        assert image.shape != expected.shape or np.array_equal(image, expected)


@pytest.mark.parametrize("kind", [kind for kind in GOOD if "PNG" not in kind])
def test_no_traceback_for_damage(kind):
    data, _ = GOOD[kind]
    for _ in range(60):
        changed = bytearray(data)
        changed[RNG.integers(0, min(len(changed), 600))] = int(RNG.integers(0, 256))
        try:
            image = decode(bytes(changed), "a")
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert image.dtype in (np.uint8, np.uint16)


def test_damage_that_libraries_report_is_in_the_message_alone(caplog):
    data = bytearray(opencv(".tif", GRAY))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        data[file.pages[0].tags["SamplesPerPixel"].valueoffset] = 26
    with pytest.raises(InputError, match=r"cut short: cannot identify image file\); copy it"):
        decode(bytes(data), "a")
    assert not caplog.records


def test_a_tiff_whose_pages_never_end_is_refused():
    """The next page is the same page again, a little further on."""
    page = struct.pack("<H", 1) + struct.pack("<HHII", 254, 4, 1, 0)
    data = b"II*\0" + struct.pack("<I", 8) + b"".join(page + struct.pack("<I", 8 + 18 * (i + 1)) for i in range(5000))
    with pytest.raises(InputError):
        decode(data, "a")
    with pytest.raises(InputError, match="found 1000 pages or more"):
        decode(tiff(np.zeros((1200, 2, 2), np.uint8)), "a")


def test_jpeg_that_the_decoder_only_warns_about_is_refused():
    data = pillow(GRAY, "JPEG", quality=95)
    refused = 0
    for place in np.linspace(650, len(data) - 30, 40).astype(int):
        changed = data[:place] + RNG.bytes(8).replace(b"\xff", b"\x00") + data[place + 8 :]
        try:
            decode(changed, "a")
        except InputError:
            refused += 1
    assert refused > 10

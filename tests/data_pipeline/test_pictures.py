"""Pictures of every depth and kind come out as a person sees them, or are refused by name."""

import pickle
import struct
import warnings
import zlib

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image, ImageFile

import co_detr
from co_detr.data import UnreadablePicture, picture_size, read_picture
from co_detr.data.pictures import pixels_of


def _gray(path):
    """The first row of a gray picture; checks that its channels are equal."""
    pixels = read_picture(path)
    assert pixels.dtype == np.uint8 and (pixels == pixels[:, :, :1]).all()
    return pixels[0, :, 0].tolist()


def _tiff(bits, sample_format, data, width, order="<", white_is_zero=False, orientation=1):
    """A TIFF file of one row that Pillow cannot write."""
    entries = [(256, width), (257, 1), (258, bits), (259, 1), (262, 0 if white_is_zero else 1)]
    entries += [(273, 8 + 2 + 12 * 11 + 4), (274, orientation), (277, 1), (278, 1)]
    entries += [(279, len(data)), (339, sample_format)]
    content = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    for tag, value in entries:
        content += struct.pack(order + "HHIHH", tag, 3, 1, value, 0)
    return content + b"\0\0\0\0" + data


@pytest.mark.parametrize(
    "suffix, options",
    [("png", {}), ("tif", {}), ("tif", {"compression": "tiff_deflate"}), ("jp2", {})],
)
def test_16_bits_are_scaled_by_their_type(tmp_path, suffix, options):
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(values).save(path, **options)
    assert _gray(path) == [0, 1, 128, 255]
    if co_detr.detectron2_origin().startswith("embedded"):  # upstream's reader shows it white
        assert np.array_equal(read_image(str(path), "RGB"), read_picture(path))


def test_a_dark_picture_of_16_bits_stays_dark(tmp_path):
    Image.fromarray(np.full((1, 2), 514, np.uint16)).save(tmp_path / "a.png")
    assert _gray(tmp_path / "a.png") == [2, 2]


@pytest.mark.parametrize(
    "file, expected",
    [
        # big-endian 16 bits; then 12 bits, two values in three bytes: 0, 0x800, 0xFFF, 0
        (_tiff(16, 1, struct.pack(">3H", 0, 257, 65535), 3, ">"), [0, 1, 255]),
        (_tiff(12, 1, bytes([0x00, 0x08, 0x00, 0xFF, 0xF0, 0x00]), 4), [0, 128, 255, 0]),
        (_tiff(16, 2, struct.pack("<3h", 0, 16448, 32767), 3), [0, 128, 255]),
        (_tiff(32, 1, struct.pack("<3I", 0, 2**31, 2**32 - 1), 3), [0, 128, 255]),
        (_tiff(16, 1, struct.pack("<3H", 0, 257, 65535), 3, white_is_zero=True), [255, 254, 0]),
        (_tiff(32, 3, struct.pack("<3f", 0, 0.25, 1), 3, white_is_zero=True), [255, 191, 0]),
        (b"P5 3 1 100\n" + bytes([0, 50, 100]), [0, 128, 255]),
        (b"P5 3 1 4095\n" + struct.pack(">3H", 0, 2048, 4095), [0, 128, 255]),
        (b"P5 3 1 65535\n" + struct.pack(">3H", 0, 257, 65535), [0, 1, 255]),
        (b"P2 3 1 1023\n0 512 1023", [0, 128, 255]),
    ],
)
def test_the_white_of_a_type_is_white(tmp_path, file, expected):
    (tmp_path / "a").write_bytes(file)
    assert _gray(tmp_path / "a") == expected


@pytest.mark.parametrize(
    "dtype, values, expected",
    [
        (np.int32, [0, 100, 255], [0, 100, 255]),
        (np.int32, [0, 256, 51400], [0, 1, 200]),
        (np.int32, [0, 65536, 2**31 - 1], [0, 0, 255]),
        (np.float32, [0, 0.2, 1], [0, 51, 255]),
        (np.float32, [0, 1.6, 255], [0, 2, 255]),
        (np.float32, [0, 257, 65535], [0, 1, 255]),
    ],
)
def test_32_bits_have_the_least_white_that_holds_them(tmp_path, dtype, values, expected):
    Image.fromarray(np.array([values], dtype)).save(tmp_path / "a.tif")
    assert _gray(tmp_path / "a.tif") == expected


@pytest.mark.parametrize(
    "dtype, values, text",
    [
        (np.int32, [-100, 300], "from -100 to 300"),
        (np.float32, [-0.5, 0.5], "from -0.5 to 0.5"),
        (np.float32, [0, 1e6], "from 0.0 to 1000000.0, are no brightness.*0..65535"),
        (np.float32, [0, np.nan], "nan"),
        (np.float32, [0, np.inf], "inf"),
    ],
)
def test_values_without_a_meaning_are_refused(tmp_path, dtype, values, text):
    Image.fromarray(np.array([values], dtype)).save(tmp_path / "a.tif")
    with pytest.raises(UnreadablePicture, match=f"unreadable: .*a.tif: its values, .*{text}"):
        read_picture(tmp_path / "a.tif")


def test_what_is_transparent_is_white(tmp_path):
    rgba = np.array([[[9, 8, 7, 255], [9, 8, 7, 0], [0, 0, 0, 51]]], np.uint8)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    # a fifth of black on white
    assert read_picture(tmp_path / "rgba.png").tolist() == [[[9, 8, 7], [255] * 3, [204] * 3]]
    Image.fromarray(rgba[:, :, ::3], "LA").save(tmp_path / "la.png")
    assert _gray(tmp_path / "la.png") == [9, 255, 204]

    palette = Image.new("P", (3, 1))
    palette.putpalette([10, 20, 30, 255, 0, 0, 0, 0, 0])
    palette.putdata([0, 1, 2])
    for suffix in ("png", "gif"):
        palette.save(tmp_path / f"solid.{suffix}")
        palette.save(tmp_path / f"holes.{suffix}", transparency=2)
        solid = read_picture(tmp_path / f"solid.{suffix}")
        assert solid.tolist() == [[[10, 20, 30], [255, 0, 0], [0, 0, 0]]]
        holes = read_picture(tmp_path / f"holes.{suffix}")
        assert holes.tolist() == [[[10, 20, 30], [255, 0, 0], [255, 255, 255]]]
    Image.new("RGB", (1, 1), (5, 6, 7)).save(tmp_path / "key.png", transparency=(5, 6, 7))
    assert _gray(tmp_path / "key.png") == [255]


def _png(bits, colours, row, transparent):
    """A PNG file of two pixels with a transparent value, of a depth that Pillow does not write."""
    header = struct.pack(">IIBBBBB", 2, 1, bits, colours, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    pixels = zlib.compress(b"\0" + row)
    for chunk in (b"IHDR" + header, b"tRNS" + transparent, b"IDAT" + pixels, b"IEND"):
        content += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return content


@pytest.mark.parametrize(
    "file, expected",
    [
        (_png(1, 0, b"\x40", b"\0\0"), [255, 255]),  # 0 and 1, of which 0 is transparent
        (_png(2, 0, b"\x40", b"\0\1"), [255, 0]),  # 1 of 3, and 0
        (_png(4, 0, b"\x71", b"\0\7"), [255, 17]),  # 7 and 1 of 15
        (_png(8, 0, b"\x64\x65", b"\0\x64"), [255, 101]),
        (_png(16, 0, struct.pack(">2H", 1000, 1028), struct.pack(">H", 1000)), [255, 4]),
        (_png(16, 2, struct.pack(">6H", *[1000] * 3, *[1285] * 3), b"\3\xe8" * 3), [255, 5]),
    ],
)
def test_a_transparent_value_is_one_of_the_files_depth(tmp_path, file, expected):
    (tmp_path / "a.png").write_bytes(file)
    assert _gray(tmp_path / "a.png") == expected
    with Image.open(tmp_path / "a.png") as image:
        assert pixels_of(image)[0, :, 0].tolist() == expected
        assert image.info["transparency"] == Image.open(tmp_path / "a.png").info["transparency"]


def test_other_colour_spaces_become_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "cmyk.jpg")  # written as Adobe does
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "cmyk.tif")
    for name in ("cmyk.jpg", "cmyk.tif"):
        assert read_picture(tmp_path / name)[0, 0].tolist() == [0, 255, 255]
    Image.new("YCbCr", (1, 1), (76, 85, 255)).save(tmp_path / "ycbcr.tif")
    assert np.allclose(read_picture(tmp_path / "ycbcr.tif"), [254, 0, 0], atol=1)
    # L* = 54.3, a* = 80.8, b* = 69.9 is red under D50, the white of colour profiles; Pillow keeps
    # L* times 2.55, the others plus 128
    Image.new("LAB", (1, 1), (138, 209, 198)).save(tmp_path / "lab.tif")
    assert np.allclose(read_picture(tmp_path / "lab.tif"), [255, 0, 0], atol=5)
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "one.png")
    assert _gray(tmp_path / "one.png") == [255, 0]


def test_the_first_of_several_pictures_counts(tmp_path):
    first, second = Image.new("RGB", (4, 3), (255, 0, 0)), Image.new("RGB", (4, 3), (0, 0, 255))
    for suffix in ("gif", "tif", "png", "webp"):
        path = tmp_path / f"a.{suffix}"
        first.save(path, save_all=True, append_images=[second])
        assert np.allclose(read_picture(path), [255, 0, 0], atol=3)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_pictures_are_upright(tmp_path, suffix, orientation):
    # stored with a white left half; at 6, the left is to come up
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path, exif=exif)
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    expected = np.rot90(pixels, turns)
    found = read_picture(path)
    assert found.shape == expected.shape and np.abs(found.astype(int) - expected).max() < 30
    assert picture_size(path) == expected.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_mirrored_orientations_agree_with_detectron2(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    for format in ("RGB", "BGR"):
        expected = read_image(str(tmp_path / "a.png"), format)
        assert np.array_equal(read_picture(tmp_path / "a.png", format), expected)
    assert picture_size(tmp_path / "a.png") == expected.shape[:2]


def test_turned_pictures_of_16_bits(tmp_path):
    data = struct.pack("<3H", 0, 257, 65535)
    (tmp_path / "a.tif").write_bytes(_tiff(16, 1, data, 3, orientation=6))
    assert read_picture(tmp_path / "a.tif")[:, 0, 0].tolist() == [0, 1, 255]
    assert picture_size(tmp_path / "a.tif") == (3, 1)


def test_orientation_behind_the_pixels_of_a_png(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (5, 2)).save(tmp_path / "a.png", exif=exif)
    content = (tmp_path / "a.png").read_bytes()
    at = content.index(b"eXIf") - 4
    chunk = content[at : at + 12 + int.from_bytes(content[at : at + 4], "big")]
    content = content.replace(chunk, b"")
    at = content.index(b"IEND") - 4
    (tmp_path / "a.png").write_bytes(content[:at] + chunk + content[at:])
    assert picture_size(tmp_path / "a.png") == read_picture(tmp_path / "a.png").shape[:2] == (5, 2)


def test_the_size_does_not_take_the_pixels(tmp_path):
    Image.new("RGB", (500, 300)).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: content.index(b"\xff\xda")])
    assert picture_size(tmp_path / "a.jpg") == (300, 500)
    with pytest.raises(UnreadablePicture):
        read_picture(tmp_path / "a.jpg")


def test_broken_files_are_named_with_a_reason(tmp_path, monkeypatch):
    Image.new("RGB", (64, 64)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    files = {
        "empty.png": (b"", "the file is empty"),
        "page.png": (b"<html>", "no picture of a kind that Pillow knows"),
        "x.heic": (b"\0\0\0\x18ftypheic" + b"\0" * 500, "no picture of a kind"),
        "cut.png": (whole[: len(whole) // 2], "OSError: "),
    }
    for name, (content, reason) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadablePicture, match=f"unreadable: .*{name}: {reason}"):
            read_picture(tmp_path / name)
    for read in (read_picture, picture_size):
        with pytest.raises(UnreadablePicture, match="absent.png: there is no such file"):
            read(tmp_path / "absent.png")
        with pytest.raises(UnreadablePicture, match=f"{tmp_path}: IsADirectoryError"):
            read(tmp_path)
    # as some decoder may raise it
    for kind in (SyntaxError, struct.error, ValueError, IndexError, MemoryError, EOFError):

        def fail(*_, kind=kind):
            raise kind("of its own")

        monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
        with pytest.raises(UnreadablePicture, match=f"{kind.__name__}: of its own"):
            read_picture(tmp_path / "whole.png")


def _field(record, number, content):
    return struct.pack(">BBBH", 0x1C, record, number, len(content)) + content


def test_no_picture_is_handed_to_another_program(tmp_path):
    """Pillow would have Ghostscript draw it; IPTC's files may contain any other."""
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    fields = {60: b"\1\0", 20: b"\0\x09", 30: b"\0\x09", 120: b"\5"}  # gray, 9 x 9, as it comes
    box = b"".join(_field(3, number, content) for number, content in fields.items())
    for name, content in (("a.jpg", drawing), ("b.jpg", box + _field(8, 10, drawing))):
        (tmp_path / name).write_bytes(content)
        for read in (read_picture, picture_size):
            with pytest.raises(UnreadablePicture, match=f"{name}: no picture of a kind"):
                read(tmp_path / name)


def test_decompression_bombs_are_unreadable(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    for read in (read_picture, picture_size):
        with pytest.raises(UnreadablePicture, match=r"a.png: .*10000 pixels.*MAX_IMAGE_PIXELS"):
            read(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8000)  # up to twice as many only warn
    with pytest.warns(Image.DecompressionBombWarning):
        assert read_picture(tmp_path / "a.png").shape == (100, 100, 3)
    with warnings.catch_warnings(), pytest.raises(UnreadablePicture, match="a.png: Decompression"):
        warnings.simplefilter("error")
        read_picture(tmp_path / "a.png")


def test_the_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(UnreadablePicture("a.png", "it is broken")))
    assert str(error) == "unreadable: a.png: it is broken"
    assert (error.file, error.reason) == ("a.png", "it is broken")


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'RGB' or 'BGR', not as 'L'"):
        read_picture(tmp_path / "absent.png", "L")

"""Pictures from files, as a person sees them; whatever goes wrong on the way has one name.

detectron2's `read_image` leaves the depth of a pixel to Pillow, which cuts values above 255 off: a
16-bit picture comes out white, a float one black. And the decoders behind it raise whatever they
like, from `SyntaxError` to `struct.error`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from detectron2.utils.file_io import PathManager
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

# How the stored pixels come upright, by EXIF orientation: first sideways, then the flips.
SIDEWAYS, FLIP_LEFT_RIGHT, FLIP_UP_DOWN = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)

# What white may be where the type does not say, as little as holds the greatest value.
INTEGER_WHITES = (2**8 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1)
FLOAT_WHITES = (1, 2**8 - 1, 2**16 - 1)

# Formats that Pillow does not decode by itself: it hands the first to a program, Ghostscript, and
# the second may contain a picture of any format, the first one, too.
NOT_READ = ("EPS", "IPTC")

# What Pillow multiplies the pixels of a PNG file by while it reads them, by how they are stored.
PNG_SCALES: dict[object, float] = {"L;2": 85, "L;4": 17, "RGB;16B": 1 / 256}

# TIFF tags
WIDTH, HEIGHT, BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 256, 257, 258, 262, 339
WHITE_IS_ZERO, UNSIGNED = 0, 1


class UnreadablePicture(OSError):
    """A file that is no picture, or none that has one meaning."""

    def __init__(self, file: str | os.PathLike, reason: str) -> None:
        super().__init__(f"unreadable: {os.fspath(file)}: {reason}")
        self.file = file
        self.reason = reason

    def __reduce__(self) -> tuple:
        return type(self), (self.file, self.reason)


def read_picture(path: str | os.PathLike, format: str = "RGB") -> np.ndarray:
    """The first picture of a file, upright by its EXIF orientation.

    Gray pictures of more than 8 bits are scaled by their type: 16-bit values by 1/257, signed ones
    by 255/32767, 12-bit ones of a TIFF file by 255/4095. 32-bit integers and floats have no white
    of their own: it is the least of 255, 65535, 2^31 - 1 and 2^32 - 1, for floats of 1, 255 and
    65535, that no value exceeds.

    What is transparent is on white, as viewers and browsers show it and annotators have seen it;
    the colours of such pixels, which detectron2 uncovers, are anything.

    Args:
        path: of a file of any of `formats_read`, whatever its name says.
        format: "RGB" or "BGR", the order of the channels.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UnreadablePicture: there is no such file, it is broken, or its values have no one meaning:
            signed ones below 0, floats beyond 65535 or not finite.
    """
    if format not in ("RGB", "BGR"):
        raise ValueError(f"pictures are read as 'RGB' or 'BGR', not as {format!r}")
    with opened(path) as image:
        pixels = pixels_of(image, path)
    return np.array(pixels if format == "RGB" else pixels[:, :, ::-1], order="C")


def pixels_of(image: Image.Image, name: str | os.PathLike = "the picture") -> np.ndarray:
    """The pixels of a picture of Pillow as `read_picture` returns those of a file, in RGB.

    Args:
        image: of any mode; may be opened and not read yet.
        name: of it, for messages.

    Returns:
        (H, W, 3) uint8, maybe a view.

    Raises:
        UnreadablePicture: its values have no one meaning.
    """
    transparent = transparent_value(image)  # before loading, which forgets how pixels are stored
    image.load()
    # Only now: Pillow turns TIFF files itself, while it loads them.
    orientation = orientation_of(image)
    if image.mode[0] in "IF":
        levels = gray_levels(name, image)
        if transparent is not None:
            levels[np.asarray(image) == transparent] = 255
        image = Image.fromarray(levels)
    elif transparent != image.info.get("transparency"):
        image = image.copy()
        image.info["transparency"] = transparent
    return upright(np.asarray(to_rgb(image)), orientation)


def picture_size(path: str | os.PathLike) -> tuple[int, int]:
    """Height and width, in pixels, as `read_picture` returns it; the pixels are not decoded.

    Raises:
        UnreadablePicture: there is no such file, or it is no picture. One that is broken further
            down passes.
    """
    with opened(path) as image:
        if isinstance(
            image, TiffImageFile
        ):  # whether Pillow has turned this size depends on its version
            width, height = int(image.tag_v2[WIDTH]), int(image.tag_v2[HEIGHT])
        else:
            width, height = image.size
        if image.format == "PNG" and not _may_turn(path):
            return height, width
        return (width, height) if orientation_of(image) in SIDEWAYS else (height, width)


def formats_read() -> list[str]:
    """Pillow's names of the formats that pictures are read in: all that it decodes by itself, with
    the plug-ins there are."""
    Image.preinit()  # the common ones first, as they are tried in this order
    Image.init()
    return [name for name in Image.ID if name not in NOT_READ]


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[Image.Image]:
    """A picture file, opened by Pillow; every error inside becomes an `UnreadablePicture`."""
    try:
        with (
            PathManager.open(os.fspath(path), "rb") as file,
            Image.open(file, formats=formats_read()) as image,
        ):
            yield image
    except UnreadablePicture:
        raise
    except Exception as error:  # decoders raise what they like
        raise UnreadablePicture(path, reason_of(path, error)) from error


def reason_of(path: str | os.PathLike, error: Exception) -> str:
    """Why a file cannot be read, for people."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, UnidentifiedImageError):
        if os.path.isfile(path) and not os.path.getsize(path):
            return "the file is empty"
        return "no picture of a kind that Pillow knows"
    if isinstance(error, Image.DecompressionBombError):
        return f"{error} Raise PIL.Image.MAX_IMAGE_PIXELS for pictures that you trust"
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of a picture, 1 to 8; 1, upright, where broken EXIF data hide it."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # the parser raises whatever a broken block provokes
        return 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """A view of stored pixels (H, W, ...), turned as an EXIF orientation says."""
    if orientation in SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if orientation in FLIP_LEFT_RIGHT:
        pixels = pixels[:, ::-1]
    return pixels[::-1] if orientation in FLIP_UP_DOWN else pixels


def _may_turn(path: str | os.PathLike) -> bool:
    """Whether the bytes of a PNG file speak of an orientation. It may come after the pixels, and
    Pillow decodes these to get there."""
    with PathManager.open(os.fspath(path), "rb") as file:
        content = file.read()
    return any(mark in content for mark in (b"eXIf", b"exif", b"tiff:Orientation"))


def transparent_value(image: Image.Image) -> Any:
    """What Pillow knows of transparent pixels, or None; the value that they have in a PNG file,
    which it leaves as it is stored, on the scale of the pixels that it reads."""
    value = image.info.get("transparency")
    if value is None or not isinstance(image, PngImageFile) or not image.tile:
        return value
    scale = PNG_SCALES.get(image.tile[0][3])
    if scale is None:
        return value
    if isinstance(value, tuple):
        return tuple(int(channel * scale) for channel in value)
    return int(value * scale)


def gray_levels(path: str | os.PathLike, image: Image.Image) -> np.ndarray:
    """The pixels of a gray picture of more than 8 bits, (H, W) uint8, scaled as `read_picture`
    says."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if tags.get(BITS_PER_SAMPLE) == (32,) and tags.get(SAMPLE_FORMAT, (UNSIGNED,)) == (UNSIGNED,):
        values = values.view(np.uint32)  # Pillow has no such type
    whites = whites_of(image)
    least, greatest = values.min(), values.max()
    white = next((white for white in whites if greatest <= white), None)
    if white is None or least < 0:  # also not a number, which is below nothing
        raise UnreadablePicture(
            path,
            f"its values, from {least} to {greatest}, are no brightness: scale them to 0..255 or "
            f"0..{whites[-1]}",
        )
    levels = np.rint(values * (255 / white)).astype(np.uint8)
    return 255 - levels if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else levels


def whites_of(image: Image.Image) -> tuple[int, ...]:
    """What white may be in a gray picture of more than 8 bits, ascending; one value where the type
    of its pixels says it."""
    bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (None,))[0]
    if image.mode == "F":
        return FLOAT_WHITES
    if image.mode == "I" and bits == 16:  # signed
        return (2**15 - 1,)
    if image.mode.startswith("I;16"):
        return (2 ** (bits or 16) - 1,)
    if image.format in ("PNG", "PPM"):  # Pillow scales these to 16 bits
        return (2**16 - 1,)
    return INTEGER_WHITES


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of 8 bits or less, in RGB, on white where it is transparent."""
    if image.mode == "LAB":  # which Pillow converts by colour profiles alone
        from PIL import ImageCms

        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
        assert converted is not None  # as only a conversion in place returns
        return converted
    if image.mode in ("La", "RGBa"):  # multiplied by the alpha already
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    palette = image.palette if image.mode == "P" else None
    shows_through = palette is not None and palette.mode.endswith("A")
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info or shows_through:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")

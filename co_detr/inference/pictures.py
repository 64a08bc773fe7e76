"""What a detector takes for a picture, as arrays."""

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from co_detr.data import UnreadablePicture, read_picture
from co_detr.data.pictures import pixels_of

logger = logging.getLogger("co_detr.predict")

Picture = str | os.PathLike | Image.Image | np.ndarray


def to_array(picture: Picture) -> np.ndarray:
    """A picture as an array (H, W, 3) in RGB; an array stays what it is.

    Raises:
        UnreadablePicture: a file is no picture.
        TypeError: it is none of what a detector takes.
    """
    if isinstance(picture, str | os.PathLike):
        return read_picture(os.path.expanduser(picture))
    if isinstance(picture, Image.Image):
        return np.ascontiguousarray(pixels_of(picture))
    if isinstance(picture, np.ndarray | torch.Tensor):
        return picture  # looked at by `predict`
    raise TypeError(
        f"a {type(picture).__name__} is no picture: pass a path, a picture of Pillow, an array "
        "(H, W, 3) in RGB, a list of these, or a folder"
    )


def readable(paths: Iterable[Path]) -> Iterator[tuple[Path, np.ndarray]]:
    """The pictures of files, (H, W, 3) in RGB, with their paths, as they are asked for; those that
    cannot be read are left out with a warning."""
    for path in paths:
        try:
            yield path, read_picture(path)
        except UnreadablePicture as error:
            logger.warning(f"left out: {error}")

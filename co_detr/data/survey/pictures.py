"""A look at every picture: whether it can be read, its size, and a digest to find copies by."""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from co_detr.data.pictures import UnreadablePicture, picture_size, read_picture


class Look(NamedTuple):
    """What was seen of a picture.

    Args:
        size: height and width, upright; None where it cannot be read.
        digest: of the pixels; None where it cannot be read or was not asked for.
        fault: why it cannot be read, or None.
    """

    size: tuple[int, int] | None
    digest: bytes | None = None
    fault: str | None = None


def look_at(path: str, quick: bool = False) -> Look:
    """Read a picture; `quick` reads no more than its size, which misses what is broken inside."""
    try:
        if quick:
            return Look(picture_size(path))
        pixels = read_picture(path)
    except UnreadablePicture as error:
        return Look(None, fault=error.reason)
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return Look(pixels.shape[:2], digest.digest())


def look_at_all(paths: Iterable[str], quick: bool = False) -> dict[str, Look]:
    """Look at pictures, several at a time: decoding leaves other threads the interpreter."""
    paths = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        looks = pool.map(partial(look_at, quick=quick), paths)
        progress = tqdm(looks, total=len(paths), unit="picture", leave=False, disable=None)
        return dict(zip(paths, progress))

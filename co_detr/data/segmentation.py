"""Masks as annotation files write them, polygons and run lengths, checked before they are used."""

import math
import re
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

# Compressed run lengths are digits of 6 bits, as characters from "0" on (pycocotools, maskApi.c).
_COMPRESSED = re.compile(r"[0-o]*")
_MOST_PIXELS = 2**32 - 1  # that pycocotools can count
_FIRST_DIGIT, _CONTINUES, _SIGN, _VALUE, _BITS = 48, 0x20, 0x10, 0x1F, 5


def usable_segmentation(segmentation: Any, height: int, width: int) -> list | dict | None:
    """A segmentation of COCO's format without its unusable parts; None where nothing is left.

    Args:
        segmentation: None, a list of polygons x1, y1, x2, y2, ... in pixels, or run lengths: a dict
            of `size` (height, width) and `counts`, compressed or not.
        height, width: of the image, in pixels.

    Returns:
        The polygons of at least three points, or the run lengths as they are. Polygons of fewer
        points, or with half a point, are parts of no mask: exporters write them for strokes and
        clicks.

    Raises:
        ValueError: neither of the two forms, or run lengths of another size; says which.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        _check_run_lengths(segmentation, height, width)
        return segmentation
    if not isinstance(segmentation, list):
        raise ValueError(f"it is {segmentation!r:.80}, neither a list of polygons nor run lengths")
    for polygon in segmentation:
        if not isinstance(polygon, list):
            raise ValueError(
                "it is one flat list: write a list of polygons, [[x1, y1, x2, y2, ...]]"
                if isinstance(polygon, int | float)
                else f"its polygon {polygon!r:.80} is no list of numbers x1, y1, x2, y2, ..."
            )
        if not _all_finite(polygon):
            raise ValueError(
                f"its polygon {polygon!r:.80} is no flat list of finite numbers x1, y1, x2, y2, ..."
            )
    polygons = [p for p in segmentation if len(p) >= 6 and len(p) % 2 == 0]
    return polygons or None


def compressed(segmentation: list | dict, height: int, width: int) -> dict:
    """Run lengths of a usable segmentation, as pycocotools computes with them; parts are merged."""
    if isinstance(segmentation, list):
        return mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, height, width)
    return segmentation


def box_as_polygon(box: list[float]) -> list[list[float]]:
    """The outline of a box x, y, width, height, in pixels."""
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def _all_finite(values: list) -> bool:
    try:
        return all(map(math.isfinite, values))
    except (TypeError, OverflowError):
        return False


def _check_run_lengths(segmentation: dict, height: int, width: int) -> None:
    """Raise ValueError unless run lengths cover an image. pycocotools reads on beyond their end."""
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(counts, list | str):
        raise ValueError("its run lengths have no `counts`, a list of numbers or a text")
    if size != [height, width]:
        raise ValueError(
            f"its run lengths have the size {size}, but its image is {height} high and {width} "
            f"wide: write the size [{height}, {width}], and run lengths of that image"
        )
    try:
        runs = _decompressed(counts) if isinstance(counts, str) else np.array(counts)
    except ValueError as error:
        raise ValueError(f"its run lengths are damaged: {error}") from error
    if runs.ndim != 1 or runs.dtype.kind != "i" or (runs < 0).any():
        raise ValueError("its run lengths are no whole numbers from 0 on")
    area = height * width
    if area > _MOST_PIXELS:
        raise ValueError(
            f"its image has {height} x {width} = {area} pixels, more than the {_MOST_PIXELS} that "
            "run lengths can count: write polygons"
        )
    if (runs > area).any():  # before they are added up, which such numbers may overflow
        raise ValueError(
            f"its run lengths have one of {runs.max()} pixels of {height} x {width} = {area}"
        )
    if runs.sum() != area:
        raise ValueError(
            f"its run lengths cover {runs.sum()} pixels of {height} x {width} = {area}"
        )


def _decompressed(counts: str) -> np.ndarray:
    """The run lengths of a compressed text; from the fourth on it holds differences.

    Raises:
        ValueError: the text holds other characters, or ends amid a number.
    """
    if not _COMPRESSED.fullmatch(counts):
        raise ValueError(f"`counts` {counts!r:.40} holds characters of no run length")
    digits = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - _FIRST_DIGIT
    if not digits.size:
        return digits
    ends = np.flatnonzero(digits & _CONTINUES == 0)
    if not ends.size or ends[-1] != digits.size - 1:
        raise ValueError(f"`counts` {counts!r:.40} ends amid a number")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:
        raise ValueError(f"`counts` {counts!r:.40} holds a number beyond all sizes")
    places = np.arange(digits.size) - np.repeat(starts, lengths)
    runs = np.add.reduceat((digits & _VALUE) << _BITS * places, starts)
    runs -= np.where(digits[ends] & _SIGN, 1 << _BITS * lengths, 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs

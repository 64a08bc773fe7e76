"""Transforms of training that compute the same pictures in less time than detectron2's.

Pictures become planar, (3, H, W) in memory, with the first of these transforms, which spares the
copy to a tensor at the end; they are still indexed (H, W, 3).
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data import transforms as T
from PIL import Image

WORTH_CROPPING = 0.8  # of the area; above, all is resized at once


class QuickResize(T.ResizeTransform):
    """Resizes pictures by torch, which uses wide instructions; Pillow does not.

    The filter is the same, a triangle as wide as a pixel of the coarser grid, applied along the
    rows and then along the columns, with rounding after each. So both are within 1 of 255, and a
    little for weights of 16 bits where Pillow has 22, of what no rounding would give; most values
    are equal. (Pillow 13 takes the columns first where that is less work. Then a quarter of the
    values differ by 1, from here as from older versions of Pillow.)

    All that is not (H, W, 3) uint8 and bilinear is left to detectron2, masks among it.
    """

    def applies_to(self, img: np.ndarray, interp: int | None = None) -> bool:
        """Whether torch resizes it; where one side becomes a pixel, torch 2.14 may stumble."""
        bilinear = (self.interp if interp is None else interp) == Image.Resampling.BILINEAR
        is_picture = img.dtype == np.uint8 and img.ndim == 3 and img.shape[2] == 3
        return bilinear and is_picture and min(self.new_h, self.new_w) >= 2

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        if not self.applies_to(img, interp):
            return super().apply_image(img, interp)
        assert img.shape[:2] == (self.h, self.w), f"made for {(self.h, self.w)}, got {img.shape}"
        planes = img.transpose(2, 0, 1)
        if min(img.strides) < 0:  # flipped: torch has no such views
            planes = planes.copy()
        pixels = torch.from_numpy(planes)[None]
        resized = F.interpolate(
            pixels, (self.new_h, self.new_w), mode="bilinear", antialias=True, align_corners=False
        )
        return resized[0].permute(1, 2, 0).numpy()


class ResizedCrop(T.Transform):
    """A resize and a crop of its result, of which little more than the cropped part is computed.

    Values are those of one after the other.

    Args:
        resize: comes first; becomes a `QuickResize`.
        crop: of a picture as `resize` returns it.
    """

    def __init__(self, resize: T.ResizeTransform, crop: T.CropTransform) -> None:
        super().__init__()
        self.resize, self.crop = quick(resize), crop

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        resize, crop = self.resize, self.crop
        scale = resize.h / resize.new_h
        reach = max(scale, 1) + 1  # of the filter, and a row for rounding
        start = max(int(crop.y0 * scale - reach), 0)
        stop = min(math.ceil((crop.y0 + crop.h) * scale + reach), resize.h)
        # torch resizes along the rows first, of which only these are wanted
        along = QuickResize(stop - start, resize.w, stop - start, resize.new_w, resize.interp)
        # and then the columns, here as of the whole height, so that their weights are the same
        across = QuickResize(resize.h, crop.w, resize.new_h, crop.w, resize.interp)
        pays = crop.w * crop.h < WORTH_CROPPING * resize.new_w * resize.new_h
        if not pays or not all(r.applies_to(img) for r in (resize, along, across)):
            return crop.apply_image(resize.apply_image(img))
        planes = np.zeros((img.shape[2], resize.h, crop.w), dtype=img.dtype)
        columns = planes.transpose(1, 2, 0)
        columns[start:stop] = along.apply_image(img[start:stop])[:, crop.x0 : crop.x0 + crop.w]
        return across.apply_image(columns)[crop.y0 : crop.y0 + crop.h]

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.crop.apply_segmentation(self.resize.apply_segmentation(segmentation))

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return self.crop.apply_coords(self.resize.apply_coords(coords))

    def apply_polygons(self, polygons: list[np.ndarray]) -> list[np.ndarray]:
        """Polygons are clipped, for which fvcore needs the package shapely."""
        return self.crop.apply_polygons(self.resize.apply_polygons(polygons))

    def inverse(self) -> T.Transform:
        return T.TransformList([self.resize, self.crop]).inverse()


class QuickPad(T.PadTransform):
    """Pads by one copy, to a planar picture; `np.pad` goes through the pixels more than once."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return self._padded(img, self.pad_value)

    def apply_segmentation(self, img: np.ndarray) -> np.ndarray:
        return self._padded(img, self.seg_pad_value)

    def _padded(self, img: np.ndarray, value: float) -> np.ndarray:
        height, width = img.shape[:2]
        size = (self.y0 + height + self.y1, self.x0 + width + self.x1)
        planes = np.empty((*img.shape[2:], *size), dtype=img.dtype)
        padded = np.moveaxis(planes, 0, -1) if img.ndim == 3 else planes
        rows, columns = slice(self.y0, self.y0 + height), slice(self.x0, self.x0 + width)
        padded[: rows.start], padded[rows.stop :] = value, value
        padded[rows, : columns.start], padded[rows, columns.stop :] = value, value
        padded[rows, columns] = img
        return padded


def quick(transform: T.Transform) -> T.Transform:
    """The same transform, resizing and padding in less time."""
    if isinstance(transform, T.TransformList):
        return T.TransformList([quick(member) for member in transform.transforms])
    if type(transform) is T.ResizeTransform:
        t = transform
        return QuickResize(t.h, t.w, t.new_h, t.new_w, t.interp)
    if type(transform) is T.PadTransform:
        t = transform
        borders = (t.x0, t.y0, t.x1, t.y1, t.orig_w, t.orig_h)
        return QuickPad(*borders, t.pad_value, t.seg_pad_value)
    return transform

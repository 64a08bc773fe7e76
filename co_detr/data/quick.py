"""Transforms of training that compute the same pictures in less time than detectron2's.

Pictures become planar, (3, H, W) in memory, with the first of these transforms, which spares the
copy to a tensor at the end; they are still indexed (H, W, 3).
"""

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data import transforms as T
from PIL import Image


class QuickResize(T.ResizeTransform):
    """Resizes pictures by torch, which uses wide instructions; Pillow does not.

    The filter is the same, a triangle as wide as a pixel of the coarser grid, applied along the
    rows and then along the columns, with rounding in between. The weights are kept in 16 bits where
    Pillow has 22: a value in about a thousand differs by 1 of 255. (Pillow from 13 on takes the
    columns first where that is less work. Then a quarter of the values differ, as they do between
    versions of Pillow: both are within 1 of what no rounding would give.) All that is not (H, W, 3)
    uint8 and bilinear is left to detectron2, masks among it.
    """

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        filter = self.interp if interp is None else interp
        is_picture = img.dtype == np.uint8 and img.ndim == 3 and img.shape[2] == 3
        is_strip = min(self.new_h, self.new_w) < 2  # torch 2.14 stumbles over some of these
        if not is_picture or is_strip or filter != Image.BILINEAR:
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

"""Deterministic transforms that fvcore does not have."""

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.transforms.transform import Transform
from PIL import Image

__all__ = ["ResizeTransform"]

_TORCH_MODES = {
    Image.NEAREST: "nearest",
    Image.BILINEAR: "bilinear",
    Image.BICUBIC: "bicubic",
}


class ResizeTransform(Transform):
    """
    Resize an image to a given height and width.

    uint8 images go through Pillow, which filters when shrinking; other types through torch, which
    does not. Coordinates are scaled, so corner (w, h) becomes (new_w, new_h).
    """

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None) -> None:
        """
        Args:
            h, w: size of the input image, in pixels.
            new_h, new_w: size of the output image, in pixels.
            interp: a Pillow filter; bilinear by default.
        """
        super().__init__()
        if interp is None:
            interp = Image.BILINEAR
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Resize an image of shape (h, w) or (h, w, C); the type is kept."""
        assert img.shape[:2] == (
            self.h,
            self.w,
        ), f"made for an image of height and width {(self.h, self.w)}, got {img.shape[:2]}"
        assert img.ndim in (2, 3), f"an image is (h, w) or (h, w, C), got shape {img.shape}"
        interp = self.interp if interp is None else interp
        if img.dtype == bool:
            return self.apply_image(img.astype(np.uint8), interp).astype(bool)
        if img.dtype == np.uint8:
            return self._resize_with_pillow(img, interp)
        return self._resize_with_torch(img, interp)

    def _resize_with_pillow(self, img: np.ndarray, interp: int) -> np.ndarray:
        size = (self.new_w, self.new_h)
        one_channel = img.ndim == 3 and img.shape[2] == 1  # Pillow's gray images have no such axis
        picture = Image.fromarray(np.ascontiguousarray(img[:, :, 0] if one_channel else img))
        resized = np.array(picture.resize(size, interp))
        return resized[:, :, None] if one_channel else resized

    def _resize_with_torch(self, img: np.ndarray, interp: int) -> np.ndarray:
        if interp not in _TORCH_MODES:
            raise ValueError(
                f"a {img.dtype} image can be resized by nearest neighbour, bilinear or bicubic "
                f"interpolation, not by Pillow's filter {interp!r}; use uint8 for the others"
            )
        mode = _TORCH_MODES[interp]
        pixels = torch.from_numpy(np.ascontiguousarray(img))
        if not pixels.is_floating_point():
            pixels = pixels.double()  # exact for labels up to 2^53
        channels_first = pixels.permute(2, 0, 1) if img.ndim == 3 else pixels[None]
        resized = F.interpolate(
            channels_first[None],
            (self.new_h, self.new_w),
            mode=mode,
            align_corners=None if mode == "nearest" else False,
        )[0]
        resized = resized.permute(1, 2, 0) if img.ndim == 3 else resized[0]
        return resized.numpy().astype(img.dtype, copy=False)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Scale (n, 2) coordinates (x, y) in place, rounding integers towards 0."""
        coords[:, 0] = coords[:, 0] * (self.new_w / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h / self.h)
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Resize a label map by nearest neighbour."""
        return self.apply_image(segmentation, interp=Image.NEAREST)

    def inverse(self) -> "ResizeTransform":
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)

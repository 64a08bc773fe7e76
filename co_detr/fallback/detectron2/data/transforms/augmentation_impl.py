"""The random augmentations of detection training: resizing, flipping, cropping."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import (
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    PadTransform,
    Transform,
    TransformList,
    VFlipTransform,
)
from PIL import Image

from .augmentation import Augmentation, as_augmentation
from .transform import ResizeTransform

__all__ = [
    "FixedSizeCrop",
    "RandomApply",
    "RandomCrop",
    "RandomFlip",
    "Resize",
    "ResizeScale",
    "ResizeShortestEdge",
]


class RandomApply(Augmentation):
    """Apply an augmentation or transform with a given probability."""

    def __init__(self, tfm_or_aug: Augmentation | Transform, prob: float = 0.5) -> None:
        super().__init__()
        self.aug = as_augmentation(tfm_or_aug)
        assert 0.0 <= prob <= 1.0, f"a probability lies between 0 and 1, got {prob}"
        self.prob = prob

    def __call__(self, aug_input: Any) -> Transform:
        if self._rand_range() < self.prob:
            return self.aug(aug_input)
        return NoOpTransform()


class RandomFlip(Augmentation):
    """Mirror the image left-right (or top-bottom) with a given probability."""

    def __init__(
        self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False
    ) -> None:
        super().__init__()
        if horizontal == vertical:
            raise ValueError(
                f"a flip has one direction, got horizontal={horizontal} and vertical={vertical}; "
                "use two RandomFlip for both"
            )
        self.prob, self.horizontal, self.vertical = prob, horizontal, vertical

    def get_transform(self, image: np.ndarray) -> Transform:
        if self._rand_range() >= self.prob:
            return NoOpTransform()
        h, w = image.shape[:2]
        return HFlipTransform(w) if self.horizontal else VFlipTransform(h)


class Resize(Augmentation):
    """Resize to a fixed (height, width); one number makes a square."""

    def __init__(self, shape: int | Sequence[int], interp: int = Image.BILINEAR) -> None:
        super().__init__()
        self.shape = (shape, shape) if isinstance(shape, int) else tuple(shape)
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        return ResizeTransform(*image.shape[:2], *self.shape, self.interp)


class ResizeShortestEdge(Augmentation):
    """
    Resize so that the shorter edge has a drawn length while the longer one stays within a limit.

    The aspect ratio is kept. Sizes are rounded half up.
    """

    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int = sys.maxsize,
        sample_style: str = "range",
        interp: int = Image.BILINEAR,
    ) -> None:
        """
        Args:
            short_edge_length: with "range", the smallest and the largest length, both included;
                with "choice", the lengths to choose from. One number fixes it. A drawn length of
                0 leaves the image as it is.
            max_size: limit of the longer edge.
            sample_style: "range" or "choice".
        """
        super().__init__()
        assert sample_style in (
            "range",
            "choice",
        ), f"sample_style is 'range' or 'choice', got {sample_style!r}"
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        assert (
            sample_style == "choice" or len(short_edge_length) == 2
        ), f"a range has two ends, got {short_edge_length}; use sample_style='choice' for a list"
        self.short_edge_length = tuple(short_edge_length)
        self.max_size = max_size
        self.sample_style = sample_style
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        if self.sample_style == "range":
            low, high = self.short_edge_length
            length = np.random.randint(low, high + 1)
        else:
            length = np.random.choice(self.short_edge_length)
        if length == 0:
            return NoOpTransform()
        h, w = image.shape[:2]
        new_h, new_w = self.get_output_shape(h, w, int(length), self.max_size)
        return ResizeTransform(h, w, new_h, new_w, self.interp)

    @staticmethod
    def get_output_shape(
        oldh: int, oldw: int, short_edge_length: float, max_size: float
    ) -> tuple[int, int]:
        """The (height, width) of an (oldh, oldw) image after resizing."""
        scale = short_edge_length / min(oldh, oldw)
        if oldh < oldw:
            new_h, new_w = float(short_edge_length), scale * oldw
        else:
            new_h, new_w = scale * oldh, float(short_edge_length)
        longer = max(new_h, new_w)
        if longer > max_size:
            new_h, new_w = new_h * (max_size / longer), new_w * (max_size / longer)
        return int(new_h + 0.5), int(new_w + 0.5)


class ResizeScale(Augmentation):
    """
    Fit the image into a target box scaled by a random factor, keeping the aspect ratio.

    Followed by `FixedSizeCrop` of the target size this is large-scale jittering
    (Ghiasi et al., Simple Copy-Paste, 2021).
    """

    def __init__(
        self,
        min_scale: float,
        max_scale: float,
        target_height: int,
        target_width: int,
        interp: int = Image.BILINEAR,
    ) -> None:
        super().__init__()
        self.min_scale, self.max_scale = min_scale, max_scale
        self.target_height, self.target_width = target_height, target_width
        self.interp = interp

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        factor = np.random.uniform(self.min_scale, self.max_scale)
        scale = min(self.target_height * factor / h, self.target_width * factor / w)
        # A strongly elongated image must not lose its last row at a small factor.
        new_h, new_w = (max(int(np.round(side * scale)), 1) for side in (h, w))
        return ResizeTransform(h, w, new_h, new_w, self.interp)


class RandomCrop(Augmentation):
    """Cut out a window of random position, and with the range types of random size."""

    def __init__(self, crop_type: str, crop_size: Sequence[float]) -> None:
        """
        Args:
            crop_type: how the window's height and width follow from `crop_size`:
                "relative": fractions of the image's height and width;
                "relative_range": fractions drawn between these two and 1;
                "absolute": (height, width) in pixels;
                "absolute_range": (smallest, largest) side in pixels; both sides are drawn from it.
                Windows never exceed the image.
        """
        super().__init__()
        kinds = ("relative", "relative_range", "absolute", "absolute_range")
        assert crop_type in kinds, f"crop_type is one of {kinds}, got {crop_type!r}"
        self.crop_type, self.crop_size = crop_type, tuple(crop_size)

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        crop_h, crop_w = self.get_crop_size((h, w))
        y0 = np.random.randint(h - crop_h + 1)
        x0 = np.random.randint(w - crop_w + 1)
        return CropTransform(x0, y0, crop_w, crop_h, orig_w=w, orig_h=h)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Draw the (height, width) of the window in an image of that (height, width)."""
        h, w = image_size
        first, second = self.crop_size
        if self.crop_type == "absolute":
            return min(first, h), min(second, w)
        if self.crop_type == "absolute_range":
            assert first <= second, f"an interval runs upwards, got {self.crop_size}"
            crop_h = np.random.randint(min(h, first), min(h, second) + 1)
            crop_w = np.random.randint(min(w, first), min(w, second) + 1)
            return crop_h, crop_w
        if self.crop_type == "relative_range":
            first, second = np.random.uniform((first, second), 1.0)
        return int(h * first + 0.5), int(w * second + 0.5)


class FixedSizeCrop(Augmentation):
    """
    Cut a window of fixed size at a random position; a smaller image is padded right and bottom.
    """

    def __init__(
        self,
        crop_size: Sequence[int],
        pad: bool = True,
        pad_value: float = 128.0,
        seg_pad_value: int = 255,
    ) -> None:
        """
        Args:
            crop_size: (height, width) in pixels.
            pad: whether to pad; otherwise a smaller image stays smaller.
            pad_value: for images. seg_pad_value: for label maps.
        """
        super().__init__()
        self.crop_size, self.pad = tuple(crop_size), pad
        self.pad_value, self.seg_pad_value = pad_value, seg_pad_value

    def get_transform(self, image: np.ndarray) -> Transform:
        h, w = image.shape[:2]
        window_h, window_w = min(h, self.crop_size[0]), min(w, self.crop_size[1])
        # One draw moves both offsets, as in detectron2, so that seeds give the same windows.
        position = np.random.uniform(0.0, 1.0)
        y0, x0 = (int(np.round(slack * position)) for slack in (h - window_h, w - window_w))
        crop = CropTransform(x0, y0, window_w, window_h, orig_w=w, orig_h=h)
        if not self.pad:
            return crop
        padding = PadTransform(
            0,
            0,
            self.crop_size[1] - window_w,
            self.crop_size[0] - window_h,
            orig_w=window_w,
            orig_h=window_h,
            pad_value=self.pad_value,
            seg_pad_value=self.seg_pad_value,
        )
        return TransformList([crop, padding])

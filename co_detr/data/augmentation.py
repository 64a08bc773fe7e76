"""The augmentation DETR trains with."""

from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T

from co_detr.data.quick import ResizedCrop, quick


class ResizeShortestEdge(T.ResizeShortestEdge):
    """For strips too: where `max_size` would leave nothing of the shorter side, a pixel is kept."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return keep_a_pixel(super().get_transform(image))


class ResizeScale(T.ResizeScale):
    """For strips too: where the scale would leave nothing of the shorter side, a pixel is kept."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return keep_a_pixel(super().get_transform(image))


class QuickResizeShortestEdge(ResizeShortestEdge):
    """Draws what its base draws, see `quick`."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return quick(super().get_transform(image))


class ResizeAndCrop(T.Augmentation):
    """Draws a resize, then a crop of what it makes, and applies both at once.

    Args:
        resize: gives a `ResizeTransform`.
        crop: gives a `CropTransform`; it looks at the size of a picture alone.
    """

    def __init__(self, resize: T.Augmentation, crop: T.Augmentation) -> None:
        super().__init__()
        self.resize, self.crop = resize, crop

    def get_transform(self, image: np.ndarray) -> T.Transform:
        resize = self.resize.get_transform(image)
        size = (resize.new_h, resize.new_w, *image.shape[2:])
        return ResizedCrop(resize, self.crop.get_transform(np.broadcast_to(image[:1, :1], size)))


class QuickFixedSizeCrop(T.FixedSizeCrop):
    """Draws what its base draws, see `quick`."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return quick(super().get_transform(image))


def keep_a_pixel(resize: T.Transform) -> T.Transform:
    """A resize to sides of at least one pixel; anything else is returned as it is."""
    if not isinstance(resize, T.ResizeTransform) or min(resize.new_h, resize.new_w) > 0:
        return resize
    new_h, new_w = max(resize.new_h, 1), max(resize.new_w, 1)
    return T.ResizeTransform(resize.h, resize.w, new_h, new_w, resize.interp)


class RandomChoice(T.Augmentation):
    """Applies one of several sequences of augmentations, each with the same probability.

    Args:
        choices: the sequences; members are augmentations or transforms.
    """

    def __init__(self, choices: Sequence[Sequence[T.Augmentation | T.Transform]]) -> None:
        super().__init__()
        if not choices:
            raise ValueError("RandomChoice needs at least one sequence of augmentations")
        self.choices = [T.AugmentationList(choice) for choice in choices]

    def __call__(self, aug_input: T.AugInput) -> T.Transform:
        """Augment `aug_input` in place with a sequence drawn from numpy's global generator."""
        return self.choices[np.random.randint(len(self.choices))](aug_input)


def detr_augmentation(
    short_sides: Sequence[int] = tuple(range(480, 801, 32)),
    max_size: int = 1333,
    crop_short_sides: Sequence[int] = (400, 500, 600),
    crop_max_size: int = 4200,
    crop_range: tuple[int, int] = (384, 600),
) -> list[T.Augmentation]:
    """Flip with probability 0.5, then resize, or (as often) resize, crop and resize.

    DETR (Carion et al. 2020, appendix A.4). The detour through a crop shows objects larger than
    the plain resize does. A crop may miss every object: such an image is kept.

    Args:
        short_sides: the final shorter side is drawn from these, in pixels.
        max_size: bound on the final longer side, which wins over the shorter one.
        crop_short_sides: shorter sides before the crop.
        crop_max_size: bound on the longer side before the crop.
        crop_range: least and greatest height and width of the crop, drawn independently.
    """

    def resize() -> T.Augmentation:
        return QuickResizeShortestEdge(list(short_sides), max_size, sample_style="choice")

    zoom = [
        QuickResizeShortestEdge(list(crop_short_sides), crop_max_size, sample_style="choice"),
        T.RandomCrop("absolute_range", tuple(crop_range)),
        resize(),
    ]
    return [T.RandomFlip(prob=0.5), RandomChoice([[resize()], zoom])]

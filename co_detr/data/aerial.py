"""Augmentation of pictures taken from above, where no direction is up."""

from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import BlendTransform, NoOpTransform, Transform

from co_detr.data.augmentation import RandomChoice

LUMINANCE = np.array([0.299, 0.587, 0.114])  # weights of R, G, B (ITU-R BT.601)


class TransposeTransform(Transform):
    """Rows become columns: the point (x, y) comes to (y, x)."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        """(H, W) or (H, W, C) to (W, H) or (W, H, C)."""
        return img.swapaxes(0, 1)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """(P, 2) points, xy."""
        return coords[:, ::-1]

    def inverse(self) -> Transform:
        return TransposeTransform()


class RandomTranspose(T.Augmentation):
    """Transpose with a probability; with flips in both directions, all eight symmetries of a square
    are drawn, quarter turns among them."""

    def __init__(self, prob: float = 0.5) -> None:
        super().__init__()
        self.prob = prob

    def get_transform(self, image: np.ndarray) -> Transform:
        return TransposeTransform() if np.random.rand() < self.prob else NoOpTransform()


class RandomColor(T.Augmentation):
    """Change brightness, contrast and saturation, each by a factor from 1 - amount to 1 + amount.

    Args:
        amount: 0 to 1; pictures are RGB.
    """

    def __init__(self, amount: float = 0.3) -> None:
        super().__init__()
        if not 0 <= amount <= 1:
            raise ValueError(f"amount must lie between 0 and 1, got {amount}")
        self.amount = amount

    def get_transform(self, image: np.ndarray) -> Transform:
        gray = (image @ LUMINANCE)[..., None]
        brightness, contrast, saturation = np.random.uniform(
            1 - self.amount, 1 + self.amount, size=3
        )
        # away from gray, from the picture's mean and from black: one blend after the other, as one
        ground = brightness * (
            contrast * (1 - saturation) * gray + (1 - contrast) * image.mean(axis=(0, 1))
        )
        weight = brightness * contrast * saturation
        return BlendTransform(src_image=ground, src_weight=1.0, dst_weight=weight)


def aerial_augmentation(
    crop_sides: Sequence[int] = (256, 288, 320, 352, 384),
    size: int = 512,
    color: float = 0.3,
) -> list[T.Augmentation]:
    """A random square of the picture, enlarged to one size, turned or mirrored, and recolored.

    Args:
        crop_sides: the side of the square is drawn from these, in pixels: the smaller, the larger
            objects become.
        size: side of the result, pixels.
        color: see `RandomColor`.
    """
    crops = [[T.RandomCrop("absolute", (side, side))] for side in crop_sides]
    return [
        RandomChoice(crops),
        T.Resize((size, size)),
        T.RandomFlip(prob=0.5, horizontal=True, vertical=False),
        T.RandomFlip(prob=0.5, horizontal=False, vertical=True),
        RandomTranspose(),
        RandomColor(color),
    ]

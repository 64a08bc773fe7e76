"""How well a score map tells objects from background: IoF-IoB curves (Co-DETR, section 3.4).

`score_maps.py` makes the maps. Letters: H and W, an image's height and width in pixels.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .passes import Size
from .score_maps import ImageScores

BINS = 1 << 16  # most scores of attention are small: steps of 1 / BINS tell them apart
STEP = 1 / 500  # of curves, see `Curve.thinned`


def inside_boxes(boxes: Tensor, size: Size) -> Tensor:
    """(H, W) bool: the pixels that any of the boxes (n, 4), absolute XYXY, at least touches."""
    y, x = (torch.arange(length, device=boxes.device) for length in size)
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    columns = (left.floor() <= x) & (x < right.ceil())
    rows = (top.floor() <= y) & (y < bottom.ceil())
    return (rows[:, :, None] & columns[:, None, :]).any(dim=0)


def regions(boxes: Tensor, crowd_boxes: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Foreground and background, (H, W) bool each.

    Args:
        boxes: (n, 4) of the objects, absolute XYXY: what is inside any of them is foreground.
        crowd_boxes: (m, 4) of regions with objects that nobody boxed one by one: what is in these
            alone is neither.
        size: (H, W).
    """
    foreground = inside_boxes(boxes, size)
    return foreground, ~(foreground | inside_boxes(crowd_boxes, size))


@dataclass(frozen=True, eq=False)
class Curve:
    """Shares of foreground and background above a threshold, which rises from before 0 to 1.

    Attributes:
        thresholds: (T,); the first one is below all scores.
        iof: (T,) intersection over foreground, from 1 down to 0.
        iob: (T,) intersection over background.
    """

    thresholds: Tensor
    iof: Tensor
    iob: Tensor

    @property
    def area(self) -> float:
        """The area under IoF over IoB: 0.5 for a score that says nothing, 1 for a perfect one.

        That is the probability that a pixel of an object scores higher than one of the background,
        with half of the ties.
        """
        return torch.trapezoid(self.iof.flip(0), self.iob.flip(0)).item()

    def thinned(self) -> "Curve":
        """The curve with as few points as draw the same line: about `STEP` apart, ends included."""
        position = ((self.iof + self.iob) / STEP).floor()
        kept = torch.ones_like(position, dtype=torch.bool)
        kept[1:-1] = position[1:-1] != position[:-2]
        return Curve(self.thresholds[kept], self.iof[kept], self.iob[kept])

    def points(self) -> list[tuple[float, float, float]]:
        """(threshold, IoB, IoF) of each point."""
        return list(zip(self.thresholds.tolist(), self.iob.tolist(), self.iof.tolist()))


class IofIob:
    """Counts the pixels of a data set by score, in constant memory.

    Pixels are pooled: an image counts by its area, not as one. Scores are told apart in `BINS`
    steps.
    """

    def __init__(self) -> None:
        self.foreground = torch.zeros(BINS + 1, dtype=torch.float64)
        self.background = torch.zeros(BINS + 1, dtype=torch.float64)

    def add(self, scores: Tensor, foreground: Tensor, background: Tensor) -> None:
        """Count an image: its scores (H, W) in [0, 1], and its `regions`."""
        # a score is above t / BINS exactly if its steps are more than t
        steps = (scores.double().clamp(0, 1) * BINS).ceil().long()
        for counts, mask in ((self.foreground, foreground), (self.background, background)):
            counts += steps[mask].bincount(minlength=BINS + 1).cpu()

    def curve(self) -> Curve:
        """The curve of all images.

        Raises:
            ValueError: there were no objects, or there was nothing but objects.
        """
        shares = []
        for what, counts in (("foreground", self.foreground), ("background", self.background)):
            if not counts.sum():
                raise ValueError(f"not a pixel is {what}: look at more images, with --images")
            shares.append(counts.flip(0).cumsum(0).flip(0) / counts.sum())
        above = [torch.cat([share, share.new_zeros(1)]) for share in shares]
        thresholds = torch.arange(-1, BINS + 1, dtype=torch.float64) / BINS
        return Curve(thresholds, *above)


def contrast(scores: Tensor, foreground: Tensor, background: Tensor) -> tuple[float, float, float]:
    """Mean score (H, W) of an image's foreground and of its background, and the area under its
    curve; NaN where it lacks one of these."""
    counter = IofIob()
    counter.add(scores, foreground, background)
    area = counter.curve().area if foreground.any() and background.any() else float("nan")
    return scores[foreground].mean().item(), scores[background].mean().item(), area


def regions_of(image: ImageScores) -> tuple[Tensor, Tensor]:
    """The `regions` of an image, on the device of its scores."""
    device = image.encoder.device
    boxes = image.example["instances"].gt_boxes.tensor.to(device)
    height, width = image.encoder.shape
    return regions(boxes, image.example["crowd_boxes"].to(device), (height, width))


def iof_iob(images: Iterable[ImageScores]) -> tuple[Curve, Curve | None]:
    """The curves of the encoder's and of the decoder's scores; None if there are none of these."""
    encoder, decoder = IofIob(), None
    for image in images:
        parts = regions_of(image)
        encoder.add(image.encoder, *parts)
        if image.decoder is not None:
            decoder = decoder or IofIob()
            decoder.add(image.decoder, *parts)
    return encoder.curve(), decoder.curve() if decoder else None

"""Large-scale jittering: a random scale in a wide range, on a canvas of fixed size."""

from detectron2.data import transforms as T

from co_detr.data.augmentation import QuickFixedSizeCrop, ResizeAndCrop, ResizeScale

PAD_VALUE = 114.0  # gray, of the 0..255 range; the released models were trained with it


def large_scale_jitter(
    canvas: int = 1024, scale: tuple[float, float] = (0.1, 2.0)
) -> list[T.Augmentation]:
    """Resize, crop, flip with probability 0.5, and pad to the canvas, at the right and below.

    Ghiasi et al. 2021, "Simple Copy-Paste", section 3.1. A crop may miss every object: such an
    image is kept. The padding counts as image, see `mask_padding` of the detector.

    Args:
        canvas: height and width of the result, in pixels.
        scale: range of the factor by which an image is larger than one that just fits the canvas.
    """
    low, high = scale
    if not 0 < low <= high:
        raise ValueError(f"scale must be a range of positive factors, got {tuple(scale)}")
    return [
        ResizeAndCrop(
            ResizeScale(low, high, canvas, canvas), T.RandomCrop("absolute", (canvas, canvas))
        ),
        T.RandomFlip(prob=0.5),
        # nothing is left to crop; masks are empty in the padding
        QuickFixedSizeCrop((canvas, canvas), pad=True, pad_value=PAD_VALUE, seg_pad_value=0),
    ]

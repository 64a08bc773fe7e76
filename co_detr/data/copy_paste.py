"""Copy-paste augmentation: objects of one image put over another one."""

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from co_detr.data.objects import tight_box


class CopyPaste:
    """Pastes random objects of a second example over the first one (Ghiasi et al. 2021).

    What they cover is taken out of the masks below; boxes follow from what remains visible. An
    object that is hardly visible any more is removed: its box has changed by more than
    `box_tolerance`, and at most `min_mask_area` pixels are left.

    Goes into `build_train_loader(mix=...)`. Both examples need images of the same size, and
    `gt_masks` as bitmaps: use `large_scale_jitter` and `DetectionMapper`.

    Args:
        max_objects: bound on the number of pasted objects, which is uniform between 0 and it.
        box_tolerance: change of an edge, in pixels, up to which a covered object is kept.
        min_mask_area: visible pixels above which a covered object is kept.
        keep_masks: whether the result has `gt_masks`; they are large, and only some models want
            them.
    """

    def __init__(
        self,
        max_objects: int = 100,
        *,
        box_tolerance: float = 10.0,
        min_mask_area: int = 300,
        keep_masks: bool = False,
    ) -> None:
        self.max_objects = max_objects
        self.box_tolerance = box_tolerance
        self.min_mask_area = min_mask_area
        self.keep_masks = keep_masks

    def __call__(self, example: dict, other: dict) -> dict:
        """Paste objects of `other` over `example`; both stay as they are.

        Args:
            example, other: with "image" (3, H, W) and "instances" of that size.

        Raises:
            ValueError: the images differ in size, or objects have no masks.
        """
        if example["image"].shape != other["image"].shape:
            raise ValueError(
                f"copy-paste needs images of one size, got {tuple(example['image'].shape[1:])} and "
                f"{tuple(other['image'].shape[1:])}: augment with large_scale_jitter"
            )
        below, source = with_bitmasks(example["instances"]), with_bitmasks(other["instances"])
        number = np.random.randint(min(len(source), self.max_objects) + 1)
        chosen = np.random.permutation(len(source))[:number]

        sources, belows = source.gt_masks.tensor.numpy(), below.gt_masks.tensor.numpy()
        covered = np.zeros(source.image_size, dtype=bool)
        for index in chosen:
            np.logical_or(covered, sources[index], out=covered)
        boxes, kept = self.visible(belows, covered)
        pasted = torch.from_numpy(chosen)

        instances = Instances(source.image_size)
        instances.gt_boxes = Boxes.cat([Boxes(boxes[kept]), source.gt_boxes[pasted]])
        instances.gt_classes = torch.cat([below.gt_classes[kept], source.gt_classes[pasted]])
        if self.keep_masks:
            masks = np.empty((len(instances), *source.image_size), dtype=bool)
            for mask, index in zip(masks, kept.tolist()):
                np.greater(belows[index], covered, out=mask)  # inside, and not covered
            for mask, index in zip(masks[len(kept) :], chosen):
                mask[:] = sources[index]
            instances.gt_masks = BitMasks(torch.from_numpy(masks))
        image = pixels_over(example["image"], other["image"], covered)
        return {**example, "image": image, "instances": instances}

    def visible(self, masks: np.ndarray, covered: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """What remains of objects under something that covers them.

        Args:
            masks: (n, H, W) bool.
            covered: (H, W) bool.

        Returns:
            Boxes around the visible pixels of all, (n, 4) float32, and the indices of the objects
            that are kept.
        """
        boxes, kept = np.zeros((len(masks), 4), dtype=np.float32), []
        for index, mask in enumerate(masks):
            x0, y0, x1, y1 = before = tight_box(mask)
            window = (slice(y0, y1), slice(x0, x1))
            rest = mask[window] > covered[window]
            area = np.count_nonzero(rest)
            after = tight_box(rest) + (x0, y0, x0, y0) if area else np.zeros(4)
            boxes[index] = after
            unchanged = (np.abs(after - before) <= self.box_tolerance).all()
            if area and (unchanged or area > self.min_mask_area):
                kept.append(index)
        return torch.from_numpy(boxes), torch.tensor(kept, dtype=torch.int64)


def pixels_over(below: torch.Tensor, above: torch.Tensor, where: np.ndarray) -> torch.Tensor:
    """The image `below` with the pixels of `above` (3, H, W) where flags (H, W) are set."""
    image = below.clone(memory_format=torch.contiguous_format)
    x0, y0, x1, y1 = tight_box(where)
    window = (slice(None), slice(y0, y1), slice(x0, x1))
    np.copyto(image.numpy()[window], above.numpy()[window], where=where[window[1:]])
    return image


def with_bitmasks(instances: Instances) -> Instances:
    """The boxes, classes and bitmaps of objects, without their other fields.

    Images without objects come without masks, and get none of them here.

    Raises:
        ValueError: there are objects, but no bitmaps.
    """
    height, width = instances.image_size
    result = Instances((height, width))
    result.gt_boxes, result.gt_classes = instances.gt_boxes, instances.gt_classes
    if instances.has("gt_masks") and isinstance(instances.gt_masks, BitMasks):
        result.gt_masks = instances.gt_masks
    elif len(instances) == 0:
        result.gt_masks = BitMasks(torch.zeros(0, height, width, dtype=torch.bool))
    else:
        raise ValueError(
            "copy-paste needs the masks of objects as bitmaps: use DetectionMapper with "
            "use_instance_mask=True and instance_mask_format='bitmask', or, for data with boxes "
            "only, do without copy-paste (dataloader.train.mix=None)"
        )
    return result

"""Copy-paste augmentation: objects of one image put over another one."""

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances


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
        pasted = source[torch.from_numpy(np.random.permutation(len(source))[:number])]

        covered = pasted.gt_masks.tensor.any(dim=0)
        image = torch.where(covered, other["image"], example["image"])
        instances = Instances.cat([self.visible(below, covered), pasted])
        if not self.keep_masks:
            instances.remove("gt_masks")
        return {**example, "image": image, "instances": instances}

    def visible(self, instances: Instances, covered: torch.Tensor) -> Instances:
        """What remains of objects under `covered` (H, W) bool; boxes are tight around it."""
        before = instances.gt_masks.get_bounding_boxes().tensor
        masks = BitMasks(instances.gt_masks.tensor & ~covered)
        after = masks.get_bounding_boxes().tensor
        unchanged = ((after - before).abs() <= self.box_tolerance).all(dim=1)
        area = masks.tensor.flatten(1).sum(dim=1)
        remaining = Instances(instances.image_size)
        remaining.gt_boxes = Boxes(after)
        remaining.gt_classes = instances.gt_classes
        remaining.gt_masks = masks
        return remaining[(area > 0) & (unchanged | (area > self.min_mask_area))]


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

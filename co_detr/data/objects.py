"""The objects of a training example: all boxes of an image at once, and eight masks in a byte."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import transforms as T
from detectron2.data.detection_utils import filter_empty_instances
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances

from co_detr.data.segmentation import compressed

MASKS_PER_PLANE = 8


def transformed_objects(
    annotations: Sequence[dict],
    transforms: T.Transform,
    image_size: tuple[int, int],
    *,
    mask_size: tuple[int, int] | None = None,
    recompute_boxes: bool = False,
) -> Instances:
    """The objects that are left of an image's annotations after its transforms.

    What detectron2's `transform_instance_annotations`, `annotations_to_instances` and
    `filter_empty_instances` give together for boxes and bitmaps, one annotation at a time.

    Args:
        annotations: without crowds; they stay as they are.
        transforms: what was applied to the image.
        image_size: (height, width) of the transformed image.
        mask_size: (height, width) of the image in its file, where masks are wanted.
        recompute_boxes: whether boxes are the tight ones around the transformed masks.

    Returns:
        `gt_boxes` (absolute XYXY, within the image), `gt_classes` and, where masks are wanted and
        there were annotations, `gt_masks` as bitmaps of `image_size`.

    Raises:
        ValueError: a mask has not the size of its image, or a transform pads masks with a label.
    """
    objects = Instances(image_size)
    objects.gt_boxes = Boxes(torch.from_numpy(_boxes(annotations, transforms, image_size)).float())
    classes = [int(annotation["category_id"]) for annotation in annotations]
    objects.gt_classes = torch.tensor(classes, dtype=torch.int64)
    if mask_size is None or not annotations:
        return cast(Instances, filter_empty_instances(objects))  # as it does without a mask

    check_padding(transforms)
    segmentations = [annotation["segmentation"] for annotation in annotations]
    planes = [
        transforms.apply_segmentation(plane) for plane in mask_planes(segmentations, *mask_size)
    ]
    if planes[0].shape != tuple(image_size):
        raise ValueError(f"masks become {planes[0].shape} where their image becomes {image_size}")
    tight = torch.from_numpy(tight_boxes(planes)[: len(annotations)])
    if recompute_boxes:
        objects.gt_boxes = Boxes(tight.float())
    _, keep = filter_empty_instances(objects, return_mask=True)
    keep &= tight[:, 2] > 0
    objects = objects[keep]
    masks = unpacked(planes, keep.nonzero()[:, 0].tolist(), tight.numpy())
    objects.gt_masks = BitMasks(torch.from_numpy(masks))
    return objects


def _boxes(
    annotations: Sequence[dict], transforms: T.Transform, image_size: tuple[int, int]
) -> np.ndarray:
    """Transformed boxes, (n, 4) float64 absolute XYXY, clipped to the image."""
    if not annotations:
        return np.zeros((0, 4))
    boxes = np.array(
        [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations],
        dtype=np.float64,
    )
    height, width = image_size
    return transforms.apply_box(boxes).clip(0, [width, height, width, height])


def check_padding(transforms: T.Transform) -> None:
    """Raise ValueError for padding that is neither outside nor inside of all masks."""
    for transform in getattr(transforms, "transforms", [transforms]):
        value = getattr(transform, "seg_pad_value", 0)
        if value not in (0, 255):
            raise ValueError(
                f"{type(transform).__name__} pads masks with {value}: set seg_pad_value=0 to pad "
                "outside of them, or 255 inside"
            )


def mask_planes(segmentations: Sequence[list | dict], height: int, width: int) -> list[np.ndarray]:
    """Masks of polygons or run lengths as the bits of label maps, eight in each.

    Transforms never mix labels, so that a map is transformed in place of eight masks.

    Returns:
        (height, width) uint8 arrays; bit i of map k is inside of mask 8 k + i.

    Raises:
        ValueError: run lengths have another size.
    """
    runs = [compressed(segmentation, height, width) for segmentation in segmentations]
    for run in runs:
        if tuple(run["size"]) != (height, width):
            raise ValueError(
                f"a mask has the size {list(run['size'])}, its image {[height, width]}: masks must "
                "have the size of their image"
            )
    planes = []
    for start in range(0, len(runs), MASKS_PER_PLANE):
        by_column = mask_util.decode(runs[start : start + MASKS_PER_PLANE]).transpose(2, 1, 0)
        plane = by_column[0]
        for bit, mask in enumerate(by_column[1:], start=1):
            np.bitwise_or(plane, mask << bit, out=plane)
        planes.append(np.ascontiguousarray(plane.T))
    return planes


def tight_boxes(planes: Sequence[np.ndarray]) -> np.ndarray:
    """The tightest boxes around masks that are packed by `mask_planes`.

    Returns:
        (8 * maps, 4) int64, see `tight_box`.
    """
    bits = np.arange(MASKS_PER_PLANE, dtype=np.uint8)[:, None]
    boxes = []
    for plane in planes:
        columns, rows = (np.bitwise_or.reduce(plane, axis=axis) >> bits & 1 for axis in (0, 1))
        boxes += [_box_of(*flags) for flags in zip(columns, rows)]
    return np.stack(boxes)


def tight_box(mask: np.ndarray) -> np.ndarray:
    """The tightest box around the pixels of a mask (height, width).

    Returns:
        (4,) int64 absolute XYXY, right and lower edges one past the last pixel; 0, 0, 0, 0 for a
        mask without pixels.
    """
    return _box_of(*(np.logical_or.reduce(mask, axis=axis) for axis in (0, 1)))


def _box_of(columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The box around the columns and rows that are set."""
    (x0, x1), (y0, y1) = _ends(columns), _ends(rows)
    return np.array([x0, y0, x1, y1])


def _ends(flags: np.ndarray) -> tuple[int, int]:
    (where,) = flags.nonzero()
    return (where[0], where[-1] + 1) if len(where) else (0, 0)


def unpacked(planes: Sequence[np.ndarray], indices: Sequence[int], boxes: np.ndarray) -> np.ndarray:
    """Some of the masks that are packed by `mask_planes`, (len(indices), height, width) bool.

    Args:
        planes: the maps.
        indices: of the wanted masks.
        boxes: around all masks, as `tight_boxes` returns them; nothing else is looked at.
    """
    masks = np.zeros((len(indices), *planes[0].shape), dtype=bool)
    for mask, index in zip(masks, indices):
        x0, y0, x1, y1 = boxes[index]
        window = (slice(y0, y1), slice(x0, x1))
        bit = np.uint8(1 << index % MASKS_PER_PLANE)
        np.not_equal(planes[index // MASKS_PER_PLANE][window] & bit, 0, out=mask[window])
    return masks

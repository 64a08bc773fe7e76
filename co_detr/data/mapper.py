"""From a dataset record to an example: pictures as a person sees them, masks as bitmaps."""

import copy
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import check_image_size
from detectron2.structures import Boxes, BoxMode

from co_detr.data.pictures import read_picture


class DetectionMapper(DatasetMapper):
    """detectron2's `DatasetMapper`, with four differences.

    With `use_instance_mask=True` and `instance_mask_format="bitmask"`, polygons become bitmaps
    before augmentation, so masks are resized, cropped and padded like the image. Where polygons are
    augmented instead, a crop has to clip them, which needs a geometry library.

    With `recompute_boxes=True`, images without objects pass: detectron2 asks for their masks.

    Pictures are read by `read_picture`: of all depths, with one error for all that are broken.

    With `min_visible`, objects of whose box a crop leaves less than this share are left out.
    """

    def __init__(self, *args: Any, min_visible: float = 0.0, **kwargs: Any) -> None:
        """
        Args:
            min_visible: least share of a box's area, 0 to 1, that is inside the augmented image.
            args, kwargs: detectron2's.
        """
        super().__init__(*args, **kwargs)
        if not 0 <= min_visible <= 1:
            raise ValueError(f"min_visible must lie between 0 and 1, got {min_visible}")
        self.min_visible = min_visible

    def __call__(self, dataset_dict: dict) -> dict:
        """Make an example of one record; the record stays as it is.

        Raises:
            UnreadablePicture: there is no such picture, or the file is no whole one.
            SizeMismatchError: it has another size than the record says.
            ValueError: masks are wanted, but an object has none.
        """
        if self.is_train and self.use_instance_mask and self.instance_mask_format == "bitmask":
            dataset_dict = rasterized(dataset_dict)
        example = copy.deepcopy(dataset_dict)
        image = read_picture(example["file_name"], self.image_format)
        check_image_size(example, image)

        augmented = T.AugInput(image)
        transforms = self.augmentations(augmented)
        image = augmented.image
        example["image"] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if not self.is_train:
            example.pop("annotations", None)
        elif "annotations" in example:
            mapper = self._for(example)
            example["annotations"] = self._visible(example, transforms, image.shape[:2])
            mapper._transform_annotations(example, transforms, image.shape[:2])
        return example

    def _visible(self, record: dict, transforms: T.Transform, size: tuple[int, int]) -> list[dict]:
        """The annotations of which `transforms` to an image of `size` leave enough."""
        annotations = record["annotations"]
        if not self.min_visible or not annotations:
            return annotations
        boxes = [
            BoxMode.convert(a["bbox"], a.get("bbox_mode", BoxMode.XYWH_ABS), BoxMode.XYXY_ABS)
            for a in annotations
        ]
        whole = Boxes(transforms.apply_box(np.array(boxes, dtype=float)))
        inside = whole.clone()
        inside.clip(size)
        visible = (inside.area() >= self.min_visible * whole.area()).tolist()
        return [annotation for annotation, kept in zip(annotations, visible) if kept]

    def _for(self, record: dict) -> "DetectionMapper":
        """This mapper, or one that leaves boxes alone where a record has none."""
        objects = [a for a in record.get("annotations", ()) if not a.get("iscrowd", 0)]
        if objects or not self.recompute_boxes:
            return self
        mapper = copy.copy(self)
        mapper.recompute_boxes = False
        return mapper


def rasterized(record: dict) -> dict:
    """A copy of a record whose polygons are run lengths of the image's size; crowds are left out.

    Raises:
        ValueError: an object has no segmentation.
    """
    height, width = record["height"], record["width"]
    annotations = []
    for annotation in record.get("annotations", ()):
        if annotation.get("iscrowd", 0):
            continue
        segmentation = annotation.get("segmentation")
        if not segmentation:
            raise ValueError(
                f"{record.get('file_name')}: the object with the box {annotation.get('bbox')} has "
                "no segmentation. For data with boxes only, set use_instance_mask=False and "
                "recompute_boxes=False in dataloader.train.mapper, and dataloader.train.mix=None"
            )
        if isinstance(segmentation, list):
            parts = mask_util.frPyObjects(segmentation, height, width)
            annotation = {**annotation, "segmentation": mask_util.merge(parts)}
        annotations.append(annotation)
    return {**record, "annotations": annotations}

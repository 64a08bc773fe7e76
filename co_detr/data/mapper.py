"""From a dataset record to an example: pictures as a person sees them, masks as bitmaps."""

import copy
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import check_image_size
from detectron2.structures import Boxes, BoxMode

from co_detr.data.objects import transformed_objects
from co_detr.data.pictures import read_picture


class DetectionMapper(DatasetMapper):
    """detectron2's `DatasetMapper`, with four differences.

    With `use_instance_mask=True` and `instance_mask_format="bitmask"`, polygons become bitmaps
    before augmentation, so masks are resized, cropped and padded like the image. Where polygons are
    augmented instead, a crop has to clip them, which needs a geometry library.

    With `recompute_boxes=True`, images without objects pass: detectron2 asks for their masks.

    Pictures are read by `read_picture`: of all depths, with one error for all that are broken.

    Boxes and bitmaps are transformed together, see `transformed_objects`, with the same result.

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
            ValueError: masks are wanted, but an object has none, or one of another size.
        """
        rest = {key: value for key, value in dataset_dict.items() if key != "annotations"}
        example = copy.deepcopy(rest)
        if not isinstance(example.get("file_name"), str | os.PathLike):
            raise ValueError(
                f"a record has the file_name {example.get('file_name')!r:.80}: it must be a path"
            )
        image = read_picture(example["file_name"], self.image_format)
        check_image_size(example, image)

        augmented = T.AugInput(image)
        transforms = self.augmentations(augmented)
        size = augmented.image.shape[:2]
        channels_first = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        example["image"] = torch.from_numpy(channels_first)
        if self.is_train and "annotations" in dataset_dict:
            example["annotations"] = dataset_dict["annotations"]
            self._transform_annotations(example, transforms, size)
        return example

    def _transform_annotations(
        self, dataset_dict: dict, transforms: T.Transform, image_shape: tuple[int, int]
    ) -> None:
        """Replace "annotations" by "instances" after `transforms`; crowd regions are left out."""
        annotations = [
            annotation
            for annotation in dataset_dict.pop("annotations")
            if not annotation.get("iscrowd", 0)
        ]
        annotations = self._visible(annotations, transforms, image_shape)
        if self.use_instance_mask and self.instance_mask_format == "polygon":
            dataset_dict["annotations"] = copy.deepcopy(annotations)  # are changed in place
            one_by_one = copy.copy(self)
            one_by_one.recompute_boxes = self.recompute_boxes and len(annotations) > 0
            super(DetectionMapper, one_by_one)._transform_annotations(
                dataset_dict, transforms, image_shape
            )
            return
        mask_size = None
        if self.use_instance_mask:
            check_segmentations(dataset_dict, annotations)
            mask_size = (dataset_dict["height"], dataset_dict["width"])
        dataset_dict["instances"] = transformed_objects(
            annotations,
            transforms,
            image_shape,
            mask_size=mask_size,
            recompute_boxes=self.recompute_boxes,
        )

    def _visible(
        self, annotations: list[dict], transforms: T.Transform, size: tuple[int, int]
    ) -> list[dict]:
        """The annotations of which `transforms` to an image of `size` leave enough."""
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


def check_segmentations(record: dict, annotations: Sequence[dict]) -> None:
    """Raise ValueError if an object of a record has no segmentation."""
    for annotation in annotations:
        if not annotation.get("segmentation"):
            raise ValueError(
                f"{record.get('file_name')}: the object with the box {annotation.get('bbox')} has "
                "no segmentation. For data with boxes only, set use_instance_mask=False and "
                "recompute_boxes=False in dataloader.train.mapper, and dataloader.train.mix=None"
            )

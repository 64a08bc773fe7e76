"""From a dataset record to an example: pictures as a person sees them, masks as bitmaps."""

import copy

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import check_image_size

from co_detr.data.pictures import read_picture


class DetectionMapper(DatasetMapper):
    """detectron2's `DatasetMapper`, with three differences.

    With `use_instance_mask=True` and `instance_mask_format="bitmask"`, polygons become bitmaps
    before augmentation, so masks are resized, cropped and padded like the image. Where polygons are
    augmented instead, a crop has to clip them, which needs a geometry library.

    With `recompute_boxes=True`, images without objects pass: detectron2 asks for their masks.

    Pictures are read by `read_picture`: of all depths, with one error for all that are broken.
    """

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
            mapper._transform_annotations(example, transforms, image.shape[:2])
        return example

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

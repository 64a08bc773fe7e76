"""From a dataset record to an example, with instance masks as bitmaps."""

import pycocotools.mask as mask_util
from detectron2.data import DatasetMapper


class DetectionMapper(DatasetMapper):
    """detectron2's `DatasetMapper`, which turns polygons into bitmaps before augmentation.

    So masks are resized, cropped and padded like the image. Where polygons are augmented instead, a
    crop has to clip them, which needs a geometry library.

    It differs only with `use_instance_mask=True` and `instance_mask_format="bitmask"`.
    """

    def __call__(self, dataset_dict: dict) -> dict:
        """Make an example of one record; the record stays as it is.

        Raises:
            ValueError: masks are wanted, but an object has none.
        """
        if self.is_train and self.use_instance_mask and self.instance_mask_format == "bitmask":
            dataset_dict = rasterized(dataset_dict)
        return super().__call__(dataset_dict)


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

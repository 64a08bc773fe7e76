"""From a dataset record to an example: masks as bitmaps, broken pictures named."""

import copy

import pycocotools.mask as mask_util
from detectron2.data import DatasetMapper


class DetectionMapper(DatasetMapper):
    """detectron2's `DatasetMapper`, with three differences.

    With `use_instance_mask=True` and `instance_mask_format="bitmask"`, polygons become bitmaps
    before augmentation, so masks are resized, cropped and padded like the image. Where polygons are
    augmented instead, a crop has to clip them, which needs a geometry library.

    With `recompute_boxes=True`, images without objects pass: detectron2 asks for their masks.

    A picture that cannot be read is named by the error.
    """

    def __call__(self, dataset_dict: dict) -> dict:
        """Make an example of one record; the record stays as it is.

        Raises:
            FileNotFoundError: there is no such picture.
            OSError: the file is no whole picture.
            ValueError: masks are wanted, but an object has none.
        """
        if self.is_train and self.use_instance_mask and self.instance_mask_format == "bitmask":
            dataset_dict = rasterized(dataset_dict)
        try:
            return super(DetectionMapper, self._for(dataset_dict)).__call__(dataset_dict)
        except FileNotFoundError:
            raise
        except (OSError, SyntaxError) as error:  # the latter for broken chunks of a PNG file
            raise OSError(
                f"{dataset_dict.get('file_name')} cannot be read as a picture "
                f"({type(error).__name__}: {error}): fetch it again, or remove it from the "
                "annotations"
            ) from error

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

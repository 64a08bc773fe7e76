"""From a dataset record to a training or test example."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from detectron2._not_embedded import refuse
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T

__all__ = ["DatasetMapper"]


class DatasetMapper:
    """
    Reads the image of a record, augments it, and turns the annotations into `Instances`.

    The example is the record (a copy) with "image", a (C, h, w) uint8 tensor; with "sem_seg",
    (h, w) int64 labels, in place of "sem_seg_file_name"; and in training with "instances" in place
    of "annotations". "height" and "width" stay those of the file.

    `DatasetMapper(cfg, is_train=True)` takes what is not given from a `CfgNode`.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        use_instance_mask: bool = False,
        use_keypoint: bool = False,
        instance_mask_format: str = "polygon",
        keypoint_hflip_indices: np.ndarray | None = None,
        precomputed_proposal_topk: int | None = None,
        recompute_boxes: bool = False,
    ) -> None:
        """
        Args:
            is_train: whether annotations are wanted.
            augmentations: applied in order; deterministic ones at test time.
            image_format: a format of `detection_utils.read_image`.
            use_instance_mask: whether to make `gt_masks` of segmentations.
            use_keypoint, keypoint_hflip_indices, precomputed_proposal_topk: not supported here, to
                be left as they are.
            instance_mask_format: "polygon" or "bitmask".
            recompute_boxes: whether to replace each box by the tight one around its augmented
                mask; a crop may have cut off what the box reached out for.

        Raises:
            ValueError: what is not supported is asked for.
        """
        refuse(
            "DatasetMapper",
            use_keypoint=use_keypoint,
            keypoint_hflip_indices=keypoint_hflip_indices is not None,
            precomputed_proposal_topk=precomputed_proposal_topk,
        )
        assert (
            use_instance_mask or not recompute_boxes
        ), "recompute_boxes derives boxes from masks; set use_instance_mask=True with it"
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.use_instance_mask = use_instance_mask
        self.use_keypoint = use_keypoint
        self.instance_mask_format = instance_mask_format
        self.recompute_boxes = recompute_boxes

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """The arguments that a config stands for."""
        augmentations = utils.build_augmentation(cfg, is_train)
        crop = cfg.INPUT.CROP
        if is_train and crop.ENABLED:
            augmentations.insert(0, T.RandomCrop(crop.TYPE, crop.SIZE))
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "use_instance_mask": cfg.MODEL.MASK_ON,
            "instance_mask_format": cfg.INPUT.MASK_FORMAT,
            "recompute_boxes": is_train and crop.ENABLED and cfg.MODEL.MASK_ON,
        }

    def __call__(self, dataset_dict: dict) -> dict:
        """Make an example of one record; the record stays as it is."""
        example = copy.deepcopy(dataset_dict)
        image = utils.read_image(example["file_name"], format=self.image_format)
        utils.check_image_size(example, image)

        labels = example.pop("sem_seg_file_name", None)
        if labels is not None:
            labels = utils.read_image(labels, "L").squeeze(2)
        aug_input = T.AugInput(image, sem_seg=labels)
        transforms = self.augmentations(aug_input)
        channels_first = aug_input.image.transpose(2, 0, 1)
        example["image"] = torch.from_numpy(np.ascontiguousarray(channels_first))
        if aug_input.sem_seg is not None:
            example["sem_seg"] = torch.as_tensor(aug_input.sem_seg.astype(np.int64))

        if not self.is_train:
            example.pop("annotations", None)
        elif "annotations" in example:
            self._transform_annotations(example, transforms, aug_input.image.shape[:2])
        return example

    def _transform_annotations(
        self, dataset_dict: dict, transforms: T.Transform, image_shape: tuple[int, int]
    ) -> None:
        """Replace "annotations" by "instances" after `transforms`; crowd regions are left out."""
        annotations = []
        for annotation in dataset_dict.pop("annotations"):
            if annotation.get("iscrowd", 0):
                continue
            if not self.use_instance_mask:
                annotation.pop("segmentation", None)
            annotation.pop("keypoints", None)
            annotations.append(
                utils.transform_instance_annotations(annotation, transforms, image_shape)
            )
        instances = utils.annotations_to_instances(
            annotations, image_shape, mask_format=self.instance_mask_format
        )
        if self.recompute_boxes and instances.has("gt_masks"):
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        dataset_dict["instances"] = utils.filter_empty_instances(instances)

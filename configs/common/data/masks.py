"""What turns a data block of boxes into one of instance masks."""

from detectron2.config import LazyCall as L

from co_detr.data import DetectionMapper
from co_detr.evaluation.mask_scoring import MaskScoringEvaluator


def use_masks(dataloader):
    """Make training examples carry `gt_masks`, and evaluate masks where the model predicts them.

    Boxes stay those of the annotations where they did.

    Args:
        dataloader: with train, test and evaluator, as in coco_detr.py or coco_lsj.py; changed.
    """
    mapper = dataloader.train.mapper
    dataloader.train.mapper = L(DetectionMapper)(
        is_train=True,
        augmentations=mapper.augmentations,
        image_format=mapper.image_format,
        use_instance_mask=True,
        # Crops cut pixels; to cut polygons takes a geometry library.
        instance_mask_format="bitmask",
        recompute_boxes=mapper.get("recompute_boxes", False),
    )
    if dataloader.train.get("mix") is not None:
        dataloader.train.mix.keep_masks = True
    dataloader.evaluator.tasks = None  # whatever the predictions have


def use_mask_scores(dataloader):
    """Evaluate masks by scores of their own, for models that predict how good a mask is.

    Args:
        dataloader: with the evaluator of boxes and masks; changed.
    """
    boxes, masks = dataloader.evaluator.copy(), dataloader.evaluator.copy()
    boxes.tasks, masks.tasks = ["bbox"], ["segm"]
    boxes.dataset_name = masks.dataset_name = "${...test.dataset.names}"  # one level further in
    dataloader.evaluator = L(MaskScoringEvaluator)(boxes=boxes, masks=masks)

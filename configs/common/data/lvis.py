"""What turns a data block of COCO into one of LVIS v1."""

from detectron2.config import LazyCall as L

from co_detr.evaluation.evaluators import LVISEvaluator


def use_lvis(dataloader, max_detections=300):
    """Change names, evaluator and sampling of a `dataloader` section, in place.

    Images of categories that fewer than a thousandth of the images show come more often.

    Args:
        dataloader: with train, test and evaluator, as in coco_detr.py.
        max_detections: detections of an image that the evaluation looks at.
    """
    dataloader.train.dataset.names = "lvis_v1_train"
    dataloader.train.repeat_threshold = 0.001
    dataloader.test.dataset.names = "lvis_v1_val"
    dataloader.evaluator = L(LVISEvaluator)(
        dataset_name="${..test.dataset.names}",
        tasks=["bbox"],
        max_dets_per_image=max_detections,
    )

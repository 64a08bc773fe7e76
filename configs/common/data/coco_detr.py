"""COCO 2017 with the augmentation of DETR; training on 16 images per iteration."""

from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from co_detr.data import (
    DetectionMapper,
    ResizeShortestEdge,
    build_test_loader,
    build_train_loader,
    detr_augmentation,
    load_dataset,
)
from co_detr.evaluation.evaluators import COCOEvaluator

# Where the block is used without a model or a training section, the checks on them are left out.
NUM_CLASSES = "${oc.select:model.num_classes,null}"

dataloader = OmegaConf.create()

dataloader.train = L(build_train_loader)(
    dataset=L(load_dataset)(
        names="coco_2017_train",
        is_train=True,
        filter_empty=False,
        num_classes=NUM_CLASSES,
        masks="${oc.select:dataloader.train.mapper.use_instance_mask,false}",
    ),
    mapper=L(DetectionMapper)(
        is_train=True,
        augmentations=L(detr_augmentation)(
            short_sides=list(range(480, 801, 32)),
            max_size=1333,
            crop_short_sides=[400, 500, 600],
            crop_max_size=4200,
            crop_range=[384, 600],
        ),
        image_format="RGB",
        use_instance_mask=False,
    ),
    total_batch_size=16,
    num_workers=4,
    pin_memory=False,  # True: on CUDA, images are copied while the step before runs
    aspect_ratio_grouping=True,
    seed="${oc.select:train.seed,0}",
    start_iter=0,
)

dataloader.test = L(build_test_loader)(
    dataset=L(load_dataset)(
        names="coco_2017_val",
        is_train=False,
        filter_empty=False,
        num_classes=NUM_CLASSES,
    ),
    mapper=L(DetectionMapper)(
        is_train=False,
        augmentations=[L(ResizeShortestEdge)(short_edge_length=800, max_size=1333)],
        image_format="${...train.mapper.image_format}",
    ),
    num_workers=4,
)

dataloader.evaluator = L(COCOEvaluator)(
    dataset_name="${..test.dataset.names}",
    tasks=["bbox"],
)

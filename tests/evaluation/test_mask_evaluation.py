"""Masks from annotations to AP, on a dataset where the answers are known."""

import json

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.data import transforms as T
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.structures import BitMasks, Instances
from golden import CONFIGS
from PIL import Image

from co_detr.data import DetectionMapper
from co_detr.evaluation.mask_scoring import MaskScoringEvaluator
from co_detr.modeling.base_detector import rescale

SIZES = {1: (40, 60), 2: (60, 40), 3: (40, 64)}  # height, width
# (image, category, box as XYWH): every object fills its box but for the upper right quarter
OBJECTS = [(1, 5, [10, 10, 20, 10]), (1, 9, [30, 4, 12, 30]), (2, 9, [0, 0, 40, 60])]
NAME = "masks_for_evaluation"


def corner_shape(x, y, w, h):
    """A polygon: the box without its upper right quarter."""
    return [x, y, x + w / 2, y, x + w / 2, y + h / 2, x + w, y + h / 2, x + w, y + h, x, y + h]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for image_id, size in SIZES.items():
        Image.fromarray(np.full((*size, 3), 60 * image_id, np.uint8)).save(root / f"{image_id}.png")
    content = {
        "categories": [{"id": 9, "name": "lamp"}, {"id": 5, "name": "boat"}],
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": h, "width": w}
            for i, (h, w) in SIZES.items()
        ],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "bbox": box}
            | {"area": box[2] * box[3] * 3 / 4, "iscrowd": 0, "segmentation": [corner_shape(*box)]}
            for number, (image, category, box) in enumerate(OBJECTS, start=1)
        ],
    }
    file = root / "instances.json"
    file.write_text(json.dumps(content))
    register_coco_instances(NAME, {}, str(file), str(root))
    yield DatasetCatalog.get(NAME)
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def truth_of(record, augmentations=()):
    """An example as training sees it."""
    mapper = DetectionMapper(
        is_train=True,
        augmentations=list(augmentations),
        image_format="RGB",
        use_instance_mask=True,
        instance_mask_format="bitmask",
    )
    return mapper(record)["instances"]


class KnowsTheTruth:
    """A model that answers with the annotations, after `spoil` has had its way with each image."""

    def __init__(self, records, spoil=lambda found: found):
        self.answers = {}
        for record in records:
            gt = truth_of(record)
            found = Instances(gt.image_size, pred_boxes=gt.gt_boxes, pred_classes=gt.gt_classes)
            masks = gt.gt_masks if gt.has("gt_masks") else BitMasks(torch.zeros(0, *gt.image_size))
            found.pred_masks, found.scores = masks.tensor, torch.ones(len(gt))
            self.answers[record["image_id"]] = spoil(found)

    def __call__(self, inputs):
        return [{"instances": self.answers[x["image_id"]]} for x in inputs]


def evaluate(records, model, evaluator=None):
    mapper = DetectionMapper(is_train=False, augmentations=[], image_format="RGB")
    loader = build_detection_test_loader(records, mapper=mapper, num_workers=0)
    if evaluator is None:
        evaluator = COCOEvaluator(NAME, tasks=["bbox", "segm"], distributed=False)
    return inference_on_dataset(model, loader, evaluator)


def test_masks_of_annotations_are_in_the_pixels_of_the_example(dataset):
    gt = truth_of(dataset[0])
    assert isinstance(gt.gt_masks, BitMasks) and gt.gt_masks.image_size == (40, 60)
    expected = torch.zeros(40, 60, dtype=torch.bool)
    expected[10:20, 10:20] = expected[15:20, 20:30] = True
    assert torch.equal(gt.gt_masks.tensor[0], expected)
    # an image without objects has no masks, and is kept
    assert len(truth_of(dataset[2])) == 0


def test_masks_follow_the_augmentation(dataset):
    """Cut to (8, 8) - (28, 38) and flipped: the corner that is missing is now on the left."""
    crop = T.CropTransform(8, 8, 20, 30, orig_w=60, orig_h=40)
    gt = truth_of(dataset[0], [crop, T.HFlipTransform(20)])
    expected = torch.zeros(30, 20, dtype=torch.bool)
    expected[2:12, 8:18] = expected[7:12, 0:8] = True
    assert torch.equal(gt.gt_masks.tensor[0], expected)
    assert gt.gt_boxes.tensor[0].tolist() == [0, 2, 18, 12]
    assert len(gt) == 1  # nothing is left of the other object


def test_perfect_masks_score_100(dataset):
    results = evaluate(dataset, KnowsTheTruth(dataset))
    assert results["bbox"]["AP"] == results["segm"]["AP"] == pytest.approx(100)


def test_incomplete_masks_count_up_to_their_iou(dataset):
    """Without their upper half, where a third of their area is, masks have IoU 2/3 with the
    objects: enough for the thresholds .5, .55, .6 and .65 of ten."""

    def without_upper_half(found):
        for mask, (_, y0, _, y1) in zip(found.pred_masks, found.pred_boxes.tensor.int().tolist()):
            mask[: (y0 + y1) // 2] = False
        return found

    results = evaluate(dataset, KnowsTheTruth(dataset, without_upper_half))
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP"] == pytest.approx(40)
    assert results["segm"]["AP50"] == pytest.approx(100)
    assert results["segm"]["AP75"] == pytest.approx(0)


@pytest.mark.parametrize("side", [28, 112])
def test_masks_within_boxes_score_100_once_they_are_pasted(dataset, side):
    """What mask heads predict, at twice the size of the picture, through the model's last step."""
    soft = torch.ones(1, side, side)
    soft[:, : side // 2, side // 2 :] = 0
    model = KnowsTheTruth(dataset)

    def predict(inputs):
        found = []
        for x in inputs:
            answer = model.answers[x["image_id"]]
            height, width = answer.image_size
            boxes = answer.pred_boxes.clone()
            boxes.scale(2, 2)
            x["image"] = torch.zeros(3, 2 * height, 2 * width)
            big = Instances((2 * height, 2 * width), **answer.get_fields())
            big.pred_boxes = boxes
            big.pred_masks = soft.expand(len(answer), 1, side, side)
            found.append(big)
        return rescale(found, inputs)

    results = evaluate(dataset, predict)
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP"] > 99.9


def test_masks_are_ranked_by_scores_of_their_own(dataset):
    """Every object is found twice, by the same box; the first mask is wrong, which only its mask
    score tells. Ranked by scores, half of the masks down to each right one are wrong."""

    def twice(found):
        found.mask_scores = torch.ones(len(found))
        wrong = Instances(found.image_size, **found.get_fields())
        wrong.pred_masks = ~found.pred_masks
        wrong.scores, wrong.mask_scores = found.scores + 1, found.scores * 0.1
        return Instances.cat([wrong, found])

    model = KnowsTheTruth(dataset, twice)
    by_scores = evaluate(dataset, model)
    assert by_scores["bbox"]["AP"] == pytest.approx(100)
    assert by_scores["segm"]["AP"] == pytest.approx(50, abs=1)

    evaluator = MaskScoringEvaluator(
        boxes=COCOEvaluator(NAME, tasks=["bbox"], distributed=False),
        masks=COCOEvaluator(NAME, tasks=["segm"], distributed=False),
    )
    by_mask_scores = evaluate(dataset, model, evaluator)
    assert list(by_mask_scores) == ["bbox", "segm"]
    assert by_mask_scores["bbox"] == pytest.approx(by_scores["bbox"], nan_ok=True)
    assert by_mask_scores["segm"]["AP"] == pytest.approx(100)


def test_models_without_mask_scores_can_be_evaluated_that_way_too(dataset):
    evaluator = MaskScoringEvaluator(
        boxes=COCOEvaluator(NAME, tasks=["bbox"], distributed=False),
        masks=COCOEvaluator(NAME, tasks=["segm"], distributed=False),
    )
    results = evaluate(dataset, KnowsTheTruth(dataset), evaluator)
    assert results["segm"]["AP"] == pytest.approx(100)


def test_the_data_block_with_masks_trains_and_evaluates_with_them(dataset):
    dataloader = LazyConfig.load(str(CONFIGS / "common/data/coco_detr_masks.py")).dataloader
    dataloader.train.dataset.names = dataloader.test.dataset.names = NAME
    dataloader.train.total_batch_size, dataloader.train.num_workers = 3, 0
    for example in next(iter(instantiate(dataloader.train))):
        gt, size = example["instances"], tuple(example["image"].shape[1:])
        assert len(gt) == 0 or gt.gt_masks.tensor.shape == (len(gt), *size)
        if len(gt):  # masks went through the same flip, resize and crop as the boxes
            inside = gt.gt_masks.get_bounding_boxes().tensor
            assert (inside[:, :2] >= gt.gt_boxes.tensor[:, :2] - 1).all()
            assert (inside[:, 2:] <= gt.gt_boxes.tensor[:, 2:] + 1).all()
    # by default the evaluator takes whatever there is
    results = evaluate(dataset, KnowsTheTruth(dataset), instantiate(dataloader.evaluator))
    assert results["segm"]["AP"] == pytest.approx(100)


def test_the_evaluator_of_mask_scores_reads_the_dataset_of_the_test_block(dataset):
    path = CONFIGS / "co_dino" / "co_dino_vit_large_5scale_12ep_instance.py"
    dataloader = LazyConfig.load(str(path)).dataloader
    dataloader.test.dataset.names = NAME
    results = evaluate(dataset, KnowsTheTruth(dataset), instantiate(dataloader.evaluator))
    assert results["bbox"]["AP"] == results["segm"]["AP"] == pytest.approx(100)

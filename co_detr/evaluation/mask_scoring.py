"""Evaluation of models that score boxes and masks apart."""

from collections import OrderedDict
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances


class MaskScoringEvaluator(DatasetEvaluator):
    """Ranks boxes by `scores` and masks by `mask_scores` (Mask Scoring R-CNN, Huang et al., 2019).

    Evaluators of detectron2 know one score per detection.

    Args:
        boxes: evaluates boxes, for example `COCOEvaluator(..., tasks=["bbox"])`; sees no masks.
        masks: evaluates masks, for example `COCOEvaluator(..., tasks=["segm"])`; where detections
            have `mask_scores`, it sees them as `scores`.
    """

    def __init__(self, *, boxes: DatasetEvaluator, masks: DatasetEvaluator):
        self.boxes, self.masks = boxes, masks

    def reset(self) -> None:
        self.boxes.reset()
        self.masks.reset()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take a batch as the two evaluators do."""
        found = [output["instances"] for output in outputs]
        without = [_changed(f, pred_masks=None, mask_scores=None) for f in found]
        scored = [
            _changed(f, scores=f.mask_scores, mask_scores=None) if f.has("mask_scores") else f
            for f in found
        ]
        self.boxes.process(inputs, [{"instances": f} for f in without])
        self.masks.process(inputs, [{"instances": f} for f in scored])

    def evaluate(self) -> dict[str, Any]:
        """The results of both."""
        # Both gather the predictions of all ranks, so both have to run.
        results = [self.boxes.evaluate(), self.masks.evaluate()]
        return OrderedDict((task, value) for r in results for task, value in (r or {}).items())


def _changed(instances: Instances, **changes: Any) -> Instances:
    """A copy with some fields replaced, or left out where None."""
    fields = {**instances.get_fields(), **changes}
    return Instances(instances.image_size, **{k: v for k, v in fields.items() if v is not None})

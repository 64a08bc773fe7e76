"""A detector behind SAHI's interface, for its sliced prediction and its tools.

    from sahi.predict import get_sliced_prediction
    from co_detr.inference.sahi import CoDetrDetectionModel

    model = CoDetrDetectionModel(model_path="output/birds/model_best.pth", confidence_threshold=0.4)
    result = get_sliced_prediction("field.jpg", model, slice_height=512, slice_width=512)

Needs sahi; `tiles.py` is a smaller way to the same end without it.
"""

from typing import Any

import numpy as np

try:
    from sahi.models.base import DetectionModel
    from sahi.prediction import ObjectPrediction
    from sahi.utils.cv import get_coco_segmentation_from_bool_mask
except ImportError as error:
    raise ImportError('this module needs sahi: pip install "co-detr[sahi]"') from error


class CoDetrDetectionModel(DetectionModel):
    """SAHI's `DetectionModel` of a detector.

    Args (those of SAHI):
        model_path: a checkpoint, as `co_detr.load_detector` takes it.
        config_path: the config of one that does not bring its own.
        model: a detector that is loaded already, instead of both.
        confidence_threshold: least score.
    """

    category_mapping: Any  # names by number, or None; set by SAHI

    def load_model(self) -> None:
        """Load `model_path`."""
        from co_detr.inference.detector import load_detector

        self.set_model(
            load_detector(self.model_path, config_file=self.config_path, device=self.device)
        )

    def set_model(self, model: Any, **_: Any) -> None:
        """Take a detector, and the names of its classes unless there are some."""
        self.model = model
        if self.category_mapping is None:
            self.category_mapping = {str(i): name for i, name in enumerate(model.class_names)}

    def perform_inference(self, image: np.ndarray) -> None:
        """Detect in one picture (h, w, 3) uint8 RGB."""
        self.perform_batch_inference([image])

    def perform_batch_inference(self, images: list[np.ndarray]) -> None:
        """Detect in several at once."""
        self._original_shapes = [image.shape for image in images]
        self._original_predictions = self.model.predict(images, self.confidence_threshold)

    def _create_object_prediction_list_from_original_predictions(
        self,
        shift_amount_list: list[Any] | None = None,
        full_shape_list: list[Any] | None = None,
    ) -> None:
        """Where the slices lie in the whole picture is SAHI's: one entry a slice, or a bare one."""
        count = len(self._original_predictions)
        shifts = _for_each(shift_amount_list or [0, 0], count)
        shapes = _for_each(full_shape_list, count)
        self._object_prediction_list_per_image = [
            [*self._predictions(instances, shift, shape)]
            for instances, shift, shape in zip(self._original_predictions, shifts, shapes)
        ]

    def _predictions(self, instances: Any, shift: list[int], shape: list[int] | None) -> Any:
        masks = instances.pred_masks.numpy() if instances.has("pred_masks") else None
        boxes, scores = instances.pred_boxes.tensor.tolist(), instances.scores.tolist()
        for index, label in enumerate(instances.pred_classes.tolist()):
            polygons = None
            if masks is not None:
                polygons = get_coco_segmentation_from_bool_mask(masks[index])
                if not polygons:
                    continue  # SAHI has no place for an empty mask
            yield ObjectPrediction(
                bbox=boxes[index],
                category_id=label,
                category_name=self.category_mapping[str(label)],
                segmentation=polygons,
                score=scores[index],
                shift_amount=shift,
                full_shape=shape if shape is not None else list(instances.image_size),
            )


def _for_each(value: Any, count: int) -> list[Any]:
    """SAHI passes [x, y] for one picture and [[x, y], ...] for several."""
    if value is None or not isinstance(value[0], list | tuple):
        return [value] * count
    return list(value)

"""Detections drawn on pictures."""

from types import ModuleType

import numpy as np
from detectron2.structures import Instances
from PIL import Image

# Smaller pictures are enlarged before drawing, since labels would not be legible on them: to this
# shorter side, unless the longer one gets too long.
MIN_DRAWN_SIDE, MAX_DRAWN_SIDE = 384, 2048

# With more boxes, labels get smaller, but not smaller than can be read.
CROWD = 30
MIN_TEXT_SCALE = 0.3


def draw(image: np.ndarray, instances: Instances, names: list[str]) -> np.ndarray:
    """The picture (H, W, 3) uint8 RGB with boxes, labels and, where there are any, scores, masks
    and numbers of tracks; small pictures enlarged.

    A label touches the upper left corner of its box, whatever it covers; those of high scores cover
    those of low ones.
    """
    supervision = import_supervision()
    height, width = image.shape[:2]
    wanted = -(-MIN_DRAWN_SIDE // min(height, width))
    factor = max(1, min(wanted, MAX_DRAWN_SIDE // max(height, width)))
    height, width = height * factor, width * factor
    canvas = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    scores = instances.scores if instances.has("scores") else None
    if scores is not None:
        instances = instances[scores.argsort()]
        scores = instances.scores.numpy()
    masks = None
    if instances.has("pred_masks"):
        masks = instances.pred_masks.numpy().repeat(factor, axis=1).repeat(factor, axis=2)
    detections = supervision.Detections(
        xyxy=instances.pred_boxes.tensor.numpy() * factor,
        mask=masks,
        confidence=scores,
        class_id=instances.pred_classes.numpy(),
    )
    thickness = supervision.calculate_optimal_line_thickness((width, height))
    text_scale = max(supervision.calculate_optimal_text_scale((width, height)), 0.4)
    text_scale *= min(1, (CROWD / max(len(detections), 1)) ** 0.5)
    numbers = instances.track_ids.tolist() if instances.has("track_ids") else None
    boxes = supervision.BoxAnnotator(thickness=thickness)
    texts = supervision.LabelAnnotator(
        text_scale=max(text_scale, MIN_TEXT_SCALE), text_padding=3, smart_position=True
    )
    # supervision draws in BGR; annotators want memory of their own
    scene = np.ascontiguousarray(canvas[:, :, ::-1])
    if masks is not None:
        scene = supervision.MaskAnnotator().annotate(scene, detections)
    scene = boxes.annotate(scene, detections)
    # One by one: of several, `smart_position` spreads the labels out, away from their boxes. Of one
    # it keeps the label in the picture.
    for index, label in enumerate(detections.class_id):
        text = names[label] if scores is None else f"{names[label]} {scores[index]:.2f}"
        if numbers is not None and numbers[index] >= 0:
            text = f"#{numbers[index]} {text}"
        scene = texts.annotate(scene, detections[index : index + 1], labels=[text])
    return scene[:, :, ::-1]


def import_supervision() -> ModuleType:
    """Supervision; ImportError names the extra where it is missing."""
    try:
        import supervision
    except ImportError as error:
        raise ImportError('drawing needs supervision: pip install "co-detr[draw]"') from error
    return supervision

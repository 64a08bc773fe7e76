"""From the size a detector worked at to the size the caller wants."""

from detectron2.layers import paste_masks_in_image
from detectron2.structures import Instances


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Rescale detections to another image size and drop the boxes left empty there.

    Args:
        results: detections in the frame of `results.image_size`, with `pred_boxes` (or
            `proposal_boxes`) and optionally `pred_masks` (R, 1, M, M), probabilities within the
            box, and `pred_keypoints` (R, K, 3). Other fields are handed on as they are. The
            argument is not changed.
        output_height, output_width: of the wanted frame, in pixels.
        mask_threshold: mask pixels with at least this probability are set.

    Returns:
        Instances of the wanted size: boxes in absolute XYXY, clipped; masks (R, output_height,
        output_width) bool.

    Raises:
        AssertionError: there are no boxes.
    """
    height, width = results.image_size
    name = "pred_boxes" if results.has("pred_boxes") else "proposal_boxes"
    assert results.has(name), "detections need pred_boxes or proposal_boxes to be rescaled"
    boxes = results.get(name).clone()
    boxes.scale(output_width / width, output_height / height)
    boxes.clip((output_height, output_width))

    fields = {**results.get_fields(), name: boxes}
    if results.has("pred_keypoints"):
        keypoints = results.pred_keypoints
        scale = keypoints.new_tensor([output_width / width, output_height / height, 1])
        fields["pred_keypoints"] = keypoints * scale
    output = Instances((output_height, output_width), **fields)[boxes.nonempty()]
    if output.has("pred_masks"):
        output.pred_masks = paste_masks_in_image(
            output.pred_masks[:, 0], output.get(name), output.image_size, threshold=mask_threshold
        )
    return output

"""What every auxiliary head is, whatever its label assignment."""

from dataclasses import dataclass
from typing import Any

from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from co_detr.ops.soft_nms import Suppression

from ..input_checks import described
from ..losses import LossTerm, check_losses


@dataclass(frozen=True, eq=False)
class AuxOutput:
    """What an auxiliary head hands back in training.

    Attributes:
        losses: unfinished, already weighted losses by name ("loss_class", "loss_box", ...).
        samples: per image the candidates this head gave a label to, positives and negatives.
            Fields: `proposal_boxes` (Boxes, absolute XYXY, may leave the image), `gt_classes`
            (0..num_classes-1; background = num_classes; ignored = -1), `gt_boxes` (Boxes, the
            assigned ground truth; zeros where background), and, unless the head was told to leave
            them out, `features` (n, C), what the head saw of each candidate. Only `features` carry
            gradient. A head may add fields of its own, and fill up with ignored samples: how many
            candidates it has need not be known on the host.
    """

    losses: dict[str, LossTerm]
    samples: list[Instances]


def aux_loss_weight(*, lambda_2: float, num_layers: int) -> float:
    """Weight of a head's losses: lambda_2 for each layer of the decoder (Co-DETR, equation 6)."""
    return lambda_2 * num_layers


class AuxHead(nn.Module):
    """A detection head on the encoder's pyramid that supervises it by one-to-many assignment.

    `features` are the pyramid's maps, (N, C, H_l, W_l), fine to coarse; `image_sizes` are the valid
    (height, width) of each image in the batch, in pixels of the model input. `gt_instances` have
    `gt_boxes` (Boxes, absolute XYXY in the same pixels, with positive sides) and `gt_classes`
    (0..num_classes-1), on the device of the features; an image may have none. Heads that predict
    masks need `gt_masks` too.
    """

    def forward(
        self,
        features: list[Tensor],
        image_sizes: list[tuple[int, int]],
        gt_instances: list[Instances],
    ) -> AuxOutput:
        """Assign labels, compute the losses, and hand over the labelled samples."""
        raise NotImplementedError(
            f"{type(self).__name__} has no forward(features, image_sizes, gt_instances), by which "
            "an auxiliary head is trained"
        )

    def inference(
        self, features: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """Detect: per image `pred_boxes` (absolute XYXY, clipped), `scores`, `pred_classes`,
        ordered by falling score, in pixels of the model input. A head that predicts masks adds
        `pred_masks` (n, 1, S, S), probabilities within the box."""
        raise NotImplementedError(
            f"{type(self).__name__} has no inference(features, image_sizes), by which an auxiliary "
            "head detects"
        )


def output_of(head: nn.Module, *inputs: Any) -> AuxOutput:
    """Call a head in training.

    Raises:
        TypeError: it returns something else than an `AuxOutput`.
        TypeError, ValueError: its losses are not such as `check_losses` wants.
    """
    output = head(*inputs)
    if not isinstance(output, AuxOutput):
        raise TypeError(
            f"{type(head).__name__}.forward returned {described(output)}, wanted is "
            "AuxOutput(losses, samples)"
        )
    check_losses(output.losses, type(head).__name__)
    return output


def keep_best_detections(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    image_size: tuple[int, int],
    *,
    suppression: Suppression,
    limit: int,
) -> Instances:
    """Suppress duplicates within each class and keep the best.

    Args:
        boxes, scores, classes: (n, 4) absolute XYXY, clipped; (n,); (n,); of one image.
        image_size: (height, width).
        suppression: drops duplicates or lowers their scores.
        limit: largest number of detections.

    Returns:
        Detections as described at `AuxHead.inference`.
    """
    kept, scores = suppression(boxes, scores, classes)
    kept, scores = kept[:limit], scores[:limit]
    return Instances(
        image_size, pred_boxes=Boxes(boxes[kept]), scores=scores, pred_classes=classes[kept]
    )

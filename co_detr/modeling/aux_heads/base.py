"""What every auxiliary head is, whatever its label assignment."""

from dataclasses import dataclass

from torch import Tensor, nn

from detectron2.structures import Instances

from ..losses import LossTerm


@dataclass(frozen=True, eq=False)
class AuxOutput:
    """What an auxiliary head hands back in training.

    Attributes:
        losses: unfinished, already weighted losses by name ("loss_class", "loss_box", ...).
        samples: per image the candidates this head gave a label to, positives and negatives. Fields:
            `proposal_boxes` (Boxes, absolute XYXY, may leave the image), `gt_classes`
            (0..num_classes-1; background = num_classes; ignored = -1), `gt_boxes` (Boxes, the
            assigned ground truth; zeros where background), and `features` (n, C), what the head saw
            of each candidate, with gradient.
    """

    losses: dict[str, LossTerm]
    samples: list[Instances]


class AuxHead(nn.Module):
    """A detection head on the encoder's pyramid that supervises it by one-to-many assignment.

    `features` are the pyramid's maps, (N, C, H_l, W_l), fine to coarse; `image_sizes` are the valid
    (height, width) of each image in the batch, in pixels of the model input.
    """

    def forward(
        self,
        features: list[Tensor],
        image_sizes: list[tuple[int, int]],
        gt_instances: list[Instances],
    ) -> AuxOutput:
        """Assign labels, compute the losses, and hand over the labelled samples."""
        raise NotImplementedError

    def inference(
        self, features: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """Detect: per image `pred_boxes` (absolute XYXY, clipped), `scores`, `pred_classes`,
        ordered by falling score, in pixels of the model input."""
        raise NotImplementedError

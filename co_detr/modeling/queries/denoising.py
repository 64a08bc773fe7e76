"""Contrastive denoising queries: disturbed ground truth to be restored (DINO, section 3.3).

Letters: N images, G objects of the image with the most, B blocks (the paper's denoising groups),
C channels. There are Q = 2 B G queries. Boxes are normalized cxcywh.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_convert

from co_detr.ops.boxes import inverse_sigmoid

from ..assignment import GroundTruth
from ..aux_heads.base import AuxOutput
from ..transformer.encoder import EncoderMemory
from ..transformer.proposals import Proposals
from ..whole_batch import all_classes
from .group import FixedTargets, QueryGroup


class DenoisingQueries(nn.Module):
    """The group "denoising": it sees "matching", and its blocks do not see each other.

    A block holds the objects of an image twice: first with corners moved by less than half the
    box's size, which is to be undone, then with corners moved by half to all of its size, which is
    to be called background. Either comes with the embedding of a label that is sometimes wrong.
    Images with fewer objects than the batch's most have spare queries, of no content and with a box
    in the middle; as in the released implementation these are decoded, seen by their block, and
    trained to be background.

    Args:
        num_classes: the background label.
        embed_dim: C.
        num_queries: so many lightly disturbed boxes an image shall have: B = num_queries // G, at
            least 1.
        num_blocks: a fixed B instead.
        label_noise: twice the probability of drawing a label anew.
        box_noise: scales the movement of the corners; 1 as described above.
        eps: clamp of the inverse sigmoid that the boxes pass through (DINO: 1e-3).
        weight: multiplies the losses of the group.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        embed_dim: int = 256,
        num_queries: int = 100,
        num_blocks: int | None = None,
        label_noise: float = 0.5,
        box_noise: float = 1.0,
        eps: float = 1e-3,
        weight: float = 1.0,
    ):
        super().__init__()
        if num_queries < 1 or (num_blocks is not None and num_blocks < 1):
            raise ValueError(f"need positive num_queries, num_blocks: {num_queries}, {num_blocks}")
        if not 0 <= label_noise <= 2 or box_noise < 0:
            raise ValueError(
                f"need label_noise in [0, 2] and box_noise >= 0: {label_noise}, {box_noise}"
            )
        self.num_classes = num_classes
        self.num_queries, self.num_blocks = num_queries, num_blocks
        self.label_noise, self.box_noise = label_noise, box_noise
        self.eps = eps
        self.weight = weight
        self.label_embedding = nn.Embedding(num_classes, embed_dim)

    def forward(
        self,
        memory: EncoderMemory | None,
        proposals: Proposals | None,
        ground_truth: GroundTruth,
        aux: Mapping[str, AuxOutput] | None = None,
    ) -> list[QueryGroup]:
        """Disturb the ground truth.

        A batch without objects gets a block of padding queries: they cost nothing in the loss, but
        every parameter stays in use, and every rank has the group.
        """
        classes = pad_sequence(ground_truth.classes, batch_first=True, padding_value=-1)
        boxes = pad_sequence(ground_truth.boxes, batch_first=True)
        most = max(map(len, all_classes(ground_truth.classes)))
        no_objects = most == 0
        N, G = len(classes), max(most, 1)
        classes = nn.functional.pad(classes, (0, G - classes.shape[1]), value=-1)
        boxes = nn.functional.pad(boxes, (0, 0, 0, G - boxes.shape[1]))
        B = self.num_blocks or max(1, self.num_queries // G)

        # axes from here on: image, block, lightly / heavily disturbed, object
        classes = classes[:, None, None].expand(N, B, 2, G)
        boxes = boxes[:, None, None].expand(N, B, 2, G, 4)
        occupied = classes >= 0
        content, reference = self._disturb(classes, boxes, occupied)
        heavy = torch.arange(2, device=classes.device).bool()[:, None]
        targets = classes.masked_fill(~occupied | heavy, self.num_classes)
        return [
            QueryGroup(
                name="denoising",
                content=content.flatten(1, 3),
                reference=reference.flatten(1, 3),
                targets=FixedTargets(targets.flatten(1), boxes.flatten(1, 3)),
                valid=occupied.flatten(1) if no_objects else None,
                sees=("matching",),
                num_blocks=B,
                weight=self.weight,
            )
        ]

    def _disturb(self, classes: Tensor, boxes: Tensor, occupied: Tensor) -> tuple[Tensor, Tensor]:
        """Contents (N, B, 2, G, C) and reference boxes (N, B, 2, G, 4)."""
        noise = draw_noise(classes, self.num_classes)
        labels = torch.where(noise.chance < self.label_noise / 2, noise.label, classes)
        content = self.label_embedding(labels.clamp(min=0)) * occupied[..., None]

        corners = box_convert(boxes, "cxcywh", "xyxy")
        half_size = boxes[..., 2:].repeat(1, 1, 1, 1, 2) / 2
        amount = noise.amount + torch.arange(2, device=boxes.device)[:, None, None]
        corners = corners + noise.direction * amount * half_size * self.box_noise
        # Corners may have swapped sides; the size then counts as zero, as in the release.
        moved = box_convert(corners.clamp(0, 1), "xyxy", "cxcywh")
        reference = inverse_sigmoid(moved, self.eps) * occupied[..., None]
        return content, reference.sigmoid()


@dataclass(frozen=True, eq=False)
class DenoisingNoise:
    """The random numbers of a batch, per image, block, lightly or heavily disturbed, and object.

    Attributes:
        chance: (N, B, 2, G) uniform in [0, 1), decides whether the label is drawn anew.
        label: (N, B, 2, G) the label then, which may be the old one.
        direction: (N, B, 2, G, 4) of each side (left, top, right, bottom), -1 or 1.
        amount: (N, B, 2, G, 4) uniform in [0, 1), how far each side goes.
    """

    chance: Tensor
    label: Tensor
    direction: Tensor
    amount: Tensor


def draw_noise(classes: Tensor, num_classes: int) -> DenoisingNoise:
    """Draw the noise for objects with labels `classes` (N, B, 2, G)."""
    shape, device = classes.shape, classes.device
    return DenoisingNoise(
        chance=torch.rand(shape, device=device),
        label=torch.randint_like(classes, num_classes),
        direction=2.0 * torch.randint(2, (*shape, 4), device=device) - 1,
        amount=torch.rand((*shape, 4), device=device),
    )

"""The decoder of DAB-DETR: all query groups in one pass over one scale.

Letters: N images, Q queries (of all groups), C channels, L layers. Boxes are normalized cxcywh.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from co_detr.ops.boxes import inverse_sigmoid

from ..queries.group import QueryGroup, visibility
from ..recompute import call
from .conditional_decoder import ConditionalDecoder
from .decoder import Predictions, split_predictions
from .encoder import EncoderMemory
from .position_encoding import box_embedding
from .prediction import mlp, with_xavier

# A box counts as at least so wide and high, a pixel of a large image, where attention is divided by
# its size: the quotient then stays within what half precision holds.
SMALLEST_SIDE = 1e-3


class DABDecoder(ConditionalDecoder):
    """Queries that are anchor boxes, corrected from layer to layer (DAB-DETR, section 4).

    Before each layer, a query's position is computed from its box, and the spatial part of the
    attention is stretched to the box's width and height.

    Args:
        conditional: the other options of `ConditionalDecoder`.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        activation: Literal["relu", "prelu"] = "prelu",
        eps: float = 1e-3,
        **conditional,
    ):
        super().__init__(embed_dim=embed_dim, activation=activation, eps=eps, **conditional)
        self.position_mlp = with_xavier(mlp(2 * embed_dim, embed_dim, embed_dim))
        self.attended_size = with_xavier(mlp(embed_dim, embed_dim, 2))

    def forward(
        self, groups: Sequence[QueryGroup], memory: EncoderMemory
    ) -> dict[str, Predictions]:
        """Decode all groups together; equal to decoding each with the groups it sees.

        Returns:
            predictions by group name.

        Raises:
            ValueError: the references of a group are points.
        """
        points = [group.name for group in groups if group.reference.shape[-1] != 4]
        if points:
            raise ValueError(f"groups {points} have points for references; DAB-DETR needs boxes")
        spans = visibility(groups)
        content = torch.cat([group.content for group in groups], dim=1)
        reference = torch.cat([group.reference for group in groups], dim=1)

        logits, boxes = [], []
        start = reference  # what predictions correct: like the reference, but with more gradient
        for index, layer in enumerate(self.layers):
            embedding = box_embedding(reference, self.embed_dim // 2)
            # y and x, like the memory's position encoding
            spatial = embedding[..., : self.embed_dim] * self._stretch(content, reference)
            if index > 0 and self.spatial_scale is not None:
                spatial = spatial * self.spatial_scale(content)
            position = self.position_mlp(embedding.to(content.dtype))
            inputs = (content, position, spatial.to(content.dtype), memory, spans)
            recompute = self.training and index < self.num_checkpointed
            content = call(layer, *inputs, recompute=recompute)

            hidden = self.norm(content)
            logits.append(self.class_branch(hidden))
            boxes.append(self._correct(hidden, start))
            # as in the authors' code, the next layer's box comes from the output before the norm
            start = self._correct(content, reference)
            reference = start.detach()
        return split_predictions(groups, torch.stack(logits), torch.stack(boxes))

    def _correct(self, hidden: Tensor, boxes: Tensor) -> Tensor:
        return (self.box_branch(hidden) + inverse_sigmoid(boxes, self.eps)).sigmoid()

    def _stretch(self, content: Tensor, boxes: Tensor) -> Tensor:
        """(N, Q, C): how much longer than the box a query looks, in y and in x (section 4.4)."""
        width, height = self.attended_size(content).sigmoid().unbind(-1)
        w, h = boxes[..., 2:].clamp(min=SMALLEST_SIDE).unbind(-1)
        ratio = torch.stack([height / h, width / w], dim=-1)
        return ratio.repeat_interleave(self.embed_dim // 2, dim=-1)

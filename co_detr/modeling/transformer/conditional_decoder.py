"""The decoder of Conditional DETR: all query groups in one pass over one scale.

Letters: N images, Q queries (of all groups), C channels, L layers. Boxes are normalized cxcywh.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from co_detr.ops.boxes import inverse_sigmoid

from ..queries.group import QueryGroup, visibility
from ..recompute import call
from .conditional_attention import ConditionalDecoderLayer
from .decoder import Predictions, fixed_positions, split_predictions
from .encoder import EncoderMemory
from .position_encoding import sine_embedding
from .prediction import box_branch, class_branch, mlp, with_xavier


class ConditionalDecoder(nn.Module):
    """Queries that look around a fixed point each (Conditional DETR, section 3.3).

    The point is the centre of a query's reference; where that is a box, as with customized queries,
    its size is left to the query's position and content. All layers share one pair of branches.

    Args:
        num_classes: columns of the class branch.
        embed_dim: C.
        num_layers: L.
        eps: clamp of the inverse sigmoid.
        num_checkpointed: so many of the first layers recompute their activations in the backward
            pass instead of keeping them.
        layer: the other options of `ConditionalDecoderLayer`.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        embed_dim: int = 256,
        num_layers: int = 6,
        eps: float = 1e-5,
        num_checkpointed: int = 0,
        **layer,
    ):
        super().__init__()
        self.embed_dim = embed_dim
        self.eps = eps
        self.num_checkpointed = num_checkpointed
        self.layers = nn.ModuleList(
            ConditionalDecoderLayer(embed_dim=embed_dim, first=index == 0, **layer)
            for index in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dim)
        # the first layer has none, so that a decoder of one layer has no use for it
        self.spatial_scale = (
            with_xavier(mlp(embed_dim, embed_dim, embed_dim)) if num_layers > 1 else None
        )
        self.class_branch = class_branch(embed_dim, num_classes)
        self.box_branch = box_branch(embed_dim)

    def forward(
        self, groups: Sequence[QueryGroup], memory: EncoderMemory
    ) -> dict[str, Predictions]:
        """Decode all groups together; equal to decoding each with the groups it sees.

        Returns:
            predictions by group name.
        """
        spans = visibility(groups)
        content = torch.cat([group.content for group in groups], dim=1)
        position = fixed_positions(groups)
        points = torch.cat([group.reference[..., :2] for group in groups], dim=1)
        # y before x, as in the memory's position encoding
        spatial = sine_embedding(points.flip(-1) * (2 * math.pi), self.embed_dim // 2)

        outputs: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            scaled = spatial
            if index > 0 and self.spatial_scale is not None:
                scaled = spatial * self.spatial_scale(content)
            inputs = (content, position, scaled.to(content.dtype), memory, spans)
            recompute = self.training and index < self.num_checkpointed
            content = call(layer, *inputs, recompute=recompute)
            outputs.append(self.norm(content))
        hidden = torch.stack(outputs)
        start = F.pad(inverse_sigmoid(points, self.eps), (0, 2))
        boxes = (self.box_branch(hidden) + start).sigmoid()
        return split_predictions(groups, self.class_branch(hidden), boxes)

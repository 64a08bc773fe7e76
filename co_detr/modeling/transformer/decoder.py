"""The deformable transformer decoder: all query groups in one pass.

Letters: N images, Q queries (of all groups), C channels, P sampling points, L layers. Boxes are
normalized cxcywh.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from co_detr.ops.boxes import inverse_sigmoid

from ..queries.group import QueryGroup, Span, visibility
from ..recompute import call
from .attention import DeformableAttention, FeedForward, SelfAttention
from .encoder import EncoderMemory
from .position_encoding import box_embedding
from .prediction import box_branch, class_branch, mlp


@dataclass(frozen=True, eq=False)
class Predictions:
    """What the decoder says of one group, layer by layer.

    Attributes:
        logits: (L, N, Q, num_classes).
        boxes: (L, N, Q, 4).
    """

    logits: Tensor
    boxes: Tensor


class DeformableDecoderLayer(nn.Module):
    """Self-attention within groups, deformable cross-attention, feed-forward; all post-norm.

    Args:
        embed_dim: C.
        num_heads, num_levels, num_points: of the cross-attention, see `DeformableAttention`; as
            many heads for the self-attention.
        ffn_dim: width of the feed-forward network.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        ffn_dim: int = 2048,
    ):
        super().__init__()
        self.self_attention = SelfAttention(embed_dim=embed_dim, num_heads=num_heads)
        self.self_norm = nn.LayerNorm(embed_dim)
        self.cross_attention = DeformableAttention(
            embed_dim=embed_dim, num_heads=num_heads, num_levels=num_levels, num_points=num_points
        )
        self.cross_norm = nn.LayerNorm(embed_dim)
        self.ffn = FeedForward(embed_dim=embed_dim, hidden_dim=ffn_dim)
        self.ffn_norm = nn.LayerNorm(embed_dim)

    def forward(
        self,
        content: Tensor,
        position: Tensor,
        centers: Tensor,
        offset_scale: Tensor,
        memory: EncoderMemory,
        spans: Sequence[Span],
    ) -> Tensor:
        """Refine content (N, Q, C); centers and offset_scale as in `DeformableAttention`."""
        content = self.self_norm(content + self.self_attention(content, position, spans))
        sampled = self.cross_attention(
            content + position,
            centers,
            offset_scale,
            memory.tokens,
            memory.padding,
            memory.spatial_shapes,
        )
        content = self.cross_norm(content + sampled)
        return self.ffn_norm(content + self.ffn(content))


class DeformableDecoder(nn.Module):
    """Decoder with iterative refinement and look-forward-twice (Deformable DETR 4.1, DINO 3.5).

    Args:
        num_classes: columns of the class branches.
        refine: each layer corrects the reference of the next and has its own branches; False =
            the references stay and all layers share one pair of branches.
        look_forward_twice: the prediction of a layer also trains the refinement of the one before.
        dino: the position of a query is computed from its reference before each layer, and
            predictions read a normalized copy of each layer's output.
        eps: clamp of the inverse sigmoid; the released models use 1e-5 (Deformable), 1e-3 (DINO).
        two_stage: references start as boxes, so that the box branches start at no correction.
        num_checkpointed: so many of the first layers recompute their activations in the backward
            pass instead of keeping them.
        layer: the other options of `DeformableDecoderLayer`.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        embed_dim: int = 256,
        num_layers: int = 6,
        num_points: int = 4,
        refine: bool = True,
        look_forward_twice: bool = True,
        dino: bool = False,
        eps: float = 1e-5,
        two_stage: bool = True,
        num_checkpointed: int = 0,
        **layer,
    ):
        super().__init__()
        if look_forward_twice and not refine:
            raise ValueError("look_forward_twice needs refine=True: there is no refinement to see")
        self.refine = refine
        self.look_forward_twice = look_forward_twice
        self.eps = eps
        self.num_points = num_points
        self.embed_dim = embed_dim
        self.num_checkpointed = num_checkpointed
        self.layers = nn.ModuleList(
            DeformableDecoderLayer(embed_dim=embed_dim, num_points=num_points, **layer)
            for _ in range(num_layers)
        )
        branches = range(num_layers if refine else 1)
        self.class_branches = nn.ModuleList(class_branch(embed_dim, num_classes) for _ in branches)
        self.box_branches = nn.ModuleList(
            box_branch(embed_dim, -2.0 if index == 0 and not two_stage else 0.0)
            for index in branches
        )
        self.position_mlp = self.norm = None
        if dino:
            self.position_mlp = mlp(2 * embed_dim, embed_dim, embed_dim)
            self.norm = nn.LayerNorm(embed_dim)

    def forward(
        self, groups: Sequence[QueryGroup], memory: EncoderMemory
    ) -> dict[str, Predictions]:
        """Decode all groups together; equal to decoding each with the groups it sees.

        Returns:
            predictions by group name.
        """
        spans = visibility(groups)
        content = torch.cat([group.content for group in groups], dim=1)
        reference, points = _references(groups)
        position = fixed_positions(groups) if self.position_mlp is None else None

        valid_ratios = memory.valid_ratios
        logits, boxes = [], []
        start = reference  # what predictions correct: like the reference, but with more gradient
        for index, layer in enumerate(self.layers):
            on_levels = reference[:, :, None] * valid_ratios[:, None].repeat(1, 1, 1, 2)
            centers, offset_scale = self._sampling_frame(on_levels, points, memory.spatial_shapes)
            if self.position_mlp is not None:
                position = self._position_from(on_levels[:, :, 0])
            inputs = (content, position, centers, offset_scale, memory, spans)
            recompute = self.training and index < self.num_checkpointed
            content = call(layer, *inputs, recompute=recompute)

            branch = index if self.refine else 0
            hidden = content if self.norm is None else self.norm(content)
            correction = self.box_branches[branch](hidden)
            logits.append(self.class_branches[branch](hidden))
            boxes.append((correction + inverse_sigmoid(start, self.eps)).sigmoid())

            if self.refine:
                if self.norm is not None:  # DINO refines from the un-normalized output
                    correction = self.box_branches[branch](content)
                refined = (correction + inverse_sigmoid(reference, self.eps)).sigmoid()
                reference, points = refined.detach(), None
                start = refined if self.look_forward_twice else reference
        return split_predictions(groups, torch.stack(logits), torch.stack(boxes))

    def _position_from(self, boxes: Tensor) -> Tensor:
        """(N, Q, C) from boxes (N, Q, 4) as fractions of the first level, order y, x, w, h."""
        assert self.norm is not None and self.position_mlp is not None  # DINO has both
        features = box_embedding(boxes, self.embed_dim // 2)
        return self.position_mlp(features.to(self.norm.weight.dtype))

    def _sampling_frame(
        self, boxes: Tensor, points: Tensor | None, spatial_shapes: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Centres and length of a unit offset, both (N, Q, levels, 2), in fractions of the levels.

        A unit offset is half the box over P, or one cell where the reference is only a point; boxes
        are (N, Q, levels, 4), as fractions of the levels.
        """
        centers, scale = boxes[..., :2], boxes[..., 2:] * (0.5 / self.num_points)
        if points is not None:
            cell = 1 / boxes.new_tensor([(w, h) for h, w in spatial_shapes])
            scale = torch.where(points[:, None, None], cell, scale)
        return centers, scale


def fixed_positions(groups: Sequence[QueryGroup]) -> Tensor:
    """Concatenate the positions (N, Q, C) that groups bring along.

    Raises:
        ValueError: a group leaves its position to the decoder.
    """
    missing = [group.name for group in groups if group.position is None]
    if missing:
        raise ValueError(
            f"groups {missing} carry no position, and this decoder computes none: give their "
            "sources fixed_position=True, or take a decoder that does"
        )
    positions = [group.position for group in groups if group.position is not None]
    return torch.cat(positions, dim=1)


def _references(groups: Sequence[QueryGroup]) -> tuple[Tensor, Tensor | None]:
    """Concatenate references (N, Q, 4); mark (Q,) where they are points, None if nowhere.

    Points are filled up with a size of 0.5, whose inverse sigmoid is 0: a box branch's width and
    height then stand as they are.
    """
    filled = [
        nn.functional.pad(g.reference, (0, 4 - g.reference.shape[-1]), value=0.5) for g in groups
    ]
    reference = torch.cat(filled, dim=1)
    is_point = [g.reference.shape[-1] == 2 for g in groups]
    if not any(is_point):
        return reference, None
    flags = torch.tensor(is_point, device=reference.device)
    counts = torch.tensor([g.num_queries for g in groups], device=reference.device)
    return reference, flags.repeat_interleave(counts, output_size=reference.shape[1])


def split_predictions(
    groups: Sequence[QueryGroup], logits: Tensor, boxes: Tensor
) -> dict[str, Predictions]:
    """Give every group its part of logits (L, N, Q, num_classes) and boxes (L, N, Q, 4)."""
    sizes = [group.num_queries for group in groups]
    return {
        group.name: Predictions(*parts)
        for group, *parts in zip(groups, logits.split(sizes, dim=2), boxes.split(sizes, dim=2))
    }

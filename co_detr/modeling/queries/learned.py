"""Sources of the matching queries.

A query source is a module with parameters; called, it returns this batch's query groups. All
sources share the signature `source(memory, proposals, ground_truth, aux)` and read what they need.
Letters: N images, Q queries, C channels. Boxes are normalized cxcywh.
"""

import math

import torch
from torch import Tensor, nn

from ..transformer.encoder import EncoderMemory
from ..transformer.position_encoding import sine_embedding
from ..transformer.prediction import mlp, with_xavier
from ..transformer.proposals import Proposals
from .group import HungarianTargets, QueryGroup


class LearnedQueries(nn.Module):
    """Queries of one-stage Deformable DETR: learned content, position and reference point."""

    def __init__(self, *, num_queries: int = 300, embed_dim: int = 256):
        super().__init__()
        self.embedding = nn.Embedding(num_queries, 2 * embed_dim)  # position, then content
        self.reference_points = nn.Linear(embed_dim, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, memory: EncoderMemory, proposals=None, ground_truth=None, aux=None):
        """Return the one group "matching", the same for all images."""
        return [self.group("matching", self.embedding.weight, memory.tokens.shape[0])]

    def group(self, name: str, embedding: Tensor, num_images: int) -> QueryGroup:
        """One group for all images from learned rows (Q, 2 C): position, then content."""
        position, content = embedding.expand(num_images, -1, -1).chunk(2, dim=-1)
        # places take more digits than half precision has
        reference = self.reference_points(position).float().sigmoid()
        return QueryGroup(name, content, reference, HungarianTargets(), position=position)


class PointQueries(nn.Module):
    """Queries of Conditional DETR: learned positions, from which reference points are computed.

    The content starts at zero.
    """

    def __init__(self, *, num_queries: int = 300, embed_dim: int = 256):
        super().__init__()
        self.embedding = nn.Embedding(num_queries, embed_dim)  # position
        self.points = with_xavier(mlp(embed_dim, embed_dim, 2))

    def forward(self, memory: EncoderMemory, proposals=None, ground_truth=None, aux=None):
        """Return the one group "matching", the same for all images."""
        position = self.embedding.weight.expand(memory.tokens.shape[0], -1, -1)
        content, reference = torch.zeros_like(position), self.points(position).float().sigmoid()
        return [QueryGroup("matching", content, reference, HungarianTargets(), position=position)]


class AnchorQueries(nn.Module):
    """Queries of DAB-DETR: learned anchor boxes, which are references and say all about the place.

    The content starts at zero.

    Args:
        num_queries: Q.
        embed_dim: C.
        initial_size: side of the anchors at the start as a fraction of the image, with centres all
            over it; None as in the authors' code, where all four numbers are normally distributed
            in logit space, so that most anchors are large and in the middle.
    """

    def __init__(
        self, *, num_queries: int = 300, embed_dim: int = 256, initial_size: float | None = None
    ):
        super().__init__()
        if initial_size is not None and not 0 < initial_size < 1:
            raise ValueError(f"initial_size must lie between 0 and 1, got {initial_size}")
        self.embed_dim = embed_dim
        self.anchors = nn.Embedding(num_queries, 4)  # in logit space
        if initial_size is not None:
            with torch.no_grad():
                self.anchors.weight[:, :2].uniform_(0.01, 0.99).logit_()
                self.anchors.weight[:, 2:] = math.log(initial_size / (1 - initial_size))

    def forward(self, memory: EncoderMemory, proposals=None, ground_truth=None, aux=None):
        """Return the one group "matching", the same for all images."""
        anchors = self.anchors.weight.expand(memory.tokens.shape[0], -1, -1)
        content, reference = (
            anchors.new_zeros(*anchors.shape[:2], self.embed_dim),
            anchors.float().sigmoid(),
        )
        return [QueryGroup("matching", content, reference, HungarianTargets())]


class SelectedQueries(nn.Module):
    """Queries that start from the best proposals (two-stage; DINO's mixed query selection, 3.4).

    Args:
        num_queries: Q; at most the number of proposals.
        embed_dim: C.
        mixed_selection: the content is learned and only the position comes from the proposal.
        content_std: spread of the learned content at the start. Of 1, as DINO has it, it drowns the
            position until it has been learned, which few training steps do not reach.
        fixed_position: the position is computed here, once (Deformable-DETR); False leaves it to
            the decoder, which computes it from the reference before each layer (DINO).
    """

    def __init__(
        self,
        *,
        num_queries: int = 300,
        embed_dim: int = 256,
        mixed_selection: bool = True,
        content_std: float = 1.0,
        fixed_position: bool = True,
    ):
        super().__init__()
        if not (mixed_selection or fixed_position):
            raise ValueError("without mixed_selection the content needs fixed_position=True")
        self.num_queries = num_queries
        self.content = nn.Embedding(num_queries, embed_dim) if mixed_selection else None
        if self.content is not None:
            with torch.no_grad():
                self.content.weight.mul_(content_std)
        self.encode = BoxEncoding(embed_dim, 2 * embed_dim) if fixed_position else None

    def forward(self, memory: EncoderMemory, proposals: Proposals, ground_truth=None, aux=None):
        """Return the one group "matching"."""
        best = proposals.reference[:, : self.num_queries]
        return [self.group("matching", best, self.content, HungarianTargets())]

    def group(
        self,
        name: str,
        reference: Tensor,
        content: nn.Embedding | None,
        targets: HungarianTargets,
        weight: float = 1.0,
    ) -> QueryGroup:
        """One group that starts from the boxes `reference` (N, Q, 4).

        `content` holds at least Q learned rows; None takes the content from the box, too.
        """
        N, Q, _ = reference.shape
        position = encoded = None
        if self.encode is not None:
            position, encoded = self.encode(reference).chunk(2, dim=-1)
        learned = encoded if content is None else content.weight[:Q].expand(N, -1, -1)
        assert learned is not None  # content or encode: one is there
        return QueryGroup(name, learned, reference, targets, position=position, weight=weight)


class BoxEncoding(nn.Module):
    """Embed normalized boxes: sine features of cx, cy, w, h, a linear layer and a layer norm."""

    def __init__(self, embed_dim: int, output_dim: int):
        super().__init__()
        self.num_features = embed_dim // 2
        self.linear = nn.Linear(2 * embed_dim, output_dim)
        self.norm = nn.LayerNorm(output_dim)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, boxes: Tensor) -> Tensor:
        """(N, Q, 4) in [0, 1] to (N, Q, output_dim)."""
        features = sine_embedding(boxes * (2 * math.pi), self.num_features)
        return self.norm(self.linear(features.to(self.linear.weight.dtype)))

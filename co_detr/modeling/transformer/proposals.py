"""Two-stage proposals: every encoder token proposes a box, the best become queries.

Letters: N images, S encoder tokens, C channels. Boxes are normalized cxcywh.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..focal import PAIRS_AT_ONCE
from ..sampling import rows_at
from .encoder import EncoderMemory, cell_centers
from .prediction import box_branch, class_branch


@dataclass(frozen=True, eq=False)
class Proposals:
    """Ranked proposals, and what the loss on proposals looks at.

    Attributes:
        index: (N, P) tokens chosen, best first, with P = num_proposals, in training + num_extra; at
            most S.
        reference: (N, P, 4), their boxes without gradient.
        logits: (N, T, num_classes) with T = S (class-agnostic) or num_proposals.
        boxes: (N, T, 4), with gradient.
        class_agnostic: whether the loss treats every object as class 0.
    """

    index: Tensor
    reference: Tensor
    logits: Tensor
    boxes: Tensor
    class_agnostic: bool


class TwoStageProposals(nn.Module):
    """Score and regress a box at every token (Deformable DETR, section 4.2 and appendix A.4).

    Args:
        embed_dim: C.
        num_classes: columns of the class branch.
        num_proposals: how many are kept.
        num_extra: in training, so many of the next in the ranking are kept, too; the loss on
            proposals does not look at these.
        class_agnostic: True (Deformable-DETR): rank by the logit of class 0 and train all tokens
            on "object or not". False (DINO): rank by the best class and train the chosen ones on
            real labels.
        base_size: side of the base box on the finest level as a fraction of the image, doubled
            from level to level.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        num_classes: int,
        num_proposals: int = 300,
        num_extra: int = 0,
        class_agnostic: bool = True,
        base_size: float = 0.05,
    ):
        super().__init__()
        self.num_proposals, self.num_extra = num_proposals, num_extra
        self.class_agnostic = class_agnostic
        self.base_size = base_size
        self.output = nn.Linear(embed_dim, embed_dim)
        self.output_norm = nn.LayerNorm(embed_dim)
        self.class_branch = class_branch(embed_dim, num_classes)
        self.box_branch = box_branch(embed_dim)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, memory: EncoderMemory) -> Proposals:
        base = self.base_boxes(memory)
        invalid = base.isinf().any(-1, keepdim=True)
        # Invalid tokens share one ordinary feature and take part in everything that follows, as
        # in the released implementation; their box is (1, 1, 1, 1), on the lower right corner.
        tokens = self.output_norm(self.output(memory.tokens.masked_fill(invalid, 0.0)))
        count = self.num_proposals + (self.num_extra if self.training else 0)
        count = min(count, tokens.shape[1])
        if self.class_agnostic:
            logits = self.class_branch(tokens)
            boxes = (self.box_branch(tokens) + base).sigmoid()
            index = self.ranked(logits[..., 0], count)
            return Proposals(index, rows_at(boxes, index).detach(), logits, boxes, True)
        # The loss looks at the chosen tokens only: no gradient, and nothing kept, for the others.
        index = self.ranked(self.best_scores(tokens), count)
        tokens, base = rows_at(tokens, index), rows_at(base, index)
        boxes = (self.box_branch(tokens) + base).sigmoid()
        logits = self.class_branch(tokens[:, : self.num_proposals])
        return Proposals(index, boxes.detach(), logits, boxes[:, : self.num_proposals], False)

    def ranked(self, logits: Tensor, count: int) -> Tensor:
        """The tokens with the highest of logits (N, S), best first: (N, count)."""
        return logits.topk(count, dim=1).indices

    @torch.no_grad()
    def best_scores(self, tokens: Tensor) -> Tensor:
        """The highest class logit of each token (N, S, C): (N, S). So many tokens of every image at
        once that memory stays small; how many images there are, an exported graph does not know."""
        rows = max(1, PAIRS_AT_ONCE // self.class_branch.out_features)
        # Autocast keeps the reduced copies that it makes of parameters, and older PyTorch would use
        # these, made without gradient, for the loss, too.
        weight, bias = self.class_branch.weight.detach(), self.class_branch.bias.detach()
        parts = tokens.split(rows, 1)
        return torch.cat([F.linear(part, weight, bias).amax(-1) for part in parts], 1)

    def base_boxes(self, memory: EncoderMemory) -> Tensor:
        """(N, S, 4) in logit space: a square at each cell's centre; +inf where it is no proposal.

        No proposal are tokens in the padding, and boxes of which a coordinate leaves (0.01, 0.99).
        """
        levels = []
        for level, shape in enumerate(memory.spatial_shapes):
            centers = cell_centers(shape, memory.tokens.device) / memory.valid_cells[:, None, level]
            size = torch.full_like(centers, self.base_size * 2**level)
            levels.append(torch.cat([centers, size], -1))
        boxes = torch.cat(levels, dim=1)
        inside = ((boxes > 0.01) & (boxes < 0.99)).all(-1) & ~memory.padding
        return boxes.logit().masked_fill(~inside[..., None], float("inf"))

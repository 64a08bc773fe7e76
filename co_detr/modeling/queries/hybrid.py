"""Matching queries with more of their kind beside them in training, all matched one-to-one.

Their first group, "matching", is the model without the scheme, in training and in inference: no
group sees another one, and what is learned for the others alone lies in `extra`, which inference
does without. Letters: N images, C channels.
"""

from torch import Tensor, nn

from ..transformer.encoder import EncoderMemory
from ..transformer.proposals import Proposals
from .group import HungarianTargets, QueryGroup
from .learned import LearnedQueries, SelectedQueries


class HybridQueries(SelectedQueries):
    """The groups "matching" and, in training, "one_to_many" (H-DETR, section 3.2, hybrid branch).

    The one-to-many queries start from the proposals that follow in the ranking after those of the
    matching queries, and every object is matched to several of them. An image with too few
    encoder tokens has fewer of them, but at least one, which may start where a matching query does.

    Args:
        num_one_to_many: so many queries; what ranks the proposals has to keep these, too.
        repeats: every object is matched so many times.
        weight: multiplies the losses of the one-to-many group.
        others: as in `SelectedQueries`.
    """

    def __init__(
        self,
        *,
        num_one_to_many: int = 1500,
        repeats: int = 6,
        weight: float = 1.0,
        num_queries: int = 300,
        embed_dim: int = 256,
        mixed_selection: bool = True,
        fixed_position: bool = True,
    ):
        if num_one_to_many < 1 or repeats < 1:
            raise ValueError(
                f"need positive num_one_to_many, repeats: {num_one_to_many}, {repeats}"
            )
        super().__init__(
            num_queries=num_queries,
            embed_dim=embed_dim,
            mixed_selection=mixed_selection,
            fixed_position=fixed_position,
        )
        self.num_one_to_many, self.repeats = num_one_to_many, repeats
        self.weight = weight
        self.extra = nn.Embedding(num_one_to_many, embed_dim) if mixed_selection else None

    def forward(
        self, memory: EncoderMemory, proposals: Proposals, ground_truth=None, aux=None
    ) -> list[QueryGroup]:
        """Split the ranking.

        Raises:
            ValueError: the ranking is shorter than the encoder's tokens would allow.
        """
        groups = super().forward(memory, proposals)
        if self.training:
            targets = HungarianTargets(self.repeats)
            reference = self._next_proposals(memory, proposals.reference)
            groups.append(self.group("one_to_many", reference, self.extra, targets, self.weight))
        return groups

    def _next_proposals(self, memory: EncoderMemory, ranked: Tensor) -> Tensor:
        wanted = self.num_queries + self.num_one_to_many
        have, possible = ranked.shape[1], memory.tokens.shape[1]
        if have < min(wanted, possible):
            raise ValueError(
                f"{self.num_queries} matching and {self.num_one_to_many} one-to-many queries need "
                f"{wanted} proposals, but {have} are ranked: set the proposals' num_extra to "
                f"{self.num_one_to_many}"
            )
        # at least one: every step has to use all parameters
        return ranked[:, min(self.num_queries, have - 1) : wanted]


class GroupedQueries(LearnedQueries):
    """The groups "matching" and, in training, "group_2", "group_3", ... (Group DETR, section 3).

    Every group has contents and positions of its own, and an object is matched once in each. From
    positions to reference points leads the same layer in all groups.

    Args:
        num_groups: how many groups there are in training, "matching" among them.
        num_queries: in each group.
    """

    def __init__(self, *, num_groups: int = 3, num_queries: int = 300, embed_dim: int = 256):
        if num_groups < 2:
            raise ValueError(f"need num_groups >= 2, got {num_groups}: one is LearnedQueries")
        super().__init__(num_queries=num_queries, embed_dim=embed_dim)
        self.num_queries = num_queries
        self.extra = nn.Embedding((num_groups - 1) * num_queries, 2 * embed_dim)

    def forward(
        self, memory: EncoderMemory, proposals=None, ground_truth=None, aux=None
    ) -> list[QueryGroup]:
        """Return the groups, the same for all images."""
        groups = super().forward(memory)
        if self.training:
            parts = self.extra.weight.split(self.num_queries)
            N = memory.tokens.shape[0]
            groups += [self.group(f"group_{i}", part, N) for i, part in enumerate(parts, start=2)]
        return groups

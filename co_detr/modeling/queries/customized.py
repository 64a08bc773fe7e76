"""Customized positive queries: auxiliary heads' positives as queries (Co-DETR, section 3.3).

Letters: N images, Q queries, C channels, K auxiliary heads.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from detectron2.structures import Instances
from torch import Tensor, nn

from co_detr.ops.boxes import inverse_sigmoid, to_normalized_cxcywh

from ..assignment import GroundTruth
from ..aux_heads.base import AuxOutput
from ..sampling import padded, random_rank
from ..whole_batch import max_over_parts
from .group import FixedTargets, QueryGroup
from .learned import BoxEncoding


class CustomizedQueries(nn.Module):
    """One group "customized/<head>" per auxiliary head, with that head's own assignment as target.

    Args:
        heads: names of the auxiliary heads, in the order of the parameters; None for all that the
            model has, which tells by `serve`.
        num_classes: the background label.
        embed_dim: C.
        max_queries: at most so many per image; where a head has more positives, a random subset.
        min_queries: at least so many, so that no group is ever empty.
        padding: how an image with fewer positives than the batch needs is filled up. "negatives":
            with random negatives of the same head, whose target is background (every released
            model). "mask": with queries that nobody sees and nothing counts (the paper's zero
            padding; the released code for it is broken, this is what it means).
        use_features: add the head's feature of each sample to the content (Deformable-DETR).
        fixed_position: as in `SelectedQueries`.
        weight: lambda_1 of equation 5.
    """

    def __init__(
        self,
        *,
        heads: Sequence[str] | None = None,
        num_classes: int,
        embed_dim: int = 256,
        max_queries: int = 300,
        min_queries: int = 9,
        padding: Literal["negatives", "mask"] = "negatives",
        use_features: bool = True,
        fixed_position: bool = True,
        weight: float = 1.0,
    ):
        super().__init__()
        if padding not in ("negatives", "mask"):
            raise ValueError(f'padding must be "negatives" or "mask", got {padding!r}')
        if not 0 < min_queries <= max_queries:
            raise ValueError(f"need 0 < min_queries <= max_queries: {min_queries}, {max_queries}")
        self.heads = heads if heads is None else list(heads)
        self.num_classes = num_classes
        self.embed_dim = embed_dim
        self.max_queries, self.min_queries = max_queries, min_queries
        self.padding = padding
        self.use_features = use_features
        self.fixed_position = fixed_position
        self.weight = weight
        if self.heads is not None:
            self._create_parameters(len(self.heads))

    def serve(self, heads: Sequence[str]) -> None:
        """Learn which auxiliary heads there are, and create what is learned for each of them.

        Args:
            heads: all names, in the order of the parameters.

        Raises:
            ValueError: it was made for a head that is not among them.
        """
        if self.heads is None:
            self.heads = list(heads)
            self._create_parameters(len(heads))
        elif missing := [name for name in self.heads if name not in heads]:
            raise ValueError(
                f"customized queries of {missing}, but the auxiliary heads are {list(heads)}: "
                "leave `heads` out, and they follow the auxiliary heads"
            )

    def _create_parameters(self, K: int) -> None:
        C = self.embed_dim
        output_dim = 2 * C if self.fixed_position else C
        self.encode = nn.ModuleList(BoxEncoding(C, output_dim) for _ in range(K))
        if self.fixed_position:
            # one scalar per head, (K, 1), as the released weights store it
            self.head_position = nn.Parameter(torch.randn(K, 1))
        if self.use_features:
            linears = [nn.Linear(C, C) for _ in range(K)]
            self.feature_linear = nn.ModuleList(linears)
            self.feature_norm = nn.ModuleList(nn.LayerNorm(C) for _ in range(K))
            for linear in linears:
                nn.init.xavier_uniform_(linear.weight)
                nn.init.zeros_(linear.bias)

    def forward(
        self, memory, proposals, ground_truth: GroundTruth, aux: Mapping[str, AuxOutput]
    ) -> list[QueryGroup]:
        """Turn every head's samples into a group.

        Raises:
            KeyError: a head that it serves gave no output.
            ValueError: its samples are not one `Instances` for each image, or lack a field, be it
                the features that are wanted.
        """
        # The number of queries is a shape, so it has to reach the host: one copy for all heads.
        assert self.heads is not None  # `serve` has told
        N = len(ground_truth.classes)
        labels = [_padded_classes(head, aux[head].samples, N) for head in self.heads]
        most = torch.stack([self._is_positive(classes).sum(dim=1).max() for classes in labels])
        most = most.clamp(self.min_queries, self.max_queries)
        most = max_over_parts("customized queries", most)
        return [
            self._group(index, name, aux[name].samples, classes, ground_truth.scale, count)
            for index, (name, classes, count) in enumerate(zip(self.heads, labels, most.tolist()))
        ]

    def _is_positive(self, classes: Tensor) -> Tensor:
        return classes.ge(0) & classes.lt(self.num_classes)

    def _group(
        self,
        index: int,
        name: str,
        samples: Sequence[Instances],
        labels: Tensor,
        scale: Tensor,
        count: int,
    ) -> QueryGroup:
        """Make `count` queries per image of the samples of a head, whose labels are (N, m)."""
        chosen, valid = self._choose(labels, count)
        ends = list(itertools.accumulate(len(s) for s in samples))
        first = torch.tensor([0, *ends[:-1]], device=chosen.device)
        rows = (chosen + first[:, None]).masked_fill(~valid, ends[-1])
        classes = take([s.gt_classes for s in samples], rows)
        classes = classes.masked_fill(~valid, self.num_classes)
        coordinates = take([s.proposal_boxes.tensor for s in samples], rows).detach()
        coordinates = to_normalized_cxcywh(coordinates, scale[:, None])
        targets = take([s.gt_boxes.tensor for s in samples], rows)
        targets = to_normalized_cxcywh(targets, scale[:, None])

        # boxes may leave the image; only their embedding is brought into [0, 1]
        encoded = self.encode[index](inverse_sigmoid(coordinates, 1e-5).sigmoid())
        position, content = None, encoded
        if self.fixed_position:
            position, content = encoded.chunk(2, dim=-1)
            position = position + self.head_position[index]
        if self.use_features:
            features = take(_features_of(name, samples), rows).to(encoded.dtype)
            content = content + self.feature_norm[index](self.feature_linear[index](features))
        return QueryGroup(
            name=f"customized/{name}",
            content=content,
            reference=coordinates,
            targets=FixedTargets(classes, targets),
            valid=valid,
            position=position,
            weight=self.weight,
        )

    def _choose(self, classes: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Choose `count` samples per image, positives first: indices and validity, (N, count)."""
        classes = nn.functional.pad(classes, (0, max(0, count - classes.shape[1])), value=-1)
        positive = self._is_positive(classes)
        rank = random_rank(classes) + 2 * positive + 1 * (classes == self.num_classes)
        chosen = rank.topk(count, dim=1).indices
        valid = positive if self.padding == "mask" else classes >= 0
        return chosen, valid.gather(1, chosen)


def _padded_classes(head: str, samples: Sequence[Instances], N: int) -> Tensor:
    """(N, m) labels, -1 where an image has fewer samples than others."""
    fields = {"proposal_boxes", "gt_classes", "gt_boxes"}
    found = [set(s.get_fields()) if isinstance(s, Instances) else set() for s in samples]
    if len(samples) != N or not all(fields <= of_image for of_image in found):
        raise ValueError(
            f"the samples of the auxiliary head {head!r} have the fields {found}, image by image: "
            f"wanted is a list of Instances with {sorted(fields)} for each of {N} images"
        )
    return padded([s.gt_classes for s in samples], -1)


def _features_of(head: str, samples: Sequence[Instances]) -> list[Tensor]:
    if not all(s.has("features") for s in samples):
        raise ValueError(
            f"the samples of the auxiliary head {head!r} have no features, but customized queries "
            "take them: make it with sample_features=True, or the queries with use_features=False"
        )
    return [s.features for s in samples]


def take(values: Sequence[Tensor], rows: Tensor) -> Tensor:
    """Take rows (N, n), counted image after image, of values (m, ...) per image; zeros from the row
    after the last."""
    return torch.cat([*values, values[0].new_zeros(1, *values[0].shape[1:])])[rows]

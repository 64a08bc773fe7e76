"""Co-DETR: the detector as a whole.

Letters: N images. See the package docstring for box frames and labels.
"""

from collections.abc import Mapping
from typing import cast

from detectron2.structures import Instances
from torch import Tensor, nn

from .assignment import GroundTruth
from .aux_heads.dense import DenseHead
from .base_detector import Detector, aux_terms, input_sizes, rescale
from .instance_mask import InstanceMask
from .losses import normalize
from .named_parts import module_dict
from .queries.customized import CustomizedQueries
from .queries.group import QueryGroup, groups_of
from .transformer.encoder import EncoderMemory


class CoDETR(Detector):
    """DETR with collaborative hybrid assignments training (Co-DETR, figure 4).

    Args:
        proposals: memory to ranked `Proposals`; None for one-stage models.
        query_sources: modules that make query groups; "matching" also serves inference, the others
            only training. The customized queries follow the auxiliary heads.
        decoder: groups and memory to predictions by group name.
        criterion: predictions to losses.
        postprocess: predictions of the last layer to detections.
        instance_mask: adds masks to the detections of the matching queries; None for boxes alone.
        lambda_1, lambda_2: weights of the customized queries' and of the auxiliary heads' losses
            beside those of a decoder layer (paper, equation 6). For configs to point at: it is the
            parts that apply them.
        aux_losses: False switches the losses of the auxiliary heads off (paper, table 9): they and
            the pyramid stay as they are, but their assignments still feed the customized queries.
        customized_queries: False switches the customized queries off (paper, table 9).
        eval_branch: whose detections inference returns: "matching", or an auxiliary head's name
            (paper, table 11).
        detector: what `Detector` has besides.
    """

    def __init__(
        self,
        *,
        decoder: nn.Module,
        query_sources: Mapping[str, nn.Module],
        criterion: nn.Module,
        postprocess: nn.Module,
        proposals: nn.Module | None = None,
        instance_mask: InstanceMask | None = None,
        lambda_1: float = 1.0,
        lambda_2: float = 2.0,
        aux_losses: bool = True,
        customized_queries: bool = True,
        eval_branch: str = "matching",
        **detector,
    ):
        super().__init__(**detector)
        used = dict(query_sources)
        if not customized_queries or not self.aux_heads:
            used.pop("customized", None)
        sources = module_dict("query_sources", used)
        if "matching" not in sources:
            raise ValueError(f'query_sources need "matching", got {list(sources)}')
        if taken := sorted({"encoder", *sources} & set(self.aux_heads)):
            raise ValueError(
                f"the auxiliary head {taken[0]!r} would hide losses or queries of that name: give "
                "it another one"
            )
        if eval_branch not in self.branches:
            raise ValueError(f"eval_branch {eval_branch!r} is none of {self.branches}")
        if "customized" in sources:
            # in the order of the release, whose parameters have no names: RoI heads come first
            dense = {name: isinstance(head, DenseHead) for name, head in self.aux_heads.items()}
            customized = cast(CustomizedQueries, sources["customized"])
            customized.serve(sorted(dense, key=dense.__getitem__))
        self.proposals = proposals
        self.query_sources = sources
        self.decoder = decoder
        self.criterion = criterion
        self.postprocess = postprocess
        self.instance_mask = instance_mask
        self.lambda_1, self.lambda_2 = lambda_1, lambda_2
        self.aux_losses = aux_losses
        self.eval_branch = eval_branch
        # whether anything asks what the heads assign
        self.assisted = bool(self.aux_heads) and (aux_losses or "customized" in sources)
        if not aux_losses:  # nothing trains them then, which a distributed wrapper must know
            self.aux_heads.requires_grad_(False)
            if self.pyramid is not None:
                self.pyramid.requires_grad_(False)

    @property
    def branches(self) -> list[str]:
        """What `eval_branch` may be: the matching queries, and the auxiliary heads by name."""
        return ["matching", *self.aux_heads]

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Losses in training, detections otherwise.

        Args:
            batched_inputs: detectron2's format: "image" (3, H, W); in training "instances" with
                `gt_boxes`, `gt_classes` and, for mask heads, `gt_masks`; optional "height" and
                "width" of the output.

        Returns:
            a flat dict of weighted losses; or per image {"instances": detections}, with boxes in
            pixels of the output.
        """
        memory, sizes = self.encode(batched_inputs)
        if not self.training:
            return rescale(self.detect(memory, sizes, input_sizes(batched_inputs)), batched_inputs)

        instances = self.instances_of(batched_inputs)
        ground_truth = GroundTruth.from_instances(instances, sizes)
        proposals = self.proposals(memory) if self.proposals is not None else None
        aux = self.assist(memory, sizes, instances) if self.assisted else {}
        groups = [
            group
            for source in self.query_sources.values()
            for group in groups_of(source, memory, proposals, ground_truth, aux)
        ]
        predictions = self.decoder(groups, memory)
        terms = self.criterion(predictions, groups, proposals, ground_truth)
        if self.instance_mask is not None:
            boxes = predictions["matching"].boxes[-1]
            terms |= self.instance_mask(memory.maps(), boxes, sizes, instances)
        if self.aux_losses:
            terms |= aux_terms(aux)
        return normalize(terms)

    def detect(
        self,
        memory: EncoderMemory,
        sizes: list[tuple[int, int]],
        own_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """Detections of the branch `eval_branch`, in pixels of the model input.

        `sizes` count as valid, where padding counts as image more than the images' `own_sizes`.
        """
        if self.eval_branch != "matching":
            return self.detections_of_head(self.eval_branch, memory, sizes)
        proposals = self.proposals(memory) if self.proposals is not None else None
        groups: list[QueryGroup] = self.query_sources["matching"](memory, proposals, None, {})
        predicted = self.decoder(groups[:1], memory)["matching"]
        detections = self.postprocess(predicted.logits[-1], predicted.boxes[-1], sizes)
        if self.instance_mask is None:
            return detections
        for found, size in zip(detections, own_sizes):
            found.pred_boxes.clip(size)  # or masks would reach into the padding, too
        return self.instance_mask.inference(memory.maps(), detections)

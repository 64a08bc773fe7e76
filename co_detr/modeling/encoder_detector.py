"""Detection heads on the encoder alone: what Co-DETR's auxiliary branches are compared with."""

from torch import Tensor

from .base_detector import Detector, aux_terms, rescale
from .losses import normalize


class EncoderDetector(Detector):
    """ATSS, Faster R-CNN or any other auxiliary head alone on the encoder (paper, figures 2 and 3
    and the column K = 0 of table 11).

    It is named like `CoDETR`, so that weights of the one may start the other.

    Args:
        eval_branch: name of the head whose detections inference returns; None for the only one.
        detector: what `Detector` has besides. Where there is no decoder, the losses of the heads
            have the weight 1: pass them `loss_weight=1.0`, and `sample_features=False`, as nothing
            reads the features of their samples.
    """

    def __init__(self, *, eval_branch: str | None = None, **detector):
        super().__init__(**detector)
        heads = self.branches
        if not heads:
            raise ValueError("without a decoder, aux_heads detect: pass one, as aux_heads.atss")
        if eval_branch is None and len(heads) > 1:
            raise ValueError(f"which of {heads} detects? Set eval_branch")
        self.eval_branch = eval_branch or heads[0]
        if self.eval_branch not in heads:
            raise ValueError(f"eval_branch {eval_branch!r} is none of {heads}")

    @property
    def branches(self) -> list[str]:
        """What `eval_branch` may be: the heads by name."""
        return list(self.aux_heads)

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Losses in training, detections otherwise; as `CoDETR.forward`."""
        memory, sizes = self.encode(batched_inputs)
        if not self.training:
            found = self.detections_of_head(self.eval_branch, memory, sizes)
            return rescale(found, batched_inputs)
        aux = self.assist(memory, sizes, self.instances_of(batched_inputs))
        return normalize(aux_terms(aux))

"""Grad-CAM maps of all heads of a model on a batch (paper, section 4.4).

The heads are the DETR head (the decoder's matching queries) and the auxiliary heads. Letters: N
images, S encoder tokens, C channels, n heads, cells of the encoder's finest level within an image.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

import torch
from detectron2.structures import Instances
from torch import Tensor, nn

from co_detr.modeling.aux_heads.base import AuxHead
from co_detr.modeling.base_detector import Detector
from co_detr.modeling.detector import CoDETR
from co_detr.modeling.transformer.encoder import EncoderMemory
from co_detr.ops.soft_nms import Suppression

from .grad_cam import evidence, image_map
from .passes import Size, decode, encode

DETR_HEAD = "DETR"
_SUPPRESSION, _THRESHOLD = "suppression", "score_threshold"  # attributes of modules


def head_names(model: Detector) -> list[str]:
    """The DETR head, and the auxiliary heads by their names in the config."""
    return [DETR_HEAD, *model.aux_heads]


def prepare_heads(model: nn.Module) -> None:
    """Prepare a model for `head_maps`, for good.

    All heads report their best detections, whatever the scores, and these carry gradient: score
    thresholds differ from head to head, for reasons of evaluation.
    """
    for module in model.eval().requires_grad_(False).modules():
        suppression = getattr(module, _SUPPRESSION, None)
        if suppression is not None:
            setattr(module, _SUPPRESSION, OriginalScores(suppression))
        if hasattr(module, _THRESHOLD):
            setattr(module, _THRESHOLD, 0.0)


@contextmanager
def prepared_heads(model: nn.Module) -> Iterator[None]:
    """`prepare_heads` for a while: afterwards the heads detect as they did before."""
    before = [
        (module, name, getattr(module, name))
        for module in model.modules()
        for name in (_SUPPRESSION, _THRESHOLD)
        if hasattr(module, name)
    ]
    try:
        prepare_heads(model)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


@dataclass(frozen=True)
class OriginalScores:
    """Keeps what a suppression keeps, with the scores it had before.

    Soft-NMS lowers scores, and what it returns has no gradient.
    """

    suppression: Suppression

    def __call__(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        kept, _ = self.suppression(boxes.detach(), scores.detach(), classes)
        return kept, scores[kept]


def head_maps(
    model: CoDETR, examples: Sequence[dict], heads: Sequence[str] | None = None
) -> list[Tensor]:
    """Draw a map for each head, by the gradient of its evidence by the encoder's output.

    Args:
        model: after `prepare_heads`.
        examples: with "image"; objects are not read.
        heads: of `head_names`; None for all.

    Returns:
        per image (n, H_1, W_1), in the order of `heads`: not negative, at most 1, the cells of the
        encoder's finest level within the image.
    """
    heads = head_names(model) if heads is None else heads
    with torch.no_grad():
        memory, sizes = encode(model, examples)
    features = memory.maps()
    gradients = [
        replace(memory, tokens=gradient).maps()
        for gradient in head_gradients(model, memory, sizes, heads)
    ]
    return [
        torch.stack(
            [
                image_map(
                    [level[image] for level in features],
                    [level[image] for level in gradient],
                    memory.valid_cells[image],
                )
                for gradient in gradients
            ]
        )
        for image in range(len(sizes))
    ]


def head_gradients(
    model: CoDETR, memory: EncoderMemory, sizes: Sequence[Size], heads: Sequence[str]
) -> Iterator[Tensor]:
    """Yield the gradient of each head's evidence by the encoder's tokens, (N, S, C).

    Of each image as many detections count as the DETR head reports, `postprocess.max_detections`.
    """
    limit = model.postprocess.max_detections
    tokens = memory.tokens.detach().requires_grad_()
    memory = replace(memory, tokens=tokens)
    for head in heads:
        detections = detections_of(model, head, memory, sizes)
        # there are images, so not the number 0
        total = cast(Tensor, sum(evidence(found.scores[:limit]) for found in detections))
        yield torch.autograd.grad(total, tokens)[0]


def detections_of(
    model: CoDETR, head: str, memory: EncoderMemory, sizes: Sequence[Size]
) -> list[Instances]:
    """What a head, named as by `head_names`, detects in each image."""
    if head != DETR_HEAD:
        assert model.pyramid is not None  # there are heads
        auxiliary = cast(AuxHead, model.aux_heads[head])
        return auxiliary.inference(model.pyramid(memory), list(sizes))
    _, predicted = decode(model, memory)
    return model.postprocess(predicted.logits[-1], predicted.boxes[-1], sizes)

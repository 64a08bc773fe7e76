"""What `tools/benchmark.py transformers` measures: two implementations of one model.

The model is two-stage Deformable-DETR with refinement on ResNet-50, with 300 queries, four levels
and six layers each way: K = 0 of ours, and `DeformableDetrForObjectDetection` of Hugging Face
`transformers` on timm's ResNet, as published. The weights are the same. Mixed selection and
look-forward-twice of our config are off, and the neck's convolutions have biases, because theirs
know no other; dropout is 0 on both sides. Both train the backbone but for its first two parts.

Both are called with the same batch, and normalize and pad it by the same function. Ours returns
detections; theirs logits and boxes, which is less to do.
"""

from collections.abc import Callable, Iterator

import torch
import transformers
from benchmarks.measuring import Comparison
from benchmarks.models import train_step
from detectron2.config import instantiate
from detectron2.structures import Instances
from torch import Tensor, nn

from co_detr import model_zoo
from co_detr.checkpoint.transformers import convert_transformers
from co_detr.modeling.base_detector import padding_mask
from co_detr.modeling.detector import CoDETR
from co_detr.ops.boxes import to_normalized_cxcywh
from co_detr.profiling.inputs import random_batch

CONFIG = "co_deformable_detr/co_deformable_detr_r50_12ep_k0"


class Theirs(nn.Module):
    """Their model, called as ours: losses in training, logits and boxes otherwise."""

    def __init__(self, model: nn.Module, preprocess: Callable):
        super().__init__()
        self.model = model
        self.preprocess = preprocess

    def forward(self, batch: list[dict]) -> dict[str, Tensor]:
        images, sizes = self.preprocess(batch)
        mask = (~padding_mask(images, sizes)).long()
        if not self.training:
            out = self.model(images, pixel_mask=mask)
            return {"logits": out.logits, "boxes": out.pred_boxes}
        labels = [_labels(x["instances"]) for x in batch]
        return {"loss": self.model(images, pixel_mask=mask, labels=labels).loss}


def _labels(instances: Instances) -> dict[str, Tensor]:
    height, width = instances.image_size
    boxes = instances.gt_boxes.tensor
    size = boxes.new_tensor([width, height, width, height])
    return {"class_labels": instances.gt_classes, "boxes": to_normalized_cxcywh(boxes, size)}


def make_ours() -> CoDETR:
    model = model_zoo.get_config(CONFIG).model
    model.neck.bias = True
    model.query_sources.matching.mixed_selection = False
    model.decoder.look_forward_twice = False
    return instantiate(model)


def make_theirs(ours: CoDETR) -> Theirs:
    """Their model of random weights, which are copied to ours."""
    queries = ours.query_sources["matching"].num_queries
    config = transformers.DeformableDetrConfig(
        num_labels=ours.num_classes,
        num_queries=queries,
        two_stage=True,
        two_stage_num_proposals=queries,
        with_box_refine=True,
        tie_word_embeddings=False,
        encoder_ffn_dim=ours.encoder.layers[0].ffn[0].out_features,
        decoder_ffn_dim=ours.decoder.layers[0].ffn[0].out_features,
        dropout=0.0,
        auxiliary_loss=True,
        class_cost=2,
    )
    model = transformers.DeformableDetrForObjectDetection(config)
    # tied, all layers would share their branches, which no published model does
    model.model.decoder.bbox_embed = model.bbox_embed
    model.model.decoder.class_embed = model.class_embed
    ours.load_state_dict(convert_transformers(model.state_dict(), ours))
    return Theirs(model, ours.preprocess)


@torch.no_grad()
def check_agreement(ours: CoDETR, theirs: Theirs, batch: list[dict]) -> None:
    """Raise an AssertionError unless both predict the same for a batch."""
    seen: dict[str, Tensor] = {}
    hook = ours.decoder.register_forward_hook(
        lambda _module, _inputs, out: seen.update(
            logits=out["matching"].logits[-1], boxes=out["matching"].boxes[-1]
        )
    )
    ours.eval()(batch)
    hook.remove()
    torch.testing.assert_close(seen, theirs.eval()(batch), atol=1e-3, rtol=1e-3)


def comparisons(device: torch.device) -> Iterator[Comparison]:
    """Inference and training step, with the peak of memory."""
    ours = make_ours()
    theirs = make_theirs(ours)
    ours, theirs = ours.to(device), theirs.to(device)
    batch = random_batch(1, 640, boxes=(7, 8), sizes=(32, 320))
    check_agreement(ours, theirs, batch)

    def detect(model: nn.Module) -> Callable[[], None]:
        @torch.no_grad()
        def run() -> None:
            model.eval()(batch)

        return run

    def train(model: nn.Module) -> Callable[[], None]:
        step = train_step(model, batch)

        def run() -> None:
            model.train()
            step()

        return run

    for what, side in (("inference", detect), ("training step", train)):
        yield Comparison(
            f"Deformable-DETR R50 (K = 0), 640x640: {what}",
            ("ours", side(ours)),
            (f"transformers {transformers.__version__}", side(theirs)),
            memory=True,
        )

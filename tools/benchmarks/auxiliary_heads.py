"""What `tools/benchmark.py auxiliary_heads` measures: the price of auxiliary heads in training.

Whole steps with K heads against those with none; then, on the digits, what two heads cost without
assignments, losses and queries: the step without heads, followed by their bare layers.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from benchmarks.inputs import DIGITS_SHAPES, random_groups, random_memory
from benchmarks.measuring import Comparison
from benchmarks.models import DIGITS_CONFIG, R50_CONFIG, build_model, train_step
from detectron2.structures import Boxes
from torch import Tensor, nn

from co_detr.modeling.aux_heads.joined_convs import JoinedConvs
from co_detr.modeling.detector import CoDETR
from co_detr.ops.grouped_nms import grouped_nms
from co_detr.profiling.inputs import random_batch

SIZE, IMAGES = 128, 8
# of the two heads' groups in a step on random boxes, beside 40 matching queries
CUSTOMIZED = 24, 9


def comparisons(device: torch.device) -> Iterator[Comparison]:
    """Digits with heads against without, the bare layers of heads, the decoder, then R50."""
    what = "digits, batch 8: iteration"
    batch = random_batch(IMAGES, SIZE, boxes=(1, 5), sizes=(24, 64))

    def step(*heads: str) -> Callable[[], None]:
        return train_step(build_model(DIGITS_CONFIG, device, heads), batch)

    none = step()
    yield Comparison(what, ("K = 0", none), ("K = 1", step("atss")))
    yield Comparison(what, ("K = 0", none), ("K = 2", step("rcnn", "atss")))

    model = build_model(DIGITS_CONFIG, device)
    layers = bare_layers(model, device)
    yield Comparison(what, ("K = 0", none), ("and the bare layers", lambda: (none(), layers())))
    yield Comparison(
        "digits decoder, N=8: forward+backward",
        ("40 queries", decoder_pass(model, (40,), device)),
        (" + ".join(map(str, (40, *CUSTOMIZED))), decoder_pass(model, (40, *CUSTOMIZED), device)),
    )

    batch = random_batch(1, 640, boxes=(7, 8), sizes=(32, 320))
    without, both = (
        train_step(build_model(R50_CONFIG, device, heads), batch)
        for heads in ((), ("rcnn", "atss"))
    )
    yield Comparison("R50, 640x640: iteration", ("K = 0", without), ("K = 2", both))


def bare_layers(model: CoDETR, device: torch.device) -> Callable[[], None]:
    """Convolutions, linear layers, pooling and NMS of both heads of a digits model, with their
    gradients, and the update of the heads' parameters.

    No assignment, no loss, no norm, no query. Pooling is that of the heads, which makes its weights
    itself. The 1x1 convolutions of the RPN take hardly any time, and are left out.
    """
    rcnn, atss = model.aux_heads["rcnn"], model.aux_heads["atss"]
    rpn, box_head = rcnn.rpn, rcnn.box_head
    strides = rpn.anchors.strides
    maps = [random_map(model.decoder.embed_dim, SIZE // stride, device) for stride in strides]
    towers = [atss.class_tower[0], atss.box_tower[0]]
    readers = [atss.box_predictor, atss.quality_predictor]

    cells = [(SIZE // stride) ** 2 * rpn.anchors.num_per_cell for stride in strides]
    counts = [min(rpn.pre_nms_topk[0], count) for count in cells]
    proposals = random_boxes(sum(counts), device)
    scores = torch.rand(IMAGES, sum(counts), device=device)
    rois = [Boxes(boxes[: rcnn.samples_per_image]) for boxes in proposals]

    learned = [*model.aux_heads.parameters(), *model.query_sources["customized"].parameters()]
    for parameter in learned:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.AdamW(learned, lr=1e-7)

    def convolve() -> None:
        enter, read = JoinedConvs(towers), JoinedConvs(readers)
        on_each_map(maps, lambda x: [*enter(x), rpn.conv(x)])
        on_each_map(maps, lambda x: [atss.class_predictor(x), *read(x)])

    def refine() -> None:
        inputs = [x.detach().requires_grad_() for x in maps[: box_head.num_levels]]
        hidden = box_head.pooler(inputs, rois).flatten(1)
        for fc in box_head.fcs:
            hidden = F.relu(fc(hidden))
        backward([box_head.cls_score(hidden), box_head.bbox_pred(hidden)])

    def calls() -> None:
        grouped_nms(proposals, scores, counts, rpn.nms_threshold)
        convolve()
        refine()
        nn.utils.clip_grad_norm_(learned, 0.1)
        optimizer.step()

    return calls


def decoder_pass(
    model: CoDETR, counts: tuple[int, ...], device: torch.device
) -> Callable[[], None]:
    """The decoder of a digits model on groups of so many queries, with gradients."""
    memory = random_memory(DIGITS_SHAPES, IMAGES, model.decoder.embed_dim, device)
    groups = random_groups(counts, IMAGES, model.decoder.embed_dim, device)

    def run() -> None:
        predicted = model.decoder(groups, memory).values()
        backward([output for group in predicted for output in (group.logits, group.boxes)])

    return run


def random_map(channels: int, side: int, device: torch.device) -> Tensor:
    return torch.randn(IMAGES, channels, side, side, device=device)


def random_boxes(count: int, device: torch.device) -> Tensor:
    """(N, count, 4) absolute XYXY within the images."""
    centres = SIZE * torch.rand(IMAGES, count, 2, device=device)
    sides = 8 + 40 * torch.rand(IMAGES, count, 2, device=device)
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=-1).clamp(0, SIZE)


def on_each_map(maps: list[Tensor], apply: Callable[[Tensor], list[Tensor]]) -> None:
    """Apply to every map, then compute the gradients of maps and weights."""
    inputs = [x.detach().requires_grad_() for x in maps]
    backward([output for x in inputs for output in apply(x)])


def backward(outputs: list[Tensor]) -> None:
    torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])

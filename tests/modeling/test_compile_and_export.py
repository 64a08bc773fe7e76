"""Encoder and decoder compile to one graph each, and inference exports, with equal results."""

import pytest
import torch
from detectron2.config import instantiate
from torch import nn

from co_detr import model_zoo
from co_detr.modeling.base_detector import padding_mask
from co_detr.modeling.queries.group import FixedTargets, HungarianTargets, QueryGroup

FAMILIES = {
    "deformable": "co_deformable_detr/co_deformable_detr_digits",
    "dino": "co_dino/co_dino_digits",
}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request) -> nn.Module:
    cfg = model_zoo.get_config(FAMILIES[request.param]).model
    cfg.encoder.num_layers, cfg.decoder.num_layers = 1, 2  # tracing takes its time
    torch.manual_seed(0)
    return instantiate(cfg)


class Graphs:
    """A compiler that runs what it is given, and notes the operators."""

    def __init__(self):
        self.count, self.operators = 0, set()

    def __call__(self, graph, inputs):
        self.count += 1
        self.operators |= {str(node.target) for node in graph.graph.nodes}
        return graph.forward


def results(module, inputs, sum_of):
    """What a module gives, and the gradients of its parameters."""
    module.zero_grad()
    output = module(*inputs)
    sum_of(output).backward()
    return output, {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def check_compiled(module, inputs, sum_of, values_of):
    expected, expected_grads = results(module, inputs, sum_of)
    graphs = Graphs()
    module.compile(backend=graphs, fullgraph=True)
    try:
        output, grads = results(module, inputs, sum_of)
    finally:
        module._compiled_call_impl = None
    assert graphs.count == 1
    assert any("co_detr.ms_deform_attn" in name for name in graphs.operators)
    torch.testing.assert_close(values_of(output), values_of(expected))
    torch.testing.assert_close(grads, expected_grads)


def images_and_padding():
    padding = torch.zeros(2, 64, 96, dtype=torch.bool)
    padding[1, :, 70:] = True
    return torch.randn(2, 3, 64, 96), padding


def test_encoder_and_decoder_compile_to_one_graph_each(model):
    model.train()
    images, padding = images_and_padding()
    with torch.no_grad():
        features = model.neck(model.backbone(images))
        memory = model.encoder(features, padding)
    check_compiled(
        model.encoder,
        (features, padding),
        sum_of=lambda memory: memory.tokens.square().sum(),
        values_of=lambda memory: [memory.tokens, memory.valid_cells],
    )
    check_compiled(
        model.decoder,
        (two_groups(model.decoder.embed_dim), memory),
        sum_of=lambda out: sum(o.logits.square().sum() + o.boxes.sum() for o in out.values()),
        values_of=lambda out: [x for o in out.values() for x in (o.logits, o.boxes)],
    )


def two_groups(C):
    """A matching group, and another with padding that is seen by it alone."""
    content, position = torch.randn(2, 2, 7, C)
    reference = torch.rand(2, 7, 4)
    classes = torch.zeros(2, 7, dtype=torch.int64)
    valid = torch.arange(7).expand(2, 7) < torch.tensor([[7], [4]])
    return [
        QueryGroup("matching", content, reference, HungarianTargets(), position=position),
        QueryGroup(
            "customized/atss",
            content.flip(1),
            reference.flip(1),
            FixedTargets(classes, reference),
            valid=valid,
            position=position,
            sees=("matching",),
        ),
    ]


class Tensors(nn.Module):
    """From a batch of images without padding to logits and boxes of the last layer."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images):
        model = self.model
        sizes = [tuple(images.shape[-2:])] * len(images)
        memory = model.encoder(model.neck(model.backbone(images)), padding_mask(images, sizes))
        proposals = model.proposals(memory)
        groups = model.query_sources["matching"](memory, proposals, None, {})
        predicted = model.decoder(groups[:1], memory)["matching"]
        return predicted.logits[-1], predicted.boxes[-1]


def test_the_tensor_part_exports(model):
    tensors = Tensors(model.eval())
    exported = torch.export.export(tensors, (torch.randn(2, 3, 64, 96),))
    assert not any("co_detr" in str(node.target) for node in exported.graph.nodes)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        logits, boxes = exported.module()(images)
        expected_logits, expected_boxes = tensors(images)
    # The graph samples like the reference, which adds up in another order than the CPU path.
    torch.testing.assert_close(logits, expected_logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(boxes, expected_boxes, atol=1e-6, rtol=1e-5)

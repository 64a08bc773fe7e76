"""Random inputs of deformable attention and of decoders, of the shapes of real use."""

from collections.abc import Callable

import co_detr  # isort: skip  # noqa: F401  (makes detectron2 importable)

import torch
from torch import Tensor

from co_detr.modeling.queries.group import FixedTargets, HungarianTargets, QueryGroup
from co_detr.modeling.transformer.encoder import EncoderMemory

Shapes = list[tuple[int, int]]
R50_SHAPES: Shapes = [(80, 80), (40, 40), (20, 20), (10, 10)]  # a 640x640 image
DIGITS_SHAPES: Shapes = [(16, 16), (8, 8), (4, 4)]  # a 128x128 image


def attention_inputs(
    shapes: Shapes, heads: int, channels: int, N: int, Q: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, locations a few cells around the reference points, and weights, for 4 points.

    Reference points are the cells (Q = None, as in the encoder), or random.
    """
    size = torch.tensor([(w, h) for h, w in shapes])
    tokens = int(size.prod(dim=1).sum())
    if Q is None:
        cells = [torch.cartesian_prod(torch.arange(h), torch.arange(w)).flip(1) for h, w in shapes]
        reference = torch.cat([(cell + 0.5) / wh for cell, wh in zip(cells, size)])
    else:
        reference = torch.rand(Q, 2)
    samples = (N, len(reference), heads, len(shapes), 4)
    offsets = 3 * torch.randn(*samples, 2) / size[:, None]
    weights = torch.rand(samples).flatten(-2).softmax(-1).view(samples)
    values = torch.randn(N, tokens, heads, channels)
    return values, reference[None, :, None, None, None] + offsets, weights


def forward(operator, shapes, value, locations, weights) -> Callable[[], Tensor]:
    return torch.no_grad()(lambda: operator(value, shapes, locations, weights))


def forward_backward(operator, shapes, *inputs) -> Callable[[], object]:
    value, locations, weights = (tensor.clone().requires_grad_() for tensor in inputs)
    grad = value.new_empty(*locations.shape[:2], value.shape[2] * value.shape[3]).normal_()

    def run():
        output = operator(value, shapes, locations, weights)
        return torch.autograd.grad(output, (value, locations, weights), grad)

    return run


def random_memory(shapes: Shapes, N: int, embed_dim: int, device: torch.device) -> EncoderMemory:
    tokens = sum(h * w for h, w in shapes)
    return EncoderMemory(
        tokens=torch.randn(N, tokens, embed_dim, device=device, requires_grad=True),
        padding=torch.zeros(N, tokens, dtype=torch.bool, device=device),
        spatial_shapes=shapes,
        valid_cells=torch.tensor([(w, h) for h, w in shapes], device=device).expand(N, -1, -1),
    )


def random_groups(
    counts: tuple[int, ...], N: int, embed_dim: int, device: torch.device
) -> list[QueryGroup]:
    """A matching group and customized ones, a tenth of whose queries are padding."""
    groups = []
    for index, Q in enumerate(counts):
        content, position = torch.randn(2, N, Q, embed_dim, device=device, requires_grad=True)
        reference = torch.rand(N, Q, 4, device=device)
        if index == 0:
            groups.append(
                QueryGroup("matching", content, reference, HungarianTargets(), position=position)
            )
            continue
        classes = torch.zeros(N, Q, dtype=torch.int64, device=device)
        valid = torch.arange(Q, device=device).expand(N, Q) < 0.9 * Q
        groups.append(
            QueryGroup(
                name=f"customized/{index}",
                content=content,
                reference=reference,
                targets=FixedTargets(classes, reference),
                valid=valid,
                position=position,
            )
        )
    return groups

"""The class and box branches that read predictions off queries or tokens, and what they are."""

import math

from torch import nn


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of these widths, from the input to the output, with ReLUs between them."""
    layers: list[nn.Module] = []
    for width_in, width_out in zip(widths, widths[1:]):
        layers += [nn.Linear(width_in, width_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def with_xavier(module: nn.Module) -> nn.Module:
    """The module with its linear layers initialized as in DETR's transformers, biases at zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return module


def class_branch(embed_dim: int, num_classes: int, prior: float = 0.01) -> nn.Linear:
    """Class logits; the bias starts every class at probability `prior` (focal loss paper, 4.1)."""
    branch = nn.Linear(embed_dim, num_classes)
    nn.init.constant_(branch.bias, -math.log((1 - prior) / prior))
    return branch


def box_branch(embed_dim: int, initial_size: float = 0.0) -> nn.Sequential:
    """Three linear layers to a box correction in logit space, (x, y, w, h), zero at the start.

    `initial_size` is the starting value of w and h: 0 keeps the reference box, -2 makes boxes of
    12 % where the reference is only a point.
    """
    branch = mlp(embed_dim, embed_dim, embed_dim, 4)
    last = branch[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    nn.init.constant_(last.bias[2:], initial_size)
    return branch

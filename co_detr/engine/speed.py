"""Options of the section `train` that make steps faster or smaller, and compute the same."""

import logging
import types
from collections.abc import Iterator

import torch
from detectron2.layers import CNNBlockBase
from omegaconf import DictConfig
from torch import Tensor, nn

from co_detr.modeling.base_detector import Detector
from co_detr.modeling.recompute import call

logger = logging.getLogger(__name__)


def prepare(cfg: DictConfig, model: nn.Module) -> nn.Module:
    """Apply `train.channels_last`, `recompute_blocks` and `compile` to a model in place.

    Names, values and order of its parameters stay, and so do checkpoints.

    Returns:
        The model.

    Raises:
        ValueError: an option is on, and the model has nothing that it is for.
    """
    if cfg.train.get("channels_last"):
        use_channels_last(model)
    if count := cfg.train.get("recompute_blocks"):
        recompute_blocks(model, count)
    compile_options = cfg.train.get("compile")
    if compile_options and compile_options.enabled:
        compile_layers(model, compile_options.get("backend", "inductor"))
    return model


def use_channels_last(model: nn.Module) -> None:
    """Store the convolutions of a detector's backbone and neck with the channels last.

    A convolution's output is laid out like its weights, so the maps between them follow.
    """
    parts = [
        part for detector in detectors_of(model) for part in (detector.backbone, detector.neck)
    ]
    convolutions = [m for part in parts for m in part.modules() if isinstance(m, nn.Conv2d)]
    if not convolutions:
        raise ValueError(
            "train.channels_last: backbone and neck have no convolutions; leave it off"
        )
    for convolution in convolutions:
        convolution.to(memory_format=torch.channels_last)


def recompute_blocks(model: nn.Module, count: int) -> None:
    """Let the first trained blocks of a detector's ResNet recompute in the backward pass.

    Batch norms that are trained see each batch twice then, in their running statistics.

    Args:
        model: other backbones have an option of their own, `activation_checkpointing`.
        count: of the blocks; frozen ones keep nothing anyway, and do not count.
    """
    blocks = [
        block
        for detector in detectors_of(model)
        for block in detector.backbone.modules()
        if isinstance(block, CNNBlockBase) and any(p.requires_grad for p in block.parameters())
    ]
    if not 0 <= count <= len(blocks):
        raise ValueError(
            f"train.recompute_blocks={count}: the backbone has {len(blocks)} trained residual "
            "blocks. Swin and EVA take model.backbone.activation_checkpointing"
        )
    for block in blocks[:count]:
        block.forward = types.MethodType(_recomputing, block)


def _recomputing(block: nn.Module, x: Tensor) -> Tensor:
    """The forward pass of a block in place of its class's."""

    def own(x: Tensor) -> Tensor:
        return type(block).forward(block, x)

    return call(own, x, recompute=block.training)


def compile_layers(model: nn.Module, backend: str = "inductor") -> None:
    """Compile the layers of a detector's encoder and decoder, each when it is first called.

    Sizes are symbols from the start, so that images of other sizes, and batches with another number
    of queries, run what has been compiled.
    """
    layers = [layer for detector in detectors_of(model) for layer in layers_of(detector)]
    if not layers:
        raise ValueError("train.compile: the model has no encoder or decoder layers; leave it off")
    for layer in layers:
        layer.compile(backend=backend, dynamic=True)
    logger.info(f"{len(layers)} layers are compiled by {backend!r} when they are first called")


def set_tf32(wanted: bool | None) -> None:
    """Allow or forbid TensorFloat-32 for products and convolutions of float32 on CUDA.

    TensorFloat-32 has the range of float32, and 10 bits of mantissa. None leaves it to PyTorch,
    which takes it for convolutions alone.
    """
    if wanted is not None:
        torch.backends.cuda.matmul.allow_tf32 = wanted
        torch.backends.cudnn.allow_tf32 = wanted


def detectors_of(model: nn.Module) -> Iterator[Detector]:
    """The detectors in a model."""
    return (module for module in model.modules() if isinstance(module, Detector))


def layers_of(detector: Detector) -> Iterator[nn.Module]:
    """The layers of a detector's encoder and decoder."""
    for part in (detector.encoder, getattr(detector, "decoder", None)):
        yield from getattr(part, "layers", ())

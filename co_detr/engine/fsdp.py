"""Fully sharded data parallelism: every process keeps its share of weights, gradients, optimizer.

PyTorch's FSDP2 (`fully_shard`), which is stage 3 of ZeRO (Rajbhandari et al. 2020). A unit (a block
of the backbone, a layer, a head) gathers its weights when it runs, and lets go of them afterwards;
its gradients are averaged over the processes, each of which keeps its share.

Between the steps the parameters of a sharded model are `DTensor`s: shapes and names are those of
the whole model, values are there in part. Nothing but this module has to know: states are
`gathered` before they are written, `distributed` when they are loaded, and evaluation runs on an
`unsharded` model.
"""

import copy
import gc
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from detectron2.layers import CNNBlockBase
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from .speed import detectors_of, layers_of

logger = logging.getLogger(__name__)

_RESHARDS = "reshards_after_forward"  # attribute of a unit: what it does in training


def is_on(cfg: DictConfig) -> bool:
    """Whether `train.fsdp` is on."""
    fsdp = cfg.train.get("fsdp")
    return bool(fsdp and fsdp.enabled)


def check(cfg: DictConfig) -> None:
    """Refuse what does not go together with `train.fsdp`, if that is on.

    Raises:
        ValueError: there is one process, PyTorch is too old, or another option contradicts it.
    """
    if not is_on(cfg):
        return
    train, off = cfg.train, "or set train.fsdp.enabled=False"
    if comm.get_world_size() == 1:
        raise ValueError(
            "train.fsdp shards a model over processes, but there is one: start more with "
            f"--num-gpus or torchrun, {off}"
        )
    if not hasattr(FSDPModule, "set_reshard_after_forward"):
        raise ValueError(
            f"train.fsdp needs PyTorch 2.8, this is {torch.__version__}: update it, {off}"
        )
    if train.get("channels_last"):
        raise ValueError(
            "train.fsdp shards weights that are contiguous, which train.channels_last changes: "
            f"set train.channels_last=False, {off}"
        )
    amp = train.get("amp")
    if amp and amp.enabled and amp.get("dtype", "float16") == "float16":
        raise ValueError(
            "train.fsdp does not scale losses, which float16 needs: set "
            f"train.amp.dtype=bfloat16, {off}"
        )
    for name in ("find_unused_parameters", "fp16_compression"):
        if (train.get("ddp") or {}).get(name):
            raise ValueError(f"train.fsdp has no train.ddp.{name}: set that to False, {off}")


def shard(cfg: DictConfig, model: nn.Module) -> nn.Module:
    """Shard the parameters of a model over all processes, in place.

    Units are the blocks of the backbone, the layers of encoder and decoder, and the auxiliary
    heads; the model as a whole is one for everything else. Every process must use all units in
    the same order, and give all trained parameters a gradient, whatever its batch holds. Buffers
    stay whole, and so do parameters of a single number without dimension, which FSDP cannot shard:
    see `average_gradients`.

    Call it before the optimizer is built, and when all copies of the model are made.

    Args:
        cfg: of `train.fsdp` the option `reshard_after_forward` is read: whether blocks and layers
            let go of the weights of the others after the forward pass, and gather them again for
            the backward pass.
        model: on the device of this process; its values become those of the first one's.

    Returns:
        The model, as an `FSDPModule`.
    """
    device_type = next(model.parameters()).device.type
    mesh = init_device_mesh(device_type, (comm.get_world_size(),))
    reshard = bool(cfg.train.fsdp.get("reshard_after_forward", True))
    detectors = list(detectors_of(model))
    layers = [
        *(block for detector in detectors for block in blocks_of(detector.backbone)),
        *(layer for detector in detectors for layer in layers_of(detector)),
    ]
    # What a head hands on (`AuxOutput`) has tensors where FSDP does not look for them, to gather
    # the head's weights in the backward pass: so they stay until then.
    heads = [head for detector in detectors for head in detector.aux_heads.values()]
    units = [*((layer, reshard) for layer in layers), *((head, False) for head in heads)]
    for tensor in (*model.parameters(), *model.buffers()):
        dist.broadcast(tensor.detach(), src=0)
    single = {p for p in model.parameters() if p.dim() == 0}
    for unit, after_forward in (*units, (model, False)):
        fully_shard(unit, mesh=mesh, reshard_after_forward=after_forward, ignored_params=single)
        setattr(unit, _RESHARDS, after_forward)
    # Losses are views of one tensor; nothing works on them in place, and this unit needs no hook.
    root = rf"FSDP2-wrapped module \({type(model).__name__}\) returned a view"
    warnings.filterwarnings("ignore", root, UserWarning)
    model.register_load_state_dict_pre_hook(_distribute_loaded)
    count = sum(p.numel() for p in model.parameters())
    share = sum(local(p).numel() for p in model.parameters())
    logger.info(
        f"{count:,} parameters are sharded over {mesh.size()} processes, {share:,} are on this "
        f"one; {len(units)} units are gathered as they run"
    )
    return model


def blocks_of(part: nn.Module) -> Iterator[nn.Module]:
    """Residual blocks of detectron2's ResNet, and what a ViT, Swin or a model of timm calls so."""
    for name, child in part.named_children():
        if isinstance(child, CNNBlockBase):
            yield child
        elif name == "blocks":
            yield from (block for block in child.children() if [*block.parameters()])
        else:
            yield from blocks_of(child)


def _distribute_loaded(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before a whole state is loaded: replace its tensors by this process's shares of them."""
    for name, parameter in module.named_parameters():
        if (value := state_dict.get(prefix + name)) is not None:
            state_dict[prefix + name] = distributed(parameter, value)


def average_gradients(model: nn.Module) -> None:
    """Average the gradients of what is not sharded in a sharded model over the processes."""
    if not isinstance(model, FSDPModule):
        return
    gradients = [
        p.grad for p in model.parameters() if p.grad is not None and not isinstance(p, DTensor)
    ]
    if gradients:
        stacked = torch.stack(gradients)
        dist.all_reduce(stacked)
        torch._foreach_copy_(gradients, list(stacked / comm.get_world_size()))


def is_sharded(model: nn.Module) -> bool:
    """Whether the parameters of a model, or of one within, are sharded."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Inside, every process has all weights of a model, for passes without gradients.

    Processes need not take part in each other's passes then: they may evaluate different numbers
    of images, and end early. Any model may be given; all processes must enter and leave.
    """
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
            unit.set_reshard_after_forward(getattr(unit, _RESHARDS), recurse=False)


def gathered(state: Any) -> Any:
    """A state with whole tensors for sharded ones, on the CPU; on the main process alone.

    A collective: all processes must have the same tensors in the same order.

    Args:
        state: of a model or an optimizer; mappings may be nested. It is left as it is.

    Returns:
        The same kind of mappings; other processes have None in the place of a sharded tensor.
    """
    if isinstance(state, DTensor):
        whole = state.full_tensor()
        return whole.cpu() if comm.is_main_process() else None
    if isinstance(state, Mapping):
        result: Any = copy.copy(state)  # with the attributes that the state of a module has
        for key, value in state.items():
            result[key] = gathered(value)
        return result
    return state


def distributed(parameter: Tensor, value: Any) -> Any:
    """A whole tensor that belongs to a parameter, sharded like that; anything else as it is."""
    if (
        not isinstance(parameter, DTensor)
        or isinstance(value, DTensor)
        or not isinstance(value, Tensor)
        or value.shape != parameter.shape
    ):
        return value
    shares = distribute_tensor(
        value.detach(), parameter.device_mesh, parameter.placements, src_data_rank=None
    )
    return shares.clone()  # a share alone, instead of a view of the whole


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its values, on every process; a collective if it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This process's share of a sharded tensor, in the same memory; any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def release_groups() -> None:
    """Let go of process groups that outlive their models: PyTorch keeps the mesh of every `DTensor`
    in caches without end, and a mesh its groups.
    """
    for thing in gc.get_objects():
        if type(thing) is DeviceMesh:
            getattr(thing, "_pg_registry", {}).clear()

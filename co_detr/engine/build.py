"""The parts of a training, from its config."""

import contextlib
import inspect
import logging
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from detectron2.config import instantiate
from detectron2.engine import create_ddp_model
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from co_detr.checkpoint.pretrained import without_pretrained

from . import fsdp
from .speed import prepare

logger = logging.getLogger(__name__)

_AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def build_model(cfg: DictConfig, *, weights_follow: bool) -> nn.Module:
    """The model of a config, on `train.device`, as `train.compile` and `train.channels_last` say.

    Args:
        cfg: the whole config.
        weights_follow: whether a checkpoint is loaded next, so that no ImageNet weights are needed.
    """
    with one_process_first():
        model = instantiate(without_pretrained(cfg.model) if weights_follow else cfg.model)
    return prepare(cfg, model.to(cfg.train.device))


@contextlib.contextmanager
def one_process_first() -> Iterator[None]:
    """Inside, one process of each machine goes first: what it downloads, the others find there."""
    first = comm.get_local_rank() == 0
    if not first:
        comm.synchronize()
    try:
        yield
    finally:
        if first:
            comm.synchronize()


def amp_dtype(cfg: DictConfig) -> torch.dtype | None:
    """The reduced precision that `train.amp` asks for, or None.

    Raises:
        ValueError: no such precision, or the device is not CUDA.
    """
    amp = cfg.train.get("amp")
    if not amp or not amp.enabled:
        return None
    name = amp.get("dtype", "float16")
    if name not in _AMP_DTYPES:
        raise ValueError(f"train.amp.dtype={name!r} is none of {list(_AMP_DTYPES)}")
    if torch.device(cfg.train.device).type != "cuda":
        raise ValueError(
            f"train.amp.enabled needs a CUDA device, but train.device={cfg.train.device!r}: set "
            "train.amp.enabled=False or train.device=cuda"
        )
    return _AMP_DTYPES[name]


def build_optimizer(cfg: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a config, for the parameters of a model that are trained.

    With `train.reference_batch_size` the learning rates are those of a batch of that size, and are
    scaled in proportion to `dataloader.train.total_batch_size` (Goyal et al. 2017, section 2.1).
    """
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    # lists of a config (betas) arrive as its own kind of list, which no checkpoint should hold
    for settings in (optimizer.defaults, *optimizer.param_groups):
        for name, value in settings.items():
            if OmegaConf.is_config(value):
                settings[name] = tuple(cast(list, OmegaConf.to_container(value)))
    if reference := cfg.train.get("reference_batch_size"):
        _scale_rates(optimizer, total_batch_size(cfg), reference)
    return optimizer


def _scale_rates(
    optimizer: torch.optim.Optimizer, batch_size: int | None, reference: float
) -> None:
    if reference < 0 or batch_size is None:
        raise ValueError(
            f"train.reference_batch_size={reference} must be positive, and needs "
            f"dataloader.train.total_batch_size, which is {batch_size}. None scales nothing"
        )
    before = optimizer.defaults["lr"]
    for settings in (optimizer.defaults, *optimizer.param_groups):
        settings["lr"] *= batch_size / reference
    logger.info(
        f"Learning rate {before:g} x {batch_size} / {reference} images = "
        f"{optimizer.defaults['lr']:g} (train.reference_batch_size={reference})"
    )


def total_batch_size(cfg: DictConfig) -> int | None:
    """Images per update over all processes, `dataloader.train.total_batch_size`; None where the
    loader has no such setting.

    Raises:
        ValueError: fewer than one per process and part.
    """
    size = cfg.dataloader.train.get("total_batch_size")
    accumulate, processes = cfg.train.get("accumulate", 1), comm.get_world_size()
    if accumulate < 1:
        raise ValueError(f"train.accumulate={accumulate} must be at least 1, for no accumulation")
    if size is not None and (size < 1 or size // processes < accumulate):
        raise ValueError(
            f"dataloader.train.total_batch_size={size} images are too few for {processes} "
            f"process(es) and train.accumulate={accumulate}: make it a multiple of both numbers"
        )
    return size


def build_ema(cfg: DictConfig, model: nn.Module) -> AveragedModel | None:
    """A copy of the model for exponentially averaged weights, or None where `train.ema` is off.

    The first update copies the weights; each later one moves them by 1 - decay. With `train.fsdp`
    the copy is sharded like the model will be, which must not be done yet.
    """
    ema = cfg.train.get("ema")
    if not ema or not ema.enabled:
        return None
    average = get_ema_multi_avg_fn(ema.decay)

    def average_shares(averaged: Sequence[Tensor], new: Sequence[Tensor], count: Any) -> None:
        average([fsdp.local(t) for t in averaged], [fsdp.local(t) for t in new], count)

    averaged = AveragedModel(model, multi_avg_fn=average_shares, use_buffers=True)
    prepare(cfg, averaged.module)  # what is compiled is not copied along
    if fsdp.is_on(cfg):
        fsdp.shard(cfg, averaged.module)
    return averaged


def wrap_for_processes(cfg: DictConfig, model: nn.Module) -> nn.Module:
    """The model for training on several ranks, by `train.fsdp` or `train.ddp`."""
    return fsdp.shard(cfg, model) if fsdp.is_on(cfg) else wrap_for_ddp(cfg, model)


def wrap_for_ddp(cfg: DictConfig, model: nn.Module) -> nn.Module:
    """The model for training on several ranks, by `train.ddp`; in a single process as it is."""
    options = dict(cfg.train.get("ddp") or {})
    options.setdefault("find_unused_parameters", False)
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters:
        # what newer versions of PyTorch call it
        options["forward_sync_buffers"] = options.pop("broadcast_buffers", True)
    # the current device, as a scheduler may show each process a single one, whatever its rank
    on_cuda = torch.device(cfg.train.device).type == "cuda"
    options["device_ids"] = [torch.cuda.current_device()] if on_cuda else None
    return create_ddp_model(model, **options)


def clip_grad_params(cfg: DictConfig) -> dict[str, Any] | None:
    """The arguments of `clip_grad_norm_`, or None where `train.clip_grad` is off."""
    clip_grad = cfg.train.get("clip_grad")
    if not clip_grad or not clip_grad.enabled:
        return None
    return cast(dict[str, Any], OmegaConf.to_container(clip_grad.params))


def build_train_loader(cfg: DictConfig, start_iter: int) -> Any:
    """The loader of `dataloader.train`, from the batch of an iteration on."""
    loader = cfg.dataloader.train
    if "start_iter" in loader:
        loader.start_iter = start_iter
    elif start_iter > 0:
        logger.warning(
            "dataloader.train has no `start_iter`: the order of the data starts anew. Use "
            "co_detr.data.build_train_loader to continue where the run was interrupted"
        )
    return instantiate(loader)

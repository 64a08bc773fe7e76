"""From a config to a trained and evaluated model; the convention is detectron2's lazy one.

model            the model, which returns a flat dict of weighted losses in training
optimizer        an optimizer; `params.model` is filled in here
lr_multiplier    fvcore's ParamScheduler, multiplies the learning rates
dataloader       train, test, evaluator
train            see configs/common/train.py
"""

import argparse
import logging
import os
import secrets
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import (
    HookBase,
    create_ddp_model,
    default_setup,
    hooks,
)
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.events import JSONWriter, TensorboardXWriter
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import co_detr
from co_detr.checkpoint.class_names import classes_of_config
from co_detr.checkpoint.loading import load_for_inference
from co_detr.checkpoint.reading import check_readable, read_checkpoint
from co_detr.data.dataset import check_files, check_registered

from .build import without_pretrained
from .checkpoint import WholeFileCheckpointer
from .files import whole_file
from .hooks import BestCheckpointer, PeriodicCheckpointer, forget_metrics_from
from .overrides import new_keys
from .printer import GroupedMetricPrinter
from .trainer import Trainer

logger = logging.getLogger(__name__)

_AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Train, or evaluate with `--eval-only`; the body of every process of a job.

    Args:
        args: parsed by detectron2's `default_argument_parser`.

    Returns:
        The results of the (last) evaluation, {} without an evaluator and on ranks but the first.
    """
    cfg = setup(args)
    if not args.eval_only:
        return do_train(args, cfg)
    weights_follow = bool(cfg.train.init_checkpoint)
    if not weights_follow:
        logger.warning("Evaluating untrained weights: train.init_checkpoint is not set")
    weights = read_checkpoint(cfg.train.init_checkpoint) if weights_follow else None
    model = instantiate(without_pretrained(cfg.model) if weights_follow else cfg.model)
    model.to(cfg.train.device)
    if weights is not None:
        load_for_inference(model, weights, args.config_file, classes_of_config(cfg, "test"))
    return do_test(cfg, model)


def setup(args: argparse.Namespace) -> DictConfig:
    """Load the config, start logging, seed, and check what would otherwise fail late.

    Args:
        args: parsed by detectron2's `default_argument_parser`.

    Returns:
        The config with the overrides of the command line, and a seed of at least 0.

    Raises:
        FileNotFoundError: a dataset or a checkpoint is not where it should be; says where that is.
        DamagedCheckpointError: the weights cannot be read.
        ValueError: the config is incomplete or contradicts itself or the machine.
    """
    cfg = LazyConfig.load(args.config_file)
    warnings = new_keys(cfg, args.opts)
    cfg = LazyConfig.apply_overrides(cfg, args.opts)
    needed = {"model", "dataloader", "train"}
    if not args.eval_only:
        needed |= {"optimizer", "lr_multiplier"}
    if missing := sorted(needed - set(cfg)):
        raise ValueError(f"{args.config_file} has no {', '.join(missing)}: define or import it")
    output_dir, rank = cfg.train.output_dir, comm.get_rank()
    setup_logger(output_dir, distributed_rank=rank, name="co_detr")
    logger.info(f"co_detr {co_detr.__version__}, detectron2: {co_detr.detectron2_origin()}")
    for warning in warnings:
        logger.warning(warning)
    cfg.train.seed = _seed_of_run(cfg.train.get("seed"), output_dir, args.resume)
    default_setup(cfg, args)
    amp_dtype(cfg)
    if cfg.train.init_checkpoint and not args.resume:
        check_readable(cfg.train.init_checkpoint)
    for split in ("test",) if args.eval_only else ("train", "test"):
        names = OmegaConf.select(cfg, f"dataloader.{split}.dataset.names", default=())
        for name in [names] if isinstance(names, str) else names:
            check_registered(name)
            check_files(name)
    return cfg


def _seed_of_run(seed: int | None, output_dir: str, resume: bool) -> int:
    """The configured seed; where there is none, a random one, kept for when the run is resumed."""
    if seed is not None and seed >= 0:
        return seed
    if comm.is_main_process():
        path = os.path.join(output_dir, "seed.txt")
        if resume and os.path.isfile(path):
            with open(path) as file:
                seed = int(file.read())
        else:
            seed = secrets.randbits(31)
            with whole_file(path) as file:
                file.write(str(seed))
        logger.info(f"train.seed is not set: the random seed of this run is {seed}")
    return comm.all_gather(seed)[0]


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


def do_test(cfg: DictConfig, model: nn.Module) -> dict[str, Any]:
    """Evaluate a model on `dataloader.test` with `dataloader.evaluator`.

    Returns:
        {task: {metric: value}} on the main process; {} on others or without an evaluator.
    """
    if cfg.dataloader.get("evaluator") is None:
        logger.info("dataloader.evaluator is not set: nothing is evaluated")
        return {}
    results = inference_on_dataset(
        model, instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    )
    if comm.is_main_process():
        print_csv_format(results)
    return results


def do_train(args: argparse.Namespace, cfg: DictConfig) -> dict[str, Any]:
    """Train a model, from the start or, with `--resume`, from the last checkpoint.

    Writes to train.output_dir: log.txt, metrics.json, TensorBoard events, model_<iteration>.pth,
    model_final.pth, model_best.pth. With `train.ema` the averaged weights are evaluated, and are
    what model_best.pth and model_final_ema.pth hold.

    A resumed run continues exactly where the last checkpoint was written: weights, optimizer,
    schedule, random numbers and order of the data.

    Args:
        args: only `resume` is read.
        cfg: as `setup` returns it.

    Returns:
        The results of the last evaluation, as `do_test` returns them.
    """
    weights_follow = args.resume and os.path.isfile(
        os.path.join(cfg.train.output_dir, "last_checkpoint")
    )
    model = instantiate(without_pretrained(cfg.model) if weights_follow else cfg.model)
    model.to(cfg.train.device)
    model.class_names = classes_of_config(cfg)  # checkpoints carry them, and rows go by them
    logger.info(f"Model:\n{model}")
    optimizer = build_optimizer(cfg, model)
    ema = build_ema(cfg, model)
    trainer = Trainer(
        wrap_for_ddp(cfg, model),
        None,  # the loader follows when it is known where to start
        optimizer,
        seed=max(cfg.train.get("seed") or 0, 0),
        clip_grad=clip_grad_params(cfg),
        amp_dtype=amp_dtype(cfg),
    )
    checkpointer = WholeFileCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    evaluated = model
    if ema is not None:
        checkpointer.add_checkpointable("ema", ema)
        trainer.register_hooks(
            [hooks.CallbackHook(after_step=lambda _: ema.update_parameters(model))]
        )
        evaluated = ema.module
    results: dict[str, Any] = {}

    def evaluate() -> dict[str, Any]:
        results.clear()
        results.update(do_test(cfg, evaluated))
        return results

    trainer.register_hooks(build_hooks(cfg, evaluated, checkpointer, evaluate))
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=args.resume)
    start_iter = 0
    if args.resume and checkpointer.has_checkpoint():
        start_iter = trainer.iter + 1  # the saved iteration is a finished one
        if comm.is_main_process():
            forget_metrics_from(os.path.join(cfg.train.output_dir, "metrics.json"), start_iter)
    if comm.is_main_process():
        # last, so that they see what other hooks log; and only now, as they open their files
        writers = [
            GroupedMetricPrinter(cfg.train.max_iter),
            JSONWriter(os.path.join(cfg.train.output_dir, "metrics.json")),
            TensorboardXWriter(cfg.train.output_dir),
        ]
        trainer.register_hooks([hooks.PeriodicWriter(writers, period=cfg.train.log_period)])
    trainer.data_loader = build_train_loader(cfg, start_iter)
    trainer.train(start_iter, cfg.train.max_iter)
    if ema is not None:
        final = WholeFileCheckpointer(ema.module, cfg.train.output_dir, resumable=False)
        final.save("model_final_ema")
    return results


def build_optimizer(cfg: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a config, for a model."""
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    # lists of a config (betas) arrive as its own kind of list, which no checkpoint should hold
    for settings in (optimizer.defaults, *optimizer.param_groups):
        for name, value in settings.items():
            if OmegaConf.is_config(value):
                settings[name] = tuple(OmegaConf.to_container(value))
    return optimizer


def build_ema(cfg: DictConfig, model: nn.Module) -> AveragedModel | None:
    """A copy of the model for exponentially averaged weights, or None where `train.ema` is off.

    The first update copies the weights; each later one moves them by 1 - decay.
    """
    ema = cfg.train.get("ema")
    if not ema or not ema.enabled:
        return None
    average = get_ema_multi_avg_fn(ema.decay)
    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


def wrap_for_ddp(cfg: DictConfig, model: nn.Module) -> nn.Module:
    """The model for training on several ranks, by `train.ddp`; in a single process as it is."""
    options = dict(cfg.train.get("ddp") or {})
    options.setdefault("find_unused_parameters", False)
    if torch.device(cfg.train.device).type == "cpu":
        options["device_ids"] = None
    return create_ddp_model(model, **options)


def clip_grad_params(cfg: DictConfig) -> dict[str, Any] | None:
    """The arguments of `clip_grad_norm_`, or None where `train.clip_grad` is off."""
    clip_grad = cfg.train.get("clip_grad")
    if not clip_grad or not clip_grad.enabled:
        return None
    return OmegaConf.to_container(clip_grad.params)


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


def build_hooks(
    cfg: DictConfig,
    model: nn.Module,
    checkpointer: WholeFileCheckpointer,
    evaluate: Callable[[], dict[str, Any]],
) -> list[HookBase]:
    """The hooks of a training but the writers, in the order of their calls after a step.

    Args:
        cfg: the whole config.
        model: what is evaluated and kept as the best one.
        checkpointer: saves the state to resume from.
        evaluate: returns results; called on every rank.
    """
    train = cfg.train
    built = [hooks.IterationTimer(), hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier))]
    # saved before evaluation: whatever happens there, the training so far is safe
    if comm.is_main_process():
        built.append(PeriodicCheckpointer(checkpointer, **train.checkpointer))
    built.append(hooks.EvalHook(train.eval_period, evaluate))
    if comm.is_main_process():
        best = train.get("best_checkpoint")
        if best and best.enabled and cfg.dataloader.get("evaluator") is not None:
            built.append(
                BestCheckpointer(train.eval_period, model, train.output_dir, best.metric, best.mode)
            )
    return built

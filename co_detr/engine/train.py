"""From a config to a trained and evaluated model; the convention is detectron2's lazy one.

model            the model, which returns a flat dict of weighted losses in training
optimizer        an optimizer; `params.model` is filled in here
lr_multiplier    fvcore's ParamScheduler, multiplies the learning rates
dataloader       train, test, evaluator
train            see configs/common/train.py
"""

import argparse
import contextlib
import json
import logging
import os
import secrets
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.engine import HookBase, default_setup, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import JSONWriter, TensorboardXWriter
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, open_dict
from torch import nn
from torch.optim.swa_utils import AveragedModel

import co_detr
from co_detr.arguments import load_config
from co_detr.checkpoint.class_names import categories_of_config, classes_of_config
from co_detr.checkpoint.loading import load_for_inference
from co_detr.checkpoint.model_card import describe
from co_detr.checkpoint.reading import check_readable, read_checkpoint
from co_detr.data.loader import report_left_out
from co_detr.data.preflight import check_datasets, settle_validation

from . import build, fsdp, resuming, run_folder, signals
from .build import amp_dtype
from .checkpoint import WholeFileCheckpointer
from .early_stop import EarlyStop, has_stopped, patience_of
from .files import naming_full_disk, whole_file
from .freezing import KeepFrozen, freeze
from .hooks import (
    AverageWeights,
    BestCheckpointer,
    PeakMemory,
    PeriodicCheckpointer,
    or_never,
)
from .interruption import StopOnSignal, UnlessAsked, UntilAsked
from .loggers import build_loggers, names_of
from .metrics_file import forget_rows_from, is_evaluated
from .missed_evaluation import MissedEvaluation
from .prefetch import prefetched
from .printer import FileWriter, GroupedMetricPrinter
from .schedule import build_schedule
from .settings import check_settings
from .speed import set_tf32
from .trainer import Trainer

logger = logging.getLogger(__name__)


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Train, or evaluate with `--eval-only`; the body of every process of a job.

    Args:
        args: parsed by detectron2's `default_argument_parser`.

    Returns:
        The results of the (last) evaluation, {} without an evaluator and on ranks but the first.
    """
    with signals.handled(), contextlib.ExitStack() as held:
        cfg = setup(args, held)
        with naming_full_disk(cfg.train.output_dir):
            return evaluate_only(args, cfg) if args.eval_only else do_train(args, cfg)


def evaluate_only(args: argparse.Namespace, cfg: DictConfig) -> dict[str, Any]:
    """Evaluate `train.init_checkpoint` or, with `--resume`, the last checkpoint of the run.

    Writes the results to evaluation.json in train.output_dir, with names as in metrics.json, and
    the detections beside it, see `detections_kept`.

    Returns:
        Results as `do_test` returns them.

    Raises:
        FileNotFoundError: there are no weights to evaluate though `--resume` asks for them.
        ValueError: there is nothing to evaluate on, or by.
    """
    if cfg.dataloader.get("evaluator") is None:
        raise ValueError(
            "nothing to evaluate: there is no dataset in dataloader.test, or no "
            "dataloader.evaluator. Set dataloader.test.dataset.names, or use a config that has both"
        )
    path = cfg.train.init_checkpoint
    averaged = False
    detections_kept(cfg)
    if args.resume and has_checkpoint(cfg.train.output_dir):
        path = WholeFileCheckpointer(nn.Identity(), cfg.train.output_dir).get_checkpoint_file()
        averaged = bool(cfg.train.get("ema")) and cfg.train.ema.enabled
    elif args.resume and not path:
        raise FileNotFoundError(
            "--eval-only --resume: there is no checkpoint in "
            f"train.output_dir={cfg.train.output_dir}. Name the folder of a run, or weights by "
            "train.init_checkpoint=..."
        )
    if not path:
        logger.warning(
            "Evaluating untrained weights: train.init_checkpoint is not set, and without --resume "
            "checkpoints in train.output_dir are not looked at"
        )
        return do_test(cfg, build.build_model(cfg, weights_follow=False))
    weights = read_checkpoint(path)
    if averaged and "ema" in weights.rest:  # a checkpoint from before they were wanted has none
        weights = read_checkpoint(path, ema=True)
    model = build.build_model(cfg, weights_follow=True)
    load_for_inference(model, weights, args.config_file, classes_of_config(cfg, "test"))
    if getattr(args, "tta", False):
        from co_detr.inference.tta import augment_evaluation

        model = augment_evaluation(model, cfg).eval()
    results = do_test(cfg, model)
    if results:
        with whole_file(os.path.join(cfg.train.output_dir, "evaluation.json")) as file:
            json.dump(flatten_results_dict(results), file)
    return results


def detections_kept(cfg: DictConfig) -> None:
    """Let the evaluator write its detections to train.output_dir: coco_instances_results.json or
    lvis_instances_results.json, what `co_detr.report` reads.

    In place, where `dataloader.evaluator` is detectron2's or ours and has no output_dir of its own.
    """
    evaluator = cfg.dataloader.get("evaluator")
    if evaluator is None or "output_dir" in evaluator:
        return
    target = evaluator.get("_target_")
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    if name.rpartition(".")[2] in ("COCOEvaluator", "LVISEvaluator"):
        with open_dict(evaluator):
            evaluator.output_dir = cfg.train.output_dir


def setup(args: argparse.Namespace, held: contextlib.ExitStack) -> DictConfig:
    """Load the config, start logging, seed, and check what would otherwise fail late.

    Args:
        args: parsed by detectron2's `default_argument_parser`.
        held: what the job holds until its end: here, a training gets hold of its folder.

    Returns:
        The config with the overrides of the command line, and a seed of at least 0.

    Raises:
        FileExistsError: the output folder holds another run, or another process trains there.
        FileNotFoundError: a dataset or a checkpoint is not where it should be; says where that is.
        DamagedCheckpointError: the weights cannot be read.
        ValueError: the config is incomplete or contradicts itself or the machine.
    """
    cfg, warnings = load_config(args.config_file, args.opts)
    needed = {"model", "dataloader", "train"}
    if not args.eval_only:
        needed |= {"optimizer", "lr_multiplier"}
    if missing := sorted(name for name in needed if cfg.get(name) is None):
        raise ValueError(f"{args.config_file} has no {', '.join(missing)}: define or import it")
    check_settings(cfg)
    output_dir, rank = cfg.train.output_dir, comm.get_rank()
    resuming.check_output_dir(output_dir, resume=args.resume or args.eval_only)
    if not args.eval_only:
        held.enter_context(run_folder.claimed(output_dir))
    setup_logger(output_dir, distributed_rank=rank, name="co_detr")
    logger.info(f"co_detr {co_detr.__version__}, detectron2: {co_detr.detectron2_origin()}")
    for warning in warnings:
        logger.warning(warning)
    settle_validation(cfg)
    cfg.train.seed = _seed_of_run(
        cfg.train.get("seed"), output_dir, args.resume, keep=not args.eval_only
    )
    with (
        naming_full_disk(output_dir),
        run_folder.config_kept(
            output_dir, keep=args.resume or args.eval_only, new_one_waits=not args.eval_only
        ),
    ):
        default_setup(cfg, args)
    cfg.train.device = _device_there_is(cfg.train.device)
    amp_dtype(cfg)
    set_tf32(cfg.train.get("tf32"))
    if cfg.train.init_checkpoint and not args.resume:
        check_readable(cfg.train.init_checkpoint)
    if not args.eval_only:
        build.total_batch_size(cfg)
        fsdp.check(cfg)
        patience_of(cfg)
        names_of(cfg)
    check_datasets(cfg, ("test",) if args.eval_only else ("train", "test"))
    return cfg


def _seed_of_run(seed: int | None, output_dir: str, resume: bool, keep: bool) -> int:
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
            if keep:
                with whole_file(path) as file:
                    file.write(str(seed))
        logger.info(f"train.seed is not set: the random seed of this run is {seed}")
    return comm.all_gather(seed)[0]


def _device_there_is(device: str) -> str:
    """The configured device; the CPU, with a message, where a GPU is wanted that is not there."""
    if torch.cuda.is_available():
        return device
    if torch.device(device).type == "cuda":
        logger.warning(f"No GPU: on the CPU, instead of train.device={device}")
        return "cpu"
    count = comm.get_world_size()
    logger.info(f"No GPU: on the CPU{f', {count} processes' if count > 1 else ''}")
    return device


def has_checkpoint(output_dir: str) -> bool:
    """Whether a folder holds a checkpoint to resume from."""
    return os.path.isfile(os.path.join(output_dir, "last_checkpoint"))


def do_test(cfg: DictConfig, model: nn.Module) -> dict[str, Any]:
    """Evaluate a model on `dataloader.test` with `dataloader.evaluator`.

    Returns:
        {task: {metric: value}} on the main process; {} on others or without an evaluator.
    """
    if cfg.dataloader.get("evaluator") is None:
        return {}
    loader = signals.shield_workers(instantiate(cfg.dataloader.test))
    evaluator = instantiate(cfg.dataloader.evaluator)
    results = inference_on_dataset(model, UntilAsked(loader), UnlessAsked(evaluator))
    report_left_out(loader)
    if comm.is_main_process():
        print_csv_format(results)
    return results


def do_train(args: argparse.Namespace, cfg: DictConfig) -> dict[str, Any]:
    """Train a model, from the start or, with `--resume`, from the last checkpoint.

    Writes to train.output_dir: log.txt, metrics.json, TensorBoard events, model_<iteration>.pth,
    model_final.pth, model_best.pth. With `train.ema` the averaged weights are evaluated, and are
    what model_best.pth and model_final_ema.pth hold.

    A resumed run continues exactly where the last checkpoint was written: weights, optimizer,
    schedule, random numbers and order of the data. A signal that asks the process to end is obeyed
    after the step, with a checkpoint; evaluation is cut short (see `signals`).

    Args:
        args: only `resume` is read.
        cfg: as `setup` returns it.

    Returns:
        The results of the last evaluation, as `do_test` returns them.

    Raises:
        Interrupted: by a signal.
    """
    train = cfg.train
    resume = args.resume and has_checkpoint(train.output_dir)
    model = build.build_model(cfg, weights_follow=resume)
    categories = categories_of_config(cfg)
    # checkpoints carry both: rows go by the names, and by the card they are used without the config
    # (torch declares that all attributes of a module are tensors or modules)
    names = None if categories is None else tuple(category["name"] for category in categories)
    model.class_names = names  # type: ignore[assignment]
    model.model_card = describe(cfg, categories or ())  # type: ignore[assignment]
    logger.info(f"Model:\n{model}")
    frozen = freeze(model, train.get("freeze") or ())
    ema = build.build_ema(cfg, model)
    trainer = Trainer(
        build.wrap_for_processes(cfg, model),
        (),  # the loader follows when it is known where to start
        build.build_optimizer(cfg, model),
        seed=max(train.get("seed") or 0, 0),
        clip_grad=build.clip_grad_params(cfg),
        amp_dtype=amp_dtype(cfg),
        accumulate=train.get("accumulate", 1),
        facts=resuming.facts_of(cfg),
    )
    averaged: dict[str, Any] = {"ema": ema} if ema is not None else {}
    checkpointer = WholeFileCheckpointer(model, train.output_dir, trainer=trainer, **averaged)
    results: dict[str, Any] = {}

    def evaluate() -> dict[str, Any]:
        results.clear()
        evaluated = model if ema is None else ema.module
        with fsdp.unsharded(evaluated):
            results.update(do_test(cfg, evaluated))
        return results

    trainer.register_hooks([KeepFrozen(frozen)] if frozen else [])
    trainer.register_hooks(build_hooks(cfg, model, ema, checkpointer, evaluate))
    start_iter = load_weights(cfg, trainer, checkpointer, resume=resume)
    run_folder.take_new_config(train.output_dir)
    with signals.postponed():
        if not is_complete(cfg, start_iter):
            trainer.register_hooks(build_writers(cfg))
            loader = signals.shield_workers(build.build_train_loader(cfg, start_iter))
            trainer.data_loader = prefetched(loader, train.device)
            trainer.train(start_iter, train.max_iter)
        if ema is not None:
            final = WholeFileCheckpointer(ema.module, train.output_dir, resumable=False)
            final.save("model_final_ema")
    return results


def load_weights(
    cfg: DictConfig, trainer: Trainer, checkpointer: WholeFileCheckpointer, *, resume: bool
) -> int:
    """Load the last checkpoint to resume from it, or else `train.init_checkpoint`.

    Returns:
        The iteration to start with.
    """
    init_checkpoint, output_dir = cfg.train.init_checkpoint, cfg.train.output_dir
    if resume:
        resuming.resume(checkpointer, trainer.facts, init_checkpoint)
    elif init_checkpoint:
        checkpointer.load(init_checkpoint, checkpointables=[])
    start_iter = trainer.iter + 1 if resume else 0  # the saved iteration is a finished one
    if comm.is_main_process():
        forget_rows_from(os.path.join(output_dir, "metrics.json"), start_iter)
    return start_iter


def is_complete(cfg: DictConfig, start_iter: int) -> bool:
    """Whether nothing is left to do, not even the evaluation at the end; then the log says so."""
    train = cfg.train
    if has_stopped(cfg, start_iter):
        logger.warning(
            f"Nothing to do: training has stopped early after {start_iter} of {train.max_iter} "
            "iterations. Raise train.early_stop.patience to go on"
        )
        return True
    if start_iter < train.max_iter:
        return False
    metrics_file = os.path.join(train.output_dir, "metrics.json")
    last = cfg.dataloader.get("evaluator") is None or start_iter > train.max_iter
    if train.max_iter > 0 and not last and not is_evaluated(metrics_file, start_iter):
        return False
    logger.warning(
        f"Nothing to do: {start_iter} of {train.max_iter} iterations are done. Raise "
        "train.max_iter to train on"
    )
    return True


def build_hooks(
    cfg: DictConfig,
    model: nn.Module,
    ema: AveragedModel | None,
    checkpointer: WholeFileCheckpointer,
    evaluate: Callable[[], dict[str, Any]],
) -> list[HookBase]:
    """The hooks of a training but the writers, in the order of their calls after a step.

    Args:
        cfg: the whole config.
        model: what is trained.
        ema: its averaged weights, or None.
        checkpointer: saves the state to resume from.
        evaluate: returns results; called on every rank.
    """
    train, best = cfg.train, cfg.train.get("best_checkpoint")
    eval_period = max(train.eval_period or 0, 0)
    built: list[HookBase] = []
    if ema is not None:
        built.append(AverageWeights(ema, model, train.ema.get("start", 0)))
    built += [hooks.IterationTimer(), hooks.LRScheduler(scheduler=build_schedule(cfg))]
    if torch.device(train.device).type == "cuda":
        built.append(PeakMemory())
    # saved before evaluation: whatever happens there, the training so far is safe
    saver = PeriodicCheckpointer(checkpointer, **(train.get("checkpointer") or {"period": 0}))
    stop = StopOnSignal(checkpointer, saver)
    built += [saver, stop]
    evaluation: list[HookBase] = [hooks.EvalHook(eval_period, stop.unless_asked(evaluate))]
    if cfg.dataloader.get("evaluator") is None:
        return built + evaluation
    if best and best.enabled:
        evaluated = model if ema is None else ema.module
        evaluation.append(
            BestCheckpointer(eval_period, evaluated, train.output_dir, best.metric, best.mode)
        )
    if patience := patience_of(cfg):
        evaluation.append(EarlyStop(patience, eval_period, checkpointer, best.metric, best.mode))
    return built + evaluation + [MissedEvaluation(train.output_dir, eval_period, evaluation)]


def build_writers(cfg: DictConfig) -> list[HookBase]:
    """The hook that writes progress to the console, metrics.json, TensorBoard and what else
    `train.loggers` names; none on ranks but the first. It belongs behind all others, to see what
    they log, and opens its files."""
    if not comm.is_main_process():
        return []
    train = cfg.train
    metrics = os.path.join(train.output_dir, "metrics.json")
    writers = [
        GroupedMetricPrinter(train.max_iter),
        FileWriter(JSONWriter(metrics), metrics),
        TensorboardXWriter(train.output_dir),
        *build_loggers(cfg),
    ]
    return [hooks.PeriodicWriter(writers, period=or_never(train.log_period))]

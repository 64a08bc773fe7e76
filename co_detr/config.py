"""LazyConfig models behind detectron2's `CfgNode`, as `DefaultPredictor` and `DefaultTrainer` want.

    lazy_cfg = model_zoo.get_config("co_deformable_detr/co_deformable_detr_r50_12ep")
    cfg = to_cfg_node(lazy_cfg, weights="model_final.pth")
    detections = DefaultPredictor(cfg)(bgr_image)["instances"]

    trainer = LazyConfigTrainer(cfg)
    trainer.resume_or_load()
    trainer.train()

The whole lazy config travels in the node as YAML text, so it survives `dump`, `merge_from_file`,
`clone` and `freeze`. What both kinds of config can say (`SHARED_KEYS`) may be changed in the node
afterwards. Importing this module registers the meta-architecture that
reads it, `build_lazy_model`.
"""

import functools
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg, instantiate
from detectron2.data import transforms as T
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.solver import LRMultiplier
from detectron2.utils.events import get_event_storage
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from co_detr.checkpoint.matching import UnfittingCheckpointError, compare
from co_detr.checkpoint.model_card import describe
from co_detr.checkpoint.pretrained import without_pretrained
from co_detr.checkpoint.reading import MODEL_CARD, check_readable
from co_detr.checkpoint.wrappers import under_names_of
from co_detr.config_text import bind, to_text  # noqa: F401  saved nodes name `bind` as of here
from co_detr.data.augmentation import RandomChoice
from co_detr.engine.build import (
    build_optimizer,
    build_train_loader,
    clip_grad_params,
)
from co_detr.engine.schedule import build_schedule

logger = logging.getLogger(__name__)

SHARED_KEYS = {
    "OUTPUT_DIR": "train.output_dir",
    "SEED": "train.seed",
    "CUDNN_BENCHMARK": "train.cudnn_benchmark",
    "MODEL.DEVICE": "train.device",
    "MODEL.WEIGHTS": "train.init_checkpoint",
    "DATASETS.TRAIN": "dataloader.train.dataset.names",
    "DATASETS.TEST": "dataloader.test.dataset.names",
    "DATALOADER.NUM_WORKERS": "dataloader.train.num_workers",
    "DATALOADER.ASPECT_RATIO_GROUPING": "dataloader.train.aspect_ratio_grouping",
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": "dataloader.train.dataset.filter_empty",
    "SOLVER.BASE_LR": "optimizer.lr",
    "SOLVER.WEIGHT_DECAY": "optimizer.weight_decay",
    "SOLVER.IMS_PER_BATCH": "dataloader.train.total_batch_size",
    "SOLVER.MAX_ITER": "train.max_iter",
    "SOLVER.CHECKPOINT_PERIOD": "train.checkpointer.period",
    "SOLVER.AMP.ENABLED": "train.amp.enabled",
    "TEST.EVAL_PERIOD": "train.eval_period",
}
"""Keys of the node, and where a lazy config says the same."""


def add_co_detr_config(cfg: CfgNode) -> None:
    """Add the key `MODEL.LAZY_CONFIG`, so that a saved node can be merged into `get_cfg()`."""
    cfg.MODEL.LAZY_CONFIG = ""


def to_cfg_node(
    lazy_cfg: DictConfig, weights: str | None = None, device: str | None = None
) -> CfgNode:
    """Make a node of a lazy config.

    Detections of `DefaultPredictor` and training by `LazyConfigTrainer` are those of the lazy
    config. detectron2's own `DefaultTrainer` knows only SGD, its own augmentation and clipping per
    parameter: it gets the closest settings there are.

    Args:
        lazy_cfg: "model", and as far as wanted "dataloader", "optimizer", "lr_multiplier", "train".
        weights: checkpoint; None for `train.init_checkpoint`.
        device: None for `train.device`, or, where that is not set either, CUDA if there is any.

    Raises:
        KeyError: there is no "model".
        ValueError: a value cannot be written as text; names its key.
    """
    if "model" not in lazy_cfg:
        raise KeyError(
            f'a lazy config with the key "model" is needed, this one has {list(lazy_cfg)}: pass '
            "the whole config, not its model"
        )
    cfg = get_cfg()
    add_co_detr_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = build_lazy_model.__name__
    cfg.MODEL.LAZY_CONFIG = to_text(lazy_cfg)
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    for key in SHARED_KEYS:
        value = _shared_value(lazy_cfg, key)
        if value is not None:
            _set(cfg, key, value)
    if weights is not None:
        cfg.MODEL.WEIGHTS = weights
    if device is not None:
        cfg.MODEL.DEVICE = device
    _fill_input(cfg, lazy_cfg)
    _fill_schedule(cfg, lazy_cfg)
    clip_grad = OmegaConf.select(lazy_cfg, "train.clip_grad")
    if clip_grad is not None and clip_grad.enabled:
        cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
        cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "norm"
        cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = float(clip_grad.params.max_norm)
        cfg.SOLVER.CLIP_GRADIENTS.NORM_TYPE = float(clip_grad.params.get("norm_type", 2.0))
    return cfg


def to_lazy_config(cfg: CfgNode) -> DictConfig:
    """The lazy config a node was made of, with what was changed in the node since.

    Raises:
        ValueError: the node holds no lazy config.
    """
    text = cfg.MODEL.get("LAZY_CONFIG", "")
    if not text:
        raise ValueError(
            "the config has no MODEL.LAZY_CONFIG: make it with co_detr.config.to_cfg_node"
        )
    lazy_cfg = OmegaConf.create(text, flags={"allow_objects": True})
    for key, path in SHARED_KEYS.items():
        before, now = _shared_value(lazy_cfg, key), _get(cfg, key)
        if before is not None and now != before:
            if isinstance(now, tuple):  # several names, or the only one
                now = now[0] if len(now) == 1 else list(now)
            OmegaConf.update(lazy_cfg, path, now)
    return lazy_cfg


@META_ARCH_REGISTRY.register()
def build_lazy_model(cfg: CfgNode) -> nn.Module:
    """Build the model of a node that `to_cfg_node` made; `build_model(cfg)` ends up here.

    In evaluation mode, as `DefaultPredictor` has it, the model takes only weights that fit it.

    Raises:
        ValueError: INPUT.FORMAT is not the order of channels that the model is made for.
    """
    lazy_model, weights = to_lazy_config(cfg).model, cfg.MODEL.WEIGHTS
    wanted = lazy_model.get("image_format", cfg.INPUT.FORMAT)
    if cfg.INPUT.FORMAT != wanted:
        raise ValueError(
            f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}, but the model is made for {wanted!r}: pictures "
            f"would reach it with red and blue exchanged. Leave INPUT.FORMAT at {wanted!r}; for "
            "weights that were trained otherwise, set image_format, pixel_mean and pixel_std of "
            "the lazy config's model before to_cfg_node"
        )
    if os.path.isfile(weights):
        check_readable(weights)
    model = instantiate(without_pretrained(lazy_model) if weights else lazy_model)
    model.register_load_state_dict_pre_hook(functools.partial(_check_if_used, file=weights))
    return model


def _check_if_used(
    model: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any, file: str
) -> None:
    """Raise UnfittingCheckpointError if a model in evaluation mode is to load what does not fit."""
    if model.training or prefix:
        return
    tensors = under_names_of(state_dict, model)
    comparison = compare(tensors, model, file or "the state dict")
    if not comparison.fits:
        raise UnfittingCheckpointError(comparison.describe())
    state_dict.clear()
    state_dict.update(tensors)


class LazyConfigTrainer(DefaultTrainer):
    """`DefaultTrainer` with optimizer, schedule, clipping, data and evaluator of the lazy config.

    `tools/lazyconfig_train_net.py` does more (bfloat16, exact resumption, the best checkpoint);
    this class is for scripts that are written around `DefaultTrainer`. Its checkpoints carry the
    model's card, too.
    """

    def __init__(self, cfg: CfgNode):
        super().__init__(cfg)
        self.checkpointer.add_checkpointable(MODEL_CARD, _Carried(to_lazy_config(cfg)))

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        lazy_cfg = to_lazy_config(cfg)
        optimizer = build_optimizer(lazy_cfg, model)
        clip = clip_grad_params(lazy_cfg)
        if clip is not None:

            def clip_before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
                parameters = [p for group in optimizer.param_groups for p in group["params"]]
                nn.utils.clip_grad_norm_(parameters, **clip)

            optimizer.register_step_pre_hook(clip_before_step)
        return optimizer

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRMultiplier:
        schedule = build_schedule(to_lazy_config(cfg))
        return LRMultiplier(optimizer, schedule, max_iter=cfg.SOLVER.MAX_ITER)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict]]:
        return _LoaderFromCurrentIteration(to_lazy_config(cfg))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict]]:
        return instantiate(_evaluated_on(cfg, dataset_name).dataloader.test)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        lazy_cfg = _evaluated_on(cfg, dataset_name)
        if lazy_cfg.dataloader.get("evaluator") is None:
            raise NotImplementedError("dataloader.evaluator of the lazy config is not set")
        return instantiate(lazy_cfg.dataloader.evaluator)


class _Carried:
    """The card of a config's model, as a part of checkpoints that is written and never loaded."""

    def __init__(self, lazy_cfg: DictConfig):
        self._card = describe(lazy_cfg)

    def state_dict(self) -> dict[str, Any]:
        return self._card.to_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


class _LoaderFromCurrentIteration:
    """The training loader, made when training starts: only then it is known where."""

    def __init__(self, lazy_cfg: DictConfig):
        self._lazy_cfg = lazy_cfg

    def __iter__(self) -> Iterator[list[dict]]:
        return iter(build_train_loader(self._lazy_cfg, start_iter=get_event_storage().iter))


def _evaluated_on(cfg: CfgNode, dataset_name: str) -> DictConfig:
    lazy_cfg = to_lazy_config(cfg)
    lazy_cfg.dataloader.test.dataset.names = dataset_name
    return lazy_cfg


def _get(cfg: CfgNode, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def _set(cfg: CfgNode, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for part in parents:
        cfg = cfg[part]
    cfg[last] = value


def _shared_value(lazy_cfg: DictConfig, key: str) -> Any:
    """What a lazy config says about a key of `SHARED_KEYS`, in the type of the node; or None."""
    value = OmegaConf.select(lazy_cfg, SHARED_KEYS[key])
    if value is None:
        return None
    if key.startswith("DATASETS."):
        return (value,) if isinstance(value, str) else tuple(value)
    return type(_get(get_cfg(), key))(value)


def _fill_input(cfg: CfgNode, lazy_cfg: DictConfig) -> None:
    """Say how images are read and resized, as far as a node can."""
    cfg.INPUT.FORMAT = lazy_cfg.model.get("image_format", "RGB")
    mapper = OmegaConf.select(lazy_cfg, "dataloader.train.mapper")
    cfg.MODEL.MASK_ON = bool(mapper is not None and mapper.get("use_instance_mask", False))
    test = _augmentations(lazy_cfg, "dataloader.test.mapper.augmentations")
    train = _augmentations(lazy_cfg, "dataloader.train.mapper.augmentations")
    if test is not None:
        resizes = [aug for aug in test if isinstance(aug, T.ResizeShortestEdge)]
        others = [aug for aug in test if aug not in resizes]
        if others or len(resizes) > 1:
            logger.warning(
                f"DefaultPredictor will not do {others + resizes[1:]}, which is part of "
                "dataloader.test.mapper.augmentations"
            )
        cfg.INPUT.MIN_SIZE_TEST = min(resizes[0].short_edge_length) if resizes else 0
        if resizes:
            cfg.INPUT.MAX_SIZE_TEST = resizes[0].max_size
    if train is not None:
        resize = next((aug for aug in train if isinstance(aug, T.ResizeShortestEdge)), None)
        cfg.INPUT.MIN_SIZE_TRAIN = tuple(resize.short_edge_length) if resize else (0,)
        if resize:
            cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = resize.sample_style
            cfg.INPUT.MAX_SIZE_TRAIN = resize.max_size
        flips = any(isinstance(aug, T.RandomFlip) for aug in train)
        cfg.INPUT.RANDOM_FLIP = "horizontal" if flips else "none"


def _augmentations(lazy_cfg: DictConfig, path: str) -> list[Any] | None:
    """The augmentations of a mapper one after the other; of a random choice, the first."""
    described = OmegaConf.select(lazy_cfg, path)
    return None if described is None else list(_flatten(instantiate(described)))


def _flatten(augmentation: Any) -> Iterator[Any]:
    if isinstance(augmentation, RandomChoice):
        augmentation = augmentation.choices[0]
    if isinstance(augmentation, T.AugmentationList):
        augmentation = augmentation.augs
    if isinstance(augmentation, list | tuple | ListConfig):
        for inner in augmentation:
            yield from _flatten(inner)
    else:
        yield augmentation


def _fill_schedule(cfg: CfgNode, lazy_cfg: DictConfig) -> None:
    """Express a step or cosine schedule with warm-up; anything else becomes a constant rate."""
    solver = cfg.SOLVER
    solver.STEPS, solver.WARMUP_ITERS = (), 0
    multiplier = lazy_cfg.get("lr_multiplier")
    if multiplier is None:
        return
    solver.WARMUP_ITERS = round(multiplier.get("warmup_length", 0) * solver.MAX_ITER)
    solver.WARMUP_FACTOR = float(multiplier.get("warmup_factor", solver.WARMUP_FACTOR))
    schedule = multiplier.get("scheduler", multiplier)
    if "milestones" in schedule and len(schedule["values"]) > 1:
        scale = solver.MAX_ITER / (schedule.get("num_updates") or solver.MAX_ITER)
        solver.STEPS = tuple(round(step * scale) for step in schedule.milestones)
        solver.GAMMA = float(schedule["values"][1] / schedule["values"][0])
    elif "start_value" in schedule and "Cosine" in str(schedule["_target_"]):
        solver.LR_SCHEDULER_NAME = "WarmupCosineLR"
        solver.BASE_LR_END = float(solver.BASE_LR * schedule.end_value)

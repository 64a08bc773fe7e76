"""The standard workflow: command line, job set-up, training and prediction by a node config."""

import argparse
import logging
import os
import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import detectron2.data.transforms as T
from co_detr.modeling.input_checks import check_array
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, LazyConfig
from detectron2.data import (
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
)
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger

from . import hooks
from .train_loop import AMPTrainer, SimpleTrainer, TrainerBase


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """The command line that training scripts share.

    Args:
        epilog: text behind the list of options; None for a few examples.
    """
    script = sys.argv[0]
    examples = f"""Examples:

On one machine:
    {script} --num-gpus 8 --config-file config.py

Change some of the config's values:
    {script} --config-file config.py train.init_checkpoint=weights.pth optimizer.lr=0.0001

On two machines:
    (machine 0) {script} --machine-rank 0 --num-machines 2 --dist-url <URL> [--other-flags]
    (machine 1) {script} --machine-rank 1 --num-machines 2 --dist-url <URL> [--other-flags]
"""
    parser = argparse.ArgumentParser(
        epilog=epilog or examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="path of the config")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the last checkpoint in the output directory, if there is one",
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate without training")
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs *per machine*")
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument(
        "--machine-rank", type=int, default=0, help="which of the machines this is, from 0"
    )
    # the same for every start by one user, and unlikely to meet another user's
    user = os.getuid() if hasattr(os, "getuid") else 1
    port = 2**15 + 2**14 + user % 2**14
    parser.add_argument(
        "--dist-url",
        default=f"tcp://127.0.0.1:{port}",
        help="where the processes of a distributed job meet",
    )
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        default=[],
        help='values of the config to change, at the end of the command: "key=value" for lazy '
        'configs, "KEY value" for node configs',
    )
    return parser


def _first_set(cfg: Any, *keys: str, default: Any = None) -> Any:
    """The value of the first dotted key that the config, of either kind, has."""
    for key in keys:
        value = cfg.get(key) if isinstance(cfg, CfgNode) else OmegaConf.select(cfg, key)
        if value is not None:
            return value
    return default


def default_setup(cfg: Any, args: argparse.Namespace) -> None:
    """Prepare a job: output directory, loggers, a copy of the config, seeds, cuDNN's benchmark.

    Args:
        cfg: a node config (OUTPUT_DIR, SEED, CUDNN_BENCHMARK) or a lazy config (train.output_dir,
            train.seed, train.cudnn_benchmark). A seed that is missing or negative means a
            random one; ranks are seeded differently.
        args: the parsed command line, which is logged.
    """
    output_dir = _first_set(cfg, "OUTPUT_DIR", "output_dir", "train.output_dir")
    if comm.is_main_process() and output_dir:
        PathManager.mkdirs(output_dir)
    rank = comm.get_rank()
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    logger = setup_logger(output_dir, distributed_rank=rank)

    logger.info("Rank of this process: %d of %d", rank, comm.get_world_size())
    logger.info("Environment:\n%s", collect_env_info())
    logger.info("Command line arguments: %s", args)
    config_file = getattr(args, "config_file", "")
    if config_file:
        with PathManager.open(config_file, "r") as f:
            logger.info("Contents of %s:\n%s", config_file, f.read())
    if comm.is_main_process() and output_dir:
        path = os.path.join(output_dir, "config.yaml")
        if isinstance(cfg, CfgNode):
            with PathManager.open(path, "w") as f:
                f.write(cfg.dump())
        else:
            LazyConfig.save(cfg, path)
        logger.info("Full config saved to %s", path)

    seed = _first_set(cfg, "SEED", "train.seed", default=-1)
    seed_all_rng(None if seed < 0 else seed + rank)
    # evaluation meets so many image sizes that choosing algorithms anew costs more than it gains
    if not getattr(args, "eval_only", False):
        torch.backends.cudnn.benchmark = bool(
            _first_set(cfg, "CUDNN_BENCHMARK", "train.cudnn_benchmark", default=False)
        )


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """Writers for the console, for `output_dir`/metrics.json, and for TensorBoard.

    Args:
        output_dir: created where it does not exist.
        max_iter: of the training, to tell when it will end.
    """
    PathManager.mkdirs(output_dir)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]


def create_ddp_model(
    model: nn.Module, *, fp16_compression: bool = False, **kwargs: Any
) -> nn.Module:
    """Wrap a model for training in several processes; in a single one return it as it is.

    Args:
        model: on the device of this process.
        fp16_compression: whether to exchange gradients in half precision.
        kwargs: for `DistributedDataParallel`. `device_ids` defaults to this process's GPU; a model
            on the CPU needs `device_ids=None`.
    """
    if comm.get_world_size() == 1:
        return model
    if "device_ids" not in kwargs:
        kwargs["device_ids"] = [comm.get_local_rank()]
    ddp = DistributedDataParallel(model, **kwargs)
    if fp16_compression:
        from torch.distributed.algorithms.ddp_comm_hooks import default as comm_hooks

        ddp.register_comm_hook(state=None, hook=comm_hooks.fp16_compress_hook)
    return ddp


class DefaultPredictor:
    """Predicts on single images with the model of a node config.

    The images are arrays as OpenCV reads them, and are resized and converted as the config says.

    Attributes:
        cfg: a copy of the config.
        model: in evaluation mode.
        metadata: of the first test dataset; absent without one.
    """

    def __init__(self, cfg: CfgNode):
        self.cfg = cfg.clone()
        self.model = build_model(self.cfg)
        self.model.eval()
        if len(cfg.DATASETS.TEST):
            self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        DetectionCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        self.aug = T.ResizeShortestEdge(
            [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST], cfg.INPUT.MAX_SIZE_TEST
        )
        self.input_format = cfg.INPUT.FORMAT
        assert self.input_format in (
            "RGB",
            "BGR",
        ), f"INPUT.FORMAT must be RGB or BGR, got '{self.input_format}'"

    @torch.no_grad()
    def __call__(self, original_image: np.ndarray) -> dict[str, Any]:
        """Predict on one image.

        Args:
            original_image: (height, width, 3) in BGR order.

        Returns:
            What the model returns for it; boxes are in pixels of the given image.

        Raises TypeError or ValueError that says what was given where that is no such array.
        """
        check_array(original_image)
        image = original_image[:, :, ::-1] if self.input_format == "RGB" else original_image
        height, width = image.shape[:2]
        image = self.aug.get_transform(image).apply_image(image)
        tensor = torch.as_tensor(image.astype("float32").transpose(2, 0, 1))
        inputs = {"image": tensor.to(self.cfg.MODEL.DEVICE), "height": height, "width": width}
        return self.model([inputs])[0]


class DefaultTrainer(TrainerBase):
    """Trains the model of a node config, with everything built by class methods one can override.

    Attributes:
        cfg: the config, scaled to the number of processes if it asks for that.
        scheduler: of the learning rate.
        checkpointer: saves model and trainer state to cfg.OUTPUT_DIR.
        model, optimizer, data_loader: what is trained, by what, on what.
    """

    def __init__(self, cfg: CfgNode):
        super().__init__()
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg = cfg

        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        on_cpu = next((p.device.type == "cpu" for p in model.parameters()), True)
        ddp_options = {"device_ids": None} if on_cpu else {}
        model = create_ddp_model(model, broadcast_buffers=False, **ddp_options)
        trainer_class = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = trainer_class(model, data_loader, optimizer)

        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = DetectionCheckpointer(model, cfg.OUTPUT_DIR, trainer=self)
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())

    @property
    def model(self) -> nn.Module:
        return self._trainer.model

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        return self._trainer.optimizer

    @property
    def data_loader(self) -> Any:
        return self._trainer.data_loader

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from the last checkpoint in the output directory, or load cfg.MODEL.WEIGHTS.

        Args:
            resume: whether to look for a checkpoint. Where there is none, or without it, only the
                model's weights are loaded and training starts at iteration 0.
        """
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if resume and self.checkpointer.has_checkpoint():
            # the saved iteration is a finished one
            self.start_iter = self.iter + 1

    def build_hooks(self) -> list[hooks.HookBase | None]:
        """The standard hooks; the writer comes last, so that it sees what the others log."""
        is_main = comm.is_main_process()

        saver = hooks.PeriodicCheckpointer(self.checkpointer, self.cfg.SOLVER.CHECKPOINT_PERIOD)
        built = [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            # saves before evaluation: when that fails, the training is not lost
            saver if is_main else None,
            hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, lambda: self.test(self.cfg, self.model)),
        ]
        if is_main:
            built.append(hooks.PeriodicWriter(self.build_writers(), period=20))
        return built

    def build_writers(self) -> list[EventWriter]:
        return default_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def train(self) -> None:
        """Train from `start_iter` to `max_iter`."""
        super().train(self.start_iter, self.max_iter)

    def run_step(self) -> None:
        self._trainer.iter = self.iter
        self._trainer.run_step()

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["_trainer"] = self._trainer.state_dict()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        model = build_model(cfg)
        logging.getLogger(__name__).info("Model:\n%s", model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(
        cls, cfg: CfgNode, optimizer: torch.optim.Optimizer
    ) -> torch.optim.lr_scheduler.LRScheduler:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        return build_detection_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        return build_detection_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """To be overridden where evaluation is wanted."""
        raise NotImplementedError(
            f"{cls.__name__} does not define build_evaluator(cfg, dataset_name): override it, or "
            "pass evaluators to test()"
        )

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: list[DatasetEvaluator] | None = None
    ) -> dict[str, Any]:
        """Evaluate a model on cfg.DATASETS.TEST.

        Args:
            cfg: names the datasets.
            model: to be evaluated.
            evaluators: one per dataset; None to build them.

        Returns:
            The results of the dataset, or of several datasets by name.
        """
        logger = logging.getLogger(__name__)
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        names = cfg.DATASETS.TEST
        if evaluators is not None:
            assert len(evaluators) == len(
                names
            ), f"{len(evaluators)} evaluators for {len(names)} test datasets"
        results: dict[str, Any] = OrderedDict()
        for index, name in enumerate(names):
            loader = cls.build_test_loader(cfg, name)
            if evaluators is not None:
                evaluator = evaluators[index]
            else:
                try:
                    evaluator = cls.build_evaluator(cfg, name)
                except NotImplementedError as error:
                    logger.warning("No evaluation on '%s': %s", name, error)
                    results[name] = {}
                    continue
            results[name] = inference_on_dataset(model, loader, evaluator)
            if comm.is_main_process():
                logger.info("Results on '%s':", name)
                print_csv_format(results[name])
        return next(iter(results.values())) if len(results) == 1 else results

    @staticmethod
    def auto_scale_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
        """Scale batch size, rates and schedule from SOLVER.REFERENCE_WORLD_SIZE processes.

        The batch size and the learning rate grow with the number of processes, everything that is
        counted in iterations shrinks. A reference of 0 leaves the config as it is.

        Args:
            cfg: not changed.
            num_workers: the processes there are.

        Returns:
            A scaled and frozen copy, or the same config.
        """
        reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference == 0 or reference == num_workers:
            return cfg
        cfg = cfg.clone()
        cfg.defrost()
        solver, scale = cfg.SOLVER, num_workers / reference
        assert (
            solver.IMS_PER_BATCH % reference == 0
        ), f"batch size {solver.IMS_PER_BATCH} is no multiple of REFERENCE_WORLD_SIZE {reference}"
        solver.IMS_PER_BATCH = round(solver.IMS_PER_BATCH * scale)
        solver.BASE_LR = solver.BASE_LR * scale
        for key in ("MAX_ITER", "WARMUP_ITERS", "CHECKPOINT_PERIOD"):
            solver[key] = round(solver[key] / scale)
        solver.STEPS = tuple(round(step / scale) for step in solver.STEPS)
        cfg.TEST.EVAL_PERIOD = round(cfg.TEST.EVAL_PERIOD / scale)
        solver.REFERENCE_WORLD_SIZE = num_workers
        cfg.freeze()
        logging.getLogger(__name__).info(
            "Config scaled from %d to %d ranks", reference, num_workers
        )
        return cfg

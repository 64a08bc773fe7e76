"""Where a training's scalars go besides the console, metrics.json and TensorBoard.

`train.loggers` names them. W&B and MLflow are told where to write by their own environment
variables (WANDB_PROJECT, MLFLOW_TRACKING_URI, ...). A resumed training goes on in its run, whose id
is kept in train.output_dir.
"""

import importlib.util
import os
from collections.abc import Iterator
from typing import Any

from detectron2.utils.events import EventWriter, get_event_storage
from omegaconf import DictConfig, OmegaConf

from .files import whole_file

WINDOW = 20  # iterations that scalars are smoothed over, as for TensorBoard
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


def names_of(cfg: DictConfig) -> list[str]:
    """The names in `train.loggers`, each once; TensorBoard is always one of them.

    Raises:
        ValueError: there is no such logger.
        ImportError: its package is not installed; names the command that does it.
    """
    wanted = cfg.train.get("loggers") or []
    names = dict.fromkeys(["tensorboard", *([wanted] if isinstance(wanted, str) else wanted)])
    for name in names:
        if name not in PACKAGES:
            raise ValueError(f"train.loggers has {name!r}, but there are {', '.join(PACKAGES)}")
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise ImportError(
                f"train.loggers asks for {name}, which is not installed: pip install "
                f"{PACKAGES[name]}, or leave it out",
                name=PACKAGES[name],
            )
    return list(names)


def build_loggers(cfg: DictConfig) -> list[EventWriter]:
    """The writers of `train.loggers` but for TensorBoard's; they open their runs."""
    writers = {"wandb": WandbWriter, "mlflow": MLflowWriter}
    return [writers[name](cfg) for name in names_of(cfg) if name in writers]


class NewScalars:
    """The scalars of the event storage that were put since the last look."""

    def __init__(self) -> None:
        self.last = -1

    def __call__(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Iteration and scalars, in the order of iterations."""
        by_iteration: dict[int, dict[str, float]] = {}
        for name, (value, at) in get_event_storage().latest_with_smoothing_hint(WINDOW).items():
            if at > self.last:
                by_iteration.setdefault(at, {})[name] = value
        self.last = max(by_iteration, default=self.last)
        yield from sorted(by_iteration.items())


class WandbWriter(EventWriter):
    """Writes to Weights & Biases.

    Args:
        cfg: the whole config, which the run shows; `train.output_dir` names the run.
    """

    def __init__(self, cfg: DictConfig):
        import wandb

        folder = cfg.train.output_dir
        self._new = NewScalars()
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "co-detr"),
            name=run_name(folder),
            dir=folder,
            config=plain_values(cfg),
            id=kept_id(folder, "wandb"),
            resume="allow",
        )
        keep_id(folder, "wandb", self._run.id)

    def write(self) -> None:
        for iteration, scalars in self._new():
            self._run.log(scalars, step=iteration)

    def close(self) -> None:
        self._run.finish()


class MLflowWriter(EventWriter):
    """Writes to MLflow.

    Args:
        cfg: the whole config, whose values become the run's parameters; `train.output_dir` names
            the run.
    """

    def __init__(self, cfg: DictConfig):
        import mlflow

        folder = cfg.train.output_dir
        self._new = NewScalars()
        self._mlflow = mlflow
        before = kept_id(folder, "mlflow")
        if not os.environ.get("MLFLOW_EXPERIMENT_NAME"):
            mlflow.set_experiment("co-detr")
        run = mlflow.start_run(run_id=before, run_name=None if before else run_name(folder))
        keep_id(folder, "mlflow", run.info.run_id)
        if before is None:  # a parameter is set once
            mlflow.log_params(plain_values(cfg))

    def write(self) -> None:
        for iteration, scalars in self._new():
            self._mlflow.log_metrics(scalars, step=iteration)

    def close(self) -> None:
        self._mlflow.end_run()


def run_name(output_dir: str) -> str:
    """What a run is called: the last folder of its output."""
    return os.path.basename(os.path.abspath(output_dir))


def plain_values(cfg: DictConfig) -> dict[str, Any]:
    """What people compare runs by, by dotted name: numbers, text and flags of `train`, the learning
    rate, the batch and the model's classes."""
    values = {f"train.{key}": value for key, value in cfg.train.items()}
    for key in (
        "optimizer.lr",
        "optimizer.weight_decay",
        "dataloader.train.total_batch_size",
        "dataloader.train.dataset.names",
        "model.num_classes",
    ):
        values[key] = OmegaConf.select(cfg, key)
    return {key: v for key, v in values.items() if isinstance(v, int | float | str)}


def kept_id(output_dir: str, logger: str) -> str | None:
    """The id of the run that was begun before, if there was one."""
    path = os.path.join(output_dir, f"{logger}_run.txt")
    if not os.path.isfile(path):
        return None
    with open(path) as file:
        return file.read().strip()


def keep_id(output_dir: str, logger: str, run_id: str) -> None:
    with whole_file(os.path.join(output_dir, f"{logger}_run.txt")) as file:
        file.write(run_id)

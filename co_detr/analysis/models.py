"""The models that a figure compares: named on the command line, then loaded with their weights."""

import argparse
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from co_detr.arguments import config_path, load_config, user_path

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from co_detr.modeling.base_detector import Detector

logger = logging.getLogger(__name__)

_NAMED = re.compile(r"(?P<label>.+?)=(?P<config>[^:=]+):(?P<path>.+)")  # a label may have a "="


@dataclass(frozen=True)
class ModelFiles:
    """What is loaded, and what it is called in figures."""

    label: str
    config_file: str
    weights: Path


@dataclass(frozen=True)
class RunFiles:
    """A training whose checkpoints are loaded, and what it is called in figures."""

    label: str
    config_file: str
    folder: Path


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model in evaluation mode with its weights, on the device of its config."""

    label: str
    cfg: "DictConfig"
    model: "Detector"


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options that name one model or several; `models_of` reads them."""
    parser.add_argument("--config-file", help="a file, or a name of the model zoo")
    parser.add_argument("--weights", type=user_path, metavar="FILE", help="of that model")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="LABEL=CONFIG:WEIGHTS",
        help="instead, and as often as there are models to compare",
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The option that names trainings; `runs_of` reads it."""
    parser.add_argument(
        "--run",
        action="append",
        required=True,
        dest="training",
        metavar="LABEL=CONFIG:FOLDER",
        help="a training, with its checkpoints; as often as there are trainings to compare",
    )


def runs_of(args: argparse.Namespace) -> list[RunFiles]:
    """The trainings that a command line names, in its order.

    Raises:
        ValueError: twice the same label.
        FileNotFoundError: there is no such config or folder.
    """
    runs = [RunFiles(*_named(text, "--run", "FOLDER")) for text in args.training]
    _check_labels([run.label for run in runs], "--run", "trainings")
    for run in runs:
        if not run.folder.is_dir():
            raise FileNotFoundError(f"there is no folder {run.folder}")
    return runs


def models_of(args: argparse.Namespace) -> list[ModelFiles]:
    """The models that a command line names, in its order.

    Raises:
        ValueError: none or too much is named, or twice the same label.
        FileNotFoundError: there is no such config, or no such file of weights.
    """
    if args.model and (args.config_file or args.weights):
        raise ValueError("give either --config-file and --weights, or --model, not both")
    if args.model:
        models = [ModelFiles(*_named(text, "--model", "WEIGHTS")) for text in args.model]
    elif args.config_file and args.weights:
        models = [ModelFiles(Path(args.config_file).stem, args.config_file, args.weights)]
    else:
        raise ValueError("name a model: --config-file CONFIG --weights FILE, or --model")
    _check_labels([model.label for model in models], "--model", "models")
    for model in models:
        if not model.weights.is_file():
            raise FileNotFoundError(f"there are no weights {model.weights}")
    return models


def _named(text: str, option: str, kind: str) -> tuple[str, str, Path]:
    parts = _NAMED.fullmatch(text)
    if parts is None:
        raise ValueError(f"{option} {text!r} is not of the form LABEL=CONFIG:{kind}")
    return parts["label"], config_path(parts["config"]), user_path(parts["path"])


def _check_labels(labels: list[str], option: str, kind: str) -> None:
    if twice := {label for label in labels if labels.count(label) > 1}:
        raise ValueError(f"{option}: two {kind} are called {min(twice)!r}")


def load_model(files: ModelFiles, overrides: Sequence[str] = ()) -> LoadedModel:
    """Build a model and load its weights.

    Args:
        files: of the model.
        overrides: changes of its config, as key=value.

    Raises:
        TypeError: the model is neither a CoDETR nor an EncoderDetector.
        UnfittingCheckpointError: the weights are those of another model.
    """
    import torch

    from co_detr.checkpoint.class_names import classes_of_config
    from co_detr.checkpoint.loading import load_for_inference
    from co_detr.engine.build import build_model
    from co_detr.modeling.base_detector import Detector

    cfg, warnings = load_config(files.config_file, overrides)
    for warning in warnings:
        logger.warning(warning)
    if torch.device(cfg.train.device).type == "cuda" and not torch.cuda.is_available():
        logger.warning("no CUDA device: running on the CPU")
        cfg.train.device = "cpu"
    model = build_model(cfg, weights_follow=True)
    if not isinstance(model, Detector):
        raise TypeError(
            f"the model of {files.config_file} is a {type(model).__name__}: figures take a CoDETR "
            "or an EncoderDetector"
        )
    names = classes_of_config(cfg, "test")
    load_for_inference(model, files.weights, files.config_file, names)
    return LoadedModel(files.label, cfg, model.eval())

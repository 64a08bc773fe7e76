"""Whether a run may start in a folder, and what a resumed run cannot take over as it was."""

import logging
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import Tensor, nn

from co_detr.checkpoint.formats import first_line
from co_detr.checkpoint.matching import UnfittingCheckpointError, compare, first_of

from .build import total_batch_size
from .checkpoint import WholeFileCheckpointer
from .schedule import build_schedule

logger = logging.getLogger(__name__)


def check_output_dir(folder: str, *, resume: bool) -> None:
    """Refuse a folder that holds another run, before anything is written there.

    A run is there as soon as it has left a checkpoint or logged an iteration; a log and a config
    of a start that failed are in nobody's way.

    Args:
        folder: `train.output_dir`.
        resume: whether that run is to be continued.

    Raises:
        FileExistsError, NotADirectoryError: on every rank.
    """
    error = _obstacle(folder, resume) if comm.is_main_process() else None
    if error := comm.all_gather(error)[0]:
        raise error


def _obstacle(folder: str, resume: bool) -> OSError | None:
    existing = folder
    while existing and not os.path.exists(existing):
        existing = os.path.dirname(existing)
    if existing and not os.path.isdir(existing):
        return NotADirectoryError(
            f"train.output_dir={folder}: {existing} is a file, no folder: choose another"
        )
    found = [] if resume else sorted(traces_of_run(folder))
    if not found:
        return None
    return FileExistsError(
        f"train.output_dir={folder} holds another run ({first_of(found)}): continue it "
        "with --resume, or give the new run a folder of its own, train.output_dir=..."
    )


def traces_of_run(folder: str) -> Iterator[str]:
    """The files of a folder that a run left there: checkpoints and logged iterations."""
    if not os.path.isdir(folder):
        return
    for entry in os.scandir(folder):
        if entry.name == "last_checkpoint" or re.fullmatch(r"model_.+\.pth", entry.name):
            yield entry.name
        elif entry.name == "metrics.json" and entry.stat().st_size > 0:
            yield entry.name


def facts_of(cfg: DictConfig) -> dict[str, Any]:
    """What of a run's settings decides over its course, as plain values for the checkpoint."""
    schedule = build_schedule(cfg)
    return {
        "train.max_iter": cfg.train.max_iter,
        "train.seed": cfg.train.seed,
        "train.accumulate": cfg.train.get("accumulate", 1),
        "dataloader.train.total_batch_size": total_batch_size(cfg),
        "number of processes": comm.get_world_size(),
        "lr_multiplier": [float(schedule(i / 100)) for i in range(100)],
    }


def resume(
    checkpointer: WholeFileCheckpointer, facts: Mapping[str, Any], init_checkpoint: str
) -> None:
    """Load the last checkpoint, and say what is different from the run that it is of.

    Args:
        checkpointer, facts, init_checkpoint: see `explain_changes`.

    Raises:
        UnfittingCheckpointError: the checkpoint is of another model.
        ValueError: it lacks the state of a run, or what it has for it is none.
    """
    path = checkpointer.get_checkpoint_file()
    explain_changes(checkpointer, facts, init_checkpoint)
    try:
        checkpointer.resume_or_load("", resume=True)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
        raise _not_to_be_continued(path, f"{type(error).__name__}: {first_line(error)}") from error


def _not_to_be_continued(path: str, why: str) -> ValueError:
    return ValueError(
        f"{path} holds no state of a run that can be continued ({why}): start a new run from its "
        f"weights, with another train.output_dir and train.init_checkpoint={path}"
    )


def explain_changes(
    checkpointer: WholeFileCheckpointer, facts: Mapping[str, Any], init_checkpoint: str
) -> None:
    """Compare the last checkpoint with the run that is about to load it, and say what is different.

    Args:
        checkpointer: of the run; its trainer, model and averaged weights as the config built them.
        facts: of the run, as `facts_of` gives them.
        init_checkpoint: `train.init_checkpoint`, which a resumed run does not load.

    Raises:
        UnfittingCheckpointError: the checkpoint is of another model.
        ValueError: it lacks the state of a run.
    """
    path = checkpointer.get_checkpoint_file()
    try:
        # mapped, not read: this is for names, shapes and a few numbers
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        return  # whoever loads it has more to say about that
    trainer = saved.get("trainer") if isinstance(saved, Mapping) else None
    if not isinstance(trainer, Mapping) or type(trainer.get("iteration")) is not int:
        raise _not_to_be_continued(path, "there is no iteration in it to go on from")
    weights = saved.get("model")
    check_architecture(weights if isinstance(weights, Mapping) else {}, checkpointer.model, path)
    if init_checkpoint:
        logger.info(f"train.init_checkpoint={init_checkpoint} is not loaded: {path} is resumed")
    saved_ema, ema = "ema" in saved, "ema" in checkpointer.checkpointables
    if ema and not saved_ema:
        logger.warning(
            f"train.ema is new: {path} has no averaged weights, so they start from the present ones"
        )
    if saved_ema and not ema:
        logger.warning(f"train.ema is off: the averaged weights of {path} are not continued")
    before = trainer.get("facts")
    before = before if isinstance(before, Mapping) else {}
    for name, value in facts.items():
        if name in before and before[name] != value:
            logger.warning(_changed(name, before[name], value))


def check_architecture(tensors: Mapping[str, Tensor], model: nn.Module, path: str) -> None:
    """Raise UnfittingCheckpointError unless tensors have the names and shapes of a model's."""
    # values are for whoever loads them
    shapes = {name: t.to("meta") for name, t in tensors.items() if isinstance(t, Tensor)}
    comparison = compare(shapes, model, path)
    if not comparison.fits or comparison.unexpected:
        raise UnfittingCheckpointError(
            f"{comparison.describe()}\n  {path} is of a run with another model: resume with the "
            "config of that run, or start a new one from its weights, with another "
            f"train.output_dir and train.init_checkpoint={path}"
        )


def _changed(name: str, before: Any, now: Any) -> str:
    if name == "lr_multiplier":
        return "lr_multiplier has changed: the learning rates follow the new schedule from here on"
    effect = {
        "train.max_iter": "the learning rate schedule is that of the new length",
        "train.seed": "order of the data and random numbers are others from here on",
        "train.accumulate": "random numbers inside the model are others from here on",
    }.get(name, "the order of the data is not the one of an uninterrupted run")
    return f"{name} was {before}, is {now}: {effect}"

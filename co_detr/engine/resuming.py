"""Whether a run may start in a folder, and what a resumed run cannot take over as it was."""

import json
import logging
import os
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import Tensor, nn

from co_detr.checkpoint.matching import UnfittingCheckpointError, compare, first_of

from .build import total_batch_size
from .checkpoint import WholeFileCheckpointer

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
    found = [] if resume else sorted(_traces_of_run(folder))
    if not found:
        return None
    return FileExistsError(
        f"train.output_dir={folder} holds another run ({first_of(found)}): continue it "
        "with --resume, or give the new run a folder of its own, train.output_dir=..."
    )


def _traces_of_run(folder: str) -> Iterator[str]:
    if not os.path.isdir(folder):
        return
    for entry in os.scandir(folder):
        if entry.name == "last_checkpoint" or re.fullmatch(r"model_.+\.pth", entry.name):
            yield entry.name
        elif entry.name == "metrics.json" and entry.stat().st_size > 0:
            yield entry.name


def facts_of(cfg: DictConfig) -> dict[str, Any]:
    """What of a run's settings decides over its course, as plain values for the checkpoint."""
    schedule = instantiate(cfg.lr_multiplier)
    return {
        "train.max_iter": cfg.train.max_iter,
        "train.seed": cfg.train.seed,
        "train.accumulate": cfg.train.get("accumulate", 1),
        "dataloader.train.total_batch_size": total_batch_size(cfg),
        "number of processes": comm.get_world_size(),
        "lr_multiplier": [float(schedule(i / 100)) for i in range(100)],
    }


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
    """
    path = checkpointer.get_checkpoint_file()
    try:
        # mapped, not read: this is for names, shapes and a few numbers
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        return  # whoever loads it has more to say about that
    check_architecture(saved.get("model", {}), checkpointer.model, path)
    if init_checkpoint:
        logger.info(f"train.init_checkpoint={init_checkpoint} is not loaded: {path} is resumed")
    saved_ema, ema = "ema" in saved, "ema" in checkpointer.checkpointables
    if ema and not saved_ema:
        logger.warning(
            f"train.ema is new: {path} has no averaged weights, so they start from the present ones"
        )
    if saved_ema and not ema:
        logger.warning(f"train.ema is off: the averaged weights of {path} are not continued")
    before = saved.get("trainer", {}).get("facts", {})
    for name, value in facts.items():
        if name in before and before[name] != value:
            logger.warning(_changed(name, before[name], value))


def check_architecture(tensors: Mapping[str, Tensor], model: nn.Module, path: str) -> None:
    """Raise UnfittingCheckpointError unless tensors have the names and shapes of a model's."""
    # values are for whoever loads them
    comparison = compare({n: t.to("meta") for n, t in tensors.items()}, model, path)
    if not comparison.fits or comparison.unexpected:
        raise UnfittingCheckpointError(
            f"{path} is of another model and cannot be resumed. Resume with the config of that "
            "run; or start a new one from its weights, with another train.output_dir and "
            f"train.init_checkpoint={path}\n{comparison.describe()}"
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


def fit_optimizer_state(
    saved: dict[str, Any],
    saved_names: Sequence[Sequence[str]] | None,
    optimizer: torch.optim.Optimizer,
    names: Sequence[Sequence[str]],
) -> dict[str, Any]:
    """What of an optimizer's saved state belongs to the parameters it has now.

    Settings (learning rate, weight decay, betas, ...) are the present ones; what differs is logged.

    Args:
        saved: as `Optimizer.state_dict` returned it.
        saved_names: of the parameters of each group then; None where they were not saved.
        optimizer: as the config made it.
        names: of the parameters of each group now.

    Returns:
        A state for `optimizer.load_state_dict`.

    Raises:
        ValueError: the groups differ, and the names of their parameters were not saved.
    """
    state = optimizer.state_dict()
    counts = [[len(g["params"]) for g in groups["param_groups"]] for groups in (saved, state)]
    if saved_names is None:
        if counts[0] != counts[1]:
            raise ValueError(
                f"the optimizer has parameter groups of {counts[1]} parameters, in the checkpoint "
                f"they are of {counts[0]}: resume with the parameters frozen that were frozen then"
            )
        saved_names = names
    index = {
        name: i
        for group, of_group in zip(saved["param_groups"], saved_names)
        for i, name in zip(group["params"], of_group)
    }
    state["state"] = {
        i: saved["state"][index[name]]
        for group, of_group in zip(state["param_groups"], names)
        for i, name in zip(group["params"], of_group)
        if index.get(name) in saved["state"]
    }
    now = {name for group in names for name in group}
    if new := sorted(now - index.keys()):
        logger.warning(
            f"{len(new)} parameters were not trained before and start without optimizer state: "
            f"{first_of(new)}"
        )
    if gone := sorted(index.keys() - now):
        logger.warning(f"{len(gone)} parameters are not trained from here on: {first_of(gone)}")
    _log_settings(saved, saved_names, state, names)
    return state


def _log_settings(saved, saved_names, state, names) -> None:
    """Log the settings of parameters that have changed, each pair of values once."""
    before, after = _settings(saved, saved_names), _settings(state, names)
    changes: dict[tuple[str, Any, Any], int] = {}
    for name in before.keys() & after.keys():
        for key, value in after[name].items():
            old = before[name].get(key, value)
            if old != value:
                changes[key, old, value] = changes.get((key, old, value), 0) + 1
    for (key, old, value), count in sorted(changes.items(), key=str):
        logger.warning(f"optimizer: {key} was {old}, is {value} from here on ({count} parameters)")


def _settings(state, names) -> dict[str, dict[str, Any]]:
    """Settings by the name of a parameter; the learning rate is that before the schedule."""
    return {
        name: {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in {**group, "lr": group.get("initial_lr", group["lr"])}.items()
            if key not in ("params", "initial_lr", "param_names")
        }
        for group, of_group in zip(state["param_groups"], names)
        for name in of_group
    }


def is_evaluated(metrics_file: str, iterations: int) -> bool:
    """Whether metrics.json holds the evaluation at the end of so many iterations."""
    if not os.path.isfile(metrics_file):
        return False
    with open(metrics_file) as file:
        for line in file:
            try:
                if json.loads(line)["iteration"] >= iterations:
                    return True
            except json.JSONDecodeError:  # a kill left it incomplete
                continue
    return False

"""From a data set and a model to the recipe: what is trained on, and how."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import OmegaConf

from co_detr import model_zoo
from co_detr.data.formats.split import Split
from co_detr.data.formats.writing import divide
from co_detr.data.survey import Survey
from co_detr.model_facts import MODELS

from .plan import plan, this_machine
from .template import Recipe

SMALL_SIDE = 256  # pixels, of pictures for the models of the digits


def train_and_val(splits: Sequence[Split], share: float) -> tuple[list[Split], list[str]]:
    """The splits "train" and "val", and "test" if there is one besides, and what was decided.

    Pictures of no split are trained on. Where there are none to validate on, those of "test" are
    validated on, or else a share of the others.

    Raises:
        ValueError: there is nothing to train on.
    """
    by_name = {split.name: split for split in splits}
    said = []
    if "all" in by_name:
        by_name["train"] = replace(by_name.pop("all"), name="train")
    if "train" not in by_name:
        notes = "".join(f"; {note}" for split in splits for note in split.notes)
        raise ValueError(
            f"the data have {', '.join(by_name)}, but nothing to train on: name a split train"
            f"{notes}"
        )
    if "val" not in by_name and "test" in by_name:
        by_name["val"] = replace(by_name.pop("test"), name="val")
        said.append("there is no validation split: the test split is validated on")
    elif "val" not in by_name:
        if len(by_name["train"].content["images"]) < 2:
            raise ValueError("there are fewer than two pictures: one is needed to validate on")
        by_name["train"], by_name["val"] = divide(by_name["train"], share)
        count = len(by_name["val"].content["images"])
        said.append(
            f"there is no validation split: {count} pictures, {share:.0%}, are kept for it, chosen "
            "by their file names (--val-share changes the number)"
        )
    return [by_name[name] for name in ("train", "val", "test") if name in by_name], said


def recipe_for(
    config: Path, model: str, found: Survey, epochs: int | None, weights: Path | None
) -> Recipe:
    """What the config for a surveyed data set says.

    Raises:
        ValueError: the model cannot be trained on such data.
    """
    facts, cfg = MODELS.get(model), model_zoo.get_config(model)
    small = facts is not None and facts.data == "digits"
    if OmegaConf.select(cfg, "dataloader.evaluator._target_").__name__ != "COCOEvaluator":
        raise ValueError(
            f"{model} is evaluated as LVIS, which needs more than boxes: choose a model for COCO, "
            "see `co-detr zoo coco`"
        )
    train = found.splits[0]
    if cfg.dataloader.train.mapper.use_instance_mask and not train.has_masks:
        raise ValueError(
            f"{model} learns masks, but the data have boxes alone: choose another model"
        )
    longest = max((max(r["height"], r["width"]) for r in train.records), default=0)
    machine = this_machine()
    return Recipe(
        file=config,
        model=model,
        splits=found.splits,
        classes=found.classes,
        plan=plan(
            len(train.records), cfg.dataloader.train.total_batch_size, machine, small, epochs
        ),
        machine=machine,
        weights=None if weights is None else weights.absolute().as_posix(),
        release=None if facts is None else facts.release,
        longest_side=SMALL_SIDE if small and longest > SMALL_SIDE else None,
    )

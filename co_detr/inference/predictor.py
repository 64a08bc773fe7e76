"""The model of a config as a predictor, and the names of its classes."""

import logging
import os
from collections.abc import Sequence

from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from omegaconf import DictConfig, OmegaConf

from co_detr.checkpoint.loading import load_for_inference
from co_detr.checkpoint.model_card import card_of
from co_detr.checkpoint.pretrained import without_pretrained
from co_detr.checkpoint.reading import Checkpoint, read_checkpoint
from co_detr.config import to_cfg_node
from co_detr.data import ResizeShortestEdge
from co_detr.data.annotations import read_categories

from .loading import device_there_is

logger = logging.getLogger("co_detr.predict")


def build_predictor(cfg: DictConfig, config_file: str | None = None) -> DefaultPredictor:
    """The model of a config with its weights, for single pictures.

    For the config that a checkpoint brings: `build_predictor(find_config("model.pth")[0])`.
    `config_file` is for messages. Raises ValueError if the config names no weights, or these are
    not the model's.
    """
    if not cfg.train.init_checkpoint:
        raise ValueError(
            "there are no weights to predict with: add train.init_checkpoint=/path/to/model.pth"
        )
    device = device_there_is(cfg.train.device)
    weights = read_checkpoint(cfg.train.init_checkpoint)
    cfg.model = without_pretrained(cfg.model)
    cfg.train.init_checkpoint = ""  # loaded below, so that it may be .safetensors
    node = to_cfg_node(cfg, device=device)
    predictor = DefaultPredictor(node)
    sides = [node.INPUT.MIN_SIZE_TEST] * 2
    predictor.aug = ResizeShortestEdge(sides, node.INPUT.MAX_SIZE_TEST)  # for strips, too
    load_for_inference(predictor.model, weights, config_file)
    return predictor


def categories_for(cfg: DictConfig, checkpoint: Checkpoint) -> list[dict]:
    """Ids and names of the classes 0, 1, ... of a model, as its checkpoint or else its config has
    them; numbered where neither knows them."""
    return known_categories(cfg, checkpoint)[0]


def known_categories(cfg: DictConfig, checkpoint: Checkpoint) -> tuple[list[dict], bool]:
    """As `categories_for`, and whether the names are real."""
    card = card_of(checkpoint)
    if card is not None and card.categories:
        if len(card.categories) == cfg.model.get("num_classes", len(card.categories)):
            return card.categories, True
    return load_categories(cfg, checkpoint.class_names)


def load_categories(
    cfg: DictConfig, class_names: Sequence[str] | None = None
) -> tuple[list[dict], bool]:
    """Ids and names of the classes 0, 1, ... of the dataset that the config is evaluated on.

    A config without an evaluation has them of the dataset it is trained on. A dataset of one's own
    gets its names from its annotation file; where that is missing, too, or where the model has
    another number of classes, the classes are numbered.

    Args:
        cfg: a whole lazy config.
        class_names: names that the weights bring along, for where the dataset has none.

    Returns:
        The categories, and whether they have real names.
    """
    splits = (f"dataloader.{split}.dataset.names" for split in ("test", "train"))
    names = next(filter(None, (OmegaConf.select(cfg, split) for split in splits)), "no dataset")
    name = names if isinstance(names, str) else names[0]
    categories = dataset_categories(name)
    count = cfg.model.get("num_classes", len(categories) or len(class_names or ()))
    if categories and len(categories) == count:
        return categories, True
    if class_names and len(class_names) == count:
        return [{"id": i, "name": name} for i, name in enumerate(class_names)], True
    found = f"{name} has {len(categories)}" if categories else f"those of {name} are not known"
    logger.warning(
        f"the {count} classes of the model are numbered, as {found}: for names, set "
        "dataloader.test.dataset.names to the dataset it was trained for"
    )
    return [{"id": i, "name": f"class {i}"} for i in range(count)], False


def dataset_categories(name: str) -> list[dict]:
    """Ids and names of the classes of a registered dataset; none if they are not known."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is not None:
        ids = metadata.get("thing_dataset_id_to_contiguous_id")
        ids = sorted(ids, key=ids.get) if ids else range(len(metadata.thing_classes))
        return [{"id": i, "name": name} for i, name in zip(ids, metadata.thing_classes)]
    json_file = metadata.get("json_file")
    if json_file is None or not os.path.isfile(json_file):
        return []
    kind = "lvis" if metadata.get("evaluator_type") == "lvis" else "coco"
    return [{"id": c["id"], "name": c["name"]} for c in read_categories(json_file, kind)]

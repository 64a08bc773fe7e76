"""What a checkpoint says of its model, so that it can be used without the config it came from.

    card = describe(cfg)                       # of a whole lazy config, when training starts
    torch.save({"model": ..., MODEL_CARD: card.to_dict()}, "model.pth")
    card = card_of(read_checkpoint("model.pth"))

The card is plain text and numbers: `torch.load(weights_only=True)` reads it, and detectron2's
checkpointer takes it for one more entry. Its config is text from a file, which
`safe_config.read_model_config` checks before anything is built of it.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from detectron2.config import instantiate
from detectron2.data import transforms as T
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import co_detr
from co_detr.config_text import to_text

from .class_names import categories_of_config
from .pretrained import inner_nodes, without_pretrained
from .reading import MODEL_CARD, Checkpoint
from .safe_config import RELATIVE, UnsafeConfigError, read_model_config

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelCard:
    """What a checkpoint says of its model.

    Attributes:
        config: YAML of the model's lazy config, the node that a config file calls `model`; "" where
            it could not be written.
        no_config: why it could not be written; "" where it could.
        categories: id in the dataset, and name, of the classes 0, 1, ...; [] if they are unknown.
        image_format: "RGB" or "BGR", the order of channels that the model takes.
        min_size, max_size: pixels of the shorter side of a picture that is tested, and of the
            longer side at most; 0 for no resizing, None if the config does not say.
        mirrored: whether it was trained on pictures and their mirror images.
        co_detr, detectron2: version and origin of what wrote it.
    """

    config: str = ""
    no_config: str = ""
    categories: list[dict[str, Any]] = field(default_factory=list)
    image_format: str = "RGB"
    min_size: int | None = None
    max_size: int | None = None
    mirrored: bool = False
    co_detr: str = ""
    detectron2: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The card as text, numbers, lists and dicts."""
        return asdict(self)

    def to_metadata(self) -> dict[str, str]:
        """The card as metadata of a safetensors file, which is text by text."""
        return {MODEL_CARD: json.dumps(self.to_dict())}


def describe(cfg: DictConfig, categories: Sequence[Mapping[str, Any]] | None = None) -> ModelCard:
    """The card of a config's model.

    Args:
        cfg: a whole lazy config; only "model" is needed.
        categories: id and name of the classes 0, 1, ...; None for those of the dataset that the
            config trains on. They are left out if the model has another number of classes.
    """
    config, no_config = "", ""
    try:
        config = model_text(cfg.model)
        read_model_config(config, "this config")
    except UnsafeConfigError as error:  # one's own modules: the text is of use to people at least
        logger.info(f"Checkpoints will need --config-file to be used: the model {error.reason}")
    except (ValueError, OmegaConfBaseException) as error:
        no_config = str(error)
        logger.warning(
            f"Checkpoints will not carry the model's config, and need --config-file to be used: "
            f"{no_config}"
        )
    if categories is None:
        categories = categories_of_config(cfg) or ()
    fitting = len(categories) == cfg.model.get("num_classes", len(categories))
    min_size, max_size = test_resize(cfg)
    return ModelCard(
        config,
        no_config,
        [{"id": c["id"], "name": str(c["name"])} for c in categories] if fitting else [],
        cfg.model.get("image_format", "RGB"),
        min_size,
        max_size,
        trains_mirrored(cfg),
        co_detr.__version__,
        co_detr.detectron2_origin().partition(" (")[0],  # the folder is nobody else's business
    )


def card_of(checkpoint: Checkpoint) -> ModelCard | None:
    """The card in a checkpoint; None if it has none.

    Raises:
        ValueError: what is there is no card, or one with other values than a card has.
    """
    content = checkpoint.rest.get(MODEL_CARD)
    if content is None:
        return None
    try:
        if not isinstance(content, Mapping):
            raise TypeError(f"it is a {type(content).__name__}")
        known = {name: content[name] for name in ModelCard.__dataclass_fields__ if name in content}
        card = ModelCard(**known)
        _check(card)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{checkpoint.path}: its {MODEL_CARD} cannot be read ({error}): give the config it was "
            "trained with, as config_file=... or --config-file"
        ) from error
    return card


def model_text(model: DictConfig) -> str:
    """YAML of a model's config that stands alone and reads no weights when it is built.

    Interpolations within the model stay, so that a number which many parts share is still changed
    in one place. Those that lead out of it are replaced by what they stand for.

    Raises:
        ValueError: a value cannot be written as text; names its key.
        OmegaConfBaseException: an interpolation leads nowhere.
    """
    model = without_pretrained(model)
    _resolve_outward(model, depth=1)
    return to_text(model)


def test_resize(cfg: DictConfig) -> tuple[int | None, int | None]:
    """Shorter side, and longer one at most, of the pictures that a config tests on, in pixels.

    0 and 0 if they are not resized, None and None if the config does not say.
    """
    augmentations = _augmentations(cfg, "test")
    if augmentations is None:
        return None, None
    for augmentation in augmentations:
        if isinstance(augmentation, T.ResizeShortestEdge):
            return min(augmentation.short_edge_length), int(augmentation.max_size)
    return 0, 0


def trains_mirrored(cfg: DictConfig) -> bool:
    """Whether a config trains on pictures and their mirror images."""
    augmentations = _augmentations(cfg, "train") or ()
    return any(
        isinstance(augmentation, T.RandomFlip) and augmentation.horizontal
        for augmentation in augmentations
    )


def _augmentations(cfg: DictConfig, split: str) -> list[Any] | None:
    path = f"dataloader.{split}.mapper.augmentations"
    described = OmegaConf.select(cfg, path, throw_on_resolution_failure=False)
    if described is None:
        return None
    augmentations = instantiate(described)
    if isinstance(augmentations, T.AugmentationList):
        augmentations = augmentations.augs
    return list(augmentations)


def _resolve_outward(node: DictConfig | ListConfig, depth: int) -> None:
    """Replace interpolations that lead out of the tree in which `node` is `depth` levels deep."""
    for key, inner in inner_nodes(node):
        value = inner._value()
        if isinstance(value, str) and "${" in value:
            relative = RELATIVE.fullmatch(value)
            if relative is None or len(relative[1]) > depth:
                resolved = node[key]
                plain = OmegaConf.is_config(resolved)
                node[key] = OmegaConf.to_container(resolved, resolve=True) if plain else resolved
        elif isinstance(inner, DictConfig | ListConfig) and isinstance(value, dict | list):
            _resolve_outward(inner, depth + 1)


def _check(card: ModelCard) -> None:
    """Raise ValueError where a card from a file holds what a card does not."""
    for name in ("config", "no_config", "image_format", "co_detr", "detectron2"):
        if not isinstance(getattr(card, name), str):
            raise ValueError(f"{name} is {getattr(card, name)!r} and no text")
    if not isinstance(card.mirrored, bool):
        raise ValueError(f"mirrored is {card.mirrored!r} and neither true nor false")
    for name in ("min_size", "max_size"):
        value = getattr(card, name)
        if value is not None and (not isinstance(value, int) or value < 0):
            raise ValueError(f"{name} is {value!r} and no number of pixels")
    if card.image_format not in ("RGB", "BGR"):
        raise ValueError(f"image_format is {card.image_format!r}, neither RGB nor BGR")
    if not isinstance(card.categories, list):
        raise ValueError(f"categories are {type(card.categories).__name__} and no list")
    for category in card.categories:
        if not isinstance(category, Mapping) or not isinstance(category["name"], str):
            raise ValueError(f"a category is {category!r}, without id and name")
        if not isinstance(category["id"], int):
            raise ValueError(f"the id of the category {category!r} is no number")

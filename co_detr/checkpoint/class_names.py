"""What the classes of weights and datasets are called."""

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig, OmegaConf

logger = logging.getLogger(__name__)

# Of released weights, which do not carry names once they are converted.
_DATASETS_BY_NUMBER = {
    80: ("coco_2017_val", "coco_2017_train"),
    365: ("objects365_v2_val", "objects365_v2_train"),
    1203: ("lvis_v1_val", "lvis_v1_train"),
}
# "0: person", "1,bicycle", "2) car"; with a space alone only where all lines count on from 0 or 1
_NUMBERED = re.compile(r"(\d+)\s*[:=;,.)\t]\s*(.+)")
_COUNTED = re.compile(r"(\d+)\s+(.+)")


def same(name: str) -> str:
    """What two spellings of one class have in common: "Dining_Table" is "dining table"."""
    return " ".join(re.split(r"[\s_\-]+", name.casefold().strip()))


def read_names(path: str | Path) -> list[str]:
    """Read the names of classes, in order, from a file as people write them.

    Read are lines of names, also numbered ("0: person") or in one line with commas; comments (#),
    blank lines and quotes do not count. JSON: `categories` in COCO format, by id; a list of names;
    names by number or numbers by name. YAML with `names`, as YOLO has it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: there are no names in it, or one is there twice.
    """
    file = Path(os.path.expanduser(path))
    if not file.is_file():
        raise FileNotFoundError(f"no file of class names at {path} (looked for in {os.getcwd()})")
    try:
        text = _decoded(file)
        if file.suffix.lower() in (".yaml", ".yml") or text.lstrip()[:1] in ("{", "["):
            names = _from_tree(yaml.safe_load(text.replace("\t", " ")))  # JSON is YAML
        else:
            names = _from_lines(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text ({error}): save it as UTF-8") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is neither JSON nor YAML: {error}") from error
    if not names:
        raise ValueError(
            f"{path} holds no class names: write one per line, or give a COCO-format json or a "
            "YAML with `names`"
        )
    twice = [name for name, count in Counter(map(same, names)).items() if count > 1]
    if twice:
        raise ValueError(
            f"{path} has the class names {', '.join(twice)} more than once, so that it cannot be "
            "said which row is meant: give each class its own name"
        )
    return names


def known_by_number(count: int) -> tuple[str, ...] | None:
    """The names of the dataset of released weights with so many classes; None if there is none."""
    import co_detr.data  # noqa: F401  registers Objects365

    for name in _DATASETS_BY_NUMBER.get(count, ()):
        names = classes_of_dataset(name)
        if names is not None and len(names) == count:
            return names
    return None


def classes_of_config(cfg: DictConfig, split: str = "train") -> tuple[str, ...] | None:
    """What a config's dataset for "train" or "test" calls its classes; None if that is unknown."""
    categories = categories_of_config(cfg, split)
    return None if categories is None else _names(categories)


def categories_of_config(cfg: DictConfig, split: str = "train") -> list[dict[str, Any]] | None:
    """As `categories_of_dataset`, of a config's dataset for "train" or "test"."""
    names = OmegaConf.select(cfg, f"dataloader.{split}.dataset.names", default=None)
    first = names if isinstance(names, str) or not names else names[0]
    return categories_of_dataset(first) if first else None


def classes_of_dataset(name: str) -> tuple[str, ...] | None:
    """The names of the classes of a registered dataset, in the order in which a model sees them;
    None as for `categories_of_dataset`."""
    categories = categories_of_dataset(name)
    return None if categories is None else _names(categories)


def categories_of_dataset(name: str) -> list[dict[str, Any]] | None:
    """Id and name of the classes of a registered dataset, in the order in which a model sees them.

    They come from its metadata or, where it has not been loaded yet, from its annotation file;
    None if neither has them.
    """
    if name not in DatasetCatalog.list():
        return None
    metadata = MetadataCatalog.get(name)
    if metadata.get("thing_classes") is not None:
        ids = metadata.get("thing_dataset_id_to_contiguous_id")
        known = ids is not None and len(ids) == len(metadata.thing_classes)
        ids = sorted(ids, key=ids.get) if known else range(len(metadata.thing_classes))
        return [{"id": i, "name": str(name)} for i, name in zip(ids, metadata.thing_classes)]
    json_file = metadata.get("json_file")
    if json_file is None or not PathManager.isfile(json_file):
        return None
    with open(PathManager.get_local_path(json_file), encoding="utf-8-sig") as file:
        try:
            categories = json.load(file)["categories"]
            if metadata.get("evaluator_type") == "lvis":  # as detectron2 calls them
                categories = [
                    c | {"name": (c.get("synonyms") or [c["name"]])[0]} for c in categories
                ]
            categories = sorted(categories, key=lambda category: int(category["id"]))
            return [{"id": int(c["id"]), "name": str(c["name"])} for c in categories]
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            return None  # the check of the dataset says what is wrong


def named_categories(
    names: Sequence[str], known: Sequence[dict[str, Any]] | None
) -> list[dict[str, Any]]:
    """Id and name of classes of these names: the ids of `known` where all of them are there, else
    0, 1, ..."""
    ids = {same(category["name"]): category["id"] for category in known or ()}
    all_known = all(same(name) in ids for name in names)
    return [
        {"id": ids[same(name)] if all_known else number, "name": name}
        for number, name in enumerate(names)
    ]


def _names(categories: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(category["name"] for category in categories)


def _decoded(file: Path) -> str:
    content = file.read_bytes()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin1")


def _from_tree(tree: Any) -> list[str]:
    """Names from parsed JSON or YAML; [] if there are none."""
    if isinstance(tree, dict):
        for key in ("categories", "names", "id2label", "classes", "thing_classes", "CLASSES"):
            if isinstance(tree.get(key), list | dict):
                return _from_tree(tree[key])
        try:
            if all(isinstance(value, int) for value in tree.values()):
                return [str(key) for key, _ in sorted(tree.items(), key=lambda item: item[1])]
            return [str(tree[key]) for key in sorted(tree, key=int)]
        except (TypeError, ValueError):
            return []
    if isinstance(tree, list):
        if tree and all(isinstance(entry, dict) and "name" in entry for entry in tree):
            return _from_categories(tree)
        return [str(entry).strip() for entry in tree if not isinstance(entry, dict | list)]
    return []


def _from_categories(categories: Sequence[dict]) -> list[str]:
    """Names in the order of the ids; in that of the file where these are no numbers."""
    try:
        categories = sorted(categories, key=lambda category: int(category["id"]))
    except (KeyError, OverflowError, TypeError, ValueError):
        pass
    return [str(category["name"]) for category in categories]


def _from_lines(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if len(lines) == 1 and "," in lines[0]:
        lines = lines[0].strip("()").split(",")
    lines = [line.strip().rstrip(",").strip() for line in lines]
    return [_unquoted(line) for line in _without_numbers(lines) if _unquoted(line)]


def _without_numbers(lines: list[str]) -> list[str]:
    """Numbered lines in the order of their numbers; others as they are."""
    for pattern, counted in ((_NUMBERED, False), (_COUNTED, True)):
        found = [match for line in lines if (match := pattern.fullmatch(line))]
        if not lines or len(found) < len(lines):
            continue
        numbers = [int(match[1]) for match in found]
        counts_on = numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        if len(set(numbers)) == len(numbers) and (not counted or counts_on and numbers[0] < 2):
            return [match[2] for _, match in sorted(zip(numbers, found), key=lambda p: p[0])]
    return lines


def _unquoted(text: str) -> str:
    return text.strip().strip("\"'").strip()

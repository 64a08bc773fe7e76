"""The data sets that a config names."""

import json
from pathlib import Path

from detectron2.data import MetadataCatalog
from omegaconf import OmegaConf

from co_detr.arguments import load_config
from co_detr.data.dataset import check_files, check_registered

from .split import Split


def splits_of_config(file: Path) -> tuple[str, list[Split]]:
    """The format, in words, and the splits that a config trains and validates on.

    Raises:
        KeyError, FileNotFoundError: a data set is not registered, or not there.
        ValueError: none is read from a COCO file, or such a file is no JSON.
    """
    cfg, _ = load_config(str(file))
    splits = []
    for split, key in (("train", "train"), ("val", "test")):
        names = OmegaConf.select(cfg, f"dataloader.{key}.dataset.names") or []
        for name in [names] if isinstance(names, str) else names:
            check_registered(name)
            check_files(name)
            metadata = MetadataCatalog.get(name)
            if metadata.get("evaluator_type") != "coco" or metadata.get("json_file") is None:
                continue
            path = Path(metadata.json_file)
            try:
                content = json.loads(path.read_bytes())
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"{name}: {path} is no JSON file ({error}): fetch or export it again"
                ) from error
            root = Path(metadata.image_root)
            splits.append(Split(split, path, root, content, is_coco=True))
    if not splits:
        raise ValueError(f"{file} names no data in COCO format: give the folder of the data")
    return "COCO", splits

"""What is checked before the first step: the datasets of a config, their pictures, each other.

A fault that only evaluation would meet ends a training hours after its start; one that nothing
meets, classes in another order, spoils it in silence.
"""

import logging
import os
import pickle
from collections.abc import Callable, Sequence
from pydoc import locate
from typing import Any
from urllib.parse import unquote

from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf

from .dataset import (
    check_files,
    check_num_classes,
    check_registered,
    check_same_classes,
    load_dataset,
    read_dataset,
    trainable,
)
from .pictures import UnreadablePicture, picture_size

logger = logging.getLogger(__name__)

SAMPLE = 50  # pictures of a dataset whose size is compared with the annotations


def settle_validation(cfg: DictConfig) -> None:
    """Switch evaluation off, in place, where there is nothing to evaluate on; log it.

    That is where `dataloader.test` is None or is missing, or where its dataset has None for names:
    then predictors still know from it how to resize pictures.
    """
    none = (None, "None")  # a text if it comes from a command line
    if cfg.dataloader.get("test") in none:
        cfg.dataloader.test = cfg.dataloader.evaluator = None
    elif OmegaConf.select(cfg, "dataloader.test.dataset.names", default="other") in none:
        cfg.dataloader.test.dataset.names = cfg.dataloader.evaluator = None
    if cfg.dataloader.get("evaluator") is None:
        logger.info(
            "no dataset in dataloader.test, or no dataloader.evaluator: nothing is evaluated, and "
            "there will be no best checkpoint"
        )


def check_datasets(cfg: DictConfig, splits: Sequence[str]) -> None:
    """Check the datasets of a config that are read by name; called on all ranks.

    All pictures have to be there, those of a sample have the annotated size, and all datasets have
    the same classes. A picture that cannot be read is left to who reads it, unless none can.

    Args:
        cfg: with `dataloader.<split>.dataset`.
        splits: of "train" and "test".

    Raises:
        KeyError: a dataset is not registered.
        FileNotFoundError: an annotation file, a folder or a picture is missing.
        ValueError: annotations are wrong, or datasets do not suit each other or the model.
        OSError: no picture of the sample can be read.
    """
    if cfg.dataloader.get("evaluator") is None:
        splits = [split for split in splits if split != "test"]  # nobody will read it
    datasets = {split: OmegaConf.select(cfg, f"dataloader.{split}.dataset") for split in splits}
    datasets = {split: node for split, node in datasets.items() if _names(node)}
    for node in datasets.values():
        for name in _names(node):
            check_registered(name)
            check_files(name)
    read = [node for node in datasets.values() if _is_load_dataset(node)]
    on_main_process(lambda: _check_content(read))


def on_main_process(check: Callable[[], Any]) -> None:
    """Call a function on the main process; what it raises is raised on all, so that none waits."""
    error: Exception | None = None
    if comm.is_main_process():
        try:
            check()
        except Exception as raised:
            error = raised
    shared = comm.all_gather(None if error is None else _sendable(error))[0]
    if shared is not None:
        raise error or shared


def _sendable(error: Exception) -> Exception:
    """An error to raise in another process; one with arguments of its own may not get there."""
    try:
        return pickle.loads(pickle.dumps(error))  # without its traceback
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def check_pictures_exist(records: Sequence[dict], name: str) -> None:
    """Raise FileNotFoundError with the first names unless all pictures are there.

    Each folder is listed once, which is faster than to look for each picture.
    """
    listings: dict[str, set[str]] = {}
    missing = []
    for record in records:
        path = record.get("file_name")
        if path is None or "://" in path:
            continue
        path = os.path.expanduser(path)
        folder, file = os.path.split(path)
        if folder not in listings:
            listings[folder] = (
                set(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else set()
            )
        # some file systems know a file by other spellings than they list
        if file not in listings[folder] and not os.path.isfile(path):
            missing.append(path)
    if not missing:
        return
    raise FileNotFoundError(
        f"{name}: {len(missing)} of {len(records)} pictures are missing: {', '.join(missing[:3])}"
        f"{', ...' if len(missing) > 3 else ''}. {_other_spelling(missing[0])}Fetch them, or "
        "remove their entries from the annotation file"
    )


def check_picture_sizes(records: Sequence[dict], name: str, sample: int = SAMPLE) -> None:
    """Compare the sizes of a sample of pictures, evenly spaced, with those of their records.

    Raises:
        ValueError: a picture that can be read has another size.
        OSError: none can be read.
    """
    known = [r for r in records if "file_name" in r and "height" in r and "width" in r]
    known = [r for r in known if "://" not in r["file_name"]]
    chosen = known[:: -(-len(known) // sample)] if known else []
    wrong, unreadable = [], []
    for record in chosen:
        try:
            size = picture_size(record["file_name"])
        except UnreadablePicture as error:
            unreadable.append(error)
            continue
        if size != (record["height"], record["width"]):
            wrong.append((record, size))
    if chosen and len(unreadable) == len(chosen):
        raise OSError(
            f"{name}: none of {len(chosen)} pictures looked at can be read, as with the first: "
            f"{unreadable[0]}"
        )
    if not wrong:
        return
    record, (height, width) = wrong[0]
    annotated = record["height"], record["width"]
    if (width, height) == annotated:
        remedy = (
            "The picture lies on its side, as an annotation tool sees it that ignores its EXIF "
            "orientation: where boxes are drawn that way, remove the orientation from the "
            "pictures; else correct height and width"
        )
    else:
        remedy = (
            "Boxes are in pixels of the annotated size: use the pictures that were annotated, or "
            "correct height and width, and the boxes if they do not fit"
        )
    raise ValueError(
        f"{name}: {len(wrong)} of {len(chosen)} pictures looked at have another size than "
        f"annotated: {record['file_name']} is {height} high and {width} wide, annotated are "
        f"{annotated[0]} and {annotated[1]}. {remedy}"
    )


def _check_content(datasets: Sequence[DictConfig]) -> None:
    names = [name for node in datasets for name in _names(node)]
    for node in datasets:
        together = []
        for name in _names(node):
            records = read_dataset(name, node.get("num_classes"))
            # before their number, which differs where classes are missing
            check_same_classes(names[0], name)
            check_num_classes(name, node.get("num_classes"))
            check_pictures_exist(records, name)
            check_picture_sizes(records, name)
            together += records
        if node.get("is_train", True):
            trainable(together, ", ".join(_names(node)), masks=node.get("masks", False))


def _names(dataset: Any) -> list[str]:
    """The registered names that a dataset's config asks for, if any."""
    names = dataset.get("names") if isinstance(dataset, DictConfig) else None
    return [names] if isinstance(names, str) else list(names or ())


def _is_load_dataset(dataset: DictConfig) -> bool:
    target = dataset.get("_target_")
    return (locate(target) if isinstance(target, str) else target) is load_dataset


def _other_spelling(path: str) -> str:
    """A hint, where a path leads to a file in another spelling."""
    for what, other in (
        ("separators of Windows", path.replace("\\", "/")),
        ("characters as in URLs", unquote(path)),
    ):
        if other != path and os.path.isfile(other):
            return f"There is {other}: the annotation file has {what} in its names. "
    return ""
